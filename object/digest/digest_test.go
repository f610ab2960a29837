package digest

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"io"
	"math/rand/v2"
	"reflect"
	"sync"
	"testing"
	"testing/iotest"
)

var algorithms = []Algorithm{CRC32, CRC32C, CRC64NVME, SHA1, SHA256}

func TestKnownSums(t *testing.T) {
	// The check values of the CRC catalogue and of the RFCs, for "123456789".
	for a, want := range map[Algorithm]string{
		CRC32: "cbf43926", CRC32C: "e3069283", CRC64NVME: "ae8b14860a799888",
		SHA1:   "f7c3bc1d808e04732adf679965ccc34ca7ae3441",
		SHA256: "15e2b0d3c33891ebb0f1ef609ec419420c20e320ce94c65fbc8c3312448eb225",
	} {
		s := Of([]byte("123456789"), a)
		if got := hex.EncodeToString(s.Checksum); got != want {
			t.Errorf("algorithm %d: %s, want %s", a, got, want)
		}
		if got := hex.EncodeToString(s.MD5[:]); got != "25f9e794323b453885f5181f1b624d0b" {
			t.Errorf("MD5 %s", got)
		}
		if len(s.Checksum) != a.Size() {
			t.Errorf("algorithm %d: size %d", a, a.Size())
		}
	}
	if s := Of(nil, None); s.Checksum != nil || hex.EncodeToString(s.BLAKE3[:4]) != "af1349b9" {
		t.Errorf("empty content: %+v", s)
	}
}

func TestCombineEqualsTheWholeStream(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	data := make([]byte, 300_000)
	for i := range data {
		data[i] = byte(r.Uint32())
	}
	for _, a := range algorithms {
		whole := Of(data, a).Checksum
		for range 20 {
			var sum []byte
			for rest := data; len(rest) > 0; {
				n := min(len(rest), r.IntN(100_000))
				part := Of(rest[:n], a).Checksum
				if sum == nil {
					sum = part
				} else {
					sum = Combine(a, sum, part, int64(n))
				}
				rest = rest[n:]
			}
			if a.Combinable() != bytes.Equal(sum, whole) {
				t.Fatalf("algorithm %d: combined %x, whole %x", a, sum, whole)
			}
		}
	}
	if Combine(CRC32, []byte{1}, []byte{1, 2, 3, 4}, 1) != nil {
		t.Error("a sum of the wrong length was combined")
	}
}

func FuzzCombine(f *testing.F) {
	f.Add([]byte("hello"), []byte("world"))
	f.Add([]byte{}, []byte{0})
	f.Fuzz(func(t *testing.T, x, y []byte) {
		for _, a := range []Algorithm{CRC32, CRC32C, CRC64NVME} {
			got := Combine(a, Of(x, a).Checksum, Of(y, a).Checksum, int64(len(y)))
			if want := Of(append(bytes.Clone(x), y...), a).Checksum; !bytes.Equal(got, want) {
				t.Fatalf("algorithm %d: %x, want %x", a, got, want)
			}
		}
	})
}

func TestCopy(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	data := make([]byte, 3<<20+17)
	for i := range data {
		data[i] = byte(r.Uint32())
	}
	broken := errors.New("broken")
	e := NewEngine()
	defer e.Close()
	for _, size := range []int{0, 1, bufferSize - 1, bufferSize, bufferSize + 1, len(data)} {
		for _, a := range append(algorithms, None) {
			var out bytes.Buffer
			n, s, err := e.Copy(t.Context(), &out, iotest.HalfReader(bytes.NewReader(data[:size])), int64(size), a)
			if err != nil || n != int64(size) || !bytes.Equal(out.Bytes(), data[:size]) {
				t.Fatalf("size %d: %d, %v", size, n, err)
			}
			if want := Of(data[:size], a); !reflect.DeepEqual(s, want) {
				t.Fatalf("size %d: %+v, want %+v", size, s, want)
			}
		}
		_, _, err := e.Copy(t.Context(), io.Discard, io.MultiReader(bytes.NewReader(data[:size]), iotest.ErrReader(io.ErrUnexpectedEOF)), 1<<30, None)
		if err != io.ErrUnexpectedEOF {
			t.Fatalf("size %d: a broken body gave %v", size, err)
		}
	}
	if _, _, err := e.Copy(t.Context(), io.Discard, bytes.NewReader(data), int64(len(data)-1), CRC32); err != ErrTooLong {
		t.Fatalf("got %v", err)
	}
	if _, _, err := e.Copy(t.Context(), failingWriter{broken}, bytes.NewReader(data), 1<<30, None); err != broken {
		t.Fatalf("got %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, _, err := e.Copy(ctx, io.Discard, bytes.NewReader(data), 1<<30, None); err != context.Canceled {
		t.Fatalf("got %v", err)
	}
}

type failingWriter struct{ err error }

func (w failingWriter) Write([]byte) (int, error) { return 0, w.err }

func TestManyStreamsAtOnce(t *testing.T) {
	e := NewEngine()
	defer e.Close()
	var wg sync.WaitGroup
	for i := range 20 {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(5, uint64(i)))
			data := make([]byte, r.IntN(3<<20))
			for i := range data {
				data[i] = byte(r.Uint32())
			}
			_, s, err := e.Copy(t.Context(), io.Discard, bytes.NewReader(data), 1<<30, SHA256)
			if want := Of(data, SHA256); err != nil || !reflect.DeepEqual(s, want) {
				t.Errorf("%d bytes: %+v, %v; want %+v", len(data), s, err, want)
			}
		})
	}
	wg.Wait()
	if n := e.active.Load(); n != 0 {
		t.Fatalf("%d streams counted", n)
	}
}
