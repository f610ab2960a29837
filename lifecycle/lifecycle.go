// Package lifecycle decides what becomes of versions as they age: S3 lifecycle rules, rules by temperature, and room
// on a tier that fills up. It also keeps how often and when objects are read.
//
// It owns the rules, the decisions and their reasons in words. It promises that decisions do no I/O and depend on
// nothing but their arguments, that a locked version is never decided to be removed, and that counting a read writes
// nothing. It must never import the namespace, a tier or a door: who runs decisions checks again, in the transaction
// that carries them out, that the version is still the one decided about.
package lifecycle

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// Tag is one tag of a version.
type Tag struct{ Name, Value string }

// Filter selects versions. The zero Filter selects all.
type Filter struct {
	Prefix string
	Tags   []Tag // all of them
	// Greater and Less bound the size in bytes, both exclusive; they count where HasGreater and HasLess are set.
	Greater, Less       int64
	HasGreater, HasLess bool
}

// When is a moment in a version's life: days after it was written, or a date.
type When struct {
	Days int
	Date time.Time // midnight UTC; zero where Days counts
}

// Transition is a move of current versions to a storage class.
type Transition struct {
	When
	Class string
}

// Noncurrent is when something happens to versions that are not current any more.
type Noncurrent struct {
	Days  int // since another version took their place
	Newer int // the newest so many noncurrent versions are left alone; 0 is none
	Class string
}

// Rule is one rule of a lifecycle configuration.
type Rule struct {
	ID       string
	Disabled bool
	Filter   Filter

	Expiration            *When
	ExpiredMarker         bool // removes delete markers that hide nothing any more
	Transitions           []Transition
	NoncurrentExpiration  *Noncurrent
	NoncurrentTransitions []Noncurrent
	AbortDays             int // after which unfinished uploads are aborted; 0 is never
}

// Classes are the storage classes that S3 knows, from the one for the most used data to the one for the least, which is
// also from the dearest to the cheapest. A site that has other tiers gives its own list.
func Classes() []string {
	return []string{
		"STANDARD", "STANDARD_IA", "INTELLIGENT_TIERING", "ONEZONE_IA", "GLACIER_IR", "GLACIER", "DEEP_ARCHIVE",
	}
}

// Minimum says which small objects are left where they are, as the header
// x-amz-transition-default-minimum-object-size names it.
type Minimum string

const (
	// MinimumAll leaves objects under 128 KiB alone. It is S3's default, and that of the empty Minimum.
	MinimumAll Minimum = "all_storage_classes_128K"
	// MinimumVaries does so except for moves to GLACIER and DEEP_ARCHIVE.
	MinimumVaries Minimum = "varies_by_storage_class"
	// MinimumNone moves objects of all sizes. S3 has no such value.
	MinimumNone Minimum = "none"
)

const minimumSize = 128 << 10

// Version is what a decision needs to know of a version of an object, or of a delete marker.
type Version struct {
	Key      string
	Size     int64
	Modified time.Time
	Current  bool
	Marker   bool // it is a delete marker
	Only     bool // the key has no other version
	Class    string
	Tags     []Tag

	// Noncurrent is when another version took its place, Newer how many noncurrent versions of the key, delete markers
	// among them, are newer. Both are for versions that are not current.
	Noncurrent time.Time
	Newer      int

	// LockedUntil is the end of its retention; LegalHold holds it without an end.
	LockedUntil time.Time
	LegalHold   bool

	// For rules by temperature: when its bytes came to where they are, zero where they were written there or that is not
	// known, and how it was read.
	Moved time.Time
	Use   Use

	anyTags bool // its tags are not known
}

// Action is what is to be done with a version.
type Action uint8

const (
	// Keep leaves it.
	Keep Action = iota
	// Remove deletes the version for good.
	Remove
	// Hide puts a delete marker before it.
	Hide
	// RemoveMarker deletes a delete marker that hides nothing any more.
	RemoveMarker
	// Move puts its bytes where its new storage class is.
	Move
	// Abort ends an unfinished upload.
	Abort
	// Recall brings its bytes back from a tier, for good.
	Recall
	// Free drops the local copy of a version that is on a tier.
	Free
)

var actionNames = [...]string{"keep", "remove", "hide behind a delete marker", "remove the delete marker", "move", "abort", "bring back", "free the local copy"}

