package vfs_test

import (
	"math/rand/v2"
	"path/filepath"
	"syscall"
	"testing"

	"firn/vfs"
)

// Whatever the sizes of the writes and wherever syncs fall between them, the file holds what was written.
func TestDirectWriter(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for name, fsys := range map[string]vfs.FS{"disk": vfs.OS(), "memory": vfs.NewMem()} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			if err := fsys.MkdirAll(dir, 0o700); err != nil {
				t.Fatal(err)
			}
			for _, total := range []int{0, 1, 4095, 4096, 4097, 512 << 10, 512<<10 + 1, 1<<20 + 4096, 3<<20 + 77} {
				for _, syncs := range []int{0, 1, 3} {
					path := filepath.Join(dir, "f")
					f, err := fsys.Create(path, vfs.WriteCategory("test"))
					if err != nil {
						t.Fatal(err)
					}
					w := vfs.NewDirectWriter(f)
					want := make([]byte, total)
					for i := range want {
						want[i] = byte(rng.Uint32())
					}
					for rest := want; len(rest) > 0; {
						n := min(len(rest), 1+rng.IntN(total))
						if m, err := w.Write(rest[:n]); m != n || err != nil {
							t.Fatalf("write of %d: %d, %v", n, m, err)
						}
						rest = rest[n:]
						if syncs > 0 && rng.IntN(3) < syncs {
							if err := w.Sync(); err != nil {
								t.Fatal(err)
							}
						}
					}
					if _, err := w.SyncTo(int64(total)); err != nil {
						t.Fatal(err)
					}
					if syncs == 1 {
						err = w.SyncData()
					}
					if err := w.Close(); err != nil {
						t.Fatal(err)
					}
					if err != nil {
						t.Fatal(err)
					}
					if got := read(t, fsys, path); got != string(want) {
						t.Fatalf("total %d, syncs %d: the file holds %d other bytes", total, syncs, len(got))
					}
				}
			}
		})
	}
}

// A failed write is an error of the call that finds it and of every one after it.
func TestDirectWriterFails(t *testing.T) {
	for _, writes := range []int{1, 2, 3} {
		tap := vfs.NewTap(vfs.OS())
		n := 0
		tap.Before = func(op vfs.Op) vfs.Fault {
			if op.Kind != vfs.OpWrite {
				return vfs.Fault{}
			}
			if n++; n < writes {
				return vfs.Fault{}
			}
			return vfs.Fault{Err: syscall.ENOSPC}
		}
		f, err := tap.Create(filepath.Join(t.TempDir(), "f"), vfs.WriteCategory("test"))
		if err != nil {
			t.Fatal(err)
		}
		w := vfs.NewDirectWriter(f)
		_, first := w.Write(make([]byte, 1<<20+1))
		second := w.Sync()
		_, third := w.Write([]byte("x"))
		if first == nil && second == nil {
			t.Errorf("write %d failed and neither write nor sync said so", writes)
		}
		if second == nil || third == nil || w.Close() == nil {
			t.Errorf("write %d failed: %v; then sync %v, write %v", writes, first, second, third)
		}
	}
}
