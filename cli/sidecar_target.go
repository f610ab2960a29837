package cli

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"

	"github.com/spf13/pflag"

	"firn"
	"firn/archive/sidecar"
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
	log       *slog.Logger
}

func (t *targetFlags) register(f *pflag.FlagSet) {
	t.repoFlags.register(f)
	t.registerName(f)
	f.StringVar(&t.dir, "dir", "", "directory of the service")
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
	opt := repo.Options{Key: t.key}
	if opt.CacheDir, err = t.cacheDir(url); err != nil {
		return nil, err
	}
	if there {
		return repo.Open(ctx, s, password, opt)
	}
	return repo.Init(ctx, s, password, repo.InitOptions{Options: opt})
}

// openPlain opens a Git repository or a database, and beside it the place of its lease.
func (t *targetFlags) openPlain(ctx context.Context, url string, create bool) (sidecar.Target, error) {
	u, err := places.Parse(url)
	if err != nil {
		return nil, err
	}
	return nil, &firn.Error{Kind: firn.Invalid, Op: "open", Subject: places.Redact(url), Err: fmt.Errorf("no plain layout in %s", u.Scheme)}
}
