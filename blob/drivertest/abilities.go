package drivertest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"testing"

	"golang.org/x/sync/errgroup"

	"firn"
	"firn/blob"
	"firn/blob/driver"
)

func (s *suite) create(t *testing.T) {
	d := s.fresh(t)
	c, ok := blob.As[driver.Creator](d)
	if !ok {
		return
	}
	create := func(key string, p []byte) error { return c.Create(t.Context(), key, blob.Bytes(p)) }
	for i, size := range []int64{0, 10, 1 << 20} {
		key, p := fmt.Sprintf("dir/%d", i), version(1, size)
		if err := create(key, p); err != nil {
			t.Fatalf("create of %d bytes: %v", size, err)
		}
		want(t, d, key, p)
		for _, other := range []int64{0, 20, 1 << 20} {
			src := newSource(version(2, other))
			if err := c.Create(t.Context(), key, src); firn.KindOf(err) != firn.Exists {
				t.Errorf("create of what is there: %v (%v), want firn.Exists", err, firn.KindOf(err))
			}
			if err := src.done(); err != nil {
				t.Errorf("create of what is there: %v", err)
			}
		}
		want(t, d, key, p)
	}
	// What was put is there, too; what was deleted is not.
	put(t, d, "put", []byte("1"))
	if err := create("put", []byte("2")); firn.KindOf(err) != firn.Exists {
		t.Errorf("create of what was put: %v, want firn.Exists", err)
	}
	if err := d.Delete(t.Context(), "put"); err != nil {
		t.Fatal(err)
	}
	if err := create("put", []byte("3")); err != nil {
		t.Errorf("create of what was deleted: %v", err)
	}
	want(t, d, "put", []byte("3"))
	put(t, d, "put", []byte("4"))
	want(t, d, "put", []byte("4"))
	// A create that failed has not created.
	if err := c.Create(t.Context(), "again", &source{p: []byte("12"), size: 3, fail: -1}); firn.KindOf(err) != firn.Invalid {
		t.Errorf("create from a short source: %v, want firn.Invalid", err)
	}
	if err := create("again", []byte("123")); err != nil {
		t.Errorf("create after one that failed: %v", err)
	}
	wantKeys(t, d, "", "again", "dir/0", "dir/1", "dir/2", "put")
}

