package pebblekv_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"firn"
	"firn/kv"
	"firn/kv/kvtest"
	"firn/kv/pebblekv"
	"firn/vfs"
)

func isWALSync(op vfs.Op) bool {
	return strings.HasSuffix(op.Path, ".log") && (op.Kind == vfs.OpSync || op.Kind == vfs.OpSyncData)
}

// heldDB is a DB in a synctest bubble whose syncs of the write-ahead log can be held back.
type heldDB struct {
	*pebblekv.DB
	hold  atomic.Pointer[chan struct{}]
	syncs atomic.Int64
}

func newHeld(t *testing.T, mem *vfs.MemFS, o pebblekv.Options) *heldDB {
	h := &heldDB{}
	tap := vfs.NewTap(mem)
	tap.Before = func(op vfs.Op) vfs.Fault {
		if isWALSync(op) {
			h.syncs.Add(1)
			if ch := h.hold.Load(); ch != nil {
				<-*ch
			}
		}
		return vfs.Fault{}
	}
	db, err := pebblekv.Open(tap, "db", o)
	if err != nil {
		t.Fatal(err)
	}
	h.DB = db
	return h
}

// stop holds syncs back until the returned function is called.
func (h *heldDB) stop() (letGo func()) {
	ch := make(chan struct{})
	h.hold.Store(&ch)
	return func() {
		h.hold.Store(nil)
		close(ch)
	}
}

// TestViewWaitsForFsync holds the fsync of a visible commit back: whoever was told of it must not return, others may.
func TestViewWaitsForFsync(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		db := newHeld(t, vfs.NewMem(), pebblekv.Options{})
		key, other := []byte("key"), []byte("other")
		set := func(v string) error {
			return db.Update(t.Context(), func(tx kv.Tx) error {
				tx.Set(key, []byte(v))
				tx.Log([]byte(v))
				return nil
			}, key)
		}
		if err := set("old"); err != nil {
			t.Fatal(err)
		}
		letGo := db.stop()
		boom := errors.New("boom")
		var running atomic.Int64
		calls := 0
		// start runs a call that must wait.
		start := func(name string, want error, fn func() error) {
			calls++
			running.Add(1)
			go func() {
				if err := fn(); !errors.Is(err, want) {
					t.Errorf("%s = %v, want %v", name, err, want)
				}
				running.Add(-1)
			}()
			synctest.Wait()
		}
		saw := 0
		read := func(r kv.Reader) error {
			v, err := r.Get(nil, key)
			if string(v) == "new" {
				saw++
			}
			return err
		}
		start("the Update", nil, func() error { return set("new") })
		start("View of its lock", nil, func() error { return db.View(t.Context(), read, key) })
		start("View without locks", nil, func() error { return db.View(t.Context(), read) })
		start("View whose fn fails", boom, func() error {
			return db.View(t.Context(), func(r kv.Reader) error { return errors.Join(read(r), boom) }, key)
		})
		start("Update that writes nothing", nil, func() error {
			return db.Update(t.Context(), func(tx kv.Tx) error { return read(tx) }, key)
		})
		start("Update that gives up", boom, func() error {
			return db.Update(t.Context(), func(tx kv.Tx) error { return errors.Join(read(tx), boom) }, key)
		})
		start("Update of the same key", nil, func() error {
			return db.Update(t.Context(), func(tx kv.Tx) error { tx.Set(other, nil); return read(tx) }, key)
		})
		start("WaitLog", nil, func() error { return db.WaitLog(t.Context(), 1) })
		if saw != calls-2 {
			t.Errorf("%d calls saw the commit before its fsync, want %d: locks are held for too long", saw, calls-2)
		}
		if n := running.Load(); n != int64(calls) {
			t.Errorf("%d of %d calls returned before the fsync", int64(calls)-n, calls)
		}
		if n := db.LogTail(); n != 1 {
			t.Errorf("log tail %d before the fsync", n)
		}
		err := db.ReadLog(t.Context(), 1, func(e kv.LogEntry) error {
			if e.Seq > 1 {
				t.Errorf("ReadLog shows entry %d before its fsync", e.Seq)
			}
			return nil
		})
		if err != nil {
			t.Error(err)
		}
		// A reader of another lock does not wait.
		if err := db.View(t.Context(), func(kv.Reader) error { return nil }, []byte("unrelated")); err != nil {
			t.Error(err)
		}
		// One that waits can be told to stop.
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := db.View(ctx, read, key); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("View past its deadline = %v", err)
		}
		letGo()
		synctest.Wait()
		if n := running.Load(); n != 0 {
			t.Errorf("%d calls still wait after the fsync", n)
		}
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
}

