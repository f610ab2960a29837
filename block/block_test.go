package block_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"testing"

	"github.com/zeebo/blake3"

	"firn"
	"firn/block"
	"firn/vfs"
)

// pattern returns n bytes that differ from block to block.
func pattern(n int) []byte {
	p := make([]byte, n)
	r := rand.NewChaCha8([32]byte{1})
	_, _ = r.Read(p)
	return p
}

func create(t testing.TB, fsys vfs.FS, name string) vfs.File {
	t.Helper()
	f, err := fsys.Create(name, vfs.CategoryPart)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// writePart writes content in pieces of the given size.
func writePart(t testing.TB, fsys vfs.FS, name string, content []byte, piece int, o block.WriterOptions) block.Info {
	t.Helper()
	f := create(t, fsys, name)
	defer f.Close()
	w, err := block.NewWriter(f, o)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Abort()
	for p := content; len(p) > 0; {
		n := min(piece, len(p))
		if _, err := w.Write(p[:n]); err != nil {
			t.Fatal(err)
		}
		p = p[n:]
	}
	info, err := w.Finish()
	if err != nil {
		t.Fatal(err)
	}
	return info
}

func openPart(t testing.TB, fsys vfs.FS, name string) *block.Reader {
	t.Helper()
	f, err := fsys.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	r, err := block.Open(f, name)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestRoundTrip(t *testing.T) {
	const bs = 4 << 10
	sizes := []int{0, 1, bs - 1, bs, bs + 1, 256 << 10, 256<<10 + 1, 3<<20 + 777}
	for _, size := range sizes {
		for _, piece := range []int{1000, 64 << 10, 300 << 10, 8 << 20} {
			t.Run(fmt.Sprintf("%d by %d", size, piece), func(t *testing.T) {
				fsys := vfs.NewMem()
				content := pattern(size)
				label := []byte("bucket/key")
				info := writePart(t, fsys, "p", content, piece, block.WriterOptions{BlockSize: bs, Label: label})
				r := openPart(t, fsys, "p")
				if got := r.Info(); got != info {
					t.Errorf("Info read %+v, written %+v", got, info)
				}
				if info.BLAKE3 != blake3.Sum256(content) || info.Size != int64(size) {
					t.Errorf("Info = %+v", info)
				}
				fi, err := fsys.Stat("p")
				if err != nil || fi.Size() != info.Stored {
					t.Errorf("file is %v bytes (%v), Info says %d", fi.Size(), err, info.Stored)
				}
				if !bytes.Equal(r.Label(), label) {
					t.Errorf("label %q", r.Label())
				}
				if err := r.Verify(t.Context(), nil); err != nil {
					t.Errorf("Verify: %v", err)
				}
				rng := rand.New(rand.NewPCG(1, uint64(size)))
				for range 20 {
					off := rng.Int64N(int64(size) + 1)
					n := rng.Int64N(int64(size) - off + 1)
					var b bytes.Buffer
					k, err := r.WriteRange(t.Context(), &b, off, n)
					if err != nil || k != n || !bytes.Equal(b.Bytes(), content[off:off+n]) {
						t.Fatalf("WriteRange(%d, %d) = %d, %v", off, n, k, err)
					}
					p := make([]byte, n+5)
					m, err := r.ReadAt(p, off)
					if !errors.Is(err, io.EOF) && n+5 > int64(size)-off {
						t.Fatalf("ReadAt past the end: %v", err)
					}
					if !bytes.Equal(p[:m], content[off:off+int64(m)]) {
						t.Fatalf("ReadAt(%d) differs", off)
					}
				}
			})
		}
	}
}

func TestReadFrom(t *testing.T) {
	fsys := vfs.NewMem()
	content := pattern(700<<10 + 3)
	f := create(t, fsys, "p")
	w, err := block.NewWriter(f, block.WriterOptions{Sum: func() [32]byte { return blake3.Sum256(content) }})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(content[:10]); err != nil {
		t.Fatal(err)
	}
	n, err := io.Copy(w, onlyReader{bytes.NewReader(content[10:])})
	if err != nil || n != int64(len(content)-10) {
		t.Fatalf("Copy = %d, %v", n, err)
	}
	if _, err := w.Finish(); err != nil {
		t.Fatal(err)
	}
	f.Close()
	r := openPart(t, fsys, "p")
	if err := r.Verify(context.Background(), nil); err != nil {
		t.Error(err)
	}
	var b bytes.Buffer
	if _, err := r.WriteRange(t.Context(), &b, 0, r.Info().Size); err != nil || !bytes.Equal(b.Bytes(), content) {
		t.Errorf("content differs: %v", err)
	}
}

type onlyReader struct{ io.Reader }

func TestInline(t *testing.T) {
	plain := []byte("hello")
	stored := block.AppendInline([]byte("xx"), plain)[2:]
	got, err := block.OpenInline(stored)
	if err != nil || !bytes.Equal(got, plain) {
		t.Fatalf("OpenInline = %q, %v", got, err)
	}
	if n := testing.AllocsPerRun(100, func() { _, _ = block.OpenInline(stored) }); n != 0 {
		t.Errorf("OpenInline allocates %v times", n)
	}
	h := block.InlineHeader(plain)
	if !bytes.Equal(append(h[:], plain...), stored) {
		t.Error("InlineHeader differs from AppendInline")
	}
	for i := range len(stored) * 8 {
		bad := bytes.Clone(stored)
		bad[i/8] ^= 1 << (i % 8)
		if _, err := block.OpenInline(bad); err == nil {
			t.Errorf("bit %d flipped and not found", i)
		} else if k := firn.KindOf(err); k != firn.Corrupt && k != firn.Unsupported {
			t.Errorf("bit %d: kind %v", i, k)
		}
	}
}
