package record

import (
	"bytes"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/encoding/protowire"
)

func fullRecord() *Record {
	r := &Record{
		Version: Version{
			Size: 5, Clock: 1 << 50, Site: 7, Owner: "owner", StorageClass: "COLD", BLAKE3: [32]byte{1},
			Headers: []Field{{"Content-Type", "x"}, {"Empty", ""}}, Metadata: []Field{{"k", "v"}},
			Tags: []Field{{"t", "u"}, {"", ""}}, ACL: []byte("acl"), LegalHold: true,
			Checksum:  Checksum{Algorithm: ChecksumSHA256, Type: ChecksumComposite, Value: make([]byte, 32), Parts: 3},
			Retention: Retention{Mode: RetentionCompliance, Until: time.UnixMilli(1_800_000_000_000).UTC()},
			Vector:    map[uint32]uint64{7: 3, 9: 1},
			Location: &Location{
				ID: BlobID{8}, Tier: "cold", Key: "a/b", Since: time.UnixMilli(1_800_000_000_001).UTC(), Shared: true,
				LocalUntil: time.UnixMilli(1_900_000_000_000).UTC(), Wanted: time.UnixMilli(2_000_000_000_000).UTC(),
			},
			KeepUntil: time.UnixMilli(1_900_000_000_002).UTC(),
		},
		MD5: [16]byte{2}, ETagParts: 3, Data: 99, Blob: BlobID{4}, Shared: true,
	}
	return r
}

func TestRecordRoundTrip(t *testing.T) {
	for name, fn := range map[string]func(*Record){
		"full":      func(*Record) {},
		"null":      func(r *Record) { r.Null = true },
		"marker":    func(r *Record) { *r = Record{Version: Version{DeleteMarker: true, Clock: 1, Site: 1}} },
		"multipart": func(r *Record) { r.Multipart = true },
		"local":     func(r *Record) { r.Location = nil },
		"only away": func(r *Record) { r.Location = &Location{ID: BlobID{1}, Tier: "t", Key: "k"} },
		"least":     func(r *Record) { *r = Record{} },
		"long":      func(r *Record) { r.Metadata[0].Value = strings.Repeat("x", 2000) },
	} {
		r := fullRecord()
		fn(r)
		raw := Append(nil, r)
		var got Record
		if err := Decode(&got, raw); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if again := Append(nil, &got); !bytes.Equal(again, raw) {
			t.Errorf("%s: %x, want %x", name, again, raw)
		}
		want := *r
		want.Finish()
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
		var skipped Record
		if err := Decode(&skipped, later); err != nil || !reflect.DeepEqual(skipped, got) {
			t.Errorf("%s: with fields of a later release: %v", name, err)
		}
	}
}

func FuzzRecord(f *testing.F) {
	f.Add(Append(nil, fullRecord()))
	f.Add(Append(nil, &Record{Version: Version{DeleteMarker: true, Clock: 5}}))
	f.Add([]byte{0xFF})
	f.Fuzz(func(t *testing.T, raw []byte) {
		var l Listed
		lerr := DecodeListed(&l, raw)
		var r Record
		if err := Decode(&r, raw); err != nil {
			return
		}
		if lerr != nil {
			t.Fatalf("a record that decodes cannot be listed: %v", lerr)
		}
		again := Append(nil, &r)
		var r2 Record
		if err := Decode(&r2, again); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(Append(nil, &r2), again) {
			t.Fatal("not stable")
		}
	})
}

