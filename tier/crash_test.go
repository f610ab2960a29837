package tier

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	pebblevfs "github.com/cockroachdb/pebble/v2/vfs"

	"firn"
	"firn/blob"
	"firn/blob/driver"
	"firn/blob/memblob"
	"firn/object"
	"firn/object/record"
	"firn/vfs"
)

// stepped is a place each of whose calls goes through step, or part where it is one of a put that can be resumed.
type stepped struct {
	driver.Driver
	mem  *memblob.Driver // the same
	step func(op, key string, do func() error) error
	part func(op memblob.Op) memblob.Fault // nil lets them through
}

// stepSize is how many bytes are kept of a put at once.
const stepSize = 64 << 10

func (s *stepped) before(_ context.Context, op memblob.Op) memblob.Fault {
	if s.part == nil || op.Name != "part" && op.Name != "resume" && op.Name != "abandon" {
		return memblob.Fault{}
	}
	return s.part(op)
}

func (s *stepped) Resume(ctx context.Context, key string, src driver.Source) error {
	return s.mem.Resume(ctx, key, src)
}

func (s *stepped) Abandon(ctx context.Context, key string) error { return s.mem.Abandon(ctx, key) }

func (s *stepped) Put(ctx context.Context, key string, src driver.Source) error {
	return s.step("put", key, func() error { return s.Driver.Put(ctx, key, src) })
}

func (s *stepped) Get(ctx context.Context, key string, offset, length int64) (r io.ReadCloser, err error) {
	err = s.step("get", key, func() error {
		r, err = s.Driver.Get(ctx, key, offset, length)
		return err
	})
	if err != nil && r != nil {
		r.Close()
		r = nil
	}
	return r, err
}

func (s *stepped) Stat(ctx context.Context, key string) (info driver.Info, err error) {
	err = s.step("stat", key, func() error {
		info, err = s.Driver.Stat(ctx, key)
		return err
	})
	return info, err
}

func (s *stepped) Delete(ctx context.Context, key string) error {
	return s.step("delete", key, func() error { return s.Driver.Delete(ctx, key) })
}

func (s *stepped) List(ctx context.Context, prefix string, fn func(driver.Info) error) error {
	return s.step("list", prefix, func() error { return s.Driver.List(ctx, prefix, fn) })
}

// interrupted is something that is cut off everywhere. What it does changes no content.
type interrupted struct {
	name string
	// setup gives the site what there is before; it returns the contents by key.
	setup func(s *site) map[string]string
	run   func(s *site) error
	// above is the size above which copies go on where they were cut off; 0 is the default.
	above int64
}

