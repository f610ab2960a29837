package radosblob

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"hash/crc32"
	"time"

	"firn"
)

// headSize is the length of what stands before the content in a head object.
const headSize = 64

// generation names the pieces of one put. No two puts have the same.
type generation [16]byte

func (g generation) String() string { return hex.EncodeToString(g[:]) }

// head is the beginning of a blob's head object, all integers little-endian:
//
//	 0  "FRNRADOS"
//	 8  version, 1 (uint32)
//	12  size of a piece, or 0 where the content follows the head (uint32)
//	16  size of the content (uint64)
//	24  time of the put by the client's clock, nanoseconds since 1970 (int64)
//	32  generation
//	48  zeros
//	60  CRC32C of bytes 0 to 59
type head struct {
	piece    int64
	size     int64
	modified time.Time
	gen      generation
}

const magic = "FRNRADOS"

func (h head) encode() []byte {
	b := make([]byte, headSize)
	copy(b, magic)
	binary.LittleEndian.PutUint32(b[8:], 1)
	binary.LittleEndian.PutUint32(b[12:], uint32(h.piece))
	binary.LittleEndian.PutUint64(b[16:], uint64(h.size))
	binary.LittleEndian.PutUint64(b[24:], uint64(h.modified.UnixNano()))
	copy(b[32:], h.gen[:])
	binary.LittleEndian.PutUint32(b[60:], crc32.Checksum(b[:60], crc32.MakeTable(crc32.Castagnoli)))
	return b
}

func parseHead(b []byte) (head, error) {
	var h head
	if len(b) < headSize || string(b[:8]) != magic ||
		binary.LittleEndian.Uint32(b[60:]) != crc32.Checksum(b[:60], crc32.MakeTable(crc32.Castagnoli)) {
		return h, firn.NewError(firn.Corrupt, "the head of the blob is damaged, or the object is not one of Firn's")
	}
	if v := binary.LittleEndian.Uint32(b[8:]); v != 1 {
		return h, firn.NewError(firn.Unsupported, fmt.Sprintf("the blob has format version %d; this build knows 1", v))
	}
	h.piece = int64(binary.LittleEndian.Uint32(b[12:]))
	h.size = int64(binary.LittleEndian.Uint64(b[16:]))
	h.modified = time.Unix(0, int64(binary.LittleEndian.Uint64(b[24:])))
	copy(h.gen[:], b[32:48])
	if h.size < 0 || h.piece > 0 && h.size/h.piece > 1<<30 {
		return h, firn.NewError(firn.Corrupt, "the head of the blob has an impossible size")
	}
	return h, nil
}

// pieces is the number of objects beside the head.
func (h head) pieces() int64 {
	if h.piece == 0 {
		return 0
	}
	return (h.size + h.piece - 1) / h.piece
}

// The value of a note in the "writes" object: which pieces there may be that no head names.
//
//	0  number of pieces (uint64), 1 while the put is under way or 2 once a sweep has begun (uint8), then the key
func encodeNote(pieces int64, swept bool, key string) []byte {
	b := binary.LittleEndian.AppendUint64(nil, uint64(pieces))
	state := byte(1)
	if swept {
		state = 2
	}
	return append(append(b, state), key...)
}

func parseNote(b []byte) (pieces int64, swept bool, key string, ok bool) {
	if len(b) < 10 || b[8] != 1 && b[8] != 2 {
		return 0, false, "", false
	}
	pieces = int64(binary.LittleEndian.Uint64(b))
	return pieces, b[8] == 2, string(b[9:]), pieces >= 0
}
