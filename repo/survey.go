package repo

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"firn"
	"firn/blob/driver"
)

// survey finds out which chunks snapshots refer to and in which packs those are, in little memory: the ids it meets go
// to files in parts, and the parts are compared one by one. It can be run again to learn what changed: what a snapshot
// refers to never changes, so that only new snapshots are walked.
//
// In memory are: one part of the index, 48 bytes a chunk; 120 bytes a pack; 64 bytes a tree; 16 KiB twice for each part.
type survey struct {
	r     *Repo
	dir   string
	parts int
	self  ID     // the session of who asks
	used  *spill // ids that snapshots refer to, some more than once
	roots map[ID]bool
	trees map[ID]bool // walked
	fresh [1 << 12]ID // ids added lately, so that most repetitions are not written
	mu    sync.Mutex  // of used, trees, fresh while trees are walked

	snapshots int
	packs     []surveyed
	numbers   map[ID]uint32
	index     []indexFile // index files and their sizes
	keep      *spill      // pack and id of each chunk that is referred to, where it is kept
}

// surveyed is a pack and what is known of it.
type surveyed struct {
	id      ID
	kind    Kind
	size    int64 // as indexed, else as listed
	listed  bool  // it is there
	indexed bool
	doomed  bool
	young   bool // it may be of a session that has not ended: nothing refers to it yet
	chunks  uint32
	live    uint32 // chunks that are referred to and kept here
	bytes   int64  // of those
}

const (
	usedRecord  = 32
	entryRecord = 40 // id, pack, stored
	keepRecord  = 36 // pack, id
)

// newSurvey prepares one. The directory is the caller's to remove; memory bounds a part of the index.
func (r *Repo) newSurvey(ctx context.Context, dir string, memory int64) (*survey, error) {
	var total int64
	if err := r.listIDs(ctx, indexPrefix, func(_ ID, info driver.Info) error {
		total += info.Size
		return nil
	}); err != nil {
		return nil, err
	}
	// An entry is 40 bytes in an index file; parts are uneven, and there may be more by the time it is read.
	parts := int(min(256, 1+2*(total/entrySize)*48/max(memory, 1)))
	return &survey{
		r: r, dir: dir, parts: parts, used: newSpill(dir, "used", usedRecord, parts),
		roots: map[ID]bool{}, trees: map[ID]bool{},
	}, nil
}

// run brings the survey to the present state. It fails with firn.Corrupt where a chunk that is referred to is lost.
func (s *survey) run(ctx context.Context) error {
	for range 10 {
		err := s.once(ctx)
		if firn.KindOf(err) != firn.NotFound {
			return err
		}
	}
	return firn.NewError(firn.Unavailable, "the index changes faster than it can be read: another prune may be under way")
}

func (s *survey) once(ctx context.Context) (err error) {
	// What a snapshot that is listed refers to is in the index that is listed after it; what an index file that is listed
	// names is among the packs that are listed after it, unless it was deleted.
	// A snapshot that is pending is listed as that, or later as a snapshot.
	pending, err := s.r.snapshotIDs(ctx, pendingPrefix)
	if err != nil {
		return err
	}
	snapshots, err := s.r.snapshotIDs(ctx, snapshotPrefix)
	if err != nil {
		return err
	}
	s.snapshots = len(snapshots)
	dooms, err := s.r.readDoomed(ctx)
	if err != nil {
		return err
	}
	if s.index, err = s.r.listIndex(ctx); err != nil {
		return err
	}
	// What a session stored has no snapshot until it ends. Removing it would do no harm but make it store all again; both
	// times are of the place's clock, and where it has none, all is young while there are sessions.
	busy, oldest := false, time.Time{}
	if err := s.r.listIDs(ctx, sessionPrefix, func(id ID, info driver.Info) error {
		if id != s.self && (!busy || info.Modified.Before(oldest)) {
			busy, oldest = true, info.Modified
		}
		return nil
	}); err != nil {
		return err
	}
	s.packs, s.numbers = nil, map[ID]uint32{}
	if err := s.r.listIDs(ctx, packsPrefix, func(id ID, info driver.Info) error {
		s.numbers[id] = uint32(len(s.packs))
		young := busy && (info.Modified.IsZero() || !info.Modified.Before(oldest))
		s.packs = append(s.packs, surveyed{id: id, size: info.Size, listed: true, young: young})
		return nil
	}); err != nil {
		return err
	}
	for _, d := range dooms {
		for _, id := range d.Packs {
			if n, ok := s.numbers[id]; ok {
				s.packs[n].doomed = true
			}
		}
	}
	entries := newSpill(s.dir, "entries", entryRecord, s.parts)
	defer func() { err = firstError(err, entries.clear()) }()
	trees := newIndex()
	for _, f := range s.index {
		p, err := s.r.readIndex(ctx, f.id, f.size)
		if err != nil {
			return err
		}
		if err := parseIndex(p, func(k indexPack) error { return s.addPack(k, entries, trees) }); err != nil {
			return firn.E("read", indexPrefix+f.id.String(), err)
		}
	}
	if err := s.walk(ctx, pending, snapshots, trees); err != nil {
		return err
	}
	return s.compare(entries)
}

