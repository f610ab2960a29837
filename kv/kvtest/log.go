package kvtest

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"firn/kv"
)

// logEntries returns the durable entries from a number on as "seq:data".
func logEntries(t *testing.T, db kv.DB, from uint64) []string {
	t.Helper()
	var out []string
	err := db.ReadLog(t.Context(), from, func(e kv.LogEntry) error {
		out = append(out, fmt.Sprintf("%d:%s", e.Seq, e.Data))
		return nil
	})
	if err != nil {
		t.Fatalf("ReadLog(%d): %v", from, err)
	}
	return out
}

func logStart(t *testing.T, db kv.DB) uint64 {
	t.Helper()
	n, err := db.LogStart()
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func testLog(t *testing.T, db kv.DB) {
	if tail, start := db.LogTail(), logStart(t, db); tail != 0 || start != 1 {
		t.Errorf("fresh log: tail %d, start %d", tail, start)
	}
	if got := logEntries(t, db, 1); got != nil {
		t.Errorf("fresh log: %v", got)
	}
	update(t, db, func(tx kv.Tx) { tx.Log([]byte("a")); tx.Set([]byte("k"), nil); tx.Log([]byte("b")) })
	update(t, db, func(tx kv.Tx) { tx.Set([]byte("k"), nil) })
	update(t, db, func(tx kv.Tx) { tx.Log(nil) })
	if diff := cmp.Diff([]string{"1:a", "2:b", "3:"}, logEntries(t, db, 1)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"3:"}, logEntries(t, db, 3)); diff != "" {
		t.Errorf("from 3 (-want +got):\n%s", diff)
	}
	if got := logEntries(t, db, 4); got != nil {
		t.Errorf("past the tail: %v", got)
	}
	if tail := db.LogTail(); tail != 3 {
		t.Errorf("tail %d", tail)
	}
	boom, n := errors.New("boom"), 0
	err := db.ReadLog(t.Context(), 1, func(kv.LogEntry) error { n++; return boom })
	if !errors.Is(err, boom) || n != 1 {
		t.Errorf("ReadLog went on after an error: %v, %d calls", err, n)
	}
}

