package edgehttp

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"sync/atomic"
	"time"

	"firn"
	"firn/cache"
)

// result is what came of asking an origin for a content.
type result struct {
	err error
	// e is what is kept now. Its first slice, or the one that was asked for, is on its way.
	e       *entry
	outcome string
	// short is an answer that is complete, kept or not.
	short *short
	// alone: it is not kept and not shared; everybody asks for himself.
	alone bool
}

// short is an answer in memory.
type short struct {
	status int
	header http.Header
	body   []byte
	age    time.Duration
}

// flight is a content that is asked for, for all who wait.
type flight struct {
	key    string
	cancel context.CancelCauseFunc
	done   chan struct{} // closed when result stands
	result
	// Guarded by Server.mu.
	refs int
	over bool
	hold io.ReadCloser // keeps the slice on its way until all who wait have opened it
}

// join has t asked for, by one for all who come while it is. old is what is kept of it, nil for nothing; n is the slice
// that is wanted first. Who joined must leave; background is for nobody who waits.
func (s *Server) join(ctx context.Context, t target, old *entry, n int64, head, background bool) (*flight, error) {
	key := t.name
	if head {
		key = "HEAD " + key
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.mu.closed {
		return nil, firn.NewError(firn.Unavailable, errClosed.Error())
	}
	if f := s.mu.flights[key]; f != nil {
		if !background {
			f.refs++
		}
		return f, nil
	}
	fctx, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	f := &flight{key: key, cancel: cancel, done: make(chan struct{}), refs: 1}
	s.mu.flights[key] = f
	s.running.Go(func() {
		defer cancel(nil)
		res, hold := s.ask(fctx, t, old, n, head)
		s.mu.Lock()
		f.result, f.hold, f.over = res, hold, true
		s.forget(f)
		unwanted := f.refs == 0
		s.mu.Unlock()
		if unwanted && hold != nil {
			_ = hold.Close() // only lets go
		}
		close(f.done)
		if background {
			if hold != nil {
				_, _ = io.Copy(io.Discard, hold) // so that the slice is kept, too; if it fails it is not
			}
			s.leave(f)
		}
	})
	return f, nil
}

// forget makes f joinable no more. The caller holds mu.
func (s *Server) forget(f *flight) {
	if s.mu.flights[f.key] == f {
		delete(s.mu.flights, f.key)
	}
}

// leave takes one who waits off; the last one to go ends what is under way.
func (s *Server) leave(f *flight) {
	s.mu.Lock()
	f.refs--
	last, over := f.refs == 0, f.over
	if last && !over {
		s.forget(f)
		f.cancel(context.Canceled)
	}
	s.mu.Unlock()
	if last && over && f.hold != nil {
		_ = f.hold.Close() // only lets go
	}
}

// underWay reports whether t is asked for just now.
func (s *Server) underWay(t target) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.mu.flights[t.name] != nil
}

// refresh has t asked for, and waits for nothing.
func (s *Server) refresh(ctx context.Context, t target, old *entry) {
	_, _ = s.join(ctx, t, old, 0, false, true) // fails only where the server is closed
}

// ask asks the origin for t: whether old still holds, where there is one, and for slice n where not.
func (s *Server) ask(ctx context.Context, t target, old *entry, n int64, head bool) (result, io.ReadCloser) {
	mark := s.cache.Mark()
	h := http.Header{}
	method := http.MethodGet
	if head {
		method = http.MethodHead
	} else if n >= 0 {
		h.Set("Range", fmt.Sprintf("bytes=%d-%d", n*s.o.Slice, (n+1)*s.o.Slice-1))
	}
	conditional := false
	if old != nil && old.Status == http.StatusOK && !old.Pass {
		if tag, _ := etag(old.Header); tag != "" {
			h.Set("If-None-Match", tag)
			conditional = true
		} else if m := old.Header.Get("Last-Modified"); m != "" {
			h.Set("If-Modified-Since", m)
			conditional = true
		}
	}
	asked := time.Now()
	resp, err := s.fetch(ctx, t, method, h)
	if err != nil {
		return result{err: err}, nil
	}
	a := arrival{s: s, t: t, mark: mark, asked: asked, received: time.Now(), resp: resp, header: endToEnd(resp.Header), outcome: miss}
	if old != nil {
		a.outcome = expired
	}
	if a.header.Get("Date") == "" {
		a.header.Set("Date", a.received.UTC().Format(http.TimeFormat))
	}
	a.claimed = new(atomic.Bool)
	res, hold := a.take(ctx, old, conditional, n, head)
	if hold == nil && a.claimed.CompareAndSwap(false, true) {
		if cerr := resp.Body.Close(); cerr != nil {
			s.o.Log.Debug("close", "error", cerr)
		}
	}
	if res.again != nil {
		return s.ask(ctx, t, nil, *res.again, head)
	}
	return res.result, hold
}

