package repo

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/cryptotest"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"firn"
	"firn/blob"
	"firn/blob/driver"
	"firn/blob/memblob"
	"firn/chunk"
)

// machine is one client's way to a shared place: it delays calls, and after it was killed nothing gets through.
type machine struct {
	driver.Driver
	delay  func(call string) time.Duration
	before func(call, key string) bool  // may hold a call up, or drop it where it returns false: it looks carried out
	trace  func(call string, err error) // told of each call that was carried out, or not
	killed atomic.Bool
	after  atomic.Int64  // calls until it is killed; negative: never
	half   atomic.Bool   // the call it is killed in is carried out
	clock  time.Duration // by how much its clock, and that of the server it speaks to, is ahead
}

var errKilled = errors.New("killed")

func newMachine(d driver.Driver) *machine {
	m := &machine{
		Driver: d,
		delay:  func(string) time.Duration { return 0 }, before: func(_, _ string) bool { return true }, trace: func(string, error) {},
	}
	m.after.Store(-1)
	return m
}

// call counts a call and says whether it is carried out.
func (m *machine) call(name, key string, fn func() error) (err error) {
	defer func() { m.trace(name+" "+key, err) }()
	if d := m.delay(name + " " + key); d > 0 {
		time.Sleep(d)
	}
	if m.killed.Load() {
		return errKilled
	}
	if m.after.Load() >= 0 && m.after.Add(-1) < 0 {
		m.killed.Store(true)
		if m.half.Load() {
			name = "half " + name
			_ = fn()
		}
		return errKilled
	}
	if !m.before(name, key) {
		return nil
	}
	return fn()
}

func (m *machine) Put(ctx context.Context, key string, src driver.Source) error {
	return m.call("put", key, func() error { return m.Driver.Put(ctx, key, src) })
}

func (m *machine) Delete(ctx context.Context, key string) error {
	return m.call("delete", key, func() error { return m.Driver.Delete(ctx, key) })
}

func (m *machine) Get(ctx context.Context, key string, offset, length int64) (r io.ReadCloser, err error) {
	err = m.call("get", key, func() error { r, err = m.Driver.Get(ctx, key, offset, length); return err })
	return r, err
}

func (m *machine) Stat(ctx context.Context, key string) (i driver.Info, err error) {
	err = m.call("stat", key, func() error { i, err = m.Driver.Stat(ctx, key); return err })
	return i, err
}

// List shows a state that may be old by the time the caller acts on it.
func (m *machine) List(ctx context.Context, prefix string, fn func(driver.Info) error) error {
	var all []driver.Info
	if err := m.call("list", prefix, func() error {
		return m.Driver.List(ctx, prefix, func(i driver.Info) error { all = append(all, i); return nil })
	}); err != nil {
		return err
	}
	for _, i := range all {
		// The place has servers whose clocks differ.
		i.Modified = i.Modified.Add(m.clock + time.Duration(i.Key[len(i.Key)-1]%5-2)*30*time.Minute)
		if err := fn(i); err != nil {
			return err
		}
	}
	return nil
}

// small makes packs of a few chunks, so that little data has many.
func small() InitOptions {
	return InitOptions{Sizes: chunk.Sizes{Min: 1 << 10, Mean: 5 << 10, Max: 16 << 10}, PackSize: 96 << 10, Reserve: 1 << 10}
}

// content returns one of a universe of chunks that writers share.
func content(n int) []byte {
	rng := rand.New(rand.NewPCG(uint64(n), 77))
	p := make([]byte, 2000+rng.IntN(12000))
	for i := range len(p) / 8 {
		binary.LittleEndian.PutUint64(p[8*i:], rng.Uint64())
	}
	return p
}

// saveTree saves a snapshot's chunks: two levels of trees over the chunks of the universe.
func saveTree(ctx context.Context, s *Session, chunks []int) (ID, error) {
	var top TreeChunk
	for part := range slices.Chunk(chunks, 5) {
		var t TreeChunk
		for _, n := range part {
			id, _, err := s.Save(ctx, Data, content(n))
			if err != nil {
				return ID{}, err
			}
			t.Data = append(t.Data, id)
			t.Payload = fmt.Appendf(t.Payload, "%d ", n)
		}
		id, _, err := s.Save(ctx, Tree, EncodeTree(nil, t))
		if err != nil {
			return ID{}, err
		}
		top.Trees = append(top.Trees, id)
	}
	id, _, err := s.Save(ctx, Tree, EncodeTree(nil, top))
	return id, err
}

