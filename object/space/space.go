// Package space refuses writes before a disk is full.
//
// It promises that what it admitted fits above the reserve, as far as this process alone writes to the disk, and that what
// is refused is refused before a byte of it is written. It must never know what is written.
package space

import (
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"firn"
	"firn/vfs"
)

// ErrFull is returned for what is refused.
var ErrFull = firn.NewError(firn.NoSpace, "the disk is nearly full: writes are refused until space is freed")

const (
	// askInterval is how long an answer of the file system about its free space is used.
	askInterval = time.Second
	// askNearInterval is the same near the reserve, where what others write to the disk matters soon.
	askNearInterval = 50 * time.Millisecond
	// fullInterval is the least time between two lines of log about a disk that stays nearly full.
	fullInterval = time.Minute

	// RecordCost is what a record, its journal entry and a file's rounding up may take, in bytes.
	RecordCost = 8 << 10
)

// FileCost is what size bytes of content in a file of their own take of the disk: checksums stand beside each block.
func FileCost(size int64) int64 { return size + size>>7 + RecordCost }

// InlineCost is what size bytes of content in the metadata engine take: once in its log, once more when a memtable
// is flushed. The log goes later than the flush comes.
func InlineCost(size int64) int64 { return 2 * (size + RecordCost/4) }

// Reserve refuses writes before the disk is full, so that the metadata engine, deletes and reads keep room.
//
// Between two answers of the file system everything admitted since the last one counts as used, whether it is
// finished or not. The answer covers what was finished before it was asked for, and no more: the rest counts until a
// later one. So an estimate is never above the truth for what this store writes itself.
type Reserve struct {
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

// New returns the Reserve of bytes, negative: none, of the disk that dir is on. It asks the file system at once: nothing is
// refused or admitted before.
func New(fsys vfs.FS, dir string, bytes int64, now func() time.Time, log *slog.Logger) *Reserve {
	s := &Reserve{fs: fsys, dir: dir, reserve: bytes, now: now, log: log}
	if s.reserve < 0 {
		s.limit.Store(1 << 62)
		return s
	}
	s.sample()
	if s.Headroom() <= 0 {
		s.sayFull(0)
	}
	return s
}

// sample asks the file system. The caller holds asking, or is alone.
func (s *Reserve) sample() {
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
func (s *Reserve) left() int64 { return s.limit.Load() - s.charged.Load() }

// Headroom returns the bytes that may still be admitted.
func (s *Reserve) Headroom() int64 {
	left := s.left()
	if s.reserve < 0 {
		return left
	}
	age := s.now().UnixNano() - s.asked.Load()
	if age > int64(askInterval) || age < 0 || left < s.reserve && age > int64(askNearInterval) {
		if s.asking.TryLock() { // else somebody is asking: the estimate will do
			s.sample()
			s.asking.Unlock()
			left = s.left()
		}
	}
	return left
}

// Admit charges n bytes for a write, or returns ErrFull. The caller calls Done(n) when the bytes are written,
// or will not be.
func (s *Reserve) Admit(n int64) error {
	if s.Headroom() < n && !s.afresh(n) {
		s.refuse(n)
		return ErrFull
	}
	if s.charged.Add(n) > s.limit.Load() && s.reserve >= 0 && !s.afresh(0) {
		// Others were admitted in between.
		s.Done(n)
		s.refuse(n)
		return ErrFull
	}
	return nil
}

// afresh reports whether there are n bytes after all. It asks the file system where the last answer lacks writes
// that have ended since: they were estimated, and never too low.
func (s *Reserve) afresh(n int64) bool {
	s.asking.Lock()
	defer s.asking.Unlock()
	if s.left() < n && s.finished.Load() != s.covered.Load() {
		s.sample()
	}
	return s.left() >= n
}

// Done says that n admitted bytes are written, or will not be.
func (s *Reserve) Done(n int64) { s.finished.Add(n) }

// InFlight returns the bytes admitted and not yet stored.
func (s *Reserve) InFlight() int64 { return s.charged.Load() - s.finished.Load() }

// Free returns the bytes above the reserve, as the file system was last asked.
func (s *Reserve) Free() int64 { return s.free.Load() }

// Refused returns the number of writes refused since the start.
func (s *Reserve) Refused() int64 { return s.refused.Load() }

// refuse notes that n bytes were refused.
func (s *Reserve) refuse(n int64) {
	s.refused.Add(1)
	s.sayFull(n)
}

// sayFull tells an operator that the disk is nearly full: when it becomes so, and then not too often.
func (s *Reserve) sayFull(wanted int64) {
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
		s.log.Warn(ErrFull.Error(), "refused", since, "above_reserve", max(0, s.left()), "reserve", s.reserve)
	}
}

// sayRoom tells that there is space again: for the largest of what was refused, unless nobody asked for it lately,
// and a bit more, so that a few deletes do not make the state go back and forth.
func (s *Reserve) sayRoom(now int64) {
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
