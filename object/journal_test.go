package object

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"firn/hlc"
	"firn/kv"
	"firn/object/record"
	"firn/vfs"
)

func (f *fixture) journal(from uint64) (got []string) {
	f.t.Helper()
	next := from
	if err := f.Journal(f.t.Context(), from, func(e record.Entry) error {
		if e.Seq != next || e.Site != 1 || e.Clock == 0 {
			f.t.Fatalf("%+v, want number %d", e, next)
		}
		next++
		got = append(got, fmt.Sprintf("%s %s/%s %s %d %v %v", e.Op, e.Bucket, e.Key, e.VersionID, e.Size, e.Replaced, e.Delta))
		return nil
	}); err != nil {
		f.t.Fatal(err)
	}
	return got
}

func TestJournalHoldsEveryMutation(t *testing.T) {
	f := newFixture(t, vfs.NewMem(), Options{})
	ctx := t.Context()
	f.bucket("bucket", BucketOptions{})
	f.put("bucket", "k", "12345")
	f.put("bucket", "k", "123")
	f.delete("bucket", "absent", "")
	f.versioning("bucket", record.VersioningEnabled)
	v := f.put("bucket", "k", "12")
	m := f.delete("bucket", "k", "")
	f.delete("bucket", "k", m.VersionID)
	if _, err := f.UpdateVersion(ctx, "bucket", "k", "null", false, func(v *record.Version) error { v.ACL = []byte("x"); return nil }); err != nil {
		t.Fatal(err)
	}
	id, err := f.CreateUpload(ctx, "bucket", "m", PutOptions{})
	if err != nil {
		t.Fatal(err)
	}
	mp, err := f.CompleteUpload(ctx, "bucket", "m", id, listed1(f.part("m", id, 1, "abc")), CompleteOptions{Size: -1})
	if err != nil {
		t.Fatal(err)
	}
	f.delete("bucket", "m", mp.ID)
	f.delete("bucket", "k", v.ID)
	f.delete("bucket", "k", "null")
	if err := f.DeleteBucket(ctx, "bucket"); err != nil {
		t.Fatal(err)
	}
	want := []string{
		"create-bucket bucket/  0 false {0 0 0}",
		"put bucket/k null 5 false {1 1 5}",
		"put bucket/k null 3 true {0 0 -2}",
		"update-bucket bucket/  0 false {0 0 0}",
		"put bucket/k " + v.ID + " 2 false {0 1 2}",
		"delete-marker bucket/k " + m.VersionID + " 0 false {-1 1 0}",
		"delete bucket/k " + m.VersionID + " 0 false {1 -1 0}",
		"update bucket/k null 0 false {0 0 0}",
		"put bucket/m " + mp.ID + " 3 false {1 1 3}",
		"delete bucket/m " + mp.ID + " 0 false {-1 -1 -3}",
		"delete bucket/k " + v.ID + " 0 false {0 -1 -2}",
		"delete bucket/k null 0 false {-1 -1 -3}",
		"delete-bucket bucket/  0 false {0 0 0}",
	}
	if got := f.journal(1); !slices.Equal(got, want) {
		t.Fatalf("got\n%q\nwant\n%q", got, want)
	}
	if tail := f.JournalTail(); tail != uint64(len(want)) {
		t.Fatal(tail)
	}
	f.reopen()
	if got := f.journal(4); !slices.Equal(got, want[3:]) {
		t.Fatalf("after reopening: %q", got)
	}
	stop := errors.New("stop")
	if err := f.Journal(ctx, 1, func(record.Entry) error { return stop }); !errors.Is(err, stop) {
		t.Fatal(err)
	}
}

