// Package s3api is the S3 door: it turns HTTP requests into calls of the object store and results into the
// responses S3 clients expect, errors worded as AWS words them.
//
// It owns routing, request parsing, header rules, the answers about objects and the mapping of the store's errors; the
// documents of buckets are s3doc's, browsers' forms postform's, the table of error codes s3err's. It promises that no
// request can end the process, that every body and document read is bounded, and that a response is sent only after
// the store said the change is durable. It owns no state: everything it answers comes from the store and from auth. It
// must never import a storage engine (kv, block, vfs), config or node.
package s3api

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"log/slog"
	"net/http"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"firn/auth/sigv4"
	"firn/object"
	"firn/object/record"
	"firn/s3api/classes"
	"firn/s3api/s3err"
	"firn/s3api/sse"
)

// Options are the settings of a Server. The zero value of each field has a sensible meaning.
type Options struct {
	// Domains are the host names under which BUCKET.DOMAIN addresses a bucket. Path style always works.
	Domains []string
	// Region is the region the site answers with; "" is us-east-1.
	Region string
	// StorageClasses are the classes accepted beside STANDARD: those of the site's tiers.
	StorageClasses []string
	// ArchiveClasses are those of them whose content is refused until it was restored.
	ArchiveClasses []string
	// Keys gives out the keys of encrypted objects. Without it requests for encryption are refused but for those that
	// bring their own key.
	Keys sse.Keys
	// MaxConcurrent bounds the requests served at once; more are answered SlowDown. 0 is 4096.
	MaxConcurrent int
	// StallTimeout ends a request whose body makes no progress for so long. 0 is one minute.
	StallTimeout time.Duration
	// IdleTimeout ends a kept-alive connection without a request. 0 is two minutes.
	IdleTimeout time.Duration
	// HeaderTimeout bounds reading a request's header. 0 is 20 seconds.
	HeaderTimeout time.Duration
	// MinRate is how many bytes a second a body must bring on average while the server waits for it; 0 asks for none.
	MinRate int64
	// Pace bounds what one user takes; nil bounds nothing.
	Pace pacer
	// Ready is asked before a request is served; what it returns is answered instead. It may be nil.
	Ready func() error
	// Done is told of every finished request in full. It must not wait long. It may be nil.
	Done func(*Finished)
	// Logged is told of every finished request to a bucket that asks for an access log. It must not wait. It may be nil.
	Logged func(*Finished)
	// Read is told of each version that a client gets, and whether with its first byte. It must not wait. It may be nil.
	Read func(b *record.Bucket, v *record.Version, first bool)
	// Log gets a line for each request at debug level and for each failure of the server; nil discards.
	Log *slog.Logger
	// Observe is told of every finished request: the operation (such as "GetObject"), the HTTP status, the
	// bytes of the request and response bodies and the time it took. It must be fast. It may be nil.
	Observe func(op string, status int, bytesIn, bytesOut int64, took time.Duration)
}

// Server answers S3 requests from an object store. It is an http.Handler.
type Server struct {
	store  *object.Store
	users  Users
	opt    Options
	log    *slog.Logger
	routes *routeTable
	class  *classes.Set

	idBase   uint64
	idNext   atomic.Uint64
	active   atomic.Int64
	requests sync.Pool // of *request
	pages    sync.Pool // of *[]byte, for listings
	docs     docCache
	verifier *sigv4.Verifier
}

// New returns a Server over store whose callers are found in users.
func New(store *object.Store, users Users, opt Options) *Server {
	if opt.Region == "" {
		opt.Region = "us-east-1"
	}
	if opt.MaxConcurrent <= 0 {
		opt.MaxConcurrent = 4096
	}
	if opt.StallTimeout <= 0 {
		opt.StallTimeout = time.Minute
	}
	if opt.IdleTimeout <= 0 {
		opt.IdleTimeout = 2 * time.Minute
	}
	if opt.HeaderTimeout <= 0 {
		opt.HeaderTimeout = 20 * time.Second
	}
	if opt.Log == nil {
		opt.Log = slog.New(slog.DiscardHandler)
	}
	opt.Domains = slices.Clone(opt.Domains) // the caller's stay as they are
	for i, d := range opt.Domains {
		opt.Domains[i] = strings.ToLower(d)
	}
	s := &Server{store: store, users: users, opt: opt, log: opt.Log, routes: newRouteTable()}
	s.class = classes.New(opt.StorageClasses, opt.ArchiveClasses)
	var seed [8]byte
	_, _ = rand.Read(seed[:]) // never fails
	s.idBase = binary.BigEndian.Uint64(seed[:])
	s.requests.New = func() any {
		rq := new(request)
		rq.lookup = rq.condition
		return rq
	}
	o := sigv4.Options{Region: opt.Region}
	if t, ok := users.(temporary); ok {
		o.Session = t.LookupSession
	}
	s.verifier = sigv4.New(users.Lookup, o)
	return s
}

