package compress

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"

	"firn"
)

// A stored blob is a zstd file (RFC 8878): a skippable frame with the table, then one frame for each MiB of content,
// then perhaps a skippable frame of padding. docs/format/blob-compress.md describes it.
const (
	frameLen     = 1 << 20 // plain bytes of each frame but the last
	blockLen     = 128 << 10
	tableMagic   = 0x184D2A5D
	paddingMagic = 0x184D2A5C
	skipLen      = 8  // of a skippable frame's head
	headLen      = 32 // before the table's entries
	entryLen     = 8
	crcLen       = 4
	magic        = "firnZSTD"
	version      = 1
	maxFrames    = 1 << 22 // 4 TiB
	align        = 64
)

var errCorrupt = firn.NewError(firn.Corrupt, "the stored blob is damaged, or was not compressed by Firn: restore it from another copy")

// table is what a blob's head says.
type table struct {
	size   int64   // plain
	frames []entry // one for each frameLen bytes
}

type entry struct {
	len int // stored bytes
	crc uint32
}

func castagnoli() *crc32.Table { return crc32.MakeTable(crc32.Castagnoli) }

// plain is the number of plain bytes of frame i.
func (t *table) plain(i int) int { return int(min(t.size-int64(i)*frameLen, frameLen)) }

// frameCount is how many frames size bytes have.
func frameCount(size int64) int64 { return (size + frameLen - 1) / frameLen }

// tableLen is the length of the table's frame.
func tableLen(frames int64) int64 { return headLen + frames*entryLen + crcLen }

// start is the position of frame i in the stored blob, and for the number of frames that of what follows the last.
func (t *table) start(i int) int64 {
	at := tableLen(int64(len(t.frames)))
	for _, f := range t.frames[:i] {
		at += int64(f.len)
	}
	return at
}

// stored is the length of the stored blob without padding, and with it.
func (t *table) stored() (bare, padded int64) {
	bare = t.start(len(t.frames))
	if bare == rawSize(t.size) {
		return bare, bare
	}
	return bare, (bare + skipLen + align - 1) / align * align
}

func (t *table) encode() []byte {
	n := int64(len(t.frames))
	le := binary.LittleEndian
	p := make([]byte, 0, tableLen(n))
	p = le.AppendUint32(p, tableMagic)
	p = le.AppendUint32(p, uint32(tableLen(n)-skipLen))
	p = append(p, magic...)
	p = le.AppendUint16(p, version)
	p = le.AppendUint16(p, 0)
	p = le.AppendUint32(p, uint32(n))
	p = le.AppendUint64(p, uint64(t.size))
	for _, f := range t.frames {
		p = le.AppendUint32(p, uint32(f.len))
		p = le.AppendUint32(p, f.crc)
	}
	return le.AppendUint32(p, crc32.Checksum(p, castagnoli()))
}

// parseHead returns plain size and number of frames from the first headLen bytes of a blob.
func parseHead(p []byte) (size, frames int64, err error) {
	le := binary.LittleEndian
	if len(p) < headLen || le.Uint32(p) != tableMagic || string(p[8:16]) != magic {
		return 0, 0, errCorrupt
	}
	if v := le.Uint16(p[16:]); v != version {
		return 0, 0, firn.NewError(firn.Unsupported, fmt.Sprintf("the blob has version %d, this release knows %d", v, version))
	}
	frames, size = int64(le.Uint32(p[20:])), int64(le.Uint64(p[24:]))
	if size < 0 || le.Uint16(p[18:]) != 0 || frames > maxFrames || frames != frameCount(size) || int64(le.Uint32(p[4:])) != tableLen(frames)-skipLen {
		return 0, 0, errCorrupt
	}
	return size, frames, nil
}

// parseTable returns the table p, which ends with it.
func parseTable(p []byte) (*table, error) {
	size, n, err := parseHead(p)
	if err != nil {
		return nil, err
	}
	le := binary.LittleEndian
	if int64(len(p)) != tableLen(n) || crc32.Checksum(p[:len(p)-crcLen], castagnoli()) != le.Uint32(p[len(p)-crcLen:]) {
		return nil, errCorrupt
	}
	t := &table{size: size, frames: make([]entry, n)}
	for i := range t.frames {
		e := p[headLen+i*entryLen:]
		t.frames[i] = entry{len: int(le.Uint32(e)), crc: le.Uint32(e[4:])}
		if l := t.frames[i].len; l <= 0 || l > rawFrameLen(t.plain(i)) {
			return nil, errCorrupt
		}
	}
	return t, nil
}

// rawFrame appends a zstd frame that holds p as it is: single segment, no checksum, raw blocks.
func rawFrame(dst, p []byte) []byte {
	le := binary.LittleEndian
	dst = le.AppendUint32(dst, 0xFD2FB528)
	dst = append(dst, 0b10_1_00000) // content size in 4 bytes, single segment
	dst = le.AppendUint32(dst, uint32(len(p)))
	for len(p) > 0 {
		n := min(len(p), blockLen)
		head := uint32(n) << 3 // type 0: raw
		if n == len(p) {
			head |= 1 // the last
		}
		dst = append(dst, byte(head), byte(head>>8), byte(head>>16))
		dst = append(dst, p[:n]...)
		p = p[n:]
	}
	return dst
}

// rawFrameLen is the length of a raw frame of n plain bytes.
func rawFrameLen(n int) int { return 4 + 1 + 4 + (n+blockLen-1)/blockLen*3 + n }

// rawSize is the stored size of a blob of size bytes whose frames are all raw.
func rawSize(size int64) int64 {
	n := frameCount(size)
	stored := tableLen(n)
	if n > 0 {
		stored += (n-1)*int64(rawFrameLen(frameLen)) + int64(rawFrameLen(int(size-(n-1)*frameLen)))
	}
	return stored
}

// plainSize tells the plain size from the stored one alone, where that can be: a blob that is not raw throughout is
// padded to a multiple of 64, so any other length is that of a raw one.
func plainSize(stored int64) (size int64, ok bool) {
	if stored%align == 0 {
		return 0, false
	}
	// rawSize grows with size, so there is one answer at most.
	low, high := int64(0), stored
	for low < high {
		mid := low + (high-low)/2
		if rawSize(mid) < stored {
			low = mid + 1
		} else {
			high = mid
		}
	}
	return low, rawSize(low) == stored
}
