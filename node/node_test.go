package node

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"

	"firn"
	"firn/adminapi"
	"firn/config"
)

const bucket = "bucket"

// site is a node that runs for a test.
type site struct {
	*Node
	stop func() error // cancels Run, waits for it and closes
}

func settings(t *testing.T, dir string) config.Config {
	t.Helper()
	cfg := config.Default()
	cfg.Data, cfg.Listen, cfg.AdminListen = dir, "127.0.0.1:0", "127.0.0.1:0"
	cfg.Reserve = 0
	return cfg
}

func start(t *testing.T, cfg config.Config, o Options) *site {
	t.Helper()
	n, err := Build(t.Context(), cfg, o)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- n.Run(ctx) }()
	s := &site{Node: n}
	stopped := false
	s.stop = func() error {
		if stopped {
			return nil
		}
		stopped = true
		cancel()
		return errors.Join(<-done, n.Close())
	}
	t.Cleanup(func() {
		if err := s.stop(); err != nil {
			t.Error(err)
		}
	})
	s.waitReady(t)
	return s
}

func (s *site) waitReady(t *testing.T) {
	t.Helper()
	// The listener is open since Build: the request waits in its queue until Run serves.
	resp, err := http.Get("http://" + s.AdminAddr().String() + "/readyz")
	if err != nil {
		t.Fatal(err)
	}
	if err := resp.Body.Close(); err != nil {
		t.Fatal(err)
	}
}

func (s *site) client(t *testing.T) *minio.Client {
	t.Helper()
	c, err := minio.New(s.Addr().String(), &minio.Options{
		Creds: credentials.NewStaticV4(s.Root().AccessKey, s.Root().SecretKey, ""), MaxRetries: 1,
		Region: s.cfg.Region,
	})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func (s *site) admin(t *testing.T, path string) (int, string) {
	t.Helper()
	return s.adminDo(t, "GET", path, "")
}

func (s *site) adminDo(t *testing.T, method, path, body string) (int, string) {
	t.Helper()
	token, err := ReadAdminToken(s.cfg.Data)
	if err != nil {
		t.Fatal(err)
	}
	r, err := http.NewRequestWithContext(t.Context(), method, "http://"+s.AdminAddr().String()+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+token)
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(b)
}

func mode(t *testing.T, path string) fs.FileMode {
	t.Helper()
	fi, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return fi.Mode().Perm()
}

func TestFirstStartAndRestart(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	var said bytes.Buffer
	s := start(t, settings(t, dir), Options{Welcome: &said})
	root := s.Root()
	for _, want := range []string{
		root.AccessKey, root.SecretKey, "http://" + s.Addr().String(), "aws --endpoint-url", "mc alias set", "rclone",
	} {
		if !strings.Contains(said.String(), want) {
			t.Errorf("the welcome does not say %q:\n%s", want, &said)
		}
	}
	for name, want := range map[string]fs.FileMode{"": 0o700, credentialsName: 0o600, tokenName: 0o600, runName: 0o600} {
		if got := mode(t, filepath.Join(dir, name)); got != want {
			t.Errorf("%q has mode %o, want %o", name, got, want)
		}
	}
	c := s.client(t)
	if err := c.MakeBucket(t.Context(), bucket, minio.MakeBucketOptions{}); err != nil {
		t.Fatal(err)
	}
	content := strings.Repeat("firn ", 100_000)
	put := func(key, content string) {
		t.Helper()
		_, err := c.PutObject(t.Context(), bucket, key, strings.NewReader(content), int64(len(content)), minio.PutObjectOptions{})
		if err != nil {
			t.Fatal(err)
		}
	}
	put("small", "tiny")
	put("large", content)
	if err := s.stop(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(dir, runName)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%s stays after a stop: %v", runName, err)
	}

	said.Reset()
	s = start(t, settings(t, dir), Options{Welcome: &said})
	if s.Root() != root {
		t.Error("the root credentials changed with the restart")
	}
	if said.Len() > 0 {
		t.Errorf("the credentials were shown again:\n%s", &said)
	}
	c = s.client(t)
	for key, want := range map[string]string{"small": "tiny", "large": content} {
		o, err := c.GetObject(t.Context(), bucket, key, minio.GetObjectOptions{})
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(o)
		if err != nil || string(got) != want {
			t.Errorf("%s: %d bytes, %v, want %d", key, len(got), err, len(want))
		}
	}
	put("after", "restart")
}

func TestGivenCredentialsAreNotStored(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	cfg := settings(t, dir)
	cfg.AccessKey, cfg.SecretKey = "given", "given-secret"
	var said bytes.Buffer
	s := start(t, cfg, Options{Welcome: &said})
	if s.Root().AccessKey != "given" || s.Root().SecretKey != "given-secret" {
		t.Errorf("root is %s", s.Root().AccessKey)
	}
	if err := s.client(t).MakeBucket(t.Context(), bucket, minio.MakeBucketOptions{}); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(filepath.Join(dir, credentialsName)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("they were stored: %v", err)
	}
	if said.Len() > 0 {
		t.Errorf("they were printed: %s", &said)
	}
}

func TestSecondSiteOnADirectoryIsRefused(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	start(t, settings(t, dir), Options{})
	_, err := Build(t.Context(), settings(t, dir), Options{})
	if firn.KindOf(err) != firn.Conflict {
		t.Fatalf("got %v", err)
	}
	for _, want := range []string{dir, "process id", "--data"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("the error does not say %q: %v", want, err)
		}
	}
}

