package cli

import (
	"fmt"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"

	"firn/archive"
	"firn/config"
	"firn/repo"
)

// shownSnapshot is a snapshot in JSON.
type shownSnapshot struct {
	ID repo.ID `json:"id"`
	repo.Snapshot
}

func showSnapshots(all []repo.Snapshot) []shownSnapshot {
	out := make([]shownSnapshot, len(all))
	for i, s := range all {
		out[i] = shownSnapshot{s.ID, s}
	}
	return out
}

func snapshotsCommand(env *Env) *cobra.Command {
	r := newRepoFlags(env)
	c := &cobra.Command{
		Use: "snapshots", Short: "List snapshots, and look into them", Args: noArgs,
		Long: `List the snapshots of a repository, the oldest first.`,
	}
	want := snapshotFilter(c.Flags())
	c.RunE = func(cmd *cobra.Command, _ []string) error {
		return r.with(cmd.Context(), repo.Options{ReadOnly: true}, func(re *repo.Repo) error {
			snaps, err := re.Snapshots(cmd.Context())
			if err != nil {
				return err
			}
			kept := []repo.Snapshot{}
			for _, s := range snaps {
				if want.Match(s) {
					kept = append(kept, s)
				}
			}
			if asJSON(cmd) {
				return emit(env.Out, showSnapshots(kept))
			}
			w := tabwriter.NewWriter(env.Out, 0, 8, 2, ' ', 0)
			fmt.Fprintln(w, "ID\tTIME\tHOST\tPATHS\tTAGS\tFILES\tSIZE\tUNREADABLE")
			for _, s := range kept {
				unreadable := ""
				if n := s.Summary["unreadable"]; n > 0 {
					unreadable = fmt.Sprint(n)
				}
				fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%d\t%s\t%s\n", s.ID.Short(), when(s.Time), s.Host, names(s.Paths), names(s.Tags),
					s.Summary["files"], humanize.IBytes(uint64(s.Summary["bytes"])), unreadable)
			}
			return w.Flush()
		})
	}
	r.register(c.Flags())
	c.AddCommand(snapshotListCommand(env), snapshotFindCommand(env), snapshotDiffCommand(env), snapshotTagCommand(env))
	return c
}

