package s3api

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"strconv"
	"strings"
	"sync"
	"time"

	"firn"
	"firn/auth"
	"firn/auth/policy"
	"firn/auth/sigv4"
	"firn/object/record"
	"firn/s3api/s3doc"
	"firn/s3api/s3err"
)

// Users finds who is behind an access key or a canonical id. It is *auth.Users.
type Users interface {
	// Lookup returns the secret of an access key and its owner, or auth.ErrNoSuchKey.
	Lookup(ctx context.Context, accessKey string) (secret string, id *auth.Identity, err error)
	// NameOf returns the name of the user with a canonical id, "" where there is none.
	NameOf(canonical string) string
	// Exists reports whether a user has the canonical id.
	Exists(canonical string) bool
}

// temporary is implemented by Users that know temporary credentials: auth.ErrToken, auth.ErrExpired.
type temporary interface {
	LookupSession(ctx context.Context, accessKey, token string) (secret string, id *auth.Identity, err error)
}

// bucketDocs are the documents of a bucket that decide what callers may do, parsed.
type bucketDocs struct {
	revision  uint64
	policy    *policy.Policy
	acl       *auth.ACL
	ownership auth.Ownership
	public    auth.PublicAccessBlock
	cors      []s3doc.CORSRule
	// encryption is how objects are encrypted that do not say it themselves.
	encryption s3doc.Encryption
	logging    s3doc.Logging
	err        error // a document that cannot be read denies everybody but root
}

// docCache keeps the parsed documents of buckets by bucket id, as of the revision they were parsed at.
type docCache struct{ m sync.Map }

// docsOf returns the parsed documents of b.
func (s *Server) docsOf(b *record.Bucket) *bucketDocs {
	if len(b.Config) == 0 {
		return &noDocs
	}
	if d, ok := s.docs.m.Load(b.ID); ok {
		if d, ok := d.(*bucketDocs); ok && d.revision == b.Revision {
			return d
		}
	}
	d := parseDocs(b)
	if d.err != nil {
		s.log.Error("a stored bucket document cannot be read", "bucket", b.Name, "error", d.err)
	}
	s.docs.m.Store(b.ID, d)
	return d
}

// noDocs are the documents of a bucket that has none. They are never changed.
var noDocs bucketDocs

func parseDocs(b *record.Bucket) *bucketDocs {
	d := &bucketDocs{revision: b.Revision}
	fail := func(name string, err error) {
		if err != nil && d.err == nil {
			d.err = firn.E("parse", name, err)
		}
	}
	var err error
	if doc := b.Config[confPolicy]; doc != nil {
		d.policy, err = policy.ParseBucket(doc, b.Name)
		fail(confPolicy, err)
	}
	d.acl, err = bucketACL(b)
	fail(confACL, err)
	set, err := parseSettings(b)
	fail("settings", err)
	d.ownership, d.public = set.ownership, set.publicAccess
	d.cors, err = bucketCORS(b)
	fail(confCORS, err)
	if doc := b.Config[confEncryption]; doc != nil {
		d.encryption, err = s3doc.ParseEncryption(doc)
		fail(confEncryption, err)
	}
	if doc := b.Config[confLogging]; doc != nil {
		d.logging, err = s3doc.ParseLogging(doc)
		fail(confLogging, err)
	}
	return d
}

// authenticate says who sends the request, from its signature, and makes rq.body the verified, decoded body.
func (s *Server) authenticate(rq *request) error {
	res, err := s.verifier.Verify(rq.r)
	if err != nil {
		return err
	}
	rq.sig, rq.who = res, res.Identity
	// net/http goes by the body it made when it decides whether the connection can be used again, so the
	// wrapper is in its place only while it is taken over.
	own := rq.r.Body
	rq.r.Body = &rq.src
	rq.payload, err = res.Body(rq.r)
	rq.r.Body = own
	if err != nil {
		return err
	}
	rq.body = rq.payload
	return nil
}

