package policy

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"firn"
)

const (
	canonicalA = "a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1"
	canonicalB = "b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2"
)

var (
	anna      = Principal{Canonical: canonicalA, Account: "111122223333", Name: "anna", Site: true}
	bert      = Principal{Canonical: canonicalB, Account: "444455556666", Name: "bert", Site: true}
	service   = Principal{Service: "logging.s3.amazonaws.com"}
	anonymous Principal
)

// keys makes a Lookup of "key=value" pairs; a key given twice has two values, "key" alone has none.
func keys(pairs ...string) Lookup {
	m := map[string][]string{}
	for _, p := range pairs {
		k, v, ok := strings.Cut(p, "=")
		if ok {
			m[k] = append(m[k], v)
		} else {
			m[k] = nil
		}
	}
	return func(key string) ([]string, bool) { v, ok := m[key]; return v, ok }
}

func statement1(effect, principal, action, resource, condition string) string {
	if condition != "" {
		condition = `,"Condition":` + condition
	}
	return fmt.Sprintf(`{"Effect":%q,"Principal":%s,"Action":%s,"Resource":%s%s}`, effect, principal, action, resource, condition)
}

func document(statements ...string) string {
	return `{"Version":"2012-10-17","Statement":[` + strings.Join(statements, ",") + `]}`
}

func mustParse(t testing.TB, doc string) *Policy {
	t.Helper()
	p, err := ParseBucket([]byte(doc), "photos")
	if err != nil {
		t.Fatalf("%v in %s", err, doc)
	}
	return p
}

const (
	anyone  = `"*"`
	objects = `"arn:aws:s3:::photos/*"`
)

