package transfer

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/minio/minio-go/v7"

	"firn"
)

func TestBuckets(t *testing.T) {
	s := startSite(t)
	c := s.client()
	for _, b := range []struct {
		name             string
		versioning, lock bool
	}{{"plain", false, false}, {"versions", true, false}, {"locked", false, true}} {
		if err := c.MakeBucket(t.Context(), b.name, b.versioning, b.lock); err != nil {
			t.Fatal(err)
		}
	}
	var names []string
	if err := c.List(t.Context(), loc(t, "s3://"), ListOptions{}, func(e Entry) error { names = append(names, e.Name); return nil }); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"locked", "plain", "versions"}, names); diff != "" {
		t.Error(diff)
	}
	for name, want := range map[string]Stat{
		"plain":    {Versioning: "off"},
		"versions": {Versioning: "Enabled"},
		"locked":   {Versioning: "Enabled", ObjectLock: true},
	} {
		want.Name, want.Bucket, want.Region = "s3://"+name, true, "us-east-1"
		got, err := c.Stat(t.Context(), loc(t, "s3://"+name), "")
		if err != nil {
			t.Error(err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Error(diff)
		}
	}
	for _, l := range []string{"s3://none", "s3://plain/none"} {
		if _, err := c.Stat(t.Context(), loc(t, l), ""); firn.KindOf(err) != firn.NotFound {
			t.Errorf("%s: %v", l, err)
		}
	}
	s.put(loc(t, "s3://plain/x"), []byte("x"))
	if err := c.RemoveBucket(t.Context(), "plain"); firn.KindOf(err) != firn.Conflict {
		t.Errorf("%v", err)
	}
	if err := c.RemoveBucket(t.Context(), "versions"); err != nil {
		t.Error(err)
	}
}

func TestList(t *testing.T) {
	s := startSite(t)
	b := s.bucket("lists")
	for _, k := range []string{"a", "dir/b", "dir/c", "dir/sub/d", "dirt", "z/"} {
		s.put(b.join(k), []byte(k))
	}
	list := func(at string, o ListOptions) (out []string) {
		t.Helper()
		err := s.client().List(t.Context(), loc(t, at), o, func(e Entry) error {
			n := e.Name
			if e.Prefix {
				n += " (prefix)"
			}
			if !e.Prefix && (e.Size != int64(len(e.Name)) || e.Modified.IsZero() || e.ETag == "") {
				t.Errorf("%+v", e)
			}
			out = append(out, n)
			return nil
		})
		if err != nil {
			t.Error(err)
		}
		return out
	}
	for _, tt := range []struct {
		at   string
		o    ListOptions
		want []string
	}{
		{"s3://lists", ListOptions{}, []string{"a", "dirt", "dir/ (prefix)", "z/ (prefix)"}},
		{"s3://lists/dir", ListOptions{}, []string{"dirt", "dir/ (prefix)"}},
		{"s3://lists/dir/", ListOptions{}, []string{"dir/b", "dir/c", "dir/sub/ (prefix)"}},
		{"s3://lists/dir/", ListOptions{Recursive: true}, []string{"dir/b", "dir/c", "dir/sub/d"}},
		{"s3://lists/none", ListOptions{}, nil},
	} {
		got := list(tt.at, tt.o)
		slices.Sort(got)
		slices.Sort(tt.want)
		if diff := cmp.Diff(tt.want, got); diff != "" {
			t.Errorf("%s: %s", tt.at, diff)
		}
	}
	if err := s.client().List(t.Context(), loc(t, "s3://nobucket"), ListOptions{}, func(Entry) error { return nil }); firn.KindOf(err) != firn.NotFound {
		t.Errorf("%v", err)
	}
	if err := s.client().List(t.Context(), loc(t, "/tmp"), ListOptions{}, func(Entry) error { return nil }); firn.KindOf(err) != firn.Invalid {
		t.Errorf("%v", err)
	}
}

// TestListGoesOn fails pages in the middle of a long listing.
func TestListGoesOn(t *testing.T) {
	s := startSite(t)
	b := s.bucket("long")
	var want []string
	for i := range 1100 {
		want = append(want, fmt.Sprintf("k%05d", i))
	}
	for _, k := range want {
		s.put(b.join(k), nil)
	}
	var n atomic.Int64
	s.hook = func(w http.ResponseWriter, r *http.Request) bool {
		fail := r.URL.Query().Get("list-type") == "2" && n.Add(1)%2 == 0
		if fail {
			w.WriteHeader(503)
		}
		return fail
	}
	if diff := cmp.Diff(want, s.keys("long")); diff != "" {
		t.Error(diff)
	}
	s.hook = nil
	sum, err := s.client().Remove(t.Context(), b, RemoveOptions{Recursive: true})
	if err != nil || sum.Done != 1100 || len(s.keys("long")) != 0 {
		t.Errorf("%+v, %v", sum, err)
	}
}

