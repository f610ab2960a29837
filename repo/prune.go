package repo

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"time"

	"firn"
	"firn/blob/driver"
	"firn/seal"
)

// PruneOptions are settings of Prune. The zero value is good.
type PruneOptions struct {
	// Memory bounds, in bytes, the part of the index that is looked at at once; 0 is 64 MiB. Beside it are 120 bytes a
	// pack, 64 bytes a tree, and the buffers of Options.Memory.
	Memory int64
	// Scratch is a directory for temporary files of 112 bytes a chunk; "" is the system's. They hold ids, no content.
	Scratch string
	// MaxUnused is the part of the repository that may stay though nobody refers to it, since getting it back means
	// writing what is around it anew; 0 is 0.05. Less than 0 is nothing.
	MaxUnused float64
	// SessionTimeout is how long a session must show no sign of life, watched by this prune, to be taken for dead; 0 is
	// ten times RenewEvery.
	SessionTimeout time.Duration
	// Waits is told when the prune begins to wait for sessions of others, once for each of them; nil tells nobody. It is
	// called by the goroutine of Prune.
	Waits func(Wait)
	// DryRun reports what would be done.
	DryRun bool
}

// Wait is what a prune waits for.
type Wait struct {
	// Sessions may be alive or dead: what is waited for is a sign of life, or their end.
	Sessions []SessionInfo
	// AtMost is how long that takes.
	AtMost time.Duration
}

// PruneReport says what a prune did. Sizes are in bytes.
type PruneReport struct {
	Snapshots                       int
	Packs                           int   // before
	Size                            int64 // of packs, before
	Used                            int64 // of chunks that snapshots refer to
	RemovePacks, RepackPacks        int   // what it set out to do
	RemoveSize, RepackSize, Written int64
	FreedPacks                      int // that were deleted, those of earlier prunes among them
	Freed                           int64
	Rescued                         int // packs that were to be deleted and are needed again: that was copied
	// Pending packs wait for Waiting, sessions that live and began before they were doomed. A later prune deletes them.
	Pending     int
	PendingSize int64
	Waiting     []SessionInfo
	Dead        int   // sessions that were taken for dead
	NoSpace     bool  // the place is too full to repack: only whole packs were removed
	NoReserve   error // why there is no reserve now; nil where there is
}

// Prune removes what no snapshot refers to. Writers and readers may run meanwhile, on this machine and others, and it
// may be stopped at any point: the next one goes on. It fails with firn.Corrupt, removing nothing, where a snapshot
// refers to what is lost.
//
// It first finds out which sessions are alive, which takes up to RenewEvery where there are some, and SessionTimeout where
// one is dead. It then writes down what it will delete, waits for the sessions that might rely on it, looks again at what snapshots
// refer to, and deletes last. It writes only small files where nothing is to be repacked, and drops the reserve for them.
func (r *Repo) Prune(ctx context.Context, opt PruneOptions) (rep PruneReport, err error) {
	const op = "prune"
	if opt.DryRun {
		err = r.writable(op)
	} else {
		err = r.deletable(op)
	}
	if err != nil {
		return rep, err
	}
	if opt.Memory <= 0 {
		opt.Memory = 64 << 20
	}
	if opt.SessionTimeout <= 0 {
		opt.SessionTimeout = 10 * RenewEvery
	}
	switch {
	case opt.MaxUnused == 0:
		opt.MaxUnused = 0.05
	case opt.MaxUnused < 0:
		opt.MaxUnused = 0
	}
	dir, err := os.MkdirTemp(opt.Scratch, "firn-prune-")
	if err != nil {
		return rep, firn.E(op, r.store.Name(), err)
	}
	defer func() { err = firstError(err, os.RemoveAll(dir)) }()
	s, err := r.newSurvey(ctx, dir, opt.Memory)
	if err != nil {
		return rep, err
	}
	p := &pruner{r: r, opt: opt, rep: &rep, survey: s, watch: newWatch(r, opt.SessionTimeout, opt.Waits)}
	if opt.DryRun {
		if err := s.run(ctx); err != nil {
			return rep, firn.E(op, r.store.Name(), err)
		}
		p.plan()
		return rep, nil
	}
	closing, release := Closing(ctx)
	defer release()
	if err := r.store.Delete(ctx, reserveKey); err != nil {
		return rep, err
	}
	defer func() { rep.NoReserve = r.putReserve(closing) }()
	return rep, p.run(ctx, closing)
}

