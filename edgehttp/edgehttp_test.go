package edgehttp

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"firn/cache"
)

// source is an origin whose contents can change, fail and answer as wanted. It knows ranges and conditions.
type source struct {
	mu       sync.Mutex
	contents map[string]sample
	header   http.Header // of all answers
	plain    bool        // knows no ranges
	fails    error
	status   int // instead of the content
	asked    []string
	dropped  int                    // requests that nobody waited for any more
	before   func(r Request)        // each answer
	after    func(r *http.Response) // before it is given
}

type sample struct {
	body     []byte
	etag     string
	modified time.Time
}

func (o *source) Name() string { return "source" }

func (o *source) set(path, body, etag string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.contents == nil {
		o.contents = map[string]sample{}
	}
	o.contents[path] = sample{body: []byte(body), etag: etag}
}

// now changes how it answers.
func (o *source) now(change func(o *source)) {
	o.mu.Lock()
	defer o.mu.Unlock()
	change(o)
}

func (o *source) count() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return len(o.asked)
}

func (o *source) Fetch(ctx context.Context, r Request) (*http.Response, error) {
	o.mu.Lock()
	line := fmt.Sprintf("%s %s %s", r.Method, r.Path, r.Header.Get("Range"))
	if r.Header.Get("If-None-Match")+r.Header.Get("If-Modified-Since") != "" {
		line += " conditional"
	}
	o.asked = append(o.asked, line)
	before, after := o.before, o.after
	o.mu.Unlock()
	if before != nil {
		before(r)
	}
	resp, err := o.answer(ctx, r)
	if err == nil && after != nil {
		after(resp)
	}
	return resp, err
}

func (o *source) answer(ctx context.Context, r Request) (*http.Response, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if ctx.Err() != nil {
		o.dropped++
		return nil, ctx.Err()
	}
	if o.fails != nil {
		return nil, o.fails
	}
	w := httptest.NewRecorder()
	for name, v := range o.header {
		w.Header()[name] = v
	}
	w.Header().Set("Date", time.Now().UTC().Format(http.TimeFormat))
	c, ok := o.contents[r.Path]
	switch {
	case o.status != 0:
		w.WriteHeader(o.status)
		fmt.Fprintln(w, "status", o.status)
	case !ok:
		http.Error(w, "nothing there", http.StatusNotFound)
	default:
		req := httptest.NewRequest(r.Method, "http://source"+r.Path, nil)
		req.Header = r.Header.Clone()
		if c.etag != "" {
			w.Header().Set("Etag", c.etag)
		}
		if o.plain {
			req.Header.Del("Range")
		}
		w.Header().Set("Content-Type", "application/x-test")
		http.ServeContent(w, req, "", c.modified, bytes.NewReader(c.body))
	}
	resp := w.Result()
	resp.ContentLength = -1
	if n, err := strconv.ParseInt(resp.Header.Get("Content-Length"), 10, 64); err == nil {
		resp.ContentLength = n
	}
	return resp, nil
}

const slice = 4 << 10 // the least

func text(n int, seed uint64) string {
	r := rand.New(rand.NewPCG(seed, 2))
	b := make([]byte, n)
	for i := range b {
		b[i] = byte('a' + r.IntN(26))
	}
	return string(b)
}

