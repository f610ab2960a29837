package s3api

import (
	"net/http"
	"strconv"

	"firn/object"
	"firn/object/record"
	"firn/s3api/s3err"
	"firn/s3api/sse"
)

// writePrecondition returns the condition of a write from If-Match and If-None-Match, nil where there is none.
func writePrecondition(rq *request) object.Precondition {
	match, none := rq.header("If-Match"), rq.header("If-None-Match")
	if match == "" && none == "" {
		return nil
	}
	key := rq.key
	return func(v *record.Version) error {
		there := v != nil && !v.DeleteMarker
		if match != "" {
			if !there {
				return errNoSuchKey(key)
			}
			if !etagListed(match, v.ETag) {
				return errCondition("If-Match")
			}
		}
		if none != "" && there && etagListed(none, v.ETag) {
			return errCondition("If-None-Match")
		}
		return nil
	}
}

// bodySize returns the bytes of content the request announces, -1 where it does not.
func (rq *request) bodySize() (int64, error) {
	n := rq.payload.Length()
	if n > object.MaxPut {
		return n, s3err.New("EntityTooLarge").With("ProposedSize", strconv.FormatInt(n, 10)).
			With("MaxSizeAllowed", strconv.FormatInt(object.MaxPut, 10))
	}
	if n == 0 && rq.r.ContentLength == 0 && !rq.hasHeader("Content-Length") && rq.r.ProtoMajor < 2 {
		// HTTP lets a body without a length be none; S3 wants to be told.
		return n, s3err.New("MissingContentLength")
	}
	return n, nil
}

// putObject answers PutObject.
func putObject(s *Server, rq *request) error {
	// Each of these means another operation than to replace the object, which must not happen in its stead.
	for _, name := range [...]string{"versionId", "partNumber"} {
		if rq.query.Has(name) {
			return s3err.InvalidArgument(name, rq.query.Get(name), "This operation does not accept a %s.", name)
		}
	}
	if rq.hasHeader("X-Amz-Write-Offset-Bytes") {
		return s3err.NotImplemented("x-amz-write-offset-bytes")
	}
	o, err := s.newVersion(rq)
	if err != nil {
		return err
	}
	if o.Size, err = rq.bodySize(); err != nil {
		return err
	}
	if o.ContentMD5, err = contentMD5(rq); err != nil {
		return err
	}
	if o.Checksum, err = rq.checksumRequest(); err != nil {
		return err
	}
	o.Precondition = writePrecondition(rq)
	v, err := s.store.Put(rq.ctx, rq.bucket, rq.key, rq.body, o)
	if err != nil {
		return err
	}
	rq.size = v.Size
	rq.set("Etag", quoteETag(v.ETag))
	rq.setChecksum(&v.Checksum)
	rq.setNewVersionID(v.ID)
	sse.TellNew(rq.h, v.Encryption, rq.r)
	return rq.noContent(http.StatusOK)
}
