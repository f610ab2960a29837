package cli

import (
	"context"
	"errors"
	"log/slog"
	"strings"

	"github.com/spf13/pflag"

	"firn"
	"firn/archive/gittree"
	"firn/archive/sidecar"
	"firn/archive/sqltree"
	"firn/blob/gitblob"
	"firn/blob/places"
	"firn/repo"
)

// plainPrefix before a URL stands for readable files in Git or rows in a database, instead of a repository.
const plainPrefix = "plain+"

// targetFlags say which directory is kept where.
type targetFlags struct {
	*repoFlags
	dir, name string
	rules     sidecar.Rules
	keep      int
	log       *slog.Logger
}

func (t *targetFlags) register(f *pflag.FlagSet) {
	t.repoFlags.register(f)
	t.registerName(f)
	f.StringVar(&t.dir, "dir", "", "directory of the service")
	t.registerRules(f)
}

func (t *targetFlags) registerRules(f *pflag.FlagSet) {
	f.StringArrayVar(&t.rules.Include, "include", nil, "pattern, as of gitignore, of what belongs to the data; all else is left out (may be repeated)")
	f.StringArrayVar(&t.rules.Exclude, "exclude", nil, "pattern of what to leave out, such as *.log or /cache (may be repeated)")
}

func (t *targetFlags) registerName(f *pflag.FlagSet) {
	f.StringVar(&t.name, "name", "main", "name of the directory among others in the same repository: the same on every node")
}

// open opens the target at a URL, "" for that of the flags.
func (t *targetFlags) open(ctx context.Context, url string, create bool) (sidecar.Target, error) {
	if url == "" {
		var err error
		if url, err = t.place(); err != nil {
			return nil, err
		}
	}
	if plain, ok := strings.CutPrefix(url, plainPrefix); ok {
		return t.openPlain(ctx, plain, create)
	}
	r, err := t.openRepo(ctx, url, create)
	if err != nil {
		return nil, err
	}
	return sidecar.NewRepoTarget(r, t.name, t.rules, sidecar.RepoOptions{Log: t.log}), nil
}

// openRepo opens the repository at a URL, and with create makes it where there is none. It fails with firn.NotFound only
// where the place answered and there is none. The store is closed by whoever closes the repository.
func (t *targetFlags) openRepo(ctx context.Context, url string, create bool) (_ *repo.Repo, err error) {
	p, err := t.places(url)
	if err != nil {
		return nil, err
	}
	open := p.Open
	if create {
		open = p.Init
	}
	s, err := open(ctx, url)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			_ = s.Close() // the first error counts
		}
	}()
	there, err := s.Exists(ctx, "config")
	if err != nil {
		return nil, err
	}
	if !there && !create {
		return nil, &firn.Error{Kind: firn.NotFound, Op: "open repository", Subject: s.Name(), Err: errors.New("there is none")}
	}
	password, err := t.env.password(ctx, t.prefix+"_PASSWORD", "password of the repository", false)
	if err != nil {
		return nil, &firn.Error{Kind: firn.Denied, Op: "open repository", Subject: s.Name(), Err: err}
	}
	opt := repo.Options{Key: t.key, Compression: t.level()}
	if opt.CacheDir, err = t.cacheDir(url); err != nil {
		return nil, err
	}
	if there {
		return repo.Open(ctx, s, password, opt)
	}
	return repo.Init(ctx, s, password, repo.InitOptions{Options: opt})
}

// openPlain opens a Git repository or a database, and beside it the place of its lease: a branch, or tables of their own.
func (t *targetFlags) openPlain(ctx context.Context, raw string, create bool) (_ sidecar.Target, err error) {
	u, err := places.Parse(raw)
	if err != nil {
		return nil, err
	}
	name := plainPrefix + places.Redact(raw)
	lease := *u
	q := u.Query()
	switch u.Scheme {
	case "git+file", "git+ssh", "git+https":
		branch := q.Get("branch")
		if branch == "" {
			branch = "main"
		}
		q.Set("branch", "firn-lease-"+branch)
		q.Set("history", "squash")
		lease.RawQuery = q.Encode()
	case "postgres", "postgresql":
		q.Set("namespace", strings.Trim(q.Get("namespace")+"_lease", "_"))
		lease.RawQuery = q.Encode()
	case "sqlite":
		lease.RawQuery = ""
		if lease.Opaque != "" {
			lease.Opaque += ".lease"
		} else {
			lease.Path += ".lease"
		}
	default:
		return nil, &firn.Error{
			Kind: firn.Invalid, Op: "open", Subject: name,
			Err: errors.New("readable files are kept in Git (git+file, git+ssh, git+https) and databases (postgres, sqlite); without plain+ a repository is in any place"),
		}
	}
	defer func() { err = firn.E("open", name, err) }()
	open := places.Open
	if create {
		open = places.Init
	}
	leases, err := open(ctx, lease.String(), places.Secrets{})
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			_ = leases.Close() // the first error counts
		}
	}()
	if strings.HasPrefix(u.Scheme, "git+") {
		o, err := gitblob.FromURL(u)
		if err != nil {
			return nil, err
		}
		r, err := gittree.Open(ctx, gittree.Options{
			Dir: o.Dir, Create: o.Create || create, Remote: o.Remote, Branch: o.Branch, KeyFile: o.KeyFile,
			KnownHostsFile: o.KnownHostsFile, Username: o.Username, Password: o.Password, CAFile: o.CAFile,
		})
		if err != nil {
			return nil, err
		}
		return sidecar.NewGitTarget(r, name, t.name, leases, t.rules, t.log), nil
	}
	tree, err := sqltree.Open(ctx, sqltree.Options{URL: u, Keep: max(t.keep, 2), Create: create})
	if err != nil {
		return nil, err
	}
	return sidecar.NewSQLTarget(tree, name, t.name, leases, t.rules, t.log), nil
}
