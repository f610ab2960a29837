// Package edgehttp is an HTTP cache at the edge: it answers GET and HEAD from what it keeps of slower origins (HTTP
// servers, S3 buckets, buckets of this site), with byte ranges, and goes on with what it has when they are away.
//
// It owns what may be kept, for how long, and what is asked of an origin when: RFC 9111 with the extensions of RFC 5861,
// bent by rules where an operator says so. It promises that bytes of two versions of a content are never put together;
// that everybody who asks for one thing at one time shares one request to the origin; and that nothing a response
// forbids to keep is kept. It keeps contents in fixed slices in a package cache, which bounds the room, and holds no
// other state than what is on its way. It must never import a driver, the namespace, the configuration or another door.
package edgehttp

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"log/slog"
	"maps"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"firn"
	"firn/cache"
)

// Bounds.
const (
	// MaxSlice is the most bytes in one slice.
	MaxSlice = cache.MaxBlock
	minSlice = 4 << 10
	// maxAnswer is the most bytes of an answer that is passed to all who wait though it is not kept.
	maxAnswer = 64 << 10
	// retries is how often a request begins again because the content changed under it, before a byte was sent.
	retries = 3
)

// Rule says where what is asked for comes from and how it is kept.
type Rule struct {
	// Prefix of the paths that it is for; the longest one counts. "/" is for all.
	Prefix string
	// Strip takes the prefix off before the origin is asked.
	Strip bool
	// Origins are asked in this order until one answers with less than 500. There is one at least.
	Origins []Origin
	// TTL is how long an answer is fresh, by status, where it does not say so itself: DefaultTTL where nil. Statuses that
	// are not listed are kept only where the answer says so.
	TTL map[int]time.Duration
	// Override has TTL count whatever the answer says, no-store and private included.
	Override bool
	// Inactive is how long something is kept that nobody asks for; 7 days.
	Inactive time.Duration
	// StaleIfError and StaleWhileRevalidate are for answers that do not say so themselves; StaleIfError is Inactive where
	// 0, that is always, and none where less than 0. What must be revalidated is never served stale, unless Override.
	StaleIfError, StaleWhileRevalidate time.Duration
	// IgnoreQuery drops the query: all queries of a path are one content.
	IgnoreQuery bool
	// Pass are request headers, such as Authorization or Cookie, with which a request is passed on, with them, to the
	// origin and back, and nothing is kept. Others are not passed on.
	Pass []string
	// Bypass passes all on, and keeps nothing.
	Bypass bool
}

// DefaultTTL are the times for answers that give none.
func DefaultTTL() map[int]time.Duration {
	return map[int]time.Duration{
		http.StatusOK: 7 * 24 * time.Hour, http.StatusMovedPermanently: time.Hour, http.StatusPermanentRedirect: time.Hour,
		http.StatusNotFound: time.Minute, http.StatusGone: time.Minute,
	}
}

// Options are the settings.
type Options struct {
	Rules []Rule
	// Node is the name in X-Edge-Node and Via.
	Node string
	// Slice is the size of slices; 1 MiB. Other slices of other sizes in the cache are not used.
	Slice int64
	// Purge is what PURGE requests call; Server.Purge where nil.
	Purge func(context.Context, cache.Match) error
	// Purgers are the networks that may purge; nobody may where it is empty.
	Purgers []netip.Prefix
	// Timeout bounds the waiting for the header of an origin's answer, and for more of its body; 15 s.
	Timeout time.Duration
	Log     *slog.Logger
}

