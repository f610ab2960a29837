package lease_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"firn"
	"firn/archive/lease"
	"firn/blob"
	"firn/blob/driver"
	"firn/blob/memblob"
)

func place() *blob.Store { return blob.New(memblob.New(memblob.Options{}), "mem:") }

func acquire(t *testing.T, s *blob.Store, o lease.Options) *lease.Lease {
	t.Helper()
	l, err := lease.Acquire(t.Context(), s, "leases/a", o)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func TestTheSecondWaitsUntilTheFirstReleases(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := place()
		first := acquire(t, s, lease.Options{Info: "one"})
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- first.Run(ctx, nil) }()
		got := make(chan uint64, 1)
		var waited atomic.Int32
		go func() {
			l := acquire(t, s, lease.Options{Waiting: func(r lease.Record) {
				waited.Add(1)
				if r.Info != "one" {
					t.Errorf("waits for %q", r.Info)
				}
			}})
			got <- l.Number()
		}()
		// For two days the holder lives and the other waits, whatever happens to the clock.
		time.Sleep(48 * time.Hour)
		select {
		case n := <-got:
			t.Fatalf("number %d was taken while the holder lived", n)
		default:
		}
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		if err := first.Release(t.Context()); err != nil {
			t.Fatal(err)
		}
		released := time.Now()
		if n := <-got; n != 2 {
			t.Errorf("number %d after 1", n)
		}
		if d := time.Since(released); d >= lease.DefaultTTL {
			t.Errorf("waited %s after the release", d)
		}
		if waited.Load() != 1 {
			t.Errorf("told %d times for whom it waits", waited.Load())
		}
	})
}

func TestADeadHolderIsWaitedForAndFenced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := place()
		dead := acquire(t, s, lease.Options{})
		begin := time.Now()
		next := acquire(t, s, lease.Options{})
		if d := time.Since(begin); d < lease.DefaultTTL {
			t.Errorf("taken over after %s: a holder has %s to show that it lives", d, lease.DefaultTTL)
		}
		if next.Number() <= dead.Number() {
			t.Errorf("number %d after %d", next.Number(), dead.Number())
		}
		// It was only asleep.
		err := dead.Check(t.Context())
		var by *lease.Superseded
		if firn.KindOf(err) != firn.Conflict || !errors.As(err, &by) || by.By.Number != next.Number() {
			t.Errorf("the superseded holder's check: %v", err)
		}
		if err := dead.Renew(t.Context()); firn.KindOf(err) != firn.Conflict {
			t.Errorf("the superseded holder renews: %v", err)
		}
		if err := dead.Release(t.Context()); firn.KindOf(err) != firn.Conflict {
			t.Errorf("the superseded holder releases: %v", err)
		}
		if err := dead.Run(t.Context(), nil); firn.KindOf(err) != firn.Conflict {
			t.Errorf("the superseded holder runs on: %v", err)
		}
		if err := next.Check(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

func TestFailAndFormerAndSeize(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := place()
		first := acquire(t, s, lease.Options{Info: "node 7"})
		begin := time.Now()
		if _, err := lease.Acquire(t.Context(), s, "leases/a", lease.Options{Fail: true}); firn.KindOf(err) != firn.Locked {
			t.Errorf("with Fail: %v", err)
		}
		second := acquire(t, s, lease.Options{Former: first.Record().Holder})
		third := acquire(t, s, lease.Options{Seize: true})
		if d := time.Since(begin); d != 0 {
			t.Errorf("waited %s", d)
		}
		if second.Number() != 2 || third.Number() != 3 {
			t.Errorf("numbers %d, %d", second.Number(), third.Number())
		}
		if firn.KindOf(second.Check(t.Context())) != firn.Conflict {
			t.Error("the second does not find out about the third")
		}
	})
}

