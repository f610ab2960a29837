package cache

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"runtime/debug"
	"sync"
	"time"

	"firn"
)

// flight is one block on its way, for all who wait for it.
type flight struct {
	key    Key
	origin string
	since  Mark
	cancel context.CancelFunc
	refs   int  // waiters; guarded by Cache.mu
	finish bool // it goes on without any; guarded by Cache.mu

	done  chan struct{} // closed when err, and the whole block, stand
	err   error
	level string // "" where it was fetched, else the level that had it after all

	mu struct {
		sync.Mutex
		data    []byte
		meta    []byte
		expires time.Time
		more    chan struct{} // closed and replaced when data grows; nil while nobody waits
	}
}

// Writer takes the bytes of a block as they come. It is used by one goroutine.
type Writer struct{ f *flight }

func (w *Writer) grow(n int) {
	w.f.mu.Lock()
	defer w.f.mu.Unlock()
	if n = min(n, MaxBlock); n > cap(w.f.mu.data) {
		w.f.mu.data = append(make([]byte, 0, n), w.f.mu.data...)
	}
}

// Describe sets what is kept beside the data, and when the block expires.
func (w *Writer) Describe(meta []byte, expires time.Time) {
	w.f.mu.Lock()
	defer w.f.mu.Unlock()
	w.f.mu.meta, w.f.mu.expires = meta, expires
}

// Write passes bytes on to all readers. A block over MaxBlock is refused.
func (w *Writer) Write(p []byte) (int, error) {
	w.f.mu.Lock()
	defer w.f.mu.Unlock()
	if len(w.f.mu.data)+len(p) > MaxBlock {
		return 0, check(w.f.key, Value{Data: make([]byte, MaxBlock+1)})
	}
	// Readers hold slices of what is there: bytes are only ever added behind it.
	w.f.mu.data = append(w.f.mu.data, p...)
	if w.f.mu.more != nil {
		close(w.f.mu.more)
		w.f.mu.more = nil
	}
	return len(p), nil
}

func (w *Writer) set(v Value) error {
	if err := check(w.f.key, v); err != nil {
		return err
	}
	w.f.mu.Lock()
	defer w.f.mu.Unlock()
	w.f.mu.data, w.f.mu.meta, w.f.mu.expires = v.Data, v.Meta, v.Expires
	return nil
}

// trim gives back what the data took for growing, so that levels keep no more than they count.
func (f *flight) trim() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if n := len(f.mu.data); cap(f.mu.data)-n > n/8 {
		f.mu.data = bytes.Clone(f.mu.data)
	}
}

func (f *flight) value() Value {
	f.mu.Lock()
	defer f.mu.Unlock()
	return Value{Data: f.mu.data, Meta: f.mu.meta, Expires: f.mu.expires}
}

// join returns the flight of a block, a new one where there is none or where the one under way began before a purge
// of the block. Whoever joined must leave.
func (c *Cache) join(ctx context.Context, k Key, origin string, fill func(context.Context, *Writer) error) (*flight, error) {
	c.puts.RLock()
	now := c.purges
	c.puts.RUnlock()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.mu.closed {
		return nil, errClosed
	}
	if f := c.mu.flights[k]; f != nil {
		c.puts.RLock()
		stale := c.wasPurged(k, f.since)
		c.puts.RUnlock()
		if !stale {
			f.refs++
			c.stats.joined.Add(1)
			return f, nil
		}
	}
	// The fetch lives as long as anybody waits for it, not as long as who came first.
	fctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	f := &flight{key: k, origin: origin, since: now, cancel: cancel, refs: 1, done: make(chan struct{})}
	c.mu.flights[k] = f
	c.running.Add(1)
	go c.fly(fctx, f, fill)
	return f, nil
}

// leave takes one waiter off; the last one to go ends the fetch, unless one said finish.
func (c *Cache) leave(f *flight, finish bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	f.finish = f.finish || finish
	if f.refs--; f.refs == 0 && !f.finish {
		f.cancel()
		c.forget(f)
	}
}

