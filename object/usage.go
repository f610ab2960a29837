package object

import (
	"context"
	"encoding/binary"
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

// counter names one set of counters: those of a bucket, or of a storage class in it.
type counter struct {
	bucket uint64
	class  string // "" is the whole bucket; STANDARD, the one class without counters, is what the others leave of it
}

func usageKey(c counter) []byte {
	return append(append(record.MetaKey(usagePrefix), record.IDKey(0, c.bucket)[1:]...), c.class...)
}

// parseCounter reads what usageKey made.
func parseCounter(k []byte) (counter, error) {
	rest := k[min(len(k), 1+len(usagePrefix)):]
	if len(rest) < 8 {
		return counter{}, record.ErrBroken
	}
	return counter{binary.BigEndian.Uint64(rest), string(rest[8:])}, nil
}

// clockWarning is how far the clock may be ahead of the wall clock at start without a word.
const clockWarning = time.Minute

// loadUsage sets the counters of all buckets.
func (s *Store) loadUsage(ctx context.Context) error {
	byID := map[uint64]*bucket{}
	for _, b := range s.buckets.m {
		byID[b.rec.Load().ID] = b
	}
	count := func(c counter, u record.Usage) {
		if b := byID[c.bucket]; b != nil {
			b.count(c.class, u)
		}
	}
	var seq uint64
	err := s.db.View(ctx, func(r kv.Reader) (err error) {
		if seq, err = getUint(r, record.MetaKey(usageSeqKey)); err != nil {
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
func storedUsage(r kv.Reader, fn func(counter, record.Usage)) error {
	lower := record.MetaKey(usagePrefix)
	return scan(r, lower, record.Successor(lower), func(k, v []byte) error {
		c, err := parseCounter(k)
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
func (s *Store) usageSince(ctx context.Context, seq uint64, fn func(counter, record.Usage)) error {
	if seq >= s.db.LogTail() {
		return nil
	}
	return s.db.ReadLog(ctx, seq+1, func(l kv.LogEntry) error { return entryDelta(l.Data, fn) })
}

// entryDelta calls fn with what a journal entry changed.
func entryDelta(raw []byte, fn func(counter, record.Usage)) error {
	id, u, classes, err := record.EntryDelta(raw)
	if err != nil {
		return err
	}
	if u != (record.Usage{}) {
		fn(counter{bucket: id}, u)
	}
	for _, c := range classes {
		fn(counter{id, c.Class}, c.Usage)
	}
	return nil
}

// saveUsage brings the stored counters up to the journal's tail.
func (s *Store) saveUsage(ctx context.Context) error {
	k := record.MetaKey(usageSeqKey)
	for {
		from := s.usageSeq.Load()
		last := from
		sum := map[counter]record.Usage{}
		err := s.db.ReadLog(ctx, from+1, func(l kv.LogEntry) error {
			if err := entryDelta(l.Data, func(c counter, u record.Usage) { sum[c] = sum[c].Plus(u, 1) }); err != nil {
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
				if !exists[c.bucket] {
					tx.Delete(usageKey(c))
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
func addUsage(tx kv.Tx, c counter, u record.Usage) error {
	v, err := get(tx, nil, usageKey(c))
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
	tx.Set(usageKey(c), record.AppendUsage(nil, u))
	return nil
}
