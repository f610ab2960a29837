package gitblob

import (
	"cmp"
	"context"
	"slices"
	"sort"
	"strings"

	"firn"
	"firn/blob"
	"firn/internal/gitrepo"
)

// maxBlobs bounds the memory of a catalogue, to about 400 MB.
const maxBlobs = 2_000_000

// piece is one file of the branch.
type piece struct {
	id   gitrepo.ID
	size int64
}

// entry is a blob: one piece, or several in a directory.
type entry struct {
	key    string
	size   int64
	pieces []piece
}

// catalogue is what the branch holds at one commit, in the order of the keys. It never changes.
type catalogue struct {
	head    gitrepo.ID
	entries []entry
}

func readCatalogue(ctx context.Context, repo *gitrepo.Repo, head gitrepo.ID) (*catalogue, error) {
	cat := &catalogue{head: head}
	if head == "" {
		return cat, nil
	}
	last, next := "", 0
	err := repo.Tree(ctx, head, func(e gitrepo.Entry) error {
		key, n, ok := parsePath(e.Path)
		if !ok || e.Mode == gitrepo.Symlink || blob.CheckKey(key) != nil {
			return nil // not ours: it stays, and is not shown
		}
		if n > 0 {
			// Git lists the pieces of a directory in the order of their names.
			if key != last || n != next {
				return firn.NewError(firn.Corrupt, "a piece is missing before "+e.Path)
			}
			b := &cat.entries[len(cat.entries)-1]
			b.pieces = append(b.pieces, piece{e.ID, e.Size})
			b.size += e.Size
		} else {
			if len(cat.entries) == maxBlobs {
				return firn.NewError(firn.Unsupported, "the branch has more than 2,000,000 blobs")
			}
			cat.entries = append(cat.entries, entry{key, e.Size, []piece{{e.ID, e.Size}}})
		}
		last, next = key, n+1
		return nil
	})
	if err != nil {
		return nil, err
	}
	slices.SortFunc(cat.entries, func(a, b entry) int { return strings.Compare(a.key, b.key) })
	return cat, nil
}

// from returns the entries whose key is not below key.
func (c *catalogue) from(key string) []entry {
	return c.entries[sort.Search(len(c.entries), func(i int) bool { return c.entries[i].key >= key }):]
}

func (c *catalogue) get(key string) (entry, bool) {
	if rest := c.from(key); len(rest) > 0 && rest[0].key == key {
		return rest[0], true
	}
	return entry{}, false
}

// overlay is a catalogue with changes on top.
type overlay struct {
	base    *catalogue
	changed map[string]*entry // nil: deleted
	dirs    map[string]int    // how many changed blobs that are there have this as a directory above them
}

func newOverlay(base *catalogue) *overlay {
	return &overlay{base: base, changed: map[string]*entry{}, dirs: map[string]int{}}
}

func (o *overlay) has(key string) bool {
	if e, ok := o.changed[key]; ok {
		return e != nil
	}
	_, ok := o.base.get(key)
	return ok
}

// nested tells whether a blob stands where key needs a directory, or key where there is a directory: Git, like a file
// system, has no room for both.
func (o *overlay) nested(key string) bool {
	for dir := range parents(key) {
		if o.has(dir) {
			return true
		}
	}
	if o.dirs[key] > 0 {
		return true
	}
	for _, e := range o.base.from(key + "/") {
		if !strings.HasPrefix(e.key, key+"/") {
			break
		}
		if _, changed := o.changed[e.key]; !changed {
			return true
		}
	}
	return false
}

func parents(key string) func(func(string) bool) {
	return func(yield func(string) bool) {
		for i := 0; i < len(key); i++ {
			if key[i] == '/' && !yield(key[:i]) {
				return
			}
		}
	}
}

// set records a put, or a delete for a nil entry.
func (o *overlay) set(key string, e *entry) {
	was, now := 0, 0
	if o.changed[key] != nil {
		was = 1
	}
	if e != nil {
		now = 1
	}
	o.changed[key] = e
	if was != now {
		for dir := range parents(key) {
			o.dirs[dir] += now - was
		}
	}
}

// without takes the change of key back and puts what was there before: nothing where changed is false.
func (o *overlay) without(key string, was *entry, changed bool) {
	o.set(key, was)
	if !changed {
		delete(o.changed, key)
	}
}

// merge returns the catalogue with the changes applied.
func (o *overlay) merge(head gitrepo.ID) *catalogue {
	put := make([]entry, 0, len(o.changed))
	for _, e := range o.changed {
		if e != nil {
			put = append(put, *e)
		}
	}
	slices.SortFunc(put, func(a, b entry) int { return cmp.Compare(a.key, b.key) })
	all := make([]entry, 0, len(o.base.entries)+len(put))
	for _, e := range o.base.entries {
		if _, changed := o.changed[e.key]; changed {
			continue
		}
		for len(put) > 0 && put[0].key < e.key {
			all = append(all, put[0])
			put = put[1:]
		}
		all = append(all, e)
	}
	return &catalogue{head: head, entries: append(all, put...)}
}
