package object

import (
	"bytes"
	"context"
	"crypto/rand"
	"slices"
	"time"

	"firn"
	"firn/hlc"
	"firn/kv"
	"firn/object/record"
	"firn/object/remote"
)

// A namespace that was lost is made again from what its tiers hold: buckets and versions are exported when they are
// written to a tier, and adopted from there. Their ids, clocks and settings are those they had.

// ErrAdopted is returned for a bucket or version that is there already.
var ErrAdopted = firn.NewError(firn.Exists, "it is there already")

// ExportBucket returns what AdoptBucket makes a bucket from. ErrNoSuchBucket.
func (s *Store) ExportBucket(ctx context.Context, name string) ([]byte, error) {
	b, err := s.Bucket(ctx, name)
	if err != nil {
		return nil, fail("export bucket", name, err)
	}
	return record.AppendBucket(nil, b), nil
}

// AdoptBucket makes a bucket again from what ExportBucket returned. ErrAdopted where there is one of its name, or of its
// id, which its encrypted objects are bound to.
func (s *Store) AdoptBucket(ctx context.Context, name string, export []byte) error {
	return fail("adopt bucket", name, s.adoptBucket(ctx, name, export))
}

func (s *Store) adoptBucket(ctx context.Context, name string, export []byte) error {
	if err := CheckBucketName(name); err != nil {
		return err
	}
	rec, err := record.DecodeBucket(name, export)
	if err != nil {
		return err
	}
	key, counter := record.BucketKey(name), record.MetaKey("nextbucket")
	err = s.db.Update(ctx, func(tx kv.Tx) error {
		if v, err := kv.Find(tx, nil, key); err != nil || v != nil {
			if err == nil {
				err = ErrAdopted
			}
			return err
		}
		last, err := getUint(tx, counter)
		if err != nil {
			return err
		}
		// Whoever makes a bucket holds the counter's lock until the bucket is in the store.
		if err := kv.Scan(tx, []byte{record.TagBucket}, []byte{record.TagBucket + 1}, func(k, v []byte) error {
			other, err := record.DecodeBucket(string(k[1:]), v)
			if err == nil && other.ID == rec.ID {
				err = ErrAdopted
			}
			return err
		}); err != nil {
			return err
		}
		tx.Set(counter, record.IDKey(0, max(last, rec.ID))[1:])
		tx.Set(key, record.AppendBucket(nil, rec))
		tx.Log(record.AppendMutation(nil, &record.Mutation{
			Op: record.OpCreateBucket, Clock: uint64(s.clock.Now()), Site: s.o.Site, BucketID: rec.ID, Bucket: name,
		}))
		return nil
	}, key, counter)
	if err != nil {
		return err
	}
	b := &bucket{}
	b.rec.Store(rec)
	s.buckets.Lock()
	defer s.buckets.Unlock()
	if old := s.buckets.m[name]; old == nil || old.rec.Load().ID < rec.ID {
		s.buckets.m[name] = b
	}
	return nil
}

// Export returns a version, or a delete marker, with what Adopt makes it from when its bytes are on a tier. What it returns
// grows with the content, by 4 bytes a block of 64 KiB, 20 of encrypted content. Errors as Head, but no ErrDeleteMarker.
func (s *Store) Export(ctx context.Context, bucket, key, versionID string) (*record.Version, []byte, error) {
	v, raw, err := s.export(ctx, bucket, key, versionID)
	return v, raw, fail("export object", subject(bucket, key), err)
}

