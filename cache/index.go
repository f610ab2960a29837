package cache

import (
	"cmp"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"firn/vfs"
)

// What the index is charged for in memory, in bytes: an entry with its slots in two slices, and the content it belongs
// to with its slot in the map. TestIndexMemory holds the charges to what the heap says.
const (
	entryCharge   = 128
	contentCharge = 192
)

// segment is one file.
type segment struct {
	number  uint64
	path    string
	file    vfs.File // for reading
	size    int64    // bytes of the file, or that a failed write may have left in it
	oldest  int64    // Unix milliseconds of its oldest block; 0 where it has none
	entries []*entry // in the order of the file, dead ones among them
	readers sync.WaitGroup
}

// entry is one block. What is not atomic is guarded by the index's lock.
type entry struct {
	of      *content
	seg     *segment // nil once it is dropped
	block   int64
	off     int64
	size    int32
	pinned  bool
	hits    atomic.Uint32 // since it was last written, up to maxHits
	expires int64
}

const maxHits = 3

// content is one version of an object.
type content struct {
	object, version string
	next            *content // other versions of the object
	blocks          []*entry // in order of their numbers
}

func (c *content) find(block int64) (int, bool) {
	return slices.BinarySearchFunc(c.blocks, block, func(e *entry, b int64) int { return cmp.Compare(e.block, b) })
}

// index finds blocks. Its caller locks.
type index struct {
	contents map[string]*content // by object
	memory   int64
	blocks   int64
	pinned   int64 // bytes
	pins     []Match
	pinRoom  int64
}

func newIndex(pinRoom int64) *index { return &index{contents: map[string]*content{}, pinRoom: pinRoom} }

func (x *index) content(object, version string) *content {
	for c := x.contents[object]; c != nil; c = c.next {
		if c.version == version {
			return c
		}
	}
	return nil
}

func (x *index) find(k Key) *entry {
	if c := x.content(k.Object, k.Version); c != nil {
		if i, ok := c.find(k.Block); ok {
			return c.blocks[i]
		}
	}
	return nil
}

// insert puts a block in a segment; one of the same key is dropped.
func (x *index) insert(k Key, seg *segment, off int64, size int, expires int64) {
	c := x.content(k.Object, k.Version)
	if c == nil {
		c = &content{object: k.Object, version: k.Version, next: x.contents[k.Object]}
		x.contents[k.Object] = c
		x.memory += contentCharge + int64(len(k.Object)+len(k.Version))
	}
	i, ok := c.find(k.Block)
	if ok {
		// In place, so that c stays if this is its only block.
		x.forget(c.blocks[i])
	} else {
		c.blocks = slices.Insert(c.blocks, i, nil)
	}
	e := &entry{of: c, block: k.Block, size: int32(size), expires: expires}
	c.blocks[i] = e
	x.place(e, seg, off)
	x.blocks++
	x.pin(e)
}

func (x *index) place(e *entry, seg *segment, off int64) {
	e.seg, e.off = seg, off
	seg.entries = append(seg.entries, e)
	x.memory += entryCharge
}

// leave takes all that is left of a segment out. Only now its entries' memory is free, that of dead ones too.
func (x *index) leave(seg *segment) (dropped int) {
	for _, e := range seg.entries {
		if e.seg == seg {
			x.drop(e)
			dropped++
		}
	}
	x.memory -= entryCharge * int64(len(seg.entries))
	seg.entries = nil
	return dropped
}

// forget takes e out of the counts.
func (x *index) forget(e *entry) {
	e.seg = nil
	x.blocks--
	if e.pinned {
		e.pinned = false
		x.pinned -= int64(e.size)
	}
}

// drop takes e out.
func (x *index) drop(e *entry) {
	if e.seg == nil {
		return
	}
	x.forget(e)
	c := e.of
	if i, ok := c.find(e.block); ok && c.blocks[i] == e {
		c.blocks = slices.Delete(c.blocks, i, i+1)
	}
	if len(c.blocks) == 0 {
		x.unlink(c)
	}
}

func (x *index) unlink(c *content) {
	x.memory -= contentCharge + int64(len(c.object)+len(c.version))
	if x.contents[c.object] == c {
		if c.next == nil {
			delete(x.contents, c.object)
		} else {
			x.contents[c.object] = c.next
		}
		return
	}
	for p := x.contents[c.object]; p != nil; p = p.next {
		if p.next == c {
			p.next = c.next
			return
		}
	}
}

// remove drops what m selects.
func (x *index) remove(m Match) {
	chain := func(c *content) {
		for ; c != nil; c = c.next {
			if !m.matches(c.object, c.version) {
				continue
			}
			for _, e := range c.blocks {
				x.forget(e)
			}
			c.blocks = nil
			x.unlink(c)
		}
	}
	if !m.Prefix {
		chain(x.contents[m.Object])
		return
	}
	for _, c := range x.contents {
		chain(c)
	}
}

// pin sets whether e is pinned, as far as there is room for pinned bytes.
func (x *index) pin(e *entry) {
	want := slices.ContainsFunc(x.pins, func(m Match) bool { return m.matches(e.of.object, "") })
	switch {
	case want && !e.pinned && x.pinned+int64(e.size) <= x.pinRoom:
		e.pinned = true
		x.pinned += int64(e.size)
	case !want && e.pinned:
		e.pinned = false
		x.pinned -= int64(e.size)
	}
}

// repin looks at all entries that m selects anew.
func (x *index) repin(m Match) {
	for object, c := range x.contents {
		if !m.matches(object, "") {
			continue
		}
		for ; c != nil; c = c.next {
			for _, e := range c.blocks {
				x.pin(e)
			}
		}
	}
}

func expired(at int64, now time.Time) bool { return at != 0 && now.UnixMilli() >= at }
