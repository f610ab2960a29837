package readcache

import (
	"context"
	"errors"
	"io"

	"firn"
	"firn/blob/driver"
)

// reader serves one range, block by block. It holds one block.
type reader struct {
	c      *Cache
	ctx    context.Context
	key    string
	info   driver.Info // what the place said; nothing where blobs never change
	epoch  uint64      // of own changes of the key when it was opened
	at     int64
	left   int64 // -1 is to the end
	rest   []byte
	closed bool
	err    error
}

// fill gets the block at r.at. It returns io.EOF where the blob ends before it.
func (r *reader) fill() error {
	size := int64(r.c.opt.Block)
	id := blockID{key: keyID(r.key), version: r.version(), index: uint32(r.at / size)}
	block, err := r.c.block(r.ctx, r, id)
	if now, changing := r.c.epoch(r.key); changing || now != r.epoch {
		return errChanged
	}
	if err != nil {
		return err
	}
	skip := min(r.at%size, int64(len(block)))
	r.rest = block[skip:]
	if r.left >= 0 {
		r.rest = r.rest[:min(int64(len(r.rest)), r.left)]
	}
	if len(r.rest) == 0 {
		return io.EOF
	}
	r.at += int64(len(r.rest))
	if r.left > 0 {
		r.left -= int64(len(r.rest))
	}
	if int64(len(block)) < size {
		r.left = 0 // the last one
	}
	return nil
}

func (r *reader) version() uint64 {
	if r.c.immutable(r.key) {
		return 0
	}
	return versionID(r.info.Size, r.info.Modified, r.c.opt.Block)
}

func (r *reader) Read(p []byte) (int, error) {
	if r.closed {
		return 0, firn.NewError(firn.Invalid, "read after close")
	}
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	if len(p) == 0 {
		return 0, nil
	}
	for len(r.rest) == 0 {
		if r.err == nil && r.left == 0 {
			r.err = io.EOF
		}
		if r.err == nil {
			r.err = r.fill()
		}
		if r.err != nil {
			return 0, r.err
		}
	}
	n := copy(p, r.rest)
	r.rest = r.rest[n:]
	return n, nil
}

func (r *reader) Close() error {
	r.closed, r.rest = true, nil
	return nil
}

// block returns a block from the directory or from the place. One caller fetches; the others wait for it.
func (c *Cache) block(ctx context.Context, r *reader, id blockID) ([]byte, error) {
	for {
		if p, ok := c.store.get(id); ok {
			c.stats.hits.Add(1)
			c.stats.hitBytes.Add(int64(len(p)))
			return p, nil
		}
		c.mu.Lock()
		f := c.mu.fetches[id]
		if f == nil {
			f = &fetch{done: make(chan struct{})}
			c.mu.fetches[id] = f
			c.mu.Unlock()
			p, err := c.fetch(ctx, r, id)
			c.mu.Lock()
			delete(c.mu.fetches, id)
			c.mu.Unlock()
			close(f.done)
			return p, err
		}
		c.mu.Unlock()
		// Whether it came or failed is seen in the directory: with an error each waiter has its own turn.
		select {
		case <-f.done:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// fetch reads a block from the place and keeps it, if it is certainly of the blob that r reads.
func (c *Cache) fetch(ctx context.Context, r *reader, id blockID) (p []byte, err error) {
	size := int64(c.opt.Block)
	offset := int64(id.index) * size
	c.stats.misses.Add(1)
	epoch := c.store.epoch()
	rc, err := c.inner.Get(ctx, r.key, offset, size)
	if err != nil {
		if firn.KindOf(err) == firn.NotFound && !c.immutable(r.key) {
			err = errChanged
		}
		return nil, err
	}
	p, err = io.ReadAll(io.LimitReader(rc, size))
	if err := errors.Join(err, rc.Close()); err != nil {
		return nil, err
	}
	c.stats.missBytes.Add(int64(len(p)))
	if !c.immutable(r.key) {
		// Size and time after the read are those of before: no other put was in between.
		info, err := c.ask(ctx, r.key)
		if firn.KindOf(err) == firn.NotFound || err == nil && (info.Size != r.info.Size || !info.Modified.Equal(r.info.Modified)) {
			return nil, errChanged
		}
		if err != nil {
			return nil, err
		}
		if int64(len(p)) != min(size, max(r.info.Size-offset, 0)) {
			return nil, errChanged
		}
	}
	c.store.put(id, p, epoch)
	return p, nil
}
