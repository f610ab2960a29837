package s3api

import (
	"bytes"
	"context"
	"encoding/xml"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"firn/auth"
	"firn/auth/policy"
	"firn/auth/sigv4"
	"firn/object/record"
	"firn/pace"
	"firn/s3api/s3doc"
	"firn/s3api/s3err"
)

// request is one request on its way through the server. It is used by one goroutine and reused afterwards:
// nothing may keep it.
type request struct {
	s     *Server
	w     http.ResponseWriter
	r     *http.Request
	ctx   context.Context
	start time.Time

	id     string // request id
	bucket string // "" at the service level
	key    string // "" at the bucket level
	vhost  bool   // the bucket came from the host name
	query  query
	op     string // AWS name of the operation
	action string // permission it needs
	who    *auth.Identity
	bkt    *record.Bucket
	body   io.Reader // the body: as it comes, after authenticate decoded and verified

	sig       *sigv4.Result   // how it was signed
	payload   *sigv4.Body     // body by its own type
	src       bodyReader      // the body as it comes from the connection
	bw        bodyWriter      // the body of a GET's response
	ask       auth.Request    // scratch of authorize
	decision  auth.Decision   // why the route's action was allowed
	asVersion *record.Version // version that conditions speak of, while authorize runs
	lookup    policy.Lookup   // rq.condition, bound once
	asPrefix  string          // s3:prefix where a missing key is asked about
	newTags   []record.Field  // tags the request would set
	nobody    auth.Identity   // the anonymous caller
	asked     bool            // decision was made
	user      *pace.User      // the caller's bounds; nil where there are none
	answered  time.Duration   // from the start until the response's header was sent

	status int
	code   string // S3 error code sent
	wrote  bool   // the response header is out
	abort  bool   // the connection must be broken
	size   int64  // of the object concerned, -1 where not known
	also   []Also // what access logs tell of beside
	in     int64  // bytes of body read
	out    int64  // bytes of body written

	h    http.Header
	vals [40]string // backing of response header values
	n    int
	buf  []byte // scratch for small responses
}

func (rq *request) begin(s *Server, w http.ResponseWriter, r *http.Request, start time.Time) {
	rq.s, rq.w, rq.r, rq.start, rq.ctx = s, w, r, start, r.Context()
	rq.h = w.Header()
	rq.id = s.newID()
	rq.op = "Unknown"
	rq.size = -1
	rq.who = &rq.nobody
	if r.Body == nil {
		r.Body = http.NoBody
	}
	rq.src = bodyReader{rq: rq, src: r.Body}
	rq.body = &rq.src
	rq.set("X-Amz-Request-Id", rq.id)
	rq.set("X-Amz-Id-2", hostID(rq.id))
	rq.set("Server", "Firn")
}

func (rq *request) reset() {
	q, b, lookup := rq.query[:0], rq.buf[:0], rq.lookup
	clear(rq.query)
	if cap(b) > smallBuffer {
		rq.s.keepPage(b)
		b = nil
	}
	*rq = request{query: q, buf: b, lookup: lookup}
}

// keepPage gives a large buffer to the next listing.
func (s *Server) keepPage(b []byte) {
	if cap(b) <= maxPageBuffer {
		s.pages.Put(&b)
	}
}

// Requests keep a small buffer; the large ones of listings go round among those that list.
const (
	smallBuffer   = 16 << 10
	maxPageBuffer = 2 << 20
	itemSize      = 384 // bytes that an item of a listing mostly fits in
)

// page returns an empty buffer for a document of items. The handler leaves it in rq.buf.
func (rq *request) page(items int) []byte {
	n := 1024 + items*itemSize
	if n <= cap(rq.buf) {
		return rq.buf[:0]
	}
	if n > smallBuffer {
		if p, ok := rq.s.pages.Get().(*[]byte); ok && cap(*p) >= n {
			return *p
		}
	}
	return make([]byte, 0, n)
}

// hostID derives the second id AWS sends from the first; it carries no more information.
func hostID(id string) string { return id }

// set sets a response header. key must be canonical. The value lives in the request until the header is out,
// which saves an allocation.
func (rq *request) set(key, value string) {
	if rq.n == len(rq.vals) {
		rq.h[key] = []string{value}
		return
	}
	rq.vals[rq.n] = value
	rq.h[key] = rq.vals[rq.n : rq.n+1 : rq.n+1]
	rq.n++
}

// header returns a request header. key must be canonical.
func (rq *request) header(key string) string {
	if v := rq.r.Header[key]; len(v) > 0 {
		return v[0]
	}
	return ""
}

// hasHeader reports whether a request header was sent, empty or not. key must be canonical.
func (rq *request) hasHeader(key string) bool { return len(rq.r.Header[key]) > 0 }

// writeHeader sends status and headers. Every response goes through here.
func (rq *request) writeHeader(status int) {
	rq.status, rq.wrote = status, true
	now := time.Now()
	if rq.answered = now.Sub(rq.start); rq.answered > rq.s.opt.StallTimeout/4 {
		// What took so long was not the client's doing.
		_ = http.NewResponseController(rq.w).SetWriteDeadline(now.Add(rq.s.opt.StallTimeout))
	}
	rq.w.WriteHeader(status)
}

