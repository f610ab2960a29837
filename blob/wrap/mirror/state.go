package mirror

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"firn"
	"firn/blob"
	"firn/blob/driver"
)

const (
	ownPrefix   = ".firn-mirror/"
	identityKey = ownPrefix + "member"
	version     = 1
	maxIdentity = 64 << 10
	readers     = 8 // debts read at once
)

// identity is the content of identityKey at each member.
type identity struct {
	Version int      `json:"firn-mirror"`
	Set     string   `json:"set"` // the same at all members, random
	Name    string   `json:"name"`
	Members []string `json:"members"`
	Writes  int      `json:"writes"`
	// Filling says that the member has not got everything yet: what it has is right, what it has not may exist.
	Filling bool `json:"filling,omitempty"`
}

// debt is the SHA-256 of a key, which a marker's name has room for.
type debt [sha256.Size]byte

func debtOf(key string) debt { return sha256.Sum256([]byte(key)) }

func owedPrefix(name string) string { return ownPrefix + "owed/" + name + "/" }

func marker(name string, d debt) string { return owedPrefix(name) + hex.EncodeToString(d[:]) }

func (m *Mirror) names() []string {
	var names []string
	for _, b := range m.members {
		names = append(names, b.Name)
	}
	return names
}

// readIdentity returns nil where the member has none.
func (m *Mirror) readIdentity(ctx context.Context, b *member) (*identity, error) {
	p, err := blob.New(b.Driver, b.Name).ReadAll(ctx, identityKey, maxIdentity)
	if firn.KindOf(err) == firn.NotFound {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var id identity
	if err := json.Unmarshal(p, &id); err != nil {
		return nil, firn.NewError(firn.Corrupt, fmt.Sprintf("%s of the member %s is damaged: %v", identityKey, b.Name, err))
	}
	switch {
	case id.Version != version:
		return nil, firn.NewError(firn.Unsupported, fmt.Sprintf("the member %s has version %d, this release knows %d", b.Name, id.Version, version))
	case id.Name != b.Name || !slices.Equal(id.Members, m.names()) || id.Writes != m.opt.Writes:
		return nil, firn.NewError(firn.Invalid, fmt.Sprintf(
			"the place given as member %s is member %s of a mirror of %s that writes to %d: names, order and number of writes must stay",
			b.Name, id.Name, strings.Join(id.Members, ", "), id.Writes))
	}
	return &id, nil
}

func (m *Mirror) writeIdentity(ctx context.Context, b *member, set string, filling bool) error {
	id := identity{Version: version, Set: set, Name: b.Name, Members: m.names(), Writes: m.opt.Writes, Filling: filling}
	p, err := json.Marshal(id)
	if err != nil {
		return err
	}
	return b.Driver.Put(ctx, identityKey, blob.Bytes(p))
}

// join finds out what the members are. So many must be there that one of them knows of every debt.
func (m *Mirror) join(ctx context.Context) error {
	ids := make([]*identity, len(m.members))
	var errs error
	reached := 0
	for i, b := range m.members {
		id, err := m.readIdentity(ctx, b)
		switch {
		case err == nil:
			reached++
			ids[i] = id
			if id != nil {
				m.mu.identity = *id
			}
		case firn.KindOf(err) == firn.Unavailable && ctx.Err() == nil:
			m.failed(ctx, b, err)
			errs = errors.Join(errs, firn.E("mirror", b.Name, err))
		default:
			return err
		}
	}
	need := len(m.members) - m.opt.Writes + 1
	set := m.mu.identity.Set
	if set == "" {
		switch {
		case reached < len(m.members):
			return &firn.Error{Kind: firn.Unavailable, Err: fmt.Errorf("none of the members that are there belongs to a mirror yet: %w", errs)}
		case !m.opt.Init:
			return firn.NewError(firn.NotFound, "the members are no mirror yet: make them one first")
		}
		var random [16]byte
		_, _ = rand.Read(random[:]) // never fails
		set = hex.EncodeToString(random[:])
		for _, b := range m.members {
			if err := m.writeIdentity(ctx, b, set, false); err != nil {
				return firn.E("mirror", b.Name, err)
			}
		}
		m.mu.identity.Set = set
	}
	trusted := 0
	for _, b := range m.members {
		if m.away(b) != nil {
			continue
		}
		if err := m.load(ctx, b); err != nil {
			if firn.KindOf(err) != firn.Unavailable || ctx.Err() != nil {
				return err
			}
			m.failed(ctx, b, err)
			errs = errors.Join(errs, firn.E("mirror", b.Name, err))
		}
		if m.isTrusted(b) {
			trusted++
		}
	}
	if trusted < need {
		if errs == nil {
			errs = errors.New("the others have not got everything yet")
		}
		return &firn.Error{Kind: firn.Unavailable, Err: fmt.Errorf(
			"%d members that know what the others missed are needed, %d are there: %w", need, trusted, errs)}
	}
	m.mu.refreshed = time.Now()
	return nil
}

// load reads a member's identity and the debts it knows of. A place without an identity becomes a member that has to be
// filled, if it is empty: one that is not is somebody else's.
func (m *Mirror) load(ctx context.Context, b *member) error {
	id, err := m.readIdentity(ctx, b)
	if err != nil {
		return err
	}
	set := m.set()
	if id == nil {
		errFound := errors.New("found")
		found := ""
		err := b.Driver.List(ctx, "", func(i driver.Info) error { found = i.Key; return errFound })
		if found != "" && !m.opt.Init {
			return firn.NewError(firn.Invalid, fmt.Sprintf(
				"the place given as member %s does not belong to this mirror and is not empty (%s): empty it, or check its address", b.Name, found))
		}
		if err != nil && !errors.Is(err, errFound) {
			return err
		}
		if err := m.writeIdentity(ctx, b, set, true); err != nil {
			return err
		}
		id = &identity{Set: set, Filling: true}
	}
	if id.Set != set {
		return firn.NewError(firn.Invalid, fmt.Sprintf("the place given as member %s belongs to another mirror", b.Name))
	}
	if err := m.loadDebts(ctx, b); err != nil {
		return err
	}
	m.mu.Lock()
	was := !b.awayUntil.IsZero()
	b.known, b.trusted, b.awayUntil = true, !id.Filling, time.Time{}
	m.mu.Unlock()
	if was {
		m.opt.Observer.Back(b.Name)
	}
	return nil
}

// loadDebts adds the debts that b knows of.
func (m *Mirror) loadDebts(ctx context.Context, b *member) error {
	for _, o := range m.members {
		g, ctx := errgroup.WithContext(ctx)
		g.SetLimit(readers)
		prefix := owedPrefix(o.Name)
		err := b.Driver.List(ctx, prefix, func(i driver.Info) error {
			raw, err := hex.DecodeString(strings.TrimPrefix(i.Key, prefix))
			if err != nil || len(raw) != len(debt{}) {
				return nil // not ours
			}
			d := debt(raw)
			m.mu.Lock()
			_, has := o.owed[d]
			m.mu.Unlock()
			if has {
				return nil
			}
			g.Go(func() error {
				key, err := blob.New(b.Driver, b.Name).ReadAll(ctx, i.Key, blob.MaxKey)
				if firn.KindOf(err) == firn.NotFound {
					return nil // paid meanwhile
				}
				if err == nil && debtOf(string(key)) != d {
					err = firn.NewError(firn.Corrupt, fmt.Sprintf("%s at the member %s is damaged", i.Key, b.Name))
				}
				if err != nil {
					return err
				}
				m.mu.Lock()
				o.owed[d] = string(key)
				m.mu.Unlock()
				return nil
			})
			return nil
		})
		if err := errors.Join(err, g.Wait()); err != nil {
			return err
		}
	}
	return nil
}

// refresh looks from time to time whether absent members are back, and for debts that other processes noted. One caller
// at a time does; the others go on with what is known.
func (m *Mirror) refresh(ctx context.Context) {
	now := time.Now()
	m.mu.Lock()
	all := now.Sub(m.mu.refreshed) >= m.opt.Refresh
	var due []*member
	for _, b := range m.members {
		if now.Before(b.awayUntil) || b.known && !all {
			continue
		}
		due = append(due, b)
	}
	if len(due) == 0 || m.mu.busy {
		m.mu.Unlock()
		return
	}
	m.mu.busy = true
	if all {
		m.mu.refreshed = now
	}
	m.mu.Unlock()
	for _, b := range due {
		m.failed(ctx, b, m.load(ctx, b))
	}
	m.mu.Lock()
	m.mu.busy = false
	m.mu.Unlock()
}

func (m *Mirror) set() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.mu.identity.Set
}

