// Package envelope says how encrypted content is to be opened: what a record keeps of its data key, and how the keys of
// its parts are sealed.
//
// It promises that the key of a part opens only with the data key, in the bucket, under the key, in the version or
// upload and at the number and with the size it was sealed for. It must never do I/O, nor know where a data key comes
// from, nor another package of this module besides seal and the vocabulary. docs/format/encryption.md describes it.
package envelope

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"slices"

	"google.golang.org/protobuf/encoding/protowire"

	"firn"
	"firn/seal"
)

// Errors of opening content.
var (
	ErrNeedsKey = firn.NewError(firn.Denied, "the content is encrypted: its key was not given")
	ErrWrongKey = firn.NewError(firn.Denied, "the key is not the one that the content was encrypted with")

	errRecord = firn.NewError(firn.Corrupt, "what a record says of its encryption cannot be decoded")
)

// Method says who holds the key of encrypted content.
type Method uint8

// The methods, numbered as in stored records.
const (
	None     Method = iota
	Site            // a key that the site chose (SSE-S3)
	Service         // a named key of the key service (SSE-KMS)
	Customer        // a key that comes with each request (SSE-C)
)

// Encryption is what a record says of encrypted content: how to get at its data key. It must not be changed once it was
// given to the store or came from it.
//
// Each part file and inline value is sealed under a random key of its own. The record keeps that key sealed under one
// that is derived from the data key, the bucket, the key and Salt, and binds it to the number and size of the part: what
// was put in the place of something else does not open. A copy shares bytes by sealing the same key anew.
type Encryption struct {
	Method    Method
	Key       string // name of the service's key, as the client gave it; "" is the site's
	Context   string // what the client has the data key bound to, as a JSON object; may be empty
	BucketKey bool   // the data key is bound to the bucket, not to the object
	Wrapped   []byte // the data key, wrapped
	Salt      [16]byte
}

// New returns e with a new salt. Every version and upload has its own.
func New(e Encryption) *Encryption {
	_, _ = rand.Read(e.Salt[:]) // never fails
	return &e
}

// PlainETag reports whether ETags are the MD5 of the content. S3 has them so but for keys that are not the site's.
func (e *Encryption) PlainETag() bool { return e == nil || e.Method == Site }

// SharesWith reports whether a version encrypted as o can share content that is encrypted as e.
func (e *Encryption) SharesWith(o *Encryption) bool {
	return (e == nil) == (o == nil) && e.PlainETag() == o.PlainETag()
}

// Binding returns what the data key is bound to in the key service: the client's context and the name of the object, or
// of its bucket where objects share data keys.
func (e *Encryption) Binding(bucket, key string) ([]byte, error) {
	if e.Method == Site {
		return []byte(`{"aws:s3:arn":"arn:aws:s3:::` + bucket + `"}`), nil // the names of buckets need no escapes
	}
	m := map[string]string{}
	if e.Context != "" {
		if err := json.Unmarshal([]byte(e.Context), &m); err != nil {
			return nil, errRecord
		}
	}
	name := "arn:aws:s3:::" + bucket
	if !e.BucketKey {
		name += "/" + key
	}
	m["aws:s3:arn"] = name
	return json.Marshal(m) // with its keys in order
}

// Purposes of derived keys. They are part of the format.
const (
	objectLabel = "firn object 1"
	etagLabel   = "etag"
)

// Sealer seals and opens the keys of the parts of one version or upload. A nil Sealer is that of plain content.
type Sealer struct {
	key   seal.Key
	plain bool // see PlainETag
}

// NewSealer returns the Sealer of the content of a key in a bucket, which is named by its number; nil where e is nil.
// ErrNeedsKey.
func (e *Encryption) NewSealer(dataKey *seal.Key, bucketID uint64, key string) (*Sealer, error) {
	if e == nil {
		return nil, nil
	}
	if dataKey == nil {
		return nil, ErrNeedsKey
	}
	// HMAC and not BLAKE3: a keyed BLAKE3 is 10 KiB of memory to be made for each small object.
	h := hmac.New(sha256.New, dataKey[:])
	place := append(make([]byte, 0, 128), objectLabel...)
	place = append(append(place, 0), e.Salt[:]...)
	place = append(binary.BigEndian.AppendUint64(place, bucketID), key...)
	_, _ = h.Write(place)
	s := &Sealer{plain: e.PlainETag()}
	h.Sum(s.key[:0])
	return s, nil
}

