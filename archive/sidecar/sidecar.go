// Package sidecar keeps the directory of a service that knows nothing of it safe: it restores the directory before the
// service starts, backs it up while the service runs, and once more when it ends.
//
// It owns the state file in the directory (docs/format/sidecar.md) and the rules of when to restore, to back up and to
// refuse, which are pure functions in decide.go. It promises that a service never starts on an empty directory because
// its backups could not be reached; that data which is in no backup is never overwritten; that a restore which was cut
// off is finished before the directory counts as restored; that of two sidecars with one name only one writes; and that
// a directory which suddenly lost its content never costs a good backup. It must never import a blob driver, the
// configuration or the command line.
package sidecar

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"firn"
	"firn/archive/lease"
	"firn/blob"
)

// Target keeps the versions of one directory: snapshots of a repository, commits of a branch, rows of a table. Its
// methods are called by one goroutine at a time.
type Target interface {
	// Name is its URL without credentials.
	Name() string
	// Leases is where the lease is kept, and its prefix. The store is the target's.
	Leases() (*blob.Store, string)
	// Versions are all versions of the directory, in the order of Version.Before, and whether the target holds other
	// things beside.
	Versions(ctx context.Context) (versions []Version, others bool, err error)
	// Backup stores what dir holds as v, whose ID and Time it sets. What it returns is durable. Files that could not be
	// read are told by the number of problems.
	Backup(ctx context.Context, dir string, v Version) (stored Version, problems int64, err error)
	// Restore makes dir hold what v holds, on stable storage; the sidecar's own files and what is excluded stay. After
	// an error or a crash the same call finishes the work.
	Restore(ctx context.Context, v Version, dir string) error
	// Changed reports whether dir differs from v.
	Changed(ctx context.Context, v Version, dir string) (bool, error)
	// Again stores what old holds as v, the newest version.
	Again(ctx context.Context, old, v Version) (Version, error)
	// Forget removes versions. Targets that keep all history do nothing.
	Forget(ctx context.Context, versions []Version) error
	// Tend gives the space of what was forgotten back. It is called once a day at most.
	Tend(ctx context.Context) error
	Close() error
}

// Options are the settings of a sidecar. What is zero has the default that is stated.
type Options struct {
	// Dir is the directory, absolute and clean. It is made where it does not exist.
	Dir string
	// Open opens the target; with create it makes it where it is not there. It fails with firn.NotFound only where the
	// place answered and there is none. url is "" for the target of the command, or where a move led.
	Open func(ctx context.Context, url string, create bool) (Target, error)
	// Rules say what belongs to the directory's data.
	Rules Rules
	// Init makes the target where there is none: the first run.
	Init bool
	// Prefer decides where the directory and the backups both have what the other has not.
	Prefer Prefer
	// Interval is the longest time between a change and its backup; 5 minutes.
	Interval time.Duration
	// Debounce is how long nothing must have changed before a backup that a change asks for; 5 s. After ten times that
	// it is made anyway. NoWatch makes backups on the interval only.
	Debounce time.Duration
	NoWatch  bool
	// MaxWatches bounds the directories that are watched; with more, changes are found at the interval. 4096.
	MaxWatches int
	// Keep is how many versions are kept; 10.
	Keep int
	// Shrink is the part of the files or bytes whose loss between two backups is taken for an accident; 0.5.
	Shrink float64
	// Grace bounds the last backup, after the context of Keep ended; 25 s.
	Grace time.Duration
	// Patience bounds the waiting for what Start needs; 0 is for ever.
	Patience time.Duration
	// TTL is that of the lease; lease.DefaultTTL. NoWait fails where another sidecar holds it.
	TTL    time.Duration
	NoWait bool
	// Tend is how often the space of forgotten versions is given back; once a day. Less than 0 is never.
	Tend time.Duration
	// Pre and Post are run before and after each backup; may be nil. An error of Pre makes the backup fail.
	Pre, Post func(context.Context) error
	// Info says for people who this is; the machine's name.
	Info string
	Log  *slog.Logger
	// Metrics are shown by the Handler beside the sidecar's own; nil for none.
	Metrics prometheus.Collector
}

