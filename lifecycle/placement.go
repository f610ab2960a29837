package lifecycle

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// Placement is a rule by temperature: where the versions of a bucket that its filter selects belong.
type Placement struct {
	Name   string
	Bucket string // "" is every bucket
	Filter Filter
	Rules  TemperatureRules
	// Warm and Cold are the storage classes of warm and cold versions. Without Warm they stay with the hot ones, which
	// are in STANDARD; without Cold they stay with the warm ones.
	Warm, Cold string
	MinSize    int64 // smaller versions stay where they are
	// Pinned holds versions at PinnedAt or warmer.
	Pinned   bool
	PinnedAt Temperature
}

const standard = "STANDARD"

// class returns the storage class for a temperature.
func (p *Placement) class(t Temperature) string {
	switch {
	case t >= Cold && p.Cold != "":
		return p.Cold
	case t >= Warm && p.Warm != "":
		return p.Warm
	}
	return standard
}

// at returns the temperature of the versions that are in a storage class.
func (p *Placement) at(class string) (t Temperature, known bool) {
	switch class {
	case standard:
		return Hot, true
	case p.Warm:
		return Warm, true
	case p.Cold:
		return Cold, true
	}
	return Hot, false
}

// Plan is all that decides about the versions of a bucket: its own rules, and the site's by temperature. It does not
// change and may be used concurrently.
type Plan struct {
	policy     *Policy
	bucket     string
	placements []Placement // those that may be for it
}

// NewPlan joins the rules of a bucket with those of the placements that are for it.
func NewPlan(policy *Policy, placements []Placement, bucket string) *Plan {
	p := &Plan{policy: policy, bucket: bucket}
	for _, x := range placements {
		if x.Bucket == "" || x.Bucket == bucket {
			p.placements = append(p.placements, x)
		}
	}
	return p
}

// Empty reports whether nothing is in store for any version.
func (p *Plan) Empty() bool { return p.policy.Empty() && len(p.placements) == 0 }

// Tempered reports whether reads of versions count.
func (p *Plan) Tempered() bool { return len(p.placements) > 0 }

// Placement returns the rule by temperature for a version, nil where none is for it: one that asks for more tags goes before
// one that asks for fewer, of those one that names the bucket, and of those the longer prefix.
func (p *Plan) Placement(v *Version) *Placement {
	var best *Placement
	for i := range p.placements {
		if x := &p.placements[i]; x.Filter.selects(v) && (best == nil || x.before(best)) {
			best = x
		}
	}
	return best
}

// before reports whether x goes before y where both are for a version.
func (x *Placement) before(y *Placement) bool {
	if a, b := len(x.Filter.Tags), len(y.Filter.Tags); a != b {
		return a > b
	}
	if a, b := x.Bucket != "", y.Bucket != ""; a != b {
		return a
	}
	return len(x.Filter.Prefix) > len(y.Filter.Prefix)
}

// May reports whether the rule is for a key in a bucket, or would be if the version had its tags.
func (x *Placement) May(bucket, key string) bool {
	return (x.Bucket == "" || x.Bucket == bucket) && strings.HasPrefix(key, x.Filter.Prefix)
}

// ByTags reports whether tags say which rule by temperature is for a key.
func (p *Plan) ByTags(key string) bool {
	return slices.ContainsFunc(p.placements, func(x Placement) bool { return len(x.Filter.Tags) > 0 && x.May(p.bucket, key) })
}

// DecideUpload is Policy's.
func (p *Plan) DecideUpload(u *Upload, now time.Time) Decision { return p.policy.DecideUpload(u, now) }

// MayAct reports whether something may be due for v, of which tags, locks and where its bytes are are not known yet:
// where it says no, Decide keeps v. next is then when it may be, zero where that is never: neither v nor its use changing.
func (p *Plan) MayAct(v *Version, now time.Time) (act bool, next time.Time) {
	act, next = p.policy.MayAct(v, now)
	if act || v.Marker {
		return act, next
	}
	may := func(x *Placement) {
		due, keep := x.stays(v, now)
		if !keep {
			d := x.decide(v, now)
			act, due = act || d.Action != Keep, d.Due
		}
		next = Earlier(next, due)
	}
	for i := range p.placements {
		if x := &p.placements[i]; len(x.Filter.Tags) > 0 && x.May(p.bucket, v.Key) {
			may(x)
		}
	}
	w := *v
	w.Tags = nil
	if x := p.Placement(&w); x != nil {
		may(x)
	}
	return act, next
}

