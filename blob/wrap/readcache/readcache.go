// Package readcache is a wrapper that keeps what was read from a slow place in blocks in a local directory.
//
// It promises that the directory never holds more bytes than its budget, that a block is compared with its hash whenever
// it is read, that contents survive a restart or a crash, that several readers of a block fetch it once, and that nothing
// is served that the validation does not allow. It must never import a concrete driver.
// The format is described in docs/format/blob-readcache.md.
package readcache

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"

	"firn"
	"firn/blob/driver"
	"firn/blob/wrap"
)

// Options are the settings.
type Options struct {
	// Dir is the directory, on a fast local disk; it is used by one cache at a time.
	Dir string
	// Budget is the most that the files in Dir may hold together, in bytes.
	Budget int64
	// Block is how many bytes are fetched and kept together: 1 MiB by default, 4 KiB to 64 MiB.
	Block int
	// Immutable says of which keys the content is never replaced by other clients; nil is none. The place is not asked
	// about such a blob if there are blocks of it. For a repository these are packs/ and index/ and nothing else: a
	// session or a snapshot that was remembered would hide that another host removed it.
	Immutable func(key string) bool
	// Stale is how long after the place was asked for size and time of a blob its blocks are served without asking
	// again. 0 asks at each read, which makes reads as fresh as without a cache. Own changes are seen at once.
	Stale time.Duration
}

// Stats are counters since the start, and the bytes held now.
type Stats struct {
	Hits, Misses         int64 // blocks
	HitBytes, MissBytes  int64
	Evicted, Damaged     int64 // blocks
	Validations, Refused int64 // requests for size and time; blocks that could not be kept (a full disk, a read-only one)
	Held                 int64 // bytes in files
}

const (
	minBlock  = 4 << 10
	maxBlock  = 64 << 20
	maxInfos  = 10_000 // sizes and times remembered
	maxBlocks = 1 << 22
	tries     = 3
)

// errChanged ends a read whose blob was replaced under it.
var errChanged = firn.NewError(firn.Unavailable, "the blob was replaced while it was read: read it again")

// Cache is the wrapper.
type Cache struct {
	inner driver.Driver
	can   wrap.Abilities
	opt   Options
	store *store
	stats struct {
		hits, misses, hitBytes, missBytes, validations atomic.Int64
	}
	mu struct {
		sync.Mutex
		infos   *simplelru.LRU[string, checked]
		changes *simplelru.LRU[string, change] // of the keys that were changed last
		last    uint64                         // epoch
		fetches map[blockID]*fetch
	}
}

// checked is what the place said of a blob.
type checked struct {
	info driver.Info
	at   time.Time
}

// change is what this cache changed of a key: how many changes are under way, and the number of the last.
type change struct {
	running int
	epoch   uint64
}

// fetch is a block on its way; done is closed when it came or failed.
type fetch struct{ done chan struct{} }

// New returns inner with its reads cached in opt.Dir. Closing it closes inner and lets go of the directory.
func New(inner driver.Driver, opt Options) (*Cache, error) {
	if opt.Block == 0 {
		opt.Block = 1 << 20
	}
	if opt.Block < minBlock || opt.Block > maxBlock || opt.Stale < 0 || opt.Dir == "" {
		return nil, firn.NewError(firn.Invalid, "the cache needs a directory, blocks of 4 KiB to 64 MiB, and a time that is not negative")
	}
	if opt.Budget < int64(opt.Block)+blockHead {
		return nil, firn.NewError(firn.Invalid, fmt.Sprintf("the cache's budget of %d bytes is less than one block of %d", opt.Budget, opt.Block))
	}
	st, err := openStore(opt.Dir, opt.Budget)
	if err != nil {
		return nil, err
	}
	c := &Cache{inner: inner, can: wrap.Of(inner), opt: opt, store: st}
	c.mu.fetches = map[blockID]*fetch{}
	if c.mu.infos, err = simplelru.NewLRU[string, checked](maxInfos, nil); err == nil {
		c.mu.changes, err = simplelru.NewLRU[string, change](maxInfos, nil)
	}
	if err != nil {
		return nil, errors.Join(err, st.close())
	}
	return c, nil
}

// Driver returns the cache with the abilities of the place.
func (c *Cache) Driver() driver.Driver { return wrap.Narrow(c, c.can) }

// Inner is not transparent: changes that passed the cache by would leave old blocks.
func (c *Cache) Inner() (driver.Driver, bool) { return c.inner, false }

// Close closes the place and lets go of the directory.
func (c *Cache) Close() error { return errors.Join(c.inner.Close(), c.store.close()) }

// Stats returns the counters.
func (c *Cache) Stats() Stats {
	s := c.store.stats()
	s.Hits, s.Misses = c.stats.hits.Load(), c.stats.misses.Load()
	s.HitBytes, s.MissBytes = c.stats.hitBytes.Load(), c.stats.missBytes.Load()
	s.Validations = c.stats.validations.Load()
	return s
}

