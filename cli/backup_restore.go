package cli

import (
	"fmt"
	"strings"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"firn/archive"
	"firn/repo"
)

// snapshotFilter adds the flags that choose among snapshots.
func snapshotFilter(f *pflag.FlagSet) *archive.Filter {
	w := &archive.Filter{}
	f.StringVar(&w.Host, "host", "", "only snapshots of this host")
	f.StringArrayVar(&w.Paths, "path", nil, "only snapshots of this path (may be repeated: of all of them)")
	f.StringArrayVar(&w.Tags, "tag", nil, "only snapshots with this tag (may be repeated: with all of them)")
	return w
}

func restoreCommand(env *Env) *cobra.Command {
	r := newRepoFlags(env)
	var o archive.RestoreOptions
	var quiet, verbose bool
	c := &cobra.Command{
		Use: "restore SNAPSHOT[:PATH] --target DIR", Short: "Restore files from a snapshot", Args: oneArg("a snapshot: an id, or latest"),
		Long: `Restore a snapshot, or the directory or file at PATH in it, beneath a directory. SNAPSHOT is an id, the beginning
of one, or "latest". Without PATH each file gets its whole path beneath the target, so that --target / puts all where
it came from; with PATH what that directory holds goes directly into the target.

Only what differs is written. Files in the target that have the size and time of the snapshot's are taken as right;
--checksum compares their content. Nothing is written through symbolic links in the target. A restore that was cut
off is finished by the same command; until then the target has a file ` + archive.Marker + `.`,
		Example: `  firn restore latest --target /tmp/look
  firn restore latest:/home/ann/thesis --target ~/thesis --delete
  firn restore 4f1c2a --include '*.conf' --target /tmp/conf --verify`,
	}
	want := snapshotFilter(c.Flags())
	c.RunE = func(cmd *cobra.Command, args []string) error {
		if o.Target == "" {
			return usageError("where to? give --target DIR; --target / restores in place")
		}
		return r.with(cmd.Context(), repo.Options{ReadOnly: true}, func(re *repo.Repo) error {
			snap, path, err := archive.Locate(cmd.Context(), re, args[0], *want)
			if err != nil {
				return err
			}
			o.Path, o.Progress = path, &archive.Progress{}
			rep := newReporter(cmd.Context(), cmd, env, quiet || o.DryRun, o.Progress)
			defer rep.stop()
			o.Report, o.Verbose = rep.report, verbose
			sum, err := archive.Restore(cmd.Context(), re, snap, o)
			rep.stop()
			if err != nil {
				return err
			}
			return restoreSummary(rep, snap, sum, o, quiet)
		})
	}
	r.register(c.Flags())
	f := c.Flags()
	f.StringVar(&o.Target, "target", "", "directory to restore to")
	f.StringArrayVar(&o.Include, "include", nil, "pattern, as of gitignore, of what to restore (may be repeated)")
	f.StringArrayVar(&o.Exclude, "exclude", nil, "pattern of what to leave out (may be repeated)")
	f.BoolVar(&o.Delete, "delete", false, "delete what is in the target's directories and not in the snapshot")
	f.BoolVar(&o.DryRun, "dry-run", false, "only print what would be done")
	f.BoolVar(&o.Checksum, "checksum", false, "compare the content of files that look right")
	f.BoolVar(&o.Verify, "verify", false, "read everything back and compare")
	f.BoolVar(&o.NoOwner, "no-owner", false, "do not restore owners and groups")
	f.BoolVar(&o.NoSync, "no-sync", false, "do not wait until all is on stable storage")
	f.BoolVarP(&verbose, "verbose", "v", false, "print every file")
	f.BoolVarP(&quiet, "quiet", "q", false, "print problems only")
	return c
}

func restoreSummary(rep *reporter, snap repo.Snapshot, s archive.RestoreSummary, o archive.RestoreOptions, quiet bool) error {
	switch {
	case rep.json:
		if err := rep.summary(struct {
			Snapshot string `json:"snapshot"`
			archive.RestoreSummary
		}{snap.ID.String(), s}); err != nil {
			return err
		}
	case !quiet:
		verb := "restored"
		if o.DryRun {
			verb = "would restore"
		}
		took := time.Duration(s.Millis) * time.Millisecond
		line := fmt.Sprintf("%s %s: %d files, %s; %d new, %d modified, %d unchanged", verb, snap.ID.Short(), s.Files,
			humanize.IBytes(uint64(s.Bytes)), s.New, s.Modified, s.Unchanged)
		if o.Delete {
			line += fmt.Sprintf(", %d deleted", s.Deleted)
		}
		if o.Verify {
			line += fmt.Sprintf(", %d verified", s.Verified)
		}
		fmt.Fprintf(rep.env.Out, "%s; wrote %s in %s\n", line, humanize.IBytes(uint64(s.WrittenBytes)), took.Round(10*time.Millisecond))
	}
	if s.Failed == 0 {
		return nil
	}
	if !rep.json {
		fmt.Fprintf(rep.env.Err, "firn: %d files could not be restored\n", s.Failed)
	}
	return &exitError{code: exitProblems}
}

// names joins a list for a table.
func names(list []string) string { return strings.Join(list, " ") }
