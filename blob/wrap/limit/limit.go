// Package limit is a wrapper that bounds what a place is asked for: bytes a second each way, requests a second,
// operations at once. The bounds can change while it works.
//
// It promises that over any time no more passes than the bound times that time, plus one burst, whoever asks. It must
// never import a concrete driver.
package limit

import (
	"context"
	"io"

	"firn/blob"
	"firn/blob/driver"
	"firn/blob/wrap"
)

type limited struct {
	inner driver.Driver
	can   wrap.Abilities
	l     *Limiter
}

// New returns inner bounded by l. Several drivers may share l.
func New(inner driver.Driver, l *Limiter) driver.Driver {
	d := &limited{inner: inner, can: wrap.Of(inner), l: l}
	return wrap.Narrow(d, d.can)
}

// do runs one request.
func (d *limited) do(ctx context.Context, fn func(*work) error) error {
	w, err := d.l.begin(ctx)
	if err != nil {
		return err
	}
	defer w.pause()
	return fn(w)
}

func (d *limited) source(ctx context.Context, w *work, src driver.Source) *wrap.Source {
	return wrap.NewSource(ctx, paused{src, w}, src.Size(), func(r io.Reader) (io.Reader, error) { return &upReader{r, w}, nil })
}

// paused is a source that is opened while the operation is not at work.
type paused struct {
	driver.Source
	w *work
}

func (p paused) Open() (io.ReadCloser, error) { return p.OpenAt(0) }

func (p paused) OpenAt(offset int64) (io.ReadCloser, error) {
	p.w.pause()
	rc, err := blob.OpenAt(p.Source, offset)
	if err != nil {
		return nil, err
	}
	if err := p.w.resume(); err != nil {
		rc.Close()
		return nil, err
	}
	return rc, nil
}

func (d *limited) Put(ctx context.Context, key string, src driver.Source) error {
	return d.do(ctx, func(w *work) error {
		s := d.source(ctx, w, src)
		return s.Err(d.inner.Put(ctx, key, s))
	})
}

func (d *limited) Resume(ctx context.Context, key string, src driver.Source) error {
	return d.do(ctx, func(w *work) error {
		s := d.source(ctx, w, src)
		return s.Err(d.can.Resumer.Resume(ctx, key, s))
	})
}

func (d *limited) Abandon(ctx context.Context, key string) error {
	return d.do(ctx, func(*work) error { return d.can.Resumer.Abandon(ctx, key) })
}

func (d *limited) Create(ctx context.Context, key string, src driver.Source) error {
	return d.do(ctx, func(w *work) error {
		s := d.source(ctx, w, src)
		return s.Err(d.can.Creator.Create(ctx, key, s))
	})
}

func (d *limited) Apply(ctx context.Context, changes []driver.Change) error {
	return d.do(ctx, func(w *work) error {
		out := make([]driver.Change, len(changes))
		for i, c := range changes {
			out[i].Key = c.Key
			if c.Put != nil {
				out[i].Put = d.source(ctx, w, c.Put)
			}
		}
		return d.can.Batcher.Apply(ctx, out)
	})
}

func (d *limited) Get(ctx context.Context, key string, offset, length int64) (rc io.ReadCloser, err error) {
	err = d.do(ctx, func(w *work) error {
		r, err := d.inner.Get(ctx, key, offset, length)
		rc = &downReader{r, w}
		return err
	})
	if err != nil {
		return nil, err
	}
	return rc, nil
}

func (d *limited) Stat(ctx context.Context, key string) (info driver.Info, err error) {
	err = d.do(ctx, func(*work) error {
		info, err = d.inner.Stat(ctx, key)
		return err
	})
	return info, err
}

func (d *limited) Delete(ctx context.Context, key string) error {
	return d.do(ctx, func(*work) error { return d.inner.Delete(ctx, key) })
}

func (d *limited) DeleteAll(ctx context.Context, keys []string) error {
	return d.do(ctx, func(*work) error { return d.can.Bulk.DeleteAll(ctx, keys) })
}

func (d *limited) List(ctx context.Context, prefix string, fn func(driver.Info) error) error {
	return d.do(ctx, func(w *work) error {
		return d.inner.List(ctx, prefix, func(info driver.Info) error {
			w.pause()
			if err := fn(info); err != nil {
				return err
			}
			return w.resume()
		})
	})
}

func (d *limited) Space(ctx context.Context) (space driver.Space, err error) {
	err = d.do(ctx, func(*work) error {
		space, err = d.can.Measurer.Space(ctx)
		return err
	})
	return space, err
}

func (d *limited) Close() error { return d.inner.Close() }

// Inner is not transparent: whoever passed it by would pass by the bounds.
func (d *limited) Inner() (driver.Driver, bool) { return d.inner, false }
