// Package rediscache is a level of the cache in a Redis that several nodes share, and the bus over which they tell each
// other of purges.
//
// It owns the names of its keys, which begin with a prefix, and the form of values and messages; docs/format/cache-redis.md
// describes them. It promises that a server that is away, slow, full or wrong is a miss, that waiting blocks are bounded,
// and that a node which may have missed a purge says so within a stated time. Budget and eviction are the server's
// (maxmemory, maxmemory-policy). Only blocks of a version are kept: what is current is each node's own to find out, so that
// no message has to come for a node to be right. It must never import a level other than its own.
package rediscache

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cespare/xxhash/v2"
	"github.com/redis/go-redis/v9"

	"firn"
	"firn/cache"
)

// Options are the settings of a level.
type Options struct {
	// Client is a connection to a server or a cluster; it stays the caller's. Its ContextTimeoutEnabled must be set, or
	// Timeout is not held.
	Client redis.UniversalClient
	// Prefix begins all keys: "firn:cache:" by default.
	Prefix string
	// TTL is how long a block is kept at most: 24 hours by default.
	TTL time.Duration
	// Queue is the most bytes that wait to be sent: 16 MiB by default.
	Queue int64
	// Timeout is how long a read waits for the server: 250 ms by default. After one that failed, the server is left
	// alone for Rest, 5 s by default, and all reads are misses.
	Timeout, Rest time.Duration
}

// Level is the level. It implements cache.Level.
type Level struct {
	opt    Options
	resume atomic.Int64 // Unix nanoseconds until which the server is left alone
	stats  struct{ hits, hitBytes, puts, damaged, refused, errors atomic.Uint64 }
	wake   chan struct{}
	cancel context.CancelFunc
	done   chan struct{}
	mu     struct {
		sync.Mutex
		queue  []item
		bytes  int64
		now    *cache.Key // that is being sent
		stale  bool       // a removal came while it is being sent
		closed bool
	}
}

type item struct {
	key   cache.Key
	value cache.Value
}

func (i *item) size() int64 {
	return int64(256 + len(i.key.Object) + len(i.key.Version) + len(i.value.Data) + len(i.value.Meta))
}

var _ cache.Shared = (*Level)(nil)

// New returns a level. It does not wait for the server.
func New(opt Options) (*Level, error) {
	if opt.Prefix == "" {
		opt.Prefix = "firn:cache:"
	}
	if opt.TTL == 0 {
		opt.TTL = 24 * time.Hour
	}
	if opt.Queue == 0 {
		opt.Queue = 16 << 20
	}
	if opt.Timeout == 0 {
		opt.Timeout = 250 * time.Millisecond
	}
	if opt.Rest == 0 {
		opt.Rest = 5 * time.Second
	}
	if opt.Client == nil || opt.TTL < time.Second || opt.Queue < 1 || opt.Timeout < 0 || opt.Rest < 0 {
		return nil, firn.NewError(firn.Invalid, "a cache in Redis needs a server and a time of at least a second")
	}
	ctx, cancel := context.WithCancel(context.Background())
	l := &Level{opt: opt, wake: make(chan struct{}, 1), cancel: cancel, done: make(chan struct{})}
	go l.run(ctx)
	return l, nil
}

// Name implements cache.Level.
func (l *Level) Name() string { return "redis" }

const (
	valueMagic = "FcV1"
	valueHead  = 32
)

// keyOf is the key of a block: its object in hex, so that all blocks of an object, and of objects whose names begin
// alike, are found by the beginning of the key; then a hash of its version, and its number.
func (l *Level) keyOf(k cache.Key) string {
	var p [16]byte
	binary.BigEndian.PutUint64(p[:], xxhash.Sum64String(k.Version))
	binary.BigEndian.PutUint64(p[8:], uint64(k.Block))
	return l.opt.Prefix + hex.EncodeToString([]byte(k.Object)) + ":" + hex.EncodeToString(p[:])
}

