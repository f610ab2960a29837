// Package cache keeps blocks of content that is slow or dear to fetch again: in memory, in a directory on a fast disk,
// in a Redis that several nodes share.
//
// It owns the levels and the way between them: what is looked for where, what is fetched once for all who wait, what is
// purged. It promises that no level ever holds more bytes than its budget, that a block is compared with its checksum
// when it comes from a disk or a server, that trouble of a level is a miss and never an error of a read, and that
// nothing which was fetched before a purge is kept after it. Keys carry the version of the content, so that a purge that
// was missed costs room and never a stale read. It must never import a driver, a door or the namespace.
package cache

import (
	"bytes"
	"context"
	"errors"
	"io"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"firn"
)

// Bounds of what is kept.
const (
	// MaxBlock is the most bytes of Data in one Value.
	MaxBlock = 8 << 20
	// MaxMeta is the most bytes of Meta in one Value.
	MaxMeta = 32 << 10
	// MaxName is the most bytes of Object, and of Version, in one Key.
	MaxName = 4 << 10
)

// Key names one block.
type Key struct {
	// Object is what the block belongs to, such as "bucket/key" or a URL. Purges and pins match on it.
	Object string
	// Version names the object's content: other content has another version (a version id, an ETag).
	Version string
	// Block is the number of the block within the content.
	Block int64
}

// Value is one block. What was given to the cache or came from it must not be changed any more.
type Value struct {
	// Data should be a slice of its own: what it is cut from is kept with it.
	Data []byte
	// Meta is kept beside the data and not looked at.
	Meta []byte
	// Expires ends the block's life, to the millisecond; zero leaves it to the levels. A negative answer is a Value
	// whose Meta says so and which expires soon.
	Expires time.Time
}

// Match selects blocks.
type Match struct {
	// Object is the object's name, or what names begin with where Prefix is set.
	Object string
	Prefix bool
	// Version, if it is not "", limits the match to one version.
	Version string
}

// Matches reports whether k is selected.
func (m Match) Matches(k Key) bool { return m.matches(k.Object, k.Version) }

func (m Match) matches(object, version string) bool {
	if m.Version != "" && m.Version != version {
		return false
	}
	if m.Prefix {
		return strings.HasPrefix(object, m.Object)
	}
	return m.Object == object
}

// Level is one place where blocks are kept. Its methods may be called concurrently.
type Level interface {
	// Name is a word for metrics and logs.
	Name() string
	// Get returns a block. Damage, expiry and trouble of any kind are misses.
	Get(ctx context.Context, k Key) (Value, bool)
	// Put keeps a block, or not: it does no I/O, never blocks and reports nothing. The level may keep v's slices.
	Put(k Key, v Value)
	// Remove forgets what m selects, that of running Puts included. When it returns, no Get that begins then returns
	// it; when it returns nil that holds after a restart too.
	Remove(ctx context.Context, m Match) error
	// Status returns counters and sizes.
	Status() LevelStatus
	// Close ends the level. What was Put may be lost.
	Close() error
}

// LevelStatus is the state of one level. Counters are those since the start.
type LevelStatus struct {
	Name   string
	Budget int64 // bytes; 0 where the level does not set it
	// Bytes is what the level holds, all it needs to find it included; on a disk, the bytes of its files.
	Bytes  int64
	Memory int64 // bytes of memory that a level on a disk needs for its index
	Blocks int64
	Pinned int64 // bytes that are pinned

	Hits, HitBytes   uint64
	Misses           uint64 // counted by the Cache: look-ups that the level was asked for in vain
	Puts             uint64 // blocks that were kept
	Evicted, Expired uint64 // blocks that went to make room, or whose time was over
	Damaged          uint64 // blocks that failed their checksum
	Refused          uint64 // blocks that were not kept: too large, queue full, disk full
	Errors           uint64 // failed operations of the disk or the server
	// Oldest is how long ago the oldest block was fetched; 0 where there is none or the level does not know.
	Oldest time.Duration
}

// Fill fetches a block that no level has. Its context is cancelled when nobody waits for the block any more.
type Fill func(ctx context.Context) (Value, error)

// Options are the settings.
type Options struct {
	// Fills is the most blocks fetched at one time, 96 by default: with MaxBlock it bounds the memory of fetches. One origin
	// has at most two thirds of them, and less the more others have.
	Fills int
}