// pruner is one run of Prune.
type pruner struct {
	r       *Repo
	opt     PruneOptions
	rep     *PruneReport
	survey  *survey
	watch   *watch
	session *Session
}

func (p *pruner) run(ctx, closing context.Context) (err error) {
	// Our own session keeps another prune from taking the packs we write for leftovers.
	if p.session, err = p.r.beginSession(ctx, SessionOptions{Purpose: "prune"}, false); err != nil {
		return err
	}
	p.survey.self = p.session.id
	defer func() {
		p.rep.Dead = p.watch.dead
		if damage(err) {
			// Where another prune goes on with this one, what it did looks like that.
			if e := p.ours(closing); firn.KindOf(e) == firn.Conflict {
				err = e
			}
		}
		err = errors.Join(err, p.session.end(closing, err))
	}()
	if err := p.alone(ctx); err != nil {
		return err
	}
	if err := p.settle(ctx); err != nil {
		return err
	}
	if err := p.survey.run(ctx); err != nil {
		return firn.E("prune", p.r.store.Name(), err)
	}
	earlier, err := p.r.readDoomed(ctx)
	if err != nil {
		return err
	}
	plan := p.plan()
	repacked, err := p.repack(ctx, plan.repack)
	if firn.KindOf(err) == firn.NoSpace {
		p.rep.NoSpace, err = true, nil
	}
	if err != nil {
		return err
	}
	d := doomed{id: newID(), Version: doomedVersion}
	for _, n := range append(plan.remove, repacked...) {
		d.Packs = append(d.Packs, p.survey.packs[n].id)
	}
	all, work := earlier, false
	if len(d.Packs) > 0 {
		if err := p.r.putDoomed(ctx, d); err != nil {
			return err
		}
		all = append(all, d)
	}
	for _, d := range all {
		work = work || len(d.Packs) > 0 || p.survey.dangling(d.Buried)
	}
	if !work {
		return nil
	}
	return p.finish(ctx, all)
}

// alone finds out which sessions are alive, and fails with firn.Conflict where one is another prune. Two would do each
// other's work over again; that one of them was taken for dead wrongly does no harm: see ours and compare.
func (p *pruner) alone(ctx context.Context) error {
	sessions, err := p.r.Sessions(ctx)
	if err != nil {
		return err
	}
	byID := map[ID]SessionInfo{}
	var others []ID
	for _, s := range sessions {
		if s.ID != p.session.id {
			others = append(others, s.ID)
			byID[s.ID] = s
		}
	}
	alive, err := p.watch.wait(ctx, others)
	if err != nil {
		return err
	}
	for _, id := range alive {
		if s := byID[id]; s.Purpose == p.session.purpose {
			return &firn.Error{
				Kind: firn.Conflict, Op: "prune", Subject: p.r.store.Name(),
				Err: fmt.Errorf("another one runs on %s, process %d: let it finish", s.Host, s.PID),
			}
		}
	}
	return nil
}

// settle decides what becomes of snapshots whose session is gone before they were more than pending. One that is whole
// becomes a snapshot. One that needs doomed packs is left: its writer may have found its session there, so that they are
// rescued; or it did not, and another prune may be deleting them now. Another is removed: its writer is dead, or will
// find its session gone, since it would be whole else.
func (p *pruner) settle(ctx context.Context) error {
	r := p.r
	pending, err := r.snapshotIDs(ctx, pendingPrefix)
	if err != nil {
		return err
	}
	var mu sync.Mutex
	var needs bool         // a doomed pack was needed
	there := map[ID]bool{} // doomed packs that were looked for
	has := func(id ID) bool {
		if r.idx.has(id) {
			return true
		}
		mu.Lock()
		needs = true
		mu.Unlock()
		return slices.ContainsFunc(r.idx.dying(id), func(pack ID) bool {
			mu.Lock()
			ok, known := there[pack]
			mu.Unlock()
			if !known {
				var err error
				ok, err = r.store.Exists(ctx, packKey(pack))
				ok = ok || err != nil && !damage(err) // the next prune decides
				mu.Lock()
				there[pack] = ok
				mu.Unlock()
			}
			return ok
		})
	}
	for _, id := range pending {
		f, err := r.readSnapshotFile(ctx, pendingPrefix, id)
		if firn.KindOf(err) == firn.NotFound {
			continue
		}
		if err != nil && !damage(err) || firn.KindOf(err) == firn.Unsupported {
			return err
		}
		if err == nil {
			if alive, err := r.store.Exists(ctx, sessionPrefix+f.Session.String()); err != nil {
				return err
			} else if alive {
				continue
			}
			if err := r.refresh(ctx); err != nil {
				return err
			}
			needs = false
			clear(there)
			if err = r.complete(ctx, f.Root, has); err != nil && !damage(err) {
				return err
			}
			if err == nil && needs {
				continue
			}
		}
		// Else another prune may have settled it, and moved what was looked for, meanwhile.
		if err := p.ours(ctx); err != nil {
			return err
		}
		if err == nil {
			if err := r.putSnapshot(ctx, snapshotPrefix, f.Snapshot, ID{}); err != nil {
				return err
			}
		}
		if err := r.store.Delete(ctx, pendingPrefix+id.String()); err != nil {
			return err
		}
	}
	return nil
}

