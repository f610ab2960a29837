package iamapi

import (
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"firn/auth"
	"firn/auth/sigv4"
)

// MaxBody bounds a call's parameters in bytes: the longest documents with room for their encoding.
const MaxBody = 256 << 10

// Handler answers the query protocol over HTTP: POST / with a form as body. It is an http.Handler.
type Handler struct {
	api      *API
	log      *slog.Logger
	services map[string]*sigv4.Verifier
	calls    chan struct{}
	tell     func(Call) // nil tells nobody
}

// Call describes a call that was answered, for the audit log.
type Call struct {
	Time            time.Time
	Service, Action string
	Subject         string // the name it is about, "" where it has none
	User, AccessKey string // "" where the signature was refused
	Request         *http.Request
	Err             error
}

// Tell lets fn know of every call. It is called before the first request.
func (h *Handler) Tell(fn func(Call)) { h.tell = fn }

// told reports a call.
func (h *Handler) told(c Call) {
	if h.tell != nil {
		h.tell(c)
	}
}

// subject returns the name that a call is about.
func subject(p url.Values) string {
	for _, name := range [...]string{"UserName", "GroupName", "RoleName", "RoleArn", "PolicyArn", "PolicyName", "AccessKeyId"} {
		if v := p.Get(name); v != "" {
			return v
		}
	}
	return ""
}

// maxCalls bounds the calls under way; more wait.
const maxCalls = 64

// NewHandler returns a Handler over api whose callers are found in users. log gets every change.
func NewHandler(api *API, users *auth.Users, log *slog.Logger) *Handler {
	h := &Handler{api: api, log: log, services: make(map[string]*sigv4.Verifier), calls: make(chan struct{}, maxCalls)}
	for _, s := range [...]string{"iam", "sts"} {
		// Any region: IAM is signed for us-east-1 wherever the site is, STS for the client's.
		h.services[s] = sigv4.New(users.Lookup, sigv4.Options{Service: s, Session: users.LookupSession})
	}
	return h
}

// Takes reports whether a request is one of these calls, which share the address of the S3 door: no operation of
// S3 is a POST of such a form to the root.
func Takes(r *http.Request) bool {
	if r.Method != http.MethodPost || r.URL.Path != "/" && r.URL.Path != "" {
		return false
	}
	kind, _, _ := strings.Cut(r.Header.Get("Content-Type"), ";")
	return strings.EqualFold(strings.TrimSpace(kind), "application/x-www-form-urlencoded")
}

// ServeHTTP answers one call.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails
	id := hex.EncodeToString(b[:4]) + "-" + hex.EncodeToString(b[4:6]) + "-" + hex.EncodeToString(b[6:8]) + "-" +
		hex.EncodeToString(b[8:10]) + "-" + hex.EncodeToString(b[10:])
	w.Header().Set("X-Amzn-Requestid", id)
	w.Header().Set("Content-Type", "text/xml")
	w.Header().Set("Cache-Control", "no-store")
	select {
	case h.calls <- struct{}{}:
		defer func() { <-h.calls }()
	case <-r.Context().Done():
		return
	}
	service, action, n, err := h.serve(w, r)
	if err != nil {
		h.fail(w, id, service, action, err)
		return
	}
	var out strings.Builder
	out.WriteString(`<?xml version="1.0" encoding="UTF-8"?>` + "\n<" + action + `Response xmlns="` + namespaces[service] + `">`)
	n.Name = action + "Result"
	if n.Kids == nil {
		n.Kids = []Node{}
	}
	n.append(&out)
	out.WriteString("<ResponseMetadata><RequestId>" + id + "</RequestId></ResponseMetadata></" + action + "Response>\n")
	_, _ = io.WriteString(w, out.String()) // the client is gone
}

var namespaces = map[string]string{
	"iam": "https://iam.amazonaws.com/doc/2010-05-08/",
	"sts": "https://sts.amazonaws.com/doc/2011-06-15/",
}

// stsVersion is the parameter Version of calls to STS.
const stsVersion = "2011-06-15"

