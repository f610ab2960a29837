package auth

import (
	"maps"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"firn"
	"firn/auth/policy"
)

// View is all users and what belongs to them at one time. It is immutable and may be kept.
type View struct {
	root        Identity
	rootCreated time.Time
	accounts    map[string]*account  // by canonical id, root's and awsAccount included
	fold        map[string]string    // names of users of the site by their lower-case form
	keys        map[string]*keyEntry // by access key, root's included
	names       map[string]string    // canonical id to name, root's included
	limits      map[string]Limits    // canonical id to limits, where there are any
	ids         map[string]string    // account id to canonical id
	groups      map[string]*Entity   // by unique id
	total       int                  // entities, without users of the site
}

// account is what one account holds, by kind and lower-case name; users in root's account are by their very name.
type account struct {
	owner *Entity // the user of the site; nil for root
	kinds map[Kind]map[string]*Entity
}

// keyEntry is what Lookup returns.
type keyEntry struct {
	secret   string
	id       *Identity
	expires  time.Time
	inactive bool
}

// Entity returns an entity, nil where there is none. Users of the site are found by canonical id too.
func (v *View) Entity(ref Ref) *Entity {
	a := v.accounts[ref.Account]
	if a == nil {
		return nil
	}
	if e := a.kinds[ref.Kind][v.stored(ref)]; e != nil {
		return e
	}
	if ref.Kind == KindUser && ref.Account == v.root.Canonical {
		return a.kinds[KindUser][v.names[ref.Name]]
	}
	return nil
}

// stored returns the name that ref's entity has, or would have, in its account's map.
func (v *View) stored(ref Ref) string {
	if ref.Kind == KindProvider {
		return ref.Name
	}
	lower := strings.ToLower(ref.Name)
	if ref.Kind != KindUser || ref.Account != v.root.Canonical {
		return lower
	}
	if v.accounts[ref.Account].kinds[KindUser][ref.Name] == nil {
		if name, ok := v.fold[lower]; ok {
			return name
		}
	}
	return ref.Name
}

// List returns the entities of a kind by name, without regard to case.
func (v *View) List(accountID string, kind Kind) []*Entity {
	a := v.accounts[accountID]
	if a == nil {
		return nil
	}
	return slices.SortedFunc(maps.Values(a.kinds[kind]), func(x, y *Entity) int {
		if c := strings.Compare(strings.ToLower(x.Name), strings.ToLower(y.Name)); c != 0 {
			return c
		}
		return strings.Compare(x.Name, y.Name)
	})
}

// Root returns root's identity.
func (v *View) Root() *Identity { return &v.root }

// AccountOf returns the account id in ARNs of an entity: its account's, or for a user of the site its own.
func (v *View) AccountOf(ref Ref, e *Entity) string {
	switch {
	case ref.Account == awsAccount:
		return awsAccount
	case e.Canonical != "":
		return AccountID(e.Canonical)
	}
	return AccountID(ref.Account)
}

// Resolve returns what an ARN of IAM names, nil where it names nothing. An ARN without an account is the site's.
func (v *View) Resolve(arn string) (Ref, *Entity) {
	acc, kind, name, ok := ParseARN(arn)
	if !ok {
		return Ref{}, nil
	}
	ref := Ref{v.root.Canonical, kind, name}
	switch {
	case acc == awsAccount && kind == KindPolicy:
		ref.Account = awsAccount
	case acc != "":
		c, known := v.ids[acc]
		if !known {
			return Ref{}, nil
		}
		if u := v.accounts[c].owner; u != nil && kind == KindUser && strings.EqualFold(u.Name, name) {
			return Ref{v.root.Canonical, KindUser, u.Name}, u
		}
		ref.Account = c
	}
	return ref, v.Entity(ref)
}

// Group returns the group with a unique id, nil where there is none.
func (v *View) Group(id string) *Entity { return v.groups[id] }

// Key returns who an access key belongs to, nil where nobody has it.
func (v *View) Key(accessKey string) *Identity {
	if e := v.keys[accessKey]; e != nil {
		return e.id
	}
	return nil
}

// Identity returns the identity of a user of the site, as one of its keys without a policy of its own has it; nil
// where there is none.
func (v *View) Identity(name string) *Identity {
	e := v.accounts[v.root.Canonical].kinds[KindUser][name]
	if e == nil {
		return nil
	}
	id := v.userIdentity(v.root.Canonical, e)
	return &id
}

// Used returns when an access key was last used, to about a minute; zero where it never was.
func (v *View) Used(accessKey string) time.Time {
	if e := v.keys[accessKey]; e != nil && e.id.used != nil {
		if sec := e.id.used.Load(); sec > 0 {
			return time.Unix(sec, 0).UTC()
		}
	}
	return time.Time{}
}

// Trust returns what the trust policy of a role says to who.
func (v *View) Trust(role *Entity, who policy.Principal, action string, look policy.Lookup) policy.Result {
	return role.trust.Evaluate(&policy.Request{Principal: who, Action: action, Resource: "*", Lookup: look})
}