// failed leaves a member alone for a while after an error that says that it is away, and believes in it again after a
// success.
func (m *Mirror) failed(ctx context.Context, b *member, err error) {
	if ctx.Err() != nil {
		return // the caller's doing
	}
	m.mu.Lock()
	was := !b.awayUntil.IsZero()
	switch {
	case err == nil:
		b.awayUntil = time.Time{}
	case firn.KindOf(err) == firn.Unavailable || !b.known:
		if !was {
			b.awaySince = time.Now()
		}
		b.awayUntil, b.awayErr = time.Now().Add(m.opt.Away), err
	}
	is := !b.awayUntil.IsZero()
	m.mu.Unlock()
	switch {
	case is && !was:
		m.opt.Observer.Away(b.Name, err)
	case was && !is:
		m.opt.Observer.Back(b.Name)
	}
}

// away returns why the member is not to be used; nil where it is.
func (m *Mirror) away(b *member) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if time.Now().Before(b.awayUntil) {
		return &firn.Error{Kind: firn.Unavailable, Err: fmt.Errorf("away since %s: %w", b.awaySince.UTC().Format(time.RFC3339), b.awayErr)}
	}
	if !b.known && m.mu.identity.Set != "" && !m.mu.refreshed.IsZero() {
		return firn.NewError(firn.Unavailable, "it was not read yet what it knows")
	}
	return nil
}

