package edgehttp

import (
	"context"
	"errors"
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
	// AccessKey, SecretKey, SessionToken and Region sign requests as S3 wants it, where AccessKey is not "". URL then has
	// the bucket as its path, and nothing but objects is asked for: no listing, and no query, by which S3 shows its
	// settings to whoever has the keys.
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
	case (o.AccessKey == "") != (o.SecretKey == ""):
		return nil, firn.NewError(firn.Invalid, "an access key and a secret key go together")
	case o.AccessKey != "" && strings.Trim(o.URL.Path, "/") == "":
		return nil, firn.NewError(firn.Invalid, "the URL of an S3 origin has the bucket as its path")
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

// emptySHA256 is the SHA-256 of no content, which a signed GET has.
const emptySHA256 = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"

// Name is the URL.
func (o *HTTP) Name() string { return o.o.URL.String() }

// Fetch asks the server.
func (o *HTTP) Fetch(ctx context.Context, r Request) (*http.Response, error) {
	u := strings.TrimSuffix(o.o.URL.String(), "/") + r.Path
	switch {
	case o.o.AccessKey == "" && r.Query != "":
		u += "?" + r.Query
	case o.o.AccessKey != "" && strings.Trim(r.Path, "/") == "":
		return &http.Response{StatusCode: http.StatusNotFound, Header: http.Header{}, Body: http.NoBody}, nil
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
		req.Header.Set("X-Amz-Content-Sha256", emptySHA256)
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