// forget makes f joinable no more. The caller holds mu.
func (c *Cache) forget(f *flight) {
	if c.mu.flights[f.key] == f {
		delete(c.mu.flights, f.key)
	}
}

func (c *Cache) fly(ctx context.Context, f *flight, fill func(context.Context, *Writer) error) {
	defer c.running.Done()
	defer f.cancel()
	err := c.fetch(ctx, f, fill)
	if err == nil && f.level == "" {
		f.trim()
		v := f.value()
		c.stats.filled.Add(1)
		c.stats.filledBytes.Add(uint64(len(v.Data)))
		// Kept before the flight is forgotten: who comes then finds it in a level.
		c.keep(f.key, v, f.since, c.levels)
	} else if err != nil {
		c.stats.failed.Add(1)
	}
	f.err = err
	c.mu.Lock()
	c.forget(f)
	c.mu.Unlock()
	close(f.done)
}

func (c *Cache) fetch(ctx context.Context, f *flight, fill func(context.Context, *Writer) error) (err error) {
	if err := c.slots.enter(ctx, f.origin); err != nil {
		return err
	}
	defer c.slots.leave(f.origin)
	// A fetch that ended between the look-up and the join has left the block in the nearest level.
	if len(c.levels) > 0 {
		if v, ok := c.levels[0].Get(ctx, f.key); ok {
			f.level = c.levels[0].Name()
			return (&Writer{f}).set(v)
		}
	}
	// What fill does is not ours: its panic fails this block and not the process of all others.
	defer func() {
		if r := recover(); r != nil {
			err = &firn.Error{Kind: firn.Internal, Op: "fill", Subject: f.key.Object, Err: fmt.Errorf("panic: %v\n%s", r, debug.Stack())}
		}
	}()
	return fill(ctx, &Writer{f})
}

// streamReader reads a block on its way.
type streamReader struct {
	c      *Cache
	ctx    context.Context
	f      *flight
	off    int
	closed bool
}

func (r *streamReader) Read(p []byte) (int, error) {
	if r.closed {
		return 0, errors.New("read of a closed stream")
	}
	if len(p) == 0 {
		return 0, nil
	}
	for {
		n, more, ended := r.next(p)
		if n > 0 {
			return n, nil
		}
		if ended {
			if r.f.err != nil {
				return 0, r.f.err
			}
			return 0, io.EOF
		}
		select {
		case <-more:
		case <-r.f.done:
		case <-r.ctx.Done():
			return 0, r.ctx.Err()
		}
	}
}

// next copies what is there; where that is nothing, it returns a channel that is closed when there is more. ended says
// that there was nothing and that there will be nothing.
func (r *streamReader) next(p []byte) (n int, more <-chan struct{}, ended bool) {
	select {
	case <-r.f.done:
		ended = true
	default:
	}
	r.f.mu.Lock()
	defer r.f.mu.Unlock()
	n = copy(p, r.f.mu.data[min(r.off, len(r.f.mu.data)):])
	r.off += n
	if n == 0 && !ended {
		if r.f.mu.more == nil {
			r.f.mu.more = make(chan struct{})
		}
		more = r.f.mu.more
	}
	return n, more, ended
}

// WriteTo implements io.WriterTo, so that io.Copy passes the bytes on without a buffer of its own.
func (r *streamReader) WriteTo(w io.Writer) (int64, error) {
	buf := make([]byte, 32<<10)
	var total int64
	for {
		n, err := r.Read(buf)
		if n > 0 {
			m, werr := w.Write(buf[:n])
			total += int64(m)
			if werr != nil {
				return total, werr
			}
		}
		if errors.Is(err, io.EOF) {
			return total, nil
		}
		if err != nil {
			return total, err
		}
	}
}

// Close implements Reader.
func (r *streamReader) Close() error {
	r.end(false)
	return nil
}

// Finish implements Reader.
func (r *streamReader) Finish() { r.end(true) }

func (r *streamReader) end(finish bool) {
	if !r.closed {
		r.closed = true
		r.c.leave(r.f, finish)
	}
}
