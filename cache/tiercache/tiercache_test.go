package tiercache

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"firn"
	"firn/blob"
	"firn/blob/driver"
	"firn/blob/memblob"
	"firn/cache"
	"firn/kv/pebblekv"
	"firn/object"
	"firn/object/record"
	"firn/tier"
	"firn/vfs"
)

// slow is a place that counts what is asked of it, can be away and spoils what it is told to.
type slow struct {
	driver.Driver
	mu    sync.Mutex
	away  bool
	asked []string // offset+length of each read
	sent  int64
	wait  chan struct{} // not nil: reads wait for it
	gate  chan struct{} // not nil: what follows the first 64 KiB of a read waits for it
	spoil bool
}

func (s *slow) Get(ctx context.Context, key string, offset, length int64) (io.ReadCloser, error) {
	s.mu.Lock()
	s.asked = append(s.asked, fmt.Sprintf("%d+%d", offset, length))
	away, wait, gate, spoil := s.away, s.wait, s.gate, s.spoil
	s.mu.Unlock()
	if wait != nil {
		select {
		case <-wait:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	if away {
		return nil, firn.NewError(firn.Unavailable, "no route to host")
	}
	r, err := s.Driver.Get(ctx, key, offset, length)
	if err != nil {
		return nil, err
	}
	return &sending{r, s, ctx, gate, 0, spoil}, nil
}

type sending struct {
	io.ReadCloser
	s     *slow
	ctx   context.Context
	gate  chan struct{}
	sent  int
	spoil bool
}

func (r *sending) Read(p []byte) (int, error) {
	if r.gate != nil {
		if r.sent == 64<<10 {
			select {
			case <-r.gate:
			case <-r.ctx.Done():
				return 0, r.ctx.Err()
			}
			r.gate = nil
		} else {
			p = p[:min(len(p), 64<<10-r.sent)]
		}
	}
	n, err := r.ReadCloser.Read(p)
	r.sent += n
	if r.spoil && n > 0 {
		p[0] ^= 1
	}
	r.s.mu.Lock()
	r.s.sent += int64(n)
	r.s.mu.Unlock()
	return n, err
}

// was returns what was asked since the last call.
func (s *slow) was() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	list := s.asked
	s.asked = nil
	return list
}

func (s *slow) set(change func(*slow)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change(s)
}

// site is a namespace whose versions are on a tier and read by way of a cache.
type site struct {
	*object.Store
	t     *testing.T
	place *slow
	tiers *Tiers
	cache *cache.Cache
	mover *tier.Mover
	next  int64
}

func newSite(t *testing.T, levels ...cache.Level) *site {
	t.Helper()
	if len(levels) == 0 {
		memory, err := cache.NewMemory(cache.MemoryOptions{Budget: 64 << 20})
		if err != nil {
			t.Fatal(err)
		}
		levels = []cache.Level{memory}
	}
	s := &site{t: t, place: &slow{Driver: memblob.New(memblob.Options{})}, cache: cache.New(cache.Options{}, levels...)}
	set, err := tier.NewSet([]tier.Place{{Name: "cold", Class: "COLD", Store: blob.New(s.place, "mem:cold")}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	s.tiers = New(set, s.cache)
	fs := vfs.NewMem()
	db, err := pebblekv.Open(fs, "data/kv", pebblekv.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if s.Store, err = object.Open(t.Context(), fs, "data", db, object.Options{ReserveBytes: -1, Remote: s.tiers}); err != nil {
		t.Fatal(err)
	}
	s.mover = tier.NewMover(s.Store, set, tier.Options{Site: "site-1"})
	t.Cleanup(func() {
		if err := s.cache.Close(); err != nil {
			t.Error(err)
		}
		s.Store.Close() // what matters is in the tests
		db.Close()
	})
	if _, err := s.CreateBucket(t.Context(), "bkt", object.BucketOptions{}); err != nil {
		t.Fatal(err)
	}
	return s
}

// put stores n bytes on the tier and returns them.
func (s *site) put(key string, n int) []byte {
	s.t.Helper()
	s.next++
	p := make([]byte, n)
	r := rand.New(rand.NewPCG(uint64(s.next), 5))
	for i := range p {
		p[i] = byte(r.Uint32())
	}
	if _, err := s.Put(s.t.Context(), "bkt", key, bytes.NewReader(p), object.PutOptions{Size: int64(n)}); err != nil {
		s.t.Fatal(err)
	}
	v, err := s.Head(s.t.Context(), "bkt", key, "")
	if err != nil {
		s.t.Fatal(err)
	}
	for _, err := range s.mover.Move(s.t.Context(), "cold", []record.Version{*v}, object.MoveOptions{Class: "COLD"}) {
		if err != nil {
			s.t.Fatal(err)
		}
	}
	s.place.was()
	return p
}

func (s *site) read(key string, off, n int64) ([]byte, error) {
	s.t.Helper()
	o, err := s.Open(s.t.Context(), "bkt", key, "")
	if err != nil {
		s.t.Fatal(err)
	}
	defer o.Close()
	var b bytes.Buffer
	_, err = o.WriteRange(s.t.Context(), &b, off, n)
	return b.Bytes(), err
}

func (s *site) want(key string, p []byte, off, n int64, asked ...string) {
	s.t.Helper()
	got, err := s.read(key, off, n)
	if err != nil || !bytes.Equal(got, p[off:off+n]) {
		s.t.Errorf("%s from %d: %d bytes, %v", key, off, len(got), err)
	}
	if was := s.place.was(); !slices.Equal(was, asked) {
		s.t.Errorf("%s from %d, %d bytes: asked for %q, want %q", key, off, n, was, asked)
	}
}

// TestBlocks: a read asks the tier for the blocks it touches and are not there, in one request for those that follow each
// other, and for none of those that are; what is there is served while the tier is away.
func TestBlocks(t *testing.T) {
	s := newSite(t)
	const size = 1<<20 + 100
	p := s.put("k", size)
	s.want("k", p, 10, 5, "0+262144")
	s.want("k", p, 0, 262144)
	s.want("k", p, 300_000, 10, "262144+262144")
	// The first two blocks are there: the rest comes in one request.
	s.want("k", p, 0, size, fmt.Sprintf("524288+%d", size-524288))
	small := s.put("small", 1000)
	s.want("small", small, 100, 20, "0+1000")
	empty := s.put("empty", 0)
	s.want("empty", empty, 0, 0)
	s.place.set(func(p *slow) { p.away = true })
	s.want("k", p, 0, size)
	s.want("small", small, 0, 1000)
	// Readers read in checked blocks of 64 KiB, of which who asks gets a part. What is on its way counts as the tier's.
	if st := s.tiers.Status(); st.Fetched != size+1000 || st.Read["tier"]+st.Read["memory"] != 65536+262144+65536+2*size+2*1000 || st.Read["tier"] < size-524288 {
		t.Errorf("%+v", st)
	}
}

// TestAway: what is not there says of its tier that it is away.
func TestAway(t *testing.T) {
	s := newSite(t)
	p := s.put("k", 1<<20)
	s.want("k", p, 0, 1, "0+262144")
	s.place.set(func(p *slow) { p.away = true })
	got, err := s.read("k", 0, 1<<20)
	if firn.KindOf(err) != firn.Unavailable || !bytes.Equal(got, p[:262144]) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	s.place.set(func(p *slow) { p.away = false })
	s.place.was()
	s.want("k", p, 0, 1<<20, "262144+786432")
}

// TestOverwritten: content under a name is never another's, whatever the tier calls its blobs.
func TestOverwritten(t *testing.T) {
	s := newSite(t)
	for range 3 {
		p := s.put("k", 400_000)
		s.want("k", p, 0, 400_000, "0+400000")
		s.want("k", p, 0, 400_000)
	}
	if st := s.tiers.Status(); st.Wrong != 0 {
		t.Errorf("content of another version was found: %+v", st)
	}
}

// TestGone: a blob that is gone takes nothing of what is kept of it with it.
func TestGone(t *testing.T) {
	s := newSite(t)
	p := s.put("k", 1<<20)
	s.want("k", p, 0, 1, "0+262144")
	v, err := s.Head(t.Context(), "bkt", "k", "")
	if err != nil {
		t.Fatal(err)
	}
	if err := s.place.Driver.Delete(t.Context(), v.Location.Key); err != nil {
		t.Fatal(err)
	}
	if got, err := s.read("k", 0, 1<<20); firn.KindOf(err) != firn.Corrupt || !bytes.Equal(got, p[:262144]) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	s.place.was()
	s.want("k", p, 0, 262144)
}

// TestPart: a block of which a part was read is fetched to its end.
func TestPart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t)
		p := s.put("k", 1<<20)
		gate := make(chan struct{})
		s.place.set(func(p *slow) { p.gate = gate })
		s.want("k", p, 0, 10, "0+262144")
		synctest.Wait()
		close(gate)
		synctest.Wait()
		s.want("k", p, 0, 262144)
	})
}

