package sidecar

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"

	"firn"
	"firn/archive"
	"firn/archive/scan"
	"firn/blob"
	"firn/repo"
)

// Notes in the snapshots of a sidecar.
const (
	noteName  = "firn.sidecar"
	noteMark  = "firn.sidecar.mark"
	noteLease = "firn.sidecar.lease"
	noteSeq   = "firn.sidecar.seq"
	noteFiles = "firn.sidecar.files"
	noteBytes = "firn.sidecar.bytes"
	noteHeld  = "firn.sidecar.held"
)

// heldTag is the tag of versions that are held.
const heldTag = "held"

// RepoTarget keeps versions as snapshots of a repository.
type RepoTarget struct {
	r     *repo.Repo
	name  string
	rules Rules
	opt   RepoOptions
}

// RepoOptions are settings of a RepoTarget.
type RepoOptions struct {
	// CopyDatabases stores SQLite databases as other files: only where nobody writes to them.
	CopyDatabases bool
	Log           *slog.Logger
}

// NewRepoTarget keeps the directory called name in r, and closes r and its store with Close.
func NewRepoTarget(r *repo.Repo, name string, rules Rules, o RepoOptions) *RepoTarget {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return &RepoTarget{r, name, rules, o}
}

// Repo is the repository.
func (t *RepoTarget) Repo() *repo.Repo { return t.r }

// Name is the place's.
func (t *RepoTarget) Name() string { return t.r.Store().Name() }

// Leases is the repository's own place.
func (t *RepoTarget) Leases() (*blob.Store, string) { return t.r.Store(), LeasePrefix(t.name) }

// LeasePrefix is where the lease of a sidecar is in its place.
func LeasePrefix(name string) string { return "sidecar/" + name }

// CheckName fails for what cannot be a sidecar's name.
func CheckName(name string) error {
	bad := func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && !strings.ContainsRune("-_.", r)
	}
	if name == "" || len(name) > 100 || name == "." || name == ".." || strings.ContainsFunc(name, bad) {
		return firn.NewError(firn.Invalid, "a sidecar's name is 1 to 100 letters, digits, dots, - and _")
	}
	return nil
}

// Close closes the repository and its place.
func (t *RepoTarget) Close() error { return errors.Join(t.r.Close(), t.r.Store().Close()) }

// Versions lists the snapshots of this name.
func (t *RepoTarget) Versions(ctx context.Context) ([]Version, bool, error) {
	snaps, err := t.r.Snapshots(ctx)
	if err != nil {
		return nil, false, err
	}
	var all []Version
	others := false
	for _, s := range snaps {
		if s.Meta[noteName] != t.name {
			others = true
			continue
		}
		v, err := version(s)
		if err != nil {
			return nil, false, firn.E("read snapshot", s.ID.Short(), err)
		}
		all = append(all, v)
	}
	slices.SortStableFunc(all, order)
	return all, others, nil
}

func order(a, b Version) int {
	switch {
	case a.Before(b):
		return -1
	case b.Before(a):
		return 1
	}
	return 0
}

func version(s repo.Snapshot) (Version, error) {
	v := Version{ID: s.ID.String(), Time: s.Time, Mark: s.Meta[noteMark], Held: s.Meta[noteHeld] != ""}
	var err error
	number := func(note string) uint64 {
		n, nerr := strconv.ParseUint(s.Meta[note], 10, 63)
		if nerr != nil {
			err = firn.NewError(firn.Corrupt, fmt.Sprintf("its note %s is no number", note))
		}
		return n
	}
	v.Lease, v.Seq = number(noteLease), number(noteSeq)
	v.Files, v.Bytes = int64(number(noteFiles)), int64(number(noteBytes))
	return v, err
}

// notes are v's in a snapshot.
func (t *RepoTarget) notes(v Version) map[string]string {
	n := map[string]string{
		noteName: t.name, noteMark: v.Mark, noteLease: fmt.Sprint(v.Lease), noteSeq: fmt.Sprint(v.Seq),
		noteFiles: fmt.Sprint(v.Files), noteBytes: fmt.Sprint(v.Bytes),
	}
	if v.Held {
		n[noteHeld] = "yes"
	}
	return n
}

func (t *RepoTarget) tags(v Version) []string {
	tags := []string{"sidecar", t.name}
	if v.Held {
		tags = append(tags, heldTag)
	}
	return tags
}

