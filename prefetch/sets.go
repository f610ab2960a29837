package prefetch

import (
	"fmt"
	"strings"
	"time"
)

const (
	maxSets      = 256 // sets, with up to maxMembers each
	maxMembers   = 128
	maxMemberLen = 256 // bytes of a name behind its last slash
	setAhead     = 4   // members suggested after a read
	// A round ends where nothing of the set is read for so long, or within Window reads.
	roundEnds = 10 * time.Minute
)

// set is the objects of one directory, which is what names have up to their last slash. They are read in rounds: of a set
// that was read before, several reads close together are the beginning of the next one. Cold data is in demand again then,
// and the rest of it with it.
type set struct {
	rule    *rule // of all sets in directories of one shape
	members []member
	at      map[string]int // in members, by name
	round   int
	seen    int   // members read in this round
	last    int64 // step of the last read
	when    time.Time
}

type member struct {
	name  string
	round int // in which it was read last
}

// together suggests what was read together with an object the last time.
func (l *Learner) together(a Access) (out []Suggestion) {
	slash := strings.LastIndexByte(a.Object, '/') + 1
	dir, name := a.Object[:slash], a.Object[slash:]
	if len(name) > maxMemberLen {
		return nil
	}
	s, ok := l.sets.Get(dir)
	if !ok {
		shape := parseName(dir[:strings.LastIndexByte(dir[:max(slash-1, 0)], '/')+1]).shape
		r, known := l.setRules.Get(shape)
		if !known {
			r = &rule{}
			l.setRules.Add(shape, r)
		}
		s = &set{rule: r, at: map[string]int{}, last: l.step, when: a.Time}
		l.sets.Add(dir, s)
	}
	if l.step-s.last > int64(l.opt.Window) || a.Time.Sub(s.when) > roundEnds {
		s.begin()
	}
	s.last, s.when = l.step, a.Time
	i, known := s.at[name]
	switch {
	case known && s.members[i].round < s.round:
		s.members[i].round = s.round
		s.seen++
	case !known && len(s.members) < maxMembers:
		i = len(s.members)
		s.at[name] = i
		s.members = append(s.members, member{name, s.round})
		s.seen++
	}
	if s.seen < minTrials {
		return nil
	}
	// Those that were read after it the last time first.
	n := 0
	for k := 1; k < len(s.members) && n < setAhead; k++ {
		m := &s.members[(i+k)%len(s.members)]
		if m.round != s.round-1 || !l.hope(dir+m.name, s.rule) {
			continue
		}
		n++
		if s.rule.followed(l.opt.Chance) {
			out = append(out, Suggestion{
				Object: dir + m.name, Chance: s.rule.chance(),
				Why: fmt.Sprintf("%d objects below %s are read again, as the last time with this one: %.0f %% of the last times were",
					s.seen, dir, 100*s.rule.chance()),
			})
		}
	}
	return out
}

// begin begins a round, and forgets what was not read in the last one.
func (s *set) begin() {
	old := s.members
	s.members, s.at = nil, map[string]int{}
	for _, m := range old {
		if m.round == s.round {
			s.at[m.name] = len(s.members)
			s.members = append(s.members, m)
		}
	}
	s.round++
	s.seen = 0
}
