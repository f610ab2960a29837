package simulate

import (
	"container/list"
	"fmt"

	"github.com/maypok86/otter/v2"

	"firn"
)

func newPolicy(name string, budget, block int64) (policy, error) {
	switch name {
	case "lru":
		return &lru{budget: budget, at: map[blockID]*list.Element{}, order: list.New()}, nil
	case "tinylfu":
		return newTinyLFU(budget)
	case "s3fifo":
		return newS3FIFO(budget, block), nil
	}
	return nil, firn.NewError(firn.Invalid, fmt.Sprintf("there is no policy %q: lru, tinylfu, s3fifo", name))
}

type block struct {
	id   blockID
	size int64
	uses int
	main bool // of s3fifo
}

func blockOf(e *list.Element) *block {
	b, _ := e.Value.(*block) // nothing else is put in
	return b
}

// lru evicts what was not used for the longest time.
type lru struct {
	budget, bytes int64
	at            map[blockID]*list.Element
	order         *list.List // the last used first
}

func (l *lru) held() int64 { return l.bytes }

func (l *lru) has(id blockID) bool { return l.at[id] != nil }

func (l *lru) get(id blockID) bool {
	e := l.at[id]
	if e != nil {
		l.order.MoveToFront(e)
	}
	return e != nil
}

func (l *lru) add(id blockID, size int64) {
	if size > l.budget || l.get(id) {
		return
	}
	for l.bytes+size > l.budget {
		b := blockOf(l.order.Back())
		l.order.Remove(l.order.Back())
		delete(l.at, b.id)
		l.bytes -= b.size
	}
	l.at[id] = l.order.PushFront(&block{id: id, size: size})
	l.bytes += size
}

// tinyLFU is W-TinyLFU as the memory level has it.
type tinyLFU struct{ c *otter.Cache[blockID, int64] }

func newTinyLFU(budget int64) (*tinyLFU, error) {
	// Weights are 32 bits: larger budgets are counted in units of 512 bytes.
	c, err := otter.New(&otter.Options[blockID, int64]{
		MaximumWeight: uint64(budget / 512),
		Weigher:       func(_ blockID, size int64) uint32 { return uint32(max((size+511)/512, 1)) },
		Executor:      func(fn func()) { fn() },
	})
	if err != nil {
		return nil, firn.E("make", "policy tinylfu", err)
	}
	return &tinyLFU{c}, nil
}

func (t *tinyLFU) held() int64 { return int64(t.c.WeightedSize()) * 512 }

func (t *tinyLFU) has(id blockID) bool {
	_, ok := t.c.GetEntryQuietly(id)
	return ok
}

func (t *tinyLFU) get(id blockID) bool {
	_, ok := t.c.GetIfPresent(id)
	return ok
}

func (t *tinyLFU) add(id blockID, size int64) {
	t.c.Set(id, size)
	t.c.CleanUp()
}

// s3fifo is S3-FIFO (Yang, Zhang, Qiu, Yue, Vigfusson: "FIFO queues are all you need for cache eviction", 2023) by
// bytes: new blocks go to a small queue of a tenth, those used there more than once to the main one, the names of the
// others to a ghost queue, whose blocks go to the main one when they come again.
type s3fifo struct {
	budget, small, main int64 // bytes
	smallQ, mainQ       *list.List
	at                  map[blockID]*list.Element
	ghosts              *list.List
	ghostAt             map[blockID]*list.Element
	maxGhosts           int
}

func newS3FIFO(budget, block int64) *s3fifo {
	return &s3fifo{
		budget: budget, smallQ: list.New(), mainQ: list.New(), at: map[blockID]*list.Element{},
		ghosts: list.New(), ghostAt: map[blockID]*list.Element{}, maxGhosts: int(max(budget/block, 16)),
	}
}

func (s *s3fifo) held() int64 { return s.small + s.main }

func (s *s3fifo) has(id blockID) bool { return s.at[id] != nil }

func (s *s3fifo) get(id blockID) bool {
	e := s.at[id]
	if e == nil {
		return false
	}
	b := blockOf(e)
	b.uses = min(b.uses+1, 3)
	return true
}

func (s *s3fifo) add(id blockID, size int64) {
	if size > s.budget || s.get(id) {
		return
	}
	b := &block{id: id, size: size}
	if e := s.ghostAt[id]; e != nil {
		s.ghosts.Remove(e)
		delete(s.ghostAt, id)
		b.main = true
	}
	for s.held()+size > s.budget {
		if s.small > s.budget/10 || s.mainQ.Len() == 0 {
			s.evictSmall()
		} else {
			s.evictMain()
		}
	}
	s.push(b)
}

func (s *s3fifo) push(b *block) {
	if b.main {
		s.at[b.id] = s.mainQ.PushFront(b)
		s.main += b.size
		return
	}
	s.at[b.id] = s.smallQ.PushFront(b)
	s.small += b.size
}

func (s *s3fifo) evictSmall() {
	e := s.smallQ.Back()
	if e == nil {
		return
	}
	b := blockOf(e)
	s.smallQ.Remove(e)
	s.small -= b.size
	if b.uses > 1 {
		b.uses, b.main = 0, true
		s.push(b)
		return
	}
	delete(s.at, b.id)
	s.ghostAt[b.id] = s.ghosts.PushFront(b.id)
	if s.ghosts.Len() > s.maxGhosts {
		id, _ := s.ghosts.Remove(s.ghosts.Back()).(blockID)
		delete(s.ghostAt, id)
	}
}

func (s *s3fifo) evictMain() {
	e := s.mainQ.Back()
	b := blockOf(e)
	if b.uses > 0 {
		b.uses--
		s.mainQ.MoveToFront(e)
		return
	}
	s.mainQ.Remove(e)
	s.main -= b.size
	delete(s.at, b.id)
}
