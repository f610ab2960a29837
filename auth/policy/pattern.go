package policy

import (
	"strings"
	"unicode/utf8"
)

// pattern is a string with the wildcards * and ? and, in documents of version 2012-10-17, variables.
type pattern struct {
	text  string // as written
	parts []part
	vars  bool
}

type part struct {
	kind     partKind
	text     string // literal; or a variable's key
	fallback string // a variable's default
	hasFall  bool
}

type partKind uint8

const (
	literal partKind = iota
	star
	question
	variable
)

// parsePattern takes s apart. With vars, ${key}, ${key, 'default'} and the escapes ${*}, ${?}, ${$} count;
// with wild, * and ?. ok is false for a variable that is not closed or empty.
func parsePattern(s string, wild, vars bool) (p pattern, ok bool) {
	p.text = s
	lit := func(t string) {
		if n := len(p.parts); n > 0 && p.parts[n-1].kind == literal {
			p.parts[n-1].text += t
		} else if t != "" {
			p.parts = append(p.parts, part{kind: literal, text: t})
		}
	}
	for s != "" {
		switch {
		case wild && s[0] == '*':
			if n := len(p.parts); n == 0 || p.parts[n-1].kind != star {
				p.parts = append(p.parts, part{kind: star})
			}
			s = s[1:]
		case wild && s[0] == '?':
			p.parts = append(p.parts, part{kind: question})
			s = s[1:]
		case vars && strings.HasPrefix(s, "${"):
			end := strings.IndexByte(s, '}')
			if end < 0 {
				return p, false
			}
			name := s[2:end]
			s = s[end+1:]
			if name == "*" || name == "?" || name == "$" {
				lit(name)
				continue
			}
			v := part{kind: variable}
			key, def, has := strings.Cut(name, ",")
			if has {
				def = strings.TrimSpace(def)
				if len(def) < 2 || def[0] != '\'' || def[len(def)-1] != '\'' {
					return p, false
				}
				v.fallback, v.hasFall = def[1:len(def)-1], true
			}
			if v.text = normalKey(strings.TrimSpace(key)); v.text == "" {
				return p, false
			}
			p.parts = append(p.parts, v)
			p.vars = true
		default:
			end := len(s)
			for i := 1; i < len(s); i++ {
				if wild && (s[i] == '*' || s[i] == '?') || vars && strings.HasPrefix(s[i:], "${") {
					end = i
					break
				}
			}
			lit(s[:end])
			s = s[end:]
		}
	}
	return p, true
}

// fixed reports whether the pattern stands for one string only.
func (p *pattern) fixed() bool {
	return len(p.parts) == 0 || len(p.parts) == 1 && p.parts[0].kind == literal
}

// match reports whether s matches, with variables taken from look. A variable the request does not have
// matches nothing. fold ignores case.
func (p *pattern) match(s string, look Lookup, fold bool) bool {
	parts := p.parts
	if p.vars {
		parts = make([]part, len(p.parts))
		for i, v := range p.parts {
			if v.kind == variable {
				value, ok := v.fallback, v.hasFall
				if look != nil {
					if vs, has := look(v.text); has && len(vs) == 1 {
						value, ok = vs[0], true
					}
				}
				if !ok {
					return false
				}
				v = part{kind: literal, text: value}
			}
			parts[i] = v
		}
	}
	return matchParts(parts, s, fold)
}

// matchParts matches from the left and, on a mismatch, lets the last star take one more character; no
// earlier star needs to be looked at again, so time is bounded by the product of the lengths.
func matchParts(parts []part, s string, fold bool) bool {
	i, rest := 0, s
	starAt, starRest := -1, ""
	for {
		if i < len(parts) && parts[i].kind == star {
			if i == len(parts)-1 {
				return true
			}
			if next := &parts[i+1]; next.kind == literal && !fold {
				j := strings.Index(rest, next.text)
				if j < 0 {
					return false
				}
				rest = rest[j:]
			}
			starAt, starRest = i, rest
			i++
			continue
		}
		ok := false
		if i == len(parts) {
			if rest == "" {
				return true
			}
		} else {
			var n int
			if n, ok = parts[i].take(rest, fold); ok {
				rest = rest[n:]
				i++
			}
		}
		if ok {
			continue
		}
		if starAt < 0 || starRest == "" {
			return false
		}
		_, n := utf8.DecodeRuneInString(starRest)
		i, rest = starAt, starRest[n:]
	}
}

// take returns how many bytes at the start of s a literal or a question mark matches.
func (p *part) take(s string, fold bool) (int, bool) {
	if p.kind == question {
		_, n := utf8.DecodeRuneInString(s)
		return n, n > 0
	}
	if !fold {
		return len(p.text), strings.HasPrefix(s, p.text)
	}
	// Characters of different case may differ in length.
	n := 0
	for range utf8.RuneCountInString(p.text) {
		_, m := utf8.DecodeRuneInString(s[n:])
		n += m
	}
	return n, strings.EqualFold(s[:n], p.text)
}

// normalKey lowers a condition key up to its first slash; what follows names a tag, where case counts.
func normalKey(k string) string {
	if i := strings.IndexByte(k, '/'); i >= 0 {
		return strings.ToLower(k[:i]) + k[i:]
	}
	return strings.ToLower(k)
}
