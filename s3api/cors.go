package s3api

import (
	"net/http"
	"slices"
	"strconv"
	"strings"

	"firn/s3api/s3err"
)

const (
	maxCORSRules = 100
	maxCORSBody  = 64 << 10 // bytes
)

var corsMethods = []string{"GET", "PUT", "POST", "DELETE", "HEAD"}

// corsRule is one rule of a bucket's CORS configuration.
type corsRule struct {
	origins []string // patterns with at most one *
	methods []string
	headers []string // patterns with at most one *, in lower case
	expose  []string
	maxAge  int64 // seconds, -1 where not set
}

// parseCORS reads and validates a CORSConfiguration; doc is what is stored and given back.
func parseCORS(body []byte) (rules []corsRule, doc []byte, err error) {
	root, err := parseDoc(body, "CORSConfiguration")
	if err != nil {
		return nil, nil, err
	}
	if err := root.only("CORSRule"); err != nil {
		return nil, nil, err
	}
	if len(root.kids) == 0 || len(root.kids) > maxCORSRules {
		return nil, nil, errXML
	}
	for _, n := range root.kids {
		r, err := parseCORSRule(n)
		if err != nil {
			return nil, nil, err
		}
		rules = append(rules, r)
	}
	return rules, root.render(), nil
}

// corsDoc is parseCORS for one who stores.
func corsDoc(body []byte) ([]byte, error) {
	_, doc, err := parseCORS(body)
	return doc, err
}

func parseCORSRule(n *xmlNode) (corsRule, error) {
	r := corsRule{maxAge: -1}
	err := n.only("ID", "AllowedOrigin", "AllowedMethod", "AllowedHeader", "ExposeHeader", "MaxAgeSeconds")
	if err != nil {
		return r, err
	}
	if id, _, err := n.str("ID"); err != nil {
		return r, err
	} else if len([]rune(id)) > maxRuleID {
		return r, s3err.Refuse("InvalidRequest", "The ID length should not exceed %d characters.", maxRuleID)
	}
	for _, k := range n.kids {
		v, err := k.word()
		if err != nil {
			return r, err
		}
		switch k.name {
		case "AllowedOrigin":
			if strings.Count(v, "*") > 1 {
				return r, s3err.Refuse("InvalidRequest", `AllowedOrigin "%s" can not have more than one wildcard.`, v)
			}
			r.origins = append(r.origins, v)
		case "AllowedMethod":
			if !slices.Contains(corsMethods, v) {
				return r, s3err.Refuse("InvalidRequest",
					"Found unsupported HTTP method in CORS config. Unsupported method is %s", v)
			}
			r.methods = append(r.methods, v)
		case "AllowedHeader":
			if strings.Count(v, "*") > 1 {
				return r, s3err.Refuse("InvalidRequest", `AllowedHeader "%s" can not have more than one wildcard.`, v)
			}
			r.headers = append(r.headers, strings.ToLower(v))
		case "ExposeHeader":
			if strings.Contains(v, "*") {
				return r, s3err.Refuse("InvalidRequest",
					`ExposeHeader "%s" contains wildcard. We currently do not support wildcard for ExposeHeader.`, v)
			}
			if !headerToken(v) {
				return r, s3err.Refuse("InvalidRequest", `ExposeHeader "%s" contains invalid character.`, v)
			}
			r.expose = append(r.expose, v)
		}
	}
	if len(r.origins) == 0 || len(r.methods) == 0 {
		return r, errXML
	}
	age, there, err := n.num("MaxAgeSeconds")
	if err != nil {
		return r, err
	}
	if there {
		if age < 0 || age > 1<<31-1 {
			return r, errXML
		}
		r.maxAge = age
	}
	return r, nil
}

// headerToken reports whether s can stand as a header's name, so that nothing stored can break a response apart.
func headerToken(s string) bool {
	for _, c := range []byte(s) {
		if c <= ' ' || c >= 0x7f || strings.IndexByte(`()<>@,;:\"/[]?={}`, c) >= 0 {
			return false
		}
	}
	return s != ""
}

// wildcardMatch matches s against a pattern that holds at most one *.
func wildcardMatch(pattern, s string) bool {
	before, after, star := strings.Cut(pattern, "*")
	if !star {
		return pattern == s
	}
	return len(s) >= len(before)+len(after) && strings.HasPrefix(s, before) && strings.HasSuffix(s, after)
}

// matchCORS returns the first rule that allows a request of the origin with a method and headers, and what
// Access-Control-Allow-Origin is to say.
func matchCORS(rules []corsRule, origin, method string, headers []string) (*corsRule, string) {
	for i := range rules {
		r := &rules[i]
		j := slices.IndexFunc(r.origins, func(p string) bool { return wildcardMatch(p, origin) })
		if j < 0 || !slices.Contains(r.methods, method) {
			continue
		}
		if slices.ContainsFunc(headers, func(h string) bool {
			return !slices.ContainsFunc(r.headers, func(p string) bool { return wildcardMatch(p, strings.ToLower(h)) })
		}) {
			continue
		}
		if r.origins[j] == "*" {
			return r, "*"
		}
		return r, origin
	}
	return nil, ""
}

// setCORS writes the headers that allow the request.
func setCORS(h http.Header, r *corsRule, allowOrigin string, asked []string) {
	h.Set("Access-Control-Allow-Origin", allowOrigin)
	h.Set("Access-Control-Allow-Methods", strings.Join(r.methods, ", "))
	if len(asked) > 0 {
		h.Set("Access-Control-Allow-Headers", strings.ToLower(strings.Join(asked, ", ")))
	}
	if len(r.expose) > 0 {
		h.Set("Access-Control-Expose-Headers", strings.Join(r.expose, ", "))
	}
	if r.maxAge >= 0 {
		h.Set("Access-Control-Max-Age", strconv.FormatInt(r.maxAge, 10))
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
			if !headerToken(f) {
				return nil, false
			}
			names = append(names, f)
		}
	}
	return names, true
}

// answerCORS adds the headers of a cross-origin answer to a request that is no preflight. As S3 does, a request that
// carries Access-Control-Request-Method is judged by it instead of its own method.
func answerCORS(w http.Header, r *http.Request, rules []corsRule) {
	origin := r.Header.Get("Origin")
	if origin == "" || len(rules) == 0 {
		return
	}
	method := r.Header.Get("Access-Control-Request-Method")
	if method == "" {
		method = r.Method
	}
	if rule, allow := matchCORS(rules, origin, method, nil); rule != nil {
		setCORS(w, rule, allow, nil)
	}
}

// preflight answers an OPTIONS request: it writes the headers to w or returns why not. found says that the bucket
// exists.
func preflight(w, r http.Header, rules []corsRule, found bool) error {
	origin := r.Get("Origin")
	if origin == "" {
		return s3err.Refuse("BadRequest", "Insufficient information. Origin request header needed.")
	}
	method := r.Get("Access-Control-Request-Method")
	if !slices.Contains(corsMethods, method) {
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
	rule, allow := matchCORS(rules, origin, method, asked)
	if rule == nil {
		return s3err.Refuse("AccessForbidden", "CORSResponse: This CORS request is not allowed. This is usually because the "+
			"evalution of Origin, request method / Access-Control-Request-Method or Access-Control-Request-Headers are "+
			"not whitelisted by the resource's CORS spec.")
	}
	setCORS(w, rule, allow, asked)
	return nil
}
