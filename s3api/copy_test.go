package s3api

import (
	"net/url"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParseCopySource(t *testing.T) {
	tests := []struct {
		in   string
		want copySource
		ok   bool
	}{
		{"bkt/key", copySource{"bkt", "key", ""}, true},
		{"/bkt/a/b", copySource{"bkt", "a/b", ""}, true},
		{"bkt/a%2Fb%20c%25?versionId=v%2B1", copySource{"bkt", "a/b c%", "v+1"}, true},
		{"bkt/a?b", copySource{"bkt", "a?b", ""}, true},
		{"bkt%2Fkey", copySource{"bkt", "key", ""}, true},
		{"bkt/a+b", copySource{"bkt", "a b", ""}, true},
		{"bkt", copySource{}, false},
		{"bkt/", copySource{}, false},
		{"", copySource{}, false},
		{"bkt/%zz", copySource{}, false},
		{"bkt/%ff", copySource{}, false},
		{"bkt/k?versionId=", copySource{}, false},
	}
	for _, tt := range tests {
		got, err := parseCopySource(tt.in)
		if (err == nil) != tt.ok || tt.ok && got != tt.want {
			t.Errorf("parseCopySource(%q) = %+v, %v", tt.in, got, err)
		}
	}
}

func FuzzParseCopySource(f *testing.F) {
	f.Add("/bkt/a%2Fb?versionId=1")
	f.Add("%")
	f.Fuzz(func(t *testing.T, in string) {
		c, err := parseCopySource(in)
		if err != nil {
			return
		}
		back := url.QueryEscape(c.bucket) + "/" + url.QueryEscape(c.key)
		if c.version != "" {
			back += "?versionId=" + url.QueryEscape(c.version)
		}
		again, err := parseCopySource(back)
		if err != nil || again != c {
			t.Errorf("%q: %+v, encoded %q: %+v, %v", in, c, back, again, err)
		}
	})
}

func TestCopyObject(t *testing.T) {
	h := newHarness(t, Options{})
	h.must("PUT", "/bkt", "")
	src := h.must("PUT", "/bkt/src", "content", "Content-Type: text/a", "x-amz-meta-a: 1", "x-amz-tagging: t=1",
		"x-amz-website-redirect-location: /x", "Cache-Control: no-store")
	etag := src.header.Get("ETag")
	const from = "x-amz-copy-source: /bkt/src"

	var v struct{ ETag, LastModified string }
	h.must("PUT", "/bkt/dst", "", from).parse(t, &v)
	if v.ETag != etag || v.LastModified == "" {
		t.Errorf("%+v", v)
	}
	look := func(key string) map[string]string {
		r := h.must("GET", "/bkt/"+key, "")
		if r.body != "content" {
			t.Errorf("%s: %q", key, r.body)
		}
		m := map[string]string{}
		for _, k := range []string{
			"Content-Type", "X-Amz-Meta-A", "X-Amz-Meta-B", "X-Amz-Tagging-Count", "X-Amz-Website-Redirect-Location",
			"Cache-Control",
		} {
			if s := r.header.Get(k); s != "" {
				m[k] = s
			}
		}
		return m
	}
	want := map[string]string{"Content-Type": "text/a", "X-Amz-Meta-A": "1", "X-Amz-Tagging-Count": "1", "Cache-Control": "no-store"}
	if d := cmp.Diff(want, look("dst")); d != "" {
		t.Errorf("kept: %s", d)
	}
	h.must("PUT", "/bkt/dst", "", from, "x-amz-metadata-directive: REPLACE", "x-amz-meta-b: 2", "Content-Type: text/b",
		"x-amz-tagging-directive: REPLACE", "x-amz-tagging: a=1&b=2")
	want = map[string]string{"Content-Type": "text/b", "X-Amz-Meta-B": "2", "X-Amz-Tagging-Count": "2"}
	if d := cmp.Diff(want, look("dst")); d != "" {
		t.Errorf("replaced: %s", d)
	}

	tests := []struct {
		name    string
		status  int
		code    string
		target  string
		headers []string
	}{
		{"to itself", 400, "InvalidRequest", "/bkt/src", nil},
		{"no such key", 404, "NoSuchKey", "/bkt/d", []string{"x-amz-copy-source: bkt/none"}},
		{"no such bucket", 404, "NoSuchBucket", "/bkt/d", []string{"x-amz-copy-source: nosuch/none"}},
		{"no such target", 404, "NoSuchBucket", "/nosuch/d", nil},
		{"no such version", 404, "NoSuchVersion", "/bkt/d", []string{"x-amz-copy-source: bkt/src?versionId=x"}},
		{"bad source", 400, "InvalidArgument", "/bkt/d", []string{"x-amz-copy-source: bkt"}},
		{"bad directive", 400, "InvalidArgument", "/bkt/d", []string{"x-amz-metadata-directive: MERGE"}},
		{"bad tag directive", 400, "InvalidArgument", "/bkt/d", []string{"x-amz-tagging-directive: x"}},
		{"if match", 412, "PreconditionFailed", "/bkt/d", []string{`x-amz-copy-source-if-match: "x"`}},
		{"if none match", 412, "PreconditionFailed", "/bkt/d", []string{"x-amz-copy-source-if-none-match: " + etag}},
		{
			"if modified", 412, "PreconditionFailed", "/bkt/d",
			[]string{"x-amz-copy-source-if-modified-since: " + src.header.Get("Date")},
		},
		{
			"if unmodified", 412, "PreconditionFailed", "/bkt/d",
			[]string{"x-amz-copy-source-if-unmodified-since: Mon, 02 Jan 2006 15:04:05 GMT"},
		},
		{"target exists", 412, "PreconditionFailed", "/bkt/dst", []string{"If-None-Match: *"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			hs := tt.headers
			if len(hs) == 0 || !strings.HasPrefix(hs[0], "x-amz-copy-source:") {
				hs = append([]string{from}, hs...)
			}
			h.refused(tt.status, tt.code, "PUT", tt.target, "", hs...)
		})
	}
	h.must("PUT", "/bkt/src", "", from, "x-amz-metadata-directive: REPLACE", "x-amz-meta-b: 3")
	if got := look("src")["X-Amz-Meta-B"]; got != "3" {
		t.Errorf("copied to itself: %q", got)
	}
	h.user(bobKey).must("PUT", "/bobs", "")
	h.user(bobKey).refused(403, "AccessDenied", "PUT", "/bobs/d", "", from)
}
