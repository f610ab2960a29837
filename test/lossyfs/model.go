// Package lossyfs is a file system in memory that keeps two images of itself: the one programs see, and the one that
// would be found after a power loss. Mounted over FUSE it shows what a server did not sync.
//
// It promises the strict reading of POSIX and no more: the bytes and size of a file are durable after an fsync or
// fdatasync of that file (or a write through O_SYNC or O_DSYNC); the entries of a directory - creations, links,
// removals, renames - are durable after an fsync of that directory. It must never make anything durable by chance, so
// sync(2), syncfs(2) and sync_file_range(2) make nothing durable. It must never import a package of the product.
package lossyfs

import (
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"syscall"
	"time"
)

// pageSize is the unit of writing back. A torn power loss may keep one page of a write and lose the next.
const pageSize = 4096

// page is a part of a file's bytes. A frozen page belongs to the durable image too and is copied before a write.
type page struct {
	b      [pageSize]byte
	frozen bool
}

// image is the bytes of a file; a nil page, and pages past the end of the slice, are zeros.
type image struct {
	pages []*page
	size  int64
}

// inode is a file or a directory in both images.
type inode struct {
	id    uint64
	dir   bool
	mode  uint32 // permission bits
	mtime time.Time
	links int // entries in the visible image

	// Of a file.
	live, durable image
	dirty         map[int]struct{} // pages that differ, or may, between the images
	syncing       sync.Mutex       // held for the length of an fsync; taken before FS.mu

	// Of a directory.
	entries, kept map[string]*inode // visible and durable
}

// edit is one change of a directory that is not durable yet; to is nil for a removal.
type edit struct {
	dir  *inode
	name string
	to   *inode
}

// Options change how the file system behaves.
type Options struct {
	// SyncDelay is how long a sync takes. What it covers is fixed when it begins and durable when it ends, so that a
	// longer delay gives a power loss more to take.
	SyncDelay time.Duration
	// Journalled makes any sync commit all changes of directories so far, as ext4 and xfs do in practice. A server
	// that needs this is not right by POSIX.
	Journalled bool
}

// FS is the file system.
type FS struct {
	opts Options
	mu   struct {
		sync.RWMutex
		root    *inode
		nextID  uint64
		pending [][]edit // changes of directories in their order, those of one operation together
		off     bool     // the power is gone
		syncs   int64
	}
	dead  chan struct{} // closed when the power goes; replaced by Forget
	mount mounted
}

// New returns an empty file system.
func New(opts Options) *FS {
	f := &FS{opts: opts, dead: make(chan struct{})}
	f.mu.root = &inode{id: 1, dir: true, mode: 0o755, mtime: time.Now(), links: 1, entries: map[string]*inode{}}
	f.mu.root.kept = map[string]*inode{}
	f.mu.nextID = 2
	return f
}

// Syncs returns how many syncs of files and directories were done.
func (f *FS) Syncs() int64 {
	f.mu.RLock()
	defer f.mu.RUnlock()
	return f.mu.syncs
}

// PowerOff is the moment of the loss: nothing becomes durable after it, and every call answers EIO.
func (f *FS) PowerOff() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.mu.off {
		f.mu.off = true
		close(f.dead)
	}
}

// Forget makes the durable image the visible one, and the power is back. It must not be called while mounted.
//
// With torn nil nothing survives that was not synced. Otherwise some of it does, as on a real disk: each unsynced page
// or not, each file's size or not, and the changes of directories up to some one of them.
func (f *FS) Forget(torn *rand.Rand) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if torn != nil && len(f.mu.pending) > 0 {
		for _, op := range f.mu.pending[:torn.IntN(len(f.mu.pending)+1)] {
			keep(op)
		}
	}
	f.mu.pending = nil
	seen := map[*inode]bool{}
	f.forget(f.mu.root, torn, seen)
	f.mu.off = false
	f.dead = make(chan struct{})
}

