package prefetch

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// name is an object's name taken apart: text, and numbers or times between.
type name struct {
	shape string
	parts []part
	at    []int64 // coordinates: numbers, and times in seconds since 1970 UTC
}

// part is text, or a coordinate.
type part struct {
	text   string
	dim    int   // -1 for text
	width  int   // digits of a number that has leading zeros, else 0
	fields []int // of a time: digits of each of its fields
	seps   []string
	packed string // layout of a time without separators
}

const maxDims = 16

// parseName takes a name apart. Runs of digits are numbers. From a year on, runs with one separator byte between are a
// date and a time as far as they can be ("2026/01/15/10-05-00"); a run of 8, 12 or 14 digits that is a date is one, too
// ("20260115"), with the time in the next run where that has 4 or 6 digits ("20260115T1005").
func parseName(s string) name {
	var n name
	var shape strings.Builder
	text := 0
	for i := 0; i < len(s); {
		if !digit(s[i]) || len(n.at) == maxDims {
			i++
			continue
		}
		p, v, end := coordinate(s, i)
		if end == i { // too many digits for a number
			for i < len(s) && digit(s[i]) {
				i++
			}
			continue
		}
		n.parts = append(n.parts, part{text: s[text:i], dim: -1})
		shape.WriteString(s[text:i])
		p.dim = len(n.at)
		n.parts, n.at = append(n.parts, p), append(n.at, v)
		// Widths are part of the shape: "9" and "09" are counted differently. The digits themselves are not.
		fmt.Fprintf(&shape, "\x00%d%v%s", p.width, p.fields, p.packed)
		for _, sep := range p.seps {
			shape.WriteString("\x00" + sep)
		}
		i, text = end, end
	}
	n.parts = append(n.parts, part{text: s[text:], dim: -1})
	shape.WriteString(s[text:])
	n.shape = shape.String()
	return n
}

func digit(c byte) bool { return c >= '0' && c <= '9' }

func run(s string, i int) int {
	for i < len(s) && digit(s[i]) {
		i++
	}
	return i
}

// coordinate reads the number or time that begins at i and returns where it ends; i where it is none.
func coordinate(s string, i int) (part, int64, int) {
	end := run(s, i)
	if p, v, e, ok := separated(s, i); ok {
		return p, v, e
	}
	// A date, one byte, and a time of day.
	if end-i == 8 && end < len(s) {
		for _, layout := range []string{"20060102x150405", "20060102x1504"} {
			e := run(s, end+1)
			if e-i != len(layout) {
				continue
			}
			if t, err := time.Parse(strings.Replace(layout, "x", "", 1), s[i:end]+s[end+1:e]); err == nil && plausible(t) {
				return part{packed: layout, seps: []string{s[end : end+1]}}, t.Unix(), e
			}
		}
	}
	for _, layout := range []string{"20060102150405", "200601021504", "20060102"} {
		if end-i != len(layout) {
			continue
		}
		if t, err := time.Parse(layout, s[i:end]); err == nil && plausible(t) {
			return part{packed: layout}, t.Unix(), end
		}
	}
	if end-i > 18 {
		return part{}, 0, i
	}
	v, err := strconv.ParseInt(s[i:end], 10, 64)
	if err != nil {
		return part{}, 0, i
	}
	p := part{}
	if s[i] == '0' {
		p.width = end - i
	}
	return p, v, end
}

func plausible(t time.Time) bool { return t.Year() >= 1970 && t.Year() < 2200 }

// separated reads a year and at least month and day after it, and as much of a time of day as follows.
func separated(s string, i int) (p part, v int64, end int, ok bool) {
	least := [6]int{1970, 1, 1, 0, 0, 0}
	most := [6]int{2199, 12, 31, 23, 59, 59}
	f := [6]int{0, 1, 1, 0, 0, 0}
	at, count := i, 0
	for ; count < 6; count++ {
		e := run(s, at)
		want := 2
		if count == 0 {
			want = 4
		}
		if e-at != want {
			break
		}
		x, err := strconv.Atoi(s[at:e])
		if err != nil || x < least[count] || x > most[count] {
			break
		}
		f[count] = x
		if count > 0 {
			p.seps = append(p.seps, s[at-1:at])
		}
		p.fields = append(p.fields, want)
		end = e
		if e+1 >= len(s) || digit(s[e]) {
			count++
			break
		}
		at = e + 1
	}
	if count < 3 {
		return part{}, 0, i, false
	}
	t := time.Date(f[0], time.Month(f[1]), f[2], f[3], f[4], f[5], 0, time.UTC)
	if t.Day() != f[2] { // such as the 31st of February
		return part{}, 0, i, false
	}
	return p, t.Unix(), end, true
}

// with returns the name with other coordinates; ok is false where they cannot be written so.
func (n *name) with(at []int64) (s string, ok bool) {
	var b strings.Builder
	for _, p := range n.parts {
		if p.dim < 0 {
			b.WriteString(p.text)
			continue
		}
		v := at[p.dim]
		switch {
		case p.packed != "" || p.fields != nil:
			t := time.Unix(v, 0).UTC()
			if !plausible(t) || v%p.grain() != 0 {
				return "", false
			}
			writeTime(&b, &p, t)
		case v < 0:
			return "", false
		case p.width > 0:
			d := fmt.Sprintf("%0*d", p.width, v)
			if len(d) != p.width {
				return "", false
			}
			b.WriteString(d)
		default:
			b.WriteString(strconv.FormatInt(v, 10))
		}
	}
	return b.String(), true
}

// grain is the smallest step in seconds that a time as it is written can show.
func (p *part) grain() int64 {
	switch {
	case len(p.fields) == 3 || p.packed == "20060102":
		return 24 * 3600
	case len(p.fields) == 4:
		return 3600
	case len(p.fields) == 5 || strings.HasSuffix(p.packed, "1504"):
		return 60
	}
	return 1
}

func writeTime(b *strings.Builder, p *part, t time.Time) {
	if p.packed != "" {
		s := t.Format(strings.Replace(p.packed, "x", "", 1))
		if len(p.seps) > 0 {
			s = s[:8] + p.seps[0] + s[8:]
		}
		b.WriteString(s)
		return
	}
	f := [6]int{t.Year(), int(t.Month()), t.Day(), t.Hour(), t.Minute(), t.Second()}
	for i, w := range p.fields {
		if i > 0 {
			b.WriteString(p.seps[i-1])
		}
		fmt.Fprintf(b, "%0*d", w, f[i])
	}
}

// words says what a rule does, for people.
func (n *name) words(r *rule) string {
	for _, p := range n.parts {
		if p.dim == r.dim && (p.packed != "" || p.fields != nil) {
			return fmt.Sprintf("the one %s later", time.Duration(r.by)*time.Second)
		}
	}
	return fmt.Sprintf("the one with its number %d raised by %d", r.dim+1, r.by)
}
