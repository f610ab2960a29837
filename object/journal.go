package object

import (
	"context"
	"errors"
	"strings"

	"google.golang.org/protobuf/encoding/protowire"

	"firn/hlc"
	"firn/kv"
)

// Op is what a journal entry records.
type Op uint8

// The operations. Their numbers are stored.
const (
	OpPut          Op = 1 // a version came to be: put, copy, completed upload
	OpDeleteMarker Op = 2 // a delete marker came to be
	OpDelete       Op = 3 // a version or delete marker was removed for good
	OpUpdate       Op = 4 // tags, ACL, retention or legal hold of a version changed
	OpCreateBucket Op = 5
	OpUpdateBucket Op = 6
	OpDeleteBucket Op = 7
)

var opNames = [...]string{
	"", "put", "delete-marker", "delete", "update", "create-bucket", "update-bucket", "delete-bucket",
}

func (o Op) String() string {
	if int(o) < len(opNames) && o > 0 {
		return opNames[o]
	}
	return "unknown"
}

// Entry is one mutation of the namespace.
type Entry struct {
	Seq      uint64 // place in the journal, from 1, without gaps
	Op       Op
	Clock    uint64 // hybrid logical clock of the mutation; for a put or marker that of the version
	Site     uint32 // site that wrote the version concerned
	Bucket   string
	BucketID uint64
	Key      string // empty for a bucket's own entries
	// VersionID is the version concerned, "null" where it has no id of its own.
	VersionID string
	// Replaced reports that a put or marker removed the version that was "null" before.
	Replaced bool
	Size     int64  // bytes of the version put
	ETag     string // of the version put
	// Delta is how the bucket's counters changed.
	Delta Usage
}

// Fields of a journal entry.
const (
	jOp        = 1
	jClock     = 2 // fixed64
	jSite      = 3
	jBucketID  = 4
	jBucket    = 5
	jKey       = 6
	jVersion   = 7 // clock and site of the version's id, inverted; absent for "null" and for buckets
	jNull      = 8
	jReplaced  = 9
	jSize      = 10
	jMD5       = 11
	jETagParts = 12
	jDelta     = 13 // three zigzag varints: objects, versions, bytes
)

// mutation is an Entry before it is written.
type mutation struct {
	op       Op
	clock    uint64
	site     uint32
	bucketID uint64
	bucket   string
	key      string
	version  order
	null     bool
	replaced bool
	size     int64
	md5      *[16]byte
	nparts   int
	delta    Usage
}

func appendMutation(b []byte, m *mutation) []byte {
	b = appendUint(b, jOp, uint64(m.op))
	b = appendFixed(b, jClock, m.clock)
	b = appendUint(b, jSite, uint64(m.site))
	b = appendUint(b, jBucketID, m.bucketID)
	b = appendBytes(b, jBucket, m.bucket)
	b = appendBytes(b, jKey, m.key)
	if m.key != "" && !m.null {
		b = appendBytes(b, jVersion, m.version[:])
	}
	b = appendUint(b, jNull, boolUint(m.null))
	b = appendUint(b, jReplaced, boolUint(m.replaced))
	b = appendUint(b, jSize, uint64(m.size))
	if m.md5 != nil {
		b = appendBytes(b, jMD5, m.md5[:])
		b = appendUint(b, jETagParts, uint64(m.nparts))
	}
	if m.delta != (Usage{}) {
		var buf [32]byte
		b = appendBytes(b, jDelta, appendUsage(buf[:0], m.delta))
	}
	return b
}

