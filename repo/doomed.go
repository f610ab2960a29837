package repo

import (
	"context"
	"errors"

	"firn"
	"firn/blob/driver"
)

// doomed is what a prune will delete, or has deleted: a box under doomed/, whose context is its key. Nobody relies on
// what it names.
type doomed struct {
	id      ID
	Version int  `json:"version"`
	Packs   []ID `json:"packs,omitempty"`
	// Listed says that Sessions are those that were there after the file was first published. Until then nothing may
	// be deleted.
	Listed   bool `json:"listed"`
	Sessions []ID `json:"sessions,omitempty"`
	// Buried are packs that were deleted while no index file named them. Whoever stored them was dead, or taken for dead
	// and may yet put an index file that names them; so the note stays until such a file was seen.
	Buried []ID `json:"buried,omitempty"`
}

const (
	doomedVersion = 1
	doomedLimit   = 256 << 20
)

func parseDoomed(p []byte) (doomed, error) {
	var d doomed
	err := parseJSON(p, &d)
	if err == nil && d.Version != doomedVersion {
		err = firn.NewError(firn.Unsupported, "a prune of a later version of firn is under way: update this one")
	}
	return d, err
}

// readDoomed returns what is to be deleted, and what was and may yet be named. Where a file was removed while it read,
// it reads all again: a note of what is buried, put in its place before that, may not have been listed.
func (r *Repo) readDoomed(ctx context.Context) ([]doomed, error) {
	for range 10 {
		all, gone, err := r.listDoomed(ctx)
		if err != nil || !gone {
			return all, err
		}
	}
	return nil, &firn.Error{
		Kind: firn.Unavailable, Op: "list", Subject: doomedPrefix,
		Err: errors.New("it changes faster than it can be read: run it again"),
	}
}

// listDoomed is one try. It reports whether a file was gone that was listed.
func (r *Repo) listDoomed(ctx context.Context) (all []doomed, gone bool, err error) {
	err = r.listIDs(ctx, doomedPrefix, func(id ID, info driver.Info) error {
		p, err := r.store.ReadAll(ctx, info.Key, doomedLimit)
		if firn.KindOf(err) == firn.NotFound {
			gone = true
			return nil
		}
		if err != nil {
			return err
		}
		var d doomed
		if p, err = r.boxes.Unbox(info.Key, p); err == nil {
			d, err = parseDoomed(p)
		}
		d.id = id
		all = append(all, d)
		return firn.E("read", info.Key, err)
	})
	return all, gone, err
}