// ours fails with firn.Conflict if another prune took this one for dead. It is asked before something is deleted.
func (p *pruner) ours(ctx context.Context) error {
	ok, err := p.r.store.Exists(ctx, sessionPrefix+p.session.id.String())
	if err == nil && !ok {
		err = &firn.Error{
			Kind: firn.Conflict, Op: "prune", Subject: p.r.store.Name(),
			Err: errors.New("another prune took this one for dead and goes on with it"),
		}
	}
	return err
}

func (p *pruner) plan() plan {
	rep := p.rep
	for i := range p.survey.packs {
		if k := &p.survey.packs[i]; k.listed {
			rep.Packs++
			rep.Size += k.size
			rep.Used += k.bytes
		}
	}
	rep.Snapshots = p.survey.snapshots
	plan := makePlan(p.survey.packs, int64(p.r.cfg.PackSize), p.opt.MaxUnused)
	for _, n := range plan.remove {
		rep.RemovePacks++
		rep.RemoveSize += p.survey.packs[n].size
	}
	for _, n := range plan.repack {
		rep.RepackPacks++
		rep.RepackSize += p.survey.packs[n].size
	}
	return plan
}

func (r *Repo) putDoomed(ctx context.Context, d doomed) error {
	plain, err := json.Marshal(d)
	if err != nil {
		return err
	}
	key := doomedPrefix + d.id.String()
	return r.store.PutBytes(ctx, key, r.boxes.Box(nil, key, plain))
}

// repack copies what is referred to in the packs to new ones, and returns the packs that need not stay.
func (p *pruner) repack(ctx context.Context, packs []uint32) ([]uint32, error) {
	if len(packs) == 0 {
		return nil, nil
	}
	want := make(map[uint32]bool, len(packs))
	for _, n := range packs {
		want[n] = true
	}
	var done []uint32
	if err := p.survey.kept(func(n uint32) bool { return want[n] }, func(n uint32, ids map[ID]bool) error {
		if err := p.moveChunks(ctx, &p.survey.packs[n], ids); firn.KindOf(err) == firn.NotFound {
			return &firn.Error{
				Kind: firn.Unavailable, Op: "prune", Subject: p.r.store.Name(),
				Err: fmt.Errorf("a pack went that was there, so another prune may be under way: run it again: %w", err),
			}
		} else if err != nil {
			return err
		}
		done = append(done, n)
		return nil
	}); err != nil {
		return nil, err
	}
	return done, p.session.flush(ctx)
}

// moveChunks writes chunks of one pack into those the session fills. They are not decompressed: the seal says that they
// are what was stored.
func (p *pruner) moveChunks(ctx context.Context, k *surveyed, ids map[ID]bool) error {
	head, list, err := p.r.readTrailer(ctx, k.id, k.size)
	if firn.KindOf(err) == firn.Corrupt {
		// What is damaged may be nothing that is needed. Where it is, its seal says so.
		head, list, err = p.indexed(ctx, k.id, err)
	}
	if err != nil {
		return err
	}
	aead := p.r.packAEAD(head.salt)
	b := p.r.buffers.get()
	defer p.r.buffers.put(b)
	w := &worker{}
	for i, off := 0, int64(packHeader); i < len(list); {
		if !ids[list[i].id] {
			off += int64(list[i].stored)
			i++
			continue
		}
		j, end := i, off
		for ; j < len(list) && ids[list[j].id] && (j == i || end+int64(list[j].stored)-off <= maxRun); j++ {
			end += int64(list[j].stored)
		}
		b.read = slices.Grow(b.read[:0], int(end-off))[:end-off]
		if err := p.r.readAt(ctx, packKey(k.id), b.read, off); err != nil {
			return err
		}
		for rest := b.read; i < j; i++ {
			e := list[i]
			sealed := rest[:e.stored:e.stored]
			rest = rest[e.stored:]
			body, err := aead.Open(sealed[:0], seal.Nonce(&w.nonce, uint64(off)), sealed, chunkAAD(&w.aad, head.kind, e.id))
			if err != nil {
				return firn.E("read", packKey(k.id), chunkError(e.id, firn.NewError(firn.Corrupt, "damaged: run 'firn repo check --read-data'")))
			}
			off += int64(e.stored)
			q, at, err := p.session.reserve(ctx, head.kind, e)
			if err != nil {
				return err
			}
			q.aead.Seal(q.buf[at:at:at+int(e.stored)], seal.Nonce(&w.nonce, uint64(at)), body, chunkAAD(&w.aad, head.kind, e.id))
			p.session.sealed(q)
			p.rep.Written += int64(e.stored)
			delete(ids, e.id) // one copy is enough
		}
	}
	if len(ids) > 0 {
		return &firn.Error{
			Kind: firn.Corrupt, Op: "prune", Subject: packKey(k.id),
			Err: errors.New("the index says that it has chunks it does not list: run 'firn repo repair'"),
		}
	}
	return nil
}