// Cache is levels, the nearest first. Its methods may be called concurrently.
type Cache struct {
	levels []Level
	misses []atomic.Uint64 // by level
	slots  *slots
	stats  struct{ filled, filledBytes, failed, joined atomic.Uint64 }

	// puts is held shared while blocks are handed to the levels and alone while a purge is noted, so that what was
	// fetched before a purge is either removed by it or not kept.
	puts sync.RWMutex
	// purged are the last purges; guarded by puts. Purge number n is purged[n%len].
	purged [256]Match
	purges Mark

	mu struct {
		sync.Mutex
		flights map[Key]*flight
		closed  bool
	}
	running sync.WaitGroup
}

// Mark is a moment in the sequence of purges.
type Mark uint64

var errClosed = firn.NewError(firn.Unavailable, "the cache is closed")

// New returns a cache over levels, the nearest first. Closing it closes them.
func New(opt Options, levels ...Level) *Cache {
	if opt.Fills <= 0 {
		opt.Fills = 96
	}
	c := &Cache{levels: levels, misses: make([]atomic.Uint64, len(levels)), slots: newSlots(opt.Fills)}
	c.mu.flights = map[Key]*flight{}
	return c
}

func check(k Key, v Value) error {
	switch {
	case len(k.Object) > MaxName || len(k.Version) > MaxName || k.Object == "" || k.Block < 0:
		return firn.NewError(firn.Invalid, "a cached block needs a name of 1 to 4096 bytes, a version of at most as many, and a number")
	case len(v.Data) > MaxBlock || len(v.Meta) > MaxMeta:
		return firn.NewError(firn.Invalid, "a cached block has at most 8 MiB of data and 32 KiB beside it")
	}
	return nil
}

// Lookup returns a block and the name of the level that had it. Levels before that one get it too.
func (c *Cache) Lookup(ctx context.Context, k Key) (v Value, level string, ok bool) {
	mark := c.Mark()
	for i, l := range c.levels {
		if v, ok = l.Get(ctx, k); ok {
			c.keep(k, v, mark, c.levels[:i])
			return v, l.Name(), true
		}
		c.misses[i].Add(1)
	}
	return Value{}, "", false
}

// Mark returns the present moment, for Put.
func (c *Cache) Mark() Mark {
	c.puts.RLock()
	defer c.puts.RUnlock()
	return c.purges
}

// Put keeps a block that was fetched after since. It is not kept if a purge since then selects it. firn.Invalid is a
// key or value out of bounds; there is no other error.
func (c *Cache) Put(k Key, v Value, since Mark) error {
	if err := check(k, v); err != nil {
		return err
	}
	c.keep(k, v, since, c.levels)
	return nil
}

func (c *Cache) keep(k Key, v Value, since Mark, levels []Level) {
	if len(levels) == 0 {
		return
	}
	c.puts.RLock()
	defer c.puts.RUnlock()
	if c.wasPurged(k, since) {
		return
	}
	for _, l := range levels {
		l.Put(k, v)
	}
}

// wasPurged reports whether a purge after since selects k. The caller holds puts.
func (c *Cache) wasPurged(k Key, since Mark) bool {
	if c.purges-since > Mark(len(c.purged)) {
		return true // the purge may be one of those forgotten
	}
	for n := since; n < c.purges; n++ {
		if c.purged[n%Mark(len(c.purged))].Matches(k) {
			return true
		}
	}
	return false
}

// Shared is a Level that several nodes have together.
type Shared interface {
	Level
	// Withdraw forgets what m selects of what was Put and is not in the level yet. It does no I/O.
	Withdraw(m Match)
}

// PurgeNear is Purge without the levels that several nodes share. It is for content of which each change has a version of
// its own, and for what another node has purged: there it is gone already.
func (c *Cache) PurgeNear(ctx context.Context, m Match) error { return c.purge(ctx, m, true) }

// Purge forgets what m selects in all levels. When it returns, no call that begins then sees a block that was fetched
// before; blocks that readers hold already are theirs. An error says which level could not make that durable.
func (c *Cache) Purge(ctx context.Context, m Match) error { return c.purge(ctx, m, false) }

func (c *Cache) purge(ctx context.Context, m Match, near bool) error {
	if len(m.Object) > MaxName || len(m.Version) > MaxName || m.Object == "" && !m.Prefix {
		return firn.NewError(firn.Invalid, "a purge needs a name of 1 to 4096 bytes, or a prefix")
	}
	c.puts.Lock()
	c.purged[c.purges%Mark(len(c.purged))] = m
	c.purges++
	c.puts.Unlock()
	var errs []error
	// The far levels first: a near one must not be filled again from a far one that is not purged yet.
	for i := len(c.levels) - 1; i >= 0; i-- {
		if s, ok := c.levels[i].(Shared); ok && near {
			s.Withdraw(m)
			continue
		}
		if err := c.levels[i].Remove(ctx, m); err != nil {
			errs = append(errs, firn.E("purge", c.levels[i].Name(), err))
		}
	}
	return errors.Join(errs...)
}

