package pebblekv_test

import (
	"bytes"
	"fmt"
	"maps"
	"math/rand/v2"
	"strings"
	"testing"

	pebblevfs "github.com/cockroachdb/pebble/v2/vfs"

	"firn/kv"
	"firn/kv/kvtest"
	"firn/kv/pebblekv"
	"firn/seal"
	"firn/vfs"
	"firn/vfs/cryptfs"
)

// TestCrashEncrypted is TestCrash on encrypted files.
func TestCrashEncrypted(t *testing.T) {
	key := seal.NewKey()
	kvtest.RunCrash(t, func(t *testing.T, fsys vfs.FS) (kv.DB, error) {
		return pebblekv.Open(cryptfs.New(fsys, key), "data/db", pebblekv.Options{MemTableBytes: 1 << 20, ValueSeparationMin: 1000})
	})
}

// numbered is a value that tells which it is, all over.
func numbered(i int) []byte { return bytes.Repeat(fmt.Appendf(nil, "%08d", i), 400) }

// fill commits n numbered values, calling after after each.
func fill(t *testing.T, db *pebblekv.DB, n int, after func(done int)) {
	t.Helper()
	for i := range n {
		err := db.Update(t.Context(), func(tx kv.Tx) error {
			tx.Set(fmt.Appendf(nil, "%08d", i), numbered(i))
			tx.Log(nil)
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		after(i + 1)
	}
}

// TestTornLogEncrypted loses half of the pages that were not synced, in the middle and at the end of an encrypted log:
// the store opens with all that was acknowledged as durable, and with the first of the others, each whole.
func TestTornLogEncrypted(t *testing.T) {
	for _, relaxed := range []bool{false, true} {
		seed := rand.Uint64()
		rng := rand.New(rand.NewPCG(seed, 0))
		key := seal.NewKey()
		mem := vfs.NewCrashableMem()
		db, err := pebblekv.Open(cryptfs.New(mem, key), "db", pebblekv.Options{Relaxed: relaxed})
		if err != nil {
			t.Fatal(err)
		}
		fill(t, db, 90, func(done int) {
			if done > 30 && done%3 != 0 {
				return // the first pages matter most: the head is there
			}
			crashed := &vfs.MemFS{MemFS: mem.CrashClone(pebblevfs.CrashCloneCfg{UnsyncedDataPercent: 50, RNG: rng})}
			g, err := pebblekv.Open(cryptfs.New(crashed, key), "db", pebblekv.Options{Relaxed: relaxed})
			if err != nil {
				t.Fatalf("relaxed %v, seed %d, after %d: %v", relaxed, seed, done, err)
			}
			found := kvtest.Read(t, g).Pairs
			if !relaxed && len(found) != done {
				t.Errorf("seed %d: %d of %d", seed, len(found), done)
			}
			for i := range len(found) {
				if found[fmt.Sprintf("%08d", i)] != string(numbered(i)) {
					t.Fatalf("relaxed %v, seed %d, after %d: value %d of %d is wrong or missing", relaxed, seed, done, i, len(found))
				}
			}
			if err := g.Close(); err != nil {
				t.Error(err)
			}
		})
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	}
}

// TestDamageEncrypted cuts and flips each encrypted file of a store that was closed, but the manifest, whose last
// record nobody can tell from one that was cut off: see TestDamagedManifest. What opens then has all values, and right ones; else opening or reading ends with an error.
func TestDamageEncrypted(t *testing.T) {
	key := seal.NewKey()
	mem := vfs.NewCrashableMem()
	open := func(fsys vfs.FS) (*pebblekv.DB, error) {
		return pebblekv.Open(cryptfs.New(fsys, key), "db", pebblekv.Options{MemTableBytes: 1 << 20, ValueSeparationMin: 1000})
	}
	db, err := open(mem)
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{}
	fill(t, db, 600, func(done int) { want[fmt.Sprintf("%08d", done-1)] = string(numbered(done - 1)) })
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	closed := vfs.CrashClone(mem)
	names, err := closed.List("db")
	if err != nil {
		t.Fatal(err)
	}
	opened, refused := 0, 0
	for _, name := range names {
		whole := readAll(t, closed, "db/"+name)
		if len(whole) == 0 || strings.HasPrefix(name, "MANIFEST") {
			continue
		}
		for how, damaged := range map[string][]byte{
			"cut in the head":        whole[:min(len(whole), 100)],
			"cut in the middle":      whole[:len(whole)/2],
			"cut off 5 bytes":        whole[:max(0, len(whole)-5)],
			"flipped in the middle":  flipped(whole, len(whole)/2),
			"flipped in the head":    flipped(whole, 20),
			"flipped after the head": flipped(whole, min(4096+100, len(whole)-1)),
		} {
			fsys := vfs.CrashClone(closed)
			writeAll(t, fsys, "db/"+name, damaged)
			found, err := contents(t, fsys, open)
			switch {
			case err != nil:
				refused++
			case !maps.Equal(found, want):
				t.Errorf("%s %s: opened with %d of %d values, or other ones", name, how, len(found), len(want))
			default:
				opened++
			}
		}
	}
	t.Logf("%d files: refused %d times, opened %d", len(names), refused, opened)
	if refused == 0 {
		t.Error("no damage was found")
	}
}

// contents opens a store and reads all of it.
func contents(t *testing.T, fsys vfs.FS, open func(vfs.FS) (*pebblekv.DB, error)) (map[string]string, error) {
	t.Helper()
	db, err := open(fsys)
	if err != nil {
		return nil, err
	}
	defer db.Close() // what was damaged may not close well
	all := map[string]string{}
	err = db.View(t.Context(), func(r kv.Reader) error {
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
			all[string(it.Key())] = string(v)
		}
		return it.Err()
	})
	return all, err
}

func flipped(p []byte, at int) []byte {
	p = bytes.Clone(p)
	p[at] ^= 0x40
	return p
}

func readAll(t *testing.T, fsys vfs.FS, name string) []byte {
	t.Helper()
	fi, err := fsys.Stat(name)
	if err != nil {
		t.Fatal(err)
	}
	if fi.IsDir() {
		return nil
	}
	p, err := vfs.ReadFile(fsys, name)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func writeAll(t *testing.T, fsys vfs.FS, name string, p []byte) {
	t.Helper()
	f, err := fsys.Create(name, vfs.CategoryState)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.Write(p); err != nil {
		t.Fatal(err)
	}
}