// TestGroupCommit checks that commits which pile up during one fsync share the next.
func TestGroupCommit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		db := newHeld(t, vfs.NewMem(), pebblekv.Options{})
		before := db.syncs.Load()
		letGo := db.stop()
		const n = 100
		var done atomic.Int64
		for i := range n {
			go func() {
				err := db.Update(t.Context(), func(tx kv.Tx) error { tx.Set(fmt.Append(nil, i), nil); return nil })
				if err != nil {
					t.Error(err)
				}
				done.Add(1)
			}()
		}
		synctest.Wait()
		if got := done.Load(); got != 0 {
			t.Errorf("%d Updates returned before their fsync", got)
		}
		if m := db.Metrics(); m.VisibleIndex != n || m.DurableIndex != 0 {
			t.Errorf("visible %d, durable %d", m.VisibleIndex, m.DurableIndex)
		}
		letGo()
		synctest.Wait()
		if got := done.Load(); got != n {
			t.Errorf("%d of %d Updates returned", got, n)
		}
		if got := db.syncs.Load() - before; got > 2 {
			t.Errorf("%d fsyncs for %d commits at once", got, n)
		}
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
}

// TestRelaxed commits without waiting, and finds everything after the background sync.
func TestRelaxed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mem := vfs.NewCrashableMem()
		db := newHeld(t, mem, pebblekv.Options{Relaxed: true, RelaxedInterval: time.Minute})
		before := db.syncs.Load()
		put := func(v string) {
			t.Helper()
			err := db.Update(t.Context(), func(tx kv.Tx) error {
				tx.Set([]byte("k"), []byte(v))
				tx.Log([]byte(v))
				return nil
			}, []byte("k"))
			if err != nil {
				t.Fatal(err)
			}
		}
		found := func() string {
			t.Helper()
			db, err := pebblekv.Open(vfs.CrashClone(mem), "db", pebblekv.Options{})
			if err != nil {
				t.Fatal(err)
			}
			defer db.Close()
			return kvtest.Read(t, db).Pairs["k"]
		}
		put("1")
		put("2")
		if n := db.syncs.Load() - before; n != 0 || db.LogTail() != 2 {
			t.Errorf("%d syncs, log tail %d", n, db.LogTail())
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		if got := found(); got != "2" {
			t.Errorf("after the background sync a crash leaves %q", got)
		}
		n := db.syncs.Load()
		time.Sleep(time.Hour)
		synctest.Wait()
		if got := db.syncs.Load(); got != n {
			t.Errorf("an idle store synced %d times", got-n)
		}
		put("3")
		if err := db.Close(); err != nil {
			t.Error(err)
		}
		if got := found(); got != "3" {
			t.Errorf("after Close a crash leaves %q", got)
		}
	})
}