// trailer returns a trailer of an aws-chunked body, once that was read to its end.
func (rq *request) trailer(key string) string {
	if rq.payload == nil {
		return ""
	}
	return first(rq.payload.Trailer(), key)
}

// authorize asks whether rq.who may do action on rq.bucket and rq.key.
func (s *Server) authorize(rq *request, action string) error {
	return s.authorizeOn(rq, action, rq.bkt, rq.key, nil)
}

// authorizeOn asks whether rq.who may do action on key of b, which may be "". v is the version concerned, for
// actions that its owner, ACL or tags decide about; it may be nil.
func (s *Server) authorizeOn(rq *request, action string, b *record.Bucket, key string, v *record.Version) error {
	a := &rq.ask
	*a = auth.Request{Identity: rq.who, Action: action, Key: key}
	if v != nil {
		if err := s.aboutVersion(a, b, v); err != nil {
			return err
		}
	}
	return s.decide(rq, b, v)
}

// authorizeUpload asks whether rq.who may do action on an upload that belongs to owner.
func (s *Server) authorizeUpload(rq *request, action, owner string) error {
	rq.ask = auth.Request{Identity: rq.who, Action: action, Key: rq.key, ObjectOwner: owner}
	return s.decide(rq, rq.bkt, nil)
}

// authorizeList asks whether rq.who may learn that key does not exist.
func (s *Server) authorizeList(rq *request, key string) error {
	return s.authorizeListOn(rq, rq.bkt, key)
}

func (s *Server) authorizeListOn(rq *request, b *record.Bucket, key string) error {
	rq.asPrefix = key
	err := s.authorizeOn(rq, "s3:ListBucket", b, "", nil)
	rq.asPrefix = ""
	return err
}

// decide completes the question in rq.ask with what is known of the bucket and asks it.
func (s *Server) decide(rq *request, b *record.Bucket, v *record.Version) error {
	a := &rq.ask
	if b == nil {
		a.Bucket = rq.bucket
	} else {
		d := s.docsOf(b)
		if d.err != nil && !rq.who.Root {
			return s3err.New("AccessDenied")
		}
		a.Bucket, a.BucketOwner = b.Name, b.Owner
		a.Policy, a.BucketACL, a.Ownership, a.PublicAccess = d.policy, d.acl, d.ownership, d.public
	}
	if a.Policy != nil || len(rq.who.Grants) > 0 || rq.who.HasPolicies() {
		rq.asVersion = v
		a.Lookup = rq.lookup
	}
	dec := auth.Authorize(a)
	rq.asked = true
	rq.asVersion = nil
	if !dec.Allowed {
		s.log.Debug("access denied", "request_id", rq.id, "action", a.Action, "bucket", a.Bucket, "key", a.Key,
			"user", rq.who.Name, "reason", dec.Reason())
		rq.decision = dec
		return s3err.New("AccessDenied")
	}
	if a.Action == rq.action {
		rq.decision = dec
	}
	return nil
}

