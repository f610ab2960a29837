package edgehttp

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/minio/minio-go/v7/pkg/signer"

	"firn"
)

// Request is what is asked of an origin.
type Request struct {
	Method string // GET or HEAD
	// Path is escaped and begins with a slash; Query is without its question mark.
	Path, Query string
	Header      http.Header
}

// Origin is where contents come from. Its methods may be called concurrently.
type Origin interface {
	// Name is for logs and errors, without credentials.
	Name() string
	// Fetch asks. The caller closes the body; an error means that there was no answer.
	Fetch(ctx context.Context, r Request) (*http.Response, error)
}

// HTTPOptions are the settings of an origin that is a server.
type HTTPOptions struct {
	// URL is its base: http or https, host, and perhaps a path that comes before those that are asked for.
	URL *url.URL
	// Host is sent in the Host header; that of URL where "".
	Host string
	// AccessKey, SecretKey, SessionToken and Region sign requests as S3 wants it, where AccessKey is not "".
	AccessKey, SecretKey, SessionToken, Region string
	// Client makes the requests; one with sane limits where nil. It must not follow redirects nor unpack contents.
	Client *http.Client
}

// HTTP is an origin that is an HTTP server, or, with keys, an S3 service or bucket.
type HTTP struct {
	o HTTPOptions
}

// NewHTTP checks the options.
func NewHTTP(o HTTPOptions) (*HTTP, error) {
	switch {
	case o.URL == nil || o.URL.Scheme != "http" && o.URL.Scheme != "https" || o.URL.Host == "":
		return nil, firn.NewError(firn.Invalid, "an origin is an http or https URL")
	case o.URL.User != nil:
		return nil, firn.NewError(firn.Invalid, "credentials do not belong in an origin's URL")
	case o.URL.RawQuery != "" || o.URL.Fragment != "":
		return nil, firn.NewError(firn.Invalid, "an origin's URL has no query and no fragment")
	case o.AccessKey != "" && o.SecretKey == "":
		return nil, firn.NewError(firn.Invalid, "an access key needs its secret key")
	}
	if o.Region == "" {
		o.Region = "us-east-1"
	}
	if o.Client == nil {
		o.Client = &http.Client{
			Transport: &http.Transport{
				Proxy: http.ProxyFromEnvironment, DisableCompression: true, MaxIdleConnsPerHost: 64, IdleConnTimeout: time.Minute,
				TLSHandshakeTimeout: 10 * time.Second, MaxResponseHeaderBytes: 64 << 10, ForceAttemptHTTP2: true,
			},
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		}
	}
	return &HTTP{o}, nil
}

// Name is the URL.
func (o *HTTP) Name() string { return o.o.URL.String() }

// Fetch asks the server.
func (o *HTTP) Fetch(ctx context.Context, r Request) (*http.Response, error) {
	u := strings.TrimSuffix(o.o.URL.String(), "/") + r.Path
	if r.Query != "" {
		u += "?" + r.Query
	}
	req, err := http.NewRequestWithContext(ctx, r.Method, u, nil)
	if err != nil {
		return nil, &firn.Error{Kind: firn.Invalid, Op: "ask", Subject: o.Name(), Err: err}
	}
	req.Header = r.Header.Clone()
	if o.o.Host != "" {
		req.Host = o.o.Host
	}
	if o.o.AccessKey != "" {
		// What proxies may change must not be signed.
		unsigned := http.Header{}
		for _, name := range []string{"Via", "Accept-Encoding", "Range", "If-Match", "If-None-Match", "If-Modified-Since", "If-Range"} {
			if v, ok := req.Header[name]; ok {
				unsigned[name] = v
				delete(req.Header, name)
			}
		}
		req = signer.SignV4(*req, o.o.AccessKey, o.o.SecretKey, o.o.SessionToken, o.o.Region)
		for name, v := range unsigned {
			req.Header[name] = v
		}
	}
	resp, err := o.o.Client.Do(req)
	if err != nil {
		return nil, &firn.Error{Kind: firn.Unavailable, Op: "ask", Subject: o.Name(), Err: errors.Unwrap(err)}
	}
	return resp, nil
}

