package cli

import (
	"bytes"
	"encoding/json"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"firn/blob"
	"firn/blob/places"
	"firn/repo"
)

// newRepository returns a shell with a repository of its own and a directory to back up.
func newRepository(t *testing.T) *shell {
	t.Helper()
	s := newShell(t)
	s.env["FIRN_REPO"], s.env["FIRN_REPO_PASSWORD"] = "file:"+filepath.Join(t.TempDir(), "repo"), "secret"
	s.ok("repo", "init")
	if err := os.Mkdir("src", 0o755); err != nil {
		t.Fatal(err)
	}
	write(t, "src/a", []byte("content"))
	return s
}

// repository opens the repository until the function returned is called.
func (s *shell) repository() (r *repo.Repo, done func()) {
	s.t.Helper()
	store, err := (&places.Opener{}).Open(s.t.Context(), s.env["FIRN_REPO"])
	if err == nil {
		r, err = repo.Open(s.t.Context(), store, []byte(s.env["FIRN_REPO_PASSWORD"]), repo.Options{})
	}
	if err != nil {
		s.t.Fatal(err)
	}
	return r, func() {
		if err := errors.Join(r.Close(), store.Close()); err != nil {
			s.t.Error(err)
		}
	}
}

// session begins one of another host, that ends when the function returned is called.
func (s *shell) session(host string) (end func()) {
	s.t.Helper()
	r, done := s.repository()
	w, err := r.NewSession(s.t.Context(), repo.SessionOptions{Host: host})
	if err != nil {
		s.t.Fatal(err)
	}
	return func() {
		if err := w.Abort(s.t.Context()); err != nil {
			s.t.Error(err)
		}
		done()
	}
}

// A prune that waits for sessions says for which ones, once, and where nobody looks it is silent.
func TestPruneSaysThatItWaits(t *testing.T) {
	s := newRepository(t)
	run := func(terminal bool, args ...string) (out, said string) {
		t.Helper()
		end := s.session("far")
		defer end()
		var o, e bytes.Buffer
		code := Main(t.Context(), args, &Env{
			In: strings.NewReader(""), Out: &o, Err: &e, Getenv: s.getenv, Environ: s.environ, Terminal: terminal,
		})
		if code != exitOK {
			t.Fatalf("firn %s: exit %d: %s", strings.Join(args, " "), code, &e)
		}
		return o.String(), e.String()
	}
	if _, said := run(false, "repo", "prune", "--session-timeout", "300ms"); said != "" {
		t.Errorf("without a terminal: %s", said)
	}
	_, said := run(true, "repo", "prune", "--session-timeout", "300ms")
	if !strings.Contains(said, "waiting up to ") || strings.Count(said, "\n") != 2 || !strings.Contains(said, "  backup on far, process ") {
		t.Errorf("on a terminal: %s", said)
	}
	out, said := run(false, "--json", "repo", "prune", "--session-timeout", "300ms")
	var w waiting
	if err := json.Unmarshal([]byte(said), &w); err != nil {
		t.Fatalf("%v: %s", err, said)
	}
	if w.Event != "waiting" || w.Seconds <= 0 || w.Seconds > 0.3 || len(w.Sessions) != 1 || w.Sessions[0].Host != "far" ||
		w.Sessions[0].PID != os.Getpid() || time.Since(w.Sessions[0].Started) > time.Hour {
		t.Errorf("%+v", w)
	}
	var rep repo.PruneReport
	if err := json.Unmarshal([]byte(out), &rep); err != nil || rep.Dead != 1 {
		t.Errorf("the result is one document: %+v, %v: %s", rep, err, out)
	}
}

