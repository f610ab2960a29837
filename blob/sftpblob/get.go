package sftpblob

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"sync"

	"github.com/pkg/sftp"

	"firn"
	"firn/blob/layout"
)

// block is what is asked for at once, in packets under way side by side; the next is on its way while one is read.
const block = 1 << 20

// Get opens the file. It stays open: a put makes a new one and leaves this as it is.
func (p *place) Get(ctx context.Context, key string, offset, length int64) (io.ReadCloser, error) {
	s, ctx, err := p.use(ctx)
	if err != nil {
		return nil, err
	}
	r := &reader{ctx: ctx, p: p, s: s, at: offset}
	if err := r.open(key, length); err != nil {
		err = p.fail(ctx, s, err)
		s.stop()
		return nil, err
	}
	return r, nil
}

func (r *reader) open(key string, length int64) error {
	f, err := r.s.Open(r.p.path(layout.EncodeKey(key)))
	if errors.Is(err, fs.ErrNotExist) {
		return r.p.notFound(r.s)
	}
	if err != nil {
		return err
	}
	fi, err := f.Stat()
	if err == nil && !fi.Mode().IsRegular() {
		err = r.p.notFound(r.s)
	}
	if err != nil {
		f.Close() // it was only opened
		return err
	}
	r.f, r.size = f, fi.Size()
	r.end = r.size
	if length >= 0 {
		r.end = min(r.end, r.at+min(length, r.end))
	}
	return nil
}

// reader reads one file.
type reader struct {
	ctx       context.Context //nolint:containedctx // the call's: reading is part of it
	p         *place
	s         *session
	f         *sftp.File
	at, end   int64 // of the next block
	size      int64
	now       []byte // what is left of the block being read
	buf, next []byte // the block being read, and the one on its way
	coming    chan error
	err       error
	once      sync.Once
}

func (r *reader) Read(p []byte) (int, error) {
	if len(r.now) == 0 {
		if r.err == nil {
			r.err = r.turn()
		}
		if r.err != nil {
			return 0, r.err
		}
	}
	if err := r.ctx.Err(); err != nil {
		r.err, r.now = r.p.over(r.ctx), nil
		return 0, r.err
	}
	n := copy(p, r.now)
	r.now = r.now[n:]
	return n, nil
}

// turn waits for the next block and asks for the one after it.
func (r *reader) turn() error {
	if r.coming == nil {
		r.ask()
	}
	if r.coming == nil {
		return io.EOF
	}
	if err := <-r.coming; err != nil {
		r.coming = nil
		if errors.Is(err, io.EOF) && r.ctx.Err() == nil && r.s.line.conn.Load() == r.s.conn {
			return firn.NewError(firn.Corrupt, "the file became shorter while it was read")
		}
		return r.p.fail(r.ctx, r.s, err)
	}
	r.buf, r.next = r.next, r.buf
	r.now = r.buf
	r.coming = nil
	r.ask()
	return nil
}

// ask starts to read the next block where there is one.
func (r *reader) ask() {
	n := int(min(block, r.end-r.at))
	if n <= 0 {
		return
	}
	if cap(r.next) < n {
		r.next = make([]byte, n)
	}
	r.next = r.next[:n]
	coming, b, at := make(chan error, 1), r.next, r.at
	r.coming = coming
	r.at += int64(n)
	go func() {
		k, err := r.f.ReadAt(b, at)
		if k == len(b) {
			err = nil
		}
		coming <- err
	}()
}

// Close waits for the block on its way.
func (r *reader) Close() error {
	r.once.Do(func() {
		if r.coming != nil {
			<-r.coming
		}
		_ = r.f.Close() // it was only read
		r.s.stop()
		r.err, r.now = errors.New("read after close"), nil
	})
	return nil
}