func backup(ctx context.Context, r *Repo, chunks []int) (Snapshot, error) {
	return backupAt(ctx, r, chunks, time.Time{})
}

// backupAt is backup by a machine whose clock says at.
func backupAt(ctx context.Context, r *Repo, chunks []int, at time.Time) (Snapshot, error) {
	s, err := r.NewSession(ctx, SessionOptions{})
	if err != nil {
		return Snapshot{}, err
	}
	root, err := saveTree(ctx, s, chunks)
	if err != nil {
		return Snapshot{}, errors.Join(err, s.Abort(ctx))
	}
	return s.Commit(ctx, Snapshot{Root: root, Time: at})
}

// restore reads all that a snapshot refers to and compares it.
func restore(ctx context.Context, r *Repo, id ID, chunks []int) error {
	snap, err := r.Snapshot(ctx, id.String())
	if err != nil {
		return err
	}
	load := func(id ID) (TreeChunk, error) {
		p, err := r.Load(ctx, id, nil)
		if err != nil {
			return TreeChunk{}, err
		}
		return ParseTree(p)
	}
	top, err := load(snap.Root)
	if err != nil {
		return err
	}
	var got []ID
	for _, id := range top.Trees {
		t, err := load(id)
		if err != nil {
			return err
		}
		got = append(got, t.Data...)
	}
	if len(got) != len(chunks) {
		return fmt.Errorf("%d chunks instead of %d", len(got), len(chunks))
	}
	return r.LoadMany(ctx, got, func(i int, p []byte) error {
		if !bytes.Equal(p, content(chunks[i])) {
			return fmt.Errorf("chunk %d has other content", i)
		}
		return nil
	})
}

// ledger knows which snapshots must be there.
type ledger struct {
	held      chan struct{} // a lock that a bubble's time goes on for
	snapshots map[ID][]int
	order     []ID // those of snapshots, as they were committed
}

func (l *ledger) Lock()   { l.held <- struct{}{} }
func (l *ledger) Unlock() { <-l.held }

var (
	seeds     = flag.String("seeds", "1-3", "seeds of TestWritersAndPrune")
	traceSims = flag.String("trace", "", "directory that TestWritersAndPrune writes the calls of each seed that fails to")
)

// TestWritersAndPrune lets writers, a forgetter and two pruners loose on one place, slow and killed at random, some of
// them taken for dead while they live, with clocks that are wrong by an hour and more, also those of the place. Every
// snapshot whose commit returned must be whole, always, and any other one once all is quiet. What happens follows from the
// seed: TestSimulationReplays.
func TestWritersAndPrune(t *testing.T) {
	var first, last uint64
	if _, err := fmt.Sscanf(*seeds, "%d-%d", &first, &last); err != nil {
		t.Fatalf("-seeds %s: want a range such as 4-300: %v", *seeds, err)
	}
	for seed := first; seed <= last; seed++ {
		t.Run(fmt.Sprintf("seed %d", seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { simulate(t, seed) })
		})
	}
}

// TestSimulationReplays: a seed that fails fails again, call by call.
func TestSimulationReplays(t *testing.T) {
	var runs [2][]string
	for i := range runs {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { runs[i] = simulate(t, 4) })
		})
	}
	if diff := cmp.Diff(runs[0], runs[1]); len(runs[0]) < 1000 || diff != "" {
		t.Errorf("%d lines; %s", len(runs[0]), diff[:min(len(diff), 4000)])
	}
}

// tracer keeps what machines did, for when it went wrong.
type tracer struct {
	begin time.Time
	mu    sync.Mutex
	lines []string
}

func (tr *tracer) add(format string, args ...any) {
	at := time.Since(tr.begin)
	tr.mu.Lock()
	defer tr.mu.Unlock()
	tr.lines = append(tr.lines, fmt.Sprintf("%10.3f ", at.Seconds())+fmt.Sprintf(format, args...))
}

