package cli

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"firn"
	"firn/adminapi"
	"firn/config"
	"firn/node"
	"firn/tlsconf"
)

// adminFlags are the flags by which a command finds the site it acts on.
type adminFlags struct {
	env  *Env
	data string
	url  string
	tok  string
	ca   string
}

// addAdminFlags adds them to c and to the commands below it.
func addAdminFlags(c *cobra.Command, env *Env) *adminFlags {
	a := &adminFlags{env: env}
	a.register(c)
	return a
}

func (a *adminFlags) register(c *cobra.Command) {
	f := c.PersistentFlags()
	f.StringVar(&a.data, "data", "", "data directory of the running site (FIRN_DATA; default "+config.Default().Data+")")
	f.StringVar(&a.url, "admin", "", "URL of a site's admin endpoint, such as http://10.0.0.5:9001, instead of --data")
	f.StringVar(&a.tok, "token-file", "", "file with the admin token, for --admin (or FIRN_ADMIN_TOKEN with the token itself)")
	f.StringVar(&a.ca, "admin-ca", "", "file with certificates to trust for --admin https://..., beside the system's")
}

func (a *adminFlags) dataDir() string {
	if a.data != "" {
		return a.data
	}
	if d, _ := a.env.Getenv("FIRN_DATA"); d != "" {
		return d
	}
	return config.Default().Data
}

// adminClient speaks to the admin endpoint of one site.
type adminClient struct {
	base  string
	token string
	http  *http.Client
}

// connect finds the site.
func (a *adminFlags) connect() (*adminClient, error) {
	// Streams go on for as long as they bring something; only the beginning of an answer is bounded.
	transport := &http.Transport{ResponseHeaderTimeout: time.Minute, Proxy: nil}
	c := &adminClient{http: &http.Client{Transport: transport}}
	if a.url != "" {
		if a.data != "" {
			return nil, usageError("--admin and --data name a site each: give one")
		}
		u, err := url.Parse(a.url)
		if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
			return nil, usageError("--admin %s: want a URL such as http://10.0.0.5:9001", a.url)
		}
		c.base = strings.TrimSuffix(a.url, "/")
		if transport.TLSClientConfig, err = trusting(a.ca); err != nil {
			return nil, err
		}
		if c.token, err = a.token(); err != nil {
			return nil, err
		}
		return c, nil
	}
	dir := a.dataDir()
	run, err := node.ReadRunInfo(dir)
	if errors.Is(err, fs.ErrNotExist) {
		abs, _ := filepath.Abs(dir)
		return nil, &firn.Error{
			Kind: firn.NotFound, Op: "find the site of", Subject: abs,
			Err: errors.New("no site runs there: start it with firn serve, or name its data directory with --data or its endpoint with --admin"),
		}
	}
	if err != nil {
		return nil, firn.E("find the site of", dir, err)
	}
	c.base = "http://" + run.Admin
	if run.AdminTLS != nil {
		c.base = "https://" + run.Admin
		transport.TLSClientConfig = pinned(run.AdminTLS)
	}
	if c.token, err = node.ReadAdminToken(dir); err != nil {
		return nil, firn.E("read admin token", dir, err)
	}
	return c, nil
}

// trusting returns the TLS settings that trust the certificates in a file beside the system's. "" is no file.
func trusting(file string) (*tls.Config, error) {
	if file == "" {
		return nil, nil
	}
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	roots, err := x509.SystemCertPool()
	if err != nil {
		roots = x509.NewCertPool()
	}
	if !roots.AppendCertsFromPEM(b) {
		return nil, usageError("--admin-ca %s: it holds no certificate in PEM", file)
	}
	return &tls.Config{RootCAs: roots}, nil
}

// pinned returns the TLS settings that accept the certificate which the site on this machine said it shows.
func pinned(t *node.AdminTLS) *tls.Config {
	if t.Fingerprint == "" {
		return &tls.Config{ServerName: t.Name}
	}
	return &tls.Config{
		InsecureSkipVerify: true, // VerifyConnection is stricter: one certificate, whatever names it has
		VerifyConnection: func(c tls.ConnectionState) error {
			if tlsconf.Fingerprint(c.PeerCertificates[0]) != t.Fingerprint {
				return errors.New("it shows another certificate than the site in the data directory")
			}
			return nil
		},
	}
}

func (a *adminFlags) token() (string, error) {
	if a.tok != "" {
		return node.ReadTokenFile(a.tok)
	}
	if t, _ := a.env.Getenv("FIRN_ADMIN_TOKEN"); t != "" {
		return strings.TrimSpace(t), nil
	}
	return "", usageError("--admin needs the site's admin token: give --token-file FILE or FIRN_ADMIN_TOKEN; it is in admin.token in the site's data directory")
}

// remoteError is an error the site answered.
type remoteError struct {
	kind    string
	message string
}

func (e *remoteError) Error() string { return e.message }

// open sends a request and returns the body of a good answer.
func (c *adminClient) open(ctx context.Context, method, path string, in any) (io.ReadCloser, error) {
	var body io.Reader
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return nil, err
		}
		body = bytes.NewReader(b)
	}
	r, err := http.NewRequestWithContext(ctx, method, c.base+path, body)
	if err != nil {
		return nil, err
	}
	r.Header.Set("Authorization", "Bearer "+c.token)
	if in != nil {
		r.Header.Set("Content-Type", "application/json")
	}
	resp, err := c.http.Do(r)
	if err != nil {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		var u *url.Error
		if errors.As(err, &u) {
			err = u.Err
		}
		return nil, &firn.Error{
			Kind: firn.Unavailable, Op: "reach the site at", Subject: c.base,
			Err: fmt.Errorf("%w: is it running?", err),
		}
	}
	if resp.StatusCode < 300 {
		return resp.Body, nil
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
	if err != nil {
		return nil, err
	}
	var doc struct{ Error adminapi.ErrorBody }
	if json.Unmarshal(b, &doc) != nil || doc.Error.Message == "" {
		return nil, &firn.Error{
			Kind: firn.Unavailable, Op: "call the site at", Subject: c.base,
			Err: fmt.Errorf("it answered %s: is that a firn admin endpoint?", resp.Status),
		}
	}
	return nil, &remoteError{doc.Error.Kind, doc.Error.Message}
}

// call sends in (nil for none) and reads the answer into out (nil for none).
func (c *adminClient) call(ctx context.Context, method, path string, in, out any) error {
	body, err := c.open(ctx, method, path, in)
	if err != nil {
		return err
	}
	defer body.Close()
	if out == nil {
		return nil
	}
	return json.NewDecoder(body).Decode(out)
}

// maxLine bounds a line of a stream, in bytes: a key of 1024 bytes, escaped, and the rest of an entry.
const maxLine = 1 << 20

// lines calls fn for each line of a stream. A line {"error": ...} ends it with that error.
func lines(body io.Reader, fn func(line []byte) error) error {
	s := bufio.NewScanner(body)
	s.Buffer(make([]byte, 0, 64<<10), maxLine)
	for s.Scan() {
		if bytes.HasPrefix(s.Bytes(), []byte(`{"error":`)) {
			var doc struct{ Error adminapi.ErrorBody }
			if err := json.Unmarshal(s.Bytes(), &doc); err != nil {
				return err
			}
			return &remoteError{doc.Error.Kind, doc.Error.Message}
		}
		if err := fn(s.Bytes()); err != nil {
			return err
		}
	}
	return s.Err()
}
