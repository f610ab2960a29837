package sigv4

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"firn/auth"
)

const (
	awsKey    = "AKIAIOSFODNN7EXAMPLE"
	awsSecret = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"
	awsHost   = "examplebucket.s3.amazonaws.com"
)

var awsTime = time.Date(2013, 5, 24, 0, 0, 0, 0, time.UTC)

// oneSecret knows a single key.
func oneSecret(key, secret string) SecretFunc {
	id := &auth.Identity{Name: "alice", AccessKey: key, Canonical: strings.Repeat("a1", 32)}
	return func(_ context.Context, k string) (string, *auth.Identity, error) {
		if k != key {
			return "", nil, auth.ErrNoSuchKey
		}
		return secret, id, nil
	}
}

func at(t time.Time) func() time.Time { return func() time.Time { return t } }

func awsVerifier() *Verifier {
	return New(oneSecret(awsKey, awsSecret), Options{Region: DefaultRegion, Now: at(awsTime)})
}

// request builds a server-side request; headers are "Name: value" lines.
func request(method, host, target, body string, headers ...string) *http.Request {
	r := httptest.NewRequest(method, target, strings.NewReader(body))
	r.Host = host
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ": ")
		r.Header.Add(name, value)
	}
	return r
}

func awsAuth(signed, signature string) string {
	return "Authorization: AWS4-HMAC-SHA256 Credential=" + awsKey + "/20130524/us-east-1/s3/aws4_request,SignedHeaders=" +
		signed + ",Signature=" + signature
}

// chunkedExample is the upload of the chunked examples: 64 KiB and 1 KiB of 'a', and the end.
func chunkedExample(signatures [3]string, end string) string {
	return "10000;chunk-signature=" + signatures[0] + "\r\n" + strings.Repeat("a", 65536) + "\r\n" +
		"400;chunk-signature=" + signatures[1] + "\r\n" + strings.Repeat("a", 1024) + "\r\n" +
		"0;chunk-signature=" + signatures[2] + "\r\n" + end
}

