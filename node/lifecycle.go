package node

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"firn/adminapi"
	"firn/lifecycle"
	"firn/lifecycle/runner"
	"firn/lifecycle/usekv"
	"firn/object"
	"firn/object/record"
	"firn/telemetry"
	"firn/vfs"
)

// roomEvery is the time between looks at how full the disk is.
const roomEvery = time.Minute

// roomRest is how many of those are left out after one that found nothing to move: it looked at all versions.
const roomRest = 15

// rules carries out the buckets' lifecycle rules and the site's by temperature, by the clock and on demand.
type rules struct {
	n          *Node
	runner     *runner.Runner
	placements []lifecycle.Placement
	uses       *usekv.Store
	reads      *lifecycle.Tracker
	space      func() (used, capacity int64, err error)

	mu      sync.Mutex // guards all below
	last    adminapi.LifecycleReport
	total   map[lifecycle.Action]lifecycle.TallyCount
	runs    int64
	fails   int64
	missing int64 // bytes that were to make room and could not, by the last look
}

func (n *Node) openLifecycle() (err error) {
	r := &rules{n: n, total: map[lifecycle.Action]lifecycle.TallyCount{}, uses: usekv.New(n.engine.db)}
	if r.reads, err = lifecycle.NewTracker(useStore{r}, lifecycle.TrackerOptions{Objects: 20_000}); err != nil {
		return err
	}
	r.space = func() (used, capacity int64, err error) { return diskSpace(n.dir.Path) }
	for i := range n.cfg.Temperature {
		t := &n.cfg.Temperature[i]
		p := lifecycle.Placement{
			Name: t.Name, Bucket: t.Bucket, Filter: t.Filter(), Rules: t.Rules(), Warm: n.cfg.ClassOf(t.Warm), Cold: n.cfg.ClassOf(t.Cold),
			MinSize: int64(t.MinSize), Pinned: t.Pin != "",
		}
		if t.Pin == lifecycle.Warm.String() {
			p.PinnedAt = lifecycle.Warm
		}
		r.placements = append(r.placements, p)
	}
	opt := runner.Options{Log: n.log.With("part", "lifecycle"), Placements: r.placements, Uses: r.uses}
	if len(n.cfg.Tiers) > 0 {
		opt.Classes, opt.Move, opt.Recall = n.tiers.set.Classes(), n.tiers.moveTo, n.tiers.mover.Promote
		opt.Parallel = n.cfg.Moves.Parallel
	}
	r.runner = runner.New(n.engine.store, opt)
	n.lifecycle = r
	return n.metrics.Collect(func() [][]telemetry.Sample {
		r.mu.Lock()
		defer r.mu.Unlock()
		var objects, bytes []telemetry.Sample
		for _, a := range lifecycle.Actions() {
			t := r.total[a]
			objects = append(objects, telemetry.Sample{Label: a.String(), Value: float64(t.Objects)})
			bytes = append(bytes, telemetry.Sample{Label: a.String(), Value: float64(t.Bytes)})
		}
		classes := map[string]adminapi.LifecycleWaiting{} // all of them, so that it is seen that nothing waits
		for _, t := range n.cfg.Tiers {
			classes[t.Class] = adminapi.LifecycleWaiting{Oldest: time.Unix(0, 0)}
		}
		for _, w := range r.last.Waiting {
			classes[w.Class] = w
		}
		waiting := func(fn func(*adminapi.LifecycleWaiting) float64) (list []telemetry.Sample) {
			for class, w := range classes {
				list = append(list, telemetry.Sample{Label: class, Value: fn(&w)})
			}
			return list
		}
		last := 0.0
		if !r.last.Began.IsZero() {
			last = float64(r.last.Began.Unix())
		}
		reads := r.reads.Stats()
		return [][]telemetry.Sample{
			{{Value: float64(reads.Reads)}},
			{{Value: float64(reads.Missed)}},
			{{Value: float64(reads.Failed)}},
			{{Value: float64(r.missing)}},
			{{Value: float64(r.runs)}},
			{{Value: float64(r.fails)}},
			objects, bytes,
			{{Value: last}},
			{{Value: r.last.Seconds}},
			waiting(func(w *adminapi.LifecycleWaiting) float64 { return float64(w.Objects) }),
			waiting(func(w *adminapi.LifecycleWaiting) float64 { return float64(w.Bytes) }),
			waiting(func(w *adminapi.LifecycleWaiting) float64 { return float64(w.Oldest.Unix()) }),
		}
	},
		counter("firn_reads_counted_total", "Reads of objects that rules depend on."),
		counter("firn_reads_missed_total", "Reads that were not counted for want of room."),
		counter("firn_reads_failed_total", "Times that counts of reads could not be written; they are tried again."),
		gauge("firn_room_missing_bytes", "Bytes that should leave the full disk and that nothing was found for, by the last look."),
		counter("firn_lifecycle_runs_total", "Runs of the lifecycle rules of all buckets."),
		counter("firn_lifecycle_failed_total", "Decisions of lifecycle rules that could not be carried out, and runs that ended early."),
		telemetry.Desc{Name: "firn_lifecycle_objects_total", Help: "Versions, delete markers and uploads that rules acted on.", Kind: telemetry.Counter, Label: "action"},
		telemetry.Desc{Name: "firn_lifecycle_bytes_total", Help: "Bytes of the versions that rules removed or moved.", Kind: telemetry.Counter, Label: "action"},
		gauge("firn_lifecycle_last_run_timestamp_seconds", "When the last run by the clock began."),
		gauge("firn_lifecycle_last_run_seconds", "How long the last run by the clock took."),
		byClass("firn_lifecycle_waiting", "Moves that are due and wait for their tier, by the last run"),
		byClass("firn_lifecycle_waiting_bytes", "Bytes of those"),
		byClass("firn_lifecycle_waiting_oldest_timestamp_seconds", "Since when the first of them is due; 0 where none waits"),
	)
}

