package tiers

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"

	"firn/adminapi"
	"firn/test/server"
)

const (
	largeSize = 112<<20 + 12345
	cutAt     = 80 << 20
	// lostAtMost is what a cut costs: a part of S3 that was not complete, or what was not synced, and what was on its way.
	lostAtMost = 40 << 20
)

// unfinished is what the tiers keep of copies that are not complete.
func (s *site) unfinished() (all []string) {
	s.t.Helper()
	client, err := minio.NewCore(strings.TrimPrefix(s.minio.Endpoint, "http://"), &minio.Options{
		Creds: credentials.NewStaticV4(s.minio.Access, s.minio.Secret, ""), Region: "us-east-1",
	})
	s.must(err)
	for _, key := range []string{"film", "other"} { // MinIO lists those of one key only
		page, err := client.ListMultipartUploads(s.t.Context(), "warm", "site-1/objects/plain/"+key, "", "", "", 10)
		s.must(err)
		for _, u := range page.Uploads {
			all = append(all, u.Key)
		}
	}
	files, err := filepath.Glob(filepath.Join(s.sshd.Root, "cold", ".firn-tmp", "*"))
	s.must(err)
	return append(all, files...)
}

// tierOf returns what is known of a tier.
func (s *site) tierOf(name string) adminapi.Tier {
	s.t.Helper()
	var all adminapi.Tiers
	s.must(json.Unmarshal([]byte(s.tier("status", "--json")), &all))
	for _, t := range all.Tiers {
		if t.Name == name {
			return t
		}
	}
	s.t.Fatalf("no tier %s", name)
	return adminapi.Tier{}
}

// killWhileMoving has the site killed when so many bytes of a move have gone out, and starts it again.
func (s *site) killWhileMoving(class, object string, after int64) {
	s.t.Helper()
	line := s.lines[class]
	line.StallAfter(after)
	ctx, cancel := context.WithCancel(s.t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = server.Run(ctx, s.t, "tier", "move", object, class, "--data", s.Data()) // cut off
	}()
	eventually(s.t, "the move is under way", func() bool { _, stalled := line.Sent(); return stalled })
	s.Kill()
	cancel()
	<-done
	line.Cut()
	line.Resume()
	s.Server.Start(s.t)
}

// TestLargeObjects cuts moves of a large object off, by a kill and by the line: what had come to the tier is not sent again,
// and where the object is gone meanwhile nothing of it stays there.
func TestLargeObjects(t *testing.T) {
	s := newSiteBy(t, "plain", true)
	ctx := t.Context()
	s.must(s.client.MakeBucket(ctx, "plain", minio.MakeBucketOptions{}))
	put := func(key string, seed uint64) {
		t.Helper()
		_, err := s.client.PutObject(ctx, "plain", key, bytes.NewReader(content(largeSize, seed)), largeSize, minio.PutObjectOptions{PartSize: 64 << 20})
		s.must(err)
	}
	put("film", 1)
	sum, err := s.read("plain", "film", "")
	s.must(err)
	for _, class := range []string{"WARM", "COLD"} {
		line, name := s.lines[class], strings.ToLower(class)
		s.killWhileMoving(class, "plain/film", cutAt)
		if len(s.unfinished()) != 1 {
			t.Errorf("%s: unfinished: %q", class, s.unfinished())
		}
		eventually(t, "the site knows what it began", func() bool {
			return strings.Contains(s.tier("explain", "plain/film"), "a copy to tier "+name+" was begun") && s.tierOf(name).Begun.Objects == 1
		})
		before, _ := line.Sent()
		s.tier("move", "plain/film", class)
		after, _ := line.Sent()
		st := s.tierOf(name)
		t.Logf("%s: killed after %d of %d bytes; then %d were sent, %d were there", class, cutAt, largeSize, after-before, st.ResumedBytes)
		if sent := after - before; sent > largeSize-cutAt+lostAtMost || st.ResumedBytes < cutAt-lostAtMost {
			t.Errorf("%s: after the kill %d bytes were sent, and %d were there", class, sent, st.ResumedBytes)
		}
		if got, err := s.read("plain", "film", ""); err != nil || got != sum {
			t.Errorf("%s: %s, %v", class, got, err)
		}
		if left := s.unfinished(); len(left) > 0 {
			t.Errorf("%s: unfinished: %q", class, left)
		}
		s.tier("recall", "plain/film")

		// A line that breaks costs no more, and nobody has to ask again.
		line.CutAfter(cutAt)
		before, _ = line.Sent()
		s.tier("move", "plain/film", class)
		after, _ = line.Sent()
		t.Logf("%s: over a line that broke after %d bytes %d were sent", class, cutAt, after-before)
		if after-before > largeSize+lostAtMost {
			t.Errorf("%s: over a line that broke %d bytes were sent", class, after-before)
		}
		if got, err := s.read("plain", "film", ""); err != nil || got != sum {
			t.Errorf("%s: %s, %v", class, got, err)
		}
	}

	put("other", 2)
	for _, class := range []string{"WARM", "COLD"} {
		s.killWhileMoving(class, "plain/other", cutAt)
	}
	if left := s.unfinished(); len(left) != 2 {
		t.Errorf("unfinished: %q", left)
	}
	s.must(s.client.RemoveObject(ctx, "plain", "other", minio.RemoveObjectOptions{}))
	s.MustStop(t)
	s.Server.Start(t)
	eventually(t, "nothing of it is on the tiers", func() bool { return len(s.unfinished()) == 0 })
	if _, err := os.Stat(filepath.Join(s.sshd.Root, "cold", "tier", "objects", "plain", "film")); err != nil {
		t.Error(err)
	}
}
