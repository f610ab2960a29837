package gitrepo

import (
	"context"
	"io"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"time"

	"firn"
)

const (
	// idleAfter is how long the shared connection outlives its last use.
	idleAfter = time.Minute
	// againAfter is how long it is not tried again where it could not be made.
	againAfter = time.Minute
	// maxSocket is the longest path of a Unix socket, 103 bytes on macOS and 107 on Linux, less the 17 that ssh adds to
	// the path for a moment.
	maxSocket = 103 - 17
)

// ssh is how git reaches a remote by ssh: a command, and a connection that commands share.
//
// A connection costs several round trips and the two sides' key exchange, far more than what git mostly has to say. So
// from the second time on, a connection is kept open to which git's own ssh is a client (ssh_config(5), ControlPath).
// Whatever is wrong with it - a server that has no second session for it, a directory that cannot be made - ssh makes one
// of its own as if there were none. It has a process of its own, so that neither a git that is cancelled nor one that
// fails takes it from the others.
type ssh struct {
	variables []string // tell git
	argv      []string // makes the shared connection; empty where there is none
	env       []string // of argv
	dir       string   // only ours; holds the socket
	socket    string
	most      time.Duration // in which a connection is made or fails

	mu struct {
		sync.Mutex
		users  int
		worked bool // the last use did: the server is there and takes us
		making bool
		wait   time.Time // not to be made before
		master *master
		idle   *time.Timer
		closed bool
	}
}

// master is the process that holds the connection.
type master struct {
	socket string
	stdin  io.Closer // closed, the process ends
	stdout io.Closer
	cancel context.CancelFunc
	quiet  chan struct{} // closed when ssh has closed its output: it has the connection, or has failed
	ended  chan struct{}
}

// holder runs its arguments until its standard input ends, as it does when we close it and as it does when we are killed.
// It is a shell that waits for ssh, so that no dead process is left to whoever adopts it: in a container, that can be us.
const holder = `"$@" & exec >/dev/null; read -r _; kill "$!"; wait`

// lives tells whether the connection can be used.
func (m *master) lives() bool {
	conn, err := net.Dial("unix", m.socket)
	if err == nil {
		conn.Close()
	}
	return err == nil
}

// end ends the process and waits for it.
func (m *master) end() {
	m.stdin.Close()
	late := time.NewTimer(3 * time.Second)
	defer late.Stop()
	select {
	case <-m.ended:
	case <-late.C:
	}
	m.cancel()
	m.stdout.Close()
	<-m.ended
}

// newSSH prepares the way to o.Remote.
func newSSH(o *Options, env []string) *ssh {
	s := &ssh{env: env, most: o.Timeout}
	if o.Remote == "" || strings.HasPrefix(o.Remote, "http:") || strings.HasPrefix(o.Remote, "https:") {
		return s
	}
	if o.KeyFile == "" && o.KnownHostsFile == "" {
		if s.variables = theirs(); len(s.variables) > 0 {
			return s // it may not be ssh at all
		}
	}
	seconds := max(1, int(o.Timeout/time.Second))
	argv := []string{
		"ssh", "-o", "BatchMode=yes", "-o", "ControlMaster=no", "-o", "StrictHostKeyChecking=yes",
		"-o", "ConnectTimeout=" + strconv.Itoa(seconds),
		"-o", "ServerAliveInterval=" + strconv.Itoa(max(1, seconds/3)), "-o", "ServerAliveCountMax=3",
	}
	if o.KnownHostsFile != "" {
		argv = append(argv, "-o", "UserKnownHostsFile="+sshQuote(o.KnownHostsFile), "-o", "GlobalKnownHostsFile="+os.DevNull)
	}
	if o.KeyFile != "" {
		argv = append(argv, "-F", "none", "-o", "IdentitiesOnly=yes", "-o", "IdentityAgent=none", "-i", o.KeyFile)
	}
	if u, err := url.Parse(o.Remote); err == nil && u.Scheme == "ssh" && u.Hostname() != "" && s.makeDir() {
		argv = append(argv, "-o", "ControlPath="+sshQuote(s.socket))
		// Of an option that is given twice, ssh takes the first.
		s.argv = append([]string{"ssh", "-N", "-T", "-o", "ControlMaster=yes", "-o", "ControlPersist=no", "-o", "ClearAllForwardings=yes"},
			argv[1:]...)
		if port := u.Port(); port != "" {
			s.argv = append(s.argv, "-p", port)
		}
		if user := u.User.Username(); user != "" {
			s.argv = append(s.argv, "-l", user)
		}
		s.argv = append(s.argv, "--", u.Hostname())
	}
	for i, a := range argv {
		argv[i] = shellQuote(a)
	}
	s.variables = []string{"GIT_SSH_COMMAND=" + strings.Join(argv, " "), "GIT_SSH_VARIANT=ssh"}
	return s
}

// theirs is what the user or the system has set git to run in place of ssh, if anything.
func theirs() []string {
	command := os.Getenv("GIT_SSH_COMMAND")
	if command == "" {
		c := exec.Command("git", "config", "--get", "core.sshCommand")
		c.Dir = "/" // not what a repository that we happen to be in says
		out, err := c.Output()
		if err != nil {
			return nil // it is not set
		}
		command = strings.TrimSuffix(string(out), "\n")
	}
	variables := []string{"GIT_SSH_COMMAND=" + command}
	if v := os.Getenv("GIT_SSH_VARIANT"); v != "" {
		variables = append(variables, "GIT_SSH_VARIANT="+v)
	}
	return variables
}

