package tier

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"firn"
	"firn/blob"
	"firn/blob/driver"
	"firn/blob/memblob"
	"firn/kv/pebblekv"
	"firn/object"
	"firn/object/listing"
	"firn/object/record"
	"firn/tier/packed"
	"firn/tier/plain"
	"firn/vfs"
)

// faulty is a place that can be away, and that spoils what passes.
type faulty struct {
	driver.Driver
	away   bool
	lose   bool                  // a put happens, and says that it did not
	spoil  func(p []byte) []byte // what is read
	before func(op, key string)  // called before each operation
}

func (f *faulty) check(op, key string) error {
	if f.before != nil {
		f.before(op, key)
	}
	if f.away {
		return firn.NewError(firn.Unavailable, "no route to host")
	}
	return nil
}

func (f *faulty) Put(ctx context.Context, key string, src driver.Source) error {
	if err := f.check("put", key); err != nil {
		return err
	}
	if err := f.Driver.Put(ctx, key, src); err != nil || !f.lose {
		return err
	}
	return firn.NewError(firn.Unavailable, "the connection was lost")
}

func (f *faulty) Get(ctx context.Context, key string, offset, length int64) (io.ReadCloser, error) {
	if err := f.check("get", key); err != nil {
		return nil, err
	}
	r, err := f.Driver.Get(ctx, key, offset, length)
	if err != nil || f.spoil == nil || !isContent(key) {
		return r, err
	}
	p, err := io.ReadAll(r)
	r.Close()
	return io.NopCloser(bytes.NewReader(f.spoil(p))), err
}

func (f *faulty) Stat(ctx context.Context, key string) (driver.Info, error) {
	if err := f.check("stat", key); err != nil {
		return driver.Info{}, err
	}
	return f.Driver.Stat(ctx, key)
}

func (f *faulty) Delete(ctx context.Context, key string) error {
	if err := f.check("delete", key); err != nil {
		return err
	}
	return f.Driver.Delete(ctx, key)
}

// isContent reports whether a blob of either layout has contents.
func isContent(key string) bool {
	return strings.HasPrefix(key, "objects/") || strings.HasPrefix(key, "repo/packs/")
}

// site is a namespace with one tier, and a clock of its own.
type site struct {
	*object.Store
	t     *testing.T
	fs    *vfs.MemFS
	tap   *vfs.Tap // over fs, where it is not nil
	db    *pebblekv.DB
	mover *Mover
	set   *Set
	cold  *faulty
	store *blob.Store
	now   time.Time
	block int   // bytes of a block; 0 is the default
	above int64 // size above which copies go on where they were cut off; 0 is the default

	layout  string        // "" is plain
	content *packed.Store // of the layout repository
}

// layouts runs a test with each layout.
func layouts(t *testing.T, test func(t *testing.T, layout string)) {
	for _, layout := range []string{"plain", "repository"} {
		t.Run(layout, func(t *testing.T) { test(t, layout) })
	}
}

