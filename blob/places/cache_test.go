package places

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"firn"
	"firn/blob"
)

const hash = "3f3f3f3f3f3f3f3f3f3f3f3f3f3f3f3f3f3f3f3f3f3f3f3f3f3f3f3f3f3f3f3f"

func TestImmutable(t *testing.T) {
	for key, want := range map[string]bool{
		"packs/3f/" + hash: true, "index/" + hash: true, "below/this/packs/3f/" + hash: true, "packs/index/" + hash: true,
		"": false, "config": false, hash: false, "packs/" + hash + "/x": false, "packs": false, "index/": false,
		"snapshots/" + hash: false, "sessions/" + hash: false, "keys/" + hash: false, "xpacks/" + hash: false,
		"index/latest": false, "packs/" + hash[1:]: false, "packs/" + hash + "00": false, "packs/" + strings.Repeat("zz", 32): false,
	} {
		if got := immutable(key); got != want {
			t.Errorf("%q: %t", key, got)
		}
	}
}

// TestCache changes blobs behind a cache, as another host does.
func TestCache(t *testing.T) {
	dir, cacheDir := t.TempDir(), t.TempDir()
	ctx := t.Context()
	o := Opener{Named: map[string]Place{
		"plain": {URL: "file:" + dir}, "cached": {URL: "file:" + dir, CacheDir: cacheDir, CacheSize: 8 << 20},
	}}
	open := func(url string) *blob.Store {
		t.Helper()
		s, err := o.Init(ctx, url)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := s.Close(); err != nil {
				t.Error(err)
			}
		})
		return s
	}
	other, s := open("place:plain/repo"), open("place:cached/repo")
	second := open("place:cached/repo") // goes without, the directory being in use
	put := func(key, content string) {
		t.Helper()
		if err := other.PutBytes(ctx, key, []byte(content)); err != nil {
			t.Fatal(err)
		}
	}
	read := func(s *blob.Store, key, want string) {
		t.Helper()
		if p, err := s.ReadAll(ctx, key, 10); string(p) != want || err != nil {
			t.Errorf("%s: %q, %v, want %q", key, p, err, want)
		}
	}
	pack := "packs/3f/" + hash
	changing := []string{"config", "snapshots/" + hash, "sessions/" + hash, "index/latest"}
	put(pack, "pack")
	read(s, pack, "pack")
	for _, key := range changing {
		put(key, "one")
		read(s, key, "one")
		put(key, "two") // of the same size, at nearly the same time
		read(s, key, "two")
		read(second, key, "two")
		if err := other.Delete(ctx, key); err != nil {
			t.Fatal(err)
		}
		if _, err := s.ReadAll(ctx, key, 10); firn.KindOf(err) != firn.NotFound {
			t.Errorf("%s, which another host removed: %v", key, err)
		}
	}
	// Only the pack is there without the place.
	if err := os.RemoveAll(filepath.Join(dir, "repo")); err != nil {
		t.Fatal(err)
	}
	read(s, pack, "pack")
	if _, err := second.ReadAll(ctx, pack, 10); err == nil {
		t.Error("a place without cache has what is not there")
	}
	// Own changes are seen.
	if err := s.PutBytes(ctx, pack, []byte("again")); err != nil {
		t.Fatal(err)
	}
	read(s, pack, "again")
	if err := s.Delete(ctx, pack); err != nil {
		t.Fatal(err)
	}
	if _, err := s.ReadAll(ctx, pack, 10); firn.KindOf(err) != firn.NotFound {
		t.Errorf("deleted: %v", err)
	}
}
