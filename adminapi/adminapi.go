// Package adminapi is the door for operators: health, metrics, profiles, and the JSON API under /admin/v1/ that
// the command line speaks.
//
// It promises that only /healthz and /readyz answer a stranger; that metrics answer callers on the same machine
// and holders of the token; that everything else wants the token; and that secrets leave it once, when they are
// made. It owns no state and must never import a storage engine, config or node.
package adminapi

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/pprof"
	"strconv"
	"strings"
	"time"

	"firn"
	"firn/auth"
)

// MaxBody bounds a request document, in bytes.
const MaxBody = 1 << 20

// Users manages users and their keys, as auth.Users does.
type Users interface {
	List() []auth.User
	Get(name string) (auth.User, error)
	Add(ctx context.Context, name string, c auth.Credentials, grants []auth.Grant) (auth.User, auth.Credentials, error)
	Remove(ctx context.Context, name string) error
	SetGrants(ctx context.Context, name string, grants []auth.Grant) error
	SetLimits(ctx context.Context, name string, l auth.Limits) error
	AddKey(ctx context.Context, user string, c auth.Credentials, o auth.KeyOptions) (auth.Credentials, error)
	RotateKey(ctx context.Context, accessKey string, overlap time.Duration) (auth.Credentials, error)
	RemoveKey(ctx context.Context, accessKey string) error
}

// Site is what the API tells about a site.
type Site interface {
	// Ready returns nil where the site takes reads and writes, else what stands against it.
	Ready() error
	// Status describes the site.
	Status(ctx context.Context) (Status, error)
	// Journal calls fn for the entries from seq on, and with follow for each new one until ctx ends.
	Journal(ctx context.Context, from uint64, follow bool, fn func(JournalEntry) error) error
	// Check examines the store, calls found for each problem, and returns a summary.
	Check(ctx context.Context, o CheckOptions, found func(Problem) error) (CheckSummary, error)
}

// Handler answers the admin endpoint. It is an http.Handler.
type Handler struct {
	site    Site
	users   Users
	metrics http.Handler
	log     *slog.Logger
	token   [sha256.Size]byte

	identity Identity // nil: ServeIdentity was not called
	mux      *http.ServeMux
}

// New returns the admin endpoint of site. token opens what is not open to all. metrics may be nil.
func New(site Site, users Users, metrics http.Handler, token string, log *slog.Logger) *Handler {
	h := &Handler{site: site, users: users, metrics: metrics, log: log, token: sha256.Sum256([]byte(token)), mux: http.NewServeMux()}
	h.mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, "ok\n")
	})
	h.mux.HandleFunc("GET /readyz", h.ready)
	if metrics != nil {
		h.mux.HandleFunc("GET /metrics", h.local(metrics.ServeHTTP))
	}
	h.mux.HandleFunc("GET /debug/pprof/", h.private(pprof.Index))
	// Cmdline is left out: a secret given as a flag would show.
	h.mux.HandleFunc("GET /debug/pprof/cmdline", http.NotFound)
	h.mux.HandleFunc("GET /debug/pprof/profile", h.private(pprof.Profile))
	h.mux.HandleFunc("GET /debug/pprof/symbol", h.private(pprof.Symbol))
	h.mux.HandleFunc("GET /debug/pprof/trace", h.private(pprof.Trace))

	h.mux.HandleFunc("GET /admin/v1/status", h.api(h.status))
	h.mux.HandleFunc("GET /admin/v1/users", h.api(h.listUsers))
	h.mux.HandleFunc("POST /admin/v1/users", h.api(h.addUser))
	h.mux.HandleFunc("DELETE /admin/v1/users/{name}", h.api(h.removeUser))
	h.mux.HandleFunc("PUT /admin/v1/users/{name}/grants", h.api(h.setGrants))
	h.mux.HandleFunc("PUT /admin/v1/users/{name}/limits", h.api(h.setLimits))
	h.mux.HandleFunc("POST /admin/v1/users/{name}/keys", h.api(h.addKey))
	h.mux.HandleFunc("DELETE /admin/v1/keys/{key}", h.api(h.removeKey))
	h.mux.HandleFunc("POST /admin/v1/keys/{key}/rotate", h.api(h.rotateKey))
	h.mux.HandleFunc("GET /admin/v1/journal", h.private(h.journal))
	h.mux.HandleFunc("POST /admin/v1/check", h.private(h.check))
	return h
}

// ServeHTTP answers one request.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.Header().Set("Cache-Control", "no-store")
	h.mux.ServeHTTP(w, r)
}

func (h *Handler) ready(w http.ResponseWriter, _ *http.Request) {
	if err := h.site.Ready(); err != nil {
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
		return
	}
	_, _ = io.WriteString(w, "ready\n")
}

// hasToken compares hashes, so that neither content nor length of the token shows in the time it takes.
func (h *Handler) hasToken(r *http.Request) bool {
	t, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	sum := sha256.Sum256([]byte(t))
	return ok && subtle.ConstantTimeCompare(sum[:], h.token[:]) == 1
}

