package object

import (
	"time"

	"firn"
	"firn/object/envelope"
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
	ErrNoSpace           = firn.NewError(firn.NoSpace, "the disk is nearly full: writes are refused until space is freed")
	ErrCorrupt           = firn.NewError(firn.Corrupt, "stored bytes do not match their checksum")
	ErrLockConfig        = firn.NewError(firn.Conflict, "object lock does not allow this change")
)

// Limits of the namespace, as S3 states them.
const (
	MaxKey       = 1024               // bytes of an object key
	MaxPut       = 5 << 30            // bytes of one PUT or part
	MaxObject    = 5 << 40            // bytes of an object
	MaxPart      = 10000              // highest part number
	MinPart      = 5 << 20            // bytes of a part that is not the last
	MaxList      = 1000               // keys in one listing page
	MaxUserMeta  = 2 << 10            // bytes of user metadata, names and values together
	MaxTags      = 10                 // tags of an object
	InlineMax    = 64 << 10           // bytes up to which content lives in the kv engine
	UploadMaxAge = 7 * 24 * time.Hour // age at which an abandoned multipart upload is removed by default
)

// Versioning is a bucket's versioning state.
type Versioning uint8

const (
	VersioningOff Versioning = iota
	VersioningEnabled
	VersioningSuspended
)

// RetentionMode is the mode of an object lock retention.
type RetentionMode uint8

const (
	RetentionNone RetentionMode = iota
	RetentionGovernance
	RetentionCompliance
)

// Retention protects a version until a time.
type Retention struct {
	Mode  RetentionMode
	Until time.Time
}

// DefaultRetention is a bucket's retention for new versions. Exactly one of Days and Years is set where Mode is.
type DefaultRetention struct {
	Mode  RetentionMode
	Days  int
	Years int
}

// Bucket is one bucket's record. A *Bucket handed out by the Store is a snapshot and must not be changed.
type Bucket struct {
	ID         uint64 // never reused
	Name       string
	Created    time.Time
	Owner      string // canonical id of the account that owns it
	Versioning Versioning
	ObjectLock bool
	Retention  DefaultRetention
	Quota      Quota
	// Config holds the sub-resource documents as the doors store them, by name: "policy", "cors",
	// "lifecycle", "notification", "encryption", "tagging", "publicAccessBlock", "ownershipControls",
	// "acl", ... The namespace does not read them.
	Config map[string][]byte
	// Revision grows with every change of the record, so that parsed documents can be cached by it.
	Revision uint64
}

// BucketOptions are the settings of a new bucket.
type BucketOptions struct {
	Owner      string
	ObjectLock bool // also enables versioning
	Config     map[string][]byte
}

// ChecksumAlgorithm is one of S3's additional checksums.
type ChecksumAlgorithm uint8

const (
	ChecksumNone ChecksumAlgorithm = iota
	ChecksumCRC32
	ChecksumCRC32C
	ChecksumCRC64NVME
	ChecksumSHA1
	ChecksumSHA256
)

// ChecksumType says what a checksum of a multipart object covers.
type ChecksumType uint8

const (
	ChecksumFullObject ChecksumType = iota // of all bytes
	ChecksumComposite                      // of the parts' checksums
)

// Checksum is an additional checksum that a client asked to keep.
type Checksum struct {
	Algorithm ChecksumAlgorithm
	Type      ChecksumType
	Value     []byte // raw, as long as the algorithm's sum
	Parts     int    // for a composite sum the number of parts, shown as the "-N" suffix
}

// Part is one part of an object's content, in order.
type Part struct {
	Number   int   // part number of the upload; 1 for a single PUT
	Size     int64 // bytes of content
	MD5      [16]byte
	Checksum []byte // raw, of the version's checksum algorithm; may be empty
	Modified time.Time
	Blob     BlobID // file that holds the bytes; zero where they are inline
	Sealed   []byte // the key of encrypted bytes, sealed; nil where they are not
	Shared   bool   // the blob may be used by other versions too (a reference count exists)
}

// BlobID names one immutable run of stored bytes on local storage.
type BlobID [16]byte

// Version is the metadata of one version of an object, or of a delete marker. One handed out by the Store
// must not be changed.
type Version struct {
	Bucket string
	Key    string
	// ID is the version id as clients see it, "null" for a version written while versioning was off or suspended.
	ID           string
	Latest       bool
	DeleteMarker bool
	Size         int64
	Modified     time.Time // wall part of the clock, ms
	ETag         string    // without quotes: hex MD5, or hex MD5 of MD5s "-N" for a multipart object
	BLAKE3       [32]byte  // of the content where it came as one stream; zero for a multipart object
	Owner        string    // canonical id
	StorageClass string    // "" is STANDARD

	// Headers are the stored response headers by canonical name: Content-Type, Cache-Control, Content-Disposition,
	// Content-Encoding, Content-Language, Expires, Website-Redirect-Location (for x-amz-website-redirect-location).
	Headers  []Field
	Metadata []Field // user metadata, names in lower case without "x-amz-meta-"
	Tags     []Field
	ACL      []byte // a door's document; nil is private
	Checksum Checksum

	Retention Retention
	LegalHold bool

	Encryption *envelope.Encryption // nil where the content is not encrypted

	Parts     []Part
	Multipart bool // came from a multipart upload

	// Identity across sites.
	Site   uint32            // site that wrote it
	Clock  uint64            // hybrid logical clock of the write
	Vector map[uint32]uint64 // version vector: writes seen, by site
}

// Field is one name and value.
type Field struct{ Name, Value string }

// Precondition decides inside the transaction whether a write may go on. current is nil where the key has
// no current version or a delete marker as such. It returns nil or an error, usually ErrPrecondition.
// It must not keep current, do I/O or block.
type Precondition func(current *Version) error

// PutOptions describe a new version.
type PutOptions struct {
	Size         int64 // bytes that follow, -1 when not known
	Owner        string
	StorageClass string
	Headers      []Field
	Metadata     []Field
	Tags         []Field
	ACL          []byte
	Retention    Retention // zero: the bucket's default applies
	LegalHold    bool
	Encryption   *envelope.Encryption // nil: the content is not encrypted. For a part that of the upload counts
	DataKey      *seal.Key            // what Encryption.Wrapped is; also for a part, and not for a new upload
	ContentMD5   []byte               // 16 bytes or nil
	Checksum     *ChecksumRequest
	Precondition Precondition
}

// ChecksumRequest asks for an additional checksum to be computed, checked and kept.
type ChecksumRequest struct {
	Algorithm ChecksumAlgorithm
	Type      ChecksumType // for multipart uploads
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

// ListOptions select a page of a listing.
type ListOptions struct {
	Prefix    string
	Delimiter string
	After     string // keys and common prefixes > After
	// VersionAfter goes on inside After's versions (ListVersions only): versions of After older than this one.
	VersionAfter string
	Limit        int // 0..MaxList
}

// Listing is one page.
type Listing struct {
	Versions       []Version // Listings of current objects carry no Vector, Parts or Metadata
	CommonPrefixes []string
	Truncated      bool
	// NextKey and NextVersion go into After and VersionAfter of the next page.
	NextKey     string
	NextVersion string
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

// Usage counts a bucket.
type Usage struct {
	Objects  int64 // current versions that are not delete markers
	Versions int64 // all versions, delete markers included
	Bytes    int64 // of all versions
}