func newServer(t *testing.T, o Origin, change ...func(*Options)) *Server {
	t.Helper()
	m, err := cache.NewMemory(cache.MemoryOptions{Budget: 16 << 20})
	if err != nil {
		t.Fatal(err)
	}
	c := cache.New(cache.Options{}, m)
	opt := Options{Rules: []Rule{{Prefix: "/", Origins: []Origin{o}}}, Slice: slice, Node: "edge-1"}
	for _, f := range change {
		f(&opt)
	}
	s, err := New(c, opt)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		s.Close()
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func rule(f func(*Rule)) func(*Options) { return func(o *Options) { f(&o.Rules[0]) } }

// ask is one request; header lines are "Name: value".
func ask(s *Server, method, path string, header ...string) *http.Response {
	r := httptest.NewRequest(method, path, nil)
	for _, line := range header {
		name, value, _ := strings.Cut(line, ": ")
		r.Header.Add(name, value)
	}
	w := httptest.NewRecorder()
	broken := false
	func() {
		defer func() {
			p := recover()
			if broken = p != nil; broken && p != http.ErrAbortHandler {
				panic(p)
			}
		}()
		s.ServeHTTP(w, r)
	}()
	res := w.Result()
	if broken {
		res.Header.Set("Broken", "off")
	}
	return res
}

func readAll(t *testing.T, r *http.Response) string {
	t.Helper()
	b, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// want asks and compares status, X-Cache-Status and body.
func want(t *testing.T, s *Server, status int, cached, content, path string, header ...string) *http.Response {
	t.Helper()
	r := ask(s, http.MethodGet, path, header...)
	got := readAll(t, r)
	if r.StatusCode != status || r.Header.Get("X-Cache-Status") != cached {
		t.Errorf("%s %q: %d %s, want %d %s", path, header, r.StatusCode, r.Header.Get("X-Cache-Status"), status, cached)
	}
	if got != content {
		t.Errorf("%s %q: %d bytes %.40q, want %d bytes %.40q", path, header, len(got), got, len(content), content)
	}
	return r
}

func TestHitAndMiss(t *testing.T) {
	o := &source{header: http.Header{"X-Of-The-Origin": {"yes"}, "Connection": {"X-Hop"}, "X-Hop": {"no"}}}
	s := newServer(t, o)
	for _, size := range []int{0, 1, slice - 1, slice, slice + 1, 5*slice + 7} {
		path := fmt.Sprint("/", size)
		content := text(size, uint64(size))
		o.set(path, content, `"v1"`)
		r := want(t, s, 200, miss, content, path)
		if size <= slice {
			if n := o.count(); n != 1 && size > 0 || n > 2 {
				t.Errorf("%d bytes: asked %d times: %q", size, n, o.asked)
			}
		}
		before := o.count()
		for range 3 {
			r = want(t, s, 200, hit, content, path)
		}
		if r.Header.Get("X-Edge-Node") != "edge-1" || r.Header.Get("Age") != "0" || r.Header.Get("X-Of-The-Origin") != "yes" || r.Header.Get("X-Hop") != "" ||
			r.Header.Get("Etag") != `"v1"` || r.ContentLength != int64(size) || r.Header.Get("Content-Type") != "application/x-test" {
			t.Errorf("%+v", r.Header)
		}
		if h := ask(s, http.MethodHead, path); h.StatusCode != 200 || h.Header.Get("Content-Length") != fmt.Sprint(size) || readAll(t, h) != "" {
			t.Errorf("HEAD: %d %+v", h.StatusCode, h.Header)
		}
		if o.count() != before {
			t.Errorf("hits asked the origin: %q", o.asked[before:])
		}
		o.mu.Lock()
		o.asked = nil
		o.mu.Unlock()
	}
	if r := ask(s, http.MethodPost, "/1"); r.StatusCode != http.StatusMethodNotAllowed || r.Header.Get("Allow") != "GET, HEAD" {
		t.Errorf("POST: %d", r.StatusCode)
	}
	if r := ask(s, http.MethodGet, "/a/%2e%2e/b"); r.StatusCode != http.StatusBadRequest {
		t.Errorf("dots: %d", r.StatusCode)
	}
	if r := ask(s, http.MethodGet, "/1", "Via: 1.1 other, 1.1 edge-1"); r.StatusCode != http.StatusLoopDetected {
		t.Errorf("loop: %d", r.StatusCode)
	}
}

func TestRanges(t *testing.T) {
	o := &source{}
	content := text(10*slice+100, 3)
	o.set("/v", content, `"v1"`)
	s := newServer(t, o)
	size := len(content)
	for i, c := range []struct {
		header      string
		first, last int
	}{
		{"bytes=20000-29999", 20000, 29999},
		{"bytes=0-0", 0, 0},
		{fmt.Sprintf("bytes=%d-", size-5), size - 5, size - 1},
		{"bytes=-10", size - 10, size - 1},
		{fmt.Sprintf("bytes=%d-%d", slice-1, slice), slice - 1, slice},
		{fmt.Sprintf("bytes=100-%d", size*2), 100, size - 1},
	} {
		r := ask(s, http.MethodGet, "/v", "Range: "+c.header)
		if got := readAll(t, r); r.StatusCode != 206 || got != content[c.first:c.last+1] {
			t.Errorf("%s: %d, %d bytes", c.header, r.StatusCode, len(got))
		}
		if got := r.Header.Get("Content-Range"); got != fmt.Sprintf("bytes %d-%d/%d", c.first, c.last, size) {
			t.Errorf("%s: %s", c.header, got)
		}
		if i == 0 && (o.count() > 4 || r.Header.Get("X-Cache-Status") != miss) {
			t.Errorf("three slices: %q", o.asked)
		}
	}
	// Each slice was fetched once.
	seen := map[string]bool{}
	for _, a := range o.asked {
		if seen[a] {
			t.Errorf("%s twice", a)
		}
		seen[a] = true
	}
	before := o.count()
	want(t, s, 416, hit, "invalid range: failed to overlap\n", "/v", fmt.Sprintf("Range: bytes=%d-", size))
	want(t, s, 200, hit, content, "/v", "Range: bytes=0-1,5-6")
	want(t, s, 206, hit, content[:2], "/v", "Range: bytes=0-1", `If-Range: "v1"`)
	want(t, s, 200, hit, content, "/v", "Range: bytes=0-1", `If-Range: "v0"`)
	want(t, s, 304, hit, "", "/v", `If-None-Match: "v1"`)
	want(t, s, 304, hit, "", "/v", `If-None-Match: W/"v1"`)
	want(t, s, 200, hit, content, "/v", `If-None-Match: "v0"`)
	want(t, s, 412, hit, "", "/v", `If-Match: "v0"`)
	if o.count() != before {
		t.Errorf("asked: %q", o.asked[before:])
	}
	// A range behind the end of what is not here yet.
	o.set("/w", "short", `"w"`)
	want(t, s, 416, miss, "invalid range: failed to overlap\n", "/w", "Range: bytes=900000-")
	if r := ask(s, "GET", "/w", "Range: bytes=2-"); r.StatusCode != 206 || readAll(t, r) != "ort" {
		t.Errorf("%d", r.StatusCode)
	}
}

// A content that changes while it is read, or between slices, is never served in a mixture.
func TestVersionsNeverMix(t *testing.T) {
	for _, weakly := range []bool{false, true} {
		o := &source{}
		one, two := text(6*slice, 1), text(6*slice, 2)
		put := func(body string, n int) {
			if weakly {
				o.mu.Lock()
				o.contents = map[string]sample{"/v": {body: []byte(body), modified: time.Now().Add(-time.Hour * time.Duration(10-n)).Truncate(time.Second)}}
				o.mu.Unlock()
				return
			}
			o.set("/v", body, fmt.Sprintf(`"%d"`, n))
		}
		put(one, 1)
		s := newServer(t, o)
		want(t, s, 206, miss, one[:10], "/v", "Range: bytes=0-9")
		put(two, 2)
		// The first slice is that of the old version, the others can only be had of the new one.
		r := ask(s, http.MethodGet, "/v", fmt.Sprintf("Range: bytes=%d-", 3*slice))
		if got := readAll(t, r); got != two[3*slice:] || r.StatusCode != 206 {
			t.Errorf("weakly %v: %d, %d bytes, and not those of the new version", weakly, r.StatusCode, len(got))
		}
		want(t, s, 200, miss, two, "/v")
		want(t, s, 200, hit, two, "/v")
		// In the middle of an answer: it breaks off.
		put(one, 3)
		n := 0
		o.before = func(r Request) {
			if n++; n == 3 {
				put(two, 4)
			}
		}
		if err := s.Purge(t.Context(), cache.Match{Object: "/v"}); err != nil {
			t.Fatal(err)
		}
		r = ask(s, http.MethodGet, "/v")
		got := readAll(t, r)
		if whole := got == one || got == two; !whole && r.Header.Get("Broken") == "" || !strings.HasPrefix(one, got) && !strings.HasPrefix(two, got) {
			t.Errorf("weakly %v: %d bytes of a mixture", weakly, len(got))
		}
		if n < 3 {
			t.Fatalf("it did not change in the middle: %q", o.asked)
		}
		o.now(func(o *source) { o.before = nil })
		// It does not break off again and again.
		want(t, s, 200, expired, two, "/v")
		want(t, s, 200, hit, two, "/v")
	}
}

// What cannot be told from another version is kept only as a whole.
func TestWithoutValidators(t *testing.T) {
	o := &source{}
	small, large := text(100, 1), text(3*slice, 2)
	o.set("/small", small, "")
	o.set("/large", large, "")
	o.set("/weak", large, `W/"1"`)
	s := newServer(t, o)
	want(t, s, 200, miss, small, "/small")
	want(t, s, 200, hit, small, "/small")
	for range 2 {
		want(t, s, 200, bypass, large, "/large")
		want(t, s, 206, bypass, large[5000:5010], "/large", "Range: bytes=5000-5009")
		want(t, s, 200, bypass, large, "/weak")
	}
	o.plain = true
	o.set("/plain", large, `"p"`)
	want(t, s, 200, bypass, large, "/plain")
	o.set("/plain2", small, `"p"`)
	want(t, s, 200, miss, small, "/plain2")
	want(t, s, 206, hit, small[3:], "/plain2", "Range: bytes=3-")
}

// A thousand who ask for one thing at one time share one request for each slice.
func TestCollapsing(t *testing.T) {
	var requests atomic.Int64
	content := text(3*slice, 9)
	release := make(chan struct{})
	backend := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		requests.Add(1)
		<-release
		w.Header().Set("Etag", `"x"`)
		http.ServeContent(w, r, "", time.Time{}, strings.NewReader(content))
	}))
	defer backend.Close()
	u, err := url.Parse(backend.URL)
	if err != nil {
		t.Fatal(err)
	}
	o, err := NewHTTP(HTTPOptions{URL: u})
	if err != nil {
		t.Fatal(err)
	}
	s := newServer(t, o)
	front := httptest.NewServer(s)
	defer front.Close()
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 1000}}
	var wg sync.WaitGroup
	for range 1000 {
		wg.Go(func() {
			resp, err := client.Get(front.URL + "/cold")
			if err != nil {
				t.Error(err)
				return
			}
			defer resp.Body.Close()
			if b, err := io.ReadAll(resp.Body); err != nil || string(b) != content {
				t.Errorf("%d bytes, %v", len(b), err)
			}
		})
	}
	for end := time.Now().Add(20 * time.Second); ; {
		s.mu.Lock()
		waiting := 0
		if f := s.mu.flights["/cold"]; f != nil {
			waiting = f.refs
		}
		s.mu.Unlock()
		if waiting == 1000 {
			break
		}
		if time.Now().After(end) {
			t.Errorf("%d of 1000 wait", waiting)
			break
		}
		select {
		case <-time.After(time.Millisecond):
		case <-t.Context().Done():
		}
	}
	close(release)
	wg.Wait()
	if n := requests.Load(); n != 3 {
		t.Errorf("%d requests for 3 slices", n)
	}
	client.CloseIdleConnections()
}

