package object

import (
	"bytes"
	"context"
	"errors"

	"firn/kv"
	"firn/object/envelope"
	"firn/object/record"
)

// rewrapBatch is the number of records looked at between two waits for the store.
const rewrapBatch = 256

// RewrapSummary is what a Rewrap did.
type RewrapSummary struct {
	Records   int64 `json:"records"`   // encrypted versions and uploads looked at
	Rewrapped int64 `json:"rewrapped"` // whose data key is now wrapped otherwise
}

// Rewrap asks fn, for each encrypted version and upload, how its data key is to be wrapped from now on; nil leaves it as
// it is. fn may wait. The content is not touched, and no byte of it is read. What changed meanwhile is left alone: it
// was wrapped anew, or is gone.
func (s *Store) Rewrap(ctx context.Context, fn func(ctx context.Context, bucket string, key string, e *envelope.Encryption) ([]byte, error)) (RewrapSummary, error) {
	var sum RewrapSummary
	for _, tag := range []byte{record.TagCurrent, record.TagOld, record.TagUpload} {
		for from := []byte{tag}; from != nil; {
			found, next, err := s.encrypted(ctx, tag, from)
			if err != nil {
				return sum, fail("rewrap", s.dir, err)
			}
			for i := range found {
				sum.Records++
				changed, err := s.rewrap(ctx, &found[i], fn)
				if err != nil {
					return sum, fail("rewrap", subject(found[i].bucket.rec.Load().Name, found[i].rec.Key), err)
				}
				if changed {
					sum.Rewrapped++
				}
			}
			from = next
		}
	}
	return sum, nil
}

// sealedRecord is a record with encrypted content.
type sealedRecord struct {
	at     []byte // its key in the store
	raw    []byte
	rec    record.Record
	bucket *bucket
}

// encrypted returns the records with encrypted content among the next ones, and where to go on; next is nil at the end.
func (s *Store) encrypted(ctx context.Context, tag byte, from []byte) (found []sealedRecord, next []byte, err error) {
	buckets := map[uint64]*bucket{}
	s.buckets.RLock()
	for _, b := range s.buckets.m {
		buckets[b.rec.Load().ID] = b
	}
	s.buckets.RUnlock()
	err = s.db.View(ctx, func(r kv.Reader) error {
		found, next = nil, nil
		n := 0
		return kv.Scan(r, from, []byte{tag + 1}, func(k, v []byte) error {
			if n++; n > rewrapBatch {
				next = bytes.Clone(k)
				return errStop
			}
			f := sealedRecord{at: bytes.Clone(k), raw: bytes.Clone(v)}
			if err := record.Decode(&f.rec, v); err != nil {
				return err
			}
			if f.rec.Encryption == nil || len(f.rec.Encryption.Wrapped) == 0 {
				return nil
			}
			id, key, err := record.ParseVersionKey(k)
			if err != nil {
				return err
			}
			if f.bucket = buckets[id]; f.bucket != nil {
				f.rec.Key = key
				found = append(found, f)
			}
			return nil
		})
	})
	if errors.Is(err, errStop) {
		err = nil
	}
	return found, next, err
}

func (s *Store) rewrap(ctx context.Context, f *sealedRecord, fn func(ctx context.Context, bucket, key string, e *envelope.Encryption) ([]byte, error)) (bool, error) {
	wrapped, err := fn(ctx, f.bucket.rec.Load().Name, f.rec.Key, f.rec.Encryption)
	if err != nil || wrapped == nil {
		return false, err
	}
	upload := f.at[0] == record.TagUpload
	// The lock is the one that everybody takes who changes the record.
	lock := record.CurrentKey(f.bucket.rec.Load().ID, f.rec.Key)
	if upload {
		lock = record.UploadLock([record.UploadIDLen]byte(f.at[len(f.at)-record.UploadIDLen:]))
	}
	changed := false
	_, err = s.change(ctx, f.bucket, func(t *txn) error {
		now, err := kv.Find(t.tx, nil, f.at)
		if changed = err == nil && bytes.Equal(now, f.raw); !changed {
			return err
		}
		e := *f.rec.Encryption
		e.Wrapped = wrapped
		r := f.rec
		r.Encryption = &e
		t.tx.Set(f.at, record.Append(nil, &r))
		if upload {
			return nil // uploads are no part of the journal
		}
		t.log(&record.Mutation{
			Op: record.OpUpdate, Clock: uint64(s.clock.Now()), Site: r.Site, BucketID: t.b.ID, Bucket: t.b.Name, Key: r.Key,
			Version: r.Order(), Null: r.Null,
		})
		return nil
	}, lock)
	if errors.Is(err, ErrNoSuchBucket) {
		return false, nil
	}
	return changed, err
}
