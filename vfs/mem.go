package vfs

import (
	"bytes"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// MemFS is an in-memory FS. Pebble's, but for one thing: that one scrambles the slices given to Write when the race
// detector is on, which catches bugs in Pebble and breaks what io.Writer promises to everybody else.
type MemFS struct{ *vfs.MemFS }

var _ FS = (*MemFS)(nil)

// NewMem returns an in-memory file system without crash clones.
func NewMem() *MemFS { return &MemFS{vfs.NewMem()} }

// NewCrashableMem returns an in-memory file system that can be cloned by CrashClone.
func NewCrashableMem() *MemFS { return &MemFS{vfs.NewCrashableMem()} }

// CrashClone returns what m would hold after a power loss now: only synced file contents under synced names.
func CrashClone(m *MemFS) *MemFS { return &MemFS{m.MemFS.CrashClone(vfs.CrashCloneCfg{})} }

// Create implements FS.
func (m *MemFS) Create(name string, c WriteCategory) (File, error) {
	return wrapMem(m.MemFS.Create(name, c))
}

// OpenReadWrite implements FS.
func (m *MemFS) OpenReadWrite(name string, c WriteCategory, opts ...vfs.OpenOption) (File, error) {
	return wrapMem(m.MemFS.OpenReadWrite(name, c, opts...))
}

// ReuseForWrite implements FS.
func (m *MemFS) ReuseForWrite(oldname, newname string, c WriteCategory) (File, error) {
	return wrapMem(m.MemFS.ReuseForWrite(oldname, newname, c))
}

func wrapMem(f File, err error) (File, error) {
	if err != nil {
		return nil, err
	}
	return memFile{f}, nil
}

type memFile struct{ File }

// Write implements io.Writer and leaves p alone.
func (f memFile) Write(p []byte) (int, error) { return f.File.Write(bytes.Clone(p)) }
