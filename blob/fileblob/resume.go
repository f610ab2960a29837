package fileblob

import (
	"context"
	"errors"
	"io"

	"firn"
	"firn/blob"
	"firn/blob/driver"
	"firn/blob/layout"
	"firn/vfs"
)

// Resume implements driver.Resumer: it writes to a file named after the key, as package layout has it.
func (d *Driver) Resume(ctx context.Context, key string, src driver.Source) error {
	return wrap(d.resume(ctx, key, src))
}

func (d *Driver) resume(ctx context.Context, key string, src driver.Source) error {
	path := d.file(key)
	switch info, err := d.Stat(ctx, key); {
	case err == nil && info.Size == src.Size():
		return again(func() error { return vfs.SyncDir(d.fs, d.fs.PathDir(path)) }) // whoever named it may not have come to this
	case err != nil && firn.KindOf(err) != firn.NotFound:
		return err
	}
	t := temp{path: d.path(layout.KeptPath(key))}
	var at int64
	err := d.inTemp(func() (err error) {
		t.f, at, err = d.openKept(t.path, src.Size())
		return err
	})
	if err != nil {
		return err
	}
	if err := d.writeOn(ctx, t.f, src, at); err != nil {
		_ = t.f.Close() // what counts of it was synced
		return err
	}
	if err := d.sync(&t); err != nil {
		return err
	}
	d.sweep(t.info.ModTime())
	if err := d.place(t, path, false); err != nil {
		return err
	}
	return again(func() error { return vfs.SyncDir(d.fs, d.fs.PathDir(path)) })
}

// openKept opens the file of a put that is resumed, or makes it, and returns how much of it is kept.
func (d *Driver) openKept(path string, size int64) (vfs.File, int64, error) {
	var length int64
	fi, err := d.fs.Stat(path)
	if err == nil {
		length = fi.Size()
	}
	if err != nil && !isNotThere(err) {
		return nil, 0, err
	}
	if length > size {
		if err := d.fs.Remove(path); err != nil {
			return nil, 0, err
		}
		length = 0
	}
	f, err := d.fs.OpenReadWrite(path, vfs.CategoryPart)
	if err == nil && length == 0 { // else a power loss takes the name of all that is synced from now on
		if err = vfs.SyncDir(d.fs, d.path(tempName)); err != nil {
			_ = f.Close()
		}
	}
	return f, layout.Kept(length, size), err
}

// writeOn writes what src has from an offset on.
func (d *Driver) writeOn(ctx context.Context, f vfs.File, src driver.Source, at int64) (err error) {
	r, err := blob.OpenExactAt(ctx, src, at)
	if err != nil {
		return err
	}
	defer func() {
		if e := r.Close(); err == nil {
			err = e
		}
	}()
	pooled := buffers.Get().(*[writeSize]byte)
	defer buffers.Put(pooled)
	w := writer{f: f, to: io.NewOffsetWriter(f, at), direct: vfs.SetDirect(f)}
	synced := at
	for {
		n, err := io.ReadFull(r, pooled[:])
		if n > 0 && at >= synced+layout.KeptStep {
			if err := f.Sync(); err != nil {
				return err
			}
			synced = at
		}
		if e := w.write(pooled[:n]); e != nil {
			return e
		}
		at += int64(n)
		switch {
		case err == nil:
		case at == src.Size() && (err == io.EOF || errors.Is(err, io.ErrUnexpectedEOF)):
			return nil
		default:
			return err
		}
	}
}

// Abandon implements driver.Resumer.
func (d *Driver) Abandon(ctx context.Context, key string) error {
	if err := d.start(ctx); err != nil {
		return err
	}
	path := d.path(layout.KeptPath(key))
	err := d.look(path, func() error { return d.fs.Remove(path) })
	if isNotThere(err) {
		return d.there()
	}
	if err == nil {
		err = vfs.SyncDir(d.fs, d.path(tempName))
	}
	return wrap(err)
}
