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
		"places: x\n":                                     `1:9: places: want lines of the form key: value`,
		"places:\n  a b: {url: file:/x}\n":                `2:3: places: want a name of letters, digits, - and _ for each place`,
		"places:\n  a: {}\n":                              `2:3: places.a: has no url: give one, such as file:/srv/backups`,
		"places:\n  a: {ulr: file:/x, url: file:/x}\n":    `2:7: unknown key "places.a.ulr": did you mean "places.a.url"?`,
		"places:\n  a: {url: /x}\n":                       `2:3: places.a.url: want a URL such as file:/srv/backups or s3://bucket/prefix`,
		"places:\n  a: {url: 'sftp://u:hush@h/x'}\n":      `2:3: places.a.url: has a password, which commands would show: put it into the credentials file`,
		"places:\n  a: {url: place:b}\n":                  `2:3: places.a.url: a place cannot stand for another`,
		"places:\n  a: {url: file:/x, encrypt: true}\n":   `2:3: places.a.encrypt: needs a credentials file with encryption_password`,
		"places:\n  a: {url: file:/x, retry: often}\n":    `2:28: places.a.retry: want true or false, not "often"`,
		"places:\n  a: {url: file:/x, upload_rate: -1}\n": `2:34: places.a.upload_rate: want a rate such as 4MiB/s, or 0, not "-1"`,
		"places:\n  a: {url: file:/x, url: file:/y}\n":    `2:21: mapping key "url" already defined at [2:7]`,
		"place:\n  a: {url: file:/x}\n":                   `1:1: unknown key "place": did you mean "places"?`,
	} {
		path := write(t, text)
		_, err := Load(Sources{File: path})
		var p Problems
		if !errors.As(err, &p) || len(p) != 1 || strings.TrimPrefix(p.Error(), path+":") != want {
			t.Errorf("%q: %v, want %s", text, err, want)
		}
	}
}
