package node

import (
	"context"
	"errors"

	"firn/telemetry"
	"firn/vfs"
)

func gauge(name, help string) telemetry.Desc { return telemetry.Desc{Name: name, Help: help} }

func counter(name, help string) telemetry.Desc {
	return telemetry.Desc{Name: name, Help: help, Kind: telemetry.Counter}
}

func byBucket(name, help string) telemetry.Desc {
	return telemetry.Desc{Name: name, Help: help + ", by bucket; the first 1000 buckets.", Label: "bucket"}
}

// register adds the metrics of the engines.
func (n *Node) register() error {
	one := func(v float64) []telemetry.Sample { return []telemetry.Sample{{Value: v}} }
	err := n.metrics.Collect(func() [][]telemetry.Sample {
		u, err := vfs.OS().GetDiskUsage(n.dir.Path)
		if err != nil {
			return nil
		}
		return [][]telemetry.Sample{one(float64(u.TotalBytes)), one(float64(u.AvailBytes)), one(float64(n.cfg.Reserve))}
	},
		gauge("firn_disk_total_bytes", "Size of the file system of the data directory."),
		gauge("firn_disk_free_bytes", "Bytes of it that firn may still use, the reserve included."),
		gauge("firn_disk_reserve_bytes", "Free bytes below which writes are refused."),
	)
	if err != nil {
		return err
	}
	return errors.Join(n.registerStore(one), n.registerKV(one))
}

func (n *Node) registerStore(one func(float64) []telemetry.Sample) error {
	return n.metrics.Collect(func() [][]telemetry.Sample {
		s := n.engine.store.Stats()
		out := [][]telemetry.Sample{
			one(float64(s.Buckets)), one(float64(s.GarbageQueued)), one(float64(s.BlobsRemoved)),
			one(float64(s.BytesInFlight)), one(float64(s.UploadsExpired)), one(float64(s.JournalTail)),
			one(float64(s.ScrubbedBytes)), one(float64(s.ScrubbedItems)), one(float64(s.ScrubRounds)),
			one(float64(s.CorruptFound)), one(float64(s.RefusedForSpace)),
		}
		return append(out, n.bucketSamples()...)
	},
		gauge("firn_buckets", "Buckets of the site."),
		gauge("firn_garbage_queued_blobs", "Freed part files seen and not yet removed."),
		counter("firn_garbage_removed_blobs_total", "Part files removed."),
		gauge("firn_store_in_flight_bytes", "Bytes admitted for writing and not yet stored."),
		counter("firn_uploads_expired_total", "Abandoned multipart uploads removed."),
		gauge("firn_journal_last_sequence", "Sequence number of the newest durable journal entry."),
		counter("firn_scrub_bytes_total", "Bytes the scrubber checked."),
		counter("firn_scrub_items_total", "Values and part files the scrubber checked."),
		counter("firn_scrub_rounds_total", "Rounds the scrubber finished."),
		counter("firn_corrupt_total", "Stored values that did not match their checksum, found by reads and the scrubber."),
		counter("firn_refused_for_space_total", "Writes refused because the disk is nearly full."),
		byBucket("firn_bucket_objects", "Current objects"),
		byBucket("firn_bucket_versions", "All versions, delete markers included"),
		byBucket("firn_bucket_bytes", "Bytes of all versions"),
	)
}

// maxBucketSamples bounds the label values of the metrics by bucket.
const maxBucketSamples = 1000

func (n *Node) bucketSamples() [][]telemetry.Sample {
	ctx := context.Background()
	buckets, err := n.engine.store.Buckets(ctx)
	if err != nil {
		return nil
	}
	out := make([][]telemetry.Sample, 3)
	for _, b := range buckets[:min(len(buckets), maxBucketSamples)] {
		u, err := n.engine.store.Usage(ctx, b.Name)
		if err != nil {
			continue
		}
		for i, v := range []int64{u.Objects, u.Versions, u.Bytes} {
			out[i] = append(out[i], telemetry.Sample{Label: b.Name, Value: float64(v)})
		}
	}
	return out
}

func (n *Node) registerKV(one func(float64) []telemetry.Sample) error {
	return n.metrics.Collect(func() [][]telemetry.Sample {
		m := n.engine.db.Metrics()
		stalled := 0.0
		if m.Stalled {
			stalled = 1
		}
		return [][]telemetry.Sample{
			one(float64(m.Commits)), one(float64(m.QueuedBytes)), one(float64(m.DiskBytes)),
			one(float64(m.MemTableBytes)), one(float64(m.WALBytes)),
			one(float64(m.WALBytesWritten)), one(float64(m.BlobBytes)), one(float64(m.BlobValueBytes)),
			one(float64(m.BlobReferencedBytes)), one(float64(m.CacheBytes)), one(float64(m.CacheHits)),
			one(float64(m.CacheMisses)), one(float64(m.Flushes)), one(float64(m.Compactions)),
			one(float64(m.CompactionDebt)), one(m.CompactionTime.Seconds()), one(float64(m.ReadAmplification)),
			one(float64(m.Stalls)), one(m.StallTime.Seconds()), one(stalled), one(float64(m.BackgroundErrors)),
			one(float64(m.Corruptions)),
		}
	},
		counter("firn_kv_commits_total", "Transactions that became durable."),
		gauge("firn_kv_queued_bytes", "Bytes of transactions that are not durable yet, small ones left out."),
		gauge("firn_kv_disk_bytes", "Bytes of all files of the metadata store."),
		gauge("firn_kv_memtable_bytes", "Bytes of its memtables."),
		gauge("firn_kv_wal_bytes", "Bytes of its write-ahead log on disk."),
		counter("firn_kv_wal_written_bytes_total", "Bytes written to its write-ahead log."),
		gauge("firn_kv_blob_bytes", "Bytes of its files of separated values."),
		gauge("firn_kv_blob_value_bytes", "Bytes of values in those."),
		gauge("firn_kv_blob_referenced_bytes", "Bytes of those values still in use; the rest is reclaimed by rewriting."),
		gauge("firn_kv_cache_bytes", "Bytes in the block cache."),
		counter("firn_kv_cache_hits_total", "Blocks found in the block cache."),
		counter("firn_kv_cache_misses_total", "Blocks read from files."),
		counter("firn_kv_flushes_total", "Memtables written out."),
		counter("firn_kv_compactions_total", "Compactions."),
		gauge("firn_kv_compaction_debt_bytes", "Bytes to compact before the tree is in shape."),
		counter("firn_kv_compaction_seconds_total", "Time spent compacting."),
		gauge("firn_kv_read_amplification", "Sorted runs a read may have to look into."),
		counter("firn_kv_write_stalls_total", "Times writes waited for flushes or compactions."),
		counter("firn_kv_write_stall_seconds_total", "Time writes waited so."),
		gauge("firn_kv_write_stalled", "1 while writes wait."),
		counter("firn_kv_background_errors_total", "Flushes and compactions that failed, to be tried again."),
		counter("firn_kv_corruptions_total", "Corrupt files met by the metadata store."),
	)
}
