// Package tiercache reads what is on tiers by way of a cache, and fetches ahead what will probably be read next.
//
// It owns how a blob on a tier is cut into blocks and what they are called. It promises that a read fetches the blocks it
// touches and no others, in one request for those that follow each other; that a block is fetched once for all who wait;
// that a tier which is away is not asked for what is kept; and that nothing is kept under a name that other bytes ever
// get: names have the version's run of bytes in them, so that no change anywhere has to be told. What it returns is compared
// with the namespace's own checksums by object/remote, which says when something kept was wrong. It must never write to a
// tier or change the namespace.
package tiercache

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"firn"
	"firn/cache"
	"firn/object/record"
	"firn/object/remote"
	"firn/prefetch"
)

// Sizes of blocks: small ones cost less where a range is read, large ones less to remember.
const (
	smallBlock = 256 << 10
	largeBlock = 1 << 20
	// largeFrom is from which size on a blob is kept in large ones.
	largeFrom = 64 << 20
)

func blockSize(size int64) int64 {
	if size < largeFrom {
		return smallBlock
	}
	return largeBlock
}

// maxAhead is the most that is fetched ahead of an object of which nothing was read yet, in bytes.
const maxAhead = 64 << 20

// rest is how long nothing is fetched ahead after somebody waited for a tier: who reads on in order asks for the next block
// within it.
const rest = 20 * time.Millisecond

// Name is what versions of a key are called in the cache. Names of other things in it must begin otherwise than buckets do.
func Name(bucket, key string) string { return bucket + "/" + key }

// Tiers are tiers that are read by way of a cache. It is the object.Options.Remote of a namespace. Its methods may be
// called concurrently.
type Tiers struct {
	remote.Tiers
	cache *cache.Cache
	head  Head
	ahead *prefetch.Runner // nil: nothing is fetched ahead

	read    map[string]*atomic.Uint64 // bytes that were read, by where they came from
	wrong   atomic.Uint64
	fetched atomic.Uint64 // bytes that came from tiers, fetched ahead or not
}

// fromTier is, in Status.Read, where bytes come from that no level had.
const fromTier = "tier"

// Head finds the current version of a key.
type Head func(ctx context.Context, bucket, key string) (*record.Version, error)

var _ remote.Keeper = (*Tiers)(nil)

// New returns tiers by way of c, which stays the caller's.
func New(tiers remote.Tiers, c *cache.Cache) *Tiers {
	t := &Tiers{Tiers: tiers, cache: c, read: map[string]*atomic.Uint64{fromTier: {}}}
	for _, l := range c.Status() {
		t.read[l.Name] = &atomic.Uint64{}
	}
	return t
}

// Prefetch has what will probably be read next fetched ahead, at most rate bytes a second over time, while Run runs. It is
// called before anything is read.
func (t *Tiers) Prefetch(head Head, rate int64) error {
	l, err := prefetch.New(prefetch.Options{})
	if err != nil {
		return err
	}
	t.head = head
	t.ahead, err = prefetch.NewRunner(l, t.fetchAhead, prefetch.RunnerOptions{Rate: rate, Rest: rest})
	return err
}

// Run fetches ahead until ctx ends.
func (t *Tiers) Run(ctx context.Context) error {
	if t.ahead == nil {
		return nil
	}
	if err := t.ahead.Run(ctx); ctx.Err() == nil {
		return err
	}
	return nil
}

// Status are counters since the start.
type Status struct {
	// Read are the bytes that readers got, by the level they came from, and "tier" for those that no level had.
	Read map[string]uint64
	// Fetched are the bytes that tiers sent for it, those fetched ahead included.
	Fetched uint64
	// Wrong is how often something was not what the namespace's checksums say, and was forgotten.
	Wrong uint64
	// Ahead are the counters of what is fetched ahead; zero where nothing is.
	Ahead prefetch.RunnerStats
}

// Status returns the counters.
func (t *Tiers) Status() Status {
	s := Status{Read: map[string]uint64{}, Fetched: t.fetched.Load(), Wrong: t.wrong.Load()}
	for name, n := range t.read {
		s.Read[name] = n.Load()
	}
	if t.ahead != nil {
		s.Ahead = t.ahead.Stats()
	}
	return s
}

// Of implements remote.Keeper.
func (t *Tiers) Of(v *record.Version) remote.Kept {
	if k := t.of(v); k != nil {
		return k
	}
	return nil
}

