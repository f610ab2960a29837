package s3doc

import (
	"slices"
	"strings"

	"firn/s3api/s3err"
)

const maxCORSRules = 100

// corsMethods are the methods a rule may name.
var corsMethods = []string{"GET", "PUT", "POST", "DELETE", "HEAD"}

// CORSRule is one rule of a bucket's CORS configuration.
type CORSRule struct {
	Origins []string // patterns with at most one *
	Methods []string
	Headers []string // patterns with at most one *, in lower case
	Expose  []string
	MaxAge  int64 // seconds, -1 where not set
}

// ParseCORS reads the rules of a CORSConfiguration, in its order.
func ParseCORS(body []byte) ([]CORSRule, error) {
	rules, _, err := readCORS(body)
	return rules, err
}

// CheckCORS validates a CORSConfiguration and returns it as it is stored and given back.
func CheckCORS(body []byte) ([]byte, error) {
	_, root, err := readCORS(body)
	if err != nil {
		return nil, err
	}
	return root.render(), nil
}

func readCORS(body []byte) (rules []CORSRule, root *node, err error) {
	root, err = parseDoc(body, "CORSConfiguration")
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
	return rules, root, nil
}

func parseCORSRule(n *node) (CORSRule, error) {
	r := CORSRule{MaxAge: -1}
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
			r.Origins = append(r.Origins, v)
		case "AllowedMethod":
			if !IsCORSMethod(v) {
				return r, s3err.Refuse("InvalidRequest",
					"Found unsupported HTTP method in CORS config. Unsupported method is %s", v)
			}
			r.Methods = append(r.Methods, v)
		case "AllowedHeader":
			if strings.Count(v, "*") > 1 {
				return r, s3err.Refuse("InvalidRequest", `AllowedHeader "%s" can not have more than one wildcard.`, v)
			}
			r.Headers = append(r.Headers, strings.ToLower(v))
		case "ExposeHeader":
			if strings.Contains(v, "*") {
				return r, s3err.Refuse("InvalidRequest",
					`ExposeHeader "%s" contains wildcard. We currently do not support wildcard for ExposeHeader.`, v)
			}
			if !IsToken(v) {
				return r, s3err.Refuse("InvalidRequest", `ExposeHeader "%s" contains invalid character.`, v)
			}
			r.Expose = append(r.Expose, v)
		}
	}
	if len(r.Origins) == 0 || len(r.Methods) == 0 {
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
		r.MaxAge = age
	}
	return r, nil
}

// IsCORSMethod reports whether a rule may name the method.
func IsCORSMethod(method string) bool { return slices.Contains(corsMethods, method) }

// IsToken reports whether s can stand as a header's name, so that nothing stored can break a response apart.
func IsToken(s string) bool {
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

// MatchCORS returns the first rule that allows a request of the origin with a method and headers, and what
// Access-Control-Allow-Origin is to say; nil where none does.
func MatchCORS(rules []CORSRule, origin, method string, headers []string) (*CORSRule, string) {
	for i := range rules {
		r := &rules[i]
		j := slices.IndexFunc(r.Origins, func(p string) bool { return wildcardMatch(p, origin) })
		if j < 0 || !slices.Contains(r.Methods, method) {
			continue
		}
		if slices.ContainsFunc(headers, func(h string) bool {
			return !slices.ContainsFunc(r.Headers, func(p string) bool { return wildcardMatch(p, strings.ToLower(h)) })
		}) {
			continue
		}
		if r.Origins[j] == "*" {
			return r, "*"
		}
		return r, origin
	}
	return nil, ""
}
