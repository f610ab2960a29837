// Package turns decides who uses the way to the tiers next: what somebody waits for before what has time.
//
// It promises that no more is at work at once on a tier than was set, that a tier that does not answer holds up no other,
// that bytes pass at no more than the rate that was set plus a burst, that moves begin only in their windows, that a more
// urgent one never waits behind a less urgent one that has not begun, and that the most urgent one under way gets half of the
// rate at least. What has begun is never interrupted, but may ask whether its window has closed. It must never import
// another package of this module.
package turns

import (
	"cmp"
	"context"
	"fmt"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"firn"
)

// Urgency orders who waits.
type Urgency int

// From the most urgent one on.
const (
	Recall  Urgency = iota // somebody wants to read it
	Asked                  // a move that somebody asked for, in no window
	Promote                // a recall by a rule, in no window
	Move                   // a move by a rule
	Follow                 // catalogues
	urgencies
)

// Options are the settings of Turns.
type Options struct {
	Parallel       int   // at work at once on a tier; 0 is 4
	BytesPerSecond int64 // of all together, both ways; 0 is no bound
	Windows        Windows
	Now            func() time.Time // nil is time.Now; its location is that of the windows
}

// ErrClosed is wrapped by the error of a move outside the windows.
var ErrClosed = firn.NewError(firn.Unavailable, "moves have their times of day")

// Turns are those of one way. Its methods may be called concurrently.
type Turns struct {
	opt   Options
	bytes *queue // whoever takes bytes holds its one place
	rate  *rate.Limiter

	mu    sync.Mutex
	slots map[string]*queue // by tier; guarded by mu
}

// burst is how many bytes may pass at once: a more urgent one waits for no more than that.
func burst(perSecond int64) int { return int(min(max(perSecond/8, 4<<10), 1<<20)) }

// New returns Turns.
func New(opt Options) *Turns {
	if opt.Parallel <= 0 {
		opt.Parallel = 4
	}
	if opt.Now == nil {
		opt.Now = time.Now
	}
	t := &Turns{opt: opt, slots: map[string]*queue{}, bytes: newQueue(1)}
	if opt.BytesPerSecond > 0 {
		t.rate = rate.NewLimiter(rate.Limit(opt.BytesPerSecond), burst(opt.BytesPerSecond))
	}
	return t
}

// Parallel returns how many are at work at once on a tier.
func (t *Turns) Parallel() int { return t.opt.Parallel }

// Opens returns when moves may begin: now, or a later time.
func (t *Turns) Opens() (at time.Time, open bool) {
	now := t.opt.Now()
	at = t.opt.Windows.Opens(now)
	return at, !at.After(now)
}

// Turn is somebody's turn, until it ends. The methods of a nil Turn do nothing.
type Turn struct {
	t    *Turns
	slot *queue
	u    Urgency
	out  bool // Rest gave it away and could not get it back
}

// Begin waits for its turn on a tier, of which there are few. A Move outside the windows does not wait: ErrClosed. Otherwise
// the error is the context's.
func (t *Turns) Begin(ctx context.Context, tier string, u Urgency) (*Turn, error) {
	if err := t.closed(u); err != nil {
		return nil, err
	}
	t.mu.Lock()
	slot := t.slots[tier]
	if slot == nil {
		slot = newQueue(t.opt.Parallel)
		t.slots[tier] = slot
	}
	t.mu.Unlock()
	if err := slot.enter(ctx, u); err != nil {
		return nil, err
	}
	if err := t.closed(u); err != nil { // while it waited
		slot.leave()
		return nil, err
	}
	return &Turn{t: t, slot: slot, u: u}, nil
}

func (t *Turns) closed(u Urgency) error {
	if at, open := t.Opens(); u == Move && !open {
		return fmt.Errorf("%w: they go on at %s", ErrClosed, at.Format("2006-01-02 15:04 MST"))
	}
	return nil
}

// Closed returns ErrClosed for a Move whose window has closed since it began; what can go on later stops then.
func (t *Turn) Closed() error {
	if t == nil {
		return nil
	}
	return t.t.closed(t.u)
}

// End ends the turn.
func (t *Turn) End() {
	if t != nil && !t.out {
		t.slot.leave()
	}
}

// Rest lets another one have the turn while wait waits for something, and waits for it again after that. The error is that of
// wait, or the context's: then the turn has ended.
func (t *Turn) Rest(ctx context.Context, wait func() error) error {
	if t == nil || t.out {
		return wait()
	}
	t.slot.leave()
	err := wait()
	if e := t.slot.enter(ctx, t.u); e != nil {
		t.out = true
		return cmp.Or(err, e)
	}
	return err
}

// Take waits until n bytes may pass. The error is the context's.
func (t *Turn) Take(ctx context.Context, n int) error {
	if t == nil || t.t.rate == nil {
		return nil
	}
	for n > 0 {
		step := min(n, t.t.rate.Burst())
		if err := t.t.bytes.enter(ctx, t.u); err != nil {
			return err
		}
		err := t.t.rate.WaitN(ctx, step)
		t.t.bytes.leave()
		if err != nil {
			if ctx.Err() == nil { // it would take longer than the context lasts
				err = context.DeadlineExceeded
			}
			return err
		}
		n -= step
	}
	return nil
}

// queue lets in so many at once, the most urgent first, and among those who came first.
type queue struct {
	mu      sync.Mutex // guards all below
	free    int
	waiting [urgencies][]chan struct{}
}

func newQueue(n int) *queue { return &queue{free: n} }

func (q *queue) enter(ctx context.Context, u Urgency) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	q.mu.Lock()
	if q.free > 0 {
		q.free--
		q.mu.Unlock()
		return nil
	}
	mine := make(chan struct{})
	q.waiting[u] = append(q.waiting[u], mine)
	q.mu.Unlock()
	select {
	case <-mine:
		return nil
	case <-ctx.Done():
	}
	q.mu.Lock()
	for i, c := range q.waiting[u] {
		if c == mine {
			q.waiting[u] = append(q.waiting[u][:i], q.waiting[u][i+1:]...)
			q.mu.Unlock()
			return ctx.Err()
		}
	}
	q.mu.Unlock()
	q.leave() // it was let in at the same moment
	return ctx.Err()
}

func (q *queue) leave() {
	q.mu.Lock()
	defer q.mu.Unlock()
	for u := range q.waiting {
		if list := q.waiting[u]; len(list) > 0 {
			q.waiting[u] = list[1:]
			close(list[0])
			return
		}
	}
	q.free++
}

type key struct{}

// With returns a context whose work takes its bytes from the turn.
func With(ctx context.Context, t *Turn) context.Context { return context.WithValue(ctx, key{}, t) }

// From returns the turn that the context's work has; nil for none.
func From(ctx context.Context) *Turn {
	t, _ := ctx.Value(key{}).(*Turn)
	return t
}
