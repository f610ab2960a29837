package repo

import (
	"cmp"
	"context"
	"crypto/cipher"
	"errors"
	"slices"

	"golang.org/x/sync/errgroup"

	"firn"
	"firn/blob/driver"
	"firn/seal"
)

const (
	readers = 8         // runs that are read at once by one LoadMany
	maxRun  = 2 << 20   // bytes that are read at once, unless one chunk is more
	maxGap  = 128 << 10 // bytes between two chunks that are read rather than asked for anew
)

// Has reports whether a chunk is stored, or about to be by the running session, so that it need not be saved again.
// While a session runs this is what a snapshot may rely on. It is false for all while no index is loaded: by a session,
// or by any load.
func (r *Repo) Has(id ID) bool { return r.idx.has(id) }

// each calls fn for 0 to n-1, limit at once, and stops at the first error.
func each(ctx context.Context, limit, n int, fn func(ctx context.Context, i int) error) error {
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(limit)
	for i := range n {
		if gctx.Err() != nil {
			break
		}
		g.Go(func() error { return fn(gctx, i) })
	}
	if err := g.Wait(); err != nil {
		return err
	}
	return context.Cause(ctx)
}

func (r *Repo) snapshotIDs(ctx context.Context, prefix string) ([]ID, error) {
	var ids []ID
	err := r.listIDs(ctx, prefix, func(id ID, _ driver.Info) error {
		ids = append(ids, id)
		return nil
	})
	return ids, err
}

// aead returns the cipher of the pack with the salt.
func (r *Repo) aead(salt [seal.SaltSize]byte) cipher.AEAD {
	r.mu.Lock()
	defer r.mu.Unlock()
	a, ok := r.mu.aeads[salt]
	if !ok {
		if len(r.mu.aeads) >= 256 {
			clear(r.mu.aeads)
		}
		a = r.packAEAD(salt)
		r.mu.aeads[salt] = a
	}
	return a
}

// open unseals, decompresses and verifies a chunk. Its sealed bytes are overwritten; where they were not compressed the
// result is part of them, else it is appended to buf[:0].
func (r *Repo) open(w *worker, aead cipher.AEAD, kind Kind, l located, sealed, buf []byte) ([]byte, error) {
	e := entry{l.id, l.stored, l.plain}
	plain, err := aead.Open(sealed[:0], seal.Nonce(&w.nonce, uint64(l.off)), sealed, chunkAAD(&w.aad, kind, l.id))
	if err != nil {
		return nil, firn.NewError(firn.Corrupt, "damaged: its seal does not open")
	}
	if e.codec() == codecZstd {
		if plain, err = r.zip.decompress(buf[:0], plain, e.size()); err != nil {
			return nil, err
		}
	}
	// The seal says that whoever wrote it had the key; only the hash says that it was right before it was sealed.
	if len(plain) != e.size() || w.sum(kind, plain) != l.id {
		return nil, firn.NewError(firn.Corrupt, "its content is not what its id says: it was damaged before it was stored")
	}
	return plain, nil
}

// Load appends a chunk to buf[:0]. It fails with firn.NotFound where it is not there, firn.Corrupt where it is damaged.
func (r *Repo) Load(ctx context.Context, id ID, buf []byte) ([]byte, error) {
	var out []byte
	err := r.LoadMany(ctx, []ID{id}, func(_ int, data []byte) error {
		out = append(buf[:0], data...)
		return nil
	})
	return out, err
}

// request is a chunk that LoadMany was asked for.
type request struct {
	i   int
	at  located
	end uint32
}

// LoadMany loads chunks and calls fn for each, with its place in ids. They come in no particular order and from several
// goroutines at once; data is valid and may be changed during the call. A chunk listed several times is read once. It
// stops at the first error, of fn or its own: firn.NotFound and firn.Corrupt name the chunk.
//
// Chunks that are near each other in a pack are read at once. Its memory is up to 8 reads of 2 MiB (more only for a
// larger chunk) and what they open to, one chunk at a time each, besides 56 bytes for each id.
func (r *Repo) LoadMany(ctx context.Context, ids []ID, fn func(i int, data []byte) error) error {
	if err := r.ensure(ctx); err != nil {
		return err
	}
	return r.loadAll(ctx, r.idx, ids, r.refresh, fn)
}

// loadFrom is LoadMany with another index than the one in memory, which is not loaded for it.
func (r *Repo) loadFrom(ctx context.Context, x *index, ids []ID, fn func(i int, data []byte) error) error {
	return r.loadAll(ctx, x, ids, func(context.Context) error { return nil }, fn)
}

// loadAll makes passes over packs: where one is not there, a prune may have moved its chunks since the index was loaded,
// which refresh does again, or they are in another one.
func (r *Repo) loadAll(ctx context.Context, x *index, ids []ID, refresh func(context.Context) error, fn func(i int, data []byte) error) error {
	todo := make([]int, len(ids))
	for i := range todo {
		todo[i] = i
	}
	lost := map[uint32]bool{}
	var cause error // for which a pack is not there
	for pass := 0; ; pass++ {
		before := len(lost)
		missing, err := r.loadMany(ctx, x, ids, todo, lost, fn)
		if err != nil || len(missing.todo) == 0 {
			return err
		}
		if len(lost) > before {
			cause = missing.err
		} else if pass > 0 {
			return cmp.Or(cause, missing.err)
		}
		if pass == 0 {
			if err := refresh(ctx); err != nil {
				return err
			}
		}
		todo = missing.todo
	}
}

