package archive

import (
	"bytes"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"testing"
)

// Neighbouring pieces of any length and offset, written at once, leave each other's bytes alone.
func TestPwrite(t *testing.T) {
	rng := rand.New(rand.NewPCG(4, 2))
	want := make([]byte, 9<<20+123)
	for i := range want {
		want[i] = byte(rng.Uint32())
	}
	for round := range 5 {
		f, err := os.Create(filepath.Join(t.TempDir(), "f"))
		if err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		for at := 0; at < len(want); {
			n := min(len(want)-at, 1+rng.IntN(3<<20))
			if round == 0 {
				n = min(len(want)-at, 4096*(64+rng.IntN(512)))
			}
			from := at
			wg.Go(func() {
				if err := pwrite(int(f.Fd()), want[from:from+n], int64(from)); err != nil {
					t.Error(err)
				}
			})
			at += n
		}
		wg.Wait()
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(f.Name())
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, want) {
			t.Fatalf("round %d: the file holds other bytes", round)
		}
	}
}
