package object

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"sync/atomic"
	"syscall"
	"testing"

	"firn/object/listing"
	"firn/object/record"
	"firn/vfs"
)

func benchStore(b *testing.B, fsys vfs.FS, dir string) *fixture {
	f := &fixture{t: b, fs: fsys, now: &clockValue{}}
	var err error
	if f.db, err = benchDB(fsys, dir); err != nil {
		b.Fatal(err)
	}
	if f.Store, err = Open(context.Background(), fsys, dir, f.db, Options{ReserveBytes: -1}); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { f.close() })
	f.bucket("bucket", BucketOptions{})
	return f
}

// cpu starts counting the process's CPU time; the result reports it for n operations. On a machine that is
// shared it says more than the clock.
func cpu(b *testing.B) func(n int) {
	used := func() int64 {
		var u syscall.Rusage
		if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
			b.Fatal(err)
		}
		return u.Utime.Nano() + u.Stime.Nano()
	}
	start := used()
	return func(n int) { b.ReportMetric(float64(used()-start)/float64(n), "cpu-ns/op") }
}

func benchmarkPut(b *testing.B, size, parallel int, fsys vfs.FS, dir string, inlineMax int) {
	f := benchStore(b, fsys, dir)
	f.o.InlineMax = max(0, inlineMax)
	content := []byte(big(size))
	var n atomic.Int64
	b.SetParallelism(parallel)
	b.SetBytes(int64(size))
	b.ReportAllocs()
	stop := cpu(b)
	defer func() { stop(b.N) }()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			key := fmt.Sprintf("dir/%08d", n.Add(1))
			if _, err := f.Put(context.Background(), "bucket", key, bytes.NewReader(content), PutOptions{
				Size: int64(size), Owner: "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
				Headers: []record.Field{{Name: "Content-Type", Value: "application/octet-stream"}},
			}); err != nil {
				b.Error(err)
				return
			}
		}
	})
}

func BenchmarkPut4KiB(b *testing.B) {
	b.Run("disk", func(b *testing.B) { benchmarkPut(b, 4<<10, 16, vfs.OS(), b.TempDir(), InlineMax) })
	b.Run("memory", func(b *testing.B) { benchmarkPut(b, 4<<10, 16, vfs.NewMem(), "data", InlineMax) })
}

// BenchmarkInlineMax compares content in the kv engine with content in files, to choose InlineMax.
func BenchmarkInlineMax(b *testing.B) {
	for _, size := range []int{16 << 10, 32 << 10, 64 << 10, 128 << 10} {
		for name, limit := range map[string]int{"inline": 1 << 20, "file": -1} {
			b.Run(fmt.Sprintf("%dKiB/%s", size>>10, name), func(b *testing.B) {
				benchmarkPut(b, size, 4, vfs.OS(), b.TempDir(), limit)
			})
		}
	}
}

func BenchmarkPut1MiB(b *testing.B) {
	b.Run("one", func(b *testing.B) {
		f := benchStore(b, vfs.OS(), b.TempDir())
		content := []byte(big(1 << 20))
		b.SetBytes(1 << 20)
		for b.Loop() {
			if _, err := f.Put(context.Background(), "bucket", "k", bytes.NewReader(content), PutOptions{Size: 1 << 20}); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("eight", func(b *testing.B) { benchmarkPut(b, 1<<20, 4, vfs.OS(), b.TempDir(), InlineMax) })
}

func BenchmarkPut16MiB(b *testing.B) { benchmarkPut(b, 16<<20, 4, vfs.OS(), b.TempDir(), InlineMax) }

// fill puts n objects of size bytes.
func (f *fixture) fill(b *testing.B, n, size int) {
	content := []byte(big(size))
	var next atomic.Int64
	done := make(chan error, 32)
	for range cap(done) {
		go func() {
			for {
				i := next.Add(1)
				if i > int64(n) {
					done <- nil
					return
				}
				if _, err := f.Put(context.Background(), "bucket", fmt.Sprintf("some/prefix/object-%08d.dat", i), bytes.NewReader(content), PutOptions{
					Size: int64(size), Owner: "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
					Headers: []record.Field{{Name: "Content-Type", Value: "application/octet-stream"}},
				}); err != nil {
					done <- err
					return
				}
			}
		}()
	}
	for range cap(done) {
		if err := <-done; err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkGet(b *testing.B) {
	for _, size := range []int{4 << 10, 128 << 10, 1 << 20} {
		b.Run(fmt.Sprintf("%dKiB", size>>10), func(b *testing.B) {
			f := benchStore(b, vfs.OS(), b.TempDir())
			n := min(10_000, 256<<20/size)
			f.fill(b, n, size)
			var next atomic.Int64
			b.SetBytes(int64(size))
			b.ReportAllocs()
			b.ResetTimer()
			stop := cpu(b)
			defer func() { stop(b.N) }()
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					i := next.Add(7919)%int64(n) + 1
					o, err := f.Open(context.Background(), "bucket", fmt.Sprintf("some/prefix/object-%08d.dat", i), "")
					if err == nil {
						_, err = o.WriteRange(context.Background(), io.Discard, 0, o.Version.Size)
						o.Close()
					}
					if err != nil {
						b.Error(err)
						return
					}
				}
			})
		})
	}
}

func BenchmarkHead(b *testing.B) {
	f := benchStore(b, vfs.OS(), b.TempDir())
	f.fill(b, 10_000, 4<<10)
	b.ReportAllocs()
	i := 0
	stop := cpu(b)
	defer func() { stop(b.N) }()
	for b.Loop() {
		i = (i + 7919) % 10_000
		if _, err := f.Head(context.Background(), "bucket", fmt.Sprintf("some/prefix/object-%08d.dat", i+1), ""); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkList1000(b *testing.B) {
	for _, n := range []int{10_000, 200_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			f := benchStore(b, vfs.NewMem(), "data")
			f.fill(b, n, 64)
			b.ReportAllocs()
			after := ""
			keys := 0
			b.ResetTimer()
			stop := cpu(b)
			defer func() { stop(keys) }()
			for b.Loop() {
				l, err := f.List(context.Background(), "bucket", listing.Options{Limit: 1000, After: after})
				if err != nil {
					b.Fatal(err)
				}
				keys += len(l.Versions)
				after = l.NextKey
				f.Recycle(l)
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(keys), "ns/key")
		})
	}
}

func BenchmarkDeleteMany(b *testing.B) {
	f := benchStore(b, vfs.OS(), b.TempDir())
	const n = 1000
	b.ReportAllocs()
	for b.Loop() {
		b.StopTimer()
		f.fill(b, n, 1<<10)
		var items []DeleteItem
		for i := range n {
			items = append(items, DeleteItem{Key: fmt.Sprintf("some/prefix/object-%08d.dat", i+1)})
		}
		b.StartTimer()
		if _, err := f.DeleteMany(context.Background(), "bucket", items); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*n), "ns/key")
}