// indexed returns the chunks of a pack as an index file lists them; otherwise where none does.
func (p *pruner) indexed(ctx context.Context, id ID, otherwise error) (head packHead, list []entry, err error) {
	for _, f := range p.survey.index {
		file, err := p.r.readIndex(ctx, f.id, f.size)
		if err != nil {
			return head, nil, err
		}
		if err := parseIndex(file, func(k indexPack) error {
			if k.id == id {
				head, otherwise = k.head, nil
				list, err = parseEntries(k.list, int64(k.size)-packFooter-seal.Overhead-int64(len(k.list)))
			}
			return err
		}); err != nil {
			return head, nil, firn.E("read", indexPrefix+f.id.String(), err)
		}
		if otherwise == nil {
			break
		}
	}
	return head, list, otherwise
}

// finish deletes what is doomed, once nobody can rely on it.
func (p *pruner) finish(ctx context.Context, all []doomed) error {
	for i := range all {
		if d := &all[i]; !d.Listed {
			// Sessions that begin after the file was published see it.
			ids, err := p.r.sessionIDs(ctx)
			if err != nil {
				return err
			}
			d.Sessions, d.Listed = slices.DeleteFunc(ids, func(id ID) bool { return id == p.session.id }), true
			if err := p.r.putDoomed(ctx, *d); err != nil {
				return err
			}
		}
	}
	var ready, waiting []doomed
	blocking := map[ID]bool{}
	for _, d := range all {
		alive, err := p.watch.wait(ctx, d.Sessions)
		if err != nil {
			return err
		}
		if len(alive) == 0 {
			ready = append(ready, d)
			continue
		}
		waiting = append(waiting, d)
		for _, id := range alive {
			blocking[id] = true
		}
	}
	if len(waiting) > 0 {
		if err := p.pending(ctx, waiting, blocking); err != nil {
			return err
		}
	}
	if len(ready) == 0 {
		return nil
	}
	// Whatever a session that has ended relied on is in its snapshot, which is seen now, or it is told.
	if err := p.settle(ctx); err != nil {
		return err
	}
	if err := p.survey.run(ctx); err != nil {
		return firn.E("prune", p.r.store.Name(), err)
	}
	kept, err := p.rescue(ctx, ready)
	if err != nil {
		return err
	}
	return p.remove(ctx, ready, kept)
}

func (p *pruner) pending(ctx context.Context, waiting []doomed, blocking map[ID]bool) error {
	for _, d := range waiting {
		for _, id := range d.Packs {
			if n, ok := p.survey.numbers[id]; ok && p.survey.packs[n].listed {
				p.rep.Pending++
				p.rep.PendingSize += p.survey.packs[n].size
			}
		}
	}
	sessions, err := p.r.Sessions(ctx)
	for _, s := range sessions {
		if blocking[s.ID] {
			p.rep.Waiting = append(p.rep.Waiting, s)
		}
	}
	return err
}

