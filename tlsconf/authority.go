package tlsconf

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"io/fs"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"firn"
)

// Files of the own authority, below Options.Dir. docs/format/data-directory.md describes them.
const (
	CAName      = "ca.pem"
	caKeyName   = "ca.key"
	LeafName    = "site.pem"
	leafKeyName = "site.key"
)

const (
	authorityLife = 10 * 365 * 24 * time.Hour
	// leafLife is short enough that a stolen key is of little use for long, and below the 398 days that clients accept.
	leafLife = 90 * 24 * time.Hour
	// renewBefore leaves a month in which a site that cannot write its directory can be put right.
	renewBefore = 30 * 24 * time.Hour
	// clockSlack makes a certificate valid for clients whose clock is behind.
	clockSlack = time.Hour
)

// authority signs the site's certificates.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pem  []byte
}

// openAuthority reads the authority in dir, or makes it. The key is written before the certificate: a certificate
// without key cannot be there.
func openAuthority(dir secrets, now time.Time) (*authority, error) {
	if err := dir.make(); err != nil {
		return nil, err
	}
	certFile := filepath.Join(dir.path, CAName)
	if _, err := os.Stat(certFile); err == nil {
		pair, err := dir.loadPair(CAName, caKeyName)
		if err != nil {
			return nil, err
		}
		key, ok := pair.PrivateKey.(*ecdsa.PrivateKey)
		if !ok || !pair.Leaf.IsCA {
			return nil, &firn.Error{
				Kind: firn.Corrupt, Subject: certFile,
				Err: errors.New("not the authority this site made: restore it, or remove the directory to have a new one made, which clients must then trust"),
			}
		}
		return newAuthority(pair.Leaf, key), nil
	} else if !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	host, err := os.Hostname()
	if err != nil {
		host = "unnamed"
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	cert, err := sign(&x509.Certificate{
		Subject:   pkix.Name{Organization: []string{"Firn"}, CommonName: "Firn site authority on " + host},
		NotBefore: now.Add(-clockSlack), NotAfter: now.Add(authorityLife),
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign, IsCA: true, BasicConstraintsValid: true,
		MaxPathLen: 0, MaxPathLenZero: true,
	}, nil, &key.PublicKey, key)
	if err != nil {
		return nil, err
	}
	a := newAuthority(cert, key)
	if err := dir.writeKey(caKeyName, key); err != nil {
		return nil, err
	}
	return a, writeSecret(certFile, a.pem)
}

func newAuthority(cert *x509.Certificate, key *ecdsa.PrivateKey) *authority {
	return &authority{cert: cert, key: key, pem: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw})}
}

// sign completes and signs a certificate; a nil parent is itself.
func sign(t, parent *x509.Certificate, pub *ecdsa.PublicKey, key *ecdsa.PrivateKey) (*x509.Certificate, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, err
	}
	t.SerialNumber = serial
	if parent == nil {
		parent = t
	}
	der, err := x509.CreateCertificate(rand.Reader, t, parent, pub, key)
	if err != nil {
		return nil, err
	}
	return x509.ParseCertificate(der)
}

// issue makes sure that the certificate in use is of the own authority, for the right names and not about to expire.
// Where it is not it takes the stored one, else makes a new one.
func (s *Source) issue() error {
	now := s.o.Now()
	dns, ips := s.subjects()
	if s.fits(s.current(), dns, ips, now) {
		return nil
	}
	dir := secrets{s.o.Dir, s.o.Seal}
	if c, err := dir.loadPair(LeafName, leafKeyName); err == nil && s.fits(c, dns, ips, now) {
		s.set(c)
		return nil
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	end := now.Add(leafLife)
	if end.After(s.ca.cert.NotAfter) {
		end = s.ca.cert.NotAfter
	}
	leaf, err := sign(&x509.Certificate{
		Subject:   pkix.Name{Organization: []string{"Firn"}, CommonName: "Firn site"},
		NotBefore: now.Add(-clockSlack), NotAfter: end,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		DNSNames: dns, IPAddresses: ips,
	}, s.ca.cert, &key.PublicKey, s.ca.key)
	if err != nil {
		return err
	}
	// In use at once, stored so that a restart does not need a new one. A crash between the two files leaves a pair
	// that does not belong together, which the next start replaces.
	s.set(&tls.Certificate{Certificate: [][]byte{leaf.Raw, s.ca.cert.Raw}, PrivateKey: key, Leaf: leaf})
	if err := dir.writeKey(leafKeyName, key); err != nil {
		return err
	}
	chain := append(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: leaf.Raw}), s.ca.pem...)
	return writeSecret(filepath.Join(dir.path, LeafName), chain)
}

// fits reports whether c may be shown for the given names at the given time.
func (s *Source) fits(c *tls.Certificate, dns []string, ips []net.IP, now time.Time) bool {
	if c == nil || now.Before(c.Leaf.NotBefore) || c.Leaf.CheckSignatureFrom(s.ca.cert) != nil {
		return false
	}
	// An authority near its own end cannot give more time than it has.
	if now.After(c.Leaf.NotAfter.Add(-renewBefore)) && c.Leaf.NotAfter.Before(s.ca.cert.NotAfter) {
		return false
	}
	for _, name := range dns {
		if !slices.Contains(c.Leaf.DNSNames, name) {
			return false
		}
	}
	for _, ip := range ips {
		if !slices.ContainsFunc(c.Leaf.IPAddresses, ip.Equal) {
			return false
		}
	}
	return true
}

// subjects are the names and addresses a certificate is made for.
func (s *Source) subjects() (dns []string, ips []net.IP) {
	dns, ips = []string{"localhost"}, []net.IP{net.IPv4(127, 0, 0, 1).To4(), net.IPv6loopback}
	if host, err := os.Hostname(); err == nil && host != "" {
		dns = append(dns, strings.ToLower(host))
	}
	for _, n := range s.o.Names {
		if ip := net.ParseIP(n); ip != nil {
			ips = append(ips, ip)
		} else {
			dns = append(dns, strings.ToLower(n))
		}
	}
	slices.Sort(dns)
	return slices.Compact(dns), ips
}

// ReadAuthority returns the certificate of the authority kept in dir, as PEM, and its fingerprint.
func ReadAuthority(dir string) (ca []byte, fingerprint string, err error) {
	path := filepath.Join(dir, CAName)
	b, err := readFile(path)
	if err != nil {
		return nil, "", err
	}
	block, _ := pem.Decode(b)
	if block == nil {
		return nil, "", &firn.Error{Kind: firn.Corrupt, Subject: path, Err: errors.New("not a certificate in PEM")}
	}
	c, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, "", &firn.Error{Kind: firn.Corrupt, Subject: path, Err: err}
	}
	return b, Fingerprint(c), nil
}
