// Package gitblob is the blob driver for Git: a branch of a repository, local or behind ssh or https, is a place.
//
// It owns the layout of the branch (docs/format/blob-git.md), a catalogue of it in memory, and the grouping of concurrent
// changes into one commit. It promises that a change is committed, and pushed where the repository is elsewhere, before
// it is acknowledged; that Create and Apply are atomic among all clients, because a commit is published only where the
// branch is still at the commit it was made from; that files it did not write stay in the branch untouched; and that a
// read of a missing, changed or vanished branch never looks like an empty one. Memory: about 200 bytes a blob plus 60
// bytes a piece. It must never import another driver.
package gitblob

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"firn"
	"firn/blob/driver"
	"firn/internal/gitrepo"
)

// Options are the settings of a place.
type Options struct {
	// Dir is the absolute path of a bare repository on this machine; or, with Remote, of the mirror of it, which takes
	// as much space as the remote and is made when missing; in the user's cache directory where empty.
	Dir string
	// Remote is an ssh:// or https:// URL without password.
	Remote string
	// Branch is "main" where empty.
	Branch string
	// Create makes Dir a new bare repository when it is not there. Without it that is an error.
	Create bool
	// History is "keep": the branch remembers every blob it ever had, deleted ones too; or "squash": every SquashAfter
	// commits the history is replaced by one commit, and space comes back. Empty is "keep".
	History string
	// SquashAfter is 100 where zero.
	SquashAfter int
	// Grace is how old an object that nothing refers to must be before its space is freed: longer than any put takes. One
	// hour where zero.
	Grace time.Duration
	// MaxAge is how old the knowledge of the remote branch may be that Get and Stat of a known blob are answered from; what
	// this driver wrote is always seen. Zero asks each time; FromURL sets one second for a remote. List, and Get and Stat
	// of a blob that is not known, always ask.
	MaxAge time.Duration
	// PieceSize is the size of the files that larger blobs are cut into; 24 MiB where zero, at most 64 MiB. A put needs
	// about three times as much memory, of which at most three are under way at once.
	PieceSize int64
	// KeyFile and KnownHostsFile are for ssh, Username, Password and CAFile for https. See gitrepo.Options.
	KeyFile, KnownHostsFile, Username, Password, CAFile string
	// Timeout is how long a connection may be silent; 30 s where zero.
	Timeout time.Duration
	// Log takes what goes wrong with maintenance, which no caller waits for; nil is nowhere.
	Log *slog.Logger
}

// FromURL reads git+file:///path/to.git, git+ssh://user@host/path and git+https://user@host/path, with the parameters
// branch, history, create, max-age, mirror, key, known-hosts and ca. The password is in FIRN_GIT_PASSWORD.
func FromURL(u *url.URL) (Options, error) {
	var opt Options
	query, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return opt, invalid("the URL's query cannot be read")
	}
	if _, ok := u.User.Password(); ok {
		return opt, invalid("the password does not belong in the URL: set FIRN_GIT_PASSWORD")
	}
	scheme := strings.TrimPrefix(u.Scheme, "git+")
	switch u.Scheme {
	case "git+file":
		if u.Host != "" || u.Opaque != "" || !strings.HasPrefix(u.Path, "/") {
			return opt, invalid("the URL of a local repository is git+file:///absolute/path.git")
		}
		opt.Dir = filepath.Clean(u.Path)
	case "git+ssh", "git+https", "git+http":
		if u.Host == "" || strings.Trim(u.Path, "/") == "" || u.Fragment != "" {
			return opt, invalid("the URL of a repository is " + u.Scheme + "://host/path.git")
		}
		remote := url.URL{Scheme: scheme, Host: u.Host, Path: u.Path}
		if scheme == "ssh" {
			remote.User = u.User
		} else {
			opt.Username, opt.Password = u.User.Username(), os.Getenv("FIRN_GIT_PASSWORD")
		}
		opt.Remote = remote.String()
		opt.MaxAge = time.Second
	default:
		return opt, invalid("the URL must begin with git+file:, git+ssh: or git+https:")
	}
	for name, values := range query {
		if len(values) != 1 {
			return opt, invalid(strconv.Quote(name) + " must be given once")
		}
		v := values[0]
		switch name {
		case "branch":
			opt.Branch = v
		case "history":
			opt.History = v
		case "mirror":
			opt.Dir = v
			if opt.Remote == "" {
				return opt, invalid("a local repository has no mirror")
			}
		case "key":
			opt.KeyFile = v
		case "known-hosts":
			opt.KnownHostsFile = v
		case "ca":
			opt.CAFile = v
		case "create":
			if opt.Create, err = strconv.ParseBool(v); err != nil {
				return opt, invalid("create must be true or false")
			}
		case "max-age":
			if opt.MaxAge, err = time.ParseDuration(v); err != nil {
				return opt, invalid("max-age must be a duration such as 2s")
			}
		default:
			return opt, invalid(strconv.Quote(name) + ": the URL takes branch, history, create, max-age, mirror, key, " +
				"known-hosts and ca")
		}
	}
	return opt, opt.complete()
}

