package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"firn"
	"firn/archive/sidecar"
	"firn/repo"
)

// sidecarClient speaks to the sidecar that runs.
type sidecarClient struct {
	env *Env
	at  string
}

func (c *sidecarClient) register(f *pflag.FlagSet) {
	f.StringVar(&c.at, "at", "", "address of the sidecar (FIRN_SIDECAR_LISTEN; default "+sidecarAddress+")")
}

// errNoSidecar is found in errors where no sidecar answers.
var errNoSidecar = errors.New("no sidecar answers")

func (c *sidecarClient) call(ctx context.Context, method, path string) ([]byte, error) {
	at := c.at
	if at == "" {
		at = c.env.variable("FIRN_SIDECAR_LISTEN")
	}
	if at == "" {
		at = sidecarAddress
	}
	if strings.HasPrefix(at, ":") {
		at = "127.0.0.1" + at
	}
	at = strings.TrimPrefix(at, "http://")
	req, err := http.NewRequestWithContext(ctx, method, "http://"+at+path, nil)
	if err != nil {
		return nil, usageError("--at: %w", err)
	}
	req.Header.Set(sidecar.ActionHeader, "1")
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, &firn.Error{Kind: firn.Unavailable, Op: "ask the sidecar", Subject: "at " + at, Err: fmt.Errorf("%w: %w", errNoSidecar, err)}
	}
	defer res.Body.Close()
	p, err := io.ReadAll(io.LimitReader(res.Body, 1<<20))
	if err == nil && res.StatusCode != http.StatusOK {
		err = errors.New(strings.TrimSpace(string(p)))
	}
	return p, err
}

func sidecarStatusCommand(env *Env) *cobra.Command {
	c := sidecarClient{env: env}
	var ready bool
	var wait time.Duration
	cmd := &cobra.Command{
		Use: "status", Short: "Show what the sidecar does", Args: noArgs,
		Long: `Show what the sidecar of this machine does. The exit code is 0 where all is well, 3 where a person should look, and 1
where no sidecar answers. With --ready it is 0 once the directory is restored, whatever else is so: a startup probe.`,
	}
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		ctx, cancel := context.WithTimeout(cmd.Context(), max(wait, 5*time.Second))
		defer cancel()
		var t sidecar.Status
		for {
			p, err := c.call(ctx, http.MethodGet, "/status")
			if err == nil {
				err = json.Unmarshal(p, &t)
			}
			if err == nil && t.Ready || wait == 0 {
				if err != nil {
					return err
				}
				break
			}
			select {
			case <-ctx.Done():
				if err == nil {
					err = errors.New(t.Bad())
				}
				return fmt.Errorf("not ready after %s: %w", wait, err)
			case <-time.After(200 * time.Millisecond):
			}
		}
		bad := t.Bad()
		if ready && t.Ready {
			bad = ""
		}
		if err := showStatus(cmd, env, t); err != nil {
			return err
		}
		if bad != "" {
			return &exitError{code: exitProblems}
		}
		return nil
	}
	c.register(cmd.Flags())
	cmd.Flags().BoolVar(&ready, "ready", false, "exit with 0 once the directory is restored")
	cmd.Flags().DurationVar(&wait, "wait", 0, "wait this long for the directory to be restored")
	return cmd
}

func showStatus(cmd *cobra.Command, env *Env, t sidecar.Status) error {
	if asJSON(cmd) {
		return emit(env.Out, t)
	}
	w := tabwriter.NewWriter(env.Out, 0, 8, 2, ' ', 0)
	row := func(name, value string) {
		if value != "" {
			fmt.Fprintf(w, "%s\t%s\n", name, shown(value))
		}
	}
	row("phase", string(t.Phase))
	row("ready", fmt.Sprint(t.Ready))
	row("directory", t.Directory)
	row("target", t.Target)
	if t.Version != "" {
		row("version", fmt.Sprintf("%.12s, %d files, %s", t.Version, t.Files, humanize.IBytes(uint64(max(t.Bytes, 0)))))
	}
	if !t.LastBackup.IsZero() {
		row("last backup", when(t.LastBackup)+", "+humanize.Time(t.LastBackup))
	}
	if !t.Checked.IsZero() {
		row("as backed up", humanize.Time(t.Checked))
	}
	row("look at", t.Bad())
	return w.Flush()
}

