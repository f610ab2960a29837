package keys

import (
	"context"
	"encoding/base64"
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"firn"
	"firn/seal"
)

// VaultOptions are the settings of a Vault.
type VaultOptions struct {
	Address   string
	Mount     string // of the transit engine; default "transit"
	Namespace string
	// TokenFile has the token; it is read again when the token is refused. Else RoleID and the content of SecretIDFile
	// log in (AppRole).
	TokenFile    string
	RoleID       string
	SecretIDFile string
	CAFile       string
}

// Vault is the transit engine of HashiCorp Vault or OpenBao as a key service. It has no data keys made there, but wraps
// its own: the engine's "datakey" takes no associated data.
type Vault struct {
	o VaultOptions
	r *remote
	// login is held by the one login under way; it is a channel because who waits must be able to give up.
	login chan struct{}
	mu    struct {
		sync.Mutex
		token string
	}
}

// NewVault returns a Vault. Nothing is sent before its first use.
func NewVault(o VaultOptions) (*Vault, error) {
	if o.Mount == "" {
		o.Mount = "transit"
	}
	r, err := newRemote("Vault", o.Address, o.CAFile, nil)
	if err != nil {
		return nil, firn.E("set up Vault", "", err)
	}
	return &Vault{o: o, r: r, login: make(chan struct{}, 1)}, nil
}

// Kind implements Service.
func (*Vault) Kind() byte { return 'v' }

func (v *Vault) String() string { return v.r.name }

func (v *Vault) current() string {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.mu.token
}

// token returns a token other than refused, which may be empty.
func (v *Vault) token(ctx context.Context, refused string) (string, error) {
	if t := v.current(); t != "" && t != refused {
		return t, nil
	}
	select {
	case v.login <- struct{}{}:
		defer func() { <-v.login }()
	case <-ctx.Done():
		return "", ctx.Err()
	}
	if t := v.current(); t != "" && t != refused {
		return t, nil // somebody else logged in meanwhile
	}
	t, err := v.newToken(ctx)
	if err != nil {
		return "", err
	}
	v.mu.Lock()
	v.mu.token = t
	v.mu.Unlock()
	return t, nil
}

func (v *Vault) newToken(ctx context.Context) (string, error) {
	file := v.o.TokenFile
	if file == "" {
		file = v.o.SecretIDFile
	}
	b, err := readBounded(file, maxSecret)
	if err != nil {
		return "", err
	}
	secret := strings.TrimSpace(string(b))
	if v.o.TokenFile != "" {
		return secret, nil
	}
	var out struct {
		Auth struct {
			Token string `json:"client_token"`
		} `json:"auth"`
	}
	in := map[string]string{"role_id": v.o.RoleID, "secret_id": secret}
	err = v.r.call(ctx, http.MethodPost, "/v1/auth/approle/login", map[string]string{"X-Vault-Namespace": v.o.Namespace}, in, &out)
	if no := (*refusal)(nil); errors.As(err, &no) || err == nil && out.Auth.Token == "" {
		return "", firn.NewError(firn.Unavailable, "Vault refuses the login of the role: check its role id and secret id")
	}
	return out.Auth.Token, err
}

// call sends a request with a token, and once more with a new one where that is refused.
func (v *Vault) call(ctx context.Context, method, path string, in, out any) error {
	refused := ""
	for {
		token, err := v.token(ctx, refused)
		if err != nil {
			return err
		}
		err = v.r.call(ctx, method, "/v1/"+v.o.Mount+"/"+path,
			map[string]string{"X-Vault-Token": token, "X-Vault-Namespace": v.o.Namespace, "X-Vault-Request": "true"}, in, out)
		var no *refusal
		switch {
		case !errors.As(err, &no):
			return err
		case no.status == http.StatusForbidden && refused == "":
			refused = token
			if v.o.TokenFile != "" {
				if now, err := v.newToken(ctx); err != nil || now == token {
					return firn.NewError(firn.Unavailable, "Vault refuses the token, or what it is used for: check the file with "+
						"the token and its policy: "+no.reason)
				}
			}
			continue
		case no.status == http.StatusForbidden:
			return firn.NewError(firn.Unavailable, "Vault refuses what the token is used for: check its policy: "+no.reason)
		}
		return err
	}
}

func keyPath(verb, name string) string { return verb + "/" + url.PathEscape(name) }

type vaultCipher struct {
	Data struct {
		Ciphertext string `json:"ciphertext"`
		Plaintext  string `json:"plaintext"`
	} `json:"data"`
}

// Wrap implements Service.
func (v *Vault) Wrap(ctx context.Context, name string, plain seal.Key, context []byte) ([]byte, error) {
	// Encrypting would make a key that is not there, where the token may.
	if _, err := v.key(ctx, name); err != nil {
		return nil, err
	}
	var out vaultCipher
	err := v.call(ctx, http.MethodPost, keyPath("encrypt", name), map[string]string{
		"plaintext":       base64.StdEncoding.EncodeToString(plain[:]),
		"associated_data": base64.StdEncoding.EncodeToString(context),
	}, &out)
	if err == nil && out.Data.Ciphertext == "" {
		err = v.r.away("its answer has no ciphertext")
	}
	return []byte(out.Data.Ciphertext), vaultError(err)
}

