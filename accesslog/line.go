package accesslog

import (
	"crypto/tls"
	"strconv"
	"strings"
	"time"
)

// Record is one request to a bucket. Empty fields become "-".
type Record struct {
	Owner     string // canonical id of the bucket's owner
	Bucket    string
	Time      time.Time // the request came
	Remote    string    // address of the client
	Requester string    // canonical id of an account, ARN of a user or role within one
	RequestID string
	Op        string // name of the operation, such as "GetObject"
	Part      bool   // a part of the request that has a line of its own: an object of a batch delete, the source of a copy
	Method    string
	Key       string
	URI       string // path and query as sent
	Proto     string
	Status    int
	Code      string // S3 error
	Sent      int64
	Size      int64 // of the object, -1 where not known
	Total     time.Duration
	First     time.Duration // until the answer began
	Referer   string
	Agent     string
	VersionID string
	Signed    string // "SigV4", "SigV2"
	AuthType  string // "AuthHeader", "QueryString"
	TLS       uint16 // version, 0 without
	Cipher    uint16
	Host      string
	ByACL     bool // an access control list was needed to allow it
	Region    string
}

// Line returns r as AWS writes it, with a line feed: "Amazon S3 server access log format" in the user guide. No field can
// be made to look like another, or like a line of its own, by what a client sends.
func (r *Record) Line() []byte {
	b := make([]byte, 0, 512)
	word := func(s string) {
		if s == "" {
			s = "-"
		}
		b = append(append(b, s...), ' ')
	}
	quoted := func(s string) {
		b = append(b, '"')
		if s == "" {
			s = "-"
		}
		b = escape(b, s, inQuotes)
		b = append(b, '"', ' ')
	}
	number := func(n int64, none bool) {
		if none {
			b = append(b, '-', ' ')
			return
		}
		b = append(strconv.AppendInt(b, n, 10), ' ')
	}
	plain := func(s string) string { return string(escape(nil, s, inWord)) }

	word(r.Owner)
	word(r.Bucket)
	b = r.Time.UTC().AppendFormat(b, "[02/Jan/2006:15:04:05 +0000] ")
	word(plain(r.Remote))
	word(plain(r.Requester))
	word(r.RequestID)
	word(r.operation())
	word(plain(r.Key))
	if r.Part {
		word("-")
	} else {
		quoted(r.Method + " " + withoutSecrets(r.URI) + " " + r.Proto)
	}
	number(int64(r.Status), false)
	word(r.Code)
	number(r.Sent, r.Sent == 0 || r.Part)
	number(r.Size, r.Size < 0)
	number(r.Total.Milliseconds(), r.Part)
	number(r.First.Milliseconds(), r.First == 0 || r.Part)
	quoted(r.Referer)
	quoted(r.Agent)
	word(plain(r.VersionID))
	word(r.RequestID) // the host id, which says no more here
	word(r.Signed)
	cipher, version := "", ""
	if r.TLS != 0 {
		cipher, version = cipherName(r.Cipher), strings.Replace(tls.VersionName(r.TLS), "TLS ", "TLSv", 1)
	}
	word(cipher)
	word(r.AuthType)
	word(plain(r.Host))
	word(version)
	word("") // access points are not offered
	acl := ""
	if r.ByACL {
		acl = "Yes"
	}
	word(acl)
	word(r.Region)
	b[len(b)-1] = '\n'
	return b
}

const upperHex = "0123456789ABCDEF"

// inWord are the bytes that stand for themselves in a field without quotes: what a key keeps in a URL.
func inWord(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || strings.IndexByte("-_.~/!*'():@,;=&+$", c) >= 0
}

// inQuotes are those within quotes.
func inQuotes(c byte) bool { return c >= ' ' && c != '"' && c != 0x7f }

// escape appends s, with bytes that keep does not keep as %XX.
func escape(b []byte, s string, keep func(byte) bool) []byte {
	for i := range len(s) {
		if c := s[i]; keep(c) {
			b = append(b, c)
		} else {
			b = append(b, '%', upperHex[c>>4], upperHex[c&15])
		}
	}
	return b
}

// withoutSecrets takes the values out of a query that would let a reader of the log send the request again.
func withoutSecrets(uri string) string {
	path, query, ok := strings.Cut(uri, "?")
	if !ok {
		return uri
	}
	params := strings.Split(query, "&")
	for i, p := range params {
		name, _, _ := strings.Cut(p, "=")
		switch strings.ToLower(unescaped(name)) {
		case "x-amz-signature", "x-amz-security-token", "signature":
			params[i] = name + "=-"
		}
	}
	return path + "?" + strings.Join(params, "&")
}

