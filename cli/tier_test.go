package cli

import (
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/minio/minio-go/v7"

	"firn/adminapi"
)

// TestTier moves objects to a tier and back, loses the site, and makes it again from the tier.
func TestTier(t *testing.T) {
	s := newShell(t)
	nas := filepath.Join(t.TempDir(), "nas")
	s.ok("blob", "init", "file:"+nas)
	conf := filepath.Join(t.TempDir(), "firn.yaml")
	text := "places:\n  nas: {url: 'file:" + nas + "'}\ntiers:\n  cold: {url: place:nas/tier, cost: 4}\n"
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	dir, root, stop := s.serve("--config", conf)
	if err := root.MakeBucket(t.Context(), "docs", minio.MakeBucketOptions{}); err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{"2019/a", "2019/b", "2020/c"} {
		if err := put(t, root, "docs", key, "content of "+key); err != nil {
			t.Fatal(err)
		}
	}
	on := func(want string, args ...string) {
		t.Helper()
		if out := s.ok(append(args, "--data", dir)...); !strings.Contains(out, want) {
			t.Errorf("%q without %q:\n%s", args, want, out)
		}
	}
	on("in the data directory, and nowhere else", "tier", "explain", "docs/2019/a")
	on("moved 2, 34 B", "tier", "move", "--prefix", "docs/2019/", "COLD")
	on("moved 0, 0 B", "tier", "move", "docs/2019/a", "COLD")
	on("1 were there already", "tier", "move", "docs/2019/a", "COLD")
	on("objects/docs/2019/a", "tier", "explain", "docs/2019/a")
	on("is answered from the tier", "tier", "explain", "docs/2019/a")
	on("place:nas/tier  2         34 B   0.00", "tier", "ls")
	on("cold: ready", "tier", "status")
	on("recalled 1, 17 B", "tier", "recall", "docs/2019/a", "--for", "2h")
	on("a copy is in the data directory until", "tier", "explain", "docs/2019/a")
	on("recalled 1, 17 B", "tier", "recall", "docs/2019/b")
	on("in the data directory, and nowhere else", "tier", "explain", "docs/2019/b")
	on("moved 2, 34 B", "tier", "move", "--prefix", "docs", "COLD")
	if e := decode[adminapi.TierExplain](t, s.ok("tier", "explain", "docs/2020/c", "--json", "--data", dir)); e.Tier != "cold" || e.Local || e.Class != "COLD" || len(e.Says) < 2 {
		t.Errorf("%+v", e)
	}
	all := decode[adminapi.Tiers](t, s.ok("tier", "status", "--json", "--data", dir))
	if len(all.Tiers) != 1 || all.Tiers[0].Versions != 3 || all.Tiers[0].Moved != 4 || all.Tiers[0].Recalled != 2 || !all.Tiers[0].Ready {
		t.Errorf("%+v", all)
	}

	s.fails(exitFailed, `no tier has the storage class "WARM"`, "tier", "move", "docs/2019/a", "WARM", "--data", dir)
	s.fails(exitFailed, "does not exist", "tier", "move", "docs/absent", "COLD", "--data", dir)
	s.fails(exitFailed, "bucket does not exist", "tier", "recall", "--prefix", "absent", "--data", dir)
	s.fails(exitFailed, "tier warm is not configured", "tier", "rebuild", "warm", "--data", dir)
	s.fails(exitUsage, "want BUCKET/KEY", "tier", "move", "docs", "COLD", "--data", dir)
	s.fails(exitUsage, "--version-id goes with one object", "tier", "recall", "--prefix", "docs", "--version-id", "x", "--data", dir)
	s.fails(exitUsage, "--for soon", "tier", "recall", "docs/2019/a", "--for", "soon", "--data", dir)
	stop()

	// The site is lost, with its data directory.
	dir, root, _ = s.serve("--config", conf)
	for end := time.Now().Add(10 * time.Second); !strings.Contains(s.ok("tier", "status", "--data", dir), "belongs to tier cold of site "+all.Site); {
		if time.Now().After(end) {
			t.Fatal(s.ok("tier", "status", "--data", dir))
		}
	}
	s.fails(exitFailed, "tier cold of site "+all.Site, "tier", "rebuild", "cold", "--data", dir)
	on("made 1 buckets, 3 versions, 51 B, and 0 delete markers", "tier", "rebuild", "cold", "--from", all.Site)
	on(`"present":4`, "tier", "rebuild", "cold", "--json")
	on("cold: ready", "tier", "status")
	for _, key := range []string{"2019/a", "2019/b", "2020/c"} {
		o, err := root.GetObject(t.Context(), "docs", key, minio.GetObjectOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if p, err := io.ReadAll(o); err != nil || string(p) != "content of "+key {
			t.Errorf("%s: %q, %v", key, p, err)
		}
		o.Close()
	}
}

func TestNoTiers(t *testing.T) {
	s := newShell(t)
	dir, _, _ := s.serve()
	for _, sub := range []string{"ls", "status"} {
		if out := s.ok("tier", sub, "--data", dir); !strings.Contains(out, "the site has no tiers") {
			t.Errorf("%s", out)
		}
	}
}
