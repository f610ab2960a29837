package repo

import (
	"context"
	"sync"

	"firn"
)

// complete fails with firn.NotFound unless every chunk below root is there for sure: as has says.
func (r *Repo) complete(ctx context.Context, root ID, has func(ID) bool) error {
	seen := map[ID]bool{root: true}
	check := func(id ID) error {
		if !has(id) {
			return chunkError(id, firn.NewError(firn.NotFound, "it was removed"))
		}
		return nil
	}
	for level := []ID{root}; len(level) > 0; {
		for _, id := range level {
			if err := check(id); err != nil {
				return err
			}
		}
		var mu sync.Mutex
		var next []ID
		if err := r.LoadMany(ctx, level, func(_ int, p []byte) error {
			t, err := ParseTree(p)
			if err != nil {
				return err
			}
			for _, id := range t.Data {
				if err := check(id); err != nil {
					return err
				}
			}
			mu.Lock()
			defer mu.Unlock()
			for _, id := range t.Trees {
				if !seen[id] {
					seen[id] = true
					next = append(next, id)
				}
			}
			return nil
		}); err != nil {
			return err
		}
		level = next
	}
	return nil
}
