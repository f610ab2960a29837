package repo

import (
	"bytes"
	"testing"

	"firn"
	"firn/blob"
	"firn/blob/memblob"
	"firn/seal"
)

// TestDistrust: a chunk of a pack that is not trusted is stored again, read from where it is right, and kept by a prune.
func TestDistrust(t *testing.T) {
	ctx := t.Context()
	store := blob.New(memblob.New(memblob.Options{}), "mem:")
	r, err := Init(ctx, store, []byte("p"), InitOptions{})
	if err != nil {
		t.Fatal(err)
	}
	save := func() (data ID) {
		t.Helper()
		s, err := r.NewSession(ctx, SessionOptions{})
		if err != nil {
			t.Fatal(err)
		}
		data, _, err = s.Save(ctx, Data, []byte("content"))
		if err != nil {
			t.Fatal(err)
		}
		root, _, err := s.Save(ctx, Tree, EncodeTree(nil, TreeChunk{Data: []ID{data}}))
		if err == nil {
			_, err = s.Commit(ctx, Snapshot{Root: root})
		}
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	id := save()
	if err := r.Present(ctx, []ID{id}); err != nil {
		t.Error(err)
	}
	var pack string
	for _, p := range r.idx.usablePacks(id) {
		pack = packKey(p)
	}
	if err := store.PutBytes(ctx, pack, []byte("spoiled")); err != nil {
		t.Fatal(err)
	}
	if save(); firn.KindOf(readErr(t, r, id)) != firn.Corrupt {
		t.Error("a chunk that is known was stored again")
	}
	if err := r.Distrust(ctx, id, ID{9}); err != nil {
		t.Fatal(err)
	}
	save()
	if err := readErr(t, r, id); err != nil {
		t.Error(err)
	}
	if _, err := r.Prune(ctx, PruneOptions{}); err != nil {
		t.Fatal(err)
	}
	if ok, err := store.Exists(ctx, pack); ok || err != nil {
		t.Errorf("the pack is there: %v, %v", ok, err)
	}
	other, err := Open(ctx, store, []byte("p"), Options{})
	if err != nil {
		t.Fatal(err)
	}
	if p, err := other.Load(ctx, id, nil); !bytes.Equal(p, []byte("content")) || err != nil {
		t.Errorf("%q, %v", p, err)
	}
	for _, p := range r.idx.usablePacks(id) {
		if err := store.Delete(ctx, packKey(p)); err != nil {
			t.Fatal(err)
		}
	}
	for name, id := range map[string]ID{"gone": id, "never there": {9}} {
		if err := r.Present(ctx, []ID{id}); firn.KindOf(err) != firn.NotFound {
			t.Errorf("%s: %v", name, err)
		}
	}
	if a, b := r.Derive("a"), other.Derive("a"); a != b || a == r.Derive("b") {
		t.Error("keys for what is kept beside it")
	}
}

func readErr(t *testing.T, r *Repo, id ID) error {
	t.Helper()
	_, err := r.Load(t.Context(), id, nil)
	return err
}

// TestPruneReadsTreesThatAreTrusted: a tree that is in a pack that is not trusted, too, is read from the other one.
func TestPruneReadsTreesThatAreTrusted(t *testing.T) {
	ctx := t.Context()
	for range 8 { // which of them would come first is by chance
		store := blob.New(memblob.New(memblob.Options{}), "mem:")
		r, err := Init(ctx, store, []byte("p"), InitOptions{Reserve: -1, Cost: seal.Cost{Memory: 8 << 10, Time: 1, Threads: 1}})
		if err != nil {
			t.Fatal(err)
		}
		root := ID{}
		for i := range 2 {
			s, err := r.NewSession(ctx, SessionOptions{})
			if err == nil {
				root, _, err = s.Save(ctx, Tree, EncodeTree(nil, TreeChunk{}))
			}
			if err == nil {
				_, err = s.Commit(ctx, Snapshot{Root: root})
			}
			if err != nil {
				t.Fatal(err)
			}
			if i == 1 {
				break
			}
			for _, p := range r.idx.usablePacks(root) {
				if err := store.PutBytes(ctx, packKey(p), make([]byte, 1000)); err != nil {
					t.Fatal(err)
				}
			}
			if err := r.Distrust(ctx, root); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := r.Prune(ctx, PruneOptions{}); err != nil {
			t.Fatal(err)
		}
		if err := readErr(t, r, root); err != nil {
			t.Fatal(err)
		}
	}
}
