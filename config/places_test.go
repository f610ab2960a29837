package config

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestPlaces(t *testing.T) {
	e, err := Load(Sources{File: write(t, `
places:
  nas: {url: file:/mnt/nas}
  cloud_2:
    url: s3://bucket/prefix?endpoint=https://s3.example
    credentials: /etc/firn/cloud
    retry: false
    upload_rate: 20MiB/s
    download_rate: 1MiB/s
    encrypt: true
  both:
    mirror: [nas, cloud_2]
    mirror_writes: 2
    cache: {dir: /var/cache/firn, size: 1GiB}
`)})
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]Place{
		"nas": {URL: "file:/mnt/nas", Retry: true},
		"cloud_2": {
			URL: "s3://bucket/prefix?endpoint=https://s3.example", Credentials: "/etc/firn/cloud",
			UploadRate: Rate(20 * mib), DownloadRate: Rate(mib), Encrypt: true,
		},
		"both": {
			Mirror: []string{"nas", "cloud_2"}, MirrorWrites: 2, Cache: Cache{Dir: "/var/cache/firn", Size: Size(1024 * mib)}, Retry: true,
		},
	}
	if diff := cmp.Diff(want, e.Places); diff != "" {
		t.Error(diff)
	}
	for _, k := range PlaceKeys() {
		if len(k.Doc) < 20 || k.Type == "" {
			t.Errorf("%s: type %q, manual %q", k.Name, k.Type, k.Doc)
		}
	}
}

func TestWrongPlaces(t *testing.T) {
	for text, want := range map[string]string{
		"places: x\n":                                                                                  `1:9: places: want lines of the form key: value`,
		"places:\n  a b: {url: file:/x}\n":                                                             `2:3: places: want a name of letters, digits, - and _ for each place`,
		"places:\n  a: {}\n":                                                                           `2:3: places.a: has no url: give one, such as file:/srv/backups`,
		"places:\n  a: {ulr: file:/x, url: file:/x}\n":                                                 `2:7: unknown key "places.a.ulr": did you mean "places.a.url"?`,
		"places:\n  a: {url: /x}\n":                                                                    `2:3: places.a.url: want a URL such as file:/srv/backups or s3://bucket/prefix`,
		"places:\n  a: {url: 'sftp://u:hush@h/x'}\n":                                                   `2:3: places.a.url: has a password, which commands would show: put it into the credentials file`,
		"places:\n  a: {url: place:b}\n":                                                               `2:3: places.a.url: a place cannot stand for another`,
		"places:\n  a: {url: file:/x, encrypt: true}\n":                                                `2:3: places.a.encrypt: needs a credentials file with encryption_password`,
		"places:\n  a: {url: file:/x, retry: often}\n":                                                 `2:28: places.a.retry: want true or false, not "often"`,
		"places:\n  a: {url: file:/x, upload_rate: -1}\n":                                              `2:34: places.a.upload_rate: want a rate such as 4MiB/s, or 0, not "-1"`,
		"places:\n  a: {url: file:/x, url: file:/y}\n":                                                 `2:21: mapping key "url" already defined at [2:7]`,
		"places:\n  a: {url: file:/x}\n  m: {mirror: [a, b]}\n":                                        `3:3: places.m.mirror: there is no place "b": name places of the configuration`,
		"places:\n  a: {url: file:/x}\n  m: {mirror: [a]}\n":                                           `3:3: places.m.mirror: want the names of two places or more, each once`,
		"places:\n  a: {url: file:/x}\n  m: {mirror: [a, a]}\n":                                        `3:3: places.m.mirror: want the names of two places or more, each once`,
		"places:\n  a: {url: file:/x}\n  m: {mirror: [a, m]}\n":                                        `3:3: places.m.mirror: contains itself: a mirror is of other places`,
		"places:\n  a: {url: file:/x}\n  b: {url: file:/y}\n  m: {url: file:/z, mirror: [a, b]}\n":     `4:3: places.m: has url and mirror: give one of them`,
		"places:\n  a: {url: file:/x}\n  b: {url: file:/y}\n  m: {mirror_writes: 3, mirror: [a, b]}\n": `4:3: places.m.mirror_writes: want 2 to the number of places in mirror, or 0 for all`,
		"places:\n  a: {url: file:/x, cache: {dir: /c}}\n":                                             `2:3: places.a.cache: needs dir, and size of 2MiB or more`,
		"places:\n  a: {url: file:/x, cache: {dri: /c}}\n":                                             `2:29: unknown key "places.a.cache.dri": did you mean "places.a.cache.dir"?`,
		"places:\n  a: {url: file:/x, cache: /c}\n":                                                    `2:28: places.a.cache: want lines of the form key: value`,
		"place:\n  a: {url: file:/x}\n":                                                                `1:1: unknown key "place": did you mean "places"?`,
	} {
		path := write(t, text)
		_, err := Load(Sources{File: path})
		var p Problems
		if !errors.As(err, &p) || len(p) != 1 || strings.TrimPrefix(p.Error(), path+":") != want {
			t.Errorf("%q: %v, want %s", text, err, want)
		}
	}
}
