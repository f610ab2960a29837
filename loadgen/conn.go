package loadgen

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http/httputil"
	"net/url"
	"strconv"
	"sync"
	"time"
)

// conn is one HTTP/1.1 connection that is dialled when needed and kept. It speaks only what a load
// generator needs and costs a fraction of net/http's transport, which would otherwise be a third of all
// CPU in a small-object run. Not safe for concurrent use, but for interrupt.
type conn struct {
	addr    string
	tls     *tls.Config // nil for plain HTTP
	timeout time.Duration

	nc  net.Conn // changed by the owner only, and under mu, so that the owner reads it without
	br  *bufio.Reader
	buf []byte // copy buffer for bodies

	mu struct {
		sync.Mutex
		stopped bool
	}
}

func newConn(u *url.URL, insecure bool, timeout time.Duration) *conn {
	c := &conn{addr: u.Host, timeout: timeout, br: bufio.NewReaderSize(nil, 64<<10)}
	if u.Scheme == "https" {
		c.tls = &tls.Config{ServerName: u.Hostname(), InsecureSkipVerify: insecure, NextProtos: []string{"http/1.1"}}
	}
	if u.Port() == "" {
		c.addr = net.JoinHostPort(u.Hostname(), map[bool]string{true: "443", false: "80"}[c.tls != nil])
	}
	return c
}

// interrupt makes the request in flight, and every later one, fail at once.
func (c *conn) interrupt() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.mu.stopped = true
	if c.nc != nil {
		_ = c.nc.SetDeadline(time.Unix(1, 0)) // fails only on a closed connection, which is interrupted already
	}
}

func (c *conn) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.nc != nil {
		_ = c.nc.Close() // nothing was written that anyone waits for
		c.nc = nil
	}
}