func TestCursorsHoldTheJournal(t *testing.T) {
	f := newFixture(t, vfs.NewMem(), Options{JournalKeepEntries: 1, JournalKeepAge: time.Hour})
	ctx := t.Context()
	f.bucket("bucket", BucketOptions{})
	// Entries of no meaning stand for a long journal.
	for range 50 {
		if err := f.db.Update(ctx, func(tx kv.Tx) error {
			for range 400 {
				tx.Log(record.AppendMutation(nil, &record.Mutation{Op: record.OpPut, Clock: uint64(f.clock.Now()), Site: 1, BucketID: 77, Key: "x"}))
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
	}
	trim := func() uint64 {
		t.Helper()
		if err := f.saveUsage(ctx); err != nil {
			t.Fatal(err)
		}
		if err := f.trimJournal(ctx); err != nil {
			t.Fatal(err)
		}
		start, err := f.JournalStart()
		if err != nil {
			t.Fatal(err)
		}
		return start
	}
	if err := f.SetCursor(ctx, "link/a", 7); err != nil {
		t.Fatal(err)
	}
	if start := trim(); start != 8 {
		t.Fatalf("journal starts at %d", start)
	}
	if c, err := f.Cursor(ctx, "link/a"); err != nil || c != 7 {
		t.Fatal(c, err)
	}
	if c, err := f.Cursor(ctx, "none"); err != nil || c != 0 {
		t.Fatal(c, err)
	}
	if cs, err := f.Cursors(ctx); err != nil || len(cs) != 1 || cs["link/a"] != 7 {
		t.Fatal(cs, err)
	}
	if err := f.RemoveCursor(ctx, "link/a"); err != nil {
		t.Fatal(err)
	}
	if start := trim(); start != f.JournalTail()-minJournal {
		t.Fatalf("journal starts at %d, tail %d", start, f.JournalTail())
	}
	if err := f.Journal(ctx, 1, func(record.Entry) error { return nil }); !errors.Is(err, kv.ErrTrimmed) {
		t.Fatal(err)
	}
}

func TestJournalIsTrimmedByAge(t *testing.T) {
	f := newFixture(t, vfs.NewMem(), Options{JournalKeepAge: time.Hour})
	ctx := t.Context()
	write := func(n int) {
		t.Helper()
		if err := f.db.Update(ctx, func(tx kv.Tx) error {
			for range n {
				tx.Log(record.AppendMutation(nil, &record.Mutation{Op: record.OpPut, Clock: uint64(f.clock.Now()), Site: 1, BucketID: 77, Key: "x"}))
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
	}
	write(500)
	f.now.advance(50 * time.Minute)
	write(minJournal + 500)
	f.now.advance(20 * time.Minute)
	if err := f.saveUsage(ctx); err != nil {
		t.Fatal(err)
	}
	if err := f.trimJournal(ctx); err != nil {
		t.Fatal(err)
	}
	if start, err := f.JournalStart(); err != nil || start != 501 {
		t.Fatalf("journal starts at %d, %v; want the first entry younger than an hour", start, err)
	}
}

func TestClockNeverGoesBack(t *testing.T) {
	f := newFixture(t, vfs.NewMem(), Options{})
	f.bucket("bucket", BucketOptions{})
	f.versioning("bucket", record.VersioningEnabled)
	v1 := f.put("bucket", "k", "1")
	f.now.advance(-24 * time.Hour)
	v2 := f.put("bucket", "k", "2")
	f.reopen()
	v3 := f.put("bucket", "k", "3")
	if v2.Clock <= v1.Clock || v3.Clock <= v2.Clock {
		t.Fatalf("clocks %d %d %d", v1.Clock, v2.Clock, v3.Clock)
	}
	f.want("bucket", "k", "", "3")
	if d := hlc.Time(v3.Clock).Wall().Sub(hlc.Time(v1.Clock).Wall()); d > time.Second {
		t.Fatalf("the clock moved by %v", d)
	}
	if got := f.versions("bucket", 10); len(got) != 3 {
		t.Fatal(got)
	}
}

func TestUsageIsReplayedFromTheJournal(t *testing.T) {
	f := newFixture(t, vfs.NewMem(), Options{})
	ctx := t.Context()
	f.bucket("bucket", BucketOptions{})
	f.bucket("other", BucketOptions{})
	for i := range 20 {
		f.put("bucket", fmt.Sprint(i%7), "abc")
		f.put("other", fmt.Sprint(i), "")
		switch i {
		case 5, 11:
			if err := f.saveUsage(ctx); err != nil {
				t.Fatal(err)
			}
		}
	}
	want := f.usage("bucket")
	if want != (record.Usage{Objects: 7, Versions: 7, Bytes: 21}) {
		t.Fatalf("%+v", want)
	}
	// Without Close, as after a crash: the counters stored at the second save, and the journal since.
	s, err := Open(ctx, f.fs, "data", f.db, f.o)
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]record.Usage{"bucket": want, "other": {Objects: 20, Versions: 20}} {
		if got, err := s.Usage(ctx, name); err != nil || got != want {
			t.Fatalf("%s: %+v, %v; want %+v", name, got, err, want)
		}
	}
	s.blobs.Close()
	f.check()
}