// --session-timeout is that of the prune that follows: with the default this test would take 5 minutes.
func TestForgetSessionTimeout(t *testing.T) {
	s := newRepository(t)
	s.ok("backup", "src")
	write(t, "src/a", []byte("other content"))
	s.ok("backup", "src")
	for _, args := range [][]string{
		{"forget", "--keep-last", "1", "--session-timeout", "1s"},
		{"forget", "--keep-last", "1", "--prune", "--session-timeout", "soon"},
	} {
		if r := s.run(args...); r.code != exitUsage || !strings.Contains(r.err, "--session-timeout") {
			t.Errorf("firn %s: %+v", strings.Join(args, " "), r)
		}
	}
	end := s.session("dead")
	out := s.ok("forget", "--keep-last", "1", "--prune", "--session-timeout", "300ms")
	if !strings.Contains(out, "forgot 1 snapshots\n") || !strings.Contains(out, "freed ") || strings.Contains(out, "freed 0 packs") {
		t.Errorf("%s", out)
	}
	var stats repo.Stats
	if err := json.Unmarshal([]byte(s.ok("--json", "repo", "stats")), &stats); err != nil || stats.Sessions != 0 || stats.Snapshots != 1 {
		t.Errorf("%+v, %v", stats, err)
	}
	end()
	s.ok("repo", "check", "--read-data")
}

// A snapshot from the future is reported, kept, and not the one that is the latest.
func TestForgetFromTheFuture(t *testing.T) {
	s := newRepository(t)
	s.ok("backup", "src")
	r, done := s.repository()
	snaps, err := r.Snapshots(t.Context())
	if err == nil {
		_, err = r.Tag(t.Context(), snaps[0].ID, func(s *repo.Snapshot) { s.Time = s.Time.AddDate(50, 0, 0) })
	}
	if err != nil {
		t.Fatal(err)
	}
	done()
	for _, content := range []string{"second", "third"} {
		write(t, "src/a", []byte(content))
		s.ok("backup", "src")
	}
	src, err := filepath.Abs("src")
	if err != nil {
		t.Fatal(err)
	}
	s.ok("restore", "latest:"+src, "--target", "out")
	if got, err := os.ReadFile("out/a"); err != nil || string(got) != "third" {
		t.Errorf("the latest has %q, %v", got, err)
	}
	run := s.run("forget", "--keep-last", "1")
	if run.code != exitOK || !strings.Contains(run.out, "  from the future") || !strings.Contains(run.out, "forgot 1 snapshots") ||
		!strings.Contains(run.err, "1 snapshots of") {
		t.Errorf("%+v", run)
	}
}

// A place of a mirror that lost everything, or a blob, is filled again; one that is away is named.
func TestBlobRepair(t *testing.T) {
	s := newShell(t)
	dir := t.TempDir()
	a, b := filepath.Join(dir, "a"), filepath.Join(dir, "b")
	write(t, "firn.yaml", []byte("places:\n  a:\n    url: file:"+a+"\n  b:\n    url: file:"+b+"\n  both:\n    mirror: [a, b]\n    mirror_writes: 2\n"))
	s.ok("blob", "init", "place:both")
	for key, content := range map[string]string{"one": "1", "dir/two": strings.Repeat("2", 100_000), "three": ""} {
		write(t, "content", []byte(content))
		s.ok("blob", "put", "place:both", key, "content")
	}
	repair := func() (doc blobRepair) {
		t.Helper()
		if err := json.Unmarshal([]byte(s.ok("--json", "blob", "repair", "place:both")), &doc); err != nil {
			t.Fatal(err)
		}
		if len(doc.Members) != 2 || doc.Left != 0 {
			t.Errorf("%+v", doc)
		}
		for _, m := range doc.Members {
			if m.Owed != 0 || m.Filling || m.Away != nil {
				t.Errorf("%+v", m)
			}
		}
		return doc
	}
	whole := func(what string) {
		t.Helper()
		if got := s.ok("blob", "get", "place:b", "dir/two"); got != strings.Repeat("2", 100_000) {
			t.Errorf("%s: there are %d bytes", what, len(got))
		}
		for _, key := range []string{"one", "three"} {
			s.ok("blob", "get", "place:b", key)
		}
	}
	if did := repair(); did.Copied+did.Deleted != 0 {
		t.Errorf("nothing was to be repaired: %+v", did)
	}
	s.ok("blob", "rm", "place:b", "one")
	write(t, "content", []byte("short"))
	s.ok("blob", "put", "place:b", "dir/two", "content")
	if did := repair(); did.Copied != 2 {
		t.Errorf("one blob is lacking and one is cut: %+v", did)
	}
	whole("after a loss")

	if err := os.Rename(b, b+".away"); err != nil {
		t.Fatal(err)
	}
	r := s.run("blob", "repair", "place:both")
	if r.code != exitFailed || !strings.Contains(r.out, "  b: away: ") || strings.Count(r.err, `"msg":"a place of a mirror is away`) != 1 {
		t.Errorf("a place that is away: %+v", r)
	}
	s.ok("blob", "init", "place:b") // a new disk
	if did := repair(); did.Copied != 3 {
		t.Errorf("a place that lost everything: %+v", did)
	}
	whole("on a new disk")
	if out := s.ok("blob", "repair", "place:both"); !strings.Contains(out, "copied 0, deleted 0, left 0") || !strings.Contains(out, "b: whole") {
		t.Errorf("%s", out)
	}
	if r := s.run("blob", "repair", "place:a"); r.code != exitFailed || !strings.Contains(r.err, "no mirror") {
		t.Errorf("a place that is no mirror: %+v", r)
	}
}

