package object

import (
	"bytes"
	"crypto/md5"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"firn/object/digest"
	"firn/object/record"
	"firn/vfs"
)

func (f *fixture) part(key, id string, n int, content string) *record.Part {
	f.t.Helper()
	p, err := f.PutPart(f.t.Context(), "bucket", key, id, n, strings.NewReader(content), PutOptions{Size: int64(len(content))})
	if err != nil {
		f.t.Fatal(err)
	}
	return p
}

func listed1(parts ...*record.Part) []CompletePart {
	var out []CompletePart
	for _, p := range parts {
		out = append(out, CompletePart{Number: p.Number, ETag: hex.EncodeToString(p.MD5[:])})
	}
	return out
}

func multipartETag(contents ...string) string {
	h := md5.New()
	for _, c := range contents {
		sum := md5.Sum([]byte(c))
		h.Write(sum[:])
	}
	return fmt.Sprintf("%x-%d", h.Sum(nil), len(contents))
}

func TestMultipart(t *testing.T) {
	f := newFixture(t, vfs.NewMem(), Options{})
	ctx := t.Context()
	f.bucket("bucket", BucketOptions{})
	f.put("bucket", "k", "before")
	id, err := f.CreateUpload(ctx, "bucket", "k", PutOptions{Owner: "me", Metadata: []record.Field{{Name: "a", Value: "b"}}, StorageClass: "COLD"})
	if err != nil {
		t.Fatal(err)
	}
	c1, c2, c3 := big(MinPart), big(MinPart+3), "tail"
	f.part("k", id, 1, "replaced")
	p1 := f.part("k", id, 1, c1)
	p5 := f.part("k", id, 5, c2)
	p7 := f.part("k", id, 7, "not listed")
	p10 := f.part("k", id, 10, c3)
	if info, err := f.Upload(ctx, "bucket", "k", id); err != nil || info.Options.Owner != "me" || info.Options.StorageClass != "COLD" {
		t.Fatalf("%+v, %v", info, err)
	}
	parts, more, err := f.ListParts(ctx, "bucket", "k", id, 1, 2)
	if err != nil || !more || len(parts) != 2 || parts[0].Number != 5 || parts[1].Number != 7 {
		t.Fatalf("%+v %v %v", parts, more, err)
	}
	if d := cmp.Diff(*p7, parts[1]); d != "" {
		t.Fatal(d)
	}
	f.want("bucket", "k", "", "before")
	f.check()
	complete := func(parts []CompletePart, o CompleteOptions) (*record.Version, error) {
		return f.CompleteUpload(ctx, "bucket", "k", id, parts, o)
	}
	good := listed1(p1, p5, p10)
	bad := slices.Clone(good)
	bad[1].ETag = good[0].ETag
	for name, tt := range map[string]struct {
		parts []CompletePart
		o     CompleteOptions
		want  error
	}{
		"order":     {listed1(p5, p1), CompleteOptions{Size: -1}, ErrInvalidPartOrder},
		"twice":     {listed1(p1, p1), CompleteOptions{Size: -1}, ErrInvalidPartOrder},
		"etag":      {bad, CompleteOptions{Size: -1}, ErrInvalidPart},
		"absent":    {append(slices.Clone(good), CompletePart{Number: 11, ETag: good[0].ETag}), CompleteOptions{Size: -1}, ErrInvalidPart},
		"none":      {nil, CompleteOptions{Size: -1}, ErrInvalidPart},
		"small":     {listed1(p1, p7, p10), CompleteOptions{Size: -1}, ErrPartTooSmall},
		"size":      {good, CompleteOptions{Size: 17}, ErrIncompleteBody},
		"condition": {good, CompleteOptions{Size: -1, Precondition: func(*record.Version) error { return ErrPrecondition }}, ErrPrecondition},
	} {
		if _, err := complete(tt.parts, tt.o); !errors.Is(err, tt.want) {
			t.Errorf("%s: %v, want %v", name, err, tt.want)
		}
	}
	v, err := complete(good, CompleteOptions{Size: int64(len(c1 + c2 + c3))})
	if err != nil {
		t.Fatal(err)
	}
	if v.ETag != multipartETag(c1, c2, c3) || v.Owner != "me" || len(v.Parts) != 3 || v.StorageClass != "COLD" {
		t.Fatalf("%+v", v)
	}
	f.want("bucket", "k", "", c1+c2+c3)
	again, err := complete(good, CompleteOptions{Size: -1})
	if err != nil || again.ETag != v.ETag || again.Clock != v.Clock {
		t.Fatalf("%+v, %v", again, err)
	}
	if _, err := complete(listed1(p1), CompleteOptions{Size: -1}); !errors.Is(err, ErrNoSuchUpload) {
		t.Fatal(err)
	}
	if _, err := f.Upload(ctx, "bucket", "k", id); !errors.Is(err, ErrNoSuchUpload) {
		t.Fatal(err)
	}
	f.reopen()
	h, err := f.Head(ctx, "bucket", "k", "")
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(v, h); d != "" {
		t.Fatal(d)
	}
	o, err := f.Open(ctx, "bucket", "k", "")
	if err != nil {
		t.Fatal(err)
	}
	defer o.Close()
	whole := c1 + c2 + c3
	for _, r := range [][2]int64{{0, 10}, {MinPart - 5, 10}, {MinPart, 1}, {2*MinPart + 1, 6}, {int64(len(whole)), 0}, {MinPart - 1, MinPart + 6}} {
		var b bytes.Buffer
		if n, err := o.WriteRange(ctx, &b, r[0], r[1]); err != nil || n != r[1] || b.String() != whole[r[0]:r[0]+r[1]] {
			t.Fatalf("range %v: %d, %v", r, n, err)
		}
		p := make([]byte, r[1])
		if n, err := o.ReadAt(p, r[0]); int64(n) != r[1] || r[1] > 0 && err != nil || string(p) != whole[r[0]:r[0]+r[1]] {
			t.Fatalf("read at %v: %d, %v", r, n, err)
		}
	}
	if _, err := o.WriteRange(ctx, &bytes.Buffer{}, 1, int64(len(whole))); !errors.Is(err, ErrInvalidRange) {
		t.Fatal(err)
	}
	// An open object stays readable when it is deleted; then its parts go.
	f.delete("bucket", "k", "")
	if n, err := f.Collect(ctx); err != nil || n != 2 { // the replaced part 1 and part 7
		t.Fatal(n, err)
	}
	var b bytes.Buffer
	if _, err := o.WriteRange(ctx, &b, 0, int64(len(whole))); err != nil || b.String() != whole {
		t.Fatal(err)
	}
	if err := o.Close(); err != nil {
		t.Fatal(err)
	}
	if n, err := f.Collect(ctx); err != nil || n != 3 {
		t.Fatal(n, err)
	}
	if s := f.check(); s.Blobs != 0 || s.Uploads != 0 {
		t.Fatalf("%+v", s)
	}
}

