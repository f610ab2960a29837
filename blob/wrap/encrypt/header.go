package encrypt

import (
	"bytes"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"

	"golang.org/x/crypto/argon2"

	"firn"
	"firn/blob"
	"firn/blob/driver"
	"firn/blob/wrap"
)

// HeaderKey is the blob that keeps the place's key, wrapped by the password or the key file.
const HeaderKey = ".firn-encrypt"

const (
	version   = 1
	keyLen    = 32
	maxHeader = 4 << 10
	// Bounds on what a header may ask for, so that a damaged or hostile one cannot take the machine's memory.
	maxMemory = 4 << 20 // KiB
	maxTime   = 64
)

// header is the content of HeaderKey: this document, a line feed, the SHA-256 of the document in hex, a line feed.
type header struct {
	Version int    `json:"firn-encrypt"`
	KDF     string `json:"kdf"` // argon2id, or none for a key file
	Time    uint32 `json:"time,omitempty"`
	Memory  uint32 `json:"memory-kib,omitempty"`
	Threads uint8  `json:"threads,omitempty"`
	Salt    []byte `json:"salt"`
	Key     []byte `json:"key"` // the place's key, sealed
}

var errDenied = firn.NewError(firn.Denied, "the password or key file is not the one this place was encrypted with")

func (h *header) encode() ([]byte, error) {
	doc, err := json.Marshal(h)
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(doc)
	return fmt.Appendf(nil, "%s\n%x\n", doc, sum), nil
}

// parseHeader reads what encode wrote. It fails with firn.Corrupt for anything else, and with firn.Unsupported for a
// later version.
func parseHeader(p []byte) (*header, error) {
	corrupt := func(what string) error {
		return firn.NewError(firn.Corrupt, HeaderKey+" is damaged ("+what+"): put back a copy of it, without it nothing can be read")
	}
	lines := bytes.Split(p, []byte("\n"))
	if len(lines) != 3 || len(lines[2]) != 0 {
		return nil, corrupt("its form is wrong")
	}
	sum := sha256.Sum256(lines[0])
	if hex.EncodeToString(sum[:]) != string(lines[1]) {
		return nil, corrupt("its checksum is wrong")
	}
	var h header
	if err := json.Unmarshal(lines[0], &h); err != nil {
		return nil, corrupt("its form is wrong")
	}
	if h.Version != version {
		return nil, firn.NewError(firn.Unsupported, fmt.Sprintf("%s has version %d, this release knows %d", HeaderKey, h.Version, version))
	}
	switch h.KDF {
	case "none":
	case "argon2id":
		if h.Time == 0 || h.Time > maxTime || h.Memory < 8 || h.Memory > maxMemory || h.Threads == 0 {
			return nil, corrupt("its cost is out of bounds")
		}
	default:
		return nil, firn.NewError(firn.Unsupported, fmt.Sprintf("%s derives its key by %.20q, which this release does not know", HeaderKey, h.KDF))
	}
	if len(h.Salt) < 16 || len(h.Salt) > 64 || len(h.Key) != 12+keyLen+16 {
		return nil, corrupt("a length is wrong")
	}
	return &h, nil
}