func (f *FS) forget(n *inode, torn *rand.Rand, seen map[*inode]bool) {
	n.links++
	if seen[n] {
		return
	}
	seen[n] = true
	n.links = 1
	if !n.dir {
		n.forgetBytes(torn)
		return
	}
	n.entries = maps.Clone(n.kept)
	// In the order of names, so that the same seed tears the same way.
	for _, name := range slices.Sorted(maps.Keys(n.entries)) {
		f.forget(n.entries[name], torn, seen)
	}
}

func (n *inode) forgetBytes(torn *rand.Rand) {
	if torn != nil && len(n.dirty) > 0 {
		size := n.durable.size
		if torn.IntN(2) == 0 {
			size = n.live.size
		}
		n.durable.resize(size, true)
		for _, i := range slices.Sorted(maps.Keys(n.dirty)) {
			if i < len(n.durable.pages) && torn.IntN(2) == 0 {
				n.durable.pages[i] = n.live.page(i)
			}
		}
		n.durable.clearTail()
	}
	n.live = image{pages: slices.Clone(n.durable.pages), size: n.durable.size}
	for _, p := range n.live.pages {
		if p != nil {
			p.frozen = true
		}
	}
	n.dirty = nil
}

// keep makes edits durable.
func keep(op []edit) {
	for _, e := range op {
		if e.to == nil {
			delete(e.dir.kept, e.name)
		} else {
			e.dir.kept[e.name] = e.to
		}
	}
}

// change applies the edits of one operation to the visible image. The caller holds f.mu.
func (f *FS) change(op ...edit) {
	for _, e := range op {
		if old := e.dir.entries[e.name]; old != nil {
			old.links--
		}
		if e.to == nil {
			delete(e.dir.entries, e.name)
		} else {
			e.to.links++
			e.dir.entries[e.name] = e.to
		}
		e.dir.mtime = time.Now()
	}
	f.mu.pending = append(f.mu.pending, op)
}

// delay waits as long as a sync takes, and reports false where the power went meanwhile.
func (f *FS) delay() bool {
	if f.opts.SyncDelay <= 0 {
		return true
	}
	f.mu.RLock()
	dead := f.dead
	f.mu.RUnlock()
	timer := time.NewTimer(f.opts.SyncDelay)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-dead:
		return false
	}
}

