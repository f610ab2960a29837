package record

import (
	"google.golang.org/protobuf/encoding/protowire"

	"firn"
)

// Records are protobuf messages with hand-mapped fields (docs/format/namespace.md). Encoders write fields in
// ascending order and decoders skip those they do not know, so that fields can be added without rewriting.
// Listings rely on the order: what they need comes first.

// ErrBroken is returned for bytes that are no such record.
var ErrBroken = firn.NewError(firn.Corrupt, "a namespace record cannot be decoded")

// fields walks the fields of a message. Groups and 32-bit values, which no record uses, are skipped.
type fields struct {
	b    []byte
	num  protowire.Number
	typ  protowire.Type
	u    uint64 // of a varint or fixed64
	data []byte // of a bytes field; aliases the message
	bad  bool
}

func (f *fields) next() bool {
	for len(f.b) > 0 {
		num, typ, n := protowire.ConsumeTag(f.b)
		if n < 0 {
			break
		}
		f.b = f.b[n:]
		f.num, f.typ = num, typ
		switch typ {
		case protowire.VarintType:
			f.u, n = protowire.ConsumeVarint(f.b)
		case protowire.Fixed64Type:
			f.u, n = protowire.ConsumeFixed64(f.b)
		case protowire.BytesType:
			f.data, n = protowire.ConsumeBytes(f.b)
		default:
			if n = protowire.ConsumeFieldValue(num, typ, f.b); n >= 0 {
				f.b = f.b[n:]
				continue
			}
		}
		if n < 0 {
			break
		}
		f.b = f.b[n:]
		return true
	}
	f.bad = len(f.b) > 0
	return false
}

// is reports whether the field has type typ; another type under a known number is a broken record.
func (f *fields) is(typ protowire.Type) bool {
	if f.typ != typ {
		f.bad = true
		f.b = nil
	}
	return f.typ == typ
}

func appendUint(b []byte, num protowire.Number, v uint64) []byte {
	if v == 0 {
		return b
	}
	return protowire.AppendVarint(protowire.AppendTag(b, num, protowire.VarintType), v)
}

func appendFixed(b []byte, num protowire.Number, v uint64) []byte {
	if v == 0 {
		return b
	}
	return protowire.AppendFixed64(protowire.AppendTag(b, num, protowire.Fixed64Type), v)
}

func appendBytes[S string | []byte](b []byte, num protowire.Number, v S) []byte {
	if len(v) == 0 {
		return b
	}
	b = protowire.AppendVarint(protowire.AppendTag(b, num, protowire.BytesType), uint64(len(v)))
	return append(b, v...)
}

func appendPairs(b []byte, num protowire.Number, list []Field) []byte {
	for _, p := range list {
		n := 0
		if p.Name != "" {
			n += 1 + protowire.SizeBytes(len(p.Name))
		}
		if p.Value != "" {
			n += 1 + protowire.SizeBytes(len(p.Value))
		}
		b = protowire.AppendVarint(protowire.AppendTag(b, num, protowire.BytesType), uint64(n))
		b = appendBytes(b, 1, p.Name)
		b = appendBytes(b, 2, p.Value)
	}
	return b
}

func boolUint(v bool) uint64 {
	if v {
		return 1
	}
	return 0
}
