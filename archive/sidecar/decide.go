package sidecar

import (
	"fmt"
	"time"
)

// Version is one backup of the directory. Who wrote it and in which order is told by Lease and Seq, never by a clock.
type Version struct {
	ID   string    `json:"id"`
	Time time.Time `json:"time"`
	// Mark is random and the same wherever the version is copied to: by it a directory knows the version it came from.
	Mark string `json:"mark"`
	// Lease is the number of the writer's lease, Seq counts within it.
	Lease uint64 `json:"lease"`
	Seq   uint64 `json:"seq"`
	// Files and Bytes are what the directory held, as the sidecar counts.
	Files int64 `json:"files"`
	Bytes int64 `json:"bytes"`
	// Held versions were made of a directory that had suddenly lost much. They are never restored unasked.
	Held bool `json:"held,omitempty"`
}

// Before orders versions.
func (v Version) Before(w Version) bool {
	if v.Lease != w.Lease {
		return v.Lease < w.Lease
	}
	return v.Seq < w.Seq
}

// Prefer says who is right where both the directory and the backups have what the other has not.
type Prefer string

// What can be preferred.
const (
	PreferNeither   Prefer = ""
	PreferDirectory Prefer = "directory"
	PreferBackup    Prefer = "backup"
)

// Dirty is what is known of changes in the directory since the version it came from.
type Dirty int

// Unknown has the planner ask.
const (
	Unknown Dirty = iota
	Clean
	Changed
)

// Situation is all that the decision at the start depends on.
type Situation struct {
	// Err is why the target could not be asked.
	Err error
	// Missing: the place answered, and there is no target in it, as MissingErr says.
	Missing    bool
	MissingErr error
	// Versions in order, and whether the target has other things beside.
	Versions []Version
	Others   bool
	// State is that of the directory, nil where it has none.
	State    *State
	StateErr error
	// Empty: the directory holds nothing of its own.
	Empty bool
	// InUse says which process uses the directory; "" for none.
	InUse string
	// Dirty is told after Compare was the answer.
	Dirty  Dirty
	Init   bool
	Prefer Prefer
}

// Action is what is to be done at the start.
type Action int

// The actions.
const (
	// Wait: the service must not start, and nothing is to be changed.
	Wait Action = iota
	// Make makes the target.
	Make
	// Compare asks whether the directory differs from Plan.Version.
	Compare
	// Restore makes the directory hold Plan.Version.
	Restore
	// Use goes on with the directory, which came from Plan.Version.
	Use
	// Begin goes on with the directory, of which there is no version.
	Begin
)

func (a Action) String() string {
	return [...]string{"wait", "make", "compare", "restore", "use", "begin"}[a]
}

// Plan is an action, and why.
type Plan struct {
	Action  Action
	Version Version
	Reason  string
}

func wait(format string, args ...any) Plan {
	return Plan{Action: Wait, Reason: fmt.Sprintf(format, args...)}
}

// Decide says what to do before the service starts. The rules, in order:
//
// What cannot be asked is waited for. A target that is not there is made only when that is asked for, and never beside a
// directory that came from one. A directory is overwritten only where it is empty, where a restore into it was cut off,
// or where nothing in it changed since a version; and never while somebody uses it. Everything else is for people.
func Decide(s Situation) Plan {
	switch {
	case s.Err != nil:
		return wait("the backups cannot be reached: %v", s.Err)
	case s.StateErr != nil:
		return wait("the state file %s cannot be read: %v", StateFile, s.StateErr)
	case s.Missing:
		return s.missing()
	case len(s.Versions) == 0:
		return s.noVersions()
	}
	good := lastGood(s.Versions)
	if good == nil {
		return wait("every version there is was made of a directory that had suddenly lost much: firn sidecar rollback chooses one")
	}
	return s.guard(s.choose(*good))
}

// guard refuses to restore beneath a running service.
func (s *Situation) guard(p Plan) Plan {
	if p.Action == Restore && !s.Empty && s.InUse != "" {
		return wait("%s, but the directory is in use by %s: stop it first", p.Reason, s.InUse)
	}
	return p
}

func lastGood(versions []Version) *Version {
	for i := len(versions) - 1; i >= 0; i-- {
		if !versions[i].Held {
			return &versions[i]
		}
	}
	return nil
}

func (s *Situation) missing() Plan {
	switch {
	case s.State != nil && s.State.came():
		return wait("the directory came from a backup, and there are no backups there (%v): correct the URL, or, if they are lost, remove %s and start with --init",
			s.MissingErr, StateFile)
	case !s.Init:
		return wait("%v: if this is the first run, start once with --init, or make it with 'firn repo init'", s.MissingErr)
	}
	return Plan{Action: Make, Reason: "first run"}
}

func (s *Situation) noVersions() Plan {
	begin := Plan{Action: Begin, Reason: "first run: there are no versions yet"}
	switch {
	case s.State != nil && s.State.Restoring != "":
		return wait("the directory is half restored, and the version is gone")
	case s.State != nil && s.State.came() && s.Prefer != PreferDirectory:
		return wait("the directory came from a version, and there is none of this name: correct URL and name, or start once with --prefer directory")
	case s.State == nil && s.Others && !s.Init:
		return wait("there are backups of other things, and none of this name: correct the name, or, if this is the first run, start once with --init")
	}
	return begin
}

