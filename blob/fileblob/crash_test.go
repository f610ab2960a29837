package fileblob

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"firn"
	"firn/blob"
	"firn/blob/driver"
	"firn/blob/layout"
	"firn/vfs"
)

var update = flag.Bool("update", false, "write the golden file")

var random = regexp.MustCompile(`[0-9a-f]{32}`)

// TestOrderOfWrites compares what reaches the file system with a golden file that was reviewed.
func TestOrderOfWrites(t *testing.T) {
	tap := vfs.NewTap(vfs.NewCrashableMem())
	var log strings.Builder
	tap.After = func(op vfs.Op, err error) {
		if op.Kind.Mutates() {
			fmt.Fprintf(&log, "  %s", random.ReplaceAllString(op.String(), "TEMP"))
			if err != nil {
				log.WriteString(" (fails)")
			}
			log.WriteByte('\n')
		}
	}
	ctx := t.Context()
	o := Options{Root: "/place", FS: tap}
	step := func(name string, fn func() error) {
		fmt.Fprintf(&log, "%s\n", name)
		if err := fn(); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
	}
	var d *Driver
	step("init", func() error { return Init(ctx, o) })
	step("open", func() (err error) {
		d, err = New(ctx, o)
		return err
	})
	step("put a/b", func() error { return d.Put(ctx, "a/b", blob.Bytes(make([]byte, 100_000))) })
	step("put a/b again", func() error { return d.Put(ctx, "a/b", blob.Bytes([]byte("x"))) })
	step("put a large one", func() error { return d.Put(ctx, "a/large", blob.Bytes(make([]byte, 2<<20+5000))) })
	step("stage a large one", func() error {
		commit, err := d.Stage(ctx, "a/staged", blob.Bytes(make([]byte, 2<<20+5000)))
		if err != nil {
			return err
		}
		fmt.Fprintln(&log, "commit")
		return commit(ctx)
	})
	step("resume a large one", func() error { return d.Resume(ctx, "a/resumed", blob.Bytes(make([]byte, layout.KeptStep+5000))) })
	step("resume what is there", func() error { return d.Resume(ctx, "a/resumed", blob.Bytes(make([]byte, layout.KeptStep+5000))) })
	step("abandon what is there", func() error { return d.Abandon(ctx, "a/resumed") })
	step("create a/c", func() error { return d.Create(ctx, "a/c", blob.Bytes(nil)) })
	step("create a/c again", func() error {
		if err := d.Create(ctx, "a/c", blob.Bytes(nil)); firn.KindOf(err) != firn.Exists {
			return fmt.Errorf("want firn.Exists: %w", err)
		}
		return nil
	})
	step("delete a/c", func() error { return d.Delete(ctx, "a/c") })
	step("delete a/c, which has gone", func() error { return d.Delete(ctx, "a/c") })
	step("delete several", func() error { return d.DeleteAll(ctx, []string{"a/b", "a/large"}) })

	const golden = "testdata/writes.txt"
	if *update {
		if err := errors.Join(os.MkdirAll("testdata", 0o755), os.WriteFile(golden, []byte(log.String()), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), log.String()); diff != "" {
		t.Errorf("the order of writes changed; review it and run with -update\n%s", diff)
	}
}

// content reads a blob of a file system as a new driver sees it; nil is none.
func content(t *testing.T, fsys vfs.FS, key string) []byte {
	t.Helper()
	d, err := New(context.Background(), Options{Root: "/place", FS: fsys})
	if err != nil {
		t.Fatal(err)
	}
	r, err := d.Get(context.Background(), key, 0, -1)
	if firn.KindOf(err) == firn.NotFound {
		return nil
	}
	if err != nil {
		t.Fatal(err)
	}
	p, err := io.ReadAll(r)
	if err = errors.Join(err, r.Close()); err != nil {
		t.Fatal(err)
	}
	return append([]byte{}, p...)
}

func stage(ctx context.Context, d *Driver, key string, p []byte) error {
	commit, err := d.Stage(ctx, key, blob.Bytes(p))
	if err != nil {
		return err
	}
	return commit(ctx)
}

// TestCrashes takes the power away after every change of the file system: each blob is the old one or the new one, and
// what was acknowledged is there.
func TestCrashes(t *testing.T) {
	old, big := bytes.Repeat([]byte("old "), 30_000), bytes.Repeat([]byte("new "), 200_000)
	for name, tt := range map[string]struct {
		old, new []byte // nil is none
		run      func(context.Context, *Driver) error
	}{
		"put new":     {nil, big, func(ctx context.Context, d *Driver) error { return d.Put(ctx, "x/y/key", blob.Bytes(big)) }},
		"put over":    {old, big, func(ctx context.Context, d *Driver) error { return d.Put(ctx, "x/y/key", blob.Bytes(big)) }},
		"stage new":   {nil, big, func(ctx context.Context, d *Driver) error { return stage(ctx, d, "x/y/key", big) }},
		"stage over":  {old, big, func(ctx context.Context, d *Driver) error { return stage(ctx, d, "x/y/key", big) }},
		"create":      {nil, big, func(ctx context.Context, d *Driver) error { return d.Create(ctx, "x/y/key", blob.Bytes(big)) }},
		"delete":      {old, nil, func(ctx context.Context, d *Driver) error { return d.Delete(ctx, "x/y/key") }},
		"delete more": {old, nil, func(ctx context.Context, d *Driver) error { return d.DeleteAll(ctx, []string{"none", "x/y/key"}) }},
	} {
		t.Run(name, func(t *testing.T) {
			mem := vfs.NewCrashableMem()
			o := Options{Root: "/place", FS: mem}
			if err := Init(t.Context(), o); err != nil {
				t.Fatal(err)
			}
			if tt.old != nil {
				d, err := New(t.Context(), o)
				if err != nil {
					t.Fatal(err)
				}
				if err := d.Put(t.Context(), "x/y/key", blob.Bytes(tt.old)); err != nil {
					t.Fatal(err)
				}
			}
			crashes := 0
			tap := vfs.NewTap(mem)
			tap.After = func(op vfs.Op, _ error) {
				if !op.Kind.Mutates() {
					return
				}
				crashes++
				got := content(t, vfs.CrashClone(mem), "x/y/key")
				same := func(p []byte) bool { return (got == nil) == (p == nil) && bytes.Equal(got, p) }
				if !same(tt.old) && !same(tt.new) {
					t.Errorf("a crash after %v leaves %d bytes, which are neither the old blob nor the new one", op, len(got))
				}
			}
			d, err := New(t.Context(), Options{Root: "/place", FS: tap})
			if err != nil {
				t.Fatal(err)
			}
			if err := tt.run(t.Context(), d); err != nil {
				t.Fatal(err)
			}
			if got := content(t, vfs.CrashClone(mem), "x/y/key"); (got == nil) != (tt.new == nil) || !bytes.Equal(got, tt.new) {
				t.Errorf("a crash after it was acknowledged leaves %d bytes, want %d", len(got), len(tt.new))
			}
			if crashes < 2 {
				t.Errorf("only %d crashes", crashes)
			}
		})
	}
}

func TestCrashesOfInit(t *testing.T) {
	mem := vfs.NewCrashableMem()
	tap := vfs.NewTap(mem)
	var clones []vfs.FS
	tap.After = func(op vfs.Op, _ error) {
		if op.Kind.Mutates() {
			clones = append(clones, vfs.CrashClone(mem))
		}
	}
	if err := Init(t.Context(), Options{Root: "/deep/place", FS: tap}); err != nil {
		t.Fatal(err)
	}
	for i, fsys := range clones {
		if err := Init(t.Context(), Options{Root: "/deep/place", FS: fsys}); err != nil {
			t.Errorf("init again after crash %d: %v", i, err)
		}
	}
	if _, err := New(t.Context(), Options{Root: "/deep/place", FS: vfs.CrashClone(mem)}); err != nil {
		t.Error(err)
	}
}

// faulty is a place on a real directory behind a tap.
func faulty(t *testing.T) (*Driver, *vfs.Tap, string) {
	t.Helper()
	root := filepath.Join(t.TempDir(), "place")
	if err := Init(t.Context(), Options{Root: root}); err != nil {
		t.Fatal(err)
	}
	tap := vfs.NewTap(noLocks{vfs.OS()})
	d, err := New(t.Context(), Options{Root: root, FS: tap})
	if err != nil {
		t.Fatal(err)
	}
	return d, tap, root
}

// TestStageThatCannotBeSynced: what was taken in is dropped, and the blob that was there stays.
func TestStageThatCannotBeSynced(t *testing.T) {
	d, tap, _ := faulty(t)
	if err := d.Put(t.Context(), "key", blob.Bytes([]byte("old"))); err != nil {
		t.Fatal(err)
	}
	commit, err := d.Stage(t.Context(), "key", blob.Bytes([]byte("new")))
	if err != nil {
		t.Fatal(err)
	}
	fired := once(tap, vfs.OpSync, "", vfs.Fault{Err: syscall.ENOSPC})
	if err := commit(t.Context()); firn.KindOf(err) != firn.NoSpace || !fired() {
		t.Errorf("commit on a full disk: %v (%v), want firn.NoSpace", err, firn.KindOf(err))
	}
	if p, err := get(t, d, "key"); err != nil || string(p) != "old" {
		t.Errorf("after it the blob is %q, %v", p, err)
	}
	if names, err := d.fs.List(d.path(tempName)); err != nil || len(names) > 0 {
		t.Errorf("temporary files stay: %v, %v", names, err)
	}
}

// noLocks is a file system whose locks are lost: nothing here may ask for one.
type noLocks struct{ vfs.FS }

func (noLocks) Lock(string) (io.Closer, error) { return nil, syscall.ENOLCK }

// once breaks the first operation of the kind on a path that ends so.
func once(tap *vfs.Tap, kind vfs.OpKind, suffix string, f vfs.Fault) (fired func() bool) {
	var mu sync.Mutex
	done := false
	tap.Before = func(op vfs.Op) vfs.Fault {
		mu.Lock()
		defer mu.Unlock()
		if done || op.Kind != kind || !strings.HasSuffix(op.Path, suffix) && !strings.HasSuffix(op.To, suffix) {
			return vfs.Fault{}
		}
		done = true
		return f
	}
	return func() bool {
		mu.Lock()
		defer mu.Unlock()
		return done
	}
}

func get(t *testing.T, d *Driver, key string) ([]byte, error) {
	t.Helper()
	r, err := d.Get(t.Context(), key, 0, -1)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	return io.ReadAll(r)
}

// TestStaleHandles: every kind of operation meets ESTALE once and the call succeeds all the same.
func TestStaleHandles(t *testing.T) {
	put := func(t *testing.T, d *Driver) error {
		return d.Put(t.Context(), "dir/new", blob.Bytes(make([]byte, 300_000)))
	}
	create := func(t *testing.T, d *Driver) error { return d.Create(t.Context(), "dir/new", blob.Bytes([]byte("x"))) }
	read := func(t *testing.T, d *Driver) error {
		p, err := get(t, d, "dir/old")
		if err == nil && string(p) != "old content" {
			err = fmt.Errorf("it is %q", p)
		}
		return err
	}
	list := func(t *testing.T, d *Driver) error {
		n := 0
		err := d.List(t.Context(), "", func(driver.Info) error { n++; return nil })
		if n != 1 {
			err = fmt.Errorf("%d blobs, %w", n, err)
		}
		return err
	}
	remove := func(t *testing.T, d *Driver) error { return d.Delete(t.Context(), "dir/old") }
	look := func(t *testing.T, d *Driver) error { _, err := d.Stat(t.Context(), "dir/old"); return err }
	for name, tt := range map[string]struct {
		kind   vfs.OpKind
		suffix string
		run    func(*testing.T, *Driver) error
	}{
		"put: create":      {vfs.OpCreate, "", put},
		"put: write":       {vfs.OpWrite, "", put},
		"put: sync":        {vfs.OpSync, "", put},
		"put: rename":      {vfs.OpRename, "", put},
		"put: mkdir":       {vfs.OpMkdirAll, "dir", put},
		"create: create":   {vfs.OpCreate, "", create},
		"get: open":        {vfs.OpOpen, "old", read},
		"get: read":        {vfs.OpReadAt, "old", read},
		"list: directory":  {vfs.OpList, "dir", list},
		"list: file":       {vfs.OpStat, "old", list},
		"list: marker":     {vfs.OpStat, markerName, list},
		"stat":             {vfs.OpStat, "old", look},
		"delete":           {vfs.OpRemove, "old", remove},
		"delete: sync dir": {vfs.OpSyncDir, "dir", remove},
	} {
		t.Run(name, func(t *testing.T) {
			d, tap, _ := faulty(t)
			if err := d.Put(t.Context(), "dir/old", blob.Bytes([]byte("old content"))); err != nil {
				t.Fatal(err)
			}
			d.forgetDir(d.path("dir"))
			fired := once(tap, tt.kind, tt.suffix, vfs.Fault{Err: syscall.ESTALE})
			err := tt.run(t, d)
			if name == "put: rename" {
				// Nothing tells whether it happened, but the file's number: it did not, and the caller may try again.
				if firn.KindOf(err) != firn.Unavailable {
					t.Errorf("%v, want firn.Unavailable", err)
				}
				err = nil
			}
			if err != nil || !fired() {
				t.Errorf("%v, fault met: %t", err, fired())
			}
			// Always stale is an error that may pass.
			tap.Before = func(op vfs.Op) vfs.Fault {
				if op.Kind == tt.kind && (strings.HasSuffix(op.Path, tt.suffix) || strings.HasSuffix(op.To, tt.suffix)) {
					return vfs.Fault{Err: syscall.ESTALE}
				}
				return vfs.Fault{}
			}
			d.forgetDir(d.path("dir"))
			if strings.HasPrefix(name, "create") || strings.HasPrefix(name, "delete") {
				return // done already
			}
			if err := tt.run(t, d); firn.KindOf(err) != firn.Unavailable {
				t.Errorf("stale for good: %v (%v), want firn.Unavailable", err, firn.KindOf(err))
			}
		})
	}
}

// TestFailedButApplied: the server did it and its answer was lost, so that the request that NFS sends again fails.
func TestFailedButApplied(t *testing.T) {
	for _, errno := range []syscall.Errno{syscall.ENOENT, syscall.EIO, syscall.ETIMEDOUT, syscall.ESTALE, syscall.EEXIST} {
		d, tap, _ := faulty(t)
		fired := once(tap, vfs.OpRename, "", vfs.Fault{Err: errno, Applied: true})
		if err := d.Put(t.Context(), "dir/put", blob.Bytes([]byte("put"))); err != nil || !fired() {
			t.Errorf("rename, %v: %v", errno, err)
		}
		fired = once(tap, vfs.OpLink, "", vfs.Fault{Err: errno, Applied: true})
		if err := d.Create(t.Context(), "dir/created", blob.Bytes([]byte("created"))); err != nil || !fired() {
			t.Errorf("link, %v: %v", errno, err)
		}
		// Somebody else's file is never taken for ours.
		if err := d.Create(t.Context(), "dir/created", blob.Bytes([]byte("created"))); firn.KindOf(err) != firn.Exists {
			t.Errorf("a second create: %v", err)
		}
		tap.Before = nil
		for _, want := range []string{"put", "created"} {
			if p, err := get(t, d, "dir/"+want); string(p) != want {
				t.Errorf("%q, %v", p, err)
			}
		}
		if err := d.Delete(t.Context(), "dir/put"); err != nil {
			t.Error(err)
		}
		fired = once(tap, vfs.OpRemove, "created", vfs.Fault{Err: syscall.ENOENT, Applied: true})
		if err := d.Delete(t.Context(), "dir/created"); err != nil || !fired() {
			t.Errorf("remove: %v", err)
		}
	}
}

// TestDelayedVisibility: a client that remembers that a name was missing sees the file once it opens the directory.
func TestDelayedVisibility(t *testing.T) {
	d, tap, root := faulty(t)
	if err := d.Put(t.Context(), "dir/key", blob.Bytes([]byte("content"))); err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	known := false
	forget := func() {
		mu.Lock()
		known = false
		mu.Unlock()
	}
	tap.Before = func(op vfs.Op) vfs.Fault {
		mu.Lock()
		defer mu.Unlock()
		if op.Kind == vfs.OpOpen && op.Path == filepath.Join(root, "dir") {
			known = true
		}
		if !known && op.Path == filepath.Join(root, "dir/key") {
			return vfs.Fault{Err: syscall.ENOENT}
		}
		return vfs.Fault{}
	}
	if p, err := get(t, d, "dir/key"); string(p) != "content" {
		t.Errorf("get: %q, %v", p, err)
	}
	forget()
	if _, err := d.Stat(t.Context(), "dir/key"); err != nil {
		t.Errorf("stat: %v", err)
	}
	forget()
	if err := d.Delete(t.Context(), "dir/key"); err != nil {
		t.Errorf("delete: %v", err)
	}
	tap.Before = nil
	if _, err := os.Stat(filepath.Join(root, "dir/key")); !os.IsNotExist(err) {
		t.Errorf("delete of a file the client did not see left it: %v", err)
	}
}

// TestReplacedWhileStale: a reader whose file has gone never goes on in another one.
func TestReplacedWhileStale(t *testing.T) {
	d, tap, _ := faulty(t)
	if err := d.Put(t.Context(), "key", blob.Bytes(bytes.Repeat([]byte("a"), 100_000))); err != nil {
		t.Fatal(err)
	}
	r, err := d.Get(t.Context(), "key", 0, -1)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if _, err := io.ReadFull(r, make([]byte, 1000)); err != nil {
		t.Fatal(err)
	}
	if err := d.Put(t.Context(), "key", blob.Bytes(bytes.Repeat([]byte("b"), 100_000))); err != nil {
		t.Fatal(err)
	}
	fired := once(tap, vfs.OpReadAt, "key", vfs.Fault{Err: syscall.ESTALE})
	if p, err := io.ReadAll(r); firn.KindOf(err) != firn.Unavailable || !fired() || bytes.Contains(p, []byte("b")) {
		t.Errorf("%d bytes, %v", len(p), err)
	}
}

func TestKindsOfErrors(t *testing.T) {
	for errno, want := range map[syscall.Errno]firn.Kind{
		syscall.ENOSPC: firn.NoSpace, syscall.EDQUOT: firn.NoSpace, syscall.EACCES: firn.Denied, syscall.EROFS: firn.Denied,
		syscall.ETIMEDOUT: firn.Unavailable, syscall.EIO: firn.Internal, syscall.EMFILE: firn.Unavailable,
	} {
		d, tap, root := faulty(t)
		once(tap, vfs.OpWrite, "", vfs.Fault{Err: &os.PathError{Op: "write", Path: "x", Err: errno}})
		if err := d.Put(t.Context(), "key", blob.Bytes([]byte("x"))); firn.KindOf(err) != want {
			t.Errorf("%v: %v (%v), want %v", errno, err, firn.KindOf(err), want)
		}
		if names, err := os.ReadDir(filepath.Join(root, tempName)); err != nil || len(names) != 0 {
			t.Errorf("%v left %v, %v", errno, names, err)
		}
	}
}

func TestWhatIsNoBlobIsNotListed(t *testing.T) {
	d, _, root := faulty(t)
	for _, name := range []string{".nfs000000000012", "dir/.nfs0000ff", "%zz", "dir/%2e", ".firn-other", tempName + "/0123"} {
		path := filepath.Join(root, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, nil, 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(os.Symlink("nowhere", filepath.Join(root, "link")), syscall.Mkfifo(filepath.Join(root, "pipe"), 0o600)); err != nil {
		t.Fatal(err)
	}
	if err := d.Put(t.Context(), "dir/key", blob.Bytes(nil)); err != nil {
		t.Fatal(err)
	}
	var keys []string
	err := d.List(t.Context(), "", func(info driver.Info) error { keys = append(keys, info.Key); return nil })
	if diff := cmp.Diff([]string{"dir/key"}, keys); err != nil || diff != "" {
		t.Errorf("%v\n%s", err, diff)
	}
}

func TestOldTemporaryFilesAreSwept(t *testing.T) {
	d, _, root := faulty(t)
	old, young := filepath.Join(root, tempName, "old"), filepath.Join(root, tempName, "young")
	for path, age := range map[string]time.Duration{old: layout.StaleAfter + time.Hour, young: layout.StaleAfter - time.Hour} {
		at := time.Now().Add(-age)
		if err := errors.Join(os.WriteFile(path, nil, 0o644), os.Chtimes(path, at, at)); err != nil {
			t.Fatal(err)
		}
	}
	if err := d.Put(t.Context(), "key", blob.Bytes(nil)); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(old); !os.IsNotExist(err) {
		t.Errorf("the file of a dead writer is still there: %v", err)
	}
	if _, err := os.Stat(young); err != nil {
		t.Errorf("the file of a living writer: %v", err)
	}
}

func TestMarker(t *testing.T) {
	dir := t.TempDir()
	for name, tt := range map[string]struct {
		file, text string
		open, init firn.Kind
	}{
		"another's":   {"photo.jpg", "x", firn.Unavailable, firn.Conflict},
		"of later on": {markerName, "firn place 2\n", firn.Unsupported, firn.Unsupported},
		"damaged":     {markerName, "\x00\x00", firn.Corrupt, firn.Corrupt},
	} {
		root := filepath.Join(dir, name)
		if err := errors.Join(os.Mkdir(root, 0o755), os.WriteFile(filepath.Join(root, tt.file), []byte(tt.text), 0o644)); err != nil {
			t.Fatal(err)
		}
		if _, err := New(t.Context(), Options{Root: root}); firn.KindOf(err) != tt.open {
			t.Errorf("%s: open: %v (%v)", name, err, firn.KindOf(err))
		}
		if err := Init(t.Context(), Options{Root: root}); firn.KindOf(err) != tt.init {
			t.Errorf("%s: init: %v (%v)", name, err, firn.KindOf(err))
		}
	}
}
