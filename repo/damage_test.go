package repo

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"firn"
	"firn/blob"
	"firn/blob/memblob"
)

// upTo returns the numbers below n.
func upTo(n int) []int {
	all := make([]int, n)
	for i := range all {
		all[i] = i
	}
	return all
}

func keysOf(t *testing.T, store *blob.Store, prefix string) []string {
	t.Helper()
	var keys []string
	for info, err := range store.List(t.Context(), prefix) {
		if err != nil {
			t.Fatal(err)
		}
		keys = append(keys, info.Key)
	}
	return keys
}

// change replaces a blob by what fn makes of it; nil deletes it.
func change(t *testing.T, store *blob.Store, key string, fn func([]byte) []byte) {
	t.Helper()
	p, err := store.ReadAll(t.Context(), key, 1<<30)
	if err == nil {
		if p = fn(p); p == nil {
			err = store.Delete(t.Context(), key)
		} else {
			err = store.PutBytes(t.Context(), key, p)
		}
	}
	if err != nil {
		t.Fatal(err)
	}
}

func flip(at int) func([]byte) []byte {
	return func(p []byte) []byte {
		p[(at+len(p))%len(p)] ^= 1
		return p
	}
}

func cut(p []byte) []byte { return p[:len(p)/2] }

func gone([]byte) []byte { return nil }

func problems(t *testing.T, r *Repo, read float64) []Problem {
	t.Helper()
	var all []Problem
	rep, err := again(t, r, r.store, Options{}).Check(t.Context(), CheckOptions{ReadData: read}, func(p Problem) { all = append(all, p) })
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, p := range all {
		if !p.Harmless {
			n++
		}
	}
	if n != rep.Problems {
		t.Errorf("%d problems reported, %d counted", n, rep.Problems)
	}
	return all
}

// TestDamage breaks each kind of blob in each way: a check finds it and names it, and after a repair and another backup
// of the same content all snapshots are whole.
func TestDamage(t *testing.T) {
	ctx := t.Context()
	chunks := upTo(40)
	type broken struct {
		prefix string
		how    string
		fn     func([]byte) []byte
	}
	var cases []broken
	for _, prefix := range []string{packsPrefix, indexPrefix} {
		cases = append(cases, broken{prefix, "flipped at the start", flip(40)}, broken{prefix, "flipped in the middle", flip(4000)},
			broken{prefix, "flipped at the end", flip(-1)}, broken{prefix, "cut", cut}, broken{prefix, "gone", gone})
	}
	for _, c := range cases {
		t.Run(strings.TrimSuffix(c.prefix, "/")+" "+c.how, func(t *testing.T) {
			store := newStore(t)
			r := initRepo(t, store, small())
			snap, err := backup(ctx, r, chunks)
			if err != nil {
				t.Fatal(err)
			}
			if all := problems(t, r, 1); len(all) > 0 {
				t.Fatalf("before: %v", all)
			}
			key := keysOf(t, store, c.prefix)[0]
			change(t, store, key, c.fn)
			all := problems(t, r, 1)
			// A missing index file says nothing of itself: what it named is missed.
			if len(all) == 0 || c.prefix == packsPrefix && !slices.ContainsFunc(all, func(p Problem) bool { return p.Blob == key }) {
				t.Fatalf("check does not name %s: %v", key, all)
			}
			if _, err := again(t, r, store, Options{}).Repair(ctx, RepairOptions{ReadData: true}, func(Problem) {}); err != nil {
				t.Fatal(err)
			}
			r = again(t, r, store, Options{})
			if _, err := backup(ctx, r, chunks); err != nil {
				t.Fatal(err)
			}
			if err := restore(ctx, again(t, r, store, Options{}), snap.ID, chunks); err != nil {
				t.Errorf("the first snapshot after repair and another backup: %v", err)
			}
			if _, err := r.Prune(ctx, PruneOptions{Scratch: t.TempDir()}); err != nil {
				t.Errorf("prune: %v", err)
			}
			if all := problems(t, r, 1); len(all) > 0 {
				t.Errorf("after: %v", all)
			}
		})
	}
}

