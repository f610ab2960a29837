package sidecar

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"firn"
	"firn/archive/lease"
)

// twoPlaces is a sidecar that runs on the first target and finds the second one at "second:".
func twoPlaces(t *testing.T) (s *Sidecar, dir string, from, to *fake, stop func() error) {
	t.Helper()
	from, to = newFake(), newFake()
	from.name, to.name = "first:", "second:"
	s, dir = started(t, from, func(o *Options) {
		o.Keep = 10
		o.Open = func(_ context.Context, url string, _ bool) (Target, error) {
			if url == "second:" {
				return to, nil
			}
			return from, nil
		}
	})
	put(t, dir, "data", "one")
	stop = kept(t, s)
	for _, text := range []string{"two", "three"} {
		if err := s.Do(t.Context(), "backup", ""); err != nil {
			t.Fatal(err)
		}
		put(t, dir, "data", text)
	}
	if err := s.Do(t.Context(), "backup", ""); err != nil {
		t.Fatal(err)
	}
	return s, dir, from, to, stop
}

// A move: nothing is written to the source from the moment on that the last versions are copied, what came while the
// history was copied is copied too, and the sidecar goes on in the target.
func TestMoveLeavesNoGap(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, dir, from, to, stop := twoPlaces(t)
		inHistory := true
		to.during = func(ctx context.Context) error {
			if inHistory {
				inHistory = false
				put(t, dir, "data", "meanwhile")
				if err := s.Do(ctx, "backup", ""); err != nil {
					t.Errorf("while the history is copied: %v", err)
				}
			}
			return nil
		}
		var atEnd int
		report := func(what string) {
			if what == "comparing the last version" {
				atEnd = len(from.versions)
				put(t, dir, "data", "too late for the source")
				if err := s.Do(t.Context(), "backup", ""); err == nil || !strings.Contains(err.Error(), "being moved") {
					t.Errorf("a backup while the last version is compared: %v", err)
				}
				if st := s.Status(); !st.Ready {
					t.Errorf("the service is stopped: %+v", st)
				}
			}
		}
		rep, err := Move(t.Context(), from, to, MoveOptions{To: "second:", Report: report})
		if err != nil {
			t.Fatal(err)
		}
		if len(from.versions) != atEnd || rep.Versions != atEnd {
			t.Errorf("%d versions at the end, %d now, %+v", atEnd, len(from.versions), rep)
		}
		time.Sleep(6 * time.Minute)
		synctest.Wait()
		last := to.versions[len(to.versions)-1]
		if got := to.files[last.ID]["data"]; got != "too late for the source" || len(from.versions) != atEnd {
			t.Errorf("the last version in the target holds %q; %d versions in the source", got, len(from.versions))
		}
		if st := s.Status(); st.Target != "second:" || st.Bad() != "" {
			t.Errorf("%+v", st)
		}
		for i, v := range to.versions[:atEnd] {
			if v.Mark != from.versions[i].Mark || fmt.Sprint(to.files[v.ID]) != fmt.Sprint(from.files[from.versions[i].ID]) {
				t.Errorf("version %d is another one", i)
			}
			if i > 0 && !to.versions[i-1].Before(v) {
				t.Errorf("version %d is not after the one before", i)
			}
		}
		if !to.versions[atEnd-1].Before(last) {
			t.Error("what was written in the target is older than what was moved there")
		}
		if err := stop(); err != nil {
			t.Error(err)
		}
	})
}

// A move that does not come to its end leaves the source the place to use, whatever failed; the sidecar goes on there.
func TestMoveThatFails(t *testing.T) {
	for _, c := range []struct {
		name string
		do   func(t *testing.T, from, to *fake)
		kind firn.Kind
		says string
	}{
		{
			"the target gives other content", func(_ *testing.T, from, to *fake) {
				to.restoring = func(context.Context, string) error {
					for _, files := range to.files {
						files["data"] = "damaged"
					}
					return nil
				}
			}, firn.Corrupt, "not what it is in the source",
		},
		{
			"the target lacks a file", func(_ *testing.T, from, to *fake) {
				to.restoring = func(context.Context, string) error {
					for _, files := range to.files {
						delete(files, "data")
					}
					return nil
				}
			}, firn.Corrupt, "not what it is in the source",
		},
		{
			"a version cannot be stored", func(_ *testing.T, from, to *fake) {
				to.during = func(context.Context) error { return firn.NewError(firn.NoSpace, "full") }
			}, firn.NoSpace, "full",
		},
		{
			"a version cannot be read", func(_ *testing.T, from, to *fake) {
				from.restoring = func(context.Context, string) error { return firn.NewError(firn.Corrupt, "damaged pack") }
			}, firn.Corrupt, "damaged pack",
		},
		{
			"the target is another directory's", func(_ *testing.T, from, to *fake) {
				to.versions = []Version{{ID: "x", Mark: "another's", Lease: 5000, Files: 1}}
			}, firn.Conflict, "that the source does not have",
		},
		{
			"a file cannot be kept there", func(_ *testing.T, from, to *fake) { to.problems = 1 }, firn.Unsupported, "cannot be kept as they are",
		},
		{
			"the target is the source", func(_ *testing.T, from, to *fake) { to.name = from.name }, firn.Invalid, "the same",
		},
		{
			"the target has a writer", func(t *testing.T, from, to *fake) {
				if _, err := lease.Acquire(t.Context(), to.store, "sidecar/main", lease.Options{}); err != nil {
					t.Error(err)
				}
			}, firn.Locked, "holds it",
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, dir, from, to, stop := twoPlaces(t)
				c.do(t, from, to)
				n := len(from.versions)
				_, err := Move(t.Context(), from, to, MoveOptions{To: "second:"})
				if firn.KindOf(err) != c.kind || !strings.Contains(err.Error(), c.says) {
					t.Errorf("moved: %v", err)
				}
				put(t, dir, "data", "after it")
				time.Sleep(6 * time.Minute)
				synctest.Wait()
				if st := s.Status(); st.Target == "second:" || st.Bad() != "" || len(from.versions) <= n {
					t.Errorf("%+v, %d versions after %d", st, len(from.versions), n)
				}
				if r, err := lease.Look(t.Context(), from.store, "sidecar/main"); err != nil || r.Moved != "" {
					t.Errorf("%+v, %v", r, err)
				}
				if err := stop(); err != nil {
					t.Error(err)
				}
			})
		})
	}
}

