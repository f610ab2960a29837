package auth

import (
	"slices"
	"strings"

	"google.golang.org/protobuf/encoding/protowire"

	"firn"
)

// Errors of ACLs. All are of kind firn.Invalid; the comment names S3's code.
var (
	// ErrInvalidACL: an unknown canned ACL, permission, grantee or group (InvalidArgument).
	ErrInvalidACL = firn.NewError(firn.Invalid, "invalid ACL")
	// ErrUnknownGrantee: a grant to a canonical id that no user has (InvalidArgument, "Invalid id").
	ErrUnknownGrantee = firn.NewError(firn.Invalid, "grant to an id that does not exist")
	// ErrEmailGrantee: a grant by e-mail address (UnresolvableGrantByEmailAddress): users have none.
	ErrEmailGrantee = firn.NewError(firn.Invalid, "the e-mail address of a grant does not match any account")
	// ErrACLTwice: a canned ACL and grants in headers in one request (InvalidRequest).
	ErrACLTwice = firn.NewError(firn.Invalid, "specifying both canned ACLs and header grants is not allowed")
	// ErrTooManyGrants: more than MaxACLGrants (MalformedACLError).
	ErrTooManyGrants = firn.NewError(firn.Invalid, "an ACL has at most 100 grants")
)

// MaxACLGrants is the most grants one ACL may hold.
const MaxACLGrants = 100

// Permission is what an ACL grants: one of the five named ones.
type Permission uint8

// Permissions are bits, so that FullControl includes the others.
const (
	PermRead Permission = 1 << iota
	PermWrite
	PermReadACP
	PermWriteACP
	PermFullControl = PermRead | PermWrite | PermReadACP | PermWriteACP
)

// String returns the permission as S3 writes it, "" for one that is not named.
func (p Permission) String() string {
	switch p {
	case PermRead:
		return "READ"
	case PermWrite:
		return "WRITE"
	case PermReadACP:
		return "READ_ACP"
	case PermWriteACP:
		return "WRITE_ACP"
	case PermFullControl:
		return "FULL_CONTROL"
	}
	return ""
}

// ParsePermission parses a permission as S3 writes it. ErrInvalidACL.
func ParsePermission(s string) (Permission, error) {
	for _, p := range [...]Permission{PermRead, PermWrite, PermReadACP, PermWriteACP, PermFullControl} {
		if s == p.String() {
			return p, nil
		}
	}
	return 0, ErrInvalidACL
}

// Group is a predefined group of callers.
type Group uint8

const (
	// NoGroup: the grantee is a user.
	NoGroup Group = iota
	// AllUsers is everybody, signed or not.
	AllUsers
	// AuthenticatedUsers is everybody with credentials.
	AuthenticatedUsers
	// LogDelivery is the writer of access logs. It is kept and shown; nobody is in it.
	LogDelivery
)

// URI returns the group's name in ACL documents, "" for NoGroup.
func (g Group) URI() string {
	switch g {
	case AllUsers:
		return "http://acs.amazonaws.com/groups/global/AllUsers"
	case AuthenticatedUsers:
		return "http://acs.amazonaws.com/groups/global/AuthenticatedUsers"
	case LogDelivery:
		return "http://acs.amazonaws.com/groups/s3/LogDelivery"
	}
	return ""
}

// ParseGroup parses a group's URI. ErrInvalidACL.
func ParseGroup(uri string) (Group, error) {
	for _, g := range [...]Group{AllUsers, AuthenticatedUsers, LogDelivery} {
		if uri == g.URI() {
			return g, nil
		}
	}
	return NoGroup, ErrInvalidACL
}

// ACLGrant gives a permission to a user, by canonical id, or to a group.
type ACLGrant struct {
	ID         string // canonical id; "" where Group is set
	Group      Group
	Permission Permission
}

// ACL is an access control list. A nil *ACL is private: the owner has full control.
type ACL struct {
	Owner  string // canonical id
	Grants []ACLGrant
}

// PrivateACL returns the list that gives full control to owner alone.
func PrivateACL(owner string) *ACL {
	return &ACL{Owner: owner, Grants: []ACLGrant{{ID: owner, Permission: PermFullControl}}}
}

// Private reports whether the list says no more than nil does, so that it need not be stored.
func (a *ACL) Private() bool {
	return a == nil || len(a.Grants) == 1 && a.Grants[0] == ACLGrant{ID: a.Owner, Permission: PermFullControl}
}

