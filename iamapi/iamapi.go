// Package iamapi is the door of AWS's Identity and Access Management and Security Token Service: the part of their
// query protocol by which SDKs and the aws command manage users, groups, roles, policies and keys, and get
// temporary credentials.
//
// It promises that every call is decided by the caller's policies before anything is read or changed, that a
// secret leaves it once, and that everything read is bounded. It owns no state: what it changes is auth's. It must
// never know buckets or objects.
//
// Written from the IAM and STS API references of AWS.
package iamapi

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"firn"
	"firn/auth"
	"firn/auth/policy"
)

// API performs calls. It may be used concurrently.
type API struct {
	users *auth.Users
	now   func() time.Time
	oidc  *issuers
}

// New returns an API over users. client fetches the keys of identity providers; nil is one with sane bounds.
func New(users *auth.Users, client *http.Client) *API {
	return &API{users: users, now: time.Now, oidc: newIssuers(client)}
}

// Caller is who makes a call and what conditions may ask about it.
type Caller struct {
	Identity *auth.Identity
	Lookup   policy.Lookup // of the request; nil knows nothing
}

// Error is an error as clients get it.
type Error struct {
	Code    string
	Message string
	Status  int
}

func (e *Error) Error() string { return e.Code + ": " + e.Message }

// Unwrap gives the error its kind.
func (e *Error) Unwrap() error {
	kind := firn.Invalid
	switch e.Status {
	case http.StatusForbidden:
		kind = firn.Denied
	case http.StatusNotFound:
		kind = firn.NotFound
	case http.StatusConflict:
		kind = firn.Conflict
	}
	return firn.NewError(kind, e.Code)
}

func fail(status int, code, message string) *Error { return &Error{code, message, status} }

func invalid(message string) *Error { return fail(http.StatusBadRequest, "ValidationError", message) }

func missing(what, name string) *Error {
	return fail(http.StatusNotFound, "NoSuchEntity", "The "+what+" with name "+name+" cannot be found.")
}

func exists(what, name string) *Error {
	return fail(http.StatusConflict, "EntityAlreadyExists", what+" with name "+name+" already exists.")
}

func conflict(message string) *Error { return fail(http.StatusConflict, "DeleteConflict", message) }

// toError maps an error of auth. Others stay as they are.
func toError(err error) error {
	var known *Error
	var doc *policy.Error
	switch {
	case err == nil, errors.As(err, &known):
		return err
	case errors.As(err, &doc):
		return fail(http.StatusBadRequest, "MalformedPolicyDocument", doc.Error())
	case errors.Is(err, auth.ErrLimit):
		return fail(http.StatusConflict, "LimitExceeded", "Cannot exceed a limit: "+err.Error())
	case errors.Is(err, auth.ErrUserExists), errors.Is(err, auth.ErrKeyExists):
		return fail(http.StatusConflict, "EntityAlreadyExists", err.Error())
	case errors.Is(err, auth.ErrOwnsBuckets):
		return conflict(err.Error())
	case errors.Is(err, auth.ErrInvalidUser), errors.Is(err, auth.ErrInvalidGrant):
		return invalid(err.Error())
	case errors.Is(err, auth.ErrDenied):
		return fail(http.StatusForbidden, "AccessDenied", "Access Denied")
	case errors.Is(err, auth.ErrNoSuchKey), errors.Is(err, auth.ErrNoSuchUser):
		return fail(http.StatusNotFound, "NoSuchEntity", err.Error())
	}
	return err
}

// call is one call under way.
type call struct {
	*API
	ctx     context.Context
	who     *auth.Identity
	look    policy.Lookup
	v       *auth.View
	p       url.Values
	service string // "iam" or "sts"
	action  string
	account string // canonical id of the account whose users, roles and policies are spoken of
	own     bool   // the caller is that account itself and needs no policy
	rights  bool   // may was asked
}

// operation performs a call that is known by its name.
type operation func(c *call) (Node, error)

// Do performs one call for a caller: service is "iam" or "sts", action its name. Errors for the client are *Error.
func (a *API) Do(ctx context.Context, by Caller, service, action string, params url.Values) (Node, error) {
	ops := iamOperations
	if service == "sts" {
		ops = stsOperations
	}
	op := ops(action)
	if op == nil {
		return Node{}, fail(http.StatusBadRequest, "InvalidAction", "Could not find operation "+action)
	}
	c := &call{
		API: a, ctx: ctx, who: by.Identity, look: by.Lookup, v: a.users.View(), p: params, service: service, action: action,
	}
	if by.Identity.Anonymous() {
		if action != "AssumeRoleWithWebIdentity" {
			return Node{}, fail(http.StatusForbidden, "MissingAuthenticationToken", "Request is missing Authentication Token")
		}
	} else {
		c.place()
		if by.Identity.Temporary && by.Identity.Role == "" && action != "GetCallerIdentity" {
			// As AWS has it for credentials of GetSessionToken without a second factor: they could otherwise make
			// themselves permanent.
			return Node{}, fail(http.StatusForbidden, "AccessDenied", "Temporary credentials of a user cannot call "+service+":"+action)
		}
	}
	n, err := op(c)
	return n, toError(err)
}

// place finds the account a call speaks of. Root speaks of the site. So does a user of the site, as one of its
// users, unless it may own buckets: then it is the account it speaks of. Users and roles within an account speak
// of that.
func (c *call) place() {
	c.account = c.v.Root().Canonical
	switch {
	case c.who.Root:
		c.own = true
	case c.who.Within:
		c.account = c.who.Canonical
	default:
		for _, g := range c.who.Grants {
			if g.Role == auth.RoleOwner && g.Bucket == "" {
				c.account, c.own = c.who.Canonical, true
			}
		}
	}
}

