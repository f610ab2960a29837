package transfer

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"mime"
	"net/http"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/minio/minio-go/v7"
	"golang.org/x/sync/errgroup"

	"firn"
)

// Limits of S3 and the sizes this package chooses, in bytes.
const (
	maxParts         = 10000
	minPartSize      = 5 << 20
	maxPartSize      = 5 << 30
	maxSinglePut     = 5 << 30
	defaultPartSize  = 16 << 20
	relayPartSize    = 8 << 20  // of a stream whose length is known: it is held in memory
	streamPartSize   = 32 << 20 // of an upload whose length is not known: up to 312 GiB
	multipartFrom    = 2        // files of more than so many parts are uploaded in parts
	streamInFlight   = 2        // buffers of a stream besides the one that is read
	metaMtime        = "Mtime"  // the key rclone keeps a file's time under: x-amz-meta-mtime
	contentTypeBytes = 512
)

// errChanged is a source that changed while it was read.
var errChanged = firn.NewError(firn.Conflict, "it changed while it was copied: run the command again")

// ObjectOptions describe new objects.
type ObjectOptions struct {
	ContentType  string            // "" detects it from name and content
	Metadata     map[string]string // user metadata, without x-amz-meta-
	StorageClass string
	PartSize     int64 // bytes; 0 chooses
}

func (o *ObjectOptions) partSize(size int64) (int64, error) {
	ps := o.PartSize
	if ps == 0 {
		ps = defaultPartSize
		for size > ps*maxParts {
			ps *= 2
		}
	}
	if ps < minPartSize || ps > maxPartSize {
		return 0, &firn.Error{Kind: firn.Invalid, Op: "part size", Err: errors.New("must be 5 MiB to 5 GiB")}
	}
	if size > ps*maxParts {
		return 0, &firn.Error{
			Kind: firn.Invalid, Op: "part size",
			Err: fmt.Errorf("%d bytes do not fit into %d parts of %d", size, maxParts, ps),
		}
	}
	return ps, nil
}

// put are minio-go's options of a new object. mtime is kept where it is not zero.
func (o *ObjectOptions) put(contentType string, mtime time.Time) minio.PutObjectOptions {
	p := minio.PutObjectOptions{
		ContentType: contentType, StorageClass: o.StorageClass, UserMetadata: map[string]string{},
		DisableContentSha256: true, // this package hands in the sum, or the transport protects the body
	}
	for k, v := range o.Metadata {
		p.UserMetadata[k] = v
	}
	if !mtime.IsZero() {
		p.UserMetadata[metaMtime] = formatMtime(mtime)
	}
	return p
}

// formatMtime writes a time as rclone does: seconds since 1970 with a fraction.
func formatMtime(t time.Time) string {
	s := strconv.FormatInt(t.Unix(), 10)
	if ns := t.Nanosecond(); ns != 0 {
		s += strings.TrimRight(fmt.Sprintf(".%09d", ns), "0")
	}
	return s
}

// parseMtime reads what formatMtime and rclone write. The zero time stands for anything else.
func parseMtime(s string) time.Time {
	sec, frac, _ := strings.Cut(s, ".")
	n, err := strconv.ParseInt(sec, 10, 64)
	if err != nil || len(frac) > 9 || n < -1<<40 || n > 1<<40 || strings.ContainsAny(frac, "+-") {
		return time.Time{}
	}
	ns := int64(0)
	if frac != "" {
		if ns, err = strconv.ParseInt((frac + "000000000")[:9], 10, 64); err != nil {
			return time.Time{}
		}
	}
	if n < 0 || strings.HasPrefix(sec, "-") {
		ns = 0 // rclone writes such times in no consistent way; a fraction of a second before 1970 is no loss
	}
	return time.Unix(n, ns)
}

// contentType guesses from the name, then from the first bytes.
func contentType(name string, start []byte) string {
	if t := mime.TypeByExtension(strings.ToLower(path.Ext(name))); t != "" {
		return t
	}
	if len(start) == 0 {
		return "application/octet-stream"
	}
	return http.DetectContentType(start)
}

// result says how one transfer went.
type result struct {
	size     int64
	etag     string
	verified string // how the destination was verified
	resumed  int64  // bytes an earlier, interrupted run had moved
}