// Object is what a bucket says of an object.
type Object struct {
	Size     int64
	Modified time.Time
	// Header has at least a strong Etag, and what else is said of the content.
	Header http.Header
}

// Bucket is a bucket of this site.
type Bucket interface {
	// Stat returns the object's current version. It fails with firn.NotFound.
	Stat(ctx context.Context, key string) (Object, error)
	// Open reads length bytes of the current version from offset on, and says of which version they are. It fails with
	// firn.NotFound.
	Open(ctx context.Context, key string, offset, length int64) (Object, io.ReadCloser, error)
}

// FromBucket is an origin that is a bucket of this site: the path is the key.
func FromBucket(name string, b Bucket) Origin { return &bucketOrigin{name, b} }

type bucketOrigin struct {
	name string
	b    Bucket
}

func (o *bucketOrigin) Name() string { return o.name }

func (o *bucketOrigin) Fetch(ctx context.Context, r Request) (*http.Response, error) {
	key, err := url.PathUnescape(strings.TrimPrefix(r.Path, "/"))
	if err != nil {
		return answer(http.StatusBadRequest, nil, 0, nil), nil
	}
	obj, err := o.b.Stat(ctx, key)
	if err != nil {
		return o.failed(err)
	}
	h := obj.Header.Clone()
	h.Set("Last-Modified", obj.Modified.UTC().Format(http.TimeFormat))
	h.Set("Accept-Ranges", "bytes")
	if match := r.Header.Get("If-Match"); match != "" && match != h.Get("Etag") {
		return answer(http.StatusPreconditionFailed, nil, 0, nil), nil
	}
	if none := r.Header.Get("If-None-Match"); none != "" && none == h.Get("Etag") {
		return answer(http.StatusNotModified, h, 0, nil), nil
	}
	status, offset, length := http.StatusOK, int64(0), obj.Size
	if first, last, ok := byteRange(r.Header.Get("Range")); ok {
		if first >= obj.Size {
			h := http.Header{"Content-Range": {fmt.Sprintf("bytes */%d", obj.Size)}}
			return answer(http.StatusRequestedRangeNotSatisfiable, h, 0, nil), nil
		}
		last = min(last, obj.Size-1)
		status, offset, length = http.StatusPartialContent, first, last-first+1
		h.Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", first, last, obj.Size))
	}
	if r.Method == http.MethodHead || length == 0 {
		return answer(status, h, length, nil), nil
	}
	got, body, err := o.b.Open(ctx, key, offset, length)
	if err != nil {
		return o.failed(err)
	}
	if got.Header.Get("Etag") != h.Get("Etag") {
		// It was replaced in between. Whoever asks finds out by the tag; asking again is the simple answer.
		return nil, errors.Join(firn.NewError(firn.Unavailable, "the object was replaced while it was read"), body.Close())
	}
	return answer(status, h, length, body), nil
}

func (o *bucketOrigin) failed(err error) (*http.Response, error) {
	switch firn.KindOf(err) {
	case firn.NotFound:
		return answer(http.StatusNotFound, nil, 0, nil), nil
	case firn.Denied:
		return answer(http.StatusForbidden, nil, 0, nil), nil
	}
	return nil, err
}

// answer is a response that comes from no server.
func answer(status int, h http.Header, length int64, body io.ReadCloser) *http.Response {
	if h == nil {
		h = http.Header{}
	}
	if body == nil {
		body = http.NoBody
	}
	h.Set("Date", time.Now().UTC().Format(http.TimeFormat))
	return &http.Response{StatusCode: status, Header: h, ContentLength: length, Body: body}
}

// byteRange reads "bytes=first-last", as this package asks for it.
func byteRange(s string) (first, last int64, ok bool) {
	s, ok = strings.CutPrefix(s, "bytes=")
	if !ok {
		return 0, 0, false
	}
	if n, err := fmt.Sscanf(s, "%d-%d", &first, &last); n != 2 || err != nil || first < 0 || last < first {
		return 0, 0, false
	}
	return first, last, true
}
