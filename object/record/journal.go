package record

import (
	"slices"

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
	OpMove         Op = 8  // the bytes of a version went to a tier, came back, or their local copy came or went
	OpRecall       Op = 9  // a local copy of a version was asked for
	OpAdopt        Op = 10 // a version or delete marker came to be again, as it was
)

var opNames = [...]string{
	"", "put", "delete-marker", "delete", "update", "create-bucket", "update-bucket", "delete-bucket",
	"move", "recall", "adopt",
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
	// Classes are the storage classes other than STANDARD whose counters changed.
	Classes []ClassUsage
	// Tier is where the bytes of the version are now, of a move or recall; "" is here and nowhere else.
	Tier string
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
	jClass     = 14 // class, versions and bytes; repeated
	jTier      = 15
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
	Classes   []ClassUsage
	Tier      string
}

// Count adds n versions of size bytes each to what m changed of a storage class. STANDARD, "", is what is left of the
// whole, and not counted.
func (m *Mutation) Count(class string, n, size int64) {
	if class == "" {
		return
	}
	i := slices.IndexFunc(m.Classes, func(c ClassUsage) bool { return c.Class == class })
	if i < 0 {
		i = len(m.Classes)
		m.Classes = append(m.Classes, ClassUsage{Class: class})
	}
	u := &m.Classes[i].Usage
	*u = u.Plus(Usage{Versions: 1, Bytes: size}, n)
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
	b = appendClasses(b, jClass, m.Classes)
	return appendBytes(b, jTier, m.Tier)
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
		case jBucket, jKey, jVersion, jMD5, jDelta, jClass, jTier:
			want = protowire.BytesType
		}
		if f.num <= jTier && !f.is(want) {
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
		case jClass:
			c, err := decodeClass(f.data)
			if err != nil {
				return err
			}
			e.Classes = append(e.Classes, c)
		case jTier:
			e.Tier = string(f.data)
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

// Deltas calls fn with what a stored journal entry changed of counters.
func Deltas(raw []byte, fn func(Counter, Usage)) error {
	var c Counter
	var whole Usage
	var classes []ClassUsage
	f := fields{b: raw}
	for f.next() {
		switch {
		case f.num == jBucketID && f.typ == protowire.VarintType:
			c.Bucket = f.u
		case f.num == jDelta && f.typ == protowire.BytesType:
			var ok bool
			if whole, _, ok = ParseUsage(f.data); !ok {
				return ErrBroken
			}
		case f.num == jClass && f.typ == protowire.BytesType:
			class, err := decodeClass(f.data)
			if err != nil {
				return err
			}
			classes = append(classes, class)
		}
	}
	if f.bad {
		return ErrBroken
	}
	if whole != (Usage{}) {
		fn(c, whole)
	}
	for i := range classes {
		c.Class = classes[i].Class
		fn(c, classes[i].Usage)
	}
	return nil
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
