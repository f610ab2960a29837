package s3api

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"firn"
	"firn/auth"
	"firn/object"
)

// Error is an error as S3 clients see it.
type Error struct {
	Code    string
	Message string
	Status  int     // HTTP status
	Extra   []field // further elements of the document, in order
}

// field is one element of an error document.
type field struct{ Name, Value string }

func (e *Error) Error() string { return e.Code + ": " + e.Message }

// with adds an element to the error document.
func (e *Error) with(name, value string) *Error {
	e.Extra = append(e.Extra, field{name, value})
	return e
}

// saying replaces the message.
func (e *Error) saying(format string, args ...any) *Error {
	e.Message = fmt.Sprintf(format, args...)
	return e
}

// apiError returns a new error with the code's usual message and status. A code that is not in the table is a
// bug and becomes InternalError.
func apiError(code string) *Error {
	c, ok := codes[code]
	if !ok {
		c = codes["InternalError"]
		return &Error{Code: "InternalError", Message: c.message, Status: c.status}
	}
	return &Error{Code: code, Message: c.message, Status: c.status}
}

func errInvalidArgument(name, value, format string, args ...any) *Error {
	e := apiError("InvalidArgument").with("ArgumentName", name).with("ArgumentValue", value)
	if format != "" {
		e.saying(format, args...)
	}
	return e
}

func errInvalidRequest(format string, args ...any) *Error {
	return apiError("InvalidRequest").saying(format, args...)
}

func errNoSuchBucket(bucket string) *Error {
	return apiError("NoSuchBucket").with("BucketName", bucket)
}

func errNoSuchKey(key string) *Error { return apiError("NoSuchKey").with("Key", key) }

func errNoSuchVersion(key, version string) *Error {
	return apiError("NoSuchVersion").with("Key", key).with("VersionId", version)
}

// errNotImplemented says which header or parameter asks for something Firn does not offer.
func errNotImplemented(name string) *Error {
	return apiError("NotImplemented").with("Header", name)
}

// statusClientClosed is what logs and metrics show for a request whose client went away.
const statusClientClosed = 499

// toError gives err the shape S3 clients know. Errors nobody foresaw become InternalError; the caller logs them.
func toError(rq *request, err error) *Error {
	var e *Error
	if errors.As(err, &e) {
		return e
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
		e := apiError("RequestTimeout")
		e.Status = statusClientClosed
		return e
	case isTimeout(err):
		return apiError("RequestTimeout")
	}
	switch firn.KindOf(err) {
	case firn.NoSpace:
		return apiError("InsufficientStorage")
	case firn.Unavailable:
		return apiError("ServiceUnavailable")
	case firn.Unsupported:
		return apiError("NotImplemented")
	case firn.Denied:
		return apiError("AccessDenied")
	case firn.Precondition:
		return apiError("PreconditionFailed")
	case firn.Invalid:
		return apiError("InvalidRequest")
	}
	return apiError("InternalError")
}

// isTimeout reports whether err comes from a deadline on the connection.
func isTimeout(err error) bool {
	var t interface{ Timeout() bool }
	return errors.As(err, &t) && t.Timeout()
}