func (o *Options) check() error {
	if o.Slice == 0 {
		o.Slice = 1 << 20
	}
	if o.Timeout == 0 {
		o.Timeout = 15 * time.Second
	}
	if o.Node == "" {
		o.Node = "firn"
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	switch {
	case o.Slice < minSlice || o.Slice > MaxSlice:
		return firn.NewError(firn.Invalid, fmt.Sprintf("a slice has %d to %d bytes", minSlice, MaxSlice))
	case o.Timeout < 0:
		return firn.NewError(firn.Invalid, "the time for an origin is more than 0")
	case strings.ContainsFunc(o.Node, func(r rune) bool { return r <= ' ' || r >= 0x7f || strings.ContainsRune(`(),/:;<=>?@[\]{}"`, r) }):
		return firn.NewError(firn.Invalid, "the node's name stands in headers: letters, digits, dots, - and _")
	}
	seen := map[string]bool{}
	for i := range o.Rules {
		r := &o.Rules[i]
		switch {
		case !strings.HasPrefix(r.Prefix, "/"):
			return firn.NewError(firn.Invalid, fmt.Sprintf("rule %d: a prefix begins with /", i+1))
		case seen[r.Prefix]:
			return firn.NewError(firn.Invalid, fmt.Sprintf("two rules for %s", r.Prefix))
		case len(r.Origins) == 0:
			return firn.NewError(firn.Invalid, fmt.Sprintf("the rule for %s has no origin", r.Prefix))
		case r.Inactive < 0 || r.StaleWhileRevalidate < 0:
			return firn.NewError(firn.Invalid, fmt.Sprintf("the rule for %s has a time less than 0", r.Prefix))
		}
		seen[r.Prefix] = true
		for status, ttl := range r.TTL {
			if status < 200 || status > 599 || status == http.StatusPartialContent || status == http.StatusNotModified || ttl < 0 {
				return firn.NewError(firn.Invalid, fmt.Sprintf("the rule for %s: %d is no status with a time", r.Prefix, status))
			}
		}
		if r.TTL == nil {
			r.TTL = DefaultTTL()
		}
		if r.Inactive == 0 {
			r.Inactive = 7 * 24 * time.Hour
		}
		switch {
		case r.StaleIfError == 0:
			r.StaleIfError = r.Inactive
		case r.StaleIfError < 0:
			r.StaleIfError = 0
		}
	}
	return nil
}

// Server is the cache as an http.Handler.
type Server struct {
	o     Options
	rules []*route // the longest prefix first
	cache *cache.Cache
	stats [len(outcomes)]atomic.Uint64
	bytes atomic.Uint64
	// doubted is when Doubt was called last, in nanoseconds since 1970.
	doubted atomic.Int64
	// parsed saves most of the work of a hit.
	parsed parsed

	running sync.WaitGroup
	mu      struct {
		sync.Mutex
		flights map[string]*flight
		closed  bool
	}
}

// New returns a server that keeps contents in c, which stays the caller's.
func New(c *cache.Cache, o Options) (*Server, error) {
	o.Rules = slices.Clone(o.Rules)
	if err := o.check(); err != nil {
		return nil, err
	}
	s := &Server{o: o, cache: c, parsed: parsed{seed: maphash.MakeSeed()}}
	if s.o.Purge == nil {
		s.o.Purge = s.Purge
	}
	for _, r := range o.Rules {
		s.rules = append(s.rules, &route{Rule: r})
	}
	slices.SortStableFunc(s.rules, func(a, b *route) int { return len(b.Prefix) - len(a.Prefix) })
	s.mu.flights = map[string]*flight{}
	return s, nil
}

// Close ends what is on its way and waits for it.
func (s *Server) Close() {
	s.mu.Lock()
	s.mu.closed = true
	for _, f := range s.mu.flights {
		f.cancel(errClosed)
	}
	s.mu.Unlock()
	s.running.Wait()
}

var errClosed = errors.New("the edge cache is closed")

// outcomes are the values of X-Cache-Status.
var outcomes = [...]string{"HIT", "MISS", "EXPIRED", "STALE", "UPDATING", "REVALIDATED", "BYPASS"}

const (
	hit         = "HIT"
	miss        = "MISS"
	expired     = "EXPIRED"
	stale       = "STALE"
	updating    = "UPDATING"
	revalidated = "REVALIDATED"
	bypass      = "BYPASS"
)

// Status are counters since the start.
type Status struct {
	// Requests by what X-Cache-Status said.
	Requests map[string]uint64
	// Bytes that were sent.
	Bytes uint64
	// Fetching is how many contents are asked for just now.
	Fetching int
}

// Status returns the counters.
func (s *Server) Status() Status {
	st := Status{Requests: map[string]uint64{}, Bytes: s.bytes.Load()}
	for i, name := range outcomes {
		st.Requests[name] = s.stats[i].Load()
	}
	s.mu.Lock()
	st.Fetching = len(s.mu.flights)
	s.mu.Unlock()
	return st
}

func (s *Server) count(status string) {
	if i := slices.Index(outcomes[:], status); i >= 0 {
		s.stats[i].Add(1)
	}
}

// route is a rule, and what was seen of its origins.
type route struct {
	Rule
	failing atomic.Int64 // until when, in nanoseconds since 1970, they are taken for away
}

// rule returns that for a path, nil for none.
func (s *Server) rule(path string) *route {
	for _, r := range s.rules {
		if strings.HasPrefix(path, r.Prefix) {
			return r
		}
	}
	return nil
}

// name is that of a content in the cache.
func (r *Rule) name(path, query string) string {
	if query == "" || r.IgnoreQuery {
		return path
	}
	return path + "?" + query
}

// hopByHop are headers of one connection, never of the content (RFC 9110, 7.6.1), and those that this cache says itself.
var hopByHop = []string{
	"Connection", "Proxy-Connection", "Keep-Alive", "Proxy-Authenticate", "Proxy-Authentication-Info", "Proxy-Authorization",
	"Te", "Trailer", "Transfer-Encoding", "Upgrade", "Age", "Via", "X-Cache-Status", "X-Edge-Node", "Warning", "Alt-Svc",
}

// endToEnd copies the headers that belong to the content.
func endToEnd(h http.Header) http.Header {
	out := maps.Clone(h)
	for _, value := range h.Values("Connection") {
		for name := range strings.SplitSeq(value, ",") {
			delete(out, http.CanonicalHeaderKey(strings.TrimSpace(name)))
		}
	}
	for _, name := range hopByHop {
		delete(out, name)
	}
	return out
}
