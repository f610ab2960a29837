package auth

import (
	"slices"
	"strings"
	"testing"

	"firn/auth/policy"
)

const bucketName = "photos"

func canonicalOf(c byte) string { return strings.Repeat(string(c), 64) }

// The cast of the tests.
var (
	theRoot  = &Identity{Name: "root", Canonical: canonicalOf('0'), Root: true}
	owner    = &Identity{Name: "owner", Canonical: canonicalOf('1'), Grants: []Grant{{Role: RoleOwner}}}
	writer   = &Identity{Name: "writer", Canonical: canonicalOf('2')} // owns some objects in the bucket
	stranger = &Identity{Name: "stranger", Canonical: canonicalOf('3'), Grants: []Grant{{Role: RoleOwner}, {Role: RoleOwner, Bucket: "films"}}}
)

func granted(name string, c byte, grants ...string) *Identity {
	id := &Identity{Name: name, Canonical: canonicalOf(c)}
	for _, s := range grants {
		g, err := ParseGrant(s)
		if err != nil {
			panic(err)
		}
		id.Grants = append(id.Grants, g)
	}
	return id
}

func cast() []*Identity {
	return []*Identity{
		nil,
		{},
		theRoot, owner, writer, stranger,
		granted("site reader", '4', "read"), granted("site writer", '5', "write"),
		granted("reader", '6', "read:films", "read:photos"), granted("writer here", '7', "write:photos"),
		granted("owner here", '8', "owner:photos"), granted("prefix reader", '9', "read:photos/in/"),
		granted("prefix writer", 'a', "write:photos/in/"), granted("prefix owner", 'b', "owner:photos/in/"),
	}
}

// What the roles and ACLs allow, written out once more: the table in actions.go is checked against these.
var (
	contentActions = words(`s3:GetObject s3:GetObjectVersion s3:GetObjectAttributes s3:GetObjectVersionAttributes
		s3:GetObjectAcl s3:GetObjectVersionAcl s3:PutObjectAcl s3:PutObjectVersionAcl`)
	listActions = words(`s3:ListBucket s3:ListBucketVersions s3:ListBucketMultipartUploads`)
	infoActions = words(`s3:GetBucketLocation s3:GetBucketVersioning s3:GetBucketObjectLockConfiguration`)
	readBucket  = append(words(`s3:GetBucketTagging s3:GetBucketCORS s3:GetLifecycleConfiguration s3:GetEncryptionConfiguration`),
		append(slices.Clone(listActions), infoActions...)...)
	readObject = words(`s3:GetObject s3:GetObjectVersion s3:GetObjectAttributes s3:GetObjectVersionAttributes
		s3:GetObjectAcl s3:GetObjectVersionAcl s3:GetObjectTagging s3:GetObjectVersionTagging s3:GetObjectRetention s3:GetObjectLegalHold`)
	writeObject = words(`s3:PutObject s3:DeleteObject s3:DeleteObjectVersion s3:PutObjectTagging s3:PutObjectVersionTagging
		s3:DeleteObjectTagging s3:DeleteObjectVersionTagging s3:PutObjectRetention s3:RestoreObject
		s3:AbortMultipartUpload s3:ListMultipartUploadParts`)
	ownObject = words(`s3:GetObjectTagging s3:GetObjectVersionTagging s3:PutObjectTagging s3:PutObjectVersionTagging
		s3:DeleteObjectTagging s3:DeleteObjectVersionTagging s3:AbortMultipartUpload s3:ListMultipartUploadParts`)
	otherObject  = words(`s3:PutObjectAcl s3:PutObjectVersionAcl s3:PutObjectLegalHold s3:BypassGovernanceRetention`)
	policyAction = words(`s3:GetBucketPolicy s3:PutBucketPolicy s3:DeleteBucketPolicy`)
	otherBucket  = append(words(`s3:GetBucketAcl s3:PutBucketAcl s3:DeleteBucket s3:PutLifecycleConfiguration s3:PutBucketVersioning
		s3:GetBucketPublicAccessBlock s3:PutBucketOwnershipControls s3:NotKnownYet`), policyAction...)
	bucketACLs = map[Permission][]string{
		PermRead:     append(words("s3:GetBucketLocation"), listActions...),
		PermWrite:    words("s3:PutObject s3:DeleteObject"),
		PermReadACP:  words("s3:GetBucketAcl"),
		PermWriteACP: words("s3:PutBucketAcl"),
	}
	objectACLs = map[Permission][]string{
		PermRead:     words("s3:GetObject s3:GetObjectVersion s3:GetObjectAttributes s3:GetObjectVersionAttributes"),
		PermReadACP:  words("s3:GetObjectAcl s3:GetObjectVersionAcl"),
		PermWriteACP: words("s3:PutObjectAcl s3:PutObjectVersionAcl"),
	}
)