// uploadFile puts an open regular file. count gets the bytes that moved, those of an earlier run included.
func (c *Client) uploadFile(
	ctx context.Context, f *os.File, fi fs.FileInfo, to Location, o ObjectOptions, states *stateDir, count func(int64),
) (result, error) {
	if err := keyName(to.Key); err != nil {
		return result{}, err
	}
	ct := o.ContentType
	if ct == "" {
		start := make([]byte, min(contentTypeBytes, fi.Size()))
		n, err := f.ReadAt(start, 0)
		if err != nil && err != io.EOF {
			return result{}, err
		}
		ct = contentType(to.Key, start[:n])
	}
	ps, err := o.partSize(fi.Size())
	if err != nil {
		return result{}, err
	}
	po := o.put(ct, fi.ModTime())
	if fi.Size() > multipartFrom*ps || fi.Size() > maxSinglePut {
		return c.uploadParts(ctx, f, fi, to, po, ps, states, count)
	}
	src := io.NewSectionReader(f, 0, fi.Size())
	s, n, err := c.sumOf(ctx, src)
	if err != nil {
		return result{}, err
	}
	if n != fi.Size() {
		return result{}, errChanged
	}
	if _, err := src.Seek(0, io.SeekStart); err != nil {
		return result{}, err
	}
	if err := unchanged(f, fi); err != nil { // before sending: the object must not appear with mixed content
		return result{}, err
	}
	res, err := c.putWhole(ctx, to, src, fi.Size(), s, po, count)
	if firn.KindOf(err) == firn.Corrupt && unchanged(f, fi) != nil {
		err = errChanged
	}
	return res, err
}

// unchanged fails where the file is no longer as it was.
func unchanged(f *os.File, was fs.FileInfo) error {
	fi, err := f.Stat()
	if err != nil {
		return err
	}
	if fi.Size() != was.Size() || !fi.ModTime().Equal(was.ModTime()) {
		return errChanged
	}
	return nil
}

// putWhole puts an object in one request. The server checks the digests sent; its ETag is checked here.
func (c *Client) putWhole(
	ctx context.Context, to Location, src io.ReadSeeker, size int64, s sums, po minio.PutObjectOptions, count func(int64),
) (result, error) {
	var etag string
	body := &bodyReader{ReadSeeker: src, size: size, count: count}
	err := c.do(ctx, "put", to.String(), func(ctx context.Context, p *pulse) error {
		body.pulse = p
		if _, err := body.Seek(0, io.SeekStart); err != nil {
			return err
		}
		info, err := c.core.PutObject(ctx, to.Bucket, to.Key, body, size, s.base64(), s.sha256, po)
		etag = strings.Trim(info.ETag, `"`)
		return err
	})
	if err != nil {
		return result{}, err
	}
	verified, err := c.checkETag(ctx, to, etag, s.etag(), size)
	return result{size: size, etag: etag, verified: verified}, err
}

// checkETag compares the ETag of a new object with the expected one. Where it is none of MD5s (encryption
// with keys) the digests that the server has checked on the way stand for it.
func (c *Client) checkETag(ctx context.Context, to Location, got, want string, size int64) (string, error) {
	if got == want {
		return "etag", nil
	}
	o, err := c.head(ctx, to, "")
	if err != nil {
		return "", err
	}
	_, n := partsOf(got)
	if o.Size == size && (o.encrypted() || n < 0) {
		return "content-md5", nil
	}
	return "", &firn.Error{
		Kind: firn.Corrupt, Op: "verify", Subject: to.String(),
		Err: fmt.Errorf("the server's ETag is %s, the content's %s", got, want),
	}
}

// uploadParts uploads a large file in parts, several at once, and goes on with the upload that an earlier
// run of the same file to the same key left.
func (c *Client) uploadParts(
	ctx context.Context, f *os.File, fi fs.FileInfo, to Location, po minio.PutObjectOptions, ps int64,
	states *stateDir, count func(int64),
) (res result, err error) {
	st, err := states.openUpload(c.profile.Endpoint, to, f.Name(), fi, ps)
	if err != nil {
		return res, err
	}
	defer func() { err = errors.Join(err, st.close()) }()

	have := map[int]minio.ObjectPart{}
	if st.UploadID != "" {
		have, err = c.listParts(ctx, to, st.UploadID)
		if firn.KindOf(err) == firn.NotFound {
			st.UploadID, err = "", nil
		}
		if err != nil {
			return res, err
		}
	}
	if st.UploadID == "" {
		if err := c.newUpload(ctx, to, po, st); err != nil {
			return res, err
		}
	}
	n := int((fi.Size() + ps - 1) / ps)
	md5s := make([][16]byte, n)
	parts := make([]minio.CompletePart, n)
	var mu sync.Mutex
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(c.o.Parallel)
	for i := range n {
		if gctx.Err() != nil {
			break
		}
		g.Go(func() error {
			off := int64(i) * ps
			size := min(ps, fi.Size()-off)
			src := io.NewSectionReader(f, off, size)
			s, read, err := c.sumOf(gctx, src)
			if err != nil {
				return err
			}
			if read != size {
				return errChanged
			}
			md5s[i] = s.md5
			etag := strings.Trim(have[i+1].ETag, `"`)
			if have[i+1].Size == size && etag == s.etag() {
				mu.Lock()
				res.resumed += size
				mu.Unlock()
				count(size)
			} else if etag, err = c.putPart(gctx, to, st.UploadID, i+1, src, size, s, count); err != nil {
				return err
			}
			parts[i] = minio.CompletePart{PartNumber: i + 1, ETag: etag}
			return nil
		})
	}
	err = g.Wait()
	if ctx.Err() != nil {
		return res, context.Cause(ctx)
	}
	if err := unchanged(f, fi); err != nil { // the parts are of two different files: of no use to a later run
		return res, errors.Join(err, c.abort(ctx, to, st.UploadID), st.forget())
	}
	if err != nil {
		return res, err
	}
	want := compositeETag(md5s)
	etag, err := c.complete(ctx, to, st.UploadID, parts, po, want)
	if err != nil {
		return res, err
	}
	if err := st.forget(); err != nil {
		return res, err
	}
	res.size, res.etag = fi.Size(), etag
	res.verified, err = c.checkETag(ctx, to, etag, want, fi.Size())
	return res, err
}

