package iamapi

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"encoding/xml"
	"errors"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/minio/minio-go/v7/pkg/signer"
	"github.com/oauth2-proxy/mockoidc"

	"firn/auth"
	"firn/kv/pebblekv"
	"firn/vfs"
)

// world is the door over a store in memory, with root, and anna who may own buckets.
type world struct {
	t     *testing.T
	users *auth.Users
	api   *API
	http  *httptest.Server
}

func newWorld(t *testing.T) *world {
	t.Helper()
	db, err := pebblekv.Open(vfs.NewMem(), "kv", pebblekv.Options{CacheBytes: 4 << 20})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	users, err := auth.OpenUsers(t.Context(), db, auth.Credentials{AccessKey: "rootkey", SecretKey: "rootsecret"}, auth.UsersOptions{})
	if err != nil {
		t.Fatal(err)
	}
	_, _, err = users.Add(t.Context(), "anna", auth.Credentials{AccessKey: "annakey", SecretKey: "annasecret"}, []auth.Grant{{Role: auth.RoleOwner}})
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, users: users, api: New(users, nil)}
	w.http = httptest.NewServer(NewHandler(w.api, users, slog.New(slog.DiscardHandler)))
	t.Cleanup(w.http.Close)
	return w
}

// who returns the identity behind an access key.
func (w *world) who(key string) *auth.Identity {
	w.t.Helper()
	_, id, err := w.users.Lookup(w.t.Context(), key)
	if err != nil {
		w.t.Fatal(err)
	}
	return id
}

// do makes a call and returns its answer as JSON, or the code of its error. params are names and values.
func (w *world) do(who *auth.Identity, action string, params ...string) (answer, code string) {
	w.t.Helper()
	p := url.Values{}
	for i := 0; i < len(params); i += 2 {
		p.Set(params[i], params[i+1])
	}
	service := "iam"
	if stsOperations(action) != nil {
		service = "sts"
	}
	n, err := w.api.Do(w.t.Context(), Caller{Identity: who}, service, action, p)
	var known *Error
	switch {
	case errors.As(err, &known):
		return "", known.Code
	case err != nil:
		w.t.Fatalf("%s: %v", action, err)
	}
	b, err := json.Marshal(n)
	if err != nil {
		w.t.Fatal(err)
	}
	return string(b), ""
}

// ok makes a call that must succeed.
func (w *world) ok(who *auth.Identity, action string, params ...string) string {
	w.t.Helper()
	answer, code := w.do(who, action, params...)
	if code != "" {
		w.t.Fatalf("%s %q: %s", action, params, code)
	}
	return answer
}

// fails makes a call that must fail.
func (w *world) fails(want string, who *auth.Identity, action string, params ...string) {
	w.t.Helper()
	if _, code := w.do(who, action, params...); code != want {
		w.t.Errorf("%s %q: %q, want %s", action, params, code, want)
	}
}

var credential = regexp.MustCompile(`"AccessKeyId":"([^"]+)".*"SecretAccessKey":"([^"]+)"(?:.*"SessionToken":"([^"]+)")?`)

const (
	allowAll  = `{"Statement":{"Effect":"Allow","Action":"*","Resource":"*"}}`
	trustAll  = `{"Statement":{"Effect":"Allow","Action":"sts:AssumeRole","Principal":"*"}}`
	iamPolicy = `{"Statement":{"Effect":"Allow","Action":"iam:Get*","Resource":"*"}}`
)

