package fileblob

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	pebblevfs "github.com/cockroachdb/pebble/v2/vfs"

	"firn"
	"firn/blob/driver"
	"firn/blob/layout"
	"firn/vfs"
)

// begun is a source that remembers from where it was opened first, and may break.
type begun struct {
	p    []byte
	from int64
	fail int64 // it breaks there; 0 is nowhere
}

var errBroken = errors.New("it broke")

func (b *begun) Size() int64                  { return int64(len(b.p)) }
func (b *begun) Open() (io.ReadCloser, error) { return b.OpenAt(0) }
func (b *begun) OpenAt(at int64) (io.ReadCloser, error) {
	if b.from < 0 {
		b.from = at
	}
	r := io.Reader(bytes.NewReader(b.p[at:]))
	if b.fail > 0 {
		r = io.MultiReader(bytes.NewReader(b.p[at:b.fail]), broken{})
	}
	return io.NopCloser(r), nil
}

type broken struct{}

func (broken) Read([]byte) (int, error) { return 0, errBroken }

func resumable() []byte {
	p := make([]byte, layout.KeptStep+1<<20+5000)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(p)
	return p
}

// resumed resumes a put with a new driver, and returns how much it found.
func resumed(t *testing.T, fsys vfs.FS, root string, p []byte) int64 {
	t.Helper()
	d, err := New(t.Context(), Options{Root: root, FS: fsys})
	if err != nil {
		t.Fatal(err)
	}
	src := &begun{p: p, from: -1}
	if err := d.Resume(t.Context(), "x/y/key", src); err != nil {
		t.Fatal(err)
	}
	r, err := d.Get(t.Context(), "x/y/key", 0, -1)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if got, err := io.ReadAll(r); err != nil || !bytes.Equal(got, p) {
		t.Fatalf("%d bytes, or other ones, %v", len(got), err)
	}
	return src.from
}

// TestResumeAfterCrashes takes the power away after every change of the file system. The blob is there whole or not at all,
// what was synced is not read again, and what is beyond that is not trusted.
func TestResumeAfterCrashes(t *testing.T) {
	p := resumable()
	mem := vfs.NewCrashableMem()
	if err := Init(t.Context(), Options{Root: "/place", FS: mem}); err != nil {
		t.Fatal(err)
	}
	rng := rand.New(rand.NewPCG(1, 2))
	tap := vfs.NewTap(mem)
	crashes, wentOn := 0, 0
	tap.After = func(op vfs.Op, _ error) {
		if !op.Kind.Mutates() || op.Kind == vfs.OpWriteAt && op.Offset > 1<<20 && op.Offset < layout.KeptStep-1<<20 {
			return // writes that are like those before and after
		}
		crashes++
		// Half of them keep some of what was not synced.
		after := &vfs.MemFS{MemFS: mem.CrashClone(pebblevfs.CrashCloneCfg{UnsyncedDataPercent: 50 * (crashes % 2), RNG: rng})}
		if got := content(t, after, "x/y/key"); got != nil && !bytes.Equal(got, p) {
			t.Errorf("a crash after %v leaves %d bytes", op, len(got))
		}
		if from := resumed(t, after, "/place", p); from > 0 {
			wentOn++
		}
	}
	if from := resumed(t, tap, "/place", p); from != 0 {
		t.Errorf("it began at %d", from)
	}
	if crashes < 12 || wentOn == 0 {
		t.Errorf("%d crashes, after %d of which it went on", crashes, wentOn)
	}
}

// TestResumeOverFailures has each operation fail once, before it is done and after: the next call goes on.
func TestResumeOverFailures(t *testing.T) {
	p := resumable()
	for n := int64(0); ; n++ {
		if n/2 > 2 && n/2 < layout.KeptStep>>20 {
			continue // writes that are like those before and after
		}
		d, tap, root := faulty(t)
		var failed *vfs.Op
		tap.Before = func(op vfs.Op) vfs.Fault {
			if op.Index != n/2+1 {
				return vfs.Fault{}
			}
			failed = &op
			return vfs.Fault{Err: errBroken, Applied: n%2 == 1}
		}
		err := d.Resume(t.Context(), "x/y/key", &begun{p: p, from: -1})
		if failed == nil {
			if err != nil {
				t.Fatal(err)
			}
			break
		}
		got, e := os.ReadFile(filepath.Join(root, "x/y/key"))
		if e == nil && !bytes.Equal(got, p) {
			t.Errorf("after %v failed, %d bytes are there", failed, len(got))
		}
		if err == nil && e != nil { // that a rename happened all the same is found out
			t.Errorf("%v failed, and nobody was told", failed)
		}
		from := resumed(t, nil, root, p)
		if failed.Kind == vfs.OpSync && from > 0 && failed.Index < layout.KeptStep>>20+6 {
			t.Errorf("a sync failed, and it went on after %d", from)
		}
	}
}

// TestKeptIsWhatWasSynced: bytes after the last sync count for nothing, whatever they are, and so does a file of another size.
func TestKeptIsWhatWasSynced(t *testing.T) {
	p := resumable()
	for name, c := range map[string]struct {
		spoil func(t *testing.T, path string)
		from  int64
	}{
		"as it was left": {func(*testing.T, string) {}, layout.KeptStep},
		"zeros": {func(t *testing.T, path string) {
			f, err := os.OpenFile(path, os.O_WRONLY, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			if _, err := f.WriteAt(make([]byte, 1<<20), layout.KeptStep); err != nil {
				t.Fatal(err)
			}
		}, layout.KeptStep},
		"not one byte more": {func(t *testing.T, path string) { truncate(t, path, layout.KeptStep) }, 0},
		"too long":          {func(t *testing.T, path string) { truncate(t, path, int64(len(p))+1) }, 0},
		"gone": {func(t *testing.T, path string) {
			if err := os.RemoveAll(filepath.Dir(path)); err != nil {
				t.Fatal(err)
			}
		}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			root := filepath.Join(t.TempDir(), "place")
			if err := Init(t.Context(), Options{Root: root}); err != nil {
				t.Fatal(err)
			}
			d, err := New(t.Context(), Options{Root: root})
			if err != nil {
				t.Fatal(err)
			}
			if err := d.Resume(t.Context(), "x/y/key", &begun{p: p, from: -1, fail: int64(len(p)) - 10}); !errors.Is(err, errBroken) {
				t.Fatal(err)
			}
			c.spoil(t, filepath.Join(root, layout.KeptPath("x/y/key")))
			if from := resumed(t, nil, root, p); from != c.from {
				t.Errorf("it went on after %d, want %d", from, c.from)
			}
			if left, err := os.ReadDir(filepath.Join(root, layout.Temp)); err != nil || len(left) > 0 {
				t.Errorf("left behind: %v, %v", left, err)
			}
		})
	}
}

func truncate(t *testing.T, path string, size int64) {
	t.Helper()
	if err := os.Truncate(path, size); err != nil {
		t.Fatal(err)
	}
}

// TestAbandonWithoutARoot: that nothing is kept is not said where nobody could look.
func TestAbandonWithoutARoot(t *testing.T) {
	root := filepath.Join(t.TempDir(), "place")
	if err := Init(t.Context(), Options{Root: root}); err != nil {
		t.Fatal(err)
	}
	d, err := New(t.Context(), Options{Root: root})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(root, root+"-unmounted"); err != nil {
		t.Fatal(err)
	}
	var r driver.Resumer = d
	if err := r.Abandon(t.Context(), "key"); firn.KindOf(err) != firn.Unavailable {
		t.Errorf("%v, want firn.Unavailable", err)
	}
}
