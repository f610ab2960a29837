package fileblob

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync/atomic"
	"syscall"

	"golang.org/x/sync/errgroup"

	"firn"
	"firn/blob/driver"
	"firn/blob/layout"
	"firn/vfs"
)

// readSize is the most that is read between two looks at the context.
const readSize = 1 << 20

// Get implements driver.Driver.
func (d *Driver) Get(ctx context.Context, key string, offset, length int64) (io.ReadCloser, error) {
	if err := d.start(ctx); err != nil {
		return nil, err
	}
	if offset < 0 || length < -1 {
		return nil, invalid(fmt.Sprintf("no range: %d bytes from %d", length, offset))
	}
	r := &reader{ctx: ctx, d: d, path: d.file(key), at: offset}
	err := d.look(r.path, func() (err error) {
		r.f, r.info, err = d.openFile(r.path)
		return err
	})
	if isNotThere(err) {
		return nil, d.notFound()
	}
	if err != nil {
		return nil, wrap(err)
	}
	r.end = r.info.Size()
	if length >= 0 {
		r.end = min(r.end, offset+min(length, r.end))
	}
	return r, nil
}

// openFile opens a blob's file and describes it.
func (d *Driver) openFile(path string) (vfs.File, vfs.FileInfo, error) {
	f, err := d.fs.Open(path)
	if err != nil {
		return nil, nil, err
	}
	fi, err := f.Stat()
	if err == nil && !fi.Mode().IsRegular() {
		err = syscall.ENOENT
	}
	if err != nil {
		_ = f.Close() // nothing was read
		return nil, nil, err
	}
	return f, fi, nil
}

// reader reads one file, which nobody changes: a put makes a new one.
type reader struct {
	ctx     context.Context
	d       *Driver
	path    string
	f       vfs.File
	info    vfs.FileInfo
	at, end int64
	closed  atomic.Bool
}

func (r *reader) Read(p []byte) (int, error) {
	if r.closed.Load() {
		return 0, invalid("read after close")
	}
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	if r.at >= r.end {
		return 0, io.EOF
	}
	p = p[:min(int64(len(p)), r.end-r.at, readSize)]
	n, err := r.f.ReadAt(p, r.at)
	if n == 0 && errors.Is(err, syscall.ESTALE) {
		if err = r.reopen(); err == nil {
			n, err = r.f.ReadAt(p, r.at)
		}
	}
	r.at += int64(n)
	switch {
	case n == len(p):
		return n, nil
	case err == nil || err == io.EOF:
		return n, firn.NewError(firn.Corrupt, fmt.Sprintf("%s has %d bytes, it had %d when it was opened", r.path, r.at, r.info.Size()))
	}
	return n, wrap(err)
}

// reopen opens the file again by its name, if it still is the same.
func (r *reader) reopen() error {
	f, fi, err := r.d.openFile(r.path)
	if err != nil {
		return &firn.Error{Kind: firn.Unavailable, Err: fmt.Errorf("the file went away while it was read: %w", err)}
	}
	if !sameFile(fi, r.info) || fi.Size() != r.info.Size() || !fi.ModTime().Equal(r.info.ModTime()) {
		_ = f.Close() // nothing was read
		return firn.NewError(firn.Unavailable, "the blob was replaced while it was read")
	}
	_ = r.f.Close() // its handle is stale
	r.f = f
	return nil
}

func (r *reader) Close() error {
	if r.closed.Swap(true) {
		return nil
	}
	// A file that was only read has nothing to lose at its close.
	_ = r.f.Close()
	return nil
}

// statters is how many files of a directory are looked at at once: a round trip each on NFS.
const statters = 8

// List implements driver.Driver.
func (d *Driver) List(ctx context.Context, prefix string, fn func(driver.Info) error) error {
	if err := d.start(ctx); err != nil {
		return err
	}
	// First and last: what is unmounted half-way must not look like the end.
	if err := d.there(); err != nil {
		return err
	}
	if err := layout.Walk(ctx, prefix, d.readDir, fn); err != nil {
		return err
	}
	return d.there()
}

// readDir implements layout.ReadDir.
func (d *Driver) readDir(ctx context.Context, rel string) ([]layout.Entry, error) {
	dir := d.path(rel)
	var names []string
	err := again(func() (err error) {
		names, err = d.fs.List(dir)
		return err
	})
	if isNotThere(err) {
		return nil, nil
	}
	if err != nil {
		return nil, wrap(err)
	}
	names = slices.DeleteFunc(names, func(name string) bool {
		_, _, ok := layout.DecodeName(name)
		return !ok
	})
	entries := make([]layout.Entry, len(names))
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(statters)
	for i, name := range names {
		g.Go(func() error {
			if err := ctx.Err(); err != nil {
				return err
			}
			fi, err := stat(d.fs, dir+"/"+name)
			switch {
			case isNotThere(err): // deleted meanwhile, or a link to nowhere
			case err != nil:
				return wrap(err)
			case fi.IsDir() || fi.Mode().IsRegular():
				entries[i] = layout.Entry{Name: name, Dir: fi.IsDir(), Size: fi.Size(), Modified: fi.ModTime()}
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	return slices.DeleteFunc(entries, func(e layout.Entry) bool { return e.Name == "" }), nil
}
