// Package usekv keeps how versions are read in the metadata store, beside the namespace.
//
// It owns the keys that begin with its tag. It promises that counts are added all or not at all. It must never change the
// namespace, and nothing depends on what it holds: a count that is lost makes a version seem colder than it is.
package usekv

import (
	"context"
	"encoding/binary"
	"time"

	"firn"
	"firn/kv"
	"firn/lifecycle"
	"firn/object/record"
)

// tag is the first byte of the keys, which go on as those of noncurrent versions do.
const tag = 'y'

// ID names a version: it is the ID of reads that are counted.
func ID(bucket uint64, key string, o record.Order) string {
	k := record.OldKey(bucket, key, o)
	k[0] = tag
	return string(k)
}

// Store keeps uses. Its methods may be called concurrently.
type Store struct{ db kv.DB }

// New returns a Store in db.
func New(db kv.DB) *Store { return &Store{db} }

// AddUses implements lifecycle.UseStore.
func (s *Store) AddUses(ctx context.Context, uses map[string]lifecycle.Use) error {
	return s.Add(ctx, uses, nil)
}

// Add is AddUses, and tells fn, which may be nil, of each sum that it wrote.
func (s *Store) Add(ctx context.Context, uses map[string]lifecycle.Use, fn func(bucket uint64, key string, u lifecycle.Use)) error {
	sums := make(map[string]lifecycle.Use, len(uses))
	err := s.db.Update(ctx, func(tx kv.Tx) error {
		for id, u := range uses {
			raw, err := kv.Find(tx, nil, []byte(id))
			if err != nil {
				return err
			}
			var sum lifecycle.Use
			// One that cannot be read is begun anew.
			if raw != nil && sum.UnmarshalBinary(raw) != nil {
				sum = lifecycle.Use{}
			}
			sum.Add(u)
			sums[id] = sum
			raw, err = sum.MarshalBinary()
			if err != nil {
				return err
			}
			tx.Set([]byte(id), raw)
		}
		return nil
	}, []byte{tag})
	if err != nil || fn == nil {
		return firn.E("count reads", "", err)
	}
	for id, sum := range sums {
		if bucket, key, err := record.ParseVersionKey([]byte(id)); err == nil {
			fn(bucket, key, sum)
		}
	}
	return nil
}

// Range returns the uses of the versions of a bucket with from <= key <= to, by ID. What it returns is as large as there
// are such versions, or were when they were read.
func (s *Store) Range(ctx context.Context, bucket uint64, from, to string) (map[string]lifecycle.Use, error) {
	uses := map[string]lifecycle.Use{}
	lower := record.AppendOldPrefix(nil, bucket, from)
	upper := record.Successor(record.AppendOldPrefix(nil, bucket, to))
	lower[0], upper[0] = tag, tag
	err := s.db.View(ctx, func(r kv.Reader) error {
		return kv.Scan(r, lower, upper, func(k, v []byte) error {
			var u lifecycle.Use
			_ = u.UnmarshalBinary(v) // one that cannot be read is one that never was
			uses[string(k)] = u
			return nil
		})
	})
	return uses, firn.E("look up reads", "", err)
}

// Remove forgets the uses of versions that are gone.
func (s *Store) Remove(ctx context.Context, ids []string) error {
	if len(ids) == 0 {
		return nil
	}
	return s.db.Update(ctx, func(tx kv.Tx) error {
		for _, id := range ids {
			tx.Delete([]byte(id))
		}
		return nil
	}, []byte{tag})
}

// Sweep forgets the uses in buckets that keep does not want.
func (s *Store) Sweep(ctx context.Context, keep func(bucket uint64) bool) error {
	at := []byte{tag}
	for {
		var bucket uint64
		found := false
		err := s.db.View(ctx, func(r kv.Reader) error {
			it, err := r.Iter(at, []byte{tag + 1})
			if err != nil {
				return err
			}
			if found = it.First() && len(it.Key()) >= 9; found {
				bucket = binary.BigEndian.Uint64(it.Key()[1:9])
			}
			err = it.Err()
			if cerr := it.Close(); err == nil {
				err = cerr
			}
			return err
		})
		if err != nil || !found {
			return firn.E("forget reads", "", err)
		}
		lower := record.AppendBucketID(nil, tag, bucket)
		at = record.Successor(lower)
		if keep(bucket) {
			continue
		}
		if err := s.db.Update(ctx, func(tx kv.Tx) error {
			tx.DeleteRange(lower, at)
			return nil
		}, []byte{tag}); err != nil {
			return firn.E("forget reads", "", err)
		}
	}
}

// Forgotten is how long a use without a version is left alone: the version may have come after the look at the bucket.
const Forgotten = time.Hour
