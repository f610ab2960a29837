package transfer

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"strings"
	"syscall"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"

	"firn"
)

// ClientOptions bound what a Client does. The zero value takes the defaults.
type ClientOptions struct {
	Parallel int           // requests in flight at once: 8
	Attempts int           // tries of one request that fails in a way that may pass: 8
	Stall    time.Duration // a body that moves no byte for so long is given up and tried again: 1 min
	Backoff  time.Duration // before the second try; doubles up to 5 s: 200 ms
}

const (
	maxParallel = 256
	maxBackoff  = 5 * time.Second
	// answerTimeout bounds the wait for an answer once a request is sent: completing a large multipart
	// upload takes some servers minutes.
	answerTimeout = 10 * time.Minute
)

func (o *ClientOptions) setDefaults() error {
	if o.Parallel == 0 {
		o.Parallel = 8
	}
	if o.Attempts == 0 {
		o.Attempts = 8
	}
	if o.Stall == 0 {
		o.Stall = time.Minute
	}
	if o.Backoff == 0 {
		o.Backoff = 200 * time.Millisecond
	}
	if o.Parallel < 1 || o.Parallel > maxParallel || o.Attempts < 1 || o.Stall < 0 || o.Backoff < 0 {
		return &firn.Error{Kind: firn.Invalid, Op: "client options", Err: fmt.Errorf("parallel must be 1 to %d, attempts at least 1", maxParallel)}
	}
	return nil
}

// Client talks to one S3 endpoint. It may be used concurrently.
type Client struct {
	core    minio.Core
	profile Profile
	o       ClientOptions
	slots   chan struct{} // one for each request in flight
	secure  bool
	ranges  int64 // bytes of one ranged GET; tests make it small
}

// NewClient returns a client of the endpoint in p. It sends nothing yet.
func NewClient(p Profile, o ClientOptions) (*Client, error) {
	if err := o.setDefaults(); err != nil {
		return nil, err
	}
	u, err := ParseEndpoint(p.Endpoint)
	if err != nil {
		return nil, err
	}
	amazon := strings.HasSuffix(u.Hostname(), ".amazonaws.com")
	region, retries := p.Region, 1
	if region == "" && !amazon {
		region = "us-east-1"
	}
	if region == "" {
		retries = 2 // the second try goes to the region the first answer names
	}
	lookup := minio.BucketLookupPath
	if p.VirtualHost || amazon {
		lookup = minio.BucketLookupDNS
	}
	creds := credentials.NewStaticV4(p.AccessKey, p.SecretKey, p.SessionToken)
	if p.AccessKey == "" {
		creds = credentials.NewStatic("", "", "", credentials.SignatureAnonymous)
	}
	tr := &http.Transport{
		Proxy:                 http.ProxyFromEnvironment,
		DialContext:           (&net.Dialer{Timeout: 15 * time.Second, KeepAlive: 15 * time.Second}).DialContext,
		MaxIdleConnsPerHost:   o.Parallel,
		MaxConnsPerHost:       2 * o.Parallel,
		IdleConnTimeout:       time.Minute,
		TLSHandshakeTimeout:   15 * time.Second,
		ResponseHeaderTimeout: answerTimeout,
		DisableCompression:    true, // bytes must arrive as they are stored
		WriteBufferSize:       64 << 10,
		ReadBufferSize:        64 << 10,
		TLSClientConfig:       &tls.Config{MinVersion: tls.VersionTLS12, InsecureSkipVerify: p.Insecure},
	}
	core, err := minio.NewCore(u.Host, &minio.Options{
		Creds: creds, Secure: u.Scheme == "https", Region: region, BucketLookup: lookup, Transport: tr,
		MaxRetries: retries, // trying again is this package's: see retry
	})
	if err != nil {
		return nil, &firn.Error{Kind: firn.Invalid, Op: "client", Subject: p.Endpoint, Err: err}
	}
	core.SetAppInfo("firn", firn.Version)
	return &Client{
		core: *core, profile: p, o: o, slots: make(chan struct{}, o.Parallel), secure: u.Scheme == "https",
		ranges: rangeSize,
	}, nil
}

// Endpoint returns the URL of the endpoint.
func (c *Client) Endpoint() string { return c.profile.Endpoint }

// same reports whether both clients reach the same endpoint as the same user, so that the server can copy.
func (c *Client) same(d *Client) bool {
	return c.profile.Endpoint == d.profile.Endpoint && c.profile.AccessKey == d.profile.AccessKey
}

// pulse watches one try of a request for a stalled body.
type pulse struct {
	timer *time.Timer
	stall time.Duration
}

// beat says that bytes move: the next beat or rest must come within the stall time.
func (p *pulse) beat() { p.timer.Reset(p.stall) }

// rest says that the body has ended and only the answer is waited for.
func (p *pulse) rest() { p.timer.Reset(answerTimeout) }

// attempt is one try of a request. Its context ends with the caller's, and when a beating pulse stops.
type attempt func(ctx context.Context, p *pulse) error

