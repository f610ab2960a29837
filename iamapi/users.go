package iamapi

import (
	"net/http"
	"slices"
	"strings"
	"time"

	"firn/auth"
)

func userOperations(action string) operation {
	switch action {
	case "CreateUser":
		return createUser
	case "GetUser":
		return getUser
	case "ListUsers":
		return func(c *call) (Node, error) { return c.listEntities(auth.KindUser, "Users") }
	case "UpdateUser":
		return func(c *call) (Node, error) { return c.rename(auth.KindUser, "UserName", "NewUserName") }
	case "DeleteUser":
		return deleteUser
	case "CreateAccessKey":
		return createKey
	case "ListAccessKeys":
		return listKeys
	case "UpdateAccessKey", "DeleteAccessKey":
		return changeKey
	case "GetAccessKeyLastUsed":
		return lastUsed
	case "TagUser", "UntagUser", "ListUserTags":
		return func(c *call) (Node, error) { return c.tagging(auth.KindUser, "UserName") }
	case "TagRole", "UntagRole", "ListRoleTags":
		return func(c *call) (Node, error) { return c.tagging(auth.KindRole, "RoleName") }
	}
	return nil
}

func createUser(c *call) (Node, error) {
	name, err := c.need("UserName")
	if err != nil {
		return Node{}, err
	}
	ref := c.ref(auth.KindUser, name)
	if err := c.may(auth.ARN(auth.AccountID(c.account), auth.KindUser, c.get("Path"), name), c.own); err != nil {
		return Node{}, err
	}
	if name == auth.RootName {
		return Node{}, exists("user", name)
	}
	e := &auth.Entity{Name: name, ID: auth.NewID(auth.KindUser), Path: c.get("Path"), Created: c.now().UTC().Truncate(time.Second)}
	if e.Tags, err = c.tags(); err != nil {
		return Node{}, err
	}
	if c.get("PermissionsBoundary") != "" {
		if e.Boundary, err = c.boundary(c.v); err != nil {
			return Node{}, err
		}
	}
	return el("", c.described(ref, e, true)), c.create(ref, e)
}

// self returns the record of the caller, nil for root and sessions of roles.
func (c *call) self() (auth.Ref, *auth.Entity) {
	ref := auth.Ref{Account: c.v.Root().Canonical, Kind: auth.KindUser, Name: c.who.Name}
	switch {
	case c.who.Root || c.who.Role != "":
		return ref, nil
	case c.who.Within:
		ref.Account = c.who.Canonical
	}
	return ref, c.v.Entity(ref)
}

// keyUser returns the user whose keys a call is about: the one named, or the caller. A user of the site may deal
// with its own keys without a policy.
func (c *call) keyUser() (auth.Ref, *auth.Entity, error) {
	ref, e := c.self()
	name := c.get("UserName")
	if name == "" || e != nil && !c.who.Within && strings.EqualFold(name, e.Name) {
		if e == nil {
			return ref, nil, fail(http.StatusConflict, "EntityTemporarilyUnmodifiable",
				"The keys of root are in the site's configuration; name a user, or call as one.")
		}
		return ref, e, c.may(c.arn(ref, e), true)
	}
	return c.target(auth.KindUser, "UserName")
}

func getUser(c *call) (Node, error) {
	if c.get("UserName") != "" {
		ref, e, err := c.target(auth.KindUser, "UserName")
		if err != nil {
			return Node{}, err
		}
		return el("", c.described(ref, e, true)), nil
	}
	ref, e := c.self()
	if c.own { // the account itself
		created, id, name := time.Unix(0, 0), c.account, ""
		if e != nil {
			created, name = e.Created, e.Name
		}
		arn := "arn:aws:iam::" + auth.AccountID(c.account) + ":root"
		if err := c.may(arn, true); err != nil {
			return Node{}, err
		}
		return el("", el("User", text("Path", "/"), some("UserName", name), text("UserId", id), text("Arn", arn), text("CreateDate", stamp(created)))), nil
	}
	if e == nil {
		return Node{}, invalid("Must specify userName when calling with non-User credentials")
	}
	if err := c.may(c.arn(ref, e), true); err != nil {
		return Node{}, err
	}
	return el("", c.described(ref, e, true)), nil
}

func deleteUser(c *call) (Node, error) {
	ref, _, err := c.target(auth.KindUser, "UserName")
	if err != nil {
		return Node{}, err
	}
	return Node{}, c.change(ref, func(_ *auth.View, u *auth.Entity) (*auth.Entity, error) {
		if len(u.Keys) > 0 {
			return nil, conflict("Cannot delete entity, must delete access keys first.")
		}
		if err := bare(u); err != nil {
			return nil, err
		}
		return nil, c.users.OwnsNothing(c.ctx, u)
	})
}

