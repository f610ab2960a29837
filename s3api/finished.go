package s3api

import (
	"net"
	"strconv"
	"time"

	"firn/auth"
	"firn/auth/sigv4"
	"firn/object/record"
	"firn/pace"
	"firn/s3api/s3err"
)

// Finished describes a request that was answered, for the audit log and the logs that buckets ask for. It is the
// receiver's.
type Finished struct {
	Time      time.Time // the request's header was read
	Took      time.Duration
	First     time.Duration // until the response's header was sent
	ID        string
	Op        string // such as "GetObject"
	Action    string // the permission asked for, such as "s3:GetObject"
	Method    string
	Path      string // as sent, still encoded
	Query     string // as sent; of a presigned request it holds the signature
	Proto     string
	Host      string
	Remote    string // address of the client
	Agent     string
	Referer   string
	TLS       uint16 // version, 0 without
	Cipher    uint16
	Bucket    *record.Bucket // nil where none is named or there
	BucketArg string         // the name in the request
	Key       string
	VersionID string
	User      *auth.Identity // not to be changed
	AccessKey string
	Signature sigv4.Type
	SigName   string // "AWS4-HMAC-SHA256", "" for anonymous
	Status    int
	Code      string // the S3 error sent
	In, Out   int64  // bytes of body
	Size      int64  // of the object concerned, -1 where there is none or it was not looked at
	Allowed   bool
	Decision  string // why the request was allowed or denied; "" where nobody asked
	ByACL     bool   // an access control list allowed it
	Also      []Also // what else the request did that access logs tell of
}

// Also is a part of a request that has a line of its own in the access log of a bucket: one object of a batch delete, or
// the reading of a copy's source.
type Also struct {
	Op        string // "DeleteObjects" or "CopyObject"
	Bucket    *record.Bucket
	Key       string
	VersionID string
	Size      int64 // -1 where not known
	Status    int
	Code      string
}

// tell reports rq to those who want to know of it in full.
func (s *Server) tell(rq *request, took time.Duration) {
	logged := s.opt.Logged != nil && (len(rq.also) > 0 || Logs(rq.bkt))
	if s.opt.Done == nil && !logged {
		return
	}
	f := rq.finished(took)
	if s.opt.Done != nil {
		s.opt.Done(f)
	}
	if logged {
		s.opt.Logged(f)
	}
}

// finished gathers what is known of rq.
func (rq *request) finished(took time.Duration) *Finished {
	r := rq.r
	f := &Finished{
		Time: rq.start, Took: took, First: rq.answered, ID: rq.id, Op: rq.op, Action: rq.action, Method: r.Method,
		Path: r.URL.EscapedPath(), Query: r.URL.RawQuery, Proto: r.Proto, Host: r.Host, Remote: clientAddr(r.RemoteAddr),
		Agent: rq.header("User-Agent"), Referer: rq.header("Referer"),
		Bucket: rq.bkt, BucketArg: rq.bucket, Key: rq.key, VersionID: rq.query.Get("versionId"),
		User: rq.who, Status: rq.status, Code: rq.code, In: rq.in, Out: rq.out, Size: rq.size, Also: rq.also,
		Allowed: rq.decision.Allowed, ByACL: rq.decision.Allowed && rq.decision.By == auth.ByACL,
	}
	if rq.who == &rq.nobody {
		f.User = &auth.Identity{} // rq is used again
	}
	if rq.asked {
		f.Decision = rq.decision.Reason()
	}
	if v := rq.h["X-Amz-Version-Id"]; len(v) > 0 && f.VersionID == "" {
		f.VersionID = v[0]
	}
	if rq.sig != nil {
		f.AccessKey, f.Signature, f.SigName = rq.sig.AccessKey, rq.sig.Type, rq.sig.Version
	}
	if r.TLS != nil {
		f.TLS, f.Cipher = r.TLS.Version, r.TLS.CipherSuite
	}
	return f
}

// clientAddr cuts the port off.
func clientAddr(remote string) string {
	if host, _, err := net.SplitHostPort(remote); err == nil {
		return host
	}
	return remote
}

// pacer bounds what one user takes. A nil user is not bound.
type pacer interface {
	Begin(name string) (user *pace.User, after time.Duration, ok bool)
}

// admit asks whether the caller is within the user's bounds. Root is bound by none; who signs nothing is counted by
// address.
func (s *Server) admit(rq *request) error {
	if s.opt.Pace == nil || rq.who.Root {
		return nil
	}
	name := rq.who.Canonical
	if rq.who.Anonymous() {
		name = "@" + clientAddr(rq.r.RemoteAddr)
	}
	user, after, ok := s.opt.Pace.Begin(name)
	if !ok {
		// Retry-After has whole seconds; less than one is told as one.
		rq.set("Retry-After", strconv.Itoa(int((after+time.Second-1)/time.Second)))
		return s3err.New("SlowDown")
	}
	rq.user = user
	return nil
}
