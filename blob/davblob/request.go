package davblob

import (
	"context"
	"crypto/tls"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"path"
	"strconv"
	"strings"
	"time"

	"github.com/icholy/digest"

	"firn"
	"firn/blob/httpbody"
	"firn/blob/layout"
)

const (
	// maxListing bounds the answer that lists one directory: some hundred bytes a file.
	maxListing = 1 << 30
	// drain is how much of an answer nobody wants is read, so that its connection can be used again.
	drain = 64 << 10
)

// request is what to ask for.
type request struct {
	method, path string // the path is below the root
	header       map[string]string
	size         int64
	open         func() (io.ReadCloser, error) // nil where nothing is sent
}

// do sends a request, again with credentials where the server wants them, and returns any answer but 401. The caller
// closes the answer's body. The source is closed when it returns.
func (p *place) do(ctx context.Context, r request) (*http.Response, error) {
	p.mu.Lock()
	known := p.mu.known
	p.mu.Unlock()
	if r.open != nil && !known {
		// Else the content goes out twice.
		resp, err := p.do(ctx, request{method: "PROPFIND", header: map[string]string{"Depth": "0"}})
		if err != nil {
			return nil, err
		}
		discard(resp)
	}
	asked, locked := 0, 0
	for {
		req, err := p.request(ctx, r)
		if err != nil {
			return nil, err
		}
		resp, err := p.send(req, r)
		if err != nil {
			return nil, p.lost(ctx, err)
		}
		switch {
		case resp.StatusCode == http.StatusUnauthorized:
			discard(resp)
			if err := p.learn(resp.Header, req.Header.Get("Authorization")); err != nil {
				return nil, err
			}
			if asked++; asked == 3 {
				return nil, p.denied()
			}
		case resp.StatusCode == http.StatusLocked && locked < looks:
			// Another request moves the file; servers on Go's WebDAV package do not let one wait for that.
			discard(resp)
			locked++
			if !pause(ctx, between) {
				return nil, p.lost(ctx, ctx.Err())
			}
		default:
			p.mu.Lock()
			p.mu.known = true
			p.mu.Unlock()
			return resp, nil
		}
	}
}

func (p *place) denied() error {
	return firn.NewError(firn.Denied, fmt.Sprintf("the server does not let %q in with this password", p.user))
}

func (p *place) request(ctx context.Context, r request) (*http.Request, error) {
	req, err := http.NewRequestWithContext(ctx, r.method, p.url(r.path), nil)
	if err != nil {
		return nil, invalid("the URL cannot be asked for")
	}
	for name, value := range r.header {
		req.Header.Set(name, value)
	}
	return req, p.authorize(req)
}

// send sends a request with what it is to carry.
func (p *place) send(req *http.Request, r request) (*http.Response, error) {
	if r.open == nil {
		return p.http.Do(req)
	}
	src, err := r.open()
	if err != nil {
		return nil, &sourceError{err}
	}
	body := httpbody.New(src, r.size)
	if r.size == 0 {
		// The transport would look for a first byte by itself; an error has to be found before.
		_, err = io.Copy(io.Discard, body)
	} else {
		req.Body, req.ContentLength = io.NopCloser(body), r.size
	}
	var resp *http.Response
	if err == nil {
		resp, err = p.http.Do(req)
	}
	if e := body.End(); e != nil && body.Err() == nil {
		err = errors.Join(err, &sourceError{e})
	}
	if e := body.Err(); e != nil {
		err = &sourceError{e}
	}
	if err != nil && resp != nil {
		discard(resp)
	}
	if err != nil {
		return nil, err
	}
	return resp, nil
}

// sourceError is what the caller's source failed with.
type sourceError struct{ error }

func (s *sourceError) Unwrap() error { return s.error }

// authorize adds what the server asked for before.
func (p *place) authorize(req *http.Request) error {
	p.mu.Lock()
	basic, challenge := p.mu.basic, p.mu.challenge
	p.mu.count++
	count := p.mu.count
	p.mu.Unlock()
	switch {
	case challenge != nil:
		cred, err := digest.Digest(challenge, digest.Options{
			Method: req.Method, URI: req.URL.RequestURI(), Count: count, Username: p.user, Password: p.pass,
		})
		if err != nil {
			return firn.NewError(firn.Unsupported, "the server asks for a kind of digest that is not known")
		}
		req.Header.Set("Authorization", cred.String())
	case basic:
		req.SetBasicAuth(p.user, p.pass)
	}
	return nil
}

