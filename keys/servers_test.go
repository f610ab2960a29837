//go:build servers

package keys

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"firn"
)

// kesServer starts a KES server and returns what a client needs. Its root files are in the test's directory.
func kesServer(t *testing.T) (KESOptions, *exec.Cmd) {
	t.Helper()
	tools := os.Getenv("FIRN_TEST_TOOLS")
	if tools == "" {
		cache, err := os.UserCacheDir()
		if err != nil {
			t.Fatal(err)
		}
		tools = filepath.Join(cache, "firn-test", "tools")
	}
	program := filepath.Join(tools, "kes")
	if _, err := os.Stat(program); err != nil {
		t.Fatalf("no KES server: %v: run test/setup.sh", err)
	}
	dir := t.TempDir()
	pair := func(name string, usage x509.ExtKeyUsage) (cert, key string, id string) {
		t.Helper()
		k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		c := &x509.Certificate{
			SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour),
			NotAfter: time.Now().Add(time.Hour), ExtKeyUsage: []x509.ExtKeyUsage{usage}, KeyUsage: x509.KeyUsageDigitalSignature,
			IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, BasicConstraintsValid: true,
		}
		der, err := x509.CreateCertificate(rand.Reader, c, c, &k.PublicKey, k)
		if err != nil {
			t.Fatal(err)
		}
		parsed, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		raw, err := x509.MarshalPKCS8PrivateKey(k)
		if err != nil {
			t.Fatal(err)
		}
		cert, key = filepath.Join(dir, name+".crt"), filepath.Join(dir, name+".key")
		writeFile(t, cert, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})))
		writeFile(t, key, string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: raw})))
		sum := sha256.Sum256(parsed.RawSubjectPublicKeyInfo)
		return cert, key, hex.EncodeToString(sum[:])
	}
	serverCert, serverKey, _ := pair("server", x509.ExtKeyUsageServerAuth)
	clientCert, clientKey, id := pair("client", x509.ExtKeyUsageClientAuth)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	conf := filepath.Join(dir, "kes.yml")
	writeFile(t, conf, fmt.Sprintf(`version: v1
address: %s
admin:
  identity: disabled
tls:
  key: %s
  cert: %s
policy:
  firn:
    allow:
    - /v1/key/create/*
    - /v1/key/describe/*
    - /v1/key/list/*
    - /v1/key/encrypt/*
    - /v1/key/decrypt/*
    - /v1/key/delete/*
    identities:
    - %s
keystore:
  fs:
    path: %s
`, addr, serverKey, serverCert, id, filepath.Join(dir, "keys")))
	cmd := exec.CommandContext(context.Background(), program, "server", "--config", conf, "--auth", "off")
	out, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // it may have ended
		_ = cmd.Wait()
		if log, err := os.ReadFile(out.Name()); err == nil && t.Failed() {
			t.Logf("KES: %s", log)
		}
		out.Close()
	})
	for deadline := time.Now().Add(20 * time.Second); ; {
		c, err := net.DialTimeout("tcp", addr, time.Second)
		if err == nil {
			c.Close()
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("KES does not start")
		}
	}
	return KESOptions{Address: "https://" + addr, CertFile: clientCert, KeyFile: clientKey, CAFile: serverCert}, cmd
}

func TestKES(t *testing.T) {
	o, cmd := kesServer(t)
	k, err := NewKES(o)
	if err != nil {
		t.Fatal(err)
	}
	exercise(t, k, false)
	if err := k.Create(t.Context(), "one"); err != nil {
		t.Fatal(err)
	}
	other := o
	other.CAFile = o.CertFile
	if x, err := NewKES(other); err != nil {
		t.Error(err)
	} else if _, err := x.List(t.Context()); firn.KindOf(err) != firn.Unavailable {
		t.Errorf("a server that is not trusted: %v", err)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // it was killed
	if _, err := k.List(t.Context()); firn.KindOf(err) != firn.Unavailable {
		t.Errorf("after it ended: %v", err)
	}
}
