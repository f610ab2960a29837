package places

import (
	"context"
	"encoding/hex"
	"io"
	"strings"

	"firn"
	"firn/blob/driver"
	"firn/blob/wrap/readcache"
)

// immutable reports whether key is one of a repository's packs or indexes, also below a prefix: below packs or index,
// with a name that is a hash. A blob of such a name never gets another content. All else of a repository changes or
// goes: a session, a snapshot or a lock that a cache remembered would hide what another host did.
func immutable(key string) bool {
	parts := strings.Split(key, "/")
	last := len(parts) - 1
	if name, err := hex.DecodeString(parts[last]); err != nil || len(name) != 32 {
		return false
	}
	for _, p := range parts[:last] {
		if p == "packs" || p == "index" {
			return true
		}
	}
	return false
}

// cached reads what is immutable through a cache, and everything else from the place.
type cached struct {
	driver.Driver               // the cache: changes go through it, so that it forgets what they replace
	place         driver.Driver // behind it
}

// cache puts the cache of p before d. Without it d is returned where another process uses the directory.
func (p Place) cache(d driver.Driver) (driver.Driver, error) {
	c, err := readcache.New(d, readcache.Options{Dir: p.CacheDir, Budget: p.CacheSize, Immutable: immutable})
	if firn.KindOf(err) == firn.Conflict {
		return d, nil
	}
	if err != nil {
		return nil, firn.E("cache", p.CacheDir, err)
	}
	return &cached{Driver: c.Driver(), place: d}, nil
}

// Inner lets callers find the cache's abilities, which are those of the place.
func (c *cached) Inner() (driver.Driver, bool) { return c.Driver, true }

// Get keeps what can change out of the cache: size and time, by which that would be validated, do not tell two contents
// apart that were written within the resolution of the place's clock.
func (c *cached) Get(ctx context.Context, key string, offset, length int64) (io.ReadCloser, error) {
	if immutable(key) {
		return c.Driver.Get(ctx, key, offset, length)
	}
	return c.place.Get(ctx, key, offset, length)
}
