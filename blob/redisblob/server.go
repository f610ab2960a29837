package redisblob

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"sync"

	"github.com/redis/go-redis/v9"

	"firn"
	"firn/blob/driver"
)

// Init makes a namespace, and leaves one that is there as it is.
func Init(ctx context.Context, opt Options) error {
	s, err := connect(&opt)
	if err != nil {
		return err
	}
	defer s.Close()
	if err := s.checkServers(ctx, opt.Durable); err != nil {
		return err
	}
	value := metaOf(opt.Shards)
	first := newShard(opt.Prefix, 0)
	if n, err := s.client.Exists(ctx, first.meta).Result(); err != nil || n > 0 {
		return fail(ctx, err)
	}
	// The first shard's is written last: without it, the others are of an Init that was killed, or the first shard's node
	// has lost its data; then other shards have blobs.
	shards := newShards(opt.Prefix, opt.Shards)
	for _, sh := range newShards(opt.Prefix, maxShards) {
		switch n, err := s.client.Exists(ctx, sh.index).Result(); {
		case err != nil:
			return fail(ctx, err)
		case n > 0:
			return firn.NewError(firn.Corrupt, "there are blobs, but "+first.meta+" is gone: a server has lost its data")
		}
		if !opt.Cluster && opt.Shards == 1 {
			break
		}
	}
	for i := len(shards) - 1; i >= 0; i-- {
		if err := s.client.Set(ctx, shards[i].meta, value, 0).Err(); err != nil {
			return fail(ctx, err)
		}
	}
	return nil
}

const formatVersion = 1

func metaOf(shards int) string { return fmt.Sprintf("firn-blob %d shards %d", formatVersion, shards) }

// readMeta returns the number of shards. It fails where not each of them is there.
func (s *store) readMeta(ctx context.Context) (int, error) {
	value, err := s.client.Get(ctx, newShard(s.prefix, 0).meta).Result()
	if err == redis.Nil { //nolint:errorlint // it is returned as it is
		return 0, errGone
	}
	if err != nil {
		return 0, fail(ctx, err)
	}
	n, err := parseMeta(value)
	if err != nil {
		return 0, err
	}
	for _, sh := range newShards(s.prefix, n) {
		switch v, err := s.client.Get(ctx, sh.meta).Result(); {
		case err != nil && err != redis.Nil: //nolint:errorlint // as above
			return 0, fail(ctx, err)
		case v != value:
			return 0, firn.NewError(firn.Corrupt, sh.meta+" is gone or differs: a node of the cluster has lost its data")
		}
	}
	return n, nil
}

func parseMeta(value string) (int, error) {
	fields := strings.Fields(value)
	if len(fields) < 2 || fields[0] != "firn-blob" {
		return 0, firn.NewError(firn.Invalid, "the prefix is used by something that is no namespace of blobs")
	}
	if version, err := strconv.Atoi(fields[1]); err != nil || version != formatVersion {
		return 0, firn.NewError(firn.Unsupported, fmt.Sprintf("the namespace has format %.20q, this program knows %d",
			fields[1], formatVersion))
	}
	if len(fields) == 4 && fields[2] == "shards" {
		if n, err := strconv.Atoi(fields[3]); err == nil && n >= 1 && n <= maxShards {
			return n, nil
		}
	}
	return 0, firn.NewError(firn.Corrupt, "the namespace's description is damaged")
}

// eachServer calls fn for the server, or for each primary of the cluster.
func (s *store) eachServer(ctx context.Context, fn func(context.Context, *redis.Client) error) error {
	if cluster, ok := s.client.(*redis.ClusterClient); ok {
		var mu sync.Mutex // ForEachMaster calls from several goroutines
		return cluster.ForEachMaster(ctx, func(ctx context.Context, c *redis.Client) error {
			mu.Lock()
			defer mu.Unlock()
			return fn(ctx, c)
		})
	}
	return fn(ctx, s.client.(*redis.Client))
}

