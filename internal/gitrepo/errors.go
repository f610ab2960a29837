package gitrepo

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"strings"
	"syscall"

	"firn"
)

// failure turns git's exit into an error with a kind. Git tells most failures apart by its messages alone, so this is
// the one place that reads them; LC_ALL=C keeps them in one language.
func (r *Repo) failure(command string, err error, stderr, stdout string) error {
	var exit *exec.ExitError
	if !errors.As(err, &exit) {
		return sysError(err)
	}
	if _, e := os.Stat(r.opt.Dir); errors.Is(e, fs.ErrNotExist) && command != "init" {
		return goneError(r.opt.Dir)
	}
	text := r.clean(stderr)
	if command == "push" {
		if refused := refusal(stdout); refused != "" {
			text = refused + ": " + text
		}
	}
	if text == "" {
		text = err.Error()
	}
	return &firn.Error{Kind: classify(text), Err: fmt.Errorf("git %s: %s", command, text)}
}

// refusal returns the lines of push --porcelain that say why a ref was not taken.
func refusal(stdout string) string {
	var why []string
	for line := range strings.Lines(stdout) {
		if rest, ok := strings.CutPrefix(line, "!\t"); ok {
			_, reason, _ := strings.Cut(strings.TrimSpace(rest), "\t")
			why = append(why, reason)
		}
	}
	return strings.Join(why, "; ")
}

// clean makes one line of git's messages, without hints, progress and anything secret.
func (r *Repo) clean(s string) string {
	var lines []string
	for line := range strings.Lines(strings.ReplaceAll(s, "\r", "\n")) {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "hint:") || strings.HasPrefix(line, "warning: redirecting") {
			continue
		}
		lines = append(lines, strings.TrimPrefix(line, "fatal: "))
	}
	text := strings.Join(lines, "; ")
	if p := r.opt.Password; p != "" {
		text = strings.ReplaceAll(text, p, "***")
	}
	if len(text) > 600 {
		text = text[:300] + " ... " + text[len(text)-280:]
	}
	return strings.ToValidUTF8(text, "?")
}

// classify sorts a message of git, ssh, curl or a server. The first that matches wins: a full disk is also a failed
// push, a refused key also a repository that could not be read.
func classify(text string) firn.Kind {
	t := strings.ToLower(text)
	for _, c := range []struct {
		kind  firn.Kind
		words []string
	}{
		{firn.NoSpace, []string{"no space left on device", "disk quota exceeded", "quota exceeded", "error: 507"}},
		{firn.Conflict, []string{
			"non-fast-forward", "fetch first", "stale info", "but expected", "reference already exists",
			"incorrect old value", "failed to update ref", "cannot lock ref", "unable to resolve reference",
		}},
		{firn.Denied, []string{
			"permission denied", "authentication failed", "could not read username", "could not read password",
			"host key verification failed", "access denied", "error: 401", "error: 403", "dubious ownership",
			"hook declined", "protected branch", "[remote rejected]", "not allowed", "read-only file system",
			"certificate", "terminal prompts disabled", "not authorized", "unauthorized", "deny updating",
		}},
		{firn.Corrupt, []string{
			"bad object", "corrupt", "missing blob", "missing tree", "inflate:", "hash mismatch", "unable to read tree",
			"missing object", "could not parse object",
		}},
		{firn.Unavailable, []string{
			"could not resolve", "connection", "timed out", "timeout", "early eof", "hung up", "unable to access",
			"error: 5", "error: 429", "remote end", "broken pipe", "unexpected disconnect", "operation too slow",
			"no route to host", "network is unreachable", "stale file handle", "does not appear to be a git repository",
			"repository not found", "not found", "could not read from remote", "unable to create", "file exists",
			"input/output error", "not a git repository", "protocol error", "expected flush", "bad line length",
			"resource temporarily unavailable", "cannot fork", "cannot allocate memory", "signal:", "killed",
			"unpacker error", "index-pack",
			"blob not found", // written, and swept before its commit: to be written again
		}},
	} {
		for _, w := range c.words {
			if strings.Contains(t, w) {
				return c.kind
			}
		}
	}
	return firn.Internal
}

func isLocked(stderr string) bool {
	return strings.Contains(stderr, ".lock") && strings.Contains(stderr, "File exists")
}

// sysError gives an error of the operating system its kind.
func sysError(err error) error {
	if err == nil {
		return nil
	}
	var known *firn.Error
	k := firn.Internal
	switch {
	case errors.As(err, &known):
		return err
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		k = firn.NoSpace
	case errors.Is(err, fs.ErrPermission), errors.Is(err, syscall.EROFS):
		k = firn.Denied
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ESTALE), errors.Is(err, syscall.EIO),
		errors.Is(err, syscall.EAGAIN), errors.Is(err, syscall.EMFILE), errors.Is(err, syscall.ENOMEM):
		k = firn.Unavailable
	}
	return &firn.Error{Kind: k, Err: err}
}
