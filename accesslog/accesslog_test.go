package accesslog

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"firn"
	"firn/kv"
	"firn/kv/pebblekv"
	"firn/vfs"
)

func openDB(t *testing.T, fsys vfs.FS) kv.DB {
	t.Helper()
	db, err := pebblekv.Open(fsys, "kv", pebblekv.Options{CacheBytes: 8 << 20})
	if err != nil {
		t.Fatal(err)
	}
	return db
}

// target keeps what is delivered to it, by bucket and day, and fails where told.
type target struct {
	got   map[slot]string
	calls int
	err   map[uint64]error
}

func (d *target) deliver(_ context.Context, bucket uint64, day time.Time, lines []byte) error {
	d.calls++
	if err := d.err[bucket]; err != nil {
		return err
	}
	if d.got == nil {
		d.got = make(map[slot]string)
	}
	d.got[slot{bucket, uint32(day.Unix() / 86400)}] += string(lines)
	return nil
}

// running runs a Log in a bubble until the returned function is called.
func running(t *testing.T, db kv.DB, d *target, every time.Duration) (*Log, func()) {
	t.Helper()
	l, err := Open(t.Context(), db, d.deliver, Options{Every: every})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- l.Run(ctx) }()
	return l, func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

var day = time.Date(2026, 11, 21, 23, 59, 0, 0, time.UTC)

func TestDelivery(t *testing.T) {
	db := openDB(t, vfs.NewMem())
	defer db.Close()
	d := &target{}
	l, err := Open(t.Context(), db, d.deliver, Options{})
	if err != nil {
		t.Fatal(err)
	}
	l.Note(7, day, []byte("one\n"))
	l.Note(7, day.Add(time.Hour), []byte("the day after\n"))
	l.Note(8, day, []byte("other\n"))
	l.spool(t.Context())
	l.Note(7, day, []byte("two\n"))
	l.spool(t.Context())
	if d.calls != 0 {
		t.Fatal("delivered before the time")
	}
	l.deliverAll(t.Context(), 0)
	n := uint32(day.Unix() / 86400)
	want := map[slot]string{{7, n}: "one\ntwo\n", {7, n + 1}: "the day after\n", {8, n}: "other\n"}
	if fmt.Sprint(d.got) != fmt.Sprint(want) || d.calls != 3 {
		t.Errorf("%d deliveries: %v, want %v", d.calls, d.got, want)
	}
	if s := l.Stats(); s != (Stats{Lines: 4, Delivered: 3}) {
		t.Errorf("%+v", s)
	}
	l.deliverAll(t.Context(), 0)
	if d.calls != 3 {
		t.Error("delivered twice")
	}
}

// What was spooled survives a crash and is delivered by the next process.
func TestCrash(t *testing.T) {
	mem := vfs.NewCrashableMem()
	db := openDB(t, mem)
	l, err := Open(t.Context(), db, (&target{}).deliver, Options{})
	if err != nil {
		t.Fatal(err)
	}
	l.Note(7, day, []byte("one\n"))
	l.spool(t.Context())
	l.Note(7, day, []byte("two\n"))
	l.spool(t.Context())
	after := vfs.CrashClone(mem)
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	db = openDB(t, after)
	defer db.Close()
	d := &target{}
	l, err = Open(t.Context(), db, d.deliver, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if s := l.Stats(); s.Spooled != 8 {
		t.Errorf("%d bytes are spooled, want 8", s.Spooled)
	}
	l.Note(7, day, []byte("three\n"))
	l.spool(t.Context())
	l.deliverAll(t.Context(), 0)
	if got := d.got[slot{7, uint32(day.Unix() / 86400)}]; got != "one\ntwo\nthree\n" {
		t.Errorf("delivered %q", got)
	}
}

func TestTimes(t *testing.T) {
	d := &target{}
	synctest.Test(t, func(t *testing.T) {
		db := openDB(t, vfs.NewMem())
		defer db.Close()
		l, stop := running(t, db, d, 5*time.Minute)
		l.Note(7, day, []byte("one\n"))
		time.Sleep(4 * time.Minute)
		synctest.Wait()
		if d.calls != 0 || l.Stats().Spooled != 4 {
			t.Errorf("after 4 minutes: %d deliveries, %+v", d.calls, l.Stats())
		}
		time.Sleep(time.Minute + time.Second)
		synctest.Wait()
		if d.calls != 1 {
			t.Errorf("after 5 minutes: %d deliveries", d.calls)
		}
		// Much of it does not wait.
		l.Note(7, day, append(bytes.Repeat([]byte("x"), enough), '\n'))
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if d.calls != 2 {
			t.Errorf("%d deliveries: a large log waits", d.calls)
		}
		// Nor does anything at the end.
		l.Note(8, day, []byte("last\n"))
		stop()
		if d.got[slot{8, uint32(day.Unix() / 86400)}] != "last\n" {
			t.Error("the last lines were not delivered at the end")
		}
	})
}

// A bucket whose target fails is tried again and holds up no other; one whose target is gone loses its lines, which is
// counted.
func TestFailures(t *testing.T) {
	db := openDB(t, vfs.NewMem())
	defer db.Close()
	d := &target{err: map[uint64]error{
		7: errors.New("away"), 8: firn.NewError(firn.Denied, "the policy denies"), 9: firn.NewError(firn.NotFound, "gone"),
	}}
	l, err := Open(t.Context(), db, d.deliver, Options{})
	if err != nil {
		t.Fatal(err)
	}
	for b := range uint64(5) {
		l.Note(6+b, day, []byte("one\ntwo\n"))
	}
	l.spool(t.Context())
	l.deliverAll(t.Context(), 0)
	n := uint32(day.Unix() / 86400)
	if d.got[slot{6, n}] == "" || d.got[slot{10, n}] == "" {
		t.Error("one failure held up others")
	}
	if s := l.Stats(); s != (Stats{Lines: 5, Dropped: 4, Delivered: 2, Failed: 1, Spooled: 8}) {
		t.Errorf("%+v", s)
	}
	calls := d.calls
	l.deliverAll(t.Context(), 0)
	if d.calls != calls {
		t.Error("tried again before its turn")
	}
	clear(l.held)
	d.err = nil
	l.deliverAll(t.Context(), 0)
	if d.got[slot{7, n}] != "one\ntwo\n" {
		t.Error("not tried again")
	}
}

func TestBounds(t *testing.T) {
	db := openDB(t, vfs.NewMem())
	defer db.Close()
	l, err := Open(t.Context(), db, (&target{}).deliver, Options{})
	if err != nil {
		t.Fatal(err)
	}
	line := []byte(strings.Repeat("x", 64<<10-1) + "\n")
	for range 2 * maxWaiting / len(line) {
		l.Note(7, day, line)
	}
	if s := l.Stats(); s.Lines != maxWaiting/int64(len(line)) || s.Dropped != s.Lines {
		t.Errorf("in memory: %+v", s)
	}
	for range 2 * maxBucket / maxWaiting {
		l.spool(t.Context())
		for range maxWaiting / len(line) {
			l.Note(7, day, line)
		}
	}
	if s := l.Stats(); s.Spooled > maxBucket || s.Spooled < maxBucket/2 {
		t.Errorf("%d bytes are spooled for one bucket", s.Spooled)
	}
	// Another one has room yet.
	was := l.Stats().Spooled
	l.spool(t.Context())
	l.Note(8, day, line)
	l.spool(t.Context())
	if s := l.Stats(); s.Spooled != was+int64(len(line)) {
		t.Error("one bucket's log took the room of another's")
	}
}
