// Package cryptfs is a file system whose files are encrypted: each with AES-256-CTR under a key of its own, which is
// derived from the file system's key and a random salt at the file's start.
//
// It promises that no byte of a file's content reaches the file system below in the clear, and that a key stream is used
// once: files are written from their start to their end, and a file that is to be used again is made anew. After a crash
// a file has what was synced and may have any of what was not, as on the file system below, but that a page that was
// lost between others reads as noise, not as zeros. It hides contents, not names, sizes or times, and it does not find
// changes: who writes files checks them. It must never import a package above vfs and seal. The format is described in
// docs/format/encryption.md.
package cryptfs

import (
	"crypto/aes"
	"crypto/cipher"
	"encoding/binary"
	"errors"
	"io"
	"sync"

	pebblevfs "github.com/cockroachdb/pebble/v2/vfs"

	"firn"
	"firn/seal"
	"firn/vfs"
)

// A file that is not empty begins with a header: the magic, the version, 7 zero bytes, the salt, 16 bytes by which a
// wrong key is told, and zero bytes to its end. It is a page long, so that pages of content are pages of the file.
const (
	headerSize = 4096
	magic      = "firnCRYP"
	version    = 1
	saltAt     = 16
	checkAt    = saltAt + seal.SaltSize
	checkSize  = 16

	fileLabel  = "firn file 1"
	checkLabel = "firn file check 1"
)

// Errors of files.
var (
	errWrongKey = firn.NewError(firn.Denied, "the file was encrypted with another key")
	errNotFile  = firn.NewError(firn.Corrupt, "the file does not begin as an encrypted file does")
	errVersion  = firn.NewError(firn.Unsupported, "the file was encrypted by a later release")
	errRewrite  = firn.NewError(firn.Unsupported, "an encrypted file is written once, from its start to its end")
)

// FS is the encrypted file system. All methods may be called concurrently.
type FS struct {
	vfs.FS
	key seal.Key
}

// New returns the file system over inner. All of its files were written through one with the same key.
func New(inner vfs.FS, key seal.Key) *FS { return &FS{FS: inner, key: key} }

// Unwrap implements vfs.FS.
func (s *FS) Unwrap() vfs.FS { return s.FS }

// Create implements vfs.FS.
func (s *FS) Create(name string, c vfs.WriteCategory) (vfs.File, error) {
	f, err := s.FS.Create(name, c)
	if err != nil {
		return nil, err
	}
	salt := seal.NewSalt()
	// The engine reads its log after a crash as far as it got, synced or not. Were the salt lost and what follows it
	// kept, nobody could tell that from damage to what was synced. Nothing names a part file before it was synced whole.
	return &file{File: f, block: s.cipher(salt[:]), head: s.header(salt), ahead: c != vfs.CategoryPart, writer: true}, nil
}

// ReuseForWrite implements vfs.FS. The old content is removed, not written over: under the same key stream both would
// tell of each other.
func (s *FS) ReuseForWrite(oldname, newname string, c vfs.WriteCategory) (vfs.File, error) {
	if err := s.FS.Remove(oldname); err != nil {
		return nil, err
	}
	return s.Create(newname, c)
}

// OpenReadWrite implements vfs.FS for files that are not there yet or empty.
func (s *FS) OpenReadWrite(name string, c vfs.WriteCategory, _ ...pebblevfs.OpenOption) (vfs.File, error) {
	if fi, err := s.FS.Stat(name); err == nil && fi.Size() > 0 {
		return nil, firn.E("open", name, errRewrite)
	}
	return s.Create(name, c)
}

// Open implements vfs.FS.
func (s *FS) Open(name string, opts ...pebblevfs.OpenOption) (vfs.File, error) {
	f, err := s.FS.Open(name, opts...)
	if err != nil {
		return nil, err
	}
	e, err := s.open(f)
	if err != nil {
		_ = f.Close() // read only
		return nil, firn.E("open", name, err)
	}
	return e, nil
}