// arrival is an answer of an origin, from its header on.
type arrival struct {
	s               *Server
	t               target
	mark            cache.Mark
	asked, received time.Time
	resp            *http.Response
	header          http.Header
	outcome         string
	claimed         *atomic.Bool // the body is somebody's
}

// taken is a result, or the slice to ask for instead.
type taken struct {
	result
	again *int64
}

func wrong(format string, args ...any) taken {
	return taken{result: result{err: firn.NewError(firn.Unavailable, "the origin's answer makes no sense: "+fmt.Sprintf(format, args...))}}
}

// take makes of an answer what can be kept or passed on. The body is read, or in the closer's hands.
func (a *arrival) take(ctx context.Context, old *entry, conditional bool, n int64, head bool) (taken, io.ReadCloser) {
	status := a.resp.StatusCode
	switch {
	case status == http.StatusNotModified:
		if !conditional {
			return wrong("304, and nothing was asked for"), nil
		}
		return a.notModified(old, n, head), nil
	case status == http.StatusRequestedRangeNotSatisfiable && n >= 0 && !head:
		if n > 0 {
			return taken{again: new(int64)}, nil // it is shorter than that
		}
		whole := int64(-1)
		return taken{again: &whole}, nil // it is empty
	case status == http.StatusPartialContent && !head && n >= 0:
		return a.part(ctx, n)
	case status == http.StatusPartialContent:
		return wrong("206, and no part was asked for"), nil
	case status == http.StatusOK:
		return a.whole(ctx, head)
	}
	return a.other(head), nil
}

func (a *arrival) judged(status int) (*entry, times) {
	t := judge(&a.t.Rule, status, a.header, a.asked, a.received)
	return &entry{
		Status: status, Header: a.header, Slice: a.s.o.Slice, Received: a.received, Age: t.age, Lifetime: t.lifetime,
		OnError: t.onError, Meanwhile: t.meantime, Must: t.must,
	}, t
}

// alone is the result for what is passed on to each who asks. For a minute nobody waits to find that out.
func (a *arrival) alone() taken {
	e := entry{Status: http.StatusOK, Slice: a.s.o.Slice, Pass: true, Received: a.received}
	a.keep(&e, a.received.Add(time.Minute))
	return taken{result: result{alone: true}}
}

func (a *arrival) keep(e *entry, expires time.Time) { a.s.keep(a.t, e, expires, a.mark) }

func (s *Server) keep(t target, e *entry, expires time.Time, since cache.Mark) {
	p, err := e.encode()
	if err == nil {
		err = s.cache.Put(entryKey(t.name), cache.Value{Data: p, Expires: expires}, since)
	}
	if err != nil {
		s.o.Log.Warn("an answer was not kept", "path", t.path, "error", err)
	}
}

func (a *arrival) notModified(old *entry, n int64, head bool) taken {
	was, _ := etag(old.Header)
	if is, _ := etag(a.header); is != "" && was != "" && weak(is) != weak(was) {
		return taken{again: &n} // it speaks of another version
	}
	a.header = old.refreshed(a.header).Header
	e, t := a.judged(http.StatusOK)
	if !t.keep {
		return a.alone()
	}
	e.Size, e.Gen, e.Slice, e.One, e.Head = old.Size, old.Gen, old.Slice, old.One, old.Head
	a.keep(e, a.received.Add(a.t.Inactive))
	return taken{result: result{e: e, outcome: revalidated}}
}

func weak(tag string) string {
	if len(tag) > 2 && tag[:2] == "W/" {
		return tag[2:]
	}
	return tag
}

// part takes a 206.
func (a *arrival) part(ctx context.Context, n int64) (taken, io.ReadCloser) {
	first, last, size, ok := contentRange(a.resp.Header.Get("Content-Range"))
	if !ok || first != n*a.s.o.Slice || last != min(first+a.s.o.Slice, size)-1 {
		return wrong("%q for slice %d", a.resp.Header.Get("Content-Range"), n), nil
	}
	a.header.Del("Content-Range")
	a.header.Set("Content-Length", strconv.FormatInt(size, 10))
	e, t := a.judged(http.StatusOK)
	e.Size = size
	return a.begin(ctx, e, t, n, a.resp.Body)
}

