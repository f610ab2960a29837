package sidecar

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"firn"
	"firn/archive/lease"
	"firn/blob"
	"firn/blob/memblob"
	"firn/repo"
)

// saved returns a target with a version that holds files, and closes nothing.
func saved(t *testing.T, files map[string]string) *fake {
	t.Helper()
	f := newFake()
	s, dir := started(t, f)
	for name, content := range files {
		put(t, dir, name, content)
	}
	once(t, s)
	if err := s.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if len(f.versions) != 1 {
		t.Fatalf("%+v", f.versions)
	}
	return f
}

// once runs Keep for its first and last backup.
func once(t *testing.T, s *Sidecar) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Keep(ctx); err != nil {
		t.Fatal(err)
	}
}

// kept runs Keep until the test ends, or stop is called.
func kept(t *testing.T, s *Sidecar) (stop func() error) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.Keep(ctx) }()
	return func() error { cancel(); return <-ended }
}

func readyz(s *Sidecar) (int, string) {
	w := httptest.NewRecorder()
	s.Handler().ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/readyz", nil))
	return w.Code, w.Body.String()
}

func content(t *testing.T, dir, name string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	return string(b)
}

// Whatever fails before the directory is restored, the service does not start, nothing is written to the target, and
// status and probe say why; once it is put right the start goes on by itself.
func TestStartWaits(t *testing.T) {
	away := firn.NewError(firn.Unavailable, "it is away")
	for _, c := range []struct {
		name   string
		dir    map[string]string
		broken func(f *fake, dir string, o *Options)
		mended func(f *fake, dir string)
		says   string
	}{
		{
			"opening fails", nil,
			func(f *fake, _ string, o *Options) {
				o.Init = true // even so
				begin := time.Now()
				o.Open = func(context.Context, string, bool) (Target, error) {
					if time.Since(begin) < time.Minute {
						return nil, away
					}
					return f, nil
				}
			},
			func(*fake, string) {}, "cannot be reached: it is away",
		},
		{
			"listing versions fails", nil,
			func(f *fake, _ string, _ *Options) { f.listing = func(context.Context) error { return away } },
			func(f *fake, _ string) { f.listing = nil }, "cannot be reached: it is away",
		},
		{
			"the restore fails", nil,
			func(f *fake, _ string, _ *Options) {
				f.restoring = func(_ context.Context, dir string) error {
					return errors.Join(os.WriteFile(filepath.Join(dir, "half"), nil, 0o600), away)
				}
			},
			func(f *fake, _ string) { f.restoring = nil }, "restore: it is away",
		},
		{
			"comparing fails",
			map[string]string{StateFile: `{"format":1,"mark":"older"}`, "data": "older"},
			func(f *fake, _ string, _ *Options) {
				f.versions = append([]Version{{ID: "older", Mark: "older", Files: 1}}, f.versions...)
				f.changed = away
			},
			func(f *fake, _ string) { f.changed = nil }, "compare the directory with its backup: it is away",
		},
		{
			"the state file is damaged",
			map[string]string{StateFile: `{"format`, "data": "unknown"},
			func(*fake, string, *Options) {},
			func(_ *fake, dir string) {
				if err := errors.Join(os.Remove(filepath.Join(dir, StateFile)), os.Remove(filepath.Join(dir, "data"))); err != nil {
					t.Fatal(err)
				}
			}, "cannot be read",
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := saved(t, map[string]string{"data": "x"})
				dir := t.TempDir()
				for name, text := range c.dir {
					put(t, dir, name, text)
				}
				s := beside(t, f, dir, func(o *Options) { c.broken(f, dir, o) })
				before := len(f.versions)
				ended := make(chan error, 1)
				go func() { ended <- s.Start(t.Context()) }()
				time.Sleep(40 * time.Second)
				synctest.Wait()
				select {
				case err := <-ended:
					t.Fatalf("started: %v", err)
				default:
				}
				if st := s.Status(); st.Phase != Waiting || st.Ready || !strings.Contains(st.Reason, c.says) {
					t.Errorf("%+v", st)
				}
				if code, text := readyz(s); code != http.StatusServiceUnavailable || !strings.Contains(text, c.says) {
					t.Errorf("the probe: %d %s", code, text)
				}
				if len(f.versions) != before {
					t.Errorf("something was backed up: %+v", f.versions)
				}
				f.mu.Lock()
				c.mended(f, dir)
				f.mu.Unlock()
				if err := <-ended; err != nil {
					t.Fatal(err)
				}
				if code, text := readyz(s); code != http.StatusOK {
					t.Errorf("the probe: %d %s", code, text)
				}
				if got := content(t, dir, "data"); got != "x" {
					t.Errorf("data: %q", got)
				}
				if err := s.Close(t.Context()); err != nil {
					t.Error(err)
				}
			})
		})
	}
}

