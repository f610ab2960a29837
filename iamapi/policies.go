package iamapi

import (
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"firn/auth"
)

// policyOperations returns the operation on inline and managed policies with a name.
func policyOperations(action string) operation {
	for _, k := range [...]struct {
		kind auth.Kind
		name string
	}{{auth.KindUser, "User"}, {auth.KindGroup, "Group"}, {auth.KindRole, "Role"}} {
		kind, param := k.kind, k.name+"Name"
		var op func(*call, auth.Kind, string) (Node, error)
		switch action {
		case "Put" + k.name + "Policy":
			op = putInline
		case "Get" + k.name + "Policy":
			op = getInline
		case "Delete" + k.name + "Policy":
			op = deleteInline
		case "List" + k.name + "Policies":
			op = listInline
		case "Attach" + k.name + "Policy", "Detach" + k.name + "Policy":
			op = changeAttached
		case "ListAttached" + k.name + "Policies":
			op = listAttached
		case "Put" + k.name + "PermissionsBoundary", "Delete" + k.name + "PermissionsBoundary":
			if op = changeBoundary; kind == auth.KindGroup {
				return nil
			}
		default:
			continue
		}
		return func(c *call) (Node, error) { return op(c, kind, param) }
	}
	switch action {
	case "CreatePolicy":
		return createPolicy
	case "GetPolicy":
		return func(c *call) (Node, error) {
			ref, p, err := c.managed()
			if err != nil {
				return Node{}, err
			}
			return el("", c.described(ref, p, true)), nil
		}
	case "ListPolicies":
		return listPolicies
	case "DeletePolicy":
		return deletePolicy
	case "CreatePolicyVersion", "SetDefaultPolicyVersion", "DeletePolicyVersion":
		return changeVersions
	case "GetPolicyVersion":
		return getVersion
	case "ListPolicyVersions":
		return listVersions
	case "ListEntitiesForPolicy":
		return listEntitiesForPolicy
	}
	return nil
}

func putInline(c *call, kind auth.Kind, param string) (Node, error) {
	ref, _, err := c.target(kind, param)
	if err != nil {
		return Node{}, err
	}
	name, err := c.need("PolicyName")
	if err != nil {
		return Node{}, err
	}
	doc, err := c.need("PolicyDocument")
	if err != nil {
		return Node{}, err
	}
	return Node{}, c.change(ref, func(_ *auth.View, e *auth.Entity) (*auth.Entity, error) {
		if e.Inline == nil {
			e.Inline = make(map[string]string)
		}
		e.Inline[name] = doc
		return e, nil
	})
}

func getInline(c *call, kind auth.Kind, param string) (Node, error) {
	_, e, err := c.target(kind, param)
	if err != nil {
		return Node{}, err
	}
	name := c.get("PolicyName")
	doc, ok := e.Inline[name]
	if !ok {
		return Node{}, missing(string(kind)+" policy", name)
	}
	return el("", text(param, e.Name), text("PolicyName", name), text("PolicyDocument", url.PathEscape(doc))), nil
}

func deleteInline(c *call, kind auth.Kind, param string) (Node, error) {
	ref, _, err := c.target(kind, param)
	if err != nil {
		return Node{}, err
	}
	name := c.get("PolicyName")
	return Node{}, c.change(ref, func(_ *auth.View, e *auth.Entity) (*auth.Entity, error) {
		if _, ok := e.Inline[name]; !ok {
			return nil, missing(string(kind)+" policy", name)
		}
		delete(e.Inline, name)
		return e, nil
	})
}

func same(s string) string { return s }

func listInline(c *call, kind auth.Kind, param string) (Node, error) {
	_, e, err := c.target(kind, param)
	if err != nil {
		return Node{}, err
	}
	names, next, err := page(c, slices.Sorted(maps.Keys(e.Inline)), same)
	if err != nil {
		return Node{}, err
	}
	return el("", listOf("PolicyNames", names, func(s string) Node { return text("member", s) })).with(paged(next)), nil
}

// attachable returns the managed policy of an ARN that this account may attach: its own or one that comes with
// the site. An ARN without an account is either.
func (c *call) attachable(v *auth.View, arn string) (auth.Ref, *auth.Entity, error) {
	ref, p := v.Resolve(arn)
	if name, ok := strings.CutPrefix(arn, "arn:aws:iam:::policy/"); ok && p == nil {
		arn = "arn:aws:iam::aws:policy/" + name
		ref, p = v.Resolve(arn)
	}
	if p == nil || ref.Kind != auth.KindPolicy || ref.Account != c.account && !strings.HasPrefix(arn, "arn:aws:iam::aws:") {
		return ref, nil, fail(http.StatusNotFound, "NoSuchEntity", "Policy "+arn+" does not exist or is not attachable.")
	}
	return ref, p, nil
}

// boundary returns the ARN of the policy that PermissionsBoundary names, in one spelling.
func (c *call) boundary(v *auth.View) (string, error) {
	ref, p, err := c.attachable(v, c.get("PermissionsBoundary"))
	if err != nil {
		return "", err
	}
	return c.arn(ref, p), nil
}