// stays reports whether v is where it belongs, and when that may end. It spares most versions decide's words.
func (p *Placement) stays(v *Version, now time.Time) (next time.Time, yes bool) {
	want := p.Rules.temperature(v.Modified, &v.Use, now)
	if p.Pinned {
		want = min(want, p.PinnedAt)
	}
	if v.Class == "" || p.class(want) != v.Class {
		return next, false
	}
	_, next = p.Rules.turns(&Subject{Written: v.Modified, Moved: v.Moved, Use: v.Use, Pinned: p.Pinned, PinnedAt: p.PinnedAt}, now)
	return next, true
}

// Earlier returns the earlier of two times that may be zero, which is never.
func Earlier(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}

// Decide returns what is to be done with v at the time now. The bucket's own rules go first.
func (p *Plan) Decide(v *Version, now time.Time) Decision {
	d := p.policy.Decide(v, now)
	x := p.Placement(v)
	if d.Action != Keep || x == nil || v.Marker {
		return d
	}
	t := x.decide(v, now)
	if t.Action != Keep {
		floor, rule := p.policy.floor(v, now)
		if p.policy.rank[t.Class] >= p.policy.rank[floor] {
			return t
		}
		t.Action, t.Due = Keep, time.Time{}
		t.Reason += fmt.Sprintf(", but rule %q of the bucket keeps it in %s or colder", rule, floor)
		t.Class = ""
	}
	if d.Reason != keptReason {
		t.Reason = d.Reason + "; " + t.Reason
	}
	if t.Due = Earlier(t.Due, d.Due); t.Due.Equal(d.Due) && !d.Due.IsZero() {
		t.Rule = d.Rule
	}
	return t
}

// decide returns what the temperature of v asks for.
func (p *Placement) decide(v *Version, now time.Time) Decision {
	d := Decision{Rule: p.Name}
	says := func(format string, args ...any) Decision {
		d.Reason = fmt.Sprintf("temperature rule %q%s: ", p.Name, p.tags()) + fmt.Sprintf(format, args...)
		return d
	}
	from := v.Class
	if from == "" {
		from = standard
	}
	at, known := p.at(from)
	switch {
	case v.Marker:
		return says("a delete marker has no bytes")
	case !known:
		return says("left in %s, which it does not speak of", from)
	case v.Size < p.MinSize && at == Hot:
		return says("stays: it is smaller than %d bytes", p.MinSize)
	}
	s := Subject{Written: v.Modified, At: at, Moved: v.Moved, Use: v.Use, Pinned: p.Pinned, PinnedAt: p.PinnedAt}
	want, why := p.Rules.Decide(s, now)
	since, next := p.Rules.turns(&s, now)
	switch class := p.class(want); {
	case class == from:
		d.Due = next
		if want != at {
			return says("stays: what is %s is in %s here (%s)", want, class, why)
		}
		if !next.IsZero() {
			why += ", until " + stamp(next) + " at least"
		}
		return says("%s", why)
	case class == standard:
		d.Action, d.Class, d.Due = Recall, class, since
		return says("bring back from %s: %s", from, why)
	default:
		d.Action, d.Class, d.Due = Move, class, since
		return says("move to %s: %s", class, why)
	}
}

// tags names the tags that the rule asks for.
func (p *Placement) tags() string {
	var b strings.Builder
	for i, t := range p.Filter.Tags {
		b.WriteString([]string{" for tag ", " and "}[min(i, 1)] + t.Name + "=" + t.Value)
	}
	return b.String()
}

// turns returns the last and the next moment at which what is decided about s may become another without a read: the
// last up to now, the next after it. Zero where there is none.
func (r TemperatureRules) turns(s *Subject, now time.Time) (last, next time.Time) {
	at := []time.Time{after(s.Written, r.HotAge), after(s.Moved, r.MinStay), after(s.Use.Last, r.WarmRead), after(s.Written, r.WarmAge)}
	for i, at := range at {
		switch {
		case at.IsZero():
		case !at.After(now):
			if at.After(last) {
				last = at
			}
		case s.Pinned && (s.PinnedAt == Hot || i > 1): // it stays for its pin
		default:
			next = Earlier(next, at)
		}
	}
	return last, next
}

// after is never after never.
func after(t time.Time, d time.Duration) time.Time {
	if t.IsZero() {
		return t
	}
	return t.Add(d)
}

// floor returns the coldest storage class that a rule has moved v to, or would have, and the rule: STANDARD where none
// has. What a bucket's rules sent down does not come up again: they would send it down anew.
func (p *Policy) floor(v *Version, now time.Time) (class, rule string) {
	w := *v
	w.Class, class = standard, standard
	p.candidates(&w, func(c candidate) {
		if c.action == Move && !now.Before(c.due) && p.rank[c.class] > p.rank[class] {
			class, rule = c.class, c.rule.ID
		}
	}, func(string) {})
	return class, rule
}
