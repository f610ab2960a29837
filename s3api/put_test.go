package s3api

import (
	"bufio"
	"crypto/md5"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"firn/object/record"
)

func md5Of(s string) string {
	sum := md5.Sum([]byte(s))
	return base64.StdEncoding.EncodeToString(sum[:])
}

// sumOf returns the checksum of s as headers have it.
func sumOf(a record.ChecksumAlgorithm, s string) string {
	h := newHash(a)
	_, _ = io.WriteString(h, s)
	return base64.StdEncoding.EncodeToString(h.Sum(nil))
}

func TestPutRefusals(t *testing.T) {
	h := newHarness(t, Options{})
	h.must("PUT", "/bkt", "")
	crc := sumOf(record.ChecksumCRC32, "body")
	tests := []struct {
		name    string
		status  int
		code    string
		headers []string
	}{
		{"md5 that is none", 400, "InvalidDigest", []string{"Content-MD5: xx"}},
		{"md5 empty", 400, "InvalidDigest", []string{"Content-MD5: "}},
		{"md5 of other bytes", 400, "BadDigest", []string{"Content-MD5: " + md5Of("other")}},
		{
			"sha256 of other bytes", 400, "XAmzContentSHA256Mismatch",
			[]string{"X-Amz-Content-Sha256: " + strings.Repeat("0", 64)},
		},
		{
			"checksum of other bytes", 400, "BadDigest",
			[]string{"x-amz-checksum-sha256: " + sumOf(record.ChecksumSHA256, "other")},
		},
		{"checksum that is none", 400, "BadDigest", []string{"x-amz-checksum-crc32: bad"}},
		{
			"two checksums", 400, "InvalidRequest",
			[]string{"x-amz-checksum-crc32: " + crc, "x-amz-checksum-sha1: " + sumOf(record.ChecksumSHA1, "body")},
		},
		{"algorithm without checksum", 400, "InvalidRequest", []string{"x-amz-sdk-checksum-algorithm: CRC32"}},
		{"unknown algorithm", 400, "InvalidRequest", []string{"x-amz-sdk-checksum-algorithm: MD4"}},
		{"storage class", 400, "InvalidStorageClass", []string{"x-amz-storage-class: GLACIER"}},
		{"tag twice", 400, "InvalidArgument", []string{"x-amz-tagging: a=1&a=2"}},
		{"tags too many", 400, "BadRequest", []string{"x-amz-tagging: a&b&c&d&e&f&g&h&i&j&k"}},
		{"tag too long", 400, "InvalidTag", []string{"x-amz-tagging: " + strings.Repeat("a", 129) + "=1"}},
		{"tag of the system", 400, "InvalidTag", []string{"x-amz-tagging: aws%3Aa=1"}},
		{"lock without lock", 400, "InvalidRequest", []string{"x-amz-object-lock-legal-hold: ON"}},
		{"acl", 400, "InvalidArgument", []string{"x-amz-acl: public-ish"}},
		{"redirect", 400, "InvalidRedirectLocation", []string{"x-amz-website-redirect-location: ftp://x"}},
		{"encryption", 501, "NotImplemented", []string{"x-amz-server-side-encryption: AES256"}},
		{"match without object", 404, "NoSuchKey", []string{"If-Match: *"}},
		{"not the owner", 403, "AccessDenied", []string{"x-amz-expected-bucket-owner: " + strings.Repeat("1", 64)}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			h.refused(tt.status, tt.code, "PUT", "/bkt/k", "body", tt.headers...)
			h.refused(404, "NoSuchKey", "GET", "/bkt/k", "")
		})
	}
	h.refused(404, "NoSuchBucket", "PUT", "/nosuch/k", "body")
	h.refused(400, "KeyTooLongError", "PUT", "/bkt/"+strings.Repeat("k", 1025), "body")
	h.user("").refused(403, "AccessDenied", "PUT", "/bkt/k", "body")
	h.user(bobKey).refused(403, "AccessDenied", "PUT", "/bkt/k", "body")
}

func TestPutChecksums(t *testing.T) {
	h := newHarness(t, Options{})
	h.must("PUT", "/bkt", "")
	for a := record.ChecksumCRC32; int(a) < len(algorithms); a++ {
		name, want := algorithms[a].header, sumOf(a, "body")
		r := h.must("PUT", "/bkt/k", "body", name+": "+want, "x-amz-sdk-checksum-algorithm: "+algorithms[a].name)
		if r.header.Get(name) != want || r.header.Get("X-Amz-Checksum-Type") != "FULL_OBJECT" {
			t.Errorf("PUT %s: %v", name, r.header)
		}
		if got := h.must("GET", "/bkt/k", "").header.Get(name); got != "" {
			t.Errorf("GET without being asked: %s %q", name, got)
		}
		if got := h.must("GET", "/bkt/k", "", "x-amz-checksum-mode: ENABLED").header.Get(name); got != want {
			t.Errorf("GET: %s %q, want %q", name, got, want)
		}
		if got := h.must("GET", "/bkt/k", "", "x-amz-checksum-mode: ENABLED", "Range: bytes=0-1").header.Get(name); got != "" {
			t.Errorf("GET of a range: %s %q", name, got)
		}
		// The same in a trailer.
		body := "4\r\nbody\r\n0\r\n" + strings.ToLower(name) + ":" + want + "\r\n\r\n"
		chunked := []string{
			"X-Amz-Content-Sha256: STREAMING-UNSIGNED-PAYLOAD-TRAILER", "X-Amz-Decoded-Content-Length: 4",
			"Content-Encoding: aws-chunked", "X-Amz-Trailer: " + strings.ToLower(name),
		}
		r = h.must("PUT", "/bkt/trailed", body, chunked...)
		if r.header.Get(name) != want {
			t.Errorf("PUT with a trailer: %v", r.header)
		}
		if r := h.must("GET", "/bkt/trailed", ""); r.body != "body" || r.header.Get("Content-Encoding") != "" {
			t.Errorf("%q %v", r.body, r.header)
		}
		bad := strings.Replace(body, want, sumOf(a, "other"), 1)
		h.refused(400, "BadDigest", "PUT", "/bkt/trailed", bad, chunked...)
	}
}

