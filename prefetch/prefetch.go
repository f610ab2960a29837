// Package prefetch learns from the reads of a site what will be read next: the next file of a time series, the same
// time of the next camera, the next part of a large object, the rest of a directory that is read again.
//
// It owns the learner and the runner that fetches what the learner suggests. It promises that rules are learned from the
// stream of reads and never wired in, that each rule's suggestions stop when they are not used, that memory is bounded,
// and that the runner fetches nothing while a foreground fetch is under way. It must never import a cache, a tier or a
// door: what a fetch is, is the caller's.
package prefetch

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"

	"firn"
)

// Access is one read of an object.
type Access struct {
	Time           time.Time
	Object         string
	Size           int64 // of the object; 0 where it is not known
	Offset, Length int64
}

// Suggestion is what will probably be read soon.
type Suggestion struct {
	Object string
	// Offset and Length are the part; Length 0 is the object as far as the caller fetches objects ahead.
	Offset, Length int64
	Chance         float64 // how often suggestions of the rule were used lately, 0 to 1
	Why            string
}

// Options are the settings.
type Options struct {
	// Chance is the least share of a rule's suggestions that were used for it to be followed: 0.5 by default.
	Chance float64
	// Window is after how many further reads a suggestion that was not used counts as wrong: 64 by default.
	Window int
	// ReadAhead is the most bytes read ahead within an object: 16 MiB by default. It begins with 1 MiB and doubles.
	ReadAhead int64
}

const (
	maxShapes    = 1024 // shapes of names, with up to maxRules each
	maxRules     = 16
	maxPending   = 4096 // suggestions that wait to be used
	maxObjects   = 4096 // objects whose last read is remembered
	minTrials    = 4    // suggestions of a rule before it is followed
	memory       = 8    // trials over which a rule's share of hits fades
	firstAhead   = 1 << 20
	maxObjectLen = 4096 // bytes of a name; longer ones are not learned from
)

// Learner learns rules of the kind "after x, x with this number or time moved by so much". All numbers in a name are
// coordinates, and numbers that are a date and time together are one; names that are alike but for them have one shape.
// It is used by one goroutine at a time.
type Learner struct {
	opt     Options
	shapes  *simplelru.LRU[string, *shape]
	recent  []seen                         // ring of the last accesses
	next    int                            // in recent
	step    int64                          // number of accesses
	pending *simplelru.LRU[string, []hope] // by object
	streams *simplelru.LRU[string, *stream]

	sets     *simplelru.LRU[string, *set]  // by directory
	setRules *simplelru.LRU[string, *rule] // by the shape of what their directories are in
}

type seen struct {
	shape *shape
	at    []int64
}

// shape is what names have in common, and what was learned of them.
type shape struct {
	rules []*rule
}

// rule is a step along one coordinate, or, without one, that sets are read as they were.
type rule struct {
	dim    int
	by     int64
	trials float64
	hits   float64
	last   int64 // step at which it was seen or used last
}

func (r *rule) chance() float64 {
	if r.trials == 0 {
		return 0
	}
	return r.hits / r.trials
}

// followed reports whether the rule's suggestions are made.
func (r *rule) followed(chance float64) bool { return r.trials >= minTrials && r.chance() >= chance }

// try counts one suggestion of the rule that was used, or was not.
func (r *rule) try(used bool) {
	if r.trials >= memory {
		f := (memory - 1.0) / memory
		r.trials *= f
		r.hits *= f
	}
	r.trials++
	if used {
		r.hits++
	}
}

// hope is a suggestion, made or only thought of, whose outcome is not known yet.
type hope struct {
	rule *rule
	step int64
}

type stream struct {
	end   int64
	run   int
	ahead int64 // bytes that the next read-ahead has
	until int64 // end of what was suggested
}

// New returns a Learner that knows nothing.
func New(opt Options) (*Learner, error) {
	if opt.Chance == 0 {
		opt.Chance = .5
	}
	if opt.Window == 0 {
		opt.Window = 64
	}
	if opt.ReadAhead == 0 {
		opt.ReadAhead = 16 << 20
	}
	if opt.Chance < 0 || opt.Chance > 1 || opt.Window < 2 || opt.Window > 1024 || opt.ReadAhead < firstAhead {
		return nil, firn.NewError(firn.Invalid, "prefetch needs a chance of 0 to 1, a window of 2 to 1024 reads and at least 1 MiB to read ahead")
	}
	l := &Learner{opt: opt, recent: make([]seen, opt.Window)}
	var err error
	if l.shapes, err = simplelru.NewLRU[string, *shape](maxShapes, nil); err != nil {
		return nil, err
	}
	if l.pending, err = simplelru.NewLRU(maxPending, func(_ string, hopes []hope) {
		for _, h := range hopes {
			h.rule.try(false)
		}
	}); err != nil {
		return nil, err
	}
	if l.streams, err = simplelru.NewLRU[string, *stream](maxObjects, nil); err != nil {
		return nil, err
	}
	if l.sets, err = simplelru.NewLRU[string, *set](maxSets, nil); err != nil {
		return nil, err
	}
	l.setRules, err = simplelru.NewLRU[string, *rule](maxShapes, nil)
	return l, err
}

// Observe learns from a read and returns what will probably be read next, the most probable first.
func (l *Learner) Observe(a Access) []Suggestion {
	if len(a.Object) > maxObjectLen || a.Offset < 0 || a.Length < 0 {
		return nil
	}
	s, again := l.within(a)
	if again {
		return s // a further part of an object that is being read says nothing of other objects
	}
	return append(s, l.across(a)...)
}

