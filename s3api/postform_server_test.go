package s3api

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha1"
	"encoding/base64"
	"fmt"
	"io"
	"mime/multipart"
	"net/http"
	"net/http/httptest"
	"net/textproto"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/minio/minio-go/v7"

	"firn/s3api/postform"
)

func policy64(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }

// formBody writes a form the way Python's requests does: every field has a filename.
func formBody(t testing.TB, boundary string, parts ...[3]string) string {
	t.Helper()
	var b bytes.Buffer
	w := multipart.NewWriter(&b)
	if err := w.SetBoundary(boundary); err != nil {
		t.Fatal(err)
	}
	for _, p := range parts {
		h := textproto.MIMEHeader{"Content-Disposition": {fmt.Sprintf(`form-data; name="%s"; filename="%s"`, p[0], p[1])}}
		f, err := w.CreatePart(h)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(f, p[2]); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

const formType = "multipart/form-data; boundary=XX"

// post sends a form, unsigned but for what is in it.
func (h *harness) post(target string, parts ...[3]string) *response {
	h.t.Helper()
	return h.user("").do("POST", target, formBody(h.t, "XX", parts...), "Content-Type: "+formType)
}

// policyForm returns the fields of a form signed as h's user with version 2 and a policy of these conditions.
func (h *harness) policyForm(conditions string) [][3]string {
	p := policy64(fmt.Sprintf(`{"expiration": %q, "conditions": [%s]}`,
		time.Now().Add(time.Hour).UTC().Format("2006-01-02T15:04:05Z"), conditions))
	m := hmac.New(sha1.New, []byte(secretOf(h.as)))
	m.Write([]byte(p))
	return [][3]string{
		{"AWSAccessKeyId", "", h.as},
		{"policy", "", p},
		{"signature", "", base64.StdEncoding.EncodeToString(m.Sum(nil))},
	}
}

func TestPostAnonymous(t *testing.T) {
	h := newHarness(t, Options{})
	h.must("PUT", "/bkt", "")
	key, file := [3]string{"key", "", "dir/${filename}"}, [3]string{"file", `C:\x\a b.txt`, "hello"}
	if r := h.post("/bkt", key, file); r.code() != "AccessDenied" {
		t.Errorf("private bucket: %d %s", r.status, r.body)
	}
	h.must("PUT", "/bkt?acl", "", "x-amz-acl: public-read-write")
	r := h.post("/bkt", key, [3]string{"Content-Type", "", "text/plain"}, [3]string{"x-amz-meta-colour", "", "red"},
		[3]string{"Cache-Control", "", "no-cache"}, [3]string{"acl", "", "public-read"}, [3]string{"x-ignore-me", "", "x"},
		[3]string{"submit", "", "Upload"}, file)
	if r.status != 204 || r.body != "" || r.header.Get("Location") != h.http.URL+"/bkt/dir/a%20b.txt" {
		t.Fatalf("%d %s %v", r.status, r.body, r.header)
	}
	got := h.user("").must("GET", "/bkt/dir/a%20b.txt", "")
	want := map[string]string{
		"Content-Type": "text/plain", "Cache-Control": "no-cache", "X-Amz-Meta-Colour": "red",
		"Etag": `"5d41402abc4b2a76b9719d911017c592"`,
	}
	for k, v := range want {
		value := got.header.Get(k)
		if value == "" && len(got.header[strings.ToLower(k)]) > 0 {
			value = got.header[strings.ToLower(k)][0]
		}
		if value != v {
			t.Errorf("%s: got %q, want %q", k, value, v)
		}
	}
	if got.body != "hello" {
		t.Errorf("body %q", got.body)
	}
	if r := h.post("/nosuch", key, file); r.code() != "NoSuchBucket" {
		t.Errorf("no bucket: %d %s", r.status, r.body)
	}
	if r := h.do("POST", "/bkt", "x", "Content-Type: text/plain"); r.code() != "RequestIsNotMultiPartContent" || r.status != 412 {
		t.Errorf("no form: %d %s", r.status, r.body)
	}
}

func TestPostAnswers(t *testing.T) {
	h := newHarness(t, Options{})
	h.must("PUT", "/bkt", "", "x-amz-acl: public-read-write")
	for _, tt := range []struct {
		field, value string
		status       int
		location     string
		body         string
	}{
		{"success_action_status", "200", 200, "/bkt/a%20b", ""},
		{"success_action_status", "204", 204, "/bkt/a%20b", ""},
		{"success_action_status", "404", 204, "/bkt/a%20b", ""},
		{
			"success_action_status", "201", 201, "/bkt/a%20b",
			xmlHeader + "<PostResponse><Location>URL/bkt/a%20b</Location><Bucket>bkt</Bucket><Key>a b</Key>" +
				"<ETag>&quot;5d41402abc4b2a76b9719d911017c592&quot;</ETag></PostResponse>",
		},
		{
			"success_action_redirect", "http://example.com/ok?x=1", 303,
			"http://example.com/ok?x=1&bucket=bkt&key=a+b&etag=%225d41402abc4b2a76b9719d911017c592%22", "",
		},
		{"redirect", "http://example.com", 303, "http://example.com?bucket=bkt&key=a+b&etag=%225d41402abc4b2a76b9719d911017c592%22", ""},
		{"success_action_redirect", "javascript:alert(1)", 204, "/bkt/a%20b", ""},
		{"success_action_redirect", "%zz", 204, "/bkt/a%20b", ""},
	} {
		r := h.post("/bkt", [3]string{"key", "", "a b"}, [3]string{tt.field, "", tt.value}, [3]string{"file", "f", "hello"})
		location := strings.TrimPrefix(r.header.Get("Location"), h.http.URL)
		body := strings.ReplaceAll(r.body, h.http.URL, "URL")
		if r.status != tt.status || location != tt.location || body != tt.body {
			t.Errorf("%s %s: got %d %s %s, want %d %s %s", tt.field, tt.value, r.status, location, body, tt.status, tt.location, tt.body)
		}
	}
}

func TestPostSigned(t *testing.T) {
	h := newHarness(t, Options{})
	h.must("PUT", "/bkt", "")
	const conds = `{"bucket": "bkt"}, ["starts-with", "$key", "foo"], ["starts-with", "$x-amz-meta-a", ""], ["content-length-range", 2, 5]`
	good := h.policyForm(conds)
	key := [3]string{"key", "", "foo.txt"}
	file := func(s string) [3]string { return [3]string{"file", "f", s} }
	form := func(signed [][3]string, more ...[3]string) [][3]string {
		return append(append([][3]string{}, signed...), more...)
	}
	bad := form(good)
	bad[2][2] = base64.StdEncoding.EncodeToString(make([]byte, 20))
	unknown := form(good)
	unknown[0][2] = "NOSUCHKEY"
	for _, tt := range []struct {
		name   string
		parts  [][3]string
		status int
		code   string
	}{
		{"good", form(good, key, file("hello")), 204, ""},
		{"at least", form(good, key, file("he")), 204, ""},
		{"too small", form(good, key, file("h")), 400, "EntityTooSmall"},
		{"too large", form(good, key, file("hello!")), 400, "EntityTooLarge"},
		{"other key", form(good, [3]string{"key", "", "bar"}, file("hello")), 403, "AccessDenied"},
		{"file name breaks out", form(good, [3]string{"key", "", "${filename}"}, file("hello")), 403, "AccessDenied"},
		{"extra field", form(good, key, [3]string{"acl", "", "public-read"}, file("hello")), 403, "AccessDenied"},
		{"other bucket", form(good, key, [3]string{"bucket", "", "other"}, file("hello")), 403, "AccessDenied"},
		{"bad signature", form(bad, key, file("hello")), 403, "SignatureDoesNotMatch"},
		{"unknown key", form(unknown, key, file("hello")), 403, "InvalidAccessKeyId"},
		{"no signature", form(good[:2], key, file("hello")), 400, "InvalidArgument"},
		{"no policy", form([][3]string{good[0], good[2]}, key, file("hello")), 400, "InvalidArgument"},
		{"policy alone", form(good[1:2], key, file("hello")), 400, "InvalidArgument"},
		{"no key", form(good, file("hello")), 400, "InvalidArgument"},
		{"not allowed to this user", form(h.user(bobKey).policyForm(conds), key, file("hello")), 403, "AccessDenied"},
		{"fields after the file do not count", form(good, file("hello"), key), 400, "InvalidArgument"},
		{"broken policy", form(h.policyForm(`{}`), key, file("hello")), 400, "InvalidPolicyDocument"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			h.must("DELETE", "/bkt/foo.txt", "")
			r := h.post("/bkt", tt.parts...)
			if r.status != tt.status || r.code() != tt.code {
				t.Fatalf("got %d %s, want %d %q", r.status, r.body, tt.status, tt.code)
			}
			want := 200
			if tt.status != 204 {
				want = 404
			}
			if r := h.do("GET", "/bkt/foo.txt", ""); r.status != want {
				t.Errorf("the object is %d, want %d", r.status, want)
			}
		})
	}
}

// A client library's form, signed with version 4, with a checksum, tags and metadata.
func TestPostVersion4(t *testing.T) {
	h := newHarness(t, Options{})
	h.must("PUT", "/bkt", "")
	const tags = "<Tagging><TagSet><Tag><Key>k</Key><Value>a b+c</Value></Tag></TagSet></Tagging>"
	p := minio.NewPostPolicy()
	for _, err := range []error{
		p.SetBucket("bkt"), p.SetKeyStartsWith("up/"), p.SetExpires(time.Now().Add(time.Minute)),
		p.SetContentLengthRange(1, 10), p.SetUserMetadata("colour", "red"), p.SetTagging(tags), p.SetContentType("text/x"),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	u, fields, err := h.client().PresignedPostPolicy(t.Context(), p)
	if err != nil {
		t.Fatal(err)
	}
	fields["key"] = "up/file"
	post := func(sum, content string) *response {
		var parts [][3]string
		for k, v := range fields {
			parts = append(parts, [3]string{k, "", v})
		}
		parts = append(parts, [3]string{"x-amz-checksum-sha256", "", sum}, [3]string{"file", "f", content})
		return h.post(u.RequestURI(), parts...)
	}
	const sum = "LPJNul+wow4m6DsqxbninhsWHlwfp0JecwQzYpOLmCQ=" // of hello
	if r := post(sum, "hello"); r.status != 204 || r.header.Get("X-Amz-Checksum-Sha256") != sum {
		t.Fatalf("%d %s %v", r.status, r.body, r.header)
	}
	if r := post(sum, "world"); r.code() != "BadDigest" {
		t.Errorf("other content: %d %s", r.status, r.body)
	}
	if r := post("sailorjerry", "hello"); r.status != 400 {
		t.Errorf("no checksum: %d %s", r.status, r.body)
	}
	if diff := cmp.Diff(tags, plain(h.must("GET", "/bkt/up/file?tagging", "").body)); diff != "" {
		t.Error(diff)
	}
	if r := h.must("GET", "/bkt/up/file", ""); r.body != "hello" || r.header.Get("Content-Type") != "text/x" {
		t.Errorf("%q %v", r.body, r.header)
	}
}

func TestHeadersOfForm(t *testing.T) {
	r := httptest.NewRequest(http.MethodPost, "/bkt", nil)
	for k, v := range map[string]string{
		"Content-Type": formType, "Content-MD5": "x", "X-Amz-Acl": "public-read", "Authorization": "x", "Referer": "http://a",
		"If-None-Match": "*", "Cache-Control": "max-age=0",
	} {
		r.Header.Set(k, v)
	}
	got, err := headersOfForm(r.Header, postform.Fields{
		"key": "k", "policy": "x", "acl": "private", "content-type": "text/plain", "x-amz-meta-a": "ü", "x-ignore-x": "\n",
		"submit": "\x00", "tagging": "<Tagging><TagSet><Tag><Key>a b</Key><Value>c=</Value></Tag></TagSet></Tagging>",
	})
	if err != nil {
		t.Fatal(err)
	}
	want := http.Header{
		"Referer": {"http://a"}, "X-Amz-Acl": {"private"}, "Content-Type": {"text/plain"}, "X-Amz-Meta-A": {"ü"},
		"X-Amz-Tagging": {"a+b=c%3D"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	for _, f := range []postform.Fields{
		{"x-amz-meta-a": "a\nb"},
		{"x-amz-meta-a b": "c"},
		{"acl": "private", "x-amz-acl": "public-read"},
		{"acl": "private\n"},
		{"tagging": "<Tagging/>"},
	} {
		if h, err := headersOfForm(r.Header, f); err == nil {
			t.Errorf("%v became %v", f, h)
		}
	}
}
