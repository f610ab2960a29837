// Package tlsconf owns the certificates a site shows: files that somebody else renews, a certificate authority of its
// own for closed networks, or certificates fetched over ACME.
//
// It promises that a new certificate is taken over without a restart and without breaking connections, that a broken
// or half-written file never replaces a working certificate, that what it makes itself is renewed long before it
// expires, and that private keys are only ever in files of mode 0600, sealed where there is a Sealer. It knows nothing of HTTP handlers and must
// never import config, node or a door.
package tlsconf

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/crypto/acme"
	"golang.org/x/crypto/acme/autocert"

	"firn"
)

// Mode says where certificates come from.
type Mode string

// The modes.
const (
	Files Mode = "files" // a certificate and a key that somebody else keeps current
	Self  Mode = "self"  // an authority made at the first start
	ACME  Mode = "acme"  // fetched from an ACME authority, such as Let's Encrypt
)

// Options say how to get certificates.
type Options struct {
	Mode Mode
	// CertFile holds the chain, the leaf first, and KeyFile its key, both PEM (Files).
	CertFile, KeyFile string
	// Dir keeps what Self and ACME make. It is made with mode 0700.
	Dir string
	// Seal seals the private keys that Self and ACME keep in Dir; nil keeps them as they are.
	Seal Sealer
	// Names are the host names and addresses a certificate is for (Self, ACME; ACME takes host names only). Self adds
	// the names and loopback addresses of this machine.
	Names []string
	// Directory is the URL of the ACME authority; "" is Let's Encrypt. Email is told to it where set. RootsFile holds
	// certificates (PEM) to trust when speaking to it, beside the system's: private authorities need it.
	Directory, Email, RootsFile string
	// Least is the oldest protocol version spoken; 0 is TLS 1.2. Older than that is refused.
	Least uint16
	// Log is told of new certificates and of those that cannot be used; nil discards.
	Log *slog.Logger
	// Changed is called after another certificate came into use; it may be nil.
	Changed func()
	// Poll is how often files are looked at where the system does not tell of changes, and how often the age of an own
	// certificate is checked. 0 is a minute.
	Poll time.Duration
	// Now is the clock; nil is time.Now.
	Now func() time.Time
}

// Sealer seals what is not to be read from the disk. A box opens only with the context it was made for.
type Sealer interface {
	Box(dst []byte, context string, plain []byte) []byte
	Unbox(context string, box []byte) ([]byte, error)
}

// Source gives certificates to listeners. All methods may be called concurrently.
type Source struct {
	o    Options
	log  *slog.Logger
	acme *autocert.Manager // nil in the other modes
	ca   *authority        // nil in the other modes

	mu struct {
		sync.RWMutex
		cert *tls.Certificate
	}
}

// Open gets the certificate, or in mode ACME what is needed to fetch it. A file that cannot be used is an Invalid
// error: at the start, a site with a broken certificate should say so rather than serve without.
func Open(o Options) (*Source, error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Poll <= 0 {
		o.Poll = time.Minute
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Least == 0 {
		o.Least = tls.VersionTLS12
	}
	if o.Least < tls.VersionTLS12 {
		return nil, firn.NewError(firn.Invalid, "TLS before 1.2 is not offered: it has been broken for years")
	}
	s := &Source{o: o, log: o.Log}
	var err error
	switch o.Mode {
	case Files:
		_, err = s.reload()
	case Self:
		if s.ca, err = openAuthority(secrets{o.Dir, o.Seal}, o.Now()); err == nil {
			err = s.issue()
		}
	case ACME:
		err = s.openACME()
	default:
		err = firn.NewError(firn.Invalid, fmt.Sprintf("unknown mode %q: want files, self or acme", o.Mode))
	}
	if err != nil {
		return nil, firn.E("set up TLS", string(o.Mode), err)
	}
	return s, nil
}

// Config returns the configuration for a listener. TLS 1.2 is spoken only with forward secrecy and authenticated
// encryption. HTTP/2 is not offered: S3 clients do not use it, and its streams are one more thing to bound.
func (s *Source) Config() *tls.Config {
	c := &tls.Config{
		MinVersion: s.o.Least,
		CipherSuites: []uint16{ // of TLS 1.2; those of 1.3 are not chosen
			tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
			tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384, tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
			tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256, tls.TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
		},
		NextProtos: []string{"http/1.1"},
	}
	if s.acme != nil {
		c.GetCertificate = s.acme.GetCertificate
		c.NextProtos = append(c.NextProtos, acme.ALPNProto) // answers the authority's challenge on the same port
		return c
	}
	c.GetCertificate = func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return s.current(), nil }
	return c
}

