package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"firn/loadgen"
	"firn/transfer"
)

// TestMain lets this test binary stand in for the command, for tests that kill it.
func TestMain(m *testing.M) {
	if os.Getenv("FIRN_TEST_CHILD") != "" {
		ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
		code := Main(ctx, os.Args[1:], OS())
		stop()
		os.Exit(code)
	}
	os.Exit(m.Run())
}

// clientShell is a shell with a running site that the client verbs find through the environment.
func clientShell(t *testing.T) *shell {
	t.Helper()
	s := newShell(t)
	_, c, _ := s.serve()
	creds, err := c.GetCreds()
	if err != nil {
		t.Fatal(err)
	}
	s.env["FIRN_ENDPOINT"] = c.EndpointURL().String()
	s.env["FIRN_ACCESS_KEY"], s.env["FIRN_SECRET_KEY"] = creds.AccessKeyID, creds.SecretAccessKey
	s.env["FIRN_CLIENT_CONFIG"] = filepath.Join(t.TempDir(), "client.yaml")
	s.env["FIRN_CLIENT_STATE"] = filepath.Join(t.TempDir(), "state")
	return s
}

func write(t *testing.T, path string, data []byte) {
	t.Helper()
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, data, 0o644)); err != nil {
		t.Fatal(err)
	}
}

func noise(n int, seed byte) []byte {
	b := make([]byte, n)
	if _, err := rand.NewChaCha8([32]byte{seed}).Read(b); err != nil {
		panic(err) // a ChaCha8 does not fail
	}
	return b
}

// fails runs a command that must fail with a code and a text.
func (s *shell) fails(code int, text string, args ...string) {
	s.t.Helper()
	if r := s.run(args...); r.code != code || !strings.Contains(r.err, text) {
		s.t.Errorf("firn %s: exit %d, %q; want %d, %q", strings.Join(args, " "), r.code, r.err, code, text)
	}
}

func TestClientVerbs(t *testing.T) {
	s := clientShell(t)
	has := func(out string, texts ...string) {
		t.Helper()
		for _, x := range texts {
			if !strings.Contains(out, x) {
				t.Errorf("%q is not in %q", x, out)
			}
		}
	}
	has(s.ok("mb", "s3://first", "s3://second", "--versioning"), "made bucket s3://first")
	has(s.ok("ls"), "s3://first\n", "s3://second\n")
	write(t, "in/a.txt", []byte("alpha"))
	write(t, "in/sub/b.txt", noise(3000, 1))
	has(s.ok("cp", "in/a.txt", "s3://first/"), "copied 1, 5 B in ")
	has(s.ok("cp", "-r", "in", "s3://first/tree"), "copied 2, 2.9 KiB")
	has(s.ok("cp", "-r", "--checksum", "in", "s3://first/tree"), "copied 0, 0 B", "skipped 2")
	has(s.ok("ls", "s3://first"), "a.txt\n", "tree/\n")
	has(s.ok("ls", "-r", "-H", "--sum", "s3://first"), "2.9 KiB  tree/sub/b.txt\n", "in 3 objects")
	if got := s.ok("cat", "s3://first/a.txt", "s3://first/tree/a.txt"); got != "alphaalpha" {
		t.Errorf("%q", got)
	}
	if got := s.ok("cp", "s3://first/a.txt", "-"); got != "alpha" {
		t.Errorf("%q", got)
	}
	if got := s.ok("cat", "--tail", "2", "s3://first/a.txt"); got != "ha" {
		t.Errorf("%q", got)
	}
	has(s.ok("stat", "s3://first/a.txt"), "size           5 (5 B)", "type           text/plain", "etag           ")
	has(s.ok("stat", "s3://second"), "versioning     Enabled")
	has(s.ok("cp", "-r", "-v", "s3://first/tree", "out"), "download s3://first/tree/a.txt -> out/a.txt\n")
	if got, err := os.ReadFile("out/sub/b.txt"); err != nil || !bytes.Equal(got, noise(3000, 1)) {
		t.Errorf("%v", err)
	}
	has(s.ok("mv", "-r", "s3://first/tree", "s3://second/moved"), "moved 2, ")
	has(s.ok("rm", "-r", "--dry-run", "s3://second"), "would delete s3://second/moved/a.txt\n", "would remove 2, 2.9 KiB\n")
	has(s.ok("cp", "--dry-run", "in/a.txt", "s3://first/b"), "would upload in/a.txt -> s3://first/b\n", "would copy 1")
	has(s.ok("rm", "-v", "s3://first/a.txt"), "delete s3://first/a.txt\n")

	t.Run("json", func(t *testing.T) {
		var ev transfer.Event
		out := s.ok("cp", "--json", "in/a.txt", "s3://first/j")
		if err := json.Unmarshal([]byte(out), &ev); err != nil || ev.Status != transfer.Done || ev.Verified != "etag" || ev.Target != "s3://first/j" {
			t.Errorf("%s: %v", out, err)
		}
		var names []string
		for l := range strings.Lines(s.ok("ls", "-r", "--json", "s3://second")) {
			names = append(names, decode[transfer.Entry](t, l).Name)
		}
		if diff := cmp.Diff([]string{"moved/a.txt", "moved/sub/b.txt"}, names); diff != "" {
			t.Error(diff)
		}
		if st := decode[transfer.Stat](t, s.ok("stat", "--json", "s3://first/j")); st.Size != 5 {
			t.Errorf("%+v", st)
		}
	})
	t.Run("failures", func(t *testing.T) {
		s.fails(exitFailed, "does not exist", "cat", "s3://first/none")
		s.fails(exitFailed, "not empty", "rb", "s3://second")
		s.fails(exitFailed, "1 of 2 failed", "cp", "in/a.txt", "in/none", "s3://first/")
		s.fails(exitUsage, "needs --force", "rm", "-r", "s3://second")
		s.fails(exitUsage, "no bucket", "mb", "s3://a/b")
		s.fails(exitUsage, "no S3 location", "ls", "/tmp")
		s.fails(exitUsage, "write s3://BUCKET/KEY", "cat", "s3:first/x")
		s.fails(exitUsage, "S3 location", "cp", "in/a.txt", "out")
		s.fails(exitUsage, "wants", "cp", "in/a.txt")
		s.fails(exitUsage, "NAME=VALUE", "cp", "--metadata", "x", "in/a.txt", "s3://first/x")
		s.fails(exitUsage, "malformed glob", "cp", "-r", "--include", "[", "in", "s3://first/x")
		s.fails(exitUsage, "expected a number", "cp", "--part-size", "many", "in/a.txt", "s3://first/x")
		s.fails(exitFailed, "no such profile", "ls", "--profile", "none")
	})
	has(s.ok("rm", "-r", "--force", "s3://second"), "removed 2, 2.9 KiB\n")
	s.fails(exitFailed, "--force removes all", "rb", "s3://second") // its versions are left
	has(s.ok("rb", "--force", "s3://first", "s3://second"), "removed bucket s3://second\n")
	if got := s.ok("ls"); got != "" {
		t.Errorf("%q", got)
	}
}