// rescue copies what snapshots refer to after all, and returns the packs that it cannot copy for want of space.
//
// A pack that was doomed stays so, and nobody relies on it ever again: another prune that was taken for dead wrongly may
// be deleting it, and the next call of its own that it makes certain of may come too late.
func (p *pruner) rescue(ctx context.Context, ready []doomed) (map[ID]bool, error) {
	kept := map[ID]bool{}
	var needed []uint32
	for _, d := range ready {
		for _, id := range d.Packs {
			if n, ok := p.survey.numbers[id]; ok && p.survey.packs[n].live > 0 && !kept[id] {
				kept[id] = true
				needed = append(needed, n)
			}
		}
	}
	p.rep.Rescued += len(needed)
	moved, err := p.repack(ctx, needed)
	if firn.KindOf(err) == firn.NoSpace {
		p.rep.NoSpace, err = true, nil
	}
	for _, n := range moved {
		delete(kept, p.survey.packs[n].id)
	}
	return kept, err
}

// remove deletes packs that are not kept, then what the index says of them, then the note that they are doomed. While
// that is there, nobody relies on them.
func (p *pruner) remove(ctx context.Context, ready []doomed, kept map[ID]bool) error {
	gone := map[ID]bool{}
	buried := doomed{id: newID(), Version: doomedVersion, Listed: true}
	bury := func(id ID) {
		if n, ok := p.survey.numbers[id]; !ok || !p.survey.packs[n].indexed {
			buried.Buried = append(buried.Buried, id)
		}
	}
	var keys []string
	for _, d := range ready {
		for _, id := range d.Buried {
			if !gone[id] {
				gone[id] = true
				bury(id)
			}
		}
		for _, id := range d.Packs {
			if gone[id] || kept[id] {
				continue
			}
			gone[id] = true
			bury(id)
			if n, ok := p.survey.numbers[id]; ok && p.survey.packs[n].listed {
				keys = append(keys, packKey(id))
				p.rep.FreedPacks++
				p.rep.Freed += p.survey.packs[n].size
			}
		}
	}
	for batch := range slices.Chunk(keys, 1000) {
		if err := p.ours(ctx); err != nil {
			return err
		}
		if err := p.r.store.Delete(ctx, batch...); err != nil {
			return err
		}
	}
	if err := p.rewriteIndex(ctx, gone); err != nil {
		return err
	}
	// Another prune that goes on with this one may not have come as far.
	if err := p.ours(ctx); err != nil {
		return err
	}
	if len(buried.Buried) > 0 {
		if err := p.r.putDoomed(ctx, buried); err != nil {
			return err
		}
	}
	var notes []string
	for _, d := range ready {
		d.Buried = nil
		d.Packs = slices.DeleteFunc(d.Packs, func(id ID) bool { return !kept[id] })
		if len(d.Packs) == 0 {
			notes = append(notes, doomedPrefix+d.id.String())
		} else if err := p.r.putDoomed(ctx, d); err != nil {
			return err
		}
	}
	return p.r.store.Delete(ctx, notes...)
}

// smallIndex is how many index files may be much smaller than they could be before they are put together.
const smallIndex = 16

// rewriteIndex replaces the index files that name a pack of gone, and small ones where there are many.
func (p *pruner) rewriteIndex(ctx context.Context, gone map[ID]bool) error {
	r, files := p.r, p.survey.index
	var small int
	for _, f := range files {
		if f.size < indexEntries*entrySize/4 {
			small++
		}
	}
	var old []string
	var content []byte
	kept := map[ID]bool{}
	flush := func() error {
		if len(content) == 0 {
			return nil
		}
		if err := p.ours(ctx); err != nil {
			return err
		}
		id, err := r.putIndex(ctx, content)
		content = content[:0]
		if err != nil {
			return err
		}
		// Had another prune gone on with this one in between, the file could name what is deleted.
		if err := p.ours(ctx); err != nil {
			return errors.Join(err, r.store.Delete(ctx, indexPrefix+id.String()))
		}
		return nil
	}
	for _, f := range files {
		file, err := r.readIndex(ctx, f.id, f.size)
		if firn.KindOf(err) == firn.NotFound {
			continue // by another prune
		}
		if err != nil {
			return err
		}
		rewrite := small > smallIndex && f.size < indexEntries*entrySize/4
		if err := parseIndex(file, func(k indexPack) error {
			rewrite = rewrite || gone[k.id]
			return nil
		}); err != nil {
			return firn.E("read", indexPrefix+f.id.String(), err)
		}
		if !rewrite {
			continue
		}
		if err := parseIndex(file, func(k indexPack) error {
			if gone[k.id] || kept[k.id] {
				return nil
			}
			kept[k.id] = true
			content = appendIndexPack(content, k.id, k.head, k.size, k.list)
			if len(content) >= indexEntries*entrySize {
				return flush()
			}
			return nil
		}); err != nil {
			return err
		}
		old = append(old, indexPrefix+f.id.String())
	}
	if err := flush(); err != nil {
		return err
	}
	for batch := range slices.Chunk(old, 1000) {
		if err := p.ours(ctx); err != nil {
			return err
		}
		if err := r.store.Delete(ctx, batch...); err != nil {
			return err
		}
	}
	return nil
}

