package node

import (
	"context"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"

	"firn"
	"firn/adminapi"
	"firn/cache"
	"firn/object/listing"
)

// cacheView is the cache as the admin endpoint sees it.
type cacheView struct{ n *Node }

var (
	errNoCache = firn.NewError(firn.NotFound, "the site has nothing to cache: no tiers, and no edge cache")
	errNoPins  = firn.NewError(firn.Unsupported, "what is kept in memory alone cannot be pinned: set cache.disk")
)

func (v cacheView) contents() (*contents, error) {
	if v.n.contents == nil {
		return nil, errNoCache
	}
	return v.n.contents, nil
}

// Status implements adminapi.Cache.
func (v cacheView) Status() (adminapi.CacheStatus, error) {
	k, err := v.contents()
	if err != nil {
		return adminapi.CacheStatus{}, err
	}
	s := adminapi.CacheStatus{Pins: []string{}}
	for _, l := range k.cache.Status() {
		level := adminapi.CacheLevel{
			Name: l.Name, Budget: l.Budget, Bytes: l.Bytes, Memory: l.Memory, Blocks: l.Blocks, Pinned: l.Pinned, Hits: l.Hits,
			HitBytes: l.HitBytes, Misses: l.Misses, Evicted: l.Evicted, Expired: l.Expired, Refused: l.Refused, Damaged: l.Damaged,
			Errors: l.Errors, OldestSeconds: l.Oldest.Seconds(),
		}
		if n := l.Hits + l.Misses; n > 0 {
			level.HitRatio = float64(l.Hits) / float64(n)
		}
		s.Levels = append(s.Levels, level)
	}
	if k.tiers != nil {
		t := k.tiers.Status()
		s.Read, s.Fetched, s.Wrong = t.Read, t.Fetched, t.Wrong
		if v.n.cfg.Cache.Prefetch > 0 {
			a := &t.Ahead
			s.Prefetch = &adminapi.CachePrefetch{
				Suggested: a.Suggested, Fetched: a.Fetched, Cancelled: a.Cancelled, Failed: a.Failed, Dropped: a.Dropped, Bytes: a.Bytes,
			}
		}
	}
	if k.bus != nil {
		b := k.bus.Stats()
		s.Bus = &adminapi.CacheBus{Connected: b.Connected, Published: b.Published, Applied: b.Applied, Lost: b.Lost}
	}
	if p := k.cache.Pinner(); p != nil {
		for _, m := range p.Pins() {
			s.Pins = append(s.Pins, m.Object)
		}
	}
	return s, nil
}

// Purge implements adminapi.Cache.
func (v cacheView) Purge(ctx context.Context, n adminapi.CacheNames) error {
	k, err := v.contents()
	if err != nil {
		return err
	}
	return k.purge(ctx, cache.Match{Object: n.Prefix, Prefix: true})
}

// Pin implements adminapi.Cache.
func (v cacheView) Pin(n adminapi.CacheNames) error {
	return v.pins(n, func(p cache.Pinner, m cache.Match) error { return p.Pin(m) })
}

// Unpin implements adminapi.Cache.
func (v cacheView) Unpin(n adminapi.CacheNames) error {
	return v.pins(n, func(p cache.Pinner, m cache.Match) error { return p.Unpin(m) })
}

func (v cacheView) pins(n adminapi.CacheNames, fn func(cache.Pinner, cache.Match) error) error {
	k, err := v.contents()
	if err != nil {
		return err
	}
	p := k.cache.Pinner()
	switch {
	case p == nil:
		return errNoPins
	case n.Prefix == "":
		return firn.NewError(firn.Invalid, "want BUCKET/PREFIX or /PATH")
	}
	return fn(p, cache.Match{Object: n.Prefix, Prefix: true})
}

// warming is how many objects are fetched side by side.
const warming = 4

// Warm implements adminapi.Cache.
func (v cacheView) Warm(ctx context.Context, n adminapi.CacheNames, fn func(adminapi.CacheWarmed) error) (sum adminapi.CacheWarmed, err error) {
	sum.Done = true
	k, err := v.contents()
	if err != nil {
		return sum, err
	}
	bucket, prefix, _ := strings.Cut(n.Prefix, "/")
	if k.tiers == nil || bucket == "" {
		return sum, firn.NewError(firn.Invalid, "only objects on tiers can be warmed: want BUCKET/PREFIX")
	}
	var mu sync.Mutex // guards sum, and fn
	one := func(ctx context.Context, key string) error {
		o := adminapi.CacheWarmed{Key: bucket + "/" + key}
		ver, err := v.n.engine.store.Head(ctx, bucket, key, "")
		if firn.KindOf(err) == firn.NotFound {
			return nil // removed meanwhile
		}
		local := err == nil && (ver.Location == nil || ver.Local())
		if err == nil && !local {
			o.Fetched, err = k.tiers.Warm(ctx, ver, 0, ver.Size)
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		mu.Lock()
		defer mu.Unlock()
		sum.Fetched += o.Fetched
		switch {
		case local:
			sum.Local++
			return nil
		case err != nil:
			sum.Failed++
			o.Error = err.Error()
		}
		sum.Objects++
		return fn(o)
	}
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(warming)
	o := listing.Options{Prefix: prefix, Limit: 1000}
	for gctx.Err() == nil {
		page, lerr := v.n.engine.store.List(gctx, bucket, o)
		if lerr != nil {
			err = lerr
			break
		}
		for i := range page.Versions {
			key := page.Versions[i].Key
			g.Go(func() error { return one(gctx, key) })
		}
		if !page.Truncated {
			break
		}
		o.After = page.NextKey
	}
	if werr := g.Wait(); werr != nil {
		err = werr
	}
	return sum, err
}
