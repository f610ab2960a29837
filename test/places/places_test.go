// Package places drives the real binary through the life of a backup repository in each kind of place, each on a real
// server of its kind: made, written, checked, read back, thinned out, pruned, read back again.
package places

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"firn/test/server"
)

// place is where a repository goes: its URL, and what a user sets to reach it.
type place struct {
	url string
	env []string
}

// user is somebody with a home of their own and one repository.
type user struct {
	binary, dir string
	p           place
}

func newUser(t *testing.T, p place) *user {
	t.Helper()
	return &user{server.Binary(t), t.TempDir(), p}
}

// command is the binary with args. Nothing of whoever runs the test gets in.
func (u *user) command(args ...string) *exec.Cmd {
	c := exec.Command(u.binary, args...)
	c.Dir = u.dir
	c.Env = append([]string{
		"PATH=" + os.Getenv("PATH"), "TMPDIR=" + os.TempDir(), "HOME=" + u.dir,
		"FIRN_REPO=" + u.p.url, "FIRN_REPO_PASSWORD=secret", "FIRN_CACHE_DIR=" + filepath.Join(u.dir, "cache"),
	}, u.p.env...)
	c.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} // it does not outlive the test
	return c
}

// run returns what the command wrote, and fails the test where it does not end with the code.
func (u *user) run(t *testing.T, code int, args ...string) string {
	t.Helper()
	return finish(t, u.command(args...), code)
}

func finish(t *testing.T, c *exec.Cmd, code int) string {
	t.Helper()
	out, err := c.CombinedOutput()
	var x *exec.ExitError
	if err != nil && !errors.As(err, &x) {
		t.Fatal(err)
	}
	if got := c.ProcessState.ExitCode(); got != code {
		t.Fatalf("firn %s ended with %d, want %d:\n%s", strings.Join(c.Args[1:], " "), got, code, out)
	}
	return string(out)
}

// src is the directory that is backed up.
func (u *user) src() string { return filepath.Join(u.dir, "src") }

// files is how many there are, of 12 KiB on average.
const files = 250

// write writes those of the files whose number is a multiple of step, with new content each time.
func (u *user) write(t *testing.T, step int) {
	t.Helper()
	for i := 0; i < files; i += step {
		path := filepath.Join(u.src(), fmt.Sprintf("d%d", i%9), fmt.Sprintf("e%d", i%4), fmt.Sprintf("f %d é", i))
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		b := make([]byte, i*96)
		for i := range b {
			b[i] = byte(rand.Uint32())
		}
		if err := os.WriteFile(path, b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// content is what the files beneath dir hold.
func content(t *testing.T, dir string) map[string][]byte {
	t.Helper()
	all := map[string][]byte{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		b, err := os.ReadFile(path)
		all[strings.TrimPrefix(path, dir)] = b
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// restored restores a snapshot, without what a cache holds, and compares it with what was backed up.
func (u *user) restored(t *testing.T, snapshot string, want map[string][]byte) {
	t.Helper()
	to := filepath.Join(t.TempDir(), "out")
	u.run(t, 0, "restore", "--cache-dir", "none", snapshot+":"+u.src(), "--target", to)
	got := content(t, to)
	for name, b := range want {
		if g, ok := got[name]; !ok || !bytes.Equal(g, b) {
			t.Errorf("%s of %s: %d bytes, there %v, want %d", name, snapshot, len(g), ok, len(b))
		}
	}
	if len(got) != len(want) {
		t.Errorf("%d files came back of %s, want %d", len(got), snapshot, len(want))
	}
}

// parse reads a JSON document.
func parse[T any](t *testing.T, doc string) T {
	t.Helper()
	var v T
	if err := json.Unmarshal([]byte(doc), &v); err != nil {
		t.Fatalf("%v:\n%s", err, doc)
	}
	return v
}

// packs are the bytes in the packs of the repository.
func (u *user) packs(t *testing.T) int64 {
	t.Helper()
	var n int64
	for doc := range strings.Lines(u.run(t, 0, "blob", "ls", "--json", u.p.url, "packs/")) {
		n += parse[struct{ Size int64 }](t, doc).Size
	}
	return n
}

// Whatever the place, a repository in it lives: what was backed up comes back byte for byte, before old snapshots were
// removed and after, and a prune gives back space.
func life(t *testing.T, p place) {
	u := newUser(t, p)
	u.run(t, 0, "blob", "init", p.url)
	u.run(t, 0, "repo", "init")
	u.write(t, 1)
	first := content(t, u.src())
	u.run(t, 0, "backup", "--tag", "first", "src")
	u.write(t, 2)
	if err := os.Remove(filepath.Join(u.src(), "d1", "e1", "f 1 é")); err != nil {
		t.Fatal(err)
	}
	second := content(t, u.src())
	u.run(t, 0, "backup", "--tag", "second", "src")
	snaps := u.snapshots(t)
	if len(snaps) != 2 || snaps["first"] == "" || snaps["second"] == "" {
		t.Fatalf("snapshots: %v", snaps)
	}
	u.run(t, 0, "repo", "check", "--read-data")
	u.restored(t, snaps["first"], first)
	u.restored(t, "latest", second)
	before := u.packs(t)
	u.run(t, 0, "forget", "--keep-last", "1")
	if left := u.snapshots(t); len(left) != 1 || left["second"] != snaps["second"] {
		t.Fatalf("snapshots after forget: %v, want %v", left, snaps["second"])
	}
	u.run(t, 0, "repo", "prune", "--max-unused", "0")
	if after := u.packs(t); after >= before {
		t.Errorf("%d bytes in packs after the prune, %d before", after, before)
	}
	u.run(t, 0, "repo", "check", "--read-data")
	u.restored(t, "latest", second)
}

// snapshots are the ids by the tag.
func (u *user) snapshots(t *testing.T) map[string]string {
	t.Helper()
	all := map[string]string{}
	for _, s := range parse[[]struct {
		ID   string
		Tags []string
	}](t, u.run(t, 0, "snapshots", "--json")) {
		all[strings.Join(s.Tags, ",")] = s.ID
	}
	return all
}
