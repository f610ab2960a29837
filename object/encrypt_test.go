package object

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"firn"
	"firn/block"
	"firn/kv"
	"firn/object/blobs"
	"firn/object/check"
	"firn/object/envelope"
	"firn/object/record"
	"firn/seal"
	"firn/vfs"
)

// dataKey is the data key of all encrypted content in these tests: what keeps things apart must not be that.
func dataKey() *seal.Key { return &seal.Key{1, 2, 3} }

func encrypted(m envelope.Method) PutOptions {
	return PutOptions{Size: -1, DataKey: dataKey(), Encryption: envelope.New(envelope.Encryption{Method: m, Wrapped: []byte("wrapped")})}
}

func (f *fixture) putEncrypted(key, content string, m envelope.Method) *record.Version {
	f.t.Helper()
	v, err := f.Put(f.t.Context(), "bucket", key, strings.NewReader(content), encrypted(m))
	if err != nil {
		f.t.Fatal(err)
	}
	return v
}

// inFiles reports whether a file below dir holds p.
func inFiles(t *testing.T, dir, p string) bool {
	t.Helper()
	found := false
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := os.ReadFile(path)
		found = found || bytes.Contains(b, []byte(p))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// TestEncrypted stores content of all shapes and finds none of it on the disk.
func TestEncrypted(t *testing.T) {
	const marker = "the quick brown fox jumps over the lazy dog "
	t.Chdir(t.TempDir())
	f := newFixture(t, vfs.OS(), Options{})
	f.bucket("bucket", BucketOptions{})
	small, large := strings.Repeat(marker, 20), strings.Repeat(marker, 3000)
	for _, m := range []envelope.Method{envelope.Site, envelope.Service, envelope.Customer} {
		for name, c := range map[string]string{"empty": "", "small": small, "large": large} {
			key := fmt.Sprint(name, m)
			v := f.putEncrypted(key, c, m)
			if (v.ETag == etag(c)) != (m == envelope.Site) || v.BLAKE3 != [32]byte{} {
				t.Errorf("%s: ETag %s, BLAKE3 %x", key, v.ETag, v.BLAKE3)
			}
			f.want("bucket", key, "", c)
		}
	}
	ctx := t.Context()
	id, err := f.CreateUpload(ctx, "bucket", "multi", PutOptions{Encryption: encrypted(envelope.Customer).Encryption})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.PutPart(ctx, "bucket", "multi", id, 1, strings.NewReader(large), PutOptions{Size: -1}); !errors.Is(err, envelope.ErrNeedsKey) {
		t.Errorf("a part without the key: %v", err)
	}
	var list []CompletePart
	whole := strings.Repeat(large, MinPart/len(large)+1)
	for n, c := range []string{whole, small} {
		p, err := f.PutPart(ctx, "bucket", "multi", id, n+1, strings.NewReader(c), PutOptions{Size: -1, DataKey: dataKey()})
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, CompletePart{Number: n + 1, ETag: fmt.Sprintf("%x", p.MD5)})
	}
	// Completion needs no key: who completes an upload with the client's key does not send it again.
	if _, err := f.CompleteUpload(ctx, "bucket", "multi", id, list, CompleteOptions{Size: -1}); err != nil {
		t.Fatal(err)
	}
	f.want("bucket", "multi", "", whole+small)
	f.reopen()
	f.want("bucket", "multi", "", whole+small)
	f.want("bucket", "small1", "", small)
	sum, err := f.Check(ctx, check.Options{Read: true}, func(p check.Problem) error { return fmt.Errorf("%+v", p) })
	if err != nil || sum.Problems != 0 {
		t.Errorf("check without keys: %+v, %v", sum, err)
	}
	f.put("bucket", "plain", "in the clear, to know that the search finds what is there "+big(InlineMax))
	f.close()
	if inFiles(t, "data", marker) {
		t.Error("a file holds content in the clear")
	}
	if !inFiles(t, "data", "in the clear, to know") {
		t.Error("the search finds nothing")
	}
}

func TestEncryptedWrongKey(t *testing.T) {
	f := newFixture(t, vfs.NewMem(), Options{})
	f.bucket("bucket", BucketOptions{})
	for name, c := range map[string]string{"small": big(100), "large": big(InlineMax + 1)} {
		f.putEncrypted(name, c, envelope.Site)
		o, err := f.Open(t.Context(), "bucket", name, "")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := o.ReadAt(make([]byte, 1), 0); firn.KindOf(err) != firn.Denied {
			t.Errorf("%s: read before the key: %v", name, err)
		}
		if err := o.Unlock(nil); !errors.Is(err, envelope.ErrNeedsKey) {
			t.Errorf("%s: no key: %v", name, err)
		}
		if err := o.Unlock(&seal.Key{9}); !errors.Is(err, envelope.ErrWrongKey) {
			t.Errorf("%s: wrong key: %v", name, err)
		}
		if err := o.Unlock(dataKey()); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		p := make([]byte, 10)
		if _, err := o.ReadAt(p, 50); err != nil || string(p) != c[50:60] {
			t.Errorf("%s: %q, %v", name, p, err)
		}
		o.Close()
	}
}