func TestDirectoriesThatAreRefused(t *testing.T) {
	put := func(t *testing.T, dir, name, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	tests := []struct {
		name, file, text string
		kind             firn.Kind
		want             string
	}{
		{"not ours", "holiday.jpg", "x", firn.Conflict, "not made by firn"},
		{"of a later release", formatName, "firn data directory 2\n", firn.Unsupported, "has format 2"},
		{"with a damaged mark", formatName, "garbage", firn.Corrupt, "restore it"},
		{"with an empty mark", formatName, "", firn.Corrupt, "restore it"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			put(t, dir, tt.file, tt.text)
			_, err := Build(t.Context(), settings(t, dir), Options{})
			if firn.KindOf(err) != tt.kind || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want %v with %q", err, tt.kind, tt.want)
			}
			// It was left as it was, so that the right program can have it.
			d, err := os.ReadFile(filepath.Join(dir, tt.file))
			if err != nil || string(d) != tt.text {
				t.Errorf("the file was changed: %q, %v", d, err)
			}
		})
	}
	t.Run("damaged credentials", func(t *testing.T) {
		dir := t.TempDir()
		put(t, dir, formatName, "firn data directory 1\n")
		put(t, dir, credentialsName, "{}")
		if _, err := Build(t.Context(), settings(t, dir), Options{}); firn.KindOf(err) != firn.Corrupt {
			t.Errorf("got %v", err)
		}
	})
	t.Run("with lost+found", func(t *testing.T) {
		dir := t.TempDir()
		if err := os.Mkdir(filepath.Join(dir, "lost+found"), 0o700); err != nil {
			t.Fatal(err)
		}
		start(t, settings(t, dir), Options{})
	})
}

func TestPortInUse(t *testing.T) {
	s := start(t, settings(t, filepath.Join(t.TempDir(), "a")), Options{})
	cfg := settings(t, filepath.Join(t.TempDir(), "b"))
	cfg.Listen = s.Addr().String()
	_, err := Build(t.Context(), cfg, Options{})
	if firn.KindOf(err) != firn.Conflict || !strings.Contains(err.Error(), "set listen to") {
		t.Fatalf("got %v", err)
	}
	// What was open is closed: the same directory can be had again.
	cfg.Listen = "127.0.0.1:0"
	start(t, cfg, Options{})
}

// slowPut begins a PUT and returns the writer of its body, and a channel with its outcome.
func slowPut(t *testing.T, s *site, key string) (*io.PipeWriter, chan error) {
	t.Helper()
	pr, pw := io.Pipe()
	result := make(chan error, 1)
	c := s.client(t)
	go func() {
		_, err := c.PutObject(context.Background(), bucket, key, pr, 6, minio.PutObjectOptions{
			DisableContentSha256: true, DisableMultipart: true, SendContentMd5: false,
		})
		result <- err
	}()
	if _, err := pw.Write([]byte("abc")); err != nil {
		t.Fatal(err)
	}
	return pw, result
}