// may asks whether the caller may do the action on arn; byItself is what it may without a policy.
func (c *call) may(arn string, byItself bool) error {
	look := func(key string) ([]string, bool) {
		if key == "iam:permissionsboundary" && c.get("PermissionsBoundary") != "" {
			return []string{c.get("PermissionsBoundary")}, true
		}
		if c.look != nil {
			if v, ok := c.look(key); ok {
				return v, ok
			}
		}
		return c.who.Condition(key)
	}
	if !c.who.Manages(c.service+":"+c.action, arn, byItself, look).Allowed {
		return fail(http.StatusForbidden, "AccessDenied", "User: "+c.who.ARN()+" is not authorized to perform: "+
			c.service+":"+c.action+" on resource: "+arn)
	}
	c.rights = true
	return nil
}

func (c *call) get(name string) string { return c.p.Get(name) }

// need returns a parameter that must be there.
func (c *call) need(name string) (string, error) {
	v := c.p.Get(name)
	if v == "" {
		return "", invalid("1 validation error detected: Value at '" + lowerFirst(name) + "' failed to satisfy constraint: Member must not be null")
	}
	return v, nil
}

func lowerFirst(s string) string { return strings.ToLower(s[:1]) + s[1:] }

// list returns the values NAME.member.1, NAME.member.2 and so on; at most maxList.
func (c *call) list(name string) (out []string) {
	for i := 1; i <= maxList; i++ {
		v, ok := c.p[name+".member."+strconv.Itoa(i)]
		if !ok {
			break
		}
		out = append(out, v[0])
	}
	return out
}

const maxList = 200

// tags returns the tags of a call. Of tags with one key the last counts.
func (c *call) tags() (map[string]string, error) {
	var m map[string]string
	for i := 1; i <= maxList; i++ {
		p := "Tags.member." + strconv.Itoa(i)
		k := c.p.Get(p + ".Key")
		if k == "" {
			break
		}
		v := c.p.Get(p + ".Value")
		if len(k) > 128 || len(v) > 256 {
			return nil, invalid("a tag's key has up to 128 bytes, its value up to 256")
		}
		if m == nil {
			m = make(map[string]string)
		}
		m[k] = v
	}
	return m, nil
}

// ref names an entity of the account.
func (c *call) ref(kind auth.Kind, name string) auth.Ref {
	return auth.Ref{Account: c.account, Kind: kind, Name: name}
}

// arn returns the ARN of an entity, or what it would have.
func (c *call) arn(ref auth.Ref, e *auth.Entity) string {
	if e == nil {
		return auth.ARN(auth.AccountID(ref.Account), ref.Kind, "", ref.Name)
	}
	return auth.ARN(c.v.AccountOf(ref, e), ref.Kind, e.Path, e.Name)
}

// target asks whether the caller may do the action on an entity and returns it: NoSuchEntity where it is not there.
func (c *call) target(kind auth.Kind, param string) (auth.Ref, *auth.Entity, error) {
	name, err := c.need(param)
	if err != nil {
		return auth.Ref{}, nil, err
	}
	ref := c.ref(kind, name)
	own := c.own
	if kind == auth.KindUser && !c.who.Within && !c.who.Root && (strings.EqualFold(name, c.who.Name) || name == c.who.Canonical) {
		ref, own = auth.Ref{Account: c.v.Root().Canonical, Kind: kind, Name: c.who.Name}, false
	}
	e := c.v.Entity(ref)
	if err := c.may(c.arn(ref, e), own); err != nil {
		return ref, nil, err
	}
	if e == nil {
		return ref, nil, missing(string(kind), name)
	}
	return ref, e, nil
}

// change changes an entity that target returned.
func (c *call) change(ref auth.Ref, edit func(v *auth.View, e *auth.Entity) (*auth.Entity, error)) error {
	return c.users.Change(c.ctx, c.action, ref, func(v *auth.View, e *auth.Entity) (*auth.Entity, error) {
		if e == nil {
			return nil, missing(string(ref.Kind), ref.Name)
		}
		return edit(v, e)
	})
}

// create makes an entity.
func (c *call) create(ref auth.Ref, e *auth.Entity) error {
	return c.users.Change(c.ctx, c.action, ref, func(_ *auth.View, old *auth.Entity) (*auth.Entity, error) {
		if old != nil {
			return nil, exists(string(ref.Kind), ref.Name)
		}
		return e, nil
	})
}

// maxItems is the most items of one page.
const maxItems = 1000

// page cuts a sorted list to the page the call asks for. name is what a marker is made of; it grows with the list.
func page[T any](c *call, list []T, name func(T) string) (out []T, next string, err error) {
	n := 100
	if s := c.get("MaxItems"); s != "" {
		if n, err = strconv.Atoi(s); err != nil || n < 1 || n > maxItems {
			return nil, "", invalid("MaxItems must be between 1 and 1000")
		}
	}
	if m := c.get("Marker"); m != "" {
		i := 0
		for i < len(list) && name(list[i]) <= m {
			i++
		}
		list = list[i:]
	}
	if len(list) > n {
		return list[:n], name(list[n-1]), nil
	}
	return list, "", nil
}

// paged returns the elements that end a page.
func paged(next string) []Node {
	if next == "" {
		return []Node{text("IsTruncated", "false")}
	}
	return []Node{text("IsTruncated", "true"), text("Marker", next)}
}

func stamp(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05Z") }
