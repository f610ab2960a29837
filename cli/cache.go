package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"

	"firn"
	"firn/adminapi"
	"firn/cache/simulate"
)

// cacheCommand is `firn cache`.
func cacheCommand(env *Env) *cobra.Command {
	c := group("cache", "Look after what is kept of tiers and of the edge cache's origins")
	admin := &adminFlags{env: env}
	c.AddCommand(
		cacheStatusCommand(env, admin), cacheWarmCommand(env, admin), cachePurgeCommand(env, admin),
		cacheChangeCommand(env, admin, "pin", "Keep from being evicted what is read of names, as far as half the disk's budget goes",
			"Blocks of these names, those that are there and those that come, are not evicted from the disk, up to half of cache.disk in\nall; what goes beyond is evicted like any other. Pins survive a restart. Pinning fetches nothing: see firn cache warm."),
		cacheChangeCommand(env, admin, "unpin", "Take a pin back", ""),
	)
	for _, sub := range c.Commands() {
		admin.register(sub)
	}
	c.AddCommand(cacheSimulateCommand(env))
	return c
}

const cacheNames = `BUCKET/PREFIX is content on tiers of the objects whose keys begin with PREFIX, one key alone among them; /PATH is what
the edge cache keeps of paths that begin so.`

func cacheStatusCommand(env *Env, admin *adminFlags) *cobra.Command {
	return &cobra.Command{
		Use: "status", Short: "Show what is kept, and how much of what is read was there", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			site, err := admin.connect()
			if err != nil {
				return err
			}
			var s adminapi.CacheStatus
			if err := site.call(cmd.Context(), "GET", "/admin/v1/cache", nil, &s); err != nil {
				return err
			}
			if asJSON(cmd) {
				return emit(env.Out, s)
			}
			return printCacheStatus(env.Out, &s)
		},
	}
}

func ibytes[N int64 | uint64](n N) string { return humanize.IBytes(uint64(max(0, n))) }

