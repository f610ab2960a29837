package block_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"testing"
	"testing/iotest"

	"firn"
	"firn/block"
	"firn/seal"
	"firn/vfs"
)

// outboardOf writes a part and returns its outboard, its stored bytes and its file.
func outboardOf(t testing.TB, content []byte, o block.WriterOptions) (outboard, stored, file []byte) {
	t.Helper()
	fsys := vfs.NewMem()
	info := writePart(t, fsys, "p", content, 1<<20, o)
	file = readAll(t, fsys, "p")
	out, err := openPart(t, fsys, "p").Outboard()
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if n, err := openPart(t, fsys, "p").WriteStored(t.Context(), &b, 0, info.Size); err != nil || n != info.Size {
		t.Fatalf("WriteStored = %d, %v", n, err)
	}
	if !bytes.Equal(b.Bytes(), file[:info.Size]) {
		t.Fatal("WriteStored gives other bytes than are stored")
	}
	return out, b.Bytes(), file
}

func outboardCases() map[string]block.WriterOptions {
	return map[string]block.WriterOptions{
		"plain":  {BlockSize: 4 << 10, Label: []byte("bucket/key")},
		"sealed": {BlockSize: 4 << 10, Label: []byte("l"), Key: &seal.Key{7}},
	}
}

func TestOutboardReadsAndRestores(t *testing.T) {
	for name, opt := range outboardCases() {
		sizes := []int{0, 1, 4 << 10, 600<<10 + 5}
		if opt.Key != nil {
			sizes = append(sizes, 14<<20) // an index too large to keep
		}
		for _, size := range sizes {
			t.Run(fmt.Sprint(name, " ", size), func(t *testing.T) {
				content := pattern(size)
				raw, stored, file := outboardOf(t, content, opt)
				if max := 200 + size/(4<<10)*20; len(raw) > max {
					t.Errorf("the outboard has %d bytes", len(raw))
				}
				o, err := block.OpenOutboard(raw, "p")
				if err != nil {
					t.Fatal(err)
				}
				fsys := vfs.NewMem()
				f := create(t, fsys, "again")
				if err := o.Restore(t.Context(), bytes.NewReader(stored), f); err != nil {
					t.Fatal(err)
				}
				if !bytes.Equal(readAll(t, fsys, "again"), file) {
					t.Error("the file made again differs")
				}
				if opt.Key != nil && size > 0 {
					if _, err := o.WriteRange(t.Context(), bytes.NewReader(stored), io.Discard, 0, 1); !errors.Is(err, block.ErrSealed) {
						t.Errorf("without the key: %v", err)
					}
				}
				if opt.Key != nil {
					o.Reader().Unseal(opt.Key)
				}
				for _, r := range [][2]int{{0, size}, {size / 3, size / 2}, {size, 0}, {max(0, size-5), min(5, size)}} {
					start, n, err := o.Span(int64(r[0]), int64(r[1]))
					if err != nil {
						t.Fatal(err)
					}
					var b bytes.Buffer
					data := iotest.HalfReader(bytes.NewReader(stored[start : start+n]))
					k, err := o.WriteRange(t.Context(), data, &b, int64(r[0]), int64(r[1]))
					if err != nil || k != int64(r[1]) || !bytes.Equal(b.Bytes(), content[r[0]:r[0]+r[1]]) {
						t.Errorf("range %v: %d, %v", r, k, err)
					}
				}
				if _, _, err := o.Span(1, int64(size)); firn.KindOf(err) != firn.Invalid {
					t.Errorf("Span beyond the end: %v", err)
				}
			})
		}
	}
}

