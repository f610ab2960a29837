// Package backends runs the real servers behind the blob drivers for tests: MinIO, versitygw, Firn, Ceph with its
// gateway, OpenSSH, WebDAV by nginx and rclone, each on free ports of loopback and in a directory of the test's own.
//
// It promises that no server outlives the test that started it, and that one that was killed or stopped can be started
// again on the same ports and data. A program that is missing fails the test: test/setup.sh installs all of them. It
// must never import a package of the product.
package backends

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

const (
	startWithin = 30 * time.Second
	stopWithin  = 15 * time.Second
)

// Process is a server process that can be stopped and started again.
type Process struct {
	name  string
	argv  []string
	env   []string
	ready func() error

	cmd    *exec.Cmd
	exited chan struct{} // closed once cmd was waited for
	log    tail
}

// start runs a server until the end of the test. ready says whether it can be used.
func start(t testing.TB, name string, ready func() error, env []string, argv ...string) *Process {
	t.Helper()
	p := &Process{name: name, argv: argv, env: env, ready: ready}
	t.Cleanup(func() {
		p.Kill()
		if t.Failed() {
			t.Logf("end of the log of %s:\n%s", name, p.log.String())
		}
	})
	p.Start(t)
	return p
}

// Start runs the server and waits until it can be used. It fails the test where that does not happen.
func (p *Process) Start(t testing.TB) {
	t.Helper()
	cmd := exec.Command(p.argv[0], p.argv[1:]...)
	cmd.Env = append(environ(), p.env...)
	cmd.Stdout, cmd.Stderr = &p.log, &p.log
	// The kernel ends the server should the test process die without its clean-up.
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	if err := cmd.Start(); err != nil {
		t.Fatalf("start %s: %v", p.name, err)
	}
	exited := make(chan struct{})
	p.cmd, p.exited = cmd, exited
	go func() {
		cmd.Wait() // how it ended is of no interest: it was killed, or its log says why
		close(exited)
	}()
	err := errors.New("not asked")
	if !poll(startWithin, func() bool {
		select {
		case <-exited:
			return true
		default:
			err = p.ready()
			return err == nil
		}
	}) || err != nil {
		p.Kill()
		t.Fatalf("%s did not start: %v\nlog:\n%s", p.name, err, p.log.String())
	}
}

// Kill is kill -9 of the server and of what it started, and waits until it is gone.
func (p *Process) Kill() {
	if p.cmd == nil {
		return
	}
	for _, pid := range family(p.cmd.Process.Pid) {
		syscall.Kill(pid, syscall.SIGKILL) // an error means that it ended
	}
	<-p.exited
}

// family is a process and all its descendants, the eldest first. A process group would not do: the children of sshd are
// sessions of their own.
func family(pid int) []int {
	all := []int{pid}
	tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid)) // none where it ended
	for _, path := range tasks {
		children, err := os.ReadFile(path)
		if err != nil {
			continue // it ended
		}
		for _, child := range strings.Fields(string(children)) {
			if n, err := strconv.Atoi(child); err == nil {
				all = append(all, family(n)...)
			}
		}
	}
	return all
}

// Stop ends the server as an operator would, and kills it where that takes too long.
func (p *Process) Stop() {
	if p.cmd == nil {
		return
	}
	p.cmd.Process.Signal(syscall.SIGTERM) // an error means that it ended
	select {
	case <-p.exited:
	case <-time.After(stopWithin):
	}
	p.Kill()
}

// Signal sends sig to the server and to what it started, such as SIGSTOP and SIGCONT for one that hangs.
func (p *Process) Signal(t testing.TB, sig syscall.Signal) {
	t.Helper()
	for _, pid := range family(p.cmd.Process.Pid) {
		if err := syscall.Kill(pid, sig); err != nil && !errors.Is(err, syscall.ESRCH) {
			t.Fatalf("signal %s: %v", p.name, err)
		}
	}
}

// poll asks until yes or the time is over.
func poll(within time.Duration, yes func() bool) bool {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(within); time.Now().Before(end); <-tick.C {
		if yes() {
			return true
		}
	}
	return false
}

