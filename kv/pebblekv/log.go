package pebblekv

import (
	"context"
	"errors"
	"fmt"

	"github.com/cockroachdb/pebble/v2"

	"firn"
	"firn/kv"
)

// logChunk is the number of entries read from one iterator, so that a slow consumer does not pin old files for long.
const logChunk = 1024

// LogTail implements kv.DB.
func (d *DB) LogTail() uint64 { return d.logTail.Load() }

// LogStart implements kv.DB.
func (d *DB) LogStart() (uint64, error) {
	if err := d.enter(); err != nil {
		return 0, err
	}
	defer d.calls.leave()
	return d.logStart.Load(), nil
}

// WaitLog implements kv.DB.
func (d *DB) WaitLog(ctx context.Context, after uint64) error {
	if err := d.enter(); err != nil {
		return err
	}
	defer d.calls.leave()
	if after == ^uint64(0) {
		<-ctx.Done()
		return ctx.Err()
	}
	return d.waitFor(ctx, &d.logTail, after+1, d.calls.closing)
}

// ReadLog implements kv.DB. from 0 is the same as 1.
func (d *DB) ReadLog(ctx context.Context, from uint64, fn func(kv.LogEntry) error) error {
	if err := d.enter(); err != nil {
		return err
	}
	defer d.calls.leave()
	from = max(from, 1)
	for {
		tail := d.logTail.Load()
		if from < d.logStart.Load() {
			return kv.ErrTrimmed
		}
		if from > tail {
			return nil
		}
		next, err := d.readChunk(ctx, from, min(tail, from+logChunk-1), fn)
		if err != nil {
			return err
		}
		from = next
	}
}

// readChunk reads the entries first to last.
func (d *DB) readChunk(ctx context.Context, first, last uint64, fn func(kv.LogEntry) error) (next uint64, err error) {
	it, err := d.p.NewIter(&pebble.IterOptions{
		LowerBound: appendLogKey(nil, first), UpperBound: appendLogKey(nil, last+1),
	})
	if err != nil {
		return 0, mapError(err)
	}
	defer func() { err = errors.Join(err, mapError(it.Close())) }()
	want := first
	for ok := it.First(); ok; ok = it.Next() {
		if err := ctx.Err(); err != nil {
			return 0, err
		}
		seq, err := logSeq(it.Key())
		if err != nil {
			return 0, err
		}
		if seq != want {
			break
		}
		v, err := it.ValueAndErr()
		if err != nil {
			return 0, mapError(err)
		}
		if err := fn(kv.LogEntry{Seq: seq, Data: v}); err != nil {
			return 0, err
		}
		want++
	}
	if err := it.Error(); err != nil {
		return 0, mapError(err)
	}
	if want <= last {
		if want < d.logStart.Load() {
			return 0, kv.ErrTrimmed
		}
		return 0, &firn.Error{
			Kind: firn.Corrupt, Op: "read log", Err: fmt.Errorf("entry %d of %d is missing", want, last),
		}
	}
	return want, nil
}

// TrimLog implements kv.DB.
func (d *DB) TrimLog(ctx context.Context, before uint64) error {
	if err := d.enter(); err != nil {
		return err
	}
	defer d.calls.leave()
	d.trimMu.Lock()
	defer d.trimMu.Unlock()
	before = min(before, d.logTail.Load())
	if before <= d.logStart.Load() {
		return nil
	}
	t := d.txs.get(d)
	t.batch = d.p.NewBatch()
	// From the very beginning, so that this tombstone swallows those of earlier trims.
	if err := t.batch.DeleteRange(appendLogKey(nil, 0), appendLogKey(nil, before), nil); err != nil {
		d.txs.put(t)
		return mapError(err)
	}
	// First the number, then the entries: a reader that misses one must find out why. A crash between the two keeps
	// the entries, which is no loss.
	start := d.logStart.Swap(before)
	if err := d.commit(ctx, t); err != nil {
		if d.failure.Load() == nil {
			d.logStart.Store(start)
		}
		return err
	}
	return nil
}