// While a restore is under way the state file says so; a start after one that was cut off restores again, though the
// directory is full of files.
func TestRestoreCutOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := saved(t, map[string]string{"a": "whole", "b": "whole"})
		dir := t.TempDir()
		s := beside(t, f, dir)
		ctx, kill := context.WithCancel(t.Context())
		f.restoring = func(ctx context.Context, dir string) error {
			if st, err := s.dir.readState(); err != nil || st == nil || st.Restoring != f.versions[0].ID || st.came() == false {
				t.Errorf("while it is restored: %+v, %v", st, err)
			}
			put(t, dir, "a", "ha")
			kill()
			<-ctx.Done()
			return ctx.Err()
		}
		if err := s.Start(ctx); err == nil || s.Status().Ready {
			t.Fatal("it is ready")
		}
		if err := s.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
		f.restoring = nil
		s = beside(t, f, dir, func(o *Options) { o.Prefer = PreferDirectory })
		if err := s.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got := content(t, dir, "a") + content(t, dir, "b"); got != "wholewhole" {
			t.Errorf("it is %q", got)
		}
		if st, err := s.dir.readState(); err != nil || st.Restoring != "" || st.Mark != f.versions[0].Mark {
			t.Errorf("%+v, %v", st, err)
		}
		if err := s.Close(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

// A sidecar that is superseded while it restores stops, and never becomes ready.
func TestSupersededWhileRestoring(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := saved(t, map[string]string{"data": "x"})
		s := beside(t, f, t.TempDir())
		f.restoring = func(ctx context.Context, _ string) error {
			if _, err := lease.Acquire(context.WithoutCancel(ctx), f.store, "sidecar/main", lease.Options{Seize: true}); err != nil {
				t.Error(err)
			}
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-time.After(time.Hour):
				return nil
			}
		}
		if err := s.Start(t.Context()); firn.KindOf(err) != firn.Conflict || s.Status().Ready {
			t.Errorf("it ended with %v: %+v", err, s.Status())
		}
		if err := s.Close(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

// A superseded sidecar neither makes a version nor removes one.
func TestSupersededWritesNothing(t *testing.T) {
	seize := func(t *testing.T, f *fake) {
		if _, err := lease.Acquire(context.Background(), f.store, "sidecar/main", lease.Options{Seize: true}); err != nil {
			t.Error(err)
		}
	}
	t.Run("backup", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			f := newFake()
			s, dir := started(t, f)
			put(t, dir, "data", "x")
			seize(t, f)
			f.during = func(context.Context) error { t.Error("a backup was made"); return nil }
			if err := s.Keep(t.Context()); firn.KindOf(err) != firn.Conflict {
				t.Errorf("it ended with %v", err)
			}
		})
	})
	t.Run("forget", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			f := newFake()
			s, dir := started(t, f, func(o *Options) { o.Keep = 1 })
			put(t, dir, "data", "x")
			stop := kept(t, s)
			time.Sleep(time.Second)
			synctest.Wait()
			f.listing = func(context.Context) error { f.listing = nil; seize(t, f); return nil }
			f.forgetting = func() { t.Error("versions were removed") }
			put(t, dir, "data", "xx")
			time.Sleep(6 * time.Minute)
			synctest.Wait()
			if st := s.Status(); st.Phase != Superseded && st.Phase != Stopped || st.Ready {
				t.Errorf("%+v", st)
			}
			if err := stop(); firn.KindOf(err) != firn.Conflict {
				t.Errorf("it ended with %v", err)
			}
		})
	})
}

