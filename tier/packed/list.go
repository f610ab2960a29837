package packed

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"

	"firn"
	"firn/blob/driver"
	"firn/repo"
)

// A content is a tree of lists: those of level 0 name chunks of it, those above name lists. Each says how many bytes each of
// what it names has. An empty content is an empty list.
const (
	listVersion = 1
	fanout      = 4096 // entries of a list: chunks of some 4 GiB, and 150 KB
	maxLevel    = 8
	window      = 4 << 20 // bytes that a reader loads at once at least
	windowMost  = 64      // and chunks at most
)

// list is one of them.
type list struct {
	level int
	ids   []repo.ID
	sizes []int64
}

func (l *list) total() (n int64) {
	for _, s := range l.sizes {
		n += s
	}
	return n
}

// encode returns the list as a tree chunk. Its payload is the version, the level and the sizes.
func (l *list) encode() []byte {
	p := []byte{listVersion, byte(l.level)}
	for _, n := range l.sizes {
		p = binary.AppendUvarint(p, uint64(n))
	}
	t := repo.TreeChunk{Data: l.ids, Payload: p}
	if l.level > 0 {
		t.Data, t.Trees = nil, l.ids
	}
	return repo.EncodeTree(nil, t)
}

var errList = firn.NewError(firn.Corrupt, "it is no list of a content's chunks")

func parseList(p []byte) (*list, error) {
	t, err := repo.ParseTree(p)
	if err != nil {
		return nil, err
	}
	p = t.Payload
	if len(p) < 2 || p[0] == 0 {
		return nil, errList
	}
	if p[0] != listVersion {
		return nil, firn.NewError(firn.Unsupported, "a list of a later version of firn: update this one")
	}
	l := &list{level: int(p[1]), ids: t.Data}
	other := t.Trees
	if l.level > 0 {
		l.ids, other = t.Trees, t.Data
	}
	if len(other) > 0 || l.level > maxLevel || len(l.ids) > fanout || l.level > 0 && len(l.ids) == 0 {
		return nil, errList
	}
	p = p[2:]
	var sum int64
	for range l.ids {
		n, k := binary.Uvarint(p)
		if k <= 0 || n == 0 || n > 1<<62 || sum+int64(n) < 0 || l.level == 0 && n > repo.MaxChunk {
			return nil, errList
		}
		sum += int64(n)
		l.sizes = append(l.sizes, int64(n))
		p = p[k:]
	}
	if len(p) > 0 {
		return nil, errList
	}
	l.ids = slices.Clone(l.ids)
	return l, nil
}

// save stores a content and returns the id of its list.
func save(ctx context.Context, r *repo.Repo, to *repo.Session, src driver.Source) (repo.ID, error) {
	rd, err := src.Open()
	if err != nil {
		return repo.ID{}, err
	}
	defer rd.Close()
	c := r.NewChunker(rd)
	defer r.FreeChunker(c)
	b := builder{ctx: ctx, to: to}
	total := int64(0)
	for {
		p, err := c.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return repo.ID{}, err
		}
		total += int64(len(p))
		id, _, err := to.Save(ctx, repo.Data, p)
		if err == nil {
			err = b.add(0, id, int64(len(p)))
		}
		if err != nil {
			return repo.ID{}, err
		}
	}
	if total != src.Size() {
		return repo.ID{}, firn.NewError(firn.Invalid, fmt.Sprintf("the content has %d bytes, not %d", total, src.Size()))
	}
	return b.finish()
}

// builder makes the lists of a content.
type builder struct {
	ctx    context.Context
	to     *repo.Session
	levels []list // those that are being filled
}

func (b *builder) add(level int, id repo.ID, size int64) error {
	if level == len(b.levels) {
		b.levels = append(b.levels, list{level: level})
	}
	if len(b.levels[level].ids) == fanout {
		if _, err := b.flush(level, true); err != nil {
			return err
		}
	}
	l := &b.levels[level]
	l.ids, l.sizes = append(l.ids, id), append(l.sizes, size)
	return nil
}

// flush saves the list of a level, which is empty then; where up is set the one above names it.
func (b *builder) flush(level int, up bool) (repo.ID, error) {
	l := &b.levels[level]
	id, _, err := b.to.Save(b.ctx, repo.Tree, l.encode())
	if err != nil {
		return id, err
	}
	n := l.total()
	l.ids, l.sizes = l.ids[:0], l.sizes[:0]
	if up {
		err = b.add(level+1, id, n)
	}
	return id, err
}

func (b *builder) finish() (repo.ID, error) {
	if len(b.levels) == 0 {
		b.levels = []list{{}}
	}
	for level := 0; ; level++ {
		top := level == len(b.levels)-1
		id, err := b.flush(level, !top)
		if top || err != nil {
			return id, err
		}
	}
}

// cursor goes over the chunks of a content.
type cursor struct {
	ctx   context.Context
	s     *Store
	r     *repo.Repo
	fresh bool // lists are read from the place, not from memory
	stack []position
	skip  int64 // bytes of the next chunk that are before the offset
}

type position struct {
	l *list
	i int
}

