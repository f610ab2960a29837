package cli

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"
	"golang.org/x/term"

	"firn"
	"firn/transfer"
)

// clientCommands are the verbs for objects on any S3 endpoint.
func clientCommands(env *Env) []*cobra.Command {
	all := []*cobra.Command{
		makeBucketCommand(env), removeBucketCommand(env), listCommand(env), copyCommand(env, false), copyCommand(env, true),
		removeCommand(env), catCommand(env), statCommand(env), profilesCommand(env),
	}
	for _, c := range all {
		c.GroupID = "client"
	}
	return all
}

// remoteArg reads an argument that must be an S3 location.
func remoteArg(s string) (transfer.Location, error) {
	l, err := transfer.ParseLocation(s)
	if err != nil {
		return l, usageError("%w", err)
	}
	if !l.Remote {
		return l, usageError("%s is no S3 location: write s3://BUCKET/KEY", s)
	}
	return l, nil
}

// bucketArg reads an argument that must be a bucket.
func bucketArg(s string) (transfer.Location, error) {
	l, err := remoteArg(s)
	if err == nil && (l.Bucket == "" || l.Key != "") {
		err = usageError("%s is no bucket: write s3://BUCKET", s)
	}
	return l, err
}

// someArgs wants at least n arguments.
func someArgs(n int, what string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) < n {
			return usageError("%s wants %s", cmd.CommandPath(), what)
		}
		return nil
	}
}

// line writes v as one line of JSON.
func line(w io.Writer, v any) error { return json.NewEncoder(w).Encode(v) }

// shown makes a name safe to print: a key may hold line breaks and escape sequences.
func shown(name string) string {
	for _, r := range name {
		if !strconv.IsPrint(r) {
			return strconv.Quote(name)
		}
	}
	return name
}

func makeBucketCommand(env *Env) *cobra.Command {
	var cf clientFlags
	var versioning, lock, ignore bool
	c := &cobra.Command{
		Use: "mb s3://BUCKET...", Short: "Make buckets", Args: someArgs(1, "a bucket: s3://BUCKET"),
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := cf.client(env)
			if err != nil {
				return err
			}
			for _, a := range args {
				l, err := bucketArg(a)
				if err != nil {
					return err
				}
				err = client.MakeBucket(cmd.Context(), l.Bucket, versioning, lock)
				if ignore && firn.KindOf(err) == firn.Exists {
					continue
				}
				if err != nil {
					return err
				}
				if err := done(cmd, env, "made bucket", l.String()); err != nil {
					return err
				}
			}
			return nil
		},
	}
	cf.register(c.Flags())
	c.Flags().BoolVar(&versioning, "versioning", false, "enable versioning")
	c.Flags().BoolVar(&lock, "with-lock", false, "enable object lock (and versioning); only possible now")
	c.Flags().BoolVarP(&ignore, "ignore-existing", "p", false, "a bucket that exists is no error")
	return c
}

func removeBucketCommand(env *Env) *cobra.Command {
	var cf clientFlags
	var force bool
	c := &cobra.Command{
		Use: "rb s3://BUCKET...", Short: "Remove buckets", Args: someArgs(1, "a bucket: s3://BUCKET"),
		Long: `Remove empty buckets. With --force everything in them is removed first: every version of every object and
every unfinished upload.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := cf.client(env)
			if err != nil {
				return err
			}
			for _, a := range args {
				l, err := bucketArg(a)
				if err != nil {
					return err
				}
				if force {
					for _, o := range []transfer.RemoveOptions{{Recursive: true, Versions: true}, {Uploads: true}} {
						o.Report = failuresOnly(env, cmd)
						if _, err := client.Remove(cmd.Context(), l, o); err != nil {
							return err
						}
					}
				}
				err = client.RemoveBucket(cmd.Context(), l.Bucket)
				if firn.KindOf(err) == firn.Conflict && !force {
					return fmt.Errorf("%w (--force removes all that is in it)", err)
				}
				if err != nil {
					return err
				}
				if err := done(cmd, env, "removed bucket", l.String()); err != nil {
					return err
				}
			}
			return nil
		},
	}
	cf.register(c.Flags())
	c.Flags().BoolVar(&force, "force", false, "remove all objects, versions and uploads in it first")
	return c
}

func listCommand(env *Env) *cobra.Command {
	var cf clientFlags
	var o transfer.ListOptions
	var human, sum bool
	c := &cobra.Command{
		Use: "ls [s3://BUCKET[/PREFIX]]...", Short: "List buckets or objects",
		Long: `List buckets, or the objects whose keys start with a prefix. Without -r a listing stops at the next slash
and shows what is common up to it as one line.`,
		Example: `  firn ls
  firn ls s3://photos/2026/
  firn ls -r --sum s3://photos
  firn ls -r --versions s3://photos`,
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := cf.client(env)
			if err != nil {
				return err
			}
			if len(args) == 0 {
				args = []string{"s3://"}
			}
			var n, bytes int64
			w := bufio.NewWriterSize(env.Out, 64<<10)
			for _, a := range args {
				l, err := remoteArg(a)
				if err != nil {
					return err
				}
				err = client.List(cmd.Context(), l, o, func(e transfer.Entry) error {
					if !e.Prefix {
						n, bytes = n+1, bytes+e.Size
					}
					if asJSON(cmd) {
						return line(w, e)
					}
					return printListed(w, e, l.Bucket == "", human)
				})
				if err != nil {
					return errors.Join(err, w.Flush())
				}
			}
			if sum && !asJSON(cmd) {
				fmt.Fprintf(w, "%s in %d objects\n", size(bytes, human), n)
			}
			return w.Flush()
		},
	}
	cf.register(c.Flags())
	f := c.Flags()
	f.BoolVarP(&o.Recursive, "recursive", "r", false, "all objects beneath, not the next level only")
	f.BoolVar(&o.Versions, "versions", false, "all versions and delete markers")
	f.BoolVar(&o.Uploads, "incomplete", false, "unfinished multipart uploads instead of objects")
	f.BoolVarP(&human, "human", "H", false, "sizes in KiB, MiB, ...")
	f.BoolVar(&sum, "sum", false, "end with a line of totals")
	return c
}