func (o *Options) defaults() error {
	if !filepath.IsAbs(o.Dir) || filepath.Clean(o.Dir) != o.Dir || o.Dir == "/" {
		return firn.NewError(firn.Invalid, "the directory must be an absolute, clean path, and not the root")
	}
	if o.Shrink < 0 || o.Shrink > 1 || o.Keep < 0 || o.Interval < 0 || o.Debounce < 0 || o.Grace < 0 {
		return firn.NewError(firn.Invalid, "times and numbers cannot be less than 0, nor a part more than 1")
	}
	def := func(d *time.Duration, v time.Duration) {
		if *d == 0 {
			*d = v
		}
	}
	def(&o.Interval, 5*time.Minute)
	def(&o.Debounce, 5*time.Second)
	def(&o.Grace, 25*time.Second)
	def(&o.TTL, lease.DefaultTTL)
	def(&o.Tend, 24*time.Hour)
	if o.Keep == 0 {
		o.Keep = 10
	}
	if o.Shrink == 0 {
		o.Shrink = 0.5
	}
	if o.MaxWatches == 0 {
		o.MaxWatches = 4096
	}
	if o.Info == "" {
		o.Info, _ = os.Hostname() // without one it is "another process"
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return nil
}

// Sidecar is one directory with its target. Start and Keep are called by one goroutine, in this order.
type Sidecar struct {
	o       Options
	dir     *directory
	target  Target
	lease   *lease.Lease
	metrics *metrics

	seq      uint64 // of the last version under this lease
	last     *Version
	baseline Survey // what the last version holds; zero where that is not known
	tended   time.Time
	keepAll  bool // no version is forgotten just now
	requests chan request

	renewing struct { // of Keep
		work   context.Context
		cancel context.CancelCauseFunc
		stop   func()
		done   sync.WaitGroup
	}
	moved    chan error // holds one, when the backups were moved
	wasMoved error      // what came from it, until they are followed

	mu struct {
		sync.Mutex
		status Status
	}
}

// New checks the options.
func New(o Options) (*Sidecar, error) {
	if err := o.defaults(); err != nil {
		return nil, err
	}
	s := &Sidecar{o: o, metrics: newMetrics(), requests: make(chan request), moved: make(chan error, 1)}
	if o.Metrics != nil {
		if err := s.metrics.reg.Register(o.Metrics); err != nil {
			return nil, err
		}
	}
	s.renewing.stop = func() {}
	s.mu.status = Status{Phase: Starting, Directory: o.Dir, Interval: Duration(o.Interval)}
	return s, nil
}

// Start opens the target, becomes its one writer, and restores the directory where the rules say so. It returns nil
// once the service may start, and waits until then for what may pass or be put right: status and log say for what.
func (s *Sidecar) Start(ctx context.Context) (err error) {
	if s.o.Patience > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, s.o.Patience,
			firn.NewError(firn.Unavailable, fmt.Sprintf("gave up after %s", s.o.Patience)))
		defer cancel()
	}
	defer func() {
		if err != nil && ctx.Err() != nil {
			reason := s.Status().Reason
			err = context.Cause(ctx)
			if reason != "" {
				err = fmt.Errorf("%w: %s", err, reason)
			}
			err = firn.E("start", s.o.Dir, err)
		}
	}()
	if err := os.MkdirAll(s.o.Dir, 0o755); err != nil {
		return firn.E("start", "", blob.FileError(err))
	}
	if s.dir, err = openDirectory(s.o.Dir, s.o.Rules); err != nil {
		return err
	}
	begin := time.Now()
	for attempt := 0; ; attempt++ {
		plan, err := s.attempt(ctx)
		if err != nil {
			return err
		}
		if plan.Action == Use || plan.Action == Begin {
			s.started(plan, time.Since(begin))
			return nil
		}
		s.wait(plan.Reason)
		if err := pause(ctx, min(time.Duration(attempt+1)*500*time.Millisecond, 10*time.Second)); err != nil {
			return err
		}
	}
}

// wait says for what the start waits: in the log only when that changes.
func (s *Sidecar) wait(reason string) {
	was := s.Status()
	s.setStatus(func(t *Status) { t.Phase, t.Reason = Waiting, reason })
	if was.Phase != Waiting || was.Reason != reason {
		s.o.Log.Warn("waiting: the service must not start yet", "why", reason)
	}
}

func (s *Sidecar) started(plan Plan, took time.Duration) {
	s.setStatus(func(t *Status) {
		t.Phase, t.Reason, t.Ready, t.Target = Running, "", true, s.target.Name()
		if s.last != nil {
			t.Version, t.Files, t.Bytes = s.last.ID, s.last.Files, s.last.Bytes
		}
	})
	s.o.Log.Info("ready", "why", plan.Reason, "took", took.Round(time.Millisecond))
}

