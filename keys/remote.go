package keys

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"firn"
)

const (
	// remoteTime bounds a call of a key service: a request of a client waits for it.
	remoteTime = 10 * time.Second
	// maxReply bounds what is read of an answer, in bytes, and maxReason of the text of an error.
	maxReply  = 8 << 20
	maxReason = 200
)

// remote calls a service that speaks JSON over HTTP.
type remote struct {
	name   string // for errors
	base   *url.URL
	client *http.Client
}

// newRemote returns a remote at an address. caFile, where set, has the certificates to trust in place of the system's;
// cert, where not nil, is what the service knows this client by.
func newRemote(name, address, caFile string, cert *tls.Certificate) (*remote, error) {
	u, err := url.Parse(address)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return nil, firn.NewError(firn.Invalid, "the address of "+name+" is not a URL")
	}
	conf := &tls.Config{MinVersion: tls.VersionTLS12}
	if caFile != "" {
		pem, err := readBounded(caFile, 1<<20)
		if err != nil {
			return nil, err
		}
		conf.RootCAs = x509.NewCertPool()
		if !conf.RootCAs.AppendCertsFromPEM(pem) {
			return nil, firn.NewError(firn.Invalid, caFile+" holds no certificate")
		}
	}
	if cert != nil {
		conf.Certificates = []tls.Certificate{*cert}
	}
	t := &http.Transport{
		Proxy: http.ProxyFromEnvironment, TLSClientConfig: conf, ForceAttemptHTTP2: true,
		MaxConnsPerHost: 64, MaxIdleConnsPerHost: 16, IdleConnTimeout: time.Minute, TLSHandshakeTimeout: remoteTime,
	}
	return &remote{name: name + " at " + u.Redacted(), base: u, client: &http.Client{
		Transport: t, Timeout: remoteTime,
		// A redirect would carry the token elsewhere.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}, nil
}

// refusal is an answer of a service other than success.
type refusal struct {
	status int
	reason string
}

func (r *refusal) Error() string { return fmt.Sprintf("status %d: %s", r.status, r.reason) }

// call sends in as JSON, where it is not nil, and reads the answer into out, where that is not nil. The error is a
// *refusal, or of kind Unavailable.
func (r *remote) call(ctx context.Context, method, path string, header map[string]string, in, out any) error {
	var body io.Reader
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return err
		}
		body = bytes.NewReader(b)
	}
	rq, err := http.NewRequestWithContext(ctx, method, r.base.JoinPath(path).String(), body)
	if err != nil {
		return err
	}
	for k, v := range header {
		if v != "" {
			rq.Header.Set(k, v)
		}
	}
	if in != nil {
		rq.Header.Set("Content-Type", "application/json")
	}
	res, err := r.client.Do(rq)
	if err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if u, ok := err.(*url.Error); ok { //nolint:errorlint // client.Do returns it as it is
			err = u.Err // its text repeats the address
		}
		return r.away(err.Error())
	}
	defer res.Body.Close()
	b, err := io.ReadAll(io.LimitReader(res.Body, maxReply))
	if err != nil {
		return r.away(err.Error())
	}
	switch {
	case res.StatusCode >= 500, res.StatusCode == http.StatusTooManyRequests:
		return r.away(fmt.Sprintf("it answers %s: %s", res.Status, reason(b)))
	case res.StatusCode >= 300:
		return &refusal{status: res.StatusCode, reason: reason(b)}
	case out == nil || len(b) == 0:
		return nil
	}
	if err := json.Unmarshal(b, out); err != nil {
		return r.away("its answer is not JSON")
	}
	return nil
}

func (r *remote) away(why string) error {
	return firn.NewError(firn.Unavailable, fmt.Sprintf(
		"the key service (%s) cannot be used now: %s: what it protects can be read and written when it is back", r.name, why))
}

// reason takes the text out of an answer that says no: {"errors":["..."]} or {"message":"..."}.
func reason(b []byte) string {
	var said struct {
		Errors  []string `json:"errors"`
		Message string   `json:"message"`
	}
	text := string(b)
	if json.Unmarshal(b, &said) == nil {
		text = strings.Join(append(said.Errors, said.Message), " ")
	}
	text = strings.Join(strings.Fields(text), " ")
	if len(text) > maxReason {
		text = text[:maxReason]
	}
	return strings.ToValidUTF8(text, "?")
}
