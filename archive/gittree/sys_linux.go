package gittree

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// noFollow opens no symbolic link, and does not wait for the writer of a pipe.
const noFollow = unix.O_NOFOLLOW | unix.O_NONBLOCK

// identity is the file behind a name, and how many names it has.
func identity(info fs.FileInfo) (device, inode, links uint64) {
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return 0, 0, 1
	}
	return st.Dev, st.Ino, uint64(st.Nlink)
}

func changeTime(info fs.FileInfo) time.Time {
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return time.Time{}
	}
	return time.Unix(st.Ctim.Unix())
}

func owner(info fs.FileInfo) (uid, gid int, device uint64) {
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return 0, 0, 0
	}
	return int(st.Uid), int(st.Gid), st.Rdev
}

// readXattrs reads the extended attributes of the name itself.
func readXattrs(path string) (map[string][]byte, error) {
	size, err := unix.Llistxattr(path, nil)
	if errors.Is(err, unix.ENOTSUP) || errors.Is(err, unix.ENOENT) || err == nil && size == 0 {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	names := make([]byte, size+4096)
	if size, err = unix.Llistxattr(path, names); err != nil {
		return nil, err
	}
	all := map[string][]byte{}
	for name := range bytes.SplitSeq(bytes.TrimSuffix(names[:size], []byte{0}), []byte{0}) {
		value := make([]byte, 64<<10) // the largest that Linux has
		n, err := unix.Lgetxattr(path, string(name), value)
		if errors.Is(err, unix.ENODATA) || errors.Is(err, unix.ENOENT) {
			continue
		}
		if err != nil {
			return nil, err
		}
		all[string(name)] = bytes.Clone(value[:n])
	}
	return all, nil
}

// setXattrs sets them on the name itself.
func setXattrs(path string, all map[string][]byte) error {
	for name, value := range all {
		if err := unix.Lsetxattr(path, name, value, 0); err != nil {
			return &os.PathError{Op: "setxattr " + name, Path: path, Err: err}
		}
	}
	return nil
}

// setLinkTime sets the time of a symbolic link itself.
func setTime(path string, t time.Time) error {
	ts := unix.NsecToTimespec(t.UnixNano())
	return unix.UtimesNanoAt(unix.AT_FDCWD, path, []unix.Timespec{ts, ts}, unix.AT_SYMLINK_NOFOLLOW)
}

// makeSpecial makes a pipe or a device.
func makeSpecial(path, kind string, device uint64) error {
	mode := map[string]uint32{"fifo": unix.S_IFIFO, "char": unix.S_IFCHR, "block": unix.S_IFBLK}[kind]
	return unix.Mknod(path, mode|0o600, int(device))
}

// syncAll makes everything on the file system of dir durable.
func syncAll(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return unix.Syncfs(int(d.Fd()))
}

func isNoSpace(err error) bool { return errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) }

func isIO(err error) bool { return errors.Is(err, unix.EIO) || errors.Is(err, unix.ELOOP) }