func size(n int64, human bool) string {
	if human {
		return humanize.IBytes(uint64(max(n, 0)))
	}
	return strconv.FormatInt(n, 10)
}

func printListed(w io.Writer, e transfer.Entry, bucket, human bool) error {
	when := strings.Repeat(" ", 20)
	if !e.Modified.IsZero() {
		when = e.Modified.UTC().Format(time.RFC3339)[:20]
	}
	n := size(e.Size, human)
	switch {
	case bucket:
		_, err := fmt.Fprintf(w, "%s  s3://%s\n", when, shown(e.Name))
		return err
	case e.Prefix, e.UploadID != "", e.DeleteMarker:
		n = "-"
	}
	extra := ""
	switch {
	case e.UploadID != "":
		extra = "  upload " + e.UploadID
	case e.DeleteMarker:
		extra = "  " + e.VersionID + "  deleted"
	case e.VersionID != "":
		extra = "  " + e.VersionID
	}
	if e.Latest {
		extra += "  current"
	}
	_, err := fmt.Fprintf(w, "%s  %12s  %s%s\n", when, n, shown(e.Name), extra)
	return err
}

func catCommand(env *Env) *cobra.Command {
	var cf clientFlags
	var o transfer.CatOptions
	var tail int64
	c := &cobra.Command{
		Use: "cat s3://BUCKET/KEY...", Short: "Write objects to the standard output", Args: someArgs(1, "an object: s3://BUCKET/KEY"),
		Long: `Write objects to the standard output. Each whole object is compared with its checksum at its end: where it
does not match, or was cut short, the exit code is not 0.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := cf.client(env)
			if err != nil {
				return err
			}
			if tail > 0 {
				o.Offset, o.Length = -tail, -1
			}
			if o.VersionID != "" && len(args) > 1 {
				return usageError("a version id goes with one object")
			}
			for _, a := range args {
				l, err := remoteArg(a)
				if err != nil {
					return err
				}
				if _, err := client.Cat(cmd.Context(), l, env.Out, o); err != nil {
					return err
				}
			}
			return nil
		},
	}
	cf.register(c.Flags())
	f := c.Flags()
	f.StringVar(&o.VersionID, "version-id", "", "version to read")
	f.Int64Var(&o.Offset, "offset", 0, "first byte; negative counts from the end")
	f.Int64Var(&o.Length, "length", -1, "bytes to write (-1: to the end)")
	f.Int64Var(&tail, "tail", 0, "write only the last so many bytes")
	f.BoolVar(&o.NoVerify, "no-verify", false, "do not compare with the checksum")
	return c
}

func statCommand(env *Env) *cobra.Command {
	var cf clientFlags
	var version string
	c := &cobra.Command{
		Use: "stat s3://BUCKET[/KEY]...", Short: "Show what is known of objects or buckets", Args: someArgs(1, "an object or bucket: s3://BUCKET/KEY"),
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := cf.client(env)
			if err != nil {
				return err
			}
			if version != "" && len(args) > 1 {
				return usageError("a version id goes with one object")
			}
			for _, a := range args {
				l, err := remoteArg(a)
				if err != nil {
					return err
				}
				s, err := client.Stat(cmd.Context(), l, version)
				if err != nil {
					return err
				}
				if asJSON(cmd) {
					err = line(env.Out, s)
				} else {
					err = printStat(env.Out, s)
				}
				if err != nil {
					return err
				}
			}
			return nil
		},
	}
	cf.register(c.Flags())
	c.Flags().StringVar(&version, "version-id", "", "version to show")
	return c
}

func printStat(w io.Writer, s transfer.Stat) error {
	var b strings.Builder
	row := func(k, v string) {
		if v != "" {
			fmt.Fprintf(&b, "  %-14s %s\n", k, shown(v))
		}
	}
	stamp := func(t time.Time) string {
		if t.IsZero() {
			return ""
		}
		return t.UTC().Format(time.RFC3339Nano)
	}
	fmt.Fprintln(&b, shown(s.Name))
	if s.Bucket {
		row("region", s.Region)
		row("versioning", s.Versioning)
		if s.ObjectLock {
			row("object lock", "enabled")
		}
	} else {
		row("size", fmt.Sprintf("%d (%s)", s.Size, humanize.IBytes(uint64(max(s.Size, 0)))))
		row("modified", stamp(s.Modified))
		row("file time", stamp(s.MTime))
		row("etag", s.ETag)
		row("type", s.ContentType)
		row("storage class", s.StorageClass)
		row("version", s.VersionID)
	}
	for title, m := range map[string]map[string]string{"checksum ": s.Checksums, "metadata ": s.Metadata, "": s.Headers} {
		for _, k := range slices.Sorted(maps.Keys(m)) {
			row(title+k, m[k])
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func removeCommand(env *Env) *cobra.Command {
	var cf clientFlags
	var o transfer.RemoveOptions
	var force, verbose bool
	var include, exclude []string
	c := &cobra.Command{
		Use: "rm s3://BUCKET/KEY...", Short: "Remove objects", Args: someArgs(1, "an object or prefix: s3://BUCKET/KEY"),
		Long: `Remove objects. With -r all objects beneath a prefix go; what a whole bucket holds is only removed after a
question on a terminal, or with --force. In a bucket with versioning the versions stay, behind a delete
marker, unless --versions is given. The counts of what was removed are printed at the end.`,
		Example: `  firn rm s3://photos/2026/a.jpg
  firn rm -r --dry-run s3://photos/2025/
  firn rm -r --force s3://photos`,
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := cf.client(env)
			if err != nil {
				return err
			}
			if o.Filter, err = transfer.NewFilter(include, exclude); err != nil {
				return usageError("%w", err)
			}
			if o.VersionID != "" && (len(args) > 1 || o.Recursive || o.Versions) {
				return usageError("a version id goes with one object")
			}
			if !o.Recursive && len(include)+len(exclude) > 0 {
				return usageError("--include and --exclude go with -r")
			}
			o.Report = func(ev transfer.Event) { reportEvent(env, cmd, ev, verbose || o.DryRun) }
			var total transfer.Summary
			for _, a := range args {
				l, err := remoteArg(a)
				if err != nil {
					return err
				}
				if o.Recursive && l.Key == "" && !force && !o.DryRun {
					if err := confirm(cmd, env, client, l, o); err != nil {
						return err
					}
				}
				s, err := client.Remove(cmd.Context(), l, o)
				total.Done, total.Failed, total.Bytes = total.Done+s.Done, total.Failed+s.Failed, total.Bytes+s.Bytes
				if err != nil {
					return err
				}
			}
			if asJSON(cmd) || !o.Recursive && !verbose {
				return nil
			}
			verb := "removed"
			if o.DryRun {
				verb = "would remove"
			}
			_, err = fmt.Fprintf(env.Out, "%s %d, %s\n", verb, total.Done, humanize.IBytes(uint64(max(total.Bytes, 0))))
			return err
		},
	}
	cf.register(c.Flags())
	f := c.Flags()
	f.BoolVarP(&o.Recursive, "recursive", "r", false, "all beneath the prefix")
	f.BoolVarP(&force, "force", "f", false, "do not ask before emptying a bucket")
	f.BoolVar(&o.Versions, "versions", false, "all versions and delete markers too: nothing can be brought back")
	f.StringVar(&o.VersionID, "version-id", "", "version to remove")
	f.BoolVar(&o.Uploads, "incomplete", false, "abort unfinished multipart uploads beneath the prefix instead of removing objects")
	f.BoolVar(&o.Bypass, "bypass-governance", false, "remove what is locked in governance mode")
	f.BoolVar(&o.DryRun, "dry-run", false, "only print what would be removed")
	f.StringArrayVar(&include, "include", nil, "glob of names beneath the prefix to remove (may be repeated)")
	f.StringArrayVar(&exclude, "exclude", nil, "glob of names beneath the prefix to leave (may be repeated)")
	f.BoolVarP(&verbose, "verbose", "v", false, "print every object")
	return c
}

// confirm asks before a whole bucket is emptied. Without a terminal to ask on it refuses.
func confirm(cmd *cobra.Command, env *Env, client *transfer.Client, l transfer.Location, o transfer.RemoveOptions) error {
	in, ok := env.In.(*os.File)
	if !ok || !term.IsTerminal(int(in.Fd())) {
		return usageError("removing all that is in %s needs --force", l)
	}
	n, bytes, err := client.Count(cmd.Context(), l, o)
	if err != nil {
		return err
	}
	fmt.Fprintf(env.Err, "Remove all %d objects (%s) in %s? [y/N] ", n, humanize.IBytes(uint64(max(bytes, 0))), l)
	answer, err := bufio.NewReader(in).ReadString('\n')
	if err != nil && err != io.EOF {
		return err
	}
	if a := strings.ToLower(strings.TrimSpace(answer)); a != "y" && a != "yes" {
		return errors.New("nothing was removed")
	}
	return nil
}
