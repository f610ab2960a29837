package object

import (
	"context"
	"errors"
	"time"

	"firn/kv"
	"firn/object/record"
)

// A bucket's counters live in memory and are exact: every journal entry holds how it changed them. The stored
// counters are those as of a journal position stored with them; the start adds what the journal has since.

const (
	// usageInterval and usageEntries bound what a start has to replay.
	usageInterval = 10 * time.Second
	usageEntries  = 200_000
)

// clockWarning is how far the clock may be ahead of the wall clock at start without a word.
const clockWarning = time.Minute

// loadUsage sets the counters of all buckets.
func (s *Store) loadUsage(ctx context.Context) error {
	byID := map[uint64]*bucket{}
	for _, b := range s.buckets.m {
		byID[b.rec.Load().ID] = b
	}
	count := func(c record.Counter, u record.Usage) {
		if b := byID[c.Bucket]; b != nil {
			b.count(c.Class, u)
		}
	}
	var seq uint64
	err := s.db.View(ctx, func(r kv.Reader) (err error) {
		if seq, err = getUint(r, record.UsageSeqKey()); err != nil {
			return err
		}
		return storedUsage(r, count)
	})
	if err != nil {
		return err
	}
	if err := s.usageSince(ctx, seq, count); err != nil {
		return err
	}
	s.usageSeq.Store(seq)
	return nil
}

// storedUsage calls fn with all stored counters.
func storedUsage(r kv.Reader, fn func(record.Counter, record.Usage)) error {
	lower := record.UsagePrefix()
	return kv.Scan(r, lower, record.Successor(lower), func(k, v []byte) error {
		c, err := record.ParseUsageKey(k)
		if err != nil {
			return err
		}
		u, _, ok := record.ParseUsage(v)
		if !ok {
			return record.ErrBroken
		}
		fn(c, u)
		return nil
	})
}

// usageSince calls fn with what each journal entry after seq changed.
func (s *Store) usageSince(ctx context.Context, seq uint64, fn func(record.Counter, record.Usage)) error {
	if seq >= s.db.LogTail() {
		return nil
	}
	return s.db.ReadLog(ctx, seq+1, func(l kv.LogEntry) error { return record.Deltas(l.Data, fn) })
}

// saveUsage brings the stored counters up to the journal's tail.
func (s *Store) saveUsage(ctx context.Context) error {
	k := record.UsageSeqKey()
	for {
		from := s.usageSeq.Load()
		last := from
		sum := map[record.Counter]record.Usage{}
		err := s.db.ReadLog(ctx, from+1, func(l kv.LogEntry) error {
			if err := record.Deltas(l.Data, func(c record.Counter, u record.Usage) { sum[c] = sum[c].Plus(u, 1) }); err != nil {
				return err
			}
			if last = l.Seq; last-from >= usageEntries {
				return errStop
			}
			return nil
		})
		more := errors.Is(err, errStop)
		if err != nil && !more {
			return err
		}
		if last == from {
			return nil
		}
		exists := map[uint64]bool{}
		s.buckets.RLock()
		for _, b := range s.buckets.m {
			exists[b.rec.Load().ID] = true
		}
		s.buckets.RUnlock()
		err = s.db.Update(ctx, func(tx kv.Tx) error {
			if seq, err := getUint(tx, k); err != nil || seq != from {
				return errors.Join(err, errMoved)
			}
			for c, u := range sum {
				if !exists[c.Bucket] {
					tx.Delete(record.UsageKey(c))
					continue
				}
				if err := addUsage(tx, c, u); err != nil {
					return err
				}
			}
			tx.Set(k, record.IDKey(0, last)[1:])
			return nil
		}, k)
		if err != nil {
			return err
		}
		s.usageSeq.Store(last)
		if !more {
			return nil
		}
	}
}

// errMoved: two savers ran at once, which Run and Close never do.
var errMoved = errors.New("the stored counters moved")

// addUsage adds u to stored counters.
func addUsage(tx kv.Tx, c record.Counter, u record.Usage) error {
	v, err := kv.Find(tx, nil, record.UsageKey(c))
	if err != nil {
		return err
	}
	if v != nil {
		old, _, ok := record.ParseUsage(v)
		if !ok {
			return record.ErrBroken
		}
		u = u.Plus(old, 1)
	}
	tx.Set(record.UsageKey(c), record.AppendUsage(nil, u))
	return nil
}