// What a mirror's places miss, and get back, is in metrics and in the log, once.
func TestMirrorMetrics(t *testing.T) {
	s := newShell(t)
	dir := t.TempDir()
	b := filepath.Join(dir, "b")
	write(t, "firn.yaml", []byte("places:\n  a:\n    url: file:"+filepath.Join(dir, "a")+"\n  b:\n    url: file:"+b+
		"\n  c:\n    url: file:"+filepath.Join(dir, "c")+"\n  three:\n    mirror: [a, b, c]\n    mirror_writes: 2\n"))
	s.ok("blob", "init", "place:three")
	var log bytes.Buffer
	watch := newMirrors(slog.New(slog.NewTextHandler(&log, nil)))
	reg := prometheus.NewRegistry()
	if err := reg.Register(watch); err != nil {
		t.Fatal(err)
	}
	metrics := func() map[string]float64 {
		t.Helper()
		families, err := reg.Gather()
		if err != nil {
			t.Fatal(err)
		}
		all := map[string]float64{}
		for _, f := range families {
			for _, m := range f.GetMetric() {
				if l := m.GetLabel(); l[0].GetValue() == "three" && l[1].GetValue() == "b" {
					all[f.GetName()] = m.GetGauge().GetValue() + m.GetCounter().GetValue()
				}
			}
		}
		return all
	}
	o := opener{env: &Env{Getenv: s.getenv, Environ: s.environ}, watch: watch}
	with := func(fn func(*blob.Store) error) {
		t.Helper()
		if err := o.with(t.Context(), "place:three", fn); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Rename(b, b+".away"); err != nil {
		t.Fatal(err)
	}
	with(func(p *blob.Store) error {
		for _, key := range []string{"one", "two"} {
			if err := p.PutBytes(t.Context(), key, []byte("content")); err != nil {
				return err
			}
		}
		return nil
	})
	if m := metrics(); m["firn_mirror_place_away"] != 1 || m["firn_mirror_missed_changes_total"] != 2 || m["firn_mirror_repaired_total"] != 0 {
		t.Errorf("while it is away: %v", m)
	}
	if n := strings.Count(log.String(), "is away"); n != 1 {
		t.Errorf("that it is away is told %d times: %s", n, &log)
	}
	if err := os.Rename(b+".away", b); err != nil {
		t.Fatal(err)
	}
	with(func(p *blob.Store) error {
		_, _, err := places.Repair(t.Context(), p)
		return err
	})
	if m := metrics(); m["firn_mirror_place_away"] != 0 || m["firn_mirror_repaired_total"] != 2 {
		t.Errorf("when it is back: %v", m)
	}
	if !strings.Contains(log.String(), "has all that it missed") {
		t.Errorf("that it is whole is not told: %s", &log)
	}
}