// encode writes a value: magic, lengths of version and meta, time it expires, checksum of all else with the key's object.
func encode(k cache.Key, v cache.Value) []byte {
	p := make([]byte, valueHead, valueHead+len(k.Version)+len(v.Meta)+len(v.Data))
	copy(p, valueMagic)
	binary.LittleEndian.PutUint16(p[4:], uint16(len(k.Version)))
	binary.LittleEndian.PutUint16(p[6:], uint16(len(v.Meta)))
	if !v.Expires.IsZero() {
		binary.LittleEndian.PutUint64(p[8:], uint64(v.Expires.UnixMilli()))
	}
	binary.LittleEndian.PutUint64(p[16:], uint64(k.Block))
	p = append(append(append(p, k.Version...), v.Meta...), v.Data...)
	binary.LittleEndian.PutUint64(p[24:], sum(k, p))
	return p
}

func sum(k cache.Key, p []byte) uint64 {
	h := xxhash.New()
	_, _ = h.WriteString(k.Object)
	_, _ = h.Write(p[:24])
	_, _ = h.Write(p[valueHead:])
	return h.Sum64()
}

func decode(k cache.Key, p []byte) (v cache.Value, ok bool) {
	if len(p) < valueHead || string(p[:4]) != valueMagic || sum(k, p) != binary.LittleEndian.Uint64(p[24:]) {
		return v, false
	}
	version, meta := int(binary.LittleEndian.Uint16(p[4:])), int(binary.LittleEndian.Uint16(p[6:]))
	rest := p[valueHead:]
	if version+meta > len(rest) || string(rest[:version]) != k.Version || binary.LittleEndian.Uint64(p[16:]) != uint64(k.Block) ||
		len(rest)-version-meta > cache.MaxBlock {
		return v, false
	}
	if meta > 0 {
		v.Meta = rest[version : version+meta : version+meta]
	}
	v.Data = rest[version+meta:]
	if ms := int64(binary.LittleEndian.Uint64(p[8:])); ms != 0 {
		v.Expires = time.UnixMilli(ms)
	}
	return v, true
}

func (l *Level) resting() bool { return time.Now().UnixNano() < l.resume.Load() }

func (l *Level) failed() {
	l.stats.errors.Add(1)
	l.resume.Store(time.Now().Add(l.opt.Rest).UnixNano())
}

// Get implements cache.Level.
func (l *Level) Get(ctx context.Context, k cache.Key) (cache.Value, bool) {
	if k.Version == "" || l.resting() {
		return cache.Value{}, false
	}
	tctx, cancel := context.WithTimeout(ctx, l.opt.Timeout)
	defer cancel()
	p, err := l.opt.Client.Get(tctx, l.keyOf(k)).Bytes()
	if err != nil {
		if !errors.Is(err, redis.Nil) && ctx.Err() == nil {
			l.failed()
		}
		return cache.Value{}, false
	}
	v, ok := decode(k, p)
	if !ok {
		l.stats.damaged.Add(1)
		return cache.Value{}, false
	}
	if !v.Expires.IsZero() && !time.Now().Before(v.Expires) {
		return cache.Value{}, false
	}
	l.stats.hits.Add(1)
	l.stats.hitBytes.Add(uint64(len(v.Data)))
	return v, true
}

