package block

import (
	"encoding/binary"
	"hash/crc32"

	"firn/seal"
)

// InlineOverhead is the number of bytes that framing adds to an inline value.
const InlineOverhead = 6

const inlineVersion = 1

// An inline value is: version uint8 (1), codec uint8, CRC32C uint32 little-endian of those two bytes and the stored
// bytes, then the stored bytes.

// InlineHeader returns the frame that goes before plain. Stored as header, then plain, it spares the copy of
// AppendInline.
func InlineHeader(plain []byte) [InlineOverhead]byte {
	h := [InlineOverhead]byte{inlineVersion, byte(CodecRaw)}
	binary.LittleEndian.PutUint32(h[2:], inlineSum(CodecRaw, plain))
	return h
}

// inlineSum is the checksum of version, codec and content. The two bytes are fed in by hand, because a slice of them
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

// OpenInline checks a stored inline value and returns its plain bytes, which alias stored; with ErrSealed the sealed
// ones, for UnsealInline. The kind of other errors is firn.Corrupt or firn.Unsupported.
func OpenInline(stored []byte) ([]byte, error) {
	if len(stored) < InlineOverhead {
		return nil, &CorruptError{File: inlineName, Block: -1, What: "frame"}
	}
	codec := Codec(stored[1])
	if stored[0] != inlineVersion || codec != CodecRaw && codec != CodecAESGCM {
		return nil, ErrUnknownFormat
	}
	content := stored[InlineOverhead:]
	if inlineSum(codec, content) != binary.LittleEndian.Uint32(stored[2:]) {
		return nil, &CorruptError{File: inlineName, Block: -1, What: "content"}
	}
	if codec == CodecAESGCM {
		return content, ErrSealed
	}
	return content, nil
}

const inlineName = "inline value"

// SealedInlineOverhead is the number of bytes that framing and sealing add to an inline value.
const SealedInlineOverhead = InlineOverhead + seal.Overhead

// AppendSealedInline appends plain with its frame, sealed under key, which must have sealed nothing before.
func AppendSealedInline(dst, plain []byte, key *seal.Key) []byte {
	start := len(dst)
	dst = append(dst, inlineVersion, byte(CodecAESGCM), 0, 0, 0, 0)
	var nonce [12]byte
	dst = key.AEAD().Seal(dst, blockNonce(&nonce, 0, true), plain, nil)
	binary.LittleEndian.PutUint32(dst[start+2:], inlineSum(CodecAESGCM, dst[start+InlineOverhead:]))
	return dst
}

// UnsealInline opens, in place, the content that OpenInline returned with ErrSealed.
func UnsealInline(content []byte, key *seal.Key) ([]byte, error) {
	var nonce [12]byte
	plain, err := key.AEAD().Open(content[:0], blockNonce(&nonce, 0, true), content, nil)
	if err != nil {
		return nil, &CorruptError{File: inlineName, Block: -1, What: sealBroken}
	}
	return plain, nil
}
