package auth

import (
	"strconv"
	"strings"

	"firn/auth/policy"
)

// Request is one question: may this identity do this action on this thing? All of it is given; Authorize
// reads nothing else.
type Request struct {
	Identity *Identity // nil or the zero Identity is anonymous
	Action   string    // as policies name it: "s3:GetObject"
	Bucket   string    // "" for s3:ListAllMyBuckets
	Key      string    // "" for actions on a bucket

	BucketOwner string // canonical id; "" where the bucket does not exist (s3:CreateBucket)
	// ObjectOwner is the canonical id of the version asked for, or of who started the upload; "" where there
	// is none, which is then treated as the bucket owner's.
	ObjectOwner string

	Policy       *policy.Policy // of the bucket; nil where it has none
	BucketACL    *ACL           // nil is private
	ObjectACL    *ACL           // nil is private
	Ownership    Ownership
	PublicAccess PublicAccessBlock
	Lookup       policy.Lookup // condition keys of the request; nil knows none
}

// Basis is the rule that decided.
type Basis uint8

const (
	// ByDefault: no rule allows it.
	ByDefault Basis = iota
	// ByPolicy: a statement of the bucket's policy allows or denies it.
	ByPolicy
	// ByRoot: root may.
	ByRoot
	// ByOwner: the bucket's or object's owner may.
	ByOwner
	// ByGrant: a grant of the user allows it.
	ByGrant
	// ByACL: a grant in an ACL allows it.
	ByACL
	// BySelf: every identity with credentials may, such as listing its own buckets.
	BySelf
	// ByPublicAccessBlock: the policy would allow it, but the public access block restricts public buckets.
	ByPublicAccessBlock
)

// Decision is the answer.
type Decision struct {
	Allowed bool
	By      Basis

	statement int
	sid       string
	grant     Grant
	acl       ACLGrant
}

// Err returns nil where the decision allows, else ErrDenied.
func (d Decision) Err() error {
	if d.Allowed {
		return nil
	}
	return ErrDenied
}

// Reason says which rule decided, for logs and audit. The client is told no more than AccessDenied.
func (d Decision) Reason() string {
	switch d.By {
	case ByPolicy:
		verb := "denied"
		if d.Allowed {
			verb = "allowed"
		}
		s := verb + " by policy statement " + strconv.Itoa(d.statement+1)
		if d.sid != "" {
			s += " (" + d.sid + ")"
		}
		return s
	case ByRoot:
		return "allowed: root"
	case ByOwner:
		return "allowed: owner"
	case ByGrant:
		return "allowed by grant " + d.grant.String()
	case ByACL:
		who := d.acl.ID
		if who == "" {
			who = d.acl.Group.URI()
		}
		return "allowed by ACL: " + d.acl.Permission.String() + " to " + who
	case BySelf:
		return "allowed: every user may"
	case ByPublicAccessBlock:
		return "denied: the public access block restricts the public policy"
	}
	return "denied: nothing allows it"
}

