package s3api

import (
	"encoding/xml"
	"fmt"
	"net/url"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
)

// listDoc is a decoded listing document of any kind.
type listDoc struct {
	Name, Prefix, Delimiter, Marker, NextMarker, KeyMarker, NextKeyMarker string
	NextVersionIdMarker, ContinuationToken, NextContinuationToken         string
	StartAfter, EncodingType                                              string
	MaxKeys, KeyCount                                                     int
	IsTruncated                                                           bool
	Contents                                                              []struct {
		Key, ETag, StorageClass string
		Size                    int64
		Owner                   *struct{ ID, DisplayName string }
	}
	Version []struct {
		Key, VersionId string
		IsLatest       bool
	}
	DeleteMarker   []struct{ Key, VersionId string }
	CommonPrefixes []struct{ Prefix string }
}

func (l *listDoc) names() []string {
	var out []string
	for _, c := range l.Contents {
		out = append(out, c.Key)
	}
	for _, p := range l.CommonPrefixes {
		out = append(out, p.Prefix)
	}
	return out
}

func (h *harness) list(query string) *listDoc {
	h.t.Helper()
	var l listDoc
	h.must("GET", "/bkt"+query, "").parse(h.t, &l)
	return &l
}

func TestListObjects(t *testing.T) {
	h := newHarness(t, Options{})
	h.must("PUT", "/bkt", "")
	for _, k := range []string{"a", "b/1", "b/2", "c d", "e+f", "g%25"} {
		h.must("PUT", "/bkt/"+url.PathEscape(strings.ReplaceAll(k, "%25", "%")), "12345")
	}
	tests := []struct {
		query string
		want  []string
	}{
		{"", []string{"a", "b/1", "b/2", "c d", "e+f", "g%"}},
		{"?prefix=b", []string{"b/1", "b/2"}},
		{"?delimiter=/", []string{"a", "c d", "e+f", "g%", "b/"}},
		{"?delimiter=/&encoding-type=url", []string{"a", "c%20d", "e%2Bf", "g%25", "b/"}},
		{"?marker=b/1", []string{"b/2", "c d", "e+f", "g%"}},
		{"?marker=b/&delimiter=/", []string{"c d", "e+f", "g%"}},
		{"?max-keys=0", nil},
		{"?max-keys=2", []string{"a", "b/1"}},
		{"?list-type=2&start-after=c", []string{"c d", "e+f", "g%"}},
		{"?list-type=2&prefix=none", nil},
	}
	for _, tt := range tests {
		if d := cmp.Diff(tt.want, h.list(tt.query).names()); d != "" {
			t.Errorf("%s: %s", tt.query, d)
		}
	}
	l := h.list("?max-keys=2&delimiter=/")
	if !l.IsTruncated || l.NextMarker != "b/" || l.MaxKeys != 2 || l.Name != "bkt" {
		t.Errorf("%+v", l)
	}
	if c := l.Contents[0]; c.Size != 5 || c.StorageClass != "STANDARD" || c.Owner == nil || c.Owner.DisplayName != "alice" ||
		c.Owner.ID != h.canonical(aliceKey) || c.ETag != `"827ccb0eea8a706c4c34a16891f84e7b"` {
		t.Errorf("%+v %+v", c, c.Owner)
	}
	if l := h.list("?list-type=2"); l.Contents[0].Owner != nil || l.KeyCount != 6 {
		t.Errorf("%+v", l)
	}
	if l := h.list("?list-type=2&fetch-owner=true"); l.Contents[0].Owner == nil {
		t.Error("no owner")
	}

	for _, q := range []string{"", "&delimiter=/", "&prefix=b"} {
		var all []string
		token := ""
		for range 10 {
			l := h.list("?list-type=2&max-keys=1" + q + token)
			all = append(all, l.names()...)
			if !l.IsTruncated {
				break
			}
			token = "&continuation-token=" + url.QueryEscape(l.NextContinuationToken)
		}
		if d := cmp.Diff(len(h.list("?list-type=2"+q).names()), len(all)); d != "" {
			t.Errorf("pages of one%s: %q", q, all)
		}
	}

	for _, q := range []string{
		"?max-keys=-1", "?max-keys=x", "?max-keys=2147483648", "?encoding-type=base64", "?list-type=2&continuation-token=x",
		"?list-type=2&continuation-token=1%21", "?versions&version-id-marker=x",
	} {
		h.refused(400, "InvalidArgument", "GET", "/bkt"+q, "")
	}
	h.refused(404, "NoSuchBucket", "GET", "/nosuch", "")
	h.user("").refused(403, "AccessDenied", "GET", "/bkt", "")
}

func TestListVersions(t *testing.T) {
	h := newHarness(t, Options{})
	h.must("PUT", "/bkt", "")
	h.must("PUT", "/bkt/k", "null")
	h.must("PUT", "/bkt?versioning", `<VersioningConfiguration><Status>Enabled</Status></VersioningConfiguration>`)
	var ids []string
	for range 3 {
		ids = append([]string{h.must("PUT", "/bkt/k", "x").header.Get("X-Amz-Version-Id")}, ids...)
	}
	ids = append(ids, "null")
	h.must("DELETE", "/bkt/other", "")
	l := h.list("?versions")
	if len(l.Version) != 4 || len(l.DeleteMarker) != 1 || l.DeleteMarker[0].Key != "other" || !l.Version[0].IsLatest {
		t.Fatalf("%+v", l)
	}
	var got []string
	query := "?versions&max-keys=1"
	for range 10 {
		l := h.list(query)
		for _, v := range l.Version {
			got = append(got, v.VersionId)
		}
		if !l.IsTruncated {
			break
		}
		query = "?versions&max-keys=1&key-marker=" + l.NextKeyMarker + "&version-id-marker=" + l.NextVersionIdMarker
	}
	if d := cmp.Diff(ids, got); d != "" {
		t.Error(d)
	}
}