// Also one that has nothing to back up finds out, and is not ready any more: its service must not go on.
func TestSupersededIdle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		s, _ := started(t, f, func(o *Options) { o.Interval = 24 * time.Hour })
		ended := make(chan error, 1)
		go func() { ended <- s.Keep(t.Context()) }()
		time.Sleep(time.Minute)
		if _, err := lease.Acquire(t.Context(), f.store, "sidecar/main", lease.Options{Seize: true}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(lease.DefaultTTL)
		select {
		case err := <-ended:
			if firn.KindOf(err) != firn.Conflict || s.Status().Ready {
				t.Errorf("it ended with %v: %+v", err, s.Status())
			}
		default:
			t.Fatal("it goes on")
		}
	})
}

// A version is acknowledged in the directory before an older one goes: after a crash in between, the directory must not
// have come from one that is gone.
func TestAcknowledgedBeforeForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		s, dir := started(t, f, func(o *Options) { o.Keep = 1 })
		pending := 0
		f.during = func(context.Context) error {
			if st, err := s.dir.readState(); err != nil || st.Pending == "" {
				t.Errorf("a version is made, and the directory does not know: %+v, %v", st, err)
			}
			pending++
			return nil
		}
		forgot := 0
		f.forgetting = func() {
			forgot++
			if st, err := s.dir.readState(); err != nil || st.Mark != f.versions[len(f.versions)-1].Mark || st.Pending != "" {
				t.Errorf("%+v, %v", st, err)
			}
		}
		stop := kept(t, s)
		for range 3 {
			put(t, dir, "data", strings.Repeat("x", 1+pending))
			time.Sleep(6 * time.Minute)
			synctest.Wait()
		}
		if err := stop(); err != nil {
			t.Error(err)
		}
		if pending < 3 || forgot < 2 || len(f.versions) != 1 {
			t.Errorf("%d backups, %d times forgotten, %+v", pending, forgot, f.versions)
		}
	})
}

// While the directory is held nothing is pruned. A file that is seen empty only while it is written anew is no accident.
func TestHeld(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		s, dir := started(t, f, func(o *Options) { o.Tend = time.Nanosecond })
		for _, name := range []string{"a", "b", "c", "d"} {
			put(t, dir, name, strings.Repeat("x", 100<<10))
		}
		tended := 0
		f.tending = func() { tended++ }
		stop := kept(t, s)
		time.Sleep(time.Minute)
		// Written anew: for a second there is less.
		go func() {
			time.Sleep(4*time.Minute - time.Second/2) // just before the interval's end
			for _, name := range []string{"a", "b", "c"} {
				put(t, dir, name, "")
			}
			time.Sleep(time.Second)
			for _, name := range []string{"a", "b", "c"} {
				put(t, dir, name, strings.Repeat("y", 100<<10))
			}
		}()
		time.Sleep(5 * time.Minute)
		synctest.Wait()
		if st := s.Status(); st.Held || st.Failures != 0 || len(f.versions) != 2 {
			t.Errorf("a file that is written anew: %+v, %+v", st, f.versions)
		}
		for _, name := range []string{"a", "b", "c"} {
			if err := os.Remove(filepath.Join(dir, name)); err != nil {
				t.Fatal(err)
			}
		}
		before := tended
		for i := range 5 {
			put(t, dir, "d", strings.Repeat("z", 100<<10+i))
			time.Sleep(6 * time.Minute)
		}
		synctest.Wait()
		if st := s.Status(); !st.Held || tended != before {
			t.Errorf("pruned %d times while held: %+v", tended-before, st)
		}
		if good := f.versions[:2]; good[0].Held || good[1].Held || !f.versions[2].Held {
			t.Errorf("%+v", f.versions)
		}
		if err := s.Do(t.Context(), "accept", ""); err != nil {
			t.Fatal(err)
		}
		if st := s.Status(); st.Held || tended == before {
			t.Errorf("accepted, and pruned %d times: %+v", tended-before, st)
		}
		if err := stop(); err != nil {
			t.Error(err)
		}
	})
}

