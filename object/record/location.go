package record

import (
	"encoding/binary"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
)

// Location says where the bytes of a version are that were moved to a tier.
type Location struct {
	ID     BlobID    // names the run of bytes for good, whatever its key is
	Tier   string    // name of the tier
	Key    string    // of the blob there, which is the stored bytes of all parts, one after another
	Since  time.Time // when the version was moved there, ms
	Shared bool      // other versions may use the blob too (a reference count exists)
	// LocalUntil is when the local copy that the version has as well may go; zero: it has none.
	LocalUntil time.Time
	// Wanted is until when a local copy was asked for that is not there yet; zero: none was.
	Wanted time.Time
}

// Fields of a location.
const (
	lID         = 1
	lTier       = 2
	lKey        = 3
	lSince      = 4 // ms since 1970, as all times here
	lShared     = 5
	lLocalUntil = 6
	lWanted     = 7
)

func appendTime(b []byte, num protowire.Number, t time.Time) []byte {
	if t.IsZero() {
		return b
	}
	return appendUint(b, num, uint64(max(1, t.UnixMilli())))
}

func appendLocation(b []byte, l *Location) []byte {
	b = appendBytes(b, lID, l.ID[:])
	b = appendBytes(b, lTier, l.Tier)
	b = appendBytes(b, lKey, l.Key)
	b = appendTime(b, lSince, l.Since)
	b = appendUint(b, lShared, boolUint(l.Shared))
	b = appendTime(b, lLocalUntil, l.LocalUntil)
	return appendTime(b, lWanted, l.Wanted)
}

func decodeLocation(raw []byte) (*Location, error) {
	l := &Location{}
	f := fields{b: raw}
	for f.next() {
		want := protowire.VarintType
		if f.num <= lKey {
			want = protowire.BytesType
		}
		if f.num <= lWanted && !f.is(want) {
			return nil, ErrBroken
		}
		at := func() time.Time { return time.UnixMilli(int64(f.u & (1<<48 - 1))).UTC() }
		switch f.num {
		case lID:
			if len(f.data) != len(l.ID) {
				return nil, ErrBroken
			}
			l.ID = BlobID(f.data)
		case lTier:
			l.Tier = string(f.data)
		case lKey:
			l.Key = string(f.data)
		case lSince:
			l.Since = at()
		case lShared:
			l.Shared = f.u != 0
		case lLocalUntil:
			l.LocalUntil = at()
		case lWanted:
			l.Wanted = at()
		}
	}
	if f.bad || l.ID == (BlobID{}) || l.Tier == "" || l.Key == "" {
		return nil, ErrBroken
	}
	return l, nil
}

// TierState says what a blob on a tier is to the namespace.
type TierState uint8

// The states. Their numbers are stored.
const (
	TierReserved TierState = 1 // about to be written: it may be there, wholly or in part, and no version uses it
	TierUsed     TierState = 2 // a version uses it
	TierFreed    TierState = 3 // no version uses it any more: it may be removed
)

// String returns the state's name.
func (s TierState) String() string {
	switch s {
	case TierReserved:
		return "reserved"
	case TierUsed:
		return "used"
	case TierFreed:
		return "freed"
	}
	return "unknown"
}

// TierBlob is an entry of the register of all blobs that may exist on tiers.
type TierBlob struct {
	ID    BlobID
	Tier  string
	Key   string
	State TierState
	Clock uint64 // hybrid logical clock of when it came into the state
	Note  string // what the mover wants to know of a reserved one later
}

// TierQueue is what was freed of a tier and not forgotten yet.
type TierQueue struct {
	Blobs  int64
	Oldest uint64 // hybrid logical clock of when the first of them was freed
}

// Append appends t's stored form to b; tier and key are in the key it is stored under.
func (t *TierBlob) Append(b []byte) []byte {
	b = binary.BigEndian.AppendUint64(append(b, byte(t.State)), t.Clock)
	return append(append(b, t.ID[:]...), t.Note...)
}

// RegisterKey is the key of a blob's entry in the register.
func (t *TierBlob) RegisterKey() []byte { return append(RegisterPrefix(t.Tier), t.Key...) }

