// Package gitrepo drives the git program on one bare repository and one of its branches: what the blob driver for Git
// and the plain layout of archives share.
//
// It owns the environment git runs in (no prompt, no configuration of the user or the system, credentials never in
// arguments), the sorting of git's failures into kinds, the lock files of killed processes, and the one way in which a
// branch moves: a new commit is published only where the branch is at the commit it was made from. It promises that a
// commit is on stable storage, with all it refers to, before the branch of a local repository points to it. It knows
// nothing of what the trees mean and must never import anything above it.
package gitrepo

import (
	"context"
	"crypto/rand"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"firn"
)

// ID is the hexadecimal name of a Git object; "" stands for no object.
type ID string

// Options are the settings of a repository.
type Options struct {
	// Dir is a bare repository: the place itself where Remote is empty, otherwise the local mirror of Remote, which is
	// made when it is not there and used by nobody else.
	Dir string
	// Remote is the URL of the place, as git takes it; without a password.
	Remote string
	// Branch is the branch that is read and written; "main" where empty.
	Branch string
	// Create makes Dir a new bare repository when it is not there. A mirror is always made.
	Create bool
	// KeyFile and KnownHostsFile are given to ssh. Without KeyFile ssh finds its keys as it does for the user; without
	// both, the user's GIT_SSH_COMMAND or core.sshCommand is run in its place, as it is.
	KeyFile, KnownHostsFile string
	// Username and Password are for https, and go to git through a credential helper that answers for this host only.
	Username, Password string
	// CAFile holds the certificates that sign the server's, in PEM; the system's where empty.
	CAFile string
	// Timeout is how long a connection may be silent before it counts as lost; 30 s where zero. Whole seconds.
	Timeout time.Duration
	// StaleLock is how old a lock file must be before it can count as left behind, on a file system that other
	// machines may use too; 10 minutes where zero. See clearLocks.
	StaleLock time.Duration
}

// Repo is an open repository. Its methods may be called by many goroutines at once, except that only one may make and
// publish commits.
type Repo struct {
	opt      Options
	env      []string
	ssh      *ssh
	branch   string // refs/heads/…: the branch at the place
	tracking string // the ref of Dir that says where branch was when last asked
	next     string // the ref that keeps a commit alive until it is published
	writer   string // tells this writer's commits from another's that are otherwise equal
	idLen    int    // digits of an ID
	lock     *os.File
}

// ErrRace says that the branch is no longer where a commit was made from: look again, decide again, publish again.
var ErrRace = firn.NewError(firn.Conflict, "another client has moved the branch")

// Open checks the repository, clears lock files that a killed process left, and makes the mirror where there is none.
// It does not speak to the remote.
func Open(ctx context.Context, opt Options) (*Repo, error) {
	if opt.Branch == "" {
		opt.Branch = "main"
	}
	if opt.Timeout == 0 {
		opt.Timeout = 30 * time.Second
	}
	if opt.StaleLock == 0 {
		opt.StaleLock = 10 * time.Minute
	}
	if err := opt.check(); err != nil {
		return nil, err
	}
	if _, err := exec.LookPath("git"); err != nil {
		return nil, kind(firn.Unsupported, "the program git is not installed: install it (Debian: apt-get install git)")
	}
	var nonce [6]byte
	rand.Read(nonce[:])
	r := &Repo{
		opt: opt, branch: "refs/heads/" + opt.Branch, writer: hex.EncodeToString(nonce[:]),
		tracking: "refs/heads/" + opt.Branch,
	}
	r.next = "refs/firn/next/" + r.writer
	if opt.Remote != "" {
		r.tracking = "refs/remotes/origin/" + opt.Branch
	}
	var err error
	if r.env, err = opt.environment(); err != nil {
		return nil, err
	}
	r.ssh = newSSH(&r.opt, r.env)
	r.env = append(r.env, r.ssh.variables...)
	if err := r.open(ctx); err != nil {
		r.ssh.close()
		if r.lock != nil {
			r.lock.Close()
		}
		return nil, err
	}
	return r, nil
}

