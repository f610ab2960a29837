package s3api

import (
	"net/http"
	"strconv"
	"strings"

	"firn/s3api/s3doc"
	"firn/s3api/s3err"
)

const maxCORSBody = 64 << 10 // bytes

// setCORS writes the headers that allow the request.
func setCORS(h http.Header, r *s3doc.CORSRule, allowOrigin string, asked []string) {
	h.Set("Access-Control-Allow-Origin", allowOrigin)
	h.Set("Access-Control-Allow-Methods", strings.Join(r.Methods, ", "))
	if len(asked) > 0 {
		h.Set("Access-Control-Allow-Headers", strings.ToLower(strings.Join(asked, ", ")))
	}
	if len(r.Expose) > 0 {
		h.Set("Access-Control-Expose-Headers", strings.Join(r.Expose, ", "))
	}
	if r.MaxAge >= 0 {
		h.Set("Access-Control-Max-Age", strconv.FormatInt(r.MaxAge, 10))
	}
	if allowOrigin != "*" {
		h.Set("Access-Control-Allow-Credentials", "true")
	}
	h.Add("Vary", "Origin, Access-Control-Request-Headers, Access-Control-Request-Method")
}

// askedHeaders splits Access-Control-Request-Headers. ok is false for names that cannot be a header's.
func askedHeaders(h http.Header) (names []string, ok bool) {
	for _, line := range h.Values("Access-Control-Request-Headers") {
		for f := range strings.SplitSeq(line, ",") {
			f = strings.TrimSpace(f)
			if f == "" {
				continue
			}
			if !s3doc.IsToken(f) {
				return nil, false
			}
			names = append(names, f)
		}
	}
	return names, true
}

// answerCORS adds the headers of a cross-origin answer to a request that is no preflight. As S3 does, a request that
// carries Access-Control-Request-Method is judged by it instead of its own method.
func answerCORS(w http.Header, r *http.Request, rules []s3doc.CORSRule) {
	origin := r.Header.Get("Origin")
	if origin == "" || len(rules) == 0 {
		return
	}
	method := r.Header.Get("Access-Control-Request-Method")
	if method == "" {
		method = r.Method
	}
	if rule, allow := s3doc.MatchCORS(rules, origin, method, nil); rule != nil {
		setCORS(w, rule, allow, nil)
	}
}

// preflight answers an OPTIONS request: it writes the headers to w or returns why not. found says that the bucket
// exists.
func preflight(w, r http.Header, rules []s3doc.CORSRule, found bool) error {
	origin := r.Get("Origin")
	if origin == "" {
		return s3err.Refuse("BadRequest", "Insufficient information. Origin request header needed.")
	}
	method := r.Get("Access-Control-Request-Method")
	if !s3doc.IsCORSMethod(method) {
		if method == "" {
			method = "null"
		}
		return s3err.Refuse("BadRequest", "Invalid Access-Control-Request-Method: %s", method)
	}
	asked, ok := askedHeaders(r)
	if !ok {
		return s3err.Refuse("BadRequest", "Invalid Access-Control-Request-Headers")
	}
	switch {
	case !found:
		return s3err.Refuse("AccessForbidden", "CORSResponse: Bucket not found")
	case len(rules) == 0:
		return s3err.Refuse("AccessForbidden", "CORSResponse: CORS is not enabled for this bucket.")
	}
	rule, allow := s3doc.MatchCORS(rules, origin, method, asked)
	if rule == nil {
		return s3err.Refuse("AccessForbidden", "CORSResponse: This CORS request is not allowed. This is usually because the "+
			"evalution of Origin, request method / Access-Control-Request-Method or Access-Control-Request-Headers are "+
			"not whitelisted by the resource's CORS spec.")
	}
	setCORS(w, rule, allow, asked)
	return nil
}
