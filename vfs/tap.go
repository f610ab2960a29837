package vfs

import (
	"fmt"
	"io"
	"io/fs"
	"sync/atomic"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// OpKind is a kind of file-system operation.
type OpKind uint8

// The operations a Tap sees. Those up to OpSyncDir change the file system.
const (
	OpCreate OpKind = iota
	OpLink
	OpRemove
	OpRemoveAll
	OpRename
	OpReuse // rename to To and open for writing
	OpMkdirAll
	OpWrite
	OpWriteAt
	OpPreallocate
	OpSync
	OpSyncData
	OpSyncTo
	OpSyncDir
	OpOpen
	OpRead
	OpReadAt
	OpList
	OpStat
)

var opNames = [...]string{
	"create", "link", "remove", "removeall", "rename", "reuse", "mkdir", "write", "writeat", "preallocate",
	"sync", "syncdata", "syncto", "syncdir", "open", "read", "readat", "list", "stat",
}

func (k OpKind) String() string {
	if int(k) < len(opNames) {
		return opNames[k]
	}
	return "unknown"
}

// Mutates reports whether operations of the kind change the file system.
func (k OpKind) Mutates() bool { return k <= OpSyncDir }

// Op is one operation.
type Op struct {
	Kind   OpKind
	Path   string
	To     string // second path of link, rename and reuse
	Offset int64  // of readat, writeat and preallocate
	Len    int64  // bytes asked for
	// Index numbers the mutating operations of one Tap from 1; it is 0 for the others.
	Index int64
}

func (o Op) String() string {
	switch {
	case o.To != "":
		return fmt.Sprintf("%s %s %s", o.Kind, o.Path, o.To)
	case o.Kind == OpWrite || o.Kind == OpSyncTo:
		return fmt.Sprintf("%s %s %d", o.Kind, o.Path, o.Len)
	case o.Kind == OpWriteAt || o.Kind == OpPreallocate || o.Kind == OpReadAt:
		return fmt.Sprintf("%s %s %d@%d", o.Kind, o.Path, o.Len, o.Offset)
	}
	return fmt.Sprintf("%s %s", o.Kind, o.Path)
}

// Fault is what a Tap does to one operation. The zero Fault lets it through.
type Fault struct {
	// Err is returned to the caller.
	Err error
	// Applied carries the operation out all the same: it failed, but it happened.
	Applied bool
	// Short is the number of bytes of a failing write that reach the file (a torn write).
	Short int
}

// Tap is a file system that shows every operation to its hooks. Hooks may be nil, are called on the goroutine of
// the operation and must allow concurrent calls.
type Tap struct {
	// Before may break an operation before it is done.
	Before func(Op) Fault
	// OnRead may change the bytes that a read returned.
	OnRead func(op Op, p []byte)
	// After is called after each operation with its outcome, fault included.
	After func(op Op, err error)

	inner FS
	index atomic.Int64
}

var _ FS = (*Tap)(nil)

// NewTap returns a Tap over inner. Set its hooks before its first use.
func NewTap(inner FS) *Tap { return &Tap{inner: inner} }

// do runs one operation through the hooks.
func (t *Tap) do(op Op, fn func() error) error {
	if op.Kind.Mutates() {
		op.Index = t.index.Add(1)
	}
	var f Fault
	if t.Before != nil {
		f = t.Before(op)
	}
	err := f.Err
	if err == nil || f.Applied {
		if e := fn(); e != nil {
			err = e
		}
	}
	if t.After != nil {
		t.After(op, err)
	}
	return err
}

// open runs an operation that returns a file; a file opened by a failing operation is closed.
func (t *Tap) open(op Op, name string, fn func() (File, error)) (File, error) {
	var f File
	err := t.do(op, func() (err error) {
		f, err = fn()
		return err
	})
	if err != nil {
		if f != nil {
			_ = f.Close()
		}
		return nil, err
	}
	return &tapFile{File: f, t: t, name: name, dir: op.Kind == OpOpen && op.Len < 0}, nil
}

// Create implements FS.
func (t *Tap) Create(name string, c WriteCategory) (File, error) {
	return t.open(Op{Kind: OpCreate, Path: name}, name, func() (File, error) { return t.inner.Create(name, c) })
}

// Link implements FS.
func (t *Tap) Link(oldname, newname string) error {
	return t.do(Op{Kind: OpLink, Path: oldname, To: newname}, func() error { return t.inner.Link(oldname, newname) })
}

// Open implements FS.
func (t *Tap) Open(name string, opts ...vfs.OpenOption) (File, error) {
	return t.open(Op{Kind: OpOpen, Path: name}, name, func() (File, error) { return t.inner.Open(name, opts...) })
}

// OpenReadWrite implements FS. It counts as a create, since it makes a file that is not there.
func (t *Tap) OpenReadWrite(name string, c WriteCategory, opts ...vfs.OpenOption) (File, error) {
	return t.open(Op{Kind: OpCreate, Path: name}, name, func() (File, error) {
		return t.inner.OpenReadWrite(name, c, opts...)
	})
}

// OpenDir implements FS.
func (t *Tap) OpenDir(name string) (File, error) {
	return t.open(Op{Kind: OpOpen, Path: name, Len: -1}, name, func() (File, error) { return t.inner.OpenDir(name) })
}

// Remove implements FS.
func (t *Tap) Remove(name string) error {
	return t.do(Op{Kind: OpRemove, Path: name}, func() error { return t.inner.Remove(name) })
}

// RemoveAll implements FS.
func (t *Tap) RemoveAll(name string) error {
	return t.do(Op{Kind: OpRemoveAll, Path: name}, func() error { return t.inner.RemoveAll(name) })
}

// Rename implements FS.
func (t *Tap) Rename(oldname, newname string) error {
	return t.do(Op{Kind: OpRename, Path: oldname, To: newname}, func() error {
		return t.inner.Rename(oldname, newname)
	})
}

// ReuseForWrite implements FS.
func (t *Tap) ReuseForWrite(oldname, newname string, c WriteCategory) (File, error) {
	return t.open(Op{Kind: OpReuse, Path: oldname, To: newname}, newname, func() (File, error) {
		return t.inner.ReuseForWrite(oldname, newname, c)
	})
}

// MkdirAll implements FS.
func (t *Tap) MkdirAll(dir string, perm fs.FileMode) error {
	return t.do(Op{Kind: OpMkdirAll, Path: dir}, func() error { return t.inner.MkdirAll(dir, perm) })
}

// Lock implements FS. Locks are not shown to the hooks.
func (t *Tap) Lock(name string) (io.Closer, error) { return t.inner.Lock(name) }

// List implements FS.
func (t *Tap) List(dir string) (names []string, err error) {
	err = t.do(Op{Kind: OpList, Path: dir}, func() (err error) {
		names, err = t.inner.List(dir)
		return err
	})
	return names, err
}

// Stat implements FS.
func (t *Tap) Stat(name string) (fi FileInfo, err error) {
	err = t.do(Op{Kind: OpStat, Path: name}, func() (err error) {
		fi, err = t.inner.Stat(name)
		return err
	})
	return fi, err
}

// PathBase implements FS.
func (t *Tap) PathBase(p string) string { return t.inner.PathBase(p) }

// PathJoin implements FS.
func (t *Tap) PathJoin(elem ...string) string { return t.inner.PathJoin(elem...) }

// PathDir implements FS.
func (t *Tap) PathDir(p string) string { return t.inner.PathDir(p) }

// GetDiskUsage implements FS.
func (t *Tap) GetDiskUsage(p string) (vfs.DiskUsage, error) { return t.inner.GetDiskUsage(p) }

// Unwrap implements FS.
func (t *Tap) Unwrap() FS { return t.inner }

type tapFile struct {
	File
	t    *Tap
	name string
	dir  bool
}

func (f *tapFile) write(kind OpKind, p []byte, off int64, fn func([]byte) (int, error)) (n int, err error) {
	op := Op{Kind: kind, Path: f.name, Offset: off, Len: int64(len(p)), Index: f.t.index.Add(1)}
	var fault Fault
	if f.t.Before != nil {
		fault = f.t.Before(op)
	}
	switch {
	case fault.Err == nil || fault.Applied:
		n, err = fn(p)
	case fault.Short > 0:
		n, err = fn(p[:min(fault.Short, len(p))])
	}
	if fault.Err != nil {
		err = fault.Err
	}
	if f.t.After != nil {
		f.t.After(op, err)
	}
	return n, err
}

func (f *tapFile) Write(p []byte) (int, error) { return f.write(OpWrite, p, 0, f.File.Write) }

func (f *tapFile) WriteAt(p []byte, off int64) (int, error) {
	return f.write(OpWriteAt, p, off, func(p []byte) (int, error) { return f.File.WriteAt(p, off) })
}

func (f *tapFile) read(kind OpKind, p []byte, off int64, fn func() (int, error)) (n int, err error) {
	op := Op{Kind: kind, Path: f.name, Offset: off, Len: int64(len(p))}
	err = f.t.do(op, func() (err error) {
		n, err = fn()
		return err
	})
	if n > 0 && f.t.OnRead != nil {
		f.t.OnRead(op, p[:n])
	}
	return n, err
}

func (f *tapFile) Read(p []byte) (int, error) {
	return f.read(OpRead, p, 0, func() (int, error) { return f.File.Read(p) })
}

func (f *tapFile) ReadAt(p []byte, off int64) (int, error) {
	return f.read(OpReadAt, p, off, func() (int, error) { return f.File.ReadAt(p, off) })
}

func (f *tapFile) Preallocate(off, length int64) error {
	return f.t.do(Op{Kind: OpPreallocate, Path: f.name, Offset: off, Len: length}, func() error {
		return f.File.Preallocate(off, length)
	})
}

func (f *tapFile) Sync() error {
	kind := OpSync
	if f.dir {
		kind = OpSyncDir
	}
	return f.t.do(Op{Kind: kind, Path: f.name}, f.File.Sync)
}

func (f *tapFile) SyncData() error {
	kind := OpSyncData
	if f.dir {
		kind = OpSyncDir
	}
	return f.t.do(Op{Kind: kind, Path: f.name}, f.File.SyncData)
}

func (f *tapFile) SyncTo(length int64) (full bool, err error) {
	err = f.t.do(Op{Kind: OpSyncTo, Path: f.name, Len: length}, func() (err error) {
		full, err = f.File.SyncTo(length)
		return err
	})
	return full, err
}
