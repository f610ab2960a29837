// Package record is the stored form of the namespace: the types that describe buckets, versions, parts and journal
// entries, their encoding, and the keys they are kept under. docs/format/namespace.md is its description.
//
// It promises that what it encodes it decodes to the same, that a decoder refuses broken bytes with ErrBroken and
// skips fields it does not know, and that all of it is pure. It must never do I/O or know a transaction.
package record

import (
	"encoding/hex"
	"time"

	"firn/object/envelope"
)

// Versioning is a bucket's versioning state.
type Versioning uint8

// The versioning states. Their numbers are stored.
const (
	VersioningOff Versioning = iota
	VersioningEnabled
	VersioningSuspended
)

// RetentionMode is the mode of an object lock retention.
type RetentionMode uint8

// The retention modes. Their numbers are stored.
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

// Quota bounds what a bucket holds; 0 is no bound. Nothing is removed when a quota is set below what is there: writes
// that add are refused until enough was removed.
type Quota struct {
	Bytes    int64 // of all versions
	Versions int64 // delete markers included, whose making is never refused
}

// TooLarge reports whether content of a size that a client announced cannot fit, whatever it replaces.
func (q Quota) TooLarge(size int64) bool { return q.Bytes > 0 && size > q.Bytes }

// ChecksumAlgorithm is one of S3's additional checksums.
type ChecksumAlgorithm uint8

// The checksums. Their numbers are stored.
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

// What checksums cover. The numbers are stored.
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

// String returns the blob's id in hex, which is also its file name.
func (id BlobID) String() string { return hex.EncodeToString(id[:]) }

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
	StorageClass string    // "" is STANDARD; where the bytes are, Location says

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

	Location *Location // nil where the bytes are local and nowhere else
	// KeepUntil is until when a local copy is to stay that was asked for before the version went to the tier of its
	// storage class; zero: none was.
	KeepUntil time.Time

	// Identity across sites.
	Site   uint32            // site that wrote it
	Clock  uint64            // hybrid logical clock of the write
	Vector map[uint32]uint64 // version vector: writes seen, by site
}

// Field is one name and value.
type Field struct{ Name, Value string }

// Usage counts a bucket.
type Usage struct {
	Objects  int64 // current versions that are not delete markers
	Versions int64 // all versions, delete markers included
	Bytes    int64 // of all versions
}

// Plus returns u + n·d.
func (u Usage) Plus(d Usage, n int64) Usage {
	return Usage{Objects: u.Objects + n*d.Objects, Versions: u.Versions + n*d.Versions, Bytes: u.Bytes + n*d.Bytes}
}

// Added is what of u is more.
func (u Usage) Added() Usage {
	return Usage{Objects: max(0, u.Objects), Versions: max(0, u.Versions), Bytes: max(0, u.Bytes)}
}

// Local reports whether the bytes are local, on a tier as well or not.
func (v *Version) Local() bool { return v.Location == nil || !v.Location.LocalUntil.IsZero() }

// Record is a version as stored: what clients see and where its bytes are.
type Record struct {
	Version
	MD5       [16]byte
	ETagParts int    // of the ETag's "-N"; 0 for a plain MD5
	Null      bool   // its id is NullID
	Data      uint64 // id of the inline content, or of the part list of a multipart version
	Blob      BlobID // of a version that is one blob; zero for inline and multipart content
	Shared    bool   // as in Part, of Blob
	Sealed    []byte // as in Part
}

// Order returns the version's place among the versions of its key.
func (r *Record) Order() Order { return MakeOrder(r.Clock, r.Site) }

// Finish fills in what of a new version's metadata follows from the rest.
func (r *Record) Finish() *Version {
	if r.ID = NullID; !r.Null {
		r.ID = r.Order().String()
	}
	if r.DeleteMarker {
		return &r.Version
	}
	r.ETag = string(AppendETag(nil, r.MD5, r.ETagParts))
	if !r.Multipart {
		r.Parts = []Part{r.OnlyPart()}
	}
	return &r.Version
}

// OnlyPart describes the content of a version that is not multipart.
func (r *Record) OnlyPart() Part {
	return Part{
		Number: 1, Size: r.Size, MD5: r.MD5, Checksum: r.Checksum.Value, Modified: r.Modified,
		Blob: r.Blob, Shared: r.Shared, Sealed: r.Sealed,
	}
}
