// Package runner carries out what the lifecycle rules of buckets and the site's rules by temperature decide: it looks at
// the versions and unfinished uploads for which something may be due, removes, moves and brings back, and says what waits
// for a tier.
//
// It owns the walk and its report. It promises that each change is made only if the version is still the one that was
// decided about, that a lock is stronger than a rule, that one object's trouble stops no other, that a pass over what is due
// does what one over everything would, and that its memory is bounded whatever a bucket holds. It must never decide: package lifecycle does.
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
	"firn/lifecycle/usekv"
	"firn/object"
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
	// Recall brings a version back, as tier.Mover.Promote does; needed with Placements.
	Recall func(ctx context.Context, ref object.Ref, o object.RecallOptions) (*record.Version, error)
	// Parallel is how many versions are brought back from a tier at once, and how many Move copies at once; 0 is 4.
	Parallel int
	// Placements are the site's rules by temperature.
	Placements []lifecycle.Placement
	// Uses tells how versions were read; nil: they were not.
	Uses *usekv.Store
}

// Runner carries out rules on one namespace. Its methods may be called concurrently.
type Runner struct {
	ns  *object.Store
	opt Options

	mu   sync.Mutex           // guards away
	away map[string]time.Time // storage classes whose moves wait, and since when

	// running holds a token while no pass changes anything; who has it owns spans, which are by a bucket's id, and seq,
	// the journal's entry up to which they are true.
	running chan struct{}
	spans   map[uint64]*bucketSpans
	seq     uint64
	perSpan int

	touched struct {
		sync.Mutex
		keys map[touched]struct{}
	}
}

// New returns a runner.
func New(ns *object.Store, opt Options) *Runner {
	if opt.Now == nil {
		opt.Now = time.Now
	}
	if opt.Log == nil {
		opt.Log = slog.New(slog.DiscardHandler)
	}
	if opt.Parallel <= 0 {
		opt.Parallel = 4
	}
	r := &Runner{ns: ns, opt: opt, away: map[string]time.Time{}, running: make(chan struct{}, 1), spans: map[uint64]*bucketSpans{}}
	r.running <- struct{}{}
	r.touched.keys = map[touched]struct{}{}
	r.seq, r.perSpan = ns.JournalTail(), perSpan
	return r
}

// PassOptions say what a pass is about.
type PassOptions struct {
	Bucket string // "" is all
	Prefix string
	// DryRun decides and reports, and changes nothing.
	DryRun bool
	// Due looks only at versions for which something may be due, by what earlier passes of this kind saw and the journal
	// told since; the first one looks at all. Not with Bucket, Prefix or DryRun.
	Due bool
	// At is the time that decisions are made for, with DryRun only; zero is now.
	At time.Time
	// Report gets each version and upload that a rule acts on, one at a time, once it was acted on; nil for none.
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
	// More says that there is more to move, for which the pass had no time.
	More bool
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
	if !o.DryRun {
		select {
		case <-r.running:
			defer func() { r.running <- struct{}{} }()
		case <-ctx.Done():
			return res, ctx.Err()
		}
	}
	if o.Due {
		if err := r.follow(ctx); err != nil {
			return res, err
		}
		r.takeTouched()
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
		plan, err := r.plan(b)
		if err != nil {
			// Rules that a later version of Firn took are left to it.
			r.opt.Log.Error("lifecycle rules cannot be read: the bucket is left alone", "bucket", b.Name, "error", err)
			m.failed()
			continue
		}
		if plan.Empty() {
			if o.Due {
				delete(r.spans, b.ID)
			}
			continue
		}
		res.Buckets++
		p := &pass{Runner: r, o: &o, moves: m, bucket: b, plan: plan, now: now}
		if err := errors.Join(p.versions(ctx), p.uploads(ctx)); err != nil && firn.KindOf(err) != firn.NotFound {
			return res, err // a bucket that was removed meanwhile has nothing to expire
		}
	}
	if o.Bucket != "" && !found {
		return res, fmt.Errorf("lifecycle: %w", object.ErrNoSuchBucket)
	}
	m.end()
	if o.Due {
		r.bound()
	}
	return res, ctx.Err()
}

// bound merges spans where there are too many of them.
func (r *Runner) bound() {
	for _, b := range r.spans {
		b.merge(maxSpans / len(r.spans))
	}
}

func (r *Runner) plan(b *record.Bucket) (*lifecycle.Plan, error) {
	policy, err := r.policy(b)
	if err != nil {
		return nil, err
	}
	return lifecycle.NewPlan(policy, r.opt.Placements, b.Name), nil
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
		plan, err := r.plan(b)
		if err != nil {
			return lifecycle.Decision{}, err
		}
		if at.IsZero() {
			at = r.opt.Now()
		}
		p := &pass{Runner: r, o: &PassOptions{DryRun: true}, bucket: b, plan: plan, now: at}
		return p.explain(ctx, key, versionID)
	}
	return lifecycle.Decision{}, object.ErrNoSuchBucket
}
