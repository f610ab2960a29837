package auth

import (
	"encoding/base64"
	"fmt"

	"firn"
	"firn/seal"
)

// Sealer protects secrets at rest and the content of session tokens. What was sealed for one purpose does not
// open for another. Both methods may be called concurrently.
type Sealer interface {
	// Seal encrypts and authenticates plain for a purpose.
	Seal(purpose string, plain []byte) ([]byte, error)
	// Open returns what Seal got for the same purpose, or an error where sealed is anything else.
	Open(purpose string, sealed []byte) ([]byte, error)
}

// KeySealer seals with one key that it holds.
type KeySealer struct{ Key seal.Key }

// Seal implements Sealer.
func (k *KeySealer) Seal(purpose string, plain []byte) ([]byte, error) {
	return k.Key.Box(nil, purpose, plain), nil
}

// Open implements Sealer.
func (k *KeySealer) Open(purpose string, sealed []byte) ([]byte, error) {
	return k.Key.Unbox(purpose, sealed)
}

// sealBox is the name of the scheme in records: base64 of what the Sealer made for the purpose "secret of KEY".
const sealBox = "box"

func (k *Key) purpose() string { return "firn secret of access key " + k.AccessKey }

// seal brings the key into its stored form.
func (k *Key) seal(s Sealer) error {
	if s == nil {
		return nil
	}
	b, err := s.Seal(k.purpose(), []byte(k.Secret))
	if err != nil {
		return firn.E("seal", "secret of "+k.AccessKey, err)
	}
	k.Seal, k.Secret = sealBox, base64.StdEncoding.EncodeToString(b)
	return nil
}

// open brings the key into the form it has in memory and reports whether it was stored as s would store it.
func (k *Key) open(s Sealer) (asSealed bool, err error) {
	switch {
	case k.Seal == "":
		return s == nil, nil
	case k.Seal != sealBox:
		return false, firn.NewError(firn.Unsupported, fmt.Sprintf("secrets sealed with %q are not known to this build", k.Seal))
	case s == nil:
		return false, firn.NewError(firn.Denied, "secrets are sealed and there is no key to open them")
	}
	b, err := base64.StdEncoding.DecodeString(k.Secret)
	if err == nil {
		b, err = s.Open(k.purpose(), b)
	}
	if err != nil {
		return false, firn.NewError(firn.Corrupt, "the secret of "+k.AccessKey+" does not open with the site's key: restore the key file that belongs to this data")
	}
	k.Seal, k.Secret = "", string(b)
	return true, nil
}