func newSite(t *testing.T, layout string) *site {
	t.Helper()
	s := &site{
		t: t, layout: layout, fs: vfs.NewCrashableMem(), now: time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC),
		cold: &faulty{Driver: memblob.New(memblob.Options{})},
	}
	s.store = blob.New(s.cold, "mem:cold")
	s.open()
	t.Cleanup(s.close)
	for _, b := range []string{"bkt", "versions"} {
		if _, err := s.CreateBucket(t.Context(), b, object.BucketOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := s.UpdateBucket(t.Context(), "versions", func(b *record.Bucket) error {
		b.Versioning = record.VersioningEnabled
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return s
}

func (s *site) open() {
	s.t.Helper()
	clock := func() time.Time { return s.now }
	var err error
	p := Place{Name: "cold", Class: "COLD", Store: s.store}
	if s.layout == "repository" {
		s.content = newPacked(s.store, clock)
		p.Content = s.content
	}
	if s.set, err = NewSet([]Place{p}, clock); err != nil {
		s.t.Fatal(err)
	}
	var files vfs.FS = s.fs
	if s.tap != nil {
		files = s.tap
	}
	if s.db, err = pebblekv.Open(files, "data/kv", pebblekv.Options{}); err != nil {
		s.t.Fatal(err)
	}
	s.Store, err = object.Open(s.t.Context(), files, "data", s.db, object.Options{Now: clock, ReserveBytes: -1, Remote: s.set, BlockSize: s.block})
	if err != nil {
		s.t.Fatal(err)
	}
	s.mover = NewMover(s.Store, s.set, Options{Site: "site-1", ResumeAbove: s.above})
}

func (s *site) close() {
	if s.Store != nil {
		s.Store.Close() // what matters was synced
		s.db.Close()
		s.Store = nil
		if s.content != nil {
			s.content.Close() // it only stops
		}
	}
}

func (s *site) put(bucket, key, content string) {
	s.t.Helper()
	s.now = s.now.Add(time.Millisecond)
	if _, err := s.Put(s.t.Context(), bucket, key, strings.NewReader(content), object.PutOptions{Size: int64(len(content))}); err != nil {
		s.t.Fatal(err)
	}
}

// versions lists what a bucket has, for Move.
func (s *site) versions(bucket string) []record.Version {
	s.t.Helper()
	l, err := s.ListVersions(s.t.Context(), bucket, listing.Options{Limit: 1000})
	if err != nil {
		s.t.Fatal(err)
	}
	return slices.DeleteFunc(l.Versions, func(v record.Version) bool { return v.DeleteMarker })
}

func (s *site) move(bucket string) {
	s.t.Helper()
	if err := errors.Join(s.mover.Move(s.t.Context(), "cold", s.versions(bucket), object.MoveOptions{})...); err != nil {
		s.t.Fatal(err)
	}
}

// read returns the content of a version.
func (s *site) read(bucket, key, id string) (string, error) {
	o, err := s.Open(s.t.Context(), bucket, key, id)
	if err != nil {
		return "", err
	}
	defer o.Close()
	var b strings.Builder
	_, err = o.WriteRange(s.t.Context(), &b, 0, o.Version.Size)
	return b.String(), err
}

func (s *site) want(bucket, key, id, content string) {
	s.t.Helper()
	if got, err := s.read(bucket, key, id); err != nil || got != content {
		s.t.Errorf("%s/%s %s: %d bytes, %v; want %d", bucket, key, id, len(got), err, len(content))
	}
}

// objects are the names on the tier, but for the catalogue's.
func (s *site) objects() (names []string) {
	s.t.Helper()
	if s.layout == "repository" {
		for _, n := range packedNames(s.t, s.store) {
			names = append(names, strings.TrimPrefix(n, "objects/"))
		}
		return names
	}
	for info, err := range s.store.List(s.t.Context(), "objects/") {
		if err != nil {
			s.t.Fatal(err)
		}
		names = append(names, strings.TrimPrefix(info.Key, "objects/"))
	}
	return names
}

// bare returns names as they are in the layout plain.
func (s *site) bare(names []string) []string {
	names = slices.Clone(names)
	for i := range names {
		names[i], _, _ = strings.Cut(names[i], "%@")
	}
	return names
}

// collect removes what is not needed, and has the tier take back its room.
func (s *site) collect() (int64, error) {
	s.t.Helper()
	n, err := s.mover.Collect(s.t.Context())
	if err == nil && s.layout == "repository" {
		s.now = s.now.Add(25 * time.Hour)
		err = s.mover.Sweep(s.t.Context())
	}
	return n, err
}

func large(c string) string { return strings.Repeat(c, 3<<20) }

func TestMove(t *testing.T) { layouts(t, testMove) }

func testMove(t *testing.T, layout string) {
	s := newSite(t, layout)
	s.put("bkt", "small", "inline")
	s.put("bkt", "dir/large", large("x"))
	s.put("bkt", "empty", "")
	s.move("bkt")
	s.move("bkt") // what is there already is no work
	if got := s.bare(s.objects()); !slices.Equal(got, []string{"bkt/dir/large", "bkt/empty", "bkt/small"}) {
		t.Errorf("on the tier: %q", got)
	}
	s.want("bkt", "small", "", "inline")
	s.want("bkt", "dir/large", "", large("x"))
	s.want("bkt", "empty", "", "")
	for _, v := range s.versions("bkt") {
		if v.StorageClass != "COLD" {
			t.Errorf("%s has class %q", v.Key, v.StorageClass)
		}
	}
	// Any tool reads it.
	if layout != "plain" {
		if _, err := s.store.ReadAll(t.Context(), "objects/bkt/small", 100); firn.KindOf(err) != firn.NotFound {
			t.Errorf("on the tier: %v", err)
		}
	} else if p, err := s.store.ReadAll(t.Context(), "objects/bkt/small", 100); err != nil || string(p) != "inline" {
		t.Errorf("on the tier: %q, %v", p, err)
	}

	// Away: reads say which tier and since when; a second call does not move the time.
	s.cold.away = true
	since := s.now
	for range 2 {
		_, err := s.read("bkt", "small", "")
		if !errors.Is(err, object.ErrTierAway) || !strings.Contains(err.Error(), "cold") || !strings.Contains(err.Error(), "away since "+since.Format("2006-01-02 15:04:05")) {
			t.Errorf("a tier that is away: %v", err)
		}
		var away *object.TierAway
		if !errors.As(err, &away) || away.Tier != "cold" || !away.Since.Equal(since) {
			t.Errorf("a tier that is away: %+v", away)
		}
		s.now = s.now.Add(time.Hour)
	}
	if st := s.set.Status()[0]; !st.Away.Equal(since) || st.Err == nil || !st.Ready {
		t.Errorf("%+v", st)
	}
	s.cold.away = false
	s.want("bkt", "small", "", "inline")
	if st := s.set.Status()[0]; !st.Away.IsZero() {
		t.Errorf("%+v", st)
	}

	// What is not needed goes after a grace, and not before.
	s.put("bkt", "small", "again")
	s.now = s.now.Add(59 * time.Minute)
	if n, err := s.mover.Collect(t.Context()); n != 0 || err != nil {
		t.Errorf("collected %d at once, %v", n, err)
	}
	s.move("bkt")
	if got := s.objects(); len(got) != 4 || layout == "plain" && !strings.HasPrefix(got[3], "bkt/small%~") {
		t.Errorf("on the tier: %q", got)
	}
	s.now = s.now.Add(2 * time.Hour)
	if n, err := s.collect(); n != 1 || err != nil {
		t.Errorf("collected %d, %v", n, err)
	}
	if got := s.objects(); len(got) != 3 || slices.Contains(s.bare(got), "bkt/small") == (layout == "plain") {
		t.Errorf("on the tier: %q", got)
	}
	s.want("bkt", "small", "", "again")
}

// TestNothingIsLost lets each thing go wrong that a tier can do wrong, and the namespace change at each step.
func TestNothingIsLost(t *testing.T) { layouts(t, testNothingIsLost) }

func testNothingIsLost(t *testing.T, layout string) {
	for name, c := range map[string]struct {
		prepare func(s *site)
		kind    firn.Kind
	}{
		"away":           {func(s *site) { s.cold.away = true }, firn.Unavailable},
		"answer lost":    {func(s *site) { s.cold.lose = true }, firn.Unavailable},
		"other bytes":    {func(s *site) { s.cold.spoil = func(p []byte) []byte { p[len(p)/2] ^= 1; return p } }, firn.Corrupt},
		"cut off":        {func(s *site) { s.cold.spoil = func(p []byte) []byte { return p[:len(p)-1] } }, firn.Corrupt},
		"stale":          {func(s *site) { s.cold.spoil = func(p []byte) []byte { return bytes.Repeat([]byte("y"), len(p)) } }, firn.Corrupt},
		"replaced":       {func(s *site) { s.once("get", func() { s.put("bkt", "k", large("x")) }) }, firn.Conflict},
		"another's tier": {func(s *site) { s.mover.opt.Site = "site-2" }, firn.Conflict},
		"no such tier":   {func(s *site) { delete(s.set.names, "cold") }, firn.NotFound},
		"catalogue failed": {func(s *site) {
			s.cold.before = func(op, key string) { s.cold.away = op == "put" && strings.Contains(key, "catalogue/") }
		}, firn.Unavailable},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t, layout)
			s.put("bkt", "first", "1")
			s.move("bkt") // the tier is this site's
			s.put("bkt", "k", large("x"))
			if name == "another's tier" {
				s.close()
				s.open()
			}
			c.prepare(s)
			v := slices.DeleteFunc(s.versions("bkt"), func(v record.Version) bool { return v.Key != "k" })
			errs := s.mover.Move(t.Context(), "cold", v, object.MoveOptions{})
			if firn.KindOf(errs[0]) != c.kind {
				t.Errorf("%v (%v), want %v", errs[0], firn.KindOf(errs[0]), c.kind)
			}
			s.cold.away, s.cold.lose, s.cold.spoil, s.cold.before = false, false, nil, nil
			s.want("bkt", "k", "", large("x"))
			if s.versions("bkt")[1].StorageClass != "" {
				t.Error("it was moved")
			}
			if name == "another's tier" || name == "no such tier" {
				return
			}
			// It is moved later, and what was left of the first try goes.
			s.move("bkt")
			s.want("bkt", "k", "", large("x"))
			s.now = s.now.Add(2 * time.Hour)
			if _, err := s.collect(); err != nil {
				t.Fatal(err)
			}
			if got := s.objects(); len(got) != 2 {
				t.Errorf("on the tier: %q", got)
			}
			s.want("bkt", "k", "", large("x"))
		})
	}
}

