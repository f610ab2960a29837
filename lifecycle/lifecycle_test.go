package lifecycle

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"firn"
	"firn/s3api/s3doc"
)

func at(s string) time.Time {
	t, err := time.Parse("2006-01-02 15:04", s)
	if err != nil {
		panic(err)
	}
	return t
}

func parse(t *testing.T, rules string) []Rule {
	t.Helper()
	doc, err := s3doc.CheckLifecycle([]byte("<LifecycleConfiguration>"+rules+"</LifecycleConfiguration>"), func(c string) bool {
		return c == "WARM" || c == "COLD" || c == "GLACIER"
	})
	if err != nil {
		t.Fatal(err)
	}
	r, err := Parse(doc)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

const enabled = "<Status>Enabled</Status>"

func TestDecide(t *testing.T) {
	written := at("2026-01-15 10:30")
	mib := int64(1 << 20)
	current := Version{Key: "logs/a", Size: mib, Modified: written, Current: true}
	with := func(fn func(*Version)) Version {
		v := current
		fn(&v)
		return v
	}
	old := func(newer int) Version {
		return with(func(v *Version) { v.Current, v.Noncurrent, v.Newer = false, at("2026-03-01 00:00"), newer })
	}
	marker := func(only bool) Version {
		return with(func(v *Version) { v.Marker, v.Only, v.Size = true, only, 0 })
	}
	expire3 := "<Rule><ID>r</ID><Prefix>logs/</Prefix>" + enabled + "<Expiration><Days>3</Days></Expiration></Rule>"
	walk := `<Rule><ID>walk</ID><Filter/>` + enabled + `<Transition><Days>0</Days><StorageClass>WARM</StorageClass></Transition>
		<Transition><Days>30</Days><StorageClass>COLD</StorageClass></Transition><Expiration><Days>60</Days></Expiration></Rule>`
	oldOnes := `<Rule><ID>old</ID><Filter/>` + enabled + `<NoncurrentVersionTransition><NoncurrentDays>1</NoncurrentDays>
		<StorageClass>COLD</StorageClass></NoncurrentVersionTransition><NoncurrentVersionExpiration><NoncurrentDays>5</NoncurrentDays>
		<NewerNoncurrentVersions>2</NewerNoncurrentVersions></NoncurrentVersionExpiration></Rule>`
	markers := `<Rule><ID>m</ID><Filter/>` + enabled + `<Expiration><ExpiredObjectDeleteMarker>true</ExpiredObjectDeleteMarker></Expiration></Rule>`
	filter := func(f string) string {
		return "<Rule><ID>f</ID><Filter>" + f + "</Filter>" + enabled + "<Expiration><Days>1</Days></Expiration></Rule>"
	}
	tag := "<Tag><Key>k</Key><Value>v</Value></Tag>"
	tagged := with(func(v *Version) { v.Tags = []Tag{{"x", "y"}, {"k", "v"}} })
	for _, c := range []struct {
		name, rules string
		opt         Options
		v           Version
		now         string
		want        Action
		class       string
		reason      string
	}{
		// S3's own example: 3 days after 2026-01-15 10:30 is 2026-01-19 00:00.
		{name: "day before", rules: expire3, v: current, now: "2026-01-18 23:59", reason: `kept until 2026-01-19 00:00 UTC, then remove: rule "r"`},
		{name: "midnight", rules: expire3, v: current, now: "2026-01-19 00:00", want: Remove, reason: `remove: rule "r" ends objects 3 days after they were written, which was at 2026-01-15 10:30 UTC; due since 2026-01-19 00:00 UTC`},
		{name: "versioned", rules: expire3, opt: Options{Versioned: true}, v: current, now: "2026-01-19 00:00", want: Hide},
		{name: "other prefix", rules: expire3, v: with(func(v *Version) { v.Key = "log" }), now: "2027-01-01 00:00", reason: "no rule"},
		{name: "disabled", rules: strings.Replace(expire3, "Enabled", "Disabled", 1), v: current, now: "2027-01-01 00:00"},
		{name: "date before", rules: "<Rule><ID>d</ID><Prefix/>" + enabled + "<Expiration><Date>2026-02-01</Date></Expiration></Rule>", v: current, now: "2026-01-31 23:59"},
		{name: "date", rules: "<Rule><ID>d</ID><Prefix/>" + enabled + "<Expiration><Date>2026-02-01</Date></Expiration></Rule>", v: current, now: "2026-02-01 00:00", want: Remove, reason: "from 2026-02-01 on"},
		{name: "after the date", rules: "<Rule><ID>d</ID><Prefix/>" + enabled + "<Expiration><Date>2020-02-01</Date></Expiration></Rule>", v: current, now: "2026-02-01 00:00", want: Remove},
		{name: "locked", rules: expire3, v: with(func(v *Version) { v.LockedUntil = at("2026-06-01 00:00") }), now: "2026-02-01 00:00", reason: "kept until 2026-06-01 00:00 UTC"},
		{name: "lock over", rules: expire3, v: with(func(v *Version) { v.LockedUntil = at("2026-06-01 00:00") }), now: "2026-06-01 00:00", want: Remove},
		{name: "held", rules: expire3, v: with(func(v *Version) { v.LegalHold = true }), now: "2030-02-01 00:00", reason: "legal hold"},
		{name: "locked is hidden", rules: expire3, opt: Options{Versioned: true}, v: with(func(v *Version) { v.LegalHold = true }), now: "2026-02-01 00:00", want: Hide},

		{name: "0 days at once", rules: walk, v: current, now: "2026-01-15 10:30", want: Move, class: "WARM"},
		{name: "next class", rules: walk, v: with(func(v *Version) { v.Class = "WARM" }), now: "2026-02-15 00:00", want: Move, class: "COLD"},
		{name: "cheapest wins", rules: walk, v: current, now: "2026-02-15 00:00", want: Move, class: "COLD"},
		{name: "removal before move", rules: walk, v: current, now: "2026-04-15 00:00", want: Remove},
		{name: "move before marker", rules: walk, opt: Options{Versioned: true}, v: current, now: "2026-04-15 00:00", want: Move, class: "COLD"},
		{name: "then the marker", rules: walk, opt: Options{Versioned: true}, v: with(func(v *Version) { v.Class = "COLD" }), now: "2026-04-15 00:00", want: Hide},
		{name: "never up", rules: walk, v: with(func(v *Version) { v.Class = "COLD" }), now: "2026-01-16 00:00", reason: "kept until 2026-03-17"},
		{name: "small", rules: walk, v: with(func(v *Version) { v.Size = 128<<10 - 1 }), now: "2026-01-16 00:00", reason: "smaller than 128 KiB"},
		{name: "small may", rules: walk, opt: Options{Minimum: MinimumNone}, v: with(func(v *Version) { v.Size = 1 }), now: "2026-01-16 00:00", want: Move, class: "WARM"},
		{name: "small to glacier", rules: strings.ReplaceAll(walk, "WARM", "GLACIER"), opt: Options{Minimum: MinimumVaries}, v: with(func(v *Version) { v.Size = 1 }), now: "2026-01-16 00:00", want: Move, class: "GLACIER"},
		{name: "locked moves", rules: walk, v: with(func(v *Version) { v.LockedUntil = at("2027-01-01 00:00") }), now: "2026-04-15 00:00", want: Move, class: "COLD"},
		{name: "no such tier", rules: strings.ReplaceAll(walk, "WARM", "GLACIER"), opt: Options{Classes: []string{"STANDARD", "COLD"}}, v: current, now: "2026-01-16 00:00", reason: "no tier of this site has"},

		{name: "old moves", rules: oldOnes, v: old(0), now: "2026-03-03 00:00", want: Move, class: "COLD"},
		{name: "old too young", rules: oldOnes, v: old(2), now: "2026-03-02 23:59"},
		{name: "old one of the newest", rules: oldOnes, v: old(1), now: "2027-03-10 00:00", want: Move, class: "COLD"},
		{name: "old goes", rules: oldOnes, v: old(2), now: "2026-03-07 00:00", want: Remove, reason: "newest 2, and 2 are newer"},
		{name: "old locked", rules: oldOnes, v: func() Version { v := old(2); v.LegalHold, v.Class = true, "COLD"; return v }(), now: "2026-03-07 00:00", reason: "legal hold"},
		{name: "old marker", rules: oldOnes, v: func() Version { v := old(2); v.Marker = true; return v }(), now: "2026-03-07 00:00", want: Remove},
		{name: "old marker does not move", rules: oldOnes, v: func() Version { v := old(0); v.Marker = true; return v }(), now: "2026-03-04 00:00"},
		{name: "current not by old rules", rules: oldOnes, v: current, now: "2030-01-01 00:00"},
		{name: "old not by current rules", rules: walk, v: old(0), now: "2030-01-01 00:00"},

		{name: "marker alone", rules: markers, v: marker(true), now: "2026-01-15 10:30", want: RemoveMarker},
		{name: "marker hides", rules: markers, v: marker(false), now: "2030-01-01 00:00"},
		{name: "marker by days", rules: expire3, v: marker(true), now: "2026-01-19 00:00", want: RemoveMarker},
		{name: "marker too young", rules: expire3, v: marker(true), now: "2026-01-18 23:00"},
		{name: "object not by marker rule", rules: markers, v: current, now: "2030-01-01 00:00"},
		{name: "marker has no tags", rules: filter(tag), v: marker(true), now: "2030-01-01 00:00"},

		{name: "tag", rules: filter(tag), v: tagged, now: "2026-02-01 00:00", want: Remove},
		{name: "no tag", rules: filter(tag), v: current, now: "2026-02-01 00:00"},
		{name: "and", rules: filter("<And><Prefix>logs/</Prefix>" + tag + "</And>"), v: tagged, now: "2026-02-01 00:00", want: Remove},
		{name: "and other prefix", rules: filter("<And><Prefix>x</Prefix>" + tag + "</And>"), v: tagged, now: "2026-02-01 00:00"},
		{name: "greater", rules: filter("<ObjectSizeGreaterThan>1048575</ObjectSizeGreaterThan>"), v: current, now: "2026-02-01 00:00", want: Remove},
		{name: "not greater", rules: filter("<ObjectSizeGreaterThan>1048576</ObjectSizeGreaterThan>"), v: current, now: "2026-02-01 00:00"},
		{name: "less", rules: filter("<ObjectSizeLessThan>1048577</ObjectSizeLessThan>"), v: current, now: "2026-02-01 00:00", want: Remove},
		{name: "not less", rules: filter("<ObjectSizeLessThan>1048576</ObjectSizeLessThan>"), v: current, now: "2026-02-01 00:00"},
		{name: "the earlier of two", rules: expire3 + strings.Replace(strings.Replace(expire3, ">r<", ">s<", 1), ">3<", ">2<", 1), v: current, now: "2026-01-18 00:00", want: Remove, reason: `rule "s"`},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.opt.Classes == nil {
				c.opt.Classes = []string{"STANDARD", "WARM", "STANDARD_IA", "GLACIER", "COLD"}
			}
			d := New(parse(t, c.rules), c.opt).Decide(&c.v, at(c.now))
			if d.Action != c.want || d.Class != c.class || !strings.Contains(d.Reason, c.reason) {
				t.Errorf("%v %q: %s", d.Action, d.Class, d.Reason)
			}
			if d.Reason == "" || d.Action != Keep && (d.Rule == "" || d.Due.IsZero()) {
				t.Errorf("incomplete: %+v", d)
			}
		})
	}
}

