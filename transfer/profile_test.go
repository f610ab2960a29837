package transfer

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"firn"
)

func TestProfilesAreKept(t *testing.T) {
	path := filepath.Join(t.TempDir(), "deep", "client.yaml")
	p, err := LoadProfiles(path)
	if err != nil || len(p.Names()) != 0 {
		t.Fatalf("%v, %v", p, err)
	}
	office := Profile{Endpoint: "https://s3.example.org", AccessKey: "AK", SecretKey: "s: #'\"\n", Region: "eu-1", Insecure: true}
	for name, v := range map[string]Profile{"office": office, "default": {Endpoint: "http://127.0.0.1:9000"}} {
		if err := p.Set(name, v); err != nil {
			t.Fatal(err)
		}
	}
	fi, err := os.Stat(path)
	if err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", fi.Mode(), err)
	}
	if p, err = LoadProfiles(path); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"default", "office"}, p.Names()); diff != "" {
		t.Error(diff)
	}
	if got, ok := p.Get("office"); !ok || got != office {
		t.Errorf("%+v", got)
	}
	if err := p.Remove("office"); err != nil {
		t.Error(err)
	}
	if err := p.Remove("office"); firn.KindOf(err) != firn.NotFound {
		t.Error(err)
	}
	for name, v := range map[string]Profile{"a b": office, "": office, "x": {Endpoint: "ftp://x"}, "y": {Endpoint: "http://u:p@h"}, "z": {}} {
		if err := p.Set(name, v); firn.KindOf(err) != firn.Invalid {
			t.Errorf("%q %+v: %v", name, v, err)
		}
	}
	if entries, err := os.ReadDir(filepath.Dir(path)); err != nil || len(entries) != 1 {
		t.Errorf("%v, %v", entries, err)
	}
	if err := os.Chmod(path, 0o640); err != nil {
		t.Fatal(err)
	}
	if _, err := LoadProfiles(path); firn.KindOf(err) != firn.Invalid || !strings.Contains(err.Error(), "chmod 600") {
		t.Errorf("a file that others can read: %v", err)
	}
}

