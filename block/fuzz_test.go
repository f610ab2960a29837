package block_test

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"io"
	"syscall"
	"testing"

	"firn"
	"firn/block"
)

var errNoSpace error = syscall.ENOSPC

// FuzzOpen opens arbitrary files. Whatever opens can be read, or fails, within its stated size.
func FuzzOpen(f *testing.F) {
	for _, n := range []int{0, 1, 5000, 70 << 10} {
		f.Add(partBytes(f, pattern(n), block.WriterOptions{BlockSize: 4 << 10, Label: []byte("label")}), false)
	}
	f.Add(partBytes(f, pattern(100), block.WriterOptions{}), true)
	f.Fuzz(func(t *testing.T, file []byte, fix bool) {
		if fix && len(file) >= 96 {
			// Give the trailer a valid checksum, to reach what is behind it.
			file = bytes.Clone(file)
			tr := file[len(file)-96:]
			binary.LittleEndian.PutUint32(tr[84:], crc32.Checksum(tr[:84], crc32.MakeTable(crc32.Castagnoli)))
			copy(tr[88:], "firnPART")
		}
		file2 := memFile(t, file)
		defer file2.Close()
		r, err := block.Open(file2, "fuzz")
		if err != nil {
			if k := firn.KindOf(err); k != firn.Corrupt && k != firn.Unsupported {
				t.Fatalf("Open = %v of kind %v", err, k)
			}
			return
		}
		info := r.Info()
		if info.Size > int64(len(file)) || info.Stored != int64(len(file)) {
			t.Fatalf("a file of %d bytes says %+v", len(file), info)
		}
		n, err := r.WriteRange(t.Context(), io.Discard, 0, info.Size)
		if err == nil && n != info.Size || err != nil && firn.KindOf(err) != firn.Corrupt {
			t.Fatalf("WriteRange = %d, %v", n, err)
		}
		if verr := r.Verify(t.Context(), nil); err != nil && verr == nil {
			t.Fatalf("Verify passes what WriteRange does not: %v", err)
		}
	})
}

// FuzzInline opens arbitrary inline values, and frames arbitrary plain ones.
func FuzzInline(f *testing.F) {
	f.Add([]byte{})
	f.Add([]byte("hello"))
	f.Add(block.AppendInline(nil, []byte("hello")))
	f.Fuzz(func(t *testing.T, b []byte) {
		if plain, err := block.OpenInline(b); err == nil && !bytes.Equal(block.AppendInline(nil, plain), b) {
			t.Errorf("%x opens as %x, which is stored in another way", b, plain)
		}
		plain, err := block.OpenInline(block.AppendInline(nil, b))
		if err != nil || !bytes.Equal(plain, b) {
			t.Errorf("round trip of %x = %x, %v", b, plain, err)
		}
	})
}
