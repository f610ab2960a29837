// Package retry is a wrapper that tries again what may pass: a lost connection, a time-out, a throttled request, a
// backend that starts. It waits longer each time, at random, up to a bound.
//
// It promises to try again only what failed with firn.Unavailable or with an error of the network, never to mix two
// contents of a blob in one read, and that a call which makes no progress ends. It must never import a concrete driver.
package retry

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"syscall"
	"time"

	"github.com/cenkalti/backoff/v5"

	"firn"
	"firn/blob"
	"firn/blob/driver"
	"firn/blob/wrap"
)

// Observer hears of failures, for metrics and logs. Its methods are called by many goroutines at once.
type Observer interface {
	// Retry: the operation (put, get, read, stat, delete, list, create, apply, space) failed and is tried again after
	// wait.
	Retry(op string, err error, wait time.Duration)
	// GiveUp: it failed with what may pass, and the time for trying again is over.
	GiveUp(op string, err error)
}

// Options are the settings. The zero value has the defaults.
type Options struct {
	// First is the wait before the second try, 250 ms by default. It grows by half each time, and each wait is up to a
	// half shorter or longer at random, so that many clients do not come back at once.
	First time.Duration
	// Longest is the longest wait, 30 s by default.
	Longest time.Duration
	// Total bounds the time spent on trying without progress, 5 min by default. A try under way at its end is finished.
	Total time.Duration
	// Stall ends a try that makes no progress for so long, 1 min by default: no byte read or written, no answer. Time
	// in which the caller reads its source, or looks at what was listed, does not count.
	Stall time.Duration
	// Immutable says that a key never gets another content. A read is then resumed without asking for size and time of
	// the blob first, which costs a request for each read of more than 1 MiB.
	Immutable bool
	// Observer hears of failures; nil is nobody.
	Observer Observer
}

// smallRead is up to how many bytes are read as a whole before the caller gets the first, so that the read can be tried
// again as a whole.
const smallRead = 1 << 20

type retrier struct {
	inner driver.Driver
	can   wrap.Abilities
	opt   Options
}

type nobody struct{}

func (nobody) Retry(string, error, time.Duration) {}
func (nobody) GiveUp(string, error)               {}

// New returns inner with what fails for a while tried again.
func New(inner driver.Driver, opt Options) (driver.Driver, error) {
	for _, s := range []struct {
		d       *time.Duration
		name    string
		initial time.Duration
	}{
		{&opt.First, "first wait", 250 * time.Millisecond},
		{&opt.Longest, "longest wait", 30 * time.Second},
		{&opt.Total, "total time", 5 * time.Minute},
		{&opt.Stall, "stall time", time.Minute},
	} {
		if *s.d < 0 {
			return nil, firn.NewError(firn.Invalid, fmt.Sprintf("retry: the %s is negative: %v", s.name, *s.d))
		}
		if *s.d == 0 {
			*s.d = s.initial
		}
	}
	if opt.Observer == nil {
		opt.Observer = nobody{}
	}
	r := &retrier{inner: inner, can: wrap.Of(inner), opt: opt}
	return wrap.Narrow(r, r.can), nil
}

// passes reports whether err may pass. Everything with another kind than Internal was classified by who knows; among
// the rest only what the network does to a connection is tried again, not an error that nobody has thought of: it would
// hide a bug behind minutes of waiting.
func passes(err error) bool {
	switch firn.KindOf(err) {
	case firn.Unavailable:
		return true
	case firn.Internal:
	default:
		return false
	}
	var ne net.Error
	return errors.As(err, &ne) || errors.Is(err, io.ErrUnexpectedEOF) ||
		errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, syscall.EPIPE) ||
		errors.Is(err, syscall.ETIMEDOUT) || errors.Is(err, syscall.EHOSTUNREACH) || errors.Is(err, syscall.ENETUNREACH)
}

// errAgain makes a round of tries end because there was progress: the next round has its whole time again.
var errAgain = errors.New("progress was made")

