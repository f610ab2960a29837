package node

import (
	"context"
	"log/slog"
	"net/http"
	"net/url"
	"strings"

	"firn"
	"firn/adminapi"
	"firn/auth"
	"firn/iamapi"
	"firn/object"
	"firn/object/record"
	"firn/s3api"
)

// identity is what of the node is about users, as the admin endpoint sees it.
type identity struct {
	users *auth.Users
	store *object.Store
	door  *s3api.Server
	api   *iamapi.API
}

// Call implements adminapi.Identity.
func (i identity) Call(ctx context.Context, action string, params map[string]string) (any, error) {
	p := make(url.Values, len(params))
	for k, v := range params {
		p.Set(k, v)
	}
	root := i.users.Root()
	return i.api.Do(ctx, iamapi.Caller{Identity: &root}, "iam", action, p)
}

// Simulate implements adminapi.Identity.
func (i identity) Simulate(ctx context.Context, q adminapi.Simulation) (adminapi.Verdict, error) {
	id := &auth.Identity{}
	switch {
	case q.AccessKey != "":
		if id = i.users.View().Key(q.AccessKey); id == nil {
			return adminapi.Verdict{}, firn.E("simulate", q.AccessKey, auth.ErrNoSuchKey)
		}
	case q.User == auth.RootName:
		root := i.users.Root()
		id = &root
	case q.User != "":
		if id = i.users.View().Identity(q.User); id == nil {
			return adminapi.Verdict{}, firn.E("simulate", q.User, auth.ErrNoSuchUser)
		}
	}
	conditions := make(map[string][]string, len(q.Conditions))
	for k, v := range q.Conditions {
		service, tag, tagged := strings.Cut(k, "/")
		if k = strings.ToLower(service); tagged {
			k += "/" + tag
		}
		conditions[k] = v
	}
	d, err := i.door.Simulate(ctx, id, q.Action, q.Bucket, q.Key, conditions)
	return adminapi.Verdict{Allowed: d.Allowed, Reason: d.Reason()}, err
}

// owned returns the names of the buckets that a canonical id owns.
func owned(ctx context.Context, store *object.Store, canonical string) (names []string, err error) {
	buckets, err := store.Buckets(ctx)
	for _, b := range buckets {
		if b.Owner == canonical {
			names = append(names, b.Name)
		}
	}
	return names, err
}

// HandOver implements adminapi.Identity.
func (i identity) HandOver(ctx context.Context, from, to string) ([]string, error) {
	canonical := func(name string) (string, error) {
		if name == auth.RootName {
			return i.users.Root().Canonical, nil
		}
		u, err := i.users.Get(name)
		return u.Canonical, err
	}
	old, err := canonical(from)
	if err != nil {
		return nil, err
	}
	owner, err := canonical(to)
	if err != nil {
		return nil, err
	}
	names, err := owned(ctx, i.store, old)
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		_, err := i.store.UpdateBucket(ctx, name, func(b *record.Bucket) error {
			b.Owner = owner
			return nil
		})
		if err != nil {
			return nil, firn.E("hand over", name, err)
		}
	}
	return names, nil
}

// withIdentity puts IAM and STS in front of the S3 door, whose address they share.
func withIdentity(api *iamapi.API, users *auth.Users, door http.Handler, log *slog.Logger, told func(iamapi.Call)) http.Handler {
	h := iamapi.NewHandler(api, users, log)
	h.Tell(told)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if iamapi.Takes(r) {
			h.ServeHTTP(w, r)
			return
		}
		door.ServeHTTP(w, r)
	})
}
