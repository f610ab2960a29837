//go:build !race

package pebblekv_test

import (
	"testing"

	"firn/kv"
	"firn/kv/pebblekv"
	"firn/vfs"
)

// Not with the race detector, under which sync.Pool drops things at random.
func TestViewAllocates(t *testing.T) {
	db := open(t, vfs.NewMem(), pebblekv.Options{})
	key, locks := []byte("k"), [][]byte{[]byte("k")}
	if err := db.Update(t.Context(), func(tx kv.Tx) error { tx.Set(key, key); return nil }, locks...); err != nil {
		t.Fatal(err)
	}
	var buf []byte
	fn := func(r kv.Reader) (err error) {
		buf, err = r.Get(buf[:0], key)
		return err
	}
	n := testing.AllocsPerRun(200, func() {
		if err := db.View(t.Context(), fn, locks...); err != nil {
			t.Fatal(err)
		}
	})
	if n != 0 {
		t.Errorf("View of one key allocates %v times", n)
	}
}