// testLogGapless lets many write at once and checks that numbers have no gaps, that entries of a transaction stay
// together and that their order is the order of commits of one key.
func testLogGapless(t *testing.T, db kv.DB) {
	const workers, rounds = 16, 30
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			for i := range rounds {
				err := db.Update(t.Context(), func(tx kv.Tx) error {
					tx.Log(fmt.Appendf(nil, "%d/%d/first", w, i))
					tx.Set(fmt.Appendf(nil, "%d", w), fmt.Append(nil, i))
					tx.Log(fmt.Appendf(nil, "%d/%d/second", w, i))
					return nil
				}, fmt.Appendf(nil, "lock%d", w))
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	// A reader that follows sees no gap either.
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	followed := make(chan error, 1)
	go func() {
		next := uint64(1)
		for next <= workers*rounds*2 {
			if err := db.WaitLog(ctx, next-1); err != nil {
				followed <- err
				return
			}
			err := db.ReadLog(ctx, next, func(e kv.LogEntry) error {
				if e.Seq != next {
					return fmt.Errorf("entry %d where %d was due", e.Seq, next)
				}
				next++
				return nil
			})
			if err != nil {
				followed <- err
				return
			}
		}
		followed <- nil
	}()
	wg.Wait()
	if err := <-followed; err != nil {
		t.Errorf("follower: %v", err)
	}
	round := make([]int, workers)
	var open string
	for i, e := range logEntries(t, db, 1) {
		var seq, w, r int
		var which string
		if _, err := fmt.Sscanf(e, "%d:%d/%d/%s", &seq, &w, &r, &which); err != nil {
			t.Fatal(e, err)
		}
		if seq != i+1 {
			t.Fatalf("entry %d has number %d", i+1, seq)
		}
		name := fmt.Sprintf("%d/%d", w, r)
		switch {
		case which == "first" && open == "" && round[w] == r:
			open = name
		case which == "second" && open == name:
			open = ""
			round[w]++
		default:
			t.Fatalf("%s out of order", e)
		}
	}
}

func testLogWait(t *testing.T, db kv.DB) {
	ctx, cancel := context.WithCancel(t.Context())
	got := make(chan error, 1)
	go func() { got <- db.WaitLog(ctx, 0) }()
	cancel()
	if err := <-got; !errors.Is(err, context.Canceled) {
		t.Errorf("WaitLog = %v", err)
	}
	go func() { got <- db.WaitLog(t.Context(), 1) }()
	update(t, db, func(tx kv.Tx) { tx.Log([]byte("1")) })
	update(t, db, func(tx kv.Tx) { tx.Log([]byte("2")) })
	if err := <-got; err != nil {
		t.Errorf("WaitLog = %v", err)
	}
	if tail := db.LogTail(); tail < 2 {
		t.Errorf("tail %d after WaitLog(1)", tail)
	}
	if err := db.WaitLog(t.Context(), 0); err != nil {
		t.Errorf("WaitLog for the past = %v", err)
	}
}

func testLogTrim(t *testing.T, db kv.DB) {
	for i := range 10 {
		update(t, db, func(tx kv.Tx) { tx.Log(fmt.Append(nil, i+1)) })
	}
	trim := func(before, wantStart uint64) {
		t.Helper()
		if err := db.TrimLog(t.Context(), before); err != nil {
			t.Fatal(err)
		}
		if got := logStart(t, db); got != wantStart {
			t.Errorf("TrimLog(%d): start %d, want %d", before, got, wantStart)
		}
	}
	trim(1, 1)
	trim(4, 4)
	trim(2, 4)
	err := db.ReadLog(t.Context(), 3, func(kv.LogEntry) error { return nil })
	if !errors.Is(err, kv.ErrTrimmed) {
		t.Errorf("ReadLog of a trimmed entry = %v", err)
	}
	if diff := cmp.Diff([]string{"4:4", "5:5"}, logEntries(t, db, 4)[:2]); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	trim(1000, 10)
	if diff := cmp.Diff([]string{"10:10"}, logEntries(t, db, 10)); diff != "" {
		t.Errorf("the newest entry must stay (-want +got):\n%s", diff)
	}
	update(t, db, func(tx kv.Tx) { tx.Log([]byte("11")) })
	if diff := cmp.Diff([]string{"10:10", "11:11"}, logEntries(t, db, 10)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// testLogTrimWhileReading trims under readers: they see a run without gaps, or ErrTrimmed.
func testLogTrimWhileReading(t *testing.T, db kv.DB) {
	const entries = 400
	var wg sync.WaitGroup
	wg.Go(func() {
		for i := range entries / 4 {
			err := db.Update(t.Context(), func(tx kv.Tx) error {
				for j := range 4 {
					tx.Log(fmt.Append(nil, i*4+j+1))
				}
				return nil
			})
			if err != nil {
				t.Error(err)
			}
			if i%5 == 4 {
				if err := db.TrimLog(t.Context(), uint64(i*4-7)); err != nil {
					t.Error(err)
				}
			}
		}
	})
	for range 3 {
		wg.Go(func() {
			next := uint64(1)
			for next <= entries {
				err := db.ReadLog(t.Context(), next, func(e kv.LogEntry) error {
					if e.Seq != next || string(e.Data) != fmt.Sprint(next) {
						return fmt.Errorf("entry %d (%s) where %d was due", e.Seq, e.Data, next)
					}
					next++
					return nil
				})
				switch {
				case errors.Is(err, kv.ErrTrimmed):
					start, err := db.LogStart()
					if err != nil || start <= next {
						t.Errorf("ErrTrimmed at %d, but the log starts at %d (%v)", next, start, err)
						return
					}
					next = start
				case err != nil:
					t.Error(err)
					return
				}
				if err := db.WaitLog(t.Context(), min(next, entries)-1); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
}
