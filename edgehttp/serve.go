package edgehttp

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/pquerna/cachecontrol/cacheobject"

	"firn"
	"firn/cache"
)

// ServeHTTP answers GET and HEAD, and PURGE from the networks that may.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("X-Edge-Node", s.o.Node)
	for _, via := range r.Header.Values("Via") {
		for hop := range strings.SplitSeq(via, ",") {
			if f := strings.Fields(hop); len(f) > 1 && f[1] == s.o.Node {
				http.Error(w, "this node asks itself", http.StatusLoopDetected)
				return
			}
		}
	}
	switch r.Method {
	case http.MethodGet, http.MethodHead:
	case "PURGE":
		s.purge(w, r)
		return
	default:
		w.Header().Set("Allow", "GET, HEAD")
		http.Error(w, "only GET and HEAD", http.StatusMethodNotAllowed)
		return
	}
	if dots(r.URL.Path) {
		http.Error(w, "a path has no . and .. in it", http.StatusBadRequest)
		return
	}
	rule := s.rule(canonical(r.URL.EscapedPath()))
	if rule == nil {
		http.Error(w, "nothing is served at this path", http.StatusNotFound)
		return
	}
	t := s.target(rule, r)
	passes := rule.Bypass || len(t.name) > cache.MaxName
	for _, name := range rule.Pass {
		passes = passes || len(r.Header.Values(name)) > 0
	}
	if passes {
		s.pass(w, r, t)
		return
	}
	for try := 0; ; try++ {
		err := s.try(w, r, t, try > 0)
		switch {
		case err == nil:
			return
		case errors.Is(err, errChanged) && try < retries:
			continue
		case r.Context().Err() != nil:
			return
		}
		s.o.Log.Warn("not served", "path", t.path, "error", err)
		s.fail(w, err)
		return
	}
}