func TestRemove(t *testing.T) {
	s := startSite(t)
	c := s.client()
	b := s.bucket("removes")
	fill := func() {
		for _, k := range []string{"a", "dir/b", "dir/c.log", "dir/sub/d", "dirt"} {
			s.put(b.join(k), []byte("12345"))
		}
	}
	for name, tt := range map[string]struct {
		at   string
		o    RemoveOptions
		done int64
		kind firn.Kind // with fail
		fail bool
		left []string
	}{
		"one":         {at: "s3://removes/a", done: 1, left: []string{"dir/b", "dir/c.log", "dir/sub/d", "dirt"}},
		"missing":     {at: "s3://removes/none", fail: true, kind: firn.NotFound, left: []string{"a", "dir/b", "dir/c.log", "dir/sub/d", "dirt"}},
		"no key":      {at: "s3://removes", fail: true, kind: firn.Invalid, left: []string{"a", "dir/b", "dir/c.log", "dir/sub/d", "dirt"}},
		"directory":   {at: "s3://removes/dir", o: RemoveOptions{Recursive: true}, done: 3, left: []string{"a", "dirt"}},
		"bucket":      {at: "s3://removes", o: RemoveOptions{Recursive: true}, done: 5},
		"dry run":     {at: "s3://removes", o: RemoveOptions{Recursive: true, DryRun: true}, done: 5, left: []string{"a", "dir/b", "dir/c.log", "dir/sub/d", "dirt"}},
		"with filter": {at: "s3://removes/dir/", o: RemoveOptions{Recursive: true, Filter: mustFilter(t, "*.log")}, done: 1, left: []string{"a", "dir/b", "dir/sub/d", "dirt"}},
	} {
		t.Run(name, func(t *testing.T) {
			fill()
			n, bytes, err := c.Count(t.Context(), loc(t, tt.at), tt.o)
			if err != nil || tt.o.Recursive && (n != tt.done || bytes != 5*tt.done) {
				t.Errorf("count %d, %d, %v", n, bytes, err)
			}
			var e events
			tt.o.Report = e.add
			sum, err := c.Remove(t.Context(), loc(t, tt.at), tt.o)
			if (err != nil) != tt.fail || err != nil && firn.KindOf(err) != tt.kind || sum.Done != tt.done || len(e.all) != int(tt.done) {
				t.Errorf("%+v, %v", sum, err)
			}
			if diff := cmp.Diff(tt.left, s.keys("removes")); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func mustFilter(t *testing.T, include string) Filter {
	t.Helper()
	f, err := NewFilter([]string{include}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func TestRemoveVersions(t *testing.T) {
	s := startSite(t)
	c := s.client()
	if err := c.MakeBucket(t.Context(), "vers", true, false); err != nil {
		t.Fatal(err)
	}
	b := loc(t, "s3://vers")
	for _, k := range []string{"a", "a", "ab", "d/x", "d/x"} {
		s.put(b.join(k), []byte(k))
	}
	versions := func() (out []string) {
		t.Helper()
		err := c.List(t.Context(), b, ListOptions{Recursive: true, Versions: true}, func(e Entry) error {
			out = append(out, fmt.Sprintf("%s latest=%v marker=%v", e.Name, e.Latest, e.DeleteMarker))
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	if _, err := c.Remove(t.Context(), b.join("a"), RemoveOptions{}); err != nil {
		t.Fatal(err)
	}
	want := []string{
		"a latest=true marker=true", "a latest=false marker=false", "a latest=false marker=false", "ab latest=true marker=false",
		"d/x latest=true marker=false", "d/x latest=false marker=false",
	}
	if diff := cmp.Diff(want, versions()); diff != "" {
		t.Error(diff)
	}
	var marker string
	if err := c.List(t.Context(), b, ListOptions{Recursive: true, Versions: true}, func(e Entry) error {
		if e.DeleteMarker {
			marker = e.VersionID
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Remove(t.Context(), b.join("a"), RemoveOptions{VersionID: marker}); err != nil {
		t.Errorf("removing a delete marker: %v", err)
	}
	if got := s.keys("vers"); !slices.Contains(got, "a") {
		t.Errorf("the object did not come back: %v", got)
	}
	if sum, err := c.Remove(t.Context(), b.join("a"), RemoveOptions{Versions: true}); err != nil || sum.Done != 2 {
		t.Errorf("%+v, %v", sum, err)
	}
	if _, err := c.Remove(t.Context(), b.join("a"), RemoveOptions{Versions: true}); firn.KindOf(err) != firn.NotFound {
		t.Errorf("%v", err)
	}
	if sum, err := c.Remove(t.Context(), b, RemoveOptions{Recursive: true, Versions: true}); err != nil || sum.Done != 3 || len(versions()) != 0 {
		t.Errorf("%+v, %v, %v", sum, err, versions())
	}
}

// TestRemoveReportsWhatIsLocked removes beside objects that are under retention.
func TestRemoveReportsWhatIsLocked(t *testing.T) {
	s := startSite(t)
	c := s.client()
	if err := c.MakeBucket(t.Context(), "locks", false, true); err != nil {
		t.Fatal(err)
	}
	b := loc(t, "s3://locks")
	s.put(b.join("free"), []byte("x"))
	if _, err := c.core.Client.PutObject(t.Context(), "locks", "held", bytes.NewReader([]byte("x")), 1, minio.PutObjectOptions{
		Mode: minio.Governance, RetainUntilDate: time.Now().Add(time.Hour), SendContentMd5: true,
	}); err != nil {
		t.Fatal(err)
	}
	var e events
	sum, err := c.Remove(t.Context(), b, RemoveOptions{Recursive: true, Versions: true, Report: e.add})
	if err == nil || sum.Done != 1 || sum.Failed != 1 {
		t.Fatalf("%+v, %v", sum, err)
	}
	for _, ev := range e.all {
		if (ev.Status == Failed) != strings.HasSuffix(ev.Source, "/held") || ev.Status == Failed && firn.KindOf(ev.Err) != firn.Denied {
			t.Errorf("%+v", ev)
		}
	}
	if sum, err := c.Remove(t.Context(), b, RemoveOptions{Recursive: true, Versions: true, Bypass: true}); err != nil || sum.Done != 1 {
		t.Errorf("%+v, %v", sum, err)
	}
}

func TestRemoveUploads(t *testing.T) {
	s := startSite(t)
	c := s.client()
	b := s.bucket("ups")
	for _, k := range []string{"a/x", "a/x", "b/y"} {
		if err := c.newUpload(t.Context(), b.join(k), minio.PutObjectOptions{}, &uploadState{}); err != nil {
			t.Fatal(err)
		}
	}
	s.put(b.join("a/x"), []byte("stays"))
	sum, err := c.Remove(t.Context(), b.join("a"), RemoveOptions{Uploads: true})
	if err != nil || sum.Done != 2 || s.uploads("ups") != 1 || len(s.keys("ups")) != 1 {
		t.Errorf("%+v, %v, %d uploads", sum, err, s.uploads("ups"))
	}
}

// TestFrontier finishes ranges out of order.
func TestFrontier(t *testing.T) {
	f := newFrontier(10, 100)
	f.finish(40, 60)
	f.finish(20, 40)
	if f.done() != 10 {
		t.Errorf("at %d", f.done())
	}
	f.finish(10, 20)
	if f.done() != 60 || len(f.mu.ahead) != 0 {
		t.Errorf("at %d, %v", f.done(), f.mu.ahead)
	}
	if err := f.waitWithin(t.Context(), 69, 10); err != nil {
		t.Error(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := f.waitWithin(ctx, 70, 10); err == nil {
		t.Error("a range too far ahead did not wait")
	}
	data := noise(100, 1)
	v := &verifier{method: "size", size: 100, h: newPartsHash([]int64{100})}
	var c Client
	s, _, err := c.sumOf(t.Context(), bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	v.want, _ = partsOf(compositeETag([][16]byte{s.md5}))
	f.finish(60, 100)
	if err := followFrontier(t.Context(), f, v, bytes.NewReader(data), func(int64) error { return nil }); err != nil {
		t.Error(err)
	}
	if _, err := v.check(); err != nil {
		t.Error(err)
	}
}

// TestBusyTarget: a second process on the same file is told so, and does no harm.
func TestBusyTarget(t *testing.T) {
	s := startSite(t)
	b := s.bucket("busy")
	s.put(b.join("x"), []byte("x"))
	dir := t.TempDir()
	dst := filepath.Join(dir, "out")
	var nested []Event
	var once atomic.Bool
	s.hook = func(_ http.ResponseWriter, r *http.Request) bool {
		if r.Method == http.MethodGet && once.CompareAndSwap(false, true) {
			_, nested, _ = copyAll(t.Context(), t, s.client(), CopyOptions{}, "s3://busy/x", dst)
		}
		return false
	}
	if _, _, err := copyAll(t.Context(), t, s.client(), CopyOptions{}, "s3://busy/x", dst); err != nil {
		t.Error(err)
	}
	if len(nested) != 1 || firn.KindOf(nested[0].Err) != firn.Conflict {
		t.Errorf("%+v", nested)
	}
	if got := tree(t, dir)["out"]; got != "x" {
		t.Errorf("%q", got)
	}
}