func TestLifeOfAUser(t *testing.T) {
	w := newWorld(t)
	for _, who := range []*auth.Identity{w.who("rootkey"), w.who("annakey")} {
		w.ok(who, "CreateUser", "UserName", "Bob", "Path", "/x/", "Tags.member.1.Key", "team", "Tags.member.1.Value", "blue")
		w.fails("EntityAlreadyExists", who, "CreateUser", "UserName", "bob")
		w.fails("ValidationError", who, "CreateUser", "UserName", "b/b")
		key := credential.FindStringSubmatch(w.ok(who, "CreateAccessKey", "UserName", "bob"))
		bob := w.who(key[1])
		if !bob.Within || bob.Canonical != who.Canonical || bob.Tags["team"] != "blue" || bob.Site != who.Root {
			t.Errorf("%+v", bob)
		}
		w.fails("AccessDenied", bob, "GetUser")
		w.fails("AccessDenied", bob, "ListUsers")
		w.fails("AccessDenied", bob, "CreateAccessKey")
		w.ok(who, "PutUserPolicy", "UserName", "Bob", "PolicyName", "p", "PolicyDocument", iamPolicy)
		w.fails("MalformedPolicyDocument", who, "PutUserPolicy", "UserName", "Bob", "PolicyName", "p", "PolicyDocument", "{}")
		bob = w.who(key[1])
		if a := w.ok(bob, "GetUser"); !strings.Contains(a, `user/x/Bob"`) {
			t.Error(a)
		}
		w.fails("AccessDenied", bob, "PutUserPolicy", "UserName", "Bob", "PolicyName", "more", "PolicyDocument", allowAll)
		w.ok(who, "UpdateAccessKey", "UserName", "Bob", "AccessKeyId", key[1], "Status", "Inactive")
		if _, _, err := w.users.Lookup(t.Context(), key[1]); !errors.Is(err, auth.ErrNoSuchKey) {
			t.Errorf("an inactive key: %v", err)
		}
		w.fails("DeleteConflict", who, "DeleteUser", "UserName", "Bob")
		w.ok(who, "DeleteAccessKey", "UserName", "Bob", "AccessKeyId", key[1])
		w.fails("DeleteConflict", who, "DeleteUser", "UserName", "Bob")
		w.ok(who, "DeleteUserPolicy", "UserName", "Bob", "PolicyName", "p")
		w.ok(who, "UpdateUser", "UserName", "Bob", "NewUserName", "Rob")
		w.fails("NoSuchEntity", who, "GetUser", "UserName", "Bob")
		w.ok(who, "DeleteUser", "UserName", "Rob")
	}
	root := w.who("rootkey")
	w.fails("InvalidAction", root, "MakeCoffee")
	w.fails("MissingAuthenticationToken", &auth.Identity{}, "ListUsers")
}

// No account sees or changes what is another's, and no right leads to more.
func TestAccountsAreApart(t *testing.T) {
	w := newWorld(t)
	root, anna := w.who("rootkey"), w.who("annakey")
	if _, _, err := w.users.Add(t.Context(), "plain", auth.Credentials{AccessKey: "plainkey", SecretKey: "plainsecret"}, nil); err != nil {
		t.Fatal(err)
	}
	w.ok(root, "CreateUser", "UserName", "op")
	w.ok(root, "CreatePolicy", "PolicyName", "all", "PolicyDocument", allowAll)
	w.ok(root, "CreateRole", "RoleName", "job", "AssumeRolePolicyDocument", trustAll)
	w.fails("NoSuchEntity", anna, "GetUser", "UserName", "op")
	w.fails("NoSuchEntity", anna, "PutRolePolicy", "RoleName", "job", "PolicyName", "p", "PolicyDocument", allowAll)
	w.ok(anna, "CreateUser", "UserName", "sub")
	all := auth.ARN(root.Account, auth.KindPolicy, "", "all")
	w.fails("NoSuchEntity", anna, "AttachUserPolicy", "UserName", "sub", "PolicyArn", all)
	w.fails("NoSuchEntity", anna, "CreatePolicyVersion", "PolicyArn", all, "PolicyDocument", allowAll)
	w.fails("AccessDenied", anna, "PutUserPolicy", "UserName", "anna", "PolicyName", "p", "PolicyDocument", allowAll)
	w.fails("AccessDenied", anna, "AttachUserPolicy", "UserName", anna.Canonical, "PolicyArn", "arn:aws:iam::aws:policy/AdministratorAccess")
	w.fails("AccessDenied", anna, "CreateOpenIDConnectProvider", "Url", "https://issuer.example")
	plain := w.who("plainkey")
	for _, action := range []string{"ListUsers", "ListRoles", "ListGroups", "ListPolicies", "GetAccountSummary", "ListOpenIDConnectProviders"} {
		w.fails("AccessDenied", plain, action)
	}
	w.fails("AccessDenied", plain, "CreateUser", "UserName", "x")
	w.fails("AccessDenied", plain, "CreateAccessKey", "UserName", "anna")
	// A key that is narrowed does not make one that is not, nor do temporary credentials.
	if _, err := w.users.AddKey(t.Context(), "anna", auth.Credentials{AccessKey: "narrow", SecretKey: "narrowsecret"},
		auth.KeyOptions{Policy: `{"Statement":{"Effect":"Allow","Action":"s3:*","Resource":"*"}}`}); err != nil {
		t.Fatal(err)
	}
	w.fails("AccessDenied", w.who("narrow"), "CreateAccessKey")
	w.fails("AccessDenied", w.who("narrow"), "CreateUser", "UserName", "y")
	w.fails("AccessDenied", w.who("narrow"), "GetSessionToken")
	c := credential.FindStringSubmatch(w.ok(anna, "GetSessionToken"))
	_, temp, err := w.users.LookupSession(t.Context(), c[1], c[3])
	if err != nil {
		t.Fatal(err)
	}
	for _, action := range []string{"CreateAccessKey", "ListUsers", "GetSessionToken"} {
		w.fails("AccessDenied", temp, action)
	}
	w.ok(temp, "GetCallerIdentity")
	// Who may manage the site's users by a policy of the site, may.
	w.ok(root, "AttachUserPolicy", "UserName", "plain", "PolicyArn", "arn:aws:iam::aws:policy/IAMFullAccess")
	if a := w.ok(w.who("plainkey"), "ListUsers"); !strings.Contains(a, `"anna"`) || strings.Contains(a, `"sub"`) {
		t.Error(a)
	}
}