// attempt looks at the situation and does what the plan says. It returns Use or Begin when the directory is ready, a
// plan to wait, or an error that ends the start.
func (s *Sidecar) attempt(ctx context.Context) (Plan, error) {
	if s.target == nil {
		if plan, err := s.open(ctx); err != nil || plan != nil {
			return value(plan), err
		}
	}
	sit, err := s.situation(ctx)
	if err != nil {
		return Plan{}, err
	}
	plan := Decide(sit)
	if plan.Action == Compare {
		changed, err := s.target.Changed(ctx, plan.Version, s.o.Dir)
		if err != nil {
			return failed(ctx, "compare the directory with its backup", err)
		}
		sit.Dirty = Clean
		if changed {
			sit.Dirty = Changed
		}
		plan = Decide(sit)
	}
	switch plan.Action {
	case Restore:
		return s.restore(ctx, plan)
	case Begin, Use:
		return s.adopt(ctx, sit, plan)
	}
	return plan, nil
}

func value(p *Plan) Plan {
	if p == nil {
		return Plan{}
	}
	return *p
}

// failed makes err a reason to wait, or returns it where ctx has ended.
func failed(ctx context.Context, what string, err error) (Plan, error) {
	if ctx.Err() != nil {
		return Plan{}, err
	}
	return Plan{Action: Wait, Reason: fmt.Sprintf("%s: %v", what, err)}, nil
}

// open opens the target and becomes its writer. It returns a plan to wait where it cannot.
func (s *Sidecar) open(ctx context.Context) (*Plan, error) {
	return s.openAt(ctx, "", 0)
}

// maxMoves bounds how often a move is followed by another one.
const maxMoves = 16

func (s *Sidecar) openAt(ctx context.Context, url string, moves int) (*Plan, error) {
	state, serr := s.dir.readState()
	// Most places cannot tell one that was never made from one that is not mounted: such a one is made only in a first run
	// that was asked for, and fails for what cannot be reached.
	first := Decide(Situation{Missing: true, MissingErr: errors.New("there is none"), State: state, StateErr: serr, Init: s.o.Init})
	t, err := s.o.Open(ctx, url, url == "" && first.Action == Make)
	if firn.KindOf(err) == firn.NotFound && url == "" {
		plan := Decide(Situation{Missing: true, MissingErr: err, State: state, StateErr: serr, Init: s.o.Init})
		if plan.Action == Make {
			plan = wait("it cannot be made: %v", err)
		}
		return &plan, nil
	}
	if err != nil {
		plan := Decide(Situation{Err: err})
		return &plan, ctx.Err()
	}
	plan, moved, err := s.acquire(ctx, t)
	if err == nil && plan == nil && moved == "" {
		s.target = t
		return nil, nil
	}
	if cerr := t.Close(); cerr != nil {
		s.o.Log.Debug("close", "error", cerr)
	}
	if moved != "" {
		if moves == maxMoves {
			p := wait("the backups were moved to %s, and too often: give that URL", moved)
			return &p, nil
		}
		s.o.Log.Info("the backups were moved", "to", moved)
		return s.openAt(ctx, moved, moves+1)
	}
	return plan, err
}

// acquire gets the lease of t. moved is where the backups are now.
func (s *Sidecar) acquire(ctx context.Context, t Target) (plan *Plan, moved string, err error) {
	store, prefix := t.Leases()
	o := lease.Options{
		TTL: s.o.TTL, Info: s.o.Info, Fail: s.o.NoWait, Waiting: func(r lease.Record) {
			s.wait(fmt.Sprintf("another sidecar (%s) backs up to %s under the same name: it must end first", r.Info, t.Name()))
		},
	}
	if state, serr := s.dir.readState(); serr == nil && state != nil && s.dir.sameMachine(state) {
		// The process that had this directory on this machine has ended, or its lock would be held.
		o.Former = state.Holder
	}
	s.lease, err = lease.Acquire(ctx, store, prefix, o)
	switch {
	case err == nil:
		s.seq = 0
		return nil, "", nil
	case errors.Is(err, lease.ErrMoved):
		r, lerr := lease.Look(ctx, store, prefix)
		if lerr == nil && !r.Moving {
			return nil, r.Moved, nil
		}
		plan = &Plan{Action: Wait, Reason: fmt.Sprintf("the backups are being moved to %s", r.Moved)}
		return plan, "", nil
	case firn.KindOf(err) == firn.Locked, firn.KindOf(err) == firn.Unsupported:
		return nil, "", err
	}
	p, err := failed(ctx, "become the one writer", err)
	return &p, "", err
}

