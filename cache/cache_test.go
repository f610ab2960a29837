package cache

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"firn"
)

func newMemory(t *testing.T, budget int64, ttl time.Duration) *Memory {
	t.Helper()
	m, err := NewMemory(MemoryOptions{Budget: budget, TTL: ttl})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func newCache(t *testing.T, levels ...Level) *Cache {
	t.Helper()
	c := New(Options{}, levels...)
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return c
}

func block(n int, seed uint64) []byte {
	p := make([]byte, n)
	r := rand.New(rand.NewPCG(seed, 1))
	for i := range p {
		p[i] = byte(r.Uint32())
	}
	return p
}

func key(object string, n int64) Key { return Key{Object: object, Version: "v1", Block: n} }

func given(p []byte) Fill {
	return func(context.Context) (Value, error) { return Value{Data: p}, nil }
}

func never(t *testing.T) Fill {
	return func(context.Context) (Value, error) {
		t.Error("the block was fetched")
		return Value{}, errors.New("fetched")
	}
}

func TestGetFetchesOnce(t *testing.T) {
	c := newCache(t, newMemory(t, 4<<20, 0))
	want := block(1000, 1)
	v, level, err := c.Get(t.Context(), key("b/k", 0), given(want))
	if err != nil || level != "" || !bytes.Equal(v.Data, want) {
		t.Fatalf("%q %v", level, err)
	}
	v, level, err = c.Get(t.Context(), key("b/k", 0), never(t))
	if err != nil || level != "memory" || !bytes.Equal(v.Data, want) {
		t.Fatalf("%q %v", level, err)
	}
	for _, k := range []Key{{"b/k", "v2", 0}, {"b/k", "v1", 1}, {"b/K", "v1", 0}} {
		if _, _, ok := c.Lookup(t.Context(), k); ok {
			t.Errorf("%v was found", k)
		}
	}
	s := c.Status()[0]
	if s.Hits != 1 || s.Misses != 4 || s.HitBytes != 1000 || s.Blocks != 1 || s.Puts != 1 {
		t.Errorf("status %+v", s)
	}
}

func TestBoundsAreChecked(t *testing.T) {
	c := newCache(t, newMemory(t, 64<<20, 0))
	long := strings.Repeat("x", MaxName+1)
	for _, k := range []Key{{}, {Object: long}, {Object: "a", Version: long}, {Object: "a", Block: -1}} {
		if _, _, err := c.Get(t.Context(), k, never(t)); firn.KindOf(err) != firn.Invalid {
			t.Errorf("%.10v: %v", k, err)
		}
	}
	for _, v := range []Value{{Data: make([]byte, MaxBlock+1)}, {Meta: make([]byte, MaxMeta+1)}} {
		if err := c.Put(key("a", 0), v, c.Mark()); firn.KindOf(err) != firn.Invalid {
			t.Error(err)
		}
		_, _, err := c.Get(t.Context(), key("a", 0), func(context.Context) (Value, error) { return v, nil })
		if firn.KindOf(err) != firn.Invalid {
			t.Error(err)
		}
	}
	if err := c.Purge(t.Context(), Match{}); firn.KindOf(err) != firn.Invalid {
		t.Error(err)
	}
	r, _, err := c.Stream(t.Context(), key("a", 0), "", 0, func(_ context.Context, w *Writer) error {
		_, err := w.Write(make([]byte, MaxBlock))
		if err == nil {
			_, err = w.Write([]byte{1})
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if _, err := io.Copy(io.Discard, r); firn.KindOf(err) != firn.Invalid {
		t.Error(err)
	}
}

func TestAHerdFetchesOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory(t, 4<<20, 0)
		c := New(Options{}, m)
		defer c.Close()
		var fetches atomic.Int64
		want := block(100_000, 2)
		var wg sync.WaitGroup
		for i := range 1000 {
			wg.Go(func() {
				var got []byte
				if i%2 == 0 {
					v, _, err := c.Get(t.Context(), key("b/k", 0), func(context.Context) (Value, error) {
						fetches.Add(1)
						time.Sleep(time.Second)
						return Value{Data: want}, nil
					})
					if err != nil {
						t.Error(err)
					}
					got = v.Data
				} else {
					r, _, err := c.Stream(t.Context(), key("b/k", 0), "", len(want), func(_ context.Context, w *Writer) error {
						fetches.Add(1)
						for p := range chunks(want, 777) {
							time.Sleep(time.Millisecond)
							if _, err := w.Write(p); err != nil {
								return err
							}
						}
						return nil
					})
					if err != nil {
						t.Error(err)
						return
					}
					defer r.Close()
					if got, err = io.ReadAll(r); err != nil {
						t.Error(err)
					}
				}
				if !bytes.Equal(got, want) {
					t.Error("other bytes")
				}
			})
		}
		wg.Wait()
		if fetches.Load() != 1 {
			t.Errorf("fetched %d times", fetches.Load())
		}
	})
}

func chunks(p []byte, n int) func(func([]byte) bool) {
	return func(yield func([]byte) bool) {
		for len(p) > 0 {
			k := min(n, len(p))
			if !yield(p[:k]) {
				return
			}
			p = p[k:]
		}
	}
}

// TestStreamPassesOnBeforeTheEnd: a reader has the first bytes while the last are not there yet, and the error of a
// fetch that broke after them; the broken block is not kept.
func TestStreamPassesOnBeforeTheEnd(t *testing.T) {
	c := newCache(t, newMemory(t, 4<<20, 0))
	goOn := make(chan error)
	fill := func(_ context.Context, w *Writer) error {
		if _, err := io.WriteString(w, "first"); err != nil {
			return err
		}
		if err := <-goOn; err != nil {
			return err
		}
		_, err := io.WriteString(w, "second")
		return err
	}
	for _, broken := range []error{errors.New("the line broke"), nil} {
		r, _, err := c.Stream(t.Context(), key("b/k", 0), "", 0, fill)
		if err != nil {
			t.Fatal(err)
		}
		p := make([]byte, 5)
		if _, err := io.ReadFull(r, p); err != nil || string(p) != "first" {
			t.Fatalf("%q %v", p, err)
		}
		goOn <- broken
		rest, err := io.ReadAll(r)
		if !errors.Is(err, broken) || broken == nil && string(rest) != "second" {
			t.Errorf("%q %v", rest, err)
		}
		if err := r.Close(); err != nil {
			t.Error(err)
		}
		if _, _, ok := c.Lookup(t.Context(), key("b/k", 0)); ok != (broken == nil) {
			t.Errorf("after %v the block is kept: %v", broken, ok)
		}
	}
}

func TestFetchEndsWithItsLastWaiter(t *testing.T) {
	c := newCache(t, newMemory(t, 4<<20, 0))
	first, cancelFirst := context.WithCancel(t.Context())
	second, cancelSecond := context.WithCancel(t.Context())
	begun, ended := make(chan struct{}), make(chan struct{})
	fill := func(ctx context.Context) (Value, error) {
		close(begun)
		<-ctx.Done()
		close(ended)
		return Value{}, ctx.Err()
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		if _, _, err := c.Get(first, key("a", 0), fill); !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
	<-begun
	wg.Go(func() {
		if _, _, err := c.Get(second, key("a", 0), never(t)); !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
	for c.Fills().Joined == 0 {
		select {
		case <-t.Context().Done():
			t.Fatal("nobody joined")
		case <-time.After(time.Millisecond):
		}
	}
	cancelFirst()
	select {
	case <-ended:
		t.Error("the fetch ended with the first waiter")
	case <-time.After(20 * time.Millisecond):
	}
	cancelSecond()
	<-ended
	wg.Wait()
	if _, _, err := c.Get(t.Context(), key("a", 0), given(block(1, 1))); err != nil {
		t.Errorf("after a cancelled fetch: %v", err)
	}
}

func TestAPanicFailsOneBlock(t *testing.T) {
	c := newCache(t, newMemory(t, 4<<20, 0))
	_, _, err := c.Get(t.Context(), key("a", 0), func(context.Context) (Value, error) { panic("oh") })
	if firn.KindOf(err) != firn.Internal || !strings.Contains(err.Error(), "panic: oh") {
		t.Error(err)
	}
	if _, _, err := c.Get(t.Context(), key("a", 0), given(nil)); err != nil {
		t.Error(err)
	}
}

// TestPurgeAndAFetchUnderWay: what was fetched before a purge reaches who waited for it before, is not kept, and is not
// joined by who comes after.
func TestPurgeAndAFetchUnderWay(t *testing.T) {
	c := newCache(t, newMemory(t, 4<<20, 0))
	k := key("b/k", 0)
	begun, goOn := make(chan struct{}), make(chan struct{})
	old := make(chan string)
	go func() {
		v, _, err := c.Get(t.Context(), k, func(context.Context) (Value, error) {
			close(begun)
			<-goOn
			return Value{Data: []byte("old")}, nil
		})
		old <- fmt.Sprint(string(v.Data), err)
	}()
	<-begun
	mark := c.Mark()
	if err := c.Purge(t.Context(), Match{Object: "b/", Prefix: true}); err != nil {
		t.Fatal(err)
	}
	v, _, err := c.Get(t.Context(), k, given([]byte("new")))
	if err != nil || string(v.Data) != "new" {
		t.Fatalf("after the purge: %q %v", v.Data, err)
	}
	close(goOn)
	if got := <-old; got != "old<nil>" {
		t.Errorf("before the purge: %s", got)
	}
	if err := c.Put(k, Value{Data: []byte("old")}, mark); err != nil {
		t.Fatal(err)
	}
	if v, _, ok := c.Lookup(t.Context(), k); !ok || string(v.Data) != "new" {
		t.Errorf("kept: %q", v.Data)
	}
	other := key("c/k", 0)
	if err := c.Put(other, Value{Data: []byte("x")}, mark); err != nil {
		t.Fatal(err)
	}
	if _, _, ok := c.Lookup(t.Context(), other); !ok {
		t.Error("a purge of others kept a block out")
	}
	for range len(c.purged) {
		if err := c.Purge(t.Context(), Match{Object: "nothing"}); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.Put(k, Value{Data: []byte("old")}, mark); err != nil {
		t.Fatal(err)
	}
	if v, _, ok := c.Lookup(t.Context(), k); ok && string(v.Data) != "new" {
		t.Error("a purge was forgotten before the block it selects")
	}
}

func TestMatch(t *testing.T) {
	k := Key{Object: "bucket/dir/file", Version: "v1"}
	for m, want := range map[Match]bool{
		{Object: "bucket/dir/file"}:                                 true,
		{Object: "bucket/dir/fil"}:                                  false,
		{Object: "bucket/dir/", Prefix: true}:                       true,
		{Object: "", Prefix: true}:                                  true,
		{Object: "bucket/dir/file", Version: "v1"}:                  true,
		{Object: "bucket/dir/file", Version: "v2"}:                  false,
		{Object: "bucket/dir/file2", Prefix: true}:                  false,
		{Object: "bucket/dir/file", Prefix: true, Version: "other"}: false,
	} {
		if m.Matches(k) != want {
			t.Errorf("%+v: %v", m, !want)
		}
	}
}

func TestMemoryBudgetUnderTenTimesTheWorkingSet(t *testing.T) {
	const budget = 4 << 20
	m := newMemory(t, budget, 0)
	c := newCache(t, m)
	var over atomic.Int64
	var wg sync.WaitGroup
	for g := range 4 {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(uint64(g), 5))
			for range 3000 {
				n := r.Int64N(1000) // 1000 blocks of 2..82 KiB: ten times the budget
				k := key(fmt.Sprintf("bucket/%d", n), 0)
				if _, _, err := c.Get(t.Context(), k, given(make([]byte, 2<<10+n*80))); err != nil {
					t.Error(err)
				}
				if held := m.held.Load(); held > budget {
					over.Store(max(over.Load(), held))
				}
			}
		})
	}
	wg.Wait()
	s := m.Status()
	if over.Load() > 0 || s.Bytes > budget {
		t.Errorf("%d bytes seen, %d at the end", over.Load(), s.Bytes)
	}
	var sum int64
	for k, v := range m.cache.All() {
		sum += weigh(k, v.Value)
	}
	if sum != s.Bytes {
		t.Errorf("booked %d, held %d", s.Bytes, sum)
	}
	if s.Evicted == 0 || s.Hits == 0 || s.Bytes < budget/2 {
		t.Errorf("status %+v", s)
	}
}

func TestMemoryExpiry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory(t, 4<<20, time.Minute)
		m.Put(key("ttl", 0), Value{Data: []byte("1")})
		m.Put(key("soon", 0), Value{Data: []byte("1"), Expires: time.Now().Add(time.Second)})
		m.Put(key("late", 0), Value{Data: []byte("1"), Expires: time.Now().Add(time.Hour)})
		m.Put(key("over", 0), Value{Data: []byte("1"), Expires: time.Now()})
		there := func(want string) {
			t.Helper()
			var got []string
			for _, n := range []string{"ttl", "soon", "late", "over"} {
				if _, ok := m.Get(t.Context(), key(n, 0)); ok {
					got = append(got, n)
				}
			}
			if fmt.Sprint(got) != want {
				t.Errorf("%v, want %s", got, want)
			}
		}
		there("[ttl soon late]")
		time.Sleep(time.Second)
		there("[ttl late]")
		if s := m.Status(); s.Oldest != time.Second || s.Expired != 1 || s.Blocks != 2 {
			t.Errorf("status %+v", s)
		}
		time.Sleep(59 * time.Second)
		there("[]")
		if s := m.Status(); s.Bytes != 0 || s.Blocks != 0 {
			t.Errorf("status %+v", s)
		}
	})
}

func TestMemoryRefuses(t *testing.T) {
	for _, o := range []MemoryOptions{{}, {Budget: minMemory - 1}, {Budget: minMemory, TTL: -1}} {
		if _, err := NewMemory(o); firn.KindOf(err) != firn.Invalid {
			t.Errorf("%+v: %v", o, err)
		}
	}
	m := newMemory(t, minMemory, 0)
	m.Put(key("large", 0), Value{Data: make([]byte, minMemory/memoryShare)})
	if s := m.Status(); s.Blocks != 0 || s.Refused != 1 || s.Bytes != 0 {
		t.Errorf("status %+v", s)
	}
}
