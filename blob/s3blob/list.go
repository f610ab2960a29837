package s3blob

import (
	"context"
	"net/http"
	"strings"
	"unicode/utf8"

	"github.com/minio/minio-go/v7"

	"firn/blob/driver"
)

// List reads page after page; S3 lists in the byte order of the keys.
func (b *bucket) List(ctx context.Context, prefix string, fn func(driver.Info) error) error {
	ctx, cancel := b.call(ctx)
	defer cancel()
	if noKey(prefix) {
		// Servers refuse to look for it. That nothing is there is said only where they would have looked.
		ok, err := b.core.BucketExists(ctx, b.name)
		if err == nil && !ok {
			err = minio.ErrorResponse{Code: "NoSuchBucket"}
		}
		return b.fail(ctx, err)
	}
	// A prefix may end within a character, or in a dot, with which no server or not every one takes a request.
	ask := prefix
	for n := 0; n < utf8.UTFMax && !utf8.ValidString(ask); n++ {
		ask = ask[:len(ask)-1]
	}
	if at := strings.LastIndexByte(ask, '/') + 1; ask[at:] == "." || ask[at:] == ".." {
		ask = ask[:at]
	}
	owner := false
	for o := range b.core.ListObjectsIter(ctx, b.name, minio.ListObjectsOptions{
		Prefix: b.key(ask), Recursive: true, FetchOwner: &owner,
	}) {
		if o.Err != nil {
			return b.fail(ctx, o.Err)
		}
		key := strings.TrimPrefix(o.Key, b.prefix)
		// What ends in a slash is what some tools make to show a directory.
		if !strings.HasPrefix(key, prefix) || strings.HasSuffix(key, "/") {
			continue
		}
		if err := fn(driver.Info{Key: key, Size: o.Size, Modified: o.LastModified}); err != nil {
			return err
		}
		if ctx.Err() != nil {
			break
		}
	}
	// The library ends a listing in silence when its context does: what is missing would look deleted.
	return b.fail(ctx, ctx.Err())
}

// noKey reports whether no key begins with prefix: one of its whole parts is none.
func noKey(prefix string) bool {
	for rest := prefix; ; {
		part, after, ok := strings.Cut(rest, "/")
		if !ok {
			return false
		}
		if part == "" || part == "." || part == ".." {
			return true
		}
		rest = after
	}
}

// Delete removes one object.
func (b *bucket) Delete(ctx context.Context, key string) error {
	ctx, cancel := b.call(ctx)
	defer cancel()
	err := b.core.RemoveObject(ctx, b.name, b.key(key), minio.RemoveObjectOptions{})
	if r := answered(err); r.Code == "NoSuchKey" {
		err = nil
	}
	return b.fail(ctx, err)
}

// DeleteAll removes 1,000 objects a request.
func (b *bucket) DeleteAll(ctx context.Context, keys []string) error {
	ctx, cancel := b.call(ctx)
	defer cancel()
	objects := func(yield func(minio.ObjectInfo) bool) {
		for _, key := range keys {
			if !yield(minio.ObjectInfo{Key: b.key(key)}) {
				return
			}
		}
	}
	results, err := b.core.RemoveObjectsWithIter(ctx, b.name, objects, minio.RemoveObjectsOptions{})
	if err != nil {
		return b.fail(ctx, err)
	}
	for r := range results {
		if err := r.Err; err != nil {
			response := answered(err)
			if response.Code == "NoSuchKey" || response.StatusCode == http.StatusNotFound && response.Code == "" {
				continue
			}
			return b.fail(ctx, err)
		}
	}
	return b.fail(ctx, ctx.Err())
}
