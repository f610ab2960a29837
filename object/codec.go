package object

import (
	"encoding/binary"
	"encoding/hex"
	"slices"
	"strconv"
	"time"

	"google.golang.org/protobuf/encoding/protowire"

	"firn"
	"firn/hlc"
	"firn/object/envelope"
)

// Records are protobuf messages with hand-mapped fields (docs/format/namespace.md). Encoders write fields in
// ascending order and decoders skip those they do not know, so that fields can be added without rewriting.
// Listings rely on the order: what they need comes first.

// Fields of a version record.
const (
	fClock         = 1 // fixed64
	fSite          = 2
	fFlags         = 3
	fSize          = 4
	fMD5           = 5
	fETagParts     = 6
	fOwner         = 7
	fClass         = 8
	fSumKind       = 9 // algorithm, plus type << 4
	fLastListed    = fSumKind
	fSumValue      = 10
	fSumParts      = 11
	fData          = 12 // fixed64: id of the inline content, or of the part list of a multipart version
	fBlob          = 13
	fBlobShared    = 14
	fBLAKE3        = 15
	fVector        = 16 // pairs of varints: site, counter
	fHeader        = 17
	fMetadata      = 18
	fTag           = 19
	fACL           = 20
	fRetentionMode = 21
	fRetentionTime = 22 // ms since 1970, zigzag
	fEncryption    = 23
	fSealed        = 24 // key of the content that is not multipart
)

const (
	flagDeleteMarker = 1 << iota
	flagNull
	flagMultipart
	flagLegalHold
)

// record is a version as stored: what clients see and where its bytes are.
type record struct {
	Version
	md5    [16]byte
	nparts int // of the ETag's "-N"; 0 for a plain MD5
	null   bool
	data   uint64
	blob   BlobID // of a version that is one blob; zero for inline and multipart content
	shared bool
	sealed []byte
}

func (r *record) order() order { return makeOrder(r.Clock, r.Site) }

// maxRecord bounds a version's record in bytes. Doors keep headers, metadata, tags and ACL far below it.
const maxRecord = 256 << 10

var errLargeRecord = firn.NewError(firn.Invalid, "the metadata of the object is too large")

var errRecord = firn.NewError(firn.Corrupt, "a namespace record cannot be decoded")

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

// appendRecord appends r's stored form to b.
func appendRecord(b []byte, r *record) []byte {
	b = appendFixed(b, fClock, r.Clock)
	b = appendUint(b, fSite, uint64(r.Site))
	var flags uint64
	for _, f := range [...]struct {
		on  bool
		bit uint64
	}{
		{r.DeleteMarker, flagDeleteMarker}, {r.null, flagNull}, {r.Multipart, flagMultipart}, {r.LegalHold, flagLegalHold},
	} {
		if f.on {
			flags |= f.bit
		}
	}
	b = appendUint(b, fFlags, flags)
	b = appendUint(b, fSize, uint64(r.Size))
	if !r.DeleteMarker {
		b = appendBytes(b, fMD5, r.md5[:])
	}
	b = appendUint(b, fETagParts, uint64(r.nparts))
	b = appendBytes(b, fOwner, r.Owner)
	b = appendBytes(b, fClass, r.StorageClass)
	b = appendUint(b, fSumKind, uint64(r.Checksum.Algorithm)|uint64(r.Checksum.Type)<<4)
	b = appendBytes(b, fSumValue, r.Checksum.Value)
	b = appendUint(b, fSumParts, uint64(r.Checksum.Parts))
	b = appendFixed(b, fData, r.data)
	if r.blob != (BlobID{}) {
		b = appendBytes(b, fBlob, r.blob[:])
	}
	b = appendUint(b, fBlobShared, boolUint(r.shared))
	if r.BLAKE3 != [32]byte{} {
		b = appendBytes(b, fBLAKE3, r.BLAKE3[:])
	}
	b = appendVector(b, fVector, r.Vector)
	b = appendPairs(b, fHeader, r.Headers)
	b = appendPairs(b, fMetadata, r.Metadata)
	b = appendPairs(b, fTag, r.Tags)
	b = appendBytes(b, fACL, r.ACL)
	b = appendUint(b, fRetentionMode, uint64(r.Retention.Mode))
	if r.Retention.Mode != RetentionNone {
		b = appendUint(b, fRetentionTime, protowire.EncodeZigZag(r.Retention.Until.UnixMilli()))
	}
	if r.Encryption != nil {
		var buf [256]byte
		b = appendBytes(b, fEncryption, r.Encryption.Append(buf[:0]))
	}
	return appendBytes(b, fSealed, r.sealed)
}