// Put implements cache.Level.
func (l *Level) Put(k cache.Key, v cache.Value) {
	if k.Version == "" {
		return
	}
	i := item{k, v}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.mu.closed || l.resting() || l.mu.bytes > 0 && l.mu.bytes+i.size() > l.opt.Queue ||
		len(k.Object) > cache.MaxName || len(k.Version) > cache.MaxName || len(v.Meta) > cache.MaxMeta || len(v.Data) > cache.MaxBlock {
		l.stats.refused.Add(1)
		return
	}
	l.mu.queue = append(l.mu.queue, i)
	l.mu.bytes += i.size()
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// run sends what was put.
func (l *Level) run(ctx context.Context) {
	defer close(l.done)
	for ctx.Err() == nil {
		l.mu.Lock()
		if len(l.mu.queue) == 0 {
			l.mu.Unlock()
			select {
			case <-l.wake:
			case <-ctx.Done():
			}
			continue
		}
		i := l.mu.queue[0]
		l.mu.queue[0] = item{}
		l.mu.queue = l.mu.queue[1:]
		l.mu.now, l.mu.stale = &i.key, false
		l.mu.Unlock()
		l.send(ctx, &i)
		l.mu.Lock()
		stale := l.mu.stale
		l.mu.now = nil
		l.mu.bytes -= i.size()
		l.mu.Unlock()
		if stale {
			l.unlink(ctx, l.keyOf(i.key))
		}
	}
}

func (l *Level) send(ctx context.Context, i *item) {
	ttl := l.opt.TTL
	if !i.value.Expires.IsZero() {
		ttl = min(ttl, time.Until(i.value.Expires))
	}
	if ttl <= 0 || l.resting() {
		l.stats.refused.Add(1)
		return
	}
	tctx, cancel := context.WithTimeout(ctx, 4*l.opt.Timeout)
	defer cancel()
	if err := l.opt.Client.Set(tctx, l.keyOf(i.key), encode(i.key, i.value), max(ttl, time.Millisecond)).Err(); err != nil {
		l.stats.refused.Add(1)
		// A server that is full refuses blocks and still has others.
		if !strings.HasPrefix(err.Error(), "OOM ") {
			l.failed()
		}
		return
	}
	l.stats.puts.Add(1)
}

func (l *Level) unlink(ctx context.Context, keys ...string) {
	tctx, cancel := context.WithTimeout(ctx, 4*l.opt.Timeout)
	defer cancel()
	if err := l.opt.Client.Unlink(tctx, keys...).Err(); err != nil {
		l.failed()
	}
}

// Withdraw implements cache.Shared.
func (l *Level) Withdraw(m cache.Match) { l.withdraw(m) }

// withdraw reports whether the level is open.
func (l *Level) withdraw(m cache.Match) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	kept := l.mu.queue[:0]
	for _, i := range l.mu.queue {
		if m.Matches(i.key) {
			l.mu.bytes -= i.size()
		} else {
			kept = append(kept, i)
		}
	}
	clear(l.mu.queue[len(kept):])
	l.mu.queue = kept
	if l.mu.now != nil && m.Matches(*l.mu.now) {
		l.mu.stale = true
	}
	return !l.mu.closed
}

// Remove implements cache.Level. It goes through the keys of the server. A removal in one version alone goes through
// those of all: it removes more than it was asked for.
func (l *Level) Remove(ctx context.Context, m cache.Match) error {
	if !l.withdraw(m) {
		return firn.NewError(firn.Unavailable, "the cache is closed")
	}
	pattern := globEscape(l.opt.Prefix) + hex.EncodeToString([]byte(m.Object))
	if m.Prefix {
		pattern += "*"
	} else {
		pattern += ":*"
	}
	each := func(ctx context.Context, c redis.Cmdable) error {
		var cursor uint64
		for {
			keys, next, err := c.Scan(ctx, cursor, pattern, 1000).Result()
			if err != nil {
				return err
			}
			for _, k := range keys { // one by one, since those of a cluster are in several slots
				if err := c.Unlink(ctx, k).Err(); err != nil {
					return err
				}
			}
			if cursor = next; cursor == 0 {
				return nil
			}
		}
	}
	var err error
	if cluster, ok := l.opt.Client.(*redis.ClusterClient); ok {
		err = cluster.ForEachMaster(ctx, func(ctx context.Context, c *redis.Client) error { return each(ctx, c) })
	} else {
		err = each(ctx, l.opt.Client)
	}
	if err != nil {
		l.stats.errors.Add(1)
		return &firn.Error{Kind: firn.Unavailable, Op: "remove blocks from", Subject: "Redis", Err: err}
	}
	return nil
}

// globEscape writes s so that SCAN's MATCH takes it as it is.
func globEscape(s string) string {
	return strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`, `]`, `\]`).Replace(s)
}

// Status implements cache.Level. Bytes and evictions are the server's to tell, not this node's.
func (l *Level) Status() cache.LevelStatus {
	return cache.LevelStatus{
		Name: l.Name(), Hits: l.stats.hits.Load(), HitBytes: l.stats.hitBytes.Load(), Puts: l.stats.puts.Load(),
		Damaged: l.stats.damaged.Load(), Refused: l.stats.refused.Load(), Errors: l.stats.errors.Load(),
	}
}

// Close implements cache.Level. What waits is dropped.
func (l *Level) Close() error {
	l.mu.Lock()
	l.mu.closed = true
	l.mu.Unlock()
	l.cancel()
	<-l.done
	return nil
}
