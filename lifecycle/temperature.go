package lifecycle

import (
	"fmt"
	"slices"
	"time"

	"firn"
)

// Temperature says how much a version is used.
type Temperature uint8

// The temperatures, from the most used.
const (
	Hot Temperature = iota
	Warm
	Cold
)

var temperatureNames = [...]string{"hot", "warm", "cold"}

func (t Temperature) String() string {
	if int(t) < len(temperatureNames) {
		return temperatureNames[t]
	}
	return "unknown temperature"
}

// Day is 24 hours: rules by temperature do not round as S3's do.
const Day = 24 * time.Hour

// TemperatureRules are the numbers of the rules by temperature.
type TemperatureRules struct {
	// HotAge: a version younger than this is hot.
	HotAge time.Duration
	// WarmRead: a version that was read within this time is warm.
	WarmRead time.Duration
	// WarmReads and WarmAge: a version that was read more often than WarmReads and is younger than WarmAge is warm.
	WarmReads uint64
	WarmAge   time.Duration
	// MinStay is how long a version stays where it was moved to before it is moved for its temperature again.
	MinStay time.Duration
	// PromoteReads is how many reads within PromoteWindow bring a version back to a warmer place. One read never does:
	// it would bring back what is read once a year, and put it away again.
	PromoteReads  uint64
	PromoteWindow time.Duration
}

// DefaultTemperatureRules: younger than 3 days is hot; read within 7 days, or read more than 100 times and younger than
// 30 days, is warm; all else is cold. What moved stays for a day; 3 reads within 2 days bring it back.
func DefaultTemperatureRules() TemperatureRules {
	return TemperatureRules{
		HotAge: 3 * Day, WarmRead: 7 * Day, WarmReads: 100, WarmAge: 30 * Day,
		MinStay: Day, PromoteReads: 3, PromoteWindow: 2 * Day,
	}
}

// Check refuses numbers that cannot be meant.
func (r TemperatureRules) Check() error {
	if r.HotAge < 0 || r.WarmRead < 0 || r.WarmAge < 0 || r.MinStay < 0 {
		return firn.NewError(firn.Invalid, "times of temperature rules must not be negative")
	}
	if r.WarmRead < r.MinStay {
		return firn.NewError(firn.Invalid, "what was brought back by its reads must count as warm for as long as it is to stay")
	}
	if r.PromoteReads < 2 || r.PromoteWindow < Day || r.PromoteWindow > Buckets*Day {
		return firn.NewError(firn.Invalid, fmt.Sprintf(
			"a promotion takes 2 reads or more, within 1 to %d days: single reads do not bring data back", Buckets))
	}
	return nil
}

// Subject is what a decision by temperature needs to know of a version.
type Subject struct {
	Written time.Time
	// At is the temperature of the place where it is, Moved when it came there; zero where it was written there.
	At    Temperature
	Moved time.Time
	Use   Use
	// Pinned holds it at PinnedAt or warmer, whatever its use.
	Pinned   bool
	PinnedAt Temperature
}

// Classify returns the temperature of a version that was written and used so, and why.
func (r TemperatureRules) Classify(written time.Time, use Use, now time.Time) (Temperature, string) {
	age := now.Sub(written)
	t := r.temperature(written, &use, now)
	switch {
	case t == Hot:
		return t, fmt.Sprintf("hot: written %s ago, which is less than %s", span(age), span(r.HotAge))
	case t == Warm && r.lately(&use, now):
		return t, fmt.Sprintf("warm: read %s ago, which is less than %s", span(now.Sub(use.Last)), span(r.WarmRead))
	case t == Warm:
		return t, fmt.Sprintf("warm: read %d times, which is more than %d, and written %s ago, which is less than %s",
			use.Reads, r.WarmReads, span(age), span(r.WarmAge))
	case use.Last.IsZero():
		return t, fmt.Sprintf("cold: written %s ago and never read since reads are counted", span(age))
	}
	return t, fmt.Sprintf("cold: written %s ago, last read %s ago, read %d times", span(age), span(now.Sub(use.Last)), use.Reads)
}

