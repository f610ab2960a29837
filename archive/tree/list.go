package tree

import (
	"context"
	"encoding/binary"
	"fmt"

	"firn"
	"firn/repo"
)

// Lists of chunks are cut as pages are: after a chunk whose id says so.
const (
	minList  = 128
	maxList  = 2048
	listMask = 1<<9 - 1
)

// ListWriter collects the chunks of one file.
type ListWriter struct {
	save   Saver
	ids    []repo.ID
	sizes  []uint32
	levels []*listLevel
	buf    []byte
}

type listLevel struct {
	ids   []repo.ID
	sizes []int64
}

// NewListWriter returns a ListWriter that saves its pages, if any are needed, with s.
func NewListWriter(s Saver) *ListWriter { return &ListWriter{save: s} }

// Add appends a chunk of size bytes.
func (w *ListWriter) Add(ctx context.Context, id repo.ID, size int) error {
	if len(w.levels) == 0 && len(w.ids) < MaxChunks {
		w.ids, w.sizes = append(w.ids, id), append(w.sizes, uint32(size))
		return nil
	}
	if len(w.levels) == 0 {
		for i := range w.ids {
			if err := w.add(ctx, 0, w.ids[i], int64(w.sizes[i])); err != nil {
				return err
			}
		}
		w.ids, w.sizes = nil, nil
	}
	return w.add(ctx, 0, id, int64(size))
}

func (w *ListWriter) add(ctx context.Context, height int, id repo.ID, size int64) error {
	if height == len(w.levels) {
		w.levels = append(w.levels, &listLevel{})
	}
	l := w.levels[height]
	l.ids, l.sizes = append(l.ids, id), append(l.sizes, size)
	n := len(l.ids)
	if n >= maxList || n >= minList && binary.LittleEndian.Uint64(id[:])&listMask == 0 {
		return w.flush(ctx, height)
	}
	return nil
}

func (w *ListWriter) flush(ctx context.Context, height int) error {
	id, size, err := w.write(ctx, height)
	if err != nil {
		return err
	}
	return w.add(ctx, height+1, id, size)
}

// write saves the page of the level, which is then empty.
func (w *ListWriter) write(ctx context.Context, height int) (repo.ID, int64, error) {
	l := w.levels[height]
	t := repo.TreeChunk{Payload: []byte{version, pageLists}}
	if height == 0 {
		t.Payload[1], t.Data = pageList, l.ids
	} else {
		t.Trees = l.ids
	}
	var total int64
	for _, s := range l.sizes {
		t.Payload = binary.AppendUvarint(t.Payload, uint64(s))
		total += s
	}
	w.buf = repo.EncodeTree(w.buf[:0], t)
	id, _, err := w.save.Save(ctx, repo.Tree, w.buf)
	l.ids, l.sizes = l.ids[:0], l.sizes[:0]
	return id, total, err
}

// Finish returns where the content is.
func (w *ListWriter) Finish(ctx context.Context) (Content, error) {
	if len(w.levels) == 0 {
		c := Content{Chunks: w.ids}
		if len(w.ids) > 1 {
			c.Sizes = w.sizes
		}
		return c, nil
	}
	for height := 0; ; height++ {
		l := w.levels[height]
		if len(l.ids) == 0 {
			continue // a level above refers to what was written
		}
		if height == len(w.levels)-1 && len(l.ids) == 1 && height > 0 {
			root := l.ids[0]
			return Content{List: &root}, nil
		}
		if err := w.flush(ctx, height); err != nil {
			return Content{}, err
		}
	}
}

// Chunks calls fn for each chunk of n's content in order, with its offset among the stored bytes and its size.
// Inline content has none.
func Chunks(ctx context.Context, l Loader, n *Node, fn func(id repo.ID, offset, size int64) error) error {
	var offset int64
	if n.Content.List != nil {
		if err := chunksOf(ctx, l, *n.Content.List, 0, &offset, fn); err != nil {
			return err
		}
	} else {
		for i, id := range n.Content.Chunks {
			size := n.Stored()
			if n.Content.Sizes != nil {
				size = int64(n.Content.Sizes[i])
			}
			if err := fn(id, offset, size); err != nil {
				return err
			}
			offset += size
		}
		if len(n.Content.Chunks) == 0 {
			return nil
		}
	}
	if offset != n.Stored() {
		return &firn.Error{
			Kind: firn.Corrupt, Op: "read file tree", Subject: n.Path,
			Err: fmt.Errorf("its list has chunks of %d bytes, it has %d", offset, n.Stored()),
		}
	}
	return nil
}

// maxHeight bounds the recursion of a reader: no tree of this writer comes near.
const maxHeight = 32

func chunksOf(
	ctx context.Context, l Loader, root repo.ID, depth int, offset *int64, fn func(repo.ID, int64, int64) error,
) error {
	if depth > maxHeight {
		return tooDeep()
	}
	plain, err := l.Load(ctx, root, nil)
	if err != nil {
		return err
	}
	p, err := parsePage(plain)
	if err != nil {
		return err
	}
	for i, id := range p.ids {
		switch p.kind {
		case pageList:
			if err = fn(id, *offset, p.sizes[i]); err == nil {
				*offset += p.sizes[i]
			}
		case pageLists:
			err = chunksOf(ctx, l, id, depth+1, offset, fn)
		}
		if err != nil {
			return err
		}
	}
	if p.kind != pageList && p.kind != pageLists {
		return &firn.Error{Kind: firn.Corrupt, Op: "read file tree", Err: fmt.Errorf("a list is a page of kind %d", p.kind)}
	}
	return nil
}

func tooDeep() error {
	return &firn.Error{Kind: firn.Corrupt, Op: "read file tree", Err: fmt.Errorf("it is deeper than %d pages", maxHeight)}
}

// Pages calls fn for each page and each chunk that a list refers to, and for its root.
func Pages(ctx context.Context, l Loader, root repo.ID, fn func(repo.ID)) error {
	return pagesOf(ctx, l, root, 0, fn)
}

func pagesOf(ctx context.Context, l Loader, root repo.ID, depth int, fn func(repo.ID)) error {
	if depth > maxHeight {
		return tooDeep()
	}
	fn(root)
	plain, err := l.Load(ctx, root, nil)
	if err != nil {
		return err
	}
	p, err := parsePage(plain)
	if err != nil {
		return err
	}
	for _, id := range p.ids {
		if p.kind == pageList {
			fn(id)
		} else if err := pagesOf(ctx, l, id, depth+1, fn); err != nil {
			return err
		}
	}
	return nil
}
