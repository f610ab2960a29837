package object

import "sync/atomic"

// Stats are counters since the store was opened, and gauges.
type Stats struct {
	Buckets         int
	GarbageQueued   int64 // blobs seen on the garbage queue and not yet removed
	BlobsRemoved    int64
	BytesInFlight   int64 // admitted and not yet stored
	FreeBytes       int64 // above the reserve, as last asked
	UploadsExpired  int64
	JournalTail     uint64
	ScrubbedBytes   int64
	ScrubbedItems   int64
	ScrubRounds     int64
	CorruptFound    int64 // values and blobs that did not match, by reads and the scrubber
	RefusedForSpace int64
}

type stats struct {
	garbageQueued, blobsRemoved, uploadsExpired atomic.Int64
	scrubbedBytes, scrubbedItems, scrubRounds   atomic.Int64
	corrupt                                     atomic.Int64
}

// Stats returns the counters.
func (s *Store) Stats() Stats {
	s.buckets.RLock()
	n := len(s.buckets.m)
	s.buckets.RUnlock()
	return Stats{
		Buckets: n, GarbageQueued: s.stats.garbageQueued.Load(), BlobsRemoved: s.stats.blobsRemoved.Load(),
		BytesInFlight: s.space.InFlight(), FreeBytes: s.space.Free(),
		UploadsExpired: s.stats.uploadsExpired.Load(), JournalTail: s.db.LogTail(),
		ScrubbedBytes: s.stats.scrubbedBytes.Load(), ScrubbedItems: s.stats.scrubbedItems.Load(),
		ScrubRounds: s.stats.scrubRounds.Load(), CorruptFound: s.stats.corrupt.Load(),
		RefusedForSpace: s.space.Refused(),
	}
}