// The first to ask goes away: the others get it all the same, from the same request.
func TestTheFirstGoesAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := &source{before: func(Request) { time.Sleep(time.Second) }}
		content := text(slice, 1)
		o.set("/v", content, `"1"`)
		s := newServer(t, o)
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() { s.ServeHTTP(httptest.NewRecorder(), httptest.NewRequestWithContext(ctx, "GET", "/v", nil)) })
		time.Sleep(time.Second / 2)
		for range 10 {
			wg.Go(func() { want(t, s, 200, miss, content, "/v") })
		}
		synctest.Wait()
		cancel()
		wg.Wait()
		if o.count() != 1 {
			t.Errorf("%q", o.asked)
		}
		// Everybody goes away: so does the request.
		ctx, cancel = context.WithCancel(t.Context())
		o.set("/w", content, `"1"`)
		wg.Go(func() { s.ServeHTTP(httptest.NewRecorder(), httptest.NewRequestWithContext(ctx, "GET", "/w", nil)) })
		synctest.Wait()
		cancel()
		wg.Wait()
		time.Sleep(2 * time.Second)
		synctest.Wait()
		o.now(func(o *source) {
			if o.dropped != 1 {
				t.Errorf("%d requests were given up", o.dropped)
			}
		})
		want(t, s, 200, miss, content, "/w")
	})
}

