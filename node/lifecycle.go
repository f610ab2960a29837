package node

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	"firn/adminapi"
	"firn/lifecycle"
	"firn/lifecycle/runner"
	"firn/object"
	"firn/object/record"
	"firn/telemetry"
)

// rules carries out the buckets' lifecycle rules, by the clock and on demand.
type rules struct {
	n      *Node
	runner *runner.Runner

	mu    sync.Mutex // guards all below
	last  adminapi.LifecycleReport
	total map[lifecycle.Action]lifecycle.TallyCount
	runs  int64
	fails int64
}

func (n *Node) openLifecycle() error {
	r := &rules{n: n, total: map[lifecycle.Action]lifecycle.TallyCount{}}
	opt := runner.Options{Log: n.log.With("part", "lifecycle")}
	if len(n.cfg.Tiers) > 0 {
		opt.Classes, opt.Move = n.tiers.set.Classes(), n.tiers.moveTo
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
		waiting := func(fn func(*adminapi.LifecycleWaiting) float64) (list []telemetry.Sample) {
			idle := map[string]bool{}
			for _, t := range r.n.cfg.Tiers {
				idle[t.Class] = true
			}
			for i := range r.last.Waiting {
				delete(idle, r.last.Waiting[i].Class)
				list = append(list, telemetry.Sample{Label: r.last.Waiting[i].Class, Value: fn(&r.last.Waiting[i])})
			}
			for class := range idle { // so that it is seen that nothing waits
				list = append(list, telemetry.Sample{Label: class, Value: fn(&adminapi.LifecycleWaiting{Oldest: time.Unix(0, 0)})})
			}
			return list
		}
		last := 0.0
		if !r.last.Began.IsZero() {
			last = float64(r.last.Began.Unix())
		}
		return [][]telemetry.Sample{
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
		counter("firn_lifecycle_runs_total", "Runs of the lifecycle rules of all buckets."),
		counter("firn_lifecycle_failed_total", "Decisions of lifecycle rules that could not be carried out, and runs that ended early."),
		telemetry.Desc{Name: "firn_lifecycle_objects_total", Help: "Versions, delete markers and uploads that rules acted on.", Kind: telemetry.Counter, Label: "action"},
		telemetry.Desc{Name: "firn_lifecycle_bytes_total", Help: "Bytes of the versions that rules removed or moved.", Kind: telemetry.Counter, Label: "action"},
		gauge("firn_lifecycle_last_run_timestamp_seconds", "When the last run by the clock began."),
		gauge("firn_lifecycle_last_run_seconds", "How long the last run by the clock took."),
		byClass("firn_lifecycle_waiting", "Moves that are due and wait for their tier, by the last run"),
		byClass("firn_lifecycle_waiting_bytes", "Bytes of those"),
		byClass("firn_lifecycle_waiting_oldest_timestamp_seconds", "Since when the first of them is due"),
	)
}

func byClass(name, help string) telemetry.Desc {
	return telemetry.Desc{Name: name, Help: help + ", by storage class.", Label: "class"}
}

// Run carries the rules out at the configured interval until ctx ends.
func (r *rules) Run(ctx context.Context) error {
	every := r.n.cfg.Lifecycle.Interval.Std()
	if every == 0 {
		return nil
	}
	t := time.NewTicker(every)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
		}
		res, err := r.runner.Pass(ctx, runner.PassOptions{})
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			r.n.log.Error("a run of the lifecycle rules ended early: the next one goes on", "error", err)
		}
		r.count(&res, err, true)
	}
}

// count notes a run that changed something, or could have.
func (r *rules) count(res *runner.Result, err error, byClock bool) {
	rep := report(res)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.runs++
	r.fails += res.Failed
	if err != nil {
		r.fails++
		rep.Error = err.Error()
	}
	for k, n := range res.Tally {
		t := r.total[k.Action]
		t.Objects += n.Objects
		t.Bytes += n.Bytes
		r.total[k.Action] = t
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
	d, err := v.runner.Explain(ctx, bucket, key, versionID, at)
	return item(&runner.Item{Bucket: bucket, Key: key, VersionID: versionID, Decision: d}), err
}
