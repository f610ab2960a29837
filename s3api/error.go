package s3api

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"firn"
	"firn/auth"
	"firn/object"
	"firn/s3api/classes"
	"firn/s3api/s3err"
)

func errNoSuchBucket(bucket string) *s3err.Error {
	return s3err.New("NoSuchBucket").With("BucketName", bucket)
}

func errNoSuchKey(key string) *s3err.Error { return s3err.New("NoSuchKey").With("Key", key) }

func errNoSuchVersion(key, version string) *s3err.Error {
	return s3err.New("NoSuchVersion").With("Key", key).With("VersionId", version)
}

// statusClientClosed is what logs and metrics show for a request whose client went away.
const statusClientClosed = 499

// toError gives err the shape S3 clients know. Errors nobody foresaw become InternalError; the caller logs them.
func toError(rq *request, err error) *s3err.Error {
	var e *s3err.Error
	if errors.As(err, &e) {
		return e
	}
	var away *object.TierAway
	if errors.As(err, &away) {
		rq.set("Retry-After", "30")
		return classes.Unreadable(away)
	}
	if e := authError(err); e != nil {
		return e
	}
	for i := range storeErrors {
		if errors.Is(err, storeErrors[i].err) {
			return storeErrors[i].to(rq)
		}
	}
	var gone *clientGone
	switch {
	case errors.As(err, &gone), errors.Is(err, context.Canceled):
		e := s3err.New("RequestTimeout")
		e.Status = statusClientClosed
		return e
	case isTimeout(err):
		return s3err.New("RequestTimeout")
	}
	switch firn.KindOf(err) {
	case firn.NoSpace:
		return s3err.New("InsufficientStorage")
	case firn.Unavailable:
		return s3err.New("ServiceUnavailable")
	case firn.Unsupported:
		return s3err.New("NotImplemented")
	case firn.Denied:
		return s3err.New("AccessDenied")
	case firn.Precondition:
		return s3err.New("PreconditionFailed")
	case firn.Invalid:
		return s3err.New("InvalidRequest")
	}
	return s3err.New("InternalError")
}

// isTimeout reports whether err comes from a deadline on the connection.
func isTimeout(err error) bool {
	var t interface{ Timeout() bool }
	return errors.As(err, &t) && t.Timeout()
}

// storeErrors maps the errors of the namespace.
var storeErrors = [...]struct {
	err error
	to  func(rq *request) *s3err.Error
}{
	{object.ErrNoSuchKey, func(rq *request) *s3err.Error { return errNoSuchKey(rq.key) }},
	{object.ErrNoSuchBucket, func(rq *request) *s3err.Error { return errNoSuchBucket(rq.bucket) }},
	{object.ErrPrecondition, func(*request) *s3err.Error { return s3err.New("PreconditionFailed") }},
	{object.ErrNoSuchVersion, func(rq *request) *s3err.Error { return errNoSuchVersion(rq.key, rq.query.Get("versionId")) }},
	{object.ErrDeleteMarker, func(rq *request) *s3err.Error { return errNoSuchKey(rq.key) }},
	{object.ErrNoSuchUpload, func(rq *request) *s3err.Error {
		return s3err.New("NoSuchUpload").With("UploadId", rq.query.Get("uploadId"))
	}},
	{object.ErrNoSuchPart, func(*request) *s3err.Error { return s3err.New("InvalidPart") }},
	{object.ErrBucketExists, func(rq *request) *s3err.Error { return s3err.New("BucketAlreadyExists").With("BucketName", rq.bucket) }},
	{object.ErrBucketNotEmpty, func(rq *request) *s3err.Error { return s3err.New("BucketNotEmpty").With("BucketName", rq.bucket) }},
	{object.ErrInvalidBucketName, func(rq *request) *s3err.Error { return s3err.New("InvalidBucketName").With("BucketName", rq.bucket) }},
	{object.ErrKeyTooLong, func(rq *request) *s3err.Error {
		return s3err.New("KeyTooLongError").With("Size", fmt.Sprint(len(rq.key))).With("MaxSizeAllowed", "1024")
	}},
	{object.ErrInvalidKey, func(*request) *s3err.Error { return s3err.New("InvalidURI") }},
	{object.ErrInvalidPart, func(*request) *s3err.Error { return s3err.New("InvalidPart") }},
	{object.ErrInvalidPartOrder, func(*request) *s3err.Error { return s3err.New("InvalidPartOrder") }},
	{object.ErrPartTooSmall, func(*request) *s3err.Error { return s3err.New("EntityTooSmall") }},
	{object.ErrTooLarge, func(*request) *s3err.Error { return s3err.New("EntityTooLarge") }},
	{object.ErrInvalidRange, func(*request) *s3err.Error { return s3err.New("InvalidRange") }},
	{object.ErrBadDigest, func(*request) *s3err.Error { return s3err.New("BadDigest") }},
	{object.ErrBadChecksum, func(*request) *s3err.Error {
		return s3err.New("BadDigest").Saying("The checksum you specified did not match the calculated checksum.")
	}},
	{object.ErrIncompleteBody, func(*request) *s3err.Error { return s3err.New("IncompleteBody") }},
	{object.ErrLocked, func(*request) *s3err.Error {
		return s3err.New("AccessDenied").Saying("Access Denied because object protected by object lock.")
	}},
	{object.ErrLockConfig, func(*request) *s3err.Error { return s3err.New("InvalidBucketState") }},
	{object.ErrQuota, func(rq *request) *s3err.Error { return s3err.New("QuotaExceeded").With("BucketName", rq.bucket) }},
	{object.ErrNoSpace, func(*request) *s3err.Error { return s3err.New("InsufficientStorage") }},
	{auth.ErrDenied, func(*request) *s3err.Error { return s3err.New("AccessDenied") }},
}