func interruptions() []interrupted {
	small, big := "inline", strings.Repeat("large ", 40_000)
	three := func(s *site) map[string]string {
		s.put("bkt", "small", small)
		s.put("bkt", "dir/big", big)
		s.put("versions", "k", "first")
		s.put("versions", "k", big+"second")
		return map[string]string{"bkt/small": small, "bkt/dir/big": big, "versions/k": big + "second"}
	}
	move := func(s *site) error {
		var errs []error
		for _, b := range []string{"bkt", "versions"} {
			errs = append(errs, s.mover.Move(context.Background(), "cold", s.versions(b), object.MoveOptions{})...)
		}
		return errors.Join(errs...)
	}
	moved := func(s *site) map[string]string {
		m := three(s)
		if err := move(s); err != nil {
			s.t.Fatal(err)
		}
		return m
	}
	recall := func(until time.Duration) func(s *site) error {
		return func(s *site) error {
			o := object.RecallOptions{}
			if until > 0 {
				o.Until = s.now.Add(until)
			}
			for _, key := range []string{"small", "dir/big"} {
				v, err := s.Head(context.Background(), "bkt", key, "")
				if err != nil || v.Location == nil || v.Local() {
					if err != nil {
						return err
					}
					continue
				}
				if _, err := s.mover.Recall(context.Background(), object.RefOf(v), o); err != nil {
					return err
				}
			}
			return nil
		}
	}
	// quiet says of the work that logs what goes wrong whether it did.
	quiet := func(s *site, fn func(context.Context) error) error {
		err := fn(context.Background())
		if err == nil && s.set.list[0].catalogue == nil {
			err = errors.New("the tier is not ready")
		}
		return err
	}
	follow := func(s *site) error { return quiet(s, s.mover.Follow) }
	collect := func(s *site) error {
		return quiet(s, func(ctx context.Context) error { _, err := s.mover.Collect(ctx); return err })
	}
	return []interrupted{
		{name: "move", setup: three, run: move},
		{name: "move, in steps", setup: three, run: move, above: 100_000},
		{name: "move and stay", setup: three, run: func(s *site) error {
			return errors.Join(s.mover.Move(context.Background(), "cold", s.versions("bkt"), object.MoveOptions{LocalUntil: s.now.Add(time.Hour)})...)
		}},
		{name: "recall", setup: moved, run: recall(0)},
		{name: "recall for a time", setup: moved, run: recall(time.Hour)},
		{name: "drop the local copy", setup: func(s *site) map[string]string {
			m := moved(s)
			if err := recall(time.Hour)(s); err != nil {
				s.t.Fatal(err)
			}
			return m
		}, run: func(s *site) error {
			for _, v := range s.versions("bkt") {
				full, err := s.Head(context.Background(), "bkt", v.Key, "")
				if err != nil {
					return err
				}
				if err := s.DropLocal(context.Background(), object.RefOf(full)); err != nil {
					return err
				}
			}
			return nil
		}},
		{name: "collect", setup: func(s *site) map[string]string {
			m := moved(s)
			s.put("bkt", "small", "other")
			m["bkt/small"] = "other"
			if _, err := s.Store.Delete(context.Background(), "bkt", "dir/big", "", object.DeleteOptions{}); err != nil {
				s.t.Fatal(err)
			}
			delete(m, "bkt/dir/big")
			s.now = s.now.Add(2 * time.Hour)
			return m
		}, run: collect},
		{name: "follow", setup: func(s *site) map[string]string {
			m := moved(s)
			if err := follow(s); err != nil {
				s.t.Fatal(err)
			}
			s.put("bkt", "small", "other")
			m["bkt/small"] = "other"
			if _, err := s.UpdateVersion(context.Background(), "bkt", "dir/big", "", false, func(v *record.Version) error {
				v.Tags = []record.Field{{Name: "a", Value: "b"}}
				return nil
			}); err != nil {
				s.t.Fatal(err)
			}
			return m
		}, run: follow},
		{name: "write the catalogue anew", setup: func(s *site) map[string]string {
			m := moved(s)
			if err := follow(s); err != nil {
				s.t.Fatal(err)
			}
			s.mover.set.list[0].stale = true
			return m
		}, run: follow},
	}
}

// cut is what is left when something was cut off.
type cut struct {
	fs    *vfs.MemFS
	tier  *memblob.Driver
	after string
}

// newStepped is a site whose files and tier, which is as the one given, are watched.
func newStepped(t *testing.T, layout string, fs *vfs.MemFS, tier *memblob.Driver, now time.Time, above int64) (*site, *stepped) {
	t.Helper()
	st := &stepped{step: func(_, _ string, do func() error) error { return do() }}
	st.mem = tier.Clone(memblob.Options{Before: st.before, Part: stepSize})
	st.Driver = st.mem
	s := &site{t: t, layout: layout, fs: fs, tap: vfs.NewTap(fs), now: now, store: blob.New(st, "mem:cold"), above: above}
	s.open()
	t.Cleanup(s.close)
	return s, st
}

// kept is how many bytes of unfinished puts the place keeps.
func (s *stepped) kept() (n int64) {
	for _, p := range s.mem.Kept() {
		n += int64(len(p))
	}
	return n
}

func (s *site) buckets() {
	s.t.Helper()
	for _, b := range []string{"bkt", "versions"} {
		if _, err := s.CreateBucket(s.t.Context(), b, object.BucketOptions{}); err != nil {
			s.t.Fatal(err)
		}
	}
	if _, err := s.UpdateBucket(s.t.Context(), "versions", func(b *record.Bucket) error {
		b.Versioning = record.VersioningEnabled
		return nil
	}); err != nil {
		s.t.Fatal(err)
	}
}

