package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
	"github.com/minio/minio-go/v7/pkg/signer"

	"firn/adminapi"
	"firn/auth"
	"firn/node"
)

// shell runs command lines in this process.
type shell struct {
	t   *testing.T
	env map[string]string
}

type result struct {
	code     int
	out, err string
}

func newShell(t *testing.T) *shell {
	t.Helper()
	t.Chdir(t.TempDir()) // nothing of the developer's is found by accident
	return &shell{t, map[string]string{}}
}

func (s *shell) getenv(name string) (string, bool) { v, ok := s.env[name]; return v, ok }

func (s *shell) environ() []string {
	out := make([]string, 0, len(s.env))
	for k, v := range s.env {
		out = append(out, k+"="+v)
	}
	return out
}

func (s *shell) runContext(ctx context.Context, out, errw io.Writer, args ...string) int {
	return Main(ctx, args, &Env{In: strings.NewReader(""), Out: out, Err: errw, Getenv: s.getenv, Environ: s.environ})
}

func (s *shell) run(args ...string) result {
	s.t.Helper()
	var out, errw bytes.Buffer
	code := s.runContext(s.t.Context(), &out, &errw, args...)
	return result{code, out.String(), errw.String()}
}

// ok runs a command that must succeed and returns its output.
func (s *shell) ok(args ...string) string {
	s.t.Helper()
	r := s.run(args...)
	if r.code != exitOK {
		s.t.Fatalf("firn %s: exit %d: %s", strings.Join(args, " "), r.code, r.err)
	}
	return r.out
}

// serve starts a site in this process that stops with the test, and returns its data directory and a client, nil for an
// encrypted one.
func (s *shell) serve(args ...string) (dir string, c *minio.Client, stop func()) {
	s.t.Helper()
	dir = filepath.Join(s.t.TempDir(), "data")
	ctx, cancel := context.WithCancel(context.Background())
	pr, pw := io.Pipe()
	done := make(chan int, 1)
	var log bytes.Buffer
	args = append([]string{"serve", "--data", dir, "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0", "--reserve", "0"}, args...)
	go func() {
		code := s.runContext(ctx, pw, &log, args...)
		pw.Close()
		done <- code
	}()
	// The welcome is the sign that everything is open.
	welcome := make([]byte, 64)
	if _, err := io.ReadFull(pr, welcome); err != nil {
		s.t.Fatalf("serve said nothing: %v\n%s", err, &log)
	}
	go io.Copy(io.Discard, pr)
	stop = func() {
		if cancel == nil {
			return
		}
		cancel()
		cancel = nil
		if code := <-done; code != exitOK {
			s.t.Errorf("serve ended with exit code %d:\n%s", code, &log)
		}
	}
	s.t.Cleanup(stop)
	// run.json is written by Run, a moment later.
	var run node.RunInfo
	for {
		var err error
		if run, err = node.ReadRunInfo(dir); err == nil {
			break
		}
		if s.t.Context().Err() != nil {
			s.t.Fatal(err)
		}
	}
	if node.Encrypted(dir) {
		return dir, nil, stop // its credentials are sealed
	}
	b, err := os.ReadFile(filepath.Join(dir, "credentials.json"))
	if err != nil {
		s.t.Fatal(err)
	}
	var root auth.Credentials
	if err := json.Unmarshal(b, &root); err != nil {
		s.t.Fatal(err)
	}
	return dir, client(s.t, run.Listen, root), stop
}

func client(t *testing.T, addr string, c auth.Credentials) *minio.Client {
	t.Helper()
	mc, err := minio.New(addr, &minio.Options{Creds: credentials.NewStaticV4(c.AccessKey, c.SecretKey, ""), Region: "us-east-1", MaxRetries: 1})
	if err != nil {
		t.Fatal(err)
	}
	return mc
}

func decode[T any](t *testing.T, s string) T {
	t.Helper()
	var v T
	if err := json.Unmarshal([]byte(s), &v); err != nil {
		t.Fatalf("%v in %s", err, s)
	}
	return v
}

func put(t *testing.T, c *minio.Client, bucket, key, content string) error {
	t.Helper()
	_, err := c.PutObject(t.Context(), bucket, key, strings.NewReader(content), int64(len(content)), minio.PutObjectOptions{})
	return err
}

