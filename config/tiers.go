package config

import (
	"fmt"
	"net/url"
	"strconv"
	"strings"

	"github.com/goccy/go-yaml/ast"
)

const tiersSection = "tiers"

// tiers applies the section tiers: one section a name, each with the keys of TierKeys, in the order of the file.
func (w *walker) tiers(n ast.Node) {
	named(w, n, tiersSection, TierKeys(), DefaultTier, func(m *ast.MappingValueNode, full string, t Tier) {
		t.Name = strings.TrimPrefix(full, tiersSection+".")
		if t.Class == "" {
			t.Class = strings.ReplaceAll(strings.ToUpper(t.Name), "-", "_")
		}
		w.checkTier(m, full, t)
		w.tierLines[t.Name] = m.Key
		w.e.Tiers = append(w.e.Tiers, t)
	})
}

func (w *walker) checkTier(m *ast.MappingValueNode, full string, t Tier) {
	u, err := url.Parse(t.URL)
	switch {
	case t.URL == "":
		w.bad(m.Key, full, "has no url: give one, such as file:/mnt/nas/tier, or place:NAME")
	case err != nil || u.Scheme == "":
		w.bad(m.Key, full+".url", "want a URL such as file:/mnt/nas/tier or s3://bucket/prefix, or place:NAME")
	case hasPassword(u):
		w.bad(m.Key, full+".url", "has a password, which commands would show: make it one of places, with a credentials file, and give place:NAME")
	}
	for _, other := range w.e.Tiers {
		switch {
		case other.Class == t.Class:
			w.bad(m.Key, full+".class", fmt.Sprintf("%s is the class of tier %s too: give each its own", t.Class, other.Name))
		case t.URL != "" && strings.TrimRight(other.URL, "/") == strings.TrimRight(t.URL, "/"):
			w.bad(m.Key, full+".url", fmt.Sprintf("is the place of tier %s too: give each a directory, bucket or prefix of its own", other.Name))
		}
	}
	switch {
	case t.Class == "STANDARD" || t.Class == "":
		w.bad(m.Key, full+".class", "STANDARD is the class of what is in the data directory: choose another")
	case len(t.Class) > 64 || strings.ContainsFunc(t.Class, notInClass):
		w.bad(m.Key, full+".class", fmt.Sprintf("want capitals, digits and _, 64 at most, not %q", t.Class))
	}
	switch t.Layout {
	case LayoutPlain:
		if t.PasswordFile != "" || t.PasswordCommand != "" {
			w.bad(m.Key, full, "a password is for layout: repository; plain encrypts nothing")
		}
	case LayoutRepository:
		if (t.PasswordFile == "") == (t.PasswordCommand == "") {
			w.bad(m.Key, full, "layout repository needs password_file or password_command, one of them")
		}
	default:
		w.bad(m.Key, full+".layout", fmt.Sprintf("want plain or repository, not %q", t.Layout))
	}
	if t.KeepLocal < 0 {
		w.bad(m.Key, full+".keep_local", "must not be negative")
	}
	if t.MaxBytes < 0 {
		w.bad(m.Key, full+".max_bytes", "must not be negative")
	}
	if c, err := strconv.ParseFloat(t.Cost, 64); t.Cost != "" && (err != nil || !(c >= 0 && c < 1e12)) {
		w.bad(m.Key, full+".cost", fmt.Sprintf("want a number, 0 or more, such as 3.99, not %q", t.Cost))
	}
}

// PerTBMonth is Cost as a number; 0 where none is given.
func (t *Tier) PerTBMonth() float64 {
	c, err := strconv.ParseFloat(t.Cost, 64)
	if err != nil {
		return 0
	}
	return c
}

// tierPlaces checks what cannot be before the whole file was read.
func (w *walker) tierPlaces() {
	for _, t := range w.e.Tiers {
		rest, named := strings.CutPrefix(t.URL, "place:")
		place, _, _ := strings.Cut(rest, "/")
		if _, ok := w.e.Places[place]; named && !ok {
			w.bad(w.tierLines[t.Name], tiersSection+"."+t.Name+".url", fmt.Sprintf("there is no place %q: name one of places", place))
		}
	}
}

func notInClass(r rune) bool { return (r < 'A' || r > 'Z') && (r < '0' || r > '9') && r != '_' }
