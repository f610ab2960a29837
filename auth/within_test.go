package auth

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"firn/auth/policy"
)

// rule is a statement of a policy as the oracle reads it; the policy under test is parsed from its JSON.
type rule struct {
	effect  string
	actions []string // whole names, or "s3:*"
	prefix  string   // of keys; statements speak of the bucket and of the keys below
	who     string   // of a bucket's policy: "*" or an ARN
}

func (r rule) json() map[string]any {
	s := map[string]any{
		"Effect": r.effect, "Action": r.actions,
		"Resource": []string{"arn:aws:s3:::" + bucketName, "arn:aws:s3:::" + bucketName + "/" + r.prefix + "*"},
	}
	if r.who == "*" {
		s["Principal"] = "*"
	} else if r.who != "" {
		s["Principal"] = map[string]any{"AWS": r.who}
	}
	return s
}

func (r rule) about(action, key string) bool {
	return (r.actions[0] == "s3:*" || slices.Contains(r.actions, action)) && (key == "" || strings.HasPrefix(key, r.prefix))
}

func document(t *testing.T, rules []rule) []byte {
	t.Helper()
	var list []any
	for _, r := range rules {
		list = append(list, r.json())
	}
	b, err := json.Marshal(map[string]any{"Version": "2012-10-17", "Statement": list})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// actor is a caller as the oracle sees it.
type actor struct {
	name    string
	account *Identity // whose account
	role    bool      // a session of the role "job", else the user "sub"
	itself  bool      // the account itself
	site    bool      // policies are given by the site
}

func (a actor) arns() (account, self, session string) {
	id := AccountID(a.account.Canonical)
	account = "arn:aws:iam::" + id + ":root"
	switch {
	case a.role:
		return account, "arn:aws:iam::" + id + ":role/job", "arn:aws:sts::" + id + ":assumed-role/job/run"
	case a.itself:
		return account, "arn:aws:iam::" + id + ":user/" + a.account.Name, ""
	}
	return account, "arn:aws:iam::" + id + ":user/sub", ""
}

func (a actor) identity(identity, session *policy.Policy) *Identity {
	id := &Identity{Canonical: a.account.Canonical, Account: AccountID(a.account.Canonical), Within: !a.itself, Site: a.site, Name: "sub"}
	if a.role {
		id.Name, id.Role, id.Session = "job/run", "job", "run"
	}
	if a.itself {
		id.Name = a.account.Name
	}
	if identity != nil {
		id.policies = []NamedPolicy{{"test", identity}}
	}
	if session != nil {
		id.narrow = &NamedPolicy{"session", session}
	}
	return id
}

// flow decides along "Policy evaluation logic" of the IAM user guide, within one account and across accounts, with
// what a site adds: policies it gave reach every bucket, and an account may do anything in its own.
func (a actor) flow(action, key string, bucketOwner *Identity, identity, boundary, session, bucket []rule) bool {
	account, self, sessionARN := a.arns()
	says := func(rules []rule, effect string, whos ...string) bool {
		return slices.ContainsFunc(rules, func(r rule) bool {
			return r.effect == effect && r.about(action, key) && (len(whos) == 0 || slices.Contains(whos, r.who))
		})
	}
	// 1. An explicit deny anywhere.
	if says(identity, "Deny") || says(boundary, "Deny") || says(session, "Deny") || says(bucket, "Deny", "*", account, self, sessionARN) {
		return false
	}
	// 2. What the session may do at most: only a bucket policy that names the session itself goes past it.
	namesSession := sessionARN != "" && says(bucket, "Allow", sessionARN)
	if session != nil && !says(session, "Allow") && !namesSession {
		return false
	}
	sameAccount := a.account == bucketOwner
	// A boundary is the most that identity policies can give. What a bucket's policy gives a user of the same account by
	// name is beside it; what it gives a role is within it, a session of the role beside it.
	within := boundary == nil || says(boundary, "Allow")
	byIdentity := says(identity, "Allow") && within
	direct := says(bucket, "Allow", "*", self) && (within || !a.role) || namesSession
	byBucket := direct || says(bucket, "Allow", account)
	switch {
	case a.itself && (sameAccount || byBucket || byIdentity):
		return true
	case a.site && byIdentity:
		return true
	case sameAccount:
		return byIdentity || direct
	}
	return byIdentity && byBucket
}

// TestMatrixWithin asks for users, roles and narrowed keys with every combination of policies.
func TestMatrixWithin(t *testing.T) {
	get, put, list := []string{"s3:GetObject"}, []string{"s3:PutObject", "s3:DeleteObject"}, []string{"s3:ListBucket"}
	identities := [][]rule{
		nil,
		{{effect: "Allow", actions: get}},
		{{effect: "Allow", actions: []string{"s3:*"}}},
		{{effect: "Allow", actions: []string{"s3:*"}, prefix: "in/"}},
		{{effect: "Allow", actions: []string{"s3:*"}}, {effect: "Deny", actions: put}},
		{{effect: "Deny", actions: list}},
	}
	sessions := [][]rule{nil, {{effect: "Allow", actions: get}}, {{effect: "Allow", actions: []string{"s3:*"}, prefix: "in/"}}, {{effect: "Deny", actions: get}}}
	boundaries := [][]rule{nil, {{effect: "Allow", actions: get}}, {{effect: "Allow", actions: []string{"s3:*"}, prefix: "in/"}, {effect: "Deny", actions: list}}}
	actors := []actor{
		{name: "user of the owner", account: owner},
		{name: "user of another", account: stranger},
		{name: "role of the owner", account: owner, role: true},
		{name: "role of another", account: stranger, role: true},
		{name: "user of the site", account: theRoot, site: true},
		{name: "another account", account: stranger, itself: true, site: true},
		{name: "the owner", account: owner, itself: true, site: true},
	}
	asked, allowed := 0, map[Basis]int{}
	for _, a := range actors {
		account, self, session := a.arns()
		buckets := [][]rule{
			nil,
			{{effect: "Allow", actions: get, who: "*"}},
			{{effect: "Allow", actions: []string{"s3:*"}, who: account}},
			{{effect: "Allow", actions: get, who: self}},
			{{effect: "Allow", actions: []string{"s3:*"}, who: self}, {effect: "Deny", actions: put, who: "*"}},
			{{effect: "Deny", actions: []string{"s3:*"}, who: self}},
			{{effect: "Allow", actions: []string{"s3:*"}, who: account}, {effect: "Allow", actions: get, who: self}},
		}
		if session != "" {
			buckets = append(buckets, []rule{{effect: "Allow", actions: []string{"s3:*"}, who: session}},
				[]rule{{effect: "Allow", actions: []string{"s3:*"}, who: account}, {effect: "Allow", actions: get, who: session}})
		}
		for _, ir := range identities {
			for _, sr := range sessions {
				var identity, narrow *policy.Policy
				for p, rules := range map[**policy.Policy][]rule{&identity: ir, &narrow: sr} {
					if rules == nil {
						continue
					}
					var err error
					if *p, err = policy.ParseIdentity(document(t, rules)); err != nil {
						t.Fatal(err)
					}
				}
				for _, bound := range boundaries {
					if bound != nil && a.itself {
						continue // accounts have none
					}
					id := a.identity(identity, narrow)
					if bound != nil {
						p, err := policy.ParseIdentity(document(t, bound))
						if err != nil {
							t.Fatal(err)
						}
						id.boundary = &NamedPolicy{"bound", p}
					}
					for _, br := range buckets {
						var bp *policy.Policy
						if br != nil {
							var err error
							if bp, err = policy.ParseBucket(document(t, br), bucketName); err != nil {
								t.Fatal(err)
							}
						}
						for _, q := range [...]struct{ action, key string }{
							{"s3:GetObject", "in/k"},
							{"s3:GetObject", "k"},
							{"s3:PutObject", "in/k"},
							{"s3:DeleteObject", "k"},
							{"s3:ListBucket", ""},
							{"s3:GetBucketTagging", ""},
							{"s3:PutBucketTagging", ""},
						} {
							for _, ownership := range []Ownership{"", BucketOwnerEnforced} {
								r := &Request{
									Identity: id, Action: q.action, Bucket: bucketName, Key: q.key, BucketOwner: owner.Canonical, Policy: bp, Ownership: ownership,
								}
								d := Authorize(r)
								if want := a.flow(q.action, q.key, owner, ir, bound, sr, br); d.Allowed != want {
									t.Fatalf("%s, %s on %q: %s, oracle says %v; identity %v, boundary %v, session %v, bucket %v", a.name, q.action, q.key, d.Reason(), want, ir, bound, sr, br)
								}
								if strings.HasPrefix(d.Reason(), "allowed") != d.Allowed {
									t.Fatalf("reason %q", d.Reason())
								}
								asked++
								allowed[d.By]++
							}
						}
					}
				}
			}
		}
	}
	t.Logf("%d decisions: %v", asked, allowed)
	for _, by := range []Basis{ByDefault, ByPolicy, ByOwner, ByIdentity, ByBoundary, BySession} {
		if allowed[by] == 0 {
			t.Errorf("no decision was taken by rule %d", by)
		}
	}
}

// An ACL reaches into an account only as far as a policy of the account does.
func TestWithinByACL(t *testing.T) {
	public, _ := CannedACL("public-read", owner.Canonical, "")
	all, err := policy.ParseIdentity([]byte(`{"Statement":{"Effect":"Allow","Action":"s3:*","Resource":"*"}}`))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		p    *policy.Policy
		acl  *ACL
		pab  PublicAccessBlock
		want bool
	}{
		{nil, public, PublicAccessBlock{}, false},
		{all, nil, PublicAccessBlock{}, false},
		{all, public, PublicAccessBlock{}, true},
		{all, public, PublicAccessBlock{IgnorePublicAcls: true}, false},
		{all, &ACL{Owner: owner.Canonical, Grants: []ACLGrant{{ID: stranger.Canonical, Permission: PermRead}}}, PublicAccessBlock{}, true},
	} {
		id := actor{account: stranger}.identity(c.p, nil)
		d := Authorize(&Request{
			Identity: id, Action: "s3:ListBucket", Bucket: bucketName, BucketOwner: owner.Canonical, BucketACL: c.acl, PublicAccess: c.pab,
		})
		if d.Allowed != c.want {
			t.Errorf("%+v: %s", c, d.Reason())
		}
	}
}

