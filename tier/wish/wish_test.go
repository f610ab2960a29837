package wish

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"firn"
	"firn/blob"
	"firn/blob/driver"
	"firn/blob/memblob"
	"firn/kv"
	"firn/kv/pebblekv"
	"firn/object"
	"firn/object/record"
	"firn/tier"
	"firn/vfs"
)

// away is a place that does not answer while it is set.
type away struct {
	driver.Driver
	mu    sync.Mutex
	away  bool
	calls int
	once  func() // called by the next request
}

func (a *away) set(away bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.away = away
}

func (a *away) called() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.calls
}

func (a *away) callOnce(fn func()) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.once = fn
}

func (a *away) check() error {
	a.mu.Lock()
	once := a.once
	a.once = nil
	a.mu.Unlock()
	if once != nil {
		once()
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.calls++; a.away {
		return firn.NewError(firn.Unavailable, "no route to host")
	}
	return nil
}

func (a *away) Put(ctx context.Context, key string, src driver.Source) error {
	if err := a.check(); err != nil {
		return err
	}
	return a.Driver.Put(ctx, key, src)
}

func (a *away) Get(ctx context.Context, key string, offset, length int64) (io.ReadCloser, error) {
	if err := a.check(); err != nil {
		return nil, err
	}
	return a.Driver.Get(ctx, key, offset, length)
}

// site is a namespace with two tiers. It runs in a bubble of synctest.
type site struct {
	*object.Store
	t     *testing.T
	db    *pebblekv.DB
	mover *tier.Mover
	set   *tier.Set
	cold  *away
	warm  *away
}

func newSite(t *testing.T) *site {
	t.Helper()
	s := &site{t: t, cold: &away{Driver: memblob.New(memblob.Options{})}, warm: &away{Driver: memblob.New(memblob.Options{})}}
	var err error
	if s.set, err = tier.NewSet([]tier.Place{
		{Name: "cold", Class: "COLD", Store: blob.New(s.cold, "mem:")}, {Name: "warm", Class: "WARM", Store: blob.New(s.warm, "mem:")},
	}, nil); err != nil {
		t.Fatal(err)
	}
	fs := vfs.NewMem()
	db, err := pebblekv.Open(fs, "data/kv", pebblekv.Options{})
	if err != nil {
		t.Fatal(err)
	}
	s.Store, err = object.Open(t.Context(), fs, "data", db, object.Options{ReserveBytes: -1, Remote: s.set})
	if err != nil {
		t.Fatal(err)
	}
	s.db = db
	s.mover = tier.NewMover(s.Store, s.set, tier.Options{Site: "site-1"})
	if _, err := s.CreateBucket(t.Context(), "bkt", object.BucketOptions{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(s.Close(), db.Close()); err != nil {
			t.Error(err)
		}
	})
	return s
}

// grant runs a Granter until the function returned is called.
func (s *site) grant(o Options) (*Granter, func()) {
	g := New(s.Store, s.set, s.mover, o)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- g.Run(ctx) }()
	return g, func() {
		cancel()
		if err := <-done; err != nil {
			s.t.Error(err)
		}
	}
}

func (s *site) put(key, content, class string) {
	s.t.Helper()
	if _, err := s.Put(s.t.Context(), "bkt", key, strings.NewReader(content), object.PutOptions{Size: -1, StorageClass: class}); err != nil {
		s.t.Fatal(err)
	}
}

// is holds that a version is local, on the tier, or both.
func (s *site) is(key string, local, away bool) {
	s.t.Helper()
	v, err := s.Head(s.t.Context(), "bkt", key, "")
	if err != nil {
		s.t.Fatal(err)
	}
	if v.Local() != local || (v.Location != nil) != away {
		s.t.Errorf("%s: local %v, on the tier %v; want %v, %v", key, v.Local(), v.Location != nil, local, away)
	}
}

func TestWishes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t)
		s.put("before", "1", "COLD")
		s.put("stays", "1", "")
		g, stop := s.grant(Options{})
		synctest.Wait()
		s.is("before", false, true)
		s.put("later", "2", "COLD")
		s.put("before", "2", "COLD") // in the place of one of the same class
		s.put("unknown", "2", "OTHER")
		synctest.Wait()
		s.is("before", false, true)
		s.is("later", false, true)
		s.is("stays", true, false)
		s.is("unknown", true, false)

		if _, err := s.WantLocal(t.Context(), "bkt", "later", "", time.Now().Add(time.Hour)); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		s.is("later", true, true)
		if moves, recalls := g.Waiting(); len(moves)+len(recalls) != 0 {
			t.Errorf("%v, %v", moves, recalls)
		}
		stop()

		// What was wished while nobody granted wishes is found at the start.
		if _, err := s.WantLocal(t.Context(), "bkt", "before", "", time.Now().Add(time.Hour)); err != nil {
			t.Fatal(err)
		}
		_, stop = s.grant(Options{})
		synctest.Wait()
		s.is("before", true, true)
		stop()
	})
}

