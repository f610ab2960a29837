package object

import (
	"bytes"
	"context"
	"crypto/md5"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"firn/kv/pebblekv"
	"firn/object/listing"
	"firn/object/record"
	"firn/vfs"
)

// fixture is a store on an in-memory file system.
type fixture struct {
	*Store
	t     testing.TB
	fs    vfs.FS
	db    *pebblekv.DB
	now   *clockValue
	tiers *fakeTiers
}

type clockValue struct{ ns atomic.Int64 }

func (c *clockValue) now() time.Time          { return time.Unix(0, c.ns.Load()) }
func (c *clockValue) advance(d time.Duration) { c.ns.Add(int64(d)) }

func newFixture(t testing.TB, fsys vfs.FS, o Options) *fixture {
	t.Helper()
	f := &fixture{t: t, fs: fsys, now: &clockValue{}, tiers: newTiers()}
	o.Remote = f.tiers
	f.now.ns.Store(time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC).UnixNano())
	if o.Now == nil {
		o.Now = f.now.now
	}
	if o.ReserveBytes == 0 {
		o.ReserveBytes = -1
	}
	if err := f.open(o); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.close() })
	return f
}

func (f *fixture) open(o Options) (err error) {
	var ko pebblekv.Options
	if o.ReserveBytes > 0 {
		ko.MemTableBytes = 1 << 20 // a flush fits into a small reserve
	}
	if f.db, err = pebblekv.Open(f.fs, "data/kv", ko); err != nil {
		return err
	}
	f.Store, err = Open(context.Background(), f.fs, "data", f.db, o)
	return err
}

func (f *fixture) close() {
	if f.db == nil {
		return
	}
	if err := f.Store.Close(); err != nil {
		f.t.Error(err)
	}
	if err := f.db.Close(); err != nil {
		f.t.Error(err)
	}
	f.db = nil
}

func (f *fixture) reopen() {
	f.t.Helper()
	o := f.o
	o.Clock = nil
	f.close()
	if err := f.open(o); err != nil {
		f.t.Fatal(err)
	}
}

func (f *fixture) bucket(name string, o BucketOptions) *record.Bucket {
	f.t.Helper()
	b, err := f.CreateBucket(f.t.Context(), name, o)
	if err != nil {
		f.t.Fatal(err)
	}
	return b
}

func (f *fixture) versioning(bucket string, v record.Versioning) {
	f.t.Helper()
	if _, err := f.UpdateBucket(f.t.Context(), bucket, func(b *record.Bucket) error { b.Versioning = v; return nil }); err != nil {
		f.t.Fatal(err)
	}
}

func (f *fixture) put(bucket, key, content string) *record.Version {
	f.t.Helper()
	v, err := f.Put(f.t.Context(), bucket, key, strings.NewReader(content), PutOptions{Size: int64(len(content))})
	if err != nil {
		f.t.Fatal(err)
	}
	return v
}

func (f *fixture) get(bucket, key, version string) (string, error) {
	o, err := f.Open(f.t.Context(), bucket, key, version)
	if err != nil {
		return "", err
	}
	defer o.Close()
	if o.Version.Encryption != nil {
		if err := o.Unlock(dataKey()); err != nil {
			return "", err
		}
	}
	var b bytes.Buffer
	_, err = o.WriteRange(f.t.Context(), &b, 0, o.Version.Size)
	return b.String(), err
}

func (f *fixture) want(bucket, key, version, content string) {
	f.t.Helper()
	got, err := f.get(bucket, key, version)
	if err != nil {
		f.t.Fatalf("get %s/%s@%s: %v", bucket, key, version, err)
	}
	if got != content {
		f.t.Fatalf("get %s/%s@%s: %d bytes %.40q, want %d bytes %.40q", bucket, key, version, len(got), got, len(content), content)
	}
}

func (f *fixture) wantErr(bucket, key, version string, want error) {
	f.t.Helper()
	if _, err := f.get(bucket, key, version); !errors.Is(err, want) {
		f.t.Fatalf("get %s/%s@%s: %v, want %v", bucket, key, version, err, want)
	}
}

func (f *fixture) delete(bucket, key, version string) DeleteResult {
	f.t.Helper()
	r, err := f.Delete(f.t.Context(), bucket, key, version, DeleteOptions{})
	if err != nil {
		f.t.Fatal(err)
	}
	return r
}

