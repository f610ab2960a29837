package sigv4

import (
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// maxAccessKey bounds an access key in bytes, maxRegion a region's name.
const (
	maxAccessKey = 128
	maxRegion    = 64
)

// authorization is a parsed Authorization header.
type authorization struct{ credential, signedHeaders, signature string }

// parseAuthorization parses what follows the algorithm's name: components in any order, separated by commas.
func parseAuthorization(s string) (authorization, error) {
	var a authorization
	if s == "" || s[0] != ' ' && s[0] != '\t' {
		return a, headerErrors.wrong("the authorization header requires three components: Credential, SignedHeaders, and Signature.")
	}
	for part := range strings.SplitSeq(s, ",") {
		part = strings.Trim(part, " \t")
		name, value, ok := strings.Cut(part, "=")
		if !ok {
			return a, headerErrors.wrong("the authorization component " + quote(part) + " is malformed.")
		}
		var dst *string
		switch name {
		case "Credential":
			dst = &a.credential
		case "SignedHeaders":
			dst = &a.signedHeaders
		case "Signature":
			dst = &a.signature
		default:
			return a, headerErrors.wrong("the authorization component " + quote(part) + " is malformed.")
		}
		if *dst != "" || value == "" {
			return a, headerErrors.wrong("the authorization component " + quote(part) + " is malformed.")
		}
		*dst = value
	}
	if a.credential == "" || a.signedHeaders == "" || a.signature == "" {
		return a, headerErrors.wrong("the authorization header requires three components: Credential, SignedHeaders, and Signature.")
	}
	return a, nil
}

// credential is a parsed credential scope.
type credential struct {
	accessKey string
	date      string // yyyyMMdd
	region    string
	scope     string // DATE/REGION/SERVICE/aws4_request
	token     string // of temporary credentials
}

// parseCredential parses ACCESSKEY/DATE/REGION/SERVICE/aws4_request; the access key may hold slashes. rawQuery
// is the request's: a client that does not know the region yet asks for a bucket's location in us-east-1.
func (v *Verifier) parseCredential(s, rawQuery string, src sourceErrors) (credential, error) {
	var c credential
	malformed := func() (credential, error) {
		return c, src.wrong(`the Credential is mal-formed; expecting "<YOUR-AKID>/YYYYMMDD/REGION/SERVICE/aws4_request".`)
	}
	rest := s
	var part [4]string // terminator, service, region, date
	for i := range part {
		j := strings.LastIndexByte(rest, '/')
		if j < 0 {
			return malformed()
		}
		part[i], rest = rest[j+1:], rest[:j]
	}
	c = credential{accessKey: rest, date: part[3], region: part[2]}
	if rest == "" || len(rest) > maxAccessKey || len(c.region) > maxRegion {
		return malformed()
	}
	c.scope = s[len(rest)+1:]
	if part[0] != terminator {
		return c, src.wrong("incorrect terminal " + quote(part[0]) + `. This endpoint uses "aws4_request".`)
	}
	if part[1] != v.service {
		return c, src.wrong("incorrect service " + quote(part[1]) + ". This endpoint belongs to " + quote(v.service) + ".")
	}
	if !validDate(c.date) {
		return c, src.wrong("incorrect date format " + quote(c.date) +
			`. This date in the credential must be in the format "yyyyMMdd".`)
	}
	if v.region != "" && c.region != v.region && !(c.region == DefaultRegion && hasParam(rawQuery, "location")) {
		return c, src.wrong("the region '"+clip(c.region)+"' is wrong; expecting '"+v.region+"'", Field{"Region", v.region})
	}
	return c, nil
}

func validDate(s string) bool {
	if len(s) != len(dateLayout) {
		return false
	}
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return false
		}
	}
	return true
}

// parseISO parses the ISO basic form, UTC, whole seconds, nothing else.
func parseISO(s string) (time.Time, error) {
	if len(s) != len(isoLayout) {
		return time.Time{}, strconv.ErrSyntax
	}
	return time.Parse(isoLayout, s)
}

