package cli

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"firn"
	"firn/blob"
	"firn/blob/driver"
	"firn/transfer"
)

// blobCopy is one run of `firn blob cp`.
type blobCopy struct {
	prefix, toPrefix  string
	jobs              int
	missing, noVerify bool
	dry               bool
	verbose, quiet    bool

	progress               transfer.Progress
	copied, skipped, bytes atomic.Int64
	failed                 atomic.Int64
}

func blobCopyCommand(env *Env) *cobra.Command {
	o := opener{env: env}
	var b blobCopy
	c := &cobra.Command{
		Use: "cp FROM-URL TO-URL", Short: "Copy the blobs of a place to another",
		Args: fromTo(2, 2, "the URLs of two places"),
		Long: `Copy all blobs of a place, or those whose keys begin with --prefix, to another place of any kind. Each appears
there only whole and is read back and compared, unless --no-verify is given. Blobs that only the other place
has stay.

With --missing those are left that the other place has with the same size: an interrupted copy goes on so.`,
		Example: `  firn blob cp file:/mnt/nas/backups place:cloud
  firn blob cp --missing --prefix packs/ place:cloud file:/mnt/disk/copy`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if b.jobs < 1 || b.jobs > 256 {
				return usageError("--jobs: want 1 to 256")
			}
			return o.with(cmd.Context(), args[0], func(from *blob.Store) error {
				return o.with(cmd.Context(), args[1], func(to *blob.Store) error {
					return b.run(cmd, env, from, to)
				})
			})
		},
	}
	o.register(c.Flags())
	f := c.Flags()
	f.StringVar(&b.prefix, "prefix", "", "only blobs whose keys begin with it")
	f.StringVar(&b.toPrefix, "to-prefix", "", "what stands in the place of --prefix in the keys of the copies (default: the same)")
	f.IntVarP(&b.jobs, "jobs", "j", 8, "blobs copied at once")
	f.BoolVar(&b.missing, "missing", false, "leave blobs that are there with the same size")
	f.BoolVar(&b.noVerify, "no-verify", false, "do not read the copies back")
	f.BoolVar(&b.dry, "dry-run", false, "only print what would be copied")
	f.BoolVarP(&b.verbose, "verbose", "v", false, "print every blob")
	f.BoolVarP(&b.quiet, "quiet", "q", false, "print failures only")
	return c
}

func (b *blobCopy) run(cmd *cobra.Command, env *Env, from, to *blob.Store) error {
	if !cmd.Flags().Changed("to-prefix") {
		b.toPrefix = b.prefix
	}
	out := &syncWriter{w: env.Err}
	results := &syncWriter{w: env.Out}
	stop := func() {}
	if env.Terminal && !b.quiet && !asJSON(cmd) && !b.dry {
		stop = drawProgress(cmd.Context(), env, out, &b.progress)
	}
	report := func(info driver.Info, status string, err error) {
		// An output that cannot be written to ends the process by itself (EPIPE) or shows in the summary's error.
		switch {
		case asJSON(cmd):
			doc := map[string]any{"key": info.Key, "size": info.Size, "status": status}
			if err != nil {
				doc["error"] = err.Error()
			}
			_ = line(results, doc)
		case err != nil:
			fmt.Fprintf(out, "failed: %v\n", err)
		case b.verbose || b.dry:
			fmt.Fprintf(results, "%s %s\n", status, shown(info.Key))
		}
	}
	begin := time.Now()
	err := b.all(cmd.Context(), from, to, report)
	stop()
	if err == nil && b.failed.Load() > 0 {
		err = fmt.Errorf("%d of %d blobs were not copied", b.failed.Load(), b.failed.Load()+b.copied.Load()+b.skipped.Load())
	}
	if errors.Is(err, context.Canceled) {
		err = errors.New("interrupted: the same command with --missing goes on with the copy")
	}
	if asJSON(cmd) || b.quiet {
		return err
	}
	verb := "copied"
	if b.dry {
		verb = "would copy"
	}
	n := uint64(b.bytes.Load())
	rate := uint64(float64(n) / max(time.Since(begin).Seconds(), 1e-3))
	fmt.Fprintf(env.Out, "%s %d, %s (%s/s), left %d, failed %d\n", verb, b.copied.Load(), humanize.IBytes(n), humanize.IBytes(rate),
		b.skipped.Load(), b.failed.Load())
	return err
}

// all copies everything. It stops where it cannot list, or is cancelled; a blob that fails does not stop the rest.
func (b *blobCopy) all(ctx context.Context, from, to *blob.Store, report func(driver.Info, string, error)) error {
	g := new(errgroup.Group)
	g.SetLimit(b.jobs)
	var listing error
	for info, err := range from.List(ctx, b.prefix) {
		if err != nil {
			listing = err
			break
		}
		b.progress.Files.Add(1)
		b.progress.Bytes.Add(info.Size)
		g.Go(func() error {
			b.one(ctx, from, to, info, report)
			b.progress.FilesDone.Add(1)
			b.progress.BytesDone.Add(info.Size)
			return nil
		})
	}
	_ = g.Wait() // failures are counted
	if err := ctx.Err(); err != nil {
		return err
	}
	return listing
}

func (b *blobCopy) one(ctx context.Context, from, to *blob.Store, info driver.Info, report func(driver.Info, string, error)) {
	if ctx.Err() != nil {
		return
	}
	key := b.toPrefix + strings.TrimPrefix(info.Key, b.prefix)
	err := blob.CheckKey(key)
	if err == nil && b.missing {
		there, e := to.Stat(ctx, key)
		switch {
		case e == nil && there.Size == info.Size:
			b.skipped.Add(1)
			report(info, "left", nil)
			return
		case e != nil && firn.KindOf(e) != firn.NotFound:
			err = e
		}
	}
	if err == nil && !b.dry {
		err = from.Copy(ctx, info, to, key, !b.noVerify)
	}
	if err != nil {
		if ctx.Err() != nil {
			return
		}
		b.failed.Add(1)
		report(info, "failed", err)
		return
	}
	b.copied.Add(1)
	b.bytes.Add(info.Size)
	status := "copied"
	if b.dry {
		status = "would copy"
	}
	report(info, status, nil)
}