// writeBody sends a whole response with a body that is at hand.
func (rq *request) writeBody(status int, contentType string, body []byte) error {
	rq.set("Content-Length", strconv.Itoa(len(body)))
	if contentType != "" {
		rq.set("Content-Type", contentType)
	}
	rq.writeHeader(status)
	if rq.r.Method == http.MethodHead {
		return nil
	}
	if rq.user != nil && len(body) > smallBuffer && rq.user.Wait(rq.ctx, len(body)) != nil {
		rq.abort = true // the client is gone
		return nil
	}
	n, err := rq.w.Write(body)
	rq.out += int64(n)
	if err != nil {
		rq.abort = true
	}
	return nil
}

// noContent sends status without a body.
func (rq *request) noContent(status int) error {
	if status != http.StatusNoContent {
		rq.set("Content-Length", "0")
	}
	rq.writeHeader(status)
	return nil
}

// xmlNamespace is the namespace of every document S3 sends.
const xmlNamespace = s3doc.Namespace

const xmlContentType = "application/xml"

// readBody reads the whole body, at most limit bytes.
func (rq *request) readBody(limit int64) ([]byte, error) {
	n := rq.payload.Length()
	if n > limit {
		return nil, s3err.New("MaxMessageLengthExceeded")
	}
	if n < 0 {
		n = bytes.MinRead
	}
	b := bytes.NewBuffer(make([]byte, 0, n+bytes.MinRead))
	if _, err := b.ReadFrom(io.LimitReader(rq.body, limit+1)); err != nil {
		return nil, err
	}
	if int64(b.Len()) > limit {
		return nil, s3err.New("MaxMessageLengthExceeded")
	}
	return b.Bytes(), nil
}

// readDocument reads the whole body, at most limit bytes, and compares it with the checksums sent with it.
func (rq *request) readDocument(limit int64) ([]byte, error) {
	b, err := rq.readBody(limit)
	if err != nil {
		return nil, err
	}
	_, err = rq.checkDocument(b)
	return b, err
}

// readXML reads the body, at most limit bytes, into v. An empty or malformed document is MalformedXML.
func (rq *request) readXML(v any, limit int64) error {
	b, err := rq.readDocument(limit)
	if err != nil {
		return err
	}
	return parseXML(b, v)
}

// parseXML decodes one document and refuses anything after it.
func parseXML(b []byte, v any) error {
	d := xml.NewDecoder(bytes.NewReader(b))
	if err := d.Decode(v); err != nil {
		return s3err.New("MalformedXML")
	}
	for {
		t, err := d.Token()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return s3err.New("MalformedXML")
		}
		if _, ok := t.(xml.StartElement); ok {
			return s3err.New("MalformedXML")
		}
	}
}

// query is the parsed query string, in order. The first value of a name counts.
type query []param

type param struct{ name, value string }

// Get returns the value of name, or "".
func (q query) Get(name string) string {
	for i := range q {
		if q[i].name == name {
			return q[i].value
		}
	}
	return ""
}

// Has reports whether name was sent, with a value or without.
func (q query) Has(name string) bool {
	for i := range q {
		if q[i].name == name {
			return true
		}
	}
	return false
}

// parseQuery appends the parameters of raw to q.
func parseQuery(q query, raw string) (query, error) {
	for raw != "" {
		var p string
		p, raw, _ = strings.Cut(raw, "&")
		if p == "" {
			continue
		}
		name, value, _ := strings.Cut(p, "=")
		var err error
		if strings.ContainsAny(p, "%+") {
			if name, err = url.QueryUnescape(name); err != nil {
				return q, s3err.New("InvalidURI")
			}
			if value, err = url.QueryUnescape(value); err != nil {
				return q, s3err.New("InvalidURI")
			}
		}
		q = append(q, param{name, value})
	}
	return q, nil
}

// parseTarget takes bucket, key and query from the request line and the host.
func (rq *request) parseTarget() (err error) {
	u := rq.r.URL
	if u.RawQuery != "" {
		if rq.query, err = parseQuery(rq.query[:0], u.RawQuery); err != nil {
			return err
		}
	}
	p := u.Path
	if p != "" && p[0] == '/' {
		p = p[1:]
	}
	if len(rq.s.opt.Domains) > 0 {
		if b := bucketFromHost(rq.r.Host, rq.s.opt.Domains); b != "" {
			rq.bucket, rq.key, rq.vhost = b, p, true
		}
	}
	if !rq.vhost {
		rq.bucket, rq.key, _ = strings.Cut(p, "/")
	}
	if rq.key != "" {
		if rq.bucket == "" {
			return s3err.New("InvalidBucketName").With("BucketName", "")
		}
		if !utf8.ValidString(rq.key) {
			return s3err.New("InvalidURI")
		}
	}
	return nil
}

// bucketFromHost returns the bucket part of a host name below one of domains, or "".
func bucketFromHost(host string, domains []string) string {
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	for _, d := range domains {
		if b, ok := strings.CutSuffix(host, "."+d); ok && b != "" {
			return b
		}
	}
	return ""
}