// do calls try until it succeeds, fails for good, or time is up. Each try gets a context of its own, which the watch
// cancels when it stalls. What try says to be final is not tried again.
func (r *retrier) do(ctx context.Context, op string, try func(ctx context.Context, w *watch) (progress, final bool, err error)) error {
	for {
		policy := backoff.NewExponentialBackOff()
		policy.InitialInterval, policy.MaxInterval = r.opt.First, r.opt.Longest
		_, err := backoff.Retry(ctx, func() (struct{}, error) {
			tryCtx, w := r.watch(ctx)
			defer func() {
				if !w.kept {
					w.end()
				}
			}()
			progress, final, err := try(tryCtx, w)
			err = w.error(err)
			switch {
			case err == nil:
			case ctx.Err() != nil:
				err = backoff.Permanent(ctx.Err())
			case final || !passes(err):
				err = backoff.Permanent(err)
			case progress:
				r.opt.Observer.Retry(op, err, 0)
				err = backoff.Permanent(errAgain)
			}
			return struct{}{}, err
		}, backoff.WithBackOff(policy), backoff.WithMaxElapsedTime(r.opt.Total),
			backoff.WithNotify(func(err error, wait time.Duration) { r.opt.Observer.Retry(op, err, wait) }))
		if errors.Is(err, errAgain) {
			continue
		}
		if err != nil && ctx.Err() == nil && passes(err) {
			r.opt.Observer.GiveUp(op, err)
		}
		return err
	}
}

// simple is do for a call that either happens or not.
func (r *retrier) simple(ctx context.Context, op string, try func(context.Context) error) error {
	return r.do(ctx, op, func(ctx context.Context, _ *watch) (bool, bool, error) { return false, false, try(ctx) })
}

// watched pauses the watch while the caller's source is opened and read.
func watched(ctx context.Context, w *watch, src driver.Source) *wrap.Source {
	return wrap.NewSource(ctx, unwatched{src, w}, src.Size(), func(from io.Reader) (io.Reader, error) {
		return readerFunc(func(p []byte) (int, error) {
			w.pause()
			defer w.progress()
			return from.Read(p)
		}), nil
	})
}

type unwatched struct {
	driver.Source
	w *watch
}

func (u unwatched) Open() (io.ReadCloser, error) { return u.OpenAt(0) }