// within suggests the next part of an object that is read from one end to the other. again reports that the object was
// read before not long ago.
func (l *Learner) within(a Access) (out []Suggestion, again bool) {
	st, again := l.streams.Get(a.Object)
	if !again {
		st = &stream{}
		l.streams.Add(a.Object, st)
	}
	end := a.Offset + a.Length
	if !again || a.Offset != st.end || a.Length == 0 {
		// Elsewhere in the object: a seek, or the same once more. The latter is a read of it like the first one.
		again = again && a.Offset != 0
		*st = stream{end: end}
		return nil, again
	}
	st.end = end
	st.run++
	if st.ahead == 0 {
		st.ahead = firstAhead
	}
	// Half of what was suggested has to be read before more is.
	if st.until-end > st.ahead/2 || a.Size > 0 && st.until >= a.Size {
		return nil, true
	}
	from := max(st.until, end)
	n := st.ahead
	if a.Size > 0 {
		n = min(n, a.Size-from)
	}
	if n <= 0 {
		return nil, true
	}
	st.until = from + n
	st.ahead = min(2*st.ahead, l.opt.ReadAhead)
	return []Suggestion{{
		Object: a.Object, Offset: from, Length: n, Chance: 1 - 1/float64(st.run+1),
		Why: fmt.Sprintf("the object is read in order, %d parts so far", st.run+1),
	}}, true
}

// across suggests other objects.
func (l *Learner) across(a Access) []Suggestion {
	l.step++
	l.settle(a.Object)
	out := append(l.steps(a), l.together(a)...)
	slices.SortStableFunc(out, func(a, b Suggestion) int { return cmp.Compare(b.Chance, a.Chance) })
	return out
}

// steps suggests objects whose names differ in one number.
func (l *Learner) steps(a Access) (out []Suggestion) {
	n := parseName(a.Object)
	if len(n.at) == 0 {
		return nil
	}
	sh, ok := l.shapes.Get(n.shape)
	if !ok {
		sh = &shape{}
		l.shapes.Add(n.shape, sh)
	}
	l.learn(sh, n.at)
	l.recent[l.next] = seen{sh, n.at}
	l.next = (l.next + 1) % len(l.recent)

	for _, r := range sh.rules {
		at := slices.Clone(n.at)
		at[r.dim] += r.by
		next, ok := n.with(at)
		if !ok || next == a.Object {
			continue
		}
		l.hope(next, r)
		if r.followed(l.opt.Chance) {
			out = append(out, Suggestion{
				Object: next, Chance: r.chance(),
				Why: fmt.Sprintf("after such a name %s is read: %.0f %% of the last times", n.words(r), 100*r.chance()),
			})
		}
	}
	return out
}

// hope notes what a rule would suggest, whether it is suggested or not: so rules prove themselves, and fall. It reports
// whether that is new.
func (l *Learner) hope(object string, r *rule) bool {
	hopes, _ := l.pending.Get(object)
	if slices.ContainsFunc(hopes, func(h hope) bool { return h.rule == r }) {
		return false
	}
	l.pending.Add(object, append(hopes, hope{r, l.step}))
	return true
}

// settle counts what was hoped for object as right, and what waited too long as wrong.
func (l *Learner) settle(object string) {
	if hopes, ok := l.pending.Peek(object); ok {
		for _, h := range hopes {
			h.rule.try(true)
			h.rule.last = l.step
		}
		// Without the callback, which would count them as wrong.
		l.pending.Add(object, nil)
		l.pending.Remove(object)
	}
	for {
		object, hopes, ok := l.pending.GetOldest()
		if !ok || len(hopes) > 0 && l.step-hopes[len(hopes)-1].step <= int64(l.opt.Window) {
			return
		}
		l.pending.Remove(object)
	}
}

// learn makes rules of the steps from recent accesses to this one, if they differ in one coordinate alone.
func (l *Learner) learn(sh *shape, at []int64) {
	// One step a coordinate, from the newest: two steps back is twice the step, and tells nothing more.
	var done [maxDims]bool
	for i := range l.recent {
		s := l.recent[(l.next-1-i+2*len(l.recent))%len(l.recent)]
		if s.shape != sh || len(s.at) != len(at) {
			continue
		}
		dim, by := -1, int64(0)
		for d := range at {
			if at[d] != s.at[d] {
				if dim >= 0 {
					dim = -2
					break
				}
				dim, by = d, at[d]-s.at[d]
			}
		}
		if dim < 0 || done[dim] {
			continue
		}
		done[dim] = true
		if r := sh.find(dim, by); r != nil {
			r.last = l.step
		} else {
			sh.add(&rule{dim: dim, by: by, last: l.step})
		}
	}
}

func (sh *shape) find(dim int, by int64) *rule {
	for _, r := range sh.rules {
		if r.dim == dim && r.by == by {
			return r
		}
	}
	return nil
}

// add adds a rule; where there are too many, in place of the one that is worth least.
func (sh *shape) add(r *rule) {
	if len(sh.rules) < maxRules {
		sh.rules = append(sh.rules, r)
		return
	}
	worst := 0
	for i, o := range sh.rules {
		w := sh.rules[worst]
		// One that had no trials yet is given the time to have some.
		if c, d := o.chance(), w.chance(); c < d || c == d && o.last < w.last {
			worst = i
		}
	}
	sh.rules[worst] = r
}