// versions lists all versions of a bucket as "key id latest marker size".
func (f *fixture) versions(bucket string, limit int) []string {
	f.t.Helper()
	var out []string
	o := listing.Options{Limit: limit}
	for {
		l, err := f.ListVersions(f.t.Context(), bucket, o)
		if err != nil {
			f.t.Fatal(err)
		}
		for _, v := range l.Versions {
			out = append(out, fmt.Sprintf("%s %s %v %v %d", v.Key, v.ID, v.Latest, v.DeleteMarker, v.Size))
		}
		if !l.Truncated {
			return out
		}
		o.After, o.VersionAfter = l.NextKey, l.NextVersion
	}
}

func (f *fixture) usage(bucket string) record.Usage {
	f.t.Helper()
	u, err := f.Usage(f.t.Context(), bucket)
	if err != nil {
		f.t.Fatal(err)
	}
	return u
}

func big(n int) string {
	r := rand.New(rand.NewPCG(uint64(n), 7))
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return string(b)
}

func benchDB(fsys vfs.FS, dir string) (*pebblekv.DB, error) {
	return pebblekv.Open(fsys, fsys.PathJoin(dir, "kv"), pebblekv.Options{CacheBytes: 64 << 20, MemTableBytes: 32 << 20})
}

func etag(s string) string {
	sum := md5.Sum([]byte(s))
	return hex.EncodeToString(sum[:])
}

// TestIDsAreNotGivenAgain: ids are readings of the clock, which a start seeds from the journal, whatever the wall clock says.
func TestIDsAreNotGivenAgain(t *testing.T) {
	f := newFixture(t, vfs.NewMem(), Options{})
	f.bucket("bucket", BucketOptions{})
	for _, write := range []func(){
		func() { f.put("bucket", "k", "inline") },
		func() { f.mustMove(f.tiers, "k", "cold", MoveOptions{}) },
		func() {
			if _, err := f.Recall(t.Context(), f.ref("k", ""), RecallOptions{}); err != nil {
				t.Fatal(err)
			}
		},
	} {
		write()
		o, err := f.Open(t.Context(), "bucket", "k", "")
		if err != nil {
			t.Fatal(err)
		}
		id := o.rec.Data
		o.Close()
		f.now.advance(-time.Hour)
		f.reopen()
		if now := uint64(f.clock.Last()); now < id {
			t.Errorf("the clock is at %d after a start, id %d was given", now, id)
		}
	}
}

func TestPutGetSurvivesReopen(t *testing.T) {
	f := newFixture(t, vfs.NewMem(), Options{})
	f.bucket("photos", BucketOptions{Owner: "me"})
	contents := map[string]string{
		"a": "", "b": "x", "c/d": big(4096), "edge": big(InlineMax), "over": big(InlineMax + 1),
		"large": big(3<<20 + 5), "ключ/🙂": "utf-8", "../../etc/passwd": "a key is no path", "nul\x00key": "zero",
	}
	check := func() {
		t.Helper()
		for k, c := range contents {
			f.want("photos", k, "", c)
			v, err := f.Head(t.Context(), "photos", k, "")
			if err != nil {
				t.Fatal(err)
			}
			if v.ETag != etag(c) || v.Size != int64(len(c)) || v.ID != "null" || !v.Latest || v.Owner != "me" {
				t.Fatalf("%q: %+v", k, v)
			}
			if len(v.Parts) != 1 || v.Parts[0].Size != v.Size || hex.EncodeToString(v.Parts[0].MD5[:]) != v.ETag {
				t.Fatalf("%q: parts %+v", k, v.Parts)
			}
		}
		want := record.Usage{Objects: int64(len(contents)), Versions: int64(len(contents))}
		for _, c := range contents {
			want.Bytes += int64(len(c))
		}
		if got := f.usage("photos"); got != want {
			t.Fatalf("usage %+v, want %+v", got, want)
		}
	}
	for k, c := range contents {
		v, err := f.Put(t.Context(), "photos", k, strings.NewReader(c), PutOptions{
			Size: int64(len(c)), Owner: "me", StorageClass: "STANDARD",
			Headers: []record.Field{{Name: "Content-Type", Value: "text/plain"}, {Name: "Cache-Control", Value: ""}}, Metadata: []record.Field{{Name: "color", Value: "blue"}},
			Tags: []record.Field{{Name: "a", Value: "b"}}, ACL: []byte("acl"),
		})
		if err != nil {
			t.Fatal(err)
		}
		h, err := f.Head(t.Context(), "photos", k, "")
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(v, h); d != "" {
			t.Fatalf("%q: what Put returned is not what Head returns: %s", k, d)
		}
	}
	check()
	f.reopen()
	check()
	// Overwrite each with its reverse neighbour's size class, then again.
	for k := range contents {
		contents[k] = "short"
		f.put("photos", k, "other")
		if _, err := f.Put(t.Context(), "photos", k, strings.NewReader("short"), PutOptions{Size: -1, Owner: "me"}); err != nil {
			t.Fatal(err)
		}
	}
	check()
	if n, err := f.Collect(t.Context()); err != nil || n != 2 {
		t.Fatalf("collected %d, %v; want the two large objects", n, err)
	}
	check()
	f.reopen()
	check()
}

