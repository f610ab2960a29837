package runner

import (
	"context"
	"errors"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"firn"
	"firn/lifecycle"
	"firn/object"
	"firn/object/record"
)

// Bounds of a batch of moves. An entry in a tier's catalogue costs a request, which a batch shares; what a batch holds is
// not switched over before its last version is copied.
const (
	moveObjects = 256
	moveBytes   = 256 << 20
)

// moveFor is how long a pass begins batches. What is due after that is counted as waiting, so that a backlog of days on a
// slow link keeps nothing from expiring and is told as it is; Result.More asks for the next pass at once.
const moveFor = 5 * time.Minute

var errLater = firn.NewError(firn.Unavailable, "there is more to move than goes within one run; it goes on at once")

// moves gathers the moves of a pass by storage class, and recalls by the tier they come from, and carries out the batches of
// different lanes side by side. It also keeps the pass's counts: outcomes come from the walk and from the movers.
type moves struct {
	r     *Runner
	ctx   context.Context
	o     *PassOptions
	move  func(ctx context.Context, class string, versions []record.Version, o object.MoveOptions) []error
	wg    sync.WaitGroup
	lanes map[string]*lane // used by the walk only

	mu  sync.Mutex // guards res, and is held while o.Report is called
	res *Result
}

// lane is the way to the tier of one storage class, or back from one.
type lane struct {
	class   string
	next    batchOf
	batches chan batchOf

	mu   sync.Mutex // guards away
	away error      // why the tier is not tried again in this pass
}

func (l *lane) isAway() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.away
}

func (l *lane) setAway(err error) {
	l.mu.Lock()
	l.away = err
	l.mu.Unlock()
}

// batchOf is versions that are moved in one call.
type batchOf struct {
	versions []record.Version
	about    []Item
	bytes    int64
	options  object.MoveOptions
}

func (r *Runner) newMoves(ctx context.Context, o *PassOptions, res *Result) *moves {
	return &moves{r: r, ctx: ctx, o: o, move: r.opt.Move, res: res, lanes: map[string]*lane{}}
}

// end carries out what was gathered and waits for all of it. It may be called again.
func (m *moves) end() {
	for name, l := range m.lanes {
		m.send(l)
		close(l.batches)
		delete(m.lanes, name)
	}
	m.wg.Wait()
}

var errNoTier = firn.NewError(firn.Unsupported, "this site has no tier with that storage class")

// add takes a move on. It waits while the tier has enough to do.
func (m *moves) add(v *record.Version, it Item) {
	switch {
	case m.move == nil:
		it.Err = errNoTier
		m.done(it)
		return
	case m.o.DryRun:
		m.done(it)
		return
	case m.r.opt.Now().Sub(m.res.Began) >= moveFor:
		it.Err = errLater
		m.done(it)
		return
	}
	class := it.Decision.Class
	name := class
	if class == object.StandardClass {
		if v.Location == nil {
			it.Err = errChanged
			m.done(it)
			return
		}
		name = "from " + v.Location.Tier // which no class is called
	}
	l := m.lanes[name]
	if l == nil {
		l = &lane{class: class, batches: make(chan batchOf)}
		m.lanes[name] = l
		m.wg.Go(func() { m.run(l) })
	}
	b := &l.next
	b.options.Class = class
	b.versions, b.about = append(b.versions, *v), append(b.about, it)
	b.bytes += v.Size
	// As many as are copied at once, however large they are.
	if n := len(b.versions); n >= moveObjects || n >= m.r.opt.Parallel && b.bytes >= moveBytes {
		m.send(l)
	}
}

func (m *moves) send(l *lane) {
	if len(l.next.versions) > 0 {
		l.batches <- l.next
		l.next = batchOf{}
	}
}

func (m *moves) run(l *lane) {
	var recalls errgroup.Group // across batches, so that a large version keeps no others waiting
	recalls.SetLimit(m.r.opt.Parallel)
	for b := range l.batches {
		if l.class == object.StandardClass {
			m.recall(l, b, &recalls)
		} else {
			m.carryOut(l, b)
		}
	}
	_ = recalls.Wait() // each error is in its item
}