func TestGroupsAndManagedPolicies(t *testing.T) {
	w := newWorld(t)
	root := w.who("rootkey")
	w.ok(root, "CreateGroup", "GroupName", "G")
	w.ok(root, "AddUserToGroup", "GroupName", "g", "UserName", "anna")
	w.ok(root, "AddUserToGroup", "GroupName", "g", "UserName", "anna")
	w.ok(root, "UpdateGroup", "GroupName", "G", "NewGroupName", "H")
	if a := w.ok(root, "ListGroupsForUser", "UserName", "anna"); !strings.Contains(a, `"H"`) {
		t.Error(a)
	}
	w.fails("DeleteConflict", root, "DeleteGroup", "GroupName", "H")
	w.ok(root, "CreatePolicy", "PolicyName", "P", "PolicyDocument", allowAll)
	arn := auth.ARN(root.Account, auth.KindPolicy, "", "P")
	w.ok(root, "AttachGroupPolicy", "GroupName", "H", "PolicyArn", "arn:aws:iam:::policy/p")
	if a := w.ok(root, "ListEntitiesForPolicy", "PolicyArn", arn); !strings.Contains(a, `"H"`) {
		t.Error(a)
	}
	w.fails("DeleteConflict", root, "DeletePolicy", "PolicyArn", arn)
	if d := w.who("annakey").Manages("iam:CreateUser", "*", false, nil); !d.Allowed {
		t.Error(d.Reason())
	}
	w.ok(root, "CreatePolicyVersion", "PolicyArn", arn, "PolicyDocument", iamPolicy, "SetAsDefault", "true")
	if d := w.who("annakey").Manages("iam:CreateUser", "*", false, nil); d.Allowed {
		t.Error("a new version is not in force")
	}
	w.fails("MalformedPolicyDocument", root, "CreatePolicyVersion", "PolicyArn", arn, "PolicyDocument", "nonsense")
	w.fails("DeleteConflict", root, "DeletePolicyVersion", "PolicyArn", arn, "VersionId", "v2")
	w.ok(root, "SetDefaultPolicyVersion", "PolicyArn", arn, "VersionId", "v1")
	w.ok(root, "DeletePolicyVersion", "PolicyArn", arn, "VersionId", "v2")
	w.ok(root, "DetachGroupPolicy", "GroupName", "H", "PolicyArn", arn)
	w.ok(root, "DeletePolicy", "PolicyArn", arn)
	w.ok(root, "RemoveUserFromGroup", "GroupName", "H", "UserName", "anna")
	w.ok(root, "DeleteGroup", "GroupName", "H")
	w.fails("NoSuchEntity", root, "AttachUserPolicy", "UserName", "anna", "PolicyArn", "arn:aws:iam::aws:policy/Nothing")
}

