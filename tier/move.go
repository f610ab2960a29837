package tier

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"time"

	"github.com/zeebo/blake3"
	"golang.org/x/sync/errgroup"

	"firn"
	"firn/blob"
	"firn/object"
	"firn/object/record"
	"firn/tier/plain"
	"firn/tier/turns"
)

// Options are the settings of a Mover.
type Options struct {
	Site string       // id of the site: a tier belongs to one
	Log  *slog.Logger // nil discards
	// Parallel is how many versions are copied at once to a tier or back; 0 is 4.
	Parallel int
	// BytesPerSecond bounds moves and recalls together, reading back included; 0 is no bound.
	BytesPerSecond int64
	// Windows are the times of day in which Move begins to copy; none: always.
	Windows turns.Windows
	// Grace is how long a blob that nobody needs stays on its tier, for those who still read it or look at an older
	// catalogue; 0 is an hour.
	Grace time.Duration
	// ResumeAbove is the size in bytes above which a copy goes on where it was cut off, on places that can do that; 0 is 64 MiB.
	ResumeAbove int64
}

// Mover moves versions. There is one for a namespace.
type Mover struct {
	ns    *object.Store
	set   *Set
	opt   Options
	turns *turns.Turns
	work  work
}

// NewMover returns a mover for the namespace whose Remote is set.
func NewMover(ns *object.Store, set *Set, opt Options) *Mover {
	if opt.Log == nil {
		opt.Log = slog.New(slog.DiscardHandler)
	}
	if opt.Grace == 0 {
		opt.Grace = time.Hour
	}
	if opt.ResumeAbove == 0 {
		opt.ResumeAbove = resumeAbove
	}
	t := turns.New(turns.Options{Parallel: opt.Parallel, BytesPerSecond: opt.BytesPerSecond, Windows: opt.Windows, Now: set.now})
	return &Mover{ns: ns, set: set, opt: opt, turns: t}
}

// errBehind keeps a site whose data directory is a copy from before from writing a catalogue without what came after.
var errBehind = firn.NewError(firn.Conflict,
	"its catalogue tells of later changes than this site's journal, as after a data directory was restored: run firn tier rebuild first")

