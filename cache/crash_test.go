package cache

import (
	"bytes"
	"fmt"
	"maps"
	"math/rand/v2"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	pebblevfs "github.com/cockroachdb/pebble/v2/vfs"

	"firn/vfs"
)

func TestIndexMemory(t *testing.T) {
	for _, blocks := range []int{1, 16} {
		heap := func() uint64 {
			runtime.GC()
			runtime.GC()
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			return m.HeapAlloc
		}
		before := heap()
		x := newIndex(0)
		seg := &segment{}
		for i := range 60_000 / blocks {
			object := fmt.Sprintf("bucket/some/longer/name/%d", i)
			for b := range blocks {
				x.insert(Key{strings.Clone(object), "0123456789abcdef", int64(b)}, seg, 0, 100, 0)
			}
		}
		used := int64(heap() - before)
		t.Logf("%d blocks an object: %d bytes of heap, %d charged", blocks, used, x.memory)
		if used > x.memory {
			t.Errorf("%d blocks an object: %d bytes of heap, %d charged", blocks, used, x.memory)
		}
		runtime.KeepAlive(x)
		runtime.KeepAlive(seg)
	}
}

func TestIndexAgainstAMap(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	x := newIndex(500)
	x.pins = []Match{{Object: "a", Prefix: true}}
	oracle := map[Key]int{}
	segs := []*segment{{number: 1}}
	for step := range 20_000 {
		k := Key{string("abc"[r.IntN(3)]) + string("ab"[r.IntN(2)]), string("12"[r.IntN(2)]), r.Int64N(4)}
		switch r.IntN(10) {
		default:
			size := 1 + r.IntN(100)
			x.insert(k, segs[len(segs)-1], int64(step), size, 0)
			oracle[k] = size
		case 0:
			if e := x.find(k); e != nil {
				x.drop(e)
				x.drop(e)
			}
			delete(oracle, k)
		case 1:
			m := Match{Object: k.Object[:1+r.IntN(2)], Prefix: r.IntN(2) == 0}
			if r.IntN(2) == 0 {
				m.Version = k.Version
			}
			x.remove(m)
			maps.DeleteFunc(oracle, func(k Key, _ int) bool { return m.Matches(k) })
		case 2:
			if segs = append(segs, &segment{number: uint64(step)}); len(segs) > 3 {
				for _, e := range segs[0].entries {
					if e.seg == segs[0] {
						delete(oracle, Key{e.of.object, e.of.version, e.block})
					}
				}
				x.leave(segs[0])
				segs = segs[1:]
			}
		}
		var pinned int64
		seen := 0
		for object, c := range x.contents {
			if c == nil {
				t.Fatal("an empty chain")
			}
			for ; c != nil; c = c.next {
				for _, e := range c.blocks {
					seen++
					if c.object != object || oracle[Key{c.object, c.version, e.block}] != int(e.size) {
						t.Fatalf("step %d: %v", step, e)
					}
					if e.pinned {
						pinned += int64(e.size)
					}
				}
				if len(c.blocks) == 0 {
					t.Fatal("an empty content")
				}
			}
		}
		if seen != len(oracle) || x.blocks != int64(seen) || x.pinned != pinned || pinned > 500 {
			t.Fatalf("step %d: %d blocks, %d counted, %d in the map; %d of %d pinned", step, seen, x.blocks, len(oracle), pinned, x.pinned)
		}
	}
	x.remove(Match{Prefix: true})
	for _, s := range segs {
		x.leave(s)
	}
	if x.memory != 0 || x.blocks != 0 || x.pinned != 0 || len(x.contents) != 0 {
		t.Errorf("left: %d bytes, %d blocks, %d pinned", x.memory, x.blocks, x.pinned)
	}
}

func TestMisplacedBytesAreAMiss(t *testing.T) {
	r := record{kind: recordBlock, key: key("b/k", 1), data: 4, generation: 7}
	r.sum = contentSum(7, nil, []byte("data"))
	p := append(r.appendHead(nil), "data"...)
	if _, v, ok := parseRecord(p, r.key, 7); !ok || string(v.Data) != "data" {
		t.Fatal("the record itself is refused")
	}
	for _, k := range []Key{key("b/k", 2), key("b/l", 1), {"b/k", "v2", 1}, {"b/kv", "1", 1}} {
		if _, _, ok := parseRecord(p, k, 7); ok {
			t.Errorf("taken for %v", k)
		}
	}
	if _, _, ok := parseRecord(p, r.key, 8); ok {
		t.Error("taken in another segment")
	}
	if _, _, ok := parseRecord(p[:len(p)-1], r.key, 7); ok {
		t.Error("taken cut off")
	}
}