func TestPages(t *testing.T) {
	w := newWorld(t)
	root := w.who("rootkey")
	for _, name := range []string{"d", "B", "c", "A"} {
		w.ok(root, "CreateGroup", "GroupName", name)
	}
	var got []string
	marker := ""
	for range 4 {
		var page struct {
			Groups      []struct{ GroupName string }
			IsTruncated string
			Marker      string
		}
		params := []string{"MaxItems", "1"}
		if marker != "" {
			params = append(params, "Marker", marker)
		}
		if err := json.Unmarshal([]byte(w.ok(root, "ListGroups", params...)), &page); err != nil {
			t.Fatal(err)
		}
		got = append(got, page.Groups[0].GroupName)
		if (page.Marker != "") != (page.IsTruncated == "true") {
			t.Errorf("%+v", page)
		}
		marker = page.Marker
	}
	if !slices.Equal(got, []string{"A", "B", "c", "d"}) || marker != "" {
		t.Errorf("%q, marker %q", got, marker)
	}
	w.fails("ValidationError", root, "ListGroups", "MaxItems", "0")
}

func TestAssumeRole(t *testing.T) {
	w := newWorld(t)
	root, anna := w.who("rootkey"), w.who("annakey")
	sub := w.subUser(anna)
	trust := func(principal string) string {
		return `{"Statement":{"Effect":"Allow","Action":["sts:AssumeRole"],"Principal":{"AWS":"` + principal + `"}}}`
	}
	w.fails("MalformedPolicyDocument", root, "CreateRole", "RoleName", "job", "AssumeRolePolicyDocument", allowAll)
	w.ok(root, "CreateRole", "RoleName", "job", "AssumeRolePolicyDocument", trust(sub.ARN()))
	arn := auth.ARN(root.Account, auth.KindRole, "", "job")
	assume := []string{"RoleArn", arn, "RoleSessionName", "run"}
	w.ok(sub, "AssumeRole", assume...)
	w.ok(sub, "AssumeRole", "RoleArn", "arn:aws:iam:::role/job", "RoleSessionName", "run")
	w.fails("AccessDenied", anna, "AssumeRole", assume...)
	w.fails("AccessDenied", root, "AssumeRole", assume...)
	w.fails("AccessDenied", sub, "AssumeRole", "RoleArn", arn+"s", "RoleSessionName", "run")
	w.fails("ValidationError", sub, "AssumeRole", "RoleArn", arn, "RoleSessionName", "a b")
	w.fails("ValidationError", sub, "AssumeRole", append(assume, "DurationSeconds", "3601")...)
	w.fails("MalformedPolicyDocument", sub, "AssumeRole", append(assume, "Policy", "{}")...)
	// Tags need a trust that allows them.
	w.fails("AccessDenied", sub, "AssumeRole", append(assume, "Tags.member.1.Key", "k", "Tags.member.1.Value", "v")...)
	// A trust of the account leaves it to the account.
	w.ok(root, "UpdateAssumeRolePolicy", "RoleName", "job", "PolicyDocument", trust(anna.Account))
	w.ok(anna, "AssumeRole", assume...)
	w.fails("AccessDenied", sub, "AssumeRole", assume...)
	w.ok(anna, "PutUserPolicy", "UserName", "sub", "PolicyName", "p", "PolicyDocument",
		`{"Statement":{"Effect":"Allow","Action":"sts:AssumeRole","Resource":"`+arn+`"}}`)
	sub = w.who("subkey")
	c := credential.FindStringSubmatch(w.ok(sub, "AssumeRole", assume...))
	_, id, err := w.users.LookupSession(t.Context(), c[1], c[3])
	if err != nil || !strings.HasSuffix(id.ARN(), ":assumed-role/job/run") || id.Canonical != root.Canonical {
		t.Errorf("%+v, %v", id, err)
	}
	// A Deny of the caller's own account counts, whatever the trust says.
	w.ok(root, "UpdateAssumeRolePolicy", "RoleName", "job", "PolicyDocument", trust(sub.ARN()))
	w.ok(anna, "PutUserPolicy", "UserName", "sub", "PolicyName", "p", "PolicyDocument", `{"Statement":{"Effect":"Deny","Action":"sts:*","Resource":"*"}}`)
	w.fails("AccessDenied", w.who("subkey"), "AssumeRole", assume...)
}

// subUser makes the user sub in an account, with the key subkey.
func (w *world) subUser(account *auth.Identity) *auth.Identity {
	w.t.Helper()
	w.ok(account, "CreateUser", "UserName", "sub")
	err := w.users.Change(w.t.Context(), "test", auth.Ref{Account: account.Canonical, Kind: auth.KindUser, Name: "sub"},
		func(_ *auth.View, e *auth.Entity) (*auth.Entity, error) {
			e.Keys = append(e.Keys, auth.Key{AccessKey: "subkey", Secret: "subsecret"})
			return e, nil
		})
	if err != nil {
		w.t.Fatal(err)
	}
	return w.who("subkey")
}

