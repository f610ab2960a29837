package auth

import (
	"context"
	"errors"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"firn"
	"firn/kv"
)

// fakeDB is a kv.DB in memory, as far as Users need one. fail makes the next commit fail, applied or not.
type fakeDB struct {
	kv.DB
	mu      sync.Mutex
	data    map[string]string
	fail    error
	applied bool
}

func newFakeDB() *fakeDB { return &fakeDB{data: map[string]string{}} }

func (d *fakeDB) View(_ context.Context, fn func(kv.Reader) error, _ ...[]byte) error {
	d.mu.Lock()
	r := fakeTx{data: maps.Clone(d.data)}
	d.mu.Unlock()
	return fn(&r)
}

func (d *fakeDB) Update(_ context.Context, fn func(kv.Tx) error, _ ...[]byte) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	tx := fakeTx{data: d.data, writes: maps.Clone(d.data)}
	if err := fn(&tx); err != nil {
		return err
	}
	if d.fail == nil || d.applied {
		d.data = tx.writes
	}
	err := d.fail
	d.fail = nil
	return err
}

type fakeTx struct {
	kv.Tx
	data, writes map[string]string
}

func (t *fakeTx) Get(dst, key []byte) ([]byte, error) {
	v, ok := t.data[string(key)]
	if !ok {
		return dst, kv.ErrNotFound
	}
	return append(dst, v...), nil
}
func (t *fakeTx) Set(key, value []byte) { t.writes[string(key)] = string(value) }
func (t *fakeTx) Delete(key []byte)     { delete(t.writes, string(key)) }
func (t *fakeTx) DeleteRange(lower, upper []byte) {
	for k := range t.writes {
		if k >= string(lower) && k < string(upper) {
			delete(t.writes, k)
		}
	}
}

func (t *fakeTx) Iter(lower, upper []byte) (kv.Iterator, error) {
	it := &fakeIter{data: t.data, at: -1}
	for _, k := range slices.Sorted(maps.Keys(t.data)) {
		if k >= string(lower) && k < string(upper) {
			it.keys = append(it.keys, k)
		}
	}
	return it, nil
}

type fakeIter struct {
	kv.Iterator
	data map[string]string
	keys []string
	at   int
}

func (i *fakeIter) First() bool            { i.at = 0; return i.at < len(i.keys) }
func (i *fakeIter) Next() bool             { i.at++; return i.at < len(i.keys) }
func (i *fakeIter) Key() []byte            { return []byte(i.keys[i.at]) }
func (i *fakeIter) Value() ([]byte, error) { return []byte(i.data[i.keys[i.at]]), nil }
func (i *fakeIter) Err() error             { return nil }
func (i *fakeIter) Close() error           { return nil }

var rootCreds = Credentials{AccessKey: "ROOTKEY", SecretKey: "root-secret"}

func openUsers(t *testing.T, db kv.DB) *Users {
	t.Helper()
	now := func() time.Time { return time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC) }
	u, err := OpenUsers(t.Context(), db, rootCreds, UsersOptions{Now: now})
	if err != nil {
		t.Fatal(err)
	}
	return u
}

