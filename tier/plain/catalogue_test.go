package plain

import (
	"bytes"
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
		big.ETag = strings.Repeat("x", segmentTo)
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
					e.ETag = strings.Repeat("x", segmentTo)
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

// TestLongRecords: a record of any length is kept, one that is damaged is told, and what no segment names goes.
func TestLongRecords(t *testing.T) {
	store := blob.New(memblob.New(memblob.Options{}), "mem:")
	ctx := t.Context()
	c := open(t, store)
	// Check data of a version of 300 GB, and more of those of a few GB than go into one segment.
	var list []Entry
	for i, n := range []int{300, longRecord - 1, longRecord, 20 << 20} {
		e := entry(i)
		e.Record = bytes.Repeat([]byte{byte(i + 1)}, n)
		list = append(list, e)
	}
	for i := range 300 {
		e := entry(10 + i)
		e.Record = bytes.Repeat([]byte{byte(i)}, longRecord-1)
		list = append(list, e)
	}
	records := func() (names []string) {
		for info, err := range store.List(ctx, recordPrefix) {
			if err != nil {
				t.Fatal(err)
			}
			names = append(names, info.Key)
		}
		return names
	}
	same := func(want []Entry) {
		t.Helper()
		i := 0
		if err := ReadCatalogue(ctx, store, func(e Entry) error {
			p, err := LoadRecord(ctx, store, &e)
			if err != nil || e.Key != want[i].Key || !bytes.Equal(p, want[i].Record) {
				t.Errorf("%s: %d bytes, %v; want %s, %d", e.Key, len(p), err, want[i].Key, len(want[i].Record))
			}
			i++
			return nil
		}); err != nil || i != len(want) {
			t.Errorf("%d entries, %v; want %d", i, err, len(want))
		}
	}
	if err := c.Append(ctx, 7, list); err != nil {
		t.Fatal(err)
	}
	same(list)
	if n := len(records()); n != 2 {
		t.Errorf("%d records", n)
	}
	if c = open(t, store); c.Journal() != 7 || c.Segments() < 3 {
		t.Errorf("journal %d, %d segments", c.Journal(), c.Segments())
	}
	// Anew, and without the longest.
	list = slices.Delete(list, 3, 4)
	if err := c.Rewrite(ctx, 8, func(add func(Entry) error) error {
		for _, e := range list {
			if err := add(e); err != nil {
				return err
			}
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	same(list)
	if n := len(records()); n != 1 {
		t.Errorf("%d records after the catalogue was written anew", n)
	}
	put(ctx, t, store, records()[0], []byte("x"))
	if err := ReadCatalogue(ctx, store, func(e Entry) error {
		_, err := LoadRecord(ctx, store, &e)
		return err
	}); firn.KindOf(err) != firn.Corrupt || !strings.Contains(err.Error(), records()[0]) {
		t.Errorf("a damaged record: %v", err)
	}
	if _, err := LoadRecord(ctx, store, &Entry{RecordBlob: "objects/b/k"}); firn.KindOf(err) != firn.Corrupt {
		t.Errorf("a record elsewhere: %v", err)
	}
}

// TestLost: only where no segment can be read is all of it lost, whatever those that can say of the journal.
func TestLost(t *testing.T) {
	ctx := t.Context()
	store := blob.New(memblob.New(memblob.Options{}), "mem:")
	c := open(t, store)
	for i := range 2 {
		if err := c.Append(ctx, 0, []Entry{entry(i)}); err != nil {
			t.Fatal(err)
		}
	}
	for _, n := range []uint64{2, 1} {
		put(ctx, t, store, segmentKey(n), []byte("damaged"))
		if c := open(t, store); !c.Damaged() || c.Lost() != (n == 1) {
			t.Errorf("after segment %d: damaged %v, lost %v", n, c.Damaged(), c.Lost())
		}
	}
	if c := open(t, blob.New(memblob.New(memblob.Options{}), "mem:")); c.Damaged() || c.Lost() {
		t.Error("an empty one is lost")
	}
}
