package cache

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"time"

	"github.com/cespare/xxhash/v2"
)

// A segment of the disk level is records one behind the other and, when it is full, a trailer with all their headers.
// The format is described in docs/format/cache.md.
const (
	recordMagic  = "FcR1"
	trailerMagic = "FcX1"
	recordHead   = 64
	trailerFoot  = 32
)

type recordKind uint8

const (
	recordBlock recordKind = 1 + iota
	recordPurge
	recordPurgePrefix
)

// record is a header and the names behind it.
type record struct {
	kind       recordKind
	key        Key
	meta, data int // lengths in bytes
	generation uint64
	written    int64 // Unix milliseconds
	expires    int64 // Unix milliseconds, 0 is never
	sum        uint64
}

// length is what the record takes in a segment.
func (r *record) length() int { return r.head() + r.meta + r.data }

// head is what it takes in a trailer.
func (r *record) head() int { return recordHead + len(r.key.Object) + len(r.key.Version) }

func (r *record) match() Match {
	return Match{Object: r.key.Object, Version: r.key.Version, Prefix: r.kind == recordPurgePrefix}
}

func castagnoli() *crc32.Table { return crc32.MakeTable(crc32.Castagnoli) } // made once by the library

// contentSum is the checksum of what is behind the names, under the seed of the generation: the right bytes of another
// time are not right.
func contentSum(generation uint64, meta, data []byte) uint64 {
	h := xxhash.NewWithSeed(generation)
	_, _ = h.Write(meta)
	_, _ = h.Write(data)
	return h.Sum64()
}

// appendHead appends header and names.
func (r *record) appendHead(p []byte) []byte {
	at := len(p)
	p = append(p, recordMagic...)
	p = append(p, byte(r.kind), 0)
	p = binary.LittleEndian.AppendUint16(p, uint16(len(r.key.Object)))
	p = binary.LittleEndian.AppendUint16(p, uint16(len(r.key.Version)))
	p = binary.LittleEndian.AppendUint16(p, uint16(r.meta))
	p = binary.LittleEndian.AppendUint32(p, uint32(r.data))
	p = binary.LittleEndian.AppendUint64(p, uint64(r.key.Block))
	p = binary.LittleEndian.AppendUint64(p, r.generation)
	p = binary.LittleEndian.AppendUint64(p, uint64(r.written))
	p = binary.LittleEndian.AppendUint64(p, uint64(r.expires))
	p = binary.LittleEndian.AppendUint64(p, r.sum)
	p = append(p, 0, 0, 0, 0) // for later use, 0
	sum := crc32.Checksum(p[at:], castagnoli())
	sum = crc32.Update(sum, castagnoli(), []byte(r.key.Object))
	sum = crc32.Update(sum, castagnoli(), []byte(r.key.Version))
	p = binary.LittleEndian.AppendUint32(p, sum)
	p = append(p, r.key.Object...)
	return append(p, r.key.Version...)
}

// parseHead reads header and names from the beginning of p. ok is false for anything that appendHead does not write.
func parseHead(p []byte) (r record, ok bool) {
	if len(p) < recordHead || string(p[:4]) != recordMagic || p[5] != 0 {
		return r, false
	}
	le := binary.LittleEndian
	r.kind = recordKind(p[4])
	object, version := int(le.Uint16(p[6:])), int(le.Uint16(p[8:]))
	r.meta, r.data = int(le.Uint16(p[10:])), int(le.Uint32(p[12:]))
	r.key.Block = int64(le.Uint64(p[16:]))
	r.generation, r.written, r.expires = le.Uint64(p[24:]), int64(le.Uint64(p[32:])), int64(le.Uint64(p[40:]))
	r.sum = le.Uint64(p[48:])
	if r.kind < recordBlock || r.kind > recordPurgePrefix || object > MaxName || version > MaxName || r.meta > MaxMeta ||
		r.data > MaxBlock || r.key.Block < 0 || le.Uint32(p[56:]) != 0 || len(p) < recordHead+object+version {
		return r, false
	}
	names := p[recordHead : recordHead+object+version]
	if crc32.Update(crc32.Checksum(p[:60], castagnoli()), castagnoli(), names) != le.Uint32(p[60:]) {
		return r, false
	}
	r.key.Object, r.key.Version = string(names[:object]), string(names[object:])
	return r, true
}

// parseRecord checks that p is the record of a block under key in a segment of the generation, and returns it. The
// value's slices are those of p.
func parseRecord(p []byte, key Key, generation uint64) (r record, v Value, ok bool) {
	r, ok = parseHead(p)
	if !ok || r.kind != recordBlock || r.key != key || r.generation != generation || len(p) != r.length() {
		return r, v, false
	}
	at := r.head()
	v.Meta, v.Data = p[at:at+r.meta:at+r.meta], p[at+r.meta:]
	if contentSum(generation, v.Meta, v.Data) != r.sum {
		return r, Value{}, false
	}
	if r.meta == 0 {
		v.Meta = nil
	}
	if r.expires != 0 {
		v.Expires = time.UnixMilli(r.expires)
	}
	return r, v, true
}

// appendTrailer appends to heads, the headers and names of all records of a segment, what closes a trailer that begins
// at offset.
func appendTrailer(heads []byte, records int, generation uint64, offset int64) []byte {
	p := append([]byte(trailerMagic), 0, 0, 0, 0)
	binary.LittleEndian.PutUint32(p[4:], uint32(records))
	p = binary.LittleEndian.AppendUint64(p, uint64(offset))
	p = binary.LittleEndian.AppendUint64(p, generation)
	p = binary.LittleEndian.AppendUint32(p, crc32.Checksum(heads, castagnoli()))
	p = binary.LittleEndian.AppendUint32(p, crc32.Checksum(p, castagnoli()))
	return append(heads, p...)
}

// parseFoot reads the end of a trailer of a segment of size bytes.
func parseFoot(p []byte, generation uint64, size int64) (offset int64, records int, heads uint32, ok bool) {
	le := binary.LittleEndian
	if len(p) != trailerFoot || string(p[:4]) != trailerMagic || crc32.Checksum(p[:28], castagnoli()) != le.Uint32(p[28:]) ||
		le.Uint64(p[16:]) != generation {
		return 0, 0, 0, false
	}
	at := le.Uint64(p[8:])
	if at > uint64(size-trailerFoot) {
		return 0, 0, 0, false
	}
	return int64(at), int(le.Uint32(p[4:])), le.Uint32(p[24:]), true
}

// parseHeads reads what is before the foot of a trailer and returns the records and where they begin. The records
// must fill the segment up to the trailer, without gaps.
func parseHeads(p []byte, records int, generation uint64, end int64) (out []record, at []int64, ok bool) {
	var off int64
	for len(p) > 0 {
		r, ok := parseHead(p)
		if !ok || r.generation != generation || off+int64(r.length()) > end {
			return nil, nil, false
		}
		out, at = append(out, r), append(at, off)
		off += int64(r.length())
		p = p[r.head():]
	}
	return out, at, len(out) == records && off == end
}

// nextMagic returns where the next record could begin in p, from from on, or -1.
func nextMagic(p []byte, from int) int {
	i := bytes.Index(p[from:], []byte(recordMagic))
	if i < 0 {
		return -1
	}
	return from + i
}