func printCacheStatus(out io.Writer, s *adminapi.CacheStatus) error {
	w := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	fmt.Fprintln(w, "LEVEL\tUSED\tBUDGET\tBLOCKS\tPINNED\tHITS\tMISSES\tHIT RATIO\tHIT BYTES\tEVICTED\tOLDEST")
	for _, l := range s.Levels {
		used, budget, blocks, oldest := ibytes(l.Bytes), ibytes(l.Budget), fmt.Sprint(l.Blocks), "-"
		if l.Budget == 0 {
			used, budget, blocks = "-", "-", "-" // the server's to tell
		}
		if l.OldestSeconds > 0 {
			oldest = time.Duration(l.OldestSeconds * float64(time.Second)).Round(time.Second).String()
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%d\t%d\t%.1f %%\t%s\t%d\t%s\n",
			l.Name, used, budget, blocks, ibytes(l.Pinned), l.Hits, l.Misses, 100*l.HitRatio, ibytes(l.HitBytes), l.Evicted, oldest)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	var b strings.Builder
	if total := sumOf(s.Read); len(s.Read) > 0 {
		fmt.Fprintf(&b, "content of tiers read: %s", ibytes(total))
		for _, l := range append(slices.Clone(s.Levels), adminapi.CacheLevel{Name: "tier"}) {
			if n := s.Read[l.Name]; n > 0 {
				fmt.Fprintf(&b, ", %.1f %% from %s", 100*float64(n)/float64(total), l.Name)
			}
		}
		fmt.Fprintf(&b, "; tiers sent %s\n", ibytes(s.Fetched))
	}
	if p := s.Prefetch; p != nil {
		fmt.Fprintf(&b, "prefetch: %s in %d fetches of %d expected; %d gave way, %d dropped, %d failed\n", ibytes(p.Bytes), p.Fetched, p.Suggested, p.Cancelled, p.Dropped, p.Failed)
	}
	if u := s.Bus; u != nil {
		state := "connected"
		if !u.Connected {
			state = "away: what may have changed elsewhere is revalidated"
		}
		fmt.Fprintf(&b, "purges of other nodes: %s; %d told, %d heard, missed perhaps %d times\n", state, u.Published, u.Applied, u.Lost)
	}
	if s.Wrong > 0 {
		fmt.Fprintf(&b, "content that failed its checksums: %d times, forgotten\n", s.Wrong)
	}
	for _, l := range s.Levels {
		if l.Damaged+l.Errors > 0 {
			fmt.Fprintf(&b, "%s: %d damaged blocks, %d failed operations\n", l.Name, l.Damaged, l.Errors)
		}
	}
	for _, p := range s.Pins {
		fmt.Fprintf(&b, "pinned: %s\n", p)
	}
	_, err := io.WriteString(out, b.String())
	return err
}

func sumOf(m map[string]uint64) (n uint64) {
	for _, v := range m {
		n += v
	}
	return n
}

func cacheChangeCommand(env *Env, admin *adminFlags, verb, short, long string) *cobra.Command {
	return &cobra.Command{
		Use: verb + " BUCKET/PREFIX", Short: short, Long: strings.TrimSpace(short + ".\n\n" + long + "\n\n" + cacheNames), Args: oneArg("BUCKET/PREFIX or /PATH"),
		RunE: func(cmd *cobra.Command, args []string) error { return cacheChange(cmd, env, admin, verb, args[0]) },
	}
}

func cacheChange(cmd *cobra.Command, env *Env, admin *adminFlags, verb, prefix string) error {
	site, err := admin.connect()
	if err != nil {
		return err
	}
	n := adminapi.CacheNames{Prefix: prefix}
	if err := site.call(cmd.Context(), "POST", "/admin/v1/cache/"+verb, n, nil); err != nil {
		return err
	}
	if asJSON(cmd) {
		return emit(env.Out, n)
	}
	return nil
}

func cachePurgeCommand(env *Env, admin *adminFlags) *cobra.Command {
	var all bool
	c := &cobra.Command{
		Use: "purge BUCKET/PREFIX | --all", Short: "Forget what is kept", Args: cobra.MaximumNArgs(1),
		Long: `Forget what is kept, here and at the nodes that share cache.redis. What is pinned goes too, and the pin stays. No content is
lost: it is fetched again when it is read.

` + cacheNames,
		RunE: func(cmd *cobra.Command, args []string) error {
			prefix := strings.Join(args, "")
			if all == (prefix != "") {
				return usageError("want BUCKET/PREFIX, or /PATH, or --all")
			}
			return cacheChange(cmd, env, admin, "purge", prefix)
		},
	}
	c.Flags().BoolVar(&all, "all", false, "everything")
	return c
}

func cacheWarmCommand(env *Env, admin *adminFlags) *cobra.Command {
	return &cobra.Command{
		Use: "warm BUCKET/PREFIX", Short: "Fetch what is on tiers into the cache", Args: oneArg("BUCKET/PREFIX"),
		Long: `Fetch the current content of all objects on tiers whose keys begin with PREFIX, one key alone among them, into the cache.
What is there already is not fetched. Content beyond the cache's budget pushes out other, or itself.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			site, err := admin.connect()
			if err != nil {
				return err
			}
			body, err := site.open(cmd.Context(), "POST", "/admin/v1/cache/warm", adminapi.CacheNames{Prefix: args[0]})
			if err != nil {
				return err
			}
			defer body.Close()
			var sum adminapi.CacheWarmed
			err = lines(body, func(line []byte) error {
				var o adminapi.CacheWarmed
				if err := json.Unmarshal(line, &o); err != nil {
					return err
				}
				switch {
				case o.Done:
					sum = o
				case o.Error != "" && !asJSON(cmd):
					_, err := fmt.Fprintf(env.Out, "%s: %s\n", o.Key, o.Error)
					return err
				}
				if asJSON(cmd) {
					_, err := fmt.Fprintf(env.Out, "%s\n", line)
					return err
				}
				return nil
			})
			if err == nil && !sum.Done {
				err = errors.New("cache warm: the site ended the answer before it was through: look at its log and try again")
			}
			if err == nil && !asJSON(cmd) {
				_, err = fmt.Fprintf(env.Out, "%d objects on tiers, %s fetched; %d have their bytes here; %d failed\n", sum.Objects, ibytes(sum.Fetched), sum.Local, sum.Failed)
			}
			if err == nil && sum.Failed > 0 {
				err = &exitError{code: exitProblems}
			}
			return err
		},
	}
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
