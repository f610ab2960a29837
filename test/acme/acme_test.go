// Package acme lets the real binary fetch its certificate from a real ACME authority: Pebble.
package acme

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"encoding/json"
	"encoding/pem"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"firn/test/server"
)

const name = "s3.firn.example"

// resolver answers every question for an address with 127.0.0.1, over TCP, as Pebble asks.
func resolver(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
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
			c.SetDeadline(time.Now().Add(5 * time.Second))
			answer(c)
			c.Close()
		}
	}()
	t.Cleanup(func() { l.Close(); <-done })
	return l.Addr().String()
}

// answer answers one question. What is no question is left unanswered.
func answer(c net.Conn) {
	var size [2]byte
	if _, err := io.ReadFull(c, size[:]); err != nil {
		return
	}
	b := make([]byte, binary.BigEndian.Uint16(size[:]))
	var m dnsmessage.Message
	if _, err := io.ReadFull(c, b); err != nil || m.Unpack(b) != nil || len(m.Questions) != 1 {
		return
	}
	m.Response, m.Authoritative, m.Additionals = true, true, nil
	if q := m.Questions[0]; q.Type == dnsmessage.TypeA {
		m.Answers = []dnsmessage.Resource{{
			Header: dnsmessage.ResourceHeader{Name: q.Name, Type: q.Type, Class: q.Class},
			Body:   &dnsmessage.AResource{A: [4]byte{127, 0, 0, 1}},
		}}
	}
	out, err := m.Pack()
	if err != nil {
		return
	}
	c.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(out))), out...))
}

// pebbleProgram finds the program that test/setup.sh installs.
func pebbleProgram(t *testing.T) string {
	t.Helper()
	if p, err := exec.LookPath("pebble"); err == nil {
		return p
	}
	tools := os.Getenv("FIRN_TEST_TOOLS")
	if tools == "" {
		cache := os.Getenv("XDG_CACHE_HOME")
		if cache == "" {
			home, err := os.UserHomeDir()
			if err != nil {
				t.Fatal(err)
			}
			cache = filepath.Join(home, ".cache")
		}
		tools = filepath.Join(cache, "firn-test", "tools")
	}
	p := filepath.Join(tools, "pebble")
	if _, err := os.Stat(p); err != nil {
		t.Fatalf("pebble is not installed: run test/setup.sh (%v)", err)
	}
	return p
}

// certificate makes one for the authority's own endpoint and returns the files.
func certificate(t *testing.T, dir string) (cert, key string) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, c, c, &k.PublicKey, k)
	if err != nil {
		t.Fatal(err)
	}
	kder, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	cert, key = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	for path, b := range map[string]*pem.Block{cert: {Type: "CERTIFICATE", Bytes: der}, key: {Type: "PRIVATE KEY", Bytes: kder}} {
		if err := os.WriteFile(path, pem.EncodeToMemory(b), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return cert, key
}

func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func TestACME(t *testing.T) {
	dir := t.TempDir()
	cert, key := certificate(t, dir)
	listen, management := freePort(t), freePort(t)
	s := server.New(t, server.Firn(server.Binary(t)), filepath.Join(dir, "data"), "--tls-mode", "acme", "--tls-names", name,
		"--tls-acme-directory", "https://"+listen+"/dir", "--tls-acme-roots", cert)
	_, port, err := net.SplitHostPort(s.Addr())
	if err != nil {
		t.Fatal(err)
	}
	tlsPort, err := strconv.Atoi(port)
	if err != nil {
		t.Fatal(err)
	}
	settings, err := json.Marshal(map[string]any{"pebble": map[string]any{
		"listenAddress": listen, "managementListenAddress": management, "certificate": cert, "privateKey": key,
		"httpPort": 1, "tlsPort": tlsPort,
	}})
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "pebble.json")
	if err := os.WriteFile(file, settings, 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(pebbleProgram(t), "-config", file, "-dnsserver", resolver(t))
	cmd.Env = append(os.Environ(), "PEBBLE_VA_NOSLEEP=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	log, err := os.Create(filepath.Join(dir, "pebble.log"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
		if b, err := os.ReadFile(log.Name()); t.Failed() && err == nil {
			t.Logf("pebble:\n%s", b)
		}
	})
	insecure := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}, Timeout: 5 * time.Second}
	roots := x509.NewCertPool()
	for deadline := time.Now().Add(10 * time.Second); ; {
		resp, err := insecure.Get("https://" + management + "/roots/0")
		if err == nil {
			b, err := io.ReadAll(resp.Body)
			resp.Body.Close()
			if err == nil && roots.AppendCertsFromPEM(b) {
				break
			}
		}
		if time.Now().After(deadline) {
			t.Fatalf("pebble does not answer: %v", err)
		}
	}
	s.Start(t)

	dial := func(host string) (*tls.Conn, error) {
		d := &net.Dialer{Timeout: 30 * time.Second}
		return tls.DialWithDialer(d, "tcp", s.Addr(), &tls.Config{RootCAs: roots, ServerName: host})
	}
	c, err := dial(name) // the first connection fetches
	if err != nil {
		t.Fatal(err)
	}
	first := c.ConnectionState().PeerCertificates[0]
	c.Close()
	if first.VerifyHostname(name) != nil {
		t.Errorf("a certificate for %v", first.DNSNames)
	}
	if c, err := dial("other.firn.example"); err == nil {
		c.Close()
		t.Error("a name that is not listed was served")
	}
	// After a restart, without the authority, the stored certificate is shown.
	s.MustStop(t)
	cmd.Process.Kill()
	s.Start(t)
	if c, err = dial(name); err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if !c.ConnectionState().PeerCertificates[0].Equal(first) {
		t.Error("another certificate after a restart")
	}
	fi, err := os.Stat(filepath.Join(dir, "data", "tls", "acme", name))
	if err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("stored with mode %v, %v", fi.Mode(), err)
	}
}
