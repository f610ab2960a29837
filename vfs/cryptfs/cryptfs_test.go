package cryptfs

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"syscall"
	"testing"

	pebblevfs "github.com/cockroachdb/pebble/v2/vfs"

	"firn"
	"firn/seal"
	"firn/vfs"
)

func content(n int) []byte {
	p := make([]byte, n)
	r := rand.New(rand.NewPCG(1, 2))
	for i := range p {
		p[i] = "abcdefgh"[r.IntN(8)]
	}
	return p
}

func write(t *testing.T, fsys vfs.FS, name string, p []byte, piece int) {
	t.Helper()
	f, err := fsys.Create(name, vfs.CategoryPart)
	if err != nil {
		t.Fatal(err)
	}
	for len(p) > 0 {
		n := min(piece, len(p))
		if k, err := f.Write(p[:n]); err != nil || k != n {
			t.Fatalf("%d, %v", k, err)
		}
		p = p[n:]
	}
	if err := errors.Join(f.Sync(), f.Close()); err != nil {
		t.Fatal(err)
	}
}

func read(t *testing.T, fsys vfs.FS, name string) []byte {
	t.Helper()
	f, err := fsys.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b, err := io.ReadAll(f)
	if err != nil {
		t.Fatal(err)
	}
	fi, err := f.Stat()
	if err != nil || fi.Size() != int64(len(b)) {
		t.Fatalf("size %d of %d bytes, %v", fi.Size(), len(b), err)
	}
	return b
}

func TestFiles(t *testing.T) {
	mem := vfs.NewMem()
	fsys := New(mem, seal.Key{1})
	for _, n := range []int{0, 1, 15, 16, 17, 4095, 4096, 300_000, 600_001} {
		for _, piece := range []int{13, 1 << 20} {
			if n > 10_000 && piece == 13 {
				continue
			}
			want := content(n)
			write(t, fsys, "f", want, piece)
			if got := read(t, fsys, "f"); !bytes.Equal(got, want) {
				t.Fatalf("%d bytes in pieces of %d: other bytes", n, piece)
			}
			if raw := read(t, mem, "f"); n > 15 && bytes.Contains(raw, want[:16]) {
				t.Errorf("%d bytes: in the clear below", n)
			}
			f, err := fsys.Open("f")
			if err != nil {
				t.Fatal(err)
			}
			for off := 0; off < n; off += 1 + n/37 {
				p := make([]byte, min(100, n-off))
				if _, err := f.ReadAt(p, int64(off)); err != nil || !bytes.Equal(p, want[off:off+len(p)]) {
					t.Fatalf("%d bytes at %d: %v", n, off, err)
				}
			}
			if _, err := f.Write([]byte("x")); firn.KindOf(err) != firn.Unsupported {
				t.Errorf("write to what was opened: %v", err)
			}
			f.Close()
			if fi, err := fsys.Stat("f"); err != nil || fi.Size() != int64(n) {
				t.Errorf("size %v, %v", fi, err)
			}
		}
	}
}

func TestKeysAndDamage(t *testing.T) {
	mem := vfs.NewMem()
	fsys := New(mem, seal.Key{1})
	write(t, fsys, "a", content(100), 100)
	write(t, fsys, "b", content(100), 100)
	if a, b := read(t, mem, "a"), read(t, mem, "b"); bytes.Equal(a[headerSize:], b[headerSize:]) {
		t.Error("two files have one key stream")
	}
	if _, err := New(mem, seal.Key{2}).Open("a"); firn.KindOf(err) != firn.Denied {
		t.Errorf("another key: %v", err)
	}
	raw := read(t, mem, "a")
	for name, c := range map[string]struct {
		change func(p []byte) []byte
		want   firn.Kind
	}{
		"magic":   {func(p []byte) []byte { p[0] ^= 1; return p }, firn.Corrupt},
		"version": {func(p []byte) []byte { p[8] = 2; return p }, firn.Unsupported},
		"salt":    {func(p []byte) []byte { p[saltAt] ^= 1; return p }, firn.Denied},
	} {
		write(t, mem, "bad", c.change(bytes.Clone(raw)), 1<<20)
		if _, err := fsys.Open("bad"); firn.KindOf(err) != c.want {
			t.Errorf("%s: %v", name, err)
		}
	}
	write(t, mem, "bad", raw[:100], 100)
	if got := read(t, fsys, "bad"); len(got) != 0 {
		t.Errorf("a file cut off in its header has %d bytes", len(got))
	}
}

func TestReuse(t *testing.T) {
	mem := vfs.NewMem()
	fsys := New(mem, seal.Key{1})
	write(t, fsys, "old", content(1000), 1000)
	before := read(t, mem, "old")
	f, err := fsys.ReuseForWrite("old", "new", vfs.CategoryPart)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Write(content(1000)); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if after := read(t, mem, "new"); bytes.Equal(before[headerSize:], after[headerSize:]) {
		t.Error("the key stream is used twice")
	}
	if _, err := fsys.Stat("old"); err == nil {
		t.Error("the old file is there")
	}
}

// TestPowerLoss loses half of the pages that were not synced, at every moment: what was synced is there, and a file that
// was written to always tells its salt.
func TestPowerLoss(t *testing.T) {
	seed := rand.Uint64()
	rng := rand.New(rand.NewPCG(seed, 0))
	for round := range 50 {
		mem := vfs.NewCrashableMem()
		fsys := New(mem, seal.Key{1})
		f, err := fsys.Create("f", vfs.CategoryState)
		if err != nil {
			t.Fatal(err)
		}
		if err := vfs.SyncDir(mem, ""); err != nil {
			t.Fatal(err)
		}
		want := content(20_000)
		for done, synced := 0, 0; done < len(want); {
			n := min(1+rng.IntN(5000), len(want)-done)
			if _, err := f.Write(want[done : done+n]); err != nil {
				t.Fatal(err)
			}
			done += n
			if rng.IntN(3) == 0 {
				if err := f.Sync(); err != nil {
					t.Fatal(err)
				}
				synced = done
			}
			crashed := &vfs.MemFS{MemFS: mem.CrashClone(pebblevfs.CrashCloneCfg{UnsyncedDataPercent: 50, RNG: rng})}
			got := read(t, New(crashed, seal.Key{1}), "f")
			if len(got) < synced || len(got) > done || !bytes.Equal(got[:synced], want[:synced]) {
				t.Fatalf("seed %d, round %d: %d bytes, %d synced of %d written", seed, round, len(got), synced, done)
			}
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// TestHeadThatCannotBeSynced writes nothing after a head whose sync failed, whether it was done or not.
func TestHeadThatCannotBeSynced(t *testing.T) {
	for _, applied := range []bool{false, true} {
		tap := vfs.NewTap(vfs.NewMem())
		syncs := 0
		tap.Before = func(op vfs.Op) vfs.Fault {
			if op.Kind != vfs.OpSync {
				return vfs.Fault{}
			}
			syncs++
			return vfs.Fault{Err: syscall.EIO, Applied: applied}
		}
		f, err := New(tap, seal.Key{1}).Create("f", vfs.CategoryState)
		if err != nil {
			t.Fatal(err)
		}
		for range 2 {
			if n, err := f.Write(content(100)); n != 0 || !errors.Is(err, syscall.EIO) {
				t.Errorf("%d, %v", n, err)
			}
		}
		if syncs != 1 {
			t.Errorf("%d syncs: a failed one must not be tried again", syncs)
		}
		if fi, err := tap.Stat("f"); err != nil || fi.Size() != headerSize {
			t.Errorf("%v, %v", fi, err)
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
	}
}