func byClass(name, help string) telemetry.Desc {
	return telemetry.Desc{Name: name, Help: help + ", by storage class.", Label: "class"}
}

// Run carries the rules out at the configured interval, counts reads and keeps room on the disk, until ctx ends.
func (r *rules) Run(ctx context.Context) error {
	var g errgroup.Group
	if r.counts() {
		g.Go(func() error {
			err := r.reads.Run(ctx, func(err error) { r.n.log.Warn("reads could not be counted, and are with the next ones", "error", err) })
			return ended(ctx, err)
		})
	}
	g.Go(func() error { r.byClock(ctx); return nil })
	if r.n.cfg.Lifecycle.Overflow != "" {
		g.Go(func() error { r.keepRoom(ctx); return nil })
	}
	return g.Wait()
}

// counts reports whether anything depends on how objects are read.
func (r *rules) counts() bool { return len(r.placements) > 0 || r.n.cfg.Lifecycle.Overflow != "" }

// read counts a read of a version. The time of a read of a later part is noted, but is no further read: players and
// downloads ask for many.
func (r *rules) read(b *record.Bucket, v *record.Version, first bool) {
	if r.n.cfg.Lifecycle.Overflow == "" &&
		!slices.ContainsFunc(r.placements, func(p lifecycle.Placement) bool { return p.May(b.Name, v.Key) }) {
		return
	}
	n := uint64(0)
	if first {
		n = 1
	}
	r.reads.Read(usekv.ID(b.ID, v.Key, record.MakeOrder(v.Clock, v.Site)), n, time.Now())
}

// useStore keeps counted reads, and tells the runner of what is read often.
type useStore struct{ *rules }

// AddUses implements lifecycle.UseStore.
func (u useStore) AddUses(ctx context.Context, uses map[string]lifecycle.Use) error {
	buckets, err := u.n.engine.store.Buckets(ctx)
	if err != nil {
		return err
	}
	names := map[uint64]string{}
	for _, b := range buckets {
		names[b.ID] = b.Name
	}
	now := time.Now()
	return u.uses.Add(ctx, uses, func(bucket uint64, key string, sum lifecycle.Use) {
		if slices.ContainsFunc(u.placements, func(p lifecycle.Placement) bool {
			return p.May(names[bucket], key) && sum.Within(p.Rules.PromoteWindow, now) >= p.Rules.PromoteReads
		}) {
			u.runner.Touch(bucket, key)
		}
	})
}

// flush writes the reads that were counted up to now, for who asks now.
func (r *rules) flush(ctx context.Context) error {
	if !r.counts() {
		return nil
	}
	return r.reads.Flush(ctx)
}

