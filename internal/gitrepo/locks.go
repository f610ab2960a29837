package gitrepo

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// A git that is killed leaves its lock files, and every later one fails on them. Such a file is removed only when
// nobody can be using it:
//
//   - No other process of ours, and no git that a process of ours started, is alive: each holds the advisory lock of
//     firn.lock-holders, which ends with the last of them, kill -9 or not.
//   - In a mirror that is enough, because nobody else writes there. In a repository that others use too, no process of
//     this machine works in it, and the file is at least two seconds old; where other machines may work in it (a
//     network file system, or a system whose processes cannot be seen), it must be as old as Options.StaleLock.

// clearLocks removes what killed processes left, if this is the only process that has the repository open, and leaves
// the advisory lock to be taken shared.
func (r *Repo) clearLocks() error {
	if !lockExclusive(r.lock) {
		return nil
	}
	if r.Remote() {
		for _, pattern := range []string{"fast_import_crash_*", "objects/pack/tmp_*", "objects/??/tmp_obj_*"} {
			names, err := filepath.Glob(filepath.Join(r.opt.Dir, pattern))
			if err != nil {
				return sysError(err)
			}
			for _, name := range names {
				if err := os.Remove(name); err != nil {
					return sysError(err)
				}
			}
		}
	}
	if err := os.RemoveAll(filepath.Join(r.opt.Dir, "refs", "firn", "next")); err != nil {
		return sysError(err)
	}
	_, err := r.removeLocks()
	return err
}

// clearLocksNow does so while the repository is in use by this process, and tells whether a file was removed.
func (r *Repo) clearLocksNow() (bool, error) {
	if !lockExclusive(r.lock) {
		return false, nil
	}
	cleared, err := r.removeLocks()
	if e := lockShared(context.Background(), r.lock); err == nil {
		err = e
	}
	return cleared, err
}

func (r *Repo) removeLocks() (bool, error) {
	cleared := false
	err := filepath.WalkDir(r.opt.Dir, func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return sysError(err)
		}
		if d.IsDir() {
			rel, _ := filepath.Rel(r.opt.Dir, path)
			if strings.HasPrefix(rel, "objects"+string(filepath.Separator)) && len(filepath.Base(rel)) == 2 {
				return filepath.SkipDir // loose objects have no locks
			}
			return nil
		}
		if !strings.HasSuffix(d.Name(), ".lock") || !d.Type().IsRegular() {
			return nil
		}
		info, err := d.Info()
		if errors.Is(err, fs.ErrNotExist) || err == nil && !r.isStale(info) {
			return nil
		}
		if err == nil {
			err = os.Remove(path)
		}
		cleared = cleared || err == nil
		return sysError(err)
	})
	return cleared, err
}

func (r *Repo) isStale(info fs.FileInfo) bool {
	if r.Remote() {
		return true
	}
	age := time.Since(info.ModTime())
	if age >= r.opt.StaleLock {
		return true
	}
	return age >= 2*time.Second && onlyThisMachine(r.opt.Dir) && !inUse(r.opt.Dir)
}

// inUse tells whether a process other than this one works in dir, or may: one whose files cannot be seen and whose
// name begins with git counts.
func inUse(dir string) bool {
	procs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil || len(procs) == 0 {
		return true
	}
	inside := func(link string) bool {
		to, err := os.Readlink(link)
		return err == nil && (to == dir || strings.HasPrefix(to, dir+"/"))
	}
	for _, p := range procs {
		if filepath.Base(p) == strconv.Itoa(os.Getpid()) {
			continue
		}
		comm, err := os.ReadFile(p + "/comm")
		if err != nil {
			continue // it has ended
		}
		fds, err := os.ReadDir(p + "/fd")
		if errors.Is(err, fs.ErrPermission) {
			if strings.HasPrefix(string(comm), "git") {
				return true
			}
			continue
		}
		foreign, ours := inside(p+"/cwd"), false
		for _, fd := range fds {
			if to, err := os.Readlink(p + "/fd/" + fd.Name()); err == nil && to == filepath.Join(dir, lockName) {
				ours = true
			}
			foreign = foreign || inside(p+"/fd/"+fd.Name())
		}
		if ours {
			continue // a git that this process started: another's would have kept us from the advisory lock
		}
		if foreign {
			return true
		}
		// git may have closed what it locked, and be given the directory by its arguments or environment only.
		if strings.HasPrefix(string(comm), "git") {
			for _, file := range []string{"/cmdline", "/environ"} {
				if b, err := os.ReadFile(p + file); err == nil && strings.Contains(string(b), dir) {
					return true
				}
			}
		}
	}
	return false
}
