package transfer

import (
	"fmt"
	"path"
	"slices"
	"strings"

	"firn"
)

// Filter chooses names by globs. A name is taken where no Include is given or one matches, and no Exclude
// matches. In a glob * and ? stop at a slash and ** does not; a glob without a slash is compared with every
// element of the name, any other with the whole name from its start. A glob that matches a directory matches
// all beneath it.
type Filter struct {
	include, exclude [][]string // elements of each glob
}

// NewFilter checks the globs.
func NewFilter(include, exclude []string) (Filter, error) {
	var f Filter
	for _, set := range []struct {
		globs []string
		to    *[][]string
	}{{include, &f.include}, {exclude, &f.exclude}} {
		for _, g := range set.globs {
			elems := strings.Split(strings.Trim(g, "/"), "/")
			if !strings.Contains(g, "/") {
				elems = []string{"**", g}
			}
			for _, e := range elems {
				if _, err := path.Match(e, ""); err != nil || g == "" {
					return f, &firn.Error{Kind: firn.Invalid, Op: "glob", Subject: g, Err: fmt.Errorf("malformed glob")}
				}
			}
			*set.to = append(*set.to, elems)
		}
	}
	return f, nil
}

// Take reports whether the filter takes a name.
func (f Filter) Take(name string) bool {
	return (len(f.include) == 0 || matchAny(f.include, name)) && !matchAny(f.exclude, name)
}

// prune reports whether nothing beneath a directory can be taken.
func (f Filter) prune(dir string) bool { return matchAny(f.exclude, dir) }

func matchAny(globs [][]string, name string) bool {
	if len(globs) == 0 {
		return false
	}
	elems := strings.Split(name, "/")
	return slices.ContainsFunc(globs, func(g []string) bool { return matchGlob(g, elems) })
}

// matchGlob reports whether glob matches name or one of its leading directories. It is quadratic at worst:
// states holds which lengths of glob the name so far can have used up.
func matchGlob(glob, name []string) bool {
	states := make([]bool, len(glob)+1)
	next := make([]bool, len(glob)+1)
	states[0] = true
	closure := func(s []bool) {
		for i, g := range glob {
			if s[i] && g == "**" {
				s[i+1] = true
			}
		}
	}
	closure(states)
	for _, elem := range name {
		clear(next)
		for i, g := range glob {
			if !states[i] {
				continue
			}
			if g == "**" {
				next[i] = true
			} else if ok, err := path.Match(g, elem); ok && err == nil { // checked by NewFilter
				next[i+1] = true
			}
		}
		closure(next)
		states, next = next, states
		if states[len(glob)] {
			return true
		}
	}
	return false
}
