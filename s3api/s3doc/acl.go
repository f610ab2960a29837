package s3doc

import (
	"errors"
	"strings"

	"firn/auth"
	"firn/s3api/s3err"
)

const (
	grantCanonical = "CanonicalUser"
	grantGroup     = "Group"
	grantEmail     = "AmazonCustomerByEmail"
)

// ACLDoc is the answer to GetBucketAcl and GetObjectAcl; a nil list is private. name gives the display name of a
// canonical id.
func ACLDoc(a *auth.ACL, owner string, name func(string) string) []byte {
	if a == nil {
		a = auth.PrivateACL(owner)
	}
	person := func(n *node, id string) *node {
		n.add("ID", id)
		if s := name(id); s != "" {
			n.add("DisplayName", s)
		}
		return n
	}
	list := &node{name: "AccessControlList"}
	for _, g := range a.Grants {
		grantee := &node{name: "Grantee", typ: grantCanonical}
		if g.Group != auth.NoGroup {
			grantee.typ = grantGroup
			grantee.add("URI", g.Group.URI())
		} else {
			person(grantee, g.ID)
		}
		grant := &node{name: "Grant", kids: []*node{grantee}}
		list.kids = append(list.kids, grant.add("Permission", g.Permission.String()))
	}
	doc := &node{name: "AccessControlPolicy", kids: []*node{person(&node{name: "Owner"}, owner), list}}
	return doc.render()
}

// ParseACL reads an AccessControlPolicy for something that owner owns. exists reports whether a canonical id is a
// user's.
func ParseACL(body []byte, owner string, exists func(string) bool) (*auth.ACL, error) {
	a, err := readACL(body, owner)
	if errors.Is(err, errXML) {
		return nil, s3err.New("MalformedACLError")
	}
	if err != nil {
		return nil, err
	}
	return a, ACLError(a.Check(exists))
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

func readGrant(n *node) (auth.ACLGrant, error) {
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
			return g, ACLError(auth.ErrUnknownGrantee)
		}
		return g, nil
	case grantGroup:
		if g.Group, err = auth.ParseGroup(value); err != nil {
			return g, s3err.InvalidArgument("Group/URI", value, "Invalid group uri")
		}
		return g, nil
	}
	return g, ACLError(auth.ErrEmailGrantee)
}

// ACLError gives the errors of ACLs their S3 codes.
func ACLError(err error) error {
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