func TestUsersAndKeys(t *testing.T) {
	s := newShell(t)
	dir, root, _ := s.serve()
	if err := root.MakeBucket(t.Context(), "docs", minio.MakeBucketOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := put(t, root, "docs", "in/a", "a"); err != nil {
		t.Fatal(err)
	}
	made := decode[adminapi.NewUser](t, s.ok("user", "add", "ada", "--grant", "read:docs", "--grant", "write:docs/out/", "--data", dir, "--json"))
	ada := client(t, root.EndpointURL().Host, made.Credentials)
	if _, err := ada.StatObject(t.Context(), "docs", "in/a", minio.StatObjectOptions{}); err != nil {
		t.Errorf("read: %v", err)
	}
	if err := put(t, ada, "docs", "out/b", "b"); err != nil {
		t.Errorf("write where granted: %v", err)
	}
	if err := put(t, ada, "docs", "in/b", "b"); minio.ToErrorResponse(err).Code != "AccessDenied" {
		t.Errorf("write where not granted: %v", err)
	}

	if out := s.ok("user", "list", "--data", dir); !strings.Contains(out, "ada") || !strings.Contains(out, "read:docs write:docs/out/") {
		t.Errorf("list: %s", out)
	}
	if out := s.ok("user", "grant", "ada", "--data", dir); out != "ada: none\n" {
		t.Errorf("grant: %s", out)
	}
	if _, err := ada.StatObject(t.Context(), "docs", "in/a", minio.StatObjectOptions{}); err == nil {
		t.Error("a user without grants reads")
	}
	s.ok("user", "grant", "ada", "read", "--data", dir)

	// Bounds of one's own hold at once, and go again.
	if out := s.ok("user", "limit", "ada", "--data", dir); out != "requests    as the site\nconcurrent  as the site\nrate        as the site\n" {
		t.Errorf("limit: %s", out)
	}
	if out := s.ok("user", "limit", "ada", "--requests", "1", "--rate", "2MiB/s", "--concurrent", "none", "--data", dir); out !=
		"requests    1 a second\nconcurrent  none\nrate        2MiB/s\n" {
		t.Errorf("limit: %s", out)
	}
	slowed := 0
	for range 20 {
		req, err := http.NewRequestWithContext(t.Context(), "GET", root.EndpointURL().String()+"/docs/in/a", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("X-Amz-Content-Sha256", "UNSIGNED-PAYLOAD")
		res, err := http.DefaultClient.Do(signer.SignV4(*req, made.Credentials.AccessKey, made.Credentials.SecretKey, "", "us-east-1"))
		if err != nil {
			t.Fatal(err)
		}
		if res.Body.Close(); res.StatusCode == http.StatusServiceUnavailable {
			slowed++
		}
	}
	if slowed == 0 {
		t.Error("20 requests at once with a bound of 1 a second")
	}
	s.ok("user", "limit", "ada", "--requests", "site", "--rate", "site", "--data", dir)
	if out := s.ok("user", "limit", "ada", "--data", dir, "--json"); !strings.Contains(out, `"concurrent": -1`) || strings.Contains(out, "rate") {
		t.Errorf("limit: %s", out)
	}

	second := decode[auth.Credentials](t, s.ok("key", "add", "ada", "--data", dir, "--json"))
	if out := s.ok("key", "list", "ada", "--data", dir); !strings.Contains(out, second.AccessKey) || strings.Contains(out, second.SecretKey) {
		t.Errorf("keys: %s", out)
	}
	s.ok("key", "rm", second.AccessKey, "--data", dir)
	gone := client(t, root.EndpointURL().Host, second)
	if _, err := gone.ListBuckets(t.Context()); minio.ToErrorResponse(err).Code != "InvalidAccessKeyId" {
		t.Errorf("a removed key: %v", err)
	}

	s.ok("user", "add", "bob", "--access-key", "bobs-key", "--secret-key", "bobs-secret", "--data", dir)
	if r := s.run("user", "add", "bob", "--data", dir); r.code != exitFailed || r.err != "firn: add user bob: user already exists\n" {
		t.Errorf("%d %s", r.code, r.err)
	}
	if r := s.run("user", "rm", "eve", "--data", dir); r.code != exitFailed || !strings.Contains(r.err, "eve: user does not exist") {
		t.Errorf("%d %s", r.code, r.err)
	}
	s.ok("user", "rm", "bob", "--data", dir)
	if r := s.run("key", "list", "bob", "--data", dir); r.code != exitFailed {
		t.Errorf("keys of a removed user: %d %s", r.code, r.out)
	}
}

func TestJournal(t *testing.T) {
	s := newShell(t)
	dir, root, _ := s.serve()
	if err := root.MakeBucket(t.Context(), "docs", minio.MakeBucketOptions{}); err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{"a", "b"} {
		if err := put(t, root, "docs", key, "content"); err != nil {
			t.Fatal(err)
		}
	}
	lines := strings.Split(strings.TrimSpace(s.ok("journal", "--data", dir)), "\n")
	if len(lines) != 3 || !strings.HasPrefix(lines[0], "1 ") || !strings.HasSuffix(lines[2], ` put "docs/b" 7 bytes`) {
		t.Errorf("journal:\n%s", strings.Join(lines, "\n"))
	}
	e := decode[adminapi.JournalEntry](t, s.ok("journal", "--from", "3", "--json", "--data", dir))
	if e.Seq != 3 || e.Op != "put" || e.Key != "b" || e.Size != 7 || e.ETag == "" {
		t.Errorf("entry %+v", e)
	}

	// A follower gets what comes later, and ends well when it is interrupted.
	ctx, cancel := context.WithCancel(t.Context())
	pr, pw := io.Pipe()
	done := make(chan int, 1)
	var errs bytes.Buffer
	go func() {
		done <- s.runContext(ctx, pw, &errs, "journal", "--follow", "--from", "4", "--json", "--data", dir)
	}()
	if err := root.RemoveObject(t.Context(), "docs", "a", minio.RemoveObjectOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := json.NewDecoder(pr).Decode(&e); err != nil || e.Seq != 4 || e.Op != "delete" {
		t.Errorf("followed %+v, %v", e, err)
	}
	cancel()
	go io.Copy(io.Discard, pr)
	if code := <-done; code != exitOK {
		t.Errorf("follow ended with %d: %s", code, &errs)
	}
}

func TestStatusAndCheck(t *testing.T) {
	s := newShell(t)
	dir, root, stop := s.serve("--region", "us-east-1")
	if err := root.MakeBucket(t.Context(), "docs", minio.MakeBucketOptions{}); err != nil {
		t.Fatal(err)
	}
	content := strings.Repeat("firn", 100_000)
	if err := put(t, root, "docs", "large", content); err != nil {
		t.Fatal(err)
	}
	st := decode[adminapi.Status](t, s.ok("status", "--json", "--data", dir))
	if !st.Ready || len(st.Buckets) != 1 || st.Buckets[0].Objects != 1 || st.Buckets[0].Bytes != int64(len(content)) {
		t.Errorf("status %+v", st)
	}
	if out := s.ok("status", "--data", dir); !strings.Contains(out, "ready") || !strings.Contains(out, "docs") {
		t.Errorf("status:\n%s", out)
	}
	if out := s.ok("status", "--ready", "--data", dir); !strings.HasPrefix(out, "ready 127.0.0.1:") {
		t.Errorf("ready: %s", out)
	}
	if out := s.ok("check", "--read", "--data", dir); !strings.HasPrefix(out, "no problems: 1 buckets, 1 versions") {
		t.Errorf("check:\n%s", out)
	}
	if r := s.run("check", "--offline", "--data", dir); r.code != exitFailed || !strings.Contains(r.err, "in use by another process") {
		t.Errorf("offline beside the site: %d %s", r.code, r.err)
	}
	stop()
	if out := s.ok("check", "--offline", "--read", "--data", dir); !strings.HasPrefix(out, "no problems") {
		t.Errorf("offline:\n%s", out)
	}

	// One flipped bit in the part file is found.
	var part string
	err := filepath.WalkDir(filepath.Join(dir, "blobs"), func(path string, d os.DirEntry, err error) error {
		if info, ierr := d.Info(); err == nil && ierr == nil && d.Type().IsRegular() && info.Size() >= int64(len(content)) {
			part = path
		}
		return err
	})
	if err != nil || part == "" {
		t.Fatalf("no part file: %v", err)
	}
	b, err := os.ReadFile(part)
	if err != nil {
		t.Fatal(err)
	}
	b[len(b)/2] ^= 1
	if err := os.WriteFile(part, b, 0o600); err != nil {
		t.Fatal(err)
	}
	r := s.run("check", "--offline", "--read", "--data", dir)
	if r.code != exitProblems || !strings.Contains(r.out, `"docs/large"`) || !strings.Contains(r.out, "1 problems") {
		t.Errorf("a flipped bit: exit %d\n%s%s", r.code, r.out, r.err)
	}
	r = s.run("check", "--offline", "--read", "--json", "--data", dir)
	first, _, _ := strings.Cut(r.out, "\n")
	if l := decode[adminapi.CheckLine](t, first); l.Problem == nil || l.Problem.Key != "large" {
		t.Errorf("as JSON: %s", r.out)
	}
}

func TestAdminURL(t *testing.T) {
	s := newShell(t)
	dir, _, _ := s.serve()
	run, err := node.ReadRunInfo(dir)
	if err != nil {
		t.Fatal(err)
	}
	url := "http://" + run.Admin
	if r := s.run("status", "--admin", url); r.code != exitUsage || !strings.Contains(r.err, "--token-file") {
		t.Errorf("without a token: %d %s", r.code, r.err)
	}
	s.ok("status", "--admin", url, "--token-file", filepath.Join(dir, "admin.token"))
	if s.env["FIRN_ADMIN_TOKEN"], err = node.ReadAdminToken(dir); err != nil {
		t.Fatal(err)
	}
	s.ok("status", "--admin", url+"/")
	s.env["FIRN_ADMIN_TOKEN"] = "wrong"
	if r := s.run("status", "--admin", url); r.code != exitFailed || !strings.Contains(r.err, "token is missing or wrong") {
		t.Errorf("with a wrong token: %d %s", r.code, r.err)
	}
	if r := s.run("status", "--admin", "http://"+run.Listen); r.code != exitFailed || !strings.Contains(r.err, "is that a firn admin endpoint") {
		t.Errorf("at the S3 port: %d %s", r.code, r.err)
	}
	if r := s.run("status", "--admin", "nowhere"); r.code != exitUsage {
		t.Errorf("not a URL: %d %s", r.code, r.err)
	}
	if r := s.run("status", "--admin", url, "--data", dir); r.code != exitUsage {
		t.Errorf("two sites: %d %s", r.code, r.err)
	}
}

func TestNotReady(t *testing.T) {
	s := newShell(t)
	dir, _, _ := s.serve("--reserve", "1000000TiB")
	r := s.run("status", "--ready", "--data", dir)
	if r.code != exitFailed || !strings.HasPrefix(r.err, "firn: site not ready: the disk is nearly full") {
		t.Errorf("%d %s", r.code, r.err)
	}
}

func TestNoSiteRuns(t *testing.T) {
	s := newShell(t)
	r := s.run("status", "--data", "nothing-here")
	if r.code != exitFailed || !strings.Contains(r.err, "no site runs there: start it with firn serve") {
		t.Errorf("%d %s", r.code, r.err)
	}
	// A process that was killed leaves its address behind.
	dir, _, stop := s.serve()
	b, err := os.ReadFile(filepath.Join(dir, "run.json"))
	if err != nil {
		t.Fatal(err)
	}
	stop()
	if err := os.WriteFile(filepath.Join(dir, "run.json"), b, 0o600); err != nil {
		t.Fatal(err)
	}
	if r := s.run("status", "--data", dir, "--json"); r.code != exitFailed || !strings.Contains(r.err, `"kind":"unavailable"`) || !strings.Contains(r.err, "is it running?") {
		t.Errorf("%d %s", r.code, r.err)
	}
}

func TestPprof(t *testing.T) {
	s := newShell(t)
	dir, _, _ := s.serve()
	out := filepath.Join(t.TempDir(), "heap.pprof")
	s.ok("pprof", "heap", "--out", out, "--data", dir)
	b, err := os.ReadFile(out)
	if err != nil || http.DetectContentType(b) != "application/x-gzip" {
		t.Errorf("%d bytes of %s, %v", len(b), http.DetectContentType(b), err)
	}
	if r := s.run("pprof", "soul", "--data", dir); r.code != exitUsage {
		t.Errorf("%d %s", r.code, r.err)
	}
}

func TestConfigCommands(t *testing.T) {
	s := newShell(t)
	if err := os.WriteFile("good.yaml", []byte("region: eu-1\nsecret_key: hush-hush\naccess_key: abc\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile("bad.yaml", []byte("region: eu-1\nlog:\n  levle: debug\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if out := s.ok("config", "check", "good.yaml"); out != "good.yaml: ok\n" {
		t.Errorf("check: %s", out)
	}
	want := `firn: configuration: bad.yaml:3:3: unknown key "log.levle": did you mean "log.level"?` + "\n"
	if r := s.run("config", "check", "bad.yaml"); r.code != exitUsage || r.err != want {
		t.Errorf("check: %d %s", r.code, r.err)
	}
	if r := s.run("serve", "--config", "bad.yaml"); r.code != exitUsage || r.err != want {
		t.Errorf("serve: %d %s", r.code, r.err)
	}
	if r := s.run("config", "check"); r.code != exitUsage || !strings.Contains(r.err, "there is no firn.yaml here") {
		t.Errorf("check of nothing: %d %s", r.code, r.err)
	}
	s.env["FIRN_LOG_LEVEL"] = "warn"
	out := s.ok("config", "show", "--config", "good.yaml", "--listen", ":1234")
	for _, want := range []string{"good.yaml:1:9", "FIRN_LOG_LEVEL", "--listen", "# default", "(hidden)"} {
		if !strings.Contains(out, want) {
			t.Errorf("show does not say %q:\n%s", want, out)
		}
	}
	if strings.Contains(out, "hush") || strings.Contains(s.ok("config", "show", "--config", "good.yaml", "--json"), "hush") {
		t.Error("show shows the secret")
	}
	if out := s.ok("config", "keys"); !strings.Contains(out, "journal.keep  (duration, default 7d)\n  --journal-keep  FIRN_JOURNAL_KEEP\n    Age at") {
		t.Errorf("keys:\n%s", out)
	}
}

func TestUsageErrors(t *testing.T) {
	s := newShell(t)
	for _, args := range [][]string{
		{"frobnicate"},
		{"user", "frobnicate"},
		{"serve", "--no-such-flag"},
		{"serve", "extra"},
		{"user", "add"},
		{"user", "add", "ada", "--grant", "king"},
		{"key", "rm"},
		{"status", "extra"},
		{"check", "--offline", "--admin", "http://x:1"},
		{"serve", "--memory-limit", "1M"},
		{"config", "check", "a", "b"},
		{"config", "check", "missing.yaml"},
	} {
		if r := s.run(args...); r.code != exitUsage || !strings.HasPrefix(r.err, "firn: ") || r.out != "" {
			t.Errorf("firn %s: exit %d, %q", strings.Join(args, " "), r.code, r.err)
		}
	}
	if r := s.run("status", "--data", "none", "--json"); !json.Valid([]byte(r.err)) {
		t.Errorf("an error with --json is not JSON: %s", r.err)
	}
}

func TestVersion(t *testing.T) {
	s := newShell(t)
	v := decode[map[string]string](t, s.ok("version", "--json"))
	if v["version"] == "" || v["go"] == "" || v["platform"] == "" {
		t.Errorf("version %v", v)
	}
	if out := s.ok("version"); !strings.HasPrefix(out, "firn v") {
		t.Errorf("version: %s", out)
	}
	if out := s.ok("--help"); !strings.Contains(out, "firn serve") {
		t.Errorf("help: %s", out)
	}
	if out := s.ok("completion", "bash"); !strings.Contains(out, "__start_firn") {
		t.Error("no shell completion")
	}
}
