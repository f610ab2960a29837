package object

import (
	"bytes"
	"context"
	"crypto/subtle"
	"errors"
	"io"
	"sync"

	"firn/block"
	"firn/kv"
	"firn/object/blobs"
	"firn/object/digest"
	"firn/object/envelope"
	"firn/object/record"
	"firn/object/space"
	"firn/seal"
	"firn/vfs"
)

// content is what a body became before its record is committed.
type content struct {
	size   int64
	sums   digest.Sums
	inline []byte // of small content; pooled
	blob   blobs.File
	large  bool             // blob is set
	sealer *envelope.Sealer // nil where it is not encrypted
	key    *seal.Key        // of the bytes
	framed []byte           // inline, sealed; pooled
	space  *space.Reserve
	cost   int64 // bytes charged to space until free
}

// charge asks for n bytes of disk for c, until c.free. ErrNoSpace.
func (c *content) charge(s *space.Reserve, n int64) error {
	if err := s.Admit(n); err != nil {
		return err
	}
	c.space = s
	c.cost += n
	return nil
}

// cost is what content of the size that a client announced may take of the disk; -1 is a size that is not known,
// whose content is charged for as it comes.
func (s *Store) cost(size int64) int64 {
	if size <= int64(s.o.InlineMax) {
		return space.InlineCost(max(0, size))
	}
	return space.FileCost(size)
}

// Put stores a new version from body.
//
// Errors: ErrNoSuchBucket, ErrInvalidKey, ErrKeyTooLong, ErrTooLarge, ErrIncompleteBody, ErrBadDigest,
// ErrBadChecksum, ErrNoSpace, ErrLockConfig, ErrLocked, what o.Precondition returned, what body returned.
func (s *Store) Put(ctx context.Context, bucket, key string, body io.Reader, o PutOptions) (*record.Version, error) {
	v, err := s.put(ctx, bucket, key, body, &o)
	if err != nil {
		return nil, fail("put object", subject(bucket, key), err)
	}
	return v, nil
}

func (s *Store) put(ctx context.Context, bucket, key string, body io.Reader, o *PutOptions) (*record.Version, error) {
	b, err := s.bucketFor(bucket, key)
	if err != nil {
		return nil, err
	}
	if err := checkPut(b.rec.Load(), o); err != nil {
		return nil, err
	}
	ck := record.CurrentKey(b.rec.Load().ID, key)
	if o.Precondition != nil {
		// Asked before the body is read, so that a request that cannot succeed is not sent in vain. It is asked
		// again in the transaction, which decides.
		if err := s.precondition(ctx, b, key, ck, o.Precondition); err != nil {
			return nil, err
		}
	}
	c := &content{}
	defer c.free()
	if err := c.charge(s.space, s.cost(o.Size)); err != nil {
		return nil, err
	}
	sealer, err := o.Encryption.NewSealer(o.DataKey, b.rec.Load().ID, key)
	if err != nil {
		return nil, err
	}
	c.protect(sealer)
	if err := s.receive(ctx, c, body, o, record.Label{Bucket: bucket, Key: key}); err != nil {
		return nil, err
	}
	c.frame()
	r := newRecord(bucket, key, o)
	c.describe(r, o.Checksum)
	return s.commitPut(ctx, b, ck, r, c, o.Precondition)
}

// newRecord returns the record of a new version with what o says of it.
func newRecord(bucket, key string, o *PutOptions) *record.Record {
	r := &record.Record{Version: record.Version{
		Bucket: bucket, Key: key, Latest: true, Owner: o.Owner, StorageClass: o.StorageClass,
		Headers: o.Headers, Metadata: o.Metadata, Tags: o.Tags, ACL: o.ACL,
		Retention: o.Retention, LegalHold: o.LegalHold, Encryption: o.Encryption,
	}}
	if r.StorageClass == StandardClass {
		r.StorageClass = ""
	}
	return r
}

// describe takes size and sums over into r.
func (c *content) describe(r *record.Record, q *ChecksumRequest) {
	r.Size, r.MD5, r.Sealed = c.size, c.sealer.ETag(c.sums.MD5), c.sealed(1)
	if c.sealer == nil {
		r.BLAKE3 = c.sums.BLAKE3 // it would tell of encrypted content what it is
	}
	if q != nil && c.sums.Checksum != nil {
		r.Checksum = record.Checksum{Algorithm: q.Algorithm, Value: c.sums.Checksum}
	}
	if c.large {
		r.Blob = record.BlobID(c.blob.ID)
	}
}

