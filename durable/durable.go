// Package durable makes names and small files survive a power loss.
//
// It owns the order of writes and syncs that does so: contents before names, names before anybody is told. It
// promises that a nil error means stable storage, and that a sync that failed is never tried again as if nothing had
// been lost. It must never import a package above vfs.
package durable

import (
	"errors"
	"io"
	"io/fs"
	"sync"

	"firn"
	"firn/vfs"
)

// WriteFile replaces the file name with data, atomically: after a crash it holds the old contents or the new ones.
// Beside it a file of the same name with ".tmp" is used. Two calls for one name must not run at once.
func WriteFile(fsys vfs.FS, name string, data []byte) (err error) {
	tmp := name + ".tmp"
	defer func() {
		if err != nil {
			err = firn.E("write file", name, errors.Join(err, ignoreMissing(fsys.Remove(tmp))))
		}
	}()
	f, err := fsys.Create(tmp, vfs.CategoryState)
	if err != nil {
		return err
	}
	if _, err = f.Write(data); err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err = fsys.Rename(tmp, name); err != nil {
		return err
	}
	return vfs.SyncDir(fsys, fsys.PathDir(name))
}

// ReadFile returns the contents of a file of up to limit bytes.
func ReadFile(fsys vfs.FS, name string, limit int64) ([]byte, error) {
	f, err := fsys.Open(name)
	if err != nil {
		return nil, firn.E("read file", name, mapMissing(err))
	}
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	err = errors.Join(err, f.Close())
	if err == nil && int64(len(data)) > limit {
		err = firn.NewError(firn.Corrupt, "file is larger than it can be")
	}
	if err != nil {
		return nil, firn.E("read file", name, err)
	}
	return data, nil
}

func mapMissing(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return &firn.Error{Kind: firn.NotFound, Err: err}
	}
	return err
}

func ignoreMissing(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// DirSyncer syncs directories for many goroutines: those that ask for one directory while a sync of it runs share the
// next. All methods may be called concurrently.
type DirSyncer struct {
	fsys vfs.FS
	mu   struct {
		sync.Mutex
		dirs map[string]*dirState
		// failed keeps the directories whose sync failed: the names it should have kept may be lost, whatever a
		// later sync says.
		failed map[string]error
	}
}

// dirState exists while somebody syncs or waits for a directory.
type dirState struct {
	running bool
	next    *dirRound // those who wait for the next sync; nil where nobody does
}

// dirRound is one sync and those who share it.
type dirRound struct {
	done chan struct{}
	err  error // valid once done is closed
}

// NewDirSyncer returns a DirSyncer for the directories of fsys.
func NewDirSyncer(fsys vfs.FS) *DirSyncer {
	s := &DirSyncer{fsys: fsys}
	s.mu.dirs = map[string]*dirState{}
	s.mu.failed = map[string]error{}
	return s
}

// Sync makes all names durable that were in dir when it was called. After a sync failed every later Sync of that
// directory returns its error too.
func (s *DirSyncer) Sync(dir string) error {
	s.mu.Lock()
	if err := s.mu.failed[dir]; err != nil {
		s.mu.Unlock()
		return err
	}
	d := s.mu.dirs[dir]
	if d == nil {
		d = &dirState{}
		s.mu.dirs[dir] = d
	}
	if d.running {
		// The sync that runs may have begun before our name was there.
		r := d.next
		if r == nil {
			r = &dirRound{done: make(chan struct{})}
			d.next = r
		}
		s.mu.Unlock()
		<-r.done
		return r.err
	}
	d.running = true
	s.mu.Unlock()
	err := s.sync(dir)
	s.handOver(dir, d, err)
	return err
}

// handOver ends the running sync and starts the next on a goroutine of its own, which ends when nobody waits.
func (s *DirSyncer) handOver(dir string, d *dirState, err error) {
	s.mu.Lock()
	if errors.As(err, new(*syncError)) {
		s.mu.failed[dir] = err
	}
	r := d.next
	d.next = nil
	if r == nil {
		d.running = false
		delete(s.mu.dirs, dir)
		s.mu.Unlock()
		return
	}
	s.mu.Unlock()
	go func() {
		r.err = err
		if err == nil {
			r.err = s.sync(dir)
		}
		close(r.done)
		s.handOver(dir, d, r.err)
	}()
}

// syncError is the failure of a sync itself, not of finding the directory.
type syncError struct{ err error }

func (e *syncError) Error() string { return e.err.Error() }

func (e *syncError) Unwrap() error { return e.err }

func (s *DirSyncer) sync(dir string) error {
	d, err := s.fsys.OpenDir(dir)
	if err != nil {
		return firn.E("sync directory", dir, mapMissing(err))
	}
	if err = d.Sync(); err != nil {
		err = firn.E("sync directory", dir, &syncError{err})
	}
	// The error of a close after a sync tells nothing about the directory.
	_ = d.Close()
	return err
}