func changeBoundary(c *call, kind auth.Kind, param string) (Node, error) {
	put := strings.HasPrefix(c.action, "Put")
	if put {
		if _, err := c.need("PermissionsBoundary"); err != nil {
			return Node{}, err
		}
	}
	ref, e, err := c.target(kind, param)
	switch {
	case err != nil:
		return Node{}, err
	case put && e.Canonical != "":
		return Node{}, fail(http.StatusBadRequest, "InvalidInput", "A user of the site is an account by itself and has no permissions boundary.")
	}
	return Node{}, c.change(ref, func(v *auth.View, e *auth.Entity) (*auth.Entity, error) {
		switch {
		case put:
			arn, err := c.boundary(v)
			e.Boundary = arn
			return e, err
		case e.Boundary == "":
			return nil, fail(http.StatusNotFound, "NoSuchEntity", "The entity has no permissions boundary.")
		}
		e.Boundary = ""
		return e, nil
	})
}

func changeAttached(c *call, kind auth.Kind, param string) (Node, error) {
	ref, _, err := c.target(kind, param)
	if err != nil {
		return Node{}, err
	}
	arn, err := c.need("PolicyArn")
	if err != nil {
		return Node{}, err
	}
	return Node{}, c.change(ref, func(v *auth.View, e *auth.Entity) (*auth.Entity, error) {
		pref, p, err := c.attachable(v, arn)
		if err != nil {
			return nil, err
		}
		arn := c.arn(pref, p) // one spelling
		at := slices.Index(e.Attached, arn)
		switch {
		case strings.HasPrefix(c.action, "Attach") && at < 0:
			e.Attached = append(e.Attached, arn)
		case strings.HasPrefix(c.action, "Detach") && at < 0:
			return nil, fail(http.StatusNotFound, "NoSuchEntity", "Policy "+arn+" was not found.")
		case strings.HasPrefix(c.action, "Detach"):
			e.Attached = slices.Delete(e.Attached, at, at+1)
		}
		return e, nil
	})
}

func listAttached(c *call, kind auth.Kind, param string) (Node, error) {
	_, e, err := c.target(kind, param)
	if err != nil {
		return Node{}, err
	}
	arns, next, err := page(c, slices.Sorted(slices.Values(e.Attached)), same)
	if err != nil {
		return Node{}, err
	}
	return el("", listOf("AttachedPolicies", arns, func(arn string) Node {
		return el("member", text("PolicyName", arn[strings.LastIndexByte(arn, '/')+1:]), text("PolicyArn", arn))
	})).with(paged(next)), nil
}

func createPolicy(c *call) (Node, error) {
	name, err := c.need("PolicyName")
	if err != nil {
		return Node{}, err
	}
	now := c.now().UTC().Truncate(time.Second)
	ref := c.ref(auth.KindPolicy, name)
	e := &auth.Entity{
		Name: name, ID: auth.NewID(auth.KindPolicy), Path: c.get("Path"), Created: now, Updated: now, Description: c.get("Description"),
	}
	if err := c.may(c.arn(ref, e), c.own); err != nil {
		return Node{}, err
	}
	doc, err := c.need("PolicyDocument")
	if err != nil {
		return Node{}, err
	}
	e.Versions = []auth.PolicyVersion{{ID: "v1", Document: doc, Created: now, Default: true}}
	if e.Tags, err = c.tags(); err != nil {
		return Node{}, err
	}
	if err := c.create(ref, e); err != nil {
		return Node{}, err
	}
	return el("", c.described(ref, e, true)), nil
}

// managed returns the managed policy that PolicyArn names.
func (c *call) managed() (auth.Ref, *auth.Entity, error) {
	arn, err := c.need("PolicyArn")
	if err != nil {
		return auth.Ref{}, nil, err
	}
	if err := c.may(arn, c.own); err != nil {
		return auth.Ref{}, nil, err
	}
	return c.attachable(c.v, arn)
}

func listPolicies(c *call) (Node, error) {
	if err := c.may(auth.ARN(auth.AccountID(c.account), auth.KindPolicy, "", "*"), c.own); err != nil {
		return Node{}, err
	}
	type item struct {
		ref auth.Ref
		p   *auth.Entity
	}
	var list []item
	add := func(account string) {
		for _, p := range c.v.List(account, auth.KindPolicy) {
			ref := auth.Ref{Account: account, Kind: auth.KindPolicy, Name: p.Name}
			if (c.get("OnlyAttached") != "true" || len(c.attachedTo(ref, p)) > 0) && strings.HasPrefix(pathOf(p), c.get("PathPrefix")) {
				list = append(list, item{ref, p})
			}
		}
	}
	if s := c.get("Scope"); s != "AWS" {
		add(c.account)
	}
	if s := c.get("Scope"); s != "Local" {
		add("aws")
	}
	name := func(i item) string { return markerOf(i.p) + "/" + i.ref.Account }
	slices.SortFunc(list, func(a, b item) int { return strings.Compare(name(a), name(b)) })
	list, next, err := page(c, list, name)
	if err != nil {
		return Node{}, err
	}
	return el("", listOf("Policies", list, func(i item) Node { return c.described(i.ref, i.p, false) })).with(paged(next)), nil
}

