//go:build servers

package sqliteblob

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"

	"firn"
	"firn/blob"
	"firn/blob/drivertest"
)

// TestFullDisk fills a file system of its own, as root.
func TestFullDisk(t *testing.T) {
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=40m"); err != nil {
		t.Fatalf("mount a small file system, which needs root: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	for _, reopened := range []bool{false, true} {
		path := filepath.Join(dir, strconv.FormatBool(reopened)+".db")
		s := initAndOpen(t, path)
		var err error
		n := 0
		for ; n < 100 && err == nil; n++ {
			err = s.Put(t.Context(), fmt.Sprint("blob/", n), drivertest.Zeros(1<<20))
		}
		if firn.KindOf(err) != firn.NoSpace {
			t.Fatalf("put %d: %v (%v), want no space", n, err, firn.KindOf(err))
		}
		// To the last byte, and also where the write-ahead log has gone with the process.
		if reopened {
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
		}
		fill(t, filepath.Join(dir, "fill"))
		if reopened {
			s = reopen(t, path)
		}
		if p, err := read(t, s, "blob/0"); err != nil || len(p) != 1<<20 {
			t.Errorf("read on a full disk: %d bytes, %v", len(p), err)
		}
		for i := range n - 1 {
			if err := s.Delete(t.Context(), fmt.Sprint("blob/", i)); err != nil {
				t.Fatalf("delete %d on a full disk, reopened %t: %v (%v)", i, reopened, err, firn.KindOf(err))
			}
		}
		if err := s.Put(t.Context(), "blob", blob.Bytes(make([]byte, 1<<20))); err != nil {
			t.Errorf("put after the deletes: %v", err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		for _, path := range []string{path, path + "-reserve", filepath.Join(dir, "fill")} {
			if err := os.Remove(path); err != nil {
				t.Error(err)
			}
		}
	}
}

func fill(t *testing.T, path string) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for block := 1 << 20; block > 0; {
		if _, err := f.Write(make([]byte, block)); err != nil {
			block /= 2
		}
	}
}
