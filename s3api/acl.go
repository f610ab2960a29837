package s3api

import (
	"net/http"
	"strings"

	"firn/auth"
	"firn/object/record"
	"firn/s3api/s3doc"
	"firn/s3api/s3err"
)

const (
	maxACLDoc       = 64 << 10
	cannedOwnerFull = "bucket-owner-full-control"
	headerACL       = "X-Amz-Acl"
	headerOwnership = "X-Amz-Object-Ownership"
)

// aclHeaders reports whether a request asks for an ACL in its headers.
func aclHeaders(h http.Header) bool {
	for _, k := range [...]string{
		headerACL, "X-Amz-Grant-Read", "X-Amz-Grant-Write", "X-Amz-Grant-Read-Acp", "X-Amz-Grant-Write-Acp",
		"X-Amz-Grant-Full-Control",
	} {
		if len(h[k]) > 0 {
			return true
		}
	}
	return false
}

// headerList is the ACL a request's headers ask for, nil where they do not. bucketOwner is "" for a bucket's own ACL.
func (s *Server) headerList(rq *request, owner, bucketOwner string) (*auth.ACL, error) {
	if !aclHeaders(rq.r.Header) {
		return nil, nil
	}
	get := func(name string) string { return strings.Join(rq.r.Header.Values(name), ",") }
	a, err := auth.ACLFromHeaders(get, s.users.Exists, owner, bucketOwner)
	if err != nil {
		return nil, s3doc.ACLError(err)
	}
	if a == nil { // headers that are there and empty
		return nil, s3err.InvalidArgument("x-amz-acl", "", "")
	}
	return a, nil
}

// sentACL is the ACL of a PutBucketAcl or PutObjectAcl request, from its headers or its body.
func (s *Server) sentACL(rq *request, owner, bucketOwner string) (*auth.ACL, error) {
	body, err := rq.readDocument(maxACLDoc)
	if err != nil {
		return nil, err
	}
	a, err := s.headerList(rq, owner, bucketOwner)
	switch {
	case err != nil:
		return nil, err
	case a != nil && len(body) > 0:
		return nil, s3err.New("UnexpectedContent")
	case a != nil:
		return a, nil
	case len(body) == 0:
		return nil, s3err.New("MissingSecurityHeader").With("MissingHeaderName", "x-amz-acl")
	}
	return s3doc.ParseACL(body, owner, s.users.Exists)
}

// writtenACL is the ACL that a request asks for an object it writes, nil where it asks for none, and the canonical id
// of who will own the object. It refuses lists that the bucket's settings forbid.
func (s *Server) writtenACL(rq *request) (*auth.ACL, string, error) {
	d := s.docsOf(rq.bkt)
	if d.err != nil {
		return nil, "", d.err
	}
	owner := func(a *auth.ACL) string { return d.ownership.ObjectOwner(rq.bkt.Owner, rq.who, rq.decision, a) }
	if !aclHeaders(rq.r.Header) {
		return nil, owner(nil), nil
	}
	a, err := s.headerList(rq, owner(nil), rq.bkt.Owner)
	if err != nil {
		return nil, "", err
	}
	if !d.ownership.ACLs() {
		canned := rq.header(headerACL)
		if canned != cannedOwnerFull && (canned != "" || !ownerFull(a, rq.bkt.Owner)) {
			return nil, "", s3err.New("AccessControlListNotSupported")
		}
		return nil, rq.bkt.Owner, nil
	}
	if err := allowACL(rq.bkt, a); err != nil {
		return nil, "", err
	}
	id := owner(a)
	if id != a.Owner {
		// The object becomes the bucket owner's, who has full control and owes nobody a grant.
		a = auth.PrivateACL(id)
	}
	return a, id, s.authorizeGrants(rq, a)
}

// ownerFull reports whether a gives full control to the owner and nothing to anybody else.
func ownerFull(a *auth.ACL, owner string) bool {
	for _, g := range a.Grants {
		if g.ID != owner || g.Permission != auth.PermFullControl {
			return false
		}
	}
	return len(a.Grants) > 0
}

// authorizeGrants asks for s3:PutObjectAcl where a write would give access to others than its owner and the bucket's,
// and was itself allowed by a policy or by a grant of this site. Who writes by the bucket's ACL decides about the ACL
// of the object, as its owner.
func (s *Server) authorizeGrants(rq *request, a *auth.ACL) error {
	if rq.decision.By != auth.ByPolicy && rq.decision.By != auth.ByGrant {
		return nil
	}
	for _, g := range a.Grants {
		if g.ID == "" || g.ID != a.Owner && g.ID != rq.bkt.Owner {
			return s.authorize(rq, "s3:PutObjectAcl")
		}
	}
	return nil
}

// allowACL refuses an ACL that the bucket's settings do not allow to be set.
func allowACL(b *record.Bucket, a *auth.ACL) error {
	d, err := parseSettings(b)
	switch {
	case err != nil:
		return err
	case !d.ownership.ACLs():
		return s3err.New("AccessControlListNotSupported")
	case d.publicAccess.BlockPublicAcls && a.Public():
		return s3err.New("AccessDenied").Saying("User is not authorized to set a public ACL because public ACLs are " +
			"prevented by the BlockPublicAcls setting in S3 Block Public Access.")
	}
	return nil
}

func getBucketACL(s *Server, rq *request) error {
	d := s.docsOf(rq.bkt)
	if d.err != nil {
		return d.err
	}
	a := d.acl
	if !d.ownership.ACLs() {
		a = nil
	}
	return rq.writeDoc(s3doc.ACLDoc(a, rq.bkt.Owner, s.displayName))
}

func putBucketACL(s *Server, rq *request) error {
	a, err := s.sentACL(rq, rq.bkt.Owner, "")
	if err != nil {
		return err
	}
	_, err = s.store.UpdateBucket(rq.ctx, rq.bucket, func(b *record.Bucket) error {
		if err := allowACL(b, a); err != nil {
			return err
		}
		putConfig(b, confACL, encodeACL(a))
		return nil
	})
	if err != nil {
		return err
	}
	return rq.noContent(http.StatusOK)
}

// encodeACL is the stored form of an ACL: nil for one that says no more than the owner's full control.
func encodeACL(a *auth.ACL) []byte {
	if a.Private() {
		return nil
	}
	return a.Encode()
}
