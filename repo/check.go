package repo

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"

	"firn"
	"firn/blob/driver"
	"firn/seal"
)

// CheckOptions are settings of Check.
type CheckOptions struct {
	// ReadData is the part of the packs that is read back and compared, at random: 0 is none, 1 all.
	ReadData float64
	// Snapshots are those to check; none is all.
	Snapshots []ID
}

// Problem is something wrong.
type Problem struct {
	// Blob is the key of what is damaged, missing or not needed.
	Blob string
	// Pack is the pack that is damaged or missing; zero where it is another blob.
	Pack ID
	// Chunks are those that are lost or damaged by it. Content is lost where a snapshot refers to them.
	Chunks []ID
	// Snapshot is one that cannot be restored whole because of it; zero where that is not known.
	Snapshot ID
	// Harmless: nothing is lost; what to do about it is said.
	Harmless bool
	// Err says what is wrong, and what to do.
	Err error
}

func (p Problem) Error() string {
	s := p.Blob + ": " + p.Err.Error()
	if len(p.Chunks) > 0 {
		s += fmt.Sprintf(" (%d chunks)", len(p.Chunks))
	}
	return s
}

// CheckReport says what a check looked at.
type CheckReport struct {
	Snapshots, Trees, Chunks int // Chunks counts references
	Packs, PacksRead         int
	BytesRead                int64
	Problems                 int // that are not harmless
}

// Check looks whether each snapshot is whole: that what it refers to is in a pack that is there with the size it should
// have, and for the part of ReadData that the pack's bytes are right. Each problem is reported once, from one goroutine.
// The error says why the check could not be carried out; problems are none.
//
// Its memory is the index, 40 bytes a tree, 100 bytes a pack, and for reading 4 packs.
func (r *Repo) Check(ctx context.Context, opt CheckOptions, report func(Problem)) (CheckReport, error) {
	c := &checker{r: r, opt: opt, trees: map[ID]bool{}, lost: map[ID]bool{}}
	c.report = func(p Problem) {
		c.mu.Lock()
		defer c.mu.Unlock()
		if !p.Harmless {
			c.rep.Problems++
		}
		report(p)
	}
	err := c.run(ctx)
	return c.rep, err
}

type checker struct {
	r      *Repo
	opt    CheckOptions
	mu     sync.Mutex // of rep, lost and the calls of report
	rep    CheckReport
	report func(Problem)
	trees  map[ID]bool
	lost   map[ID]bool // chunks that were reported
}

// damage reports whether err is of what was read, not of the way there.
func damage(err error) bool {
	switch firn.KindOf(err) {
	case firn.Corrupt, firn.NotFound, firn.Invalid, firn.Unsupported:
		return true
	}
	return false
}

func (c *checker) run(ctx context.Context) error {
	r := c.r
	snapshots, err := r.snapshotIDs(ctx, snapshotPrefix)
	if err != nil {
		return err
	}
	keys := 0
	for info, err := range r.store.List(ctx, keysPrefix) {
		if err != nil {
			return err
		}
		keys++
		p, err := r.store.ReadAll(ctx, info.Key, keyLimit)
		if err == nil {
			_, err = parseKeyFile(p)
		}
		if err != nil && damage(err) {
			c.report(Problem{Blob: info.Key, Err: fmt.Errorf("this key cannot be used: add the password again and remove it: %w", err)})
		} else if err != nil {
			return err
		}
	}
	if keys == 0 {
		c.report(Problem{Blob: keysPrefix, Err: errors.New("all keys are gone: add one now, while this process can")})
	}
	if err := c.index(ctx); err != nil {
		return err
	}
	there, err := c.packs(ctx)
	if err != nil {
		return err
	}
	for _, id := range snapshots {
		if len(c.opt.Snapshots) > 0 && !slices.Contains(c.opt.Snapshots, id) {
			continue
		}
		if err := c.snapshot(ctx, id); err != nil {
			return err
		}
	}
	if c.opt.ReadData > 0 {
		if err := c.readData(ctx, there); err != nil {
			return err
		}
	}
	return nil
}

