// Package sigv4 verifies AWS Signature Version 4 as S3 uses it: the Authorization header, presigned queries,
// POST forms, signed payloads and the aws-chunked body encodings.
//
// It promises that a Result with an identity was made with that identity's secret over this very request,
// and that a Body returns io.EOF only after all that the client signed or declared about the payload holds.
// It works on *http.Request alone: it must never answer a request, know a bucket, or decide what a caller
// may do. No secret or signing key appears in an error.
//
// Written from "Signature Version 4" in the Amazon S3 API reference: authenticating requests with the
// Authorization header, with query parameters, signature calculation for chunked uploads with and without
// trailers, and POST policies.
package sigv4

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"net/http"
	"strings"
	"time"

	"firn"
	"firn/auth"
)

// DefaultRegion is the region a site answers to unless told otherwise.
const DefaultRegion = "us-east-1"

// MaxSkew is how far a request's time may be from the site's clock by default.
const MaxSkew = 15 * time.Minute

// MaxExpires is the longest life of a presigned request.
const MaxExpires = 7 * 24 * time.Hour

const (
	algorithm   = "AWS4-HMAC-SHA256"
	isoLayout   = "20060102T150405Z"
	dateLayout  = "20060102"
	terminator  = "aws4_request"
	emptySHA256 = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
)

// SecretFunc returns the secret of an access key and whom it belongs to, or auth.ErrNoSuchKey. It is called
// once for each signed request and may be called concurrently. The Identity must not be changed later.
type SecretFunc func(ctx context.Context, accessKey string) (secret string, id *auth.Identity, err error)

// Options configure a Verifier. The zero value is what a site uses, but for Region.
type Options struct {
	// Region is the one region accepted in credential scopes; "" accepts any. A site passes DefaultRegion
	// unless configured otherwise.
	Region string
	// Service is the service name in credential scopes; "" is "s3". Requests of other services go to
	// VerifyCall.
	Service string
	// Session returns the secret of temporary credentials, by access key and session token, and whom they stand
	// for: auth.ErrToken, auth.ErrExpired. Nil knows none.
	Session func(ctx context.Context, accessKey, token string) (secret string, id *auth.Identity, err error)
	// MaxSkew bounds the difference of the request's time and the clock; 0 is 15 minutes.
	MaxSkew time.Duration
	// Now is the clock; nil is time.Now.
	Now func() time.Time
}

// Verifier verifies requests. It may be used concurrently and must not be copied.
type Verifier struct {
	region  string
	service string
	skew    time.Duration
	now     func() time.Time
	secret  SecretFunc
	session func(ctx context.Context, accessKey, token string) (string, *auth.Identity, error)
	keys    keyCache
}

// New returns a Verifier that asks secret for the secret of each access key.
func New(secret SecretFunc, o Options) *Verifier {
	v := &Verifier{region: o.Region, service: o.Service, skew: o.MaxSkew, now: o.Now, secret: secret, session: o.Session}
	if v.service == "" {
		v.service = "s3"
	}
	if v.skew == 0 {
		v.skew = MaxSkew
	}
	if v.now == nil {
		v.now = time.Now
	}
	return v
}

// Type says how a request was signed.
type Type uint8

const (
	// Anonymous requests carry no credentials.
	Anonymous Type = iota
	// Header requests carry an Authorization header.
	Header
	// Query requests are presigned.
	Query
	// Form requests carry a signed POST policy.
	Form
)

// String returns the type as the policy condition key s3:authType has it, "" for an anonymous request.
func (t Type) String() string {
	return [...]string{"", "REST-HEADER", "REST-QUERY-STRING", "POST"}[t]
}

// Payload says what the request promises about its body.
type Payload uint8

const (
	// PayloadUnsigned bodies are taken as they come.
	PayloadUnsigned Payload = iota
	// PayloadSigned bodies have the SHA-256 that the header names.
	PayloadSigned
	// PayloadChunked bodies are aws-chunked with a signature for each chunk.
	PayloadChunked
	// PayloadChunkedTrailer is PayloadChunked with signed trailers.
	PayloadChunkedTrailer
	// PayloadUnsignedTrailer bodies are aws-chunked, unsigned, with trailers.
	PayloadUnsignedTrailer
)

// Streaming reports whether the body is aws-chunked.
func (p Payload) Streaming() bool { return p >= PayloadChunked }

