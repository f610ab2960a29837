package runner

import (
	"context"
	"errors"
	"sync"
	"time"

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

// moves gathers the moves of a pass by storage class, and carries out the batches of different classes side by side. It
// also keeps the pass's counts: outcomes come from the walk and from the movers.
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

// lane is the way to one storage class.
type lane struct {
	class   string
	next    batchOf
	batches chan batchOf
	away    error // set and read by the lane's goroutine: why the tier is not tried again in this pass
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
	for class, l := range m.lanes {
		m.send(l)
		close(l.batches)
		delete(m.lanes, class)
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
	l := m.lanes[class]
	if l == nil {
		l = &lane{class: class, batches: make(chan batchOf)}
		m.lanes[class] = l
		m.wg.Go(func() {
			for b := range l.batches {
				m.carryOut(l, b)
			}
		})
	}
	b := &l.next
	b.options.Class = class
	b.versions, b.about = append(b.versions, *v), append(b.about, it)
	if b.bytes += v.Size; len(b.versions) >= moveObjects || b.bytes >= moveBytes {
		m.send(l)
	}
}

func (m *moves) send(l *lane) {
	if len(l.next.versions) > 0 {
		l.batches <- l.next
		l.next = batchOf{}
	}
}

func (m *moves) carryOut(l *lane, b batchOf) {
	if l.class == object.StandardClass {
		m.recall(b)
	} else if l.away == nil {
		errs := m.move(m.ctx, l.class, b.versions, b.options)
		for i, err := range errs {
			b.about[i].Err = err
		}
		l.away = taken(errs)
	} else {
		for i := range b.about {
			b.about[i].Err = l.away
		}
	}
	for _, it := range b.about {
		m.done(it)
	}
}

// recall brings the versions of a batch back. They may be on different tiers.
func (m *moves) recall(b batchOf) {
	away := map[string]error{}
	for i := range b.versions {
		v := &b.versions[i]
		if v.Location == nil {
			b.about[i].Err = errChanged
			continue
		}
		err := away[v.Location.Tier]
		if err == nil {
			if _, err = m.r.opt.Recall(m.ctx, object.RefOf(v), object.RecallOptions{}); firn.KindOf(err) == firn.Unavailable {
				away[v.Location.Tier] = err
			}
		}
		b.about[i].Err = err
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
