// Package pebblekv is the kv engine on an embedded Pebble database.
//
// It owns one directory of an FS. It promises what kv.DB says, and more in one point: what an Update or a View was told
// under its locks is durable when it returns even where fn returned an error, because an error tells something too.
// It writes nothing after an fsync failed. It must never know what its keys mean. The keys it reserves for itself are
// described in docs/format/kv.md.
//
// How a commit goes: Update runs fn under its locks and hands the batch to the committer, one goroutine that gives
// log numbers and the commit index, applies the batch to Pebble (which makes it visible and queues its record for the
// write-ahead log) and releases the locks. A second goroutine, the syncer, waits for the fsyncs in the same order,
// moves the durable index and log tail forward, and wakes the caller. Whatever queues up while an fsync runs shares
// the next one.
package pebblekv

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/maphash"
	"io"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"golang.org/x/sync/semaphore"

	"firn"
	"firn/kv"
	"firn/vfs"
)

// Options are the settings of a DB. The zero value is usable and small.
type Options struct {
	// CacheBytes is the size of the block cache while all memtables are full. What they do not need holds blocks, too.
	// 0 means 8 MiB.
	CacheBytes int64
	// MemTableBytes is the size of one memtable; up to four may exist while writes outrun flushes. 0 means 16 MiB.
	MemTableBytes int64
	// QueueBytes bounds the bytes of keys and values of transactions between their writes and the commit being durable.
	// It takes up to four times as much memory, in batches and in the buffers of the write-ahead log. A transaction
	// that is larger goes alone. 0 means 32 MiB.
	QueueBytes int64
	// Relaxed acknowledges commits before they are written: a power loss, or the death of the process, takes back
	// the acknowledged commits of up to RelaxedInterval. Order and atomicity hold.
	Relaxed bool
	// RelaxedInterval is the time between background syncs in relaxed mode. 0 means 1 s.
	RelaxedInterval time.Duration
	// ValueSeparationMin is the size in bytes from which values live outside of the sorted tables, so that
	// compactions do not copy them. 0 means 2 KiB.
	ValueSeparationMin int
	// Logger gets the engine's messages. nil discards them.
	Logger *slog.Logger
	// OnFatal is called once, on its own goroutine, when the engine met an error it cannot go on from. Every call
	// returns kv.ErrClosed from then on; the process should end so that a restart recovers.
	OnFatal func(error)
}