// Public reports whether the list grants anything to everybody or to everybody with credentials, which is
// what BlockPublicAcls refuses.
func (a *ACL) Public() bool {
	return a != nil && slices.ContainsFunc(a.Grants, func(g ACLGrant) bool { return g.public() })
}

func (g *ACLGrant) public() bool { return g.Group == AllUsers || g.Group == AuthenticatedUsers }

// allows reports which grant, if any, gives all of want to id.
func (a *ACL) allows(id *Identity, want Permission, ignorePublic bool) *ACLGrant {
	if a == nil {
		return nil
	}
	for i := range a.Grants {
		g := &a.Grants[i]
		if g.Permission&want != want || ignorePublic && g.public() {
			continue
		}
		switch {
		case g.Group == AllUsers, g.Group == AuthenticatedUsers && !id.Anonymous(),
			g.ID != "" && !id.Anonymous() && g.ID == id.Canonical:
			return g
		}
	}
	return nil
}

// CannedACL expands a canned ACL for a bucket (bucketOwner "") or an object written by owner.
// bucket-owner-* are private on a bucket, as S3 has it. ErrInvalidACL for an unknown name.
func CannedACL(name, owner, bucketOwner string) (*ACL, error) {
	a := PrivateACL(owner)
	group := func(g Group, p Permission) { a.Grants = append(a.Grants, ACLGrant{Group: g, Permission: p}) }
	switch name {
	case "private", "aws-exec-read":
	case "public-read":
		group(AllUsers, PermRead)
	case "public-read-write":
		group(AllUsers, PermRead)
		group(AllUsers, PermWrite)
	case "authenticated-read":
		group(AuthenticatedUsers, PermRead)
	case "log-delivery-write":
		group(LogDelivery, PermWrite)
		group(LogDelivery, PermReadACP)
	case "bucket-owner-read", "bucket-owner-full-control":
		if bucketOwner != "" && bucketOwner != owner {
			p := PermRead
			if name == "bucket-owner-full-control" {
				p = PermFullControl
			}
			a.Grants = append(a.Grants, ACLGrant{ID: bucketOwner, Permission: p})
		}
	default:
		return nil, ErrInvalidACL
	}
	a.order()
	return a, nil
}

// order puts groups first, keeping the order otherwise: the Ceph suite reads lists in that order, AWS
// promises none.
func (a *ACL) order() {
	slices.SortStableFunc(a.Grants, func(x, y ACLGrant) int {
		switch {
		case (x.ID == "") == (y.ID == ""):
			return 0
		case x.ID == "":
			return -1
		}
		return 1
	})
}

// grantHeaders are the headers that grant permissions, in lower case.
var grantHeaders = [...]struct {
	name string
	perm Permission
}{
	{"x-amz-grant-read", PermRead},
	{"x-amz-grant-write", PermWrite},
	{"x-amz-grant-read-acp", PermReadACP},
	{"x-amz-grant-write-acp", PermWriteACP},
	{"x-amz-grant-full-control", PermFullControl},
}

// ACLFromHeaders builds the ACL that a request's x-amz-acl or x-amz-grant-* headers ask for, nil where it
// has none. get returns a header by its name in lower case, "" where it is missing. exists reports whether
// a canonical id is a user's. For an object bucketOwner is the bucket's owner, for a bucket "".
// ErrInvalidACL, ErrUnknownGrantee, ErrEmailGrantee, ErrACLTwice, ErrTooManyGrants.
func ACLFromHeaders(get func(string) string, exists func(string) bool, owner, bucketOwner string) (*ACL, error) {
	canned := get("x-amz-acl")
	var acl *ACL
	for _, h := range grantHeaders {
		v := get(h.name)
		if v == "" {
			continue
		}
		if canned != "" {
			return nil, ErrACLTwice
		}
		if acl == nil {
			acl = &ACL{Owner: owner}
		}
		for item := range strings.SplitSeq(v, ",") {
			g, err := parseGrantee(item)
			if err != nil {
				return nil, err
			}
			g.Permission = h.perm
			acl.Grants = append(acl.Grants, g)
		}
	}
	if canned != "" {
		return CannedACL(canned, owner, bucketOwner)
	}
	if acl == nil {
		return nil, nil
	}
	return acl, acl.Check(exists)
}