// TestFailedSync breaks the fsync of the write-ahead log under many callers.
func TestFailedSync(t *testing.T) {
	for _, applied := range []bool{false, true} {
		t.Run(fmt.Sprintf("applied=%v", applied), func(t *testing.T) {
			mem := vfs.NewCrashableMem()
			tap := vfs.NewTap(mem)
			var broken atomic.Bool
			var syncs atomic.Int64
			boom := errors.New("boom")
			tap.Before = func(op vfs.Op) vfs.Fault {
				if isWALSync(op) && broken.Load() {
					syncs.Add(1)
					return vfs.Fault{Err: boom, Applied: applied}
				}
				return vfs.Fault{}
			}
			fatal := make(chan error, 2)
			db, err := pebblekv.Open(tap, "db", pebblekv.Options{OnFatal: func(err error) { fatal <- err }})
			if err != nil {
				t.Fatal(err)
			}
			broken.Store(true)
			var wg sync.WaitGroup
			for i := range 40 {
				wg.Go(func() {
					key := fmt.Appendf(nil, "k%d", i%10)
					if i%4 == 3 {
						// Either it ends before anything is visible, or it is told that the store is closed.
						err := db.View(t.Context(), func(kv.Reader) error { return nil }, key)
						if err != nil && !errors.Is(err, kv.ErrClosed) {
							t.Errorf("View = %v", err)
						}
						return
					}
					err := db.Update(t.Context(), func(tx kv.Tx) error { tx.Set(key, key); tx.Log(key); return nil }, key)
					if !errors.Is(err, kv.ErrClosed) || firn.KindOf(err) != firn.Unavailable {
						t.Errorf("Update = %v", err)
					}
				})
			}
			wg.Wait()
			if err := <-fatal; !errors.Is(err, kv.ErrClosed) || !errors.Is(err, boom) {
				t.Errorf("OnFatal got %v", err)
			}
			if n := syncs.Load(); n != 1 {
				t.Errorf("a failed write-ahead log was synced %d times", n)
			}
			if err := db.View(t.Context(), func(kv.Reader) error { return nil }); !errors.Is(err, kv.ErrClosed) {
				t.Errorf("View after the failure = %v", err)
			}
			if err := db.WaitLog(t.Context(), 0); !errors.Is(err, kv.ErrClosed) {
				t.Errorf("WaitLog after the failure = %v", err)
			}
			if n := db.LogTail(); n != 0 {
				t.Errorf("log tail %d after the failure", n)
			}
			db.Metrics()
			if err := db.Close(); err != nil {
				t.Errorf("Close after the failure = %v", err)
			}
		})
	}
}

// TestFaultEverywhere breaks one operation after another of a workload with flushes in it. Whatever happens, calls
// return, what was acknowledged is found after a crash, and nothing is found torn.
func TestFaultEverywhere(t *testing.T) {
	value := strings.Repeat("v", 40<<10)
	// run does the workload with a fault at the mutating operation of the given number, and returns how many
	// operations there were.
	run := func(t *testing.T, at int64, f vfs.Fault) int64 {
		mem := vfs.NewCrashableMem()
		tap := vfs.NewTap(mem)
		var last atomic.Int64
		tap.Before = func(op vfs.Op) vfs.Fault {
			last.Store(max(last.Load(), op.Index))
			if op.Index == at {
				return f
			}
			return vfs.Fault{}
		}
		o := pebblekv.Options{MemTableBytes: 1 << 20, CacheBytes: 1 << 20, ValueSeparationMin: 1000}
		db, err := pebblekv.Open(tap, "db", o)
		acked := 0
		if err == nil {
			for i := 1; i <= 60; i++ {
				err := db.Update(t.Context(), func(tx kv.Tx) error {
					tx.Set([]byte("a"), fmt.Append(nil, i))
					tx.Set([]byte("b"), fmt.Append(nil, i, " ", value))
					tx.Log(fmt.Append(nil, i))
					return nil
				})
				if err != nil {
					break
				}
				acked = i
			}
			// Its outcome is not the point; that it returns is.
			_ = db.Close()
		}
		db, err = pebblekv.Open(vfs.CrashClone(mem), "db", o)
		if err != nil {
			t.Fatalf("fault at %d: reopen: %v", at, err)
		}
		defer db.Close()
		s := kvtest.Read(t, db)
		a, b, ok := 0, 0, len(s.Log)
		_, _ = fmt.Sscan(s.Pairs["a"], &a)
		_, _ = fmt.Sscan(s.Pairs["b"], &b)
		if a < acked || a > acked+1 || a != b || a != ok {
			t.Errorf("fault at %d: acknowledged %d, found %d, %d and %d log entries", at, acked, a, b, ok)
		}
		return last.Load()
	}
	n := run(t, -1, vfs.Fault{})
	t.Logf("%d operations", n)
	boom := errors.New("boom")
	// Every third operation, from another start each time: all of them take too long for every run.
	for at := int64(1 + kvtest.Seed(t)%3); at <= n; at += 3 {
		run(t, at, vfs.Fault{Err: boom, Applied: at%2 == 0, Short: int(at % 100)})
	}
}