// temperature is Classify without words.
func (r TemperatureRules) temperature(written time.Time, use *Use, now time.Time) Temperature {
	age := now.Sub(written)
	switch {
	case age < r.HotAge:
		return Hot
	case r.lately(use, now), use.Reads > r.WarmReads && age < r.WarmAge:
		return Warm
	}
	return Cold
}

// lately reports whether it was read within WarmRead.
func (r TemperatureRules) lately(use *Use, now time.Time) bool {
	return !use.Last.IsZero() && now.Sub(use.Last) < r.WarmRead
}

// Decide returns the temperature of the place where a version belongs, which is Subject.At where it stays, and why.
func (r TemperatureRules) Decide(s Subject, now time.Time) (Temperature, string) {
	want, why := r.Classify(s.Written, s.Use, now)
	// A pin is somebody's word: it neither waits nor needs reads.
	pinned := s.Pinned && s.At > s.PinnedAt
	switch {
	case s.Pinned && want > s.PinnedAt:
		want, why = s.PinnedAt, fmt.Sprintf("pinned to %s or warmer (else %s)", s.PinnedAt, why)
	case pinned:
		why = fmt.Sprintf("pinned to %s or warmer, and %s", s.PinnedAt, why)
	}
	if want == s.At {
		return s.At, "stays: " + why
	}
	if stay := now.Sub(s.Moved); !pinned && !s.Moved.IsZero() && stay < r.MinStay {
		return s.At, fmt.Sprintf("stays %s: it came %s ago and stays at least %s (then %s)", s.At, span(stay), span(r.MinStay), why)
	}
	if want > s.At {
		return want, "down to " + why
	}
	if pinned {
		return want, "up, " + why
	}
	// Up only on repeated reads. A young version that was moved down by hand or for want of room has to be asked for too.
	if n := s.Use.Within(r.PromoteWindow, now); n < r.PromoteReads {
		return s.At, fmt.Sprintf("stays %s: %d reads within %s, and %d bring it back (else %s)",
			s.At, n, span(r.PromoteWindow), r.PromoteReads, why)
	}
	return want, fmt.Sprintf("up to %s; %d reads within %s", why, s.Use.Within(r.PromoteWindow, now), span(r.PromoteWindow))
}

// span writes a duration for people: whole days, hours or minutes, rounded down.
func span(d time.Duration) string {
	switch {
	case d < 0:
		return "no time"
	case d >= Day:
		return days(int(d / Day))
	case d >= time.Hour:
		return fmt.Sprintf("%d h", d/time.Hour)
	}
	return fmt.Sprintf("%d min", d/time.Minute)
}

// Watermarks say when a place is too full. Moves begin at High and go on until Low, in parts of its capacity.
type Watermarks struct{ High, Low float64 }

// DefaultWatermarks begin at 85 % and stop at 75 %.
func DefaultWatermarks() Watermarks { return Watermarks{High: .85, Low: .75} }

// Check refuses marks that cannot be meant.
func (w Watermarks) Check() error {
	if !(w.Low > 0 && w.Low < w.High && w.High <= 1) {
		return firn.NewError(firn.Invalid, "watermarks must be 0 < low < high <= 1")
	}
	return nil
}

// Need returns how many bytes must leave a place. relieving says that moves have begun and Low was not reached yet; the
// caller keeps it and sets it to whether the result is over 0.
func (w Watermarks) Need(used, capacity int64, relieving bool) (bytes int64, why string) {
	if capacity <= 0 {
		return 0, "the capacity is not known"
	}
	full := float64(used) / float64(capacity)
	need := used - int64(w.Low*float64(capacity))
	switch {
	case full >= w.High, relieving && need > 0:
		return max(need, 0), fmt.Sprintf("%.1f %% full: moves begin at %.0f %% and stop at %.0f %%", 100*full, 100*w.High, 100*w.Low)
	}
	return 0, fmt.Sprintf("%.1f %% full, which is less than %.0f %%", 100*full, 100*w.High)
}

// Candidate is a version that could leave a full place.
type Candidate struct {
	Key, Version string
	Size         int64 // bytes that its leaving frees
	Written      time.Time
	Moved        time.Time // when it came to the place; zero where it was written there
	Use          Use
	Pinned       bool
}

