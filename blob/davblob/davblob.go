// Package davblob keeps blobs as files of a WebDAV server.
//
// It owns the use of WebDAV for package driver's contract; the files lie as the file driver lays them
// (docs/format/blob-file.md), so that a place can be read at the server itself, but for one thing: the first dot of a
// name is "%2E", because nginx lists no name that begins with a dot. A place is named by
//
//	webdav://user@host:port/path       over HTTP
//	webdavs://user@host:port/path?ca=/etc/ssl/our-ca.pem   over TLS, ca being further authorities to trust
//
// and the password comes from Options. Basic and digest authentication are used as the server asks.
//
// It promises that a put is complete before it takes its name: PUT to a temporary name, then MOVE. How durable that is,
// and whether the MOVE replaces an old blob in one step, is the server's: nginx renames; servers on Go's WebDAV package
// (rclone) and Apache delete the old blob first. A reader that comes in between waits for the new one, as the temporary
// name says what is being replaced, but a listing may miss the blob, and if the server dies just then the old blob is
// gone, and rclone may for a moment give the new blob the old one's length. Blobs that are written once, as a repository's
// packs are, meet none of this. No WebDAV server creates a file only if it is not there safely enough for a lock, so there is no Create. It must
// never import another driver.
package davblob

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/icholy/digest"

	"firn"
	"firn/blob/driver"
)

const (
	// buffer is what the transport reads and writes at once.
	buffer = 64 << 10
	// idle is how many connections are kept for the next request.
	idle = 32
)

// Options say where the directory is and who asks.
type Options struct {
	// URL is the directory's, http: or https:, without credentials.
	URL string
	// User and Password are used where the server asks.
	User, Password string
	// CAFile has further certificate authorities in PEM; empty for the system's alone.
	CAFile string
}

// FromURL reads a webdav: or webdavs: URL.
func FromURL(u *url.URL) (Options, error) {
	scheme := map[string]string{"webdav": "http", "webdavs": "https"}[u.Scheme]
	opt := Options{User: u.User.Username()}
	query, err := url.ParseQuery(u.RawQuery)
	switch {
	case err != nil:
		return opt, invalid("the URL's query cannot be read")
	case scheme == "":
		return opt, invalid("the URL must begin with webdav: or webdavs:")
	case u.Host == "" || u.Opaque != "" || u.Fragment != "":
		return opt, invalid("the URL is webdavs://user@host:port/path")
	}
	if _, has := u.User.Password(); has {
		return opt, invalid("a password does not belong in the URL: use the setting for it")
	}
	for name, values := range query {
		if name != "ca" || len(values) != 1 {
			return opt, invalid(fmt.Sprintf("%q: the URL takes ca, once", name))
		}
		opt.CAFile = values[0]
	}
	opt.URL = (&url.URL{Scheme: scheme, Host: u.Host, Path: u.Path, RawPath: u.RawPath}).String()
	return opt, nil
}

func invalid(text string) error { return firn.NewError(firn.Invalid, text) }

// place is the driver.
type place struct {
	root   *url.URL // its path ends in a slash
	http   *http.Client
	user   string
	pass   string
	ctx    context.Context //nolint:containedctx // of all calls: ends at Close
	cancel context.CancelCauseFunc

	mu struct {
		sync.Mutex
		known     bool // how the server wants to be asked
		basic     bool
		challenge *digest.Challenge
		count     int // of requests with this challenge
	}
}

// New returns the driver for a directory. It sends nothing: the first call does.
func New(ctx context.Context, opt Options) (driver.Driver, error) { return open(ctx, opt) }

func open(ctx context.Context, opt Options) (*place, error) {
	root, err := url.Parse(opt.URL)
	if err != nil || root.Host == "" || root.Scheme != "http" && root.Scheme != "https" || root.User != nil ||
		root.RawQuery != "" || root.Fragment != "" {
		return nil, invalid("the URL of a WebDAV directory is http://host:port/path or https://host:port/path")
	}
	root.Path, root.RawPath = strings.TrimRight(root.Path, "/")+"/", ""
	transport := &http.Transport{
		Proxy:               http.ProxyFromEnvironment,
		DialContext:         (&net.Dialer{Timeout: 30 * time.Second, KeepAlive: 30 * time.Second}).DialContext,
		TLSHandshakeTimeout: 10 * time.Second,
		IdleConnTimeout:     time.Minute,
		MaxIdleConnsPerHost: idle,
		ReadBufferSize:      buffer,
		WriteBufferSize:     buffer,
		DisableCompression:  true, // a range of compressed content is not one of the blob
	}
	if opt.CAFile != "" {
		if transport.TLSClientConfig, err = trust(opt.CAFile); err != nil {
			return nil, err
		}
	}
	p := &place{root: root, user: opt.User, pass: opt.Password}
	p.http = &http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error {
		return http.ErrUseLastResponse // a password goes nowhere else
	}}
	p.ctx, p.cancel = context.WithCancelCause(context.WithoutCancel(ctx))
	return p, nil
}

func trust(file string) (*tls.Config, error) {
	pem, err := os.ReadFile(file)
	if err != nil {
		return nil, invalid(err.Error())
	}
	pool, err := x509.SystemCertPool()
	if err != nil {
		pool = x509.NewCertPool()
	}
	if !pool.AppendCertsFromPEM(pem) {
		return nil, invalid("no certificate in PEM is in " + file)
	}
	return &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: pool}, nil
}

var errClosed = errors.New("the place was closed")

// call is the context of one call, which ends with the caller's and at Close.
func (p *place) call(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	stop := context.AfterFunc(p.ctx, func() { cancel(errClosed) })
	return ctx, func() { stop(); cancel(nil) }
}

// Close ends the calls under way and closes the connections.
func (p *place) Close() error {
	p.cancel(errClosed)
	p.http.CloseIdleConnections()
	return nil
}

// url is that of a path below the root.
func (p *place) url(rel string) string {
	u := *p.root
	u.Path, u.RawPath = u.Path+rel, ""
	return u.String()
}
