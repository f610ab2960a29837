// Package auth says who a caller is and what that caller may do: users, groups, roles and managed policies, keys
// and temporary credentials, request signatures (sigv4), policies (policy), ACLs, and the one function that decides.
//
// It promises that the decision is a pure function of its inputs and that no secret is logged or returned
// after creation. It must never parse HTTP bodies, touch objects, or know a bucket beyond the documents
// it is handed.
package auth

import (
	"sync/atomic"
	"time"

	"firn"
	"firn/auth/policy"
)

// Errors of identity.
var (
	ErrNoSuchUser = firn.NewError(firn.NotFound, "user does not exist")
	ErrNoSuchKey  = firn.NewError(firn.NotFound, "access key does not exist")
	ErrUserExists = firn.NewError(firn.Exists, "user already exists")
	ErrKeyExists  = firn.NewError(firn.Exists, "access key is in use")
	ErrDenied     = firn.NewError(firn.Denied, "access denied")
	// ErrExpired: temporary credentials are past their time (ExpiredToken).
	ErrExpired = firn.NewError(firn.Denied, "the provided token has expired")
	// ErrToken: a session token is not one that this site gave out for the key (InvalidToken).
	ErrToken = firn.NewError(firn.Denied, "the provided token is malformed or otherwise invalid")
)

// Role is what a grant allows on its scope.
type Role string

const (
	// RoleRead may read and list.
	RoleRead Role = "read"
	// RoleWrite may read, list, put and delete objects, not create, delete or configure buckets.
	RoleWrite Role = "write"
	// RoleOwner may create buckets of its own and do anything with those. With a scope it may do anything there.
	RoleOwner Role = "owner"
)

// Grant gives a role on a scope: Bucket "" is the whole site (for RoleOwner: the user's own buckets),
// Prefix "" is the whole bucket. Written ROLE[:BUCKET[/PREFIX]].
type Grant struct {
	Role   Role   `json:"role"`
	Bucket string `json:"bucket,omitempty"`
	Prefix string `json:"prefix,omitempty"`
}

// Identity is who sends a request. The zero Identity is the anonymous caller. It is immutable.
//
// An account owns buckets. Root is one, and so is every user of the site. Within an account there can be users
// and roles; what they make is the account's, and they may do only what policies say.
type Identity struct {
	Name      string // user name; "root" for the root user; ROLE/SESSION for a role's session
	AccessKey string
	Canonical string // canonical id of the account: 64 hex digits, stable for its life
	Account   string // account id in ARNs of policies: AccountID(Canonical)
	Root      bool
	Grants    []Grant

	Within bool   // a user or role inside of the account, not the account itself
	Site   bool   // policies were given by the site: they reach every bucket, not only the account's
	UserID string // aws:userid; "" is Canonical
	Path   string // of the ARN; "" is "/"
	// Role and Session name the session of a role; "" for a user.
	Role, Session string
	Tags          map[string]string // aws:PrincipalTag
	Issued        time.Time         // when temporary credentials were made; zero for an access key
	// Temporary: credentials of GetSessionToken or of a role.
	Temporary bool

	policies []NamedPolicy // what identity policies say
	boundary *NamedPolicy  // what identity policies may allow at most; nil is all
	narrow   *NamedPolicy  // what a session or a narrowed key may do at most; nil is all
	used     *atomic.Int64 // when the access key was last used, seconds since 1970; nil is not kept
}

// NamedPolicy is a policy of an identity with the name it goes by in reasons.
type NamedPolicy struct {
	Name   string
	Policy *policy.Policy
}

// Anonymous reports whether the caller sent no credentials.
func (id *Identity) Anonymous() bool { return id == nil || id.Canonical == "" }

// HasPolicies reports whether identity or session policies are looked at for id, whose conditions may ask
// about the request.
func (id *Identity) HasPolicies() bool {
	return len(id.policies) > 0 || id.narrow != nil || id.boundary != nil
}

// usedStep is how precisely the last use of a key is kept, in seconds: within it nothing is written, so that
// requests do not contend.
const usedStep = 60

// Used notes that the identity's access key signed a request at t.
func (id *Identity) Used(t time.Time) {
	if id.used == nil {
		return
	}
	if sec := t.Unix(); sec-id.used.Load() >= usedStep {
		id.used.Store(sec)
	}
}

// User is a user's record without secrets.
type User struct {
	Name      string    `json:"name"`
	Canonical string    `json:"canonical_id,omitempty"` // "" within root's account
	Account   string    `json:"account_id"`
	Within    bool      `json:"within,omitempty"` // of root's account, not an account of its own
	Grants    []Grant   `json:"grants"`
	Limits    Limits    `json:"limits,omitzero"`
	Keys      []KeyInfo `json:"keys"`
	Created   time.Time `json:"created"`
	Groups    []string  `json:"groups,omitempty"`   // names
	Policies  []string  `json:"policies,omitempty"` // names of inline and attached policies
}

// Limits are bounds of one user in place of the site's. A field that is 0 leaves the site's in force, NoLimit sets none.
type Limits struct {
	Requests   int   `json:"requests,omitempty"`   // a second
	Concurrent int   `json:"concurrent,omitempty"` // under way
	Rate       int64 `json:"rate,omitempty"`       // bytes a second, MinRate or more
}

// NoLimit is a limit that bounds nothing.
const NoLimit = -1

// MinRate is the least rate that a user can be bound to: less would let connections time out while they wait.
const MinRate = 64 << 10

// KeyInfo is an access key without its secret.
type KeyInfo struct {
	AccessKey string    `json:"access_key"`
	Created   time.Time `json:"created"`
	Expires   time.Time `json:"expires,omitzero"`
	Used      time.Time `json:"last_used,omitzero"` // to about a minute
	Inactive  bool      `json:"inactive,omitempty"`
	Narrowed  bool      `json:"narrowed,omitempty"` // a policy narrows what the key may do
	Note      string    `json:"note,omitempty"`
}

// Credentials are an access key with its secret, shown once.
type Credentials struct {
	AccessKey string `json:"access_key"`
	SecretKey string `json:"secret_key"`
}
