package archive

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"

	"firn/archive/scan"
	"firn/archive/tree"
)

// openBeneath opens path, relative to the directory root, and follows no symbolic link on the way: whoever plants one in
// a target gets an error, not a write elsewhere.
func openBeneath(root int, path string, flags int, mode uint32) (int, error) {
	how := unix.OpenHow{
		Flags: uint64(flags | unix.O_CLOEXEC | unix.O_NOFOLLOW), Mode: uint64(mode),
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS,
	}
	if len(path) < unix.PathMax {
		for {
			fd, err := unix.Openat2(root, path, &how)
			switch err {
			case unix.EINTR, unix.EAGAIN: // EAGAIN: something on the way was renamed just then
				continue
			case unix.ENOSYS, unix.EPERM: // an old kernel, or a filter of system calls
			default:
				return fd, err
			}
			break
		}
	}
	at := root
	for {
		name, rest, more := strings.Cut(path, "/")
		if name == "" || name == "." || name == ".." {
			return -1, unix.EINVAL
		}
		var fd int
		var err error
		if more {
			fd, err = openDirAt(at, name)
		} else {
			fd, err = unix.Openat(at, name, flags|unix.O_CLOEXEC|unix.O_NOFOLLOW, mode)
		}
		if at != root {
			_ = unix.Close(at) // only used to go on from
		}
		if err != nil || !more {
			return fd, err
		}
		at, path = fd, rest
	}
}

// openDirAt opens a directory that is no symbolic link.
func openDirAt(dirfd int, name string) (int, error) {
	for {
		fd, err := unix.Openat(dirfd, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		if err != unix.EINTR {
			return fd, err
		}
	}
}

// removeTree removes name and all that is beneath it, and returns how many entries that were. It follows no symbolic
// link.
func removeTree(ctx context.Context, dirfd int, name string) (int64, error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	err := unix.Unlinkat(dirfd, name, 0)
	if err == nil {
		return 1, nil
	}
	if !errors.Is(err, unix.EISDIR) && !errors.Is(err, unix.EPERM) {
		return 0, err
	}
	fd, err := openDirAt(dirfd, name)
	if err != nil {
		return 0, err
	}
	defer unix.Close(fd)
	names, err := scan.Names(fd)
	if err != nil {
		return 0, err
	}
	var count int64
	for _, n := range names {
		k, err := removeTree(ctx, fd, n)
		count += k
		if err != nil {
			return count, err
		}
	}
	if err := unix.Unlinkat(dirfd, name, unix.AT_REMOVEDIR); err != nil {
		return count, err
	}
	return count + 1, nil
}

func timespec(t tree.Time) unix.Timespec { return unix.Timespec{Sec: t.Sec, Nsec: int64(t.Nsec)} }

// utimes sets the modification time of name in dirfd.
func utimes(dirfd int, name string, t tree.Time) error {
	ts := []unix.Timespec{{Nsec: unix.UTIME_OMIT}, timespec(t)}
	return unix.UtimesNanoAt(dirfd, name, ts, unix.AT_SYMLINK_NOFOLLOW)
}

func procPath(fd int) string { return fmt.Sprintf("/proc/self/fd/%d", fd) }

// futimens sets the modification time of an open file.
func futimens(fd int, t tree.Time) error {
	ts := [2]unix.Timespec{{Nsec: unix.UTIME_OMIT}, timespec(t)}
	// The system call takes no path for the file itself, which the wrapper in x/sys does not offer.
	_, _, errno := unix.Syscall6(unix.SYS_UTIMENSAT, uintptr(fd), 0, uintptr(unsafe.Pointer(&ts)), 0, 0, 0)
	if errno != 0 {
		return errno
	}
	return nil
}

// metaFd gives an open file or directory the owner, attributes, mode and times of n. In that order: a change of owner
// takes away setuid bits and capabilities, and all but the time change the time.
func (t *restore) metaFd(fd int, n *tree.Node, fresh bool) error {
	if t.owner {
		if err := unix.Fchown(fd, int(n.UID), int(n.GID)); err != nil {
			return err
		}
	}
	// The mode before the access control list, which says more; it changes the mode's group bits no further.
	if err := unix.Fchmod(fd, n.Mode); err != nil {
		return err
	}
	t.xattrs(n, xattrCalls{
		list:   func() ([]tree.Xattr, error) { return scan.XattrsOf(fd) },
		set:    func(name string, v []byte) error { return unix.Fsetxattr(fd, name, v, 0) },
		remove: func(name string) error { return unix.Fremovexattr(fd, name) },
	}, fresh)
	return futimens(fd, n.Mtime)
}

// metaAt is metaFd for what cannot be opened: links and special files.
func (t *restore) metaAt(dirfd int, name string, n *tree.Node) error {
	if t.owner {
		if err := unix.Fchownat(dirfd, name, int(n.UID), int(n.GID), unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return err
		}
	}
	path := procPath(dirfd) + "/" + name
	if n.Type != tree.Symlink {
		if err := chmodAt(dirfd, name, n.Mode); err != nil {
			return err
		}
	}
	t.xattrs(n, xattrCalls{
		list:   func() ([]tree.Xattr, error) { return scan.XattrsAt(path) },
		set:    func(name string, v []byte) error { return unix.Lsetxattr(path, name, v, 0) },
		remove: func(name string) error { return unix.Lremovexattr(path, name) },
	}, false)
	return utimes(dirfd, name, n.Mtime)
}

// chmodAt changes the mode of what is no symbolic link, even if somebody puts one there just now.
func chmodAt(dirfd int, name string, mode uint32) error {
	err := unix.Fchmodat(dirfd, name, mode, unix.AT_SYMLINK_NOFOLLOW)
	if !errors.Is(err, unix.EOPNOTSUPP) && !errors.Is(err, unix.ENOSYS) {
		return err
	}
	fd, err := unix.Openat(dirfd, name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return unix.Chmod(procPath(fd), mode)
}

type xattrCalls struct {
	list   func() ([]tree.Xattr, error)
	set    func(name string, value []byte) error
	remove func(name string) error
}

// xattrs sets the extended attributes of n and removes others. What cannot be set is told and is no failure: a file
// system or a user may not be able to.
func (t *restore) xattrs(n *tree.Node, c xattrCalls, fresh bool) {
	if fresh && len(n.Xattrs) == 0 {
		return
	}
	have, err := c.list()
	if err != nil {
		have = nil
	}
	value := make(map[string]string, len(have))
	for _, x := range have {
		value[x.Name] = string(x.Value)
	}
	for _, x := range n.Xattrs {
		v, ok := value[x.Name]
		delete(value, x.Name)
		if ok && v == string(x.Value) {
			continue
		}
		if err := c.set(x.Name, x.Value); err != nil {
			t.warn(n, fmt.Errorf("extended attribute %s: %w", x.Name, err))
		}
	}
	for name := range value {
		if strings.HasPrefix(name, "security.") && name != "security.capability" {
			continue // labels that the system gives
		}
		if err := c.remove(name); err != nil && !errors.Is(err, unix.ENODATA) {
			t.warn(n, fmt.Errorf("extended attribute %s cannot be removed: %w", name, err))
		}
	}
}

// openParent opens the directory that holds rel.
func openParent(root int, rel string) (fd int, name string, release func(), err error) {
	dir, name := filepath.Split(rel)
	if dir == "" {
		return root, name, func() {}, nil
	}
	fd, err = openBeneath(root, strings.TrimSuffix(dir, "/"), unix.O_RDONLY|unix.O_DIRECTORY, 0)
	return fd, name, func() { _ = unix.Close(fd) }, err
}
