package node

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
	"github.com/minio/minio-go/v7/pkg/encrypt"
	"github.com/minio/minio-go/v7/pkg/tags"

	"firn"
	"firn/adminapi"
	"firn/audit"
	"firn/config"
	"firn/tlsconf"
)

// plant stores markers as content small, large and in parts, as key, bucket, metadata, tag and user, and returns them.
func plant(t *testing.T, s *site) []string {
	t.Helper()
	ctx := t.Context()
	c := s.client(t)
	const b = "bucket-marker-quartz"
	if err := c.MakeBucket(ctx, b, minio.MakeBucketOptions{}); err != nil {
		t.Fatal(err)
	}
	put := func(key, content string, o minio.PutObjectOptions) {
		t.Helper()
		if _, err := c.PutObject(ctx, b, key, strings.NewReader(content), int64(len(content)), o); err != nil {
			t.Fatal(err)
		}
	}
	put("key-marker-obsidian", "content-marker-feldspar", minio.PutObjectOptions{
		UserMetadata: map[string]string{"note": "metadata-marker-mica"}, UserTags: map[string]string{"t": "tag-marker-basalt"},
	})
	put("large", strings.Repeat("content-marker-granite ", 10_000), minio.PutObjectOptions{})
	put("parts", strings.Repeat("content-marker-gneiss ", 600_000), minio.PutObjectOptions{PartSize: 5 << 20})
	if err := c.SetBucketTagging(ctx, b, mustTags(t)); err != nil {
		t.Fatal(err)
	}
	status, made := s.adminDo(t, "POST", "/admin/v1/users", `{"name":"user-marker-schist","access_key":"ACCESSMARKERSLATE1","secret_key":"secret-marker-shale"}`)
	if status != 200 {
		t.Fatalf("%d %s", status, made)
	}
	root := s.Root()
	return []string{
		b, "key-marker-obsidian", "content-marker-feldspar", "metadata-marker-mica", "tag-marker-basalt",
		"content-marker-granite", "content-marker-gneiss", "bucket-tag-marker-gabbro", "user-marker-schist",
		"ACCESSMARKERSLATE1", "secret-marker-shale", root.SecretKey,
	}
}

func mustTags(t *testing.T) *tags.Tags {
	t.Helper()
	x, err := tags.MapToBucketTags(map[string]string{"t": "bucket-tag-marker-gabbro"})
	if err != nil {
		t.Fatal(err)
	}
	return x
}