func TestNamesOnTheTerminal(t *testing.T) {
	s := clientShell(t)
	s.ok("mb", "s3://names")
	write(t, "in/esc\x1b[31mape", []byte("x"))
	s.ok("cp", "-r", "in", "s3://names")
	for _, args := range [][]string{{"ls", "s3://names"}, {"cp", "-r", "-v", "s3://names", "out"}, {"rm", "-r", "-v", "--force", "s3://names"}} {
		if out := s.ok(args...); strings.Contains(out, "\x1b") || !strings.Contains(out, `esc\x1b[31mape`) {
			t.Errorf("%v: %q", args, out)
		}
	}
}

func TestProfiles(t *testing.T) {
	s := clientShell(t)
	endpoint, access, secret := s.env["FIRN_ENDPOINT"], s.env["FIRN_ACCESS_KEY"], s.env["FIRN_SECRET_KEY"]
	for _, k := range []string{"FIRN_ENDPOINT", "FIRN_ACCESS_KEY", "FIRN_SECRET_KEY"} {
		delete(s.env, k)
	}
	s.ok("profile", "add", "here", "--endpoint", endpoint, "--access-key", access, "--secret-key", secret)
	s.ok("profile", "add", "also", "--endpoint", endpoint, "--access-key", access, "--secret-key", secret)
	s.ok("mb", "--profile", "here", "s3://via")
	s.env["FIRN_PROFILE"] = "here"
	if out := s.ok("ls"); !strings.Contains(out, "s3://via\n") {
		t.Errorf("%q", out)
	}
	write(t, "f", []byte("content"))
	s.ok("cp", "f", "s3://via/f")
	s.ok("cp", "--to-profile", "also", "s3://via/f", "s3://via/g")
	if out := s.ok("cat", "s3://via/g"); out != "content" {
		t.Errorf("%q", out)
	}
	for _, out := range []string{s.ok("profile", "ls"), s.ok("profile", "ls", "--json")} {
		if !strings.Contains(out, "also") || !strings.Contains(out, endpoint) || strings.Contains(out, secret) {
			t.Errorf("%q", out)
		}
	}
	s.ok("profile", "rm", "also")
	s.fails(exitFailed, "no such profile", "profile", "rm", "also")
	s.fails(exitFailed, "must be http", "profile", "add", "x", "--endpoint", "nowhere")
	s.fails(exitUsage, "needed together", "profile", "add", "x", "--endpoint", endpoint, "--access-key", "A")
}

