package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"

	"firn/adminapi"
	"firn/config"
)

func tierCommand(env *Env) *cobra.Command {
	c := group("tier", "Places where objects live instead of in the data directory")
	c.Long = `Tiers are places of the configuration (tiers: in firn.yaml) where the bytes of objects live instead of in the data
directory, each with its storage class. Names, metadata and versions stay with the site, and reads go on by the same
names. docs/tiers.md tells how.`
	admin := addAdminFlags(c, env)
	c.AddCommand(tierList(env, admin), tierStatus(env, admin), tierExplain(env, admin), tierMove(env, admin),
		tierRecall(env, admin), tierRebuild(env, admin))
	return c
}

func iBytes(n int64) string { return humanize.IBytes(uint64(max(0, n))) }

// tiersOf asks the site for its tiers, and prints them as JSON or by print.
func tiersOf(cmd *cobra.Command, env *Env, admin *adminFlags, print func(*adminapi.Tiers) error) error {
	site, err := admin.connect()
	if err != nil {
		return err
	}
	var all adminapi.Tiers
	if err := site.call(cmd.Context(), "GET", "/admin/v1/tiers", nil, &all); err != nil {
		return err
	}
	if asJSON(cmd) {
		return emit(env.Out, all)
	}
	if len(all.Tiers) == 0 {
		_, err := fmt.Fprintln(env.Out, "the site has no tiers: see docs/tiers.md")
		return err
	}
	return print(&all)
}

