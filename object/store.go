// Package object is the namespace: buckets, keys, versions, multipart uploads, object lock, and the journal
// entry that every mutation appends in the same transaction.
//
// It promises that a nil error means bytes, metadata and journal entry are on stable storage, that reads are
// right or fail, and that no byte of a version is freed while a version or a reader needs it. It must never
// know a protocol: no HTTP, no XML, no signatures.
package object

import (
	"context"
	"errors"
	"io"
)

var errNotBuilt = errors.New("not built")

// Store is one site's namespace. All methods may be called concurrently.
type Store struct{}

// CreateBucket makes a bucket. ErrBucketExists, ErrInvalidBucketName.
func (s *Store) CreateBucket(ctx context.Context, name string, o BucketOptions) (*Bucket, error) {
	return nil, errNotBuilt
}

// Bucket returns a bucket's record from memory. ErrNoSuchBucket.
func (s *Store) Bucket(ctx context.Context, name string) (*Bucket, error) { return nil, errNotBuilt }

// Buckets returns all buckets by name.
func (s *Store) Buckets(ctx context.Context) ([]*Bucket, error) { return nil, errNotBuilt }

// UpdateBucket changes a bucket's record: fn gets a copy it may change (not ID, Name, Created).
func (s *Store) UpdateBucket(ctx context.Context, name string, fn func(*Bucket) error) (*Bucket, error) {
	return nil, errNotBuilt
}

// DeleteBucket removes an empty bucket. ErrBucketNotEmpty where a version, delete marker or upload is left.
func (s *Store) DeleteBucket(ctx context.Context, name string) error { return errNotBuilt }

// Usage returns a bucket's counters.
func (s *Store) Usage(ctx context.Context, bucket string) (Usage, error) { return Usage{}, errNotBuilt }

// Put stores a new version from body.
func (s *Store) Put(ctx context.Context, bucket, key string, body io.Reader, o PutOptions) (*Version, error) {
	return nil, errNotBuilt
}

// Copy makes a new version of bucket/key with the source's content, sharing its bytes where it can.
// o gives all metadata of the new version (the caller merges what it keeps from the source); o.Size,
// o.ContentMD5 are ignored; o.Checksum.Expected is nil and asks for the algorithm to be kept or computed.
func (s *Store) Copy(ctx context.Context, src CopySource, bucket, key string, o PutOptions) (*Version, error) {
	return nil, errNotBuilt
}

// Head returns the metadata of a version; versionID "" means the current one.
// ErrNoSuchKey, ErrNoSuchVersion; ErrDeleteMarker together with the marker's Version.
func (s *Store) Head(ctx context.Context, bucket, key, versionID string) (*Version, error) {
	return nil, errNotBuilt
}

// Open is Head with the content. The caller closes the Object. The content stays readable, whatever
// happens to the version, until then.
func (s *Store) Open(ctx context.Context, bucket, key, versionID string) (*Object, error) {
	return nil, errNotBuilt
}

// Object is an open version.
type Object struct{ Version *Version }

// WriteTo writes length bytes from offset to w, each block verified before any of its bytes is written.
// A corrupt block ends it with ErrCorrupt. It returns the bytes written.
func (o *Object) WriteRange(ctx context.Context, w io.Writer, offset, length int64) (int64, error) {
	return 0, errNotBuilt
}

// ReadAt reads as io.ReaderAt, verified.
func (o *Object) ReadAt(p []byte, off int64) (int, error) { return 0, errNotBuilt }

// Close releases the content.
func (o *Object) Close() error { return nil }

// UpdateVersion changes what may change of a stored version: Tags, ACL, Retention, LegalHold. The rules of
// object lock (shortening, mode changes) are checked against bypassGovernance. ErrLocked.
func (s *Store) UpdateVersion(ctx context.Context, bucket, key, versionID string, bypassGovernance bool, fn func(*Version) error) (*Version, error) {
	return nil, errNotBuilt
}

// Delete removes a version, or, with versionID "" in a versioned bucket, lays a delete marker. Deleting what
// is not there is no error.
func (s *Store) Delete(ctx context.Context, bucket, key, versionID string, o DeleteOptions) (DeleteResult, error) {
	return DeleteResult{}, errNotBuilt
}

// DeleteMany deletes up to 1000 items in as few commits as it can; results are in the order of items.
func (s *Store) DeleteMany(ctx context.Context, bucket string, items []DeleteItem) ([]DeleteResult, error) {
	return nil, errNotBuilt
}

// List returns a page of current objects (no delete markers).
func (s *Store) List(ctx context.Context, bucket string, o ListOptions) (*Listing, error) {
	return nil, errNotBuilt
}

// ListVersions returns a page of all versions, newest first within a key.
func (s *Store) ListVersions(ctx context.Context, bucket string, o ListOptions) (*Listing, error) {
	return nil, errNotBuilt
}

// CreateUpload starts a multipart upload and returns its id.
func (s *Store) CreateUpload(ctx context.Context, bucket, key string, o PutOptions) (string, error) {
	return "", errNotBuilt
}

// Upload returns an upload's record. ErrNoSuchUpload.
func (s *Store) Upload(ctx context.Context, bucket, key, uploadID string) (*UploadInfo, error) {
	return nil, errNotBuilt
}

// PutPart stores a part; of o only Size, ContentMD5 and Checksum count. A part number sent again replaces the part.
func (s *Store) PutPart(ctx context.Context, bucket, key, uploadID string, number int, body io.Reader, o PutOptions) (*Part, error) {
	return nil, errNotBuilt
}

// CopyPart stores a part from length bytes at offset of a source object (length -1: to its end).
func (s *Store) CopyPart(ctx context.Context, src CopySource, offset, length int64, bucket, key, uploadID string, number int) (*Part, *Version, error) {
	return nil, nil, errNotBuilt
}

// ListParts returns up to limit parts with a number > after, and whether more follow.
func (s *Store) ListParts(ctx context.Context, bucket, key, uploadID string, after, limit int) ([]Part, bool, error) {
	return nil, false, errNotBuilt
}

// ListUploads returns a page of the uploads in progress.
func (s *Store) ListUploads(ctx context.Context, bucket string, o UploadListOptions) (*UploadListing, error) {
	return nil, errNotBuilt
}

// AbortUpload removes an upload and its parts.
func (s *Store) AbortUpload(ctx context.Context, bucket, key, uploadID string) error {
	return errNotBuilt
}

// CompleteUpload makes the version from the listed parts without copying a byte. Sending the same completion
// again after it succeeded returns the version made.
func (s *Store) CompleteUpload(ctx context.Context, bucket, key, uploadID string, parts []CompletePart, o CompleteOptions) (*Version, error) {
	return nil, errNotBuilt
}