// A directory that lost much stays held after a restart: what was lost is measured by the last good version, not by the
// one that was made of what was left.
func TestHeldAfterARestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := saved(t, map[string]string{"a": "x", "b": "x", "c": "x", "d": "x", "e": "x"})
		dir := t.TempDir()
		s := beside(t, f, dir)
		if err := s.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		stop := kept(t, s)
		time.Sleep(time.Minute) // the first look is over
		synctest.Wait()
		for _, name := range []string{"a", "b", "c", "d"} {
			if err := os.Remove(filepath.Join(dir, name)); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(6 * time.Minute)
		synctest.Wait()
		if err := stop(); firn.KindOf(err) != firn.Conflict || !s.Status().Held {
			t.Errorf("it ended with %v: %+v", err, s.Status())
		}
		if err := s.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
		s = beside(t, f, dir)
		if err := s.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		stop = kept(t, s)
		time.Sleep(time.Minute)
		synctest.Wait()
		put(t, dir, "e", "changed")
		time.Sleep(6 * time.Minute)
		synctest.Wait()
		if st := s.Status(); !st.Held {
			t.Errorf("%+v", st)
		}
		for _, v := range f.versions[1:] {
			if !v.Held {
				t.Errorf("what was left counts as good: %+v", f.versions)
			}
		}
		if err := stop(); firn.KindOf(err) != firn.Conflict {
			t.Errorf("it ended with %v", err)
		}
	})
}

// What made the files fit to be backed up must have succeeded.
func TestPreFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		fails := true
		s, dir := started(t, f, func(o *Options) {
			o.Pre = func(context.Context) error {
				if fails {
					return errors.New("no dump")
				}
				return nil
			}
		})
		put(t, dir, "data", "x")
		stop := kept(t, s)
		time.Sleep(time.Hour)
		synctest.Wait()
		if st := s.Status(); len(f.versions) != 0 || st.Failures == 0 || !strings.Contains(st.Bad(), "no dump") {
			t.Errorf("%+v, %+v", st, f.versions)
		}
		fails = false
		if err := stop(); err != nil || len(f.versions) != 1 {
			t.Errorf("%v, %+v", err, f.versions)
		}
	})
}