func (o *Options) check() error {
	if !filepath.IsAbs(o.Dir) {
		return kind(firn.Invalid, "the repository's path must be absolute, it is %q", o.Dir)
	}
	for what, s := range map[string]string{"branch": o.Branch, "URL": o.Remote} {
		if strings.HasPrefix(s, "-") || strings.ContainsFunc(s, func(c rune) bool { return c <= ' ' || c == 0x7f }) {
			return kind(firn.Invalid, "%q cannot be a %s", s, what)
		}
	}
	for _, s := range []string{o.KeyFile, o.KnownHostsFile, o.CAFile} {
		if s != "" && !filepath.IsAbs(s) {
			return kind(firn.Invalid, "the path of a key, known_hosts or CA file must be absolute, it is %q", s)
		}
	}
	if strings.ContainsAny(o.Username+o.Password, "\x00\n\r") {
		return kind(firn.Invalid, "a user name or password must not have line breaks")
	}
	return nil
}

// lockName is the file in Dir whose advisory lock every process here and every git that it started holds, shared, as
// long as it lives.
const lockName = "firn.lock-holders"

func (r *Repo) open(ctx context.Context) error {
	dir := r.opt.Dir
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		if r.opt.Remote == "" && !r.opt.Create {
			return goneError(dir)
		}
		// Made beside and renamed: a half-made repository is never found.
		if err := os.MkdirAll(filepath.Dir(dir), 0o700); err != nil {
			return sysError(err)
		}
		tmp, err := os.MkdirTemp(filepath.Dir(dir), ".firn-git-*")
		if err != nil {
			return sysError(err)
		}
		defer os.RemoveAll(tmp)
		if _, err := r.run(ctx, nil, "init", "-q", "--bare", "--template=", "-b", r.opt.Branch, tmp); err != nil {
			return err
		}
		if err := os.Rename(tmp, dir); err != nil && !errors.Is(err, fs.ErrExist) {
			if _, e := os.Stat(filepath.Join(dir, "HEAD")); e != nil {
				return sysError(err)
			}
		}
		if err := syncDir(filepath.Dir(dir)); err != nil {
			return err
		}
	} else if err != nil {
		return sysError(err)
	}
	out, err := r.run(ctx, nil, "rev-parse", "--is-bare-repository", "--show-object-format")
	if err != nil {
		return err
	}
	r.idLen = 2 * sha1.Size
	if strings.HasSuffix(strings.TrimSpace(string(out)), "sha256") {
		r.idLen = 2 * sha256.Size
	}
	if !strings.HasPrefix(string(out), "true") {
		return kind(firn.Invalid, "%s has a working tree: give a bare repository (git init --bare PATH)", dir)
	}
	if _, err := r.run(ctx, nil, "check-ref-format", r.branch); err != nil {
		return kind(firn.Invalid, "%q cannot be a branch", r.opt.Branch)
	}
	if r.lock, err = os.OpenFile(filepath.Join(dir, lockName), os.O_RDWR|os.O_CREATE, 0o600); err != nil {
		return sysError(err)
	}
	if err := r.clearLocks(); err != nil {
		return err
	}
	return lockShared(ctx, r.lock)
}

func goneError(dir string) error {
	return kind(firn.Unavailable, "there is no Git repository at %s: is its disk mounted? (a new one: git init --bare %s)",
		dir, dir)
}

// Close ends the use of the repository. What was not published is left to git's garbage collection.
func (r *Repo) Close() error {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	// A repository that is away by now keeps the ref: it hinders nobody.
	_, _ = r.run(ctx, nil, "update-ref", "-d", r.next)
	r.ssh.close()
	return r.lock.Close()
}

// Remote tells whether the place is another repository, of which Dir is a mirror.
func (r *Repo) Remote() bool { return r.opt.Remote != "" }

// Dir is the bare repository on this machine.
func (r *Repo) Dir() string { return r.opt.Dir }

// Writer is different for every Repo ever opened. A commit message holds it, so that no two writers make the same
// commit and both believe to have been first.
func (r *Repo) Writer() string { return r.writer }

func kind(k firn.Kind, format string, args ...any) error {
	return &firn.Error{Kind: k, Err: fmt.Errorf(format, args...)}
}
