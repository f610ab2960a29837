package node

import (
	"context"
	"errors"
	"net/url"

	"github.com/redis/go-redis/v9"

	"firn"
	"firn/blob/places"
	"firn/blob/redisblob"
	"firn/cache"
	"firn/cache/rediscache"
	"firn/cache/tiercache"
	"firn/config"
	"firn/object/record"
	"firn/object/remote"
	"firn/telemetry"
)

// contents is what a site keeps of what is slow to get: contents of its tiers and of its edge cache.
type contents struct {
	n     *Node
	cache *cache.Cache
	tiers *tiercache.Tiers // nil without tiers
	bus   *rediscache.Bus  // nil without Redis
}

// cacheDir is where contents are kept below the data directory.
const cacheDir = "cache"

// caches reports whether the site has something to keep.
func (n *Node) caches() bool { return len(n.cfg.Tiers) > 0 || n.cfg.Edge.Listen != "" }

// openCache builds n.contents, where there is something to keep, and returns what the namespace reads tiers by.
func (n *Node) openCache(tiers remote.Tiers) (_ remote.Tiers, err error) {
	if !n.caches() {
		return tiers, nil
	}
	c := &n.cfg.Cache
	memory, err := cache.NewMemory(cache.MemoryOptions{Budget: int64(c.Memory), TTL: c.TTL.Std()})
	if err != nil {
		return nil, firn.E("cache.memory", "", err)
	}
	levels := []cache.Level{memory}
	defer func() {
		if err != nil {
			for _, l := range levels {
				err = errors.Join(err, l.Close())
			}
		}
	}()
	if c.Disk > 0 {
		dir := c.Dir
		if dir == "" {
			dir = n.dir.file(cacheDir)
		}
		disk, err := cache.OpenDisk(n.dir.fs, cache.DiskOptions{Dir: dir, Budget: int64(c.Disk), TTL: c.TTL.Std()})
		if err != nil {
			return nil, firn.E("cache.disk", dir, err)
		}
		levels = append(levels, disk)
	}
	k := &contents{n: n}
	if c.Redis != "" {
		client, prefix, err := openRedis(c)
		if err != nil {
			return nil, firn.E("cache.redis", "", err)
		}
		n.onClose(client.Close)
		shared, err := rediscache.New(rediscache.Options{Client: client, Prefix: prefix + ":cache:", TTL: c.TTL.Std()})
		if err != nil {
			return nil, firn.E("cache.redis", "", err)
		}
		levels = append(levels, shared)
		k.bus, err = rediscache.NewBus(rediscache.BusOptions{Client: client, Channel: prefix + ":purges", Purge: k.purgeHere, Lost: k.lost})
		if err != nil {
			return nil, firn.E("cache.redis", "", err)
		}
	}
	k.cache = cache.New(cache.Options{}, levels...)
	n.onClose(k.cache.Close)
	n.contents = k
	if len(n.cfg.Tiers) > 0 {
		k.tiers = tiercache.New(tiers, k.cache)
		tiers = k.tiers
	}
	return tiers, k.register()
}

// openRedis returns a client, which has not connected yet, and what names of keys begin with.
func openRedis(c *config.ContentCache) (client redis.UniversalClient, prefix string, err error) {
	u, err := url.Parse(c.Redis)
	if err != nil {
		return nil, "", err
	}
	opt, err := redisblob.FromURL(u)
	if err != nil {
		return nil, "", err
	}
	if c.RedisCredentials != "" {
		secrets, err := places.ReadSecrets(c.RedisCredentials)
		if err != nil {
			return nil, "", err
		}
		opt.Username, opt.Password = secrets.Username, secrets.Password
	}
	client, err = redisblob.Connect(&opt)
	return client, opt.Prefix, err
}

// prefetch begins to fetch from tiers what will probably be read next. The namespace must be open.
func (k *contents) prefetch() error {
	if k == nil || k.tiers == nil || k.n.cfg.Cache.Prefetch == 0 {
		return nil
	}
	store := k.n.engine.store
	return k.tiers.Prefetch(func(ctx context.Context, bucket, key string) (*record.Version, error) {
		return store.Head(ctx, bucket, key, "")
	}, int64(k.n.cfg.Cache.Prefetch))
}

