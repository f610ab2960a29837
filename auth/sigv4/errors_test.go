package sigv4

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"firn"
	"firn/auth"
)

func code(err error) (string, int) {
	var e *Error
	if errors.As(err, &e) {
		return e.Code, e.Status
	}
	if err == nil {
		return "", 200
	}
	return "not an *Error: " + err.Error(), 500
}

func TestErrorCodes(t *testing.T) {
	example := awsExamples()
	get := func(change func(r *http.Request)) *http.Request {
		r := example["get object"]()
		change(r)
		return r
	}
	authorization := func(old, new string) *http.Request {
		return get(func(r *http.Request) {
			was := r.Header.Get("Authorization")
			r.Header.Set("Authorization", strings.Replace(was, old, new, 1))
			if r.Header.Get("Authorization") == was {
				t.Fatalf("%q is not in %q", old, was)
			}
		})
	}
	header := func(name, value string) *http.Request {
		return get(func(r *http.Request) {
			if r.Header.Del(name); value != "" {
				r.Header.Set(name, value)
			}
		})
	}
	query := func(old, new string) *http.Request {
		r := example["presigned"]()
		was := r.URL.RawQuery
		if r.URL.RawQuery = strings.Replace(was, old, new, 1); r.URL.RawQuery == was {
			t.Fatalf("%q is not in %q", old, was)
		}
		return r
	}
	sig := "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41"
	type tc struct {
		name   string
		r      *http.Request
		now    time.Duration // after the example's time
		code   string
		status int
	}
	for _, c := range []tc{
		{"valid", get(func(*http.Request) {}), 0, "", 200},
		{"14 minutes late", get(func(*http.Request) {}), 14 * time.Minute, "", 200},
		{"16 minutes late", get(func(*http.Request) {}), 16 * time.Minute, "RequestTimeTooSkewed", 403},
		{"16 minutes early", get(func(*http.Request) {}), -16 * time.Minute, "RequestTimeTooSkewed", 403},
		{"empty header is anonymous", header("Authorization", ""), 0, "", 200},
		{"version 2", header("Authorization", "AWS AKID:c2ln"), 0, "InvalidRequest", 400},
		{"version 4A", header("Authorization", "AWS4-ECDSA-P256-SHA256 Credential=x"), 0, "InvalidRequest", 400},
		{"basic", header("Authorization", "Basic eDp5"), 0, "InvalidArgument", 400},
		{"two headers", get(func(r *http.Request) { r.Header.Add("Authorization", "x") }), 0, "InvalidArgument", 400},
		{"header and query", get(func(r *http.Request) { r.URL.RawQuery = "X-Amz-Algorithm=AWS4-HMAC-SHA256" }), 0, "InvalidArgument", 400},
		{"no blank", authorization("256 Cred", "256Cred"), 0, "AuthorizationHeaderMalformed", 400},
		{"nothing else", header("Authorization", "AWS4-HMAC-SHA256"), 0, "AuthorizationHeaderMalformed", 400},
		{"no credential", authorization("Credential=", "Credentials="), 0, "AuthorizationHeaderMalformed", 400},
		{"empty signature", authorization("Signature="+sig, "Signature="), 0, "AuthorizationHeaderMalformed", 400},
		{"no signature", authorization(",Signature="+sig, ""), 0, "AuthorizationHeaderMalformed", 400},
		{"signature twice", authorization(",Signature", ",Signature="+sig+",Signature"), 0, "AuthorizationHeaderMalformed", 400},
		{"short scope", authorization("/20130524", ""), 0, "AuthorizationHeaderMalformed", 400},
		{"no access key", authorization(awsKey, ""), 0, "AuthorizationHeaderMalformed", 400},
		{"long access key", authorization(awsKey, strings.Repeat("A", 200)), 0, "AuthorizationHeaderMalformed", 400},
		{"terminator", authorization("aws4_request", "aws5_request"), 0, "AuthorizationHeaderMalformed", 400},
		{"service", authorization("/s3/", "/ec2/"), 0, "AuthorizationHeaderMalformed", 400},
		{"region", authorization("us-east-1", "us-west-2"), 0, "AuthorizationHeaderMalformed", 400},
		{"credential date", authorization("20130524", "2013052x"), 0, "AuthorizationHeaderMalformed", 400},
		{"other date", authorization("20130524", "20130525"), 0, "AuthorizationHeaderMalformed", 400},
		{"unknown key", authorization(awsKey, "NOBODY"), 0, "InvalidAccessKeyId", 403},
		{"signature not hex", authorization(sig, strings.Repeat("z", 64)), 0, "SignatureDoesNotMatch", 403},
		{"signature upper case", authorization(sig, strings.ToUpper(sig)), 0, "SignatureDoesNotMatch", 403},
		{"signature short", authorization(sig, sig[:63]), 0, "SignatureDoesNotMatch", 403},
		{"host not signed", authorization("=host;range", "=range"), 0, "AccessDenied", 403},
		{"date not signed", authorization(";x-amz-date", ""), 0, "AccessDenied", 403},
		{"empty signed header", authorization("host;range", "host;;range"), 0, "AuthorizationHeaderMalformed", 400},
		{"too many signed headers", authorization("host;", "host;"+strings.Repeat("a;", 101)), 0, "AuthorizationHeaderMalformed", 400},
		{"token not signed", header("X-Amz-Security-Token", "abc"), 0, "AccessDenied", 403},
		{"no date", header("X-Amz-Date", ""), 0, "AccessDenied", 403},
		{"bad date", header("X-Amz-Date", "2013-05-24T00:00:00Z"), 0, "AccessDenied", 403},
		{"impossible date", header("X-Amz-Date", "20130532T000000Z"), 0, "AccessDenied", 403},
		{"no hash", header("X-Amz-Content-Sha256", ""), 0, "InvalidRequest", 400},
		{"bad hash", header("X-Amz-Content-Sha256", "abc"), 0, "InvalidArgument", 400},
		{"elliptic chunks", header("X-Amz-Content-Sha256", "STREAMING-AWS4-ECDSA-P256-SHA256-PAYLOAD"), 0, "InvalidRequest", 400},

		{"presigned", example["presigned"](), 0, "", 200},
		{"presigned in time", example["presigned"](), 86399 * time.Second, "", 200},
		{"presigned late", example["presigned"](), 86400 * time.Second, "AccessDenied", 403},
		{"presigned early", example["presigned"](), -16 * time.Minute, "AccessDenied", 403},
		{"presigned version 2", query("X-Amz-Algorithm=AWS4-HMAC-SHA256&", "AWSAccessKeyId=A&Signature=b&Expires=1&"), 0, "AuthorizationQueryParametersError", 400},
		{"only version 2", request("GET", awsHost, "/k?AWSAccessKeyId=A&Signature=b&Expires=1", ""), 0, "InvalidRequest", 400},
		{"algorithm", query("AWS4-HMAC-SHA256", "AWS4-HMAC-SHA512"), 0, "AuthorizationQueryParametersError", 400},
		{"no algorithm", query("X-Amz-Algorithm=AWS4-HMAC-SHA256&", ""), 0, "AuthorizationQueryParametersError", 400},
		{"no expires", query("X-Amz-Expires=86400&", ""), 0, "AuthorizationQueryParametersError", 400},
		{"expires text", query("86400", "1h"), 0, "AuthorizationQueryParametersError", 400},
		{"expires zero", query("86400", "0"), 0, "AccessDenied", 403},
		{"expires negative", query("86400", "-7"), 0, "AuthorizationQueryParametersError", 403},
		{"expires over a week", query("86400", "604801"), 0, "AuthorizationQueryParametersError", 403},
		{"expires over 64 bits", query("86400", "99999999999999999999"), 0, "AuthorizationQueryParametersError", 403},
		{"query twice", query("X-Amz-Expires=86400", "X-Amz-Expires=86400&X-Amz-Expires=86400"), 0, "AuthorizationQueryParametersError", 400},
		{"query escape", query("X-Amz-Expires=86400", "X-Amz-Expires=%zz"), 0, "AuthorizationQueryParametersError", 400},
		{"query date", query("20130524T000000Z", "20130524"), 0, "AuthorizationQueryParametersError", 400},
		{"query other date", query("20130524T000000Z", "20130525T000000Z"), 0, "AuthorizationQueryParametersError", 400},
		{"query region", query("us-east-1", "mars"), 0, "AuthorizationQueryParametersError", 400},
		{"query host", query("SignedHeaders=host", "SignedHeaders=range"), 0, "AccessDenied", 403},
		{"query signed headers", query("SignedHeaders=host", "SignedHeaders=host%3B"), 0, "AuthorizationQueryParametersError", 400},
		{"query token", query("X-Amz-Expires", "X-Amz-Security-Token=x&X-Amz-Expires"), 0, "InvalidToken", 400},
		{"query unknown key", query(awsKey, "NOBODY"), 0, "InvalidAccessKeyId", 403},
		{"query signature", query("X-Amz-Signature=a", "X-Amz-Signature=b"), 0, "SignatureDoesNotMatch", 403},
	} {
		v := New(oneSecret(awsKey, awsSecret), Options{Region: DefaultRegion, Now: at(awsTime.Add(c.now))})
		res, err := v.Verify(c.r)
		if gotCode, status := code(err); gotCode != c.code || status != c.status {
			t.Errorf("%s: %s %d (%v), want %s %d", c.name, gotCode, status, err, c.code, c.status)
			continue
		}
		if (err == nil) != (res != nil) {
			t.Errorf("%s: result %v with error %v", c.name, res, err)
		}
		wantKind := firn.Invalid
		if c.status == 403 {
			wantKind = firn.Denied
		}
		if err != nil && firn.KindOf(err) != wantKind {
			t.Errorf("%s: kind %v", c.name, firn.KindOf(err))
		}
		if err != nil && strings.Contains(explain(err), awsSecret) {
			t.Errorf("%s: the error shows the secret", c.name)
		}
	}
}