// storeErrors maps the errors of the namespace.
var storeErrors = [...]struct {
	err error
	to  func(rq *request) *Error
}{
	{object.ErrNoSuchKey, func(rq *request) *Error { return errNoSuchKey(rq.key) }},
	{object.ErrNoSuchBucket, func(rq *request) *Error { return errNoSuchBucket(rq.bucket) }},
	{object.ErrPrecondition, func(*request) *Error { return apiError("PreconditionFailed") }},
	{object.ErrNoSuchVersion, func(rq *request) *Error { return errNoSuchVersion(rq.key, rq.query.Get("versionId")) }},
	{object.ErrDeleteMarker, func(rq *request) *Error { return errNoSuchKey(rq.key) }},
	{object.ErrNoSuchUpload, func(rq *request) *Error {
		return apiError("NoSuchUpload").with("UploadId", rq.query.Get("uploadId"))
	}},
	{object.ErrNoSuchPart, func(*request) *Error { return apiError("InvalidPart") }},
	{object.ErrBucketExists, func(rq *request) *Error { return apiError("BucketAlreadyExists").with("BucketName", rq.bucket) }},
	{object.ErrBucketNotEmpty, func(rq *request) *Error { return apiError("BucketNotEmpty").with("BucketName", rq.bucket) }},
	{object.ErrInvalidBucketName, func(rq *request) *Error { return apiError("InvalidBucketName").with("BucketName", rq.bucket) }},
	{object.ErrKeyTooLong, func(rq *request) *Error {
		return apiError("KeyTooLongError").with("Size", fmt.Sprint(len(rq.key))).with("MaxSizeAllowed", "1024")
	}},
	{object.ErrInvalidKey, func(*request) *Error { return apiError("InvalidURI") }},
	{object.ErrInvalidPart, func(*request) *Error { return apiError("InvalidPart") }},
	{object.ErrInvalidPartOrder, func(*request) *Error { return apiError("InvalidPartOrder") }},
	{object.ErrPartTooSmall, func(*request) *Error { return apiError("EntityTooSmall") }},
	{object.ErrTooLarge, func(*request) *Error { return apiError("EntityTooLarge") }},
	{object.ErrInvalidRange, func(*request) *Error { return apiError("InvalidRange") }},
	{object.ErrBadDigest, func(*request) *Error { return apiError("BadDigest") }},
	{object.ErrBadChecksum, func(*request) *Error {
		return apiError("BadDigest").saying("The checksum you specified did not match the calculated checksum.")
	}},
	{object.ErrIncompleteBody, func(*request) *Error { return apiError("IncompleteBody") }},
	{object.ErrLocked, func(*request) *Error {
		return apiError("AccessDenied").saying("Access Denied because object protected by object lock.")
	}},
	{object.ErrLockConfig, func(*request) *Error { return apiError("InvalidBucketState") }},
	{object.ErrNoSpace, func(*request) *Error { return apiError("InsufficientStorage") }},
	{auth.ErrDenied, func(*request) *Error { return apiError("AccessDenied") }},
}