// Actions returns all actions but Keep.
func Actions() []Action { return []Action{Remove, Hide, RemoveMarker, Move, Recall, Free, Abort} }

func (a Action) String() string {
	if int(a) < len(actionNames) {
		return actionNames[a]
	}
	return "unknown action"
}

// Decision is what is to be done, since when, and why.
type Decision struct {
	Action Action
	Class  string    // the new storage class of a Move or Recall
	Rule   string    // the ID of the rule
	Due    time.Time // since when; for Keep, when a rule will act next, zero where none will
	Reason string    // in words
}

// Policy is a set of rules made ready. It does not change and may be used concurrently.
type Policy struct {
	rules    []Rule
	prefixes map[string][]int // rules by their prefix
	lengths  []int            // of the prefixes, ascending
	rank     map[string]int   // storage classes, the cheapest the highest
	minimum  Minimum
	versions bool
}

// Options are what else a policy depends on.
type Options struct {
	// Versioned says that versioning is on or suspended: expired objects then get a delete marker.
	Versioned bool
	// Classes are the storage classes there are, the dearest first; nil is Classes().
	Classes []string
	Minimum Minimum
}

// New makes rules ready. Disabled rules are left out.
func New(rules []Rule, opt Options) *Policy {
	p := &Policy{prefixes: map[string][]int{}, rank: map[string]int{}, minimum: opt.Minimum, versions: opt.Versioned}
	if opt.Classes == nil {
		opt.Classes = Classes()
	}
	for i, c := range opt.Classes {
		p.rank[c] = i
	}
	for _, r := range rules {
		if r.Disabled {
			continue
		}
		p.rules = append(p.rules, r)
		p.prefixes[r.Filter.Prefix] = append(p.prefixes[r.Filter.Prefix], len(p.rules)-1)
		p.lengths = append(p.lengths, len(r.Filter.Prefix))
	}
	slices.Sort(p.lengths)
	p.lengths = slices.Compact(p.lengths)
	return p
}

// Empty reports whether no rule is enabled.
func (p *Policy) Empty() bool { return len(p.rules) == 0 }

// each calls fn for the rules whose prefix k has, in their order within one prefix.
func (p *Policy) each(k string, fn func(*Rule)) {
	for _, n := range p.lengths {
		if n > len(k) {
			return
		}
		for _, i := range p.prefixes[k[:n]] {
			fn(&p.rules[i])
		}
	}
}

// selects reports whether f selects v. A delete marker has neither tags nor a size.
func (f *Filter) selects(v *Version) bool {
	if !strings.HasPrefix(v.Key, f.Prefix) {
		return false
	}
	for _, t := range f.Tags {
		if !v.anyTags && !slices.Contains(v.Tags, t) {
			return false
		}
	}
	if v.Marker {
		return true
	}
	return (!f.HasGreater || v.Size > f.Greater) && (!f.HasLess || v.Size < f.Less)
}

// day is S3's rounding: so many days after t, and then to the next midnight UTC. Nothing waits where it is no days.
func day(t time.Time, days int) time.Time {
	if days == 0 {
		return t
	}
	y, m, d := t.UTC().Date()
	// More days than a calendar holds are never.
	return time.Date(y, m, d+min(days, maxDays)+1, 0, 0, 0, 0, time.UTC)
}

const maxDays = 4_000_000

func (w *When) due(v *Version) time.Time {
	if !w.Date.IsZero() {
		return w.Date
	}
	return day(v.Modified, w.Days)
}

// candidate is an action that a rule has in store for a version.
type candidate struct {
	action Action
	class  string
	due    time.Time
	rule   *Rule
	why    func() string // what the rule says
	weight int           // among those that are due the highest is chosen, and the earliest of equals
}

// Weights of actions that are due at the same time, as S3 documents: deletion for good goes before a move, a move before
// a delete marker. Among moves the cheapest class wins; ranks of classes are added.
const (
	weighHide   = 0
	weighMove   = 1
	weighRemove = 1 << 30
)

// MayAct reports whether something may be due for v, whose tags and locks are not known yet: where it says no, Decide keeps
// v, and next is when something may be due, zero where that is never. It costs a fraction of Decide, and spares a walk from
// looking at each version more closely.
func (p *Policy) MayAct(v *Version, now time.Time) (act bool, next time.Time) {
	w := *v
	w.anyTags = true
	p.candidates(&w, func(c candidate) {
		if now.Before(c.due) {
			next = Earlier(next, c.due)
		} else {
			act = true
		}
	}, func(string) {})
	return act, next
}

