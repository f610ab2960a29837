package node

import (
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"firn"
	"firn/auth"
	"firn/seal"
	"firn/vfs"
)

// Names in a data directory; docs/format/data-directory.md describes each.
const (
	formatName      = "FORMAT"
	credentialsName = "credentials.json"
	tokenName       = "admin.token"
	siteKeyName     = "site.key"
	siteIDName      = "site.id"
	runName         = "run.json"
	kvName          = "kv"

	// formatLine is the first line of FORMAT, before the number.
	formatLine = "firn data directory "
	// formatVersion is what this release writes and the newest it reads.
	formatVersion = 1
)

// maxStateFile bounds what is read of a small file in a data directory, in bytes.
const maxStateFile = 64 << 10

// RunInfo says how to reach the site that runs on a data directory.
type RunInfo struct {
	PID     int       `json:"pid"`
	Listen  string    `json:"listen"`
	Admin   string    `json:"admin"`
	Version string    `json:"version"`
	Started time.Time `json:"started"`
	// AdminTLS is set where the admin endpoint speaks TLS.
	AdminTLS *AdminTLS `json:"admin_tls,omitempty"`
}

// AdminTLS says how to know the certificate of an admin endpoint.
type AdminTLS struct {
	// Fingerprint is the certificate's (tlsconf.Fingerprint). "" where it is fetched when asked for: then it is one
	// for Name, by an authority that the system trusts.
	Fingerprint string `json:"fingerprint,omitempty"`
	Name        string `json:"name,omitempty"`
}

// DataDir is a locked data directory of a known format.
type DataDir struct {
	Path  string
	lock  io.Closer
	fresh bool      // this process made it
	fs    vfs.FS    // of what the engine keeps; encrypted where the directory is
	state *seal.Key // seals small files with secrets; nil where they are in the clear
	all   bool      // everything in the directory is encrypted
}

// OpenDataDir makes path where it does not exist, locks it and checks its format. Another process on it is a
// Conflict error that names that process.
func OpenDataDir(path string) (*DataDir, error) {
	const op = "open data directory"
	abs, err := filepath.Abs(path)
	if err != nil {
		return nil, firn.E(op, path, err)
	}
	if err := vfs.MkdirAllSync(vfs.OS(), abs, 0o700); err != nil {
		return nil, firn.E(op, abs, err)
	}
	lock, err := vfs.LockDir(vfs.OS(), abs)
	if errors.Is(err, vfs.ErrLocked) {
		who := ""
		if run, err := ReadRunInfo(abs); err == nil {
			who = " (firn, process id " + strconv.Itoa(run.PID) + ")"
		}
		return nil, &firn.Error{
			Kind: firn.Conflict, Op: op, Subject: abs,
			Err: fmt.Errorf("%w%s: stop that one, or give this one another directory with --data", vfs.ErrLocked, who),
		}
	}
	if err != nil {
		return nil, firn.E(op, abs, err)
	}
	d := &DataDir{Path: abs, lock: lock}
	if err := d.checkFormat(); err != nil {
		return nil, errors.Join(firn.E(op, abs, err), lock.Close())
	}
	return d, nil
}

// checkFormat refuses a directory of a later release and one that holds something else, and marks a new one.
func (d *DataDir) checkFormat() error {
	b, err := readSmall(d.file(formatName))
	if errors.Is(err, fs.ErrNotExist) {
		entries, err := os.ReadDir(d.Path)
		if err != nil {
			return err
		}
		for _, e := range entries {
			// Files that begin with a dot and lost+found come with file systems and desktops.
			if n := e.Name(); n != vfs.LockName && n != "lost+found" && n[0] != '.' {
				return &firn.Error{Kind: firn.Conflict, Err: fmt.Errorf(
					"it is not empty (%s) and was not made by firn: name an empty or a new directory with --data", n)}
			}
		}
		d.fresh = true
		return d.writeDurably(formatName, fmt.Appendf(nil, "%s%d\n", formatLine, formatVersion), 0o600)
	}
	if err != nil {
		return err
	}
	num, ok := strings.CutPrefix(strings.TrimSpace(string(b)), formatLine)
	n, err := strconv.Atoi(num)
	switch {
	case !ok || err != nil || n < 1:
		return &firn.Error{
			Kind: firn.Corrupt, Err: fmt.Errorf("%s does not say what it should: restore it from a backup", formatName),
		}
	case n > formatVersion:
		return &firn.Error{Kind: firn.Unsupported, Err: fmt.Errorf(
			"it has format %d, this release knows up to %d: run the release that wrote it, or a later one", n, formatVersion)}
	}
	return nil
}

// Close gives up the directory.
func (d *DataDir) Close() error { return d.lock.Close() }

func (d *DataDir) file(name string) string { return filepath.Join(d.Path, name) }