func TestConditions(t *testing.T) {
	for _, c := range []struct {
		condition string
		lookup    Lookup
		want      bool
	}{
		{`{"StringEquals":{"s3:prefix":"a"}}`, keys("s3:prefix=a"), true},
		{`{"StringEquals":{"s3:prefix":"a"}}`, keys("s3:prefix=A"), false},
		{`{"StringEquals":{"s3:prefix":"a*"}}`, keys("s3:prefix=ab"), false},
		{`{"StringEquals":{"s3:prefix":["a","b"]}}`, keys("s3:prefix=b"), true},
		{`{"StringEquals":{"s3:prefix":"a"}}`, keys(), false},
		{`{"StringEquals":{"s3:prefix":"a"}}`, nil, false},
		{`{"StringEquals":{"s3:prefix":""}}`, keys("s3:prefix="), true},
		{`{"StringEquals":{"S3:PREFIX":"a"}}`, keys("s3:prefix=a"), true},
		{`{"StringEqualsIfExists":{"s3:prefix":"a"}}`, keys(), true},
		{`{"StringEqualsIfExists":{"s3:prefix":"a"}}`, keys("s3:prefix=b"), false},
		{`{"StringNotEquals":{"s3:prefix":"a"}}`, keys("s3:prefix=b"), true},
		{`{"StringNotEquals":{"s3:prefix":["a","b"]}}`, keys("s3:prefix=b"), false},
		{`{"StringNotEquals":{"s3:prefix":"a"}}`, keys(), true},
		{`{"StringEqualsIgnoreCase":{"s3:prefix":"Straße"}}`, keys("s3:prefix=sTRAßE"), true},
		{`{"StringEqualsIgnoreCase":{"s3:prefix":"a"}}`, keys("s3:prefix=ab"), false},
		{`{"StringNotEqualsIgnoreCase":{"s3:prefix":"A"}}`, keys("s3:prefix=a"), false},
		{`{"StringLike":{"s3:prefix":"a*c"}}`, keys("s3:prefix=abbc"), true},
		{`{"StringLike":{"s3:prefix":"a*c"}}`, keys("s3:prefix=abbd"), false},
		{`{"StringLike":{"s3:prefix":"a?c"}}`, keys("s3:prefix=aüc"), true},
		{`{"StringLike":{"s3:prefix":"a?c"}}`, keys("s3:prefix=ac"), false},
		{`{"StringLike":{"s3:prefix":"*"}}`, keys("s3:prefix="), true},
		{`{"StringLike":{"s3:prefix":"*a*b*"}}`, keys("s3:prefix=xbxaxbx"), true},
		{`{"StringLike":{"s3:prefix":"*ab"}}`, keys("s3:prefix=aab"), true},
		{`{"StringLike":{"s3:prefix":"a${*}"}}`, keys("s3:prefix=ab"), false},
		{`{"StringLike":{"s3:prefix":"a${*}"}}`, keys("s3:prefix=a*"), true},
		{`{"StringLike":{"s3:prefix":"${?}${$}"}}`, keys("s3:prefix=?$"), true},
		{`{"StringNotLike":{"s3:prefix":"a*"}}`, keys("s3:prefix=ab"), false},
		{`{"StringNotLike":{"s3:prefix":"a*"}}`, keys("s3:prefix=b"), true},
		{`{"StringNotLike":{"s3:prefix":"a*"}}`, keys(), true},
		{`{"StringLike":{"s3:prefix":"${aws:username}/*"}}`, keys("s3:prefix=anna/x", "aws:username=anna"), true},
		{`{"StringLike":{"s3:prefix":"${aws:username}/*"}}`, keys("s3:prefix=bert/x", "aws:username=anna"), false},
		{`{"StringLike":{"s3:prefix":"${aws:username}/*"}}`, keys("s3:prefix=anna/x"), false},
		{`{"StringLike":{"s3:prefix":"${aws:username}/*"}}`, keys("s3:prefix=x/y", "aws:username=*"), false},
		{`{"StringLike":{"s3:prefix":"${aws:username, 'all'}/*"}}`, keys("s3:prefix=all/x"), true},
		{`{"StringEquals":{"s3:prefix":"${AWS:UserName}"}}`, keys("s3:prefix=anna", "aws:username=anna"), true},

		{`{"NumericEquals":{"s3:max-keys":"10"}}`, keys("s3:max-keys=10"), true},
		{`{"NumericEquals":{"s3:max-keys":10}}`, keys("s3:max-keys=10.0"), true},
		{`{"NumericEquals":{"s3:max-keys":[10,20]}}`, keys("s3:max-keys=20"), true},
		{`{"NumericEquals":{"s3:max-keys":"10"}}`, keys("s3:max-keys=x"), false},
		{`{"NumericNotEquals":{"s3:max-keys":"10"}}`, keys("s3:max-keys=11"), true},
		{`{"NumericNotEquals":{"s3:max-keys":"10"}}`, keys(), true},
		{`{"NumericLessThan":{"s3:max-keys":"10"}}`, keys("s3:max-keys=9"), true},
		{`{"NumericLessThan":{"s3:max-keys":"10"}}`, keys("s3:max-keys=10"), false},
		{`{"NumericLessThan":{"s3:max-keys":"10"}}`, keys(), false},
		{`{"NumericLessThanEquals":{"s3:max-keys":"10"}}`, keys("s3:max-keys=10"), true},
		{`{"NumericGreaterThan":{"s3:max-keys":"-1.5"}}`, keys("s3:max-keys=-1"), true},
		{`{"NumericGreaterThanEquals":{"s3:max-keys":"10"}}`, keys("s3:max-keys=9"), false},
		{`{"NumericGreaterThanEqualsIfExists":{"s3:max-keys":"10"}}`, keys(), true},

		{`{"DateEquals":{"aws:CurrentTime":"2025-01-02T03:04:05Z"}}`, keys("aws:currenttime=2025-01-02T04:04:05+01:00"), true},
		{`{"DateNotEquals":{"aws:CurrentTime":"2025-01-02T03:04:05Z"}}`, keys("aws:currenttime=2025-01-02T03:04:05Z"), false},
		{`{"DateLessThan":{"aws:CurrentTime":"2025-01-02"}}`, keys("aws:currenttime=2025-01-01T23:59:59Z"), true},
		{`{"DateLessThanEquals":{"aws:CurrentTime":"2025-01-02"}}`, keys("aws:currenttime=2025-01-02T00:00:00Z"), true},
		{`{"DateGreaterThan":{"aws:EpochTime":"1735689600"}}`, keys("aws:epochtime=1735689601"), true},
		{`{"DateGreaterThan":{"aws:EpochTime":1735689600}}`, keys("aws:epochtime=1735689600"), false},
		{`{"DateGreaterThanEquals":{"aws:CurrentTime":"2025-01-02T03:04Z"}}`, keys("aws:currenttime=2025-01-02T03:04:00Z"), true},
		{`{"DateGreaterThan":{"aws:CurrentTime":"2025-01-02"}}`, keys("aws:currenttime=tomorrow"), false},

		{`{"Bool":{"aws:SecureTransport":"true"}}`, keys("aws:securetransport=true"), true},
		{`{"Bool":{"aws:SecureTransport":true}}`, keys("aws:securetransport=TRUE"), true},
		{`{"Bool":{"aws:SecureTransport":"false"}}`, keys("aws:securetransport=true"), false},
		{`{"Bool":{"aws:SecureTransport":"false"}}`, keys(), false},
		{`{"BoolIfExists":{"aws:SecureTransport":"false"}}`, keys(), true},
		{`{"Bool":{"aws:SecureTransport":"false"}}`, keys("aws:securetransport=maybe"), false},

		{`{"BinaryEquals":{"s3:x-amz-meta":"aGk="}}`, keys("s3:x-amz-meta=aGk="), true},
		{`{"BinaryEquals":{"s3:x-amz-meta":"aGk="}}`, keys("s3:x-amz-meta=aGo="), false},
		{`{"BinaryEquals":{"s3:x-amz-meta":"aGk="}}`, keys("s3:x-amz-meta=!"), false},

		{`{"IpAddress":{"aws:SourceIp":"10.0.0.0/8"}}`, keys("aws:sourceip=10.255.0.1"), true},
		{`{"IpAddress":{"aws:SourceIp":"10.0.0.0/8"}}`, keys("aws:sourceip=11.0.0.1"), false},
		{`{"IpAddress":{"aws:SourceIp":["10.0.0.0/8","192.168.1.7"]}}`, keys("aws:sourceip=192.168.1.7"), true},
		{`{"IpAddress":{"aws:SourceIp":"10.0.0.0/8"}}`, keys("aws:sourceip=::ffff:10.0.0.1"), true},
		{`{"IpAddress":{"aws:SourceIp":"2001:db8::/32"}}`, keys("aws:sourceip=2001:db8:1::1"), true},
		{`{"IpAddress":{"aws:SourceIp":"2001:db8::/32"}}`, keys("aws:sourceip=10.0.0.1"), false},
		{`{"IpAddress":{"aws:SourceIp":"0.0.0.0/0"}}`, keys("aws:sourceip=nonsense"), false},
		{`{"IpAddress":{"aws:SourceIp":"fe80::/10"}}`, keys("aws:sourceip=fe80::1%eth0"), true},
		{`{"NotIpAddress":{"aws:SourceIp":"10.0.0.0/8"}}`, keys("aws:sourceip=10.0.0.1"), false},
		{`{"NotIpAddress":{"aws:SourceIp":"10.0.0.0/8"}}`, keys("aws:sourceip=8.8.8.8"), true},
		{`{"NotIpAddress":{"aws:SourceIp":"10.0.0.0/8"}}`, keys(), true},

		{`{"ArnLike":{"aws:PrincipalArn":"arn:aws:iam::*:user/a*"}}`, keys("aws:principalarn=arn:aws:iam::111122223333:user/anna"), true},
		{`{"ArnEquals":{"aws:PrincipalArn":"arn:aws:iam::111122223333:user/anna"}}`, keys("aws:principalarn=arn:aws:iam::111122223333:user/anna"), true},
		{`{"ArnLike":{"aws:PrincipalArn":"arn:aws:iam::*:user/b*"}}`, keys("aws:principalarn=arn:aws:iam::111122223333:user/anna"), false},
		{`{"ArnLike":{"aws:PrincipalArn":"arn:aws:iam::*:user/a*"}}`, keys("aws:principalarn=anna"), false},
		{`{"ArnNotLike":{"aws:PrincipalArn":"arn:aws:iam::*:user/a*"}}`, keys("aws:principalarn=arn:aws:iam::1:user/bert"), true},
		{`{"ArnNotEquals":{"aws:PrincipalArn":"arn:aws:iam::*:user/a*"}}`, keys(), true},

		{`{"Null":{"s3:prefix":"true"}}`, keys(), true},
		{`{"Null":{"s3:prefix":"true"}}`, keys("s3:prefix"), true},
		{`{"Null":{"s3:prefix":"true"}}`, keys("s3:prefix=a"), false},
		{`{"Null":{"s3:prefix":"false"}}`, keys("s3:prefix=a"), true},
		{`{"Null":{"s3:prefix":false}}`, keys(), false},

		{`{"ForAllValues:StringEquals":{"s3:RequestObjectTagKeys":["a","b"]}}`, keys("s3:requestobjecttagkeys=a", "s3:requestobjecttagkeys=b"), true},
		{`{"ForAllValues:StringEquals":{"s3:RequestObjectTagKeys":["a","b"]}}`, keys("s3:requestobjecttagkeys=a", "s3:requestobjecttagkeys=c"), false},
		{`{"ForAllValues:StringEquals":{"s3:RequestObjectTagKeys":["a","b"]}}`, keys(), true},
		{`{"ForAnyValue:StringEquals":{"s3:RequestObjectTagKeys":["a","b"]}}`, keys("s3:requestobjecttagkeys=c", "s3:requestobjecttagkeys=b"), true},
		{`{"ForAnyValue:StringEquals":{"s3:RequestObjectTagKeys":["a","b"]}}`, keys("s3:requestobjecttagkeys=c"), false},
		{`{"ForAnyValue:StringEquals":{"s3:RequestObjectTagKeys":["a","b"]}}`, keys(), false},
		{`{"ForAllValues:StringNotEquals":{"s3:RequestObjectTagKeys":"a"}}`, keys("s3:requestobjecttagkeys=b", "s3:requestobjecttagkeys=a"), false},
		{`{"ForAnyValue:StringNotEquals":{"s3:RequestObjectTagKeys":"a"}}`, keys("s3:requestobjecttagkeys=b", "s3:requestobjecttagkeys=a"), true},
		{`{"ForAnyValue:StringNotEquals":{"s3:RequestObjectTagKeys":"a"}}`, keys(), false},
		{`{"ForAllValues:StringLikeIfExists":{"s3:RequestObjectTagKeys":"a*"}}`, keys("s3:requestobjecttagkeys=ab"), true},

		{`{"StringEquals":{"s3:ExistingObjectTag/Colour":"red"}}`, keys("s3:existingobjecttag/Colour=red"), true},
		{`{"StringEquals":{"s3:ExistingObjectTag/colour":"red"}}`, keys("s3:existingobjecttag/Colour=red"), false},
		{`{"StringEquals":{"s3:x-amz-acl":"private","s3:prefix":"a"}}`, keys("s3:x-amz-acl=private", "s3:prefix=a"), true},
		{`{"StringEquals":{"s3:x-amz-acl":"private","s3:prefix":"a"}}`, keys("s3:x-amz-acl=private", "s3:prefix=b"), false},
		{`{"StringEquals":{"s3:prefix":"a"},"Bool":{"aws:SecureTransport":"true"}}`, keys("s3:prefix=a", "aws:securetransport=false"), false},
		{`{}`, nil, true},
	} {
		p := mustParse(t, document(statement1("Allow", anyone, `"s3:GetObject"`, objects, c.condition)))
		got := p.Evaluate(&Request{Principal: anna, Action: "s3:GetObject", Bucket: "photos", Key: "k", Lookup: c.lookup})
		if (got.Effect == Allow) != c.want {
			t.Errorf("%s: %v, want %v", c.condition, got.Effect, c.want)
		}
	}
}

