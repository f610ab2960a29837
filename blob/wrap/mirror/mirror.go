// Package mirror is a wrapper that keeps every blob in several places: it writes to all, reads from the first that is
// right, and puts right what is not.
//
// It promises that an acknowledged change is in as many places as was asked for, that a place which missed a change is
// not believed about that blob until it was repaired, however long it was away and whoever restarts meanwhile, and that
// an empty or absent place never makes another lose anything. It must never import a concrete driver.
//
// What a place missed is its debt: a small blob in the places that did not miss it. docs/format/blob-mirror.md describes
// it.
package mirror

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"io"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"firn"
	"firn/blob"
	"firn/blob/driver"
	"firn/blob/wrap"
)

// Member is one of the places. The name must stay; it is up to 64 letters, digits, "-" and "_".
type Member struct {
	Name   string
	Driver driver.Driver
}

// Options are the settings. The zero value has the defaults.
type Options struct {
	// Writes is how many members must have a change before it counts; 0 is all. With fewer, writing goes on while members
	// are away, and starting needs so many that at least one of them knows of every change: members - writes + 1.
	Writes int
	// Init makes the members a mirror. What they hold already is shared out by Repair; where two differ, the first
	// member's is right.
	Init bool
	// Away is how long a member that failed is left alone, 10 s by default.
	Away time.Duration
	// Refresh is how often debts are read again, which other processes may have noted: 30 s by default.
	Refresh time.Duration
	// Skew is by how much the clocks of this machine and the places may differ, 1 min by default. A read that goes on at
	// another member must know that the blob is older than the read.
	Skew time.Duration
	// Observer hears what happens; nil is nobody.
	Observer Observer
}

// Observer hears what happens, for metrics and logs. Its methods are called by many goroutines at once.
type Observer interface {
	// Failover: a read goes to another member because of err.
	Failover(member, key string, err error)
	// Owed: the member's copy of the blob is missing or not right.
	Owed(member, key string)
	// Repaired: it is right again, and left others of the member are not.
	Repaired(member, key string, left int)
	// Away: the member failed, and is left alone for a while. It is told once, until the member is back.
	Away(member string, err error)
	// Back: a member that was away answers again.
	Back(member string)
}

const (
	stripes   = 256
	smallPut  = 4 << 20 // read once into memory and written to all members at once
	maxDebts  = 1 << 18
	maxDoubts = 10_000
	// settle bounds the writing of debts, which a cancelled caller must not stop.
	settle = 30 * time.Second
)

// Mirror is the driver.
type Mirror struct {
	members []*member
	opt     Options
	seed    maphash.Seed
	locks   [stripes]chan struct{}
	changes [stripes]atomic.Int64 // counts changes that began or ended
	mu      struct {
		sync.Mutex
		identity  identity
		refreshed time.Time
		busy      bool           // somebody refreshes
		doubts    map[string]int // keys of which copies seem to differ, with a bit for each member whose copy is damaged
	}
}

// member is one place. Its fields under mu are guarded by the mirror's.
type member struct {
	Member
	index     int
	can       wrap.Abilities
	known     bool            // its identity and its notes of debts were read
	trusted   bool            // what it has not got is not there; otherwise it is being filled
	awayUntil time.Time       // zero where it is believed to be there
	awaySince time.Time       //
	awayErr   error           //
	owed      map[debt]string // keys of which its copy is not right
}

// New returns the mirror of members. Closing it closes them.
func New(ctx context.Context, members []Member, opt Options) (*Mirror, error) {
	if opt.Writes == 0 {
		opt.Writes = len(members)
	}
	for _, d := range []struct {
		d       *time.Duration
		initial time.Duration
	}{{&opt.Away, 10 * time.Second}, {&opt.Refresh, 30 * time.Second}, {&opt.Skew, time.Minute}} {
		if *d.d == 0 {
			*d.d = d.initial
		}
	}
	if opt.Observer == nil {
		opt.Observer = nobody{}
	}
	if len(members) < 2 || opt.Writes < 1 || opt.Writes > len(members) {
		return nil, firn.NewError(firn.Invalid, "a mirror has two members or more, and writes to at least one of them and at most all")
	}
	m := &Mirror{opt: opt, seed: maphash.MakeSeed()}
	m.mu.doubts = map[string]int{}
	for i := range m.locks {
		m.locks[i] = make(chan struct{}, 1)
	}
	for i, b := range members {
		if !validName(b.Name) || slices.ContainsFunc(members[:i], func(o Member) bool { return o.Name == b.Name }) {
			return nil, firn.NewError(firn.Invalid, fmt.Sprintf("the name %q of a member is used twice, or is not of letters, digits, - and _", b.Name))
		}
		m.members = append(m.members, &member{Member: b, index: i, can: wrap.Of(b.Driver), owed: map[debt]string{}})
	}
	if err := m.join(ctx); err != nil {
		return nil, err
	}
	return m, nil
}

type nobody struct{}