// A rollback backs up what is there first, and what comes after it is not kept. The next start restores.
func TestRollback(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		s, dir := started(t, f, func(o *Options) { o.Keep = 2 })
		stop := kept(t, s)
		for _, text := range []string{"one", "two"} {
			put(t, dir, "data", text)
			if err := s.Do(t.Context(), "backup", ""); err != nil {
				t.Fatal(err)
			}
		}
		first := f.versions[0] // the next backup would cost it
		if f.files[first.ID]["data"] != "one" {
			t.Fatalf("%+v", f.files)
		}
		put(t, dir, "data", "three, never backed up")
		if err := s.Do(t.Context(), "rollback", first.ID); err != nil {
			t.Fatal(err)
		}
		n := len(f.versions)
		if got := f.files[f.versions[n-2].ID]["data"]; got != "three, never backed up" {
			t.Errorf("before the rollback %q was backed up", got)
		}
		put(t, dir, "data", "four, after it")
		time.Sleep(time.Hour)
		if err := stop(); err != nil {
			t.Error(err)
		}
		if len(f.versions) != n {
			t.Errorf("what came after the rollback was kept: %+v", f.versions[n:])
		}
		if err := s.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
		f.dirty = true // so that nothing but the rollback has it restored
		s = beside(t, f, dir)
		if err := s.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got := content(t, dir, "data"); got != "one" {
			t.Errorf("data: %q", got)
		}
		if err := s.Close(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

// Where what is there cannot be backed up, or another sidecar has come, there is no rollback.
func TestRollbackThatMayNot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		post := func() {}
		s, dir := started(t, f, func(o *Options) { o.Post = func(context.Context) error { post(); return nil } })
		stop := kept(t, s)
		put(t, dir, "data", "one")
		if err := s.Do(t.Context(), "backup", ""); err != nil {
			t.Fatal(err)
		}
		first := f.versions[len(f.versions)-1].ID
		put(t, dir, "data", "two")
		f.during = func(context.Context) error { return firn.NewError(firn.NoSpace, "full") }
		n := len(f.versions)
		if err := s.Do(t.Context(), "rollback", first); err == nil || !strings.Contains(err.Error(), "could not be backed up first") {
			t.Errorf("rolled back: %v", err)
		}
		if st, err := s.dir.readState(); err != nil || st.Restoring != "" || len(f.versions) != n {
			t.Errorf("%+v, %v, %+v", st, err, f.versions[n:])
		}
		f.during = nil
		post = func() {
			post = func() {}
			if _, err := lease.Acquire(context.Background(), f.store, "sidecar/main", lease.Options{Seize: true}); err != nil {
				t.Error(err)
			}
		}
		if err := s.Do(t.Context(), "rollback", first); firn.KindOf(err) != firn.Conflict {
			t.Errorf("rolled back under another's lease: %v", err)
		}
		if len(f.versions) != n+1 {
			t.Errorf("%+v", f.versions[n:])
		}
		put(t, dir, "data", "three")
		if err := stop(); firn.KindOf(err) != firn.Conflict {
			t.Errorf("it ended with %v", err)
		}
	})
}

// Without a running sidecar a rollback restores at once, and so not beneath a service that runs.
func TestRollbackBeneathAService(t *testing.T) {
	f := saved(t, map[string]string{"data": "one"})
	dir := t.TempDir()
	s := beside(t, f, dir)
	if err := s.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	put(t, dir, "data", "two")
	put(t, dir, "postmaster.pid", fmt.Sprintf("%d\n", os.Getppid()))
	if err := s.Rollback(t.Context(), f.versions[0].ID); firn.KindOf(err) != firn.Conflict || !strings.Contains(err.Error(), "in use") {
		t.Errorf("rolled back: %v", err)
	}
	if got := content(t, dir, "data"); got != "two" {
		t.Errorf("data: %q", got)
	}
	if err := s.Close(t.Context()); err != nil {
		t.Error(err)
	}
}

// The lease of the process before this one is not waited for, where it must have ended: the same directory on the same
// machine, since when it was started. A volume that was attached elsewhere has the same state file.
func TestOnlyTheSameMachineNeedNotWait(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(*State)
		waits  bool
	}{
		{"same", func(*State) {}, false},
		{"another boot", func(s *State) { s.Boot = "another" }, true},
		{"no boot known", func(s *State) { s.Boot = "" }, true},
		{"another file system", func(s *State) { s.Device++ }, true},
		{"another directory", func(s *State) { s.Inode++ }, true},
		{"another holder", func(s *State) { s.Holder = "another" }, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFake()
				s, dir := started(t, f)
				st, err := s.dir.readState()
				if err != nil {
					t.Fatal(err)
				}
				c.change(st)
				if err := s.dir.writeState(*st); err != nil {
					t.Fatal(err)
				}
				if err := s.dir.Close(); err != nil { // killed: the lease is not released
					t.Fatal(err)
				}
				begin := time.Now()
				s = beside(t, f, dir)
				if err := s.Start(t.Context()); err != nil {
					t.Fatal(err)
				}
				if waited := time.Since(begin) >= lease.DefaultTTL; waited != c.waits {
					t.Errorf("waited %s", time.Since(begin))
				}
				if err := s.Close(t.Context()); err != nil {
					t.Error(err)
				}
			})
		})
	}
}

