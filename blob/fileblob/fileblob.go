// Package fileblob keeps blobs as files beneath a directory, on a local disk or an NFS mount.
//
// It owns the layout (docs/format/blob-file.md), the order of writes and syncs, and what NFS needs: a stale handle is
// opened again once, a "not there" is asked a second time past the client's cache, a rename or link that failed but
// happened is recognised by the file's number, and no lock is ever relied on. It promises that what was acknowledged
// survives a power loss with its name, that large blobs are written past the page cache, and that a root which is not
// mounted is never taken for an empty one. It must never import another driver.
package fileblob

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"

	"firn"
	"firn/blob"
	"firn/blob/driver"
	"firn/blob/layout"
	"firn/vfs"
)

const (
	markerName   = layout.Marker
	tempName     = layout.Temp
	marker       = layout.Version
	markerPrefix = "firn place "
	// maxDirs is how many directories are remembered as durable.
	maxDirs = 8192
)

// Options say where.
type Options struct {
	// Root is the directory.
	Root string
	// FS is the file system; nil is the operating system's.
	FS vfs.FS
}

// FromURL reads file:/absolute/path, file:///absolute/path or file:relative/path.
func FromURL(u *url.URL) (Options, error) {
	if u.Host != "" && u.Host != "localhost" {
		return Options{}, invalid(fmt.Sprintf("a file URL has no host: write file:///%s%s, or use sftp: for another machine", u.Host, u.Path))
	}
	if u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return Options{}, invalid("a file URL has a path only; write ? and # in it as %3F and %23")
	}
	root := u.Path
	if root == "" {
		var err error
		if root, err = url.PathUnescape(u.Opaque); err != nil {
			return Options{}, invalid(err.Error())
		}
	}
	if root == "" {
		return Options{}, invalid("the URL names no directory: write file:/path")
	}
	return Options{Root: root}, nil
}

func invalid(text string) error { return firn.NewError(firn.Invalid, text) }

// Driver is one directory. It has the abilities Creator, Stager, BulkDeleter and Measurer.
type Driver struct {
	fs     vfs.FS
	root   string
	local  bool // no network file system
	closed atomic.Bool
	swept  atomic.Bool
	mu     struct {
		sync.Mutex
		dirs map[string]struct{} // directories whose names are durable
	}
}

func (o Options) driver() (*Driver, error) {
	given := o.FS != nil
	if !given {
		o.FS = vfs.OS()
		abs, err := filepath.Abs(o.Root)
		if err != nil {
			return nil, invalid(err.Error())
		}
		o.Root = abs
	}
	d := &Driver{fs: o.FS, root: o.Root, local: given || isLocal(o.Root)}
	d.mu.dirs = map[string]struct{}{}
	return d, nil
}

// Init makes a place of a directory that is missing or empty. It does nothing where one is already, and fails with
// firn.Conflict where the directory holds other things.
func Init(ctx context.Context, o Options) error {
	d, err := o.driver()
	if err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := vfs.MkdirAllSync(d.fs, d.root, 0o700); err != nil {
		return wrap(err)
	}
	names, err := d.fs.List(d.root)
	if err != nil {
		return wrap(err)
	}
	if slices.Contains(names, markerName) {
		return d.checkMarker()
	}
	for _, name := range names {
		switch name {
		case tempName, "lost+found":
		default:
			return firn.NewError(firn.Conflict, fmt.Sprintf(
				"the directory %s is no place and not empty (it holds %q): choose an empty one", d.root, name))
		}
	}
	if err := vfs.MkdirAllSync(d.fs, d.path(tempName), 0o777); err != nil {
		return wrap(err)
	}
	temp, err := d.writeTemp(ctx, blob.Bytes([]byte(marker)), true)
	if err != nil {
		return wrap(err)
	}
	if err := d.fs.Rename(temp.path, d.path(markerName)); err != nil {
		_ = d.fs.Remove(temp.path)
		return wrap(err)
	}
	return wrap(vfs.SyncDir(d.fs, d.root))
}

// New opens a place that Init made.
func New(ctx context.Context, o Options) (*Driver, error) {
	d, err := o.driver()
	if err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	return d, d.checkMarker()
}

// checkMarker fails unless the root is there and of a version that this code knows.
func (d *Driver) checkMarker() error {
	var text string
	err := again(func() error {
		f, err := d.fs.Open(d.path(markerName))
		if err != nil {
			return err
		}
		defer f.Close()
		p, err := io.ReadAll(io.LimitReader(f, 100))
		text = string(p)
		return err
	})
	switch {
	case isNotThere(err):
		return d.goneError()
	case err != nil:
		return wrap(err)
	case text == marker:
		return nil
	case strings.HasPrefix(text, markerPrefix):
		return firn.NewError(firn.Unsupported, fmt.Sprintf("%s was made by a later version of firn: use that", d.root))
	}
	return firn.NewError(firn.Corrupt, fmt.Sprintf("%s/%s is damaged: it must hold %q", d.root, markerName, marker))
}

func (d *Driver) goneError() error {
	return firn.NewError(firn.Unavailable, fmt.Sprintf(
		"%s is not a place: it has no file %s. Is its file system mounted? A new place is made by `firn blob init`", d.root, markerName))
}

// there tells "the blob is not there" from "the root is not there".
func (d *Driver) there() error {
	_, err := stat(d.fs, d.path(markerName))
	if isNotThere(err) {
		return d.goneError()
	}
	return wrap(err)
}

