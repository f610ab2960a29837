package compress

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"sync/atomic"
	"testing"

	"github.com/klauspost/compress/zstd"

	"firn"
	"firn/blob"
	"firn/blob/driver"
	"firn/blob/drivertest"
	"firn/blob/memblob"
)

func open(t *testing.T, inner driver.Driver, opt Options) driver.Driver {
	t.Helper()
	d, err := New(inner, opt)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func TestConformance(t *testing.T) {
	for name, opt := range map[string]Options{"memory": {}, "disk": {Memory: 1, Dir: t.TempDir()}} {
		t.Run(name, func(t *testing.T) {
			drivertest.Run(t, func(t *testing.T) driver.Driver {
				return open(t, memblob.New(memblob.Options{}), opt)
			}, drivertest.Expect(drivertest.Creator|drivertest.Batcher|drivertest.BulkDeleter|drivertest.Measurer))
			if opt.Dir == "" {
				return
			}
			left, err := os.ReadDir(opt.Dir)
			if err != nil || len(left) != 0 {
				t.Errorf("%d files were left, %v", len(left), err)
			}
		})
	}
}

func get(d driver.Driver, key string, offset, length int64) ([]byte, error) {
	rc, err := d.Get(context.Background(), key, offset, length)
	if err != nil {
		return nil, err
	}
	p, err := io.ReadAll(rc)
	return p, errors.Join(err, rc.Close())
}

func put(t *testing.T, d driver.Driver, key string, p []byte) {
	t.Helper()
	if err := d.Put(t.Context(), key, blob.Bytes(p)); err != nil {
		t.Fatal(err)
	}
}

func noise(seed uint64, n int) []byte {
	p := make([]byte, n)
	rng := rand.NewChaCha8([32]byte{byte(seed)})
	_, _ = rng.Read(p)
	return p
}

func words(n int) []byte { return bytes.Repeat([]byte("the quick brown fox "), n/20+1)[:n] }

// mixed is half words, half noise, MiB by MiB.
func mixed(n int) []byte {
	var p []byte
	for i := uint64(0); len(p) < n; i++ {
		p = append(append(p, words(frameLen)...), noise(i, frameLen)...)
	}
	return p[:n]
}

// counting counts calls by name.
func counting(n map[string]*atomic.Int64) memblob.Options {
	for _, name := range []string{"get", "stat", "list"} {
		n[name] = &atomic.Int64{}
	}
	return memblob.Options{Before: func(_ context.Context, op memblob.Op) memblob.Fault {
		if c := n[op.Name]; c != nil {
			c.Add(1)
		}
		return memblob.Fault{}
	}}
}

// TestSizesAndRequests holds that words shrink, noise hardly grows, sizes are right, and how many requests calls take.
func TestSizesAndRequests(t *testing.T) {
	for _, c := range []struct {
		name     string
		content  []byte
		most     int64 // stored bytes
		lookups  int64 // requests to learn the size
		perRange int64
	}{
		{"words", words(5 << 20), 64 << 10, 1, 2},
		{"noise", noise(1, 5<<20), 5<<20 + 300, 0, 2},
		{"mixed", mixed(5<<20 + 77), 3 << 20, 1, 2},
		{"little noise", noise(1, 1000), 1100, 0, 1},
		{"little noise of an aligned length", noise(1, 64*20-tableLenOf(1)-12), 64 * 20, 1, 1},
		{"little words", words(1000), 128, 1, 1},
		{"empty", nil, 36, 0, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			n := map[string]*atomic.Int64{}
			mem := memblob.New(counting(n))
			d := open(t, mem, Options{})
			put(t, d, "k", c.content)
			if info, err := mem.Stat(t.Context(), "k"); err != nil || info.Size > c.most {
				t.Errorf("stored %d bytes of %d, want %d at most, %v", info.Size, len(c.content), c.most, err)
			}
			reset := func() {
				for _, v := range n {
					v.Store(0)
				}
			}
			reset()
			err := d.List(t.Context(), "", func(i driver.Info) error {
				if i.Size != int64(len(c.content)) {
					t.Errorf("listed with %d bytes", i.Size)
				}
				return nil
			})
			if err != nil || n["get"].Load() != c.lookups || n["list"].Load() != 1 {
				t.Errorf("listing took %d gets, want %d; %v", n["get"].Load(), c.lookups, err)
			}
			reset()
			if info, err := d.Stat(t.Context(), "k"); err != nil || info.Size != int64(len(c.content)) || n["get"].Load() != c.lookups {
				t.Errorf("stat: %+v, %v, %d gets", info, err, n["get"].Load())
			}
			reset()
			if p, err := get(d, "k", 0, -1); err != nil || !bytes.Equal(p, c.content) || n["get"].Load() != 1 {
				t.Errorf("get: %d bytes, %v, %d gets", len(p), err, n["get"].Load())
			}
			reset()
			if p, err := get(d, "k", int64(len(c.content)/2), 100); err != nil || !bytes.HasPrefix(c.content[len(c.content)/2:], p) || n["get"].Load() > c.perRange {
				t.Errorf("range: %d bytes, %v, %d gets", len(p), err, n["get"].Load())
			}
		})
	}
}

