package object

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"strings"
	"unicode/utf8"

	"firn"
	"firn/hlc"
)

// The key space in kv. docs/format/namespace.md describes it; the first byte says what a key is.
const (
	tagMeta      = 'm' // m name: the site's own settings, cursors and usage counters
	tagBucket    = 'b' // b name: a bucket's record
	tagCurrent   = 'c' // c bucket key: the current version
	tagOld       = 'v' // v bucket escaped-key order: a noncurrent version, newest first
	tagNull      = 'n' // n bucket key: order of the noncurrent version that is "null"
	tagData      = 'd' // d id: inline content
	tagParts     = 'q' // q id: the part list of a multipart version
	tagRef       = 'r' // r blob: number of records that use a shared blob
	tagGarbage   = 'g' // g clock blob: a blob file to delete
	tagOpening   = 'o' // o blob: a blob file that no record names yet
	tagUpload    = 'u' // u bucket escaped-key upload: a multipart upload in progress
	tagPart      = 'p' // p upload number: a part of it
	tagCompleted = 't' // t upload: what a finished upload became
)

const (
	orderLen    = 12 // clock and site, both inverted so that the newest version sorts first
	uploadIDLen = 16 // clock of the start, then random bytes
	// nullID is the id of a version written while versioning was off or suspended.
	nullID = "null"
)

// order is a version's place among the versions of its key, and its id.
type order [orderLen]byte

func makeOrder(clock uint64, site uint32) (o order) {
	binary.BigEndian.PutUint64(o[:8], ^clock)
	binary.BigEndian.PutUint32(o[8:], ^site)
	return o
}

// String returns the version id that clients see: clock and site in hex.
func (o order) String() string { return string(o.appendID(nil)) }

func (o order) appendID(b []byte) []byte {
	for i := range o {
		o[i] = ^o[i]
	}
	return hex.AppendEncode(b, o[:])
}

// parseOrder reads a version id. ok is false for "null" and for what no version can have.
func parseOrder(id string) (o order, ok bool) {
	if len(id) != 2*orderLen || strings.ToLower(id) != id {
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

func appendBucketID(b []byte, tag byte, bucket uint64) []byte {
	return binary.BigEndian.AppendUint64(append(b, tag), bucket)
}

func metaKey(name string) []byte { return append([]byte{tagMeta}, name...) }

func bucketKey(name string) []byte { return append([]byte{tagBucket}, name...) }

func appendCurrentKey[K string | []byte](b []byte, bucket uint64, key K) []byte {
	return append(appendBucketID(b, tagCurrent, bucket), key...)
}

func currentKey(bucket uint64, key string) []byte {
	return appendCurrentKey(make([]byte, 0, 9+len(key)), bucket, key)
}

// nullKey turns the current key ck of an object into the key of its null pointer.
func nullKey(ck []byte) []byte {
	b := bytes.Clone(ck)
	b[0] = tagNull
	return b
}

// appendEscaped appends key so that no escaped key is a prefix of another and the order is kept:
// 0x00 becomes 0x00 0xFF, the end is 0x00 0x01.
func appendEscaped[K string | []byte](b []byte, key K) []byte {
	for i := range len(key) {
		b = append(b, key[i])
		if key[i] == 0 {
			b = append(b, 0xFF)
		}
	}
	return append(b, 0, 1)
}

// unescape appends the key at the start of b to dst and returns it with what follows it.
func unescape(dst, b []byte) (key, rest []byte, ok bool) {
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

// appendOldPrefix appends what the keys of all noncurrent versions of key begin with.
func appendOldPrefix[K string | []byte](b []byte, bucket uint64, key K) []byte {
	return appendEscaped(appendBucketID(b, tagOld, bucket), key)
}

func oldKey(bucket uint64, key string, o order) []byte {
	return append(appendOldPrefix(make([]byte, 0, 9+len(key)+2+orderLen), bucket, key), o[:]...)
}

func idKey(tag byte, id uint64) []byte {
	return binary.BigEndian.AppendUint64([]byte{tag}, id)
}

func blobKey(tag byte, id BlobID) []byte { return append([]byte{tag}, id[:]...) }

func garbageKey(at hlc.Time, id BlobID) []byte {
	return append(idKey(tagGarbage, uint64(at)), id[:]...)
}

func uploadKey(bucket uint64, key string, id [uploadIDLen]byte) []byte {
	return append(appendEscaped(appendBucketID(nil, tagUpload, bucket), key), id[:]...)
}

func partPrefix(id [uploadIDLen]byte) []byte { return append([]byte{tagPart}, id[:]...) }

func partKey(id [uploadIDLen]byte, number int) []byte {
	return binary.BigEndian.AppendUint16(partPrefix(id), uint16(number))
}

func completedKey(id [uploadIDLen]byte) []byte { return append([]byte{tagCompleted}, id[:]...) }

func parseUploadID(s string) (id [uploadIDLen]byte, err error) {
	if len(s) != 2*uploadIDLen {
		return id, ErrNoSuchUpload
	}
	if _, err := hex.Decode(id[:], []byte(s)); err != nil {
		return id, ErrNoSuchUpload
	}
	return id, nil
}

// successor returns the first key after all keys that begin with prefix; nil where there is none.
func successor(prefix []byte) []byte {
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

// String returns the blob's id in hex, which is also its file name.
func (id BlobID) String() string { return hex.EncodeToString(id[:]) }

// CheckKey says whether key may name an object: 1 to MaxKey bytes of UTF-8. ErrInvalidKey, ErrKeyTooLong.
func CheckKey(key string) error {
	switch {
	case key == "" || !utf8.ValidString(key):
		return ErrInvalidKey
	case len(key) > MaxKey:
		return ErrKeyTooLong
	}
	return nil
}

// CheckBucketName says whether name follows S3's rules for bucket names. ErrInvalidBucketName.
func CheckBucketName(name string) error {
	bad := func(why string) error {
		return &firn.Error{Kind: firn.Invalid, Op: "bucket name", Subject: strings.ToValidUTF8(name, "?"), Err: wrapped{ErrInvalidBucketName, why}}
	}
	if len(name) < 3 || len(name) > 63 {
		return bad("must have 3 to 63 characters")
	}
	digitsAndDots, dots := true, 0
	for i := range len(name) {
		c := name[i]
		edge := i == 0 || i == len(name)-1
		switch {
		case c >= 'a' && c <= 'z':
			digitsAndDots = false
		case c >= '0' && c <= '9':
		case c == '-' && !edge:
			digitsAndDots = false
		case c == '.' && !edge && name[i-1] != '.':
			dots++
		default:
			return bad("may hold lower case letters, digits, hyphens and single dots, a letter or digit at each end")
		}
	}
	if digitsAndDots && dots == 3 {
		return bad("must not look like an IP address")
	}
	for _, p := range []string{"xn--", "sthree-"} {
		if strings.HasPrefix(name, p) {
			return bad("has a reserved prefix")
		}
	}
	for _, p := range []string{"-s3alias", "--ol-s3", ".mrap", "--x-s3", "--table-s3"} {
		if strings.HasSuffix(name, p) {
			return bad("has a reserved suffix")
		}
	}
	return nil
}

// wrapped adds a reason to a sentinel.
type wrapped struct {
	error
	why string
}

func (w wrapped) Error() string { return w.error.Error() + ": " + w.why }
func (w wrapped) Unwrap() error { return w.error }