func decodeEntry(e *Entry, raw []byte) error {
	f := fields{b: raw}
	var md5 *[16]byte
	nparts := 0
	for f.next() {
		want := protowire.VarintType
		switch f.num {
		case jClock:
			want = protowire.Fixed64Type
		case jBucket, jKey, jVersion, jMD5, jDelta:
			want = protowire.BytesType
		}
		if f.num <= jDelta && !f.is(want) {
			return errRecord
		}
		switch f.num {
		case jOp:
			e.Op = Op(f.u)
		case jClock:
			e.Clock = f.u
		case jSite:
			e.Site = uint32(f.u)
		case jBucketID:
			e.BucketID = f.u
		case jBucket:
			e.Bucket = string(f.data)
		case jKey:
			e.Key = string(f.data)
		case jVersion:
			if len(f.data) != orderLen {
				return errRecord
			}
			e.VersionID = order(f.data).String()
		case jNull:
			if f.u != 0 {
				e.VersionID = nullID
			}
		case jReplaced:
			e.Replaced = f.u != 0
		case jSize:
			e.Size = int64(f.u & (1<<62 - 1))
		case jMD5:
			if len(f.data) != 16 {
				return errRecord
			}
			sum := [16]byte(f.data)
			md5 = &sum
		case jETagParts:
			nparts = int(f.u & 0xFFFF)
		case jDelta:
			var ok bool
			if e.Delta, _, ok = parseUsage(f.data); !ok {
				return errRecord
			}
		}
	}
	if f.bad {
		return errRecord
	}
	if md5 != nil {
		e.ETag = string(appendETag(nil, *md5, nparts))
	}
	return nil
}

// Journal calls fn for the entries from <= Seq in order until fn returns an error, which it returns, or the tail
// is reached. kv.ErrTrimmed where from is older than what is kept.
func (s *Store) Journal(ctx context.Context, from uint64, fn func(Entry) error) error {
	return s.db.ReadLog(ctx, from, func(l kv.LogEntry) error {
		e := Entry{Seq: l.Seq}
		if err := decodeEntry(&e, l.Data); err != nil {
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
	k := metaKey(cursorPrefix + name)
	err := s.db.View(ctx, func(r kv.Reader) error {
		v, err := r.Get(nil, k)
		if errors.Is(err, kv.ErrNotFound) {
			return nil
		}
		if err == nil {
			seq, err = parseUint64(v)
		}
		return err
	}, k)
	return seq, err
}

// SetCursor stores the position of a consumer. The journal is not trimmed past any cursor, so a consumer that
// is given up must be removed with RemoveCursor.
func (s *Store) SetCursor(ctx context.Context, name string, seq uint64) error {
	k := metaKey(cursorPrefix + name)
	return s.db.Update(ctx, func(tx kv.Tx) error {
		tx.Set(k, idKey(0, seq)[1:])
		return nil
	}, k)
}

// RemoveCursor forgets a consumer.
func (s *Store) RemoveCursor(ctx context.Context, name string) error {
	k := metaKey(cursorPrefix + name)
	return s.db.Update(ctx, func(tx kv.Tx) error {
		tx.Delete(k)
		return nil
	}, k)
}

// Cursors returns all consumers' positions by name.
func (s *Store) Cursors(ctx context.Context) (map[string]uint64, error) {
	cursors := map[string]uint64{}
	lower := metaKey(cursorPrefix)
	err := s.db.View(ctx, func(r kv.Reader) error {
		return scan(r, lower, successor(lower), func(k, v []byte) error {
			seq, err := parseUint64(v)
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
		f := fields{b: l.Data}
		for f.next() {
			if f.num == jClock && f.typ == protowire.Fixed64Type {
				s.clock.Seed(hlc.Time(f.u))
				break
			}
		}
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
		err := s.Journal(ctx, mid, func(e Entry) error {
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

// scan calls fn for the pairs lower <= key < upper; key and value are valid until fn returns.
func scan(r kv.Reader, lower, upper []byte, fn func(k, v []byte) error) (err error) {
	it, err := r.Iter(lower, upper)
	if err != nil {
		return err
	}
	defer func() {
		if cerr := it.Close(); err == nil {
			err = cerr
		}
	}()
	for ok := it.First(); ok; ok = it.Next() {
		v, err := it.Value()
		if err != nil {
			return err
		}
		if err := fn(it.Key(), v); err != nil {
			return err
		}
	}
	return it.Err()
}
