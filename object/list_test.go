package object

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sort"
	"strings"
	"testing"

	"firn/object/listing"
	"firn/object/record"
	"firn/vfs"
)

// bruteList is what a whole listing must hold: keys and common prefixes, in order.
func bruteList(keys []string, o listing.Options) []string {
	var out []string
	seen := map[string]bool{}
	for _, k := range keys {
		if !strings.HasPrefix(k, o.Prefix) {
			continue
		}
		e := k
		if o.Delimiter != "" {
			if i := strings.Index(k[len(o.Prefix):], o.Delimiter); i >= 0 {
				e = k[:len(o.Prefix)+i+len(o.Delimiter)]
			}
		}
		if e > o.After && !seen[e] {
			seen[e] = true
			out = append(out, e)
		}
	}
	sort.Strings(out)
	return out
}

// pages lists all pages and returns their entries, each page's sorted.
func (f *fixture) pages(bucket string, o listing.Options, list func(context.Context, string, listing.Options) (*listing.Page, error)) []string {
	f.t.Helper()
	var out []string
	for n := 0; ; n++ {
		l, err := list(f.t.Context(), bucket, o)
		if err != nil {
			f.t.Fatal(err)
		}
		page := slices.Clone(l.CommonPrefixes)
		for _, v := range l.Versions {
			page = append(page, v.Key)
			if v.Bucket != bucket || v.Modified.IsZero() || !v.DeleteMarker && len(v.ETag) != 32 {
				f.t.Fatalf("%+v", v)
			}
		}
		sort.Strings(page)
		out = append(out, page...)
		if len(page) > o.Limit || l.Truncated && len(page) != o.Limit || n > 10_000 {
			f.t.Fatalf("page of %d entries, limit %d, truncated %v", len(page), o.Limit, l.Truncated)
		}
		if !l.Truncated {
			if l.NextKey != "" {
				f.t.Fatalf("a last page with a next key %q", l.NextKey)
			}
			return out
		}
		o.After, o.VersionAfter = l.NextKey, l.NextVersion
	}
}

func TestListAgainstBruteForce(t *testing.T) {
	f := newFixture(t, vfs.NewMem(), Options{})
	f.bucket("before", BucketOptions{})
	f.bucket("bucket", BucketOptions{})
	f.bucket("behind", BucketOptions{})
	f.put("before", "zzz", "")
	f.put("behind", "aaa", "")
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 1))
	alphabet := []string{"a", "b", "/", "//", "\x00", "é", "\U0010ffff", "zz"}
	random := func(max int) string {
		var b strings.Builder
		for range 1 + r.IntN(max) {
			b.WriteString(alphabet[r.IntN(len(alphabet))])
		}
		return b.String()
	}
	live := map[string]bool{}
	all := map[string]bool{}
	f.versioning("bucket", record.VersioningEnabled)
	for range 300 {
		k := random(6)
		f.put("bucket", k, k)
		live[k], all[k] = true, true
		if r.IntN(4) == 0 {
			f.delete("bucket", k, "")
			live[k] = false
		}
	}
	var keys, everything []string
	for k := range all {
		everything = append(everything, k)
		if live[k] {
			keys = append(keys, k)
		}
	}
	sort.Strings(keys)
	sort.Strings(everything)
	for range 400 {
		o := listing.Options{Limit: 1 + r.IntN(40)}
		if r.IntN(2) == 0 {
			o.Prefix = random(2)
		}
		if r.IntN(3) > 0 {
			o.Delimiter = []string{"/", "//", "a", "é", "zz/"}[r.IntN(5)]
		}
		if r.IntN(2) == 0 {
			o.After = random(4)
		}
		if got, want := f.pages("bucket", o, f.Store.List), bruteList(keys, o); !slices.Equal(got, want) {
			t.Fatalf("%+v: %q, want %q", o, got, want)
		}
		got := f.pages("bucket", o, f.Store.ListVersions)
		if want := bruteList(everything, o); !slices.Equal(slices.Compact(got), want) {
			t.Fatalf("versions %+v: %q, want %q", o, got, want)
		}
	}
}

func TestListShowsWhatHeadShows(t *testing.T) {
	f := newFixture(t, vfs.NewMem(), Options{})
	f.bucket("bucket", BucketOptions{})
	for i := range 5 {
		body := strings.Repeat("x", i)
		o := PutOptions{Size: int64(i), Owner: fmt.Sprint("o", i/2), StorageClass: fmt.Sprint("C", i/3)}
		if i > 2 {
			o.Checksum = &ChecksumRequest{Algorithm: record.ChecksumCRC32C}
		}
		if _, err := f.Put(t.Context(), "bucket", fmt.Sprint("k", i), strings.NewReader(body), o); err != nil {
			t.Fatal(err)
		}
	}
	l, err := f.List(t.Context(), "bucket", listing.Options{Limit: 1000})
	if err != nil || len(l.Versions) != 5 || l.Truncated {
		t.Fatalf("%+v, %v", l, err)
	}
	for _, v := range l.Versions {
		h, err := f.Head(t.Context(), "bucket", v.Key, "")
		if err != nil {
			t.Fatal(err)
		}
		if v.Size != h.Size || v.ETag != h.ETag || v.Owner != h.Owner || v.StorageClass != h.StorageClass ||
			!v.Modified.Equal(h.Modified) || v.Checksum.Algorithm != h.Checksum.Algorithm || !v.Latest {
			t.Fatalf("%+v, head %+v", v, h)
		}
	}
	if l, err := f.List(t.Context(), "bucket", listing.Options{}); err != nil || l.Truncated || len(l.Versions) != 0 {
		t.Fatalf("limit 0: %+v, %v", l, err)
	}
}

// TestRecycledPagesAreNotMixedUp gives pages back and lists on: what a later page shows is its own.
func TestRecycledPagesAreNotMixedUp(t *testing.T) {
	f := newFixture(t, vfs.NewMem(), Options{})
	f.bucket("bucket", BucketOptions{})
	const rows = 32 // as many as a page has room for at first
	const n = 3*rows + 5
	for i := range n {
		f.put("bucket", fmt.Sprintf("k%03d", i), fmt.Sprint(i))
	}
	var kept []string
	for _, limit := range []int{2 * rows, n, rows + 1, MaxList, 2 * rows} {
		l, err := f.List(t.Context(), "bucket", listing.Options{Limit: limit})
		if err != nil {
			t.Fatal(err)
		}
		want := min(limit, n)
		if len(l.Versions) != want || l.Truncated != (limit < n) {
			t.Fatalf("%d entries of %d, truncated %v", len(l.Versions), want, l.Truncated)
		}
		for i := range l.Versions {
			v := &l.Versions[i]
			if v.Key != fmt.Sprintf("k%03d", i) || v.Size != int64(len(fmt.Sprint(i))) || v.Bucket != "bucket" || len(v.ETag) != 32 || v.ID != "" {
				t.Fatalf("entry %d is %+v", i, v)
			}
			kept = append(kept, v.Key)
		}
		f.Recycle(l)
		for i, key := range kept[len(kept)-want:] {
			if key != fmt.Sprintf("k%03d", i) {
				t.Fatalf("a string changed to %q when its page was given back", key)
			}
		}
	}
}
