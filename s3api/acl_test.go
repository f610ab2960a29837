package s3api

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const allUsers = "http://acs.amazonaws.com/groups/global/AllUsers"

func grantXML(typ, child, value, permission string) string {
	return fmt.Sprintf(`<Grant><Grantee xmlns:xsi="%s" xsi:type="%s"><%s>%s</%s></Grantee><Permission>%s</Permission></Grant>`,
		"http://www.w3.org/2001/XMLSchema-instance", typ, child, value, child, permission)
}

func aclXML(owner string, grants ...string) string {
	return "<AccessControlPolicy><Owner><ID>" + owner + "</ID></Owner><AccessControlList>" + strings.Join(grants, "") +
		"</AccessControlList></AccessControlPolicy>"
}

// grants lists "PERMISSION grantee" of an ACL document.
func (h *harness) grants(target string) []string {
	h.t.Helper()
	var doc struct {
		Owner struct{ ID, DisplayName string }
		List  []struct {
			Grantee    struct{ ID, DisplayName, URI string }
			Permission string
		} `xml:"AccessControlList>Grant"`
	}
	h.must("GET", target, "").parse(h.t, &doc)
	out := []string{"owner " + doc.Owner.DisplayName}
	for _, g := range doc.List {
		out = append(out, g.Permission+" "+g.Grantee.DisplayName+g.Grantee.URI[strings.LastIndexByte(g.Grantee.URI, '/')+1:])
	}
	return out
}

func TestBucketACL(t *testing.T) {
	h := newHarness(t, Options{})
	h.must("PUT", "/bkt", "")
	same := func(want ...string) {
		t.Helper()
		if diff := cmp.Diff(append([]string{"owner alice"}, want...), h.grants("/bkt?acl")); diff != "" {
			t.Error(diff)
		}
	}
	alice, bob := h.canonical(aliceKey), h.canonical(bobKey)
	anyone, other := h.user(""), h.user(bobKey)
	same("FULL_CONTROL alice")
	anyone.refused(403, "AccessDenied", "GET", "/bkt", "")
	h.must("PUT", "/bkt?acl", "", "x-amz-acl: public-read")
	same("READ AllUsers", "FULL_CONTROL alice")
	anyone.must("GET", "/bkt", "")
	anyone.refused(403, "AccessDenied", "PUT", "/bkt/key", "x")
	h.must("PUT", "/bkt?acl", "", "x-amz-acl: authenticated-read")
	anyone.refused(403, "AccessDenied", "GET", "/bkt", "")
	other.must("GET", "/bkt", "")
	h.must("PUT", "/bkt?acl", "", `x-amz-grant-write: id="`+bob+`"`, "x-amz-grant-read-acp: id="+bob+", id="+alice)
	same("WRITE bob", "READ_ACP bob", "READ_ACP alice")
	other.must("PUT", "/bkt/key", "x")
	other.must("GET", "/bkt?acl", "")
	other.refused(403, "AccessDenied", "GET", "/bkt", "")
	other.refused(403, "AccessDenied", "PUT", "/bkt?acl", "", "x-amz-acl: public-read")
	h.must("PUT", "/bkt?acl", aclXML(alice, grantXML("CanonicalUser", "ID", bob, "WRITE_ACP")))
	same("WRITE_ACP bob")
	other.must("PUT", "/bkt?acl", "", "x-amz-acl: public-read-write")
	same("READ AllUsers", "WRITE AllUsers", "FULL_CONTROL alice")
	h.must("PUT", "/bkt?acl", aclXML(alice))
	same()

	h.refused(400, "InvalidArgument", "PUT", "/bkt?acl", "", "x-amz-acl: public-ready")
	h.refused(400, "InvalidArgument", "PUT", "/bkt?acl", "", "x-amz-grant-read: id=nobody")
	h.refused(400, "UnresolvableGrantByEmailAddress", "PUT", "/bkt?acl", "", "x-amz-grant-read: emailAddress=a@example.com")
	h.refused(400, "InvalidRequest", "PUT", "/bkt?acl", "", "x-amz-acl: private", "x-amz-grant-read: id="+bob)
	h.refused(400, "UnexpectedContent", "PUT", "/bkt?acl", aclXML(alice), "x-amz-acl: private")
	h.refused(400, "MissingSecurityHeader", "PUT", "/bkt?acl", "")
	h.refused(400, "MalformedACLError", "PUT", "/bkt?acl", "<x/>")
}

