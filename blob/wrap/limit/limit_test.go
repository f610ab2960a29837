package limit

import (
	"context"
	"errors"
	"io"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"firn"
	"firn/blob"
	"firn/blob/driver"
	"firn/blob/drivertest"
	"firn/blob/memblob"
)

func limiter(t *testing.T, r Rates) *Limiter {
	t.Helper()
	l, err := NewLimiter(r)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func TestConformance(t *testing.T) {
	for name, r := range map[string]Rates{
		"no bounds":     {},
		"one operation": {Operations: 1},
		"bounds":        {Up: 10 << 30, Down: 10 << 30, Requests: 1e6, Operations: 3},
	} {
		t.Run(name, func(t *testing.T) {
			drivertest.Run(t, func(t *testing.T) driver.Driver {
				return New(memblob.New(memblob.Options{}), limiter(t, r))
			}, drivertest.Expect(drivertest.Creator|drivertest.Batcher|drivertest.BulkDeleter|drivertest.Measurer|drivertest.Resumer))
		})
	}
}

// within fails the test unless got is want, up to the burst.
func within(t *testing.T, what string, got, want time.Duration) {
	t.Helper()
	if got > want+time.Second/10 || got < want-time.Second/2 {
		t.Errorf("%s took %v, want %v less a burst at most", what, got, want)
	}
}

// TestBytes moves bytes both ways by several goroutines that share a bound, and measures the time.
func TestBytes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mem := memblob.New(memblob.Options{})
		d := New(mem, limiter(t, Rates{Up: 1 << 20, Down: 4 << 20}))
		const size = 10 << 20
		var wg sync.WaitGroup
		start := time.Now()
		for _, key := range []string{"a", "b", "c", "d"} {
			wg.Go(func() {
				if err := d.Put(t.Context(), key, blob.Bytes(make([]byte, size))); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		// memblob reads each source twice.
		within(t, "putting", time.Since(start), 80*time.Second)
		start = time.Now()
		for _, key := range []string{"a", "b", "c", "d"} {
			wg.Go(func() {
				rc, err := d.Get(t.Context(), key, 0, -1)
				if err != nil {
					t.Error(err)
					return
				}
				defer rc.Close()
				if n, err := io.Copy(io.Discard, rc); err != nil || n != size {
					t.Errorf("%d bytes, %v", n, err)
				}
			})
		}
		wg.Wait()
		within(t, "getting", time.Since(start), 10*time.Second)
	})
}

func TestRequests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := New(memblob.New(memblob.Options{}), limiter(t, Rates{Requests: 2}))
		start := time.Now()
		for range 21 {
			if err := d.Delete(t.Context(), "k"); err != nil {
				t.Fatal(err)
			}
		}
		if took := time.Since(start); took < 10*time.Second || took > 11*time.Second {
			t.Errorf("21 requests at 2 a second took %v", took)
		}
	})
}

// TestOperations counts how many calls are at work at once, before and after the bound changes.
func TestOperations(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var now, most atomic.Int64
		mem := memblob.New(memblob.Options{Before: func(context.Context, memblob.Op) memblob.Fault {
			if n := now.Add(1); n > most.Load() {
				most.Store(n)
			}
			time.Sleep(time.Second)
			now.Add(-1)
			return memblob.Fault{}
		}})
		l := limiter(t, Rates{Operations: 3})
		d := New(mem, l)
		run := func(want int64) {
			most.Store(0)
			var wg sync.WaitGroup
			for range 20 {
				wg.Go(func() {
					if err := d.Delete(t.Context(), "k"); err != nil {
						t.Error(err)
					}
				})
			}
			wg.Wait()
			if got := most.Load(); got != want {
				t.Errorf("%d calls at once, want %d", got, want)
			}
		}
		run(3)
		if err := l.Set(Rates{Operations: 7}); err != nil {
			t.Fatal(err)
		}
		run(7)
		if err := l.Set(Rates{}); err != nil {
			t.Fatal(err)
		}
		run(20)
	})
}

// TestNested holds that one operation at once is enough for a copy from a place to itself and for work inside a listing.
func TestNested(t *testing.T) {
	d := New(memblob.New(memblob.Options{}), limiter(t, Rates{Operations: 1}))
	ctx := t.Context()
	if err := d.Put(ctx, "a", blob.Bytes(make([]byte, 100_000))); err != nil {
		t.Fatal(err)
	}
	if err := d.Put(ctx, "b", copied{ctx, d, "a", 100_000}); err != nil {
		t.Fatal(err)
	}
	err := d.List(ctx, "", func(i driver.Info) error { return d.Delete(ctx, i.Key) })
	if err != nil {
		t.Fatal(err)
	}
}

// copied is another blob as a source.
type copied struct {
	ctx  context.Context
	d    driver.Driver
	key  string
	size int64
}

func (c copied) Size() int64                  { return c.size }
func (c copied) Open() (io.ReadCloser, error) { return c.d.Get(c.ctx, c.key, 0, -1) }

// TestChangedWhileWaiting raises a bound under a put that would take days.
func TestChangedWhileWaiting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := limiter(t, Rates{Up: 10 << 10})
		d := New(memblob.New(memblob.Options{}), l)
		done := make(chan error)
		start := time.Now()
		go func() { done <- d.Put(t.Context(), "k", blob.Bytes(make([]byte, 1<<30/64))) }()
		time.Sleep(10 * time.Second)
		if err := l.Set(Rates{Up: 8 << 20}); err != nil {
			t.Fatal(err)
		}
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		if took := time.Since(start); took > 16*time.Second {
			t.Errorf("took %v", took)
		}
		// And lowered under one: the burst that was asked for no longer fits.
		go func() { done <- d.Put(t.Context(), "k", blob.Bytes(make([]byte, 4<<20))) }()
		if err := l.Set(Rates{Up: 1 << 20}); err != nil {
			t.Fatal(err)
		}
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		if err := l.Set(Rates{Up: -1}); firn.KindOf(err) != firn.Invalid || l.Rates().Up != 1<<20 {
			t.Errorf("%v, %+v", err, l.Rates())
		}
	})
}

func TestCancelled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := New(memblob.New(memblob.Options{}), limiter(t, Rates{Up: 1, Requests: 0.001}))
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- d.Put(ctx, "k", blob.Bytes(make([]byte, 1<<20))) }()
		time.Sleep(time.Second)
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("put: %v", err)
		}
		ctx, cancel = context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		start := time.Now()
		if _, err := d.Stat(ctx, "k"); !errors.Is(err, context.DeadlineExceeded) || time.Since(start) > time.Second {
			t.Errorf("stat: %v after %v", err, time.Since(start))
		}
	})
}