func (s *store) checkServers(ctx context.Context, durable string) error {
	err := s.eachServer(ctx, func(ctx context.Context, c *redis.Client) error {
		err := checkServer(ctx, c, durable)
		if firn.KindOf(err) == firn.Denied && durable == DurableAny {
			// Whoever takes the server as it is need not be able to ask how it is.
			return fail(ctx, c.Ping(ctx).Err())
		}
		return err
	})
	return fail(ctx, err)
}

// checkServer fails where a server would forget or evict blobs.
func checkServer(ctx context.Context, c *redis.Client, durable string) error {
	memory, err := info(ctx, c, "memory")
	if err != nil {
		return mayAsk(ctx, err)
	}
	if policy := memory["maxmemory_policy"]; strings.HasPrefix(policy, "allkeys-") && memory["maxmemory"] != "0" {
		return firn.NewError(firn.Invalid, "the server evicts data when its memory is full (maxmemory-policy "+policy+
			"): set maxmemory-policy to noeviction, or to one of the volatile ones")
	}
	if durable == DurableAny {
		return nil
	}
	persistence, err := info(ctx, c, "persistence")
	if err != nil {
		return mayAsk(ctx, err)
	}
	if persistence["aof_enabled"] == "1" {
		if durable == DurableSaved {
			return nil
		}
		sync, err := setting(ctx, c, "appendfsync")
		if err == nil && sync != "always" {
			err = firn.NewError(firn.Invalid, "durable=fsync, but the server may lose its last second (appendfsync "+sync+
				"): set appendfsync to always")
		}
		return err
	}
	if durable == DurableFsync {
		return firn.NewError(firn.Invalid, "durable=fsync, but the server has no append-only file: set appendonly to yes "+
			"and appendfsync to always")
	}
	save, err := setting(ctx, c, "save")
	if err == nil && save == "" {
		err = firn.NewError(firn.Invalid, "the server forgets everything when it ends: set appendonly to yes there, "+
			"or save, or accept it with durable=any in the URL")
	}
	return err
}

// mayAsk says what to do where the user may not ask.
func mayAsk(ctx context.Context, err error) error {
	if err = fail(ctx, err); firn.KindOf(err) == firn.Denied && strings.Contains(err.Error(), "NOPERM") {
		return &firn.Error{Kind: firn.Denied, Err: fmt.Errorf("the server's settings cannot be read: allow the user "+
			"+info and +config|get, or accept what they are with durable=any in the URL: %w", err)}
	}
	return err
}

func setting(ctx context.Context, c *redis.Client, name string) (string, error) {
	all, err := c.ConfigGet(ctx, name).Result()
	return all[name], mayAsk(ctx, err)
}

func info(ctx context.Context, c interface {
	Info(context.Context, ...string) *redis.StringCmd
}, section string,
) (map[string]string, error) {
	text, err := c.Info(ctx, section).Result()
	if err != nil {
		return nil, err
	}
	all := map[string]string{}
	for line := range strings.Lines(text) {
		if name, value, ok := strings.Cut(strings.TrimSpace(line), ":"); ok {
			all[name] = value
		}
	}
	return all, nil
}

// Space is maxmemory, summed over the primaries; a server without that limit does not tell what it can take.
func (s *store) Space(ctx context.Context) (driver.Space, error) {
	var sum driver.Space
	err := s.eachServer(ctx, func(ctx context.Context, c *redis.Client) error {
		memory, err := info(ctx, c, "memory")
		if err != nil {
			return err
		}
		limit, _ := strconv.ParseInt(memory["maxmemory"], 10, 64)
		used, _ := strconv.ParseInt(memory["used_memory"], 10, 64)
		if limit == 0 || sum.Total < 0 {
			sum = driver.Space{Total: -1, Free: -1}
			return nil
		}
		sum.Total += limit
		sum.Free += max(limit-used, 0)
		return nil
	})
	return sum, fail(ctx, err)
}
