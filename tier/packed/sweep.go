package packed

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"slices"
	"time"

	"firn"
	"firn/blob"
	"firn/repo"
)

// What was deleted is still in the snapshots: a note says what it was, and the next sweep makes those snapshots anew without
// it, and prunes. The order is notes, snapshots, register: what is in a note that is read, and is not needed when the register
// is read after it, is not needed any more. What fails is done again, since the notes go last.
const (
	notePrefix  = "deleted/"
	noteLimit   = 16 << 20
	noteVersion = 1

	sweepNames     = 1000           // deleted contents that are worth a sweep at once
	sweepAfter     = 24 * time.Hour // that others wait at most
	sweepSnapshots = 128            // snapshots that came since, and may be put together
	fewSmall       = 16             // small snapshots that may stay
)

// due is what a sweep goes by. Guarded by Store.mu.
type due struct {
	looked    bool      // at what earlier processes left
	names     int       // that were deleted since the last sweep
	since     time.Time // the first of them
	snapshots int       // that came since
	again     bool      // the last sweep was cut off, or could not remove all
}

// Delete implements tier.Content: it notes that the names are not needed.
func (s *Store) Delete(ctx context.Context, names ...string) error {
	if len(names) == 0 {
		return nil
	}
	sealed, err := s.Catalogue(ctx, false)
	if err != nil {
		return err
	}
	at := s.opt.Now()
	p, err := json.Marshal(note{Version: noteVersion, At: at.UTC(), Names: names})
	if err != nil {
		return err
	}
	var id [16]byte
	_, _ = rand.Read(id[:]) // never fails
	key := notePrefix + hex.EncodeToString(id[:])
	err = putVerified(ctx, sealed, key, p)
	full := firn.KindOf(err) == firn.NoSpace
	if full { // what was put aside for that is given up; a prune puts it aside again
		if err = s.place.Delete(ctx, repoPrefix+"/reserve"); err == nil {
			err = putVerified(ctx, sealed, key, p)
		}
	}
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mu.due.add(len(names), at)
	s.mu.due.again = s.mu.due.again || full
	return nil
}

func putVerified(ctx context.Context, store *blob.Store, key string, p []byte) error {
	if err := store.PutBytes(ctx, key, p); err != nil {
		return err
	}
	back, err := store.ReadAll(ctx, key, int64(len(p)))
	if k := firn.KindOf(err); err != nil && k != firn.NotFound && k != firn.Invalid && k != firn.Corrupt {
		return err
	}
	if !bytes.Equal(p, back) {
		return firn.E("put", key, firn.NewError(firn.Corrupt, "the tier does not give back what it was given"))
	}
	return nil
}

func (d *due) add(n int, at time.Time) {
	if d.names == 0 || at.Before(d.since) {
		d.since = at
	}
	d.names += n
}

// note is a blob that says what was deleted.
type note struct {
	Version int       `json:"firn-tier-deleted"`
	At      time.Time `json:"at"`
	Names   []string  `json:"names"`
	key     string
}

// notes returns those there are, and when the oldest was written.
func (s *Store) notes(ctx context.Context, sealed *blob.Store) ([]note, time.Time, error) {
	var all []note
	var oldest time.Time
	for info, err := range sealed.List(ctx, notePrefix) {
		if err != nil {
			return nil, oldest, err
		}
		n := note{key: info.Key}
		p, err := sealed.ReadAll(ctx, info.Key, noteLimit)
		if err == nil {
			if e := json.Unmarshal(p, &n); e != nil {
				err = &firn.Error{Kind: firn.Corrupt, Err: e}
			}
		}
		if err == nil && n.Version != noteVersion {
			err = firn.NewError(firn.Unsupported, "a note of a later version of firn: update this one")
		}
		if firn.KindOf(err) == firn.Corrupt {
			// One that was not read back before the site was killed, whose names come again; or its contents are never removed.
			s.opt.Log.Warn("a note of what was deleted from a tier cannot be read", "tier", s.place.Name(), "note", info.Key, "error", err)
			continue
		}
		if err != nil {
			return nil, oldest, firn.E("read note", info.Key, err)
		}
		if oldest.IsZero() || n.At.Before(oldest) {
			oldest = n.At
		}
		all = append(all, n)
	}
	return all, oldest, nil
}

// isDue reports whether a sweep is worth it now.
func (s *Store) isDue(ctx context.Context) (bool, error) {
	s.mu.Lock()
	d := s.mu.due
	s.mu.Unlock()
	if !d.looked {
		p, err := s.pending(ctx)
		if err != nil {
			return false, err
		}
		n := 0
		for _, note := range p.notes {
			n += len(note.Names)
		}
		s.mu.Lock()
		if d := &s.mu.due; !d.looked {
			d.looked = true
			if n > 0 {
				d.since = p.oldest
			}
			d.names, d.snapshots = max(d.names, n), max(d.snapshots, countSmall(p.snapshots))
		}
		d = s.mu.due
		s.mu.Unlock()
	}
	return d.again || d.names >= sweepNames || d.names > 0 && s.opt.Now().Sub(d.since) >= sweepAfter || d.snapshots >= sweepSnapshots, nil
}

