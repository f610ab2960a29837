package edgehttp

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"firn"
	"firn/cache"
)

// target is one content: the rule for it, and what its origin is asked for.
type target struct {
	*route
	name, path, query string
}

// origin is what the cache calls the origins of a rule.
func (r *route) origin() string { return "edge " + r.Prefix }

func (s *Server) target(r *route, req *http.Request) target {
	path, query := canonical(req.URL.EscapedPath()), req.URL.RawQuery
	t := target{route: r, name: r.name(path, query), path: path, query: query}
	if r.IgnoreQuery {
		t.query = ""
	}
	if r.Strip {
		t.path = "/" + strings.TrimPrefix(strings.TrimPrefix(path, r.Prefix), "/")
	}
	return t
}

// canonical escapes each segment of an escaped path in one way, so that a content has one name.
func canonical(path string) string {
	segments := strings.Split(path, "/")
	for i, s := range segments {
		if plain, err := url.PathUnescape(s); err == nil {
			segments[i] = url.PathEscape(plain)
		}
	}
	return strings.Join(segments, "/")
}

// Name is that of a path, not escaped, in the cache, for Purge.
func Name(path string) string { return canonical((&url.URL{Path: path}).EscapedPath()) }

// errChanged says that what an origin gives is not the version that was asked for.
var errChanged = errors.New("the content changed while it was read")

// failingFor is how long an origin that failed is not waited for, where something else can be served.
const failingFor = 5 * time.Second

// gone reports whether an answer is that of an origin that fails, for RFC 5861.
func gone(status int) bool {
	return status == http.StatusInternalServerError || status == http.StatusBadGateway ||
		status == http.StatusServiceUnavailable || status == http.StatusGatewayTimeout
}

// fetch asks the origins, one after the other, until one answers that does not fail. ctx bounds the waiting for the
// header; the body is bounded by the time between two parts of it and must be closed.
func (s *Server) fetch(ctx context.Context, t target, method string, h http.Header) (resp *http.Response, err error) {
	h.Set("Via", "1.1 "+s.o.Node)
	h.Set("Accept-Encoding", "identity")
	for i, o := range t.Origins {
		var r *http.Response
		r, err = s.fetchFrom(ctx, o, Request{Method: method, Path: t.path, Query: t.query, Header: h})
		if err == nil && (!gone(r.StatusCode) || i == len(t.Origins)-1) {
			resp = r
			break
		}
		if err == nil {
			err = firn.NewError(firn.Unavailable, fmt.Sprintf("%s answers %d", o.Name(), r.StatusCode))
			_ = r.Body.Close() // nothing of it is used
		}
		s.o.Log.Warn("an origin fails", "origin", o.Name(), "path", t.path, "error", err)
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
	}
	if err != nil || gone(resp.StatusCode) {
		t.failing.Store(time.Now().Add(failingFor).UnixNano())
	} else {
		t.failing.Store(0)
	}
	return resp, err
}

func (s *Server) fetchFrom(ctx context.Context, o Origin, r Request) (*http.Response, error) {
	// The request outlives ctx once it is answered: others may read its body.
	own, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	late := firn.NewError(firn.Unavailable, fmt.Sprintf("%s does not answer within %s", o.Name(), s.o.Timeout))
	timer := time.AfterFunc(s.o.Timeout, func() { cancel(late) })
	detach := context.AfterFunc(ctx, func() { cancel(context.Cause(ctx)) })
	resp, err := o.Fetch(own, r)
	detach()
	if err != nil {
		timer.Stop()
		if own.Err() != nil {
			err = context.Cause(own)
		}
		cancel(nil)
		return nil, err
	}
	timer.Stop()
	resp.Body = &body{resp.Body, own, cancel, timer, s.o.Timeout}
	return resp, nil
}

// body is that of an origin's answer. Its request ends when it is closed or when nothing comes any more.
type body struct {
	io.ReadCloser
	ctx     context.Context
	cancel  context.CancelCauseFunc
	timer   *time.Timer
	timeout time.Duration
}