func TestAppendEscaped(t *testing.T) {
	for _, s := range []string{
		"", "plain", `<a href="x">&'`, "tab\tnl\n", "\r", "ü€😀", "\x00\x01\x1f", "\uFFFE\uFFFF", "\xff\xfe", "a\x80b",
	} {
		b := string(appendEscaped(nil, s))
		if !utf8.ValidString(b) {
			t.Errorf("%q: %q is not UTF-8", s, b)
		}
		if strings.ContainsAny(b, "\r\x00\x01\x1f<") {
			t.Errorf("%q: %q", s, b)
		}
		if strings.Contains(b, "&#x") {
			continue // XML 1.0 has no way to hold these; see docs
		}
		var v struct {
			S string `xml:",chardata"`
		}
		if err := xml.Unmarshal([]byte("<x>"+b+"</x>"), &v); err != nil {
			t.Errorf("%q: %q: %v", s, b, err)
		} else if want := strings.NewReplacer("\uFFFE", "\uFFFD", "\uFFFF", "\uFFFD").Replace(strings.ToValidUTF8(s, "\uFFFD")); len(
			v.S) != len(want) && utf8.ValidString(s) {
			t.Errorf("%q came back as %q", s, v.S)
		}
	}
}

func TestAppendURLEncoded(t *testing.T) {
	const s = "a b/c+d%e~f-g_h.i*j(k)ü\n\x00"
	got := string(appendURLEncoded(nil, s))
	if want := "a%20b/c%2Bd%25e~f-g_h.i*j%28k%29%C3%BC%0A%00"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	if back, err := url.PathUnescape(got); err != nil || back != s {
		t.Errorf("%q, %v", back, err)
	}
}

func FuzzListTokens(f *testing.F) {
	f.Add(makeToken("key"))
	f.Add("1")
	f.Add("2YQ")
	f.Fuzz(func(t *testing.T, in string) {
		key, err := parseToken(in)
		if err == nil && (makeToken(key) != in || key == "" || !utf8.ValidString(key)) {
			t.Errorf("%q: %q", in, key)
		}
	})
}

func FuzzTagHeader(f *testing.F) {
	f.Add("a=1&b=2")
	f.Add("a=%zz&&=")
	f.Fuzz(func(t *testing.T, in string) {
		tags, err := parseTagHeader(in)
		if err != nil {
			return
		}
		seen := map[string]bool{}
		for _, tag := range tags {
			if tag.Name == "" || len(tag.Name) > 128*4 || seen[tag.Name] {
				t.Errorf("%q: %q", in, tags)
			}
			seen[tag.Name] = true
		}
	})
}

func TestDeleteObjects(t *testing.T) {
	h := newHarness(t, Options{})
	h.must("PUT", "/bkt", "")
	for _, k := range []string{"a", "b", "c&d"} {
		h.must("PUT", "/bkt/"+url.PathEscape(k), "x")
	}
	doc := func(quiet bool, keys ...string) string {
		s := fmt.Sprintf("<Delete><Quiet>%v</Quiet>", quiet)
		for _, k := range keys {
			s += "<Object><Key>" + string(appendEscaped(nil, k)) + "</Key></Object>"
		}
		return s + "</Delete>"
	}
	type result struct {
		Deleted []struct{ Key string }
		Error   []struct{ Key, Code string }
	}
	h.refused(400, "InvalidRequest", "POST", "/bkt?delete", doc(false, "a"))
	h.refused(400, "BadDigest", "POST", "/bkt?delete", doc(false, "a"), "Content-MD5: "+md5Of("x"))
	for _, d := range []string{"", "<x/>", "<Delete></Delete>", "<Delete><Object></Object></Delete>", doc(false, "a") + "x", "<Delete>"} {
		h.refused(400, "MalformedXML", "POST", "/bkt?delete", d, "Content-MD5: "+md5Of(d))
	}
	many := make([]string, 1001)
	for i := range many {
		many[i] = fmt.Sprint("k", i)
	}
	d := doc(false, many...)
	h.refused(400, "MalformedXML", "POST", "/bkt?delete", d, "Content-MD5: "+md5Of(d))
	d = doc(false, many[:1000]...)
	h.must("POST", "/bkt?delete", d, "Content-MD5: "+md5Of(d))

	d = doc(false, "a", "c&d", "missing")
	var r result
	h.must("POST", "/bkt?delete", d, "Content-MD5: "+md5Of(d)).parse(t, &r)
	if len(r.Deleted) != 3 || len(r.Error) != 0 || r.Deleted[1].Key != "c&d" {
		t.Errorf("%+v", r)
	}
	if d := cmp.Diff([]string{"b"}, h.list("").names()); d != "" {
		t.Error(d)
	}
	d = doc(true, "b")
	r = result{}
	h.user(bobKey).must("POST", "/bkt?delete", d, "Content-MD5: "+md5Of(d)).parse(t, &r)
	if len(r.Error) != 1 || r.Error[0].Code != "AccessDenied" || r.Error[0].Key != "b" {
		t.Errorf("another user: %+v", r)
	}
	if got := h.must("POST", "/bkt?delete", d, "Content-MD5: "+md5Of(d)); strings.Contains(got.body, "<Deleted>") {
		t.Errorf("quiet: %s", got.body)
	}
	if l := h.list(""); len(l.names()) != 0 {
		t.Errorf("left: %v", l.names())
	}
}
