package config

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestEdgeRules(t *testing.T) {
	load := func(text string) (*Effective, error) {
		t.Helper()
		path := filepath.Join(t.TempDir(), "firn.yaml")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return Load(Sources{File: path})
	}
	e, err := load(`edge:
  listen: :8080
edge_rules:
  videos:
    prefix: /videos/
    origins: ["https://regional-cache.example.com", "https://cloud-origin.example.com/base"]
    ttl: [200=7d, 404=30s]
    pass: [Authorization]
  models:
    prefix: /models/
    strip: true
    origins: ["s3://models?endpoint=https://s3.example.com", "bucket:models"]
    credentials: /etc/firn/s3.credentials
`)
	if err != nil {
		t.Fatal(err)
	}
	r := e.EdgeRules["videos"]
	ttl, err := r.TTLs()
	if err != nil || len(ttl) != 2 || ttl[200] != 7*24*time.Hour || ttl[404] != 30*time.Second || len(r.Origins) != 2 || r.Inactive != 7*day {
		t.Errorf("%+v, %v, %v", r, ttl, err)
	}
	if e.Edge.Slice != mib || !e.EdgeRules["models"].Strip {
		t.Errorf("%+v", e.Edge)
	}
	on := "edge: {listen: ':8080'}\n"
	for text, want := range map[string]string{
		"edge: {listen: ':8080'}\n":                                                                             "without edge_rules",
		"edge_rules: {a: {prefix: /, origins: ['http://h']}}\n":                                                 "edge.listen",
		"edge: {listen: ':9000'}\nedge_rules: {a: {prefix: /, origins: ['http://h']}}\n":                        "another endpoint's",
		"edge: {listen: ':8080', slice: 1KiB}\nedge_rules: {a: {prefix: /, origins: ['http://h']}}\n":           "4KiB to 8MiB",
		"edge: {listen: ':8080', purge_from: [somewhere]}\nedge_rules: {a: {prefix: /, origins: ['http://h']}}": "networks",
		on + "edge_rules: {a: {origins: ['http://h']}}\n":                                                       "has no prefix",
		on + "edge_rules: {a: {prefix: /}}\n":                                                                   "has no origins",
		on + "edge_rules: {a: {prefix: /, origins: ['ftp://h']}}\n":                                             "http, https or s3",
		on + "edge_rules: {a: {prefix: /, origins: ['http://u:hush@h']}}\n":                                     "credentials do not belong",
		on + "edge_rules: {a: {prefix: /, origins: ['s3://b?endpoint=http://h']}}\n":                            "needs credentials",
		on + "edge_rules: {a: {prefix: /, origins: ['s3://b'], credentials: /c}}\n":                             "endpoint",
		on + "edge_rules: {a: {prefix: /, origins: ['bucket:']}}\n":                                             "bucket:NAME",
		on + "edge_rules: {a: {prefix: /, origins: ['http://h'], ttl: [200]}}\n":                                "200=7d",
		on + "edge_rules: {a: {prefix: /, origins: ['http://h'], ttl: [206=1d]}}\n":                             "200=7d",
		on + "edge_rules: {a: {prefix: /, origin: ['http://h']}}\n":                                             "did you mean",
		on + "edge_rules: {a: {prefix: /, origins: ['http://h']}, b: {prefix: /, origins: ['http://i']}}\n":     "same prefix",
		on + "edge_rules: {a: {prefix: /, origins: ['http://h'], stale_if_error: -1s}}\n":                       "negative",
	} {
		if _, err := load(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", text, err, want)
		} else if strings.Contains(err.Error(), "hush") {
			t.Errorf("%s: the error shows a password", text)
		}
	}
}