// sweep forgets the reads in buckets that are gone, or that no rule is for any more.
func (r *rules) sweep(ctx context.Context) error {
	buckets, err := r.n.engine.store.Buckets(ctx)
	if err != nil {
		return err
	}
	wanted := map[uint64]bool{}
	for _, b := range buckets {
		wanted[b.ID] = r.n.cfg.Lifecycle.Overflow != "" || lifecycle.NewPlan(nil, r.placements, b.Name).Tempered()
	}
	return r.uses.Sweep(ctx, func(bucket uint64) bool { return wanted[bucket] })
}

func (r *rules) byClock(ctx context.Context) {
	if err := r.sweep(ctx); err != nil && ctx.Err() == nil {
		r.n.log.Warn("counts of reads that nobody needs could not be removed", "error", err)
	}
	every := r.n.cfg.Lifecycle.Interval.Std()
	if every == 0 {
		return
	}
	t := time.NewTicker(every)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
		for more := true; more; {
			res, err := r.runner.Pass(ctx, runner.PassOptions{Due: true})
			if ctx.Err() != nil {
				return
			}
			if err != nil {
				r.n.log.Error("a run of the lifecycle rules ended early: the next one goes on", "error", err)
			}
			r.count(&res, err, true)
			more = res.More && err == nil
		}
	}
}

// diskSpace tells how full the file system of a directory is.
func diskSpace(dir string) (used, capacity int64, err error) {
	u, err := vfs.OS().GetDiskUsage(dir)
	return int64(u.TotalBytes - u.AvailBytes), int64(u.TotalBytes), err
}

// keepRoom moves the longest unused objects away while the disk is too full.
func (r *rules) keepRoom(ctx context.Context) {
	relieving, rest := false, 0
	for pause(ctx, roomEvery) {
		if rest--; rest > 0 {
			continue
		}
		moved := false
		if relieving, moved = r.makeRoom(ctx, relieving); relieving && !moved {
			rest = roomRest
		}
	}
}

// makeRoom looks how full the disk is, once. relieving says whether moves have begun and the low mark was not reached yet.
func (r *rules) makeRoom(ctx context.Context, relieving bool) (still, moved bool) {
	marks := lifecycle.Watermarks{High: float64(r.n.cfg.Lifecycle.High) / 100, Low: float64(r.n.cfg.Lifecycle.Low) / 100}
	used, capacity, err := r.space()
	if err != nil {
		r.n.log.Warn("how full the disk is cannot be told", "error", err)
		return relieving, true
	}
	need, why := marks.Need(used, capacity, relieving)
	if need <= 0 {
		r.setMissing(0)
		return false, false
	}
	freed, err := r.relieve(ctx, need, why)
	if ctx.Err() == nil && (err != nil || freed == 0) {
		r.n.log.Warn("the disk is too full, and nothing could be moved to make room", "disk", why, "error", err)
	}
	return true, freed > 0
}

// relieve frees need bytes, as far as there is something to free, and returns how many it freed.
func (r *rules) relieve(ctx context.Context, need int64, why string) (freed int64, err error) {
	o := runner.RelieveOptions{Need: need, Why: why, Class: r.n.cfg.ClassOf(r.n.cfg.Lifecycle.Overflow), Keep: map[string]time.Duration{}}
	o.Move = func(ctx context.Context, class string, versions []record.Version, m object.MoveOptions) []error {
		return r.n.tiers.mover.MoveNow(ctx, r.n.tiers.set.OfClass(class), versions, m)
	}
	for _, t := range r.n.cfg.Tiers {
		o.Keep[t.Class] = t.KeepLocal.Std()
	}
	res, missing, err := r.runner.Relieve(ctx, o)
	var objects int64
	for _, n := range res.Tally {
		objects, freed = objects+n.Objects, freed+n.Bytes
	}
	r.mu.Lock()
	r.add(&res)
	r.missing = missing
	r.mu.Unlock()
	if objects > 0 {
		r.n.log.Info("moved the longest unused objects to make room", "disk", why, "objects", objects, "bytes", freed, "missing", missing)
	}
	return freed, err
}

func (r *rules) setMissing(n int64) {
	r.mu.Lock()
	r.missing = n
	r.mu.Unlock()
}

