package tier

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"firn"
	"firn/blob/memblob"
	"firn/object"
	"firn/object/record"
	"firn/tier/turns"
	"firn/vfs"
)

const (
	steps    = 10
	largeKey = "objects/bkt/film"
)

func film(c string) string { return strings.Repeat(c, steps*stepSize) }

// newLarge is a site with a version of ten steps, whose copy to the tier can go on.
func newLarge(t *testing.T) (*site, *stepped) {
	t.Helper()
	s, st := newStepped(t, "plain", vfs.NewCrashableMem(), memblob.New(memblob.Options{}), time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC), stepSize)
	s.buckets()
	s.put("bkt", "film", film("x"))
	return s, st
}

var errLost = firn.NewError(firn.Unavailable, "the connection was lost")

// cutAfter has every step from the nth on fail, before it is done, and counts those that are.
func (s *stepped) cutAfter(n int) *int {
	done := new(int)
	s.part = func(op memblob.Op) memblob.Fault {
		if op.Name == "abandon" {
			return memblob.Fault{}
		}
		if *done >= n {
			return memblob.Fault{Err: errLost}
		}
		if op.Name == "part" {
			*done++
		}
		return memblob.Fault{}
	}
	return done
}

// moveErr moves what is in bkt and returns the first error.
func (s *site) moveErr() error {
	s.t.Helper()
	return errors.Join(s.mover.Move(s.t.Context(), "cold", s.versions("bkt"), object.MoveOptions{})...)
}

// cleaned holds that after some hours nothing is on the tier, or known of it, but what versions use.
func (s *site) cleaned(st *stepped, used ...string) {
	s.t.Helper()
	ctx := s.t.Context()
	for range 3 {
		if _, err := s.mover.Collect(ctx); err != nil {
			s.t.Error(err)
		}
		s.now = s.now.Add(2 * time.Hour)
	}
	list, err := s.TierBlobs(ctx, "cold", "")
	if err != nil {
		s.t.Fatal(err)
	}
	var known []string
	for _, b := range list {
		known = append(known, b.Key+" "+b.State.String())
	}
	want := make([]string, len(used))
	for i, name := range used {
		want[i] = "objects/" + name + " used"
	}
	if !slices.Equal(known, want) || !slices.Equal(s.objects(), used) || len(st.mem.Kept()) > 0 {
		s.t.Errorf("known %q, on the tier %q, unfinished %d; want %q", known, s.objects(), len(st.mem.Kept()), want)
	}
}

// TestGoesOnWhereItWasCutOff: no step is copied twice, in the same process and after a restart.
func TestGoesOnWhereItWasCutOff(t *testing.T) {
	s, st := newLarge(t)
	for i, n := range []int{3, 0, 2, 4} { // 10 with the last one below, and none in vain
		done := st.cutAfter(n)
		err := s.moveErr()
		if firn.KindOf(err) != firn.Unavailable || *done != n {
			t.Fatalf("try %d: %v after %d steps", i, err, *done)
		}
		if got, want := s.mover.Backlog()[0].Begun, (Begun{1, steps * stepSize, int64(len(st.mem.Kept()[largeKey]))}); got.Objects != 1 || got.Bytes != want.Bytes || got.Done < want.Done || got.Done > want.Done+2*stepSize {
			t.Errorf("try %d: %+v, want about %+v", i, got, want)
		}
		s.want("bkt", "film", "", film("x"))
		if i == 1 {
			s.close()
			s.open()
		}
	}
	done := st.cutAfter(steps)
	if err := s.moveErr(); err != nil {
		t.Fatal(err)
	}
	if *done > 2 { // the last step, and the end
		t.Errorf("%d steps in the end", *done)
	}
	s.want("bkt", "film", "", film("x"))
	// 3 and 3 by the first process, which the restart forgot, 5 and 9 by the second.
	if got := s.set.Status()[0].Done; got.ResumedBytes != (3+5+9)*stepSize || got.Moved != 1 {
		t.Errorf("%+v", got)
	}
	s.cleaned(st, "bkt/film")
}