// waitInFlight returns when a request is being served.
func waitInFlight(t *testing.T, s *site) {
	t.Helper()
	for {
		if _, body := s.admin(t, "/metrics"); strings.Contains(body, "firn_s3_requests_in_flight 1") {
			return
		}
		if t.Context().Err() != nil {
			t.Fatal("no request came in flight")
		}
	}
}

func TestStopLetsRequestsFinish(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	s := start(t, settings(t, dir), Options{})
	if err := s.client(t).MakeBucket(t.Context(), bucket, minio.MakeBucketOptions{}); err != nil {
		t.Fatal(err)
	}
	body, result := slowPut(t, s, "slow")
	waitInFlight(t, s)
	stopped := make(chan error, 1)
	go func() { stopped <- s.stop() }()
	// The admin endpoint says that the site is stopping until it has stopped.
	for code := 200; code != http.StatusServiceUnavailable; {
		code, _ = s.admin(t, "/readyz")
	}
	if _, err := body.Write([]byte("def")); err != nil {
		t.Fatal(err)
	}
	if err := body.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-result; err != nil {
		t.Errorf("a request in flight was cut off: %v", err)
	}
	if err := <-stopped; err != nil {
		t.Error(err)
	}
	s = start(t, settings(t, dir), Options{})
	if _, err := s.client(t).StatObject(t.Context(), bucket, "slow", minio.StatObjectOptions{}); err != nil {
		t.Errorf("what was acknowledged while stopping is gone: %v", err)
	}
}

func TestStopIsBounded(t *testing.T) {
	cfg := settings(t, filepath.Join(t.TempDir(), "data"))
	cfg.Limits.DrainTimeout = config.Duration(50 * time.Millisecond)
	s := start(t, cfg, Options{})
	if err := s.client(t).MakeBucket(t.Context(), bucket, minio.MakeBucketOptions{}); err != nil {
		t.Fatal(err)
	}
	body, result := slowPut(t, s, "stuck")
	waitInFlight(t, s)
	if err := s.stop(); err != nil {
		t.Error(err)
	}
	if err := body.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-result; err == nil {
		t.Error("a request that never finished was acknowledged")
	}
}

func TestRunReturnsWhatItCannotGoOnFrom(t *testing.T) {
	n, err := Build(t.Context(), settings(t, filepath.Join(t.TempDir(), "data")), Options{})
	if err != nil {
		t.Fatal(err)
	}
	poison := errors.New("fsync: input/output error")
	n.fail(poison)
	n.fail(errors.New("a later one"))
	if err := n.Run(t.Context()); !errors.Is(err, poison) {
		t.Errorf("got %v", err)
	}
	if err := n.Close(); err != nil {
		t.Error(err)
	}
}

func TestDiskNearlyFull(t *testing.T) {
	cfg := settings(t, filepath.Join(t.TempDir(), "data"))
	cfg.Reserve = 1 << 60
	s := start(t, cfg, Options{})
	if code, body := s.admin(t, "/readyz"); code != 503 || !strings.Contains(body, "nearly full") {
		t.Errorf("readiness: %d %s", code, body)
	}
	if code, _ := s.admin(t, "/healthz"); code != 200 {
		t.Errorf("health: %d", code)
	}
	err := s.client(t).MakeBucket(t.Context(), bucket, minio.MakeBucketOptions{})
	if r := minio.ToErrorResponse(err); r.StatusCode != http.StatusInsufficientStorage {
		t.Errorf("a write got %d %v", r.StatusCode, err)
	}
}