// TestWebIdentity has a real issuer of OpenID Connect tokens on loopback.
func TestWebIdentity(t *testing.T) {
	w := newWorld(t)
	issuer, err := mockoidc.Run()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = issuer.Shutdown() }()
	root := w.who("rootkey")
	w.ok(root, "CreateOpenIDConnectProvider", "Url", issuer.Issuer(), "ClientIDList.member.1", "my-app")
	name := strings.TrimPrefix(issuer.Issuer(), "http://")
	provider := auth.ARN(root.Account, auth.KindProvider, "/", name)
	trust := `{"Version":"2012-10-17","Statement":{"Effect":"Allow","Action":["sts:AssumeRoleWithWebIdentity","sts:TagSession"],"Principal":{"Federated":"` + provider +
		`"},"Condition":{"StringEquals":{"` + name + `:sub":"carol","` + name + `:aud":"my-app"}}}}`
	w.ok(root, "CreateRole", "RoleName", "web", "AssumeRolePolicyDocument", trust)
	role := auth.ARN(root.Account, auth.KindRole, "", "web")
	w.ok(root, "PutRolePolicy", "RoleName", "web", "PolicyName", "p", "PolicyDocument",
		`{"Version":"2012-10-17","Statement":{"Effect":"Allow","Action":"s3:GetObject","Resource":"arn:aws:s3:::b/${aws:PrincipalTag/team}/*"}}`)
	claims := func(change map[string]any) map[string]any {
		c := map[string]any{
			"iss": issuer.Issuer(), "sub": "carol", "aud": "my-app", "iat": time.Now().Unix(), "exp": time.Now().Add(time.Hour).Unix(),
			"https://aws.amazon.com/tags": map[string]any{"principal_tags": map[string]any{"team": []string{"blue"}}},
		}
		maps.Copy(c, change)
		return c
	}
	token := func(change map[string]any) string {
		s, err := issuer.Keypair.SignJWT(jwt.MapClaims(claims(change)))
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	nobody := &auth.Identity{}
	call := func(token string) (string, string) {
		return w.do(nobody, "AssumeRoleWithWebIdentity", "RoleArn", role, "RoleSessionName", "run", "WebIdentityToken", token)
	}
	answer, code := call(token(nil))
	if code != "" || !strings.Contains(answer, `"SubjectFromWebIdentityToken":"carol"`) {
		t.Fatal(answer, code)
	}
	c := credential.FindStringSubmatch(answer)
	_, id, err := w.users.LookupSession(t.Context(), c[1], c[3])
	if err != nil {
		t.Fatal(err)
	}
	for key, want := range map[string]bool{"blue/x": true, "red/x": false} {
		r := auth.Request{Identity: id, Action: "s3:GetObject", Bucket: "b", Key: key, BucketOwner: "x", Lookup: id.Condition}
		if d := auth.Authorize(&r); d.Allowed != want {
			t.Errorf("%s: %s", key, d.Reason())
		}
	}
	forger, err := mockoidc.RandomKeypair(2048)
	if err != nil {
		t.Fatal(err)
	}
	forged, err := forger.SignJWT(jwt.MapClaims(claims(nil)))
	if err != nil {
		t.Fatal(err)
	}
	whole := token(nil)
	none := "eyJhbGciOiJub25lIn0." + strings.Split(whole, ".")[1] + "."
	for name, c := range map[string][2]string{
		"another subject":  {token(map[string]any{"sub": "mallory"}), "AccessDenied"},
		"another client":   {token(map[string]any{"aud": "other"}), "InvalidIdentityToken"},
		"expired":          {token(map[string]any{"exp": time.Now().Add(-time.Hour).Unix()}), "ExpiredTokenException"},
		"another issuer":   {token(map[string]any{"iss": "http://127.0.0.1:1/x"}), "InvalidIdentityToken"},
		"another's key":    {forged, "InvalidIdentityToken"},
		"no signature":     {none, "InvalidIdentityToken"},
		"broken signature": {whole[:len(whole)-8] + "AAAAAAAA", "InvalidIdentityToken"},
		"garbage":          {"a.b.c", "InvalidIdentityToken"},
	} {
		if _, code := call(c[0]); code != c[1] {
			t.Errorf("%s: %q, want %s", name, code, c[1])
		}
	}
	w.ok(root, "DeleteOpenIDConnectProvider", "OpenIDConnectProviderArn", provider)
	if _, code := call(token(nil)); code != "InvalidIdentityToken" {
		t.Errorf("a provider that is gone: %q", code)
	}
}

