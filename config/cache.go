package config

import "net/url"

func (e *Effective) validateCache(bad complain) {
	c := &e.Cache
	if c.Memory < mib {
		bad("cache.memory", "want 1MiB or more, not %s", c.Memory)
	}
	if c.Disk != 0 && c.Disk < 4*mib {
		bad("cache.disk", "want 4MiB or more, or 0, not %s", c.Disk)
	}
	if c.TTL < 0 {
		bad("cache.ttl", "must not be negative")
	}
	if c.Prefetch < 0 {
		bad("cache.prefetch", "must not be negative")
	}
	if c.Redis == "" {
		if c.RedisCredentials != "" {
			bad("cache.redis_credentials", "is set without cache.redis: give the URL of the server")
		}
		return
	}
	u, err := url.Parse(c.Redis)
	if err != nil || u.Host == "" {
		bad("cache.redis", "want a URL such as redis://host:6379/0")
	} else if _, ok := u.User.Password(); ok {
		bad("cache.redis", "the password does not belong in the URL: name a file in cache.redis_credentials")
	}
}
