package record

import (
	"encoding/hex"
	"slices"
	"strconv"
	"time"

	"google.golang.org/protobuf/encoding/protowire"

	"firn/hlc"
	"firn/object/envelope"
)

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
	fLocation      = 25
	fKeepUntil     = 26 // ms since 1970
)

// Flags of a version, as a Listed has them.
const (
	FlagDeleteMarker = 1 << iota
	FlagNull
	FlagMultipart
	flagLegalHold
)

// MaxRecord bounds a version's record in bytes. Doors keep headers, metadata, tags and ACL far below it.
const MaxRecord = 256 << 10

// Append appends r's stored form to b.
func Append(b []byte, r *Record) []byte {
	b = appendFixed(b, fClock, r.Clock)
	b = appendUint(b, fSite, uint64(r.Site))
	var flags uint64
	for _, f := range [...]struct {
		on  bool
		bit uint64
	}{
		{r.DeleteMarker, FlagDeleteMarker}, {r.Null, FlagNull}, {r.Multipart, FlagMultipart}, {r.LegalHold, flagLegalHold},
	} {
		if f.on {
			flags |= f.bit
		}
	}
	b = appendUint(b, fFlags, flags)
	b = appendUint(b, fSize, uint64(r.Size))
	if !r.DeleteMarker {
		b = appendBytes(b, fMD5, r.MD5[:])
	}
	b = appendUint(b, fETagParts, uint64(r.ETagParts))
	b = appendBytes(b, fOwner, r.Owner)
	b = appendBytes(b, fClass, r.StorageClass)
	b = appendUint(b, fSumKind, uint64(r.Checksum.Algorithm)|uint64(r.Checksum.Type)<<4)
	b = appendBytes(b, fSumValue, r.Checksum.Value)
	b = appendUint(b, fSumParts, uint64(r.Checksum.Parts))
	b = appendFixed(b, fData, r.Data)
	if r.Blob != (BlobID{}) {
		b = appendBytes(b, fBlob, r.Blob[:])
	}
	b = appendUint(b, fBlobShared, boolUint(r.Shared))
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
	b = appendBytes(b, fSealed, r.Sealed)
	if r.Location != nil {
		var buf [256]byte
		b = appendBytes(b, fLocation, appendLocation(buf[:0], r.Location))
	}
	return appendTime(b, fKeepUntil, r.KeepUntil)
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

// Decode reads a stored version into r, whose Bucket, Key and Latest stay as they are. All strings share
// one allocation.
func Decode(r *Record, raw []byte) error {
	if len(raw) > MaxRecord {
		return ErrBroken
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
			if len(f.data) == len(r.MD5) && f.is(protowire.BytesType) {
				r.MD5 = [16]byte(f.data)
			}
		case fETagParts:
			if f.is(protowire.VarintType) {
				r.ETagParts = int(f.u & 0xFFFF)
			}
		}
		if f.num > fETagParts {
			break
		}
	}
	if f.bad {
		return ErrBroken
	}
	r.DeleteMarker = flags&FlagDeleteMarker != 0
	r.Null = flags&FlagNull != 0
	r.Multipart = flags&FlagMultipart != 0
	r.LegalHold = flags&flagLegalHold != 0
	etagAt := len(all)
	if !r.DeleteMarker {
		all = AppendETag(all, r.MD5, r.ETagParts)
	}
	idAt := len(all)
	if !r.Null {
		all = r.Order().AppendID(all)
	}
	s := string(all)
	r.ETag, r.ID = s[etagAt:idAt], s[idAt:]
	if r.Null {
		r.ID = NullID
	}
	r.Modified = hlc.Time(r.Clock).Wall()

	str := func(b, rest []byte) string { // the piece of s that is b, found by what follows it in raw
		end := len(raw) - len(rest)
		return s[end-len(b) : end]
	}
	f = fields{b: raw}
	for f.next() {
		switch f.num {
		case fSize, fSite, fFlags, fETagParts, fSumKind, fSumParts, fBlobShared, fRetentionMode, fRetentionTime, fKeepUntil:
			if !f.is(protowire.VarintType) {
				return ErrBroken
			}
		case fClock, fData:
			if !f.is(protowire.Fixed64Type) {
				return ErrBroken
			}
		case fMD5, fOwner, fClass, fSumValue, fBlob, fBLAKE3, fVector, fHeader, fMetadata, fTag, fACL, fEncryption, fSealed, fLocation:
			if !f.is(protowire.BytesType) {
				return ErrBroken
			}
		}
		switch f.num {
		case fMD5:
			if len(f.data) != len(r.MD5) {
				return ErrBroken
			}
		case fSize:
			if f.u > 1<<62 {
				return ErrBroken
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
			r.Data = f.u
		case fBlob:
			if len(f.data) != len(r.Blob) {
				return ErrBroken
			}
			r.Blob = BlobID(f.data)
		case fBlobShared:
			r.Shared = f.u != 0
		case fBLAKE3:
			if len(f.data) != 32 {
				return ErrBroken
			}
			r.BLAKE3 = [32]byte(f.data)
		case fVector:
			var ok bool
			if r.Vector, ok = parseVector(f.data); !ok {
				return ErrBroken
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
				return ErrBroken
			}
			*list = append(*list, p)
		case fEncryption:
			var err error
			if r.Encryption, err = envelope.Decode(f.data); err != nil {
				return ErrBroken
			}
		case fLocation:
			var err error
			if r.Location, err = decodeLocation(f.data); err != nil {
				return err
			}
		case fKeepUntil:
			r.KeepUntil = time.UnixMilli(int64(f.u & (1<<48 - 1))).UTC()
		case fSealed:
			r.Sealed = slices.Clone(f.data)
		case fACL:
			r.ACL = slices.Clone(f.data)
		case fRetentionMode:
			mode = f.u
		case fRetentionTime:
			r.Retention.Until = time.UnixMilli(protowire.DecodeZigZag(f.u)).UTC()
		}
	}
	if f.bad {
		return ErrBroken
	}
	if r.Retention.Mode = RetentionMode(mode); r.Retention.Mode == RetentionNone {
		r.Retention.Until = time.Time{}
	}
	if !r.Multipart && !r.DeleteMarker {
		r.Parts = []Part{r.OnlyPart()}
	}
	return nil
}

// AppendETag appends the ETag that an MD5 and a number of parts make, 0 for a plain MD5.
func AppendETag(b []byte, md5 [16]byte, parts int) []byte {
	b = hex.AppendEncode(b, md5[:])
	if parts > 0 {
		b = strconv.AppendInt(append(b, '-'), int64(parts), 10)
	}
	return b
}

// Listed is what a listing shows of a version. Its slices alias the record.
type Listed struct {
	Clock     uint64
	Site      uint32
	Flags     uint64
	Size      int64
	MD5       []byte
	ETagParts int
	Owner     []byte
	Class     []byte
	SumKind   uint64
}

// VersionAt returns bucket, object key and version id of the version that is stored as v under k.
func VersionAt(k, v []byte) (bucket uint64, key, versionID string, err error) {
	if bucket, key, err = ParseVersionKey(k); err != nil {
		return 0, "", "", err
	}
	var l Listed
	if err := DecodeListed(&l, v); err != nil {
		return 0, "", "", err
	}
	if l.Flags&FlagNull != 0 {
		return bucket, key, NullID, nil
	}
	return bucket, key, MakeOrder(l.Clock, l.Site).String(), nil
}

// DecodeListed reads the first fields of a record, up to the last a listing needs.
func DecodeListed(v *Listed, raw []byte) error {
	*v = Listed{}
	f := fields{b: raw}
	for f.next() {
		if f.num > fLastListed {
			return nil
		}
		want := protowire.VarintType
		switch f.num {
		case fClock:
			want = protowire.Fixed64Type
		case fMD5, fOwner, fClass:
			want = protowire.BytesType
		}
		if !f.is(want) {
			return ErrBroken
		}
		switch f.num {
		case fClock:
			v.Clock = f.u
		case fSite:
			v.Site = uint32(f.u)
		case fFlags:
			v.Flags = f.u
		case fSize:
			v.Size = int64(f.u & (1<<62 - 1))
		case fMD5:
			if len(f.data) != 16 {
				return ErrBroken
			}
			v.MD5 = f.data
		case fETagParts:
			v.ETagParts = int(f.u & 0xFFFF)
		case fOwner:
			v.Owner = f.data
		case fClass:
			v.Class = f.data
		case fSumKind:
			v.SumKind = f.u
		}
	}
	if f.bad {
		return ErrBroken
	}
	return nil
}