func TestBenchCommand(t *testing.T) {
	s := clientShell(t)
	out := s.ok("bench", "s3", "--op", "mixed", "--size", "1KiB", "--objects", "20", "--requests", "100", "--verify", "--concurrency", "4",
		"--server-pid", fmt.Sprint(os.Getpid()), "--mix", "get=60,put=30,delete=10")
	for _, want := range []string{"100 ops in", "errors   0", "server ", "client "} {
		if !strings.Contains(out, want) {
			t.Errorf("%q is not in %q", want, out)
		}
	}
	for _, op := range loadgen.Ops() {
		res := decode[loadgen.Result](t, s.ok("bench", "s3", "--json", "--op", string(op), "--objects", "50", "--batch", "10", "--size", "100",
			"--requests", "5", "--payload", "streaming", "--random-content"))
		if res.Ops != 5 || res.Failed() != 0 {
			t.Errorf("%s: %+v", op, res)
		}
	}
	if out := s.ok("ls"); out != "" {
		t.Errorf("left behind: %q", out)
	}
	s.fails(exitUsage, "mix", "bench", "s3", "--mix", "sing=1")
	s.fails(exitUsage, "size", "bench", "s3", "--size", "x")
	s.fails(exitFailed, "unknown operation", "bench", "s3", "--op", "x")
	s.env["FIRN_SECRET_KEY"] = "wrongwrong"
	s.fails(exitFailed, "403", "bench", "s3", "--requests", "1")
}

func TestParseSize(t *testing.T) {
	for in, want := range map[string]int64{"0": 0, "4096": 4096, "4k": 4096, "4K": 4096, "4KiB": 4096, "4kb": 4000, "1.5M": 3 << 19, "1TiB": 1 << 40, " 2 MiB": 2 << 20} {
		if got, err := parseSize(in); err != nil || got != want {
			t.Errorf("%q: %d, %v", in, got, err)
		}
	}
	for _, in := range []string{"", "x", "-1", "1XB", "99999999999999999999"} {
		if got, err := parseSize(in); err == nil {
			t.Errorf("%q: %d", in, got)
		}
	}
}

// gate is a proxy to the shell's site that holds a request back and tells when it has come.
type gate struct {
	url  string
	held chan struct{} // gets one value for each request held
	mu   sync.Mutex
	hold func(r *http.Request) bool
	seen []string
}

func newGate(t *testing.T, s *shell) *gate {
	t.Helper()
	to, err := url.Parse(s.env["FIRN_ENDPOINT"])
	if err != nil {
		t.Fatal(err)
	}
	g := &gate{held: make(chan struct{}, 100)}
	proxy := &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.Out.URL.Scheme, r.Out.URL.Host = to.Scheme, to.Host
			r.Out.Host = r.In.Host // it is signed
		},
		ErrorLog: log.New(io.Discard, "", 0),
	}
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		g.mu.Lock()
		g.seen = append(g.seen, r.Method+" "+r.URL.RequestURI()+" "+r.Header.Get("Range"))
		hold := g.hold != nil && g.hold(r)
		g.mu.Unlock()
		if hold {
			_, _ = io.Copy(io.Discard, r.Body) // the connection ends with the process that is killed
			g.held <- struct{}{}
			<-r.Context().Done()
			return
		}
		proxy.ServeHTTP(w, r)
	}))
	t.Cleanup(srv.Close)
	g.url = srv.URL
	return g
}

func (g *gate) set(hold func(r *http.Request) bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.hold, g.seen = hold, nil
}

func (g *gate) count(method, text string) int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return len(slices.DeleteFunc(slices.Clone(g.seen), func(s string) bool {
		return !strings.HasPrefix(s, method+" ") || !strings.Contains(s, text)
	}))
}

// start runs the command as a process of its own.
func (s *shell) start(g *gate, args ...string) *exec.Cmd {
	s.t.Helper()
	exe, err := os.Executable()
	if err != nil {
		s.t.Fatal(err)
	}
	c := exec.Command(exe, args...)
	c.Env = append(os.Environ(), s.environ()...)
	c.Env = append(c.Env, "FIRN_TEST_CHILD=1", "FIRN_ENDPOINT="+g.url)
	if err := c.Start(); err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { _ = c.Process.Kill() }) // of no effect where it has ended
	return c
}

// kill -9s a process and waits for its end.
func kill(t *testing.T, c *exec.Cmd) {
	t.Helper()
	if err := c.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	var ee *exec.ExitError
	if err := c.Wait(); !errors.As(err, &ee) {
		t.Fatalf("the process ended by itself: %v", err)
	}
}