func TestDecideUpload(t *testing.T) {
	abort := func(id, prefix string, days int) string {
		return fmt.Sprintf("<Rule><ID>%s</ID><Prefix>%s</Prefix>%s<AbortIncompleteMultipartUpload><DaysAfterInitiation>%d"+
			"</DaysAfterInitiation></AbortIncompleteMultipartUpload></Rule>", id, prefix, enabled, days)
	}
	p := New(parse(t, abort("all", "", 7)+abort("logs", "logs/", 2)), Options{})
	begun := at("2026-01-15 10:30")
	for _, c := range []struct {
		key, now, rule string
		want           Action
	}{
		{"a", "2026-01-22 23:59", "all", Keep},
		{"a", "2026-01-23 00:00", "all", Abort},
		{"logs/a", "2026-01-17 23:59", "logs", Keep},
		{"logs/a", "2026-01-18 00:00", "logs", Abort},
	} {
		if d := p.DecideUpload(&Upload{c.key, begun}, at(c.now)); d.Action != c.want || d.Rule != c.rule {
			t.Errorf("%v: %+v", c, d)
		}
	}
	if d := New(nil, Options{}).DecideUpload(&Upload{"a", begun}, at("2036-01-01 00:00")); d.Action != Keep {
		t.Errorf("%+v", d)
	}
}

