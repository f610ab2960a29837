package record

import (
	"google.golang.org/protobuf/encoding/protowire"

	"firn"
)

var errExportVersion = firn.NewError(firn.Unsupported, "the export of a version was written by a later release")

// Export is all that is needed to make a version again from its bytes: what the namespace knows of it, without where it
// was stored.
type Export struct {
	Record    []byte   // as Append makes it, without location and blobs
	Parts     []byte   // of a multipart version: as AppendPartList makes it, likewise
	Outboards [][]byte // by part; nil for one without content
}

// exportVersion is the version of the form that Encode returns.
const exportVersion = 1

// Fields of an export.
const (
	xVersion  = 1
	xRecord   = 2
	xParts    = 3
	xOutboard = 4 // 1 part, from 0; 2 bytes
)

// Encode returns the stored form.
func (e *Export) Encode() []byte {
	b := appendUint(nil, xVersion, exportVersion)
	b = appendBytes(b, xRecord, e.Record)
	b = appendBytes(b, xParts, e.Parts)
	for i, p := range e.Outboards {
		if len(p) > 0 {
			b = appendBytes(b, xOutboard, appendBytes(appendUint(nil, 1, uint64(i)), 2, p))
		}
	}
	return b
}

// DecodeExport reads what Encode returned, which it aliases.
func DecodeExport(raw []byte) (*Export, error) {
	e := &Export{}
	version := uint64(0)
	f := fields{b: raw}
	for f.next() {
		want := protowire.BytesType
		if f.num == xVersion {
			want = protowire.VarintType
		}
		if f.num <= xOutboard && !f.is(want) {
			return nil, ErrBroken
		}
		switch f.num {
		case xVersion:
			version = f.u
		case xRecord:
			e.Record = f.data
		case xParts:
			e.Parts = f.data
		case xOutboard:
			part, data := uint64(0), []byte(nil)
			g := fields{b: f.data}
			for g.next() {
				switch {
				case g.num == 1 && g.typ == protowire.VarintType:
					part = g.u
				case g.num == 2 && g.typ == protowire.BytesType:
					data = g.data
				}
			}
			if g.bad || part >= MaxPart || part < uint64(len(e.Outboards)) {
				return nil, ErrBroken
			}
			e.Outboards = append(append(e.Outboards, make([][]byte, part-uint64(len(e.Outboards)))...), data)
		}
	}
	if f.bad {
		return nil, ErrBroken
	}
	if version != exportVersion {
		return nil, errExportVersion
	}
	return e, nil
}