// TestOutboardFindsWrongBytes gives wrong bytes of each kind: none gets out, and no file is made of them.
func TestOutboardFindsWrongBytes(t *testing.T) {
	for name, opt := range outboardCases() {
		content := pattern(40 << 10)
		raw, stored, _ := outboardOf(t, content, opt)
		o, err := block.OpenOutboard(raw, "p")
		if err != nil {
			t.Fatal(err)
		}
		if opt.Key != nil {
			o.Reader().Unseal(opt.Key)
		}
		flipped := bytes.Clone(stored)
		flipped[20<<10] ^= 1
		for what, tt := range map[string]struct {
			data io.Reader
			kind firn.Kind
		}{
			"flipped":                {bytes.NewReader(flipped), firn.Corrupt},
			"cut at a block":         {bytes.NewReader(stored[:32<<10]), firn.Corrupt},
			"cut inside a block":     {bytes.NewReader(stored[:33<<10]), firn.Corrupt},
			"empty":                  {bytes.NewReader(nil), firn.Corrupt},
			"another content":        {bytes.NewReader(make([]byte, 40<<10)), firn.Corrupt},
			"shifted":                {bytes.NewReader(append([]byte{0}, stored...)), firn.Corrupt},
			"a connection that ends": {io.MultiReader(bytes.NewReader(stored[:9<<10]), iotest.ErrReader(io.ErrUnexpectedEOF)), firn.Internal},
			"a connection that fails": {
				io.MultiReader(bytes.NewReader(stored[:8<<10]), iotest.ErrReader(firn.NewError(firn.Unavailable, "gone"))), firn.Unavailable,
			},
		} {
			var b bytes.Buffer
			n, err := o.WriteRange(t.Context(), tt.data, &b, 0, 40<<10)
			if firn.KindOf(err) != tt.kind || n != int64(b.Len()) || !bytes.Equal(b.Bytes(), content[:b.Len()]) {
				t.Errorf("%s, %s: %d bytes, %v (%v)", name, what, n, err, firn.KindOf(err))
			}
		}
		fsys := vfs.NewMem()
		if err := o.Restore(t.Context(), bytes.NewReader(flipped), create(t, fsys, "f")); firn.KindOf(err) != firn.Corrupt {
			t.Errorf("%s: Restore of wrong bytes: %v", name, err)
		}
		if err := o.Restore(t.Context(), bytes.NewReader(stored[:32<<10]), create(t, fsys, "g")); firn.KindOf(err) != firn.Corrupt {
			t.Errorf("%s: Restore of too few bytes: %v", name, err)
		}
		for i := range raw {
			bad := bytes.Clone(raw)
			bad[i] ^= 0x10
			o, err := block.OpenOutboard(bad, "p")
			if err == nil {
				if i >= len(raw)-8-4 || i < len(raw)-96 { // of what the trailer holds, its own checksum speaks
					t.Errorf("%s: byte %d of the outboard flipped and not found: %+v", name, i, o.Reader().Info())
				}
			} else if k := firn.KindOf(err); k != firn.Corrupt && k != firn.Unsupported {
				t.Errorf("%s: byte %d: %v", name, i, err)
			}
		}
	}
}

func TestInlineOutboard(t *testing.T) {
	plain := []byte("hello")
	key := &seal.Key{1}
	for name, stored := range map[string][]byte{
		"plain": block.AppendInline(nil, plain), "sealed": block.AppendSealedInline(nil, plain, key), "empty": block.AppendInline(nil, nil),
	} {
		out, err := block.InlineOutboard(stored)
		if err != nil {
			t.Fatal(err)
		}
		data, err := block.InlineData(stored)
		if err != nil {
			t.Fatal(err)
		}
		again, err := block.RestoreInline(out, bytes.NewReader(data), int64(len(data)))
		if err != nil || !bytes.Equal(again, stored) {
			t.Errorf("%s: %x and %x make %x, %v", name, out, data, again, err)
		}
		if len(data) > 0 {
			data = bytes.Clone(data)
			data[0] ^= 1
			if _, err := block.RestoreInline(out, bytes.NewReader(data), int64(len(data))); firn.KindOf(err) != firn.Corrupt {
				t.Errorf("%s: wrong bytes: %v", name, err)
			}
			if _, err := block.RestoreInline(out, bytes.NewReader(data[1:]), int64(len(data))); firn.KindOf(err) != firn.Corrupt {
				t.Errorf("%s: too few bytes: %v", name, err)
			}
			cut := io.MultiReader(bytes.NewReader(data[1:]), iotest.ErrReader(io.ErrUnexpectedEOF))
			if _, err := block.RestoreInline(out, cut, int64(len(data))); firn.KindOf(err) != firn.Internal {
				t.Errorf("%s: a connection that ends: %v", name, err)
			}
		}
	}
	if _, err := block.InlineOutboard([]byte("no")); firn.KindOf(err) != firn.Corrupt {
		t.Errorf("no inline value: %v", err)
	}
}

func FuzzOutboard(f *testing.F) {
	for _, opt := range outboardCases() {
		raw, _, _ := outboardOf(f, pattern(9000), opt)
		f.Add(raw)
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		o, err := block.OpenOutboard(raw, "p")
		if err != nil {
			return
		}
		size := o.Reader().Info().Size
		_, _, _ = o.Span(0, size)
		if size > 0 {
			_, _ = o.WriteStored(t.Context(), bytes.NewReader(make([]byte, 100)), io.Discard, 0, size)
		}
	})
}
