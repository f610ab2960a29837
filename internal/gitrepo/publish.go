package gitrepo

import (
	"bufio"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"firn"
)

// Head returns the commit that the branch was at when last asked, without asking again; "" where there is none yet.
func (r *Repo) Head(ctx context.Context) (ID, error) {
	// A ref that has a file of its own is read without starting git.
	file := filepath.Join(r.opt.Dir, filepath.FromSlash(r.tracking))
	if p, err := os.ReadFile(file); err == nil && len(p) == r.idLen+1 && p[r.idLen] == '\n' {
		return ID(p[:r.idLen]), nil
	}
	out := limited{max: maxOutput}
	c := r.command(ctx, "rev-parse", "--verify", "--quiet", r.tracking+"^{commit}")
	noise := limited{max: maxNoise}
	c.Stdout, c.Stderr = &out, &noise
	err := c.Run()
	if ctx.Err() != nil {
		return "", ctx.Err()
	}
	if err == nil {
		return ID(strings.TrimSpace(out.String())), nil
	}
	// Nothing said means that there is no such ref, if there is a repository at all.
	if _, e := os.Stat(filepath.Join(r.opt.Dir, "HEAD")); e == nil && noise.Len() == 0 {
		return "", nil
	} else if e != nil {
		return "", goneError(r.opt.Dir)
	}
	return "", r.failure("rev-parse", err, noise.String(), "")
}

// Fetch asks the place where the branch is and brings what a mirror lacks. A branch that was there and is no more is an
// error: it is not the same as an empty one.
func (r *Repo) Fetch(ctx context.Context) (ID, error) {
	if !r.Remote() {
		return r.Head(ctx)
	}
	var err error
	for range 5 {
		err = r.reach(ctx, "fetch", "--quiet", "--no-tags", "--no-write-fetch-head", "--no-auto-maintenance",
			"--end-of-options", r.opt.Remote, "+"+r.branch+":"+r.tracking)
		if firn.KindOf(err) != firn.Conflict {
			break // otherwise another process moved our ref in the same moment
		}
	}
	if err != nil && strings.Contains(err.Error(), "couldn't find remote ref "+r.branch) {
		head, err := r.Head(ctx)
		if err == nil && head != "" {
			err = kind(firn.Unavailable, "the branch %s has gone from the remote; it was at %.12s, which %s still holds "+
				"(git --git-dir=%[3]s push URL %[2]s:%[4]s); if it was removed on purpose, remove that directory",
				r.opt.Branch, head, r.opt.Dir, r.branch)
		}
		return head, err
	}
	if err != nil {
		return "", err
	}
	return r.Head(ctx)
}

// reach runs a command that speaks to the remote.
func (r *Repo) reach(ctx context.Context, args ...string) error {
	return r.ssh.use(ctx, func() error {
		_, err := r.run(ctx, nil, args...)
		return err
	})
}

// Publish moves the branch from base to next, both of which are in Dir; base is "" for a branch that is not there yet.
// It fails with ErrRace if the branch is elsewhere, having changed nothing. A push that failed without telling whether
// the remote took it is looked up before it counts; firn.Unavailable means that it could not be.
func (r *Repo) Publish(ctx context.Context, base, next ID) error {
	if !r.Remote() {
		if err := r.syncObjects(); err != nil {
			return err
		}
		if err := r.update(ctx, r.tracking, base, next); err != nil {
			return err
		}
		return r.syncRefs()
	}
	err := r.reach(ctx, "push", "--quiet", "--porcelain", "--no-verify", "--force-with-lease="+r.branch+":"+string(base),
		"--end-of-options", r.opt.Remote, string(next)+":"+r.branch)
	if err != nil && firn.KindOf(err) == firn.Conflict {
		return ErrRace
	}
	if err != nil {
		if err = r.lookUp(ctx, base, next, err); err != nil {
			return err
		}
	}
	// Whatever Fetch of another process wrote meanwhile, it is at next or beyond; the next Fetch sets it right.
	_, err = r.run(ctx, nil, "update-ref", r.tracking, string(next))
	return err
}