func TestCrashAtEachStep(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	r, lots := rand.New(rand.NewPCG(seed, 0)), rand.New(rand.NewPCG(seed, 1))
	mem := vfs.NewCrashableMem()
	tap := vfs.NewTap(mem)
	var mu sync.Mutex
	purged := map[string]bool{} // objects whose purge was acknowledged, and that were not put since
	content := func(k Key) []byte { return block(500+int(k.Block)*700, uint64(len(k.Object))+uint64(k.Block)) }
	var keys []Key
	for i := range 6 {
		for b := range 3 {
			keys = append(keys, key(fmt.Sprintf("b%d/%s", i%2, strings.Repeat("k", i+1)), int64(b)))
		}
	}
	clones, found := 0, 0
	check := func(clone *vfs.MemFS, gone map[string]bool) {
		d := openDisk(t, clone, DiskOptions{segment: 8 << 10, Budget: minDisk})
		defer d.Close()
		clones++
		for _, k := range keys {
			v, ok := d.Get(t.Context(), k)
			if ok && !bytes.Equal(v.Data, content(k)) {
				t.Fatalf("%v: other bytes", k)
			}
			if ok && gone[k.Object] {
				t.Fatalf("%v came back after its purge", k)
			}
			if ok {
				found++
			}
		}
		// It goes on from there.
		put(t, d, key("after", 0), Value{Data: []byte("1")})
		want(t, d, key("after", 0), []byte("1"))
	}
	type pending struct {
		fs   *vfs.MemFS
		gone map[string]bool
	}
	var waiting []pending
	tap.After = func(op vfs.Op, _ error) {
		if op.Kind.Mutates() {
			mu.Lock()
			// A power loss keeps what was synced, and of the rest whatever it likes.
			cfg := pebblevfs.CrashCloneCfg{UnsyncedDataPercent: 50 * int(op.Index%2), RNG: lots}
			waiting = append(waiting, pending{&vfs.MemFS{MemFS: mem.MemFS.CrashClone(cfg)}, maps.Clone(purged)})
			mu.Unlock()
		}
	}
	d := openDisk(t, tap, DiskOptions{segment: 8 << 10, Budget: minDisk})
	// A small directory, so that segments come and go.
	d.limit = 8 * (8 << 10)
	for range 400 {
		k := keys[r.IntN(len(keys))]
		switch r.IntN(8) {
		default:
			mu.Lock()
			delete(purged, k.Object)
			mu.Unlock()
			d.Put(k, Value{Data: content(k)})
		case 0:
			m := Match{Object: k.Object}
			if r.IntN(3) == 0 {
				m = Match{Object: k.Object[:3], Prefix: true}
			}
			if err := d.Remove(t.Context(), m); err != nil {
				t.Fatal(err)
			}
			mu.Lock()
			for _, k := range keys {
				if m.Matches(k) {
					purged[k.Object] = true
				}
			}
			mu.Unlock()
		case 1:
			d.Get(t.Context(), k)
		case 2:
			flush(t, d)
		}
		mu.Lock()
		w := waiting
		waiting = nil
		mu.Unlock()
		for _, p := range w {
			check(p.fs, p.gone)
		}
	}
	if clones < 200 || found == 0 {
		t.Errorf("%d clones, %d blocks found", clones, found)
	}
	t.Logf("%d clones, %d blocks found", clones, found)
}

func TestKilledProcess(t *testing.T) {
	mem := vfs.NewMem()
	d := openDisk(t, mem, DiskOptions{})
	for i := range 30 {
		d.Put(key(fmt.Sprint("b/", i), 0), Value{Data: block(3000, uint64(i))})
	}
	if err := d.Remove(t.Context(), Match{Object: "b/2", Prefix: true}); err != nil {
		t.Fatal(err)
	}
	put(t, d, key("b/2", 0), Value{Data: []byte("new")})
	// A second process cannot share the directory: copy the files as they are.
	other := vfs.NewMem()
	names, err := mem.List("cache")
	if err != nil {
		t.Fatal(err)
	}
	if err := other.MkdirAll("cache", 0o700); err != nil {
		t.Fatal(err)
	}
	for _, n := range names {
		if !strings.HasSuffix(n, ".seg") {
			continue
		}
		p := readFile(t, mem, "cache/"+n)
		// Damage in the middle of the file hides neither what is behind it nor the purge.
		record := recordHead + len("b/1v1") + 3000
		copy(p[5*record:], bytes.Repeat([]byte{0xFF}, recordHead))
		writeFile(t, other, "cache/"+n, append(p, 1, 2, 3))
	}
	e := openDisk(t, other, DiskOptions{})
	found := 0
	for i := range 30 {
		k := key(fmt.Sprint("b/", i), 0)
		v, ok := e.Get(t.Context(), k)
		switch {
		case i == 2:
			want(t, e, k, []byte("new"))
		case i >= 20 && i < 30:
			if ok {
				t.Errorf("%v came back", k)
			}
		case ok:
			found++
			if !bytes.Equal(v.Data, block(3000, uint64(i))) {
				t.Errorf("%v: other bytes", k)
			}
		}
	}
	if found != 18 {
		t.Errorf("%d found of 19 with one damaged", found)
	}
}

func readFile(t *testing.T, fsys vfs.FS, name string) []byte {
	t.Helper()
	p, err := vfs.ReadFile(fsys, name)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func writeFile(t *testing.T, fsys vfs.FS, path string, p []byte) {
	t.Helper()
	f, err := fsys.Create(path, vfs.CategoryState)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Write(p); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
}

func FuzzParseHead(f *testing.F) {
	r := record{kind: recordBlock, key: key("b/k", 1), meta: 3, data: 4, generation: 7, written: 8, expires: 9, sum: 10}
	f.Add(r.appendHead(nil))
	r.kind = recordPurgePrefix
	f.Add(appendTrailer(r.appendHead(nil), 1, 7, 0))
	f.Fuzz(func(t *testing.T, p []byte) {
		if r, ok := parseHead(p); ok {
			if q := r.appendHead(nil); !bytes.Equal(q, p[:r.head()]) {
				t.Fatalf("%x written back as %x", p, q)
			}
		}
		if len(p) >= trailerFoot {
			if at, n, _, ok := parseFoot(p[len(p)-trailerFoot:], 7, int64(len(p))); ok {
				parseHeads(p[at:len(p)-trailerFoot], n, 7, at)
			}
		}
		parseHeads(p, 1, 7, 100)
		fsys := vfs.NewMem()
		writeFile(t, fsys, "s", p)
		file, err := fsys.Open("s")
		if err != nil {
			t.Fatal(err)
		}
		defer file.Close()
		seg := &segment{number: 7, file: file, size: int64(len(p))}
		scan(seg)
		readTrailer(seg)
	})
}
