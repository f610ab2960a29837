package block

import (
	"encoding/binary"
	"hash/crc32"
)

// InlineOverhead is the number of bytes that framing adds to an inline value.
const InlineOverhead = 6

const inlineVersion = 1

// An inline value is: version uint8 (1), codec uint8, CRC32C uint32 little-endian of those two bytes and the plain
// bytes, then the plain bytes.

// InlineHeader returns the frame that goes before plain. Stored as header, then plain, it spares the copy of
// AppendInline.
func InlineHeader(plain []byte) [InlineOverhead]byte {
	h := [InlineOverhead]byte{inlineVersion, byte(CodecRaw)}
	binary.LittleEndian.PutUint32(h[2:], inlineSum(CodecRaw, plain))
	return h
}

// inlineSum is the checksum of version, codec and plain. The two bytes are fed in by hand, because a slice of them
// handed to crc32 would be a heap allocation for every value read.
func inlineSum(c Codec, plain []byte) uint32 {
	table := castagnoli()
	sum := ^uint32(0)
	for _, b := range [2]byte{inlineVersion, byte(c)} {
		sum = table[byte(sum)^b] ^ sum>>8
	}
	return crc32.Update(^sum, table, plain)
}

// AppendInline appends plain with its frame to dst.
func AppendInline(dst, plain []byte) []byte {
	h := InlineHeader(plain)
	return append(append(dst, h[:]...), plain...)
}

// OpenInline checks a stored inline value and returns its plain bytes, which alias stored.
// The error's kind is firn.Corrupt or firn.Unsupported.
func OpenInline(stored []byte) ([]byte, error) {
	if len(stored) < InlineOverhead {
		return nil, &CorruptError{File: "inline value", Block: -1, What: "frame"}
	}
	if stored[0] != inlineVersion || Codec(stored[1]) != CodecRaw {
		return nil, ErrUnknownFormat
	}
	plain := stored[InlineOverhead:]
	if inlineSum(CodecRaw, plain) != binary.LittleEndian.Uint32(stored[2:]) {
		return nil, &CorruptError{File: "inline value", Block: -1, What: "content"}
	}
	return plain, nil
}