func tableLenOf(frames int64) int { return int(tableLen(frames)) }

// TestPlainSize goes through sizes around every edge, and the lengths between that no raw blob has.
func TestPlainSize(t *testing.T) {
	for _, around := range []int64{0, 1, blockLen, frameLen, frameLen + blockLen, 2 * frameLen, 1000 * frameLen, 1 << 40} {
		for size := max(around-200, 0); size < around+200; size++ {
			stored := rawSize(size)
			got, ok := plainSize(stored)
			if ok != (stored%align != 0) || ok && got != size {
				t.Fatalf("rawSize(%d) is %d, back it is %d, %t", size, stored, got, ok)
			}
			if rawSize(size+1) <= stored {
				t.Fatalf("rawSize does not grow at %d", size)
			}
		}
	}
	for _, stored := range []int64{1, 35, 37, rawSize(frameLen) + 1} {
		if size, ok := plainSize(stored); ok {
			t.Errorf("%d bytes are taken for a blob of %d", stored, size)
		}
	}
}

// TestIsAZstdFile unpacks what is stored by a streaming decoder that knows nothing of the table.
func TestIsAZstdFile(t *testing.T) {
	for _, p := range [][]byte{nil, words(1), noise(1, 3000), words(3 << 20), mixed(3<<20 + 5)} {
		mem := memblob.New(memblob.Options{})
		put(t, open(t, mem, Options{}), "k", p)
		stored, err := get(mem, "k", 0, -1)
		if err != nil {
			t.Fatal(err)
		}
		dec, err := zstd.NewReader(bytes.NewReader(stored))
		if err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(dec); err != nil || !bytes.Equal(got, p) {
			t.Errorf("%d bytes come out as %d, %v", len(p), len(got), err)
		}
		dec.Close()
	}
}

// TestDamage flips and cuts everywhere and wants firn.Corrupt, or the right bytes from ranges elsewhere.
func TestDamage(t *testing.T) {
	for name, content := range map[string][]byte{
		"words": words(3 << 20), "noise": noise(3, 2<<20+1), "mixed": mixed(4 << 20), "little": words(300), "empty": nil,
	} {
		mem := memblob.New(memblob.Options{})
		d := open(t, mem, Options{})
		put(t, d, "k", content)
		stored, err := get(mem, "k", 0, -1)
		if err != nil {
			t.Fatal(err)
		}
		n := len(stored)
		damaged := map[string][]byte{"emptied": {}, "longer": append(bytes.Clone(stored), 0), "foreign": []byte("not compressed by anybody")}
		pad := n
		if tb, err := parseTable(stored[:tableLen(frameCount(int64(len(content))))]); err != nil {
			t.Fatal(err)
		} else if bare, padded := tb.stored(); padded > bare {
			pad = int(bare)
		}
		for _, at := range []int{0, 5, 9, 20, 24, 31, 33, 38, 45, n / 2, pad - 1} {
			if at < pad && at >= 0 {
				p := bytes.Clone(stored)
				p[at] ^= 4
				damaged[fmt.Sprintf("flipped at %d", at)] = p
			}
		}
		for _, to := range []int{1, 8, 31, 32, 40, n / 2, n - 1} {
			if to < n {
				damaged[fmt.Sprintf("cut to %d", to)] = stored[:to]
			}
		}
		for how, p := range damaged {
			put(t, mem, "k", p)
			got, err := get(d, "k", 0, -1)
			if k := firn.KindOf(err); k != firn.Corrupt {
				t.Errorf("%s %s: read %d bytes, %v", name, how, len(got), err)
			}
			if !bytes.HasPrefix(content, got) {
				t.Errorf("%s %s: other bytes", name, how)
			}
			for _, r := range [][2]int64{{1, 10}, {int64(len(content)) - 5, 10}, {int64(len(content)) / 2, -1}} {
				got, err := get(d, "k", max(r[0], 0), r[1])
				want := content[min(max(r[0], 0), int64(len(content))):]
				if r[1] >= 0 {
					want = want[:min(r[1], int64(len(want)))]
				}
				if err == nil && !bytes.Equal(got, want) {
					t.Errorf("%s %s: range %v gives others", name, how, r)
				}
				if err != nil && firn.KindOf(err) != firn.Corrupt {
					t.Errorf("%s %s: range %v: %v", name, how, r, err)
				}
			}
			// A listing still shows it.
			seen := 0
			if err := d.List(t.Context(), "", func(driver.Info) error { seen++; return nil }); err != nil || seen != 1 {
				t.Errorf("%s %s: listed %d, %v", name, how, seen, err)
			}
		}
	}
}

