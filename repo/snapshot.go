package repo

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"firn"
	"firn/seal"
)

// Snapshot is one state of something, whole. It says nothing that cannot be read without its chunks.
type Snapshot struct {
	ID      ID                `json:"-"` // set by Commit
	Time    time.Time         `json:"time"`
	Host    string            `json:"host,omitempty"`
	User    string            `json:"user,omitempty"`
	Paths   []string          `json:"paths,omitempty"`
	Tags    []string          `json:"tags,omitempty"`
	Root    ID                `json:"root"` // a Tree
	Parent  ID                `json:"parent,omitzero"`
	Program string            `json:"program,omitempty"`
	Summary map[string]int64  `json:"summary,omitempty"`
	Meta    map[string]string `json:"meta,omitempty"`
}

// A snapshot is a box whose context is its key; its id is random, and stays when it is tagged. It is put under pending/
// first, with the session it is of, and under snapshots/ once it is certain that its chunks stay.
const (
	snapshotVersion = 1
	snapshotLimit   = 16 << 20
)

type snapshotFile struct {
	Version int `json:"version"`
	Session ID  `json:"session,omitzero"` // of one that is pending
	Snapshot
}

// putSnapshot stores a snapshot, pending where a session is given.
func (r *Repo) putSnapshot(ctx context.Context, prefix string, s Snapshot, session ID) error {
	p, err := json.Marshal(snapshotFile{snapshotVersion, session, s})
	if err != nil {
		return err
	}
	key := prefix + s.ID.String()
	box := r.boxes.Box(nil, key, p)
	if len(box) > snapshotLimit {
		return firn.E("put", key, firn.NewError(firn.Invalid, "the snapshot's names, tags and notes are larger than 16 MiB"))
	}
	return r.store.PutBytes(ctx, key, box)
}

func parseSnapshot(p []byte) (snapshotFile, error) {
	var f snapshotFile
	if err := parseJSON(p, &f); err != nil {
		return f, err
	}
	if f.Version != snapshotVersion {
		return f, firn.NewError(firn.Unsupported, "a snapshot of a later version of firn: update this one")
	}
	if f.Root.IsZero() {
		return f, firn.NewError(firn.Corrupt, "the snapshot has no root")
	}
	return f, nil
}

func (r *Repo) readSnapshotFile(ctx context.Context, prefix string, id ID) (snapshotFile, error) {
	key := prefix + id.String()
	p, err := r.store.ReadAll(ctx, key, snapshotLimit)
	if err != nil {
		return snapshotFile{}, err
	}
	var f snapshotFile
	if p, err = r.boxes.Unbox(key, p); err == nil {
		f, err = parseSnapshot(p)
	}
	f.ID = id
	return f, firn.E("read", key, err)
}

func (r *Repo) readSnapshot(ctx context.Context, id ID) (Snapshot, error) {
	f, err := r.readSnapshotFile(ctx, snapshotPrefix, id)
	return f.Snapshot, err
}

// Snapshots lists all snapshots, the oldest first. It fails if one cannot be read: Check says which, and Forget
// removes it.
func (r *Repo) Snapshots(ctx context.Context) ([]Snapshot, error) {
	ids, err := r.snapshotIDs(ctx, snapshotPrefix)
	if err != nil {
		return nil, err
	}
	all := make([]Snapshot, len(ids))
	missing := make([]bool, len(ids))
	if err := each(ctx, loaders, len(ids), func(ctx context.Context, i int) error {
		s, err := r.readSnapshot(ctx, ids[i])
		if firn.KindOf(err) == firn.NotFound { // forgotten meanwhile
			missing[i] = true
			return nil
		}
		all[i] = s
		return err
	}); err != nil {
		return nil, err
	}
	kept := all[:0]
	for i, s := range all {
		if !missing[i] {
			kept = append(kept, s)
		}
	}
	slices.SortStableFunc(kept, func(a, b Snapshot) int { return a.Time.Compare(b.Time) })
	return kept, nil
}

// Snapshot returns the one whose id begins with prefix. It fails with firn.NotFound, and with firn.Conflict where
// several do.
func (r *Repo) Snapshot(ctx context.Context, prefix string) (Snapshot, error) {
	const op = "find snapshot"
	if prefix == "" || strings.Trim(prefix, "0123456789abcdef") != "" {
		return Snapshot{}, &firn.Error{Kind: firn.Invalid, Op: op, Subject: prefix, Err: errors.New("an id, or the beginning of one, is hex digits")}
	}
	ids, err := r.snapshotIDs(ctx, snapshotPrefix+prefix)
	if err != nil {
		return Snapshot{}, err
	}
	switch len(ids) {
	case 0:
		return Snapshot{}, &firn.Error{Kind: firn.NotFound, Op: op, Subject: prefix, Err: errors.New("there is no such snapshot")}
	case 1:
		return r.readSnapshot(ctx, ids[0])
	}
	return Snapshot{}, &firn.Error{Kind: firn.Conflict, Op: op, Subject: prefix, Err: fmt.Errorf("%d snapshots begin so: give more digits", len(ids))}
}

// Tag changes a snapshot's tags and notes: fn gets it as it is and changes Tags, Meta or Host. Its id stays.
func (r *Repo) Tag(ctx context.Context, id ID, fn func(*Snapshot)) (Snapshot, error) {
	// The session keeps a prune from removing a snapshot's chunks between reading and writing it.
	closing, release := Closing(ctx)
	defer release()
	s, err := r.NewSession(ctx, SessionOptions{Purpose: "tag"})
	if err != nil {
		return Snapshot{}, err
	}
	defer func() { _ = s.Abort(closing) }() // what is left of it only makes a prune wait
	snap, err := r.readSnapshot(ctx, id)
	if err != nil {
		return Snapshot{}, err
	}
	root := snap.Root
	fn(&snap)
	if snap.ID != id || snap.Root != root {
		return Snapshot{}, firn.E("tag snapshot", id.Short(), firn.NewError(firn.Invalid, "its id and root cannot be changed"))
	}
	// What fails leaves the snapshot as it was: whether it was forgotten meanwhile cannot be told.
	over, err := s.publish(ctx, snap)
	if err != nil || over {
		err = errors.Join(err, r.store.Delete(closing, pendingPrefix+id.String()))
	}
	if over {
		err = errors.Join(&firn.Error{
			Kind: firn.Conflict, Op: "tag snapshot", Subject: id.Short(),
			Err: errors.New("a prune took this process for dead: run it again"),
		}, err)
	}
	if err != nil {
		return Snapshot{}, err
	}
	return snap, nil
}

// Forget removes snapshots. It only deletes, so that it works where the place is full; their space comes back with
// Prune. One that is not there is no error.
func (r *Repo) Forget(ctx context.Context, ids ...ID) error {
	if err := r.deletable("forget snapshot"); err != nil {
		return err
	}
	var keys []string
	for _, id := range ids {
		// What a run that was cut off left pending would come back.
		keys = append(keys, pendingPrefix+id.String(), snapshotPrefix+id.String())
	}
	return r.store.Delete(ctx, keys...)
}

// newID returns a random id.
func newID() ID { return ID(seal.NewKey()) }
