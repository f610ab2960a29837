package sidecar

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/dustin/go-humanize"

	"firn"
	"firn/archive/gittree"
	"firn/archive/sqltree"
	"firn/blob"
)

// revision is one commit or revision of a plain tree.
type revision struct {
	id   string
	time time.Time
	note string
}

// plain is what keeps a directory's files readable: a Git branch, or a database.
type plain interface {
	// commit stores dir with a note; changed is false where the newest revision is the same, which id then is.
	commit(ctx context.Context, dir, note string, skip func(string, bool) bool, report func(string, error)) (id string, changed bool, err error)
	// checkout writes a revision to an empty directory.
	checkout(ctx context.Context, id, dir string, report func(string, error)) error
	// log returns the newest revisions, the newest first.
	log(ctx context.Context, n int) ([]revision, error)
	close() error
}

// PlainTarget keeps versions as readable files.
type PlainTarget struct {
	p      plain
	name   string // URL
	leases *blob.Store
	prefix string
	rules  Rules
	logger *slog.Logger
	// few: the tree forgets old revisions by itself, so that held ones must not push the good ones out.
	few bool
}

// maxLog is how many versions of a plain tree are looked at.
const maxLog = 200

// NewGitTarget keeps a directory as commits of a branch. The lease is in leases. Both are closed with the target.
func NewGitTarget(r *gittree.Repo, url, name string, leases *blob.Store, rules Rules, log *slog.Logger) *PlainTarget {
	return newPlain(gitPlain{r}, url, name, leases, rules, log)
}

// NewSQLTarget keeps a directory as rows of a database, which must keep two revisions at least. The lease is in leases. Both are closed with the target.
func NewSQLTarget(t *sqltree.Tree, url, name string, leases *blob.Store, rules Rules, log *slog.Logger) *PlainTarget {
	p := newPlain(sqlPlain{t}, url, name, leases, rules, log)
	p.few = true
	return p
}

func newPlain(p plain, url, name string, leases *blob.Store, rules Rules, log *slog.Logger) *PlainTarget {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &PlainTarget{p: p, name: url, leases: leases, prefix: LeasePrefix(name), rules: rules, logger: log}
}

// Name is the URL.
func (t *PlainTarget) Name() string { return t.name }

// Leases is a place beside the files.
func (t *PlainTarget) Leases() (*blob.Store, string) { return t.leases, t.prefix }

// Close closes tree and lease.
func (t *PlainTarget) Close() error { return errors.Join(t.p.close(), t.leases.Close()) }

// notePrefix begins the line of a note that says what a version is.
const notePrefix = "Firn-Sidecar: "

// note words v for people, and for ParseNote.
func note(v Version, what string) string {
	b, err := json.Marshal(Version{Mark: v.Mark, Lease: v.Lease, Seq: v.Seq, Files: v.Files, Bytes: v.Bytes, Held: v.Held, Time: v.Time})
	if err != nil {
		return what // cannot be: it is a struct of strings and numbers
	}
	return fmt.Sprintf("%s: %d files, %s\n\n%s%s", what, v.Files, humanize.IBytes(uint64(max(v.Bytes, 0))), notePrefix, b)
}

// ParseNote reads what note wrote. ok is false for a text without it.
func ParseNote(text string) (v Version, ok bool) {
	for line := range strings.Lines(text) {
		if s, found := strings.CutPrefix(strings.TrimSpace(line), notePrefix); found {
			if json.Unmarshal([]byte(s), &v) == nil && v.Mark != "" && v.Files >= 0 && v.Bytes >= 0 {
				v.ID = ""
				return v, true
			}
		}
	}
	return Version{}, false
}

// Versions lists the revisions. What others committed is a version too, known by its own name.
func (t *PlainTarget) Versions(ctx context.Context) ([]Version, bool, error) {
	revs, err := t.p.log(ctx, maxLog)
	if err != nil {
		return nil, false, err
	}
	var all []Version
	for _, r := range slices.Backward(revs) {
		v, ok := ParseNote(r.note)
		if !ok {
			// Its size is not known, only that it is no accident of a sidecar's.
			v = Version{Mark: "revision " + r.id, Files: 1}
			if len(all) > 0 {
				v.Lease, v.Seq = all[len(all)-1].Lease, all[len(all)-1].Seq
			}
		}
		v.ID, v.Time = r.id, r.time
		all = append(all, v)
	}
	return all, false, nil
}

// Backup commits, after SQLite databases were copied through SQLite.
func (t *PlainTarget) Backup(ctx context.Context, dir string, v Version) (Version, int64, error) {
	if v.Held && t.few {
		versions, _, err := t.Versions(ctx)
		if err != nil {
			return v, 0, err
		}
		if n := len(versions); n > 0 && versions[n-1].Held {
			return versions[n-1], 0, nil
		}
	}
	return t.store(ctx, dir, v, "backup")
}