// settled holds that contents are right, that what was cut off can be done, that then the tier holds what versions use and
// no more, and that the site can be made again from it.
func (s *site) settled(in interrupted, contents map[string]string, rebuild bool, st *stepped) {
	s.t.Helper()
	kept, skipped := st.kept(), s.set.Status()[0].Done.ResumedBytes
	all := func() {
		s.t.Helper()
		for _, k := range slices.Sorted(maps.Keys(contents)) {
			bucket, key, _ := strings.Cut(k, "/")
			s.want(bucket, key, "", contents[k])
		}
	}
	all()
	if err := in.run(s); err != nil {
		s.t.Errorf("again: %v", err)
	}
	all()
	if skipped = s.set.Status()[0].Done.ResumedBytes - skipped; skipped < kept {
		s.t.Errorf("%d bytes were there, and only %d were not sent again", kept, skipped)
	}
	ctx := s.t.Context()
	for range 2 { // what the first round frees the second one removes
		if _, err := s.ExpireLocal(ctx); err != nil {
			s.t.Error(err)
		}
		if err := s.mover.Follow(ctx); err != nil {
			s.t.Error(err)
		}
		s.now = s.now.Add(2 * time.Hour)
		if _, err := s.collect(); err != nil {
			s.t.Error(err)
		}
	}
	all()
	list, err := s.TierBlobs(ctx, "cold", "")
	if err != nil {
		s.t.Fatal(err)
	}
	var used []string
	for _, b := range list {
		if b.State != record.TierUsed {
			s.t.Errorf("%s is left in state %v", b.Key, b.State)
		}
		used = append(used, strings.TrimPrefix(b.Key, "objects/"))
	}
	if got := s.objects(); !slices.Equal(got, used) {
		s.t.Errorf("on the tier: %q, in use %q", got, used)
	}
	if left := st.mem.Kept(); len(left) > 0 || len(s.set.list[0].uploads) > 0 {
		s.t.Errorf("%d puts are left unfinished, %d are known", len(left), len(s.set.list[0].uploads))
	}
	if rebuild {
		s.same(s.rebuilt())
	}
}

// TestCutOffEverywhere takes what a power loss would leave after each operation on a file and each call of the tier, before
// it happens and after, and goes on from there.
func TestCutOffEverywhere(t *testing.T) { layouts(t, testCutOffEverywhere) }

func testCutOffEverywhere(t *testing.T, layout string) {
	seed := rand.Uint64()
	for _, in := range interruptions() {
		t.Run(fmt.Sprintf("%s, seed %d", in.name, seed), func(t *testing.T) {
			rng := rand.New(rand.NewPCG(seed, 1))
			s, st := newStepped(t, layout, vfs.NewCrashableMem(), memblob.New(memblob.Options{}), time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC), in.above)
			s.mover = NewMover(s.Store, s.set, Options{Site: "site-1", Parallel: 1, ResumeAbove: in.above})
			s.buckets()
			contents := in.setup(s)
			var mu sync.Mutex
			var cuts []cut
			take := func(after string) {
				mu.Lock()
				defer mu.Unlock()
				c := s.fs.MemFS.CrashClone(pebblevfs.CrashCloneCfg{UnsyncedDataPercent: 50 * (len(cuts) % 2), RNG: rng})
				cuts = append(cuts, cut{&vfs.MemFS{MemFS: c}, st.mem.Clone(memblob.Options{}), after})
			}
			s.tap.After = func(op vfs.Op, _ error) {
				if op.Kind.Mutates() {
					take(op.String())
				}
			}
			st.step = func(op, key string, do func() error) error {
				take("before " + op + " " + key)
				err := do()
				if op == "put" || op == "delete" {
					take("after " + op + " " + key)
				}
				return err
			}
			st.part = func(op memblob.Op) memblob.Fault {
				take("before " + op.String())
				return memblob.Fault{}
			}
			err := in.run(s)
			s.tap.After, st.step, st.part = nil, func(_, _ string, do func() error) error { return do() }, nil
			if err != nil {
				t.Fatal(err)
			}
			take("all")
			if len(cuts) < 4 {
				t.Fatalf("only %d moments", len(cuts))
			}
			s.settled(in, contents, true, st)
			now := s.now
			s.close()
			for i, c := range cuts {
				// A repository makes several times the calls: each run takes others of them.
				if layout == "repository" && rng.IntN(12) > 0 {
					continue
				}
				g, gst := newStepped(t, layout, c.fs, c.tier, now, in.above)
				g.settled(in, contents, i%6 == 0, gst)
				g.close()
				if t.Failed() {
					t.Fatalf("moment %d of %d: %s", i, len(cuts), c.after)
				}
			}
		})
	}
}

// TestEachCallFails has each call of the tier fail once, before it happens and after: it is told, and done the next time.
func TestEachCallFails(t *testing.T) { layouts(t, testEachCallFails) }

