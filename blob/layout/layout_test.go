package layout

import (
	"context"
	"path"
	"slices"
	"strings"
	"testing"

	"firn/blob"
	"firn/blob/driver"
)

func FuzzName(f *testing.F) {
	for _, s := range []string{"a", ".", "..", ".firn-x", "%", "a%2Fb", strings.Repeat("é", 200), strings.Repeat("x", 80), "日/本"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, key string) {
		if piece, _, ok := DecodeName(key); ok && key != noRest && piece == "" {
			t.Errorf("%q is taken for the name of nothing", key)
		}
		if blob.CheckKey(key) != nil {
			return
		}
		var back strings.Builder
		names := strings.Split(EncodeKey(key), "/")
		for i, name := range names {
			piece, goesOn, ok := DecodeName(name)
			if !ok || len(name) > 255 || strings.HasPrefix(name, ".firn-") || strings.HasPrefix(name, ".nfs") {
				t.Fatalf("%q has the file name %q", key, name)
			}
			back.WriteString(piece)
			if !goesOn && i < len(names)-1 {
				back.WriteByte('/')
			}
		}
		if back.String() != key {
			t.Errorf("%q comes back as %q", key, back.String())
		}
	})
}

// tree is a file system of names alone.
type tree []string

func (tr tree) read(_ context.Context, dir string) ([]Entry, error) {
	seen := map[string]Entry{}
	for _, p := range tr {
		rest, ok := strings.CutPrefix(p, dir+"/")
		if dir == "" {
			rest, ok = p, true
		}
		if !ok {
			continue
		}
		name, _, below := strings.Cut(rest, "/")
		seen[name] = Entry{Name: name, Dir: below}
	}
	var all []Entry
	for _, e := range seen {
		all = append(all, e)
	}
	return all, nil
}

func TestWalk(t *testing.T) {
	long := strings.Repeat("l", 80)
	keys := []string{"a/b", "a.b", "a0", "a-", "b/c/d", "b/c.d", "b/c/e", long + "x", long + "/x", long + "!", strings.Repeat("m", 80), "%"}
	tr := tree{Marker, Temp + "/left", "other%file", ".nfs0001"}
	for _, key := range keys {
		tr = append(tr, EncodeKey(key))
	}
	slices.Sort(keys)
	for _, prefix := range []string{"", "a", "a/", "b/c", "b/c/", "b/c/d", "z", "/", "a//", long[:79], long, long + "/", long + "x"} {
		var got, want []string
		err := Walk(t.Context(), prefix, tr.read, func(info driver.Info) error {
			got = append(got, info.Key)
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		for _, key := range keys {
			if strings.HasPrefix(key, prefix) {
				want = append(want, key)
			}
		}
		if !slices.Equal(got, want) {
			t.Errorf("walk %q shows %q, want %q", prefix, got, want)
		}
	}
	if Join("", "a") != "a" || Join("a/b", "c") != path.Join("a/b", "c") {
		t.Error("Join is wrong")
	}
}