func TestEncryptedCopies(t *testing.T) {
	f := newFixture(t, vfs.NewMem(), Options{})
	f.bucket("bucket", BucketOptions{})
	f.bucket("other", BucketOptions{})
	ctx := t.Context()
	small, large := big(100), big(InlineMax+1)
	f.put("bucket", "plain-small", small)
	f.put("bucket", "plain-large", large)
	for _, m := range []envelope.Method{envelope.Site, envelope.Service, envelope.Customer} {
		f.putEncrypted(fmt.Sprint("small", m), small, m)
		f.putEncrypted(fmt.Sprint("large", m), large, m)
	}
	all := []envelope.Method{envelope.None, envelope.Site, envelope.Service, envelope.Customer}
	for _, size := range []string{"small", "large"} {
		for _, from := range all {
			for _, to := range all {
				src := CopySource{Bucket: "bucket", Key: fmt.Sprint(size, from)}
				if from == envelope.None {
					src.Key = "plain-" + size
				} else {
					if _, err := f.Copy(ctx, src, "other", "none", PutOptions{}); !errors.Is(err, envelope.ErrNeedsKey) {
						t.Errorf("copy of %s without its key: %v", src.Key, err)
					}
					src.DataKey = dataKey()
				}
				var o PutOptions
				if to != envelope.None {
					o = encrypted(to)
				}
				key := fmt.Sprint(src.Key, "-", to)
				v, err := f.Copy(ctx, src, "other", key, o)
				if err != nil {
					t.Fatalf("%s: %v", key, err)
				}
				want := map[string]string{"small": small, "large": large}[size]
				f.want("other", key, "", want)
				if plain := to == envelope.None || to == envelope.Site; plain != (v.ETag == etag(want)) {
					t.Errorf("%s: ETag %s", key, v.ETag)
				}
				shared := size == "large" && v.Encryption.SharesWith(f.head("bucket", src.Key).Encryption)
				if v.Parts[0].Shared != shared {
					t.Errorf("%s: shared %v, want %v", key, v.Parts[0].Shared, shared)
				}
			}
		}
	}
	// The sources go; what shares their bytes stays.
	for _, k := range []string{"large1", "large2", "large3"} {
		if _, err := f.Delete(ctx, "bucket", k, "", DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := f.Collect(ctx); err != nil {
		t.Fatal(err)
	}
	f.want("other", "large2-3", "", large)

	id, err := f.CreateUpload(ctx, "bucket", "joined", PutOptions{Encryption: encrypted(envelope.Site).Encryption})
	if err != nil {
		t.Fatal(err)
	}
	for n, src := range []CopySource{
		{Bucket: "other", Key: "large1-1", DataKey: dataKey()}, {Bucket: "bucket", Key: "plain-large"},
	} {
		p, _, err := f.CopyPart(ctx, src, 0, -1, "bucket", "joined", id, n+1, dataKey())
		if err != nil {
			t.Fatal(err)
		}
		if p.Shared != (n == 0) {
			t.Errorf("part %d shared: %v", n+1, p.Shared)
		}
	}
	if _, err := f.CompleteUpload(ctx, "bucket", "joined", id, []CompletePart{{Number: 1, ETag: etag(large)}}, CompleteOptions{Size: -1}); err != nil {
		t.Fatal(err)
	}
	f.want("bucket", "joined", "", large)
}

func (f *fixture) head(bucket, key string) *record.Version {
	f.t.Helper()
	v, err := f.Head(f.t.Context(), bucket, key, "")
	if err != nil {
		f.t.Fatal(err)
	}
	return v
}

// TestEncryptedSwapped puts stored bytes and records in each other's place, with all sizes and checksums right: nothing
// opens as what it is not, under one data key.
func TestEncryptedSwapped(t *testing.T) {
	mem := vfs.NewMem()
	f := newFixture(t, mem, Options{})
	f.bucket("bucket", BucketOptions{})
	ctx := t.Context()
	for _, k := range []string{"a", "b"} {
		f.putEncrypted("large-"+k, strings.Repeat(k, InlineMax+1), envelope.Site)
		f.putEncrypted("small-"+k, strings.Repeat(k, 100), envelope.Site)
	}
	path := func(key string) string { return f.blobs.Path(blobs.ID(f.head("bucket", key).Parts[0].Blob)) }
	a, b := path("large-a"), path("large-b")
	for _, step := range [][2]string{{a, "tmp"}, {b, a}, {"tmp", b}} {
		if err := mem.Rename(step[0], step[1]); err != nil {
			t.Fatal(err)
		}
	}
	id := f.head("bucket", "large-a")
	var broken *block.CorruptError
	if _, err := f.get("bucket", "large-a", ""); firn.KindOf(err) != firn.Corrupt {
		t.Errorf("swapped files: %v", err)
	}
	r, err := f.blobs.OpenBlob(blobs.ID(id.Parts[0].Blob))
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	br, err := block.Open(r, "")
	if err != nil {
		t.Fatal(err)
	}
	if err := br.Verify(ctx, nil); errors.As(err, &broken) {
		t.Errorf("the file is damaged, which is not what is tested: %v", err)
	}

	rec := f.buckets.m["bucket"].rec.Load()
	read := func(key string) (r record.Record) {
		err := f.db.View(ctx, func(kr kv.Reader) error {
			v, err := f.current(kr, "bucket", key, record.CurrentKey(rec.ID, key))
			if err == nil {
				r = v.Record
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	write := func(key string, fn func(r *record.Record)) {
		r := read(key)
		fn(&r)
		ck := record.CurrentKey(rec.ID, key)
		if err := f.db.Update(ctx, func(tx kv.Tx) error { tx.Set(ck, record.Append(nil, &r)); return nil }, ck); err != nil {
			t.Fatal(err)
		}
	}
	other := read("small-b")
	for name, change := range map[string]func(r *record.Record){
		"another value":                     func(r *record.Record) { r.Data = other.Data },
		"another value and its key":         func(r *record.Record) { r.Data, r.Sealed = other.Data, other.Sealed },
		"another value, its key and salt":   func(r *record.Record) { r.Data, r.Sealed, r.Encryption = other.Data, other.Sealed, other.Encryption },
		"another version's salt":            func(r *record.Record) { r.Encryption = other.Encryption },
		"no encryption":                     func(r *record.Record) { r.Encryption = nil },
		"a whole record under another name": func(r *record.Record) { *r = other },
	} {
		was := read("small-a")
		write("small-a", change)
		if got, err := f.get("bucket", "small-a", ""); err == nil {
			t.Errorf("%s: read %.20q", name, got)
		}
		write("small-a", func(r *record.Record) { *r = was })
	}
	f.want("bucket", "small-a", "", strings.Repeat("a", 100))
}

func TestRewrap(t *testing.T) {
	f := newFixture(t, vfs.NewMem(), Options{})
	f.bucket("bucket", BucketOptions{})
	f.versioning("bucket", record.VersioningEnabled)
	ctx := t.Context()
	large := big(InlineMax + 1)
	f.put("bucket", "plain", "x")
	for range 3 {
		f.putEncrypted("k", large, envelope.Site)
	}
	f.putEncrypted("s", "small", envelope.Service)
	id, err := f.CreateUpload(ctx, "bucket", "m", PutOptions{Encryption: encrypted(envelope.Site).Encryption})
	if err != nil {
		t.Fatal(err)
	}
	written := f.blobs.Path(blobs.ID(f.head("bucket", "k").Parts[0].Blob))
	before, err := f.fs.Stat(written)
	if err != nil {
		t.Fatal(err)
	}
	anew := func(_ context.Context, bucket, key string, e *envelope.Encryption) ([]byte, error) {
		if bucket != "bucket" || key != "k" && key != "s" && key != "m" {
			t.Errorf("asked for %s/%s", bucket, key)
		}
		if string(e.Wrapped) == "anew" {
			return nil, nil
		}
		return []byte("anew"), nil
	}
	for _, want := range []RewrapSummary{{Records: 5, Rewrapped: 5}, {Records: 5}} {
		if sum, err := f.Rewrap(ctx, anew); err != nil || sum != want {
			t.Errorf("%+v, %v", sum, err)
		}
	}
	f.reopen()
	v := f.head("bucket", "k")
	if string(v.Encryption.Wrapped) != "anew" {
		t.Errorf("wrapped %q", v.Encryption.Wrapped)
	}
	f.want("bucket", "k", "", large)
	f.want("bucket", "s", "", "small")
	if u, err := f.Upload(ctx, "bucket", "m", id); err != nil || string(u.Options.Encryption.Wrapped) != "anew" {
		t.Errorf("upload: %v", err)
	}
	if after, err := f.fs.Stat(written); err != nil || !after.ModTime().Equal(before.ModTime()) {
		t.Error("the content was written anew")
	}
	gone := errors.New("away")
	if _, err := f.Rewrap(ctx, func(context.Context, string, string, *envelope.Encryption) ([]byte, error) { return nil, gone }); !errors.Is(err, gone) {
		t.Errorf("%v", err)
	}
}
