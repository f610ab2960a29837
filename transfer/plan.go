package transfer

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/minio/minio-go/v7"

	"firn"
)

// plan finds what is to be copied and hands each item to emit, in the order of the source. What cannot or
// need not be copied is reported at once.
func (c *copier) plan(ctx context.Context, from []Location, to Location, emit func(item) error) error {
	for _, f := range from {
		base := to
		if c.o.Recursive && len(from) > 1 { // several trees must not mix
			base = to.join(f.base())
		}
		var err error
		switch {
		case f.Remote && c.o.Recursive:
			err = c.planPrefix(ctx, f, base, emit)
		case f.Remote:
			err = c.planObject(ctx, f, to, len(from) > 1, emit)
		default:
			err = c.planLocal(ctx, f, base, to, len(from) > 1, emit)
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err != nil && len(from) == 1 {
			return err
		}
		if err != nil {
			c.found(f.String(), Failed, "", err)
		}
	}
	return nil
}

// into returns the destination of a single file or object: to itself, or beneath it where to is a directory.
func into(from, to Location, many bool) Location {
	if to.Remote && (many || to.Key == "" || strings.HasSuffix(to.Key, "/")) {
		return to.join(from.base())
	}
	if !to.Remote && os.IsPathSeparator(to.Path[len(to.Path)-1]) {
		return to.join(from.base())
	}
	return to
}

func (c *copier) planObject(ctx context.Context, f, to Location, many bool, emit func(item) error) error {
	o, err := c.src.head(ctx, f, c.o.VersionID)
	if err != nil {
		return err
	}
	dst := into(f, to, many)
	it := item{from: f, to: dst, size: o.Size, etag: o.ETag, modified: o.info.LastModified}
	if !dst.Remote {
		if it.local, err = localName(filepath.ToSlash(filepath.Base(dst.Path))); err != nil {
			return firn.E("copy", f.String(), err)
		}
		// A name taken from the key must be as safe as one in a tree.
		if dst != to && it.local != f.base() {
			return firn.E("copy", f.String(), errUnsafe)
		}
	}
	if dst.Remote && dst.Bucket == f.Bucket && dst.Key == f.Key && c.src.same(c.dst) {
		return &firn.Error{Kind: firn.Invalid, Op: "copy", Subject: f.String(), Err: errors.New("source and destination are the same")}
	}
	return emit(it)
}

// list walks all objects whose keys start with prefix.
func (c *Client) list(ctx context.Context, bucket string, o minio.ListObjectsOptions, fn func(minio.ObjectInfo) error) error {
	subject := scheme + bucket + "/" + o.Prefix
	lctx, cancel := context.WithCancel(ctx)
	defer cancel()
	after, failures := "", 0
	for {
		// The iterator ends with an error; without versions it goes on after the last key it gave.
		var failed error
		for info := range c.core.ListObjectsIter(lctx, bucket, o) {
			if failed = info.Err; failed != nil {
				break
			}
			failures = 0
			if err := fn(info); err != nil {
				return err
			}
			after = info.Key
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if failed == nil {
			return nil
		}
		if failures++; failures >= c.o.Attempts || !mayPass(failed) || after != "" && (o.WithVersions || !o.Recursive) {
			return wrapError("list", subject, failed)
		}
		if err := c.backoff(ctx, failures); err != nil {
			return err
		}
		if after != "" {
			o.StartAfter = after
		}
	}
}

func (c *copier) planPrefix(ctx context.Context, f, to Location, emit func(item) error) error {
	n := 0
	err := c.src.list(ctx, f.Bucket, minio.ListObjectsOptions{Prefix: f.prefix(), Recursive: true}, func(info minio.ObjectInfo) error {
		n++
		rel := strings.TrimPrefix(info.Key, f.prefix())
		src := Location{Remote: true, Bucket: f.Bucket, Key: info.Key}
		if rel == "" || strings.HasSuffix(rel, "/") && info.Size == 0 && !to.Remote {
			c.found(src.String(), Skipped, "marks a directory", nil)
			return nil
		}
		if !c.o.Filter.Take(rel) {
			return nil
		}
		it := item{from: src, size: info.Size, etag: strings.Trim(info.ETag, `"`), modified: info.LastModified, to: to.join(rel)}
		if to.Remote {
			it.to.Key = to.prefix() + rel
			err := keyName(it.to.Key)
			if err == nil && c.sameBucket(src, it.to) && strings.HasPrefix(it.to.Key, f.prefix()) {
				// It would be listed, and copied, again.
				err = &firn.Error{Kind: firn.Invalid, Op: "copy", Subject: it.to.String(), Err: errors.New("lies within the source")}
			}
			if err != nil {
				c.found(src.String(), Failed, "", err)
				return nil
			}
			return emit(it)
		}
		name, err := localName(rel)
		if err == nil && c.o.Recursive && to.Path != "" {
			it.local, err = c.beneathRoot(to, name)
		}
		if err != nil {
			c.found(src.String(), Failed, "", err)
			return nil
		}
		return emit(it)
	})
	if err != nil {
		return err
	}
	if n == 0 && f.Key != "" {
		return &firn.Error{Kind: firn.NotFound, Op: "copy", Subject: f.String(), Err: errors.New("nothing is beneath this prefix")}
	}
	return nil
}

// beneathRoot is the name beneath the opened target directory, where several trees have directories of their
// own.
func (c *copier) beneathRoot(to Location, name string) (string, error) {
	if c.root == nil {
		return name, nil
	}
	sub, err := filepath.Rel(c.root.Name(), to.Path)
	if err != nil || !filepath.IsLocal(sub) {
		return "", errUnsafe
	}
	return filepath.Join(sub, name), nil
}

func (c *copier) planLocal(ctx context.Context, f, base, to Location, many bool, emit func(item) error) error {
	fi, err := os.Stat(f.Path) // a link that the user names is followed
	if err != nil {
		return localError("read", f.Path, err)
	}
	if fi.Mode().IsRegular() {
		return emit(item{from: f, to: into(f, to, many), size: fi.Size(), info: fi})
	}
	if !fi.IsDir() {
		return &firn.Error{Kind: firn.Invalid, Op: "read", Subject: f.Path, Err: errors.New("is neither a file nor a directory")}
	}
	if !c.o.Recursive {
		return &firn.Error{Kind: firn.Invalid, Op: "read", Subject: f.Path, Err: errors.New("is a directory: give -r to copy what is in it")}
	}
	return c.walk(ctx, f.Path, "", []fs.FileInfo{fi}, base, emit)
}

// walk visits a directory in the order of names. above are the directories on the way, against loops of links.
func (c *copier) walk(ctx context.Context, dir, rel string, above []fs.FileInfo, to Location, emit func(item) error) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		c.found(dir, Failed, "", localError("read", dir, err))
		return nil
	}
	for _, e := range entries {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		full, name := filepath.Join(dir, e.Name()), path.Join(rel, e.Name())
		fi, err := e.Info()
		if errors.Is(err, fs.ErrNotExist) {
			continue // removed since the directory was read
		}
		if err == nil && fi.Mode()&fs.ModeSymlink != 0 {
			if !c.o.Filter.Take(name) && c.o.Filter.prune(name) {
				continue
			}
			if !c.o.Follow {
				c.found(full, Skipped, "symbolic link (--follow copies what it points to)", nil)
				continue
			}
			fi, err = os.Stat(full)
		}
		if err != nil {
			c.found(full, Failed, "", localError("read", full, err))
			continue
		}
		switch {
		case fi.IsDir():
			if c.o.Filter.prune(name) {
				continue
			}
			if slices.ContainsFunc(above, func(a fs.FileInfo) bool { return os.SameFile(a, fi) }) {
				c.found(full, Skipped, "symbolic link to a directory it is in", nil)
				continue
			}
			if err := c.walk(ctx, full, name, append(slices.Clip(above), fi), to, emit); err != nil {
				return err
			}
		case !c.o.Filter.Take(name):
		case !fi.Mode().IsRegular():
			c.found(full, Skipped, "special file ("+fi.Mode().Type().String()+")", nil)
		case !utf8.ValidString(name) || len(to.prefix()+name) > maxKey:
			c.found(full, Failed, "", firn.E("upload", full, keyName(to.prefix()+name)))
		case strings.HasPrefix(e.Name(), ".firn-") && (strings.HasSuffix(e.Name(), ".part") || strings.HasSuffix(e.Name(), ".part.json")):
			c.found(full, Skipped, "an unfinished download", nil)
		default:
			if err := emit(item{from: Location{Path: full}, to: to.join(name), size: fi.Size(), info: fi}); err != nil {
				return err
			}
		}
	}
	return nil
}