// planted returns which of the markers are in names or contents below dir.
func planted(t *testing.T, dir string, markers []string) []string {
	t.Helper()
	found := map[string]bool{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		all := []byte(d.Name())
		if !d.IsDir() {
			b, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			all = append(all, b...)
		}
		for _, m := range markers {
			if bytes.Contains(all, []byte(m)) {
				found[m] = true
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	var list []string
	for _, m := range markers {
		if found[m] {
			list = append(list, m)
		}
	}
	return list
}

// TestEncryptAll encrypts a whole site and finds nothing of what was planted in its directory, while it runs and after.
func TestEncryptAll(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	cfg := settings(t, dir)
	cfg.Encryption.All = true
	cfg.Encryption.Keyring = filepath.Join(t.TempDir(), "keyring.json")
	cfg.Audit.Enabled = true
	s := start(t, cfg, Options{})
	markers := append(plant(t, s), "PRIVATE KEY")
	// The S3 endpoint of this test speaks plain HTTP; the site's own authority is made all the same.
	tlsOptions := tlsconf.Options{Mode: tlsconf.Self, Dir: TLSDir(dir), Seal: s.dir.sealer()}
	if _, err := tlsconf.Open(tlsOptions); err != nil {
		t.Fatal(err)
	}
	if got := planted(t, dir, markers); len(got) > 0 {
		t.Errorf("in the clear while it runs: %q", got)
	}
	if err := s.stop(); err != nil {
		t.Fatal(err)
	}
	if got := planted(t, dir, markers); len(got) > 0 {
		t.Errorf("in the clear after a stop: %q", got)
	}
	recorded := func() (lines string) {
		t.Helper()
		key, err := AuditSealer(t.Context(), dir, cfg.Encryption)
		if err != nil {
			t.Fatal(err)
		}
		h, err := audit.Verify(AuditDir(&cfg), "", key, func(l []byte) error { lines += string(l); return nil })
		if err != nil || h.Plain > 0 {
			t.Errorf("audit log: %+v, %v", h, err)
		}
		return lines
	}
	if all := recorded(); !strings.Contains(all, "key-marker-obsidian") || !strings.Contains(all, "/admin/v1/users") {
		t.Errorf("what was done is not in the audit log: %s", all)
	}
	if _, err := audit.Verify(AuditDir(&cfg), "", nil, nil); firn.KindOf(err) != firn.Denied {
		t.Errorf("audit log without a key: %v", err)
	}
	found := func(p adminapi.Problem) error { t.Errorf("found %+v", p); return nil }
	sum, err := CheckOffline(t.Context(), dir, cfg.Encryption, adminapi.CheckOptions{Read: true}, found)
	if err != nil || sum.Versions != 3 || sum.Bytes < 10<<20 {
		t.Errorf("check: %+v, %v", sum, err)
	}

	// It stays encrypted, whatever the setting says, and needs its keyring.
	other := cfg
	other.Encryption.Keyring = filepath.Join(t.TempDir(), "keyring.json")
	if _, err := Build(t.Context(), other, Options{}); err == nil {
		t.Error("it opens with another keyring")
	}
	if _, err := os.Stat(other.Encryption.Keyring); err == nil {
		t.Error("a new keyring was made for what another opens")
	}
	cfg.Encryption.All = false
	s = start(t, cfg, Options{})
	r, err := s.client(t).GetObject(t.Context(), markers[0], "parts", minio.GetObjectOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if b, err := io.ReadAll(r); err != nil || string(b) != strings.Repeat("content-marker-gneiss ", 600_000) {
		t.Errorf("%d bytes, %v", len(b), err)
	}
	if status, said := s.adminDo(t, "POST", "/admin/v1/kms", `{"name":"default","do":"rotate"}`); status != 204 {
		t.Errorf("%d %s", status, said)
	}
	if status, said := s.adminDo(t, "POST", "/admin/v1/kms/rewrap", ""); status != 200 || !strings.Contains(said, `"records":1,"rewrapped":1`) {
		t.Errorf("%d %s", status, said)
	}
	if err := s.stop(); err != nil {
		t.Fatal(err)
	}
	s = start(t, cfg, Options{})
	if _, err := s.client(t).StatObject(t.Context(), markers[0], "large", minio.StatObjectOptions{}); err != nil {
		t.Errorf("after the rewrap: %v", err)
	}
	tlsOptions.Seal = s.dir.sealer()
	if _, err := tlsconf.Open(tlsOptions); err != nil {
		t.Errorf("the site's authority: %v", err)
	}
	if err := s.stop(); err != nil {
		t.Fatal(err)
	}
	if all := recorded(); strings.Count(all, `"kind":"open"`) != 3 {
		t.Errorf("three starts are not in the audit log: %s", all)
	}
	if got := planted(t, dir, markers); len(got) > 0 {
		t.Errorf("in the clear at the end: %q", got)
	}
}

// TestPlantedInTheClear makes sure that the search above finds what is there.
func TestPlantedInTheClear(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	s := start(t, settings(t, dir), Options{})
	if _, err := tlsconf.Open(tlsconf.Options{Mode: tlsconf.Self, Dir: TLSDir(dir)}); err != nil {
		t.Fatal(err)
	}
	markers := append(plant(t, s), "PRIVATE KEY")
	got := strings.Join(planted(t, dir, markers), " ")
	for _, m := range markers {
		if m != "secret-marker-shale" && !strings.Contains(got, m) { // users' secrets are sealed always
			t.Errorf("%s is not found", m)
		}
	}
	if err := s.stop(); err != nil {
		t.Fatal(err)
	}
	cfg := settings(t, dir)
	cfg.Encryption.All = true
	if _, err := Build(t.Context(), cfg, Options{}); firn.KindOf(err) != firn.Conflict {
		t.Errorf("encrypting what is there: %v", err)
	}
}

// TestKMS rotates, rewraps, disables and destroys a key that objects are encrypted with.
func TestKMS(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	cfg := settings(t, dir)
	cfg.Encryption.Passphrase = "correct horse battery"
	s := start(t, cfg, Options{})
	do := func(name, what string, want int) string {
		t.Helper()
		status, said := s.adminDo(t, "POST", "/admin/v1/kms", fmt.Sprintf(`{"name":%q,"do":%q}`, name, what))
		if status != want {
			t.Errorf("%s of %s: %d %s", what, name, status, said)
		}
		return said
	}
	do("mine", "create", 204)
	do("mine", "create", 409)
	do("mine", "dance", 400)
	c := s.client(t)
	if err := c.MakeBucket(t.Context(), bucket, minio.MakeBucketOptions{}); err != nil {
		t.Fatal(err)
	}
	kms, err := encrypt.NewSSEKMS("mine", map[string]string{"team": "a"})
	if err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{"small", "large"} {
		content := strings.Repeat("x", len(key)*20_000)
		if _, err := c.PutObject(t.Context(), bucket, key, strings.NewReader(content), int64(len(content)),
			minio.PutObjectOptions{ServerSideEncryption: kms}); err != nil {
			t.Fatal(err)
		}
	}
	get := func() error {
		r, err := s.client(t).GetObject(t.Context(), bucket, "large", minio.GetObjectOptions{})
		if err == nil {
			_, err = io.Copy(io.Discard, r)
		}
		return err
	}
	do("mine", "rotate", 204)
	status, said := s.adminDo(t, "POST", "/admin/v1/kms/rewrap", "")
	var sum adminapi.RewrapLine
	if err := json.Unmarshal([]byte(said), &sum); err != nil || status != 200 || sum.Rewrapped.Rewrapped != 2 || sum.Error != "" {
		t.Errorf("%d %s", status, said)
	}
	if err := s.stop(); err != nil {
		t.Fatal(err)
	}
	wrong := cfg
	wrong.Encryption.Passphrase = config.Secret("another passphrase")
	if _, err := Build(t.Context(), wrong, Options{}); firn.KindOf(err) != firn.Denied {
		t.Errorf("another passphrase: %v", err)
	}
	s = start(t, cfg, Options{})
	if err := get(); err != nil {
		t.Error(err)
	}
	do("mine", "disable", 204)
	if err := get(); minio.ToErrorResponse(err).Code != "KMS.DisabledException" {
		t.Errorf("disabled: %v", err)
	}
	do("mine", "enable", 204)
	if err := get(); err != nil {
		t.Error(err)
	}
	do("mine", "destroy", 204)
	if err := get(); minio.ToErrorResponse(err).Code != "KMS.KMSInvalidStateException" {
		t.Errorf("destroyed: %v", err)
	}
	if _, said := s.admin(t, "/admin/v1/kms"); !strings.Contains(said, `"state":"destroyed"`) {
		t.Error(said)
	}
}

// TestSecretsAreUnderTheKeyring holds that a directory whose keys are kept elsewhere gives away no secret of root or of a
// user, even with all else in the clear, and that one from before is sealed at the first such start.
func TestSecretsAreUnderTheKeyring(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	cfg := settings(t, dir)
	s := start(t, cfg, Options{})
	if status, said := s.adminDo(t, "POST", "/admin/v1/users", `{"name":"anna","access_key":"ANNASACCESSKEY","secret_key":"annas-secret-shale"}`); status != 200 {
		t.Fatalf("%d %s", status, said)
	}
	root := s.Root()
	secret, err := s.dir.SiteKey()
	if err != nil {
		t.Fatal(err)
	}
	if err := s.stop(); err != nil {
		t.Fatal(err)
	}
	secrets := []string{root.SecretKey, "annas-secret-shale", hex.EncodeToString(secret[:])}
	if got := planted(t, dir, secrets); len(got) != 2 {
		t.Fatalf("the search finds %d secrets of 2 where the keys are beside", len(got))
	}
	works := func(s *site) {
		t.Helper()
		if s.Root() != root {
			t.Error("root has other keys")
		}
		if _, err := s.client(t).ListBuckets(t.Context()); err != nil {
			t.Error(err)
		}
		c, err := minio.New(s.Addr().String(), &minio.Options{Creds: credentials.NewStaticV4("ANNASACCESSKEY", "annas-secret-shale", "")})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.ListBuckets(t.Context()); err != nil {
			t.Errorf("anna: %v", err)
		}
	}

	cfg.Encryption.Keyring = filepath.Join(t.TempDir(), "keyring.json")
	for range 2 {
		s = start(t, cfg, Options{})
		works(s)
		if got := planted(t, dir, secrets); len(got) > 0 {
			t.Errorf("in the clear: %q", got)
		}
		for _, do := range []string{"destroy", "disable"} {
			if status, said := s.adminDo(t, "POST", "/admin/v1/kms", `{"name":"default","do":"`+do+`"}`); status != 409 {
				t.Errorf("%s of the key that the site starts with: %d %s", do, status, said)
			}
		}
		if status, said := s.adminDo(t, "POST", "/admin/v1/kms", `{"name":"default","do":"rotate"}`); status != 204 {
			t.Errorf("%d %s", status, said)
		}
		if status, said := s.adminDo(t, "POST", "/admin/v1/kms/rewrap", ""); status != 200 || !strings.Contains(said, `"records":1,"rewrapped":1`) {
			t.Errorf("%d %s", status, said)
		}
		if err := s.stop(); err != nil {
			t.Fatal(err)
		}
	}
	other := cfg
	other.Encryption.Keyring = filepath.Join(t.TempDir(), "keyring.json")
	if _, err := Build(t.Context(), other, Options{}); err == nil {
		t.Error("it opens with another keyring")
	}
	// A file in the clear is not taken for a sealed one.
	if err := os.WriteFile(filepath.Join(dir, credentialsName), []byte(`{"access_key":"PLANTEDPLANTED","secret_key":"planted-by-a-thief"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Build(t.Context(), cfg, Options{}); err == nil {
		t.Error("credentials that somebody put there are taken")
	}
}

// TestSealingIsFinishedAfterACrash stops between the two files.
func TestSealingIsFinishedAfterACrash(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	cfg := settings(t, dir)
	s := start(t, cfg, Options{})
	root := s.Root()
	if err := s.stop(); err != nil {
		t.Fatal(err)
	}
	plain, err := os.ReadFile(filepath.Join(dir, siteKeyName))
	if err != nil {
		t.Fatal(err)
	}
	cfg.Encryption.Keyring = filepath.Join(t.TempDir(), "keyring.json")
	if err := start(t, cfg, Options{}).stop(); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, stateKeyName)
	kept, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	kept = bytes.Replace(kept, []byte(`"sealed": true`), []byte(`"sealed": false`), 1)
	for name, content := range map[string][]byte{stateKeyName: kept, siteKeyName: plain} {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s = start(t, cfg, Options{})
	if s.Root() != root {
		t.Error("root has other keys")
	}
	if got, err := os.ReadFile(filepath.Join(dir, siteKeyName)); err != nil || bytes.Contains(got, bytes.TrimSpace(plain)) {
		t.Errorf("not sealed: %v", err)
	}
}
