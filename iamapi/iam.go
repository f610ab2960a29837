package iamapi

import (
	"cmp"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"firn/auth"
)

// iamOperations returns the operation of IAM with a name, nil where it is not offered.
func iamOperations(action string) operation {
	if op := userOperations(action); op != nil {
		return op
	}
	if op := policyOperations(action); op != nil {
		return op
	}
	switch action {
	case "CreateGroup":
		return createGroup
	case "GetGroup":
		return getGroup
	case "ListGroups":
		return func(c *call) (Node, error) { return c.listEntities(auth.KindGroup, "Groups") }
	case "UpdateGroup":
		return func(c *call) (Node, error) { return c.rename(auth.KindGroup, "GroupName", "NewGroupName") }
	case "DeleteGroup":
		return deleteGroup
	case "AddUserToGroup", "RemoveUserFromGroup":
		return changeMembership
	case "ListGroupsForUser":
		return listGroupsForUser
	case "CreateRole":
		return createRole
	case "GetRole":
		return getRole
	case "ListRoles":
		return func(c *call) (Node, error) { return c.listEntities(auth.KindRole, "Roles") }
	case "UpdateRole", "UpdateRoleDescription":
		return updateRole
	case "UpdateAssumeRolePolicy":
		return updateTrust
	case "DeleteRole":
		return deleteRole
	case "CreateOpenIDConnectProvider":
		return createProvider
	case "GetOpenIDConnectProvider", "DeleteOpenIDConnectProvider", "AddClientIDToOpenIDConnectProvider",
		"RemoveClientIDFromOpenIDConnectProvider", "UpdateOpenIDConnectProviderThumbprint":
		return changeProvider
	case "ListOpenIDConnectProviders":
		return listProviders
	case "GetAccountSummary":
		return accountSummary
	case "ListAccountAliases":
		return func(c *call) (Node, error) {
			return el("", listOf("AccountAliases", []string(nil), nil), text("IsTruncated", "false")), c.may("*", c.own)
		}
	}
	return nil
}

// described returns an entity as lists and single answers show it; whole adds what only the latter do.
func (c *call) described(ref auth.Ref, e *auth.Entity, whole bool) Node {
	what := map[auth.Kind]string{auth.KindUser: "User", auth.KindGroup: "Group", auth.KindRole: "Role", auth.KindPolicy: "Policy"}[ref.Kind]
	n := el(what,
		text("Path", cmp.Or(e.Path, "/")), text(what+"Name", e.Name), text(what+"Id", cmp.Or(e.ID, e.Canonical)),
		text("Arn", c.arn(ref, e)), text("CreateDate", stamp(e.Created)))
	switch ref.Kind {
	case auth.KindRole:
		n.Kids = append(n.Kids, text("AssumeRolePolicyDocument", url.PathEscape(e.Trust)))
		if e.Description != "" {
			n.Kids = append(n.Kids, text("Description", e.Description))
		}
		n.Kids = append(n.Kids, text("MaxSessionDuration", strconv.Itoa(cmp.Or(e.MaxSession, defaultSession))))
	case auth.KindPolicy:
		n.Kids = append(n.Kids, text("DefaultVersionId", e.Default().ID), text("AttachmentCount", strconv.Itoa(len(c.attachedTo(ref, e)))),
			text("IsAttachable", "true"), text("UpdateDate", stamp(e.Updated)))
		if e.Description != "" {
			n.Kids = append(n.Kids, text("Description", e.Description))
		}
	}
	if whole && e.Boundary != "" {
		n.Kids = append(n.Kids, el("PermissionsBoundary", text("PermissionsBoundaryType", "Policy"), text("PermissionsBoundaryArn", e.Boundary)))
	}
	if whole && len(e.Tags) > 0 {
		n.Kids = append(n.Kids, tagList(e.Tags))
	}
	return n
}

func tagList(tags map[string]string) Node {
	return listOf("Tags", slices.Sorted(maps.Keys(tags)), func(k string) Node { return el("member", text("Key", k), text("Value", tags[k])) })
}