func TestMoved(t *testing.T) {
	s := place()
	l := acquire(t, s, lease.Options{})
	mover := acquire(t, s, lease.Options{Seize: true})
	if err := mover.Move(t.Context(), "file:/elsewhere", false); err != nil {
		t.Fatal(err)
	}
	if err := l.Check(t.Context()); !errors.Is(err, lease.ErrMoved) {
		t.Errorf("the holder: %v", err)
	}
	for _, o := range []lease.Options{{}, {Seize: true}, {Fail: true}} {
		if _, err := lease.Acquire(t.Context(), s, "leases/a", o); !errors.Is(err, lease.ErrMoved) {
			t.Errorf("acquired what has been moved: %v", err)
		}
	}
	if err := mover.Stay(t.Context()); err != nil {
		t.Fatal(err)
	}
	acquire(t, s, lease.Options{Fail: true})
}

// Many try at once, again and again: there is one holder, and numbers only go up.
func TestOnlyOneHolds(t *testing.T) {
	synctest.Test(t, onlyOneHolds)
}

func onlyOneHolds(t *testing.T) {
	s := place()
	var mu sync.Mutex
	last := uint64(0)
	var g sync.WaitGroup
	for i := range 8 {
		g.Go(func() {
			for range 5 {
				l, err := lease.Acquire(t.Context(), s, "leases/a", lease.Options{Info: fmt.Sprint(i), TTL: time.Minute, Seize: i == 0})
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				if l.Check(t.Context()) == nil {
					if l.Number() <= last {
						t.Errorf("%d holds it after %d", l.Number(), last)
					}
					last = l.Number()
				}
				mu.Unlock()
				if err := l.Release(t.Context()); err != nil && firn.KindOf(err) != firn.Conflict {
					t.Error(err)
				}
				if i != 0 {
					return
				}
			}
		})
	}
	g.Wait()
}

// hooked is a place where something happens before or after the next create.
type hooked struct {
	driver.Driver
	before, after func()
}

func (h *hooked) Create(ctx context.Context, key string, src driver.Source) error {
	if f := h.before; f != nil {
		h.before = nil
		f()
	}
	err := h.Driver.(driver.Creator).Create(ctx, key, src)
	if f := h.after; f != nil {
		h.after = nil
		f()
	}
	return err
}

// Two who take the same number, or numbers one after the other: the number, or the higher one, is one's only.
func TestTwoTakeIt(t *testing.T) {
	mem := memblob.New(memblob.Options{})
	h := &hooked{Driver: mem}
	s, direct := blob.New(h, "mem:"), blob.New(mem, "mem:")
	for name, hook := range map[string]func(func()){
		"the same number": func(f func()) { h.before = f },
		"a higher one":    func(f func()) { h.after = f },
	} {
		var other *lease.Lease
		hook(func() { other = acquire(t, direct, lease.Options{Seize: true}) })
		if l, err := lease.Acquire(t.Context(), s, "leases/a", lease.Options{Fail: true}); firn.KindOf(err) != firn.Locked {
			t.Errorf("%s: %v, %v", name, l, err)
		}
		if err := other.Check(t.Context()); err != nil {
			t.Errorf("%s: the one who has it: %v", name, err)
		}
		if err := other.Release(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
}

// A record that somebody removed is no lease any more.
func TestRecordGone(t *testing.T) {
	s := place()
	l := acquire(t, s, lease.Options{})
	if err := s.Delete(t.Context(), fmt.Sprintf("leases/a/%020d", l.Number())); err != nil {
		t.Fatal(err)
	}
	if err := l.Check(t.Context()); firn.KindOf(err) != firn.Conflict {
		t.Errorf("%v", err)
	}
	if err := l.Renew(t.Context()); firn.KindOf(err) != firn.Conflict {
		t.Errorf("renewed: %v", err)
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(`{"version":1,"holder":"a","count":3}`))
	f.Add([]byte(`{"version":2}`))
	f.Fuzz(func(t *testing.T, p []byte) {
		r, err := lease.Parse(p)
		if err != nil {
			return
		}
		q, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		if again, err := lease.Parse(q); err != nil || again != r {
			t.Errorf("%+v became %+v, %v", r, again, err)
		}
	})
}
