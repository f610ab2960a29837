package repo

import (
	"context"
	"slices"

	"firn/blob/driver"
)

// Stats is what a repository holds. Sizes are in bytes.
type Stats struct {
	Snapshots   int
	Packs       int
	PackSize    int64
	IndexFiles  int
	IndexSize   int64
	Chunks      [kinds]int   // by Kind: data, trees
	Plain       [kinds]int64 // before compression
	Stored      [kinds]int64 // after compression and sealing
	Sessions    int
	DoomedPacks int   // that a prune will delete
	Memory      int64 // of the index
}

// Stats counts what there is. It reads the index, no packs.
func (r *Repo) Stats(ctx context.Context) (Stats, error) {
	var s Stats
	if err := r.refresh(ctx); err != nil {
		return s, err
	}
	for prefix, count := range map[string]struct {
		n    *int
		size *int64
	}{
		snapshotPrefix: {&s.Snapshots, new(int64)},
		packsPrefix:    {&s.Packs, &s.PackSize},
		indexPrefix:    {&s.IndexFiles, &s.IndexSize},
		sessionPrefix:  {&s.Sessions, new(int64)},
	} {
		if err := r.listIDs(ctx, prefix, func(_ ID, info driver.Info) error {
			*count.n++
			*count.size += info.Size
			return nil
		}); err != nil {
			return s, err
		}
	}
	x := r.idx
	x.mu.RLock()
	packs := slices.Clone(x.packs) // not locked while shards are: that is the other way round elsewhere
	x.mu.RUnlock()
	for i := range packs {
		if packs[i].state&packDoomed != 0 {
			s.DoomedPacks++
		}
	}
	stored := func(e *located) bool {
		return int(e.pack) < len(packs) && packs[e.pack].state&(packGone|packStored) == packStored
	}
	for i := range x.shards {
		h := &x.shards[i]
		h.mu.RLock()
		s.Memory += int64(len(h.slots))*4 + int64(len(h.blocks))*blockSize*48
		for n := range h.n {
			e := h.entry(uint32(n))
			first, slot := h.find(e.id)
			for first != e && !stored(first) {
				first, slot = h.next(e.id, slot)
			}
			if first != e || !stored(e) {
				continue // or counted elsewhere
			}
			p := &packs[e.pack]
			s.Chunks[p.kind]++
			s.Plain[p.kind] += int64(e.plain & 0xffffff)
			s.Stored[p.kind] += int64(e.stored)
		}
		h.mu.RUnlock()
	}
	return s, nil
}
