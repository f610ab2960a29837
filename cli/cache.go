package cli

import (
	"os"

	"github.com/spf13/cobra"

	"firn"
	"firn/cache/simulate"
)

// cacheCommand is `firn cache`.
func cacheCommand(env *Env) *cobra.Command {
	return group("cache", "Choose and look after caches", cacheSimulateCommand(env))
}

func cacheSimulateCommand(env *Env) *cobra.Command {
	var (
		o                          simulate.Options
		budget, block, rate, ahead string
	)
	c := &cobra.Command{
		Use:   "simulate LOG",
		Short: "Replay an access log against cache policies and print their hit ratios",
		Long: `Replay an access log against cache policies, each with and without prefetch, and print what share of the blocks
that were read each had.

The log has one JSON object a line: "time" (RFC 3339), "key", "size" of the object in bytes, and "offset" and "length"
of what was read, all of the object where they are missing. It is read twice, so it must be a file.`,
		Example: `  firn cache simulate --budget 20GiB reads.jsonl
  firn cache simulate --budget 1GiB --block 256KiB --policy lru,s3fifo --json reads.jsonl`,
		Args: oneArg("the log"),
		RunE: func(cmd *cobra.Command, args []string) error {
			for _, f := range []struct {
				text string
				to   *int64
			}{{budget, &o.Budget}, {block, &o.Block}, {rate, &o.Rate}, {ahead, &o.Ahead}} {
				var err error
				if *f.to, err = parseSize(f.text); err != nil {
					return err
				}
			}
			f, err := os.Open(args[0])
			if err != nil {
				return err
			}
			defer f.Close()
			rep, err := simulate.Run(cmd.Context(), f, o)
			if err != nil {
				if firn.KindOf(err) == firn.Invalid {
					return usageError("%w", err)
				}
				return err
			}
			if asJSON(cmd) {
				return emit(env.Out, rep)
			}
			return rep.Print(env.Out)
		},
	}
	c.Flags().StringVar(&budget, "budget", "1GiB", "bytes the cache holds")
	c.Flags().StringVar(&block, "block", "1MiB", "bytes that are fetched and held together")
	c.Flags().StringVar(&rate, "rate", "12.5MB", "bytes a second of the link that prefetch has to do with")
	c.Flags().StringVar(&ahead, "ahead", "64MiB", "the most of an object that is fetched before it is read")
	c.Flags().StringSliceVar(&o.Policies, "policy", nil, "policies: lru, tinylfu, s3fifo; all by default")
	return c
}