func shellQuote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

// sshQuote quotes a path for ssh's own parser, which splits at spaces and expands %.
func sshQuote(s string) string { return `"` + strings.ReplaceAll(s, "%", "%%") + `"` }

// makeDir makes the directory of the socket, and tells whether there is one.
func (s *ssh) makeDir() bool {
	if runtime.GOOS == "windows" {
		return false
	}
	for _, parent := range []string{os.TempDir(), "/tmp"} {
		dir, err := os.MkdirTemp(parent, "firn-ssh-*")
		if err != nil {
			continue
		}
		if socket := filepath.Join(dir, "s"); len(socket) <= maxSocket && filepath.IsAbs(socket) {
			s.dir, s.socket = dir, socket
			return true
		}
		_ = os.Remove(dir) // empty, in a directory for what is temporary
	}
	return false
}

// use runs fn, which reaches the remote.
func (s *ssh) use(ctx context.Context, fn func() error) error {
	if len(s.argv) == 0 {
		return fn()
	}
	s.begin(ctx)
	err := fn()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mu.users--
	kind := firn.KindOf(err)
	s.mu.worked = kind != firn.Unavailable && kind != firn.Denied && ctx.Err() == nil
	if s.mu.users == 0 && s.mu.master != nil {
		s.mu.idle = time.AfterFunc(idleAfter, s.expire)
	}
	return err
}

// begin makes the shared connection where there is none and it is worth it. A first use goes without, so that a remote
// that is away is waited for once, and that a command that says one thing makes one connection.
func (s *ssh) begin(ctx context.Context) {
	s.mu.Lock()
	s.mu.users++
	if s.mu.idle != nil {
		s.mu.idle.Stop()
		s.mu.idle = nil
	}
	old := s.mu.master
	if s.mu.making || s.mu.closed || old != nil && old.lives() || !s.mu.worked || time.Now().Before(s.mu.wait) {
		s.mu.Unlock()
		return
	}
	s.mu.making, s.mu.master = true, nil
	s.mu.Unlock()
	if old != nil {
		old.end()
	}
	m := s.connect(ctx)
	s.mu.Lock()
	s.mu.making = false
	if m == nil && ctx.Err() == nil {
		s.mu.wait = time.Now().Add(againAfter)
	}
	if !s.mu.closed {
		s.mu.master, m = m, nil
	}
	s.mu.Unlock()
	if m != nil {
		m.end()
	}
}

// connect starts the process and waits until its socket is there; nil says that it could not be made.
func (s *ssh) connect(ctx context.Context) *master {
	_ = os.Remove(s.socket) // of one that was killed
	own, cancel := context.WithCancel(context.Background())
	// What it says is of no interest: where it fails, git's own ssh will say it again.
	c := exec.CommandContext(own, "sh", append([]string{"-c", holder, "sh"}, s.argv...)...)
	c.Env, c.Dir = s.env, s.dir
	ownGroup(c)
	c.WaitDelay = 3 * time.Second
	stdin, err := c.StdinPipe()
	var stdout io.ReadCloser
	if err == nil {
		stdout, err = c.StdoutPipe()
	}
	if err == nil {
		err = c.Start()
	}
	if err != nil {
		cancel()
		return nil
	}
	m := &master{
		socket: s.socket, stdin: stdin, stdout: stdout, cancel: cancel,
		quiet: make(chan struct{}), ended: make(chan struct{}),
	}
	go func() {
		defer close(m.ended)
		_, _ = io.Copy(io.Discard, stdout) // nothing comes
		close(m.quiet)
		_ = c.Wait() // how it ended is of no interest
	}()
	late := time.NewTimer(s.most)
	defer late.Stop()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	quiet := m.quiet
	for !m.lives() {
		select {
		case <-tick.C:
			continue
		case <-quiet:
			// No socket until now, and hardly one to come.
			quiet = nil
			late.Reset(100 * time.Millisecond)
			continue
		case <-m.ended:
		case <-late.C:
		case <-ctx.Done():
		}
		m.end()
		return nil
	}
	return m
}

// expire ends a connection that nobody has used for idleAfter.
func (s *ssh) expire() {
	s.mu.Lock()
	m := s.mu.master
	if s.mu.users > 0 || m == nil {
		s.mu.Unlock()
		return
	}
	// One that ends removes the socket, which must not be that of the next.
	s.mu.master, s.mu.making = nil, true
	s.mu.Unlock()
	m.end()
	s.mu.Lock()
	s.mu.making = false
	s.mu.Unlock()
}

// close ends the connection.
func (s *ssh) close() {
	s.mu.Lock()
	m := s.mu.master
	s.mu.master, s.mu.closed = nil, true
	if s.mu.idle != nil {
		s.mu.idle.Stop()
	}
	s.mu.Unlock()
	if m != nil {
		m.end()
	}
	if s.dir != "" {
		_ = os.RemoveAll(s.dir) // of what is temporary
	}
}
