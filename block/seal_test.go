package block_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
	"testing"
	"testing/iotest"

	"firn"
	"firn/block"
	"firn/seal"
	"firn/vfs"
)

func testKey(n byte) *seal.Key { return &seal.Key{n, 1, 2, 3} }

// openSealed opens the bytes of a part with a key.
func openSealed(t testing.TB, file []byte, key *seal.Key) (*block.Reader, error) {
	t.Helper()
	f := memFile(t, file)
	t.Cleanup(func() { f.Close() })
	r, err := block.Open(f, "p")
	if err == nil && key != nil {
		r.Unseal(key)
	}
	return r, err
}

func TestSealedRoundTrip(t *testing.T) {
	const bs = 4 << 10
	for _, n := range []int{0, 1, bs - 1, bs, bs + 1, 256 << 10, 256<<10 + 1, 512 << 10, 700_000} {
		content := pattern(n)
		for _, piece := range []int{977, 256 << 10, 1 << 20} {
			fsys := vfs.NewMem()
			info := writePart(t, fsys, "p", content, piece, block.WriterOptions{BlockSize: bs, Key: testKey(1), Label: []byte("l")})
			if info.Codec != block.CodecAESGCM || info.Size != int64(n) {
				t.Fatalf("%d bytes: %+v", n, info)
			}
			file := readAll(t, fsys, "p")
			if n > 64 && bytes.Contains(file, content[:64]) {
				t.Fatalf("%d bytes: the file holds the content in the clear", n)
			}
			r, err := openSealed(t, file, nil)
			if err != nil {
				t.Fatal(err)
			}
			if err := r.Verify(t.Context(), nil); err != nil {
				t.Errorf("%d bytes: Verify without the key: %v", n, err)
			}
			if _, err := r.WriteRange(t.Context(), io.Discard, 0, int64(n)); n > 0 && !errors.Is(err, block.ErrSealed) {
				t.Errorf("%d bytes: read without the key: %v", n, err)
			}
			r.Unseal(testKey(1))
			if err := r.Verify(t.Context(), nil); err != nil {
				t.Errorf("%d bytes: Verify: %v", n, err)
			}
			for _, off := range []int{0, 1, bs - 1, bs, n / 2, n - 1} {
				for _, length := range []int{1, bs, 300 << 10, n} {
					if off < 0 || off >= n {
						continue
					}
					length = min(length, n-off)
					var got bytes.Buffer
					if _, err := r.WriteRange(t.Context(), &got, int64(off), int64(length)); err != nil {
						t.Fatalf("%d bytes: range %d+%d: %v", n, off, length, err)
					}
					if !bytes.Equal(got.Bytes(), content[off:off+length]) {
						t.Fatalf("%d bytes: range %d+%d is wrong", n, off, length)
					}
				}
			}
		}
	}
}

func TestSealedReadFrom(t *testing.T) {
	content := pattern(600_000)
	fsys := vfs.NewMem()
	f := create(t, fsys, "p")
	w, err := block.NewWriter(f, block.WriterOptions{Key: testKey(1)})
	if err != nil {
		t.Fatal(err)
	}
	if n, err := w.ReadFrom(iotest.HalfReader(bytes.NewReader(content))); err != nil || n != int64(len(content)) {
		t.Fatalf("%d, %v", n, err)
	}
	if _, err := w.Finish(); err != nil {
		t.Fatal(err)
	}
	r, err := openSealed(t, readAll(t, fsys, "p"), testKey(1))
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Verify(t.Context(), nil); err != nil {
		t.Error(err)
	}
}

// forge gives a part file a footer that fits its blocks, as someone with the disk and the format's page can: blocks
// are the numbers of the original's blocks in their new order.
func forge(file []byte, blockSize int, blocks []int) []byte {
	le := binary.LittleEndian
	table := crc32.MakeTable(crc32.Castagnoli)
	old := file[len(file)-96:]
	size, entries := int(le.Uint64(old[32:])), file[le.Uint64(old[40:]):]
	var data, index []byte
	for _, b := range blocks {
		data = append(data, file[b*blockSize:min((b+1)*blockSize, size)]...)
		index = append(index, entries[b*20:(b+1)*20]...)
	}
	tr := bytes.Clone(old)
	le.PutUint64(tr[32:], uint64(len(data)))
	le.PutUint64(tr[40:], uint64(len(data)))
	le.PutUint32(tr[52:], uint32(len(blocks)))
	le.PutUint32(tr[56:], uint32(len(index)))
	le.PutUint32(tr[60:], 0) // no label
	le.PutUint32(tr[64:], crc32.Checksum(index, table))
	le.PutUint32(tr[68:], 0)
	le.PutUint32(tr[76:], 0) // no padding
	le.PutUint32(tr[84:], crc32.Checksum(tr[:84], table))
	return append(append(data, index...), tr...)
}

