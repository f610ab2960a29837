package main

import (
	"bufio"
	"bytes"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// stopBound ends a test whose process does not stop; a process that works stops in milliseconds.
const stopBound = time.Minute

func build(t *testing.T) string {
	t.Helper()
	bin := filepath.Join(t.TempDir(), "firn")
	if out, err := exec.Command("go", "build", "-o", bin, ".").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return bin
}

// process is a running firn serve.
type process struct {
	cmd    *exec.Cmd
	stdout *bufio.Reader
	stderr *bytes.Buffer
}

func serve(t *testing.T, bin, dir string, args ...string) *process {
	t.Helper()
	args = append([]string{"serve", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0", "--reserve", "0"}, args...)
	p := &process{cmd: exec.Command(bin, args...), stderr: &bytes.Buffer{}}
	p.cmd.Dir = dir
	p.cmd.Env = []string{"HOME=" + dir, "PATH=" + os.Getenv("PATH")}
	p.cmd.Stderr = p.stderr
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	p.stdout = bufio.NewReader(out)
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.cmd.Process.Kill() }) // it has ended already where the test went well
	return p
}

// stop sends a signal, returns what was left on the standard output and the exit code.
func (p *process) stop(t *testing.T, sig os.Signal) (string, int) {
	t.Helper()
	if err := p.cmd.Process.Signal(sig); err != nil {
		t.Fatal(err)
	}
	timer := time.AfterFunc(stopBound, func() { _ = p.cmd.Process.Kill() })
	defer timer.Stop()
	rest, err := io.ReadAll(p.stdout)
	if err != nil {
		t.Fatal(err)
	}
	_ = p.cmd.Wait() // the code says it
	return string(rest), p.cmd.ProcessState.ExitCode()
}

// firn runs a command to its end.
func firn(t *testing.T, bin, dir string, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	cmd := exec.Command(bin, args...)
	cmd.Dir = dir
	cmd.Env = []string{"HOME=" + dir}
	var out, errw bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errw
	err := cmd.Run()
	if _, exited := err.(*exec.ExitError); err != nil && !exited {
		t.Fatal(err)
	}
	return out.String(), errw.String(), cmd.ProcessState.ExitCode()
}

// waitReady returns when the site of dir answers.
func waitReady(t *testing.T, bin, dir string) {
	t.Helper()
	deadline := time.Now().Add(stopBound)
	for {
		if _, _, code := firn(t, bin, dir, "status", "--ready"); code == 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal("the site does not get ready")
		}
	}
}

// TestTheBinary does what a stranger does first: start without any configuration, stop, start again.
func TestTheBinary(t *testing.T) {
	bin, dir := build(t), t.TempDir()

	p := serve(t, bin, dir)
	// The keys are read while the process runs: they must not wait in a buffer until it ends.
	secret := ""
	for secret == "" {
		line, err := p.stdout.ReadString('\n')
		if err != nil {
			t.Fatalf("no secret key was printed: %v\n%s", err, p.stderr)
		}
		if f := strings.Fields(line); len(f) == 3 && f[0] == "secret" {
			secret = f[2]
		}
	}
	waitReady(t, bin, dir)
	b, err := os.ReadFile(filepath.Join(dir, "firn-data", "credentials.json"))
	if err != nil || !strings.Contains(string(b), secret) {
		t.Errorf("the printed secret is not the stored one: %v", err)
	}

	_, stderr, code := firn(t, bin, dir, "serve", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0")
	if code != 1 || !strings.Contains(stderr, "in use by another process (firn, process id ") || !strings.Contains(stderr, "firn-data") {
		t.Errorf("a second process: exit %d, %s", code, stderr)
	}
	if out, _, code := firn(t, bin, dir, "user", "list"); code != 0 || !strings.HasPrefix(out, "NAME") {
		t.Errorf("user list: exit %d", code)
	}

	rest, code := p.stop(t, syscall.SIGTERM)
	if code != 0 || strings.Contains(p.stderr.String(), secret) {
		t.Errorf("stopped with exit code %d:\n%s", code, p.stderr)
	}
	if strings.Count(rest, secret) != 3 { // the three ready command lines
		t.Errorf("the rest of the welcome:\n%s", rest)
	}

	p = serve(t, bin, dir)
	waitReady(t, bin, dir)
	if b2, err := os.ReadFile(filepath.Join(dir, "firn-data", "credentials.json")); err != nil || !bytes.Equal(b, b2) {
		t.Errorf("the credentials changed with the restart: %v", err)
	}
	if rest, code := p.stop(t, os.Interrupt); code != 0 || rest != "" {
		t.Errorf("second start: exit code %d, printed %q", code, rest)
	}

	if err := os.WriteFile(filepath.Join(dir, "firn.yaml"), []byte("data: x\nlisten_on: :1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, stderr, code = firn(t, bin, dir, "serve")
	if code != 2 || !strings.HasPrefix(stderr, `firn: configuration: firn.yaml:2:1: unknown key "listen_on": did you mean "listen"?`) {
		t.Errorf("a wrong configuration: exit %d, %s", code, stderr)
	}
}