// addPack notes a pack of an index file.
func (s *survey) addPack(k indexPack, entries *spill, trees *index) error {
	n, ok := s.numbers[k.id]
	if !ok {
		n = uint32(len(s.packs))
		s.numbers[k.id] = n
		s.packs = append(s.packs, surveyed{id: k.id})
	}
	p := &s.packs[n]
	if p.indexed {
		return nil // named by two files, after a rewrite that was cut off
	}
	p.indexed, p.kind, p.size, p.chunks = true, k.head.kind, int64(k.size), uint32(len(k.list)/entrySize)
	var number uint32
	if k.head.kind == Tree && p.listed {
		state := packStored
		if p.doomed { // it may be so because it is damaged: another one that has the tree is read first
			state |= packDoomed
		}
		number = trees.addPack(packInfo{id: k.id, salt: k.head.salt, size: k.size, kind: Tree, state: state})
	}
	off := uint32(packHeader)
	var record [entryRecord]byte
	for l := k.list; len(l) > 0; l = l[entrySize:] {
		e := readEntry(l)
		if k.head.kind == Tree && p.listed {
			trees.put(located{e.id, number, off, e.stored, e.plain})
		}
		off += e.stored
		copy(record[:], e.id[:])
		binary.LittleEndian.PutUint32(record[32:], n)
		binary.LittleEndian.PutUint32(record[36:], e.stored)
		if err := entries.add(entries.part(e.id), record[:]); err != nil {
			return err
		}
	}
	return nil
}

// use notes ids as referred to.
func (s *survey) use(ids []ID) error {
	for _, id := range ids {
		f := &s.fresh[binary.LittleEndian.Uint16(id[4:])%uint16(len(s.fresh))]
		if *f == id {
			continue
		}
		*f = id
		if err := s.used.add(s.used.part(id), id[:]); err != nil {
			return err
		}
	}
	return nil
}

// walk follows the snapshots that were not walked before.
func (s *survey) walk(ctx context.Context, pending, snapshots []ID, trees *index) error {
	var level []ID
	for i, id := range slices.Concat(pending, snapshots) {
		if s.roots[id] {
			continue
		}
		prefix := snapshotPrefix
		if i < len(pending) {
			prefix = pendingPrefix
		}
		snap, err := s.r.readSnapshotFile(ctx, prefix, id)
		if firn.KindOf(err) == firn.NotFound {
			continue // forgotten, or not pending any more
		}
		if err != nil {
			return err
		}
		s.roots[id] = true
		if !s.trees[snap.Root] {
			s.trees[snap.Root] = true
			level = append(level, snap.Root)
		}
	}
	if err := s.use(level); err != nil {
		return err
	}
	for len(level) > 0 {
		var next []ID
		err := s.r.loadFrom(ctx, trees, level, func(i int, p []byte) error {
			t, err := ParseTree(p)
			if err != nil {
				return firn.E("read tree", level[i].String(), err)
			}
			s.mu.Lock()
			defer s.mu.Unlock()
			for _, id := range t.Trees {
				if !s.trees[id] {
					s.trees[id] = true
					next = append(next, id)
				}
			}
			return cmp.Or(s.use(t.Trees), s.use(t.Data))
		})
		if firn.KindOf(err) == firn.NotFound {
			err = &firn.Error{Kind: firn.Corrupt, Err: fmt.Errorf("a snapshot refers to what is lost, run 'firn repo check': %w", err)}
		}
		if err != nil {
			clear(s.roots) // what was not walked to its end is walked again
			clear(s.trees)
			return err
		}
		level = next
	}
	return nil
}