// The flock of a directory is what tells that the process before has ended.
func TestOneSidecarADirectory(t *testing.T) {
	s, dir := started(t, newFake())
	defer s.Close(context.WithoutCancel(t.Context()))
	if err := beside(t, newFake(), dir).Start(t.Context()); firn.KindOf(err) != firn.Locked {
		t.Errorf("a second one on the directory: %v", err)
	}
}

// A start while the backups are moved waits, and goes on where they are afterwards.
func TestStartWaitsForAMove(t *testing.T) {
	for _, moves := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			from, to := saved(t, map[string]string{"data": "old"}), saved(t, map[string]string{"data": "new"})
			l, err := lease.Acquire(t.Context(), from.store, "sidecar/main", lease.Options{Seize: true, Moved: "second:"})
			if err != nil {
				t.Fatal(err)
			}
			dir := t.TempDir()
			s := beside(t, from, dir, func(o *Options) {
				o.Open = func(_ context.Context, url string, _ bool) (Target, error) {
					if url == "second:" {
						return to, nil
					}
					return from, nil
				}
			})
			ended := make(chan error, 1)
			go func() { ended <- s.Start(t.Context()) }()
			time.Sleep(time.Minute)
			synctest.Wait()
			if st := s.Status(); st.Phase != Waiting || !strings.Contains(st.Reason, "being moved to second:") {
				t.Errorf("%+v", st)
			}
			if moves {
				err = l.Move(t.Context(), "second:", true)
			} else {
				err = l.Stay(t.Context())
			}
			if err := errors.Join(err, <-ended); err != nil {
				t.Fatal(err)
			}
			if got := content(t, dir, "data"); moves != (got == "new") {
				t.Errorf("moved %v, and data is %q", moves, got)
			}
			if err := s.Close(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
}

// PostgreSQL's own lock file counts as a process that has the directory.
func TestPostmaster(t *testing.T) {
	dir := t.TempDir()
	put(t, dir, "postmaster.pid", fmt.Sprintf("%d\n/data\n", os.Getppid()))
	if who, err := inUse(dir); err != nil || !strings.Contains(who, "postmaster.pid") {
		t.Errorf("%q, %v", who, err)
	}
	put(t, dir, "postmaster.pid", "4194305\n") // above the highest there can be
	if who, err := inUse(dir); err != nil || who != "" {
		t.Errorf("%q, %v", who, err)
	}
}

// What makes a directory another one than that which was restored.
func TestLost(t *testing.T) {
	for _, c := range []struct {
		name string
		do   func(t *testing.T, dir string, st State) error
		says string
	}{
		{"as it was", func(*testing.T, string, State) error { return nil }, ""},
		{"no state file", func(_ *testing.T, dir string, _ State) error { return os.Remove(filepath.Join(dir, StateFile)) }, "gone"},
		{"another's state file", func(t *testing.T, dir string, st State) error {
			put(t, dir, StateFile, `{"format":1,"holder":"somebody"}`)
			return nil
		}, "another's"},
		{"damaged", func(t *testing.T, dir string, st State) error { put(t, dir, StateFile, "{"); return nil }, "damaged"},
		{"a copy of it has its name", func(t *testing.T, dir string, st State) error {
			b := content(t, dir, StateFile)
			err := errors.Join(os.Rename(dir, dir+".away"), os.Mkdir(dir, 0o755))
			put(t, dir, StateFile, b)
			return err
		}, "another directory has its name"},
		{"gone itself", func(_ *testing.T, dir string, _ State) error { return os.Rename(dir, dir+".away") }, "no such file"},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "data")
			if err := os.Mkdir(dir, 0o755); err != nil {
				t.Fatal(err)
			}
			d, err := openDirectory(dir, Rules{})
			if err != nil {
				t.Fatal(err)
			}
			defer d.Close()
			st := d.identity()
			st.Holder = "me"
			if err := errors.Join(d.writeState(st), c.do(t, dir, st)); err != nil {
				t.Fatal(err)
			}
			err = d.lost("me")
			if c.says == "" && err != nil || c.says != "" && (err == nil || !strings.Contains(err.Error(), c.says)) {
				t.Errorf("%v, want …%s…", err, c.says)
			}
		})
	}
}