func forgetCommand(env *Env) *cobra.Command {
	r := newRepoFlags(env)
	var (
		p       archive.Policy
		o       repo.PruneOptions
		within  string
		by      string
		timeout string
		dry     bool
		prune   bool
	)
	c := &cobra.Command{
		Use: "forget [SNAPSHOT...]", Short: "Remove snapshots, by a policy or by id",
		Long: `Remove the snapshots that no rule keeps, or those that are named. Rules look at each group of snapshots by itself,
of the same host and the same paths unless --group-by says otherwise, and the newest of a group always stays. The
space comes back with --prune, or with firn repo prune later. --dry-run tells for each snapshot what would happen, and why.`,
		Example: `  firn forget --keep-daily 7 --keep-weekly 5 --keep-monthly 12 --dry-run
  firn forget 4f1c2a`,
	}
	want := snapshotFilter(c.Flags())
	c.RunE = func(cmd *cobra.Command, args []string) error {
		group, err := parseGroupBy(by)
		if err != nil {
			return err
		}
		if within != "" {
			d, err := config.ParseDuration(within)
			if err != nil {
				return usageError("--keep-within: %w", err)
			}
			p.Within = time.Duration(d)
		}
		if timeout != "" {
			if !prune {
				return usageError("--session-timeout goes with --prune")
			}
			d, err := config.ParseDuration(timeout)
			if err != nil {
				return usageError("--session-timeout: %w", err)
			}
			o.SessionTimeout = time.Duration(d)
		}
		if len(args) > 0 != p.Empty() {
			return usageError("name snapshots, or rules of what to keep (--keep-...), not both")
		}
		return r.with(cmd.Context(), repo.Options{}, func(re *repo.Repo) error {
			var gone []repo.ID
			for _, a := range args {
				s, err := re.Snapshot(cmd.Context(), a)
				if err != nil {
					return err
				}
				gone = append(gone, s.ID)
			}
			if len(args) == 0 {
				snaps, err := re.Snapshots(cmd.Context())
				if err != nil {
					return err
				}
				kept := snaps[:0]
				for _, s := range snaps {
					if want.Match(s) {
						kept = append(kept, s)
					}
				}
				groups, err := archive.PlanForget(kept, p, group, time.Now())
				if err != nil {
					return usageError("%w", err)
				}
				for _, g := range groups {
					for _, d := range g.Decisions {
						if !d.Keep {
							gone = append(gone, d.Snapshot.ID)
						}
					}
				}
				if err := showForget(cmd, env, groups); err != nil {
					return err
				}
			}
			if dry {
				return nil
			}
			if err := re.Forget(cmd.Context(), gone...); err != nil {
				return err
			}
			if !asJSON(cmd) {
				fmt.Fprintf(env.Out, "forgot %d snapshots\n", len(gone))
			}
			if !prune {
				return nil
			}
			o.Waits = waits(cmd, env)
			rep, err := re.Prune(cmd.Context(), o)
			if err != nil {
				return err
			}
			return showPrune(cmd, env, rep, false)
		})
	}
	r.register(c.Flags())
	f := c.Flags()
	f.IntVar(&p.Last, "keep-last", 0, "keep the newest N")
	f.IntVar(&p.Hourly, "keep-hourly", 0, "keep the newest of each of the last N hours that have one")
	f.IntVar(&p.Daily, "keep-daily", 0, "of days")
	f.IntVar(&p.Weekly, "keep-weekly", 0, "of weeks")
	f.IntVar(&p.Monthly, "keep-monthly", 0, "of months")
	f.IntVar(&p.Yearly, "keep-yearly", 0, "of years")
	f.StringVar(&within, "keep-within", "", "keep those not older than this before the newest, such as 14d")
	f.StringArrayVar(&p.Tags, "keep-tag", nil, "keep those with this tag (may be repeated)")
	f.StringVar(&by, "group-by", "host,paths", "what snapshots of one group share: host, paths, tags, or nothing")
	f.BoolVar(&dry, "dry-run", false, "only tell what would happen")
	f.BoolVar(&prune, "prune", false, "then give back the space of what no snapshot needs, as firn repo prune does")
	f.StringVar(&timeout, "session-timeout", "", "with --prune: how long a backup must show no sign of life to be taken for dead (default 5m)")
	return c
}

func parseGroupBy(s string) (archive.GroupBy, error) {
	var g archive.GroupBy
	for part := range strings.SplitSeq(s, ",") {
		switch strings.TrimSpace(part) {
		case "host":
			g.Host = true
		case "paths":
			g.Paths = true
		case "tags":
			g.Tags = true
		case "":
		default:
			return g, usageError("--group-by %s: want host, paths and tags, separated by commas", s)
		}
	}
	return g, nil
}

func showForget(cmd *cobra.Command, env *Env, groups []archive.ForgetGroup) error {
	if asJSON(cmd) {
		type decision struct {
			ID   repo.ID   `json:"id"`
			Time time.Time `json:"time"`
			archive.Decision
		}
		type shown struct {
			archive.ForgetGroup
			Decisions []decision `json:"decisions"`
		}
		all := []shown{}
		for _, g := range groups {
			s := shown{ForgetGroup: g}
			for _, d := range g.Decisions {
				s.Decisions = append(s.Decisions, decision{d.Snapshot.ID, d.Snapshot.Time, d})
			}
			all = append(all, s)
		}
		return emit(env.Out, all)
	}
	w := tabwriter.NewWriter(env.Out, 0, 8, 2, ' ', 0)
	for _, g := range groups {
		fmt.Fprintf(w, "%s %s %s\n", g.Host, names(g.Paths), names(g.Tags))
		for _, d := range g.Decisions {
			verb, why := "forget", "no rule keeps it"
			if d.Keep {
				verb, why = "keep", strings.Join(d.Reasons, ", ")
			}
			fmt.Fprintf(w, "  %s\t%s\t%s\t%s\n", verb, d.Snapshot.ID.Short(), when(d.Snapshot.Time), why)
		}
	}
	if err := w.Flush(); err != nil {
		return err
	}
	for _, g := range groups {
		if g.Future > 0 {
			fmt.Fprintf(env.Err, "firn: %d snapshots of %s %s are from the future: this clock is wrong, or that one was. They stay and are not counted; "+
				"firn forget ID removes one\n", g.Future, g.Host, names(g.Paths))
		}
	}
	return nil
}