// ConfigureHTTP sets the limits and timeouts of hs that the Server relies on. Bodies that make progress are
// given more time by the Server itself.
func (s *Server) ConfigureHTTP(hs *http.Server) {
	hs.ReadHeaderTimeout = s.opt.HeaderTimeout
	hs.ReadTimeout = 0 // it would also cancel handlers that write for longer
	hs.WriteTimeout = s.opt.StallTimeout
	hs.IdleTimeout = s.opt.IdleTimeout
	hs.MaxHeaderBytes = maxHeaderBytes
}

// maxHeaderBytes bounds a request's header. S3 allows 8 KiB of it; signatures and tags of real clients fit.
const maxHeaderBytes = 32 << 10

// ServeHTTP answers one request.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	start := time.Now()
	rq, _ := s.requests.Get().(*request)
	rq.begin(s, w, r, start)
	defer s.end(rq)

	if s.active.Add(1) > int64(s.opt.MaxConcurrent) {
		rq.op = "Overload"
		rq.set("Retry-After", "1")
		rq.fail(s3err.New("SlowDown"))
		return
	}
	if s.opt.Ready != nil {
		if err := s.opt.Ready(); err != nil {
			rq.op = "NotReady"
			rq.fail(err)
			return
		}
	}
	if err := s.serve(rq); err != nil {
		rq.fail(err)
	}
}

// serve finds the route, says who calls, loads the bucket, asks for permission and calls the handler.
func (s *Server) serve(rq *request) error {
	if err := rq.parseTarget(); err != nil {
		return err
	}
	rt, err := s.routes.find(rq)
	if err != nil {
		return err
	}
	rq.op, rq.action = rt.op, rt.action
	if rq.bucket != "" && rt.flags&noBucket == 0 {
		// The bucket is loaded before the signature is checked so that CORS headers are on errors too.
		rq.bkt, err = s.store.Bucket(rq.ctx, rq.bucket)
		if rq.bkt != nil && rq.header("Origin") != "" {
			s.applyCORS(rq)
		}
	}
	if rt.flags&noAuth != 0 {
		rq.r.Body = &rq.src // the handler reads it as it comes; end puts the original back
	} else {
		if aerr := s.authenticate(rq); aerr != nil {
			return aerr
		}
	}
	if err := s.admit(rq); err != nil {
		return err
	}
	if err != nil {
		return err
	}
	if want := rq.header("X-Amz-Expected-Bucket-Owner"); want != "" && rq.bkt != nil && want != rq.bkt.Owner {
		return s3err.New("AccessDenied")
	}
	if rt.flags&(noAuth|lateAuth) == 0 {
		if err := s.authorize(rq, rq.action); err != nil {
			return err
		}
	}
	return rt.handle(s, rq)
}

// end finishes a request: it turns a panic into a 500, reports, and gives the request back.
func (s *Server) end(rq *request) {
	s.active.Add(-1)
	if p := recover(); p != nil {
		if err, ok := p.(error); ok && errors.Is(err, http.ErrAbortHandler) {
			panic(p)
		}
		s.log.Error("panic in handler", "request_id", rq.id, "op", rq.op, "panic", p, "stack", string(debug.Stack()))
		rq.fail(s3err.New("InternalError"))
	}
	if !rq.wrote {
		// Every handler answers; one that did not has a bug. Sending the header here also makes net/http copy
		// it, after which the request may be reused.
		rq.writeHeader(http.StatusOK)
	}
	took := time.Since(rq.start)
	if s.opt.Observe != nil {
		s.opt.Observe(rq.op, rq.status, rq.in, rq.out, took)
	}
	s.tell(rq, took)
	if rq.user != nil {
		rq.user.End()
	}
	if s.log.Enabled(rq.ctx, slog.LevelDebug) {
		s.accessLog(rq, took)
	}
	if rq.payload != nil {
		_ = rq.payload.Close() // gives its buffers back; the connection's body stays open
	}
	rq.r.Body = rq.src.src
	abort := rq.abort
	rq.reset()
	s.requests.Put(rq)
	if abort {
		// The status is out but the body is not whole: only a broken connection tells the client so.
		panic(http.ErrAbortHandler)
	}
}

func (s *Server) accessLog(rq *request, took time.Duration) {
	who := "-"
	if !rq.who.Anonymous() {
		who = rq.who.Name
	}
	s.log.LogAttrs(rq.ctx, slog.LevelDebug, "request",
		slog.String("request_id", rq.id), slog.String("op", rq.op), slog.String("method", rq.r.Method),
		slog.String("bucket", rq.bucket), slog.String("key", rq.key), slog.String("user", who),
		slog.Int("status", rq.status), slog.String("code", rq.code), slog.Int64("in", rq.in),
		slog.Int64("out", rq.out), slog.Duration("took", took), slog.String("remote", rq.r.RemoteAddr))
}

const hexUpper = "0123456789ABCDEF"

// newID returns a request id: unique within the process, 16 upper-case hex digits.
func (s *Server) newID() string {
	n := s.idBase + s.idNext.Add(1)*0x9E3779B97F4A7C15 // an odd step visits every value
	var b [16]byte
	for i := range b {
		b[i] = hexUpper[n>>60]
		n <<= 4
	}
	return string(b[:])
}

var _ http.Handler = (*Server)(nil)
