package doctor

import (
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// Site is what of a site's settings decides about its safety. The zero value checks nothing.
type Site struct {
	Relaxed bool   // success does not mean stable storage
	Listen  string // address of the S3 endpoint; "" is not looked at
	Admin   string // address of the admin endpoint
	TLS     bool   // whether endpoints beyond this machine speak it
	// Certificates are files of certificates, the one shown first. Those that are not there are passed over.
	Certificates []string
	// Keyring is the file with the site's keys and KeyFile the one that opens it; "" where a passphrase does, or a
	// command. They are looked at once the keyring is there.
	Keyring, KeyFile string
	// PassphraseFile is the configuration that holds the keyring's passphrase; "" where none does.
	PassphraseFile string
}

func (d *doctor) site(s Site) {
	if s.Relaxed {
		d.add("durability", Warn, "durability is relaxed: a power loss or a crash takes back the last acknowledged writes", "set durability: fsync")
	}
	d.endpoint("admin endpoint", s.Admin, s.TLS, Warn, "its token and new secrets travel in plain text", "set admin_listen to 127.0.0.1:9001, or tls.mode")
	d.endpoint("S3 endpoint", s.Listen, s.TLS, Note, "what is read and written can be read on the way", "set tls.mode (docs/tls.md), or let only a proxy that ends TLS reach it")
	for _, path := range s.Certificates {
		d.certificate(path)
	}
	d.keys(s)
}

// endpoint looks at who can reach an address, and at level l at what they see.
func (d *doctor) endpoint(check, addr string, encrypted bool, l Level, risk, do string) {
	if addr == "" {
		return
	}
	host, _, err := net.SplitHostPort(addr)
	ip := net.ParseIP(host)
	switch {
	case err != nil:
		d.add(check, Bad, addr+" is not an address", "set it to HOST:PORT")
	case host == "localhost" || ip != nil && ip.IsLoopback():
		d.add(check, OK, addr+" is reached from this machine only", "")
	case !encrypted:
		d.add(check, l, addr+" is reached from other machines, without TLS: "+risk, do)
	case check == "admin endpoint":
		d.add(check, Note, addr+" is reached from other machines: who has the token of admin.token is an administrator there", "set admin_listen to 127.0.0.1:9001 unless you need it")
	default:
		d.add(check, OK, addr+" speaks TLS", "")
	}
}

// expiryWarning is how long before its end a certificate is warned about. What renews it should have by then.
const expiryWarning = 14 * 24 * time.Hour

func (d *doctor) certificate(path string) {
	const check = "certificate"
	b, err := readSmall(path)
	if os.IsNotExist(err) {
		return
	}
	if err != nil {
		d.add(check, Note, path+" cannot be read: "+err.Error(), "")
		return
	}
	block, _ := pem.Decode(b)
	if block == nil {
		d.add(check, Bad, path+" is not a certificate in PEM", "put the site's certificate there, then the intermediates")
		return
	}
	c, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		d.add(check, Bad, path+": "+err.Error(), "put the site's certificate there, then the intermediates")
		return
	}
	const renew = "renew it; what the site makes itself it renews while it runs, if it can write tls/"
	end := c.NotAfter.UTC().Format(time.RFC3339)
	switch left := c.NotAfter.Sub(d.Now); {
	case left <= 0:
		d.add(check, Bad, path+" ended at "+end+": clients refuse it", renew)
	case d.Now.Before(c.NotBefore):
		d.add(check, Bad, path+" is not valid before "+c.NotBefore.UTC().Format(time.RFC3339)+": clients refuse it", "check the clock")
	case left < expiryWarning:
		d.add(check, Warn, fmt.Sprintf("%s ends at %s, in %d days", path, end, int(left.Hours()/24)), renew)
	default:
		d.add(check, OK, path+" is valid until "+end, "")
	}
}

// keys looks at what opens what is encrypted: whoever takes the volume of the data must not take it along.
func (d *doctor) keys(s Site) {
	const check = "keys"
	const elsewhere = "keep what opens the keyring elsewhere: encryption.secret_file on another device, encryption.secret_command, or " +
		"FIRN_ENCRYPTION_PASSPHRASE from where the service is started (docs/encryption.md)"
	ring, err := os.Stat(s.Keyring)
	if s.Keyring == "" || err != nil {
		return // nothing is encrypted with a keyring
	}
	before := len(d.found)
	for _, path := range []string{s.Keyring, s.KeyFile, s.PassphraseFile} {
		if fi, err := os.Stat(path); path != "" && err == nil && fi.Mode().Perm()&0o077 != 0 {
			d.add("permissions", Bad, fmt.Sprintf("%s has mode %04o: other users of the machine can get at the site's keys", path, fi.Mode().Perm()), "chmod go= "+path)
		}
	}
	switch opener := firstOf(s.KeyFile, s.PassphraseFile); {
	case !ring.Mode().IsRegular():
		d.add(check, Note, s.Keyring+" is not a file", "")
	case opener == "":
	case !exists(opener):
		d.add(check, Bad, "what opens the keyring is not there: "+opener, "restore it, or mount the device it is on: without it nothing encrypted can be read after a restart")
	case filepath.Dir(opener) == filepath.Dir(s.Keyring) && below(opener, d.Data):
		d.add(check, Warn, fmt.Sprintf("the keyring and what opens it (%s) lie in the data directory that they protect: who copies it has all", opener), elsewhere)
	case sameVolume(opener, s.Keyring) && sameVolume(opener, d.Data):
		d.add(check, Warn, fmt.Sprintf("the keyring and what opens it (%s) lie on the volume of the data that they protect: who takes the disk has all", opener), elsewhere)
	}
	if len(d.found) == before {
		d.add(check, OK, "what opens the keyring is not on the volume of the data", "")
	}
}

func firstOf(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// below reports whether path, whose links are followed, is below dir.
func below(path, dir string) bool {
	abs, err := filepath.Abs(path)
	if err == nil {
		abs, err = filepath.EvalSymlinks(abs)
	}
	rel, rerr := filepath.Rel(dir, abs)
	return err == nil && rerr == nil && filepath.IsLocal(rel)
}

// sameVolume reports whether two paths are on one file system.
func sameVolume(a, b string) bool {
	var x, y unix.Stat_t
	return unix.Stat(a, &x) == nil && unix.Stat(b, &y) == nil && x.Dev == y.Dev
}
