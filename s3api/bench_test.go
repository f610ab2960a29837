package s3api

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/minio/minio-go/v7/pkg/signer"
)

// nullWriter is a ResponseWriter that copies the header as net/http does and drops the rest.
type nullWriter struct {
	h      http.Header
	sent   http.Header
	status int
	n      int64
}

func (w *nullWriter) Header() http.Header { return w.h }
func (w *nullWriter) WriteHeader(s int)   { w.status, w.sent = s, w.h.Clone() }
func (w *nullWriter) Write(p []byte) (int, error) {
	w.n += int64(len(p))
	return len(p), nil
}

// benchRequest measures one signed request, over and over, without the network.
func benchRequest(b *testing.B, h *harness, method, target string, body []byte, status int) {
	b.Helper()
	req, err := http.NewRequest(method, "http://bench.test"+target, bytes.NewReader(body))
	if err != nil {
		b.Fatal(err)
	}
	req.Header.Set("User-Agent", "bench")
	sum := sha256.Sum256(body)
	req.Header.Set("X-Amz-Content-Sha256", hex.EncodeToString(sum[:]))
	if body == nil {
		req.Body = http.NoBody
	}
	req = signer.SignV4(*req, h.as, secretOf(h.as), "", "us-east-1")
	req.RemoteAddr, req.Host = "127.0.0.1:1", "bench.test"
	req.Header.Set("Content-Length", fmt.Sprint(len(body)))
	w := &nullWriter{}
	r := bytes.NewReader(body)
	b.ReportAllocs()
	for b.Loop() {
		w.h = make(http.Header, 16)
		one := *req
		if body != nil {
			r.Reset(body)
			one.Body = io.NopCloser(r)
		}
		h.s.ServeHTTP(w, &one)
		if w.status != status {
			b.Fatalf("status %d", w.status)
		}
	}
}

func BenchmarkPut4K(b *testing.B) {
	h := newHarness(b, Options{})
	h.must("PUT", "/bkt", "")
	benchRequest(b, h, "PUT", "/bkt/key", make([]byte, 4<<10), 200)
}

func BenchmarkGet4K(b *testing.B) {
	h := newHarness(b, Options{})
	h.must("PUT", "/bkt", "")
	h.must("PUT", "/bkt/key", strings.Repeat("x", 4<<10))
	benchRequest(b, h, "GET", "/bkt/key", nil, 200)
}

func BenchmarkHead(b *testing.B) {
	h := newHarness(b, Options{})
	h.must("PUT", "/bkt", "")
	h.must("PUT", "/bkt/key", strings.Repeat("x", 4<<10))
	benchRequest(b, h, "HEAD", "/bkt/key", nil, 200)
}

func BenchmarkGet16M(b *testing.B) {
	h := newHarness(b, Options{})
	h.must("PUT", "/bkt", "")
	h.must("PUT", "/bkt/key", strings.Repeat("x", 16<<20))
	b.SetBytes(16 << 20)
	benchRequest(b, h, "GET", "/bkt/key", nil, 200)
}

func BenchmarkList1000(b *testing.B) {
	h := newHarness(b, Options{})
	h.must("PUT", "/bkt", "")
	for i := range 1000 {
		h.must("PUT", fmt.Sprintf("/bkt/dir/key-%06d", i), "x")
	}
	benchRequest(b, h, "GET", "/bkt?list-type=2&prefix=dir%2F", nil, 200)
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/1000, "ns/key")
}

func BenchmarkParseDelete(b *testing.B) {
	var doc strings.Builder
	doc.WriteString(`<Delete xmlns="` + xmlNamespace + `"><Quiet>true</Quiet>`)
	for i := range 1000 {
		fmt.Fprintf(&doc, "<Object><Key>some/key/%06d</Key></Object>", i)
	}
	doc.WriteString("</Delete>")
	d := []byte(doc.String())
	b.ReportAllocs()
	for b.Loop() {
		if items, _, err := parseDelete(d); err != nil || len(items) != 1000 {
			b.Fatal(err, len(items))
		}
	}
}