func TestObjectACL(t *testing.T) {
	h := newHarness(t, Options{})
	h.must("PUT", "/bkt", "", "x-amz-acl: public-read-write")
	anyone, other := h.user(""), h.user(bobKey)
	alice, bob := h.canonical(aliceKey), h.canonical(bobKey)
	h.must("PUT", "/bkt/key", "x")
	anyone.refused(403, "AccessDenied", "GET", "/bkt/key", "")
	h.must("PUT", "/bkt/key?acl", "", "x-amz-acl: public-read")
	anyone.must("GET", "/bkt/key", "")
	h.must("PUT", "/bkt/key", "x", "x-amz-grant-read: id="+bob)
	anyone.refused(403, "AccessDenied", "GET", "/bkt/key", "")
	other.must("GET", "/bkt/key", "")
	other.refused(403, "AccessDenied", "GET", "/bkt/key?acl", "")
	h.must("PUT", "/bkt/key?acl", aclXML(alice, grantXML("CanonicalUser", "ID", bob, "FULL_CONTROL")))
	if diff := cmp.Diff([]string{"owner alice", "FULL_CONTROL bob"}, other.grants("/bkt/key?acl")); diff != "" {
		t.Error(diff)
	}

	// bob's object in alice's bucket.
	other.must("PUT", "/bkt/bobs", "x", "x-amz-acl: bucket-owner-read")
	if diff := cmp.Diff([]string{"owner bob", "FULL_CONTROL bob", "READ alice"}, other.grants("/bkt/bobs?acl")); diff != "" {
		t.Error(diff)
	}
	h.must("GET", "/bkt/bobs", "")
	h.refused(403, "AccessDenied", "GET", "/bkt/bobs?acl", "")

	h.refused(404, "NoSuchKey", "GET", "/bkt/nosuch?acl", "")
	h.refused(404, "NoSuchKey", "PUT", "/bkt/nosuch?acl", "", "x-amz-acl: private")
	h.refused(400, "InvalidArgument", "PUT", "/bkt/key", "x", "x-amz-acl: foo")
}

// With BlockPublicAcls nothing public can be set; with IgnorePublicAcls what is set counts for nothing.
func TestPublicACLs(t *testing.T) {
	h := newHarness(t, Options{})
	h.must("PUT", "/bkt", "", "x-amz-acl: public-read")
	h.must("PUT", "/bkt/key", "x", "x-amz-acl: public-read")
	anyone := h.user("")
	anyone.must("GET", "/bkt/key", "")
	h.must("PUT", "/bkt?publicAccessBlock", blockBody)
	for _, acl := range []string{"public-read", "public-read-write", "authenticated-read"} {
		h.refused(403, "AccessDenied", "PUT", "/bkt?acl", "", "x-amz-acl: "+acl)
		h.refused(403, "AccessDenied", "PUT", "/bkt/key?acl", "", "x-amz-acl: "+acl)
		h.refused(403, "AccessDenied", "PUT", "/bkt/new", "x", "x-amz-acl: "+acl)
		h.refused(403, "AccessDenied", "POST", "/bkt/new?uploads", "", "x-amz-acl: "+acl)
	}
	h.must("PUT", "/bkt/new", "x", "x-amz-acl: private")
	anyone.must("GET", "/bkt/key", "")
	h.must("PUT", "/bkt?publicAccessBlock", strings.Replace(blockBody, "<IgnorePublicAcls>false", "<IgnorePublicAcls>true", 1))
	anyone.refused(403, "AccessDenied", "GET", "/bkt/key", "")
	anyone.refused(403, "AccessDenied", "GET", "/bkt", "")
	h.must("DELETE", "/bkt?publicAccessBlock", "")
	anyone.must("GET", "/bkt/key", "")
}