func words(s string) []string { return strings.Fields(s) }

// oracle decides as Authorize should, by enumerating every reason to allow.
func oracle(r *Request) bool {
	id := r.Identity
	if id == nil {
		id = &Identity{}
	}
	known := id.Canonical != ""
	isOwner := known && id.Canonical == r.BucketOwner
	effect := policy.None
	if r.Policy != nil {
		effect = r.Policy.Evaluate(&policy.Request{
			Principal: id.Principal(),
			Action:    r.Action, Bucket: r.Bucket, Key: r.Key, Lookup: r.Lookup,
		}).Effect
	}
	if effect == policy.Deny && (!slices.Contains(policyAction, r.Action) || !isOwner && !id.Root) {
		return false
	}
	enforced := r.Ownership == BucketOwnerEnforced
	ofAnother := !enforced && r.ObjectOwner != "" && r.ObjectOwner != r.BucketOwner && slices.Contains(contentActions, r.Action)
	reasons := []bool{
		id.Root,
		r.Action == "s3:ListAllMyBuckets" && known,
		isOwner && !ofAnother,
		effect == policy.Allow && !ofAnother && (isOwner || !r.PublicAccess.RestrictPublicBuckets || !r.Policy.IsPublic()),
	}
	for _, g := range id.Grants {
		reasons = append(reasons, known && oracleGrant(g, r))
	}
	if !enforced {
		mine := known && r.ObjectOwner == id.Canonical
		reasons = append(reasons, mine && (slices.Contains(contentActions, r.Action) || slices.Contains(ownObject, r.Action)))
		for perm, actions := range bucketACLs {
			reasons = append(reasons, slices.Contains(actions, r.Action) && oracleACL(r.BucketACL, id, perm, r.PublicAccess.IgnorePublicAcls))
		}
		// Tags of an object that is yet to be put are part of putting it.
		reasons = append(reasons, r.Action == "s3:PutObjectTagging" && r.ObjectOwner == "" &&
			oracleACL(r.BucketACL, id, PermWrite, r.PublicAccess.IgnorePublicAcls))
		for perm, actions := range objectACLs {
			reasons = append(reasons, r.ObjectOwner != "" && slices.Contains(actions, r.Action) && oracleACL(r.ObjectACL, id, perm, r.PublicAccess.IgnorePublicAcls))
		}
	}
	return slices.Contains(reasons, true)
}

func oracleACL(a *ACL, id *Identity, perm Permission, ignorePublic bool) bool {
	if a == nil {
		return false
	}
	for _, g := range a.Grants {
		gives := g.Permission == perm || g.Permission == PermFullControl
		toMe := g.ID != "" && g.ID == id.Canonical
		toAll := !ignorePublic && (g.Group == AllUsers || g.Group == AuthenticatedUsers && id.Canonical != "")
		if gives && (toMe || toAll) {
			return true
		}
	}
	return false
}

func oracleGrant(g Grant, r *Request) bool {
	if r.Action == "s3:CreateBucket" {
		return g.Role == RoleOwner && g.Prefix == "" && (g.Bucket == "" || g.Bucket == r.Bucket)
	}
	if g.Bucket != r.Bucket && (g.Bucket != "" || g.Role == RoleOwner) {
		return false
	}
	var inScope bool
	switch prefix, ok := r.Lookup("s3:prefix"); {
	case g.Prefix == "":
		inScope = true
	case r.Key != "":
		inScope = strings.HasPrefix(r.Key, g.Prefix)
	case slices.Contains(listActions, r.Action):
		inScope = ok && strings.HasPrefix(prefix[0], g.Prefix)
	default:
		inScope = slices.Contains(infoActions, r.Action)
	}
	reads := slices.Contains(readObject, r.Action) || slices.Contains(readBucket, r.Action)
	writes := slices.Contains(writeObject, r.Action)
	return inScope && (g.Role == RoleOwner || reads || g.Role == RoleWrite && writes)
}

