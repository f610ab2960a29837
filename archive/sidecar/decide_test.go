package sidecar

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"firn"
)

func ver(id string, lease, seq uint64) Version {
	return Version{ID: id, Mark: "mark-" + id, Lease: lease, Seq: seq, Files: 10, Bytes: 1 << 20}
}

func heldVer(id string, lease, seq uint64) Version {
	v := ver(id, lease, seq)
	v.Held = true
	return v
}

// came is the state of a directory that came from the version id.
func came(id string) *State { return &State{Format: 1, Version: id, Mark: "mark-" + id} }

func TestDecide(t *testing.T) {
	away := errors.New("connection refused")
	gone := errors.New("there is no repository")
	v1, v2, h3 := ver("1", 1, 1), ver("2", 1, 2), heldVer("3", 1, 3)
	two := []Version{v1, v2}
	for _, c := range []struct {
		name string
		s    Situation
		want Action
		id   string // of the version
		says string // in the reason
	}{
		// What cannot be asked.
		{"unreachable, empty", Situation{Err: away, Empty: true}, Wait, "", "refused"},
		{"unreachable, first run asked for", Situation{Err: away, Empty: true, Init: true}, Wait, "", "refused"},
		{"unreachable, data", Situation{Err: away, State: came("2")}, Wait, "", "refused"},
		{"unreachable, preferred", Situation{Err: away, Prefer: PreferDirectory}, Wait, "", "refused"},
		{"state unreadable", Situation{StateErr: away, Versions: two, Empty: true}, Wait, "", StateFile},

		// No target.
		{"none, not asked for", Situation{Missing: true, MissingErr: gone, Empty: true}, Wait, "", "--init"},
		{"none, asked for", Situation{Missing: true, MissingErr: gone, Empty: true, Init: true}, Make, "", ""},
		{"none, asked for, data", Situation{Missing: true, MissingErr: gone, Init: true}, Make, "", ""},
		{"none, but the directory came from one", Situation{Missing: true, MissingErr: gone, State: came("1"), Init: true}, Wait, "", "came from a backup"},
		{"none, half restored", Situation{Missing: true, MissingErr: gone, State: &State{Restoring: "1"}, Init: true, Empty: true}, Wait, "", "came from"},
		{"none, never backed up", Situation{Missing: true, MissingErr: gone, State: &State{}, Init: true}, Make, "", ""},

		// A target without versions.
		{"no versions, empty", Situation{Empty: true}, Begin, "", "first run"},
		{"no versions, data", Situation{}, Begin, "", "first run"},
		{"no versions, first backup cut off", Situation{State: &State{Pending: "x"}}, Begin, "", ""},
		{"no versions, other things there", Situation{Empty: true, Others: true}, Wait, "", "correct the name"},
		{"no versions, other things there, asked for", Situation{Empty: true, Others: true, Init: true}, Begin, "", ""},
		{"no versions, other things there, began here", Situation{State: &State{}, Others: true}, Begin, "", ""},
		{"versions lost", Situation{State: came("1")}, Wait, "", "none of this name"},
		{"versions lost, asked for", Situation{State: came("1"), Init: true}, Wait, "", "none of this name"},
		{"versions lost, the directory preferred", Situation{State: came("1"), Prefer: PreferDirectory}, Begin, "", ""},
		{"versions lost, half restored", Situation{State: &State{Restoring: "1"}, Prefer: PreferDirectory}, Wait, "", "half restored"},

		// A new node.
		{"empty", Situation{Versions: two, Empty: true}, Restore, "2", "empty"},
		{"empty, first run asked for", Situation{Versions: two, Empty: true, Init: true}, Restore, "2", "empty"},
		{"empty, in use", Situation{Versions: two, Empty: true, InUse: "redis"}, Restore, "2", ""},
		{"empty, the last is held", Situation{Versions: []Version{v1, v2, h3}, Empty: true}, Restore, "2", ""},
		{"empty, all are held", Situation{Versions: []Version{h3}, Empty: true}, Wait, "", "rollback"},

		// Unknown data.
		{"unknown data", Situation{Versions: two}, Wait, "", "--prefer"},
		{"unknown data, first run asked for", Situation{Versions: two, Init: true}, Wait, "", "--prefer"},
		{"unknown data preferred", Situation{Versions: two, Prefer: PreferDirectory}, Begin, "", ""},
		{"backup preferred", Situation{Versions: two, Prefer: PreferBackup}, Restore, "2", ""},
		{"backup preferred, in use", Situation{Versions: two, Prefer: PreferBackup, InUse: "postgres"}, Wait, "", "in use by postgres"},
		{"never backed up, and versions", Situation{Versions: two, State: &State{}}, Wait, "", "never backed up"},
		{"never backed up, pending lost", Situation{Versions: two, State: &State{Pending: "other"}}, Wait, "", "never backed up"},

		// The same directory again.
		{"as it was", Situation{Versions: two, State: came("2")}, Use, "2", ""},
		{"as it was, in use", Situation{Versions: two, State: came("2"), InUse: "redis"}, Use, "2", ""},
		{"killed after the commit", Situation{Versions: two, State: &State{Mark: "mark-1", Pending: "mark-2"}}, Use, "2", ""},
		{"killed before the commit", Situation{Versions: two, State: &State{Mark: "mark-2", Pending: "never"}}, Use, "2", ""},
		{"killed after the first commit", Situation{Versions: two[:1], State: &State{Pending: "mark-1"}}, Use, "1", ""},
		{"held here", Situation{Versions: []Version{v1, v2, h3}, State: came("3")}, Use, "3", ""},
		{"held elsewhere", Situation{Versions: []Version{v1, v2, h3}, State: came("2")}, Use, "2", ""},
		{"all but the state file removed", Situation{Versions: two, State: came("2"), Empty: true}, Restore, "2", "empty"},
		{"emptied and held", Situation{Versions: []Version{v1, v2, h3}, State: came("3"), Empty: true}, Restore, "2", "empty"},

		// A restore that was cut off.
		{"cut off", Situation{Versions: two, State: &State{Restoring: "2"}}, Restore, "2", "cut off"},
		{"cut off, newer there", Situation{Versions: two, State: &State{Restoring: "1", Mark: "mark-1"}}, Restore, "2", "cut off"},
		{"cut off, directory preferred", Situation{Versions: two, State: &State{Restoring: "1"}, Prefer: PreferDirectory}, Restore, "2", "cut off"},
		{"cut off, in use", Situation{Versions: two, State: &State{Restoring: "2"}, InUse: "redis"}, Wait, "", "in use by redis"},

		// An older directory comes back.
		{"older", Situation{Versions: two, State: came("1")}, Compare, "1", ""},
		{"older, unchanged", Situation{Versions: two, State: came("1"), Dirty: Clean}, Restore, "2", "newer"},
		{"older, unchanged, in use", Situation{Versions: two, State: came("1"), Dirty: Clean, InUse: "x"}, Wait, "", "in use"},
		{"older, changed", Situation{Versions: two, State: came("1"), Dirty: Changed}, Wait, "", "--prefer"},
		{"older, changed, directory preferred", Situation{Versions: two, State: came("1"), Dirty: Changed, Prefer: PreferDirectory}, Begin, "", ""},
		{"older, changed, backup preferred", Situation{Versions: two, State: came("1"), Dirty: Changed, Prefer: PreferBackup}, Restore, "2", ""},
		{"older, emptied", Situation{Versions: two, State: came("1"), Empty: true}, Restore, "2", "empty"},
		{"its version forgotten", Situation{Versions: two, State: came("0")}, Wait, "", "is gone"},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := Decide(c.s)
			if p.Action != c.want || p.Version.ID != c.id || !strings.Contains(p.Reason, c.says) {
				t.Errorf("%v %q: %s\nwant %v %q: …%s…", p.Action, p.Version.ID, p.Reason, c.want, c.id, c.says)
			}
			if p.Reason == "" {
				t.Error("no reason")
			}
		})
	}
}