// condition returns the values of a policy condition key. Keys come in lower case up to the first slash.
func (rq *request) condition(key string) ([]string, bool) {
	one := func(v string) ([]string, bool) { return []string{v}, true }
	header := func(name string) ([]string, bool) {
		v, ok := rq.r.Header[name]
		return v, ok
	}
	param := func(name string) ([]string, bool) {
		if !rq.query.Has(name) {
			return nil, false
		}
		return one(rq.query.Get(name))
	}
	name, tag, tagged := strings.Cut(key, "/")
	switch name {
	case "aws:sourceip":
		if host, _, err := net.SplitHostPort(rq.r.RemoteAddr); err == nil {
			return one(host)
		}
		return nil, false
	case "aws:securetransport":
		return one(strconv.FormatBool(rq.r.TLS != nil))
	case "aws:referer":
		return header("Referer")
	case "aws:useragent":
		return header("User-Agent")
	case "aws:currenttime":
		return one(rq.start.UTC().Format(time.RFC3339))
	case "aws:epochtime":
		return one(strconv.FormatInt(rq.start.Unix(), 10))
	case "aws:requestedregion":
		return one(rq.s.opt.Region)
	case "aws:resourceaccount", "s3:resourceaccount":
		if rq.ask.BucketOwner == "" {
			return nil, false
		}
		return one(auth.AccountID(rq.ask.BucketOwner))
	case "s3:prefix":
		if rq.asPrefix != "" {
			return one(rq.asPrefix)
		}
		return param("prefix")
	case "s3:delimiter", "s3:max-keys":
		return param(key[len("s3:"):])
	case "s3:versionid":
		return param("versionId")
	case "s3:authtype":
		if rq.sig == nil || rq.sig.Type == sigv4.Anonymous {
			return nil, false
		}
		return one(rq.sig.Type.String())
	case "s3:tlsversion":
		if rq.r.TLS == nil {
			return nil, false
		}
		return one(strings.TrimPrefix(tls.VersionName(rq.r.TLS.Version), "TLS "))
	case "s3:signatureversion":
		if rq.sig == nil || rq.sig.Version == "" {
			return nil, false
		}
		return one(rq.sig.Version)
	case "s3:signatureage":
		if rq.sig == nil || rq.sig.Signed.IsZero() {
			return nil, false
		}
		return one(strconv.FormatInt(rq.start.Sub(rq.sig.Signed).Milliseconds(), 10))
	case "s3:object-lock-mode", "s3:object-lock-retain-until-date", "s3:object-lock-legal-hold":
		return header(canonicalAmz(key[len("s3:"):]))
	case "s3:if-match":
		return header("If-Match")
	case "s3:if-none-match":
		return header("If-None-Match")
	case "s3:existingobjecttag":
		if !tagged || rq.asVersion == nil {
			return nil, false
		}
		return tagValue(rq.asVersion.Tags, tag)
	case "s3:requestobjecttag":
		if !tagged {
			return nil, false
		}
		return tagValue(rq.requestTags(), tag)
	case "s3:requestobjecttagkeys":
		var names []string
		for _, t := range rq.requestTags() {
			names = append(names, t.Name)
		}
		return names, len(names) > 0
	}
	if h, ok := strings.CutPrefix(key, "s3:x-amz-"); ok {
		return header(canonicalAmz(h))
	}
	return rq.who.Condition(key)
}

// canonicalAmz returns the canonical header name of x-amz-NAME, NAME in lower case.
func canonicalAmz(name string) string {
	b := []byte("X-Amz-" + name)
	for i := len("X-Amz-"); i < len(b); i++ {
		if (b[i-1] == '-') && b[i] >= 'a' && b[i] <= 'z' {
			b[i] -= 'a' - 'A'
		}
	}
	return string(b)
}

func tagValue(tags []record.Field, name string) ([]string, bool) {
	for _, t := range tags {
		if t.Name == name {
			return []string{t.Value}, true
		}
	}
	return nil, false
}

// requestTags are the tags a request would set.
func (rq *request) requestTags() []record.Field {
	if rq.newTags == nil {
		if v := rq.header("X-Amz-Tagging"); v != "" {
			rq.newTags, _ = parseTagHeader(v) // the handler refuses what is malformed
		}
	}
	return rq.newTags
}

// displayName is the name shown for an owner; one that is gone keeps its id.
func (s *Server) displayName(canonical string) string {
	if canonical == "" {
		return ""
	}
	if name := s.users.NameOf(canonical); name != "" {
		return name
	}
	return canonical
}

// authError maps errors of signatures, nil for others.
func authError(err error) *s3err.Error {
	var e *sigv4.Error
	if !errors.As(err, &e) {
		return nil
	}
	out := &s3err.Error{Code: e.Code, Message: e.Message, Status: e.Status}
	for _, f := range e.Fields {
		out.Extra = append(out.Extra, s3err.Field(f))
	}
	return out
}