// TestUploadIsGivenUp: whatever happens to a version whose copy was cut off, nothing of it stays.
func TestUploadIsGivenUp(t *testing.T) {
	for name, c := range map[string]struct {
		change func(s *site)
		left   []string
	}{
		"overwritten": {change: func(s *site) { s.put("bkt", "film", "short") }},
		"overwritten, and moved": {change: func(s *site) {
			s.put("bkt", "film", film("y"))
			if err := s.moveErr(); err != nil {
				s.t.Fatal(err)
			}
			s.want("bkt", "film", "", film("y"))
		}, left: []string{"bkt/film%~*"}},
		"deleted": {change: func(s *site) {
			if _, err := s.Delete(s.t.Context(), "bkt", "film", "", object.DeleteOptions{}); err != nil {
				s.t.Fatal(err)
			}
		}},
		"deleted with its bucket": {change: func(s *site) {
			if _, err := s.Delete(s.t.Context(), "bkt", "film", "", object.DeleteOptions{}); err != nil {
				s.t.Fatal(err)
			}
			if err := s.DeleteBucket(s.t.Context(), "bkt"); err != nil {
				s.t.Fatal(err)
			}
		}},
		"not asked for any more": {change: func(s *site) {
			if _, err := s.mover.Collect(s.t.Context()); err != nil {
				s.t.Fatal(err)
			}
			if got := s.mover.Backlog()[0].Begun.Objects; got != 1 {
				s.t.Errorf("%d were begun, want 1", got)
			}
			s.now = s.now.Add(keepUpload + time.Minute)
		}},
	} {
		for _, restart := range []bool{false, true} {
			t.Run(name+map[bool]string{true: ", after a restart"}[restart], func(t *testing.T) {
				s, st := newLarge(t)
				st.cutAfter(4)
				if err := s.moveErr(); firn.KindOf(err) != firn.Unavailable {
					t.Fatal(err)
				}
				if len(st.mem.Kept()) != 1 {
					t.Fatalf("kept: %d", len(st.mem.Kept()))
				}
				st.part = nil
				if restart {
					s.close()
					s.open()
				}
				c.change(s)
				// Where the place is away it is told later.
				st.part = func(op memblob.Op) memblob.Fault {
					if op.Name == "abandon" {
						return memblob.Fault{Err: errLost}
					}
					return memblob.Fault{}
				}
				if _, err := s.mover.Collect(t.Context()); err != nil {
					t.Fatal(err)
				}
				if len(st.mem.Kept()) != 1 {
					t.Errorf("kept: %d", len(st.mem.Kept()))
				}
				st.part = nil
				var left []string
				for _, name := range c.left {
					for _, o := range s.objects() {
						if strings.HasPrefix(o, strings.TrimSuffix(name, "*")) {
							left = append(left, o)
						}
					}
				}
				s.cleaned(st, left...)
			})
		}
	}
}

// TestSpoiledUpload: what was kept is compared with all the rest. Where it is other bytes, nothing is moved, and the next copy
// begins anew.
func TestSpoiledUpload(t *testing.T) {
	for _, restart := range []bool{false, true} {
		s, st := newLarge(t)
		st.cutAfter(4)
		if err := s.moveErr(); firn.KindOf(err) != firn.Unavailable {
			t.Fatal(err)
		}
		st.mem.Kept()[largeKey][stepSize+5] ^= 1
		st.part = nil
		if restart {
			s.close()
			s.open()
		}
		if err := s.moveErr(); firn.KindOf(err) != firn.Corrupt {
			t.Fatalf("%v (%v), want firn.Corrupt", err, firn.KindOf(err))
		}
		s.want("bkt", "film", "", film("x"))
		if v := s.versions("bkt")[0]; v.StorageClass != "" {
			t.Errorf("it was moved: %s", v.StorageClass)
		}
		done := st.cutAfter(2 * steps)
		if err := s.moveErr(); err != nil || *done < steps {
			t.Errorf("%v after %d steps", err, *done)
		}
		s.want("bkt", "film", "", film("x"))
		var names []string
		for _, o := range s.objects() {
			if o != "bkt/film" { // that is the spoiled one
				names = append(names, o)
			}
		}
		s.cleaned(st, names...)
	}
}

