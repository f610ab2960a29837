package pebblekv

import (
	"context"
	"encoding/binary"
	"fmt"
	"sync"
	"time"

	"github.com/cockroachdb/pebble/v2"

	"firn"
	"firn/kv"
)

// queueLen is the number of commits that may wait for the committer or, applied, for their fsync. Pebble itself lets
// 511 syncs be outstanding.
const queueLen = 1024

// tx is one transaction, from Update until its caller is woken. It implements kv.Tx.
type tx struct {
	d     *DB
	batch *pebble.Batch
	locks []uint16 // stripes held
	logAt []int    // offsets into the batch of the log numbers to fill in
	ctx   context.Context
	size  int   // bytes of keys and values written
	held  int64 // bytes of them counted against Options.QueueBytes
	excl  bool
	sync  bool  // a background sync of relaxed mode
	err   error // of a call that cannot return one
	index uint64
	tail  uint64 // newest log number after this commit
	// done gets a value when the commit is durable. It is buffered: nobody waits for the caller to take it.
	done chan struct{}
	buf  [logKeyLen]byte
}

var _ kv.Tx = (*tx)(nil)

var (
	errKey   = firn.NewError(firn.Invalid, "a key is empty, too long or reserved")
	errRange = firn.NewError(firn.Invalid, "a key range is empty or reserved")
)

func checkKey(key []byte) bool { return len(key) > 0 && len(key) <= kv.MaxKey && key[0] != reserved }

// Get implements kv.Reader.
func (t *tx) Get(dst, key []byte) ([]byte, error) { return t.d.get(dst, key) }

// Iter implements kv.Reader.
func (t *tx) Iter(lower, upper []byte) (kv.Iterator, error) { return t.d.iter(lower, upper) }

// uncounted is the size in bytes up to which a transaction is not counted against Options.QueueBytes.
const uncounted = 2 << 10

// admit counts n more bytes of the batch against Options.QueueBytes and waits for room where there is none.
//
// Whoever waits here holds its locks. It waits only for transactions that need nothing more to end: one waits at most
// once, before it has been given anything, and never while it is Exclusive; what was given goes back when the commit
// is durable or failed. A transaction that grows after that is counted only as far as there is room.
func (t *tx) admit(n int) error {
	t.size += n
	want := min(int64(t.size), t.d.o.QueueBytes) - t.held
	if t.size <= uncounted || want <= 0 {
		return nil
	}
	if !t.d.room.TryAcquire(want) {
		if t.held > 0 || t.excl {
			return nil
		}
		if err := t.d.room.Acquire(t.ctx, want); err != nil {
			return err
		}
	}
	t.held += want
	t.d.stats.queued.Add(want)
	return nil
}

// op runs one write of n bytes of the batch, unless an earlier one failed.
func (t *tx) op(valid bool, invalid error, n int, fn func(*pebble.Batch) error) {
	switch {
	case t.err != nil:
	case !valid:
		t.err = invalid
	default:
		if t.err = t.admit(n); t.err != nil {
			return
		}
		if t.batch == nil {
			t.batch = t.d.p.NewBatch()
		}
		t.err = fn(t.batch)
	}
}

// Set implements kv.Tx.
func (t *tx) Set(key, value []byte) {
	t.op(checkKey(key), errKey, len(key)+len(value), func(b *pebble.Batch) error { return b.Set(key, value, nil) })
}

// SetSplit implements kv.Tx.
func (t *tx) SetSplit(key []byte, value ...[]byte) {
	n := 0
	for _, p := range value {
		n += len(p)
	}
	t.op(checkKey(key), errKey, len(key)+n, func(b *pebble.Batch) error {
		op := b.SetDeferred(len(key), n)
		copy(op.Key, key)
		rest := op.Value
		for _, p := range value {
			rest = rest[copy(rest, p):]
		}
		return op.Finish()
	})
}

// Delete implements kv.Tx.
func (t *tx) Delete(key []byte) {
	t.op(checkKey(key), errKey, len(key), func(b *pebble.Batch) error { return b.Delete(key, nil) })
}

