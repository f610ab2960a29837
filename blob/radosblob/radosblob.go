// Package radosblob is the blob driver for Ceph's RADOS, without a gateway in between: a prefix of a pool is a place.
//
// It owns the names and formats of the objects (docs/format/blob-rados.md). It promises that a blob changes in one atomic
// operation on one object, its head, whatever its size; that Create is exclusive among all clients; and that pieces
// which no head names are removed. RADOS keeps no order and lists whole pools, so List reads the names of the pool's
// namespace and sorts those of the place in memory: about 150 bytes a blob. The driver needs librados and cgo, and is in
// the binary only with the build tag rados; without it New says so. It must never import another driver.
package radosblob

import (
	"net/url"
	"path/filepath"
	"strings"
	"time"

	"firn"
)

// Options are the settings of a place.
type Options struct {
	// Pool is the name of an existing pool.
	Pool string
	// Namespace is the RADOS namespace within the pool; the default one where empty.
	Namespace string
	// Prefix begins the names of all objects of the place, followed by a slash.
	Prefix string
	// ConfigFile is the absolute path of ceph.conf; "/etc/ceph/ceph.conf" where empty.
	ConfigFile string
	// User is the name of the client, such as "client.firn"; "client.admin" where empty. Its key is in the keyring that
	// ceph.conf names.
	User string
	// Timeout is how long an operation may take before it counts as lost; 30 s where zero. Whole seconds.
	Timeout time.Duration
	// PieceSize is the size up to which a blob is one object, and of the objects a larger one is cut into; 4 MiB where
	// zero, at most 64 MiB. A put or a read needs four pieces of memory.
	PieceSize int64
}

// FromURL reads rados://pool/prefix with the parameters conf, user and namespace.
func FromURL(u *url.URL) (Options, error) {
	opt := Options{Pool: u.Host, Prefix: strings.Trim(u.Path, "/")}
	query, err := url.ParseQuery(u.RawQuery)
	switch {
	case err != nil:
		return opt, invalid("the URL's query cannot be read")
	case u.Scheme != "rados" || u.Host == "" || u.Opaque != "":
		return opt, invalid("the URL of a pool is rados://pool/prefix")
	case u.User != nil:
		return opt, invalid("credentials do not belong in the URL: give the client by user=, its key is in the keyring")
	}
	fields := map[string]*string{"conf": &opt.ConfigFile, "user": &opt.User, "namespace": &opt.Namespace}
	for name, values := range query {
		if fields[name] == nil || len(values) != 1 {
			return opt, invalid("the URL takes conf, user and namespace, each once")
		}
		*fields[name] = values[0]
	}
	return opt, opt.complete()
}

func (o *Options) complete() error {
	if o.ConfigFile == "" {
		o.ConfigFile = "/etc/ceph/ceph.conf"
	}
	if o.User == "" {
		o.User = "client.admin"
	}
	if !strings.HasPrefix(o.User, "client.") {
		o.User = "client." + o.User
	}
	if o.Timeout == 0 {
		o.Timeout = 30 * time.Second
	}
	if o.PieceSize == 0 {
		o.PieceSize = 4 << 20
	}
	switch {
	case o.Pool == "":
		return invalid("no pool is named")
	case !filepath.IsAbs(o.ConfigFile):
		return invalid("the path of ceph.conf must be absolute")
	case len(o.Prefix) > 900 || strings.ContainsRune(o.Pool+o.Namespace+o.Prefix+o.User+o.ConfigFile, 0):
		return invalid("a name is too long or has a zero byte")
	case o.Timeout < time.Second || o.PieceSize < 1<<10 || o.PieceSize > 64<<20:
		return invalid("the timeout is at least 1 s, the size of a piece 1 KiB to 64 MiB")
	}
	return nil
}

func invalid(text string) error { return firn.NewError(firn.Invalid, text) }
