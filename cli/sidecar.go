package cli

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"firn"
	"firn/archive/sidecar"
	"firn/config"
	"firn/telemetry"
)

// sidecarAddress is where a sidecar listens and its commands look for it.
const sidecarAddress = "127.0.0.1:9011"

// sidecarCommands are the commands for the directories of services.
func sidecarCommands(env *Env) []*cobra.Command {
	all := []*cobra.Command{sidecarCommand(env), persistCommand(env)}
	for _, c := range all {
		c.GroupID = "backup"
	}
	return all
}

// sidecarCommand is `firn sidecar`.
func sidecarCommand(env *Env) *cobra.Command {
	s := sidecarFlags{targets: targetFlags{repoFlags: newRepoFlags(env)}}
	c := &cobra.Command{
		Use: "sidecar --dir DIR [-- COMMAND ARG...]", Short: "Keep the directory of a service safe, beside the service",
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 && cmd.ArgsLenAtDash() != 0 {
				return usageError("unknown command %q: see %s --help; the service's own command goes after --", args[0], cmd.CommandPath())
			}
			return nil
		},
		Long: `Restore the directory of a service, then back it up while the service runs, and once more when it ends. The service
knows nothing of it.

The backups are a repository in any place (--repo URL, with a password), or, with plain+ before the URL of a Git
repository or a database, readable files in commits or rows. Without a command after -- it runs beside the service,
which must not start before firn sidecar status --ready (or /readyz) says so. With a command it starts it when the
directory is restored, passes signals on, backs up after it ended, and exits with its code.

It never starts a service on an empty directory because the backups cannot be reached, and never overwrites data that is
in no backup: it waits, and says why. The first run is asked for with --init, or begins in a repository that is empty.

Every flag can be set as a variable: --lease-ttl as FIRN_SIDECAR_LEASE_TTL.`,
		Example: `  firn sidecar --dir /data --repo s3://backups/trustee
  firn sidecar --dir /data --repo file:/mnt/nas/trustee --init -- redis-server --dir /data
  firn sidecar --dir /etc/app --repo plain+git+ssh://git@host/app.git`,
	}
	c.RunE = func(cmd *cobra.Command, args []string) error {
		if err := fromEnvironment(cmd.Flags(), env, "FIRN_SIDECAR_"); err != nil {
			return err
		}
		return s.run(cmd.Context(), env, args)
	}
	s.register(c.Flags())
	c.AddCommand(sidecarStatusCommand(env), sidecarVersionsCommand(env), sidecarRollbackCommand(env),
		sidecarActionCommand(env, "accept", "Accept that the directory lost much", `Tell the sidecar that what it holds as an accident was none: it backs up what is there as a good version, and old
versions are removed again as new ones come.`),
		sidecarActionCommand(env, "backup", "Back up now", `Have the sidecar back up now, and wait for it.`))
	return c
}

// fromEnvironment sets flags that were not given from variables.
func fromEnvironment(f *pflag.FlagSet, env *Env, prefix string) error {
	var err error
	f.VisitAll(func(fl *pflag.Flag) {
		name := prefix + strings.ToUpper(strings.ReplaceAll(fl.Name, "-", "_"))
		v := env.variable(name)
		if v == "" || fl.Changed || err != nil {
			return
		}
		if serr := f.Set(fl.Name, v); serr != nil {
			err = usageError("%s: %w", name, serr)
		}
	})
	return err
}

// sidecarFlags are those of the sidecar itself.
type sidecarFlags struct {
	targets                                               targetFlags
	listen, logLevel, prefer, shrink, pre, post, conflict string
	interval, debounce, grace, patience, ttl, tend        durationFlag
	o                                                     sidecar.Options
	restoreOnly, noWatch                                  bool
}

// durationFlag is a flag that takes 5m, 1d and the like.
type durationFlag time.Duration

func (d *durationFlag) String() string { return time.Duration(*d).String() }
func (d *durationFlag) Type() string   { return "duration" }

func (d *durationFlag) Set(s string) error {
	v, err := config.ParseDuration(s)
	*d = durationFlag(v)
	return err
}

