package agefile

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"filippo.io/age"
	"golang.org/x/crypto/ssh"

	"firn"
)

func open(t *testing.T, b []byte, ids ...age.Identity) (string, error) {
	t.Helper()
	r, err := Decrypt(bytes.NewReader(b), ids...)
	if err != nil {
		return "", err
	}
	p, err := io.ReadAll(r)
	return string(p), err
}

func TestKeys(t *testing.T) {
	dir := t.TempDir()
	file := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	id, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	pub, priv, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	sshPub, err := ssh.NewPublicKey(pub)
	if err != nil {
		t.Fatal(err)
	}
	block, err := ssh.MarshalPrivateKey(priv, "")
	if err != nil {
		t.Fatal(err)
	}
	recipients := file("recipients", "# two\n"+id.Recipient().String()+"\n\n"+string(ssh.MarshalAuthorizedKey(sshPub)))
	to, err := Recipients([]string{"@" + recipients})
	if err != nil || len(to) != 2 {
		t.Fatalf("%d, %v", len(to), err)
	}
	content := strings.Repeat("content", 30_000)
	for _, armored := range []bool{false, true} {
		var b bytes.Buffer
		if err := Encrypt(&b, strings.NewReader(content), armored, to...); err != nil {
			t.Fatal(err)
		}
		for name, path := range map[string]string{
			"age": file("id", "# a key\n"+id.String()+"\n"), "ssh": file("ssh", string(pem.EncodeToMemory(block))),
		} {
			ids, err := Identities([]string{path})
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			if got, err := open(t, b.Bytes(), ids...); err != nil || got != content {
				t.Errorf("%s, armored %v: %d bytes, %v", name, armored, len(got), err)
			}
			if _, err := open(t, b.Bytes()[:b.Len()-50], ids...); firn.KindOf(err) != firn.Corrupt {
				t.Errorf("%s, armored %v, cut off: %v", name, armored, err)
			}
		}
		other, err := age.GenerateX25519Identity()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := open(t, b.Bytes(), other); firn.KindOf(err) != firn.Denied {
			t.Errorf("another key: %v", err)
		}
	}
	if _, err := Recipients([]string{"age1nonsense"}); firn.KindOf(err) != firn.Invalid {
		t.Errorf("a recipient that is none: %v", err)
	}
	if _, err := Recipients([]string{"@" + file("empty", "#\n")}); firn.KindOf(err) != firn.Invalid {
		t.Errorf("no recipient: %v", err)
	}
	if _, err := Identities([]string{file("bad", "x")}); firn.KindOf(err) != firn.Invalid {
		t.Errorf("a key that is none: %v", err)
	}
}

func TestPassphrase(t *testing.T) {
	to, err := Passphrase([]byte("correct horse"))
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if err := Encrypt(&b, strings.NewReader("content"), false, to); err != nil {
		t.Fatal(err)
	}
	for pass, want := range map[string]firn.Kind{"correct horse": firn.Internal, "wrong": firn.Denied} {
		id, err := PassphraseIdentity([]byte(pass))
		if err != nil {
			t.Fatal(err)
		}
		got, err := open(t, b.Bytes(), id)
		if want == firn.Internal && (err != nil || got != "content") || want != firn.Internal && firn.KindOf(err) != want {
			t.Errorf("%s: %q, %v", pass, got, err)
		}
	}
	if _, err := Passphrase(nil); err == nil {
		t.Error("an empty passphrase")
	}
	if _, err := open(t, []byte("nothing of the kind")); firn.KindOf(err) != firn.Corrupt {
		t.Error("not an age file")
	}
}
