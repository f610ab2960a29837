package mirror

import (
	"context"
	"errors"
	"io"
	"iter"
	"strings"
	"time"

	"firn"
	"firn/blob/driver"
)

var errChanged = firn.NewError(firn.Unavailable,
	"the member that was read failed, and another one's copy may be of another put: read it again")

// Get reads from the first member that has a right copy, and goes on at the next one when that one fails.
func (m *Mirror) Get(ctx context.Context, key string, offset, length int64) (io.ReadCloser, error) {
	if own(key) != nil {
		return nil, notFound()
	}
	m.refresh(ctx)
	r := &reader{m: m, ctx: ctx, key: key, offset: offset, left: length, opened: time.Now()}
	r.stripe = m.stripe(key)
	r.changes = m.changes[r.stripe].Load()
	r.candidates = m.candidates(key)
	if err := r.open(); err != nil {
		return nil, err
	}
	return r, nil
}

type reader struct {
	m          *Mirror
	ctx        context.Context
	key        string
	offset     int64
	left       int64 // -1 is to the end
	opened     time.Time
	stripe     int
	changes    int64     // of the stripe when it was opened
	candidates []*member // still to be tried
	at         *member
	rc         io.ReadCloser
	begun      bool
	err        error
}

// open opens the rest at the next candidate.
func (r *reader) open() (err error) {
	tried := 0
	r.at, err = r.m.find(r.ctx, r.key, r.candidates, func(b *member) (err error) {
		tried++
		if r.begun {
			if err := r.prove(b); err != nil {
				return err
			}
		}
		r.rc, err = b.Driver.Get(r.ctx, r.key, r.offset, r.left)
		return err
	})
	r.candidates = r.candidates[tried:]
	return err
}

// prove fails unless b's copy is of the put that was read so far: the copies of a blob that nobody changed since the
// read began are the same.
func (r *reader) prove(b *member) error {
	info, err := b.Driver.Stat(r.ctx, r.key)
	if err != nil {
		return err
	}
	if info.Modified.IsZero() || info.Modified.After(r.opened.Add(-r.m.opt.Skew)) || r.m.changes[r.stripe].Load() != r.changes {
		return errChanged
	}
	return nil
}

func (r *reader) Read(p []byte) (int, error) {
	for {
		if r.err != nil {
			return 0, r.err
		}
		n, err := r.rc.Read(p)
		r.begun = r.begun || n > 0
		r.offset += int64(n)
		if r.left > 0 {
			r.left -= int64(n)
		}
		if err != nil && err != io.EOF && r.ctx.Err() == nil {
			err = r.failover(err)
			if err == nil && n == 0 {
				continue
			}
		}
		r.err = err
		return n, err
	}
}

// failover goes on at another member after err.
func (r *reader) failover(err error) error {
	r.m.failed(r.ctx, r.at, err)
	r.m.opt.Observer.Failover(r.at.Name, r.key, err)
	if firn.KindOf(err) == firn.Corrupt {
		r.m.doubt(r.key, 1<<r.at.index)
	}
	r.rc.Close()
	r.rc = nil
	if len(r.candidates) == 0 {
		return firn.E("mirror", r.at.Name, err)
	}
	if r.left == 0 {
		return io.EOF
	}
	name := r.at.Name
	if e := r.open(); e != nil {
		r.rc = nil
		return errors.Join(e, firn.E("mirror", name, err))
	}
	return nil
}

func (r *reader) Close() error {
	if r.rc == nil {
		return nil
	}
	err := r.rc.Close()
	r.rc = nil
	return err
}

// List shows what any member has, without what it owes. Where members differ, Repair will look.
func (m *Mirror) List(ctx context.Context, prefix string, fn func(driver.Info) error) error {
	m.refresh(ctx)
	return m.list(ctx, prefix, fn, func(key string) error {
		m.doubt(key, 0)
		return nil
	})
}

var errStop = errors.New("no more is wanted")

// listing is one member's part of a merged listing.
type listing struct {
	b    *member
	next func() (driver.Info, error, bool)
	head driver.Info
	done bool
}

// advance moves to the member's next blob that it does not owe.
func (l *listing) advance(m *Mirror) error {
	for {
		info, err, ok := l.next()
		if err != nil {
			return err
		}
		if !ok {
			l.done = true
			return nil
		}
		if strings.HasPrefix(info.Key, ownPrefix) || m.isOwed(l.b, info.Key) {
			continue
		}
		l.head = info
		return nil
	}
}

// list merges the members' listings. differ is called for a key that one of them lacks, or has with another size.
func (m *Mirror) list(ctx context.Context, prefix string, fn func(driver.Info) error, differ func(key string) error) error {
	var all []*listing
	for _, b := range m.there() {
		seq := func(yield func(driver.Info, error) bool) {
			err := b.Driver.List(ctx, prefix, func(i driver.Info) error {
				if !yield(i, nil) {
					return errStop
				}
				return nil
			})
			if err != nil && !errors.Is(err, errStop) {
				yield(driver.Info{}, err)
			}
		}
		next, stop := iter.Pull2(iter.Seq2[driver.Info, error](seq))
		defer stop()
		all = append(all, &listing{b: b, next: next})
	}
	var errs error
	kind := firn.Unavailable // unless a member failed with what will not pass
	// drop leaves out a member that failed. Who is left must be trusted to know what is not there.
	drop := func(l *listing, err error) {
		m.failed(ctx, l.b, err)
		m.opt.Observer.Failover(l.b.Name, prefix, err)
		errs = errors.Join(errs, firn.E("mirror", l.b.Name, err))
		if k := firn.KindOf(err); k != firn.Unavailable {
			kind = k
		}
		l.b = nil
	}
	for _, l := range all {
		if err := l.advance(m); err != nil {
			drop(l, err)
		}
	}
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		var left []*listing
		trusted := false
		for _, l := range all {
			if l.b != nil {
				left = append(left, l)
				trusted = trusted || m.isTrusted(l.b)
			}
		}
		all = left
		if !trusted {
			if errs == nil {
				errs = errors.New("no member of the mirror is there" + m.whoIsAway())
			}
			return &firn.Error{Kind: kind, Err: errs}
		}
		var first *listing
		for _, l := range all {
			if !l.done && (first == nil || l.head.Key < first.head.Key) {
				first = l
			}
		}
		if first == nil {
			return nil
		}
		info, same := first.head, true
		for _, l := range all {
			if l.done || l.head.Key != info.Key {
				same = same && m.isOwed(l.b, info.Key)
				continue
			}
			same = same && l.head.Size == info.Size
			if err := l.advance(m); err != nil {
				drop(l, err)
			}
		}
		if !same {
			if err := differ(info.Key); err != nil {
				return err
			}
		}
		if err := fn(info); err != nil {
			return err
		}
	}
}
