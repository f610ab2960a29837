package cli

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"firn/blob"
	"firn/blob/driver"
	"firn/blob/places"
	"firn/config"
	"firn/node"
)

// blobCommand is `firn blob`.
func blobCommand(env *Env) *cobra.Command {
	c := group("blob", "Look into the places that backups and tiers are kept in",
		blobInitCommand(env), blobListCommand(env), blobGetCommand(env), blobPutCommand(env), blobRemoveCommand(env),
		blobCopyCommand(env), blobCheckCommand(env), blobRepairCommand(env))
	c.Long = `Look into a place: a directory, a bucket, a repository of Git, a server, named by its URL or, as
place:NAME, by the configuration. docs/places.md lists the URLs and where credentials come from.

A place keeps blobs: bytes under a key. These commands show and change them as they are; what a backup
repository keeps in a place is for firn's own eyes.`
	return c
}

// opener opens the places of a command.
type opener struct {
	env   *Env
	file  string
	watch *mirrors // nil makes one that writes to the error output
}

func (o *opener) register(f *pflag.FlagSet) {
	f.StringVar(&o.file, "config", "", "configuration file that place:NAME is looked up in (default firn.yaml where it exists; FIRN_CONFIG)")
}

func (o *opener) open(ctx context.Context, url string) (*blob.Store, error) {
	p, err := o.places(url)
	if err != nil {
		return nil, err
	}
	return p.Open(ctx, url)
}

// places reads the configuration where the URL needs it.
func (o *opener) places(url string) (*places.Opener, error) {
	u, err := places.Parse(url)
	if err != nil {
		return nil, &exitError{exitUsage, err}
	}
	if u.Scheme != "place" {
		return &places.Opener{}, nil
	}
	e, err := config.Load(config.Sources{File: o.file, Env: o.env.Getenv})
	if err != nil {
		return nil, &exitError{exitUsage, err}
	}
	return node.Places(e.Places, url, o.mirrors().observe)
}

// with runs fn on the open place.
func (o *opener) with(ctx context.Context, url string, fn func(*blob.Store) error) error {
	s, err := o.open(ctx, url)
	if err != nil {
		return err
	}
	err = fn(s)
	if e := s.Close(); err == nil {
		err = e
	}
	return err
}

func blobInitCommand(env *Env) *cobra.Command {
	o := opener{env: env}
	c := &cobra.Command{
		Use: "init URL", Short: "Make a place where there is none yet", Args: oneArg("the URL of a place"),
		Long: `Make a place: the directory and its marker file, the bucket, the branch, the tables. A place that is there
already stays as it is; a directory that holds other things is refused.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			p, err := o.places(args[0])
			if err != nil {
				return err
			}
			s, err := p.Init(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			name := s.Name()
			if err := s.Close(); err != nil {
				return err
			}
			return done(cmd, env, "there is a place at", name)
		},
	}
	o.register(c.Flags())
	return c
}

func blobListCommand(env *Env) *cobra.Command {
	o := opener{env: env}
	var human, sum bool
	c := &cobra.Command{
		Use: "ls URL [PREFIX]", Short: "List blobs", Args: fromTo(1, 2, "the URL of a place and, if wanted, a prefix"),
		Example: `  firn blob ls file:/mnt/nas/backups
  firn blob ls place:cloud snapshots/`,
		RunE: func(cmd *cobra.Command, args []string) error {
			prefix := ""
			if len(args) == 2 {
				prefix = args[1]
			}
			return o.with(cmd.Context(), args[0], func(s *blob.Store) error {
				var n, bytes int64
				w := bufio.NewWriterSize(env.Out, 64<<10)
				for info, err := range s.List(cmd.Context(), prefix) {
					if err != nil {
						return errors.Join(err, w.Flush())
					}
					n, bytes = n+1, bytes+info.Size
					if err := printBlob(cmd, w, info, human); err != nil {
						return err
					}
				}
				if sum && !asJSON(cmd) {
					fmt.Fprintf(w, "%s in %d blobs\n", size(bytes, human), n)
				}
				return w.Flush()
			})
		},
	}
	o.register(c.Flags())
	c.Flags().BoolVarP(&human, "human", "H", false, "sizes in KiB, MiB, ...")
	c.Flags().BoolVar(&sum, "sum", false, "end with a line of totals")
	return c
}

func printBlob(cmd *cobra.Command, w io.Writer, info driver.Info, human bool) error {
	if asJSON(cmd) {
		doc := struct {
			Key      string     `json:"key"`
			Size     int64      `json:"size"`
			Modified *time.Time `json:"modified,omitempty"`
		}{Key: info.Key, Size: info.Size}
		if !info.Modified.IsZero() {
			m := info.Modified.UTC()
			doc.Modified = &m
		}
		return line(w, doc)
	}
	when := "-"
	if !info.Modified.IsZero() {
		when = info.Modified.UTC().Format(time.RFC3339)
	}
	_, err := fmt.Fprintf(w, "%-20s  %12s  %s\n", when, size(info.Size, human), shown(info.Key))
	return err
}

func blobGetCommand(env *Env) *cobra.Command {
	o := opener{env: env}
	var offset, length int64
	c := &cobra.Command{
		Use: "get URL KEY [FILE]", Short: "Write a blob to a file or the standard output",
		Args: fromTo(2, 3, "the URL of a place, a key and, if wanted, a file"),
		Long: `Write a blob to the standard output, or to a file. The file appears under its name only whole.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if offset < 0 || length < -1 {
				return usageError("no range: %d bytes from %d", length, offset)
			}
			return o.with(cmd.Context(), args[0], func(s *blob.Store) error {
				r, err := s.Get(cmd.Context(), args[1], offset, length)
				if err != nil {
					return err
				}
				defer r.Close()
				if len(args) < 3 || args[2] == "-" {
					_, err = io.Copy(env.Out, r)
					return err
				}
				return writeWhole(args[2], r)
			})
		},
	}
	o.register(c.Flags())
	c.Flags().Int64Var(&offset, "offset", 0, "first byte")
	c.Flags().Int64Var(&length, "length", -1, "bytes to write (-1: to the end)")
	return c
}

