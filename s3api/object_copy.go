package s3api

import (
	"errors"
	"net/http"
	"strconv"
	"strings"
	"time"

	"firn/object"
	"firn/object/record"
	"firn/s3api/s3err"
	"firn/s3api/sse"
	"firn/seal"
)

// source is what a copy reads: the bucket and version as found when the request came.
type source struct {
	copySource
	bkt     *record.Bucket
	v       *record.Version
	dataKey *seal.Key // of encrypted content
}

// findSource reads x-amz-copy-source, looks the version up, and checks permission and conditions.
func (s *Server) findSource(rq *request) (*source, error) {
	c, err := parseCopySource(rq.header("X-Amz-Copy-Source"))
	if err != nil {
		return nil, err
	}
	src := &source{copySource: c}
	if src.bkt, err = s.store.Bucket(rq.ctx, c.bucket); err != nil {
		if errors.Is(err, object.ErrNoSuchBucket) {
			return nil, errNoSuchBucket(c.bucket)
		}
		return nil, err
	}
	if want := rq.header("X-Amz-Source-Expected-Bucket-Owner"); want != "" && want != src.bkt.Owner {
		return nil, s3err.New("AccessDenied")
	}
	src.v, err = s.store.Head(rq.ctx, c.bucket, c.key, c.version)
	if err != nil {
		if aerr := s.authorizeListOn(rq, src.bkt, c.key); aerr != nil && s.authorizeOn(rq, "s3:GetObject", src.bkt, c.key, nil) != nil {
			return nil, aerr
		}
		switch {
		case errors.Is(err, object.ErrDeleteMarker) && c.version != "":
			return nil, s3err.InvalidRequest("The source of a copy request may not specifically refer to a delete marker by version id.")
		case errors.Is(err, object.ErrNoSuchKey), errors.Is(err, object.ErrDeleteMarker):
			return nil, errNoSuchKey(c.key)
		case errors.Is(err, object.ErrNoSuchVersion):
			return nil, errNoSuchVersion(c.key, c.version)
		}
		return nil, err
	}
	action := versioned("s3:GetObject", "s3:GetObjectVersion", c.version)
	if err := s.authorizeOn(rq, action, src.bkt, c.key, src.v); err != nil {
		return nil, err
	}
	if err := copyConditions(rq, src.v); err != nil {
		return nil, err
	}
	if err := s.class.Readable(src.v); err != nil {
		return nil, err
	}
	own, err := sse.ReadCustomer(rq.r, sse.Source)
	if err == nil {
		src.dataKey, err = sse.Open(rq.ctx, s.opt.Keys, src.v.Encryption, c.bucket, c.key, own)
	}
	return src, err
}

// copyConditions checks the x-amz-copy-source-if-* headers. All of them fail with PreconditionFailed.
func copyConditions(rq *request, v *record.Version) error {
	modified := v.Modified.Truncate(time.Second)
	if m := rq.header("X-Amz-Copy-Source-If-Match"); m != "" {
		if !etagListed(m, v.ETag) {
			return errCondition("x-amz-copy-source-If-Match")
		}
	} else if t, ok := parseHTTPTime(rq.header("X-Amz-Copy-Source-If-Unmodified-Since")); ok && modified.After(t) {
		return errCondition("x-amz-copy-source-If-Unmodified-Since")
	}
	if m := rq.header("X-Amz-Copy-Source-If-None-Match"); m != "" {
		if etagListed(m, v.ETag) {
			return errCondition("x-amz-copy-source-If-None-Match")
		}
	} else if t, ok := parseHTTPTime(rq.header("X-Amz-Copy-Source-If-Modified-Since")); ok && !modified.After(t) {
		return errCondition("x-amz-copy-source-If-Modified-Since")
	}
	return nil
}

// errSourceChanged ends a copy whose source was overwritten after its metadata was read.
var errSourceChanged = errors.New("copy source changed")

// pinned names exactly the version that was found, for the store.
func (c *source) pinned() object.CopySource {
	clock, id := c.v.Clock, c.v.ID
	return object.CopySource{
		Bucket: c.bucket, Key: c.key, VersionID: id, DataKey: c.dataKey,
		Precondition: func(v *record.Version) error {
			if v == nil || v.Clock != clock || v.ID != id {
				return errSourceChanged
			}
			return nil
		},
	}
}

// copyTries bounds how often a copy starts again because its source was overwritten meanwhile.
const copyTries = 4