func (m *Mirror) whoIsAway() string {
	s := ""
	for _, b := range m.members {
		if err := m.away(b); err != nil {
			s += fmt.Sprintf("; %s is %v", b.Name, err)
		}
	}
	return s
}

// there are the members that are believed to be there.
func (m *Mirror) there() []*member {
	var out []*member
	for _, b := range m.members {
		if m.away(b) == nil {
			out = append(out, b)
		}
	}
	return out
}

// candidates are those whose copy of key is right, if they have one.
func (m *Mirror) candidates(key string) []*member {
	return slices.DeleteFunc(m.there(), func(b *member) bool { return m.isOwed(b, key) })
}

func (m *Mirror) isTrusted(b *member) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return b.trusted
}

func (m *Mirror) isOwed(b *member, key string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(b.owed) == 0 {
		return false
	}
	_, ok := b.owed[debtOf(key)]
	return ok
}

// full reports whether there are as many debts as may be.
func (m *Mirror) full() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	n := 0
	for _, b := range m.members {
		n += len(b.owed)
	}
	return n >= maxDebts
}

// owe notes at all of at that b's copy of key is not right. It returns those that have the note.
func (m *Mirror) owe(ctx context.Context, b *member, key string, at []*member) []*member {
	d := debtOf(key)
	m.mu.Lock()
	b.owed[d] = key
	m.mu.Unlock()
	m.opt.Observer.Owed(b.Name, key)
	var noted []*member
	for _, o := range at {
		err := o.Driver.Put(ctx, marker(b.Name, d), blob.Bytes([]byte(key)))
		m.failed(ctx, o, err)
		if err == nil {
			noted = append(noted, o)
		}
	}
	return noted
}

// forget removes the notes of a debt that was paid. One that cannot be removed is paid once more later.
func (m *Mirror) forget(ctx context.Context, b *member, key string) {
	d := debtOf(key)
	m.mu.Lock()
	delete(b.owed, d)
	left := len(b.owed)
	m.mu.Unlock()
	for _, o := range m.there() {
		m.failed(ctx, o, o.Driver.Delete(ctx, marker(b.Name, d)))
	}
	m.opt.Observer.Repaired(b.Name, key, left)
}

// doubt remembers, for Repair, that the copies of key seem to differ, and which of them are damaged. What is beyond the
// bound is found again by the next read or listing.
func (m *Mirror) doubt(key string, damaged int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, ok := m.mu.doubts[key]; ok || len(m.mu.doubts) < maxDoubts {
		m.mu.doubts[key] |= damaged
	}
}

// Status describes a member.
type Status struct {
	Name string
	// Away says since when it is away and why; zero and nil where it is there.
	Away    time.Time
	AwayErr error
	// Filling: it has not got everything yet.
	Filling bool
	// Owed is the number of blobs of which its copy is not right.
	Owed int
}

// Status describes all members as they were last seen.
func (m *Mirror) Status() []Status {
	m.mu.Lock()
	defer m.mu.Unlock()
	var out []Status
	for _, b := range m.members {
		s := Status{Name: b.Name, Owed: len(b.owed), Filling: b.known && !b.trusted}
		if !b.awayUntil.IsZero() {
			s.Away, s.AwayErr = b.awaySince, b.awayErr
		}
		out = append(out, s)
	}
	return out
}
