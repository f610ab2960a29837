// Package block frames stored bytes: part files of checksummed blocks, and values small enough to live in the
// metadata engine.
//
// It promises that no byte leaves a Reader or OpenInline before the checksum of its block held, that a file
// without a valid trailer is never taken for a part, that sealed blocks open only under their key, in their place and in
// a part of their length, and that a codec (compression) can be added later without rewriting what is stored. It must
// never know what the bytes mean nor where a key comes from, nor import a package above vfs and seal. The format is
// described in docs/format/block.md.
package block

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"

	"firn"
	"firn/seal"
	"firn/vfs"
)

// Codec says how the blocks of a part, or an inline value, are stored.
type Codec uint8

const (
	// CodecRaw stores the plain bytes.
	CodecRaw Codec = 0
	// CodecZstd is reserved for blocks compressed with zstd.
	CodecZstd Codec = 1
	// CodecAESGCM stores each block sealed with AES-256-GCM.
	CodecAESGCM Codec = 2
	// CodecZstdAESGCM is reserved for blocks compressed, then sealed.
	CodecZstdAESGCM Codec = 3
)

const (
	// DefaultBlockSize is the number of plain bytes a block covers unless WriterOptions say otherwise.
	DefaultBlockSize = 64 << 10
	// MinBlockSize and MaxBlockSize bound the block size, a power of two.
	MinBlockSize = 4 << 10
	MaxBlockSize = 256 << 10
	// MaxLabel is the longest label in bytes.
	MaxLabel = 64 << 10
	// MaxPart is the largest part in plain bytes. It keeps the index within 32 bits at every block size.
	MaxPart = 1 << 40
)

// ErrNotPart is wrapped by the error of Open for a file that does not end in a valid trailer: a file cut off while it
// was written, or something else altogether.
var ErrNotPart = firn.NewError(firn.Corrupt, "not a complete part file")

// ErrUnknownFormat is wrapped by errors for bytes that a newer release wrote.
var ErrUnknownFormat = firn.NewError(firn.Unsupported, "stored in a format this release does not know")

// ErrSealed is wrapped by the error of reading sealed content without its key.
var ErrSealed = firn.NewError(firn.Denied, "the content is encrypted: its key was not given")

// CorruptError says which block of a part does not match its checksum. Its kind is firn.Corrupt.
type CorruptError struct {
	File  string // name of the file, where known
	Block int64  // number of the block from 0, or -1 where it is not one block: see What
	What  string // "block", "seal", "index", "label" or "content"
}

func (e *CorruptError) Error() string {
	name := e.File
	if name == "" {
		name = "part file"
	}
	switch {
	case e.What == sealBroken && e.Block >= 0:
		return fmt.Sprintf("%s: block %d does not open under its key: damaged, changed, or not of this content", name, e.Block)
	case e.What == sealBroken:
		return name + " does not open under its key: damaged, changed, or not of this content"
	case e.Block >= 0:
		return fmt.Sprintf("%s: %s %d does not match its checksum", name, e.What, e.Block)
	}
	return fmt.Sprintf("%s: %s does not match its checksum", name, e.What)
}

// Unwrap lets firn.KindOf find the kind.
func (e *CorruptError) Unwrap() error { return errCorrupt }

var errCorrupt = firn.NewError(firn.Corrupt, "stored bytes do not match their checksum")

// castagnoli returns the CRC32C table; the standard library makes it once and recognises it by address.
func castagnoli() *crc32.Table { return crc32.MakeTable(crc32.Castagnoli) }

func checksum(p []byte) uint32 { return updateChecksum(0, p) }

func updateChecksum(sum uint32, p []byte) uint32 { return crc32.Update(sum, castagnoli(), p) }

// sealBroken is What a CorruptError names where content does not open under its key.
const sealBroken = "seal"

// contentLabel is the purpose under which the BLAKE3 of sealed content is keyed, so that it tells nothing of it.
const contentLabel = "content"

// contentSum returns what the trailer keeps of the BLAKE3 of sealed content.
func contentSum(key *seal.Key, sum [32]byte) [32]byte { return key.Derive(contentLabel, sum[:]) }

// blockNonce returns the nonce of a block. The last one differs, so that a part cut short at a block does not open
// (the STREAM construction of Hoang, Reyhanitabar, Rogaway and Vizár, 2015).
func blockNonce(p *[12]byte, n int64, last bool) []byte {
	b := seal.Nonce(p, uint64(n))
	if last {
		b[0] = 1
	}
	return b
}

// entry returns the length of a block's entry in the index.
func (c Codec) entry() int {
	if c == CodecAESGCM {
		return 4 + seal.Overhead
	}
	return 4
}

// maxSize returns the largest part in plain bytes, whose index length fits into 32 bits.
func (c Codec) maxSize(blockSize int) int64 {
	return min(MaxPart, int64(1<<32-1)/int64(c.entry())*int64(blockSize))
}