// lying is a level that gives wrong bytes for what it was given.
type lying struct {
	cache.Level
	lie bool
}

func (l *lying) Get(ctx context.Context, k cache.Key) (cache.Value, bool) {
	v, ok := l.Level.Get(ctx, k)
	if ok && l.lie {
		v.Data = append([]byte{v.Data[0] ^ 1}, v.Data[1:]...)
	}
	return v, ok
}

func (l *lying) Remove(ctx context.Context, m cache.Match) error {
	l.lie = false
	return l.Level.Remove(ctx, m)
}

// TestWrong: what is kept and is wrong is forgotten, fetched again and not seen by readers; so it is where the tier gave it
// wrong once. A tier that gives it wrong always is told of.
func TestWrong(t *testing.T) {
	memory, err := cache.NewMemory(cache.MemoryOptions{Budget: 64 << 20})
	if err != nil {
		t.Fatal(err)
	}
	l := &lying{Level: memory}
	s := newSite(t, l)
	for _, size := range []int{1 << 20, 1000} { // a part file, an inline value
		key := fmt.Sprint(size)
		p := s.put(key, size)
		s.want(key, p, 0, int64(size), fmt.Sprintf("0+%d", size))
		l.lie = true
		s.want(key, p, 0, int64(size), fmt.Sprintf("0+%d", size))
		s.want(key, p, 0, int64(size))

		other := s.put("other"+key, size)
		s.place.set(func(p *slow) { p.spoil = true })
		if got, err := s.read("other"+key, 0, int64(size)); firn.KindOf(err) != firn.Corrupt || len(got) != 0 {
			t.Errorf("%d bytes, %v", len(got), err)
		}
		if was := s.place.was(); len(was) != 1 {
			t.Errorf("a tier that gives the wrong bytes was asked %q", was)
		}
		s.place.set(func(p *slow) { p.spoil = false })
		s.want("other"+key, other, 0, int64(size), fmt.Sprintf("0+%d", size))
	}
	if st := s.tiers.Status(); st.Wrong != 4 {
		t.Errorf("%+v", st)
	}
}

