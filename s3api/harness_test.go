package s3api

import (
	"bytes"
	"context"
	"encoding/xml"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
	"github.com/minio/minio-go/v7/pkg/signer"

	"firn/auth"
	"firn/kv/pebblekv"
	"firn/object"
	"firn/vfs"
)

// The access keys of the harness; each secret is the key twice.
const (
	rootKey  = "ROOTROOTROOTROOTROOT"
	aliceKey = "ALICEALICEALICEALICE"
	bobKey   = "BOBBOBBOBBOBBOBBOBBO"
)

func secretOf(key string) string { return key + key }

// harness is a server over a store in memory, with the users root, alice and bob.
type harness struct {
	t     testing.TB
	s     *Server
	store *object.Store
	users *auth.Users
	http  *httptest.Server
	as    string // access key of the requests, "" is anonymous
}

func newHarness(t testing.TB, opt Options) *harness {
	t.Helper()
	return newHarnessOn(t, opt, object.Options{})
}

// newHarnessOn is newHarness with options of the store.
func newHarnessOn(t testing.TB, opt Options, on object.Options) *harness {
	t.Helper()
	ctx := context.Background()
	on.ReserveBytes, on.ScrubBytesPerSecond = -1, -1
	fsys := vfs.NewMem()
	db, err := pebblekv.Open(fsys, "kv", pebblekv.Options{CacheBytes: 8 << 20})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	store, err := object.Open(ctx, fsys, "data", db, on)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := store.Close(); err != nil {
			t.Error(err)
		}
	})
	users, err := auth.OpenUsers(ctx, db, auth.Credentials{AccessKey: rootKey, SecretKey: secretOf(rootKey)}, auth.UsersOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for name, key := range map[string]string{"alice": aliceKey, "bob": bobKey} {
		_, _, err := users.Add(ctx, name, auth.Credentials{AccessKey: key, SecretKey: secretOf(key)},
			[]auth.Grant{{Role: auth.RoleOwner}})
		if err != nil {
			t.Fatal(err)
		}
	}
	s := New(store, users, opt)
	hs := httptest.NewUnstartedServer(s)
	s.ConfigureHTTP(hs.Config)
	hs.Start()
	t.Cleanup(hs.Close)
	return &harness{t: t, s: s, store: store, users: users, http: hs, as: aliceKey}
}

// user returns the harness with requests signed by another key; "" sends them unsigned.
func (h *harness) user(key string) *harness {
	c := *h
	c.as = key
	return &c
}

func (h *harness) canonical(key string) string {
	_, id, err := h.users.Lookup(context.Background(), key)
	if err != nil {
		h.t.Fatal(err)
	}
	return id.Canonical
}

// client returns a minio client of the harness's user.
func (h *harness) client() *minio.Client {
	h.t.Helper()
	c, err := minio.New(strings.TrimPrefix(h.http.URL, "http://"), &minio.Options{
		Creds: credentials.NewStaticV4(h.as, secretOf(h.as), ""), Region: "us-east-1",
	})
	if err != nil {
		h.t.Fatal(err)
	}
	return c
}

// response is an answer read whole.
type response struct {
	status int
	header http.Header
	body   string
}

// code is the S3 error code of an error document, "" for any other body.
func (r *response) code() string {
	var e struct {
		XMLName xml.Name `xml:"Error"`
		Code    string
	}
	if xml.Unmarshal([]byte(r.body), &e) != nil {
		return ""
	}
	return e.Code
}

// do sends a request with headers given as "Name: value" and returns the answer.
func (h *harness) do(method, target, body string, headers ...string) *response {
	h.t.Helper()
	req, err := http.NewRequest(method, h.http.URL+target, strings.NewReader(body))
	if err != nil {
		h.t.Fatal(err)
	}
	for _, hd := range headers {
		k, v, _ := strings.Cut(hd, ":")
		req.Header.Add(k, strings.TrimSpace(v))
	}
	h.sign(req)
	return h.send(req)
}

func (h *harness) sign(req *http.Request) {
	if h.as == "" {
		return
	}
	if req.Header.Get("X-Amz-Content-Sha256") == "" {
		req.Header.Set("X-Amz-Content-Sha256", "UNSIGNED-PAYLOAD")
	}
	*req = *signer.SignV4(*req, h.as, secretOf(h.as), "", "us-east-1")
}

func (h *harness) send(req *http.Request) *response {
	h.t.Helper()
	res, err := h.http.Client().Transport.RoundTrip(req)
	if err != nil {
		h.t.Fatalf("%s %s: %v", req.Method, req.URL, err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		h.t.Fatalf("%s %s: %v", req.Method, req.URL, err)
	}
	return &response{res.StatusCode, res.Header, string(b)}
}

// must is do for a request that has to succeed.
func (h *harness) must(method, target, body string, headers ...string) *response {
	h.t.Helper()
	r := h.do(method, target, body, headers...)
	if r.status/100 != 2 {
		h.t.Fatalf("%s %s: %d %s", method, target, r.status, r.body)
	}
	return r
}

// refused is do for a request that has to fail with status and code ("" for HEAD).
func (h *harness) refused(status int, code, method, target, body string, headers ...string) *response {
	h.t.Helper()
	r := h.do(method, target, body, headers...)
	if r.status != status || r.code() != code {
		h.t.Errorf("%s %s %v: got %d %q, want %d %q\n%s", method, target, headers, r.status, r.code(), status, code, r.body)
	}
	return r
}

// presigned returns a URL path and query for method and target, valid for life.
func (h *harness) presigned(method, target string, life time.Duration) string {
	h.t.Helper()
	req, err := http.NewRequest(method, h.http.URL+target, http.NoBody)
	if err != nil {
		h.t.Fatal(err)
	}
	req = signer.PreSignV4(*req, h.as, secretOf(h.as), "", "us-east-1", int64(life.Seconds()))
	return req.URL.RequestURI()
}

// parse decodes a document.
func (r *response) parse(t testing.TB, v any) {
	t.Helper()
	d := xml.NewDecoder(bytes.NewReader([]byte(r.body)))
	if err := d.Decode(v); err != nil {
		t.Fatalf("%v in %s", err, r.body)
	}
}
