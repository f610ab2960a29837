package pebblekv

import (
	"context"
	"hash/maphash"
	"slices"
	"sync"
	"sync/atomic"

	"firn/kv"
)

// stripeCount is the number of locks that all lock names share. With 64 transactions at once, two unrelated ones
// collide about every other time one looks, for some ten microseconds.
const stripeCount = 4096

// lock is a mutex that can be waited for with a context and released by another goroutine.
type lock chan struct{}

func newLock() lock { return make(lock, 1) }

func (l lock) unlock() { <-l }

// stripe is one of the locks and the index of the newest commit made under it.
type stripe struct {
	lock
	last atomic.Uint64
}

func newStripes() []stripe {
	s := make([]stripe, stripeCount)
	for i := range s {
		s[i].lock = newLock()
	}
	return s
}

// appendStripes appends the stripes of the given names to dst, in the order in which they are to be locked.
func (d *DB) appendStripes(dst []uint16, names [][]byte) []uint16 {
	for _, n := range names {
		dst = append(dst, uint16(maphash.Bytes(d.seed, n)%stripeCount))
	}
	if len(dst) > 1 {
		slices.Sort(dst)
		dst = slices.Compact(dst)
	}
	return dst
}

// acquire takes l.
func (d *DB) acquire(ctx context.Context, l lock) error {
	select {
	case l <- struct{}{}:
		return nil
	default:
	}
	select {
	case l <- struct{}{}:
		return nil
	case <-d.failed:
		return d.failure.Load()
	case <-ctx.Done():
		return ctx.Err()
	}
}

// lockAll takes the stripes in order, or none.
func (d *DB) lockAll(ctx context.Context, ids []uint16) error {
	for i, id := range ids {
		if err := d.acquire(ctx, d.stripes[id].lock); err != nil {
			d.unlockAll(ids[:i])
			return err
		}
	}
	return nil
}

func (d *DB) unlockAll(ids []uint16) {
	for _, id := range ids {
		d.stripes[id].unlock()
	}
}

// notifier wakes those who wait for a counter to move.
type notifier struct {
	waiting atomic.Int64
	mu      struct {
		sync.Mutex
		ch chan struct{}
	}
}

func (n *notifier) init() { n.mu.ch = make(chan struct{}) }

// moved is called after a counter was stored.
func (n *notifier) moved() {
	if n.waiting.Load() == 0 {
		return
	}
	n.mu.Lock()
	close(n.mu.ch)
	n.mu.ch = make(chan struct{})
	n.mu.Unlock()
}

// waitFor returns when v >= want, or kv.ErrClosed when closing is closed.
func (d *DB) waitFor(ctx context.Context, v *atomic.Uint64, want uint64, closing <-chan struct{}) error {
	if v.Load() >= want {
		return nil
	}
	n := &d.progress
	// Announced before the counter is looked at again: whoever moves it after that look sees the announcement.
	n.waiting.Add(1)
	defer n.waiting.Add(-1)
	for {
		n.mu.Lock()
		ch := n.mu.ch
		n.mu.Unlock()
		if v.Load() >= want {
			return nil
		}
		select {
		case <-ch:
		case <-ctx.Done():
			return ctx.Err()
		case <-d.failed:
			return d.failure.Load()
		case <-closing:
			return kv.ErrClosed
		}
	}
}

// gate counts running calls and lets Close wait for them.
type gate struct {
	n       atomic.Int64  // running calls, plus closedBit once closed
	closing chan struct{} // closed when close is called
	idle    chan struct{} // closed when the last call ended after that
	once    sync.Once
}

// closedBit makes the count negative, however many calls run.
const closedBit = -1 << 62

func (g *gate) init() {
	g.closing = make(chan struct{})
	g.idle = make(chan struct{})
}

func (g *gate) enter() bool {
	if g.n.Add(1) > 0 {
		return true
	}
	g.leave()
	return false
}

func (g *gate) leave() {
	if g.n.Add(-1) == closedBit {
		g.once.Do(func() { close(g.idle) })
	}
}

// close refuses new calls and waits for those that run. It returns false where that was done already.
func (g *gate) close() bool {
	for {
		n := g.n.Load()
		if n < 0 {
			return false
		}
		if g.n.CompareAndSwap(n, n+closedBit) {
			close(g.closing)
			if n == 0 {
				g.once.Do(func() { close(g.idle) })
			}
			<-g.idle
			return true
		}
	}
}
