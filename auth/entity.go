package auth

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"firn"
	"firn/auth/policy"
)

// Kind is what an entity of an account is, as ARNs write it.
type Kind string

// Kinds of entities.
const (
	KindUser     Kind = "user"
	KindGroup    Kind = "group"
	KindRole     Kind = "role"
	KindPolicy   Kind = "policy"
	KindProvider Kind = "oidc-provider"
)

// Ref names an entity. Names are compared without regard to case, as AWS does, except those of users of the site
// that differ in nothing else.
type Ref struct {
	Account string // canonical id; root's for what is the site's own
	Kind    Kind
	Name    string
}

// Entity is a user, group, role, managed policy or identity provider. What View hands out must not be changed.
//
// A user of the site has a canonical id, is an account by itself and may have grants; every other user is within
// the account of whoever made it. The stored form is in docs/format/users.md.
type Entity struct {
	Version  int               `json:"v"`
	Name     string            `json:"name"`
	ID       string            `json:"id,omitempty"`   // unique id such as AIDA...; "" for users of the site
	Path     string            `json:"path,omitempty"` // "" is "/"
	Created  time.Time         `json:"created"`
	Tags     map[string]string `json:"tags,omitempty"`
	Inline   map[string]string `json:"policies,omitempty"` // documents by name; of users, groups and roles
	Attached []string          `json:"attached,omitempty"` // ARNs of managed policies; of users, groups and roles
	Boundary string            `json:"boundary,omitempty"` // ARN of the managed policy that bounds users within accounts and roles

	Canonical string   `json:"canonical,omitempty"` // of users of the site
	Grants    []Grant  `json:"grants,omitempty"`    // of users of the site
	Limits    Limits   `json:"limits,omitzero"`     // of users of the site
	Keys      []Key    `json:"keys,omitempty"`      // of users
	Groups    []string `json:"groups,omitempty"`    // ids of the groups a user is in

	Description string `json:"description,omitempty"` // of roles and managed policies
	Trust       string `json:"trust,omitempty"`       // trust policy of a role
	MaxSession  int    `json:"max_session,omitempty"` // longest session of a role in seconds; 0 is 3600

	Versions []PolicyVersion `json:"versions,omitempty"` // of a managed policy, oldest first
	Updated  time.Time       `json:"updated,omitzero"`

	// Of an identity provider; Name is its URL without https://.
	URL         string   `json:"url,omitempty"`
	ClientIDs   []string `json:"client_ids,omitempty"`
	Thumbprints []string `json:"thumbprints,omitempty"`

	inline []NamedPolicy  // Inline, parsed, by name
	doc    *policy.Policy // of a managed policy, its default version
	trust  *policy.Policy
}

// PolicyVersion is one version of a managed policy.
type PolicyVersion struct {
	ID       string    `json:"id"` // "v1"
	Document string    `json:"document"`
	Created  time.Time `json:"created"`
	Default  bool      `json:"default,omitempty"`
}

// Key is an access key. Seal names how Secret is protected at rest: "" is not at all, sealBox is by the store's
// Sealer. In memory the secret is plain. A build that does not know the scheme refuses to open the store.
type Key struct {
	AccessKey string    `json:"access_key"`
	Created   time.Time `json:"created"`
	Expires   time.Time `json:"expires,omitzero"`
	Inactive  bool      `json:"inactive,omitempty"`
	Policy    string    `json:"policy,omitempty"` // narrows what the key may do
	Note      string    `json:"note,omitempty"`
	Seal      string    `json:"seal,omitempty"`
	Secret    string    `json:"secret"`

	narrow *NamedPolicy
}

// Limits of one entity.
const (
	MaxAttached       = 20 // managed policies attached to an entity, and groups of a user
	MaxInline         = 32 // inline policies of an entity
	MaxPolicyVersions = 5  // versions of a managed policy
	MaxTags           = 50
	MaxClientIDs      = 100
)

// compile parses the documents of the entity. Errors are *policy.Error where a document is at fault.
func (e *Entity) compile() error {
	e.inline, e.doc, e.trust = nil, nil, nil
	for _, name := range slices.Sorted(maps.Keys(e.Inline)) {
		p, err := policy.ParseIdentity([]byte(e.Inline[name]))
		if err != nil {
			return err
		}
		e.inline = append(e.inline, NamedPolicy{name, p})
	}
	for i := range e.Keys {
		k := &e.Keys[i]
		if k.narrow = nil; k.Policy == "" {
			continue
		}
		p, err := policy.ParseIdentity([]byte(k.Policy))
		if err != nil {
			return err
		}
		k.narrow = &NamedPolicy{"of key " + k.AccessKey, p}
	}
	var err error
	if e.Trust != "" {
		if e.trust, err = policy.ParseTrust([]byte(e.Trust)); err != nil {
			return err
		}
	}
	if v := e.Default(); v != nil {
		e.doc, err = policy.ParseIdentity([]byte(v.Document))
	}
	return err
}

// Default returns the version of a managed policy that is in force, nil where there is none.
func (e *Entity) Default() *PolicyVersion {
	for i := range e.Versions {
		if e.Versions[i].Default {
			return &e.Versions[i]
		}
	}
	return nil
}