func sidecarActionCommand(env *Env, what, short, long string) *cobra.Command {
	c := sidecarClient{env: env}
	cmd := &cobra.Command{
		Use: what, Short: short, Long: long, Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if _, err := c.call(cmd.Context(), http.MethodPost, "/"+what); err != nil {
				return err
			}
			return done(cmd, env, "the sidecar did", what)
		},
	}
	c.register(cmd.Flags())
	return cmd
}

func sidecarVersionsCommand(env *Env) *cobra.Command {
	t := targetFlags{repoFlags: newRepoFlags(env)}
	cmd := &cobra.Command{
		Use: "versions", Short: "List the versions of a directory", Args: noArgs,
		Long: `List the versions that a sidecar made, the oldest first. Held ones were made of a directory that had suddenly lost
much; they are not restored unless firn sidecar rollback names them.`,
	}
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if err := fromEnvironment(cmd.Flags(), env, "FIRN_SIDECAR_"); err != nil {
			return err
		}
		target, err := t.open(cmd.Context(), "", false)
		if err != nil {
			return err
		}
		versions, _, err := target.Versions(cmd.Context())
		if err = errors.Join(err, target.Close()); err != nil {
			return err
		}
		if asJSON(cmd) {
			return emit(env.Out, append([]sidecar.Version{}, versions...))
		}
		w := tabwriter.NewWriter(env.Out, 0, 8, 2, ' ', 0)
		fmt.Fprintln(w, "ID\tTIME\tFILES\tSIZE\t")
		for _, v := range versions {
			held := ""
			if v.Held {
				held = "held"
			}
			fmt.Fprintf(w, "%.12s\t%s\t%d\t%s\t%s\n", v.ID, when(v.Time), v.Files, humanize.IBytes(uint64(max(v.Bytes, 0))), held)
		}
		return w.Flush()
	}
	t.repoFlags.register(cmd.Flags())
	t.registerName(cmd.Flags())
	return cmd
}

func sidecarRollbackCommand(env *Env) *cobra.Command {
	c := sidecarClient{env: env}
	s := sidecarFlags{targets: targetFlags{repoFlags: newRepoFlags(env)}}
	cmd := &cobra.Command{
		Use: "rollback VERSION", Short: "Go back to an older version", Args: oneArg("a version: firn sidecar versions lists them"),
		Long: `Make an older version the newest one. Nothing is lost: what is there is backed up first, and stays a version.

Where a sidecar runs, it makes the version and stops backing up; restart sidecar and service, and they go on from there.
With --dir no sidecar may run, nor the service: the directory is restored at once.`,
	}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if s.targets.dir == "" {
			if _, err := c.call(cmd.Context(), http.MethodPost, "/rollback?to="+url.QueryEscape(args[0])); err != nil {
				if errors.Is(err, errNoSidecar) {
					err = fmt.Errorf("%w; without one, give --dir and --repo", err)
				}
				return err
			}
			return done(cmd, env, "rolled back; restart the sidecar and the service to go on from", args[0])
		}
		return s.rollback(cmd, env, args[0])
	}
	c.register(cmd.Flags())
	s.register(cmd.Flags())
	return cmd
}

// rollback does without a running sidecar.
func (s *sidecarFlags) rollback(cmd *cobra.Command, env *Env, rev string) error {
	ctx := cmd.Context()
	if err := s.options(ctx, env, nil); err != nil {
		return err
	}
	s.o.NoWait, s.o.Log = true, nil
	if s.o.Patience == 0 {
		s.o.Patience = time.Minute
	}
	sc, err := sidecar.New(s.o)
	if err != nil {
		return usageError("%w", err)
	}
	closing, release := repo.Closing(ctx)
	defer release()
	err = sc.Start(ctx)
	if err == nil {
		err = sc.Rollback(ctx, rev)
	}
	if err = errors.Join(err, sc.Close(closing)); err != nil {
		return err
	}
	return done(cmd, env, s.o.Dir+" holds version", rev)
}