// Every combination there is: the promises hold in each.
func TestDecideNeverBreaksAPromise(t *testing.T) {
	v1, v2, h3 := ver("1", 1, 1), ver("2", 2, 1), heldVer("3", 2, 2)
	states := []*State{
		nil,
		{},
		came("1"), came("2"), came("3"), came("0"),
		{Pending: "mark-1"},
		{Mark: "mark-1", Pending: "mark-2"},
		{Restoring: "1"},
		{Restoring: "2", Mark: "mark-1"},
	}
	n := 0
	for _, err := range []error{nil, errors.New("away")} {
		for _, missing := range []bool{false, true} {
			for _, versions := range [][]Version{nil, {v1}, {v1, v2}, {v1, v2, h3}, {h3}} {
				for i, state := range states {
					for _, serr := range []error{nil, errors.New("damaged")} {
						for bits := range 16 {
							empty, others, first, used := bits&1 > 0, bits&2 > 0, bits&4 > 0, bits&8 > 0
							for _, dirty := range []Dirty{Unknown, Clean, Changed} {
								for _, prefer := range []Prefer{PreferNeither, PreferDirectory, PreferBackup} {
									s := Situation{
										Err: err, Missing: missing, MissingErr: errors.New("none"), Versions: versions, Others: others,
										State: state, StateErr: serr, Empty: empty, Dirty: dirty, Init: first, Prefer: prefer,
									}
									if missing {
										s.Versions = nil
									}
									if used {
										s.InUse = "somebody"
									}
									n++
									p := Decide(s)
									what := fmt.Sprintf("%+v, state %d %+v: %v (%s)", s, i, state, p.Action, p.Reason)
									goes := p.Action == Use || p.Action == Begin
									good := lastGood(s.Versions)
									switch {
									case err != nil && p.Action != Wait:
										t.Errorf("went on though the backups cannot be reached: %s", what)
									case goes && empty && good != nil && good.Files > 0:
										t.Errorf("started empty though there are backups: %s", what)
									case goes && state != nil && state.Restoring != "":
										t.Errorf("started half restored: %s", what)
									case p.Action == Make && (!first || !missing || state != nil && state.came()):
										t.Errorf("made a target unasked: %s", what)
									case p.Action == Restore && (good == nil || p.Version.ID != good.ID):
										t.Errorf("restored another version than the last good one: %s", what)
									case p.Action == Restore && used && !empty:
										t.Errorf("restored beneath a running service: %s", what)
									case p.Action == Restore && !empty && prefer != PreferBackup &&
										(state == nil || state.Restoring == "" && (dirty != Clean || !state.came() && state.Pending == "")):
										t.Errorf("overwrote what may be in no backup: %s", what)
									case p.Action == Compare && dirty != Unknown:
										t.Errorf("asked again: %s", what)
									}
								}
							}
						}
					}
				}
			}
		}
	}
	t.Logf("%d situations", n)
}

