// Package chunk cuts a stream at points that depend on its content, so that equal stretches of two streams become
// equal chunks wherever they are.
//
// It owns the cut points: the keyed hash of FastCDC, without its normalization. It promises that they depend on the key, the sizes and the bytes alone, and
// that the reader's read sizes do not matter. It must never import another package of this module besides the
// vocabulary at the root.
package chunk

import (
	"encoding/binary"
	"errors"
	"io"
	"math/bits"

	"github.com/zeebo/blake3"

	"firn"
)

// Sizes bound the chunks of a stream, in bytes. Only a stream's last chunk may be smaller than Min.
type Sizes struct {
	Min, Mean, Max int
}

// DefaultSizes fit backups.
func DefaultSizes() Sizes { return Sizes{Min: 512 << 10, Mean: 1 << 20, Max: 3 << 20} }

// Check says what is wrong with s: firn.Invalid, or nil.
func (s Sizes) Check() error {
	if s.Min < 64 || s.Mean <= s.Min || s.Max <= s.Mean || s.Max > 1<<30 || (s.Mean-s.Min)&(s.Mean-s.Min-1) != 0 {
		return firn.NewError(firn.Invalid, "chunk sizes must be 64 <= min < mean < max <= 1 GiB, and mean less min a power of two")
	}
	return nil
}

// step is how much is read at once. A chunk ends on average half a step before what was read, and that is moved to the
// front of the buffer for the next one.
const step = 128 << 10

// Cutter holds what the cut points of one key and one set of sizes depend on. It is immutable and may be shared.
//
// The hash is that of FastCDC (Xia et al., USENIX ATC 2016), taken over 64 bytes, and the first Min bytes of a chunk are
// skipped as there. Its normalized chunking is left out: where two streams differ by more than a few bytes, the cuts
// after that come back later with it (docs/adr/0007-cut-points.md). The gear table comes from the key, so that the
// lengths of chunks do not tell which known file they belong to.
type Cutter struct {
	sizes Sizes
	mask  uint64
	gear  [256]uint64
}

// NewCutter returns the cutter for key. It fails with firn.Invalid for sizes that Check refuses.
func NewCutter(key [32]byte, sizes Sizes) (*Cutter, error) {
	if err := sizes.Check(); err != nil {
		return nil, err
	}
	c := &Cutter{sizes: sizes, mask: mask(bits.Len(uint(sizes.Mean-sizes.Min)) - 1)}
	h, err := blake3.NewKeyed(key[:])
	if err != nil {
		return nil, err
	}
	var table [256 * 8]byte
	if _, err := io.ReadFull(h.Digest(), table[:]); err != nil {
		return nil, err
	}
	for i := range c.gear {
		c.gear[i] = binary.LittleEndian.Uint64(table[i*8:])
	}
	return c, nil
}

// mask has n ones at the top. The top bits of the hash depend on the last 64 bytes each, the bits below on fewer.
func mask(n int) uint64 { return ^uint64(0) << (64 - n) }

// Sizes returns the bounds of the chunks.
func (c *Cutter) Sizes() Sizes { return c.sizes }

// scan goes on looking for the end of the chunk that begins at p[0], after from bytes were looked at with hash h. It
// returns the length of the chunk, or 0 and the hash where p ends before the chunk does.
func (c *Cutter) scan(p []byte, from int, h uint64) (int, uint64) {
	p = p[:min(len(p), c.sizes.Max)]
	n, h := c.find(p, max(from, c.sizes.Min), h)
	if n == 0 && len(p) == c.sizes.Max {
		n = c.sizes.Max
	}
	return n, h
}

// find looks for the first byte of p from i on after which the hash has only zeros under the mask. It returns what is
// before and with it, or 0 and the hash.
func (c *Cutter) find(p []byte, i int, h uint64) (int, uint64) {
	mask := c.mask
	// Four bytes in a turn: each hash comes from the one before the turn, so that a turn waits for one shift and one
	// addition instead of four.
	for ; i+4 <= len(p); i += 4 {
		q := p[i : i+4 : i+4]
		g0, g1, g2, g3 := c.gear[q[0]], c.gear[q[1]], c.gear[q[2]], c.gear[q[3]]
		s1 := g0<<1 + g1
		s2 := s1<<1 + g2
		h1, h2, h3 := h<<1+g0, h<<2+s1, h<<3+s2
		h = h<<4 + (s2<<1 + g3)
		switch {
		case h1&mask == 0:
			return i + 1, 0
		case h2&mask == 0:
			return i + 2, 0
		case h3&mask == 0:
			return i + 3, 0
		case h&mask == 0:
			return i + 4, 0
		}
	}
	for ; i < len(p); i++ {
		h = h<<1 + c.gear[p[i]]
		if h&mask == 0 {
			return i + 1, 0
		}
	}
	return 0, h
}

// Chunker cuts one stream after another. It is not safe for use by several goroutines.
type Chunker struct {
	c          *Cutter
	rd         io.Reader
	err        error // of rd
	buf        []byte
	start, end int // of what was read and not returned
}

// New returns a chunker of rd. Its buffer of Max plus 128 KiB is the largest part of its memory, and is kept by Reset.
func (c *Cutter) New(rd io.Reader) *Chunker {
	k := &Chunker{c: c}
	k.Reset(rd)
	return k
}

// Reset begins a new stream.
func (k *Chunker) Reset(rd io.Reader) { k.rd, k.err, k.start, k.end = rd, nil, 0, 0 }

// Next returns the next chunk, valid until the next call, or io.EOF after the last one. The error of the reader comes
// at once, what was read and not yet returned is then lost.
func (k *Chunker) Next() ([]byte, error) {
	if k.buf == nil {
		k.buf = make([]byte, k.c.sizes.Max+step)
	}
	if k.start > 0 {
		k.end = copy(k.buf, k.buf[k.start:k.end])
		k.start = 0
	}
	scanned, h := 0, uint64(0)
	for {
		var n int
		if n, h = k.c.scan(k.buf[:k.end], scanned, h); n > 0 {
			k.start = n
			return k.buf[:n], nil
		}
		scanned = k.end
		if k.err != nil {
			break
		}
		n, k.err = io.ReadFull(k.rd, k.buf[k.end:k.end+step])
		k.end += n
	}
	if !errors.Is(k.err, io.EOF) && !errors.Is(k.err, io.ErrUnexpectedEOF) {
		return nil, k.err
	}
	if k.end == 0 {
		return nil, io.EOF
	}
	k.start = k.end
	return k.buf[:k.end], nil
}

// Take is Next for a caller who keeps the chunk, and gives the memory of one it needs no more in exchange; nil makes some.
func (k *Chunker) Take(spare []byte) ([]byte, error) {
	p, err := k.Next()
	if err != nil {
		return nil, err
	}
	if cap(spare) < len(k.buf) {
		spare = make([]byte, len(k.buf))
	}
	k.end = copy(spare[:len(k.buf)], k.buf[k.start:k.end])
	k.buf, k.start = spare[:len(k.buf)], 0
	return p, nil
}