// TestReplacedBetweenTableAndContent replaces a blob by one of the same stored length between the two requests.
func TestReplacedBetweenTableAndContent(t *testing.T) {
	one, two := noise(1, 3<<20), noise(2, 3<<20)
	var mem *memblob.Driver
	var armed atomic.Bool
	gets := 0
	mem = memblob.New(memblob.Options{Before: func(_ context.Context, op memblob.Op) memblob.Fault {
		if op.Name != "get" || !armed.Load() {
			return memblob.Fault{}
		}
		if gets++; gets == 2 {
			armed.Store(false)
			d, err := New(mem, Options{})
			if err == nil {
				err = d.Put(context.Background(), "k", blob.Bytes(two))
			}
			return memblob.Fault{Err: err, Applied: true}
		}
		return memblob.Fault{}
	}})
	d := open(t, mem, Options{})
	put(t, d, "k", one)
	armed.Store(true)
	p, err := get(d, "k", 10, 2<<20)
	if err != nil || !bytes.Equal(p, two[10:10+2<<20]) {
		t.Errorf("%d bytes, %v, want those of the new one", len(p), err)
	}
	if armed.Load() {
		t.Error("the blob was not replaced: the test shows nothing")
	}
}

func TestLostConnection(t *testing.T) {
	lost := firn.NewError(firn.Unavailable, "lost")
	var broken atomic.Bool
	mem := memblob.New(memblob.Options{Before: func(_ context.Context, op memblob.Op) memblob.Fault {
		if op.Name == "read" && broken.Load() {
			return memblob.Fault{Err: lost}
		}
		return memblob.Fault{}
	}})
	d := open(t, mem, Options{})
	put(t, d, "k", words(3000))
	broken.Store(true)
	for _, r := range [][2]int64{{0, -1}, {5, 10}} {
		if _, err := get(d, "k", r[0], r[1]); !errors.Is(err, lost) {
			t.Errorf("%v: %v", r, err)
		}
	}
	if _, err := d.Stat(t.Context(), "k"); !errors.Is(err, lost) {
		t.Errorf("stat: %v", err)
	}
	if err := d.List(t.Context(), "", func(driver.Info) error { return nil }); !errors.Is(err, lost) {
		t.Errorf("list: %v", err)
	}
}

func TestRefusesWrongSettings(t *testing.T) {
	for _, opt := range []Options{{Level: -1}, {Level: 23}, {Memory: -1}} {
		if _, err := New(memblob.New(memblob.Options{}), opt); firn.KindOf(err) != firn.Invalid {
			t.Errorf("%+v: %v", opt, err)
		}
	}
}

func FuzzTable(f *testing.F) {
	f.Add((&table{size: 5, frames: []entry{{14, 1}}}).encode())
	f.Add((&table{}).encode())
	f.Fuzz(func(t *testing.T, p []byte) {
		tb, err := parseTable(p)
		if err != nil {
			return
		}
		if !bytes.Equal(tb.encode(), p) {
			t.Errorf("a table passed that nobody writes: %x", p)
		}
		if bare, padded := tb.stored(); bare <= 0 || padded < bare || padded-bare >= align+skipLen {
			t.Errorf("stored %d, %d", bare, padded)
		}
	})
}