func (t *PlainTarget) store(ctx context.Context, dir string, v Version, what string) (Version, int64, error) {
	staged, err := stage(ctx, dir, t.rules.Skip())
	if err != nil {
		return v, 0, err
	}
	if staged != "" {
		defer os.RemoveAll(staged) // what cannot be removed is in the directory for temporary files
		dir = staged
	}
	var problems int64
	id, changed, err := t.p.commit(ctx, dir, note(v, what), t.rules.Skip(), func(path string, err error) {
		problems++
		t.logger.Warn("could not be kept as it is", "path", path, "error", err)
	})
	if err != nil {
		return v, 0, err
	}
	if changed {
		v.ID = id
		return v, problems, nil
	}
	// There is no new revision: the version is the newest one there.
	versions, _, err := t.Versions(ctx)
	if err != nil {
		return v, 0, err
	}
	same, err := Find(versions, id)
	return same, problems, err
}

// Restore checks a version out beside the directory's content, and then puts it in its place.
func (t *PlainTarget) Restore(ctx context.Context, v Version, dir string) error {
	// In the directory, so that it is on the same file system; under a name that no backup has.
	fresh := filepath.Join(dir, stateTemp+".restore")
	if err := os.RemoveAll(fresh); err != nil {
		return blob.FileError(err)
	}
	if err := t.checkout(ctx, v, fresh); err != nil {
		return err
	}
	return replace(dir, fresh, t.rules.Skip())
}

func (t *PlainTarget) checkout(ctx context.Context, v Version, dir string) error {
	return t.p.checkout(ctx, v.ID, dir, func(path string, err error) {
		t.logger.Warn("could not be restored as it was", "path", path, "error", err)
	})
}

// Changed compares the directory with a version that it checks out.
func (t *PlainTarget) Changed(ctx context.Context, v Version, dir string) (bool, error) {
	temp, err := os.MkdirTemp("", "firn-compare-")
	if err != nil {
		return false, err
	}
	defer os.RemoveAll(temp)
	if err := t.checkout(ctx, v, filepath.Join(temp, "version")); err != nil {
		return false, err
	}
	was, err := contents(ctx, filepath.Join(temp, "version"), t.rules)
	if err != nil {
		return false, err
	}
	is, err := contents(ctx, dir, t.rules)
	return was != is, err
}

// Again commits what an old version held.
func (t *PlainTarget) Again(ctx context.Context, old, v Version) (Version, error) {
	temp, err := os.MkdirTemp("", "firn-rollback-")
	if err != nil {
		return v, err
	}
	defer os.RemoveAll(temp)
	dir := filepath.Join(temp, "version")
	if err := t.checkout(ctx, old, dir); err != nil {
		return v, err
	}
	v, _, err = t.store(ctx, dir, v, "roll back to "+short(old.ID))
	return v, err
}

// Forget does nothing: Git keeps its history, and a database as many revisions as it was opened for.
func (t *PlainTarget) Forget(context.Context, []Version) error { return nil }

// Tend does nothing.
func (t *PlainTarget) Tend(context.Context) error { return nil }

type gitPlain struct{ r *gittree.Repo }

func (g gitPlain) commit(ctx context.Context, dir, note string, skip func(string, bool) bool, report func(string, error)) (string, bool, error) {
	return g.r.Commit(ctx, dir, gittree.CommitOptions{Subject: note, Skip: skip, Report: report})
}

func (g gitPlain) checkout(ctx context.Context, id, dir string, report func(string, error)) error {
	return g.r.Checkout(ctx, id, dir, report)
}

func (g gitPlain) log(ctx context.Context, n int) ([]revision, error) {
	commits, err := g.r.Log(ctx, n)
	var all []revision
	for _, c := range commits {
		all = append(all, revision{c.Rev, c.Time, c.Message})
	}
	return all, err
}

func (g gitPlain) close() error { return g.r.Close() }

type sqlPlain struct{ t *sqltree.Tree }

func (s sqlPlain) commit(ctx context.Context, dir, note string, skip func(string, bool) bool, report func(string, error)) (string, bool, error) {
	rev, changed, err := s.t.Commit(ctx, dir, sqltree.CommitOptions{Note: note, Skip: skip, Report: report})
	return strconv.FormatInt(rev.ID, 10), changed, err
}

func (s sqlPlain) checkout(ctx context.Context, id, dir string, report func(string, error)) error {
	rev, err := strconv.ParseInt(id, 10, 64)
	if err != nil {
		return firn.NewError(firn.Invalid, "a revision is a number")
	}
	return s.t.Checkout(ctx, rev, dir, report)
}

func (s sqlPlain) log(ctx context.Context, n int) ([]revision, error) {
	revs, err := s.t.Log(ctx, n)
	var all []revision
	for _, r := range revs {
		all = append(all, revision{strconv.FormatInt(r.ID, 10), r.Made, r.Note})
	}
	return all, err
}

func (s sqlPlain) close() error { return s.t.Close() }