// parseGrantee parses id="...", uri="..." or emailAddress="...", quotes optional.
func parseGrantee(s string) (g ACLGrant, err error) {
	kind, value, ok := strings.Cut(strings.TrimSpace(s), "=")
	value = strings.Trim(strings.TrimSpace(value), `"'`)
	if !ok || value == "" {
		return g, ErrInvalidACL
	}
	switch strings.ToLower(strings.TrimSpace(kind)) {
	case "id":
		g.ID = value
		return g, nil
	case "uri":
		g.Group, err = ParseGroup(value)
		return g, err
	case "emailaddress":
		return g, ErrEmailGrantee
	}
	return g, ErrInvalidACL
}

// Check validates a list that came from outside and brings its grants into the stored order.
// ErrInvalidACL, ErrUnknownGrantee, ErrTooManyGrants.
func (a *ACL) Check(exists func(canonical string) bool) error {
	if len(a.Grants) > MaxACLGrants {
		return ErrTooManyGrants
	}
	for _, g := range a.Grants {
		if (g.ID == "") == (g.Group == NoGroup) || g.Permission.String() == "" || g.Group > LogDelivery {
			return ErrInvalidACL
		}
		if g.ID != "" && g.ID != a.Owner && !exists(g.ID) {
			return ErrUnknownGrantee
		}
	}
	a.order()
	return nil
}

// Fields of the stored form, see docs/format/users.md.
const (
	aclOwner protowire.Number = 1
	aclGrant protowire.Number = 2

	grantID         protowire.Number = 1
	grantGroup      protowire.Number = 2
	grantPermission protowire.Number = 3
)

// Encode returns the list's stored form; nil for a nil list.
func (a *ACL) Encode() []byte {
	if a == nil {
		return nil
	}
	b := protowire.AppendTag(nil, aclOwner, protowire.BytesType)
	b = protowire.AppendString(b, a.Owner)
	var m []byte
	for _, g := range a.Grants {
		m = m[:0]
		if g.ID != "" {
			m = protowire.AppendTag(m, grantID, protowire.BytesType)
			m = protowire.AppendString(m, g.ID)
		}
		if g.Group != NoGroup {
			m = protowire.AppendTag(m, grantGroup, protowire.VarintType)
			m = protowire.AppendVarint(m, uint64(g.Group))
		}
		m = protowire.AppendTag(m, grantPermission, protowire.VarintType)
		m = protowire.AppendVarint(m, uint64(g.Permission))
		b = protowire.AppendTag(b, aclGrant, protowire.BytesType)
		b = protowire.AppendBytes(b, m)
	}
	return b
}

var errACLForm = firn.NewError(firn.Corrupt, "stored ACL is not readable")

// DecodeACL reads the stored form; nil for an empty one. A list that cannot be read must not be taken for
// an absent one: the caller denies.
func DecodeACL(b []byte) (*ACL, error) {
	if len(b) == 0 {
		return nil, nil
	}
	a := new(ACL)
	err := eachField(b, func(n protowire.Number, v []byte, _ uint64) error {
		switch n {
		case aclOwner:
			a.Owner = string(v)
		case aclGrant:
			var g ACLGrant
			err := eachField(v, func(n protowire.Number, v []byte, x uint64) error {
				switch n {
				case grantID:
					g.ID = string(v)
				case grantGroup:
					if x > uint64(LogDelivery) {
						return errACLForm
					}
					g.Group = Group(x)
				case grantPermission:
					if x > uint64(PermFullControl) {
						return errACLForm
					}
					g.Permission = Permission(x)
				}
				return nil
			})
			if err != nil || (g.ID == "") == (g.Group == NoGroup) || g.Permission.String() == "" {
				return errACLForm
			}
			a.Grants = append(a.Grants, g)
		}
		return nil
	})
	if err != nil || len(a.Grants) > MaxACLGrants {
		return nil, errACLForm
	}
	return a, nil
}

// eachField calls fn for each field of a message: with bytes for length-delimited fields, a number for
// varints. Other wire types are skipped.
func eachField(b []byte, fn func(n protowire.Number, v []byte, x uint64) error) error {
	for len(b) > 0 {
		num, typ, n := protowire.ConsumeTag(b)
		if n < 0 {
			return errACLForm
		}
		b = b[n:]
		var v []byte
		var x uint64
		switch typ {
		case protowire.BytesType:
			v, n = protowire.ConsumeBytes(b)
		case protowire.VarintType:
			x, n = protowire.ConsumeVarint(b)
		default:
			n = protowire.ConsumeFieldValue(num, typ, b)
		}
		if n < 0 {
			return errACLForm
		}
		b = b[n:]
		if typ != protowire.BytesType && typ != protowire.VarintType {
			continue
		}
		if err := fn(num, v, x); err != nil {
			return err
		}
	}
	return nil
}
