package usekv

import (
	"testing"
	"time"

	"firn/kv/pebblekv"
	"firn/lifecycle"
	"firn/object/record"
	"firn/vfs"
)

func read(n uint64, t time.Time) (u lifecycle.Use) {
	u.Read(n, t)
	return u
}

// TestStore: counts add up over a restart, ranges end where they say, and what is swept is that of one bucket.
func TestStore(t *testing.T) {
	ctx := t.Context()
	fsys := vfs.NewCrashableMem()
	open := func(fsys vfs.FS) (*pebblekv.DB, *Store) {
		db, err := pebblekv.Open(fsys, "kv", pebblekv.Options{})
		if err != nil {
			t.Fatal(err)
		}
		return db, New(db)
	}
	db, s := open(fsys)
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	o := record.MakeOrder(7, 1)
	ids := map[string]string{}
	for _, key := range []string{"a", "a\x00b", "ab", "b", "c"} {
		ids[key] = ID(1, key, o)
	}
	other := ID(2, "b", o)
	var told []string
	for range 2 {
		uses := map[string]lifecycle.Use{other: read(1, now)}
		for _, id := range ids {
			uses[id] = read(2, now)
		}
		if err := s.Add(ctx, uses, func(bucket uint64, key string, u lifecycle.Use) {
			if bucket == 1 && key == "a\x00b" {
				told = append(told, key)
				if u.Reads != uint64(2*len(told)) {
					t.Errorf("%d reads", u.Reads)
				}
			}
		}); err != nil {
			t.Fatal(err)
		}
	}
	if len(told) != 2 {
		t.Errorf("told %q", told)
	}
	crashed := vfs.CrashClone(fsys)
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	db, s = open(crashed)
	defer db.Close()
	got, err := s.Range(ctx, 1, "a\x00b", "b")
	if err != nil || len(got) != 3 {
		t.Fatalf("%v, %v", got, err)
	}
	for _, key := range []string{"a\x00b", "ab", "b"} {
		if u := got[ids[key]]; u.Reads != 4 || !u.Last.Equal(now) {
			t.Errorf("%q: %+v", key, u)
		}
	}
	if err := s.Remove(ctx, []string{ids["ab"]}); err != nil {
		t.Fatal(err)
	}
	if got, err := s.Range(ctx, 1, "", "\xff"); err != nil || len(got) != 4 {
		t.Errorf("%d left, %v", len(got), err)
	}
	if err := s.Sweep(ctx, func(b uint64) bool { return b == 2 }); err != nil {
		t.Fatal(err)
	}
	if got, err := s.Range(ctx, 1, "", "\xff"); err != nil || len(got) != 0 {
		t.Errorf("%d left, %v", len(got), err)
	}
	if got, err := s.Range(ctx, 2, "b", "b"); err != nil || got[other].Reads != 2 {
		t.Errorf("%v, %v", got, err)
	}
}