// choose decides where there are versions; good is the last one that is not held.
func (s *Situation) choose(good Version) Plan {
	restore := func(why string) Plan { return Plan{Restore, good, why} }
	if s.State == nil {
		if s.Empty {
			return restore("the directory is empty")
		}
		return s.conflict(good, "the directory has data, and did not come from a version")
	}
	if s.State.Restoring != "" {
		return restore("a restore was cut off")
	}
	if s.Empty && good.Files > 0 {
		return restore("the directory is empty")
	}
	newest := s.Versions[len(s.Versions)-1]
	var from *Version
	for i := range s.Versions {
		if s.State.is(s.Versions[i].Mark) {
			from = &s.Versions[i]
		}
	}
	switch {
	case from == nil && !s.State.came():
		return s.conflict(good, "the directory was never backed up, and there are versions")
	case from == nil:
		return s.conflict(good, "the version that the directory came from is gone, and there are others")
	case from.ID == newest.ID, from.ID == good.ID:
		return Plan{Use, *from, "the directory is that of the last version"}
	}
	switch s.Dirty {
	case Unknown:
		return Plan{Compare, *from, "there are newer versions than the directory's"}
	case Clean:
		return restore("there is a newer version, and nothing in the directory changed since its own")
	}
	return s.conflict(good, "the directory changed since its version, and there are newer versions of another sidecar")
}

// conflict has people decide, or does as they did.
func (s *Situation) conflict(good Version, what string) Plan {
	switch {
	case s.Empty:
		return Plan{Restore, good, "the directory is empty"}
	case s.Prefer == PreferDirectory:
		return Plan{Action: Begin, Reason: what + ": the directory is preferred"}
	case s.Prefer == PreferBackup:
		return Plan{Restore, good, what + ": the backup is preferred"}
	}
	return wait("%s: start once with --prefer directory or --prefer backup", what)
}

// Moment is all that the decision about a backup depends on.
type Moment struct {
	// Lost is why the directory is not the one that was restored: its state file is gone, or another's.
	Lost error
	// SurveyErr is why it could not be looked at.
	SurveyErr error
	// Now is what it holds, Before what it held at the last backup; nil where that is not known.
	Now    Survey
	Before *Survey
	// Last is the last good version; nil where there is none.
	Last   *Version
	Shrink float64
	// Accepted: a person said that what was lost may be.
	Accepted bool
	// Forced: the backup is wanted though nothing changed.
	Forced bool
}

// Deed is what to do about a backup.
type Deed int

// The deeds.
const (
	// Nothing changed.
	Nothing Deed = iota
	// Refuse takes no backup, and says so.
	Refuse
	// Take takes one.
	Take
	// Hold takes one that is never restored unasked, and keeps all good ones.
	Hold
)

func (d Deed) String() string { return [...]string{"nothing", "refuse", "take", "hold"}[d] }

// minShrink is up to how many bytes a directory may shrink without anybody being asked: a few small files that are
// written anew are no accident.
const minShrink = 64 << 10

// DecideBackup says whether what the directory holds is to be backed up, and why not, or why it is held.
func DecideBackup(m Moment) (Deed, string) {
	switch {
	case m.SurveyErr != nil:
		return Refuse, fmt.Sprintf("the directory cannot be looked at: %v", m.SurveyErr)
	case m.Lost != nil && !m.Accepted:
		return Refuse, fmt.Sprintf("this is not the directory that was restored (%v): a mount may be missing, or all was removed; firn sidecar accept takes it as it is", m.Lost)
	}
	if m.Last != nil && !m.Accepted {
		if why := lost(*m.Last, m.Now, m.Shrink); why != "" {
			if !m.Forced && m.Before != nil && m.Before.Digest == m.Now.Digest {
				return Nothing, why
			}
			return Hold, why
		}
	}
	if !m.Forced && !m.Accepted && m.Before != nil && m.Before.Digest == m.Now.Digest {
		return Nothing, ""
	}
	return Take, ""
}

// lost says what is missing of last, "" where it is no more than share.
func lost(last Version, now Survey, share float64) string {
	gone := func(had, has int64) bool { return had > 0 && float64(had-has) > share*float64(had) }
	switch {
	case last.Files > 0 && now.Files == 0:
		return fmt.Sprintf("all %d files are gone", last.Files)
	case gone(last.Files, now.Files):
		return fmt.Sprintf("%d of %d files are gone", last.Files-now.Files, last.Files)
	case last.Bytes > 0 && now.Bytes == 0, last.Bytes-now.Bytes > minShrink && gone(last.Bytes, now.Bytes):
		return fmt.Sprintf("%d of %d bytes are gone", last.Bytes-now.Bytes, last.Bytes)
	}
	return ""
}

// PlanForget returns the versions that are not kept: all but the newest keep good ones, and, where nothing is held any
// more, what was held before them. While the newest version is held no good one goes.
func PlanForget(versions []Version, keep int) []Version {
	if len(versions) == 0 {
		return nil
	}
	holding := versions[len(versions)-1].Held
	var gone []Version
	good, held := 0, 0
	oldest := Version{} // of the good ones that stay
	for i := len(versions) - 1; i >= 0; i-- {
		v := versions[i]
		if !v.Held {
			if good++; good > keep && !holding {
				gone = append(gone, v)
			} else {
				oldest = v
			}
		}
	}
	for i := len(versions) - 1; i >= 0; i-- {
		v := versions[i]
		if v.Held {
			if held++; held > keep || !holding && v.Before(oldest) {
				gone = append(gone, v)
			}
		}
	}
	return gone
}