func testPolicies(t *testing.T) []*policy.Policy {
	t.Helper()
	out := []*policy.Policy{nil}
	for _, s := range []string{
		`{"Effect":"Allow","Principal":"*","Action":"s3:*","Resource":["arn:aws:s3:::photos","arn:aws:s3:::photos/*"]}`,
		`{"Effect":"Deny","Principal":"*","Action":"s3:*","Resource":["arn:aws:s3:::photos","arn:aws:s3:::photos/in/*"]}`,
		`{"Effect":"Allow","Principal":{"AWS":"` + AccountID(stranger.Canonical) + `"},"Action":["s3:Get*","s3:List*"],"Resource":["arn:aws:s3:::photos","arn:aws:s3:::photos/*"]}`,
	} {
		p, err := policy.ParseBucket([]byte(`{"Version":"2012-10-17","Statement":[`+s+`]}`), bucketName)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, p)
	}
	return out
}

// TestMatrix asks everybody, for everything, in every kind of bucket, and compares with the oracle.
func TestMatrix(t *testing.T) {
	canned := func(name, owner string) *ACL {
		a, err := CannedACL(name, owner, canonicalOf('1'))
		if err != nil {
			t.Fatal(err)
		}
		return a
	}
	toStranger := func(p Permission) *ACL {
		return &ACL{Owner: owner.Canonical, Grants: []ACLGrant{{ID: stranger.Canonical, Permission: p}}}
	}
	bucketACLs := []*ACL{
		nil, canned("public-read", owner.Canonical), canned("public-read-write", owner.Canonical),
		canned("authenticated-read", owner.Canonical), canned("log-delivery-write", owner.Canonical),
		toStranger(PermWrite), toStranger(PermReadACP), toStranger(PermFullControl),
	}
	objectACLs := []*ACL{nil, canned("public-read", writer.Canonical), canned("bucket-owner-full-control", writer.Canonical), toStranger(PermWriteACP)}
	noPrefix := func(string) ([]string, bool) { return nil, false }
	inPrefix := func(k string) ([]string, bool) { return []string{"in/2025"}, k == "s3:prefix" }
	asked, allowed := 0, map[Basis]int{}
	ask := func(r Request) {
		asked++
		d, want := Authorize(&r), oracle(&r)
		if d.Allowed != want {
			t.Fatalf("%s, oracle says %v: %+v by %+v", d.Reason(), want, r, r.Identity)
		}
		if (d.Err() == nil) != d.Allowed || strings.HasPrefix(d.Reason(), "allowed") != d.Allowed {
			t.Fatalf("allowed %v, error %v, reason %q", d.Allowed, d.Err(), d.Reason())
		}
		allowed[d.By]++
	}
	for _, id := range cast() {
		ask(Request{Identity: id, Action: "s3:ListAllMyBuckets", Lookup: noPrefix})
		for _, name := range []string{bucketName, "films", "other"} {
			ask(Request{Identity: id, Action: "s3:CreateBucket", Bucket: name, Lookup: noPrefix})
		}
		for _, p := range testPolicies(t) {
			for _, ownership := range []Ownership{"", BucketOwnerEnforced, BucketOwnerPreferred} {
				for _, pab := range []PublicAccessBlock{{}, {IgnorePublicAcls: true}, {RestrictPublicBuckets: true}} {
					for _, bacl := range bucketACLs {
						base := Request{
							Identity: id, Bucket: bucketName, BucketOwner: owner.Canonical, Policy: p,
							BucketACL: bacl, Ownership: ownership, PublicAccess: pab, Lookup: noPrefix,
						}
						for _, actions := range [][]string{readBucket, otherBucket} {
							for _, action := range actions {
								r := base
								r.Action = action
								ask(r)
								r.Lookup = inPrefix
								ask(r)
							}
						}
						for _, oacl := range objectACLs {
							for _, objectOwner := range []string{"", owner.Canonical, writer.Canonical} {
								r := base
								r.ObjectACL, r.ObjectOwner = oacl, objectOwner
								for _, actions := range [][]string{readObject, writeObject, otherObject} {
									for _, action := range actions {
										r.Action = action
										r.Key = "in/k"
										ask(r)
										r.Key = "out/k"
										ask(r)
									}
								}
							}
						}
					}
				}
			}
		}
	}
	t.Logf("%d decisions: %v", asked, allowed)
	for by := ByDefault; by <= ByPublicAccessBlock; by++ {
		if allowed[by] == 0 {
			t.Errorf("no decision was taken by rule %d", by)
		}
	}
}

