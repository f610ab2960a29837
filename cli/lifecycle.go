package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"

	"firn/adminapi"
)

func lifecycleCommand(env *Env) *cobra.Command {
	c := group("lifecycle", "Rules by which objects expire and move")
	admin := addAdminFlags(c, env)
	c.AddCommand(lifecycleRun(env, admin), lifecycleStatus(env, admin), lifecycleExplain(env, admin))
	return c
}

// parseAt reads a time, or a date at midnight UTC.
func parseAt(s string) (time.Time, error) {
	if s == "" {
		return time.Time{}, nil
	}
	t, err := time.Parse(time.RFC3339, s)
	if err != nil {
		if t, err = time.Parse(time.DateOnly, s); err != nil {
			return t, usageError("--at %s: want a date such as 2026-12-31, or a time such as 2026-12-31T12:00:00Z", s)
		}
	}
	return t, nil
}

func lifecycleRun(env *Env, admin *adminFlags) *cobra.Command {
	var o adminapi.LifecycleRun
	var at string
	c := &cobra.Command{
		Use: "run", Short: "Carry out the rules now, or say what they would do",
		Long: `Carry out the lifecycle rules of all buckets, or of one, now. The site does so by itself at lifecycle.interval.
--dry-run changes nothing and prints each version and upload that a rule would act on, with the reason; --at says for what
time. An object that is replaced while the rules are carried out is left alone.`,
		Args: cobra.NoArgs,
	}
	c.Flags().StringVar(&o.Bucket, "bucket", "", "only this bucket")
	c.Flags().StringVar(&o.Prefix, "prefix", "", "only keys that begin with this")
	c.Flags().BoolVar(&o.DryRun, "dry-run", false, "change nothing, and print what would be done")
	c.Flags().StringVar(&at, "at", "", "with --dry-run: decide for this date or time instead")
	c.RunE = func(cmd *cobra.Command, _ []string) (err error) {
		if o.At, err = parseAt(at); err != nil {
			return err
		}
		if at != "" && !o.DryRun {
			return usageError("--at goes with --dry-run")
		}
		site, err := admin.connect()
		if err != nil {
			return err
		}
		body, err := site.open(cmd.Context(), "POST", "/admin/v1/lifecycle/run", o)
		if err != nil {
			return err
		}
		defer body.Close()
		rep, err := lifecycleLines(body, func(it *adminapi.LifecycleItem, line []byte) error {
			switch {
			case asJSON(cmd):
				_, err := fmt.Fprintf(env.Out, "%s\n", line)
				return err
			case it != nil && (o.DryRun || it.Error != ""):
				return printLifecycleItem(env.Out, it)
			}
			return nil
		})
		if err != nil {
			return err
		}
		if !asJSON(cmd) {
			err = printLifecycleReport(env.Out, rep)
		}
		if err == nil && rep.Failed > 0 {
			err = &exitError{code: exitProblems}
		}
		return err
	}
	return c
}

// lifecycleLines gives each line of a run's answer to fn and returns its report.
func lifecycleLines(body io.Reader, fn func(it *adminapi.LifecycleItem, line []byte) error) (*adminapi.LifecycleReport, error) {
	var rep *adminapi.LifecycleReport
	err := lines(body, func(line []byte) error {
		var l adminapi.LifecycleLine
		if err := json.Unmarshal(line, &l); err != nil {
			return err
		}
		if l.Report != nil {
			rep = l.Report
		}
		return fn(l.Item, line)
	})
	if err == nil && rep == nil {
		err = errors.New("lifecycle: the site ended the answer before the run was through: look at its log and try again")
	}
	return rep, err
}

func printLifecycleItem(w io.Writer, it *adminapi.LifecycleItem) error {
	name := it.Bucket + "/" + it.Key
	if strings.ContainsFunc(name, func(r rune) bool { return r < ' ' || r == 0x7f }) {
		name = strconv.Quote(name)
	}
	if it.VersionID != "" && it.VersionID != "null" {
		name += " (" + it.VersionID + ")"
	}
	line := name + ": " + it.Reason
	if it.Error != "" {
		line += "; not done: " + it.Error
	}
	_, err := fmt.Fprintln(w, line)
	return err
}