func TestDecideBackup(t *testing.T) {
	full := Survey{Entries: 12, Files: 10, Bytes: 1 << 20, Digest: [32]byte{1}}
	with := func(files, bytes int64) Survey {
		return Survey{Entries: files, Files: files, Bytes: bytes, Digest: [32]byte{2, byte(files), byte(bytes)}}
	}
	last := ver("1", 1, 1)
	small := Version{Files: 3, Bytes: 3000}
	for _, c := range []struct {
		name string
		m    Moment
		want Deed
		says string
	}{
		{"the first", Moment{Now: full}, Take, ""},
		{"the first, empty", Moment{}, Take, ""},
		{"unchanged", Moment{Now: full, Before: &full, Last: &last}, Nothing, ""},
		{"unchanged, wanted", Moment{Now: full, Before: &full, Last: &last, Forced: true}, Take, ""},
		{"not known whether changed", Moment{Now: full, Last: &last}, Take, ""},
		{"changed", Moment{Now: with(11, 1<<20), Before: &full, Last: &last}, Take, ""},
		{"half gone", Moment{Now: with(5, 1<<19), Before: &full, Last: &last}, Take, ""},
		{"more than half of the files gone", Moment{Now: with(4, 1<<20), Before: &full, Last: &last}, Hold, "6 of 10 files"},
		{"more than half of the bytes gone", Moment{Now: with(10, 1<<18), Before: &full, Last: &last}, Hold, "bytes are gone"},
		{"all gone", Moment{Now: Survey{}, Before: &full, Last: &last}, Hold, "all 10 files"},
		{"all gone, not known before", Moment{Now: Survey{}, Last: &last}, Hold, "all 10 files"},
		{"all gone, wanted", Moment{Now: Survey{}, Before: &full, Last: &last, Forced: true}, Hold, "all 10 files"},
		{"all gone, accepted", Moment{Now: Survey{}, Before: &full, Last: &last, Accepted: true}, Take, ""},
		{"files emptied", Moment{Now: with(3, 0), Before: &full, Last: &small}, Hold, "bytes are gone"},
		{"small files became smaller", Moment{Now: with(3, 100), Before: &full, Last: &small}, Take, ""},
		{"held, and nothing changed since", Moment{Now: with(1, 1), Before: ptr(with(1, 1)), Last: &last}, Nothing, "9 of 10"},
		{"held, and changed since", Moment{Now: with(1, 2), Before: ptr(with(1, 1)), Last: &last}, Hold, "9 of 10"},
		{"held, and came back", Moment{Now: with(9, 1<<20), Before: ptr(with(1, 1)), Last: &last}, Take, ""},
		{"unreadable", Moment{SurveyErr: errors.New("input/output error"), Last: &last}, Refuse, "input/output"},
		{"unreadable, accepted", Moment{SurveyErr: errors.New("input/output error"), Last: &last, Accepted: true}, Refuse, "input/output"},
		{"not the directory", Moment{Lost: errors.New("its state file is gone"), Now: full, Last: &last}, Refuse, "mount"},
		{"not the directory, accepted", Moment{Lost: errors.New("gone"), Now: full, Last: &last, Accepted: true}, Take, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.m.Shrink = 0.5
			deed, why := DecideBackup(c.m)
			if deed != c.want || !strings.Contains(why, c.says) || c.says == "" && why != "" {
				t.Errorf("%v: %q, want %v: …%q…", deed, why, c.want, c.says)
			}
		})
	}
}