func TestCheckOffline(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	found := func(p adminapi.Problem) error { t.Errorf("found %+v", p); return nil }
	if _, err := CheckOffline(t.Context(), dir, config.Default().Encryption, adminapi.CheckOptions{}, found); firn.KindOf(err) != firn.NotFound {
		t.Errorf("a directory that is not there: %v", err)
	}
	s := start(t, settings(t, dir), Options{})
	if _, err := CheckOffline(t.Context(), dir, config.Default().Encryption, adminapi.CheckOptions{}, found); firn.KindOf(err) != firn.Conflict {
		t.Errorf("beside a running site: %v", err)
	}
	c := s.client(t)
	if err := c.MakeBucket(t.Context(), bucket, minio.MakeBucketOptions{}); err != nil {
		t.Fatal(err)
	}
	content := strings.Repeat("x", 1<<20)
	if _, err := c.PutObject(t.Context(), bucket, "k", strings.NewReader(content), 1<<20, minio.PutObjectOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := s.stop(); err != nil {
		t.Fatal(err)
	}
	sum, err := CheckOffline(t.Context(), dir, config.Default().Encryption, adminapi.CheckOptions{Read: true}, found)
	if err != nil || sum.Versions != 1 || sum.Bytes < 1<<20 {
		t.Errorf("%+v, %v", sum, err)
	}
}

// TestMetricsAreDocumented holds docs/operations.md to naming every metric, and no other.
func TestMetricsAreDocumented(t *testing.T) {
	cfg := settings(t, filepath.Join(t.TempDir(), "data"))
	// A site with all that has metrics of its own.
	cfg.Edge.Listen, cfg.Cache.Redis = "127.0.0.1:0", "redis://127.0.0.1:1"
	rule := config.DefaultEdgeRule()
	rule.Prefix, rule.Origins = "/", []string{"http://127.0.0.1:1"}
	cfg.EdgeRules = map[string]config.EdgeRule{"all": rule}
	cfg.Tiers = []config.Tier{{Name: "cold", Class: "COLD", URL: "file:" + t.TempDir()}}
	s := start(t, cfg, Options{})
	if err := s.client(t).MakeBucket(t.Context(), bucket, minio.MakeBucketOptions{}); err != nil {
		t.Fatal(err)
	}
	// A request with a body each way, so that every metric of requests exists.
	s.metrics.Request("PutObject", 200, 1, 1, time.Millisecond)
	names, err := s.metrics.Names()
	if err != nil {
		t.Fatal(err)
	}
	page, err := os.ReadFile("../docs/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	documented := map[string]bool{}
	for _, line := range strings.Split(string(page), "\n") {
		if rest, ok := strings.CutPrefix(line, "| `firn_"); ok {
			name, _, _ := strings.Cut(rest, "`")
			documented["firn_"+name] = true
		}
	}
	for name, help := range names {
		if strings.HasPrefix(name, "firn_") && !documented[name] {
			t.Errorf("docs/operations.md does not list %s: %s", name, help)
		}
	}
	for name := range documented {
		if _, ok := names[name]; !ok {
			t.Errorf("docs/operations.md lists %s, which does not exist", name)
		}
	}
}

func TestMetricsCanBeTurnedOff(t *testing.T) {
	cfg := settings(t, filepath.Join(t.TempDir(), "data"))
	cfg.Metrics.Enabled = false
	s := start(t, cfg, Options{})
	if code, _ := s.admin(t, "/metrics"); code != http.StatusNotFound {
		t.Errorf("status %d", code)
	}
}

func TestMemoryIsGivenBackWhenIdle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var requests atomic.Uint64
		var freed atomic.Int64
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { giveBack(ctx, requests.Load, func() { freed.Add(1) }); close(done) }()
		expect := func(what string, want int64) {
			t.Helper()
			synctest.Wait()
			if n := freed.Load(); n != want {
				t.Errorf("%s: freed %d times, want %d", what, n, want)
			}
		}
		time.Sleep(10*idleAfter + time.Second)
		expect("idle from the start", 0)
		requests.Add(5)
		time.Sleep(idleAfter)
		expect("busy a moment ago", 0)
		time.Sleep(idleAfter)
		expect("idle after requests", 1)
		time.Sleep(10 * idleAfter)
		expect("idle for long", 1)
		for range 5 {
			requests.Add(1)
			time.Sleep(idleAfter)
		}
		expect("busy", 1)
		time.Sleep(2 * idleAfter)
		expect("idle again", 2)
		cancel()
		<-done
	})
}

func TestPlanMemory(t *testing.T) {
	for _, limit := range []int64{64 << 20, 256 << 20, 1 << 30, 64 << 30} {
		for _, offHeap := range []bool{false, true} {
			m := PlanMemory(limit, offHeap)
			engine := m.Cache + 4*m.MemTable
			total := m.Go
			if offHeap {
				total += engine
			}
			if m.Go < limit/4 || m.Cache <= 0 || m.MemTable < 1<<20 || total >= limit || engine > limit*5/8 {
				t.Errorf("limit %d, off heap %v: %+v", limit, offHeap, m)
			}
		}
	}
}
