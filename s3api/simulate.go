package s3api

import (
	"context"
	"errors"
	"strings"

	"firn"
	"firn/auth"
	"firn/object"
	"firn/object/record"
)

// Simulate decides as for a request, without one: the bucket's and the current version's documents as they are,
// condition keys as given, in lower case up to their first slash. A bucket that does not exist is no error: creating
// it is decided then. action is such as "s3:GetObject".
func (s *Server) Simulate(ctx context.Context, id *auth.Identity, action, bucket, key string, conditions map[string][]string) (auth.Decision, error) {
	if !strings.HasPrefix(action, "s3:") {
		return auth.Decision{}, firn.NewError(firn.Invalid, "an action is such as s3:GetObject")
	}
	a := auth.Request{Identity: id, Action: action, Bucket: bucket, Key: key}
	a.Lookup = func(key string) ([]string, bool) {
		if v, ok := conditions[key]; ok {
			return v, true
		}
		return id.Condition(key)
	}
	if bucket == "" {
		return auth.Authorize(&a), nil
	}
	b, err := s.store.Bucket(ctx, bucket)
	switch {
	case errors.Is(err, object.ErrNoSuchBucket):
		return auth.Authorize(&a), nil
	case err != nil:
		return auth.Decision{}, err
	}
	d := s.docsOf(b)
	if d.err != nil {
		return auth.Decision{}, d.err
	}
	a.BucketOwner, a.Policy, a.BucketACL, a.Ownership, a.PublicAccess = b.Owner, d.policy, d.acl, d.ownership, d.public
	if key != "" {
		v, err := s.store.Head(ctx, bucket, key, "")
		switch {
		case err == nil:
			if err := s.aboutVersion(&a, b, v); err != nil {
				return auth.Decision{}, err
			}
		case firn.KindOf(err) != firn.NotFound:
			return auth.Decision{}, err
		}
	}
	return auth.Authorize(&a), nil
}

// aboutVersion adds to a question what is known of the version it is about.
func (s *Server) aboutVersion(a *auth.Request, b *record.Bucket, v *record.Version) (err error) {
	if a.ObjectOwner = v.Owner; b != nil && v.Owner != b.Owner && !s.users.Exists(v.Owner) {
		a.ObjectOwner = "" // what a removed user left is the bucket owner's
	}
	if len(v.ACL) > 0 {
		a.ObjectACL, err = auth.DecodeACL(v.ACL)
	}
	return err
}
