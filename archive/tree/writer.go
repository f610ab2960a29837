package tree

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/cespare/xxhash/v2"

	"firn"
	"firn/repo"
)

// Sizes of pages before compression, in bytes. A page ends after an entry whose path says so by its hash, once it has
// minPage bytes, and in any case where it has maxPage: so a page's limits depend on little else than its own content,
// and an insertion moves those of one or two pages. (This is a prolly tree: a B-tree whose splits are content-defined,
// as in Noms.)
const (
	minPage  = 8 << 10
	maxPage  = 128 << 10
	pageMask = 1<<8 - 1 // beyond minPage one entry in 256 ends a page
	refMask  = 1<<6 - 1 // references are fewer and longer
)

// Saver takes the chunks of a tree. repo.Session is one.
type Saver interface {
	Save(ctx context.Context, kind repo.Kind, plain []byte) (id repo.ID, stored int, err error)
}

// Writer makes a tree of a sequence of nodes. It is used by one goroutine.
type Writer struct {
	save   Saver
	levels []*level
	last   string
	buf    []byte
	// Stored counts the bytes that pages added to the repository.
	Stored int64
}

// level collects the page at one height: nodes at 0, references to pages of the level below above it.
type level struct {
	payload []byte
	trees   []repo.ID
	data    []repo.ID
	prev    recent
	first   string
	nodes   uint64
	entries int
	pages   int // written so far
}

// NewWriter returns a Writer that saves its pages with s.
func NewWriter(s Saver) *Writer { return &Writer{save: s, levels: []*level{{}}} }

// Add appends n. Its path must come after that of the node before.
func (w *Writer) Add(ctx context.Context, n *Node) error {
	if !ValidPath(n.Path) || w.last != "" && Compare(w.last, n.Path) >= 0 {
		return &firn.Error{
			Kind: firn.Invalid, Op: "write file tree", Subject: n.Path,
			Err: fmt.Errorf("not a path that can come after %q", w.last),
		}
	}
	if err := n.check(); err != nil {
		return &firn.Error{Kind: firn.Invalid, Op: "write file tree", Subject: n.Path, Err: err}
	}
	w.last = n.Path
	l := w.levels[0]
	if l.entries == 0 {
		l.begin(pageNodes, n.Path)
	}
	l.payload = appendNode(l.payload, &l.prev, n)
	l.data = append(l.data, n.Content.Chunks...)
	if n.Content.List != nil {
		l.trees = append(l.trees, *n.Content.List)
	}
	l.nodes++
	l.entries++
	if l.full(n.Path, pageMask, 0) {
		return w.flush(ctx, 0)
	}
	return nil
}

// check refuses what the reader would refuse.
func (n *Node) check() error {
	c := &n.Content
	switch {
	case !n.Type.valid():
		return errors.New("unknown type")
	case n.Mode > 0o7777 || n.Mtime.Nsec >= 1e9 || n.Ctime.Nsec >= 1e9:
		return errors.New("mode or time out of range")
	case n.Type != File:
		return nil
	case len(c.Inline) > 0 && int64(len(c.Inline)) != n.Stored():
		return errors.New("inline content does not fit the size")
	case len(c.Chunks) > MaxChunks:
		return errors.New("too many chunks without a list")
	case len(c.Chunks) > 1 && len(c.Sizes) != len(c.Chunks):
		return errors.New("chunks without sizes")
	case len(c.Chunks) == 0 && len(c.Inline) == 0 && c.List == nil && n.Stored() != 0 && n.Err == "":
		return errors.New("no content")
	case len(c.Chunks) > 0 && n.Stored() == 0:
		return errors.New("content of an empty file")
	}
	if len(c.Chunks) > 1 {
		var sum int64
		for _, s := range c.Sizes {
			sum += int64(s)
		}
		if sum != n.Stored() {
			return errors.New("chunks do not fit the size")
		}
	}
	return nil
}

func (l *level) begin(kind byte, first string) {
	l.payload = append(l.payload[:0], version, kind)
	l.trees, l.data = l.trees[:0], l.data[:0]
	l.prev, l.first, l.nodes = recent{}, first, 0
}

// full reports whether the page ends after the entry with this path. The height is part of the hash: otherwise each
// end of a page would end the page above too.
func (l *level) full(path string, mask uint64, height int) bool {
	size := len(l.payload) + 32*(len(l.trees)+len(l.data))
	if size >= maxPage {
		return true
	}
	if size < minPage {
		return false
	}
	return (xxhash.Sum64String(path)>>(8*uint(height%8)))&mask == 0
}

// flush writes the page of the level and refers to it in the level above.
func (w *Writer) flush(ctx context.Context, height int) error {
	l := w.levels[height]
	w.buf = repo.EncodeTree(w.buf[:0], repo.TreeChunk{Trees: l.trees, Data: l.data, Payload: l.payload})
	id, stored, err := w.save.Save(ctx, repo.Tree, w.buf)
	if err != nil {
		return err
	}
	w.Stored += int64(stored)
	l.pages++
	l.entries = 0
	if height+1 == len(w.levels) {
		w.levels = append(w.levels, &level{})
	}
	up := w.levels[height+1]
	if up.entries == 0 {
		up.begin(pageRefs, l.first)
	}
	up.payload = appendPath(up.payload, up.prev.path, l.first)
	up.prev.path = l.first
	up.payload = binary.AppendUvarint(up.payload, l.nodes)
	up.trees = append(up.trees, id)
	up.nodes += l.nodes
	up.entries++
	if up.full(l.first, refMask, height+1) && up.entries > 1 {
		return w.flush(ctx, height+1)
	}
	return nil
}

// Finish writes what is left and returns the root.
func (w *Writer) Finish(ctx context.Context) (repo.ID, error) {
	for height := 0; ; height++ {
		l := w.levels[height]
		top := height == len(w.levels)-1
		if top && height > 0 && l.pages == 0 && l.entries == 1 {
			return l.trees[0], nil // one page below: it is the root
		}
		if l.entries == 0 {
			if !top {
				continue // all of it is written and referred to
			}
			if height == 0 {
				l.begin(pageNodes, "") // nothing at all
			}
		}
		if err := w.flush(ctx, height); err != nil {
			return repo.ID{}, err
		}
	}
}
