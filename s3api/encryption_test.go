package s3api

import (
	"crypto/md5"
	"encoding/base64"
	"fmt"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"

	"firn/keys"
	"firn/s3api/sse"
)

// newKeys returns keys of a keyring with the keys one and two.
func newKeys(t *testing.T) (*keys.Keys, *keys.Keyring) {
	t.Helper()
	ring, err := keys.OpenKeyring(t.Context(), filepath.Join(t.TempDir(), "keyring"), keys.SecretText("secret secret"))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"one", "two"} {
		if err := ring.Create(t.Context(), name); err != nil {
			t.Fatal(err)
		}
	}
	k, err := keys.New(ring, keys.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return k, ring
}

// ownKey returns the headers of a client's own key.
func ownKey(prefix string, n byte) []string {
	key := []byte(strings.Repeat(string(rune('a'+n)), 32))
	sum := md5.Sum(key)
	return []string{
		prefix + "Algorithm: AES256",
		prefix + "Key: " + base64.StdEncoding.EncodeToString(key),
		prefix + "Key-Md5: " + base64.StdEncoding.EncodeToString(sum[:]),
	}
}

const (
	useSite = "x-amz-server-side-encryption: AES256"
	useKMS  = "x-amz-server-side-encryption: aws:kms"
	keyOne  = "x-amz-server-side-encryption-aws-kms-key-id: one"
)

// TestEncryption puts, reads, copies and assembles objects with every method.
func TestEncryption(t *testing.T) {
	k, _ := newKeys(t)
	h := newHarness(t, Options{Keys: k})
	h.must("PUT", "/bkt", "")
	own, other := ownKey(sse.Own, 0), ownKey(sse.Own, 1)
	methods := []struct {
		name        string
		write, read []string
		header      string // of responses
		want        string
	}{
		{name: "plain", header: "X-Amz-Server-Side-Encryption"},
		{name: "site", write: []string{useSite}, header: "X-Amz-Server-Side-Encryption", want: "AES256"},
		{name: "kms", write: []string{useKMS, keyOne}, header: "X-Amz-Server-Side-Encryption-Aws-Kms-Key-Id", want: "one"},
		{name: "kms default", write: []string{useKMS}, header: "X-Amz-Server-Side-Encryption-Aws-Kms-Key-Id", want: "default"},
		{name: "kms context", write: []string{
			useKMS, keyOne, "x-amz-server-side-encryption-bucket-key-enabled: true",
			"x-amz-server-side-encryption-context: " + base64.StdEncoding.EncodeToString([]byte(`{"a":"b"}`)),
		}, header: "X-Amz-Server-Side-Encryption-Bucket-Key-Enabled", want: "true"},
		{name: "own", write: own, read: own, header: "X-Amz-Server-Side-Encryption-Customer-Algorithm", want: "AES256"},
	}
	large := strings.Repeat("0123456789abcdef", 10_000)
	for i, m := range methods {
		for name, content := range map[string]string{"empty": "", "small": "content", "large": large} {
			path := fmt.Sprintf("/bkt/%s-%d", name, i)
			r := h.must("PUT", path, content, m.write...)
			if got := r.header.Get(m.header); got != m.want {
				t.Errorf("PUT %s %s: %s is %q", m.name, name, m.header, got)
			}
			sum := fmt.Sprintf("%q", fmt.Sprintf("%x", md5.Sum([]byte(content))))
			if plain := i < 2; plain != (r.header.Get("Etag") == sum) {
				t.Errorf("PUT %s %s: ETag %s", m.name, name, r.header.Get("Etag"))
			}
			got := h.must("GET", path, "", m.read...)
			if got.body != content || got.header.Get(m.header) != m.want || got.header.Get("Etag") != r.header.Get("Etag") {
				t.Errorf("GET %s %s: %d bytes, %v", m.name, name, len(got.body), got.header)
			}
			if head := h.must("HEAD", path, "", m.read...); head.header.Get(m.header) != m.want {
				t.Errorf("HEAD %s %s: %v", m.name, name, head.header)
			}
			h.must("GET", path+"?attributes", "", append([]string{"x-amz-object-attributes: ObjectSize"}, m.read...)...)
			if name == "large" {
				if r := h.must("GET", path, "", append([]string{"Range: bytes=65530-65545"}, m.read...)...); r.body != large[65530:65546] {
					t.Errorf("range of %s: %q", m.name, r.body)
				}
			}
			if m.read == nil {
				h.refused(400, "InvalidRequest", "GET", path, "", own...)
				continue
			}
			for _, method := range []string{"GET", "HEAD"} {
				code := map[string]string{"GET": "InvalidRequest"}[method]
				h.refused(400, code, method, path, "")
				h.refused(400, code, method, path, "", other...)
			}
			h.refused(400, "InvalidRequest", "GET", path+"?attributes", "", "x-amz-object-attributes: ObjectSize")
		}
	}
	for i, from := range methods {
		for _, to := range methods {
			for name, content := range map[string]string{"empty": "", "small": "content", "large": large} {
				headers := append([]string{fmt.Sprintf("x-amz-copy-source: /bkt/%s-%d", name, i)}, to.write...)
				if from.read != nil {
					h.refused(400, "InvalidRequest", "PUT", "/bkt/copy", "", headers...)
					headers = append(headers, ownKey(sse.Source, 0)...)
				}
				h.must("PUT", "/bkt/copy", "", headers...)
				if r := h.must("GET", "/bkt/copy", "", to.read...); r.body != content || r.header.Get(to.header) != to.want {
					t.Errorf("copy of %s %s as %s: %d bytes, %v", from.name, name, to.name, len(r.body), r.header)
				}
			}
		}
	}
	for _, m := range methods {
		var up struct{ UploadId string }
		h.must("POST", "/bkt/multi?uploads", "", m.write...).parse(t, &up)
		q := "/bkt/multi?uploadId=" + up.UploadId
		if m.read != nil {
			h.refused(400, "InvalidRequest", "PUT", q+"&partNumber=1", "x")
			h.refused(400, "InvalidRequest", "PUT", q+"&partNumber=1", "x", other...)
		} else {
			h.refused(400, "InvalidRequest", "PUT", q+"&partNumber=1", "x", other...)
		}
		whole := strings.Repeat(large, 33)
		e1 := h.must("PUT", q+"&partNumber=1", whole, m.read...).header.Get("Etag")
		source := append([]string{"x-amz-copy-source: /bkt/large-5"}, ownKey(sse.Source, 0)...)
		var part struct{ ETag string }
		h.must("PUT", q+"&partNumber=2", "", append(source, m.read...)...).parse(t, &part)
		doc := fmt.Sprintf("<CompleteMultipartUpload><Part><PartNumber>1</PartNumber><ETag>%s</ETag></Part><Part><PartNumber>2"+
			"</PartNumber><ETag>%s</ETag></Part></CompleteMultipartUpload>", e1, part.ETag)
		if m.read != nil {
			h.refused(400, "InvalidRequest", "POST", q, doc, other...)
		}
		if r := h.must("POST", q, doc); r.header.Get(m.header) != m.want {
			t.Errorf("completion of %s: %v", m.name, r.header)
		}
		if r := h.must("GET", "/bkt/multi", "", m.read...); r.body != whole+large {
			t.Errorf("upload of %s: %d bytes", m.name, len(r.body))
		}
		if r := h.must("GET", "/bkt/multi?partNumber=2", "", m.read...); r.body != large {
			t.Errorf("part of %s: %d bytes", m.name, len(r.body))
		}
	}
}

