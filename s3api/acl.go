package s3api

import (
	"errors"
	"net/http"
	"strings"

	"firn/auth"
	"firn/object"
	"firn/s3api/s3err"
)

const (
	maxACLDoc       = 64 << 10
	grantCanonical  = "CanonicalUser"
	grantGroup      = "Group"
	grantEmail      = "AmazonCustomerByEmail"
	cannedOwnerFull = "bucket-owner-full-control"
	headerACL       = "X-Amz-Acl"
	headerOwnership = "X-Amz-Object-Ownership"
)

// aclDoc is the answer to GetBucketAcl and GetObjectAcl. name gives the display name of a canonical id.
func aclDoc(a *auth.ACL, owner string, name func(string) string) *xmlNode {
	if a == nil {
		a = auth.PrivateACL(owner)
	}
	person := func(n *xmlNode, id string) *xmlNode {
		n.add("ID", id)
		if s := name(id); s != "" {
			n.add("DisplayName", s)
		}
		return n
	}
	list := &xmlNode{name: "AccessControlList"}
	for _, g := range a.Grants {
		grantee := &xmlNode{name: "Grantee", typ: grantCanonical}
		if g.Group != auth.NoGroup {
			grantee.typ = grantGroup
			grantee.add("URI", g.Group.URI())
		} else {
			person(grantee, g.ID)
		}
		grant := &xmlNode{name: "Grant", kids: []*xmlNode{grantee}}
		list.kids = append(list.kids, grant.add("Permission", g.Permission.String()))
	}
	return &xmlNode{name: "AccessControlPolicy", kids: []*xmlNode{person(&xmlNode{name: "Owner"}, owner), list}}
}

// parseACL reads an AccessControlPolicy for something that owner owns. exists reports whether a canonical id is a
// user's.
func parseACL(body []byte, owner string, exists func(string) bool) (*auth.ACL, error) {
	a, err := readACL(body, owner)
	if errors.Is(err, errXML) {
		return nil, s3err.New("MalformedACLError")
	}
	if err != nil {
		return nil, err
	}
	return a, aclError(a.Check(exists))
}

func readACL(body []byte, owner string) (*auth.ACL, error) {
	doc, err := parseDoc(body, "AccessControlPolicy")
	if err != nil {
		return nil, err
	}
	if err := doc.only("Owner", "AccessControlList"); err != nil {
		return nil, err
	}
	o, err := doc.need("Owner")
	if err != nil {
		return nil, err
	}
	if err := o.only("ID", "DisplayName"); err != nil {
		return nil, err
	}
	if id, there, err := o.str("ID"); err != nil || !there {
		return nil, errXML
	} else if id != owner {
		// An ACL cannot give its object away.
		return nil, s3err.New("AccessDenied")
	}
	list, err := doc.need("AccessControlList")
	if err != nil {
		return nil, err
	}
	if err := list.only("Grant"); err != nil {
		return nil, err
	}
	a := &auth.ACL{Owner: owner}
	for _, n := range list.kids {
		g, err := readGrant(n)
		if err != nil {
			return nil, err
		}
		a.Grants = append(a.Grants, g)
		if len(a.Grants) > auth.MaxACLGrants {
			return nil, errXML
		}
	}
	return a, nil
}

func readGrant(n *xmlNode) (auth.ACLGrant, error) {
	var g auth.ACLGrant
	if err := n.only("Grantee", "Permission"); err != nil {
		return g, err
	}
	p, there, err := n.str("Permission")
	if err != nil || !there {
		return g, errXML
	}
	if g.Permission, err = auth.ParsePermission(strings.TrimSpace(p)); err != nil {
		return g, errXML
	}
	who, err := n.need("Grantee")
	if err != nil {
		return g, err
	}
	if err := who.only("ID", "DisplayName", "URI", "EmailAddress"); err != nil {
		return g, err
	}
	child := map[string]string{grantCanonical: "ID", grantGroup: "URI", grantEmail: "EmailAddress"}[who.typ]
	if child == "" {
		return g, errXML
	}
	value, there, err := who.str(child)
	if err != nil || !there {
		return g, errXML
	}
	switch who.typ {
	case grantCanonical:
		g.ID = value
		if value == "" {
			return g, aclError(auth.ErrUnknownGrantee)
		}
		return g, nil
	case grantGroup:
		if g.Group, err = auth.ParseGroup(value); err != nil {
			return g, s3err.InvalidArgument("Group/URI", value, "Invalid group uri")
		}
		return g, nil
	}
	return g, aclError(auth.ErrEmailGrantee)
}

// aclError gives the errors of ACLs their S3 codes.
func aclError(err error) error {
	switch {
	case errors.Is(err, auth.ErrUnknownGrantee):
		return s3err.InvalidArgument("CanonicalUser/ID", "", "Invalid id")
	case errors.Is(err, auth.ErrEmailGrantee):
		return s3err.New("UnresolvableGrantByEmailAddress")
	case errors.Is(err, auth.ErrACLTwice):
		return s3err.InvalidRequest("Specifying both Canned ACLs and Header Grants is not allowed")
	case errors.Is(err, auth.ErrTooManyGrants):
		return s3err.New("MalformedACLError")
	case errors.Is(err, auth.ErrInvalidACL):
		return s3err.InvalidArgument("x-amz-acl", "", "")
	}
	return err
}

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
		return nil, aclError(err)
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
	return parseACL(body, owner, s.users.Exists)
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
func allowACL(b *object.Bucket, a *auth.ACL) error {
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
	return rq.writeDoc(aclDoc(a, rq.bkt.Owner, s.displayName))
}

func putBucketACL(s *Server, rq *request) error {
	a, err := s.sentACL(rq, rq.bkt.Owner, "")
	if err != nil {
		return err
	}
	_, err = s.store.UpdateBucket(rq.ctx, rq.bucket, func(b *object.Bucket) error {
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
