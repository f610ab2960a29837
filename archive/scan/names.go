package scan

import (
	"bytes"
	"encoding/binary"
	"slices"

	"golang.org/x/sys/unix"
)

// nameList is the names in a directory, packed: a million of them take some 25 MiB, not 100.
type nameList struct {
	buf  []byte   // for each name its type, its bytes, and a zero byte
	offs []uint32 // of the types
}

func (l *nameList) len() int { return len(l.offs) }

func (l *nameList) reset() { l.offs = l.offs[:0] }

func (l *nameList) add(name []byte, typ byte) {
	l.offs = append(l.offs, uint32(len(l.buf)))
	l.buf = append(l.buf, typ)
	l.buf = append(l.buf, name...)
	l.buf = append(l.buf, 0)
}

func (l *nameList) typ(i int) byte { return l.buf[l.offs[i]] }

func (l *nameList) bytes(i int) []byte { return l.at(l.offs[i]) }

func (l *nameList) at(off uint32) []byte {
	p := l.buf[off+1:]
	return p[:bytes.IndexByte(p, 0)]
}

func (l *nameList) name(i int) string { return string(l.bytes(i)) }

func (l *nameList) sort() {
	slices.SortFunc(l.offs, func(a, b uint32) int { return bytes.Compare(l.at(a), l.at(b)) })
}

// keep removes the names that fn does not want.
func (l *nameList) keep(fn func(name string, typ byte) bool) {
	kept := l.offs[:0]
	for i, off := range l.offs {
		if fn(l.name(i), l.typ(i)) {
			kept = append(kept, off)
		}
	}
	l.offs = kept
}

// maxNames bounds the names of one directory, in bytes: offsets are 32 bits wide.
const maxNames = 4<<30 - 1<<20

// read adds what the open directory holds. After an error it has what came before.
func (l *nameList) read(fd int) error {
	buf := make([]byte, 32<<10)
	for {
		n, err := unix.Getdents(fd, buf)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return err
		}
		if n == 0 {
			return nil
		}
		if len(l.buf) > maxNames {
			return unix.EFBIG
		}
		// struct linux_dirent64: inode 8, offset 8, length of the record 2, type 1, name with a zero byte.
		for p := buf[:n]; len(p) > 19; {
			length := int(binary.NativeEndian.Uint16(p[16:]))
			if length < 20 || length > len(p) {
				return unix.EIO
			}
			name := p[19:length]
			if i := bytes.IndexByte(name, 0); i >= 0 {
				name = name[:i]
			}
			if s := string(name); s != "." && s != ".." && s != "" {
				l.add(name, p[18])
			}
			p = p[length:]
		}
	}
}

// Names returns the names in an open directory, without "." and "..", in no particular order.
func Names(fd int) ([]string, error) {
	var l nameList
	err := l.read(fd)
	names := make([]string, l.len())
	for i := range names {
		names[i] = l.name(i)
	}
	return names, err
}
