package cli

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/minio/minio-go/v7"

	"firn/adminapi"
	"firn/cache/simulate"
)

// TestCache warms, pins and purges what is on a tier.
func TestCache(t *testing.T) {
	s := newShell(t)
	dir, _, stop := s.serve()
	if r := s.run("cache", "status", "--data", dir); r.code == exitOK || !strings.Contains(r.err, "nothing to cache") {
		t.Errorf("a site without a cache: %d %s", r.code, r.err)
	}
	stop()
	place := "file:" + t.TempDir() + "/cold"
	s.ok("blob", "init", place)
	write(t, "firn.yaml", []byte("tiers:\n  cold:\n    url: "+place+"\ncache:\n  disk: 64MiB\n"))
	dir, root, _ := s.serve("--config", "firn.yaml")
	if err := root.MakeBucket(t.Context(), "videos", minio.MakeBucketOptions{}); err != nil {
		t.Fatal(err)
	}
	content := strings.Repeat("0123456789", 30_000)
	for _, key := range []string{"a/1", "a/2", "b/1"} {
		if _, err := root.PutObject(t.Context(), "videos", key, strings.NewReader(content), int64(len(content)), minio.PutObjectOptions{StorageClass: "COLD"}); err != nil {
			t.Fatal(err)
		}
	}
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(20 * time.Second); !strings.Contains(s.ok("cache", "warm", "videos", "--data", dir), "3 objects on tiers"); <-tick.C {
		if time.Now().After(end) {
			t.Fatal("the objects do not get to their tier")
		}
	}
	status := func() adminapi.CacheStatus {
		t.Helper()
		return decode[adminapi.CacheStatus](t, s.ok("cache", "status", "--json", "--data", dir))
	}
	if st := status(); len(st.Levels) != 2 || st.Levels[0].Blocks != 6 || st.Fetched != 900_000 || len(st.Pins) != 0 || st.Prefetch == nil || st.Bus != nil {
		t.Errorf("%+v", st)
	}
	s.ok("cache", "pin", "videos/a/", "--data", dir)
	if st := status(); len(st.Pins) != 1 || st.Pins[0] != "videos/a/" || st.Levels[1].Pinned < 600_000 {
		t.Errorf("%+v", st)
	}
	s.ok("cache", "purge", "videos/a/2", "--data", dir)
	if st := status(); st.Levels[0].Blocks != 4 {
		t.Errorf("%+v", st.Levels)
	}
	if out := s.ok("cache", "warm", "videos/a/", "--data", dir); out != "2 objects on tiers, 293 KiB fetched; 0 have their bytes here; 0 failed\n" {
		t.Error(out)
	}
	if out := s.ok("cache", "status", "--data", dir); !strings.Contains(out, "pinned: videos/a/") || !strings.Contains(out, "tiers sent 1.1 MiB") {
		t.Error(out)
	}
	s.ok("cache", "unpin", "videos/a/", "--data", dir)
	s.ok("cache", "purge", "--all", "--data", dir)
	if st := status(); len(st.Pins) != 0 || st.Levels[0].Blocks+st.Levels[1].Blocks != 0 {
		t.Errorf("%+v", st)
	}
	for _, args := range [][]string{{"purge"}, {"purge", "a", "--all"}, {"warm", "/a"}, {"unpin", "videos/a/"}, {"pin", ""}, {"warm", "none/"}} {
		if r := s.run(append(append([]string{"cache"}, args...), "--data", dir)...); r.code == exitOK || r.err == "" {
			t.Errorf("%q: exit %d, %s", args, r.code, r.err)
		}
	}
}

func TestCacheSimulate(t *testing.T) {
	s := newShell(t)
	var log strings.Builder
	for i := range 100 {
		fmt.Fprintf(&log, `{"time":"2026-01-01T%02d:%02d:00Z","key":"cam/%d","size":2000000}`+"\n", i/60, i%60, i%50)
	}
	write(t, "log", []byte(log.String()))
	out := s.ok("cache", "simulate", "--budget", "200MiB", "log")
	for _, want := range []string{"50 objects of 95.4 MiB together", "lru", "tinylfu", "s3fifo", "50.0 %"} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in\n%s", want, out)
		}
	}
	var rep simulate.Report
	if err := json.Unmarshal([]byte(s.ok("cache", "simulate", "--policy", "lru", "--json", "log")), &rep); err != nil {
		t.Fatal(err)
	}
	if len(rep.Results) != 2 || rep.Results[0].HitRatio != .5 || rep.Results[1].HitRatio < .9 {
		t.Errorf("%+v", rep.Results)
	}
	write(t, "bad", []byte("{\"key\":\"a\",\"size\":1}\nnonsense\n"))
	for _, args := range [][]string{{"bad"}, {"log", "--budget", "1"}, {"log", "--policy", "magic"}, {"log", "--rate", "x"}, {}} {
		if r := s.run(append([]string{"cache", "simulate"}, args...)...); r.code != exitUsage {
			t.Errorf("%v: %+v", args, r)
		}
	}
	if r := s.run("cache", "simulate", "bad"); !strings.Contains(r.err, "line 2") {
		t.Errorf("%+v", r)
	}
	if r := s.run("cache", "simulate", "missing"); r.code != exitFailed {
		t.Errorf("%+v", r)
	}
}
