package node

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
	"github.com/minio/minio-go/v7/pkg/encrypt"

	"firn/config"
	"firn/object"
	"firn/object/record"
)

func fetch(t *testing.T, method, url string, header ...string) (*http.Response, string) {
	t.Helper()
	resp, body, err := tryFetch(t, method, url, header...)
	if err != nil {
		t.Fatal(err)
	}
	return resp, body
}

// tryFetch is fetch for an answer that may be broken off, as when the content is replaced under it.
func tryFetch(t *testing.T, method, url string, header ...string) (*http.Response, string, error) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, h := range header {
		name, value, _ := strings.Cut(h, ": ")
		req.Header.Add(name, value)
	}
	resp, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return resp, string(b), err
}

func TestEdge(t *testing.T) {
	origin := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/videos/a.mp4" {
			http.NotFound(w, r)
			return
		}
		w.Header().Set("Etag", `"1"`)
		http.ServeContent(w, r, "", time.Time{}, strings.NewReader("an origin elsewhere"))
	}))
	defer origin.Close()
	cfg := settings(t, t.TempDir())
	cfg.Edge.Listen, cfg.Edge.Node, cfg.Edge.PurgeFrom = "127.0.0.1:0", "shed-7", []string{"127.0.0.0/8"}
	cfg.Cache.Disk = 64 << 20
	files, videos := config.DefaultEdgeRule(), config.DefaultEdgeRule()
	files.Prefix, files.Strip, files.Origins = "/files/", true, []string{"bucket:shared"}
	videos.Prefix, videos.Origins = "/videos/", []string{origin.URL}
	cfg.EdgeRules = map[string]config.EdgeRule{"files": files, "videos": videos}
	s := start(t, cfg, Options{})
	edge := "http://" + s.edge.listener.Addr().String()
	client, err := minio.New(s.Addr().String(), &minio.Options{Creds: credentials.NewStaticV4(s.Root().AccessKey, s.Root().SecretKey, "")})
	if err != nil {
		t.Fatal(err)
	}
	if err := client.MakeBucket(t.Context(), "shared", minio.MakeBucketOptions{}); err != nil {
		t.Fatal(err)
	}
	put := func(key, content string, o minio.PutObjectOptions) {
		t.Helper()
		if _, err := client.PutObject(t.Context(), "shared", key, strings.NewReader(content), int64(len(content)), o); err != nil {
			t.Fatal(err)
		}
	}
	long := strings.Repeat("0123456789", 300_000)
	put("dir/a b.txt", long, minio.PutObjectOptions{ContentType: "text/x"})
	put("secret", "sealed", minio.PutObjectOptions{ServerSideEncryption: encrypt.NewSSE()})
	url := edge + "/files/dir/a%20b.txt"
	right := func() string {
		resp, body := fetch(t, "GET", url)
		if resp.StatusCode != 200 || body != long || resp.Header.Get("X-Edge-Node") != "shed-7" || resp.Header.Get("Content-Type") != "text/x" {
			t.Errorf("%d, %d bytes, %v", resp.StatusCode, len(body), resp.Header)
		}
		return resp.Header.Get("X-Cache-Status")
	}
	if status := right(); status != "MISS" {
		t.Errorf("the first time: %s", status)
	}
	within(t, "a hit", func() bool { return right() == "HIT" }) // the journal may have purged it after the first fetch
	if resp, body := fetch(t, "GET", url, "Range: bytes=2000001-2000003"); resp.StatusCode != 206 || body != "123" {
		t.Errorf("%d %q", resp.StatusCode, body)
	}
	if resp, body := fetch(t, "GET", edge+"/files/secret"); resp.StatusCode != 200 || body != "sealed" {
		t.Errorf("an encrypted object: %d %q", resp.StatusCode, body)
	}
	if resp, body := fetch(t, "GET", edge+"/videos/a.mp4"); resp.StatusCode != 200 || body != "an origin elsewhere" {
		t.Errorf("%d %q", resp.StatusCode, body)
	}
	// Nobody gets at more than the objects.
	for _, path := range []string{"/files/", "/files/?list-type=2", "/files", "/", "/files/dir/a%20b.txt?acl", "/files/..%2f..%2fother"} {
		resp, body := fetch(t, "GET", edge+path)
		if strings.Contains(body, "<ListBucketResult") || strings.Contains(body, "<AccessControlPolicy") || strings.Contains(body, "<ListAllMy") {
			t.Errorf("%s: %d %.100s", path, resp.StatusCode, body)
		}
	}
	// What is written here is here at once: the journal purges.
	put("kept", long, minio.PutObjectOptions{}) // for later: the journal is through with it when it is through with the next
	put("dir/a b.txt", "replaced", minio.PutObjectOptions{})
	within(t, "the new content", func() bool {
		_, body, err := tryFetch(t, "GET", url)
		return err == nil && body == "replaced"
	})
	if err := client.RemoveObject(t.Context(), "shared", "dir/a b.txt", minio.RemoveObjectOptions{}); err != nil {
		t.Fatal(err)
	}
	within(t, "a 404", func() bool { resp, _ := fetch(t, "GET", url); return resp.StatusCode == 404 })
	if resp, _ := fetch(t, "PURGE", edge+"/videos/*"); resp.StatusCode != 200 {
		t.Errorf("purge: %d", resp.StatusCode)
	}
	origin.Close()
	if resp, _ := fetch(t, "GET", edge+"/videos/a.mp4"); resp.StatusCode != 502 {
		t.Errorf("%d after the purge, and the origin is away", resp.StatusCode)
	}
	token, err := os.ReadFile(filepath.Join(cfg.Data, "admin.token"))
	if err != nil {
		t.Fatal(err)
	}
	_, metrics := fetch(t, "GET", "http://"+s.AdminAddr().String()+"/metrics", "Authorization: Bearer "+strings.TrimSpace(string(token)))
	for _, line := range []string{`firn_edge_requests_total{status="hit"} `, "firn_edge_sent_bytes_total ", `firn_cache_bytes{level="memory"}`} {
		if !strings.Contains(metrics, line) {
			t.Errorf("no %s", line)
		}
	}
	// Contents survive a restart.
	fetch(t, "GET", edge+"/files/kept")
	if err := s.stop(); err != nil {
		t.Fatal(err)
	}
	s = start(t, cfg, Options{})
	edge = fmt.Sprintf("http://%s", s.edge.listener.Addr())
	if resp, body := fetch(t, "GET", edge+"/files/kept"); body != long {
		t.Errorf("%d, %d bytes", resp.StatusCode, len(body))
	} else if resp.Header.Get("X-Cache-Status") != "HIT" {
		t.Errorf("after a restart: %s", resp.Header.Get("X-Cache-Status"))
	}
}