func (s *sidecarFlags) register(f *pflag.FlagSet) {
	s.targets.register(f)
	dur := func(p *durationFlag, name string, def time.Duration, usage string) {
		*p = durationFlag(def)
		f.Var(p, name, usage)
	}
	f.BoolVar(&s.o.Init, "init", false, "make the repository where there is none: the first run")
	f.StringVar(&s.prefer, "prefer", "", "directory or backup: which one is right where each has what the other has not")
	f.BoolVar(&s.restoreOnly, "restore-only", false, "restore and exit, as an init container does")
	dur(&s.interval, "interval", 5*time.Minute, "longest time between a change and its backup")
	dur(&s.debounce, "debounce", 5*time.Second, "quiet time after a change before it is backed up; after ten times that it is anyway")
	f.BoolVar(&s.noWatch, "no-watch", false, "do not watch for changes: back up on the interval only")
	f.IntVar(&s.targets.keep, "keep", 10, "versions to keep")
	f.StringVar(&s.shrink, "shrink", "50%", "part of the files or bytes whose loss between two backups is taken for an accident; 100% for none")
	dur(&s.grace, "grace", 25*time.Second, "time for the last backup after SIGTERM")
	dur(&s.patience, "patience", 0, "give up waiting at the start after this; 0 waits for ever")
	dur(&s.ttl, "lease-ttl", 30*time.Second, "silence after which another sidecar of this name is taken for dead")
	f.StringVar(&s.conflict, "second", "wait", "what to do while another sidecar of this name lives: wait or fail")
	dur(&s.tend, "prune-every", 24*time.Hour, "how often the space of removed versions is freed; 0 for never")
	f.StringVar(&s.pre, "pre", "", "shell command before each backup, such as pg_dump; the backup fails if it fails")
	f.StringVar(&s.post, "post", "", "shell command after each backup")
	f.StringVar(&s.listen, "listen", sidecarAddress, "address of status, probes and metrics; \"none\" for none")
	f.StringVar(&s.logLevel, "log-level", "info", "debug, info, warn or error")
}

func (s *sidecarFlags) run(ctx context.Context, env *Env, args []string) error {
	log, err := telemetry.NewLogger(env.Err, s.logLevel, !env.Terminal)
	if err != nil {
		return usageError("--log-level: %w", err)
	}
	if err := s.options(ctx, env, log); err != nil {
		return err
	}
	if s.restoreOnly && len(args) > 0 {
		return usageError("--restore-only starts no command")
	}
	sc, err := sidecar.New(s.o)
	if err != nil {
		return usageError("%w", err)
	}
	if s.listen != "none" && !s.restoreOnly {
		l, err := net.Listen("tcp", s.listen)
		if err != nil {
			return fmt.Errorf("listen: %w", err)
		}
		srv := &http.Server{Handler: sc.Handler(), ReadHeaderTimeout: 10 * time.Second, IdleTimeout: time.Minute}
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			_ = srv.Serve(l) // ends with Close
		}()
		defer func() {
			_ = srv.Close() // nothing is lost with it
			<-ended
		}()
	}
	err = s.both(ctx, env, sc, args, log)
	closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	if cerr := sc.Close(closing); cerr != nil {
		log.Warn("close", "error", cerr)
	}
	return err
}

// both runs the sidecar, and the service where it is the sidecar's child.
func (s *sidecarFlags) both(ctx context.Context, env *Env, sc *sidecar.Sidecar, args []string, log *slog.Logger) error {
	if err := sc.Start(ctx); err != nil {
		if ctx.Err() != nil {
			log.Info("stopped before the directory was restored: nothing was changed that the next start will not finish")
			return &exitError{code: exitFailed}
		}
		return err
	}
	switch {
	case s.restoreOnly:
		return nil
	case len(args) == 0:
		return sc.Keep(ctx)
	}
	child := &service{env: env, log: log}
	if err := child.start(args); err != nil {
		return err
	}
	keep, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	kept := make(chan error, 1)
	go func() { kept <- sc.Keep(keep) }()
	var err error
	select {
	case <-child.ended:
	case err = <-kept: // another sidecar is the writer: the service must not go on
		child.terminate()
		<-child.ended
		return err
	case <-ctx.Done():
		child.terminate()
		<-child.ended
	}
	stop()
	if err = <-kept; err != nil {
		return err
	}
	if code := child.code(); code != 0 {
		return &exitError{code: code}
	}
	return nil
}

// service is the service as the sidecar's child.
type service struct {
	env     *Env
	log     *slog.Logger
	cmd     *exec.Cmd
	ended   chan struct{}
	signals chan os.Signal
}

