package s3api

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"firn/object"
)

func TestParseRange(t *testing.T) {
	tests := []struct {
		in             string
		size           int64
		ok, fails      bool
		offset, length int64
	}{
		{"bytes=0-0", 10, true, false, 0, 1},
		{"bytes=2-5", 10, true, false, 2, 4},
		{"bytes=2-", 10, true, false, 2, 8},
		{"bytes=-3", 10, true, false, 7, 3},
		{"bytes=-30", 10, true, false, 0, 10},
		{"bytes=5-99", 10, true, false, 5, 5},
		{"bytes=5-99999999999999999999999", 10, true, false, 5, 5},
		{"bytes=10-", 10, false, true, 0, 10},
		{"bytes=99999999999999999999999-", 10, false, true, 0, 10},
		{"bytes=-0", 10, false, true, 0, 10},
		{"bytes=0-", 0, false, true, 0, 0},
		{"bytes=-1", 0, false, true, 0, 0},
		{"bytes=5-2", 10, false, false, 0, 10},
		{"bytes=1-2,4-5", 10, false, false, 0, 10},
		{"bytes=a-b", 10, false, false, 0, 10},
		{"bytes=-", 10, false, false, 0, 10},
		{"bytes=", 10, false, false, 0, 10},
		{"lines=1-2", 10, false, false, 0, 10},
		{"bytes=+1-2", 10, false, false, 0, 10},
	}
	for _, tt := range tests {
		sp := span{length: tt.size}
		ok, err := parseRange(tt.in, tt.size, &sp)
		if ok != tt.ok || (err != nil) != tt.fails || sp.offset != tt.offset || sp.length != tt.length {
			t.Errorf("parseRange(%q, %d) = %v, %v, %+v", tt.in, tt.size, ok, err, sp)
		}
	}
}

func FuzzParseRange(f *testing.F) {
	f.Add("bytes=0-5", int64(10))
	f.Add("bytes=-5", int64(3))
	f.Add("bytes=9223372036854775807-", int64(1))
	f.Fuzz(func(t *testing.T, in string, size int64) {
		if size < 0 {
			size = 0
		}
		sp := span{length: size}
		ok, err := parseRange(in, size, &sp)
		if sp.offset < 0 || sp.length < 0 || sp.offset+sp.length > size {
			t.Fatalf("%q of %d: %+v", in, size, sp)
		}
		if ok && (err != nil || sp.length == 0) {
			t.Fatalf("%q of %d: %+v, %v", in, size, sp, err)
		}
	})
}

