package tier

import (
	"slices"
	"strings"
	"testing"
	"time"

	"firn"
	"firn/kv"
	"firn/object"
	"firn/object/record"
	"firn/tier/plain"
	"firn/vfs"
)

// another is a site with an empty namespace and s's tier.
func (s *site) another(id string, at time.Time) *site {
	s.t.Helper()
	n := &site{t: s.t, layout: s.layout, fs: vfs.NewCrashableMem(), now: at, cold: s.cold, store: s.store}
	n.open()
	n.mover.opt.Site = id
	s.t.Cleanup(n.close)
	return n
}

// TestRebuildOfALostSite: a tier passes to another site once that has all that the catalogue tells of, not before.
func TestRebuildOfALostSite(t *testing.T) { layouts(t, testRebuildOfALostSite) }

func testRebuildOfALostSite(t *testing.T, layout string) {
	s := newSite(t, layout)
	ctx := t.Context()
	s.put("bkt", "a", "1")
	s.put("bkt", "b", large("z"))
	s.move("bkt")
	if err := s.mover.Follow(ctx); err != nil {
		t.Fatal(err)
	}
	n := s.another("site-2", s.now.Add(-time.Hour))
	// It is told whose the tier is; what it was told is needed.
	if _, err := n.mover.Rebuild(ctx, "cold", RebuildOptions{}); firn.KindOf(err) != firn.Conflict || !strings.Contains(err.Error(), "tier cold of site site-1") {
		t.Errorf("without a word: %v", err)
	}
	if _, err := n.mover.Rebuild(ctx, "cold", RebuildOptions{From: "site-3"}); firn.KindOf(err) != firn.Conflict {
		t.Errorf("a third site's: %v", err)
	}
	if err := n.mover.Follow(ctx); err != nil {
		t.Fatal(err)
	}
	if st := n.set.Status()[0]; st.Ready || st.Err == nil || !st.Away.IsZero() {
		t.Errorf("%+v", st)
	}

	// What cannot be made keeps the tier as it is.
	if _, err := n.CreateBucket(ctx, "bkt", object.BucketOptions{}); err != nil {
		t.Fatal(err)
	}
	n.put("bkt", "a", "older")
	var failed []string
	r, err := n.mover.Rebuild(ctx, "cold", RebuildOptions{From: "site-1", Failed: func(bucket, key, _ string, err error) {
		failed = append(failed, bucket+"/"+key+" "+firn.KindOf(err).String())
	}})
	if err != nil || r.Failed != 1 || !slices.Equal(failed, []string{"bkt/a conflict"}) {
		t.Errorf("%+v, %q, %v", r, failed, err)
	}
	if m, err := plain.ReadMark(ctx, s.store, layout); err != nil || m.Site != "site-1" {
		t.Errorf("%+v, %v", m, err)
	}
	n.want("bkt", "b", "", large("z"))

	if _, err := n.Delete(ctx, "bkt", "a", "", object.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	r, err = n.mover.Rebuild(ctx, "cold", RebuildOptions{From: "site-1"})
	if err != nil || r.Failed != 0 || r.Versions != 1 {
		t.Errorf("%+v, %v", r, err)
	}
	n.want("bkt", "a", "", "1")
	if m, err := plain.ReadMark(ctx, s.store, layout); err != nil || m.Site != "site-2" || m.Tier != "cold" {
		t.Errorf("%+v, %v", m, err)
	}
	// It is a tier like any other from then on, after a restart too, and for the next rebuild.
	n.put("bkt", "c", "3")
	n.move("bkt")
	if err := n.mover.Follow(ctx); err != nil {
		t.Fatal(err)
	}
	n.close()
	n.open()
	n.mover.opt.Site = "site-2"
	n.put("bkt", "d", "4")
	n.move("bkt")
	if err := n.mover.Follow(ctx); err != nil {
		t.Fatal(err)
	}
	third := n.another("site-3", n.now)
	if r, err := third.mover.Rebuild(ctx, "cold", RebuildOptions{From: "site-2"}); err != nil || r.Versions != 4 {
		t.Errorf("%+v, %v", r, err)
	}
	n.same(third)
	// The first site does not take it back.
	s.close()
	s.open()
	if err := s.mover.ready(ctx, s.set.list[0]); firn.KindOf(err) != firn.Conflict {
		t.Errorf("the lost site is back: %v", err)
	}
}

// TestRestoredDataDirectory: a site whose namespace is a copy from before writes nothing to a tier that knows more.
func TestRestoredDataDirectory(t *testing.T) { layouts(t, testRestoredDataDirectory) }

func testRestoredDataDirectory(t *testing.T, layout string) {
	s := newSite(t, layout)
	ctx := t.Context()
	s.put("bkt", "a", "1")
	s.move("bkt")
	before := vfs.CrashClone(s.fs)
	s.put("bkt", "b", "2")
	s.move("bkt")
	if err := s.mover.Follow(ctx); err != nil {
		t.Fatal(err)
	}
	n := &site{t: t, layout: layout, fs: before, now: s.now.Add(time.Hour), cold: s.cold, store: s.store}
	n.open()
	defer n.close()
	n.want("bkt", "a", "", "1")
	if err := n.mover.ready(ctx, n.set.list[0]); firn.KindOf(err) != firn.Conflict || !strings.Contains(err.Error(), "firn tier rebuild") {
		t.Errorf("an older namespace: %v", err)
	}
	segments := func() (list []string) {
		for info, err := range n.store.List(ctx, n.sealed()+"catalogue/") {
			if err != nil {
				t.Fatal(err)
			}
			list = append(list, info.Key)
		}
		return list
	}
	was := segments()
	if err := n.mover.Follow(ctx); err != nil {
		t.Fatal(err)
	}
	if now := segments(); !slices.Equal(was, now) {
		t.Errorf("%q became %q", was, now)
	}
	if r, err := n.mover.Rebuild(ctx, "cold", RebuildOptions{}); err != nil || r.Versions != 1 {
		t.Errorf("%+v, %v", r, err)
	}
	n.want("bkt", "b", "", "2")
	n.put("bkt", "c", "3")
	n.move("bkt")
	n.same(n.rebuilt())
}

// TestRemovedStaysRemoved: what was deleted does not come back by a rebuild, whether its blob is gone or not.
func TestRemovedStaysRemoved(t *testing.T) { layouts(t, testRemovedStaysRemoved) }

func testRemovedStaysRemoved(t *testing.T, layout string) {
	s := newSite(t, layout)
	ctx := t.Context()
	s.put("bkt", "a", "1")
	s.put("bkt", "b", "2")
	s.move("bkt")
	remove := func(key string) {
		t.Helper()
		if _, err := s.Delete(ctx, "bkt", key, "", object.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	rebuild := func() {
		t.Helper()
		if r, err := s.mover.Rebuild(ctx, "cold", RebuildOptions{}); err != nil || r.Versions != 0 || r.Failed != 0 {
			t.Errorf("%+v, %v", r, err)
		}
	}
	remove("a")
	rebuild()
	remove("b")
	s.now = s.now.Add(2 * time.Hour)
	if n, err := s.mover.Collect(ctx); n != 2 || err != nil {
		t.Errorf("%d, %v", n, err)
	}
	// Whoever rebuilds elsewhere now finds none of them either.
	if r, err := s.another("site-2", s.now).mover.Rebuild(ctx, "cold", RebuildOptions{From: "site-1"}); err != nil || r.Versions != 0 {
		t.Errorf("%+v, %v", r, err)
	}
}

// TestRebuildOfWhatWasMovedLast: a site that is lost right after a move has told of it already, with its storage class and
// its bucket.
func TestRebuildOfWhatWasMovedLast(t *testing.T) { layouts(t, testRebuildOfWhatWasMovedLast) }

func testRebuildOfWhatWasMovedLast(t *testing.T, layout string) {
	s := newSite(t, layout)
	s.put("bkt", "a", "1")
	s.put("versions", "b", large("z"))
	s.move("bkt")
	s.move("versions")
	s.same(s.rebuilt())
}

func TestMaxBytes(t *testing.T) { layouts(t, testMaxBytes) }

func testMaxBytes(t *testing.T, layout string) {
	s := newSite(t, layout)
	s.set.list[0].MaxBytes = 10
	s.put("bkt", "a", "12345678")
	s.put("bkt", "b", "123")
	s.put("bkt", "c", "12")
	errs := s.mover.Move(t.Context(), "cold", s.versions("bkt"), object.MoveOptions{})
	if errs[0] != nil || firn.KindOf(errs[1]) != firn.NoSpace || errs[2] != nil {
		t.Errorf("%v", errs)
	}
	if u, err := s.mover.Used(t.Context(), "COLD"); err != nil || u != (record.Usage{Versions: 2, Bytes: 10}) {
		t.Errorf("%+v, %v", u, err)
	}
	if err := s.mover.Move(t.Context(), "cold", s.versions("bkt"), object.MoveOptions{})[1]; firn.KindOf(err) != firn.NoSpace ||
		!strings.Contains(err.Error(), "max_bytes") {
		t.Errorf("%v", err)
	}
	if n := s.set.list[0].coming; n != 0 {
		t.Errorf("%d bytes are still coming", n)
	}
}

// TestQuietCatalogue: what is no business of a tier's costs it no request.
func TestQuietCatalogue(t *testing.T) { layouts(t, testQuietCatalogue) }

func testQuietCatalogue(t *testing.T, layout string) {
	s := newSite(t, layout)
	s.put("bkt", "a", "1")
	s.move("bkt")
	if err := s.mover.Follow(t.Context()); err != nil {
		t.Fatal(err)
	}
	puts := 0
	s.cold.before = func(op, _ string) {
		if op == "put" {
			puts++
		}
	}
	for range 3 {
		s.put("versions", "k", "v")
		if err := s.mover.Follow(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if b := s.mover.Backlog()[0]; puts != 0 || b.Entries != 0 {
		t.Errorf("%d puts, %+v", puts, b)
	}
	s.same(s.rebuilt())
}

// TestDamagedVersion: a version whose check data are gone keeps no other out of the catalogue, nor garbage on the tier.
func TestDamagedVersion(t *testing.T) { layouts(t, testDamagedVersion) }

func testDamagedVersion(t *testing.T, layout string) {
	s := newSite(t, layout)
	ctx := t.Context()
	s.put("bkt", "bad", large("x"))
	s.put("bkt", "good", large("y"))
	s.move("bkt")
	v, err := s.Head(ctx, "bkt", "bad", "")
	if err == nil {
		err = s.db.Update(ctx, func(tx kv.Tx) error {
			tx.Delete(record.OutboardKey(v.Location.ID, 0))
			return nil
		})
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{"bad", "good"} {
		if _, err := s.UpdateVersion(ctx, "bkt", key, "", false, func(v *record.Version) error {
			v.Tags = []record.Field{{Name: "t", Value: "u"}}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
	}
	for _, anew := range []bool{false, true} {
		s.set.list[0].stale = anew
		if err := s.mover.Follow(ctx); err != nil {
			t.Fatal(err)
		}
		if b := s.mover.Backlog()[0]; b.Entries != 0 {
			t.Errorf("anew %v: %+v", anew, b)
		}
		n := s.rebuilt()
		n.want("bkt", "good", "", large("y"))
		if v, err := n.Head(ctx, "bkt", "good", ""); err != nil || len(v.Tags) != 1 {
			t.Errorf("anew %v: %+v, %v", anew, v, err)
		}
	}
}
