package object

import (
	"bytes"
	"context"
	"errors"
	"io"
	"slices"

	"firn/object/digest"
	"firn/object/record"
	"firn/object/space"
	"firn/seal"
)

// openSource opens what a copy reads and asks its precondition.
func (s *Store) openSource(ctx context.Context, src CopySource) (*Object, error) {
	from, err := s.openObject(ctx, src.Bucket, src.Key, src.VersionID)
	if err != nil {
		return nil, err
	}
	if src.Precondition != nil {
		if err := src.Precondition(from.Version); err != nil {
			_ = from.Close() // always nil
			return nil, err
		}
	}
	if from.Version.Encryption != nil {
		if err := from.Unlock(src.DataKey); err != nil {
			_ = from.Close() // always nil
			return nil, err
		}
	}
	return from, nil
}

// copyTries bounds how often a copy starts again because its source was replaced under it.
const copyTries = 20

// errSourceMoved: the source of a copy is no longer the version that was opened.
var errSourceMoved = errors.New("the source of a copy changed")

// Copy makes a new version of bucket/key with the source's content, sharing its bytes where it can.
// o gives all metadata of the new version (the caller merges what it keeps from the source); o.Size,
// o.ContentMD5 are ignored; where encryption stands against sharing, the bytes are written anew; o.Checksum.Expected is nil and asks for the algorithm to be kept or computed.
func (s *Store) Copy(ctx context.Context, src CopySource, bucket, key string, o PutOptions) (*record.Version, error) {
	for range copyTries {
		v, err := s.copyObject(ctx, src, bucket, key, &o)
		if errors.Is(err, errSourceMoved) {
			continue
		}
		if err != nil {
			return nil, fail("copy object", subject(bucket, key), err)
		}
		return v, nil
	}
	return nil, fail("copy object", subject(bucket, key), errSourceMoved)
}

func (s *Store) copyObject(ctx context.Context, src CopySource, bucket, key string, o *PutOptions) (*record.Version, error) {
	b, err := s.bucketFor(bucket, key)
	if err != nil {
		return nil, err
	}
	opts := *o
	opts.Size, opts.ContentMD5 = 0, nil
	if err := checkPut(b.rec.Load(), &opts); err != nil {
		return nil, err
	}
	ck := record.CurrentKey(b.rec.Load().ID, key)
	from, err := s.openSource(ctx, src)
	if err != nil {
		return nil, err
	}
	defer from.Close()
	if o.Precondition != nil {
		if err := s.precondition(ctx, b, key, ck, o.Precondition); err != nil {
			return nil, err
		}
	}
	encrypted := from.Version.Encryption != nil || o.Encryption != nil
	r := newRecord(bucket, key, &opts)
	// On a tier, what is shared is the blob there; it fits where both versions have the storage class of the tier.
	onTier := from.Version.Location != nil && r.StorageClass == from.Version.StorageClass
	alone := from.inline != nil && !onTier || !o.Encryption.SharesWith(from.Version.Encryption)
	if encrypted && alone || !from.Version.Local() && !onTier {
		opts.Size = from.Version.Size
		body := from.stream(ctx, 0, opts.Size)
		defer body.Close()
		return s.put(ctx, bucket, key, body, &opts)
	}
	r.Size, r.MD5, r.ETagParts, r.BLAKE3 = from.rec.Size, from.rec.MD5, from.rec.ETagParts, from.rec.BLAKE3
	r.Multipart = from.rec.Multipart
	r.Checksum = from.rec.Checksum
	if q := o.Checksum; q != nil && q.Algorithm != r.Checksum.Algorithm {
		sums, err := from.sums(ctx, digest.Algorithm(q.Algorithm))
		if err != nil {
			return nil, err
		}
		r.Checksum = record.Checksum{Algorithm: q.Algorithm, Value: sums.Checksum}
	}
	need := int64(space.RecordCost)
	if from.inline != nil && !onTier {
		need = space.InlineCost(r.Size)
	}
	if err := s.space.Admit(need); err != nil {
		return nil, err
	}
	defer s.space.Done(need)
	if !onTier && (from.inline != nil || r.Size == 0 && !r.Multipart && from.rec.Blob == (record.BlobID{})) {
		c := &content{size: r.Size, inline: from.inline}
		return s.commitPut(ctx, b, ck, r, c, o.Precondition)
	}
	sealer, err := o.Encryption.NewSealer(o.DataKey, b.rec.Load().ID, key)
	if err != nil {
		return nil, err
	}
	sealed := make([][]byte, len(from.Version.Parts))
	for i := range sealed {
		if sealed[i], err = from.reseal(i, sealer, from.Version.Parts[i].Number); err != nil {
			return nil, err
		}
	}
	return s.commitShared(ctx, src, from, b, ck, r, sealed, o.Precondition)
}

