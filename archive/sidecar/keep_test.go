package sidecar

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"firn"
	"firn/archive/lease"
	"firn/blob"
	"firn/blob/memblob"
)

// fake is a target in memory that keeps files, and can fail, hang, or have something happen at each step.
type fake struct {
	mu        sync.Mutex // of what tests change while a start waits: listing, restoring, changed
	name      string     // "" is mem:
	store     *blob.Store
	versions  []Version
	files     map[string]map[string]string // by version and path; only what is in the directory itself
	listing   func(context.Context) error  // of each call of Versions
	during    func(context.Context) error  // of a backup, before it is there
	restoring func(ctx context.Context, dir string) error
	changed   error // of Changed
	dirty     bool
	forgetting,
	tending func()
	problems int64 // of each backup
}

func newFake() *fake {
	return &fake{store: blob.New(memblob.New(memblob.Options{}), "mem:"), files: map[string]map[string]string{}}
}

func (f *fake) Name() string                  { return cmp.Or(f.name, "mem:") }
func (f *fake) Leases() (*blob.Store, string) { return f.store, "sidecar/main" }
func (f *fake) Close() error                  { return nil }

func (f *fake) Changed(context.Context, Version, string) (bool, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.dirty, f.changed
}

func (f *fake) Versions(ctx context.Context) ([]Version, bool, error) {
	f.mu.Lock()
	listing := f.listing
	f.mu.Unlock()
	if listing != nil {
		if err := listing(ctx); err != nil {
			return nil, false, err
		}
	}
	return slices.Clone(f.versions), false, nil
}

func (f *fake) Restore(ctx context.Context, v Version, dir string) error {
	f.mu.Lock()
	restoring := f.restoring
	f.mu.Unlock()
	if restoring != nil {
		if err := restoring(ctx, dir); err != nil {
			return err
		}
	}
	for name, content := range f.files[v.ID] {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			return err
		}
		if err := os.Chtimes(filepath.Join(dir, name), time.Time{}, time.Unix(1e9, 0)); err != nil {
			return err
		}
	}
	return nil
}

func (f *fake) Tend(context.Context) error {
	if f.tending != nil {
		f.tending()
	}
	return nil
}

func (f *fake) Again(_ context.Context, old, v Version) (Version, error) {
	v.ID = fmt.Sprintf("%d-%d", v.Lease, v.Seq)
	files, ok := f.files[old.ID]
	if !ok {
		return v, firn.NewError(firn.NotFound, "the version is gone")
	}
	f.files[v.ID] = files
	f.versions = append(f.versions, v)
	return v, nil
}

func (f *fake) Backup(ctx context.Context, dir string, v Version) (Version, int64, error) {
	if f.during != nil {
		if err := f.during(ctx); err != nil {
			return v, 0, err
		}
	}
	v.ID = fmt.Sprintf("%d-%d", v.Lease, v.Seq)
	f.files[v.ID] = map[string]string{}
	entries, err := os.ReadDir(dir)
	for _, e := range entries {
		var b []byte
		if b, err = os.ReadFile(filepath.Join(dir, e.Name())); err != nil {
			return v, 0, err
		}
		if e.Name() != StateFile {
			f.files[v.ID][e.Name()] = string(b)
		}
	}
	f.versions = append(f.versions, v)
	return v, f.problems, err
}

func (f *fake) Forget(_ context.Context, gone []Version) error {
	if f.forgetting != nil {
		f.forgetting()
	}
	for _, g := range gone {
		delete(f.files, g.ID)
	}
	f.versions = slices.DeleteFunc(slices.Clone(f.versions), func(v Version) bool {
		return slices.ContainsFunc(gone, func(g Version) bool { return g.ID == v.ID })
	})
	return nil
}

// beside is a sidecar of dir on f that was not started.
func beside(t *testing.T, f *fake, dir string, change ...func(*Options)) *Sidecar {
	t.Helper()
	o := Options{
		Dir: dir, NoWatch: true, Keep: 3, Info: "test",
		Open: func(context.Context, string, bool) (Target, error) { return f, nil },
	}
	for _, c := range change {
		c(&o)
	}
	s, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// started is a sidecar on f that is ready, and its directory.
func started(t *testing.T, f *fake, change ...func(*Options)) (*Sidecar, string) {
	t.Helper()
	dir := t.TempDir()
	s := beside(t, f, dir, change...)
	if err := s.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	return s, dir
}

func put(t *testing.T, dir, name, content string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

// A day: each interval in which something changed has a version, the last ones are kept, and the end has one too.
func TestKeepForADay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		s, dir := started(t, f)
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		made := 0
		f.during = func(context.Context) error { made++; return nil }
		go func() { ended <- s.Keep(ctx) }()
		for i := range 24 {
			put(t, dir, "data", strings.Repeat("x", i+1))
			time.Sleep(time.Hour + time.Minute) // never at an interval's end
		}
		put(t, dir, "last", "x")
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		if made != 26 && made != 25 { // the first look may come before or after the first change
			t.Errorf("%d backups of 24 changes and one at the end", made)
		}
		if n := len(f.versions); n != 3 || f.versions[2].Files != 2 {
			t.Errorf("%+v", f.versions)
		}
		if err := s.Close(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

// A backup that was committed after another sidecar had taken over is taken back, and the sidecar ends.
func TestFencedWhileCommitting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		s, dir := started(t, f)
		put(t, dir, "data", "x")
		f.during = func(ctx context.Context) error {
			f.during = nil
			_, err := lease.Acquire(context.WithoutCancel(ctx), f.store, "sidecar/main", lease.Options{Seize: true})
			return err
		}
		err := s.Keep(t.Context())
		var by *lease.Superseded
		if !errors.As(err, &by) || firn.KindOf(err) != firn.Conflict {
			t.Errorf("ended with %v", err)
		}
		if len(f.versions) != 0 {
			t.Errorf("what came too late stays: %+v", f.versions)
		}
		if st := s.Status(); st.Phase != Superseded || st.Ready {
			t.Errorf("%+v", st)
		}
		st, err := s.dir.readState()
		if err != nil || st.Mark != "" || st.Pending == "" {
			t.Errorf("it was acknowledged: %+v, %v", st, err)
		}
	})
}

// What fails is tried again, longer and longer apart, and told.
func TestFailuresAreTriedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		s, dir := started(t, f)
		put(t, dir, "data", "x")
		tries := 0
		f.during = func(context.Context) error {
			if tries++; tries < 5 {
				return firn.NewError(firn.Unavailable, "away")
			}
			return nil
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- s.Keep(ctx) }()
		time.Sleep(5 * time.Second)
		if st := s.Status(); st.Failures == 0 || !strings.Contains(st.Bad(), "away") {
			t.Errorf("%+v", st)
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		if st := s.Status(); st.Failures != 0 || st.Bad() != "" || len(f.versions) != 1 {
			t.Errorf("%+v, %d versions", st, len(f.versions))
		}
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

// The last backup has the grace period, and no more.
func TestGraceIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		s, dir := started(t, f)
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- s.Keep(ctx) }()
		time.Sleep(time.Minute)
		synctest.Wait()
		f.during = func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }
		put(t, dir, "data", "x")
		begin := time.Now()
		cancel()
		if err := <-ended; firn.KindOf(err) != firn.Unavailable || !strings.Contains(err.Error(), "grace period") {
			t.Errorf("ended with %v", err)
		}
		if d := time.Since(begin); d < 25*time.Second || d > 30*time.Second {
			t.Errorf("it took %s", d)
		}
	})
}
