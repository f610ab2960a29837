package backup

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"firn/test/backends"
	"firn/test/server"
)

// host is one of several that share a repository: it has a name, a directory, a cache and what it backed up, by tag.
type host struct {
	name, src string
	env       []string
	r         *rand.Rand
	made      map[string]map[string]string
}

func newHost(t *testing.T, name string, r *rand.Rand, env ...string) *host {
	t.Helper()
	dir := t.TempDir()
	h := &host{name: name, src: filepath.Join(dir, "src"), r: r, made: map[string]map[string]string{}}
	h.env = append(append(os.Environ(), "FIRN_REPO_PASSWORD=secret", "FIRN_CACHE_DIR="+filepath.Join(dir, "cache")), env...)
	fill(t, r, h.src, 20)
	return h
}

func (h *host) command(binary string, args ...string) *exec.Cmd {
	c := exec.Command(binary, args...)
	c.Env = h.env
	return c
}

// run returns an error rather than failing the test: hosts run beside each other.
func (h *host) run(binary string, args ...string) (string, error) {
	var out, said bytes.Buffer
	c := h.command(binary, args...)
	c.Stdout, c.Stderr = &out, &said
	if err := c.Run(); err != nil {
		return "", fmt.Errorf("%s: firn %s: %w\n%s%s", h.name, strings.Join(args, " "), err, &out, &said)
	}
	return out.String(), nil
}

