package record

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"strings"

	"firn/hlc"
)

// The key space in kv. docs/format/namespace.md describes it; the first byte says what a key is.
const (
	TagMeta      = 'm' // m name: the site's own settings, cursors and usage counters
	TagBucket    = 'b' // b name: a bucket's record
	TagCurrent   = 'c' // c bucket key: the current version
	TagOld       = 'v' // v bucket escaped-key order: a noncurrent version, newest first
	TagNull      = 'n' // n bucket key: order of the noncurrent version that is "null"
	TagData      = 'd' // d id: inline content
	TagParts     = 'q' // q id: the part list of a multipart version
	TagRef       = 'r' // r blob: number of records that use a shared blob
	TagGarbage   = 'g' // g clock blob: a blob file to delete
	TagOpening   = 'o' // o blob: a blob file that no record names yet
	TagUpload    = 'u' // u bucket escaped-key upload: a multipart upload in progress
	TagPart      = 'p' // p upload number: a part of it
	TagCompleted = 't' // t upload: what a finished upload became

	TagOutboard    = 'h' // h blob part: what is needed to check bytes that are on a tier
	TagExpiry      = 'k' // k time bucket escaped-key order: a local copy that may go at a time
	TagTierBlob    = 'w' // w escaped-tier key: a blob that may exist on a tier
	TagTierGarbage = 'x' // x clock blob: a blob to delete from a tier
)

// Lengths and names in keys.
const (
	OrderLen    = 12 // clock and site, both inverted so that the newest version sorts first
	UploadIDLen = 16 // clock of the start, then random bytes
	// NullID is the id of a version written while versioning was off or suspended.
	NullID = "null"
)

// Order is a version's place among the versions of its key, and its id.
type Order [OrderLen]byte

// MakeOrder returns the order of the version that site wrote at clock.
func MakeOrder(clock uint64, site uint32) (o Order) {
	binary.BigEndian.PutUint64(o[:8], ^clock)
	binary.BigEndian.PutUint32(o[8:], ^site)
	return o
}

// String returns the version id that clients see: clock and site in hex.
func (o Order) String() string { return string(o.AppendID(nil)) }

// AppendID appends what String returns to b.
func (o Order) AppendID(b []byte) []byte {
	for i := range o {
		o[i] = ^o[i]
	}
	return hex.AppendEncode(b, o[:])
}

// ParseOrder reads a version id. ok is false for "null" and for what no version can have.
func ParseOrder(id string) (o Order, ok bool) {
	if len(id) != 2*OrderLen || strings.ToLower(id) != id {
		return o, false
	}
	if _, err := hex.Decode(o[:], []byte(id)); err != nil {
		return o, false
	}
	for i, x := range o {
		o[i] = ^x
	}
	return o, true
}

// AppendBucketID appends what all keys of a bucket under tag begin with.
func AppendBucketID(b []byte, tag byte, bucket uint64) []byte {
	return binary.BigEndian.AppendUint64(append(b, tag), bucket)
}

// MetaKey is the key of one of the site's own values.
func MetaKey(name string) []byte { return append([]byte{TagMeta}, name...) }

// BucketKey is the key of a bucket's record.
func BucketKey(name string) []byte { return append([]byte{TagBucket}, name...) }

// AppendCurrentKey appends what CurrentKey returns to b.
func AppendCurrentKey[K string | []byte](b []byte, bucket uint64, key K) []byte {
	return append(AppendBucketID(b, TagCurrent, bucket), key...)
}

// CurrentKey is the key of the current version of an object.
func CurrentKey(bucket uint64, key string) []byte {
	return AppendCurrentKey(make([]byte, 0, 9+len(key)), bucket, key)
}

// NullKey turns the current key ck of an object into the key of its null pointer.
func NullKey(ck []byte) []byte {
	b := bytes.Clone(ck)
	b[0] = TagNull
	return b
}

// AppendEscaped appends key so that no escaped key is a prefix of another and the order is kept:
// 0x00 becomes 0x00 0xFF, the end is 0x00 0x01.
func AppendEscaped[K string | []byte](b []byte, key K) []byte {
	for i := range len(key) {
		b = append(b, key[i])
		if key[i] == 0 {
			b = append(b, 0xFF)
		}
	}
	return append(b, 0, 1)
}