// TestAway: wishes wait for a tier that is away, with true figures, and less and less often.
func TestAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t)
		s.put("first", "1", "COLD")
		g, stop := s.grant(Options{})
		defer stop()
		synctest.Wait()
		s.cold.set(true)
		since := time.Now()
		s.put("a", "12", "COLD")
		s.put("b", "345", "COLD")
		synctest.Wait()
		s.is("a", true, false)
		moves, _ := g.Waiting()
		if w := moves["cold"]; w.Objects != 2 || w.Bytes != 5 || w.Oldest.Sub(since).Abs() > time.Second || w.More {
			t.Errorf("%+v", w)
		}
		calls := s.cold.called()
		time.Sleep(24 * time.Hour)
		if n := s.cold.called() - calls; n < 24 || n > 24*6*2+20 {
			t.Errorf("tried %d times in a day", n)
		}
		s.cold.set(false)
		time.Sleep(maxWait + time.Minute)
		synctest.Wait()
		s.is("a", false, true)
		s.is("b", false, true)
	})
}

// TestOverwritten: what is put while the version before it is moved, or waits, goes where it is to go.
func TestOverwritten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t)
		_, stop := s.grant(Options{})
		defer stop()
		synctest.Wait()
		for _, class := range []string{"COLD", "WARM"} {
			s.put("k", "1", "")
			s.cold.callOnce(func() {
				s.put("k", "22", class)
				time.Sleep(time.Second) // the journal is read meanwhile
			})
			s.put("k", "1", "COLD")
			time.Sleep(time.Minute)
			synctest.Wait()
			s.is("k", false, true)
			if v, err := s.Head(t.Context(), "bkt", "k", ""); err != nil || v.Size != 2 || v.Location == nil || v.StorageClass != class {
				t.Errorf("%s: %+v, %v", class, v, err)
			}
		}
		s.cold.set(true)
		s.put("w", "1", "COLD")
		synctest.Wait()
		s.is("w", true, false)
		s.put("w", "22", "WARM")
		synctest.Wait()
		s.is("w", false, true)
	})
}

// TestOthers: a tier that is away, with more wishes than are remembered, keeps those of others from nothing.
func TestOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t)
		g, stop := s.grant(Options{Remember: 4})
		defer stop()
		s.cold.set(true)
		for i := range 9 {
			s.put(fmt.Sprint("k", i), "x", "COLD")
		}
		synctest.Wait()
		s.put("other", "x", "WARM")
		synctest.Wait()
		s.is("other", false, true)
		// A request that hangs is its tier's alone.
		time.Sleep(2 * maxWait)
		hang := make(chan struct{})
		s.cold.callOnce(func() { <-hang })
		s.put("new", "x", "COLD")
		time.Sleep(2 * maxWait)
		s.put("another", "x", "WARM")
		synctest.Wait()
		s.is("another", false, true)
		if m, _ := g.Waiting(); m["cold"].Objects != 4 || !m["cold"].More || m["warm"] != (Waiting{}) {
			t.Errorf("%+v", m)
		}
		close(hang)
		s.cold.set(false)
		time.Sleep(time.Hour)
		for i := range 9 {
			s.is(fmt.Sprint("k", i), false, true)
		}
		s.is("new", false, true)
	})
}

// TestMoreThanRemembered: what there is no memory for is found once the rest is done.
func TestMoreThanRemembered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t)
		for i := range 25 {
			s.put(fmt.Sprint("k", i), "x", "COLD")
		}
		s.cold.set(true)
		g, stop := s.grant(Options{Remember: 4})
		defer stop()
		synctest.Wait()
		for i := range 5 {
			s.put(fmt.Sprint("later", i), "x", "COLD")
		}
		synctest.Wait()
		if moves, _ := g.Waiting(); moves["cold"].Objects != 4 || !moves["cold"].More {
			t.Errorf("%+v", moves)
		}
		s.cold.set(false)
		time.Sleep(time.Hour)
		synctest.Wait()
		for i := range 25 {
			s.is(fmt.Sprint("k", i), false, true)
		}
		for i := range 5 {
			s.is(fmt.Sprint("later", i), false, true)
		}
	})
}

// TestDamaged: a version that cannot be read keeps no other waiting, and the granting of wishes going.
func TestDamaged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t)
		s.put("bad", "1", "COLD")
		damage := func() {
			t.Helper()
			b, err := s.Bucket(t.Context(), "bkt")
			if err == nil {
				err = s.db.Update(t.Context(), func(tx kv.Tx) error {
					tx.Set(record.CurrentKey(b.ID, "bad"), []byte("damaged"))
					return nil
				}, record.CurrentKey(b.ID, "bad"))
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		damage()
		g, stop := s.grant(Options{})
		synctest.Wait()
		if err := g.note(t.Context(), id{"bkt", "bad", record.NullID}, time.Now()); err != nil {
			t.Errorf("as the journal tells of it: %v", err)
		}
		s.put("good", "2", "COLD")
		synctest.Wait()
		s.is("good", false, true)
		stop()
	})
}
