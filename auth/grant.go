package auth

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"firn/auth/policy"
)

// maxPrefix bounds a grant's prefix in bytes, as a key is bounded.
const maxPrefix = 1024

// ParseGrant parses ROLE[:BUCKET[/PREFIX]]. Errors wrap ErrInvalidGrant.
func ParseGrant(s string) (Grant, error) {
	role, scope, scoped := strings.Cut(s, ":")
	g := Grant{Role: Role(role)}
	g.Bucket, g.Prefix, _ = strings.Cut(scope, "/")
	if scoped && g.Bucket == "" {
		return Grant{}, fmt.Errorf("%w: %q names no bucket after the colon; write ROLE[:BUCKET[/PREFIX]]", ErrInvalidGrant, s)
	}
	return g, g.Validate()
}

// String returns the grant as ParseGrant reads it.
func (g Grant) String() string {
	s := string(g.Role)
	if g.Bucket != "" {
		s += ":" + g.Bucket
		if g.Prefix != "" {
			s += "/" + g.Prefix
		}
	}
	return s
}

// Validate reports what is wrong with the grant, nil where nothing is.
func (g Grant) Validate() error {
	switch g.Role {
	case RoleRead, RoleWrite, RoleOwner:
	default:
		return fmt.Errorf("%w: role %q is none of read, write, owner", ErrInvalidGrant, g.Role)
	}
	if g.Bucket == "" {
		if g.Prefix != "" {
			return fmt.Errorf("%w: a prefix needs a bucket", ErrInvalidGrant)
		}
		return nil
	}
	if !validBucket(g.Bucket) {
		return fmt.Errorf("%w: %q is not a bucket name", ErrInvalidGrant, g.Bucket)
	}
	if len(g.Prefix) > maxPrefix {
		return fmt.Errorf("%w: the prefix is longer than %d bytes", ErrInvalidGrant, maxPrefix)
	}
	for i := range len(g.Prefix) {
		if g.Prefix[i] < ' ' || g.Prefix[i] == 0x7f {
			return fmt.Errorf("%w: the prefix has a control character", ErrInvalidGrant)
		}
	}
	return nil
}

// validBucket reports whether s has the characters and length of a bucket name; the namespace has the full
// rules.
func validBucket(s string) bool {
	if len(s) < 3 || len(s) > 63 {
		return false
	}
	for i := range len(s) {
		if c := s[i]; !('a' <= c && c <= 'z' || '0' <= c && c <= '9' || c == '-' || c == '.') {
			return false
		}
	}
	return true
}

// ARN returns the name of the caller as policies write it: arn:aws:iam::ACCOUNT:user/NAME, :root for root,
// arn:aws:sts::ACCOUNT:assumed-role/ROLE/SESSION; "" for an anonymous caller.
func (id *Identity) ARN() string {
	switch {
	case id.Anonymous():
		return ""
	case id.Role != "":
		return "arn:aws:sts::" + id.account() + ":assumed-role/" + id.Role + "/" + id.Session
	case id.Root:
		return "arn:aws:iam::" + id.account() + ":root"
	}
	return ARN(id.account(), KindUser, id.Path, id.Name)
}

// Principal returns the caller as policies are asked about it.
func (id *Identity) Principal() policy.Principal {
	p := policy.Principal{
		Canonical: id.Canonical, Account: id.account(), Role: id.Role, Session: id.Session, Within: id.Within, Site: id.Site || id.Root,
	}
	if id.Role == "" {
		p.Name = id.Name
	}
	return p
}

// Condition returns the values of a condition key that speaks of the caller; ok is false for other keys and
// where the caller has no such value. key is as a policy.Lookup gets it.
func (id *Identity) Condition(key string) (values []string, ok bool) {
	one := func(v string) ([]string, bool) { return []string{v}, true }
	switch key {
	case "aws:principaltype":
		switch {
		case id.Anonymous():
			return one("Anonymous")
		case id.Role != "":
			return one("AssumedRole")
		case id.Root:
			return one("Account")
		}
		return one("User")
	case "aws:principalisawsservice":
		return one("false")
	case "sts:authentication": // Ceph's: whether the credentials are temporary
		return one(strconv.FormatBool(!id.Anonymous() && id.Temporary))
	}
	if id.Anonymous() {
		return nil, false
	}
	switch key {
	case "aws:principalarn":
		if id.Role != "" { // of a session it is the role's, so that conditions need no wildcards
			return one(ARN(id.account(), KindRole, id.Path, id.Role))
		}
		return one(id.ARN())
	case "aws:principalaccount":
		return one(id.account())
	case "aws:username":
		if id.Role != "" {
			return nil, false
		}
		return one(id.Name)
	case "aws:userid":
		if id.UserID != "" {
			return one(id.UserID)
		}
		return one(id.Canonical)
	case "aws:tokenissuetime":
		if id.Issued.IsZero() {
			return nil, false
		}
		return one(id.Issued.UTC().Format(time.RFC3339))
	}
	if tag, is := strings.CutPrefix(key, "aws:principaltag/"); is {
		v, has := id.Tags[tag]
		return []string{v}, has
	}
	return nil, false
}
