package tlsconf

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/acme/autocert"

	"firn"
	"firn/seal"
)

// writePair writes a certificate for name and its key, as an administrator's tool would.
func writePair(t *testing.T, certFile, keyFile, name string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c, err := sign(&x509.Certificate{
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * 365 * time.Hour), DNSNames: []string{name},
	}, nil, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	if err := (secrets{path: filepath.Dir(keyFile)}).writeKey(filepath.Base(keyFile), key); err != nil {
		t.Fatal(err)
	}
	if err := writeSecret(certFile, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})); err != nil {
		t.Fatal(err)
	}
}

// serve accepts and ends handshakes.
func serve(t *testing.T, s *Source) string {
	t.Helper()
	l, err := tls.Listen("tcp", "127.0.0.1:0", s.Config())
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				io.Copy(c, c)
			}()
		}
	}()
	t.Cleanup(func() { l.Close(); <-done })
	return l.Addr().String()
}

// shown returns the certificate a new connection gets.
func shown(t *testing.T, addr string) *x509.Certificate {
	t.Helper()
	c, err := tls.Dial("tcp", addr, &tls.Config{InsecureSkipVerify: true})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	return c.ConnectionState().PeerCertificates[0]
}

// waitFor polls until the address shows a certificate for name.
func waitFor(t *testing.T, addr, name string) {
	t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for shown(t, addr).VerifyHostname(name) != nil {
		if time.Now().After(deadline) {
			t.Fatalf("%s is not shown", name)
		}
	}
}

func run(t *testing.T, s *Source) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func TestFilesAreReloaded(t *testing.T) {
	for _, how := range []string{"told by the system", "polled"} {
		t.Run(how, func(t *testing.T) {
			dir := t.TempDir()
			cert, key := filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key")
			writePair(t, cert, key, "one.example")
			var log bytes.Buffer
			o := Options{Mode: Files, CertFile: cert, KeyFile: key, Log: slog.New(slog.NewTextHandler(&log, nil)), Poll: time.Hour}
			if how == "polled" {
				o.Poll = 20 * time.Millisecond
			}
			s, err := Open(o)
			if err != nil {
				t.Fatal(err)
			}
			addr := serve(t, s)
			old, err := tls.Dial("tcp", addr, &tls.Config{InsecureSkipVerify: true})
			if err != nil {
				t.Fatal(err)
			}
			defer old.Close()
			run(t, s)
			if shown(t, addr).VerifyHostname("one.example") != nil {
				t.Fatal("not the first certificate")
			}
			// A half-written file does not replace a working certificate.
			if err := os.WriteFile(cert, []byte("-----BEGIN CERT"), 0o600); err != nil {
				t.Fatal(err)
			}
			if _, err := s.reload(); err == nil {
				t.Fatal("half a certificate was taken")
			}
			if shown(t, addr).VerifyHostname("one.example") != nil {
				t.Fatal("the working certificate is gone")
			}
			writePair(t, cert, key, "two.example")
			waitFor(t, addr, "two.example")
			// Connections from before go on.
			if _, err := old.Write([]byte("still")); err != nil {
				t.Fatal(err)
			}
			b := make([]byte, 5)
			if _, err := io.ReadFull(old, b); err != nil || string(b) != "still" {
				t.Errorf("%q, %v", b, err)
			}
		})
	}
}

