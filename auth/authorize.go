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
	// ByIdentity: an identity policy of the caller allows or denies it.
	ByIdentity
	// ByBoundary: the permissions boundary of the caller denies it, or does not allow what its policies would.
	ByBoundary
	// BySession: the policy of the session or of the narrowed key does not allow it, or denies it.
	BySession
)

// Decision is the answer.
type Decision struct {
	Allowed bool
	By      Basis

	statement int
	sid       string
	grant     Grant
	acl       ACLGrant
	name      string // of the identity policy
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
	case ByIdentity:
		verb := "denied"
		if d.Allowed {
			verb = "allowed"
		}
		s := verb + " by statement " + strconv.Itoa(d.statement+1)
		if d.sid != "" {
			s += " (" + d.sid + ")"
		}
		return s + " of identity policy " + d.name
	case ByBoundary:
		if d.statement < 0 {
			return "denied: the permissions boundary " + d.name + " does not allow it"
		}
		return "denied by statement " + strconv.Itoa(d.statement+1) + " of the permissions boundary " + d.name
	case BySession:
		if d.statement < 0 {
			return "denied: the policy of the session or key does not allow it"
		}
		return "denied by statement " + strconv.Itoa(d.statement+1) + " of the policy of the session or key"
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
//  1. An explicit Deny decides against everybody: one of the bucket's policy, root included (only reading and
//     changing the policy itself stays open to root and the bucket's owner, so that nobody can lock a bucket
//     for ever), one of an identity policy of the caller, one of the session or the narrowed key.
//     A permissions boundary that denies counts likewise; one that does not allow takes away what identity
//     policies give, not what a bucket's policy gives a user, or a session of a role, by name.
//  2. Where a session or a key is narrowed by a policy, that policy must allow too, unless the bucket's policy
//     names this very session.
//  3. Root may do anything. Users of the site may list their buckets, and create buckets with an owner grant.
//  4. The bucket's owner may do anything with the bucket, and with its objects; but where ownership is not
//     enforced, content and ACL of an object that belongs to another user are that user's.
//  5. An Allow of the bucket's policy, unless the public access block restricts a public policy. It cannot
//     give what rule 4 says is not the bucket owner's to give.
//  6. The grants of a user of the site, and its identity policies.
//  7. Where ownership is not enforced: the object's owner, the object's ACL, the bucket's ACL.
//  8. Everything else is denied.
//
// For users and roles inside of an account, rules 3 to 7 are instead: what policies given by the site allow;
// in buckets of the account what an identity policy allows, or a bucket policy that names the caller; in
// buckets of others what an identity policy allows and rule 5 or 7 allows to the account.
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
	var q policy.Request
	if r.Policy != nil || id.HasPolicies() {
		q = policy.Request{Principal: id.Principal(), Action: r.Action, Bucket: r.Bucket, Key: r.Key, Lookup: r.Lookup}
	}
	if r.Policy != nil {
		said = r.Policy.Evaluate(&q)
		if said.Effect == policy.Deny && !(info.ofPolicy && (id.Root || owns && !id.Within)) {
			return byPolicy(r.Policy, said)
		}
	}
	own := id.policySays(&q)
	if own.By == ByIdentity && !own.Allowed {
		return own
	}
	outside := id.bounded(&q)
	if outside.By == ByBoundary && outside.statement >= 0 {
		return outside
	}
	if d := id.narrowed(&q, said); d.By == BySession {
		return d
	}
	if id.Within {
		if outside.By != ByBoundary {
			return within(r, id, info, said, own, owns, foreign)
		}
		// A boundary takes nothing from what a bucket's policy gives a user by name, nor a session of a role; to the
		// role itself it gives no more than the boundary allows.
		if id.Role != "" && said.Reach != policy.BySession {
			return outside
		}
		if d := within(r, id, info, said, Decision{}, owns, foreign); d.Allowed {
			return d
		}
		return outside
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
	if own.Allowed {
		return own
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

// within decides for a user or a role inside of an account, once nothing denies.
func within(r *Request, id *Identity, info actionInfo, said policy.Result, own Decision, owns, foreign bool) Decision {
	if own.Allowed && (id.Site || r.BucketOwner == "" || owns && !foreign) {
		return own
	}
	restricted := r.PublicAccess.RestrictPublicBuckets && r.Policy.IsPublic() && !owns
	if said.Effect == policy.Allow && !foreign && !restricted && (own.Allowed || owns && said.Reach >= policy.Directly) {
		return byPolicy(r.Policy, said)
	}
	if own.Allowed && r.Ownership.ACLs() {
		if d := byACL(r, id, info); d.Allowed {
			return d
		}
	}
	if own.Allowed && said.Effect == policy.Allow && restricted {
		return Decision{By: ByPublicAccessBlock}
	}
	return Decision{}
}

// policySays returns what the identity policies say: the first Deny, else the first Allow; By is ByIdentity
// where any applies.
func (id *Identity) policySays(q *policy.Request) (d Decision) {
	for i := range id.policies {
		p := &id.policies[i]
		res := p.Policy.Evaluate(q)
		if res.Effect == policy.None || res.Effect == policy.Allow && d.Allowed {
			continue
		}
		d = Decision{
			Allowed: res.Effect == policy.Allow, By: ByIdentity,
			statement: res.Statement, sid: p.Policy.Sid(res.Statement), name: p.Name,
		}
		if !d.Allowed {
			return d
		}
	}
	return d
}

// bounded returns a decision by ByBoundary where the permissions boundary stands against the request; its statement is
// -1 where the boundary only does not allow it.
func (id *Identity) bounded(q *policy.Request) Decision {
	if id.boundary == nil {
		return Decision{}
	}
	res := id.boundary.Policy.Evaluate(q) // a nil policy says nothing
	if res.Effect == policy.Allow {
		return Decision{}
	}
	return Decision{By: ByBoundary, statement: res.Statement, name: id.boundary.Name}
}

// narrowed returns a decision by BySession where the policy of the session or key stands against the request.
func (id *Identity) narrowed(q *policy.Request, said policy.Result) Decision {
	if id.narrow == nil {
		return Decision{}
	}
	res := id.narrow.Policy.Evaluate(q)
	if res.Effect == policy.Allow || res.Effect == policy.None && said.Effect == policy.Allow && said.Reach == policy.BySession {
		return Decision{}
	}
	return Decision{By: BySession, statement: res.Statement, name: id.narrow.Name}
}

// Manages asks whether id may do an action of iam or sts on what arn names; self says that it is the caller's own.
// It returns the decision of the caller's policies; where they say nothing, by is what id has by itself.
func (id *Identity) Manages(action, arn string, byItself bool, look policy.Lookup) Decision {
	q := policy.Request{Principal: id.Principal(), Action: action, Resource: arn, Lookup: look}
	d := id.policySays(&q)
	if d.By == ByIdentity && !d.Allowed {
		return d
	}
	if n := id.bounded(&q); n.By == ByBoundary {
		return n
	}
	if n := id.narrowed(&q, policy.Result{Statement: -1}); n.By == BySession {
		return n
	}
	switch {
	case id.Root:
		return Decision{Allowed: true, By: ByRoot}
	case byItself && !id.Within:
		return Decision{Allowed: true, By: BySelf}
	}
	return d
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

// Sees reports whether a listing of buckets shows this one to id: root sees all, others their account's and those
// that a grant names or covers or a policy given by the site lets them list.
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
	if id.Site && len(id.policies) > 0 {
		q := policy.Request{Principal: id.Principal(), Action: "s3:ListBucket", Bucket: bucket}
		return id.policySays(&q).Allowed && id.bounded(&q).By != ByBoundary
	}
	return false
}
