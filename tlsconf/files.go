package tlsconf

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/fsnotify/fsnotify"

	"firn"
)

// maxFile bounds a file of certificates or keys, in bytes.
const maxFile = 1 << 20

func readFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err == nil && len(b) > maxFile {
		err = &firn.Error{Kind: firn.Invalid, Subject: path, Err: errors.New("larger than 1 MiB: that is no certificate")}
	}
	return b, err
}

// loadPair reads a certificate and its key. They must belong together.
func loadPair(certFile, keyFile string) (*tls.Certificate, error) {
	certPEM, err := readFile(certFile)
	if err != nil {
		return nil, err
	}
	keyPEM, err := readFile(keyFile)
	if err != nil {
		return nil, err
	}
	return parsePair(certFile, keyFile, certPEM, keyPEM)
}

// parsePair is loadPair for what was read of the two files.
func parsePair(certFile, keyFile string, certPEM, keyPEM []byte) (*tls.Certificate, error) {
	c, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		return nil, &firn.Error{Kind: firn.Invalid, Subject: certFile, Err: fmt.Errorf("with the key %s: %w", keyFile, err)}
	}
	if c.Leaf == nil {
		if c.Leaf, err = x509.ParseCertificate(c.Certificate[0]); err != nil {
			return nil, &firn.Error{Kind: firn.Invalid, Subject: certFile, Err: err}
		}
	}
	return &c, nil
}

// reload takes the files' certificate over where it is another one, and reports whether it was.
func (s *Source) reload() (bool, error) {
	c, err := loadPair(s.o.CertFile, s.o.KeyFile)
	if err != nil {
		return false, err
	}
	if old := s.current(); old != nil && bytes.Equal(old.Leaf.Raw, c.Leaf.Raw) && len(old.Certificate) == len(c.Certificate) {
		return false, nil
	}
	s.set(c)
	return true, nil
}

// settle is how long files are left alone after a change: a certificate and its key are two writes.
const settle = 200 * time.Millisecond

// watch reloads the files when they change. The directories are watched, not the files: certificates are replaced by
// renaming, in Kubernetes by swapping a symbolic link beside them. What the system does not tell, polling finds.
func (s *Source) watch(ctx context.Context) {
	var events <-chan fsnotify.Event
	if w, err := fsnotify.NewWatcher(); err != nil {
		s.log.Warn("changes of certificate files are found by polling only", "error", err)
	} else {
		defer w.Close()
		for _, f := range []string{s.o.CertFile, s.o.KeyFile} {
			if err := w.Add(filepath.Dir(f)); err != nil {
				s.log.Warn("changes of a certificate file are found by polling only", "file", f, "error", err)
			}
		}
		events = w.Events
		go func() { // ends with Close
			for range w.Errors { // an overflow is what polling is for
			}
		}()
	}
	poll := time.NewTicker(s.o.Poll)
	defer poll.Stop()
	quiet := time.NewTimer(settle)
	defer quiet.Stop()
	failed := ""
	for {
		select {
		case <-ctx.Done():
			return
		case _, ok := <-events:
			if !ok {
				events = nil
			}
			quiet.Reset(settle)
			continue
		case <-quiet.C:
		case <-poll.C:
		}
		// The same complaint every minute would hide the others.
		msg := ""
		if _, err := s.reload(); err != nil {
			if msg = err.Error(); msg != failed {
				s.log.Error("the changed certificate cannot be used; the one before stays in use", "error", err)
			}
		}
		failed = msg
	}
}
