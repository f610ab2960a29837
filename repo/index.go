package repo

import (
	"encoding/binary"
	"slices"
	"sync"

	"firn/seal"
)

// index knows in which packs each chunk is, in memory: 48 bytes a chunk and pack and 5 to 11 for finding it, without
// pointers, so that the garbage collector does not look into it.
//
// All packs of a chunk are known, and all files that name a pack: index files come and go one by one, and a file that
// stays is not read again when another one goes that had the same chunk or pack.
type index struct {
	mu     sync.RWMutex
	packs  []packInfo
	byID   map[ID]uint32
	also   map[uint32][]uint32 // index files that name a pack besides packInfo.file, where there are any
	doomed map[ID]packState    // packDoomed, or packGone for what was deleted and may yet be named

	shards [shards]shard
}

const (
	shards    = 64
	blockSize = 512 // entries that are allocated at once
)

type shard struct {
	mu     sync.RWMutex
	slots  []uint32 // 0 is free, else the number of an entry plus 1; a power of two long
	blocks []*[blockSize]located
	n      int
}

// located is a chunk and one place where it is.
type located struct {
	id   ID
	pack uint32
	off  uint32
	// stored and plain are as in entry.
	stored, plain uint32
}

// packInfo is a pack.
type packInfo struct {
	id    ID
	salt  [seal.SaltSize]byte
	file  uint32 // number of an index file that names it, or noFile
	size  uint32
	kind  Kind
	state packState
}

type packState uint8

const (
	// packGone: no index file names it any more. Its chunks are not there.
	packGone packState = 1 << iota
	// packDoomed: a prune will delete it. Its chunks can be read, and are saved again by those who need them.
	packDoomed
	// packOurs: being filled or stored by this process, or stored and not named by an index file yet. Its chunks are
	// known to the session that fills it.
	packOurs
	// packStored: can be read.
	packStored
)

const noFile = ^uint32(0)

func newIndex() *index {
	return &index{byID: map[ID]uint32{}, also: map[uint32][]uint32{}, doomed: map[ID]packState{}}
}

func (x *index) shard(id ID) *shard { return &x.shards[id[0]%shards] }

// find returns the first entry of id or nil, and the slot where it is or would be. The shard is locked.
func (s *shard) find(id ID) (*located, int) {
	if len(s.slots) == 0 {
		return nil, -1
	}
	// Ids are keyed hashes: nobody without the key can make them collide.
	return s.probe(id, int(binary.LittleEndian.Uint64(id[8:]))&(len(s.slots)-1))
}

// next is find after an entry of id that is in slot i.
func (s *shard) next(id ID, i int) (*located, int) { return s.probe(id, (i+1)&(len(s.slots)-1)) }

func (s *shard) probe(id ID, i int) (*located, int) {
	for {
		n := s.slots[i]
		if n == 0 {
			return nil, i
		}
		if e := s.entry(n - 1); e.id == id {
			return e, i
		}
		i = (i + 1) & (len(s.slots) - 1)
	}
}

func (s *shard) entry(n uint32) *located { return &s.blocks[n/blockSize][n%blockSize] }

// insert adds an entry for id, after those it has; slot is the free one that was found.
func (s *shard) insert(id ID, slot int) *located {
	if s.n >= len(s.slots)/4*3 {
		s.grow()
		var e *located
		for e, slot = s.find(id); e != nil; e, slot = s.next(id, slot) {
		}
	}
	if s.n%blockSize == 0 {
		s.blocks = append(s.blocks, new([blockSize]located))
	}
	e := s.entry(uint32(s.n))
	e.id = id
	s.n++
	s.slots[slot] = uint32(s.n)
	return e
}

func (s *shard) grow() {
	s.slots = make([]uint32, max(64, 2*len(s.slots)))
	m := len(s.slots) - 1
	for n := range s.n {
		i := int(binary.LittleEndian.Uint64(s.entry(uint32(n)).id[8:])) & m
		for s.slots[i] != 0 {
			i = (i + 1) & m
		}
		s.slots[i] = uint32(n) + 1
	}
}

func (x *index) state(pack uint32) packState {
	x.mu.RLock()
	defer x.mu.RUnlock()
	return x.packs[pack].state
}

// usable reports whether a chunk in a pack of state s need not be saved again.
func (s packState) usable() bool { return s&(packGone|packDoomed) == 0 }

// has reports whether id is stored, or about to be by the running session, in a pack that stays.
func (x *index) has(id ID) bool {
	s := x.shard(id)
	s.mu.RLock()
	defer s.mu.RUnlock()
	for e, i := s.find(id); e != nil; e, i = s.next(id, i) {
		if x.state(e.pack).usable() {
			return true
		}
	}
	return false
}