// situation is what Decide looks at.
func (s *Sidecar) situation(ctx context.Context) (Situation, error) {
	sit := Situation{Init: s.o.Init, Prefer: s.o.Prefer}
	if err := s.lease.Renew(ctx); err != nil {
		if firn.KindOf(err) == firn.Conflict {
			return sit, s.drop(err)
		}
		sit.Err = err
		return sit, ctx.Err()
	}
	versions, others, err := s.target.Versions(ctx)
	if err != nil {
		sit.Err = err
		return sit, ctx.Err()
	}
	sit.Versions, sit.Others = versions, others
	sit.State, sit.StateErr = s.dir.readState()
	v, err := s.dir.survey(ctx)
	if err != nil {
		return sit, err
	}
	sit.Empty = v.Entries == 0
	if !sit.Empty {
		sit.InUse, err = inUse(s.o.Dir)
	}
	return sit, err
}

// drop gives the target up after the lease was lost while starting; the next attempt opens it again.
func (s *Sidecar) drop(cause error) error {
	s.o.Log.Warn("lost the lease while starting", "error", cause)
	err := s.target.Close()
	s.target, s.lease = nil, nil
	if err != nil {
		return err
	}
	return cause
}

// restore restores, and says so in the state file before and after.
func (s *Sidecar) restore(ctx context.Context, plan Plan) (Plan, error) {
	v := plan.Version
	s.setStatus(func(t *Status) { t.Phase, t.Reason, t.Target = Restoring, plan.Reason, s.target.Name() })
	s.o.Log.Info("restoring", "version", short(v.ID), "files", v.Files, "bytes", v.Bytes, "why", plan.Reason)
	st := s.newState()
	st.Restoring = v.ID
	if err := s.dir.writeState(st); err != nil {
		return failed(ctx, "write the state file", err)
	}
	begin := time.Now()
	if err := s.keepAlive(ctx, func(ctx context.Context) error { return s.target.Restore(ctx, v, s.o.Dir) }); err != nil {
		s.metrics.restores.WithLabelValues("failed").Inc()
		return failed(ctx, "restore", err)
	}
	survey, err := s.dir.survey(ctx)
	if err != nil {
		return failed(ctx, "look at what was restored", err)
	}
	st.Restoring, st.Version, st.Mark = "", v.ID, v.Mark
	if err := s.dir.writeState(st); err != nil {
		return failed(ctx, "write the state file", err)
	}
	s.metrics.restores.WithLabelValues("ok").Inc()
	s.metrics.restoreSeconds.Set(time.Since(begin).Seconds())
	s.last, s.baseline = &v, survey
	return Plan{Action: Use, Version: v, Reason: "restored " + short(v.ID)}, nil
}

// keepAlive runs fn and renews the lease meanwhile.
func (s *Sidecar) keepAlive(ctx context.Context, fn func(context.Context) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	run, stop := context.WithCancel(ctx)
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := s.lease.Run(run, s.renewFailed); err != nil {
			cancel(err)
		}
	})
	err := fn(ctx)
	stop()
	wg.Wait()
	if err != nil && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	return err
}

func (s *Sidecar) renewFailed(err error) {
	s.o.Log.Warn("the lease could not be renewed", "error", err)
}

// adopt goes on with the directory as it is.
func (s *Sidecar) adopt(ctx context.Context, sit Situation, plan Plan) (Plan, error) {
	st := s.newState()
	if sit.State != nil {
		st.Version, st.Mark, st.Pending = sit.State.Version, sit.State.Mark, sit.State.Pending
	}
	if plan.Action == Use {
		st.Version, st.Mark, st.Pending = plan.Version.ID, plan.Version.Mark, ""
	}
	if err := s.dir.writeState(st); err != nil {
		return failed(ctx, "write the state file", err)
	}
	// What was lost is measured by the last good version, not by one that is held.
	for i := len(sit.Versions) - 1; i >= 0; i-- {
		if v := sit.Versions[i]; !v.Held {
			s.last = &v
			break
		}
	}
	return plan, nil
}

func (s *Sidecar) newState() State {
	st := s.dir.identity()
	st.Holder = s.lease.Record().Holder
	return st
}

// Close releases the lease and closes the target. ctx bounds it.
func (s *Sidecar) Close(ctx context.Context) error {
	var err error
	if s.lease != nil {
		if err = s.lease.Release(ctx); firn.KindOf(err) == firn.Conflict {
			err = nil // it is another's
		}
	}
	if s.target != nil {
		err = errors.Join(err, s.target.Close())
	}
	if s.dir != nil {
		err = errors.Join(err, s.dir.Close())
	}
	return err
}

func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// short is enough of an id for people.
func short(id string) string {
	if len(id) > 12 {
		return id[:12]
	}
	return id
}
