package hostile

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"firn/test/server"
)

// signing is what goes into a signature of version 4; tests bend it.
type signing struct {
	access, secret, region, service string
	at                              time.Time
	payload                         string // x-amz-content-sha256
}

func honest() signing {
	return signing{server.AccessKey, server.SecretKey, "us-east-1", "s3", time.Now().UTC(), "UNSIGNED-PAYLOAD"}
}

func sum(b []byte) string { s := sha256.Sum256(b); return hex.EncodeToString(s[:]) }

func mac(key []byte, s string) []byte {
	m := hmac.New(sha256.New, key)
	m.Write([]byte(s))
	return m.Sum(nil)
}

func (s signing) scope() string {
	return s.at.Format("20060102") + "/" + s.region + "/" + s.service + "/aws4_request"
}

func (s signing) key() []byte {
	k := mac([]byte("AWS4"+s.secret), s.at.Format("20060102"))
	return mac(mac(mac(k, s.region), s.service), "aws4_request")
}

func (s signing) signature(r *http.Request, signed []string) string {
	q := r.URL.Query()
	q.Del("X-Amz-Signature")
	var b strings.Builder
	fmt.Fprintf(&b, "%s\n%s\n%s\n", r.Method, r.URL.EscapedPath(), strings.ReplaceAll(q.Encode(), "+", "%20"))
	for _, h := range signed {
		v := r.Header.Get(h)
		if h == "host" {
			v = r.Host
		}
		fmt.Fprintf(&b, "%s:%s\n", h, strings.TrimSpace(v))
	}
	fmt.Fprintf(&b, "\n%s\n%s", strings.Join(signed, ";"), s.payload)
	return hex.EncodeToString(mac(s.key(), "AWS4-HMAC-SHA256\n"+s.at.Format("20060102T150405Z")+"\n"+s.scope()+"\n"+sum([]byte(b.String()))))
}

// header signs r in its header.
func (s signing) header(r *http.Request, extra ...string) {
	r.Header.Set("X-Amz-Date", s.at.Format("20060102T150405Z"))
	r.Header.Set("X-Amz-Content-Sha256", s.payload)
	signed := append([]string{"host", "x-amz-content-sha256", "x-amz-date"}, extra...)
	slices.Sort(signed)
	r.Header.Set("Authorization", fmt.Sprintf("AWS4-HMAC-SHA256 Credential=%s/%s, SignedHeaders=%s, Signature=%s",
		s.access, s.scope(), strings.Join(signed, ";"), s.signature(r, signed)))
}

// presign signs r in its query.
func (s signing) presign(r *http.Request, expires string) {
	q := r.URL.Query()
	for k, v := range map[string]string{
		"X-Amz-Algorithm": "AWS4-HMAC-SHA256", "X-Amz-Credential": s.access + "/" + s.scope(),
		"X-Amz-Date": s.at.Format("20060102T150405Z"), "X-Amz-Expires": expires, "X-Amz-SignedHeaders": "host",
	} {
		q.Set(k, v)
	}
	r.URL.RawQuery = strings.ReplaceAll(q.Encode(), "+", "%20")
	q.Set("X-Amz-Signature", s.signature(r, []string{"host"}))
	r.URL.RawQuery = strings.ReplaceAll(q.Encode(), "+", "%20")
}

