package readcache

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"firn"
	"firn/blob"
	"firn/blob/driver"
	"firn/blob/drivertest"
	"firn/blob/memblob"
)

func open(t *testing.T, inner driver.Driver, opt Options) *Cache {
	t.Helper()
	if opt.Dir == "" {
		opt.Dir = t.TempDir()
	}
	if opt.Budget == 0 {
		opt.Budget = 64 << 20
	}
	c, err := New(inner, opt)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func all(string) bool { return true }

func packs(key string) bool { return strings.HasPrefix(key, "packs/") }

// lasting is a place that outlives its drivers.
type lasting struct{ *memblob.Driver }

func (lasting) Close() error { return nil }

func TestConformance(t *testing.T) {
	for name, opt := range map[string]Options{
		"validated": {},
		"immutable": {Immutable: all},
		"some":      {Immutable: packs},
		"a bound":   {Stale: time.Minute},
		"small":     {Block: 512 << 10, Budget: 1100 << 10},
	} {
		t.Run(name, func(t *testing.T) {
			drivertest.Run(t, func(t *testing.T) driver.Driver {
				return open(t, memblob.New(memblob.Options{}), opt).Driver()
			}, drivertest.Expect(drivertest.Creator|drivertest.Batcher|drivertest.BulkDeleter|drivertest.Measurer|drivertest.Resumer),
				drivertest.Blobs(300), drivertest.Large(5<<20))
		})
	}
}

func get(d driver.Driver, key string, offset, length int64) ([]byte, error) {
	rc, err := d.Get(context.Background(), key, offset, length)
	if err != nil {
		return nil, err
	}
	p, err := io.ReadAll(rc)
	return p, errors.Join(err, rc.Close())
}

func put(t *testing.T, d driver.Driver, key string, p []byte) {
	t.Helper()
	if err := d.Put(t.Context(), key, blob.Bytes(p)); err != nil {
		t.Fatal(err)
	}
}

func want(t *testing.T, d driver.Driver, key string, p []byte) {
	t.Helper()
	if got, err := get(d, key, 0, -1); err != nil || !bytes.Equal(got, p) {
		t.Errorf("%s has %d bytes, %v, want %d", key, len(got), err, len(p))
	}
}

func pattern(seed uint64, n int) []byte {
	p := make([]byte, n)
	rng := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8)})
	_, _ = rng.Read(p)
	return p
}

// held is what the files in dir have together.
func held(t *testing.T, dir string) int64 {
	t.Helper()
	var sum int64
	err := filepath.WalkDir(dir, func(_ string, e fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil || e.IsDir() {
			return err
		}
		if fi, err := e.Info(); err == nil {
			sum += fi.Size()
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	return sum
}

// TestBudget reads far more than fits by many goroutines, and measures the directory meanwhile.
func TestBudget(t *testing.T) {
	mem := memblob.New(memblob.Options{})
	const budget = 300 << 10
	dir := t.TempDir()
	c := open(t, mem, Options{Dir: dir, Budget: budget, Block: 16 << 10})
	var blobs [][]byte
	for i := range 20 {
		blobs = append(blobs, pattern(uint64(i), 100_000))
		put(t, c, fmt.Sprint(i), blobs[i])
	}
	done := make(chan struct{})
	var watch, wg sync.WaitGroup
	watch.Go(func() {
		for {
			c.store.mu.Lock() // files do not get their names meanwhile, which would count them twice
			if n := held(t, dir); n > budget {
				t.Errorf("the directory holds %d bytes, more than %d", n, budget)
			}
			c.store.mu.Unlock()
			select {
			case <-done:
				return
			default:
			}
		}
	})
	for g := range 8 {
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(uint64(g), 0))
			for range 60 {
				i := rng.IntN(len(blobs))
				offset := rng.Int64N(100_000)
				p, err := get(c, fmt.Sprint(i), offset, 30_000)
				if err != nil || !bytes.Equal(p, blobs[i][offset:min(offset+30_000, 100_000)]) {
					t.Errorf("blob %d from %d: %d bytes, %v", i, offset, len(p), err)
				}
			}
		})
	}
	wg.Wait()
	close(done)
	watch.Wait()
	s := c.Stats()
	if s.Evicted == 0 || s.Hits == 0 || s.Misses == 0 || s.Held > budget || s.Held != held(t, dir) {
		t.Errorf("%+v, on disk %d", s, held(t, dir))
	}
}

