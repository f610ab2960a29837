package cache

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"firn"
	"firn/vfs"
)

// DiskOptions are the settings of a disk level.
type DiskOptions struct {
	// Dir is the directory, on a fast local disk; it is used by one cache at a time.
	Dir string
	// Budget is the most that all files in Dir may hold together, in bytes; 4 MiB at least. Blocks over a fifth of it
	// are not kept.
	Budget int64
	// Memory is the most bytes of memory for the index: 64 MiB by default. A block takes 128 bytes of it, the version
	// of an object it belongs to 192 and its names. When it is full, the oldest blocks go.
	Memory int64
	// TTL is how long a block is kept at most; 0 is without limit.
	TTL time.Duration
	// Queue is the most bytes that wait in memory to be written, 32 MiB by default. What comes when it is full is not
	// kept: reads do not wait for the disk to take blocks.
	Queue int64

	segment int64 // bytes of a segment; chosen by Budget, set by tests
}

const (
	minDisk     = 4 << 20
	diskReserve = 256 << 10 // of the budget: what is no segment, that is the pins, twice while they are written
	minIndex    = 1 << 20
	maxHeads    = 4 << 20 // bytes of a trailer; a segment with more is sealed before it is full
)

// Disk is the level in a directory. Blocks are appended to segments; when there is no room for the next segment the
// oldest goes, and what was read since it was written, or is pinned, is written again: a FIFO with reinsertion, the
// main queue of S3-FIFO (Yang, Zhang, Qiu, Yue, Vigfusson: "FIFO queues are all you need for cache eviction", 2023).
// Nothing is synced but purges: what a crash leaves behind is told by checksums.
type Disk struct {
	opt   DiskOptions
	fs    vfs.FS
	lock  io.Closer
	limit int64 // for segments
	stats struct {
		hits, hitBytes, puts, evicted, expired, damaged, refused, errors atomic.Uint64
	}
	queue queue
	w     writer // used by the writing goroutine alone
	done  chan struct{}

	mu struct {
		sync.RWMutex
		index    *index
		segments []*segment // the oldest first; the writer appends to the last
		held     int64      // bytes of all files
	}
	pinning sync.Mutex // held while the pins are written
}

var (
	_ Level  = (*Disk)(nil)
	_ Pinner = (*Disk)(nil)
)

// OpenDisk opens the level in opt.Dir, with what is there, and makes it where it is not.
func OpenDisk(fsys vfs.FS, opt DiskOptions) (*Disk, error) {
	if opt.Memory == 0 {
		opt.Memory = 64 << 20
	}
	if opt.Queue == 0 {
		opt.Queue = 32 << 20
	}
	if opt.Dir == "" || opt.Budget < minDisk || opt.Memory < minIndex || opt.Queue < 1 || opt.TTL < 0 {
		return nil, firn.NewError(firn.Invalid, "a disk cache needs a directory, at least 4 MiB of it and 1 MiB of memory, and a time that is not negative")
	}
	limit := opt.Budget - diskReserve
	if opt.segment == 0 {
		// Few and large ones, and yet each a small part of the whole.
		opt.segment = min(max(opt.Budget/32, 24<<20), 64<<20, limit/4)
	}
	d := &Disk{opt: opt, fs: fsys, limit: limit, done: make(chan struct{})}
	d.queue.init(opt.Queue)
	d.mu.index = newIndex(limit / 2)
	if err := vfs.MkdirAllSync(fsys, opt.Dir, 0o700); err != nil {
		return nil, firn.E("make", opt.Dir, err)
	}
	lock, err := vfs.LockDir(fsys, opt.Dir)
	if err != nil {
		return nil, err
	}
	d.lock = lock
	if err := d.recover(); err != nil {
		d.closeFiles()
		return nil, errors.Join(firn.E("open cache", opt.Dir, err), lock.Close())
	}
	d.w.d = d
	go d.w.run()
	return d, nil
}

func (d *Disk) path(number uint64) string {
	return d.fs.PathJoin(d.opt.Dir, fmt.Sprintf("%016x.seg", number))
}

// Name implements Level.
func (d *Disk) Name() string { return "disk" }

// Get implements Level. It reads the block and compares it with its checksum.
func (d *Disk) Get(_ context.Context, k Key) (Value, bool) {
	now := time.Now()
	d.mu.RLock()
	e := d.mu.index.find(k)
	if e == nil {
		d.mu.RUnlock()
		return Value{}, false
	}
	if expired(e.expires, now) {
		d.mu.RUnlock()
		d.stats.expired.Add(1)
		d.drop(e)
		return Value{}, false
	}
	seg, off, size := e.seg, e.off, e.size
	// While a reader is in it, a segment's file is neither closed nor removed.
	seg.readers.Add(1)
	d.mu.RUnlock()
	p := make([]byte, size)
	_, err := seg.file.ReadAt(p, off)
	seg.readers.Done()
	if err != nil {
		d.stats.errors.Add(1)
		d.drop(e)
		return Value{}, false
	}
	r, v, ok := parseRecord(p, k, seg.number)
	if !ok {
		d.stats.damaged.Add(1)
		d.drop(e)
		return Value{}, false
	}
	if d.opt.TTL > 0 {
		if end := time.UnixMilli(r.written).Add(d.opt.TTL); v.Expires.IsZero() || end.Before(v.Expires) {
			v.Expires = end
		}
	}
	if h := e.hits.Load(); h < maxHits {
		e.hits.CompareAndSwap(h, h+1) // a hit lost to another one does not matter
	}
	d.stats.hits.Add(1)
	d.stats.hitBytes.Add(uint64(len(v.Data)))
	return v, true
}