// requestTime returns the time a request was signed at, also in ISO basic form: of X-Amz-Date, else of Date.
// Either may be in ISO basic form or in that of HTTP and mail.
func requestTime(h http.Header) (time.Time, string, error) {
	value := ""
	if x := h["X-Amz-Date"]; len(x) > 0 {
		value = x[0]
	} else if x := h["Date"]; len(x) > 0 {
		value = x[0]
	}
	if t, err := parseISO(value); err == nil {
		return t, value, nil
	}
	t, err := http.ParseTime(value)
	if err != nil {
		// Botocore writes the zone of Date as -0000.
		t, err = time.Parse(time.RFC1123Z, value)
	}
	t = t.UTC()
	if err != nil || t.Year() < 1 || t.Year() > 9999 {
		return t, "", errNoDate()
	}
	return t, t.Format(isoLayout), nil
}

type queryAuth uint8

const (
	queryPlain queryAuth = iota
	queryV4
	queryV2
)

// queryKind says which signature, if any, a raw query carries.
func queryKind(raw string) queryAuth {
	if raw == "" {
		return queryPlain
	}
	if hasParam(raw, "X-Amz-Algorithm") || hasParam(raw, "X-Amz-Signature") || hasParam(raw, "X-Amz-Credential") {
		return queryV4
	}
	if hasParam(raw, "AWSAccessKeyId") && hasParam(raw, "Signature") {
		return queryV2
	}
	return queryPlain
}

func hasParam(raw, name string) bool {
	for i := 0; ; {
		j := strings.Index(raw[i:], name)
		if j < 0 {
			return false
		}
		j += i
		i = j + len(name)
		if (j == 0 || raw[j-1] == '&') && (i == len(raw) || raw[i] == '=' || raw[i] == '&') {
			return true
		}
	}
}

// presigned is what a presigned query says.
type presigned struct {
	algorithm, credential, date, expires, signedHeaders, signature, sha256, token string
}

func parsePresigned(raw string) (presigned, error) {
	var p presigned
	for pair := range strings.SplitSeq(raw, "&") {
		name, value, _ := strings.Cut(pair, "=")
		if !strings.HasPrefix(name, "X-Amz-") {
			continue
		}
		var dst *string
		switch name[len("X-Amz-"):] {
		case "Algorithm":
			dst = &p.algorithm
		case "Credential":
			dst = &p.credential
		case "Date":
			dst = &p.date
		case "Expires":
			dst = &p.expires
		case "SignedHeaders":
			dst = &p.signedHeaders
		case "Signature":
			dst = &p.signature
		case "Content-Sha256":
			dst = &p.sha256
		case "Security-Token":
			dst = &p.token
		default:
			continue
		}
		v, err := url.QueryUnescape(value)
		if err != nil || *dst != "" {
			return p, queryError("The query parameter " + name + " is malformed or given twice.")
		}
		*dst = v
	}
	if p.algorithm == "" || p.credential == "" || p.date == "" || p.expires == "" || p.signedHeaders == "" || p.signature == "" {
		return p, queryError("Query-string authentication version 4 requires the X-Amz-Algorithm, X-Amz-Credential, " +
			"X-Amz-Signature, X-Amz-Date, X-Amz-SignedHeaders, and X-Amz-Expires parameters.")
	}
	if p.algorithm != algorithm {
		return p, queryError(`X-Amz-Algorithm only supports "AWS4-HMAC-SHA256"`)
	}
	return p, nil
}

// parseExpires parses X-Amz-Expires, seconds from 0 to MaxExpires; with 0 the request has expired as it is
// made. A life out of range is answered 403 as the Ceph suite expects, where AWS answers 400: the URL is
// refused either way.
func parseExpires(s string) (time.Duration, error) {
	n, err := strconv.ParseInt(s, 10, 64)
	var message string
	switch {
	case err != nil && !strings.HasSuffix(err.Error(), strconv.ErrRange.Error()):
		return 0, queryError("X-Amz-Expires should be a number")
	case err == nil && n < 0:
		message = "X-Amz-Expires must be non-negative"
	case err != nil || n > int64(MaxExpires/time.Second):
		message = "X-Amz-Expires must be less than a week (in seconds); " +
			"that is, the given X-Amz-Expires must be less than 604800 seconds"
	default:
		return time.Duration(n) * time.Second, nil
	}
	e := queryError(message)
	e.Status = 403
	return 0, e
}
