package s3api

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"firn/s3api/s3doc"
	"firn/s3api/s3err"
)

func corsXML(rules ...string) []byte {
	return []byte("<CORSConfiguration><CORSRule>" + strings.Join(rules, "</CORSRule><CORSRule>") +
		"</CORSRule></CORSConfiguration>")
}

// codeOf is the S3 code of an error, "" for nil.
func codeOf(err error) string {
	if err == nil {
		return ""
	}
	var e *s3err.Error
	if !errors.As(err, &e) {
		return "not an *Error: " + err.Error()
	}
	return e.Code
}

// suffixRules are the rules of the outside suite's test of origins.
var suffixRules = corsXML(
	"<AllowedOrigin>*suffix</AllowedOrigin><AllowedMethod>GET</AllowedMethod>",
	"<AllowedOrigin>start*end</AllowedOrigin><AllowedMethod>GET</AllowedMethod>",
	"<AllowedOrigin>prefix*</AllowedOrigin><AllowedMethod>GET</AllowedMethod>",
	"<AllowedOrigin>*.put</AllowedOrigin><AllowedMethod>PUT</AllowedMethod>",
)

func mustCORS(t *testing.T, doc []byte) []s3doc.CORSRule {
	t.Helper()
	rules, err := s3doc.ParseCORS(doc)
	if err != nil {
		t.Fatal(err)
	}
	return rules
}

func TestAnswerCORS(t *testing.T) {
	rules := mustCORS(t, suffixRules)
	tests := []struct{ method, origin, asked, allow string }{
		{"GET", "", "", ""},
		{"GET", "foo.suffix", "", "foo.suffix"},
		{"GET", "foo.bar", "", ""},
		{"GET", "foo.suffix.get", "", ""},
		{"GET", "startend", "", "startend"},
		{"GET", "start1end", "", "start1end"},
		{"GET", "0start12end", "", ""},
		{"GET", "prefix", "", "prefix"},
		{"GET", "bla.prefix", "", ""},
		{"PUT", "foo.suffix", "GET", "foo.suffix"},
		{"PUT", "foo.suffix", "PUT", ""},
		{"PUT", "foo.suffix", "", ""},
		{"PUT", "foo.put", "", "foo.put"},
		{"HEAD", "foo.put", "", ""},
	}
	for _, tt := range tests {
		r := httptest.NewRequest(tt.method, "/b/k", nil)
		if tt.origin != "" {
			r.Header.Set("Origin", tt.origin)
		}
		if tt.asked != "" {
			r.Header.Set("Access-Control-Request-Method", tt.asked)
		}
		h := make(http.Header)
		answerCORS(h, r, rules)
		if got := h.Get("Access-Control-Allow-Origin"); got != tt.allow {
			t.Errorf("%s from %q asking %q: allowed %q, want %q", tt.method, tt.origin, tt.asked, got, tt.allow)
		}
		if vary := h.Get("Vary"); (vary != "") != (tt.allow != "") {
			t.Errorf("%s from %q: Vary %q", tt.method, tt.origin, vary)
		}
	}
}

