// Package gittree keeps a directory in a Git repository as plain files: one commit for each change, readable with git
// alone, and restored exactly.
//
// It owns the layout of the tree (docs/format/git-plain.md): files, symbolic links and directories under their own names,
// what Git cannot say about them (modes, owners, times, extended attributes, empty directories, special files, hard
// links) in a .firn-meta of each directory, and large files in pieces. It promises that a commit that was acknowledged
// is pushed, that no history is ever rewritten, and that nothing but Checkout writes outside the repository. What must
// not be kept is the caller's to say. It must never import a blob driver.
package gittree

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"path"
	"strings"
	"time"

	"firn"
	"firn/internal/gitrepo"
)

// Options are the settings of a repository.
type Options struct {
	// Dir is the absolute path of a bare repository on this machine; with Remote, of the mirror of it. It is made when
	// missing if there is a Remote or Create is set.
	Dir    string
	Create bool
	// Remote is an ssh:// or https:// URL without password, or empty.
	Remote string
	// Branch is "main" where empty.
	Branch string
	// PieceSize is the size of the largest file in the tree; larger ones are cut. 24 MiB where zero, at most 64 MiB. A
	// commit holds one in memory.
	PieceSize int64
	// KeyFile and KnownHostsFile are for ssh, Username, Password and CAFile for https. See gitrepo.Options.
	KeyFile, KnownHostsFile, Username, Password, CAFile string
	// Timeout is how long a connection may be silent; 30 s where zero.
	Timeout time.Duration
}

// Repo is an open repository. One call at a time commits; the others may run beside it.
type Repo struct {
	repo  *gitrepo.Repo
	piece int64
	busy  chan struct{}     // held by Commit and Rollback
	known map[string]stored // files as they were last committed, by path; about 300 bytes each
}

// Commit is one change set.
type Commit struct {
	// Rev is the commit's full name.
	Rev string
	// Time is when it was made, to the second.
	Time time.Time
	// Message is its text, without the line that names the writer.
	Message string
}

// maxRaces is how often a commit is put on top of another's that was faster.
const maxRaces = 30

// Open opens the repository, making the mirror of a remote where there is none. It does not speak to the remote.
func Open(ctx context.Context, opt Options) (*Repo, error) {
	if opt.PieceSize == 0 {
		opt.PieceSize = 24 << 20
	}
	if opt.PieceSize < 1<<10 || opt.PieceSize > 64<<20 {
		return nil, firn.NewError(firn.Invalid, "the size of a piece is 1 KiB to 64 MiB")
	}
	repo, err := gitrepo.Open(ctx, gitrepo.Options{
		Dir: opt.Dir, Remote: opt.Remote, Branch: opt.Branch, Create: opt.Create,
		KeyFile: opt.KeyFile, KnownHostsFile: opt.KnownHostsFile, CAFile: opt.CAFile,
		Username: opt.Username, Password: opt.Password, Timeout: opt.Timeout,
	})
	if err != nil {
		return nil, err
	}
	return &Repo{repo: repo, piece: opt.PieceSize, busy: make(chan struct{}, 1)}, nil
}

// Close ends the use of the repository.
func (r *Repo) Close() error { return r.repo.Close() }

