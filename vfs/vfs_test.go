package vfs_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"firn"
	"firn/vfs"
)

func write(t *testing.T, fsys vfs.FS, name, data string, sync bool) {
	t.Helper()
	f, err := fsys.Create(name, vfs.CategoryState)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Write([]byte(data)); err != nil {
		t.Fatal(err)
	}
	if sync {
		if err := f.Sync(); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
}

// read returns a file's contents, or "<none>".
func read(t *testing.T, fsys vfs.FS, name string) string {
	t.Helper()
	f, err := fsys.Open(name)
	if err != nil {
		return "<none>"
	}
	defer f.Close()
	b, err := io.ReadAll(f)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func syncDir(t *testing.T, fsys vfs.FS, dir string) {
	t.Helper()
	if err := vfs.SyncDir(fsys, dir); err != nil {
		t.Fatal(err)
	}
}

// TestCrashClone pins the strict rule: contents need a sync of the file, names a sync of the directory, and so do
// renames and removals.
func TestCrashClone(t *testing.T) {
	m := vfs.NewCrashableMem()
	write(t, m, "synced", "1", true)
	write(t, m, "contents not synced", "1", false)
	write(t, m, "removed", "1", true)
	write(t, m, "old name", "1", true)
	syncDir(t, m, "/")
	write(t, m, "name not synced", "1", true)
	write(t, m, "synced again", "1", true)
	if err := m.Remove("removed"); err != nil {
		t.Fatal(err)
	}
	if err := m.Rename("old name", "new name"); err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	names := []string{"synced", "contents not synced", "removed", "old name", "new name", "name not synced"}
	look := func(fsys vfs.FS) map[string]string {
		for _, n := range names {
			got[n] = read(t, fsys, n)
		}
		return got
	}
	want := map[string]string{
		"synced": "1", "contents not synced": "", "removed": "1", "old name": "1", "new name": "<none>",
		"name not synced": "<none>",
	}
	if diff := cmp.Diff(want, look(vfs.CrashClone(m))); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	syncDir(t, m, "/")
	want = map[string]string{
		"synced": "1", "contents not synced": "", "removed": "<none>", "old name": "<none>", "new name": "1",
		"name not synced": "1",
	}
	if diff := cmp.Diff(want, look(vfs.CrashClone(m))); diff != "" {
		t.Errorf("after a sync of the directory (-want +got):\n%s", diff)
	}
}

func TestMkdirAllSync(t *testing.T) {
	m := vfs.NewCrashableMem()
	if err := vfs.MkdirAllSync(m, "a/b/c", 0o755); err != nil {
		t.Fatal(err)
	}
	clone := vfs.CrashClone(m)
	if _, err := clone.Stat("a/b/c"); err != nil {
		t.Errorf("lost in a crash: %v", err)
	}
	if err := vfs.MkdirAllSync(m, "a/b/d/", 0o755); err != nil {
		t.Fatal(err)
	}
	clone = vfs.CrashClone(m)
	if _, err := clone.Stat("a/b/d"); err != nil {
		t.Errorf("lost in a crash: %v", err)
	}
	// On the real file system, absolute.
	dir := filepath.Join(t.TempDir(), "x", "y")
	for range 2 {
		if err := vfs.MkdirAllSync(vfs.OS(), dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
}

func TestLockDir(t *testing.T) {
	for name, c := range map[string]struct {
		fsys vfs.FS
		dir  string
	}{"memory": {vfs.NewMem(), "/"}, "disk": {vfs.OS(), t.TempDir()}} {
		t.Run(name, func(t *testing.T) {
			l, err := vfs.LockDir(c.fsys, c.dir)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := vfs.LockDir(c.fsys, c.dir); !errors.Is(err, vfs.ErrLocked) || firn.KindOf(err) != firn.Conflict {
				t.Errorf("second lock: %v", err)
			}
			if err := l.Close(); err != nil {
				t.Fatal(err)
			}
			l, err = vfs.LockDir(c.fsys, c.dir)
			if err != nil {
				t.Fatalf("after release: %v", err)
			}
			if err := l.Close(); err != nil {
				t.Error(err)
			}
		})
	}
	if _, err := vfs.LockDir(vfs.OS(), filepath.Join(t.TempDir(), "missing")); err == nil || errors.Is(err, vfs.ErrLocked) {
		t.Errorf("lock of a missing directory: %v", err)
	}
}

// TestTap does one of each operation and checks what the hooks see.
func TestTap(t *testing.T) {
	m := vfs.NewCrashableMem()
	tap := vfs.NewTap(m)
	var got []string
	tap.After = func(op vfs.Op, err error) { got = append(got, fmt.Sprint(op.Index, " ", op, " ", err != nil)) }
	if err := tap.MkdirAll("d", 0o755); err != nil {
		t.Fatal(err)
	}
	write(t, tap, "d/f", "hello", true)
	if err := tap.Rename("d/f", "d/g"); err != nil {
		t.Fatal(err)
	}
	syncDir(t, tap, "d")
	if s := read(t, tap, "d/g"); s != "hello" {
		t.Error(s)
	}
	if _, err := tap.Stat("d/missing"); err == nil {
		t.Error("no error")
	}
	if err := tap.Remove("d/g"); err != nil {
		t.Fatal(err)
	}
	want := []string{
		"1 mkdir d false", "2 create d/f false", "3 write d/f 5 false", "4 sync d/f false", "5 rename d/f d/g false",
		"0 open d false", "6 syncdir d false", "0 open d/g false", "0 read d/g false", "0 read d/g true",
		"0 stat d/missing true", "7 remove d/g false",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestTapFaults(t *testing.T) {
	for name, c := range map[string]struct {
		fault vfs.Fault
		left  string
	}{
		"failed":             {vfs.Fault{Err: syscall.EIO}, ""},
		"failed but applied": {vfs.Fault{Err: syscall.EIO, Applied: true}, "hello"},
		"torn":               {vfs.Fault{Err: syscall.ENOSPC, Short: 3}, "hel"},
		"let through":        {vfs.Fault{}, "hello"},
	} {
		t.Run(name, func(t *testing.T) {
			m := vfs.NewMem()
			tap := vfs.NewTap(m)
			tap.Before = func(op vfs.Op) vfs.Fault {
				if op.Kind == vfs.OpWrite {
					return c.fault
				}
				return vfs.Fault{}
			}
			f, err := tap.Create("f", vfs.CategoryState)
			if err != nil {
				t.Fatal(err)
			}
			n, err := f.Write([]byte("hello"))
			if !errors.Is(err, c.fault.Err) {
				t.Errorf("Write = %d, %v", n, err)
			}
			if vfs.IsNoSpace(err) != (name == "torn") {
				t.Errorf("IsNoSpace(%v)", err)
			}
			if err := f.Close(); err != nil {
				t.Fatal(err)
			}
			if got := read(t, m, "f"); got != c.left {
				t.Errorf("left %q, want %q", got, c.left)
			}
		})
	}
}

func TestTapFlippedBit(t *testing.T) {
	m := vfs.NewMem()
	write(t, m, "f", "hello", true)
	tap := vfs.NewTap(m)
	tap.OnRead = func(op vfs.Op, p []byte) { p[0] ^= 1 }
	if got := read(t, tap, "f"); got != "iello" {
		t.Errorf("read %q", got)
	}
	if got := read(t, m, "f"); got != "hello" {
		t.Errorf("the file itself changed to %q", got)
	}
}

// TestWriteLeavesSlice checks what io.Writer promises, with the race detector on too.
func TestWriteLeavesSlice(t *testing.T) {
	f, err := vfs.NewMem().Create("f", vfs.CategoryState)
	if err != nil {
		t.Fatal(err)
	}
	p := []byte("hello")
	if _, err := f.Write(p); err != nil || !bytes.Equal(p, []byte("hello")) {
		t.Errorf("slice is %q after Write (%v)", p, err)
	}
}
