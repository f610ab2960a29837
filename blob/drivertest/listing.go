package drivertest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"golang.org/x/sync/errgroup"

	"firn/blob"
	"firn/blob/driver"
)

func (s *suite) list(t *testing.T) {
	d := s.fresh(t)
	// In byte order "-" and "." come before "/", and "0" after it: a walk of directories gets these wrong.
	keys := []string{
		"a-b/x", "a.b", "a/b", "a/b-c/x", "a/b.c", "a/c/d", "a/c/e", "a0", "ab", "a!/1", "a!b", "A", "a\u00e9", "b", "b%", "b%2f",
		"zz/zz/zz", "z/y", "z-/y", "zé/x", "z\U0001f3d4/x", "z\ufffd/x",
	}
	for i, key := range keys {
		put(t, d, key, make([]byte, i))
	}
	sorted := slices.Sorted(slices.Values(keys))
	for _, prefix := range []string{
		"", "a", "a/", "a/b", "a/b-", "a/b/", "a-", "a!", "a0", "a0/", "b%", "b%2", "z", "z/", "zz", "zz/z", "zz/zz/zz", "zz/zz/zzz",
		"é", "z\xc3", "A", "none", "/", "a//", "a/../a", "%", "*", "_", "a_", ".", "\\", "'",
	} {
		var with []string
		for _, key := range sorted {
			if strings.HasPrefix(key, prefix) {
				with = append(with, key)
			}
		}
		wantKeys(t, d, prefix, with...)
	}
	err := d.List(t.Context(), "", func(info driver.Info) error {
		if i := slices.Index(keys, info.Key); int64(i) != info.Size {
			t.Errorf("%q is listed with %d bytes, want %d", info.Key, info.Size, i)
		}
		near(t, info)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	// The callback's error ends the listing and is returned.
	stop, n := errors.New("enough"), 0
	err = d.List(t.Context(), "", func(driver.Info) error {
		if n++; n == 3 {
			return stop
		}
		return nil
	})
	if !errors.Is(err, stop) || n != 3 {
		t.Errorf("a listing stopped at the third blob went on to number %d and returned %v", n, err)
	}
	// The callback may use the driver, as a loop does that deletes what it sees.
	seen := 0
	err = d.List(t.Context(), "a", func(info driver.Info) error {
		seen++
		if _, err := read(t.Context(), d, info.Key, 0, -1); err != nil {
			return err
		}
		return d.Delete(t.Context(), info.Key)
	})
	if err != nil || seen != 12 {
		t.Errorf("a listing that deletes what it sees: %d blobs, %v, want 12", seen, err)
	}
	wantKeys(t, d, "a")
}

// listPages lists more blobs than a backend gives at once, alone and while others come and go.
func (s *suite) listPages(t *testing.T) {
	d := s.fresh(t)
	var keys []string
	for i := range s.blobs {
		keys = append(keys, fmt.Sprintf("p%02d/%05d", i*31/s.blobs, i))
	}
	g, ctx := errgroup.WithContext(t.Context())
	g.SetLimit(s.clients)
	for i, key := range keys {
		g.Go(func() error { return d.Put(ctx, key, blob.Bytes(text("%d", i))) })
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	wantKeys(t, d, "", keys...)
	wantKeys(t, d, "p1", keysWith(keys, "p1")...)
	wantKeys(t, d, "p05/", keysWith(keys, "p05/")...)

	// What was there the whole time is shown exactly once, whatever comes and goes around it.
	ctx, cancel := context.WithCancel(t.Context())
	var lists atomic.Int64
	g = new(errgroup.Group)
	for w := range 2 {
		g.Go(func() error {
			for i := 0; ctx.Err() == nil || i < 10; i++ {
				key := fmt.Sprintf("p%02d/%05d-%d", i%31, (i*37)%s.blobs, w)
				if err := d.Put(t.Context(), key, blob.Bytes([]byte(key))); err != nil {
					return err
				}
				if err := d.Delete(t.Context(), key); err != nil {
					return err
				}
			}
			return nil
		})
	}
	for lists.Add(1) <= 3 {
		got := slices.DeleteFunc(keysOf(t, d, ""), func(k string) bool { return strings.Contains(k, "-") })
		if !slices.Equal(got, keys) {
			t.Errorf("while others came and went, %d blobs were listed of the %d that stayed", len(got), len(keys))
		}
	}
	cancel()
	if err := g.Wait(); err != nil {
		t.Errorf("beside listings: %v", err)
	}
	wantKeys(t, d, "", keys...)
}

func keysWith(keys []string, prefix string) []string {
	return slices.DeleteFunc(slices.Clone(keys), func(k string) bool { return !strings.HasPrefix(k, prefix) })
}