func TestGetRangesAndConditions(t *testing.T) {
	h := newHarness(t, Options{})
	h.must("PUT", "/bkt", "")
	put := h.must("PUT", "/bkt/k", "0123456789", "Content-Type: text/plain")
	h.must("PUT", "/bkt/empty", "")
	etag := put.header.Get("ETag")
	mod := h.must("HEAD", "/bkt/k", "").header.Get("Last-Modified")
	later := time.Now().Add(time.Hour).UTC().Format(http.TimeFormat)
	const before = "Mon, 02 Jan 2006 15:04:05 GMT"

	tests := []struct {
		name    string
		headers []string
		status  int
		code    string
		body    string
		rng     string
	}{
		{"whole", nil, 200, "", "0123456789", ""},
		{"range", []string{"Range: bytes=2-4"}, 206, "", "234", "bytes 2-4/10"},
		{"suffix", []string{"Range: bytes=-4"}, 206, "", "6789", "bytes 6-9/10"},
		{"past the end", []string{"Range: bytes=10-"}, 416, "InvalidRange", "", "bytes */10"},
		{"two ranges", []string{"Range: bytes=0-1,3-4"}, 200, "", "0123456789", ""},
		{"if-range etag", []string{"Range: bytes=2-4", "If-Range: " + etag}, 206, "", "234", "bytes 2-4/10"},
		{"if-range other", []string{"Range: bytes=2-4", `If-Range: "x"`}, 200, "", "0123456789", ""},
		{"if-range date", []string{"Range: bytes=2-4", "If-Range: " + mod}, 206, "", "234", "bytes 2-4/10"},
		{"match", []string{"If-Match: " + etag}, 200, "", "0123456789", ""},
		{"match any", []string{"If-Match: *"}, 200, "", "0123456789", ""},
		{"match in a list", []string{`If-Match: "a", ` + etag}, 200, "", "0123456789", ""},
		{"no match", []string{`If-Match: "x"`}, 412, "PreconditionFailed", "", ""},
		{"none match", []string{"If-None-Match: " + etag}, 304, "", "", ""},
		{"none match weak", []string{"If-None-Match: W/" + etag}, 304, "", "", ""},
		{"none match other", []string{`If-None-Match: "x"`}, 200, "", "0123456789", ""},
		{"modified", []string{"If-Modified-Since: " + before}, 200, "", "0123456789", ""},
		{"not modified", []string{"If-Modified-Since: " + mod}, 304, "", "", ""},
		{"unmodified", []string{"If-Unmodified-Since: " + later}, 200, "", "0123456789", ""},
		{"not unmodified", []string{"If-Unmodified-Since: " + before}, 412, "PreconditionFailed", "", ""},
		{"match beats unmodified", []string{"If-Match: " + etag, "If-Unmodified-Since: " + before}, 200, "", "0123456789", ""},
		{"none match beats modified", []string{"If-None-Match: " + etag, "If-Modified-Since: " + before}, 304, "", "", ""},
		{"none match other, not modified", []string{`If-None-Match: "x"`, "If-Modified-Since: " + mod}, 200, "", "0123456789", ""},
		{"bad date", []string{"If-Modified-Since: yesterday"}, 200, "", "0123456789", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := h.do("GET", "/bkt/k", "", tt.headers...)
			if r.status != tt.status || r.code() != tt.code {
				t.Fatalf("got %d %s", r.status, r.body)
			}
			if tt.status/100 == 2 && r.body != tt.body {
				t.Errorf("body %q", r.body)
			}
			if got := r.header.Get("Content-Range"); got != tt.rng {
				t.Errorf("Content-Range %q, want %q", got, tt.rng)
			}
			hd := h.do("HEAD", "/bkt/k", "", tt.headers...)
			if hd.status != tt.status || hd.body != "" {
				t.Errorf("HEAD: %d %q", hd.status, hd.body)
			}
			if tt.status/100 == 2 && hd.header.Get("Content-Length") != r.header.Get("Content-Length") {
				t.Errorf("HEAD length %q, GET %q", hd.header.Get("Content-Length"), r.header.Get("Content-Length"))
			}
			if tt.status == 304 && r.header.Get("ETag") == "" {
				t.Error("304 without ETag")
			}
		})
	}
	h.refused(416, "InvalidRange", "GET", "/bkt/empty", "", "Range: bytes=0-1")
	if r := h.must("GET", "/bkt/empty", ""); r.body != "" || r.header.Get("Content-Length") != "0" {
		t.Errorf("empty: %+v", r)
	}
}

func TestGetErrorsAndOverrides(t *testing.T) {
	h := newHarness(t, Options{})
	h.must("PUT", "/bkt", "", "x-amz-acl: public-read")
	h.must("PUT", "/bkt/k", "content", "x-amz-acl: public-read", "x-amz-meta-Some-Name: v")
	h.refused(404, "NoSuchBucket", "GET", "/nosuch/k", "")
	h.refused(404, "NoSuchKey", "GET", "/bkt/other", "")
	h.refused(400, "InvalidArgument", "GET", "/bkt/k?versionId=", "")
	h.refused(404, "NoSuchVersion", "GET", "/bkt/k?versionId=nonsense", "")
	h.refused(400, "InvalidRequest", "GET", "/bkt/k?partNumber=1", "", "Range: bytes=0-1")
	h.refused(400, "InvalidArgument", "GET", "/bkt/k?partNumber=0", "")
	h.refused(400, "InvalidPart", "GET", "/bkt/k?partNumber=2", "")
	h.refused(501, "NotImplemented", "GET", "/bkt/k?torrent", "")
	h.refused(400, "InvalidArgument", "GET", "/bkt/k", "", "x-amz-server-side-encryption-customer-algorithm: AES256")
	h.refused(400, "InvalidURI", "GET", "/bkt/%ff%fe", "")

	r := h.must("GET", "/bkt/k?response-content-type=a/b&response-cache-control=no-store&response-expires=0"+
		"&response-content-disposition=inline&response-content-language=en&response-content-encoding=x", "")
	for k, v := range map[string]string{
		"Content-Type": "a/b", "Cache-Control": "no-store", "Expires": "0", "Content-Disposition": "inline",
		"Content-Language": "en", "Content-Encoding": "x",
	} {
		if r.header.Get(k) != v {
			t.Errorf("%s: %q, want %q", k, r.header.Get(k), v)
		}
	}
	anon := h.user("")
	if r := anon.must("GET", "/bkt/k", ""); r.body != "content" {
		t.Errorf("anonymous: %q", r.body)
	}
	anon.refused(400, "InvalidRequest", "GET", "/bkt/k?response-content-type=a/b", "")
	anon.refused(404, "NoSuchKey", "GET", "/bkt/other", "")
	h.must("PUT", "/private", "")
	h.must("PUT", "/private/k", "secret")
	anon.refused(403, "AccessDenied", "GET", "/private/k", "")
	anon.refused(403, "AccessDenied", "GET", "/private/other", "")
	h.user(bobKey).refused(403, "AccessDenied", "GET", "/private/k", "")
	if r := h.do("HEAD", "/bkt/other", ""); r.status != 404 || r.body != "" {
		t.Errorf("HEAD of a missing key: %+v", r)
	}
}

