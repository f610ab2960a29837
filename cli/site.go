package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"text/tabwriter"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"

	"firn"
	"firn/adminapi"
	"firn/config"
	"firn/node"
)

func statusCommand(env *Env) *cobra.Command {
	c := &cobra.Command{Use: "status", Short: "Show how the running site does", Args: noArgs}
	admin := addAdminFlags(c, env)
	ready := c.Flags().Bool("ready", false, "say only whether it is ready; exit code 1 where it is not (for health checks)")
	c.RunE = func(cmd *cobra.Command, _ []string) error {
		site, err := admin.connect()
		if err != nil {
			return err
		}
		var s adminapi.Status
		if err := site.call(cmd.Context(), "GET", "/admin/v1/status", nil, &s); err != nil {
			return err
		}
		if *ready {
			if !s.Ready {
				return &firn.Error{Kind: firn.Unavailable, Op: "site not ready", Err: errors.New(s.NotReady)}
			}
			return done(cmd, env, "ready", s.Listen)
		}
		if asJSON(cmd) {
			return emit(env.Out, s)
		}
		return printStatus(env.Out, &s)
	}
	return c
}

func printStatus(out io.Writer, s *adminapi.Status) error {
	size := func(n uint64) string { return humanize.IBytes(n) }
	state := "ready"
	if !s.Ready {
		state = "not ready: " + s.NotReady
	}
	scrub := "off"
	if s.Scrub.Rate > 0 {
		scrub = fmt.Sprintf("%s/s, %d rounds, %s checked", size(uint64(s.Scrub.Rate)), s.Scrub.Rounds, size(uint64(s.Scrub.Bytes)))
	}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintf(w, "state\t%s\n", state)
	fmt.Fprintf(w, "version\t%s, process %d\n", s.Version, s.PID)
	fmt.Fprintf(w, "up\t%s\n", (time.Duration(s.UptimeSeconds) * time.Second).String())
	fmt.Fprintf(w, "endpoint\t%s, region %s\n", s.Listen, s.Region)
	fmt.Fprintf(w, "data\t%s, durability %s\n", s.Data, s.Durability)
	fmt.Fprintf(w, "disk\t%s free of %s, %s kept in reserve\n", size(s.Disk.Free), size(s.Disk.Total), size(uint64(s.Disk.Reserve)))
	fmt.Fprintf(w, "memory\t%s of %s\n", size(s.Memory.Resident), size(uint64(s.Memory.Limit)))
	fmt.Fprintf(w, "journal\tentries %d to %d\n", s.Journal.First, s.Journal.Last)
	fmt.Fprintf(w, "scrub\t%s; %d corrupt found\n", scrub, s.Scrub.Corrupt)
	for _, t := range s.Tiers {
		fmt.Fprintf(w, "tier\t%s\n", t)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	if len(s.Buckets) == 0 {
		_, err := fmt.Fprintln(out, "no buckets")
		return err
	}
	fmt.Fprintln(w, "\nBUCKET\tOBJECTS\tVERSIONS\tBYTES\tVERSIONING")
	for _, b := range s.Buckets {
		fmt.Fprintf(w, "%s\t%d\t%d\t%s\t%s\n", b.Name, b.Objects, b.Versions, size(uint64(b.Bytes)), b.Versioning)
	}
	return w.Flush()
}

func journalCommand(env *Env) *cobra.Command {
	c := &cobra.Command{
		Use: "journal", Short: "Show every change of the namespace, in order", Args: noArgs,
		Long: `Show the journal of the running site: every change of the namespace, in the order of commits, with its
sequence number. With --json each line is one entry.`,
	}
	admin := addAdminFlags(c, env)
	from := c.Flags().Uint64("from", 0, "first sequence number; 0 is the oldest kept")
	follow := c.Flags().Bool("follow", false, "go on with new entries until interrupted")
	c.RunE = func(cmd *cobra.Command, _ []string) error {
		site, err := admin.connect()
		if err != nil {
			return err
		}
		path := "/admin/v1/journal?from=" + strconv.FormatUint(*from, 10)
		if *follow {
			path += "&follow=true"
		}
		body, err := site.open(cmd.Context(), "GET", path, nil)
		if err != nil {
			return err
		}
		defer body.Close()
		raw := asJSON(cmd)
		err = lines(body, func(line []byte) error {
			if raw {
				_, err := fmt.Fprintf(env.Out, "%s\n", line)
				return err
			}
			var e adminapi.JournalEntry
			if err := json.Unmarshal(line, &e); err != nil {
				return err
			}
			return printJournalEntry(env.Out, &e)
		})
		if *follow && cmd.Context().Err() != nil && errors.Is(err, context.Canceled) {
			return nil // interrupting is how following ends
		}
		return err
	}
	return c
}

func printJournalEntry(w io.Writer, e *adminapi.JournalEntry) error {
	subject := strconv.Quote(e.Bucket)
	if e.Key != "" {
		subject = strconv.Quote(e.Bucket + "/" + e.Key)
	}
	_, err := fmt.Fprintf(w, "%d %s %s %s", e.Seq, e.Time.Format("2006-01-02T15:04:05.000Z"), e.Op, subject)
	if err == nil && e.Op == "put" {
		_, err = fmt.Fprintf(w, " %d bytes", e.Size)
	}
	if err == nil && e.VersionID != "" && e.VersionID != "null" {
		_, err = fmt.Fprintf(w, " version %s", e.VersionID)
	}
	if err == nil {
		_, err = fmt.Fprintln(w)
	}
	return err
}

func checkCommand(env *Env) *cobra.Command {
	c := &cobra.Command{
		Use: "check", Short: "Check that all that is stored is there and whole", Args: noArgs,
		Long: `Check the store: that every record can be read, that every part file a record names is there with the right
length, and that none is left over. With --read every byte is compared with its checksum, of what is stored here. With
--tiers each tier is asked whether it has what versions say, in the right size.

The running site of --data or --admin is checked; with --offline a data directory that no site runs on.
Exit code 0: no problems; 3: problems found.`,
	}
	admin := addAdminFlags(c, env)
	var o adminapi.CheckOptions
	c.Flags().BoolVar(&o.Read, "read", false, "read back every byte and compare it with its checksum")
	c.Flags().BoolVar(&o.Tiers, "tiers", false, "ask the tiers whether they have what versions say")
	c.Flags().BoolVar(&o.Repair, "repair", false, "put right what can be put right without losing anything")
	offline := c.Flags().Bool("offline", false, "check the data directory itself; no site may run on it")
	c.RunE = func(cmd *cobra.Command, _ []string) error {
		var sum adminapi.CheckSummary
		raw := asJSON(cmd)
		found := func(p adminapi.Problem) error {
			if raw {
				return json.NewEncoder(env.Out).Encode(adminapi.CheckLine{Problem: &p})
			}
			return printProblem(env.Out, &p)
		}
		if *offline {
			if o.Tiers {
				return usageError("--tiers asks through the running site: leave out --offline")
			}
			if admin.url != "" {
				return usageError("--offline checks a directory of this machine: give --data, not --admin")
			}
			dir := admin.dataDir()
			if _, err := os.Stat(dir); err != nil {
				return fmt.Errorf("check: %w: name the data directory with --data", err)
			}
			cfg, err := config.Load(config.Sources{Env: env.Getenv})
			if err != nil {
				return err
			}
			if sum, err = node.CheckOffline(cmd.Context(), dir, cfg.Encryption, o, found); err != nil {
				return err
			}
		} else if err := checkOnline(cmd.Context(), admin, o, found, &sum); err != nil {
			return err
		}
		if raw {
			if err := json.NewEncoder(env.Out).Encode(adminapi.CheckLine{Summary: &sum}); err != nil {
				return err
			}
		} else if err := printSummary(env.Out, &sum, o.Read); err != nil {
			return err
		}
		if sum.Problems > sum.Repaired {
			return &exitError{code: exitProblems}
		}
		return nil
	}
	return c
}

func checkOnline(ctx context.Context, admin *adminFlags, o adminapi.CheckOptions, found func(adminapi.Problem) error, sum *adminapi.CheckSummary) error {
	site, err := admin.connect()
	if err != nil {
		return err
	}
	body, err := site.open(ctx, "POST", "/admin/v1/check", o)
	if err != nil {
		return err
	}
	defer body.Close()
	whole := false
	err = lines(body, func(line []byte) error {
		var l adminapi.CheckLine
		if err := json.Unmarshal(line, &l); err != nil {
			return err
		}
		switch {
		case l.Problem != nil:
			return found(*l.Problem)
		case l.Summary != nil:
			whole, *sum = true, *l.Summary
		}
		return nil
	})
	if err == nil && !whole {
		err = errors.New("check: the site ended the answer before the check was through: look at its log and try again")
	}
	return err
}

func printProblem(w io.Writer, p *adminapi.Problem) error {
	line := p.Kind + ":"
	if p.Bucket != "" {
		line += " " + strconv.Quote(p.Bucket+"/"+p.Key)
	}
	if p.VersionID != "" {
		line += " version " + p.VersionID
	}
	if p.Blob != "" {
		line += " file " + p.Blob
	}
	line += ": " + p.Detail
	if p.Repaired {
		line += " (repaired)"
	}
	_, err := fmt.Fprintln(w, line)
	return err
}

func printSummary(w io.Writer, s *adminapi.CheckSummary, read bool) error {
	bytes := "not read; use --read"
	if read {
		bytes = humanize.IBytes(uint64(s.Bytes)) + " read"
	}
	verdict := "no problems"
	if s.Problems > 0 {
		verdict = fmt.Sprintf("%d problems, %d repaired", s.Problems, s.Repaired)
	}
	_, err := fmt.Fprintf(w, "%s: %d buckets, %d versions, %d uploads, %d part files; contents %s\n",
		verdict, s.Buckets, s.Versions, s.Uploads, s.Blobs, bytes)
	return err
}

func pprofCommand(env *Env) *cobra.Command {
	c := &cobra.Command{
		Use: "pprof NAME", Short: "Save a profile of the running site for go tool pprof",
		Long: `Save a profile of the running site: cpu, heap, allocs, goroutine, mutex, block or trace.
Read it with go tool pprof FILE, a trace with go tool trace FILE.`,
		Args: oneArg("cpu, heap, allocs, goroutine, mutex, block or trace"),
	}
	admin := addAdminFlags(c, env)
	seconds := c.Flags().Int("seconds", 10, "how long to measure (cpu and trace)")
	out := c.Flags().String("out", "", "file to write (default NAME.pprof)")
	c.RunE = func(cmd *cobra.Command, args []string) error {
		var path string
		switch args[0] {
		case "cpu":
			path = "profile?seconds=" + strconv.Itoa(*seconds)
		case "trace":
			path = "trace?seconds=" + strconv.Itoa(*seconds)
		case "heap", "allocs", "goroutine", "mutex", "block":
			path = args[0]
		default:
			return usageError("there is no profile %q: cpu, heap, allocs, goroutine, mutex, block or trace", args[0])
		}
		if *seconds < 1 || *seconds > 50 {
			return usageError("--seconds %d: want 1 to 50", *seconds)
		}
		if *out == "" {
			*out = args[0] + ".pprof"
		}
		site, err := admin.connect()
		if err != nil {
			return err
		}
		body, err := site.open(cmd.Context(), "GET", "/debug/pprof/"+path, nil)
		if err != nil {
			return err
		}
		defer body.Close()
		f, err := os.Create(*out)
		if err != nil {
			return err
		}
		if _, err := io.Copy(f, body); err != nil {
			return errors.Join(err, f.Close())
		}
		if err := f.Close(); err != nil {
			return err
		}
		return done(cmd, env, "wrote", *out)
	}
	return c
}