// of returns nil for a version whose name is too long to keep anything under.
func (t *Tiers) of(v *record.Version) *kept {
	k := &kept{
		t: t, loc: v.Location, size: v.Size, name: Name(v.Bucket, v.Key),
		version: v.Location.Tier + " " + hex.EncodeToString(v.Location.ID[:]),
	}
	if len(k.name) > cache.MaxName || len(k.version) > cache.MaxName {
		return nil
	}
	return k
}

// Warm makes sure that length bytes of a version from offset are kept, whole blocks of them, and returns how many bytes
// were fetched for it. A version that has its bytes here needs nothing.
func (t *Tiers) Warm(ctx context.Context, v *record.Version, offset, length int64) (int64, error) {
	return t.warm(ctx, v, offset, length, false)
}

func (t *Tiers) warm(ctx context.Context, v *record.Version, offset, length int64, single bool) (int64, error) {
	if v.Location == nil || v.Local() || offset >= v.Size {
		return 0, nil
	}
	k := t.of(v)
	if k == nil {
		return 0, nil
	}
	r := &reader{k: k, ctx: ctx, quiet: true, single: single, off: offset, end: min(v.Size, offset+length)}
	defer r.Close()
	_, err := io.Copy(io.Discard, r)
	return r.fetched.Load(), err
}

// fetchAhead is the prefetch.Fetch.
func (t *Tiers) fetchAhead(ctx context.Context, s prefetch.Suggestion) (int64, error) {
	bucket, key, _ := strings.Cut(s.Object, "/")
	v, err := t.head(ctx, bucket, key)
	switch {
	case firn.KindOf(err) == firn.NotFound:
		return 0, nil // a name that was made up
	case err != nil:
		return 0, err
	}
	n := s.Length
	if n == 0 {
		n = maxAhead
	}
	// Block by block, so that little is on its way that somebody who comes has to wait behind.
	return t.warm(ctx, v, s.Offset, n, true)
}

// kept reads one version. It implements remote.Kept.
type kept struct {
	t             *Tiers
	loc           *record.Location
	size          int64
	name, version string
	// relied: something came from a level.
	relied atomic.Bool
}

// Open implements remote.Kept.
func (k *kept) Open(ctx context.Context, offset, length int64) (io.ReadCloser, error) {
	if offset < 0 || length < 0 || offset > k.size || length > k.size-offset {
		return nil, firn.NewError(firn.Internal, fmt.Sprintf("a read of %d bytes at %d of a blob of %d", length, offset, k.size))
	}
	if k.t.ahead != nil {
		k.t.ahead.Observe(prefetch.Access{Time: time.Now(), Object: k.name, Size: k.size, Offset: offset, Length: length})
	}
	return &reader{k: k, ctx: ctx, off: offset, end: offset + length}, nil
}

// Forget implements remote.Kept.
func (k *kept) Forget(ctx context.Context) bool {
	k.t.wrong.Add(1)
	// What a level cannot forget for good it forgets until a restart, and then this is found once more.
	_ = k.t.cache.Purge(ctx, cache.Match{Object: k.name, Version: k.version})
	return k.relied.Swap(false)
}

// reader reads on in a version, block by block. It is used by one goroutine.
type reader struct {
	k        *kept
	ctx      context.Context
	quiet    bool // nobody waits for it: what it reads counts for nothing
	single   bool // each block is a request of its own
	off, end int64

	block   cache.Reader // the open one
	left    int64        // bytes of it that are wanted
	from    *atomic.Uint64
	run     run
	fetched atomic.Int64
}

// Read implements io.Reader.
func (r *reader) Read(p []byte) (int, error) {
	if r.block == nil {
		if r.off == r.end {
			return 0, io.EOF
		}
		if err := r.open(); err != nil {
			return 0, err
		}
	}
	n, err := r.block.Read(p[:min(int64(len(p)), r.left)])
	r.off += int64(n)
	r.left -= int64(n)
	if !r.quiet {
		r.from.Add(uint64(n))
	}
	switch {
	case r.left == 0 && r.off < r.end:
		// To its end, so that the fetch is over, and the next one goes on with its request.
		if _, err = io.Copy(io.Discard, r.block); err != nil {
			return n, err
		}
		fallthrough
	case r.left == 0:
		r.block.Finish() // who reads a part of it reads on, or comes back
		r.block = nil
		return n, nil
	case errors.Is(err, io.EOF):
		return n, errShort
	}
	return n, err
}

