package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"strings"
	"time"

	"github.com/spf13/pflag"
	"golang.org/x/term"

	"firn"
	"firn/blob"
	"firn/repo"
)

// repoFlags are the flags by which a command finds its repository.
type repoFlags struct {
	opener
	url   string
	cache string
	key   string
	// compression of what is written.
	compression string
	// prefix of the variables that are read: FIRN_REPO, or FIRN_TO_REPO for the destination of a copy.
	prefix string
}

func newRepoFlags(env *Env) *repoFlags {
	return &repoFlags{opener: opener{env: env}, prefix: "FIRN_REPO"}
}

func (r *repoFlags) register(f *pflag.FlagSet) {
	r.opener.register(f)
	f.StringVar(&r.url, "repo", "", "URL of the repository, such as file:/mnt/nas/backup or place:NAME (FIRN_REPO)")
	f.StringVar(&r.cache, "cache-dir", "", "directory for what is read again and again of a repository that is not on this machine; \"none\" for none (FIRN_CACHE_DIR)")
	f.StringVar(&r.compression, "compression", "", "of what is written: default, fastest, better or off (FIRN_REPO_COMPRESSION)")
	f.StringVar(&r.key, "key", "", "id of the key that the password belongs to: opens faster where there are many keys")
}

// place returns the URL of the repository.
func (r *repoFlags) place() (string, error) {
	if r.url != "" {
		return r.url, nil
	}
	if u := r.env.variable(r.prefix); u != "" {
		return u, nil
	}
	return "", usageError("no repository: give --repo URL or set %s", r.prefix)
}

// maxPassword bounds a password, in bytes.
const maxPassword = 64 << 10

// password finds a password in the environment: NAME itself, a file, or what a command prints. It asks for one where
// there is a terminal.
func (e *Env) password(ctx context.Context, name, what string, twice bool) ([]byte, error) {
	given := 0
	for _, suffix := range []string{"", "_FILE", "_COMMAND"} {
		if e.variable(name+suffix) != "" {
			given++
		}
	}
	if given > 1 {
		return nil, usageError("%s, %[1]s_FILE and %[1]s_COMMAND: set one of them", name)
	}
	switch {
	case e.variable(name) != "":
		return []byte(e.variable(name)), nil
	case e.variable(name+"_FILE") != "":
		path := e.variable(name + "_FILE")
		f, err := os.Open(path)
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", what, err)
		}
		defer f.Close()
		p, err := io.ReadAll(io.LimitReader(f, maxPassword))
		if err == nil && len(bytes.TrimRight(p, "\r\n")) == 0 {
			err = fmt.Errorf("%s is empty", path)
		}
		return bytes.TrimRight(p, "\r\n"), err
	case e.variable(name+"_COMMAND") != "":
		c := exec.CommandContext(ctx, "/bin/sh", "-c", e.variable(name+"_COMMAND"))
		c.Stderr = e.Err
		c.Env = e.Environ()
		p, err := c.Output()
		if err != nil {
			return nil, fmt.Errorf("the command in %s_COMMAND: %w", name, err)
		}
		p = bytes.TrimRight(p, "\r\n")
		if len(p) == 0 {
			return nil, fmt.Errorf("the command in %s_COMMAND printed no password", name)
		}
		return p, nil
	}
	f, ok := e.In.(interface{ Fd() uintptr })
	if !ok || !term.IsTerminal(int(f.Fd())) {
		return nil, usageError("no %s: set %s, %[2]s_FILE or %[2]s_COMMAND", what, name)
	}
	ask := func(prompt string) ([]byte, error) {
		fmt.Fprint(e.Err, prompt)
		p, err := term.ReadPassword(int(f.Fd()))
		fmt.Fprintln(e.Err)
		return p, err
	}
	p, err := ask(strings.ToUpper(what[:1]) + what[1:] + ": ")
	if err == nil && twice {
		var q []byte
		if q, err = ask("The same again: "); err == nil && !bytes.Equal(p, q) {
			err = errors.New("the two are not the same")
		}
	}
	if err == nil && len(p) == 0 {
		err = errors.New("a password is needed")
	}
	return p, err
}

// gcPercent keeps garbage below a quarter of what lives: a backup shares its machine with the service it is for.
const gcPercent = 25

// with opens the repository and runs fn.
func (r *repoFlags) with(ctx context.Context, opt repo.Options, fn func(*repo.Repo) error) error {
	if r.env.variable("GOGC") == "" {
		defer debug.SetGCPercent(debug.SetGCPercent(gcPercent))
	}
	url, err := r.place()
	if err != nil {
		return err
	}
	return r.opener.with(ctx, url, func(s *blob.Store) error {
		// Asked for only once it is known that there is a repository to open.
		if ok, err := s.Exists(ctx, "config"); err == nil && !ok {
			return &firn.Error{
				Kind: firn.NotFound, Op: "open repository", Subject: s.Name(),
				Err: errors.New("there is none: make one with 'firn repo init', or correct the URL"),
			}
		}
		password, err := r.env.password(ctx, r.prefix+"_PASSWORD", "password of the repository", false)
		if err != nil {
			return err
		}
		opt.Key, opt.Compression = r.key, r.level()
		if opt.CacheDir, err = r.cacheDir(url); err != nil {
			return err
		}
		re, err := repo.Open(ctx, s, password, opt)
		if err != nil {
			return err
		}
		err = fn(re)
		return errors.Join(err, re.Close())
	})
}

// level returns the compression that was asked for. Whether it is one is the repository's to say.
func (r *repoFlags) level() repo.Compression {
	if r.compression != "" {
		return repo.Compression(r.compression)
	}
	return repo.Compression(r.env.variable(r.prefix + "_COMPRESSION"))
}

// cacheDir returns where to cache what comes from url, "" for not at all: what is on this machine is as near as a cache.
func (r *repoFlags) cacheDir(url string) (string, error) {
	dir := r.cache
	if dir == "" {
		dir = r.env.variable("FIRN_CACHE_DIR")
	}
	if dir == "none" || dir == "" && (strings.HasPrefix(url, "file:") || strings.HasPrefix(url, "sqlite:")) {
		return "", nil
	}
	if dir == "" {
		base, err := os.UserCacheDir()
		if err != nil {
			return "", nil // a system without a place for caches does without
		}
		dir = filepath.Join(base, "firn", "repositories")
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", fmt.Errorf("cache: %w; --cache-dir none does without", err)
	}
	return dir, nil
}

// when words a time for people.
func when(t time.Time) string { return t.Local().Format("2006-01-02 15:04:05") }
