package config

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestTiers(t *testing.T) {
	e, err := Load(Sources{File: write(t, `
tiers:
  warm: {url: 's3://b/p?endpoint=https://s3.example', keep_local: 7d, cost: 20}
  cold-nas:
    url: place:nas/tier
    class: GLACIER
    layout: plain
    max_bytes: 1TiB
    cost: 3.99
places:
  nas: {url: file:/mnt/nas}
`)})
	if err != nil {
		t.Fatal(err)
	}
	want := []Tier{
		{Name: "warm", URL: "s3://b/p?endpoint=https://s3.example", Class: "WARM", Layout: LayoutPlain, KeepLocal: Duration(7 * 24 * time.Hour), Cost: "20"},
		{Name: "cold-nas", URL: "place:nas/tier", Class: "GLACIER", Layout: LayoutPlain, MaxBytes: Size(1 << 40), Cost: "3.99"},
	}
	if diff := cmp.Diff(want, e.Tiers); diff != "" {
		t.Error(diff)
	}
	if c := e.Tiers[1].PerTBMonth(); c != 3.99 {
		t.Errorf("cost %v", c)
	}
	for _, k := range TierKeys() {
		if len(k.Doc) < 20 || k.Type == "" {
			t.Errorf("%s: type %q, manual %q", k.Name, k.Type, k.Doc)
		}
	}
	if e, err = Load(Sources{File: write(t, "tiers:\n  far-away: {url: file:/x}\n")}); err != nil || e.Tiers[0].Class != "FAR_AWAY" {
		t.Errorf("%+v, %v", e, err)
	}
}

func TestWrongTiers(t *testing.T) {
	for text, want := range map[string]string{
		"tiers:\n  a: {}\n":                                                                        `2:3: tiers.a: has no url: give one, such as file:/mnt/nas/tier, or place:NAME`,
		"tiers:\n  a: {url: /x}\n":                                                                 `2:3: tiers.a.url: want a URL such as file:/mnt/nas/tier or s3://bucket/prefix, or place:NAME`,
		"tiers:\n  a: {url: 'sftp://u:hush@h/x'}\n":                                                `2:3: tiers.a.url: has a password, which commands would show: make it one of places, with a credentials file, and give place:NAME`,
		"tiers:\n  a: {url: place:nas}\n":                                                          `2:3: tiers.a.url: there is no place "nas": name one of places`,
		"tiers:\n  standard: {url: file:/x}\n":                                                     `2:3: tiers.standard.class: STANDARD is the class of what is in the data directory: choose another`,
		"tiers:\n  a: {url: file:/x, class: cold}\n":                                               `2:3: tiers.a.class: want capitals, digits and _, 64 at most, not "cold"`,
		"tiers:\n  a: {url: file:/x}\n  A: {url: file:/y}\n":                                       `3:3: tiers.A.class: A is the class of tier a too: give each its own`,
		"tiers:\n  a: {url: file:/x}\n  b: {url: file:/x/}\n":                                      `3:3: tiers.b.url: is the place of tier a too: give each a directory, bucket or prefix of its own`,
		"tiers:\n  a: {url: file:/x, layout: repository}\n":                                        `2:3: tiers.a: layout repository needs password_file or password_command, one of them`,
		"tiers:\n  a: {url: file:/x, layout: repository, password_file: p, password_command: q}\n": `2:3: tiers.a: layout repository needs password_file or password_command, one of them`,
		"tiers:\n  a: {url: file:/x, password_file: p}\n":                                          `2:3: tiers.a: a password is for layout: repository; plain encrypts nothing`,
		"tiers:\n  a: {url: file:/x, layout: fancy}\n":                                             `2:3: tiers.a.layout: want plain or repository, not "fancy"`,
		"tiers:\n  a: {url: file:/x, keep_local: -1h}\n":                                           `2:3: tiers.a.keep_local: must not be negative`,
		"tiers:\n  a: {url: file:/x, cost: cheap}\n":                                               `2:3: tiers.a.cost: want a number, 0 or more, such as 3.99, not "cheap"`,
		"tiers:\n  a: {url: file:/x, cost: NaN}\n":                                                 `2:3: tiers.a.cost: want a number, 0 or more, such as 3.99, not "NaN"`,
		"tiers:\n  a: {url: file:/x, keeplocal: 7d}\n":                                             `2:21: unknown key "tiers.a.keeplocal": did you mean "tiers.a.keep_local"?`,
		"tier:\n  a: {url: file:/x}\n":                                                             `1:1: unknown key "tier": did you mean "tiers"?`,
		"tiers: [a]\n":                                                                             `1:8: tiers: want lines of the form key: value`,
		"tiers:\n  a: {url: 'place:n/x'}\nplaces:\n  m: {url: file:/mnt/nas}\n":                    `2:3: tiers.a.url: there is no place "n": name one of places`,
	} {
		path := write(t, text)
		_, err := Load(Sources{File: path})
		var p Problems
		if !errors.As(err, &p) || len(p) != 1 || strings.TrimPrefix(p.Error(), path+":") != want {
			t.Errorf("%q: %v, want %s", text, err, want)
		}
	}
}
