package rediscache

import (
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"firn"
	"firn/cache"
)

func TestOptions(t *testing.T) {
	c := redis.NewClient(&redis.Options{Addr: "127.0.0.1:1"})
	defer c.Close()
	for _, o := range []Options{{}, {Client: c, TTL: 1}, {Client: c, Queue: -1}, {Client: c, Rest: -1}} {
		if _, err := New(o); firn.KindOf(err) != firn.Invalid {
			t.Errorf("%+v: %v", o, err)
		}
	}
	for _, o := range []BusOptions{{}, {Client: c}} {
		if _, err := NewBus(o); firn.KindOf(err) != firn.Invalid {
			t.Errorf("%+v: %v", o, err)
		}
	}
}

func FuzzDecode(f *testing.F) {
	k := cache.Key{Object: "a", Version: "v", Block: 1}
	f.Add(encode(k, cache.Value{Data: []byte("data"), Meta: []byte("meta"), Expires: time.UnixMilli(1)}))
	f.Fuzz(func(t *testing.T, p []byte) {
		if v, ok := decode(k, p); ok && len(v.Data)+len(v.Meta)+valueHead+1 != len(p) {
			t.Fatalf("%x is %+v", p, v)
		}
	})
}