func pathOf(e *auth.Entity) string {
	if e.Path == "" {
		return "/"
	}
	return e.Path
}

// attachedTo returns the entities of the account that a managed policy is attached to.
func (c *call) attachedTo(ref auth.Ref, p *auth.Entity) (refs []auth.Ref) {
	arn := c.arn(ref, p)
	for _, kind := range [...]auth.Kind{auth.KindGroup, auth.KindUser, auth.KindRole} {
		for _, e := range c.v.List(c.account, kind) {
			if slices.Contains(e.Attached, arn) || e.Boundary == arn {
				refs = append(refs, c.ref(kind, e.Name))
			}
		}
	}
	return refs
}

func deletePolicy(c *call) (Node, error) {
	ref, _, err := c.managed()
	if err != nil {
		return Node{}, err
	}
	return Node{}, c.change(ref, func(v *auth.View, p *auth.Entity) (*auth.Entity, error) {
		c.v = v
		switch {
		case len(c.attachedTo(ref, p)) > 0:
			return nil, conflict("Cannot delete a policy attached to entities.")
		case len(p.Versions) > 1:
			return nil, conflict("This policy has more than one version. Before you delete a policy, you must delete the policy's versions.")
		}
		return nil, nil
	})
}

func version(v *auth.PolicyVersion, whole bool) Node {
	n := el("PolicyVersion", text("VersionId", v.ID), text("IsDefaultVersion", strconv.FormatBool(v.Default)), text("CreateDate", stamp(v.Created)))
	if whole {
		n.Kids = append(n.Kids, text("Document", url.PathEscape(v.Document)))
	}
	return n
}

func changeVersions(c *call) (Node, error) {
	ref, _, err := c.managed()
	if err != nil {
		return Node{}, err
	}
	var made Node
	err = c.change(ref, func(_ *auth.View, p *auth.Entity) (*auth.Entity, error) {
		now := c.now().UTC().Truncate(time.Second)
		if c.action == "CreatePolicyVersion" {
			n := 0
			for i := range p.Versions {
				if x, err := strconv.Atoi(p.Versions[i].ID[1:]); err == nil {
					n = max(n, x)
				}
			}
			v := auth.PolicyVersion{ID: "v" + strconv.Itoa(n+1), Document: c.get("PolicyDocument"), Created: now}
			if c.get("SetAsDefault") == "true" {
				setDefault(p, -1)
				v.Default = true
			} else if _, err := parseDocument(v.Document); err != nil {
				return nil, err
			}
			p.Versions, p.Updated = append(p.Versions, v), now
			made = el("", version(&v, false))
			return p, nil
		}
		i := slices.IndexFunc(p.Versions, func(v auth.PolicyVersion) bool { return v.ID == c.get("VersionId") })
		switch {
		case i < 0:
			return nil, missing("policy version", c.get("VersionId"))
		case c.action == "SetDefaultPolicyVersion":
			setDefault(p, i)
		case p.Versions[i].Default:
			return nil, conflict("Cannot delete the default version of a policy.")
		default:
			p.Versions = slices.Delete(p.Versions, i, i+1)
		}
		p.Updated = now
		return p, nil
	})
	return made, err
}

func setDefault(p *auth.Entity, at int) {
	for i := range p.Versions {
		p.Versions[i].Default = i == at
	}
}

func getVersion(c *call) (Node, error) {
	_, p, err := c.managed()
	if err != nil {
		return Node{}, err
	}
	for i := range p.Versions {
		if p.Versions[i].ID == c.get("VersionId") {
			return el("", version(&p.Versions[i], true)), nil
		}
	}
	return Node{}, missing("policy version", c.get("VersionId"))
}

func listVersions(c *call) (Node, error) {
	_, p, err := c.managed()
	if err != nil {
		return Node{}, err
	}
	return el("", listOf("Versions", p.Versions, func(v auth.PolicyVersion) Node { return version(&v, false) }), text("IsTruncated", "false")), nil
}

func listEntitiesForPolicy(c *call) (Node, error) {
	ref, p, err := c.managed()
	if err != nil {
		return Node{}, err
	}
	all := c.attachedTo(ref, p)
	of := func(kind auth.Kind, what string) Node {
		var refs []auth.Ref
		for _, r := range all {
			if r.Kind == kind {
				refs = append(refs, r)
			}
		}
		return listOf("Policy"+what+"s", refs, func(r auth.Ref) Node {
			e := c.v.Entity(r)
			id := e.ID
			if id == "" {
				id = e.Canonical
			}
			return el("member", text(what+"Name", e.Name), text(what+"Id", id))
		})
	}
	return el("", of(auth.KindGroup, "Group"), of(auth.KindUser, "User"), of(auth.KindRole, "Role"), text("IsTruncated", "false")), nil
}