// TestKilledUpload kills a process in the middle of an upload. The next one sends only what is missing.
func TestKilledUpload(t *testing.T) {
	s := clientShell(t)
	g := newGate(t, s)
	s.ok("mb", "s3://kills")
	data := noise(53<<20, 1)
	write(t, "big", data)
	args := []string{"cp", "--part-size", "5MiB", "--parallel", "1", "big", "s3://kills/big"}
	sent := 0
	for _, part := range []string{"4", "8"} {
		g.set(func(r *http.Request) bool { return r.URL.Query().Get("partNumber") == part })
		c := s.start(g, args...)
		<-g.held
		kill(t, c)
		sent += g.count("PUT", "partNumber=") - 1
		if out := s.ok("ls", "-r", "s3://kills"); out != "" {
			t.Fatalf("an unfinished object is seen: %q", out)
		}
		if out := s.ok("ls", "--incomplete", "s3://kills"); strings.Count(out, "\n") != 1 {
			t.Fatalf("uploads: %q", out)
		}
	}
	g.set(nil)
	if err := s.start(g, args...).Wait(); err != nil {
		t.Fatal(err)
	}
	if sent += g.count("PUT", "partNumber="); sent != 11 {
		t.Errorf("%d parts were sent in all, the file has 11", sent)
	}
	if got := s.ok("cat", "s3://kills/big"); got != string(data) {
		t.Error("content differs")
	}
	if out := s.ok("ls", "--incomplete", "s3://kills"); out != "" {
		t.Errorf("uploads: %q", out)
	}
}

// TestKilledDownload kills a process in the middle of a download. The next one gets only what is missing.
func TestKilledDownload(t *testing.T) {
	s := clientShell(t)
	g := newGate(t, s)
	s.ok("mb", "s3://kills")
	data := noise(100<<20, 2) // 7 ranges of 16 MiB; progress is recorded after each 64 MiB
	write(t, "big", data)
	s.ok("cp", "big", "s3://kills/big")
	args := []string{"cp", "--parallel", "1", "s3://kills/big", "back/out"}
	g.set(func(r *http.Request) bool {
		return strings.HasPrefix(r.Header.Get("Range"), fmt.Sprintf("bytes=%d-", 6*16<<20))
	})
	c := s.start(g, args...)
	<-g.held
	// The record is written beside the transfer: the process is killed once it is there.
	for !recorded(t, "back") {
		if t.Context().Err() != nil {
			t.Fatal("no progress was recorded")
		}
	}
	kill(t, c)
	if _, err := os.Stat("back/out"); !errors.Is(err, os.ErrNotExist) {
		t.Fatal("an unfinished file has its name")
	}
	g.set(nil)
	if err := s.start(g, args...).Wait(); err != nil {
		t.Fatal(err)
	}
	if n := g.count("GET", "bytes="); n < 1 || n > 3 {
		t.Errorf("%d ranges were asked for again", n)
	}
	if got, err := os.ReadFile("back/out"); err != nil || !bytes.Equal(got, data) {
		t.Errorf("content differs, %v", err)
	}
	if left, err := os.ReadDir("back"); err != nil || len(left) != 1 {
		t.Errorf("%v, %v", left, err)
	}
}

// recorded reports whether a download in dir has recorded progress.
func recorded(t *testing.T, dir string) bool {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(dir, ".firn-*.part.json"))
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range names {
		data, err := os.ReadFile(n)
		var st struct{ Done int64 }
		if err == nil && json.Unmarshal(data, &st) == nil && st.Done > 0 {
			return true
		}
	}
	return false
}

// TestInterrupt: an interrupt ends a copy in good order, and the same command goes on.
func TestInterrupt(t *testing.T) {
	s := clientShell(t)
	g := newGate(t, s)
	s.ok("mb", "s3://ints")
	for i := range 20 {
		write(t, fmt.Sprintf("in/%02d", i), noise(1000, byte(i)))
	}
	args := []string{"cp", "-r", "--parallel", "1", "in", "s3://ints/x"}
	g.set(func(r *http.Request) bool { return strings.HasSuffix(r.URL.Path, "/10") })
	c := s.start(g, args...)
	<-g.held
	if err := c.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	var ee *exec.ExitError
	if err := c.Wait(); !errors.As(err, &ee) || ee.ExitCode() != exitFailed {
		t.Errorf("%v", err)
	}
	if out := s.ok("cp", "-r", "--skip-existing", "in", "s3://ints/x"); !strings.HasPrefix(out, "copied 10, ") || !strings.Contains(out, "skipped 10") {
		t.Errorf("%q", out)
	}
}
