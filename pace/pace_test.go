package pace

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"
)

func TestRequestRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		u := New(Limits{Requests: 10}, 0, nil)
		admitted := func(name string, tries int) (n int) {
			for range tries {
				user, after, ok := u.Begin(name, Limits{})
				if ok {
					user.End()
					n++
				} else if after != 100*time.Millisecond {
					t.Fatalf("try again after %v", after)
				}
			}
			return n
		}
		if n := admitted("anna", 50); n != 20 {
			t.Errorf("%d at once, want 20", n)
		}
		if n := admitted("otto", 50); n != 20 {
			t.Errorf("another user got %d, want 20", n)
		}
		time.Sleep(500 * time.Millisecond)
		if n := admitted("anna", 50); n != 5 {
			t.Errorf("%d after half a second, want 5", n)
		}
	})
}

func TestConcurrent(t *testing.T) {
	u := New(Limits{Concurrent: 2}, 0, nil)
	a, _, _ := u.Begin("anna", Limits{})
	b, _, _ := u.Begin("anna", Limits{})
	if _, after, ok := u.Begin("anna", Limits{}); ok || after <= 0 {
		t.Error("a third request was let in")
	}
	if _, _, ok := u.Begin("otto", Limits{}); !ok {
		t.Error("another user was refused")
	}
	a.End()
	if _, _, ok := u.Begin("anna", Limits{}); !ok {
		t.Error("refused after one ended")
	}
	b.End()
}

func TestBytes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		u := New(Limits{Bytes: 1 << 20}, 0, nil)
		user, _, _ := u.Begin("anna", Limits{})
		other, _, _ := u.Begin("anna", Limits{})
		start := time.Now()
		for range 8 { // two requests of one user share: 1 MiB at once, 8 MiB take 7 s
			for _, r := range []*User{user, other} {
				if err := r.Wait(t.Context(), 512<<10); err != nil {
					t.Fatal(err)
				}
			}
		}
		if d := time.Since(start); d < 6900*time.Millisecond || d > 7100*time.Millisecond {
			t.Errorf("8 MiB at 1 MiB/s took %v", d)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := user.Wait(ctx, 100<<20); err == nil {
			t.Error("the context did not end the wait")
		}
	})
}

func TestMemoryIsBounded(t *testing.T) {
	at := time.Now()
	u := New(Limits{Requests: 5}, 100, func() time.Time { return at }) // nothing is refilled, however slow the machine
	held, _, _ := u.Begin("held", Limits{})
	for i := range 10_000 {
		user, _, ok := u.Begin(fmt.Sprint(i), Limits{})
		if !ok {
			t.Fatal("refused")
		}
		user.End()
	}
	if n := u.Len(); n > 100 {
		t.Errorf("%d users are remembered", n)
	}
	// Who has a request under way is not forgotten.
	for range 9 {
		u.Begin("held", Limits{})
	}
	if _, _, ok := u.Begin("held", Limits{}); ok {
		t.Error("the allowance of a user with a request under way was renewed")
	}
	held.End()
}

func TestOwnLimits(t *testing.T) {
	u := New(Limits{Concurrent: 2}, 0, nil)
	begin := func(name string, own Limits) bool {
		t.Helper()
		_, _, ok := u.Begin(name, own)
		return ok
	}
	tight, loose := Limits{Concurrent: 1}, Limits{Concurrent: None}
	if !begin("anna", tight) || begin("anna", tight) {
		t.Error("a bound of one's own does not hold")
	}
	for range 10 {
		if !begin("otto", loose) {
			t.Error("bound in spite of none of one's own")
		}
	}
	for i := range 3 {
		if got := begin("emil", Limits{Requests: 100}); got != (i < 2) {
			t.Errorf("request %d: %v; a bound of all does not hold beside another of one's own", i+1, got)
		}
	}
	// A change holds at once.
	if !begin("anna", Limits{Concurrent: 3}) {
		t.Error("the old bound holds")
	}
	if n := u.Len(); n != 2 {
		t.Errorf("%d users are remembered; who is not bound needs not be", n)
	}
}