// Backup makes a snapshot.
func (t *RepoTarget) Backup(ctx context.Context, dir string, v Version) (Version, int64, error) {
	var problems atomic.Int64
	report := func(e archive.Event) {
		if _, log := archive.DatabaseLog(e.Path); log && e.What == archive.EventChanged {
			return // of a database that is written to, whose content came from SQLite
		}
		problems.Add(1)
		t.report(e)
	}
	res, err := archive.Backup(ctx, t.r, archive.BackupOptions{
		Paths: []string{dir}, Scan: scan.Options{Excludes: t.rules.At(dir)}, Host: t.name, Tags: t.tags(v), Meta: t.notes(v),
		CopyDatabases: t.opt.CopyDatabases, Report: report,
	})
	if err != nil {
		return v, 0, err
	}
	snap := res.Snapshot
	if !v.Held && res.Summary.Files < v.Files/2 {
		// It lost its files after it was looked at, or cannot be read.
		v.Held = true
		if snap, err = t.r.Tag(ctx, snap.ID, func(s *repo.Snapshot) { s.Tags, s.Meta = t.tags(v), t.notes(v) }); err != nil {
			return v, 0, err
		}
	}
	v.ID, v.Time = snap.ID.String(), snap.Time
	return v, problems.Load(), nil
}

func (t *RepoTarget) report(e archive.Event) {
	switch e.What {
	case archive.EventUnreadable, archive.EventWarning:
		t.opt.Log.Warn(e.What, "path", e.Path, "error", e.Err)
	case archive.EventChanged:
		t.opt.Log.Warn("changed while it was read: what is stored may be a mixture", "path", e.Path)
	}
}

// options of a restore of s to dir that leaves alone what the sidecar does not keep.
func (t *RepoTarget) options(s repo.Snapshot, dir string) (archive.RestoreOptions, error) {
	if len(s.Paths) != 1 {
		return archive.RestoreOptions{}, firn.NewError(firn.Corrupt, fmt.Sprintf("snapshot %s is not of one directory", s.ID.Short()))
	}
	return archive.RestoreOptions{
		Target: dir, Path: strings.Trim(s.Paths[0], "/"), Exclude: t.rules.At(s.Paths[0]), Delete: true, Report: t.report,
	}, nil
}

// Restore makes dir hold what the snapshot holds, and reads it back.
func (t *RepoTarget) Restore(ctx context.Context, v Version, dir string) error {
	s, err := t.r.Snapshot(ctx, v.ID)
	if err != nil {
		return err
	}
	o, err := t.options(s, dir)
	if err != nil {
		return err
	}
	o.Verify = true
	sum, err := archive.Restore(ctx, t.r, s, o)
	if err == nil && sum.Failed > 0 {
		err = firn.NewError(firn.Internal, fmt.Sprintf("%d files could not be restored: the log says which", sum.Failed))
	}
	return err
}

// Changed compares by size and time, without reading content.
func (t *RepoTarget) Changed(ctx context.Context, v Version, dir string) (bool, error) {
	s, err := t.r.Snapshot(ctx, v.ID)
	if err != nil {
		return false, err
	}
	o, err := t.options(s, dir)
	if err != nil {
		return false, err
	}
	o.DryRun = true
	sum, err := archive.Restore(ctx, t.r, s, o)
	return sum.New+sum.Modified+sum.Deleted > 0, err
}

// Again makes a snapshot of the same tree.
func (t *RepoTarget) Again(ctx context.Context, old, v Version) (Version, error) {
	s, err := t.r.Snapshot(ctx, old.ID)
	if err != nil {
		return v, err
	}
	closing, release := repo.Closing(ctx)
	defer release()
	session, err := t.r.NewSession(ctx, repo.SessionOptions{Purpose: "rollback"})
	if err != nil {
		return v, err
	}
	s.Parent, s.Time = s.ID, v.Time
	s.Tags, s.Meta = append(t.tags(v), "rollback"), t.notes(v)
	if s, err = session.Commit(ctx, s); err != nil {
		return v, errors.Join(err, session.Abort(closing))
	}
	v.ID = s.ID.String()
	return v, nil
}

// Forget forgets snapshots. An append-only repository keeps them.
func (t *RepoTarget) Forget(ctx context.Context, versions []Version) error {
	if t.r.AppendOnly() {
		return nil
	}
	ids := make([]repo.ID, len(versions))
	for i, v := range versions {
		var err error
		if ids[i], err = repo.ParseID(v.ID); err != nil {
			return err
		}
	}
	return t.r.Forget(ctx, ids...)
}

// Tend prunes the repository.
func (t *RepoTarget) Tend(ctx context.Context) error {
	if t.r.AppendOnly() {
		return nil
	}
	_, err := t.r.Prune(ctx, repo.PruneOptions{})
	return err
}
