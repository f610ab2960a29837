package cache

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/maypok86/otter/v2"

	"firn"
)

// MemoryOptions are the settings of a memory level.
type MemoryOptions struct {
	// Budget is the most bytes of memory: names, bytes beside the data and the entries themselves are counted.
	Budget int64
	// TTL is how long a block is kept at most; 0 is without limit.
	TTL time.Duration
}

// memoryEntry is what one block takes beside its bytes and names: the node of the policy, its slot in the hash table,
// the Key and the Value, with what the allocator rounds up.
const memoryEntry = 384

// minMemory is the least budget: below it the room that is left for blocks between an eviction and the next is nothing.
const minMemory = 1 << 20

// Memory is the level in the process's memory. What it keeps and what it evicts is decided by W-TinyLFU (Einziger,
// Friedman, Manes: "TinyLFU: A Highly Efficient Cache Admission Policy", 2017), so that a scan does not empty it.
type Memory struct {
	opt   MemoryOptions
	cache *otter.Cache[Key, memoryValue]
	held  atomic.Int64
	stats struct{ hits, hitBytes, puts, evicted, expired, refused atomic.Uint64 }
}

type memoryValue struct {
	Value
	at      time.Time
	expires time.Time // zero is never
	weight  uint32
}

var _ Level = (*Memory)(nil)

// NewMemory returns a memory level.
func NewMemory(opt MemoryOptions) (*Memory, error) {
	if opt.Budget < minMemory || opt.TTL < 0 {
		return nil, firn.NewError(firn.Invalid, "a memory cache needs at least 1 MiB, and a time that is not negative")
	}
	m := &Memory{opt: opt}
	var err error
	m.cache, err = otter.New(&otter.Options[Key, memoryValue]{
		// The policy makes room after a block came. So that held never passes the budget, the policy's own bound is
		// lower by the most that one block may take.
		MaximumWeight: uint64(opt.Budget - opt.Budget/memoryShare),
		Weigher:       func(_ Key, v memoryValue) uint32 { return v.weight },
		OnAtomicDeletion: func(e otter.DeletionEvent[Key, memoryValue]) {
			m.held.Add(-int64(e.Value.weight))
			if e.Cause == otter.CauseOverflow {
				m.stats.evicted.Add(1)
			}
		},
		// On the caller's goroutine: the room is there when Set returns, and nothing runs on after Close.
		Executor: func(fn func()) { fn() },
	})
	if err != nil {
		return nil, firn.E("make", "memory cache", err)
	}
	return m, nil
}

// memoryShare is the part of the budget that one block may take: a larger one would push out too much.
const memoryShare = 8

// Name implements Level.
func (m *Memory) Name() string { return "memory" }

func weigh(k Key, v Value) int64 {
	return memoryEntry + int64(len(k.Object)+len(k.Version)) + int64(cap(v.Data)) + int64(cap(v.Meta))
}

// Get implements Level.
func (m *Memory) Get(_ context.Context, k Key) (Value, bool) {
	v, ok := m.cache.GetIfPresent(k)
	if !ok {
		return Value{}, false
	}
	if !v.expires.IsZero() && !time.Now().Before(v.expires) {
		// Only this very block: a fresher one may have come meanwhile.
		_, _ = m.cache.ComputeIfPresent(k, func(old memoryValue) (memoryValue, otter.ComputeOp) {
			if old.at.Equal(v.at) && old.expires.Equal(v.expires) {
				return old, otter.InvalidateOp
			}
			return old, otter.CancelOp
		})
		m.stats.expired.Add(1)
		return Value{}, false
	}
	m.stats.hits.Add(1)
	m.stats.hitBytes.Add(uint64(len(v.Data)))
	return v.Value, true
}

// Put implements Level.
func (m *Memory) Put(k Key, v Value) {
	now := time.Now()
	w := weigh(k, v)
	if w > m.opt.Budget/memoryShare {
		m.stats.refused.Add(1)
		return
	}
	if !v.Expires.IsZero() && !now.Before(v.Expires) {
		return
	}
	e := memoryValue{Value: v, at: now, expires: v.Expires, weight: uint32(w)}
	if m.opt.TTL > 0 && (e.expires.IsZero() || now.Add(m.opt.TTL).Before(e.expires)) {
		e.expires = now.Add(m.opt.TTL)
	}
	if !m.book(w) {
		m.cache.CleanUp()
		if !m.book(w) {
			m.stats.refused.Add(1)
			return
		}
	}
	m.cache.Set(k, e)
	m.stats.puts.Add(1)
}

// book takes w bytes of the budget, before they are kept, or reports that there is no room.
func (m *Memory) book(w int64) bool {
	for {
		held := m.held.Load()
		if held+w > m.opt.Budget {
			return false
		}
		if m.held.CompareAndSwap(held, held+w) {
			return true
		}
	}
}

// Remove implements Level. It looks at each name that is held.
func (m *Memory) Remove(_ context.Context, s Match) error {
	for k := range m.cache.Keys() {
		if s.Matches(k) {
			m.cache.Invalidate(k)
		}
	}
	return nil
}

// Status implements Level.
func (m *Memory) Status() LevelStatus {
	s := LevelStatus{
		Name: m.Name(), Budget: m.opt.Budget, Bytes: m.held.Load(), Memory: m.held.Load(),
		Hits: m.stats.hits.Load(), HitBytes: m.stats.hitBytes.Load(), Puts: m.stats.puts.Load(),
		Evicted: m.stats.evicted.Load(), Expired: m.stats.expired.Load(), Refused: m.stats.refused.Load(),
	}
	now := time.Now()
	for v := range m.cache.Values() {
		s.Blocks++
		s.Oldest = max(s.Oldest, now.Sub(v.at))
	}
	return s
}

// Close implements Level.
func (m *Memory) Close() error {
	m.cache.InvalidateAll()
	m.cache.StopAllGoroutines()
	return nil
}