func TestPutChecksTheBody(t *testing.T) {
	f := newFixture(t, vfs.NewMem(), Options{})
	f.bucket("bucket", BucketOptions{})
	sum := func(s string) []byte { h := md5.Sum([]byte(s)); return h[:] }
	crc := func(v []byte, err error) *ChecksumRequest {
		return &ChecksumRequest{Algorithm: record.ChecksumCRC32, Expected: func() ([]byte, error) { return v, err }}
	}
	trailer := errors.New("trailer")
	for _, size := range []int{0, 9, InlineMax, InlineMax + 1, 600_000} {
		body := "123456789"
		if size != 9 {
			body = big(size)
		}
		tests := []struct {
			name string
			body io.Reader
			o    PutOptions
			want error
		}{
			{"short", strings.NewReader(body), PutOptions{Size: int64(size + 1)}, ErrIncompleteBody},
			{"long", strings.NewReader(body + "x"), PutOptions{Size: int64(size)}, ErrIncompleteBody},
			{"md5", strings.NewReader(body), PutOptions{Size: int64(size), ContentMD5: sum(body)}, nil},
			{"bad md5", strings.NewReader(body), PutOptions{Size: int64(size), ContentMD5: sum("no")}, ErrBadDigest},
			{"bad crc", strings.NewReader(body), PutOptions{Size: -1, Checksum: crc([]byte{1, 2, 3, 4}, nil)}, ErrBadChecksum},
			{"bad trailer", strings.NewReader(body), PutOptions{Size: -1, Checksum: crc(nil, trailer)}, trailer},
			{"kept crc", strings.NewReader(body), PutOptions{Size: -1, Checksum: crc(nil, nil)}, nil},
			{"broken", io.MultiReader(strings.NewReader(body), errReader{}), PutOptions{Size: int64(size)}, io.ErrUnexpectedEOF},
			{"too large", strings.NewReader(body), PutOptions{Size: MaxPut + 1}, ErrTooLarge},
		}
		for _, tt := range tests {
			v, err := f.Put(t.Context(), "bucket", "key", tt.body, tt.o)
			if !errors.Is(err, tt.want) || (err == nil) != (tt.want == nil) {
				t.Errorf("%d bytes, %s: %v, want %v", size, tt.name, err, tt.want)
			}
			if err == nil && tt.o.Checksum != nil && (v.Checksum.Algorithm != record.ChecksumCRC32 || len(v.Checksum.Value) != 4) {
				t.Errorf("%d bytes, %s: checksum %+v", size, tt.name, v.Checksum)
			}
		}
	}
	if size := f.space.InFlight(); size != 0 {
		t.Errorf("%d bytes still counted in flight", size)
	}
}

type errReader struct{}

func (errReader) Read([]byte) (int, error) { return 0, io.ErrUnexpectedEOF }