func boolUint(v bool) uint64 {
	if v {
		return 1
	}
	return 0
}

func appendVector(b []byte, num protowire.Number, v map[uint32]uint64) []byte {
	if len(v) == 0 {
		return b
	}
	var buf [64]byte
	p := buf[:0]
	if len(v) == 1 {
		for site, n := range v {
			p = protowire.AppendVarint(protowire.AppendVarint(p, uint64(site)), n)
		}
		return appendBytes(b, num, p)
	}
	sites := make([]uint32, 0, len(v))
	for site := range v {
		sites = append(sites, site)
	}
	slices.Sort(sites)
	for _, site := range sites {
		p = protowire.AppendVarint(protowire.AppendVarint(p, uint64(site)), v[site])
	}
	return appendBytes(b, num, p)
}

func parseVector(b []byte) (map[uint32]uint64, bool) {
	v := make(map[uint32]uint64, 1)
	for len(b) > 0 {
		site, n := protowire.ConsumeVarint(b)
		if n < 0 || site > 1<<32-1 {
			return nil, false
		}
		count, m := protowire.ConsumeVarint(b[n:])
		if m < 0 {
			return nil, false
		}
		v[uint32(site)] = count
		b = b[n+m:]
	}
	return v, true
}

// decodeRecord reads a stored version into r, whose Bucket, Key and Latest stay as they are. All strings share
// one allocation.
func decodeRecord(r *record, raw []byte) error {
	if len(raw) > maxRecord {
		return errRecord
	}
	// One string holds the record, the ETag and the id; every other string is a piece of it.
	var arr [768]byte
	all := append(arr[:0], raw...)
	f := fields{b: raw}
	var flags, mode uint64
	for f.next() {
		switch f.num {
		case fClock:
			if f.is(protowire.Fixed64Type) {
				r.Clock = f.u
			}
		case fSite:
			if f.is(protowire.VarintType) {
				r.Site = uint32(f.u)
			}
		case fFlags:
			if f.is(protowire.VarintType) {
				flags = f.u
			}
		case fMD5:
			if len(f.data) == len(r.md5) && f.is(protowire.BytesType) {
				r.md5 = [16]byte(f.data)
			}
		case fETagParts:
			if f.is(protowire.VarintType) {
				r.nparts = int(f.u & 0xFFFF)
			}
		}
		if f.num > fETagParts {
			break
		}
	}
	if f.bad {
		return errRecord
	}
	r.DeleteMarker = flags&flagDeleteMarker != 0
	r.null = flags&flagNull != 0
	r.Multipart = flags&flagMultipart != 0
	r.LegalHold = flags&flagLegalHold != 0
	etagAt := len(all)
	if !r.DeleteMarker {
		all = appendETag(all, r.md5, r.nparts)
	}
	idAt := len(all)
	if !r.null {
		all = r.order().appendID(all)
	}
	s := string(all)
	r.ETag, r.ID = s[etagAt:idAt], s[idAt:]
	if r.null {
		r.ID = nullID
	}
	r.Modified = hlc.Time(r.Clock).Wall()

	str := func(b, rest []byte) string { // the piece of s that is b, found by what follows it in raw
		end := len(raw) - len(rest)
		return s[end-len(b) : end]
	}
	f = fields{b: raw}
	for f.next() {
		switch f.num {
		case fSize, fSite, fFlags, fETagParts, fSumKind, fSumParts, fBlobShared, fRetentionMode, fRetentionTime:
			if !f.is(protowire.VarintType) {
				return errRecord
			}
		case fClock, fData:
			if !f.is(protowire.Fixed64Type) {
				return errRecord
			}
		case fMD5, fOwner, fClass, fSumValue, fBlob, fBLAKE3, fVector, fHeader, fMetadata, fTag, fACL, fEncryption, fSealed:
			if !f.is(protowire.BytesType) {
				return errRecord
			}
		}
		switch f.num {
		case fMD5:
			if len(f.data) != len(r.md5) {
				return errRecord
			}
		case fSize:
			if f.u > 1<<62 {
				return errRecord
			}
			r.Size = int64(f.u)
		case fOwner:
			r.Owner = str(f.data, f.b)
		case fClass:
			r.StorageClass = str(f.data, f.b)
		case fSumKind:
			r.Checksum.Algorithm = ChecksumAlgorithm(f.u & 0xF)
			r.Checksum.Type = ChecksumType(f.u >> 4 & 0xF)
		case fSumValue:
			r.Checksum.Value = slices.Clone(f.data)
		case fSumParts:
			r.Checksum.Parts = int(f.u & 0xFFFF)
		case fData:
			r.data = f.u
		case fBlob:
			if len(f.data) != len(r.blob) {
				return errRecord
			}
			r.blob = BlobID(f.data)
		case fBlobShared:
			r.shared = f.u != 0
		case fBLAKE3:
			if len(f.data) != 32 {
				return errRecord
			}
			r.BLAKE3 = [32]byte(f.data)
		case fVector:
			var ok bool
			if r.Vector, ok = parseVector(f.data); !ok {
				return errRecord
			}
		case fHeader, fMetadata, fTag:
			list := &r.Headers
			switch f.num {
			case fMetadata:
				list = &r.Metadata
			case fTag:
				list = &r.Tags
			}
			if *list == nil {
				*list = make([]Field, 0, 2)
			}
			var p Field
			end := len(raw) - len(f.b)
			g := fields{b: f.data}
			for g.next() {
				if g.typ != protowire.BytesType {
					continue
				}
				at := end - len(g.b)
				switch g.num {
				case 1:
					p.Name = s[at-len(g.data) : at]
				case 2:
					p.Value = s[at-len(g.data) : at]
				}
			}
			if g.bad {
				return errRecord
			}
			*list = append(*list, p)
		case fEncryption:
			var err error
			if r.Encryption, err = envelope.Decode(f.data); err != nil {
				return errRecord
			}
		case fSealed:
			r.sealed = slices.Clone(f.data)
		case fACL:
			r.ACL = slices.Clone(f.data)
		case fRetentionMode:
			mode = f.u
		case fRetentionTime:
			r.Retention.Until = time.UnixMilli(protowire.DecodeZigZag(f.u)).UTC()
		}
	}
	if f.bad {
		return errRecord
	}
	if r.Retention.Mode = RetentionMode(mode); r.Retention.Mode == RetentionNone {
		r.Retention.Until = time.Time{}
	}
	if !r.Multipart && !r.DeleteMarker {
		r.Parts = []Part{r.onlyPart()}
	}
	return nil
}

