package node

import (
	"context"
	"errors"
	"log"
	"log/slog"
	"os"
	"time"

	"firn"
	"firn/adminapi"
	"firn/hlc"
	"firn/kv"
	"firn/object"
	"firn/telemetry"
	"firn/vfs"
)

// siteView is the node as the admin endpoint sees it.
type siteView struct{ n *Node }

// Ready implements adminapi.Site.
func (v siteView) Ready() error {
	switch {
	case v.n.draining.Load():
		return firn.NewError(firn.Unavailable, "the site is stopping")
	case len(v.n.fatal) > 0:
		return kv.ErrClosed
	case v.n.cfg.Reserve > 0:
		if u, err := vfs.OS().GetDiskUsage(v.n.dir.Path); err == nil && u.AvailBytes <= uint64(v.n.cfg.Reserve) {
			return object.ErrNoSpace
		}
	}
	return nil
}

// Status implements adminapi.Site.
func (v siteView) Status(ctx context.Context) (adminapi.Status, error) {
	n := v.n
	st := n.engine.store.Stats()
	s := adminapi.Status{
		Version: firn.Version, Started: n.started, UptimeSeconds: time.Since(n.started).Seconds(), PID: os.Getpid(),
		Data: n.dir.Path, Listen: n.s3.Addr().String(), Region: n.cfg.Region, Durability: n.cfg.Durability,
		Disk:   adminapi.Disk{Reserve: int64(n.cfg.Reserve)},
		Memory: adminapi.ProcessMemory{Limit: int64(n.cfg.MemoryLimit), Resident: resident()},
		Scrub: adminapi.ScrubStatus{
			Rate: int64(n.cfg.ScrubRate), Rounds: st.ScrubRounds, Items: st.ScrubbedItems, Bytes: st.ScrubbedBytes,
			Corrupt: st.CorruptFound,
		},
		Buckets: []adminapi.BucketStatus{},
	}
	if u, err := vfs.OS().GetDiskUsage(n.dir.Path); err == nil {
		s.Disk.Total, s.Disk.Free = u.TotalBytes, u.AvailBytes
	}
	first, err := n.engine.store.JournalStart()
	if err != nil {
		return s, err
	}
	s.Journal = adminapi.JournalStatus{First: first, Last: n.engine.store.JournalTail()}
	buckets, err := n.engine.store.Buckets(ctx)
	if err != nil {
		return s, err
	}
	for _, b := range buckets {
		u, err := n.engine.store.Usage(ctx, b.Name)
		if errors.Is(err, object.ErrNoSuchBucket) {
			continue // removed meanwhile
		}
		if err != nil {
			return s, err
		}
		s.Buckets = append(s.Buckets, adminapi.BucketStatus{
			Name: b.Name, Created: b.Created, Objects: u.Objects, Versions: u.Versions, Bytes: u.Bytes,
			Versioning: versioningName(b.Versioning),
		})
	}
	return s, nil
}

func versioningName(v object.Versioning) string {
	switch v {
	case object.VersioningEnabled:
		return "enabled"
	case object.VersioningSuspended:
		return "suspended"
	}
	return "off"
}

// Journal implements adminapi.Site.
func (v siteView) Journal(ctx context.Context, from uint64, follow bool, fn func(adminapi.JournalEntry) error) error {
	store := v.n.engine.store
	if from == 0 {
		first, err := store.JournalStart()
		if err != nil {
			return err
		}
		from = first
	}
	for {
		err := store.Journal(ctx, from, func(e object.Entry) error {
			from = e.Seq + 1
			return fn(journalEntry(e))
		})
		if err != nil || !follow {
			return err
		}
		if err := store.WaitJournal(ctx, from-1); err != nil {
			return err
		}
	}
}

func journalEntry(e object.Entry) adminapi.JournalEntry {
	return adminapi.JournalEntry{
		Seq: e.Seq, Time: hlc.Time(e.Clock).Wall().UTC(), Op: e.Op.String(), Bucket: e.Bucket, Key: e.Key,
		VersionID: e.VersionID, Size: e.Size, ETag: e.ETag, Site: e.Site,
	}
}