func (s *FS) open(f vfs.File) (vfs.File, error) {
	fi, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if fi.IsDir() {
		return f, nil
	}
	var head [checkAt + checkSize]byte
	n, err := f.ReadAt(head[:], 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	if fi.Size() < headerSize || n < len(head) {
		// Cut off while its first page was written, before anything was synced.
		return &file{File: f}, nil
	}
	salt := [seal.SaltSize]byte(head[saltAt:])
	want := s.header(salt)
	switch {
	case string(head[:8]) != magic:
		return nil, errNotFile
	case head[8] != version:
		return nil, errVersion
	case string(head[:]) != string(want[:len(head)]):
		return nil, errWrongKey
	}
	return &file{File: f, block: s.cipher(salt[:])}, nil
}

// Stat implements vfs.FS.
func (s *FS) Stat(name string) (vfs.FileInfo, error) {
	fi, err := s.FS.Stat(name)
	if err != nil || fi.IsDir() {
		return fi, err
	}
	return info{fi}, nil
}

// info is a file's description without its header.
type info struct{ vfs.FileInfo }

func (i info) Size() int64 { return max(0, i.FileInfo.Size()-headerSize) }

func (s *FS) cipher(salt []byte) cipher.Block {
	k := s.key.Derive(fileLabel, salt)
	b, err := aes.NewCipher(k[:])
	if err != nil {
		panic(err) // only for a key that is not 16, 24 or 32 bytes long
	}
	return b
}

func (s *FS) header(salt [seal.SaltSize]byte) []byte {
	h := make([]byte, headerSize)
	copy(h, magic)
	h[8] = version
	copy(h[saltAt:], salt[:])
	check := s.key.Derive(checkLabel, salt[:])
	copy(h[checkAt:], check[:checkSize])
	return h
}

// file is an open file. As for every vfs.File, one goroutine writes; any number read at offsets.
type file struct {
	vfs.File
	block  cipher.Block // nil for a file without content
	head   []byte       // to be written before the first byte
	ahead  bool         // the head is synced before that
	failed error        // of the head: what came after it would have no salt
	writer bool
	pos    int64 // of the next Read or Write
}

// begin writes the head and syncs it, where the first byte is not to come before that.
func (f *file) begin() error {
	if !f.ahead || len(f.head) == 0 || f.failed != nil {
		return f.failed
	}
	n, err := f.File.Write(f.head)
	if err == nil && n < len(f.head) {
		err = io.ErrShortWrite
	}
	if err == nil {
		err = f.File.Sync()
	}
	f.head, f.failed = nil, err
	return err
}

// stream returns the key stream from a position of the content.
func (f *file) stream(off int64) cipher.Stream {
	var iv [aes.BlockSize]byte
	binary.BigEndian.PutUint64(iv[8:], uint64(off/aes.BlockSize))
	s := cipher.NewCTR(f.block, iv[:])
	if skip := off % aes.BlockSize; skip > 0 {
		var p [aes.BlockSize]byte
		s.XORKeyStream(p[:skip], p[:skip])
	}
	return s
}

// chunk is the number of bytes encrypted at a time.
const chunk = 256 << 10

var chunks = sync.Pool{New: func() any { return new([headerSize + chunk]byte) }}

// Write implements vfs.File.
func (f *file) Write(p []byte) (int, error) {
	if !f.writer {
		return 0, errRewrite
	}
	if err := f.begin(); err != nil {
		return 0, err
	}
	buf, _ := chunks.Get().(*[headerSize + chunk]byte)
	defer chunks.Put(buf)
	s := f.stream(f.pos)
	written := 0
	for len(p) > 0 {
		n := min(len(p), chunk)
		h := copy(buf[:], f.head)
		s.XORKeyStream(buf[h:h+n], p[:n])
		k, err := f.File.Write(buf[:h+n])
		if err == nil && k < h+n {
			err = io.ErrShortWrite
		}
		f.head = f.head[min(k, h):]
		k = max(0, k-h)
		f.pos += int64(k)
		written += k
		if err != nil {
			return written, err
		}
		p = p[n:]
	}
	return written, nil
}

// WriteAt implements vfs.File.
func (*file) WriteAt([]byte, int64) (int, error) { return 0, errRewrite }

// Read implements vfs.File.
func (f *file) Read(p []byte) (int, error) {
	n, err := f.ReadAt(p, f.pos)
	f.pos += int64(n)
	if n > 0 && errors.Is(err, io.EOF) {
		err = nil
	}
	return n, err
}

// ReadAt implements vfs.File.
func (f *file) ReadAt(p []byte, off int64) (int, error) {
	if f.block == nil {
		if len(p) == 0 {
			return 0, nil
		}
		return 0, io.EOF
	}
	n, err := f.File.ReadAt(p, headerSize+off)
	if n > 0 {
		f.stream(off).XORKeyStream(p[:n], p[:n])
	}
	return n, err
}

// Stat implements vfs.File.
func (f *file) Stat() (vfs.FileInfo, error) {
	fi, err := f.File.Stat()
	if err != nil {
		return nil, err
	}
	return info{fi}, nil
}

// Preallocate implements vfs.File.
func (f *file) Preallocate(off, length int64) error {
	// The file's start is the header's.
	return f.File.Preallocate(off+headerSize, length)
}

// Prefetch implements vfs.File.
func (f *file) Prefetch(off, length int64) error { return f.File.Prefetch(off+headerSize, length) }

// SyncTo implements vfs.File.
func (f *file) SyncTo(length int64) (bool, error) { return f.File.SyncTo(length + headerSize) }

// Fd implements vfs.File: what goes past this file would not be encrypted.
func (*file) Fd() uintptr { return vfs.InvalidFd }
