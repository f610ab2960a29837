package transfer

import (
	"bytes"
	"context"
	"io"
	"log"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/minio/minio-go/v7"

	"firn/config"
	"firn/node"
)

// site is a Firn site in this process behind a proxy that a test can make misbehave.
type site struct {
	t       *testing.T
	profile Profile
	direct  *Client // for put and get
	// hook sees each request before it is passed on; true means that it has answered.
	hook func(w http.ResponseWriter, r *http.Request) bool
	// body changes the body of an answer.
	body func(r *http.Request, resp *http.Response)

	mu   sync.Mutex
	seen []string // "METHOD /path?query Range"
}

// startSite starts a site of its own for a test.
func startSite(t *testing.T) *site {
	t.Helper()
	cfg := config.Default()
	cfg.Data = filepath.Join(t.TempDir(), "data")
	cfg.Listen, cfg.AdminListen = "127.0.0.1:0", "127.0.0.1:0"
	cfg.AccessKey, cfg.SecretKey = "AKTESTTEST", "secretsecret"
	cfg.Reserve, cfg.ScrubRate = 0, 0
	n, err := node.Build(t.Context(), cfg, node.Options{})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- n.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		if err := n.Close(); err != nil {
			t.Error(err)
		}
	})
	s := &site{t: t}
	to := &url.URL{Scheme: "http", Host: n.Addr().String()}
	proxy := &httputil.ReverseProxy{
		FlushInterval: -1, // at once: a body that stalls has its first bytes through
		Rewrite: func(r *httputil.ProxyRequest) {
			r.Out.URL.Scheme, r.Out.URL.Host = to.Scheme, to.Host
			r.Out.Host = r.In.Host // it is signed
		},
		ModifyResponse: func(resp *http.Response) error {
			if s.body != nil {
				s.body(resp.Request, resp)
			}
			return nil
		},
		ErrorLog: log.New(io.Discard, "", 0),
		ErrorHandler: func(http.ResponseWriter, *http.Request, error) {
			panic(http.ErrAbortHandler) // the client sees a broken connection
		},
	}
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		s.seen = append(s.seen, strings.TrimSpace(r.Method+" "+r.URL.RequestURI()+" "+r.Header.Get("Range")))
		s.mu.Unlock()
		if s.hook != nil && s.hook(w, r) {
			return
		}
		proxy.ServeHTTP(w, r)
	}))
	srv.Config.ErrorLog = log.New(io.Discard, "", 0)
	srv.Start()
	t.Cleanup(srv.Close)
	s.profile = Profile{Endpoint: srv.URL, AccessKey: "AKTESTTEST", SecretKey: "secretsecret"}
	s.direct = s.client()
	return s
}

func (s *site) client() *Client {
	s.t.Helper()
	c, err := NewClient(s.profile, ClientOptions{Parallel: 4, Backoff: time.Millisecond, Attempts: 4})
	if err != nil {
		s.t.Fatal(err)
	}
	c.ranges = testRange
	return c
}

// bucket makes a bucket and returns its location.
func (s *site) bucket(name string) Location {
	s.t.Helper()
	if err := s.client().MakeBucket(s.t.Context(), name, false, false); err != nil {
		s.t.Fatal(err)
	}
	return Location{Remote: true, Bucket: name}
}

// requests returns the requests so far that hold all of the texts, and forgets all.
func (s *site) requests(texts ...string) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []string
	for _, r := range s.seen {
		ok := true
		for _, t := range texts {
			ok = ok && strings.Contains(r, t)
		}
		if ok {
			out = append(out, r)
		}
	}
	s.seen = nil
	return out
}

// put stores an object past this package's own uploads.
func (s *site) put(l Location, data []byte) {
	s.t.Helper()
	_, err := s.direct.core.Client.PutObject(s.t.Context(), l.Bucket, l.Key, bytes.NewReader(data), int64(len(data)), minio.PutObjectOptions{})
	if err != nil {
		s.t.Fatalf("put %s: %v", l, err)
	}
}

// get reads an object past this package's own downloads.
func (s *site) get(l Location) []byte {
	s.t.Helper()
	o, err := s.direct.core.Client.GetObject(s.t.Context(), l.Bucket, l.Key, minio.GetObjectOptions{})
	if err != nil {
		s.t.Fatal(err)
	}
	data, err := io.ReadAll(o)
	if err != nil {
		s.t.Fatalf("get %s: %v", l, err)
	}
	return data
}

// keys lists all keys of a bucket.
func (s *site) keys(bucket string) []string {
	s.t.Helper()
	var out []string
	err := s.client().List(s.t.Context(), Location{Remote: true, Bucket: bucket}, ListOptions{Recursive: true}, func(e Entry) error {
		out = append(out, e.Name)
		return nil
	})
	if err != nil {
		s.t.Fatal(err)
	}
	return out
}

// uploads counts the unfinished uploads of a bucket.
func (s *site) uploads(bucket string) (n int) {
	s.t.Helper()
	err := s.client().List(s.t.Context(), Location{Remote: true, Bucket: bucket}, ListOptions{Uploads: true}, func(Entry) error {
		n++
		return nil
	})
	if err != nil {
		s.t.Fatal(err)
	}
	return n
}

func loc(t *testing.T, s string) Location {
	t.Helper()
	l, err := ParseLocation(s)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// noise returns n reproducible bytes.
func noise(n int, seed byte) []byte {
	b := make([]byte, n)
	if _, err := rand.NewChaCha8([32]byte{seed}).Read(b); err != nil {
		panic(err) // a ChaCha8 does not fail
	}
	return b
}

func writeFile(t *testing.T, path string, data []byte) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, data, 0o644); err != nil {
		t.Fatal(err)
	}
}

// tree returns the files beneath a directory with their content, links with their target.
func tree(t *testing.T, dir string) map[string]string {
	t.Helper()
	out := map[string]string{}
	err := filepath.WalkDir(dir, func(p string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		rel, err := filepath.Rel(dir, p)
		if err != nil {
			return err
		}
		if d.Type()&os.ModeSymlink != 0 {
			out[rel], err = os.Readlink(p)
			return err
		}
		data, err := os.ReadFile(p)
		out[rel] = string(data)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// events collects what is reported.
type events struct{ all []Event }

func (e *events) add(ev Event) { e.all = append(e.all, ev) }

// copyAll is Copy with names as arguments.
func copyAll(ctx context.Context, t *testing.T, c *Client, o CopyOptions, args ...string) (Summary, []Event, error) {
	t.Helper()
	var from []Location
	for _, a := range args {
		from = append(from, loc(t, a))
	}
	var e events
	if o.Report == nil {
		o.Report = e.add
	}
	s, err := Copy(ctx, c, c, from[:len(from)-1], from[len(from)-1], o)
	return s, e.all, err
}

// hijack breaks the connection of a request.
func hijack(t *testing.T, w http.ResponseWriter) {
	conn, _, err := w.(http.Hijacker).Hijack()
	if err != nil {
		t.Error(err)
		return
	}
	if tc, ok := conn.(*net.TCPConn); ok {
		if err := tc.SetLinger(0); err != nil {
			t.Error(err)
		}
	}
	if err := conn.Close(); err != nil {
		t.Error(err)
	}
}
