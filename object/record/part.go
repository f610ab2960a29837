package record

import (
	"slices"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
)

// MaxPart is the highest part number, and the most parts of a version.
const MaxPart = 10000

// Fields of a part, in a part list (q, field 1) and of an upload (p).
const (
	pNumber   = 1
	pSize     = 2
	pMD5      = 3
	pChecksum = 4
	pModified = 5 // ms since 1970
	pBlob     = 6
	pShared   = 7
	pSealed   = 8
)

// AppendPart appends p's stored form to b.
func AppendPart(b []byte, p *Part) []byte {
	b = appendUint(b, pNumber, uint64(p.Number))
	b = appendUint(b, pSize, uint64(p.Size))
	b = appendBytes(b, pMD5, p.MD5[:])
	b = appendBytes(b, pChecksum, p.Checksum)
	b = appendUint(b, pModified, uint64(max(0, p.Modified.UnixMilli())))
	if p.Blob != (BlobID{}) {
		b = appendBytes(b, pBlob, p.Blob[:])
	}
	b = appendUint(b, pShared, boolUint(p.Shared))
	return appendBytes(b, pSealed, p.Sealed)
}

// DecodePart reads a stored part into p.
func DecodePart(p *Part, raw []byte) error {
	f := fields{b: raw}
	for f.next() {
		want := protowire.VarintType
		if f.num == pMD5 || f.num == pChecksum || f.num == pBlob || f.num == pSealed {
			want = protowire.BytesType
		}
		if f.num <= pSealed && !f.is(want) {
			return ErrBroken
		}
		switch f.num {
		case pNumber:
			p.Number = int(f.u & 0xFFFF)
		case pSize:
			if f.u > 1<<62 {
				return ErrBroken
			}
			p.Size = int64(f.u)
		case pMD5:
			if len(f.data) != len(p.MD5) {
				return ErrBroken
			}
			p.MD5 = [16]byte(f.data)
		case pChecksum:
			p.Checksum = slices.Clone(f.data)
		case pModified:
			p.Modified = time.UnixMilli(int64(f.u & (1<<48 - 1))).UTC()
		case pBlob:
			if len(f.data) != len(p.Blob) {
				return ErrBroken
			}
			p.Blob = BlobID(f.data)
		case pShared:
			p.Shared = f.u != 0
		case pSealed:
			p.Sealed = slices.Clone(f.data)
		}
	}
	if f.bad {
		return ErrBroken
	}
	return nil
}

// AppendPartList appends the stored form of a version's parts to b.
func AppendPartList(b []byte, parts []Part) []byte {
	var buf [256]byte
	for i := range parts {
		b = appendBytes(b, 1, AppendPart(buf[:0], &parts[i]))
	}
	return b
}

// DecodePartList reads a stored part list.
func DecodePartList(raw []byte) ([]Part, error) {
	var parts []Part
	f := fields{b: raw}
	for f.next() {
		if f.num != 1 || f.typ != protowire.BytesType {
			continue
		}
		if len(parts) == MaxPart {
			return nil, ErrBroken
		}
		parts = append(parts, Part{})
		if err := DecodePart(&parts[len(parts)-1], f.data); err != nil {
			return nil, err
		}
	}
	if f.bad {
		return nil, ErrBroken
	}
	return parts, nil
}

// Label says in a blob file what its bytes are, for rebuilding a namespace from the files alone.
type Label struct {
	Bucket, Key string
	Upload      string // for a part
	Part        int
}

// Encode returns the stored form.
func (l Label) Encode() []byte {
	b := appendBytes(make([]byte, 0, 16+len(l.Bucket)+len(l.Key)+len(l.Upload)), 1, l.Bucket)
	b = appendBytes(b, 2, l.Key)
	b = appendBytes(b, 3, l.Upload)
	return appendUint(b, 4, uint64(l.Part))
}

// DecodeLabel reads a stored label.
func DecodeLabel(raw []byte) (l Label, err error) {
	f := fields{b: raw}
	for f.next() {
		if f.num <= 3 && f.typ != protowire.BytesType || f.num == 4 && f.typ != protowire.VarintType {
			return l, ErrBroken
		}
		switch f.num {
		case 1:
			l.Bucket = string(f.data)
		case 2:
			l.Key = string(f.data)
		case 3:
			l.Upload = string(f.data)
		case 4:
			l.Part = int(f.u & 0xFFFF)
		}
	}
	if f.bad {
		return l, ErrBroken
	}
	return l, nil
}

// Completed is what a finished upload became, kept for a while so that its completion can be sent again.
type Completed struct {
	At      uint64 // clock of the completion
	Bucket  uint64
	Key     string
	Version []byte // the version's record
	Parts   uint64 // hash of the request's parts
}

// Encode returns the stored form.
func (c *Completed) Encode() []byte {
	b := appendFixed(nil, 1, c.At)
	b = appendUint(b, 2, c.Bucket)
	b = appendBytes(b, 3, c.Key)
	b = appendBytes(b, 4, c.Version)
	return appendFixed(b, 5, c.Parts)
}

// DecodeCompleted reads what Encode returned. Version aliases raw.
func DecodeCompleted(raw []byte) (c Completed, err error) {
	f := fields{b: raw}
	for f.next() {
		want := protowire.BytesType
		switch f.num {
		case 1, 5:
			want = protowire.Fixed64Type
		case 2:
			want = protowire.VarintType
		}
		if f.num <= 5 && !f.is(want) {
			return c, ErrBroken
		}
		switch f.num {
		case 1:
			c.At = f.u
		case 2:
			c.Bucket = f.u
		case 3:
			c.Key = string(f.data)
		case 4:
			c.Version = f.data
		case 5:
			c.Parts = f.u
		}
	}
	if f.bad {
		return c, ErrBroken
	}
	return c, nil
}
