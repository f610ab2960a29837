package sidecar

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"firn/test/server"
)

// world is a repository's URL with what is needed to reach it, as every node has it.
type world struct {
	url  string
	env  []string
	args []string
	user int // runs it, where it is not the test's
}

func local(t *testing.T) world {
	t.Helper()
	return world{url: "file:" + filepath.Join(t.TempDir(), "repository")}
}

// log is what a process wrote.
type log struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *log) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *log) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

// process is a sidecar.
type process struct {
	w    world
	addr string
	cmd  *exec.Cmd
	log  log
	done chan struct{}
	code int
}

// ttl of leases in these tests.
const ttl = "2s"

func (w world) environ(addr string) []string {
	env := append(os.Environ(), "FIRN_REPO="+w.url, "FIRN_REPO_PASSWORD=correct horse", "FIRN_CACHE_DIR=none",
		"FIRN_SIDECAR_LISTEN="+addr, "FIRN_SIDECAR_LEASE_TTL="+ttl, "FIRN_SIDECAR_DEBOUNCE=300ms", "FIRN_SIDECAR_GRACE=20s")
	return append(env, w.env...)
}

// sidecar starts one for dir; args come after the flags that all have.
func (w world) sidecar(t *testing.T, dir string, args ...string) *process {
	t.Helper()
	p := &process{w: w, addr: "127.0.0.1:" + port(t), done: make(chan struct{})}
	p.cmd = exec.Command(server.Binary(t), append(append([]string{"sidecar", "--dir", dir}, w.args...), args...)...)
	p.cmd.Env = w.environ(p.addr)
	p.cmd.Stdout, p.cmd.Stderr = &p.log, &p.log
	if w.user != 0 {
		id := uint32(w.user)
		p.cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: id, Gid: id}}
	}
	p.cmd.WaitDelay = 5 * time.Second
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		_ = p.cmd.Wait()
		p.code = p.cmd.ProcessState.ExitCode()
		close(p.done)
	}()
	t.Cleanup(func() {
		p.kill()
		if t.Failed() {
			t.Logf("the sidecar of %s:\n%s", dir, p.log.String())
		}
	})
	return p
}

func (p *process) kill() {
	_ = p.cmd.Process.Kill()
	<-p.done
}

// stop is SIGTERM, and waits. It returns the exit code.
func (p *process) stop(t *testing.T) int {
	t.Helper()
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		t.Fatal(err)
	}
	return p.wait(t)
}

func (p *process) wait(t *testing.T) int {
	t.Helper()
	select {
	case <-p.done:
	case <-time.After(40 * time.Second):
		t.Fatalf("the sidecar does not end:\n%s", p.log.String())
	}
	return p.code
}

// command runs firn against the sidecar, or the target, and returns its output and exit code.
func (p *process) command(t *testing.T, args ...string) (string, int) {
	t.Helper()
	cmd := exec.Command(server.Binary(t), args...)
	cmd.Env = p.w.environ(p.addr)
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return string(out), cmd.ProcessState.ExitCode()
}

func (p *process) must(t *testing.T, args ...string) string {
	t.Helper()
	out, code := p.command(t, args...)
	if code != 0 {
		t.Fatalf("firn %s: code %d\n%s", strings.Join(args, " "), code, out)
	}
	return out
}

type status struct {
	Phase, Reason, Target, Version string
	Ready, Held                    bool
	Files                          int64
	Failures                       int
}

func (p *process) status(t *testing.T) (s status) {
	t.Helper()
	out, code := p.command(t, "sidecar", "status", "--json")
	if code == 1 {
		return status{}
	}
	if err := json.Unmarshal([]byte(out), &s); err != nil {
		t.Fatalf("status: %v\n%s", err, out)
	}
	return s
}

// ready is the startup probe.
func (p *process) ready(t *testing.T) {
	t.Helper()
	p.must(t, "sidecar", "status", "--ready", "--wait", "30s")
}

// waits makes sure that the sidecar waits, for what says so.
func (p *process) waits(t *testing.T, what string) {
	t.Helper()
	var s status
	eventually(t, "it waits for: "+what, func() bool {
		s = p.status(t)
		return s.Phase == "waiting" && strings.Contains(s.Reason, what)
	})
	if s.Ready {
		t.Errorf("ready though it waits: %+v", s)
	}
	if _, code := p.command(t, "sidecar", "status", "--ready"); code == 0 {
		t.Error("the startup probe is content")
	}
}

type version struct {
	ID    string
	Files int64
	Held  bool
}

func (p *process) versions(t *testing.T) (all []version) {
	t.Helper()
	if err := json.Unmarshal([]byte(p.must(t, "sidecar", "versions", "--json")), &all); err != nil {
		t.Fatal(err)
	}
	return all
}

func eventually(t *testing.T, what string, yes func() bool) {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(30 * time.Second); !yes(); <-tick.C {
		if time.Now().After(end) {
			t.Fatalf("it does not come that %s", what)
		}
	}
}

func write(t *testing.T, dir string, files map[string]string) {
	t.Helper()
	for name, content := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// read returns the content of a file, and "" for one that is not there.
func read(t *testing.T, path ...string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(path...))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	return string(b)
}

func some(n int) map[string]string {
	files := map[string]string{}
	for i := range n {
		files["file"+string(rune('a'+i))] = strings.Repeat("content ", i+1)
	}
	return files
}