func TestUsersSurviveReopening(t *testing.T) {
	db := newFakeDB()
	u := openUsers(t, db)
	grants := []Grant{{Role: RoleRead, Bucket: "photos", Prefix: "2026/"}, {Role: RoleOwner}}
	anna, creds, err := u.Add(t.Context(), "anna", Credentials{}, grants)
	if err != nil {
		t.Fatal(err)
	}
	if !regexp.MustCompile(`^[A-Z0-9]{20}$`).MatchString(creds.AccessKey) || !regexp.MustCompile(`^[A-Za-z0-9]{40}$`).MatchString(creds.SecretKey) {
		t.Errorf("generated credentials %q", creds)
	}
	if !regexp.MustCompile(`^[0-9a-f]{64}$`).MatchString(anna.Canonical) || anna.Account != AccountID(anna.Canonical) {
		t.Errorf("canonical id %q, account %q", anna.Canonical, anna.Account)
	}
	if _, _, err := u.Add(t.Context(), "bert", Credentials{AccessKey: "bert-key", SecretKey: "bert-secret"}, nil); err != nil {
		t.Fatal(err)
	}
	second, err := u.AddKey(t.Context(), "anna", Credentials{}, KeyOptions{})
	if err != nil {
		t.Fatal(err)
	}
	again := openUsers(t, db)
	if diff := cmp.Diff(u.List(), again.List()); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(u.Root(), again.Root(), cmpopts.IgnoreUnexported(Identity{})); diff != "" {
		t.Error(diff)
	}
	for key, want := range map[string]string{creds.AccessKey: creds.SecretKey, second.AccessKey: second.SecretKey, "bert-key": "bert-secret", "ROOTKEY": "root-secret"} {
		secret, id, err := again.Lookup(t.Context(), key)
		if err != nil || secret != want || id.AccessKey != key || id.Root != (key == "ROOTKEY") || !again.Exists(id.Canonical) || again.NameOf(id.Canonical) != id.Name {
			t.Errorf("%s: %q %+v %v", key, secret, id, err)
		}
	}
	if _, id, _ := again.Lookup(t.Context(), creds.AccessKey); !cmp.Equal(id.Grants, grants) {
		t.Errorf("grants %v", id.Grants)
	}
	if err := again.RemoveKey(t.Context(), creds.AccessKey); err != nil {
		t.Fatal(err)
	}
	if _, _, err := again.Lookup(t.Context(), creds.AccessKey); !errors.Is(err, ErrNoSuchKey) {
		t.Errorf("removed key: %v", err)
	}
	if err := again.SetGrants(t.Context(), "anna", nil); err != nil {
		t.Fatal(err)
	}
	anna, err = again.Get("anna")
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range []Limits{{Rate: 1}, {Requests: -2}, {Concurrent: -2}, {Rate: -2}} {
		if err := again.SetLimits(t.Context(), "anna", l); !errors.Is(err, ErrInvalidUser) {
			t.Errorf("%+v: %v", l, err)
		}
	}
	if err := again.SetLimits(t.Context(), "nobody", Limits{}); !errors.Is(err, ErrNoSuchUser) {
		t.Error(err)
	}
	own := Limits{Requests: 5, Concurrent: NoLimit, Rate: MinRate}
	if err := again.SetLimits(t.Context(), "anna", own); err != nil || again.LimitsOf(anna.Canonical) != own {
		t.Errorf("%+v, %v", again.LimitsOf(anna.Canonical), err)
	}
	if err := again.Remove(t.Context(), "bert"); err != nil {
		t.Fatal(err)
	}
	last := openUsers(t, db).List()
	if len(last) != 1 || len(last[0].Keys) != 1 || len(last[0].Grants) != 0 || last[0].Keys[0].AccessKey != second.AccessKey {
		t.Errorf("after changes: %+v", last)
	}
}

func TestUsersRefuse(t *testing.T) {
	u := openUsers(t, newFakeDB())
	ctx := t.Context()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	ok := Credentials{"some-key", "some-secret"}
	_, _, err := u.Add(ctx, "anna", ok, nil)
	must(err)
	add := func(name string, c Credentials, g ...Grant) func() error {
		return func() error { _, _, err := u.Add(ctx, name, c, g); return err }
	}
	key := func(name string, c Credentials) func() error {
		return func() error { _, err := u.AddKey(ctx, name, c, KeyOptions{}); return err }
	}
	for _, tc := range []struct {
		name string
		do   func() error
		want error
	}{
		{"same name", add("anna", Credentials{}), ErrUserExists},
		{"same key", add("bert", ok), ErrKeyExists},
		{"root's key", add("bert", Credentials{"ROOTKEY", "12345678"}), ErrKeyExists},
		{"root's name", add("root", Credentials{}), ErrInvalidUser},
		{"no name", add("", Credentials{}), ErrInvalidUser},
		{"slash in name", add("a/b", Credentials{}), ErrInvalidUser},
		{"long name", add(strings.Repeat("a", 65), Credentials{}), ErrInvalidUser},
		{"key without secret", add("bert", Credentials{AccessKey: "abc"}), ErrInvalidUser},
		{"secret without key", add("bert", Credentials{SecretKey: "12345678"}), ErrInvalidUser},
		{"short secret", add("bert", Credentials{"abc", "1234567"}), ErrInvalidUser},
		{"blank in secret", add("bert", Credentials{"abc", "1234 5678"}), ErrInvalidUser},
		{"slash in key", add("bert", Credentials{"a/bc", "12345678"}), ErrInvalidUser},
		{"bad grant", add("bert", Credentials{}, Grant{Role: "admin"}), ErrInvalidGrant},
		{"too many grants", add("bert", Credentials{}, make([]Grant, MaxGrants+1)...), ErrLimit},
		{"key of nobody", key("bert", Credentials{}), ErrNoSuchUser},
		{"key in use", key("anna", ok), ErrKeyExists},
		{"remove nobody", func() error { return u.Remove(ctx, "bert") }, ErrNoSuchUser},
		{"remove no key", func() error { return u.RemoveKey(ctx, "nokey") }, ErrNoSuchKey},
		{"remove root's key", func() error { return u.RemoveKey(ctx, "ROOTKEY") }, ErrDenied},
		{"grants of nobody", func() error { return u.SetGrants(ctx, "bert", nil) }, ErrNoSuchUser},
		{"get nobody", func() error { _, err := u.Get("bert"); return err }, ErrNoSuchUser},
	} {
		if err := tc.do(); !errors.Is(err, tc.want) || firn.KindOf(err) != firn.KindOf(tc.want) {
			t.Errorf("%s: got %v, want %v", tc.name, err, tc.want)
		}
	}
	if got := u.List(); len(got) != 1 || len(got[0].Keys) != 1 {
		t.Errorf("refused changes changed %+v", got)
	}
	for range MaxKeys - 1 {
		must(key("anna", Credentials{})())
	}
	if err := key("anna", Credentials{})(); !errors.Is(err, ErrLimit) {
		t.Errorf("key %d: %v", MaxKeys+1, err)
	}
}

