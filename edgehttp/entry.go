package edgehttp

import (
	"encoding/json"
	"fmt"
	"hash/maphash"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/pquerna/cachecontrol/cacheobject"
)

// entry is what is kept of an answer beside its slices.
type entry struct {
	Status int         `json:"status"`
	Header http.Header `json:"header"` // end to end
	Size   int64       `json:"size"`
	// Gen names the version that slices belong to: an entry uses no other's.
	Gen string `json:"gen"`
	// Slice is the size of slices. One means that all is in one, which may be no part of another answer's.
	Slice int64 `json:"slice"`
	One   bool  `json:"one,omitempty"`
	// Head: it is the answer to a HEAD, and says nothing of whether ranges are answered.
	Head bool `json:"head,omitempty"`
	// Pass: nothing is kept, and for a while nobody waits to share an answer.
	Pass bool `json:"pass,omitempty"`
	// Received is when, and Age how old it was then (corrected_initial_age of RFC 9111, 4.2.3).
	Received time.Time     `json:"received"`
	Age      time.Duration `json:"age"`
	// Lifetime is for how long it is fresh. OnError and Meanwhile are for how much longer it may be served when the origin
	// fails, and while it is asked.
	Lifetime  time.Duration `json:"lifetime"`
	OnError   time.Duration `json:"on_error"`
	Meanwhile time.Duration `json:"meanwhile"`
	// Must: it is not served stale.
	Must bool `json:"must,omitempty"`
}

func (e *entry) encode() ([]byte, error) { return json.Marshal(e) }

// parseEntry reads an entry. What cannot be one is none.
func parseEntry(p []byte) *entry {
	var e entry
	if json.Unmarshal(p, &e) != nil || e.Status < 200 || e.Status > 599 || e.Size < 0 || e.Slice < minSlice || e.Slice > MaxSlice ||
		e.One && e.Size > e.Slice || e.Lifetime < 0 || e.Age < 0 {
		return nil
	}
	if e.Header == nil {
		e.Header = http.Header{}
	}
	return &e
}

// parsed remembers entries by the memory that they were parsed from, which does not change.
type parsed struct {
	seed  maphash.Seed
	slots [1024]atomic.Pointer[parsedEntry]
}

type parsedEntry struct {
	from []byte
	e    *entry
}

// entry is parseEntry. What it returns must not be changed.
func (p *parsed) entry(name string, b []byte) *entry {
	if len(b) == 0 {
		return nil
	}
	slot := &p.slots[maphash.String(p.seed, name)%uint64(len(p.slots))]
	if was := slot.Load(); was != nil && &was.from[0] == &b[0] && len(was.from) == len(b) {
		return was.e
	}
	e := parseEntry(b)
	if e != nil && len(b) <= maxParsed {
		slot.Store(&parsedEntry{b, e})
	}
	return e
}

// maxParsed bounds the memory of what is remembered.
const maxParsed = 4 << 10

// age is the current_age of RFC 9111, 4.2.3.
func (e *entry) age(now time.Time) time.Duration { return e.Age + max(now.Sub(e.Received), 0) }

func (e *entry) fresh(now time.Time) bool { return e.age(now) < e.Lifetime }

// onError reports whether e may be served though it is stale, as the origin fails.
func (e *entry) onError(now time.Time) bool {
	return e.fresh(now) || !e.Must && e.age(now) < e.Lifetime+e.OnError
}

// meanwhile reports whether e may be served though it is stale, while the origin is asked.
func (e *entry) meanwhile(now time.Time) bool {
	return e.fresh(now) || !e.Must && e.age(now) < e.Lifetime+e.Meanwhile
}

// etag returns the entity tag, and whether it is a strong one.
func etag(h http.Header) (tag string, strong bool) {
	tag = strings.TrimSpace(h.Get("Etag"))
	return tag, len(tag) > 1 && strings.HasPrefix(tag, `"`)
}

// combinable reports whether parts of answers with these headers can be told from those of another version (RFC 9110,
// 8.8.1): by a strong entity tag, or by a time of modification that is at least a minute before the answer.
func combinable(h http.Header) bool {
	if _, strong := etag(h); strong {
		return true
	}
	modified, err := http.ParseTime(h.Get("Last-Modified"))
	if err != nil {
		return false
	}
	date, err := http.ParseTime(h.Get("Date"))
	return err == nil && date.Sub(modified) >= time.Minute
}

// generation names the version of an answer that is combinable.
func generation(h http.Header, size int64) string {
	if tag, strong := etag(h); strong {
		return fmt.Sprintf("e%s/%d", tag, size)
	}
	return fmt.Sprintf("m%s/%d", h.Get("Last-Modified"), size)
}

