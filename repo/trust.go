package repo

import (
	"context"
	"maps"
	"slices"

	"firn"
	"firn/seal"
)

// Derive returns a key for something of the caller's that is kept beside the repository: whoever opens this opens that. The
// label says what; the same one gives the same key.
func (r *Repo) Derive(label string) seal.Key { return r.master.Derive("beside: "+label, nil) }

// Present asks the place whether it has the packs of chunks, once for each pack. firn.NotFound names a chunk whose pack it
// does not have.
func (r *Repo) Present(ctx context.Context, ids []ID) error {
	if err := r.ensure(ctx); err != nil {
		return err
	}
	err := r.present(ctx, ids)
	if firn.KindOf(err) == firn.NotFound { // a prune may have moved it since the index was loaded
		if err = r.refresh(ctx); err == nil {
			err = r.present(ctx, ids)
		}
	}
	return err
}

func (r *Repo) present(ctx context.Context, ids []ID) error {
	packs := map[ID]ID{} // and a chunk of each
	for _, id := range ids {
		_, p, ok := r.idx.get(id, nil)
		if !ok {
			return chunkError(id, firn.NewError(firn.NotFound, "no pack has it: run 'firn repo check'"))
		}
		packs[p.id] = id
	}
	list := slices.Collect(maps.Keys(packs))
	return each(ctx, loaders, len(list), func(ctx context.Context, i int) error {
		ok, err := r.store.Exists(ctx, packKey(list[i]))
		if err == nil && !ok {
			err = chunkError(packs[list[i]], firn.NewError(firn.NotFound, "its pack is gone: run 'firn repo check'"))
		}
		return err
	})
}

// Distrust has the packs in which chunks are taken for damaged from now on, by all: a chunk that is in no other pack is
// stored again by whoever saves it, and the next prune removes them, but for what snapshots need and can still be read of
// them. It writes what a prune writes before it deletes packs.
func (r *Repo) Distrust(ctx context.Context, ids ...ID) error {
	if err := r.deletable("distrust packs"); err != nil {
		return err
	}
	packs := map[ID]bool{}
	for _, id := range ids {
		for _, p := range r.idx.usablePacks(id) {
			packs[p] = true
		}
	}
	if len(packs) == 0 {
		return nil
	}
	if err := r.putDoomed(ctx, doomed{id: newID(), Version: doomedVersion, Packs: slices.Collect(maps.Keys(packs))}); err != nil {
		return err
	}
	return r.refresh(ctx)
}
