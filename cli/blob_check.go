package cli

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"text/tabwriter"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"

	"firn"
	"firn/blob"
	"firn/blob/driver"
	"firn/repo"
)

// blobCheck is what `firn blob check` finds.
type blobCheck struct {
	URL       string          `json:"url"`
	Abilities map[string]bool `json:"abilities"`
	// Total and Free are the space there, in bytes; -1 where the place does not tell.
	Total int64 `json:"total_bytes"`
	Free  int64 `json:"free_bytes"`
	// Millis is how long each call took, in milliseconds.
	Millis map[string]float64 `json:"milliseconds"`
	// Clock is how far the place's clock is ahead, in seconds; nil where it does not tell.
	Clock *float64 `json:"clock_ahead_seconds,omitempty"`

	steps []string
}

func blobCheckCommand(env *Env) *cobra.Command {
	o := opener{env: env}
	c := &cobra.Command{
		Use: "check URL", Short: "Try whether a place works", Args: oneArg("the URL of a place"),
		Long: `Store a small blob in a place, read, list and remove it again, and report how long each took, what the place
can do, how much space it has, and how far its clock is from this machine's.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			return o.with(cmd.Context(), args[0], func(s *blob.Store) error {
				c := &blobCheck{URL: s.Name(), Millis: map[string]float64{}}
				if err := c.run(cmd.Context(), s); err != nil {
					return err
				}
				if asJSON(cmd) {
					return emit(env.Out, c)
				}
				return c.print(env)
			})
		},
	}
	o.register(c.Flags())
	return c
}

// step runs one call and measures it.
func (c *blobCheck) step(name string, fn func() error) error {
	begin := time.Now()
	err := fn()
	c.Millis[name] = float64(time.Since(begin).Microseconds()) / 1000
	c.steps = append(c.steps, name)
	return err
}

func wrong(format string, args ...any) error {
	return firn.NewError(firn.Corrupt, "the place does not work: "+fmt.Sprintf(format, args...))
}

func (c *blobCheck) run(ctx context.Context, s *blob.Store) (err error) {
	_, creates := blob.As[driver.Creator](s.Driver())
	_, batches := blob.As[driver.Batcher](s.Driver())
	_, bulk := blob.As[driver.BulkDeleter](s.Driver())
	_, measures := blob.As[driver.Measurer](s.Driver())
	c.Abilities = map[string]bool{"create": creates, "batch": batches, "bulk delete": bulk, "resume": s.CanResume(), "space": measures}

	p := make([]byte, 64<<10)
	_, _ = rand.Read(p) // never fails
	key := "firn-check-" + hex.EncodeToString(p[:8])
	closing, release := repo.Closing(ctx)
	defer release()
	defer func() {
		if err != nil {
			_ = s.Delete(closing, key) // the first error counts
		}
	}()
	var begin, end time.Time
	if err := c.step("put", func() error {
		begin = time.Now()
		err := s.PutBytes(ctx, key, p)
		end = time.Now()
		return err
	}); err != nil {
		return err
	}
	if err := c.step("stat", func() error {
		info, err := s.Stat(ctx, key)
		if err == nil && info.Size != int64(len(p)) {
			err = wrong("a blob of %d bytes has %d", len(p), info.Size)
		}
		if !info.Modified.IsZero() {
			ahead := info.Modified.Sub(begin.Add(end.Sub(begin) / 2)).Seconds()
			c.Clock = &ahead
		}
		return err
	}); err != nil {
		return err
	}
	if err := c.step("get", func() error {
		got, err := s.ReadAll(ctx, key, int64(len(p)))
		if err == nil && !bytes.Equal(got, p) {
			err = wrong("it gives other bytes than were stored")
		}
		return err
	}); err != nil {
		return err
	}
	if err := c.step("get a range", func() error {
		got := make([]byte, 1000)
		_, err := s.ReadAt(ctx, key, got, 5000)
		if err == nil && !bytes.Equal(got, p[5000:6000]) {
			err = wrong("it gives other bytes than were stored")
		}
		return err
	}); err != nil {
		return err
	}
	if err := c.step("list", func() error {
		n := 0
		for _, err := range s.List(ctx, key) {
			if err != nil {
				return err
			}
			n++
		}
		if n != 1 {
			return wrong("a listing shows %d blobs where 1 is", n)
		}
		return nil
	}); err != nil {
		return err
	}
	if creates {
		if err := c.step("create", func() error {
			if err := s.Create(ctx, key, blob.Bytes(nil)); firn.KindOf(err) != firn.Exists {
				return wrong("creating what is there gives %v", err)
			}
			return nil
		}); err != nil {
			return err
		}
	}
	if err := c.step("delete", func() error { return s.Delete(ctx, key) }); err != nil {
		return err
	}
	if there, err := s.Exists(ctx, key); err != nil || there {
		if err == nil {
			err = wrong("a blob that was deleted is still there")
		}
		return err
	}
	space, err := s.Space(ctx)
	c.Total, c.Free = space.Total, space.Free
	return err
}

func (c *blobCheck) print(env *Env) error {
	w := tabwriter.NewWriter(env.Out, 0, 0, 2, ' ', 0)
	fmt.Fprintf(w, "%s works\n", c.URL)
	for _, step := range c.steps {
		fmt.Fprintf(w, "  %s\t%.1f ms\n", step, c.Millis[step])
	}
	for _, a := range []string{"create", "batch", "bulk delete", "resume"} {
		has := "no"
		if c.Abilities[a] {
			has = "yes"
		}
		fmt.Fprintf(w, "  can %s\t%s\n", a, has)
	}
	if c.Free >= 0 {
		fmt.Fprintf(w, "  free\t%s\n", humanize.IBytes(uint64(c.Free)))
	}
	if c.Clock != nil {
		fmt.Fprintf(w, "  clock\t%+.1f s\n", *c.Clock)
	}
	return w.Flush()
}