func ptr[T any](v T) *T { return &v }

func TestPlanForget(t *testing.T) {
	for _, c := range []struct{ have, want string }{
		{"", ""},
		{"ggg", "ggg"},
		{"ggggg", "..ggg"},
		{"gggggh", "gggggh"},         // nothing good goes while held
		{"gggghhhhh", "gggg..hhh"},   // held ones do
		{"gggghg", "..gghg"},         // came back: the held one is among those that are kept
		{"ghggg", "..ggg"},           // and goes with them
		{"gghhhhgggg", ".......ggg"}, //
		{"hhhh", ".hhh"},             //
		{"gggggggggh", "gggggggggh"}, //
		{"ghhhhg", "g.hhhg"},         //
		{"gghghghghg", ".....ghghg"}, //
	} {
		var all []Version
		for i, k := range c.have {
			v := ver(fmt.Sprint(i), uint64(1+i/4), uint64(i))
			v.Held = k == 'h'
			all = append(all, v)
		}
		got := []byte(c.have)
		for _, v := range PlanForget(all, 3) {
			var i int
			if _, err := fmt.Sscan(v.ID, &i); err != nil {
				t.Fatal(err)
			}
			got[i] = '.'
		}
		if string(got) != c.want {
			t.Errorf("%s: kept %s, want %s", c.have, got, c.want)
		}
	}
}

func TestParseState(t *testing.T) {
	if s, err := ParseState([]byte(`{"format":1,"mark":"a"}`)); err != nil || s.Mark != "a" {
		t.Errorf("%+v, %v", s, err)
	}
	for text, kind := range map[string]firn.Kind{`{"format":2,"mark":"a"}`: firn.Unsupported, `{}`: firn.Unsupported, `{"form`: firn.Corrupt, ``: firn.Corrupt} {
		if s, err := ParseState([]byte(text)); s != nil || firn.KindOf(err) != kind {
			t.Errorf("%q: %+v, %v", text, s, err)
		}
	}
}

func FuzzParseState(f *testing.F) {
	f.Add([]byte(`{"format":1,"mark":"a"}`))
	f.Add([]byte(`{"format":2}`))
	f.Fuzz(func(t *testing.T, p []byte) {
		s, err := ParseState(p)
		if (s == nil) == (err == nil) {
			t.Errorf("%v, %v", s, err)
		}
	})
}