// newUpload starts a multipart upload and remembers it before the first part is sent.
func (c *Client) newUpload(ctx context.Context, to Location, po minio.PutObjectOptions, st *uploadState) error {
	return c.do(ctx, "start upload to", to.String(), func(ctx context.Context, _ *pulse) error {
		id, err := c.core.NewMultipartUpload(ctx, to.Bucket, to.Key, po)
		if err != nil {
			return err
		}
		st.UploadID = id
		return st.save()
	})
}

func (c *Client) putPart(
	ctx context.Context, to Location, id string, n int, src io.ReadSeeker, size int64, s sums, count func(int64),
) (etag string, err error) {
	body := &bodyReader{ReadSeeker: src, size: size, count: count}
	err = c.do(ctx, "put part of", to.String(), func(ctx context.Context, p *pulse) error {
		body.pulse = p
		if _, err := body.Seek(0, io.SeekStart); err != nil {
			return err
		}
		part, err := c.core.PutObjectPart(ctx, to.Bucket, to.Key, id, n, body, size, minio.PutObjectPartOptions{
			Md5Base64: s.base64(), Sha256Hex: s.sha256, DisableContentSha256: true,
		})
		etag = strings.Trim(part.ETag, `"`)
		return err
	})
	return etag, err
}

func (c *Client) listParts(ctx context.Context, to Location, id string) (map[int]minio.ObjectPart, error) {
	have := map[int]minio.ObjectPart{}
	for marker := 0; ; {
		var page minio.ListObjectPartsResult
		err := c.do(ctx, "list parts of", to.String(), func(ctx context.Context, _ *pulse) (err error) {
			page, err = c.core.ListObjectParts(ctx, to.Bucket, to.Key, id, marker, 1000)
			return err
		})
		if err != nil {
			return nil, err
		}
		for _, p := range page.ObjectParts {
			have[p.PartNumber] = p
		}
		if !page.IsTruncated || page.NextPartNumberMarker <= marker {
			return have, nil
		}
		marker = page.NextPartNumberMarker
	}
}

// complete makes the object from its parts. An answer that was lost is found out by looking for the object.
func (c *Client) complete(
	ctx context.Context, to Location, id string, parts []minio.CompletePart, po minio.PutObjectOptions, want string,
) (etag string, err error) {
	err = c.do(ctx, "complete upload to", to.String(), func(ctx context.Context, _ *pulse) error {
		info, err := c.core.CompleteMultipartUpload(ctx, to.Bucket, to.Key, id, parts, minio.PutObjectOptions{
			DisableContentSha256: po.DisableContentSha256,
		})
		etag = strings.Trim(info.ETag, `"`)
		return err
	})
	if firn.KindOf(err) != firn.NotFound {
		return etag, err
	}
	o, herr := c.head(ctx, to, "")
	if herr == nil && o.ETag == want {
		return o.ETag, nil
	}
	return "", err
}

// abort removes an upload. It goes on for a while after ctx has ended, so that an interrupted stream leaves
// nothing behind.
func (c *Client) abort(ctx context.Context, to Location, id string) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 15*time.Second)
	defer cancel()
	err := c.do(ctx, "abort upload to", to.String(), func(ctx context.Context, _ *pulse) error {
		return c.core.AbortMultipartUpload(ctx, to.Bucket, to.Key, id)
	})
	if firn.KindOf(err) == firn.NotFound {
		return nil
	}
	return err
}

