package cli

import (
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"firn"
	"firn/blob"
	"firn/blob/places"
)

// blobRepair is what `firn blob repair` did.
type blobRepair struct {
	URL     string         `json:"url"`
	Copied  int            `json:"copied"`
	Deleted int            `json:"deleted"`
	Left    int            `json:"left"`
	Members []mirrorMember `json:"members"`
}

// mirrorMember is a place of a mirror after its repair.
type mirrorMember struct {
	Name string `json:"name"`
	// Owed is the number of blobs of which its copy is not right.
	Owed int `json:"owed"`
	// Filling: it has not got everything yet.
	Filling bool `json:"filling"`
	// Away since, and why; missing where it is there.
	Away *time.Time `json:"away,omitempty"`
	Why  string     `json:"why,omitempty"`
}

func blobRepairCommand(env *Env) *cobra.Command {
	o := opener{env: env}
	c := &cobra.Command{
		Use: "repair URL", Short: "Make the places of a mirror the same again", Args: oneArg("the URL of a mirror, place:NAME"),
		Long: `Give the places of a mirror what they missed while they were away or lost, take from them what was deleted meanwhile,
and compare all their blobs by name and size. Readers and writers go on. A place whose disk was replaced is made with
firn blob init first. It fails where something is left, because a place is away.`,
		Example: `  firn blob init place:nas2 && firn blob repair place:both`,
		RunE: func(cmd *cobra.Command, args []string) error {
			return o.with(cmd.Context(), args[0], func(s *blob.Store) error {
				did, status, err := places.Repair(cmd.Context(), s)
				if err != nil {
					return err
				}
				r := blobRepair{URL: s.Name(), Copied: did.Copied, Deleted: did.Deleted, Left: did.Left, Members: []mirrorMember{}}
				whole := did.Left == 0
				for _, m := range status {
					shown := mirrorMember{Name: m.Name, Owed: m.Owed, Filling: m.Filling}
					if !m.Away.IsZero() {
						shown.Away, shown.Why = &m.Away, fmt.Sprint(m.AwayErr)
					}
					whole = whole && !m.Filling && shown.Away == nil
					r.Members = append(r.Members, shown)
				}
				if asJSON(cmd) {
					err = emit(env.Out, r)
				} else {
					err = r.print(env)
				}
				if err == nil && !whole {
					err = &firn.Error{
						Kind: firn.Unavailable, Op: "repair", Subject: s.Name(),
						Err: errors.New("not all places are whole: repair again when those that are away are back"),
					}
				}
				return err
			})
		},
	}
	o.register(c.Flags())
	return c
}

func (r blobRepair) print(env *Env) error {
	fmt.Fprintf(env.Out, "copied %d, deleted %d, left %d\n", r.Copied, r.Deleted, r.Left)
	for _, m := range r.Members {
		how := "whole"
		switch {
		case m.Away != nil:
			how = "away: " + m.Why
		case m.Filling:
			how = "has not got everything yet"
		case m.Owed > 0:
			how = fmt.Sprintf("%d blobs are not right", m.Owed)
		}
		if _, err := fmt.Fprintf(env.Out, "  %s: %s\n", m.Name, how); err != nil {
			return err
		}
	}
	return nil
}