func (r *Repo) sessionIDs(ctx context.Context) ([]ID, error) {
	var ids []ID
	err := r.listIDs(ctx, sessionPrefix, func(id ID, _ driver.Info) error {
		ids = append(ids, id)
		return nil
	})
	return ids, err
}

// watch follows sessions by this process's own clock, which only goes forward.
type watch struct {
	r       *Repo
	timeout time.Duration
	waits   func(Wait)
	seen    map[ID]*sign
	dead    int
}

// sign is what a session showed.
type sign struct {
	token string
	since time.Time // when this process first saw the token
	moved bool      // the token changed while this process looked
	told  bool      // that it is waited for
}

func newWatch(r *Repo, timeout time.Duration, waits func(Wait)) *watch {
	return &watch{r: r, timeout: timeout, waits: waits, seen: map[ID]*sign{}}
}

// look takes note of the sessions there are.
func (w *watch) look(ctx context.Context) error {
	ids, err := w.r.sessionIDs(ctx)
	if err != nil {
		return err
	}
	there := map[ID]bool{}
	for _, id := range ids {
		there[id] = true
		p, err := w.r.store.ReadAll(ctx, sessionPrefix+id.String()+aliveSuffix, sessionLimit)
		if err != nil && firn.KindOf(err) != firn.NotFound {
			return err
		}
		s := w.seen[id]
		if s == nil {
			w.seen[id] = &sign{token: string(p), since: time.Now()}
		} else if s.token != string(p) {
			s.token, s.since, s.moved = string(p), time.Now(), true
		}
	}
	for id := range w.seen {
		if !there[id] {
			delete(w.seen, id)
		}
	}
	return nil
}

// wait returns those of the sessions that are alive. It waits until each of the others has ended, or has shown no sign
// of life for the timeout; then it deletes the file.
func (w *watch) wait(ctx context.Context, ids []ID) ([]ID, error) {
	for {
		if err := w.look(ctx); err != nil {
			return nil, err
		}
		var alive, unknown []ID
		for _, id := range ids {
			s := w.seen[id]
			switch {
			case s == nil:
			case time.Since(s.since) >= w.timeout:
				// The session's file first: with it the session is over.
				key := sessionPrefix + id.String()
				if err := w.r.store.Delete(ctx, key); err != nil {
					return nil, err
				}
				if err := w.r.store.Delete(ctx, key+aliveSuffix); err != nil {
					return nil, err
				}
				delete(w.seen, id)
				w.dead++
			case s.moved:
				alive = append(alive, id)
			default:
				unknown = append(unknown, id)
			}
		}
		if len(unknown) == 0 {
			return alive, nil
		}
		if err := w.tell(ctx, unknown); err != nil {
			return nil, err
		}
		t := time.NewTimer(max(w.timeout/20, 10*time.Millisecond))
		select {
		case <-ctx.Done():
			t.Stop()
			return nil, context.Cause(ctx)
		case <-t.C:
		}
	}
}

// tell says which sessions are waited for, those it was said of before left out.
func (w *watch) tell(ctx context.Context, ids []ID) error {
	if w.waits == nil || !slices.ContainsFunc(ids, func(id ID) bool { return !w.seen[id].told }) {
		return nil
	}
	all, err := w.r.Sessions(ctx)
	if err != nil {
		return err
	}
	var wait Wait
	for _, s := range all {
		sign := w.seen[s.ID]
		if sign == nil || sign.told || !slices.Contains(ids, s.ID) {
			continue
		}
		sign.told = true
		wait.Sessions = append(wait.Sessions, s)
		wait.AtMost = max(wait.AtMost, w.timeout-time.Since(sign.since))
	}
	if len(wait.Sessions) > 0 {
		w.waits(wait)
	}
	return nil
}

// describe says what a report means, in one line.
func (p PruneReport) String() string {
	return fmt.Sprintf("%d snapshots, %d packs of %d bytes, %d used; %d packs and %d bytes freed, %d pending, %d rescued",
		p.Snapshots, p.Packs, p.Size, p.Used, p.FreedPacks, p.Freed, p.Pending, p.Rescued)
}
