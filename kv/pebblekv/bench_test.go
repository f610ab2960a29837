package pebblekv_test

import (
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"

	"firn/kv"
	"firn/kv/pebblekv"
	"firn/vfs"
)

func openBench(b *testing.B, o pebblekv.Options) *pebblekv.DB {
	b.Helper()
	db, err := pebblekv.Open(vfs.OS(), b.TempDir(), o)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := db.Close(); err != nil {
			b.Error(err)
		}
	})
	return db
}

// BenchmarkUpdate commits what a small PUT does: metadata, content, a log entry, under one lock, synced.
func BenchmarkUpdate(b *testing.B) {
	for _, size := range []int{4 << 10, 64 << 10} {
		for _, workers := range []int{1, 16, 64} {
			b.Run(fmt.Sprintf("value=%dKiB/workers=%d", size>>10, workers), func(b *testing.B) {
				db := openBench(b, pebblekv.Options{})
				value := make([]byte, size)
				_, _ = rand.NewChaCha8([32]byte{}).Read(value)
				meta, entry := value[:300], value[:200]
				var n atomic.Int64
				b.SetBytes(int64(size))
				b.ReportAllocs()
				b.ResetTimer()
				var wg sync.WaitGroup
				for range workers {
					wg.Go(func() {
						key := make([]byte, 0, 40)
						for {
							i := n.Add(1)
							if i > int64(b.N) {
								return
							}
							key = binary.BigEndian.AppendUint64(append(key[:0], "bucket/key/"...), uint64(i)*0x9E3779B97F4A7C15)
							err := db.Update(context.Background(), func(tx kv.Tx) error {
								if _, err := tx.Get(nil, key); err == nil {
									return fmt.Errorf("%q exists", key)
								}
								tx.Set(key, meta)
								tx.SetSplit(append(key, 'c'), value)
								tx.Log(entry)
								return nil
							}, key)
							if err != nil {
								b.Error(err)
								return
							}
						}
					})
				}
				wg.Wait()
				b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "commits/s")
			})
		}
	}
}

func BenchmarkView(b *testing.B) {
	db := openBench(b, pebblekv.Options{})
	key := []byte("k")
	err := db.Update(b.Context(), func(tx kv.Tx) error { tx.Set(key, make([]byte, 300)); return nil }, key)
	if err != nil {
		b.Fatal(err)
	}
	var buf []byte
	fn := func(r kv.Reader) (err error) {
		buf, err = r.Get(buf[:0], key)
		return err
	}
	b.ReportAllocs()
	for b.Loop() {
		if err := db.View(b.Context(), fn, key); err != nil {
			b.Fatal(err)
		}
	}
}