// with returns a view with one entity of an account replaced: old is removed, e added, either may be nil.
func (v *View) with(ref Ref, old string, e *Entity) *View {
	n := *v
	n.accounts = maps.Clone(v.accounts)
	a := account{}
	if o := n.accounts[ref.Account]; o != nil {
		a = *o
	}
	a.kinds = maps.Clone(a.kinds)
	if a.kinds == nil {
		a.kinds = make(map[Kind]map[string]*Entity)
	}
	m := maps.Clone(a.kinds[ref.Kind])
	if m == nil {
		m = make(map[string]*Entity)
	}
	if prev := m[old]; prev != nil {
		delete(m, old)
		if prev.Canonical != "" && e == nil {
			delete(n.accounts, prev.Canonical) // with all that is in it
		}
	}
	if e != nil {
		if e.Canonical != "" {
			own := account{}
			if o := n.accounts[e.Canonical]; o != nil {
				own = *o
			}
			own.owner = e
			n.accounts[e.Canonical] = &own
		}
		name := strings.ToLower(e.Name)
		if ref.Kind == KindProvider || ref.Kind == KindUser && ref.Account == v.root.Canonical {
			name = e.Name
		}
		m[name] = e
	}
	a.kinds[ref.Kind] = m
	n.accounts[ref.Account] = &a
	return &n
}

// index fills what is derived from v.accounts. used are the counters of keys, which it completes.
func (v *View) index(rootSecret string, used map[string]*atomic.Int64) error {
	v.keys, v.names, v.ids = make(map[string]*keyEntry), make(map[string]string), make(map[string]string)
	v.limits = make(map[string]Limits)
	v.fold, v.groups, v.total = make(map[string]string), make(map[string]*Entity), 0
	v.keys[v.root.AccessKey] = &keyEntry{secret: rootSecret, id: &v.root}
	v.names[v.root.Canonical] = RootName
	for c, a := range v.accounts {
		if c == awsAccount {
			continue
		}
		v.ids[AccountID(c)] = c
		if a.owner != nil {
			v.names[c] = a.owner.Name
			if a.owner.Limits != (Limits{}) {
				v.limits[c] = a.owner.Limits
			}
		}
		for kind, m := range a.kinds {
			if kind == KindUser && c == v.root.Canonical {
				for name := range m {
					v.fold[strings.ToLower(name)] = name
				}
			} else {
				v.total += len(m)
			}
			if kind == KindGroup {
				for _, g := range m {
					v.groups[g.ID] = g
				}
			}
		}
	}
	for c, a := range v.accounts {
		for _, e := range a.kinds[KindUser] {
			id := v.userIdentity(c, e)
			for i := range e.Keys {
				k := &e.Keys[i]
				if v.keys[k.AccessKey] != nil {
					return firn.E("", k.AccessKey, ErrKeyExists)
				}
				u := used[k.AccessKey]
				if u == nil {
					u = new(atomic.Int64)
					used[k.AccessKey] = u
				}
				own := id
				own.AccessKey, own.narrow, own.used = k.AccessKey, k.narrow, u
				v.keys[k.AccessKey] = &keyEntry{secret: k.Secret, id: &own, expires: k.Expires, inactive: k.Inactive}
			}
		}
	}
	return nil
}

// userIdentity returns the identity of a user, without a key.
func (v *View) userIdentity(accountID string, e *Entity) Identity {
	id := Identity{
		Name: e.Name, Canonical: accountID, Within: e.Canonical == "", Site: accountID == v.root.Canonical,
		UserID: e.ID, Path: e.Path, Tags: e.Tags, Grants: e.Grants,
	}
	if e.Canonical != "" {
		id.Canonical = e.Canonical
	}
	id.Account = AccountID(id.Canonical)
	id.policies, id.boundary = v.policiesOf(nil, e), v.boundaryOf(e)
	for _, g := range e.Groups {
		if group := v.groups[g]; group != nil {
			id.policies = v.policiesOf(id.policies, group)
		}
	}
	return id
}

// policiesOf appends the identity policies of an entity. An ARN that names no policy any more adds none.
func (v *View) policiesOf(list []NamedPolicy, e *Entity) []NamedPolicy {
	list = append(list, e.inline...)
	for _, arn := range e.Attached {
		if _, p := v.Resolve(arn); p != nil && p.doc != nil {
			list = append(list, NamedPolicy{p.Name, p.doc})
		}
	}
	return list
}

// boundaryOf returns the permissions boundary of an entity, nil where it has none. One that names no policy any more
// allows nothing.
func (v *View) boundaryOf(e *Entity) *NamedPolicy {
	if e.Boundary == "" {
		return nil
	}
	if _, p := v.Resolve(e.Boundary); p != nil && p.doc != nil {
		return &NamedPolicy{p.Name, p.doc}
	}
	return &NamedPolicy{Name: e.Boundary}
}

// freeCanonical returns a new canonical id whose account id no other has either.
func (v *View) freeCanonical() string {
	for {
		c := newCanonical()
		if _, taken := v.ids[AccountID(c)]; !taken {
			return c
		}
	}
}

func (v *View) user(e *Entity) User {
	u := User{
		Name: e.Name, Canonical: e.Canonical, Account: AccountID(e.Canonical), Created: e.Created, Within: e.Canonical == "",
		Grants: slices.Clone(e.Grants), Limits: e.Limits, Keys: make([]KeyInfo, len(e.Keys)),
	}
	if u.Within {
		u.Account = v.root.Account
	}
	for i := range e.Keys {
		k := &e.Keys[i]
		u.Keys[i] = KeyInfo{
			AccessKey: k.AccessKey, Created: k.Created, Expires: k.Expires, Used: v.Used(k.AccessKey), Inactive: k.Inactive,
			Narrowed: k.Policy != "", Note: k.Note,
		}
	}
	for _, id := range e.Groups {
		if g := v.groups[id]; g != nil {
			u.Groups = append(u.Groups, g.Name)
		}
	}
	for _, p := range v.policiesOf(nil, e) {
		u.Policies = append(u.Policies, p.Name)
	}
	return u
}