// fail sends err, or breaks the connection where a response has begun.
func (rq *request) fail(err error) {
	e := toError(rq, err)
	rq.code = e.Code
	// The store says itself, once, that the disk is full.
	if e.Status >= http.StatusInternalServerError && e.Code != "NotImplemented" && e.Code != "InsufficientStorage" {
		rq.s.log.Warn("request failed", "request_id", rq.id, "op", rq.op, "bucket", rq.bucket, "key", rq.key,
			"code", e.Code, "error", err)
	}
	if rq.wrote {
		rq.abort = true
		return
	}
	status := e.Status
	if status == http.StatusNotModified {
		rq.writeHeader(status)
		return
	}
	rq.dropEntityHeaders()
	if rq.r.Method == http.MethodHead {
		// A HEAD response has no body, so clients go by the status alone.
		rq.set("Content-Type", xmlContentType)
		rq.writeHeader(status)
		return
	}
	b := rq.buf[:0]
	b = append(b, xmlHeader...)
	b = append(b, "<Error><Code>"...)
	b = append(b, e.Code...)
	b = append(b, "</Code><Message>"...)
	b = appendEscaped(b, e.Message)
	b = append(b, "</Message>"...)
	for _, f := range e.Extra {
		b = append(b, '<')
		b = append(b, f.Name...)
		b = append(b, '>')
		b = appendEscaped(b, f.Value)
		b = append(b, "</"...)
		b = append(b, f.Name...)
		b = append(b, '>')
	}
	b = append(b, "<Resource>"...)
	b = appendEscaped(b, rq.r.URL.Path)
	b = append(b, "</Resource><RequestId>"...)
	b = append(b, rq.id...)
	b = append(b, "</RequestId><HostId>"...)
	b = append(b, hostID(rq.id)...)
	b = append(b, "</HostId></Error>"...)
	rq.buf = b
	_ = rq.writeBody(status, xmlContentType, b)
}

// dropEntityHeaders removes what a handler set for the body it did not send.
func (rq *request) dropEntityHeaders() {
	for _, k := range [...]string{
		"Content-Length", "Content-Type", "Content-Encoding", "Cache-Control", "Content-Disposition", "Content-Language",
		"Expires", "Etag", "Accept-Ranges",
	} {
		delete(rq.h, k)
	}
	// A client that finds one compares the error's document with it.
	for k := range rq.h {
		if strings.HasPrefix(k, "X-Amz-Checksum-") {
			delete(rq.h, k)
		}
	}
}
