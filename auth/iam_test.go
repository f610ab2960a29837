package auth

import (
	"bytes"
	"errors"
	"strings"
	"testing"
	"time"

	"firn/auth/policy"
	"firn/seal"
)

// site is a store with a clock that the test moves.
type site struct {
	*Users
	t   *testing.T
	db  *fakeDB
	now time.Time
}

func openSite(t *testing.T, db *fakeDB, s Sealer) *site {
	t.Helper()
	x := &site{t: t, db: db, now: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)}
	u, err := OpenUsers(t.Context(), db, rootCreds, UsersOptions{Now: func() time.Time { return x.now }, Sealer: s})
	if err != nil {
		t.Fatal(err)
	}
	x.Users = u
	return x
}

// put stores an entity as it is, or changes one.
func (s *site) put(account string, kind Kind, name string, edit func(e *Entity)) {
	s.t.Helper()
	err := s.Change(s.t.Context(), "test", Ref{account, kind, name}, func(_ *View, e *Entity) (*Entity, error) {
		if e == nil {
			e = &Entity{Name: name, Created: s.now, ID: NewID(kind)}
		}
		edit(e)
		return e, nil
	})
	if err != nil {
		s.t.Fatal(err)
	}
}

func (s *site) decide(key, action, bucket, owner string) Decision {
	s.t.Helper()
	_, id, err := s.Lookup(s.t.Context(), key)
	if err != nil {
		s.t.Fatal(err)
	}
	return Authorize(&Request{Identity: id, Action: action, Bucket: bucket, Key: "k", BucketOwner: owner, Lookup: id.Condition})
}

const allowGet = `{"Statement":{"Effect":"Allow","Action":"s3:GetObject","Resource":"*"}}`

func TestSecretsAreSealed(t *testing.T) {
	db := newFakeDB()
	db.data["auanna"] = `{"v":1,"name":"anna","canonical":"` + strings.Repeat("ab", 32) + `","keys":[{"access_key":"annakey","secret":"an-old-secret"}]}`
	key := &KeySealer{Key: seal.NewKey()}
	u := openSite(t, db, key)
	if _, _, err := u.Add(t.Context(), "bert", Credentials{"bertkey", "a-new-secret"}, nil); err != nil {
		t.Fatal(err)
	}
	for k, v := range db.data {
		if strings.Contains(v, "-secret") {
			t.Errorf("%s has a secret in plain: %s", k, v)
		}
	}
	again := openSite(t, db, key)
	for k, want := range map[string]string{"annakey": "an-old-secret", "bertkey": "a-new-secret"} {
		if got, _, err := again.Lookup(t.Context(), k); err != nil || got != want {
			t.Errorf("%s: %q, %v", k, got, err)
		}
	}
	for name, s := range map[string]Sealer{"another key": &KeySealer{Key: seal.NewKey()}, "no key": nil} {
		if _, err := OpenUsers(t.Context(), db, rootCreds, UsersOptions{Sealer: s}); err == nil {
			t.Errorf("%s opens the secrets", name)
		}
	}
	// A sealed secret under another access key does not open.
	db.data["aubert"] = strings.ReplaceAll(db.data["aubert"], "bertkey", "bertke2")
	if _, err := OpenUsers(t.Context(), db, rootCreds, UsersOptions{Sealer: key}); err == nil {
		t.Error("a secret that was moved to another key opens")
	}
}

