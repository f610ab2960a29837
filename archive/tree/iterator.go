package tree

import (
	"context"
	"fmt"
	"sync"

	"firn"
	"firn/repo"
)

// Loader reads chunks. repo.Repo is one.
type Loader interface {
	Load(ctx context.Context, id repo.ID, buf []byte) ([]byte, error)
	LoadMany(ctx context.Context, ids []repo.ID, fn func(i int, data []byte) error) error
}

// Iterator hands out the nodes of a tree in order. It reads ahead on a goroutine of its own, a bounded number of pages.
type Iterator struct {
	stop  context.CancelFunc
	pages chan []Node
	ended sync.WaitGroup
	err   error // of the goroutine; read after pages was closed

	nodes []Node
	from  string
}

// readAhead is how many pages are loaded at once, and how many batches wait.
const readAhead = 16

// Walk iterates over the nodes that are dir or beneath it; "" stands for all.
func Walk(ctx context.Context, l Loader, root repo.ID, dir string) *Iterator {
	ctx, stop := context.WithCancel(ctx)
	it := &Iterator{stop: stop, pages: make(chan []Node, readAhead), from: dir}
	it.ended.Go(func() {
		defer close(it.pages)
		w := walker{ctx: ctx, l: l, it: it, dir: dir}
		it.err = w.visit([]repo.ID{root}, 0)
	})
	return it
}

// Close ends the iteration and frees what it holds. It may be called more than once.
func (it *Iterator) Close() {
	it.stop()
	it.ended.Wait()
	it.nodes = nil
}

// Next returns the next node, nil at the end. The node stays valid for as long as somebody holds it, and keeps the
// memory of its page.
func (it *Iterator) Next() (*Node, error) {
	for {
		for len(it.nodes) > 0 {
			n := &it.nodes[0]
			it.nodes = it.nodes[1:]
			if Within(n.Path, it.from) {
				return n, nil
			}
		}
		nodes, ok := <-it.pages
		if !ok {
			return nil, it.err
		}
		it.nodes = nodes
	}
}

type walker struct {
	ctx  context.Context
	l    Loader
	it   *Iterator
	dir  string
	last string // path of the last node handed out
}

// visit hands out the nodes beneath the pages with these ids, which are neighbours.
func (w *walker) visit(ids []repo.ID, depth int) error {
	if depth > maxHeight {
		return tooDeep()
	}
	for len(ids) > 0 {
		n := min(len(ids), readAhead)
		pages := make([]*page, n)
		err := w.l.LoadMany(w.ctx, ids[:n], func(i int, data []byte) error {
			// The data is the loader's again afterwards, and nodes point into theirs for long.
			p, err := parsePage(append([]byte(nil), data...))
			pages[i] = p
			return err
		})
		if err != nil {
			return err
		}
		ids = ids[n:]
		for i, p := range pages {
			pages[i] = nil
			if err := w.page(p, depth); err != nil {
				return err
			}
		}
	}
	return nil
}

func (w *walker) page(p *page, depth int) error {
	switch p.kind {
	case pageNodes:
		if len(p.nodes) == 0 {
			return nil
		}
		if first := p.nodes[0].Path; w.last != "" && Compare(w.last, first) >= 0 {
			return &firn.Error{Kind: firn.Corrupt, Op: "read file tree", Subject: first, Err: fmt.Errorf("pages out of order")}
		}
		w.last = p.nodes[len(p.nodes)-1].Path
		select {
		case w.it.pages <- p.nodes:
			return nil
		case <-w.ctx.Done():
			return w.ctx.Err()
		}
	case pageRefs:
		return w.visit(w.wanted(p.refs), depth+1)
	default:
		return &firn.Error{Kind: firn.Corrupt, Op: "read file tree", Err: fmt.Errorf("a page of kind %d among those of nodes", p.kind)}
	}
}

// wanted returns the pages that can hold something of w.dir.
func (w *walker) wanted(refs []ref) []repo.ID {
	var ids []repo.ID
	for i, r := range refs {
		// The page holds paths from r.first up to the next page's.
		if i+1 < len(refs) && w.dir != "" && Compare(refs[i+1].first, w.dir) <= 0 {
			continue
		}
		if w.dir != "" && Compare(r.first, w.dir) > 0 && !Within(r.first, w.dir) {
			break
		}
		ids = append(ids, r.id)
	}
	return ids
}

// Find returns the node at path, firn.NotFound where there is none.
func Find(ctx context.Context, l Loader, root repo.ID, path string) (*Node, error) {
	it := Walk(ctx, l, root, path)
	defer it.Close()
	n, err := it.Next()
	if err == nil && (n == nil || n.Path != path) {
		err = &firn.Error{Kind: firn.NotFound, Op: "find in snapshot", Subject: "/" + path}
	}
	if err != nil {
		return nil, err
	}
	return n, nil
}
