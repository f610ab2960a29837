package repo

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"

	"firn"
)

// CopyReport says what CopyTo did.
type CopyReport struct {
	Snapshots int   // that were copied
	Skipped   int   // that were there already
	Chunks    int   // that were stored
	Stored    int64 // bytes
}

// copiedFrom is the note in a copy that says which snapshot it is of.
const copiedFrom = "firn.copy-of"

// CopyTo copies snapshots, all where none are named, to another repository. One that was copied before is left out. A
// copy has an id of its own and keeps the rest. Every chunk is verified on its way.
//
// Where dst was made like r (InitOptions.Like), chunks that are there are not read; elsewhere each is, and its memory is
// 100 bytes for each chunk of what is copied.
func (r *Repo) CopyTo(ctx context.Context, dst *Repo, snapshots ...ID) (rep CopyReport, err error) {
	const op = "copy snapshots"
	if dst.cfg.ID == r.cfg.ID {
		return rep, firn.E(op, dst.store.Name(), firn.NewError(firn.Invalid, "this is the same repository"))
	}
	all, err := r.Snapshots(ctx)
	if err != nil {
		return rep, err
	}
	have, err := dst.Snapshots(ctx)
	if err != nil {
		return rep, err
	}
	there := map[string]bool{}
	for _, s := range have {
		there[s.Meta[copiedFrom]] = true
	}
	for _, id := range snapshots {
		if !slices.ContainsFunc(all, func(s Snapshot) bool { return s.ID == id }) {
			return rep, &firn.Error{Kind: firn.NotFound, Op: op, Subject: id.Short(), Err: errors.New("there is no such snapshot")}
		}
	}
	c := &copier{from: r, to: dst, rep: &rep, like: r.cfg.Secret == dst.cfg.Secret, ids: [kinds]map[ID]ID{{}, {}}}
	for _, snap := range all {
		if len(snapshots) > 0 && !slices.Contains(snapshots, snap.ID) {
			continue
		}
		origin := r.cfg.ID.String() + "/" + snap.ID.String()
		if there[origin] {
			rep.Skipped++
			continue
		}
		if err := c.snapshot(ctx, snap, origin); err != nil {
			return rep, fmt.Errorf("snapshot %s: %w", snap.ID.Short(), err)
		}
		rep.Snapshots++
	}
	return rep, nil
}

type copier struct {
	from, to *Repo
	like     bool // ids are the same
	session  *Session
	mu       sync.Mutex // of ids and rep
	ids      [kinds]map[ID]ID
	rep      *CopyReport
}

// maxDepth bounds how deep trees lie, for those who made it up.
const maxDepth = 10000

func (c *copier) snapshot(ctx context.Context, snap Snapshot, origin string) (err error) {
	closing, release := Closing(ctx)
	defer release()
	if c.session, err = c.to.NewSession(ctx, SessionOptions{Purpose: "copy"}); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, c.session.Abort(closing))
		}
	}()
	// What an earlier snapshot's session stored may be doomed since.
	known := len(c.ids[Data]) + len(c.ids[Tree])
	maps.DeleteFunc(c.ids[Tree], func(_, to ID) bool { return !c.to.Has(to) })
	maps.DeleteFunc(c.ids[Data], func(_, to ID) bool { return !c.to.Has(to) })
	if len(c.ids[Data])+len(c.ids[Tree]) < known {
		clear(c.ids[Tree]) // others refer to what is not there
	}
	root, err := c.tree(ctx, snap.Root, 0)
	if err != nil {
		return err
	}
	meta := map[string]string{copiedFrom: origin}
	for k, v := range snap.Meta {
		if k != copiedFrom {
			meta[k] = v
		}
	}
	snap.Root, snap.Meta, snap.Parent = root, meta, ID{}
	_, err = c.session.Commit(ctx, snap)
	return err
}

// tree copies what a tree refers to, then the tree, and returns its id there.
func (c *copier) tree(ctx context.Context, id ID, depth int) (ID, error) {
	if to, ok := c.ids[Tree][id]; ok {
		return to, nil
	}
	if depth > maxDepth {
		return ID{}, chunkError(id, firn.NewError(firn.Invalid, "trees lie more than 10,000 deep"))
	}
	p, err := c.from.Load(ctx, id, nil)
	if err != nil {
		return ID{}, err
	}
	t, err := ParseTree(p)
	if err != nil {
		return ID{}, firn.E("read tree", id.String(), err)
	}
	if err := c.data(ctx, t.Data); err != nil {
		return ID{}, err
	}
	for i, d := range t.Data {
		t.Data[i] = c.ids[Data][d]
	}
	for i, d := range t.Trees {
		if t.Trees[i], err = c.tree(ctx, d, depth+1); err != nil {
			return ID{}, err
		}
	}
	return c.save(ctx, Tree, id, EncodeTree(nil, t))
}

// data copies chunks.
func (c *copier) data(ctx context.Context, ids []ID) error {
	var todo []ID
	asked := map[ID]bool{}
	for _, id := range ids {
		if _, ok := c.ids[Data][id]; ok || asked[id] {
			continue
		}
		asked[id] = true
		if c.like && c.to.Has(id) {
			c.ids[Data][id] = id
			continue
		}
		todo = append(todo, id)
	}
	return c.from.LoadMany(ctx, todo, func(i int, p []byte) error {
		_, err := c.save(ctx, Data, todo[i], p)
		return err
	})
}

func (c *copier) save(ctx context.Context, kind Kind, id ID, p []byte) (ID, error) {
	to, n, err := c.session.Save(ctx, kind, p)
	if err != nil {
		return ID{}, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ids[kind][id] = to
	if n > 0 {
		c.rep.Chunks++
		c.rep.Stored += int64(n)
	}
	return to, nil
}
