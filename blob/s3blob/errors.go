package s3blob

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net/http"
	"net/url"

	"github.com/minio/minio-go/v7"

	"firn"
)

// fail gives an error of a call with ctx its kind. It returns nil for nil.
func (b *bucket) fail(ctx context.Context, err error) error {
	var known *firn.Error
	var response minio.ErrorResponse
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil && context.Cause(ctx) == errClosed: //nolint:errorlint // it is that very one
		return &firn.Error{Kind: firn.Invalid, Err: errClosed}
	case ctx.Err() != nil:
		return &firn.Error{Kind: firn.Unavailable, Err: ctx.Err()}
	case errors.As(err, &known):
		return err // the source's
	case errors.As(err, &response):
		return b.answer(response)
	}
	// The cause alone: the library's URL says again what is known.
	var at *url.Error
	if errors.As(err, &at) {
		err = at.Err
	}
	kind := firn.Unavailable
	var authority x509.UnknownAuthorityError
	var verify *tls.CertificateVerificationError
	if errors.As(err, &authority) || errors.As(err, &verify) {
		kind = firn.Denied
	}
	return &firn.Error{Kind: kind, Err: err}
}

// answered returns the server's error in err's chain, else the zero one.
func answered(err error) minio.ErrorResponse {
	var r minio.ErrorResponse
	errors.As(err, &r)
	return r
}

// answer is the server's error.
func (b *bucket) answer(r minio.ErrorResponse) error {
	kind := firn.Internal
	switch r.Code {
	case "NoSuchKey", "NoSuchVersion", "NoSuchObject":
		kind = firn.NotFound
	case "NoSuchBucket":
		// Not NotFound: that no blob is there is never the answer where there is nothing to ask.
		return &firn.Error{Kind: firn.Invalid, Err: errors.New("there is no bucket " + b.name)}
	case "NoSuchUpload":
		kind = firn.Unavailable // somebody aborted it; a new one may go through
	case "PreconditionFailed":
		kind = firn.Precondition
	case "SlowDown", "SlowDownRead", "SlowDownWrite", "ServiceUnavailable", "InternalError", "RequestTimeout",
		"OperationAborted", "ConditionalRequestConflict", "Throttling", "ThrottlingException", "RequestThrottled",
		"RequestLimitExceeded", "ExpiredToken", "ExpiredTokenException", "IncompleteBody", "XMinioServerNotInitialized",
		"BadDigest", "XAmzContentSHA256Mismatch", "XAmzContentChecksumMismatch", "InvalidDigest":
		// Digests: what arrived was not what was sent.
		kind = firn.Unavailable
	case "QuotaExceeded", "XMinioStorageFull", "XMinioAdminBucketQuotaExceeded", "InsufficientStorage", "NoSpace":
		kind = firn.NoSpace
	case "XMinioParentIsObject", "XMinioObjectExistsAsDirectory", "ObjectParentIsFile", "ExistingObjectIsDirectory",
		"DirectoryObjectContainsData":
		kind = firn.Conflict
	case "NotImplemented", "APINotSupported", "MethodNotAllowed":
		kind = firn.Unsupported
	case "InvalidObjectState":
		kind = firn.Conflict // in an archive class: it has to be restored first
	default:
		kind = statusKind(r.StatusCode)
	}
	text := r.Message
	if text == "" {
		text = http.StatusText(r.StatusCode)
	}
	if r.Code != "" && r.Code != text {
		text += " (" + r.Code + ")"
	}
	return &firn.Error{Kind: kind, Err: errors.New(text)}
}

func statusKind(status int) firn.Kind {
	switch {
	case status == http.StatusNotFound:
		return firn.NotFound
	case status == http.StatusUnauthorized, status == http.StatusForbidden:
		return firn.Denied
	case status == http.StatusPreconditionFailed:
		return firn.Precondition
	case status == http.StatusConflict:
		return firn.Conflict
	case status == http.StatusInsufficientStorage:
		return firn.NoSpace
	case status == http.StatusRequestTimeout, status == http.StatusTooManyRequests, status >= 500:
		return firn.Unavailable
	case status >= 400:
		return firn.Invalid
	}
	return firn.Internal
}
