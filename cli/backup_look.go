package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"

	"firn/archive"
	"firn/archive/scan"
	"firn/archive/tree"
	"firn/repo"
)

// shownNode is a node in JSON.
type shownNode struct {
	Path   string    `json:"path"`
	Type   string    `json:"type"`
	Mode   string    `json:"mode"`
	User   string    `json:"user,omitempty"`
	Group  string    `json:"group,omitempty"`
	UID    uint32    `json:"uid"`
	GID    uint32    `json:"gid"`
	Size   int64     `json:"size"`
	Mtime  time.Time `json:"mtime"`
	Target string    `json:"target,omitempty"`
	Links  uint64    `json:"links,omitempty"`
	Error  string    `json:"error,omitempty"`
	// Changed: it changed while it was read.
	Changed  bool   `json:"changed,omitempty"`
	Database bool   `json:"database,omitempty"`
	Snapshot string `json:"snapshot,omitempty"`
}

func showNode(n *tree.Node) shownNode {
	s := shownNode{
		Path: "/" + n.Path, Type: string(n.Type), Mode: fmt.Sprintf("%04o", n.Mode), User: n.User, Group: n.Group, UID: n.UID,
		GID: n.GID, Size: n.Size, Mtime: time.Unix(n.Mtime.Sec, int64(n.Mtime.Nsec)), Target: n.Target, Error: n.Err,
		Changed: n.Changed, Database: n.Database,
	}
	if n.Links > 1 {
		s.Links = n.Links
	}
	return s
}

// printNode prints a node as ls -l would.
func printNode(w io.Writer, n *tree.Node) error {
	owner := func(name string, id uint32) string {
		if name != "" {
			return name
		}
		return fmt.Sprint(id)
	}
	note := ""
	switch {
	case n.Err != "":
		note = " (not read: " + n.Err + ")"
	case n.Changed:
		note = " (changed while it was read)"
	case n.Type == tree.Symlink:
		note = " -> " + shown(n.Target)
	}
	_, err := fmt.Fprintf(w, "%c%04o %s %s %10s %s %s%s\n", n.Type, n.Mode, owner(n.User, n.UID), owner(n.Group, n.GID),
		humanize.IBytes(uint64(n.Size)), when(time.Unix(n.Mtime.Sec, 0)), shown("/"+n.Path), note)
	return err
}

func snapshotListCommand(env *Env) *cobra.Command {
	r := newRepoFlags(env)
	var recursive bool
	c := &cobra.Command{
		Use: "ls SNAPSHOT[:PATH]", Short: "List the files in a snapshot", Args: oneArg("a snapshot: an id, or latest"),
		Example: `  firn snapshots ls latest:/home/ann
  firn snapshots ls -r 4f1c2a`,
	}
	want := snapshotFilter(c.Flags())
	c.RunE = func(cmd *cobra.Command, args []string) error {
		return r.with(cmd.Context(), repo.Options{ReadOnly: true}, func(re *repo.Repo) error {
			snap, dir, err := archive.Locate(cmd.Context(), re, args[0], *want)
			if err != nil {
				return err
			}
			if dir != "" {
				if _, err := tree.Find(cmd.Context(), re, snap.Root, dir); err != nil {
					return err
				}
			}
			depth := strings.Count(dir, "/") + 1
			if dir == "" {
				depth = 0
			}
			return eachNode(cmd.Context(), re, snap, dir, func(n *tree.Node) error {
				// All is walked: entries of one directory do not stand side by side.
				if !recursive && strings.Count(n.Path, "/") > depth {
					return nil
				}
				if asJSON(cmd) {
					return line(env.Out, showNode(n))
				}
				return printNode(env.Out, n)
			})
		})
	}
	r.register(c.Flags())
	c.Flags().BoolVarP(&recursive, "recursive", "r", false, "and all that is in the directories")
	return c
}

// eachNode calls fn for the nodes of a snapshot that are dir or beneath it.
func eachNode(ctx context.Context, re *repo.Repo, snap repo.Snapshot, dir string, fn func(*tree.Node) error) error {
	it := tree.Walk(ctx, re, snap.Root, dir)
	defer it.Close()
	for {
		n, err := it.Next()
		if err != nil || n == nil {
			return err
		}
		if err := fn(n); err != nil {
			return err
		}
	}
}

