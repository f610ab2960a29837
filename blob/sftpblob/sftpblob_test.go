package sftpblob

import (
	"net/url"
	"strings"
	"testing"

	"firn"
)

func TestFromURL(t *testing.T) {
	u, err := url.Parse("sftp://me@host:2222/a/b/?key=/k1&key=/k2&known_hosts=/kh")
	if err != nil {
		t.Fatal(err)
	}
	opt, err := FromURL(u)
	if err != nil {
		t.Fatal(err)
	}
	if opt.Host != "host" || opt.Port != 2222 || opt.User != "me" || opt.Root != "/a/b" || len(opt.KeyFiles) != 2 ||
		len(opt.KnownHosts) != 1 || opt.KnownHosts[0] != "/kh" {
		t.Errorf("%+v", opt)
	}
	for _, text := range []string{
		"sftp:///path", "sftp://host", "sftp://me:hunter2secret@host/path", "sftp://host/path?password=hunter2secret",
		"sftp://host:0x/path", "sftp://host:99999/path", "ftp://host/path",
	} {
		u, err := url.Parse(text)
		if err != nil {
			continue // nor does it come to FromURL
		}
		if _, err = FromURL(u); firn.KindOf(err) != firn.Invalid || strings.Contains(err.Error(), "hunter2secret") {
			t.Errorf("%s: %v, want firn.Invalid without a secret", text, err)
		}
	}
}
