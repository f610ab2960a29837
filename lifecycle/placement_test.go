package lifecycle

import (
	"strings"
	"testing"
	"time"
)

func TestPlacement(t *testing.T) {
	now := at("2026-06-30 12:00")
	ago := func(d time.Duration) time.Time { return now.Add(-d) }
	three := Placement{Name: "three", Rules: DefaultTemperatureRules(), Warm: "WARM", Cold: "COLD", MinSize: 100}
	two := Placement{Name: "two", Rules: DefaultTemperatureRules(), Cold: "COLD"}
	pin := three
	pin.Pinned, pin.PinnedAt = true, Hot
	thrice := readAt(ago(3*time.Hour), ago(2*time.Hour), ago(time.Hour))
	transition := []Rule{{ID: "s3", Transitions: []Transition{{When{Days: 10}, "WARM"}}}}
	for _, c := range []struct {
		name  string
		p     Placement
		rules []Rule
		v     Version
		want  string // action and class
		why   string
		due   time.Time
	}{
		{"young", three, nil, Version{Modified: ago(Day)}, "keep", `temperature rule "three": stays: hot`, ago(-2 * Day)},
		{"unused", three, nil, Version{Modified: ago(4 * Day)}, "move COLD", "move to COLD: down to cold: written 4 days ago and never read", ago(Day)},
		{"read", three, nil, Version{Modified: ago(9 * Day), Use: readAt(ago(Day))}, "move WARM", "read 1 day ago", ago(6 * Day)},
		{"small", three, nil, Version{Modified: ago(9 * Day), Size: -1}, "keep", "smaller than 100 bytes", time.Time{}},
		{"on to cold", three, nil, Version{Modified: ago(40 * Day), Class: "WARM", Moved: ago(8 * Day), Use: readAt(ago(8 * Day))}, "move COLD", "last read 8 days ago", ago(Day)},
		{"stays for its time", three, nil, Version{Modified: ago(40 * Day), Class: "WARM", Moved: ago(time.Hour)}, "keep", "at least 1 day", ago(time.Hour - Day)},
		{"comes up", three, nil, Version{Modified: ago(40 * Day), Class: "COLD", Use: thrice}, "move WARM", "3 reads within 2 days", time.Time{}},
		{"comes home", two, nil, Version{Modified: ago(40 * Day), Class: "COLD", Use: thrice}, "bring back STANDARD", "bring back from COLD: up to warm", time.Time{}},
		{"no warm tier", two, nil, Version{Modified: ago(40 * Day), Use: readAt(ago(Day))}, "keep", "stays: what is warm is in STANDARD here (down to warm", time.Time{}},
		{"pinned", pin, nil, Version{Modified: ago(400 * Day)}, "keep", "pinned to hot", time.Time{}},
		{"pinned and away", pin, nil, Version{Modified: ago(400 * Day), Class: "WARM"}, "bring back STANDARD", "up, pinned to hot", time.Time{}},
		{"elsewhere", three, nil, Version{Modified: ago(400 * Day), Class: "OTHER", Use: thrice}, "keep", "left in OTHER", time.Time{}},
		{"marker", three, nil, Version{Modified: ago(400 * Day), Marker: true}, "keep", "no rule", time.Time{}},
		// The bucket's own rules go first, and what they sent down stays down.
		{"rule first", three, transition, Version{Modified: ago(20 * Day)}, "move WARM", `rule "s3" moves`, time.Time{}},
		{"down past the rule", three, transition, Version{Modified: ago(20 * Day), Class: "WARM"}, "move COLD", `temperature rule "three"`, time.Time{}},
		{"up to the rule", three, transition, Version{Modified: ago(40 * Day), Class: "COLD", Use: thrice}, "move WARM", "up", time.Time{}},
		{"not above the rule", pin, transition, Version{Modified: ago(40 * Day), Class: "WARM"}, "keep", `but rule "s3" of the bucket keeps it in WARM or colder`, time.Time{}},
		{"rule not due", two, transition, Version{Modified: ago(Day)}, "keep", "kept until", ago(-2 * Day)},
		{
			"removal first", three,
			[]Rule{{ID: "end", Expiration: &When{Days: 5}}},
			Version{Modified: ago(20 * Day)},
			"remove", `rule "end"`,
			time.Time{},
		},
	} {
		plan := NewPlan(New(c.rules, Options{Classes: []string{"STANDARD", "WARM", "COLD"}, Minimum: MinimumNone}), []Placement{c.p}, "bkt")
		c.v.Key, c.v.Current = "k", true
		if c.v.Size == 0 {
			c.v.Size = 1 << 20
		}
		d := plan.Decide(&c.v, now)
		got := strings.TrimSpace(d.Action.String() + " " + d.Class)
		if got != c.want || !strings.Contains(d.Reason, c.why) || !c.due.IsZero() && !d.Due.Equal(c.due) {
			t.Errorf("%s: %s, due %s, %s", c.name, got, d.Due, d.Reason)
		}
		may, next := plan.MayAct(&c.v, now)
		if d.Action != Keep && !may {
			t.Errorf("%s: it may not act", c.name)
		}
		if !may && !next.Equal(d.Due) {
			t.Errorf("%s: next %s, due %s", c.name, next, d.Due)
		}
		if d.Action != Keep && d.Due.After(now) {
			t.Errorf("%s: due at %s", c.name, d.Due)
		}
	}
}