// TestForged changes a part in ways that its checksums do not show.
func TestForged(t *testing.T) {
	const bs = 4 << 10
	o := block.WriterOptions{BlockSize: bs, Key: testKey(1)}
	file := partBytes(t, pattern(4*bs), o)
	read := func(file []byte, key *seal.Key) error {
		r, err := openSealed(t, file, key)
		if err != nil {
			t.Fatalf("the forgery does not open: %v", err)
		}
		if err := r.Verify(t.Context(), nil); err == nil {
			t.Error("Verify passes")
		}
		_, err = r.WriteRange(t.Context(), io.Discard, 0, r.Info().Size)
		return err
	}
	same, err := openSealed(t, forge(file, bs, []int{0, 1, 2, 3}), testKey(1))
	if err != nil {
		t.Fatal(err)
	}
	if err := same.Verify(t.Context(), nil); err != nil {
		t.Fatalf("unchanged blocks: %v", err)
	}
	for name, blocks := range map[string][]int{
		"swapped": {1, 0, 2, 3}, "cut short": {0, 1, 2}, "first cut off": {1, 2, 3}, "repeated": {0, 1, 1, 3},
		"longer": {0, 1, 2, 3, 3},
	} {
		var broken *block.CorruptError
		if err := read(forge(file, bs, blocks), testKey(1)); !errors.As(err, &broken) || broken.What != "seal" {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := read(file, testKey(2)); firn.KindOf(err) != firn.Corrupt {
		t.Errorf("another key: %v", err)
	}
	// A byte changed, and its checksum with it.
	bad := bytes.Clone(file)
	bad[10] ^= 1
	binary.LittleEndian.PutUint32(bad[4*bs:], crc32.Checksum(bad[:bs], crc32.MakeTable(crc32.Castagnoli)))
	if err := read(forge(bad, bs, []int{0, 1, 2, 3}), testKey(1)); firn.KindOf(err) != firn.Corrupt {
		t.Errorf("a byte changed: %v", err)
	}
}

func TestSealedInline(t *testing.T) {
	for _, n := range []int{0, 1, 4096} {
		content := pattern(n)
		stored := block.AppendSealedInline([]byte("x"), content, testKey(1))[1:]
		if len(stored) != n+block.SealedInlineOverhead || n > 16 && bytes.Contains(stored, content[:16]) {
			t.Fatalf("%d bytes: stored as %d, or in the clear", n, len(stored))
		}
		sealed, err := block.OpenInline(stored)
		if !errors.Is(err, block.ErrSealed) {
			t.Fatalf("%d bytes: %v", n, err)
		}
		if _, err := block.UnsealInline(bytes.Clone(sealed), testKey(2)); firn.KindOf(err) != firn.Corrupt {
			t.Errorf("%d bytes: another key: %v", n, err)
		}
		got, err := block.UnsealInline(sealed, testKey(1))
		if err != nil || !bytes.Equal(got, content) {
			t.Errorf("%d bytes: %v", n, err)
		}
	}
}

// FuzzSealed opens arbitrary files with a key: what reads without an error is what was sealed.
func FuzzSealed(f *testing.F) {
	const bs = 4 << 10
	content := pattern(3 * bs)
	file := partBytes(f, content, block.WriterOptions{BlockSize: bs, Key: testKey(1)})
	f.Add(uint16(7), byte(1), byte(0), byte(1))
	f.Add(uint16(3*bs+3), byte(9), byte(2), byte(0))
	f.Fuzz(func(t *testing.T, at uint16, with, first, second byte) {
		bad := bytes.Clone(file)
		bad[int(at)%len(bad)] ^= with
		bad = forge(bad, bs, []int{int(first) % 3, int(second) % 3, 2})
		r, err := openSealed(t, bad, testKey(1))
		if err != nil {
			return
		}
		var got bytes.Buffer
		if _, err := r.WriteRange(t.Context(), &got, 0, r.Info().Size); err == nil && !bytes.Equal(got.Bytes(), content) {
			t.Fatal("something else was read than was sealed")
		}
	})
}