// TestSurvivesRestart reads through a second cache on the same directory, with the place away.
func TestSurvivesRestart(t *testing.T) {
	for _, immutable := range []bool{false, true} {
		var gets atomic.Int64
		mem := lasting{memblob.New(memblob.Options{Before: func(_ context.Context, op memblob.Op) memblob.Fault {
			if op.Name == "get" {
				gets.Add(1)
			}
			return memblob.Fault{}
		}})}
		dir := t.TempDir()
		opt := Options{Dir: dir}
		if immutable {
			opt.Immutable = all
		}
		content := pattern(1, 3<<20+5)
		c := open(t, mem, opt)
		put(t, c, "k", content)
		want(t, c, "k", content)
		if _, err := New(mem, Options{Dir: dir, Budget: 1 << 30}); firn.KindOf(err) != firn.Conflict {
			t.Errorf("a second cache on the same directory: %v", err)
		}
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
		// What a crash leaves: a file half written, one of zeros, one cut, one of somebody else.
		var files []string
		_ = filepath.WalkDir(dir, func(path string, e fs.DirEntry, _ error) error {
			if _, ok := parseName(e.Name()); ok {
				files = append(files, path)
			}
			return nil
		})
		if len(files) != 4 {
			t.Fatalf("%d blocks are kept, want 4", len(files))
		}
		p, err := os.ReadFile(files[0])
		if err != nil {
			t.Fatal(err)
		}
		for path, q := range map[string][]byte{
			filepath.Join(dir, tempPrefix+"123"): p[:100],
			files[1]:                             make([]byte, len(p)),
			files[2]:                             p,
			filepath.Join(dir, "README"):         []byte("not ours"),
		} {
			if err := os.WriteFile(path, q, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		gets.Store(0)
		c = open(t, mem, opt)
		want(t, c, "k", content)
		if n, s := gets.Load(), c.Stats(); n != 2 || s.Damaged != 2 || s.Hits != 2 {
			t.Errorf("immutable %t: %d blocks were fetched, %+v; want 2 of 4", immutable, n, s)
		}
		if _, err := os.Stat(filepath.Join(dir, "README")); err != nil {
			t.Error("a file that is not the cache's was removed")
		}
		if _, err := os.Stat(filepath.Join(dir, tempPrefix+"123")); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("a half-written file is still there: %v", err)
		}
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
		// A smaller budget is kept from the start.
		opt.Budget = 2 << 20
		c = open(t, mem, opt)
		if got := c.Stats().Held; got > 2<<20 {
			t.Errorf("%d bytes after a restart with a smaller budget", got)
		}
		want(t, c, "k", content)
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// TestDamagedOnDisk flips a bit of every block while the cache is open.
func TestDamagedOnDisk(t *testing.T) {
	dir := t.TempDir()
	c := open(t, memblob.New(memblob.Options{}), Options{Dir: dir, Block: 64 << 10})
	content := pattern(2, 300_000)
	put(t, c, "k", content)
	want(t, c, "k", content)
	n := 0
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if _, ok := parseName(e.Name()); !ok || err != nil {
			return err
		}
		p, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		p[len(p)-1-n] ^= 1
		n++
		return os.WriteFile(path, p, 0o600)
	})
	if err != nil || n != 5 {
		t.Fatalf("%d blocks, %v", n, err)
	}
	want(t, c, "k", content)
	if s := c.Stats(); s.Damaged != 5 || s.Held != held(t, dir) {
		t.Errorf("%+v, on disk %d", s, held(t, dir))
	}
}

// TestSingleFlight lets many readers want the same blob while the place is slow.
func TestSingleFlight(t *testing.T) {
	begun, release := make(chan struct{}), make(chan struct{})
	var gets atomic.Int64
	mem := memblob.New(memblob.Options{Before: func(_ context.Context, op memblob.Op) memblob.Fault {
		if op.Name == "get" {
			if gets.Add(1) == 1 {
				close(begun)
			}
			<-release
		}
		return memblob.Fault{}
	}})
	c := open(t, mem, Options{})
	content := pattern(3, 1000)
	put(t, c, "k", content)
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() { want(t, c, "k", content) })
	}
	<-begun // the first is on its way
	// A waiter whose context ends does not wait.
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := c.Get(ctx, "k", 0, -1); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled waiter: %v", err)
	}
	close(release)
	wg.Wait()
	if n := gets.Load(); n != 1 {
		t.Errorf("the block was fetched %d times", n)
	}
}

