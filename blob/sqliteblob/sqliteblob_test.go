package sqliteblob

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"firn"
	"firn/blob"
	"firn/blob/driver"
	"firn/blob/drivertest"
)

func initAndOpen(t *testing.T, path string) *store {
	t.Helper()
	if err := Init(t.Context(), Options{path}); err != nil {
		t.Fatalf("init: %v", err)
	}
	return reopen(t, path)
}

func reopen(t *testing.T, path string) *store {
	t.Helper()
	d, err := New(t.Context(), Options{path})
	if err != nil {
		t.Fatalf("new: %v", err)
	}
	t.Cleanup(func() { d.Close() })
	return d.(*store)
}

func TestConformance(t *testing.T) {
	drivertest.Run(t, func(t *testing.T) driver.Driver {
		return initAndOpen(t, filepath.Join(t.TempDir(), "odd name?%20#.db"))
	}, drivertest.Expect(drivertest.Creator|drivertest.Batcher|drivertest.BulkDeleter|drivertest.Measurer),
		drivertest.Second(func(t *testing.T, d driver.Driver) driver.Driver { return reopen(t, d.(*store).path) }),
		drivertest.Gone(func(t *testing.T, d driver.Driver) {
			for _, end := range []string{"", "-wal", "-shm"} {
				if err := os.Remove(d.(*store).path + end); err != nil && !os.IsNotExist(err) {
					t.Fatal(err)
				}
			}
		}))
}

func TestFromURL(t *testing.T) {
	for text, want := range map[string]string{
		"sqlite:/a/b.db": "/a/b.db", "sqlite:b.db": "b.db", "sqlite:///a/b.db": "/a/b.db", "sqlite:/a/b%20c": "/a/b c",
		"sqlite:b%20c": "b c",
	} {
		u, err := url.Parse(text)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := FromURL(u); err != nil || got.Path != want {
			t.Errorf("%s: %+v, %v, want %s", text, got, err, want)
		}
	}
	for _, text := range []string{"sqlite:", "file:/a", "sqlite://host/a", "sqlite:/a/", "sqlite:/a?x=1", "sqlite:a%00b"} {
		u, err := url.Parse(text)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := FromURL(u); firn.KindOf(err) != firn.Invalid {
			t.Errorf("%s: %+v, %v, want an invalid one", text, got, err)
		}
	}
}

func TestPlace(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "blobs.db")
	if _, err := New(t.Context(), Options{path}); firn.KindOf(err) != firn.Invalid {
		t.Errorf("no file: %v (%v), want invalid", err, firn.KindOf(err))
	}
	if _, err := os.Stat(path); !os.IsNotExist(err) {
		t.Errorf("opening made a file: %v", err)
	}
	if err := Init(t.Context(), Options{filepath.Join(dir, "none", "blobs.db")}); firn.KindOf(err) != firn.Invalid {
		t.Errorf("no directory: %v (%v), want invalid", err, firn.KindOf(err))
	}
	s := initAndOpen(t, path)
	var mode string
	var sync, page, vacuum int
	if err := s.write.QueryRow(`select (select * from pragma_journal_mode), (select * from pragma_synchronous),
		(select * from pragma_page_size), (select * from pragma_auto_vacuum)`).Scan(&mode, &sync, &page, &vacuum); err != nil {
		t.Fatal(err)
	}
	if mode != "wal" || sync != 2 || page != 4096 || vacuum != 2 {
		t.Errorf("journal %s, synchronous %d, page size %d, vacuum %d", mode, sync, page, vacuum)
	}
	if err := s.Check(t.Context()); err != nil {
		t.Error(err)
	}
	if _, err := s.write.Exec(`pragma user_version = 7`); err != nil {
		t.Fatal(err)
	}
	if _, err := New(t.Context(), Options{path}); firn.KindOf(err) != firn.Unsupported {
		t.Errorf("a later format: %v (%v), want unsupported", err, firn.KindOf(err))
	}
	other := filepath.Join(dir, "text")
	if err := os.WriteFile(other, []byte(strings.Repeat("no database ", 10_000)), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, err := range map[string]error{"init": Init(t.Context(), Options{other}), "new": errOf(New(t.Context(), Options{other}))} {
		if firn.KindOf(err) != firn.Corrupt {
			t.Errorf("%s of a text: %v (%v), want corrupt", name, err, firn.KindOf(err))
		}
	}
}

func errOf(_ driver.Driver, err error) error { return err }

func read(t *testing.T, d driver.Driver, key string) ([]byte, error) {
	r, err := d.Get(t.Context(), key, 0, -1)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	return io.ReadAll(r)
}

func number(t *testing.T, s *store, query string) (n int) {
	t.Helper()
	if err := s.read.QueryRow(query).Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

// TestMain is also a second process: one that puts until its input ends, or one that kills itself.
func TestMain(m *testing.M) {
	path, key := os.Getenv("FIRN_TEST_OTHER_PROCESS"), os.Getenv("FIRN_TEST_KEY")
	if path == "" {
		os.Exit(m.Run())
	}
	if err := other(path, key); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	os.Exit(0)
}

func other(path, key string) error {
	d, err := New(context.Background(), Options{path})
	if err != nil {
		return err
	}
	if key != "" {
		return d.Put(context.Background(), key, &drivertest.Gate{Source: drivertest.Zeros(8 << 20), At: 6 << 20, Then: func() { syscall.Kill(os.Getpid(), syscall.SIGKILL) }})
	}
	for i := range 15 {
		if err := d.Put(context.Background(), fmt.Sprint("other/", i), blob.Bytes(make([]byte, 300<<10))); err != nil {
			return err
		}
		if err := d.Put(context.Background(), "shared", blob.Bytes(make([]byte, 3<<20))); err != nil {
			return err
		}
	}
	return d.Close()
}

func process(path, key string) *exec.Cmd {
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "FIRN_TEST_OTHER_PROCESS="+path, "FIRN_TEST_KEY="+key)
	return cmd
}

