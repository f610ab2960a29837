package fileblob

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"

	"golang.org/x/sync/errgroup"

	"firn"
	"firn/blob/driver"
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
	dir, base, ok := walkStart(prefix)
	if !ok {
		return nil
	}
	if err := d.walk(ctx, d.path(dir), base, prefix, fn); err != nil {
		return err
	}
	return d.there()
}

// entry is one name in a directory.
type entry struct {
	key  string // what the keys of the entry are or begin with
	path string
	dir  bool
	info driver.Info
}

// walk shows the blobs in dir, whose keys begin with base.
func (d *Driver) walk(ctx context.Context, dir, base, prefix string, fn func(driver.Info) error) error {
	entries, err := d.entries(ctx, dir, base, prefix)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if err := ctx.Err(); err != nil {
			return err
		}
		if e.dir {
			err = d.walk(ctx, e.path, e.key, prefix, fn)
		} else {
			err = fn(e.info)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// entries reads a directory: what leads to keys that begin with prefix, in the order of the keys.
func (d *Driver) entries(ctx context.Context, dir, base, prefix string) ([]entry, error) {
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
	all := make([]entry, 0, len(names))
	goesOn := make([]bool, 0, len(names))
	for _, name := range names {
		if strings.HasPrefix(name, ".firn-") || strings.HasPrefix(name, ".nfs") {
			continue
		}
		piece, more, ok := decodeName(name)
		key := base + piece
		if !ok || !strings.HasPrefix(key, prefix) && !strings.HasPrefix(prefix, key) {
			continue
		}
		all = append(all, entry{key: key, path: dir + "/" + name})
		goesOn = append(goesOn, more)
	}
	keep := make([]bool, len(all))
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(statters)
	for i := range all {
		g.Go(func() (err error) {
			if err := ctx.Err(); err != nil {
				return err
			}
			keep[i], err = d.describe(&all[i], goesOn[i], prefix)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	n := 0
	for i := range all {
		if keep[i] {
			all[n] = all[i]
			n++
		}
	}
	all = all[:n]
	slices.SortFunc(all, func(a, b entry) int { return strings.Compare(a.key, b.key) })
	return all, nil
}

// describe completes an entry and reports whether it is to be shown.
func (d *Driver) describe(e *entry, goesOn bool, prefix string) (bool, error) {
	fi, err := stat(d.fs, e.path)
	switch {
	case isNotThere(err):
		return false, nil // deleted meanwhile, or a link to nowhere
	case err != nil:
		return false, wrap(err)
	case fi.IsDir():
		e.dir = true
		if !goesOn {
			e.key += "/"
		}
		return strings.HasPrefix(e.key, prefix) || strings.HasPrefix(prefix, e.key), nil
	case goesOn || !fi.Mode().IsRegular():
		return false, nil
	}
	e.info = driver.Info{Key: e.key, Size: fi.Size(), Modified: fi.ModTime()}
	return strings.HasPrefix(e.key, prefix), nil
}