// Result is what a verified request says about itself.
type Result struct {
	Type      Type
	AccessKey string         // "" for an anonymous request
	Identity  *auth.Identity // never nil; the zero Identity for an anonymous request
	Version   string         // "AWS4-HMAC-SHA256"; "AWS" for a form signed with version 2; "" where anonymous
	Signed    time.Time      // when the request was signed; zero where anonymous
	Expires   time.Time      // when a presigned request expires; zero otherwise
	Region    string         // of the credential scope
	Payload   Payload
	SHA256    [32]byte // of the payload where Payload is PayloadSigned

	key   *macKey  // signing key
	seed  [64]byte // the request's signature, lower-case hex; the first link of the chunk chain
	date  string   // Signed in ISO basic form
	scope string   // DATE/REGION/SERVICE/aws4_request
}

// Verify checks how r was signed. An unsigned request is no error: it gets the anonymous Identity. POST
// forms look unsigned here; their fields go to VerifyForm. Errors for the client are *Error, others come
// from the SecretFunc. Verify does not read the body: see Result.Body.
func (v *Verifier) Verify(r *http.Request) (*Result, error) {
	hdr := r.Header["Authorization"]
	signed := len(hdr) > 0 && hdr[0] != ""
	presigned := queryKind(r.URL.RawQuery)
	switch {
	case signed && presigned != queryPlain, len(hdr) > 1:
		return nil, errTwoMechanisms()
	case signed:
		return v.verifyHeader(r, hdr[0], "")
	case presigned == queryV4:
		return v.verifyQuery(r)
	case presigned == queryV2:
		return nil, errMechanism()
	}
	res := &Result{Identity: &auth.Identity{}}
	if err := res.anonymousPayload(r); err != nil {
		return nil, err
	}
	return res, nil
}

// VerifyCall checks a request of another service than S3, whose whole body is at hand: signed in its header, over
// the body, which x-amz-content-sha256 need not name. One without an Authorization header is anonymous.
func (v *Verifier) VerifyCall(r *http.Request, body []byte) (*Result, error) {
	hdr := r.Header["Authorization"]
	switch {
	case len(hdr) > 1 || queryKind(r.URL.RawQuery) != queryPlain:
		return nil, errMechanism()
	case len(hdr) == 0 || hdr[0] == "":
		return &Result{Identity: &auth.Identity{}}, nil
	}
	sum := sha256.Sum256(body)
	hash := hex.EncodeToString(sum[:])
	if sent := r.Header["X-Amz-Content-Sha256"]; len(sent) > 1 || len(sent) == 1 && sent[0] != hash {
		return nil, errContentSHA256(strings.Join(sent, ","))
	}
	return v.verifyHeader(r, hdr[0], hash)
}

// verifyHeader checks a request with an Authorization header. hash is the body's; "" takes what the request says.
func (v *Verifier) verifyHeader(r *http.Request, value, hash string) (*Result, error) {
	if strings.HasPrefix(value, "AWS ") {
		return nil, errMechanism()
	}
	rest, ok := strings.CutPrefix(value, algorithm)
	if !ok {
		if strings.HasPrefix(value, "AWS4-") {
			return nil, errMechanism()
		}
		return nil, invalidArgument("Unsupported Authorization Type", "Authorization", value)
	}
	h, err := parseAuthorization(rest)
	if err != nil {
		return nil, err
	}
	cred, err := v.parseCredential(h.credential, r.URL.RawQuery, headerErrors)
	if err != nil {
		return nil, err
	}
	signed, iso, err := requestTime(r.Header)
	if err != nil {
		return nil, err
	}
	if iso[:8] != cred.date {
		return nil, headerErrors.wrong("Invalid credential date " + quote(cred.date) +
			". This date is not the same as X-Amz-Date: " + quote(iso[:8]) + ".")
	}
	if err := cred.addToken(r.Header["X-Amz-Security-Token"], ""); err != nil {
		return nil, err
	}
	now := v.now()
	if d := now.Sub(signed); d > v.skew || d < -v.skew {
		return nil, errSkewed(signed, now, v.skew)
	}
	res := &Result{
		Type: Header, Version: algorithm, AccessKey: cred.accessKey, Signed: signed,
		Region: cred.region, date: iso, scope: cred.scope,
	}
	if hash == "" {
		if hash, err = res.headerPayload(r.Header); err != nil {
			return nil, err
		}
	}
	if err := v.check(r, res, &cred, h.signedHeaders, h.signature, hash); err != nil {
		return nil, err
	}
	return res, nil
}

