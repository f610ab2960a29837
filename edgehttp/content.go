package edgehttp

import (
	"context"
	"errors"
	"io"

	"firn/cache"
)

// content reads an entry slice by slice. It is used by one goroutine.
type content struct {
	s   *Server
	ctx context.Context
	t   target
	e   *entry
	off int64
	err error // the first
	// fetched: the first slice came from the origin.
	fetched, begun bool

	n      int64        // number of the open slice
	open   bool         // there is one
	data   []byte       // of a slice that is in memory
	stream cache.Reader // of one that is on its way
	pos    int64        // in stream
	buf    []byte
	ahead  cache.Reader // the slice after, on its way
}

// Seek implements io.Seeker.
func (c *content) Seek(offset int64, whence int) (int64, error) {
	switch whence {
	case io.SeekCurrent:
		offset += c.off
	case io.SeekEnd:
		offset += c.e.Size
	}
	if offset < 0 {
		return 0, errors.New("seek before the beginning")
	}
	c.off = offset
	return offset, nil
}

// Read implements io.Reader.
func (c *content) Read(p []byte) (int, error) {
	if c.off >= c.e.Size {
		return 0, io.EOF
	}
	b, err := c.chunk(int64(len(p)))
	return copy(p, b), err
}

// chunk returns some of the next bytes, limit at most and one at least. They are good until the next call.
func (c *content) chunk(limit int64) ([]byte, error) {
	if c.err != nil {
		return nil, c.err
	}
	p, err := c.next(limit)
	if err != nil {
		c.err = err
		return nil, err
	}
	c.off += int64(len(p))
	return p, nil
}

func (c *content) next(limit int64) ([]byte, error) {
	if limit = min(limit, c.e.Size-c.off); limit <= 0 {
		return nil, io.ErrUnexpectedEOF
	}
	n := c.off / c.e.Slice
	within, length := c.off-n*c.e.Slice, c.e.sliceLen(n)
	if !c.open || c.n != n || c.stream != nil && c.pos > within {
		if err := c.turn(n, c.off+limit > (n+1)*c.e.Slice); err != nil {
			return nil, err
		}
	}
	limit = min(limit, length-within)
	if c.stream == nil {
		if int64(len(c.data)) != length {
			return nil, errChanged
		}
		return c.data[within : within+limit], nil
	}
	if c.buf == nil {
		c.buf = make([]byte, 64<<10)
	}
	for c.pos < within {
		k, err := c.stream.Read(c.buf[:min(int64(len(c.buf)), within-c.pos)])
		if c.pos += int64(k); err != nil && c.pos < within {
			return nil, c.broken(err)
		}
	}
	k, err := c.stream.Read(c.buf[:min(int64(len(c.buf)), limit)])
	c.pos += int64(k)
	if k == 0 {
		return nil, c.broken(err)
	}
	return c.buf[:k], nil
}

func (c *content) broken(err error) error {
	if err == nil || errors.Is(err, io.EOF) {
		return errChanged // the slice is shorter than it must be
	}
	return err
}

// turn opens slice n. Where it comes from the origin, and more is wanted after it, the next one is fetched meanwhile.
func (c *content) turn(n int64, more bool) error {
	ahead := c.ahead
	if c.ahead = nil; c.open && c.n+1 != n && ahead != nil {
		_ = ahead.Close() // only lets go
		ahead = nil
	}
	c.close()
	mark, key := c.s.cache.Mark(), c.e.key(c.t.name, n)
	if ahead == nil {
		if v, _, ok := c.s.cache.Lookup(c.ctx, key); ok {
			c.s.touch(c.t, key, v, mark)
			c.n, c.open, c.data, c.begun = n, true, v.Data, true
			return nil
		}
		stream, level, err := c.s.open(c.ctx, c.t, c.e, n)
		if err != nil {
			return err
		}
		if !c.begun {
			c.fetched = level == ""
		}
		ahead = stream
	}
	c.n, c.open, c.stream, c.pos, c.begun = n, true, ahead, 0, true
	if more && (n+1)*c.e.Slice < c.e.Size {
		if next, _, err := c.s.open(c.ctx, c.t, c.e, n+1); err == nil {
			c.ahead = next
		}
	}
	return nil
}

func (c *content) close() {
	switch {
	case c.stream == nil:
	case c.err == nil && c.ctx.Err() == nil:
		if c.pos == c.e.sliceLen(c.n) {
			_, _ = c.stream.Read(make([]byte, 1)) // waits until it is kept, for who comes next
		}
		c.stream.Finish() // the rest of the slice will be asked for, as a rule
	default:
		_ = c.stream.Close() // only lets go
	}
	c.stream, c.data, c.open = nil, nil, false
}

// Close lets go of what is on its way.
func (c *content) Close() {
	c.close()
	if c.ahead != nil {
		_ = c.ahead.Close() // only lets go
	}
	c.ahead = nil
}
