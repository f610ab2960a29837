package tier

import (
	"bytes"
	"context"
	"encoding/binary"
	"io"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"firn"
	"firn/blob"
	"firn/blob/driver"
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

// TestOtherLayout: a tier is not taken for one of another layout, and nothing is done to it.
func TestOtherLayout(t *testing.T) {
	layouts(t, func(t *testing.T, layout string) {
		s := newSite(t, layout)
		s.put("bkt", "a", "1")
		s.move("bkt")
		blobs := func() (n int) {
			for _, err := range s.store.List(t.Context(), "") {
				if n++; err != nil {
					t.Fatal(err)
				}
			}
			return n
		}
		was := blobs()
		s.close()
		s.layout = map[string]string{"plain": "repository", "repository": "plain"}[layout]
		s.open()
		err := s.mover.ready(t.Context(), s.set.list[0])
		if firn.KindOf(err) != firn.Conflict || !strings.Contains(err.Error(), `its layout is "`+layout+`"`) {
			t.Error(err)
		}
		if _, err := s.mover.Rebuild(t.Context(), "cold", RebuildOptions{}); firn.KindOf(err) != firn.Conflict {
			t.Error(err)
		}
		if _, err := s.read("bkt", "a", ""); err == nil {
			t.Error("it was read")
		}
		if n := blobs(); n != was {
			t.Errorf("%d blobs became %d", was, n)
		}
		s.close()
		s.layout = layout
		s.open()
		s.want("bkt", "a", "", "1")
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

// serial is a place that is called by one at a time.
type serial struct {
	driver.Driver
	mu sync.Mutex
}

func (s *serial) Put(ctx context.Context, key string, src driver.Source) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.Driver.Put(ctx, key, src)
}

func (s *serial) Get(ctx context.Context, key string, offset, length int64) (io.ReadCloser, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.Driver.Get(ctx, key, offset, length)
}

func (s *serial) Stat(ctx context.Context, key string) (driver.Info, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.Driver.Stat(ctx, key)
}

func (s *serial) Delete(ctx context.Context, key string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.Driver.Delete(ctx, key)
}

func (s *serial) List(ctx context.Context, prefix string, fn func(driver.Info) error) error {
	all, err := s.listed(ctx, prefix)
	for i := 0; i < len(all) && err == nil; i++ {
		err = fn(all[i]) // which may come back here
	}
	return err
}

func (s *serial) listed(ctx context.Context, prefix string) (all []driver.Info, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	err = s.Driver.List(ctx, prefix, func(i driver.Info) error { all = append(all, i); return nil })
	return all, err
}