// begin readies the connection for one request: dialled, and with its deadline set.
func (c *conn) begin(ctx context.Context) error {
	nc := c.nc
	if nc == nil {
		var err error
		if nc, err = c.dial(ctx); err != nil {
			return err
		}
		c.br.Reset(nc)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.nc = nc
	if c.mu.stopped {
		return context.Canceled
	}
	return nc.SetDeadline(time.Now().Add(c.timeout))
}

func (c *conn) dial(ctx context.Context) (net.Conn, error) {
	d := net.Dialer{Timeout: 10 * time.Second}
	nc, err := d.DialContext(ctx, "tcp", c.addr)
	if err != nil || c.tls == nil {
		return nc, err
	}
	tc := tls.Client(nc, c.tls)
	if err := tc.HandshakeContext(ctx); err != nil {
		return nil, errors.Join(err, nc.Close())
	}
	return tc, nil
}

// response is a status line and the headers a load generator looks at.
type response struct {
	status  int
	length  int64 // -1: chunked or until the connection closes
	chunked bool
	close   bool
	etag    []byte // valid until the body is read
}

// bodyWriter sends a request's body after its head; nil for none.
type bodyWriter func(w io.Writer) error

// maxResponse bounds what is kept of a response that is not an object's content.
const maxResponse = 16 << 20

// roundTrip sends head and body and reads one answer. sink gets the body of a 2xx answer piece by piece;
// with a nil sink the body is read and dropped. An answer other than 2xx is returned as a *statusError.
func (c *conn) roundTrip(head []byte, write bodyWriter, noBody bool, sink func(p []byte) error) (resp response, err error) {
	reuse := false
	defer func() {
		if !reuse {
			c.close()
		}
	}()
	_, werr := c.nc.Write(head)
	if werr == nil && write != nil {
		werr = write(c.nc)
	}
	// A server that refuses an upload answers before it has read the body: its answer says more than EPIPE.
	resp, err = c.readHead()
	if err != nil {
		if werr != nil {
			err = werr
		}
		return resp, err
	}
	if resp.status >= 300 {
		var msg []byte
		err := c.readBody(&resp, noBody, func(p []byte) error {
			msg = append(msg, p[:min(len(p), max(0, 4096-len(msg)))]...)
			return nil
		})
		reuse = err == nil && werr == nil && !resp.close
		return resp, newStatusError(resp.status, msg)
	}
	if werr != nil {
		return resp, werr
	}
	if err := c.readBody(&resp, noBody, sink); err != nil {
		return resp, err
	}
	reuse = !resp.close
	return resp, nil
}

func (c *conn) readHead() (response, error) {
	for {
		r, err := c.readOneHead()
		if err != nil || r.status >= 200 {
			return r, err
		}
	}
}

var errMalformed = errors.New("malformed HTTP response")

// maxHeaderLines bounds the head of an answer.
const maxHeaderLines = 200

func (c *conn) readOneHead() (r response, err error) {
	line, err := c.br.ReadSlice('\n')
	if err != nil {
		return r, err
	}
	if len(line) < 13 || !bytes.HasPrefix(line, []byte("HTTP/1.")) {
		return r, errMalformed
	}
	r.close = line[7] == '0'
	if r.status, err = strconv.Atoi(string(line[9:12])); err != nil || r.status < 100 {
		return r, errMalformed
	}
	r.length = -1
	for range maxHeaderLines {
		line, err = c.br.ReadSlice('\n')
		if err != nil {
			return r, err
		}
		line = bytes.TrimRight(line, "\r\n")
		if len(line) == 0 {
			return r, nil
		}
		i := bytes.IndexByte(line, ':')
		if i < 0 {
			return r, errMalformed
		}
		name, value := line[:i], bytes.TrimSpace(line[i+1:])
		switch len(name) { // cheaper than folding every name
		case len("ETag"):
			if bytes.EqualFold(name, []byte("etag")) {
				r.etag = append(r.etag[:0], value...)
			}
		case len("Connection"):
			if bytes.EqualFold(name, []byte("connection")) && bytes.EqualFold(value, []byte("close")) {
				r.close = true
			}
		case len("Content-Length"):
			if bytes.EqualFold(name, []byte("content-length")) {
				if r.length, err = strconv.ParseInt(string(value), 10, 64); err != nil || r.length < 0 {
					return r, errMalformed
				}
			}
		case len("Transfer-Encoding"):
			if bytes.EqualFold(name, []byte("transfer-encoding")) {
				r.chunked = bytes.EqualFold(value, []byte("chunked"))
			}
		}
	}
	return r, errMalformed
}

func (c *conn) readBody(r *response, noBody bool, sink func(p []byte) error) error {
	if noBody || r.status == 204 || r.status == 304 {
		return nil
	}
	if r.length < 0 && !r.chunked {
		r.close = true // the body ends with the connection
	}
	if r.chunked {
		cr := httputil.NewChunkedReader(c.br)
		if err := c.drain(cr, -1, sink); err != nil {
			return err
		}
		for { // trailers
			line, err := c.br.ReadSlice('\n')
			if err != nil {
				return err
			}
			if len(bytes.TrimRight(line, "\r\n")) == 0 {
				return nil
			}
		}
	}
	if r.length >= 0 && r.length <= int64(c.br.Buffered()) { // small and here already
		p, err := c.br.Peek(int(r.length))
		if err != nil {
			return err
		}
		if sink != nil && len(p) > 0 {
			if err := sink(p); err != nil {
				return err
			}
		}
		_, err = c.br.Discard(len(p))
		return err
	}
	return c.drain(c.br, r.length, sink)
}

// drain reads n bytes, or with -1 to the end.
func (c *conn) drain(from io.Reader, n int64, sink func(p []byte) error) error {
	if c.buf == nil {
		c.buf = make([]byte, 256<<10)
	}
	for n != 0 {
		p := c.buf
		if n > 0 && n < int64(len(p)) {
			p = p[:n]
		}
		k, err := from.Read(p)
		if k > 0 && sink != nil {
			if err := sink(p[:k]); err != nil {
				return err
			}
		}
		if n > 0 {
			n -= int64(k)
		}
		if err == io.EOF && n < 0 {
			return nil
		}
		if err == io.EOF && n > 0 {
			return io.ErrUnexpectedEOF
		}
		if err != nil && n != 0 {
			return err
		}
	}
	return nil
}

// statusError is an answer other than 2xx.
type statusError struct {
	status  int
	code    string // S3's error code, "" where the body held none
	message string
}

func (e *statusError) Error() string {
	s := strconv.Itoa(e.status)
	if e.code != "" {
		s += " " + e.code
	}
	if e.message != "" {
		s += ": " + e.message
	}
	return s
}

func newStatusError(status int, body []byte) *statusError {
	return &statusError{status: status, code: element(body, "Code"), message: element(body, "Message")}
}

// element returns the text of the first element called name, at most 200 bytes of it.
func element(doc []byte, name string) string {
	_, rest, ok := bytes.Cut(doc, []byte("<"+name+">"))
	if !ok {
		return ""
	}
	text, _, ok := bytes.Cut(rest, []byte("</"))
	if !ok {
		return ""
	}
	return string(text[:min(len(text), 200)])
}

// errorName is the name under which an error is counted.
func errorName(err error) string {
	var se *statusError
	var ne net.Error
	switch {
	case errors.As(err, &se) && se.code != "":
		return fmt.Sprintf("%d %s", se.status, se.code)
	case errors.As(err, &se):
		return strconv.Itoa(se.status)
	case errors.Is(err, errMismatch):
		return "content differs"
	case errors.As(err, &ne) && ne.Timeout():
		return "timeout"
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return "connection closed"
	case errors.As(err, &ne):
		return "network"
	}
	return "other"
}