// lookUp finds out what became of a push that failed with cause.
func (r *Repo) lookUp(ctx context.Context, base, next ID, cause error) error {
	head, err := r.Fetch(ctx)
	if err != nil {
		if ctx.Err() != nil || firn.KindOf(cause) != firn.Internal {
			return cause
		}
		return &firn.Error{Kind: firn.Unavailable, Err: cause}
	}
	if head == next {
		return nil
	}
	if head == base {
		return cause
	}
	if has, err := r.isAncestor(ctx, next, head); has || err != nil {
		return err
	}
	if base == "" {
		return ErrRace
	}
	if has, err := r.isAncestor(ctx, base, head); err != nil {
		return err
	} else if has {
		return ErrRace
	}
	// The history was rewritten: whether our commit was in it cannot be told any more.
	return &firn.Error{Kind: firn.Unavailable, Err: cause}
}

// update moves a ref of Dir if it is at base.
func (r *Repo) update(ctx context.Context, ref string, base, next ID) error {
	old := string(base)
	if base == "" {
		old = strings.Repeat("0", r.idLen)
	}
	_, err := r.run(ctx, nil, "update-ref", "--no-deref", ref, string(next), old)
	// "Unable to create ….lock: File exists" is another git in the same moment, or a dead one's lock.
	if err != nil && firn.KindOf(err) == firn.Conflict {
		if isLocked(err.Error()) {
			return kind(firn.Unavailable, "%v (another process holds the lock; if none does, it is removed after %v)",
				err, r.opt.StaleLock)
		}
		return ErrRace
	}
	return err
}

func (r *Repo) isAncestor(ctx context.Context, old, descendant ID) (bool, error) {
	c := r.command(ctx, "merge-base", "--is-ancestor", string(old), string(descendant))
	noise := limited{max: maxNoise}
	c.Stderr = &noise
	err := c.Run()
	switch {
	case ctx.Err() != nil:
		return false, ctx.Err()
	case err == nil:
		return true, nil
	case c.ProcessState != nil && c.ProcessState.ExitCode() == 1:
		return false, nil
	}
	return false, r.failure("merge-base", err, noise.String(), "")
}

// syncObjects makes the names of all objects written so far durable; git has synced their content.
func (r *Repo) syncObjects() error {
	objects := filepath.Join(r.opt.Dir, "objects")
	entries, err := os.ReadDir(objects)
	if err != nil {
		return sysError(err)
	}
	// A directory without changes costs its sync next to nothing; one changed lately may have been changed by us.
	recent := time.Now().Add(-24 * time.Hour)
	for _, e := range entries {
		if !e.IsDir() {
			continue
		}
		info, err := e.Info()
		if errors.Is(err, os.ErrNotExist) || err == nil && e.Name() != "pack" && info.ModTime().Before(recent) {
			continue
		}
		if err == nil {
			err = syncDir(filepath.Join(objects, e.Name()))
		}
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return sysError(err)
		}
	}
	return syncDir(objects)
}

// syncRefs makes the branch's new place durable, up to the repository's own directory.
func (r *Repo) syncRefs() error {
	for dir := filepath.Dir(filepath.Join(r.opt.Dir, filepath.FromSlash(r.tracking))); len(dir) >= len(r.opt.Dir); {
		if err := syncDir(dir); err != nil {
			return err
		}
		dir = filepath.Dir(dir)
	}
	return nil
}

func syncDir(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return sysError(err)
	}
	defer f.Close()
	return sysError(f.Sync())
}

// CommitTree makes a commit with the tree of another and the given parents, without publishing it.
func (r *Repo) CommitTree(ctx context.Context, tree ID, message string, parents ...ID) (ID, error) {
	args := []string{"commit-tree"}
	for _, p := range parents {
		args = append(args, "-p", string(p))
	}
	out, err := r.run(ctx, strings.NewReader(message), append(args, string(tree)+"^{tree}")...)
	return ID(strings.TrimSpace(string(out))), err
}

