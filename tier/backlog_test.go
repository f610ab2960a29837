package tier

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"firn/object"
	"firn/object/record"
	"firn/tier/turns"
)

// TestWindowsAndBacklog: outside the windows rules move nothing, and who asks does; what waits is told.
func TestWindowsAndBacklog(t *testing.T) {
	s := newSite(t, "plain") // at noon
	windows, err := turns.ParseWindows([]string{"22:00-06:00"})
	if err != nil {
		t.Fatal(err)
	}
	s.mover = NewMover(s.Store, s.set, Options{Site: "site-1", Windows: windows, Parallel: 1})
	s.put("bkt", "a", large("x"))
	s.put("bkt", "b", "12345")
	ctx := t.Context()
	for _, err := range s.mover.Move(ctx, "cold", s.versions("bkt"), object.MoveOptions{}) {
		if !errors.Is(err, turns.ErrClosed) {
			t.Error(err)
		}
	}
	if at, open := s.mover.Opens(); open || at.Format("15:04") != "22:00" {
		t.Error(at, open)
	}
	began := s.now
	var during Backlog
	s.once("put", func() { during = s.mover.Backlog()[0] })
	if err := errors.Join(s.mover.MoveNow(ctx, "cold", s.versions("bkt"), object.MoveOptions{})...); err != nil {
		t.Fatal(err)
	}
	if m := during.Moves; m.Objects != 2 || m.Bytes != 3<<20+5 || !m.Oldest.Equal(began) {
		t.Errorf("while the first is copied: %+v", during)
	}
	s.once("get", func() { during = s.mover.Backlog()[0] })
	v, err := s.Head(ctx, "bkt", "b", "")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.mover.Recall(ctx, object.RefOf(v), object.RecallOptions{}); err != nil {
		t.Fatal(err)
	}
	if r := during.Recalls; r.Objects != 1 || r.Bytes != 5 || during.Moves.Objects != 0 {
		t.Errorf("while it is recalled: %+v", during)
	}
	if _, err := s.mover.Recall(ctx, object.RefOf(v), object.RecallOptions{}); !errors.Is(err, object.ErrMoved) {
		t.Error(err)
	}
	if b := s.mover.Backlog()[0]; b.Moves != (Waiting{}) || b.Recalls != (Waiting{}) || b.Entries == 0 {
		t.Errorf("after it: %+v", b)
	}
	if err := s.mover.Follow(ctx); err != nil {
		t.Fatal(err)
	}
	if b := s.mover.Backlog()[0]; b.Entries != 0 {
		t.Errorf("after it: %+v", b)
	}
}

// TestRate: a move takes its bytes there and back from what is allowed, and so does a recall; a read does not.
func TestRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, "plain")
		defer s.close()
		s.mover = NewMover(s.Store, s.set, Options{Site: "site-1", BytesPerSecond: 1 << 20})
		s.put("bkt", "a", large("x"))
		took := func(fn func()) time.Duration {
			began := time.Now()
			fn()
			return time.Since(began).Round(time.Second)
		}
		if d := took(func() { s.move("bkt") }); d != 9*time.Second { // mem: reads its source twice
			t.Errorf("a move of 3 MiB twice there and once back at 1 MiB/s took %v", d)
		}
		if d := took(func() { s.want("bkt", "a", "", large("x")) }); d != 0 {
			t.Errorf("a read took %v", d)
		}
		v, err := s.Head(t.Context(), "bkt", "a", "")
		if err != nil {
			t.Fatal(err)
		}
		if d := took(func() { _, err = s.mover.Recall(t.Context(), object.RefOf(v), object.RecallOptions{}) }); d != 3*time.Second || err != nil {
			t.Errorf("a recall of 3 MiB at 1 MiB/s took %v, %v", d, err)
		}
		// Who gives up while it waits for bytes is let go, and nothing is lost.
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		var errs []error
		versions := s.versions("bkt")
		wg.Go(func() { errs = s.mover.Move(ctx, "cold", versions, object.MoveOptions{}) })
		time.Sleep(time.Second)
		cancel()
		wg.Wait()
		if !errors.Is(errs[0], context.Canceled) {
			t.Error(errs)
		}
		s.want("bkt", "a", "", large("x"))
		if list, err := s.TierBlobs(t.Context(), "cold", ""); err != nil || len(list) == 0 || list[len(list)-1].State != record.TierFreed {
			t.Errorf("%+v, %v", list, err)
		}
	})
}
