package places

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"firn"
	"firn/blob/driver"
	"firn/blob/drivertest"
)

func TestFileAndPrefix(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "place")
	ctx := t.Context()
	if _, err := Open(ctx, "file:"+dir, Secrets{}); firn.KindOf(err) != firn.Unavailable || !strings.Contains(err.Error(), "firn blob init") {
		t.Errorf("a directory that is no place: %v", err)
	}
	s, err := Init(ctx, "file:"+dir, Secrets{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if err := s.PutBytes(ctx, "a/b/c", []byte("x")); err != nil {
		t.Fatal(err)
	}
	o := Opener{Named: map[string]Place{"nas": {URL: "file:" + dir}}}
	below, err := o.Open(ctx, "place:nas/a/b")
	if err != nil {
		t.Fatal(err)
	}
	defer below.Close()
	if p, err := below.ReadAll(ctx, "c", 10); string(p) != "x" || err != nil {
		t.Errorf("%q, %v", p, err)
	}
	if _, err := below.ReadAll(ctx, "none", 10); err == nil || !strings.Contains(err.Error(), dir+" below a/b") {
		t.Errorf("%v", err)
	}
	_, err = o.Open(ctx, "place:tape")
	if want := "open place:tape: no place of this name: the configuration has nas"; err == nil || err.Error() != want {
		t.Errorf("%v, want %s", err, want)
	}
}

// TestContract holds the wrappers of a place together to the contract of a driver.
func TestContract(t *testing.T) {
	drivertest.Run(t, func(t *testing.T) driver.Driver {
		o := Opener{Named: map[string]Place{"x": {
			// Without Encrypt: deriving its key takes a second, and its own package holds it to the contract.
			URL: "file:" + t.TempDir(), Compress: true, Upload: 1 << 40, Download: 1 << 40,
		}}}
		s, err := o.Init(t.Context(), "place:x/below/this")
		if err != nil {
			t.Fatal(err)
		}
		return s.Driver()
	}, drivertest.Blobs(100), drivertest.Large(2<<20), drivertest.Rounds(20),
		drivertest.Expect(drivertest.Creator|drivertest.BulkDeleter|drivertest.Measurer))
}

func TestWhatIsRefused(t *testing.T) {
	for raw, want := range map[string]string{
		"":                               "has no scheme",
		"/srv/place":                     "has no scheme",
		"ftp://host/x":                   `no scheme "ftp"`,
		"s3://AKIA:hush@bucket":          "has a password",
		"s3://AKIA:hu%zzsh@bucket":       "no URL",
		"postgres://app:hush@host:x/db":  "no URL",
		"file://host/x":                  "no host",
		"file:":                          "no directory",
		"file:/x?y=1":                    "path only",
		"sftp://u:hush@h:1\x00/":         "no URL",
		"git+https://u:hush@host/r.git":  "has a password",
		"redis://:hush@127.0.0.1:6379/0": "has a password",
	} {
		_, err := Open(t.Context(), raw, Secrets{})
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "hush") {
			t.Errorf("%q: %v, want %q", raw, err, want)
		}
	}
}

// TestEverySchemeIsKnown opens each scheme with what its driver must refuse or fail to reach, never as unknown.
func TestEverySchemeIsKnown(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for _, scheme := range Schemes() {
		if scheme == "place" || scheme == "mem" {
			continue
		}
		for _, rest := range []string{"", "//127.0.0.1:1,127.0.0.1:2/x?no=such"} {
			s, err := Open(ctx, scheme+":"+rest, Secrets{})
			if err == nil {
				s.Close()
			}
			if err == nil || strings.Contains(err.Error(), "no scheme") || strings.Contains(err.Error(), "this is no URL") {
				t.Errorf("%s:%s: %v", scheme, rest, err)
			}
		}
	}
}

func TestRedact(t *testing.T) {
	for raw, want := range map[string]string{
		"file:/a/b":                   "file:/a/b",
		"s3://bucket/p?endpoint=http": "s3://bucket/p?endpoint=http",
		"sftp://user@host/p":          "sftp://user@host/p",
		"sftp://user:pw@host/p":       "sftp://user@host/p",
		"sftp://user:p%@host/p":       "sftp:...@host/p",
		"sftp://user:p@w@host/%zz":    "sftp:...@host/%zz",
		"redis:user:pw@host":          "redis:...@host",
		"no url @":                    "no url @",
	} {
		if got := Redact(raw); got != want {
			t.Errorf("%q: %q, want %q", raw, got, want)
		}
	}
}

func TestSecrets(t *testing.T) {
	path := filepath.Join(t.TempDir(), "credentials")
	text := "# NAS\n\naccess_key = AKIA\nsecret_key=se=cr et\n session_token = t \nencryption_password = e\n"
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	s, err := ReadSecrets(path)
	if err != nil || s != (Secrets{Username: "AKIA", Password: "se=cr et", SessionToken: "t", EncryptionPassword: "e"}) {
		t.Errorf("%+v, %v", [4]string{s.Username, s.Password, s.SessionToken, s.EncryptionPassword}, err)
	}
	if shown := fmt.Sprintf("%v %+v %#v %s", s, s, s, Place{Secrets: s}.Secrets); strings.Contains(shown, "cr et") {
		t.Errorf("shown as %s", shown)
	}
	for text, want := range map[string]string{
		"password: hush":                "line 1",
		"\nhush":                        "line 2",
		"password=a\nsecret_key = hush": "line 2: secret_key is set a second time",
		strings.Repeat("# x\n", 20_000): "larger",
	} {
		if _, err := ParseSecrets([]byte(text)); firn.KindOf(err) != firn.Invalid || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "hush") {
			t.Errorf("%.20q: %v, want %q", text, err, want)
		}
	}
	if _, err := ReadSecrets(path + "x"); firn.KindOf(err) != firn.NotFound {
		t.Errorf("%v", err)
	}
}

func FuzzParseSecrets(f *testing.F) {
	f.Add([]byte("username = a\npassword = b\n"))
	f.Fuzz(func(t *testing.T, p []byte) {
		if _, err := ParseSecrets(p); err != nil && firn.KindOf(err) != firn.Invalid {
			t.Errorf("%v", err)
		}
	})
}

func FuzzRedact(f *testing.F) {
	f.Add("scheme", "user", "secret", "host/path")
	f.Fuzz(func(t *testing.T, scheme, user, password, rest string) {
		if len(password) < 8 || strings.ContainsAny(scheme+user+rest, "@/:?#") || strings.ContainsAny(password, "@/?#") {
			return
		}
		if strings.Contains(scheme+user+rest, password) {
			return
		}
		if got := Redact(scheme + "://" + user + ":" + password + "@" + rest); strings.Contains(got, password) {
			t.Errorf("shows it: %q", got)
		}
	})
}