// private lets holders of the token through.
func (h *Handler) private(next http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if !h.hasToken(r) {
			w.Header().Set("WWW-Authenticate", `Bearer realm="firn admin"`)
			writeError(w, firn.NewError(firn.Denied, "the admin token is missing or wrong: it is in admin.token in the data directory"),
				http.StatusUnauthorized)
			return
		}
		next(w, r)
	}
}

// local lets callers on this machine through, and holders of the token. The Host header must name this machine
// too, so that a web page which points its own name at 127.0.0.1 cannot read the answer.
func (h *Handler) local(next http.HandlerFunc) http.HandlerFunc {
	private := h.private(next)
	return func(w http.ResponseWriter, r *http.Request) {
		if onLoopback(r.RemoteAddr) && hostIsAddress(r.Host) {
			next(w, r)
			return
		}
		private(w, r)
	}
}

func onLoopback(addr string) bool {
	host, _, err := net.SplitHostPort(addr)
	ip := net.ParseIP(host)
	return err == nil && ip != nil && ip.IsLoopback()
}

func hostIsAddress(host string) bool {
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	return host == "localhost" || net.ParseIP(strings.Trim(host, "[]")) != nil
}

// api adapts a call that returns a document. A nil document is 204.
func (h *Handler) api(fn func(r *http.Request) (any, error)) http.HandlerFunc {
	return h.private(func(w http.ResponseWriter, r *http.Request) {
		r.Body = http.MaxBytesReader(w, r.Body, MaxBody)
		v, err := fn(r)
		switch {
		case err != nil:
			writeError(w, err, 0)
		case v == nil:
			w.WriteHeader(http.StatusNoContent)
		default:
			writeJSON(w, http.StatusOK, v)
		}
	})
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v) // the client is gone
}

// ErrorBody is the document of a failed call.
type ErrorBody struct {
	Kind    string `json:"kind"`
	Message string `json:"message"`
}

// statusOf maps the kind of an error. Internal errors are 500.
func statusOf(err error) int {
	switch firn.KindOf(err) {
	case firn.NotFound:
		return http.StatusNotFound
	case firn.Exists, firn.Conflict, firn.Locked:
		return http.StatusConflict
	case firn.Invalid:
		return http.StatusBadRequest
	case firn.Denied:
		return http.StatusForbidden
	case firn.Precondition:
		return http.StatusPreconditionFailed
	case firn.NoSpace:
		return http.StatusInsufficientStorage
	case firn.Unavailable:
		return http.StatusServiceUnavailable
	case firn.Unsupported:
		return http.StatusNotImplemented
	}
	return http.StatusInternalServerError
}

func writeError(w http.ResponseWriter, err error, status int) {
	if status == 0 {
		status = statusOf(err)
	}
	writeJSON(w, status, map[string]ErrorBody{"error": {Kind: firn.KindOf(err).String(), Message: err.Error()}})
}

// decode reads the one JSON document of a request, strictly.
func decode(r *http.Request, v any) error {
	d := json.NewDecoder(r.Body)
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return &firn.Error{Kind: firn.Invalid, Op: "read request", Err: err}
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return firn.NewError(firn.Invalid, "read request: more than one document")
	}
	return nil
}

// stream writes one JSON document a line and flushes each batch, so that a follower sees entries as they come.
type stream struct {
	w     http.ResponseWriter
	enc   *json.Encoder
	rc    *http.ResponseController
	began bool
}

// streamStall ends a stream whose reader takes nothing for so long.
const streamStall = time.Minute

func newStream(w http.ResponseWriter) *stream {
	s := &stream{w: w, enc: json.NewEncoder(w), rc: http.NewResponseController(w)}
	// The server's bound on reading a request would end the request's context, and so a stream that takes longer.
	_ = s.rc.SetReadDeadline(time.Time{})
	return s
}

func (s *stream) begin() {
	if !s.began {
		s.began = true
		s.w.Header().Set("Content-Type", "application/x-ndjson")
		s.w.WriteHeader(http.StatusOK)
	}
}

func (s *stream) send(v any) error {
	s.begin()
	// Not every writer has deadlines (a test's has none); then a stalled reader is the test's.
	_ = s.rc.SetWriteDeadline(time.Now().Add(streamStall))
	return s.enc.Encode(v)
}

// rest lifts the deadline until the next line: silence is not a stall.
func (s *stream) rest() { _ = s.rc.SetWriteDeadline(time.Time{}) }

// fail reports err: as a status where nothing was sent, else as a last line {"error": ...}.
func (s *stream) fail(err error) {
	if !s.began {
		writeError(s.w, err, 0)
		return
	}
	_ = s.send(map[string]ErrorBody{"error": {Kind: firn.KindOf(err).String(), Message: err.Error()}})
}

func queryUint(r *http.Request, name string, def uint64) (uint64, error) {
	s := r.URL.Query().Get(name)
	if s == "" {
		return def, nil
	}
	n, err := strconv.ParseUint(s, 10, 64)
	if err != nil {
		return 0, &firn.Error{Kind: firn.Invalid, Subject: name, Err: errors.New("want a whole number, 0 or more")}
	}
	return n, nil
}
