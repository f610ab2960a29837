package places

import (
	"context"
	"io"
	"sync"
	"time"

	"firn"
	"firn/blob"
	"firn/blob/driver"
)

const (
	// lazyPatience bounds how long what fails in a place that is opened lazily is tried again: somebody waits for it.
	lazyPatience = 15 * time.Second
	// openTime bounds one try to open it.
	openTime = 30 * time.Second
	// firstWait and longestWait are the times between tries to open it, longestRest between uses while it does not answer.
	firstWait   = time.Second
	longestWait = time.Minute
	longestRest = 8 * time.Second
)

// Lazy returns the place at a URL, to be opened when it is first used. While it cannot be opened every use fails with why;
// it is tried again by the next use after a wait, which grows from 1 s to 1 min. The URL is not looked at before: Parse does
// that.
//
// What goes wrong later is tried again for 15 s at most. When the place does not answer even so, every use fails at once,
// but for one that finds out, after a rest which grows from 1 s to 8 s, whether it does again.
//
// opener is asked for each try, so that credentials that were missing can be put right.
func Lazy(opener func() (*Opener, error), rawURL string) *blob.Store {
	l := &lazy{trying: make(chan struct{}, 1)}
	l.open = func(ctx context.Context) (driver.Driver, error) {
		o, err := opener()
		if err != nil {
			return nil, err
		}
		quick := *o
		quick.patience = lazyPatience
		s, err := quick.Open(ctx, rawURL)
		if err != nil {
			return nil, err
		}
		return s.Driver(), nil
	}
	return blob.New(l, Redact(rawURL))
}

// lazy is a driver that opens another when it is needed. Abilities are those of the other once it is open.
type lazy struct {
	open func(context.Context) (driver.Driver, error)

	trying chan struct{} // capacity 1; taken by the one who opens

	mu struct {
		sync.Mutex
		d      driver.Driver // nil before it was opened
		closed bool
		err    error         // why it was not, or why it does not answer; nil where it does
		next   time.Time     // when it may be tried again
		wait   time.Duration // before the try after that
	}
}

var errLazyClosed = firn.NewError(firn.Unavailable, "the place is closed")

// state returns the driver, or what keeps from using it; both nil where it is to be opened.
func (l *lazy) state() (driver.Driver, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	switch {
	case l.mu.closed:
		return nil, errLazyClosed
	case l.mu.d != nil && l.mu.err == nil:
		return l.mu.d, nil
	case now.Before(l.mu.next):
		return nil, l.mu.err
	case l.mu.d != nil:
		l.mu.next = now.Add(lazyPatience) // this one finds out for all
	}
	return l.mu.d, nil
}

// failed notes why it cannot be used. mu is held.
func (l *lazy) failed(err error, longest time.Duration) {
	l.mu.wait = min(max(2*l.mu.wait, firstWait), longest)
	l.mu.err, l.mu.next = err, time.Now().Add(l.mu.wait)
}

// do calls fn with the driver.
func (l *lazy) do(ctx context.Context, fn func(driver.Driver) error) error {
	d, err := l.driver(ctx)
	if err != nil {
		return err
	}
	err = fn(d)
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case err == nil || firn.KindOf(err) != firn.Unavailable:
		if ctx.Err() == nil {
			l.mu.err, l.mu.wait = nil, 0
		}
	case ctx.Err() == nil:
		l.failed(err, longestRest)
	}
	return err
}

func (l *lazy) driver(ctx context.Context) (driver.Driver, error) {
	if d, err := l.state(); d != nil || err != nil {
		return d, err
	}
	select {
	case l.trying <- struct{}{}:
		defer func() { <-l.trying }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if d, err := l.state(); d != nil || err != nil { // who was before did it
		return d, err
	}
	open, cancel := context.WithTimeoutCause(ctx, openTime, firn.NewError(firn.Unavailable, "it could not be opened in time"))
	defer cancel()
	d, err := l.open(open)
	if ctx.Err() != nil && err != nil {
		return nil, err // the caller's end says nothing of the place
	}
	if err != nil && open.Err() != nil {
		err = context.Cause(open)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if err != nil {
		// Who configured it wrong may put it right: nothing is final here.
		if firn.KindOf(err) != firn.Denied {
			err = &firn.Error{Kind: firn.Unavailable, Err: err}
		}
		l.failed(err, longestWait)
		return nil, err
	}
	if l.mu.closed {
		_ = d.Close() // nobody will use it
		return nil, errLazyClosed
	}
	l.mu.d, l.mu.err, l.mu.wait = d, nil, 0
	return d, nil
}

// Inner implements driver.Wrapper.
func (l *lazy) Inner() (driver.Driver, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.mu.d, l.mu.d != nil
}

// Put implements driver.Driver.
func (l *lazy) Put(ctx context.Context, key string, src driver.Source) error {
	return l.do(ctx, func(d driver.Driver) error { return d.Put(ctx, key, src) })
}

// Get implements driver.Driver.
func (l *lazy) Get(ctx context.Context, key string, offset, length int64) (r io.ReadCloser, err error) {
	err = l.do(ctx, func(d driver.Driver) (err error) {
		r, err = d.Get(ctx, key, offset, length)
		return err
	})
	return r, err
}

// Stat implements driver.Driver.
func (l *lazy) Stat(ctx context.Context, key string) (info driver.Info, err error) {
	err = l.do(ctx, func(d driver.Driver) (err error) {
		info, err = d.Stat(ctx, key)
		return err
	})
	return info, err
}

// Delete implements driver.Driver.
func (l *lazy) Delete(ctx context.Context, key string) error {
	return l.do(ctx, func(d driver.Driver) error { return d.Delete(ctx, key) })
}

// List implements driver.Driver.
func (l *lazy) List(ctx context.Context, prefix string, fn func(driver.Info) error) error {
	return l.do(ctx, func(d driver.Driver) error { return d.List(ctx, prefix, fn) })
}

// Close implements driver.Driver.
func (l *lazy) Close() error {
	l.mu.Lock()
	d := l.mu.d
	l.mu.d, l.mu.closed = nil, true
	l.mu.Unlock()
	if d == nil {
		return nil
	}
	return d.Close()
}