func TestEncryptionRefused(t *testing.T) {
	k, ring := newKeys(t)
	h := newHarness(t, Options{Keys: k})
	h.must("PUT", "/bkt", "")
	own := ownKey(sse.Own, 0)
	for _, tt := range []struct {
		name, code string
		headers    []string
	}{
		{"no such key", "KMS.NotFoundException", []string{useKMS, "x-amz-server-side-encryption-aws-kms-key-id: three"}},
		{"key without method", "InvalidArgument", []string{keyOne}},
		{"key with the other method", "InvalidArgument", []string{useSite, keyOne}},
		{"unknown method", "InvalidArgument", []string{"x-amz-server-side-encryption: aes:kms"}},
		{"context that is none", "InvalidArgument", []string{useKMS, "x-amz-server-side-encryption-context: x"}},
		{"both", "InvalidArgument", append([]string{useSite}, own...)},
		{"no key", "InvalidArgument", own[:1]},
		{"no MD5", "InvalidArgument", own[:2]},
		{"no algorithm", "InvalidArgument", own[1:]},
		{"another MD5", "InvalidArgument", append([]string{ownKey(sse.Own, 1)[2]}, own[:2]...)},
		{"short key", "InvalidArgument", []string{own[0], sse.Own + "Key: YWJj", own[2]}},
		{"other algorithm", "InvalidEncryptionAlgorithmError", append([]string{sse.Own + "Algorithm: AES128"}, own[1:]...)},
	} {
		r := h.refused(400, tt.code, "PUT", "/bkt/k", "x", tt.headers...)
		if strings.Contains(r.body, strings.TrimSpace(strings.SplitN(own[1], ":", 2)[1])) {
			t.Errorf("%s: the answer holds the key", tt.name)
		}
	}
	h.refused(501, "NotImplemented", "PUT", "/bkt/k", "x", "x-amz-server-side-encryption: aws:kms:dsse")
	h.refused(404, "NoSuchKey", "GET", "/bkt/k", "")
	h.must("PUT", "/bkt/k", "x", useKMS, keyOne)
	h.refused(400, "InvalidArgument", "GET", "/bkt/k", "", useKMS)
	if err := ring.Disable(t.Context(), "one"); err != nil {
		t.Fatal(err)
	}
	k.Forget()
	h.refused(400, "KMS.DisabledException", "GET", "/bkt/k", "")
	h.must("HEAD", "/bkt/k", "")
	if err := ring.Destroy(t.Context(), "one"); err != nil {
		t.Fatal(err)
	}
	h.refused(400, "KMS.KMSInvalidStateException", "GET", "/bkt/k", "")
	h.must("DELETE", "/bkt/k", "")

	// From another machine a key of one's own goes over TLS alone.
	for remote, want := range map[string]int{"192.0.2.1:1": 400, "127.0.0.1:1": 200, "[::1]:1": 200, "nonsense": 400} {
		r := httptest.NewRequest("PUT", "/", nil)
		r.RemoteAddr = remote
		for _, o := range own {
			name, value, _ := strings.Cut(o, ": ")
			r.Header.Set(name, value)
		}
		if _, err := sse.ReadCustomer(r, sse.Own); (err == nil) != (want == 200) {
			t.Errorf("from %s: %v", remote, err)
		}
	}
}