// TestPruneOfDamagedPack: a pack that is cut off, or whose list is damaged, keeps no prune from moving what is needed of it,
// unless that is what is damaged.
func TestPruneOfDamagedPack(t *testing.T) {
	for name, harm := range map[string]func(p []byte) []byte{
		"cut off":          func(p []byte) []byte { return p[:len(p)-100] },
		"its list":         func(p []byte) []byte { return flip(len(p) - 30)(p) },
		"its header":       flip(20),
		"what is needed":   nil,
		"without a footer": func(p []byte) []byte { return p[:len(p)-1] },
	} {
		t.Run(name, func(t *testing.T) {
			store := blob.New(memblob.New(memblob.Options{}), "mem:")
			r := initRepo(t, store, small())
			all, err := backup(t.Context(), r, upTo(30))
			if err != nil {
				t.Fatal(err)
			}
			// The first chunks of the first pack are needed, the others are not.
			kept, err := backup(t.Context(), r, upTo(3))
			if err != nil {
				t.Fatal(err)
			}
			pack := r.idx.usablePacks(dataID(t, r, 0))
			if harm == nil {
				harm = flip(packHeader + 100)
			}
			change(t, store, packKey(pack[0]), harm)
			if err := r.Forget(t.Context(), all.ID); err != nil {
				t.Fatal(err)
			}
			r = again(t, r, store, Options{})
			_, err = r.Prune(t.Context(), PruneOptions{Scratch: t.TempDir(), MaxUnused: -1})
			if name == "what is needed" {
				if firn.KindOf(err) != firn.Corrupt || !strings.Contains(err.Error(), pack[0].String()) {
					t.Errorf("%v", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if there, err := store.Exists(t.Context(), packKey(pack[0])); there || err != nil {
				t.Errorf("the damaged pack is there: %v, %v", there, err)
			}
			if err := restore(t.Context(), again(t, r, store, Options{}), kept.ID, upTo(3)); err != nil {
				t.Error(err)
			}
		})
	}
}

// dataID is the id of a chunk of the universe.
func dataID(t *testing.T, r *Repo, n int) ID {
	t.Helper()
	id, err := r.Sum(t.Context(), Data, content(n))
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func TestDamagedSnapshotIsNamedAndForgotten(t *testing.T) {
	ctx := t.Context()
	store := newStore(t)
	r := initRepo(t, store, small())
	snap, err := backup(ctx, r, upTo(5))
	if err != nil {
		t.Fatal(err)
	}
	change(t, store, snapshotPrefix+snap.ID.String(), flip(50))
	if _, err := r.Snapshots(ctx); firn.KindOf(err) != firn.Corrupt || !strings.Contains(err.Error(), snap.ID.String()) {
		t.Errorf("snapshots: %v", err)
	}
	all := problems(t, r, 0)
	if len(all) != 1 || all[0].Snapshot != snap.ID {
		t.Errorf("check: %v", all)
	}
	if _, err := r.Prune(ctx, PruneOptions{Scratch: t.TempDir()}); firn.KindOf(err) != firn.Corrupt {
		t.Errorf("prune beside a snapshot it cannot read: %v", err)
	}
	if err := r.Forget(ctx, snap.ID); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Prune(ctx, PruneOptions{Scratch: t.TempDir()}); err != nil {
		t.Error(err)
	}
	if packs := keysOf(t, store, packsPrefix); len(packs) > 0 {
		t.Errorf("left: %v", packs)
	}
}

// TestSwappedBlobsDoNotOpen: what is sealed opens only under its own name.
func TestSwappedBlobsDoNotOpen(t *testing.T) {
	ctx := t.Context()
	store := newStore(t)
	r := initRepo(t, store, small())
	a, err := backup(ctx, r, upTo(5))
	if err != nil {
		t.Fatal(err)
	}
	b, err := backup(ctx, r, upTo(6))
	if err != nil {
		t.Fatal(err)
	}
	p, err := store.ReadAll(ctx, snapshotPrefix+a.ID.String(), 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	change(t, store, snapshotPrefix+b.ID.String(), func([]byte) []byte { return p })
	if _, err := r.Snapshot(ctx, b.ID.String()); firn.KindOf(err) != firn.Corrupt {
		t.Errorf("a snapshot under another one's name: %v", err)
	}
}

// TestKilledAtEachStep kills a backup, a forget and a prune at each of their calls, with and without the last call
// carried out. The snapshots there before stay whole, and the next run of each succeeds.
func TestKilledAtEachStep(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := t.Context()
		for _, half := range []bool{false, true} {
			for step := int64(0); ; step++ {
				place := memblob.New(memblob.Options{})
				store := blob.New(place, "mem:steps")
				r := initRepo(t, store, small())
				keep, err := backup(ctx, r, upTo(30))
				if err != nil {
					t.Fatal(err)
				}
				drop, err := backup(ctx, r, []int{28, 29, 30, 31, 32, 33, 34, 35, 36, 37, 38, 39})
				if err != nil {
					t.Fatal(err)
				}
				m := newMachine(place)
				victim := again(t, r, blob.New(m, "mem:steps"), Options{Uploads: 1})
				m.half.Store(half)
				m.after.Store(step)
				third, errBackup := backup(ctx, victim, []int{1, 2, 3, 39, 40, 41, 42, 43, 44, 45, 46})
				errForget := victim.Forget(ctx, drop.ID)
				_, errPrune := victim.Prune(ctx, PruneOptions{Scratch: t.TempDir(), MaxUnused: -1})
				killed := m.killed.Load()
				if !killed && (errBackup != nil || errForget != nil || errPrune != nil) {
					t.Fatalf("step %d: %v, %v, %v", step, errBackup, errForget, errPrune)
				}
				if err := restore(ctx, again(t, r, store, Options{}), keep.ID, upTo(30)); err != nil {
					t.Fatalf("step %d, half %v: %v", step, half, err)
				}
				// The next ones go on; what the dead left is waited for.
				r = again(t, r, store, Options{})
				last, err := backup(ctx, r, []int{5, 6, 39, 41, 50})
				if err != nil {
					t.Fatal(err)
				}
				if err := r.Forget(ctx, drop.ID); err != nil {
					t.Fatal(err)
				}
				if _, err := r.Prune(ctx, PruneOptions{Scratch: t.TempDir(), MaxUnused: -1}); err != nil {
					t.Fatalf("step %d, half %v: prune: %v", step, half, err)
				}
				r = again(t, r, store, Options{})
				for id, chunks := range map[ID][]int{keep.ID: upTo(30), last.ID: {5, 6, 39, 41, 50}} {
					if err := restore(ctx, r, id, chunks); err != nil {
						t.Fatalf("step %d, half %v: %v", step, half, err)
					}
				}
				if errBackup == nil {
					if err := restore(ctx, r, third.ID, []int{1, 2, 3, 39, 40, 41, 42, 43, 44, 45, 46}); err != nil {
						t.Fatalf("step %d, half %v: %v", step, half, err)
					}
				}
				for _, prefix := range []string{sessionPrefix, pendingPrefix} {
					if left := keysOf(t, store, prefix); len(left) > 0 {
						t.Errorf("step %d, half %v: left %v", step, half, left)
					}
				}
				if all := problems(t, r, 1); len(all) > 0 {
					t.Errorf("step %d, half %v: %v", step, half, all)
				}
				if !killed {
					if step < 20 {
						t.Errorf("only %d steps", step)
					}
					break
				}
			}
		}
	})
}

func TestCopy(t *testing.T) {
	ctx := t.Context()
	from := initRepo(t, newStore(t), small())
	a, err := backup(ctx, from, upTo(20))
	if err != nil {
		t.Fatal(err)
	}
	for name, like := range map[string]*Repo{"own ids": nil, "same ids": from} {
		opt := small()
		opt.Like = like
		store := newStore(t)
		to := initRepo(t, store, opt)
		rep, err := from.CopyTo(ctx, to)
		if err != nil || rep.Snapshots == 0 || rep.Chunks != 25 {
			t.Fatalf("%s: %+v, %v", name, rep, err)
		}
		b, err := backup(ctx, from, upTo(21))
		if err != nil {
			t.Fatal(err)
		}
		twice, err := from.CopyTo(ctx, to, a.ID, b.ID)
		if err != nil || twice.Snapshots != 1 || twice.Skipped != 1 || twice.Chunks != 3 {
			t.Errorf("%s: again: %+v, %v", name, twice, err)
		}
		all, err := to.Snapshots(ctx)
		if err != nil || len(all) != 2 {
			t.Fatalf("%s: %v, %v", name, all, err)
		}
		if err := restore(ctx, openRepo(t, store), all[0].ID, upTo(20)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if err := from.Forget(ctx, b.ID); err != nil {
			t.Fatal(err)
		}
	}
}

func TestKeys(t *testing.T) {
	ctx := t.Context()
	store := newStore(t)
	r := initRepo(t, store, small())
	open := func(password string) (*Repo, error) { return Open(ctx, store, []byte(password), Options{}) }
	second, err := r.AddKey(ctx, []byte("second"), KeyOptions{Label: "laptop", Cost: cheap()})
	if err != nil {
		t.Fatal(err)
	}
	third, err := r.AddKey(ctx, []byte("append only"), KeyOptions{Role: Append, Cost: cheap()})
	if err != nil {
		t.Fatal(err)
	}
	if keys, err := r.Keys(ctx); err != nil || len(keys) != 3 {
		t.Errorf("keys: %v, %v", keys, err)
	}
	for _, password := range []string{string(testPassword), "second", "append only"} {
		if _, err := open(password); err != nil {
			t.Errorf("%q: %v", password, err)
		}
	}
	a, err := open("append only")
	if err != nil {
		t.Fatal(err)
	}
	snap, err := backup(ctx, a, upTo(3))
	if err != nil {
		t.Errorf("a key that may append does not: %v", err)
	}
	_, addErr := a.AddKey(ctx, []byte("x"), KeyOptions{})
	_, pruneErr := a.Prune(ctx, PruneOptions{})
	for what, err := range map[string]error{
		"forget": a.Forget(ctx, snap.ID), "prune": pruneErr, "remove key": a.RemoveKey(ctx, second), "add key": addErr,
	} {
		if firn.KindOf(err) != firn.Denied {
			t.Errorf("a key that may only append: %s: %v", what, err)
		}
	}
	if err := r.RemoveKey(ctx, second); err != nil {
		t.Fatal(err)
	}
	if _, err := open("second"); firn.KindOf(err) != firn.Denied {
		t.Errorf("a removed password opens: %v", err)
	}
	if _, err := r.Rotate(ctx, []byte("new"), KeyOptions{Cost: cheap()}); err != nil {
		t.Fatal(err)
	}
	if _, err := open(string(testPassword)); firn.KindOf(err) != firn.Denied {
		t.Errorf("a password that was rotated opens: %v", err)
	}
	if r, err = open("new"); err != nil {
		t.Fatal(err)
	}
	if err := r.RemoveKey(ctx, r.key); firn.KindOf(err) != firn.Conflict {
		t.Errorf("the last key that allows everything: %v", err)
	}
	if err := r.RemoveKey(ctx, third); err != nil {
		t.Error(err)
	}
	if err := r.RemoveKey(ctx, third); firn.KindOf(err) != firn.NotFound {
		t.Errorf("removed twice: %v", err)
	}
}

// TestWaitsForTheLiving: packs doomed while a session lives stay until it has ended, and those it needs stay for good.
func TestWaitsForTheLiving(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := t.Context()
		place := memblob.New(memblob.Options{})
		store := blob.New(place, "mem:wait")
		r := initRepo(t, store, small())
		old, err := backup(ctx, r, upTo(20))
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		writer := again(t, r, store, Options{})
		s, err := writer.NewSession(ctx, SessionOptions{Host: "far"})
		if err != nil {
			t.Fatal(err)
		}
		root, err := saveTree(ctx, s, upTo(20)) // all known: it relies on the old packs
		if err != nil {
			t.Fatal(err)
		}
		if err := r.Forget(ctx, old.ID); err != nil {
			t.Fatal(err)
		}
		var waits []Wait
		rep, err := r.Prune(ctx, PruneOptions{Scratch: t.TempDir(), Waits: func(w Wait) { waits = append(waits, w) }})
		if len(waits) != 1 || len(waits[0].Sessions) != 1 || waits[0].Sessions[0].Host != "far" || waits[0].AtMost != 10*RenewEvery {
			t.Errorf("it says that it waits: %+v", waits)
		}
		if err != nil || rep.Pending == 0 || rep.FreedPacks > 0 || len(rep.Waiting) != 1 || rep.Waiting[0].Host != "far" {
			t.Fatalf("prune beside a writer: %+v, %v", rep, err)
		}
		snap, err := s.Commit(ctx, Snapshot{Root: root})
		if err != nil {
			t.Fatal(err)
		}
		rep, err = r.Prune(ctx, PruneOptions{Scratch: t.TempDir()})
		if err != nil || rep.Rescued == 0 || rep.Written == 0 || rep.FreedPacks != rep.Rescued {
			t.Errorf("prune after it: %+v, %v", rep, err)
		}
		if err := restore(ctx, again(t, r, store, Options{}), snap.ID, upTo(20)); err != nil {
			t.Error(err)
		}
		if left := keysOf(t, store, doomedPrefix); len(left) > 0 {
			t.Errorf("left: %v", left)
		}
	})
}

// TestFullPlaceCanDelete: with not a byte left, forget and prune free what they can.
func TestFullPlaceCanDelete(t *testing.T) {
	ctx := t.Context()
	opt := small()
	opt.Reserve = 64 << 10
	fill := memblob.New(memblob.Options{})
	r := initRepo(t, blob.New(fill, "mem:full"), opt)
	a, err := backup(ctx, r, upTo(40))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := backup(ctx, r, []int{50, 51}); err != nil {
		t.Fatal(err)
	}
	// The same blobs in a place that they fill to the last byte.
	var used int64
	contents := map[string][]byte{}
	for _, key := range keysOf(t, blob.New(fill, "mem:full"), "") {
		p, err := blob.New(fill, "mem:full").ReadAll(ctx, key, 1<<30)
		if err != nil {
			t.Fatal(err)
		}
		contents[key] = p
		used += int64(len(p))
	}
	store := blob.New(memblob.New(memblob.Options{Capacity: used}), "mem:full")
	for _, key := range slices.Sorted(maps.Keys(contents)) {
		if err := store.PutBytes(ctx, key, contents[key]); err != nil {
			t.Fatal(err)
		}
	}
	r = again(t, r, store, Options{})
	if _, err := backup(ctx, r, upTo(60)); firn.KindOf(err) != firn.NoSpace {
		t.Errorf("a backup to a full place: %v", err)
	}
	if err := r.Forget(ctx, a.ID); err != nil {
		t.Fatal(err)
	}
	rep, err := r.Prune(ctx, PruneOptions{Scratch: t.TempDir()})
	if err != nil || rep.FreedPacks == 0 || rep.NoReserve != nil {
		t.Errorf("prune of a full place: %+v, %v", rep, err)
	}
	if all := problems(t, r, 1); len(all) > 0 {
		t.Errorf("after: %v", all)
	}
}

func TestCache(t *testing.T) {
	ctx := t.Context()
	place := memblob.New(memblob.Options{})
	r := initRepo(t, blob.New(place, "mem:cache"), small())
	snap, err := backup(ctx, r, upTo(20))
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	packs := 0
	open := func() *Repo {
		m := &counting{newMachine(place), &packs}
		return again(t, r, blob.New(m, "mem:cache"), Options{CacheDir: dir})
	}
	root := func() []byte {
		p, err := open().Load(ctx, snap.Root, nil)
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	want := root()
	if packs != 1 {
		t.Errorf("%d packs read", packs)
	}
	if got := root(); packs != 1 || !bytes.Equal(got, want) {
		t.Errorf("the second time %d packs were read", packs)
	}
	// A damaged cache is no damage: what it says is verified.
	files, err := filepath.Glob(filepath.Join(dir, "*", "*", "*"))
	if err != nil || len(files) < 2 {
		t.Fatalf("%v, %v", files, err)
	}
	for _, name := range files {
		p, err := os.ReadFile(name)
		if err == nil {
			for i := range p {
				p[i] ^= 1
			}
			err = os.WriteFile(name, p, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if got := root(); !bytes.Equal(got, want) {
		t.Error("other content from a damaged cache")
	}
	small, err := newCache(dir, r.ID(), 1<<10)
	if err != nil {
		t.Fatal(err)
	}
	small.sweep()
	var left int64
	for _, name := range files {
		if info, err := os.Stat(name); err == nil {
			left += info.Size()
		}
	}
	if left > 1<<10 {
		t.Errorf("%d bytes in a cache of 1 KiB", left)
	}
}

// counting counts reads of packs.
type counting struct {
	*machine
	packs *int
}

func (c *counting) Get(ctx context.Context, key string, offset, length int64) (io.ReadCloser, error) {
	if strings.HasPrefix(key, packsPrefix) {
		*c.packs++
	}
	return c.machine.Get(ctx, key, offset, length)
}

// TestOrderOfWrites holds what is written when: what is referred to is there before what refers to it.
func TestOrderOfWrites(t *testing.T) {
	ctx := t.Context()
	var order []string
	place := memblob.New(memblob.Options{Before: func(_ context.Context, op memblob.Op) memblob.Fault {
		for _, key := range op.Keys {
			dir, _, _ := strings.Cut(key, "/")
			if strings.HasSuffix(key, aliveSuffix) {
				dir += aliveSuffix
			}
			if what := op.Name + " " + dir; op.Name != "get" && op.Name != "read" && op.Name != "list" && op.Name != "stat" {
				order = append(order, what)
			}
		}
		return memblob.Fault{}
	}})
	store := blob.New(place, "mem:order")
	r := initRepo(t, store, small())
	first, err := backup(ctx, r, upTo(3))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := backup(ctx, r, []int{2, 7}); err != nil {
		t.Fatal(err)
	}
	if err := r.Forget(ctx, first.ID); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Prune(ctx, PruneOptions{Scratch: t.TempDir(), MaxUnused: -1}); err != nil {
		t.Fatal(err)
	}
	golden := filepath.Join("testdata", "order.txt")
	got := strings.Join(order, "\n") + "\n"
	want, err := os.ReadFile(golden)
	if err != nil || got != string(want) {
		t.Errorf("the order of writes is not that of %s: %v\n%s", golden, err, got)
	}
}

func ExamplePruneReport() {
	fmt.Println(PruneReport{Snapshots: 2, Packs: 3, Size: 300, Used: 200, FreedPacks: 1, Freed: 100})
	// Output: 2 snapshots, 3 packs of 300 bytes, 200 used; 1 packs and 100 bytes freed, 0 pending, 0 rescued
}