// understood statuses may be kept; answers with others are passed on only.
func understood(status int) bool {
	return slices.Contains([]int{200, 203, 204, 300, 301, 302, 303, 307, 308, 404, 405, 410, 414, 451, 501}, status)
}

// times are what an answer and the rule say of its life.
type times struct {
	keep bool
	// alone: it is for one client only.
	alone                       bool
	age                         time.Duration
	lifetime, onError, meantime time.Duration
	must                        bool
}

const forever = 10 * 365 * 24 * time.Hour

// judge says whether and for how long an answer with this status (200 for a part) and headers may be kept by a cache that
// is shared: RFC 9111, 3 and 4.2, and RFC 5861.
func judge(r *Rule, status int, h http.Header, asked, received time.Time) times {
	t := times{onError: r.StaleIfError, meantime: r.StaleWhileRevalidate}
	t.age = initialAge(h, asked, received)
	ttl, ruled := r.TTL[status]
	if len(h.Values("Set-Cookie")) > 0 && !r.Override {
		t.alone = true
		return t
	}
	if r.Override && ruled {
		// The rule's time begins now, whatever the answer's age is.
		t.keep, t.lifetime, t.age = ttl > 0, ttl, 0
		return t
	}
	if !understood(status) || strings.Contains(strings.Join(h.Values("Vary"), ","), "*") || r.Override {
		return t
	}
	explicit := false
	cc, err := cacheobject.ParseResponseCacheControl(strings.Join(h.Values("Cache-Control"), ", "))
	switch {
	case err != nil:
		// It wanted to say something about caching: the careful reading is that it is stale at once.
		t.must, explicit = true, true
	case cc.NoStore, cc.PrivatePresent:
		t.alone = true
		return t
	default:
		// Field names with no-cache or private are read as if they were not there, which RFC 9111 allows.
		t.must = cc.MustRevalidate || cc.ProxyRevalidate || cc.NoCachePresent || cc.SMaxAge >= 0
		switch {
		case cc.NoCachePresent:
			explicit = true
		case cc.SMaxAge >= 0:
			t.lifetime, explicit = time.Duration(cc.SMaxAge)*time.Second, true
		case cc.MaxAge >= 0:
			t.lifetime, explicit = time.Duration(cc.MaxAge)*time.Second, true
		}
		if cc.StaleIfError >= 0 {
			t.onError = time.Duration(cc.StaleIfError) * time.Second
		}
		if cc.StaleWhileRevalidate >= 0 {
			t.meantime = time.Duration(cc.StaleWhileRevalidate) * time.Second
		}
	}
	if expires := h.Values("Expires"); !explicit && len(expires) > 0 {
		explicit = true
		date, err := http.ParseTime(h.Get("Date"))
		if err != nil {
			date = received
		}
		if when, err := http.ParseTime(expires[0]); err == nil && len(expires) == 1 {
			t.lifetime = min(max(when.Sub(date), 0), forever)
		}
	}
	if !explicit && h.Get("Cache-Control") == "" && strings.Contains(strings.ToLower(h.Get("Pragma")), "no-cache") {
		t.must, explicit = true, true
	}
	if !explicit && ruled {
		t.lifetime = ttl
	}
	// What is stale at once is kept only where it can be revalidated, or may be served stale.
	tag, _ := etag(h)
	t.keep = t.lifetime > 0 || explicit && (tag != "" || h.Get("Last-Modified") != "")
	return t
}

// initialAge is corrected_initial_age of RFC 9111, 4.2.3.
func initialAge(h http.Header, asked, received time.Time) time.Duration {
	var apparent time.Duration
	if date, err := http.ParseTime(h.Get("Date")); err == nil {
		apparent = max(received.Sub(date), 0)
	}
	var value time.Duration
	if n, err := strconv.ParseInt(strings.TrimSpace(h.Get("Age")), 10, 64); err == nil && n > 0 {
		value = min(time.Duration(min(n, int64(forever/time.Second)))*time.Second, forever)
	}
	corrected := value + max(received.Sub(asked), 0)
	return max(apparent, corrected)
}

// refreshed is e after a 304 with the header h (RFC 9111, 3.2): what describes the content itself stays.
func (e *entry) refreshed(h http.Header) *entry {
	n := *e
	n.Header = http.Header{}
	for name, values := range e.Header {
		n.Header[name] = values
	}
	for name, values := range endToEnd(h) {
		switch name {
		case "Content-Length", "Content-Encoding", "Content-Type", "Content-Range", "Etag":
		default:
			n.Header[name] = values
		}
	}
	return &n
}
