package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"firn"
	"firn/archive"
	"firn/archive/schedule"
	"firn/config"
	"firn/repo"
	"firn/telemetry"
)

// agentCommand is `firn agent`.
func agentCommand(env *Env) *cobra.Command {
	var file, state, listen string
	c := &cobra.Command{
		Use: "agent", Short: "Run the backups of the configuration at their times", Args: noArgs,
		Long: `Run the backups of the configuration's section backups at their times, until SIGTERM or an interrupt. A site that is
run by firn serve does so by itself. /metrics, /healthz and /status are served at --listen.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := config.Load(config.Sources{File: file, Env: env.Getenv})
			if err != nil {
				return &exitError{exitUsage, err}
			}
			if len(cfg.Backups) == 0 {
				return usageError("the configuration has no section backups: see docs/configuration.md")
			}
			asJSON := cfg.Log.Format == "json" || cfg.Log.Format == "auto" && !env.Terminal
			log, err := telemetry.NewLogger(env.Err, cfg.Log.Level, asJSON)
			if err != nil {
				return err
			}
			if state == "" {
				if state, err = stateFile(env); err != nil {
					return err
				}
			}
			watch := newMirrors(log)
			r, err := newSchedule(env, cfg, state, log, watch)
			if err != nil {
				return err
			}
			l, err := net.Listen("tcp", listen)
			if err != nil {
				return fmt.Errorf("%w: set --listen to an address that is free", err)
			}
			return runAgent(cmd.Context(), r, l, log, watch)
		},
	}
	f := c.Flags()
	f.StringVar(&file, "config", "", "configuration file (default firn.yaml where it exists; FIRN_CONFIG)")
	f.StringVar(&state, "state", "", "file that remembers runs (default schedule.json in $STATE_DIRECTORY or ~/.local/state/firn)")
	f.StringVar(&listen, "listen", "127.0.0.1:9003", "address of /metrics, /healthz and /status")
	return c
}

func stateFile(env *Env) (string, error) {
	dir := env.variable("STATE_DIRECTORY")
	if dir == "" {
		home, err := os.UserHomeDir()
		if err != nil {
			return "", usageError("where to remember runs? give --state FILE: %w", err)
		}
		dir = filepath.Join(home, ".local", "state", "firn")
	}
	return filepath.Join(dir, "schedule.json"), os.MkdirAll(dir, 0o700)
}

// runAgent runs the jobs and serves what is known of them.
func runAgent(ctx context.Context, r *schedule.Runner, l net.Listener, log *slog.Logger, watch *mirrors) error {
	reg := prometheus.NewRegistry()
	if err := errors.Join(reg.Register(r), reg.Register(watch)); err != nil {
		return errors.Join(err, l.Close())
	}
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(reg, promhttp.HandlerOpts{}))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		if !r.Healthy() {
			http.Error(w, "a job failed in its last run: see /status", http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, "ok")
	})
	mux.HandleFunc("GET /status", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(r.Status()) // a client that went away
	})
	srv := &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second, ReadTimeout: time.Minute, IdleTimeout: 2 * time.Minute}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			return err
		}
		return nil
	})
	g.Go(func() error {
		defer srv.Close() // there is nothing to wait for
		log.Info("agent is up", "listen", l.Addr().String(), "jobs", len(r.Status()))
		return r.Run(ctx)
	})
	return g.Wait()
}

// newSchedule makes the jobs of the configuration.
func newSchedule(env *Env, cfg *config.Effective, state string, log *slog.Logger, watch *mirrors) (*schedule.Runner, error) {
	var jobs []schedule.Job
	var names []string
	for name := range cfg.Backups {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		b := &scheduled{env: env, name: name, cfg: cfg.Backups[name], file: cfg.File, log: log.With("backup", name), watch: watch}
		for _, k := range []struct {
			name, when string
			run        func(context.Context, *repo.Repo) (int64, error)
		}{
			{name, b.cfg.Schedule, b.backup}, {name + " prune", b.cfg.Prune, b.prune}, {name + " drill", b.cfg.Drill, b.drill},
		} {
			if k.when == "" {
				continue
			}
			t, err := schedule.Parse(k.when)
			if err != nil {
				return nil, usageError("%s: backups.%s: %w", cfg.File, name, err)
			}
			jobs = append(jobs, schedule.Job{
				Name: k.name, Group: b.cfg.Repository, Times: t, Jitter: time.Duration(b.cfg.Jitter),
				Run: func(ctx context.Context) (int64, error) { return b.with(ctx, k.run) },
			})
		}
		if _, err := parsePercent(b.cfg.DrillSample); err != nil {
			return nil, usageError("%s: backups.%s.drill_sample: %w", cfg.File, name, err)
		}
	}
	return schedule.New(jobs, state, log)
}

// scheduled is one backup of the configuration.
type scheduled struct {
	env  *Env
	name string
	cfg  config.Backup
	file string
	log  *slog.Logger
	// watch hears of the mirrors that repositories lie in.
	watch *mirrors
}

// with opens the repository for one run.
func (b *scheduled) with(ctx context.Context, fn func(context.Context, *repo.Repo) (int64, error)) (bytes int64, err error) {
	env := *b.env
	env.In = strings.NewReader("") // nobody is there to be asked
	env.Getenv = func(name string) (string, bool) {
		switch name {
		case "FIRN_REPO_PASSWORD_FILE":
			return b.cfg.PasswordFile, true
		case "FIRN_REPO_PASSWORD_COMMAND":
			return b.cfg.PasswordCommand, true
		case "FIRN_REPO_PASSWORD":
			return "", false
		}
		return b.env.Getenv(name)
	}
	r := newRepoFlags(&env)
	r.url, r.compression, r.opener.file, r.opener.watch = b.cfg.Repository, b.cfg.Compression, b.file, b.watch
	err = r.with(ctx, repo.Options{}, func(re *repo.Repo) error {
		bytes, err = fn(ctx, re)
		return err
	})
	return bytes, err
}

func (b *scheduled) backup(ctx context.Context, re *repo.Repo) (int64, error) {
	o := archive.BackupOptions{Paths: b.cfg.Paths, Report: func(e archive.Event) {
		b.log.Warn("backup: "+e.What, "path", e.Path, "error", e.Err)
	}}
	o.Host, _ = os.Hostname() // a machine without a name makes snapshots without one
	o.Scan.Excludes, o.Scan.OneFileSystem, o.Scan.IgnoreFile = b.cfg.Exclude, b.cfg.OneFileSystem, ".firnignore"
	var res archive.BackupResult
	err := hooks{b.cfg.Pre, b.cfg.Post}.around(ctx, b.env, func() (err error) {
		if b.cfg.Command == "" {
			res, err = archive.Backup(ctx, re, o)
			return err
		}
		res, err = archive.BackupStream(ctx, re, o, archive.Command(strings.Trim(b.cfg.As, "/"), b.cfg.Command, b.env.Environ()))
		return err
	})
	if err != nil {
		return 0, err
	}
	s := res.Summary
	b.log.Info("snapshot", "id", res.Snapshot.ID.Short(), "files", s.Files, "bytes", s.Bytes, "stored", s.StoredBytes, "problems", s.Problems, "changed", s.Changed)
	return s.StoredBytes, b.forget(ctx, re, res.Snapshot)
}

// forget applies the policy to the snapshots of the same host and paths.
func (b *scheduled) forget(ctx context.Context, re *repo.Repo, last repo.Snapshot) error {
	c := &b.cfg
	p := archive.Policy{
		Last: c.KeepLast, Hourly: c.KeepHourly, Daily: c.KeepDaily, Weekly: c.KeepWeekly, Monthly: c.KeepMonthly,
		Yearly: c.KeepYearly, Within: time.Duration(c.KeepWithin),
	}
	if p.Empty() {
		return nil
	}
	snaps, err := re.Snapshots(ctx)
	if err != nil {
		return err
	}
	snaps = slices.DeleteFunc(snaps, func(s repo.Snapshot) bool { return s.Host != last.Host || !slices.Equal(s.Paths, last.Paths) })
	groups, err := archive.PlanForget(snaps, p, archive.DefaultGroup(), time.Now())
	if err != nil {
		return err
	}
	var gone []repo.ID
	for _, g := range groups {
		if g.Future > 0 {
			b.log.Warn("snapshots are from the future: this clock is wrong, or that one was. They stay and are not counted", "count", g.Future)
		}
		for _, d := range g.Decisions {
			if !d.Keep {
				gone = append(gone, d.Snapshot.ID)
			}
		}
	}
	if len(gone) == 0 {
		return nil
	}
	b.log.Info("forgetting snapshots", "count", len(gone))
	return re.Forget(ctx, gone...)
}

func (b *scheduled) prune(ctx context.Context, re *repo.Repo) (int64, error) {
	rep, err := re.Prune(ctx, repo.PruneOptions{Waits: func(w repo.Wait) {
		for _, s := range w.Sessions {
			b.log.Info("the prune waits to see whether a session still runs", "host", s.Host, "process", s.PID, "purpose", s.Purpose,
				"since", s.Started, "at_most", w.AtMost)
		}
	}})
	return rep.Freed, err
}

func (b *scheduled) drill(ctx context.Context, re *repo.Repo) (int64, error) {
	sample, err := parsePercent(b.cfg.DrillSample)
	if err != nil {
		return 0, err
	}
	want := archive.Filter{Paths: b.cfg.Paths}
	if b.cfg.Command != "" {
		want.Paths = []string{"/" + strings.Trim(b.cfg.As, "/")}
	}
	want.Host, _ = os.Hostname() // as the backup
	snap, _, err := archive.Locate(ctx, re, "latest", want)
	if err != nil {
		return 0, err
	}
	rep, err := archive.Drill(ctx, re, snap, archive.DrillOptions{Sample: sample})
	if err == nil && !rep.Passed {
		first := ""
		if len(rep.Failures) > 0 {
			first = fmt.Sprintf(", the first %s: %s", rep.Failures[0].Path, rep.Failures[0].Error)
		}
		err = &firn.Error{
			Kind: firn.Corrupt, Op: "drill of snapshot", Subject: snap.ID.Short(),
			Err: fmt.Errorf("%d of %d files did not come back%s: run firn repo check --read-data", rep.Result.Failed, rep.Result.Files, first),
		}
	}
	return rep.Result.Bytes, err
}
