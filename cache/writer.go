package cache

import (
	"errors"
	"time"

	"firn"
	"firn/vfs"
)

// writer appends to segments and makes room. All its methods run on one goroutine.
type writer struct {
	d      *Disk
	seg    *segment // nil where none is open for writing
	file   vfs.File
	used   int64  // bytes of seg's records
	heads  []byte // of seg's records, for its trailer
	count  int    // of seg's records
	last   uint64 // number of the newest segment
	buf    []byte
	failed time.Time // when no segment could be made
}

// retryAfter is how long the disk is left alone after a segment could not be made.
const retryAfter = 10 * time.Second

var (
	errNoRoom  = firn.NewError(firn.NoSpace, "there is no room in the cache's segments")
	errResting = firn.NewError(firn.Unavailable, "the cache's disk failed a moment ago")
)

func (w *writer) run() {
	defer close(w.d.done)
	for o := w.d.queue.next(); o != nil; o = w.d.queue.next() {
		switch {
		case o.remove:
			o.done <- w.remove(o.match)
		case o.done != nil:
			o.done <- nil
		case !o.cancelled.Load():
			w.put(o)
		}
	}
	w.seal(true)
}

func (w *writer) put(o *op) {
	now := time.Now()
	expires := int64(0)
	if !o.value.Expires.IsZero() {
		expires = o.value.Expires.UnixMilli()
	}
	if w.d.opt.TTL > 0 {
		if end := now.Add(w.d.opt.TTL).UnixMilli(); expires == 0 || end < expires {
			expires = end
		}
	}
	if expired(expires, now) {
		return
	}
	r := record{
		kind: recordBlock, key: o.key, meta: len(o.value.Meta), data: len(o.value.Data),
		written: now.UnixMilli(), expires: expires,
	}
	off, err := w.append(&r, o.value, true)
	if err != nil {
		w.d.stats.refused.Add(1)
		return
	}
	w.d.mu.Lock()
	// A removal that came meanwhile has passed the index already, or will see the block there.
	if !o.cancelled.Load() {
		w.d.mu.index.insert(o.key, w.seg, off, r.length(), expires)
		w.d.stats.puts.Add(1)
	}
	w.d.mu.Unlock()
	w.trimMemory()
}

// remove writes down a removal and syncs it. Blocks that were written between its call and now are dropped here.
func (w *writer) remove(m Match) error {
	r := record{kind: recordPurge, key: Key{Object: m.Object, Version: m.Version}, written: time.Now().UnixMilli()}
	if m.Prefix {
		r.kind = recordPurgePrefix
	}
	_, err := w.append(&r, Value{}, true)
	if err == nil {
		if err = w.file.SyncData(); err != nil {
			w.d.stats.errors.Add(1)
			w.seal(false)
		}
	}
	if err != nil {
		return &firn.Error{
			Kind: firn.Unavailable, Op: "write", Subject: "the purge to " + w.d.opt.Dir,
			Err: errors.Join(errors.New("what was purged may be served again after a restart: repeat the purge"), err),
		}
	}
	return nil
}

// append writes a record and returns where it is. It makes room for it, if rotate allows that.
func (w *writer) append(r *record, v Value, rotate bool) (int64, error) {
	for tries := 0; !w.fits(r); tries++ {
		// All that is read or pinned is written again: room that does not come after all segments had their turn
		// does not come.
		if !rotate || tries > len(w.d.mu.segments)+1 || !w.fitsEmpty(r) {
			return 0, errNoRoom
		}
		if err := w.rotate(); err != nil {
			return 0, err
		}
	}
	r.generation = w.seg.number
	if r.kind == recordBlock {
		r.sum = contentSum(r.generation, v.Meta, v.Data)
	}
	w.buf = append(append(r.appendHead(w.buf[:0]), v.Meta...), v.Data...)
	off, n := w.used, int64(len(w.buf))
	// Counted before it is there: a write that fails may leave bytes.
	w.grow(n)
	if _, err := w.file.Write(w.buf); err != nil {
		w.d.stats.errors.Add(1)
		w.seal(false)
		if rotate && vfs.IsNoSpace(err) {
			// Somebody else needs the disk.
			w.evictOldest(false)
		}
		return 0, err
	}
	w.used += n
	w.count++
	w.heads = append(w.heads, w.buf[:r.head()]...)
	if r.kind == recordBlock && (w.seg.oldest == 0 || r.written < w.seg.oldest) {
		w.d.mu.Lock()
		w.seg.oldest = r.written
		w.d.mu.Unlock()
	}
	return off, nil
}

// fits reports whether a record and the trailer with it fit in the open segment.
func (w *writer) fits(r *record) bool {
	if w.seg == nil {
		return false
	}
	// What the index needs for one segment is a small part of its memory too: only whole segments leave.
	memory := int64(len(w.seg.entries))*(entryCharge+contentCharge) + int64(len(w.heads))
	if w.count > 0 && (len(w.heads)+r.head() > maxHeads || memory > w.d.opt.Memory/8) {
		return false
	}
	return w.used+int64(r.length())+int64(len(w.heads)+r.head())+trailerFoot <= w.d.opt.segment
}

func (w *writer) fitsEmpty(r *record) bool {
	return int64(r.length()+r.head()+trailerFoot) <= w.d.opt.segment
}