func (s *Store) export(ctx context.Context, bucket, key, versionID string) (*record.Version, []byte, error) {
	o, err := s.openObject(ctx, bucket, key, versionID)
	if o == nil {
		return nil, nil, err
	}
	defer o.Close()
	if err != nil { // a delete marker
		m := record.Record{Version: *o.Version}
		m.Null = m.ID == record.NullID
		e := record.Export{Record: record.Append(nil, &m)}
		return o.Version, e.Encode(), nil
	}
	r := o.rec.Record
	r.Location, r.Blob, r.Shared, r.Data = nil, record.BlobID{}, false, 0
	e := record.Export{Record: record.Append(nil, &r)}
	parts := slices.Clone(o.Version.Parts)
	for i := range parts {
		raw, err := o.outboard(ctx, i)
		if err != nil {
			return nil, nil, err
		}
		e.Outboards = append(e.Outboards, raw)
		parts[i].Blob, parts[i].Shared = record.BlobID{}, false
	}
	if r.Multipart {
		e.Parts = record.AppendPartList(nil, parts)
	}
	return o.Version, e.Encode(), nil
}

// Adopt makes a version again from what Export returned. Its bytes are the blob with the given key on a tier, which may be
// that of several versions; a delete marker and content of zero bytes need none. Versions of an object may be adopted in
// any order, and beside newer ones.
//
// Errors: ErrNoSuchBucket, ErrAdopted, ErrTierKey for a blob that was reserved or freed, firn.Corrupt.
func (s *Store) Adopt(ctx context.Context, bucket, key string, export []byte, tier, tierKey string) (*record.Version, error) {
	v, err := s.adopt(ctx, bucket, key, export, tier, tierKey)
	return v, fail("adopt object", subject(bucket, key), err)
}

func (s *Store) adopt(ctx context.Context, bucket, key string, export []byte, tier, tierKey string) (*record.Version, error) {
	b, err := s.bucketFor(bucket, key)
	if err != nil {
		return nil, err
	}
	e, r, err := readExport(bucket, key, export)
	if err != nil {
		return nil, err
	}
	blob := record.TierBlob{Tier: tier, Key: tierKey, State: record.TierUsed}
	away := tier != "" && !r.DeleteMarker
	if r.Size > 0 && !away || len(tierKey) > MaxTierKey || away && tierKey == "" {
		return nil, firn.NewError(firn.Invalid, "content needs a tier and the key of its blob there")
	}
	if _, err := rand.Read(blob.ID[:]); err != nil {
		return nil, err
	}
	ck := record.CurrentKey(b.rec.Load().ID, key)
	locks := [][]byte{ck}
	if away {
		locks = append(locks, blob.RegisterKey(), record.MetaKey("format"))
	}
	// What comes after it in time is newer, on this site too.
	s.clock.Seed(hlc.Time(r.Clock))
	_, err = s.change(ctx, b, func(t *txn) error {
		if away {
			if err := t.adoptBlob(r, &blob, e.Outboards); err != nil {
				return err
			}
		}
		if r.Multipart {
			r.Data = uint64(s.clock.Now())
			t.tx.Set(record.IDKey(record.TagParts, r.Data), e.Parts)
		}
		return t.insert(ck, r)
	}, locks...)
	if err != nil {
		return nil, err
	}
	return r.Finish(), nil
}

// readExport decodes an export and checks that its pieces fit each other.
func readExport(bucket, key string, export []byte) (*record.Export, *record.Record, error) {
	e, err := record.DecodeExport(export)
	if err != nil {
		return nil, nil, err
	}
	r := &record.Record{Version: record.Version{Bucket: bucket, Key: key}}
	if err := record.Decode(r, e.Record); err != nil {
		return nil, nil, err
	}
	if r.Location != nil || r.Blob != (record.BlobID{}) || r.Data != 0 || r.Clock == 0 {
		return nil, nil, record.ErrBroken
	}
	r.KeepUntil = time.Time{} // of a copy that is lost
	parts := r.Parts
	if r.Multipart {
		if parts, err = record.DecodePartList(e.Parts); err != nil {
			return nil, nil, err
		}
		r.Parts = parts
	}
	size := int64(0)
	for i := range parts {
		size += parts[i].Size
		if parts[i].Blob != (record.BlobID{}) || parts[i].Size > 0 && i >= len(e.Outboards) {
			return nil, nil, record.ErrBroken
		}
		if parts[i].Size > 0 {
			if _, err := remote.NewPart(nil, &record.Location{}, 0, parts[i].Size, e.Outboards[i]); err != nil {
				return nil, nil, err
			}
		}
	}
	if size != r.Size || len(e.Outboards) > len(parts) {
		return nil, nil, record.ErrBroken
	}
	return e, r, nil
}

