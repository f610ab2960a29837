package config

import (
	"fmt"
	"maps"
	"net/url"
	"reflect"
	"slices"
	"strings"

	"github.com/goccy/go-yaml/ast"
)

const placesSection = "places"

// places applies the section places: one section a name, each with the keys of PlaceKeys.
func (w *walker) places(n ast.Node) {
	lines := map[string]ast.Node{}
	w.e.Places = named(w, n, placesSection, PlaceKeys(), DefaultPlace, func(m *ast.MappingValueNode, full string, p Place) {
		w.checkPlace(m, full, p)
		lines[strings.TrimPrefix(full, placesSection+".")] = m.Key
	})
	w.mirrors(lines)
}

// named applies a section of sections, one a name, each with the same keys.
func named[T any](
	w *walker, n ast.Node, section string, keyList []Key, def func() T, check func(*ast.MappingValueNode, string, T),
) map[string]T {
	var all map[string]T
	for _, m := range w.entries(n, section) {
		name, ok := text(m.Key)
		full := section + "." + name
		switch {
		case !ok || name == "" || strings.ContainsFunc(name, notInName):
			w.bad(m.Key, section, "want a name of letters, digits, - and _ for each "+strings.TrimSuffix(section, "s"))
			continue
		case w.seen[full]:
			w.bad(m.Key, full, "is set twice: remove one")
			continue
		}
		w.seen[full] = true
		v := def()
		w.fields(m.Value, full, "", keyList, reflect.ValueOf(&v).Elem())
		check(m, full, v)
		if all == nil {
			all = map[string]T{}
		}
		all[name] = v
	}
	return all
}

// fields applies a section of keys to v. Names of keys below a section of their own have a dot; below is what stands
// before the keys of n.
func (w *walker) fields(n ast.Node, full, below string, keys []Key, v reflect.Value) {
	var names []string
	for _, k := range keys {
		names = append(names, k.Name)
	}
	for _, f := range w.entries(n, full) {
		key, _ := text(f.Key)
		name := full + "." + key
		at := slices.IndexFunc(keys, func(k Key) bool { return k.Name == below+key })
		section := slices.ContainsFunc(keys, func(k Key) bool { return strings.HasPrefix(k.Name, below+key+".") })
		switch {
		case at < 0 && !section || strings.Contains(key, "."):
			what := fmt.Sprintf("unknown key %q", name)
			if near := nearest(below+key, names); near != "" {
				what += fmt.Sprintf(": did you mean %q?", strings.TrimSuffix(full, "."+strings.TrimSuffix(below, "."))+"."+near)
			}
			w.bad(f.Key, "", what)
			continue
		case w.seen[name]:
			w.bad(f.Key, name, "is set twice: remove one")
			continue
		}
		w.seen[name] = true
		if section {
			w.fields(f.Value, name, below+key+".", keys, v)
			continue
		}
		k := keys[at]
		k.Name = name
		w.scalar(k, f, func(s string) error { return k.set(v, s) })
	}
}

// mirrors complains about mirrors of places that are not there, and of themselves.
func (w *walker) mirrors(lines map[string]ast.Node) {
	for _, name := range slices.Sorted(maps.Keys(lines)) {
		full := placesSection + "." + name + ".mirror"
		for _, member := range w.e.Places[name].Mirror {
			if _, ok := w.e.Places[member]; !ok {
				w.bad(lines[name], full, fmt.Sprintf("there is no place %q: name places of the configuration", member))
			}
		}
		if w.contains(name, name, map[string]bool{}) {
			w.bad(lines[name], full, "contains itself: a mirror is of other places")
		}
	}
}

// contains reports whether the mirror at has the place name among its members, and theirs.
func (w *walker) contains(at, name string, seen map[string]bool) bool {
	return slices.ContainsFunc(w.e.Places[at].Mirror, func(member string) bool {
		if member == name || seen[member] {
			return member == name
		}
		seen[member] = true
		return w.contains(member, name, seen)
	})
}

func (w *walker) checkPlace(m *ast.MappingValueNode, full string, p Place) {
	u, err := url.Parse(p.URL)
	switch {
	case p.Mirror != nil && p.URL != "":
		w.bad(m.Key, full, "has url and mirror: give one of them")
	case p.Mirror != nil && !several(p.Mirror):
		w.bad(m.Key, full+".mirror", "want the names of two places or more, each once")
	case p.MirrorWrites < 0 || p.MirrorWrites == 1 || p.MirrorWrites > len(p.Mirror):
		// With 1 a mirror of which a place is lost could never be opened again: what that one alone knew is unknown.
		w.bad(m.Key, full+".mirror_writes", "want 2 to the number of places in mirror, or 0 for all")
	case p.Mirror != nil:
	case p.URL == "":
		w.bad(m.Key, full, "has no url: give one, such as file:/srv/backups")
	case err != nil || u.Scheme == "":
		w.bad(m.Key, full+".url", "want a URL such as file:/srv/backups or s3://bucket/prefix")
	case hasPassword(u):
		w.bad(m.Key, full+".url", "has a password, which commands would show: put it into the credentials file")
	case u.Scheme == "place":
		w.bad(m.Key, full+".url", "a place cannot stand for another")
	}
	if p.Encrypt && p.Credentials == "" {
		w.bad(m.Key, full+".encrypt", "needs a credentials file with encryption_password")
	}
	if (p.Cache.Dir == "") != (p.Cache.Size == 0) || p.Cache.Dir != "" && p.Cache.Size < 2*mib {
		w.bad(m.Key, full+".cache", "needs dir, and size of 2MiB or more")
	}
	if p.UploadRate < 0 || p.DownloadRate < 0 {
		w.bad(m.Key, full, "rates must not be negative")
	}
}

// several reports whether these are two names or more, and none of them twice.
func several(names []string) bool {
	return len(names) > 1 && len(slices.Compact(slices.Sorted(slices.Values(names)))) == len(names)
}

func hasPassword(u *url.URL) bool {
	_, ok := u.User.Password()
	return ok
}

func notInName(r rune) bool {
	return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && r != '-' && r != '_'
}