func (d *Driver) path(rel string) string {
	if rel == "" {
		return d.root
	}
	return strings.TrimRight(d.root, "/") + "/" + rel
}

func (d *Driver) file(key string) string { return d.path(layout.EncodeKey(key)) }

// start is the beginning of each call.
func (d *Driver) start(ctx context.Context) error {
	if d.closed.Load() {
		return invalid("the place was closed")
	}
	return ctx.Err()
}

// look runs fn, which looks for a path, and asks a second time where it says that nothing is there: an NFS client
// remembers for a while that a name was missing, until its directory is opened again.
func (d *Driver) look(path string, fn func() error) error {
	err := again(fn)
	if !isNotThere(err) {
		return err
	}
	dir, e := d.fs.OpenDir(d.fs.PathDir(path))
	if e != nil {
		return err // neither the directory is there; the caller looks at the root
	}
	_ = dir.Close() // it was opened for what that does to the cache
	return again(fn)
}

// Stat implements driver.Driver.
func (d *Driver) Stat(ctx context.Context, key string) (driver.Info, error) {
	if err := d.start(ctx); err != nil {
		return driver.Info{}, err
	}
	path := d.file(key)
	var fi vfs.FileInfo
	err := d.look(path, func() (err error) {
		fi, err = d.fs.Stat(path)
		return err
	})
	if isNotThere(err) || err == nil && !fi.Mode().IsRegular() {
		return driver.Info{}, d.notFound()
	}
	if err != nil {
		return driver.Info{}, wrap(err)
	}
	return driver.Info{Key: key, Size: fi.Size(), Modified: fi.ModTime()}, nil
}

func (d *Driver) notFound() error {
	if err := d.there(); err != nil {
		return err
	}
	return &firn.Error{Kind: firn.NotFound}
}

// Delete implements driver.Driver.
func (d *Driver) Delete(ctx context.Context, key string) error {
	return d.DeleteAll(ctx, []string{key})
}

// DeleteAll implements driver.BulkDeleter. Directories that become empty stay.
func (d *Driver) DeleteAll(ctx context.Context, keys []string) error {
	if err := d.start(ctx); err != nil {
		return err
	}
	dirs := map[string]struct{}{}
	missing := false
	for _, key := range keys {
		if err := ctx.Err(); err != nil {
			return err
		}
		path := d.file(key)
		err := d.look(path, func() error { return d.fs.Remove(path) })
		switch {
		case isNotThere(err):
			missing = true
		case errors.Is(err, syscall.ENOTEMPTY), errors.Is(err, syscall.EEXIST), errors.Is(err, syscall.EISDIR):
			continue // a directory: no blob has this name
		case err != nil:
			return wrap(err)
		}
		d.forgetDir(path) // in case it was an empty one
		// Also where nothing was there: an earlier delete may have failed after it removed the name.
		dirs[d.fs.PathDir(path)] = struct{}{}
	}
	if missing {
		if err := d.there(); err != nil {
			return err
		}
	}
	for dir := range dirs {
		if err := again(func() error { return vfs.SyncDir(d.fs, dir) }); err != nil && !isNotThere(err) {
			return wrap(err)
		}
	}
	return nil
}

// Space implements driver.Measurer.
func (d *Driver) Space(ctx context.Context) (driver.Space, error) {
	if err := d.start(ctx); err != nil {
		return driver.Space{}, err
	}
	if err := d.there(); err != nil {
		return driver.Space{}, err
	}
	u, err := d.fs.GetDiskUsage(d.root)
	if err != nil {
		return driver.Space{}, wrap(err)
	}
	return driver.Space{Total: int64(u.TotalBytes), Free: int64(u.AvailBytes)}, nil
}

// Close implements driver.Driver.
func (d *Driver) Close() error {
	d.closed.Store(true)
	return nil
}

// again runs fn, and once more where the server no longer knows a handle (ESTALE): the names are looked up anew then.
func again(fn func() error) error {
	err := fn()
	if errors.Is(err, syscall.ESTALE) {
		err = fn()
	}
	return err
}

func stat(fsys vfs.FS, path string) (fi vfs.FileInfo, err error) {
	err = again(func() (err error) {
		fi, err = fsys.Stat(path)
		return err
	})
	return fi, err
}

// isNotThere reports whether err says that a path, or a directory on the way to it, does not exist.
func isNotThere(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR)
}

// wrap gives an error of the file system its kind. The text names the file, which is more than the key says.
func wrap(err error) error {
	var known *firn.Error
	if err == nil || errors.As(err, &known) || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	kind := firn.Internal
	var errno syscall.Errno
	switch {
	case vfs.IsNoSpace(err), errors.Is(err, syscall.EDQUOT):
		kind = firn.NoSpace
	case errors.Is(err, fs.ErrPermission), errors.Is(err, syscall.EROFS):
		kind = firn.Denied
	case isNotThere(err):
		kind = firn.NotFound
	case errors.As(err, &errno):
		switch errno {
		case syscall.ESTALE, syscall.ETIMEDOUT, syscall.ECONNREFUSED, syscall.ECONNRESET, syscall.EHOSTDOWN,
			syscall.EHOSTUNREACH, syscall.ENETDOWN, syscall.ENETUNREACH, syscall.ENOTCONN, syscall.EAGAIN, syscall.EINTR,
			syscall.EBUSY, syscall.EMFILE, syscall.ENFILE:
			kind = firn.Unavailable
		case syscall.ENAMETOOLONG:
			kind = firn.Invalid
		}
	}
	return &firn.Error{Kind: kind, Err: err}
}