// TestGoldenOrder pins the operations of one Update on an open DB, so that a change of what is synced when is seen in
// review.
func TestGoldenOrder(t *testing.T) {
	tap := vfs.NewTap(vfs.NewMem())
	var mu sync.Mutex
	var ops []string
	tap.After = func(op vfs.Op, err error) {
		if op.Kind.Mutates() {
			mu.Lock()
			defer mu.Unlock()
			ops = append(ops, regexp.MustCompile(`\d{6}`).ReplaceAllString(op.String(), "NNNNNN"))
		}
	}
	db := open(t, tap, pebblekv.Options{})
	mu.Lock()
	ops = nil
	mu.Unlock()
	err := db.Update(t.Context(), func(tx kv.Tx) error {
		tx.Set([]byte("bucket/key"), []byte("metadata"))
		tx.Set([]byte("content/key"), make([]byte, 4<<10))
		tx.Log([]byte("entry"))
		return nil
	}, []byte("bucket/key"))
	mu.Lock()
	defer mu.Unlock()
	// The operations are those done when Update returned: nothing that it needs comes later.
	golden(t, "testdata/update.golden", ops)
	if err != nil {
		t.Fatal(err)
	}
}

// golden compares lines with a file. FIRN_UPDATE_GOLDEN=1 writes it.
func golden(t *testing.T, name string, lines []string) {
	t.Helper()
	got := strings.Join(lines, "\n") + "\n"
	if os.Getenv("FIRN_UPDATE_GOLDEN") != "" {
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s (-want +got); FIRN_UPDATE_GOLDEN=1 accepts it:\n%s", name, diff)
	}
}

// TestQueueBytes sends many big transactions while no fsync ends: those that do not fit wait, heed their contexts, and
// go through when there is room. One that is larger than the bound goes alone.
func TestQueueBytes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const limit, size, count = 1 << 20, 100 << 10, 50
		db := newHeld(t, vfs.NewMem(), pebblekv.Options{QueueBytes: limit})
		letGo := db.stop()
		set := func(ctx context.Context, i int, sizes ...int) error {
			return db.Update(ctx, func(tx kv.Tx) error {
				for j, n := range sizes {
					tx.Set(fmt.Append(nil, "key", i, "/", j), make([]byte, n))
				}
				tx.Exclusive()
				tx.Log(nil)
				return nil
			}, fmt.Append(nil, i))
		}
		var wg sync.WaitGroup
		for i := range count {
			wg.Go(func() {
				sizes := []int{size, size}
				if i == 0 {
					sizes = []int{3 * limit}
				}
				if err := set(t.Context(), i, sizes...); err != nil {
					t.Error(err)
				}
			})
		}
		synctest.Wait()
		if m := db.Metrics(); m.QueuedBytes > limit || m.QueuedBytes < size || m.VisibleIndex > limit/size {
			t.Errorf("%d bytes queued in %d transactions, at most %d wanted", m.QueuedBytes, m.VisibleIndex, limit)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := set(ctx, count, size); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Update without room until its context ended: %v", err)
		}
		// Small ones need no room.
		small := make(chan error, 1)
		go func() { small <- set(t.Context(), count+1, 100) }()
		synctest.Wait()
		letGo()
		wg.Wait()
		if err := <-small; err != nil {
			t.Error(err)
		}
		if m := db.Metrics(); m.QueuedBytes != 0 || m.Commits != count+1 {
			t.Errorf("%d bytes queued after %d commits", m.QueuedBytes, m.Commits)
		}
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
}