// Unescape appends the key at the start of b to dst and returns it with what follows it.
func Unescape(dst, b []byte) (key, rest []byte, ok bool) {
	for i := 0; i < len(b); i++ {
		if b[i] != 0 {
			dst = append(dst, b[i])
			continue
		}
		i++
		if i == len(b) {
			return nil, nil, false
		}
		switch b[i] {
		case 0xFF:
			dst = append(dst, 0)
		case 1:
			return dst, b[i+1:], true
		default:
			return nil, nil, false
		}
	}
	return nil, nil, false
}

// AppendOldPrefix appends what the keys of all noncurrent versions of key begin with.
func AppendOldPrefix[K string | []byte](b []byte, bucket uint64, key K) []byte {
	return AppendEscaped(AppendBucketID(b, TagOld, bucket), key)
}

// OldKey is the key of a noncurrent version.
func OldKey(bucket uint64, key string, o Order) []byte {
	return append(AppendOldPrefix(make([]byte, 0, 9+len(key)+2+OrderLen), bucket, key), o[:]...)
}

// AppendTagged appends the key under tag of an object whose key is not escaped there.
func AppendTagged(tag byte, bucket uint64, key []byte) []byte {
	return append(AppendBucketID(nil, tag, bucket), key...)
}

// IDKey is the key under tag of what has a number.
func IDKey(tag byte, id uint64) []byte {
	return binary.BigEndian.AppendUint64([]byte{tag}, id)
}

// BlobKey is the key under tag of a blob.
func BlobKey(tag byte, id BlobID) []byte { return append([]byte{tag}, id[:]...) }

// GarbageKey is the key of a blob that was freed at a time.
func GarbageKey(at hlc.Time, id BlobID) []byte {
	return append(IDKey(TagGarbage, uint64(at)), id[:]...)
}

// UploadKey is the key of an upload.
func UploadKey(bucket uint64, key string, id [UploadIDLen]byte) []byte {
	return append(AppendEscaped(AppendBucketID(nil, TagUpload, bucket), key), id[:]...)
}

// PartPrefix is what the keys of all parts of an upload begin with.
func PartPrefix(id [UploadIDLen]byte) []byte { return append([]byte{TagPart}, id[:]...) }

// PartKey is the key of a part of an upload.
func PartKey(id [UploadIDLen]byte, number int) []byte {
	return binary.BigEndian.AppendUint16(PartPrefix(id), uint16(number))
}

// CompletedKey is the key of what an upload became.
func CompletedKey(id [UploadIDLen]byte) []byte { return append([]byte{TagCompleted}, id[:]...) }

// ParseUploadID reads an upload id as clients see it.
func ParseUploadID(s string) (id [UploadIDLen]byte, ok bool) {
	if len(s) != 2*UploadIDLen {
		return id, false
	}
	_, err := hex.Decode(id[:], []byte(s))
	return id, err == nil
}

// ParseVersionKey returns the bucket and the object key that the key of a version or upload names.
func ParseVersionKey(k []byte) (uint64, string, error) {
	if len(k) < 10 {
		return 0, "", ErrBroken
	}
	id, err := ParseUint64(k[1:9])
	if err != nil || k[0] == TagCurrent {
		return id, string(k[9:]), err
	}
	key, _, ok := Unescape(nil, k[9:])
	if !ok {
		return 0, "", ErrBroken
	}
	return id, string(key), nil
}

// UploadLock names the lock of an upload: its parts, completion and abort exclude each other where they must.
func UploadLock(id [UploadIDLen]byte) []byte { return append([]byte{TagUpload}, id[:]...) }

// Successor returns the first key after all keys that begin with prefix; nil where there is none.
func Successor(prefix []byte) []byte {
	b := bytes.Clone(prefix)
	for len(b) > 0 {
		if b[len(b)-1] != 0xFF {
			b[len(b)-1]++
			return b
		}
		b = b[:len(b)-1]
	}
	return nil
}