// commitPut makes r, whose content is c, the current version.
func (s *Store) commitPut(ctx context.Context, b *bucket, ck []byte, r *record.Record, c *content, pre Precondition) (*record.Version, error) {
	open, err := s.change(ctx, b, func(t *txn) error {
		cur, err := s.current(t.tx, r.Bucket, r.Key, ck)
		if err != nil {
			return err
		}
		if err := ask(pre, cur); err != nil {
			return err
		}
		switch {
		case c.large:
			t.tx.Delete(record.BlobKey(record.TagOpening, r.Blob))
		case c.size > 0:
			t.setInline(r, c)
		}
		t.stamp(r)
		if err := t.retain(r); err != nil {
			return err
		}
		return t.place(ck, r, cur, record.OpPut)
	}, ck)
	if err != nil {
		if c.large {
			s.abandon(c.blob, open)
		}
		return nil, err
	}
	return r.Finish(), nil
}

// setInline stores small content for r. As wherever an id is a reading of the clock, the journal entry's comes after it:
// a start knows the entries' alone, and must not give an id again where the wall clock went back.
func (t *txn) setInline(r *record.Record, c *content) {
	r.Data = uint64(t.s.clock.Now())
	if c.framed != nil {
		t.tx.Set(record.IDKey(record.TagData, r.Data), c.framed)
		return
	}
	h := block.InlineHeader(c.inline)
	t.tx.SetSplit(record.IDKey(record.TagData, r.Data), h[:], c.inline)
}

// ask puts a precondition to the current version.
func ask(pre Precondition, cur *stored) error {
	switch {
	case pre == nil:
		return nil
	case cur == nil:
		return pre(nil)
	}
	if cur.ID == "" {
		cur.Record.Finish()
	}
	return pre(&cur.Version)
}

func (s *Store) precondition(ctx context.Context, b *bucket, key string, ck []byte, pre Precondition) error {
	return s.db.View(ctx, func(r kv.Reader) error {
		cur, err := s.current(r, b.rec.Load().Name, key, ck)
		if err != nil {
			return err
		}
		return ask(pre, cur)
	}, ck)
}

// checkPut checks what can be checked before a body is read.
func checkPut(b *record.Bucket, o *PutOptions) error {
	switch {
	case o.Size > MaxPut:
		return ErrTooLarge
	case b.Quota.TooLarge(o.Size):
		return ErrQuota
	case o.ContentMD5 != nil && len(o.ContentMD5) != 16:
		return ErrBadDigest
	case !b.ObjectLock && (o.Retention.Mode != record.RetentionNone || o.LegalHold):
		return ErrLockConfig
	}
	return nil
}

// retain applies the bucket's default retention to a version that brings none.
func (t *txn) retain(r *record.Record) error {
	if !t.b.ObjectLock {
		if r.Retention.Mode != record.RetentionNone || r.LegalHold {
			return ErrLockConfig
		}
		return nil
	}
	d := t.b.Retention
	if r.Retention.Mode != record.RetentionNone || d.Mode == record.RetentionNone {
		return nil
	}
	r.Retention = record.Retention{Mode: d.Mode, Until: r.Modified.AddDate(d.Years, 0, d.Days)}
	return nil
}

// receive reads a body to its end and checks it against what the client said of it. Small content stays in
// memory, large content is in a durable blob file when it returns. The caller has charged c for the size that the
// client announced.
func (s *Store) receive(ctx context.Context, c *content, body io.Reader, o *PutOptions, l record.Label) error {
	if body == nil {
		body = bytes.NewReader(nil)
	}
	alg := digest.None
	if o.Checksum != nil {
		alg = digest.Algorithm(o.Checksum.Algorithm)
	}
	inlineMax := int64(s.o.InlineMax)
	if o.Size <= inlineMax {
		want := inlineMax
		if o.Size >= 0 {
			want = o.Size
		}
		// One byte more than wanted tells a body that goes on, and makes the reader reach its end, where a body
		// in chunks checks its last signature.
		c.inline = getBuffer(int(want) + 1)
		n, err := digest.Fill(body, c.inline[:want+1])
		switch {
		case err == nil && o.Size >= 0:
			err = ErrIncompleteBody
		case errors.Is(err, io.EOF) && o.Size >= 0 && int64(n) < o.Size:
			err = ErrIncompleteBody
		case errors.Is(err, io.EOF):
			err = nil
		}
		if err != nil {
			return err
		}
		if int64(n) <= want {
			c.inline = c.inline[:n]
			c.size = int64(n)
			if o.Size < 0 {
				if err := c.charge(s.space, space.InlineCost(c.size)-space.InlineCost(0)); err != nil {
					return err
				}
			}
			c.sums = digest.Of(c.inline, alg)
			return checkSums(&c.sums, o)
		}
		body = io.MultiReader(bytes.NewReader(c.inline[:n]), body)
		defer c.freeBuffer()
	}
	return s.receiveLarge(ctx, c, body, o, l)
}