// delays returns how long a call takes, up to slow. It follows from the call and how often it was made before, not from
// which of several goroutines comes first, and no two calls end at one instant.
func delays(seed uint64, slow time.Duration) func(call string) time.Duration {
	var mu sync.Mutex
	made := map[string]uint64{}
	return func(call string) time.Duration {
		mu.Lock()
		defer mu.Unlock()
		made[call]++
		h := sum(binary.LittleEndian.AppendUint64(binary.LittleEndian.AppendUint64([]byte(call), made[call]), seed))
		return time.Duration(binary.LittleEndian.Uint64(h[:]) % uint64(slow))
	}
}

// simulate returns the trace of all calls.
func simulate(t *testing.T, seed uint64) []string {
	cryptotest.SetGlobalRandom(t, seed)
	ctx := t.Context()
	place := memblob.New(memblob.Options{})
	base := initRepo(t, blob.New(place, "mem:sim"), small())
	all := &ledger{held: make(chan struct{}, 1), snapshots: map[ID][]int{}}
	end := time.Now().Add(3 * time.Hour)
	tr := &tracer{begin: time.Now()}
	var wg sync.WaitGroup
	var commits, lostCommits, kills, freed, rescued, dead, pruneErrors atomic.Int64
	actor := func(n int) *rand.Rand { return rand.New(rand.NewPCG(seed, uint64(n))) }
	// client makes a machine whose calls take up to slow milliseconds.
	client := func(name string, rng *rand.Rand, slow int) (*Repo, *machine) {
		m := newMachine(place)
		m.clock = time.Duration(rng.IntN(3)-1) * time.Hour
		m.delay = delays(rng.Uint64(), time.Duration(slow)*time.Millisecond)
		m.trace = func(call string, err error) {
			if err != nil {
				call += ": " + err.Error()
			}
			tr.add("%s %s", name, call)
		}
		r, err := newRepo(blob.New(m, "mem:sim"), base.cfg, base.master, Options{})
		if err != nil {
			t.Error(err)
		}
		return r, m
	}
	for w := range 4 {
		wg.Go(func() {
			rng := actor(w)
			time.Sleep(time.Duration(rng.IntN(1e9))) // one after another, so that all that is random is drawn in order
			for n := 0; time.Now().Before(end); n++ {
				// Every other run is so slow that a prune takes its session for dead.
				name := fmt.Sprintf("writer %d.%d", w, n)
				r, m := client(name, rng, []int{200, 90_000}[rng.IntN(2)])
				if rng.IntN(4) == 0 {
					m.half.Store(rng.IntN(2) == 0)
					m.after.Store(rng.Int64N(40))
				}
				var chunks []int
				for range 5 + rng.IntN(30) {
					chunks = append(chunks, rng.IntN(150))
				}
				at := time.Now().Add(m.clock)
				if rng.IntN(10) == 0 {
					at = at.AddDate(50, 0, 0)
				}
				snap, err := backupAt(ctx, r, chunks, at)
				tr.add("%s ends: snapshot %s, %v", name, snap.ID.Short(), err)
				switch {
				case err == nil:
					commits.Add(1)
					all.Lock()
					all.snapshots[snap.ID] = chunks
					all.order = append(all.order, snap.ID)
					all.Unlock()
				case m.killed.Load():
					kills.Add(1)
				case firn.KindOf(err) == firn.Conflict:
					lostCommits.Add(1)
				default:
					t.Errorf("backup: %v", err)
				}
				_ = r.Close()
				time.Sleep(time.Duration(rng.IntN(600)) * time.Second)
			}
		})
	}
	for p := range 2 {
		wg.Go(func() {
			rng := actor(100 + p)
			time.Sleep(time.Duration(rng.IntN(1e9)))
			for n := 0; time.Now().Before(end); n++ {
				// Every third one is so slow that the other takes it for dead.
				name := fmt.Sprintf("pruner %d.%d", p, n)
				r, m := client(name, rng, []int{200, 3000, 50_000}[rng.IntN(3)])
				if rng.IntN(3) == 0 {
					m.half.Store(rng.IntN(2) == 0)
					m.after.Store(rng.Int64N(120))
				}
				rep, err := r.Prune(ctx, PruneOptions{Scratch: t.TempDir(), MaxUnused: -1, Memory: 4096, SessionTimeout: 2 * RenewEvery})
				tr.add("%s ends: %v, %v", name, rep, err)
				if err != nil && !m.killed.Load() {
					pruneErrors.Add(1)
					// Corrupt is the answer while a snapshot is there that its writer is about to take back.
					if k := firn.KindOf(err); k != firn.Conflict && k != firn.Unavailable && k != firn.Corrupt {
						t.Errorf("prune: %v", err)
					}
				}
				freed.Add(int64(rep.FreedPacks))
				rescued.Add(int64(rep.Rescued))
				dead.Add(int64(rep.Dead))
				_ = r.Close()
				time.Sleep(time.Duration(rng.IntN(900)) * time.Second)
			}
		})
	}
	wg.Go(func() {
		rng := actor(200)
		for time.Now().Before(end) {
			time.Sleep(time.Duration(rng.IntN(400)) * time.Second)
			all.Lock()
			var id ID
			if len(all.order) >= 6 {
				i := rng.IntN(len(all.order))
				id = all.order[i]
				all.order = slices.Delete(all.order, i, i+1)
				delete(all.snapshots, id)
			}
			all.Unlock()
			if id.IsZero() {
				continue
			}
			r, _ := client("forgetter", rng, 200)
			if err := r.Forget(ctx, id); err != nil {
				t.Error(err)
			}
			_ = r.Close()
		}
	})
	wg.Go(func() {
		rng := actor(300)
		for time.Now().Before(end) {
			time.Sleep(20 * time.Minute)
			all.Lock() // nothing is committed as far as we know, or forgotten, meanwhile
			r, _ := client("reader", rng, 10)
			for _, id := range all.order {
				if err := restore(ctx, r, id, all.snapshots[id]); err != nil {
					tr.add("reader: snapshot %s: %v", id.Short(), err)
					t.Errorf("snapshot %s: %v", id.Short(), err)
				}
			}
			_ = r.Close()
			all.Unlock()
		}
	})
	wg.Wait()
	tr.add("all is quiet")
	defer func() {
		if *traceSims != "" && t.Failed() {
			if err := os.WriteFile(filepath.Join(*traceSims, fmt.Sprintf("seed-%d", seed)), []byte(strings.Join(tr.lines, "\n")+"\n"), 0o600); err != nil {
				t.Error(err)
			}
		}
	}()
	// Once all is quiet, a prune leaves what is needed and nothing else.
	r, m := client("last pruner", actor(400), 10)
	for range 3 {
		if _, err := r.Prune(ctx, PruneOptions{Scratch: t.TempDir(), MaxUnused: -1}); err != nil {
			t.Error(err)
		}
	}
	m.trace = func(string, error) {} // a check reads packs in an order that no seed gives
	rep, err := r.Check(ctx, CheckOptions{ReadData: 1}, func(p Problem) { t.Errorf("check: %v", p) })
	if err != nil || rep.Snapshots < len(all.snapshots) {
		t.Errorf("check: %+v, %v", rep, err)
	}
	r = again(t, base, base.store, Options{})
	rep, err = r.Check(ctx, CheckOptions{ReadData: 1}, func(p Problem) { t.Errorf("check by another: %v", p) })
	if err != nil || rep.Snapshots < len(all.snapshots) {
		t.Errorf("check: %+v, %v", rep, err)
	}
	r = again(t, base, base.store, Options{})
	for id, chunks := range all.snapshots {
		if err := restore(ctx, r, id, chunks); err != nil {
			t.Errorf("at the end, snapshot %s: %v", id.Short(), err)
		}
	}
	t.Logf("seed %d: %d commits, %d taken back, %d killed; %d packs freed, %d rescued, %d prunes stopped, %d sessions taken for dead; "+
		"%d snapshots at the end", seed, commits.Load(), lostCommits.Load(), kills.Load(), freed.Load(), rescued.Load(), pruneErrors.Load(),
		dead.Load(), len(all.snapshots))
	if commits.Load() == 0 || freed.Load() == 0 {
		t.Error("the simulation did nothing")
	}
	return tr.lines
}
