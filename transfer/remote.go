package transfer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/minio/minio-go/v7"
	"golang.org/x/sync/errgroup"

	"firn"
)

// copyPartSize is the size of a part of a server-side copy that is too large for one request, in bytes.
const copyPartSize = 512 << 20

// inherit are the options of an object that is a copy of o.
func (o *remoteObject) inherit(with ObjectOptions) minio.PutObjectOptions {
	ct := with.ContentType
	if ct == "" {
		ct = o.info.ContentType
	}
	p := with.put(ct, time.Time{})
	if with.Metadata == nil {
		for k, v := range o.info.UserMetadata {
			p.UserMetadata[k] = v
		}
	} else if m := o.info.UserMetadata[metaMtime]; m != "" {
		p.UserMetadata[metaMtime] = m
	}
	p.CacheControl = o.header.Get("Cache-Control")
	p.ContentDisposition = o.header.Get("Content-Disposition")
	p.ContentLanguage = o.header.Get("Content-Language")
	p.ContentEncoding = strings.TrimPrefix(strings.TrimPrefix(o.header.Get("Content-Encoding"), "aws-chunked"), ",")
	if t, err := http.ParseTime(o.header.Get("Expires")); err == nil {
		p.Expires = t
	}
	return p
}

// serverCopy lets the server copy an object.
func (c *copier) serverCopy(ctx context.Context, it item, count func(int64)) (res result, err error) {
	o, err := c.src.head(ctx, it.from, c.o.VersionID)
	if err != nil {
		return res, err
	}
	d := c.dst
	var etag string
	if o.Size <= maxSinglePut {
		etag, err = d.copyWhole(ctx, &o, it.to, c.o.ObjectOptions)
		if err == nil {
			count(o.Size)
		}
	} else {
		etag, err = d.copyParts(ctx, &o, it.to, o.inherit(c.o.ObjectOptions), copyPartSize, count)
	}
	if err != nil {
		return res, err
	}
	got, err := d.head(ctx, it.to, "")
	if err != nil {
		return res, err
	}
	if got.Size != o.Size || got.ETag != etag {
		return res, &firn.Error{Kind: firn.Corrupt, Op: "verify", Subject: it.to.String(), Err: errDiffers}
	}
	// A copy may have other parts than its source, and so another ETag: then the server's word and the size
	// stand.
	verified := "server copy"
	if sameObjects(&o, &got) {
		verified = "etag"
	}
	return result{size: o.Size, etag: o.ETag, verified: verified}, nil
}

func (c *Client) copyWhole(ctx context.Context, o *remoteObject, to Location, with ObjectOptions) (etag string, err error) {
	headers := map[string]string{}
	if with.ContentType != "" || with.Metadata != nil {
		headers["x-amz-metadata-directive"] = "REPLACE"
		p := o.inherit(with)
		for k, v := range p.Header() {
			headers[k] = v[0]
		}
	}
	if with.StorageClass != "" {
		headers["x-amz-storage-class"] = with.StorageClass
	}
	err = c.do(ctx, "copy to", to.String(), func(ctx context.Context, _ *pulse) error {
		info, err := c.core.CopyObject(ctx, o.Bucket, o.Key, to.Bucket, to.Key, headers,
			minio.CopySrcOptions{Bucket: o.Bucket, Object: o.Key, VersionID: o.VersionID, MatchETag: o.ETag}, minio.PutObjectOptions{})
		etag = strings.Trim(info.ETag, `"`)
		return err
	})
	return etag, err
}