func TestUsersKindOfErrors(t *testing.T) {
	u := openUsers(t, newFakeDB())
	_, _, err := u.Add(t.Context(), "a b", Credentials{}, nil)
	if firn.KindOf(err) != firn.Invalid {
		t.Errorf("%v is %v", err, firn.KindOf(err))
	}
	if strings.Count(err.Error(), "invalid user") != 1 {
		t.Errorf("%q repeats itself", err)
	}
}

// A commit that fails must not show in memory; one whose outcome is unknown shows after reopening.
func TestUsersFailedCommit(t *testing.T) {
	for _, applied := range []bool{false, true} {
		db := newFakeDB()
		u := openUsers(t, db)
		db.fail, db.applied = errors.New("disk gone"), applied
		if _, _, err := u.Add(t.Context(), "anna", Credentials{}, nil); err == nil {
			t.Fatal("no error")
		}
		if len(u.List()) != 0 {
			t.Error("failed change is visible")
		}
		if got := len(openUsers(t, db).List()); got != map[bool]int{true: 1}[applied] {
			t.Errorf("applied %v: %d users after reopening", applied, got)
		}
	}
}

func TestUsersOpenRefuses(t *testing.T) {
	good := `{"v":1,"name":"anna","canonical":"` + strings.Repeat("ab", 32) + `","keys":[{"access_key":"K1X","secret":"s"}]}`
	for name, record := range map[string]string{
		"newer version": strings.Replace(good, `"v":1`, `"v":3`, 1),
		"unknown seal":  strings.Replace(good, `"secret"`, `"seal":"x","secret"`, 1),
		"not JSON":      good[1:],
		"other name":    strings.Replace(good, "anna", "bert", 1),
		"root's key":    strings.Replace(good, "K1X", "ROOTKEY", 1),
	} {
		db := newFakeDB()
		db.data["auanna"] = record
		if _, err := OpenUsers(t.Context(), db, rootCreds, UsersOptions{}); err == nil {
			t.Errorf("%s: opened", name)
		} else if strings.Contains(err.Error(), `"s"`) {
			t.Errorf("%s: error shows the secret: %v", name, err)
		}
	}
	db := newFakeDB()
	db.data["auanna"] = good
	if u := openUsers(t, db); u.NameOf(strings.Repeat("ab", 32)) != "anna" {
		t.Error("good record was not read")
	}
	if _, err := OpenUsers(t.Context(), db, Credentials{"ab", "12345678"}, UsersOptions{}); !errors.Is(err, ErrInvalidUser) {
		t.Errorf("bad root credentials: %v", err)
	}
}

func TestUsersConcurrently(t *testing.T) {
	u := openUsers(t, newFakeDB())
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			name := "user" + strconv.Itoa(i)
			_, creds, err := u.Add(t.Context(), name, Credentials{}, nil)
			if err != nil {
				t.Error(err)
				return
			}
			if _, id, err := u.Lookup(t.Context(), creds.AccessKey); err != nil || id.Name != name {
				t.Errorf("%s: own key not visible: %v", name, err)
			}
		})
	}
	wg.Wait()
	if len(u.List()) != 8 {
		t.Errorf("%d users", len(u.List()))
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	u.change <- struct{}{} // a change that hangs
	if _, err := u.AddKey(ctx, "user1", Credentials{}, KeyOptions{}); !errors.Is(err, context.Canceled) {
		t.Errorf("waited past its context: %v", err)
	}
}

func TestAccountID(t *testing.T) {
	for canonical, want := range map[string]string{
		"":                       "",
		"xyz":                    "",
		strings.Repeat("g", 64):  "",
		strings.Repeat("0", 64):  "000000000000",
		"00000000000000a" + "ff": "000000000010",
		strings.Repeat("f", 64):  "504606846975",
	} {
		if got := AccountID(canonical); got != want {
			t.Errorf("AccountID(%q) = %q, want %q", canonical, got, want)
		}
	}
}