func FuzzSmallRecords(f *testing.F) {
	f.Add(AppendPart(nil, &Part{Number: 3, Size: 5, Checksum: []byte{1}, Blob: BlobID{1}, Shared: true}))
	f.Add(AppendPartList(nil, []Part{{Number: 1}, {Number: 2, Size: 1}}))
	f.Add(AppendBucket(nil, &Bucket{ID: 3, Owner: "o", Config: map[string][]byte{"a": []byte("b"), "c": nil}, Created: time.UnixMilli(5)}))
	f.Add(AppendMutation(nil, &Mutation{Op: OpPut, Clock: 3, BucketID: 4, Bucket: "b", Key: "k", MD5: &[16]byte{}, Delta: Usage{1, -2, 3}}))
	f.Add(AppendMutation(nil, &Mutation{
		Op: OpMove, Key: "k", Null: true, Tier: "cold", Classes: []ClassUsage{{"COLD", Usage{Versions: -1, Bytes: -5}}},
	}))
	x := Export{Record: []byte("r"), Parts: []byte("p"), Outboards: [][]byte{nil, []byte("o")}}
	f.Add(x.Encode())
	c := Completed{At: 1, Bucket: 2, Key: "k", Version: []byte("v"), Parts: 9}
	f.Add(c.Encode())
	tier := TierBlob{ID: BlobID{1}, Tier: "cold", Key: "a/b", State: TierUsed, Clock: 5}
	f.Add(append(tier.RegisterKey()[:1], tier.Append(nil)...))
	f.Add(append(tier.QueueKey(), tier.QueueValue()...))
	tier.State, tier.Note = TierReserved, "note"
	f.Add(append(tier.RegisterKey()[:1], tier.Append(nil)...))
	f.Add(Label{"b", "k", "u", 3}.Encode())
	f.Fuzz(func(t *testing.T, raw []byte) {
		var p Part
		if DecodePart(&p, raw) == nil {
			var q Part
			if err := DecodePart(&q, AppendPart(nil, &p)); err != nil || !bytes.Equal(AppendPart(nil, &p), AppendPart(nil, &q)) {
				t.Fatalf("part: %+v, %+v, %v", p, q, err)
			}
		}
		if list, err := DecodePartList(raw); err == nil {
			if again, err := DecodePartList(AppendPartList(nil, list)); err != nil || len(again) != len(list) {
				t.Fatalf("part list: %v", err)
			}
		}
		if b, err := DecodeBucket("name", raw); err == nil {
			if c, err := DecodeBucket("name", AppendBucket(nil, b)); err != nil || !bytes.Equal(AppendBucket(nil, b), AppendBucket(nil, c)) {
				t.Fatalf("bucket: %v", err)
			}
		}
		var e Entry
		err := DecodeEntry(&e, raw)
		var got Usage
		var classes []ClassUsage
		derr := Deltas(raw, func(c Counter, u Usage) {
			if c.Class == "" {
				got = u
			} else {
				classes = append(classes, ClassUsage{c.Class, u})
			}
		})
		if err == nil && (derr != nil || got != e.Delta || !slices.Equal(classes, e.Classes)) {
			t.Fatalf("entry: deltas %+v %+v, %v; want %+v %+v", got, classes, derr, e.Delta, e.Classes)
		}
		for _, cut := range []int{1, 25, 30} { // as key and value
			if len(raw) < cut {
				continue
			}
			if b, err := DecodeTierBlob(raw[:cut], raw[cut:]); err == nil {
				if c, err := DecodeTierBlob(b.RegisterKey(), b.Append(nil)); err != nil || c != b {
					t.Fatalf("register: %+v, %+v, %v", b, c, err)
				}
			}
			if b, err := DecodeTierGarbage(raw[:cut], raw[cut:]); err == nil {
				if c, err := DecodeTierGarbage(b.QueueKey(), b.QueueValue()); err != nil || c != b {
					t.Fatalf("queue: %+v, %+v, %v", b, c, err)
				}
			}
		}
		if x, err := DecodeExport(raw); err == nil {
			if y, err := DecodeExport(x.Encode()); err != nil || !bytes.Equal(x.Encode(), y.Encode()) {
				t.Fatalf("export: %v", err)
			}
		}
		if c, err := DecodeCompleted(raw); err == nil {
			if d, err := DecodeCompleted(c.Encode()); err != nil || d.Key != c.Key || d.Parts != c.Parts {
				t.Fatalf("completed: %v", err)
			}
		}
		if l, err := DecodeLabel(raw); err == nil {
			if m, err := DecodeLabel(l.Encode()); err != nil || l != m {
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
		ea, eb := AppendEscaped(nil, a), AppendEscaped(nil, b)
		if got, want := bytes.Compare(ea, eb), strings.Compare(a, b); got != want {
			t.Fatalf("%q and %q compare %d, escaped %d", a, b, want, got)
		}
		if a != b && (bytes.HasPrefix(ea, eb) || bytes.HasPrefix(eb, ea)) {
			t.Fatalf("escaped %q and %q are prefixes", a, b)
		}
		o := MakeOrder(clock, site)
		key, rest, ok := Unescape(nil, append(ea, o[:]...))
		if !ok || string(key) != a || !bytes.Equal(rest, o[:]) {
			t.Fatalf("unescape: %q %x %v", key, rest, ok)
		}
		if got, ok := ParseOrder(o.String()); !ok || got != o {
			t.Fatalf("order %x parses to %x", o, got)
		}
		_, _, _ = Unescape(nil, []byte(b))
		_, _, _, _, _ = ParseExpiryKey([]byte(b))
		at := time.UnixMilli(int64(clock >> 16)).UTC()
		if t2, id, k2, o2, err := ParseExpiryKey(ExpiryKey(at, clock, a, o)); err != nil || !t2.Equal(at) || id != clock || k2 != a || o2 != o {
			t.Fatalf("expiry: %v %d %q %x %v", t2, id, k2, o2, err)
		}
		tb := TierBlob{ID: BlobID{1}, Tier: a, Key: b, State: TierFreed, Clock: clock}
		if got, err := DecodeTierBlob(tb.RegisterKey(), tb.Append(nil)); err != nil || got != tb {
			t.Fatalf("register: %+v, %v", got, err)
		}
		if got, err := DecodeTierGarbage(tb.QueueKey(), tb.QueueValue()); err != nil || got != tb {
			t.Fatalf("queue: %+v, %v", got, err)
		}
		_, _ = ParseOrder(b)
		_, _ = ParseUploadID(b)
		if s := Successor([]byte(a)); s != nil && (bytes.HasPrefix(s, []byte(a)) && a != "" || bytes.Compare(s, []byte(a)) <= 0) {
			t.Fatalf("successor of %q is %q", a, s)
		}
	})
}