// A sidecar follows a move only to where the directory's own version is the last one.
func TestFollowsOnlyToItsOwnVersion(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, dir, from, to, stop := twoPlaces(t)
		report := func(what string) {
			if what == "comparing the last version" {
				// Somebody else wrote to the target's place after the last copy, behind the lease's back.
				to.listing = func(context.Context) error {
					if r, err := lease.Look(t.Context(), from.store, "sidecar/main"); err == nil && !r.Moving {
						to.listing = nil
						to.versions = append(to.versions, Version{ID: "x", Mark: "another's", Lease: 9000, Files: 1})
					}
					return nil
				}
			}
		}
		if _, err := Move(t.Context(), from, to, MoveOptions{To: "second:", Report: report}); err != nil {
			t.Fatal(err)
		}
		put(t, dir, "data", "after it")
		stopped := make(chan error, 1)
		go func() { time.Sleep(6 * time.Minute); stopped <- stop() }()
		err := <-stopped
		if firn.KindOf(err) != firn.Conflict || !strings.Contains(err.Error(), "not the directory's") {
			t.Errorf("it ended with %v: %+v", err, s.Status())
		}
		if n := len(to.versions); to.versions[n-1].Mark != "another's" {
			t.Errorf("it wrote after another's version: %+v", to.versions)
		}
	})
}

// A sidecar that finds its backups moved twice goes on in the last place.
func TestFollowsTwoMoves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, dir, from, to, stop := twoPlaces(t)
		third := newFake()
		third.name = "third:"
		open := s.o.Open
		s.o.Open = func(ctx context.Context, url string, create bool) (Target, error) {
			if url == "third:" {
				return third, nil
			}
			return open(ctx, url, create)
		}
		// The sidecar looks at its lease each 10 s; the second move is over by then.
		for _, m := range []struct{ from, to *fake }{{from, to}, {to, third}} {
			if _, err := Move(t.Context(), m.from, m.to, MoveOptions{To: m.to.name}); err != nil {
				t.Fatal(err)
			}
		}
		put(t, dir, "data", "after it")
		time.Sleep(6 * time.Minute)
		synctest.Wait()
		last := third.versions[len(third.versions)-1]
		if st := s.Status(); st.Target != "third:" || st.Bad() != "" || third.files[last.ID]["data"] != "after it" {
			t.Errorf("%+v: %+v", st, third.files[last.ID])
		}
		if err := stop(); err != nil {
			t.Error(err)
		}
	})
}

// After a move that was taken back the sidecar goes on only where nobody else wrote meanwhile.
func TestBackOnlyToItsOwnVersion(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, dir, from, _, stop := twoPlaces(t)
		l, err := lease.Acquire(t.Context(), from.store, "sidecar/main", lease.Options{Seize: true, Moved: "second:"})
		if err != nil {
			t.Fatal(err)
		}
		from.versions = append(from.versions, Version{ID: "x", Mark: "another's", Lease: l.Number(), Files: 1})
		if err := l.Stay(t.Context()); err != nil {
			t.Fatal(err)
		}
		put(t, dir, "data", "stale")
		time.Sleep(6 * time.Minute)
		synctest.Wait()
		if st := s.Status(); st.Phase != Superseded && st.Phase != Stopped || st.Ready {
			t.Errorf("%+v", st)
		}
		if n := len(from.versions); from.versions[n-1].Mark != "another's" {
			t.Errorf("it wrote after another's version: %+v", from.versions)
		}
		if err := stop(); firn.KindOf(err) != firn.Conflict {
			t.Errorf("it ended with %v", err)
		}
	})
}