const keptReason = "kept: no rule has anything in store for it"

// Decide returns what is to be done with v at the time now.
func (p *Policy) Decide(v *Version, now time.Time) Decision {
	var chosen, next candidate
	var notes []string
	note := func(s string) { notes = append(notes, s) }
	p.candidates(v, func(c candidate) {
		if c.action == Remove && c.locked(v, note) {
			return
		}
		switch {
		case !now.Before(c.due):
			if chosen.rule == nil || c.weight > chosen.weight || c.weight == chosen.weight && c.due.Before(chosen.due) {
				chosen = c
			}
		case next.rule == nil || c.due.Before(next.due):
			next = c
		}
	}, note)
	var d Decision
	switch {
	case chosen.rule != nil:
		d = Decision{
			Action: chosen.action, Class: chosen.class, Rule: chosen.rule.ID, Due: chosen.due,
			Reason: fmt.Sprintf("%s: %s; due since %s", says(&chosen), chosen.why(), stamp(chosen.due)),
		}
	case next.rule != nil:
		d = Decision{
			Rule: next.rule.ID, Due: next.due,
			Reason: fmt.Sprintf("kept until %s, then %s: %s", stamp(next.due), says(&next), next.why()),
		}
	default:
		d = Decision{Reason: keptReason}
	}
	if len(notes) > 0 {
		d.Reason += " (" + strings.Join(notes, "; ") + ")"
	}
	return d
}

func says(c *candidate) string {
	if c.action == Move {
		return "move to " + c.class
	}
	return c.action.String()
}

func stamp(t time.Time) string { return t.UTC().Format("2006-01-02 15:04 MST") }

// locked puts off a removal until v's retention ends, and reports whether a legal hold forbids it altogether.
func (c *candidate) locked(v *Version, note func(string)) bool {
	switch {
	case v.LegalHold:
		note(fmt.Sprintf("rule %q would remove it from %s on, but a legal hold is on it", c.rule.ID, stamp(c.due)))
		return true
	case c.due.Before(v.LockedUntil):
		note(fmt.Sprintf("rule %q would remove it from %s on, but its retention lasts until %s", c.rule.ID, stamp(c.due),
			stamp(v.LockedUntil)))
		c.due = v.LockedUntil
	}
	return false
}

// candidates calls yield for all that the rules have in store for v, and note for what a rule wants and cannot have.
func (p *Policy) candidates(v *Version, yield func(candidate), note func(string)) {
	p.each(v.Key, func(r *Rule) {
		if !r.Filter.selects(v) {
			return
		}
		switch {
		case v.Current && v.Marker:
			p.marker(r, v, yield)
		case v.Current:
			p.current(r, v, yield, note)
		default:
			p.noncurrent(r, v, yield, note)
		}
	})
}

// marker is for current delete markers. They are cleaned up when nothing is behind them, by the rule for just that or
// when they are themselves as old as objects may become.
func (p *Policy) marker(r *Rule, v *Version, yield func(candidate)) {
	if !v.Only {
		return
	}
	if r.ExpiredMarker {
		yield(candidate{
			action: RemoveMarker, due: v.Modified, rule: r, weight: weighRemove,
			why: func() string { return fmt.Sprintf("rule %q removes delete markers that hide nothing", r.ID) },
		})
	}
	if r.Expiration != nil {
		yield(candidate{
			action: RemoveMarker, due: r.Expiration.due(v), rule: r, weight: weighRemove,
			why: func() string {
				return fmt.Sprintf("it hides nothing, and rule %q ends objects %s", r.ID, r.Expiration.words(v))
			},
		})
	}
}

func (p *Policy) current(r *Rule, v *Version, yield func(candidate), note func(string)) {
	if e := r.Expiration; e != nil {
		c := candidate{
			action: Remove, due: e.due(v), rule: r, weight: weighRemove,
			why: func() string { return fmt.Sprintf("rule %q ends objects %s", r.ID, e.words(v)) },
		}
		if p.versions {
			c.action, c.weight = Hide, weighHide
		}
		yield(c)
	}
	for i := range r.Transitions {
		t := &r.Transitions[i]
		p.move(r, v, t.Class, t.due(v), func() string {
			return fmt.Sprintf("rule %q moves objects to %s %s", r.ID, t.Class, t.words(v))
		}, yield, note)
	}
}

