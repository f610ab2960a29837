package pebblekv_test

import (
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/cockroachdb/pebble/v2"
	"github.com/google/go-cmp/cmp"

	"firn"
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

func TestReopen(t *testing.T) {
	fsys := vfs.NewCrashableMem()
	var model kvtest.State
	for round := range 4 {
		db := open(t, fsys, pebblekv.Options{MemTableBytes: 1 << 20})
		if round > 0 {
			if diff := cmp.Diff(model, kvtest.Read(t, db)); diff != "" {
				t.Fatalf("round %d (-before +after reopening):\n%s", round, diff)
			}
		}
		for i := range 20 {
			err := db.Update(t.Context(), func(tx kv.Tx) error {
				tx.Set(fmt.Append(nil, i), fmt.Append(nil, round, i))
				tx.Log(fmt.Append(nil, round, i))
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
		}
		// The second round trims all but the newest entry: numbers must go on from it.
		if err := db.TrimLog(t.Context(), uint64(round)*25); err != nil {
			t.Fatal(err)
		}
		if tail := db.LogTail(); tail != uint64(round+1)*20 {
			t.Errorf("round %d: tail %d", round, tail)
		}
		model = kvtest.Read(t, db)
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

func TestUnknownSchema(t *testing.T) {
	fsys := vfs.NewMem()
	p, err := pebble.Open("db", &pebble.Options{FS: fsys, Logger: quiet{}})
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Set([]byte("\xFFv"), []byte{2}, pebble.Sync); err != nil {
		t.Fatal(err)
	}
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	_, err = pebblekv.Open(fsys, "db", pebblekv.Options{})
	if firn.KindOf(err) != firn.Unsupported {
		t.Errorf("Open = %v", err)
	}
}

type quiet struct{}

func (quiet) Infof(string, ...any)  {}
func (quiet) Errorf(string, ...any) {}
func (quiet) Fatalf(f string, a ...any) {
	panic(fmt.Sprintf(f, a...))
}

// TestCorruptTable flips a bit of every read of a table: the read fails as corrupt, and the store lives on.
func TestCorruptTable(t *testing.T) {
	mem := vfs.NewMem()
	db := open(t, mem, pebblekv.Options{MemTableBytes: 1 << 20})
	for i := range 100 {
		err := db.Update(t.Context(), func(tx kv.Tx) error {
			tx.Set(fmt.Appendf(nil, "%03d", i), make([]byte, 1000))
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	// Opening flushes the write-ahead log into tables.
	db = open(t, mem, pebblekv.Options{})
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	tap := vfs.NewTap(mem)
	var broken atomic.Bool
	tap.OnRead = func(op vfs.Op, p []byte) {
		if broken.Load() && strings.HasSuffix(op.Path, ".sst") {
			p[len(p)/2] ^= 1
		}
	}
	db = open(t, tap, pebblekv.Options{})
	broken.Store(true)
	read := func(r kv.Reader) error {
		_, err := r.Get(nil, []byte("050"))
		return err
	}
	if err := db.View(t.Context(), read); firn.KindOf(err) != firn.Corrupt {
		t.Errorf("Get from a corrupt table = %v", err)
	}
	if m := db.Metrics(); m.Corruptions == 0 {
		t.Error("the corruption was not counted")
	}
	broken.Store(false)
	err := db.Update(t.Context(), func(tx kv.Tx) error { tx.Set([]byte("new"), nil); return nil })
	if err != nil {
		t.Errorf("Update after a corrupt read = %v", err)
	}
}

func TestMetrics(t *testing.T) {
	db := open(t, vfs.NewMem(), pebblekv.Options{MemTableBytes: 1 << 20})
	for i := range 100 {
		err := db.Update(t.Context(), func(tx kv.Tx) error {
			tx.Set(fmt.Append(nil, i), make([]byte, 64<<10))
			tx.Log(nil)
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	m := db.Metrics()
	if m.Commits != 100 || m.LogTail != 100 || m.LogStart != 1 || m.DurableIndex != 100 {
		t.Errorf("%d commits, log %d to %d, durable %d", m.Commits, m.LogStart, m.LogTail, m.DurableIndex)
	}
	if m.WALBytesWritten < 100*64<<10 || m.Flushes == 0 || m.BlobBytes == 0 || m.DiskBytes == 0 {
		t.Errorf("%+v", m)
	}
}
