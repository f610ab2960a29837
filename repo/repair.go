package repo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"firn"
	"firn/blob/driver"
)

// RepairOptions are settings of Repair.
type RepairOptions struct {
	// ReadData reads all packs back, and saves what is good in those that are damaged to new ones.
	ReadData bool
	// Force goes on though there are sessions: where it is certain that they are dead.
	Force bool
}

// RepairReport says what a repair did.
type RepairReport struct {
	Packs      int // that are there
	Recovered  int // packs that no index named and now one does
	Lost       int // packs that an index named and that are not there, or have nothing that can be read
	Salvaged   int // packs that were damaged, and whose good chunks were saved anew
	Chunks     int // of those
	LostChunks int
	IndexFiles int // that were replaced
}

// Repair makes the index anew from the packs that are there. What is lost is no longer claimed to be there, so that the
// next backup stores it again where its source still has it; each loss is reported. Snapshots stay: Check says which are
// whole. It removes no packs: those nobody can use are left to Prune.
//
// It fails with firn.Conflict while there are sessions. Its memory is the index and, with ReadData, two packs.
func (r *Repo) Repair(ctx context.Context, opt RepairOptions, report func(Problem)) (rep RepairReport, err error) {
	const op = "repair"
	if err := r.deletable(op); err != nil {
		return rep, err
	}
	if sessions, err := r.Sessions(ctx); err != nil {
		return rep, err
	} else if len(sessions) > 0 && !opt.Force {
		s := sessions[0]
		return rep, &firn.Error{
			Kind: firn.Conflict, Op: op, Subject: r.store.Name(),
			Err: fmt.Errorf("%d sessions are there, one of %s, process %d, since %s: let them end, or use --force if they are dead",
				len(sessions), s.Host, s.PID, s.Started.Format("2006-01-02 15:04:05 MST")),
		}
	}
	closing, release := Closing(ctx)
	defer release()
	s, err := r.beginSession(ctx, SessionOptions{Purpose: "repair"}, false)
	if err != nil {
		return rep, err
	}
	defer func() { err = errors.Join(err, s.end(closing, err)) }()
	m := &mender{r: r, opt: opt, rep: &rep, report: report, session: s}
	return rep, m.run(ctx)
}

type mender struct {
	r       *Repo
	opt     RepairOptions
	rep     *RepairReport
	report  func(Problem)
	session *Session
	content []byte // of the next index file
}

func (m *mender) run(ctx context.Context) error {
	r := m.r
	old := map[ID]int64{}
	if err := r.listIDs(ctx, indexPrefix, func(id ID, info driver.Info) error {
		old[id] = info.Size
		return nil
	}); err != nil {
		return err
	}
	if err := r.refreshWith(ctx, func(id ID, err error) bool {
		return damage(err) // its packs say what it said
	}); err != nil {
		return err
	}
	there := map[ID]int64{}
	if err := r.listIDs(ctx, packsPrefix, func(id ID, info driver.Info) error {
		there[id] = info.Size
		return nil
	}); err != nil {
		return err
	}
	m.rep.Packs = len(there)
	indexed := r.indexRecords()
	for _, id := range slices.SortedFunc(maps.Keys(there), func(a, b ID) int { return bytes.Compare(a[:], b[:]) }) {
		if err := m.pack(ctx, id, there[id], indexed); err != nil {
			return err
		}
	}
	missing := map[uint32]error{}
	for id, k := range indexed {
		if _, ok := there[id]; !ok {
			missing[k.number] = nil
			r.idx.change(k.number, func(p *packInfo) { p.state |= packGone })
		}
	}
	chunks := r.idx.onlyIn(missing)
	for id, k := range indexed {
		if _, ok := missing[k.number]; ok && k.state&packDoomed == 0 {
			m.rep.Lost++
			m.lose(id, chunks[k.number], "the pack is missing")
		}
	}
	// New packs first, then the index that names them, then the old index goes.
	if err := m.session.flush(ctx); err != nil {
		return err
	}
	if err := m.flush(ctx); err != nil {
		return err
	}
	var keys []string
	for id := range old {
		keys = append(keys, indexPrefix+id.String())
	}
	m.rep.IndexFiles = len(keys)
	slices.Sort(keys)
	for batch := range slices.Chunk(keys, 1000) {
		if err := r.store.Delete(ctx, batch...); err != nil {
			return err
		}
	}
	return nil
}

func (m *mender) lose(pack ID, chunks []ID, why string) {
	m.rep.LostChunks += len(chunks)
	m.report(Problem{Blob: packKey(pack), Pack: pack, Chunks: chunks, Err: errors.New(why)})
}

// pack takes one pack into the new index, or saves what is good in it.
func (m *mender) pack(ctx context.Context, id ID, size int64, indexed map[ID]indexRecord) error {
	r := m.r
	head, list, err := r.readTrailer(ctx, id, size)
	if firn.KindOf(err) == firn.NotFound {
		return nil
	}
	if err != nil && !damage(err) {
		return err
	}
	k, known := indexed[id]
	whole := err == nil && (!known || int64(k.size) == size)
	if whole && m.opt.ReadData {
		_, err = r.verifyPack(ctx, id, size)
		if err != nil && !damage(err) {
			return err
		}
		whole = err == nil
	}
	if !whole {
		return m.salvage(ctx, id, size, err)
	}
	if !known {
		m.rep.Recovered++
	}
	var encoded []byte
	for _, e := range list {
		encoded = appendEntry(encoded, e)
	}
	m.content = appendIndexPack(m.content, id, head, uint32(size), encoded)
	if len(m.content) >= indexEntries*entrySize {
		return m.flush(ctx)
	}
	return nil
}

func (m *mender) flush(ctx context.Context) error {
	if len(m.content) == 0 {
		return nil
	}
	_, err := m.r.putIndex(ctx, m.content)
	m.content = m.content[:0]
	return err
}

// salvage saves the chunks of a damaged pack that are good.
func (m *mender) salvage(ctx context.Context, id ID, size int64, why error) error {
	r := m.r
	if size > maxPackSize {
		m.rep.Lost++
		m.lose(id, nil, "the pack is damaged: it is too large to be one")
		return nil
	}
	b := r.buffers.get()
	defer r.buffers.put(b)
	b.read = slices.Grow(b.read[:0], int(size))[:size]
	if err := r.readAt(ctx, packKey(id), b.read, 0); err != nil {
		return err
	}
	var bad []ID
	good := 0
	err := r.openAll(ctx, id, b, func(e entry, kind Kind, plain []byte) error {
		if plain == nil {
			bad = append(bad, e.id)
			return nil
		}
		good++
		return m.save(ctx, kind, e.id, plain)
	})
	if err != nil && !damage(err) {
		return err
	}
	if good == 0 {
		m.rep.Lost++
	} else {
		m.rep.Salvaged++
		m.rep.Chunks += good
	}
	if why == nil {
		why = errors.New("its size is not what the index says")
	}
	m.lose(id, bad, fmt.Sprintf("the pack is damaged, %d of its chunks were saved: %v", good, why))
	return nil
}

// save stores a chunk anew, whatever the index says of it.
func (m *mender) save(ctx context.Context, kind Kind, id ID, plain []byte) error {
	w, err := m.r.worker(ctx)
	if err != nil {
		return err
	}
	defer func() { m.r.workers <- w }()
	_, err = m.session.store(ctx, w, kind, id, plain)
	return err
}