func snapshotFindCommand(env *Env) *cobra.Command {
	r := newRepoFlags(env)
	c := &cobra.Command{
		Use: "find PATTERN...", Short: "Find files in all snapshots", Args: someArgs(1, "a pattern, such as '*.conf'"),
		Long: `Find the files that a pattern, as of gitignore, matches in all snapshots, or in those that are chosen. Each is shown
once for each state it had.`,
		Example: `  firn snapshots find thesis.tex
  firn snapshots find --host shop '/etc/**/*.conf'`,
	}
	want := snapshotFilter(c.Flags())
	c.RunE = func(cmd *cobra.Command, args []string) error {
		match := scan.NewPatterns(args)
		return r.with(cmd.Context(), repo.Options{ReadOnly: true}, func(re *repo.Repo) error {
			snaps, err := re.Snapshots(cmd.Context())
			if err != nil {
				return err
			}
			seen := map[string]string{}
			for _, s := range snaps {
				if !want.Match(s) {
					continue
				}
				if err := eachNode(cmd.Context(), re, s, "", func(n *tree.Node) error {
					if !match.Match(n.Path, n.Type == tree.Dir) {
						return nil
					}
					state := fmt.Sprint(n.Type, n.Mode, n.UID, n.GID, n.Mtime, n.Size)
					if seen[n.Path] == state {
						return nil
					}
					seen[n.Path] = state
					if asJSON(cmd) {
						v := showNode(n)
						v.Snapshot = s.ID.String()
						return line(env.Out, v)
					}
					fmt.Fprintf(env.Out, "%s ", s.ID.Short())
					return printNode(env.Out, n)
				}); err != nil {
					return err
				}
			}
			return nil
		})
	}
	r.register(c.Flags())
	return c
}

func snapshotDiffCommand(env *Env) *cobra.Command {
	r := newRepoFlags(env)
	c := &cobra.Command{
		Use: "diff SNAPSHOT[:PATH] SNAPSHOT", Short: "Show what differs between two snapshots",
		Args: fromTo(2, 2, "an older and a newer snapshot"),
		Long: `Show what differs between two snapshots: + is only in the second, - only in the first, M has other content, T is of
another type, U has another owner, mode, time or attribute.`,
	}
	c.RunE = func(cmd *cobra.Command, args []string) error {
		return r.with(cmd.Context(), repo.Options{ReadOnly: true}, func(re *repo.Repo) error {
			older, dir, err := archive.Locate(cmd.Context(), re, args[0], archive.Filter{})
			if err != nil {
				return err
			}
			newer, _, err := archive.Locate(cmd.Context(), re, args[1], archive.Filter{})
			if err != nil {
				return err
			}
			counts := map[string]int{}
			err = archive.Diff(cmd.Context(), re, older, newer, dir, func(d archive.Difference) error {
				sign := "U"
				switch {
				case d.Old == nil:
					sign = "+"
				case d.New == nil:
					sign = "-"
				case d.Type:
					sign = "T"
				case d.Content:
					sign = "M"
				}
				counts[sign]++
				if asJSON(cmd) {
					return line(env.Out, map[string]string{"change": sign, "path": d.Path})
				}
				_, err := fmt.Fprintf(env.Out, "%s %s\n", sign, shown(d.Path))
				return err
			})
			if err == nil && !asJSON(cmd) {
				fmt.Fprintf(env.Err, "%d new, %d gone, %d modified, %d of another type, %d with other metadata\n",
					counts["+"], counts["-"], counts["M"], counts["T"], counts["U"])
			}
			return err
		})
	}
	r.register(c.Flags())
	return c
}

func snapshotTagCommand(env *Env) *cobra.Command {
	r := newRepoFlags(env)
	var add, remove []string
	c := &cobra.Command{
		Use: "tag SNAPSHOT --add TAG --remove TAG", Short: "Change the tags of a snapshot", Args: oneArg("a snapshot: an id, or latest"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(add)+len(remove) == 0 {
				return usageError("give --add TAG or --remove TAG")
			}
			return r.with(cmd.Context(), repo.Options{}, func(re *repo.Repo) error {
				snap, _, err := archive.Locate(cmd.Context(), re, args[0], archive.Filter{})
				if err != nil {
					return err
				}
				if _, err := re.Tag(cmd.Context(), snap.ID, func(s *repo.Snapshot) { s.Tags = changeTags(s.Tags, add, remove) }); err != nil {
					return err
				}
				return done(cmd, env, "tagged", snap.ID.Short())
			})
		},
	}
	r.register(c.Flags())
	c.Flags().StringArrayVar(&add, "add", nil, "tag to add (may be repeated)")
	c.Flags().StringArrayVar(&remove, "remove", nil, "tag to take away (may be repeated)")
	return c
}