func (m *moves) carryOut(l *lane, b batchOf) {
	if away := l.isAway(); away == nil {
		errs := m.move(m.ctx, l.class, b.versions, b.options)
		for i, err := range errs {
			b.about[i].Err = err
		}
		l.setAway(taken(errs))
	} else {
		for i := range b.about {
			b.about[i].Err = away
		}
	}
	for _, it := range b.about {
		m.done(it)
	}
}

// recall begins to bring the versions of a batch back, all from one tier.
func (m *moves) recall(l *lane, b batchOf, g *errgroup.Group) {
	for i := range b.versions {
		g.Go(func() error {
			it := b.about[i]
			if it.Err = l.isAway(); it.Err == nil {
				_, it.Err = m.r.opt.Recall(m.ctx, object.RefOf(&b.versions[i]), object.RecallOptions{})
				if firn.KindOf(it.Err) == firn.Unavailable {
					l.setAway(it.Err)
				}
			}
			m.done(it)
			return nil
		})
	}
}

// taken returns why a tier took nothing of a batch and needs no other one in this pass, nil where that is not so. One
// version that it does not take must not keep others from it.
func taken(errs []error) error {
	for _, err := range errs {
		if !waits(err) {
			return nil
		}
	}
	switch firn.KindOf(errs[0]) {
	case firn.Unavailable, firn.Denied:
		return errs[0]
	}
	if len(errs) > 1 {
		return errs[0]
	}
	return nil
}

// waits reports whether a move was not made for the tier's sake, and can be made once the tier is there, has room, takes
// its credentials again, or is this site's.
func waits(err error) bool {
	if errors.Is(err, object.ErrMoved) || errors.Is(err, errChanged) {
		return false
	}
	switch firn.KindOf(err) {
	case firn.Unavailable, firn.Denied, firn.NoSpace, firn.Conflict:
		return err != nil
	}
	return errors.Is(err, errNoTier)
}

func (m *moves) failed() {
	m.mu.Lock()
	m.res.Failed++
	m.mu.Unlock()
}

func (m *moves) scanned() {
	m.mu.Lock()
	m.res.Scanned++
	m.mu.Unlock()
}

func (m *moves) changed() {
	m.mu.Lock()
	m.res.Changed++
	m.mu.Unlock()
}

// done counts an item that was carried out, or was not.
func (m *moves) done(it Item) {
	m.mu.Lock()
	defer m.mu.Unlock()
	moved := false // needs a tier
	switch it.Decision.Action {
	case lifecycle.Move, lifecycle.Recall, lifecycle.Free:
		moved = true
	}
	switch {
	case it.Err == nil:
		m.res.Tally.Add(it.Bucket, it.Decision, it.Size)
		if moved && !m.o.DryRun {
			m.r.answered(it.Decision.Class)
		}
	case errors.Is(it.Err, errChanged), errors.Is(it.Err, object.ErrMoved):
		m.res.Changed++
	case m.ctx.Err() != nil: // the pass was ended
	case moved && waits(it.Err):
		m.wait(&it)
	default:
		m.res.Failed++
		m.r.opt.Log.Warn("a lifecycle rule could not be carried out", "bucket", it.Bucket, "key", it.Key, "version", it.VersionID,
			"action", it.Decision.Action.String(), "rule", it.Decision.Rule, "error", it.Err)
	}
	m.o.Report(it)
}

// wait adds a move to the backlog.
func (m *moves) wait(it *Item) {
	class := it.Decision.Class
	w := m.res.Waiting[class]
	if w.Objects == 0 {
		w.Since, w.Why = m.res.Began, it.Err.Error()
		if !errors.Is(it.Err, errLater) {
			w.Since = m.r.waitsSince(class, m.res.Began)
		}
	}
	m.res.More = m.res.More || errors.Is(it.Err, errLater)
	w.Objects++
	w.Bytes += it.Size
	if w.Oldest.IsZero() || it.Decision.Due.Before(w.Oldest) {
		w.Oldest = it.Decision.Due
	}
	m.res.Waiting[class] = w
}

// waitsSince returns since when moves to a class wait, which is now where they did not.
func (r *Runner) waitsSince(class string, now time.Time) time.Time {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.away[class].IsZero() {
		r.away[class] = now
	}
	return r.away[class]
}

func (r *Runner) answered(class string) {
	r.mu.Lock()
	delete(r.away, class)
	r.mu.Unlock()
}
