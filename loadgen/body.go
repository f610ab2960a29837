package loadgen

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"hash/crc32"
	"math/rand/v2"

	"firn"
)

// maxBody bounds the memory of bodies: a longer object repeats a buffer of this size.
const maxBody = 64 << 20

// windows is how many different bodies a run without Unique uses. Each is a window into one random
// buffer, so that even 64 MiB bodies cost their size only once.
const windows = 16

const windowStep = 64

// bodies makes the content of objects as a function of the key, so that a GET can be verified without
// keeping what was put. It is read-only after newBodies.
type bodies struct {
	size   int64
	unique bool
	buf    []byte // random; window i starts at i*windowStep
	sums   [windows]string
	crcs   [windows]uint32
}

// body is one object's content: buf repeated to size, with the first bytes replaced by stamp.
type body struct {
	size  int64
	chunk []byte
	stamp [16]byte
	n     int // bytes of stamp used
	sum   string
	crc   uint32
}

func newBodies(size int64, unique bool) (*bodies, error) {
	b := &bodies{size: size, unique: unique}
	b.buf = make([]byte, min(size, maxBody)+windows*windowStep)
	if _, err := rand.NewChaCha8([32]byte{'f', 'i', 'r', 'n'}).Read(b.buf); err != nil {
		return nil, firn.E("bench: make bodies", "", err)
	}
	if !unique {
		for i := range windows {
			x := b.window(i)
			b.sums[i], b.crcs[i] = x.hash()
		}
	}
	return b, nil
}

func (b *bodies) window(i int) body {
	return body{size: b.size, chunk: b.buf[i*windowStep:][:min(b.size, maxBody)]}
}

// of returns the body of key. hashed asks for its sums.
func (b *bodies) of(key []byte, hashed bool) body {
	h := uint64(14695981039346656037) // FNV-1a
	for _, c := range key {
		h = (h ^ uint64(c)) * 1099511628211
	}
	i := int(mix64(h) % windows)
	x := b.window(i)
	if !b.unique {
		x.sum, x.crc = b.sums[i], b.crcs[i]
		return x
	}
	binary.LittleEndian.PutUint64(x.stamp[:], mix64(h))
	binary.LittleEndian.PutUint64(x.stamp[8:], mix64(^h))
	x.n = int(min(x.size, int64(len(x.stamp))))
	if hashed {
		x.sum, x.crc = x.hash()
	}
	return x
}

// prefix is the body's first n bytes as a body of its own, unhashed: the last part of an upload.
func (x body) prefix(n int64) body {
	x.size = n
	x.chunk = x.chunk[:min(n, int64(len(x.chunk)))]
	x.n = min(x.n, int(n))
	x.sum, x.crc = x.hash()
	return x
}

// each calls fn with the pieces of the body in order.
func (x *body) each(fn func(p []byte) error) error {
	if x.n > 0 {
		if err := fn(x.stamp[:x.n]); err != nil {
			return err
		}
	}
	for at := int64(x.n); at < x.size; {
		p := x.at(at)
		if err := fn(p); err != nil {
			return err
		}
		at += int64(len(p))
	}
	return nil
}

// at returns the run of bytes from offset at on, at most to the end of the repeated buffer.
func (x *body) at(at int64) []byte {
	if at < int64(x.n) {
		return x.stamp[at:x.n]
	}
	off := at % int64(len(x.chunk))
	return x.chunk[off:][:min(int64(len(x.chunk))-off, x.size-at)]
}

func (x *body) hash() (string, uint32) {
	h := sha256.New()
	crc := uint32(0)
	_ = x.each(func(p []byte) error {
		h.Write(p)
		crc = crc32.Update(crc, crc32.IEEETable, p)
		return nil
	})
	return hex.EncodeToString(h.Sum(nil)), crc
}

// equal reports whether p is the body's bytes from offset at on.
func (x *body) equal(at int64, p []byte) bool {
	for len(p) > 0 {
		if at >= x.size {
			return false
		}
		want := x.at(at)
		n := min(len(want), len(p))
		if !bytes.Equal(want[:n], p[:n]) {
			return false
		}
		p, at = p[n:], at+int64(n)
	}
	return true
}
