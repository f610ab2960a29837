package pebblekv

import (
	"context"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/bloom"
	"github.com/cockroachdb/pebble/v2/sstable/block"

	"firn"
)

// stats counts what Pebble does not.
type stats struct {
	commits          atomic.Uint64
	queued           atomic.Int64
	stalls           atomic.Uint64
	stallNanos       atomic.Int64
	stallStart       atomic.Int64 // unix nanoseconds, 0 while not stalled
	backgroundErrors atomic.Uint64
	corruptions      atomic.Uint64
}

// LevelMetrics describes one level of the tree.
type LevelMetrics struct {
	Files    int64
	Bytes    int64
	Score    float64 // above 1 it waits for a compaction
	BytesIn  uint64  // read from the level above by compactions into this one
	BytesOut uint64  // written to it by flushes and compactions
}

// Metrics is a snapshot of the engine's counters and gauges. Counters count from Open.
type Metrics struct {
	Levels [7]LevelMetrics

	Commits       uint64 // transactions that became durable
	QueuedBytes   int64  // of keys and values of transactions that are not durable yet, small transactions left out
	LogStart      uint64
	LogTail       uint64
	DurableIndex  uint64
	VisibleIndex  uint64
	DiskBytes     uint64 // all files
	MemTableBytes uint64
	MemTables     int64

	WALFiles        int64
	WALBytes        uint64 // on disk
	WALBytesWritten uint64

	BlobFiles           uint64 // files of separated values
	BlobBytes           uint64
	BlobValueBytes      uint64 // values in them
	BlobReferencedBytes uint64 // of those, still in use; the rest is reclaimed by rewrites

	CacheBytes  int64
	CacheHits   int64
	CacheMisses int64

	Flushes            int64
	FlushBytes         uint64
	Compactions        int64
	CompactionsRunning int64
	CompactionDebt     uint64 // bytes to compact before the tree is in shape
	CompactionTime     time.Duration
	ReadAmplification  int

	Stalls           uint64 // times that writes were stopped until flushes or compactions caught up
	StallTime        time.Duration
	Stalled          bool
	BackgroundErrors uint64
	Corruptions      uint64
}

// Metrics returns the current counters. It may take some 100 microseconds. After a failure it returns only what is at
// hand without asking Pebble, whose locks may be held for good.
func (d *DB) Metrics() Metrics {
	m := Metrics{
		Commits:          d.stats.commits.Load(),
		QueuedBytes:      d.stats.queued.Load(),
		LogStart:         d.logStart.Load(),
		LogTail:          d.logTail.Load(),
		DurableIndex:     d.durable.Load(),
		VisibleIndex:     d.assigned.Load(),
		Stalls:           d.stats.stalls.Load(),
		StallTime:        time.Duration(d.stats.stallNanos.Load()),
		Stalled:          d.stats.stallStart.Load() != 0,
		BackgroundErrors: d.stats.backgroundErrors.Load(),
		Corruptions:      d.stats.corruptions.Load(),
	}
	if d.enter() != nil {
		return m
	}
	defer d.calls.leave()
	p := d.p.Metrics()
	for i := range p.Levels {
		l := &p.Levels[i]
		m.Levels[i] = LevelMetrics{
			Files: l.TablesCount, Bytes: l.TablesSize, Score: l.Score,
			BytesIn: l.TableBytesIn, BytesOut: l.TableBytesFlushed + l.TableBytesCompacted,
		}
		m.FlushBytes += l.TableBytesFlushed + l.BlobBytesFlushed
	}
	m.DiskBytes = p.DiskSpaceUsage()
	m.MemTableBytes, m.MemTables = p.MemTable.Size, p.MemTable.Count
	m.WALFiles, m.WALBytes = p.WAL.Files, p.WAL.PhysicalSize+p.WAL.ObsoletePhysicalSize
	m.WALBytesWritten = p.WAL.BytesWritten
	m.BlobFiles, m.BlobBytes = p.BlobFiles.LiveCount, p.BlobFiles.LiveSize
	m.BlobValueBytes, m.BlobReferencedBytes = p.BlobFiles.ValueSize, p.BlobFiles.ReferencedValueSize
	m.CacheBytes, m.CacheHits, m.CacheMisses = p.BlockCache.Size, p.BlockCache.Hits, p.BlockCache.Misses
	m.Flushes = p.Flush.Count
	m.Compactions, m.CompactionsRunning = p.Compact.Count, p.Compact.NumInProgress
	m.CompactionDebt, m.CompactionTime = p.Compact.EstimatedDebt, p.Compact.Duration
	m.ReadAmplification = p.ReadAmp()
	return m
}

// memTables ride out a slow flush; more would only delay the stall.
const memTables = 4