func (s *suite) stage(t *testing.T) {
	d := s.fresh(t)
	if _, ok := blob.As[driver.Stager](d); !ok {
		return
	}
	store := blob.New(d, "stage:")
	put(t, d, "dir/1", []byte("old"))
	for i, size := range []int64{0, 10, 1 << 20, 3<<20 + 17} {
		for _, key := range []string{"dir/1", fmt.Sprintf("new/%d", i)} {
			was, wasErr := read(t.Context(), d, key, 0, -1)
			p := version(uint64(i), size)
			src := newSource(bytes.Clone(p))
			commit, err := store.Stage(t.Context(), key, src)
			if err = errors.Join(err, src.done()); err != nil {
				t.Fatalf("stage of %d bytes: %v", size, err)
			}
			clear(src.p) // the caller's again
			if got, err := read(t.Context(), d, key, 0, -1); !bytes.Equal(got, was) || firn.KindOf(err) != firn.KindOf(wasErr) {
				t.Errorf("before the commit of %s: %d bytes, %v; want %d, %v", key, len(got), err, len(was), wasErr)
			}
			if err := commit(t.Context()); err != nil {
				t.Fatalf("commit of %d bytes: %v", size, err)
			}
			want(t, d, key, p)
		}
	}
	// One that is dropped, or fails, changes nothing.
	commit, err := store.Stage(t.Context(), "dir/1", blob.Bytes([]byte("dropped")))
	if err != nil {
		t.Fatal(err)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if err := commit(ended); !errors.Is(err, context.Canceled) {
		t.Errorf("a commit with a context that ended: %v", err)
	}
	if _, err := store.Stage(t.Context(), "dir/1", &source{p: []byte("12"), size: 3, fail: -1}); firn.KindOf(err) != firn.Invalid {
		t.Errorf("stage from a short source: %v, want firn.Invalid", err)
	}
	if _, err := store.Stage(t.Context(), "../x", blob.Bytes(nil)); firn.KindOf(err) != firn.Invalid {
		t.Errorf("stage of no key: %v, want firn.Invalid", err)
	}
	want(t, d, "dir/1", version(3, 3<<20+17))
	wantKeys(t, d, "", "dir/1", "new/0", "new/1", "new/2", "new/3")
}

func (s *suite) apply(t *testing.T) {
	d := s.fresh(t)
	b, ok := blob.As[driver.Batcher](d)
	if !ok {
		return
	}
	apply := func(changes ...driver.Change) error { return b.Apply(t.Context(), changes) }
	data := func(p string) driver.Source { return blob.Bytes([]byte(p)) }
	if err := apply(); err != nil {
		t.Errorf("no changes: %v", err)
	}
	put(t, d, "old", []byte("old"))
	put(t, d, "kept", []byte("kept"))
	if err := apply(
		driver.Change{Key: "new/1", Put: data("1")}, driver.Change{Key: "old"}, driver.Change{Key: "never"},
		driver.Change{Key: "kept", Put: data("")}, driver.Change{Key: "new/2", Put: blob.Bytes(version(3, 300_000))},
	); err != nil {
		t.Fatal(err)
	}
	wantNone(t, d, "old")
	want(t, d, "new/1", []byte("1"))
	want(t, d, "kept", nil)
	want(t, d, "new/2", version(3, 300_000))

	// All or nothing, wherever in the batch the failure is.
	for at := range 3 {
		changes := []driver.Change{
			{Key: "new/1", Put: data("changed")}, {Key: "kept"}, {Key: "new/3", Put: blob.Bytes(version(4, 200_000))},
		}
		bad := driver.Change{Key: "bad", Put: &source{p: version(5, 100_000), size: 100_001, fail: -1}}
		changes = append(changes[:at:at], append([]driver.Change{bad}, changes[at:]...)...)
		if err := apply(changes...); firn.KindOf(err) != firn.Invalid {
			t.Errorf("a batch with a short source at place %d: %v, want firn.Invalid", at, err)
		}
		want(t, d, "new/1", []byte("1"))
		want(t, d, "kept", nil)
		wantNone(t, d, "bad")
		wantNone(t, d, "new/3")
	}
	// Batches at once over the same keys: at the end all keys are of one batch.
	g, ctx := errgroup.WithContext(t.Context())
	for w := range 4 {
		g.Go(func() error {
			for i := range 5 {
				p := text("batch %d of writer %d", i, w)
				if err := b.Apply(ctx, []driver.Change{
					{Key: "x", Put: blob.Bytes(p)}, {Key: "y/z", Put: blob.Bytes(p)}, {Key: "w", Put: blob.Bytes(p)},
				}); err != nil {
					return err
				}
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	p, err := read(t.Context(), d, "x", 0, -1)
	if err != nil {
		t.Fatal(err)
	}
	want(t, d, "y/z", p)
	want(t, d, "w", p)
}

func (s *suite) deleteAll(t *testing.T) {
	d := s.fresh(t)
	b, ok := blob.As[driver.BulkDeleter](d)
	if !ok {
		return
	}
	if err := b.DeleteAll(t.Context(), nil); err != nil {
		t.Errorf("no keys: %v", err)
	}
	// More than backends take in one request, which is often 1000; most of them not there.
	keys := []string{"dir/a b", "dir/é&<x>", "dir/+%2F", "last"}
	for _, key := range keys {
		put(t, d, key, []byte(key))
	}
	put(t, d, "kept", nil)
	put(t, d, "dir/kept", nil)
	for i := range 1100 {
		keys = append(keys, fmt.Sprintf("none/%d", i))
	}
	for range 2 {
		if err := b.DeleteAll(t.Context(), keys); err != nil {
			t.Fatal(err)
		}
		wantKeys(t, d, "", "dir/kept", "kept")
	}
}

func (s *suite) space(t *testing.T) {
	d := s.fresh(t)
	m, ok := blob.As[driver.Measurer](d)
	if !ok {
		return
	}
	put(t, d, "blob", version(1, 1<<20))
	space, err := m.Space(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if space.Total < -1 || space.Free < -1 || space.Total == 0 || space.Total > 0 && space.Free > space.Total {
		t.Errorf("space is %+v", space)
	}
}

// secondClient: what one client was told is done, another sees at once.
func (s *suite) secondClient(t *testing.T) {
	if s.second == nil {
		return
	}
	d := s.fresh(t)
	o := s.other(t, d)
	for i, size := range []int64{10, 0, 100_000, 5} {
		p := version(uint64(i), size)
		put(t, d, "dir/blob", p)
		want(t, o, "dir/blob", p)
		wantKeys(t, o, "", "dir/blob")
	}
	if err := o.Delete(t.Context(), "dir/blob"); err != nil {
		t.Fatal(err)
	}
	wantNone(t, d, "dir/blob")
	wantKeys(t, d, "")
	put(t, o, "dir/blob", []byte("of the other"))
	want(t, d, "dir/blob", []byte("of the other"))
}

// rootGone: without its root, a driver never says that something is not there.
func (s *suite) rootGone(t *testing.T) {
	if s.gone == nil {
		return
	}
	d := s.fresh(t)
	o := s.other(t, d)
	put(t, d, "dir/blob", []byte("x"))
	s.gone(t, d)
	for name, c := range map[string]driver.Driver{"the client": d, "a second client": o} {
		for _, prefix := range []string{"", "dir/", "none"} {
			if err := c.List(t.Context(), prefix, func(driver.Info) error { return nil }); err == nil {
				t.Errorf("%s: list %q of a root that is gone says that nothing is there", name, prefix)
			}
		}
		if err := c.Put(context.WithoutCancel(t.Context()), "dir/new", blob.Bytes([]byte("y"))); err == nil {
			t.Errorf("%s: put into a root that is gone succeeded", name)
		}
	}
}
