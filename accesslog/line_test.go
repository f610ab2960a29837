package accesslog

import (
	"crypto/tls"
	"strings"
	"testing"
	"time"
)

func example() Record {
	return Record{
		Owner: strings.Repeat("7", 64), Bucket: "photos", Time: time.Date(2019, 2, 6, 0, 0, 38, 0, time.FixedZone("", 3600)),
		Remote: "192.0.2.3", Requester: strings.Repeat("a", 64), RequestID: "3E57427F3EXAMPLE", Op: "GetObject", Method: "GET",
		Key: "a b/\"ü\"", URI: "/photos/a%20b/%22%C3%BC%22", Proto: "HTTP/1.1", Status: 200, Sent: 113, Size: 4096,
		Total: 12 * time.Millisecond, First: 7 * time.Millisecond, Agent: "aws-cli/2", VersionID: "v1", Signed: "SigV4",
		AuthType: "AuthHeader", TLS: tls.VersionTLS12, Cipher: tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256, Host: "s3.example:9000",
		ByACL: true, Region: "eu-north-1",
	}
}

func TestLine(t *testing.T) {
	r := example()
	want := strings.Repeat("7", 64) + " photos [05/Feb/2019:23:00:38 +0000] 192.0.2.3 " + strings.Repeat("a", 64) +
		` 3E57427F3EXAMPLE REST.GET.OBJECT a%20b/%22%C3%BC%22 "GET /photos/a%20b/%22%C3%BC%22 HTTP/1.1" 200 - 113 4096 12 7 "-" ` +
		`"aws-cli/2" v1 3E57427F3EXAMPLE SigV4 ECDHE-RSA-AES128-GCM-SHA256 AuthHeader s3.example:9000 TLSv1.2 - Yes eu-north-1` + "\n"
	if got := string(r.Line()); got != want {
		t.Errorf("got  %swant %s", got, want)
	}
	r = Record{Owner: "o", Bucket: "b", Op: "ListObjectsV2", Method: "GET", URI: "/b?list-type=2", Proto: "HTTP/1.1", Status: 403, Code: "AccessDenied", Size: -1, Region: "us-east-1"}
	want = `o b [01/Jan/0001:00:00:00 +0000] - - - REST.GET.BUCKET - "GET /b?list-type=2 HTTP/1.1" 403 AccessDenied - - 0 - "-" "-" - - - - - - - - - us-east-1` + "\n"
	if got := string(r.Line()); got != want {
		t.Errorf("got  %swant %s", got, want)
	}
}

// fields splits a line as its readers do: at spaces, but for those in quotes and brackets.
func fields(t *testing.T, line string) []string {
	t.Helper()
	line, ok := strings.CutSuffix(line, "\n")
	if !ok || strings.ContainsAny(line, "\n\r\x00") {
		t.Fatalf("not one line: %q", line)
	}
	var out []string
	for line != "" {
		end := " "
		switch line[0] {
		case '"':
			end = "\" "
		case '[':
			end = "] "
		}
		f, rest, _ := strings.Cut(line[1:], end)
		out, line = append(out, line[:1]+f), rest
	}
	return out
}

func FuzzLine(f *testing.F) {
	f.Add("k", "/b/k", "x", "y", "h")
	f.Add("a\nb c", "/b/\"?x=\" 200 - \"", "\" \"", "a\r\n7777 photos [", "h h\"")
	f.Fuzz(func(t *testing.T, key, uri, referer, agent, host string) {
		r := example()
		r.Key, r.URI, r.Referer, r.Agent, r.Host, r.VersionID, r.Remote = key, uri, referer, agent, host, key, host
		got := fields(t, string(r.Line()))
		plain := example()
		want := fields(t, string(plain.Line()))
		if len(got) != len(want) {
			t.Fatalf("%d fields, want %d: %q", len(got), len(want), got)
		}
		for _, i := range []int{0, 1, 2, 4, 5, 6, 9, 10, 11, 12, 13, 14, 18, 19, 20, 21, 23, 24, 25, 26} {
			if i < len(got) && i < len(want) && got[i] != want[i] {
				t.Errorf("field %d is %q, want %q", i, got[i], want[i])
			}
		}
	})
}

func TestNoSignatureInTheLog(t *testing.T) {
	r := example()
	r.URI = "/b/k?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-%53ignature=deadbeef&x-amz-security-token=tokentoken&Signature=v2sig&versionId=3"
	got := string(r.Line())
	for _, secret := range []string{"deadbeef", "tokentoken", "v2sig"} {
		if strings.Contains(got, secret) {
			t.Errorf("%s is in %s", secret, got)
		}
	}
	if !strings.Contains(got, "versionId=3") || !strings.Contains(got, "X-Amz-Algorithm=AWS4-HMAC-SHA256") {
		t.Errorf("more is missing than secrets: %s", got)
	}
}

func TestOperation(t *testing.T) {
	for _, c := range []struct {
		op, method string
		part       bool
		want       string
	}{
		{"PutObject", "PUT", false, "REST.PUT.OBJECT"},
		{"CopyObject", "PUT", false, "REST.COPY.OBJECT"},
		{"CopyObject", "PUT", true, "REST.COPY.OBJECT_GET"},
		{"UploadPart", "PUT", false, "REST.PUT.PART"},
		{"UploadPartCopy", "PUT", false, "REST.COPY.PART"},
		{"DeleteObjects", "POST", false, "REST.POST.MULTI_OBJECT_DELETE"},
		{"DeleteObjects", "POST", true, "BATCH.DELETE.OBJECT"},
		{"GetBucketLogging", "GET", false, "REST.GET.LOGGING_STATUS"},
		{"GetBucketPolicy", "GET", false, "REST.GET.BUCKETPOLICY"},
		{"GetBucketVersioning", "GET", false, "REST.GET.VERSIONING"},
		{"PutObjectAcl", "PUT", false, "REST.PUT.ACL"},
		{"DeleteObjectTagging", "DELETE", false, "REST.DELETE.OBJECT_TAGGING"},
		{"GetObjectAttributes", "GET", false, "REST.GET.OBJECT_ATTRIBUTES"},
		{"ListMultipartUploads", "GET", false, "REST.GET.UPLOADS"},
		{"Unknown", "GET", false, "REST.GET.UNKNOWN"},
	} {
		r := Record{Op: c.op, Method: c.method, Part: c.part}
		if got := r.operation(); got != c.want {
			t.Errorf("%s: %s, want %s", c.op, got, c.want)
		}
	}
}

func TestCipherName(t *testing.T) {
	for id, want := range map[uint16]string{
		tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256: "ECDHE-ECDSA-CHACHA20-POLY1305",
		tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384:         "ECDHE-RSA-AES256-GCM-SHA384",
		tls.TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA:            "ECDHE-RSA-AES128-SHA",
		tls.TLS_AES_128_GCM_SHA256:                        "TLS_AES_128_GCM_SHA256",
	} {
		if got := cipherName(id); got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
}