// Authorize decides. It is a pure function of r.
//
//  1. An explicit Deny of the bucket's policy decides against everybody, root included; only reading and
//     changing the policy itself stays open to root and the bucket's owner, so that nobody can lock a
//     bucket for ever.
//  2. Root may do anything. Users may list their buckets, and create buckets with an owner grant.
//  3. The bucket's owner may do anything with the bucket, and with its objects; but where ownership is not
//     enforced, content and ACL of an object that belongs to another user are that user's.
//  4. An Allow of the bucket's policy, unless the public access block restricts a public policy. It cannot
//     give what rule 3 says is not the bucket owner's to give.
//  5. The user's grants.
//  6. Where ownership is not enforced: the object's owner, the object's ACL, the bucket's ACL.
//  7. Everything else is denied.
//
// A request for a key that does not exist is authorised as any other; where it is allowed or not, S3 tells
// only those that the key does not exist who may also list: Authorize s3:ListBucket with s3:prefix = the key.
func Authorize(r *Request) Decision {
	id := r.Identity
	if id == nil {
		id = &Identity{}
	}
	info := lookupAction(r.Action)
	owns := !id.Anonymous() && r.BucketOwner != "" && id.Canonical == r.BucketOwner
	// foreign: what the action touches is another user's, not the bucket owner's.
	foreign := r.Ownership.ACLs() && info.object != 0 && r.ObjectOwner != "" && r.ObjectOwner != r.BucketOwner

	said := policy.Result{Statement: -1}
	if r.Policy != nil {
		said = r.Policy.Evaluate(&policy.Request{
			Principal: policy.Principal{Canonical: id.Canonical, Account: id.account(), Name: id.Name},
			Action:    r.Action, Bucket: r.Bucket, Key: r.Key, Lookup: r.Lookup,
		})
		if said.Effect == policy.Deny && !(info.ofPolicy && (id.Root || owns)) {
			return byPolicy(r.Policy, said)
		}
	}
	switch {
	case id.Root:
		return Decision{Allowed: true, By: ByRoot}
	case info.service && !id.Anonymous():
		return Decision{Allowed: true, By: BySelf}
	case owns && !foreign:
		return Decision{Allowed: true, By: ByOwner}
	}
	restricted := false
	if said.Effect == policy.Allow && !foreign {
		if !r.PublicAccess.RestrictPublicBuckets || !r.Policy.IsPublic() || owns {
			return byPolicy(r.Policy, said)
		}
		restricted = true
	}
	if !id.Anonymous() {
		for i := range id.Grants {
			if id.Grants[i].covers(r, info) {
				return Decision{Allowed: true, By: ByGrant, grant: id.Grants[i]}
			}
		}
	}
	if r.Ownership.ACLs() {
		if d := byACL(r, id, info); d.Allowed {
			return d
		}
	}
	if restricted {
		return Decision{By: ByPublicAccessBlock}
	}
	return Decision{}
}

func byPolicy(p *policy.Policy, res policy.Result) Decision {
	return Decision{
		Allowed: res.Effect == policy.Allow, By: ByPolicy,
		statement: res.Statement, sid: p.Sid(res.Statement),
	}
}

func byACL(r *Request, id *Identity, info actionInfo) Decision {
	ignore := r.PublicAccess.IgnorePublicAcls
	if (info.object != 0 || info.uploader) && r.ObjectOwner != "" && !id.Anonymous() && r.ObjectOwner == id.Canonical {
		return Decision{Allowed: true, By: ByOwner}
	}
	if info.object != 0 && r.ObjectOwner != "" {
		if g := r.ObjectACL.allows(id, info.object, ignore); g != nil {
			return Decision{Allowed: true, By: ByACL, acl: *g}
		}
	}
	want := info.bucket
	if info.tags && r.ObjectOwner == "" {
		want = PermWrite
	}
	if want != 0 {
		if g := r.BucketACL.allows(id, want, ignore); g != nil {
			return Decision{Allowed: true, By: ByACL, acl: *g}
		}
	}
	return Decision{}
}

// covers reports whether the grant allows the action.
func (g *Grant) covers(r *Request, info actionInfo) bool {
	if g.Bucket != "" && g.Bucket != r.Bucket {
		return false
	}
	if info.create {
		return g.Role == RoleOwner && g.Prefix == ""
	}
	switch g.Role {
	case RoleOwner:
		// Without a scope it is about the user's own buckets, which ownership covers.
		if g.Bucket == "" {
			return false
		}
	case RoleWrite:
		if !info.read && !info.write {
			return false
		}
	case RoleRead:
		if !info.read {
			return false
		}
	default:
		return false
	}
	switch {
	case g.Prefix == "":
		return true
	case r.Key != "":
		return strings.HasPrefix(r.Key, g.Prefix)
	case info.list && r.Lookup != nil:
		prefix, ok := r.Lookup("s3:prefix")
		return ok && len(prefix) == 1 && strings.HasPrefix(prefix[0], g.Prefix)
	}
	return info.about
}

// Sees reports whether a listing of buckets shows this one to id: root sees all, others their own and those
// that a grant names or covers.
func (id *Identity) Sees(bucket, owner string) bool {
	if id.Anonymous() {
		return false
	}
	if id.Root || id.Canonical == owner {
		return true
	}
	for _, g := range id.Grants {
		if g.Bucket == bucket || g.Bucket == "" && g.Role != RoleOwner {
			return true
		}
	}
	return false
}
