package object

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"sync"

	"firn"
	"firn/block"
	"firn/kv"
	"firn/object/blobs"
	"firn/object/envelope"
	"firn/object/record"
	"firn/seal"
)

// Object is an open version. Its methods may be called concurrently, but not with or after Close.
type Object struct {
	Version *record.Version

	s        *Store
	rec      *stored
	bucketID uint64
	sealer   *envelope.Sealer // after Unlock
	sealed   []byte           // inline content before Unlock
	inline   []byte           // plain content
	buf      []byte           // pooled memory that inline is in

	mu struct {
		sync.Mutex
		last *partReader // of the part read last, kept open
	}
	pinned bool
}

// Head returns the metadata of a version; versionID "" means the current one.
// ErrNoSuchKey, ErrNoSuchVersion; ErrDeleteMarker together with the marker's Version.
func (s *Store) Head(ctx context.Context, bucket, key, versionID string) (*record.Version, error) {
	v, err := s.head(ctx, bucket, key, versionID)
	if err != nil {
		err = fail("head object", subject(bucket, key), err)
	}
	return v, err
}

func (s *Store) head(ctx context.Context, bucket, key, versionID string) (*record.Version, error) {
	b, err := s.bucketFor(bucket, key)
	if err != nil {
		return nil, err
	}
	rec := b.rec.Load()
	ck := record.CurrentKey(rec.ID, key)
	var v *stored
	err = s.db.View(ctx, func(r kv.Reader) error {
		v, _, err = s.find(r, rec, key, versionID, ck)
		if err == nil && v != nil && v.Multipart {
			v.Parts, err = s.parts(r, &v.Record)
		}
		return err
	}, ck)
	if err != nil {
		return nil, err
	}
	return answer(v, versionID)
}

// answer turns what find found into what Head and Open return.
func answer(v *stored, versionID string) (*record.Version, error) {
	switch {
	case v == nil && versionID == "":
		return nil, ErrNoSuchKey
	case v == nil:
		return nil, ErrNoSuchVersion
	case v.DeleteMarker:
		return &v.Version, ErrDeleteMarker
	}
	return &v.Version, nil
}

// lookups bounds how often a reader starts again because a version was replaced under it.
const lookups = 100

// Open is Head with the content. The caller closes the Object. The content stays readable, whatever
// happens to the version, until then. With ErrDeleteMarker it returns an Object that has only the Version.
func (s *Store) Open(ctx context.Context, bucket, key, versionID string) (*Object, error) {
	o, err := s.openObject(ctx, bucket, key, versionID)
	if err != nil {
		err = fail("get object", subject(bucket, key), err)
	}
	return o, err
}

func (s *Store) openObject(ctx context.Context, bucket, key, versionID string) (*Object, error) {
	b, err := s.bucketFor(bucket, key)
	if err != nil {
		return nil, err
	}
	rec := b.rec.Load()
	var arr [256]byte
	ck := record.AppendCurrentKey(arr[:0], rec.ID, key)
	for range lookups {
		o, err := s.lookup(ctx, rec, key, versionID, ck)
		if !errors.Is(err, errReplaced) {
			return o, err
		}
	}
	return nil, firn.NewError(firn.Unavailable, "the object is being replaced too often to be read")
}

// errReplaced: content is gone although its record was read, because the version was replaced in between.
var errReplaced = errors.New("version was replaced while it was opened")

