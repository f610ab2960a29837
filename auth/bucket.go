package auth

import "firn"

// Ownership is a bucket's object ownership setting.
//
// A bucket without the setting ("") behaves as ObjectWriter, as AWS buckets did before April 2023 and as
// every S3-compatible server does: ACLs work, though all are private until somebody changes one. AWS's newer
// default, BucketOwnerEnforced, refuses ACLs that the Ceph suite and many tools set; a bucket gets it by
// asking (x-amz-object-ownership, PutBucketOwnershipControls). Likewise a bucket without a public access
// block blocks nothing.
type Ownership string

const (
	// BucketOwnerEnforced: ACLs are off and every object is the bucket owner's.
	BucketOwnerEnforced Ownership = "BucketOwnerEnforced"
	// BucketOwnerPreferred: an object written with bucket-owner-full-control is the bucket owner's.
	BucketOwnerPreferred Ownership = "BucketOwnerPreferred"
	// ObjectWriter: an object is its writer's.
	ObjectWriter Ownership = "ObjectWriter"
)

var errOwnership = firn.NewError(firn.Invalid, "object ownership is none of BucketOwnerEnforced, BucketOwnerPreferred, ObjectWriter")

// ParseOwnership parses the setting as documents and headers have it.
func ParseOwnership(s string) (Ownership, error) {
	switch o := Ownership(s); o {
	case BucketOwnerEnforced, BucketOwnerPreferred, ObjectWriter:
		return o, nil
	}
	return "", errOwnership
}

// ACLs reports whether ACLs count in the bucket. Where they do not, a request that sets one other than
// bucket-owner-full-control is refused (AccessControlListNotSupported).
func (o Ownership) ACLs() bool { return o != BucketOwnerEnforced }

// ObjectOwner returns the canonical id that owns an object which id writes, having been allowed to by d.
// acl is what the request asked for, nil where nothing.
//
// Who was let in by root's rights, by a grant or by a policy of this site acts for the bucket's owner, as a user of the
// owner's account does in AWS; so does an anonymous writer, who could not own anything.
func (o Ownership) ObjectOwner(bucketOwner string, id *Identity, d Decision, acl *ACL) string {
	switch {
	case o == BucketOwnerEnforced, id.Anonymous(), d.By == ByRoot, d.By == ByGrant, d.By == ByIdentity:
		return bucketOwner
	case o == BucketOwnerPreferred && acl != nil:
		for _, g := range acl.Grants {
			if g.ID == bucketOwner && g.Permission == PermFullControl {
				return bucketOwner
			}
		}
	}
	return id.Canonical
}

// PublicAccessBlock is a bucket's public access block. The zero value blocks nothing.
type PublicAccessBlock struct {
	BlockPublicAcls       bool // requests that would set a public ACL are refused: see ACL.Public
	IgnorePublicAcls      bool // grants to AllUsers and AuthenticatedUsers count for nothing
	BlockPublicPolicy     bool // requests that would set a public policy are refused: see policy.IsPublic
	RestrictPublicBuckets bool // a public policy lets in nobody but the bucket's owner
}
