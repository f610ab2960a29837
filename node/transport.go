package node

import (
	"crypto/tls"
	"net"
	"os"
	"path/filepath"
	"slices"

	"firn"
	"firn/config"
	"firn/tlsconf"
)

// tlsName is the directory of what the site makes itself for TLS, in the data directory.
const tlsName = "tls"

// TLSDir returns where a site keeps the authority it made, below its data directory.
func TLSDir(data string) string { return filepath.Join(data, tlsName) }

// CertificateFiles returns the certificates that a site with an authority of its own keeps below its data directory.
func CertificateFiles(data string) []string {
	dir := TLSDir(data)
	return []string{filepath.Join(dir, tlsconf.LeafName), filepath.Join(dir, tlsconf.CAName)}
}

// openTLS gets the site's certificate where the configuration asks for one.
func (n *Node) openTLS() error {
	c := n.cfg.TLS
	if c.Mode == config.TLSOff {
		return nil
	}
	least := uint16(tls.VersionTLS12)
	if c.MinVersion == "1.3" {
		least = tls.VersionTLS13
	}
	names := slices.Clone(c.Names)
	if c.Mode == config.TLSSelf {
		for _, d := range n.cfg.Domains {
			names = append(names, d, "*."+d)
		}
	}
	var err error
	n.tls, err = tlsconf.Open(tlsconf.Options{
		Mode: tlsconf.Mode(c.Mode), CertFile: c.Cert, KeyFile: c.Key, Dir: TLSDir(n.dir.Path), Seal: n.dir.sealer(),
		Names:     names,
		Directory: c.ACMEDirectory, Email: c.ACMEEmail, RootsFile: c.ACMERoots, Least: least,
		Log: n.log, Changed: n.certificateChanged,
	})
	return err
}

// certificateChanged lets commands on this machine know the certificate they will meet.
func (n *Node) certificateChanged() {
	if !n.serving.Load() {
		return // Run tells
	}
	if err := n.dir.WriteRunInfo(n.runInfo()); err != nil {
		n.log.Warn("commands will not know the site's new certificate", "data", n.dir.Path, "error", err)
	}
}

// runInfo says how to reach this site.
func (n *Node) runInfo() RunInfo {
	r := RunInfo{
		PID: os.Getpid(), Listen: reachable(n.s3.Addr()), Admin: reachable(n.admin.Addr()),
		Version: firn.Version, Started: n.started,
	}
	if n.encrypted("admin_listen", n.admin) {
		r.AdminTLS = &AdminTLS{}
		if leaf := n.tls.Leaf(); leaf != nil {
			r.AdminTLS.Fingerprint = tlsconf.Fingerprint(leaf)
		} else {
			r.AdminTLS.Name = n.cfg.TLS.Names[0]
		}
	}
	return r
}

// encrypted reports whether the listener for a key of the configuration speaks TLS: where it is set up, all do but an
// admin endpoint that only this machine reaches.
func (n *Node) encrypted(key string, l net.Listener) bool {
	if n.tls == nil {
		return false
	}
	a, ok := l.Addr().(*net.TCPAddr)
	return key != "admin_listen" || !ok || !a.IP.IsLoopback()
}

func scheme(encrypted bool) string {
	if encrypted {
		return "https"
	}
	return "http"
}