func TestTwoProcesses(t *testing.T) {
	s := initAndOpen(t, filepath.Join(t.TempDir(), "blobs.db"))
	cmd := process(s.path, "")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	for i := range 15 {
		if err := s.Put(t.Context(), fmt.Sprint("own/", i), blob.Bytes(make([]byte, 300<<10))); err != nil {
			t.Errorf("put: %v", err)
		}
		if err := s.Put(t.Context(), "shared", blob.Bytes(make([]byte, 3<<20))); err != nil {
			t.Errorf("put: %v", err)
		}
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("the other process: %v", err)
	}
	n := 0
	if err := s.List(t.Context(), "", func(driver.Info) error { n++; return nil }); err != nil || n != 31 {
		t.Errorf("%d blobs, %v, want 31", n, err)
	}
	if n := number(t, s, `select count(*) from pieces`); n != 2*15*2+12 {
		t.Errorf("%d pieces, want %d", n, 2*15*2+12)
	}
	if err := s.Check(t.Context()); err != nil {
		t.Error(err)
	}
}

// TestProcessKilled kills a process in the middle of a put: nothing of it is visible, and later nothing is left.
func TestProcessKilled(t *testing.T) {
	s := initAndOpen(t, filepath.Join(t.TempDir(), "blobs.db"))
	if err := s.Put(t.Context(), "there", blob.Bytes([]byte("old"))); err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{"there", "new"} {
		cmd := process(s.path, key)
		out, err := cmd.CombinedOutput()
		if cmd.ProcessState.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
			t.Fatalf("the process was to kill itself: %v, %s", err, out)
		}
	}
	if p, err := read(t, s, "there"); err != nil || string(p) != "old" {
		t.Errorf("after the kill: %q, %v", p, err)
	}
	if _, err := s.Stat(t.Context(), "new"); firn.KindOf(err) != firn.NotFound {
		t.Errorf("a put that was killed is there: %v", err)
	}
	reopen(t, s.path) // too early to sweep
	if n := number(t, s, `select count(*) from pending`); n != 2 {
		t.Fatalf("%d puts are noted as unfinished, want 2", n)
	}
	// All are as old as if their processes had been killed long ago, and one more that still runs.
	err := s.Put(t.Context(), "slow", &drivertest.Gate{Source: drivertest.Zeros(8 << 20), At: 5 << 20, Then: func() {
		if _, err := s.write.Exec(`update pending set touched = touched - ?`, 2*lease.Milliseconds()); err != nil {
			t.Error(err)
		}
		reopen(t, s.path)
	}})
	if firn.KindOf(err) != firn.Unavailable {
		t.Errorf("a put that was swept meanwhile: %v (%v), want unavailable", err, firn.KindOf(err))
	}
	if n := number(t, s, `select count(*) from pending`); n != 0 {
		t.Errorf("%d puts are noted as unfinished, want none", n)
	}
	if n := number(t, s, `select count(*) from pieces`); n != 1 {
		t.Errorf("%d pieces, want 1", n)
	}
}

func TestSpaceIsGivenBack(t *testing.T) {
	s := initAndOpen(t, filepath.Join(t.TempDir(), "blobs.db"))
	var keys []string
	for i := range 20 {
		keys = append(keys, fmt.Sprint("blob/", i))
		if err := s.Put(t.Context(), keys[i], drivertest.Zeros(2<<20)); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.DeleteAll(t.Context(), keys[1:]); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	fi, err := os.Stat(s.path)
	if err != nil || fi.Size() > 4<<20 {
		t.Errorf("the file of one blob of 2 MiB has %d bytes, %v", fi.Size(), err)
	}
}

// TestFlippedBit: content that the disk changed is never given.
func TestFlippedBit(t *testing.T) {
	s := initAndOpen(t, filepath.Join(t.TempDir(), "blobs.db"))
	content := strings.Repeat("a line that can be found again\n", 40_000)
	if err := s.Put(t.Context(), "blob", blob.Bytes([]byte(content))); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile(s.path)
	if err != nil {
		t.Fatal(err)
	}
	at := strings.LastIndex(string(raw), "can be found")
	raw[at] ^= 1
	if err := os.WriteFile(s.path, raw, 0o600); err != nil {
		t.Fatal(err)
	}
	s = reopen(t, s.path)
	if p, err := read(t, s, "blob"); firn.KindOf(err) != firn.Corrupt {
		t.Errorf("%d bytes, %v (%v), want corrupt", len(p), err, firn.KindOf(err))
	}
	if _, err := s.write.Exec(`delete from pieces where n = 2`); err != nil {
		t.Fatal(err)
	}
	if r, err := s.Get(t.Context(), "blob", 2*pieceSize+5, 10); firn.KindOf(err) != firn.Corrupt {
		t.Errorf("a range without its piece: %v, %v, want corrupt", r, err)
	}
}

// TestLockHeld: a call that waits for another process's lock ends with its context.
func TestLockHeld(t *testing.T) {
	s := initAndOpen(t, filepath.Join(t.TempDir(), "blobs.db"))
	o := reopen(t, s.path)
	tx, err := o.write.BeginTx(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback()
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if err := s.Put(ctx, "blob", blob.Bytes(nil)); !errors.Is(err, context.DeadlineExceeded) || firn.KindOf(err) != firn.Unavailable {
		t.Errorf("%v (%v), want unavailable", err, firn.KindOf(err))
	}
	// Readers do not wait.
	if err := s.List(t.Context(), "", func(driver.Info) error { return nil }); err != nil {
		t.Error(err)
	}
}
