package lifecycle

import (
	"context"
	"sync"
	"time"

	"firn"
)

// UseStore keeps uses across restarts.
type UseStore interface {
	// AddUses adds to the uses of objects, in one transaction: all or nothing.
	AddUses(ctx context.Context, uses map[string]Use) error
}

// TrackerOptions are the settings.
type TrackerOptions struct {
	// Interval is the time between writes, and what a crash loses of counts at most: 1 minute by default.
	Interval time.Duration
	// Objects is the most objects whose reads are remembered between writes: 100,000 by default, which take up to
	// 32 MiB and their names, twice while a write is under way. Reads of further ones are not counted until then.
	Objects int
}

// Tracker counts reads in memory and writes them together, so that a read costs no write. Its methods may be called
// concurrently.
type Tracker struct {
	opt   TrackerOptions
	store UseStore
	full  chan struct{} // asks Run to write before the interval is over
	mu    struct {
		sync.Mutex
		counts  map[string]Use
		writing map[string]Use // what a running Flush writes
		stats   TrackerStats
	}
	flush chan struct{} // holds a token while nobody flushes
}

// TrackerStats are counters since the start.
type TrackerStats struct {
	Reads, Missed   uint64 // reads counted; reads not counted for want of room
	Writes, Objects uint64 // transactions, and the objects in them
	Failed          uint64 // transactions that failed, and were tried again with the next
	Waiting         int    // objects with reads that are not written yet
}

// NewTracker returns a Tracker that writes to store.
func NewTracker(store UseStore, opt TrackerOptions) (*Tracker, error) {
	if opt.Interval == 0 {
		opt.Interval = time.Minute
	}
	if opt.Objects == 0 {
		opt.Objects = 100_000
	}
	if opt.Interval < time.Second || opt.Objects < 16 {
		return nil, firn.NewError(firn.Invalid, "reads are counted for 16 objects or more, and written every second at most")
	}
	t := &Tracker{opt: opt, store: store, full: make(chan struct{}, 1), flush: make(chan struct{}, 1)}
	t.mu.counts = map[string]Use{}
	t.flush <- struct{}{}
	return t, nil
}

// Read counts n reads of an object at the time now; with n 0 it notes that it was of use. It does no I/O.
func (t *Tracker) Read(id string, n uint64, now time.Time) {
	t.mu.Lock()
	u, known := t.mu.counts[id]
	if !known && len(t.mu.counts) >= t.opt.Objects {
		t.mu.stats.Missed++
		t.mu.Unlock()
		return
	}
	u.Read(n, now)
	t.mu.counts[id] = u
	t.mu.stats.Reads += n
	held := len(t.mu.counts)
	t.mu.Unlock()
	if !known && held >= t.opt.Objects/2 {
		select {
		case t.full <- struct{}{}:
		default:
		}
	}
}

// Waiting returns what is counted of an object and not written yet.
func (t *Tracker) Waiting(id string) Use {
	t.mu.Lock()
	defer t.mu.Unlock()
	u := t.mu.counts[id]
	u.Add(t.mu.writing[id])
	return u
}

// Stats returns the counters.
func (t *Tracker) Stats() TrackerStats {
	t.mu.Lock()
	defer t.mu.Unlock()
	s := t.mu.stats
	s.Waiting = len(t.mu.counts) + len(t.mu.writing)
	return s
}

// Flush writes what is counted. What could not be written is kept, as far as there is room, and goes with the next.
func (t *Tracker) Flush(ctx context.Context) error {
	select {
	case <-t.flush:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { t.flush <- struct{}{} }()
	t.mu.Lock()
	uses := t.mu.counts
	t.mu.counts, t.mu.writing = map[string]Use{}, uses
	t.mu.Unlock()
	var err error
	if len(uses) > 0 {
		err = t.store.AddUses(ctx, uses)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.mu.writing = nil
	if err == nil {
		if len(uses) > 0 {
			t.mu.stats.Writes++
			t.mu.stats.Objects += uint64(len(uses))
		}
		return nil
	}
	t.mu.stats.Failed++
	for id, old := range uses {
		u, known := t.mu.counts[id]
		if !known && len(t.mu.counts) >= t.opt.Objects {
			t.mu.stats.Missed += max(old.Reads, 1)
			continue
		}
		u.Add(old)
		t.mu.counts[id] = u
	}
	return firn.E("write", "counts of reads", err)
}

// Run writes at each interval, and earlier when half the room is taken, until ctx ends; then it writes once more, for
// at most 5 seconds. failed, which may be nil, is told of writes that failed.
func (t *Tracker) Run(ctx context.Context, failed func(error)) error {
	tick := time.NewTicker(t.opt.Interval)
	defer tick.Stop()
	write := func(ctx context.Context) {
		if err := t.Flush(ctx); err != nil && failed != nil {
			failed(err)
		}
	}
	for {
		select {
		case <-tick.C:
			write(ctx)
		case <-t.full:
			write(ctx)
			// A store that fails must not be tried at each further read.
			if t.Stats().Waiting >= t.opt.Objects/2 {
				select {
				case <-tick.C:
				case <-ctx.Done():
				}
			}
		case <-ctx.Done():
			last, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
			defer cancel()
			write(last)
			return ctx.Err()
		}
	}
}