// whole takes a 200. One that is larger than a slice comes from an origin that gives no parts, and is not kept.
func (a *arrival) whole(ctx context.Context, head bool) (taken, io.ReadCloser) {
	e, t := a.judged(http.StatusOK)
	e.Size = a.resp.ContentLength
	if head {
		if !t.keep || e.Size < 0 {
			return taken{result: result{short: &short{status: http.StatusOK, header: a.header, age: e.Age}, outcome: a.outcome}}, nil
		}
		e.Head = true
		a.name(e)
		a.keep(e, a.received.Add(a.t.Inactive))
		return taken{result: result{e: e, outcome: a.outcome}}, nil
	}
	if !t.keep || e.Size > e.Slice {
		return a.alone(), nil
	}
	from := io.Reader(a.resp.Body)
	if e.Size < 0 {
		p, err := io.ReadAll(io.LimitReader(from, e.Slice+1))
		if err != nil {
			return taken{result: result{err: err}}, nil
		}
		if int64(len(p)) > e.Slice {
			return a.alone(), nil
		}
		e.Size, from = int64(len(p)), bytes.NewReader(p)
	}
	a.header.Set("Content-Length", strconv.FormatInt(e.Size, 10))
	return a.begin(ctx, e, t, 0, from)
}

// name gives e a generation.
func (a *arrival) name(e *entry) {
	if e.One = !combinable(a.header); e.One {
		e.Gen = "r" + rand.Text()
	} else {
		e.Gen = generation(a.header, e.Size)
	}
}

// begin keeps e, whose slice n comes from body, and has it read.
func (a *arrival) begin(ctx context.Context, e *entry, t times, n int64, from io.Reader) (taken, io.ReadCloser) {
	a.name(e)
	if !t.keep || e.One && e.Size > e.Slice || len(e.Gen) > cache.MaxName {
		return a.alone(), nil
	}
	res := taken{result: result{e: e, outcome: a.outcome}}
	if e.Size == 0 {
		a.keep(e, a.received.Add(a.t.Inactive))
		return res, nil
	}
	claimed, length := a.claimed, e.sliceLen(n)
	r, _, err := a.s.cache.Stream(ctx, e.key(a.t.name, n), a.t.origin(), int(length), func(ctx context.Context, w *cache.Writer) error {
		if !claimed.CompareAndSwap(false, true) {
			return errChanged // everybody left before it began
		}
		own := io.NopCloser(from)
		if from == io.Reader(a.resp.Body) {
			own = a.resp.Body
		} else {
			defer a.resp.Body.Close()
		}
		return a.s.fill(ctx, a.t, length, own, w)
	})
	if err != nil {
		return taken{result: result{err: err}}, nil
	}
	// Kept last: who finds it finds its slice on its way too.
	a.keep(e, a.received.Add(a.t.Inactive))
	return res, &held{r, func() error {
		err := r.Close()
		if claimed.CompareAndSwap(false, true) { // another had the slice already, or has it on its way
			err = errors.Join(err, a.resp.Body.Close())
		}
		return err
	}}
}

// held is a slice on its way.
type held struct {
	io.Reader
	close func() error
}

func (h *held) Close() error { return h.close() }

// other takes all other answers.
func (a *arrival) other(head bool) taken {
	e, t := a.judged(a.resp.StatusCode)
	limit := int64(maxAnswer)
	if t.keep {
		limit = e.Slice
	}
	p, err := io.ReadAll(io.LimitReader(a.resp.Body, limit+1))
	switch {
	case err != nil:
		return taken{result: result{err: err}}
	case t.alone || int64(len(p)) > limit:
		return a.alone()
	}
	if !head {
		a.header.Set("Content-Length", strconv.Itoa(len(p)))
	}
	if t.keep && !head {
		e.Size, e.One, e.Gen = int64(len(p)), true, "r"+rand.Text()
		expires := a.received.Add(a.t.Inactive)
		if err := a.s.cache.Put(e.key(a.t.name, 0), cache.Value{Data: p, Expires: expires}, a.mark); err == nil {
			a.keep(e, expires)
		}
	}
	return taken{result: result{short: &short{status: e.Status, header: a.header, body: p, age: e.Age}, outcome: a.outcome}}
}