// dots reports whether a path has segments by which an origin may leave what the rule is for.
func dots(path string) bool {
	for segment := range strings.SplitSeq(strings.ReplaceAll(path, `\`, "/"), "/") {
		if segment == "." || segment == ".." {
			return true
		}
	}
	return false
}

// fail answers that the origin failed.
func (s *Server) fail(w http.ResponseWriter, err error) {
	status := http.StatusBadGateway
	var timeout net.Error
	if errors.Is(err, context.DeadlineExceeded) || errors.As(err, &timeout) && timeout.Timeout() {
		status = http.StatusGatewayTimeout
	}
	w.Header().Set("X-Cache-Status", miss)
	s.count(miss)
	http.Error(w, "the origin does not answer, and there is nothing here that could be served", status)
}

// lookup returns what is kept of t, nil for nothing.
func (s *Server) lookup(ctx context.Context, t target) *entry {
	mark, key := s.cache.Mark(), entryKey(t.name)
	v, _, ok := s.cache.Lookup(ctx, key)
	if !ok {
		return nil
	}
	e := s.parsed.entry(t.name, v.Data)
	if e == nil || e.Slice != s.o.Slice {
		return nil
	}
	if !e.Pass {
		s.touch(t, key, v, mark)
	}
	return e
}

// touch has a block that is used stay for another while.
func (s *Server) touch(t target, key cache.Key, v cache.Value, mark cache.Mark) {
	now := time.Now()
	if v.Expires.IsZero() || v.Expires.Sub(now) > t.Inactive/2 {
		return
	}
	v.Expires = now.Add(t.Inactive)
	if err := s.cache.Put(key, v, mark); err != nil {
		s.o.Log.Warn("not kept for longer", "path", t.path, "error", err)
	}
}

// try answers from what is kept, or has the origin asked. It fails before anything is sent, with errChanged where it
// should be tried again, without what is kept.
func (s *Server) try(w http.ResponseWriter, r *http.Request, t target, again bool) error {
	ctx, now, head := r.Context(), time.Now(), r.Method == http.MethodHead
	var e *entry
	if !again {
		e = s.lookup(ctx, t)
	}
	if e != nil && e.Pass {
		s.pass(w, r, t)
		return nil
	}
	var kept *short // the body of what is kept, where that is no 200
	if e != nil && e.Status != http.StatusOK {
		v, _, ok := s.cache.Lookup(ctx, e.key(t.name, 0))
		if ok && int64(len(v.Data)) == e.Size {
			kept = &short{e.Status, e.Header, v.Data, e.age(now)}
		} else {
			e = nil
		}
	}
	if e != nil && e.Head && !head {
		e = nil
	}
	serve := func(e *entry, status string) error {
		if kept != nil {
			s.answer(w, r, kept, status)
			return nil
		}
		return s.serve(w, r, t, e, status)
	}
	doubted := e != nil && e.Received.UnixNano() < s.doubted.Load()
	if e != nil && !doubted && e.fresh(now) {
		return serve(e, hit)
	}
	if only(r.Header) {
		w.Header().Set("X-Cache-Status", miss)
		s.count(miss)
		http.Error(w, "it is not here, and was asked for only if it is", http.StatusGatewayTimeout)
		return nil
	}
	if e != nil {
		switch {
		case !doubted && e.meanwhile(now):
			s.refresh(ctx, t, e)
			return serve(e, updating)
		case !doubted && e.onError(now) && s.underWay(t):
			return serve(e, updating)
		case e.onError(now) && t.failing.Load() > now.UnixNano():
			s.refresh(ctx, t, e)
			return serve(e, stale)
		}
	}
	f, err := s.join(ctx, t, e, s.firstSlice(r), head, false)
	if err != nil {
		return err
	}
	defer s.leave(f)
	select {
	case <-f.done:
	case <-ctx.Done():
		return ctx.Err()
	}
	switch {
	case e != nil && (f.err != nil || f.short != nil && gone(f.short.status)) && e.onError(time.Now()):
		return serve(e, stale)
	case f.err != nil:
		return f.err
	case f.alone:
		s.pass(w, r, t)
		return nil
	case f.short != nil:
		s.answer(w, r, f.short, f.outcome)
		return nil
	}
	if kept != nil && f.e.Status == http.StatusOK {
		kept = nil
	}
	return serve(f.e, f.outcome)
}

// only reports whether the client wants no origin to be asked.
func only(h http.Header) bool {
	v := strings.Join(h.Values("Cache-Control"), ", ")
	if v == "" {
		return false
	}
	cc, err := cacheobject.ParseRequestCacheControl(v)
	return err == nil && cc.OnlyIfCached
}

// firstSlice is the slice that a request needs first, as far as its header tells.
func (s *Server) firstSlice(r *http.Request) int64 {
	v, ok := strings.CutPrefix(r.Header.Get("Range"), "bytes=")
	first, _, _ := strings.Cut(v, "-")
	n, err := strconv.ParseInt(strings.TrimSpace(first), 10, 64)
	if !ok || err != nil || n < 0 || strings.Contains(v, ",") || n > 1<<50 {
		return 0
	}
	return n / s.o.Slice
}

// answer sends an answer that is in memory.
func (s *Server) answer(w http.ResponseWriter, r *http.Request, a *short, status string) {
	h := w.Header()
	maps.Copy(h, a.header)
	h.Set("X-Cache-Status", status)
	h.Set("Age", seconds(a.age))
	s.count(status)
	w.WriteHeader(a.status)
	if r.Method == http.MethodHead {
		return
	}
	n, _ := w.Write(a.body) // a client that went away
	s.bytes.Add(uint64(n))
}

func seconds(d time.Duration) string { return strconv.FormatInt(int64(max(d, 0)/time.Second), 10) }

// serve sends e, or what the request's conditions and ranges ask for of it. It fails only as long as nothing was sent.
func (s *Server) serve(w http.ResponseWriter, r *http.Request, t target, e *entry, status string) error {
	if strings.Contains(r.Header.Get("Range"), ",") {
		// Several ranges are a whole content, as a server may decide: each of them could be another slice to fetch.
		r = r.Clone(r.Context())
		r.Header.Del("Range")
	}
	c := &content{s: s, ctx: r.Context(), t: t, e: e}
	defer c.Close()
	d := &deferred{w: w, c: c, status: status, header: http.Header{}}
	maps.Copy(d.header, e.Header)
	delete(d.header, "Content-Length") // that of what is sent is another matter
	d.header.Set("Age", seconds(e.age(time.Now())))
	if len(d.header["Content-Type"]) == 0 {
		d.header["Content-Type"] = nil // nothing is read to guess it
	}
	var modified time.Time
	if m, err := http.ParseTime(e.Header.Get("Last-Modified")); err == nil {
		modified = m
	}
	http.ServeContent(d, r, "", modified, c)
	if !d.sent && c.err != nil {
		return c.err
	}
	d.flush()
	if c.err != nil {
		if errors.Is(c.err, errChanged) {
			s.outdate(r.Context(), t, e)
		}
		if r.Context().Err() == nil {
			s.o.Log.Warn("broken off", "path", t.path, "error", c.err)
		}
		panic(http.ErrAbortHandler) // net/http's way to break the answer off: the client must see that it has not got all
	}
	return nil
}

// outdate has e revalidated before it is served again.
func (s *Server) outdate(ctx context.Context, t target, e *entry) {
	mark := s.cache.Mark()
	if now := s.lookup(ctx, t); now == nil || now.Gen != e.Gen {
		return
	}
	old := *e
	old.Lifetime, old.Meanwhile = 0, 0
	s.keep(t, &old, time.Now().Add(t.Inactive), mark)
}

// deferred sends nothing before the first byte of content is there: until then another answer can be given.
type deferred struct {
	w      http.ResponseWriter
	c      *content
	status string
	header http.Header
	code   int
	sent   bool
}

func (d *deferred) Header() http.Header { return d.header }

func (d *deferred) WriteHeader(code int) {
	if d.code == 0 {
		d.code = code
	}
}

func (d *deferred) flush() {
	if d.sent {
		return
	}
	d.sent = true
	if d.status == hit && d.c.fetched {
		d.status = miss
	}
	d.c.s.count(d.status)
	h := d.w.Header()
	maps.Copy(h, d.header)
	h.Set("X-Cache-Status", d.status)
	d.w.WriteHeader(max(d.code, http.StatusOK))
}

func (d *deferred) Write(p []byte) (int, error) {
	if d.c.err != nil {
		return 0, d.c.err
	}
	d.flush()
	n, err := d.w.Write(p)
	d.c.s.bytes.Add(uint64(n))
	return n, err
}

// ReadFrom passes slices on as they lie in memory, where a single range of the content is sent.
func (d *deferred) ReadFrom(r io.Reader) (total int64, err error) {
	l, ok := r.(*io.LimitedReader)
	if !ok || l.R != io.Reader(d.c) {
		return io.Copy(struct{ io.Writer }{d}, r)
	}
	for l.N > 0 {
		p, err := d.c.chunk(l.N)
		if err != nil {
			return total, err
		}
		n, err := d.Write(p)
		total += int64(n)
		l.N -= int64(n)
		if err != nil {
			return total, err
		}
	}
	return total, nil
}

// pass asks the origin for one request, and keeps nothing.
func (s *Server) pass(w http.ResponseWriter, r *http.Request, t target) {
	h := http.Header{}
	names := append([]string{"Range", "If-Range", "If-Match", "If-None-Match", "If-Modified-Since", "If-Unmodified-Since"}, t.Pass...)
	for _, name := range names {
		if v := r.Header.Values(name); len(v) > 0 {
			h[http.CanonicalHeaderKey(name)] = v
		}
	}
	s.count(bypass)
	resp, err := s.fetch(r.Context(), t, r.Method, h)
	w.Header().Set("X-Cache-Status", bypass)
	if err != nil {
		if r.Context().Err() == nil {
			s.o.Log.Warn("not served", "path", t.path, "error", err)
			http.Error(w, "the origin does not answer", http.StatusBadGateway)
		}
		return
	}
	defer resp.Body.Close()
	defer context.AfterFunc(r.Context(), func() { resp.Body.(*body).cancel(context.Canceled) })()
	maps.Copy(w.Header(), endToEnd(resp.Header))
	if resp.ContentLength >= 0 {
		w.Header().Set("Content-Length", strconv.FormatInt(resp.ContentLength, 10))
	}
	w.WriteHeader(resp.StatusCode)
	n, err := io.Copy(w, resp.Body)
	s.bytes.Add(uint64(n))
	if err != nil {
		panic(http.ErrAbortHandler) // net/http's way to break the answer off: the client must see that it has not got all
	}
}

// purge forgets a path, or, where it ends with *, all that begin so.
func (s *Server) purge(w http.ResponseWriter, r *http.Request) {
	from, err := netip.ParseAddrPort(r.RemoteAddr)
	allowed := false
	for _, n := range s.o.Purgers {
		allowed = allowed || err == nil && n.Contains(from.Addr().Unmap())
	}
	if !allowed {
		http.Error(w, "purging is not allowed from here", http.StatusForbidden)
		return
	}
	path, prefix := strings.CutSuffix(r.URL.EscapedPath(), "*")
	path = canonical(path)
	if !prefix && r.URL.RawQuery != "" {
		path += "?" + r.URL.RawQuery
	}
	if err := s.o.Purge(r.Context(), cache.Match{Object: path, Prefix: prefix}); err != nil {
		s.o.Log.Error("purge", "path", path, "error", err)
		http.Error(w, "purged, but it may come back after a restart: "+err.Error(), http.StatusInternalServerError)
		return
	}
	s.o.Log.Info("purged", "path", path, "prefix", prefix, "by", from.Addr())
	fmt.Fprintln(w, "purged")
}

// Purge forgets what m selects: a path as Name makes it with ? and a query where it has one, or all whose names begin so.
// What is on its way to clients goes on.
func (s *Server) Purge(ctx context.Context, m cache.Match) error {
	s.Forget(m)
	return firn.E("purge", m.Object, s.cache.Purge(ctx, m))
}

// Forget has who comes from now on ask anew for what is on its way; it is for who purges the cache behind.
func (s *Server) Forget(m cache.Match) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for key, f := range s.mu.flights {
		if m.Matches(cache.Key{Object: strings.TrimPrefix(key, "HEAD ")}) {
			s.forget(f)
		}
	}
}

// Doubt has what is kept until now revalidated before it is served again, unless the origin fails: a purge of it may have
// been missed.
func (s *Server) Doubt() { s.doubted.Store(time.Now().UnixNano()) }
