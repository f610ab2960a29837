package object

import (
	"time"

	"firn"
	"firn/object/envelope"
	"firn/object/record"
	"firn/object/space"
	"firn/seal"
)

// Errors of the namespace. Their kinds are what most callers act on; the door to S3 maps each to its code.
var (
	ErrNoSuchBucket      = firn.NewError(firn.NotFound, "bucket does not exist")
	ErrNoSuchKey         = firn.NewError(firn.NotFound, "object does not exist")
	ErrNoSuchVersion     = firn.NewError(firn.NotFound, "version does not exist")
	ErrNoSuchUpload      = firn.NewError(firn.NotFound, "multipart upload does not exist")
	ErrNoSuchPart        = firn.NewError(firn.NotFound, "part does not exist")
	ErrBucketExists      = firn.NewError(firn.Exists, "bucket already exists")
	ErrBucketNotEmpty    = firn.NewError(firn.Conflict, "bucket is not empty")
	ErrInvalidBucketName = firn.NewError(firn.Invalid, "invalid bucket name")
	ErrInvalidKey        = firn.NewError(firn.Invalid, "invalid object key")
	ErrKeyTooLong        = firn.NewError(firn.Invalid, "object key is longer than 1024 bytes")
	ErrInvalidPart       = firn.NewError(firn.Invalid, "a listed part was not uploaded or its ETag differs")
	ErrInvalidPartOrder  = firn.NewError(firn.Invalid, "parts are not in ascending order")
	ErrPartTooSmall      = firn.NewError(firn.Invalid, "a part other than the last is smaller than 5 MiB")
	ErrTooLarge          = firn.NewError(firn.Invalid, "object is larger than allowed")
	ErrInvalidRange      = firn.NewError(firn.Invalid, "range not satisfiable")
	ErrBadDigest         = firn.NewError(firn.Invalid, "content does not match the MD5 sent with it")
	ErrBadChecksum       = firn.NewError(firn.Invalid, "content does not match the checksum sent with it")
	ErrIncompleteBody    = firn.NewError(firn.Invalid, "body is shorter or longer than stated")
	ErrPrecondition      = firn.NewError(firn.Precondition, "a precondition does not hold")
	ErrLocked            = firn.NewError(firn.Locked, "version is protected by retention or a legal hold")
	ErrDeleteMarker      = firn.NewError(firn.NotFound, "version is a delete marker")
	ErrNoSpace           = space.ErrFull
	ErrCorrupt           = firn.NewError(firn.Corrupt, "stored bytes do not match their checksum")
	ErrLockConfig        = firn.NewError(firn.Conflict, "object lock does not allow this change")
)

// Limits of the namespace, as S3 states them.
const (
	MaxKey       = 1024               // bytes of an object key
	MaxPut       = 5 << 30            // bytes of one PUT or part
	MaxObject    = 5 << 40            // bytes of an object
	MaxPart      = record.MaxPart     // highest part number
	MinPart      = 5 << 20            // bytes of a part that is not the last
	MaxList      = 1000               // keys in one listing page
	MaxUserMeta  = 2 << 10            // bytes of user metadata, names and values together
	MaxTags      = 10                 // tags of an object
	InlineMax    = 64 << 10           // bytes up to which content lives in the kv engine
	UploadMaxAge = 7 * 24 * time.Hour // age at which an abandoned multipart upload is removed by default
)

// StandardClass is the storage class of versions that name none.
const StandardClass = "STANDARD"

// BucketOptions are the settings of a new bucket.
type BucketOptions struct {
	Owner      string
	ObjectLock bool // also enables versioning
	Config     map[string][]byte
}

// Precondition decides inside the transaction whether a write may go on. current is nil where the key has
// no current version or a delete marker as such. It returns nil or an error, usually ErrPrecondition.
// It must not keep current, do I/O or block.
type Precondition func(current *record.Version) error

// PutOptions describe a new version.
type PutOptions struct {
	Size         int64 // bytes that follow, -1 when not known
	Owner        string
	StorageClass string
	Headers      []record.Field
	Metadata     []record.Field
	Tags         []record.Field
	ACL          []byte
	Retention    record.Retention // zero: the bucket's default applies
	LegalHold    bool
	Encryption   *envelope.Encryption // nil: the content is not encrypted. For a part that of the upload counts
	DataKey      *seal.Key            // what Encryption.Wrapped is; also for a part, and not for a new upload
	ContentMD5   []byte               // 16 bytes or nil
	Checksum     *ChecksumRequest
	Precondition Precondition
}

// ChecksumRequest asks for an additional checksum to be computed, checked and kept.
type ChecksumRequest struct {
	Algorithm record.ChecksumAlgorithm
	Type      record.ChecksumType // for multipart uploads
	// Expected returns the raw sum sent by the client, nil where none was. It is called once, after the body
	// was read to its end, because trailers come last.
	Expected func() ([]byte, error)
}

// DeleteOptions modify a delete.
type DeleteOptions struct {
	BypassGovernance bool
	Precondition     Precondition
}

// DeleteItem is one object of a batch delete.
type DeleteItem struct {
	Key       string
	VersionID string // "" deletes the current version or lays a delete marker
	DeleteOptions
}

// DeleteResult is what a delete did.
type DeleteResult struct {
	VersionID    string // the version removed, or the delete marker made; "" where the bucket is unversioned
	DeleteMarker bool   // a delete marker was made or removed
	Err          error  // in a batch: why this item failed
}

// UploadInfo describes a multipart upload in progress.
type UploadInfo struct {
	ID        string
	Bucket    string
	Key       string
	Initiated time.Time
	Options   PutOptions // Headers, Metadata, Tags, ACL, Owner, StorageClass, lock; Checksum without Expected
}

// UploadListOptions select a page of uploads, ordered by key, then id.
type UploadListOptions struct {
	Prefix, Delimiter, KeyMarker, UploadIDMarker string
	Limit                                        int
}

// UploadListing is one page of uploads.
type UploadListing struct {
	Uploads        []UploadInfo
	CommonPrefixes []string
	Truncated      bool
	NextKey        string
	NextUploadID   string
}

// CompletePart is one line of a CompleteMultipartUpload request.
type CompletePart struct {
	Number   int
	ETag     string // without quotes
	Checksum []byte // raw; nil where the client sent none
}

// CompleteOptions modify a completion.
type CompleteOptions struct {
	Precondition Precondition
	Checksum     []byte // raw sum of the whole object as the client sent it; nil where it sent none
	Size         int64  // x-amz-mp-object-size, -1 when not sent
}

// CopySource names what a copy reads. The Reader of OpenVersion keeps it readable.
type CopySource struct {
	Bucket, Key, VersionID string
	DataKey                *seal.Key // of an encrypted source
	// Precondition is checked against the source version (x-amz-copy-source-if-*).
	Precondition Precondition
}
