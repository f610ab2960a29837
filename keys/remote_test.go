package keys

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"firn"
	"firn/seal"
)

// vaultStub answers as the transit engine of Vault does, as far as this package asks. It is no Vault: what it does
// follows the documentation of the engine's HTTP API.
type vaultStub struct {
	mu     sync.Mutex
	token  string
	keys   map[string][][]byte // versions
	logins int
	down   bool
}

func (s *vaultStub) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	no := func(status int, text string) {
		w.WriteHeader(status)
		_ = json.NewEncoder(w).Encode(map[string][]string{"errors": {text}})
	}
	yes := func(data any) { _ = json.NewEncoder(w).Encode(map[string]any{"data": data}) }
	if s.down {
		no(503, "Vault is sealed")
		return
	}
	var in map[string]any
	_ = json.NewDecoder(r.Body).Decode(&in)
	text := func(name string) string { v, _ := in[name].(string); return v }
	if r.Header.Get("X-Vault-Namespace") != "team" {
		no(404, "no handler for route")
		return
	}
	if r.URL.Path == "/v1/auth/approle/login" {
		if text("role_id") != "role" || text("secret_id") != "secret" {
			no(400, "invalid role or secret ID")
			return
		}
		s.logins++
		s.token = fmt.Sprint("token-", s.logins)
		_ = json.NewEncoder(w).Encode(map[string]any{"auth": map[string]string{"client_token": s.token}})
		return
	}
	if r.Header.Get("X-Vault-Token") != s.token {
		no(403, "permission denied")
		return
	}
	parts := strings.Split(strings.TrimPrefix(r.URL.Path, "/v1/transit/"), "/")
	name := ""
	if len(parts) > 1 {
		name = parts[1]
	}
	versions, found := s.keys[name]
	seal := func(n int) cipher.AEAD {
		b, _ := aes.NewCipher(versions[n-1])
		g, _ := cipher.NewGCM(b)
		return g
	}
	newKey := func() []byte { k := make([]byte, 32); _, _ = rand.Read(k); return k }
	switch verb := parts[0] + " " + r.Method; {
	case verb == "keys LIST":
		names := []string{}
		for n := range s.keys {
			names = append(names, n)
		}
		yes(map[string]any{"keys": names})
	case verb == "keys POST" && len(parts) == 2:
		s.keys[name] = [][]byte{newKey()}
		w.WriteHeader(204)
	case !found:
		no(404, "encryption key not found")
	case verb == "keys GET":
		times := map[string]int64{}
		for i := range versions {
			times[fmt.Sprint(i+1)] = 1_700_000_000 + int64(i)
		}
		yes(map[string]any{"latest_version": len(versions), "keys": times})
	case verb == "keys POST" && parts[2] == "rotate":
		s.keys[name] = append(versions, newKey())
		w.WriteHeader(204)
	case verb == "keys POST":
		w.WriteHeader(204)
	case verb == "keys DELETE":
		delete(s.keys, name)
		w.WriteHeader(204)
	case verb == "encrypt POST":
		plain, _ := base64.StdEncoding.DecodeString(text("plaintext"))
		aad, _ := base64.StdEncoding.DecodeString(text("associated_data"))
		nonce := make([]byte, 12)
		_, _ = rand.Read(nonce)
		c := seal(len(versions)).Seal(nonce, nonce, plain, aad)
		yes(map[string]string{"ciphertext": fmt.Sprintf("vault:v%d:%s", len(versions), base64.StdEncoding.EncodeToString(c))})
	case verb == "decrypt POST":
		var n int
		var enc string
		_, err := fmt.Sscanf(strings.Replace(text("ciphertext"), ":", " ", 2), "vault v%d %s", &n, &enc)
		c, derr := base64.StdEncoding.DecodeString(enc)
		aad, _ := base64.StdEncoding.DecodeString(text("associated_data"))
		if err != nil || derr != nil || n < 1 || n > len(versions) || len(c) < 12 {
			no(400, "invalid ciphertext")
			return
		}
		plain, err := seal(n).Open(nil, c[:12], c[12:], aad)
		if err != nil {
			no(400, "cipher: message authentication failed")
			return
		}
		yes(map[string]string{"plaintext": base64.StdEncoding.EncodeToString(plain)})
	default:
		no(405, "unsupported operation")
	}
}

func newVault(t *testing.T, change func(*VaultOptions)) (*Vault, *vaultStub) {
	t.Helper()
	stub := &vaultStub{token: "first", keys: map[string][][]byte{}}
	srv := httptest.NewServer(stub)
	t.Cleanup(srv.Close)
	o := VaultOptions{Address: srv.URL, Namespace: "team", TokenFile: filepath.Join(t.TempDir(), "token")}
	writeFile(t, o.TokenFile, "first\n")
	if change != nil {
		change(&o)
	}
	v, err := NewVault(o)
	if err != nil {
		t.Fatal(err)
	}
	return v, stub
}

