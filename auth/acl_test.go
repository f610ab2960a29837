package auth

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"firn"
)

func TestCannedACLs(t *testing.T) {
	const o, b = "owner", "bucket"
	full := ACLGrant{ID: o, Permission: PermFullControl}
	all, signed, logs := ACLGrant{Group: AllUsers}, ACLGrant{Group: AuthenticatedUsers}, ACLGrant{Group: LogDelivery}
	with := func(g ACLGrant, p Permission) ACLGrant { g.Permission = p; return g }
	for _, c := range []struct {
		name, bucketOwner string
		want              []ACLGrant
		public            bool
	}{
		{"private", b, []ACLGrant{full}, false},
		{"aws-exec-read", b, []ACLGrant{full}, false},
		{"public-read", b, []ACLGrant{with(all, PermRead), full}, true},
		{"public-read-write", "", []ACLGrant{with(all, PermRead), with(all, PermWrite), full}, true},
		{"authenticated-read", b, []ACLGrant{with(signed, PermRead), full}, true},
		{"log-delivery-write", "", []ACLGrant{with(logs, PermWrite), with(logs, PermReadACP), full}, false},
		{"bucket-owner-read", b, []ACLGrant{full, {ID: b, Permission: PermRead}}, false},
		{"bucket-owner-full-control", b, []ACLGrant{full, {ID: b, Permission: PermFullControl}}, false},
		{"bucket-owner-full-control", o, []ACLGrant{full}, false},
		{"bucket-owner-read", "", []ACLGrant{full}, false},
	} {
		a, err := CannedACL(c.name, o, c.bucketOwner)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(&ACL{o, c.want}, a); diff != "" {
			t.Errorf("%s: %s", c.name, diff)
		}
		if a.Public() != c.public || a.Private() != (len(c.want) == 1) {
			t.Errorf("%s: public %v, private %v", c.name, a.Public(), a.Private())
		}
		got, err := DecodeACL(a.Encode())
		if diff := cmp.Diff(a, got); diff != "" || err != nil {
			t.Errorf("%s, stored and read: %v %s", c.name, err, diff)
		}
	}
	if _, err := CannedACL("public-raed", o, b); !errors.Is(err, ErrInvalidACL) {
		t.Errorf("unknown name: %v", err)
	}
	var none *ACL
	if !none.Private() || none.Public() || none.Encode() != nil {
		t.Error("nil is not private")
	}
}

func TestACLFromHeaders(t *testing.T) {
	const o = "owner"
	anna := ACLGrant{ID: "anna"}
	with := func(g ACLGrant, p Permission) ACLGrant { g.Permission = p; return g }
	for _, c := range []struct {
		name   string
		header map[string]string
		want   []ACLGrant
		err    error
	}{
		{"none", nil, nil, nil},
		{"canned", map[string]string{"x-amz-acl": "private"}, []ACLGrant{{ID: o, Permission: PermFullControl}}, nil},
		{"unknown canned", map[string]string{"x-amz-acl": "x"}, nil, ErrInvalidACL},
		{"both", map[string]string{"x-amz-acl": "private", "x-amz-grant-read": "id=anna"}, nil, ErrACLTwice},
		{"every permission", map[string]string{
			"x-amz-grant-read": "id=anna", "x-amz-grant-write": `id="anna"`, "x-amz-grant-read-acp": " ID = 'anna' ",
			"x-amz-grant-write-acp": "id=anna", "x-amz-grant-full-control": "id=owner",
		}, []ACLGrant{
			with(anna, PermRead), with(anna, PermWrite), with(anna, PermReadACP), with(anna, PermWriteACP), {ID: o, Permission: PermFullControl},
		}, nil},
		{
			"groups stand first",
			map[string]string{"x-amz-grant-read": `id="anna", uri="http://acs.amazonaws.com/groups/global/AllUsers"`},
			[]ACLGrant{{Group: AllUsers, Permission: PermRead}, with(anna, PermRead)},
			nil,
		},
		{"unknown group", map[string]string{"x-amz-grant-read": `uri="http://x"`}, nil, ErrInvalidACL},
		{"e-mail", map[string]string{"x-amz-grant-read": `emailAddress="a@example.com"`}, nil, ErrEmailGrantee},
		{"unknown id", map[string]string{"x-amz-grant-read": "id=bert"}, nil, ErrUnknownGrantee},
		{"unknown kind", map[string]string{"x-amz-grant-read": "name=anna"}, nil, ErrInvalidACL},
		{"no kind", map[string]string{"x-amz-grant-read": "anna"}, nil, ErrInvalidACL},
		{"no value", map[string]string{"x-amz-grant-read": `id=""`}, nil, ErrInvalidACL},
		{"empty item", map[string]string{"x-amz-grant-read": "id=anna,"}, nil, ErrInvalidACL},
		{"too many", map[string]string{"x-amz-grant-read": "id=anna" + strings.Repeat(",id=anna", MaxACLGrants)}, nil, ErrTooManyGrants},
	} {
		a, err := ACLFromHeaders(func(n string) string { return c.header[n] }, func(id string) bool { return id == "anna" }, o, "bucket")
		if !errors.Is(err, c.err) || err != nil && firn.KindOf(err) != firn.Invalid {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		if err != nil {
			continue
		}
		var got []ACLGrant
		if a != nil {
			got = a.Grants
		}
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%s: %s", c.name, diff)
		}
	}
}

