package plain

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"firn"
	"firn/blob"
	"firn/blob/memblob"
)

func entry(i int) Entry {
	return Entry{Bucket: "b", Key: fmt.Sprintf("k%d", i), Version: "null", Size: int64(i), Blob: "objects/b/k", Record: []byte{byte(i)}}
}

func keys(t *testing.T, store *blob.Store) (list []string, err error) {
	t.Helper()
	err = ReadCatalogue(t.Context(), store, func(e Entry) error {
		list = append(list, e.Key)
		return nil
	})
	return list, err
}

func mustKeys(t *testing.T, store *blob.Store, want ...string) {
	t.Helper()
	if got, err := keys(t, store); err != nil || !slices.Equal(got, want) {
		t.Fatalf("the catalogue has %v, %v; want %v", got, err, want)
	}
}

func open(t *testing.T, store *blob.Store) *Catalogue {
	t.Helper()
	c, err := OpenCatalogue(t.Context(), store, "site")
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestCatalogue(t *testing.T) {
	store := blob.New(memblob.New(memblob.Options{}), "mem:")
	ctx := t.Context()
	if _, err := keys(t, store); firn.KindOf(err) != firn.NotFound {
		t.Fatalf("no catalogue: %v", err)
	}
	c := open(t, store)
	if err := c.Append(ctx, 7, []Entry{entry(1), entry(2)}); err != nil {
		t.Fatal(err)
	}
	c = open(t, store)
	if c.Journal() != 7 || c.Segments() != 1 {
		t.Errorf("journal %d, %d segments", c.Journal(), c.Segments())
	}
	if err := c.Append(ctx, 9, []Entry{entry(3)}); err != nil {
		t.Fatal(err)
	}
	mustKeys(t, store, "k1", "k2", "k3")

	// One that is cut off leaves the old one in force, and what it wrote is true.
	cut := errors.New("cut")
	err := c.Rewrite(ctx, 10, func(add func(Entry) error) error {
		big := entry(4)
		big.Record = make([]byte, segmentTo)
		return errors.Join(add(big), add(entry(5)), cut)
	})
	if !errors.Is(err, cut) {
		t.Fatal(err)
	}
	mustKeys(t, store, "k1", "k2", "k3", "k4")

	c = open(t, store)
	if c.Journal() != 9 {
		t.Errorf("journal %d after one that was cut off: what happened before it is not told", c.Journal())
	}
	for _, n := range []int{3, 1} { // in several segments, in one
		if err := c.Rewrite(ctx, 20, func(add func(Entry) error) error {
			for i := range n {
				e := entry(i)
				if n > 1 {
					e.Record = make([]byte, segmentTo)
				}
				if err := add(e); err != nil {
					return err
				}
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		want := []string{"k0", "k1", "k2"}[:n]
		mustKeys(t, store, want...)
		if c.Segments() != n || c.Journal() != 20 {
			t.Errorf("%d segments, journal %d", c.Segments(), c.Journal())
		}
		if err := c.Append(ctx, 0, []Entry{entry(9)}); err != nil {
			t.Fatal(err)
		}
		mustKeys(t, store, append(want, "k9")...)
		if got := open(t, store).Journal(); got != 20 {
			t.Errorf("journal %d", got)
		}
	}

	// What is missing or damaged is named.
	numbers, err := segments(ctx, store)
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range numbers {
		key := segmentKey(n)
		whole, err := store.ReadAll(ctx, key, maxSegment)
		if err != nil {
			t.Fatal(err)
		}
		refused := func(what string) {
			t.Helper()
			if _, err := keys(t, store); firn.KindOf(err) != firn.Corrupt || !strings.Contains(err.Error(), cataloguePrefix) {
				t.Errorf("%s %s: %v", key, what, err)
			}
		}
		for _, at := range []int{len(whole) / 2, len(whole) - 1} {
			p := slices.Clone(whole)
			p[at] ^= 4
			put(ctx, t, store, key, p)
			refused(fmt.Sprint("flipped at ", at))
			put(ctx, t, store, key, whole[:at])
			refused(fmt.Sprint("cut at ", at))
		}
		if n != numbers[len(numbers)-1] { // that the last one is gone nobody can tell
			if err := store.Delete(ctx, key); err != nil {
				t.Fatal(err)
			}
			refused("missing")
		}
		put(ctx, t, store, key, whole)
		if _, err := keys(t, store); err != nil {
			t.Fatal(err)
		}
	}
}

func put(ctx context.Context, t *testing.T, store *blob.Store, key string, p []byte) {
	t.Helper()
	if err := store.PutBytes(ctx, key, p); err != nil {
		t.Fatal(err)
	}
}