// DeleteRange implements kv.Tx.
func (t *tx) DeleteRange(lower, upper []byte) {
	valid := len(lower) > 0 && lower[0] != reserved && len(upper) > 0 &&
		len(lower) <= kv.MaxKey && len(upper) <= kv.MaxKey && (upper[0] != reserved || len(upper) == 1)
	t.op(valid, errRange, len(lower)+len(upper), func(b *pebble.Batch) error { return b.DeleteRange(lower, upper, nil) })
}

// Log implements kv.Tx. The entry's number is not known before the commit is in order, so room is left for it in the
// batch and the committer fills it in.
func (t *tx) Log(entry []byte) {
	t.op(true, nil, logKeyLen+len(entry), func(b *pebble.Batch) error {
		// A record is: kind (1 byte), key length (varint, 1 byte here), key, value length, value.
		at := max(b.Len(), batchHeaderLen) + 2
		t.logAt = append(t.logAt, at+2)
		return b.Set(appendLogKey(t.buf[:0], 0), entry, nil)
	})
}

// batchHeaderLen is the length of the header of Pebble's batch representation.
const batchHeaderLen = 12

// Exclusive implements kv.Tx. It does not heed the context: fn could not be told, and holders are quick.
func (t *tx) Exclusive() {
	if t.excl || t.err != nil {
		return
	}
	if err := t.d.acquire(context.Background(), t.d.excl); err != nil {
		t.err = err
		return
	}
	t.excl = true
}

// unlock releases everything the transaction holds.
func (t *tx) unlock() {
	if t.excl {
		t.d.excl.unlock()
		t.excl = false
	}
	t.d.unlockAll(t.locks)
	t.locks = t.locks[:0]
}

// txPool recycles transactions whose commit ended well.
type txPool struct{ p sync.Pool }

func (p *txPool) get(d *DB) *tx {
	t, ok := p.p.Get().(*tx)
	if !ok {
		t = &tx{done: make(chan struct{}, 1)}
	}
	t.d = d
	return t
}

func (p *txPool) put(t *tx) {
	if t.batch != nil {
		// Close only gives the batch back to Pebble's pool.
		drop(t.batch)
	}
	*t = tx{done: t.done, locks: t.locks[:0], logAt: t.logAt[:0]}
	p.p.Put(t)
}

// Update implements kv.DB.
func (d *DB) Update(ctx context.Context, fn func(kv.Tx) error, locks ...[]byte) error {
	if err := d.enter(); err != nil {
		return err
	}
	defer d.calls.leave()
	if err := ctx.Err(); err != nil {
		return err
	}
	t := d.txs.get(d)
	ids := d.appendStripes(t.locks[:0], locks)
	if err := d.lockAll(ctx, ids); err != nil {
		d.txs.put(t)
		return err
	}
	t.locks, t.ctx = ids, ctx
	err := runFn(t, fn)
	// Also after a failure, when nobody ends t any more: whoever waits for room has to learn of it.
	defer d.giveBack(t.held)
	if err == nil {
		err = t.err
	}
	if err != nil || t.batch == nil {
		// Nothing to commit, but fn may have seen, and tells its caller of, commits that are not durable yet.
		last := d.lastUnder(t.locks)
		t.unlock()
		d.txs.put(t)
		if werr := d.waitFor(ctx, &d.durable, last, nil); werr != nil {
			return werr
		}
		return err
	}
	return d.commit(ctx, t)
}

// runFn runs fn and lets go of the locks should it panic.
func runFn(t *tx, fn func(kv.Tx) error) error {
	ok := false
	defer func() {
		if !ok {
			t.unlock()
			t.d.giveBack(t.held)
		}
	}()
	err := fn(t)
	ok = true
	return err
}

// giveBack takes n bytes off those counted against Options.QueueBytes.
func (d *DB) giveBack(n int64) {
	if n > 0 {
		d.stats.queued.Add(-n)
		d.room.Release(n)
	}
}

