package object

import (
	"bytes"
	"context"
	"crypto/md5"
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strings"

	"firn"
	"firn/kv"
	"firn/object/digest"
	"firn/object/listing"
	"firn/object/record"
	"firn/object/space"
	"firn/seal"
)

// ErrChecksumAlgorithm is returned for a part that is sent with another checksum algorithm than its upload's.
var ErrChecksumAlgorithm = firn.NewError(firn.Invalid, "the part's checksum algorithm is not the upload's")

func formatUploadID(id [record.UploadIDLen]byte) string { return hex.EncodeToString(id[:]) }

func parseUploadID(s string) ([record.UploadIDLen]byte, error) {
	id, ok := record.ParseUploadID(s)
	if !ok {
		return id, ErrNoSuchUpload
	}
	return id, nil
}

// An upload is stored as the record of the version it will become, without content; the clock is its start.

func uploadInfo(bucket, key string, id [record.UploadIDLen]byte, raw []byte) (*UploadInfo, error) {
	var r record.Record
	if err := record.Decode(&r, raw); err != nil {
		return nil, err
	}
	u := &UploadInfo{
		ID: formatUploadID(id), Bucket: bucket, Key: key, Initiated: r.Modified,
		Options: PutOptions{
			Size: -1, Owner: r.Owner, StorageClass: r.StorageClass, Headers: r.Headers, Metadata: r.Metadata,
			Tags: r.Tags, ACL: r.ACL, Retention: r.Retention, LegalHold: r.LegalHold, Encryption: r.Encryption,
		},
	}
	if r.Checksum.Algorithm != record.ChecksumNone {
		u.Options.Checksum = &ChecksumRequest{Algorithm: r.Checksum.Algorithm, Type: r.Checksum.Type}
	}
	return u, nil
}

// CreateUpload starts a multipart upload and returns its id.
func (s *Store) CreateUpload(ctx context.Context, bucket, key string, o PutOptions) (string, error) {
	id, err := s.createUpload(ctx, bucket, key, &o)
	return id, fail("create upload", subject(bucket, key), err)
}

func (s *Store) createUpload(ctx context.Context, bucket, key string, o *PutOptions) (string, error) {
	b, err := s.bucketFor(bucket, key)
	if err != nil {
		return "", err
	}
	o.Size = 0
	if err := checkPut(b.rec.Load(), o); err != nil {
		return "", err
	}
	if err := s.space.Admit(space.RecordCost); err != nil {
		return "", err
	}
	defer s.space.Done(space.RecordCost)
	r := newRecord(bucket, key, o)
	if o.Checksum != nil {
		r.Checksum = record.Checksum{Algorithm: o.Checksum.Algorithm, Type: o.Checksum.Type}
	}
	now := s.clock.Now()
	r.Clock, r.Site = uint64(now), s.o.Site
	var id [record.UploadIDLen]byte
	binary.BigEndian.PutUint64(id[:], uint64(now))
	if _, err := rand.Read(id[8:]); err != nil {
		return "", err
	}
	_, err = s.change(ctx, b, func(t *txn) error {
		raw := record.Append(nil, r)
		if len(raw) > record.MaxRecord {
			return errLargeRecord
		}
		t.tx.Set(record.UploadKey(t.b.ID, key, id), raw)
		return nil
	}, record.UploadLock(id))
	return formatUploadID(id), err
}

// upload reads an upload's record. ErrNoSuchUpload.
func (s *Store) upload(r kv.Reader, b *record.Bucket, key string, id [record.UploadIDLen]byte) (*UploadInfo, error) {
	raw, err := kv.Find(r, nil, record.UploadKey(b.ID, key, id))
	if err == nil && raw == nil {
		err = ErrNoSuchUpload
	}
	if err != nil {
		return nil, err
	}
	return uploadInfo(b.Name, key, id, raw)
}

// Upload returns an upload's record. ErrNoSuchUpload.
func (s *Store) Upload(ctx context.Context, bucket, key, uploadID string) (*UploadInfo, error) {
	u, _, err := s.viewUpload(ctx, bucket, key, uploadID)
	return u, fail("head upload", subject(bucket, key), err)
}

func (s *Store) viewUpload(ctx context.Context, bucket, key, uploadID string) (u *UploadInfo, b *bucket, err error) {
	if b, err = s.bucketFor(bucket, key); err != nil {
		return nil, nil, err
	}
	id, err := parseUploadID(uploadID)
	if err != nil {
		return nil, nil, err
	}
	err = s.db.View(ctx, func(r kv.Reader) (err error) {
		u, err = s.upload(r, b.rec.Load(), key, id)
		return err
	}, record.UploadLock(id))
	return u, b, err
}