func (nobody) Failover(string, string, error) {}
func (nobody) Owed(string, string)            {}
func (nobody) Repaired(string, string, int)   {}
func (nobody) Away(string, error)             {}
func (nobody) Back(string)                    {}

func validName(s string) bool {
	return len(s) > 0 && len(s) <= 64 && strings.IndexFunc(s, func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '-' || r == '_')
	}) < 0
}

// Driver returns the mirror with the abilities its members have: creating needs the first member to be able to, which
// then decides for all.
func (m *Mirror) Driver() driver.Driver {
	var a wrap.Abilities
	a.Creator = m.members[0].can.Creator
	for _, b := range m.members {
		if b.can.Measurer != nil {
			a.Measurer = b.can.Measurer
		}
	}
	return wrap.Narrow(m, a)
}

// Inner is the first member; passing the mirror by would leave the others out.
func (m *Mirror) Inner() (driver.Driver, bool) { return m.members[0].Driver, false }

// Close closes all members.
func (m *Mirror) Close() error {
	var errs []error
	for _, b := range m.members {
		errs = append(errs, firn.E("close", b.Name, b.Driver.Close()))
	}
	return errors.Join(errs...)
}

func (m *Mirror) stripe(key string) int { return int(maphash.String(m.seed, key) % stripes) }

// lock keeps other changes of key out, in this process.
func (m *Mirror) lock(ctx context.Context, key string) (unlock func(), err error) {
	i := m.stripe(key)
	select {
	case m.locks[i] <- struct{}{}:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	m.changes[i].Add(1)
	return func() {
		m.changes[i].Add(1)
		<-m.locks[i]
	}, nil
}

// own fails for keys that are the mirror's own.
func own(key string) error {
	if strings.HasPrefix(key, ownPrefix) {
		return firn.NewError(firn.Invalid, "keys below "+ownPrefix+" are the mirror's own")
	}
	return nil
}

func notFound() error { return firn.NewError(firn.NotFound, "not found") }

// Put writes small blobs to all members at once, larger ones to one after the other, because a source is read by one
// at a time.
func (m *Mirror) Put(ctx context.Context, key string, src driver.Source) error {
	if err := own(key); err != nil {
		return err
	}
	parallel := src.Size() <= smallPut
	if parallel {
		p, err := load(ctx, src)
		if err != nil {
			return err
		}
		src = blob.Bytes(p)
	}
	return m.change(ctx, key, nil, parallel, func(ctx context.Context, b *member) error { return b.Driver.Put(ctx, key, src) })
}

func load(ctx context.Context, src driver.Source) ([]byte, error) {
	rc, err := blob.OpenExact(ctx, src)
	if err != nil {
		return nil, err
	}
	p, err := io.ReadAll(rc)
	return p, errors.Join(err, rc.Close())
}

// Delete removes the blob from all members. One that is away has a debt, so that its copy does not come back.
func (m *Mirror) Delete(ctx context.Context, key string) error {
	if err := own(key); err != nil {
		return err
	}
	return m.change(ctx, key, nil, true, func(ctx context.Context, b *member) error { return b.Driver.Delete(ctx, key) })
}

// Create lets the first member decide. It fails with firn.Unavailable while that one is away.
func (m *Mirror) Create(ctx context.Context, key string, src driver.Source) error {
	if err := own(key); err != nil {
		return err
	}
	first := func(ctx context.Context) error {
		b := m.members[0]
		if m.isOwed(b, key) {
			return firn.NewError(firn.Unavailable, "the first member of the mirror decides who creates a blob, and is to be repaired first")
		}
		// The first may have lost it.
		if _, err := m.stat(ctx, key); err == nil {
			return firn.NewError(firn.Exists, "it exists")
		} else if firn.KindOf(err) != firn.NotFound {
			return err
		}
		return b.can.Creator.Create(ctx, key, src)
	}
	return m.change(ctx, key, first, false, func(ctx context.Context, b *member) error { return b.Driver.Put(ctx, key, src) })
}

// change makes one change at all members, notes what those that failed owe, and counts those that did not. With first,
// the first member does that instead and must succeed.
func (m *Mirror) change(ctx context.Context, key string, first func(context.Context) error, parallel bool,
	do func(context.Context, *member) error,
) error {
	unlock, err := m.lock(ctx, key)
	if err != nil {
		return err
	}
	defer unlock()
	m.refresh(ctx)
	if m.full() {
		return firn.NewError(firn.NoSpace, "the members of the mirror owe too many blobs: repair it, or take out the one that is away")
	}
	there := m.there()
	errs := make([]error, len(m.members))
	for _, b := range m.members {
		errs[b.index] = m.away(b)
	}
	rest := there
	if first != nil {
		if len(there) == 0 || there[0].index != 0 {
			return firn.NewError(firn.Unavailable, "the first member of the mirror, which decides who creates a blob, is away")
		}
		if err := first(ctx); err != nil {
			m.failed(ctx, there[0], err)
			return err
		}
		errs[0], rest = nil, there[1:]
	}
	var wg sync.WaitGroup
	for _, b := range rest {
		run := func() {
			errs[b.index] = do(ctx, b)
			m.failed(ctx, b, errs[b.index])
		}
		if parallel {
			wg.Go(run)
		} else {
			run()
		}
	}
	wg.Wait()
	return m.settle(ctx, key, errs)
}

// settle notes the debts after a change, forgets those that it made good, and says whether the change counts.
func (m *Mirror) settle(ctx context.Context, key string, errs []error) error {
	var done, not []*member
	for _, b := range m.members {
		if errs[b.index] == nil {
			done = append(done, b)
		} else {
			not = append(not, b)
		}
	}
	var worst error
	for _, b := range not {
		worst = errors.Join(worst, firn.E("mirror", b.Name, errs[b.index]))
	}
	if len(done) == 0 {
		m.doubt(key, 0) // one may have failed after it happened
		return m.verdict(ctx, errs, worst)
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), settle)
	defer cancel()
	noted := done
	for _, b := range not {
		noted = m.owe(ctx, b, key, noted)
	}
	for _, b := range done {
		if m.isOwed(b, key) {
			m.forget(ctx, b, key)
		}
	}
	if len(noted) < m.opt.Writes {
		return m.verdict(ctx, errs, worst)
	}
	return nil
}