// The life of a content: fresh, stale, revalidated, changed, served stale when the origin is away, gone.
func TestLife(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := &source{header: http.Header{"Cache-Control": {"max-age=60"}}}
		one, two := text(2*slice, 1), text(2*slice, 2)
		o.set("/v", one, `"1"`)
		s := newServer(t, o, rule(func(r *Rule) { r.StaleIfError = time.Hour }))
		want(t, s, 200, miss, one, "/v")
		time.Sleep(59 * time.Second)
		if r := want(t, s, 200, hit, one, "/v"); r.Header.Get("Age") != "59" {
			t.Errorf("Age %s", r.Header.Get("Age"))
		}
		time.Sleep(2 * time.Second)
		before := o.count()
		if r := want(t, s, 200, revalidated, one, "/v"); r.Header.Get("Age") != "0" {
			t.Errorf("Age %s", r.Header.Get("Age"))
		}
		if o.count() != before+1 {
			t.Errorf("the slices were fetched again: %q", o.asked[before:])
		}
		want(t, s, 200, hit, one, "/v")
		time.Sleep(61 * time.Second)
		o.set("/v", two, `"2"`)
		want(t, s, 200, expired, two, "/v")
		want(t, s, 200, hit, two, "/v")
		// Away: stale, at once after the first, until the hour is over.
		time.Sleep(61 * time.Second)
		o.now(func(o *source) { o.fails = errors.New("connection refused") })
		if r := want(t, s, 200, stale, two, "/v"); r.Header.Get("Age") != "61" {
			t.Errorf("Age %s", r.Header.Get("Age"))
		}
		o.now(func(o *source) { o.before = func(Request) { time.Sleep(10 * time.Second) } })
		begin := time.Now()
		want(t, s, 200, stale, two, "/v")
		if time.Since(begin) > 0 {
			t.Errorf("waited %s for an origin that is away", time.Since(begin))
		}
		o.now(func(o *source) { o.before = nil })
		time.Sleep(20 * time.Second)
		o.now(func(o *source) { o.fails, o.status = nil, 503 })
		want(t, s, 200, stale, two, "/v")
		time.Sleep(time.Hour)
		want(t, s, 503, expired, "status 503\n", "/v")
		o.now(func(o *source) { o.status, o.fails = 0, errors.New("connection refused") })
		want(t, s, 502, miss, "the origin does not answer, and there is nothing here that could be served\n", "/v")
		o.now(func(o *source) { o.fails = nil })
		want(t, s, 200, revalidated, two, "/v")
		// Gone.
		time.Sleep(61 * time.Second)
		o.now(func(o *source) { delete(o.contents, "/v") })
		want(t, s, 404, expired, "nothing there\n", "/v")
	})
}