func TestProfileErrorsShowNoSecret(t *testing.T) {
	path := filepath.Join(t.TempDir(), "client.yaml")
	for _, doc := range []string{
		"profiles:\n  a:\n    secret_key: TOPSECRET\n    wrong: 1\n", "profiles:\n  a:\n    secret_key: TOPSECRET: x\n", "profiles: [TOPSECRET]\n",
		"TOPSECRET", "profiles:\n  \"TOP SECRET\": {}\n",
	} {
		if err := os.WriteFile(path, []byte(doc), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := LoadProfiles(path)
		if firn.KindOf(err) != firn.Invalid || strings.Contains(err.Error(), "TOPSECRET") {
			t.Errorf("%q: %v", doc, err)
		}
	}
}

func FuzzProfiles(f *testing.F) {
	f.Add([]byte("profiles:\n  a:\n    endpoint: http://x\n"))
	f.Add([]byte("profiles: {a: {insecure: true}}"))
	f.Fuzz(func(t *testing.T, doc []byte) {
		named, err := parseProfiles(doc)
		if err != nil {
			return
		}
		for n := range named {
			if err := checkProfileName(n); err != nil {
				t.Error(err)
			}
		}
	})
}

func TestResolve(t *testing.T) {
	profiles := &Profiles{path: "f", named: map[string]Profile{
		"default": {Endpoint: "http://default", AccessKey: "DA", SecretKey: "DS"},
		"office":  {Endpoint: "http://office", AccessKey: "OA", SecretKey: "OS", Region: "eu", VirtualHost: true},
		"bare":    {Endpoint: "http://bare"},
	}}
	none := &Profiles{named: map[string]Profile{}}
	firnEnv := map[string]string{"FIRN_ENDPOINT": "http://firn", "FIRN_ACCESS_KEY": "FA", "FIRN_SECRET_KEY": "FS", "FIRN_REGION": "fr"}
	awsEnv := map[string]string{
		"AWS_ENDPOINT_URL": "http://aws", "AWS_ACCESS_KEY_ID": "AA", "AWS_SECRET_ACCESS_KEY": "AS", "AWS_SESSION_TOKEN": "AT", "AWS_DEFAULT_REGION": "ar",
	}
	both := map[string]string{}
	for _, m := range []map[string]string{firnEnv, awsEnv} {
		for k, v := range m {
			both[k] = v
		}
	}
	for name, tt := range map[string]struct {
		s        Select
		profiles *Profiles
		env      map[string]string
		want     Profile
		kind     firn.Kind
	}{
		"nothing":                {Select{}, none, nil, Profile{Endpoint: DefaultEndpoint}, 0},
		"default profile":        {Select{}, profiles, nil, Profile{Endpoint: "http://default", AccessKey: "DA", SecretKey: "DS"}, 0},
		"firn variables":         {Select{}, profiles, both, Profile{Endpoint: "http://firn", AccessKey: "FA", SecretKey: "FS", Region: "fr"}, 0},
		"aws variables":          {Select{}, none, awsEnv, Profile{Endpoint: "http://aws", AccessKey: "AA", SecretKey: "AS", SessionToken: "AT", Region: "ar"}, 0},
		"named profile":          {Select{Profile: "office"}, profiles, both, Profile{Endpoint: "http://office", AccessKey: "OA", SecretKey: "OS", Region: "eu", VirtualHost: true}, 0},
		"profile by variable":    {Select{}, profiles, map[string]string{"FIRN_PROFILE": "bare"}, Profile{Endpoint: "http://bare"}, 0},
		"flags over all":         {Select{Profile: "office", Flags: Profile{Endpoint: "http://flag", AccessKey: "XA", SecretKey: "XS"}}, profiles, both, Profile{Endpoint: "http://flag", AccessKey: "XA", SecretKey: "XS", Region: "eu", VirtualHost: true}, 0},
		"key and secret stay":    {Select{Flags: Profile{AccessKey: "XA"}}, none, firnEnv, Profile{}, firn.Invalid},
		"unknown profile":        {Select{Profile: "nope"}, profiles, nil, Profile{}, firn.NotFound},
		"endpoint with a path":   {Select{Flags: Profile{Endpoint: "http://h/x"}}, none, nil, Profile{}, firn.Invalid},
		"endpoint without a dot": {Select{Flags: Profile{Endpoint: "localhost:9000"}}, none, nil, Profile{}, firn.Invalid},
	} {
		got, err := Resolve(tt.s, tt.profiles, func(k string) string { return tt.env[k] })
		if (err != nil) != (tt.kind != 0) || err != nil && firn.KindOf(err) != tt.kind || err == nil && got != tt.want {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
}

// TestUploadState checks that a record is only of use to the same file, and to one process at a time.
func TestUploadState(t *testing.T) {
	dir := t.TempDir()
	src := filepath.Join(dir, "src")
	writeFile(t, src, []byte("content"))
	fi, err := os.Stat(src)
	if err != nil {
		t.Fatal(err)
	}
	states := &stateDir{filepath.Join(dir, "states")}
	to := loc(t, "s3://bucket/key")
	open := func(endpoint string, to Location, partSize int64) (*uploadState, error) {
		return states.openUpload(endpoint, to, src, fi, partSize)
	}
	st, err := open("http://a", to, 5)
	if err != nil || st.UploadID != "" {
		t.Fatalf("%+v, %v", st, err)
	}
	st.UploadID = "id"
	if err := st.save(); err != nil {
		t.Fatal(err)
	}
	if _, err := open("http://a", to, 5); !errors.Is(err, errBusy) {
		t.Errorf("a second process got in: %v", err)
	}
	if err := st.close(); err != nil {
		t.Fatal(err)
	}
	check := func(what string, st *uploadState, err error, want string) {
		t.Helper()
		if err != nil || st.UploadID != want {
			t.Errorf("%s: %+v, %v", what, st, err)
			return
		}
		if err := st.close(); err != nil {
			t.Error(err)
		}
	}
	st, err = open("http://a", to, 5)
	check("the same", st, err, "id")
	st, err = open("http://b", to, 5)
	check("another endpoint", st, err, "")
	st, err = open("http://a", to, 6)
	check("another part size", st, err, "")
	st, err = open("http://a", loc(t, "s3://bucket/other"), 5)
	check("another key", st, err, "")
	writeFile(t, st.path, nil)
	if err := os.WriteFile(filepath.Join(states.path, stateName("http://a", to.String(), src)+".json"), []byte("{cut sho"), 0o600); err != nil {
		t.Fatal(err)
	}
	st, err = open("http://a", to, 5)
	check("a damaged record", st, err, "")
	var none *stateDir
	st, err = none.openUpload("http://a", to, src, fi, 5)
	check("no directory", st, err, "")
	if err := errors.Join(st.save(), st.forget()); err != nil {
		t.Error(err)
	}
}
