package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"
	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"

	"firn"
	"firn/transfer"
)

// copyCommand is `firn cp`, or `firn mv`.
func copyCommand(env *Env, move bool) *cobra.Command {
	var (
		cf               clientFlags
		o                transfer.CopyOptions
		toProfile, part  string
		include, exclude []string
		metadata         []string
		verbose, quiet   bool
		crypt            ageFlags
		enc, dec         bool
	)
	c := &cobra.Command{
		Use: "cp SOURCE... DESTINATION", Short: "Copy files and objects",
		Args: someArgs(2, "a source and a destination"),
		Long: `Copy between the local file system and S3, or between S3 locations: s3://BUCKET/KEY, a local path, or - for the
standard input or output. With -r the tree beneath each source goes beneath the destination.

Each file or object appears under its name only whole, and is compared with its checksum. Large ones move in
parts: run the same command again after an interruption and it goes on where it stopped. Objects on the same
endpoint are copied by the server.`,
		Example: `  firn cp report.pdf s3://docs/
  firn cp -r photos s3://archive/photos
  firn cp -r --checksum s3://archive/photos ./photos
  tar c dir | firn cp - s3://backup/dir.tar
  firn cp -r --profile old --to-profile new s3://data s3://data`,
	}
	if move {
		c.Use, c.Short = "mv SOURCE... DESTINATION", "Move files and objects"
		c.Long = `Move between the local file system and S3, or between S3 locations. Each source is removed only after its
destination was verified and is on stable storage, and only where it is still what was copied. Directories that
become empty stay.`
		c.Example = `  firn mv recording.mkv s3://archive/2026/
  firn mv -r s3://inbox/done s3://archive/done`
		o.Move = true
	}
	c.RunE = func(cmd *cobra.Command, args []string) error {
		var locs []transfer.Location
		for _, a := range args {
			l, err := transfer.ParseLocation(a)
			if err != nil {
				return usageError("%w", err)
			}
			locs = append(locs, l)
		}
		from, to := locs[:len(locs)-1], locs[len(locs)-1]
		var err error
		if o.Filter, err = transfer.NewFilter(include, exclude); err != nil {
			return usageError("%w", err)
		}
		if part != "" {
			if o.PartSize, err = parseSize(part); err != nil {
				return err
			}
		}
		if o.Metadata, err = parseMetadata(metadata); err != nil {
			return err
		}
		src, err := cf.client(env)
		if err != nil {
			return err
		}
		dst := src
		if toProfile != "" {
			if dst, err = cf.clientTo(env, toProfile); err != nil {
				return err
			}
		}
		o.StateDir = uploadStates(env)
		if enc || dec {
			if len(from) != 1 || o.Recursive || move || enc == from[0].Remote || dec == to.Remote {
				return usageError("--encrypt puts one file to one object, --decrypt one object to one file")
			}
		}
		if enc {
			if to.Key == "" || strings.HasSuffix(to.Key, "/") {
				if from[0].Std {
					return usageError("from the standard input: name the object")
				}
				to.Key += filepath.Base(from[0].Path) + ".age"
			}
			return crypt.copyEncrypted(cmd.Context(), env, from[0], &o, func(stdin transfer.Location) error {
				return runCopy(cmd, env, src, dst, []transfer.Location{stdin}, to, o, verbose, quiet)
			})
		}
		if dec {
			return crypt.copyDecrypted(cmd.Context(), env, to, func(w io.Writer) error {
				_, err := src.Cat(cmd.Context(), from[0], w, transfer.CatOptions{Length: -1, VersionID: o.VersionID, NoVerify: o.NoVerify})
				return err
			})
		}
		if to.Std {
			if len(from) != 1 || !from[0].Remote || o.Recursive || move {
				return usageError("to the standard output one object can be copied")
			}
			_, err := src.Cat(cmd.Context(), from[0], env.Out, transfer.CatOptions{Length: -1, VersionID: o.VersionID, NoVerify: o.NoVerify})
			return err
		}
		o.Stdin = env.In
		return runCopy(cmd, env, src, dst, from, to, o, verbose, quiet)
	}
	cf.register(c.Flags())
	f := c.Flags()
	f.StringVar(&toProfile, "to-profile", "", "profile of the destination, where it is another endpoint")
	f.BoolVarP(&o.Recursive, "recursive", "r", false, "the whole tree beneath each source")
	f.StringArrayVar(&include, "include", nil, "glob of names to copy (may be repeated); ** crosses slashes")
	f.StringArrayVar(&exclude, "exclude", nil, "glob of names to leave out (may be repeated)")
	f.BoolVar(&o.SkipExisting, "skip-existing", false, "leave what exists at the destination")
	f.BoolVarP(&o.Update, "update", "u", false, "leave what has the same size and is not older at the destination")
	f.BoolVar(&o.Checksum, "checksum", false, "leave what has the same size and content at the destination")
	f.BoolVar(&o.DryRun, "dry-run", false, "only print what would be done")
	f.BoolVar(&o.Follow, "follow", false, "follow symbolic links of the local tree")
	f.BoolVar(&o.NoVerify, "no-verify", false, "do not compare downloads with their checksums")
	f.StringVar(&o.VersionID, "version-id", "", "version to read")
	f.StringVar(&o.ContentType, "content-type", "", "content type (default: from name and content)")
	f.StringVar(&o.StorageClass, "storage-class", "", "storage class of new objects")
	f.StringArrayVar(&metadata, "metadata", nil, "user metadata NAME=VALUE of new objects (may be repeated)")
	if !move {
		f.BoolVar(&enc, "encrypt", false, "encrypt one file in age format before it leaves, with a password or for each --recipient")
		f.BoolVar(&dec, "decrypt", false, "decrypt one object after it arrived, with the password or --identity")
		crypt.registerRecipients(f)
		crypt.registerIdentities(f)
		c.MarkFlagsMutuallyExclusive("encrypt", "decrypt")
	}
	f.StringVar(&part, "part-size", "", "size of a part of a large upload (default 16MiB, more for objects above 156 GiB)")
	f.BoolVarP(&verbose, "verbose", "v", false, "print every file")
	f.BoolVarP(&quiet, "quiet", "q", false, "print failures only")
	c.MarkFlagsMutuallyExclusive("skip-existing", "update", "checksum")
	return c
}