func TestMultipartChecksums(t *testing.T) {
	f := newFixture(t, vfs.NewMem(), Options{})
	ctx := t.Context()
	f.bucket("bucket", BucketOptions{})
	contents := []string{big(MinPart), big(MinPart + 1), big(100)}
	for _, alg := range []record.ChecksumAlgorithm{record.ChecksumCRC32, record.ChecksumCRC32C, record.ChecksumCRC64NVME, record.ChecksumSHA1, record.ChecksumSHA256} {
		for _, kind := range []record.ChecksumType{record.ChecksumFullObject, record.ChecksumComposite} {
			da := digest.Algorithm(alg)
			if kind == record.ChecksumFullObject && !da.Combinable() {
				continue
			}
			id, err := f.CreateUpload(ctx, "bucket", "k", PutOptions{Checksum: &ChecksumRequest{Algorithm: alg, Type: kind}})
			if err != nil {
				t.Fatal(err)
			}
			var list []CompletePart
			var sums []byte
			for i, c := range contents {
				p := f.part("k", id, i+1, c)
				if want := digest.Of([]byte(c), da).Checksum; !bytes.Equal(p.Checksum, want) {
					t.Fatalf("algorithm %d part %d: %x, want %x", alg, i, p.Checksum, want)
				}
				sums = append(sums, p.Checksum...)
				list = append(list, CompletePart{Number: i + 1, ETag: etag(c), Checksum: p.Checksum})
			}
			want := digest.Of([]byte(strings.Join(contents, "")), da).Checksum
			if kind == record.ChecksumComposite {
				want = digest.Of(sums, da).Checksum
			}
			other := ChecksumRequest{Algorithm: record.ChecksumCRC32 + record.ChecksumSHA256 - alg}
			if other.Algorithm != alg {
				if _, err := f.PutPart(ctx, "bucket", "k", id, 9, strings.NewReader("x"), PutOptions{Size: 1, Checksum: &other}); !errors.Is(err, ErrChecksumAlgorithm) {
					t.Fatal(err)
				}
			}
			if _, err := f.CompleteUpload(ctx, "bucket", "k", id, list, CompleteOptions{Size: -1, Checksum: []byte("wrong")}); !errors.Is(err, ErrBadChecksum) {
				t.Fatal(err)
			}
			wrong := slices.Clone(list)
			wrong[0].Checksum = []byte("wrong")
			if _, err := f.CompleteUpload(ctx, "bucket", "k", id, wrong, CompleteOptions{Size: -1}); !errors.Is(err, ErrInvalidPart) {
				t.Fatal(err)
			}
			v, err := f.CompleteUpload(ctx, "bucket", "k", id, list, CompleteOptions{Size: -1, Checksum: want})
			if err != nil {
				t.Fatal(err)
			}
			if v.Checksum.Algorithm != alg || v.Checksum.Type != kind || !bytes.Equal(v.Checksum.Value, want) ||
				(v.Checksum.Parts == len(list)) != (kind == record.ChecksumComposite) {
				t.Fatalf("algorithm %d type %d: %+v, want %x", alg, kind, v.Checksum, want)
			}
		}
	}
	f.check()
}

