package lossyfs

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// mount mounts f at a fresh directory until the end of the test.
func mount(t *testing.T, f *FS) string {
	t.Helper()
	dir := t.TempDir()
	if err := f.Mount(dir); err != nil {
		t.Fatalf("%v (the power loss proof needs root and /dev/fuse)", err)
	}
	t.Cleanup(func() {
		if err := f.Unmount(); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// lose takes the power away and gives it back.
func lose(t *testing.T, f *FS, dir string, torn *rand.Rand) {
	t.Helper()
	f.PowerOff()
	if err := f.Unmount(); err != nil {
		t.Fatal(err)
	}
	f.Forget(torn)
	if err := f.Mount(dir); err != nil {
		t.Fatal(err)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func write(t *testing.T, name, text string, flags int, sync bool) {
	t.Helper()
	f, err := os.OpenFile(name, os.O_CREATE|os.O_WRONLY|flags, 0o644)
	must(t, err)
	_, err = f.WriteString(text)
	must(t, err)
	if sync {
		must(t, f.Sync())
	}
	must(t, f.Close())
}

func syncDir(t *testing.T, dir string) {
	t.Helper()
	d, err := os.Open(dir)
	must(t, err)
	must(t, d.Sync())
	must(t, d.Close())
}

// wantFiles compares the whole tree with name → content; a directory's name ends in a slash.
func wantFiles(t *testing.T, dir string, want map[string]string) {
	t.Helper()
	have := map[string]string{}
	must(t, filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || path == dir {
			return err
		}
		name, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		if d.IsDir() {
			have[name+"/"] = ""
			return nil
		}
		b, err := os.ReadFile(path)
		have[name] = string(b)
		return err
	}))
	if fmt.Sprintf("%q", have) != fmt.Sprintf("%q", want) {
		t.Errorf("found %.500q, want %.500q", have, want)
	}
}

// TestForgets is the table of what a strict power loss leaves. Each case starts from "old" with content "1", synced,
// in a synced directory "d".
func TestForgets(t *testing.T) {
	for _, tc := range []struct {
		name string
		do   func(t *testing.T, dir string)
		want map[string]string
	}{
		{
			"a write without fsync",
			func(t *testing.T, d string) { write(t, d+"/d/old", "22", 0, false) },
			map[string]string{"d/": "", "d/old": "1"},
		},
		{
			"a write with fsync",
			func(t *testing.T, d string) { write(t, d+"/d/old", "22", 0, true) },
			map[string]string{"d/": "", "d/old": "22"},
		},
		{
			"a write through O_DSYNC",
			func(t *testing.T, d string) { write(t, d+"/d/old", "22", unix.O_DSYNC, false) },
			map[string]string{"d/": "", "d/old": "22"},
		},
		{
			"a write with sync_file_range",
			func(t *testing.T, d string) {
				f, err := os.OpenFile(d+"/d/old", os.O_WRONLY, 0)
				must(t, err)
				defer f.Close()
				_, err = f.WriteString("22")
				must(t, err)
				const all = unix.SYNC_FILE_RANGE_WAIT_BEFORE | unix.SYNC_FILE_RANGE_WRITE | unix.SYNC_FILE_RANGE_WAIT_AFTER
				if err := unix.SyncFileRange(int(f.Fd()), 0, 2, all); err != nil && !errors.Is(err, syscall.ESPIPE) {
					t.Fatal(err)
				}
			},
			map[string]string{"d/": "", "d/old": "1"},
		},
		{
			"a truncation without fsync",
			func(t *testing.T, d string) { must(t, os.Truncate(d+"/d/old", 0)) },
			map[string]string{"d/": "", "d/old": "1"},
		},
		{
			"a new file with fsync but without directory sync",
			func(t *testing.T, d string) { write(t, d+"/d/new", "2", 0, true) },
			map[string]string{"d/": "", "d/old": "1"},
		},
		{
			"a new file with directory sync but without fsync",
			func(t *testing.T, d string) { write(t, d+"/d/new", "2", 0, false); syncDir(t, d+"/d") },
			map[string]string{"d/": "", "d/old": "1", "d/new": ""},
		},
		{
			"a new file with both",
			func(t *testing.T, d string) { write(t, d+"/d/new", "2", 0, true); syncDir(t, d+"/d") },
			map[string]string{"d/": "", "d/old": "1", "d/new": "2"},
		},
		{
			"a file in a new directory whose parent was not synced",
			func(t *testing.T, d string) {
				must(t, os.Mkdir(d+"/e", 0o755))
				write(t, d+"/e/new", "2", 0, true)
				syncDir(t, d+"/e")
			},
			map[string]string{"d/": "", "d/old": "1"},
		},
		{
			"a file in a new directory, all synced",
			func(t *testing.T, d string) {
				must(t, os.Mkdir(d+"/e", 0o755))
				write(t, d+"/e/new", "2", 0, true)
				syncDir(t, d+"/e")
				syncDir(t, d)
			},
			map[string]string{"d/": "", "d/old": "1", "e/": "", "e/new": "2"},
		},
		{
			"a removal without directory sync",
			func(t *testing.T, d string) { must(t, os.Remove(d+"/d/old")) },
			map[string]string{"d/": "", "d/old": "1"},
		},
		{
			"a removal with directory sync",
			func(t *testing.T, d string) { must(t, os.Remove(d+"/d/old")); syncDir(t, d+"/d") },
			map[string]string{"d/": ""},
		},
		{
			"a rename without directory sync",
			func(t *testing.T, d string) { must(t, os.Rename(d+"/d/old", d+"/d/new")) },
			map[string]string{"d/": "", "d/old": "1"},
		},
		{
			"a rename with directory sync",
			func(t *testing.T, d string) { must(t, os.Rename(d+"/d/old", d+"/d/new")); syncDir(t, d+"/d") },
			map[string]string{"d/": "", "d/new": "1"},
		},
		{
			"a rename to another directory, only the new one synced",
			func(t *testing.T, d string) { must(t, os.Rename(d+"/d/old", d+"/new")); syncDir(t, d) },
			map[string]string{"d/": "", "d/old": "1", "new": "1"},
		},
		{
			"a replacement by rename, written but not synced",
			func(t *testing.T, d string) {
				write(t, d+"/d/tmp", "2", 0, false)
				must(t, os.Rename(d+"/d/tmp", d+"/d/old"))
				syncDir(t, d+"/d")
			},
			map[string]string{"d/": "", "d/old": ""},
		},
		{
			"a hard link",
			func(t *testing.T, d string) {
				must(t, os.Link(d+"/d/old", d+"/d/new"))
				write(t, d+"/d/new", "2", 0, true)
				syncDir(t, d+"/d")
			},
			map[string]string{"d/": "", "d/old": "2", "d/new": "2"},
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			f := New(Options{})
			dir := mount(t, f)
			must(t, os.Mkdir(dir+"/d", 0o755))
			write(t, dir+"/d/old", "1", 0, true)
			syncDir(t, dir+"/d")
			syncDir(t, dir)
			tc.do(t, dir)
			lose(t, f, dir, nil)
			wantFiles(t, dir, tc.want)
			// A second loss has nothing more to take.
			lose(t, f, dir, nil)
			wantFiles(t, dir, tc.want)
		})
	}
}

func TestJournalledKeepsEntriesWithAnySync(t *testing.T) {
	f := New(Options{Journalled: true})
	dir := mount(t, f)
	must(t, os.Mkdir(dir+"/d", 0o755))
	write(t, dir+"/d/synced", "1", 0, true)
	write(t, dir+"/d/lost", "2", 0, false)
	lose(t, f, dir, nil)
	wantFiles(t, dir, map[string]string{"d/": "", "d/synced": "1"})
}

// TestSyncCoversWhatWasThereWhenItBegan: bytes written while a sync is under way may be lost after it returned.
func TestSyncCoversWhatWasThereWhenItBegan(t *testing.T) {
	f := New(Options{SyncDelay: 300 * time.Millisecond})
	dir := mount(t, f)
	write(t, dir+"/a", "1", 0, true)
	syncDir(t, dir)
	file, err := os.OpenFile(dir+"/a", os.O_RDWR, 0)
	must(t, err)
	_, err = file.WriteAt([]byte("2"), 0)
	must(t, err)
	began, done := make(chan struct{}), make(chan error, 1)
	go func() {
		close(began)
		done <- file.Sync()
	}()
	<-began
	// The write falls in the sync when the sync has taken its pages, which empties the dirty set.
	for {
		f.mu.RLock()
		taken := len(f.mu.root.entries["a"].dirty) == 0
		f.mu.RUnlock()
		if taken {
			break
		}
	}
	_, err = file.WriteAt([]byte("3"), 0)
	must(t, err)
	must(t, <-done)
	must(t, file.Close())
	wantFiles(t, dir, map[string]string{"a": "3"})
	lose(t, f, dir, nil)
	wantFiles(t, dir, map[string]string{"a": "2"})
}

func TestNoPowerAnswersEIO(t *testing.T) {
	f := New(Options{SyncDelay: time.Hour})
	dir := mount(t, f)
	file, err := os.Create(dir + "/a")
	must(t, err)
	defer file.Close()
	synced := make(chan error, 1)
	go func() { synced <- file.Sync() }()
	f.PowerOff()
	if err := <-synced; !errors.Is(err, syscall.EIO) {
		t.Errorf("a sync cut off by the power loss: %v, want EIO", err)
	}
	if _, err := file.WriteString("x"); !errors.Is(err, syscall.EIO) {
		t.Errorf("write: %v, want EIO", err)
	}
	if _, err := os.Create(dir + "/b"); !errors.Is(err, syscall.EIO) {
		t.Errorf("create: %v, want EIO", err)
	}
}

// TestTorn: what was synced is always there; of the rest each page is the old or the new one.
func TestTorn(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	const pages = 64
	old, young := bytes.Repeat([]byte("o"), pages*pageSize), bytes.Repeat([]byte("y"), pages*pageSize)
	f := New(Options{})
	dir := mount(t, f)
	write(t, dir+"/a", string(old), 0, true)
	syncDir(t, dir)
	write(t, dir+"/a", string(young), 0, false)
	for i := range 20 {
		write(t, fmt.Sprintf("%s/new%02d", dir, i), "x", 0, true)
	}
	lose(t, f, dir, rng)
	b, err := os.ReadFile(dir + "/a")
	must(t, err)
	if len(b) != len(old) {
		t.Fatalf("%d bytes, want %d", len(b), len(old))
	}
	count := map[byte]int{}
	for i := range pages {
		p := b[i*pageSize : (i+1)*pageSize]
		if !bytes.Equal(p, old[:pageSize]) && !bytes.Equal(p, young[:pageSize]) {
			t.Fatalf("page %d is neither old nor new", i)
		}
		count[p[0]]++
	}
	if count['o'] == 0 || count['y'] == 0 {
		t.Errorf("pages kept: %v, want some of both", count)
	}
	// Of the new files those made first are there.
	entries, err := os.ReadDir(dir)
	must(t, err)
	for i, e := range entries[1:] {
		if want := fmt.Sprintf("new%02d", i); e.Name() != want {
			t.Errorf("found %s where a prefix of the changes leaves %s", e.Name(), want)
		}
	}
}

// TestOrdinary holds the visible image against a plain byte slice under random writes, truncations, syncs and losses.
func TestOrdinary(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	f := New(Options{})
	dir := mount(t, f)
	var live, durable []byte
	write(t, dir+"/a", "", 0, true)
	syncDir(t, dir)
	resize := func(size int) {
		for len(live) < size {
			live = append(live, 0)
		}
		live = live[:size:size]
	}
	for step := range 3000 {
		file, err := os.OpenFile(dir+"/a", os.O_RDWR, 0)
		must(t, err)
		off, length := rng.IntN(6*pageSize), rng.IntN(2*pageSize)
		switch rng.IntN(12) {
		case 0, 1, 2, 3:
			b := bytes.Repeat([]byte{byte(1 + rng.IntN(255))}, length)
			_, err = file.WriteAt(b, int64(off))
			if len(b) > 0 {
				resize(max(len(live), off+len(b)))
				live = append([]byte(nil), live...)
				copy(live[off:], b)
			}
		case 4:
			err = file.Truncate(int64(off))
			resize(off)
		case 5:
			err = unix.Fallocate(int(file.Fd()), 0, int64(off), int64(length+1))
			resize(max(len(live), off+length+1))
		case 6:
			err = unix.Fallocate(int(file.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE,
				int64(off), int64(length+1))
			live = append([]byte(nil), live...)
			if off < len(live) {
				clear(live[off:min(len(live), off+length+1)])
			}
		case 7, 8, 9:
			err = file.Sync()
			durable = append([]byte(nil), live...)
		case 10:
			got := make([]byte, length)
			n, _ := file.ReadAt(got, int64(off))
			want := live[min(off, len(live)):min(off+length, len(live))]
			if !bytes.Equal(got[:n], want) {
				t.Fatalf("step %d: read of %d at %d differs", step, length, off)
			}
		case 11:
			if rng.IntN(10) > 0 {
				break
			}
			must(t, file.Close())
			lose(t, f, dir, nil)
			live = append([]byte(nil), durable...)
			got, err := os.ReadFile(dir + "/a")
			must(t, err)
			if !bytes.Equal(got, live) {
				t.Fatalf("step %d: after a loss %d bytes differ from the %d synced", step, len(got), len(live))
			}
			continue
		}
		must(t, err)
		must(t, file.Close())
	}
}

func TestLocksAreExclusive(t *testing.T) {
	f := New(Options{})
	dir := mount(t, f)
	a, err := os.Create(dir + "/lock")
	must(t, err)
	defer a.Close()
	b, err := os.Open(dir + "/lock")
	must(t, err)
	defer b.Close()
	must(t, syscall.Flock(int(a.Fd()), syscall.LOCK_EX|syscall.LOCK_NB))
	if err := syscall.Flock(int(b.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); !errors.Is(err, syscall.EWOULDBLOCK) {
		t.Errorf("second flock: %v, want EWOULDBLOCK", err)
	}
}
