// Package server runs the real firn binary for the tests below test/: it builds it once per test process, starts
// it on free ports, waits until it is ready, and stops, kills and restarts it on the same ports and data.
//
// It promises that no server outlives the test that started it, and that a test talks to the binary exactly as a
// stranger would: by its command line, its environment, its ports and its log. It must never import a package of
// the product.
package server

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
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

// Credentials of every server this package starts.
const (
	AccessKey = "FIRNTESTACCESSKEY"
	SecretKey = "firn-test-secret-key-0123456789"
)

// ReadyWithin bounds a start, until the server answers that it is ready.
const ReadyWithin = 20 * time.Second

// StopWithin bounds a stop after SIGTERM.
const StopWithin = 30 * time.Second

// Program is a server that can be run: its arguments, environment and readiness check.
type Program struct {
	Name string
	// Argv returns the command line for a data directory and two addresses.
	Argv func(data, listen, admin string) []string
	// Env is added to the environment.
	Env []string
	// Ready returns the URL that answers 200 once the server serves.
	Ready func(listen, admin string) string
}

// Firn is the program under test, at the path of its binary.
func Firn(binary string) Program {
	return Program{
		Name: "firn",
		Argv: func(data, listen, admin string) []string {
			return []string{binary, "serve", "--data", data, "--listen", listen, "--admin-listen", admin}
		},
		Env:   []string{"FIRN_ACCESS_KEY=" + AccessKey, "FIRN_SECRET_KEY=" + SecretKey},
		Ready: func(_, admin string) string { return "http://" + admin + "/readyz" },
	}
}

// MinIO is a peer, to hold the tests against another server by hand (FIRN_TEST_PEER=minio:PATH).
func MinIO(binary string) Program {
	return Program{
		Name: "minio",
		Argv: func(data, listen, admin string) []string {
			return []string{binary, "server", "--quiet", "--address", listen, "--console-address", admin, data}
		},
		Env: []string{
			"MINIO_ROOT_USER=" + AccessKey, "MINIO_ROOT_PASSWORD=" + SecretKey,
			"MINIO_CI_CD=1", // allows the data on the root drive, as a test has it
		},
		Ready: func(listen, _ string) string { return "http://" + listen + "/minio/health/cluster" },
	}
}

// Binary returns the path of the firn binary: FIRN_TEST_BINARY where set, else one built from the module the
// test belongs to, once per test process.
func Binary(t testing.TB) string {
	t.Helper()
	path, err := build()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// build is memoised because linking takes seconds and many tests of one process need the binary.
var build = sync.OnceValues(func() (string, error) {
	if path := os.Getenv("FIRN_TEST_BINARY"); path != "" {
		return path, nil
	}
	// In the tree, so that the tests of another checkout running at the same time do not get this one's binary.
	out, err := exec.Command("go", "env", "GOMOD").Output()
	if err != nil {
		return "", fmt.Errorf("find the module: %w", err)
	}
	dir := filepath.Join(filepath.Dir(strings.TrimSpace(string(out))), "dist", "test")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", fmt.Errorf("build firn: %w", err)
	}
	// Test processes of several packages run at the same time: one links, the rest find the result up to date.
	lock, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return "", fmt.Errorf("build firn: %w", err)
	}
	defer lock.Close()
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		return "", fmt.Errorf("build firn: %w", err)
	}
	path := filepath.Join(dir, "firn")
	if out, err := exec.Command("go", "build", "-o", path, "firn/cmd/firn").CombinedOutput(); err != nil {
		return "", fmt.Errorf("build firn: %w\n%s", err, out)
	}
	return path, nil
})

