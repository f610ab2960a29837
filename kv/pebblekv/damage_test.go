package pebblekv_test

import (
	"fmt"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"firn"
	"firn/kv"
	"firn/kv/kvtest"
	"firn/kv/pebblekv"
	"firn/vfs"
)

// damagedLogs is a file system on which the first bytes that are read of each log have a bit flipped, 1000 bytes in.
func damagedLogs(fsys vfs.FS) vfs.FS {
	tap := vfs.NewTap(fsys)
	var done atomic.Bool
	tap.OnRead = func(op vfs.Op, p []byte) {
		if strings.HasSuffix(op.Path, ".log") && len(p) > 0 && !done.Swap(true) {
			p[min(len(p)-1, 1000)] ^= 1
		}
	}
	return tap
}

// TestDamagedLog damages the write-ahead log. After a clean stop nothing is lost; after a crash the store refuses to
// open rather than take the damage for the end of the log, be it the first log of the store or a later one.
func TestDamagedLog(t *testing.T) {
	const commits = 50
	for _, reopened := range []bool{false, true} {
		t.Run(fmt.Sprintf("reopened=%v", reopened), func(t *testing.T) {
			mem := vfs.NewCrashableMem()
			db := open(t, mem, pebblekv.Options{})
			if reopened {
				if err := db.Close(); err != nil {
					t.Fatal(err)
				}
				db = open(t, mem, pebblekv.Options{})
			}
			for i := range commits {
				err := db.Update(t.Context(), func(tx kv.Tx) error {
					tx.Set(fmt.Append(nil, i), make([]byte, 4000))
					tx.Log(nil)
					return nil
				})
				if err != nil {
					t.Fatal(err)
				}
			}
			crashed := vfs.CrashClone(mem)
			if err := db.Close(); err != nil {
				t.Fatal(err)
			}
			_, err := pebblekv.Open(damagedLogs(crashed), "db", pebblekv.Options{})
			if firn.KindOf(err) != firn.Corrupt || !strings.Contains(err.Error(), ".log is damaged") {
				t.Errorf("open with a damaged log after a crash: %v", err)
			}
			if s := kvtest.Read(t, open(t, damagedLogs(mem), pebblekv.Options{})); len(s.Pairs) != commits {
				t.Errorf("%d of %d keys after a clean stop", len(s.Pairs), commits)
			}
		})
	}
}

// TestDamagedValues cuts off most of each file of separated values: reading says that it is damaged, where Pebble by
// itself panics.
func TestDamagedValues(t *testing.T) {
	mem := vfs.NewCrashableMem()
	options := pebblekv.Options{MemTableBytes: 1 << 20, ValueSeparationMin: 1000}
	open := func(fsys vfs.FS) (*pebblekv.DB, error) { return pebblekv.Open(fsys, "db", options) }
	db, err := open(mem)
	if err != nil {
		t.Fatal(err)
	}
	fill(t, db, 600, func(int) {})
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	names, err := mem.List("db")
	if err != nil {
		t.Fatal(err)
	}
	tried := 0
	for _, name := range names {
		if !strings.HasSuffix(name, ".blob") {
			continue
		}
		tried++
		fsys := vfs.CrashClone(mem)
		p := readAll(t, fsys, "db/"+name)
		writeAll(t, fsys, "db/"+name, p[:10])
		if _, err := contents(t, fsys, open); firn.KindOf(err) != firn.Corrupt {
			t.Errorf("%s: %v", name, err)
		}
	}
	if tried == 0 {
		t.Error("there is no such file")
	}
}

// TestFullDisk lets every new table fail for want of space: a running store tries again with pauses, and one that is
// opened says that the disk is full, without trying for ever.
func TestFullDisk(t *testing.T) {
	full := func(fsys vfs.FS) vfs.FS {
		tap := vfs.NewTap(fsys)
		tap.Before = func(op vfs.Op) vfs.Fault {
			if op.Kind == vfs.OpCreate && (strings.HasSuffix(op.Path, ".sst") || strings.HasSuffix(op.Path, ".blob")) {
				return vfs.Fault{Err: syscall.ENOSPC}
			}
			return vfs.Fault{}
		}
		return tap
	}
	var crashed *vfs.MemFS
	synctest.Test(t, func(t *testing.T) {
		mem := vfs.NewCrashableMem()
		db, err := pebblekv.Open(mem, "db", pebblekv.Options{})
		if err != nil {
			t.Fatal(err)
		}
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
		db, err = pebblekv.Open(full(mem), "db", pebblekv.Options{MemTableBytes: 1 << 20})
		if err != nil {
			t.Fatal(err)
		}
		for i := range 20 {
			err := db.Update(t.Context(), func(tx kv.Tx) error {
				tx.Set(fmt.Append(nil, i), make([]byte, 100<<10))
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(time.Minute)
		if n := db.Metrics().BackgroundErrors; n < 3 || n > 40 {
			t.Errorf("%d attempts in a minute", n)
		}
		crashed = vfs.CrashClone(mem)
		if err := db.Close(); err != nil {
			t.Errorf("close on a full disk: %v", err)
		}
	})
	// Not in the bubble: what a failed start leaves behind is parked until the process ends.
	_, err := pebblekv.Open(full(crashed), "db", pebblekv.Options{})
	if firn.KindOf(err) != firn.NoSpace || !strings.Contains(err.Error(), "free some space") {
		t.Errorf("open on a full disk: %v", err)
	}
}
