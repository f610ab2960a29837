package object

import (
	"context"
	"encoding/binary"
	"errors"
	"maps"
	"time"

	"firn/kv"
)

// txn is one transaction on keys of one bucket. Reads do not see its own writes, so no key is changed twice
// in one.
type txn struct {
	s     *Store
	tx    kv.Tx
	b     *Bucket
	now   time.Time
	refs  map[BlobID]int // changes of the reference counts of shared blobs
	delta Usage          // of all operations
	freed bool           // blobs went on the garbage queue
	grows bool           // a version with content was added: the quota counts
	buf   []byte         // scratch for keys and records
	// committing is set once fn is done: a later error, unless it is the context's, leaves the outcome open.
	committing bool
}

// change runs fn as one transaction on keys of b. The error leaves the outcome open where open is true.
func (s *Store) change(ctx context.Context, b *bucket, fn func(*txn) error, locks ...[]byte) (open bool, err error) {
	b.gate.RLock()
	defer b.gate.RUnlock()
	if b.gone {
		return false, ErrNoSuchBucket
	}
	t := txn{s: s, b: b.rec.Load(), now: s.o.Now()}
	reserved := false
	err = s.db.Update(ctx, func(tx kv.Tx) error {
		t.tx = tx
		if err := fn(&t); err != nil {
			return err
		}
		if err := t.finish(); err != nil {
			return err
		}
		if t.grows && t.b.Quota != (Quota{}) {
			if reserved = b.reserve(t.b.Quota, t.delta); !reserved {
				return ErrQuota
			}
		}
		t.committing = true
		return nil
	}, locks...)
	if reserved {
		defer func() { b.settle(t.delta, err == nil) }()
	}
	if err != nil {
		// The context ends only waits from before the hand-over to the engine: its error says that nothing came of
		// the commit.
		before := ctx.Err() != nil && errors.Is(err, ctx.Err())
		return t.committing && !before, err
	}
	if !reserved {
		b.add(t.delta)
	}
	if t.freed {
		s.wakeCollector()
	}
	return false, nil
}

// get reads key; nil, nil where it is not there.
func get(r kv.Reader, dst, key []byte) ([]byte, error) {
	v, err := r.Get(dst, key)
	if errors.Is(err, kv.ErrNotFound) {
		return nil, nil
	}
	return v, err
}

// stored is a version found in the store.
type stored struct {
	record
	raw []byte
}

// current reads the current version of the object with the current key ck; nil where there is none.
func (s *Store) current(r kv.Reader, bucket, key string, ck []byte) (*stored, error) {
	return s.load(r, bucket, key, ck, true)
}

func (s *Store) load(r kv.Reader, bucket, key string, k []byte, latest bool) (*stored, error) {
	var arr [512]byte
	raw, err := get(r, arr[:0], k)
	if raw == nil || err != nil {
		return nil, err
	}
	v := &stored{raw: raw}
	v.Bucket, v.Key, v.Latest = bucket, key, latest
	return v, decodeRecord(&v.record, raw)
}

// find reads the version with the given id ("" is the current one) and returns it with the key it is stored
// under. nil where it is not there.
func (s *Store) find(r kv.Reader, b *Bucket, key, versionID string, ck []byte) (*stored, []byte, error) {
	o, isOrder := parseOrder(versionID)
	if versionID != "" && versionID != nullID && !isOrder {
		return nil, nil, nil
	}
	cur, err := s.current(r, b.Name, key, ck)
	if err != nil || cur == nil {
		return nil, nil, err
	}
	switch {
	case versionID == "", versionID == nullID && cur.null, isOrder && !cur.null && cur.order() == o:
		return cur, ck, nil
	case b.Versioning == VersioningOff:
		return nil, nil, nil
	}
	if versionID == nullID {
		p, err := get(r, nil, nullKey(ck))
		if p == nil || err != nil {
			return nil, nil, err
		}
		if len(p) != orderLen {
			return nil, nil, errRecord
		}
		o = order(p)
	}
	vk := oldKey(b.ID, key, o)
	v, err := s.load(r, b.Name, key, vk, false)
	if v == nil || err != nil {
		return nil, nil, err
	}
	if v.null != (versionID == nullID) {
		return nil, nil, nil // a "null" version is not found under the id it does not have
	}
	return v, vk, nil
}

// protected returns ErrLocked where retention or a legal hold keeps r.
func protected(r *record, now time.Time, bypass bool) error {
	switch {
	case r.LegalHold:
		return ErrLocked
	case r.Retention.Mode == RetentionNone || !now.Before(r.Retention.Until):
		return nil
	case r.Retention.Mode == RetentionGovernance && bypass:
		return nil
	}
	return ErrLocked
}