func changeTags(tags, add, remove []string) []string {
	set := map[string]bool{}
	var out []string
	for _, t := range remove {
		set[t] = true
	}
	for _, t := range append(append([]string{}, tags...), add...) {
		if !set[t] {
			set[t] = true
			out = append(out, t)
		}
	}
	return out
}

func drillCommand(env *Env) *cobra.Command {
	r := newRepoFlags(env)
	var (
		o      archive.DrillOptions
		sample string
		report string
		quiet  bool
	)
	c := &cobra.Command{
		Use: "drill [SNAPSHOT]", Short: "Prove that a snapshot restores", Args: fromTo(0, 1, "a snapshot: an id, or latest"),
		Long: `Restore a sample of a snapshot, or all of it, to a scratch directory as a real restore would, read it back from the
disk, compare each file with the hashes in the snapshot, and write a report. The scratch directory is removed. The
exit code is 3 where a file did not come back.`,
		Example: `  firn drill
  firn drill latest --sample 100% --scratch /mnt/spare --report /var/log/firn/drill.json`,
	}
	want := snapshotFilter(c.Flags())
	c.RunE = func(cmd *cobra.Command, args []string) error {
		part, err := parsePercent(sample)
		if err != nil {
			return err
		}
		o.Sample = part
		name := "latest"
		if len(args) == 1 {
			name = args[0]
		}
		return r.with(cmd.Context(), repo.Options{ReadOnly: true}, func(re *repo.Repo) error {
			snap, _, err := archive.Locate(cmd.Context(), re, name, *want)
			if err != nil {
				return err
			}
			o.Progress = &archive.Progress{}
			rep := newReporter(cmd.Context(), cmd, env, quiet, o.Progress)
			defer rep.stop()
			if !asJSON(cmd) {
				o.Report = rep.report
			}
			res, err := archive.Drill(cmd.Context(), re, snap, o)
			rep.stop()
			if err != nil {
				return err
			}
			return drillReport(cmd, env, res, report, quiet)
		})
	}
	r.register(c.Flags())
	f := c.Flags()
	f.StringVar(&sample, "sample", "5%", "part of the files to restore")
	f.Uint64Var(&o.Seed, "seed", 0, "repeats the sample of an earlier report")
	f.StringVar(&o.Dir, "scratch", "", "directory to restore to (default: the system's for temporary files)")
	f.StringVar(&report, "report", "", "file to write the report to, as JSON")
	f.BoolVarP(&quiet, "quiet", "q", false, "print failures only")
	return c
}

func drillReport(cmd *cobra.Command, env *Env, res archive.DrillReport, file string, quiet bool) error {
	if file != "" {
		b, err := json.MarshalIndent(res, "", "  ")
		if err == nil {
			err = os.WriteFile(file, append(b, '\n'), 0o644)
		}
		if err != nil {
			return err
		}
	}
	verdict := "passed"
	if !res.Passed {
		verdict = "FAILED"
	}
	switch {
	case asJSON(cmd):
		if err := emit(env.Out, res); err != nil {
			return err
		}
	case !quiet || !res.Passed:
		w := tabwriter.NewWriter(env.Out, 0, 8, 2, ' ', 0)
		fmt.Fprintf(w, "drill\t%s\n", verdict)
		fmt.Fprintf(w, "snapshot\t%s of %s, %s %s\n", res.Snapshot[:8], when(res.Taken), res.Host, names(res.Paths))
		fmt.Fprintf(w, "restored\t%d of %d files, %s\n", res.Result.Files, res.Total, humanize.IBytes(uint64(res.Result.Bytes)))
		fmt.Fprintf(w, "verified\t%d\n", res.Result.Verified)
		fmt.Fprintf(w, "failed\t%d\n", res.Result.Failed)
		fmt.Fprintf(w, "took\t%s\n", res.Ended.Sub(res.Begun).Round(10*time.Millisecond))
		fmt.Fprintf(w, "seed\t%d\n", res.Seed)
		if err := w.Flush(); err != nil {
			return err
		}
	}
	if res.Passed {
		return nil
	}
	return &exitError{code: exitProblems}
}

// parsePercent reads 5% or 0.05.
func parsePercent(s string) (float64, error) {
	var v float64
	n, isPercent := strings.CutSuffix(strings.TrimSpace(s), "%")
	if _, err := fmt.Sscanf(n, "%g", &v); err != nil || n == "" {
		return 0, usageError("%q: want a part such as 5%%", s)
	}
	if isPercent {
		v /= 100
	}
	if !(v > 0 && v <= 1) {
		return 0, usageError("%q: want a part from more than 0%% to 100%%", s)
	}
	return v, nil
}

