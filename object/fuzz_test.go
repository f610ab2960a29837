package object

import (
	"bytes"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/encoding/protowire"
)

func fullRecord() *record {
	r := &record{
		Version: Version{
			Size: 5, Clock: 1 << 50, Site: 7, Owner: "owner", StorageClass: "COLD", BLAKE3: [32]byte{1},
			Headers: []Field{{"Content-Type", "x"}, {"Empty", ""}}, Metadata: []Field{{"k", "v"}},
			Tags: []Field{{"t", "u"}, {"", ""}}, ACL: []byte("acl"), LegalHold: true,
			Checksum:  Checksum{Algorithm: ChecksumSHA256, Type: ChecksumComposite, Value: make([]byte, 32), Parts: 3},
			Retention: Retention{Mode: RetentionCompliance, Until: time.UnixMilli(1_800_000_000_000).UTC()},
			Vector:    map[uint32]uint64{7: 3, 9: 1},
		},
		md5: [16]byte{2}, nparts: 3, data: 99, blob: BlobID{4}, shared: true,
	}
	return r
}

func TestRecordRoundTrip(t *testing.T) {
	for name, fn := range map[string]func(*record){
		"full":      func(*record) {},
		"null":      func(r *record) { r.null = true },
		"marker":    func(r *record) { *r = record{Version: Version{DeleteMarker: true, Clock: 1, Site: 1}} },
		"multipart": func(r *record) { r.Multipart = true },
		"least":     func(r *record) { *r = record{} },
		"long":      func(r *record) { r.Metadata[0].Value = strings.Repeat("x", 2000) },
	} {
		r := fullRecord()
		fn(r)
		raw := appendRecord(nil, r)
		var got record
		if err := decodeRecord(&got, raw); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if again := appendRecord(nil, &got); !bytes.Equal(again, raw) {
			t.Errorf("%s: %x, want %x", name, again, raw)
		}
		want := *r
		want.finish()
		want.Modified = got.Modified
		if len(want.Parts) > 0 {
			want.Parts[0].Modified = got.Modified
		}
		if !reflect.DeepEqual(want, got) {
			t.Errorf("%s: %s", name, cmp.Diff(want.Version, got.Version))
		}
		// A field of a later release is skipped.
		later := protowire.AppendVarint(protowire.AppendTag(bytes.Clone(raw), 900, protowire.VarintType), 5)
		later = protowire.AppendBytes(protowire.AppendTag(later, 901, protowire.BytesType), []byte("new"))
		var skipped record
		if err := decodeRecord(&skipped, later); err != nil || !reflect.DeepEqual(skipped, got) {
			t.Errorf("%s: with fields of a later release: %v", name, err)
		}
	}
}

func FuzzRecord(f *testing.F) {
	f.Add(appendRecord(nil, fullRecord()))
	f.Add(appendRecord(nil, &record{Version: Version{DeleteMarker: true, Clock: 5}}))
	f.Add([]byte{0xFF})
	f.Fuzz(func(t *testing.T, raw []byte) {
		var l listed
		lerr := decodeListed(&l, raw)
		var r record
		if err := decodeRecord(&r, raw); err != nil {
			return
		}
		if lerr != nil {
			t.Fatalf("a record that decodes cannot be listed: %v", lerr)
		}
		again := appendRecord(nil, &r)
		var r2 record
		if err := decodeRecord(&r2, again); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(appendRecord(nil, &r2), again) {
			t.Fatal("not stable")
		}
	})
}

func FuzzSmallRecords(f *testing.F) {
	f.Add(appendPart(nil, &Part{Number: 3, Size: 5, Checksum: []byte{1}, Blob: BlobID{1}, Shared: true}))
	f.Add(appendPartList(nil, []Part{{Number: 1}, {Number: 2, Size: 1}}))
	f.Add(appendBucket(nil, &Bucket{ID: 3, Owner: "o", Config: map[string][]byte{"a": []byte("b"), "c": nil}, Created: time.UnixMilli(5)}))
	f.Add(appendMutation(nil, &mutation{op: OpPut, clock: 3, bucketID: 4, bucket: "b", key: "k", md5: &[16]byte{}, delta: Usage{1, -2, 3}}))
	c := completed{at: 1, bucket: 2, key: "k", version: []byte("v"), parts: 9}
	f.Add(c.encode())
	f.Add(label{"b", "k", "u", 3}.encode())
	f.Fuzz(func(t *testing.T, raw []byte) {
		var p Part
		if decodePart(&p, raw) == nil {
			var q Part
			if err := decodePart(&q, appendPart(nil, &p)); err != nil || !bytes.Equal(appendPart(nil, &p), appendPart(nil, &q)) {
				t.Fatalf("part: %+v, %+v, %v", p, q, err)
			}
		}
		if list, err := decodePartList(raw); err == nil {
			if again, err := decodePartList(appendPartList(nil, list)); err != nil || len(again) != len(list) {
				t.Fatalf("part list: %v", err)
			}
		}
		if b, err := decodeBucket("name", raw); err == nil {
			if c, err := decodeBucket("name", appendBucket(nil, b)); err != nil || !bytes.Equal(appendBucket(nil, b), appendBucket(nil, c)) {
				t.Fatalf("bucket: %v", err)
			}
		}
		var e Entry
		err := decodeEntry(&e, raw)
		if _, d, derr := entryDelta(raw); err == nil && (derr != nil || d != e.Delta) {
			t.Fatalf("entry: delta %+v, %v; want %+v", d, derr, e.Delta)
		}
		if c, err := decodeCompleted(raw); err == nil {
			if d, err := decodeCompleted(c.encode()); err != nil || d.key != c.key || d.parts != c.parts {
				t.Fatalf("completed: %v", err)
			}
		}
		if l, err := decodeLabel(raw); err == nil {
			if m, err := decodeLabel(l.encode()); err != nil || l != m {
				t.Fatalf("label: %v", err)
			}
		}
	})
}

func FuzzKeys(f *testing.F) {
	f.Add("a", "b", uint64(5), uint32(1))
	f.Add("a\x00", "a", uint64(0), uint32(0))
	f.Add("a\x00\xff", "a\x00\x01", uint64(1<<63), uint32(1<<31))
	f.Fuzz(func(t *testing.T, a, b string, clock uint64, site uint32) {
		ea, eb := appendEscaped(nil, a), appendEscaped(nil, b)
		if got, want := bytes.Compare(ea, eb), strings.Compare(a, b); got != want {
			t.Fatalf("%q and %q compare %d, escaped %d", a, b, want, got)
		}
		if a != b && (bytes.HasPrefix(ea, eb) || bytes.HasPrefix(eb, ea)) {
			t.Fatalf("escaped %q and %q are prefixes", a, b)
		}
		o := makeOrder(clock, site)
		key, rest, ok := unescape(nil, append(ea, o[:]...))
		if !ok || string(key) != a || !bytes.Equal(rest, o[:]) {
			t.Fatalf("unescape: %q %x %v", key, rest, ok)
		}
		if got, ok := parseOrder(o.String()); !ok || got != o {
			t.Fatalf("order %x parses to %x", o, got)
		}
		_, _, _ = unescape(nil, []byte(b))
		_, _ = parseOrder(b)
		_, _ = parseUploadID(b)
		if s := successor([]byte(a)); s != nil && (bytes.HasPrefix(s, []byte(a)) && a != "" || bytes.Compare(s, []byte(a)) <= 0) {
			t.Fatalf("successor of %q is %q", a, s)
		}
	})
}
