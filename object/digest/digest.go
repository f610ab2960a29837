// Package digest computes what is kept about content as it streams by: MD5 (the S3 ETag), BLAKE3 and one
// of S3's additional checksums, and combines checksums of parts into that of the whole.
//
// It promises sums equal to those of the whole content however it is cut into writes. It does no I/O and
// must never know buckets, keys or protocols.
package digest

import (
	"crypto/md5"
	"crypto/sha1"
	"crypto/sha256"
	"hash"
	"hash/crc32"
	"sync"

	"github.com/minio/crc64nvme"
	"github.com/zeebo/blake3"
)

// Algorithm is one of S3's additional checksums.
type Algorithm uint8

// The algorithms, numbered as in stored records.
const (
	None Algorithm = iota
	CRC32
	CRC32C
	CRC64NVME
	SHA1
	SHA256
)

// Size returns the length in bytes of a's sums, 0 for None and for what is not known.
func (a Algorithm) Size() int {
	switch a {
	case CRC32, CRC32C:
		return 4
	case CRC64NVME:
		return 8
	case SHA1:
		return sha1.Size
	case SHA256:
		return sha256.Size
	default:
		return 0
	}
}

// New returns a hash of algorithm a, nil for None and for what is not known.
func New(a Algorithm) hash.Hash {
	switch a {
	case CRC32:
		return crc32.NewIEEE()
	case CRC32C:
		return crc32.New(crc32.MakeTable(crc32.Castagnoli))
	case CRC64NVME:
		return crc64nvme.New()
	case SHA1:
		return sha1.New()
	case SHA256:
		return sha256.New()
	default:
		return nil
	}
}

// Sums are the digests of one content.
type Sums struct {
	MD5      [16]byte
	BLAKE3   [32]byte
	Checksum []byte // of the algorithm asked for; nil for None
}

// blake3Hashers are kept between uses: one is more than 10 KiB.
var blake3Hashers = sync.Pool{New: func() any { return blake3.New() }}

// Of returns the digests of content that is in memory as a whole.
func Of(content []byte, a Algorithm) Sums {
	s := Sums{MD5: md5.Sum(content)}
	h := blake3Hashers.Get().(*blake3.Hasher)
	h.Reset()
	h.Write(content)
	h.Sum(s.BLAKE3[:0])
	blake3Hashers.Put(h)
	if c := New(a); c != nil {
		c.Write(content)
		s.Checksum = c.Sum(nil)
	}
	return s
}