// change replaces some files by one of few contents. What a prune is about to delete is thus often needed again.
func (h *host) change() error {
	for range 6 {
		b := make([]byte, 100<<10)
		content := rand.NewChaCha8([32]byte{byte(h.r.IntN(12))})
		_, _ = content.Read(b) // never fails
		path := filepath.Join(h.src, fmt.Sprintf("changing%d", h.r.IntN(6)))
		if err := os.WriteFile(path, b, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// backup changes the files and backs them up under a new tag.
func (h *host) backup(t *testing.T, binary string) error {
	if err := h.change(); err != nil {
		return err
	}
	tag := fmt.Sprintf("%s-%d", h.name, len(h.made))
	h.made[tag] = content(t, h.src)
	_, err := h.run(binary, "backup", "--quiet", "--host", h.name, "--tag", tag, h.src)
	return err
}

// whole checks the repository and restores each snapshot of it, and compares it with what was backed up.
func (h *host) whole(t *testing.T, binary string, made map[string]map[string]string, src map[string]string) int {
	t.Helper()
	if _, err := h.run(binary, "repo", "check", "--read-data"); err != nil {
		t.Error(err)
	}
	out, err := h.run(binary, "snapshots", "--json")
	if err != nil {
		t.Fatal(err)
	}
	var snaps []struct {
		ID, Host string
		Tags     []string
	}
	if err := json.Unmarshal([]byte(out), &snaps); err != nil {
		t.Fatal(err)
	}
	for _, s := range snaps {
		to := filepath.Join(t.TempDir(), "out")
		if _, err := h.run(binary, "restore", "--quiet", "--no-sync", s.ID+":"+src[s.Host], "--target", to); err != nil {
			t.Error(err)
			continue
		}
		if len(s.Tags) != 1 || made[s.Tags[0]] == nil {
			t.Fatalf("snapshot %s has tags %q", s.ID, s.Tags)
		}
		same(t, made[s.Tags[0]], content(t, to))
	}
	return len(snaps)
}

// Killed anywhere in forget, prune or copy, no snapshot that is listed loses anything, on either side.
func TestKilledTending(t *testing.T) {
	binary := server.Binary(t)
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	dir := t.TempDir()
	from, to := "file:"+filepath.Join(dir, "repo"), "file:"+filepath.Join(dir, "copy")
	h := newHost(t, "a", r, "FIRN_REPO="+from, "FIRN_TO_REPO="+to, "FIRN_TO_REPO_PASSWORD=secret")
	other := &host{name: "copy", env: append(h.env, "FIRN_REPO="+to)}
	for _, x := range []*host{h, other} {
		if _, err := x.run(binary, "repo", "init"); err != nil {
			t.Fatal(err)
		}
	}
	for name, args := range map[string][]string{
		"forget": {"forget", "--keep-last", "2"},
		"prune":  {"repo", "prune", "--session-timeout", "1s", "--max-unused", "0%"},
		"copy":   {"repo", "copy"},
	} {
		t.Run(name, func(t *testing.T) {
			killed, runs := 0, 0
			took := 500 * time.Millisecond
			for end := time.Now().Add(6 * time.Second); time.Now().Before(end) || runs < 4; runs++ {
				if err := h.backup(t, binary); err != nil {
					t.Fatal(err)
				}
				// Something for a prune to do.
				if _, err := h.run(binary, "forget", "--keep-last", "3"); err != nil {
					t.Fatal(err)
				}
				begin := time.Now()
				if killAfter(t, h.command(binary, args...), time.Duration(r.Int64N(int64(took)))) {
					killed++
				} else {
					took = max(time.Since(begin), 50*time.Millisecond)
				}
			}
			if killed == 0 {
				t.Errorf("none of %d was killed: this test looks at the wrong time", runs)
			}
			// To its end; no other session runs, so that the dead ones need not be watched for long.
			for _, args := range [][]string{args, {"forget", "--keep-last", "3"}, {"repo", "prune", "--session-timeout", "1s"}} {
				if _, err := h.run(binary, args...); err != nil {
					t.Error(err)
				}
			}
			if n := h.whole(t, binary, h.made, map[string]string{h.name: h.src}); n == 0 {
				t.Error("no snapshot is left")
			}
			t.Logf("%d of %d killed", killed, runs)
		})
	}
	if n := other.whole(t, binary, h.made, map[string]string{h.name: h.src}); n == 0 {
		t.Error("nothing was copied")
	}
}

// Two hosts that write and one that prunes beside them lose nothing.
func TestManyHosts(t *testing.T) {
	t.Run("file", func(t *testing.T) {
		manyHosts(t, 25*time.Second, "FIRN_REPO=file:"+filepath.Join(t.TempDir(), "repo"))
	})
	for name, start := range map[string]func(testing.TB) *backends.S3{"minio": backends.MinIO, "versitygw": backends.VersityGW} {
		t.Run(name, func(t *testing.T) {
			s := start(t)
			manyHosts(t, 15*time.Second, "FIRN_REPO=s3://backups/many?style=path&endpoint="+s.Endpoint,
				"AWS_ACCESS_KEY_ID="+s.Access, "AWS_SECRET_ACCESS_KEY="+s.Secret)
		})
	}
}

// manyHosts runs the hosts for a time on the repository that env names.
func manyHosts(t *testing.T, during time.Duration, env ...string) {
	t.Helper()
	binary := server.Binary(t)
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	hosts := make([]*host, 3)
	for i := range hosts {
		hosts[i] = newHost(t, string(rune('a'+i)), rand.New(rand.NewPCG(seed, uint64(i))), env...)
	}
	pruner := hosts[2]
	_, place, _ := strings.Cut(env[0], "=")
	for _, args := range [][]string{{"blob", "init", place}, {"repo", "init"}} {
		if _, err := pruner.run(binary, args...); err != nil {
			t.Fatal(err)
		}
	}
	end := time.Now().Add(during)
	prunes := 0
	var g errgroup.Group
	for _, h := range hosts[:2] {
		g.Go(func() error {
			for time.Now().Before(end) {
				if err := h.backup(t, binary); err != nil {
					return err
				}
			}
			return nil
		})
	}
	g.Go(func() error {
		for ; time.Now().Before(end); prunes++ {
			_, err := pruner.run(binary, "forget", "--keep-last", "2", "--group-by", "host", "--prune")
			if err != nil {
				return err
			}
		}
		return nil
	})
	if err := g.Wait(); err != nil {
		t.Error(err)
	}
	made, src := maps.Clone(hosts[0].made), map[string]string{}
	maps.Copy(made, hosts[1].made)
	for _, h := range hosts[:2] {
		src[h.name] = h.src
		last := fmt.Sprintf("%s-%d", h.name, len(h.made)-1)
		if out, err := pruner.run(binary, "snapshots", "--json", "--tag", last); err != nil || !strings.Contains(out, last) {
			t.Errorf("the last snapshot of host %s, %s, is not listed: %v", h.name, last, err)
		}
	}
	n := pruner.whole(t, binary, made, src)
	if prunes == 0 || len(made) < 2 {
		t.Errorf("%d backups, %d prunes: too little happened", len(made), prunes)
	}
	t.Logf("%d backups, %d prunes, %d snapshots left", len(made), prunes, n)
}
