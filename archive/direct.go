package archive

import (
	"fmt"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Direct I/O: filling the page cache with what nobody reads soon costs more processor time than checking and
// decompressing it, and drives out what the machine's services read.
const (
	directAlign = 4096
	directFrom  = 256 << 10 // below this the pages at both ends are too large a part
	directPiece = 1 << 20
)

var directBuffers = sync.Pool{New: func() any {
	b := make([]byte, directPiece+directAlign)
	off := -int(uintptr(unsafe.Pointer(&b[0]))) & (directAlign - 1)
	return (*[directPiece]byte)(b[off:])
}}

// pwrite writes p at offset at, whole pages of much past the page cache where the file system can do that.
func pwrite(fd int, p []byte, at int64) error {
	head := int(-at & (directAlign - 1))
	if len(p) < directFrom || head > len(p) {
		return pwriteAll(fd, p, at)
	}
	d, err := unix.Open(fmt.Sprintf("/proc/self/fd/%d", fd), unix.O_WRONLY|unix.O_DIRECT|unix.O_CLOEXEC, 0)
	if err != nil {
		return pwriteAll(fd, p, at)
	}
	defer unix.Close(d)
	if err := pwriteAll(fd, p[:head], at); err != nil {
		return err
	}
	p, at = p[head:], at+int64(head)
	buf := directBuffers.Get().(*[directPiece]byte)
	defer directBuffers.Put(buf)
	for len(p) >= directAlign {
		n := copy(buf[:], p[:len(p)&^(directAlign-1)])
		k, err := unix.Pwrite(d, buf[:n], at)
		if err == unix.EINTR {
			continue
		}
		if err != nil || k < n {
			// Refused, or cut short: what stands in the way of the page cache too is its error.
			break
		}
		p, at = p[n:], at+int64(n)
	}
	return pwriteAll(fd, p, at)
}

func pwriteAll(fd int, p []byte, at int64) error {
	for len(p) > 0 {
		n, err := unix.Pwrite(fd, p, at)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return err
		}
		p, at = p[n:], at+int64(n)
	}
	return nil
}
