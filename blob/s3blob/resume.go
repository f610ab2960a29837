package s3blob

import (
	"context"
	"errors"
	"io"
	"net/http"

	"github.com/minio/minio-go/v7"

	"firn/blob"
	"firn/blob/driver"
)

// pageSize is how many uploads or parts are asked for at once.
const pageSize = 1000

// Resume uploads in parts, one after the other. An upload that was cut off is found again by its key, and the size of its
// parts follows from that of the blob: it goes on after the parts that the server has.
func (b *bucket) Resume(ctx context.Context, key string, src driver.Source) error {
	size := src.Size()
	if size <= 2*b.part {
		return b.Put(ctx, key, src) // in one request: nothing of it is kept
	}
	ctx, cancel := b.call(ctx)
	defer cancel()
	o, err := b.core.StatObject(ctx, b.name, b.key(key), minio.StatObjectOptions{})
	switch {
	case err == nil && o.Size == size:
		return nil
	case err != nil && answered(err).StatusCode != http.StatusNotFound:
		return b.fail(ctx, err)
	}
	if err := b.room(ctx, key); err != nil {
		return b.fail(ctx, err)
	}
	return b.fail(ctx, tooLong(key, b.resume(ctx, b.key(key), src)))
}

func (b *bucket) resume(ctx context.Context, name string, src driver.Source) error {
	size := src.Size()
	part := partSize(size, b.part)
	if part > maxSingle {
		return tooLarge(size)
	}
	id, parts, err := b.begun(ctx, name, size, part)
	if err == nil && id == "" {
		id, err = b.core.NewMultipartUpload(ctx, b.name, name, minio.PutObjectOptions{})
	}
	if err != nil {
		return err
	}
	if at := int64(len(parts)) * part; at < size {
		r, err := blob.OpenExactAt(ctx, src, at)
		if err != nil {
			return err
		}
		if parts, err = b.addParts(ctx, name, id, r, parts, size, part); err != nil {
			return errors.Join(err, r.Close())
		}
		if err := r.Close(); err != nil {
			return err
		}
	}
	_, err = b.core.CompleteMultipartUpload(ctx, b.name, name, id, parts, minio.PutObjectOptions{})
	switch answered(err).Code {
	case "InvalidPart", "InvalidPartOrder", "EntityTooSmall": // it can never be completed
		b.abort(ctx, name, id)
	}
	return err
}

// addParts uploads the parts that come after those there are, and returns all.
func (b *bucket) addParts(
	ctx context.Context, name, id string, r io.Reader, parts []minio.CompletePart, size, part int64,
) ([]minio.CompletePart, error) {
	for at := int64(len(parts)) * part; at < size; at += part {
		length := min(part, size-at)
		p, err := b.putPart(ctx, name, id, len(parts)+1, io.LimitReader(r, length), length)
		if err != nil {
			return nil, err
		}
		parts = append(parts, p)
	}
	return parts, nil
}

// begun finds the upload of name that has come farthest, and the parts it has; "" where there is none. It aborts the
// others, as requests that came late leave them.
func (b *bucket) begun(ctx context.Context, name string, size, part int64) (id string, parts []minio.CompletePart, err error) {
	uploads, err := b.uploads(ctx, name)
	if err != nil {
		return "", nil, err
	}
	for _, u := range uploads {
		has, err := b.parts(ctx, name, u, size, part)
		if answered(err).Code == "NoSuchUpload" {
			continue
		}
		if err != nil {
			return "", nil, err
		}
		drop := u
		if id == "" || len(has) > len(parts) {
			drop, id, parts = id, u, has
		}
		if drop != "" {
			b.abort(ctx, name, drop)
		}
	}
	return id, parts, nil
}

// uploads returns the ids of the uploads of name that are not complete.
func (b *bucket) uploads(ctx context.Context, name string) (ids []string, err error) {
	for after, afterID := "", ""; ; {
		page, err := b.core.ListMultipartUploads(ctx, b.name, name, after, afterID, "", pageSize)
		if err != nil {
			return nil, err
		}
		for _, u := range page.Uploads {
			if u.Key == name {
				ids = append(ids, u.UploadID)
			}
		}
		// Those of longer names come after those of this one.
		if !page.IsTruncated || page.NextKeyMarker != name || page.NextKeyMarker == after && page.NextUploadIDMarker == afterID {
			return ids, nil
		}
		after, afterID = page.NextKeyMarker, page.NextUploadIDMarker
	}
}

// parts returns the parts that an upload has, up to the first that is not there or has another size than it should.
func (b *bucket) parts(ctx context.Context, name, id string, size, part int64) (parts []minio.CompletePart, err error) {
	for after := 0; ; {
		page, err := b.core.ListObjectParts(ctx, b.name, name, id, after, pageSize)
		if err != nil {
			return nil, err
		}
		for _, p := range page.ObjectParts {
			at := int64(len(parts)) * part
			if p.PartNumber != len(parts)+1 || at >= size || p.Size != min(part, size-at) {
				return parts, nil
			}
			parts = append(parts, minio.CompletePart{PartNumber: p.PartNumber, ETag: p.ETag})
		}
		if !page.IsTruncated || page.NextPartNumberMarker <= after {
			return parts, nil
		}
		after = page.NextPartNumberMarker
	}
}

// abort drops an upload, so that its parts are not paid for. One that fails is not told: what comes before it says more, and
// the next call finds it.
func (b *bucket) abort(ctx context.Context, name, id string) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), abortWithin)
	defer cancel()
	_ = b.core.AbortMultipartUpload(ctx, b.name, name, id)
}

// Abandon aborts all uploads of the key.
func (b *bucket) Abandon(ctx context.Context, key string) error {
	ctx, cancel := b.call(ctx)
	defer cancel()
	name := b.key(key)
	ids, err := b.uploads(ctx, name)
	for _, id := range ids {
		if err == nil {
			err = b.core.AbortMultipartUpload(ctx, b.name, name, id)
		}
		if answered(err).Code == "NoSuchUpload" {
			err = nil
		}
	}
	return b.fail(ctx, err)
}
