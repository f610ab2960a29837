package chunk

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"slices"
	"testing"
	"testing/iotest"

	"firn"
)

func stream(n int) []byte {
	rng := rand.New(rand.NewPCG(1, 2))
	p := make([]byte, n)
	for i := range p {
		p[i] = byte(rng.Uint32())
	}
	return p
}

func smallSizes() Sizes { return Sizes{Min: 1 << 10, Mean: 5 << 10, Max: 16 << 10} }

func cutter(t testing.TB, key byte, s Sizes) *Cutter {
	t.Helper()
	c, err := NewCutter([32]byte{key}, s)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func lengths(t testing.TB, c *Cutter, rd io.Reader, want []byte) []int {
	t.Helper()
	var all []int
	var got []byte
	k := c.New(rd)
	for {
		p, err := k.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, len(p))
		got = append(got, p...)
	}
	if !bytes.Equal(got, want) {
		t.Fatal("the chunks together are not the stream")
	}
	return all
}

func TestCutPoints(t *testing.T) {
	c := cutter(t, 1, smallSizes())
	p := stream(1 << 20)
	all := lengths(t, c, bytes.NewReader(p), p)
	for i, n := range all {
		if n > 16<<10 || n < 1<<10 && i < len(all)-1 {
			t.Errorf("chunk %d of %d has %d bytes", i, len(all), n)
		}
	}
	if mean := len(p) / len(all); mean < 3<<10 || mean > 6<<10 {
		t.Errorf("chunks have %d bytes on average", mean)
	}
	// Stored repositories depend on these: others would find nothing again.
	if want := []int{1286, 15037, 6356}; !slices.Equal(all[:3], want) {
		t.Errorf("the first cuts are after %v instead of %v", all[:3], want)
	}
	if got := lengths(t, c, iotest.OneByteReader(bytes.NewReader(p)), p); !slices.Equal(got, all) {
		t.Error("cut points depend on how much is read at once")
	}
	if got := lengths(t, cutter(t, 2, smallSizes()), bytes.NewReader(p), p); slices.Equal(got, all) {
		t.Error("cut points do not depend on the key")
	}
	var kept [][]byte
	k, spare := c.New(bytes.NewReader(p)), []byte(nil)
	for {
		q, err := k.Take(spare)
		if err != nil {
			break
		}
		kept, spare = append(kept, q), nil
		if len(kept)%3 == 0 { // one of three is given back
			spare = bytes.Clone(q)[:0]
			kept[len(kept)-1], spare = spare[:len(q)], q
		}
	}
	if !bytes.Equal(slices.Concat(kept...), p) || len(kept) != len(all) {
		t.Error("chunks that are kept are not those of the stream")
	}
	shifted := slices.Concat([]byte("inserted"), p)
	got := lengths(t, c, bytes.NewReader(shifted), shifted)
	if !slices.Equal(got[len(got)-len(all)/2:], all[len(all)-len(all)/2:]) {
		t.Error("cut points do not come back after an insertion")
	}
}

func TestEnds(t *testing.T) {
	c := cutter(t, 1, smallSizes())
	for _, n := range []int{0, 1, 1023, 1024, 1025, 16 << 10, 16<<10 + 1} {
		p := make([]byte, n)
		all := lengths(t, c, bytes.NewReader(p), p)
		if n == 0 && len(all) != 0 {
			t.Errorf("an empty stream has chunks: %v", all)
		}
	}
	k := c.New(iotest.ErrReader(io.ErrNoProgress))
	if _, err := k.Next(); !errors.Is(err, io.ErrNoProgress) {
		t.Errorf("a reader that fails: %v", err)
	}
	if _, err := k.Next(); !errors.Is(err, io.ErrNoProgress) {
		t.Errorf("and again: %v", err)
	}
	k.Reset(bytes.NewReader([]byte("x")))
	if p, err := k.Next(); err != nil || string(p) != "x" {
		t.Errorf("after a reset: %q, %v", p, err)
	}
	for _, s := range []Sizes{{}, {Min: 4 << 10, Mean: 4 << 10, Max: 16 << 10}, {Min: 1 << 10, Mean: 5000, Max: 16 << 10}} {
		if _, err := NewCutter([32]byte{}, s); firn.KindOf(err) != firn.Invalid {
			t.Errorf("%+v: %v", s, err)
		}
	}
}

func BenchmarkNext(b *testing.B) {
	c := cutter(b, 1, DefaultSizes())
	p := stream(16 << 20)
	k := c.New(nil)
	b.SetBytes(int64(len(p)))
	b.ReportAllocs()
	for b.Loop() {
		k.Reset(bytes.NewReader(p))
		for {
			if _, err := k.Next(); err != nil {
				break
			}
		}
	}
}
