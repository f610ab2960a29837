package repo

import (
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"firn"
	"firn/blob"
	"firn/blob/driver"
	"firn/blob/memblob"
)

// frozen is a machine that shows no sign of life, and stops where it is told to.
type frozen struct {
	*machine
	mu    sync.Mutex
	stops []*stop
}

// stop is before a call of a name to a key with a prefix: the machine waits there until it is thawed.
type stop struct {
	name, prefix    string
	once            sync.Once
	reached, thawed chan struct{}
}

func newFrozen(d driver.Driver) *frozen {
	f := &frozen{machine: newMachine(d)}
	f.before = func(call, key string) bool {
		f.mu.Lock()
		stops := slices.Clone(f.stops)
		f.mu.Unlock()
		for _, s := range stops {
			if s.name == call && strings.HasPrefix(key, s.prefix) {
				s.once.Do(func() { close(s.reached) })
				<-s.thawed
			}
		}
		return call != "put" || !strings.HasSuffix(key, aliveSuffix)
	}
	return f
}

func (f *frozen) stop(name, prefix string) *stop {
	f.mu.Lock()
	defer f.mu.Unlock()
	s := &stop{name: name, prefix: prefix, reached: make(chan struct{}), thawed: make(chan struct{})}
	f.stops = append(f.stops, s)
	return s
}

// lonely begins a session on its own machine that finds all chunks of the universe up to n stored, and returns what
// commits it.
func lonely(t *testing.T, base *Repo, d driver.Driver, n int) func() (Snapshot, error) {
	t.Helper()
	r := again(t, base, blob.New(d, "mem:frozen"), Options{})
	s, err := r.NewSession(t.Context(), SessionOptions{})
	if err != nil {
		t.Fatal(err)
	}
	root, err := saveTree(t.Context(), s, upTo(n))
	if err != nil {
		t.Fatal(err)
	}
	return func() (Snapshot, error) { return s.Commit(t.Context(), Snapshot{Root: root}) }
}

// deserted is a place with a writer that relies on the chunks of a snapshot which was forgotten since, and that stops
// where it looks for its session. It is made in a bubble of synctest.
func deserted(t *testing.T) (place driver.Driver, base *Repo, writer *frozen, looks *stop, commit func() (Snapshot, error)) {
	t.Helper()
	place = memblob.New(memblob.Options{})
	base = initRepo(t, blob.New(place, "mem:frozen"), small())
	old, err := backup(t.Context(), base, upTo(20))
	if err != nil {
		t.Fatal(err)
	}
	time.Sleep(time.Second)
	writer = newFrozen(place)
	looks = writer.stop("stat", sessionPrefix)
	commit = lonely(t, base, writer, 20)
	if err := base.Forget(t.Context(), old.ID); err != nil {
		t.Fatal(err)
	}
	return place, base, writer, looks, commit
}

// pruneBy prunes by way of d.
func pruneBy(t *testing.T, base *Repo, d driver.Driver) error {
	r := again(t, base, blob.New(d, "mem:frozen"), Options{})
	_, err := r.Prune(t.Context(), PruneOptions{Scratch: t.TempDir(), MaxUnused: -1})
	return err
}

// inBackground runs fn and returns what waits for its error.
func inBackground(fn func() error) func() error {
	done := make(chan error, 1)
	go func() { done <- fn() }()
	return func() error { return <-done }
}

// TestFrozenPruneDeletesNothingThatIsNeeded: a prune stops just before it deletes packs, is taken for dead, and goes on
// when another prune found that a writer, which was taken for dead too, needs them.
func TestFrozenPruneDeletesNothingThatIsNeeded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := t.Context()
		place, base, _, looks, commit := deserted(t)
		first := newFrozen(place)
		deletes := first.stop("delete", packsPrefix)
		prune := func(d driver.Driver) error { return pruneBy(t, base, d) }
		pruned := inBackground(func() error { return prune(first) })
		<-deletes.reached
		// The writer's snapshot is pending, and it has not looked for its session yet.
		var snap Snapshot
		committed := inBackground(func() (err error) { snap, err = commit(); return err })
		<-looks.reached
		if err := prune(place); err != nil {
			t.Fatal(err)
		}
		close(looks.thawed)
		if err := committed(); err != nil {
			t.Fatal(err)
		}
		close(deletes.thawed)
		if err := pruned(); firn.KindOf(err) != firn.Conflict {
			t.Errorf("the prune that was taken for dead: %v", err)
		}
		if err := restore(ctx, again(t, base, base.store, Options{}), snap.ID, upTo(20)); err != nil {
			t.Errorf("the snapshot that was committed: %v", err)
		}
		if all, err := base.Snapshots(ctx); len(all) != 1 || err != nil {
			t.Errorf("%d snapshots, %v", len(all), err)
		}
	})
}

