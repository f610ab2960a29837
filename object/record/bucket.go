package record

import (
	"encoding/binary"
	"slices"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
)

// Fields of a bucket record.
const (
	bID         = 1
	bCreated    = 2 // ms since 1970
	bOwner      = 3
	bVersioning = 4
	bLock       = 5
	bMode       = 6
	bDays       = 7
	bYears      = 8
	bConfig     = 9
	bRevision   = 10
	bMaxBytes   = 11
	bMaxVers    = 12
)

// AppendBucket appends k's stored form to b.
func AppendBucket(b []byte, k *Bucket) []byte {
	b = appendUint(b, bID, k.ID)
	b = appendUint(b, bCreated, uint64(max(0, k.Created.UnixMilli())))
	b = appendBytes(b, bOwner, k.Owner)
	b = appendUint(b, bVersioning, uint64(k.Versioning))
	b = appendUint(b, bLock, boolUint(k.ObjectLock))
	b = appendUint(b, bMode, uint64(k.Retention.Mode))
	b = appendUint(b, bDays, uint64(k.Retention.Days))
	b = appendUint(b, bYears, uint64(k.Retention.Years))
	names := make([]string, 0, len(k.Config))
	for name := range k.Config {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		b = appendPairs(b, bConfig, []Field{{name, string(k.Config[name])}})
	}
	b = appendUint(b, bRevision, k.Revision)
	b = appendUint(b, bMaxBytes, uint64(max(0, k.Quota.Bytes)))
	return appendUint(b, bMaxVers, uint64(max(0, k.Quota.Versions)))
}

// DecodeBucket reads the stored record of the bucket with the given name.
func DecodeBucket(name string, raw []byte) (*Bucket, error) {
	k := &Bucket{Name: name, Config: map[string][]byte{}}
	f := fields{b: raw}
	for f.next() {
		want := protowire.VarintType
		if f.num == bOwner || f.num == bConfig {
			want = protowire.BytesType
		}
		if f.num <= bMaxVers && !f.is(want) {
			return nil, ErrBroken
		}
		switch f.num {
		case bID:
			k.ID = f.u
		case bCreated:
			k.Created = time.UnixMilli(int64(f.u & (1<<48 - 1))).UTC()
		case bOwner:
			k.Owner = string(f.data)
		case bVersioning:
			k.Versioning = Versioning(f.u)
		case bLock:
			k.ObjectLock = f.u != 0
		case bMode:
			k.Retention.Mode = RetentionMode(f.u)
		case bDays:
			k.Retention.Days = int(f.u & (1<<31 - 1))
		case bYears:
			k.Retention.Years = int(f.u & (1<<31 - 1))
		case bConfig:
			var name string
			value := []byte{}
			g := fields{b: f.data}
			for g.next() {
				switch {
				case g.num == 1 && g.typ == protowire.BytesType:
					name = string(g.data)
				case g.num == 2 && g.typ == protowire.BytesType:
					value = slices.Clone(g.data)
				}
			}
			if g.bad {
				return nil, ErrBroken
			}
			k.Config[name] = value
		case bRevision:
			k.Revision = f.u
		case bMaxBytes:
			k.Quota.Bytes = int64(f.u & (1<<63 - 1))
		case bMaxVers:
			k.Quota.Versions = int64(f.u & (1<<63 - 1))
		}
	}
	if f.bad || k.ID == 0 {
		return nil, ErrBroken
	}
	return k, nil
}

// Counter names one set of counters: those of a bucket, or of a storage class in it.
type Counter struct {
	Bucket uint64
	Class  string // "" is the whole bucket; STANDARD, the one class without counters, is what the others leave of it
}

const usageName = "usage/"

// UsagePrefix is what the keys of all stored counters begin with.
func UsagePrefix() []byte { return MetaKey(usageName) }

// UsageSeqKey is the key of the number of the last journal entry that is in the stored counters.
func UsageSeqKey() []byte { return MetaKey("usageseq") }

// UsageKey is the key of stored counters.
func UsageKey(c Counter) []byte {
	return append(binary.BigEndian.AppendUint64(UsagePrefix(), c.Bucket), c.Class...)
}

// ParseUsageKey reads what UsageKey made.
func ParseUsageKey(k []byte) (Counter, error) {
	rest := k[min(len(k), 1+len(usageName)):]
	if len(rest) < 8 {
		return Counter{}, ErrBroken
	}
	return Counter{binary.BigEndian.Uint64(rest), string(rest[8:])}, nil
}

// AppendUsage appends the stored form of counters to b: three varints, zigzag.
func AppendUsage(b []byte, u Usage) []byte {
	for _, v := range [...]int64{u.Objects, u.Versions, u.Bytes} {
		b = protowire.AppendVarint(b, protowire.EncodeZigZag(v))
	}
	return b
}

// ParseUsage reads stored counters and returns them with what follows.
func ParseUsage(b []byte) (u Usage, rest []byte, ok bool) {
	for _, p := range [...]*int64{&u.Objects, &u.Versions, &u.Bytes} {
		v, n := protowire.ConsumeVarint(b)
		if n < 0 {
			return u, nil, false
		}
		*p = protowire.DecodeZigZag(v)
		b = b[n:]
	}
	return u, b, true
}

// ParseUint64 reads a stored number.
func ParseUint64(b []byte) (uint64, error) {
	if len(b) != 8 {
		return 0, ErrBroken
	}
	return binary.BigEndian.Uint64(b), nil
}