// What a policy adds to a request, with 50 statements that all have to be looked at.
func BenchmarkAuthorize50(b *testing.B) {
	var rules []rule
	for range 25 {
		rules = append(rules, rule{effect: "Deny", actions: []string{"s3:GetObject", "s3:PutObject"}, prefix: "some/other/place/", who: "*"},
			rule{effect: "Allow", actions: []string{"s3:GetObject"}, prefix: "some/third/place/", who: "*"})
	}
	var list []any
	for _, r := range rules {
		s := r.json()
		s["Condition"] = map[string]any{"IpAddress": map[string]any{"aws:SourceIp": "10.0.0.0/8"}}
		list = append(list, s)
	}
	doc, err := json.Marshal(map[string]any{"Version": "2012-10-17", "Statement": list})
	if err != nil {
		b.Fatal(err)
	}
	p, err := policy.ParseBucket(doc, bucketName)
	if err != nil {
		b.Fatal(err)
	}
	for _, c := range []struct {
		name string
		p    *policy.Policy
	}{{"none", nil}, {"50", p}} {
		b.Run(c.name, func(b *testing.B) {
			r := &Request{
				Identity: owner, Action: "s3:GetObject", Bucket: bucketName, Key: "some/longer/key/of/an/object.jpg", BucketOwner: owner.Canonical,
				Policy: c.p, Lookup: func(string) ([]string, bool) { return []string{"10.1.2.3"}, true },
			}
			b.ReportAllocs()
			for b.Loop() {
				if !Authorize(r).Allowed {
					b.Fatal("denied")
				}
			}
		})
	}
}

// A boundary whose policy is gone allows nothing.
func TestBoundaryThatIsGone(t *testing.T) {
	all, err := policy.ParseIdentity([]byte(`{"Statement":{"Effect":"Allow","Action":"*","Resource":"*"}}`))
	if err != nil {
		t.Fatal(err)
	}
	id := actor{account: owner, site: true}.identity(all, nil)
	r := &Request{Identity: id, Action: "s3:GetObject", Bucket: bucketName, Key: "k", BucketOwner: owner.Canonical}
	if !Authorize(r).Allowed || !id.Sees(bucketName, stranger.Canonical) {
		t.Fatal("denied without a boundary")
	}
	id.boundary = &NamedPolicy{Name: "gone"}
	if Authorize(r).Allowed || id.Manages("iam:GetUser", "*", false, nil).Allowed || id.Sees(bucketName, stranger.Canonical) {
		t.Error("allowed within a boundary that is gone")
	}
}
