package fileblob

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"sync"
	"syscall"
	"time"

	"firn"
	"firn/blob"
	"firn/blob/driver"
	"firn/blob/layout"
	"firn/vfs"
)

const (
	// writeSize is the length of a write of a large blob.
	writeSize = 1 << 20
	// directSize is from which size on a blob is written past the page cache.
	directSize = 256 << 10
)

// buffers are for large writes. Allocations of this size are aligned to pages, as direct I/O wants.
var buffers = sync.Pool{New: func() any { return new([writeSize]byte) }}

// temp is a file that is complete, but for its name.
type temp struct {
	path string
	f    vfs.File // open while it is not synced, else nil
	info vfs.FileInfo
}

// Put implements driver.Driver.
func (d *Driver) Put(ctx context.Context, key string, src driver.Source) error {
	return d.put(ctx, key, src, false)
}

// Create implements driver.Creator: a hard link to a complete file, which the file system refuses where the name is
// taken, on NFS too.
func (d *Driver) Create(ctx context.Context, key string, src driver.Source) error {
	return d.put(ctx, key, src, true)
}

func (d *Driver) put(ctx context.Context, key string, src driver.Source, create bool) error {
	t, err := d.writeAny(ctx, src, true)
	if err == nil {
		err = d.publish(t, key, create)
	}
	return wrap(err)
}

// Stage implements driver.Stager: it writes the content, and leaves it to the commit to sync it and give it its name. On a
// network file system, where syncing can fail in ways that only a second put mends, Stage puts the blob.
func (d *Driver) Stage(ctx context.Context, key string, src driver.Source) (func(context.Context) error, error) {
	if !d.local {
		return func(context.Context) error { return nil }, d.put(ctx, key, src, false)
	}
	t, err := d.writeAny(ctx, src, false)
	if err != nil {
		return nil, wrap(err)
	}
	return func(ctx context.Context) error {
		err := ctx.Err()
		if err != nil {
			_ = t.f.Close()
			_ = d.fs.Remove(t.path)
			return err
		}
		if err = d.sync(&t); err == nil {
			err = d.publish(t, key, false)
		}
		return wrap(err)
	}, nil
}

// writeAny writes the content of src to a new file, and syncs it if it is told to.
func (d *Driver) writeAny(ctx context.Context, src driver.Source, synced bool) (t temp, err error) {
	if err := d.start(ctx); err != nil {
		return t, err
	}
	err = d.inTemp(func() (err error) {
		t, err = d.writeTemp(ctx, src, synced)
		return err
	})
	return t, err
}

// inTemp runs fn, which makes a temporary file. The directory for them is made by Init and may be removed by hand; without
// it nothing is written into a mount point that has lost its mount.
func (d *Driver) inTemp(fn func() error) error {
	err := again(fn)
	if !isNotThere(err) {
		return err
	}
	if err := d.there(); err != nil {
		return err
	}
	if err := vfs.MkdirAllSync(d.fs, d.path(tempName), 0o777); err != nil {
		return err
	}
	return fn()
}

// publish gives t, which is synced, its name.
func (d *Driver) publish(t temp, key string, create bool) error {
	d.sweep(t.info.ModTime())
	path := d.file(key)
	err := d.place(t, path, create)
	if err == nil {
		err = again(func() error { return vfs.SyncDir(d.fs, d.fs.PathDir(path)) })
	}
	if create || err != nil {
		// What cannot be removed now is swept later.
		_ = d.fs.Remove(t.path)
	}
	return err
}

// writeTemp writes the content of src to a new file.
func (d *Driver) writeTemp(ctx context.Context, src driver.Source, synced bool) (t temp, err error) {
	var id [16]byte
	_, _ = rand.Read(id[:]) // never fails
	t.path = d.path(tempName + "/" + hex.EncodeToString(id[:]))
	if t.f, err = d.fs.Create(t.path, vfs.CategoryPart); err != nil {
		return temp{}, err
	}
	if err := write(ctx, t.f, src); err != nil {
		_ = t.f.Close()
		_ = d.fs.Remove(t.path)
		return temp{}, err
	}
	if synced {
		err = d.sync(&t)
	}
	return t, err
}

// sync makes the content of t durable, or removes it.
func (d *Driver) sync(t *temp) error {
	err := t.f.Sync()
	if err == nil {
		t.info, err = t.f.Stat()
	}
	// NFS may tell at close that something could not be written.
	if e := t.f.Close(); err == nil {
		err = e
	}
	t.f = nil
	if err != nil {
		_ = d.fs.Remove(t.path)
	}
	return err
}

func write(ctx context.Context, f vfs.File, src driver.Source) (err error) {
	r, err := blob.OpenExact(ctx, src)
	if err != nil {
		return err
	}
	defer func() {
		if e := r.Close(); err == nil {
			err = e
		}
	}()
	size := src.Size()
	w := writer{f: f, to: f}
	var buf []byte
	if size < directSize {
		buf = make([]byte, min(size+1, 64<<10))
	} else {
		pooled := buffers.Get().(*[writeSize]byte)
		defer buffers.Put(pooled)
		buf = pooled[:]
		w.direct = vfs.SetDirect(f)
	}
	var total int64
	for {
		n, err := io.ReadFull(r, buf)
		total += int64(n)
		if e := w.write(buf[:n]); e != nil {
			return e
		}
		switch {
		case err == nil:
		case total == size && (err == io.EOF || errors.Is(err, io.ErrUnexpectedEOF)):
			return nil
		default:
			return err
		}
	}
}