// ready makes sure that a tier is this site's, and finds the end of its catalogue. What an earlier process reserved there
// and did not switch to is in doubt.
func (m *Mover) ready(ctx context.Context, t *place) error {
	if t.opened() != nil {
		return nil
	}
	t.writing.Lock() // two catalogues of one tier would write over each other's segments
	defer t.writing.Unlock()
	if t.opened() != nil {
		return nil
	}
	err := plain.Claim(ctx, t.Store, t.content.Layout(), m.opt.Site, t.Name)
	var store *blob.Store
	if err == nil {
		store, err = t.content.Catalogue(ctx, true)
	}
	var c *plain.Catalogue
	if err == nil {
		c, err = plain.OpenCatalogue(ctx, store, m.opt.Site)
	}
	if err == nil && !t.rebuilt.Load() {
		err = m.ours(ctx, t, c)
	}
	var doubts []doubt
	if err == nil { // nothing was reserved by this process yet
		err = m.registered(ctx, t, func(b record.TierBlob) bool {
			if b.State == record.TierReserved {
				doubts = append(doubts, doubt{blob: b})
			}
			return true
		})
	}
	err = t.saw(m.set.now(), err)
	if err == nil {
		t.doubts, t.stale = doubts, len(doubts) > 0 || t.rebuilt.Load()
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.refused = err; err != nil {
		return firn.E("use tier", t.Name, err)
	}
	t.remember(doubts, m.set.now())
	t.catalogue = c
	return nil
}

// ours holds that the catalogue of a tier tells of no more than this namespace knows: to write it anew, or to remove from the
// tier what this namespace takes for garbage, would lose that.
func (m *Mover) ours(ctx context.Context, t *place, c *plain.Catalogue) error {
	if c.Journal() > m.ns.JournalTail() {
		return errBehind
	}
	if !c.Lost() {
		return nil
	}
	// No segment can be read. No version was switched to the tier before one could be.
	used := false
	err := m.registered(ctx, t, func(b record.TierBlob) bool {
		used = b.State == record.TierUsed
		return !used
	})
	if err == nil && used {
		err = firn.NewError(firn.Corrupt, "no segment of its catalogue can be read")
	}
	return err
}

// registered calls fn for the blobs that may be on a tier until it returns false.
func (m *Mover) registered(ctx context.Context, t *place, fn func(record.TierBlob) bool) error {
	for after := ""; ; {
		list, err := m.ns.TierBlobs(ctx, t.Name, after)
		if err != nil || len(list) == 0 {
			return err
		}
		for _, b := range list {
			if !fn(b) {
				return nil
			}
			after = b.Key
		}
	}
}

// settle has the catalogue say what is so of what is in doubt, and frees that, but for copies that are to go on. The caller
// holds writing.
func (m *Mover) settle(ctx context.Context, t *place) error {
	c := t.catalogue
	switch {
	case t.stale || c.Damaged():
		if err := m.rewrite(ctx, t, c); err != nil {
			return err
		}
	case len(t.doubts) > 0:
		var entries []plain.Entry
		for _, d := range t.doubts {
			e, err := m.entryOf(ctx, t, d.change)
			if m.broken(t, d.change, err) {
				e, err = plain.Entry{Bucket: d.bucket, Key: d.key, Version: d.version, Removed: true}, nil
			}
			if err != nil {
				return err
			}
			entries = append(entries, e)
		}
		if err := t.saw(m.set.now(), c.Append(ctx, 0, entries)); err != nil {
			return err
		}
	}
	for _, d := range t.doubts {
		if !t.keeps(d.blob) {
			m.giveUp(ctx, d.blob)
		}
	}
	t.doubts = nil
	return nil
}

// copied is a version that has a verified copy on a tier.
type copied struct {
	ref   object.Ref
	blob  record.TierBlob
	up    *upload // nil where it would not go on later
	entry plain.Entry
}

// Move moves versions to a tier, all of them or as many as can be. The result has an error, or nil, for each:
// object.ErrMoved where a version was replaced or removed meanwhile, which is no failure; turns.ErrClosed outside the
// windows; firn.Unavailable where the tier is away; firn.Corrupt where it does not give back what it was given.
//
// Where o says no class it is the tier's, and a zero LocalUntil is that of the tier's KeepLocal.
//
// One entry in the catalogue costs a request, so that many small versions are best moved together.
func (m *Mover) Move(ctx context.Context, tier string, versions []record.Version, o object.MoveOptions) []error {
	return m.move(ctx, tier, versions, o, turns.Move)
}

// MoveNow is Move for somebody who asked for it: it needs no window, and goes before moves by rules.
func (m *Mover) MoveNow(ctx context.Context, tier string, versions []record.Version, o object.MoveOptions) []error {
	return m.move(ctx, tier, versions, o, turns.Asked)
}

// Recall is the namespace's, in its turn: before all moves that have not begun. Errors as there.
func (m *Mover) Recall(ctx context.Context, ref object.Ref, o object.RecallOptions) (*record.Version, error) {
	return m.recall(ctx, ref, o, turns.Recall)
}

// Promote is Recall for a rule: it goes after what somebody asked for.
func (m *Mover) Promote(ctx context.Context, ref object.Ref, o object.RecallOptions) (*record.Version, error) {
	return m.recall(ctx, ref, o, turns.Promote)
}

func (m *Mover) recall(ctx context.Context, ref object.Ref, o object.RecallOptions, u turns.Urgency) (*record.Version, error) {
	from := ""
	for _, id := range []string{record.MakeOrder(ref.Clock, ref.Site).String(), record.NullID} {
		if v, err := m.ns.Head(ctx, ref.Bucket, ref.Key, id); err == nil && object.RefOf(v) == ref && v.Location != nil {
			from = v.Location.Tier
			defer m.work.begin(job{from, true}, v.Size, m.set.now())()
		}
	}
	turn, err := m.turns.Begin(ctx, from, u)
	if err != nil {
		return nil, err
	}
	defer turn.End()
	v, err := m.ns.Recall(turns.With(ctx, turn), ref, o)
	if t := m.set.names[from]; err == nil && t != nil {
		t.counts.recalled.Add(1)
		t.counts.recalledBytes.Add(v.Size)
	}
	return v, err
}

func (m *Mover) move(ctx context.Context, tier string, versions []record.Version, o object.MoveOptions, u turns.Urgency) []error {
	errs := make([]error, len(versions))
	all := func(err error) []error {
		for i := range errs {
			errs[i] = err
		}
		return errs
	}
	t, err := m.set.place(tier)
	if err == nil {
		err = m.ready(ctx, t)
	}
	if err != nil {
		return all(err)
	}
	if o.Class == "" {
		o.Class = t.Class
	}
	if o.LocalUntil.IsZero() {
		o.LocalUntil = m.set.now().Add(t.KeepLocal)
	}
	t.wanted(versions, m.set.now())
	// Nothing is reserved on a tier that is away: it is asked first.
	if !t.awaySince().IsZero() {
		if _, err := t.mark(ctx); err != nil {
			return all(firn.E("use tier", t.Name, t.saw(m.set.now(), err)))
		}
	}
	taken, err := m.admit(ctx, t, versions, errs)
	if err != nil {
		return all(err)
	}
	defer t.release(taken)
	done := make([]*copied, len(versions))
	var g errgroup.Group
	g.SetLimit(max(m.turns.Parallel(), together(t.content)))
	began := m.set.now()
	waits := make([]func(), len(versions))
	for i := range versions {
		if errs[i] != nil {
			continue
		}
		waits[i] = m.work.begin(job{tier, false}, versions[i].Size, began)
	}
	for i := range versions {
		if errs[i] != nil {
			continue
		}
		g.Go(func() error {
			defer waits[i]()
			turn, err := m.turns.Begin(ctx, tier, u)
			if err != nil {
				errs[i] = firn.E("move to tier "+t.Name, versions[i].Bucket+"/"+versions[i].Key, err)
				return nil
			}
			defer turn.End()
			done[i], errs[i] = m.copy(turns.With(ctx, turn), t, &versions[i], o.Class)
			return nil
		})
	}
	_ = g.Wait() // each error is in errs
	var entries []plain.Entry
	for _, c := range done {
		if c != nil {
			entries = append(entries, c.entry)
		}
	}
	if len(entries) == 0 {
		return errs
	}
	t.writing.Lock()
	defer t.writing.Unlock()
	buckets := map[string][32]byte{}
	if err = m.settle(ctx, t); err == nil {
		entries, err = m.withBuckets(ctx, t, entries, buckets)
	}
	if err == nil {
		err = t.saw(m.set.now(), t.catalogue.Append(ctx, 0, entries))
	}
	if err == nil {
		maps.Copy(t.buckets, buckets)
	}
	for i, c := range done {
		if c == nil {
			continue
		}
		if err == nil {
			_, errs[i] = m.ns.Switch(ctx, c.ref, c.blob, o)
		} else {
			errs[i] = firn.E("move to tier "+t.Name, versions[i].Bucket+"/"+versions[i].Key, err)
		}
		if c.up != nil && err != nil && cutOff(ctx, err) {
			t.park(c.up) // all of it is there, for the next time
		} else if c.up != nil {
			t.finish(c.up)
		}
		if errs[i] != nil {
			t.doubts = append(t.doubts, doubt{change{c.entry.Bucket, c.entry.Key, c.entry.Version}, c.blob})
			continue
		}
		t.counts.moved.Add(1)
		t.counts.movedBytes.Add(c.entry.Size)
	}
	return errs
}

// together is how many puts a layout has wait for each other at most.
func together(c Content) int {
	if g, ok := c.(Gatherer); ok {
		return g.Together()
	}
	return 0
}

// withBuckets adds to entries those of their buckets that the catalogue may not know as they are: a version without its
// bucket cannot be made again. What is new to t.buckets once that was written is put into told.
func (m *Mover) withBuckets(ctx context.Context, t *place, entries []plain.Entry, told map[string][32]byte) ([]plain.Entry, error) {
	var all []plain.Entry
	for i := range entries {
		name := entries[i].Bucket
		if _, ok := told[name]; ok {
			continue
		}
		e, err := m.entryOf(ctx, t, change{bucket: name})
		if err != nil {
			return nil, err
		}
		told[name] = blake3.Sum256(e.Record)
		if !e.Removed && t.buckets[name] != told[name] {
			all = append(all, e)
		}
	}
	return append(all, entries...), nil
}

// admit sets the errors of those versions that the tier has no room for, and returns the bytes of the others, to be given to
// release.
func (m *Mover) admit(ctx context.Context, t *place, versions []record.Version, errs []error) (taken int64, err error) {
	if t.MaxBytes == 0 {
		return 0, nil
	}
	used, err := m.Used(ctx, t.Class)
	if err != nil {
		return 0, err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	for i := range versions {
		need := versions[i].Size
		if versions[i].StorageClass == t.Class {
			need = 0 // counted already
		}
		if used.Bytes+t.coming+need > t.MaxBytes {
			errs[i] = &firn.Error{
				Kind: firn.NoSpace, Op: "move to tier", Subject: versions[i].Bucket + "/" + versions[i].Key,
				Err: fmt.Errorf("tier %s has %d of the %d bytes that it may have (max_bytes)", t.Name, used.Bytes, t.MaxBytes),
			}
			continue
		}
		t.coming += need
		taken += need
	}
	return taken, nil
}

func (t *place) release(n int64) {
	t.mu.Lock()
	t.coming -= n
	t.mu.Unlock()
}

// Used returns how many versions have a storage class, and their bytes: those on its tier, and those that are to go there.
func (m *Mover) Used(ctx context.Context, class string) (record.Usage, error) {
	var sum record.Usage
	buckets, err := m.ns.Buckets(ctx)
	for _, b := range buckets {
		u, err := m.ns.UsageByClass(ctx, b.Name)
		if err != nil {
			continue // removed meanwhile
		}
		sum = sum.Plus(u[class], 1)
	}
	return sum, err
}

// giveUp hands a blob that no version will use over to the collector. Where that fails the next start does it.
func (m *Mover) giveUp(ctx context.Context, b record.TierBlob) {
	if err := m.ns.Free(context.WithoutCancel(ctx), b); err != nil && !errors.Is(err, object.ErrNotReserved) {
		m.opt.Log.Warn("what was copied to a tier in vain stays there until the next start", "tier", b.Tier, "key", b.Key, "error", err)
	}
}

// copy makes a verified copy of a version on a tier. It returns nil and no error for what is there already.
func (m *Mover) copy(ctx context.Context, t *place, v *record.Version, class string) (*copied, error) {
	subject := v.Bucket + "/" + v.Key
	o, err := m.ns.Open(ctx, v.Bucket, v.Key, v.ID)
	if err != nil {
		if firn.KindOf(err) == firn.NotFound {
			err = object.ErrMoved
		}
		return nil, firn.E("move to tier "+t.Name, subject, err)
	}
	defer o.Close()
	if o.Version.Clock != v.Clock || o.Version.Site != v.Site {
		return nil, firn.E("move to tier "+t.Name, subject, object.ErrMoved)
	}
	if l := o.Version.Location; l != nil && l.Tier == t.Name {
		return nil, nil
	}
	c := &copied{ref: object.RefOf(o.Version), up: m.take(t, o.Version)}
	src := &stored{ctx: ctx, o: o, up: c.up, prefix: new(prefixHash)}
	if c.up != nil {
		src.prefix = &c.up.prefix
		err = m.resume(ctx, t, o.Version, c.up, src)
		c.blob = c.up.blob
	} else {
		c.blob, err = m.write(ctx, t, o.Version, src)
	}
	if err != nil {
		return nil, firn.E("move to tier "+t.Name, subject, err)
	}
	sum, err := m.verify(ctx, t, c.blob.Key, src)
	if err == nil {
		var now *record.Version
		var raw []byte
		if now, raw, err = m.ns.Export(ctx, v.Bucket, v.Key, v.ID); err == nil {
			raw, err = withClass(raw, class)
		}
		switch {
		case firn.KindOf(err) == firn.NotFound || err == nil && object.RefOf(now) != c.ref:
			err = object.ErrMoved
		case err == nil:
			c.entry = entry(now, raw)
			c.entry.Blob, c.entry.BLAKE3 = c.blob.Key, hex.EncodeToString(sum)
		}
	}
	if err != nil {
		if c.up != nil {
			m.failed(ctx, t, c.up, err)
		} else {
			m.giveUp(ctx, c.blob)
		}
		return nil, firn.E("move to tier "+t.Name, subject, err)
	}
	return c, nil
}

var errTaken error = firn.NewError(firn.Conflict, "every name for it on the tier is taken")

// write puts the bytes under the first name that is free and that the place takes.
func (m *Mover) write(ctx context.Context, t *place, v *record.Version, src *stored) (record.TierBlob, error) {
	id := v.ID
	if id == "" {
		id = record.NullID
	}
	err := errTaken
	for _, name := range plain.Names(v.Bucket, v.Key, id, v.Clock, m.set.now()) {
		var list []record.TierBlob
		var rerr error // of the reservation
		err = t.content.Put(ctx, name, src, func(name string) error {
			list, rerr = m.ns.Reserve(ctx, t.Name, name)
			return rerr
		})
		if errors.Is(rerr, object.ErrTierKey) {
			err = errTaken
			continue
		}
		if rerr != nil {
			return record.TierBlob{}, rerr
		}
		if err = t.saw(m.set.now(), err); err == nil {
			return list[0], nil
		}
		if len(list) > 0 {
			m.giveUp(ctx, list[0])
		}
		if firn.KindOf(err) != firn.Conflict && firn.KindOf(err) != firn.Invalid {
			break
		}
	}
	return record.TierBlob{}, err
}

// verify reads the blob back and compares it with what was sent.
func (m *Mover) verify(ctx context.Context, t *place, key string, src *stored) ([]byte, error) {
	wrong := func(format string, args ...any) error {
		return firn.NewError(firn.Corrupt, fmt.Sprintf("tier %s does not give back what it was given: %s; nothing was moved", t.Name, fmt.Sprintf(format, args...)))
	}
	h := blake3.New()
	r, err := m.set.Open(ctx, t.Name, key, 0, -1)
	if firn.KindOf(err) == firn.NotFound {
		return nil, wrong("it does not have it")
	}
	if err != nil {
		return nil, err
	}
	defer r.Close()
	n, err := io.Copy(h, r)
	if err != nil {
		return nil, err
	}
	sum := h.Sum(nil)
	sent, err := src.total()
	if err != nil {
		return nil, err
	}
	if n != src.Size() || !bytes.Equal(sum, sent) {
		return nil, wrong("%d of %d bytes, or other ones", n, src.Size())
	}
	return sum, nil
}

// stored is a version's stored bytes as the source of a put, and their hash.
type stored struct {
	ctx context.Context
	o   *object.Object
	up  *upload // whose copy it is; nil where that would not go on later

	opened bool
	from   int64  // where it was opened first
	sum    []byte // of all bytes; nil while it is not known
	prefix *prefixHash
}

// prefixHash is the state of the hash of the first n bytes, which spares reading them again. The zero value is that of none.
type prefixHash struct {
	h *blake3.Hasher
	n int64
}

// Size implements driver.Source.
func (s *stored) Size() int64 { return s.o.Version.Size }

// Open implements driver.Source.
func (s *stored) Open() (io.ReadCloser, error) { return s.OpenAt(0) }

// OpenAt implements driver.SourceAt. The bytes before offset are read where their hash is not known.
func (s *stored) OpenAt(offset int64) (io.ReadCloser, error) {
	if !s.opened {
		s.opened, s.from = true, offset
	}
	s.sum = nil
	h, err := s.before(offset)
	if err != nil {
		return nil, err
	}
	pr, pw := io.Pipe()
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, err := s.o.WriteStored(s.ctx, pw, offset, s.Size()-offset)
		_ = pw.CloseWithError(err) // nil becomes io.EOF
	}()
	return &hashed{PipeReader: pr, done: done, s: s, h: h, at: offset}, nil
}

// before returns the state of the hash after the bytes before offset, and keeps it for the next time.
func (s *stored) before(offset int64) (*blake3.Hasher, error) {
	p := s.prefix
	if p.h == nil || p.n > offset {
		*p = prefixHash{h: blake3.New()}
	}
	if p.n < offset {
		if _, err := s.o.WriteStored(s.ctx, p.h, p.n, offset-p.n); err != nil {
			*p = prefixHash{}
			return nil, err
		}
		p.n = offset
	}
	return p.h.Clone(), nil
}

// total returns the hash of all bytes, reading those that nobody read.
func (s *stored) total() ([]byte, error) {
	if s.sum == nil {
		h, err := s.before(s.Size())
		if err != nil {
			return nil, err
		}
		s.sum = h.Sum(nil)
	}
	return s.sum, nil
}

// hashed hashes what is read.
type hashed struct {
	*io.PipeReader
	done chan struct{}
	s    *stored
	h    *blake3.Hasher
	at   int64
}

// Read implements io.Reader.
func (r *hashed) Read(p []byte) (int, error) {
	turn := turns.From(r.s.ctx)
	if r.s.up != nil { // what can go on later stops where its window closes
		if err := turn.Closed(); err != nil {
			return 0, err
		}
	}
	n, err := r.PipeReader.Read(p)
	if e := turn.Take(r.s.ctx, n); e != nil {
		return 0, e
	}
	_, _ = r.h.Write(p[:n])
	if r.at += int64(n); r.s.up != nil {
		r.s.up.at.Store(r.at)
	}
	return n, err
}

// Close implements io.Closer.
func (r *hashed) Close() error {
	if r.at == r.s.Size() {
		r.s.sum = r.h.Sum(nil)
	}
	err := r.PipeReader.Close()
	<-r.done
	return err
}

// Collect removes blobs from tiers that no version needs any more, and reports how many, and their bytes where the tier
// tells. A tier that is away is left for later.
func (m *Mover) Collect(ctx context.Context) (blobs int64, err error) {
	for _, t := range m.set.list {
		if err := m.ready(ctx, t); err != nil {
			m.complain(t, err)
			continue
		}
		// The catalogue first: it must not tell of what is gone.
		m.tidyUploads(ctx, t)
		err := m.follow(ctx, t)
		var n int64
		if err == nil {
			n, err = m.collect(ctx, t)
		}
		blobs += n
		if err != nil {
			if ctx.Err() != nil {
				return blobs, err
			}
			m.complain(t, err)
		}
	}
	return blobs, nil
}

// complain logs why a tier cannot be worked on, once for as long as it is the same.
func (m *Mover) complain(t *place, err error) {
	t.mu.Lock()
	same := t.warned == err.Error()
	t.warned = err.Error()
	t.mu.Unlock()
	if !same {
		m.opt.Log.Warn("a tier cannot be brought up to date", "tier", t.Name, "error", err)
	}
}

func (m *Mover) collect(ctx context.Context, t *place) (n int64, err error) {
	for {
		list, err := m.ns.TierGarbage(ctx, t.Name, m.set.now().Add(-m.opt.Grace))
		if err != nil || len(list) == 0 {
			return n, err
		}
		keys := make([]string, len(list))
		for i := range list {
			keys[i] = list[i].Key
		}
		if err := t.saw(m.set.now(), t.content.Delete(ctx, keys...)); err != nil {
			return n, err
		}
		if err := m.ns.Forget(ctx, list...); err != nil {
			return n, err
		}
		n += int64(len(list))
		t.counts.removed.Add(int64(len(list)))
	}
}

// Sweep has the tiers take back the room of what Collect removed, where they do that later and it is worth it. A tier that is
// away is left for later.
func (m *Mover) Sweep(ctx context.Context) error {
	var g errgroup.Group
	for _, t := range m.set.list {
		c, ok := t.content.(Sweeper)
		if !ok || t.opened() == nil { // not this site's, or not asked yet
			continue
		}
		g.Go(func() error {
			if err := t.saw(m.set.now(), c.Sweep(ctx, func(ctx context.Context, each func(string, bool)) error {
				return m.registered(ctx, t, func(b record.TierBlob) bool {
					each(b.Key, b.State != record.TierFreed)
					return true
				})
			})); err != nil && ctx.Err() == nil {
				m.complain(t, err)
			}
			return ctx.Err()
		})
	}
	return g.Wait()
}