func small(n int64) bool { return n < snapshotBlobs/4 }

func countSmall(list []repo.Snapshot) (n int) {
	for i := range list {
		if ours(&list[i]) && small(list[i].Summary[blobsInSummary]) {
			n++
		}
	}
	return n
}

// Sweep removes from the place what Delete was told of and nobody needs, where that is worth it now. register calls each for
// every name that somebody needs or that Delete may be told of again. Puts and reads may run meanwhile.
//
// It takes repo.Prune's memory and scratch space, and 150 bytes a name that was deleted.
func (s *Store) Sweep(ctx context.Context, register func(ctx context.Context, each func(name string, needed bool)) error) error {
	if ok, err := s.isDue(ctx); err != nil || !ok {
		return err
	}
	s.mu.Lock()
	was := s.mu.due
	s.mu.due.again = true
	s.mu.Unlock()
	again, err := s.sweep(ctx, register)
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil || again {
		return err
	}
	d := &s.mu.due
	d.again = false
	d.names = max(0, d.names-was.names)
	d.since = s.opt.Now()
	d.snapshots = max(0, d.snapshots-was.snapshots)
	return nil
}

// pending is what a sweep begins with, read in the order that the top of this file gives.
type pending struct {
	repo      *repo.Repo
	sealed    *blob.Store
	notes     []note
	oldest    time.Time // when the first of them was written
	snapshots []repo.Snapshot
}

func (s *Store) pending(ctx context.Context) (p pending, err error) {
	if p.repo, err = s.open(ctx, false); err != nil {
		return p, err
	}
	if p.sealed, err = s.Catalogue(ctx, false); err != nil {
		return p, err
	}
	if p.notes, p.oldest, err = s.notes(ctx, p.sealed); err != nil {
		return p, err
	}
	p.snapshots, err = p.repo.Snapshots(ctx)
	return p, err
}

// sweep reports whether some of it is to be done again.
func (s *Store) sweep(ctx context.Context, register func(context.Context, func(string, bool)) error) (again bool, err error) {
	p, err := s.pending(ctx)
	if err != nil {
		return false, err
	}
	gone := map[string]bool{}
	for _, n := range p.notes {
		for _, name := range n.Names {
			gone[name] = true
		}
	}
	waiting := map[string]bool{} // for Delete to be told of them again, or for the register to forget them
	if err := register(ctx, func(name string, needed bool) {
		if gone[name] {
			delete(gone, name)
			if !needed {
				waiting[name] = true
			}
		}
	}); err != nil {
		return false, err
	}
	w := &rewriter{s: s, ctx: ctx, r: p.repo, gone: gone}
	if err := w.run(p.snapshots); err != nil {
		return false, err
	}
	if len(w.damaged) > 0 {
		if err := w.mend(p.snapshots, register); err != nil {
			return false, err
		}
	}
	if len(p.notes) > 0 || w.changed {
		if again, err = s.prune(ctx); err != nil || again {
			return again, err
		}
		// A prune makes a snapshot of what a session left that was killed right before its end.
		if again, err = s.named(ctx, p.repo, p.snapshots, gone); err != nil || again {
			return again, err
		}
	}
	var done []string
	for _, n := range p.notes {
		if !slices.ContainsFunc(n.Names, func(name string) bool { return waiting[name] }) {
			done = append(done, n.key)
		}
	}
	return false, p.sealed.Delete(ctx, done...)
}

// named reports whether a snapshot that is not among those before names what is gone.
func (s *Store) named(ctx context.Context, r *repo.Repo, before []repo.Snapshot, gone map[string]bool) (bool, error) {
	now, err := r.Snapshots(ctx)
	if err != nil {
		return false, err
	}
	for i := range now {
		if !ours(&now[i]) || slices.ContainsFunc(before, func(b repo.Snapshot) bool { return b.ID == now[i].ID }) {
			continue
		}
		entries, err := s.roster(ctx, r, &now[i])
		if err != nil {
			return false, err
		}
		if slices.ContainsFunc(entries, func(e entry) bool { return gone[fullName(e.name, e.root)] }) {
			return true, nil
		}
	}
	return false, nil
}

// roster loads the roster of a snapshot.
func (s *Store) roster(ctx context.Context, r *repo.Repo, snap *repo.Snapshot) ([]entry, error) {
	p, err := r.Load(ctx, snap.Root, nil)
	var entries []entry
	if err == nil {
		entries, err = parseRoster(p)
	}
	return entries, firn.E("read roster", snap.ID.Short(), err)
}

// rewriter makes snapshots anew. The old ones go once the new one is there; until then, and after a crash, contents are in
// both.
type rewriter struct {
	s       *Store
	ctx     context.Context
	r       *repo.Repo
	gone    map[string]bool
	changed bool
	damaged []repo.ID // snapshots whose rosters cannot be read

	// Of the next one:
	entries []entry
	seen    map[entry]bool
	old     []repo.ID // what it is to replace
	bytes   int
}