// stale-while-revalidate serves at once and asks meanwhile, once.
func TestStaleWhileRevalidate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := &source{header: http.Header{"Cache-Control": {"max-age=60, stale-while-revalidate=30"}}}
		one, two := text(slice, 1), text(slice, 2)
		o.set("/v", one, `"1"`)
		s := newServer(t, o)
		want(t, s, 200, miss, one, "/v")
		time.Sleep(70 * time.Second)
		o.set("/v", two, `"2"`)
		o.now(func(o *source) { o.before = func(Request) { time.Sleep(time.Second) } })
		begin := time.Now()
		for range 5 {
			want(t, s, 200, updating, one, "/v")
		}
		if time.Since(begin) > 0 {
			t.Error("it waited")
		}
		time.Sleep(2 * time.Second)
		want(t, s, 200, hit, two, "/v")
		if o.count() != 2 {
			t.Errorf("%q", o.asked)
		}
		time.Sleep(91 * time.Second) // too late for that
		o.set("/v", one, `"3"`)
		// The first one waits, the others get what is here.
		var wg sync.WaitGroup
		wg.Go(func() { want(t, s, 200, expired, one, "/v") })
		time.Sleep(time.Second / 2)
		want(t, s, 200, updating, two, "/v")
		wg.Wait()
	})
}

// must-revalidate, no-cache and s-maxage are never served stale, unless the rule overrides.
func TestMustRevalidate(t *testing.T) {
	for _, cc := range []string{"max-age=60, must-revalidate", "s-maxage=60", "max-age=60, proxy-revalidate", "no-cache", `no-cache="set-cookie"`, "max-age=soon"} {
		synctest.Test(t, func(t *testing.T) {
			o := &source{header: http.Header{"Cache-Control": {cc}}}
			o.set("/v", "x", `"1"`)
			s, over := newServer(t, o), newServer(t, o, rule(func(r *Rule) { r.Override, r.TTL = true, map[int]time.Duration{200: time.Minute} }))
			want(t, s, 200, miss, "x", "/v")
			want(t, over, 200, miss, "x", "/v")
			time.Sleep(61 * time.Second)
			o.now(func(o *source) { o.fails = errors.New("away") })
			want(t, s, 502, miss, "the origin does not answer, and there is nothing here that could be served\n", "/v")
			want(t, over, 200, stale, "x", "/v")
			o.now(func(o *source) { o.fails = nil })
			want(t, s, 200, revalidated, "x", "/v")
		})
	}
}

// By status: 404 for a minute; what is not listed is passed on and not kept.
func TestStatuses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := &source{}
		s := newServer(t, o)
		want(t, s, 404, miss, "nothing there\n", "/none")
		want(t, s, 404, hit, "nothing there\n", "/none")
		o.set("/none", "now", `"1"`)
		time.Sleep(59 * time.Second)
		if r := want(t, s, 404, hit, "nothing there\n", "/none"); r.Header.Get("Age") != "59" {
			t.Errorf("Age %s", r.Header.Get("Age"))
		}
		if r := ask(s, "HEAD", "/none"); r.StatusCode != 404 || readAll(t, r) != "" || r.Header.Get("Content-Length") != "14" {
			t.Errorf("HEAD: %d %v", r.StatusCode, r.Header)
		}
		time.Sleep(2 * time.Second)
		want(t, s, 200, expired, "now", "/none")
		want(t, s, 200, hit, "now", "/none")
		for _, status := range []int{403, 500, 418} {
			o.now(func(o *source) { o.status = status })
			for range 2 {
				want(t, s, status, miss, fmt.Sprintf("status %d\n", status), fmt.Sprint("/", status))
			}
		}
		o.now(func(o *source) { o.status = 301 })
		want(t, s, 301, miss, "status 301\n", "/moved")
		want(t, s, 301, hit, "status 301\n", "/moved")
	})
}

func TestPrivateIsNotKept(t *testing.T) {
	for _, h := range []http.Header{
		{"Cache-Control": {"private, max-age=60"}},
		{"Cache-Control": {"no-store"}},
		{"Cache-Control": {"max-age=60", "no-store"}},
		{"Set-Cookie": {"a=b"}},
		{"Vary": {"Cookie", "*"}},
	} {
		o := &source{header: h}
		o.set("/v", "x", `"1"`)
		s := newServer(t, o)
		want(t, s, 200, bypass, "x", "/v")
		o.set("/v", "y", `"2"`)
		want(t, s, 200, bypass, "y", "/v")
		if h.Get("Vary") == "" {
			o.now(func(o *source) { o.status = 404 })
			o.set("/w", "", "")
			want(t, s, 404, bypass, "status 404\n", "/w")
		}
	}
	// With these headers a request is its sender's own.
	o := &source{}
	o.set("/v", "x", `"1"`)
	s := newServer(t, o, rule(func(r *Rule) { r.Pass = []string{"Authorization"} }))
	var got []string
	o.before = func(r Request) { got = append(got, r.Header.Get("Authorization")+r.Header.Get("Cookie")) }
	want(t, s, 200, bypass, "x", "/v", "Authorization: me", "Cookie: mine")
	want(t, s, 200, miss, "x", "/v", "Cookie: mine")
	want(t, s, 200, bypass, "x", "/v", "Authorization: me")
	if fmt.Sprint(got) != "[me  me]" {
		t.Errorf("the origin was told %q", got)
	}
}