func writeFile(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// exercise holds a service to what Service promises.
func exercise(t *testing.T, s Service, rotates bool) {
	t.Helper()
	ctx := t.Context()
	name := fmt.Sprint("firn-test-", time.Now().UnixNano())
	plain := seal.NewKey()
	if _, err := s.Wrap(ctx, name, plain, nil); !errors.Is(err, ErrNoKey) {
		t.Errorf("wrap with a key that is not there: %v", err)
	}
	if err := s.Create(ctx, name); err != nil {
		t.Fatal(err)
	}
	if err := s.Create(ctx, name); !errors.Is(err, ErrKeyExists) {
		t.Errorf("create again: %v", err)
	}
	w, err := s.Wrap(ctx, name, plain, []byte("context"))
	if err != nil {
		t.Fatal(err)
	}
	opens := func() {
		t.Helper()
		if got, err := s.Unwrap(ctx, name, w, []byte("context")); err != nil || got != plain {
			t.Errorf("unwrap: %v", err)
		}
	}
	opens()
	if _, err := s.Unwrap(ctx, name, w, []byte("other")); !errors.Is(err, ErrNotOpened) {
		t.Errorf("another context: %v", err)
	}
	if _, err := s.Unwrap(ctx, name, w[:len(w)-8], []byte("context")); !errors.Is(err, ErrNotOpened) {
		t.Errorf("cut: %v", err)
	}
	if newest, err := s.Newest(ctx, name, w); !newest || err != nil {
		t.Errorf("newest: %v, %v", newest, err)
	}
	if err := s.Rotate(ctx, name); rotates != (err == nil) || err != nil && firn.KindOf(err) != firn.Unsupported {
		t.Errorf("rotate: %v", err)
	}
	if newest, err := s.Newest(ctx, name, w); newest == rotates || err != nil {
		t.Errorf("newest after the rotation: %v, %v", newest, err)
	}
	opens()
	list, err := s.List(ctx)
	found := false
	for _, i := range list {
		found = found || i.Name == name && i.State == Enabled && !i.Created.IsZero()
	}
	if !found || err != nil {
		t.Errorf("list: %+v, %v", list, err)
	}
	if err := s.Disable(ctx, name); firn.KindOf(err) != firn.Unsupported {
		t.Errorf("disable: %v", err)
	}
	if err := s.Destroy(ctx, name); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Unwrap(ctx, name, w, []byte("context")); !errors.Is(err, ErrNoKey) {
		t.Errorf("destroyed: %v", err)
	}
}

func TestVault(t *testing.T) {
	v, _ := newVault(t, nil)
	exercise(t, v, true)
}

func TestVaultLogin(t *testing.T) {
	id := filepath.Join(t.TempDir(), "id")
	writeFile(t, id, "secret\n")
	v, stub := newVault(t, func(o *VaultOptions) { o.TokenFile, o.RoleID, o.SecretIDFile = "", "role", id })
	exercise(t, v, true)
	if stub.logins != 1 {
		t.Errorf("%d logins", stub.logins)
	}
	stub.token = "revoked"
	if err := v.Create(t.Context(), "k"); err != nil || stub.logins != 2 {
		t.Errorf("after the token ended: %v, %d logins", err, stub.logins)
	}
	writeFile(t, id, "wrong")
	stub.token = "revoked"
	if _, err := v.List(t.Context()); firn.KindOf(err) != firn.Unavailable || strings.Contains(err.Error(), "wrong") {
		t.Errorf("a wrong secret id: %v", err)
	}
}

func TestVaultToken(t *testing.T) {
	v, stub := newVault(t, nil)
	if _, err := v.List(t.Context()); err != nil {
		t.Fatal(err)
	}
	stub.token = "second"
	if _, err := v.List(t.Context()); firn.KindOf(err) != firn.Unavailable || strings.Contains(err.Error(), "first") {
		t.Errorf("a token that ended: %v", err)
	}
	writeFile(t, v.o.TokenFile, "second")
	if _, err := v.List(t.Context()); err != nil {
		t.Errorf("a new token in the file: %v", err)
	}
}

func TestAway(t *testing.T) {
	v, stub := newVault(t, nil)
	stub.down = true
	if _, err := v.Wrap(t.Context(), "k", seal.NewKey(), nil); firn.KindOf(err) != firn.Unavailable || !strings.Contains(err.Error(), "sealed") {
		t.Errorf("sealed: %v", err)
	}
	gone := httptest.NewServer(http.NotFoundHandler())
	gone.Close()
	v, err := NewVault(VaultOptions{Address: gone.URL, TokenFile: v.o.TokenFile})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := v.Unwrap(t.Context(), "k", []byte("vault:v1:x"), nil); firn.KindOf(err) != firn.Unavailable || !strings.Contains(err.Error(), gone.URL) {
		t.Errorf("not there: %v", err)
	}
	odd := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, "http://192.0.2.1/", http.StatusFound)
	}))
	defer odd.Close()
	v, err = NewVault(VaultOptions{Address: odd.URL, TokenFile: v.o.TokenFile})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := v.List(t.Context()); firn.KindOf(err) != firn.Unavailable {
		t.Errorf("a redirect: %v", err)
	}
	if _, err := NewVault(VaultOptions{Address: "ftp://x"}); err == nil {
		t.Error("an address that is none")
	}
}
