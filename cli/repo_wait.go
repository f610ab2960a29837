package cli

import (
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"firn/repo"
)

// waits returns what tells that a prune waits: on a terminal, or as a line of JSON beside the result. Elsewhere nothing
// is said: what runs at night and goes well is silent.
func waits(cmd *cobra.Command, env *Env) func(repo.Wait) {
	return func(w repo.Wait) {
		switch {
		case asJSON(cmd):
			_ = line(env.Err, waitEvent(w)) // the result tells whether the output can be written to
		case env.Terminal:
			fmt.Fprintf(env.Err, "waiting up to %s to see whether these still run; what is dead is passed over after --session-timeout:\n", shortly(w.AtMost))
			for _, s := range w.Sessions {
				fmt.Fprintf(env.Err, "  %s on %s, process %d, since %s\n", s.Purpose, shown(s.Host), s.PID, when(s.Started))
			}
		}
	}
}

// waiting is the event of a wait.
type waiting struct {
	Event    string           `json:"event"`
	Seconds  float64          `json:"at_most_seconds"`
	Sessions []waitingSession `json:"sessions"`
}

// waitingSession is one that is waited for.
type waitingSession struct {
	ID      repo.ID   `json:"id"`
	Host    string    `json:"host"`
	Purpose string    `json:"purpose"`
	PID     int       `json:"pid"`
	Started time.Time `json:"started"`
}

func waitEvent(w repo.Wait) waiting {
	e := waiting{Event: "waiting", Seconds: w.AtMost.Round(100 * time.Millisecond).Seconds()}
	for _, s := range w.Sessions {
		e.Sessions = append(e.Sessions, waitingSession(s))
	}
	return e
}

// shortly words a time for people.
func shortly(d time.Duration) string {
	if d < time.Second {
		return d.Round(time.Millisecond).String()
	}
	return d.Round(time.Second).String()
}