func status(k *auth.Key) string {
	if k.Inactive {
		return "Inactive"
	}
	return "Active"
}

func createKey(c *call) (Node, error) {
	ref, _, err := c.keyUser()
	if err != nil {
		return Node{}, err
	}
	creds, now := auth.NewCredentials(), c.now().UTC().Truncate(time.Second)
	name := ""
	err = c.change(ref, func(_ *auth.View, u *auth.Entity) (*auth.Entity, error) {
		name = u.Name
		u.Keys = append(u.Keys, auth.Key{AccessKey: creds.AccessKey, Secret: creds.SecretKey, Created: now})
		return u, nil
	})
	return el("", el("AccessKey", text("UserName", name), text("AccessKeyId", creds.AccessKey), text("Status", "Active"),
		text("SecretAccessKey", creds.SecretKey), text("CreateDate", stamp(now)))), err
}

func listKeys(c *call) (Node, error) {
	_, e, err := c.keyUser()
	if err != nil {
		return Node{}, err
	}
	keys, next, err := page(c, slices.SortedFunc(slices.Values(e.Keys), func(a, b auth.Key) int {
		return strings.Compare(a.AccessKey, b.AccessKey)
	}), func(k auth.Key) string { return k.AccessKey })
	if err != nil {
		return Node{}, err
	}
	return el("", listOf("AccessKeyMetadata", keys, func(k auth.Key) Node {
		return el("member", text("UserName", e.Name), text("AccessKeyId", k.AccessKey), text("Status", status(&k)), text("CreateDate", stamp(k.Created)))
	})).with(paged(next)), nil
}

func changeKey(c *call) (Node, error) {
	ref, _, err := c.keyUser()
	if err != nil {
		return Node{}, err
	}
	key, err := c.need("AccessKeyId")
	if err != nil {
		return Node{}, err
	}
	state := c.get("Status")
	if c.action == "UpdateAccessKey" && state != "Active" && state != "Inactive" {
		return Node{}, invalid("Status must be Active or Inactive")
	}
	return Node{}, c.change(ref, func(_ *auth.View, u *auth.Entity) (*auth.Entity, error) {
		i := slices.IndexFunc(u.Keys, func(k auth.Key) bool { return k.AccessKey == key })
		switch {
		case i < 0:
			return nil, missing("Access Key", key)
		case c.action == "DeleteAccessKey":
			u.Keys = slices.Delete(u.Keys, i, i+1)
		default:
			u.Keys[i].Inactive = state == "Inactive"
		}
		return u, nil
	})
}

func lastUsed(c *call) (Node, error) {
	key, err := c.need("AccessKeyId")
	if err != nil {
		return Node{}, err
	}
	id := c.v.Key(key)
	arn, own := "*", c.own
	if id != nil {
		arn = id.ARN()
		own = id.Canonical == c.who.Canonical
	}
	if err := c.may(arn, own); err != nil {
		return Node{}, err
	}
	// Whose key it is, is told only to whom the user belongs.
	if id == nil || id.Root || id.Canonical != c.account && !id.Site {
		return Node{}, missing("Access Key", key)
	}
	n := el("AccessKeyLastUsed", text("Region", "N/A"), text("ServiceName", "N/A"))
	if t := c.v.Used(key); !t.IsZero() {
		n = el("AccessKeyLastUsed", text("LastUsedDate", stamp(t)), text("Region", "us-east-1"), text("ServiceName", "s3"))
	}
	return el("", text("UserName", id.Name), n), nil
}

// tagging answers TagUser, UntagUser, ListUserTags and the same of roles.
func (c *call) tagging(kind auth.Kind, param string) (Node, error) {
	ref, e, err := c.target(kind, param)
	if err != nil {
		return Node{}, err
	}
	if strings.HasPrefix(c.action, "List") {
		return el("", tagList(e.Tags), text("IsTruncated", "false")), nil
	}
	tags, err := c.tags()
	if err != nil {
		return Node{}, err
	}
	return Node{}, c.change(ref, func(_ *auth.View, e *auth.Entity) (*auth.Entity, error) {
		for _, k := range c.list("TagKeys") {
			delete(e.Tags, k)
		}
		if e.Tags == nil && len(tags) > 0 {
			e.Tags = make(map[string]string)
		}
		for k, v := range tags {
			e.Tags[k] = v
		}
		return e, nil
	})
}
