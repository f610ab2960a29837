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
	usagePrefix = "usage/"
	usageSeqKey = "usageseq"
	// usageInterval and usageEntries bound what a start has to replay.
	usageInterval = 10 * time.Second
	usageEntries  = 200_000
)

func usageKey(bucket uint64) []byte {
	return append(record.MetaKey(usagePrefix), record.IDKey(0, bucket)[1:]...)
}

// clockWarning is how far the clock may be ahead of the wall clock at start without a word.
const clockWarning = time.Minute

// loadUsage sets the counters of all buckets.
func (s *Store) loadUsage(ctx context.Context) error {
	byID := map[uint64]*bucket{}
	for _, b := range s.buckets.m {
		byID[b.rec.Load().ID] = b
	}
	var seq uint64
	err := s.db.View(ctx, func(r kv.Reader) (err error) {
		if seq, err = getUint(r, record.MetaKey(usageSeqKey)); err != nil {
			return err
		}
		for id, b := range byID {
			v, err := get(r, nil, usageKey(id))
			if err != nil {
				return err
			}
			if v == nil {
				continue
			}
			u, _, ok := record.ParseUsage(v)
			if !ok {
				return record.ErrBroken
			}
			b.add(u)
		}
		return nil
	})
	if err != nil {
		return err
	}
	if err := s.usageSince(ctx, seq, func(id uint64, u record.Usage) {
		if b := byID[id]; b != nil {
			b.add(u)
		}
	}); err != nil {
		return err
	}
	s.usageSeq.Store(seq)
	return nil
}

// usageSince calls fn with what each journal entry after seq changed.
func (s *Store) usageSince(ctx context.Context, seq uint64, fn func(bucket uint64, u record.Usage)) error {
	if seq >= s.db.LogTail() {
		return nil
	}
	return s.db.ReadLog(ctx, seq+1, func(l kv.LogEntry) error {
		id, u, err := record.EntryDelta(l.Data)
		if err == nil && u != (record.Usage{}) {
			fn(id, u)
		}
		return err
	})
}

// saveUsage brings the stored counters up to the journal's tail.
func (s *Store) saveUsage(ctx context.Context) error {
	k := record.MetaKey(usageSeqKey)
	for {
		from := s.usageSeq.Load()
		last := from
		sum := map[uint64]record.Usage{}
		err := s.db.ReadLog(ctx, from+1, func(l kv.LogEntry) error {
			id, u, err := record.EntryDelta(l.Data)
			if err != nil {
				return err
			}
			if u != (record.Usage{}) {
				sum[id] = sum[id].Plus(u, 1)
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
			for id, u := range sum {
				if !exists[id] {
					tx.Delete(usageKey(id))
					continue
				}
				if err := addUsage(tx, id, u); err != nil {
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

// addUsage adds u to the stored counters of a bucket.
func addUsage(tx kv.Tx, id uint64, u record.Usage) error {
	v, err := get(tx, nil, usageKey(id))
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
	tx.Set(usageKey(id), record.AppendUsage(nil, u))
	return nil
}