func (c *service) start(args []string) error {
	c.cmd = exec.Command(args[0], args[1:]...)
	c.cmd.Stdin, c.cmd.Stdout, c.cmd.Stderr, c.cmd.Env = c.env.In, c.env.Out, c.env.Err, c.env.Environ()
	// In a group of its own, so that a terminal's interrupt comes once: from here.
	c.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	// Before the service starts: it may tell others to signal at once. What is ignored here, as under nohup, stays so.
	c.ended, c.signals = make(chan struct{}), make(chan os.Signal, 8)
	for _, sig := range []os.Signal{syscall.SIGHUP, syscall.SIGUSR1, syscall.SIGUSR2, syscall.SIGWINCH} {
		if !signal.Ignored(sig) {
			signal.Notify(c.signals, sig)
		}
	}
	if err := c.cmd.Start(); err != nil {
		signal.Stop(c.signals)
		return fmt.Errorf("start the service: %w", err)
	}
	c.log.Info("the service was started", "pid", c.cmd.Process.Pid)
	go func() {
		for sig := range c.signals {
			_ = c.cmd.Process.Signal(sig) // it may have ended
		}
	}()
	go func() {
		_ = c.cmd.Wait() // code() tells how it ended
		signal.Stop(c.signals)
		close(c.signals)
		close(c.ended)
	}()
	return nil
}

// terminate asks the service to end, and waits for nothing.
func (c *service) terminate() { _ = c.cmd.Process.Signal(syscall.SIGTERM) } // it may have ended

// code is the service's exit code, as a shell would tell it.
func (c *service) code() int {
	if st, ok := c.cmd.ProcessState.Sys().(syscall.WaitStatus); ok && st.Signaled() {
		return 128 + int(st.Signal())
	}
	return c.cmd.ProcessState.ExitCode()
}

// options makes those of the library.
func (s *sidecarFlags) options(ctx context.Context, env *Env, log *slog.Logger) error {
	t := &s.targets
	if t.dir == "" {
		return usageError("which directory? give --dir")
	}
	dir, err := filepath.Abs(t.dir)
	if err != nil {
		return err
	}
	if err := sidecar.CheckName(t.name); err != nil {
		return usageError("--name: %w", err)
	}
	share, err := parseShare(s.shrink)
	if err != nil {
		return usageError("--shrink: %w", err)
	}
	switch sidecar.Prefer(s.prefer) {
	case sidecar.PreferNeither, sidecar.PreferDirectory, sidecar.PreferBackup:
	default:
		return usageError("--prefer %s: want directory or backup", s.prefer)
	}
	if s.conflict != "wait" && s.conflict != "fail" {
		return usageError("--second %s: want wait or fail", s.conflict)
	}
	if _, err := t.place(); err != nil {
		return err
	}
	t.log = log
	t.opener.watch = newMirrors(log)
	o := &s.o
	o.Metrics = t.opener.watch
	o.Dir, o.Open, o.Rules, o.Log, o.Shrink, o.Prefer = dir, t.open, t.rules, log, share, sidecar.Prefer(s.prefer)
	o.Keep = t.keep
	o.Interval, o.Debounce, o.Grace = time.Duration(s.interval), time.Duration(s.debounce), time.Duration(s.grace)
	o.Patience, o.TTL, o.NoWait, o.NoWatch = time.Duration(s.patience), time.Duration(s.ttl), s.conflict == "fail", s.noWatch
	if o.Tend = time.Duration(s.tend); o.Tend == 0 {
		o.Tend = -1
	}
	if host, err := os.Hostname(); err == nil {
		o.Info = fmt.Sprintf("%s, process %d", host, os.Getpid())
	}
	o.Pre, o.Post = shellCommand(env, s.pre), shellCommand(env, s.post)
	if o.Interval < time.Second || o.Keep < 1 {
		return usageError("--interval is 1s at least, --keep 1 at least")
	}
	return ctx.Err()
}

// shellCommand returns what runs a command, nil for none.
func shellCommand(env *Env, command string) func(context.Context) error {
	if command == "" {
		return nil
	}
	return func(ctx context.Context) error {
		c := exec.CommandContext(ctx, "/bin/sh", "-c", command)
		c.Stdout, c.Stderr, c.Env = env.Err, env.Err, env.Environ()
		c.WaitDelay = 5 * time.Second
		return c.Run()
	}
}

func parseShare(s string) (float64, error) {
	var n float64
	if _, err := fmt.Sscanf(strings.TrimSuffix(s, "%"), "%g", &n); err != nil {
		return 0, errors.New("want a part such as 50%")
	}
	if strings.HasSuffix(s, "%") {
		n /= 100
	}
	if n <= 0 || n > 1 {
		return 0, firn.NewError(firn.Invalid, "want more than 0%, and 100% at most")
	}
	return n, nil
}