func TestExpiry(t *testing.T) {
	p := New(parse(t, "<Rule><ID>r</ID><Prefix/>"+enabled+"<Expiration><Days>3</Days></Expiration></Rule>"), Options{Versioned: true})
	v := Version{Key: "a", Modified: at("2026-01-15 10:30"), Current: true}
	when, rule, ok := p.Expiry(&v)
	if !ok || rule != "r" || !when.Equal(at("2026-01-19 00:00")) {
		t.Errorf("%v %q %v", when, rule, ok)
	}
	v.Current = false
	if _, _, ok := p.Expiry(&v); ok {
		t.Error("an old version is said to expire as a current one")
	}
}

// oracle is Decide written down anew and naively: all events of all rules, and S3's order among those that are due.
func oracle(rules []Rule, opt Options, v Version, now time.Time) (Action, string) {
	type event struct {
		a     Action
		class string
		at    time.Time
	}
	midnight := func(from time.Time, n int) time.Time {
		if n == 0 {
			return from
		}
		m := from.UTC().Add(time.Duration(n) * 24 * time.Hour).Truncate(24 * time.Hour)
		return m.Add(24 * time.Hour)
	}
	from := v.Class
	if from == "" {
		from = "STANDARD"
	}
	var due []event
	for _, r := range rules {
		if r.Disabled || !strings.HasPrefix(v.Key, r.Filter.Prefix) {
			continue
		}
		match := true
		for _, want := range r.Filter.Tags {
			found := false
			for _, have := range v.Tags {
				found = found || have == want
			}
			match = match && found
		}
		if !v.Marker && (r.Filter.HasGreater && v.Size <= r.Filter.Greater || r.Filter.HasLess && v.Size >= r.Filter.Less) || !match {
			continue
		}
		var events []event
		moves := func(class string, at time.Time) {
			here, there := slices.Index(opt.Classes, from), slices.Index(opt.Classes, class)
			small := v.Size < 131072 && !r.Filter.HasGreater && !r.Filter.HasLess && opt.Minimum != MinimumNone
			if small && opt.Minimum == MinimumVaries && (class == "GLACIER" || class == "DEEP_ARCHIVE") {
				small = false
			}
			if !v.Marker && !small && there >= 0 && here < there {
				events = append(events, event{Move, class, at})
			}
		}
		if v.Current {
			if e := r.Expiration; e != nil {
				when := e.Date
				if when.IsZero() {
					when = midnight(v.Modified, e.Days)
				}
				switch {
				case v.Marker && v.Only:
					events = append(events, event{RemoveMarker, "", when})
				case !v.Marker && opt.Versioned:
					events = append(events, event{Hide, "", when})
				case !v.Marker:
					events = append(events, event{Remove, "", when})
				}
			}
			if r.ExpiredMarker && v.Marker && v.Only {
				events = append(events, event{RemoveMarker, "", v.Modified})
			}
			for _, x := range r.Transitions {
				when := x.Date
				if when.IsZero() {
					when = midnight(v.Modified, x.Days)
				}
				moves(x.Class, when)
			}
		} else {
			if e := r.NoncurrentExpiration; e != nil && v.Newer >= e.Newer {
				events = append(events, event{Remove, "", midnight(v.Noncurrent, e.Days)})
			}
			for _, x := range r.NoncurrentTransitions {
				if v.Newer >= x.Newer {
					moves(x.Class, midnight(v.Noncurrent, x.Days))
				}
			}
		}
		for _, e := range events {
			if e.a == Remove && (v.LegalHold || now.Before(v.LockedUntil)) || now.Before(e.at) {
				continue
			}
			due = append(due, e)
		}
	}
	for _, a := range []Action{Remove, RemoveMarker} {
		for _, e := range due {
			if e.a == a {
				return a, ""
			}
		}
	}
	for i := len(opt.Classes) - 1; i >= 0; i-- {
		for _, e := range due {
			if e.a == Move && e.class == opt.Classes[i] {
				return Move, e.class
			}
		}
	}
	for _, e := range due {
		if e.a == Hide {
			return Hide, ""
		}
	}
	return Keep, ""
}