// open opens the block that off is in.
func (r *reader) open() error {
	size := blockSize(r.k.size)
	number := r.off / size
	begin := number * size
	length := min(size, r.k.size-begin)
	key := cache.Key{Object: r.k.name, Version: r.k.version, Block: number}
	block, level, err := r.k.t.cache.Stream(r.ctx, key, "tier "+r.k.loc.Tier, int(length), func(ctx context.Context, w *cache.Writer) error {
		return r.fetch(ctx, w, begin, length)
	})
	if err != nil {
		return err
	}
	if within := r.off - begin; within > 0 {
		if s, ok := block.(io.Seeker); ok {
			_, err = s.Seek(within, io.SeekStart)
		} else {
			_, err = io.CopyN(io.Discard, block, within)
		}
		if err != nil {
			_ = block.Close() // only lets go
			if errors.Is(err, io.EOF) {
				err = errShort
			}
			return err
		}
	}
	if level == "" {
		level = fromTier
	} else {
		r.k.relied.Store(true)
	}
	r.block, r.left, r.from = block, min(length-(r.off-begin), r.end-r.off), r.k.t.read[level]
	return nil
}

func (r *reader) closeBlock() {
	if r.block != nil {
		_ = r.block.Close() // only lets go
		r.block = nil
	}
}

// Close implements io.Closer. Who else waits for a block that r fetches gets it.
func (r *reader) Close() error {
	r.closeBlock()
	r.off = r.end
	r.run.close()
	return nil
}

// errShort tells of a blob that ends before it should, as remote.Tiers does.
var errShort = firn.NewError(firn.Corrupt, "the blob ends before it should")

// fetch writes a block of the blob to w. It goes on with the request that fetched the block before, where r did that.
func (r *reader) fetch(ctx context.Context, w io.Writer, begin, length int64) error {
	if r.k.t.ahead != nil && !r.quiet {
		defer r.k.t.ahead.Foreground()()
	}
	src, err := r.run.take(ctx, begin, func(ctx context.Context) (io.ReadCloser, error) {
		size := blockSize(r.k.size)
		end := min(r.k.size, (r.end+size-1)/size*size)
		if r.single {
			end = begin
		}
		return r.k.t.Open(ctx, r.k.loc.Tier, r.k.loc.Key, begin, max(end, begin+length)-begin)
	})
	if err != nil {
		return err
	}
	n, err := io.CopyN(w, src, length)
	r.fetched.Add(n)
	r.k.t.fetched.Add(uint64(n))
	if errors.Is(err, io.EOF) {
		err = errShort
	}
	at := begin + n
	if r.single {
		at = -1 // it has nothing more
	}
	r.run.put(src, at, err)
	return err
}

// run is a request to a tier that several blocks, one after the other, come from.
type run struct {
	mu     sync.Mutex
	src    *request // between blocks
	at     int64    // where it stands
	closed bool
}

// request is an answer on its way. It ends with its own context, not with that of the read that began it.
type request struct {
	io.ReadCloser
	cancel context.CancelFunc
	stop   func() bool // ends the watch over the context of the block it is at
}

func (q *request) end() {
	q.cancel()
	_ = q.Close() // what was read is there
}

// take returns the request that stands at off, or a new one. It ends when ctx does, before put.
func (r *run) take(ctx context.Context, off int64, open func(context.Context) (io.ReadCloser, error)) (*request, error) {
	r.mu.Lock()
	src := r.src
	r.src = nil
	at := r.at
	r.mu.Unlock()
	if src != nil && at != off {
		src.end()
		src = nil
	}
	if src == nil {
		qctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
		stop := context.AfterFunc(ctx, cancel)
		body, err := open(qctx)
		if err != nil {
			stop()
			cancel()
			return nil, err
		}
		return &request{ReadCloser: body, cancel: cancel, stop: stop}, nil
	}
	src.stop = context.AfterFunc(ctx, src.cancel)
	return src, nil
}

// put gives a request back, which stands at off.
func (r *run) put(src *request, off int64, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !src.stop() || err != nil || r.closed {
		src.end()
		return
	}
	r.src, r.at = src, off
}

func (r *run) close() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.closed = true
	if r.src != nil {
		r.src.end()
		r.src = nil
	}
}