func (d *Disk) drop(e *entry) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.mu.index.drop(e)
}

// Put implements Level.
func (d *Disk) Put(k Key, v Value) {
	if check(k, v) != nil || !d.queue.put(k, v) {
		d.stats.refused.Add(1)
	}
}

// Remove implements Level. It is durable through a record in the newest segment, which is synced.
func (d *Disk) Remove(ctx context.Context, m Match) error {
	done, err := d.queue.remove(m)
	if err != nil {
		return err
	}
	d.mu.Lock()
	d.mu.index.remove(m)
	d.mu.Unlock()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Flush waits until what was Put before is written, or was refused.
func (d *Disk) Flush(ctx context.Context) error {
	done, err := d.queue.flush()
	if err != nil {
		return err
	}
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Status implements Level.
func (d *Disk) Status() LevelStatus {
	s := LevelStatus{
		Name: d.Name(), Budget: d.opt.Budget,
		Hits: d.stats.hits.Load(), HitBytes: d.stats.hitBytes.Load(), Puts: d.stats.puts.Load(),
		Evicted: d.stats.evicted.Load(), Expired: d.stats.expired.Load(), Damaged: d.stats.damaged.Load(),
		Refused: d.stats.refused.Load(), Errors: d.stats.errors.Load(),
	}
	d.mu.RLock()
	defer d.mu.RUnlock()
	s.Bytes, s.Memory = d.mu.held, d.mu.index.memory
	s.Blocks, s.Pinned = d.mu.index.blocks, d.mu.index.pinned
	for _, seg := range d.mu.segments {
		if seg.oldest != 0 {
			s.Oldest = max(s.Oldest, time.Since(time.UnixMilli(seg.oldest)))
		}
	}
	return s
}

// Close writes what waits, and closes the files.
func (d *Disk) Close() error {
	if !d.queue.close() {
		return nil
	}
	<-d.done
	d.closeFiles()
	return d.lock.Close()
}

func (d *Disk) closeFiles() {
	d.mu.Lock()
	segments := d.mu.segments
	d.mu.segments = nil
	d.mu.index = newIndex(0)
	d.mu.Unlock()
	for _, seg := range segments {
		seg.readers.Wait()
		_ = seg.file.Close() // opened for reading
	}
}

// queue is what waits for the writer, in order.
type queue struct {
	limit int64
	wake  chan struct{}
	mu    struct {
		sync.Mutex
		ops    []*op
		now    *op // that the writer is at
		bytes  int64
		closed bool
	}
}

// op is a block to be kept, a removal, or a flush.
type op struct {
	key       Key
	value     Value
	match     Match
	remove    bool
	done      chan error  // of a removal and a flush; buffered
	cancelled atomic.Bool // a removal came after it
}

// opCharge is what an op takes in the queue beside its block.
const opCharge = 256

func (o *op) size() int64 {
	return opCharge + int64(len(o.key.Object)+len(o.key.Version)+len(o.value.Data)+len(o.value.Meta))
}

func (q *queue) init(limit int64) {
	q.limit = limit
	q.wake = make(chan struct{}, 1)
}

func (q *queue) push(o *op) {
	q.mu.ops = append(q.mu.ops, o)
	q.mu.bytes += o.size()
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

// put appends a block and reports whether there was room.
func (q *queue) put(k Key, v Value) bool {
	o := &op{key: k, value: v}
	q.mu.Lock()
	defer q.mu.Unlock()
	// One block is always taken, however small the queue.
	if q.mu.closed || q.mu.bytes > 0 && q.mu.bytes+o.size() > q.limit {
		return false
	}
	q.push(o)
	return true
}

// remove appends a removal and cancels the blocks before it that it selects. Their count is bounded by who waits.
func (q *queue) remove(m Match) (<-chan error, error) {
	o := &op{match: m, remove: true, done: make(chan error, 1)}
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.mu.closed {
		return nil, errClosed
	}
	for _, p := range q.mu.ops {
		if p.done == nil && m.Matches(p.key) {
			p.cancelled.Store(true)
		}
	}
	if p := q.mu.now; p != nil && p.done == nil && m.Matches(p.key) {
		p.cancelled.Store(true)
	}
	q.push(o)
	return o.done, nil
}

func (q *queue) flush() (<-chan error, error) {
	o := &op{done: make(chan error, 1)}
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.mu.closed {
		return nil, errClosed
	}
	q.push(o)
	return o.done, nil
}

// next returns the next op, nil when the queue is closed and empty.
func (q *queue) next() *op {
	for {
		q.mu.Lock()
		if q.mu.now != nil {
			q.mu.bytes -= q.mu.now.size()
			q.mu.now = nil
		}
		if len(q.mu.ops) > 0 {
			o := q.mu.ops[0]
			q.mu.ops[0] = nil
			q.mu.ops = q.mu.ops[1:]
			q.mu.now = o
			q.mu.Unlock()
			return o
		}
		closed := q.mu.closed
		q.mu.Unlock()
		if closed {
			return nil
		}
		<-q.wake
	}
}

// close lets nothing more in and reports whether it was open.
func (q *queue) close() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.mu.closed {
		return false
	}
	q.mu.closed = true
	select {
	case q.wake <- struct{}{}:
	default:
	}
	return true
}