func TestDecideAgainstOracle(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	day0 := at("2026-01-01 00:00")
	pick := func(s ...string) string { return s[r.IntN(len(s))] }
	moment := func() time.Time { return day0.Add(time.Duration(r.IntN(20*24*4)) * 15 * time.Minute) }
	classes := []string{"STANDARD", "STANDARD_IA", "WARM", "GLACIER", "COLD"}
	seen := map[Action]int{}
	for range 60_000 {
		rules := make([]Rule, r.IntN(5))
		when := func() When {
			if r.IntN(3) == 0 {
				return When{Date: day0.AddDate(0, 0, 1+r.IntN(20))}
			}
			return When{Days: r.IntN(8)}
		}
		for i := range rules {
			x := &rules[i]
			x.ID, x.Disabled = fmt.Sprint("r", i), r.IntN(8) == 0
			x.Filter.Prefix = pick("", "a", "a/", "a/b", "b")
			if r.IntN(4) == 0 {
				x.Filter.Tags = []Tag{{"k", pick("1", "2")}}
			}
			if r.IntN(4) == 0 {
				x.Filter.HasGreater, x.Filter.Greater = true, int64(r.IntN(200_000))
			}
			if r.IntN(4) == 0 {
				x.Filter.HasLess, x.Filter.Less = true, int64(r.IntN(200_000))
			}
			if r.IntN(2) == 0 {
				w := when()
				if w.Date.IsZero() {
					w.Days++
				}
				x.Expiration = &w
			}
			x.ExpiredMarker = r.IntN(4) == 0
			for range r.IntN(3) {
				x.Transitions = append(x.Transitions, Transition{when(), pick("WARM", "COLD", "GLACIER", "ELSEWHERE")})
			}
			if r.IntN(2) == 0 {
				x.NoncurrentExpiration = &Noncurrent{Days: 1 + r.IntN(8), Newer: r.IntN(3)}
			}
			for range r.IntN(3) {
				x.NoncurrentTransitions = append(x.NoncurrentTransitions, Noncurrent{Days: r.IntN(8), Newer: r.IntN(3), Class: pick("WARM", "COLD", "GLACIER")})
			}
		}
		v := Version{
			Key: pick("a", "a/", "a/b", "a/bc", "b", "c"), Size: int64(r.IntN(200_000)), Modified: moment(),
			Current: r.IntN(2) == 0, Class: pick("", "STANDARD", "WARM", "COLD", "STANDARD_IA"), LegalHold: r.IntN(8) == 0,
		}
		if r.IntN(4) == 0 {
			v.Marker, v.Size, v.Class = true, 0, ""
			v.Only = v.Current && r.IntN(2) == 0
		} else if r.IntN(2) == 0 {
			v.Tags = []Tag{{"k", pick("1", "2")}}
		}
		if !v.Current {
			v.Noncurrent, v.Newer = v.Modified.Add(time.Duration(r.IntN(100))*time.Hour), r.IntN(4)
		}
		if r.IntN(4) == 0 {
			v.LockedUntil = moment()
		}
		opt := Options{Versioned: r.IntN(2) == 0, Classes: classes, Minimum: Minimum(pick("", "none", "varies_by_storage_class"))}
		p := New(rules, opt)
		now := moment().Add(5 * 24 * time.Hour)
		d := p.Decide(&v, now)
		untold := v
		untold.Tags, untold.LockedUntil, untold.LegalHold = nil, time.Time{}, false
		if may, _ := p.MayAct(&untold, now); d.Action != Keep && !may {
			t.Fatalf("nothing may be due, and then %s\nrules %+v\nversion %+v\nnow %v", d.Reason, rules, v, now)
		}
		a, class := oracle(rules, opt, v, now)
		if d.Action != a || d.Class != class {
			t.Fatalf("%v %q, the oracle says %v %q\nrules %+v\nversion %+v\nnow %v\n%s", d.Action, d.Class, a, class, rules, v, now, d.Reason)
		}
		seen[a]++
		// What is said to come next comes next: nothing happens before, and something does then.
		if d.Action == Keep && !d.Due.IsZero() {
			if a, _ := oracle(rules, opt, v, d.Due.Add(-time.Minute)); d.Due.Add(-time.Minute).After(now) && a != Keep {
				t.Fatalf("%v already before %v\nrules %+v\nversion %+v", a, d.Due, rules, v)
			}
			if a, _ := oracle(rules, opt, v, d.Due); a == Keep {
				t.Fatalf("nothing at %v\nrules %+v\nversion %+v", d.Due, rules, v)
			}
		}
	}
	for _, a := range []Action{Keep, Remove, Hide, RemoveMarker, Move} {
		if seen[a] < 500 {
			t.Errorf("%v: only %d cases", a, seen[a])
		}
	}
}