// TestFrozenWriterKeepsWhatItFound: a writer that was taken for dead finds its chunks stored anew by another one, whose
// snapshot is then forgotten and pruned before the first puts its own.
func TestFrozenWriterKeepsWhatItFound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := t.Context()
		place, base, writer, looks, commit := deserted(t)
		store := base.store
		prune := func() {
			t.Helper()
			if err := pruneBy(t, base, place); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Second)
		}
		prune() // the writer is taken for dead, its chunks go
		if len(keysOf(t, store, packsPrefix)) > 0 {
			t.Fatal("the chunks were not removed")
		}
		var snap Snapshot
		committed := inBackground(func() (err error) { snap, err = commit(); return err })
		<-looks.reached
		prune() // its snapshot, which is pending, is removed
		saved, err := backup(ctx, again(t, base, store, Options{}), upTo(20))
		if err != nil {
			t.Fatal(err)
		}
		// It goes on, and stops again before it puts the snapshot.
		puts := writer.stop("put", snapshotPrefix)
		close(looks.thawed)
		<-puts.reached
		if err := base.Forget(ctx, saved.ID); err != nil {
			t.Fatal(err)
		}
		prune()
		close(puts.thawed)
		if err := committed(); err != nil {
			t.Fatal(err)
		}
		prune()
		if err := restore(ctx, again(t, base, base.store, Options{}), snap.ID, upTo(20)); err != nil {
			t.Errorf("the snapshot that was committed: %v", err)
		}
	})
}

// TestFrozenPruneAndKilledWriter: a writer is killed after it put a pending snapshot that needs packs which a prune,
// taken for dead, deletes while another prune looks at them. The snapshot must not become one.
func TestFrozenPruneAndKilledWriter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		place, base, writer, looks, commit := deserted(t)
		prune := func(d driver.Driver) error { return pruneBy(t, base, d) }
		first, second := newFrozen(place), newMachine(place)
		deletes := first.stop("delete", packsPrefix)
		pruned := inBackground(func() error { return prune(first) })
		<-deletes.reached
		committed := inBackground(func() error { _, err := commit(); return err })
		<-looks.reached
		writer.killed.Store(true)
		close(looks.thawed)
		if err := committed(); err == nil {
			t.Fatal("it was not killed")
		}
		var once sync.Once
		second.before = func(call, key string) bool {
			if call == "list" && key == packsPrefix { // it has settled what is pending
				once.Do(func() {
					close(deletes.thawed)
					if err := pruned(); firn.KindOf(err) != firn.Conflict {
						t.Errorf("the prune that was taken for dead: %v", err)
					}
				})
			}
			return true
		}
		if err := prune(second); firn.KindOf(err) != firn.Corrupt {
			t.Errorf("the prune whose packs went: %v", err)
		}
		if err := prune(place); err != nil {
			t.Errorf("the next one: %v", err)
		}
		if all := problems(t, base, 1); len(all) > 0 {
			t.Error(all)
		}
	})
}

// TestFrozenWriterDoesNotBringBack: a writer stops before it puts its snapshot. A prune makes the pending one a snapshot,
// which is forgotten and pruned: the writer must not put one whose chunks are gone.
func TestFrozenWriterDoesNotBringBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := t.Context()
		place := memblob.New(memblob.Options{})
		store := blob.New(place, "mem:frozen")
		base := initRepo(t, store, small())
		writer := newFrozen(place)
		puts := writer.stop("put", snapshotPrefix)
		commit := lonely(t, base, writer, 20)
		committed := inBackground(func() error { _, err := commit(); return err })
		<-puts.reached
		for range 2 {
			if _, err := again(t, base, store, Options{}).Prune(ctx, PruneOptions{Scratch: t.TempDir(), MaxUnused: -1}); err != nil {
				t.Fatal(err)
			}
			all, err := base.Snapshots(ctx)
			if err != nil {
				t.Fatal(err)
			}
			for _, s := range all {
				if err := restore(ctx, again(t, base, store, Options{}), s.ID, upTo(20)); err != nil {
					t.Error(err)
				}
				if err := base.Forget(ctx, s.ID); err != nil {
					t.Fatal(err)
				}
			}
			time.Sleep(time.Second)
		}
		close(puts.thawed)
		if err := committed(); firn.KindOf(err) != firn.Conflict {
			t.Errorf("commit: %v", err)
		}
		if all, err := base.Snapshots(ctx); len(all) > 0 || err != nil {
			t.Errorf("%d snapshots, %v", len(all), err)
		}
	})
}

// TestBuriedIsSeen: a prune ends, and buries packs, while a writer that begins reads what is doomed.
func TestBuriedIsSeen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := t.Context()
		place := memblob.New(memblob.Options{})
		base := initRepo(t, blob.New(place, "mem:frozen"), small())
		pack, old := newID(), doomed{id: newID(), Version: doomedVersion, Listed: true}
		old.Packs = []ID{pack}
		if err := base.putDoomed(ctx, old); err != nil {
			t.Fatal(err)
		}
		reader := newFrozen(place)
		reads := reader.stop("get", doomedPrefix)
		r := again(t, base, blob.New(reader, "mem:frozen"), Options{})
		refreshed := inBackground(func() error { return r.refresh(ctx) })
		<-reads.reached
		if err := base.putDoomed(ctx, doomed{id: newID(), Version: doomedVersion, Listed: true, Buried: old.Packs}); err != nil {
			t.Fatal(err)
		}
		if err := base.store.Delete(ctx, doomedPrefix+old.id.String()); err != nil {
			t.Fatal(err)
		}
		close(reads.thawed)
		if err := refreshed(); err != nil {
			t.Fatal(err)
		}
		if r.idx.doomed[pack]&packGone == 0 {
			t.Error("the buried pack is not known as that")
		}
	})
}