// Check implements adminapi.Site.
func (v siteView) Check(ctx context.Context, o adminapi.CheckOptions, found func(adminapi.Problem) error) (adminapi.CheckSummary, error) {
	return check(ctx, v.n.engine.store, o, found)
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
		telemetry.Desc{Name: "firn_disk_total_bytes", Help: "Size of the file system of the data directory."},
		telemetry.Desc{Name: "firn_disk_free_bytes", Help: "Bytes of it that firn may still use, the reserve included."},
		telemetry.Desc{Name: "firn_disk_reserve_bytes", Help: "Free bytes below which writes are refused."},
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
		telemetry.Desc{Name: "firn_buckets", Help: "Buckets of the site."},
		telemetry.Desc{Name: "firn_garbage_queued_blobs", Help: "Freed part files seen and not yet removed."},
		telemetry.Desc{Name: "firn_garbage_removed_blobs_total", Help: "Part files removed.", Kind: telemetry.Counter},
		telemetry.Desc{Name: "firn_store_in_flight_bytes", Help: "Bytes admitted for writing and not yet stored."},
		telemetry.Desc{Name: "firn_uploads_expired_total", Help: "Abandoned multipart uploads removed.", Kind: telemetry.Counter},
		telemetry.Desc{Name: "firn_journal_last_sequence", Help: "Sequence number of the newest durable journal entry."},
		telemetry.Desc{Name: "firn_scrub_bytes_total", Help: "Bytes the scrubber checked.", Kind: telemetry.Counter},
		telemetry.Desc{Name: "firn_scrub_items_total", Help: "Values and part files the scrubber checked.", Kind: telemetry.Counter},
		telemetry.Desc{Name: "firn_scrub_rounds_total", Help: "Rounds the scrubber finished.", Kind: telemetry.Counter},
		telemetry.Desc{Name: "firn_corrupt_total", Help: "Values and part files that did not match their checksum, found by reads and the scrubber.", Kind: telemetry.Counter},
		telemetry.Desc{Name: "firn_refused_for_space_total", Help: "Writes refused because the disk is nearly full.", Kind: telemetry.Counter},
		telemetry.Desc{Name: "firn_bucket_objects", Help: "Current objects, by bucket; the first 1000 buckets.", Label: "bucket"},
		telemetry.Desc{Name: "firn_bucket_versions", Help: "All versions, delete markers included, by bucket; the first 1000 buckets.", Label: "bucket"},
		telemetry.Desc{Name: "firn_bucket_bytes", Help: "Bytes of all versions, by bucket; the first 1000 buckets.", Label: "bucket"},
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
			one(float64(m.Commits)), one(float64(m.DiskBytes)), one(float64(m.MemTableBytes)), one(float64(m.WALBytes)),
			one(float64(m.WALBytesWritten)), one(float64(m.BlobBytes)), one(float64(m.BlobValueBytes)),
			one(float64(m.BlobReferencedBytes)), one(float64(m.CacheBytes)), one(float64(m.CacheHits)),
			one(float64(m.CacheMisses)), one(float64(m.Flushes)), one(float64(m.Compactions)),
			one(float64(m.CompactionDebt)), one(m.CompactionTime.Seconds()), one(float64(m.ReadAmplification)),
			one(float64(m.Stalls)), one(m.StallTime.Seconds()), one(stalled), one(float64(m.BackgroundErrors)),
			one(float64(m.Corruptions)),
		}
	},
		telemetry.Desc{Name: "firn_kv_commits_total", Help: "Transactions that became durable.", Kind: telemetry.Counter},
		telemetry.Desc{Name: "firn_kv_disk_bytes", Help: "Bytes of all files of the metadata store."},
		telemetry.Desc{Name: "firn_kv_memtable_bytes", Help: "Bytes of its memtables."},
		telemetry.Desc{Name: "firn_kv_wal_bytes", Help: "Bytes of its write-ahead log on disk."},
		telemetry.Desc{Name: "firn_kv_wal_written_bytes_total", Help: "Bytes written to its write-ahead log.", Kind: telemetry.Counter},
		telemetry.Desc{Name: "firn_kv_blob_bytes", Help: "Bytes of its files of separated values."},
		telemetry.Desc{Name: "firn_kv_blob_value_bytes", Help: "Bytes of values in those."},
		telemetry.Desc{Name: "firn_kv_blob_referenced_bytes", Help: "Bytes of those values still in use; the rest is reclaimed by rewriting."},
		telemetry.Desc{Name: "firn_kv_cache_bytes", Help: "Bytes in the block cache."},
		telemetry.Desc{Name: "firn_kv_cache_hits_total", Help: "Blocks found in the block cache.", Kind: telemetry.Counter},
		telemetry.Desc{Name: "firn_kv_cache_misses_total", Help: "Blocks read from files.", Kind: telemetry.Counter},
		telemetry.Desc{Name: "firn_kv_flushes_total", Help: "Memtables written out.", Kind: telemetry.Counter},
		telemetry.Desc{Name: "firn_kv_compactions_total", Help: "Compactions.", Kind: telemetry.Counter},
		telemetry.Desc{Name: "firn_kv_compaction_debt_bytes", Help: "Bytes to compact before the tree is in shape."},
		telemetry.Desc{Name: "firn_kv_compaction_seconds_total", Help: "Time spent compacting.", Kind: telemetry.Counter},
		telemetry.Desc{Name: "firn_kv_read_amplification", Help: "Sorted runs a read may have to look into."},
		telemetry.Desc{Name: "firn_kv_write_stalls_total", Help: "Times writes waited for flushes or compactions.", Kind: telemetry.Counter},
		telemetry.Desc{Name: "firn_kv_write_stall_seconds_total", Help: "Time writes waited so.", Kind: telemetry.Counter},
		telemetry.Desc{Name: "firn_kv_write_stalled", Help: "1 while writes wait."},
		telemetry.Desc{Name: "firn_kv_background_errors_total", Help: "Flushes and compactions that failed and are tried again.", Kind: telemetry.Counter},
		telemetry.Desc{Name: "firn_kv_corruptions_total", Help: "Corrupt files met by the metadata store.", Kind: telemetry.Counter},
	)
}

func stdLog(l *slog.Logger, msg string) *log.Logger { return log.New(telemetry.Slogger(l, msg), "", 0) }
