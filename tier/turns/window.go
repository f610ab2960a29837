package turns

import (
	"fmt"
	"strings"
	"time"

	"firn"
)

// Windows are the times of day at which moves begin; none: always.
type Windows []Window

// Window is from one time of day to another, which may be on the next day. Both are minutes after midnight.
type Window struct{ From, To int }

const dayMinutes = 24 * 60

// ParseWindow reads a window such as 22:00-06:00. firn.Invalid.
func ParseWindow(s string) (Window, error) {
	from, to, ok := strings.Cut(strings.TrimSpace(s), "-")
	var w Window
	if ok {
		w.From, ok = minutes(from)
	}
	if ok {
		w.To, ok = minutes(to)
	}
	if !ok || w.From == w.To || w.From == dayMinutes {
		return w, firn.NewError(firn.Invalid, fmt.Sprintf("%q: want two times of day such as 22:00-06:00", s))
	}
	return w, nil
}

// ParseWindows reads a list of windows.
func ParseWindows(list []string) (Windows, error) {
	var all Windows
	for _, s := range list {
		w, err := ParseWindow(s)
		if err != nil {
			return nil, err
		}
		all = append(all, w)
	}
	return all, nil
}

func minutes(s string) (int, bool) {
	s = strings.TrimSpace(s)
	if s == "24:00" {
		return dayMinutes, true
	}
	t, err := time.Parse("15:04", s)
	return t.Hour()*60 + t.Minute(), err == nil
}

// String returns the window as ParseWindow reads it.
func (w Window) String() string {
	return fmt.Sprintf("%02d:%02d-%02d:%02d", w.From/60, w.From%60, w.To/60, w.To%60)
}

// Open reports whether one of the windows is open at a time, by the clock on the wall where t is.
func (ws Windows) Open(t time.Time) bool {
	at := t.Hour()*60 + t.Minute()
	for _, w := range ws {
		if w.From < w.To && w.From <= at && at < w.To || w.From > w.To && (w.From <= at || at < w.To) {
			return true
		}
	}
	return len(ws) == 0
}

// Opens returns when a window is open the next time: t itself where one is.
func (ws Windows) Opens(t time.Time) time.Time {
	if ws.Open(t) {
		return t
	}
	var next time.Time
	for day := range 3 { // a time of day that the change to summer time skips comes on the day after
		for _, w := range ws {
			at := time.Date(t.Year(), t.Month(), t.Day()+day, w.From/60, w.From%60, 0, 0, t.Location())
			if at.After(t) && (next.IsZero() || at.Before(next)) {
				next = at
			}
		}
	}
	return next
}
