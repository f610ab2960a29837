package object

import (
	"bytes"
	"context"

	"firn/object/record"
)

// Delete removes a version, or, with versionID "" in a versioned bucket, lays a delete marker. Deleting what
// is not there is no error.
func (s *Store) Delete(ctx context.Context, bucket, key, versionID string, o DeleteOptions) (DeleteResult, error) {
	item := DeleteItem{Key: key, VersionID: versionID, DeleteOptions: o}
	if err := CheckKey(key); err != nil {
		return DeleteResult{}, fail("delete object", subject(bucket, key), err)
	}
	b, err := s.bucket(bucket)
	if err != nil {
		return DeleteResult{}, fail("delete object", subject(bucket, key), err)
	}
	ck := record.CurrentKey(b.rec.Load().ID, key)
	var res DeleteResult
	_, err = s.change(ctx, b, func(t *txn) (err error) {
		res, err = t.delete(ck, &item)
		return err
	}, ck)
	if err != nil {
		return DeleteResult{}, fail("delete object", subject(bucket, key), err)
	}
	return res, nil
}

// deleteBatch is the number of objects deleted in one commit.
const deleteBatch = 256

// DeleteMany deletes up to 1000 items in as few commits as it can; results are in the order of items.
func (s *Store) DeleteMany(ctx context.Context, bucket string, items []DeleteItem) ([]DeleteResult, error) {
	b, err := s.bucket(bucket)
	if err != nil {
		return nil, fail("delete objects", bucket, err)
	}
	id := b.rec.Load().ID
	results := make([]DeleteResult, len(items))
	// A transaction does not see its own writes, so a key named twice waits for the next one.
	todo := make([]int, 0, len(items))
	for i := range items {
		if err := CheckKey(items[i].Key); err != nil {
			results[i].Err = err
			continue
		}
		todo = append(todo, i)
	}
	for len(todo) > 0 {
		seen := make(map[string]bool, deleteBatch)
		var now, later []int
		for n, i := range todo {
			if len(now) == deleteBatch {
				later = append(later, todo[n:]...)
				break
			}
			if seen[items[i].Key] {
				later = append(later, i)
				continue
			}
			seen[items[i].Key] = true
			now = append(now, i)
		}
		todo = later
		locks := make([][]byte, len(now))
		for n, i := range now {
			locks[n] = record.CurrentKey(id, items[i].Key)
		}
		_, err := s.change(ctx, b, func(t *txn) error {
			for n, i := range now {
				res, err := t.delete(locks[n], &items[i])
				if err != nil {
					// The item wrote nothing: each check comes before the first write.
					res = DeleteResult{Err: fail("delete object", subject(bucket, items[i].Key), err)}
				}
				results[i] = res
			}
			return nil
		}, locks...)
		if err != nil {
			return nil, fail("delete objects", bucket, err)
		}
	}
	return results, nil
}

// delete carries out one delete. Where it returns an error it has written nothing.
func (t *txn) delete(ck []byte, item *DeleteItem) (DeleteResult, error) {
	if item.VersionID == "" && t.b.Versioning != record.VersioningOff {
		return t.mark(ck, item)
	}
	v, vk, err := t.s.find(t.tx, t.b, item.Key, item.VersionID, ck)
	if err != nil {
		return DeleteResult{}, err
	}
	if err := ask(item.Precondition, v); err != nil {
		return DeleteResult{}, err
	}
	res := DeleteResult{VersionID: item.VersionID}
	if v == nil {
		return res, nil
	}
	res.DeleteMarker = v.DeleteMarker
	m := record.Mutation{
		Op: record.OpDelete, Clock: uint64(t.s.clock.Now()), Site: v.Site, BucketID: t.b.ID, Bucket: t.b.Name,
		Key: item.Key, Version: v.Order(), Null: v.Null,
	}
	current := bytes.Equal(vk, ck)
	var next *stored
	var nextKey []byte
	if current && t.b.Versioning != record.VersioningOff {
		if next, nextKey, err = t.newestOld(item.Key); err != nil {
			return DeleteResult{}, err
		}
	}
	if err := t.drop(&v.Record, &m, item.BypassGovernance); err != nil {
		return DeleteResult{}, err
	}
	switch {
	case !current:
		t.tx.Delete(vk)
		if v.Null {
			t.tx.Delete(record.NullKey(ck))
		}
	case next == nil:
		t.tx.Delete(ck)
	default:
		t.tx.Set(ck, next.raw)
		t.tx.Delete(nextKey)
		if next.Null {
			t.tx.Delete(record.NullKey(ck))
		}
	}
	if current && !v.DeleteMarker {
		m.Delta.Objects--
	}
	if next != nil && !next.DeleteMarker {
		m.Delta.Objects++
	}
	t.log(&m)
	return res, nil
}

// mark lays a delete marker.
func (t *txn) mark(ck []byte, item *DeleteItem) (DeleteResult, error) {
	cur, err := t.s.current(t.tx, t.b.Name, item.Key, ck)
	if err != nil {
		return DeleteResult{}, err
	}
	if err := ask(item.Precondition, cur); err != nil {
		return DeleteResult{}, err
	}
	r := &record.Record{Version: record.Version{Bucket: t.b.Name, Key: item.Key, Latest: true, DeleteMarker: true, Owner: t.b.Owner}}
	if err := t.place(ck, r, cur, record.OpDeleteMarker); err != nil {
		return DeleteResult{}, err
	}
	return DeleteResult{VersionID: r.Finish().ID, DeleteMarker: true}, nil
}

// newestOld returns the newest noncurrent version of key and the key it is stored under; nil where there is none.
func (t *txn) newestOld(key string) (*stored, []byte, error) {
	lower := record.AppendOldPrefix(nil, t.b.ID, key)
	it, err := t.tx.Iter(lower, record.Successor(lower))
	if err != nil {
		return nil, nil, err
	}
	var v *stored
	var k []byte
	if it.First() {
		var raw []byte
		if raw, err = it.Value(); err == nil {
			k = bytes.Clone(it.Key())
			v = &stored{raw: bytes.Clone(raw)}
			v.Bucket, v.Key = t.b.Name, key
			err = record.Decode(&v.Record, v.raw)
		}
	} else {
		err = it.Err()
	}
	if cerr := it.Close(); err == nil {
		err = cerr
	}
	return v, k, err
}