// receiveLarge is receive for content that becomes a file whatever its size.
func (s *Store) receiveLarge(ctx context.Context, c *content, body io.Reader, o *PutOptions, l record.Label) error {
	if body == nil {
		body = bytes.NewReader(nil)
	}
	c.large = true
	var err error
	if c.blob, err = s.blobs.Create(ctx); err != nil {
		return err
	}
	if err := s.fill(ctx, c, body, o, l); err != nil {
		s.blobs.Discard(c.blob)
		return err
	}
	return nil
}

// fill streams body into c's blob file, makes it durable and closes it.
func (s *Store) fill(ctx context.Context, c *content, body io.Reader, o *PutOptions, l record.Label) error {
	alg := digest.None
	if o.Checksum != nil {
		alg = digest.Algorithm(o.Checksum.Algorithm)
	}
	var file vfs.File = c.blob.File
	if s.o.Relaxed {
		file = unsynced{file}
	}
	w, err := block.NewWriter(file, block.WriterOptions{
		BlockSize: s.o.BlockSize, Label: l.Encode(), Sum: func() [32]byte { return c.sums.BLAKE3 },
		Key: c.key,
	})
	if err != nil {
		return err
	}
	defer w.Abort()
	limit := o.Size
	if limit < 0 {
		limit = MaxPut
	}
	var dst io.Writer = w
	if o.Size < 0 {
		dst = &spaceWriter{w: w, c: c, s: s.space}
	}
	c.size, c.sums, err = s.digests.Copy(ctx, dst, body, limit, alg)
	switch {
	case errors.Is(err, digest.ErrTooLong) && o.Size < 0:
		return ErrTooLarge
	case errors.Is(err, digest.ErrTooLong), err == nil && o.Size >= 0 && c.size != o.Size:
		return ErrIncompleteBody
	case err != nil:
		return err
	}
	if err := checkSums(&c.sums, o); err != nil {
		return err
	}
	if _, err := w.Finish(); err != nil {
		return err
	}
	c.blob.File = nil
	return file.Close()
}

// unsynced leaves it to the operating system when bytes reach the disk.
type unsynced struct{ vfs.File }

func (unsynced) SyncData() error { return nil }
func (unsynced) Sync() error     { return nil }

// spaceWriter charges for content of unknown size as it comes, which stops it before it eats the reserve.
type spaceWriter struct {
	w io.Writer
	c *content
	s *space.Reserve
}

func (w *spaceWriter) Write(p []byte) (int, error) {
	if err := w.c.charge(w.s, space.FileCost(int64(len(p)))-space.FileCost(0)); err != nil {
		return 0, err
	}
	return w.w.Write(p)
}

// checkSums compares content with what the client sent about it.
func checkSums(sums *digest.Sums, o *PutOptions) error {
	if o.ContentMD5 != nil && subtle.ConstantTimeCompare(o.ContentMD5, sums.MD5[:]) == 0 {
		return ErrBadDigest
	}
	if o.Checksum == nil || o.Checksum.Expected == nil {
		return nil
	}
	want, err := o.Checksum.Expected()
	if err != nil {
		return err
	}
	if want != nil && !bytes.Equal(want, sums.Checksum) {
		return ErrBadChecksum
	}
	return nil
}

// abandon removes the file of a version that did not come to be. Where the outcome of the commit is open the
// file stays: the next start knows whether a record names it.
func (s *Store) abandon(f blobs.File, open bool) {
	if !open {
		s.blobs.Discard(f)
	}
}

// free ends the charge for space: what c needs of the disk is there, or will not be. It gives pooled memory back.
func (c *content) free() {
	if c.space != nil {
		c.space.Done(c.cost)
		c.space, c.cost = nil, 0
	}
	c.freeBuffer()
}

func (c *content) freeBuffer() {
	if c.inline != nil {
		putBuffer(c.inline)
		c.inline = nil
	}
	if c.framed != nil {
		putBuffer(c.framed)
		c.framed = nil
	}
}

// Buffers for inline content come in a few sizes, so that a small object does not hold a large one.
var bufferSizes = [...]int{4<<10 + 64, 16<<10 + 64, 64<<10 + 64}

type bufferPool [len(bufferSizes)]sync.Pool

// inlineBuffers is a free list: it holds no state of any request.
var inlineBuffers bufferPool

// getBuffer returns a buffer of length n.
func getBuffer(n int) []byte {
	for i, size := range bufferSizes {
		if n <= size {
			if p, ok := inlineBuffers[i].Get().(*[]byte); ok {
				return (*p)[:n]
			}
			return make([]byte, n, size)
		}
	}
	return make([]byte, n)
}

func putBuffer(b []byte) {
	for i, size := range bufferSizes {
		if cap(b) == size {
			inlineBuffers[i].Put(&b)
			return
		}
	}
}