func TestRulesAndNames(t *testing.T) {
	a, b := &source{}, &source{}
	a.set("/x", "of a", `"1"`)
	b.set("/videos/x", "of b", `"1"`)
	b.set("/videos/", "root of b", `"1"`)
	s := newServer(t, a, func(o *Options) {
		o.Rules = []Rule{
			{Prefix: "/all/", Strip: true, Origins: []Origin{a}},
			{Prefix: "/videos/", Origins: []Origin{b}, IgnoreQuery: true},
			{Prefix: "/videos/live/", Origins: []Origin{b}, Bypass: true},
		}
	})
	want(t, s, 200, miss, "of a", "/all/x")
	want(t, s, 200, miss, "of a", "/all/x?v=2")
	want(t, s, 200, hit, "of a", "/all/x?v=2")
	want(t, s, 200, miss, "of b", "/videos/x?session=1")
	want(t, s, 200, hit, "of b", "/videos/x?session=2")
	want(t, s, 404, bypass, "nothing there\n", "/videos/live/1")
	// However it is escaped, it is one content; a slash that is escaped is no other segment.
	a.set("/a%20b/c%2Fd", "escaped", `"1"`)
	want(t, s, 200, miss, "escaped", "/all/a%20b/c%2fd")
	want(t, s, 200, hit, "escaped", "/all/%61%20b/c%2Fd")
	if r := ask(s, "GET", "/all/a%20b/c/d"); r.StatusCode != 404 {
		t.Errorf("%d", r.StatusCode)
	}
	a.mu.Lock()
	a.asked = a.asked[:2]
	a.mu.Unlock()
	if r := ask(s, "GET", "/other"); r.StatusCode != 404 || a.count() != 2 {
		t.Errorf("%d, %q", r.StatusCode, a.asked)
	}
	for _, bad := range []Options{
		{Rules: []Rule{{Prefix: "x", Origins: []Origin{a}}}},
		{Rules: []Rule{{Prefix: "/"}}},
		{Slice: 1},
		{Node: "a b"},
		{Rules: []Rule{{Prefix: "/", Origins: []Origin{a}}, {Prefix: "/", Origins: []Origin{b}}}},
		{Timeout: -1},
		{Rules: []Rule{{Prefix: "/", Origins: []Origin{a}, TTL: map[int]time.Duration{206: 1}}}},
	} {
		if _, err := New(nil, bad); err == nil {
			t.Errorf("%+v was taken", bad)
		}
	}
}

// The second origin is asked where the first one fails.
func TestBackupOrigin(t *testing.T) {
	a, b := &source{fails: errors.New("refused")}, &source{}
	a.set("/v", "x", `"1"`)
	b.set("/v", "x", `"1"`)
	s := newServer(t, a, rule(func(r *Rule) { r.Origins = []Origin{a, b} }))
	want(t, s, 200, miss, "x", "/v")
	a.fails, a.status = nil, 503
	want(t, s, 404, miss, "nothing there\n", "/w")
	a.status = 404
	b.set("/z", "y", `"1"`)
	want(t, s, 404, miss, "status 404\n", "/z")
}

