package sidecar

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"firn/test/backends"
)

// A move from scheme to scheme while the sidecar runs and the service writes: it goes on in the new place, and nodes that
// still have the old URL find it.
func TestMove(t *testing.T) {
	t.Parallel()
	w, dir := local(t), t.TempDir()
	w.env = []string{"FIRN_SIDECAR_KEEP=50"}
	redis := backends.RedisServer(t)
	p := w.sidecar(t, dir, "--init")
	p.ready(t)
	for _, content := range []string{"one", "two", "three"} {
		write(t, dir, map[string]string{"data": content, "sub/" + content: content})
		p.must(t, "sidecar", "backup")
	}
	before := p.versions(t)
	urls := []string{
		w.url, "plain+sqlite:" + filepath.Join(t.TempDir(), "files.db"), "redis://" + redis.Addr + "/0?prefix=moved",
		"plain+git+file://" + filepath.Join(t.TempDir(), "files.git"), "file:" + filepath.Join(t.TempDir(), "last"),
	}
	for i, to := range urls[1:] {
		p.must(t, "persist", "move", "--from", urls[i], "--to", to, "--lease-ttl", ttl)
		write(t, dir, map[string]string{"data": "after " + to})
		eventually(t, "the sidecar goes on in "+to, func() bool {
			s := p.status(t)
			return s.Target == to && s.Failures == 0
		})
		p.must(t, "sidecar", "backup")
	}
	if code := p.stop(t); code != 0 {
		t.Errorf("code %d", code)
	}
	// A node that knows only the first URL.
	second := t.TempDir()
	p = w.sidecar(t, second)
	p.ready(t)
	if got := read(t, second, "data"); got != "after "+urls[4] {
		t.Errorf("data: %q", got)
	}
	if code := p.stop(t); code != 0 {
		t.Errorf("code %d", code)
	}
	// The history came along.
	last := world{url: urls[4], env: w.env}
	p.w = last
	after := p.versions(t)
	if len(after) < len(before)+2 {
		t.Errorf("%d versions of %d came along: %+v", len(after), len(before), after)
	}
	third := t.TempDir()
	q := last.sidecar(t, third)
	q.ready(t)
	q.must(t, "sidecar", "rollback", after[2].ID)
	q.stop(t)
	q = last.sidecar(t, third)
	q.ready(t)
	if got := read(t, third, "data") + read(t, third, "sub/two"); !strings.HasPrefix(got, "two") {
		t.Errorf("the third version is %q after four moves", got)
	}
}

// A source with a letter wrong is an error, and not made.
func TestMoveFromNowhere(t *testing.T) {
	t.Parallel()
	w, nowhere, to := local(t), filepath.Join(t.TempDir(), "nowhere"), filepath.Join(t.TempDir(), "to")
	p := &process{w: w, addr: "127.0.0.1:1"}
	if out, code := p.command(t, "persist", "move", "--from", "file:"+nowhere, "--to", "file:"+to); code != 1 {
		t.Errorf("code %d: %s", code, out)
	}
	for _, path := range []string{nowhere, to} {
		if _, err := os.Stat(path); err == nil {
			t.Errorf("%s was made", path)
		}
	}
}