func parseMetadata(fields []string) (map[string]string, error) {
	if len(fields) == 0 {
		return nil, nil
	}
	m := map[string]string{}
	for _, f := range fields {
		name, value, ok := strings.Cut(f, "=")
		if !ok || name == "" || strings.ContainsAny(name, " :\r\n\t") || strings.ContainsAny(value, "\r\n") {
			return nil, usageError("metadata %q: want NAME=VALUE", f)
		}
		m[strings.ToLower(name)] = value
	}
	return m, nil
}

// runCopy copies with a progress bar where there is a terminal for it, and prints what happened.
func runCopy(
	cmd *cobra.Command, env *Env, src, dst *transfer.Client, from []transfer.Location, to transfer.Location,
	o transfer.CopyOptions, verbose, quiet bool,
) error {
	out := &syncWriter{w: env.Err}
	o.Progress = &transfer.Progress{}
	stop := func() {}
	if env.Terminal && !quiet && !asJSON(cmd) && !o.DryRun {
		stop = drawProgress(cmd.Context(), env, out, o.Progress)
	}
	noted := 0
	lines := *env
	lines.Err = out
	o.Report = func(ev transfer.Event) {
		switch {
		case asJSON(cmd), ev.Status == transfer.Failed, verbose, o.DryRun:
			reportEvent(&lines, cmd, ev, verbose || o.DryRun)
		case ev.Status == transfer.Skipped && notable(ev) && !quiet:
			if noted++; noted <= maxNotes {
				fmt.Fprintf(out, "skipped %s: %s\n", shown(ev.Source), ev.Reason)
			}
		}
	}
	begin := time.Now()
	s, err := transfer.Copy(cmd.Context(), src, dst, from, to, o)
	stop()
	if noted > maxNotes {
		fmt.Fprintf(env.Err, "skipped %d more links and special files (-v names them)\n", noted-maxNotes)
	}
	if s == (transfer.Summary{}) && firn.KindOf(err) == firn.Invalid {
		return usageError("%w", err)
	}
	if asJSON(cmd) || quiet {
		return interrupted(err, o.Move)
	}
	verb := "copied"
	switch {
	case o.DryRun && o.Move:
		verb = "would move"
	case o.DryRun:
		verb = "would copy"
	case o.Move:
		verb = "moved"
	}
	if s.Done+s.Skipped+s.Failed > 0 {
		took := time.Since(begin)
		rate := uint64(float64(s.Bytes) / max(took.Seconds(), 1e-3))
		fmt.Fprintf(env.Out, "%s %d, %s in %s (%s/s)", verb, s.Done, humanize.IBytes(uint64(s.Bytes)), took.Round(10*time.Millisecond), humanize.IBytes(rate))
		if s.Skipped > 0 {
			fmt.Fprintf(env.Out, ", skipped %d", s.Skipped)
		}
		if s.Failed > 0 {
			fmt.Fprintf(env.Out, ", failed %d", s.Failed)
		}
		fmt.Fprintln(env.Out)
	}
	return interrupted(err, o.Move)
}

