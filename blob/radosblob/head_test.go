package radosblob

import (
	"context"
	"net/url"
	"testing"
	"time"

	"firn"
)

func TestHead(t *testing.T) {
	h := head{piece: 4 << 20, size: 9 << 20, modified: time.Unix(1, 2), gen: generation{1, 2, 3}}
	b := h.encode()
	got, err := parseHead(b)
	if err != nil || got.size != h.size || got.gen != h.gen || !got.modified.Equal(h.modified) || got.pieces() != 3 {
		t.Errorf("a head reads back as %+v, %v", got, err)
	}
	for i := range b {
		b[i] ^= 1
		if _, err := parseHead(b); err == nil {
			t.Errorf("a head with byte %d changed is taken", i)
		}
		b[i] ^= 1
	}
	if pieces, swept, key, ok := parseNote(encodeNote(7, true, "a/b")); pieces != 7 || !swept || key != "a/b" || !ok {
		t.Errorf("a note reads back as %d, %t, %q, %t", pieces, swept, key, ok)
	}
	if h.gen.String() != "01020300000000000000000000000000" {
		t.Errorf("a generation is written as %s", h.gen)
	}
}

func FuzzHead(f *testing.F) {
	f.Add(head{piece: 1 << 20, size: 5}.encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		h, err := parseHead(b)
		if err == nil && (h.size < 0 || h.pieces() < 0) {
			t.Errorf("%x is a head of %d bytes and %d pieces", b, h.size, h.pieces())
		}
		if n, _, _, ok := parseNote(b); ok && n < 0 {
			t.Errorf("%x is a note of %d pieces", b, n)
		}
	})
}

func TestFromURL(t *testing.T) {
	u, err := url.Parse("rados://pool/a/b?conf=/x/ceph.conf&user=client.y&namespace=n")
	if err != nil {
		t.Fatal(err)
	}
	opt, err := FromURL(u)
	if err != nil || opt.Pool != "pool" || opt.Prefix != "a/b" || opt.ConfigFile != "/x/ceph.conf" || opt.User != "client.y" ||
		opt.Namespace != "n" {
		t.Errorf("got %+v, %v", opt, err)
	}
	for _, s := range []string{"rados:///x", "s3://a/b", "rados://u:p@pool/x", "rados://pool/x?other=1", "rados://pool/x?conf=rel"} {
		u, err := url.Parse(s)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := FromURL(u); firn.KindOf(err) != firn.Invalid {
			t.Errorf("%s: %v, want invalid", s, err)
		}
	}
	if _, err := New(context.Background(), Options{}); firn.KindOf(err) != firn.Invalid {
		t.Errorf("no pool: %v, want invalid", err)
	}
}
