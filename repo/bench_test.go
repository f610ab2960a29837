package repo

import (
	"context"
	"encoding/binary"
	"io"
	"math/rand/v2"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"firn/blob"
	"firn/blob/driver"
	"firn/blob/memblob"
)

// nullDriver forgets packs: what remains is the repository's own work.
type nullDriver struct{ driver.Driver }

func (d nullDriver) Put(ctx context.Context, key string, src driver.Source) error {
	if !strings.HasPrefix(key, packsPrefix) {
		return d.Driver.Put(ctx, key, src)
	}
	r, err := src.Open()
	if err != nil {
		return err
	}
	return r.Close()
}

func nullRepo(b *testing.B) *Repo {
	return initRepo(b, blob.New(nullDriver{memblob.New(memblob.Options{})}, "null:"), InitOptions{})
}

// benchmarkSave saves chunks of n bytes, all different, on all cores.
func benchmarkSave(b *testing.B, n int, fill func(*rand.Rand, int) []byte) {
	ctx := b.Context()
	r := nullRepo(b)
	s, err := r.NewSession(ctx, SessionOptions{})
	if err != nil {
		b.Fatal(err)
	}
	const different = 8
	base := fill(rand.New(rand.NewPCG(1, 1)), max(n, 1<<10)*different)
	b.SetBytes(int64(n))
	b.ReportAllocs()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	b.ResetTimer()
	var wg sync.WaitGroup
	stored := make([]int, runtime.GOMAXPROCS(0))
	for g := range stored {
		wg.Go(func() {
			p := make([]byte, n)
			for i := g; i < b.N; i += len(stored) {
				copy(p, base[i%different*n:])
				binary.LittleEndian.PutUint64(p, uint64(i))
				_, k, err := s.Save(ctx, Data, p)
				if err != nil {
					b.Error(err)
					return
				}
				stored[g] += k
			}
		})
	}
	wg.Wait()
	root, _, err := s.Save(ctx, Tree, EncodeTree(nil, TreeChunk{}))
	if err != nil {
		b.Fatal(err)
	}
	if _, err := s.Commit(ctx, Snapshot{Root: root}); err != nil {
		b.Fatal(err)
	}
	b.StopTimer()
	runtime.ReadMemStats(&after)
	total := 0
	for _, k := range stored {
		total += k
	}
	b.ReportMetric(float64(total)/float64(n)/float64(b.N), "stored/plain")
	b.ReportMetric(float64(after.Sys)/(1<<20), "MiB-sys")
}

func BenchmarkSaveRandom1M(b *testing.B) { benchmarkSave(b, 1<<20, noise) }
func BenchmarkSaveText1M(b *testing.B)   { benchmarkSave(b, 1<<20, prose) }
func BenchmarkSaveText4K(b *testing.B)   { benchmarkSave(b, 4<<10, prose) }
func BenchmarkSaveRandom4K(b *testing.B) { benchmarkSave(b, 4<<10, noise) }

// BenchmarkSaveKnown is what an unchanged chunk costs.
func BenchmarkSaveKnown1M(b *testing.B) {
	ctx := b.Context()
	s, err := nullRepo(b).NewSession(ctx, SessionOptions{})
	if err != nil {
		b.Fatal(err)
	}
	p := noise(rand.New(rand.NewPCG(1, 1)), 1<<20)
	b.SetBytes(1 << 20)
	b.ReportAllocs()
	for b.Loop() {
		if _, _, err := s.Save(ctx, Data, p); err != nil {
			b.Fatal(err)
		}
	}
	if err := s.Abort(ctx); err != nil {
		b.Fatal(err)
	}
}

type repeat struct{ p []byte }

func (r repeat) Read(p []byte) (int, error) { return copy(p, r.p), nil }

func BenchmarkChunker(b *testing.B) {
	r := nullRepo(b)
	p := noise(rand.New(rand.NewPCG(1, 1)), 128<<10)
	b.SetBytes(1 << 20)
	b.ReportAllocs()
	c := r.NewChunker(io.LimitReader(repeat{p}, int64(b.N)<<20))
	for {
		if _, err := c.Next(); err != nil {
			break
		}
	}
}

// BenchmarkIndex loads and asks an index of a million chunks.
func BenchmarkIndexLoad1M(b *testing.B) {
	ctx := b.Context()
	store := newStore(b)
	r := initRepo(b, store, InitOptions{})
	rng := rand.New(rand.NewPCG(1, 1))
	const packs, each = 1000, 1000
	var content []byte
	for range packs {
		var list []byte
		size := uint32(packHeader + packFooter + 16)
		for range each {
			var e entry
			for i := range 4 {
				binary.LittleEndian.PutUint64(e.id[8*i:], rng.Uint64())
			}
			e.stored, e.plain = 4112, 4096
			list = appendEntry(list, e)
			size += e.stored + entrySize
		}
		var id ID
		binary.LittleEndian.PutUint64(id[:], rng.Uint64())
		content = appendIndexPack(content, id, packHead{}, size, list)
		if len(content) > indexEntries*entrySize {
			if _, err := r.putIndex(ctx, content); err != nil {
				b.Fatal(err)
			}
			content = nil
		}
	}
	if _, err := r.putIndex(ctx, content); err != nil {
		b.Fatal(err)
	}
	var heap float64
	for b.Loop() {
		r := openRepo(b, store)
		var before, after runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&before)
		t := time.Now()
		if err := r.refresh(ctx); err != nil {
			b.Fatal(err)
		}
		b.ReportMetric(time.Since(t).Seconds(), "s/load")
		runtime.GC()
		runtime.ReadMemStats(&after)
		heap = float64(after.HeapAlloc-before.HeapAlloc) / packs / each
		runtime.KeepAlive(r)
	}
	b.ReportMetric(heap, "B/chunk")
}

// benchmarkLoad loads 64 MiB of chunks of n bytes at once.
func benchmarkLoad(b *testing.B, n int, fill func(*rand.Rand, int) []byte) {
	ctx := b.Context()
	r := initRepo(b, newStore(b), InitOptions{})
	s, err := r.NewSession(ctx, SessionOptions{})
	if err != nil {
		b.Fatal(err)
	}
	rng := rand.New(rand.NewPCG(1, 1))
	base := fill(rng, n)
	var ids []ID
	for i := range (64 << 20) / n {
		binary.LittleEndian.PutUint64(base, uint64(i))
		id, _, err := s.Save(ctx, Data, base)
		if err != nil {
			b.Fatal(err)
		}
		ids = append(ids, id)
	}
	root, _, err := s.Save(ctx, Tree, EncodeTree(nil, TreeChunk{Data: ids}))
	if err != nil {
		b.Fatal(err)
	}
	if _, err := s.Commit(ctx, Snapshot{Root: root}); err != nil {
		b.Fatal(err)
	}
	b.SetBytes(64 << 20)
	b.ReportAllocs()
	for b.Loop() {
		if err := r.LoadMany(ctx, ids, func(int, []byte) error { return nil }); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkLoadRandom1M(b *testing.B) { benchmarkLoad(b, 1<<20, noise) }
func BenchmarkLoadText1M(b *testing.B)   { benchmarkLoad(b, 1<<20, prose) }
func BenchmarkLoadText4K(b *testing.B)   { benchmarkLoad(b, 4<<10, prose) }