func TestParseRefuses(t *testing.T) {
	rule := func(s string) string {
		return "<LifecycleConfiguration><Rule>" + s + "</Rule></LifecycleConfiguration>"
	}
	for _, doc := range []string{
		"", "<LifecycleConfiguration>", "<Other/>", "<LifecycleConfiguration/><x/>",
		rule("<Prefix/>"),
		rule("<Prefix/><Status>On</Status>"),
		rule("<Status>Enabled</Status>"),
		rule("<Prefix/><Filter/><Status>Enabled</Status>"),
		rule("<Prefix/><Status>Enabled</Status><Expiration><Days>0</Days></Expiration>"),
		rule("<Prefix/><Status>Enabled</Status><Expiration><Days>-1</Days></Expiration>"),
		rule("<Prefix/><Status>Enabled</Status><Expiration><Days>x</Days></Expiration>"),
		rule("<Prefix/><Status>Enabled</Status><Expiration><Days>1</Days><Date>2026-01-01</Date></Expiration>"),
		rule("<Prefix/><Status>Enabled</Status><Expiration><Date>soon</Date></Expiration>"),
		rule("<Prefix/><Status>Enabled</Status><Expiration><ExpiredObjectDeleteMarker>maybe</ExpiredObjectDeleteMarker></Expiration>"),
		rule("<Prefix/><Status>Enabled</Status><Transition><Days>1</Days></Transition>"),
		rule("<Prefix/><Status>Enabled</Status><Transition><StorageClass>X</StorageClass></Transition>"),
		rule("<Prefix/><Status>Enabled</Status><NoncurrentVersionExpiration/>"),
		rule("<Prefix/><Status>Enabled</Status><NoncurrentVersionTransition><NoncurrentDays>1</NoncurrentDays></NoncurrentVersionTransition>"),
		rule("<Prefix/><Status>Enabled</Status><AbortIncompleteMultipartUpload/>"),
		strings.Repeat(" ", MaxDocument+1),
	} {
		if _, err := Parse([]byte(doc)); firn.KindOf(err) != firn.Invalid {
			t.Errorf("%.100s: %v", doc, err)
		}
	}
}