func TestOwnership(t *testing.T) {
	h := newHarness(t, Options{})
	set := func(o string) string { return strings.Replace(ownershipBody, "BucketOwnerPreferred", o, 1) }
	h.must("PUT", "/bkt", "", "x-amz-acl: public-read-write")
	h.must("PUT", "/bkt/before", "x", "x-amz-acl: public-read")
	h.refused(400, "InvalidBucketAclWithObjectOwnership", "PUT", "/bkt?ownershipControls", set("BucketOwnerEnforced"))
	h.must("PUT", "/bkt?ownershipControls", set("BucketOwnerPreferred"))
	bob := h.user(bobKey)
	bob.must("PUT", "/bkt/a", "x")
	bob.must("PUT", "/bkt/b", "x", "x-amz-acl: bucket-owner-full-control")
	for key, who := range map[string]*harness{"a": bob, "b": h} {
		name := map[string]string{bobKey: "bob", aliceKey: "alice"}[who.as]
		if diff := cmp.Diff([]string{"owner " + name, "FULL_CONTROL " + name}, who.grants("/bkt/"+key+"?acl")); diff != "" {
			t.Errorf("%s: %s", key, diff)
		}
	}

	h.must("PUT", "/bkt?acl", "", "x-amz-acl: private")
	h.must("PUT", "/bkt?ownershipControls", set("BucketOwnerEnforced"))
	h.user("").refused(403, "AccessDenied", "GET", "/bkt/before", "")
	h.refused(400, "AccessControlListNotSupported", "PUT", "/bkt?acl", "", "x-amz-acl: private")
	h.refused(400, "AccessControlListNotSupported", "PUT", "/bkt/a?acl", "", "x-amz-acl: private")
	h.refused(400, "AccessControlListNotSupported", "PUT", "/bkt/c", "x", "x-amz-acl: private")
	h.refused(400, "AccessControlListNotSupported", "PUT", "/bkt/c", "x", "x-amz-grant-read: uri="+allUsers)
	h.must("PUT", "/bkt/c", "x", "x-amz-acl: bucket-owner-full-control")
	h.must("PUT", "/bkt/c", "x", "x-amz-grant-full-control: id="+h.canonical(aliceKey))
	h.must("PUT", "/bkt/a?acl", "", "x-amz-acl: bucket-owner-full-control")
	if diff := cmp.Diff([]string{"owner alice", "FULL_CONTROL alice"}, h.grants("/bkt/a?acl")); diff != "" {
		t.Error(diff)
	}
	h.refused(400, "MalformedXML", "PUT", "/bkt?ownershipControls", set("Foo"))
	h.must("DELETE", "/bkt?ownershipControls", "")
	h.user("").must("GET", "/bkt/before", "")

	h.refused(400, "InvalidArgument", "PUT", "/new", "", "x-amz-object-ownership: Foo")
	h.refused(400, "InvalidBucketAclWithObjectOwnership", "PUT", "/new", "", "x-amz-object-ownership: BucketOwnerEnforced", "x-amz-acl: public-read")
	h.must("PUT", "/new", "", "x-amz-object-ownership: BucketOwnerEnforced")
	if got := plain(h.must("GET", "/new?ownershipControls", "").body); got != set("BucketOwnerEnforced") {
		t.Error(got)
	}
}

// Who may write by a policy does not thereby give others access: that takes s3:PutObjectAcl.
func TestWriteWithACLByPolicy(t *testing.T) {
	h := newHarness(t, Options{})
	h.must("PUT", "/bkt", "")
	who := map[string]string{"AWS": h.canonical(bobKey)}
	h.must("PUT", "/bkt?policy", allow(t, who, "s3:PutObject", "arn:aws:s3:::bkt/*"))
	bob := h.user(bobKey)
	bob.must("PUT", "/bkt/a", "x")
	bob.must("PUT", "/bkt/a", "x", "x-amz-acl: bucket-owner-full-control")
	bob.refused(403, "AccessDenied", "PUT", "/bkt/a", "x", "x-amz-acl: public-read")
	h.must("PUT", "/bkt?policy", allow(t, who, "s3:PutObject*", "arn:aws:s3:::bkt/*"))
	bob.must("PUT", "/bkt/a", "x", "x-amz-acl: public-read")
}