// TestMountedSecret replaces the files as Kubernetes does: by swapping a symbolic link.
func TestMountedSecret(t *testing.T) {
	dir := t.TempDir()
	put := func(version, name string) {
		t.Helper()
		d := filepath.Join(dir, version)
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
		writePair(t, filepath.Join(d, "tls.crt"), filepath.Join(d, "tls.key"), name)
		if err := os.Symlink(version, filepath.Join(dir, "..tmp")); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(filepath.Join(dir, "..tmp"), filepath.Join(dir, "..data")); err != nil {
			t.Fatal(err)
		}
	}
	put("v1", "one.example")
	for _, f := range []string{"tls.crt", "tls.key"} {
		if err := os.Symlink(filepath.Join("..data", f), filepath.Join(dir, f)); err != nil {
			t.Fatal(err)
		}
	}
	s, err := Open(Options{Mode: Files, CertFile: filepath.Join(dir, "tls.crt"), KeyFile: filepath.Join(dir, "tls.key"), Poll: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	run(t, s)
	addr := serve(t, s)
	put("v2", "two.example")
	waitFor(t, addr, "two.example")
}

func TestFilesThatCannotBeUsed(t *testing.T) {
	dir := t.TempDir()
	cert, key, other := filepath.Join(dir, "c"), filepath.Join(dir, "k"), filepath.Join(dir, "k2")
	writePair(t, filepath.Join(dir, "c2"), other, "x")
	writePair(t, cert, key, "x")
	for _, o := range []Options{
		{Mode: Files, CertFile: cert, KeyFile: other},
		{Mode: Files, CertFile: key, KeyFile: key},
		{Mode: Files, CertFile: filepath.Join(dir, "none"), KeyFile: key},
		{Mode: "magic"},
		{Mode: Files, CertFile: cert, KeyFile: key, Least: tls.VersionTLS11},
	} {
		if _, err := Open(o); err == nil {
			t.Errorf("%+v was taken", o)
		}
	}
}

func TestOwnAuthority(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "tls")
	now := time.Now()
	o := Options{Mode: Self, Dir: dir, Names: []string{"Store.Example", "192.0.2.5"}, Now: func() time.Time { return now }}
	s, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	ca, fp := s.Authority()
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(ca) || len(fp) != 32*3-1 {
		t.Fatalf("authority %q, fingerprint %s", ca, fp)
	}
	addr := serve(t, s)
	for _, name := range []string{"localhost", "127.0.0.1", "store.example", "192.0.2.5"} {
		c, err := tls.Dial("tcp", addr, &tls.Config{RootCAs: roots, ServerName: name})
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		c.Close()
	}
	if _, err := tls.Dial("tcp", addr, &tls.Config{RootCAs: roots, ServerName: "other.example"}); err == nil {
		t.Error("trusted for another name")
	}
	files, err := os.ReadDir(dir)
	if err != nil || len(files) != 4 {
		t.Fatalf("%v, %v", files, err)
	}
	for _, f := range files {
		if fi, err := f.Info(); err != nil || fi.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", f.Name(), fi.Mode(), err)
		}
	}
	if fi, err := os.Stat(dir); err != nil || fi.Mode().Perm() != 0o700 {
		t.Errorf("directory: %v, %v", fi.Mode(), err)
	}
	first := s.Leaf()

	// A restart shows the same.
	if s, err = Open(o); err != nil || !s.Leaf().Equal(first) {
		t.Fatalf("after a restart: another certificate, %v", err)
	}
	if b, f, err := ReadAuthority(dir); err != nil || f != fp || !bytes.Equal(b, ca) {
		t.Errorf("read back: %s, %v", f, err)
	}
	// It is renewed a month before it ends, by the same authority.
	now = now.Add(leafLife - renewBefore - time.Hour)
	if err := s.issue(); err != nil || !s.Leaf().Equal(first) {
		t.Errorf("renewed too early: %v", err)
	}
	now = now.Add(2 * time.Hour)
	if err := s.issue(); err != nil || s.Leaf().Equal(first) || s.Leaf().NotAfter.Before(now.Add(leafLife-time.Hour)) {
		t.Errorf("not renewed: %v", err)
	}
	if _, err := s.Leaf().Verify(x509.VerifyOptions{Roots: roots, CurrentTime: now, DNSName: "localhost"}); err != nil {
		t.Error(err)
	}
	// Another name makes another certificate, a damaged one is replaced, a damaged authority is told.
	o.Names = append(o.Names, "new.example")
	if s, err = Open(o); err != nil || s.Leaf().VerifyHostname("new.example") != nil {
		t.Fatalf("without the new name: %v", err)
	}
	if err := os.WriteFile(filepath.Join(dir, LeafName), []byte("damaged"), 0o600); err != nil {
		t.Fatal(err)
	}
	if s, err = Open(o); err != nil || s.Leaf().VerifyHostname("new.example") != nil {
		t.Fatalf("over a damaged certificate: %v", err)
	}
	if err := os.WriteFile(filepath.Join(dir, CAName), []byte("damaged"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(o); firn.KindOf(err) != firn.Invalid {
		t.Errorf("a damaged authority: %v", err)
	}
}

func TestRefusesOldProtocols(t *testing.T) {
	s, err := Open(Options{Mode: Self, Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	addr := serve(t, s)
	for _, c := range []*tls.Config{
		{MaxVersion: tls.VersionTLS11, MinVersion: tls.VersionTLS10},
		{MaxVersion: tls.VersionTLS12, CipherSuites: []uint16{tls.TLS_RSA_WITH_AES_128_CBC_SHA}},
		{MaxVersion: tls.VersionTLS12, CipherSuites: []uint16{tls.TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA}},
	} {
		c.InsecureSkipVerify = true
		if conn, err := tls.Dial("tcp", addr, c); err == nil {
			conn.Close()
			t.Errorf("spoke with %+v", c)
		}
	}
	for _, v := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		conn, err := tls.Dial("tcp", addr, &tls.Config{InsecureSkipVerify: true, MinVersion: v, MaxVersion: v})
		if err != nil {
			t.Errorf("%s: %v", tls.VersionName(v), err)
			continue
		}
		conn.Close()
	}
	strict, err := Open(Options{Mode: Self, Dir: t.TempDir(), Least: tls.VersionTLS13})
	if err != nil {
		t.Fatal(err)
	}
	if conn, err := tls.Dial("tcp", serve(t, strict), &tls.Config{InsecureSkipVerify: true, MaxVersion: tls.VersionTLS12}); err == nil {
		conn.Close()
		t.Error("spoke TLS 1.2 where 1.3 is the least")
	}
}

func TestACMEWantsNames(t *testing.T) {
	if _, err := Open(Options{Mode: ACME, Dir: t.TempDir()}); firn.KindOf(err) != firn.Invalid {
		t.Error(err)
	}
	s, err := Open(Options{Mode: ACME, Dir: t.TempDir(), Names: []string{"a.example"}, Directory: "https://127.0.0.1:1/"})
	if err != nil {
		t.Fatal(err)
	}
	// A name that is not listed is not fetched for: strangers cannot use up the authority's patience.
	_, err = s.Config().GetCertificate(&tls.ClientHelloInfo{ServerName: "b.example", Conn: &net.TCPConn{}})
	if err == nil || !strings.Contains(err.Error(), "b.example") {
		t.Error(err)
	}
}

// TestSealed keeps private keys sealed, the authority's, the site's and what ACME fetched, and shows the same after a
// restart. With another key it does not start, and makes no new authority.
func TestSealed(t *testing.T) {
	dir, key := filepath.Join(t.TempDir(), "tls"), seal.NewKey()
	o := Options{Mode: Self, Dir: dir, Seal: &key}
	s, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	again, err := Open(o)
	if err != nil || !again.Leaf().Equal(s.Leaf()) {
		t.Errorf("after a restart: %v", err)
	}
	acme, err := Open(Options{Mode: ACME, Dir: dir, Seal: &key, Names: []string{"a.example"}})
	if err != nil {
		t.Fatal(err)
	}
	const fetched = "-----BEGIN EC PRIVATE KEY-----"
	if err := acme.acme.Cache.Put(t.Context(), "a.example", []byte(fetched)); err != nil {
		t.Fatal(err)
	}
	if b, err := acme.acme.Cache.Get(t.Context(), "a.example"); err != nil || string(b) != fetched {
		t.Errorf("%q, %v", b, err)
	}
	if _, err := acme.acme.Cache.Get(t.Context(), "b.example"); !errors.Is(err, autocert.ErrCacheMiss) {
		t.Errorf("what is not there: %v", err)
	}
	files := 0
	err = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		files++
		b, err := os.ReadFile(path)
		if strings.Contains(string(b), "PRIVATE") {
			t.Errorf("%s is in the clear", path)
		}
		return err
	})
	if err != nil || files != 5 {
		t.Errorf("%d files, %v", files, err)
	}
	other := seal.NewKey()
	for _, wrong := range []Sealer{&other, nil} {
		o.Seal = wrong
		if _, err := Open(o); err == nil {
			t.Error("it starts with another key, or none")
		}
	}
	acme.acme.Cache = sealedCache{autocert.DirCache(filepath.Join(dir, "acme")), secrets{filepath.Join(dir, "acme"), &other}}
	if _, err := acme.acme.Cache.Get(t.Context(), "a.example"); firn.KindOf(err) != firn.Corrupt {
		t.Errorf("with another key: %v", err)
	}
}
