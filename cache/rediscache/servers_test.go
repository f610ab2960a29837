//go:build servers

package rediscache

import (
	"bytes"
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"firn"
	"firn/cache"
	"firn/test/backends"
)

func dial(t *testing.T, addr string) *redis.Client {
	t.Helper()
	c := redis.NewClient(&redis.Options{Addr: addr, DialTimeout: 200 * time.Millisecond, MaxRetries: -1, ContextTimeoutEnabled: true})
	t.Cleanup(func() { c.Close() })
	return c
}

func open(t *testing.T, opt Options) *Level {
	t.Helper()
	opt.Timeout = 5 * time.Second // a busy machine's server takes its time
	l, err := New(opt)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

// until polls.
func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !ok(); {
		if time.Now().After(end) {
			t.Fatalf("not within 20 s: %s", what)
		}
		<-time.After(5 * time.Millisecond)
	}
}

func key(object string, n int64) cache.Key { return cache.Key{Object: object, Version: "v1", Block: n} }

// put puts a block and waits until it is there. On a busy machine the server may take longer than the level waits.
func put(t *testing.T, l *Level, k cache.Key, v cache.Value) {
	t.Helper()
	before := l.Status()
	lost := before.Errors + before.Refused
	l.Put(k, v)
	until(t, "a block is sent", func() bool {
		s := l.Status()
		if s.Puts == before.Puts && s.Errors+s.Refused > lost {
			lost = s.Errors + s.Refused
			l.Put(k, v)
		}
		return s.Puts > before.Puts
	})
}

func TestLevel(t *testing.T) {
	s := backends.RedisServer(t)
	a, b := open(t, Options{Client: dial(t, s.Addr)}), open(t, Options{Client: dial(t, s.Addr)})
	other := open(t, Options{Client: dial(t, s.Addr), Prefix: "other*:"})
	data := bytes.Repeat([]byte("0123456789"), 100_000)
	expires := time.Now().Add(time.Hour).Truncate(time.Millisecond)
	put(t, a, key("b/k*[x]", 3), cache.Value{Data: data, Meta: []byte("meta"), Expires: expires})
	v, ok := b.Get(t.Context(), key("b/k*[x]", 3))
	if !ok || !bytes.Equal(v.Data, data) || string(v.Meta) != "meta" || !v.Expires.Equal(expires) {
		t.Errorf("%v, %d bytes, %q, %v", ok, len(v.Data), v.Meta, v.Expires)
	}
	for _, k := range []cache.Key{key("b/k*[x]", 4), key("b/k", 3), {Object: "b/k*[x]", Version: "v2", Block: 3}} {
		if _, ok := b.Get(t.Context(), k); ok {
			t.Errorf("%v is there", k)
		}
	}
	put(t, a, key("short", 0), cache.Value{Expires: time.Now().Add(time.Second)})
	if ttl := dial(t, s.Addr).PTTL(t.Context(), a.keyOf(key("short", 0))).Val(); ttl <= 0 || ttl > time.Second {
		t.Errorf("the server keeps it for %v", ttl)
	}

	for _, k := range []string{"p/a", "p/ab", "q"} {
		put(t, a, key(k, 0), cache.Value{Data: []byte("1")})
		put(t, other, key(k, 0), cache.Value{Data: []byte("1")})
	}
	there := func(l *Level) string {
		var out []string
		for _, k := range []string{"p/a", "p/ab", "q"} {
			if _, ok := l.Get(t.Context(), key(k, 0)); ok {
				out = append(out, k)
			}
		}
		return fmt.Sprint(out)
	}
	for _, c := range []struct {
		m    cache.Match
		want string
	}{{cache.Match{Object: "p/"}, "[p/a p/ab q]"}, {cache.Match{Object: "p/a"}, "[p/ab q]"}, {cache.Match{Object: "p/", Prefix: true}, "[q]"}} {
		if err := b.Remove(t.Context(), c.m); err != nil {
			t.Fatal(err)
		}
		if got := there(a); got != c.want {
			t.Errorf("after %+v: %s", c.m, got)
		}
	}
	if got := there(other); got != "[p/a p/ab q]" {
		t.Errorf("under the other prefix: %s", got)
	}

	// Damage, and another's value under the key, are misses.
	c := dial(t, s.Addr)
	k := key("q", 0)
	raw, err := c.Get(t.Context(), a.keyOf(k)).Bytes()
	if err != nil {
		t.Fatal(err)
	}
	for i := range raw {
		p := bytes.Clone(raw)
		p[i] ^= 4
		if _, ok := decode(k, p); ok {
			t.Errorf("byte %d may be wrong", i)
		}
	}
	if err := c.Set(t.Context(), a.keyOf(key("r", 0)), raw, 0).Err(); err != nil {
		t.Fatal(err)
	}
	if _, ok := a.Get(t.Context(), key("r", 0)); ok || a.Status().Damaged != 1 {
		t.Errorf("the block of another object: %v, %+v", ok, a.Status())
	}
}

