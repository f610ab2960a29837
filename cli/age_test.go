package cli

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"filippo.io/age"
)

// keyFile writes a new age key to a file, and returns its path and its recipient.
func keyFile(t *testing.T, name string) (path, recipient string) {
	t.Helper()
	id, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	path = filepath.Join(t.TempDir(), name)
	write(t, path, []byte("# a comment, as age-keygen writes\n"+id.String()+"\n"))
	return path, id.Recipient().String()
}

// holds compares a file with what it should hold; nil is that it must not be there.
func holds(t *testing.T, path string, want []byte) {
	t.Helper()
	got, err := os.ReadFile(path)
	if want == nil {
		if !os.IsNotExist(err) {
			t.Errorf("%s: %d bytes are there, %v", path, len(got), err)
		}
		return
	}
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("%s: %d bytes, want %d; %v", path, len(got), len(want), err)
	}
}

func TestEncryptAndDecrypt(t *testing.T) {
	s := newShell(t)
	content := noise(200_000, 1)
	write(t, "plain", content)
	one, toOne := keyFile(t, "one")
	two, toTwo := keyFile(t, "two")
	three, _ := keyFile(t, "three")
	write(t, "both", []byte("# who may read it\n"+toOne+"\n\n"+toTwo+"\n"))

	// Several recipients, by flags and by file: each opens it alone, others do not, and leave nothing.
	for _, flags := range [][]string{{"--recipient", toOne, "--recipient", toTwo}, {"--recipient", "@both"}, {"--recipient", "@both", "--armor"}} {
		s.ok(append([]string{"encrypt", "plain", "sealed.age"}, flags...)...)
		for _, key := range []string{one, two} {
			s.ok("decrypt", "sealed.age", "out", "--identity", key)
			holds(t, "out", content)
			if err := os.Remove("out"); err != nil {
				t.Fatal(err)
			}
		}
		s.fails(exitFailed, "none of the keys", "decrypt", "sealed.age", "out", "--identity", three)
		holds(t, "out", nil)
		s.ok("decrypt", "sealed.age", "out", "--identity", three, "--identity", two)
		holds(t, "out", content)
		if err := os.Remove("out"); err != nil {
			t.Fatal(err)
		}
	}
	sealed, err := os.ReadFile("sealed.age")
	if err != nil || !bytes.HasPrefix(sealed, []byte("-----BEGIN AGE ENCRYPTED FILE-----")) {
		t.Errorf("--armor: %.40q, %v", sealed, err)
	}

	// A password, by variable and by file; a wrong one; standard output.
	s.env["FIRN_ENCRYPT_PASSWORD"] = "correct horse"
	s.ok("encrypt", "plain", "password.age")
	if out := s.ok("decrypt", "password.age"); out != string(content) {
		t.Errorf("%d bytes on the standard output", len(out))
	}
	s.env["FIRN_ENCRYPT_PASSWORD"] = "wrong"
	s.fails(exitFailed, "wrong password", "decrypt", "password.age", "out")
	holds(t, "out", nil)
	write(t, "password", []byte("correct horse\n"))
	delete(s.env, "FIRN_ENCRYPT_PASSWORD")
	s.env["FIRN_ENCRYPT_PASSWORD_FILE"] = "password"
	s.ok("decrypt", "password.age", "out")
	holds(t, "out", content)
	if fi, err := os.Stat("out"); err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("mode of what was secret: %v, %v", fi.Mode(), err)
	}

	// What was there stays where the new file is cut off or changed anywhere, and nothing is left beside it.
	s.ok("encrypt", "plain", "sealed.age", "--recipient", toOne)
	if sealed, err = os.ReadFile("sealed.age"); err != nil {
		t.Fatal(err)
	}
	write(t, "out", []byte("before"))
	for _, n := range []int{0, 10, 100, 300, 70_000, len(sealed) - 1, len(sealed) - 16} {
		write(t, "cut.age", sealed[:n])
		s.fails(exitFailed, "decrypt", "decrypt", "cut.age", "out", "--identity", one)
		holds(t, "out", []byte("before"))
	}
	for _, at := range []int{5, 100, 250, 70_000, len(sealed) - 1} {
		changed := bytes.Clone(sealed)
		changed[at] ^= 1
		write(t, "changed.age", changed)
		if r := s.run("decrypt", "changed.age", "out", "--identity", one); r.code != exitFailed {
			t.Errorf("changed at %d: exit %d, %s", at, r.code, r.err)
		}
		holds(t, "out", []byte("before"))
	}
	if left, err := filepath.Glob(".out.*"); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}

	// What cannot be meant.
	s.fails(exitFailed, "want age1", "encrypt", "plain", "x", "--recipient", "anna@example.com")
	s.fails(exitFailed, "not a file of age-keygen", "decrypt", "sealed.age", "x", "--identity", "plain")
	s.fails(exitUsage, "a file", "encrypt")
	if r := s.run("encrypt", "absent", "x", "--recipient", toOne); r.code != exitFailed || !strings.Contains(r.err, "absent") {
		t.Errorf("%d %s", r.code, r.err)
	}
	holds(t, "x", nil)
}

// TestCopyEncrypted puts an encrypted object and gets it back; nothing of the file is in the object.
func TestCopyEncrypted(t *testing.T) {
	s := clientShell(t)
	marker := []byte("a line that must not leave in the clear\n")
	content := bytes.Repeat(marker, 200_000)
	write(t, "plain", content)
	one, to := keyFile(t, "one")
	three, _ := keyFile(t, "three")
	s.ok("mb", "s3://docs")
	s.ok("cp", "--encrypt", "--recipient", to, "plain", "s3://docs/plain.age")
	stored := s.ok("cat", "s3://docs/plain.age")
	if strings.Contains(stored, string(marker)) || !strings.HasPrefix(stored, "age-encryption.org/v1") {
		t.Errorf("stored: %.60q", stored)
	}
	s.ok("cp", "--decrypt", "--identity", one, "s3://docs/plain.age", "back")
	holds(t, "back", content)
	write(t, "fetched.age", []byte(stored))
	s.ok("decrypt", "fetched.age", "again", "--identity", one)
	holds(t, "again", content)
	s.fails(exitFailed, "none of the keys", "cp", "--decrypt", "--identity", three, "s3://docs/plain.age", "other")
	holds(t, "other", nil)

	// An object that was cut off.
	write(t, "cut.age", []byte(stored[:len(stored)-100]))
	s.ok("cp", "cut.age", "s3://docs/cut.age")
	s.fails(exitFailed, "cut off", "cp", "--decrypt", "--identity", one, "s3://docs/cut.age", "other")
	holds(t, "other", nil)
	// Many files at once are not one stream.
	if r := s.run("cp", "-r", "--encrypt", "--recipient", to, ".", "s3://docs/all"); r.code != exitUsage {
		t.Errorf("cp -r --encrypt: %d %s", r.code, r.err)
	}
}
