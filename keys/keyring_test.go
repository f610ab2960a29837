package keys

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"firn"
	"firn/seal"
)

func openTestRing(t *testing.T, path, pass string) *Keyring {
	t.Helper()
	k, err := OpenKeyring(t.Context(), path, SecretText(pass))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func TestKeyring(t *testing.T) {
	ctx := t.Context()
	path := filepath.Join(t.TempDir(), "sub", "keyring.json")
	k := openTestRing(t, path, "correct horse")
	if err := k.Create(ctx, "one"); err != nil {
		t.Fatal(err)
	}
	plain := seal.NewKey()
	w, err := k.Wrap(ctx, "one", plain, []byte("ctx"))
	if err != nil {
		t.Fatal(err)
	}
	opens := func(k *Keyring, want error) {
		t.Helper()
		got, err := k.Unwrap(ctx, "one", w, []byte("ctx"))
		if !errors.Is(err, want) || err == nil && got != plain {
			t.Errorf("unwrap: %v, want %v", err, want)
		}
	}
	opens(k, nil)
	for name, fn := range map[string]func() (seal.Key, error){
		"another context": func() (seal.Key, error) { return k.Unwrap(ctx, "one", w, []byte("ctz")) },
		"a changed byte": func() (seal.Key, error) {
			p := bytes.Clone(w)
			p[len(p)-1] ^= 1
			return k.Unwrap(ctx, "one", p, []byte("ctx"))
		},
		"another version's number": func() (seal.Key, error) {
			p := bytes.Clone(w)
			p[4] ^= 1
			return k.Unwrap(ctx, "one", p, []byte("ctx"))
		},
		"cut": func() (seal.Key, error) { return k.Unwrap(ctx, "one", w[:10], []byte("ctx")) },
	} {
		if _, err := fn(); !errors.Is(err, ErrNotOpened) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := k.Create(ctx, "two"); err != nil {
		t.Fatal(err)
	}
	if _, err := k.Unwrap(ctx, "two", w, []byte("ctx")); !errors.Is(err, ErrNotOpened) {
		t.Errorf("another key: %v", err)
	}

	if newest, err := k.Newest(ctx, "one", w); !newest || err != nil {
		t.Errorf("newest: %v, %v", newest, err)
	}
	if err := k.Rotate(ctx, "one"); err != nil {
		t.Fatal(err)
	}
	if newest, err := k.Newest(ctx, "one", w); newest || err != nil {
		t.Errorf("newest after the rotation: %v, %v", newest, err)
	}
	again := openTestRing(t, path, "correct horse")
	opens(again, nil)
	if err := again.Disable(ctx, "one"); err != nil {
		t.Fatal(err)
	}
	opens(again, ErrDisabled)
	if err := again.Enable(ctx, "one"); err != nil {
		t.Fatal(err)
	}
	opens(again, nil)
	if err := again.Destroy(ctx, "one"); err != nil {
		t.Fatal(err)
	}
	opens(again, ErrDestroyed)
	for name, err := range map[string]error{
		"create": again.Create(ctx, "one"), "enable": again.Enable(ctx, "one"), "rotate": again.Rotate(ctx, "one"),
	} {
		if !errors.Is(err, ErrDestroyed) {
			t.Errorf("%s of a destroyed key: %v", name, err)
		}
	}
	list, err := openTestRing(t, path, "correct horse").List(ctx)
	if err != nil || len(list) != 2 || list[0].State != Destroyed || list[1].Name != "two" || list[1].Version != 1 {
		t.Errorf("%+v, %v", list, err)
	}
	if err := again.Create(ctx, "two"); !errors.Is(err, ErrKeyExists) {
		t.Errorf("again: %v", err)
	}
	if err := again.Rotate(ctx, "three"); !errors.Is(err, ErrNoKey) {
		t.Errorf("no key: %v", err)
	}
	if err := again.Create(ctx, "../x"); !errors.Is(err, ErrName) {
		t.Errorf("a name that is none: %v", err)
	}
	fi, err := os.Stat(path)
	if err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", fi.Mode(), err)
	}
}

func TestKeyringSeal(t *testing.T) {
	ctx := t.Context()
	dir := t.TempDir()
	path := filepath.Join(dir, "k")
	k := openTestRing(t, path, "first secret")
	if err := k.Create(ctx, "one"); err != nil {
		t.Fatal(err)
	}
	_, err := OpenKeyring(ctx, path, SecretText("other secret"))
	if firn.KindOf(err) != firn.Denied || strings.Contains(err.Error(), "other secret") {
		t.Errorf("wrong secret: %v", err)
	}
	if err := k.Seal(ctx, SecretText("other secret")); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenKeyring(ctx, path, SecretText("first secret")); firn.KindOf(err) != firn.Denied {
		t.Errorf("the old secret: %v", err)
	}
	openTestRing(t, path, "other secret")

	file := filepath.Join(dir, "key")
	if _, err := OpenKeyring(ctx, filepath.Join(dir, "no"), SecretFile(file, false)); firn.KindOf(err) == firn.Denied || err == nil {
		t.Errorf("no key file: %v", err)
	}
	if _, err := OpenKeyring(ctx, filepath.Join(dir, "made"), SecretFile(file, true)); err != nil {
		t.Error(err)
	}
	if _, err := OpenKeyring(ctx, filepath.Join(dir, "made"), SecretFile(file, true)); err != nil {
		t.Error(err)
	}
	if err := os.WriteFile(file, []byte("short\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenKeyring(ctx, filepath.Join(dir, "made"), SecretFile(file, true)); firn.KindOf(err) != firn.Invalid {
		t.Errorf("short: %v", err)
	}
	if err := os.WriteFile(file, []byte("other secret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenKeyring(ctx, path, SecretCommand("cat "+file)); err != nil {
		t.Errorf("command: %v", err)
	}
	if _, err := OpenKeyring(ctx, path, SecretCommand("cat "+file+".none")); firn.KindOf(err) != firn.Unavailable || !strings.Contains(err.Error(), "No such file") {
		t.Errorf("command that fails: %v", err)
	}
	if _, err := OpenKeyring(ctx, path, SecretCommand(" ")); firn.KindOf(err) != firn.Invalid {
		t.Errorf("no command: %v", err)
	}
}

func TestKeyringDamaged(t *testing.T) {
	path := filepath.Join(t.TempDir(), "k")
	openTestRing(t, path, "secret secret")
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var f keyringFile
	if err := json.Unmarshal(raw, &f); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		change func(f *keyringFile)
		want   firn.Kind
	}{
		"format":  {func(f *keyringFile) { f.Format = "x" }, firn.Corrupt},
		"version": {func(f *keyringFile) { f.Version = 2 }, firn.Unsupported},
		"salt":    {func(f *keyringFile) { f.Salt = nil }, firn.Corrupt},
		"cost":    {func(f *keyringFile) { f.Cost.Memory = 1 << 31 }, firn.Invalid},
		"key":     {func(f *keyringFile) { f.Key = f.Key[1:] }, firn.Denied},
		"content": {func(f *keyringFile) { f.Content[40] ^= 1 }, firn.Corrupt},
	} {
		bad := f
		bad.Content = bytes.Clone(f.Content)
		c.change(&bad)
		b, err := json.Marshal(bad)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := OpenKeyring(t.Context(), path, SecretText("secret secret")); firn.KindOf(err) != c.want {
			t.Errorf("%s: %v of kind %v, want %v", name, err, firn.KindOf(err), c.want)
		}
	}
}

func FuzzParseKeyring(f *testing.F) {
	f.Add([]byte(`{"format":"firn keyring","version":1,"salt":"AAAAAAAAAAAAAAAAAAAAAA==","cost":{"memory_kib":32768,"time":3,"threads":4}}`))
	f.Add([]byte(`{}`))
	f.Fuzz(func(t *testing.T, p []byte) {
		k, err := parseKeyring(p)
		if err == nil && (len(k.Salt) != seal.SaltSize || k.Cost.Check() != nil) {
			t.Errorf("%+v", k)
		}
	})
}

// away is a service elsewhere that can be switched off.
type away struct {
	*Keyring
	kind         byte
	down         bool
	wraps, opens int
}

func (a *away) Kind() byte { return a.kind }

func (a *away) Wrap(ctx context.Context, name string, plain seal.Key, c []byte) ([]byte, error) {
	if a.down {
		return nil, firn.NewError(firn.Unavailable, "away")
	}
	a.wraps++
	return a.Keyring.Wrap(ctx, name, plain, c)
}

func (a *away) Unwrap(ctx context.Context, name string, w, c []byte) (seal.Key, error) {
	if a.down {
		return seal.Key{}, firn.NewError(firn.Unavailable, "away")
	}
	a.opens++
	return a.Keyring.Unwrap(ctx, name, w, c)
}
