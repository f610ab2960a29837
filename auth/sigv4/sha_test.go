package sigv4

import (
	"crypto/sha256"
	"hash"

	md5simd "github.com/minio/md5-simd"
)

// sha256Hasher is the hash that minio-go's streaming signer asks for.
type sha256Hasher struct{ hash.Hash }

func (sha256Hasher) Close() {}

func newSHA256() md5simd.Hasher { return sha256Hasher{sha256.New()} }
