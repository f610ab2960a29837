package node

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/minio/minio-go/v7"

	"firn/adminapi"
)

// TestCacheOfTiers: what was read of a tier is served after a restart while the tier is away, other content is not.
func TestCacheOfTiers(t *testing.T) {
	dir := t.TempDir()
	cfg := tiered(t, dir)
	cfg.Cache.Disk = 64 << 20
	nas := filepath.Join(dir, "nas")
	makePlace(t, "file:"+nas)
	s := start(t, cfg, Options{})
	if err := s.client(t).MakeBucket(t.Context(), bucket, minio.MakeBucketOptions{}); err != nil {
		t.Fatal(err)
	}
	read, other := strings.Repeat("r", 3<<20), strings.Repeat("o", 1<<20)
	s.put(t, "read", read)
	s.put(t, "other", other)
	if err := s.move(t); err != nil {
		t.Fatal(err)
	}
	if got, err := s.get(t, "read"); err != nil || got != read {
		t.Fatalf("%d bytes, %v", len(got), err)
	}
	if err := s.stop(); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(nas, nas+".away"); err != nil {
		t.Fatal(err)
	}
	s = start(t, cfg, Options{})
	if got, err := s.get(t, "read"); err != nil || got != read {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	st, err := cacheView{s.Node}.Status()
	if err != nil || len(st.Levels) != 2 || st.Read["disk"] != uint64(len(read)) || st.Read["tier"] != 0 || st.Fetched != 0 {
		t.Errorf("%+v, %v", st, err)
	}
	if _, err := s.get(t, "other"); err == nil {
		t.Error("content of a tier that is away was served, and was not in the cache")
	}
	sum, err := cacheView{s.Node}.Warm(t.Context(), adminapi.CacheNames{Prefix: bucket + "/"}, func(o adminapi.CacheWarmed) error {
		if failed := o.Error != ""; failed != (o.Key == bucket+"/other") {
			t.Errorf("%+v", o)
		}
		return nil
	})
	if err != nil || sum.Failed != 1 || sum.Objects != 2 {
		t.Errorf("%+v, %v", sum, err)
	}
}