// pebbleOptions returns Pebble's settings.
func (d *DB) pebbleOptions(fsys *guardFS) *pebble.Options {
	o := &pebble.Options{
		FS:                          fsys,
		Cache:                       d.cache,
		MemTableSize:                uint64(d.o.MemTableBytes),
		MemTableStopWritesThreshold: memTables,
		// Values are mostly separated, so tables in level 0 are small and cheap to merge. Stopping writes late keeps
		// bursts level.
		L0CompactionThreshold: 4,
		L0StopWritesThreshold: 40,
		LBaseMaxBytes:         64 << 20,
		FormatMajorVersion:    pebble.FormatValueSeparation,
		MaxOpenFiles:          512,
		MaxManifestFileSize:   16 << 20,
		// One compaction, two when it falls behind: the foreground needs the other cores.
		CompactionConcurrencyRange: func() (int, int) { return 1, 2 },
		FlushDelayDeleteRange:      10 * time.Second,
		Logger:                     &logger{d: d},
		EventListener: &pebble.EventListener{
			BackgroundError: func(err error) {
				d.stats.backgroundErrors.Add(1)
				d.o.Logger.Warn("metadata store: background work failed and is tried again", "err", err)
				fsys.backgroundFailed(err)
			},
			FlushEnd:      func(info pebble.FlushInfo) { fsys.backgroundDone(info.Err) },
			CompactionEnd: func(info pebble.CompactionInfo) { fsys.backgroundDone(info.Err) },
			// A damaged table fails the reads that need it and nothing else; Pebble's default would end the process.
			DataCorruption: func(info pebble.DataCorruptionInfo) {
				d.stats.corruptions.Add(1)
				d.o.Logger.Error("metadata store: corrupt file", "path", info.Path, "err", info.Details)
			},
			WriteStallBegin: func(info pebble.WriteStallBeginInfo) {
				d.stats.stalls.Add(1)
				d.stats.stallStart.Store(time.Now().UnixNano())
				d.o.Logger.Debug("metadata store: writes wait", "reason", info.Reason)
			},
			WriteStallEnd: func() {
				if start := d.stats.stallStart.Swap(0); start != 0 {
					d.stats.stallNanos.Add(time.Now().UnixNano() - start)
				}
			},
		},
	}
	// Metadata is worth compressing, with the fastest there is. Separated values are contents of objects, mostly
	// incompressible already; those that are not are the business of a codec of package block.
	profile := *block.FastestCompression
	profile.ValueBlocks = block.NoCompression.ValueBlocks
	for i := range o.Levels {
		l := &o.Levels[i]
		l.BlockSize = 8 << 10
		l.IndexBlockSize = 64 << 10
		l.Compression = func() *block.CompressionProfile { return &profile }
		// 10 bits a key in the last level too, where most keys are: a PUT of a new key would read a block there
		// to find that the key is missing.
		l.FilterPolicy = bloom.FilterPolicy(10)
	}
	o.Experimental.L0CompactionConcurrency = 4
	o.Experimental.CompactionDebtConcurrency = 256 << 20
	o.Experimental.FileCacheShards = 2
	separation := pebble.ValueSeparationPolicy{
		Enabled:               true,
		MinimumSize:           d.o.ValueSeparationMin,
		MaxBlobReferenceDepth: 10,
		RewriteMinimumAge:     time.Minute,
		TargetGarbageRatio:    0.25,
	}
	o.Experimental.ValueSeparationPolicy = func() pebble.ValueSeparationPolicy { return separation }
	// Log entries live briefly and are read in order: they stay in the tables, and in tables of their own, which a
	// trim drops whole.
	o.Experimental.SpanPolicyFunc = func(start []byte) (pebble.SpanPolicy, []byte, error) {
		if len(start) > 0 && start[0] == reserved {
			return pebble.SpanPolicy{
				PreferFastCompression: true, ValueStoragePolicy: pebble.ValueStorageLowReadLatency,
			}, nil, nil
		}
		return pebble.SpanPolicy{DisableValueSeparationBySuffix: true}, []byte{reserved}, nil
	}
	return o
}

// logger passes Pebble's messages on.
type logger struct{ d *DB }

func (l *logger) log(level slog.Level, format string, args []any) {
	ctx := context.Background()
	if l.d.o.Logger.Enabled(ctx, level) {
		l.d.o.Logger.Log(ctx, level, "pebble: "+fmt.Sprintf(format, args...))
	}
}

// Infof implements pebble.Logger.
func (l *logger) Infof(format string, args ...any) { l.log(slog.LevelDebug, format, args) }

// Errorf implements pebble.Logger.
func (l *logger) Errorf(format string, args ...any) { l.log(slog.LevelWarn, format, args) }

// Fatalf implements pebble.Logger, which forbids it to return. It parks the goroutine: ending the process is not a
// library's decision, and going on would write after a failed sync.
func (l *logger) Fatalf(format string, args ...any) {
	l.d.fail(&firn.Error{Op: "pebble", Err: fmt.Errorf(format, args...)})
	select {}
}