func TestErrorsOfTheStorePass(t *testing.T) {
	want := errors.New("store is closed")
	v := New(func(context.Context, string) (string, *auth.Identity, error) { return "", nil, want }, Options{Now: at(awsTime)})
	if _, err := v.Verify(awsExamples()["list"]()); !errors.Is(err, want) {
		t.Errorf("got %v", err)
	}
}

// A mismatch of one request must show nothing of another that used the same buffers.
func TestErrorFieldsAreOfThisRequest(t *testing.T) {
	v := awsVerifier()
	for range 10 {
		if _, err := v.Verify(awsExamples()["list"]()); err != nil {
			t.Fatal(err)
		}
		r := awsExamples()["get object"]()
		r.Header.Set("Authorization", strings.Replace(r.Header.Get("Authorization"), "=f0", "=zz", 1))
		_, err := v.Verify(r)
		if s := explain(err); strings.Contains(s, "max-keys") || strings.Contains(s, "StringToSign") {
			t.Fatal(s)
		}
	}
}

func TestChangedSecret(t *testing.T) {
	secret := awsSecret
	v := New(func(ctx context.Context, k string) (string, *auth.Identity, error) {
		return oneSecret(awsKey, secret)(ctx, k)
	}, Options{Now: at(awsTime)})
	for _, s := range []string{awsSecret, "other", awsSecret} {
		secret = s
		if _, err := v.Verify(awsExamples()["list"]()); (err == nil) != (s == awsSecret) {
			t.Errorf("secret %q: %v", s, err)
		}
	}
}

