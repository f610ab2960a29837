// Package wish carries out what versions ask for by themselves: to be on the tier of their storage class, where they are
// not yet, and to have a local copy for a time.
//
// A wish is in the version's own record and nowhere else, so nothing can get out of step with it: wishes are found by a look
// at all versions at the start, and by the journal from then on. The package promises that a wish which cannot be granted
// now is tried again, less and less often, for as long as the version asks; that a tier keeps only its own wishes waiting;
// and that the memory for wishes is bounded. It must never decide what a version should ask for.
package wish

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"firn"
	"firn/hlc"
	"firn/kv"
	"firn/object"
	"firn/object/listing"
	"firn/object/record"
)

// Tiers knows the tiers of storage classes.
type Tiers interface {
	// OfClass returns the name of the tier with a storage class, "" where there is none.
	OfClass(class string) string
}

// Mover moves versions, as tier.Mover does.
type Mover interface {
	MoveNow(ctx context.Context, tier string, versions []record.Version, o object.MoveOptions) []error
	Recall(ctx context.Context, ref object.Ref, o object.RecallOptions) (*record.Version, error)
}

// Options are the settings of a Granter. Zero values mean the defaults named here.
type Options struct {
	// Log gets what an operator should know. Default: none.
	Log *slog.Logger
	// Parallel is how many recalls are asked of the mover at once. Default 4.
	Parallel int
	// Remember bounds the wishes of a kind and tier that are known at once. Default 10,000. More are found when these are granted.
	Remember int
}

const (
	batch     = 256 // versions that are moved together
	firstWait = 10 * time.Second
	maxWait   = 10 * time.Minute
)

// Granter grants wishes.
type Granter struct {
	ns    *object.Store
	tiers Tiers
	mover Mover
	opt   Options
	again chan struct{} // capacity 1: all versions are to be looked at

	mu     sync.Mutex        // guards all below
	moves  map[string]*queue // by tier
	recall map[string]*queue
	// start has a queue's wishes granted; set by Run.
	start func(q *queue, grant func(context.Context, string, []id) []error)
}

// New returns a Granter for a namespace. Nothing happens before Run.
func New(ns *object.Store, tiers Tiers, mover Mover, opt Options) *Granter {
	if opt.Log == nil {
		opt.Log = slog.New(slog.DiscardHandler)
	}
	if opt.Parallel <= 0 {
		opt.Parallel = 4
	}
	if opt.Remember <= 0 {
		opt.Remember = 10_000
	}
	return &Granter{
		ns: ns, tiers: tiers, mover: mover, opt: opt, again: make(chan struct{}, 1),
		moves: map[string]*queue{}, recall: map[string]*queue{},
	}
}

// add puts a wish into the queue of its tier.
func (g *Granter) add(queues map[string]*queue, grant func(context.Context, string, []id) []error, of id, w wish) {
	g.mu.Lock()
	q := queues[w.tier]
	if q == nil {
		q = newQueue(w.tier, g.opt.Remember, g.again)
		queues[w.tier] = q
		g.start(q, grant)
	}
	g.mu.Unlock()
	q.add(of, w)
}

// each calls fn for all queues.
func (g *Granter) each(fn func(*queue)) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, queues := range []map[string]*queue{g.moves, g.recall} {
		for _, q := range queues {
			fn(q)
		}
	}
}

// Waiting is what wishes wait.
type Waiting struct {
	Objects int64
	Bytes   int64
	Oldest  time.Time // since when the oldest one waits; zero where none does
	// More: there are more than are known.
	More bool
}

// Waiting returns the wishes that are not granted: moves by the tier they are to go to, recalls by the one they come from.
func (g *Granter) Waiting() (moves, recalls map[string]Waiting) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return waiting(g.moves), waiting(g.recall)
}

func waiting(queues map[string]*queue) map[string]Waiting {
	out := map[string]Waiting{}
	for tier, q := range queues {
		if w := q.waiting(); w.Objects > 0 {
			out[tier] = w
		}
	}
	return out
}

