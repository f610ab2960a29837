package keys

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"strings"
	"time"

	"firn"
	"firn/seal"
)

// KESOptions are the settings of a KES.
type KESOptions struct {
	Address  string
	CertFile string // of the client, which KES knows by it
	KeyFile  string
	CAFile   string
}

// KES is a MinIO KES server as a key service.
type KES struct{ r *remote }

// NewKES returns a KES. Nothing is sent before its first use.
func NewKES(o KESOptions) (*KES, error) {
	cert, err := tls.LoadX509KeyPair(o.CertFile, o.KeyFile)
	if err != nil {
		return nil, firn.E("set up KES", "", err)
	}
	r, err := newRemote("KES", o.Address, o.CAFile, &cert)
	if err != nil {
		return nil, firn.E("set up KES", "", err)
	}
	return &KES{r: r}, nil
}

// Kind implements Service.
func (*KES) Kind() byte { return 'e' }

func (k *KES) String() string { return k.r.name }

func (k *KES) call(ctx context.Context, method, path string, in, out any) error {
	err := k.r.call(ctx, method, path, nil, in, out)
	var no *refusal
	if !errors.As(err, &no) {
		return err
	}
	switch {
	case no.status == http.StatusNotFound:
		return ErrNoKey
	case strings.Contains(no.reason, "already exists"):
		return ErrKeyExists
	case no.status == http.StatusForbidden, no.status == http.StatusUnauthorized:
		return firn.NewError(firn.Unavailable, "KES refuses the client certificate, or what it is used for: check the policy "+
			"that its identity has: "+no.reason)
	}
	return no
}

// Wrap implements Service.
func (k *KES) Wrap(ctx context.Context, name string, plain seal.Key, context []byte) ([]byte, error) {
	var out struct {
		Ciphertext []byte `json:"ciphertext"`
	}
	err := k.call(ctx, http.MethodPut, "/v1/key/encrypt/"+name, map[string][]byte{"plaintext": plain[:], "context": context}, &out)
	if err == nil && len(out.Ciphertext) == 0 {
		err = k.r.away("its answer has no ciphertext")
	}
	return out.Ciphertext, refused(err)
}

// Unwrap implements Service.
func (k *KES) Unwrap(ctx context.Context, name string, wrapped, context []byte) (seal.Key, error) {
	var out struct {
		Plaintext []byte `json:"plaintext"`
	}
	err := k.call(ctx, http.MethodPut, "/v1/key/decrypt/"+name, map[string][]byte{"ciphertext": wrapped, "context": context}, &out)
	if no := (*refusal)(nil); errors.As(err, &no) || err == nil && len(out.Plaintext) != len(seal.Key{}) {
		return seal.Key{}, ErrNotOpened
	}
	if err != nil {
		return seal.Key{}, err
	}
	return seal.Key(out.Plaintext), nil
}

func refused(err error) error {
	if no := (*refusal)(nil); errors.As(err, &no) {
		return firn.NewError(firn.Unavailable, "KES refuses: "+no.reason)
	}
	return err
}

// Newest implements Service. KES has no versions of keys.
func (k *KES) Newest(ctx context.Context, name string, _ []byte) (bool, error) {
	return true, refused(k.call(ctx, http.MethodGet, "/v1/key/describe/"+name, nil, nil))
}

// List implements Service. KES answers with one key a line, or with a list.
func (k *KES) List(ctx context.Context) ([]Info, error) {
	var raw json.RawMessage
	if err := k.call(ctx, http.MethodGet, "/v1/key/list/", nil, &raw); err != nil {
		return nil, refused(err)
	}
	var page struct {
		Names []string `json:"names"`
	}
	if err := json.Unmarshal(raw, &page); err != nil {
		return nil, k.r.away("its answer is not a list of keys")
	}
	slices.Sort(page.Names)
	var list []Info
	for _, name := range page.Names {
		var d struct {
			Created time.Time `json:"created_at"`
		}
		err := k.call(ctx, http.MethodGet, "/v1/key/describe/"+name, nil, &d)
		if errors.Is(err, ErrNoKey) {
			continue // removed meanwhile
		}
		if err != nil {
			return nil, refused(err)
		}
		list = append(list, Info{Name: name, State: Enabled, Created: d.Created})
	}
	return list, nil
}

// Create implements Service.
func (k *KES) Create(ctx context.Context, name string) error {
	return firn.E("create key", name, refused(k.call(ctx, http.MethodPut, "/v1/key/create/"+name, nil, nil)))
}

var (
	errKESVersions = firn.NewError(firn.Unsupported, "KES has no versions of keys: create another key and rewrap to it")
	errKESState    = firn.NewError(firn.Unsupported, "KES has no disabled keys: take the right to use the key from the client's policy")
)

// Rotate implements Service.
func (k *KES) Rotate(_ context.Context, name string) error {
	return firn.E("rotate key", name, errKESVersions)
}

// Enable implements Service.
func (k *KES) Enable(_ context.Context, name string) error {
	return firn.E("enable key", name, errKESState)
}

// Disable implements Service.
func (k *KES) Disable(_ context.Context, name string) error {
	return firn.E("disable key", name, errKESState)
}

// Destroy implements Service.
func (k *KES) Destroy(ctx context.Context, name string) error {
	return firn.E("destroy key", name, refused(k.call(ctx, http.MethodDelete, "/v1/key/delete/"+name, nil, nil)))
}
