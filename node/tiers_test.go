package node

import (
	"errors"
	"io"
	"path/filepath"
	"strings"
	"testing"

	"github.com/minio/minio-go/v7"

	"firn"
	"firn/blob/places"
	"firn/config"
	"firn/object"
	"firn/object/listing"
)

// tiered are settings with a tier below dir, whose place was not made.
func tiered(t *testing.T, dir string) config.Config {
	t.Helper()
	cfg := settings(t, filepath.Join(dir, "site"))
	cfg.Tiers = []config.Tier{{Name: "cold", URL: "place:nas/tier", Class: "COLD", Layout: config.LayoutPlain}}
	cfg.Places = map[string]config.Place{"nas": {URL: "file:" + filepath.Join(dir, "nas"), Retry: true}}
	return cfg
}

func makePlace(t *testing.T, url string) {
	t.Helper()
	s, err := places.Init(t.Context(), url, places.Secrets{})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

func (s *site) put(t *testing.T, key, content string) {
	t.Helper()
	if _, err := s.client(t).PutObject(t.Context(), bucket, key, strings.NewReader(content), int64(len(content)), minio.PutObjectOptions{}); err != nil {
		t.Fatal(err)
	}
}

func (s *site) get(t *testing.T, key string) (string, error) {
	t.Helper()
	o, err := s.client(t).GetObject(t.Context(), bucket, key, minio.GetObjectOptions{})
	if err != nil {
		return "", err
	}
	defer o.Close()
	p, err := io.ReadAll(o)
	return string(p), err
}

// move moves all versions in the bucket.
func (s *site) move(t *testing.T) error {
	t.Helper()
	l, err := s.engine.store.ListVersions(t.Context(), bucket, listing.Options{Limit: 1000})
	if err != nil {
		t.Fatal(err)
	}
	return errors.Join(s.tiers.mover.Move(t.Context(), "cold", l.Versions, object.MoveOptions{})...)
}

func TestTiers(t *testing.T) {
	dir := t.TempDir()
	cfg := tiered(t, dir)
	makePlace(t, "file:"+filepath.Join(dir, "nas"))
	s := start(t, cfg, Options{})
	if err := s.client(t).MakeBucket(t.Context(), bucket, minio.MakeBucketOptions{}); err != nil {
		t.Fatal(err)
	}
	s.put(t, "small", "here and there")
	s.put(t, "large", strings.Repeat("x", 3<<20))
	if err := s.move(t); err != nil {
		t.Fatal(err)
	}
	for key, want := range map[string]string{"small": "here and there", "large": strings.Repeat("x", 3<<20)} {
		if got, err := s.get(t, key); err != nil || got != want {
			t.Errorf("%s: %d bytes, %v", key, len(got), err)
		}
	}
	v, err := s.engine.store.Head(t.Context(), bucket, "large", "")
	if err != nil || v.Local() || v.Location.Tier != "cold" || v.StorageClass != "COLD" {
		t.Errorf("%+v, %v", v, err)
	}

	// It belongs to this site after a restart too.
	if err := s.stop(); err != nil {
		t.Fatal(err)
	}
	s = start(t, cfg, Options{})
	s.put(t, "later", "1")
	if err := s.move(t); err != nil {
		t.Error(err)
	}
	if got, err := s.get(t, "later"); err != nil || got != "1" {
		t.Errorf("%q, %v", got, err)
	}

	// Another site with the same tier leaves it alone, and serves what it has.
	other := tiered(t, dir)
	other.Data = filepath.Join(dir, "other")
	o := start(t, other, Options{})
	if err := o.client(t).MakeBucket(t.Context(), bucket, minio.MakeBucketOptions{}); err != nil {
		t.Fatal(err)
	}
	o.put(t, "k", "v")
	if err := o.move(t); firn.KindOf(err) != firn.Conflict || !strings.Contains(err.Error(), "belongs to tier cold of site "+s.tiers.site) {
		t.Errorf("another site's tier: %v", err)
	}
	if got, err := o.get(t, "k"); err != nil || got != "v" {
		t.Errorf("%q, %v", got, err)
	}
}

// TestTierAway: a tier whose place is not there does not keep the site from anything else.
func TestTierAway(t *testing.T) {
	dir := t.TempDir()
	s := start(t, tiered(t, dir), Options{})
	if err := s.client(t).MakeBucket(t.Context(), bucket, minio.MakeBucketOptions{}); err != nil {
		t.Fatal(err)
	}
	s.put(t, "k", "v")
	err := s.move(t)
	if firn.KindOf(err) != firn.Unavailable || !strings.Contains(err.Error(), "tier cold is away since") || !strings.Contains(err.Error(), "firn blob init") {
		t.Errorf("moved to nowhere: %v", err)
	}
	if got, err := s.get(t, "k"); err != nil || got != "v" {
		t.Errorf("%q, %v", got, err)
	}
	if st := s.tiers.set.Status()[0]; st.Away.IsZero() || st.Ready {
		t.Errorf("%+v", st)
	}
}

func TestWrongTier(t *testing.T) {
	cfg := tiered(t, t.TempDir())
	cfg.Tiers[0].URL = "ftp://host/x"
	if _, err := Build(t.Context(), cfg, Options{}); err == nil || !strings.Contains(err.Error(), "tiers.cold.url") {
		t.Errorf("%v", err)
	}
}
