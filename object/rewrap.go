package object

import (
	"bytes"
	"context"
	"errors"

	"firn/kv"
	"firn/object/envelope"
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
	for _, tag := range []byte{tagCurrent, tagOld, tagUpload} {
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
	rec    record
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
		return scan(r, from, []byte{tag + 1}, func(k, v []byte) error {
			if n++; n > rewrapBatch {
				next = bytes.Clone(k)
				return errStop
			}
			f := sealedRecord{at: bytes.Clone(k), raw: bytes.Clone(v)}
			if err := decodeRecord(&f.rec, v); err != nil {
				return err
			}
			if f.rec.Encryption == nil || len(f.rec.Encryption.Wrapped) == 0 {
				return nil
			}
			id, key, err := placeOf(k)
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

// placeOf returns the bucket and the key that a record's key in the store names.
func placeOf(k []byte) (uint64, string, error) {
	if len(k) < 10 {
		return 0, "", errRecord
	}
	id, err := parseUint64(k[1:9])
	if err != nil || k[0] == tagCurrent {
		return id, string(k[9:]), err
	}
	key, _, ok := unescape(nil, k[9:])
	if !ok {
		return 0, "", errRecord
	}
	return id, string(key), nil
}

func (s *Store) rewrap(ctx context.Context, f *sealedRecord, fn func(ctx context.Context, bucket, key string, e *envelope.Encryption) ([]byte, error)) (bool, error) {
	wrapped, err := fn(ctx, f.bucket.rec.Load().Name, f.rec.Key, f.rec.Encryption)
	if err != nil || wrapped == nil {
		return false, err
	}
	upload := f.at[0] == tagUpload
	// The lock is the one that everybody takes who changes the record.
	lock := currentKey(f.bucket.rec.Load().ID, f.rec.Key)
	if upload {
		lock = uploadLock([uploadIDLen]byte(f.at[len(f.at)-uploadIDLen:]))
	}
	changed := false
	_, err = s.change(ctx, f.bucket, func(t *txn) error {
		now, err := get(t.tx, nil, f.at)
		if changed = err == nil && bytes.Equal(now, f.raw); !changed {
			return err
		}
		e := *f.rec.Encryption
		e.Wrapped = wrapped
		r := f.rec
		r.Encryption = &e
		t.tx.Set(f.at, appendRecord(nil, &r))
		if upload {
			return nil // uploads are no part of the journal
		}
		t.log(&mutation{
			op: OpUpdate, clock: uint64(s.clock.Now()), site: r.Site, bucketID: t.b.ID, bucket: t.b.Name, key: r.Key,
			version: r.order(), null: r.null,
		})
		return nil
	}, lock)
	if errors.Is(err, ErrNoSuchBucket) {
		return false, nil
	}
	return changed, err
}