// sums computes digests of an open object's content.
func (o *Object) sums(ctx context.Context, a digest.Algorithm) (digest.Sums, error) {
	if o.inline != nil {
		return digest.Of(o.inline, a), nil
	}
	body := o.stream(ctx, 0, o.Version.Size)
	defer body.Close()
	_, sums, err := o.s.digests.Copy(ctx, io.Discard, body, o.Version.Size, a)
	return sums, err
}

// commitShared makes r the current version with the blobs of the open version from, whose keys are sealed as given.
func (s *Store) commitShared(ctx context.Context, src CopySource, from *Object, b *bucket, ck []byte, r *record.Record, sealed [][]byte, pre Precondition) (*record.Version, error) {
	sb, err := s.bucket(src.Bucket)
	if err != nil {
		return nil, err
	}
	sck := record.CurrentKey(sb.rec.Load().ID, src.Key)
	_, err = s.change(ctx, b, func(t *txn) error {
		cur, err := s.current(t.tx, r.Bucket, r.Key, ck)
		if err != nil {
			return err
		}
		if err := ask(pre, cur); err != nil {
			return err
		}
		v, vk, err := t.sourceAt(src, sb.rec.Load(), from, sck)
		if err != nil {
			return err
		}
		if err := t.share(r, v, vk, sealed); err != nil {
			return err
		}
		if bytes.Equal(vk, ck) {
			cur = v // as marked: place stores it again where it becomes noncurrent
		}
		t.stamp(r)
		if err := t.retain(r); err != nil {
			return err
		}
		return t.place(ck, r, cur, record.OpPut)
	}, lockSet(ck, sck)...)
	if err != nil {
		return nil, err
	}
	return r.Finish(), nil
}

func lockSet(a, b []byte) [][]byte {
	if bytes.Equal(a, b) {
		return [][]byte{a}
	}
	return [][]byte{a, b}
}

// share makes r use the blobs of v, which is stored under vk, with their keys as sealed for r. Where the same transaction goes on to drop v,
// release and finish settle the count.
func (t *txn) share(r *record.Record, v *stored, vk []byte, sealed [][]byte) error {
	if v.Location != nil && v.StorageClass == r.StorageClass {
		return t.shareLocation(r, v, vk, sealed)
	}
	parts, err := t.reuse(v, vk, func(int) bool { return true })
	if err != nil {
		return err
	}
	if !v.Multipart {
		r.Blob, r.Shared, r.Sealed = v.Blob, true, sealed[0]
		return nil
	}
	r.Data = uint64(t.s.clock.Now())
	r.Parts = slices.Clone(parts)
	for i := range r.Parts {
		r.Parts[i].Sealed = sealed[i]
	}
	t.tx.Set(record.IDKey(record.TagParts, r.Data), record.AppendPartList(nil, r.Parts))
	return nil
}

// shareLocation is share for the blob on a tier.
func (t *txn) shareLocation(r *record.Record, v *stored, vk []byte, sealed [][]byte) error {
	if !v.Location.Shared {
		v.Location.Shared = true
		v.raw = record.Append(nil, &v.Record)
		t.tx.Set(vk, v.raw)
	}
	t.referenceLocation(v.Location, 1)
	r.Location = &record.Location{
		ID: v.Location.ID, Tier: v.Location.Tier, Key: v.Location.Key, Since: v.Location.Since, Shared: true,
	}
	if !v.Multipart {
		if len(sealed) > 0 {
			r.Sealed = sealed[0]
		}
		return nil
	}
	parts, err := t.s.parts(t.tx, &v.Record)
	if err != nil {
		return err
	}
	for i := range parts {
		parts[i].Blob, parts[i].Shared, parts[i].Sealed = record.BlobID{}, false, sealed[i]
	}
	r.Data, r.Parts = uint64(t.s.clock.Now()), parts
	t.tx.Set(record.IDKey(record.TagParts, r.Data), record.AppendPartList(nil, parts))
	return nil
}

