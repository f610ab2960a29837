package digest

import (
	"encoding/binary"
	"math/bits"
)

// Combinable reports whether the checksum of a whole can be had from those of its parts: the CRCs.
func (a Algorithm) Combinable() bool { return a == CRC32 || a == CRC32C || a == CRC64NVME }

// Reflected polynomials.
const (
	polyCRC32     = 0xEDB88320
	polyCRC32C    = 0x82F63B78
	polyCRC64NVME = 0x9A6C9329AC4BC9B5
)

func (a Algorithm) poly() (poly uint64, width uint) {
	switch a {
	case CRC32:
		return polyCRC32, 32
	case CRC32C:
		return polyCRC32C, 32
	default:
		return polyCRC64NVME, 64
	}
}

// Combine returns the checksum of x followed by y, given those of x and of y and y's length in bytes.
// nil where a is not combinable or a sum has the wrong length.
//
// All three CRCs start from and end with ones, so that crc(xy) = crc(x)·X^(8·len(y)) + crc(y) modulo the
// polynomial (Mark Adler, zlib's crc32_combine).
func Combine(a Algorithm, x, y []byte, lenY int64) []byte {
	if !a.Combinable() || len(x) != a.Size() || len(y) != a.Size() || lenY < 0 {
		return nil
	}
	poly, width := a.poly()
	shift := xpow(uint64(lenY), 3, poly, width)
	if width == 32 {
		sum := mulmod(shift, uint64(binary.BigEndian.Uint32(x)), poly, width) ^ uint64(binary.BigEndian.Uint32(y))
		return binary.BigEndian.AppendUint32(nil, uint32(sum))
	}
	sum := mulmod(shift, binary.BigEndian.Uint64(x), poly, width) ^ binary.BigEndian.Uint64(y)
	return binary.BigEndian.AppendUint64(nil, sum)
}

// mulmod multiplies two reflected polynomials modulo poly: the highest of width bits is X^0.
func mulmod(a, b, poly uint64, width uint) uint64 {
	var p uint64
	for m := uint64(1) << (width - 1); m != 0 && a != 0; m >>= 1 {
		if a&m != 0 {
			p ^= b
			a &^= m
		}
		if b&1 != 0 {
			b = b>>1 ^ poly
		} else {
			b >>= 1
		}
	}
	return p
}

// xpow returns X^(n·2^k) modulo poly.
func xpow(n uint64, k int, poly uint64, width uint) uint64 {
	p := uint64(1) << (width - 1) // X^0
	sq := uint64(1) << (width - 2)
	for range k {
		sq = mulmod(sq, sq, poly, width)
	}
	for range bits.Len64(n) {
		if n&1 != 0 {
			p = mulmod(p, sq, poly, width)
		}
		n >>= 1
		sq = mulmod(sq, sq, poly, width)
	}
	return p
}