// The examples of the Amazon S3 API reference.
func awsExamples() map[string]func() *http.Request {
	const empty = "X-Amz-Content-Sha256: " + emptySHA256
	const date = "X-Amz-Date: 20130524T000000Z"
	const listed = "host;x-amz-content-sha256;x-amz-date"
	chunked := [3]string{
		"ad80c730a21e5b8d04586a2213dd63b9a0e99e0e2307b0ade35a65485a288648",
		"0055627c9e194cb4542bae2aa5492e3c1575bbb81b612b7d234b86a503ef5497",
		"b6c6ea8a5354eaf15b3cb7646744f4275b71ea724fed81ceb9323e279d449df9",
	}
	trailer := [3]string{
		"b474d8862b1487a5145d686f57f013e54db672cee1c953b3010fb58501ef5aa2",
		"1c1344b170168f8e65b41376b44b20fe354e373826ccbbe2c1d40a8cae51e5c7",
		"2ca2aba2005185cf7159c6277faf83795951dd77a3a99e6e65d5c9f85863f992",
	}
	return map[string]func() *http.Request{
		"get object": func() *http.Request {
			return request("GET", awsHost, "/test.txt", "", "Range: bytes=0-9", empty, date,
				awsAuth("host;range;x-amz-content-sha256;x-amz-date", "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41"))
		},
		"put object": func() *http.Request {
			return request("PUT", awsHost, "/test$file.text", "Welcome to Amazon S3.", "Date: Fri, 24 May 2013 00:00:00 GMT", date,
				"X-Amz-Storage-Class: REDUCED_REDUNDANCY",
				"X-Amz-Content-Sha256: 44ce7dd67c959e0d3524ffac1771dfbba87d2b6b4b4e99e42034a8b803f8b072",
				awsAuth("date;host;x-amz-content-sha256;x-amz-date;x-amz-storage-class", "98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd"))
		},
		"get lifecycle": func() *http.Request {
			return request("GET", awsHost, "/?lifecycle", "", empty, date,
				awsAuth(listed, "fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543"))
		},
		"list": func() *http.Request {
			return request("GET", awsHost, "/?max-keys=2&prefix=J", "", empty, date,
				awsAuth(listed, "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7"))
		},
		"presigned": func() *http.Request {
			return request("GET", awsHost, "/test.txt?X-Amz-Algorithm=AWS4-HMAC-SHA256"+
				"&X-Amz-Credential=AKIAIOSFODNN7EXAMPLE%2F20130524%2Fus-east-1%2Fs3%2Faws4_request&X-Amz-Date=20130524T000000Z"+
				"&X-Amz-Expires=86400&X-Amz-SignedHeaders=host"+
				"&X-Amz-Signature=aeeed9bbccd4d02ee5c0109b86d86835f995330da4c265957d157751f604d404", "")
		},
		"chunked": func() *http.Request {
			return request("PUT", "s3.amazonaws.com", "/examplebucket/chunkObject.txt", chunkedExample(chunked, "\r\n"), date,
				"X-Amz-Storage-Class: REDUCED_REDUNDANCY", "X-Amz-Content-Sha256: STREAMING-AWS4-HMAC-SHA256-PAYLOAD",
				"Content-Encoding: aws-chunked", "X-Amz-Decoded-Content-Length: 66560", "Content-Length: 66824",
				awsAuth("content-encoding;content-length;host;x-amz-content-sha256;x-amz-date;x-amz-decoded-content-length;x-amz-storage-class",
					"4f232c4386841ef735655705268965c44a0e4690baa4adea153f7db9fa80a0a9"))
		},
		"chunked with trailer": func() *http.Request {
			return request("PUT", "s3.amazonaws.com", "/examplebucket/chunkObject.txt", chunkedExample(trailer,
				"x-amz-checksum-crc32c:sOO8/Q==\r\nx-amz-trailer-signature:d81f82fc3505edab99d459891051a732e8730629a2e4a59689829ca17fe2e435\r\n\r\n"),
				date, "X-Amz-Storage-Class: REDUCED_REDUNDANCY", "X-Amz-Content-Sha256: STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER",
				"Content-Encoding: aws-chunked", "X-Amz-Decoded-Content-Length: 66560", "X-Amz-Trailer: x-amz-checksum-crc32c",
				awsAuth("content-encoding;host;x-amz-content-sha256;x-amz-date;x-amz-decoded-content-length;x-amz-storage-class;x-amz-trailer",
					"106e2a8a18243abcf37539882f36619c00e2dfc72633413f02d3b74544bfeb8e"))
		},
	}
}

// accept verifies r and reads its body to the end.
func accept(v *Verifier, r *http.Request) (res *Result, body []byte, trailer http.Header, err error) {
	if res, err = v.Verify(r); err != nil {
		return nil, nil, nil, err
	}
	b, err := res.Body(r)
	if err != nil {
		return res, nil, nil, err
	}
	defer b.Close()
	if body, err = io.ReadAll(b); err != nil {
		return res, body, nil, err
	}
	return res, body, b.Trailer(), nil
}

func TestAWSExamples(t *testing.T) {
	wantBody := map[string]int{"put object": 21, "chunked": 66560, "chunked with trailer": 66560}
	for name, make := range awsExamples() {
		t.Run(name, func(t *testing.T) {
			res, body, trailer, err := accept(awsVerifier(), make())
			if err != nil {
				t.Fatal(explain(err))
			}
			if res.Identity.Name != "alice" || res.AccessKey != awsKey || !res.Signed.Equal(awsTime) {
				t.Errorf("result %+v", res)
			}
			if len(body) != wantBody[name] {
				t.Errorf("body has %d bytes", len(body))
			}
			if got := trailer.Get("X-Amz-Checksum-Crc32c"); (name == "chunked with trailer") != (got == "sOO8/Q==") {
				t.Errorf("trailer %q", trailer)
			}
		})
	}
}

func explain(err error) string {
	var e *Error
	if !errors.As(err, &e) {
		return err.Error()
	}
	s := e.Error()
	for _, f := range e.Fields {
		s += "\n" + f.Name + ": " + f.Value
	}
	return s
}
