package blobs

import (
	"context"
	"sync/atomic"
	"time"
)

// Grace lets the collector wait until every lookup that may have read a record since removed has pinned what
// it found. A lookup is short, so the wait is too.
type Grace struct {
	epoch atomic.Uint64
	in    [2]atomic.Int64
}

// Enter begins a lookup; the result goes to Leave.
func (g *Grace) Enter() uint64 {
	for {
		e := g.epoch.Load() & 1
		g.in[e].Add(1)
		if g.epoch.Load()&1 == e {
			return e
		}
		g.in[e].Add(-1)
	}
}

// Leave ends the lookup that Enter began.
func (g *Grace) Leave(e uint64) { g.in[e].Add(-1) }

// Wait returns when all lookups that were under way when it was called have left. It is called by one
// goroutine at a time.
func (g *Grace) Wait(ctx context.Context) error {
	old := g.epoch.Add(1) - 1
	for pause := 50 * time.Microsecond; g.in[old&1].Load() != 0; pause = min(2*pause, 10*time.Millisecond) {
		t := time.NewTimer(pause)
		select {
		case <-ctx.Done():
			t.Stop()
			return ctx.Err()
		case <-t.C:
		}
	}
	return nil
}
