package cli

import (
	"strings"
	"testing"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/lifecycle"

	"firn/adminapi"
)

// TestLifecycle sets rules over S3, asks what they will do, and has them carried out.
func TestLifecycle(t *testing.T) {
	s := newShell(t)
	dir, root, _ := s.serve()
	if err := root.MakeBucket(t.Context(), "docs", minio.MakeBucketOptions{}); err != nil {
		t.Fatal(err)
	}
	rules := lifecycle.NewConfiguration()
	rules.Rules = []lifecycle.Rule{
		{ID: "tmp", Status: "Enabled", RuleFilter: lifecycle.Filter{Prefix: "tmp/"}, Expiration: lifecycle.Expiration{Days: 3}},
		{ID: "past", Status: "Enabled", RuleFilter: lifecycle.Filter{Prefix: "past/"}, Expiration: lifecycle.Expiration{
			Date: lifecycle.ExpirationDate{Time: time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC)},
		}},
	}
	if err := root.SetBucketLifecycle(t.Context(), "docs", rules); err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{"tmp/a", "past/b", "kept"} {
		if err := put(t, root, "docs", key, "content"); err != nil {
			t.Fatal(err)
		}
	}
	if out := s.ok("lifecycle", "status", "--data", dir); !strings.Contains(out, "no run since") {
		t.Errorf("status: %s", out)
	}
	later := time.Now().UTC().AddDate(0, 0, 5).Format(time.DateOnly)
	out := s.ok("lifecycle", "run", "--dry-run", "--at", later, "--data", dir)
	for _, want := range []string{"docs/tmp/a: remove", "docs/past/b: remove", `rule "past": would remove 1, 7 B`, "3 versions and uploads in 1 buckets"} {
		if !strings.Contains(out, want) {
			t.Errorf("dry run without %q:\n%s", want, out)
		}
	}
	if out := s.ok("lifecycle", "explain", "docs/tmp/a", "--data", dir); !strings.Contains(out, "kept until") || !strings.Contains(out, `"tmp"`) {
		t.Errorf("explain: %s", out)
	}
	if out := s.ok("lifecycle", "explain", "docs/tmp/a", "--at", later, "--data", dir); !strings.Contains(out, "remove") {
		t.Errorf("explain for later: %s", out)
	}
	if it := decode[adminapi.LifecycleItem](t, s.ok("lifecycle", "explain", "docs/kept", "--json", "--data", dir)); it.Action != "keep" || it.Reason == "" {
		t.Errorf("explain: %+v", it)
	}

	out = s.ok("lifecycle", "run", "--data", dir)
	if !strings.Contains(out, `rule "past": remove 1, 7 B`) || strings.Contains(out, "tmp") {
		t.Errorf("run:\n%s", out)
	}
	lines := strings.Split(strings.TrimSpace(s.ok("lifecycle", "run", "--json", "--data", dir)), "\n")
	if l := decode[adminapi.LifecycleLine](t, lines[len(lines)-1]); l.Report == nil || l.Report.Scanned != 2 || len(l.Report.Counts) != 0 {
		t.Errorf("a second run: %s", lines)
	}
	var left []string
	for o := range root.ListObjects(t.Context(), "docs", minio.ListObjectsOptions{Recursive: true}) {
		left = append(left, o.Key)
	}
	if strings.Join(left, " ") != "kept tmp/a" {
		t.Errorf("left: %q", left)
	}

	s.fails(exitUsage, "--at goes with", "lifecycle", "run", "--at", later, "--data", dir)
	s.fails(exitUsage, "want a date", "lifecycle", "run", "--dry-run", "--at", "soon", "--data", dir)
	s.fails(exitUsage, "want BUCKET/KEY", "lifecycle", "explain", "docs", "--data", dir)
	s.fails(exitFailed, "version does not exist", "lifecycle", "explain", "docs/absent", "--data", dir)
	s.fails(exitFailed, "bucket does not exist", "lifecycle", "run", "--bucket", "absent", "--data", dir)
}