func TestDecodeACLRefuses(t *testing.T) {
	good := (&ACL{"o", []ACLGrant{{ID: "a", Permission: PermRead}, {Group: AllUsers, Permission: PermWrite}}}).Encode()
	for name, b := range map[string][]byte{
		"cut":             good[:len(good)-1],
		"no permission":   (&ACL{"o", []ACLGrant{{ID: "a"}}}).Encode(),
		"odd permission":  (&ACL{"o", []ACLGrant{{ID: "a", Permission: 3}}}).Encode(),
		"high permission": (&ACL{"o", []ACLGrant{{ID: "a", Permission: 200}}}).Encode(),
		"no grantee":      (&ACL{"o", []ACLGrant{{Permission: PermRead}}}).Encode(),
		"two grantees":    (&ACL{"o", []ACLGrant{{ID: "a", Group: AllUsers, Permission: PermRead}}}).Encode(),
		"unknown group":   (&ACL{"o", []ACLGrant{{Group: 9, Permission: PermRead}}}).Encode(),
	} {
		if a, err := DecodeACL(b); err == nil || a != nil || firn.KindOf(err) != firn.Corrupt {
			t.Errorf("%s: %+v %v", name, a, err)
		}
	}
	// A field of a later version is passed over.
	if a, err := DecodeACL(append(good, 0x7a, 1, 'x')); err != nil || len(a.Grants) != 2 {
		t.Errorf("with an unknown field: %+v %v", a, err)
	}
}

func FuzzDecodeACL(f *testing.F) {
	f.Add([]byte(nil))
	f.Add((&ACL{"o", []ACLGrant{{ID: "a", Permission: PermRead}, {Group: AllUsers, Permission: PermWrite}}}).Encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		a, err := DecodeACL(b)
		if err != nil || a == nil {
			return
		}
		again, err := DecodeACL(a.Encode())
		if err != nil || !cmp.Equal(a, again) {
			t.Errorf("%+v was stored and read as %+v, %v", a, again, err)
		}
	})
}

func TestParseGrant(t *testing.T) {
	for s, want := range map[string]Grant{
		"read":              {Role: RoleRead},
		"owner":             {Role: RoleOwner},
		"write:photos":      {Role: RoleWrite, Bucket: "photos"},
		"read:photos/a/b:c": {Role: RoleRead, Bucket: "photos", Prefix: "a/b:c"},
	} {
		g, err := ParseGrant(s)
		if err != nil || g != want || g.String() != s {
			t.Errorf("%s: %+v %v", s, g, err)
		}
	}
	for _, s := range []string{
		"", "admin", "Read", "read:", "read:/x", "read:ab", "read:Photos", "read:a_b", "read:../x", "read:photos/\n",
		"read:photos/" + strings.Repeat("a", 1025), "read:" + strings.Repeat("a", 64),
	} {
		if g, err := ParseGrant(s); !errors.Is(err, ErrInvalidGrant) {
			t.Errorf("%q: %+v %v", s, g, err)
		}
	}
	if g, err := ParseGrant("read:photos/"); err != nil || g != (Grant{Role: RoleRead, Bucket: "photos"}) {
		t.Errorf("empty prefix: %+v %v", g, err)
	}
	if err := (Grant{Role: RoleRead, Prefix: "x"}).Validate(); !errors.Is(err, ErrInvalidGrant) {
		t.Errorf("prefix without bucket: %v", err)
	}
}

func TestNames(t *testing.T) {
	for _, p := range []Permission{PermRead, PermWrite, PermReadACP, PermWriteACP, PermFullControl} {
		if got, err := ParsePermission(p.String()); got != p || err != nil {
			t.Errorf("%v: %v %v", p, got, err)
		}
	}
	if _, err := ParsePermission(""); !errors.Is(err, ErrInvalidACL) {
		t.Errorf("no permission: %v", err)
	}
	for _, g := range []Group{AllUsers, AuthenticatedUsers, LogDelivery} {
		if got, err := ParseGroup(g.URI()); got != g || err != nil {
			t.Errorf("%v: %v %v", g.URI(), got, err)
		}
	}
	if _, err := ParseGroup(""); !errors.Is(err, ErrInvalidACL) {
		t.Errorf("no group: %v", err)
	}
	for _, o := range []Ownership{BucketOwnerEnforced, BucketOwnerPreferred, ObjectWriter} {
		if got, err := ParseOwnership(string(o)); got != o || err != nil || o.ACLs() == (o == BucketOwnerEnforced) {
			t.Errorf("%v: %v %v", o, got, err)
		}
	}
	if _, err := ParseOwnership(""); err == nil {
		t.Error("empty ownership was accepted")
	}
}

func TestARN(t *testing.T) {
	for want, id := range map[string]*Identity{
		"": nil, "arn:aws:iam::" + AccountID(canonicalOf('0')) + ":root": theRoot,
		"arn:aws:iam::" + AccountID(canonicalOf('2')) + ":user/writer": writer,
	} {
		if got := id.ARN(); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}
