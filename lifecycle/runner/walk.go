package runner

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"firn"
	"firn/lifecycle"
	"firn/lifecycle/usekv"
	"firn/object"
	"firn/object/listing"
	"firn/object/record"
)

// pass is the walk over one bucket.
type pass struct {
	*Runner
	o      *PassOptions
	moves  *moves
	bucket *record.Bucket
	plan   *lifecycle.Plan
	now    time.Time

	counted bool // all reads are of interest, not only where there are rules by temperature

	items []object.DeleteItem
	about []Item // one for each of items
	gone  []string
}

// seen is a version in the walk. What a listing does not tell, tags, locks and where its bytes are, is not known yet.
type seen struct {
	v    record.Version
	view lifecycle.Version
}

// each calls fn for all versions of keys below prefix that come after a key, until fn returns an error.
func (p *pass) each(ctx context.Context, prefix, after string, fn func(*seen) error) error {
	var (
		held  seen // waits for its successor: only that says whether the key has others
		have  bool
		first bool      // held is the newest of its key
		newer int       // versions of the key that are newer than held
		since time.Time // when the version before held came to be
	)
	give := func(next *record.Version) error {
		v := &held.v
		use := held.view.Use
		held.view = lifecycle.Version{
			Key: v.Key, Size: v.Size, Modified: v.Modified, Current: first, Marker: v.DeleteMarker,
			Class: v.StorageClass, Only: first && (next == nil || next.Key != v.Key), Use: use,
		}
		if held.view.Class == "" {
			held.view.Class = object.StandardClass
		}
		if !first {
			held.view.Noncurrent, held.view.Newer = since, newer-1
		}
		return fn(&held)
	}
	lo := listing.Options{Prefix: prefix, After: after, Limit: object.MaxList}
	err := p.ns.VersionPages(ctx, p.bucket.Name, lo, func(page []record.Version) error {
		uses, err := p.uses(ctx, page)
		if err != nil {
			return err
		}
		for i := range page {
			v := &page[i]
			if have {
				if err := give(v); err != nil {
					return err
				}
			}
			if have && held.v.Key == v.Key {
				first, newer, since = false, newer+1, held.v.Modified
			} else {
				first, newer = true, 0
			}
			held.v, have = *v, true
			if uses != nil {
				held.view.Use = uses[p.useID(v)]
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	if !have {
		return nil
	}
	return give(nil)
}

func (p *pass) useID(v *record.Version) string {
	return usekv.ID(p.bucket.ID, v.Key, record.MakeOrder(v.Clock, v.Site))
}

// uses looks up how the versions of a page were read, and notes what is remembered of versions that are gone.
func (p *pass) uses(ctx context.Context, page []record.Version) (map[string]lifecycle.Use, error) {
	if p.opt.Uses == nil || len(page) == 0 || !p.counted && !p.plan.Tempered() {
		return nil, nil
	}
	first, last := page[0].Key, page[len(page)-1].Key
	uses, err := p.opt.Uses.Range(ctx, p.bucket.ID, first, last)
	if err != nil || len(uses) == 0 {
		return nil, err
	}
	there := map[string]struct{}{}
	for i := range page {
		there[p.useID(&page[i])] = struct{}{}
	}
	for id, u := range uses {
		// Of the first key and the last one versions may be on another page.
		if _, ok := there[id]; ok || p.now.Sub(u.Last) < usekv.Forgotten || p.o.DryRun {
			continue
		}
		if _, key, err := record.ParseVersionKey([]byte(id)); err == nil && key != first && key != last {
			p.gone = append(p.gone, id)
		}
	}
	return uses, nil
}

// complete adds what a listing does not tell. The tags, locks and places of most versions are of no interest: only those
// that a rule would act on are looked at.
func (p *pass) complete(ctx context.Context, s *seen) error {
	if s.v.DeleteMarker {
		return nil
	}
	full, err := p.ns.Head(ctx, p.bucket.Name, s.v.Key, p.id(&s.v))
	if err != nil {
		return err
	}
	if full.Clock != s.v.Clock || full.Site != s.v.Site {
		return errChanged
	}
	s.v = *full
	s.view.LegalHold = full.LegalHold
	if full.Retention.Mode != record.RetentionNone {
		s.view.LockedUntil = full.Retention.Until
	}
	if full.Location != nil {
		s.view.Moved = full.Location.Since
	}
	s.view.Tags = nil
	for _, t := range full.Tags {
		s.view.Tags = append(s.view.Tags, lifecycle.Tag{Name: t.Name, Value: t.Value})
	}
	return nil
}

// id names the version in calls: a bucket that never was versioned knows no ids.
func (p *pass) id(v *record.Version) string {
	if p.bucket.Versioning == record.VersioningOff {
		return ""
	}
	return v.ID
}

// versions looks at the versions of the bucket, or at those for which something may be due.
func (p *pass) versions(ctx context.Context) (err error) {
	defer func() { err = errors.Join(err, p.flush(ctx), p.forget(ctx)) }()
	if !p.o.Due {
		return p.each(ctx, p.o.Prefix, "", func(s *seen) error {
			_, err := p.look(ctx, s)
			return err
		})
	}
	b := p.known(p.bucket)
	if b == nil {
		b = &bucketSpans{rules: rulesOf(p.bucket), list: []span{{due: p.now}}}
		delete(p.spans, p.bucket.ID)
	}
	var list []span
	after := ""
	for _, s := range b.list {
		if s.due.IsZero() || s.due.After(p.now) {
			list = append(list, s)
		} else if list, err = p.renew(ctx, list, after, s); err != nil {
			return err // what was known of the bucket is as true as before
		}
		after = s.to
	}
	b.list = list
	p.spans[p.bucket.ID] = b
	return nil
}

var errEnd = errors.New("the span ends")

// renew looks at the versions of a span, and appends what it became to list.
func (p *pass) renew(ctx context.Context, list []span, after string, old span) ([]span, error) {
	var next time.Time
	n, last := 0, ""
	err := p.each(ctx, "", after, func(s *seen) error {
		if old.to != "" && s.v.Key > old.to {
			return errEnd
		}
		if n >= p.perSpan && s.v.Key != last {
			list = append(list, span{strings.Clone(last), next}) // the text of a page is not to be kept for it
			n, next = 0, time.Time{}
		}
		due, err := p.look(ctx, s)
		n, last, next = n+1, s.v.Key, lifecycle.Earlier(next, due)
		return err
	})
	if err != nil && !errors.Is(err, errEnd) {
		return list, err
	}
	return append(list, span{old.to, next}), nil
}

// look decides about a version and has it carried out. It returns when it is to be looked at again, zero for never.
func (p *pass) look(ctx context.Context, s *seen) (time.Time, error) {
	p.moves.scanned()
	act, next := p.plan.MayAct(&s.view, p.now)
	if !act {
		return next, nil
	}
	switch err := p.complete(ctx, s); {
	case errors.Is(err, errChanged) || firn.KindOf(err) == firn.NotFound:
		p.moves.changed()
		return p.now, nil
	case err != nil:
		return p.now, err
	}
	d := p.plan.Decide(&s.view, p.now)
	if d.Action == lifecycle.Keep {
		return d.Due, nil
	}
	v := &s.v
	return p.now, p.act(ctx, v, Item{Bucket: p.bucket.Name, Key: v.Key, VersionID: v.ID, Size: v.Size, Decision: d})
}

// act carries out one decision, deletes and moves in batches.
func (p *pass) act(ctx context.Context, v *record.Version, it Item) error {
	switch it.Decision.Action {
	case lifecycle.Move, lifecycle.Recall:
		p.moves.add(v, it)
		return ctx.Err()
	}
	id := p.id(v)
	if it.Decision.Action == lifecycle.Hide {
		id = ""
	}
	clock, site := v.Clock, v.Site
	p.about = append(p.about, it)
	p.items = append(p.items, object.DeleteItem{Key: v.Key, VersionID: id, DeleteOptions: object.DeleteOptions{
		Precondition: func(now *record.Version) error {
			if now == nil || now.Clock != clock || now.Site != site {
				return errChanged
			}
			return nil
		},
	}})
	if len(p.items) < batch {
		return nil
	}
	return p.flush(ctx)
}

// flush removes what was gathered.
func (p *pass) flush(ctx context.Context) error {
	items, about := p.items, p.about
	p.items, p.about = p.items[:0], p.about[:0]
	if len(items) == 0 {
		return nil
	}
	if !p.o.DryRun {
		results, err := p.ns.DeleteMany(ctx, p.bucket.Name, items)
		if err != nil {
			return err
		}
		for i := range results {
			about[i].Err = results[i].Err
		}
	}
	for _, it := range about {
		p.moves.done(it)
	}
	return nil
}

// forget removes what is remembered of the reads of versions that are gone.
func (p *pass) forget(ctx context.Context) error {
	for ids := range slices.Chunk(p.gone, 1000) {
		if err := p.opt.Uses.Remove(ctx, ids); err != nil {
			return err
		}
	}
	return nil
}

func (p *pass) uploads(ctx context.Context) error {
	lo := object.UploadListOptions{Prefix: p.o.Prefix, Limit: object.MaxList}
	for {
		l, err := p.ns.ListUploads(ctx, p.bucket.Name, lo)
		if err != nil {
			return err
		}
		for _, u := range l.Uploads {
			p.moves.scanned()
			d := p.plan.DecideUpload(&lifecycle.Upload{Key: u.Key, Begun: u.Initiated}, p.now)
			if d.Action == lifecycle.Keep {
				continue
			}
			it := Item{Bucket: p.bucket.Name, Key: u.Key, VersionID: u.ID, Decision: d}
			if !p.o.DryRun {
				if it.Err = p.ns.AbortUpload(ctx, p.bucket.Name, u.Key, u.ID); firn.KindOf(it.Err) == firn.NotFound {
					it.Err = errChanged
				}
			}
			p.moves.done(it)
		}
		if !l.Truncated {
			return nil
		}
		lo.KeyMarker, lo.UploadIDMarker = l.NextKey, l.NextUploadID
	}
}

// explain decides about one version.
func (p *pass) explain(ctx context.Context, key, versionID string) (d lifecycle.Decision, err error) {
	found := false
	stop := errors.New("found")
	err = p.each(ctx, key, "", func(s *seen) error {
		if s.v.Key != key {
			return stop
		}
		if versionID == "" && !s.view.Current || versionID != "" && versionID != s.v.ID {
			return nil
		}
		if err := p.complete(ctx, s); err != nil {
			return err
		}
		d, found = p.plan.Decide(&s.view, p.now), true
		return stop
	})
	switch {
	case found:
		return d, nil
	case err == nil || errors.Is(err, stop):
		return d, object.ErrNoSuchVersion
	}
	return d, err
}