func (h *Handler) serve(w http.ResponseWriter, r *http.Request) (service, action string, n Node, err error) {
	start := time.Now()
	service = "iam"
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, MaxBody))
	if err != nil {
		return service, "", n, fail(http.StatusBadRequest, "InvalidParameterValue", "The request's body could not be read, or is larger than 256 KiB.")
	}
	params, err := url.ParseQuery(string(body))
	if err != nil {
		return service, "", n, fail(http.StatusBadRequest, "MalformedQueryString", "The request's body is not a form.")
	}
	if params.Get("Version") == stsVersion {
		service = "sts"
	}
	// Parameters in the address are not looked at: a proxy or a log could keep them.
	action = params.Get("Action")
	res, err := h.services[service].VerifyCall(r, body)
	if err != nil {
		h.told(Call{Time: start, Service: service, Action: action, Subject: subject(params), Request: r, Err: err})
		return service, action, n, err
	}
	who := res.Identity
	n, err = h.api.Do(r.Context(), Caller{Identity: who, Lookup: lookup(r, start)}, service, action, params)
	h.told(Call{
		Time: start, Service: service, Action: action, Subject: subject(params), User: who.Name, AccessKey: res.AccessKey,
		Request: r, Err: err,
	})
	if reads(action) {
		return service, action, n, err
	}
	h.log.Info("identity call", "service", service, "action", action, "user", who.Name, "access_key", who.AccessKey,
		"remote", r.RemoteAddr, "error", errText(err))
	return service, action, n, err
}

// reads reports whether an operation changes nothing and gives out nothing.
func reads(action string) bool {
	return strings.HasPrefix(action, "List") || strings.HasPrefix(action, "Get") && action != "GetSessionToken"
}

func errText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// lookup returns the condition keys about a request.
func lookup(r *http.Request, start time.Time) func(string) ([]string, bool) {
	return func(key string) ([]string, bool) {
		one := func(v string) ([]string, bool) { return []string{v}, v != "" }
		switch key {
		case "aws:sourceip":
			host, _, _ := net.SplitHostPort(r.RemoteAddr)
			return one(host)
		case "aws:securetransport":
			return one(strconv.FormatBool(r.TLS != nil))
		case "aws:useragent":
			return one(r.UserAgent())
		case "aws:referer":
			return one(r.Referer())
		case "aws:currenttime":
			return one(start.UTC().Format(time.RFC3339))
		case "aws:epochtime":
			return one(strconv.FormatInt(start.Unix(), 10))
		}
		return nil, false
	}
}

// fail answers an error.
func (h *Handler) fail(w http.ResponseWriter, id, service, action string, err error) {
	var known *Error
	var sig *sigv4.Error
	if errors.As(err, &sig) {
		known = &Error{sig.Code, sig.Message, sig.Status}
		if sig.Code == "InvalidAccessKeyId" || sig.Code == "InvalidToken" { // IAM and STS word it so
			known = &Error{"InvalidClientTokenId", "The security token included in the request is invalid.", http.StatusForbidden}
		}
	} else if !errors.As(err, &known) {
		h.log.Error("identity call failed", "service", service, "action", action, "request_id", id, "error", err)
		known = &Error{"ServiceFailure", "The request processing has failed because of an unknown error.", http.StatusInternalServerError}
	}
	who := "Sender"
	if known.Status >= http.StatusInternalServerError {
		who = "Receiver"
	}
	var b strings.Builder
	b.WriteString(`<?xml version="1.0" encoding="UTF-8"?>` + "\n" + `<ErrorResponse xmlns="` + namespaces[service] + `">`)
	el("Error", text("Type", who), text("Code", known.Code), text("Message", known.Message)).append(&b)
	b.WriteString("<RequestId>" + id + "</RequestId></ErrorResponse>\n")
	w.WriteHeader(known.Status)
	_, _ = io.WriteString(w, b.String()) // the client is gone
}

// decodeSegment decodes the JSON in a part of a token.
func decodeSegment(s string, v any) error {
	b, err := base64.RawURLEncoding.DecodeString(s)
	if err != nil {
		return err
	}
	return json.Unmarshal(b, v)
}