// place makes r the current version of its key, where cur, which may be nil, was. It fills in identity and
// vector, moves or removes what was there as the bucket's versioning says, and logs m for it.
func (t *txn) place(ck []byte, r *record, cur *stored, op Op) error {
	m := mutation{op: op, bucketID: t.b.ID, bucket: t.b.Name, key: r.Key}
	r.null = t.b.Versioning != VersioningEnabled
	if r.Clock == 0 {
		t.stamp(r)
	}
	r.Vector = map[uint32]uint64{r.Site: 1}
	if cur != nil {
		maps.Copy(r.Vector, cur.Vector)
		r.Vector[r.Site] = cur.Vector[r.Site] + 1
		if !cur.DeleteMarker {
			m.delta.Objects--
		}
		var err error
		if r.null && cur.null {
			m.replaced = true
			err = t.drop(&cur.record, &m.delta, false)
		} else {
			err = t.demote(ck, cur, r.null, &m)
		}
		if err != nil {
			return err
		}
	}
	m.delta.Versions++
	m.delta.Bytes += r.Size
	if !r.DeleteMarker {
		t.grows = true
		m.delta.Objects++
		m.size, m.md5, m.nparts = r.Size, &r.md5, r.nparts
	}
	t.buf = appendRecord(t.buf[:0], r)
	if len(t.buf) > maxRecord {
		return errLargeRecord
	}
	t.tx.Set(ck, t.buf)
	m.clock, m.site, m.version, m.null = r.Clock, r.Site, r.order(), r.null
	t.log(&m)
	return nil
}

// stamp gives r its identity.
func (t *txn) stamp(r *record) {
	now := t.s.clock.Now()
	r.Clock, r.Site, r.Modified = uint64(now), t.s.o.Site, now.Wall()
}

// demote makes the current version a noncurrent one; where the new one is "null", the noncurrent version that
// was "null" goes.
func (t *txn) demote(ck []byte, cur *stored, null bool, m *mutation) error {
	if null {
		v, vk, err := t.s.find(t.tx, t.b, cur.Key, nullID, ck)
		if err != nil {
			return err
		}
		if v != nil {
			m.replaced = true
			if err := t.drop(&v.record, &m.delta, false); err != nil {
				return err
			}
			t.tx.Delete(vk)
			t.tx.Delete(nullKey(ck))
		}
	}
	o := cur.order()
	t.tx.Set(oldKey(t.b.ID, cur.Key, o), cur.raw)
	if cur.null {
		t.tx.Set(nullKey(ck), o[:])
	}
	return nil
}

// drop frees a version's content and counts it out. ErrLocked where it is protected. The caller deletes the
// record itself.
func (t *txn) drop(r *record, delta *Usage, bypass bool) error {
	if err := protected(r, t.now, bypass); err != nil {
		return err
	}
	delta.Versions--
	delta.Bytes -= r.Size
	switch {
	case r.Multipart:
		k := idKey(tagParts, r.data)
		parts, err := t.s.parts(t.tx, r)
		if err != nil {
			return err
		}
		for i := range parts {
			t.release(parts[i].Blob, parts[i].Shared)
		}
		t.tx.Delete(k)
	case r.blob != BlobID{}:
		t.release(r.blob, r.shared)
	case r.data != 0:
		t.tx.Delete(idKey(tagData, r.data))
	}
	return nil
}

// parts reads the part list of a multipart version.
func (s *Store) parts(r kv.Reader, rec *record) ([]Part, error) {
	raw, err := r.Get(nil, idKey(tagParts, rec.data))
	if err != nil {
		return nil, err
	}
	return decodePartList(raw)
}

// release gives up one use of a blob.
func (t *txn) release(id BlobID, shared bool) {
	if id == (BlobID{}) {
		return
	}
	// A blob that this transaction gave a second use is shared although the record read here does not say so yet.
	if shared || t.refs[id] > 0 {
		t.reference(id, -1)
		return
	}
	t.discard(id)
}

// reference changes the number of uses of a shared blob.
func (t *txn) reference(id BlobID, n int) {
	if t.refs == nil {
		t.refs = map[BlobID]int{}
	}
	t.refs[id] += n
}

// discard puts a blob on the garbage queue.
func (t *txn) discard(id BlobID) {
	t.tx.Set(garbageKey(t.s.clock.Now(), id), nil)
	t.freed = true
}

// finish writes the reference counts. They are the one thing that transactions on different keys share, so
// they change under the exclusive lock, and are read after it is held.
func (t *txn) finish() error {
	maps.DeleteFunc(t.refs, func(_ BlobID, d int) bool { return d == 0 })
	if len(t.refs) == 0 {
		return nil
	}
	t.tx.Exclusive()
	for id, d := range t.refs {
		k := blobKey(tagRef, id)
		v, err := get(t.tx, nil, k)
		if err != nil {
			return err
		}
		n := int64(1) // a blob without a count is used once
		if v != nil {
			u, used := binary.Uvarint(v)
			if used <= 0 {
				return errRecord
			}
			n = int64(u)
		}
		switch n += int64(d); {
		case n <= 0:
			t.tx.Delete(k)
			t.discard(id)
		case n == 1:
			t.tx.Delete(k)
		default:
			t.tx.Set(k, binary.AppendUvarint(nil, uint64(n)))
		}
	}
	return nil
}

// log appends m to the journal and its delta to the transaction's.
func (t *txn) log(m *mutation) {
	t.delta = t.delta.plus(m.delta, 1)
	t.buf = appendMutation(t.buf[:0], m)
	t.tx.Log(t.buf)
}
