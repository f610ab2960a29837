package gitrepo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"os/exec"
	"strconv"
	"time"

	"firn"
)

// maxOutput is how many bytes of a command's output are kept where it is not streamed, and maxNoise of its messages.
const (
	maxOutput = 1 << 20
	maxNoise  = 16 << 10
)

// kept are the variables of our own environment that git is given.
func kept() []string {
	return []string{
		"PATH", "HOME", "USER", "LOGNAME", "TMPDIR", "SSH_AUTH_SOCK", "SSL_CERT_FILE", "SSL_CERT_DIR", "http_proxy",
		"https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY", "all_proxy", "SYSTEMROOT",
	}
}

func (o *Options) environment() ([]string, error) {
	env := []string{
		"GIT_TERMINAL_PROMPT=0", "LC_ALL=C", "GIT_CONFIG_NOSYSTEM=1", "GIT_CONFIG_GLOBAL=" + os.DevNull,
		"GIT_ATTR_NOSYSTEM=1", "GIT_ASKPASS=true", "SSH_ASKPASS=true", "SSH_ASKPASS_REQUIRE=force", "GIT_NO_REPLACE_OBJECTS=1", "GIT_OPTIONAL_LOCKS=0",
		"GIT_ALLOW_PROTOCOL=file:ssh:http:https",
		"GIT_AUTHOR_NAME=Firn", "GIT_AUTHOR_EMAIL=firn@localhost",
		"GIT_COMMITTER_NAME=Firn", "GIT_COMMITTER_EMAIL=firn@localhost",
	}
	for _, name := range kept() {
		if v, ok := os.LookupEnv(name); ok {
			env = append(env, name+"="+v)
		}
	}
	seconds := strconv.Itoa(max(1, int(o.Timeout/time.Second)))
	config := [][2]string{
		// Objects, packs and refs are synced before a command ends well.
		{"core.fsync", "all"},
		{"core.fsyncMethod", "fsync"},
		{"core.hooksPath", os.DevNull},
		{"core.logAllRefUpdates", "false"},
		{"core.filesRefLockTimeout", "3000"},
		{"core.packedRefsTimeout", "3000"},
		// Large content is mostly compressed or encrypted already: no delta, little zlib, bounded memory.
		{"core.bigFileThreshold", "1m"},
		{"core.compression", "1"},
		{"pack.windowMemory", "32m"},
		{"pack.deltaCacheSize", "16m"},
		{"pack.threads", "2"},
		// One pack a commit, which Maintain merges: its directory is one to sync, loose objects have 256.
		{"fastimport.unpackLimit", "1"},
		{"transfer.unpackLimit", "1"},
		{"transfer.fsckObjects", "false"},
		{"gc.auto", "0"},
		{"maintenance.auto", "false"},
		{"gc.reflogExpire", "now"},
		{"advice.detachedHead", "false"},
		{"http.lowSpeedLimit", "1"},
		{"http.lowSpeedTime", seconds},
		{"credential.helper", ""},
	}
	if o.CAFile != "" {
		config = append(config, [2]string{"http.sslCAInfo", o.CAFile})
	}
	if o.Password != "" {
		u, err := url.Parse(o.Remote)
		if err != nil || u.Host == "" {
			return nil, kind(firn.Invalid, "a password needs a remote of the form https://host/path")
		}
		// The helper reads its own environment, which only this user and root can see, and never the arguments.
		config = append(config, [2]string{
			"credential." + u.Scheme + "://" + u.Host + ".helper",
			`!f() { test "$1" = get && printf 'username=%s\npassword=%s\n' "$FIRN_GIT_USERNAME" "$FIRN_GIT_PASSWORD"; }; f`,
		})
		env = append(env, "FIRN_GIT_USERNAME="+o.Username, "FIRN_GIT_PASSWORD="+o.Password)
	}
	env = append(env, "GIT_CONFIG_COUNT="+strconv.Itoa(len(config)))
	for i, c := range config {
		env = append(env, fmt.Sprintf("GIT_CONFIG_KEY_%d=%s", i, c[0]), fmt.Sprintf("GIT_CONFIG_VALUE_%d=%s", i, c[1]))
	}
	return env, nil
}