// reuse gives those parts of v that which names one use more and marks them as shared in what is stored.
// It returns the parts as stored now.
func (t *txn) reuse(v *stored, vk []byte, which func(i int) bool) ([]record.Part, error) {
	if !v.Multipart {
		if !v.Shared {
			v.Shared = true
			v.raw = record.Append(nil, &v.Record)
			t.tx.Set(vk, v.raw)
		}
		t.reference(v.Blob, 1)
		p := v.OnlyPart()
		return []record.Part{p}, nil
	}
	parts, err := t.s.parts(t.tx, &v.Record)
	if err != nil {
		return nil, err
	}
	changed := false
	for i := range parts {
		if !which(i) {
			continue
		}
		changed = changed || !parts[i].Shared
		parts[i].Shared = true
		t.reference(parts[i].Blob, 1)
	}
	if changed {
		t.tx.Set(record.IDKey(record.TagParts, v.Data), record.AppendPartList(nil, parts))
	}
	return parts, nil
}

// sourceAt reads the version that from was opened on, with the key it is stored under. errSourceMoved where it
// is no longer there.
func (t *txn) sourceAt(src CopySource, b *record.Bucket, from *Object, sck []byte) (*stored, []byte, error) {
	v, vk, err := t.s.find(t.tx, b, src.Key, from.Version.ID, sck)
	if err != nil {
		return nil, nil, err
	}
	if v == nil || v.Clock != from.rec.Clock || v.Site != from.rec.Site || v.Data != from.rec.Data || v.Blob != from.rec.Blob ||
		RefOf(&v.Version).Blob != RefOf(from.Version).Blob {
		return nil, nil, errSourceMoved
	}
	return v, vk, nil
}

// wholePart returns the index of the part of o that is exactly length bytes at offset and a blob, or -1.
func (o *Object) wholePart(offset, length int64) int {
	start := int64(0)
	for i := range o.Version.Parts {
		p := &o.Version.Parts[i]
		if start == offset && p.Size == length && p.Blob != (record.BlobID{}) {
			return i
		}
		if start += p.Size; start > offset {
			break
		}
	}
	return -1
}

// sharePart makes part i of from the part of an upload, without copying it. ok is false where a checksum that the
// upload keeps is not known of it.
func (s *Store) sharePart(ctx context.Context, src CopySource, from *Object, i int, bucket, key, uploadID string, number int, dataKey *seal.Key) (p *record.Part, ok bool, err error) {
	if number < 1 || number > MaxPart {
		return nil, false, ErrInvalidPart
	}
	u, b, err := s.viewUpload(ctx, bucket, key, uploadID)
	if err != nil {
		return nil, false, err
	}
	if !u.Options.Encryption.SharesWith(from.Version.Encryption) {
		return nil, false, nil
	}
	sealer, err := u.Options.Encryption.NewSealer(dataKey, b.rec.Load().ID, key)
	if err != nil {
		return nil, false, err
	}
	part := from.Version.Parts[i]
	if part.Sealed, err = from.reseal(i, sealer, number); err != nil {
		return nil, false, err
	}
	if q := u.Options.Checksum; q != nil {
		if from.Version.Checksum.Algorithm != q.Algorithm || len(part.Checksum) != digest.Algorithm(q.Algorithm).Size() {
			return nil, false, nil
		}
	} else {
		part.Checksum = nil
	}
	id, err := parseUploadID(uploadID)
	if err != nil {
		return nil, false, err
	}
	sb, err := s.bucket(src.Bucket)
	if err != nil {
		return nil, false, err
	}
	sck := record.CurrentKey(sb.rec.Load().ID, src.Key)
	_, err = s.change(ctx, b, func(t *txn) error {
		v, vk, err := t.sourceAt(src, sb.rec.Load(), from, sck)
		if err != nil {
			return err
		}
		if _, err := t.reuse(v, vk, func(n int) bool { return n == i }); err != nil {
			return err
		}
		part.Number, part.Shared, part.Modified = number, true, s.clock.Now().Wall()
		return t.setPart(key, id, &part)
	}, record.UploadLock(id), sck)
	return &part, true, err
}
