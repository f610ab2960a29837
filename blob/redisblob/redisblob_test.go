package redisblob

import (
	"net/url"
	"reflect"
	"strings"
	"testing"

	"firn"
)

func parse(t *testing.T, text string) (Options, error) {
	t.Helper()
	u, err := url.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	return FromURL(u)
}

func TestFromURL(t *testing.T) {
	for text, want := range map[string]Options{
		"redis://host":                    {Addrs: []string{"host:6379"}, Prefix: "firn", Durable: "saved", Shards: 1},
		"redis://host:7000/2?prefix=a:b_": {Addrs: []string{"host:7000"}, DB: 2, Prefix: "a:b_", Durable: "saved", Shards: 1},
		"rediss://me@[::1]:7/?ca=x&durable=any": {
			Addrs: []string{"[::1]:7"}, TLS: true, Username: "me", CAFile: "x", Prefix: "firn", Durable: "any", Shards: 1,
		},
		"redis+cluster://a:1,b:2,c:6379/?prefix=x&replicas=2": {
			Addrs: []string{"a:1", "b:2", "c:6379"}, Cluster: true, Prefix: "x", Durable: "saved", Replicas: 2, Shards: 64,
		},
	} {
		if got, err := parse(t, text); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %+v, %v, want %+v", text, got, err, want)
		}
	}
	for _, text := range []string{
		"http://host", "redis:host", "redis://", "redis://u:sesame@host", "redis://host/db", "redis://host/?x=1",
		"redis://host/?prefix=a&prefix=b", "redis://host/?prefix={x}", "redis://host/?durable=no", "redis://a:1,b:2/",
		"redis+cluster://a/1", "redis://a/?shards=0x", "redis://a/?shards=1000", "redis://a/?ca=x", "rediss://a/?cert=x",
		"redis://a/?replicas=-1",
	} {
		if got, err := parse(t, text); firn.KindOf(err) != firn.Invalid || strings.Contains(err.Error(), "sesame") {
			t.Errorf("%s: %+v, %v, want an invalid one", text, got, err)
		}
	}
}

func TestPlaceOfAKeyStays(t *testing.T) {
	// Keys are found where they were put: these numbers are part of the format.
	s := &store{shards: newShards("p", 64)}
	for key, want := range map[string]int{"a": 44, "packs/ab/abcdef": 37, "雪": 37} {
		if got := s.shard(key); got.index != newShard("p", want).index {
			t.Errorf("%q is in %s, want shard %d", key, got.index, want)
		}
	}
}

func FuzzParseRecord(f *testing.F) {
	f.Add("00ff 1 10 524288 1700000000000")
	f.Add("")
	f.Add("a b c d e")
	f.Fuzz(func(t *testing.T, text string) {
		if rec, err := parseRecord(text); err == nil && (rec.size < 0 || rec.gen != strings.Split(text, " ")[0]) {
			t.Errorf("%q gave %+v", text, rec)
		}
	})
}

func FuzzParseMeta(f *testing.F) {
	f.Add(metaOf(64))
	f.Add("firn-blob 2 shards 1")
	f.Fuzz(func(t *testing.T, text string) {
		if n, err := parseMeta(text); err == nil && (n < 1 || n > maxShards) {
			t.Errorf("%q gave %d shards", text, n)
		}
	})
}
