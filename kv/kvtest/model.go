package kvtest

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"testing"

	"github.com/google/go-cmp/cmp"

	"firn/kv"
)

// Seed returns the seed of a randomised test and prints it. FIRN_TEST_SEED replays one.
func Seed(t *testing.T) uint64 {
	seed := rand.Uint64()
	if s := os.Getenv("FIRN_TEST_SEED"); s != "" {
		n, err := strconv.ParseUint(s, 10, 64)
		if err != nil {
			t.Fatalf("FIRN_TEST_SEED: %v", err)
		}
		seed = n
	}
	t.Logf("FIRN_TEST_SEED=%d", seed)
	return seed
}

// State is what a DB holds: its pairs, and its log from the start.
type State struct {
	Pairs map[string]string
	Log   []string // the first has the number LogStart
	Start uint64
}

// Clone returns a copy.
func (s State) Clone() State {
	return State{Pairs: maps.Clone(s.Pairs), Log: slices.Clone(s.Log), Start: s.Start}
}

// short returns s with long values replaced by their length and beginning, for messages.
func short(s State) State {
	s = s.Clone()
	for k, v := range s.Pairs {
		if len(v) > 20 {
			s.Pairs[k] = fmt.Sprintf("%s... %d bytes", v[:4], len(v))
		}
	}
	return s
}

// Read returns the state of db.
func Read(t *testing.T, db kv.DB) State {
	t.Helper()
	s := State{Pairs: map[string]string{}, Start: logStart(t, db)}
	err := db.View(t.Context(), func(r kv.Reader) error {
		it, err := r.Iter(nil, nil)
		if err != nil {
			return err
		}
		defer it.Close()
		for it.Next() {
			v, err := it.Value()
			if err != nil {
				return err
			}
			s.Pairs[string(it.Key())] = string(v)
		}
		return it.Err()
	})
	if err != nil {
		t.Fatal(err)
	}
	if s.Start > db.LogTail() {
		return s
	}
	want := s.Start
	err = db.ReadLog(t.Context(), s.Start, func(e kv.LogEntry) error {
		if e.Seq != want {
			return fmt.Errorf("log entry %d where %d was due", e.Seq, want)
		}
		want++
		s.Log = append(s.Log, string(e.Data))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// Step does one random Update to db and returns what the state is after it. It stays at before, and err is not nil,
// where db returned an error.
func Step(t *testing.T, db kv.DB, rng *rand.Rand, before State) (after State, err error) {
	t.Helper()
	after = before.Clone()
	key := func() []byte { return fmt.Appendf(nil, "%c%02d", 'a'+rng.IntN(3), rng.IntN(20)) }
	giveUp := errors.New("given up")
	quit := rng.IntN(10) == 0
	err = db.Update(t.Context(), func(tx kv.Tx) error {
		for range 1 + rng.IntN(5) {
			switch rng.IntN(10) {
			case 0, 1, 2, 3:
				// Mostly small, now and then large enough for engines to store it in another way.
				size := rng.IntN(3000)
				if rng.IntN(4) == 0 {
					size = rng.IntN(100 << 10)
				}
				k, v := key(), bytes.Repeat([]byte{byte('0' + rng.IntN(10))}, size)
				tx.Set(k, v)
				after.Pairs[string(k)] = string(v)
			case 4, 5:
				k := key()
				tx.Delete(k)
				delete(after.Pairs, string(k))
			case 6:
				lo, hi := key(), key()
				if bytes.Compare(lo, hi) > 0 {
					lo, hi = hi, lo
				}
				tx.DeleteRange(lo, hi)
				maps.DeleteFunc(after.Pairs, func(k, _ string) bool { return k >= string(lo) && k < string(hi) })
			case 7:
				tx.Exclusive()
			default:
				e := fmt.Sprint(rng.IntN(1000))
				tx.Log([]byte(e))
				after.Log = append(after.Log, e)
			}
		}
		if quit {
			return giveUp
		}
		return nil
	}, key(), key())
	switch {
	case errors.Is(err, giveUp):
		return before, nil
	case err != nil:
		return after, err
	}
	return after, nil
}

// testModel compares the DB with a map and a slice over many random transactions, from one goroutine.
func testModel(t *testing.T, db kv.DB) {
	rng := rand.New(rand.NewPCG(Seed(t), 0))
	model := State{Pairs: map[string]string{}, Start: 1}
	for i := range 400 {
		var err error
		if model, err = Step(t, db, rng, model); err != nil {
			t.Fatalf("step %d: %v", i, err)
		}
		if rng.IntN(40) == 0 && len(model.Log) > 1 {
			n := rng.IntN(len(model.Log))
			if err := db.TrimLog(t.Context(), model.Start+uint64(n)); err != nil {
				t.Fatal(err)
			}
			model.Log, model.Start = model.Log[n:], model.Start+uint64(n)
		}
		if i%20 == 19 {
			if diff := cmp.Diff(model, Read(t, db)); diff != "" {
				t.Fatalf("after step %d (-model +db):\n%s", i, cmp.Diff(short(model), short(Read(t, db))))
			}
		}
	}
}