// FreePort returns a port of loopback that nothing listens on, below the kernel's range for outgoing connections: a
// client must not take it while the server is down. It is one of the 100 from FIRN_TEST_PORTS on, 21100 by default, and
// is given to nobody else before the test ends, by a lock on a file: a server that is killed finds its port free when it
// starts again.
func FreePort(t testing.TB) int {
	t.Helper()
	first := 21100
	if given := os.Getenv("FIRN_TEST_PORTS"); given != "" {
		var err error
		if first, err = strconv.Atoi(given); err != nil {
			t.Fatalf("FIRN_TEST_PORTS: %v", err)
		}
	}
	dir := filepath.Join(os.TempDir(), "firn-test-ports")
	if err := os.MkdirAll(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	for range 1000 {
		port := first + rand.IntN(100)
		lock, err := os.OpenFile(filepath.Join(dir, strconv.Itoa(port)), os.O_CREATE|os.O_RDWR, 0o666)
		if err != nil {
			t.Fatal(err)
		}
		if syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) != nil {
			lock.Close()
			continue
		}
		l, err := net.Listen("tcp", "127.0.0.1:"+strconv.Itoa(port))
		if err != nil {
			lock.Close()
			continue
		}
		l.Close()
		t.Cleanup(func() { lock.Close() })
		return port
	}
	t.Fatal("no free port was found")
	return 0
}

func freeAddr(t testing.TB) string {
	t.Helper()
	return "127.0.0.1:" + strconv.Itoa(FreePort(t))
}

// Program returns the path of a program of a Debian package, or of one that test/setup.sh built.
func Program(t testing.TB, name string) string {
	t.Helper()
	tools := os.Getenv("FIRN_TEST_TOOLS")
	if cache, err := os.UserCacheDir(); tools == "" && err == nil {
		tools = filepath.Join(cache, "firn-test", "tools")
	}
	if path := filepath.Join(tools, name); executable(path) {
		return path
	}
	if path, err := exec.LookPath(name); err == nil {
		return path
	}
	for _, dir := range []string{"/usr/sbin", "/sbin", "/usr/local/sbin"} {
		if path := filepath.Join(dir, name); executable(path) {
			return path
		}
	}
	t.Fatalf("%s is not installed: run test/setup.sh", name)
	return ""
}

func executable(path string) bool {
	fi, err := os.Stat(path)
	return err == nil && fi.Mode().IsRegular() && fi.Mode().Perm()&0o111 != 0
}

// environ is the environment without settings of whoever runs the test.
func environ() []string {
	return slices.DeleteFunc(os.Environ(), func(v string) bool {
		name, _, _ := strings.Cut(strings.ToUpper(v), "=")
		return strings.HasSuffix(name, "_PROXY") || strings.HasPrefix(name, "AWS_") || strings.HasPrefix(name, "RCLONE_") ||
			strings.HasPrefix(name, "MINIO_") || strings.HasPrefix(name, "CEPH_") || strings.HasPrefix(name, "FIRN_")
	})
}

// answers is a readiness check: any answer to GET url, of status where that is not 0.
func answers(url string, status int) func() error {
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 5 * time.Second}
	return func() error {
		resp, err := client.Get(url)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		if status != 0 && resp.StatusCode != status {
			return fmt.Errorf("%s answered %s", url, resp.Status)
		}
		return nil
	}
}

// run runs a program to its end and returns its output. It fails the test where the program does.
func run(t testing.TB, env []string, argv ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), argv[0], argv[1:]...)
	cmd.Env = append(environ(), env...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", strings.Join(argv, " "), err, out)
	}
	return string(out)
}

func write(t testing.TB, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

// tail keeps the last part of what is written to it.
type tail struct {
	mu sync.Mutex
	b  []byte
}

const maxTail = 16 << 10

func (l *tail) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.b = append(l.b, p...)
	if over := len(l.b) - maxTail; over > maxTail {
		l.b = bytes.Clone(l.b[over:])
	}
	return len(p), nil
}

func (l *tail) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return string(l.b[max(0, len(l.b)-maxTail):])
}
