package tlsconf

import (
	"context"
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/crypto/acme/autocert"

	"firn"
	"firn/vfs"
)

// secrets is a directory of what the site made or fetched itself.
type secrets struct {
	path string
	seal Sealer // of private keys; nil where they are in the clear
}

// sealContext is what a sealed file is bound to.
func sealContext(name string) string { return "tls/" + name }

func (d secrets) make() error { return vfs.MkdirAllSync(vfs.OS(), d.path, 0o700) }

func (d secrets) box(name string, plain []byte) []byte {
	if d.seal == nil {
		return plain
	}
	return d.seal.Box(nil, sealContext(name), plain)
}

func (d secrets) unbox(name string, b []byte) ([]byte, error) {
	if d.seal == nil {
		return b, nil
	}
	return d.seal.Unbox(sealContext(name), b)
}

// loadPair reads a certificate and its key. They must belong together.
func (d secrets) loadPair(certName, keyName string) (*tls.Certificate, error) {
	certFile, keyFile := filepath.Join(d.path, certName), filepath.Join(d.path, keyName)
	certPEM, err := readFile(certFile)
	if err != nil {
		return nil, err
	}
	b, err := readFile(keyFile)
	if err != nil {
		return nil, err
	}
	keyPEM, err := d.unbox(keyName, b)
	if err != nil {
		return nil, firn.E("open", keyFile, err)
	}
	return parsePair(certFile, keyFile, certPEM, keyPEM)
}

func (d secrets) writeKey(name string, key *ecdsa.PrivateKey) error {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	b := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
	return writeSecret(filepath.Join(d.path, name), d.box(name, b))
}

// writeSecret puts a file in place, of mode 0600 from its first byte, so that after a crash it is whole or absent.
func writeSecret(path string, b []byte) error {
	tmp := path + ".new"
	if err := os.Remove(tmp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := os.Rename(tmp, path); err != nil {
		return err
	}
	return vfs.SyncDir(vfs.OS(), filepath.Dir(path))
}

// sealedCache keeps what the ACME client fetched and its account's key, each sealed: certificates and their keys are in
// one file.
type sealedCache struct {
	autocert.Cache
	secrets
}

// Get implements autocert.Cache.
func (c sealedCache) Get(ctx context.Context, name string) ([]byte, error) {
	b, err := c.Cache.Get(ctx, name)
	if err != nil {
		return nil, err
	}
	b, err = c.unbox("acme/"+name, b)
	return b, firn.E("open", filepath.Join(c.path, name), err)
}

// Put implements autocert.Cache.
func (c sealedCache) Put(ctx context.Context, name string, b []byte) error {
	return c.Cache.Put(ctx, name, c.box("acme/"+name, b))
}