// PutPart stores a part; of o only Size, ContentMD5, Checksum and DataKey count. A part number sent again replaces the part.
func (s *Store) PutPart(ctx context.Context, bucket, key, uploadID string, number int, body io.Reader, o PutOptions) (*record.Part, error) {
	p, err := s.putPart(ctx, bucket, key, uploadID, number, body, &o)
	if err != nil {
		return nil, fail("put part", subject(bucket, key), err)
	}
	return p, nil
}

func (s *Store) putPart(ctx context.Context, bucket, key, uploadID string, number int, body io.Reader, o *PutOptions) (*record.Part, error) {
	if number < 1 || number > MaxPart {
		return nil, ErrInvalidPart
	}
	if o.Size > MaxPut {
		return nil, ErrTooLarge
	}
	u, b, err := s.viewUpload(ctx, bucket, key, uploadID)
	if err != nil {
		return nil, err
	}
	// Parts count once they are an object; one that can never be part of any is refused before it is sent.
	if b.rec.Load().Quota.TooLarge(o.Size) {
		return nil, ErrQuota
	}
	q := u.Options.Checksum
	switch {
	case q != nil && o.Checksum == nil:
		o.Checksum = q
	case q != nil && o.Checksum.Algorithm != q.Algorithm:
		return nil, ErrChecksumAlgorithm
	}
	id, err := parseUploadID(uploadID)
	if err != nil {
		return nil, err
	}
	sealer, err := u.Options.Encryption.NewSealer(o.DataKey, b.rec.Load().ID, key)
	if err != nil {
		return nil, err
	}
	c := &content{}
	defer c.free()
	c.protect(sealer)
	if err := c.charge(s.space, space.FileCost(max(0, o.Size))); err != nil {
		return nil, err
	}
	// Parts are files, however small: completion then takes them as they are.
	if err := s.receiveLarge(ctx, c, body, o, record.Label{Bucket: bucket, Key: key, Upload: uploadID, Part: number}); err != nil {
		return nil, err
	}
	p := &record.Part{
		Number: number, Size: c.size, MD5: sealer.ETag(c.sums.MD5), Checksum: c.sums.Checksum, Modified: s.clock.Now().Wall(),
		Blob: record.BlobID(c.blob.ID), Sealed: c.sealed(number),
	}
	open, err := s.change(ctx, b, func(t *txn) error {
		t.tx.Delete(record.BlobKey(record.TagOpening, p.Blob))
		return t.setPart(key, id, p)
	}, record.UploadLock(id))
	if err != nil {
		s.abandon(c.blob, open)
		return nil, err
	}
	return p, nil
}

// setPart stores p, in place of a part of the same number.
func (t *txn) setPart(key string, id [record.UploadIDLen]byte, p *record.Part) error {
	if _, err := t.s.upload(t.tx, t.b, key, id); err != nil {
		return err
	}
	k := record.PartKey(id, p.Number)
	raw, err := kv.Find(t.tx, nil, k)
	if err != nil {
		return err
	}
	if raw != nil {
		var old record.Part
		if err := record.DecodePart(&old, raw); err != nil {
			return err
		}
		t.release(old.Blob, old.Shared)
	}
	t.tx.Set(k, record.AppendPart(nil, p))
	return nil
}

// CopyPart stores a part from length bytes at offset of a source object (length -1: to its end). A range that is
// exactly one part of the source is shared, not copied. dataKey is that of an encrypted upload.
func (s *Store) CopyPart(ctx context.Context, src CopySource, offset, length int64, bucket, key, uploadID string, number int, dataKey *seal.Key) (*record.Part, *record.Version, error) {
	p, v, err := s.copyPart(ctx, src, offset, length, bucket, key, uploadID, number, dataKey)
	if err != nil {
		return nil, nil, fail("copy part", subject(bucket, key), err)
	}
	return p, v, nil
}

func (s *Store) copyPart(ctx context.Context, src CopySource, offset, length int64, bucket, key, uploadID string, number int, dataKey *seal.Key) (*record.Part, *record.Version, error) {
	from, err := s.openSource(ctx, src)
	if err != nil {
		return nil, nil, err
	}
	defer from.Close()
	if length < 0 {
		length = from.Version.Size - offset
	}
	if offset < 0 || length < 0 || offset > from.Version.Size || length > from.Version.Size-offset {
		return nil, nil, ErrInvalidRange
	}
	if length > MaxPut {
		return nil, nil, ErrTooLarge
	}
	if i := from.wholePart(offset, length); i >= 0 {
		p, ok, err := s.sharePart(ctx, src, from, i, bucket, key, uploadID, number, dataKey)
		if err != nil && !errors.Is(err, errSourceMoved) {
			return nil, nil, err
		}
		if ok && err == nil {
			return p, from.Version, nil
		}
		// The bytes are copied then; they are still there, because from is open.
	}
	body := from.stream(ctx, offset, length)
	defer body.Close()
	p, err := s.putPart(ctx, bucket, key, uploadID, number, body, &PutOptions{Size: length, DataKey: dataKey})
	return p, from.Version, err
}