func TestUploadsListExpireAndAbort(t *testing.T) {
	f := newFixture(t, vfs.NewMem(), Options{})
	ctx := t.Context()
	f.bucket("bucket", BucketOptions{})
	var want []string
	for _, k := range []string{"a", "a\x00b", "b/1", "b/2", "c", "c", "d"} {
		id, err := f.CreateUpload(ctx, "bucket", k, PutOptions{})
		if err != nil {
			t.Fatal(err)
		}
		want = append(want, k+" "+id)
		f.part(k, id, 1, "x")
		f.now.advance(time.Minute)
	}
	list := func(o UploadListOptions) (got []string) {
		t.Helper()
		for {
			l, err := f.ListUploads(ctx, "bucket", o)
			if err != nil {
				t.Fatal(err)
			}
			for _, u := range l.Uploads {
				got = append(got, u.Key+" "+u.ID)
			}
			got = append(got, l.CommonPrefixes...)
			if n := len(l.Uploads) + len(l.CommonPrefixes); n > o.Limit {
				t.Fatalf("%d entries, limit %d", n, o.Limit)
			}
			if !l.Truncated {
				return got
			}
			o.KeyMarker, o.UploadIDMarker = l.NextKey, l.NextUploadID
		}
	}
	for limit := 1; limit < 9; limit++ {
		if got := list(UploadListOptions{Limit: limit}); !slices.Equal(got, want) {
			t.Fatalf("limit %d: %q, want %q", limit, got, want)
		}
		got := list(UploadListOptions{Limit: limit, Delimiter: "/"})
		slices.Sort(got)
		rolled := append(append(slices.Clone(want[:2]), "b/"), want[4:]...)
		slices.Sort(rolled)
		if !slices.Equal(got, rolled) {
			t.Fatalf("limit %d: %q, want %q", limit, got, rolled)
		}
		if got := list(UploadListOptions{Limit: limit, Prefix: "b/"}); !slices.Equal(got, want[2:4]) {
			t.Fatalf("limit %d: %q", limit, got)
		}
	}
	if err := f.AbortUpload(ctx, "bucket", "d", strings.Fields(want[6])[1]); err != nil {
		t.Fatal(err)
	}
	if err := f.AbortUpload(ctx, "bucket", "d", strings.Fields(want[6])[1]); !errors.Is(err, ErrNoSuchUpload) {
		t.Fatal(err)
	}
	if _, err := f.PutPart(ctx, "bucket", "d", strings.Fields(want[6])[1], 1, nil, PutOptions{}); !errors.Is(err, ErrNoSuchUpload) {
		t.Fatal(err)
	}
	f.now.advance(UploadMaxAge - 3*time.Minute - time.Second) // all but the last two that are left
	if err := f.expireUploads(ctx); err != nil {
		t.Fatal(err)
	}
	if got := list(UploadListOptions{Limit: 100}); !slices.Equal(got, want[4:6]) {
		t.Fatalf("%q, want %q", got, want[4:6])
	}
	if n, err := f.Collect(ctx); err != nil || n != 5 {
		t.Fatal(n, err)
	}
	f.check()
}

