package drivertest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"runtime/pprof"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"firn"
	"firn/blob"
	"firn/blob/driver"
)

// patience is how long something that must end may take on a slow machine. It is never waited for in full unless the
// driver is wrong.
const patience = 20 * time.Second

func (s *suite) largeBlob(t *testing.T) {
	d := s.fresh(t)
	p := version(7, s.large+3)
	put(t, d, "large", p)
	want(t, d, "large", p)
	for _, r := range [][2]int64{{s.large / 2, 70_000}, {s.large - 10, 100}, {0, 1}, {s.large/3 + 1, s.large / 3}} {
		got, err := read(t.Context(), d, "large", r[0], r[1])
		if w := p[r[0]:min(r[0]+r[1], int64(len(p)))]; err != nil || !bytes.Equal(got, w) {
			t.Errorf("get %d bytes from %d: %d bytes, %v", r[1], r[0], len(got), err)
		}
	}
	// Several at once, over what is there.
	g, ctx := errgroup.WithContext(t.Context())
	for i := range 3 {
		g.Go(func() error { return d.Put(ctx, "large", blob.Bytes(version(uint64(i), s.large/2+int64(i)))) })
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	got, err := read(t.Context(), d, "large", 0, -1)
	if i := int64(len(got)) - s.large/2; err != nil || i < 0 || i > 2 || !bytes.Equal(got, version(uint64(i), s.large/2+i)) {
		t.Errorf("after three puts at once: %d bytes, %v", len(got), err)
	}
}

// replacedWhileRead replaces one blob again and again: each read gives one version whole, or a part of one.
func (s *suite) replacedWhileRead(t *testing.T) {
	d := s.fresh(t)
	o := s.other(t, d)
	v := newVersions(9, 300_000, 5, 70_000, 4096, 1<<20)
	put(t, d, "blob", v.all[0])
	g, ctx := errgroup.WithContext(t.Context())
	var writers sync.WaitGroup
	done := make(chan struct{})
	for w := range 2 {
		writers.Add(1)
		g.Go(func() error {
			defer writers.Done()
			for i := range s.rounds / 2 {
				if err := d.Put(ctx, "blob", blob.Bytes(v.all[(i*2+w)%len(v.all)])); err != nil {
					return fmt.Errorf("put: %w", err)
				}
			}
			return nil
		})
	}
	g.Go(func() error { writers.Wait(); close(done); return nil })
	for n := range 4 {
		from := d
		if n%2 == 1 {
			from = o
		}
		g.Go(func() error {
			for i := 0; ; i++ {
				select {
				case <-done:
					return nil
				default:
				}
				offset, limit := int64(0), int64(-1)
				if n >= 2 {
					offset, limit = int64(i%3)*30_000, 50_000
				}
				p, err := read(ctx, from, "blob", offset, limit)
				if err != nil {
					return fmt.Errorf("get: %w", err)
				}
				if err := v.check(p, offset, limit); err != nil {
					return err
				}
				info, err := from.Stat(ctx, "blob")
				if err != nil {
					return fmt.Errorf("stat: %w", err)
				}
				known := false
				for _, size := range v.sizes {
					known = known || size == info.Size
				}
				if !known {
					return fmt.Errorf("stat says %d bytes, which no version has", info.Size)
				}
			}
		})
	}
	if err := g.Wait(); err != nil {
		t.Error(err)
	}
	wantKeys(t, d, "", "blob")
}

// readAfterDelete: a reader that is open when its blob goes gives the old content to its end, or an error.
func (s *suite) readAfterDelete(t *testing.T) {
	d := s.fresh(t)
	for _, change := range []string{"replaced", "deleted"} {
		old := version(1, 3<<20)
		put(t, d, "blob", old)
		r, err := d.Get(t.Context(), "blob", 0, -1)
		if err != nil {
			t.Fatal(err)
		}
		head := make([]byte, 1000)
		if _, err := io.ReadFull(r, head); err != nil {
			t.Fatal(err)
		}
		if change == "replaced" {
			put(t, d, "blob", version(2, 3<<20))
		} else if err := d.Delete(t.Context(), "blob"); err != nil {
			t.Fatal(err)
		}
		rest, err := io.ReadAll(r)
		_ = r.Close() // reading may have failed, and so may this
		got := append(head, rest...)
		if err == nil && !bytes.Equal(got, old) {
			t.Errorf("a blob that was %s while it was read gave %d bytes that are not the %d of the old one, and no error", change, len(got), len(old))
		}
		if !bytes.Equal(got, old[:min(len(got), len(old))]) {
			t.Errorf("a blob that was %s while it was read gave bytes that are not the old one's", change)
		}
	}
}

func (s *suite) manyGoroutines(t *testing.T) {
	d := s.fresh(t)
	o := s.other(t, d)
	g, ctx := errgroup.WithContext(t.Context())
	for w := range s.clients {
		c := d
		if w%2 == 1 {
			c = o
		}
		g.Go(func() error {
			for i := range 6 {
				key, p := fmt.Sprintf("w%d/%d", w%8, w*100+i), version(uint64(w*100+i), int64(i*20_000+w))
				if err := c.Put(ctx, key, blob.Bytes(p)); err != nil {
					return fmt.Errorf("put: %w", err)
				}
				if got, err := read(ctx, c, key, 0, -1); err != nil || !bytes.Equal(got, p) {
					return fmt.Errorf("get %q: %s, %w", key, show(got), err)
				}
				if i%2 == 0 {
					if err := c.Delete(ctx, key); err != nil {
						return fmt.Errorf("delete: %w", err)
					}
				}
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	if got := keysOf(t, d, ""); len(got) != 3*s.clients {
		t.Errorf("%d blobs are left, want %d", len(got), 3*s.clients)
	}
}

// ends runs fn and fails the test if it does not end soon.
func ends(t *testing.T, what string, fn func() error) error {
	t.Helper()
	ch := make(chan error, 1)
	go func() { ch <- fn() }()
	select {
	case err := <-ch:
		return err
	case <-time.After(patience):
		t.Fatalf("%s did not end within %v after its context was cancelled", what, patience)
		return nil
	}
}

func (s *suite) cancelled(t *testing.T) {
	d := s.fresh(t)
	large := version(1, 4<<20)
	put(t, d, "blob", large)
	for i := range 5 {
		put(t, d, fmt.Sprintf("dir/%d", i), nil)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	calls := map[string]func() error{
		"put":    func() error { return d.Put(ctx, "new", blob.Bytes([]byte("x"))) },
		"get":    func() error { _, err := read(ctx, d, "blob", 0, -1); return err },
		"stat":   func() error { _, err := d.Stat(ctx, "blob"); return err },
		"delete": func() error { return d.Delete(ctx, "blob") },
		"list":   func() error { return d.List(ctx, "", func(driver.Info) error { return nil }) },
	}
	if c, ok := blob.As[driver.Creator](d); ok {
		calls["create"] = func() error { return c.Create(ctx, "new", blob.Bytes([]byte("x"))) }
	}
	if b, ok := blob.As[driver.Batcher](d); ok {
		calls["apply"] = func() error {
			return b.Apply(ctx, []driver.Change{{Key: "new", Put: blob.Bytes([]byte("x"))}, {Key: "blob"}})
		}
	}
	if b, ok := blob.As[driver.BulkDeleter](d); ok {
		calls["deleteall"] = func() error { return b.DeleteAll(ctx, []string{"blob", "dir/1"}) }
	}
	for name, fn := range calls {
		if err := ends(t, name, fn); !errors.Is(err, context.Canceled) {
			t.Errorf("%s with a cancelled context: %v, want context.Canceled", name, err)
		}
	}
	wantNone(t, d, "new")
	want(t, d, "blob", large)

	// In the middle of a put: the old blob stays, or the new one is there whole.
	for _, key := range []string{"new", "blob"} {
		ctx, cancel := context.WithCancel(t.Context())
		src := newSource(version(2, 6<<20))
		src.gate = func(at int) {
			if at > 3<<20 {
				cancel()
			}
		}
		if err := ends(t, "put", func() error { return d.Put(ctx, key, src) }); !errors.Is(err, context.Canceled) {
			t.Errorf("put cancelled half-way: %v, want context.Canceled", err)
		}
		cancel()
		if err := src.done(); err != nil {
			t.Errorf("put cancelled half-way: %v", err)
		}
	}
	wantNone(t, d, "new")
	want(t, d, "blob", large)

	// In the middle of a get: it ends soon, and a part is never taken for the whole.
	ctx, cancel = context.WithCancel(t.Context())
	r, err := d.Get(ctx, "blob", 0, -1)
	if err != nil {
		t.Fatal(err)
	}
	head := make([]byte, 1000)
	_, err = io.ReadFull(r, head)
	cancel()
	if err != nil {
		t.Fatal(err)
	}
	var rest []byte
	err = ends(t, "get", func() (err error) {
		rest, err = io.ReadAll(r)
		return err
	})
	_ = r.Close() // reading may have failed, and so may this
	if err == nil && !bytes.Equal(append(head, rest...), large) {
		t.Errorf("a get cancelled after 1000 bytes ended like a whole blob of %d bytes", len(rest)+1000)
	}
	if err != nil && !errors.Is(err, context.Canceled) {
		t.Errorf("read after the context was cancelled: %v, want context.Canceled", err)
	}

	// In the middle of a list.
	ctx, cancel = context.WithCancel(t.Context())
	defer cancel()
	n := 0
	err = ends(t, "list", func() error {
		return d.List(ctx, "dir/", func(driver.Info) error {
			n++
			cancel()
			return nil
		})
	})
	if !errors.Is(err, context.Canceled) || n != 1 {
		t.Errorf("a listing cancelled at the first of 5 blobs showed %d and returned %v, want context.Canceled", n, err)
	}
}

// goroutines: opening, using and closing again and again leaves nothing running.
func (s *suite) goroutines(t *testing.T) {
	cycle := func(t *testing.T) {
		d := s.open(t)
		put(t, d, "blob", version(1, 2<<20))
		put(t, d, "dir/blob", nil)
		if r, err := d.Get(t.Context(), "blob", 0, -1); err != nil {
			t.Error(err)
		} else {
			_, _ = r.Read(make([]byte, 10)) // left in the middle
			_ = r.Close()
		}
		ctx, cancel := context.WithCancel(t.Context())
		src := newSource(version(2, 2<<20))
		src.gate = func(at int) {
			if at > 0 {
				cancel()
			}
		}
		if err := d.Put(ctx, "blob", src); err == nil {
			t.Error("a cancelled put succeeded")
		}
		cancel()
		stop := errors.New("stop")
		if err := d.List(t.Context(), "", func(driver.Info) error { return stop }); !errors.Is(err, stop) {
			t.Error(err)
		}
		if err := d.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	}
	t.Run("first", cycle) // may start what all tests share, such as a server
	before := runtime.NumGoroutine()
	const cycles = 5
	for i := range cycles {
		t.Run(fmt.Sprint(i), cycle)
	}
	for end := time.Now().Add(patience); runtime.NumGoroutine() >= before+cycles; {
		if time.Now().After(end) {
			var b strings.Builder
			_ = pprof.Lookup("goroutine").WriteTo(&b, 1)
			t.Fatalf("%d goroutines before, %d after %d more drivers were opened and closed:\n%s", before, runtime.NumGoroutine(), cycles, b.String())
		}
		runtime.Gosched()
		waitABit()
	}
}

// waitABit gives other goroutines time between two looks.
func waitABit() {
	timer := time.NewTimer(5 * time.Millisecond)
	<-timer.C
}

func (s *suite) closed(t *testing.T) {
	d := s.open(t)
	put(t, d, "blob", []byte("x"))
	if err := d.Close(); err != nil {
		t.Fatalf("close: %v", err)
	}
	for name, fn := range map[string]func() error{
		"put":    func() error { return d.Put(t.Context(), "blob", blob.Bytes(nil)) },
		"get":    func() error { _, err := read(t.Context(), d, "blob", 0, -1); return err },
		"stat":   func() error { _, err := d.Stat(t.Context(), "blob"); return err },
		"delete": func() error { return d.Delete(t.Context(), "blob") },
		"list":   func() error { return d.List(t.Context(), "", func(driver.Info) error { return nil }) },
	} {
		err := ends(t, name+" after close", fn)
		if err == nil || firn.KindOf(err) == firn.NotFound {
			t.Errorf("%s after close: %v, want a failure that says so", name, err)
		}
	}
	_ = d.Close() // must not panic
}

func (s *suite) createContended(t *testing.T) {
	d := s.fresh(t)
	o := s.other(t, d)
	a, ok := blob.As[driver.Creator](d)
	b, ok2 := blob.As[driver.Creator](o)
	if !ok || !ok2 {
		return
	}
	for round := range 5 {
		key := fmt.Sprintf("locks/%d", round)
		var winner, wins atomic.Int64
		g, ctx := errgroup.WithContext(t.Context())
		start := make(chan struct{})
		for w := range s.clients {
			c := a
			if w%2 == 1 {
				c = b
			}
			g.Go(func() error {
				<-start
				err := c.Create(ctx, key, blob.Bytes(version(uint64(w), int64(1000+w))))
				switch {
				case err == nil:
					winner.Store(int64(w))
					wins.Add(1)
				case firn.KindOf(err) != firn.Exists:
					return fmt.Errorf("create: %w (%v), want success or firn.Exists", err, firn.KindOf(err))
				}
				// Win or lose, from now on it is there and whole.
				p, err := read(ctx, d, key, 0, -1)
				if err != nil || len(p) < 1000 || !bytes.Equal(p, version(uint64(len(p)-1000), int64(len(p)))) {
					return fmt.Errorf("after create: %s, %w", show(p), err)
				}
				return nil
			})
		}
		close(start)
		if err := g.Wait(); err != nil {
			t.Fatal(err)
		}
		if wins.Load() != 1 {
			t.Fatalf("%d of %d creates of one key succeeded", wins.Load(), s.clients)
		}
		w := winner.Load()
		want(t, d, key, version(uint64(w), 1000+w))
	}
}
