// Package runner carries out what the lifecycle rules of buckets decide: it walks the versions and unfinished uploads of
// buckets that have rules, removes what has expired, and says what waits for a tier.
//
// It owns the walk and its report. It promises that each change is made only if the version is still the one that was
// decided about, that a lock is stronger than a rule, that one object's trouble stops no other, and that its memory does
// not depend on how much a bucket holds. It must never decide: package lifecycle does.
package runner

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"firn"
	"firn/lifecycle"
	"firn/object"
	"firn/object/listing"
	"firn/object/record"
)

// Names of the documents in a bucket's configuration.
const (
	confRules   = "lifecycle"
	confMinimum = "lifecycleMinimumSize"
)

// batch is how many versions are removed in one call.
const batch = 256

// Options are the settings of a Runner.
type Options struct {
	Now func() time.Time // nil is time.Now
	Log *slog.Logger     // nil discards
	// Classes are the site's storage classes, the dearest first; nil is lifecycle.Classes().
	Classes []string
	// Move brings versions to a storage class other than STANDARD, as tier.Mover.Move does, and returns an error or nil for
	// each. It is called for one class at a time, for several at once. nil: there are no tiers, and moves wait.
	Move func(ctx context.Context, class string, versions []record.Version, o object.MoveOptions) []error
}

// Runner carries out rules on one namespace. Its methods may be called concurrently.
type Runner struct {
	ns  *object.Store
	opt Options

	mu   sync.Mutex           // guards all below
	away map[string]time.Time // storage classes whose moves wait, and since when
}

// New returns a runner.
func New(ns *object.Store, opt Options) *Runner {
	if opt.Now == nil {
		opt.Now = time.Now
	}
	if opt.Log == nil {
		opt.Log = slog.New(slog.DiscardHandler)
	}
	return &Runner{ns: ns, opt: opt, away: map[string]time.Time{}}
}

// PassOptions say what a pass is about.
type PassOptions struct {
	Bucket string // "" is all
	Prefix string
	// DryRun decides and reports, and changes nothing.
	DryRun bool
	// At is the time that decisions are made for, with DryRun only; zero is now.
	At time.Time
	// Report gets each version and upload that a rule acts on, in the order of the walk; nil for none.
	Report func(Item)
}

// Item is a version, or an unfinished upload, on which a rule acts.
type Item struct {
	Bucket, Key string
	VersionID   string // or the id of the upload
	Size        int64  // bytes
	Decision    lifecycle.Decision
	Err         error // why it was not done
}

// Result is what a pass did, or with DryRun would do.
type Result struct {
	Began   time.Time
	Took    time.Duration
	Buckets int   // that have rules
	Scanned int64 // versions and uploads looked at
	Failed  int64 // decisions that could not be carried out
	Changed int64 // versions that were replaced or removed while the pass ran, and left alone
	// Waiting are the moves that are due and wait for their tier, by storage class.
	Waiting map[string]Backlog
	Tally   lifecycle.Tally
}

// Backlog is what waits for a tier.
type Backlog struct {
	Objects, Bytes int64
	Oldest         time.Time // since when the first of them is due
	Since          time.Time // when it was first found that the tier does not take them
	Why            string
}

var errChanged = firn.NewError(firn.Conflict, "it was replaced or removed meanwhile")

// Pass walks the buckets once. It stops at an error of the store, and when ctx ends; what one version refuses is counted.
func (r *Runner) Pass(ctx context.Context, o PassOptions) (res Result, err error) {
	res = Result{Began: r.opt.Now(), Waiting: map[string]Backlog{}}
	defer func() { res.Took = r.opt.Now().Sub(res.Began) }()
	if o.Report == nil {
		o.Report = func(Item) {}
	}
	now := res.Began
	if o.DryRun && !o.At.IsZero() {
		now = o.At
	}
	buckets, err := r.ns.Buckets(ctx)
	if err != nil {
		return res, err
	}
	found := false
	m := r.newMoves(ctx, &o, &res)
	defer m.end()
	for _, b := range buckets {
		if o.Bucket != "" && b.Name != o.Bucket {
			continue
		}
		found = true
		policy, err := r.policy(b)
		if err != nil {
			// Rules that a later version of Firn took are left to it.
			r.opt.Log.Error("lifecycle rules cannot be read: the bucket is left alone", "bucket", b.Name, "error", err)
			res.Failed++
			continue
		}
		if policy.Empty() {
			continue
		}
		res.Buckets++
		p := &pass{Runner: r, o: &o, moves: m, res: &res, bucket: b, policy: policy, now: now}
		if err := errors.Join(p.versions(ctx), p.uploads(ctx)); err != nil && firn.KindOf(err) != firn.NotFound {
			return res, err // a bucket that was removed meanwhile has nothing to expire
		}
	}
	if o.Bucket != "" && !found {
		return res, fmt.Errorf("lifecycle: %w", object.ErrNoSuchBucket)
	}
	m.end()
	return res, ctx.Err()
}

func (r *Runner) policy(b *record.Bucket) (*lifecycle.Policy, error) {
	opt := lifecycle.Options{
		Versioned: b.Versioning != record.VersioningOff, Classes: r.opt.Classes, Minimum: lifecycle.Minimum(b.Config[confMinimum]),
	}
	doc := b.Config[confRules]
	if len(doc) == 0 {
		return lifecycle.New(nil, opt), nil
	}
	rules, err := lifecycle.Parse(doc)
	if err != nil {
		return nil, err
	}
	return lifecycle.New(rules, opt), nil
}