// Run grants wishes until ctx ends; then it returns nil. Another error is one of the namespace.
func (g *Granter) Run(ctx context.Context) error {
	tail := g.ns.JournalTail() // what is before it the look at all versions finds
	e, ctx := errgroup.WithContext(ctx)
	g.start = func(q *queue, grant func(context.Context, string, []id) []error) {
		e.Go(func() error { return g.work(ctx, q, grant) })
	}
	e.Go(func() error { return g.follow(ctx, tail) })
	e.Go(func() error { return g.look(ctx) })
	if err := e.Wait(); ctx.Err() == nil || !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

// follow notes the wishes of versions that the journal tells of.
func (g *Granter) follow(ctx context.Context, seq uint64) error {
	for {
		err := g.ns.WaitJournal(ctx, seq)
		if err == nil {
			err = g.ns.Journal(ctx, seq+1, func(e record.Entry) error {
				seq = e.Seq
				if e.Key == "" || e.Op != record.OpRecall && (e.Op != record.OpPut || !g.tiered(e.Classes)) {
					return ctx.Err()
				}
				return g.note(ctx, id{e.Bucket, e.Key, e.VersionID}, hlc.Time(e.Clock).Wall())
			})
		}
		if errors.Is(err, kv.ErrTrimmed) {
			seq, err = g.ns.JournalTail(), nil
			signal(g.again)
		}
		if err != nil {
			return err
		}
	}
}

func (g *Granter) tiered(list []record.ClassUsage) bool {
	for _, c := range list {
		if g.tiers.OfClass(c.Class) != "" {
			return true
		}
	}
	return false
}

// note puts what a version asks for into the queues.
func (g *Granter) note(ctx context.Context, of id, since time.Time) error {
	v, err := g.ns.Head(ctx, of.bucket, of.key, of.version)
	switch {
	case firn.KindOf(err) == firn.NotFound || errors.Is(err, object.ErrDeleteMarker):
		return nil // it was removed
	case firn.KindOf(err) == firn.Corrupt:
		g.opt.Log.Error("a version is damaged, and what it asks for is not known", "bucket", of.bucket, "key", of.key, "version", of.version, "error", err)
		return nil // it must not keep the others waiting
	case err != nil:
		return err
	case g.wantsTier(v) != "":
		g.add(g.moves, g.move, of, wish{tier: g.wantsTier(v), size: v.Size, since: since})
	case g.wantsLocal(v):
		g.add(g.recall, g.fetch, of, wish{tier: v.Location.Tier, size: v.Size, since: since})
	}
	return nil
}

// wantsTier returns the tier that a version is to go to, "" where it is to stay.
func (g *Granter) wantsTier(v *record.Version) string {
	if v.Location != nil || v.StorageClass == "" || v.DeleteMarker {
		return ""
	}
	return g.tiers.OfClass(v.StorageClass)
}

func (g *Granter) wantsLocal(v *record.Version) bool {
	return v.Location != nil && !v.Local() && v.Location.Wanted.After(time.Now())
}

// look notes the wishes of all versions: at the start, and whenever there were more than can be remembered and all of
// those were granted.
func (g *Granter) look(ctx context.Context) error {
	for {
		g.each((*queue).looking)
		buckets, err := g.ns.Buckets(ctx)
		if err != nil {
			return err
		}
		for _, b := range buckets {
			if err := g.lookAt(ctx, b.Name); err != nil {
				return err
			}
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-g.again:
		}
	}
}

func (g *Granter) lookAt(ctx context.Context, bucket string) error {
	classes, err := g.ns.UsageByClass(ctx, bucket)
	if err != nil || len(classes) == 1 { // it is gone, or all is STANDARD
		return nil
	}
	err = g.ns.VersionPages(ctx, bucket, listing.Options{Limit: object.MaxList}, func(page []record.Version) error {
		for i := range page {
			v := &page[i]
			if v.StorageClass == "" || v.DeleteMarker {
				continue
			}
			if err := g.note(ctx, id{bucket, v.Key, v.ID}, v.Modified); err != nil {
				return err
			}
		}
		return nil
	})
	switch firn.KindOf(err) {
	case firn.Corrupt:
		g.opt.Log.Error("a bucket is damaged, and not all that its versions ask for is known", "bucket", bucket, "error", err)
		return nil
	case firn.NotFound:
		return nil
	}
	return err
}

// work grants the wishes of a queue as they come due.
func (g *Granter) work(ctx context.Context, q *queue, grant func(context.Context, string, []id) []error) error {
	for {
		list, asked, next := q.due(time.Now())
		if len(list) == 0 {
			if err := q.wait(ctx, next); err != nil {
				return err
			}
			continue
		}
		var first error
		failed := 0
		for i, err := range grant(ctx, q.tier, list) {
			if err == nil {
				q.done(list[i], asked[i])
				continue
			}
			if ctx.Err() != nil {
				return ctx.Err()
			}
			q.failed(list[i], time.Now())
			if failed++; first == nil {
				first = err
			}
		}
		if first != nil {
			g.opt.Log.Warn("what objects ask for is tried again later", "tier", q.tier, "objects", failed, "of", len(list), "error", first)
		}
	}
}

// move moves versions to the tier of their class.
func (g *Granter) move(ctx context.Context, tier string, list []id) []error {
	errs := make([]error, len(list))
	var versions []record.Version
	var at []int
	for i, of := range list {
		v, err := g.ns.Head(ctx, of.bucket, of.key, of.version)
		if err == nil && g.wantsTier(v) == tier {
			versions, at = append(versions, *v), append(at, i)
		} else {
			errs[i] = gone(err)
		}
	}
	for i, err := range g.mover.MoveNow(ctx, tier, versions, object.MoveOptions{}) {
		errs[at[i]] = gone(err)
	}
	return errs
}

// fetch makes local copies of versions.
func (g *Granter) fetch(ctx context.Context, _ string, list []id) []error {
	errs := make([]error, len(list))
	var e errgroup.Group
	e.SetLimit(g.opt.Parallel)
	for i, of := range list {
		e.Go(func() error {
			v, err := g.ns.Head(ctx, of.bucket, of.key, of.version)
			if err == nil && g.wantsLocal(v) {
				_, err = g.mover.Recall(ctx, object.RefOf(v), object.RecallOptions{Until: v.Location.Wanted})
			}
			errs[i] = gone(err)
			return nil
		})
	}
	_ = e.Wait() // each error is in errs
	return errs
}

// gone is err, or nil where it says that there is nothing to be done any more: what came in the version's place has an entry
// in the journal, and a wish of its own.
func gone(err error) error {
	if firn.KindOf(err) == firn.NotFound || errors.Is(err, object.ErrDeleteMarker) || errors.Is(err, object.ErrMoved) {
		return nil
	}
	return err
}

// id names a version.
type id struct{ bucket, key, version string }

type wish struct {
	tier  string
	size  int64
	since time.Time
	asked int           // how often
	next  time.Time     // when it is tried; zero: at once
	wait  time.Duration // before the try after that
}

// queue is wishes of one kind and tier. Its methods may be called concurrently.
type queue struct {
	tier  string
	limit int
	wake  chan struct{} // capacity 1: there is something new
	look  chan struct{} // capacity 1: all versions are to be looked at

	mu   sync.Mutex // guards all below
	all  map[id]*wish
	more bool
}

func newQueue(tier string, limit int, look chan struct{}) *queue {
	return &queue{tier: tier, limit: limit, wake: make(chan struct{}, 1), look: look, all: map[id]*wish{}}
}

func signal(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}

func (q *queue) add(of id, w wish) {
	q.mu.Lock()
	defer q.mu.Unlock()
	switch have := q.all[of]; {
	case have != nil: // who asks again wants it now, and may be another version without an id
		have.next, have.size = time.Time{}, w.size
		have.asked++
	case len(q.all) >= q.limit:
		q.more = true
		return
	default:
		q.all[of] = &w
	}
	signal(q.wake)
}

// looking says that all versions are about to be looked at.
func (q *queue) looking() {
	q.mu.Lock()
	q.more = false
	q.mu.Unlock()
}

// due returns wishes that are due, each with how often it was asked for, or when the next one is; zero: there is none.
func (q *queue) due(now time.Time) (list []id, asked []int, next time.Time) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for of, w := range q.all {
		if w.next.After(now) {
			if next.IsZero() || w.next.Before(next) {
				next = w.next
			}
			continue
		}
		if list, asked = append(list, of), append(asked, w.asked); len(list) == batch {
			break
		}
	}
	return list, asked, next
}

// wait returns when there is something new, or at a time where that is not zero.
func (q *queue) wait(ctx context.Context, at time.Time) error {
	var timer <-chan time.Time
	if !at.IsZero() {
		t := time.NewTimer(time.Until(at))
		defer t.Stop()
		timer = t.C
	}
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-q.wake:
	case <-timer:
	}
	return nil
}

// done forgets a wish, unless it was asked for again meanwhile: then what was done may have been for a version that is gone.
func (q *queue) done(of id, asked int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.all[of].asked != asked {
		return
	}
	if delete(q.all, of); q.more && len(q.all) == 0 {
		signal(q.look)
	}
}

func (q *queue) failed(of id, now time.Time) {
	q.mu.Lock()
	defer q.mu.Unlock()
	w := q.all[of]
	w.wait = min(max(2*w.wait, firstWait), maxWait)
	w.next = now.Add(w.wait)
}

func (q *queue) waiting() Waiting {
	q.mu.Lock()
	defer q.mu.Unlock()
	s := Waiting{Objects: int64(len(q.all)), More: q.more}
	for _, w := range q.all {
		s.Bytes += w.size
		if s.Oldest.IsZero() || w.since.Before(s.Oldest) {
			s.Oldest = w.since
		}
	}
	return s
}
