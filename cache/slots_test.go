package cache

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// TestSlowOrigins: origins that do not answer hold up no other, however many blocks of theirs are asked for, and one origin
// alone has two thirds of all fetches.
func TestSlowOrigins(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := New(Options{Fills: 96})
		read := func(ctx context.Context, origin string, n int, fill func(context.Context, *Writer) error) error {
			r, _, err := c.Stream(ctx, key(origin, int64(n)), origin, 0, fill)
			if err != nil {
				return err
			}
			defer r.Close()
			_, err = io.ReadAll(r)
			return err
		}
		slow := func(ctx context.Context, _ *Writer) error {
			<-ctx.Done()
			return ctx.Err()
		}
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		for o, running := range []int{64, 86, 93, 95} {
			for n := range 200 {
				wg.Go(func() {
					if err := read(ctx, fmt.Sprint("slow", o), n, slow); !errors.Is(err, context.Canceled) {
						t.Error(err)
					}
				})
			}
			synctest.Wait()
			if got := c.Fills().Running; got != running {
				t.Errorf("%d fetches of %d origins that do not answer, want %d", got, o+1, running)
			}
			for n := range 10 {
				if err := read(t.Context(), "fast", 100*o+n, func(context.Context, *Writer) error { return nil }); err != nil {
					t.Error(err)
				}
			}
		}
		cancel()
		wg.Wait()
		synctest.Wait()
		if c.Fills().Running != 0 || len(c.slots.waiting) != 0 || len(c.slots.held) != 0 || c.slots.free != 96 {
			t.Errorf("%+v", c.slots)
		}
	})
}

// TestFetchWithinAFetch: what an origin needs of another by way of the same cache comes, as where the edge cache serves a
// bucket whose objects are on a tier.
func TestFetchWithinAFetch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := New(Options{Fills: 6})
		var wg sync.WaitGroup
		for n := range 100 {
			wg.Go(func() {
				r, _, err := c.Stream(t.Context(), key("outer", int64(n)), "outer", 0, func(ctx context.Context, w *Writer) error {
					time.Sleep(time.Second) // until all have come
					r, _, err := c.Stream(ctx, key("inner", int64(n)), "inner", 0, func(_ context.Context, w *Writer) error {
						time.Sleep(time.Second)
						_, err := w.Write([]byte("content"))
						return err
					})
					if err != nil {
						return err
					}
					defer r.Close()
					_, err = io.Copy(w, r)
					return err
				})
				if err != nil {
					t.Error(err)
					return
				}
				defer r.Close()
				if p, err := io.ReadAll(r); err != nil || string(p) != "content" {
					t.Errorf("%q, %v", p, err)
				}
			})
		}
		wg.Wait()
	})
}

// TestSlotsOfThoseWhoLeft: who stops to wait takes no slot with it.
func TestSlotsOfThoseWhoLeft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSlots(3)
		for range 2 {
			if err := s.enter(t.Context(), "a"); err != nil {
				t.Fatal(err)
			}
		}
		gone, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		let := 0
		wait := func(ctx context.Context, want error) {
			wg.Go(func() {
				if err := s.enter(ctx, "a"); !errors.Is(err, want) {
					t.Error(err)
				} else if err == nil {
					let++
				}
			})
			synctest.Wait()
		}
		wait(gone, context.Canceled)
		wait(t.Context(), nil)
		cancel()
		synctest.Wait()
		if let != 0 {
			t.Errorf("%d more were let in", let)
		}
		s.leave("a")
		wg.Wait()
		s.leave("a")
		s.leave("a")
		if err := s.enter(gone, "a"); !errors.Is(err, context.Canceled) || s.free != 3 || len(s.held)+len(s.waiting) != 0 {
			t.Errorf("%v, %+v", err, s)
		}
	})
}
