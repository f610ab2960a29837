package config

import (
	"fmt"
	"net/url"
	"reflect"
	"strings"

	"github.com/goccy/go-yaml/ast"
)

const placesSection = "places"

// places applies the section places: one section a name, each with the keys of PlaceKeys.
func (w *walker) places(n ast.Node) {
	w.e.Places = named(w, n, placesSection, PlaceKeys(), DefaultPlace, w.checkPlace)
}

// named applies a section of sections, one a name, each with the same keys.
func named[T any](
	w *walker, n ast.Node, section string, keyList []Key, def func() T, check func(*ast.MappingValueNode, string, T),
) map[string]T {
	keys := map[string]Key{}
	var names []string
	for _, k := range keyList {
		keys[k.Name] = k
		names = append(names, k.Name)
	}
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
		for _, f := range w.entries(m.Value, full) {
			key, _ := text(f.Key)
			k, known := keys[key]
			k.Name = full + "." + key
			switch {
			case !known:
				what := fmt.Sprintf("unknown key %q", k.Name)
				if near := nearest(key, names); near != "" {
					what += fmt.Sprintf(": did you mean %q?", full+"."+near)
				}
				w.bad(f.Key, "", what)
				continue
			case w.seen[k.Name]:
				w.bad(f.Key, k.Name, "is set twice: remove one")
				continue
			}
			w.seen[k.Name] = true
			w.scalar(k, f, func(s string) error { return k.set(reflect.ValueOf(&v).Elem(), s) })
		}
		check(m, full, v)
		if all == nil {
			all = map[string]T{}
		}
		all[name] = v
	}
	return all
}

func (w *walker) checkPlace(m *ast.MappingValueNode, full string, p Place) {
	u, err := url.Parse(p.URL)
	switch {
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
	if p.UploadRate < 0 || p.DownloadRate < 0 {
		w.bad(m.Key, full, "rates must not be negative")
	}
}

func hasPassword(u *url.URL) bool {
	_, ok := u.User.Password()
	return ok
}

func notInName(r rune) bool {
	return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && r != '-' && r != '_'
}