// commit hands t to the committer and waits until it is durable.
func (d *DB) commit(ctx context.Context, t *tx) error {
	select {
	case d.queue <- t:
	default:
		select {
		case d.queue <- t:
		case <-ctx.Done():
			t.unlock()
			d.txs.put(t)
			return ctx.Err()
		case <-d.failed:
			return d.failure.Load()
		}
	}
	// From here on the context is not heeded: a commit in flight cannot be taken back, and its outcome comes within
	// an fsync.
	select {
	case <-t.done:
	case <-d.failed:
		// t stays with the workers, which may still touch it.
		return d.failure.Load()
	}
	d.txs.put(t)
	return nil
}

// guard runs fn on a worker goroutine and turns a panic of Pebble into a failure. Pebble panics where it cannot rotate
// its write-ahead log.
func (d *DB) guard(fn func()) (ok bool) {
	defer func() {
		if v := recover(); v != nil {
			d.fail(fmt.Errorf("panic: %v", v))
			ok = false
		}
	}()
	fn()
	return true
}

// commitLoop is the committer.
func (d *DB) commitLoop() {
	defer d.workers.Done()
	defer close(d.syncq)
	for t := range d.queue {
		if d.failure.Load() != nil {
			return
		}
		if !d.guard(func() { d.apply(t) }) {
			return
		}
	}
}

// number gives t its place among the commits and fills in its log numbers.
func (d *DB) number(t *tx) {
	t.index = d.nextIndex
	d.nextIndex++
	if len(t.logAt) > 0 {
		repr := t.batch.Repr()
		for _, at := range t.logAt {
			binary.BigEndian.PutUint64(repr[at:], d.nextLog)
			d.nextLog++
		}
	}
	t.tail = d.nextLog - 1
	// Before the commit can be seen: a reader that sees it must find that it has to wait for its fsync.
	for _, id := range t.locks {
		d.stripes[id].last.Store(t.index)
	}
	d.assigned.Store(t.index)
}

// apply makes one transaction visible and passes it to the syncer.
func (d *DB) apply(t *tx) {
	if !t.sync {
		d.number(t)
	}
	if d.o.Relaxed && !t.sync {
		if err := d.p.Apply(t.batch, pebble.NoSync); err != nil {
			d.fail(err)
			return
		}
		t.unlock()
		d.unsynced.Store(true)
		d.finish(t)
		return
	}
	if err := d.p.ApplyNoSyncWait(t.batch, pebble.Sync); err != nil {
		d.fail(err)
		return
	}
	t.unlock()
	select {
	case d.syncq <- t:
	case <-d.failed:
	}
}

// finish tells that t, and everything before it, is durable. In relaxed mode the committer calls it, and the syncer
// only for background syncs, which move nothing.
func (d *DB) finish(t *tx) {
	if !t.sync {
		d.logTail.Store(t.tail)
		d.durable.Store(t.index)
		d.progress.moved()
		d.stats.commits.Add(1)
	}
	t.done <- struct{}{}
}

// syncLoop is the syncer. Fsyncs of the write-ahead log end in the order of commits.
func (d *DB) syncLoop() {
	defer d.workers.Done()
	for t := range d.syncq {
		if err := t.batch.SyncWait(); err != nil {
			d.fail(fmt.Errorf("sync of the write-ahead log: %w", err))
			return
		}
		d.finish(t)
	}
}

// relaxedLoop syncs the write-ahead log in the background. Close waits for its end before it closes the queue.
func (d *DB) relaxedLoop(ctx context.Context) {
	defer close(d.relaxedDone)
	tick := time.NewTicker(d.o.RelaxedInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-d.failed:
			return
		case <-tick.C:
		}
		if !d.unsynced.Swap(false) {
			continue
		}
		t := d.txs.get(d)
		t.sync = true
		t.batch = d.p.NewBatch()
		// An entry of the write-ahead log only: it carries the sync and changes nothing.
		if err := t.batch.LogData(nil, nil); err != nil {
			d.fail(err)
			return
		}
		if d.commit(ctx, t) != nil {
			return
		}
	}
}