// fail sends err, or breaks the connection where a response has begun.
func (rq *request) fail(err error) {
	e := toError(rq, err)
	rq.code = e.Code
	if e.Status >= http.StatusInternalServerError && e.Code != "NotImplemented" {
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
}

// codes is the one table of S3's error codes: message and status as AWS words them.
var codes = map[string]struct {
	status  int
	message string
}{
	"AccessControlListNotSupported":                  {400, "The bucket does not allow ACLs"},
	"AccessDenied":                                   {403, "Access Denied"},
	"AllAccessDisabled":                              {403, "All access to this object has been disabled."},
	"AuthorizationHeaderMalformed":                   {400, "The authorization header is malformed."},
	"AuthorizationQueryParametersError":              {400, "Error parsing the X-Amz-Credential parameter."},
	"BadDigest":                                      {400, "The Content-MD5 you specified did not match what we received."},
	"BadRequest":                                     {400, "Bad Request"},
	"BucketAlreadyExists":                            {409, "The requested bucket name is not available. The bucket namespace is shared by all users of the system. Please select a different name and try again."},
	"BucketAlreadyOwnedByYou":                        {409, "Your previous request to create the named bucket succeeded and you already own it."},
	"BucketNotEmpty":                                 {409, "The bucket you tried to delete is not empty"},
	"ConditionalRequestConflict":                     {409, "The conditional request cannot succeed due to a conflicting operation against this resource."},
	"CredentialsNotSupported":                        {400, "This request does not support credentials."},
	"EntityTooLarge":                                 {400, "Your proposed upload exceeds the maximum allowed size"},
	"EntityTooSmall":                                 {400, "Your proposed upload is smaller than the minimum allowed size"},
	"ExpiredToken":                                   {400, "The provided token has expired."},
	"IllegalLocationConstraintException":             {400, "The specified location-constraint is not valid"},
	"IllegalVersioningConfigurationException":        {400, "The versioning configuration specified in the request is invalid."},
	"IncompleteBody":                                 {400, "You did not provide the number of bytes specified by the Content-Length HTTP header."},
	"IncorrectNumberOfFilesInPostRequest":            {400, "POST requires exactly one file upload per request."},
	"InlineDataTooLarge":                             {400, "Inline data exceeds the maximum allowed size."},
	"InsufficientStorage":                            {507, "The storage is nearly full: writes are refused until space is freed."},
	"InternalError":                                  {500, "We encountered an internal error. Please try again."},
	"InvalidAccessKeyId":                             {403, "The AWS Access Key Id you provided does not exist in our records."},
	"InvalidArgument":                                {400, "Invalid Argument"},
	"InvalidBucketAclWithObjectOwnership":            {400, "Bucket cannot have ACLs set with ObjectOwnership's BucketOwnerEnforced setting"},
	"InvalidBucketName":                              {400, "The specified bucket is not valid."},
	"InvalidBucketOwnerAWSAccountID":                 {400, "The value of the expected bucket owner parameter must be an AWS account ID."},
	"InvalidBucketState":                             {409, "The request is not valid with the current state of the bucket."},
	"InvalidDigest":                                  {400, "The Content-MD5 you specified is not valid."},
	"InvalidEncryptionAlgorithmError":                {400, "The encryption request you specified is not valid. The valid value is AES256."},
	"InvalidLocationConstraint":                      {400, "The specified location-constraint is not valid"},
	"InvalidObjectState":                             {403, "The operation is not valid for the object's storage class"},
	"InvalidPart":                                    {400, "One or more of the specified parts could not be found.  The part may not have been uploaded, or the specified entity tag may not match the part's entity tag."},
	"InvalidPartNumber":                              {416, "The requested partnumber is not satisfiable"},
	"InvalidPartOrder":                               {400, "The list of parts was not in ascending order. Parts must be ordered by part number."},
	"InvalidPolicyDocument":                          {400, "The content of the form does not meet the conditions specified in the policy document."},
	"InvalidRange":                                   {416, "The requested range is not satisfiable"},
	"InvalidRedirectLocation":                        {400, "The website redirect location must have a prefix of 'http://' or 'https://' or '/'."},
	"InvalidRequest":                                 {400, "Invalid Request"},
	"InvalidSecurity":                                {403, "The provided security credentials are not valid."},
	"InvalidStorageClass":                            {400, "The storage class you specified is not valid"},
	"InvalidTag":                                     {400, "The tag provided was not a valid tag. This error can occur if the tag did not pass input validation."},
	"InvalidTargetBucketForLogging":                  {400, "The target bucket for logging does not exist"},
	"InvalidToken":                                   {400, "The provided token is malformed or otherwise invalid."},
	"InvalidURI":                                     {400, "Couldn't parse the specified URI."},
	"KeyTooLongError":                                {400, "Your key is too long"},
	"MalformedACLError":                              {400, "The XML you provided was not well-formed or did not validate against our published schema"},
	"MalformedPOSTRequest":                           {400, "The body of your POST request is not well-formed multipart/form-data."},
	"MalformedPolicy":                                {400, "Policies must be valid JSON and the first byte must be '{'"},
	"MalformedXML":                                   {400, "The XML you provided was not well-formed or did not validate against our published schema"},
	"MaxMessageLengthExceeded":                       {400, "Your request was too big."},
	"MaxPostPreDataLengthExceededError":              {400, "Your POST request fields preceding the upload file were too large."},
	"MetadataTooLarge":                               {400, "Your metadata headers exceed the maximum allowed metadata size."},
	"MethodNotAllowed":                               {405, "The specified method is not allowed against this resource."},
	"MissingAttachment":                              {400, "A SOAP attachment was expected, but none were found."},
	"MissingContentLength":                           {411, "You must provide the Content-Length HTTP header."},
	"MissingRequestBodyError":                        {400, "Request body is empty."},
	"MissingSecurityHeader":                          {400, "Your request was missing a required header."},
	"NoSuchBucket":                                   {404, "The specified bucket does not exist"},
	"NoSuchBucketPolicy":                             {404, "The bucket policy does not exist"},
	"NoSuchCORSConfiguration":                        {404, "The CORS configuration does not exist"},
	"NoSuchKey":                                      {404, "The specified key does not exist."},
	"NoSuchLifecycleConfiguration":                   {404, "The lifecycle configuration does not exist"},
	"NoSuchObjectLockConfiguration":                  {404, "The specified object does not have a ObjectLock configuration"},
	"NoSuchPublicAccessBlockConfiguration":           {404, "The public access block configuration was not found"},
	"NoSuchTagSet":                                   {404, "The TagSet does not exist"},
	"NoSuchUpload":                                   {404, "The specified upload does not exist. The upload ID may be invalid, or the upload may have been aborted or completed."},
	"NoSuchVersion":                                  {404, "The specified version does not exist."},
	"NoSuchWebsiteConfiguration":                     {404, "The specified bucket does not have a website configuration"},
	"NotImplemented":                                 {501, "A header or query you provided requested a function that is not implemented."},
	"NotModified":                                    {304, "Not Modified"},
	"ObjectLockConfigurationNotFoundError":           {404, "Object Lock configuration does not exist for this bucket"},
	"OperationAborted":                               {409, "A conflicting conditional operation is currently in progress against this resource. Please try again."},
	"OwnershipControlsNotFoundError":                 {404, "The bucket ownership controls were not found"},
	"PermanentRedirect":                              {301, "The bucket you are attempting to access must be addressed using the specified endpoint. Please send all future requests to this endpoint."},
	"PreconditionFailed":                             {412, "At least one of the pre-conditions you specified did not hold"},
	"RequestHeaderSectionTooLarge":                   {400, "Your request header section exceeds the maximum allowed size."},
	"RequestIsNotMultiPartContent":                   {412, "Bucket POST must be of the enclosure-type multipart/form-data."},
	"RequestTimeTooSkewed":                           {403, "The difference between the request time and the current time is too large."},
	"RequestTimeout":                                 {400, "Your socket connection to the server was not read from or written to within the timeout period. Idle connections will be closed."},
	"RestoreAlreadyInProgress":                       {409, "Object restore is already in progress"},
	"ServerSideEncryptionConfigurationNotFoundError": {404, "The server side encryption configuration was not found"},
	"ServiceUnavailable":                             {503, "Service is unable to handle request."},
	"SignatureDoesNotMatch":                          {403, "The request signature we calculated does not match the signature you provided. Check your key and signing method."},
	"SlowDown":                                       {503, "Please reduce your request rate."},
	"TooManyBuckets":                                 {400, "You have attempted to create more buckets than allowed"},
	"UnexpectedContent":                              {400, "This request does not support content."},
	"UnresolvableGrantByEmailAddress":                {400, "The e-mail address you provided does not match any account on record."},
	"UnsupportedArgument":                            {400, "The request contained an unsupported argument."},
	"UserKeyMustBeSpecified":                         {400, "The bucket POST must contain the specified field name. If it is specified, check the order of the fields."},
	"XAmzContentChecksumMismatch":                    {400, "The provided 'x-amz-checksum' header does not match what was computed."},
	"XAmzContentSHA256Mismatch":                      {400, "The provided 'x-amz-content-sha256' header does not match what was computed."},
}