// syncDir makes the entries of a directory durable.
func (f *FS) syncDir(n *inode) syscall.Errno {
	n.syncing.Lock()
	defer n.syncing.Unlock()
	f.mu.RLock()
	covered := len(f.mu.pending)
	var edits []edit
	for _, op := range f.mu.pending[:covered] {
		for _, e := range op {
			if e.dir == n || f.opts.Journalled {
				edits = append(edits, e)
			}
		}
	}
	f.mu.RUnlock()
	if !f.delay() {
		return syscall.EIO
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.mu.off {
		return syscall.EIO
	}
	f.settle(edits)
	f.mu.syncs++
	return 0
}

// settle makes those of edits durable that are pending still, and takes them off the pending ones. Another sync may
// have settled some while this one was under way. The caller holds f.mu.
func (f *FS) settle(edits []edit) {
	if len(edits) == 0 {
		return
	}
	due := make(map[edit]int, len(edits))
	for _, e := range edits {
		due[e]++
	}
	left := f.mu.pending[:0]
	for _, op := range f.mu.pending {
		rest := op[:0:0]
		for _, e := range op {
			if due[e] > 0 {
				due[e]--
				keep([]edit{e})
			} else {
				rest = append(rest, e)
			}
		}
		if len(rest) > 0 {
			left = append(left, rest)
		}
	}
	clear(f.mu.pending[len(left):])
	f.mu.pending = left
}

// syncFile makes the bytes and size of a file durable.
func (f *FS) syncFile(n *inode) syscall.Errno {
	n.syncing.Lock()
	defer n.syncing.Unlock()
	f.mu.Lock()
	dirty := n.dirty
	n.dirty = nil
	size := n.live.size
	pages := make(map[int]*page, len(dirty))
	for i := range dirty {
		p := n.live.page(i)
		if p != nil {
			p.frozen = true // a write that comes while the sync is under way is not covered by it
		}
		pages[i] = p
	}
	var edits []edit
	if f.opts.Journalled {
		edits = slices.Concat(f.mu.pending...)
	}
	f.mu.Unlock()
	ok := f.delay()
	f.mu.Lock()
	defer f.mu.Unlock()
	if !ok || f.mu.off {
		for i := range dirty {
			n.markDirty(i)
		}
		return syscall.EIO
	}
	n.durable.resize(size, true)
	for i, p := range pages {
		if i < len(n.durable.pages) {
			n.durable.pages[i] = p
		}
	}
	f.settle(edits)
	f.mu.syncs++
	return 0
}

func (n *inode) markDirty(i int) {
	if n.dirty == nil {
		n.dirty = map[int]struct{}{}
	}
	n.dirty[i] = struct{}{}
}

func (m *image) page(i int) *page {
	if i >= len(m.pages) {
		return nil
	}
	return m.pages[i]
}

func pagesOf(size int64) int { return int((size + pageSize - 1) / pageSize) }

// resize sets the size and the number of pages. Bytes past the end of a file that shrank are zeros when it grows
// again; whole is set where the page that holds the end is replaced or cleared by the caller.
func (m *image) resize(size int64, whole bool) {
	n := pagesOf(size)
	if n < len(m.pages) {
		clear(m.pages[n:])
		m.pages = m.pages[:n]
	}
	for len(m.pages) < n {
		m.pages = append(m.pages, nil)
	}
	shrinks := size < m.size
	m.size = size
	if shrinks && !whole {
		m.clearTail()
	}
}

// clearTail zeroes the bytes of the last page that are past the end.
func (m *image) clearTail() {
	tail := int(m.size % pageSize)
	if tail == 0 || len(m.pages) == 0 {
		return
	}
	i := len(m.pages) - 1
	if m.pages[i] == nil {
		return
	}
	clear(m.writable(i).b[tail:])
}

// writable returns page i for writing.
func (m *image) writable(i int) *page {
	switch p := m.pages[i]; {
	case p == nil:
		m.pages[i] = new(page)
	case p.frozen:
		m.pages[i] = &page{b: p.b}
	}
	return m.pages[i]
}

// write writes b at off. The caller holds FS.mu.
func (n *inode) write(b []byte, off int64) {
	if end := off + int64(len(b)); end > n.live.size {
		n.live.resize(end, false)
	}
	for len(b) > 0 {
		i := int(off / pageSize)
		c := copy(n.live.writable(i).b[off%pageSize:], b)
		n.markDirty(i)
		b, off = b[c:], off+int64(c)
	}
	n.mtime = time.Now()
}

// read reads into b from off and returns the bytes read. The caller holds FS.mu for reading.
func (n *inode) read(b []byte, off int64) int {
	if off >= n.live.size {
		return 0
	}
	b = b[:min(int64(len(b)), n.live.size-off)]
	total := len(b)
	for len(b) > 0 {
		at := int(off % pageSize)
		c := min(pageSize-at, len(b))
		if p := n.live.page(int(off / pageSize)); p != nil {
			copy(b[:c], p.b[at:])
		} else {
			clear(b[:c])
		}
		b, off = b[c:], off+int64(c)
	}
	return total
}

// truncate sets the size. The caller holds FS.mu.
func (n *inode) truncate(size int64) {
	before := pagesOf(n.live.size)
	// Pages that go or come, and the one that holds the end, are to be written back.
	for i := max(pagesOf(min(size, n.live.size))-1, 0); i < max(before, pagesOf(size), 1); i++ {
		n.markDirty(i)
	}
	n.live.resize(size, false)
	n.mtime = time.Now()
}

// zero clears length bytes from off without changing the size. The caller holds FS.mu.
func (n *inode) zero(off, length int64) {
	end := min(off+length, n.live.size)
	for off < end {
		c := min(pageSize-off%pageSize, end-off)
		i := int(off / pageSize)
		if n.live.page(i) != nil {
			clear(n.live.writable(i).b[off%pageSize : off%pageSize+c])
			n.markDirty(i)
		}
		off += c
	}
}