func TestPurge(t *testing.T) {
	o := &source{}
	s := newServer(t, o, func(o *Options) { o.Purgers = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")} })
	set := func(v string) {
		for _, p := range []string{"/a/1", "/a/2", "/b/1"} {
			o.set(p, v, `"`+v+`"`)
		}
	}
	purge := func(from, path string) int {
		r := httptest.NewRequest("PURGE", path, nil)
		r.RemoteAddr = from
		w := httptest.NewRecorder()
		s.ServeHTTP(w, r)
		return w.Code
	}
	set("old")
	for _, p := range []string{"/a/1", "/a/2", "/b/1", "/a/1?q"} {
		want(t, s, 200, miss, "old", p)
	}
	set("new")
	if code := purge("192.0.2.1:1", "/a/1"); code != 403 {
		t.Errorf("from outside: %d", code)
	}
	want(t, s, 200, hit, "old", "/a/1")
	if code := purge("10.1.2.3:1", "/a/1"); code != 200 {
		t.Errorf("%d", code)
	}
	want(t, s, 200, miss, "new", "/a/1")
	want(t, s, 200, hit, "old", "/a/2")
	want(t, s, 200, hit, "old", "/a/1?q")
	if code := purge("[::ffff:10.1.2.3]:1", "/a/*"); code != 200 {
		t.Errorf("%d", code)
	}
	want(t, s, 200, miss, "new", "/a/2")
	want(t, s, 200, miss, "new", "/a/1?q")
	want(t, s, 200, hit, "old", "/b/1")
}

// What is on its way when it is purged is not kept.
func TestPurgeWhileItIsFetched(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := &source{}
		o.set("/v", "old", `"old"`)
		s := newServer(t, o)
		slow := true
		o.before = func(Request) {
			if slow {
				slow = false
				o.mu.Lock()
				old := o.contents["/v"]
				o.mu.Unlock()
				time.Sleep(time.Second)
				o.mu.Lock()
				o.contents["/v"] = old // what was read before
				o.mu.Unlock()
			}
		}
		var wg sync.WaitGroup
		wg.Go(func() { want(t, s, 200, miss, "old", "/v") })
		synctest.Wait()
		if err := s.Purge(t.Context(), cache.Match{Object: "/v"}); err != nil {
			t.Fatal(err)
		}
		wg.Wait()
		o.set("/v", "new", `"new"`)
		want(t, s, 200, miss, "new", "/v")
	})
}

// Who asks after a purge does not get what was asked for before it.
func TestAskedAfterAPurge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := &source{}
		o.set("/v", "old", `"old"`)
		s := newServer(t, o)
		first := true
		o.now(func(o *source) {
			o.after = func(*http.Response) {
				if first {
					first = false
					time.Sleep(time.Second) // with the old answer in hand
				}
			}
		})
		var wg sync.WaitGroup
		wg.Go(func() { want(t, s, 200, miss, "old", "/v") })
		synctest.Wait()
		o.set("/v", "new", `"new"`)
		if err := s.Purge(t.Context(), cache.Match{Object: "/v"}); err != nil {
			t.Fatal(err)
		}
		want(t, s, 200, miss, "new", "/v")
		wg.Wait()
		want(t, s, 200, hit, "new", "/v")
	})
}

// What may be no part of another answer is not made whole by one: header and content are of one version.
func TestALostSliceOfOne(t *testing.T) {
	o := &source{header: http.Header{"X-V": {"1"}}}
	o.set("/v", "one", "")
	s := newServer(t, o)
	want(t, s, 200, miss, "one", "/v")
	e := s.lookup(t.Context(), s.target(s.rule("/v"), httptest.NewRequest("GET", "/v", nil)))
	if err := s.cache.Purge(t.Context(), cache.Match{Object: "/v", Version: e.Gen}); err != nil {
		t.Fatal(err)
	}
	o.set("/v", "two", "")
	o.now(func(o *source) { o.header = http.Header{"X-V": {"2"}} })
	if r := want(t, s, 200, miss, "two", "/v"); r.Header.Get("X-V") != "2" {
		t.Errorf("the header of version %s with the content of 2", r.Header.Get("X-V"))
	}
}

// A 304 for another version than that which is kept does not make that one fresh.
func TestNotModifiedOfAnother(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := &source{header: http.Header{"Cache-Control": {"max-age=1"}}}
		o.set("/v", "one", `"1"`)
		s := newServer(t, o)
		want(t, s, 200, miss, "one", "/v")
		time.Sleep(2 * time.Second)
		o.set("/v", "two", `"2"`)
		o.now(func(o *source) {
			o.after = func(r *http.Response) {
				if strings.Contains(o.asked[len(o.asked)-1], "conditional") {
					r.StatusCode, r.Body = http.StatusNotModified, http.NoBody
				}
			}
		})
		want(t, s, 200, miss, "two", "/v")
	})
}

// What nobody asks for goes after the time for that; what is asked for stays.
func TestInactive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := &source{header: http.Header{"Cache-Control": {"max-age=31536000"}}}
		o.set("/used", "x", `"1"`)
		o.set("/unused", "x", `"1"`)
		s := newServer(t, o)
		want(t, s, 200, miss, "x", "/used")
		want(t, s, 200, miss, "x", "/unused")
		for range 6 {
			time.Sleep(4 * 24 * time.Hour)
			want(t, s, 200, hit, "x", "/used")
		}
		want(t, s, 200, miss, "x", "/unused")
	})
}

