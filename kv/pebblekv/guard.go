package pebblekv

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/sstable"
	"github.com/cockroachdb/pebble/v2/sstable/blob"
	pvfs "github.com/cockroachdb/pebble/v2/vfs"

	"firn"
	"firn/vfs"
)

// guardFS stands between Pebble and the file system, and keeps from Pebble the errors it has no good answer to. Those
// of the write-ahead log make it panic in a way that cannot be recovered from. So do, in Pebble v2.1.7, those that a
// file of separated values meets at its end (cockroachdb/pebble#6128, fixed after it). A failed sync of a directory it
// would try again, and a second try may succeed though names are lost. Here each of them marks the DB failed and parks
// the goroutine, so that nothing is written any more and every caller is told.
type guardFS struct {
	vfs.FS
	d *DB
	// armed is set once Pebble is open: until then errors go their way.
	armed atomic.Bool
	// retries counts the failures of background work since some of it went well.
	retries atomic.Int64
	// replaying is the log that was opened last for reading.
	replaying atomic.Pointer[string]
}

// check passes err on, or never returns.
func (g *guardFS) check(op, name string, err error) error {
	if err == nil || !g.armed.Load() {
		return err
	}
	g.d.fail(fmt.Errorf("%s %s: %w", op, name, err))
	select {}
}

// Waits between attempts of background work that fails. Pebble itself tries again at once, for ever.
const (
	firstRetry = 50 * time.Millisecond
	lastRetry  = 5 * time.Second
)

// backgroundFailed is told of each failure of background work.
func (g *guardFS) backgroundFailed(err error) {
	g.retries.Add(1)
	if !g.armed.Load() {
		// Pebble flushes what it replayed before it is open, and would never get there.
		g.d.fail(err)
		select {}
	}
}

// backgroundDone is told of the end of each flush and compaction.
func (g *guardFS) backgroundDone(err error) {
	if err == nil {
		g.retries.Store(0)
	}
}

// backOff waits before background work is tried again: the first thing it does is to make a table.
func (g *guardFS) backOff() {
	n := g.retries.Load()
	if n == 0 {
		return
	}
	wait := time.NewTimer(min(firstRetry<<min(n-1, 10), lastRetry))
	defer wait.Stop()
	select {
	case <-wait.C:
	case <-g.d.calls.closing:
	case <-g.d.failed:
	}
}

// guarded reports whether the errors of a file are fatal: a write-ahead log, or a file of separated values.
func guarded(name string) bool {
	return strings.HasSuffix(name, ".log") || strings.HasSuffix(name, ".blob")
}

// Create implements vfs.FS.
func (g *guardFS) Create(name string, c vfs.WriteCategory) (vfs.File, error) {
	if strings.HasSuffix(name, ".sst") || strings.HasSuffix(name, ".blob") {
		g.backOff()
	}
	f, err := g.FS.Create(name, c)
	if !guarded(name) {
		return f, err
	}
	if err := g.check("create", name, err); err != nil {
		return nil, err
	}
	if strings.HasSuffix(name, ".blob") {
		// Values are written twice, to the log and here; this time nobody waits for them, and few are read soon.
		f = vfs.NewDirectWriter(f)
	}
	return &guardFile{File: f, g: g, name: name}, nil
}

// Open implements vfs.FS.
func (g *guardFS) Open(name string, opts ...pvfs.OpenOption) (vfs.File, error) {
	if strings.HasSuffix(name, ".log") {
		g.replaying.Store(&name)
	}
	f, err := g.FS.Open(name, opts...)
	if err == nil && strings.HasSuffix(name, ".blob") {
		if err = checkBlobFile(f); err != nil {
			return nil, errors.Join(err, f.Close())
		}
	}
	return f, err
}

// checkBlobFile reads the end of a file of separated values as Pebble is about to. Where Pebble (v2.1.7) itself finds it
// damaged it panics, in a compaction so that the process ends: DB.reportCorruption does not know what to do without the
// file's metadata, which findOrCreateBlob does not have. The error is not marked as a corruption of Pebble's for that.
func checkBlobFile(f vfs.File) error {
	r, err := sstable.NewSimpleReadable(f)
	if err != nil {
		return err
	}
	if _, err = blob.NewFileReader(context.Background(), r, blob.FileReaderOptions{}); pebble.IsCorruptionError(err) {
		return firn.NewError(firn.Corrupt, err.Error())
	}
	return err
}

// ReuseForWrite implements vfs.FS.
func (g *guardFS) ReuseForWrite(oldname, newname string, c vfs.WriteCategory) (vfs.File, error) {
	f, err := g.FS.ReuseForWrite(oldname, newname, c)
	if !guarded(newname) {
		return f, err
	}
	if err := g.check("reuse", newname, err); err != nil {
		return nil, err
	}
	return &guardFile{File: f, g: g, name: newname}, nil
}

// OpenDir implements vfs.FS.
func (g *guardFS) OpenDir(name string) (vfs.File, error) {
	f, err := g.FS.OpenDir(name)
	if err != nil {
		return nil, err
	}
	return &guardFile{File: f, g: g, name: name}, nil
}

// Unwrap implements vfs.FS.
func (g *guardFS) Unwrap() pvfs.FS { return g.FS }

// guardFile is a guarded file, or a directory.
type guardFile struct {
	vfs.File
	g    *guardFS
	name string
}

// Write implements vfs.File.
func (f *guardFile) Write(p []byte) (int, error) {
	n, err := f.File.Write(p)
	return n, f.g.check("write", f.name, err)
}

// Sync implements vfs.File.
func (f *guardFile) Sync() error { return f.g.check("sync", f.name, f.File.Sync()) }

// SyncData implements vfs.File.
func (f *guardFile) SyncData() error { return f.g.check("sync", f.name, f.File.SyncData()) }

// SyncTo implements vfs.File.
func (f *guardFile) SyncTo(n int64) (bool, error) {
	full, err := f.File.SyncTo(n)
	return full, f.g.check("sync", f.name, err)
}

// Close implements vfs.File.
func (f *guardFile) Close() error { return f.g.check("close", f.name, f.File.Close()) }