func TestKeyCacheIsBounded(t *testing.T) {
	var c keyCache
	first := c.get(&credential{accessKey: "k", date: "20250101", region: "r"}, "s3", "secret")
	for i := range 5 * cacheSize {
		c.get(&credential{accessKey: strconv.Itoa(i), date: "20250101", region: "r"}, "s3", "secret")
		// A key in use stays.
		if i < cacheSize && c.get(&credential{accessKey: "k", date: "20250101", region: "r"}, "s3", "secret") != first {
			t.Fatalf("key was dropped after %d others", i)
		}
	}
	if n := len(c.mu.young) + len(c.mu.old); n > 2*cacheSize {
		t.Errorf("%d keys kept", n)
	}
}

// readAll reads a body through several ways of reading; each must agree.
func readAll(t *testing.T, r func() *http.Request) (string, error) {
	t.Helper()
	var body string
	var first error
	for i, wrap := range []func(io.Reader) io.Reader{
		func(r io.Reader) io.Reader { return r }, iotest.OneByteReader, iotest.HalfReader, iotest.DataErrReader,
	} {
		req := r()
		req.Body = io.NopCloser(wrap(req.Body))
		_, b, _, err := accept(awsVerifier(), req)
		if i == 0 {
			body, first = string(b), err
			continue
		}
		c1, _ := code(first)
		if c2, _ := code(err); c1 != c2 || err == nil && body != string(b) {
			t.Errorf("way %d: %v, way 0: %v", i, err, first)
		}
	}
	return body, first
}