func (e *Entity) clone() *Entity {
	c := *e
	c.Tags, c.Inline = maps.Clone(e.Tags), maps.Clone(e.Inline)
	c.Attached, c.Grants, c.Keys, c.Groups = slices.Clone(e.Attached), slices.Clone(e.Grants), slices.Clone(e.Keys), slices.Clone(e.Groups)
	c.Versions, c.ClientIDs, c.Thumbprints = slices.Clone(e.Versions), slices.Clone(e.ClientIDs), slices.Clone(e.Thumbprints)
	return &c
}

// check refuses what breaks a limit or a rule of names.
func (e *Entity) check(kind Kind) error {
	if len(e.Attached) > MaxAttached || len(e.Groups) > MaxAttached || len(e.Inline) > MaxInline || len(e.Keys) > MaxKeys ||
		len(e.Versions) > MaxPolicyVersions || len(e.Tags) > MaxTags || len(e.ClientIDs) > MaxClientIDs {
		return ErrLimit
	}
	if e.Path != "" && !validPath(e.Path) {
		return fmt.Errorf("%w: a path has up to 512 characters, begins and ends with a slash", ErrInvalidUser)
	}
	if kind == KindProvider {
		return nil
	}
	if e.Boundary != "" && (kind != KindUser && kind != KindRole || e.Canonical != "") {
		return fmt.Errorf("%w: only users within accounts and roles have a permissions boundary", ErrInvalidUser)
	}
	most := 64
	if kind == KindPolicy || kind == KindGroup {
		most = 128
	}
	if !allIn(e.Name, 1, most, "+=,.@_-") {
		return fmt.Errorf("%w: a name has 1 to %d letters, digits or +=,.@_-", ErrInvalidUser, most)
	}
	for name := range e.Inline {
		if !allIn(name, 1, 128, "+=,.@_-") {
			return fmt.Errorf("%w: the name of a policy has 1 to 128 letters, digits or +=,.@_-", ErrInvalidUser)
		}
	}
	return validGrants(e.Grants)
}

func validPath(p string) bool {
	if len(p) > 512 || p[0] != '/' || p[len(p)-1] != '/' {
		return false
	}
	for i := range len(p) {
		if p[i] <= ' ' || p[i] > '~' {
			return false
		}
	}
	return true
}

// ARN returns the ARN of an entity; path "" is "/".
func ARN(account string, kind Kind, path, name string) string {
	if path == "" {
		path = "/"
	}
	return "arn:aws:iam::" + account + ":" + string(kind) + path + name
}

// ParseARN takes an ARN of IAM apart. An empty account is the site. ok is false for one that names no entity.
func ParseARN(s string) (account string, kind Kind, name string, ok bool) {
	p := strings.SplitN(s, ":", 6)
	if len(p) != 6 || p[0] != "arn" || p[2] != "iam" || p[3] != "" {
		return "", "", "", false
	}
	k, rest, _ := strings.Cut(p[5], "/")
	kind = Kind(k)
	switch kind {
	case KindProvider:
		return p[4], kind, rest, rest != ""
	case KindUser, KindGroup, KindRole, KindPolicy:
		name = rest[strings.LastIndexByte(rest, '/')+1:]
		return p[4], kind, name, name != ""
	}
	return "", "", "", false
}

// idPrefix begins the unique ids of a kind, as AWS has them.
func (k Kind) idPrefix() string {
	switch k {
	case KindUser:
		return "AIDA"
	case KindGroup:
		return "AGPA"
	case KindRole:
		return "AROA"
	}
	return "ANPA"
}

// NewID returns a new unique id for an entity of the kind.
func NewID(k Kind) string { return k.idPrefix() + randomText(17, upperDigits) }

// managedByAWS are the managed policies of AWS that tools attach by name, with what they say about the services
// that are here.
var managedByAWS = map[string]string{
	"AdministratorAccess":    `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"*","Resource":"*"}]}`,
	"AmazonS3FullAccess":     `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":["s3:*"],"Resource":"*"}]}`,
	"AmazonS3ReadOnlyAccess": `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":["s3:Get*","s3:List*"],"Resource":"*"}]}`,
	"IAMFullAccess":          `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":["iam:*"],"Resource":"*"}]}`,
	"IAMReadOnlyAccess":      `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":["iam:Get*","iam:List*"],"Resource":"*"}]}`,
}

// awsAccount is the account of managed policies that come with the site.
const awsAccount = "aws"

// awsPolicies returns managedByAWS as entities by lower-case name.
func awsPolicies() (map[string]*Entity, error) {
	m := make(map[string]*Entity, len(managedByAWS))
	for name, doc := range managedByAWS {
		e := &Entity{
			Version: recordVersion, Name: name, ID: "ANPA" + strings.ToUpper(name), Created: time.Unix(0, 0).UTC(),
			Versions: []PolicyVersion{{ID: "v1", Document: doc, Created: time.Unix(0, 0).UTC(), Default: true}},
		}
		if err := e.compile(); err != nil {
			return nil, firn.E("parse policy", name, err)
		}
		m[strings.ToLower(name)] = e
	}
	return m, nil
}

// encode returns the stored form, with secrets sealed by s where it is not nil.
func (e *Entity) encode(s Sealer) ([]byte, error) {
	c := *e
	c.Version = recordVersion
	c.Keys = slices.Clone(e.Keys)
	for i := range c.Keys {
		if err := c.Keys[i].seal(s); err != nil {
			return nil, err
		}
	}
	return json.Marshal(&c)
}