// listEntities answers ListUsers, ListGroups and ListRoles.
func (c *call) listEntities(kind auth.Kind, name string) (Node, error) {
	if err := c.may(auth.ARN(auth.AccountID(c.account), kind, "", "*"), c.own); err != nil {
		return Node{}, err
	}
	list := c.v.List(c.account, kind)
	if prefix := c.get("PathPrefix"); prefix != "" {
		list = slices.DeleteFunc(list, func(e *auth.Entity) bool { return !strings.HasPrefix(cmp.Or(e.Path, "/"), prefix) })
	}
	list, next, err := page(c, list, markerOf)
	if err != nil {
		return Node{}, err
	}
	return el("", listOf(name, list, func(e *auth.Entity) Node { return c.described(c.ref(kind, e.Name), e, false) })).with(paged(next)), nil
}

// markerOf orders as View.List does.
func markerOf(e *auth.Entity) string { return strings.ToLower(e.Name) + "/" + e.Name }

// rename answers UpdateUser and UpdateGroup.
func (c *call) rename(kind auth.Kind, param, newParam string) (Node, error) {
	ref, _, err := c.target(kind, param)
	if err != nil {
		return Node{}, err
	}
	return Node{}, c.change(ref, func(v *auth.View, e *auth.Entity) (*auth.Entity, error) {
		if name := c.get(newParam); name != "" {
			if name == auth.RootName {
				return nil, exists(string(kind), name)
			}
			e.Name = name
		}
		if p := c.get("NewPath"); p != "" {
			e.Path = p
		}
		return e, nil
	})
}

func createGroup(c *call) (Node, error) {
	name, err := c.need("GroupName")
	if err != nil {
		return Node{}, err
	}
	ref := c.ref(auth.KindGroup, name)
	e := &auth.Entity{Name: name, ID: auth.NewID(auth.KindGroup), Path: c.get("Path"), Created: c.now().UTC()}
	if err := c.may(c.arn(ref, e), c.own); err != nil {
		return Node{}, err
	}
	return el("", c.described(ref, e, true)), c.create(ref, e)
}

// members returns the users of a group.
func (c *call) members(g *auth.Entity) []*auth.Entity {
	return slices.DeleteFunc(c.v.List(c.account, auth.KindUser), func(u *auth.Entity) bool { return !slices.Contains(u.Groups, g.ID) })
}

func getGroup(c *call) (Node, error) {
	ref, g, err := c.target(auth.KindGroup, "GroupName")
	if err != nil {
		return Node{}, err
	}
	list, next, err := page(c, c.members(g), markerOf)
	if err != nil {
		return Node{}, err
	}
	return el("", c.described(ref, g, true), listOf("Users", list, func(u *auth.Entity) Node {
		return c.described(c.ref(auth.KindUser, u.Name), u, false)
	})).with(paged(next)), nil
}

func deleteGroup(c *call) (Node, error) {
	ref, _, err := c.target(auth.KindGroup, "GroupName")
	if err != nil {
		return Node{}, err
	}
	return Node{}, c.change(ref, func(v *auth.View, g *auth.Entity) (*auth.Entity, error) {
		c.v = v
		if len(c.members(g)) > 0 {
			return nil, conflict("Cannot delete entity, must remove users from group first.")
		}
		return nil, bare(g)
	})
}

// bare returns an error where policies are left on an entity that is to be deleted.
func bare(e *auth.Entity) error {
	switch {
	case len(e.Inline) > 0:
		return conflict("Cannot delete entity, must delete policies first.")
	case len(e.Attached) > 0:
		return conflict("Cannot delete entity, must detach all policies first.")
	}
	return nil
}

func changeMembership(c *call) (Node, error) {
	_, g, err := c.target(auth.KindGroup, "GroupName")
	if err != nil {
		return Node{}, err
	}
	name, err := c.need("UserName")
	if err != nil {
		return Node{}, err
	}
	return Node{}, c.change(c.ref(auth.KindUser, name), func(v *auth.View, u *auth.Entity) (*auth.Entity, error) {
		if v.Group(g.ID) == nil {
			return nil, missing("group", g.Name)
		}
		in := slices.Contains(u.Groups, g.ID)
		switch {
		case c.action == "AddUserToGroup" && !in:
			u.Groups = append(u.Groups, g.ID)
		case c.action == "RemoveUserFromGroup" && !in:
			return nil, missing("user", name)
		case c.action == "RemoveUserFromGroup":
			u.Groups = slices.DeleteFunc(u.Groups, func(id string) bool { return id == g.ID })
		}
		return u, nil
	})
}