// run makes those snapshots anew that name what is gone, and small ones where there are many.
func (w *rewriter) run(snapshots []repo.Snapshot) error {
	merge := countSmall(snapshots) > fewSmall
	for i := range snapshots {
		snap := &snapshots[i]
		if !ours(snap) {
			continue
		}
		list, err := w.s.roster(w.ctx, w.r, snap)
		if k := firn.KindOf(err); k == firn.Corrupt || k == firn.NotFound {
			w.damaged = append(w.damaged, snap.ID)
			continue
		}
		if err != nil {
			return err
		}
		stay := slices.DeleteFunc(slices.Clone(list), func(e entry) bool { return w.gone[fullName(e.name, e.root)] })
		if len(stay) == len(list) && !(merge && small(int64(len(list)))) {
			continue
		}
		size := 0
		for _, e := range stay {
			size += e.size()
		}
		if !w.room(len(stay), size) {
			if err := w.flush(); err != nil {
				return err
			}
		}
		for _, e := range stay {
			w.add(e)
		}
		w.old = append(w.old, snap.ID)
	}
	return w.flush()
}

// mend makes snapshots of what the damaged ones may have named: what the register has and no other one names. Without, a prune
// that somebody makes possible by forgetting them would take the contents.
func (w *rewriter) mend(before []repo.Snapshot, register func(context.Context, func(string, bool)) error) error {
	w.s.opt.Log.Error("lists of contents on a tier are damaged, and made again from what the site knows", "tier", w.s.place.Name(), "lists", len(w.damaged))
	now, err := w.r.Snapshots(w.ctx)
	if err != nil {
		return err
	}
	named := map[string]bool{}
	for i := range now {
		if !ours(&now[i]) || slices.Contains(w.damaged, now[i].ID) {
			continue
		}
		list, err := w.s.roster(w.ctx, w.r, &now[i])
		if err != nil {
			return err
		}
		for _, e := range list {
			named[fullName(e.name, e.root)] = true
		}
	}
	var missing []entry
	if err := register(w.ctx, func(name string, _ bool) {
		root, err := rootOf(name)
		if err != nil || named[name] || !w.r.Has(root) { // of what is being put the snapshot is still to come
			return
		}
		short, _, _ := cutLast(name, rootMark)
		missing = append(missing, entry{short, root})
	}); err != nil {
		return err
	}
	for _, e := range missing {
		if !w.room(1, e.size()) {
			if err := w.flush(); err != nil {
				return err
			}
		}
		w.add(e)
	}
	w.old = w.damaged
	return w.flush()
}

func (e *entry) size() int { return len(e.name) + 40 }

func (w *rewriter) room(n, size int) bool {
	return len(w.entries)+n <= snapshotBlobs && w.bytes+size <= rosterBytes
}

// add has the next snapshot name a content. One that a sweep that was cut off left twice it names once.
func (w *rewriter) add(e entry) {
	if w.seen == nil {
		w.seen = map[entry]bool{}
	}
	if !w.seen[e] {
		w.seen[e] = true
		w.entries = append(w.entries, e)
		w.bytes += e.size()
	}
}

// flush makes the next snapshot and removes what it replaces.
func (w *rewriter) flush() error {
	if len(w.entries) > 0 {
		if err := w.s.commitRoster(w.ctx, w.r, w.entries); err != nil {
			return err
		}
		w.changed = true
	}
	if len(w.old) > 0 {
		if err := w.r.Forget(w.ctx, w.old...); err != nil {
			return err
		}
		w.changed = true
	}
	w.entries, w.seen, w.old, w.bytes = nil, nil, nil, 0
	return nil
}

// rosterBytes bounds a roster, below what a chunk holds.
const rosterBytes = 6 << 20

// commitRoster makes a snapshot of contents that other snapshots name. It has the session in turn with those who put.
func (s *Store) commitRoster(ctx context.Context, r *repo.Repo, entries []entry) error {
	select {
	case s.writing <- struct{}{}:
		defer func() { <-s.writing }()
	case <-ctx.Done():
		return ctx.Err()
	}
	session, err := r.NewSession(ctx, repo.SessionOptions{Purpose: "tier"})
	if err != nil {
		return err
	}
	return s.snapshot(ctx, r, session, entries)
}

// prune removes from the repository what no snapshot refers to, with a handle of its own: a session of those who put goes on
// beside it. It reports whether some of it has to wait for such a session.
func (s *Store) prune(ctx context.Context) (again bool, err error) {
	r, err := s.load(ctx, false, true)
	if err != nil {
		return false, err
	}
	defer func() { _ = r.Close() }() // it only frees memory
	rep, err := r.Prune(ctx, repo.PruneOptions{SessionTimeout: s.opt.SessionTimeout})
	if err != nil {
		return false, err
	}
	if rep.NoReserve != nil {
		s.opt.Log.Warn("the repository of a tier has no reserve", "tier", s.place.Name(), "error", rep.NoReserve)
	}
	s.opt.Log.Info("a tier was swept", "tier", s.place.Name(), "result", rep.String())
	return rep.Pending > 0, nil
}