func TestStatements(t *testing.T) {
	allow := func(principal, action, resource string) string {
		return document(statement1("Allow", principal, action, resource, ""))
	}
	for _, c := range []struct {
		name   string
		doc    string
		who    Principal
		action string
		key    string
		want   Effect
		at     int
	}{
		{"everybody", allow(anyone, `"s3:GetObject"`, objects), anonymous, "s3:GetObject", "k", Allow, 0},
		{"everybody, as AWS", allow(`{"AWS":"*"}`, `"s3:GetObject"`, objects), anonymous, "s3:GetObject", "k", Allow, 0},
		{"other action", allow(anyone, `"s3:GetObject"`, objects), anna, "s3:PutObject", "k", None, -1},
		{"longer action", allow(anyone, `"s3:GetObject"`, objects), anna, "s3:GetObjectAcl", "k", None, -1},
		{"action in other case", allow(anyone, `"S3:getobject"`, objects), anna, "s3:GetObject", "k", Allow, 0},
		{"action with star", allow(anyone, `"s3:Get*"`, objects), anna, "s3:GetObjectAcl", "k", Allow, 0},
		{"action with question mark", allow(anyone, `"s3:?etObject"`, objects), anna, "s3:GetObject", "k", Allow, 0},
		{"all actions", allow(anyone, `"*"`, objects), anna, "s3:PutObject", "k", Allow, 0},
		{"all of s3", allow(anyone, `"s3:*"`, objects), anna, "s3:PutObject", "k", Allow, 0},
		{"list of actions", allow(anyone, `["s3:PutObject","s3:GetObject"]`, objects), anna, "s3:GetObject", "k", Allow, 0},
		{"bucket is not its objects", allow(anyone, `"s3:*"`, objects), anna, "s3:ListBucket", "", None, -1},
		{"objects are not the bucket", allow(anyone, `"s3:*"`, `"arn:aws:s3:::photos"`), anna, "s3:GetObject", "k", None, -1},
		{"bucket", allow(anyone, `"s3:*"`, `"arn:aws:s3:::photos"`), anna, "s3:ListBucket", "", Allow, 0},
		{"star takes slashes", allow(anyone, `"s3:*"`, `"arn:aws:s3:::photos/a*z"`), anna, "s3:GetObject", "a/b/z", Allow, 0},
		{"prefix", allow(anyone, `"s3:*"`, `"arn:aws:s3:::photos/2025/*"`), anna, "s3:GetObject", "2026/x", None, -1},
		{"any bucket", allow(anyone, `"s3:*"`, `"arn:aws:s3:::*"`), anna, "s3:GetObject", "2026/x", Allow, 0},
		{"account in ARN", allow(anyone, `"s3:*"`, `"arn:aws:s3::*:photos/*"`), anna, "s3:GetObject", "x", Allow, 0},
		{"anything", allow(anyone, `"s3:*"`, `"*"`), anna, "s3:GetObject", "x", Allow, 0},
		{"case of keys counts", allow(anyone, `"s3:*"`, `"arn:aws:s3:::photos/K"`), anna, "s3:GetObject", "k", None, -1},
		{"account", allow(`{"AWS":"111122223333"}`, `"s3:*"`, objects), anna, "s3:GetObject", "k", Allow, 0},
		{"account's root", allow(`{"AWS":"arn:aws:iam::111122223333:root"}`, `"s3:*"`, objects), anna, "s3:GetObject", "k", Allow, 0},
		{"other account", allow(`{"AWS":"arn:aws:iam::111122223333:root"}`, `"s3:*"`, objects), bert, "s3:GetObject", "k", None, -1},
		{"anonymous is no account", allow(`{"AWS":"111122223333"}`, `"s3:*"`, objects), anonymous, "s3:GetObject", "k", None, -1},
		{"user", allow(`{"AWS":"arn:aws:iam::111122223333:user/anna"}`, `"s3:*"`, objects), anna, "s3:GetObject", "k", Allow, 0},
		{"user without account", allow(`{"AWS":"arn:aws:iam:::user/anna"}`, `"s3:*"`, objects), anna, "s3:GetObject", "k", Allow, 0},
		{"user with path", allow(`{"AWS":"arn:aws:iam:::user/dep/anna"}`, `"s3:*"`, objects), anna, "s3:GetObject", "k", Allow, 0},
		{"user of other account", allow(`{"AWS":"arn:aws:iam::444455556666:user/anna"}`, `"s3:*"`, objects), anna, "s3:GetObject", "k", None, -1},
		{"user by canonical id in ARN", allow(`{"AWS":"arn:aws:iam:::user/`+canonicalA+`"}`, `"s3:*"`, objects), anna, "s3:GetObject", "k", Allow, 0},
		{"unknown account name", allow(`{"AWS":"arn:aws:iam::tenant1:root"}`, `"s3:*"`, objects), anna, "s3:GetObject", "k", None, -1},
		{"role", allow(`{"AWS":"arn:aws:iam::111122223333:role/anna"}`, `"s3:*"`, objects), anna, "s3:GetObject", "k", None, -1},
		{"service", allow(`{"Service":"logging.s3.amazonaws.com"}`, `"s3:*"`, objects), anna, "s3:GetObject", "k", None, -1},
		{"canonical user", allow(`{"CanonicalUser":"`+canonicalA+`"}`, `"s3:*"`, objects), anna, "s3:GetObject", "k", Allow, 0},
		{"canonical user as AWS", allow(`{"AWS":"`+canonicalA+`"}`, `"s3:*"`, objects), anna, "s3:GetObject", "k", Allow, 0},
		{"other canonical user", allow(`{"CanonicalUser":"`+canonicalA+`"}`, `"s3:*"`, objects), bert, "s3:GetObject", "k", None, -1},
		{"several kinds", allow(`{"Service":"x","AWS":["444455556666"],"CanonicalUser":["`+canonicalA+`"]}`, `"s3:*"`, objects), bert, "s3:GetObject", "k", Allow, 0},

		{"deny wins, last", document(statement1("Allow", anyone, `"*"`, objects, ""), statement1("Deny", anyone, `"s3:DeleteObject"`, objects, "")), anna, "s3:DeleteObject", "k", Deny, 1},
		{"deny wins, first", document(statement1("Deny", anyone, `"s3:DeleteObject"`, objects, ""), statement1("Allow", anyone, `"*"`, objects, "")), anna, "s3:DeleteObject", "k", Deny, 0},
		{"deny of another", document(statement1("Deny", `{"AWS":"444455556666"}`, `"*"`, objects, ""), statement1("Allow", anyone, `"*"`, objects, "")), anna, "s3:DeleteObject", "k", Allow, 1},
		{"first allow is named", document(statement1("Allow", anyone, `"s3:PutObject"`, objects, ""), statement1("Allow", anyone, `"s3:GetObject"`, objects, ""), statement1("Allow", anyone, `"*"`, objects, "")), anna, "s3:GetObject", "k", Allow, 1},
		{"one statement, not a list", `{"Version":"2012-10-17","Id":"x","Statement":` + statement1("Allow", anyone, `"s3:GetObject"`, objects, "") + `}`, anna, "s3:GetObject", "k", Allow, 0},
		{"NotAction", document(`{"Effect":"Deny","Principal":"*","NotAction":"s3:GetObject","Resource":` + objects + `}`), anna, "s3:PutObject", "k", Deny, 0},
		{"NotAction, that action", document(`{"Effect":"Deny","Principal":"*","NotAction":"s3:Get*","Resource":` + objects + `}`), anna, "s3:GetObject", "k", None, -1},
		{"NotResource", document(`{"Effect":"Deny","Principal":"*","Action":"*","NotResource":"arn:aws:s3:::photos/open/*"}`), anna, "s3:PutObject", "k", Deny, 0},
		{"NotResource, that resource", document(`{"Effect":"Deny","Principal":"*","Action":"*","NotResource":"arn:aws:s3:::photos/open/*"}`), anna, "s3:PutObject", "open/k", None, -1},
		{"NotPrincipal", document(`{"Effect":"Deny","NotPrincipal":{"AWS":"111122223333"},"Action":"*","Resource":` + objects + `}`), bert, "s3:PutObject", "k", Deny, 0},
		{"NotPrincipal, anonymous", document(`{"Effect":"Deny","NotPrincipal":{"AWS":"111122223333"},"Action":"*","Resource":` + objects + `}`), anonymous, "s3:PutObject", "k", Deny, 0},
		{"NotPrincipal, that principal", document(`{"Effect":"Deny","NotPrincipal":{"AWS":"111122223333"},"Action":"*","Resource":` + objects + `}`), anna, "s3:PutObject", "k", None, -1},
		{"variable in resource", allow(anyone, `"s3:*"`, `"arn:aws:s3:::photos/${aws:username}/*"`), anna, "s3:GetObject", "anna/k", Allow, 0},
		{"variable of another", allow(anyone, `"s3:*"`, `"arn:aws:s3:::photos/${aws:username}/*"`), bert, "s3:GetObject", "anna/k", None, -1},
		{"variable of nobody", allow(anyone, `"s3:*"`, `"arn:aws:s3:::photos/${aws:username}/*"`), anonymous, "s3:GetObject", "anna/k", None, -1},
		{"no variables in 2008", strings.Replace(allow(anyone, `"s3:*"`, `"arn:aws:s3:::photos/${aws:username}"`), "2012-10-17", "2008-10-17", 1), anna, "s3:GetObject", "${aws:username}", Allow, 0},
		{"no version is 2008", strings.Replace(allow(anyone, `"s3:*"`, `"arn:aws:s3:::photos/${aws:username}"`), `"Version":"2012-10-17",`, "", 1), anna, "s3:GetObject", "anna", None, -1},
	} {
		p := mustParse(t, c.doc)
		var look Lookup
		if c.who.Name != "" {
			look = keys("aws:username=" + c.who.Name)
		}
		got := p.Evaluate(&Request{Principal: c.who, Action: c.action, Bucket: "photos", Key: c.key, Lookup: look})
		if got.Effect != c.want || got.Statement != c.at {
			t.Errorf("%s: %v by %d, want %v by %d", c.name, got.Effect, got.Statement, c.want, c.at)
		}
	}
	if r := (*Policy)(nil).Evaluate(&Request{}); r.Effect != None || r.Statement != -1 {
		t.Errorf("nil policy: %v", r)
	}
	// An action this build does not know is still matched by patterns.
	p := mustParse(t, allow(anyone, `"s3:Get*"`, objects))
	if r := p.Evaluate(&Request{Action: "s3:GetWhatComesNext", Bucket: "photos", Key: "k"}); r.Effect != Allow {
		t.Errorf("new action: %v", r)
	}
}

