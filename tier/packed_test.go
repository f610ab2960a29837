package tier

import (
	"bytes"
	"context"
	"encoding/binary"
	"slices"
	"testing"
	"time"

	"firn/blob"
	"firn/blob/wrap/prefix"
	"firn/chunk"
	"firn/repo"
	"firn/seal"
	"firn/tier/packed"
)

const password = "a password"

// newPacked is a content in the layout repository, with small chunks and packs.
func newPacked(store *blob.Store, now func() time.Time) *packed.Store {
	return packed.New(store, packed.Options{
		Password: func(context.Context) ([]byte, error) { return []byte(password), nil },
		Now:      now, SessionTimeout: 20 * time.Millisecond,
		Init: repo.InitOptions{
			Sizes: chunk.Sizes{Min: 4 << 10, Mean: 20 << 10, Max: 64 << 10}, PackSize: 1 << 20, Reserve: -1,
			Cost: seal.Cost{Memory: 8 << 10, Time: 1, Threads: 1},
		},
	})
}

// sealed is what the names of the catalogue begin with.
func (s *site) sealed() string {
	if s.layout == "repository" {
		return "sealed/"
	}
	return ""
}

// packedNames are the names that the snapshots on a place in the layout repository have.
func packedNames(t *testing.T, store *blob.Store) (names []string) {
	t.Helper()
	d, err := prefix.New(store.Driver(), "repo")
	if err != nil {
		t.Fatal(err)
	}
	r, err := repo.Open(t.Context(), blob.New(d, "mem:"), []byte(password), repo.Options{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	list, err := r.Snapshots(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range list {
		p, err := r.Load(t.Context(), s.Root, nil)
		if err != nil {
			t.Fatal(err)
		}
		roster, err := repo.ParseTree(p)
		if err != nil {
			t.Fatal(err)
		}
		rest := bytes.NewReader(roster.Payload[1:])
		for _, root := range roster.Trees {
			n, err := binary.ReadUvarint(rest)
			if err != nil {
				t.Fatal(err)
			}
			name := make([]byte, n)
			if _, err := rest.Read(name); err != nil {
				t.Fatal(err)
			}
			names = append(names, string(name)+"%@"+root.String())
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}