// verifyQuery checks a presigned request.
func (v *Verifier) verifyQuery(r *http.Request) (*Result, error) {
	q, err := parsePresigned(r.URL.RawQuery)
	if err != nil {
		return nil, err
	}
	cred, err := v.parseCredential(q.credential, r.URL.RawQuery, queryErrors)
	if err != nil {
		return nil, err
	}
	signed, err := parseISO(q.date)
	if err != nil {
		return nil, queryError(`X-Amz-Date must be in the ISO8601 Long Format "yyyyMMdd'T'HHmmss'Z'"`)
	}
	if q.date[:8] != cred.date {
		return nil, queryErrors.wrong("Invalid credential date " + quote(cred.date) +
			". This date is not the same as X-Amz-Date: " + quote(q.date[:8]) + ".")
	}
	if err := cred.addToken(r.Header["X-Amz-Security-Token"], q.token); err != nil {
		return nil, err
	}
	life, err := parseExpires(q.expires)
	if err != nil {
		return nil, err
	}
	now := v.now()
	expires := signed.Add(life)
	switch {
	case signed.Sub(now) > v.skew:
		return nil, errNotYetValid(signed, now)
	case !now.Before(expires):
		return nil, errExpired(q.expires, expires, now)
	}
	res := &Result{
		Type: Query, Version: algorithm, AccessKey: cred.accessKey, Signed: signed, Expires: expires,
		Region: cred.region, date: q.date, scope: cred.scope,
	}
	hash, err := res.queryPayload(r.Header, q)
	if err != nil {
		return nil, err
	}
	if err := v.check(r, res, &cred, q.signedHeaders, q.signature, hash); err != nil {
		return nil, err
	}
	return res, nil
}

// check does what both ways to sign have in common: it looks up the key, builds the canonical request and
// compares signatures.
func (v *Verifier) check(r *http.Request, res *Result, cred *credential, signedHeaders, signature, hash string) error {
	s := getScratch()
	defer putScratch(s)
	if err := s.splitSigned(r.Header, signedHeaders, res.Type); err != nil {
		return err
	}
	var want [32]byte
	if !decodeHex(want[:], signature) {
		return s.mismatch(res, signature, nil)
	}
	copy(res.seed[:], signature)
	key, err := v.signingKey(r.Context(), res, cred)
	if err != nil {
		return err
	}
	res.key = key
	s.canonical(r, signedHeaders, hash, res.Type == Query, false)
	s.toSign(res)
	got := key.sum(&s.mac, s.sts)
	if subtle.ConstantTimeCompare(got[:], want[:]) == 1 {
		res.Identity.Used(v.now())
		return nil
	}
	// A few clients sign the path and query in the very form they send instead of in S3's encoding of them.
	// Both forms name the same resource, so either proves the secret.
	first := string(s.buf)
	if s.canonical(r, signedHeaders, hash, res.Type == Query, true); string(s.buf) != first {
		s.toSign(res)
		got = key.sum(&s.mac, s.sts)
		if subtle.ConstantTimeCompare(got[:], want[:]) == 1 {
			res.Identity.Used(v.now())
			return nil
		}
		s.buf = append(s.buf[:0], first...)
		s.toSign(res)
	}
	return s.mismatch(res, signature, s.buf)
}

// signingKey looks up the identity of cred and derives or finds its signing key.
func (v *Verifier) signingKey(ctx context.Context, res *Result, cred *credential) (*macKey, error) {
	secret, id, err := v.lookup(ctx, cred.accessKey, cred.token)
	if err != nil {
		return nil, err
	}
	res.Identity = id
	return v.keys.get(cred, v.service, secret), nil
}

func (v *Verifier) lookup(ctx context.Context, accessKey, token string) (secret string, id *auth.Identity, err error) {
	switch {
	case token == "":
		secret, id, err = v.secret(ctx, accessKey)
	case v.session == nil:
		return "", nil, errToken()
	default:
		secret, id, err = v.session(ctx, accessKey, token)
	}
	switch {
	case errors.Is(err, auth.ErrNoSuchKey):
		return "", nil, errNoSuchKey(accessKey)
	case errors.Is(err, auth.ErrToken):
		return "", nil, errToken()
	case errors.Is(err, auth.ErrExpired):
		return "", nil, errTokenExpired()
	}
	return secret, id, firn.E("look up access key", "", err)
}

// addToken takes the session token of a request, which may be sent once.
func (c *credential) addToken(header []string, query string) error {
	if len(header) > 1 || len(header) == 1 && query != "" && header[0] != query {
		return errToken()
	}
	if c.token = query; len(header) == 1 {
		if c.token = header[0]; c.token == "" {
			return errToken()
		}
	}
	return nil
}

// toSign fills s.sts with the string to sign for the canonical request in s.buf.
func (s *scratch) toSign(res *Result) {
	sum := sha256.Sum256(s.buf)
	b := append(s.sts[:0], algorithm...)
	b = append(b, '\n')
	b = append(b, res.date...)
	b = append(b, '\n')
	b = append(b, res.scope...)
	b = append(b, '\n')
	s.sts = appendHex(b, sum[:])
}

func (s *scratch) mismatch(res *Result, signature string, canonical []byte) error {
	return errSignature(res.AccessKey, signature, string(s.sts), string(canonical))
}
