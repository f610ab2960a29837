package sigv4

import (
	"strconv"
	"time"

	"firn"
)

// Error is a failure to be told to the client: AWS's error code, its message and the HTTP status.
type Error struct {
	Code    string
	Message string
	Status  int
	// Fields are further elements of the error document, such as StringToSign. None is a secret.
	Fields []Field
}

// Field is one named element of an error document.
type Field struct{ Name, Value string }

func (e *Error) Error() string { return e.Code + ": " + e.Message }

// Unwrap gives the error its kind.
func (e *Error) Unwrap() error {
	switch {
	case e.Status == 403:
		return firn.NewError(firn.Denied, e.Code)
	case e.Status == 501:
		return firn.NewError(firn.Unsupported, e.Code)
	}
	return firn.NewError(firn.Invalid, e.Code)
}

// maxEcho bounds what an error repeats of a request.
const maxEcho = 256

func clip(s string) string {
	if len(s) > maxEcho {
		return s[:maxEcho]
	}
	return s
}

func quote(s string) string { return `"` + clip(s) + `"` }

func invalidArgument(message, name, value string) *Error {
	return &Error{Code: "InvalidArgument", Message: message, Status: 400, Fields: []Field{
		{"ArgumentName", name}, {"ArgumentValue", clip(value)},
	}}
}

func invalidRequest(message string) *Error {
	return &Error{Code: "InvalidRequest", Message: message, Status: 400}
}

func errTwoMechanisms() *Error {
	return invalidArgument("Only one auth mechanism allowed; only the X-Amz-Algorithm query parameter, "+
		"Signature query string parameter or the Authorization header should be specified", "Authorization", "")
}

func errMechanism() *Error {
	return invalidRequest("The authorization mechanism you have provided is not supported. Please use AWS4-HMAC-SHA256.")
}

func errNoDate() *Error {
	return &Error{Code: "AccessDenied", Message: "AWS authentication requires a valid Date or x-amz-date header", Status: 403}
}

func errSkewed(signed, now time.Time, limit time.Duration) *Error {
	return &Error{
		Code: "RequestTimeTooSkewed", Status: 403,
		Message: "The difference between the request time and the current time is too large.",
		Fields: []Field{
			{"RequestTime", signed.UTC().Format(isoLayout)},
			{"ServerTime", now.UTC().Format(time.RFC3339)},
			{"MaxAllowedSkewMilliseconds", strconv.FormatInt(limit.Milliseconds(), 10)},
		},
	}
}

func errNotYetValid(signed, now time.Time) *Error {
	return &Error{Code: "AccessDenied", Message: "Request is not valid yet", Status: 403, Fields: []Field{
		{"NotBefore", signed.UTC().Format(time.RFC3339)}, {"ServerTime", now.UTC().Format(time.RFC3339)},
	}}
}

func errExpired(seconds string, expires, now time.Time) *Error {
	return &Error{Code: "AccessDenied", Message: "Request has expired", Status: 403, Fields: []Field{
		{"X-Amz-Expires", seconds},
		{"Expires", expires.UTC().Format(time.RFC3339)},
		{"ServerTime", now.UTC().Format(time.RFC3339)},
	}}
}

func errNoSuchKey(accessKey string) *Error {
	return &Error{
		Code: "InvalidAccessKeyId", Status: 403,
		Message: "The AWS Access Key Id you provided does not exist in our records.",
		Fields:  []Field{{"AWSAccessKeyId", clip(accessKey)}},
	}
}

func errToken() *Error {
	return &Error{
		Code: "InvalidToken", Status: 400,
		Message: "The provided token is malformed or otherwise invalid.",
	}
}

func errTokenExpired() *Error {
	return &Error{Code: "ExpiredToken", Status: 400, Message: "The provided token has expired."}
}

func errNotSigned(names string) *Error {
	return &Error{
		Code: "AccessDenied", Status: 403,
		Message: "There were headers present in the request which were not signed",
		Fields:  []Field{{"HeadersNotSigned", clip(names)}},
	}
}

func errSignature(accessKey, provided, stringToSign, canonical string) *Error {
	e := &Error{
		Code: "SignatureDoesNotMatch", Status: 403,
		Message: "The request signature we calculated does not match the signature you provided. Check your key and signing method.",
		Fields:  []Field{{"AWSAccessKeyId", clip(accessKey)}},
	}
	if stringToSign != "" {
		e.Fields = append(e.Fields, Field{"StringToSign", stringToSign})
	}
	e.Fields = append(e.Fields, Field{"SignatureProvided", clip(provided)})
	if canonical != "" {
		e.Fields = append(e.Fields, Field{"CanonicalRequest", canonical})
	}
	return e
}

func errContentSHA256(value string) *Error {
	return invalidArgument("x-amz-content-sha256 must be UNSIGNED-PAYLOAD, STREAMING-UNSIGNED-PAYLOAD-TRAILER, "+
		"STREAMING-AWS4-HMAC-SHA256-PAYLOAD, STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER or a valid sha256 value.",
		"x-amz-content-sha256", value)
}

func errPayloadMismatch(client, computed string) *Error {
	return &Error{
		Code: "XAmzContentSHA256Mismatch", Status: 400,
		Message: "The provided 'x-amz-content-sha256' header does not match what was computed.",
		Fields: []Field{
			{"ClientComputedContentSHA256", client},
			{"S3ComputedContentSHA256", computed},
		},
	}
}

func errIncomplete(message string) *Error {
	return &Error{Code: "IncompleteBody", Message: message, Status: 400}
}

func errShort() *Error {
	return errIncomplete("You did not provide the number of bytes specified by the Content-Length HTTP header.")
}

func errDecodedLength() *Error {
	return errIncomplete("The request body does not have the number of bytes specified by the " +
		"x-amz-decoded-content-length header.")
}

func errChunk(what string) *Error {
	return invalidRequest("The aws-chunked request body is malformed: " + what + ".")
}

func errTrailer() *Error {
	return &Error{
		Code: "MalformedTrailerError", Status: 400,
		Message: "The request contained trailing data that was not well-formed or did not conform to our published schema.",
	}
}

func errNoLength() *Error {
	return &Error{Code: "MissingContentLength", Message: "You must provide the Content-Length HTTP header.", Status: 411}
}

func queryError(message string) *Error {
	return &Error{Code: "AuthorizationQueryParametersError", Message: message, Status: 400}
}

// sourceErrors words the same fault as AWS does for the header and for the query.
type sourceErrors struct{ code, intro string }

var (
	headerErrors = sourceErrors{"AuthorizationHeaderMalformed", "The authorization header is malformed; "}
	queryErrors  = sourceErrors{"AuthorizationQueryParametersError", "Error parsing the X-Amz-Credential parameter; "}
	formErrors   = sourceErrors{"InvalidArgument", "Error parsing the X-Amz-Credential parameter; "}
)

func (s sourceErrors) wrong(what string, f ...Field) *Error {
	return &Error{Code: s.code, Message: s.intro + what, Status: 400, Fields: f}
}