// claim makes id the caller's to save, in the pack numbered by, unless it is known.
func (x *index) claim(id ID, by uint32) bool {
	s := x.shard(id)
	s.mu.Lock()
	defer s.mu.Unlock()
	var free *located
	e, i := s.find(id)
	for ; e != nil; e, i = s.next(id, i) {
		state := x.state(e.pack)
		if state.usable() {
			return false
		}
		if state&packGone != 0 {
			free = e
		}
	}
	if free == nil {
		free = s.insert(id, i)
	}
	*free = located{id: id, pack: by}
	return true
}

// put adds a place where a chunk is.
func (x *index) put(l located) {
	s := x.shard(l.id)
	s.mu.Lock()
	defer s.mu.Unlock()
	var free *located
	e, i := s.find(l.id)
	for ; e != nil; e, i = s.next(l.id, i) {
		if e.pack == l.pack {
			*e = l
			return
		}
		if x.state(e.pack)&packGone != 0 {
			free = e
		}
	}
	if free == nil {
		free = s.insert(l.id, i)
	}
	*free = l
}

// place sets where a chunk is that was claimed for the pack numbered by.
func (x *index) place(l located, by uint32) {
	s := x.shard(l.id)
	s.mu.Lock()
	defer s.mu.Unlock()
	for e, i := s.find(l.id); e != nil; e, i = s.next(l.id, i) {
		if e.pack == by {
			*e = l
			return
		}
	}
}

// get returns where a chunk is that can be read, packs in not left out: in one that stays if there is one.
func (x *index) get(id ID, not map[uint32]bool) (best located, pack packInfo, ok bool) {
	s := x.shard(id)
	s.mu.RLock()
	defer s.mu.RUnlock()
	for e, i := s.find(id); e != nil; e, i = s.next(id, i) {
		p := x.pack(e.pack)
		if p.state&packGone != 0 || p.state&packStored == 0 || not[e.pack] {
			continue
		}
		if !ok || !pack.state.usable() && p.state.usable() {
			best, pack, ok = *e, p, true
		}
	}
	return best, pack, ok
}

// dying returns the packs that have a chunk and will be deleted.
func (x *index) dying(id ID) []ID {
	s := x.shard(id)
	s.mu.RLock()
	defer s.mu.RUnlock()
	var packs []ID
	for e, i := s.find(id); e != nil; e, i = s.next(id, i) {
		if p := x.pack(e.pack); p.state&(packGone|packDoomed) == packDoomed {
			packs = append(packs, p.id)
		}
	}
	return packs
}

// usablePacks returns the stored packs that have a chunk and stay.
func (x *index) usablePacks(id ID) []ID {
	s := x.shard(id)
	s.mu.RLock()
	defer s.mu.RUnlock()
	var packs []ID
	for e, i := s.find(id); e != nil; e, i = s.next(id, i) {
		if p := x.pack(e.pack); p.state.usable() && p.state&packStored != 0 {
			packs = append(packs, p.id)
		}
	}
	return packs
}

// addPack makes a pack known, or known again, and returns its number.
func (x *index) addPack(p packInfo) uint32 {
	x.mu.Lock()
	defer x.mu.Unlock()
	p.state |= x.doomed[p.id]
	if n, ok := x.byID[p.id]; ok && !p.id.IsZero() {
		switch old := &x.packs[n]; {
		case old.state&packGone != 0 || old.state&packOurs == 0 && old.file == noFile:
			*old = p
			delete(x.also, n)
		case old.file != p.file:
			x.also[n] = append(x.also[n], p.file)
		}
		return n
	}
	n := uint32(len(x.packs))
	x.packs = append(x.packs, p)
	if !p.id.IsZero() {
		x.byID[p.id] = n
	}
	return n
}

// change lets fn change a pack's record.
func (x *index) change(n uint32, fn func(*packInfo)) {
	x.mu.Lock()
	defer x.mu.Unlock()
	p := &x.packs[n]
	fn(p)
	if !p.id.IsZero() {
		x.byID[p.id] = n
		p.state |= x.doomed[p.id]
	}
}

// setDoomed replaces the set of packs that will be deleted.
func (x *index) setDoomed(ids map[ID]packState) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.doomed = ids
	for i := range x.packs {
		p := &x.packs[i]
		p.state = p.state&^packDoomed | ids[p.id]
	}
}

// forgetFiles marks the packs as gone that only index files in gone named.
func (x *index) forgetFiles(gone map[uint32]bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	for n, files := range x.also {
		files = slices.DeleteFunc(files, func(f uint32) bool { return gone[f] })
		if p := &x.packs[n]; p.file != noFile && gone[p.file] && len(files) > 0 {
			p.file, files = files[0], files[1:]
		}
		x.also[n] = files
		if len(files) == 0 {
			delete(x.also, n)
		}
	}
	for i := range x.packs {
		if p := &x.packs[i]; p.file != noFile && gone[p.file] {
			p.state |= packGone
		}
	}
}

// pack returns a pack's record.
func (x *index) pack(n uint32) packInfo {
	x.mu.RLock()
	defer x.mu.RUnlock()
	return x.packs[n]
}