func listGroupsForUser(c *call) (Node, error) {
	_, u, err := c.target(auth.KindUser, "UserName")
	if err != nil {
		return Node{}, err
	}
	var groups []*auth.Entity
	for _, id := range u.Groups {
		if g := c.v.Group(id); g != nil {
			groups = append(groups, g)
		}
	}
	slices.SortFunc(groups, func(a, b *auth.Entity) int { return strings.Compare(markerOf(a), markerOf(b)) })
	groups, next, err := page(c, groups, markerOf)
	if err != nil {
		return Node{}, err
	}
	return el("", listOf("Groups", groups, func(g *auth.Entity) Node {
		return c.described(c.ref(auth.KindGroup, g.Name), g, false)
	})).with(paged(next)), nil
}

// Bounds of a role's sessions, in seconds.
const (
	defaultSession = 3600
	minSession     = 900
	maxSession     = 43200
)

func (c *call) maxSession() (int, error) {
	s := c.get("MaxSessionDuration")
	if s == "" {
		return 0, nil
	}
	n, err := strconv.Atoi(s)
	if err != nil || n < defaultSession || n > maxSession {
		return 0, invalid("MaxSessionDuration must be between 3600 and 43200")
	}
	return n, nil
}

func createRole(c *call) (Node, error) {
	name, err := c.need("RoleName")
	if err != nil {
		return Node{}, err
	}
	ref := c.ref(auth.KindRole, name)
	e := &auth.Entity{
		Name: name, ID: auth.NewID(auth.KindRole), Path: c.get("Path"), Created: c.now().UTC(), Description: c.get("Description"),
	}
	if err := c.may(c.arn(ref, e), c.own); err != nil {
		return Node{}, err
	}
	if e.Trust, err = c.need("AssumeRolePolicyDocument"); err != nil {
		return Node{}, err
	}
	if e.MaxSession, err = c.maxSession(); err != nil {
		return Node{}, err
	}
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

func getRole(c *call) (Node, error) {
	ref, e, err := c.target(auth.KindRole, "RoleName")
	if err != nil {
		return Node{}, err
	}
	return el("", c.described(ref, e, true)), nil
}

func updateRole(c *call) (Node, error) {
	ref, e, err := c.target(auth.KindRole, "RoleName")
	if err != nil {
		return Node{}, err
	}
	most, err := c.maxSession()
	if err != nil {
		return Node{}, err
	}
	err = c.change(ref, func(_ *auth.View, r *auth.Entity) (*auth.Entity, error) {
		if c.p.Has("Description") {
			r.Description = c.get("Description")
		}
		if most != 0 {
			r.MaxSession = most
		}
		e = r
		return r, nil
	})
	if c.action == "UpdateRole" || err != nil {
		return el("", Node{}), err
	}
	return el("", c.described(ref, e, true)), nil
}

func updateTrust(c *call) (Node, error) {
	ref, _, err := c.target(auth.KindRole, "RoleName")
	if err != nil {
		return Node{}, err
	}
	doc, err := c.need("PolicyDocument")
	if err != nil {
		return Node{}, err
	}
	return Node{}, c.change(ref, func(_ *auth.View, r *auth.Entity) (*auth.Entity, error) {
		r.Trust = doc
		return r, nil
	})
}

func deleteRole(c *call) (Node, error) {
	ref, _, err := c.target(auth.KindRole, "RoleName")
	if err != nil {
		return Node{}, err
	}
	return Node{}, c.change(ref, func(_ *auth.View, r *auth.Entity) (*auth.Entity, error) { return nil, bare(r) })
}

func accountSummary(c *call) (Node, error) {
	if err := c.may("*", c.own); err != nil {
		return Node{}, err
	}
	count := func(k auth.Kind) int { return len(c.v.List(c.account, k)) }
	users, others := auth.MaxInside, auth.MaxInside
	if c.account == c.v.Root().Canonical {
		users, others = auth.MaxUsers, auth.MaxEntities
	}
	m := map[string]int{
		"Users": count(auth.KindUser), "Groups": count(auth.KindGroup), "Roles": count(auth.KindRole), "Policies": count(auth.KindPolicy),
		"Providers": count(auth.KindProvider), "UsersQuota": users, "GroupsQuota": others, "RolesQuota": others, "PoliciesQuota": others,
		"AccessKeysPerUserQuota": auth.MaxKeys, "GroupsPerUserQuota": auth.MaxAttached, "VersionsPerPolicyQuota": auth.MaxPolicyVersions,
		"AttachedPoliciesPerUserQuota": auth.MaxAttached, "AttachedPoliciesPerGroupQuota": auth.MaxAttached,
		"AttachedPoliciesPerRoleQuota": auth.MaxAttached,
	}
	n := el("SummaryMap")
	for _, k := range slices.Sorted(maps.Keys(m)) {
		n.Kids = append(n.Kids, el("entry", text("key", k), text("value", strconv.Itoa(m[k]))))
	}
	n.List = true
	return el("", n), nil
}

// An identity provider is fetched from by the site, so that only the site names one.
func (c *call) siteOnly() error {
	if c.account != c.v.Root().Canonical {
		return fail(http.StatusForbidden, "AccessDenied", "Identity providers are the site's: root, or who it allowed, names them.")
	}
	return nil
}

func createProvider(c *call) (Node, error) {
	raw, err := c.need("Url")
	if err != nil {
		return Node{}, err
	}
	u, err := url.Parse(raw)
	if err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" || u.User != nil || u.RawQuery != "" || u.Fragment != "" || len(raw) > 255 {
		return Node{}, fail(http.StatusBadRequest, "InvalidInput", "The URL of a provider is https://HOST/PATH, or http:// inside a closed network.")
	}
	name := strings.TrimPrefix(strings.TrimPrefix(raw, "https://"), "http://")
	ref := c.ref(auth.KindProvider, name)
	e := &auth.Entity{
		Name: name, Created: c.now().UTC(), URL: raw, ClientIDs: c.list("ClientIDList"), Thumbprints: c.list("ThumbprintList"),
	}
	if err := c.may(c.arn(ref, e), c.own); err != nil {
		return Node{}, err
	}
	if err := c.siteOnly(); err != nil {
		return Node{}, err
	}
	if e.Tags, err = c.tags(); err != nil {
		return Node{}, err
	}
	return el("", text("OpenIDConnectProviderArn", c.arn(ref, e))), c.create(ref, e)
}

