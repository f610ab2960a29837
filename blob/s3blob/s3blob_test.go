package s3blob

import (
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"firn"
)

func TestFromURL(t *testing.T) {
	t.Setenv("AWS_ENDPOINT_URL", "https://env:1")
	t.Setenv("AWS_ENDPOINT_URL_S3", "")
	t.Setenv("AWS_REGION", "there")
	t.Setenv("AWS_CA_BUNDLE", "/bundle")
	for text, want := range map[string]Options{
		"s3://b":                   {Bucket: "b", Endpoint: "https://env:1", Region: "there", CAFile: "/bundle"},
		"s3://b?endpoint=http://h": {Bucket: "b", Endpoint: "http://h", Region: "there"},
		"s3://b/p/q/?endpoint=http://h:9000&region=x&style=path&ca=/ca": {
			Bucket: "b", Prefix: "p/q", Endpoint: "http://h:9000", Region: "x", Style: "path", CAFile: "/ca",
		},
	} {
		u, err := url.Parse(text)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := FromURL(u); err != nil || got != want {
			t.Errorf("%s: %+v, %v, want %+v", text, got, err, want)
		}
	}
	for _, text := range []string{
		"s3:///p", "s3:b/p", "s3://key:hunter2secret@b/p", "s3://host:9000/b", "s3://b?secret=hunter2secret",
		"s3://b?style=path&style=host", "http://b/p",
	} {
		u, err := url.Parse(text)
		if err != nil {
			t.Fatal(err)
		}
		if _, err = FromURL(u); firn.KindOf(err) != firn.Invalid || strings.Contains(err.Error(), "hunter2secret") {
			t.Errorf("%s: %v, want firn.Invalid without a secret", text, err)
		}
	}
}

func TestOptions(t *testing.T) {
	good := Options{Bucket: "b", Endpoint: "http://h:1", AccessKey: "a", SecretKey: "s"}
	for name, change := range map[string]func(*Options){
		"no bucket":     func(o *Options) { o.Bucket = "" },
		"a path":        func(o *Options) { o.Endpoint = "http://h:1/path" },
		"no scheme":     func(o *Options) { o.Endpoint = "h:1" },
		"style":         func(o *Options) { o.Style = "dns" },
		"small parts":   func(o *Options) { o.PartSize = 1 },
		"no such CA":    func(o *Options) { o.CAFile = "/nonexistent" },
		"no CA in file": func(o *Options) { o.CAFile = "s3blob_test.go" },
	} {
		opt := good
		change(&opt)
		if _, err := New(t.Context(), opt); firn.KindOf(err) != firn.Invalid {
			t.Errorf("%s: %v, want firn.Invalid", name, err)
		}
	}
	for _, name := range []string{
		"AWS_ACCESS_KEY_ID", "AWS_ACCESS_KEY", "AWS_SECRET_ACCESS_KEY", "AWS_SECRET_KEY", "AWS_WEB_IDENTITY_TOKEN_FILE",
		"AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "AWS_CONTAINER_CREDENTIALS_FULL_URI",
	} {
		t.Setenv(name, "")
	}
	t.Setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
	t.Setenv("AWS_CONFIG_FILE", "/nonexistent")
	opt := good
	opt.AccessKey = ""
	if _, err := New(t.Context(), opt); firn.KindOf(err) != firn.Denied {
		t.Errorf("without credentials: %v, want firn.Denied", err)
	}
	file := filepath.Join(t.TempDir(), "credentials")
	content := "[other]\naws_access_key_id = k\naws_secret_access_key = s\n"
	if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("AWS_SHARED_CREDENTIALS_FILE", file)
	for profile, want := range map[string]bool{"other": true, "none": false} {
		t.Setenv("AWS_PROFILE", profile)
		d, err := New(t.Context(), opt)
		if (err == nil) != want {
			t.Errorf("with the profile %q: %v", profile, err)
		}
		if err == nil {
			d.Close()
		}
	}
	t.Setenv("AWS_ACCESS_KEY_ID", "a")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "s")
	if d, err := New(t.Context(), opt); err != nil {
		t.Errorf("with credentials of the environment: %v", err)
	} else if err := d.Close(); err != nil {
		t.Error(err)
	}
}

func TestPartSize(t *testing.T) {
	for _, c := range [][3]int64{
		{1, 5 << 20, 5 << 20}, {50_000 << 20, 5 << 20, 5 << 20}, {50_000<<20 + 1, 5 << 20, 6 << 20}, {5 << 40, 32 << 20, 525 << 20},
	} {
		got := partSize(c[0], c[1])
		if got != c[2] || (c[0]+got-1)/got > maxParts {
			t.Errorf("partSize(%d, %d) = %d, want %d", c[0], c[1], got, c[2])
		}
	}
}

func FuzzExtent(f *testing.F) {
	f.Add("bytes 5-9/10", int64(5), int64(5))
	f.Add("", int64(0), int64(10))
	f.Add("bytes 0--1/", int64(0), int64(-1))
	f.Fuzz(func(t *testing.T, text string, offset, size int64) {
		n, err := extent(http.Header{"Content-Range": {text}}, offset, size)
		if err == nil && n < 0 {
			t.Errorf("%q from %d of %d: %d bytes", text, offset, size, n)
		}
	})
}