func (o Options) withDefaults() Options {
	if o.CacheBytes <= 0 {
		o.CacheBytes = 8 << 20
	}
	if o.MemTableBytes <= 0 {
		o.MemTableBytes = 16 << 20
	}
	// Below this size batches of a few values would each be flushed on their own.
	o.MemTableBytes = max(o.MemTableBytes, 1<<20)
	if o.QueueBytes <= 0 {
		o.QueueBytes = 32 << 20
	}
	if o.RelaxedInterval <= 0 {
		o.RelaxedInterval = time.Second
	}
	if o.ValueSeparationMin <= 0 {
		o.ValueSeparationMin = 2 << 10
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return o
}

// DB is a kv.DB.
type DB struct {
	p     *pebble.DB
	fs    *guardFS
	dir   string
	cache *pebble.Cache
	o     Options
	// getOptions are the options of the iterators behind Get. Pebble copies them.
	getOptions *pebble.IterOptions
	seed       maphash.Seed
	stripes    []stripe
	// excl is held by the transaction that called Exclusive.
	excl lock

	room  *semaphore.Weighted // of o.QueueBytes
	queue chan *tx            // to the committer
	syncq chan *tx            // to the syncer, in commit order

	assigned  atomic.Uint64 // index of the newest commit that may be visible
	durable   atomic.Uint64 // index up to which commits are on stable storage
	logTail   atomic.Uint64 // newest durable log number
	logStart  atomic.Uint64 // oldest kept log number
	trimMu    sync.Mutex    // one trim at a time
	unsynced  atomic.Bool   // relaxed: commits since the last background sync
	nextLog   uint64        // the committer's: number of the next log entry
	nextIndex uint64        // the committer's: index of the next commit

	progress notifier

	calls   gate
	failed  chan struct{}
	failure atomic.Pointer[firn.Error] // set before failed is closed
	stop    context.CancelFunc         // ends the relaxed loop
	workers sync.WaitGroup
	// relaxedDone is closed when the relaxed loop has ended.
	relaxedDone chan struct{}
	txs         txPool

	stats stats
}

var _ kv.DB = (*DB)(nil)

// Keys of the engine's own, after every caller's key.
const (
	reserved   = 0xFF
	logLetter  = 'l'
	metaLetter = 'v'
	logKeyLen  = 10
	// schemaVersion is the version of docs/format/kv.md this release reads and writes.
	schemaVersion = 1
)

func appendLogKey(dst []byte, seq uint64) []byte {
	return binary.BigEndian.AppendUint64(append(dst, reserved, logLetter), seq)
}

// Open opens the database in dir, which is made where it is missing.
func Open(fsys vfs.FS, dir string, o Options) (*DB, error) {
	o = o.withDefaults()
	d := &DB{
		o:       o,
		dir:     dir,
		seed:    maphash.MakeSeed(),
		stripes: newStripes(),
		excl:    newLock(),
		room:    semaphore.NewWeighted(o.QueueBytes),
		queue:   make(chan *tx, queueLen),
		syncq:   make(chan *tx, queueLen),
		failed:  make(chan struct{}),

		relaxedDone: make(chan struct{}),
		getOptions:  &pebble.IterOptions{UseL6Filters: true},
	}
	d.progress.init()
	d.calls.init()
	if err := vfs.MkdirAllSync(fsys, dir, 0o700); err != nil {
		return nil, firn.E("open metadata store", dir, err)
	}
	// Pebble takes the memory of memtables out of its cache: one of CacheBytes would shrink to nothing under writes, and
	// each of them would read index and filters from the disk again.
	d.cache = pebble.NewCache(o.CacheBytes + memTables*o.MemTableBytes)
	if err := d.start(func() error { return d.openPebble(fsys, dir) }); err != nil {
		if vfs.IsNoSpace(err) {
			err = &firn.Error{Kind: firn.NoSpace, Err: fmt.Errorf(
				"the disk is full: free some space on it (%d MiB will do) and start again: %w", memTables*o.MemTableBytes>>20, err)}
		}
		return nil, firn.E("open metadata store", dir, mapError(err))
	}
	ctx, cancel := context.WithCancel(context.Background())
	d.stop = cancel
	d.workers.Add(2)
	go d.commitLoop()
	go d.syncLoop()
	if o.Relaxed {
		go d.relaxedLoop(ctx)
	} else {
		close(d.relaxedDone)
	}
	return d, nil
}

// start runs fn on a goroutine of its own and returns its error, or that of the failure that parked it.
func (d *DB) start(fn func() error) error {
	ch := make(chan error, 1)
	go func() {
		var err error
		defer func() {
			if v := recover(); v != nil {
				err = fmt.Errorf("pebble: %v", v)
			}
			ch <- err
		}()
		err = fn()
	}()
	select {
	case err := <-ch:
		return err
	case <-d.failed:
		return d.failure.Load()
	}
}

// openPebble opens the database and reads what the DB keeps in memory of it.
func (d *DB) openPebble(fsys vfs.FS, dir string) error {
	guard := &guardFS{FS: fsys, d: d}
	d.fs = guard
	if err := checkManifest(fsys, dir); err != nil {
		d.cache.Unref()
		return err
	}
	p, err := pebble.Open(dir, d.pebbleOptions(guard))
	if err != nil {
		d.cache.Unref()
		if log := guard.replaying.Load(); log != nil && pebble.IsCorruptionError(err) {
			// Pebble replays the logs last, so the newest one it opened is the one it could not read.
			err = &firn.Error{Kind: firn.Corrupt, Err: fmt.Errorf(
				"%s is damaged in the middle: acknowledged writes follow the damage; restore from a backup: %w",
				*log, err)}
		}
		return err
	}
	d.p = p
	guard.armed.Store(true)
	if err := d.recover(); err != nil {
		return errors.Join(err, d.closePebble())
	}
	return nil
}

// recover reads the schema version and the ends of the log.
func (d *DB) recover() error {
	key := []byte{reserved, metaLetter}
	v, closer, err := d.p.Get(key)
	switch {
	case errors.Is(err, pebble.ErrNotFound):
		if err := d.p.Set(key, []byte{schemaVersion}, pebble.Sync); err != nil {
			return mapError(err)
		}
		// Pebble begins the log of a new store in an older format, in which damage looks like the end. The next log
		// has the format that tells up to where it was synced.
		if err := d.p.Flush(); err != nil {
			return mapError(err)
		}
	case err != nil:
		return mapError(err)
	default:
		ok := len(v) == 1 && v[0] == schemaVersion
		if err := closer.Close(); err != nil {
			return mapError(err)
		}
		if !ok {
			return firn.NewError(firn.Unsupported, "metadata is stored in a format this release does not know")
		}
	}
	it, err := d.p.NewIter(&pebble.IterOptions{
		LowerBound: []byte{reserved, logLetter}, UpperBound: []byte{reserved, logLetter + 1},
	})
	if err != nil {
		return mapError(err)
	}
	start, tail := uint64(1), uint64(0)
	if it.First() {
		start, err = logSeq(it.Key())
	}
	if err == nil && it.Last() {
		tail, err = logSeq(it.Key())
	}
	if err = errors.Join(err, it.Error(), it.Close()); err != nil {
		return mapError(err)
	}
	d.logStart.Store(start)
	d.logTail.Store(tail)
	d.nextLog = tail + 1
	d.nextIndex = 1
	return nil
}

func logSeq(key []byte) (uint64, error) {
	if len(key) != logKeyLen {
		return 0, firn.NewError(firn.Corrupt, "a log key has the wrong length")
	}
	return binary.BigEndian.Uint64(key[2:]), nil
}

// fail marks the DB failed; the first cause counts.
func (d *DB) fail(cause error) {
	e := &firn.Error{
		Kind: firn.Unavailable, Op: "metadata store",
		Err: &failure{cause: cause},
	}
	if !d.failure.CompareAndSwap(nil, e) {
		return
	}
	close(d.failed)
	d.o.Logger.Error("metadata store failed; nothing more is written until a restart", "err", cause)
	if d.o.OnFatal != nil {
		go d.o.OnFatal(e)
	}
}

// failure is kv.ErrClosed with the reason.
type failure struct{ cause error }

func (f *failure) Error() string { return kv.ErrClosed.Error() + " after an error: " + f.cause.Error() }

func (f *failure) Unwrap() []error { return []error{kv.ErrClosed, f.cause} }

// enter begins a call; leave ends it.
func (d *DB) enter() error {
	if e := d.failure.Load(); e != nil {
		return e
	}
	if !d.calls.enter() {
		return kv.ErrClosed
	}
	return nil
}

// Close waits for running calls and closes the engine. After a failure it releases what it safely can: Pebble may have
// parked goroutines that hold its locks, so its files stay open until the process ends.
func (d *DB) Close() error {
	if !d.calls.close() {
		return kv.ErrClosed
	}
	d.stop()
	<-d.relaxedDone
	close(d.queue)
	if d.failure.Load() != nil {
		return nil
	}
	return d.start(func() error {
		d.workers.Wait()
		if e := d.failure.Load(); e != nil {
			return e
		}
		if err := d.flush(); err != nil {
			return errors.Join(err, d.closePebble())
		}
		return d.closePebble()
	})
}

// maxFlush bounds the wait for the flush of a clean stop. What is not flushed by then stays in the log.
const maxFlush = 10 * time.Second

// flush moves all that the log holds to tables, unless that fails: then it stays in the log. Tables tell damage from
// an end wherever it is, logs do not.
func (d *DB) flush() error {
	if d.fs.retries.Load() > 0 {
		return nil
	}
	// Without room it would fail on the log it begins, which would be fatal.
	if u, err := d.fs.GetDiskUsage(d.dir); err == nil && u.AvailBytes < uint64(2*d.o.MemTableBytes) {
		return nil
	}
	flushed, err := d.p.AsyncFlush()
	if err != nil {
		return mapError(err)
	}
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for begun := time.Now(); d.fs.retries.Load() == 0 && time.Since(begun) < maxFlush; {
		select {
		case <-flushed:
			return nil
		case <-tick.C:
		}
	}
	return nil
}

func (d *DB) closePebble() error {
	err := d.p.Close()
	d.cache.Unref()
	return mapError(err)
}

// mapError gives an error of Pebble its kind.
func mapError(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, pebble.ErrNotFound):
		return kv.ErrNotFound
	case errors.Is(err, pebble.ErrClosed):
		return kv.ErrClosed
	case vfs.IsNoSpace(err):
		return &firn.Error{Kind: firn.NoSpace, Err: err}
	case pebble.IsCorruptionError(err):
		return &firn.Error{Kind: firn.Corrupt, Err: err}
	}
	return err
}

// drop closes c where its error tells nothing of use.
func drop(c io.Closer) { _ = c.Close() }
