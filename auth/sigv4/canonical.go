package sigv4

import (
	"bytes"
	"encoding/hex"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
)

const (
	// maxSignedHeaders bounds the names in SignedHeaders.
	maxSignedHeaders = 100
	// maxKept is the capacity in bytes up to which a scratch buffer goes back to the pool.
	maxKept = 16 << 10
	// maxName is the longest header name looked at.
	maxName = 128
)

// scratch holds the buffers of one verification.
type scratch struct {
	buf    []byte   // canonical request
	sts    []byte   // string to sign
	mac    []byte   // input of the HMAC
	query  []byte   // encoded query parameters, not yet in order
	params []span   // of query
	names  []string // signed header names
	name   [maxName]byte
}

// span is one encoded parameter in scratch.query: name, at eq "=", value.
type span struct{ start, eq, end int }

// The pool recycles memory only; nothing is ever read out of a recycled buffer.
var scratchPool = sync.Pool{New: func() any { return new(scratch) }}

func getScratch() *scratch {
	s := scratchPool.Get().(*scratch)
	s.buf, s.sts = s.buf[:0], s.sts[:0]
	return s
}

func putScratch(s *scratch) {
	clear(s.names) // do not keep requests alive
	if cap(s.buf) > maxKept || cap(s.query) > maxKept || cap(s.sts) > maxKept || len(s.params) > maxKept/16 {
		return
	}
	scratchPool.Put(s)
}

// splitSigned splits SignedHeaders into s.names and checks that it names the host and every x-amz-* header
// of the request: a header that can change what a request does must not be unsigned.
func (s *scratch) splitSigned(h http.Header, signed string, t Type) error {
	s.names = s.names[:0]
	host := false
	for name := range strings.SplitSeq(signed, ";") {
		if name == "" || len(name) > maxName || len(s.names) == maxSignedHeaders {
			if t == Query {
				return queryError("X-Amz-SignedHeaders is malformed.")
			}
			return headerErrors.wrong("the authorization component " + quote("SignedHeaders="+signed) + " is malformed.")
		}
		if name == "host" {
			host = true
		}
		s.names = append(s.names, name)
	}
	if !host {
		return errNotSigned("host")
	}
	var missing []string
	for name := range h {
		if strings.HasPrefix(name, "X-Amz-") && !s.signs(name) {
			// A presigned URL is often made without knowing the payload; its hash is still checked.
			if t == Query && name == "X-Amz-Content-Sha256" {
				continue
			}
			missing = append(missing, strings.ToLower(name))
		}
	}
	if missing != nil {
		slices.Sort(missing)
		return errNotSigned(strings.Join(missing, ", "))
	}
	return nil
}

func (s *scratch) signs(name string) bool {
	for _, n := range s.names {
		if len(n) == len(name) && strings.EqualFold(n, name) {
			return true
		}
	}
	return false
}

// canonical fills s.buf with the canonical request. raw takes path and parameters in the form they were
// sent instead of S3's encoding of them.
func (s *scratch) canonical(r *http.Request, signedHeaders, payloadHash string, presigned, raw bool) {
	b := append(s.buf[:0], r.Method...)
	b = append(b, '\n')
	switch {
	case r.URL.Path == "":
		b = append(b, '/')
	case raw:
		b = append(b, r.URL.EscapedPath()...)
	default:
		b = appendPath(b, r.URL.Path)
	}
	b = append(b, '\n')
	b = s.appendQuery(b, r.URL.RawQuery, presigned, raw)
	b = append(b, '\n')
	for _, name := range s.names {
		b = append(b, name...)
		b = append(b, ':')
		b = s.appendValues(b, r, name)
		b = append(b, '\n')
	}
	b = append(b, '\n')
	b = append(b, signedHeaders...)
	b = append(b, '\n')
	s.buf = append(b, payloadHash...)
}

// appendValues appends a header's values, trimmed, runs of blanks made one, joined by commas.
func (s *scratch) appendValues(b []byte, r *http.Request, name string) []byte {
	// Looking the name up through bytes in canonical form costs no allocation.
	n := s.name[:len(name)]
	upper := true
	for i := range len(name) {
		c := name[i]
		switch {
		case upper && 'a' <= c && c <= 'z':
			c -= 'a' - 'A'
		case !upper && 'A' <= c && c <= 'Z':
			c += 'a' - 'A'
		}
		n[i] = c
		upper = c == '-'
	}
	values := r.Header[string(n)]
	if len(values) == 0 {
		// net/http takes these out of the header.
		switch name {
		case "host":
			return appendTrimmed(b, r.Host)
		case "content-length":
			if r.ContentLength >= 0 {
				return strconv.AppendInt(b, r.ContentLength, 10)
			}
		case "transfer-encoding":
			return append(b, strings.Join(r.TransferEncoding, ",")...)
		}
		return b
	}
	for i, v := range values {
		if i > 0 {
			b = append(b, ',')
		}
		b = appendTrimmed(b, v)
	}
	return b
}