// A move that was killed halfway is taken back, and the sidecar goes on where it was.
func TestStayAfterAKilledMove(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, dir, from, to, stop := twoPlaces(t)
		ctx, kill := context.WithCancel(t.Context())
		report := func(what string) {
			if what == "comparing the last version" {
				// As if the process were gone: its lease stays as it is.
				from.restoring = func(context.Context, string) error { return firn.NewError(firn.Unavailable, "killed") }
				kill()
			}
		}
		_, err := Move(ctx, from, to, MoveOptions{To: "second:", Report: report})
		if err == nil {
			t.Fatal("it came to its end")
		}
		from.restoring = nil
		// Move takes itself back even so; a killed one cannot: do what it had done.
		l, err := lease.Acquire(t.Context(), from.store, "sidecar/main", lease.Options{Seize: true, Moved: "second:"})
		if err != nil {
			t.Fatal(err)
		}
		put(t, dir, "data", "meanwhile")
		n := len(from.versions)
		time.Sleep(6 * time.Minute)
		synctest.Wait()
		if st := s.Status(); len(from.versions) != n || !strings.Contains(st.Bad(), "being moved") {
			t.Errorf("%+v, %d versions after %d", st, len(from.versions), n)
		}
		if _, err := Move(t.Context(), from, to, MoveOptions{To: "second:"}); err == nil || !strings.Contains(err.Error(), "firn persist stay") {
			t.Errorf("another move: %v", err)
		}
		if err := Stay(t.Context(), from); err != nil {
			t.Fatal(err)
		}
		if err := Stay(t.Context(), from); firn.KindOf(err) != firn.Precondition {
			t.Errorf("taken back twice: %v", err)
		}
		_ = l
		time.Sleep(6 * time.Minute)
		synctest.Wait()
		if st := s.Status(); st.Bad() != "" || len(from.versions) != n+1 {
			t.Errorf("%+v, %d versions after %d", st, len(from.versions), n)
		}
		if err := stop(); err != nil {
			t.Error(err)
		}
	})
}

// What was moved is not moved again from the old place, nor taken back.
func TestMovedForGood(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		from, to := saved(t, map[string]string{"data": "x"}), newFake()
		to.name = "second:"
		if _, err := Move(t.Context(), from, to, MoveOptions{To: "second:"}); err != nil {
			t.Fatal(err)
		}
		third := newFake()
		third.name = "third:"
		if _, err := Move(t.Context(), from, third, MoveOptions{To: "third:"}); firn.KindOf(err) != firn.Conflict || len(third.versions) > 0 {
			t.Errorf("moved again: %v, %+v", err, third.versions)
		}
		if err := Stay(t.Context(), from); firn.KindOf(err) != firn.Precondition {
			t.Errorf("taken back: %v", err)
		}
		if r, err := lease.Look(t.Context(), from.store, "sidecar/main"); err != nil || r.Moved != "second:" || r.Moving {
			t.Errorf("%+v, %v", r, err)
		}
	})
}

// What comparing two directories must tell apart.
func TestContents(t *testing.T) {
	make := func(t *testing.T, change func(dir string)) [32]byte {
		dir := t.TempDir()
		for _, name := range []string{"a", "b"} {
			put(t, dir, name, "text")
		}
		if err := os.Symlink("a", filepath.Join(dir, "link")); err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"a", "b"} {
			if err := os.Chtimes(filepath.Join(dir, name), time.Time{}, time.Unix(1e9, 0)); err != nil {
				t.Fatal(err)
			}
		}
		change(dir)
		sum, err := contents(t.Context(), dir, Rules{Exclude: []string{"*.log"}})
		if err != nil {
			t.Fatal(err)
		}
		return sum
	}
	must := func(errs ...error) {
		for _, err := range errs {
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	same := make(t, func(string) {})
	if make(t, func(dir string) { put(t, dir, "x.log", "noise"); put(t, dir, StateFile, "own") }) != same {
		t.Error("what is left out makes a difference")
	}
	at := func(path string) { must(os.Chtimes(path, time.Time{}, time.Unix(1e9, 0))) }
	for what, change := range map[string]func(dir string){
		"content": func(dir string) { put(t, dir, "a", "tExt"); at(filepath.Join(dir, "a")) },
		"name":    func(dir string) { must(os.Rename(filepath.Join(dir, "a"), filepath.Join(dir, "c"))) },
		"removed": func(dir string) { must(os.Remove(filepath.Join(dir, "b"))) },
		"added":   func(dir string) { put(t, dir, "c", "") },
		"mode":    func(dir string) { must(os.Chmod(filepath.Join(dir, "a"), 0o640)) },
		"time":    func(dir string) { must(os.Chtimes(filepath.Join(dir, "a"), time.Time{}, time.Unix(2e9, 0))) },
		"link": func(dir string) {
			must(os.Remove(filepath.Join(dir, "link")), os.Symlink("b", filepath.Join(dir, "link")))
		},
		"empty directory": func(dir string) { must(os.Mkdir(filepath.Join(dir, "d"), 0o755)) },
	} {
		if make(t, change) == same {
			t.Errorf("%s makes no difference", what)
		}
	}
}