// index loads the index into memory; a file that is damaged does not hide the others.
func (c *checker) index(ctx context.Context) error {
	return c.r.refreshWith(ctx, func(id ID, err error) bool {
		if !damage(err) {
			return false
		}
		c.report(Problem{
			Blob: indexPrefix + id.String(),
			Err:  fmt.Errorf("the index is damaged: run 'firn repo repair', which makes it from the packs: %w", err),
		})
		return true
	})
}

// indexRecord is a pack by the index in memory.
type indexRecord struct {
	number uint32
	packInfo
}

// indexRecords lists the packs that index files name.
func (r *Repo) indexRecords() map[ID]indexRecord {
	r.idx.mu.RLock()
	defer r.idx.mu.RUnlock()
	all := map[ID]indexRecord{}
	for i, p := range r.idx.packs {
		if p.file != noFile && p.state&packGone == 0 {
			all[p.id] = indexRecord{uint32(i), p}
		}
	}
	return all
}

// packs compares the index with the packs there are, and returns those.
func (c *checker) packs(ctx context.Context) (map[ID]int64, error) {
	r := c.r
	there := map[ID]int64{}
	if err := r.listIDs(ctx, packsPrefix, func(id ID, info driver.Info) error {
		there[id] = info.Size
		return nil
	}); err != nil {
		return nil, err
	}
	c.rep.Packs = len(there)
	ids, err := r.sessionIDs(ctx)
	if err != nil {
		return nil, err
	}
	broken := c.broken(there)
	if len(broken) > 0 {
		// A prune may have removed them since the index was loaded.
		if err := c.index(ctx); err != nil {
			return nil, err
		}
		still := c.broken(there)
		// One that is named only now may have been stored after the listing.
		maps.DeleteFunc(broken, func(n uint32, _ error) bool { _, ok := still[n]; return !ok })
	}
	indexed := r.indexRecords()
	orphans := 0
	for id := range there {
		if _, ok := indexed[id]; !ok {
			orphans++
		}
	}
	if orphans > 0 && len(ids) == 0 {
		c.report(Problem{
			Blob: packsPrefix, Harmless: true,
			Err: fmt.Errorf("%d packs are in no index, left by runs that were cut off: prune removes them, 'firn repo repair' uses them", orphans),
		})
	}
	for n := range broken {
		r.idx.change(n, func(p *packInfo) { p.state |= packGone })
	}
	chunks := r.idx.onlyIn(broken)
	for n, err := range broken {
		if err == nil {
			continue
		}
		k := r.idx.pack(n)
		c.report(Problem{Blob: packKey(k.id), Pack: k.id, Chunks: chunks[n], Err: err})
		for _, id := range chunks[n] {
			c.lost[id] = true
		}
	}
	return there, nil
}

// broken finds the packs of the index that are not there as they should be; without an error those that a prune, which
// was cut off after that, deleted.
func (c *checker) broken(there map[ID]int64) map[uint32]error {
	broken := map[uint32]error{}
	for id, k := range c.r.indexRecords() {
		size, ok := there[id]
		switch {
		case !ok && k.state&packDoomed != 0:
			broken[k.number] = nil
		case !ok:
			broken[k.number] = errors.New("the pack is missing: put it back from a copy, or run 'firn repo repair' and back up again")
		case size != int64(k.size):
			broken[k.number] = fmt.Errorf("the pack has %d bytes instead of %d: put it back from a copy, or run 'firn repo repair' and back up again", size, k.size)
		}
	}
	return broken
}

// onlyIn collects the chunks that the index finds in the packs, which are gone, and in no other: each once.
func (x *index) onlyIn(packs map[uint32]error) map[uint32][]ID {
	all := map[uint32][]ID{}
	if len(packs) == 0 {
		return all
	}
	for i := range x.shards {
		s := &x.shards[i]
		s.mu.RLock()
		for n := range s.n {
			e := s.entry(uint32(n))
			if _, ok := packs[e.pack]; !ok {
				continue
			}
			first, elsewhere := (*located)(nil), false
			for o, slot := s.find(e.id); o != nil; o, slot = s.next(e.id, slot) {
				if _, ok := packs[o.pack]; ok && first == nil {
					first = o
				}
				elsewhere = elsewhere || x.state(o.pack)&packGone == 0
			}
			if first == e && !elsewhere {
				all[e.pack] = append(all[e.pack], e.id)
			}
		}
		s.mu.RUnlock()
	}
	return all
}

