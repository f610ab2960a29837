package scan

import (
	"bytes"
	"fmt"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"firn/archive/tree"
)

// at is fstatat.
func (m *Meta) at(dirfd int, name string, flags int) error {
	var st unix.Stat_t
	for {
		err := unix.Fstatat(dirfd, name, &st, flags)
		if err == unix.EINTR {
			continue
		}
		if err == nil {
			m.set(&st)
		}
		return err
	}
}

// Stat sets m to what the system says of an open file.
func (m *Meta) Stat(fd int) error { return m.of(fd) }

func (m *Meta) of(fd int) error {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	m.set(&st)
	return nil
}

func (m *Meta) set(st *unix.Stat_t) {
	*m = Meta{
		Mode: st.Mode, UID: st.Uid, GID: st.Gid,
		Mtime: tree.Time{Sec: st.Mtim.Sec, Nsec: uint32(st.Mtim.Nsec)},
		Ctime: tree.Time{Sec: st.Ctim.Sec, Nsec: uint32(st.Ctim.Nsec)},
		Inode: st.Ino, Device: uint64(st.Dev), Links: uint64(st.Nlink), Rdev: uint64(st.Rdev),
		Size: st.Size, Blocks: st.Blocks,
	}
}

// openAt is openat, with O_NOATIME where the caller owns the file.
func openAt(dirfd int, name string, flags int) (int, error) {
	noatime := unix.O_NOATIME
	for {
		fd, err := unix.Openat(dirfd, name, flags|noatime|unix.O_CLOEXEC, 0)
		switch {
		case err == unix.EINTR:
		case err == unix.EPERM && noatime != 0:
			noatime = 0
		default:
			return fd, err
		}
	}
}

// At sets m to what the system says of name in an open directory, a symbolic link itself.
func (m *Meta) At(dirfd int, name string) error { return m.at(dirfd, name, unix.AT_SYMLINK_NOFOLLOW) }

// Readlink returns what the entry, a symbolic link, leads to.
func (e *Entry) Readlink() (string, error) { return ReadlinkAt(e.Dir.fd, e.Name()) }

// ReadlinkAt returns what name in an open directory leads to.
func ReadlinkAt(dirfd int, name string) (string, error) {
	for size := 256; ; size *= 4 {
		buf := make([]byte, size)
		n, err := unix.Readlinkat(dirfd, name, buf)
		if err != nil {
			return "", err
		}
		if n < size {
			return string(buf[:n]), nil
		}
	}
}

// maxXattrs bounds the extended attributes of one file together, in bytes.
const maxXattrs = 1 << 20

// Xattrs returns the extended attributes of an entry that is not open: access control lists and capabilities among
// them. A file system without them has none.
func Xattrs(e *Entry) ([]tree.Xattr, error) {
	path := "/" + e.Path
	if len(path) >= unix.PathMax {
		path = fmt.Sprintf("/proc/self/fd/%d/%s", e.Dir.fd, e.Name())
	}
	return XattrsAt(path)
}

// XattrsAt returns the extended attributes of what is at path, a symbolic link itself.
func XattrsAt(path string) ([]tree.Xattr, error) {
	return xattrs(
		func(buf []byte) (int, error) { return unix.Llistxattr(path, buf) },
		func(name string, buf []byte) (int, error) { return unix.Lgetxattr(path, name, buf) },
	)
}

// XattrsOf returns the extended attributes of an open file.
func XattrsOf(fd int) ([]tree.Xattr, error) {
	return xattrs(
		func(buf []byte) (int, error) { return unix.Flistxattr(fd, buf) },
		func(name string, buf []byte) (int, error) { return unix.Fgetxattr(fd, name, buf) },
	)
}

func xattrs(list func([]byte) (int, error), get func(string, []byte) (int, error)) ([]tree.Xattr, error) {
	var small [512]byte
	p, err := growing(small[:], list)
	if err == unix.EOPNOTSUPP || err == unix.ENOSYS || len(p) == 0 && err == nil {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var all []tree.Xattr
	total := 0
	names := strings.Split(strings.TrimSuffix(string(p), "\x00"), "\x00")
	slices.Sort(names)
	for _, name := range names {
		v, err := growing(nil, func(buf []byte) (int, error) { return get(name, buf) })
		switch err {
		case nil:
		case unix.ENODATA, unix.EOPNOTSUPP:
			continue // gone since, or one that is listed and cannot be read
		default:
			return all, err
		}
		if total += len(name) + len(v); total > maxXattrs {
			return all, unix.E2BIG
		}
		all = append(all, tree.Xattr{Name: name, Value: bytes.Clone(v)})
	}
	return all, nil
}

// growing calls fn with larger and larger buffers until its result fits.
func growing(buf []byte, fn func([]byte) (int, error)) ([]byte, error) {
	for {
		n, err := fn(buf)
		// An empty buffer asks for the size.
		if err == nil && (len(buf) > 0 || n == 0) {
			return buf[:n], nil
		}
		if err != nil && err != unix.ERANGE {
			return nil, err
		}
		size := max(2*len(buf), n, 256)
		if size > 4*maxXattrs {
			return nil, unix.E2BIG
		}
		buf = make([]byte, size)
	}
}

// OpenIn opens a file of an open directory for reading, without following it where it is a symbolic link, or waiting
// where it is a FIFO.
func OpenIn(d *Directory, name string) (int, error) {
	return openAt(d.fd, name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK)
}
