package config

import (
	"errors"
	"fmt"
	"strings"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
)

// applyFile sets what the file at path says. It walks the parsed tree itself, so that the file goes through
// the same table and the same parsers as flags and variables, and every complaint has a place.
func (e *Effective) applyFile(keys []Key, path string, raw []byte) Problems {
	file, err := parser.ParseBytes(raw, 0)
	if err != nil {
		var y yaml.Error
		if errors.As(err, &y) && y.GetToken() != nil {
			p := y.GetToken().Position
			return Problems{{Where: fmt.Sprintf("%s:%d:%d", path, p.Line, p.Column), What: y.GetMessage()}}
		}
		return Problems{{Where: path, What: err.Error()}}
	}
	w := &walker{e: e, path: path, keys: map[string]Key{}, sections: map[string]bool{}, seen: map[string]bool{}, tierLines: map[string]ast.Node{}, temperatureLines: map[string]ast.Node{}}
	for _, k := range keys {
		w.keys[k.Name] = k
		if section, _, ok := strings.Cut(k.Name, "."); ok {
			w.sections[section] = true
		}
	}
	for i, doc := range file.Docs {
		if doc.Body == nil {
			continue
		}
		if i > 0 {
			w.bad(doc.Body, "", "the file holds more than one document: keep one")
			break
		}
		w.mapping(doc.Body, "")
	}
	w.tierPlaces()
	w.temperatureTiers()
	return w.problems
}

type walker struct {
	e        *Effective
	path     string
	keys     map[string]Key
	sections map[string]bool
	seen     map[string]bool
	problems Problems

	tierLines map[string]ast.Node // names of tiers

	temperatureLines map[string]ast.Node // names of rules by temperature
}

func (w *walker) where(n ast.Node) string {
	if t := n.GetToken(); t != nil && t.Position != nil {
		return fmt.Sprintf("%s:%d:%d", w.path, t.Position.Line, t.Position.Column)
	}
	return w.path
}

func (w *walker) bad(n ast.Node, key, what string) {
	w.problems = append(w.problems, Problem{Where: w.where(n), Key: key, What: what})
}

// mapping applies the entries of n, a section or the whole file.
func (w *walker) mapping(n ast.Node, section string) {
	for _, m := range w.entries(n, section) {
		name, ok := text(m.Key)
		if !ok {
			w.bad(m.Key, section, "want a plain key")
			continue
		}
		full := name
		if section != "" {
			full = section + "." + name
		}
		if w.seen[full] {
			w.bad(m.Key, full, "is set twice: remove one")
			continue
		}
		w.seen[full] = true
		switch k, known := w.keys[full]; {
		case full == placesSection:
			w.places(m.Value)
		case full == tiersSection:
			w.tiers(m.Value)
		case full == temperatureSection:
			w.temperature(m.Value)
		case full == backupsSection:
			w.backups(m.Value)
		case full == edgeRulesSection:
			w.edgeRules(m.Value)
		case known && !strings.Contains(name, "."):
			w.value(k, m)
		case section == "" && w.sections[full]:
			w.mapping(m.Value, full)
		default:
			w.bad(m.Key, "", w.unknown(full, known))
		}
	}
}

// entries are the lines of n, a section or the whole file.
func (w *walker) entries(n ast.Node, section string) []*ast.MappingValueNode {
	switch n := n.(type) {
	case *ast.MappingNode:
		return n.Values
	case *ast.MappingValueNode:
		return []*ast.MappingValueNode{n}
	case *ast.NullNode, *ast.CommentGroupNode:
	default:
		w.bad(n, section, "want lines of the form key: value")
	}
	return nil
}

// unknown words the complaint about a key that does not exist.
func (w *walker) unknown(name string, dotted bool) string {
	if dotted {
		section, key, _ := strings.Cut(name, ".")
		return fmt.Sprintf("write %s nested: %q on one line, %q indented on the next", name, section+":", key+": ...")
	}
	var names []string
	for k := range w.keys {
		names = append(names, k)
	}
	for s := range w.sections {
		names = append(names, s)
	}
	names = append(names, placesSection, tiersSection, temperatureSection, backupsSection, edgeRulesSection)
	msg := fmt.Sprintf("unknown key %q", name)
	if near := nearest(name, names); near != "" {
		return msg + fmt.Sprintf(": did you mean %q?", near)
	}
	return msg + ": see `firn config keys`"
}

func (w *walker) value(k Key, m *ast.MappingValueNode) {
	w.e.From[k.Name] = w.where(m.Value)
	w.scalar(k, m, func(s string) error { return k.Set(&w.e.Config, s) })
}

// scalar reads the value of m for a key and sets it.
func (w *walker) scalar(k Key, m *ast.MappingValueNode, set func(string) error) {
	var value string
	switch n := m.Value.(type) {
	case *ast.SequenceNode:
		if k.Type != "list" {
			w.bad(n, k.Name, "takes one value, not a list")
			return
		}
		items := make([]string, 0, len(n.Values))
		for _, v := range n.Values {
			s, ok := text(v)
			if !ok || strings.Contains(s, ",") {
				w.bad(v, k.Name, "want plain text for each item")
				return
			}
			items = append(items, s)
		}
		value = strings.Join(items, ",")
	case *ast.NullNode:
		w.bad(m.Key, k.Name, "has no value: give one or remove the line")
		return
	default:
		s, ok := text(n)
		if !ok {
			w.bad(n, k.Name, fmt.Sprintf("takes one value (%s)", k.Type))
			return
		}
		value = s
	}
	if err := set(value); err != nil {
		w.bad(m.Value, k.Name, err.Error()+quoteValue(k, value))
	}
}

// text returns a scalar as it was written. Numbers are not interpreted: an access key of digits stays itself.
func text(n ast.Node) (string, bool) {
	switch n := n.(type) {
	case *ast.StringNode:
		return n.Value, true
	case *ast.LiteralNode:
		return n.Value.Value, true
	case *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode:
		return n.GetToken().Value, true
	}
	return "", false
}

// nearest returns the name closest to s, or "" where none is close enough to be meant.
func nearest(s string, names []string) string {
	best, bestDist := "", len(s)/3+1
	for _, n := range names {
		d := distance(s, n, bestDist)
		if d < bestDist || d == bestDist && (best == "" || n < best) {
			best, bestDist = n, d
		}
	}
	if best != "" {
		return best
	}
	// The right name in the wrong place: "keep" for "journal.keep", "level" for "logging.level".
	last := s[strings.LastIndexByte(s, '.')+1:]
	for _, n := range names {
		if strings.HasSuffix(n, "."+last) && (best == "" || n < best) {
			best = n
		}
	}
	return best
}

// distance is the edit distance of a and b (insert, delete, replace, swap neighbours), or more than limit.
func distance(a, b string, limit int) int {
	if d := len(a) - len(b); d > limit || -d > limit {
		return limit + 1
	}
	prev2, prev, cur := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range prev {
		prev[j] = j
	}
	for i := 1; i <= len(a); i++ {
		cur[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			cur[j] = min(prev[j]+1, cur[j-1]+1, prev[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				cur[j] = min(cur[j], prev2[j-2]+1)
			}
		}
		prev2, prev, cur = prev, cur, prev2
	}
	return prev[len(b)]
}