func (s *site) request(t *testing.T, method, path, body string) *http.Request {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, s.server.URL()+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// send returns the status and the S3 error code of the answer.
func send(t *testing.T, r *http.Request) (int, string) {
	t.Helper()
	resp, err := http.DefaultTransport.RoundTrip(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	_, code, _ := strings.Cut(string(b), "<Code>")
	code, _, _ = strings.Cut(code, "</Code>")
	return resp.StatusCode, code
}

// TestSignatures sends requests whose signature is of something else. None may be served.
func TestSignatures(t *testing.T) {
	s := start(t)
	if resp, err := s.client.Put(t.Context(), bucket, "secret", []byte("content"), nil); err != nil || resp.Status != 200 {
		t.Fatal(resp, err)
	}
	target := "/" + bucket + "/secret"
	hour := time.Hour
	for _, c := range []struct {
		name   string
		make   func() *http.Request
		status int
		code   string
	}{
		{"honest", func() *http.Request { r := s.request(t, "GET", target, ""); honest().header(r); return r }, 200, ""},
		{"honest, presigned", func() *http.Request { r := s.request(t, "GET", target, ""); honest().presign(r, "60"); return r }, 200, ""},
		{"none", func() *http.Request { return s.request(t, "GET", target, "") }, 403, "AccessDenied"},
		{"wrong secret", func() *http.Request {
			r, g := s.request(t, "GET", target, ""), honest()
			g.secret = "another-secret-key-0123456789"
			g.header(r)
			return r
		}, 403, "SignatureDoesNotMatch"},
		{"unknown key", func() *http.Request {
			r, g := s.request(t, "GET", target, ""), honest()
			g.access = "NOBODY"
			g.header(r)
			return r
		}, 403, "InvalidAccessKeyId"},
		{"wrong region", func() *http.Request {
			r, g := s.request(t, "GET", target, ""), honest()
			g.region = "eu-central-9"
			g.header(r)
			return r
		}, 400, "AuthorizationHeaderMalformed"},
		{"wrong service", func() *http.Request {
			r, g := s.request(t, "GET", target, ""), honest()
			g.service = "iam"
			g.header(r)
			return r
		}, 400, "AuthorizationHeaderMalformed"},
		{"replayed after 20 minutes", func() *http.Request {
			r, g := s.request(t, "GET", target, ""), honest()
			g.at = g.at.Add(-20 * time.Minute)
			g.header(r)
			return r
		}, 403, "RequestTimeTooSkewed"},
		{"from the future", func() *http.Request {
			r, g := s.request(t, "GET", target, ""), honest()
			g.at = g.at.Add(20 * time.Minute)
			g.header(r)
			return r
		}, 403, "RequestTimeTooSkewed"},
		{"for another method", func() *http.Request {
			r := s.request(t, "GET", target, "")
			honest().header(r)
			r.Method = "DELETE"
			return r
		}, 403, "SignatureDoesNotMatch"},
		{"for another key", func() *http.Request {
			r := s.request(t, "GET", "/"+bucket+"/other", "")
			honest().header(r)
			r.URL.Path = target
			return r
		}, 403, "SignatureDoesNotMatch"},
		{"with a parameter added", func() *http.Request {
			r := s.request(t, "GET", target, "")
			honest().header(r)
			r.URL.RawQuery = "acl="
			return r
		}, 403, "SignatureDoesNotMatch"},
		{"with a signed header changed", func() *http.Request {
			r := s.request(t, "PUT", target, "x")
			r.Header.Set("X-Amz-Meta-A", "1")
			honest().header(r, "x-amz-meta-a")
			r.Header.Set("X-Amz-Meta-A", "2")
			return r
		}, 403, "SignatureDoesNotMatch"},
		{"with an x-amz header that is not signed", func() *http.Request {
			r := s.request(t, "PUT", target, "x")
			honest().header(r)
			r.Header.Set("X-Amz-Acl", "public-read-write")
			return r
		}, 403, "AccessDenied"},
		{"with another body", func() *http.Request {
			r, g := s.request(t, "PUT", target, "another"), honest()
			g.payload = sum([]byte("content"))
			g.header(r)
			return r
		}, 400, "XAmzContentSHA256Mismatch"},
		{"for another host", func() *http.Request {
			r := s.request(t, "GET", target, "")
			r.Host = "elsewhere.example"
			honest().header(r)
			r.Host = ""
			return r
		}, 403, "SignatureDoesNotMatch"},
		{"two Authorization headers", func() *http.Request {
			r := s.request(t, "GET", target, "")
			honest().header(r)
			r.Header.Add("Authorization", r.Header.Get("Authorization"))
			return r
		}, 400, "InvalidArgument"},
		{"header and query", func() *http.Request {
			r := s.request(t, "GET", target, "")
			honest().presign(r, "60")
			honest().header(r)
			return r
		}, 400, "InvalidArgument"},
		{"presigned and expired", func() *http.Request {
			r, g := s.request(t, "GET", target, ""), honest()
			g.at = g.at.Add(-2 * hour)
			g.presign(r, "3600")
			return r
		}, 403, "AccessDenied"},
		{"presigned for longer than a week", func() *http.Request {
			r := s.request(t, "GET", target, "")
			honest().presign(r, "604801")
			return r
		}, 403, "AuthorizationQueryParametersError"},
		{"presigned with its expiry changed", func() *http.Request {
			r, g := s.request(t, "GET", target, ""), honest()
			g.at = g.at.Add(-2 * hour)
			g.presign(r, "3600")
			r.URL.RawQuery = strings.Replace(r.URL.RawQuery, "X-Amz-Expires=3600", "X-Amz-Expires=86400", 1)
			return r
		}, 403, "SignatureDoesNotMatch"},
		{"presigned GET sent as PUT", func() *http.Request {
			r := s.request(t, "PUT", target, "x")
			r.Method = "GET"
			honest().presign(r, "60")
			r.Method = "PUT"
			return r
		}, 403, "SignatureDoesNotMatch"},
		{"presigned with an x-amz header added", func() *http.Request {
			r := s.request(t, "PUT", target, "x")
			honest().presign(r, "60")
			r.Header.Set("X-Amz-Acl", "public-read-write")
			return r
		}, 403, "AccessDenied"},
		{"presigned with a copy source added", func() *http.Request {
			r := s.request(t, "PUT", "/"+bucket+"/mine", "")
			honest().presign(r, "60")
			r.Header.Set("X-Amz-Copy-Source", target)
			return r
		}, 403, "AccessDenied"},
		{"presigned with the signature twice", func() *http.Request {
			r := s.request(t, "GET", target, "")
			honest().presign(r, "60")
			r.URL.RawQuery += "&X-Amz-Signature=" + strings.Repeat("0", 64)
			return r
		}, 400, "AuthorizationQueryParametersError"},
		{"presigned with a parameter twice", func() *http.Request {
			r := s.request(t, "GET", target, "")
			honest().presign(r, "60")
			r.URL.RawQuery += "&X-Amz-Expires=604800"
			return r
		}, 400, "AuthorizationQueryParametersError"},
	} {
		t.Run(c.name, func(t *testing.T) {
			status, code := send(t, c.make())
			if c.status == 200 {
				if status != 200 {
					t.Errorf("%d %s", status, code)
				}
				return
			}
			// The exact code is what clients and people go by; that it is refused is what counts.
			if status < 400 || status > 499 {
				t.Errorf("served: %d %s", status, code)
			} else if status != c.status || code != c.code {
				t.Errorf("%d %s, want %d %s", status, code, c.status, c.code)
			}
		})
	}
	if resp, err := s.client.Get(t.Context(), bucket, "secret", ""); err != nil || string(resp.Body) != "content" {
		t.Errorf("after all that: %v, %v", resp, err)
	}
	s.unharmed(t)
}

// chunked returns an aws-chunked body with its request, signed, which change may bend.
func (s *site) chunked(t *testing.T, key string, chunks [][]byte, change func(wire []byte) []byte) *http.Request {
	t.Helper()
	g := honest()
	g.payload = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD"
	size := 0
	for _, c := range chunks {
		size += len(c)
	}
	r := s.request(t, "PUT", "/"+bucket+"/"+key, "")
	r.Header.Set("X-Amz-Decoded-Content-Length", fmt.Sprint(size))
	r.Header.Set("Content-Encoding", "aws-chunked")
	g.header(r, "x-amz-decoded-content-length")
	_, last, _ := strings.Cut(r.Header.Get("Authorization"), "Signature=")
	var b bytes.Buffer
	for _, c := range append(slices.Clone(chunks), nil) {
		last = hex.EncodeToString(mac(g.key(), "AWS4-HMAC-SHA256-PAYLOAD\n"+g.at.Format("20060102T150405Z")+"\n"+g.scope()+"\n"+
			last+"\n"+sum(nil)+"\n"+sum(c)))
		fmt.Fprintf(&b, "%x;chunk-signature=%s\r\n%s\r\n", len(c), last, c)
	}
	w := b.Bytes()
	if change != nil {
		w = change(w)
	}
	r.Body, r.ContentLength = io.NopCloser(bytes.NewReader(w)), int64(len(w))
	return r
}

// TestChunkSignatures breaks the chain of signatures in the middle of a body. Nothing of it may be stored.
func TestChunkSignatures(t *testing.T) {
	s := start(t)
	chunk := func(c byte) []byte { return bytes.Repeat([]byte{c}, 64<<10) }
	chunks := [][]byte{chunk('a'), chunk('b'), chunk('c')}
	if status, code := send(t, s.chunked(t, "good", chunks, nil)); status != 200 {
		t.Fatal(status, code)
	}
	one := 64<<10 + len("10000;chunk-signature=\r\n\r\n") + 64 // bytes of a chunk on the wire
	for name, change := range map[string]func([]byte) []byte{
		"a byte of the second chunk": func(w []byte) []byte { w[one+200] ^= 1; return w },
		"a signature":                func(w []byte) []byte { i := bytes.Index(w[one:], []byte("signature=")); w[one+i+10] ^= 1; return w },
		"two chunks swapped": func(w []byte) []byte {
			return append(append(append(append([]byte(nil), w[:one]...), w[2*one:3*one]...), w[one:2*one]...), w[3*one:]...)
		},
		"a chunk twice": func(w []byte) []byte {
			return append(append(append([]byte(nil), w[:one]...), w[:one]...), w[2*one:]...)
		},
		"a chunk left out":  func(w []byte) []byte { return append(append([]byte(nil), w[:one]...), w[2*one:]...) },
		"no last chunk":     func(w []byte) []byte { return w[:3*one] },
		"more after it":     func(w []byte) []byte { return append(w, "0;chunk-signature=x\r\n\r\n"...) },
		"a gigantic size":   func(w []byte) []byte { return append([]byte("ffffffffffffffff"), w[5:]...) },
		"a negative size":   func(w []byte) []byte { return append([]byte("-1"), w[5:]...) },
		"an endless header": func(w []byte) []byte { return bytes.Repeat([]byte("0"), len(w)) },
	} {
		t.Run(name, func(t *testing.T) {
			status, code := send(t, s.chunked(t, "bad", chunks, change))
			if status < 400 || status > 499 {
				t.Errorf("%d %s", status, code)
			}
			if resp, err := s.client.Head(t.Context(), bucket, "bad", ""); err != nil || resp.Status != 404 {
				t.Errorf("stored: %v, %v", resp, err)
			}
		})
	}
	s.unharmed(t)
}
