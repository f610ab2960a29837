package pebblekv_test

import (
	"errors"
	"testing"

	"firn/kv"
	"firn/kv/kvtest"
	"firn/kv/pebblekv"
	"firn/vfs"
)

// open opens a DB and closes it after the test.
func open(t *testing.T, fsys vfs.FS, o pebblekv.Options) *pebblekv.DB {
	t.Helper()
	db, err := pebblekv.Open(fsys, "db", o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil && !errors.Is(err, kv.ErrClosed) {
			t.Errorf("Close: %v", err)
		}
	})
	return db
}

func TestConformance(t *testing.T) {
	kvtest.Run(t, func(t *testing.T) kv.DB { return open(t, vfs.NewCrashableMem(), pebblekv.Options{}) })
}

func TestConformanceSmallMemTable(t *testing.T) {
	kvtest.Run(t, func(t *testing.T) kv.DB {
		return open(t, vfs.NewMem(), pebblekv.Options{MemTableBytes: 1 << 20, CacheBytes: 1 << 20, ValueSeparationMin: 100})
	})
}

func TestConformanceRelaxed(t *testing.T) {
	kvtest.Run(t, func(t *testing.T) kv.DB { return open(t, vfs.NewMem(), pebblekv.Options{Relaxed: true}) })
}