func TestChunkedBodies(t *testing.T) {
	unsigned := func(body string, decoded string, trailer ...string) func() *http.Request {
		return func() *http.Request {
			// Anonymous: the framing can be looked at without signing.
			r := request("PUT", awsHost, "/k", body, "X-Amz-Content-Sha256: STREAMING-UNSIGNED-PAYLOAD-TRAILER")
			if decoded != "" {
				r.Header.Set("X-Amz-Decoded-Content-Length", decoded)
			}
			for _, n := range trailer {
				r.Header.Add("X-Amz-Trailer", n)
			}
			return r
		}
	}
	signed := func(old, new string) func() *http.Request {
		return func() *http.Request {
			r := awsExamples()["chunked"]()
			b, _ := io.ReadAll(r.Body)
			s := strings.Replace(string(b), old, new, 1)
			if s == string(b) {
				t.Fatalf("%q is not in the body", old)
			}
			r.Body = io.NopCloser(strings.NewReader(s))
			return r
		}
	}
	trailed := func(old, new string) func() *http.Request {
		return func() *http.Request {
			r := awsExamples()["chunked with trailer"]()
			b, _ := io.ReadAll(r.Body)
			s := strings.Replace(string(b), old, new, 1)
			if s == string(b) {
				t.Fatalf("%q is not in the body", old)
			}
			r.Body = io.NopCloser(strings.NewReader(s))
			return r
		}
	}
	const crc = "x-amz-checksum-crc32"
	for _, c := range []struct {
		name string
		r    func() *http.Request
		body string
		code string
	}{
		{"two chunks", unsigned("3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n", "5"), "abcde", ""},
		{"leading zeros, upper case", unsigned("000A\r\n0123456789\r\n0\r\n\r\n", "10"), "0123456789", ""},
		{"empty", unsigned("0\r\n\r\n", "0"), "", ""},
		{"trailer", unsigned("1\r\na\r\n0\r\n"+crc+": AAAA\r\n\r\n", "1", crc), "a", ""},
		{"trailer with line feed", unsigned("1\r\na\r\n0\r\n"+crc+":AAAA\n\r\n\r\n", "1", crc), "a", ""},
		{"trailer without blank line", unsigned("1\r\na\r\n0\r\n"+crc+":AAAA\r\n", "1", crc), "a", ""},
		{"trailer of an empty body", unsigned("0\r\n"+crc+":AAAA\r\n\r\n", "0", crc), "", ""},
		{"no decoded length", unsigned("0\r\n\r\n", ""), "", "MissingContentLength"},
		{"negative decoded length", unsigned("0\r\n\r\n", "-1"), "", "InvalidArgument"},
		{"bad decoded length", unsigned("0\r\n\r\n", "1e3"), "", "InvalidArgument"},
		{"longer than declared", unsigned("3\r\nabc\r\n0\r\n\r\n", "2"), "", "IncompleteBody"},
		{"one more chunk than declared", unsigned("2\r\nab\r\n1\r\nc\r\n0\r\n\r\n", "2"), "", "IncompleteBody"},
		{"shorter than declared", unsigned("3\r\nabc\r\n0\r\n\r\n", "4"), "", "IncompleteBody"},
		{"nothing", unsigned("", "1"), "", "IncompleteBody"},
		{"nothing of nothing", unsigned("", "0"), "", "IncompleteBody"},
		{"ends in header", unsigned("3", "3"), "", "IncompleteBody"},
		{"ends in data", unsigned("3\r\nab", "3"), "", "IncompleteBody"},
		{"ends before last chunk", unsigned("3\r\nabc\r\n", "3"), "", "IncompleteBody"},
		{"ends after last header", unsigned("3\r\nabc\r\n0\r\n", "3"), "", "MalformedTrailerError"},
		{"size missing", unsigned("\r\nabc\r\n", "3"), "", "InvalidRequest"},
		{"size not hex", unsigned("g\r\nabc\r\n", "3"), "", "InvalidRequest"},
		{"size negative", unsigned("-3\r\nabc\r\n", "3"), "", "InvalidRequest"},
		{"size over 63 bits", unsigned("ffffffffffffffff\r\nabc\r\n", "3"), "", "InvalidRequest"},
		{"size of 17 digits", unsigned("00000000000000003\r\nabc\r\n", "3"), "", "InvalidRequest"},
		{"line feed alone", unsigned("3\nabc\r\n0\r\n\r\n", "3"), "", "InvalidRequest"},
		{"no end of chunk", unsigned("3\r\nabc0\r\n\r\n", "3"), "", "InvalidRequest"},
		{"chunk longer than its size", unsigned("3\r\nabcd\r\n0\r\n\r\n", "4"), "", "InvalidRequest"},
		{"extension", unsigned("3;x=y\r\nabc\r\n0\r\n\r\n", "3"), "", "InvalidRequest"},
		{"endless header", unsigned(strings.Repeat("0", 5000)+"\r\n", "3"), "", "InvalidRequest"},
		{"undeclared trailer", unsigned("1\r\na\r\n0\r\n"+crc+":AAAA\r\n\r\n", "1"), "", "MalformedTrailerError"},
		{"other trailer", unsigned("1\r\na\r\n0\r\nx-amz-acl:a\r\n\r\n", "1", crc), "", "MalformedTrailerError"},
		{"missing trailer", unsigned("1\r\na\r\n0\r\n\r\n", "1", crc), "", "MalformedTrailerError"},
		{"trailer twice", unsigned("1\r\na\r\n0\r\n"+crc+":A\r\n"+crc+":B\r\n\r\n", "1", crc), "", "MalformedTrailerError"},
		{"trailer without colon", unsigned("1\r\na\r\n0\r\n"+crc+"\r\n\r\n", "1", crc), "", "MalformedTrailerError"},
		{"trailer not printable", unsigned("1\r\na\r\n0\r\n"+crc+":a\x01\r\n\r\n", "1", crc), "", "MalformedTrailerError"},
		{"endless trailer", unsigned("1\r\na\r\n0\r\n"+crc+":"+strings.Repeat("a", 9000)+"\r\n\r\n", "1", crc), "", "MalformedTrailerError"},
		{"signature in unsigned trailer", unsigned("1\r\na\r\n0\r\n"+crc+":A\r\n"+trailerSignature+":"+emptySHA256+"\r\n\r\n", "1", crc), "", "MalformedTrailerError"},

		{"signed", signed("\r\n0;", "\r\n00;"), strings.Repeat("a", 66560), ""},
		{"changed content", signed("aaa", "aba"), "", "SignatureDoesNotMatch"},
		{"changed content of second chunk", signed("a\r\n0;", "b\r\n0;"), "", "SignatureDoesNotMatch"},
		{"changed signature", signed("=ad80", "=ad81"), "", "SignatureDoesNotMatch"},
		{"changed last signature", signed("=b6c6", "=b6c7"), "", "SignatureDoesNotMatch"},
		{"signature in upper case", signed("=ad80", "=AD80"), "", "InvalidRequest"},
		{"unsigned chunk", signed(";chunk-signature=0055627c9e194cb4542bae2aa5492e3c1575bbb81b612b7d234b86a503ef5497", ""), "", "InvalidRequest"},
		{"last chunk unsigned", signed(";chunk-signature=b6c6ea8a5354eaf15b3cb7646744f4275b71ea724fed81ceb9323e279d449df9", ""), "", "InvalidRequest"},
		{"bytes at the end", signed("449df9\r\n\r\n", "449df9\r\n\r\n\r\n"), "", "InvalidRequest"},
		{"no end", signed("449df9\r\n\r\n", "449df9\r\n"), "", "InvalidRequest"},
		{"chunk left out", signed("400;chunk-signature=0055627c9e194cb4542bae2aa5492e3c1575bbb81b612b7d234b86a503ef5497\r\n"+strings.Repeat("a", 1024)+"\r\n", ""), "", "IncompleteBody"},

		{"changed trailer", trailed("sOO8", "sOO9"), "", "SignatureDoesNotMatch"},
		{"changed trailer signature", trailed(":d81f", ":d81e"), "", "SignatureDoesNotMatch"},
		{"no trailer signature", trailed("x-amz-trailer-signature:d81f82fc3505edab99d459891051a732e8730629a2e4a59689829ca17fe2e435\r\n", ""), "", "MalformedTrailerError"},
		{"trailer after signature", trailed("e435\r\n", "e435\r\nx-amz-checksum-crc32c:a\r\n"), "", "MalformedTrailerError"},
		{"no trailers at all", trailed("x-amz-checksum-crc32c:sOO8/Q==\r\n", ""), "", "MalformedTrailerError"},
	} {
		body, err := readAll(t, c.r)
		if got, _ := code(err); got != c.code || err == nil && body != c.body {
			t.Errorf("%s: %q (%v), want %q", c.name, got, err, c.code)
		}
	}
}

