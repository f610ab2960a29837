package limit

import (
	"context"
	"io"
	"sync"

	"golang.org/x/sync/semaphore"
	"golang.org/x/time/rate"

	"firn"
)

// Rates are the bounds. Zero is no bound.
type Rates struct {
	// Up and Down are bytes a second of content written and read.
	Up, Down int64
	// Requests a second: each call is one, a listing of any length too.
	Requests float64
	// Operations at work at once. Calls that wait for their caller (for bytes of a source, for the next read, for the
	// answer to a listed blob) are not at work.
	Operations int
}

// Limiter holds the bounds of one or several places together: what all of their users take counts. Its methods may be
// called by many goroutines at once.
type Limiter struct {
	up, down, requests *rate.Limiter
	operations         *semaphore.Weighted
	mu                 struct {
		sync.Mutex
		rates Rates
	}
}

// capacity is what the semaphore holds; each operation takes its share of it. So the number of operations can change
// while some are at work, and is never beyond the larger of the two bounds.
const capacity = 1 << 40

// NewLimiter returns a limiter with rates.
func NewLimiter(rates Rates) (*Limiter, error) {
	l := &Limiter{
		up:         rate.NewLimiter(rate.Inf, 0),
		down:       rate.NewLimiter(rate.Inf, 0),
		requests:   rate.NewLimiter(rate.Inf, 0),
		operations: semaphore.NewWeighted(capacity),
	}
	return l, l.Set(rates)
}

// Set changes the bounds, for calls under way too. Negative ones are firn.Invalid and change nothing.
func (l *Limiter) Set(rates Rates) error {
	if rates.Up < 0 || rates.Down < 0 || rates.Requests < 0 || rates.Operations < 0 {
		return firn.NewError(firn.Invalid, "a limit is negative: 0 is no limit")
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.mu.rates = rates
	set(l.up, float64(rates.Up), burst(rates.Up))
	set(l.down, float64(rates.Down), burst(rates.Down))
	set(l.requests, rates.Requests, max(1, int(rates.Requests/4)))
	return nil
}

// Rates returns the bounds.
func (l *Limiter) Rates() Rates {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.mu.rates
}

// burst is how many bytes pass at once: those of a quarter of a second, 4 KiB to 1 MiB.
func burst(perSecond int64) int { return int(min(max(perSecond/4, 4<<10), 1<<20)) }

func set(l *rate.Limiter, perSecond float64, burst int) {
	if perSecond == 0 {
		l.SetLimit(rate.Inf)
		return
	}
	l.SetBurst(burst)
	l.SetLimit(rate.Limit(perSecond))
}

// take waits for n bytes. The burst may shrink meanwhile, so it goes by pieces.
func take(ctx context.Context, l *rate.Limiter, n int) error {
	for n > 0 && l.Limit() != rate.Inf {
		piece := min(n, l.Burst())
		if err := l.WaitN(ctx, piece); err != nil {
			if e := ctx.Err(); e != nil {
				return e
			}
			if piece > l.Burst() {
				continue // the bound was lowered between the two lines
			}
			// The wait would last beyond the deadline of ctx.
			return &firn.Error{Kind: firn.Unavailable, Err: context.DeadlineExceeded}
		}
		n -= piece
	}
	return nil
}

// piece is how many bytes to move at once.
func piece(l *rate.Limiter, n int) int {
	if l.Limit() == rate.Inf {
		return n
	}
	return min(n, l.Burst())
}

// work is one operation. It is at work between begin and end, unless paused.
type work struct {
	l   *Limiter
	ctx context.Context
	mu  struct {
		sync.Mutex
		weight int64 // held; 0 while paused
	}
}

// begin waits for the turn of one more request and for its place among those at work.
func (l *Limiter) begin(ctx context.Context) (*work, error) {
	if err := take(ctx, l.requests, 1); err != nil {
		return nil, err
	}
	w := &work{l: l, ctx: ctx}
	return w, w.resume()
}

func (w *work) resume() error {
	n := w.l.Rates().Operations
	if n == 0 {
		return nil
	}
	weight := int64(capacity / n)
	if err := w.l.operations.Acquire(w.ctx, weight); err != nil {
		return err
	}
	w.mu.Lock()
	w.mu.weight += weight
	w.mu.Unlock()
	return nil
}

// pause gives the place to others; it is also the end.
func (w *work) pause() {
	w.mu.Lock()
	weight := w.mu.weight
	w.mu.weight = 0
	w.mu.Unlock()
	if weight > 0 {
		w.l.operations.Release(weight)
	}
}

// upReader is a source's content on its way up. While the source is read, or waits for its turn, the operation is not
// at work.
type upReader struct {
	r io.Reader
	w *work
}

func (u *upReader) Read(p []byte) (int, error) {
	u.w.pause()
	n, err := u.r.Read(p[:piece(u.w.l.up, len(p))])
	if e := take(u.w.ctx, u.w.l.up, n); e != nil {
		return 0, e
	}
	if e := u.w.resume(); e != nil {
		return 0, e
	}
	return n, err
}

// downReader is content on its way down. Only Read is work.
type downReader struct {
	r io.ReadCloser
	w *work
}

func (d *downReader) Read(p []byte) (int, error) {
	if err := d.w.resume(); err != nil {
		return 0, err
	}
	n, err := d.r.Read(p[:piece(d.w.l.down, len(p))])
	d.w.pause()
	if e := take(d.w.ctx, d.w.l.down, n); e != nil {
		return 0, e
	}
	return n, err
}

func (d *downReader) Close() error { return d.r.Close() }