func within(t *testing.T, what string, yes func() bool) {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(20 * time.Second); !yes(); <-tick.C {
		if time.Now().After(end) {
			t.Fatalf("it does not come: %s", what)
		}
	}
}

// TestEdgeOverTiers: many slices at once of what is on a tier come, though the edge cache and the tier fetch by way of one
// cache.
func TestEdgeOverTiers(t *testing.T) {
	dir := t.TempDir()
	cfg := tiered(t, dir)
	makePlace(t, "file:"+filepath.Join(dir, "nas"))
	cfg.Edge.Listen, cfg.Edge.Slice, cfg.Cache.Disk = "127.0.0.1:0", 4<<10, 64<<20
	nas := cfg.Places["nas"]
	nas.DownloadRate = 64 << 20 // so that many are on their way at once
	cfg.Places["nas"] = nas
	rule := config.DefaultEdgeRule()
	rule.Prefix, rule.Strip, rule.Origins = "/", true, []string{"bucket:" + bucket}
	cfg.EdgeRules = map[string]config.EdgeRule{"all": rule}
	s := start(t, cfg, Options{})
	edge := "http://" + s.edge.listener.Addr().String()
	if err := s.client(t).MakeBucket(t.Context(), bucket, minio.MakeBucketOptions{}); err != nil {
		t.Fatal(err)
	}
	const slices, part = 150, 256 << 10 // each has a block of the tier of its own
	long := strings.Repeat("0123456789abcdef", slices*part/16)
	s.put(t, "k", long)
	v, err := s.engine.store.Head(t.Context(), bucket, "k", "")
	if err != nil {
		t.Fatal(err)
	}
	if errs := s.tiers.mover.MoveNow(t.Context(), "cold", []record.Version{*v}, object.MoveOptions{}); errs[0] != nil {
		t.Fatal(errs[0])
	}
	if resp, _ := fetch(t, "HEAD", edge+"/k"); resp.StatusCode != 200 {
		t.Fatal(resp.Status)
	}
	var wg sync.WaitGroup
	for i := range slices {
		wg.Go(func() {
			resp, body, err := tryFetch(t, "GET", edge+"/k", fmt.Sprintf("Range: bytes=%d-%d", i*part, i*part+9))
			if err != nil || resp.StatusCode != 206 || body != long[:10] {
				t.Errorf("slice %d: %v, %q, %v", i, resp.StatusCode, body, err)
			}
		})
	}
	wg.Wait()
	http.DefaultClient.CloseIdleConnections() // a stop waits for those on which nothing was asked yet
}
