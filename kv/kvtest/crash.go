package kvtest

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"

	"firn/kv"
	"firn/vfs"
)

// OpenFS opens the engine on a file system. The DB is closed by the caller.
type OpenFS func(t *testing.T, fsys vfs.FS) (kv.DB, error)

// RunCrash crashes the engine after every operation of its file system and opens what a power loss would have left.
func RunCrash(t *testing.T, open OpenFS) {
	t.Run("EveryOperation", func(t *testing.T) { testCrashSequence(t, open) })
	t.Run("Concurrent", func(t *testing.T) { testCrashConcurrent(t, open) })
}

// crash is one power loss.
type crash struct {
	op           string
	fsys         *vfs.MemFS
	acked, begun int64 // transactions that had returned before it, and that had begun after it
}

// crasher takes a clone after every mutating operation.
type crasher struct {
	mem          *vfs.MemFS
	tap          *vfs.Tap
	acked, begun atomic.Int64
	every        int64 // only every so many operations
	mu           struct {
		sync.Mutex
		crashes []crash
	}
}

func newCrasher(every int64) *crasher {
	c := &crasher{mem: vfs.NewCrashableMem(), every: every}
	c.tap = vfs.NewTap(c.mem)
	c.tap.After = func(op vfs.Op, err error) {
		if op.Index == 0 || op.Index%c.every != 0 {
			return
		}
		// Read before and after the clone: what it holds lies between the two.
		acked := c.acked.Load()
		fsys := vfs.CrashClone(c.mem)
		begun := c.begun.Load()
		c.mu.Lock()
		c.mu.crashes = append(c.mu.crashes, crash{op: op.String(), fsys: fsys, acked: acked, begun: begun})
		c.mu.Unlock()
	}
	return c
}

func (c *crasher) all() []crash {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.mu.crashes)
}

// testCrashSequence runs random transactions one after another. What is found after a crash is the state after the
// last acknowledged transaction, or after the one under way.
func testCrashSequence(t *testing.T, open OpenFS) {
	rng := rand.New(rand.NewPCG(Seed(t), 1))
	c := newCrasher(1)
	db, err := open(t, c.tap)
	if err != nil {
		t.Fatal(err)
	}
	states := []State{{Pairs: map[string]string{}, Start: 1}}
	for range 40 {
		c.begun.Add(1)
		next, err := Step(t, db, rng, states[len(states)-1])
		if err != nil {
			t.Fatal(err)
		}
		states = append(states, next)
		c.acked.Add(1)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	crashes := c.all()
	t.Logf("%d crashes", len(crashes))
	if len(crashes) < 40 {
		t.Fatalf("only %d operations seen", len(crashes))
	}
	for _, cr := range crashes {
		db, err := open(t, cr.fsys)
		if err != nil {
			t.Fatalf("open after a crash after %q: %v", cr.op, err)
		}
		got := Read(t, db)
		if !slices.ContainsFunc(states[cr.acked:cr.begun+1], func(s State) bool { return cmp.Equal(s, got) }) {
			t.Errorf("crash after %q with %d acknowledged of %d begun (-acknowledged +found):\n%s",
				cr.op, cr.acked, cr.begun, cmp.Diff(short(states[cr.acked]), short(got)))
		}
		// Numbering goes on where the log ends.
		tail := db.LogTail()
		update(t, db, func(tx kv.Tx) { tx.Log([]byte("after")) })
		if n := db.LogTail(); n != tail+1 {
			t.Errorf("crash after %q: log went on at %d after %d", cr.op, n, tail)
		}
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// testCrashConcurrent lets writers and readers run. After a crash every acknowledged write is there, and everything
// that a reader was told: each key's number only grows, so what was told is a lower bound for what is found.
func testCrashConcurrent(t *testing.T, open OpenFS) {
	const keys, writers, readers, rounds = 6, 12, 4, 25
	type told struct {
		key string
		n   int
	}
	var mu sync.Mutex
	floor := map[string]int{} // what somebody was told
	tell := func(all []told) {
		mu.Lock()
		defer mu.Unlock()
		for _, x := range all {
			floor[x.key] = max(floor[x.key], x.n)
		}
	}
	type loss struct {
		op    string
		fsys  *vfs.MemFS
		floor map[string]int
	}
	var losses []loss
	mem := vfs.NewCrashableMem()
	tap := vfs.NewTap(mem)
	ops := 0
	tap.After = func(op vfs.Op, err error) {
		if op.Index == 0 {
			return
		}
		mu.Lock()
		defer mu.Unlock()
		if ops++; ops%5 == 0 && len(losses) < 150 {
			// The floor is held still while the clone is taken.
			losses = append(losses, loss{op: op.String(), fsys: vfs.CrashClone(mem), floor: maps.Clone(floor)})
		}
	}
	db, err := open(t, tap)
	if err != nil {
		t.Fatal(err)
	}
	number := func(v []byte) int {
		n := 0
		_, _ = fmt.Sscan(string(v), &n)
		return n
	}
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(uint64(w), 0))
			for range rounds {
				key := fmt.Sprintf("k%d", rng.IntN(keys))
				n := 0
				err := db.Update(t.Context(), func(tx kv.Tx) error {
					v, _ := tx.Get(nil, []byte(key))
					n = number(v) + 1
					tx.Set([]byte(key), fmt.Append(nil, n))
					tx.Log([]byte(key))
					return nil
				}, []byte(key))
				if err != nil {
					t.Error(err)
					return
				}
				tell([]told{{key, n}})
			}
		})
	}
	for r := range readers {
		wg.Go(func() {
			for i := range rounds * 4 {
				key := fmt.Sprintf("k%d", (i+r)%keys)
				var got []told
				var err error
				if r%2 == 0 {
					err = db.View(t.Context(), func(rd kv.Reader) error {
						v, _ := rd.Get(nil, []byte(key))
						got = append(got, told{key, number(v)})
						return nil
					}, []byte(key))
				} else {
					err = db.View(t.Context(), func(rd kv.Reader) error {
						it, err := rd.Iter(nil, nil)
						if err != nil {
							return err
						}
						defer it.Close()
						for it.Next() {
							v, err := it.Value()
							if err != nil {
								return err
							}
							got = append(got, told{string(it.Key()), number(v)})
						}
						return it.Err()
					})
				}
				if err != nil {
					t.Error(err)
					return
				}
				tell(got)
			}
		})
	}
	wg.Wait()
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	if len(losses) < 20 {
		t.Fatalf("only %d crashes", len(losses))
	}
	for _, l := range losses {
		db, err := open(t, l.fsys)
		if err != nil {
			t.Fatalf("open after a crash after %q: %v", l.op, err)
		}
		s := Read(t, db)
		logged := map[string]int{}
		for _, key := range s.Log {
			logged[key]++
		}
		for key, n := range l.floor {
			got := number([]byte(s.Pairs[key]))
			if got < n {
				t.Errorf("crash after %q: %s = %d, but somebody was told %d", l.op, key, got, n)
			}
			if logged[key] != got {
				t.Errorf("crash after %q: %s = %d with %d log entries", l.op, key, got, logged[key])
			}
		}
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
	}
}
