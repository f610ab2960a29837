package object

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"time"

	"golang.org/x/sync/errgroup"

	"firn/hlc"
	"firn/kv"
	"firn/object/blobs"
	"firn/object/record"
)

const (
	collectBatch    = 256              // blobs removed for one commit
	collectInterval = 30 * time.Second // how soon a blob that a reader held is tried again
	sweepInterval   = 5 * time.Minute  // between looks for expired uploads and old journal entries
	completedKeep   = 24 * time.Hour   // how long a completed upload answers its completion again
)

// Run does the background work until ctx ends: removing freed blobs, expiring uploads, trimming the journal,
// saving counters, scrubbing. It returns nil when ctx ends and an error only where going on is pointless.
func (s *Store) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	every := func(d time.Duration, name string, wake <-chan struct{}, fn func(context.Context) error) {
		g.Go(func() error {
			t := time.NewTicker(d)
			defer t.Stop()
			for {
				if err := fn(ctx); err != nil && ctx.Err() == nil {
					if errors.Is(err, kv.ErrClosed) {
						return err
					}
					s.log.Error("background work failed and will be tried again", "work", name, "error", err)
				}
				select {
				case <-ctx.Done():
					return nil
				case <-t.C:
				case <-wake:
				}
			}
		})
	}
	every(collectInterval, "collect", s.garbage, func(ctx context.Context) error {
		_, err := s.Collect(ctx)
		return err
	})
	every(usageInterval, "save counters", nil, s.saveUsage)
	every(sweepInterval, "expire uploads", nil, s.expireUploads)
	every(sweepInterval, "free local copies", nil, func(ctx context.Context) error {
		_, err := s.ExpireLocal(ctx)
		return err
	})
	every(sweepInterval, "trim journal", nil, s.trimJournal)
	if s.o.ScrubBytesPerSecond > 0 {
		every(scrubInterval, "scrub", nil, s.scrub)
	}
	return g.Wait()
}

func (s *Store) wakeCollector() {
	select {
	case s.garbage <- struct{}{}:
	default:
	}
}

// Collect removes the blob files that no version needs any more and no reader holds, and returns how many.
// Run calls it whenever there is something to do.
func (s *Store) Collect(ctx context.Context) (removed int, err error) {
	s.collecting.Lock()
	defer s.collecting.Unlock()
	from := []byte{record.TagGarbage}
	queued := int64(0)
	for {
		keys := make([][]byte, 0, collectBatch)
		err := s.db.View(ctx, func(r kv.Reader) error {
			keys = keys[:0]
			err := kv.Scan(r, from, []byte{record.TagGarbage + 1}, func(k, _ []byte) error {
				if len(k) != 9+len(record.BlobID{}) {
					return record.ErrBroken
				}
				keys = append(keys, bytes.Clone(k))
				if len(keys) == collectBatch {
					return errStop
				}
				return nil
			})
			if errors.Is(err, errStop) {
				err = nil
			}
			return err
		})
		if err != nil || len(keys) == 0 {
			s.stats.garbageQueued.Store(queued)
			return removed, err
		}
		from = append(bytes.Clone(keys[len(keys)-1]), 0)
		// View returned, so the entries are durable and so is what freed the blobs. Readers that found an old
		// record have pinned by the end of the grace period; none can find it after that.
		if err := s.grace.Wait(ctx); err != nil {
			return removed, err
		}
		var gone [][]byte
		var ids []blobs.ID
		for _, k := range keys {
			id := blobs.ID(k[9:])
			if s.blobs.Pinned(id) {
				queued++
				continue
			}
			if err := s.blobs.Remove(id); err != nil {
				return removed, err
			}
			gone = append(gone, k)
			ids = append(ids, id)
		}
		if len(gone) == 0 {
			continue
		}
		if err := s.blobs.SyncDirs(ids); err != nil {
			return removed, err
		}
		err = s.db.Update(ctx, func(tx kv.Tx) error {
			for _, k := range gone {
				tx.Delete(k)
			}
			return nil
		})
		if err != nil {
			return removed, err
		}
		removed += len(gone)
		s.stats.blobsRemoved.Add(int64(len(gone)))
	}
}

// expireUploads removes uploads that nobody went on with, and forgets old completions.
func (s *Store) expireUploads(ctx context.Context) error {
	now := s.o.Now()
	before := uint64(hlc.FromWall(now.Add(-s.o.UploadMaxAge)))
	type found struct {
		bucket uint64
		key    string
		id     [record.UploadIDLen]byte
	}
	var old []found
	var done [][]byte
	err := s.db.View(ctx, func(r kv.Reader) error {
		old, done = nil, nil
		err := kv.Scan(r, []byte{record.TagUpload}, []byte{record.TagUpload + 1}, func(k, _ []byte) error {
			f := found{}
			if len(k) < 9+2+record.UploadIDLen {
				return record.ErrBroken
			}
			f.bucket = binary.BigEndian.Uint64(k[1:])
			key, id, ok := record.Unescape(nil, k[9:])
			if !ok || len(id) != record.UploadIDLen {
				return record.ErrBroken
			}
			f.key, f.id = string(key), [record.UploadIDLen]byte(id)
			if binary.BigEndian.Uint64(id) < before {
				old = append(old, f)
			}
			return nil
		})
		if err != nil {
			return err
		}
		limit := uint64(hlc.FromWall(now.Add(-completedKeep)))
		return kv.Scan(r, []byte{record.TagCompleted}, []byte{record.TagCompleted + 1}, func(k, v []byte) error {
			if c, err := record.DecodeCompleted(v); err != nil || c.At < limit {
				done = append(done, bytes.Clone(k))
			}
			return nil
		})
	})
	if err != nil {
		return err
	}
	s.buckets.RLock()
	names := map[uint64]string{}
	for name, b := range s.buckets.m {
		names[b.rec.Load().ID] = name
	}
	s.buckets.RUnlock()
	for _, f := range old {
		err := s.AbortUpload(ctx, names[f.bucket], f.key, formatUploadID(f.id))
		switch {
		case err == nil:
			s.stats.uploadsExpired.Add(1)
			s.log.Info("removed an abandoned upload", "bucket", names[f.bucket], "key", f.key, "upload", formatUploadID(f.id))
		case errors.Is(err, ErrNoSuchUpload), errors.Is(err, ErrNoSuchBucket):
		default:
			return err
		}
	}
	for len(done) > 0 {
		n := min(len(done), 1000)
		if err := s.db.Update(ctx, func(tx kv.Tx) error {
			for _, k := range done[:n] {
				tx.Delete(k)
			}
			return nil
		}); err != nil {
			return err
		}
		done = done[n:]
	}
	return nil
}