func (b *body) Read(p []byte) (int, error) {
	b.timer.Reset(b.timeout) // only what the origin takes counts, not what is done with it
	n, err := b.ReadCloser.Read(p)
	b.timer.Stop()
	if err != nil && !errors.Is(err, io.EOF) && b.ctx.Err() != nil {
		err = context.Cause(b.ctx)
	}
	return n, err
}

func (b *body) Close() error {
	b.timer.Stop()
	b.cancel(nil)
	return b.ReadCloser.Close()
}

// sliceLen is how many bytes slice n has.
func (e *entry) sliceLen(n int64) int64 { return min(e.Slice, e.Size-n*e.Slice) }

func (e *entry) key(name string, n int64) cache.Key {
	return cache.Key{Object: name, Version: e.Gen, Block: n}
}

func entryKey(name string) cache.Key { return cache.Key{Object: name} }

// open reads slice n of e from the cache or the origin.
func (s *Server) open(ctx context.Context, t target, e *entry, n int64) (cache.Reader, string, error) {
	return s.cache.Stream(ctx, e.key(t.name, n), t.origin(), int(e.sliceLen(n)), func(ctx context.Context, w *cache.Writer) error {
		if e.One {
			return errChanged // it may be no part of another answer
		}
		h := http.Header{"Range": {fmt.Sprintf("bytes=%d-%d", n*e.Slice, n*e.Slice+e.sliceLen(n)-1)}}
		if tag, strong := etag(e.Header); strong {
			h.Set("If-Match", tag)
		}
		resp, err := s.fetch(ctx, t, http.MethodGet, h)
		if err != nil {
			return err
		}
		if err := s.fits(t, e, n, resp); err != nil {
			return errors.Join(err, resp.Body.Close())
		}
		return s.fill(ctx, t, e.sliceLen(n), resp.Body, w)
	})
}

// fits reports whether an answer is slice n of e, and of no other version.
func (s *Server) fits(t target, e *entry, n int64, resp *http.Response) error {
	switch {
	case gone(resp.StatusCode):
		return firn.NewError(firn.Unavailable, fmt.Sprintf("%s: the origin answers %d", t.path, resp.StatusCode))
	case resp.StatusCode == http.StatusPartialContent:
		first, last, size, ok := contentRange(resp.Header.Get("Content-Range"))
		if !ok || first != n*e.Slice || last != first+e.sliceLen(n)-1 || size != e.Size {
			return errChanged
		}
	case resp.StatusCode == http.StatusOK && n == 0 && resp.ContentLength == e.Size && e.Size <= e.Slice:
	default:
		return errChanged
	}
	was, strong := etag(e.Header)
	is, _ := etag(resp.Header)
	if was != is || !strong && e.Header.Get("Last-Modified") != resp.Header.Get("Last-Modified") {
		return errChanged
	}
	return nil
}

// fill writes the length bytes of b, which it closes.
func (s *Server) fill(ctx context.Context, t target, length int64, b io.ReadCloser, w *cache.Writer) error {
	defer b.Close()
	if own, ok := b.(*body); ok {
		defer context.AfterFunc(ctx, func() { own.cancel(context.Cause(ctx)) })()
	}
	w.Describe(nil, time.Now().Add(t.Inactive))
	n, err := io.CopyN(w, b, length)
	if errors.Is(err, io.EOF) {
		err = firn.NewError(firn.Unavailable, fmt.Sprintf("%s: the origin sent %d of %d bytes", t.path, n, length))
	}
	return err
}

// contentRange reads "bytes first-last/size".
func contentRange(v string) (first, last, size int64, ok bool) {
	if n, err := fmt.Sscanf(v, "bytes %d-%d/%d", &first, &last, &size); n != 3 || err != nil {
		return 0, 0, 0, false
	}
	return first, last, size, first >= 0 && last >= first && size > last
}
