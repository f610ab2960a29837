package node

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/minio/minio-go/v7"
)

// TestWishes: what is written with the class of a tier goes there, and comes back where a restore asks for it.
func TestWishes(t *testing.T) {
	dir := t.TempDir()
	cfg := tiered(t, dir)
	cfg.Tiers[0].Class, cfg.Tiers[0].Archive = "GLACIER", true
	makePlace(t, "file:"+filepath.Join(dir, "nas"))
	s := start(t, cfg, Options{})
	c := s.client(t)
	if err := c.MakeBucket(t.Context(), bucket, minio.MakeBucketOptions{}); err != nil {
		t.Fatal(err)
	}
	content := strings.Repeat("x", 200<<10)
	if _, err := c.PutObject(t.Context(), bucket, "k", strings.NewReader(content), int64(len(content)),
		minio.PutObjectOptions{StorageClass: "GLACIER"}); err != nil {
		t.Fatal(err)
	}
	local := func() bool {
		v, err := s.engine.store.Head(t.Context(), bucket, "k", "")
		if err != nil {
			t.Fatal(err)
		}
		return v.Local()
	}
	within(t, "the object is on the tier", func() bool { return !local() })
	if _, err := s.get(t, "k"); minio.ToErrorResponse(err).Code != "InvalidObjectState" {
		t.Errorf("read from an archive: %v", err)
	}
	var req minio.RestoreRequest
	req.SetDays(1)
	req.SetGlacierJobParameters(minio.GlacierJobParameters{Tier: minio.TierExpedited})
	if err := c.RestoreObject(t.Context(), bucket, "k", "", req); err != nil {
		t.Fatal(err)
	}
	within(t, "the object is restored", local)
	if got, err := s.get(t, "k"); err != nil || got != content {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	st, err := c.StatObject(t.Context(), bucket, "k", minio.StatObjectOptions{})
	if err != nil || st.Restore == nil || st.Restore.OngoingRestore || st.Restore.ExpiryTime.IsZero() {
		t.Errorf("%+v, %v", st.Restore, err)
	}
}