func (s *Source) current() *tls.Certificate {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.mu.cert
}

// Leaf returns the certificate shown now; nil in mode ACME.
func (s *Source) Leaf() *x509.Certificate {
	if c := s.current(); c != nil {
		return c.Leaf
	}
	return nil
}

// Authority returns the certificate of the own authority, as PEM, and its fingerprint; nil and "" in other modes.
func (s *Source) Authority() (pem []byte, fingerprint string) {
	if s.ca == nil {
		return nil, ""
	}
	return s.ca.pem, Fingerprint(s.ca.cert)
}

// Fingerprint is the SHA-256 of a certificate as programs show it: pairs of hex digits with colons.
func Fingerprint(c *x509.Certificate) string {
	sum := sha256.Sum256(c.Raw)
	h := strings.ToUpper(hex.EncodeToString(sum[:]))
	pairs := make([]string, 0, len(sum))
	for i := 0; i < len(h); i += 2 {
		pairs = append(pairs, h[i:i+2])
	}
	return strings.Join(pairs, ":")
}

// Run keeps the certificate current until ctx ends, and returns nil then.
func (s *Source) Run(ctx context.Context) error {
	switch s.o.Mode {
	case Files:
		s.watch(ctx)
	case Self:
		t := time.NewTicker(s.o.Poll)
		defer t.Stop()
		for {
			select {
			case <-ctx.Done():
				return nil
			case <-t.C:
			}
			if err := s.issue(); err != nil {
				s.log.Error("the site's certificate cannot be renewed", "error", err, "expires", s.Leaf().NotAfter)
			}
		}
	default: // ACME: the manager renews by itself, 30 days ahead, once a certificate was asked for
		<-ctx.Done()
	}
	return nil
}

// set makes c the certificate shown to new connections.
func (s *Source) set(c *tls.Certificate) {
	s.mu.Lock()
	s.mu.cert = c
	s.mu.Unlock()
	s.log.Info("TLS certificate in use", "subject", c.Leaf.Subject.String(), "names", names(c.Leaf),
		"expires", c.Leaf.NotAfter.UTC().Format(time.RFC3339), "sha256", Fingerprint(c.Leaf))
	if s.o.Changed != nil {
		s.o.Changed()
	}
	if left := c.Leaf.NotAfter.Sub(s.o.Now()); left < expiryWarning {
		s.log.Warn("the TLS certificate expires soon, or has: clients will refuse it", "left", left.Round(time.Hour))
	}
}

// expiryWarning is how long before its end a certificate of somebody else's is complained about.
const expiryWarning = 14 * 24 * time.Hour

func names(c *x509.Certificate) string {
	all := append([]string(nil), c.DNSNames...)
	for _, ip := range c.IPAddresses {
		all = append(all, ip.String())
	}
	return strings.Join(all, ",")
}

// openACME sets up the manager. Certificates are fetched at the first connection for a name.
func (s *Source) openACME() error {
	if len(s.o.Names) == 0 {
		return firn.NewError(firn.Invalid, "ACME needs the host names to fetch certificates for")
	}
	dir := filepath.Join(s.o.Dir, "acme")
	cache := secrets{dir, s.o.Seal}
	if err := cache.make(); err != nil {
		return err
	}
	client := &acme.Client{DirectoryURL: s.o.Directory, UserAgent: "firn"}
	if client.DirectoryURL == "" {
		client.DirectoryURL = acme.LetsEncryptURL
	}
	transport := &http.Transport{Proxy: http.ProxyFromEnvironment}
	client.HTTPClient = &http.Client{Timeout: time.Minute, Transport: &orders{next: transport}}
	if s.o.RootsFile != "" {
		pem, err := readFile(s.o.RootsFile)
		if err != nil {
			return err
		}
		roots, err := x509.SystemCertPool()
		if err != nil {
			roots = x509.NewCertPool()
		}
		if !roots.AppendCertsFromPEM(pem) {
			return &firn.Error{Kind: firn.Invalid, Subject: s.o.RootsFile, Err: errors.New("it holds no certificate in PEM")}
		}
		transport.TLSClientConfig = &tls.Config{RootCAs: roots}
	}
	s.acme = &autocert.Manager{
		Prompt: autocert.AcceptTOS, Cache: sealedCache{autocert.DirCache(dir), cache}, HostPolicy: autocert.HostWhitelist(s.o.Names...),
		Client: client, Email: s.o.Email,
	}
	return nil
}
