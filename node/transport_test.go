package node

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
	"github.com/minio/minio-go/v7/pkg/encrypt"

	"firn/audit"
	"firn/config"
	"firn/tlsconf"
)

// proxy sends requests as a reverse proxy does.
type proxy struct{ next http.RoundTripper }

func (p proxy) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.Header.Set("X-Forwarded-For", "203.0.113.9")
	return p.next.RoundTrip(r)
}

func TestTLSAuditAndBounds(t *testing.T) {
	cfg := settings(t, t.TempDir())
	cfg.TLS.Mode = config.TLSSelf
	cfg.Audit.Enabled = true
	cfg.TrustedProxies = []string{"127.0.0.1"}
	cfg.Limits.UserRequests = 5
	var welcome bytes.Buffer
	s := start(t, cfg, Options{Welcome: &welcome})
	pem, fingerprint, err := tlsconf.ReadAuthority(TLSDir(cfg.Data))
	if err != nil || !strings.Contains(welcome.String(), fingerprint) || !strings.Contains(welcome.String(), "https://") {
		t.Fatalf("%v; welcome:\n%s", err, welcome.String())
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)
	transport := proxy{&http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}}}
	client := func(access, secret string) *minio.Client {
		c, err := minio.New(s.Addr().String(), &minio.Options{
			Creds: credentials.NewStaticV4(access, secret, ""), Secure: true, Transport: transport, MaxRetries: 1, Region: cfg.Region,
		})
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	ctx := t.Context()
	root := client(s.Root().AccessKey, s.Root().SecretKey)
	if err := root.MakeBucket(ctx, bucket, minio.MakeBucketOptions{}); err != nil {
		t.Fatal(err)
	}
	put := func(c *minio.Client, key string) error {
		_, err := c.PutObject(ctx, bucket, key, strings.NewReader("content"), 7, minio.PutObjectOptions{DisableContentSha256: true})
		return err
	}
	for range 20 { // root is not bound
		if err := put(root, "of-root"); err != nil {
			t.Fatal(err)
		}
	}
	// The quota, over the admin endpoint, which is on loopback and plain.
	if code, body := s.adminDo(t, "PUT", "/admin/v1/buckets/bucket/quota", `{"versions": 1, "bytes": 0}`); code != http.StatusNoContent {
		t.Fatal(code, body)
	}
	if code, body := s.admin(t, "/admin/v1/buckets/bucket/quota"); code != 200 || !strings.Contains(body, `"used_versions":1`) {
		t.Error(code, body)
	}
	if err := put(root, "one-more"); minio.ToErrorResponse(err).Code != "QuotaExceeded" || minio.ToErrorResponse(err).StatusCode != 403 {
		t.Errorf("above the quota: %v", err)
	}
	if code, body := s.adminDo(t, "PUT", "/admin/v1/buckets/none/quota", `{}`); code != http.StatusNotFound {
		t.Error(code, body)
	}
	// A user, who may nothing, and not often.
	code, body := s.adminDo(t, "POST", "/admin/v1/users", `{"name": "anna", "access_key": "ANNAKEY", "secret_key": "anna-secret-0123"}`)
	if code != 200 {
		t.Fatal(code, body)
	}
	anna := client("ANNAKEY", "anna-secret-0123")
	codes := map[string]int{}
	for range 20 {
		codes[minio.ToErrorResponse(put(anna, "of-anna")).Code]++
	}
	if codes["AccessDenied"] < 10 || codes["SlowDown"] == 0 || codes["AccessDenied"]+codes["SlowDown"] != 20 {
		t.Errorf("%v", codes)
	}
	resp, err := transport.RoundTrip(mustRequest(t, "GET", "https://"+s.Addr().String()+"/bucket/of-root"))
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusForbidden {
		t.Error(resp.Status)
	}
	if err := s.stop(); err != nil {
		t.Fatal(err)
	}

	// Every request is in the record, with who and whence, and no secret is.
	dir := filepath.Join(cfg.Data, "audit")
	if h, err := audit.Verify(dir, "", nil, nil); err != nil || h.Torn {
		t.Fatalf("%+v, %v", h, err)
	}
	files, err := filepath.Glob(filepath.Join(dir, "*.jsonl"))
	if err != nil || len(files) != 1 {
		t.Fatalf("%v, %v", files, err)
	}
	b, err := os.ReadFile(files[0])
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(b, []byte("anna-secret")) || bytes.Contains(b, []byte(s.Root().SecretKey)) {
		t.Error("a secret is in the record")
	}
	count := map[string]int{}
	for _, l := range bytes.Split(bytes.TrimSpace(b), []byte("\n")) {
		var e audit.Event
		if err := json.Unmarshal(l, &e); err != nil {
			t.Fatal(err)
		}
		if e.Kind == "s3" && (e.Remote != "203.0.113.9" || !e.TLS || e.RequestID == "") {
			t.Errorf("%s", l)
		}
		count[strings.Join([]string{e.Kind, e.Op, e.User, e.Code}, " ")]++
		if e.User == "anna" && e.Code == "AccessDenied" && (e.Decision == "" || e.Action != "s3:PutObject" || e.Key != "of-anna") {
			t.Errorf("%s", l)
		}
		if e.Kind == "admin" && e.Remote != "127.0.0.1" {
			t.Errorf("%s", l)
		}
	}
	for what, want := range map[string]int{
		"s3 CreateBucket root ": 1, "s3 PutObject root ": 20, "s3 PutObject root QuotaExceeded": 1,
		"s3 PutObject anna AccessDenied": codes["AccessDenied"], "s3 GetObject  AccessDenied": 1,
		"admin POST /admin/v1/users  ": 1, "admin PUT /admin/v1/buckets/{bucket}/quota  ": 2,
	} {
		if count[what] != want {
			t.Errorf("%d of %q, want %d; all: %v", count[what], what, want, count)
		}
	}
}

