package vfs

import "golang.org/x/sys/unix"

// SetDirect switches f to direct I/O, past the page cache, and reports whether it could: memory and disk must
// support it (tmpfs and in-memory files do not). From then on the address and length of each buffer and the
// offset of each write must be multiples of DirectAlign.
//
// Content written once and perhaps never read soon has no business in the page cache: filling it costs more
// processor time than all checksums together, and takes the memory from what is read often.
func SetDirect(f File) bool { return setDirect(f, true) }

// ClearDirect switches f back to the page cache and reports whether it could. Some file systems take the switch and
// refuse the writes (EINVAL, nothing written).
func ClearDirect(f File) bool { return setDirect(f, false) }

func setDirect(f File, on bool) bool {
	fd := f.Fd()
	if fd == InvalidFd {
		return false
	}
	flags, err := unix.FcntlInt(fd, unix.F_GETFL, 0)
	if err != nil {
		return false
	}
	if on {
		flags |= unix.O_DIRECT
	} else {
		flags &^= unix.O_DIRECT
	}
	_, err = unix.FcntlInt(fd, unix.F_SETFL, flags)
	return err == nil
}