// TestAServerThatIsFullOrAway costs hits, and no read waits long.
func TestAServerThatIsFullOrAway(t *testing.T) {
	s := backends.RedisServer(t, "--maxmemory", "8mb", "--maxmemory-policy", "allkeys-lru")
	relay := backends.NewRelay(t, s.Addr)
	l := open(t, Options{Client: dial(t, relay.Addr), Rest: 300 * time.Millisecond})
	for i := range 100 {
		put(t, l, key("b/k", int64(i)), cache.Value{Data: make([]byte, 200<<10)})
	}
	if _, ok := l.Get(t.Context(), key("b/k", 99)); !ok {
		t.Error("the newest block is gone")
	}
	// Which of the others go is up to the server, which looks at a few at a time.
	left := 0
	for i := range 100 {
		if _, ok := l.Get(t.Context(), key("b/k", int64(i))); ok {
			left++
		}
	}
	if left > 8<<20/(200<<10) {
		t.Errorf("%d blocks of 200 KiB are in 8 MiB", left)
	}
	relay.Stall()
	if _, ok := l.Get(t.Context(), key("b/k", 99)); ok {
		t.Error("found on a server that is away")
	}
	if s := l.Status(); s.Errors == 0 {
		t.Errorf("%+v", s)
	}
	l.Put(key("b/k", 1), cache.Value{})
	if err := l.Remove(t.Context(), cache.Match{Object: "b/k"}); firn.KindOf(err) != firn.Unavailable {
		t.Errorf("a purge that was not done: %v", err)
	}
	relay.Resume()
	until(t, "the server is used again", func() bool {
		_, ok := l.Get(t.Context(), key("b/k", 99))
		return ok
	})
}

// node is a bus with what it did.
type node struct {
	bus    *Bus
	mu     sync.Mutex
	purged []string
	lost   int
}

func (n *node) state() (purged string, lost int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return fmt.Sprint(n.purged), n.lost
}

func listen(t *testing.T, addr string, bound time.Duration) *node {
	t.Helper()
	n := &node{}
	var err error
	n.bus, err = NewBus(BusOptions{
		Client: dial(t, addr), Bound: bound,
		Purge: func(_ context.Context, m cache.Match) error {
			n.mu.Lock()
			defer n.mu.Unlock()
			n.purged = append(n.purged, m.Object)
			return nil
		},
		Lost: func(context.Context) {
			n.mu.Lock()
			defer n.mu.Unlock()
			n.lost++
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = n.bus.Run(ctx)
	}()
	t.Cleanup(func() { cancel(); <-done })
	until(t, "the node listens", func() bool { return n.bus.Stats().Connected })
	return n
}

// TestBus: purges reach all nodes; a node that was cut off knows, during and after it, that it missed something.
func TestBus(t *testing.T) {
	const bound = time.Second
	s := backends.RedisServer(t)
	relay := backends.NewRelay(t, s.Addr)
	a, b := listen(t, s.Addr, bound), listen(t, relay.Addr, bound)
	want := "[]"
	publish := func(objects ...string) {
		t.Helper()
		for _, o := range objects {
			if err := a.bus.Publish(t.Context(), cache.Match{Object: o, Prefix: true}); err != nil {
				t.Fatal(err)
			}
		}
	}
	publish("x/", `y"\`, "z")
	want = `[x/ y"\ z]`
	for _, n := range []*node{a, b} {
		until(t, "a purge arrives", func() bool { p, _ := n.state(); return p == want })
	}
	_, before := b.state()
	if _, lost := a.state(); lost > 2 {
		t.Errorf("%d times lost without a cause", lost)
	}
	relay.Stall()
	publish("missed")
	until(t, "the node knows that it is cut off", func() bool { _, n := b.state(); return n > before })
	if b.bus.Stats().Connected {
		t.Error("it says it is connected")
	}
	relay.Resume()
	_, before = b.state()
	until(t, "it is told again once it is back", func() bool { _, n := b.state(); return n > before && b.bus.Stats().Connected })
	// A message that is lost while the line is up: the counter moves, and nothing comes.
	_, before = b.state()
	if err := dial(t, s.Addr).Incr(t.Context(), a.bus.counter()).Err(); err != nil {
		t.Fatal(err)
	}
	until(t, "a gap in the numbers is found", func() bool { _, n := b.state(); return n > before })
	// A server that lost its data begins anew.
	_, before = b.state()
	if err := dial(t, s.Addr).Del(t.Context(), a.bus.counter()).Err(); err != nil {
		t.Fatal(err)
	}
	until(t, "a counter that began anew is found", func() bool { _, n := b.state(); return n > before })
	publish("after")
	until(t, "and purges arrive", func() bool { p, _ := b.state(); return bytes.HasSuffix([]byte(p), []byte(" after]")) })
}
