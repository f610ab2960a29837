package durable_test

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"firn"
	"firn/durable"
	"firn/vfs"
)

func TestWriteFileOrder(t *testing.T) {
	mem := vfs.NewCrashableMem()
	tap := vfs.NewTap(mem)
	var ops []string
	tap.After = func(op vfs.Op, err error) {
		if op.Kind.Mutates() {
			ops = append(ops, op.String())
		}
	}
	if err := durable.WriteFile(tap, "f", []byte("one")); err != nil {
		t.Fatal(err)
	}
	want := []string{"create f.tmp", "write f.tmp 3", "sync f.tmp", "rename f.tmp f", "syncdir ."}
	if diff := cmp.Diff(want, ops); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// TestWriteFileCrash replaces a file and crashes after every operation.
func TestWriteFileCrash(t *testing.T) {
	mem := vfs.NewCrashableMem()
	tap := vfs.NewTap(mem)
	if err := durable.WriteFile(tap, "f", []byte("old")); err != nil {
		t.Fatal(err)
	}
	read := func(m *vfs.MemFS) string {
		b, err := durable.ReadFile(m, "f", 100)
		if err != nil {
			return err.Error()
		}
		return string(b)
	}
	crashes := 0
	tap.After = func(op vfs.Op, err error) {
		crashes++
		if got := read(vfs.CrashClone(mem)); got != "old" && got != "new" {
			t.Errorf("crash after %q: %q", op, got)
		}
	}
	if err := durable.WriteFile(tap, "f", []byte("new")); err != nil {
		t.Fatal(err)
	}
	if got := read(vfs.CrashClone(mem)); got != "new" || crashes < 5 {
		t.Errorf("after %d crashes and WriteFile returned: %q", crashes, got)
	}
}

func TestWriteFileFaults(t *testing.T) {
	boom := errors.New("boom")
	for i := int64(1); i <= 5; i++ {
		for _, applied := range []bool{false, true} {
			mem := vfs.NewCrashableMem()
			if err := durable.WriteFile(mem, "f", []byte("old")); err != nil {
				t.Fatal(err)
			}
			tap := vfs.NewTap(mem)
			tap.Before = func(op vfs.Op) vfs.Fault {
				if op.Index == i {
					return vfs.Fault{Err: boom, Applied: applied, Short: 1}
				}
				return vfs.Fault{}
			}
			if err := durable.WriteFile(tap, "f", []byte("new")); !errors.Is(err, boom) {
				t.Errorf("fault at %d: %v", i, err)
			}
			b, err := durable.ReadFile(vfs.CrashClone(mem), "f", 100)
			if got := string(b); err != nil || got != "old" && got != "new" {
				t.Errorf("fault at %d (applied %v): %q, %v", i, applied, got, err)
			}
		}
	}
}

func TestReadFile(t *testing.T) {
	mem := vfs.NewMem()
	if _, err := durable.ReadFile(mem, "f", 10); firn.KindOf(err) != firn.NotFound {
		t.Errorf("missing file: %v", err)
	}
	if err := durable.WriteFile(mem, "f", []byte(strings.Repeat("x", 11))); err != nil {
		t.Fatal(err)
	}
	if _, err := durable.ReadFile(mem, "f", 10); firn.KindOf(err) != firn.Corrupt {
		t.Errorf("file beyond the limit: %v", err)
	}
	if b, err := durable.ReadFile(mem, "f", 11); err != nil || len(b) != 11 {
		t.Errorf("%d bytes, %v", len(b), err)
	}
}

// TestDirSyncerShares lets many ask while a sync runs: they share one more, and no one returns before a sync that
// began after its call.
func TestDirSyncerShares(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tap := vfs.NewTap(vfs.NewMem())
		var mu sync.Mutex
		began := 0
		tap.Before = func(op vfs.Op) vfs.Fault {
			if op.Kind == vfs.OpSyncDir {
				mu.Lock()
				began++
				mu.Unlock()
				time.Sleep(time.Millisecond)
			}
			return vfs.Fault{}
		}
		s := durable.NewDirSyncer(tap)
		var wg sync.WaitGroup
		for i := range 50 {
			wg.Go(func() {
				time.Sleep(time.Duration(i) * 10 * time.Microsecond)
				mu.Lock()
				before := began
				mu.Unlock()
				if err := s.Sync("/"); err != nil {
					t.Error(err)
				}
				mu.Lock()
				defer mu.Unlock()
				if began == before {
					t.Error("Sync returned without a sync of its own time")
				}
			})
		}
		wg.Wait()
		if began != 2 {
			t.Errorf("%d syncs for 50 callers within one sync's time, want 2", began)
		}
	})
}

func TestDirSyncerPoison(t *testing.T) {
	boom := errors.New("boom")
	mem := vfs.NewMem()
	tap := vfs.NewTap(mem)
	fail := true
	tap.Before = func(op vfs.Op) vfs.Fault {
		if op.Kind == vfs.OpSyncDir && op.Path == "/a" && fail {
			return vfs.Fault{Err: boom, Applied: true}
		}
		return vfs.Fault{}
	}
	for _, d := range []string{"/a", "/b"} {
		if err := mem.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	s := durable.NewDirSyncer(tap)
	for i := range 3 {
		if err := s.Sync("/a"); !errors.Is(err, boom) {
			t.Errorf("sync %d of a failed directory: %v", i, err)
		}
		fail = false
	}
	if err := s.Sync("/b"); err != nil {
		t.Error(fmt.Errorf("another directory: %w", err))
	}
	// A directory that was not there is not a failed sync.
	if err := s.Sync("/c"); firn.KindOf(err) != firn.NotFound {
		t.Errorf("missing directory: %v", err)
	}
	if err := mem.MkdirAll("/c", 0o755); err != nil {
		t.Fatal(err)
	}
	if err := s.Sync("/c"); err != nil {
		t.Error(err)
	}
}
