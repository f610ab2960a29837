// Package backup drives the real binary through backups and restores that are killed, and that meet files it may not
// read.
package backup

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
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"firn/test/server"
)

// command returns the binary with args, working on the repository in dir.
func command(t *testing.T, dir string, args ...string) *exec.Cmd {
	t.Helper()
	c := exec.Command(server.Binary(t), args...)
	c.Env = append(os.Environ(), "FIRN_REPO=file:"+filepath.Join(dir, "repo"), "FIRN_REPO_PASSWORD=secret")
	c.Dir = dir
	return c
}

// run runs it and fails the test where it does not end with the code.
func run(t *testing.T, dir string, code int, args ...string) string {
	t.Helper()
	c := command(t, dir, args...)
	var said bytes.Buffer
	c.Stderr = &said
	out, err := c.Output()
	var x *exec.ExitError
	if err != nil && !errors.As(err, &x) {
		t.Fatal(err)
	}
	if got := c.ProcessState.ExitCode(); got != code {
		t.Fatalf("firn %s ended with %d, want %d:\n%s%s", strings.Join(args, " "), got, code, out, &said)
	}
	return string(out) + said.String()
}

// content returns the files beneath dir with what is in them.
func content(t *testing.T, dir string) map[string]string {
	t.Helper()
	all := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		b, err := os.ReadFile(path)
		all[strings.TrimPrefix(path, dir)] = string(b)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func same(t *testing.T, want, got map[string]string) {
	t.Helper()
	for name, c := range want {
		if g, ok := got[name]; !ok || g != c {
			t.Errorf("%s: %d bytes, there %v, want %d", name, len(g), ok, len(c))
		}
	}
	for name := range got {
		if _, ok := want[name]; !ok {
			t.Errorf("%s should not be there", name)
		}
	}
}

// fill writes files beneath dir.
func fill(t *testing.T, r *rand.Rand, dir string, n int) {
	t.Helper()
	for i := range n {
		path := filepath.Join(dir, fmt.Sprintf("d%d", i%7), fmt.Sprintf("f%d", i))
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		size := r.IntN(200 << 10)
		if i%40 == 0 {
			size = 6 << 20
		}
		b := make([]byte, size)
		for i := range b {
			b[i] = byte(r.Uint32())
		}
		if err := os.WriteFile(path, b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// killAfter starts the command, kills it, and reports whether it was still running.
func killAfter(t *testing.T, c *exec.Cmd, after time.Duration) bool {
	t.Helper()
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	timer := time.AfterFunc(after, func() { _ = c.Process.Kill() }) // it may have ended
	defer timer.Stop()
	_ = c.Wait() // its exit code is looked at
	return c.ProcessState.Sys().(syscall.WaitStatus).Signaled()
}

// Killed anywhere in a backup, the repository stays whole, each snapshot that is listed restores, and the next run
// makes one.
func TestKilledBackup(t *testing.T) {
	dir := t.TempDir()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	src := filepath.Join(dir, "src")
	fill(t, r, src, 200)
	run(t, dir, 0, "repo", "init")
	begin := time.Now()
	run(t, dir, 0, "backup", "src")
	took := time.Since(begin)
	killed := 0
	for i := range 12 {
		fill(t, r, filepath.Join(src, fmt.Sprint("more", i)), 30)
		if killAfter(t, command(t, dir, "backup", "src"), time.Duration(r.Int64N(int64(took)))) {
			killed++
		}
	}
	if killed < 3 {
		t.Errorf("only %d of 12 backups were killed: this test looks at the wrong time", killed)
	}
	run(t, dir, 0, "backup", "src")
	run(t, dir, 0, "repo", "check", "--read-data")
	run(t, dir, 0, "restore", "latest:"+src, "--target", "out", "--verify")
	same(t, content(t, src), content(t, filepath.Join(dir, "out")))
	var snaps []struct{ ID string }
	if err := json.Unmarshal([]byte(run(t, dir, 0, "snapshots", "--json")), &snaps); err != nil {
		t.Fatal(err)
	}
	for _, s := range snaps {
		run(t, dir, 0, "drill", s.ID, "--sample", "100%")
	}
}

// Killed anywhere, a restore is not taken for whole, and the same command finishes it.
func TestKilledRestore(t *testing.T) {
	dir := t.TempDir()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	src := filepath.Join(dir, "src")
	fill(t, r, src, 200)
	run(t, dir, 0, "repo", "init")
	run(t, dir, 0, "backup", "src")
	args := []string{"restore", "latest:" + src, "--target", "out", "--no-sync", "--delete"}
	begin := time.Now()
	run(t, dir, 0, args...)
	took := time.Since(begin)
	marker := filepath.Join(dir, "out", ".firn-restore-unfinished")
	want := content(t, src)
	killed := 0
	for i := range 12 {
		if i%3 == 0 {
			if err := os.RemoveAll(filepath.Join(dir, "out")); err != nil {
				t.Fatal(err)
			}
		}
		if killAfter(t, command(t, dir, args...), time.Duration(r.Int64N(int64(took)))) {
			killed++
			_, err := os.Stat(marker)
			if _, derr := os.Stat(filepath.Join(dir, "out", "d0")); derr == nil && err != nil && i%3 == 0 {
				// Without a marker there is nothing yet, or all of it.
				same(t, want, content(t, filepath.Join(dir, "out")))
			}
		}
	}
	if killed < 3 {
		t.Errorf("only %d of 12 restores were killed: this test looks at the wrong time", killed)
	}
	run(t, dir, 0, args...)
	same(t, want, content(t, filepath.Join(dir, "out")))
}

// What a user may not read is reported and listed, the rest is backed up, and the exit code says so.
func TestUnreadable(t *testing.T) {
	dir := t.TempDir()
	// The test's own directories are closed to others.
	for d := dir; d != os.TempDir() && d != "/"; d = filepath.Dir(d) {
		if err := os.Chmod(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	src := filepath.Join(dir, "src")
	for name, mode := range map[string]fs.FileMode{"a": 0o644, "secret": 0o600, "z": 0o644, "closed/inside": 0o644} {
		path := filepath.Join(src, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(name), mode); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(os.Chmod(filepath.Join(src, "closed"), 0o700), os.Mkdir(filepath.Join(dir, "mine"), 0o777), os.Chmod(filepath.Join(dir, "mine"), 0o777)); err != nil {
		t.Fatal(err)
	}
	// A copy that others may run, wherever the real one is.
	binary := filepath.Join(dir, "firn")
	b, err := os.ReadFile(server.Binary(t))
	if err == nil {
		err = os.WriteFile(binary, b, 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
	as := func(code int, args ...string) string {
		t.Helper()
		c := exec.Command(binary, args...)
		c.Dir = dir
		c.Env = []string{"FIRN_REPO=file:" + filepath.Join(dir, "mine", "repo"), "FIRN_REPO_PASSWORD=secret", "HOME=" + dir, "PATH=" + os.Getenv("PATH")}
		c.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
		out, err := c.CombinedOutput()
		if c.ProcessState == nil || c.ProcessState.ExitCode() != code {
			t.Fatalf("firn %s: %v, want exit code %d:\n%s", strings.Join(args, " "), err, code, out)
		}
		return string(out)
	}
	as(0, "repo", "init")
	out := as(3, "backup", "src")
	for _, name := range []string{"secret", "closed"} {
		if !strings.Contains(out, "unreadable "+filepath.Join(src, name)+": permission denied") {
			t.Errorf("%s is not reported:\n%s", name, out)
		}
	}
	if out := as(0, "snapshots", "ls", "-r", "latest"); strings.Count(out, "not read: permission denied") != 2 {
		t.Errorf("the snapshot does not list what was not read:\n%s", out)
	}
	as(3, "restore", "latest:"+src, "--target", filepath.Join(dir, "mine", "out"))
	got := content(t, filepath.Join(dir, "mine", "out"))
	if names := slices.Sorted(func(yield func(string) bool) {
		for n := range got {
			if !yield(n) {
				return
			}
		}
	}); !slices.Equal(names, []string{"/a", "/z"}) {
		t.Errorf("restored %v", names)
	}
	// The next backup reads what it may read by then.
	if err := errors.Join(os.Chmod(filepath.Join(src, "secret"), 0o644), os.Chmod(filepath.Join(src, "closed"), 0o755)); err != nil {
		t.Fatal(err)
	}
	as(0, "backup", "src")
	as(0, "restore", "latest:"+src, "--target", filepath.Join(dir, "mine", "out"), "--delete")
	same(t, content(t, src), content(t, filepath.Join(dir, "mine", "out")))
}

// Damage is found, and told by the names of the files.
func TestDamageIsNamed(t *testing.T) {
	dir := t.TempDir()
	r := rand.New(rand.NewPCG(1, 1))
	fill(t, r, filepath.Join(dir, "src"), 30)
	run(t, dir, 0, "repo", "init")
	run(t, dir, 0, "backup", "src")
	var packs []string
	err := filepath.WalkDir(filepath.Join(dir, "repo", "packs"), func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			packs = append(packs, path)
		}
		return err
	})
	if err != nil || len(packs) < 2 {
		t.Fatalf("%d packs, %v", len(packs), err)
	}
	slices.SortFunc(packs, func(a, b string) int {
		x, _ := os.Stat(a)
		y, _ := os.Stat(b)
		return int(y.Size() - x.Size())
	})
	b, err := os.ReadFile(packs[0])
	if err != nil {
		t.Fatal(err)
	}
	b[len(b)/2] ^= 1
	if err := os.Chmod(packs[0], 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(packs[0], b, 0o600); err != nil {
		t.Fatal(err)
	}
	run(t, dir, 0, "repo", "check") // sizes are right
	out := run(t, dir, 3, "repo", "check", "--read-data")
	if !strings.Contains(out, "damaged: "+filepath.Join(dir, "src")) {
		t.Errorf("no file is named:\n%s", out)
	}
	out = run(t, dir, 3, "restore", "latest", "--target", "out")
	if !strings.Contains(out, "unreadable "+filepath.Join(dir, "src")) {
		t.Errorf("the restore names no file:\n%s", out)
	}
	// All others are there.
	got := content(t, filepath.Join(dir, "out", dir, "src"))
	want := content(t, filepath.Join(dir, "src"))
	for name, c := range got {
		if want[name] != c {
			t.Errorf("%s came back wrong", name)
		}
	}
	if len(got) < len(want)-2 || len(got) == len(want) {
		t.Errorf("%d of %d files came back", len(got), len(want))
	}
	run(t, dir, 3, "drill", "--sample", "100%")
	// An index made anew from what is good, and a backup, make it whole again.
	run(t, dir, 0, "repo", "repair", "--read-data")
	run(t, dir, 0, "backup", "src")
	run(t, dir, 0, "drill", "--sample", "100%")
}

// The agent runs what the configuration says, tells how it went, and forgets by its policy.
func TestAgent(t *testing.T) {
	dir := t.TempDir()
	fill(t, rand.New(rand.NewPCG(2, 2)), filepath.Join(dir, "src"), 5)
	run(t, dir, 0, "repo", "init")
	if err := os.WriteFile(filepath.Join(dir, "password"), []byte("secret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	config := fmt.Sprintf(`backups:
  app:
    repository: file:%[1]s/repo
    password_file: %[1]s/password
    paths: [%[1]s/src]
    schedule: every 1s
    keep_last: 2
    drill: every 1s
    drill_sample: 100%%
`, dir)
	if err := os.WriteFile(filepath.Join(dir, "firn.yaml"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	state := filepath.Join(dir, "state.json")
	c := command(t, dir, "agent", "--state", state, "--listen", "127.0.0.1:0")
	var said bytes.Buffer
	c.Stderr = &said
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	succeeded := func() bool {
		b, err := os.ReadFile(state)
		if err != nil {
			return false
		}
		var jobs []struct {
			Name        string
			LastSuccess time.Time `json:"last_success"`
		}
		if err := json.Unmarshal(b, &jobs); err != nil {
			t.Fatal(err)
		}
		return len(jobs) == 2 && !jobs[0].LastSuccess.IsZero() && !jobs[1].LastSuccess.IsZero()
	}
	deadline := time.After(20 * time.Second)
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for done := false; !done; {
		select {
		case <-tick.C:
			done = succeeded()
		case <-deadline:
			_ = c.Process.Kill() // it is given up
			_ = c.Wait()
			t.Fatalf("no backup and no drill after 20 seconds:\n%s", &said)
		}
	}
	if err := c.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := c.Wait(); err != nil {
		t.Errorf("the agent ended with %v:\n%s", err, &said)
	}
	run(t, dir, 0, "drill", "--sample", "100%")
}