// interrupted words the end by a signal.
func interrupted(err error, move bool) error {
	if !errors.Is(err, context.Canceled) {
		return err
	}
	verb := "copy"
	if move {
		verb = "move"
	}
	return fmt.Errorf("interrupted: the same command again goes on with the %s", verb)
}

// maxNotes is how many links and special files are named one by one.
const maxNotes = 20

// notable reports whether a skipped thing is none that the user asked to skip.
func notable(ev transfer.Event) bool {
	return strings.HasPrefix(ev.Reason, "symbolic link") || strings.HasPrefix(ev.Reason, "special file")
}

// reportEvent prints one event: a line of JSON to the output, or for people what failed to the error output
// and, where all is asked for, the rest to the output.
func reportEvent(env *Env, cmd *cobra.Command, ev transfer.Event, all bool) {
	name := shown(ev.Source)
	if ev.Target != "" {
		name += " -> " + shown(ev.Target)
	}
	// An output that cannot be written to ends the process by itself (EPIPE) or shows in the summary's error.
	switch {
	case asJSON(cmd):
		_ = line(env.Out, ev)
	case ev.Status == transfer.Failed:
		fmt.Fprintf(env.Err, "failed %s: %v\n", name, ev.Err)
	case !all:
	case ev.Status == transfer.Skipped:
		fmt.Fprintf(env.Out, "skipped %s: %s\n", shown(ev.Source), ev.Reason)
	case ev.Status == transfer.Planned:
		fmt.Fprintf(env.Out, "would %s %s\n", ev.Op, name)
	default:
		fmt.Fprintf(env.Out, "%s %s\n", ev.Op, name)
	}
}

// failuresOnly reports what failed.
func failuresOnly(env *Env, cmd *cobra.Command) func(transfer.Event) {
	return func(ev transfer.Event) {
		if ev.Status == transfer.Failed {
			reportEvent(env, cmd, ev, false)
		}
	}
}

// syncWriter lets the progress bar and other lines share a terminal: while a bar is drawn lines go above it.
type syncWriter struct {
	mu sync.Mutex
	w  io.Writer
}

func (s *syncWriter) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.w.Write(p)
}

func (s *syncWriter) use(w io.Writer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.w = w
}

// drawProgress draws one bar of all bytes, with files, speed and the time that is left, until the returned
// function is called.
func drawProgress(ctx context.Context, env *Env, out *syncWriter, p *transfer.Progress) (stop func()) {
	bars := mpb.New(mpb.WithOutput(env.Err), mpb.WithWidth(30), mpb.WithRefreshRate(200*time.Millisecond))
	files := func(decor.Statistics) string {
		return fmt.Sprintf("%d/%d files ", p.FilesDone.Load(), p.Files.Load())
	}
	bar := bars.AddBar(0,
		mpb.PrependDecorators(decor.Any(files), decor.CountersKibiByte("% .1f / % .1f")),
		mpb.AppendDecorators(decor.AverageSpeed(decor.SizeB1024(0), "% .1f "), decor.AverageETA(decor.ET_STYLE_GO)),
		mpb.BarRemoveOnComplete(),
	)
	out.use(bars)
	quit, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		tick := time.NewTicker(200 * time.Millisecond)
		defer tick.Stop()
		for {
			bar.SetTotal(max(p.Bytes.Load(), 1), false)
			bar.SetCurrent(p.BytesDone.Load())
			select {
			case <-tick.C:
			case <-quit:
				return
			case <-ctx.Done():
				return
			}
		}
	}()
	return func() {
		close(quit)
		<-ended
		bar.Abort(true)
		bars.Wait()
		out.use(env.Err)
	}
}
