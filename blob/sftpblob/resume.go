package sftpblob

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path"

	"github.com/pkg/sftp"

	"firn/blob"
	"firn/blob/driver"
	"firn/blob/layout"
)

// Resume writes to a file named after the key, as package layout has it, and renames it into place when it is complete.
func (p *place) Resume(ctx context.Context, key string, src driver.Source) error {
	return p.call(ctx, func(ctx context.Context, s *session) error {
		target := p.path(layout.EncodeKey(key))
		fi, err := s.Stat(target)
		switch {
		case err == nil && fi.Mode().IsRegular() && fi.Size() == src.Size():
			s.syncDir(path.Dir(target)) // whoever named it may not have come to this
			return nil
		case err != nil && !errors.Is(err, fs.ErrNotExist):
			return err
		}
		kept := p.path(layout.KeptPath(key))
		if err := p.inTemp(s, func() error { return p.writeKept(ctx, s, kept, src) }); err != nil {
			return err
		}
		p.sweep(ctx, s)
		if err := p.settle(s, kept, target, false); err != nil {
			return err
		}
		s.syncDir(path.Dir(target))
		return ctx.Err()
	})
}

// writeKept goes on with a file, or makes it, until it has all of src.
func (p *place) writeKept(ctx context.Context, s *session, name string, src driver.Source) error {
	f, at, err := s.openKept(name, src.Size())
	if err != nil {
		return err
	}
	err = p.writeOn(ctx, s, f, src, at)
	if e := f.Close(); err == nil {
		err = e
	}
	return err
}

// openKept opens the file and cuts off what is not kept of it.
func (s *session) openKept(name string, size int64) (*sftp.File, int64, error) {
	f, err := s.OpenFile(name, os.O_WRONLY|os.O_CREATE)
	if err != nil {
		return nil, 0, err
	}
	fi, err := f.Stat()
	if err != nil {
		_ = f.Close() // nothing was written
		return nil, 0, err
	}
	at := layout.Kept(fi.Size(), size)
	if fi.Size() == 0 { // else a power loss takes the name of all that is synced from now on
		s.syncDir(path.Dir(name))
	} else {
		err = f.Truncate(at)
	}
	if err == nil {
		_, err = f.Seek(at, io.SeekStart)
	}
	if err != nil {
		_ = f.Close() // as above
		return nil, 0, err
	}
	return f, at, nil
}

func (p *place) writeOn(ctx context.Context, s *session, f *sftp.File, src driver.Source, at int64) (err error) {
	r, err := blob.OpenExactAt(ctx, src, at)
	if err != nil {
		return source(err)
	}
	in := &input{r: r}
	defer func() {
		if e := r.Close(); err == nil && e != nil {
			err = source(e)
		}
	}()
	for {
		n, err := f.ReadFromWithConcurrency(io.LimitReader(in, layout.KeptStep), inFlight)
		if err == nil {
			err = s.sync(f)
		}
		switch at += n; {
		case in.err != nil:
			return source(in.err)
		case err != nil:
			return p.full(ctx, s, src.Size()-at, err)
		case n < layout.KeptStep:
			return nil
		}
	}
}

// Abandon removes that file.
func (p *place) Abandon(ctx context.Context, key string) error {
	return p.call(ctx, func(_ context.Context, s *session) error {
		err := s.Remove(p.path(layout.KeptPath(key)))
		if errors.Is(err, fs.ErrNotExist) {
			return p.there(s)
		}
		if err == nil {
			s.syncDir(p.path(layout.Temp))
		}
		return err
	})
}