// TestNotKept: what moves on to another tier, or back, leaves the cache to readers.
func TestNotKept(t *testing.T) {
	s := newSite(t)
	p := s.put("k", 1<<20)
	v, err := s.Head(t.Context(), "bkt", "k", "")
	if err != nil {
		t.Fatal(err)
	}
	o, err := s.Open(t.Context(), "bkt", "k", "")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := o.WriteStored(t.Context(), io.Discard, 0, v.Size); err != nil {
		t.Fatal(err)
	}
	o.Close()
	if _, err := s.mover.Recall(t.Context(), object.RefOf(v), object.RecallOptions{}); err != nil {
		t.Fatal(err)
	}
	if st := s.cache.Status(); st[0].Blocks != 0 {
		t.Errorf("%+v", st)
	}
	s.place.was()
	s.want("k", p, 0, 1<<20)
}

// TestHerd: many who read one thing at one time cost the tier one request; who leaves does not take it from the others.
func TestHerd(t *testing.T) {
	s := newSite(t)
	p := s.put("k", 200_000)
	wait := make(chan struct{})
	s.place.set(func(p *slow) { p.wait = wait })
	var all sync.WaitGroup
	for range 100 {
		all.Go(func() {
			if got, err := s.read("k", 0, 200_000); err != nil || !bytes.Equal(got, p) {
				t.Errorf("%d bytes, %v", len(got), err)
			}
		})
	}
	leaver, leave := context.WithCancel(t.Context())
	all.Go(func() {
		o, err := s.Open(t.Context(), "bkt", "k", "")
		if err != nil {
			t.Error(err)
			return
		}
		defer o.Close()
		if _, err := o.WriteRange(leaver, io.Discard, 0, 200_000); err == nil {
			t.Error("a read that was called off got its bytes")
		}
	})
	leave()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(20 * time.Second); s.cache.Fills().Joined+s.cache.Fills().Failed < 99; <-tick.C {
		if time.Now().After(end) {
			t.Fatalf("%+v", s.cache.Fills())
		}
	}
	close(wait)
	all.Wait()
	if n := len(s.place.was()); n > 2 { // two where the leaver was first, and alone
		t.Errorf("%d requests", n)
	}
}