// changing runs fn, which changes keys. What is cached of them goes before and after: a block fetched meanwhile may be
// of either content.
func (c *Cache) changing(fn func() error, keys ...string) error {
	note := func(by int) {
		c.mu.Lock()
		for _, key := range keys {
			ch, _ := c.mu.changes.Get(key)
			ch.running = max(ch.running+by, 0)
			c.mu.last++
			ch.epoch = c.mu.last
			c.mu.changes.Add(key, ch)
			c.mu.infos.Remove(key)
		}
		c.mu.Unlock()
		for _, key := range keys {
			c.store.drop(keyID(key))
		}
	}
	note(1)
	err := fn()
	note(-1)
	return err
}

func (c *Cache) immutable(key string) bool { return c.opt.Immutable != nil && c.opt.Immutable(key) }

// epoch numbers the own changes of key, and says whether one is running.
func (c *Cache) epoch(key string) (epoch uint64, running bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	ch, _ := c.mu.changes.Get(key)
	return ch.epoch, ch.running > 0
}

// Put writes through.
func (c *Cache) Put(ctx context.Context, key string, src driver.Source) error {
	return c.changing(func() error { return c.inner.Put(ctx, key, src) }, key)
}

// Resume writes through.
func (c *Cache) Resume(ctx context.Context, key string, src driver.Source) error {
	return c.changing(func() error { return c.can.Resumer.Resume(ctx, key, src) }, key)
}

// Abandon goes to the place: what it removes nobody could read.
func (c *Cache) Abandon(ctx context.Context, key string) error {
	return c.can.Resumer.Abandon(ctx, key)
}

// Create writes through.
func (c *Cache) Create(ctx context.Context, key string, src driver.Source) error {
	return c.changing(func() error { return c.can.Creator.Create(ctx, key, src) }, key)
}

// Apply writes through.
func (c *Cache) Apply(ctx context.Context, changes []driver.Change) error {
	keys := make([]string, len(changes))
	for i, ch := range changes {
		keys[i] = ch.Key
	}
	return c.changing(func() error { return c.can.Batcher.Apply(ctx, changes) }, keys...)
}

// Delete writes through.
func (c *Cache) Delete(ctx context.Context, key string) error {
	return c.changing(func() error { return c.inner.Delete(ctx, key) }, key)
}

// DeleteAll writes through.
func (c *Cache) DeleteAll(ctx context.Context, keys []string) error {
	return c.changing(func() error { return c.can.Bulk.DeleteAll(ctx, keys) }, keys...)
}

// Stat asks the place.
func (c *Cache) Stat(ctx context.Context, key string) (driver.Info, error) {
	return c.inner.Stat(ctx, key)
}

// List asks the place.
func (c *Cache) List(ctx context.Context, prefix string, fn func(driver.Info) error) error {
	return c.inner.List(ctx, prefix, fn)
}

// Space asks the place.
func (c *Cache) Space(ctx context.Context) (driver.Space, error) { return c.can.Measurer.Space(ctx) }

// Get serves blocks from the directory, and fetches those that are not there. A blob of which the place does not tell
// the time passes the cache by, unless it never changes.
func (c *Cache) Get(ctx context.Context, key string, offset, length int64) (io.ReadCloser, error) {
	for range tries {
		rc, err := c.open(ctx, key, offset, length)
		if !errors.Is(err, errChanged) {
			return rc, err
		}
		c.mu.Lock()
		c.mu.infos.Remove(key)
		c.mu.Unlock()
	}
	return c.inner.Get(ctx, key, offset, length)
}

// open returns a reader that has its first block: until then it can be opened anew when the blob turns out to be another.
func (c *Cache) open(ctx context.Context, key string, offset, length int64) (io.ReadCloser, error) {
	epoch, changing := c.epoch(key)
	if changing || offset/int64(c.opt.Block) > math.MaxUint32/2 {
		return c.inner.Get(ctx, key, offset, length)
	}
	r := &reader{c: c, ctx: ctx, key: key, at: offset, left: length, epoch: epoch}
	if !c.immutable(key) {
		info, err := c.check(ctx, key)
		if err != nil {
			return nil, err
		}
		if info.Modified.IsZero() {
			return c.inner.Get(ctx, key, offset, length)
		}
		r.info = info
		if rest := max(info.Size-offset, 0); r.left < 0 || r.left > rest {
			r.left = rest
		}
		if r.left == 0 {
			return io.NopCloser(bytes.NewReader(nil)), nil
		}
	}
	if err := r.fill(); err != nil && err != io.EOF {
		return nil, err
	}
	return r, nil
}

// check returns size and time of the blob, from memory if they are fresh enough.
func (c *Cache) check(ctx context.Context, key string) (driver.Info, error) {
	c.mu.Lock()
	known, ok := c.mu.infos.Get(key)
	c.mu.Unlock()
	if ok && c.opt.Stale > 0 && time.Since(known.at) < c.opt.Stale {
		return known.info, nil
	}
	return c.ask(ctx, key)
}

// ask asks the place, and remembers the answer unless the blob changes at this moment.
func (c *Cache) ask(ctx context.Context, key string) (driver.Info, error) {
	c.stats.validations.Add(1)
	at := time.Now()
	epoch, changing := c.epoch(key)
	info, err := c.inner.Stat(ctx, key)
	if now, _ := c.epoch(key); err != nil || changing || now != epoch {
		return info, err
	}
	c.mu.Lock()
	c.mu.infos.Add(key, checked{info, at})
	c.mu.Unlock()
	return info, nil
}
