package sidecar

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"firn"
	"firn/archive/lease"
	"firn/blob"
)

// request asks the loop of Keep for something.
type request struct {
	what   string // accept, backup or rollback
	rev    string
	answer chan error // buffered
}

// Do has Keep accept what the directory lost, back it up at once, or roll it back to a version at the next start. It
// fails with firn.Unavailable where Keep does not run.
func (s *Sidecar) Do(ctx context.Context, what, rev string) error {
	r := request{what, rev, make(chan error, 1)}
	quiet := time.NewTimer(time.Minute)
	defer quiet.Stop()
	select {
	case s.requests <- r:
	case <-ctx.Done():
		return ctx.Err()
	case <-quiet.C:
		return firn.NewError(firn.Unavailable, "the sidecar is busy, or does not back up now: see its status")
	}
	select {
	case err := <-r.answer:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Keep backs the directory up until ctx ends, and then once more within the grace period. It returns nil if the last
// backup holds all, and fails with firn.Conflict as soon as another sidecar has become the writer.
func (s *Sidecar) Keep(ctx context.Context) error {
	// Work that is under way when ctx ends is finished, within the grace period.
	work, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	defer cancel(nil)
	defer context.AfterFunc(ctx, func() {
		s.setStatus(func(t *Status) { t.Phase = Stopping })
		_ = pause(work, s.o.Grace) // ends early with the work
		cancel(firn.NewError(firn.Unavailable, fmt.Sprintf("the grace period of %s was over", s.o.Grace)))
	})()
	s.renew(work, cancel)
	err := s.loop(ctx, work)
	s.renewing.stop()
	s.renewing.done.Wait()
	s.setStatus(func(t *Status) {
		t.Ready = false
		if t.Phase != Superseded {
			t.Phase = Stopped
		}
	})
	return err
}

// renew keeps the lease, and has cancel end all work where another sidecar took it. Where the backups were moved, the
// loop is told.
func (s *Sidecar) renew(work context.Context, cancel context.CancelCauseFunc) {
	l := s.lease
	run, stop := context.WithCancel(work)
	s.renewing.stop, s.renewing.work, s.renewing.cancel = stop, work, cancel
	s.renewing.done.Go(func() {
		err := l.Run(run, s.renewFailed)
		switch {
		case err == nil:
		case mayGoOn(err):
			s.moved <- err // holds one; there is one for each lease
		default:
			cancel(err)
		}
	})
}

// loop is all that happens while the service runs, one thing after the other.
func (s *Sidecar) loop(ctx, work context.Context) error {
	changed := make(<-chan struct{})
	if !s.o.NoWatch {
		w, err := watch(s.o.Dir, s.o.Rules, s.o.MaxWatches, func(err error) {
			s.o.Log.Warn("not all of the directory can be watched: changes there are found at the interval", "error", err)
		})
		if err != nil {
			s.o.Log.Warn("the directory cannot be watched: changes are found at the interval", "error", err)
		} else {
			defer w.Close()
			changed = w.wake
		}
	}
	interval := time.NewTicker(s.o.Interval)
	defer interval.Stop()
	// The first is made at once: what is there may differ from the last version, and be there the first time.
	quiet := time.NewTimer(0)
	defer quiet.Stop()
	var first time.Time // change that was not backed up
	var retry time.Duration
	for {
		var err error
		select {
		case <-ctx.Done():
			return s.final(work)
		case <-work.Done():
			if err := context.Cause(work); firn.KindOf(err) == firn.Conflict {
				return s.superseded(work, err)
			}
			return context.Cause(work)
		case s.wasMoved = <-s.moved:
			err = s.tick(work, false, true)
		case <-changed:
			now := time.Now()
			if first.IsZero() {
				first = now
			}
			quiet.Reset(min(s.o.Debounce, max(first.Add(10*s.o.Debounce).Sub(now), 0)))
			continue
		case <-quiet.C:
			err = s.tick(work, false, false)
		case <-interval.C:
			err = s.tick(work, false, false)
		case r := <-s.requests:
			err = s.do(work, r)
		}
		first = time.Time{}
		quiet.Stop()
		if err != nil {
			return err
		}
		if s.Status().Failures > 0 {
			retry = min(max(2*retry, time.Second), s.o.Interval)
			quiet.Reset(retry)
		} else {
			retry = 0
		}
	}
}

// final is the last backup. It fails where not all is backed up.
func (s *Sidecar) final(work context.Context) error {
	for delay := 250 * time.Millisecond; ; delay *= 2 {
		if err := s.tick(work, false, false); err != nil {
			return err
		}
		t := s.Status()
		if t.RolledBack != "" {
			return nil // the next start restores what is to be kept
		}
		if t.Failures == 0 || t.Held { // what is held does not pass
			if t.Reason != "" {
				return firn.E("the last backup of", s.o.Dir, firn.NewError(firn.Conflict, t.Reason))
			}
			s.o.Log.Info("the last backup holds all", "version", short(t.Version))
			return nil
		}
		if err := pause(work, delay); err != nil {
			return &firn.Error{Kind: firn.Unavailable, Op: "the last backup of", Subject: s.o.Dir, Err: fmt.Errorf("%w: %s", context.Cause(work), t.Reason)}
		}
	}
}

func (s *Sidecar) do(ctx context.Context, r request) error {
	var err error
	switch r.what {
	case "accept":
		if s.dir.lost(s.lease.Record().Holder) != nil {
			st := s.newState()
			if s.last != nil {
				st.Version, st.Mark = s.last.ID, s.last.Mark
			}
			if err := s.dir.writeState(st); err != nil {
				r.answer <- err
				return nil
			}
		}
		err = s.tick(ctx, true, true)
	case "backup":
		err = s.tick(ctx, false, true)
	case "rollback":
		r.answer <- s.rollback(ctx, r.rev)
		return nil
	}
	if t := s.Status(); err == nil && (t.Failures > 0 || t.Held) {
		r.answer <- firn.NewError(firn.Conflict, t.Reason)
	} else {
		r.answer <- err
	}
	return err
}

// tick looks at the directory and does what is to be done. It returns an error only where the sidecar must end; other
// failures are told by status, metrics and log, and tried again.
func (s *Sidecar) tick(ctx context.Context, accepted, forced bool) error {
	if s.Status().RolledBack != "" {
		return nil // what the directory holds is not to be kept
	}
	if s.wasMoved != nil {
		return s.superseded(ctx, s.wasMoved)
	}
	if s.o.Pre != nil {
		if err := s.o.Pre(ctx); err != nil {
			s.failure(fmt.Errorf("the command before the backup: %w", err))
			return nil
		}
	}
	err := s.judge(ctx, accepted, forced)
	if s.o.Post != nil {
		if perr := s.o.Post(ctx); perr != nil {
			s.o.Log.Warn("the command after the backup failed", "error", perr)
		}
	}
	return err
}

func (s *Sidecar) judge(ctx context.Context, accepted, forced bool) error {
	m := Moment{Last: s.last, Shrink: s.o.Shrink, Accepted: accepted, Forced: forced}
	if m.Lost = s.dir.lost(s.lease.Record().Holder); m.Lost == nil || accepted {
		m.Now, m.SurveyErr = s.dir.survey(ctx)
	}
	if s.baseline != (Survey{}) {
		m.Before = &s.baseline
	}
	deed, why := DecideBackup(m)
	if deed == Hold {
		// A file that is being written anew may have been seen empty: an accident lasts.
		if err := pause(ctx, min(s.o.Debounce, 2*time.Second)); err != nil {
			s.failure(err)
			return nil
		}
		m.Now, m.SurveyErr = s.dir.survey(ctx)
		deed, why = DecideBackup(m)
	}
	s.metrics.surveyed(m.Now)
	switch deed {
	case Refuse:
		s.failure(errors.New(why))
		s.setStatus(func(t *Status) { t.Held = m.Lost != nil })
		s.metrics.held.Set(flag(m.Lost != nil))
		return nil
	case Nothing:
		s.setStatus(func(t *Status) { t.Failures, t.Checked, t.Held, t.Reason = 0, time.Now(), why != "", why })
		s.metrics.held.Set(flag(why != ""))
		return nil
	}
	err := s.backup(ctx, m.Now, deed == Hold, why)
	switch {
	case err == nil:
	case firn.KindOf(err) == firn.Conflict:
		return s.superseded(ctx, err)
	case firn.KindOf(err) == firn.NoSpace:
		// What was forgotten may be all that is missing.
		err = errors.Join(err, s.tend(ctx))
		s.failure(err)
	default:
		s.failure(err)
	}
	return nil
}

func flag(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

func (s *Sidecar) failure(err error) {
	s.metrics.backups.WithLabelValues("failed").Inc()
	s.setStatus(func(t *Status) {
		t.Failures++
		t.Reason = err.Error()
	})
	s.o.Log.Error("no backup", "error", err)
}

// fence fails with firn.Conflict where another sidecar has become the writer, or the backups were moved.
func (s *Sidecar) fence(ctx context.Context) error { return s.lease.Check(ctx) }

// backup makes a version of what the directory holds. Its order is what start relies on after a crash: the mark is in
// the state file before a version with it can be, and the version is acknowledged in the state file before anything
// older is forgotten.
func (s *Sidecar) backup(ctx context.Context, now Survey, held bool, why string) error {
	if err := s.fence(ctx); err != nil {
		return err
	}
	st, err := s.dir.readState()
	if err != nil || st == nil {
		return errors.Join(errors.New("the state file went away"), err)
	}
	begin := time.Now()
	v := s.next(now, held)
	st.Pending = v.Mark
	if err := s.dir.writeState(*st); err != nil {
		return fmt.Errorf("write the state file: %w", err)
	}
	s.setStatus(func(t *Status) { t.Busy = true })
	defer s.setStatus(func(t *Status) { t.Busy = false })
	v, problems, err := s.target.Backup(ctx, s.o.Dir, v)
	if err != nil {
		return err
	}
	if err := s.fence(ctx); err != nil {
		if firn.KindOf(err) == firn.Conflict {
			// It came too late, and is older than anything the other one writes; better it is not there at all.
			err = errors.Join(err, s.target.Forget(ctx, []Version{v}))
		}
		return err
	}
	st.Version, st.Mark, st.Pending = v.ID, v.Mark, ""
	if err := s.dir.writeState(*st); err != nil {
		return fmt.Errorf("write the state file: %w", err)
	}
	if held = v.Held; !held {
		s.last = &v
	} else if why == "" {
		why = "the directory lost much while it was backed up"
	}
	s.baseline = now
	took := time.Since(begin)
	s.setStatus(func(t *Status) {
		t.Failures, t.Held, t.Reason, t.Checked = 0, held, why, time.Now()
		t.Problems = problems
		t.LastBackup, t.LastTook = v.Time, Duration(took)
		if !held {
			t.Version, t.Files, t.Bytes = v.ID, v.Files, v.Bytes
		}
	})
	s.metrics.backedUp(v, took, problems)
	if held {
		s.o.Log.Error("HELD: the directory suddenly lost much; all good versions are kept until 'firn sidecar accept'", "why", why, "version", short(v.ID))
	} else {
		s.o.Log.Info("backed up", "version", short(v.ID), "files", v.Files, "bytes", v.Bytes, "took", took.Round(time.Millisecond))
	}
	if problems > 0 {
		s.o.Log.Warn("some files could not be backed up as they are", "problems", problems)
	}
	return s.forget(ctx)
}

// next is the version that is to be made.
func (s *Sidecar) next(now Survey, held bool) Version {
	var mark [16]byte
	_, _ = rand.Read(mark[:]) // never fails
	s.seq++
	return Version{
		Time: time.Now().UTC(), Mark: hex.EncodeToString(mark[:]), Lease: s.lease.Number(), Seq: s.seq,
		Files: now.Files, Bytes: now.Bytes, Held: held,
	}
}

// forget removes versions beyond those that are kept. That it fails is no reason to doubt the backup.
func (s *Sidecar) forget(ctx context.Context) error {
	if s.keepAll {
		return nil
	}
	versions, _, err := s.target.Versions(ctx)
	if err == nil {
		s.metrics.versions.Set(float64(len(versions)))
		if gone := PlanForget(versions, s.o.Keep); len(gone) > 0 {
			if err := s.fence(ctx); err != nil {
				return err
			}
			err = s.target.Forget(ctx, gone)
		}
	}
	if err != nil {
		s.o.Log.Warn("old versions could not be removed", "error", err)
		return nil
	}
	if s.tended.IsZero() {
		s.tended = time.Now()
	}
	if s.o.Tend > 0 && time.Since(s.tended) >= s.o.Tend && !s.Status().Held {
		if err := s.tend(ctx); err != nil {
			s.o.Log.Warn("the space of old versions could not be freed", "error", err)
		}
	}
	return nil
}

func (s *Sidecar) tend(ctx context.Context) error {
	s.tended = time.Now()
	return s.target.Tend(ctx)
}

// mayGoOn reports whether a sidecar that lost its lease for cause may find another one: where its backups were moved, or
// where they were, after a move that failed or was taken back.
func mayGoOn(cause error) bool {
	var by *lease.Superseded
	return errors.As(cause, &by) && (by.By.Moved != "" || by.By.Released)
}

// superseded ends the sidecar, or has it go on where its backups are after a move. cause is a firn.Conflict.
func (s *Sidecar) superseded(ctx context.Context, cause error) error {
	if !mayGoOn(cause) {
		return s.end(cause)
	}
	// From now on nothing is written under the lease that was lost.
	s.wasMoved = cause
	r, err := lease.Look(ctx, s.leaseStore(), s.leasePrefix())
	switch {
	case err != nil:
		s.failure(fmt.Errorf("the backups may have been moved: %w", err))
		return nil
	case r.Moved == "": // the move was taken back
		err = s.back(ctx)
	case r.Moving:
		s.failure(fmt.Errorf("the backups are being moved to %s", r.Moved))
		return nil
	default:
		err = s.follow(ctx, r.Moved, 0)
	}
	switch {
	case err == nil:
		return s.tick(ctx, false, true)
	case firn.KindOf(err) == firn.Conflict:
		return s.end(errors.Join(err, cause))
	}
	s.failure(err)
	return nil
}

// end ends the sidecar for good.
func (s *Sidecar) end(cause error) error {
	s.setStatus(func(t *Status) { t.Phase, t.Ready, t.Reason = Superseded, false, cause.Error() })
	s.o.Log.Error("stopped: another sidecar has become the writer", "error", cause)
	return firn.E("back up", s.o.Dir, cause)
}

func (s *Sidecar) leaseStore() *blob.Store {
	store, _ := s.target.Leases()
	return store
}

func (s *Sidecar) leasePrefix() string {
	_, prefix := s.target.Leases()
	return prefix
}

// errNotOurs is why the sidecar does not go on in a place.
func errNotOurs() error {
	return firn.NewError(firn.Conflict, "the last version there is not the directory's")
}

// ours returns the last good version of t, and the directory's state. It fails with firn.Conflict where the last version
// is not the one that the directory came from: somebody else has written.
func (s *Sidecar) ours(ctx context.Context, t Target) (*Version, *State, error) {
	versions, _, err := t.Versions(ctx)
	if err != nil {
		return nil, nil, err
	}
	st, err := s.dir.readState()
	if err != nil || st == nil {
		return nil, nil, errors.Join(errors.New("the state file went away"), err)
	}
	if len(versions) == 0 && !st.came() {
		return nil, st, nil
	}
	good := lastGood(versions)
	if good == nil || !st.is(good.Mark) && !st.is(versions[len(versions)-1].Mark) {
		return nil, nil, errNotOurs()
	}
	return good, st, nil
}

// back goes on where the backups were, after a move of them failed or was taken back. It fails with firn.Conflict where
// another sidecar has come meanwhile.
func (s *Sidecar) back(ctx context.Context) error {
	l, err := lease.Acquire(ctx, s.leaseStore(), s.leasePrefix(), lease.Options{TTL: s.o.TTL, Info: s.o.Info, Fail: true})
	switch {
	case errors.Is(err, lease.ErrMoved): // again
		return firn.NewError(firn.Unavailable, "the backups are being moved")
	case firn.KindOf(err) == firn.Locked:
		return &firn.Error{Kind: firn.Conflict, Err: err}
	case err != nil:
		return fmt.Errorf("a move of the backups was taken back, and the lease cannot be had: %w", err)
	}
	_, st, err := s.ours(ctx, s.target)
	if err == nil {
		st.Holder = l.Record().Holder
		err = s.dir.writeState(*st)
	}
	if err != nil {
		return errors.Join(err, l.Release(ctx))
	}
	s.use(s.target, l)
	return nil
}

// use goes on with another lease.
func (s *Sidecar) use(t Target, l *lease.Lease) {
	s.renewing.stop()
	s.renewing.done.Wait()
	select {
	case <-s.moved: // of the lease before
	default:
	}
	s.target, s.lease, s.seq, s.wasMoved = t, l, 0, nil
	s.renew(s.renewing.work, s.renewing.cancel)
}

// follow goes on with backups that were moved, perhaps more than once. It fails with firn.Conflict where the last version
// there is not the one that the directory came from.
func (s *Sidecar) follow(ctx context.Context, url string, moves int) (err error) {
	t, err := s.o.Open(ctx, url, false)
	if err != nil {
		return fmt.Errorf("the backups were moved to %s, which cannot be used: %w", url, err)
	}
	defer func() {
		if t != nil {
			_ = t.Close() // the first error counts
		}
	}()
	store, prefix := t.Leases()
	l, err := lease.Acquire(ctx, store, prefix, lease.Options{TTL: s.o.TTL, Info: s.o.Info, Fail: true})
	if errors.Is(err, lease.ErrMoved) {
		r, err := lease.Look(ctx, store, prefix)
		switch {
		case err != nil:
			return err
		case r.Moving || r.Moved == "" || moves == maxMoves:
			return firn.NewError(firn.Unavailable, "the backups are being moved to "+r.Moved)
		}
		return s.follow(ctx, r.Moved, moves+1)
	}
	if err != nil {
		return fmt.Errorf("the backups were moved to %s, and the lease there cannot be had: %w", url, err)
	}
	good, st, err := s.ours(ctx, t)
	if err == nil && good == nil {
		err = errNotOurs()
	}
	if err != nil {
		return errors.Join(err, l.Release(ctx))
	}
	old := s.target
	s.use(t, l)
	s.last, t = good, nil
	st.Holder, st.Version, st.Mark, st.Pending = l.Record().Holder, good.ID, good.Mark, ""
	s.baseline = Survey{}
	s.setStatus(func(t *Status) { t.Target = s.target.Name() })
	s.o.Log.Info("the backups were moved: going on there", "to", s.target.Name())
	return errors.Join(s.dir.writeState(*st), old.Close())
}

// rollback makes an old version the newest one, after a backup of what is there, and has the next start restore it.
func (s *Sidecar) rollback(ctx context.Context, rev string) error {
	old, err := s.find(ctx, rev)
	if err != nil {
		return err
	}
	s.keepAll = true // old may be the oldest of all
	err = s.tick(ctx, true, false)
	s.keepAll = false
	if err != nil {
		return err
	}
	if t := s.Status(); t.Failures > 0 {
		return firn.NewError(firn.Unavailable, "what is there could not be backed up first: "+t.Reason)
	}
	v, err := s.again(ctx, old)
	if err != nil {
		return err
	}
	st, err := s.dir.readState()
	if err != nil || st == nil {
		return errors.Join(errors.New("the state file went away"), err)
	}
	st.Restoring = v.ID
	if err := s.dir.writeState(*st); err != nil {
		return err
	}
	s.setStatus(func(t *Status) {
		t.RolledBack = old.ID
		t.Reason = "rolled back to " + short(old.ID) + ": what the directory holds is not backed up any more; restart sidecar and service"
	})
	s.o.Log.Warn("rolled back: restart sidecar and service to go on from there", "version", short(old.ID))
	return nil
}

func (s *Sidecar) again(ctx context.Context, old Version) (Version, error) {
	v := s.next(Survey{Files: old.Files, Bytes: old.Bytes}, false)
	if err := s.fence(ctx); err != nil {
		return v, err
	}
	return s.target.Again(ctx, old, v)
}

// find returns the version whose id begins with rev.
func (s *Sidecar) find(ctx context.Context, rev string) (Version, error) {
	versions, _, err := s.target.Versions(ctx)
	if err != nil {
		return Version{}, err
	}
	return Find(versions, rev)
}

// Rollback restores an old version, after a backup of what is there; the service must not run. It is called after Start,
// instead of Keep.
func (s *Sidecar) Rollback(ctx context.Context, rev string) error {
	return s.keepAlive(ctx, func(ctx context.Context) error {
		if err := s.rollback(ctx, rev); err != nil {
			return err
		}
		who, err := inUse(s.o.Dir)
		if err != nil {
			return err
		}
		if who != "" {
			return &firn.Error{
				Kind: firn.Conflict, Op: "restore", Subject: s.o.Dir,
				Err: fmt.Errorf("it is in use by %s: stop it; the next start restores the version", who),
			}
		}
		versions, _, err := s.target.Versions(ctx)
		if err != nil {
			return err
		}
		plan, err := s.restore(ctx, Plan{Restore, versions[len(versions)-1], "rolled back"})
		if err == nil && plan.Action == Wait {
			err = firn.NewError(firn.Unavailable, plan.Reason)
		}
		return err
	})
}
