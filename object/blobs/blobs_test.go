package blobs

import (
	"context"
	"errors"
	"io/fs"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"firn/vfs"
)

// list is a Ledger in memory.
type list struct {
	mu     sync.Mutex
	ids    map[ID]bool
	broken atomic.Bool
}

func (l *list) Opening(_ context.Context, ids, done []ID) error {
	if l.broken.Load() {
		return errors.New("broken")
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, id := range done {
		delete(l.ids, id)
	}
	for _, id := range ids {
		l.ids[id] = true
	}
	return nil
}

func (l *list) has(id ID) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.ids[id]
}

func newDir(t *testing.T, fsys vfs.FS) (*Dir, *list) {
	t.Helper()
	l := &list{ids: map[ID]bool{}}
	d, err := Open(fsys, "blobs", l)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(d.Close)
	return d, l
}

func create(t *testing.T, d *Dir) File {
	t.Helper()
	f, err := d.Create(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func TestFilesAreListedAndDurableBeforeTheyAreHandedOut(t *testing.T) {
	mem := vfs.NewCrashableMem()
	d, l := newDir(t, mem)
	seen := map[ID]bool{}
	var files []File
	for range 3 * batch {
		f := create(t, d)
		if seen[f.ID] {
			t.Fatalf("%v twice", f.ID)
		}
		seen[f.ID] = true
		if !l.has(f.ID) {
			t.Fatalf("%v is not on the list", f.ID)
		}
		if _, err := vfs.CrashClone(mem).Stat(d.Path(f.ID)); err != nil {
			t.Fatal(err)
		}
		files = append(files, f)
	}
	// Whatever exists is on the list.
	if err := d.Walk(t.Context(), func(name string, id ID, ok bool) error {
		if !ok || !l.has(id) {
			t.Errorf("%s, %v", name, ok)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		d.Discard(f)
		if _, err := mem.Stat(d.Path(f.ID)); !errors.Is(err, fs.ErrNotExist) {
			t.Fatal(err)
		}
	}
	for range 2 * batch { // a later batch takes the discarded ones off the list, their removal being durable
		create(t, d)
	}
	d.Close()
	clone := vfs.CrashClone(mem)
	for _, f := range files {
		if _, err := clone.Stat(d.Path(f.ID)); !l.has(f.ID) && !errors.Is(err, fs.ErrNotExist) {
			t.Fatalf("%v is off the list and comes back: %v", f.ID, err)
		}
	}
	if l.has(files[0].ID) {
		t.Error("a discarded file stays on the list")
	}
	if _, err := d.Create(t.Context()); !errors.Is(err, fs.ErrClosed) {
		t.Error(err)
	}
}

func TestFailuresLeaveNothingUnlisted(t *testing.T) {
	for _, kind := range []vfs.OpKind{vfs.OpCreate, vfs.OpSyncDir} {
		tap := vfs.NewTap(vfs.NewMem())
		var armed atomic.Bool
		var n atomic.Int32
		tap.Before = func(op vfs.Op) vfs.Fault {
			if armed.Load() && op.Kind == kind && strings.HasPrefix(op.Path, "blobs/") && (kind != vfs.OpCreate || n.Add(1) == 5) {
				return vfs.Fault{Err: syscall.EIO}
			}
			return vfs.Fault{}
		}
		d, l := newDir(t, tap)
		armed.Store(true)
		if _, err := d.Create(t.Context()); !errors.Is(err, syscall.EIO) {
			t.Fatal(err)
		}
		armed.Store(false)
		files := 0
		if err := d.Walk(t.Context(), func(_ string, id ID, ok bool) error {
			if files++; !ok || !l.has(id) {
				t.Errorf("%v", id)
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		if files != 0 {
			t.Errorf("%v: %d files left", kind, files)
		}
		create(t, d)
		l.broken.Store(true)
		for range 2 * batch {
			if _, err := d.Create(t.Context()); err != nil {
				break
			}
		}
		if _, err := d.Create(t.Context()); err == nil {
			t.Error("files are made while the list cannot be written")
		}
	}
}

func TestConcurrentCreates(t *testing.T) {
	d, _ := newDir(t, vfs.NewMem())
	var mu sync.Mutex
	seen := map[ID]bool{}
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			for range 50 {
				f, err := d.Create(t.Context())
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				if seen[f.ID] {
					t.Errorf("%v twice", f.ID)
				}
				seen[f.ID] = true
				mu.Unlock()
			}
		})
	}
	wg.Wait()
}

func TestPins(t *testing.T) {
	d, _ := newDir(t, vfs.NewMem())
	id := ID{7}
	d.Pin(id)
	d.Pin(id)
	d.Unpin(id)
	if !d.Pinned(id) {
		t.Error("not pinned after one of two was given up")
	}
	d.Unpin(id)
	if d.Pinned(id) || len(d.mu.pins) != 0 {
		t.Error("still pinned")
	}
}

func TestParseID(t *testing.T) {
	id := ID{0xAB, 1}
	if got, ok := ParseID(id.String()); !ok || got != id {
		t.Fatal(got, ok)
	}
	for _, s := range []string{"", "..", strings.ToUpper(id.String()), id.String() + "0", strings.Repeat("g", 32), strings.Repeat("/", 32)} {
		if _, ok := ParseID(s); ok {
			t.Errorf("%q is an id", s)
		}
	}
}

func TestOpenTwiceAndRemove(t *testing.T) {
	mem := vfs.NewMem()
	d, l := newDir(t, mem)
	f := create(t, d)
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(mem, "blobs", l); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Size(f.ID); err != nil {
		t.Fatal(err)
	}
	for range 2 { // removing what is not there is no error
		if err := d.Remove(f.ID); err != nil {
			t.Fatal(err)
		}
	}
	if err := d.SyncDirs([]ID{f.ID, f.ID}); err != nil {
		t.Fatal(err)
	}
	if _, err := d.OpenBlob(f.ID); !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
}