func mustRequest(t *testing.T, method, url string) *http.Request {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// TestOwnKeysBehindAProxy sends clients' own keys through a proxy that ends TLS. They are taken where a trusted proxy says
// that the client spoke TLS to it, and refused wherever somebody may have read them.
func TestOwnKeysBehindAProxy(t *testing.T) {
	key, err := encrypt.NewSSEC(bytes.Repeat([]byte("k"), 32))
	if err != nil {
		t.Fatal(err)
	}
	const refused = "made over a secure connection"
	for _, c := range []struct {
		name    string
		trusted []string
		header  []string // that the proxy sends; nil is no proxy
		refused bool
	}{
		{"a trusted proxy that had TLS", []string{"127.0.0.1"}, []string{"X-Forwarded-For", "203.0.113.9", "X-Forwarded-Proto", "https"}, false},
		{"a trusted proxy that had TLS, RFC 7239", []string{"127.0.0.1"}, []string{"Forwarded", "for=203.0.113.9;proto=https"}, false},
		{"a trusted proxy that had none", []string{"127.0.0.1"}, []string{"X-Forwarded-For", "203.0.113.9", "X-Forwarded-Proto", "http"}, true},
		{"a trusted proxy that tells only that it had none", []string{"127.0.0.1"}, []string{"X-Forwarded-Proto", "http"}, true},
		{"a trusted proxy that does not tell", []string{"127.0.0.1"}, []string{"X-Forwarded-For", "203.0.113.9"}, true},
		{"a proxy that is not trusted", []string{"192.0.2.1"}, []string{"X-Forwarded-For", "203.0.113.9", "X-Forwarded-Proto", "https"}, true},
		{"a proxy of a site without any", nil, []string{"X-Forwarded-Proto", "https"}, true},
		{"a proxy that gives its name alone", nil, []string{"Via", "1.1 proxy"}, true},
		{"the same machine", nil, nil, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			cfg := settings(t, t.TempDir())
			cfg.TrustedProxies = c.trusted
			s := start(t, cfg, Options{})
			if err := s.client(t).MakeBucket(t.Context(), bucket, minio.MakeBucketOptions{}); err != nil {
				t.Fatal(err)
			}
			front := httptest.NewTLSServer(&httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) {
				r.Out.URL.Scheme, r.Out.URL.Host = "http", s.Addr().String() // Host stays: signatures cover it
				for i := 0; i < len(c.header); i += 2 {
					r.Out.Header.Set(c.header[i], c.header[i+1])
				}
			}})
			defer front.Close()
			client, err := minio.New(front.Listener.Addr().String(), &minio.Options{
				Creds:  credentials.NewStaticV4(s.Root().AccessKey, s.Root().SecretKey, ""),
				Secure: true, Transport: front.Client().Transport, MaxRetries: 1, Region: cfg.Region,
			})
			if err != nil {
				t.Fatal(err)
			}
			_, err = client.PutObject(t.Context(), bucket, "k", strings.NewReader("content"), 7, minio.PutObjectOptions{ServerSideEncryption: key})
			if c.refused {
				if err == nil || !strings.Contains(err.Error(), refused) {
					t.Errorf("put: %v", err)
				}
			} else if err != nil {
				t.Fatal(err)
			}
			r, err := client.GetObject(t.Context(), bucket, "k", minio.GetObjectOptions{ServerSideEncryption: key})
			if err != nil {
				t.Fatal(err)
			}
			b, err := io.ReadAll(r)
			if c.refused != (err != nil) || !c.refused && string(b) != "content" {
				t.Errorf("get: %q, %v", b, err)
			}
		})
	}
}