func (p *Policy) noncurrent(r *Rule, v *Version, yield func(candidate), note func(string)) {
	words := func(n *Noncurrent) string {
		s := fmt.Sprintf("%s after another version took their place, which was at %s", days(n.Days), stamp(v.Noncurrent))
		if n.Newer > 0 {
			s += fmt.Sprintf(", but for the newest %d, and %d are newer than this one", n.Newer, v.Newer)
		}
		return s
	}
	if e := r.NoncurrentExpiration; e != nil && v.Newer >= e.Newer {
		yield(candidate{
			action: Remove, due: day(v.Noncurrent, e.Days), rule: r, weight: weighRemove,
			why: func() string { return fmt.Sprintf("rule %q removes old versions %s", r.ID, words(e)) },
		})
	}
	if v.Marker {
		return
	}
	for i := range r.NoncurrentTransitions {
		t := &r.NoncurrentTransitions[i]
		if v.Newer < t.Newer {
			continue
		}
		p.move(r, v, t.Class, day(v.Noncurrent, t.Days), func() string {
			return fmt.Sprintf("rule %q moves old versions to %s %s", r.ID, t.Class, words(t))
		}, yield, note)
	}
}

// move yields a move to a class, if it is one to a cheaper place and the version is not too small for it.
func (p *Policy) move(r *Rule, v *Version, class string, due time.Time, why func() string, yield func(candidate), note func(string)) {
	from := v.Class
	if from == "" {
		from = standard
	}
	if from == class {
		return
	}
	to, known := p.rank[class]
	if !known {
		note(fmt.Sprintf("rule %q names storage class %s, which no tier of this site has", r.ID, class))
		return
	}
	if at, known := p.rank[from]; known && at >= to {
		return
	}
	if p.tooSmall(r, v, class) {
		note(fmt.Sprintf("rule %q does not move it to %s: it is smaller than 128 KiB and the rule does not speak of sizes",
			r.ID, class))
		return
	}
	yield(candidate{action: Move, class: class, due: due, rule: r, weight: weighMove + to, why: why})
}

func (p *Policy) tooSmall(r *Rule, v *Version, class string) bool {
	if v.Size >= minimumSize || r.Filter.HasGreater || r.Filter.HasLess || p.minimum == MinimumNone {
		return false
	}
	return p.minimum != MinimumVaries || class != "GLACIER" && class != "DEEP_ARCHIVE"
}

func (w *When) words(v *Version) string {
	if !w.Date.IsZero() {
		return "from " + w.Date.UTC().Format(time.DateOnly) + " on"
	}
	return fmt.Sprintf("%s after they were written, which was at %s", days(w.Days), stamp(v.Modified))
}

func days(n int) string {
	if n == 1 {
		return "1 day"
	}
	return fmt.Sprintf("%d days", n)
}

// Upload is an unfinished multipart upload.
type Upload struct {
	Key   string
	Begun time.Time
}

// DecideUpload returns what is to be done with an unfinished upload at the time now. Only the prefixes of filters
// count: an upload has no size, and S3 takes no tags in such rules.
func (p *Policy) DecideUpload(u *Upload, now time.Time) Decision {
	d := Decision{Reason: "kept: no rule aborts it"}
	p.each(u.Key, func(r *Rule) {
		if r.AbortDays <= 0 {
			return
		}
		if due := day(u.Begun, r.AbortDays); d.Due.IsZero() || due.Before(d.Due) {
			d.Due, d.Rule = due, r.ID
			d.Reason = fmt.Sprintf("rule %q aborts uploads %s after their beginning, which was at %s; due at %s",
				r.ID, days(r.AbortDays), stamp(u.Begun), stamp(due))
		}
	})
	if !d.Due.IsZero() && !now.Before(d.Due) {
		d.Action = Abort
	}
	return d
}

// Expiry returns when and by which rule a current version will expire, for the header x-amz-expiration. ok is false
// where no rule ends it.
func (p *Policy) Expiry(v *Version) (at time.Time, rule string, ok bool) {
	if !v.Current || v.Marker {
		return time.Time{}, "", false
	}
	p.candidates(v, func(c candidate) {
		if (c.action == Remove || c.action == Hide) && (!ok || c.due.Before(at)) {
			at, rule, ok = c.due, c.rule.ID, true
		}
	}, func(string) {})
	return at, rule, ok
}
