package sidecar

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"firn"
	"firn/archive/lease"
	"firn/repo"
)

// MoveOptions are the settings of a move.
type MoveOptions struct {
	// To is the URL by which sidecars open the target; it is kept in the source.
	To string
	// Rules are the sidecar's.
	Rules Rules
	// Report is told what is done; may be nil.
	Report func(string)
	// TTL is that of the lease in the target; lease.DefaultTTL where 0.
	TTL time.Duration
}

// MoveReport says what a move did.
type MoveReport struct {
	Versions int    `json:"versions"` // that were copied now
	Skipped  int    `json:"skipped"`  // that were there, or cannot be kept there
	Last     string `json:"last"`     // id of the last good version in the target
}

// Move copies the versions of a directory to another target and makes that the one to use. Sidecars may run meanwhile:
// what they back up while the history is copied is copied too; then, for as long as the last ones take, they write nothing;
// then they go on in the target, and so does every later one that is started with the source. The last version is
// restored from both and compared before. Where anything fails the source stays the one to use.
func Move(ctx context.Context, from, to Target, o MoveOptions) (rep MoveReport, err error) {
	if o.Report == nil {
		o.Report = func(string) {}
	}
	source, sourcePrefix := from.Leases()
	target, targetPrefix := to.Leases()
	if from.Name() == to.Name() {
		return rep, firn.E("move", from.Name(), firn.NewError(firn.Invalid, "source and target are the same"))
	}
	was, err := lease.Look(ctx, source, sourcePrefix)
	if err != nil && firn.KindOf(err) != firn.NotFound {
		return rep, err
	}
	if was.Moved != "" && !was.Moving {
		return rep, firn.E("move", from.Name(), firn.NewError(firn.Conflict, "it was moved to "+was.Moved+" before"))
	}
	// Numbers of leases order versions: those of the target go on from those of the source. Two more may be drawn there
	// while this runs, by a sidecar that starts and by the move.
	closing, release := repo.Closing(ctx)
	defer release()
	there, err := lease.Acquire(ctx, target, targetPrefix, lease.Options{TTL: o.TTL, Info: "a move", Fail: true, Above: was.Number + 1000})
	if err != nil {
		return rep, err
	}
	defer func() { err = errors.Join(err, there.Release(closing)) }()
	m := mover{from, to, o, &rep}
	o.Report("copying the history")
	if err := renewed(ctx, there, m.copy); err != nil {
		return rep, err
	}
	o.Report("stopping the writer")
	here, err := lease.Acquire(ctx, source, sourcePrefix, lease.Options{Info: "a move", Seize: true, Moved: o.To, Above: was.Number})
	if errors.Is(err, lease.ErrMoved) && was.Moving {
		return rep, fmt.Errorf("%w; a move that was cut off is taken back by 'firn persist stay'", err)
	}
	if err != nil {
		return rep, err
	}
	if here.Number() >= there.Number() {
		return rep, errors.Join(firn.NewError(firn.Conflict, "the source changed hands too often meanwhile: try again"), here.Stay(closing))
	}
	err = renewed(ctx, there, func(ctx context.Context) error {
		o.Report("copying what came meanwhile")
		if err := m.copy(ctx); err != nil {
			return err
		}
		o.Report("comparing the last version")
		return m.verify(ctx)
	})
	if err == nil {
		err = here.Move(ctx, o.To, true)
	}
	if err != nil {
		return rep, errors.Join(err, here.Stay(closing))
	}
	return rep, nil
}

// Stay takes back a move that was cut off.
func Stay(ctx context.Context, from Target) error {
	store, prefix := from.Leases()
	r, err := lease.Look(ctx, store, prefix)
	if err != nil {
		return err
	}
	if r.Moved == "" || !r.Moving {
		return firn.E("stay at", from.Name(), firn.NewError(firn.Precondition, "no move was cut off there"))
	}
	return lease.TakeBack(ctx, store, prefix, r)
}

// renewed runs fn and renews the lease meanwhile.
func renewed(ctx context.Context, l *lease.Lease, fn func(context.Context) error) error {
	run, stop := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() { ended <- l.Run(run, nil) }()
	err := fn(ctx)
	stop()
	return errors.Join(err, <-ended)
}