// once calls fn before the next operation on an object.
func (s *site) once(op string, fn func()) {
	s.cold.before = func(o, key string) {
		if o == op && isContent(key) {
			s.cold.before = nil
			fn()
		}
	}
}

func cloneOf(t *testing.T, d driver.Driver) driver.Driver {
	t.Helper()
	from, to := blob.New(d, "mem:"), blob.New(memblob.New(memblob.Options{}), "mem:")
	for info, err := range from.List(t.Context(), "") {
		if err != nil {
			t.Fatal(err)
		}
		p, err := from.ReadAll(t.Context(), info.Key, 1<<30)
		if err == nil {
			err = to.PutBytes(t.Context(), info.Key, p)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return to.Driver()
}

// rebuilt is a new site made from the tier.
func (s *site) rebuilt() *site {
	s.t.Helper()
	from := s.store.Driver()
	if s.cold != nil {
		from = s.cold.Driver
	}
	n := &site{t: s.t, layout: s.layout, fs: vfs.NewMem(), now: s.now.Add(time.Hour), cold: &faulty{Driver: cloneOf(s.t, from)}}
	n.store = blob.New(n.cold, "mem:cold")
	n.open()
	s.t.Cleanup(n.close)
	for range 2 { // a second time nothing is left to do
		if _, err := n.mover.Rebuild(s.t.Context(), "cold", RebuildOptions{Failed: func(bucket, key, version string, err error) {
			s.t.Errorf("%s/%s %s: %v", bucket, key, version, err)
		}}); err != nil {
			s.t.Fatal(err)
		}
	}
	return n
}

// same holds that other has the buckets of s, and all versions and markers that are not local.
func (s *site) same(other *site) {
	s.t.Helper()
	list := func(s *site) (all []string) {
		buckets, err := s.Buckets(s.t.Context())
		if err != nil {
			s.t.Fatal(err)
		}
		for _, b := range buckets {
			all = append(all, fmt.Sprint(b.Name, " ", b.Versioning))
			l, err := s.ListVersions(s.t.Context(), b.Name, listing.Options{Limit: 1000})
			if err != nil {
				s.t.Fatal(err)
			}
			for _, v := range l.Versions {
				if v.DeleteMarker {
					all = append(all, fmt.Sprint(v.Key, v.ID, " marker"))
					continue
				}
				full, err := s.Head(s.t.Context(), b.Name, v.Key, v.ID)
				if err != nil {
					s.t.Fatal(err)
				}
				if full.Location != nil {
					content, err := s.read(b.Name, v.Key, v.ID)
					all = append(all, fmt.Sprint(v.Key, v.ID, v.StorageClass, v.ETag, full.Metadata, full.Tags, len(content), err))
				}
			}
		}
		slices.Sort(all)
		return all
	}
	if a, b := list(s), list(other); !slices.Equal(a, b) {
		s.t.Errorf("rebuilt:\n%s\nwant:\n%s", strings.Join(b, "\n"), strings.Join(a, "\n"))
	}
}

func TestRebuild(t *testing.T) { layouts(t, testRebuild) }

func testRebuild(t *testing.T, layout string) {
	s := newSite(t, layout)
	ctx := t.Context()
	follow := func() {
		t.Helper()
		if err := s.mover.Follow(ctx); err != nil {
			t.Fatal(err)
		}
	}
	s.put("bkt", "a", "1")
	s.put("bkt", "b/c", large("z"))
	s.put("versions", "k", "first")
	s.put("versions", "k", "second")
	s.move("bkt")
	s.move("versions")
	follow()
	s.same(s.rebuilt())

	// What changes after that is told of, too: new metadata, deletes, markers, what replaces, buckets.
	s.put("versions", "k", "third, and local")
	if _, err := s.Delete(ctx, "versions", "k", "", object.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	s.put("bkt", "a", "replaced, and local")
	if _, err := s.UpdateVersion(ctx, "bkt", "b/c", "", false, func(v *record.Version) error {
		v.Tags = []record.Field{{Name: "t", Value: "u"}}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.CreateBucket(ctx, "later", object.BucketOptions{}); err != nil {
		t.Fatal(err)
	}
	follow()
	s.same(s.rebuilt())
	// So does a catalogue that is written anew.
	s.mover.set.list[0].stale = true
	follow()
	s.same(s.rebuilt())

	// A catalogue with a hole is no ground to build on.
	if err := s.mover.Follow(ctx); err != nil {
		t.Fatal(err)
	}
	for info, err := range s.store.List(ctx, s.sealed()+"catalogue/") {
		if err != nil {
			t.Fatal(err)
		}
		if err := s.store.PutBytes(ctx, info.Key, []byte("damaged")); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := s.mover.Rebuild(ctx, "cold", RebuildOptions{}); firn.KindOf(err) != firn.Corrupt {
		t.Errorf("a damaged catalogue: %v", err)
	}
	if _, err := plain.ReadMark(ctx, s.store, layout); err != nil {
		t.Error(err)
	}
}

// TestLongCheckData: a version with so many blocks that its record does not go into a line of the catalogue comes back, too.
func TestLongCheckData(t *testing.T) { layouts(t, testLongCheckData) }

func testLongCheckData(t *testing.T, layout string) {
	s := newSite(t, layout)
	s.close()
	s.block = 4 << 10
	s.open()
	content := strings.Repeat("0123456789abcdef", 36<<20/16)
	s.put("bkt", "a", content)
	s.put("bkt", "b", "small")
	s.move("bkt")
	if err := s.mover.Follow(t.Context()); err != nil {
		t.Fatal(err)
	}
	records := 0
	for _, err := range s.store.List(t.Context(), s.sealed()+"catalogue-records/") {
		if records++; err != nil {
			t.Fatal(err)
		}
	}
	if records != 1 { // the move told of it as it is since
		t.Errorf("%d records have blobs of their own", records)
	}
	n := s.rebuilt()
	s.same(n)
	n.want("bkt", "a", "", content)
}

func TestNewSet(t *testing.T) {
	store := blob.New(memblob.New(memblob.Options{}), "mem:")
	for _, list := range [][]Place{
		{{Name: "", Class: "COLD", Store: store}},
		{{Name: "a", Class: "", Store: store}},
		{{Name: "a", Class: "STANDARD", Store: store}},
		{{Name: "a", Class: "COLD", Store: store}, {Name: "a", Class: "WARM", Store: store}},
		{{Name: "a", Class: "COLD", Store: store}, {Name: "b", Class: "COLD", Store: store}},
	} {
		if _, err := NewSet(list, nil); firn.KindOf(err) != firn.Invalid {
			t.Errorf("%v: %v", list, err)
		}
	}
	s, err := NewSet([]Place{{Name: "a", Class: "WARM", Store: store}, {Name: "b", Class: "COLD", Store: store}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if got := s.Classes(); !slices.Equal(got, []string{"STANDARD", "WARM", "COLD"}) || s.OfClass("COLD") != "b" || s.OfClass("X") != "" {
		t.Errorf("%q", got)
	}
	if _, err := s.Size(t.Context(), "c", "k"); firn.KindOf(err) != firn.Unavailable {
		t.Errorf("no such tier: %v", err)
	}
}
