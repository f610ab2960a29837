package retry

import (
	"bytes"
	"context"
	"errors"
	"io"

	"firn"
	"firn/blob/driver"
)

// errChanged ends a read that was broken off and cannot go on.
var errChanged = firn.NewError(firn.Unavailable,
	"the connection was lost while reading, and the blob was replaced meanwhile or the place does not tell: read it again")

// Get reads up to 1 MiB as a whole before it returns. A longer read is resumed where it broke off, if size and time of
// the blob show that it is the same.
func (r *retrier) Get(ctx context.Context, key string, offset, length int64) (io.ReadCloser, error) {
	if length >= 0 && length <= smallRead {
		return r.getSmall(ctx, key, offset, length)
	}
	rd := &reader{r: r, ctx: ctx, key: key, offset: offset, length: length}
	if err := rd.open("get", nil); err != nil {
		return nil, err
	}
	return rd, nil
}

func (r *retrier) getSmall(ctx context.Context, key string, offset, length int64) (io.ReadCloser, error) {
	var buf bytes.Buffer
	err := r.do(ctx, "get", func(ctx context.Context, w *watch) (bool, bool, error) {
		buf.Reset()
		rc, err := r.inner.Get(ctx, key, offset, length)
		if err != nil {
			return false, false, err
		}
		_, err = buf.ReadFrom(readerFunc(func(p []byte) (int, error) {
			w.progress()
			return rc.Read(p)
		}))
		return false, false, errors.Join(err, rc.Close())
	})
	if err != nil {
		return nil, err
	}
	return io.NopCloser(&buf), nil
}

type reader struct {
	r              *retrier
	ctx            context.Context
	key            string
	offset, length int64 // what is still to be read; length -1 is to the end

	rc    io.ReadCloser
	w     *watch
	info  driver.Info // of the blob before rc was first opened
	begun bool        // the caller has bytes
	ahead []byte      // read already
	err   error       // comes after ahead
	final bool        // err stays: it was tried to go on
}

// open opens the rest of the read. With a buffer it reads the first bytes into it, so that a try which only opens
// does not pass for progress.
func (rd *reader) open(op string, buf []byte) error {
	return rd.r.do(rd.ctx, op, func(ctx context.Context, w *watch) (bool, bool, error) {
		if err := rd.prove(ctx, !rd.begun); err != nil {
			return false, errors.Is(err, errChanged), err
		}
		w.progress()
		rc, err := rd.r.inner.Get(ctx, rd.key, rd.offset, rd.length)
		if err != nil {
			return false, false, err
		}
		// A put between the proof and the Get would show in a second one.
		if rd.begun {
			err = rd.prove(ctx, false)
		}
		n := 0
		if err == nil && buf != nil {
			w.progress()
			n, err = rc.Read(buf)
			if err == io.EOF || n > 0 {
				rd.err, err = err, nil
			}
		}
		if err != nil {
			rc.Close()
			return false, errors.Is(err, errChanged), err
		}
		rd.ahead = buf[:n]
		w.pause()
		w.kept, rd.rc, rd.w = true, rc, w
		return false, false, nil
	})
}

// prove asks for size and time of the blob: to remember them, or to fail where they are not the remembered ones.
func (rd *reader) prove(ctx context.Context, first bool) error {
	if rd.r.opt.Immutable {
		return nil
	}
	info, err := rd.r.inner.Stat(ctx, rd.key)
	switch {
	case err != nil:
		return err
	case first:
		rd.info = info
	case info.Modified.IsZero() || info.Size != rd.info.Size || !info.Modified.Equal(rd.info.Modified):
		return errChanged
	}
	return nil
}

func (rd *reader) Read(p []byte) (int, error) {
	for {
		if len(rd.ahead) > 0 {
			n := copy(p, rd.ahead)
			rd.ahead = rd.ahead[n:]
			return rd.took(n), nil
		}
		if rd.err != nil {
			err := rd.w.error(rd.err)
			if rd.final || err == io.EOF || rd.ctx.Err() != nil || !passes(err) {
				return 0, err
			}
			if err := rd.resume(err); err != nil {
				rd.err, rd.final = err, true
				return 0, err
			}
			continue
		}
		rd.w.progress()
		n, err := rd.rc.Read(p)
		rd.w.pause()
		if rd.err = err; n > 0 || err == nil {
			return rd.took(n), nil
		}
	}
}

// took counts bytes that the caller got.
func (rd *reader) took(n int) int {
	rd.begun = rd.begun || n > 0
	rd.offset += int64(n)
	if rd.length >= 0 {
		rd.length -= int64(n)
	}
	return n
}

// resume opens the rest after err.
func (rd *reader) resume(err error) error {
	rd.r.opt.Observer.Retry("read", err, 0)
	rd.rc.Close()
	rd.w.end()
	rd.rc, rd.err = nil, nil
	if rd.length == 0 {
		// Everything was read; only the end was not seen.
		rd.err = io.EOF
		return nil
	}
	failed := rd.open("read", make([]byte, 32<<10))
	if failed != nil && rd.ctx.Err() == nil && firn.KindOf(failed) == firn.NotFound {
		return errChanged
	}
	return failed
}

func (rd *reader) Close() error {
	if rd.rc == nil {
		return nil
	}
	err := rd.rc.Close()
	rd.rc = nil
	rd.w.end()
	return err
}