const (
	nonceSize  = 12
	sealedSize = nonceSize + len(seal.Key{}) + seal.Overhead
)

// at is what the key of a part is bound to beside its version.
func at(number int, size int64) []byte {
	return binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint32(nil, uint32(number)), uint64(size))
}

// NewKey returns a new key of a part, nil where s is nil.
func (s *Sealer) NewKey() *seal.Key {
	if s == nil {
		return nil
	}
	k := seal.NewKey()
	return &k
}

// Seal returns what a record keeps of the key of a part of size bytes, nil where s is nil.
func (s *Sealer) Seal(k *seal.Key, number int, size int64) []byte {
	if s == nil {
		return nil
	}
	b := make([]byte, nonceSize, sealedSize)
	_, _ = rand.Read(b)
	return s.key.AEAD().Seal(b, b[:nonceSize], k[:], at(number, size))
}

// Open returns the key of a part. ErrWrongKey.
func (s *Sealer) Open(sealed []byte, number int, size int64) (*seal.Key, error) {
	if s == nil {
		return nil, ErrNeedsKey
	}
	if len(sealed) != sealedSize {
		return nil, ErrWrongKey
	}
	b, err := s.key.AEAD().Open(nil, sealed[:nonceSize], sealed[nonceSize:], at(number, size))
	if err != nil {
		return nil, ErrWrongKey
	}
	k := seal.Key(b)
	return &k, nil
}

// ETag returns what takes the place of a content's MD5 in its ETag.
func (s *Sealer) ETag(md5 [16]byte) [16]byte {
	if s == nil || s.plain {
		return md5
	}
	d := s.key.Derive(etagLabel, md5[:])
	return [16]byte(d[:16])
}

// Fields of the stored form.
const (
	fMethod    = 1
	fKey       = 2
	fContext   = 3
	fBucketKey = 4
	fWrapped   = 5
	fSalt      = 6
)

// Append appends the stored form of e, which is not nil.
func (e *Encryption) Append(b []byte) []byte {
	number := func(num protowire.Number, v uint64) {
		if v != 0 {
			b = protowire.AppendVarint(protowire.AppendTag(b, num, protowire.VarintType), v)
		}
	}
	bytes := func(num protowire.Number, v []byte) {
		if len(v) > 0 {
			b = protowire.AppendBytes(protowire.AppendTag(b, num, protowire.BytesType), v)
		}
	}
	number(fMethod, uint64(e.Method))
	bytes(fKey, []byte(e.Key))
	bytes(fContext, []byte(e.Context))
	if e.BucketKey {
		number(fBucketKey, 1)
	}
	bytes(fWrapped, e.Wrapped)
	bytes(fSalt, e.Salt[:])
	return b
}

// Decode reads the stored form. Fields of a later release are passed over.
func Decode(raw []byte) (*Encryption, error) {
	e := &Encryption{}
	for len(raw) > 0 {
		num, typ, n := protowire.ConsumeTag(raw)
		if n < 0 {
			return nil, errRecord
		}
		raw = raw[n:]
		var v uint64
		var data []byte
		switch {
		case num == fMethod || num == fBucketKey:
			if typ != protowire.VarintType {
				return nil, errRecord
			}
			v, n = protowire.ConsumeVarint(raw)
		case num <= fSalt:
			if typ != protowire.BytesType {
				return nil, errRecord
			}
			data, n = protowire.ConsumeBytes(raw)
		default:
			n = protowire.ConsumeFieldValue(num, typ, raw)
		}
		if n < 0 {
			return nil, errRecord
		}
		raw = raw[n:]
		switch num {
		case fMethod:
			e.Method = Method(v & 0xFF)
		case fKey:
			e.Key = string(data)
		case fContext:
			e.Context = string(data)
		case fBucketKey:
			e.BucketKey = v != 0
		case fWrapped:
			e.Wrapped = slices.Clone(data)
		case fSalt:
			if len(data) != len(e.Salt) {
				return nil, errRecord
			}
			e.Salt = [16]byte(data)
		}
	}
	if e.Method == None {
		return nil, errRecord
	}
	return e, nil
}