// add notes what was done. The caller holds mu.
func (r *rules) add(res *runner.Result) {
	r.fails += res.Failed
	for k, n := range res.Tally {
		t := r.total[k.Action]
		t.Objects += n.Objects
		t.Bytes += n.Bytes
		r.total[k.Action] = t
	}
}

// count notes a run that changed something, or could have.
func (r *rules) count(res *runner.Result, err error, byClock bool) {
	rep := report(res)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.runs++
	r.add(res)
	if err != nil {
		r.fails++
		rep.Error = err.Error()
	}
	if byClock {
		r.last = rep
	}
}

func report(res *runner.Result) adminapi.LifecycleReport {
	rep := adminapi.LifecycleReport{
		Began: res.Began, Seconds: res.Took.Seconds(), Buckets: res.Buckets, Scanned: res.Scanned, Failed: res.Failed,
		Changed: res.Changed, Counts: []adminapi.LifecycleCount{}, Waiting: []adminapi.LifecycleWaiting{},
	}
	for k, n := range res.Tally {
		rep.Counts = append(rep.Counts, adminapi.LifecycleCount{
			Bucket: k.Bucket, Rule: k.Rule, Action: k.Action.String(), Objects: n.Objects, Bytes: n.Bytes,
		})
	}
	slices.SortFunc(rep.Counts, func(a, b adminapi.LifecycleCount) int {
		return cmp.Or(cmp.Compare(a.Bucket, b.Bucket), cmp.Compare(a.Rule, b.Rule), cmp.Compare(a.Action, b.Action))
	})
	for _, class := range slices.Sorted(maps.Keys(res.Waiting)) {
		w := res.Waiting[class]
		rep.Waiting = append(rep.Waiting, adminapi.LifecycleWaiting{
			Class: class, Objects: w.Objects, Bytes: w.Bytes, Oldest: w.Oldest, Since: w.Since, Why: w.Why,
		})
	}
	return rep
}

func item(it *runner.Item) adminapi.LifecycleItem {
	d := it.Decision
	out := adminapi.LifecycleItem{
		Bucket: it.Bucket, Key: it.Key, VersionID: it.VersionID, Size: it.Size, Action: d.Action.String(), Class: d.Class,
		Rule: d.Rule, Due: d.Due, Reason: d.Reason,
	}
	if it.Err != nil {
		out.Error = it.Err.Error()
	}
	return out
}

// moveTo moves versions to the tier with a storage class.
func (t *tiers) moveTo(ctx context.Context, class string, versions []record.Version, o object.MoveOptions) []error {
	return t.mover.Move(ctx, t.set.OfClass(class), versions, o)
}

// lifecycleView is rules as the admin endpoint sees them.
type lifecycleView struct{ *rules }

// Last implements adminapi.Lifecycle.
func (v lifecycleView) Last() adminapi.LifecycleReport {
	v.mu.Lock()
	defer v.mu.Unlock()
	last := v.last
	if last.Counts == nil {
		last.Counts, last.Waiting = []adminapi.LifecycleCount{}, []adminapi.LifecycleWaiting{}
	}
	return last
}

// Run implements adminapi.Lifecycle.
func (v lifecycleView) Run(ctx context.Context, o adminapi.LifecycleRun, fn func(adminapi.LifecycleItem) error) (adminapi.LifecycleReport, error) {
	if err := v.flush(ctx); err != nil {
		return adminapi.LifecycleReport{}, err
	}
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	res, err := v.runner.Pass(ctx, runner.PassOptions{
		Bucket: o.Bucket, Prefix: o.Prefix, DryRun: o.DryRun, At: o.At,
		Report: func(it runner.Item) {
			if err := fn(item(&it)); err != nil {
				stop(err)
			}
		},
	})
	if !o.DryRun {
		v.count(&res, err, false)
	}
	rep := report(&res)
	rep.DryRun = o.DryRun
	return rep, err
}

// Explain implements adminapi.Lifecycle.
func (v lifecycleView) Explain(ctx context.Context, bucket, key, versionID string, at time.Time) (adminapi.LifecycleItem, error) {
	if err := v.flush(ctx); err != nil {
		return adminapi.LifecycleItem{}, err
	}
	d, err := v.runner.Explain(ctx, bucket, key, versionID, at)
	return item(&runner.Item{Bucket: bucket, Key: key, VersionID: versionID, Decision: d}), err
}