// TestNothingOfAnotherSite: what is kept under a name that was never reserved is not gone on with.
func TestNothingOfAnotherSite(t *testing.T) {
	s, st := newLarge(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	st.cutAfter(5)
	src := &stored{ctx: ctx, prefix: new(prefixHash)}
	o, err := s.Open(ctx, "bkt", "film", "")
	if err != nil {
		t.Fatal(err)
	}
	defer o.Close()
	src.o = o
	if err := st.mem.Resume(ctx, largeKey, src); firn.KindOf(err) != firn.Unavailable {
		t.Fatal(err)
	}
	st.mem.Kept()[largeKey][0] ^= 1
	st.part = nil
	if err := s.moveErr(); err != nil {
		t.Error(err)
	}
	s.want("bkt", "film", "", film("x"))
	s.cleaned(st, "bkt/film")
}

// TestWindowClosesMeanwhile: a large copy by a rule stops where its window closes, and goes on in the next one; the tier is
// not away for that.
func TestWindowClosesMeanwhile(t *testing.T) {
	s, st := newLarge(t)
	s.now = time.Date(2026, 1, 1, 5, 0, 0, 0, time.UTC)
	s.mover = NewMover(s.Store, s.set, Options{Site: "site-1", ResumeAbove: s.above, Windows: turns.Windows{{From: 22 * 60, To: 6 * 60}}})
	done := st.cutAfter(2 * steps)
	part := st.part
	st.part = func(op memblob.Op) memblob.Fault {
		f := part(op)
		if *done == 4 {
			s.now = time.Date(2026, 1, 1, 6, 1, 0, 0, time.UTC)
		}
		return f
	}
	if err := s.moveErr(); !errors.Is(err, turns.ErrClosed) || *done != 4 {
		t.Fatalf("%v after %d steps", err, *done)
	}
	if st := s.set.Status()[0]; !st.Away.IsZero() || st.Err != nil {
		t.Errorf("%+v", st)
	}
	if err := s.moveErr(); !errors.Is(err, turns.ErrClosed) || *done != 4 {
		t.Fatalf("%v after %d steps", err, *done)
	}
	s.now = time.Date(2026, 1, 1, 22, 0, 0, 0, time.UTC)
	st.part = part
	if err := s.moveErr(); err != nil || *done > steps+1 {
		t.Errorf("%v after %d steps", err, *done)
	}
	s.want("bkt", "film", "", film("x"))
	s.cleaned(st, "bkt/film")

	// What somebody asked for does not stop.
	s.put("bkt", "film", film("z"))
	s.now = time.Date(2026, 1, 2, 5, 0, 0, 0, time.UTC)
	*done = 0
	st.part = func(op memblob.Op) memblob.Fault {
		s.now = time.Date(2026, 1, 2, 6, 1, 0, 0, time.UTC)
		return part(op)
	}
	if err := errors.Join(s.mover.MoveNow(t.Context(), "cold", s.versions("bkt"), object.MoveOptions{})...); err != nil {
		t.Error(err)
	}
}

// TestCopiedButNotTold: where all of it is on the tier and its catalogue cannot be written, or it cannot be read back, the
// next try copies nothing again.
func TestCopiedButNotTold(t *testing.T) {
	for _, restart := range []bool{false, true} {
		for _, op := range []string{"put catalogue/", "get " + largeKey} {
			s, st := newLarge(t)
			s.put("bkt", "first", "1")
			first := slices.DeleteFunc(s.versions("bkt"), func(v record.Version) bool { return v.Key != "first" })
			if err := errors.Join(s.mover.Move(t.Context(), "cold", first, object.MoveOptions{})...); err != nil {
				t.Fatal(err)
			}
			st.step = func(name, key string, do func() error) error {
				if strings.HasPrefix(name+" "+key, op) {
					return errLost
				}
				return do()
			}
			if err := s.moveErr(); firn.KindOf(err) != firn.Unavailable {
				t.Fatalf("%s: %v", op, err)
			}
			st.step = func(_, _ string, do func() error) error { return do() }
			if restart {
				s.close()
				s.open()
			}
			if err := s.mover.Follow(t.Context()); err != nil {
				t.Fatal(err)
			}
			done := st.cutAfter(0)
			if err := s.moveErr(); err != nil || *done > 0 {
				t.Errorf("%s: %v after %d steps", op, err, *done)
			}
			s.want("bkt", "film", "", film("x"))
			s.same(s.rebuilt())
			s.cleaned(st, "bkt/film", "bkt/first")
		}
	}
}

// TestTwoAtOnce: two that move the same version at once do not write to one upload.
func TestTwoAtOnce(t *testing.T) {
	s, st := newLarge(t)
	began, first := make(chan struct{}), make(chan error, 1)
	second := make(chan struct{})
	st.part = func(op memblob.Op) memblob.Fault {
		if op.Name == "part" && op.Keys[0] == largeKey && began != nil {
			close(began)
			began = nil
			<-second
		}
		return memblob.Fault{}
	}
	wait := began
	list := s.versions("bkt")
	go func() {
		first <- errors.Join(s.mover.Move(context.WithoutCancel(t.Context()), "cold", list, object.MoveOptions{})...)
	}()
	<-wait
	if err := s.moveErr(); err != nil {
		t.Error(err)
	}
	close(second)
	if err := <-first; !errors.Is(err, object.ErrMoved) {
		t.Errorf("%v, want ErrMoved", err)
	}
	s.want("bkt", "film", "", film("x"))
	var names []string
	for _, o := range s.objects() {
		if o != "bkt/film" {
			names = append(names, o)
		}
	}
	s.cleaned(st, names...)
	s.want("bkt", "film", "", film("x"))
}

// TestNothingIsReservedOnATierThatIsAway: a copy that did not begin leaves no reservation.
func TestNothingIsReservedOnATierThatIsAway(t *testing.T) {
	s, st := newLarge(t)
	st.part = func(memblob.Op) memblob.Fault { return memblob.Fault{Err: errLost} }
	if err := s.moveErr(); firn.KindOf(err) != firn.Unavailable {
		t.Fatal(err)
	}
	list, err := s.TierBlobs(t.Context(), "cold", "")
	if err != nil || slices.ContainsFunc(list, func(b record.TierBlob) bool { return b.State == record.TierReserved }) {
		t.Errorf("%+v, %v", list, err)
	}
	if got := s.mover.Backlog()[0].Begun; got != (Begun{}) {
		t.Errorf("%+v", got)
	}
}

// TestFullTier: what was copied to a tier that is full does not stay there, also where the tier lets go of it only later.
func TestFullTier(t *testing.T) {
	s, st := newLarge(t)
	n := 0
	st.part = func(op memblob.Op) memblob.Fault {
		switch n++; {
		case op.Name == "abandon" && n > 1: // the first one is before the copy
			return memblob.Fault{Err: errLost}
		case op.Name == "part" && n > 5:
			return memblob.Fault{Err: firn.NewError(firn.NoSpace, "full")}
		}
		return memblob.Fault{}
	}
	if err := s.moveErr(); firn.KindOf(err) != firn.NoSpace || len(st.mem.Kept()) != 1 {
		t.Fatalf("%v, kept %d", err, len(st.mem.Kept()))
	}
	st.part = nil
	s.cleaned(st)
	if err := s.moveErr(); err != nil {
		t.Error(err)
	}
	s.want("bkt", "film", "", film("x"))
	s.cleaned(st, "bkt/film")
}
