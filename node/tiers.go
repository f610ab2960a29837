package node

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"firn"
	"firn/adminapi"
	"firn/blob"
	"firn/blob/places"
	"firn/blob/wrap/mirror"
	"firn/config"
	"firn/hlc"
	"firn/object"
	"firn/tier"
	"firn/tier/packed"
	"firn/tier/turns"
	"firn/tier/wish"
)

const (
	// followEvery is how long what happens to versions on tiers waits for the next segment of the catalogue at least.
	followEvery = 10 * time.Second
	// tidyEvery is the time between looks for what may be removed from tiers.
	tidyEvery = time.Minute
)

// tiers are the tiers of a site and what is done on them in the background. A site without any has an empty set.
type tiers struct {
	n      *Node
	stores []*blob.Store
	// contents are those in the layout repository.
	contents []*packed.Store
	set      *tier.Set
	mover    *tier.Mover   // after attach
	wishes   *wish.Granter // after attach
	site     string

	mu      sync.Mutex
	garbage map[string]adminapi.Backlog // by tier, as of the last look; guarded by mu
}

// openTiers makes the set of tiers that the configuration names. None of their places is asked: one that is away must not
// keep the site from starting.
func (n *Node) openTiers(mirrors func(name string, members []string) mirror.Observer) (*tiers, error) {
	t := &tiers{n: n}
	var list []tier.Place
	for _, c := range n.cfg.Tiers {
		u, err := places.Parse(c.URL)
		if err == nil && !slices.Contains(places.Schemes(), u.Scheme) {
			err = firn.NewError(firn.Unsupported, fmt.Sprintf("no scheme %q: docs/places.md lists them", u.Scheme))
		}
		if err != nil {
			return nil, firn.E("configuration", "tiers."+c.Name+".url", err)
		}
		store := places.Lazy(func() (*places.Opener, error) { return Places(n.cfg.Places, c.URL, mirrors) }, c.URL)
		t.stores = append(t.stores, store)
		p := tier.Place{Name: c.Name, Class: c.Class, Store: store, KeepLocal: c.KeepLocal.Std(), MaxBytes: int64(c.MaxBytes)}
		if c.Layout == config.LayoutRepository {
			content := packed.New(store, packed.Options{
				Log:      n.log.With("part", "tiers"),
				Password: func(ctx context.Context) ([]byte, error) { return readPassword(ctx, c.PasswordFile, c.PasswordCommand) },
			})
			t.contents = append(t.contents, content)
			p.Content = content
		}
		list = append(list, p)
	}
	var err error
	if t.set, err = tier.NewSet(list, nil); err != nil {
		return nil, err
	}
	t.site, err = n.dir.SiteID()
	return t, err
}

// attach gives the tiers the namespace whose versions they hold.
func (t *tiers) attach(store *object.Store) error {
	c := &t.n.cfg.Moves
	windows, err := turns.ParseWindows(c.Windows)
	if err != nil {
		return err
	}
	t.mover = tier.NewMover(store, t.set, tier.Options{
		Site: t.site, Log: t.n.log.With("part", "tiers"), Parallel: c.Parallel, BytesPerSecond: int64(c.Rate), Windows: windows,
	})
	t.wishes = wish.New(store, t.set, t.mover, wish.Options{Log: t.n.log.With("part", "tiers"), Parallel: c.Parallel})
	return nil
}

// archives are the storage classes whose content is to be restored before it is read.
func (t *tiers) archives() (classes []string) {
	for _, c := range t.n.cfg.Tiers {
		if c.Archive {
			classes = append(classes, c.Class)
		}
	}
	return classes
}

// Run moves what asks for it, keeps the catalogues current and removes what is not needed, until ctx ends.
func (t *tiers) Run(ctx context.Context) error {
	if len(t.stores) == 0 {
		return nil
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return t.follow(ctx) })
	g.Go(func() error { return t.tidy(ctx) })
	if len(t.contents) > 0 {
		g.Go(func() error { return t.sweep(ctx) })
	}
	g.Go(func() error { return t.wishes.Run(ctx) })
	return g.Wait()
}

// follow tells the tiers' catalogues what happened, at first and then as it happens.
func (t *tiers) follow(ctx context.Context) error {
	store := t.n.engine.store
	for {
		tail := store.JournalTail()
		if err := t.mover.Follow(ctx); err != nil {
			return ended(ctx, err)
		}
		if !pause(ctx, followEvery) {
			return nil
		}
		if t.behind() {
			continue
		}
		// A tier that was never there is tried again even where nothing happens.
		wait, cancel := context.WithTimeout(ctx, tidyEvery)
		err := store.WaitJournal(wait, tail)
		cancel()
		if err != nil && !errors.Is(err, context.DeadlineExceeded) {
			return ended(ctx, err)
		}
	}
}

// behind reports whether a catalogue has still to be told of something, its tier having been away.
func (t *tiers) behind() bool {
	return slices.ContainsFunc(t.mover.Backlog(), func(b tier.Backlog) bool { return b.Entries > 0 })
}

func (t *tiers) tidy(ctx context.Context) error {
	for {
		if _, err := t.mover.Collect(ctx); err != nil {
			return ended(ctx, err)
		}
		if err := t.lookAtGarbage(ctx); err != nil {
			return ended(ctx, err)
		}
		if !pause(ctx, tidyEvery) {
			return nil
		}
	}
}

// sweep has the tiers that need it take back the room of what was removed. A sweep may take hours.
func (t *tiers) sweep(ctx context.Context) error {
	for pause(ctx, tidyEvery) {
		if err := t.mover.Sweep(ctx); err != nil {
			return ended(ctx, err)
		}
	}
	return nil
}

// lookAtGarbage counts what waits to be removed from tiers.
func (t *tiers) lookAtGarbage(ctx context.Context) error {
	count, more, err := t.n.engine.store.CountTierGarbage(ctx)
	if err != nil {
		return err
	}
	all := map[string]adminapi.Backlog{}
	for tier, q := range count {
		all[tier] = adminapi.Backlog{Objects: q.Blobs, Oldest: hlc.Time(q.Oldest).Wall().UTC(), More: more}
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.garbage = all
	return nil
}

func (t *tiers) waitingGarbage() map[string]adminapi.Backlog {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.garbage
}

// ended is err, or nil where it is because ctx ended.
func ended(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// pause waits for d and reports whether ctx did not end meanwhile.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

// Close closes the places.
func (t *tiers) Close() error {
	var errs []error
	for _, c := range t.contents {
		errs = append(errs, c.Close())
	}
	for _, s := range t.stores {
		errs = append(errs, s.Close())
	}
	return errors.Join(errs...)
}