// used is the last time it was of use: when it was read, else when it was written.
func (c *Candidate) used() time.Time {
	if c.Use.Last.After(c.Written) {
		return c.Use.Last
	}
	return c.Written
}

// colder orders candidates: the longest unused first, then the larger, then by name.
func (c *Candidate) colder(d *Candidate) bool {
	if u, v := c.used(), d.used(); !u.Equal(v) {
		return u.Before(v)
	}
	if c.Size != d.Size {
		return c.Size > d.Size
	}
	if c.Key != d.Key {
		return c.Key < d.Key
	}
	return c.Version < d.Version
}

// Relief picks the coldest candidates until enough bytes go. It sees any number of them and remembers at most Limit.
type Relief struct {
	need    int64
	limit   int
	minStay time.Duration
	now     time.Time
	picked  []Candidate // a heap, the warmest at the top
	bytes   int64
}

// NewRelief begins a choice of candidates of need bytes together, at most limit of them. What came to the place less
// than minStay ago is not chosen, nor is what is pinned.
func NewRelief(need int64, limit int, minStay time.Duration, now time.Time) *Relief {
	return &Relief{need: need, limit: max(limit, 1), minStay: minStay, now: now}
}

// Add offers a candidate.
func (r *Relief) Add(c Candidate) {
	if r.need <= 0 || c.Pinned || c.Size <= 0 || !c.Moved.IsZero() && r.now.Sub(c.Moved) < r.minStay {
		return
	}
	if r.bytes >= r.need && !c.colder(&r.picked[0]) {
		return
	}
	r.picked = append(r.picked, c)
	r.bytes += c.Size
	r.up(len(r.picked) - 1)
	for len(r.picked) > r.limit || r.bytes-r.picked[0].Size >= r.need {
		r.bytes -= r.picked[0].Size
		r.picked[0] = r.picked[len(r.picked)-1]
		r.picked = r.picked[:len(r.picked)-1]
		r.down(0)
	}
}

func (r *Relief) up(i int) {
	for i > 0 {
		p := (i - 1) / 2
		if !r.picked[p].colder(&r.picked[i]) {
			return
		}
		r.picked[p], r.picked[i] = r.picked[i], r.picked[p]
		i = p
	}
}

func (r *Relief) down(i int) {
	for {
		c := 2*i + 1
		if c >= len(r.picked) {
			return
		}
		if c+1 < len(r.picked) && r.picked[c].colder(&r.picked[c+1]) {
			c++
		}
		if !r.picked[i].colder(&r.picked[c]) {
			return
		}
		r.picked[i], r.picked[c] = r.picked[c], r.picked[i]
		i = c
	}
}

// Chosen is a candidate that goes, and why.
type Chosen struct {
	Candidate
	Reason string
}

// Picked returns the choice, the coldest first, and how many bytes are missing because there was nothing more to pick.
func (r *Relief) Picked() (chosen []Chosen, missing int64) {
	all := slices.Clone(r.picked)
	slices.SortFunc(all, func(a, b Candidate) int {
		if a.colder(&b) {
			return -1
		}
		return 1
	})
	for _, c := range all {
		what := "never read, written"
		if c.Use.Last.After(c.Written) {
			what = "last read"
		}
		chosen = append(chosen, Chosen{c, fmt.Sprintf(
			"goes to make room: %s %s ago, among the longest unused", what, span(r.now.Sub(c.used())))})
	}
	return chosen, max(r.need-r.bytes, 0)
}

// TallyKey is what a Tally counts by.
type TallyKey struct {
	Bucket, Rule string
	Action       Action
}

// TallyCount is a number of versions, delete markers or uploads, and the bytes of those that were removed, moved or freed.
type TallyCount struct{ Objects, Bytes int64 }

// Tally counts what decisions do, for reports. The zero Tally is empty.
type Tally map[TallyKey]TallyCount

// Add counts one decision about size bytes.
func (t *Tally) Add(bucket string, d Decision, size int64) {
	if d.Action == Keep {
		return
	}
	if *t == nil {
		*t = Tally{}
	}
	k := TallyKey{bucket, d.Rule, d.Action}
	n := (*t)[k]
	n.Objects++
	if d.Action != Hide && d.Action != RemoveMarker {
		n.Bytes += size
	}
	(*t)[k] = n
}