func (c *Client) copyParts(
	ctx context.Context, o *remoteObject, to Location, po minio.PutObjectOptions, ps int64, count func(int64),
) (etag string, err error) {
	for o.Size > ps*maxParts {
		ps *= 2
	}
	st := &uploadState{}
	if err := c.newUpload(ctx, to, po, st); err != nil {
		return "", err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, c.abort(ctx, to, st.UploadID))
		}
	}()
	parts := make([]minio.CompletePart, (o.Size+ps-1)/ps)
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(c.o.Parallel)
	headers := map[string]string{"x-amz-copy-source-if-match": o.ETag}
	src := o.Key
	if o.VersionID != "" {
		headers["x-amz-copy-source"] = encodeCopySource(o.Bucket, o.Key) + "?versionId=" + o.VersionID
	}
	for i := range parts {
		g.Go(func() error {
			off := int64(i) * ps
			n := min(ps, o.Size-off)
			err := c.do(gctx, "copy part to", to.String(), func(ctx context.Context, _ *pulse) (err error) {
				parts[i], err = c.core.CopyObjectPart(ctx, o.Bucket, src, to.Bucket, to.Key, st.UploadID, i+1, off, n, headers)
				parts[i].ETag = strings.Trim(parts[i].ETag, `"`)
				return err
			})
			if err == nil {
				count(n)
			}
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return "", err
	}
	return c.complete(ctx, to, st.UploadID, parts, po, "")
}

// encodeCopySource escapes every byte that is not unreserved, slashes excepted.
func encodeCopySource(bucket, key string) string {
	var b strings.Builder
	for _, ch := range []byte(bucket + "/" + key) {
		if 'a' <= ch && ch <= 'z' || 'A' <= ch && ch <= 'Z' || '0' <= ch && ch <= '9' || strings.IndexByte("-._~/", ch) >= 0 {
			b.WriteByte(ch)
		} else {
			fmt.Fprintf(&b, "%%%02X", ch)
		}
	}
	return b.String()
}

// verifiedReader yields io.EOF only when what it has read is right.
type verifiedReader struct {
	r io.Reader
	v *verifier
	// how is the verification's method once io.EOF was returned.
	how string
}

func (v *verifiedReader) Read(p []byte) (int, error) {
	n, err := v.r.Read(p)
	_, _ = v.v.Write(p[:n]) // hashes do not fail
	if err == io.EOF {
		how, verr := v.v.check()
		if verr != nil {
			return n, verr
		}
		v.how = how
	}
	return n, err
}

// stream copies an object between two endpoints through this process: read once in order, verified, and sent
// on in parts. The new object appears only if the source's bytes were right.
func (c *copier) stream(ctx context.Context, it item, count func(int64)) (res result, err error) {
	o, err := c.src.head(ctx, it.from, c.o.VersionID)
	if err != nil {
		return res, err
	}
	v, err := c.src.newVerifier(ctx, &o)
	if err != nil {
		return res, err
	}
	r, err := c.src.reader(ctx, it.from, c.o.VersionID, 0, -1)
	if err != nil {
		return res, err
	}
	defer r.Close()
	if r.o.ETag != o.ETag {
		return res, firn.E("get", it.from.String(), errChanged)
	}
	vr := &verifiedReader{r: r, v: v}
	res, err = c.dst.uploadStream(ctx, vr, o.Size, it.to, c.o.ObjectOptions, o.inherit(c.o.ObjectOptions), count)
	if err != nil {
		return res, err
	}
	res.etag = o.ETag // of the source, which a move compares before it removes it
	if vr.how != "size" {
		res.verified = vr.how + ", " + res.verified
	}
	return res, nil
}

// fromStdin uploads a stream.
func (c *copier) fromStdin(ctx context.Context, to Location) error {
	begin := time.Now()
	if c.o.Stdin == nil {
		return &firn.Error{Kind: firn.Invalid, Op: "copy", Err: errors.New("there is no standard input")}
	}
	if d, ok := c.o.Stdin.(interface{ SetReadDeadline(time.Time) error }); ok {
		// A read of a pipe that nobody writes to must end with the command; where it cannot, ctx is seen at the next read.
		stop := context.AfterFunc(ctx, func() { _ = d.SetReadDeadline(time.Unix(1, 0)) })
		defer stop()
	}
	if to.Key == "" || strings.HasSuffix(to.Key, "/") {
		return &firn.Error{Kind: firn.Invalid, Op: "copy", Subject: to.String(), Err: errors.New("a stream needs a whole key")}
	}
	c.o.Progress.Files.Add(1)
	res, err := c.dst.uploadStream(ctx, &ctxReader{ctx, c.o.Stdin}, -1, to, c.o.ObjectOptions, c.o.put(c.o.ContentType, time.Time{}), func(n int64) {
		c.o.Progress.BytesDone.Add(n)
	})
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err != nil {
		return err
	}
	c.report(Event{
		Op: "upload", Source: "-", Target: to.String(), Status: Done, Size: res.size, Verified: res.verified,
		Seconds: time.Since(begin).Seconds(),
	})
	return nil
}

// CatOptions select what Cat writes.
type CatOptions struct {
	VersionID string
	Offset    int64 // negative counts from the end
	Length    int64 // -1 is to the end
	NoVerify  bool
}

// Cat writes an object to w. A whole object is verified at its end: an error then means that what was written
// is wrong. It returns the bytes written.
func (c *Client) Cat(ctx context.Context, l Location, w io.Writer, o CatOptions) (int64, error) {
	if !l.Remote || l.Key == "" {
		return 0, &firn.Error{Kind: firn.Invalid, Op: "cat", Subject: l.String(), Err: errors.New("is no object")}
	}
	obj, err := c.head(ctx, l, o.VersionID)
	if err != nil {
		return 0, err
	}
	off := o.Offset
	if off < 0 {
		off = max(0, obj.Size+off)
	}
	off = min(off, obj.Size)
	end := obj.Size
	if o.Length >= 0 {
		end = min(end, off+o.Length)
	}
	if end == off && obj.Size > 0 {
		return 0, nil
	}
	v := &verifier{method: "size", size: end - off}
	if off == 0 && end == obj.Size && !o.NoVerify {
		if v, err = c.newVerifier(ctx, &obj); err != nil {
			return 0, err
		}
	}
	r, err := c.reader(ctx, l, o.VersionID, off, end)
	if err != nil {
		return 0, err
	}
	defer r.Close()
	if r.o.ETag != obj.ETag {
		return 0, firn.E("cat", l.String(), errChanged)
	}
	n, err := io.Copy(w, &verifiedReader{r: r, v: v})
	return n, firn.E("cat", l.String(), err)
}