func (s *Store) lookup(ctx context.Context, b *record.Bucket, key, versionID string, ck []byte) (*Object, error) {
	epoch := s.grace.Enter()
	defer s.grace.Leave(epoch)
	o := &Object{s: s, bucketID: b.ID}
	var v *stored
	err := s.db.View(ctx, func(r kv.Reader) (err error) {
		v, _, err = s.find(r, b, key, versionID, ck)
		if v == nil || err != nil {
			return err
		}
		switch {
		case v.Multipart:
			if v.Parts, err = s.parts(r, &v.Record); errors.Is(err, kv.ErrNotFound) {
				err = errReplaced
			}
		case v.Data != 0:
			o.buf, err = kv.Find(r, getBuffer(int(v.Size) + block.SealedInlineOverhead)[:0], record.IDKey(record.TagData, v.Data))
			if err == nil && o.buf == nil {
				err = errReplaced
			}
		}
		return err
	}, ck)
	if err != nil {
		o.free()
		if v != nil && errors.Is(err, errReplaced) && s.unchanged(ctx, b, key, versionID, ck, &v.Record) {
			err = firn.NewError(firn.Corrupt, "the content of a version is missing")
		}
		return nil, err
	}
	ver, err := answer(v, versionID)
	if err != nil {
		if ver != nil {
			return &Object{Version: ver}, err
		}
		return nil, err
	}
	o.rec, o.Version = v, &v.Version
	o.pins(s.blobs.Pin)
	o.pinned = true
	if v.Data != 0 && !v.Multipart {
		o.inline, err = block.OpenInline(o.buf)
		size := int64(len(o.inline))
		if errors.Is(err, block.ErrSealed) {
			o.inline, o.sealed = nil, o.inline
			size, err = size-seal.Overhead, nil
		}
		if err == nil && (size != v.Size || (o.sealed != nil) != (v.Encryption != nil)) {
			err = firn.NewError(firn.Corrupt, "content has another size than its record")
		}
		if err != nil {
			s.stats.corrupt.Add(1)
			s.log.Error("content does not match its checksum", "bucket", b.Name, "key", key, "version", v.ID, "error", err)
			o.free()
			return nil, err
		}
		return o, nil
	}
	return o, nil
}

// unchanged reports whether the version still has the record r.
func (s *Store) unchanged(ctx context.Context, b *record.Bucket, key, versionID string, ck []byte, r *record.Record) bool {
	same := false
	err := s.db.View(ctx, func(kr kv.Reader) error {
		v, _, err := s.find(kr, b, key, versionID, ck)
		same = err == nil && v != nil && v.Clock == r.Clock && v.Data == r.Data
		return err
	}, ck)
	return err == nil && same
}

// WriteRange writes length bytes from offset to w, each block verified before any of its bytes is written.
// A corrupt block ends it with ErrCorrupt. It returns the bytes written. ErrInvalidRange.
func (o *Object) WriteRange(ctx context.Context, w io.Writer, offset, length int64) (int64, error) {
	return o.writeRange(ctx, w, offset, length, false)
}

func (o *Object) writeRange(ctx context.Context, w io.Writer, offset, length int64, stored bool) (int64, error) {
	if offset < 0 || length < 0 || offset > o.Version.Size || length > o.Version.Size-offset {
		return 0, fail("read object", o.subject(), ErrInvalidRange)
	}
	if length == 0 {
		return 0, nil
	}
	if o.Version.Encryption != nil && o.sealer == nil && !stored {
		return 0, fail("read object", o.subject(), envelope.ErrNeedsKey)
	}
	if o.buf != nil {
		p := o.inline
		if stored {
			var err error
			if p, err = block.InlineData(o.buf); err != nil {
				return 0, fail("read object", o.subject(), err)
			}
		}
		n, err := w.Write(p[offset : offset+length])
		return int64(n), err
	}
	var written int64
	start := int64(0) // of the part within the object
	for i := range o.Version.Parts {
		p := &o.Version.Parts[i]
		if length == 0 {
			break
		}
		if off := offset - start; off < p.Size {
			r, err := o.acquire(ctx, i)
			if err != nil {
				return written, fail("read object", o.subject(), err)
			}
			want := min(length, p.Size-off)
			n, err := r.writeRange(ctx, w, off, want, stored)
			if firn.KindOf(err) == firn.Corrupt && r.remote == nil && o.Version.Location != nil {
				o.report(err) // the local copy is bad; the tier has another
				var k int64
				k, err = o.readAgain(ctx, i, w, off+n, want-n, stored)
				n += k
			}
			o.release(r)
			written += n
			if err != nil {
				switch {
				case firn.KindOf(err) == firn.Corrupt:
					o.report(err)
					err = fail("read object", o.subject(), err)
				case errors.Is(err, ErrTierAway):
					err = fail("read object", o.subject(), err)
				}
				return written, err
			}
			offset += n
			length -= n
		}
		start += p.Size
	}
	if length > 0 {
		err := firn.NewError(firn.Corrupt, "parts are shorter than the version")
		o.report(err)
		return written, fail("read object", o.subject(), err)
	}
	return written, nil
}

