package rediscache

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"firn"
	"firn/cache"
)

// BusOptions are the settings of a bus.
type BusOptions struct {
	// Client is a connection to a server or a cluster; it stays the caller's. Its ContextTimeoutEnabled must be set, or
	// Bound is not held.
	Client redis.UniversalClient
	// Channel is the name of the channel, and the beginning of the key of its counter: "firn:purges" by default.
	Channel string
	// Bound is how long a node may go on without knowing that it missed a purge: 5 s by default, 300 ms at least.
	Bound time.Duration
	// Purge applies a purge that another node, or this one, has published. It is called one at a time.
	Purge func(context.Context, cache.Match) error
	// Lost is called when a purge may have been missed: at the beginning, when a message is missing, and again and again
	// while the server is away. The node has to treat what it keeps under keys without a version, and has kept until then,
	// as purged. It is called one at a time with Purge.
	Lost func(context.Context)
}

// Bus tells nodes of purges. Redis keeps no messages for who is not there, so each has a number, and the number of the
// last one is a key: a node that finds a number ahead of what it heard, or cannot ask, has missed something, and says so. A purge is thus applied at a node, or Lost is called there, at most Bound after Publish
// returned, give or take what Purge and Lost take.
type Bus struct {
	opt BusOptions
	mu  struct {
		sync.Mutex
		stats  BusStats
		untold []cache.Match // that Tell was given, the oldest first, each once
	}
	wake chan struct{} // has room for one: there is something untold
}

// maxUntold is how many purges wait to be told; more of them are told as one of everything.
const maxUntold = 1024

// BusStats are counters since the start.
type BusStats struct {
	Published, Applied, Failed, Lost uint64
	Connected                        bool // heard within the bound
}

type message struct {
	Seq     uint64 `json:"seq"`
	Object  string `json:"object"`
	Prefix  bool   `json:"prefix,omitempty"`
	Version string `json:"version,omitempty"`
}

// NewBus returns a bus; Run makes it listen.
func NewBus(opt BusOptions) (*Bus, error) {
	if opt.Channel == "" {
		opt.Channel = "firn:purges"
	}
	if opt.Bound == 0 {
		opt.Bound = 5 * time.Second
	}
	if opt.Client == nil || opt.Purge == nil || opt.Lost == nil || opt.Bound < 300*time.Millisecond {
		return nil, firn.NewError(firn.Invalid, "a bus of purges needs a server, what to do, and a bound of 300 ms or more")
	}
	return &Bus{opt: opt, wake: make(chan struct{}, 1)}, nil
}

func (b *Bus) counter() string { return "{" + b.opt.Channel + "}:seq" }

// Publish tells all nodes of a purge. When it fails the purge may have been told or not: publish it again.
func (b *Bus) Publish(ctx context.Context, m cache.Match) error {
	p, err := json.Marshal(message{Object: m.Object, Prefix: m.Prefix, Version: m.Version})
	if err != nil {
		return err
	}
	// The number and the message in one step, so that numbers arrive in their order.
	const script = `local n = redis.call('INCR', KEYS[1])
redis.call('PUBLISH', ARGV[1], '{"seq":' .. string.format('%.0f', n) .. ',' .. string.sub(ARGV[2], 2))
return n`
	// The script puts the number where "seq":0 was.
	body := `{` + string(p[len(`{"seq":0,`):])
	if err := b.opt.Client.Eval(ctx, script, []string{b.counter()}, b.opt.Channel, body).Err(); err != nil {
		return &firn.Error{Kind: firn.Unavailable, Op: "publish a purge to", Subject: b.opt.Channel, Err: err}
	}
	b.count(func(s *BusStats) { s.Published++ })
	return nil
}

// Tell has all nodes told of a purge, by Run, as soon as the server can be reached. It does no I/O. What was not told when
// the process ends is not told.
func (b *Bus) Tell(m cache.Match) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case slices.Contains(b.mu.untold, m):
	case len(b.mu.untold) == maxUntold:
		b.mu.untold = []cache.Match{{Prefix: true}}
	default:
		b.mu.untold = append(b.mu.untold, m)
	}
	select {
	case b.wake <- struct{}{}:
	default:
	}
}