func TestCopy(t *testing.T) {
	for _, size := range []int{0, 10, InlineMax + 10} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			f := newFixture(t, vfs.NewMem(), Options{})
			ctx := t.Context()
			f.bucket("bucket", BucketOptions{})
			f.bucket("other", BucketOptions{})
			content := big(size)
			src := f.put("bucket", "src", content)
			cp := func(from, version, bucket, key string, o PutOptions) *record.Version {
				t.Helper()
				v, err := f.Copy(ctx, CopySource{Bucket: "bucket", Key: from, VersionID: version}, bucket, key, o)
				if err != nil {
					t.Fatal(err)
				}
				return v
			}
			v := cp("src", "", "other", "dst", PutOptions{Owner: "you", Metadata: []record.Field{{Name: "x", Value: "y"}}})
			if v.ETag != src.ETag || v.BLAKE3 != src.BLAKE3 || v.Owner != "you" || v.Size != src.Size || v.Clock == src.Clock {
				t.Fatalf("%+v", v)
			}
			h, err := f.Head(ctx, "other", "dst", "")
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(v, h); d != "" {
				t.Fatal(d)
			}
			cp("src", "", "bucket", "third", PutOptions{Checksum: &ChecksumRequest{Algorithm: record.ChecksumSHA256}})
			if h, err = f.Head(ctx, "bucket", "third", ""); err != nil || !bytes.Equal(h.Checksum.Value, digest.Of([]byte(content), digest.SHA256).Checksum) {
				t.Fatalf("%+v, %v", h, err)
			}
			s := f.check()
			if want := int64(size / InlineMax); s.Blobs != want {
				t.Fatalf("%d blobs, want %d", s.Blobs, want)
			}
			// Onto itself, as a change of metadata, in every state of versioning.
			for _, state := range []record.Versioning{record.VersioningOff, record.VersioningEnabled, record.VersioningSuspended} {
				if state != record.VersioningOff {
					f.versioning("bucket", state)
				}
				for range 2 {
					cp("src", "", "bucket", "src", PutOptions{Metadata: []record.Field{{Name: "n", Value: "1"}}})
				}
				cp("src", "null", "bucket", "src", PutOptions{Metadata: []record.Field{{Name: "n", Value: "2"}}})
				f.want("bucket", "src", "", content)
				f.check()
			}
			f.put("bucket", "third", "overwritten")
			f.reopen()
			for _, line := range f.versions("bucket", 100) {
				p := strings.Fields(line)
				f.delete("bucket", p[0], p[1])
				if _, err := f.Collect(ctx); err != nil {
					t.Fatal(err)
				}
				f.check()
			}
			f.want("other", "dst", "", content)
			f.delete("other", "dst", "")
			if _, err := f.Collect(ctx); err != nil {
				t.Fatal(err)
			}
			if s := f.check(); s.Blobs != 0 {
				t.Fatalf("%+v", s)
			}
			if _, err := f.Copy(ctx, CopySource{Bucket: "bucket", Key: "src"}, "other", "x", PutOptions{}); !errors.Is(err, ErrNoSuchKey) {
				t.Fatal(err)
			}
		})
	}
}