func TestNames(t *testing.T) {
	f := newFixture(t, vfs.NewMem(), Options{})
	for _, name := range []string{"abc", "a-b.c", "123", "1.2.3", "1.2.3.x", strings.Repeat("a", 63)} {
		if _, err := f.CreateBucket(t.Context(), name, BucketOptions{}); err != nil {
			t.Errorf("%q: %v", name, err)
		}
	}
	for _, name := range []string{"", "ab", "Abc", "a_b", "-ab", "ab-", ".ab", "ab.", "a..b", "1.2.3.4", "xn--a", "a-s3alias", strings.Repeat("a", 64), "a/b", "../x"} {
		if _, err := f.CreateBucket(t.Context(), name, BucketOptions{}); !errors.Is(err, ErrInvalidBucketName) {
			t.Errorf("%q: %v", name, err)
		}
	}
	for key, want := range map[string]error{"": ErrInvalidKey, "\xff": ErrInvalidKey, strings.Repeat("k", 1025): ErrKeyTooLong} {
		if _, err := f.Put(t.Context(), "abc", key, nil, PutOptions{}); !errors.Is(err, want) {
			t.Errorf("key of %d bytes: %v", len(key), err)
		}
	}
	f.put("abc", strings.Repeat("k", 1024), "x")
	if _, err := f.Put(t.Context(), "nobucket", "k", nil, PutOptions{}); !errors.Is(err, ErrNoSuchBucket) {
		t.Error(err)
	}
	f.wantErr("abc", "absent", "", ErrNoSuchKey)
	f.wantErr("abc", "absent", "bogus", ErrNoSuchVersion)
}

func TestBuckets(t *testing.T) {
	f := newFixture(t, vfs.NewMem(), Options{})
	ctx := t.Context()
	b := f.bucket("one", BucketOptions{Owner: "o", Config: map[string][]byte{"acl": []byte("x")}})
	f.bucket("two", BucketOptions{ObjectLock: true})
	if _, err := f.CreateBucket(ctx, "one", BucketOptions{}); !errors.Is(err, ErrBucketExists) {
		t.Fatal(err)
	}
	if b.ID == 0 || b.Versioning != record.VersioningOff {
		t.Fatalf("%+v", b)
	}
	up, err := f.UpdateBucket(ctx, "one", func(b *record.Bucket) error {
		b.Config["policy"] = []byte("{}")
		delete(b.Config, "acl")
		b.ID, b.Name = 99, "other"
		return nil
	})
	if err != nil || up.ID != b.ID || up.Name != "one" || up.Revision != 2 {
		t.Fatalf("%+v, %v", up, err)
	}
	if string(b.Config["acl"]) != "x" {
		t.Fatal("the record handed out before was changed")
	}
	f.reopen()
	got, err := f.Bucket(ctx, "one")
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(up, got); d != "" {
		t.Fatal(d)
	}
	for name, fn := range map[string]func(*record.Bucket){
		"lock off":       func(b *record.Bucket) { b.ObjectLock = false },
		"versioning off": func(b *record.Bucket) { b.Versioning = record.VersioningSuspended },
		"days and years": func(b *record.Bucket) {
			b.Retention = record.DefaultRetention{Mode: record.RetentionGovernance, Days: 1, Years: 1}
		},
		"neither": func(b *record.Bucket) { b.Retention = record.DefaultRetention{Mode: record.RetentionGovernance} },
	} {
		if _, err := f.UpdateBucket(ctx, "two", func(b *record.Bucket) error { fn(b); return nil }); !errors.Is(err, ErrLockConfig) {
			t.Errorf("%s: %v", name, err)
		}
	}
	list, err := f.Buckets(ctx)
	if err != nil || len(list) != 2 || list[0].Name != "one" || list[1].Name != "two" {
		t.Fatalf("%v, %v", list, err)
	}
	f.put("one", "k", "v")
	if err := f.DeleteBucket(ctx, "one"); !errors.Is(err, ErrBucketNotEmpty) {
		t.Fatal(err)
	}
	f.delete("one", "k", "")
	id, err := f.CreateUpload(ctx, "one", "k", PutOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if err := f.DeleteBucket(ctx, "one"); !errors.Is(err, ErrBucketNotEmpty) {
		t.Fatal(err)
	}
	if err := f.AbortUpload(ctx, "one", "k", id); err != nil {
		t.Fatal(err)
	}
	if err := f.DeleteBucket(ctx, "one"); err != nil {
		t.Fatal(err)
	}
	if err := f.DeleteBucket(ctx, "one"); !errors.Is(err, ErrNoSuchBucket) {
		t.Fatal(err)
	}
	again := f.bucket("one", BucketOptions{})
	if again.ID <= up.ID {
		t.Fatalf("id %d was used again", again.ID)
	}
	f.reopen()
	if got, err := f.Bucket(ctx, "one"); err != nil || got.ID != again.ID {
		t.Fatalf("%+v, %v", got, err)
	}
}
