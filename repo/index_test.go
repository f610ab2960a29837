package repo

import (
	"slices"
	"testing"

	"firn"
	"firn/blob"
)

// TestChunkInSeveralPacks has one chunk stored by two writers at once. A process that keeps its index, and reads only
// the files that are new to it, must find the chunk whichever of the packs goes, and in whatever way.
func TestChunkInSeveralPacks(t *testing.T) {
	ctx := t.Context()
	// save stores the chunk by a writer that knows nothing of others, and returns its pack and index file.
	save := func(t *testing.T, base *Repo, store *blob.Store) (id, pack, file ID) {
		t.Helper()
		packs, files := keysOf(t, store, packsPrefix), keysOf(t, store, indexPrefix)
		r := again(t, base, store, Options{})
		s, err := r.beginSession(ctx, SessionOptions{}, false)
		if err != nil {
			t.Fatal(err)
		}
		if id, _, err = s.Save(ctx, Data, content(1)); err != nil {
			t.Fatal(err)
		}
		if err := s.flush(ctx); err != nil {
			t.Fatal(err)
		}
		if err := s.Abort(ctx); err != nil {
			t.Fatal(err)
		}
		return id, added(t, store, packsPrefix, packs), added(t, store, indexPrefix, files)
	}
	doom := func(t *testing.T, r *Repo, pack ID) {
		t.Helper()
		if err := r.putDoomed(ctx, doomed{id: newID(), Version: doomedVersion, Packs: []ID{pack}, Listed: true}); err != nil {
			t.Fatal(err)
		}
	}
	remove := func(t *testing.T, store *blob.Store, key string) {
		t.Helper()
		if err := store.Delete(ctx, key); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		name string
		fn   func(t *testing.T, r *Repo, store *blob.Store, packs, files [2]ID)
	}{
		{"the first pack and its index file go", func(t *testing.T, r *Repo, store *blob.Store, packs, files [2]ID) {
			remove(t, store, packKey(packs[0]))
			remove(t, store, indexPrefix+files[0].String())
		}},
		{"the second pack and its index file go", func(t *testing.T, r *Repo, store *blob.Store, packs, files [2]ID) {
			remove(t, store, packKey(packs[1]))
			remove(t, store, indexPrefix+files[1].String())
		}},
		{"the first pack is doomed and deleted", func(t *testing.T, r *Repo, store *blob.Store, packs, files [2]ID) {
			doom(t, r, packs[0])
			remove(t, store, packKey(packs[0]))
		}},
		{"the second pack is doomed and deleted", func(t *testing.T, r *Repo, store *blob.Store, packs, files [2]ID) {
			doom(t, r, packs[1])
			remove(t, store, packKey(packs[1]))
		}},
		{"both are doomed and the first is deleted", func(t *testing.T, r *Repo, store *blob.Store, packs, files [2]ID) {
			doom(t, r, packs[0])
			doom(t, r, packs[1])
			remove(t, store, packKey(packs[0]))
		}},
		{"both are doomed and the second is deleted", func(t *testing.T, r *Repo, store *blob.Store, packs, files [2]ID) {
			doom(t, r, packs[0])
			doom(t, r, packs[1])
			remove(t, store, packKey(packs[1]))
		}},
		{"the first pack is named by another file, and its first file goes", func(t *testing.T, r *Repo, store *blob.Store, packs, files [2]ID) {
			rename(t, r, store, files[0])
			remove(t, store, indexPrefix+files[1].String())
		}},
		{"the second pack is named by another file, and its first file goes", func(t *testing.T, r *Repo, store *blob.Store, packs, files [2]ID) {
			rename(t, r, store, files[1])
			remove(t, store, indexPrefix+files[0].String())
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			store := newStore(t)
			base := initRepo(t, store, small())
			var packs, files [2]ID
			reader := again(t, base, store, Options{})
			var id ID
			for i := range packs {
				id, packs[i], files[i] = save(t, base, store)
				if err := reader.refresh(ctx); err != nil {
					t.Fatal(err)
				}
			}
			c.fn(t, reader, store, packs, files)
			for range 2 {
				if _, err := reader.Load(ctx, id, nil); err != nil {
					t.Errorf("a process that runs on: %v", err)
				}
				if err := reader.refresh(ctx); err != nil {
					t.Fatal(err)
				}
			}
			if all := keysOf(t, store, doomedPrefix); len(all) < 2 && !reader.Has(id) {
				t.Error("a chunk that is there is to be saved again")
			}
			if _, err := again(t, base, store, Options{}).Load(ctx, id, nil); err != nil {
				t.Errorf("another one: %v", err)
			}
			s, err := reader.Stats(ctx)
			if err != nil || s.Chunks[Data] != 1 {
				t.Errorf("%d chunks, %v", s.Chunks[Data], err)
			}
			for _, key := range keysOf(t, store, packsPrefix) {
				remove(t, store, key)
			}
			if _, err := reader.Load(ctx, id, nil); firn.KindOf(err) != firn.NotFound {
				t.Errorf("without packs: %v", err)
			}
		})
	}
}

// added returns the one blob that is not among before.
func added(t *testing.T, store *blob.Store, prefix string, before []string) ID {
	t.Helper()
	all := slices.DeleteFunc(keysOf(t, store, prefix), func(key string) bool { return slices.Contains(before, key) })
	if len(all) != 1 {
		t.Fatalf("%d new blobs in %s", len(all), prefix)
	}
	id, err := ParseID(all[0][len(all[0])-64:])
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// rename puts an index file's content in another one, as a prune does, has it read by r, and deletes the file.
func rename(t *testing.T, r *Repo, store *blob.Store, file ID) {
	t.Helper()
	ctx := t.Context()
	key := indexPrefix + file.String()
	info, err := store.Stat(ctx, key)
	if err != nil {
		t.Fatal(err)
	}
	content, err := r.readIndex(ctx, file, info.Size)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.putIndex(ctx, content); err != nil {
		t.Fatal(err)
	}
	if err := r.refresh(ctx); err != nil {
		t.Fatal(err)
	}
	if err := store.Delete(ctx, key); err != nil {
		t.Fatal(err)
	}
}

// TestCheckSeesWhatAPruneDeleted: a pack that is doomed and gone, which nothing should need, and a snapshot that does.
func TestCheckSeesWhatAPruneDeleted(t *testing.T) {
	ctx := t.Context()
	store := newStore(t)
	r := initRepo(t, store, small())
	if _, err := backup(ctx, r, upTo(20)); err != nil {
		t.Fatal(err)
	}
	for id, k := range r.indexRecords() {
		if k.kind == Data {
			if err := r.putDoomed(ctx, doomed{id: newID(), Version: doomedVersion, Packs: []ID{id}, Listed: true}); err != nil {
				t.Fatal(err)
			}
			if err := store.Delete(ctx, packKey(id)); err != nil {
				t.Fatal(err)
			}
			break
		}
	}
	if all := problems(t, r, 0); len(all) == 0 {
		t.Error("check finds nothing wrong")
	}
}
