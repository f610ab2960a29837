package object

import (
	"context"
	"encoding/binary"
	"errors"
	"maps"
	"time"

	"firn/kv"
	"firn/object/record"
)

// txn is one transaction on keys of one bucket. Reads do not see its own writes, so no key is changed twice
// in one.
type txn struct {
	s      *Store
	tx     kv.Tx
	b      *record.Bucket
	now    time.Time
	refs   map[record.BlobID]int // changes of the reference counts of shared blobs
	delta  record.Usage          // of all operations
	class  []record.ClassUsage
	freed  bool                               // blobs went on the garbage queue
	places map[record.BlobID]*record.Location // of those of refs that are on tiers
	grows  bool                               // a version with content was added: the quota counts
	buf    []byte                             // scratch for keys and records
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
		if t.grows && t.b.Quota != (record.Quota{}) {
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
	b.countAll(t.class)
	if t.freed {
		s.wakeCollector()
	}
	return false, nil
}

// stored is a version found in the store.
type stored struct {
	record.Record
	raw []byte
}

// current reads the current version of the object with the current key ck; nil where there is none.
func (s *Store) current(r kv.Reader, bucket, key string, ck []byte) (*stored, error) {
	return s.load(r, bucket, key, ck, true)
}

func (s *Store) load(r kv.Reader, bucket, key string, k []byte, latest bool) (*stored, error) {
	var arr [512]byte
	raw, err := kv.Find(r, arr[:0], k)
	if raw == nil || err != nil {
		return nil, err
	}
	v := &stored{raw: raw}
	v.Bucket, v.Key, v.Latest = bucket, key, latest
	return v, record.Decode(&v.Record, raw)
}

// find reads the version with the given id ("" is the current one) and returns it with the key it is stored
// under. nil where it is not there.
func (s *Store) find(r kv.Reader, b *record.Bucket, key, versionID string, ck []byte) (*stored, []byte, error) {
	o, isOrder := record.ParseOrder(versionID)
	if versionID != "" && versionID != record.NullID && !isOrder {
		return nil, nil, nil
	}
	cur, err := s.current(r, b.Name, key, ck)
	if err != nil || cur == nil {
		return nil, nil, err
	}
	switch {
	case versionID == "", versionID == record.NullID && cur.Null, isOrder && !cur.Null && cur.Order() == o:
		return cur, ck, nil
	case b.Versioning == record.VersioningOff:
		return nil, nil, nil
	}
	if versionID == record.NullID {
		p, err := kv.Find(r, nil, record.NullKey(ck))
		if p == nil || err != nil {
			return nil, nil, err
		}
		if len(p) != record.OrderLen {
			return nil, nil, record.ErrBroken
		}
		o = record.Order(p)
	}
	vk := record.OldKey(b.ID, key, o)
	v, err := s.load(r, b.Name, key, vk, false)
	if v == nil || err != nil {
		return nil, nil, err
	}
	if v.Null != (versionID == record.NullID) {
		return nil, nil, nil // a "null" version is not found under the id it does not have
	}
	return v, vk, nil
}

// protected returns ErrLocked where retention or a legal hold keeps r.
func protected(r *record.Record, now time.Time, bypass bool) error {
	switch {
	case r.LegalHold:
		return ErrLocked
	case r.Retention.Mode == record.RetentionNone || !now.Before(r.Retention.Until):
		return nil
	case r.Retention.Mode == record.RetentionGovernance && bypass:
		return nil
	}
	return ErrLocked
}

// place makes r the current version of its key, where cur, which may be nil, was. It fills in identity and
// vector, moves or removes what was there as the bucket's versioning says, and logs m for it.
func (t *txn) place(ck []byte, r *record.Record, cur *stored, op record.Op) error {
	m := record.Mutation{Op: op, BucketID: t.b.ID, Bucket: t.b.Name, Key: r.Key}
	r.Null = t.b.Versioning != record.VersioningEnabled
	if r.Clock == 0 {
		t.stamp(r)
	}
	r.Vector = map[uint32]uint64{r.Site: 1}
	if cur != nil {
		maps.Copy(r.Vector, cur.Vector)
		r.Vector[r.Site] = cur.Vector[r.Site] + 1
		if !cur.DeleteMarker {
			m.Delta.Objects--
		}
		var err error
		if r.Null && cur.Null {
			m.Replaced = true
			err = t.drop(&cur.Record, &m, false)
		} else {
			err = t.demote(ck, cur, r.Null, &m)
		}
		if err != nil {
			return err
		}
	}
	m.Delta.Versions++
	m.Delta.Bytes += r.Size
	m.Count(r.StorageClass, 1, r.Size)
	if !r.DeleteMarker {
		t.grows = true
		m.Delta.Objects++
		m.Size, m.MD5, m.ETagParts = r.Size, &r.MD5, r.ETagParts
	}
	t.buf = record.Append(t.buf[:0], r)
	if len(t.buf) > record.MaxRecord {
		return errLargeRecord
	}
	t.tx.Set(ck, t.buf)
	m.Clock, m.Site, m.Version, m.Null = r.Clock, r.Site, r.Order(), r.Null
	t.log(&m)
	return nil
}

// stamp gives r its identity.
func (t *txn) stamp(r *record.Record) {
	now := t.s.clock.Now()
	r.Clock, r.Site, r.Modified = uint64(now), t.s.o.Site, now.Wall()
}

// demote makes the current version a noncurrent one; where the new one is "null", the noncurrent version that
// was "null" goes.
func (t *txn) demote(ck []byte, cur *stored, null bool, m *record.Mutation) error {
	if null {
		v, vk, err := t.s.find(t.tx, t.b, cur.Key, record.NullID, ck)
		if err != nil {
			return err
		}
		if v != nil {
			m.Replaced = true
			if err := t.drop(&v.Record, m, false); err != nil {
				return err
			}
			t.tx.Delete(vk)
			t.tx.Delete(record.NullKey(ck))
		}
	}
	o := cur.Order()
	t.tx.Set(record.OldKey(t.b.ID, cur.Key, o), cur.raw)
	if cur.Null {
		t.tx.Set(record.NullKey(ck), o[:])
	}
	return nil
}

// drop frees a version's content and counts it out. ErrLocked where it is protected. The caller deletes the
// record itself.
func (t *txn) drop(r *record.Record, m *record.Mutation, bypass bool) error {
	if err := protected(r, t.now, bypass); err != nil {
		return err
	}
	m.Delta.Versions--
	m.Delta.Bytes -= r.Size
	m.Count(r.StorageClass, -1, r.Size)
	if r.Location != nil {
		t.releaseLocation(r.Location)
	}
	_, err := t.releaseLocal(r)
	return err
}

// releaseLocal frees a version's local bytes, and its part list, which it returns.
func (t *txn) releaseLocal(r *record.Record) ([]record.Part, error) {
	switch {
	case r.Multipart:
		k := record.IDKey(record.TagParts, r.Data)
		parts, err := t.s.parts(t.tx, r)
		if err != nil {
			return nil, err
		}
		for i := range parts {
			t.release(parts[i].Blob, parts[i].Shared)
		}
		t.tx.Delete(k)
		return parts, nil
	case r.Blob != record.BlobID{}:
		t.release(r.Blob, r.Shared)
	case r.Data != 0:
		t.tx.Delete(record.IDKey(record.TagData, r.Data))
	}
	return nil, nil
}

// parts reads the part list of a multipart version.
func (s *Store) parts(r kv.Reader, rec *record.Record) ([]record.Part, error) {
	raw, err := r.Get(nil, record.IDKey(record.TagParts, rec.Data))
	if err != nil {
		return nil, err
	}
	return record.DecodePartList(raw)
}

// release gives up one use of a blob.
func (t *txn) release(id record.BlobID, shared bool) {
	if id == (record.BlobID{}) {
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
func (t *txn) reference(id record.BlobID, n int) {
	if t.refs == nil {
		t.refs = map[record.BlobID]int{}
	}
	t.refs[id] += n
}

// discard puts a blob on the garbage queue.
func (t *txn) discard(id record.BlobID) {
	t.tx.Set(record.GarbageKey(t.s.clock.Now(), id), nil)
	t.freed = true
}

// finish writes the reference counts. They are the one thing that transactions on different keys share, so
// they change under the exclusive lock, and are read after it is held.
func (t *txn) finish() error {
	maps.DeleteFunc(t.refs, func(_ record.BlobID, d int) bool { return d == 0 })
	if len(t.refs) == 0 {
		return nil
	}
	t.tx.Exclusive()
	for id, d := range t.refs {
		k := record.BlobKey(record.TagRef, id)
		v, err := kv.Find(t.tx, nil, k)
		if err != nil {
			return err
		}
		n := int64(1) // a blob without a count is used once
		if v != nil {
			u, used := binary.Uvarint(v)
			if used <= 0 {
				return record.ErrBroken
			}
			n = int64(u)
		}
		switch n += int64(d); {
		case n <= 0:
			t.tx.Delete(k)
			if l := t.places[id]; l != nil {
				t.freeTier(l)
			} else {
				t.discard(id)
			}
		case n == 1:
			t.tx.Delete(k)
		default:
			t.tx.Set(k, binary.AppendUvarint(nil, uint64(n)))
		}
	}
	return nil
}

// log appends m to the journal and its delta to the transaction's.
func (t *txn) log(m *record.Mutation) {
	t.delta = t.delta.Plus(m.Delta, 1)
	t.class = append(t.class, m.Classes...)
	t.buf = record.AppendMutation(t.buf[:0], m)
	t.tx.Log(t.buf)
}