func (o *Options) complete() error {
	if o.History == "" {
		o.History = "keep"
	}
	if o.SquashAfter == 0 {
		o.SquashAfter = 100
	}
	if o.Grace == 0 {
		o.Grace = time.Hour
	}
	if o.PieceSize == 0 {
		o.PieceSize = 24 << 20
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	switch {
	case o.History != "keep" && o.History != "squash":
		return invalid("history is keep or squash")
	case o.Password != "" && strings.HasPrefix(o.Remote, "http:"):
		return invalid("a password is sent over https only")
	case o.MaxAge < 0 || o.Grace < 0 || o.SquashAfter < 1:
		return invalid("max-age, grace and the number of commits must not be negative")
	case o.PieceSize < 1<<10 || o.PieceSize > 64<<20:
		return invalid("the size of a piece is 1 KiB to 64 MiB")
	}
	if o.Remote != "" && o.Dir == "" {
		cache, err := os.UserCacheDir()
		if err != nil {
			return invalid("there is no cache directory to keep the mirror in: set HOME, or mirror= in the URL")
		}
		name := sha256.Sum256([]byte(o.Remote))
		o.Dir = filepath.Join(cache, "firn", "git", hex.EncodeToString(name[:12])+".git")
	}
	return nil
}

func invalid(text string) error { return firn.NewError(firn.Invalid, text) }

// hashers is how many pieces are written at once.
const hashers = 3

// place is the driver.
type place struct {
	opt  Options
	repo *gitrepo.Repo

	ctx    context.Context // of the committer; ends at Close
	cancel context.CancelFunc
	done   chan struct{} // closed when the committer has ended
	queue  chan *request
	hash   chan struct{} // a slot for each piece being written
	ask    chan struct{} // held by the one that asks where the branch is

	mu struct {
		sync.Mutex
		cat    *catalogue             // nil before the branch was first asked for
		asked  time.Time              // when that began which cat is known to be as new as
		puts   map[*request]time.Time // begun and not answered
		closed bool
	}
}

// New opens the place, making the mirror of a remote where there is none. It does not speak to the remote.
func New(ctx context.Context, opt Options) (driver.Driver, error) {
	if err := opt.complete(); err != nil {
		return nil, err
	}
	repo, err := gitrepo.Open(ctx, gitrepo.Options{
		Dir: opt.Dir, Remote: opt.Remote, Branch: opt.Branch, Create: opt.Create,
		KeyFile: opt.KeyFile, KnownHostsFile: opt.KnownHostsFile, CAFile: opt.CAFile,
		Username: opt.Username, Password: opt.Password, Timeout: opt.Timeout,
	})
	if err != nil {
		return nil, err
	}
	p := &place{
		opt: opt, repo: repo, done: make(chan struct{}), queue: make(chan *request, 256),
		hash: make(chan struct{}, hashers), ask: make(chan struct{}, 1),
	}
	p.mu.puts = map[*request]time.Time{}
	p.ctx, p.cancel = context.WithCancel(context.Background())
	go p.commits()
	return p, nil
}

// Close waits for the commit under way.
func (p *place) Close() error {
	p.mu.Lock()
	closed := p.mu.closed
	p.mu.closed = true
	p.mu.Unlock()
	if closed {
		return errClosed
	}
	p.cancel()
	<-p.done
	return p.repo.Close()
}

var errClosed = firn.NewError(firn.Invalid, "the place is closed")

// current returns a catalogue that is as new as the branch was age ago, or when the call began for an age of 0.
func (p *place) current(ctx context.Context, age time.Duration) (*catalogue, error) {
	begin := time.Now()
	for {
		p.mu.Lock()
		cat, asked, closed := p.mu.cat, p.mu.asked, p.mu.closed
		p.mu.Unlock()
		switch {
		case closed:
			return nil, errClosed
		case ctx.Err() != nil:
			return nil, ctx.Err()
		case cat != nil && !asked.Before(begin.Add(-age)):
			return cat, nil
		}
		// One asks for all that wait here.
		select {
		case p.ask <- struct{}{}:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		p.mu.Lock()
		late := p.mu.cat != nil && !p.mu.asked.Before(begin)
		p.mu.Unlock()
		var err error
		if !late {
			_, err = p.refresh(ctx)
		}
		<-p.ask
		if err != nil {
			return nil, err
		}
	}
}

// refresh asks where the branch is and reads what is new. The caller holds p.ask.
func (p *place) refresh(ctx context.Context) (*catalogue, error) {
	for {
		p.mu.Lock()
		before := p.mu.cat
		p.mu.Unlock()
		asked := time.Now()
		head, err := p.repo.Fetch(ctx)
		if err != nil {
			return nil, err
		}
		cat := before
		if cat == nil || cat.head != head {
			if head == "" && cat != nil && cat.head != "" {
				return nil, firn.NewError(firn.Unavailable, "the branch was there and has gone")
			}
			if cat, err = readCatalogue(ctx, p.repo, head); err != nil {
				return nil, err
			}
		}
		p.mu.Lock()
		if p.mu.cat == before {
			p.mu.cat, p.mu.asked = cat, asked
			p.mu.Unlock()
			return cat, nil
		}
		p.mu.Unlock() // a commit of ours came between: what was read may be older than it
	}
}

// find returns a blob, asking the branch again before it says that there is none.
func (p *place) find(ctx context.Context, key string) (entry, error) {
	for _, age := range []time.Duration{p.opt.MaxAge, 0} {
		cat, err := p.current(ctx, age)
		if err != nil {
			return entry{}, err
		}
		if e, ok := cat.get(key); ok {
			return e, nil
		}
		if p.opt.MaxAge == 0 {
			break
		}
	}
	return entry{}, firn.NewError(firn.NotFound, "there is no such blob")
}

// Stat describes the blob. Git does not keep a time for it.
func (p *place) Stat(ctx context.Context, key string) (driver.Info, error) {
	e, err := p.find(ctx, key)
	if err != nil {
		return driver.Info{}, err
	}
	return driver.Info{Key: key, Size: e.size}, nil
}

// List shows the branch as it is at one commit.
func (p *place) List(ctx context.Context, prefix string, fn func(driver.Info) error) error {
	cat, err := p.current(ctx, 0)
	if err != nil {
		return err
	}
	for _, e := range cat.from(prefix) {
		if !strings.HasPrefix(e.key, prefix) {
			break
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := fn(driver.Info{Key: e.key, Size: e.size}); err != nil {
			return err
		}
	}
	return nil
}