func changeProvider(c *call) (Node, error) {
	arn, err := c.need("OpenIDConnectProviderArn")
	if err != nil {
		return Node{}, err
	}
	if err := c.may(arn, c.own); err != nil {
		return Node{}, err
	}
	ref, e := c.v.Resolve(arn)
	if e == nil || ref.Kind != auth.KindProvider || ref.Account != c.account {
		return Node{}, fail(http.StatusNotFound, "NoSuchEntity", "OpenIDConnect Provider not found for arn "+arn)
	}
	if c.action == "GetOpenIDConnectProvider" {
		self := func(s string) Node { return text("member", s) }
		return el("", text("Url", e.URL), listOf("ClientIDList", e.ClientIDs, self), listOf("ThumbprintList", e.Thumbprints, self),
			text("CreateDate", stamp(e.Created))), nil
	}
	return Node{}, c.change(ref, func(_ *auth.View, e *auth.Entity) (*auth.Entity, error) {
		id := c.get("ClientID")
		switch c.action {
		case "DeleteOpenIDConnectProvider":
			return nil, nil
		case "AddClientIDToOpenIDConnectProvider":
			if id != "" && !slices.Contains(e.ClientIDs, id) {
				e.ClientIDs = append(e.ClientIDs, id)
			}
		case "RemoveClientIDFromOpenIDConnectProvider":
			e.ClientIDs = slices.DeleteFunc(e.ClientIDs, func(s string) bool { return s == id })
		default:
			e.Thumbprints = c.list("ThumbprintList")
		}
		return e, nil
	})
}

func listProviders(c *call) (Node, error) {
	if err := c.may("*", c.own); err != nil {
		return Node{}, err
	}
	return el("", listOf("OpenIDConnectProviderList", c.v.List(c.account, auth.KindProvider), func(e *auth.Entity) Node {
		return el("member", text("Arn", c.arn(c.ref(auth.KindProvider, e.Name), e)))
	})), nil
}
