// Package policy is the policy language of AWS as buckets, identities and the trust of roles use it: it parses
// and validates documents, and evaluates them.
//
// It promises that a document either is refused with the statement and element at fault or has exactly the
// meaning AWS gives it, and that evaluation is a pure function of policy and request. It must never know
// users, ACLs or HTTP: what a request says about itself comes through a Lookup.
//
// Written from "IAM JSON policy reference" in the AWS Identity and Access Management user guide and "Policies
// and permissions in Amazon S3" in the Amazon S3 user guide.
package policy

import (
	"fmt"
	"strings"

	"firn"
)

// MaxSize is the longest document in bytes, as AWS limits bucket policies.
const MaxSize = 20 << 10

// Effect is what a policy says about a request.
type Effect uint8

const (
	// None: no statement applies.
	None Effect = iota
	// Allow: a statement allows and none denies.
	Allow
	// Deny: a statement denies.
	Deny
)

func (e Effect) String() string { return [...]string{"none", "Allow", "Deny"}[e] }

// Principal is who sends a request. The zero Principal is anonymous.
type Principal struct {
	Canonical string // canonical id of the account, 64 hex digits
	Account   string // account id, 12 digits
	Name      string // user name; "" for the session of a role
	Role      string // name of the role of a session
	Session   string // name of the session of a role
	Within    bool   // a user or role inside of the account, not the account itself
	Site      bool   // of the site itself: ARNs without an account name such users and roles only
	Federated string // ARN of the identity provider that vouches for the caller, in trust policies
	Service   string // name of a service of the site that acts by itself, such as "logging.s3.amazonaws.com"
}

// Lookup returns the values of a condition key of the request, ok false where the request has no such key.
// key is in lower case up to its first slash: "aws:sourceip", "s3:existingobjecttag/Colour". A nil Lookup
// knows nothing. It must not block.
type Lookup func(key string) (values []string, ok bool)

// Request is what a policy is asked about.
type Request struct {
	Principal Principal
	Action    string // "s3:GetObject"
	Bucket    string
	Key       string // "" asks about the bucket itself
	Resource  string // ARN of what is no bucket or object; then Bucket and Key are empty
	Lookup    Lookup
}

// Reach says how a statement that allows names the caller. A greater one is the more direct.
type Reach uint8

const (
	// ByAccount: the statement names the account of the caller, which leaves it to the account to say who
	// inside may.
	ByAccount Reach = iota
	// Directly: the statement names the caller, or everybody.
	Directly
	// BySession: the statement names this very session of a role.
	BySession
)

// Result is the answer: the effect, the statement that decided, -1 where none applies, and how an Allow names
// the caller.
type Result struct {
	Effect    Effect
	Statement int
	Reach     Reach
}

// Policy is a parsed document. It is immutable and may be used concurrently.
type Policy struct {
	version    string
	id         string
	statements []statement
	public     bool
}

// resource is one Resource: a pattern on BUCKET/KEY, or with full on the whole ARN.
type resource struct {
	pattern
	full bool
}

type statement struct {
	sid          string
	effect       Effect
	principals   principals
	notPrincipal bool
	actions      actionSet
	notAction    bool
	resources    []resource
	notResource  bool
	ofTrust      bool // of a role's trust policy, which has no resources
	conditions   []condition
}

// Error says what is wrong with a document and where.
type Error struct {
	Statement int    // from 0; -1 where the document as a whole is at fault
	Sid       string // of that statement, where it has one
	Element   string // such as "Action"; may be empty
	Reason    string
}

func (e *Error) Error() string {
	var b strings.Builder
	if e.Statement >= 0 {
		fmt.Fprintf(&b, "statement %d", e.Statement+1)
		if e.Sid != "" {
			fmt.Fprintf(&b, " (%s)", e.Sid)
		}
		b.WriteString(": ")
	}
	if e.Element != "" {
		b.WriteString(e.Element + ": ")
	}
	return b.String() + e.Reason
}

// Unwrap gives the error its kind, firn.Invalid.
func (e *Error) Unwrap() error { return firn.NewError(firn.Invalid, "malformed policy") }

// Statements returns the number of statements.
func (p *Policy) Statements() int { return len(p.statements) }

// Sid returns the name of statement i, "" where it has none.
func (p *Policy) Sid(i int) string { return p.statements[i].sid }

// IsPublic reports whether the policy gives access to anybody, as AWS defines it for GetBucketPolicyStatus
// and public access blocks: a statement allows every principal and no condition holds it to fixed values of
// a key that tells callers apart.
func (p *Policy) IsPublic() bool { return p != nil && p.public }

// Evaluate says what the policy says about r: Deny where any statement denies, else Allow where any allows, by
// the statement that names the caller most directly. A nil policy says nothing.
func (p *Policy) Evaluate(r *Request) Result {
	res := Result{Statement: -1}
	if p == nil {
		return res
	}
	e := evaluation{Request: r, action: actionNumber(r.Action), path: r.Bucket}
	if r.Key != "" {
		e.path = r.Bucket + "/" + r.Key
	}
	for i := range p.statements {
		s := &p.statements[i]
		if res.Effect == Allow && s.effect == Allow && res.Reach == BySession {
			continue
		}
		reach, ok := e.applies(s)
		if !ok {
			continue
		}
		if s.effect == Deny {
			return Result{Deny, i, reach}
		}
		if res.Effect != Allow || reach > res.Reach {
			res = Result{Allow, i, reach}
		}
	}
	return res
}

// evaluation is one request on its way through a policy.
type evaluation struct {
	*Request
	action int    // number of the action, -1 for one that is not known
	path   string // BUCKET/KEY
	arn    string // of path, once asked for
}

func (e *evaluation) applies(s *statement) (Reach, bool) {
	if s.actions.has(e.action, e.Action) == s.notAction {
		return 0, false
	}
	reach, named := s.principals.match(&e.Principal)
	if s.notPrincipal {
		reach = Directly
	}
	return reach, named != s.notPrincipal && (s.ofTrust || e.matchResource(s) != s.notResource) && e.holds(s.conditions)
}

func (e *evaluation) matchResource(s *statement) bool {
	for i := range s.resources {
		r := &s.resources[i]
		switch {
		case r.full:
			if r.match(e.fullARN(), e.Lookup, false) {
				return true
			}
		case e.Resource == "" && r.match(e.path, e.Lookup, false):
			return true
		}
	}
	return false
}

// fullARN returns the ARN of what the request is about.
func (e *evaluation) fullARN() string {
	if e.Resource != "" {
		return e.Resource
	}
	if e.arn == "" {
		e.arn = "arn:aws:s3:::" + e.path
	}
	return e.arn
}

func (e *evaluation) holds(cs []condition) bool {
	for i := range cs {
		if !cs[i].holds(e.Lookup) {
			return false
		}
	}
	return true
}
