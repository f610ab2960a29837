package cryptfs

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"testing"

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
