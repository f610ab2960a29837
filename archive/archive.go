// Package archive backs up file trees into a repository and restores them.
//
// It promises that a file is stored as it was at one time or marked as changed, and one that could not be read is
// listed in the snapshot; that what is restored is what was stored, verified chunk by chunk; that a restore writes
// nowhere but beneath its target, whatever the snapshot or the target holds; and that memory is bounded by the number
// of processors, not by files. It knows the repository's chunks and snapshots and must never import a blob driver, the
// configuration or the command line.
package archive

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"firn"
	"firn/archive/tree"
	"firn/repo"
)

// Progress counts what was done so far. All may be read while the work goes on.
type Progress struct {
	Files, Bytes           atomic.Int64 // done
	TotalFiles, TotalBytes atomic.Int64 // to be done, as far as known; 0 where not
	Errors                 atomic.Int64
	current                atomic.Pointer[string]
}

// Current returns the path that was begun last.
func (p *Progress) Current() string {
	if s := p.current.Load(); s != nil {
		return *s
	}
	return ""
}

// Event is something a user should know of one path.
type Event struct {
	// What happened: one of the Event constants.
	What string
	// Path is absolute in the snapshot, with its leading slash.
	Path string
	// Err says more; nil for most.
	Err error
}

// What events tell.
const (
	EventUnreadable = "unreadable" // could not be read or restored; the rest goes on
	EventChanged    = "changed"    // was changed while it was read, again and again
	EventNew        = "new"        // is not in the parent snapshot, or not in the target
	EventModified   = "modified"   // differs from the parent snapshot, or from the target
	EventUnchanged  = "unchanged"  // was not read again, or not written
	EventDeleted    = "deleted"    // was removed from the target
	EventWarning    = "warning"    // something of the file could not be kept; the file was
)

// clockSlack is by how much clocks differ that nobody need look after.
const clockSlack = 5 * time.Minute

// fromFuture reports whether the clock that a snapshot's time is of, or the one that now is of, must be wrong.
func fromFuture(s *repo.Snapshot, now time.Time) bool { return s.Time.Sub(now) > clockSlack }

// latest returns the snapshot that was made last, nil for none. Its clock may have been wrong: one that is the parent of
// another was made before it, whatever the times say, and one from the future comes after those that are not.
func latest(snaps []repo.Snapshot, now time.Time) *repo.Snapshot {
	parents := map[repo.ID]bool{}
	for i := range snaps {
		parents[snaps[i].Parent] = true
	}
	var best *repo.Snapshot
	for i := range snaps {
		s := &snaps[i]
		if parents[s.ID] {
			continue
		}
		if best == nil || fromFuture(best, now) && !fromFuture(s, now) ||
			fromFuture(best, now) == fromFuture(s, now) && s.Time.After(best.Time) {
			best = s
		}
	}
	return best
}

// Locate splits a name of the form SNAPSHOT[:PATH] and returns the snapshot and the path within it, without the leading
// slash. SNAPSHOT is "latest", the one made last of those wanted, an id, or the beginning of one.
func Locate(ctx context.Context, r *repo.Repo, name string, want Filter) (repo.Snapshot, string, error) {
	id, path, _ := strings.Cut(name, ":")
	path = strings.Trim(path, "/")
	if path != "" && !tree.ValidPath(path) {
		return repo.Snapshot{}, "", &firn.Error{Kind: firn.Invalid, Op: "find", Subject: name, Err: fmt.Errorf("/%s is no clean path", path)}
	}
	if id != "latest" {
		s, err := r.Snapshot(ctx, id)
		return s, path, err
	}
	snaps, err := r.Snapshots(ctx)
	if err != nil {
		return repo.Snapshot{}, "", err
	}
	best := latest(slices.DeleteFunc(snaps, func(s repo.Snapshot) bool { return !want.Match(s) }), time.Now())
	if best == nil {
		return repo.Snapshot{}, "", &firn.Error{Kind: firn.NotFound, Op: "find snapshot", Subject: "latest", Err: fmt.Errorf("no snapshot%s", want)}
	}
	return *best, path, nil
}

// Filter chooses snapshots. The zero value chooses all.
type Filter struct {
	Host  string
	Paths []string // all of them
	Tags  []string // all of them
}

// Match reports whether s is chosen.
func (f Filter) Match(s repo.Snapshot) bool {
	if f.Host != "" && s.Host != f.Host {
		return false
	}
	for _, p := range f.Paths {
		if !slices.Contains(s.Paths, p) {
			return false
		}
	}
	for _, t := range f.Tags {
		if !slices.Contains(s.Tags, t) {
			return false
		}
	}
	return true
}

func (f Filter) String() string {
	s := ""
	if f.Host != "" {
		s += " of host " + f.Host
	}
	if len(f.Paths) > 0 {
		s += " of " + strings.Join(f.Paths, ", ")
	}
	if len(f.Tags) > 0 {
		s += " tagged " + strings.Join(f.Tags, ", ")
	}
	return s
}