// An S3 server verifies the signature; ranges and conditions are not part of it.
func TestSignedOrigin(t *testing.T) {
	backend := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		auth := r.Header.Get("Authorization")
		if !strings.HasPrefix(auth, "AWS4-HMAC-SHA256 Credential=access/") || strings.Contains(auth, "range") || strings.Contains(auth, "if-match") ||
			r.Header.Get("X-Amz-Date") == "" || len(r.Header.Get("X-Amz-Content-Sha256")) != 64 || r.URL.EscapedPath() != "/bucket/a%20b/c" || r.URL.RawQuery != "" {
			http.Error(w, "no: "+auth+" "+r.URL.EscapedPath(), http.StatusForbidden)
			return
		}
		w.Header().Set("Etag", `"1"`)
		http.ServeContent(w, r, "", time.Time{}, strings.NewReader("content"))
	}))
	defer backend.Close()
	u, err := url.Parse(backend.URL + "/bucket")
	if err != nil {
		t.Fatal(err)
	}
	o, err := NewHTTP(HTTPOptions{URL: u, AccessKey: "access", SecretKey: "secret"})
	if err != nil {
		t.Fatal(err)
	}
	s := newServer(t, o)
	want(t, s, 200, miss, "content", "/a%20b/c")
	want(t, s, 206, hit, "tent", "/a%20b/c", "Range: bytes=3-")
	// With the keys nothing but objects is asked for.
	want(t, s, 404, miss, "", "/")
	want(t, s, 200, miss, "content", "/a%20b/c?acl")
	if _, err := NewHTTP(HTTPOptions{URL: &url.URL{Scheme: "http", Host: "h"}, AccessKey: "a", SecretKey: "b"}); err == nil {
		t.Error("an S3 origin without a bucket was taken")
	}
	for _, bad := range []string{"ftp://h/", "http://u:p@h/", "http://h/?q", "http://", "http://h/#f"} {
		u, err := url.Parse(bad)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := NewHTTP(HTTPOptions{URL: u}); err == nil {
			t.Errorf("%s was taken", bad)
		}
	}
}

func TestOnlyIfCached(t *testing.T) {
	o := &source{}
	o.set("/v", "x", `"1"`)
	s := newServer(t, o)
	if r := ask(s, "GET", "/v", "Cache-Control: only-if-cached"); r.StatusCode != 504 || o.count() != 0 {
		t.Errorf("%d, asked %d times", r.StatusCode, o.count())
	}
	want(t, s, 200, miss, "x", "/v")
	want(t, s, 200, hit, "x", "/v", "Cache-Control: only-if-cached")
}

// An origin that hangs, before its header or in the middle, is not waited for for ever.
func TestAnOriginThatHangs(t *testing.T) {
	release := make(chan struct{})
	backend := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/half" {
			w.Header().Set("Etag", `"1"`)
			w.Header().Set("Content-Length", "100")
			fmt.Fprint(w, "half")
			_ = http.NewResponseController(w).Flush()
		}
		<-release
	}))
	defer backend.Close()
	defer close(release)
	u, err := url.Parse(backend.URL)
	if err != nil {
		t.Fatal(err)
	}
	o, err := NewHTTP(HTTPOptions{URL: u})
	if err != nil {
		t.Fatal(err)
	}
	s := newServer(t, o, func(o *Options) { o.Timeout = 100 * time.Millisecond })
	if r := ask(s, "GET", "/hangs"); r.StatusCode != 502 {
		t.Errorf("%d", r.StatusCode)
	}
	r := ask(s, "GET", "/half")
	if got := readAll(t, r); r.Header.Get("Broken") == "" && r.StatusCode != 502 {
		t.Errorf("%d %q is taken for whole", r.StatusCode, got)
	}
}

func TestHeadFirst(t *testing.T) {
	o := &source{}
	content := text(3*slice, 1)
	o.set("/v", content, `"1"`)
	s := newServer(t, o)
	for i, cached := range []string{miss, hit} {
		if r := ask(s, "HEAD", "/v"); r.StatusCode != 200 || r.Header.Get("X-Cache-Status") != cached || r.Header.Get("Content-Length") != fmt.Sprint(len(content)) {
			t.Errorf("%d: %d %v", i, r.StatusCode, r.Header)
		}
	}
	want(t, s, 200, miss, content, "/v")
	if r := ask(s, "HEAD", "/none"); r.StatusCode != 404 {
		t.Errorf("%d", r.StatusCode)
	}
	want(t, s, 404, miss, "nothing there\n", "/none")
}

// What is doubted is asked for before it is served again, stale answers meanwhile included, unless the origin fails.
func TestDoubt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := &source{header: http.Header{"Cache-Control": {"max-age=60, stale-while-revalidate=60"}}}
		s := newServer(t, o)
		o.set("/v", "old", `"1"`)
		want(t, s, 200, miss, "old", "/v")
		time.Sleep(time.Second)
		s.Doubt()
		want(t, s, 200, revalidated, "old", "/v")
		want(t, s, 200, hit, "old", "/v")
		time.Sleep(70 * time.Second)
		s.Doubt()
		o.set("/v", "new", `"2"`)
		want(t, s, 200, expired, "new", "/v")
		time.Sleep(time.Second)
		s.Doubt()
		o.now(func(o *source) { o.fails = errors.New("away") })
		want(t, s, 200, stale, "new", "/v")
	})
}
