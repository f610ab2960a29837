package object

import (
	"context"
	"time"

	"firn/object/record"
)

// UpdateVersion changes what may change of a stored version: Tags, ACL, Retention, LegalHold. The rules of
// object lock (shortening, mode changes) are checked against bypassGovernance. ErrLocked. fn is called with a
// copy inside the transaction; it must not block.
//
// Errors: as Head, ErrLocked, ErrLockConfig where the bucket has no object lock, what fn returned.
func (s *Store) UpdateVersion(ctx context.Context, bucket, key, versionID string, bypassGovernance bool, fn func(*record.Version) error) (*record.Version, error) {
	v, err := s.updateVersion(ctx, bucket, key, versionID, bypassGovernance, fn)
	if err != nil {
		return v, fail("update object", subject(bucket, key), err)
	}
	return v, nil
}

func (s *Store) updateVersion(ctx context.Context, bucket, key, versionID string, bypass bool, fn func(*record.Version) error) (*record.Version, error) {
	return s.editVersion(ctx, bucket, key, versionID, func(t *txn, v *stored, vk []byte) error {
		changed := v.Version
		if err := fn(&changed); err != nil {
			return err
		}
		if err := checkLockChange(t.b, &v.Version, &changed, t.now, bypass); err != nil {
			return err
		}
		v.Tags, v.ACL, v.LegalHold = changed.Tags, changed.ACL, changed.LegalHold
		v.Retention = changed.Retention
		v.Retention.Until = v.Retention.Until.UTC().Truncate(time.Millisecond)
		if v.Retention.Mode == record.RetentionNone {
			v.Retention.Until = time.Time{}
		}
		t.buf = record.Append(t.buf[:0], &v.Record)
		if len(t.buf) > record.MaxRecord {
			return errLargeRecord
		}
		t.tx.Set(vk, t.buf)
		t.log(&record.Mutation{
			Op: record.OpUpdate, Clock: uint64(s.clock.Now()), Site: v.Site, BucketID: t.b.ID, Bucket: t.b.Name, Key: key,
			Version: v.Order(), Null: v.Null,
		})
		return nil
	})
}

// editVersion lets fn change a version, which is stored under vk, in a transaction, and returns it as changed. Errors as Head.
func (s *Store) editVersion(
	ctx context.Context, bucket, key, versionID string, fn func(t *txn, v *stored, vk []byte) error,
) (*record.Version, error) {
	b, err := s.bucketFor(bucket, key)
	if err != nil {
		return nil, err
	}
	ck := record.CurrentKey(b.rec.Load().ID, key)
	var out *record.Version
	_, err = s.change(ctx, b, func(t *txn) error {
		v, vk, err := s.find(t.tx, t.b, key, versionID, ck)
		if err != nil {
			return err
		}
		if out, err = answer(v, versionID); err != nil {
			return err
		}
		return fn(t, v, vk)
	}, ck)
	return out, err
}

// checkLockChange says whether retention and legal hold may change from those of was to those of is.
func checkLockChange(b *record.Bucket, was, is *record.Version, now time.Time, bypass bool) error {
	o, n := was.Retention, is.Retention
	if o.Mode == n.Mode && o.Until.Equal(n.Until) && was.LegalHold == is.LegalHold {
		return nil
	}
	if !b.ObjectLock {
		return ErrLockConfig
	}
	if o.Mode == record.RetentionNone || !now.Before(o.Until) {
		return nil
	}
	weaker := n.Mode != o.Mode || n.Until.Before(o.Until)
	if weaker && (o.Mode == record.RetentionCompliance || !bypass) {
		return ErrLocked
	}
	return nil
}