func tierList(env *Env, admin *adminFlags) *cobra.Command {
	return &cobra.Command{
		Use: "ls", Short: "List the tiers, what is on them and what that costs", Args: noArgs,
		Long: `List the tiers. VERSIONS and BYTES count all versions of the tier's storage class: those on the tier, and those that
are to go there. A MONTH is tiers.NAME.cost times the bytes.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return tiersOf(cmd, env, admin, func(all *adminapi.Tiers) error {
				w := tabwriter.NewWriter(env.Out, 0, 0, 2, ' ', 0)
				fmt.Fprintln(w, "TIER\tCLASS\tURL\tVERSIONS\tBYTES\tA MONTH")
				for _, t := range all.Tiers {
					cost := "-"
					if t.Cost != "" {
						cost = fmt.Sprintf("%.2f", t.CostMonth)
					}
					bytes := iBytes(t.Bytes)
					if t.MaxBytes > 0 {
						bytes += " of " + iBytes(t.MaxBytes)
					}
					fmt.Fprintf(w, "%s\t%s\t%s\t%d\t%s\t%s\n", t.Name, t.Class, t.URL, t.Versions, bytes, cost)
				}
				return w.Flush()
			})
		},
	}
}

func tierStatus(env *Env, admin *adminFlags) *cobra.Command {
	return &cobra.Command{
		Use: "status", Short: "Say whether the tiers can be used, and what waits", Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return tiersOf(cmd, env, admin, func(all *adminapi.Tiers) error {
				if !all.Opens.IsZero() {
					fmt.Fprintf(env.Out, "moves by rules begin again at %s\n", when(all.Opens))
				}
				for _, t := range all.Tiers {
					if err := printTierStatus(env.Out, &t); err != nil {
						return err
					}
				}
				return nil
			})
		},
	}
}

func printTierStatus(out io.Writer, t *adminapi.Tier) error {
	state := "ready"
	switch {
	case !t.AwaySince.IsZero():
		state = "away since " + when(t.AwaySince)
	case !t.Ready && t.Error != "":
		state = "not used"
	case !t.Ready:
		state = "not asked yet"
	}
	fmt.Fprintf(out, "%s: %s\n", t.Name, state)
	if t.Error != "" {
		fmt.Fprintf(out, "  %s\n", t.Error)
	}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintf(w, "  to be moved to it\t%s%s\n", backlog(&t.Moves), begun(&t.Begun))
	for _, b := range []struct {
		what string
		b    adminapi.Backlog
	}{{"to be recalled from it", t.Recalls}, {"to be removed from it", t.Garbage}} {
		fmt.Fprintf(w, "  %s\t%s\n", b.what, backlog(&b.b))
	}
	fmt.Fprintf(w, "  changes its catalogue does not tell of\t%d\n", t.Journal)
	fmt.Fprintf(w, "  since the start\t%d moved, %s; %d recalled, %s; %d removed; %d errors\n",
		t.Moved, iBytes(t.MovedBytes), t.Recalled, iBytes(t.RecalledBytes), t.Removed, t.Errors)
	return w.Flush()
}

// begun says how far the copies of large versions are.
func begun(b *adminapi.Begun) string {
	if b.Objects == 0 {
		return ""
	}
	return fmt.Sprintf("; large ones begun: %d, %s of %s", b.Objects, iBytes(b.Done), iBytes(b.Bytes))
}

func backlog(b *adminapi.Backlog) string {
	if b.Objects == 0 {
		return "nothing"
	}
	s := fmt.Sprint(b.Objects)
	if b.More {
		s += " or more"
	}
	if b.Bytes > 0 {
		s += ", " + iBytes(b.Bytes)
	}
	if !b.Oldest.IsZero() {
		s += ", the oldest since " + when(b.Oldest)
	}
	return s
}

// bucketAndKey reads BUCKET/KEY.
func bucketAndKey(arg string) (bucket, key string, err error) {
	bucket, key, ok := strings.Cut(arg, "/")
	if !ok || bucket == "" || key == "" {
		return "", "", usageError("%s: want BUCKET/KEY", arg)
	}
	return bucket, key, nil
}

func tierExplain(env *Env, admin *adminFlags) *cobra.Command {
	var version string
	c := &cobra.Command{
		Use: "explain BUCKET/KEY", Short: "Say where the bytes of an object are, and what a read would do", Args: oneArg("an object as BUCKET/KEY"),
		RunE: func(cmd *cobra.Command, args []string) error {
			bucket, key, err := bucketAndKey(args[0])
			if err != nil {
				return err
			}
			site, err := admin.connect()
			if err != nil {
				return err
			}
			var e adminapi.TierExplain
			q := url.Values{"bucket": {bucket}, "key": {key}, "version": {version}}
			if err := site.call(cmd.Context(), "GET", "/admin/v1/tiers/explain?"+q.Encode(), nil, &e); err != nil {
				return err
			}
			if asJSON(cmd) {
				return emit(env.Out, e)
			}
			fmt.Fprintf(env.Out, "%s, version %s, class %s\n", shown(e.Bucket+"/"+e.Key), e.VersionID, e.Class)
			for _, s := range e.Says {
				if _, err := fmt.Fprintln(env.Out, "  "+s); err != nil {
					return err
				}
			}
			return nil
		},
	}
	c.Flags().StringVar(&version, "version-id", "", "this version instead of the current one")
	return c
}

// tierWork are the flags and arguments by which move and recall know what they are about.
type tierWork struct {
	adminapi.TierWork
	prefix bool
}

func addTierWork(c *cobra.Command) *tierWork {
	w := &tierWork{}
	c.Flags().BoolVar(&w.prefix, "prefix", false, "all objects whose keys begin with KEY; BUCKET alone is all of the bucket")
	c.Flags().StringVar(&w.Version, "version-id", "", "this version instead of the current one")
	c.Flags().BoolVar(&w.Versions, "versions", false, "all versions, not only the current ones")
	return w
}

func (w *tierWork) read(arg string) (err error) {
	if !w.prefix {
		if w.Version != "" && w.Versions {
			return usageError("--version-id names one version, --versions all: give one of them")
		}
		w.Bucket, w.Key, err = bucketAndKey(arg)
		return err
	}
	if w.Version != "" {
		return usageError("--version-id goes with one object, not with --prefix")
	}
	if w.Bucket, w.Prefix, _ = strings.Cut(arg, "/"); w.Bucket == "" {
		return usageError("%s: want BUCKET or BUCKET/PREFIX", arg)
	}
	return nil
}

func tierMove(env *Env, admin *adminFlags) *cobra.Command {
	c := &cobra.Command{
		Use: "move BUCKET/KEY CLASS", Short: "Move objects to the tier of a storage class now",
		Long: `Move an object, or with --prefix many, to the tier of a storage class now, whatever rules say. STANDARD brings them
back for good. An object is copied, read back and compared before its local bytes go; one that is replaced or removed
meanwhile is left alone. Rules may move it on: see firn lifecycle explain.`,
		Example: `  firn tier move docs/report.pdf COLD
  firn tier move --prefix docs/2019/ COLD`,
		Args: fromTo(2, 2, "BUCKET/KEY, or with --prefix BUCKET/PREFIX, and a storage class"),
	}
	w := addTierWork(c)
	c.RunE = func(cmd *cobra.Command, args []string) error {
		if err := w.read(args[0]); err != nil {
			return err
		}
		w.Class = args[1]
		return runTierWork(cmd, env, admin, "move", w, "moved")
	}
	return c
}

func tierRecall(env *Env, admin *adminFlags) *cobra.Command {
	var dur string
	c := &cobra.Command{
		Use: "recall BUCKET/KEY", Short: "Bring objects back from their tiers now",
		Long: `Bring an object, or with --prefix many, back to the data directory: for good, and its class is STANDARD then, or
with --for as a copy beside the one on the tier, which goes again after that time. Each block is verified.`,
		Example: `  firn tier recall docs/report.pdf
  firn tier recall --prefix docs/2019/ --for 7d`,
		Args: oneArg("BUCKET/KEY, or with --prefix BUCKET/PREFIX"),
	}
	w := addTierWork(c)
	c.Flags().StringVar(&dur, "for", "", "keep a local copy for this long, such as 7d, and the bytes on the tier as well")
	c.RunE = func(cmd *cobra.Command, args []string) error {
		if err := w.read(args[0]); err != nil {
			return err
		}
		if dur != "" {
			d, err := config.ParseDuration(dur)
			if err != nil || d <= 0 {
				return usageError("--for %s: want a time such as 12h or 7d", dur)
			}
			w.For = d.Std().Seconds()
		}
		return runTierWork(cmd, env, admin, "recall", w, "recalled")
	}
	return c
}

// runTierWork has versions moved or recalled, and prints what failed and a report.
func runTierWork(cmd *cobra.Command, env *Env, admin *adminFlags, what string, w *tierWork, did string) error {
	site, err := admin.connect()
	if err != nil {
		return err
	}
	body, err := site.open(cmd.Context(), "POST", "/admin/v1/tiers/"+what, w.TierWork)
	if err != nil {
		return err
	}
	defer body.Close()
	var rep *adminapi.TierReport
	var objects, bytes int64
	progress := newCounter(cmd, env)
	err = lines(body, func(line []byte) error {
		var l adminapi.TierLine
		if err := json.Unmarshal(line, &l); err != nil {
			return err
		}
		if l.Report != nil {
			rep = l.Report
		}
		if it := l.Item; it != nil {
			objects, bytes = objects+1, bytes+it.Size
			progress.draw("%d objects, %s", objects, iBytes(bytes))
		}
		return tierLine(cmd, env, progress, line, l.Item)
	})
	progress.clear()
	if err := answered(err, rep != nil); err != nil {
		return err
	}
	if !asJSON(cmd) {
		text := fmt.Sprintf("%s %d, %s, in %s", did, rep.Objects, iBytes(rep.Bytes), time.Duration(rep.Seconds*float64(time.Second)).Round(time.Millisecond))
		for _, n := range []struct {
			n    int64
			what string
		}{{rep.Already, "were there already"}, {rep.Changed, "changed meanwhile"}, {rep.Failed, "failed"}} {
			if n.n > 0 {
				text += fmt.Sprintf("; %d %s", n.n, n.what)
			}
		}
		if _, err := fmt.Fprintln(env.Out, text); err != nil {
			return err
		}
	}
	if rep.Failed > 0 {
		return &exitError{code: exitFailed}
	}
	return nil
}

func printTierFailure(w io.Writer, it *adminapi.TierItem) error {
	name := it.Bucket
	if it.Key != "" {
		name += "/" + it.Key
	}
	name = shown(name)
	if it.VersionID != "" && it.VersionID != "null" {
		name += " (" + it.VersionID + ")"
	}
	_, err := fmt.Fprintf(w, "%s: %s\n", name, it.Error)
	return err
}

func tierRebuild(env *Env, admin *adminFlags) *cobra.Command {
	var o adminapi.TierRebuild
	c := &cobra.Command{
		Use: "rebuild TIER", Short: "Make the buckets and versions of a lost site again from what a tier holds",
		Long: `Make the buckets, versions and delete markers that a tier's catalogue tells of again in this site. Their bytes stay
on the tier. What is there already stays as it is, so it can be repeated, and done for one tier after another.

The tier of another site is taken over with --from and that site's id, which firn-tier.json on the tier and the
error of a rebuild without --from tell. Do so only if that site is lost: it must not write to the tier any more. Where
something could not be made the tier is not taken over: what was made can be read, and nothing is moved or removed there.

What was never moved to a tier, users, keys, and the journal's past do not come back by it. Encrypted objects need the
keyring, or key service, of the lost site.`,
		Args: oneArg("the name of a tier"),
	}
	c.Flags().StringVar(&o.From, "from", "", "id of the lost site whose tier it was")
	c.RunE = func(cmd *cobra.Command, args []string) error {
		o.Tier = args[0]
		site, err := admin.connect()
		if err != nil {
			return err
		}
		body, err := site.open(cmd.Context(), "POST", "/admin/v1/tiers/rebuild", o)
		if err != nil {
			return err
		}
		defer body.Close()
		var rep *adminapi.TierRebuilt
		progress := newCounter(cmd, env)
		err = lines(body, func(line []byte) error {
			var l adminapi.TierLine
			if err := json.Unmarshal(line, &l); err != nil {
				return err
			}
			if l.So != nil {
				progress.draw("%d versions, %s", l.So.Versions+l.So.Present, iBytes(l.So.Bytes))
			}
			if l.Rebuilt != nil {
				rep = l.Rebuilt
			}
			return tierLine(cmd, env, progress, line, l.Item)
		})
		progress.clear()
		if err := answered(err, rep != nil); err != nil {
			return err
		}
		if !asJSON(cmd) {
			fmt.Fprintf(env.Out, "made %d buckets, %d versions, %s, and %d delete markers; %d were there already\n",
				rep.Buckets, rep.Versions, iBytes(rep.Bytes), rep.Markers, rep.Present)
		}
		if rep.Failed > 0 {
			return &exitError{exitFailed, fmt.Errorf("rebuild: %d could not be made, so that the tier stays as it was: see above, and do it again", rep.Failed)}
		}
		return nil
	}
	return c
}

// counter draws one line of progress over and over on a terminal.
type counter struct {
	w    io.Writer // nil where there is none
	last time.Time
}

func newCounter(cmd *cobra.Command, env *Env) *counter {
	if !env.Terminal || asJSON(cmd) {
		return &counter{}
	}
	return &counter{w: env.Err}
}

func (c *counter) draw(format string, args ...any) {
	if c.w == nil || time.Since(c.last) < 100*time.Millisecond {
		return
	}
	c.last = time.Now()
	fmt.Fprintf(c.w, "\r\x1b[K"+format, args...)
}

func (c *counter) clear() {
	if c.w != nil && !c.last.IsZero() {
		fmt.Fprint(c.w, "\r\x1b[K")
	}
}

// tierLine passes a line of an answer on as JSON, or tells of the item in it if that failed.
func tierLine(cmd *cobra.Command, env *Env, progress *counter, line []byte, it *adminapi.TierItem) error {
	switch {
	case asJSON(cmd):
		_, err := fmt.Fprintf(env.Out, "%s\n", line)
		return err
	case it != nil && it.Error != "":
		progress.clear()
		return printTierFailure(env.Err, it)
	}
	return nil
}

// answered is err, or that an answer of lines ended before the one that says it is through.
func answered(err error, through bool) error {
	if err == nil && !through {
		err = errors.New("the site ended the answer before it was through: look at its log and try again; what is done is not done twice")
	}
	return err
}