// adoptBlob gives r its place on a tier. The blob may be known already, as that of another version.
func (t *txn) adoptBlob(r *record.Record, blob *record.TierBlob, outboards [][]byte) error {
	k := blob.RegisterKey()
	v, err := kv.Find(t.tx, nil, k)
	if err != nil {
		return err
	}
	blob.Clock = uint64(t.s.clock.Now())
	// Whether others use the blob is not known, so it counts as shared; without a count it is used once.
	r.Location = &record.Location{ID: blob.ID, Tier: blob.Tier, Key: blob.Key, Since: t.now.UTC(), Shared: true}
	if v != nil {
		known, err := record.DecodeTierBlob(k, v)
		if err != nil {
			return err
		}
		if known.State != record.TierUsed {
			return ErrTierKey
		}
		r.Location.ID = known.ID
		t.referenceLocation(r.Location, 1)
		return nil
	}
	if err := t.s.useTiers(t.tx); err != nil {
		return err
	}
	t.tx.Set(k, blob.Append(nil))
	for i, p := range outboards {
		if len(p) > 0 {
			t.tx.Set(record.OutboardKey(blob.ID, i), p)
		}
	}
	return nil
}

// insert puts r, which has an identity, in its place among the versions of its key.
func (t *txn) insert(ck []byte, r *record.Record) error {
	cur, err := t.s.current(t.tx, r.Bucket, r.Key, ck)
	if err != nil {
		return err
	}
	if t.b.Versioning == record.VersioningOff && (cur != nil || !r.Null) {
		return ErrAdopted
	}
	if r.Null {
		if v, _, err := t.s.find(t.tx, t.b, r.Key, record.NullID, ck); err != nil || v != nil {
			if err == nil {
				err = ErrAdopted
			}
			return err
		}
	}
	m := record.Mutation{Op: record.OpAdopt, Site: r.Site, BucketID: t.b.ID, Bucket: t.b.Name, Key: r.Key, Null: r.Null}
	if r.Location != nil {
		m.Tier = r.Location.Tier
	}
	o := r.Order()
	m.Version = o
	vk, latest := ck, true
	switch {
	case cur == nil:
	case cur.Order() == o:
		return ErrAdopted
	default:
		was := cur.Order()
		old := record.OldKey(t.b.ID, r.Key, was)
		if latest = bytes.Compare(o[:], was[:]) < 0; latest { // newer ones sort first
			t.tx.Set(old, cur.raw)
			if cur.Null {
				t.tx.Set(record.NullKey(ck), was[:])
			}
			if !cur.DeleteMarker {
				m.Delta.Objects--
			}
			break
		}
		vk = record.OldKey(t.b.ID, r.Key, o)
		if v, err := kv.Find(t.tx, nil, vk); err != nil || v != nil {
			if err == nil {
				err = ErrAdopted
			}
			return err
		}
		if r.Null {
			t.tx.Set(record.NullKey(ck), o[:])
		}
	}
	r.Latest = latest
	if latest && !r.DeleteMarker {
		m.Delta.Objects++
	}
	m.Delta.Versions++
	m.Delta.Bytes += r.Size
	m.Count(r.StorageClass, 1, r.Size)
	t.buf = record.Append(t.buf[:0], r)
	if len(t.buf) > record.MaxRecord {
		return errLargeRecord
	}
	t.tx.Set(vk, t.buf)
	m.Clock = uint64(t.s.clock.Now())
	t.log(&m)
	return nil
}
