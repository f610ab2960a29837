package pebblekv_test

import (
	"testing"

	"firn/kv"
	"firn/kv/kvtest"
	"firn/kv/pebblekv"
	"firn/vfs"
)

func TestCrash(t *testing.T) {
	kvtest.RunCrash(t, func(t *testing.T, fsys vfs.FS) (kv.DB, error) {
		// Small enough that flushes happen under the test.
		return pebblekv.Open(fsys, "data/db", pebblekv.Options{MemTableBytes: 1 << 20, ValueSeparationMin: 1000})
	})
}
