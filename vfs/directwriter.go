package vfs

import (
	"sync"
	"unsafe"
)

// directChunk is the size of the writes of a DirectWriter: large enough that a disk reaches its rate with one at a time.
const directChunk = 512 << 10

var directBuffers = sync.Pool{New: func() any {
	b := make([]byte, directChunk+DirectAlign)
	off := -int(uintptr(unsafe.Pointer(&b[0]))) & (DirectAlign - 1)
	return (*[directChunk]byte)(b[off:])
}}

// DirectWriter is a new, empty file that is written from its start to its end, past the page cache. Writes are
// gathered; what does not fill a whole chunk goes through the page cache when the file is synced or closed.
type DirectWriter struct {
	File
	buf *[directChunk]byte // nil where the rest goes through the page cache
	n   int                // bytes gathered
	err error              // the first error of a gathered write, which every later call returns
}

// NewDirectWriter returns f as a DirectWriter, or f itself where direct I/O is not to be had.
func NewDirectWriter(f File) File {
	if !SetDirect(f) {
		return f
	}
	return &DirectWriter{File: f, buf: directBuffers.Get().(*[directChunk]byte)}
}

// Write implements File.
func (w *DirectWriter) Write(p []byte) (int, error) {
	if w.err != nil {
		return 0, w.err
	}
	written := 0
	for w.buf != nil && len(p) > 0 {
		k := copy(w.buf[w.n:], p)
		w.n += k
		p = p[k:]
		written += k
		if w.n == directChunk {
			if w.err = w.writeChunk(); w.err != nil {
				return written, w.err
			}
		}
	}
	if len(p) == 0 {
		return written, nil
	}
	n, err := w.File.Write(p)
	w.err = err
	return written + n, err
}

// writeChunk writes the full buffer. Some file systems take the switch to direct I/O and refuse the first write.
func (w *DirectWriter) writeChunk() error {
	n, err := w.File.Write(w.buf[:w.n])
	if n == 0 && err != nil && ClearDirect(w.File) {
		return w.flush()
	}
	w.n = 0
	return err
}

// flush writes what is gathered, and leaves the rest of the file to the page cache.
func (w *DirectWriter) flush() error {
	if w.err != nil || w.buf == nil {
		return w.err
	}
	b, n := w.buf, w.n
	w.buf, w.n = nil, 0
	if whole := n &^ (DirectAlign - 1); whole > 0 {
		if m, err := w.File.Write(b[:whole]); err != nil {
			if m > 0 || !ClearDirect(w.File) {
				w.err = err
			} else {
				_, w.err = w.File.Write(b[:whole])
			}
		}
		if w.err == nil {
			copy(b[:], b[whole:n])
			n -= whole
		}
	}
	if w.err == nil && n > 0 {
		ClearDirect(w.File)
		_, w.err = w.File.Write(b[:n])
	}
	ClearDirect(w.File)
	directBuffers.Put(b)
	return w.err
}

// Sync implements File.
func (w *DirectWriter) Sync() error {
	if err := w.flush(); err != nil {
		return err
	}
	return w.File.Sync()
}

// SyncData implements File.
func (w *DirectWriter) SyncData() error {
	if err := w.flush(); err != nil {
		return err
	}
	return w.File.SyncData()
}

// SyncTo implements File. What was written is on its way to the disk already; what is gathered waits.
func (w *DirectWriter) SyncTo(int64) (bool, error) { return false, w.err }

// Close implements File.
func (w *DirectWriter) Close() error {
	err := w.flush()
	if e := w.File.Close(); err == nil {
		err = e
	}
	return err
}
