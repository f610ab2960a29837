// Package auth says who a caller is and what that caller may do: users and their keys, request signatures
// (sigv4), bucket policies (policy), ACLs, and the one function that decides.
//
// It promises that the decision is a pure function of its inputs and that no secret is logged or returned
// after creation. It must never parse HTTP bodies, touch objects, or know a bucket beyond the documents
// it is handed.
package auth

import (
	"time"

	"firn"
)

// Errors of identity.
var (
	ErrNoSuchUser = firn.NewError(firn.NotFound, "user does not exist")
	ErrNoSuchKey  = firn.NewError(firn.NotFound, "access key does not exist")
	ErrUserExists = firn.NewError(firn.Exists, "user already exists")
	ErrKeyExists  = firn.NewError(firn.Exists, "access key is in use")
	ErrDenied     = firn.NewError(firn.Denied, "access denied")
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

// Identity is who sends a request. The zero Identity is the anonymous caller.
type Identity struct {
	Name      string // user name; "root" for the root user
	AccessKey string
	Canonical string // canonical id: 64 hex digits, stable for the user's life
	Account   string // account id in ARNs of policies: AccountID(Canonical)
	Root      bool
	Grants    []Grant
}

// Anonymous reports whether the caller sent no credentials.
func (id *Identity) Anonymous() bool { return id == nil || id.Canonical == "" }

// User is a user's record without secrets.
type User struct {
	Name      string    `json:"name"`
	Canonical string    `json:"canonical_id"`
	Account   string    `json:"account_id"`
	Grants    []Grant   `json:"grants"`
	Keys      []KeyInfo `json:"keys"`
	Created   time.Time `json:"created"`
}

// KeyInfo is an access key without its secret.
type KeyInfo struct {
	AccessKey string    `json:"access_key"`
	Created   time.Time `json:"created"`
}

// Credentials are an access key with its secret, shown once.
type Credentials struct {
	AccessKey string `json:"access_key"`
	SecretKey string `json:"secret_key"`
}
