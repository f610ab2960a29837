package plain

import (
	"slices"
	"strings"
	"testing"
	"time"

	"firn/blob"
)

func TestNames(t *testing.T) {
	for _, c := range []struct {
		key, id string
		want    []string
	}{
		{"a/b.txt", "null", []string{"objects/bkt/a/b.txt", "objects/bkt/a/b.txt%~000000000000002a"}},
		{"a/b.txt", "v1", []string{"objects/bkt/a/b.txt%~000000000000002a", "objects/bkt/a/b.txt%~000000000000002a-1f"}},
		{"/a//../.", "null", []string{"objects/bkt/%-/a/%-/%2E%2E/%2E"}},
		{"50%\\\x01\u0085é", "null", []string{"objects/bkt/50%25%5C%01%C2%85é"}},
	} {
		got := Names("bkt", c.key, c.id, 42, time.UnixMilli(0x1f))
		for i, want := range c.want {
			if got[i] != want {
				t.Errorf("%q: %q, want %q", c.key, got[i], want)
			}
		}
	}
	for _, key := range []string{strings.Repeat("a", 201), strings.Repeat("ab/", 300)} {
		if got := Names("bkt", key, "null", 1, time.UnixMilli(1)); len(got) != 2 || !strings.HasPrefix(got[0], "objects/bkt/%long/") {
			t.Errorf("a long key: %q", got)
		}
	}
}

// FuzzNames holds that every place takes the names, and that two keys never share one.
func FuzzNames(f *testing.F) {
	f.Add("a/b", "a%2Fb")
	f.Add("%-", "")
	f.Add("a//b", "a/%-/b")
	f.Add("..", "%2E%2E")
	f.Add("x%~0000000000000001", "x")
	f.Fuzz(func(t *testing.T, a, b string) {
		names := func(key string) []string { return Names("bkt", key, "null", 1, time.UnixMilli(1)) }
		for _, n := range names(a) {
			if err := blob.CheckKey(n); err != nil {
				t.Fatalf("%q: %v", n, err)
			}
			if a != b && slices.Contains(names(b), n) {
				t.Fatalf("%q and %q share %q", a, b, n)
			}
		}
	})
}