// Get returns a block, from a level or from fill, and the name of the level, "" for fill. All who ask for one block at
// the same time share one fill, whose error they all get. Its fills are of the origin without a name.
func (c *Cache) Get(ctx context.Context, k Key, fill Fill) (Value, string, error) {
	if err := check(k, Value{}); err != nil {
		return Value{}, "", err
	}
	if v, level, ok := c.Lookup(ctx, k); ok {
		return v, level, nil
	}
	f, err := c.join(ctx, k, "", func(ctx context.Context, w *Writer) error {
		v, err := fill(ctx)
		if err != nil {
			return err
		}
		return w.set(v)
	})
	if err != nil {
		return Value{}, "", err
	}
	defer c.leave(f, false)
	select {
	case <-f.done:
		if f.err != nil {
			return Value{}, "", f.err
		}
		return f.value(), f.level, nil
	case <-ctx.Done():
		return Value{}, "", ctx.Err()
	}
}

// Reader reads a block on its way. It is used by one goroutine, which ends with Close or Finish.
type Reader interface {
	// Read gives the error of the fetch where that fails.
	io.Reader
	// Close lets go of the block; if nobody else waits for it the fetch ends.
	Close() error
	// Finish lets go of the block, which is fetched to its end and kept.
	Finish()
}

// Stream is Get for a block whose bytes are passed on as they come: fill writes them, all readers of the block read
// them. A block that came whole is kept. origin is what it comes from: one that is slow holds up no other. size is how many
// bytes are expected, 0 where that is not known.
func (c *Cache) Stream(ctx context.Context, k Key, origin string, size int, fill func(context.Context, *Writer) error) (Reader, string, error) {
	if err := check(k, Value{}); err != nil {
		return nil, "", err
	}
	if v, level, ok := c.Lookup(ctx, k); ok {
		return whole{bytes.NewReader(v.Data)}, level, nil
	}
	f, err := c.join(ctx, k, origin, func(ctx context.Context, w *Writer) error {
		w.grow(size)
		return fill(ctx, w)
	})
	if err != nil {
		return nil, "", err
	}
	return &streamReader{c: c, ctx: ctx, f: f}, "", nil
}

// whole is a block that is there, for one who knows to seek in it.
type whole struct{ *bytes.Reader }

func (whole) Close() error { return nil }
func (whole) Finish()      {}

// Warm makes sure that a block is in the cache and reports whether it had to be fetched.
func (c *Cache) Warm(ctx context.Context, k Key, fill Fill) (fetched bool, err error) {
	_, level, err := c.Get(ctx, k, fill)
	return err == nil && level == "", err
}

// Status returns the state of the levels, the nearest first.
func (c *Cache) Status() []LevelStatus {
	out := make([]LevelStatus, len(c.levels))
	for i, l := range c.levels {
		out[i] = l.Status()
		out[i].Misses = c.misses[i].Load()
	}
	return out
}

// FillStatus are counters of fetches since the start.
type FillStatus struct {
	Fills, Failed, Bytes uint64
	Joined               uint64 // calls that shared the fetch of another
	Running              int
}

// Fills returns the counters of fetches.
func (c *Cache) Fills() FillStatus {
	return FillStatus{
		Fills: c.stats.filled.Load(), Failed: c.stats.failed.Load(), Bytes: c.stats.filledBytes.Load(),
		Joined: c.stats.joined.Load(), Running: c.slots.running(),
	}
}

// Pinner is the ability of a level to hold on to what it has of some objects.
type Pinner interface {
	// Pin keeps what m selects from being evicted, now and when it comes; m.Version is not looked at. Pins survive a
	// restart. firn.NoSpace where there are too many.
	Pin(m Match) error
	// Unpin takes a pin back; firn.NotFound where there is none.
	Unpin(m Match) error
	// Pins returns all pins.
	Pins() []Match
}

// Pinner returns the level that can pin, or nil.
func (c *Cache) Pinner() Pinner {
	for _, l := range c.levels {
		if p, ok := l.(Pinner); ok {
			return p
		}
	}
	return nil
}

// Close ends running fills, waits for them and closes the levels.
func (c *Cache) Close() error {
	c.mu.Lock()
	c.mu.closed = true
	for _, f := range c.mu.flights {
		f.cancel()
	}
	c.mu.Unlock()
	c.running.Wait()
	var errs []error
	for _, l := range c.levels {
		errs = append(errs, l.Close())
	}
	return errors.Join(errs...)
}