// ListParts returns up to limit parts with a number > after, and whether more follow.
func (s *Store) ListParts(ctx context.Context, bucket, key, uploadID string, after, limit int) ([]record.Part, bool, error) {
	parts, more, err := s.listParts(ctx, bucket, key, uploadID, after, limit)
	return parts, more, fail("list parts", subject(bucket, key), err)
}

func (s *Store) listParts(ctx context.Context, bucket, key, uploadID string, after, limit int) (parts []record.Part, more bool, err error) {
	b, err := s.bucketFor(bucket, key)
	if err != nil {
		return nil, false, err
	}
	id, err := parseUploadID(uploadID)
	if err != nil {
		return nil, false, err
	}
	err = s.db.View(ctx, func(r kv.Reader) error {
		if _, err := s.upload(r, b.rec.Load(), key, id); err != nil {
			return err
		}
		if after >= MaxPart || limit <= 0 {
			return nil
		}
		err := kv.Scan(r, record.PartKey(id, max(0, after)+1), record.Successor(record.PartPrefix(id)), func(_, v []byte) error {
			if len(parts) >= limit {
				more = true
				return errStop
			}
			var p record.Part
			if err := record.DecodePart(&p, v); err != nil {
				return err
			}
			parts = append(parts, p)
			return nil
		})
		if errors.Is(err, errStop) {
			err = nil
		}
		return err
	}, record.UploadLock(id))
	return parts, more, err
}

// ListUploads returns a page of the uploads in progress.
func (s *Store) ListUploads(ctx context.Context, bucket string, o UploadListOptions) (*UploadListing, error) {
	l, err := s.listUploads(ctx, bucket, &o)
	return l, fail("list uploads", bucket, err)
}

func (s *Store) listUploads(ctx context.Context, bucket string, o *UploadListOptions) (*UploadListing, error) {
	b, err := s.bucket(bucket)
	if err != nil {
		return nil, err
	}
	out := &UploadListing{}
	limit := min(o.Limit, MaxList)
	if limit <= 0 {
		return out, nil
	}
	lower := record.AppendBucketID(nil, record.TagUpload, b.rec.Load().ID)
	upper := record.Successor(lower)
	// The escaped prefix without its end is a prefix of all escaped keys that begin with it.
	escaped := func(p string) []byte {
		k := record.AppendEscaped(bytes.Clone(lower), p)
		return k[:len(k)-2]
	}
	start := escaped(o.Prefix)
	end := record.Successor(start)
	if end == nil || bytes.Compare(end, upper) > 0 {
		end = upper
	}
	if o.KeyMarker != "" {
		after := record.AppendEscaped(bytes.Clone(lower), o.KeyMarker)
		if id, err := parseUploadID(o.UploadIDMarker); err == nil {
			after = append(append(after, id[:]...), 0)
		} else {
			after = record.Successor(after)
		}
		if bytes.Compare(after, start) > 0 {
			start = after
		}
	}
	lo := &listing.Options{Prefix: o.Prefix, Delimiter: o.Delimiter}
	err = s.db.View(ctx, func(r kv.Reader) (err error) {
		if bytes.Compare(start, end) >= 0 {
			return nil
		}
		it, err := r.Iter(start, end)
		if err != nil {
			return err
		}
		defer func() {
			if cerr := it.Close(); err == nil {
				err = cerr
			}
		}()
		var key []byte
		for ok := it.First(); ok; {
			var id []byte
			if key, id, ok = record.Unescape(key[:0], it.Key()[9:]); !ok || len(id) != record.UploadIDLen {
				return record.ErrBroken
			}
			full := len(out.Uploads)+len(out.CommonPrefixes) >= limit
			if cp, rolled := listing.CommonPrefix(key, lo); rolled {
				if string(cp) > o.KeyMarker {
					if full {
						out.Truncated = true
						return nil
					}
					out.CommonPrefixes = append(out.CommonPrefixes, string(cp))
					out.NextKey, out.NextUploadID = string(cp), ""
				}
				next := record.Successor(escaped(string(cp)))
				ok = next != nil && it.SeekGE(next)
				continue
			}
			if full {
				out.Truncated = true
				return nil
			}
			raw, err := it.Value()
			if err != nil {
				return err
			}
			u, err := uploadInfo(bucket, string(key), [record.UploadIDLen]byte(id), raw)
			if err != nil {
				return err
			}
			out.Uploads = append(out.Uploads, *u)
			out.NextKey, out.NextUploadID = u.Key, u.ID
			ok = it.Next()
		}
		out.NextKey, out.NextUploadID = "", ""
		return it.Err()
	})
	return out, err
}