// do runs one request in a slot, and again while it fails in a way that may pass.
func (c *Client) do(ctx context.Context, op, subject string, fn attempt) error {
	select {
	case c.slots <- struct{}{}:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	defer func() { <-c.slots }()
	return c.retry(ctx, op, subject, fn)
}

// retry is do for a caller that holds a slot.
func (c *Client) retry(ctx context.Context, op, subject string, fn attempt) error {
	for n := 1; ; n++ {
		err := c.once(ctx, fn)
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if n >= c.o.Attempts || !mayPass(err) {
			return wrapError(op, subject, err)
		}
		if err := c.backoff(ctx, n); err != nil {
			return err
		}
	}
}

// backoff waits before try n+1.
func (c *Client) backoff(ctx context.Context, n int) error {
	d := min(c.o.Backoff<<min(n-1, 10), maxBackoff)
	t := time.NewTimer(d/2 + rand.N(d/2+1))
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

var errStalled = firn.NewError(firn.Unavailable, "the connection stalled")

func (c *Client) once(ctx context.Context, fn attempt) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	// Before the first beat the transport's own time-outs hold.
	p := &pulse{timer: time.AfterFunc(2*answerTimeout, func() { cancel(errStalled) }), stall: c.o.Stall}
	defer p.timer.Stop()
	err := fn(ctx, p)
	if err != nil && errors.Is(context.Cause(ctx), errStalled) {
		return errStalled
	}
	return err
}

// bodyReader is a request's body of a known size: it drives the pulse and counts progress.
type bodyReader struct {
	io.ReadSeeker
	size  int64
	pulse *pulse
	count func(n int64)
	at    int64
	high  int64 // furthest byte counted, so that a body rewound is not counted twice
}

func (b *bodyReader) Read(p []byte) (int, error) {
	n, err := b.ReadSeeker.Read(p)
	b.at += int64(n)
	if b.at >= b.size || err != nil {
		b.pulse.rest()
	} else {
		b.pulse.beat()
	}
	if b.at > b.high {
		b.count(b.at - b.high)
		b.high = b.at
	}
	return n, err
}

func (b *bodyReader) Seek(off int64, whence int) (int64, error) {
	at, err := b.ReadSeeker.Seek(off, whence)
	if err == nil {
		b.at = at
	}
	return at, err
}

// mayPass reports whether the same request may succeed later: the network, an overloaded or failing server,
// or bytes damaged on the way. Everything that the request itself is to blame for is final.
func mayPass(err error) bool {
	var fe *firn.Error
	if errors.As(err, &fe) {
		return fe.Kind == firn.Unavailable
	}
	var re minio.ErrorResponse
	if errors.As(err, &re) {
		switch re.Code {
		case "SlowDown", "SlowDownRead", "SlowDownWrite", "RequestTimeout", "InternalError", "ServiceUnavailable",
			"Throttling", "ThrottlingException", "RequestLimitExceeded", "RequestThrottled", "BadDigest",
			"XAmzContentSHA256Mismatch", "IncompleteBody", "OperationAborted":
			return true
		case "NotImplemented", "InsufficientStorage", "XMinioStorageFull":
			return false
		}
		switch re.StatusCode {
		case http.StatusRequestTimeout, http.StatusTooManyRequests, http.StatusInternalServerError,
			http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
			return true
		}
		return false
	}
	var ce *tls.CertificateVerificationError
	var ae tls.AlertError
	var re2 tls.RecordHeaderError
	if errors.As(err, &ce) || errors.As(err, &ae) || errors.As(err, &re2) {
		return false
	}
	var de *net.DNSError
	if errors.As(err, &de) && de.IsNotFound {
		return false
	}
	var ne net.Error
	var ue *url.Error
	switch {
	case errors.Is(err, context.Canceled):
		return false
	case errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, io.EOF), errors.Is(err, syscall.ECONNRESET),
		errors.Is(err, syscall.EPIPE), errors.Is(err, syscall.ECONNREFUSED), errors.As(err, &ne), errors.As(err, &ue):
		return true
	}
	return false
}

// wrapError gives an error of minio-go its kind, and names operation and subject.
func wrapError(op, subject string, err error) error {
	if err == nil {
		return nil
	}
	var fe *firn.Error
	if errors.As(err, &fe) {
		return firn.E(op, subject, err)
	}
	kind := firn.Internal
	var re minio.ErrorResponse
	var ne net.Error
	var ue *url.Error
	if errors.As(err, &ue) && ue.Err != nil {
		err = ue.Err // without the method and the URL with its query
	}
	switch {
	case errors.As(err, &re):
		kind = kindOfResponse(re)
		if re.Message == "" {
			err = errors.New(cmpCode(re))
		} else {
			err = fmt.Errorf("%s: %s", cmpCode(re), re.Message)
		}
	case errors.As(err, &ne), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, io.EOF):
		kind = firn.Unavailable
	}
	return &firn.Error{Kind: kind, Op: op, Subject: subject, Err: err}
}

func cmpCode(re minio.ErrorResponse) string {
	if re.Code != "" {
		return re.Code
	}
	return fmt.Sprintf("status %d", re.StatusCode)
}

func kindOfResponse(re minio.ErrorResponse) firn.Kind {
	switch re.Code {
	case "BucketAlreadyExists", "BucketAlreadyOwnedByYou":
		return firn.Exists
	case "NotImplemented":
		return firn.Unsupported
	case "AccessDenied":
		return firn.Denied
	case "NoSuchKey", "NoSuchBucket", "NoSuchUpload", "NoSuchVersion":
		return firn.NotFound
	case "InsufficientStorage", "XMinioStorageFull":
		return firn.NoSpace
	case "BadDigest", "XAmzContentSHA256Mismatch":
		return firn.Corrupt
	}
	switch s := re.StatusCode; {
	case s == http.StatusNotFound:
		return firn.NotFound
	case s == http.StatusForbidden, s == http.StatusUnauthorized:
		return firn.Denied
	case s == http.StatusConflict:
		return firn.Conflict
	case s == http.StatusPreconditionFailed:
		return firn.Precondition
	case s == http.StatusInsufficientStorage:
		return firn.NoSpace
	case s == http.StatusNotImplemented:
		return firn.Unsupported
	case s >= 500, s == http.StatusTooManyRequests:
		return firn.Unavailable
	case s >= 400:
		return firn.Invalid
	}
	return firn.Internal
}