// Explain says what a bucket's rules make of a version, now or at a time: "" is the current version.
func (r *Runner) Explain(ctx context.Context, bucket, key, versionID string, at time.Time) (lifecycle.Decision, error) {
	buckets, err := r.ns.Buckets(ctx)
	if err != nil {
		return lifecycle.Decision{}, err
	}
	for _, b := range buckets {
		if b.Name != bucket {
			continue
		}
		policy, err := r.policy(b)
		if err != nil {
			return lifecycle.Decision{}, err
		}
		if at.IsZero() {
			at = r.opt.Now()
		}
		p := &pass{Runner: r, o: &PassOptions{Prefix: key}, res: &Result{}, bucket: b, policy: policy, now: at}
		return p.explain(ctx, key, versionID)
	}
	return lifecycle.Decision{}, object.ErrNoSuchBucket
}

// pass is the walk over one bucket.
type pass struct {
	*Runner
	o      *PassOptions
	moves  *moves
	res    *Result
	bucket *record.Bucket
	policy *lifecycle.Policy
	now    time.Time

	items []object.DeleteItem
	about []Item // one for each of items
}

// each calls fn for all versions below prefix with what the rules need to know of them, without tags and locks.
func (p *pass) each(ctx context.Context, prefix string, fn func(*record.Version, *lifecycle.Version) error) error {
	var (
		held  record.Version // waits for its successor: only that says whether the key has others
		view  lifecycle.Version
		have  bool
		first bool      // held is the newest of its key
		newer int       // versions of the key that are newer than held
		since time.Time // when the version before held came to be
	)
	give := func(next *record.Version) error {
		view = lifecycle.Version{
			Key: held.Key, Size: held.Size, Modified: held.Modified, Current: first, Marker: held.DeleteMarker,
			Class: held.StorageClass, Only: first && (next == nil || next.Key != held.Key),
		}
		if view.Class == "" {
			view.Class = "STANDARD"
		}
		if !first {
			view.Noncurrent, view.Newer = since, newer-1
		}
		return fn(&held, &view)
	}
	lo := listing.Options{Prefix: prefix, Limit: object.MaxList}
	for {
		l, err := p.ns.ListVersions(ctx, p.bucket.Name, lo)
		if err != nil {
			return err
		}
		for i := range l.Versions {
			v := &l.Versions[i]
			if have {
				if err := give(v); err != nil {
					return err
				}
			}
			if have && held.Key == v.Key {
				first, newer, since = false, newer+1, held.Modified
			} else {
				first, newer = true, 0
			}
			held, have = *v, true
		}
		lo.After, lo.VersionAfter = l.NextKey, l.NextVersion
		truncated := l.Truncated
		p.ns.Recycle(l)
		if !truncated {
			break
		}
	}
	if !have {
		return nil
	}
	return give(nil)
}

// complete adds what a listing does not tell. The tags and locks of most versions are of no interest: only those that a
// rule would act on are looked at.
func (p *pass) complete(ctx context.Context, v *record.Version, view *lifecycle.Version) error {
	if v.DeleteMarker {
		return nil
	}
	full, err := p.ns.Head(ctx, p.bucket.Name, v.Key, p.id(v))
	if err != nil {
		return err
	}
	if full.Clock != v.Clock {
		return errChanged
	}
	view.LegalHold = full.LegalHold
	if full.Retention.Mode != record.RetentionNone {
		view.LockedUntil = full.Retention.Until
	}
	for _, t := range full.Tags {
		view.Tags = append(view.Tags, lifecycle.Tag{Name: t.Name, Value: t.Value})
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

func (p *pass) versions(ctx context.Context) error {
	err := p.each(ctx, p.o.Prefix, func(v *record.Version, view *lifecycle.Version) error {
		p.moves.scanned()
		if !p.policy.MayAct(view, p.now) {
			return nil
		}
		switch err := p.complete(ctx, v, view); {
		case errors.Is(err, errChanged) || firn.KindOf(err) == firn.NotFound:
			p.moves.changed()
			return nil
		case err != nil:
			return err
		}
		d := p.policy.Decide(view, p.now)
		if d.Action == lifecycle.Keep {
			return nil
		}
		return p.act(ctx, v, Item{Bucket: p.bucket.Name, Key: v.Key, VersionID: v.ID, Size: v.Size, Decision: d})
	})
	return errors.Join(err, p.flush(ctx))
}

// act carries out one decision, deletes in batches.
func (p *pass) act(ctx context.Context, v *record.Version, it Item) error {
	if it.Decision.Action == lifecycle.Move {
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

func (p *pass) uploads(ctx context.Context) error {
	lo := object.UploadListOptions{Prefix: p.o.Prefix, Limit: object.MaxList}
	for {
		l, err := p.ns.ListUploads(ctx, p.bucket.Name, lo)
		if err != nil {
			return err
		}
		for _, u := range l.Uploads {
			p.moves.scanned()
			d := p.policy.DecideUpload(&lifecycle.Upload{Key: u.Key, Begun: u.Initiated}, p.now)
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
	err = p.each(ctx, key, func(v *record.Version, view *lifecycle.Version) error {
		if v.Key != key {
			return stop
		}
		if versionID == "" && !view.Current || versionID != "" && versionID != v.ID {
			return nil
		}
		if err := p.complete(ctx, v, view); err != nil {
			return err
		}
		d, found = p.policy.Decide(view, p.now), true
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
