package adminapi

import (
	"context"
	"net/http"
)

// CacheLevel is the state of one level of the cache. Counters are those since the start.
type CacheLevel struct {
	Name          string  `json:"name"`
	Budget        int64   `json:"budget"` // bytes; 0 where its server decides
	Bytes         int64   `json:"bytes"`
	Memory        int64   `json:"memory"` // bytes of memory that it takes
	Blocks        int64   `json:"blocks"`
	Pinned        int64   `json:"pinned"` // bytes
	Hits          uint64  `json:"hits"`
	HitBytes      uint64  `json:"hit_bytes"`
	Misses        uint64  `json:"misses"`
	HitRatio      float64 `json:"hit_ratio"` // of the look-ups that got this far; 0 where there were none
	Evicted       uint64  `json:"evicted"`
	Expired       uint64  `json:"expired"`
	Refused       uint64  `json:"refused"`
	Damaged       uint64  `json:"damaged"`
	Errors        uint64  `json:"errors"`
	OldestSeconds float64 `json:"oldest_seconds"`
}

// CachePrefetch is what was fetched from tiers ahead of being read.
type CachePrefetch struct {
	Suggested uint64 `json:"suggested"`
	Fetched   uint64 `json:"fetched"`
	Cancelled uint64 `json:"cancelled"`
	Failed    uint64 `json:"failed"`
	Dropped   uint64 `json:"dropped"`
	Bytes     int64  `json:"bytes"`
}

// CacheBus is how nodes hear of each other's purges.
type CacheBus struct {
	Connected bool   `json:"connected"`
	Published uint64 `json:"published"`
	Applied   uint64 `json:"applied"`
	Lost      uint64 `json:"lost"`
}

// CacheStatus is the state of the cache.
type CacheStatus struct {
	Levels []CacheLevel `json:"levels"` // the nearest first
	// Read are the bytes that readers of tiered content got, by level, and "tier" for those that no level had.
	Read map[string]uint64 `json:"read,omitempty"`
	// Fetched are the bytes that tiers sent.
	Fetched  uint64         `json:"fetched"`
	Wrong    uint64         `json:"wrong"` // times that content failed the namespace's checksums, and was forgotten
	Prefetch *CachePrefetch `json:"prefetch,omitempty"`
	Bus      *CacheBus      `json:"bus,omitempty"`
	Pins     []string       `json:"pins"` // what names begin with
}

// CacheNames selects what is kept: BUCKET/PREFIX for content of tiers, /PATH for that of the edge cache; "" is all.
type CacheNames struct {
	Prefix string `json:"prefix"`
}

// CacheWarmed is what became of one object, or with Done of all.
type CacheWarmed struct {
	Key     string `json:"key,omitempty"`
	Fetched int64  `json:"fetched"`         // bytes
	Error   string `json:"error,omitempty"` // why it was not fetched
	// Of all.
	Done    bool  `json:"done,omitempty"`
	Objects int64 `json:"objects,omitempty"` // that are on tiers
	Local   int64 `json:"local,omitempty"`   // that have their bytes here, and need no cache
	Failed  int64 `json:"failed,omitempty"`
}

// Cache is the cache of a site. Each call fails with firn.NotFound where there is none.
type Cache interface {
	Status() (CacheStatus, error)
	Purge(ctx context.Context, n CacheNames) error
	// Warm fetches the content of all objects on tiers whose names begin with BUCKET/PREFIX, and calls fn for each.
	Warm(ctx context.Context, n CacheNames, fn func(CacheWarmed) error) (CacheWarmed, error)
	Pin(n CacheNames) error
	Unpin(n CacheNames) error
}

// ServeCache adds the calls on the cache.
func (h *Handler) ServeCache(c Cache) {
	h.mux.HandleFunc("GET /admin/v1/cache", h.api(func(*http.Request) (any, error) { return c.Status() }))
	change := func(name string, fn func(ctx context.Context, n CacheNames) error) {
		h.mux.HandleFunc("POST /admin/v1/cache/"+name, h.api(func(r *http.Request) (any, error) {
			var n CacheNames
			if err := decode(r, &n); err != nil {
				return nil, err
			}
			return nil, fn(r.Context(), n)
		}))
	}
	change("purge", c.Purge)
	change("pin", func(_ context.Context, n CacheNames) error { return c.Pin(n) })
	change("unpin", func(_ context.Context, n CacheNames) error { return c.Unpin(n) })
	h.mux.HandleFunc("POST /admin/v1/cache/warm", h.private(func(w http.ResponseWriter, r *http.Request) {
		var n CacheNames
		runLines(w, r, &n, func(line func(any) error) (any, error) {
			return c.Warm(r.Context(), n, func(o CacheWarmed) error { return line(o) })
		})
	}))
}
