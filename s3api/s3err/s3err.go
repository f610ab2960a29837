// Package s3err holds the errors of the S3 protocol: their codes, with AWS's messages and HTTP statuses, and the
// value that carries one of them up to the response.
//
// It owns the one table of codes. It promises that every code given to New is in it, or the error is InternalError.
// It must never import a package of this module: what an error of the store means to a client is s3api's to say.
package s3err

import (
	"fmt"
	"strings"
)

// Error is an error as S3 clients see it.
type Error struct {
	Code    string
	Message string
	Status  int     // HTTP status
	Extra   []Field // further elements of the document, in order
}

// Field is one element of an error document.
type Field struct{ Name, Value string }

func (e *Error) Error() string { return e.Code + ": " + e.Message }

// With adds an element to the error document and returns e.
func (e *Error) With(name, value string) *Error {
	e.Extra = append(e.Extra, Field{name, value})
	return e
}

// Saying replaces the message and returns e.
func (e *Error) Saying(format string, args ...any) *Error {
	e.Message = fmt.Sprintf(format, args...)
	return e
}

// New returns a new error with the code's usual message and status. A code that is not in the table is a
// bug and becomes InternalError.
func New(code string) *Error {
	c, ok := codes[code]
	if !ok {
		c = codes["InternalError"]
		return &Error{Code: "InternalError", Message: c.message, Status: c.status}
	}
	return &Error{Code: code, Message: c.message, Status: c.status}
}

// InvalidArgument is the error of that code about one argument. An empty format leaves the usual message.
func InvalidArgument(name, value, format string, args ...any) *Error {
	e := New("InvalidArgument").With("ArgumentName", name).With("ArgumentValue", value)
	if format != "" {
		e.Saying(format, args...)
	}
	return e
}

// InvalidRequest is the error of that code with a message of its own.
func InvalidRequest(format string, args ...any) *Error {
	return New("InvalidRequest").Saying(format, args...)
}

// NotImplemented says which header or parameter asks for something Firn does not offer.
func NotImplemented(name string) *Error {
	return New("NotImplemented").With("Header", name)
}

// Refuse returns an error with a message of its own. Its status is the code's; for a code that is not in the table it
// is 404 where the name says that something is missing, and else 400.
func Refuse(code, format string, args ...any) *Error {
	e := &Error{Code: code, Status: 400}
	switch c, ok := codes[code]; {
	case ok:
		e.Status = c.status
	case code == "AccessForbidden":
		e.Status = 403
	case strings.HasSuffix(code, "NotFoundError") || strings.HasPrefix(code, "NoSuch"):
		e.Status = 404
	}
	return e.Saying(format, args...)
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
	"KMS.DisabledException":                          {400, "The key is disabled: what it protects cannot be read or written until it is enabled."},
	"KMS.KMSInvalidStateException":                   {400, "The key was destroyed: what it protected cannot be read any more."},
	"KMS.NotFoundException":                          {400, "The key does not exist in the key service."},
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
	"QuotaExceeded":                                  {403, "The quota of the bucket is used up."},
	"SlowDown":                                       {503, "Please reduce your request rate."},
	"TooManyBuckets":                                 {400, "You have attempted to create more buckets than allowed"},
	"UnexpectedContent":                              {400, "This request does not support content."},
	"UnresolvableGrantByEmailAddress":                {400, "The e-mail address you provided does not match any account on record."},
	"UnsupportedArgument":                            {400, "The request contained an unsupported argument."},
	"UserKeyMustBeSpecified":                         {400, "The bucket POST must contain the specified field name. If it is specified, check the order of the fields."},
	"XAmzContentChecksumMismatch":                    {400, "The provided 'x-amz-checksum' header does not match what was computed."},
	"XAmzContentSHA256Mismatch":                      {400, "The provided 'x-amz-content-sha256' header does not match what was computed."},
}