// wrapper returns the cipher that seals the place's key; its own key comes from the secret and the salt.
func (h *header) wrapper(secret Secret) (cipher.AEAD, error) {
	var key []byte
	switch {
	case (secret.Key != nil) != (h.KDF == "none"):
		if secret.Key != nil {
			return nil, firn.NewError(firn.Denied, "this place was encrypted with a password, not with a key file")
		}
		return nil, firn.NewError(firn.Denied, "this place was encrypted with a key file, not with a password")
	case secret.Key != nil:
		var err error
		if key, err = hkdf.Key(sha256.New, secret.Key, h.Salt, "firn-encrypt wrap", keyLen); err != nil {
			return nil, err
		}
	default:
		key = argon2.IDKey(secret.Password, h.Salt, h.Time, h.Memory, h.Threads, keyLen)
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCMWithRandomNonce(block)
}

func (h *header) seal(secret Secret, key []byte) error {
	w, err := h.wrapper(secret)
	if err != nil {
		return err
	}
	h.Key = w.Seal(nil, nil, key, []byte("firn-encrypt 1"))
	return nil
}

func (h *header) open(secret Secret) ([]byte, error) {
	w, err := h.wrapper(secret)
	if err != nil {
		return nil, err
	}
	key, err := w.Open(nil, nil, h.Key, []byte("firn-encrypt 1"))
	if err != nil {
		return nil, errDenied
	}
	return key, nil
}

// newHeader returns a header for key with a new salt.
func newHeader(secret Secret, cost Cost, key []byte) ([]byte, error) {
	h := &header{Version: version, KDF: "none", Salt: make([]byte, 32)}
	_, _ = rand.Read(h.Salt) // never fails
	if secret.Key == nil {
		h.KDF, h.Time, h.Memory, h.Threads = "argon2id", cost.Time, cost.Memory, 1
	}
	if err := h.seal(secret, key); err != nil {
		return nil, err
	}
	return h.encode()
}

// load returns the place's key. Where the place has none and is empty, and init is set, it makes one.
func load(ctx context.Context, inner driver.Driver, opt Options) ([]byte, error) {
	p, err := read(ctx, inner, HeaderKey, maxHeader)
	if err == nil {
		h, err := parseHeader(p)
		if err != nil {
			return nil, err
		}
		return h.open(opt.Secret)
	}
	if firn.KindOf(err) != firn.NotFound {
		return nil, err
	}
	// A new key beside blobs that another key encrypted would be the end of them.
	found := ""
	errFound := errors.New("found")
	err = inner.List(ctx, "", func(i driver.Info) error { found = i.Key; return errFound })
	switch {
	case found != "":
		return nil, firn.NewError(firn.Corrupt, fmt.Sprintf(
			"the place has no %s but holds blobs (%s): they are not encrypted, or that blob was lost; put it back, or use an empty place",
			HeaderKey, found))
	case err != nil:
		return nil, err
	case !opt.Init:
		return nil, firn.NewError(firn.NotFound, "the place is empty: it was not made an encrypted one")
	}
	key := make([]byte, keyLen)
	_, _ = rand.Read(key) // never fails
	if p, err = newHeader(opt.Secret, opt.Cost, key); err != nil {
		return nil, err
	}
	if c := wrap.Of(inner).Creator; c != nil {
		err = c.Create(ctx, HeaderKey, blob.Bytes(p))
	} else {
		err = inner.Put(ctx, HeaderKey, blob.Bytes(p))
	}
	if firn.KindOf(err) == firn.Exists {
		err = nil // another client was first: its key counts
	}
	if err != nil {
		return nil, err
	}
	if p, err = read(ctx, inner, HeaderKey, maxHeader); err != nil {
		return nil, err
	}
	h, err := parseHeader(p)
	if err != nil {
		return nil, err
	}
	return h.open(opt.Secret)
}

// Rewrap makes the place open with secret instead of old. The blobs stay as they are: whoever has kept a copy of the
// earlier HeaderKey and knows the earlier password can still read.
func Rewrap(ctx context.Context, inner driver.Driver, old, secret Secret, cost Cost) error {
	opt := Options{Secret: secret, Cost: cost}
	if err := opt.check(); err != nil {
		return err
	}
	key, err := load(ctx, inner, Options{Secret: old})
	if err != nil {
		return err
	}
	p, err := newHeader(secret, opt.Cost, key)
	if err != nil {
		return err
	}
	return inner.Put(ctx, HeaderKey, blob.Bytes(p))
}

func read(ctx context.Context, d driver.Driver, key string, limit int64) ([]byte, error) {
	return blob.New(d, "the place").ReadAll(ctx, key, limit)
}