func (r *Repo) acquire(ctx context.Context) error {
	select {
	case r.busy <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// CommitOptions are the settings of one commit.
type CommitOptions struct {
	// Subject begins the message; a summary of the changes where empty.
	Subject string
	// Skip says which files and directories are left out, by their slash-separated path in the directory.
	Skip func(path string, dir bool) bool
	// Report is told of what could not be kept as it is: a file that changed while it was read, one that cannot be read
	// (its last committed state stays if there is one), a socket. nil ignores it.
	Report func(path string, err error)
}

// Commit makes the branch hold what dir holds, and pushes. changed is false where it does so already, and rev is then
// the commit that does. If somebody else committed meanwhile, the commit goes on top of theirs: the tree is dir's,
// their commits stay in the history.
func (r *Repo) Commit(ctx context.Context, dir string, opt CommitOptions) (rev string, changed bool, err error) {
	if err := r.acquire(ctx); err != nil {
		return "", false, err
	}
	defer func() { <-r.busy }()
	head, err := r.repo.Fetch(ctx)
	if err != nil {
		return "", false, err
	}
	next, counts, files, err := r.write(ctx, dir, head, opt)
	if err != nil {
		return "", false, err
	}
	for races := 0; ; races++ {
		if head != "" {
			same, err := r.repo.SameTree(ctx, head, next)
			if err != nil {
				return "", false, err
			}
			if same {
				r.known = files
				return string(head), false, nil
			}
		}
		commit, err := r.describe(ctx, head, next, opt.Subject, counts)
		if err != nil {
			return "", false, err
		}
		err = r.repo.Publish(ctx, head, commit)
		if err == nil {
			r.known = files
			return string(commit), true, nil
		}
		if head, err = r.again(ctx, races, err); err != nil {
			return "", false, err
		}
	}
}

// again waits after a lost race and returns where the branch is now; any other error it returns.
func (r *Repo) again(ctx context.Context, races int, err error) (gitrepo.ID, error) {
	if !errors.Is(err, gitrepo.ErrRace) {
		return "", err
	}
	if races == maxRaces {
		return "", firn.NewError(firn.Unavailable, "others were faster each time: the branch is too busy")
	}
	select {
	case <-ctx.Done():
		return "", ctx.Err()
	case <-time.After(time.Duration(rand.Int64N(int64(200 * time.Millisecond)))):
	}
	return r.repo.Fetch(ctx)
}

// describe makes the commit of a tree on top of head.
func (r *Repo) describe(ctx context.Context, head, tree gitrepo.ID, subject, counts string) (gitrepo.ID, error) {
	message := subject
	var parents []gitrepo.ID
	if head == "" {
		if message == "" {
			message = "first commit: " + counts
		}
	} else {
		parents = append(parents, head)
		summary, names, err := r.changes(ctx, head, tree)
		if err != nil {
			return "", err
		}
		if message == "" {
			message = summary
		}
		message += "\n\n" + names
	}
	return r.repo.CommitTree(ctx, tree, strings.TrimSpace(message)+"\n\n"+trailer+r.repo.Writer()+"\n", parents...)
}

const trailer = "Firn-Writer: "

// changes says what differs between two trees: counts, and the first names.
func (r *Repo) changes(ctx context.Context, old, tree gitrepo.ID) (summary, names string, err error) {
	var added, modified, deleted, total int
	var lines strings.Builder
	err = r.repo.Diff(ctx, old, tree, func(status byte, name string) error {
		if path.Base(name) == metaName {
			return nil
		}
		total++
		switch status {
		case 'A':
			added++
		case 'D':
			deleted++
		default:
			modified++
		}
		if total <= 50 {
			fmt.Fprintf(&lines, "%c %s\n", status, strings.ToValidUTF8(strings.Map(printable, name), "?"))
		}
		return nil
	})
	if total > 50 {
		fmt.Fprintf(&lines, "and %d more\n", total-50)
	}
	if total == 0 {
		return "metadata only", "", err
	}
	return fmt.Sprintf("%d added, %d modified, %d deleted", added, modified, deleted), lines.String(), err
}

func printable(c rune) rune {
	if c < ' ' || c == 0x7f {
		return '?'
	}
	return c
}

// Rollback makes the branch hold what it held at rev: a new commit with the old tree, after which the newer ones are
// history. The directory that was committed is not touched; Checkout writes one.
func (r *Repo) Rollback(ctx context.Context, rev string) (string, error) {
	if err := r.acquire(ctx); err != nil {
		return "", err
	}
	defer func() { <-r.busy }()
	head, err := r.repo.Fetch(ctx)
	if err != nil {
		return "", err
	}
	for races := 0; ; races++ {
		old, err := r.repo.Resolve(ctx, rev)
		if err != nil {
			return "", err
		}
		commit, err := r.describe(ctx, head, old, fmt.Sprintf("roll back to %.12s", old), "")
		if err != nil {
			return "", err
		}
		err = r.repo.Publish(ctx, head, commit)
		if err == nil {
			return string(commit), nil
		}
		if head, err = r.again(ctx, races, err); err != nil {
			return "", err
		}
	}
}

// Head returns the newest commit, or "" for a branch that has none.
func (r *Repo) Head(ctx context.Context) (string, error) {
	head, err := r.repo.Fetch(ctx)
	return string(head), err
}

// Log returns the newest commits, newest first, at most n.
func (r *Repo) Log(ctx context.Context, n int) ([]Commit, error) {
	head, err := r.repo.Fetch(ctx)
	if err != nil || head == "" {
		return nil, err
	}
	var log []Commit
	err = r.repo.Log(ctx, head, n, func(id gitrepo.ID, at time.Time, message string) {
		message, _, _ = strings.Cut(message, trailer)
		log = append(log, Commit{string(id), at, strings.TrimSpace(message)})
	})
	return log, err
}