// grow counts n bytes more of the open segment.
func (w *writer) grow(n int64) {
	w.d.mu.Lock()
	defer w.d.mu.Unlock()
	w.seg.size += n
	w.d.mu.held += n
}

// seal ends the open segment, with a trailer where the records before are whole.
func (w *writer) seal(whole bool) {
	if w.seg == nil {
		return
	}
	if whole {
		t := appendTrailer(w.heads, w.count, w.seg.number, w.used)
		w.grow(int64(len(t)))
		if _, err := w.file.Write(t); err != nil {
			w.d.stats.errors.Add(1) // it is read without
		}
	}
	if err := w.file.Close(); err != nil {
		w.d.stats.errors.Add(1)
	}
	w.seg, w.file, w.used, w.count, w.heads = nil, nil, 0, 0, w.heads[:0]
}

// rotate seals the open segment, opens the next, and moves what deserves it from the oldest ones, which go until there
// is room for one more segment after this.
func (w *writer) rotate() error {
	w.seal(true)
	if !w.failed.IsZero() && time.Since(w.failed) < retryAfter {
		return errResting
	}
	for w.d.held()+w.d.opt.segment > w.d.limit {
		// The room should have been made before; after errors it may not have been.
		if !w.evictOldest(false) {
			return errNoRoom
		}
	}
	if err := w.open(); err != nil {
		w.failed = time.Now()
		w.d.stats.errors.Add(1)
		if vfs.IsNoSpace(err) {
			w.evictOldest(false)
		}
		return err
	}
	w.failed = time.Time{}
	for w.seg != nil && w.d.held()-w.seg.size+2*w.d.opt.segment > w.d.limit && w.evictOldest(true) {
	}
	return nil
}

func (d *Disk) held() int64 {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return d.mu.held
}

// open makes the next segment.
func (w *writer) open() error {
	d := w.d
	w.last++
	path := d.path(w.last)
	f, err := d.fs.Create(path, vfs.CategoryState)
	if err != nil {
		return err
	}
	r, err := d.fs.Open(path)
	if err == nil {
		// A purge in this segment must not be lost with its name.
		if err = vfs.SyncDir(d.fs, d.opt.Dir); err != nil {
			_ = r.Close()
		}
	}
	if err != nil {
		return errors.Join(err, f.Close(), d.fs.Remove(path))
	}
	w.file, w.seg = f, &segment{number: w.last, path: path, file: r}
	d.mu.Lock()
	d.mu.segments = append(d.mu.segments, w.seg)
	d.mu.Unlock()
	return nil
}

// evictOldest removes the oldest segment that is not the open one and reports whether there was one. Where again is
// set, pinned blocks and blocks that were read since they were written are written again, the latter up to half a
// segment, so that half of the room is always won.
func (w *writer) evictOldest(again bool) bool {
	d := w.d
	d.mu.RLock()
	if len(d.mu.segments) == 0 || d.mu.segments[0] == w.seg {
		d.mu.RUnlock()
		return false
	}
	old := d.mu.segments[0]
	entries := old.entries
	d.mu.RUnlock()
	if again {
		room := d.opt.segment / 2
		for _, e := range entries {
			room = w.again(e, old, room)
		}
	}
	d.mu.Lock()
	d.mu.segments = d.mu.segments[1:]
	d.stats.evicted.Add(uint64(d.mu.index.leave(old)))
	d.mu.Unlock()
	old.readers.Wait()
	_ = old.file.Close() // opened for reading
	if err := d.fs.Remove(old.path); err != nil {
		// Its bytes stay counted until the next start: room that is not there must not be given away.
		d.stats.errors.Add(1)
		return true
	}
	// The removals of segments must become durable in their order: a purge must outlive what it purged.
	if err := vfs.SyncDir(d.fs, d.opt.Dir); err != nil {
		d.stats.errors.Add(1)
	}
	d.mu.Lock()
	d.mu.held -= old.size
	d.mu.Unlock()
	return true
}

// again writes e, which is in old, to the open segment if it deserves it, and returns what is left of room.
func (w *writer) again(e *entry, old *segment, room int64) int64 {
	d := w.d
	d.mu.RLock()
	live, pinned, off, size := e.seg == old, e.pinned, e.off, int64(e.size)
	key := Key{Object: e.of.object, Version: e.of.version, Block: e.block}
	over := expired(e.expires, time.Now())
	d.mu.RUnlock()
	if !live || over || !pinned && (e.hits.Load() == 0 || size > room) {
		return room
	}
	p := make([]byte, size)
	if _, err := old.file.ReadAt(p, off); err != nil {
		d.stats.errors.Add(1)
		return room
	}
	r, v, ok := parseRecord(p, key, old.number)
	if !ok {
		d.stats.damaged.Add(1)
		return room
	}
	at, err := w.append(&r, v, false)
	if err != nil {
		return room
	}
	d.mu.Lock()
	// Dropped meanwhile, it stays so.
	if e.seg == old {
		d.mu.index.place(e, w.seg, at)
		e.hits.Store(e.hits.Load() / 2)
	}
	d.mu.Unlock()
	if pinned {
		return room
	}
	return room - size
}

// trimMemory evicts segments until the index fits its bound.
func (w *writer) trimMemory() {
	d := w.d
	for {
		d.mu.RLock()
		over := d.mu.index.memory > d.opt.Memory
		d.mu.RUnlock()
		if !over || !w.evictOldest(false) {
			return
		}
	}
}