func TestPoliciesOfUsers(t *testing.T) {
	db := newFakeDB()
	s := openSite(t, db, nil)
	ctx, root := t.Context(), s.Root().Canonical
	if _, _, err := s.Add(ctx, "anna", Credentials{"annakey", "annasecret"}, nil); err != nil {
		t.Fatal(err)
	}
	other := canonicalOf('9')
	if d := s.decide("annakey", "s3:GetObject", "b", other); d.Allowed {
		t.Error(d.Reason())
	}
	var group string
	s.put(root, KindGroup, "Readers", func(e *Entity) { group = e.ID; e.Attached = []string{"arn:aws:iam::aws:policy/AmazonS3ReadOnlyAccess"} })
	s.put(root, KindUser, "anna", func(e *Entity) { e.Groups = []string{group} })
	if d := s.decide("annakey", "s3:GetObject", "b", other); d.Reason() != "allowed by statement 1 of identity policy AmazonS3ReadOnlyAccess" {
		t.Error(d.Reason())
	}
	s.put(root, KindPolicy, "no", func(e *Entity) {
		e.Versions = []PolicyVersion{{ID: "v1", Default: true, Document: `{"Statement":{"Sid":"Stop","Effect":"Deny","Action":"s3:Get*","Resource":"arn:aws:s3:::b/*"}}`}}
	})
	s.put(root, KindUser, "ANNA", func(e *Entity) { e.Attached = []string{ARN(AccountID(root), KindPolicy, "", "no")} })
	for range 2 { // as it is, and after reopening
		if d := s.decide("annakey", "s3:GetObject", "b", other); d.Reason() != "denied by statement 1 (Stop) of identity policy no" {
			t.Error(d.Reason())
		}
		u, err := s.Get("anna")
		if err != nil || len(u.Groups) != 1 || u.Groups[0] != "Readers" || len(u.Policies) != 1 {
			t.Errorf("%+v, %v", u, err)
		}
		s = openSite(t, db, nil)
	}
	// Users of another account are out of reach of anna's.
	anna, _ := s.Get("anna")
	s.put(anna.Canonical, KindUser, "helper", func(e *Entity) {
		e.Keys = []Key{{AccessKey: "helperkey", Secret: "helpersecret"}}
		e.Inline = map[string]string{"get": allowGet}
	})
	if d := s.decide("helperkey", "s3:GetObject", "b", other); d.Allowed {
		t.Error(d.Reason())
	}
	if d := s.decide("helperkey", "s3:GetObject", "own", anna.Canonical); !d.Allowed {
		t.Error(d.Reason())
	}
	if _, e := s.View().Resolve("arn:aws:iam:::user/helper"); e != nil {
		t.Error("an ARN of the site names a user within an account")
	}
	if err := s.Remove(ctx, "anna"); err != nil {
		t.Fatal(err)
	}
	if _, _, err := s.Lookup(ctx, "helperkey"); !errors.Is(err, ErrNoSuchKey) {
		t.Errorf("a user outlives its account: %v", err)
	}
	for k := range db.data {
		if strings.Contains(k, anna.Canonical) {
			t.Errorf("%q is left", k)
		}
	}
}

func TestChangeRefuses(t *testing.T) {
	s := openSite(t, newFakeDB(), nil)
	root := s.Root().Canonical
	s.put(root, KindGroup, "one", func(*Entity) {})
	s.put(root, KindGroup, "two", func(*Entity) {})
	for name, c := range map[string]struct {
		ref  Ref
		edit func(e *Entity)
		want error
	}{
		"policy":   {Ref{root, KindGroup, "one"}, func(e *Entity) { e.Inline = map[string]string{"p": "{}"} }, nil},
		"trust":    {Ref{root, KindRole, "r"}, func(e *Entity) { e.Trust = allowGet }, nil},
		"path":     {Ref{root, KindGroup, "one"}, func(e *Entity) { e.Path = "x" }, ErrInvalidUser},
		"name":     {Ref{root, KindGroup, "one"}, func(e *Entity) { e.Name = "TWO" }, ErrUserExists},
		"bad name": {Ref{root, KindGroup, "one"}, func(e *Entity) { e.Name = "a/b" }, ErrInvalidUser},
		"many":     {Ref{root, KindGroup, "one"}, func(e *Entity) { e.Attached = make([]string, MaxAttached+1) }, ErrLimit},
		"of aws":   {Ref{"aws", KindPolicy, "AmazonS3FullAccess"}, func(*Entity) {}, ErrDenied},
		"root key": {Ref{root, KindUser, "u"}, func(e *Entity) { e.Keys = []Key{{AccessKey: "ROOTKEY", Secret: "12345678"}} }, ErrKeyExists},
	} {
		err := s.Change(t.Context(), "test", c.ref, func(_ *View, e *Entity) (*Entity, error) {
			if e == nil {
				e = &Entity{Name: c.ref.Name}
			}
			c.edit(e)
			return e, nil
		})
		var doc *policy.Error
		if c.want != nil && !errors.Is(err, c.want) || c.want == nil && !errors.As(err, &doc) {
			t.Errorf("%s: %v", name, err)
		}
	}
	s.put(root, KindUser, "inside", func(*Entity) {})
	if err := s.SetGrants(t.Context(), "inside", []Grant{{Role: RoleRead}}); !errors.Is(err, ErrInvalidGrant) {
		t.Errorf("grants that would mean nothing: %v", err)
	}
	if s.View().Entity(Ref{root, KindGroup, "ONE"}) == nil {
		t.Error("names depend on their case")
	}
}