func TestReasons(t *testing.T) {
	p, err := policy.ParseBucket([]byte(`{"Statement":[{"Effect":"Deny","Principal":"*","Action":"s3:PutObject","Resource":"arn:aws:s3:::photos/*"},
		{"Sid":"open","Effect":"Allow","Principal":"*","Action":"s3:GetObject","Resource":"arn:aws:s3:::photos/*"}]}`), bucketName)
	if err != nil {
		t.Fatal(err)
	}
	public, _ := CannedACL("public-read", owner.Canonical, "")
	for _, c := range []struct {
		r    Request
		want string
	}{
		{Request{Identity: theRoot, Action: "s3:PutObject", Key: "k"}, "denied by policy statement 1"},
		{Request{Action: "s3:GetObject", Key: "k"}, "allowed by policy statement 2 (open)"},
		{Request{Action: "s3:GetObject", Key: "k", PublicAccess: PublicAccessBlock{RestrictPublicBuckets: true}}, "denied: the public access block restricts the public policy"},
		{Request{Identity: theRoot, Action: "s3:DeleteObject", Key: "k"}, "allowed: root"},
		{Request{Identity: owner, Action: "s3:DeleteObject", Key: "k"}, "allowed: owner"},
		{Request{Identity: granted("g", '6', "write:photos/k"), Action: "s3:DeleteObject", Key: "k"}, "allowed by grant write:photos/k"},
		{Request{Action: "s3:ListBucket"}, "allowed by ACL: READ to http://acs.amazonaws.com/groups/global/AllUsers"},
		{Request{Action: "s3:DeleteBucket"}, "denied: nothing allows it"},
	} {
		c.r.Bucket, c.r.BucketOwner, c.r.Policy, c.r.BucketACL = bucketName, owner.Canonical, p, public
		if got := Authorize(&c.r).Reason(); got != c.want {
			t.Errorf("got %q, want %q", got, c.want)
		}
	}
}

func TestSees(t *testing.T) {
	for name, c := range map[string]struct {
		id   *Identity
		want bool
	}{
		"nobody":       {nil, false},
		"root":         {theRoot, true},
		"owner":        {owner, true},
		"stranger":     {stranger, false},
		"reader":       {granted("r", '6', "read:photos"), true},
		"prefix":       {granted("r", '6', "read:photos/x"), true},
		"other bucket": {granted("r", '6', "read:films"), false},
		"site reader":  {granted("r", '6', "read"), true},
		"site owner":   {granted("r", '6', "owner"), false},
	} {
		if got := c.id.Sees(bucketName, owner.Canonical); got != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

func TestObjectOwner(t *testing.T) {
	full, _ := CannedACL("bucket-owner-full-control", writer.Canonical, owner.Canonical)
	private := PrivateACL(writer.Canonical)
	byPolicy, byGrant := Decision{Allowed: true, By: ByPolicy}, Decision{Allowed: true, By: ByGrant}
	for _, c := range []struct {
		o    Ownership
		id   *Identity
		d    Decision
		acl  *ACL
		want string
	}{
		{"", writer, byPolicy, nil, writer.Canonical},
		{"", writer, byPolicy, full, writer.Canonical},
		{"", writer, byGrant, nil, owner.Canonical},
		{"", theRoot, Decision{Allowed: true, By: ByRoot}, nil, owner.Canonical},
		{"", nil, byPolicy, nil, owner.Canonical},
		{ObjectWriter, writer, byPolicy, full, writer.Canonical},
		{BucketOwnerPreferred, writer, byPolicy, nil, writer.Canonical},
		{BucketOwnerPreferred, writer, byPolicy, private, writer.Canonical},
		{BucketOwnerPreferred, writer, byPolicy, full, owner.Canonical},
		{BucketOwnerEnforced, writer, byPolicy, nil, owner.Canonical},
		{"", owner, Decision{Allowed: true, By: ByOwner}, nil, owner.Canonical},
	} {
		if got := c.o.ObjectOwner(owner.Canonical, c.id, c.d, c.acl); got != c.want {
			t.Errorf("%q, %+v, by %d: %.1s, want %.1s", c.o, c.id, c.d.By, got, c.want)
		}
	}
}

func BenchmarkAuthorize(b *testing.B) {
	r := &Request{Identity: granted("g", '6', "read:films", "write:photos/in/"), Action: "s3:PutObject", Bucket: bucketName, Key: "in/k", BucketOwner: owner.Canonical}
	b.ReportAllocs()
	for b.Loop() {
		if !Authorize(r).Allowed {
			b.Fatal("denied")
		}
	}
}