// Depth returns how many commits the branch's history has behind head.
func (r *Repo) Depth(ctx context.Context, head ID) (int, error) {
	out, err := r.run(ctx, nil, "rev-list", "--count", "--end-of-options", string(head))
	n := 0
	for _, c := range strings.TrimSpace(string(out)) {
		n = n*10 + int(c-'0')
	}
	return n, err
}

// Maintain merges small packs and loose objects, so that their number stays small, and removes nothing else. Its cost is
// that of what was added since, not of the whole repository.
func (r *Repo) Maintain(ctx context.Context) error {
	_, err := r.run(ctx, nil, "repack", "-q", "-d", "--geometric=2")
	return err
}

// Collect frees the space of objects that nothing refers to and that were written before the given time.
func (r *Repo) Collect(ctx context.Context, before time.Time) error {
	expire := before.Format(time.RFC3339)
	if _, err := r.run(ctx, nil, "repack", "-q", "-A", "-d", "-b", "--unpack-unreachable="+expire); err != nil {
		return err
	}
	_, err := r.run(ctx, nil, "prune", "--expire="+expire)
	return err
}

// Pack puts everything into one pack with a bitmap, from which a push of a rewritten history sees exactly what the
// remote has.
func (r *Repo) Pack(ctx context.Context) error {
	_, err := r.run(ctx, nil, "repack", "-q", "-A", "-d", "-b")
	return err
}

// Resolve returns the commit that rev names: a full or abbreviated name, or one relative to the branch such as main~2.
func (r *Repo) Resolve(ctx context.Context, rev string) (ID, error) {
	if rev == "" || strings.HasPrefix(rev, "-") || strings.HasPrefix(rev, ":") {
		return "", kind(firn.Invalid, "%q names no commit", rev)
	}
	if r.Remote() {
		if rest, ok := strings.CutPrefix(rev, r.opt.Branch); ok && (rest == "" || rest[0] == '~' || rest[0] == '^') {
			rev = r.tracking + rest
		}
	}
	out, err := r.run(ctx, nil, "rev-parse", "--verify", "--quiet", "--end-of-options", rev+"^{commit}")
	id := strings.TrimSpace(strings.TrimPrefix(string(out), "--end-of-options\n"))
	if err != nil && ctx.Err() == nil && firn.KindOf(err) == firn.Internal {
		return "", kind(firn.NotFound, "there is no commit %q", rev)
	}
	return ID(id), err
}

// SameTree tells whether two commits hold the same.
func (r *Repo) SameTree(ctx context.Context, a, b ID) (bool, error) {
	out, err := r.run(ctx, nil, "rev-parse", string(a)+"^{tree}", string(b)+"^{tree}")
	f := strings.Fields(string(out))
	return len(f) == 2 && f[0] == f[1], err
}

// Diff calls fn for every file that differs: A for one that only b has, D for one that only a has, M or T otherwise.
func (r *Repo) Diff(ctx context.Context, a, b ID, fn func(status byte, path string) error) error {
	out, err := r.Output(ctx, "diff-tree", "-r", "-z", "--no-renames", "--name-status", string(a), string(b))
	if err != nil {
		return err
	}
	defer out.Close()
	in := bufio.NewReaderSize(out, 64<<10)
	for {
		status, err := in.ReadString(0)
		if err == io.EOF && status == "" {
			return nil
		}
		if err != nil {
			return err
		}
		name, err := in.ReadString(0)
		if err != nil {
			return err
		}
		if err := fn(status[0], name[:len(name)-1]); err != nil {
			return err
		}
	}
}

// Log calls fn for at most n commits, the newest first.
func (r *Repo) Log(ctx context.Context, head ID, n int, fn func(id ID, at time.Time, message string)) error {
	out, err := r.run(ctx, nil, "log", "-z", "--format=%H %ct %B", "-n", strconv.Itoa(n), "--end-of-options", string(head))
	for entry := range strings.SplitSeq(string(out), "\x00") {
		f := strings.SplitN(entry, " ", 3)
		if len(f) != 3 {
			continue
		}
		seconds, _ := strconv.ParseInt(f[1], 10, 64)
		fn(ID(f[0]), time.Unix(seconds, 0), f[2])
	}
	return err
}