// writeWhole writes r to a new file, syncs it, and then gives it its name.
func writeWhole(path string, r io.Reader) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), ".firn-get-*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(f.Name()) // the first error counts
		}
	}()
	_, err = io.Copy(f, r)
	if err == nil {
		err = f.Sync()
	}
	if e := f.Close(); err == nil {
		err = e
	}
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	return err
}

func blobPutCommand(env *Env) *cobra.Command {
	o := opener{env: env}
	var create bool
	c := &cobra.Command{
		Use: "put URL KEY FILE", Short: "Store a file, or the standard input, as a blob",
		Args: fromTo(3, 3, "the URL of a place, a key and a file, or - for the standard input"),
		Long: `Store a file as a blob and replace what was there. The standard input (-) is first kept in a file of the
temporary directory, since a put may have to be tried again.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			path := args[2]
			if path == "-" {
				spool, err := os.CreateTemp("", "firn-put-*")
				if err != nil {
					return err
				}
				defer os.Remove(spool.Name())
				_, err = io.Copy(spool, env.In)
				if e := spool.Close(); err == nil {
					err = e
				}
				if err != nil {
					return err
				}
				path = spool.Name()
			}
			src, err := blob.File(path)
			if err != nil {
				return err
			}
			return o.with(cmd.Context(), args[0], func(s *blob.Store) error {
				put := s.Put
				if create {
					put = s.Create
				}
				if err := put(cmd.Context(), args[1], src); err != nil {
					return err
				}
				return done(cmd, env, "stored", shown(args[1])+", "+humanize.IBytes(uint64(src.Size())))
			})
		},
	}
	o.register(c.Flags())
	c.Flags().BoolVar(&create, "create", false, "fail where the key is there already")
	return c
}

func blobRemoveCommand(env *Env) *cobra.Command {
	o := opener{env: env}
	var recursive, force, dry bool
	c := &cobra.Command{
		Use: "rm URL KEY...", Short: "Remove blobs", Args: fromTo(2, -1, "the URL of a place and keys"),
		Long: `Remove blobs. A key that is not there is no error. With -r each KEY is a prefix, and all blobs whose keys begin
with it go; the empty prefix "" stands for the whole place and needs --force.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if recursive && !force && !dry {
				for _, prefix := range args[1:] {
					if prefix == "" {
						return usageError("removing all that is in a place needs --force")
					}
				}
			}
			return o.with(cmd.Context(), args[0], func(s *blob.Store) error {
				if !recursive {
					if dry {
						return usageError("--dry-run goes with -r")
					}
					if err := s.Delete(cmd.Context(), args[1:]...); err != nil {
						return err
					}
					return done(cmd, env, "removed", fmt.Sprintf("%d keys", len(args)-1))
				}
				n := 0
				for _, prefix := range args[1:] {
					m, err := removeBelow(cmd, env, s, prefix, dry)
					n += m
					if err != nil {
						return fmt.Errorf("after %d blobs: %w", n, err)
					}
				}
				if dry {
					return nil
				}
				return done(cmd, env, "removed", fmt.Sprintf("%d blobs", n))
			})
		},
	}
	o.register(c.Flags())
	f := c.Flags()
	f.BoolVarP(&recursive, "recursive", "r", false, "all blobs whose keys begin with KEY")
	f.BoolVarP(&force, "force", "f", false, "also the whole place")
	f.BoolVar(&dry, "dry-run", false, "only print what would be removed")
	return c
}

// removeBatch is how many blobs are removed at once.
const removeBatch = 1000

func removeBelow(cmd *cobra.Command, env *Env, s *blob.Store, prefix string, dry bool) (n int, err error) {
	var batch []string
	flush := func() error {
		err := s.Delete(cmd.Context(), batch...)
		if err == nil {
			n += len(batch)
		}
		batch = batch[:0]
		return err
	}
	for info, err := range s.List(cmd.Context(), prefix) {
		if err != nil {
			return n, err
		}
		if dry {
			if err := printBlob(cmd, env.Out, info, false); err != nil {
				return n, err
			}
			continue
		}
		if batch = append(batch, info.Key); len(batch) == removeBatch {
			if err := flush(); err != nil {
				return n, err
			}
		}
	}
	return n, flush()
}

// fromTo words cobra's argument errors as usage errors; most -1 is no bound.
func fromTo(least, most int, what string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) < least || most >= 0 && len(args) > most {
			return usageError("%s wants %s", cmd.CommandPath(), what)
		}
		return nil
	}
}
