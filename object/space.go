package object

import (
	"context"
	"sync/atomic"
	"time"

	"firn/vfs"
)

// spaceInterval is how long an answer of the file system about its free space is used.
const spaceInterval = time.Second

// space refuses writes before the disk is full, so that the metadata engine, deletes and reads keep room.
type space struct {
	fs       vfs.FS
	dir      string
	reserve  int64
	now      func() time.Time
	asked    atomic.Int64 // when, ns
	free     atomic.Int64 // bytes above the reserve, as of then
	inFlight atomic.Int64 // bytes admitted and not yet stored
}

func (s *space) init(fsys vfs.FS, dir string, reserve int64, now func() time.Time) {
	s.fs, s.dir, s.reserve, s.now = fsys, dir, reserve, now
}

// headroom returns the bytes that may still be admitted.
func (s *space) headroom() int64 {
	if s.reserve < 0 {
		return 1 << 62
	}
	now := s.now().UnixNano()
	last := s.asked.Load()
	if age := now - last; (last == 0 || age > int64(spaceInterval) || age < 0) && s.asked.CompareAndSwap(last, now) {
		u, err := s.fs.GetDiskUsage(s.dir)
		if err != nil {
			// A file system that cannot say (in memory) is taken to have room; a full one still fails the write.
			s.free.Store(1 << 61)
		} else {
			s.free.Store(int64(min(u.AvailBytes, 1<<61)) - s.reserve)
		}
	}
	return s.free.Load() - s.inFlight.Load()
}

// admit reserves n bytes for a write, or returns ErrNoSpace. The caller calls done(n) at the write's end.
func (s *space) admit(n int64) error {
	if s.headroom() < n {
		return ErrNoSpace
	}
	s.inFlight.Add(n)
	return nil
}

func (s *space) done(n int64) { s.inFlight.Add(-n) }

// grace lets the collector wait until every lookup that may have read a record since removed has pinned what
// it found. A lookup is short, so the wait is too.
type grace struct {
	epoch atomic.Uint64
	in    [2]atomic.Int64
}

// enter begins a lookup; the result goes to leave.
func (g *grace) enter() uint64 {
	for {
		e := g.epoch.Load() & 1
		g.in[e].Add(1)
		if g.epoch.Load()&1 == e {
			return e
		}
		g.in[e].Add(-1)
	}
}

func (g *grace) leave(e uint64) { g.in[e].Add(-1) }

// wait returns when all lookups that were under way when it was called have left. It is called by one
// goroutine at a time.
func (g *grace) wait(ctx context.Context) error {
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

// Stats are counters since the store was opened, and gauges.
type Stats struct {
	Buckets         int
	GarbageQueued   int64 // blobs seen on the garbage queue and not yet removed
	BlobsRemoved    int64
	BytesInFlight   int64 // admitted and not yet stored
	FreeBytes       int64 // above the reserve, as last asked
	UploadsExpired  int64
	JournalTail     uint64
	ScrubbedBytes   int64
	ScrubbedItems   int64
	ScrubRounds     int64
	CorruptFound    int64 // values and blobs that did not match, by reads and the scrubber
	RefusedForSpace int64
}

type stats struct {
	garbageQueued, blobsRemoved, uploadsExpired atomic.Int64
	scrubbedBytes, scrubbedItems, scrubRounds   atomic.Int64
	corrupt, refused                            atomic.Int64
}

// Stats returns the counters.
func (s *Store) Stats() Stats {
	s.buckets.RLock()
	n := len(s.buckets.m)
	s.buckets.RUnlock()
	return Stats{
		Buckets: n, GarbageQueued: s.stats.garbageQueued.Load(), BlobsRemoved: s.stats.blobsRemoved.Load(),
		BytesInFlight: s.space.inFlight.Load(), FreeBytes: s.space.free.Load(),
		UploadsExpired: s.stats.uploadsExpired.Load(), JournalTail: s.db.LogTail(),
		ScrubbedBytes: s.stats.scrubbedBytes.Load(), ScrubbedItems: s.stats.scrubbedItems.Load(),
		ScrubRounds: s.stats.scrubRounds.Load(), CorruptFound: s.stats.corrupt.Load(),
		RefusedForSpace: s.stats.refused.Load(),
	}
}