// Under returns the program the tests run against: firn, or the peer that FIRN_TEST_PEER names as NAME:PATH.
// Peers are for comparing by hand; nothing in the project's own test run sets it.
func Under(t testing.TB) Program {
	t.Helper()
	peer := os.Getenv("FIRN_TEST_PEER")
	if peer == "" {
		return Firn(Binary(t))
	}
	name, path, _ := bytes.Cut([]byte(peer), []byte(":"))
	if string(name) != "minio" || len(path) == 0 {
		t.Fatalf("FIRN_TEST_PEER=%q: want minio:PATH", peer)
	}
	return MinIO(string(path))
}

// Server is one server, running or not, with its ports and data directory.
type Server struct {
	program Program
	data    string
	listen  string
	admin   string
	extra   []string

	mu struct {
		sync.Mutex
		cmd    *exec.Cmd
		exited chan struct{} // closed when cmd was waited for
		err    error         // of cmd, valid after exited is closed
	}
	log logBuffer
}

// New prepares a server for the data directory (made by the program where missing) on two free ports of
// loopback; args are added to its command line. It is killed at the end of the test.
func New(t testing.TB, program Program, data string, args ...string) *Server {
	t.Helper()
	listen, admin := freePort(t), freePort(t)
	s := &Server{program: program, data: data, listen: listen, admin: admin, extra: args}
	t.Cleanup(func() {
		s.Kill()
		if t.Failed() {
			t.Logf("end of the log of %s:\n%s", program.Name, s.Tail(40))
		}
	})
	return s
}

// Start is New followed by Start, for the program under test and a fresh data directory.
func Start(t testing.TB, args ...string) *Server {
	t.Helper()
	s := New(t, Under(t), filepath.Join(t.TempDir(), "data"), args...)
	s.Start(t)
	return s
}

// freePort returns a free loopback address below the kernel's ephemeral range: an outgoing connection of a client
// must not take the port while the server is down.
func freePort(t testing.TB) string {
	t.Helper()
	for range 200 {
		addr := "127.0.0.1:" + strconv.Itoa(21800+rand.IntN(10000))
		l, err := net.Listen("tcp", addr)
		if err != nil {
			continue
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		return addr
	}
	t.Fatal("no free port found")
	return ""
}

// Addr returns the address of the S3 port as host:port.
func (s *Server) Addr() string { return s.listen }

// URL returns the S3 endpoint.
func (s *Server) URL() string { return "http://" + s.listen }

// AdminURL returns the admin endpoint.
func (s *Server) AdminURL() string { return "http://" + s.admin }

// Data returns the data directory.
func (s *Server) Data() string { return s.data }

// Name returns the name of the program.
func (s *Server) Name() string { return s.program.Name }

// Start runs the server and waits until it is ready. It fails the test with the log where that does not happen.
func (s *Server) Start(t testing.TB) {
	t.Helper()
	if err := s.TryStart(t.Context()); err != nil {
		t.Fatalf("start %s: %v\nlog:\n%s", s.program.Name, err, s.Tail(40))
	}
}

// TryStart runs the server and waits until it is ready. Where it ended or is not ready within ReadyWithin,
// TryStart returns an error and the server is not running.
func (s *Server) TryStart(ctx context.Context) error {
	if err := s.launch(); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, ReadyWithin)
	defer cancel()
	if err := s.waitReady(ctx); err != nil {
		s.Kill()
		return err
	}
	return nil
}

func (s *Server) launch() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.mu.cmd != nil {
		return errors.New("running already")
	}
	argv := append(s.program.Argv(s.data, s.listen, s.admin), s.extra...)
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Env = append(slices.Clone(os.Environ()), s.program.Env...)
	cmd.Stdout, cmd.Stderr = &s.log, &s.log
	// The kernel ends the server should the test process die without its clean-up.
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	if err := cmd.Start(); err != nil {
		return err
	}
	exited := make(chan struct{})
	s.mu.cmd, s.mu.exited, s.mu.err = cmd, exited, nil
	go func() {
		err := cmd.Wait()
		s.mu.Lock()
		s.mu.cmd, s.mu.err = nil, err
		s.mu.Unlock()
		close(exited)
	}()
	return nil
}

