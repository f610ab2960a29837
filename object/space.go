package object

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"firn/vfs"
)

const (
	// spaceInterval is how long an answer of the file system about its free space is used.
	spaceInterval = time.Second
	// spaceNearInterval is the same near the reserve, where what others write to the disk matters soon.
	spaceNearInterval = 50 * time.Millisecond
	// fullInterval is the least time between two lines of log about a disk that stays nearly full.
	fullInterval = time.Minute

	// recordCost is what a record, its journal entry and a file's rounding up may take, in bytes.
	recordCost = 8 << 10
)

// fileCost is what size bytes of content in a file of their own take of the disk: checksums stand beside each block.
func fileCost(size int64) int64 { return size + size>>7 + recordCost }

// inlineCost is what size bytes of content in the metadata engine take: once in its log, once more when a memtable
// is flushed. The log goes later than the flush comes.
func inlineCost(size int64) int64 { return 2 * (size + recordCost/4) }

// space refuses writes before the disk is full, so that the metadata engine, deletes and reads keep room.
//
// Between two answers of the file system everything admitted since the last one counts as used, whether it is
// finished or not. The answer covers what was finished before it was asked for, and no more: the rest counts until a
// later one. So an estimate is never above the truth for what this store writes itself.
type space struct {
	fs      vfs.FS
	dir     string
	reserve int64
	now     func() time.Time
	log     *slog.Logger

	charged  atomic.Int64 // bytes admitted since the start
	finished atomic.Int64 // bytes of them whose write ended, well or not
	limit    atomic.Int64 // charged may grow up to here
	free     atomic.Int64 // bytes above the reserve, as last asked
	asked    atomic.Int64 // when, ns
	covered  atomic.Int64 // finished, as of then
	full     atomic.Bool  // the log says nearly full
	refused  atomic.Int64 // writes, since the start

	// asking is held by the one caller that asks the file system, so that others do not ask the same.
	asking sync.Mutex
	mu     struct {
		sync.Mutex
		said    int64 // when the log said last that the disk is nearly full, ns
		counted int64 // refused, as of then
		last    int64 // when a write was refused last, ns
		wanted  int64 // the most that was refused since the disk is nearly full, bytes
	}
}

// init takes the first sample: nothing is refused or admitted before the file system was asked.
func (s *space) init(fsys vfs.FS, dir string, reserve int64, now func() time.Time, log *slog.Logger) {
	s.fs, s.dir, s.reserve, s.now, s.log = fsys, dir, reserve, now, log
	if s.reserve < 0 {
		s.limit.Store(1 << 62)
		return
	}
	s.sample()
	if s.headroom() <= 0 {
		s.sayFull(0)
	}
}

// sample asks the file system. The caller holds asking, or is alone.
func (s *space) sample() {
	now := s.now().UnixNano()
	covered := s.finished.Load() // before asking: what ends meanwhile may not be in the answer
	free := int64(1 << 61)
	// A file system that cannot say (in memory) is taken to have room; a full one still fails the write.
	if u, err := s.fs.GetDiskUsage(s.dir); err == nil {
		free = int64(min(u.AvailBytes, 1<<61)) - s.reserve
	}
	s.free.Store(free)
	s.covered.Store(covered)
	s.limit.Store(free + covered)
	s.asked.Store(now)
	if s.full.Load() {
		s.sayRoom(now)
	}
}

// left is the estimate without asking.
func (s *space) left() int64 { return s.limit.Load() - s.charged.Load() }

// headroom returns the bytes that may still be admitted.
func (s *space) headroom() int64 {
	left := s.left()
	if s.reserve < 0 {
		return left
	}
	age := s.now().UnixNano() - s.asked.Load()
	if age > int64(spaceInterval) || age < 0 || left < s.reserve && age > int64(spaceNearInterval) {
		if s.asking.TryLock() { // else somebody is asking: the estimate will do
			s.sample()
			s.asking.Unlock()
			left = s.left()
		}
	}
	return left
}

// admit charges n bytes for a write, or returns ErrNoSpace. The caller calls done(n) when the bytes are written,
// or will not be.
func (s *space) admit(n int64) error {
	if s.headroom() < n && !s.afresh(n) {
		s.refuse(n)
		return ErrNoSpace
	}
	if s.charged.Add(n) > s.limit.Load() && s.reserve >= 0 && !s.afresh(0) {
		// Others were admitted in between.
		s.done(n)
		s.refuse(n)
		return ErrNoSpace
	}
	return nil
}

// afresh reports whether there are n bytes after all. It asks the file system where the last answer lacks writes
// that have ended since: they were estimated, and never too low.
func (s *space) afresh(n int64) bool {
	s.asking.Lock()
	defer s.asking.Unlock()
	if s.left() < n && s.finished.Load() != s.covered.Load() {
		s.sample()
	}
	return s.left() >= n
}

func (s *space) done(n int64) { s.finished.Add(n) }

// inFlight returns the bytes admitted and not yet stored.
func (s *space) inFlight() int64 { return s.charged.Load() - s.finished.Load() }

// refuse notes that n bytes were refused.
func (s *space) refuse(n int64) {
	s.refused.Add(1)
	s.sayFull(n)
}

// sayFull tells an operator that the disk is nearly full: when it becomes so, and then not too often.
func (s *space) sayFull(wanted int64) {
	now := s.now().UnixNano()
	total := s.refused.Load()
	s.mu.Lock()
	s.mu.last, s.mu.wanted = now, max(s.mu.wanted, wanted)
	news := s.full.CompareAndSwap(false, true)
	since := total - s.mu.counted
	say := news || now-s.mu.said >= int64(fullInterval)
	if say {
		s.mu.said, s.mu.counted = now, total
	}
	s.mu.Unlock()
	if say {
		s.log.Warn(ErrNoSpace.Error(), "refused", since, "above_reserve", max(0, s.left()), "reserve", s.reserve)
	}
}

// sayRoom tells that there is space again: for the largest of what was refused, unless nobody asked for it lately,
// and a bit more, so that a few deletes do not make the state go back and forth.
func (s *space) sayRoom(now int64) {
	left := s.left()
	s.mu.Lock()
	need := max(1, s.reserve/16)
	if now-s.mu.last < int64(fullInterval) {
		need += s.mu.wanted
	}
	say := left >= need && s.full.CompareAndSwap(true, false)
	total := s.refused.Load()
	since := total - s.mu.counted
	if say {
		s.mu.counted, s.mu.wanted = total, 0
	}
	s.mu.Unlock()
	if say {
		s.log.Info("the disk has space again: writes are accepted", "refused", since, "above_reserve", left)
	}
}

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
	corrupt                                     atomic.Int64
}

// Stats returns the counters.
func (s *Store) Stats() Stats {
	s.buckets.RLock()
	n := len(s.buckets.m)
	s.buckets.RUnlock()
	return Stats{
		Buckets: n, GarbageQueued: s.stats.garbageQueued.Load(), BlobsRemoved: s.stats.blobsRemoved.Load(),
		BytesInFlight: s.space.inFlight(), FreeBytes: s.space.free.Load(),
		UploadsExpired: s.stats.uploadsExpired.Load(), JournalTail: s.db.LogTail(),
		ScrubbedBytes: s.stats.scrubbedBytes.Load(), ScrubbedItems: s.stats.scrubbedItems.Load(),
		ScrubRounds: s.stats.scrubRounds.Load(), CorruptFound: s.stats.corrupt.Load(),
		RefusedForSpace: s.space.refused.Load(),
	}
}