// uploadStream puts what r yields until io.EOF; any other error of r leaves no object. size may be -1.
// It keeps up to streamInFlight+1 parts in memory.
func (c *Client) uploadStream(
	ctx context.Context, r io.Reader, size int64, to Location, o ObjectOptions, po minio.PutObjectOptions, count func(int64),
) (res result, err error) {
	if err := keyName(to.Key); err != nil {
		return res, err
	}
	ps := int64(streamPartSize)
	if size >= 0 {
		for ps = relayPartSize; size > ps*maxParts; {
			ps *= 2
		}
	}
	if o.PartSize != 0 {
		if ps, err = o.partSize(max(size, 0)); err != nil {
			return res, err
		}
	}
	first, end, err := readPart(r, ps, size)
	if err != nil {
		return res, err
	}
	if po.ContentType == "" {
		po.ContentType = contentType(to.Key, first[:min(len(first), contentTypeBytes)])
	}
	if end {
		s, _, err := c.sumOf(ctx, bytes.NewReader(first))
		if err != nil {
			return res, err
		}
		return c.putWhole(ctx, to, bytes.NewReader(first), int64(len(first)), s, po, count)
	}
	return c.streamParts(ctx, r, first, ps, to, po, count)
}

func (c *Client) streamParts(
	ctx context.Context, r io.Reader, buf []byte, ps int64, to Location, po minio.PutObjectOptions, count func(int64),
) (res result, err error) {
	st := &uploadState{} // of a stream nothing is kept
	if err := c.newUpload(ctx, to, po, st); err != nil {
		return res, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, c.abort(ctx, to, st.UploadID))
		}
	}()
	var mu sync.Mutex
	var parts []minio.CompletePart
	var md5s [][16]byte
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(streamInFlight)
	free := make(chan []byte, streamInFlight+1)
	for n := 1; ; n++ {
		if n > maxParts {
			return res, errors.Join(g.Wait(), &firn.Error{
				Kind: firn.Invalid, Op: "put", Subject: to.String(),
				Err: fmt.Errorf("the stream is longer than %d parts of %d bytes: choose a larger part size", maxParts, ps),
			})
		}
		res.size += int64(len(buf))
		mu.Lock()
		parts, md5s = append(parts, minio.CompletePart{}), append(md5s, [16]byte{})
		mu.Unlock()
		part := buf
		g.Go(func() error {
			s, _, err := c.sumOf(gctx, bytes.NewReader(part))
			if err != nil {
				return err
			}
			etag, err := c.putPart(gctx, to, st.UploadID, n, bytes.NewReader(part), int64(len(part)), s, count)
			if err != nil {
				return err
			}
			mu.Lock()
			parts[n-1], md5s[n-1] = minio.CompletePart{PartNumber: n, ETag: etag}, s.md5
			mu.Unlock()
			free <- part[:0]
			return nil
		})
		select {
		case buf = <-free:
		default:
			buf = nil
		}
		if buf, err = fillPart(r, buf, ps); err != nil {
			return res, errors.Join(err, g.Wait())
		}
		if len(buf) == 0 || gctx.Err() != nil {
			break
		}
	}
	if err := g.Wait(); err != nil {
		return res, err
	}
	if ctx.Err() != nil {
		return res, context.Cause(ctx)
	}
	want := compositeETag(md5s)
	etag, err := c.complete(ctx, to, st.UploadID, slices.Clip(parts), po, want)
	if err != nil {
		return res, err
	}
	res.etag = etag
	res.verified, err = c.checkETag(ctx, to, etag, want, res.size)
	return res, err
}

// readPart reads the first part of a stream. end reports that the stream has ended with it.
func readPart(r io.Reader, ps, size int64) (p []byte, end bool, err error) {
	var b bytes.Buffer
	if size >= 0 {
		ps = min(ps, size+1) // one more, to see the end
		b.Grow(int(ps) + bytes.MinRead)
	}
	n, err := io.CopyN(&b, r, ps)
	if err == io.EOF {
		return b.Bytes(), true, nil
	}
	return b.Bytes()[:n], false, err
}

// fillPart reads the next part into buf, which is made where it is too small. An empty part is the end.
// Unlike io.ReadFull it takes only io.EOF itself for the end.
func fillPart(r io.Reader, buf []byte, ps int64) (p []byte, err error) {
	if int64(cap(buf)) < ps {
		buf = make([]byte, ps)
	}
	n := 0
	for buf = buf[:ps]; n < len(buf); {
		k, err := r.Read(buf[n:])
		n += k
		if err == io.EOF {
			break
		}
		if err != nil {
			return buf[:n], err
		}
	}
	return buf[:n], nil
}