// QueueKey is the key of a freed blob in the queue of those to be removed.
func (t *TierBlob) QueueKey() []byte { return append(IDKey(TagTierGarbage, t.Clock), t.ID[:]...) }

// QueueValue is what is stored there.
func (t *TierBlob) QueueValue() []byte { return t.RegisterKey()[1:] }

// DecodeTierBlob reads an entry of the register.
func DecodeTierBlob(k, v []byte) (t TierBlob, err error) {
	end := 1 + 8 + len(t.ID)
	if len(k) == 0 || len(v) < end || len(v) > end && TierState(v[0]) != TierReserved {
		return t, ErrBroken
	}
	tier, key, ok := Unescape(nil, k[1:])
	if !ok {
		return t, ErrBroken
	}
	return TierBlob{
		Tier: string(tier), Key: string(key), State: TierState(v[0]), Clock: binary.BigEndian.Uint64(v[1:]),
		ID: BlobID(v[9:end]), Note: string(v[end:]),
	}, nil
}

// DecodeTierGarbage reads an entry of the queue of freed blobs.
func DecodeTierGarbage(k, v []byte) (t TierBlob, err error) {
	if len(k) != 9+len(t.ID) {
		return t, ErrBroken
	}
	tier, key, ok := Unescape(nil, v)
	if !ok {
		return t, ErrBroken
	}
	return TierBlob{
		Tier: string(tier), Key: string(key), State: TierFreed, Clock: binary.BigEndian.Uint64(k[1:]), ID: BlobID(k[9:]),
	}, nil
}

// RegisterPrefix is what the keys of all entries of a tier's register begin with.
func RegisterPrefix(tier string) []byte { return AppendEscaped([]byte{TagTierBlob}, tier) }

// OutboardKey is the key of what is kept of a part of a blob on a tier, to check its bytes.
func OutboardKey(id BlobID, part int) []byte {
	return binary.BigEndian.AppendUint16(BlobKey(TagOutboard, id), uint16(part))
}

// ExpiryKey is the key that notes when a version's local copy may go.
func ExpiryKey(at time.Time, bucket uint64, key string, o Order) []byte {
	b := binary.BigEndian.AppendUint64([]byte{TagExpiry}, uint64(at.UnixMilli()))
	b = AppendEscaped(binary.BigEndian.AppendUint64(b, bucket), key)
	return append(b, o[:]...)
}

// ParseExpiryKey reads what ExpiryKey made.
func ParseExpiryKey(k []byte) (at time.Time, bucket uint64, key string, o Order, err error) {
	if len(k) < 1+8+8 {
		return at, 0, "", o, ErrBroken
	}
	name, rest, ok := Unescape(nil, k[17:])
	if !ok || len(rest) != OrderLen {
		return at, 0, "", o, ErrBroken
	}
	at = time.UnixMilli(int64(binary.BigEndian.Uint64(k[1:]) & (1<<48 - 1))).UTC()
	return at, binary.BigEndian.Uint64(k[9:]), string(name), Order(rest), nil
}

// ClassUsage is how a change changed the counters of one storage class.
type ClassUsage struct {
	Class string
	Usage Usage // Versions and Bytes; Objects are not counted by class
}

func appendClasses(b []byte, num protowire.Number, list []ClassUsage) []byte {
	var buf [96]byte
	for i := range list {
		p := appendBytes(buf[:0], 1, list[i].Class)
		p = appendUint(p, 2, protowire.EncodeZigZag(list[i].Usage.Versions))
		p = appendUint(p, 3, protowire.EncodeZigZag(list[i].Usage.Bytes))
		b = appendBytes(b, num, p)
	}
	return b
}

func decodeClass(raw []byte) (c ClassUsage, err error) {
	f := fields{b: raw}
	for f.next() {
		want := protowire.VarintType
		if f.num == 1 {
			want = protowire.BytesType
		}
		if f.num <= 3 && !f.is(want) {
			return c, ErrBroken
		}
		switch f.num {
		case 1:
			c.Class = string(f.data)
		case 2:
			c.Usage.Versions = protowire.DecodeZigZag(f.u)
		case 3:
			c.Usage.Bytes = protowire.DecodeZigZag(f.u)
		}
	}
	if f.bad || c.Class == "" {
		return c, ErrBroken
	}
	return c, nil
}