// snapshot follows all that one snapshot refers to.
func (c *checker) snapshot(ctx context.Context, id ID) error {
	r := c.r
	key := snapshotPrefix + id.String()
	snap, err := r.readSnapshot(ctx, id)
	if firn.KindOf(err) == firn.NotFound {
		return nil // forgotten meanwhile
	}
	if err != nil && damage(err) {
		c.report(Problem{Blob: key, Snapshot: id, Err: fmt.Errorf("the snapshot cannot be read: put it back from a copy, or forget it: %w", err)})
		return nil
	}
	if err != nil {
		return err
	}
	c.rep.Snapshots++
	// lose reports a chunk once; the first snapshot that needs it is named.
	lose := func(chunk ID, err error) {
		c.mu.Lock()
		known := c.lost[chunk]
		c.lost[chunk] = true
		c.mu.Unlock()
		if !known {
			c.report(Problem{Blob: key, Snapshot: id, Chunks: []ID{chunk}, Err: err})
		}
	}
	missing := errors.New("it refers to a chunk that no pack has: run 'firn repo repair' and back up again")
	level := []ID{snap.Root}
	for len(level) > 0 {
		level = slices.DeleteFunc(level, func(id ID) bool {
			if c.trees[id] {
				return true
			}
			c.trees[id] = true
			if _, _, ok := r.idx.get(id, nil); !ok {
				lose(id, missing)
				return true
			}
			return false
		})
		var next []ID
		if err := c.loadTrees(ctx, level, func(i int, p []byte, err error) {
			var t TreeChunk
			if err == nil {
				t, err = ParseTree(p)
			}
			if err != nil {
				lose(level[i], fmt.Errorf("it refers to a tree that cannot be read: %w", err))
				return
			}
			for _, id := range t.Data {
				if _, _, ok := r.idx.get(id, nil); !ok {
					lose(id, missing)
				}
			}
			c.mu.Lock()
			defer c.mu.Unlock()
			c.rep.Trees++
			c.rep.Chunks += len(t.Data) + len(t.Trees)
			next = append(next, t.Trees...)
		}); err != nil {
			return err
		}
		level = next
	}
	return nil
}

// loadTrees calls fn for each, with its error where it is damaged.
func (c *checker) loadTrees(ctx context.Context, ids []ID, fn func(i int, p []byte, err error)) error {
	done := make([]bool, len(ids))
	var mu sync.Mutex
	err := c.r.LoadMany(ctx, ids, func(i int, p []byte) error {
		mu.Lock()
		again := done[i]
		done[i] = true
		mu.Unlock()
		if !again {
			fn(i, p, nil)
		}
		return nil
	})
	if err == nil || !damage(err) {
		return err
	}
	// One of them is damaged: those that did not come are asked for one by one.
	for i, id := range ids {
		if done[i] {
			continue
		}
		p, err := c.r.Load(ctx, id, nil)
		if err != nil && !damage(err) {
			return err
		}
		fn(i, p, err)
	}
	return nil
}

// packReaders is how many packs are read back at once, each held whole in memory.
const packReaders = 4

// readData reads packs back whole.
func (c *checker) readData(ctx context.Context, there map[ID]int64) error {
	indexed := c.r.indexRecords()
	var ids []ID
	for id := range there {
		if k, ok := indexed[id]; ok && there[id] == int64(k.size) {
			ids = append(ids, id)
		}
	}
	rand.Shuffle(len(ids), func(i, j int) { ids[i], ids[j] = ids[j], ids[i] })
	if c.opt.ReadData < 1 {
		ids = ids[:min(len(ids), int(c.opt.ReadData*float64(len(ids)))+1)]
	}
	return each(ctx, packReaders, len(ids), func(ctx context.Context, i int) error {
		id, size := ids[i], there[ids[i]]
		bad, err := c.r.verifyPack(ctx, id, size)
		if firn.KindOf(err) == firn.NotFound {
			return nil // pruned meanwhile; what needs it was looked for above
		}
		if err != nil && !damage(err) {
			return err
		}
		c.mu.Lock()
		c.rep.PacksRead++
		c.rep.BytesRead += size
		c.mu.Unlock()
		if err != nil {
			c.report(Problem{
				Blob: packKey(id), Pack: id, Chunks: bad, Harmless: false,
				Err: fmt.Errorf("the pack is damaged: put it back from a copy, or run 'firn repo repair --read-data' and back up again: %w", err),
			})
		}
		return nil
	})
}