// verdict is the error of a change that does not count: with the kind of what failed, where that will not pass.
func (m *Mirror) verdict(ctx context.Context, errs []error, worst error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	kind := firn.Unavailable
	for _, err := range errs {
		if err != nil && firn.KindOf(err) != firn.Unavailable {
			kind = firn.KindOf(err)
		}
	}
	return &firn.Error{Kind: kind, Err: fmt.Errorf("fewer than %d members of the mirror have the change: %w", m.opt.Writes, worst)}
}

// Stat asks the members in order.
func (m *Mirror) Stat(ctx context.Context, key string) (driver.Info, error) {
	if own(key) != nil {
		return driver.Info{}, notFound()
	}
	m.refresh(ctx)
	return m.stat(ctx, key)
}

func (m *Mirror) stat(ctx context.Context, key string) (info driver.Info, err error) {
	_, err = m.find(ctx, key, m.candidates(key), func(b *member) error {
		info, err = b.Driver.Stat(ctx, key)
		return err
	})
	return info, err
}

// find calls try for candidates until one has the blob, and notes the debt of those that should have had it. Of a blob
// that nobody has, one member that is trusted and owes nothing is believed.
func (m *Mirror) find(ctx context.Context, key string, candidates []*member, try func(*member) error) (*member, error) {
	var errs, bad error
	doubt, damaged := false, 0
	missing := false
	for _, b := range candidates {
		err := try(b)
		if err == nil {
			if doubt {
				m.doubt(key, damaged)
			}
			return b, nil
		}
		if e := ctx.Err(); e != nil {
			return nil, e
		}
		if !errors.Is(err, errChanged) { // which says nothing of the member
			m.failed(ctx, b, err)
		}
		switch firn.KindOf(err) {
		case firn.NotFound:
			doubt = true
			missing = missing || m.isTrusted(b)
			continue
		case firn.Unavailable:
		case firn.Corrupt:
			doubt, damaged = true, damaged|1<<b.index
			bad = firn.E("mirror", b.Name, err)
		default:
			bad = firn.E("mirror", b.Name, err)
		}
		m.opt.Observer.Failover(b.Name, key, err)
		errs = errors.Join(errs, firn.E("mirror", b.Name, err))
	}
	switch {
	case bad != nil:
		return nil, bad
	case missing:
		return nil, notFound()
	case errs != nil:
		return nil, &firn.Error{Kind: firn.Unavailable, Err: errs}
	}
	return nil, firn.NewError(firn.Unavailable, "no member of the mirror that is there has a right copy of this blob"+m.whoIsAway())
}

// Space is that of the member with the least free; what one cannot tell is left out.
func (m *Mirror) Space(ctx context.Context) (driver.Space, error) {
	least := driver.Space{Total: -1, Free: -1}
	for _, b := range m.there() {
		if b.can.Measurer == nil {
			continue
		}
		s, err := b.can.Measurer.Space(ctx)
		if err != nil {
			m.failed(ctx, b, err)
			return driver.Space{}, firn.E("mirror", b.Name, err)
		}
		if least.Free < 0 || s.Free >= 0 && s.Free < least.Free {
			least = s
		}
	}
	return least, nil
}

// Apply and DeleteAll are not among the abilities a mirror shows: several places do not change as one, and the caller's
// own goroutines delete as fast.

// Apply implements wrap.Full; Driver hides it.
func (m *Mirror) Apply(context.Context, []driver.Change) error {
	return firn.NewError(firn.Unsupported, "a mirror does not change several blobs as one")
}

// DeleteAll implements wrap.Full; Driver hides it.
func (m *Mirror) DeleteAll(ctx context.Context, keys []string) error {
	for _, key := range keys {
		if err := m.Delete(ctx, key); err != nil {
			return err
		}
	}
	return nil
}