// tell publishes what is untold until ctx ends.
func (b *Bus) tell(ctx context.Context) {
	for {
		select {
		case <-b.wake:
		case <-ctx.Done():
			return
		}
		for ctx.Err() == nil {
			b.mu.Lock()
			list := b.mu.untold
			b.mu.untold = nil
			b.mu.Unlock()
			if len(list) == 0 {
				break
			}
			for i, m := range list {
				if err := b.Publish(ctx, m); err == nil {
					continue
				}
				for _, m := range list[i:] {
					b.Tell(m)
				}
				pause := time.NewTimer(b.opt.Bound / 4)
				select {
				case <-pause.C:
				case <-ctx.Done():
				}
				pause.Stop()
				break
			}
		}
	}
}

func (b *Bus) count(fn func(*BusStats)) {
	b.mu.Lock()
	defer b.mu.Unlock()
	fn(&b.mu.stats)
}

// Stats returns the counters.
func (b *Bus) Stats() BusStats {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.mu.stats
}

// Run listens, and tells, until ctx ends.
func (b *Bus) Run(ctx context.Context) error {
	var telling sync.WaitGroup
	defer telling.Wait()
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	telling.Go(func() { b.tell(ctx) })
	sub := b.opt.Client.Subscribe(ctx, b.opt.Channel)
	defer sub.Close()
	messages := sub.Channel(redis.WithChannelSize(1024), redis.WithChannelHealthCheckInterval(b.opt.Bound/3))
	tick := time.NewTicker(b.opt.Bound / 4)
	defer tick.Stop()
	s := listener{b: b}
	s.lose(ctx) // nothing was heard of what came before
	for {
		select {
		case m, ok := <-messages:
			if !ok {
				return ctx.Err()
			}
			s.hear(ctx, m.Payload)
		case <-tick.C:
			s.ask(ctx)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// listener is what a running bus knows.
type listener struct {
	b     *Bus
	known bool   // seq stands
	seq   uint64 // of the last purge that was applied, or covered by Lost
	ahead uint64 // number that was found ahead of seq at the last question; 0 is none
	heard time.Time
	lost  time.Time // when Lost was called last
}

func (s *listener) lose(ctx context.Context) {
	s.b.count(func(st *BusStats) { st.Lost++ })
	s.lost = time.Now()
	s.b.opt.Lost(ctx)
}

func (s *listener) hear(ctx context.Context, payload string) {
	var m message
	if err := json.Unmarshal([]byte(payload), &m); err != nil || m.Seq == 0 {
		s.b.count(func(st *BusStats) { st.Failed++ })
		s.lose(ctx)
		return
	}
	// A lower number was covered by Lost before it arrived; it is applied all the same. That the counter began anew is
	// found by asking.
	gap := s.known && m.Seq > s.seq+1
	if !s.known || m.Seq > s.seq {
		s.seq, s.known, s.ahead = m.Seq, true, 0
	}
	if err := s.b.opt.Purge(ctx, cache.Match{Object: m.Object, Prefix: m.Prefix, Version: m.Version}); err != nil {
		s.b.count(func(st *BusStats) { st.Failed++ })
		gap = true
	} else {
		s.b.count(func(st *BusStats) { st.Applied++ })
	}
	if gap {
		s.lose(ctx)
	}
}

// ask compares the counter with what was heard.
func (s *listener) ask(ctx context.Context) {
	tctx, cancel := context.WithTimeout(ctx, s.b.opt.Bound/4)
	defer cancel()
	text, err := s.b.opt.Client.Get(tctx, s.b.counter()).Result()
	if errors.Is(err, redis.Nil) {
		text, err = "0", nil
	}
	now := time.Now()
	if err != nil {
		// Again, since a purge that is published while the server is away from here alone is missed as well.
		if now.Sub(s.heard) >= s.b.opt.Bound/2 && now.Sub(s.lost) >= s.b.opt.Bound/4 {
			s.known = false
			s.b.count(func(st *BusStats) { st.Connected = false })
			s.lose(ctx)
		}
		return
	}
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		s.lose(ctx)
		return
	}
	s.heard = now
	s.b.count(func(st *BusStats) { st.Connected = true })
	switch {
	case !s.known:
		// Back, or at the beginning: what came until now is covered by one more Lost.
		s.seq, s.known, s.ahead = n, true, 0
		s.lose(ctx)
	case n == s.seq:
		s.ahead = 0
	case n < s.seq, s.ahead > s.seq:
		// The counter began anew, or what was ahead at the last question has still not come.
		s.seq, s.ahead = n, 0
		s.lose(ctx)
	default:
		s.ahead = n
	}
}