func TestInvalidDocuments(t *testing.T) {
	ok := statement1("Allow", anyone, `"s3:GetObject"`, objects, "")
	swap := func(old, new string) string {
		s := strings.Replace(ok, old, new, 1)
		if s == ok {
			t.Fatalf("%q is not in the statement", old)
		}
		return document(s)
	}
	for _, c := range []struct{ doc, statement, element string }{
		{``, "", ""},
		{`[]`, "", ""},
		{`"x"`, "", ""},
		{`{`, "", ""},
		{`{"Version":"2012-10-17","Statement":[` + ok + `]}}`, "", ""},
		{`{"Statement":[` + ok + `],"Statement":[` + ok + `]}`, "", ""},
		{"{\"Id\":\"\xff\",\"Statement\":[" + ok + "]}", "", ""},
		{`{"a":` + strings.Repeat("[", 30) + strings.Repeat("]", 30) + `}`, "", ""},
		{document(ok) + strings.Repeat(" ", MaxSize), "", ""},
		{`{}`, "", "Statement"},
		{`{"Statement":[]}`, "", "Statement"},
		{`{"Statement":"x"}`, "", "Statement"},
		{`{"Version":"2012-10-18","Statement":[` + ok + `]}`, "", "Version"},
		{`{"Version":2012,"Statement":[` + ok + `]}`, "", "Version"},
		{`{"Id":1,"Statement":[` + ok + `]}`, "", "Id"},
		{`{"statement":[` + ok + `]}`, "", "statement"},
		{`{"Statement":[` + ok + `,1]}`, "statement 2", ""},
		{swap(`"Effect":"Allow"`, `"Effect":"allow"`), "statement 1", "Effect"},
		{swap(`"Effect":"Allow"`, `"Effect":["Allow"]`), "statement 1", "Effect"},
		{swap(`"Effect":"Allow",`, ``), "statement 1", "Effect"},
		{swap(`"Effect"`, `"Sid":1,"Effect"`), "statement 1", "Sid"},
		{document(strings.Replace(ok, `{`, `{"Sid":"a",`, 1), strings.Replace(ok, `{`, `{"Sid":"a",`, 1)), "statement 2 (a)", "Sid"},
		{swap(`"Principal":"*",`, ``), "statement 1", "Principal"},
		{swap(`"Principal":"*"`, `"Principal":"anna"`), "statement 1", "Principal"},
		{swap(`"Principal":"*"`, `"Principal":{}`), "statement 1", "Principal"},
		{swap(`"Principal":"*"`, `"Principal":{"AWS":[]}`), "statement 1", "Principal"},
		{swap(`"Principal":"*"`, `"Principal":{"AWS":"anna"}`), "statement 1", "Principal"},
		{swap(`"Principal":"*"`, `"Principal":{"AWS":"arn:aws:iam::111122223333:user/*"}`), "statement 1", "Principal"},
		{swap(`"Principal":"*"`, `"Principal":{"AWS":"arn:aws:iam::111122223333:group/x"}`), "statement 1", "Principal"},
		{swap(`"Principal":"*"`, `"Principal":{"AWS":"arn:aws:iam:::root"}`), "statement 1", "Principal"},
		{swap(`"Principal":"*"`, `"Principal":{"AWS":"arn:aws:s3:::x"}`), "statement 1", "Principal"},
		{swap(`"Principal":"*"`, `"Principal":{"AWS":1}`), "statement 1", "Principal"},
		{swap(`"Principal":"*"`, `"Principal":{"Users":"*"}`), "statement 1", "Principal"},
		{swap(`"Principal":"*"`, `"Principal":{"CanonicalUser":"`+canonicalA[1:]+`"}`), "statement 1", "Principal"},
		{swap(`"Principal":"*"`, `"NotPrincipal":{"AWS":"111122223333"}`), "statement 1", "NotPrincipal"},
		{swap(`"Principal":"*"`, `"Principal":"*","NotPrincipal":"*"`), "statement 1", "Principal"},
		{swap(`"Action":"s3:GetObject"`, `"Action":"s3:GetObjects"`), "statement 1", "Action"},
		{swap(`"Action":"s3:GetObject"`, `"Action":"GetObject"`), "statement 1", "Action"},
		{swap(`"Action":"s3:GetObject"`, `"Action":"s3:"`), "statement 1", "Action"},
		{swap(`"Action":"s3:GetObject"`, `"Action":"ec2:*"`), "statement 1", "Action"},
		{swap(`"Action":"s3:GetObject"`, `"Action":[]`), "statement 1", "Action"},
		{swap(`"Action":"s3:GetObject",`, ``), "statement 1", "Action"},
		{swap(`"Action":"s3:GetObject"`, `"Action":"s3:GetObject","NotAction":"s3:PutObject"`), "statement 1", "Action"},
		{swap(objects, `"photos/*"`), "statement 1", "Resource"},
		{swap(objects, `"arn:aws:s3:::films/*"`), "statement 1", "Resource"},
		{swap(objects, `"arn:aws:s3:::photos2"`), "statement 1", "Resource"},
		{swap(objects, `"arn:aws:s3:::phot?/*"`), "statement 1", "Resource"},
		{swap(objects, `"arn:aws:sqs:::photos/*"`), "statement 1", "Resource"},
		{swap(objects, `"arn:aws:s3:::photos/${aws:username"`), "statement 1", "Resource"},
		{swap(objects, `"arn:aws:s3:::photos/${}"`), "statement 1", "Resource"},
		{swap(objects, `"arn:aws:s3:::photos/${a, b}"`), "statement 1", "Resource"},
		{swap(objects, `[]`), "statement 1", "Resource"},
		{swap(`,"Resource":`+objects, ``), "statement 1", "Resource"},
		{swap(`"Resource"`, `"Conditions":{},"Resource"`), "statement 1", "Conditions"},
		{swap(`"Resource"`, `"Condition":[],"Resource"`), "statement 1", "Condition"},
		{swap(`"Resource"`, `"Condition":{"StringEquals":{}},"Resource"`), "statement 1", "Condition"},
		{swap(`"Resource"`, `"Condition":{"StringIs":{"s3:prefix":"a"}},"Resource"`), "statement 1", "Condition"},
		{swap(`"Resource"`, `"Condition":{"NullIfExists":{"s3:prefix":"true"}},"Resource"`), "statement 1", "Condition"},
		{swap(`"Resource"`, `"Condition":{"ForAnyValue:Null":{"s3:prefix":"true"}},"Resource"`), "statement 1", "Condition"},
		{swap(`"Resource"`, `"Condition":{"StringEquals":{"prefix":"a"}},"Resource"`), "statement 1", "Condition"},
		{swap(`"Resource"`, `"Condition":{"StringEquals":{"ec2:prefix":"a"}},"Resource"`), "statement 1", "Condition"},
		{swap(`"Resource"`, `"Condition":{"StringEquals":{"s3:prefix":[]}},"Resource"`), "statement 1", "Condition"},
		{swap(`"Resource"`, `"Condition":{"StringEquals":{"s3:prefix":{"a":"b"}}},"Resource"`), "statement 1", "Condition"},
		{swap(`"Resource"`, `"Condition":{"StringEquals":{"s3:prefix":null}},"Resource"`), "statement 1", "Condition"},
		{swap(`"Resource"`, `"Condition":{"NumericEquals":{"s3:max-keys":"ten"}},"Resource"`), "statement 1", "Condition"},
		{swap(`"Resource"`, `"Condition":{"NumericEquals":{"s3:max-keys":"NaN"}},"Resource"`), "statement 1", "Condition"},
		{swap(`"Resource"`, `"Condition":{"DateEquals":{"aws:CurrentTime":"today"}},"Resource"`), "statement 1", "Condition"},
		{swap(`"Resource"`, `"Condition":{"Bool":{"aws:SecureTransport":"yes"}},"Resource"`), "statement 1", "Condition"},
		{swap(`"Resource"`, `"Condition":{"IpAddress":{"aws:SourceIp":"10.0.0.0/33"}},"Resource"`), "statement 1", "Condition"},
		{swap(`"Resource"`, `"Condition":{"IpAddress":{"aws:SourceIp":"::ffff:10.0.0.0/104"}},"Resource"`), "statement 1", "Condition"},
		{swap(`"Resource"`, `"Condition":{"ArnLike":{"aws:SourceArn":"*"}},"Resource"`), "statement 1", "Condition"},
		{swap(`"Resource"`, `"Condition":{"BinaryEquals":{"s3:prefix":"!"}},"Resource"`), "statement 1", "Condition"},
	} {
		p, err := ParseBucket([]byte(c.doc), "photos")
		var e *Error
		if !errors.As(err, &e) || p != nil {
			t.Errorf("accepted %.300s", c.doc)
			continue
		}
		if !strings.HasPrefix(e.Error(), c.statement) || e.Element != c.element || (e.Statement < 0) != (c.statement == "") || firn.KindOf(err) != firn.Invalid {
			t.Errorf("%.300s:\n%v, want it to name %q, %q", c.doc, err, c.statement, c.element)
		}
	}
	if _, err := ParseIdentity([]byte(document(ok))); err == nil {
		t.Error("an identity policy with a principal was accepted")
	}
	p, err := ParseIdentity([]byte(`{"Statement":{"Effect":"Allow","Action":"s3:*","Resource":"arn:aws:s3:::films/*"}}`))
	if err != nil {
		t.Fatal(err)
	}
	if r := p.Evaluate(&Request{Principal: anna, Action: "s3:GetObject", Bucket: "films", Key: "k"}); r.Effect != Allow {
		t.Errorf("identity policy: %v", r)
	}
}

