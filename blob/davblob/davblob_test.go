package davblob

import (
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/icholy/digest"
	"golang.org/x/net/webdav"

	"firn"
	"firn/blob"
	"firn/blob/driver"
)

// TestDigestOverTLS is against a stub in front of Go's WebDAV package, as no server at hand asks for a digest. Each of its
// nonces is good for five requests.
func TestDigestOverTLS(t *testing.T) {
	const password = "the-right-password"
	var served atomic.Int64
	files := &webdav.Handler{FileSystem: webdav.NewMemFS(), LockSystem: webdav.NewMemLS()}
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c := &digest.Challenge{Realm: "firn", Nonce: fmt.Sprint("n", served.Load()/5), Algorithm: "SHA-256", QOP: []string{"auth"}}
		sent, err := digest.ParseCredentials(r.Header.Get("Authorization"))
		if err == nil && sent.Nonce == c.Nonce {
			want, err := digest.Digest(c, digest.Options{
				Method: r.Method, URI: r.URL.RequestURI(), Count: sent.Nc, Username: "me", Password: password, Cnonce: sent.Cnonce,
			})
			if err == nil && want.Response == sent.Response && sent.URI == r.URL.RequestURI() {
				served.Add(1)
				files.ServeHTTP(w, r)
				return
			}
		}
		io.Copy(io.Discard, r.Body)
		w.Header().Set("WWW-Authenticate", c.String())
		w.WriteHeader(http.StatusUnauthorized)
	}))
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.StartTLS()
	defer s.Close()
	opt := Options{URL: s.URL + "/place", User: "me", Password: password}
	if err := Init(t.Context(), opt); firn.KindOf(err) != firn.Denied {
		t.Errorf("a server with a certificate of nobody we know: %v (%v), want firn.Denied", err, firn.KindOf(err))
	}
	opt.CAFile = filepath.Join(t.TempDir(), "ca.pem")
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw})
	if err := os.WriteFile(opt.CAFile, ca, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := Init(t.Context(), opt); err != nil {
		t.Fatal(err)
	}
	d, err := New(t.Context(), opt)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	for i := range 10 {
		key, content := fmt.Sprint("dir/", i), strings.Repeat("x", i*100_000)
		if err := d.Put(t.Context(), key, blob.Bytes([]byte(content))); err != nil {
			t.Fatal(err)
		}
		if got, err := blob.New(d, "").ReadAll(t.Context(), key, 1<<30); err != nil || string(got) != content {
			t.Fatalf("%d bytes, %v", len(got), err)
		}
	}
	n := 0
	if err := d.List(t.Context(), "dir/", func(driver.Info) error { n++; return nil }); err != nil || n != 10 {
		t.Errorf("listed %d, %v", n, err)
	}
	opt.Password = "another-password"
	wrong, err := New(t.Context(), opt)
	if err != nil {
		t.Fatal(err)
	}
	defer wrong.Close()
	if _, err := wrong.Stat(t.Context(), "dir/1"); firn.KindOf(err) != firn.Denied || strings.Contains(err.Error(), opt.Password) {
		t.Errorf("with a wrong password: %v (%v), want firn.Denied", err, firn.KindOf(err))
	}
}

func TestFromURL(t *testing.T) {
	for text, want := range map[string]Options{
		"webdav://h:80/a%20b":       {URL: "http://h:80/a%20b"},
		"webdavs://me@h/a/b?ca=/ca": {URL: "https://h/a/b", User: "me", CAFile: "/ca"},
		"webdavs://h":               {URL: "https://h"},
	} {
		u, err := url.Parse(text)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := FromURL(u); err != nil || got != want {
			t.Errorf("%s: %+v, %v, want %+v", text, got, err, want)
		}
	}
	for _, text := range []string{
		"webdav:///p", "webdav:p", "webdav://me:hunter2secret@h/p", "webdav://h/p?password=hunter2secret", "https://h/p",
		"webdav://h/p?ca=a&ca=b",
	} {
		u, err := url.Parse(text)
		if err != nil {
			t.Fatal(err)
		}
		if _, err = FromURL(u); firn.KindOf(err) != firn.Invalid || strings.Contains(err.Error(), "hunter2secret") {
			t.Errorf("%s: %v, want firn.Invalid without a secret", text, err)
		}
	}
}

const listing = `<?xml version="1.0"?><D:multistatus xmlns:D="DAV:">
<D:response><D:href>http://h/a%20b/</D:href><D:propstat><D:prop><D:resourcetype><D:collection/></D:resourcetype></D:prop>
<D:status>HTTP/1.1 200 OK</D:status></D:propstat></D:response>
<D:response><D:href>/a%20b/%252F</D:href><D:propstat><D:prop><D:getcontentlength>5</D:getcontentlength>
<D:getlastmodified>Mon, 12 Jan 1998 09:25:56 GMT</D:getlastmodified></D:prop><D:status>HTTP/1.1 200 OK</D:status></D:propstat>
<D:propstat><D:prop><D:quota-used-bytes>7</D:quota-used-bytes></D:prop><D:status>HTTP/1.1 404 Not Found</D:status></D:propstat>
</D:response></D:multistatus>`

func TestParse(t *testing.T) {
	var own, other []resource
	found, err := parse(strings.NewReader(listing), "/a b", func(r resource, itself bool) {
		if itself {
			own = append(own, r)
		} else {
			other = append(other, r)
		}
	})
	if err != nil || !found || len(own) != 1 || !own[0].Dir || len(other) != 1 {
		t.Fatalf("%v, %v, %+v, %+v", found, err, own, other)
	}
	if r := other[0]; r.Name != "%2F" || r.Dir || r.Size != 5 || r.Modified.Year() != 1998 || r.used != -1 {
		t.Errorf("%+v", r)
	}
	for n := range len(listing) - 1 {
		if _, err := parse(strings.NewReader(listing[:n]), "/a b", func(resource, bool) {}); err == nil {
			t.Fatalf("a listing cut after %d bytes is taken for a whole one", n)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add(listing)
	f.Fuzz(func(t *testing.T, text string) {
		_, _ = parse(strings.NewReader(text), "/a b", func(r resource, _ bool) {
			if strings.Contains(r.Name, "/") && r.Name != "/" || r.Size < 0 {
				t.Errorf("%+v", r)
			}
		})
	})
}

func FuzzSpan(f *testing.F) {
	f.Add("bytes 5-9/10", int64(5))
	f.Fuzz(func(t *testing.T, text string, offset int64) {
		if n, err := span(text, offset); err == nil && n < 0 {
			t.Errorf("%q from %d: %d bytes", text, offset, n)
		}
	})
}

func TestHide(t *testing.T) {
	for key, want := range map[string]string{"a/.b/c": "a/%2Eb/c", ".firn-x": "%2Efirn-x", "...": "%2E..", "a.b": "a.b"} {
		if got := fileName(key); got != want {
			t.Errorf("fileName(%q) = %q, want %q", key, got, want)
		}
	}
}