func TestPlainBodies(t *testing.T) {
	hello := "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"
	plain := func(body, hash string, length int64) func() *http.Request {
		return func() *http.Request {
			r := request("PUT", awsHost, "/k", body, "X-Amz-Content-Sha256: "+hash)
			r.ContentLength = length
			return r
		}
	}
	for _, c := range []struct {
		name string
		r    func() *http.Request
		code string
	}{
		{"hash", plain("hello", hello, 5), ""},
		{"hash, length unknown", plain("hello", hello, -1), ""},
		{"empty", plain("", emptySHA256, 0), ""},
		{"empty, length unknown", plain("", emptySHA256, -1), ""},
		{"unsigned", plain("hello", "UNSIGNED-PAYLOAD", 5), ""},
		{"other content", plain("hallo", hello, 5), "XAmzContentSHA256Mismatch"},
		{"other content, length unknown", plain("hallo", hello, -1), "XAmzContentSHA256Mismatch"},
		{"empty but hash", plain("", hello, 0), "XAmzContentSHA256Mismatch"},
		{"short", plain("hell", hello, 5), "IncompleteBody"},
		{"short and unsigned", plain("hell", "UNSIGNED-PAYLOAD", 5), "IncompleteBody"},
	} {
		_, err := readAll(t, c.r)
		if got, _ := code(err); got != c.code {
			t.Errorf("%s: %q (%v), want %q", c.name, got, err, c.code)
		}
	}
}

// A reader that stops after Length bytes, without asking for io.EOF, has had everything checked.
func TestCheckedBeforeLastByte(t *testing.T) {
	examples := awsExamples()
	for _, name := range []string{"put object", "chunked", "chunked with trailer"} {
		for _, bad := range []bool{false, true} {
			r := examples[name]()
			b, _ := io.ReadAll(r.Body)
			if bad && name == "put object" {
				b[3] ^= 1
			} else if bad {
				b[len(b)-8] ^= 1
			}
			r.Body = io.NopCloser(strings.NewReader(string(b)))
			res, err := awsVerifier().Verify(r)
			if err != nil {
				t.Fatal(err)
			}
			body, err := res.Body(r)
			if err != nil {
				t.Fatal(err)
			}
			buf := make([]byte, body.Length())
			if _, err := io.ReadFull(body, buf); (err == nil) == bad {
				t.Errorf("%s, bad %v: %v", name, bad, err)
			}
			if err := body.Close(); err != nil {
				t.Error(err)
			}
			if _, err := body.Read(buf); err == nil {
				t.Error("read after close")
			}
		}
	}
}