func appendTrimmed(b []byte, v string) []byte {
	v = strings.Trim(v, " \t")
	if !strings.Contains(v, "  ") && strings.IndexByte(v, '\t') < 0 {
		return append(b, v...)
	}
	blank := false
	for i := range len(v) {
		if v[i] == ' ' || v[i] == '\t' {
			blank = true
			continue
		}
		if blank {
			b = append(b, ' ')
			blank = false
		}
		b = append(b, v[i])
	}
	return b
}

// appendQuery appends the parameters in S3's encoding, ordered by name and value, without X-Amz-Signature
// in a presigned query.
func (s *scratch) appendQuery(b []byte, raw string, presigned, asSent bool) []byte {
	if raw == "" {
		return b
	}
	q, params := s.query[:0], s.params[:0]
	for pair := range strings.SplitSeq(raw, "&") {
		if pair == "" {
			continue
		}
		name, value, _ := strings.Cut(pair, "=")
		if presigned && name == "X-Amz-Signature" {
			continue
		}
		p := span{start: len(q)}
		if asSent {
			q = append(q, name...)
		} else {
			q = appendParam(q, name)
		}
		p.eq = len(q)
		q = append(q, '=')
		if asSent {
			q = append(q, value...)
		} else {
			q = appendParam(q, value)
		}
		p.end = len(q)
		params = append(params, p)
	}
	if len(params) > 1 {
		slices.SortStableFunc(params, func(x, y span) int {
			if c := bytes.Compare(q[x.start:x.eq], q[y.start:y.eq]); c != 0 {
				return c
			}
			return bytes.Compare(q[x.eq:x.end], q[y.eq:y.end])
		})
	}
	for i, p := range params {
		if i > 0 {
			b = append(b, '&')
		}
		b = append(b, q[p.start:p.end]...)
	}
	s.query, s.params = q, params
	return b
}

const upperHex = "0123456789ABCDEF"

// unreserved reports whether AWS leaves c unencoded.
func unreserved(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '-' || c == '_' || c == '.' || c == '~'
}

func appendEncoded(b []byte, c byte) []byte {
	if unreserved(c) {
		return append(b, c)
	}
	return append(b, '%', upperHex[c>>4], upperHex[c&15])
}

// appendPath encodes a decoded path once, leaving slashes. S3 neither normalises nor encodes twice.
func appendPath(b []byte, path string) []byte {
	for i := range len(path) {
		if path[i] == '/' {
			b = append(b, '/')
			continue
		}
		b = appendEncoded(b, path[i])
	}
	return b
}

// appendParam decodes and encodes one part of a query. An escape that is none stands for itself.
func appendParam(b []byte, s string) []byte {
	for i := 0; i < len(s); i++ {
		c := s[i]
		switch c {
		case '+':
			c = ' '
		case '%':
			if i+2 < len(s) {
				hi, lo := hexDigit(s[i+1]), hexDigit(s[i+2])
				if hi < 16 && lo < 16 {
					c = hi<<4 | lo
					i += 2
				}
			}
		}
		b = appendEncoded(b, c)
	}
	return b
}

// hexDigit returns the value of a hex digit of either case, or 16.
func hexDigit(c byte) byte {
	switch {
	case '0' <= c && c <= '9':
		return c - '0'
	case 'a' <= c && c <= 'f':
		return c - 'a' + 10
	case 'A' <= c && c <= 'F':
		return c - 'A' + 10
	}
	return 16
}

// decodeHex decodes lower-case hex of exactly twice dst's length.
func decodeHex[T string | []byte](dst []byte, s T) bool {
	if len(s) != 2*len(dst) {
		return false
	}
	for i := range dst {
		a, b := s[2*i], s[2*i+1]
		hi, lo := hexDigit(a), hexDigit(b)
		if hi > 15 || lo > 15 || 'A' <= a && a <= 'F' || 'A' <= b && b <= 'F' {
			return false
		}
		dst[i] = hi<<4 | lo
	}
	return true
}

func appendHex(b, src []byte) []byte { return hex.AppendEncode(b, src) }