func TestDeleteMarkers(t *testing.T) {
	h := newHarness(t, Options{})
	h.must("PUT", "/bkt", "")
	h.must("PUT", "/bkt?versioning", `<VersioningConfiguration><Status>Enabled</Status></VersioningConfiguration>`)
	v1 := h.must("PUT", "/bkt/k", "one").header.Get("X-Amz-Version-Id")
	d := h.must("DELETE", "/bkt/k", "")
	marker := d.header.Get("X-Amz-Version-Id")
	if d.status != 204 || d.header.Get("X-Amz-Delete-Marker") != "true" || marker == "" || marker == v1 {
		t.Fatalf("%+v", d)
	}
	r := h.refused(404, "NoSuchKey", "GET", "/bkt/k", "")
	if r.header.Get("X-Amz-Delete-Marker") != "true" || r.header.Get("X-Amz-Version-Id") != marker {
		t.Errorf("%v", r.header)
	}
	r = h.refused(405, "MethodNotAllowed", "GET", "/bkt/k?versionId="+marker, "")
	if r.header.Get("X-Amz-Delete-Marker") != "true" || r.header.Get("Allow") != "DELETE" || r.header.Get("Last-Modified") == "" {
		t.Errorf("%v", r.header)
	}
	if r := h.do("HEAD", "/bkt/k?versionId="+marker, ""); r.status != 405 {
		t.Errorf("HEAD of a marker: %d", r.status)
	}
	if r := h.must("GET", "/bkt/k?versionId="+v1, ""); r.body != "one" || r.header.Get("X-Amz-Version-Id") != v1 {
		t.Errorf("%+v", r)
	}
	r = h.must("DELETE", "/bkt/k?versionId="+marker, "")
	if r.header.Get("X-Amz-Delete-Marker") != "true" || r.header.Get("X-Amz-Version-Id") != marker {
		t.Errorf("%v", r.header)
	}
	if r := h.must("GET", "/bkt/k", ""); r.body != "one" {
		t.Errorf("after the marker went: %q", r.body)
	}
	var list struct {
		Versions []struct{ VersionId string } `xml:"Version"`
		Markers  []struct{ VersionId string } `xml:"DeleteMarker"`
	}
	h.must("GET", "/bkt?versions", "").parse(t, &list)
	if len(list.Versions) != 1 || list.Versions[0].VersionId != v1 || len(list.Markers) != 0 {
		t.Errorf("%+v", list)
	}
}

func TestMetadataOnTheWire(t *testing.T) {
	h := newHarness(t, Options{})
	h.must("PUT", "/bkt", "")
	h.must("PUT", "/bkt/k", "x", "X-Amz-Meta-FOO: bar", "X-Amz-Meta-two: a", "X-Amz-Meta-two: b", "X-Amz-Meta-u: grün",
		"Content-Encoding: aws-chunked,gzip", "Cache-Control: max-age=5", "Expires: whenever",
		"X-Amz-Website-Redirect-Location: /elsewhere", "X-Amz-Tagging: a=1&b=2")
	r := h.must("GET", "/bkt/k", "", "Accept-Encoding: identity")
	want := map[string]string{
		"X-Amz-Meta-Foo": "bar", "X-Amz-Meta-Two": "a,b", "X-Amz-Meta-U": "grün", "Content-Encoding": "gzip",
		"Cache-Control": "max-age=5", "Expires": "whenever", "X-Amz-Website-Redirect-Location": "/elsewhere",
		"X-Amz-Tagging-Count": "2", "Content-Type": "binary/octet-stream", "Accept-Ranges": "bytes",
	}
	for k, v := range want {
		if got := r.header.Get(k); got != v {
			t.Errorf("%s: %q, want %q", k, got, v)
		}
	}
	if r.header.Get("X-Amz-Version-Id") != "" {
		t.Error("version id in a bucket that never had versions")
	}
	h.refused(400, "MetadataTooLarge", "PUT", "/bkt/k", "", "X-Amz-Meta-A: "+strings.Repeat("x", object.MaxUserMeta))
	h.must("PUT", "/bkt/k", "", "X-Amz-Meta-A: "+strings.Repeat("x", object.MaxUserMeta-1))
}