// AbortUpload removes an upload and its parts.
func (s *Store) AbortUpload(ctx context.Context, bucket, key, uploadID string) error {
	return fail("abort upload", subject(bucket, key), s.abortUpload(ctx, bucket, key, uploadID))
}

func (s *Store) abortUpload(ctx context.Context, bucket, key, uploadID string) error {
	b, err := s.bucketFor(bucket, key)
	if err != nil {
		return err
	}
	id, err := parseUploadID(uploadID)
	if err != nil {
		return err
	}
	_, err = s.change(ctx, b, func(t *txn) error {
		if _, err := s.upload(t.tx, t.b, key, id); err != nil {
			return err
		}
		t.tx.Delete(record.UploadKey(t.b.ID, key, id))
		return t.takeParts(id, nil)
	}, record.UploadLock(id))
	return err
}

// takeParts removes the part records of an upload and frees the blobs of those that keep does not name.
func (t *txn) takeParts(id [record.UploadIDLen]byte, keep map[int]bool) error {
	lower := record.PartPrefix(id)
	upper := record.Successor(lower)
	n := 0
	err := kv.Scan(t.tx, lower, upper, func(k, v []byte) error {
		var p record.Part
		if err := record.DecodePart(&p, v); err != nil {
			return err
		}
		if !keep[p.Number] {
			t.release(p.Blob, p.Shared)
		}
		if n++; n <= fewParts {
			t.tx.Delete(k)
		}
		return nil
	})
	if err == nil && n > fewParts {
		t.tx.DeleteRange(lower, upper)
	}
	return err
}

// fewParts is the number of parts up to which they are deleted one by one: range deletes cost every later read
// near them a little.
const fewParts = 64

// hashParts tells one completion request from another.
func hashParts(parts []CompletePart) uint64 {
	h := md5.New()
	for _, p := range parts {
		fmt.Fprintf(h, "%d %s\n", p.Number, p.ETag)
	}
	return binary.BigEndian.Uint64(h.Sum(nil))
}

// CompleteUpload makes the version from the listed parts without copying a byte. Sending the same completion
// again after it succeeded returns the version made.
//
// Errors: ErrNoSuchUpload, ErrInvalidPart, ErrInvalidPartOrder, ErrPartTooSmall, ErrTooLarge, ErrBadChecksum,
// ErrIncompleteBody where o.Size is not the size of the parts, what o.Precondition returned.
func (s *Store) CompleteUpload(ctx context.Context, bucket, key, uploadID string, parts []CompletePart, o CompleteOptions) (*record.Version, error) {
	v, err := s.completeUpload(ctx, bucket, key, uploadID, parts, &o)
	if err != nil {
		return nil, fail("complete upload", subject(bucket, key), err)
	}
	return v, nil
}

func (s *Store) completeUpload(ctx context.Context, bucket, key, uploadID string, parts []CompletePart, o *CompleteOptions) (*record.Version, error) {
	b, err := s.bucketFor(bucket, key)
	if err != nil {
		return nil, err
	}
	id, err := parseUploadID(uploadID)
	if err != nil {
		return nil, err
	}
	if len(parts) == 0 || len(parts) > MaxPart {
		return nil, ErrInvalidPart
	}
	for i := range parts {
		if i > 0 && parts[i].Number <= parts[i-1].Number {
			return nil, ErrInvalidPartOrder
		}
	}
	ck := record.CurrentKey(b.rec.Load().ID, key)
	var v *record.Version
	_, err = s.change(ctx, b, func(t *txn) error {
		u, err := s.upload(t.tx, t.b, key, id)
		if errors.Is(err, ErrNoSuchUpload) {
			v, err = s.again(t.tx, t.b, key, id, parts)
			return err
		}
		if err != nil {
			return err
		}
		r := newRecord(bucket, key, &u.Options)
		if err := t.assemble(r, id, u, parts, o); err != nil {
			return err
		}
		cur, err := s.current(t.tx, bucket, key, ck)
		if err != nil {
			return err
		}
		if err := ask(o.Precondition, cur); err != nil {
			return err
		}
		t.stamp(r)
		if err := t.retain(r); err != nil {
			return err
		}
		if err := t.place(ck, r, cur, record.OpPut); err != nil {
			return err
		}
		keep := make(map[int]bool, len(parts))
		for i := range parts {
			keep[parts[i].Number] = true
		}
		if err := t.takeParts(id, keep); err != nil {
			return err
		}
		t.tx.Set(record.IDKey(record.TagParts, r.Data), record.AppendPartList(nil, r.Parts))
		t.tx.Delete(record.UploadKey(t.b.ID, key, id))
		done := record.Completed{
			At: r.Clock, Bucket: t.b.ID, Key: key, Version: record.Append(nil, r), Parts: hashParts(parts),
		}
		t.tx.Set(record.CompletedKey(id), done.Encode())
		v = r.Finish()
		return nil
	}, ck, record.UploadLock(id))
	return v, err
}