func printLifecycleReport(w io.Writer, r *adminapi.LifecycleReport) error {
	verb := ""
	if r.DryRun {
		verb = "would "
	}
	for _, n := range r.Counts {
		if _, err := fmt.Fprintf(w, "%s: rule %q: %s%s %d, %s\n", n.Bucket, n.Rule, verb, n.Action, n.Objects, humanize.IBytes(uint64(max(0, n.Bytes)))); err != nil {
			return err
		}
	}
	for _, n := range r.Waiting {
		if _, err := fmt.Fprintf(w, "%s: %d moves wait for the tier, %s, the first due since %s; the tier has not taken them since %s: %s\n", n.Class,
			n.Objects, humanize.IBytes(uint64(max(0, n.Bytes))), when(n.Oldest), when(n.Since), n.Why); err != nil {
			return err
		}
	}
	line := fmt.Sprintf("%d versions and uploads in %d buckets with rules, in %s", r.Scanned, r.Buckets, time.Duration(r.Seconds*float64(time.Second)).Round(time.Millisecond))
	for _, n := range []struct {
		n    int64
		what string
	}{{r.Failed, "failed"}, {r.Changed, "changed meanwhile"}} {
		if n.n > 0 {
			line += fmt.Sprintf("; %d %s", n.n, n.what)
		}
	}
	_, err := fmt.Fprintln(w, line)
	return err
}

func lifecycleStatus(env *Env, admin *adminFlags) *cobra.Command {
	return &cobra.Command{
		Use: "status", Short: "Show what the last run did", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			site, err := admin.connect()
			if err != nil {
				return err
			}
			var rep adminapi.LifecycleReport
			if err := site.call(cmd.Context(), "GET", "/admin/v1/lifecycle", nil, &rep); err != nil {
				return err
			}
			switch {
			case asJSON(cmd):
				return emit(env.Out, rep)
			case rep.Began.IsZero():
				_, err = fmt.Fprintln(env.Out, "no run since the site started")
			default:
				if _, err = fmt.Fprintf(env.Out, "last run at %s\n", when(rep.Began)); err == nil {
					err = printLifecycleReport(env.Out, &rep)
				}
				if err == nil && rep.Error != "" {
					_, err = fmt.Fprintf(env.Out, "it ended early: %s\n", rep.Error)
				}
			}
			return err
		},
	}
}

func lifecycleExplain(env *Env, admin *adminFlags) *cobra.Command {
	var version, at string
	c := &cobra.Command{
		Use: "explain BUCKET/KEY", Short: "Say what the rules make of an object, and why", Args: oneArg("an object as BUCKET/KEY"),
		RunE: func(cmd *cobra.Command, args []string) error {
			bucket, key, ok := strings.Cut(args[0], "/")
			if !ok || bucket == "" || key == "" {
				return usageError("%s: want BUCKET/KEY", args[0])
			}
			when, err := parseAt(at)
			if err != nil {
				return err
			}
			q := url.Values{"bucket": {bucket}, "key": {key}, "version": {version}}
			if !when.IsZero() {
				q.Set("at", when.Format(time.RFC3339))
			}
			return explainLifecycle(cmd.Context(), env, admin, q, asJSON(cmd))
		},
	}
	c.Flags().StringVar(&version, "version-id", "", "this version instead of the current one")
	c.Flags().StringVar(&at, "at", "", "at this date or time instead of now")
	return c
}

func explainLifecycle(ctx context.Context, env *Env, admin *adminFlags, q url.Values, raw bool) error {
	site, err := admin.connect()
	if err != nil {
		return err
	}
	var it adminapi.LifecycleItem
	if err := site.call(ctx, "GET", "/admin/v1/lifecycle/explain?"+q.Encode(), nil, &it); err != nil {
		return err
	}
	if raw {
		return emit(env.Out, it)
	}
	return printLifecycleItem(env.Out, &it)
}