// post sends a call over HTTP, signed where key is not empty.
func (w *world) post(key, secret, token string, form url.Values, change func(*http.Request)) (int, string) {
	w.t.Helper()
	body := form.Encode()
	r, err := http.NewRequestWithContext(w.t.Context(), http.MethodPost, w.http.URL+"/", strings.NewReader(body))
	if err != nil {
		w.t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded; charset=utf-8")
	if key != "" {
		if token != "" {
			r.Header.Set("X-Amz-Security-Token", token)
		}
		sum := sha256.Sum256([]byte(body))
		r.Header.Set("X-Amz-Content-Sha256", hex.EncodeToString(sum[:])) // for the signer, which does not send it
		r = signer.SignV4STS(*r, key, secret, "us-east-1")
	}
	if change != nil {
		change(r)
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		w.t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		w.t.Fatal(err)
	}
	if err := xml.Unmarshal(b, new(struct{ XMLName xml.Name })); err != nil {
		w.t.Errorf("not XML: %v in %s", err, b)
	}
	return resp.StatusCode, string(b)
}

func TestHTTP(t *testing.T) {
	w := newWorld(t)
	caller := url.Values{"Action": {"GetCallerIdentity"}, "Version": {stsVersion}}
	status, body := w.post("annakey", "annasecret", "", caller, nil)
	if status != 200 || !strings.Contains(body, "<GetCallerIdentityResult><UserId>") || !strings.Contains(body, ":user/anna</Arn>") {
		t.Error(status, body)
	}
	status, body = w.post("annakey", "annasecret", "", url.Values{"Action": {"GetSessionToken"}, "Version": {stsVersion}}, nil)
	c := regexp.MustCompile(`<AccessKeyId>(.+)</AccessKeyId><SecretAccessKey>(.+)</SecretAccessKey><SessionToken>(.+)</SessionToken>`).FindStringSubmatch(body)
	if status != 200 || c == nil {
		t.Fatal(status, body)
	}
	if status, body := w.post(c[1], c[2], c[3], caller, nil); status != 200 || !strings.Contains(body, ":user/anna</Arn>") {
		t.Error(status, body)
	}
	for name, x := range map[string]struct {
		key, secret, token string
		form               url.Values
		change             func(*http.Request)
		status             int
		code               string
	}{
		"wrong secret":    {"annakey", "other", "", caller, nil, 403, "SignatureDoesNotMatch"},
		"unknown key":     {"nokey", "other", "", caller, nil, 403, "InvalidClientTokenId"},
		"without token":   {c[1], c[2], "", caller, nil, 403, "InvalidClientTokenId"},
		"wrong token":     {c[1], c[2], "abc", caller, nil, 403, "InvalidClientTokenId"},
		"no signature":    {"", "", "", caller, nil, 403, "MissingAuthenticationToken"},
		"other service":   {"annakey", "annasecret", "", url.Values{"Action": {"ListUsers"}, "Version": {"2010-05-08"}}, nil, 400, "AuthorizationHeaderMalformed"},
		"no such action":  {"annakey", "annasecret", "", url.Values{"Action": {"Nothing"}, "Version": {stsVersion}}, nil, 400, "InvalidAction"},
		"action with XML": {"annakey", "annasecret", "", url.Values{"Action": {"<a>&"}, "Version": {stsVersion}}, nil, 400, "InvalidAction"},
		"body changed": {"annakey", "annasecret", "", caller, func(r *http.Request) {
			r.Body = io.NopCloser(strings.NewReader("Action=GetSessionToken&Version=" + stsVersion))
			r.ContentLength = -1
		}, 0, ""},
		"too large": {"annakey", "annasecret", "", url.Values{"Action": {strings.Repeat("x", MaxBody)}}, nil, 400, "InvalidParameterValue"},
	} {
		status, body := w.post(x.key, x.secret, x.token, x.form, x.change)
		if x.status == 0 {
			if status < 400 || strings.Contains(body, "SecretAccessKey") {
				t.Errorf("%s: %d %s", name, status, body)
			}
			continue
		}
		if status != x.status || !strings.Contains(body, "<Code>"+x.code+"</Code>") {
			t.Errorf("%s: %d %s", name, status, body)
		}
	}
}

// A permissions boundary bounds what policies give, cannot be taken away by who is bounded, and holds its policy.
func TestPermissionsBoundary(t *testing.T) {
	w := newWorld(t)
	for _, who := range []*auth.Identity{w.who("rootkey"), w.who("annakey")} {
		bound := auth.ARN(who.Account, auth.KindPolicy, "", "bound")
		w.ok(who, "CreatePolicy", "PolicyName", "bound", "PolicyDocument", iamPolicy)
		w.fails("NoSuchEntity", who, "CreateUser", "UserName", "bob", "PermissionsBoundary", bound+"x")
		w.ok(who, "CreateUser", "UserName", "bob", "PermissionsBoundary", bound)
		key := credential.FindStringSubmatch(w.ok(who, "CreateAccessKey", "UserName", "bob"))[1]
		w.ok(who, "PutUserPolicy", "UserName", "bob", "PolicyName", "p", "PolicyDocument", allowAll)
		if a := w.ok(who, "GetUser", "UserName", "bob"); !strings.Contains(a, bound) {
			t.Error(a)
		}
		w.ok(w.who(key), "GetUser", "UserName", "bob")
		w.fails("AccessDenied", w.who(key), "CreateUser", "UserName", "eve")
		w.fails("AccessDenied", w.who(key), "DeleteUserPermissionsBoundary", "UserName", "bob")
		w.fails("DeleteConflict", who, "DeletePolicy", "PolicyArn", bound)
		w.ok(who, "DeleteUserPermissionsBoundary", "UserName", "bob")
		w.fails("NoSuchEntity", who, "DeleteUserPermissionsBoundary", "UserName", "bob")
		w.ok(w.who(key), "CreateUser", "UserName", "eve")
		w.ok(who, "PutUserPermissionsBoundary", "UserName", "bob", "PermissionsBoundary", bound)
		w.fails("AccessDenied", w.who(key), "DeleteUser", "UserName", "eve")

		// Who may make users only with the boundary makes none without.
		w.ok(who, "DeleteUserPermissionsBoundary", "UserName", "bob")
		w.ok(who, "PutUserPolicy", "UserName", "bob", "PolicyName", "p", "PolicyDocument",
			`{"Statement":{"Effect":"Allow","Action":"iam:CreateUser","Resource":"*","Condition":{"StringEquals":{"iam:PermissionsBoundary":"`+bound+`"}}}}`)
		w.fails("AccessDenied", w.who(key), "CreateUser", "UserName", "eva")
		w.ok(w.who(key), "CreateUser", "UserName", "eva", "PermissionsBoundary", bound)

		w.ok(who, "CreateRole", "RoleName", "job", "AssumeRolePolicyDocument", trustAll, "PermissionsBoundary", bound)
		w.ok(who, "PutRolePolicy", "RoleName", "job", "PolicyName", "p", "PolicyDocument", allowAll)
		c := credential.FindStringSubmatch(w.ok(who, "AssumeRole", "RoleArn", auth.ARN(who.Account, auth.KindRole, "", "job"), "RoleSessionName", "run"))
		session := func() *auth.Identity {
			t.Helper()
			_, id, err := w.users.LookupSession(t.Context(), c[1], c[3])
			if err != nil {
				t.Fatal(err)
			}
			return id
		}
		w.ok(session(), "GetUser", "UserName", "bob")
		w.fails("AccessDenied", session(), "DeleteUser", "UserName", "eva")
		w.ok(who, "DeleteRolePermissionsBoundary", "RoleName", "job")
		w.ok(session(), "DeleteUser", "UserName", "eva")
	}
	w.fails("InvalidInput", w.who("rootkey"), "PutUserPermissionsBoundary", "UserName", "anna", "PermissionsBoundary",
		"arn:aws:iam::aws:policy/AdministratorAccess")
	w.fails("InvalidAction", w.who("rootkey"), "PutGroupPermissionsBoundary", "GroupName", "x", "PermissionsBoundary", "y")
}
