package tier

import (
	"slices"
	"strings"
	"sync"
	"time"
)

// Waiting is what waits, or is under way.
type Waiting struct {
	Objects int64
	Bytes   int64     // of the versions
	Oldest  time.Time // since when the oldest one waits; zero where none does
}

// Backlog is what a tier is behind with.
type Backlog struct {
	Tier string
	// Moves to it and Recalls from it were asked for and are not done.
	Moves, Recalls Waiting
	// Entries of the journal that its catalogue does not tell of yet. 0 where the tier did not answer since the start.
	Entries uint64
	// Begun are copies of large versions that are under way or were cut off.
	Begun Begun
}

// job is a kind of work.
type job struct {
	tier   string
	recall bool
}

// work counts what waits. The zero value is ready.
type work struct {
	mu   sync.Mutex
	jobs map[job]*jobs // guarded by mu
}

type jobs struct {
	bytes int64
	since map[*int64]time.Time // of each; the key is only a name for it
}

// begin counts one piece of work until the function returned is called.
func (w *work) begin(j job, size int64, now time.Time) func() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.jobs == nil {
		w.jobs = map[job]*jobs{}
	}
	if w.jobs[j] == nil {
		w.jobs[j] = &jobs{since: map[*int64]time.Time{}}
	}
	all, id := w.jobs[j], new(int64)
	all.bytes += size
	all.since[id] = now
	return func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		all.bytes -= size
		delete(all.since, id)
	}
}

func (w *work) waiting(j job) (out Waiting) {
	w.mu.Lock()
	defer w.mu.Unlock()
	all := w.jobs[j]
	if all == nil {
		return out
	}
	out.Objects, out.Bytes = int64(len(all.since)), all.bytes
	for _, t := range all.since {
		if out.Oldest.IsZero() || t.Before(out.Oldest) {
			out.Oldest = t
		}
	}
	return out
}

// Backlog returns what each tier is behind with, by name. It asks no tier.
func (m *Mover) Backlog() []Backlog {
	var all []Backlog
	for _, t := range m.set.list {
		b := Backlog{Tier: t.Name, Moves: m.work.waiting(job{t.Name, false}), Recalls: m.work.waiting(job{t.Name, true}), Begun: t.begun()}
		t.mu.Lock()
		c := t.catalogue
		t.mu.Unlock()
		if c != nil {
			b.Entries = m.ns.JournalTail() - min(m.ns.JournalTail(), c.Journal())
		}
		all = append(all, b)
	}
	slices.SortFunc(all, func(a, b Backlog) int { return strings.Compare(a.Tier, b.Tier) })
	return all
}

// Opens returns when rules may move: now, or a later time.
func (m *Mover) Opens() (at time.Time, open bool) { return m.turns.Opens() }