// Info describes a part.
type Info struct {
	Codec     Codec
	BlockSize int
	Blocks    int64
	Size      int64    // plain bytes
	Stored    int64    // bytes of the file, framing included
	BLAKE3    [32]byte // of the plain bytes; under CodecAESGCM keyed, and of use only to who has the key
}

// The trailer ends the file. All integers are little-endian.
//
//	 0  BLAKE3 of the plain bytes, keyed where they are sealed, 32 bytes
//	32  plain size        uint64
//	40  size of all stored blocks, which is where the index starts  uint64
//	48  block size        uint32
//	52  number of blocks  uint32
//	56  index length      uint32
//	60  label length      uint32
//	64  CRC32C of index   uint32
//	68  CRC32C of label and padding  uint32
//	72  codec             uint8
//	73  flags, 0          uint8
//	74  format version    uint16
//	76  padding: zero bytes between label and trailer  uint32
//	80  reserved, 0       uint32
//	84  CRC32C of bytes 0-83 of the trailer  uint32
//	88  magic             8 bytes
const (
	trailerLen    = 96
	formatVersion = 1
	magic         = "firnPART"
)

type trailer struct {
	info     Info
	indexOff int64
	indexLen int
	labelLen int
	padding  int
	indexCRC uint32
	labelCRC uint32
}

func (t *trailer) append(dst []byte) []byte {
	start := len(dst)
	le := binary.LittleEndian
	dst = append(dst, t.info.BLAKE3[:]...)
	dst = le.AppendUint64(dst, uint64(t.info.Size))
	dst = le.AppendUint64(dst, uint64(t.indexOff))
	dst = le.AppendUint32(dst, uint32(t.info.BlockSize))
	dst = le.AppendUint32(dst, uint32(t.info.Blocks))
	dst = le.AppendUint32(dst, uint32(t.indexLen))
	dst = le.AppendUint32(dst, uint32(t.labelLen))
	dst = le.AppendUint32(dst, t.indexCRC)
	dst = le.AppendUint32(dst, t.labelCRC)
	dst = append(dst, byte(t.info.Codec), 0)
	dst = le.AppendUint16(dst, formatVersion)
	dst = le.AppendUint32(dst, uint32(t.padding))
	dst = le.AppendUint32(dst, 0)
	dst = le.AppendUint32(dst, checksum(dst[start:]))
	return append(dst, magic...)
}

// fileSize returns the size of the file whose trailer p is, as the trailer's numbers say. parseTrailer checks them.
func fileSize(p []byte) int64 {
	le := binary.LittleEndian
	return int64(le.Uint64(p[40:])) + int64(le.Uint32(p[56:])) + int64(le.Uint32(p[60:])) + int64(le.Uint32(p[76:])) + trailerLen
}

// parseTrailer reads the trailer p of a file of fileSize bytes. Every number it returns is consistent with the
// others and with fileSize, so that the reader needs no further checks of bounds.
func parseTrailer(p []byte, fileSize int64) (trailer, error) {
	var t trailer
	if len(p) != trailerLen || string(p[88:]) != magic {
		return t, ErrNotPart
	}
	le := binary.LittleEndian
	if le.Uint32(p[84:]) != checksum(p[:84]) {
		return t, ErrNotPart
	}
	codec, flags, version, reserved := Codec(p[72]), p[73], le.Uint16(p[74:]), le.Uint32(p[80:])
	if version != formatVersion || codec != CodecRaw && codec != CodecAESGCM || flags != 0 || reserved != 0 {
		return t, ErrUnknownFormat
	}
	copy(t.info.BLAKE3[:], p)
	t.info.Codec = codec
	t.info.Stored = fileSize
	size, stored := le.Uint64(p[32:]), le.Uint64(p[40:])
	blockSize, blocks := le.Uint32(p[48:]), le.Uint32(p[52:])
	indexLen, labelLen, padding := le.Uint32(p[56:]), le.Uint32(p[60:]), le.Uint32(p[76:])
	switch {
	case size > MaxPart || stored != size,
		blockSize < MinBlockSize || blockSize > MaxBlockSize || blockSize&(blockSize-1) != 0,
		uint64(blocks) != (size+uint64(blockSize)-1)/uint64(blockSize),
		uint64(indexLen) != uint64(blocks)*uint64(codec.entry()),
		labelLen > MaxLabel,
		padding >= vfs.DirectAlign,
		fileSize < trailerLen || stored+uint64(indexLen)+uint64(labelLen)+uint64(padding)+trailerLen != uint64(fileSize):
		return t, ErrNotPart
	}
	t.info.Size, t.indexOff = int64(size), int64(stored)
	t.info.BlockSize, t.info.Blocks = int(blockSize), int64(blocks)
	t.indexLen, t.labelLen, t.padding = int(indexLen), int(labelLen), int(padding)
	t.indexCRC, t.labelCRC = le.Uint32(p[64:]), le.Uint32(p[68:])
	return t, nil
}
