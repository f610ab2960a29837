package prefetch

import (
	"context"
	"errors"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"firn"
)

// Fetch fetches what a suggestion names, where it is not there yet, and returns how many bytes came over the link. A
// suggestion of something that does not exist is no error: it returns 0.
type Fetch func(ctx context.Context, s Suggestion) (int64, error)

// RunnerOptions are the settings.
type RunnerOptions struct {
	// Parallel is how many suggestions are fetched at one time: 2 by default.
	Parallel int
	// Queue is the most suggestions that wait: 64 by default. When it is full the oldest goes.
	Queue int
	// Rate is the most bytes a second that are fetched ahead, over time; 0 is without limit.
	Rate int64
	// Rest is for how long nothing is begun after the last foreground fetch: it is often followed by another.
	Rest time.Duration
}

// RunnerStats are counters since the start.
type RunnerStats struct {
	Suggested, Fetched, Failed uint64
	Cancelled                  uint64 // broken off for a foreground fetch
	Dropped                    uint64 // that never had their turn
	Bytes                      int64
	Waiting                    int
}

// Runner fetches what a Learner suggests, when nobody else needs the link. Its methods may be called concurrently.
type Runner struct {
	opt   RunnerOptions
	fetch Fetch
	mu    struct {
		sync.Mutex
		learner    *Learner
		queue      []Suggestion
		foreground int
		running    map[int]context.CancelCauseFunc
		next       int
		free       time.Time // when Rate, and Rest, allow the next fetch
		stats      RunnerStats
		changed    chan struct{} // closed and replaced when a worker may have something to do
	}
}

var errForeground = errors.New("a foreground fetch needs the link")

// NewRunner returns a Runner over l, which is the Runner's from then on.
func NewRunner(l *Learner, fetch Fetch, opt RunnerOptions) (*Runner, error) {
	if opt.Parallel == 0 {
		opt.Parallel = 2
	}
	if opt.Queue == 0 {
		opt.Queue = 64
	}
	if opt.Parallel < 1 || opt.Queue < 1 || opt.Rate < 0 || opt.Rest < 0 {
		return nil, firn.NewError(firn.Invalid, "prefetch needs one fetch at a time or more, room for one to wait, and a rate and a rest that are not negative")
	}
	r := &Runner{opt: opt, fetch: fetch}
	r.mu.learner = l
	r.mu.running = map[int]context.CancelCauseFunc{}
	r.mu.changed = make(chan struct{})
	return r, nil
}

// Observe tells of a read. It does no I/O.
func (r *Runner) Observe(a Access) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, s := range r.mu.learner.Observe(a) {
		if len(r.mu.queue) == r.opt.Queue {
			r.mu.queue = r.mu.queue[1:]
			r.mu.stats.Dropped++
		}
		r.mu.queue = append(r.mu.queue, s)
		r.mu.stats.Suggested++
	}
	r.wake()
}

// Foreground tells that somebody waits for a fetch: what is being fetched ahead is broken off, and nothing more is
// begun until done is called.
func (r *Runner) Foreground() (done func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.mu.foreground++
	for _, cancel := range r.mu.running {
		cancel(errForeground)
	}
	return sync.OnceFunc(func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.mu.foreground--
		if quiet := time.Now().Add(r.opt.Rest); r.mu.free.Before(quiet) {
			r.mu.free = quiet
		}
		r.wake()
	})
}

// Stats returns the counters.
func (r *Runner) Stats() RunnerStats {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.mu.stats
	s.Waiting = len(r.mu.queue)
	return s
}

func (r *Runner) wake() {
	close(r.mu.changed)
	r.mu.changed = make(chan struct{})
}

// Run fetches until ctx ends.
func (r *Runner) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	for range r.opt.Parallel {
		g.Go(func() error {
			for {
				if err := r.one(ctx); err != nil {
					return err
				}
			}
		})
	}
	return g.Wait()
}

// one fetches one suggestion, or waits until there may be one.
func (r *Runner) one(ctx context.Context) error {
	s, fctx, end, wait, changed := r.take(ctx)
	if fctx == nil {
		var timer <-chan time.Time
		if wait > 0 {
			t := time.NewTimer(wait)
			defer t.Stop()
			timer = t.C
		}
		select {
		case <-changed:
		case <-timer:
		case <-ctx.Done():
		}
		return ctx.Err()
	}
	n, err := r.fetch(fctx, s)
	end(n, err, errors.Is(context.Cause(fctx), errForeground))
	return ctx.Err()
}

// take returns the next suggestion, if there is one and it may be fetched now. It must be ended.
func (r *Runner) take(ctx context.Context) (s Suggestion, fctx context.Context, end func(int64, error, bool), wait time.Duration, changed <-chan struct{}) {
	r.mu.Lock()
	defer r.mu.Unlock()
	changed = r.mu.changed
	if len(r.mu.queue) == 0 || r.mu.foreground > 0 {
		return s, nil, nil, 0, changed
	}
	if wait = time.Until(r.mu.free); wait > 0 {
		return s, nil, nil, wait, changed
	}
	// The newest first: what was suggested long ago has been read without it.
	s = r.mu.queue[len(r.mu.queue)-1]
	r.mu.queue = r.mu.queue[:len(r.mu.queue)-1]
	fctx, cancel := context.WithCancelCause(ctx)
	id := r.mu.next
	r.mu.next++
	r.mu.running[id] = cancel
	end = func(n int64, err error, cancelled bool) {
		cancel(nil)
		r.mu.Lock()
		defer r.mu.Unlock()
		delete(r.mu.running, id)
		r.mu.stats.Bytes += n
		switch {
		case err == nil:
			r.mu.stats.Fetched++
		case cancelled:
			r.mu.stats.Cancelled++
			if len(r.mu.queue) < r.opt.Queue { // its turn comes again
				r.mu.queue = append(r.mu.queue, s)
			}
		default:
			r.mu.stats.Failed++
		}
		if r.opt.Rate > 0 {
			now := time.Now()
			if r.mu.free.Before(now) {
				r.mu.free = now
			}
			r.mu.free = r.mu.free.Add(time.Duration(float64(n) / float64(r.opt.Rate) * float64(time.Second)))
		}
	}
	return s, fctx, end, 0, changed
}