// TestPrefetch: parts that follow each other are fetched ahead, so are objects whose names do; and nothing while somebody
// waits for the tier.
func TestPrefetch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t)
		large := s.put("large", 8<<20)
		var small [][]byte
		for i := range 12 {
			small = append(small, s.put(fmt.Sprintf("cam/%03d.jpg", i), 100_000))
		}
		if err := s.tiers.Prefetch(func(ctx context.Context, bucket, key string) (*record.Version, error) {
			return s.Head(ctx, bucket, key, "")
		}, 0); err != nil {
			t.Fatal(err)
		}
		ctx, stop := context.WithCancel(t.Context())
		var running sync.WaitGroup
		running.Go(func() {
			if err := s.tiers.Run(ctx); err != nil {
				t.Error(err)
			}
		})
		settle := func() {
			synctest.Wait()
			time.Sleep(time.Second)
			synctest.Wait()
		}
		for off := int64(0); off < 1<<20; off += 256 << 10 {
			s.read("large", off, 256<<10)
			settle()
		}
		// expected reads what was fetched ahead; the next is fetched meanwhile.
		expected := func(key string, p []byte, off, n int64) {
			t.Helper()
			before := s.tiers.Status().Read[fromTier]
			if got, err := s.read(key, off, n); err != nil || !bytes.Equal(got, p[off:off+n]) {
				t.Errorf("%s: %d bytes, %v", key, len(got), err)
			}
			if s.tiers.Status().Read[fromTier] != before {
				t.Errorf("%s from %d was not there", key, off)
			}
		}
		expected("large", large, 1<<20, 256<<10)
		for i := range 10 {
			s.read(fmt.Sprintf("cam/%03d.jpg", i), 0, 100_000)
			settle()
		}
		expected("cam/010.jpg", small[10], 0, 100_000)
		settle()
		expected("cam/011.jpg", small[11], 0, 100_000)
		if st := s.tiers.Status(); st.Ahead.Bytes == 0 || st.Ahead.Failed != 0 {
			t.Errorf("%+v", st.Ahead)
		}
		stop()
		running.Wait()
	})
}
