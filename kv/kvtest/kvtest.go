// Package kvtest is the conformance suite of kv engines: what kv.DB says, checked from outside.
//
// It owns the tests that any engine runs with Run and, where it can crash, RunCrash. It must never import an engine.
package kvtest

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"

	"firn/kv"
)

// Open returns an empty DB. The engine's test closes it after the test, should it still be open.
type Open func(t *testing.T) kv.DB

// Run runs the suite. Each test gets a DB of its own.
func Run(t *testing.T, open Open) {
	for _, c := range []struct {
		name string
		fn   func(*testing.T, kv.DB)
	}{
		{"GetSetDelete", testGetSetDelete},
		{"KeyLimits", testKeyLimits},
		{"Atomicity", testAtomicity},
		{"OwnWritesUnseen", testOwnWrites},
		{"Iterator", testIterator},
		{"IteratorSnapshot", testIteratorSnapshot},
		{"DeleteRange", testDeleteRange},
		{"LargeValues", testLargeValues},
		{"LockExclusion", testLockExclusion},
		{"LockOrder", testLockOrder},
		{"Exclusive", testExclusive},
		{"PanicReleasesLocks", testPanic},
		{"Log", testLog},
		{"LogGapless", testLogGapless},
		{"LogWait", testLogWait},
		{"LogTrim", testLogTrim},
		{"LogTrimWhileReading", testLogTrimWhileReading},
		{"Context", testContext},
		{"Close", testClose},
		{"Model", testModel},
	} {
		t.Run(c.name, func(t *testing.T) { c.fn(t, open(t)) })
	}
}

func update(t *testing.T, db kv.DB, fn func(kv.Tx), locks ...string) {
	t.Helper()
	err := db.Update(t.Context(), func(tx kv.Tx) error {
		fn(tx)
		return nil
	}, names(locks)...)
	if err != nil {
		t.Fatalf("Update: %v", err)
	}
}

func names(s []string) [][]byte {
	var out [][]byte
	for _, n := range s {
		out = append(out, []byte(n))
	}
	return out
}

// get returns a value, or "<none>".
func get(t *testing.T, db kv.DB, key string) string {
	t.Helper()
	var v []byte
	err := db.View(t.Context(), func(r kv.Reader) (err error) {
		v, err = r.Get(nil, []byte(key))
		return err
	}, []byte(key))
	if errors.Is(err, kv.ErrNotFound) {
		return "<none>"
	}
	if err != nil {
		t.Fatalf("Get %q: %v", key, err)
	}
	return string(v)
}

// all returns the pairs in a range as "key=value".
func all(t *testing.T, db kv.DB, lower, upper string) []string {
	t.Helper()
	var out []string
	err := db.View(t.Context(), func(r kv.Reader) error {
		it, err := r.Iter([]byte(lower), []byte(upper))
		if err != nil {
			return err
		}
		defer it.Close()
		for it.Next() {
			v, err := it.Value()
			if err != nil {
				return err
			}
			out = append(out, fmt.Sprintf("%s=%s", it.Key(), v))
		}
		return it.Err()
	})
	if err != nil {
		t.Fatalf("scan: %v", err)
	}
	return out
}