type mover struct {
	from, to Target
	o        MoveOptions
	rep      *MoveReport
}

// copy copies the versions that are not there.
func (m *mover) copy(ctx context.Context) error {
	all, _, err := m.from.Versions(ctx)
	if err != nil {
		return err
	}
	if lastGood(all) == nil {
		return firn.E("move", m.from.Name(), firn.NewError(firn.NotFound, "there is no version of this name that could be moved"))
	}
	have, _, err := m.to.Versions(ctx)
	if err != nil {
		return err
	}
	there := map[string]bool{}
	for _, v := range have {
		if !slices.ContainsFunc(all, func(w Version) bool { return w.Mark == v.Mark }) && !m.forgotten(v, all) {
			return firn.E("move to", m.to.Name(), firn.NewError(firn.Conflict, "there are versions of this name that the source does not have"))
		}
		there[v.Mark] = true
	}
	_, plain := m.to.(*PlainTarget)
	var ids []repo.ID
	for _, v := range all {
		switch {
		case there[v.Mark] || plain && v.Held:
			m.rep.Skipped++
			continue
		}
		if r, ok := m.from.(*RepoTarget); ok && !plain {
			s, err := r.r.Snapshot(ctx, v.ID)
			if err != nil {
				return err
			}
			ids = append(ids, s.ID)
			continue
		}
		if err := m.one(ctx, v); err != nil {
			return fmt.Errorf("version %s: %w", short(v.ID), err)
		}
		m.rep.Versions++
	}
	if len(ids) == 0 {
		return nil
	}
	from, ok := m.from.(*RepoTarget)
	to, isRepo := m.to.(*RepoTarget)
	if !ok || !isRepo {
		return firn.NewError(firn.Unsupported, "these two kinds of targets cannot be copied into each other")
	}
	rep, err := from.r.CopyTo(ctx, to.r, ids...)
	m.rep.Versions += rep.Snapshots
	return err
}

// forgotten reports whether v may be one that the source had and removed since it was copied.
func (m *mover) forgotten(v Version, all []Version) bool { return v.Before(all[0]) }

// one restores a version to a scratch directory and backs it up from there.
func (m *mover) one(ctx context.Context, v Version) error {
	return scratch(func(dir string) error {
		if err := m.from.Restore(ctx, v, dir); err != nil {
			return err
		}
		_, problems, err := m.to.Backup(ctx, dir, v)
		if err == nil && problems > 0 {
			err = firn.NewError(firn.Unsupported, fmt.Sprintf("%d files cannot be kept as they are in %s", problems, m.to.Name()))
		}
		return err
	})
}

func scratch(fn func(dir string) error) error {
	temp, err := os.MkdirTemp("", "firn-move-")
	if err != nil {
		return err
	}
	dir := filepath.Join(temp, "data")
	if err = os.Mkdir(dir, 0o755); err == nil {
		err = fn(dir)
	}
	return errors.Join(err, os.RemoveAll(temp))
}

// verify restores the last good version from both and compares all of it.
func (m *mover) verify(ctx context.Context) error {
	var sums [2][32]byte
	var marks [2]string
	for i, t := range []Target{m.from, m.to} {
		all, _, err := t.Versions(ctx)
		if err != nil {
			return err
		}
		good := lastGood(all)
		if good == nil {
			return firn.E("move", t.Name(), firn.NewError(firn.Corrupt, "there is no good version"))
		}
		marks[i], m.rep.Last = good.Mark, good.ID
		if err := scratch(func(dir string) error {
			err := t.Restore(ctx, *good, dir)
			if err == nil {
				sums[i], err = contents(ctx, dir, m.o.Rules)
			}
			return err
		}); err != nil {
			return err
		}
	}
	if sums[0] != sums[1] || marks[0] != marks[1] {
		return firn.E("move to", m.to.Name(), firn.NewError(firn.Corrupt, "the last version restored from there is not what it is in the source"))
	}
	return nil
}
