package cli

import (
	"path/filepath"
	"strings"
	"testing"

	"firn/doctor"
)

// TestDoctor looks at a site with the settings that firn serve would have.
func TestDoctor(t *testing.T) {
	s := newShell(t)
	dir, _, _ := s.serve()
	s.ok("kms", "ls", "--data", dir)
	s.env["FIRN_DATA"] = dir
	look := func() map[string]doctor.Finding {
		t.Helper()
		by := map[string]doctor.Finding{}
		for _, f := range decode[[]doctor.Finding](t, s.run("doctor", "--json").out) {
			by[f.Check] = f
		}
		return by
	}
	by := look()
	if f := by["keys"]; f.Level != doctor.Warn || !strings.Contains(f.What, "in the data directory") || !strings.Contains(f.Do, "encryption.secret_file") {
		t.Errorf("%+v", f)
	}
	if f := by["admin endpoint"]; f.Level != doctor.OK {
		t.Errorf("%+v", f)
	}
	write(t, "firn.yaml", []byte("durability: relaxed\nadmin_listen: :9001\nadmin_allow_plain: true\n"))
	s.env["FIRN_ENCRYPTION_PASSPHRASE"] = "correct horse"
	by = look()
	for check, want := range map[string]doctor.Level{"keys": doctor.OK, "admin endpoint": doctor.Warn, "durability": doctor.Warn} {
		if f := by[check]; f.Level != want {
			t.Errorf("%s: %+v, want %s", check, f, want)
		}
	}
	delete(s.env, "FIRN_ENCRYPTION_PASSPHRASE")
	write(t, "firn.yaml", []byte("encryption: {passphrase: correct horse}\n"))
	// Another device cannot be counted on here: the file is on the volume of the data, and open to all.
	by = look()
	if f := by["permissions"]; f.Level != doctor.Bad || !strings.Contains(f.What, "firn.yaml") {
		t.Errorf("%+v", f)
	}
	if f := by["keys"]; f.Level != doctor.Warn || !strings.Contains(f.What, "firn.yaml") {
		t.Errorf("%+v", f)
	}
	write(t, "firn.yaml", []byte("durability: sometimes\n"))
	if r := s.run("doctor"); r.code == exitOK || !strings.Contains(r.err, "durability") {
		t.Errorf("%d %s", r.code, r.err)
	}
}

// TestAuditShow prints the log of a site that seals it, with its key and not without.
func TestAuditShow(t *testing.T) {
	s := newShell(t)
	s.env["FIRN_ENCRYPTION_ALL"], s.env["FIRN_AUDIT_ENABLED"] = "true", "true"
	s.env["FIRN_ENCRYPTION_KEYRING"] = filepath.Join(t.TempDir(), "keyring.json")
	dir, _, stop := s.serve()
	s.ok("kms", "create", "payroll", "--data", dir)
	stop()
	if out := s.ok("audit", "show", "--data", dir); !strings.Contains(out, "/admin/v1/kms") || !strings.Contains(out, `"kind":"close"`) {
		t.Errorf("%s", out)
	}
	if out := s.ok("audit", "verify", "--data", dir); !strings.Contains(out, "one chain") || strings.Contains(out, "not sealed") {
		t.Errorf("%s", out)
	}
	s.fails(exitFailed, "the key of its data directory is needed", "audit", "verify", "--dir", filepath.Join(dir, "audit"), "--data", t.TempDir())
	s.env["FIRN_ENCRYPTION_KEYRING"] = filepath.Join(t.TempDir(), "keyring.json")
	s.fails(exitFailed, "encryption.keyring", "audit", "show", "--data", dir)
}