// TestPinsEnd: nothing is due for what a pin holds, but what its pin leaves open.
func TestPinsEnd(t *testing.T) {
	now := at("2026-06-30 12:00")
	for _, c := range []struct {
		at      Temperature
		class   string
		age     time.Duration
		due     time.Duration // from now; 0 is never
		why     string
		without string
	}{
		{Hot, "", 19 * Day, 0, "stays: pinned to hot", "until"},
		{Hot, "", Day, 0, "stays: hot", "until"},
		{Hot, "COLD", Day, -time.Hour, "bring back from COLD: up, pinned to hot or warmer, and hot: written 1 day ago", "until"},
		{Warm, "", Day, 2 * Day, "stays: hot: written 1 day ago", ""},
		{Warm, "WARM", 19 * Day, 0, "stays: pinned to warm", "until"},
	} {
		p := Placement{Name: "t", Rules: DefaultTemperatureRules(), Warm: "WARM", Cold: "COLD", Pinned: true, PinnedAt: c.at}
		v := Version{Key: "k", Current: true, Size: 1 << 20, Modified: now.Add(-c.age), Class: c.class}
		if c.class == "COLD" {
			v.Moved = now.Add(-time.Hour - Day)
		}
		plan := NewPlan(New(nil, Options{}), []Placement{p}, "bkt")
		d := plan.Decide(&v, now)
		want := time.Time{}
		if c.due != 0 {
			want = now.Add(c.due)
		}
		if !d.Due.Equal(want) || !strings.Contains(d.Reason, c.why) || c.without != "" && strings.Contains(d.Reason, c.without) {
			t.Errorf("%s in %q, %s old: due %s, want %s; %s", c.at, c.class, c.age, d.Due, want, d.Reason)
		}
		if may, next := plan.MayAct(&v, now); !may && !next.Equal(want) {
			t.Errorf("%s in %q: next %s, want %s", c.at, c.class, next, want)
		}
	}
}

// TestPlacementByTag: a rule with tags is for what has all of them, and only for that, whatever else is for it.
func TestPlacementByTag(t *testing.T) {
	now := at("2026-06-30 12:00")
	old := now.Add(-40 * Day)
	site := Placement{Name: "site", Rules: DefaultTemperatureRules(), Cold: "COLD"}
	own := site
	own.Name, own.Bucket, own.Filter.Prefix = "own", "bkt", "k"
	keep := site
	keep.Name, keep.Pinned, keep.Filter.Tags = "keep", true, []Tag{{"keep", "local"}}
	both := keep
	both.Name, both.Pinned, both.Filter.Tags = "both", false, []Tag{{"keep", "local"}, {"unless", "old"}}
	below := keep
	below.Name, below.Filter.Prefix, below.Filter.Tags = "below", "k/", []Tag{{"keep", "below"}}
	plan := NewPlan(New(nil, Options{Classes: []string{"STANDARD", "COLD"}}), []Placement{both, keep, own, site, below}, "bkt")
	for _, c := range []struct {
		name, class string
		tags        []Tag
		want, why   string
	}{
		{"no tags", "", nil, "move COLD", `rule "own": move`},
		{"pinned", "", []Tag{{"a", "b"}, {"keep", "local"}}, "keep", `temperature rule "keep" for tag keep=local: stays: pinned to hot or warmer (else cold`},
		{"pinned and away", "COLD", []Tag{{"keep", "local"}}, "bring back STANDARD", `rule "keep" for tag keep=local: bring back from COLD: up, pinned`},
		{"of another value", "", []Tag{{"keep", "remote"}}, "move COLD", `rule "own"`},
		{"more tags", "", []Tag{{"keep", "local"}, {"unless", "old"}}, "move COLD", `rule "both" for tag keep=local and unless=old: move`},
		{"other keys", "", []Tag{{"keep", "below"}}, "move COLD", `rule "own"`},
	} {
		v := Version{Key: "key", Current: true, Size: 1 << 20, Modified: old, Class: c.class, Tags: c.tags}
		d := plan.Decide(&v, now)
		if got := strings.TrimSpace(d.Action.String() + " " + d.Class); got != c.want || !strings.Contains(d.Reason, c.why) {
			t.Errorf("%s: %s, %s", c.name, got, d.Reason)
		}
		v.Tags = nil
		if may, _ := plan.MayAct(&v, now); d.Action != Keep && !may {
			t.Errorf("%s: it may not act", c.name)
		}
	}
	if !plan.ByTags("x") || NewPlan(nil, []Placement{below, own}, "bkt").ByTags("x") {
		t.Error("which rules ask for tags")
	}
}

func TestPlacementOfKey(t *testing.T) {
	plan := NewPlan(New(nil, Options{}), []Placement{
		{Name: "all"},
		{Name: "all videos", Filter: Filter{Prefix: "videos/long/"}},
		{Name: "bucket", Bucket: "b"},
		{Name: "here", Bucket: "b", Filter: Filter{Prefix: "videos/"}},
		{Name: "other", Bucket: "c"},
	}, "b")
	for key, want := range map[string]string{"x": "bucket", "videos/x": "here", "videos/long/x": "here"} {
		if got := plan.Placement(&Version{Key: key}).Name; got != want {
			t.Errorf("%s: %s", key, got)
		}
	}
	if NewPlan(New(nil, Options{}), []Placement{{Bucket: "c"}}, "b").Placement(&Version{Key: "x"}) != nil {
		t.Error("of another bucket")
	}
}
