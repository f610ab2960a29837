package archive

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"firn"
	"firn/repo"
)

// Policy says which snapshots of a group are kept. Rules add up: what one keeps stays.
type Policy struct {
	Last    int           // the newest n
	Hourly  int           // the newest of each of the last n hours that have one
	Daily   int           // of days
	Weekly  int           // of ISO weeks
	Monthly int           // of months
	Yearly  int           // of years
	Within  time.Duration // those not older than that before the newest of the group; 0 for none
	Tags    []string      // those with one of these
}

// Empty reports whether the policy keeps nothing by a rule.
func (p Policy) Empty() bool {
	return p.Last+p.Hourly+p.Daily+p.Weekly+p.Monthly+p.Yearly == 0 && p.Within == 0 && len(p.Tags) == 0
}

// GroupBy says which snapshots are each other's versions.
type GroupBy struct{ Host, Paths, Tags bool }

// DefaultGroup is by host and paths.
func DefaultGroup() GroupBy { return GroupBy{Host: true, Paths: true} }

// ForgetGroup is what happens to the snapshots of one group, the newest first.
type ForgetGroup struct {
	Host      string     `json:"host,omitempty"`
	Paths     []string   `json:"paths,omitempty"`
	Tags      []string   `json:"tags,omitempty"`
	Decisions []Decision `json:"decisions"`
	// Future is how many of them have a time in the future: a clock is, or was, wrong. They are kept.
	Future int `json:"from_the_future,omitempty"`
}

// Decision is what happens to one snapshot, and why.
type Decision struct {
	Snapshot repo.Snapshot `json:"-"`
	Keep     bool          `json:"keep"`
	Reasons  []string      `json:"reasons,omitempty"`
}

// PlanForget decides which snapshots to keep. It changes nothing, and looks at nothing but its arguments: "the last n
// days" are the last ones that have snapshots, so that a clock or a machine that stood still makes none disappear. The
// newest snapshot of a group, and the one that was made last where a clock went back, are kept in any case. Those that
// are later than now by more than clocks differ are kept and not counted: they would take the place of all that is made
// until their time comes. It fails with firn.Invalid for a policy without a rule.
func PlanForget(snaps []repo.Snapshot, p Policy, by GroupBy, now time.Time) ([]ForgetGroup, error) {
	if p.Empty() {
		return nil, firn.NewError(firn.Invalid, "forget: no rule says what to keep")
	}
	if min(p.Last, p.Hourly, p.Daily, p.Weekly, p.Monthly, p.Yearly) < 0 || p.Within < 0 {
		return nil, firn.NewError(firn.Invalid, "forget: what is kept cannot be less than nothing")
	}
	groups := map[string]*ForgetGroup{}
	var order []string
	for _, s := range snaps {
		g := ForgetGroup{}
		if by.Host {
			g.Host = s.Host
		}
		if by.Paths {
			g.Paths = slices.Sorted(slices.Values(s.Paths))
		}
		if by.Tags {
			g.Tags = slices.Sorted(slices.Values(s.Tags))
		}
		key := fmt.Sprintf("%q %q %q", g.Host, g.Paths, g.Tags)
		if groups[key] == nil {
			groups[key] = &g
			order = append(order, key)
		}
		groups[key].Decisions = append(groups[key].Decisions, Decision{Snapshot: s})
	}
	slices.Sort(order)
	var all []ForgetGroup
	for _, key := range order {
		g := groups[key]
		slices.SortStableFunc(g.Decisions, func(a, b Decision) int {
			return cmp.Or(b.Snapshot.Time.Compare(a.Snapshot.Time), strings.Compare(a.Snapshot.ID.String(), b.Snapshot.ID.String()))
		})
		for g.Future < len(g.Decisions) && fromFuture(&g.Decisions[g.Future].Snapshot, now) {
			d := &g.Decisions[g.Future]
			d.Keep, d.Reasons = true, []string{"from the future"}
			g.Future++
		}
		p.decide(g.Decisions[g.Future:], now)
		all = append(all, *g)
	}
	return all, nil
}

// decide marks what to keep of a group, the newest first.
func (p Policy) decide(ds []Decision, now time.Time) {
	snaps := make([]repo.Snapshot, len(ds))
	for i := range ds {
		snaps[i] = ds[i].Snapshot
	}
	last := latest(snaps, now)
	periods := []struct {
		name string
		n    int
		of   func(time.Time) string
	}{
		{"hourly", p.Hourly, func(t time.Time) string { return t.Format("2006-01-02 15h -0700") }},
		{"daily", p.Daily, func(t time.Time) string { return t.Format("2006-01-02") }},
		{"weekly", p.Weekly, func(t time.Time) string { y, w := t.ISOWeek(); return fmt.Sprintf("%d-W%02d", y, w) }},
		{"monthly", p.Monthly, func(t time.Time) string { return t.Format("2006-01") }},
		{"yearly", p.Yearly, func(t time.Time) string { return t.Format("2006") }},
	}
	period := make([]string, len(periods)) // that was kept last
	for i := range ds {
		d := &ds[i]
		keep := func(format string, args ...any) {
			d.Keep = true
			d.Reasons = append(d.Reasons, fmt.Sprintf(format, args...))
		}
		if i < p.Last {
			keep("last %d", i+1)
		}
		for k := range periods {
			q := &periods[k]
			if q.n == 0 {
				continue
			}
			if of := q.of(d.Snapshot.Time); of != period[k] {
				period[k] = of
				q.n--
				keep("%s %s", q.name, of)
			}
		}
		if p.Within > 0 && ds[0].Snapshot.Time.Sub(d.Snapshot.Time) <= p.Within {
			keep("within %s", p.Within)
		}
		for _, t := range p.Tags {
			if slices.Contains(d.Snapshot.Tags, t) {
				keep("tag %s", t)
			}
		}
		if i == 0 && !d.Keep {
			keep("newest of its group")
		}
		if i > 0 && !d.Keep && last != nil && d.Snapshot.ID == last.ID {
			keep("made last of its group")
		}
	}
}
