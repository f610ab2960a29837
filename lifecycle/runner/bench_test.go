package runner

import (
	"flag"
	"fmt"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"firn/kv/pebblekv"
	"firn/lifecycle"
	"firn/lifecycle/usekv"
	"firn/object"
	"firn/vfs"
)

var benchVersions = flag.Int("versions", 100_000, "versions in the bucket of BenchmarkPass")

// BenchmarkPass looks at all versions of a bucket with S3's rules and one by temperature, of which none is due; and then
// at what is due an hour later, when a thousand objects were written.
//
//	go test ./lifecycle/runner -run '^$' -bench Pass -benchtime 1x -versions 1000000
func BenchmarkPass(b *testing.B) {
	n := *benchVersions
	fsys, dir := vfs.OS(), b.TempDir()
	db, err := pebblekv.Open(fsys, dir+"/kv", pebblekv.Options{Relaxed: true, CacheBytes: 64 << 20})
	if err != nil {
		b.Fatal(err)
	}
	defer db.Close()
	now := time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)
	clock := func() time.Time { return now }
	s, err := object.Open(b.Context(), fsys, dir, db, object.Options{Now: clock, ReserveBytes: -1, Relaxed: true})
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	if _, err := s.CreateBucket(b.Context(), "bkt", object.BucketOptions{Config: map[string][]byte{
		confRules: []byte("<LifecycleConfiguration>" + expireLogs + `<Rule><ID>cool</ID><Status>Enabled</Status><Filter/><Transition>
			<Days>30</Days><StorageClass>COLD</StorageClass></Transition></Rule></LifecycleConfiguration>`),
	}}); err != nil {
		b.Fatal(err)
	}
	put := func(prefix string, n int) {
		var g errgroup.Group
		g.SetLimit(64)
		for i := range n {
			g.Go(func() error {
				_, err := s.Put(b.Context(), "bkt", fmt.Sprintf("%s/%03d/%08d", prefix, i%512, i), strings.NewReader("x"), object.PutOptions{Size: 1})
				return err
			})
		}
		if err := g.Wait(); err != nil {
			b.Fatal(err)
		}
	}
	put("a", n)
	newRunner := func() *Runner {
		return New(s, Options{
			Now: clock, Classes: []string{object.StandardClass, "COLD"}, Uses: usekv.New(db),
			Placements: []lifecycle.Placement{{Name: "t", Rules: lifecycle.DefaultTemperatureRules(), Cold: "COLD"}},
		})
	}
	r := newRunner()
	pass := func(b *testing.B) (scanned int64) {
		res, err := r.Pass(b.Context(), PassOptions{Due: true})
		if err != nil || res.Failed != 0 || res.Tally != nil {
			b.Fatal(res, err)
		}
		return res.Scanned
	}
	now = now.Add(time.Hour)
	b.Run("all", func(b *testing.B) {
		b.ReportAllocs()
		before := cpu(b)
		for b.Loop() {
			b.StopTimer()
			r = newRunner()
			b.StartTimer()
			if got := pass(b); got != int64(n) {
				b.Fatalf("looked at %d", got)
			}
		}
		b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(n), "ns/version")
		b.ReportMetric(float64((cpu(b)-before).Nanoseconds())/float64(b.N)/float64(n), "cpu-ns/version")
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		b.ReportMetric(float64(m.HeapAlloc)/(1<<20), "MiB-heap")
	})
	b.Run("due", func(b *testing.B) {
		looked := int64(0)
		for b.Loop() {
			b.StopTimer()
			pass(b)
			now = now.Add(time.Minute)
			put(fmt.Sprint("b", now.Unix()), 1000)
			b.StartTimer()
			looked += pass(b)
		}
		b.ReportMetric(float64(looked)/float64(b.N), "versions")
	})
	if v := r.spans; len(v) != 1 {
		b.Fatal(len(v))
	}
}

// cpu returns the processor time of the process: on a busy machine it says more than the clock.
func cpu(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
