package repo

import (
	"cmp"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"
)

// cache keeps what is read again and again in a directory of this machine: index files and packs of trees, as they are
// stored, encrypted. What it says is verified like what the place says, and it may fail or be emptied at any time. A nil
// cache keeps nothing.
type cache struct {
	root string // of all repositories
	dir  string
	size int64
	mu   struct {
		sync.Mutex
		written int64 // since it was last swept
	}
}

type cacheKind string

const (
	cacheIndex cacheKind = "index"
	cachePack  cacheKind = "packs"

	defaultCacheSize = 1 << 30
)

func newCache(root string, id ID, size int64) (*cache, error) {
	if root == "" {
		return nil, nil
	}
	if size <= 0 {
		size = defaultCacheSize
	}
	c := &cache{root: root, dir: filepath.Join(root, id.String()[:16]), size: size}
	for _, k := range []cacheKind{cacheIndex, cachePack} {
		if err := os.MkdirAll(filepath.Join(c.dir, string(k)), 0o700); err != nil {
			return nil, err
		}
	}
	c.sweep()
	return c, nil
}

func (c *cache) enabled() bool { return c != nil }

func (c *cache) path(k cacheKind, id ID) string {
	return filepath.Join(c.dir, string(k), id.String())
}

// get returns a whole blob.
func (c *cache) get(k cacheKind, id ID) ([]byte, bool) {
	if c == nil {
		return nil, false
	}
	p, err := os.ReadFile(c.path(k, id))
	return p, err == nil
}

// readAt reads part of a pack of trees.
func (c *cache) readAt(id ID, p []byte, offset int64) bool {
	path := c.path(cachePack, id)
	f, err := os.Open(path)
	if err != nil {
		return false
	}
	defer func() { _ = f.Close() }() // it was only read
	if _, err := f.ReadAt(p, offset); err != nil {
		return false
	}
	now := time.Now()
	_ = os.Chtimes(path, now, now) // else it is swept earlier than it need be
	return true
}

// put keeps a blob if it can. A reader never sees a part of it.
func (c *cache) put(k cacheKind, id ID, p []byte) {
	if c == nil || int64(len(p)) > c.size/4 {
		return
	}
	f, err := os.CreateTemp(c.dir, "new-")
	if err != nil {
		return
	}
	_, err = f.Write(p)
	if e := f.Close(); err == nil {
		err = e
	}
	if err == nil {
		err = os.Rename(f.Name(), c.path(k, id))
	}
	if err != nil {
		_ = os.Remove(f.Name()) // swept later
		return
	}
	c.mu.Lock()
	c.mu.written += int64(len(p))
	full := c.mu.written > c.size/16
	if full {
		c.mu.written = 0
	}
	c.mu.Unlock()
	if full {
		c.sweep()
	}
}

// drop removes what turned out to be wrong.
func (c *cache) drop(k cacheKind, id ID) {
	if c != nil {
		_ = os.Remove(c.path(k, id)) // it is overwritten then
	}
}

// sweep removes what was used longest ago until all repositories together are within the bound.
func (c *cache) sweep() {
	type file struct {
		path string
		size int64
		used time.Time
	}
	var all []file
	var total int64
	_ = filepath.WalkDir(c.root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return nil // another process sweeps too
		}
		info, err := d.Info()
		if err != nil {
			return nil
		}
		if dir := filepath.Base(filepath.Dir(path)); dir != string(cacheIndex) && dir != string(cachePack) {
			if time.Since(info.ModTime()) > time.Hour {
				_ = os.Remove(path) // of a put that was cut off
			}
			return nil
		}
		all = append(all, file{path, info.Size(), info.ModTime()})
		total += info.Size()
		return nil
	})
	slices.SortFunc(all, func(a, b file) int { return cmp.Or(a.used.Compare(b.used), cmp.Compare(a.path, b.path)) })
	for _, f := range all {
		if total <= c.size {
			return
		}
		if os.Remove(f.path) == nil {
			total -= f.size
		}
	}
}