// writer writes whole blocks directly while it can, and what is no whole block through the page cache.
type writer struct {
	f      vfs.File
	to     io.Writer // f, or f at an offset
	direct bool
}

func (w *writer) write(p []byte) error {
	if w.direct && len(p)%vfs.DirectAlign != 0 {
		whole := len(p) / vfs.DirectAlign * vfs.DirectAlign
		if err := w.write(p[:whole]); err != nil {
			return err
		}
		p = p[whole:]
		if w.direct {
			vfs.ClearDirect(w.f)
			w.direct = false
		}
	}
	if len(p) == 0 {
		return nil
	}
	n, err := w.to.Write(p)
	if w.direct && n == 0 && errors.Is(err, syscall.EINVAL) && vfs.ClearDirect(w.f) {
		// The file system took the switch to direct I/O and refuses it now; nothing was written.
		w.direct = false
		n, err = w.to.Write(p)
	}
	if err == nil && n < len(p) {
		err = io.ErrShortWrite
	}
	return err
}

// placeTries bounds how often a name is tried that somebody else keeps changing.
const placeTries = 8

// place gives t its name.
func (d *Driver) place(t temp, path string, create bool) error {
	var err error
	for range placeTries {
		if err = d.makeDir(d.fs.PathDir(path)); err != nil {
			return err
		}
		if create {
			err = d.fs.Link(t.path, path)
		} else {
			err = d.fs.Rename(t.path, path)
		}
		if err == nil {
			return nil
		}
		// An NFS server that lost its answer does the same request again and then says that it cannot be done.
		fi, e := stat(d.fs, path)
		if e == nil && sameFile(fi, t.info) {
			return nil
		}
		switch {
		case e == nil && fi.IsDir():
			if err := d.removeEmpty(path); err != nil {
				return conflict(path)
			}
		case create && errors.Is(err, fs.ErrExist):
			return firn.NewError(firn.Exists, "it is there")
		case errors.Is(err, syscall.ENOTDIR):
			return conflict(d.fs.PathDir(path))
		case errors.Is(err, fs.ErrNotExist):
			if _, e := stat(d.fs, t.path); e != nil {
				return &firn.Error{Kind: firn.Unavailable, Err: fmt.Errorf("the temporary file has gone: %w", err)}
			}
			// Somebody removed the directory, which was empty.
			d.forgetDir(d.fs.PathDir(path))
		case create && unlinkable(err):
			return firn.NewError(firn.Unsupported, "this file system has no hard links, which creating a blob needs")
		default:
			return err
		}
	}
	return &firn.Error{Kind: firn.Unavailable, Err: err}
}

func unlinkable(err error) bool {
	return errors.Is(err, syscall.EPERM) || errors.Is(err, syscall.ENOTSUP) || errors.Is(err, syscall.ENOSYS) || errors.Is(err, syscall.EMLINK)
}

func conflict(path string) error {
	return firn.NewError(firn.Conflict, fmt.Sprintf("%s cannot be a file and a directory at once: another key stands against this one", path))
}

// makeDir makes a directory and its name durable, unless that is known.
func (d *Driver) makeDir(dir string) error {
	if dir == d.root || len(dir) <= len(d.root) {
		return nil
	}
	d.mu.Lock()
	_, ok := d.mu.dirs[dir]
	d.mu.Unlock()
	if ok {
		return nil
	}
	parent := d.fs.PathDir(dir)
	if err := d.makeDir(parent); err != nil {
		return err
	}
	err := again(func() error { return d.fs.MkdirAll(dir, 0o777) })
	if errors.Is(err, syscall.ENOTDIR) || errors.Is(err, fs.ErrExist) {
		return conflict(dir)
	}
	if err != nil {
		return err
	}
	// Also where it was there: whoever made it may not have come to this.
	if err := again(func() error { return vfs.SyncDir(d.fs, parent) }); err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.mu.dirs) >= maxDirs {
		clear(d.mu.dirs)
	}
	d.mu.dirs[dir] = struct{}{}
	return nil
}

// forgetDir forgets that a directory is durable, and those below it.
func (d *Driver) forgetDir(dir string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for known := range d.mu.dirs {
		if known == dir || len(known) > len(dir) && known[:len(dir)] == dir && known[len(dir)] == '/' {
			delete(d.mu.dirs, known)
		}
	}
}

// removeEmpty removes a directory in which there are only directories, as deletes leave them.
func (d *Driver) removeEmpty(dir string) error {
	names, err := d.fs.List(dir)
	if err != nil {
		return err
	}
	for _, name := range names {
		path := dir + "/" + name
		fi, err := stat(d.fs, path)
		if err != nil {
			return err
		}
		if !fi.IsDir() {
			return fs.ErrExist
		}
		if err := d.removeEmpty(path); err != nil {
			return err
		}
	}
	d.forgetDir(dir)
	return d.fs.Remove(dir)
}

// sweep removes the temporary files of writers that died, once a driver. Now is the time of a file just written, so
// that only the file system's clock counts.
func (d *Driver) sweep(now time.Time) {
	if d.swept.Swap(true) {
		return
	}
	names, err := d.fs.List(d.path(tempName))
	if err != nil {
		return // the next driver sweeps
	}
	for _, name := range names {
		path := d.path(tempName + "/" + name)
		if fi, err := d.fs.Stat(path); err == nil && layout.Stale(name, now.Sub(fi.ModTime())) {
			_ = d.fs.Remove(path)
		}
	}
}