// command is git with args in the repository. Cancelling ctx asks it and what it started to end, so that it removes its
// lock files, and kills it only when it does not.
func (r *Repo) command(ctx context.Context, args ...string) *exec.Cmd {
	c := exec.CommandContext(ctx, "git", args...)
	c.Env = append(r.env[:len(r.env):len(r.env)], "GIT_DIR="+r.opt.Dir)
	if len(args) > 0 && args[0] == "init" {
		c.Env = r.env
	}
	if r.lock != nil {
		// The advisory lock lives as long as any git we started, whatever becomes of us.
		c.ExtraFiles = []*os.File{r.lock}
	}
	ownGroup(c)
	c.WaitDelay = 3 * time.Second
	return c
}

// run runs a command and returns what it wrote.
func (r *Repo) run(ctx context.Context, stdin io.Reader, args ...string) ([]byte, error) {
	var out limited
	out.max = maxOutput
	err := r.stream(ctx, stdin, &out, args...)
	if err == nil && out.cut {
		err = kind(firn.Invalid, "git %s wrote more than %d bytes", args[0], maxOutput)
	}
	return out.Bytes(), err
}

// stream runs a command that writes to w.
func (r *Repo) stream(ctx context.Context, stdin io.Reader, w io.Writer, args ...string) error {
	noise := limited{max: maxNoise}
	for try := 0; ; try++ {
		c := r.command(ctx, args...)
		c.Stdin, c.Stdout, c.Stderr = stdin, w, &noise
		err := c.Run()
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		// A lock file that git waited for in vain: if a killed process left it, the command gets one more try.
		if try == 0 && stdin == nil && r.lock != nil && isLocked(noise.String()) {
			if cleared, _ := r.clearLocksNow(); cleared {
				noise.Reset()
				continue
			}
		}
		return r.failure(args[0], err, noise.String(), outputOf(w))
	}
}

func outputOf(w io.Writer) string {
	if b, ok := w.(*limited); ok {
		return b.String()
	}
	return ""
}

// limited keeps the first max bytes.
type limited struct {
	bytes.Buffer
	max int
	cut bool
}

func (l *limited) Write(p []byte) (int, error) {
	room := l.max - l.Len()
	if len(p) > room {
		l.cut = true
		l.Buffer.Write(p[:max(room, 0)])
		return len(p), nil
	}
	return l.Buffer.Write(p)
}

// Stream is the output of a running command.
type Stream struct {
	io.Reader
	cmd    *exec.Cmd
	pipe   io.ReadCloser
	cancel context.CancelFunc
	noise  *limited
	r      *Repo
	ctx    context.Context
	waited bool
	err    error
}

// Output starts a command and returns what it writes as it comes. A failure of the command is an error of Read at the
// end, never an early io.EOF.
func (r *Repo) Output(ctx context.Context, args ...string) (*Stream, error) {
	own, cancel := context.WithCancel(ctx)
	c := r.command(own, args...)
	s := &Stream{cmd: c, cancel: cancel, noise: &limited{max: maxNoise}, r: r, ctx: ctx}
	c.Stderr = s.noise
	var err error
	if s.pipe, err = c.StdoutPipe(); err == nil {
		err = c.Start()
	}
	if err != nil {
		cancel()
		return nil, r.failure(args[0], err, "", "")
	}
	s.Reader = s.pipe
	return s, nil
}

func (s *Stream) wait() error {
	if !s.waited {
		s.waited = true
		s.err = s.cmd.Wait()
	}
	return s.err
}

func (s *Stream) Read(p []byte) (int, error) {
	n, err := s.pipe.Read(p)
	if err == nil {
		return n, nil
	}
	werr := s.wait()
	switch {
	case s.ctx.Err() != nil:
		return n, s.ctx.Err()
	case werr != nil:
		return n, s.r.failure(s.cmd.Args[1], werr, s.noise.String(), "")
	case errors.Is(err, io.EOF):
		return n, io.EOF
	}
	return n, sysError(err)
}

// Close ends the command if it still runs.
func (s *Stream) Close() error {
	s.cancel()
	_ = s.wait() // it may have been ended early
	return nil
}