func TestPreflight(t *testing.T) {
	rules := mustCORS(t, corsXML(
		"<AllowedOrigin>http://a.example</AllowedOrigin><AllowedMethod>PUT</AllowedMethod><AllowedMethod>GET</AllowedMethod>"+
			"<AllowedHeader>X-Amz-*</AllowedHeader><AllowedHeader>content-type</AllowedHeader>"+
			"<ExposeHeader>ETag</ExposeHeader><ExposeHeader>x-amz-request-id</ExposeHeader><MaxAgeSeconds>600</MaxAgeSeconds>",
		"<AllowedOrigin>*</AllowedOrigin><AllowedMethod>GET</AllowedMethod>"))
	tests := []struct {
		name                    string
		origin, method, headers string
		rules                   []s3doc.CORSRule
		missing                 bool
		code                    string
		want                    map[string]string
	}{
		{
			name: "named origin", origin: "http://a.example", method: "PUT", headers: "X-AMZ-Date, Content-Type", rules: rules,
			want: map[string]string{
				"Access-Control-Allow-Origin": "http://a.example", "Access-Control-Allow-Methods": "PUT, GET",
				"Access-Control-Allow-Headers":  "x-amz-date, content-type",
				"Access-Control-Expose-Headers": "ETag, x-amz-request-id", "Access-Control-Max-Age": "600",
				"Access-Control-Allow-Credentials": "true",
				"Vary":                             "Origin, Access-Control-Request-Headers, Access-Control-Request-Method",
			},
		},
		{
			name: "any origin", origin: "http://b.example", method: "GET", rules: rules,
			want: map[string]string{
				"Access-Control-Allow-Origin": "*", "Access-Control-Allow-Methods": "GET",
				"Vary": "Origin, Access-Control-Request-Headers, Access-Control-Request-Method",
			},
		},
		{name: "header not allowed", origin: "http://a.example", method: "PUT", headers: "x-other", rules: rules, code: "AccessForbidden"},
		{name: "method not allowed", origin: "http://b.example", method: "PUT", rules: rules, code: "AccessForbidden"},
		{name: "no rules", origin: "http://b.example", method: "GET", code: "AccessForbidden"},
		{name: "no bucket", origin: "http://b.example", method: "GET", missing: true, code: "AccessForbidden"},
		{name: "no origin", method: "GET", rules: rules, code: "BadRequest"},
		{name: "no method", origin: "http://b.example", rules: rules, code: "BadRequest"},
		{name: "unknown method", origin: "http://b.example", method: "PATCH", rules: rules, code: "BadRequest"},
		{name: "bad header name", origin: "http://a.example", method: "PUT", headers: "x amz", rules: rules, code: "BadRequest"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r, w := make(http.Header), make(http.Header)
			for k, v := range map[string]string{
				"Origin": tt.origin, "Access-Control-Request-Method": tt.method, "Access-Control-Request-Headers": tt.headers,
			} {
				if v != "" {
					r.Set(k, v)
				}
			}
			err := preflight(w, r, tt.rules, !tt.missing)
			if codeOf(err) != tt.code {
				t.Fatalf("got %v, want %q", err, tt.code)
			}
			got := make(map[string]string)
			for k := range w {
				got[k] = w.Get(k)
			}
			if tt.want == nil {
				tt.want = map[string]string{}
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// What a preflight allows is what the rules say, and no header it writes can be split.
func FuzzCORS(f *testing.F) {
	f.Add(suffixRules, "foo.suffix", "GET", "x-amz-date")
	f.Add(corsXML("<AllowedOrigin>*</AllowedOrigin><AllowedMethod>GET</AllowedMethod><AllowedHeader>*</AllowedHeader>"),
		"http://a", "GET", "a, b")
	f.Fuzz(func(t *testing.T, doc []byte, origin, method, headers string) {
		rules, err := s3doc.ParseCORS(doc)
		if err != nil {
			if _, ok := errors.AsType[*s3err.Error](err); !ok {
				t.Fatalf("%v is no S3 error", err)
			}
			return
		}
		if strings.ContainsAny(origin+method+headers, "\r\n") {
			return // net/http refuses such a request
		}
		w := make(http.Header)
		err = preflight(w, http.Header{
			"Origin": {origin}, "Access-Control-Request-Method": {method}, "Access-Control-Request-Headers": {headers},
		}, rules, true)
		if err != nil {
			if len(w) > 0 {
				t.Errorf("refused with %v, but wrote %v", err, w)
			}
			return
		}
		if allow := w.Get("Access-Control-Allow-Origin"); allow != "*" && allow != origin {
			t.Errorf("allowed %q for %q", allow, origin)
		}
		if methods := w.Get("Access-Control-Allow-Methods"); !strings.Contains(methods, method) {
			t.Errorf("allowed %q for %q", methods, method)
		}
		for k, vs := range w {
			if strings.ContainsAny(strings.Join(vs, ""), "\r\n") {
				t.Errorf("%s: %q", k, vs)
			}
		}
	})
}
