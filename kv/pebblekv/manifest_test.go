package pebblekv

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2"

	"firn"
	"firn/kv"
	"firn/vfs"
)

// TestDamagedManifest flips a bit in each part of each record of a manifest but the last: the store is refused, where
// Pebble alone would open an older state.
func TestDamagedManifest(t *testing.T) {
	mem := vfs.NewCrashableMem()
	for n := range 5 {
		db, err := Open(mem, "db", Options{})
		if err != nil {
			t.Fatal(err)
		}
		if err := db.Update(t.Context(), func(tx kv.Tx) error {
			tx.Set(fmt.Appendf(nil, "key %d", n), []byte("value"))
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		if err := db.p.Flush(); err != nil {
			t.Fatal(err)
		}
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
	}
	desc, err := pebble.Peek("db", mem)
	if err != nil {
		t.Fatal(err)
	}
	whole, err := vfs.ReadFile(mem, desc.ManifestFilename)
	if err != nil {
		t.Fatal(err)
	}
	var starts []int
	for at := 0; at < len(whole); {
		n, ok := chunkAt(whole, at)
		if !ok {
			t.Fatalf("no chunk at %d of %d", at, len(whole))
		}
		starts = append(starts, at)
		at += n
	}
	if len(starts) < 2 {
		t.Fatalf("%d records: too few to tell anything", len(starts))
	}
	open := func(p []byte) error {
		clone := vfs.CrashClone(mem)
		f, err := clone.Create(desc.ManifestFilename, "test")
		if err == nil {
			_, err = f.Write(p)
		}
		if err == nil {
			err = f.Close()
		}
		if err != nil {
			t.Fatal(err)
		}
		db, err := Open(clone, "db", Options{})
		if err == nil {
			err = db.Close()
		}
		return err
	}
	if err := open(whole); err != nil {
		t.Fatalf("intact: %v", err)
	}
	for i, at := range starts[:len(starts)-1] {
		for _, off := range []int{0, 4, 6, chunkHeader, starts[i+1] - at - 1} {
			p := slices.Clone(whole)
			p[at+off] ^= 1
			if err := open(p); firn.KindOf(err) != firn.Corrupt || !strings.Contains(err.Error(), "restore from a backup") {
				t.Errorf("opened with damage at byte %d: %v", at+off, err)
			}
		}
	}
	// A record that was cut off while it was written is none.
	if err := open(whole[:len(whole)-3]); err != nil {
		t.Errorf("cut off at the end: %v", err)
	}
}