// learn reads how the server wants to be asked. It fails where asking again cannot help; sent is what was sent already.
func (p *place) learn(h http.Header, sent string) error {
	if p.user == "" {
		return firn.NewError(firn.Denied, "the server asks for a user and a password")
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if c, err := digest.FindChallenge(h); err == nil {
		p.mu.challenge, p.mu.count = c, 0
		return nil // also after one that is too old
	}
	for _, v := range h.Values("WWW-Authenticate") {
		if scheme, _, _ := strings.Cut(v, " "); !strings.EqualFold(scheme, "basic") {
			continue
		}
		p.mu.basic = true
		if sent != "" {
			return p.denied()
		}
		return nil
	}
	return firn.NewError(firn.Denied, "the server asks for neither basic nor digest authentication")
}

// lost gives a failure to get an answer its kind.
func (p *place) lost(ctx context.Context, err error) error {
	var known *firn.Error
	var src *sourceError
	switch {
	case p.ctx.Err() != nil:
		return &firn.Error{Kind: firn.Invalid, Err: errClosed}
	case ctx.Err() != nil:
		return &firn.Error{Kind: firn.Unavailable, Err: ctx.Err()}
	case errors.As(err, &src):
		return src.error
	case errors.As(err, &known):
		return err
	}
	var at *url.Error
	if errors.As(err, &at) {
		err = at.Err // the URL says again what is known
	}
	kind := firn.Unavailable
	var verify *tls.CertificateVerificationError
	if errors.As(err, &verify) {
		kind = firn.Denied
	}
	return &firn.Error{Kind: kind, Err: err}
}

// refused is the error for a status that is no success.
func refused(resp *http.Response) error {
	kind := firn.Internal
	switch s := resp.StatusCode; {
	case s == http.StatusNotFound, s == http.StatusGone:
		kind = firn.NotFound
	case s == http.StatusForbidden, s == http.StatusProxyAuthRequired:
		kind = firn.Denied
	case s == http.StatusConflict:
		kind = firn.Conflict
	case s == http.StatusPreconditionFailed:
		kind = firn.Precondition
	case s == http.StatusInsufficientStorage:
		kind = firn.NoSpace
	case s == http.StatusLocked, s == http.StatusRequestTimeout, s == http.StatusTooManyRequests:
		kind = firn.Unavailable
	case s == http.StatusMethodNotAllowed, s == http.StatusNotImplemented:
		kind = firn.Unsupported
	case s >= 500:
		kind = firn.Unavailable
	case s >= 300:
		kind = firn.Invalid
	}
	return firn.NewError(kind, "the server answered "+resp.Status)
}

func discard(resp *http.Response) {
	_, _ = io.CopyN(io.Discard, resp.Body, drain) // what is left costs the connection, no more
	resp.Body.Close()
}

// simple sends a request whose answer says nothing but its status, which is returned.
func (p *place) simple(ctx context.Context, r request) (int, error) {
	resp, err := p.do(ctx, r)
	if err != nil {
		return 0, err
	}
	discard(resp)
	if resp.StatusCode < 200 || resp.StatusCode > 299 {
		return resp.StatusCode, refused(resp)
	}
	return resp.StatusCode, nil
}

// resource is a file or directory as PROPFIND describes it.
type resource struct {
	layout.Entry
	used, free int64 // of the file system; -1 where the server does not tell
}

const propfind = `<?xml version="1.0" encoding="utf-8"?><propfind xmlns="DAV:"><prop><resourcetype/><getcontentlength/>` +
	`<getlastmodified/><quota-used-bytes/><quota-available-bytes/></prop></propfind>`

type response struct {
	Href     string `xml:"DAV: href"`
	Propstat []struct {
		Status string `xml:"DAV: status"`
		Prop   struct {
			Collection *struct{} `xml:"DAV: resourcetype>collection"`
			Length     string    `xml:"DAV: getcontentlength"`
			Modified   string    `xml:"DAV: getlastmodified"`
			Used       string    `xml:"DAV: quota-used-bytes"`
			Free       string    `xml:"DAV: quota-available-bytes"`
		} `xml:"DAV: prop"`
	} `xml:"DAV: propstat"`
}

// look describes a path, and with depth 1 what is in it, where it is a directory.
func (p *place) look(ctx context.Context, rel, depth string) (self resource, within []layout.Entry, err error) {
	resp, err := p.do(ctx, request{
		method: "PROPFIND", path: rel, size: int64(len(propfind)),
		header: map[string]string{"Depth": depth, "Content-Type": "application/xml; charset=utf-8"},
		open:   func() (io.ReadCloser, error) { return io.NopCloser(strings.NewReader(propfind)), nil },
	})
	if err != nil {
		return self, nil, err
	}
	defer discard(resp)
	if resp.StatusCode == http.StatusMovedPermanently && !strings.HasSuffix(rel, "/") {
		return p.look(ctx, rel+"/", depth) // a directory, to some servers
	}
	if resp.StatusCode != http.StatusMultiStatus {
		return self, nil, refused(resp)
	}
	found, err := parse(io.LimitReader(resp.Body, maxListing), path.Clean("/"+p.root.Path+rel), func(r resource, itself bool) {
		if itself {
			self = r
		} else {
			within = append(within, r.Entry)
		}
	})
	if err != nil {
		return self, nil, p.lost(ctx, err)
	}
	if !found {
		return self, nil, firn.NewError(firn.Unavailable, "the server's answer does not describe what was asked for")
	}
	return self, within, nil
}

// parse reads a multistatus. It fails where that ends too early: what is missing would look deleted.
func parse(r io.Reader, own string, fn func(r resource, itself bool)) (found bool, err error) {
	d := xml.NewDecoder(r)
	for {
		t, err := d.Token()
		if err == io.EOF { //nolint:errorlint // the decoder's own
			return found, io.ErrUnexpectedEOF
		}
		if err != nil {
			return found, broken(err)
		}
		if end, ok := t.(xml.EndElement); ok && end.Name.Local == "multistatus" {
			return found, nil
		}
		start, ok := t.(xml.StartElement)
		if !ok || start.Name.Local == "multistatus" {
			continue
		}
		if start.Name.Local != "response" {
			if err := d.Skip(); err != nil {
				return found, broken(err)
			}
			continue
		}
		var one response
		if err := d.DecodeElement(&one, &start); err != nil {
			return found, broken(err)
		}
		u, err := url.Parse(one.Href)
		if err != nil {
			return found, firn.NewError(firn.Unavailable, fmt.Sprintf("the server names a file %q", one.Href))
		}
		at := path.Clean("/" + u.Path)
		res := describe(one)
		res.Name = path.Base(at)
		itself := at == own
		found = found || itself
		fn(res, itself)
	}
}

// broken is the error for an answer that is no XML, or was cut.
func broken(err error) error {
	var syntax *xml.SyntaxError
	if errors.As(err, &syntax) {
		return firn.NewError(firn.Unavailable, "the server's listing cannot be read: "+syntax.Msg)
	}
	return err
}

func describe(one response) resource {
	r := resource{used: -1, free: -1}
	for _, s := range one.Propstat {
		if fields := strings.Fields(s.Status); len(fields) > 1 && fields[1] != "200" {
			continue
		}
		r.Dir = r.Dir || s.Prop.Collection != nil
		number(s.Prop.Length, &r.Size)
		number(s.Prop.Used, &r.used)
		number(s.Prop.Free, &r.free)
		if t, err := http.ParseTime(strings.TrimSpace(s.Prop.Modified)); err == nil {
			r.Modified = t
		}
	}
	return r
}

// number reads what is a number of bytes, and leaves n where it is none.
func number(text string, n *int64) {
	if v, err := strconv.ParseInt(strings.TrimSpace(text), 10, 64); err == nil && v >= 0 {
		*n = v
	}
}

// pause waits a little. It returns false where ctx ended first.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