// copyObject answers CopyObject.
func copyObject(s *Server, rq *request) error {
	if rq.r.ContentLength > 0 {
		return s3err.InvalidRequest("The body of a copy request must be empty.")
	}
	replaceMeta, err := directive(rq, "X-Amz-Metadata-Directive")
	if err != nil {
		return err
	}
	replaceTags, err := directive(rq, "X-Amz-Tagging-Directive")
	if err != nil {
		return err
	}
	base, err := s.newVersion(rq)
	if err != nil {
		return err
	}
	base.Precondition = writePrecondition(rq)
	if name := rq.header("X-Amz-Checksum-Algorithm"); name != "" {
		a := parseAlgorithm(name)
		if a == record.ChecksumNone {
			return s3err.InvalidRequest("Checksum algorithm provided is unsupported. Please try again with any of the " +
				"valid types: [CRC32, CRC32C, CRC64NVME, SHA1, SHA256]")
		}
		base.Checksum = &object.ChecksumRequest{Algorithm: a}
	}
	for try := 1; ; try++ {
		src, err := s.findSource(rq)
		if err != nil {
			return err
		}
		v, err := s.copyFrom(rq, src, base, replaceMeta, replaceTags)
		if errors.Is(err, errSourceChanged) && try < copyTries {
			continue
		}
		if errors.Is(err, errSourceChanged) {
			return s3err.New("OperationAborted")
		}
		if err != nil {
			return err
		}
		rq.size = v.Size
		if Logs(src.bkt) {
			rq.also = append(rq.also, Also{
				Op: rq.op, Bucket: src.bkt, Key: src.key, VersionID: src.version, Size: src.v.Size, Status: http.StatusOK,
			})
		}
		rq.setNewVersionID(v.ID)
		sse.TellNew(rq.h, v.Encryption, rq.r)
		if src.bkt.Versioning != record.VersioningOff {
			rq.set("X-Amz-Copy-Source-Version-Id", src.v.ID)
		}
		return rq.writeCopyResult("CopyObjectResult", v.ETag, v.Modified, &v.Checksum)
	}
}

func (s *Server) copyFrom(rq *request, src *source, o object.PutOptions, replaceMeta, replaceTags bool) (*record.Version, error) {
	if src.v.Size > object.MaxPut {
		return nil, s3err.InvalidRequest("The specified copy source is larger than the maximum allowable size for a copy "+
			"source: %d", object.MaxPut)
	}
	self := src.bucket == rq.bucket && src.key == rq.key
	if self && src.v.Latest && !replaceMeta && !replaceTags && o.StorageClass == src.v.StorageClass && o.Checksum == nil &&
		!sse.Asked(rq.r.Header) && !rq.hasHeader(redirectHeader) && o.Retention.Mode == record.RetentionNone && !o.LegalHold {
		return nil, s3err.InvalidRequest("This copy request is illegal because it is trying to copy an object to itself " +
			"without changing the object's metadata, storage class, website redirect location or encryption attributes.")
	}
	if !replaceMeta {
		redirect := rq.header(redirectHeader)
		o.Metadata = src.v.Metadata
		o.Headers = nil
		for _, f := range src.v.Headers {
			if f.Name != redirectField {
				o.Headers = append(o.Headers, f)
			}
		}
		if redirect != "" {
			o.Headers = append(o.Headers, record.Field{Name: redirectField, Value: redirect})
		}
	}
	if !replaceTags {
		o.Tags = src.v.Tags
		if len(o.Tags) > 0 {
			if err := s.authorizeOn(rq, versioned("s3:GetObjectTagging", "s3:GetObjectVersionTagging", src.version),
				src.bkt, src.key, src.v); err != nil {
				return nil, err
			}
			if err := s.authorize(rq, "s3:PutObjectTagging"); err != nil {
				return nil, err
			}
		}
	}
	if o.Checksum == nil && src.v.Checksum.Algorithm != record.ChecksumNone {
		o.Checksum = &object.ChecksumRequest{Algorithm: src.v.Checksum.Algorithm}
	}
	return s.store.Copy(rq.ctx, src.pinned(), rq.bucket, rq.key, o)
}

// directive reads a COPY or REPLACE header and reports whether it says REPLACE.
func directive(rq *request, header string) (bool, error) {
	switch v := rq.header(header); v {
	case "", "COPY":
		return false, nil
	case "REPLACE":
		return true, nil
	default:
		name := strings.ToLower(header)
		return false, s3err.InvalidArgument(name, v, "Unknown %s directive.",
			strings.TrimSuffix(strings.TrimPrefix(name, "x-amz-"), "-directive"))
	}
}

// writeCopyResult sends a CopyObjectResult or CopyPartResult.
func (rq *request) writeCopyResult(root, etag string, modified time.Time, c *record.Checksum) error {
	b := append(rq.buf[:0], xmlHeader...)
	b = append(b, '<')
	b = append(b, root...)
	b = append(b, ` xmlns="`+xmlNamespace+`"><LastModified>`...)
	b = appendISO8601(b, modified)
	b = append(b, "</LastModified>"...)
	b = appendElement(b, "ETag", quoteETag(etag))
	b = appendChecksum(b, c)
	b = append(b, '<', '/')
	b = append(b, root...)
	rq.buf = append(b, '>')
	return rq.writeBody(http.StatusOK, xmlContentType, rq.buf)
}

// copyRange parses x-amz-copy-source-range, which must lie within the source.
func copyRange(v string, size int64) (offset, length int64, err error) {
	bad := s3err.InvalidArgument("x-amz-copy-source-range", v, "The x-amz-copy-source-range value must be of the form "+
		"bytes=first-last where first and last are the zero-based offsets of the first and last bytes to copy")
	t, ok := strings.CutPrefix(v, "bytes=")
	if !ok {
		return 0, 0, bad
	}
	a, b, ok := strings.Cut(t, "-")
	if !ok {
		return 0, 0, bad
	}
	from, ok := parseCount(a)
	to, ok2 := parseCount(b)
	if !ok || !ok2 || to < from {
		return 0, 0, bad
	}
	if to >= size {
		e := s3err.New("InvalidRange").Saying("Range specified is not valid for source object of size: %s",
			strconv.FormatInt(size, 10))
		return 0, 0, e
	}
	return from, to - from + 1, nil
}