func TestIsPublic(t *testing.T) {
	with := func(principal, condition string) string {
		return document(statement1("Allow", principal, `"s3:GetObject"`, objects, condition))
	}
	for _, c := range []struct {
		doc  string
		want bool
	}{
		{with(anyone, ""), true},
		{with(`{"AWS":"*"}`, ""), true},
		{with(`{"AWS":["111122223333","*"]}`, ""), true},
		{with(`{"AWS":"111122223333"}`, ""), false},
		{with(`{"Service":"x"}`, ""), false},
		{document(statement1("Deny", anyone, `"*"`, objects, "")), false},
		{document(statement1("Allow", `{"AWS":"111122223333"}`, `"*"`, objects, ""), statement1("Allow", anyone, `"s3:GetObject"`, objects, "")), true},
		{with(anyone, `{"IpAddress":{"aws:SourceIp":"8.8.8.0/24"}}`), false},
		{with(anyone, `{"IpAddress":{"aws:SourceIp":"10.0.0.0/32"}}`), false},
		{with(anyone, `{"IpAddress":{"aws:SourceIp":"8.0.0.0/8"}}`), false},
		{with(anyone, `{"IpAddress":{"aws:SourceIp":"8.0.0.0/7"}}`), true},
		{with(anyone, `{"IpAddress":{"aws:SourceIp":["8.8.8.0/24","0.0.0.0/0"]}}`), true},
		{with(anyone, `{"IpAddress":{"aws:SourceIp":"2001:db8::/32"}}`), false},
		{with(anyone, `{"IpAddress":{"aws:SourceIp":"2000::/16"}}`), true},
		{with(anyone, `{"NotIpAddress":{"aws:SourceIp":"8.8.8.0/24"}}`), true},
		{with(anyone, `{"IpAddressIfExists":{"aws:SourceIp":"8.8.8.0/24"}}`), true},
		{with(anyone, `{"StringEquals":{"aws:SourceVpc":"vpc-1"}}`), false},
		{with(anyone, `{"StringLike":{"aws:SourceVpc":"vpc-*"}}`), true},
		{with(anyone, `{"StringNotEquals":{"aws:SourceVpc":"vpc-1"}}`), true},
		{with(anyone, `{"StringEquals":{"aws:Referer":"http://x"}}`), true},
		{with(anyone, `{"StringEquals":{"aws:username":"anna"}}`), false},
		{with(anyone, `{"StringEquals":{"aws:userid":"${aws:username}"}}`), true},
		{with(anyone, `{"ArnEquals":{"aws:SourceArn":"arn:aws:s3:::films"}}`), false},
		{with(anyone, `{"ArnLike":{"aws:SourceArn":"arn:aws:s3:::*"}}`), true},
		{with(anyone, `{"ArnLike":{"aws:SourceArn":"arn:aws:sns:*:111122223333:*"}}`), false},
		{with(anyone, `{"ForAllValues:StringEquals":{"aws:PrincipalOrgID":"o-1"}}`), true},
		{with(anyone, `{"Null":{"aws:SourceVpc":"false"}}`), true},
		{with(anyone, `{"Bool":{"aws:SecureTransport":"true"}}`), true},
		{with(anyone, `{"Bool":{"aws:SecureTransport":"true"},"StringEquals":{"aws:SourceAccount":"1"}}`), false},
	} {
		if got := mustParse(t, c.doc).IsPublic(); got != c.want {
			t.Errorf("%s: %v", c.doc, got)
		}
	}
	if (*Policy)(nil).IsPublic() {
		t.Error("nil policy is public")
	}
}

func TestActionNamesAreSorted(t *testing.T) {
	for i := range actionNames[1:] {
		if actionNames[i] >= actionNames[i+1] {
			t.Errorf("%s stands before %s", actionNames[i], actionNames[i+1])
		}
	}
	if len(actionNames) > actionWords*64 {
		t.Errorf("%d actions do not fit the set", len(actionNames))
	}
}