func (u unwatched) OpenAt(offset int64) (io.ReadCloser, error) {
	u.w.pause()
	defer u.w.progress()
	return blob.OpenAt(u.Source, offset)
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

func (r *retrier) Put(ctx context.Context, key string, src driver.Source) error {
	return r.do(ctx, "put", func(ctx context.Context, w *watch) (bool, bool, error) {
		s := watched(ctx, w, src)
		err := s.Err(r.inner.Put(ctx, key, s))
		return false, s.Failed(), err
	})
}

// Resume goes on for as long as each try begins further on than the one before.
func (r *retrier) Resume(ctx context.Context, key string, src driver.Source) error {
	last := int64(-1)
	return r.do(ctx, "put", func(ctx context.Context, w *watch) (bool, bool, error) {
		from := begun{Source: src}
		s := watched(ctx, w, &from)
		err := s.Err(r.can.Resumer.Resume(ctx, key, s))
		progress := last >= 0 && from.at > last
		last = from.at
		return progress, s.Failed(), err
	})
}

// begun is a source that remembers from where it was opened last.
type begun struct {
	driver.Source
	at int64
}

func (b *begun) OpenAt(offset int64) (io.ReadCloser, error) {
	b.at = offset
	return blob.OpenAt(b.Source, offset)
}

func (r *retrier) Abandon(ctx context.Context, key string) error {
	return r.simple(ctx, "delete", func(ctx context.Context) error { return r.can.Resumer.Abandon(ctx, key) })
}

func (r *retrier) Apply(ctx context.Context, changes []driver.Change) error {
	return r.do(ctx, "apply", func(ctx context.Context, w *watch) (bool, bool, error) {
		out := make([]driver.Change, len(changes))
		var sources []*wrap.Source
		for i, c := range changes {
			out[i].Key = c.Key
			if c.Put != nil {
				s := watched(ctx, w, c.Put)
				out[i].Put = s
				sources = append(sources, s)
			}
		}
		err := r.can.Batcher.Apply(ctx, out)
		for _, s := range sources {
			if s.Failed() {
				return false, true, s.Err(err)
			}
		}
		return false, false, err
	})
}

// Create tries again too. Where an earlier try failed without telling whether it happened, and the blob is there now,
// it is read and compared: the same content means that the try had happened. Two clients that must find out which of
// them came first have to create different contents.
func (r *retrier) Create(ctx context.Context, key string, src driver.Source) error {
	unclear := false
	return r.do(ctx, "create", func(ctx context.Context, w *watch) (bool, bool, error) {
		s := watched(ctx, w, src)
		err := s.Err(r.can.Creator.Create(ctx, key, s))
		if s.Failed() {
			return false, true, err
		}
		if firn.KindOf(err) == firn.Exists && unclear {
			same, e := r.same(ctx, w, key, src)
			if e != nil {
				return false, false, e
			}
			if same {
				return false, false, nil
			}
		}
		unclear = unclear || err != nil && passes(w.error(err))
		return false, false, err
	})
}

// same reports whether the blob has the content of src.
func (r *retrier) same(ctx context.Context, w *watch, key string, src driver.Source) (bool, error) {
	info, err := r.inner.Stat(ctx, key)
	if err != nil || info.Size != src.Size() {
		return false, err
	}
	got, err := r.inner.Get(ctx, key, 0, -1)
	if err != nil {
		return false, err
	}
	defer got.Close()
	want, err := src.Open()
	if err != nil {
		return false, err
	}
	defer want.Close()
	a, b := make([]byte, 64<<10), make([]byte, 64<<10)
	for left := info.Size; left > 0; {
		n := int(min(left, int64(len(a))))
		if _, err := io.ReadFull(got, a[:n]); err != nil {
			return false, err
		}
		w.pause()
		_, err := io.ReadFull(want, b[:n])
		w.progress()
		if err != nil {
			return false, err
		}
		if !bytes.Equal(a[:n], b[:n]) {
			return false, nil
		}
		left -= int64(n)
	}
	return true, nil
}

func (r *retrier) Stat(ctx context.Context, key string) (info driver.Info, err error) {
	err = r.simple(ctx, "stat", func(ctx context.Context) error {
		info, err = r.inner.Stat(ctx, key)
		return err
	})
	return info, err
}

func (r *retrier) Delete(ctx context.Context, key string) error {
	return r.simple(ctx, "delete", func(ctx context.Context) error { return r.inner.Delete(ctx, key) })
}

func (r *retrier) DeleteAll(ctx context.Context, keys []string) error {
	return r.simple(ctx, "delete", func(ctx context.Context) error { return r.can.Bulk.DeleteAll(ctx, keys) })
}

func (r *retrier) Space(ctx context.Context) (space driver.Space, err error) {
	err = r.simple(ctx, "space", func(ctx context.Context) error {
		space, err = r.can.Measurer.Space(ctx)
		return err
	})
	return space, err
}

// List goes on after the last key it showed.
func (r *retrier) List(ctx context.Context, prefix string, fn func(driver.Info) error) error {
	last := ""
	return r.do(ctx, "list", func(ctx context.Context, w *watch) (progress, final bool, err error) {
		var fnErr error
		err = r.inner.List(ctx, prefix, func(info driver.Info) error {
			w.progress()
			if last != "" && info.Key <= last {
				return nil
			}
			last, progress = info.Key, true
			w.pause()
			defer w.progress()
			fnErr = fn(info)
			return fnErr
		})
		return progress, fnErr != nil, err
	})
}

func (r *retrier) Close() error { return r.inner.Close() }

// Inner is not transparent: whoever passed it by would pass by the retries.
func (r *retrier) Inner() (driver.Driver, bool) { return r.inner, false }
