package sigv4

import (
	"bytes"
	"io"
	"strconv"
	"strings"
	"testing"
)

func FuzzAuthorization(f *testing.F) {
	f.Add(awsExamples()["get object"]().Header.Get("Authorization"), "20130524T000000Z", emptySHA256)
	f.Add("AWS4-HMAC-SHA256 Credential=a/b/c/d/e/f, SignedHeaders=host;;x, Signature=1", "Fri, 24 May 2013 00:00:00 GMT", "UNSIGNED-PAYLOAD")
	f.Add("AWS4-HMAC-SHA256 Credential=,=", "2013", "STREAMING-AWS4-HMAC-SHA256-PAYLOAD")
	v := New(oneSecret(awsKey, "unknown to the fuzzer"), Options{Now: at(awsTime)})
	f.Fuzz(func(t *testing.T, authorization, date, hash string) {
		r := request("GET", awsHost, "/k?b=1&a=%2", "")
		r.Header["Authorization"] = []string{authorization}
		r.Header["X-Amz-Date"] = []string{date}
		r.Header["X-Amz-Content-Sha256"] = []string{hash}
		res, err := v.Verify(r)
		if err == nil && !res.Identity.Anonymous() {
			t.Fatalf("accepted as %+v", res)
		}
		if c, _ := code(err); strings.HasPrefix(c, "not an") {
			t.Fatal(err)
		}
	})
}

func FuzzQuery(f *testing.F) {
	f.Add(awsExamples()["presigned"]().URL.RawQuery)
	f.Add("X-Amz-Algorithm&X-Amz-Signature&AWSAccessKeyId&Signature")
	f.Add("&&=&a=b=c&%=%&X-Amz-Credential=%2F%2F%2F%2F")
	v := New(oneSecret(awsKey, "unknown to the fuzzer"), Options{Now: at(awsTime)})
	f.Fuzz(func(t *testing.T, query string) {
		r := request("GET", awsHost, "/k", "")
		r.URL.RawQuery = query
		res, err := v.Verify(r)
		if err == nil && !res.Identity.Anonymous() {
			t.Fatalf("accepted as %+v", res)
		}
		if c, _ := code(err); strings.HasPrefix(c, "not an") {
			t.Fatal(err)
		}
	})
}

// FuzzChunked decodes any bytes: the payload is never longer than declared, and a good end means that it is
// exactly as long.
func FuzzChunked(f *testing.F) {
	f.Add([]byte("3\r\nabc\r\n2\r\nde\r\n0\r\nx-amz-checksum-crc32:AAAA\r\n\r\n"), uint16(5), "x-amz-checksum-crc32")
	f.Add([]byte("0\r\n\r\n"), uint16(0), "")
	f.Add([]byte("5\r\nabcde\r\n0\r\nx-amz-trailer-signature:00\r\n\r\n"), uint16(5), "a,b")
	f.Fuzz(func(t *testing.T, wire []byte, decoded uint16, trailer string) {
		r := request("PUT", awsHost, "/k", "", "X-Amz-Content-Sha256: STREAMING-UNSIGNED-PAYLOAD-TRAILER", "X-Amz-Trailer: "+trailer)
		r.Header.Set("X-Amz-Decoded-Content-Length", strconv.Itoa(int(decoded)))
		r.Body = io.NopCloser(bytes.NewReader(wire))
		_, body, tr, err := accept(awsVerifier(), r)
		if len(body) > int(decoded) {
			t.Fatalf("%d bytes of %d", len(body), decoded)
		}
		if err == nil && len(body) != int(decoded) {
			t.Fatalf("good end after %d bytes of %d", len(body), decoded)
		}
		if c, _ := code(err); strings.HasPrefix(c, "not an") {
			t.Fatal(err)
		}
		if len(tr) > maxTrailers {
			t.Fatalf("%d trailers", len(tr))
		}
	})
}