// TestValidation changes a blob behind the cache's back.
func TestValidation(t *testing.T) {
	for _, c := range []struct {
		name string
		opt  Options
		old  bool
	}{
		{"each read", Options{}, false},
		{"within the bound", Options{Stale: time.Hour}, true},
		{"beyond the bound", Options{Stale: time.Nanosecond}, false},
		{"immutable", Options{Immutable: all}, true},
		{"others are immutable", Options{Immutable: packs}, false},
	} {
		mem := memblob.New(memblob.Options{})
		cache := open(t, mem, c.opt)
		one, two := pattern(1, 100_000), pattern(2, 100_000)
		put(t, mem, "k", one)
		want(t, cache, "k", one)
		put(t, mem, "k", two)
		if c.old {
			want(t, cache, "k", one)
		} else {
			want(t, cache, "k", two)
		}
		// An own change is seen at once.
		put(t, cache, "k", two)
		want(t, cache, "k", two)
		if err := cache.Delete(t.Context(), "k"); err != nil {
			t.Fatal(err)
		}
		if _, err := get(cache, "k", 0, -1); firn.KindOf(err) != firn.NotFound {
			t.Errorf("%s: a deleted blob: %v", c.name, err)
		}
	}
}

// TestNoTimes holds that a place without times is not cached, unless its blobs never change.
func TestNoTimes(t *testing.T) {
	mem := memblob.New(memblob.Options{Now: func() time.Time { return time.Time{} }})
	c := open(t, mem, Options{})
	put(t, mem, "k", []byte("one"))
	want(t, c, "k", []byte("one"))
	put(t, mem, "k", []byte("two"))
	want(t, c, "k", []byte("two"))
	if s := c.Stats(); s.Held != 0 {
		t.Errorf("%+v", s)
	}
}

// TestNeverMixes replaces a blob by another client's put while it is read block by block.
func TestNeverMixes(t *testing.T) {
	mem := memblob.New(memblob.Options{})
	c := open(t, mem, Options{Block: 64 << 10})
	one, two := pattern(1, 500_000), pattern(2, 500_000)
	put(t, mem, "k", one)
	rc, err := c.Get(t.Context(), "k", 0, -1)
	if err != nil {
		t.Fatal(err)
	}
	defer rc.Close()
	if _, err := io.ReadFull(rc, make([]byte, 1000)); err != nil {
		t.Fatal(err)
	}
	put(t, mem, "k", two)
	if _, err := io.ReadAll(rc); firn.KindOf(err) != firn.Unavailable {
		t.Errorf("got %v, want the read to fail", err)
	}
	want(t, c, "k", two)
}

// TestUselessDirectory holds that reads go on when the directory cannot be written or read any more.
func TestUselessDirectory(t *testing.T) {
	dir := t.TempDir()
	c := open(t, memblob.New(memblob.Options{}), Options{Dir: dir})
	content := pattern(1, 100_000)
	put(t, c, "k", content)
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(dir, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	want(t, c, "k", content)
	want(t, c, "k", content)
	if s := c.Stats(); s.Refused != 2 || s.Held != 0 {
		t.Errorf("%+v", s)
	}
}

func TestRefusesWrongSettings(t *testing.T) {
	mem := memblob.New(memblob.Options{})
	for _, opt := range []Options{
		{Budget: 1 << 30},
		{Dir: t.TempDir(), Budget: 1 << 20},
		{Dir: t.TempDir(), Budget: 1 << 30, Block: 100},
		{Dir: t.TempDir(), Budget: 1 << 30, Stale: -1},
	} {
		if _, err := New(mem, opt); firn.KindOf(err) != firn.Invalid {
			t.Errorf("%+v: %v", opt, err)
		}
	}
}

func FuzzParseName(f *testing.F) {
	f.Add(blockID{version: 5, index: 7}.name())
	f.Fuzz(func(t *testing.T, s string) {
		if id, ok := parseName(s); ok && id.name() != s {
			t.Errorf("%q is taken for %q", s, id.name())
		}
	})
}
