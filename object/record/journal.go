package record

import (
	"google.golang.org/protobuf/encoding/protowire"

	"firn/hlc"
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

// String returns the operation's name.
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

// Mutation is an Entry before it is written.
type Mutation struct {
	Op        Op
	Clock     uint64
	Site      uint32
	BucketID  uint64
	Bucket    string
	Key       string
	Version   Order
	Null      bool
	Replaced  bool
	Size      int64
	MD5       *[16]byte
	ETagParts int
	Delta     Usage
}

// AppendMutation appends m's stored form to b.
func AppendMutation(b []byte, m *Mutation) []byte {
	b = appendUint(b, jOp, uint64(m.Op))
	b = appendFixed(b, jClock, m.Clock)
	b = appendUint(b, jSite, uint64(m.Site))
	b = appendUint(b, jBucketID, m.BucketID)
	b = appendBytes(b, jBucket, m.Bucket)
	b = appendBytes(b, jKey, m.Key)
	if m.Key != "" && !m.Null {
		b = appendBytes(b, jVersion, m.Version[:])
	}
	b = appendUint(b, jNull, boolUint(m.Null))
	b = appendUint(b, jReplaced, boolUint(m.Replaced))
	b = appendUint(b, jSize, uint64(m.Size))
	if m.MD5 != nil {
		b = appendBytes(b, jMD5, m.MD5[:])
		b = appendUint(b, jETagParts, uint64(m.ETagParts))
	}
	if m.Delta != (Usage{}) {
		var buf [32]byte
		b = appendBytes(b, jDelta, AppendUsage(buf[:0], m.Delta))
	}
	return b
}

// DecodeEntry reads a stored journal entry into e, whose Seq stays as it is.
func DecodeEntry(e *Entry, raw []byte) error {
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
			return ErrBroken
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
			if len(f.data) != OrderLen {
				return ErrBroken
			}
			e.VersionID = Order(f.data).String()
		case jNull:
			if f.u != 0 {
				e.VersionID = NullID
			}
		case jReplaced:
			e.Replaced = f.u != 0
		case jSize:
			e.Size = int64(f.u & (1<<62 - 1))
		case jMD5:
			if len(f.data) != 16 {
				return ErrBroken
			}
			sum := [16]byte(f.data)
			md5 = &sum
		case jETagParts:
			nparts = int(f.u & 0xFFFF)
		case jDelta:
			var ok bool
			if e.Delta, _, ok = ParseUsage(f.data); !ok {
				return ErrBroken
			}
		}
	}
	if f.bad {
		return ErrBroken
	}
	if md5 != nil {
		e.ETag = string(AppendETag(nil, *md5, nparts))
	}
	return nil
}

// EntryDelta reads bucket and delta of a journal entry.
func EntryDelta(raw []byte) (id uint64, u Usage, err error) {
	f := fields{b: raw}
	for f.next() {
		switch {
		case f.num == jBucketID && f.typ == protowire.VarintType:
			id = f.u
		case f.num == jDelta && f.typ == protowire.BytesType:
			var ok bool
			if u, _, ok = ParseUsage(f.data); !ok {
				return 0, u, ErrBroken
			}
		}
	}
	if f.bad {
		return 0, u, ErrBroken
	}
	return id, u, nil
}

// EntryClock returns the clock of a journal entry, 0 where it has none.
func EntryClock(raw []byte) hlc.Time {
	f := fields{b: raw}
	for f.next() {
		if f.num == jClock && f.typ == protowire.Fixed64Type {
			return hlc.Time(f.u)
		}
	}
	return 0
}