func TestPutConditions(t *testing.T) {
	h := newHarness(t, Options{})
	h.must("PUT", "/bkt", "")
	etag := h.must("PUT", "/bkt/k", "one", "If-None-Match: *").header.Get("ETag")
	h.refused(412, "PreconditionFailed", "PUT", "/bkt/k", "two", "If-None-Match: *")
	h.refused(412, "PreconditionFailed", "PUT", "/bkt/k", "two", "If-None-Match: "+etag)
	h.refused(412, "PreconditionFailed", "PUT", "/bkt/k", "two", `If-Match: "x"`)
	h.must("PUT", "/bkt/k", "two", "If-Match: "+etag)
	h.refused(412, "PreconditionFailed", "PUT", "/bkt/k", "three", "If-Match: "+etag)
	h.must("PUT", "/bkt/k", "three", "If-Match: *")
	h.refused(412, "PreconditionFailed", "DELETE", "/bkt/k", "", `If-Match: "x"`)
	h.refused(412, "PreconditionFailed", "DELETE", "/bkt/k", "", `x-amz-if-match-size: 4`)
	h.must("DELETE", "/bkt/k", "", `x-amz-if-match-size: 5`)
	h.must("DELETE", "/bkt/k", "", `If-Match: "x"`)
}

// raw sends bytes on a connection of their own and returns the connection and a reader of what comes back.
func (h *harness) raw(b string) (net.Conn, *bufio.Reader) {
	h.t.Helper()
	c, err := net.Dial("tcp", h.http.Listener.Addr().String())
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() { _ = c.Close() })
	if _, err := io.WriteString(c, b); err != nil {
		h.t.Fatal(err)
	}
	return c, bufio.NewReader(c)
}

// TestContinue: a client that waits for "100 Continue" gets it only for a body that is wanted.
func TestContinue(t *testing.T) {
	h := newHarness(t, Options{})
	h.must("PUT", "/bkt", "", "x-amz-acl: public-read-write")
	const head = "PUT /%s/k HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n"
	_, r := h.raw(fmt.Sprintf(head, "nosuch"))
	if line, _ := r.ReadString('\n'); !strings.HasPrefix(line, "HTTP/1.1 404") {
		t.Errorf("refused: %q", line)
	}
	c, r := h.raw(fmt.Sprintf(head, "bkt"))
	if line, _ := r.ReadString('\n'); line != "HTTP/1.1 100 Continue\r\n" {
		t.Fatalf("wanted: %q", line)
	}
	_, _ = r.ReadString('\n')
	_, _ = io.WriteString(c, "body")
	if line, _ := r.ReadString('\n'); !strings.HasPrefix(line, "HTTP/1.1 200") {
		t.Errorf("stored: %q", line)
	}
	if got := h.must("GET", "/bkt/k", "").body; got != "body" {
		t.Errorf("got %q", got)
	}
}

// TestUnreadBody: what a refused request left unread is never taken for the next request on the connection.
func TestUnreadBody(t *testing.T) {
	h := newHarness(t, Options{})
	h.must("PUT", "/bkt", "")
	for _, size := range []int{10, 1 << 10, 300 << 10, 2 << 20} {
		smuggled := "GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n"
		body := strings.Repeat(smuggled, size/len(smuggled)+1)
		c, r := h.raw(fmt.Sprintf("PUT /bkt/k HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n", len(body)))
		sent := make(chan struct{})
		go func() {
			_, _ = io.WriteString(c, body) // the server may stop reading
			close(sent)
		}()
		res, err := http.ReadResponse(r, nil)
		if err != nil {
			t.Fatalf("%d: %v", size, err)
		}
		if res.StatusCode != 403 {
			t.Errorf("%d: status %d", size, res.StatusCode)
		}
		_, _ = io.Copy(io.Discard, res.Body)
		if !res.Close {
			// The connection lives on: the next answer must be to the next request.
			<-sent
			_, _ = io.WriteString(c, "GET /marker/k HTTP/1.1\r\nHost: x\r\n\r\n")
			next, err := http.ReadResponse(r, nil)
			if err != nil {
				t.Fatalf("%d: %v", size, err)
			}
			if b, _ := io.ReadAll(next.Body); !strings.Contains(string(b), "<Resource>/marker/k<") {
				t.Errorf("%d: answer to something else: %s", size, b)
			}
		}
		_ = c.Close()
	}
}

func TestMissingLength(t *testing.T) {
	h := newHarness(t, Options{})
	h.must("PUT", "/bkt", "", "x-amz-acl: public-read-write")
	_, r := h.raw("PUT /bkt/k HTTP/1.1\r\nHost: x\r\n\r\n")
	if line, _ := r.ReadString('\n'); !strings.HasPrefix(line, "HTTP/1.1 411") {
		t.Errorf("no length: %q", line)
	}
	_, r = h.raw("PUT /bkt/k HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n")
	if line, _ := r.ReadString('\n'); !strings.HasPrefix(line, "HTTP/1.1 200") {
		t.Errorf("chunked: %q", line)
	}
	_, r = h.raw("PUT /bkt/k HTTP/1.1\r\nHost: x\r\nContent-Length: 6000000000\r\n\r\n")
	if line, _ := r.ReadString('\n'); !strings.HasPrefix(line, "HTTP/1.1 400") {
		t.Errorf("too large: %q", line)
	}
}
