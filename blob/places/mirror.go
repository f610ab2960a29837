package places

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"time"

	"firn"
	"firn/blob"
	"firn/blob/driver"
	"firn/blob/wrap/mirror"
)

const (
	// repairEvery is how often what a mirror's places missed is made good while the mirror is open.
	repairEvery = time.Minute
	// memberPatience bounds how long a place of a mirror is tried again: the others are there meanwhile.
	memberPatience = 15 * time.Second
)

// mirrored is a mirror that repairs itself while it is open. Its abilities are found behind it.
type mirrored struct {
	driver.Driver
	mirror *mirror.Mirror
	cancel context.CancelFunc
	done   chan struct{}
}

// openMirror opens the places of a mirror. inside are the mirrors that it is a place of.
func (o *Opener) openMirror(ctx context.Context, name string, p Place, create bool, inside []string) (_ driver.Driver, err error) {
	inside = append(slices.Clone(inside), name)
	var members []mirror.Member
	defer func() {
		if err != nil {
			for _, m := range members {
				_ = m.Driver.Close() // what went wrong before says more
			}
		}
	}()
	for _, n := range p.Mirror {
		if slices.Contains(inside, n) {
			return nil, firn.NewError(firn.Invalid, fmt.Sprintf("the mirror contains itself (%s): a mirror is of other places", strings.Join(append(inside, n), ", ")))
		}
		q, ok := o.Named[n]
		if !ok {
			return nil, firn.NewError(firn.NotFound, fmt.Sprintf("the mirror names the place %s, which is not there", n))
		}
		open := func(ctx context.Context) (driver.Driver, error) {
			s, err := o.openPlace(ctx, n, q, "", create, inside)
			if err != nil {
				return nil, err
			}
			return s.Driver(), nil
		}
		d, err := open(ctx)
		if firn.KindOf(err) == firn.Unavailable && ctx.Err() == nil {
			d, err = &absent{open: open}, nil
		}
		if err != nil {
			return nil, err
		}
		members = append(members, mirror.Member{Name: n, Driver: d})
	}
	opt := mirror.Options{Writes: p.MirrorWrites, Init: create}
	if o.Mirrors != nil {
		opt.Observer = o.Mirrors(name, p.Mirror)
	}
	m, err := mirror.New(ctx, members, opt)
	if err != nil {
		return nil, err
	}
	run, cancel := context.WithCancel(context.WithoutCancel(ctx))
	d := &mirrored{Driver: m.Driver(), mirror: m, cancel: cancel, done: make(chan struct{})}
	go func() {
		defer close(d.done)
		_ = m.Run(run, repairEvery) // ends when it is closed; what it could not repair is left for the next time
	}()
	return d, nil
}

// Inner lets callers find the mirror's abilities.
func (d *mirrored) Inner() (driver.Driver, bool) { return d.Driver, true }

// Close ends the repair and closes the places.
func (d *mirrored) Close() error {
	d.cancel()
	<-d.done
	return d.Driver.Close()
}

// Repair makes good what the places of a mirror missed, compares their listings, and tells how each is then. It fails
// with firn.Unsupported where s is no mirror.
func Repair(ctx context.Context, s *blob.Store) (mirror.Report, []mirror.Status, error) {
	d := s.Driver()
	for {
		if m, ok := d.(*mirrored); ok {
			r, err := m.mirror.Repair(ctx, true)
			return r, m.mirror.Status(), firn.E("repair", s.Name(), err)
		}
		w, ok := d.(driver.Wrapper)
		if !ok {
			return mirror.Report{}, nil, firn.E("repair", s.Name(),
				firn.NewError(firn.Unsupported, "it is no mirror: only a place of the configuration with mirror can be repaired from its other places"))
		}
		d, _ = w.Inner()
	}
}

// absent is a place of a mirror that could not be opened. Each call tries again; the mirror waits between them.
type absent struct {
	open func(context.Context) (driver.Driver, error)
	mu   struct {
		sync.Mutex
		d      driver.Driver
		closed bool
	}
}

// there returns the place if it can be opened by now.
func (a *absent) there(ctx context.Context) (driver.Driver, error) {
	a.mu.Lock()
	d, closed := a.mu.d, a.mu.closed
	a.mu.Unlock()
	if d != nil || closed {
		if closed {
			return nil, errClosed()
		}
		return d, nil
	}
	// Outside the lock: several may open it at once, and one is kept.
	d, err := a.open(ctx)
	if err != nil {
		return nil, err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.mu.closed || a.mu.d != nil {
		_ = d.Close() // nothing was done with it
		if a.mu.closed {
			return nil, errClosed()
		}
		return a.mu.d, nil
	}
	a.mu.d = d
	return d, nil
}

func errClosed() error { return firn.NewError(firn.Invalid, "the place is closed") }

func (a *absent) Put(ctx context.Context, key string, src driver.Source) error {
	d, err := a.there(ctx)
	if err != nil {
		return err
	}
	return d.Put(ctx, key, src)
}

// Create is claimed before it is known whether the place can, and then fails with firn.Unsupported where it cannot: a
// mirror whose first place is away must wait for it rather than do without.
func (a *absent) Create(ctx context.Context, key string, src driver.Source) error {
	d, err := a.there(ctx)
	if err != nil {
		return err
	}
	c, ok := blob.As[driver.Creator](d)
	if !ok {
		return firn.NewError(firn.Unsupported, "the first place of the mirror cannot create a blob only where there is none")
	}
	return c.Create(ctx, key, src)
}

func (a *absent) Get(ctx context.Context, key string, offset, length int64) (io.ReadCloser, error) {
	d, err := a.there(ctx)
	if err != nil {
		return nil, err
	}
	return d.Get(ctx, key, offset, length)
}

func (a *absent) Stat(ctx context.Context, key string) (driver.Info, error) {
	d, err := a.there(ctx)
	if err != nil {
		return driver.Info{}, err
	}
	return d.Stat(ctx, key)
}

func (a *absent) Delete(ctx context.Context, key string) error {
	d, err := a.there(ctx)
	if err != nil {
		return err
	}
	return d.Delete(ctx, key)
}

func (a *absent) List(ctx context.Context, prefix string, fn func(driver.Info) error) error {
	d, err := a.there(ctx)
	if err != nil {
		return err
	}
	return d.List(ctx, prefix, fn)
}

func (a *absent) Close() error {
	a.mu.Lock()
	d := a.mu.d
	a.mu.closed = true
	a.mu.Unlock()
	if d == nil {
		return nil
	}
	return d.Close()
}