// Unwrap implements Service.
func (v *Vault) Unwrap(ctx context.Context, name string, wrapped, context []byte) (seal.Key, error) {
	var out vaultCipher
	err := v.call(ctx, http.MethodPost, keyPath("decrypt", name), map[string]string{
		"ciphertext": string(wrapped), "associated_data": base64.StdEncoding.EncodeToString(context),
	}, &out)
	if no := (*refusal)(nil); errors.As(err, &no) {
		if _, kerr := v.key(ctx, name); kerr != nil {
			return seal.Key{}, kerr
		}
		return seal.Key{}, ErrNotOpened
	}
	if err != nil {
		return seal.Key{}, err
	}
	b, err := base64.StdEncoding.DecodeString(out.Data.Plaintext)
	if err != nil || len(b) != len(seal.Key{}) {
		return seal.Key{}, ErrNotOpened
	}
	return seal.Key(b), nil
}

// vaultError gives refusals their meaning.
func vaultError(err error) error {
	var no *refusal
	if !errors.As(err, &no) {
		return err
	}
	if no.status == http.StatusNotFound || strings.Contains(no.reason, "not found") || strings.Contains(no.reason, "no existing key") {
		return ErrNoKey
	}
	return firn.NewError(firn.Unavailable, "Vault refuses: "+no.reason)
}

// vaultKey describes a key; the times at which its versions were made are in seconds since 1970, by number.
type vaultKey struct {
	Data struct {
		Latest int              `json:"latest_version"`
		Keys   map[string]int64 `json:"keys"`
	} `json:"data"`
}

func (v *Vault) key(ctx context.Context, name string) (vaultKey, error) {
	var k vaultKey
	err := v.call(ctx, http.MethodGet, keyPath("keys", name), nil, &k)
	return k, vaultError(err)
}

// Newest implements Service. What the engine returns begins with "vault:v" and the version's number.
func (v *Vault) Newest(ctx context.Context, name string, wrapped []byte) (bool, error) {
	k, err := v.key(ctx, name)
	if err != nil {
		return false, err
	}
	rest, ok := strings.CutPrefix(string(wrapped), "vault:v")
	number, _, _ := strings.Cut(rest, ":")
	n, err := strconv.Atoi(number)
	if !ok || err != nil {
		return false, ErrNotOpened
	}
	return n >= k.Data.Latest, nil
}

// List implements Service.
func (v *Vault) List(ctx context.Context) ([]Info, error) {
	var out struct {
		Data struct {
			Keys []string `json:"keys"`
		} `json:"data"`
	}
	err := v.call(ctx, "LIST", "keys", nil, &out)
	if no := (*refusal)(nil); errors.As(err, &no) && no.status == http.StatusNotFound {
		return nil, nil // it has none
	}
	if err != nil {
		return nil, vaultError(err)
	}
	slices.Sort(out.Data.Keys)
	var list []Info
	for _, name := range out.Data.Keys {
		k, err := v.key(ctx, name)
		if errors.Is(err, ErrNoKey) {
			continue // removed meanwhile
		}
		if err != nil {
			return nil, err
		}
		i := Info{Name: name, State: Enabled, Version: k.Data.Latest}
		for number, at := range k.Data.Keys {
			made := time.Unix(at, 0).UTC()
			if i.Created.IsZero() || made.Before(i.Created) {
				i.Created = made
			}
			if number == strconv.Itoa(k.Data.Latest) {
				i.Rotated = made
			}
		}
		list = append(list, i)
	}
	return list, nil
}

// Create implements Service.
func (v *Vault) Create(ctx context.Context, name string) error {
	_, err := v.key(ctx, name)
	switch {
	case err == nil:
		err = ErrKeyExists
	case errors.Is(err, ErrNoKey):
		err = vaultError(v.call(ctx, http.MethodPost, keyPath("keys", name), map[string]string{"type": "aes256-gcm96"}, nil))
	}
	return firn.E("create key", name, err)
}

// Rotate implements Service.
func (v *Vault) Rotate(ctx context.Context, name string) error {
	_, err := v.key(ctx, name)
	if err == nil {
		err = vaultError(v.call(ctx, http.MethodPost, keyPath("keys", name)+"/rotate", map[string]string{}, nil))
	}
	return firn.E("rotate key", name, err)
}

// Enable implements Service: the engine's keys are always enabled.
func (v *Vault) Enable(_ context.Context, name string) error {
	return firn.E("enable key", name, errVaultState)
}

// Disable implements Service.
func (v *Vault) Disable(_ context.Context, name string) error {
	return firn.E("disable key", name, errVaultState)
}

var errVaultState = firn.NewError(firn.Unsupported, "Vault has no disabled keys: take the right to use the key from the token's policy")

// Destroy implements Service.
func (v *Vault) Destroy(ctx context.Context, name string) error {
	_, err := v.key(ctx, name)
	if err == nil {
		err = vaultError(v.call(ctx, http.MethodPost, keyPath("keys", name)+"/config", map[string]bool{"deletion_allowed": true}, nil))
	}
	if err == nil {
		err = vaultError(v.call(ctx, http.MethodDelete, keyPath("keys", name), nil, nil))
	}
	return firn.E("destroy key", name, err)
}
