package object

import (
	"context"
	"errors"
	"strings"

	"firn/hlc"
	"firn/kv"
	"firn/object/record"
)

// Journal calls fn for the entries from <= Seq in order until fn returns an error, which it returns, or the tail
// is reached. kv.ErrTrimmed where from is older than what is kept.
func (s *Store) Journal(ctx context.Context, from uint64, fn func(record.Entry) error) error {
	return s.db.ReadLog(ctx, from, func(l kv.LogEntry) error {
		e := record.Entry{Seq: l.Seq}
		if err := record.DecodeEntry(&e, l.Data); err != nil {
			return err
		}
		return fn(e)
	})
}

// JournalTail returns the last durable sequence number, 0 for an empty journal.
func (s *Store) JournalTail() uint64 { return s.db.LogTail() }

// JournalStart returns the oldest sequence number that is kept, or JournalTail()+1 for an empty journal.
func (s *Store) JournalStart() (uint64, error) { return s.db.LogStart() }

// WaitJournal returns when JournalTail() > after, or with ctx's error.
func (s *Store) WaitJournal(ctx context.Context, after uint64) error { return s.db.WaitLog(ctx, after) }

const cursorPrefix = "cursor/"

// Cursor returns the position of a consumer: the last sequence number it has done with; 0 for a new one.
func (s *Store) Cursor(ctx context.Context, name string) (uint64, error) {
	var seq uint64
	k := record.MetaKey(cursorPrefix + name)
	err := s.db.View(ctx, func(r kv.Reader) error {
		v, err := r.Get(nil, k)
		if errors.Is(err, kv.ErrNotFound) {
			return nil
		}
		if err == nil {
			seq, err = record.ParseUint64(v)
		}
		return err
	}, k)
	return seq, err
}

// SetCursor stores the position of a consumer. The journal is not trimmed past any cursor, so a consumer that
// is given up must be removed with RemoveCursor.
func (s *Store) SetCursor(ctx context.Context, name string, seq uint64) error {
	k := record.MetaKey(cursorPrefix + name)
	return s.db.Update(ctx, func(tx kv.Tx) error {
		tx.Set(k, record.IDKey(0, seq)[1:])
		return nil
	}, k)
}

// RemoveCursor forgets a consumer.
func (s *Store) RemoveCursor(ctx context.Context, name string) error {
	k := record.MetaKey(cursorPrefix + name)
	return s.db.Update(ctx, func(tx kv.Tx) error {
		tx.Delete(k)
		return nil
	}, k)
}

// Cursors returns all consumers' positions by name.
func (s *Store) Cursors(ctx context.Context) (map[string]uint64, error) {
	cursors := map[string]uint64{}
	lower := record.MetaKey(cursorPrefix)
	err := s.db.View(ctx, func(r kv.Reader) error {
		return kv.Scan(r, lower, record.Successor(lower), func(k, v []byte) error {
			seq, err := record.ParseUint64(v)
			if err != nil {
				return err
			}
			cursors[strings.TrimPrefix(string(k[1:]), cursorPrefix)] = seq
			return nil
		})
	})
	return cursors, err
}

// seedClock moves the clock past every reading in the store. Commits may have been logged in another order
// than their clocks were read, but only those that ran at the same time, so the newest entries are enough.
func (s *Store) seedClock(ctx context.Context) error {
	start, err := s.db.LogStart()
	if err != nil {
		return err
	}
	from := start
	if tail := s.db.LogTail(); tail > minJournal {
		from = max(start, tail-minJournal)
	}
	return s.db.ReadLog(ctx, from, func(l kv.LogEntry) error {
		s.clock.Seed(record.EntryClock(l.Data))
		return nil
	})
}

// trimJournal forgets entries that are too old or too many and that every cursor has passed.
func (s *Store) trimJournal(ctx context.Context) error {
	start, err := s.db.LogStart()
	if err != nil {
		return err
	}
	tail := s.db.LogTail()
	if tail < minJournal || start > tail-minJournal {
		return nil
	}
	limit := tail - minJournal // entries before it may go
	cursors, err := s.Cursors(ctx)
	if err != nil {
		return err
	}
	for _, seq := range cursors {
		limit = min(limit, seq+1)
	}
	limit = min(limit, s.usageSeq.Load()+1)
	var before uint64
	if tail > s.o.JournalKeepEntries {
		before = min(limit, tail-s.o.JournalKeepEntries)
	}
	oldest := hlc.FromWall(s.o.Now().Add(-s.o.JournalKeepAge))
	// Age is looked up by bisection: clocks grow along the journal but for commits that ran together.
	lo, hi := max(start, before), limit
	for lo < hi {
		mid := lo + (hi-lo)/2
		var at hlc.Time
		err := s.Journal(ctx, mid, func(e record.Entry) error {
			at = hlc.Time(e.Clock)
			return errStop
		})
		if err != nil && !errors.Is(err, errStop) {
			return err
		}
		if at < oldest {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	if before = max(before, lo); before <= start {
		return nil
	}
	return s.db.TrimLog(ctx, before)
}

// errStop ends a walk early.
var errStop = errors.New("stop")