// Only this machine, and no web page, may have the sidecar accept a loss, back up or roll back.
func TestActionsAreForThisMachine(t *testing.T) {
	s, _ := started(t, newFake())
	defer s.Close(context.WithoutCancel(t.Context()))
	for _, what := range []string{"accept", "backup", "rollback?to=x"} {
		for _, c := range []struct {
			from, header string
			refused      bool
		}{
			{"10.0.0.7:1234", "1", true},
			{"127.0.0.1:1234", "", true},
			{"[::1]:1234", "", true},
			{"", "1", true},
			{"127.0.0.1:1234", "1", false},
		} {
			ctx, cancel := context.WithCancel(t.Context())
			cancel() // nobody runs Keep: whoever is let in is told so at once
			r := httptest.NewRequestWithContext(ctx, http.MethodPost, "/"+what, nil)
			r.RemoteAddr = c.from
			r.Header.Set(ActionHeader, c.header)
			w := httptest.NewRecorder()
			s.Handler().ServeHTTP(w, r)
			if refused := w.Code == http.StatusForbidden; refused != c.refused {
				t.Errorf("%s from %q with %q: %d %s", what, c.from, c.header, w.Code, w.Body)
			}
		}
	}
}

// Versions are in the order of leases. A node whose clock is a day ahead does not win.
func TestOrderIgnoresClocks(t *testing.T) {
	store := blob.New(memblob.New(memblob.Options{}), "mem:")
	r, err := repo.Init(t.Context(), store, []byte("password"), repo.InitOptions{})
	if err != nil {
		t.Fatal(err)
	}
	target := NewRepoTarget(r, "main", Rules{}, RepoOptions{})
	defer target.Close()
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		for _, v := range []Version{{Mark: "new", Lease: 2, Seq: 1}, {Mark: "older", Lease: 1, Seq: 2}, {Mark: "oldest", Lease: 1, Seq: 1}} {
			put(t, dir, "data", v.Mark)
			if _, _, err := target.Backup(t.Context(), dir, v); err != nil {
				t.Fatal(err)
			}
			time.Sleep(24 * time.Hour)
		}
	})
	versions, _, err := target.Versions(t.Context())
	if err != nil || len(versions) != 3 || versions[0].Mark != "oldest" || versions[2].Mark != "new" {
		t.Errorf("%+v, %v", versions, err)
	}
	if !versions[2].Time.Before(versions[0].Time) {
		t.Fatal("the clocks do not differ")
	}
}

// Files that go between the look and the backup make the version a held one.
func TestLostWhileItIsBackedUp(t *testing.T) {
	store := blob.New(memblob.New(memblob.Options{}), "mem:")
	r, err := repo.Init(t.Context(), store, []byte("password"), repo.InitOptions{})
	if err != nil {
		t.Fatal(err)
	}
	target := NewRepoTarget(r, "main", Rules{}, RepoOptions{})
	defer target.Close()
	dir := t.TempDir()
	put(t, dir, "one", "x")
	v, _, err := target.Backup(t.Context(), dir, Version{Mark: "m", Lease: 1, Seq: 1, Files: 10})
	if err != nil || !v.Held {
		t.Errorf("%+v, %v", v, err)
	}
	versions, _, err := target.Versions(t.Context())
	if err != nil || len(versions) != 1 || !versions[0].Held || versions[0].ID != v.ID {
		t.Errorf("%+v, %v", versions, err)
	}
}