// again answers a completion that was sent before.
func (s *Store) again(r kv.Reader, b *record.Bucket, key string, id [record.UploadIDLen]byte, parts []CompletePart) (*record.Version, error) {
	raw, err := kv.Find(r, nil, record.CompletedKey(id))
	if err != nil {
		return nil, err
	}
	if raw == nil {
		return nil, ErrNoSuchUpload
	}
	c, err := record.DecodeCompleted(raw)
	if err != nil {
		return nil, err
	}
	if c.Bucket != b.ID || c.Key != key || c.Parts != hashParts(parts) {
		return nil, ErrNoSuchUpload
	}
	rec := &record.Record{}
	rec.Bucket, rec.Key = b.Name, key
	return &rec.Version, record.Decode(rec, c.Version)
}

// assemble checks the listed parts against those uploaded and describes the version they make in r.
func (t *txn) assemble(r *record.Record, id [record.UploadIDLen]byte, u *UploadInfo, list []CompletePart, o *CompleteOptions) error {
	have := make(map[int]*record.Part, len(list))
	lower := record.PartPrefix(id)
	err := kv.Scan(t.tx, lower, record.Successor(lower), func(_, v []byte) error {
		p := &record.Part{}
		if err := record.DecodePart(p, v); err != nil {
			return err
		}
		have[p.Number] = p
		return nil
	})
	if err != nil {
		return err
	}
	var alg record.ChecksumAlgorithm
	var kind record.ChecksumType
	if q := u.Options.Checksum; q != nil {
		alg, kind = q.Algorithm, q.Type
	}
	sums := md5.New()
	var whole []byte // combined so far
	small := false
	composite := digest.New(digest.Algorithm(alg))
	r.Parts = make([]record.Part, 0, len(list))
	for i := range list {
		p := have[list[i].Number]
		if p == nil || !strings.EqualFold(strings.Trim(list[i].ETag, `"`), hex.EncodeToString(p.MD5[:])) ||
			list[i].Checksum != nil && !bytes.Equal(list[i].Checksum, p.Checksum) {
			return ErrInvalidPart
		}
		small = small || p.Size < MinPart && i < len(list)-1
		r.Size += p.Size
		sums.Write(p.MD5[:])
		if alg != record.ChecksumNone {
			composite.Write(p.Checksum)
			if whole == nil {
				whole = p.Checksum
			} else {
				whole = digest.Combine(digest.Algorithm(alg), whole, p.Checksum, p.Size)
			}
		}
		part := *p
		if alg == record.ChecksumNone {
			part.Checksum = nil // sent with the part alone; the upload asked to keep none
		}
		r.Parts = append(r.Parts, part)
	}
	switch {
	case small:
		return ErrPartTooSmall
	case r.Size > MaxObject:
		return ErrTooLarge
	case o.Size >= 0 && o.Size != r.Size:
		return ErrIncompleteBody
	}
	sums.Sum(r.MD5[:0])
	r.ETagParts = len(list)
	r.Multipart = true
	r.Data = uint64(t.s.clock.Now())
	switch {
	case alg == record.ChecksumNone:
	case kind == record.ChecksumComposite:
		r.Checksum = record.Checksum{Algorithm: alg, Type: kind, Value: composite.Sum(nil), Parts: len(list)}
	case whole == nil:
		return ErrBadChecksum // not a checksum that combines; the door refuses it at the start
	default:
		r.Checksum = record.Checksum{Algorithm: alg, Type: kind, Value: whole}
	}
	if o.Checksum != nil && !bytes.Equal(o.Checksum, r.Checksum.Value) {
		return ErrBadChecksum
	}
	return nil
}