// record is an entry of the index in memory.
type record struct {
	id           ID
	pack, stored uint32
	used         bool
}

// compare counts for each pack what is referred to, part by part.
func (s *survey) compare(entries *spill) error {
	if s.keep != nil {
		if err := s.keep.clear(); err != nil {
			return err
		}
	}
	s.keep = newSpill(s.dir, "keep", keepRecord, s.parts)
	var all []record
	lost, example := 0, ID{}
	for part := range s.parts {
		all = slices.Grow(all[:0], entries.parts[part].n)
		if err := entries.each(part, func(p []byte) error {
			all = append(all, record{id: ID(p), pack: binary.LittleEndian.Uint32(p[32:]), stored: binary.LittleEndian.Uint32(p[36:])})
			return nil
		}); err != nil {
			return err
		}
		slices.SortFunc(all, func(a, b record) int { return cmp.Or(bytes.Compare(a.id[:], b.id[:]), s.prefer(a.pack, b.pack)) })
		if err := s.used.each(part, func(p []byte) error {
			id := ID(p)
			i, ok := slices.BinarySearchFunc(all, id, func(r record, id ID) int { return bytes.Compare(r.id[:], id[:]) })
			// The first of several is the one that is kept.
			if !ok || !s.packs[all[i].pack].listed {
				lost++
				example = id
				return nil
			}
			if all[i].used {
				return nil
			}
			all[i].used = true
			if err := s.keepIn(&all[i]); err != nil || !s.packs[all[i].pack].doomed {
				return err
			}
			// All of its packs are doomed, perhaps by different prunes that each count on the other's: keep them all.
			for i++; i < len(all) && all[i].id == id && s.packs[all[i].pack].listed; i++ {
				if err := s.keepIn(&all[i]); err != nil {
					return err
				}
			}
			return nil
		}); err != nil {
			return err
		}
	}
	if lost > 0 {
		return &firn.Error{Kind: firn.Corrupt, Err: fmt.Errorf("snapshots refer to %d chunks that are lost, %s among them: "+
			"run 'firn repo check', repair or forget what it names, then prune", lost, example)}
	}
	return nil
}

// keepIn notes that a chunk is kept in a pack.
func (s *survey) keepIn(r *record) error {
	k := &s.packs[r.pack]
	k.live++
	k.bytes += int64(r.stored)
	var rec [keepRecord]byte
	binary.LittleEndian.PutUint32(rec[:], r.pack)
	copy(rec[4:], r.id[:])
	return s.keep.add(int(r.pack)%s.parts, rec[:])
}

// prefer orders packs by which of them keeps a chunk that both have.
func (s *survey) prefer(a, b uint32) int {
	rank := func(n uint32) int {
		switch p := &s.packs[n]; {
		case !p.listed:
			return 2
		case p.doomed:
			return 1
		}
		return 0
	}
	return cmp.Or(cmp.Compare(rank(a), rank(b)), cmp.Compare(a, b))
}

// kept calls fn for the packs for which want holds, with the chunks that are to be kept from there.
func (s *survey) kept(want func(n uint32) bool, fn func(n uint32, ids map[ID]bool) error) error {
	for part := range s.parts {
		packs := map[uint32]map[ID]bool{}
		if err := s.keep.each(part, func(p []byte) error {
			n := binary.LittleEndian.Uint32(p)
			if want(n) {
				if packs[n] == nil {
					packs[n] = map[ID]bool{}
				}
				packs[n][ID(p[4:])] = true
			}
			return nil
		}); err != nil {
			return err
		}
		for _, n := range slices.Sorted(maps.Keys(packs)) {
			if err := fn(n, packs[n]); err != nil {
				return err
			}
		}
	}
	return nil
}

// dangling reports whether an index file names one of the packs.
func (s *survey) dangling(packs []ID) bool {
	return slices.ContainsFunc(packs, func(id ID) bool {
		n, ok := s.numbers[id]
		return ok && s.packs[n].indexed
	})
}

// firstError is for a clean-up whose failure matters only where nothing failed before.
func firstError(a, b error) error {
	if a != nil {
		return a
	}
	return b
}