func exportCommand(env *Env) *cobra.Command {
	r := newRepoFlags(env)
	var compress string
	c := &cobra.Command{
		Use: "export SNAPSHOT[:PATH] FILE", Short: "Write a snapshot as a tar file", Args: fromTo(2, 2, "a snapshot and a file, - for the standard output"),
		Long: `Write a snapshot, or the directory or file at PATH in it, as a tar file that any tar can read. The file's name says
how it is compressed: .tar, .tar.gz or .tgz, .tar.zst or .tzst.`,
		Example: `  firn export latest home.tar.zst
  firn export latest:/home/ann - --compress gzip | ssh other tar xz`,
	}
	want := snapshotFilter(c.Flags())
	c.RunE = func(cmd *cobra.Command, args []string) error {
		how := archive.CompressionOf(args[1])
		if compress != "" {
			if how = archive.Compression(compress); how == "none" {
				how = archive.Plain
			}
		}
		return r.with(cmd.Context(), repo.Options{ReadOnly: true}, func(re *repo.Repo) error {
			snap, dir, err := archive.Locate(cmd.Context(), re, args[0], *want)
			if err != nil {
				return err
			}
			left := 0
			report := func(e archive.Event) {
				left++
				fmt.Fprintf(env.Err, "left out %s: %v\n", shown(e.Path), e.Err)
			}
			var n int64
			if args[1] == "-" {
				n, err = archive.Export(cmd.Context(), re, snap, dir, how, env.Out, report)
			} else {
				err = exportTo(args[1], func(w io.Writer) error {
					n, err = archive.Export(cmd.Context(), re, snap, dir, how, w, report)
					return err
				})
			}
			if err != nil {
				return err
			}
			if args[1] != "-" && !asJSON(cmd) {
				fmt.Fprintf(env.Out, "wrote %d entries of %s to %s\n", n, snap.ID.Short(), args[1])
			}
			if left > 0 {
				return &exitError{code: exitProblems}
			}
			return nil
		})
	}
	r.register(c.Flags())
	c.Flags().StringVar(&compress, "compress", "", "gzip, zstd or none, whatever the file is called")
	return c
}

// exportTo writes a file that appears under its name only when it is whole and on stable storage.
func exportTo(name string, fn func(io.Writer) error) error {
	f, err := os.CreateTemp(filepath.Dir(name), "."+filepath.Base(name)+".")
	if err != nil {
		return err
	}
	err = fn(f)
	if err == nil {
		err = f.Sync()
	}
	err = errors.Join(err, f.Close())
	if err == nil {
		err = os.Rename(f.Name(), name)
	}
	if err != nil {
		_ = os.Remove(f.Name()) // what is left says by its name that it is not the file
	}
	return err
}

func importCommand(env *Env) *cobra.Command {
	r := newRepoFlags(env)
	var o archive.BackupOptions
	var as string
	c := &cobra.Command{
		Use: "import FILE --as PATH", Short: "Make a snapshot of a tar file", Args: oneArg("a tar file, - for the standard input"),
		Long: `Make a snapshot of a tar file, plain or compressed by gzip or zstd: what it holds is beneath PATH in the snapshot.`,
		Example: `  firn import old-backup.tar.gz --as /srv/app
  ssh other tar c /srv/app | firn import - --as / --host other`,
	}
	c.RunE = func(cmd *cobra.Command, args []string) error {
		if as == "" || !path.IsAbs(as) {
			return usageError("--as: say where the files are in the snapshot, such as / or /srv/app")
		}
		o.Paths = []string{path.Clean(as)}
		in := env.In
		if args[0] != "-" {
			f, err := os.Open(args[0])
			if err != nil {
				return err
			}
			defer f.Close()
			in = f
		}
		if o.Host == "" {
			o.Host, _ = os.Hostname() // a machine without a name makes snapshots without one
		}
		return r.with(cmd.Context(), repo.Options{}, func(re *repo.Repo) error {
			o.Progress = &archive.Progress{}
			rep := newReporter(cmd.Context(), cmd, env, false, o.Progress)
			defer rep.stop()
			o.Report = rep.report
			res, err := archive.Import(cmd.Context(), re, o, in)
			rep.stop()
			if err != nil {
				return err
			}
			return backupSummary(rep, res, false)
		})
	}
	r.register(c.Flags())
	f := c.Flags()
	f.StringVar(&as, "as", "", "directory in the snapshot that gets the files")
	f.StringVar(&o.Host, "host", "", "name of the host in the snapshot (default: this machine's)")
	f.StringArrayVar(&o.Tags, "tag", nil, "tag of the snapshot (may be repeated)")
	return c
}