func TestBucketEncryption(t *testing.T) {
	k, _ := newKeys(t)
	h := newHarness(t, Options{Keys: k})
	h.must("PUT", "/bkt", "")
	doc := func(by string) string {
		return "<ServerSideEncryptionConfiguration><Rule><ApplyServerSideEncryptionByDefault>" + by +
			"</ApplyServerSideEncryptionByDefault></Rule></ServerSideEncryptionConfiguration>"
	}
	h.must("PUT", "/bkt?encryption", doc("<SSEAlgorithm>AES256</SSEAlgorithm>"))
	method := func(want string, headers ...string) {
		t.Helper()
		r := h.must("PUT", "/bkt/k", "content", headers...)
		if got := r.header.Get("X-Amz-Server-Side-Encryption"); got != want {
			t.Errorf("encrypted as %q, want %q", got, want)
		}
		if want != "" && h.must("GET", "/bkt/k", "").body != "content" {
			t.Error("other content")
		}
	}
	method("AES256")
	method("aws:kms", useKMS, keyOne)
	method("", ownKey(sse.Own, 0)...)
	h.must("PUT", "/bkt?encryption", doc("<SSEAlgorithm>aws:kms</SSEAlgorithm><KMSMasterKeyID>two</KMSMasterKeyID>"))
	method("aws:kms")
	if id := h.must("HEAD", "/bkt/k", "").header.Get("X-Amz-Server-Side-Encryption-Aws-Kms-Key-Id"); id != "two" {
		t.Errorf("key %q", id)
	}
	method("AES256", useSite)
	h.must("PUT", "/bkt/to", "", "x-amz-copy-source: /bkt/k")
	if id := h.must("HEAD", "/bkt/to", "").header.Get("X-Amz-Server-Side-Encryption-Aws-Kms-Key-Id"); id != "two" {
		t.Errorf("copied with key %q", id)
	}
	h.refused(501, "NotImplemented", "PUT", "/bkt?encryption", doc("<SSEAlgorithm>aws:kms:dsse</SSEAlgorithm>"))
	h.must("DELETE", "/bkt?encryption", "")
	method("")
	// A copy onto itself that only changes how it is encrypted is a change.
	h.must("PUT", "/bkt/k", "", "x-amz-copy-source: /bkt/k", useSite)
	if got := h.must("GET", "/bkt/k", ""); got.body != "content" || got.header.Get("X-Amz-Server-Side-Encryption") != "AES256" {
		t.Errorf("%v", got)
	}

	h.must("PUT", "/bkt?policy", `{"Version":"2012-10-17","Statement":[{"Effect":"Deny","Principal":"*","Action":"s3:PutObject",`+
		`"Resource":"arn:aws:s3:::bkt/*","Condition":{"Null":{"s3:x-amz-server-side-encryption":"true"}}}]}`)
	h.refused(403, "AccessDenied", "PUT", "/bkt/k", "x")
	h.must("PUT", "/bkt/k", "x", useSite)
}
