package s3doc

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"firn/auth"
	"firn/s3api/s3err"
)

const (
	testOwner = "0000000000000000000000000000000000000000000000000000000000000001"
	testOther = "0000000000000000000000000000000000000000000000000000000000000002"
	allUsers  = "http://acs.amazonaws.com/groups/global/AllUsers"
)

func grantXML(typ, child, value, permission string) string {
	return fmt.Sprintf(`<Grant><Grantee xmlns:xsi="%s" xsi:type="%s"><%s>%s</%s></Grantee><Permission>%s</Permission></Grant>`,
		xsiNamespace, typ, child, value, child, permission)
}

func aclXML(owner string, grants ...string) string {
	return "<AccessControlPolicy><Owner><ID>" + owner + "</ID></Owner><AccessControlList>" + strings.Join(grants, "") +
		"</AccessControlList></AccessControlPolicy>"
}

func testUsers(id string) bool { return id == testOwner || id == testOther }

func TestParseACL(t *testing.T) {
	full := grantXML("CanonicalUser", "ID", testOwner, "FULL_CONTROL")
	tests := []struct{ name, in, code string }{
		{"owner", aclXML(testOwner, full), ""},
		{"nobody", aclXML(testOwner), ""},
		{"other and group", aclXML(testOwner, full, grantXML("CanonicalUser", "ID", testOther, "READ"), grantXML("Group", "URI", allUsers, "WRITE")), ""},
		{"100 grants", aclXML(testOwner, strings.Repeat(full, 100)), ""},
		{"101 grants", aclXML(testOwner, strings.Repeat(full, 101)), "MalformedACLError"},
		{"other owner", aclXML(testOther, full), "AccessDenied"},
		{"no owner", "<AccessControlPolicy><AccessControlList/></AccessControlPolicy>", "MalformedACLError"},
		{"no list", "<AccessControlPolicy><Owner><ID>" + testOwner + "</ID></Owner></AccessControlPolicy>", "MalformedACLError"},
		{"unknown user", aclXML(testOwner, grantXML("CanonicalUser", "ID", "_foo", "READ")), "InvalidArgument"},
		{"empty user", aclXML(testOwner, grantXML("CanonicalUser", "ID", "", "READ")), "InvalidArgument"},
		{"unknown group", aclXML(testOwner, grantXML("Group", "URI", "http://x", "READ")), "InvalidArgument"},
		{"e-mail", aclXML(testOwner, grantXML("AmazonCustomerByEmail", "EmailAddress", "a@example.com", "READ")), "UnresolvableGrantByEmailAddress"},
		{"unknown type", aclXML(testOwner, grantXML("Foo", "ID", testOther, "READ")), "MalformedACLError"},
		{"type and child differ", aclXML(testOwner, grantXML("Group", "ID", testOther, "READ")), "MalformedACLError"},
		{"permission", aclXML(testOwner, grantXML("CanonicalUser", "ID", testOther, "DELETE")), "MalformedACLError"},
		{"no type", aclXML(testOwner, "<Grant><Grantee><ID>"+testOther+"</ID></Grantee><Permission>READ</Permission></Grant>"), "MalformedACLError"},
		{"empty", "", "MalformedACLError"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			a, err := ParseACL([]byte(tt.in), testOwner, testUsers)
			if codeOf(err) != tt.code {
				t.Fatalf("got %v, want %q", err, tt.code)
			}
			if err != nil {
				return
			}
			back, err := ParseACL(ACLDoc(a, testOwner, func(string) string { return "name" }), testOwner, testUsers)
			if diff := cmp.Diff(a, back); err != nil || diff != "" {
				t.Errorf("the answer does not read back: %v %s", err, diff)
			}
		})
	}
}

func FuzzACL(f *testing.F) {
	f.Add([]byte(aclXML(testOwner, grantXML("CanonicalUser", "ID", testOther, "READ"), grantXML("Group", "URI", allUsers, "WRITE"))))
	f.Add([]byte(aclXML(testOwner)))
	f.Fuzz(func(t *testing.T, b []byte) {
		a, err := ParseACL(b, testOwner, testUsers)
		if err != nil {
			if _, ok := errors.AsType[*s3err.Error](err); !ok {
				t.Errorf("%v is no S3 error", err)
			}
			return
		}
		stored, err := auth.DecodeACL(a.Encode())
		if diff := cmp.Diff(a, stored); err != nil || diff != "" {
			t.Errorf("stored form: %v %s", err, diff)
		}
		for _, g := range a.Grants {
			if g.ID != "" && !testUsers(g.ID) {
				t.Errorf("grant to unknown %q", g.ID)
			}
		}
	})
}