// fetchAhead fetches ahead until ctx ends.
func (k *contents) fetchAhead(ctx context.Context) error {
	if k.tiers == nil {
		return nil
	}
	return k.tiers.Run(ctx)
}

// listen hears of purges until ctx ends.
func (k *contents) listen(ctx context.Context) error {
	if k.bus == nil {
		return nil
	}
	if err := k.bus.Run(ctx); ctx.Err() == nil {
		return err
	}
	return nil
}

// purge forgets what m selects, here and at the nodes that share a Redis.
func (k *contents) purge(ctx context.Context, m cache.Match) error {
	err := k.cache.Purge(ctx, m)
	if k.n.edge != nil {
		k.n.edge.server.Forget(m)
	}
	if k.bus != nil {
		err = errors.Join(err, k.bus.Publish(ctx, m))
	}
	return err
}

// changed is purge for a content of which each version has its own name. Other nodes are told when they can be.
func (k *contents) changed(ctx context.Context, m cache.Match) error {
	err := k.purgeHere(ctx, m)
	if k.bus != nil {
		k.bus.Tell(m) // not before: who hears it may ask here
	}
	return err
}

// purgeHere forgets what m selects here.
func (k *contents) purgeHere(ctx context.Context, m cache.Match) error {
	err := k.cache.PurgeNear(ctx, m)
	if k.n.edge != nil {
		k.n.edge.server.Forget(m)
	}
	return err
}

// lost is for when a purge by another node may have been missed. What is kept of tiers has the version in its name.
func (k *contents) lost(context.Context) {
	if k.n.edge != nil {
		k.n.edge.server.Doubt()
	}
}

// register adds the metrics.
func (k *contents) register() error {
	read, descs := k.cache.Metrics("cache")
	if err := k.n.metrics.Collect(read, descs...); err != nil {
		return err
	}
	one := func(v float64) []telemetry.Sample { return []telemetry.Sample{{Value: v}} }
	var errs []error
	if k.bus != nil {
		errs = append(errs, k.n.metrics.Collect(func() [][]telemetry.Sample {
			s := k.bus.Stats()
			connected := 0.0
			if s.Connected {
				connected = 1
			}
			return [][]telemetry.Sample{one(connected), one(float64(s.Published)), one(float64(s.Applied)), one(float64(s.Lost))}
		},
			gauge("firn_cache_bus_connected", "1 while purges of other nodes are heard."),
			counter("firn_cache_bus_published_total", "Purges told to other nodes."),
			counter("firn_cache_bus_applied_total", "Purges heard from nodes, this one included, and carried out."),
			counter("firn_cache_bus_lost_total", "Times that purges may have been missed, so that what is kept is revalidated."),
		))
	}
	if k.tiers != nil {
		errs = append(errs, k.n.metrics.Collect(func() [][]telemetry.Sample {
			s := k.tiers.Status()
			var from []telemetry.Sample
			for name, n := range s.Read {
				from = append(from, telemetry.Sample{Label: name, Value: float64(n)})
			}
			a := &s.Ahead
			return [][]telemetry.Sample{
				from, one(float64(s.Fetched)), one(float64(s.Wrong)), one(float64(a.Suggested)), one(float64(a.Bytes)),
				{{Label: "fetched", Value: float64(a.Fetched)}, {Label: "cancelled", Value: float64(a.Cancelled)}, {Label: "failed", Value: float64(a.Failed)}, {Label: "dropped", Value: float64(a.Dropped)}},
			}
		},
			telemetry.Desc{Name: "firn_tier_read_bytes_total", Help: "Bytes that readers of tiered content got, by where they came from: a level of the cache, or tier.", Kind: telemetry.Counter, Label: "from"},
			counter("firn_tier_fetched_bytes_total", "Bytes that tiers sent to the cache, those fetched ahead included."),
			counter("firn_cache_wrong_total", "Times that what was kept, or what a tier sent to be kept, failed the namespace's checksums and was forgotten."),
			counter("firn_prefetch_suggested_total", "Reads of tiers that were expected."),
			counter("firn_prefetch_bytes_total", "Bytes fetched from tiers ahead of being read."),
			telemetry.Desc{Name: "firn_prefetch_total", Help: "What became of expected reads: fetched (or found), cancelled for somebody who waited, failed, dropped.", Kind: telemetry.Counter, Label: "outcome"},
		))
	}
	return errors.Join(errs...)
}