// missing is what a pass over packs did not find.
type missing struct {
	todo []int
	err  error
}

func chunkError(id ID, err error) error { return firn.E("load chunk", id.String(), err) }

// loadMany is one pass. It leaves out packs in gone, and adds to them.
func (r *Repo) loadMany(ctx context.Context, x *index, ids []ID, todo []int, gone map[uint32]bool, fn func(i int, data []byte) error) (missing, error) {
	var m missing
	reqs := make([]request, 0, len(todo))
	for _, i := range todo {
		l, _, ok := x.get(ids[i], gone)
		if !ok {
			m.todo = append(m.todo, i)
			m.err = chunkError(ids[i], firn.NewError(firn.NotFound, "no pack has it: run 'firn repo check'"))
			continue
		}
		reqs = append(reqs, request{i, l, l.off + l.stored})
	}
	slices.SortFunc(reqs, func(a, b request) int {
		return cmp.Or(cmp.Compare(a.at.pack, b.at.pack), cmp.Compare(a.at.off, b.at.off))
	})
	var runs [][]request
	for i := 0; i < len(reqs); {
		j := i + 1
		for ; j < len(reqs) && reqs[j].at.pack == reqs[i].at.pack && reqs[j].end-reqs[i].at.off <= maxRun &&
			int64(reqs[j].at.off)-int64(reqs[j-1].end) <= maxGap; j++ {
		}
		runs = append(runs, reqs[i:j])
		i = j
	}
	lost := make([]error, len(runs)) // packs that are gone
	if err := each(ctx, readers, len(runs), func(ctx context.Context, i int) error {
		err := r.loadRun(ctx, x.pack(runs[i][0].at.pack), runs[i], fn)
		var e *goneError
		if errors.As(err, &e) {
			lost[i] = e.error
			return nil
		}
		return err
	}); err != nil {
		return m, err
	}
	for i, err := range lost {
		if err == nil {
			continue
		}
		gone[runs[i][0].at.pack] = true
		m.err = chunkError(runs[i][0].at.id, err)
		for _, q := range runs[i] {
			m.todo = append(m.todo, q.i)
		}
	}
	return m, nil
}

// goneError: a pack is not there. Nothing of the run was given to the caller.
type goneError struct{ error }

// loadRun reads chunks that lie side by side.
func (r *Repo) loadRun(ctx context.Context, info packInfo, run []request, fn func(i int, data []byte) error) error {
	from, to := run[0].at.off, run[len(run)-1].end
	b := r.buffers.get()
	defer r.buffers.put(b)
	b.read = slices.Grow(b.read[:0], int(to-from))[:to-from]
	cached, err := r.readPack(ctx, info, b.read, int64(from))
	if err != nil {
		if firn.KindOf(err) == firn.NotFound {
			return &goneError{err}
		}
		return err
	}
	aead := r.aead(info.salt)
	for i := 0; i < len(run); {
		q := run[i]
		j := i + 1
		for ; j < len(run) && run[j].at.off == q.at.off; j++ {
		}
		w, err := r.worker(ctx)
		if err != nil {
			return err
		}
		data, err := r.open(w, aead, info.kind, q.at, b.read[q.at.off-from:q.end-from:q.end-from], b.plain)
		r.workers <- w
		if err != nil && cached {
			// The copy on this machine is damaged: the place is asked.
			r.cache.drop(cachePack, info.id)
			cached = false
			if err := r.readAt(ctx, packKey(info.id), b.read, int64(from)); err != nil {
				return err
			}
			continue
		}
		if err != nil {
			return chunkError(q.at.id, firn.E("read", packKey(info.id), err))
		}
		if q.at.plain>>24 == codecZstd {
			b.plain = data[:0]
		}
		for ; i < j; i++ {
			if err := fn(run[i].i, data); err != nil {
				return err
			}
		}
	}
	return nil
}

// readPack reads part of a pack: of trees from the cache, which keeps whole packs of them. It reports whether it did.
func (r *Repo) readPack(ctx context.Context, info packInfo, p []byte, offset int64) (cached bool, err error) {
	key := packKey(info.id)
	if info.kind != Tree || !r.cache.enabled() {
		return false, r.readAt(ctx, key, p, offset)
	}
	if r.cache.readAt(info.id, p, offset) {
		return true, nil
	}
	whole := make([]byte, info.size)
	if err := r.readAt(ctx, key, whole, 0); err != nil {
		return false, err
	}
	if sum(whole) == info.id { // else the chunks that are wanted may still be good
		r.cache.put(cachePack, info.id, whole)
	}
	copy(p, whole[offset:])
	return false, nil
}