// FuzzParse: what S3's checks accept is understood, and what is understood can be decided by.
func FuzzParse(f *testing.F) {
	f.Add([]byte("<LifecycleConfiguration><Rule><ID>x</ID><Filter><And><Prefix>a</Prefix><Tag><Key>k</Key><Value>v</Value></Tag>" +
		"<ObjectSizeGreaterThan>5</ObjectSizeGreaterThan></And></Filter><Status> Enabled </Status><Expiration><Days> 3 </Days></Expiration>" +
		"<Transition><Days>1</Days><StorageClass>GLACIER</StorageClass></Transition><NoncurrentVersionExpiration><NoncurrentDays>1" +
		"</NoncurrentDays><NewerNoncurrentVersions>2</NewerNoncurrentVersions></NoncurrentVersionExpiration></Rule></LifecycleConfiguration>"))
	f.Add([]byte("<LifecycleConfiguration xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"><Rule><Prefix/><Status>Disabled</Status>" +
		"<Expiration><ExpiredObjectDeleteMarker>1</ExpiredObjectDeleteMarker></Expiration><AbortIncompleteMultipartUpload>" +
		"<DaysAfterInitiation>2147483647</DaysAfterInitiation></AbortIncompleteMultipartUpload></Rule></LifecycleConfiguration>"))
	f.Fuzz(func(t *testing.T, doc []byte) {
		stored, err := s3doc.CheckLifecycle(doc, nil)
		accepted := err == nil
		if !accepted {
			stored = doc
		}
		rules, err := Parse(stored)
		if accepted && err != nil {
			t.Fatalf("%s: %v", stored, err)
		}
		p := New(rules, Options{})
		for _, v := range []Version{{Key: "a", Current: true}, {Key: "a", Noncurrent: at("2026-01-01 00:00")}, {Key: "a", Current: true, Marker: true, Only: true}} {
			v.Modified = at("2026-01-01 00:00")
			if d := p.Decide(&v, at("2026-01-01 00:00")); d.Action == Remove && (v.Current && accepted) {
				// A rule by date may end what was written after it; one by days never ends what was written now.
				for _, r := range rules {
					if r.ID == d.Rule && r.Expiration.Date.IsZero() {
						t.Fatalf("removed at once: %s", stored)
					}
				}
			}
		}
		p.DecideUpload(&Upload{"a", at("2026-01-01 00:00")}, at("2026-01-01 00:00"))
	})
}

func BenchmarkDecide(b *testing.B) {
	rules := make([]Rule, 20)
	for i := range rules {
		rules[i] = Rule{
			ID: fmt.Sprint(i), Filter: Filter{Prefix: fmt.Sprintf("camera%d/", i)}, Expiration: &When{Days: 90},
			Transitions: []Transition{{When{Days: 7}, "STANDARD_IA"}, {When{Days: 30}, "GLACIER"}},
		}
	}
	p := New(rules, Options{})
	v := Version{Key: "camera7/2026/01/15/10-00-00.mp4", Size: 150 << 20, Modified: at("2026-01-15 10:30"), Current: true}
	now := at("2026-01-20 00:00")
	b.ReportAllocs()
	for b.Loop() {
		p.Decide(&v, now)
	}
}