func testEachCallFails(t *testing.T, layout string) {
	for _, in := range interruptions() {
		t.Run(in.name, func(t *testing.T) {
			// A repository makes several times the calls: each run takes others of them.
			first, stride := 0, 1
			if layout == "repository" {
				first, stride = rand.IntN(17), 17
			}
			for n := first; ; n += stride {
				s, st := newStepped(t, layout, vfs.NewCrashableMem(), memblob.New(memblob.Options{}), time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC), in.above)
				s.mover = NewMover(s.Store, s.set, Options{Site: "site-1", Parallel: 1, ResumeAbove: in.above})
				s.buckets()
				contents := in.setup(s)
				calls, failed := 0, ""
				st.step = func(op, key string, do func() error) error {
					if calls++; calls != n/2+1 {
						return do()
					}
					failed = op + " " + key
					if n%2 == 1 {
						if err := do(); err != nil {
							return err
						}
					}
					return firn.NewError(firn.Unavailable, "the connection was lost")
				}
				st.part = func(op memblob.Op) memblob.Fault {
					if calls++; calls != n/2+1 {
						return memblob.Fault{}
					}
					failed = op.String()
					return memblob.Fault{Err: firn.NewError(firn.Unavailable, "the connection was lost"), Applied: n%2 == 1}
				}
				err := in.run(s)
				st.step, st.part = func(_, _ string, do func() error) error { return do() }, nil
				if err != nil && firn.KindOf(err) != firn.Unavailable {
					t.Errorf("call %d, %s: %v", n, failed, err)
				}
				if err != nil && !strings.Contains(err.Error(), "tier cold") {
					t.Errorf("call %d, %s: the error does not name the tier: %v", n, failed, err)
				}
				s.settled(in, contents, n%3 == 0, st)
				s.close()
				if t.Failed() {
					t.Fatalf("call %d: %s", n, failed)
				}
				if failed == "" {
					break
				}
			}
		})
	}
}

// TestRebuildCutOff cuts a rebuild off after each operation on a file, and begins it again.
func TestRebuildCutOff(t *testing.T) { layouts(t, testRebuildCutOff) }

func testRebuildCutOff(t *testing.T, layout string) {
	in := interruptions()[0]
	s, st := newStepped(t, layout, vfs.NewCrashableMem(), memblob.New(memblob.Options{}), time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC), 0)
	s.buckets()
	contents := in.setup(s)
	if err := errors.Join(in.run(s), s.mover.Follow(t.Context())); err != nil {
		t.Fatal(err)
	}
	var cuts []cut
	n, nst := newStepped(t, layout, vfs.NewCrashableMem(), st.mem, s.now.Add(time.Minute), 0)
	n.mover.opt.Site = "site-2"
	var mu sync.Mutex
	take := func(after string) {
		mu.Lock()
		defer mu.Unlock()
		cuts = append(cuts, cut{vfs.CrashClone(n.fs), nst.mem.Clone(memblob.Options{}), after})
	}
	n.tap.After = func(op vfs.Op, _ error) {
		if op.Kind.Mutates() {
			take(op.String())
		}
	}
	nst.step = func(op, key string, do func() error) error {
		take("before " + op + " " + key)
		return do()
	}
	_, err := n.mover.Rebuild(t.Context(), "cold", RebuildOptions{From: "site-1"})
	n.tap.After, nst.step = nil, func(_, _ string, do func() error) error { return do() }
	if err != nil {
		t.Fatal(err)
	}
	n.close()
	for i, c := range cuts {
		g, gst := newStepped(t, layout, c.fs, c.tier, s.now.Add(time.Hour), 0)
		g.mover.opt.Site = "site-2"
		// Nothing goes from the tier before the rebuild was done.
		if _, err := g.mover.Collect(t.Context()); err != nil {
			t.Fatal(err)
		}
		from := "site-1"
		if _, err := g.mover.Rebuild(t.Context(), "cold", RebuildOptions{From: from}); firn.KindOf(err) == firn.Conflict {
			from = "" // the mark was written
			_, err = g.mover.Rebuild(t.Context(), "cold", RebuildOptions{})
			if err != nil {
				t.Fatal(err)
			}
		} else if err != nil {
			t.Fatal(err)
		}
		g.settled(interrupted{run: func(*site) error { return nil }}, contents, false, gst)
		s.same(g)
		g.close()
		if t.Failed() {
			t.Fatalf("moment %d of %d: %s", i, len(cuts), c.after)
		}
	}
}