func (s *Server) waitReady(ctx context.Context) error {
	s.mu.Lock()
	exited := s.mu.exited
	s.mu.Unlock()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 5 * time.Second}
	url := s.program.Ready(s.listen, s.admin)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			return err
		}
		if resp, err := client.Do(req); err == nil {
			io.Copy(io.Discard, resp.Body)
			resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return nil
			}
		}
		select {
		case <-exited:
			s.mu.Lock()
			defer s.mu.Unlock()
			return fmt.Errorf("ended before it was ready: %w", orNil(s.mu.err))
		case <-ctx.Done():
			return fmt.Errorf("not ready: %w", ctx.Err())
		case <-tick.C:
		}
	}
}

func orNil(err error) error {
	if err == nil {
		return errors.New("exit status 0")
	}
	return err
}

// signal sends sig to the process, whose end the returned channel tells; nil where nothing runs.
func (s *Server) signal(sig syscall.Signal) <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.mu.cmd == nil {
		return nil
	}
	s.mu.cmd.Process.Signal(sig) // an error means it ended, which exited tells
	return s.mu.exited
}

// Kill is kill -9, and waits until the process is gone. It does nothing where nothing runs.
func (s *Server) Kill() {
	if exited := s.signal(syscall.SIGKILL); exited != nil {
		<-exited
	}
}

// Stop sends SIGTERM and waits for the end. It returns the error of the process (nil for exit status 0), or one
// where it did not end within StopWithin and was killed.
func (s *Server) Stop() error {
	exited := s.signal(syscall.SIGTERM)
	if exited == nil {
		return errors.New("stop: not running")
	}
	select {
	case <-exited:
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.mu.err
	case <-time.After(StopWithin):
		s.Kill()
		return fmt.Errorf("did not stop within %v after SIGTERM", StopWithin)
	}
}

// MustStop is Stop that fails the test on an error.
func (s *Server) MustStop(t testing.TB) {
	t.Helper()
	if err := s.Stop(); err != nil {
		t.Fatalf("stop %s: %v\nlog:\n%s", s.program.Name, err, s.Tail(40))
	}
}

// PID returns the process id, 0 where nothing runs.
func (s *Server) PID() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.mu.cmd == nil {
		return 0
	}
	return s.mu.cmd.Process.Pid
}

// Running reports whether the process runs.
func (s *Server) Running() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.mu.cmd != nil
}

// Log returns what the server wrote to its output and error streams, the oldest part cut off past 4 MiB.
func (s *Server) Log() string { return s.log.String() }

// Tail returns the last lines of the log.
func (s *Server) Tail(lines int) string {
	b := bytes.TrimRight([]byte(s.log.String()), "\n")
	for i := len(b) - 1; i >= 0; i-- {
		if b[i] == '\n' {
			if lines--; lines == 0 {
				return string(b[i+1:])
			}
		}
	}
	return string(b)
}

// logBuffer keeps the last part of what is written to it.
type logBuffer struct {
	mu struct {
		sync.Mutex
		b []byte
	}
}

const maxLog = 4 << 20

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.mu.b = append(l.mu.b, p...)
	if over := len(l.mu.b) - maxLog; over > maxLog/2 {
		l.mu.b = append([]byte(nil), l.mu.b[over:]...)
	}
	return len(p), nil
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return string(l.mu.b)
}

// Run runs the firn binary with args to its end, bounded by ctx, and returns its output streams together.
func Run(ctx context.Context, t testing.TB, args ...string) (string, error) {
	t.Helper()
	cmd := exec.CommandContext(ctx, Binary(t), args...)
	cmd.Env = append(slices.Clone(os.Environ()), "FIRN_ACCESS_KEY="+AccessKey, "FIRN_SECRET_KEY="+SecretKey)
	out, err := cmd.CombinedOutput()
	return string(out), err
}