// seek goes to the chunk that has the byte at offset, and returns the size of the content.
func (c *cursor) seek(root repo.ID, offset int64) (int64, error) {
	l, err := c.load(root)
	if err != nil {
		return 0, err
	}
	total := l.total()
	for {
		i := 0
		for ; i < len(l.sizes) && offset >= l.sizes[i]; i++ {
			offset -= l.sizes[i]
		}
		if i == len(l.sizes) { // the offset is beyond the end
			c.stack = append(c.stack, position{l, i})
			return total, nil
		}
		if l.level == 0 {
			c.stack = append(c.stack, position{l, i})
			c.skip = offset
			return total, nil
		}
		c.stack = append(c.stack, position{l, i + 1})
		if l, err = c.below(l, i); err != nil {
			return 0, err
		}
	}
}

func (c *cursor) load(id repo.ID) (*list, error) {
	if !c.fresh {
		if l := c.s.remembered(id); l != nil {
			return l, nil
		}
	}
	p, err := c.r.Load(c.ctx, id, nil)
	if err != nil {
		return nil, err
	}
	l, err := parseList(p)
	if err != nil {
		return nil, firn.E("read list", id.String(), err)
	}
	if !c.fresh {
		c.s.remember(id, l)
	}
	return l, nil
}

// below loads a list that another one names.
func (c *cursor) below(l *list, i int) (*list, error) {
	n, err := c.load(l.ids[i])
	if err == nil && (n.level != l.level-1 || n.total() != l.sizes[i]) {
		err = firn.E("read list", l.ids[i].String(), errList)
	}
	return n, c.s.suspect(l.ids[i], err)
}

// next returns the next chunk and its size; io.EOF after the last one.
func (c *cursor) next() (repo.ID, int64, error) {
	for len(c.stack) > 0 {
		p := &c.stack[len(c.stack)-1]
		if p.i == len(p.l.ids) {
			c.stack = c.stack[:len(c.stack)-1]
			continue
		}
		p.i++
		if p.l.level == 0 {
			return p.l.ids[p.i-1], p.l.sizes[p.i-1], nil
		}
		l, err := c.below(p.l, p.i-1)
		if err != nil {
			return repo.ID{}, 0, err
		}
		c.stack = append(c.stack, position{l, 0})
	}
	return repo.ID{}, 0, io.EOF
}

// reader is a content, or a range of one, as a stream. It has the chunks of one window in memory.
type reader struct {
	c    *cursor
	left int64
	bufs [][]byte // chunks that were loaded and not read
	err  error
}

// Read implements io.Reader.
func (r *reader) Read(p []byte) (int, error) {
	if r.err == nil && r.left == 0 {
		return 0, io.EOF
	}
	if r.err == nil && len(r.bufs) == 0 {
		r.err = r.fill()
	}
	if r.err != nil {
		return 0, r.err
	}
	n := copy(p[:min(int64(len(p)), r.left)], r.bufs[0])
	r.left -= int64(n)
	if r.bufs[0] = r.bufs[0][n:]; len(r.bufs[0]) == 0 {
		r.bufs = r.bufs[1:]
	}
	return n, nil
}

// fill loads the next window.
func (r *reader) fill() error {
	c := r.c
	var ids []repo.ID
	var sizes []int64
	for sum := -c.skip; sum < min(window, r.left) && len(ids) < windowMost; {
		id, n, err := c.next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		ids, sizes = append(ids, id), append(sizes, n)
		sum += n
	}
	if len(ids) == 0 {
		return errList
	}
	r.bufs = make([][]byte, len(ids))
	err := c.r.LoadMany(c.ctx, ids, func(i int, p []byte) error {
		if int64(len(p)) != sizes[i] {
			return firn.E("read chunk", ids[i].String(), errList)
		}
		r.bufs[i] = bytes.Clone(p)
		return nil
	})
	if err != nil {
		return c.s.suspect(ids[0], err, ids[1:]...)
	}
	r.bufs[0] = r.bufs[0][c.skip:]
	c.skip = 0
	return nil
}

// Close implements io.Closer.
func (r *reader) Close() error {
	r.err = errClosed
	r.bufs = nil
	return nil
}

var errClosed = errors.New("the reader is closed")

// lists are some that were read lately, of contents that are read in ranges.
type lists struct {
	m     map[repo.ID]*list
	order []repo.ID
	n     int // entries of all
}

const rememberMost = 64 << 10 // entries: some 3 MB

func (s *Store) remembered(id repo.ID) *list {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.mu.lists.m[id]
}

func (s *Store) remember(id repo.ID, l *list) {
	s.mu.Lock()
	defer s.mu.Unlock()
	m := &s.mu.lists
	if m.m == nil {
		m.m = map[repo.ID]*list{}
	}
	if m.m[id] != nil {
		return
	}
	m.m[id] = l
	m.order = append(m.order, id)
	m.n += len(l.ids) + 1
	for m.n > rememberMost {
		m.n -= len(m.m[m.order[0]].ids) + 1
		delete(m.m, m.order[0])
		m.order = m.order[1:]
	}
}

// maxBad bounds the chunks that are looked at again before the next put.
const maxBad = 4096

// suspect notes chunks of which one was found damaged or missing: what is put next must not rely on them unseen. A chunk that
// is missing is damage: its content has a name, and so is to be there.
func (s *Store) suspect(id repo.ID, err error, more ...repo.ID) error {
	k := firn.KindOf(err)
	if err == nil || k != firn.Corrupt && k != firn.NotFound {
		return err
	}
	s.mu.Lock()
	for _, id := range append(more, id) {
		if len(s.mu.bad) < maxBad {
			s.mu.bad[id] = true
		}
	}
	s.mu.Unlock()
	if k == firn.NotFound {
		err = &firn.Error{Kind: firn.Corrupt, Err: err}
	}
	return err
}