func (o *Object) subject() string { return subject(o.Version.Bucket, o.Version.Key) }

func (o *Object) report(err error) {
	o.s.stats.corrupt.Add(1)
	o.s.log.Error("content does not match its checksum",
		"bucket", o.Version.Bucket, "key", o.Version.Key, "version", o.Version.ID, "error", err)
}

// openPart opens part i: its file, or where it has none what is kept of it beside the tier.
func (o *Object) openPart(ctx context.Context, i int) (*partReader, error) {
	p := &o.Version.Parts[i]
	if p.Blob == (record.BlobID{}) && o.Version.Location != nil {
		return o.openAway(ctx, i)
	}
	f, err := o.s.blobs.OpenBlob(blobs.ID(p.Blob))
	if err != nil {
		return nil, missing(err)
	}
	r, err := block.Open(f, p.Blob.String())
	if err == nil && r.Info().Size != p.Size {
		err = firn.NewError(firn.Corrupt, fmt.Sprintf("part %d has %d bytes, its record says %d", p.Number, r.Info().Size, p.Size))
	}
	if err == nil {
		err = o.unseal(r, p)
	}
	if err == nil && (r.Info().Codec == block.CodecAESGCM) != (p.Sealed != nil) {
		err = firn.NewError(firn.Corrupt, fmt.Sprintf("part %d is encrypted otherwise than its record says", p.Number))
	}
	if err != nil {
		_ = f.Close() // read only
		return nil, err
	}
	return &partReader{local: r, file: f, at: i}, nil
}

// missing gives the error of a blob that is not there its kind.
func missing(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return &firn.Error{Kind: firn.Corrupt, Err: fmt.Errorf("the file of a blob is missing: %w", err)}
	}
	return err
}

// acquire returns a reader of part i, to be given back with release.
func (o *Object) acquire(ctx context.Context, i int) (*partReader, error) {
	o.mu.Lock()
	if r := o.mu.last; r != nil && r.at == i {
		r.users++
		o.mu.Unlock()
		return r, nil
	}
	o.mu.Unlock()
	r, err := o.openPart(ctx, i)
	if err != nil {
		return nil, err
	}
	r.users = 2
	o.mu.Lock()
	old := o.mu.last
	o.mu.last = r
	o.mu.Unlock()
	o.release(old)
	return r, nil
}

func (o *Object) release(r *partReader) {
	if r == nil {
		return
	}
	o.mu.Lock()
	r.users--
	unused := r.users == 0
	o.mu.Unlock()
	if unused {
		r.close()
	}
}

// ReadAt reads as io.ReaderAt, verified.
func (o *Object) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, fail("read object", o.subject(), ErrInvalidRange)
	}
	if off >= o.Version.Size {
		return 0, io.EOF
	}
	w := sliceWriter{p: p[:0]}
	n, err := o.WriteRange(context.Background(), &w, off, min(int64(len(p)), o.Version.Size-off))
	if err == nil && n < int64(len(p)) {
		err = io.EOF
	}
	return int(n), err
}

// sliceWriter fills a slice that is large enough.
type sliceWriter struct{ p []byte }

func (w *sliceWriter) Write(p []byte) (int, error) {
	w.p = append(w.p, p...)
	return len(p), nil
}

// Close releases the content. Calling it again does nothing.
func (o *Object) Close() error {
	if o.s == nil {
		return nil
	}
	o.mu.Lock()
	last := o.mu.last
	o.mu.last = nil
	o.mu.Unlock()
	o.release(last)
	o.free()
	o.s = nil
	return nil
}

// pins calls fn for all blobs that the Object reads, here and on a tier.
func (o *Object) pins(fn func(blobs.ID)) {
	for i := range o.Version.Parts {
		if p := &o.Version.Parts[i]; p.Blob != (record.BlobID{}) {
			fn(blobs.ID(p.Blob))
		}
	}
	if l := o.Version.Location; l != nil {
		fn(blobs.ID(l.ID))
	}
}

// free gives up pins and pooled memory.
func (o *Object) free() {
	if o.pinned {
		o.pinned = false
		o.pins(o.s.blobs.Unpin)
	}
	if o.buf != nil {
		putBuffer(o.buf)
		o.buf, o.inline, o.sealed = nil, nil, nil
	}
}
