package block_test

import (
	"fmt"
	"io"
	"path/filepath"
	"testing"

	"firn/block"
	"firn/vfs"
)

const benchSize = 64 << 20

func BenchmarkWriteRange(b *testing.B) {
	for _, kib := range []int{64, 128, 256} {
		b.Run(fmt.Sprintf("block=%dKiB", kib), func(b *testing.B) {
			name := filepath.Join(b.TempDir(), "part")
			writePart(b, vfs.OS(), name, pattern(benchSize), 1<<20, block.WriterOptions{BlockSize: kib << 10})
			r := openPart(b, vfs.OS(), name)
			b.SetBytes(benchSize)
			b.ReportAllocs()
			for b.Loop() {
				if _, err := r.WriteRange(b.Context(), io.Discard, 0, benchSize); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkOpenAndRead1MiB(b *testing.B) {
	name := filepath.Join(b.TempDir(), "part")
	writePart(b, vfs.OS(), name, pattern(1<<20), 1<<20, block.WriterOptions{})
	b.SetBytes(1 << 20)
	b.ReportAllocs()
	for b.Loop() {
		f, err := vfs.OS().Open(name)
		if err != nil {
			b.Fatal(err)
		}
		r, err := block.Open(f, name)
		if err != nil {
			b.Fatal(err)
		}
		if _, err := r.WriteRange(b.Context(), io.Discard, 0, 1<<20); err != nil {
			b.Fatal(err)
		}
		f.Close()
	}
}

// BenchmarkWriter measures a part of 64 MiB on the real disk, sync included.
func BenchmarkWriter(b *testing.B) {
	content := pattern(benchSize)
	for _, piece := range []int{32 << 10, 1 << 20} {
		b.Run(fmt.Sprintf("piece=%dKiB", piece>>10), func(b *testing.B) {
			name := filepath.Join(b.TempDir(), "part")
			b.SetBytes(benchSize)
			b.ReportAllocs()
			for b.Loop() {
				writePart(b, vfs.OS(), name, content, piece, block.WriterOptions{})
			}
		})
	}
}

func BenchmarkOpenInline4KiB(b *testing.B) {
	stored := block.AppendInline(nil, pattern(4<<10))
	b.SetBytes(4 << 10)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := block.OpenInline(stored); err != nil {
			b.Fatal(err)
		}
	}
}