// Credentials returns the root credentials kept in the directory. Where there are none they are made, stored
// durably with mode 0600, and fresh is true.
func (d *DataDir) Credentials() (c auth.Credentials, fresh bool, err error) {
	path := d.file(credentialsName)
	b, err := d.readState(credentialsName)
	if errors.Is(err, fs.ErrNotExist) {
		c = auth.NewCredentials()
		if b, err = json.MarshalIndent(c, "", "  "); err != nil {
			return c, false, err
		}
		return c, true, firn.E("store root credentials", path, d.writeState(credentialsName, append(b, '\n')))
	}
	if err != nil {
		return c, false, firn.E("read root credentials", path, err)
	}
	if err := json.Unmarshal(b, &c); err != nil || c.AccessKey == "" || c.SecretKey == "" {
		return c, false, &firn.Error{
			Kind: firn.Corrupt, Op: "read root credentials", Subject: path,
			Err: errors.New("not a pair of keys: restore the file, or remove it to have a new pair made"),
		}
	}
	return c, false, nil
}

// AdminToken returns the token that opens the admin API, made at the first start.
func (d *DataDir) AdminToken() (string, error) {
	t, err := ReadAdminToken(d.Path)
	if !errors.Is(err, fs.ErrNotExist) {
		return t, err
	}
	var b [32]byte
	_, _ = rand.Read(b[:])
	t = hex.EncodeToString(b[:])
	return t, firn.E("store admin token", d.file(tokenName), d.writeDurably(tokenName, []byte(t+"\n"), 0o600))
}

// SiteKey returns the key that seals secrets in the metadata store, made at the first start.
func (d *DataDir) SiteKey() (seal.Key, error) {
	path := d.file(siteKeyName)
	b, err := d.readState(siteKeyName)
	if errors.Is(err, fs.ErrNotExist) {
		k := seal.NewKey()
		return k, firn.E("store site key", path, d.writeState(siteKeyName, []byte(hex.EncodeToString(k[:])+"\n")))
	}
	if err != nil {
		return seal.Key{}, firn.E("read site key", path, err)
	}
	var k seal.Key
	if n, err := hex.Decode(k[:], bytes.TrimSpace(b)); err != nil || n != len(k) {
		return seal.Key{}, &firn.Error{
			Kind: firn.Corrupt, Op: "read site key", Subject: path,
			Err: errors.New("not 64 hex digits: restore the file; without it the users' secrets cannot be opened"),
		}
	}
	return k, nil
}

// SiteID returns the id by which tiers know whose they are, 32 hex digits, made at the first start.
func (d *DataDir) SiteID() (string, error) {
	path := d.file(siteIDName)
	b, err := readSmall(path)
	if errors.Is(err, fs.ErrNotExist) {
		var id [16]byte
		_, _ = rand.Read(id[:])
		s := hex.EncodeToString(id[:])
		return s, firn.E("store site id", path, d.writeDurably(siteIDName, []byte(s+"\n"), 0o600))
	}
	if err != nil {
		return "", firn.E("read site id", path, err)
	}
	s := strings.TrimSpace(string(b))
	if id, err := hex.DecodeString(s); err != nil || len(id) != 16 {
		return "", &firn.Error{
			Kind: firn.Corrupt, Op: "read site id", Subject: path,
			Err: errors.New("not 32 hex digits: restore the file; each tier's firn-tier.json names the site"),
		}
	}
	return s, nil
}

// ReadAdminToken returns the admin token kept in a data directory.
func ReadAdminToken(dir string) (string, error) {
	return ReadTokenFile(filepath.Join(dir, tokenName))
}

// ReadTokenFile returns the admin token in a file.
func ReadTokenFile(path string) (string, error) {
	b, err := readSmall(path)
	if err != nil {
		return "", err
	}
	t := strings.TrimSpace(string(b))
	if len(t) < 32 {
		return "", &firn.Error{
			Kind: firn.Corrupt, Op: "read admin token", Subject: path,
			Err: errors.New("too short: remove the file and restart the site to have a new one made"),
		}
	}
	return t, nil
}

// WriteRunInfo says how to reach this process. It need not survive a power loss.
func (d *DataDir) WriteRunInfo(r RunInfo) error {
	b, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	tmp := d.file(runName + ".new")
	if err := os.WriteFile(tmp, append(b, '\n'), 0o600); err != nil {
		return err
	}
	return os.Rename(tmp, d.file(runName))
}

// RemoveRunInfo says that nothing runs any more.
func (d *DataDir) RemoveRunInfo() error {
	err := os.Remove(d.file(runName))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// ReadRunInfo says how to reach the site that runs, or last ran, on a data directory.
func ReadRunInfo(dir string) (RunInfo, error) {
	var r RunInfo
	b, err := readSmall(filepath.Join(dir, runName))
	if err != nil {
		return r, err
	}
	return r, json.Unmarshal(b, &r)
}

// writeDurably puts a file in place so that after a crash it is whole or absent. It sets
// the mode: a secret must not be readable by others even while it is written.
func (d *DataDir) writeDurably(name string, b []byte, mode fs.FileMode) error {
	tmp := d.file("." + name + ".new")
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, mode)
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
	if err := os.Rename(tmp, d.file(name)); err != nil {
		return err
	}
	return vfs.SyncDir(vfs.OS(), d.Path)
}

func readSmall(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, maxStateFile))
}