func TestCopyOfMultipartSharesItsParts(t *testing.T) {
	f := newFixture(t, vfs.NewMem(), Options{})
	ctx := t.Context()
	f.bucket("bucket", BucketOptions{})
	id, err := f.CreateUpload(ctx, "bucket", "k", PutOptions{})
	if err != nil {
		t.Fatal(err)
	}
	c1, c2 := big(MinPart), big(77)
	if _, err := f.CompleteUpload(ctx, "bucket", "k", id, listed1(f.part("k", id, 1, c1), f.part("k", id, 2, c2)), CompleteOptions{Size: -1}); err != nil {
		t.Fatal(err)
	}
	for _, dst := range []string{"copy", "k", "copy", "k"} {
		v, err := f.Copy(ctx, CopySource{Bucket: "bucket", Key: "k"}, "bucket", dst, PutOptions{})
		if err != nil || v.ETag != multipartETag(c1, c2) {
			t.Fatalf("%+v, %v", v, err)
		}
		if s := f.check(); s.Blobs != 2 {
			t.Fatalf("%+v", s)
		}
	}
	f.want("bucket", "copy", "", c1+c2)
	// Ranges of it as parts of another upload.
	id, err = f.CreateUpload(ctx, "bucket", "joined", PutOptions{})
	if err != nil {
		t.Fatal(err)
	}
	var parts []*record.Part
	for i, r := range [][2]int64{{3, MinPart}, {0, -1}, {MinPart - 2, 4}} {
		p, src, err := f.CopyPart(ctx, CopySource{Bucket: "bucket", Key: "k"}, r[0], r[1], "bucket", "joined", id, i+1, nil)
		if err != nil || src.Key != "k" {
			t.Fatal(err)
		}
		parts = append(parts, p)
	}
	if _, _, err := f.CopyPart(ctx, CopySource{Bucket: "bucket", Key: "k"}, MinPart, MinPart, "bucket", "joined", id, 9, nil); !errors.Is(err, ErrInvalidRange) {
		t.Fatal(err)
	}
	if _, err := f.CompleteUpload(ctx, "bucket", "joined", id, listed1(parts...), CompleteOptions{Size: -1}); err != nil {
		t.Fatal(err)
	}
	w := c1 + c2
	f.want("bucket", "joined", "", w[3:3+MinPart]+w+w[MinPart-2:MinPart+2])
	// Whole parts are shared, also twice into the same number.
	before := f.check().Blobs
	id, err = f.CreateUpload(ctx, "bucket", "parts", PutOptions{})
	if err != nil {
		t.Fatal(err)
	}
	parts = nil
	for i, r := range [][2]int64{{0, MinPart}, {0, MinPart}, {MinPart, 77}} {
		for range 2 {
			p, _, err := f.CopyPart(ctx, CopySource{Bucket: "bucket", Key: "k"}, r[0], r[1], "bucket", "parts", id, i+1, nil)
			if err != nil {
				t.Fatal(err)
			}
			parts = append(parts[:i], p)
			if s := f.check(); s.Blobs != before {
				t.Fatalf("%d blobs, before %d", s.Blobs, before)
			}
		}
	}
	if _, err := f.CompleteUpload(ctx, "bucket", "parts", id, listed1(parts...), CompleteOptions{Size: -1}); err != nil {
		t.Fatal(err)
	}
	f.want("bucket", "parts", "", c1+c1+c2)
	f.check()
	// An upload with a checksum the source does not have copies the bytes.
	id, err = f.CreateUpload(ctx, "bucket", "sum", PutOptions{Checksum: &ChecksumRequest{Algorithm: record.ChecksumCRC32}})
	if err != nil {
		t.Fatal(err)
	}
	p, _, err := f.CopyPart(ctx, CopySource{Bucket: "bucket", Key: "k"}, 0, MinPart, "bucket", "sum", id, 1, nil)
	if err != nil || !bytes.Equal(p.Checksum, digest.Of([]byte(c1), digest.CRC32).Checksum) {
		t.Fatalf("%+v, %v", p, err)
	}
	if err := f.AbortUpload(ctx, "bucket", "sum", id); err != nil {
		t.Fatal(err)
	}
	for _, k := range []string{"k", "parts", "joined", "copy"} {
		f.delete("bucket", k, "")
	}
	if _, err := f.Collect(ctx); err != nil {
		t.Fatal(err)
	}
	if s := f.check(); s.Blobs != 0 {
		t.Fatalf("%+v", s)
	}
}
