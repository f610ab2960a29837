package config

import (
	"fmt"
	"slices"
	"strings"

	"github.com/goccy/go-yaml/ast"

	"firn/lifecycle"
)

const temperatureSection = "temperature"

// temperature applies the section temperature: one section a name, each with the keys of TemperatureKeys.
func (w *walker) temperature(n ast.Node) {
	named(w, n, temperatureSection, TemperatureKeys(), DefaultTemperature, func(m *ast.MappingValueNode, full string, t Temperature) {
		t.Name = strings.TrimPrefix(full, temperatureSection+".")
		w.temperatureLines[t.Name] = m.Key
		w.e.Temperature = append(w.e.Temperature, t)
	})
}

// temperatureTiers checks what cannot be before the whole file was read.
func (w *walker) temperatureTiers() {
	for i, t := range w.e.Temperature {
		at, full := w.temperatureLines[t.Name], temperatureSection+"."+t.Name
		for _, k := range []struct{ key, tier string }{{"warm", t.Warm}, {"cold", t.Cold}} {
			if k.tier != "" && w.e.ClassOf(k.tier) == "" {
				w.bad(at, full+"."+k.key, fmt.Sprintf("there is no tier %q: name one of tiers", k.tier))
			}
		}
		switch {
		case t.Warm == "" && t.Cold == "":
			w.bad(at, full, "names no tier: give warm, cold or both")
		case t.Warm == t.Cold:
			w.bad(at, full+".cold", "is the tier of warm: leave one of them out")
		case t.Warm != "" && t.Cold != "" && w.tierPlace(t.Warm) > w.tierPlace(t.Cold):
			w.bad(at, full+".warm", fmt.Sprintf("tier %s stands after tier %s in tiers, which lists the warmest first", t.Warm, t.Cold))
		case t.Pin != "" && t.Pin != "hot" && t.Pin != "warm":
			w.bad(at, full+".pin", fmt.Sprintf("want hot or warm, not %q", t.Pin))
		case t.MinSize < 0:
			w.bad(at, full+".min_size", "must not be negative")
		}
		for _, tag := range t.Tags {
			if name, _, ok := strings.Cut(tag, "="); !ok || name == "" {
				w.bad(at, full+".tags", fmt.Sprintf("want tags such as keep=local, not %q", tag))
			}
		}
		if err := t.Rules().Check(); err != nil {
			w.bad(at, full, err.Error())
		}
		for _, other := range w.e.Temperature[:i] {
			if other.Bucket == t.Bucket && other.Prefix == t.Prefix && slices.Equal(slices.Sorted(slices.Values(other.Tags)), slices.Sorted(slices.Values(t.Tags))) {
				w.bad(at, full, fmt.Sprintf("is for the same bucket, prefix and tags as %s: leave one of them out", other.Name))
			}
		}
	}
}

// tierPlace returns the place of a tier in the file, -1 where there is none of that name.
func (w *walker) tierPlace(name string) int {
	return slices.IndexFunc(w.e.Tiers, func(t Tier) bool { return t.Name == name })
}

// Rules are the numbers of the rule.
func (t *Temperature) Rules() lifecycle.TemperatureRules {
	return lifecycle.TemperatureRules{
		HotAge: t.HotAge.Std(), WarmRead: t.WarmRead.Std(), WarmReads: t.WarmReads, WarmAge: t.WarmAge.Std(),
		MinStay: t.MinStay.Std(), PromoteReads: t.PromoteReads, PromoteWindow: t.PromoteWindow.Std(),
	}
}

// Filter selects what the rule is for in its bucket.
func (t *Temperature) Filter() lifecycle.Filter {
	f := lifecycle.Filter{Prefix: t.Prefix}
	for _, tag := range t.Tags {
		name, value, _ := strings.Cut(tag, "=")
		f.Tags = append(f.Tags, lifecycle.Tag{Name: name, Value: value})
	}
	return f
}

// ClassOf returns the storage class of a tier, "" where there is none of that name.
func (c *Config) ClassOf(tier string) string {
	for _, t := range c.Tiers {
		if t.Name == tier {
			return t.Class
		}
	}
	return ""
}