func testGetSetDelete(t *testing.T, db kv.DB) {
	if got := get(t, db, "a"); got != "<none>" {
		t.Errorf("fresh: %q", got)
	}
	update(t, db, func(tx kv.Tx) {
		tx.Set([]byte("a"), []byte("1"))
		tx.SetSplit([]byte("b"), []byte("2"), nil, []byte("34"))
		tx.Set([]byte("empty"), nil)
		tx.Delete([]byte("never there"))
	}, "a")
	for key, want := range map[string]string{"a": "1", "b": "234", "empty": ""} {
		if got := get(t, db, key); got != want {
			t.Errorf("%q = %q, want %q", key, got, want)
		}
	}
	update(t, db, func(tx kv.Tx) {
		tx.Set([]byte("a"), []byte("x"))
		tx.Set([]byte("a"), []byte("y"))
		tx.Delete([]byte("b"))
		tx.Delete([]byte("empty"))
		tx.Set([]byte("empty"), []byte("again"))
	}, "a")
	if diff := cmp.Diff([]string{"a=y", "empty=again"}, all(t, db, "", "")); diff != "" {
		t.Errorf("later writes of a transaction must win (-want +got):\n%s", diff)
	}
	// Get appends, and the caller's buffers are copied.
	key, value := []byte("k"), []byte("value")
	update(t, db, func(tx kv.Tx) {
		tx.Set(key, value)
		copy(value, "XXXXX")
		key[0] = 'X'
	})
	err := db.View(t.Context(), func(r kv.Reader) error {
		got, err := r.Get([]byte("prefix-"), []byte("k"))
		if string(got) != "prefix-value" {
			t.Errorf("Get appended to make %q", got)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

func testKeyLimits(t *testing.T, db kv.DB) {
	long := bytes.Repeat([]byte{'k'}, kv.MaxKey)
	update(t, db, func(tx kv.Tx) { tx.Set(long, []byte("v")) })
	if got := get(t, db, string(long)); got != "v" {
		t.Errorf("longest key: %q", got)
	}
	for name, key := range map[string][]byte{"empty": nil, "long": append(long, 'k'), "reserved": {0xFF, 'x'}} {
		err := db.Update(t.Context(), func(tx kv.Tx) error {
			tx.Set([]byte("other"), []byte("v"))
			tx.Set(key, []byte("v"))
			return nil
		})
		if err == nil {
			t.Errorf("%s key was taken", name)
		}
	}
	if got := get(t, db, "other"); got != "<none>" {
		t.Errorf("part of a refused transaction was committed: %q", got)
	}
	// 0xFE and zero bytes are ordinary.
	update(t, db, func(tx kv.Tx) { tx.Set([]byte{0xFE, 0xFF, 0}, []byte("v")) })
	if got := get(t, db, "\xFE\xFF\x00"); got != "v" {
		t.Errorf("high key: %q", got)
	}
}

func testAtomicity(t *testing.T, db kv.DB) {
	boom := errors.New("boom")
	err := db.Update(t.Context(), func(tx kv.Tx) error {
		tx.Set([]byte("a"), []byte("1"))
		tx.Log([]byte("entry"))
		return boom
	})
	if !errors.Is(err, boom) {
		t.Errorf("Update = %v, want fn's error", err)
	}
	if got := all(t, db, "", ""); got != nil {
		t.Errorf("a failed Update left %v", got)
	}
	if n := db.LogTail(); n != 0 {
		t.Errorf("a failed Update logged: tail %d", n)
	}
	// Two keys always change together, whoever looks.
	update(t, db, func(tx kv.Tx) { tx.Set([]byte("x"), []byte("0")); tx.Set([]byte("y"), []byte("0")) })
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		defer close(stop)
		for i := range 200 {
			v := fmt.Append(nil, i)
			if err := db.Update(t.Context(), func(tx kv.Tx) error {
				tx.Set([]byte("x"), v)
				tx.Set([]byte("y"), v)
				return nil
			}, []byte("xy")); err != nil {
				t.Error(err)
				return
			}
		}
	})
	for done := false; !done; {
		select {
		case <-stop:
			done = true
		default:
		}
		if got := all(t, db, "x", "z"); len(got) != 2 || got[0][2:] != got[1][2:] {
			t.Fatalf("torn: %v", got)
		}
	}
	wg.Wait()
}

func testOwnWrites(t *testing.T, db kv.DB) {
	update(t, db, func(tx kv.Tx) { tx.Set([]byte("a"), []byte("old")) })
	update(t, db, func(tx kv.Tx) {
		tx.Set([]byte("a"), []byte("new"))
		if v, err := tx.Get(nil, []byte("a")); err != nil || string(v) != "old" {
			t.Errorf("Get in the transaction = %q, %v", v, err)
		}
	})
}

func testIterator(t *testing.T, db kv.DB) {
	keys := []string{"a", "a\x00", "a\x00b", "aa", "b", "b\xFF", "c", "\xFE"}
	update(t, db, func(tx kv.Tx) {
		for _, k := range keys {
			tx.Set([]byte(k), []byte(k))
		}
		tx.Log([]byte("not to be seen"))
	})
	view := func(lower, upper string, fn func(kv.Iterator)) {
		t.Helper()
		err := db.View(t.Context(), func(r kv.Reader) error {
			it, err := r.Iter([]byte(lower), []byte(upper))
			if err != nil {
				return err
			}
			fn(it)
			if err := it.Err(); err != nil {
				t.Error(err)
			}
			return it.Close()
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	forward := func(lower, upper string) (out []string) {
		view(lower, upper, func(it kv.Iterator) {
			for ok := it.First(); ok; ok = it.Next() {
				out = append(out, string(it.Key()))
			}
		})
		return out
	}
	backward := func(lower, upper string) (out []string) {
		view(lower, upper, func(it kv.Iterator) {
			for ok := it.Last(); ok; ok = it.Prev() {
				out = append(out, string(it.Key()))
			}
		})
		return out
	}
	for _, c := range []struct {
		lower, upper string
		want         []string
	}{
		{"", "", keys},
		{"", "\xFF\xFF", keys},
		{"a", "b", keys[:4]},
		{"a\x00", "b\xFF", keys[1:5]},
		{"b", "b\x00", keys[4:5]},
		{"x", "y", nil},
	} {
		if diff := cmp.Diff(c.want, forward(c.lower, c.upper)); diff != "" {
			t.Errorf("[%q, %q) forward (-want +got):\n%s", c.lower, c.upper, diff)
		}
		got := backward(c.lower, c.upper)
		for i, j := 0, len(got)-1; i < j; i, j = i+1, j-1 {
			got[i], got[j] = got[j], got[i]
		}
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("[%q, %q) backward (-want +got):\n%s", c.lower, c.upper, diff)
		}
	}
	view("a", "c", func(it kv.Iterator) {
		step := func(what string, ok bool, want string) {
			t.Helper()
			got := "<none>"
			if ok {
				got = string(it.Key())
			}
			if got != want {
				t.Errorf("%s: at %q, want %q", what, got, want)
			}
		}
		step("Next of a fresh iterator", it.Next(), "a")
		step("SeekGE present", it.SeekGE([]byte("aa")), "aa")
		step("Next", it.Next(), "b")
		step("Prev", it.Prev(), "aa")
		step("SeekGE absent", it.SeekGE([]byte("a\x01")), "aa")
		step("SeekGE below the range", it.SeekGE([]byte("A")), "a")
		step("SeekLT", it.SeekLT([]byte("aa")), "a\x00b")
		step("SeekLT beyond the range", it.SeekLT([]byte("z")), "b\xFF")
		step("SeekLT first", it.SeekLT([]byte("a")), "<none>")
		step("SeekGE beyond the range", it.SeekGE([]byte("c")), "<none>")
		step("SeekGE nothing", it.SeekGE(nil), "a")
		step("SeekLT nothing", it.SeekLT(nil), "<none>")
		step("Last", it.Last(), "b\xFF")
		step("Next at the end", it.Next(), "<none>")
	})
}

func testIteratorSnapshot(t *testing.T, db kv.DB) {
	update(t, db, func(tx kv.Tx) { tx.Set([]byte("a"), []byte("1")); tx.Set([]byte("c"), []byte("1")) })
	err := db.View(t.Context(), func(r kv.Reader) error {
		it, err := r.Iter(nil, nil)
		if err != nil {
			return err
		}
		defer it.Close()
		if !it.First() {
			t.Error("no first key")
		}
		update(t, db, func(tx kv.Tx) {
			tx.Set([]byte("b"), []byte("2"))
			tx.Set([]byte("c"), []byte("2"))
		})
		if !it.Next() || string(it.Key()) != "c" {
			t.Errorf("a later commit is in the iterator: %q", it.Key())
		} else if v, err := it.Value(); err != nil || string(v) != "1" {
			t.Errorf("value %q, %v", v, err)
		}
		if v, err := r.Get(nil, []byte("c")); err != nil || string(v) != "2" {
			t.Errorf("Get beside the iterator = %q, %v: it must read what is committed now", v, err)
		}
		return it.Err()
	})
	if err != nil {
		t.Error(err)
	}
}

func testDeleteRange(t *testing.T, db kv.DB) {
	update(t, db, func(tx kv.Tx) {
		for c := byte('a'); c <= 'f'; c++ {
			tx.Set([]byte{c}, []byte{c})
		}
	})
	update(t, db, func(tx kv.Tx) {
		tx.DeleteRange([]byte("b"), []byte("e"))
		tx.Set([]byte("c"), []byte("kept"))
	})
	if diff := cmp.Diff([]string{"a=a", "c=kept", "e=e", "f=f"}, all(t, db, "", "")); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	err := db.Update(t.Context(), func(tx kv.Tx) error {
		tx.DeleteRange([]byte("a"), []byte{0xFF, 0xFF})
		return nil
	})
	if err == nil {
		t.Error("a range over reserved keys was taken")
	}
	update(t, db, func(tx kv.Tx) { tx.DeleteRange([]byte{0}, []byte{0xFF}) })
	if got := all(t, db, "", ""); got != nil {
		t.Errorf("left %v", got)
	}
}

func testLargeValues(t *testing.T, db kv.DB) {
	for _, n := range []int{1 << 10, 128 << 10, 3 << 20, 20 << 20} {
		value := bytes.Repeat(binary.BigEndian.AppendUint32(nil, uint32(n)), n/4)
		update(t, db, func(tx kv.Tx) {
			tx.Log([]byte("before"))
			tx.SetSplit([]byte("big"), value[:100], value[100:])
			tx.Log(value[:1000])
		}, "big")
		if got := get(t, db, "big"); got != string(value) {
			t.Errorf("value of %d bytes differs", n)
		}
	}
	if got := logEntries(t, db, 1); len(got) != 8 || got[7][:2] != "8:" {
		t.Errorf("%d log entries", len(got))
	}
}

// testLockExclusion adds to a counter under a lock; the counter's own read-modify-write would lose counts otherwise.
func testLockExclusion(t *testing.T, db kv.DB) {
	const workers, rounds = 16, 40
	var inside atomic.Int64
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			for range rounds {
				err := db.Update(t.Context(), func(tx kv.Tx) error {
					if inside.Add(1) != 1 {
						t.Error("two transactions under one lock")
					}
					defer inside.Add(-1)
					v, err := tx.Get(nil, []byte("n"))
					if err != nil && !errors.Is(err, kv.ErrNotFound) {
						return err
					}
					n := uint64(0)
					if len(v) == 8 {
						n = binary.BigEndian.Uint64(v)
					}
					tx.Set([]byte("n"), binary.BigEndian.AppendUint64(nil, n+1))
					return nil
				}, []byte("lock"), []byte("lock"))
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if n := binary.BigEndian.Uint64([]byte(get(t, db, "n"))); n != workers*rounds {
		t.Errorf("counted %d, want %d", n, workers*rounds)
	}
}

// testLockOrder names the same locks in different orders: it would deadlock if they were taken as named.
func testLockOrder(t *testing.T, db kv.DB) {
	var wg sync.WaitGroup
	for w := range 8 {
		wg.Go(func() {
			for i := range 50 {
				var locks [][]byte
				for k := range 6 {
					locks = append(locks, fmt.Appendf(nil, "l%d", (i*7+k*(w+1))%10))
				}
				err := db.Update(t.Context(), func(tx kv.Tx) error {
					if i%3 == 0 {
						tx.Exclusive()
					}
					tx.Set(locks[0], locks[1])
					return nil
				}, locks...)
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
}

func testExclusive(t *testing.T, db kv.DB) {
	const workers, rounds = 8, 40
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			for range rounds {
				// Different locks, so only Exclusive keeps the counter right.
				err := db.Update(t.Context(), func(tx kv.Tx) error {
					tx.Exclusive()
					tx.Exclusive()
					v, err := tx.Get(nil, []byte("n"))
					if err != nil && !errors.Is(err, kv.ErrNotFound) {
						return err
					}
					n := uint64(0)
					if len(v) == 8 {
						n = binary.BigEndian.Uint64(v)
					}
					tx.Set([]byte("n"), binary.BigEndian.AppendUint64(nil, n+1))
					return nil
				}, fmt.Appendf(nil, "lock%d", w))
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if n := binary.BigEndian.Uint64([]byte(get(t, db, "n"))); n != workers*rounds {
		t.Errorf("counted %d, want %d", n, workers*rounds)
	}
	// A transaction that gives up lets go of it too.
	boom := errors.New("boom")
	err := db.Update(t.Context(), func(tx kv.Tx) error { tx.Exclusive(); return boom })
	if !errors.Is(err, boom) {
		t.Error(err)
	}
	update(t, db, func(tx kv.Tx) { tx.Exclusive(); tx.Set([]byte("x"), nil) })
}

func testPanic(t *testing.T, db kv.DB) {
	func() {
		defer func() {
			if recover() == nil {
				t.Error("the panic was swallowed")
			}
		}()
		_ = db.Update(t.Context(), func(tx kv.Tx) error {
			tx.Exclusive()
			panic("fn broke")
		}, []byte("lock"))
	}()
	update(t, db, func(tx kv.Tx) { tx.Exclusive(); tx.Set([]byte("a"), []byte("1")) }, "lock")
}

func testContext(t *testing.T, db kv.DB) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	called := false
	if err := db.Update(ctx, func(kv.Tx) error { called = true; return nil }); !errors.Is(err, context.Canceled) {
		t.Errorf("Update = %v", err)
	}
	if err := db.View(ctx, func(kv.Reader) error { called = true; return nil }); !errors.Is(err, context.Canceled) {
		t.Errorf("View = %v", err)
	}
	if called {
		t.Error("fn was called under a context already done")
	}
	// Waiting for a lock ends with the context.
	held, release := make(chan struct{}), make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		update(t, db, func(kv.Tx) { close(held); <-release }, "lock")
	})
	<-held
	ctx, cancel = context.WithCancel(t.Context())
	got := make(chan error)
	go func() { got <- db.Update(ctx, func(kv.Tx) error { return nil }, []byte("lock")) }()
	cancel()
	if err := <-got; !errors.Is(err, context.Canceled) {
		t.Errorf("Update waiting for a lock = %v", err)
	}
	close(release)
	wg.Wait()
	update(t, db, func(tx kv.Tx) { tx.Set([]byte("a"), nil) }, "lock")
}

func testClose(t *testing.T, db kv.DB) {
	update(t, db, func(tx kv.Tx) { tx.Set([]byte("a"), []byte("1")); tx.Log([]byte("e")) })
	started, release := make(chan struct{}), make(chan struct{})
	got := make(chan error, 2)
	go func() {
		got <- db.Update(t.Context(), func(tx kv.Tx) error {
			close(started)
			<-release
			tx.Set([]byte("b"), []byte("1"))
			return nil
		})
	}()
	<-started
	waiting := make(chan error, 1)
	go func() { waiting <- db.WaitLog(t.Context(), 1) }()
	closed := make(chan error, 1)
	go func() { closed <- db.Close() }()
	if err := <-waiting; !errors.Is(err, kv.ErrClosed) {
		t.Errorf("WaitLog during Close = %v", err)
	}
	select {
	case err := <-closed:
		t.Fatalf("Close did not wait for a running Update: %v", err)
	default:
	}
	close(release)
	if err := <-got; err != nil {
		t.Errorf("the Update that ran = %v", err)
	}
	if err := <-closed; err != nil {
		t.Errorf("Close = %v", err)
	}
	for name, err := range map[string]error{
		"Update":  db.Update(t.Context(), func(kv.Tx) error { return nil }),
		"View":    db.View(t.Context(), func(kv.Reader) error { return nil }),
		"ReadLog": db.ReadLog(t.Context(), 1, func(kv.LogEntry) error { return nil }),
		"WaitLog": db.WaitLog(t.Context(), 0),
		"TrimLog": db.TrimLog(t.Context(), 1),
		"Close":   db.Close(),
	} {
		if !errors.Is(err, kv.ErrClosed) {
			t.Errorf("%s after Close = %v", name, err)
		}
	}
}