func TestKeys(t *testing.T) {
	s := openSite(t, newFakeDB(), nil)
	ctx := t.Context()
	if _, _, err := s.Add(ctx, "anna", Credentials{"annakey", "annasecret"}, []Grant{{Role: RoleWrite}}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.AddKey(ctx, "anna", Credentials{"narrow", "narrowsecret"}, KeyOptions{Policy: allowGet, Expires: s.now.Add(time.Hour)}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.AddKey(ctx, "anna", Credentials{}, KeyOptions{Policy: `{"Statement":[]}`}); err == nil {
		t.Error("a key with a policy that is none")
	}
	if d := s.decide("narrow", "s3:PutObject", "b", canonicalOf('9')); d.Reason() != "denied: the policy of the session or key does not allow it" {
		t.Error(d.Reason())
	}
	if d := s.decide("narrow", "s3:GetObject", "b", canonicalOf('9')); d.Reason() != "allowed by grant write" {
		t.Error(d.Reason())
	}
	made, err := s.RotateKey(ctx, "narrow", 2*time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	if d := s.decide(made.AccessKey, "s3:PutObject", "b", canonicalOf('9')); d.Allowed {
		t.Error("the new key may do more: " + d.Reason())
	}
	made, err = s.RotateKey(ctx, "annakey", 10*time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	s.now = s.now.Add(10*time.Minute - time.Second)
	if _, _, err := s.Lookup(ctx, "annakey"); err != nil {
		t.Error("the old key ended before the overlap did")
	}
	s.now = s.now.Add(time.Second)
	if _, _, err := s.Lookup(ctx, "annakey"); !errors.Is(err, ErrNoSuchKey) {
		t.Errorf("the old key goes on: %v", err)
	}
	if _, id, err := s.Lookup(ctx, made.AccessKey); err != nil || id.Name != "anna" {
		t.Errorf("%v, %v", id, err)
	}
	if _, err := s.RotateKey(ctx, "ROOTKEY", 0); !errors.Is(err, ErrDenied) {
		t.Errorf("root's key: %v", err)
	}
}

func TestLastUse(t *testing.T) {
	db := newFakeDB()
	s := openSite(t, db, nil)
	if _, _, err := s.Add(t.Context(), "anna", Credentials{"annakey", "annasecret"}, nil); err != nil {
		t.Fatal(err)
	}
	used := func() time.Time { return s.View().Used("annakey") }
	if !used().IsZero() {
		t.Error("used before it was")
	}
	_, id, _ := s.Lookup(t.Context(), "annakey")
	id.Used(s.now)
	id.Used(s.now.Add(30 * time.Second)) // within a minute nothing is kept
	if got := used(); !got.Equal(s.now) {
		t.Errorf("used %v", got)
	}
	if err := s.saveUsed(t.Context()); err != nil {
		t.Fatal(err)
	}
	want := s.now
	s = openSite(t, db, nil)
	if got := used(); !got.Equal(want) {
		t.Errorf("after reopening %v", got)
	}
	if err := s.Remove(t.Context(), "anna"); err != nil {
		t.Fatal(err)
	}
	if err := s.saveUsed(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, there := db.data["alannakey"]; there {
		t.Error("the use of a key that is gone is kept")
	}
}

func TestSessions(t *testing.T) {
	s := openSite(t, newFakeDB(), nil)
	ctx, root := t.Context(), s.Root().Canonical
	s.put(root, KindRole, "job", func(e *Entity) {
		e.Inline, e.Tags = map[string]string{"all": `{"Statement":{"Effect":"Allow","Action":"s3:*","Resource":"*"}}`}, map[string]string{"team": "red", "a": "b"}
	})
	ref := Ref{root, KindRole, "job"}
	q := Session{Role: s.View().Entity(ref), Ref: ref, Name: "run", Policy: allowGet, Tags: map[string]string{"team": "blue"}, Life: time.Hour}
	c, token, expires, err := s.NewSession(q)
	if err != nil || !expires.Equal(s.now.Add(time.Hour)) {
		t.Fatal(expires, err)
	}
	secret, id, err := s.LookupSession(ctx, c.AccessKey, token)
	if err != nil || secret != c.SecretKey {
		t.Fatal(err)
	}
	if id.ARN() != "arn:aws:sts::"+AccountID(root)+":assumed-role/job/run" || id.Tags["team"] != "blue" || id.Tags["a"] != "b" {
		t.Errorf("%+v", id)
	}
	for action, want := range map[string]bool{"s3:GetObject": true, "s3:PutObject": false} {
		if d := Authorize(&Request{Identity: id, Action: action, Bucket: "b", Key: "k", BucketOwner: canonicalOf('9')}); d.Allowed != want {
			t.Errorf("%s: %s", action, d.Reason())
		}
	}
	for name, bad := range map[string][2]string{
		"other key": {"ASIAOTHER", token}, "cut": {c.AccessKey, token[:len(token)-1]}, "garbage": {c.AccessKey, "x"},
		"changed": {c.AccessKey, string(bytes.ToUpper([]byte(token)))},
	} {
		if _, _, err := s.LookupSession(ctx, bad[0], bad[1]); !errors.Is(err, ErrToken) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, _, err := s.Lookup(ctx, c.AccessKey); !errors.Is(err, ErrNoSuchKey) {
		t.Errorf("temporary credentials without their token: %v", err)
	}
	if _, _, _, err := s.NewSession(Session{Caller: id, Policy: "x"}); err == nil {
		t.Error("a session with a policy that is none")
	}
	s.now = expires
	if _, _, err := s.LookupSession(ctx, c.AccessKey, token); !errors.Is(err, ErrExpired) {
		t.Errorf("at its end: %v", err)
	}
	s.now = s.now.Add(-time.Minute)
	// A role of the same name that was made anew is not the role of the session.
	if err := s.Change(ctx, "test", ref, func(*View, *Entity) (*Entity, error) { return nil, nil }); err != nil {
		t.Fatal(err)
	}
	s.put(root, KindRole, "job", func(*Entity) {})
	if _, _, err := s.LookupSession(ctx, c.AccessKey, token); !errors.Is(err, ErrToken) {
		t.Errorf("after its role: %v", err)
	}
	// Credentials of GetSessionToken end with the key they were got with.
	if _, _, err := s.Add(ctx, "anna", Credentials{"annakey", "annasecret"}, nil); err != nil {
		t.Fatal(err)
	}
	_, anna, _ := s.Lookup(ctx, "annakey")
	if c, token, _, err = s.NewSession(Session{Caller: anna, Life: time.Hour}); err != nil {
		t.Fatal(err)
	}
	if _, id, err := s.LookupSession(ctx, c.AccessKey, token); err != nil || id.Name != "anna" || !id.Temporary {
		t.Errorf("%+v, %v", id, err)
	}
	if err := s.RemoveKey(ctx, "annakey"); err != nil {
		t.Fatal(err)
	}
	if _, _, err := s.LookupSession(ctx, c.AccessKey, token); !errors.Is(err, ErrToken) {
		t.Errorf("after the key: %v", err)
	}
}

func FuzzToken(f *testing.F) {
	u, err := OpenUsers(f.Context(), newFakeDB(), rootCreds, UsersOptions{})
	if err != nil {
		f.Fatal(err)
	}
	f.Add("ASIAX", "abc")
	f.Fuzz(func(t *testing.T, key, token string) {
		if _, _, err := u.LookupSession(t.Context(), key, token); !errors.Is(err, ErrToken) {
			t.Errorf("a token that nobody gave out: %v", err)
		}
	})
}