// verifyPack reads a pack and compares it with its name. Where that differs, it returns the chunks that are damaged and
// an error of kind firn.Corrupt: none where only what is around them is.
func (r *Repo) verifyPack(ctx context.Context, id ID, size int64) ([]ID, error) {
	b := r.buffers.get()
	defer r.buffers.put(b)
	b.read = slices.Grow(b.read[:0], int(size))[:size]
	if err := r.readAt(ctx, packKey(id), b.read, 0); err != nil {
		return nil, err
	}
	if sum(b.read) == id {
		return nil, nil
	}
	var bad []ID
	err := r.openAll(ctx, id, b, func(e entry, _ Kind, plain []byte) error {
		if plain == nil {
			bad = append(bad, e.id)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return bad, firn.NewError(firn.Corrupt, "its bytes do not match its name")
}

// openAll calls fn for each chunk of the pack in b.read, with nil for one that is damaged. Where the pack's own list is
// damaged, the index says where the chunks are.
func (r *Repo) openAll(ctx context.Context, id ID, b *buffer, fn func(e entry, kind Kind, plain []byte) error) error {
	p := b.read
	head, list, err := parsePack(r, p)
	if err != nil {
		var ok bool
		if head, list, ok = r.listFromIndex(id); !ok {
			return err
		}
	}
	aead := r.packAEAD(head.salt)
	off := uint32(packHeader)
	for _, e := range list {
		if int64(off)+int64(e.stored) > int64(len(p)) {
			return firn.NewError(firn.Corrupt, "the pack is cut off")
		}
		w, err := r.worker(ctx)
		if err != nil {
			return err
		}
		plain, err := r.open(w, aead, head.kind, located{e.id, 0, off, e.stored, e.plain}, p[off:off+e.stored:off+e.stored], b.plain)
		r.workers <- w
		if err != nil {
			plain = nil
		} else if plain == nil {
			plain = []byte{}
		} else if e.codec() == codecZstd {
			b.plain = plain[:0]
		}
		if err := fn(e, head.kind, plain); err != nil {
			return err
		}
		off += e.stored
	}
	return nil
}

// parsePack reads header and list of a whole pack. The list's bytes are left as they are.
func parsePack(r *Repo, p []byte) (packHead, []entry, error) {
	head, err := parsePackHead(p)
	if err != nil {
		return head, nil, err
	}
	if len(p) < packHeader+seal.Overhead+packFooter {
		return head, nil, firn.NewError(firn.Corrupt, "the pack is cut off")
	}
	n, err := trailerLength(p[len(p)-packFooter:], int64(len(p)))
	if err != nil {
		return head, nil, err
	}
	list, err := openTrailer(r.packAEAD(head.salt), head, slices.Clone(p[int64(len(p))-packFooter-n:len(p)-packFooter]), int64(len(p)))
	return head, list, err
}

// listFromIndex makes a pack's list of what the index in memory knows.
func (r *Repo) listFromIndex(id ID) (packHead, []entry, bool) {
	r.idx.mu.RLock()
	n, ok := r.idx.byID[id]
	r.idx.mu.RUnlock()
	if !ok {
		return packHead{}, nil, false
	}
	info := r.idx.pack(n)
	var all []located
	for i := range r.idx.shards {
		s := &r.idx.shards[i]
		s.mu.RLock()
		for k := range s.n {
			if e := s.entry(uint32(k)); e.pack == n {
				all = append(all, *e)
			}
		}
		s.mu.RUnlock()
	}
	slices.SortFunc(all, func(a, b located) int { return int(a.off) - int(b.off) })
	var list []entry
	at := uint32(packHeader)
	for _, l := range all {
		if l.off != at {
			return packHead{}, nil, false
		}
		list = append(list, entry{l.id, l.stored, l.plain})
		at += l.stored
	}
	return packHead{info.kind, info.salt}, list, true
}