// unescaped resolves %XX in the name of a parameter.
func unescaped(s string) string {
	if !strings.Contains(s, "%") {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '%' && i+2 < len(s) {
			if n, err := strconv.ParseUint(s[i+1:i+3], 16, 8); err == nil {
				b.WriteByte(byte(n))
				i += 2
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// cipherName returns the name of a cipher suite as OpenSSL, and AWS, has it.
func cipherName(id uint16) string {
	s := tls.CipherSuiteName(id)
	if !strings.Contains(s, "_WITH_") {
		return s // of TLS 1.3: the names are the same
	}
	s = strings.NewReplacer("TLS_", "", "_WITH", "", "AES_", "AES", "_CBC_", "_", "POLY1305_SHA256", "POLY1305").Replace(s)
	return strings.ReplaceAll(s, "_", "-")
}

// resources are the operations whose resource in the log is not plain from their names.
var resources = map[string]string{
	"ListBuckets": "SERVICE", "ListObjects": "BUCKET", "ListObjectsV2": "BUCKET", "ListObjectVersions": "BUCKETVERSIONS",
	"CreateBucket": "BUCKET", "HeadBucket": "BUCKET", "DeleteBucket": "BUCKET", "GetBucketLocation": "LOCATION",
	"GetObject": "OBJECT", "HeadObject": "OBJECT", "PutObject": "OBJECT", "DeleteObject": "OBJECT", "PostObject": "OBJECT",
	"DeleteObjects": "MULTI_OBJECT_DELETE", "CreateMultipartUpload": "UPLOADS", "ListMultipartUploads": "UPLOADS",
	"UploadPart": "PART", "ListParts": "UPLOAD", "CompleteMultipartUpload": "UPLOAD", "AbortMultipartUpload": "UPLOAD",
	"Preflight": "PREFLIGHT", "RestoreObject": "RESTORE",
	"BucketPolicy": "BUCKETPOLICY", "BucketPolicyStatus": "BUCKETPOLICYSTATUS", "BucketAcl": "ACL", "ObjectAcl": "ACL",
	"BucketLogging": "LOGGING_STATUS", "BucketTagging": "TAGGING", "ObjectTagging": "OBJECT_TAGGING",
	"BucketVersioning": "VERSIONING", "BucketCors": "CORS", "BucketLifecycle": "LIFECYCLE",
	"BucketLifecycleConfiguration": "LIFECYCLE", "BucketNotificationConfiguration": "NOTIFICATION",
	"BucketEncryption": "ENCRYPTION", "BucketWebsite": "WEBSITE", "BucketReplication": "REPLICATION",
	"BucketOwnershipControls": "OWNERSHIP_CONTROLS", "BucketRequestPayment": "REQUEST_PAYMENT",
	"BucketAccelerateConfiguration": "ACCELERATE", "BucketInventoryConfiguration": "INVENTORY",
	"BucketAnalyticsConfiguration": "ANALYTICS", "BucketMetricsConfiguration": "METRICS",
	"BucketIntelligentTieringConfiguration": "INTELLIGENT_TIERING",
	"PublicAccessBlock":                     "PUBLIC_ACCESS_BLOCK", "ObjectLockConfiguration": "OBJECT_LOCK_CONFIGURATION",
	"ObjectRetention": "OBJECT_LOCK_RETENTION", "ObjectLegalHold": "OBJECT_LOCK_LEGALHOLD",
	"ObjectAttributes": "OBJECT_ATTRIBUTES",
}

// operation returns REST.METHOD.RESOURCE.
func (r *Record) operation() string {
	switch {
	case r.Part && r.Op == "DeleteObjects":
		return "BATCH.DELETE.OBJECT"
	case r.Part:
		return "REST.COPY.OBJECT_GET"
	case r.Op == "CopyObject":
		return "REST.COPY.OBJECT"
	case r.Op == "UploadPartCopy":
		return "REST.COPY.PART"
	}
	what := resources[r.Op]
	for _, verb := range [...]string{"Get", "Put", "Delete"} {
		if name, ok := strings.CutPrefix(r.Op, verb); ok && what == "" {
			what = resources[name]
		}
	}
	if what == "" {
		what = strings.ToUpper(r.Op)
	}
	return "REST." + string(escape(nil, r.Method, inWord)) + "." + what
}
