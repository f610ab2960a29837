package s3blob

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/minio/minio-go/v7"

	"firn"
	"firn/blob/driver"
)

// reconnects is how often one read connects again without having got a byte in between.
const reconnects = 3

// Get opens the range with one request.
func (b *bucket) Get(ctx context.Context, key string, offset, length int64) (io.ReadCloser, error) {
	if length == 0 {
		if _, err := b.Stat(ctx, key); err != nil {
			return nil, err
		}
		return http.NoBody, nil
	}
	ctx, cancel := b.call(ctx)
	r := &reader{b: b, ctx: ctx, cancel: cancel, key: key, offset: offset, left: length}
	err := r.connect()
	// Ceph answers so while the object is being replaced.
	for try := 0; try < reconnects && answered(err).StatusCode == http.StatusInternalServerError && pause(ctx, try); try++ {
		err = r.connect()
	}
	if answered(err).StatusCode == http.StatusRequestedRangeNotSatisfiable {
		cancel()
		return http.NoBody, nil
	}
	if err != nil {
		err = b.fail(ctx, err)
		cancel()
		return nil, err
	}
	return r, nil
}

// reader reads one range of one version of an object, connecting again where a connection is lost.
type reader struct {
	b      *bucket
	ctx    context.Context //nolint:containedctx // the call's: reading is part of it
	cancel context.CancelFunc
	key    string
	etag   string // of the version first seen
	offset int64  // of the next byte
	left   int64  // bytes to come; -1 before the first answer for all
	body   io.ReadCloser
	err    error
}

// connect asks for what is left, of the version first seen.
func (r *reader) connect() error {
	var opt minio.GetObjectOptions
	switch {
	case r.left > 0:
		opt.Set("Range", fmt.Sprintf("bytes=%d-%d", r.offset, r.offset+r.left-1))
	case r.offset > 0:
		opt.Set("Range", fmt.Sprintf("bytes=%d-", r.offset))
	}
	if r.etag != "" {
		if err := opt.SetMatchETag(r.etag); err != nil {
			return invalid(err.Error())
		}
	}
	body, info, header, err := r.b.core.GetObject(r.ctx, r.b.name, r.b.key(r.key), opt)
	if err != nil {
		return err
	}
	have, err := extent(header, r.offset, info.Size)
	if err == nil && r.etag != "" && info.ETag != r.etag {
		err = errChanged
	}
	if err == nil && r.left > have && r.etag != "" {
		err = firn.NewError(firn.Unavailable, "the server answered with fewer bytes than before")
	}
	if err != nil {
		return errors.Join(err, body.Close())
	}
	if r.left < 0 || r.left > have {
		r.left = have
	}
	r.body, r.etag = body, info.ETag
	return nil
}

var errChanged = errors.New("it was replaced while it was read")

// extent is how many bytes from offset on the answer has. A server or proxy that ignores Range must not pass off other
// bytes.
func extent(h http.Header, offset, size int64) (int64, error) {
	have := h.Get("Content-Range")
	if have == "" {
		if offset > 0 {
			return 0, firn.NewError(firn.Unsupported, "the server ignores ranges")
		}
		if size < 0 {
			return 0, firn.NewError(firn.Unsupported, "the server does not say how long its answer is")
		}
		return size, nil
	}
	span, _, _ := strings.Cut(strings.TrimPrefix(have, "bytes "), "/")
	from, to, _ := strings.Cut(span, "-")
	first, err := strconv.ParseInt(from, 10, 64)
	last, err2 := strconv.ParseInt(to, 10, 64)
	if err != nil || err2 != nil || first != offset || last < first {
		return 0, firn.NewError(firn.Unavailable, fmt.Sprintf("the server answered a range from %d with %q", offset, have))
	}
	return last - first + 1, nil
}

func (r *reader) Read(p []byte) (int, error) {
	if r.err != nil {
		return 0, r.err
	}
	if r.left == 0 {
		return 0, io.EOF
	}
	if len(p) == 0 {
		return 0, nil
	}
	if int64(len(p)) > r.left {
		p = p[:r.left]
	}
	for try := 0; ; try++ {
		n, err := r.read(p)
		if n > 0 {
			r.offset += int64(n)
			r.left -= int64(n)
			return n, nil // an error comes again with the next read
		}
		if err == nil {
			continue
		}
		if try == reconnects || !again(r.b.fail(r.ctx, err)) || !pause(r.ctx, try) {
			r.err = r.b.fail(r.ctx, changed(err))
			return 0, r.err
		}
		r.drop()
	}
}

// read reads from the connection there is, or from a new one.
func (r *reader) read(p []byte) (int, error) {
	if r.body == nil {
		if err := r.connect(); err != nil {
			return 0, err
		}
		if int64(len(p)) > r.left {
			p = p[:r.left]
		}
	}
	n, err := r.body.Read(p)
	if n == 0 && errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF // more was announced
	}
	return n, err
}

func (r *reader) drop() {
	if r.body != nil {
		r.body.Close()
		r.body = nil
	}
}

// again reports whether a new connection may help.
func again(err error) bool { return firn.KindOf(err) == firn.Unavailable }

// changed says what a failed precondition or a vanished object means in the middle of a read.
func changed(err error) error {
	code := answered(err).Code
	if errors.Is(err, errChanged) || code == "PreconditionFailed" || code == "NoSuchKey" {
		return firn.NewError(firn.Unavailable, "it was replaced or deleted while it was read")
	}
	return err
}

// pause waits a little longer each time. It returns false where ctx ended first.
func pause(ctx context.Context, try int) bool {
	t := time.NewTimer(50 * time.Millisecond << (2 * try))
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

func (r *reader) Close() error {
	r.drop()
	r.cancel()
	if r.err == nil {
		r.err = errors.New("read after close")
	}
	return nil
}

// Stat asks for the object's head.
func (b *bucket) Stat(ctx context.Context, key string) (driver.Info, error) {
	ctx, cancel := b.call(ctx)
	defer cancel()
	info, err := b.core.StatObject(ctx, b.name, b.key(key), minio.StatObjectOptions{})
	if answered(err).StatusCode == http.StatusNotFound {
		// The answer to a HEAD has no body, and does not tell a missing object from a missing bucket.
		if ok, e := b.core.BucketExists(ctx, b.name); e == nil && !ok {
			err = minio.ErrorResponse{Code: "NoSuchBucket"}
		}
	}
	if err != nil {
		return driver.Info{}, b.fail(ctx, err)
	}
	return driver.Info{Key: key, Size: info.Size, Modified: info.LastModified}, nil
}