func appendETag(b []byte, md5 [16]byte, parts int) []byte {
	b = hex.AppendEncode(b, md5[:])
	if parts > 0 {
		b = strconv.AppendInt(append(b, '-'), int64(parts), 10)
	}
	return b
}

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

func appendPart(b []byte, p *Part) []byte {
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

func decodePart(p *Part, raw []byte) error {
	f := fields{b: raw}
	for f.next() {
		want := protowire.VarintType
		if f.num == pMD5 || f.num == pChecksum || f.num == pBlob || f.num == pSealed {
			want = protowire.BytesType
		}
		if f.num <= pSealed && !f.is(want) {
			return errRecord
		}
		switch f.num {
		case pNumber:
			p.Number = int(f.u & 0xFFFF)
		case pSize:
			if f.u > 1<<62 {
				return errRecord
			}
			p.Size = int64(f.u)
		case pMD5:
			if len(f.data) != len(p.MD5) {
				return errRecord
			}
			p.MD5 = [16]byte(f.data)
		case pChecksum:
			p.Checksum = slices.Clone(f.data)
		case pModified:
			p.Modified = time.UnixMilli(int64(f.u & (1<<48 - 1))).UTC()
		case pBlob:
			if len(f.data) != len(p.Blob) {
				return errRecord
			}
			p.Blob = BlobID(f.data)
		case pShared:
			p.Shared = f.u != 0
		case pSealed:
			p.Sealed = slices.Clone(f.data)
		}
	}
	if f.bad {
		return errRecord
	}
	return nil
}

func appendPartList(b []byte, parts []Part) []byte {
	var buf [256]byte
	for i := range parts {
		b = appendBytes(b, 1, appendPart(buf[:0], &parts[i]))
	}
	return b
}

func decodePartList(raw []byte) ([]Part, error) {
	var parts []Part
	f := fields{b: raw}
	for f.next() {
		if f.num != 1 || f.typ != protowire.BytesType {
			continue
		}
		if len(parts) == MaxPart {
			return nil, errRecord
		}
		parts = append(parts, Part{})
		if err := decodePart(&parts[len(parts)-1], f.data); err != nil {
			return nil, err
		}
	}
	if f.bad {
		return nil, errRecord
	}
	return parts, nil
}

// Fields of a bucket record.
const (
	bID         = 1
	bCreated    = 2 // ms since 1970
	bOwner      = 3
	bVersioning = 4
	bLock       = 5
	bMode       = 6
	bDays       = 7
	bYears      = 8
	bConfig     = 9
	bRevision   = 10
	bMaxBytes   = 11
	bMaxVers    = 12
)

func appendBucket(b []byte, k *Bucket) []byte {
	b = appendUint(b, bID, k.ID)
	b = appendUint(b, bCreated, uint64(max(0, k.Created.UnixMilli())))
	b = appendBytes(b, bOwner, k.Owner)
	b = appendUint(b, bVersioning, uint64(k.Versioning))
	b = appendUint(b, bLock, boolUint(k.ObjectLock))
	b = appendUint(b, bMode, uint64(k.Retention.Mode))
	b = appendUint(b, bDays, uint64(k.Retention.Days))
	b = appendUint(b, bYears, uint64(k.Retention.Years))
	names := make([]string, 0, len(k.Config))
	for name := range k.Config {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		b = appendPairs(b, bConfig, []Field{{name, string(k.Config[name])}})
	}
	b = appendUint(b, bRevision, k.Revision)
	b = appendUint(b, bMaxBytes, uint64(max(0, k.Quota.Bytes)))
	return appendUint(b, bMaxVers, uint64(max(0, k.Quota.Versions)))
}

func decodeBucket(name string, raw []byte) (*Bucket, error) {
	k := &Bucket{Name: name, Config: map[string][]byte{}}
	f := fields{b: raw}
	for f.next() {
		want := protowire.VarintType
		if f.num == bOwner || f.num == bConfig {
			want = protowire.BytesType
		}
		if f.num <= bMaxVers && !f.is(want) {
			return nil, errRecord
		}
		switch f.num {
		case bID:
			k.ID = f.u
		case bCreated:
			k.Created = time.UnixMilli(int64(f.u & (1<<48 - 1))).UTC()
		case bOwner:
			k.Owner = string(f.data)
		case bVersioning:
			k.Versioning = Versioning(f.u)
		case bLock:
			k.ObjectLock = f.u != 0
		case bMode:
			k.Retention.Mode = RetentionMode(f.u)
		case bDays:
			k.Retention.Days = int(f.u & (1<<31 - 1))
		case bYears:
			k.Retention.Years = int(f.u & (1<<31 - 1))
		case bConfig:
			var name string
			value := []byte{}
			g := fields{b: f.data}
			for g.next() {
				switch {
				case g.num == 1 && g.typ == protowire.BytesType:
					name = string(g.data)
				case g.num == 2 && g.typ == protowire.BytesType:
					value = slices.Clone(g.data)
				}
			}
			if g.bad {
				return nil, errRecord
			}
			k.Config[name] = value
		case bRevision:
			k.Revision = f.u
		case bMaxBytes:
			k.Quota.Bytes = int64(f.u & (1<<63 - 1))
		case bMaxVers:
			k.Quota.Versions = int64(f.u & (1<<63 - 1))
		}
	}
	if f.bad || k.ID == 0 {
		return nil, errRecord
	}
	return k, nil
}

// usageBytes is the stored form of counters: three varints, zigzag.
func appendUsage(b []byte, u Usage) []byte {
	for _, v := range [...]int64{u.Objects, u.Versions, u.Bytes} {
		b = protowire.AppendVarint(b, protowire.EncodeZigZag(v))
	}
	return b
}

func parseUsage(b []byte) (u Usage, rest []byte, ok bool) {
	for _, p := range [...]*int64{&u.Objects, &u.Versions, &u.Bytes} {
		v, n := protowire.ConsumeVarint(b)
		if n < 0 {
			return u, nil, false
		}
		*p = protowire.DecodeZigZag(v)
		b = b[n:]
	}
	return u, b, true
}

func parseUint64(b []byte) (uint64, error) {
	if len(b) != 8 {
		return 0, errRecord
	}
	return binary.BigEndian.Uint64(b), nil
}
