package repo

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"firn"
	"firn/blob"
	"firn/seal"
)

// Role is what a key allows.
type Role string

const (
	// Full allows everything.
	Full Role = "full"
	// Append allows reading and adding, and refuses to forget, prune, and change keys. This program keeps to it; only
	// permissions of the place keep others to it, since every key opens the same secret.
	Append Role = "append"
)

// KeyInfo describes a key: a password of the repository.
type KeyInfo struct {
	ID      ID
	Label   string
	Role    Role
	Created time.Time
	Current bool // the repository was opened with it
}

// KeyOptions are settings of a new key.
type KeyOptions struct {
	Label string
	Role  Role      // "" is Full
	Cost  seal.Cost // zero is seal.DefaultCost
}

// keyFile is a blob under keys/, in clear but for Sealed: the role and the secret all keys share.
type keyFile struct {
	Version int       `json:"version"`
	KDF     string    `json:"kdf"`
	Cost    seal.Cost `json:"cost"`
	Salt    []byte    `json:"salt"`
	Sealed  []byte    `json:"sealed"`
	Label   string    `json:"label,omitempty"`
	Role    Role      `json:"role"`
	Created time.Time `json:"created"`
}

const (
	keyVersion = 1
	keyKDF     = "argon2id"
	keyLimit   = 16 << 10
	maxKeys    = 64 // that are tried
	maxLabel   = 1024
)

// context is what is authenticated beside the sealed secret.
func (k *keyFile) context() string {
	return fmt.Sprintf("key\x00%d\x00%s\x00%s\x00%s\x00%s", k.Version, k.KDF, k.Role, k.Created.UTC().Format(time.RFC3339), k.Label)
}

// parseKeyFile reads a key, whoever wrote it.
func parseKeyFile(p []byte) (keyFile, error) {
	var k keyFile
	if err := parseJSON(p, &k); err != nil {
		return k, err
	}
	if k.Version != keyVersion || k.KDF != keyKDF || k.Role != Full && k.Role != Append {
		return k, firn.NewError(firn.Unsupported, "a key made by a later version of firn: update this one")
	}
	if len(k.Salt) != seal.SaltSize || len(k.Sealed) != len(seal.Key{})+seal.Overhead || len(k.Label) > maxLabel {
		return k, firn.NewError(firn.Corrupt, "not a key")
	}
	return k, k.Cost.Check()
}

func (k *keyFile) open(password []byte) (seal.Key, error) {
	secret, err := seal.Unwrap(password, k.Sealed, [seal.SaltSize]byte(k.Salt), k.Cost, k.context())
	if err != nil {
		return seal.Key{}, err
	}
	return seal.Key(secret), nil
}

// openedKey is a key and what it opened.
type openedKey struct {
	id     ID
	role   Role
	master seal.Key
}

// findKey tries the keys whose id begins with prefix. A key that is damaged does not keep others from opening.
func findKey(ctx context.Context, store *blob.Store, password []byte, prefix string) (openedKey, error) {
	tried := 0
	var damaged error
	for info, err := range store.List(ctx, keysPrefix+prefix) {
		if err != nil {
			return openedKey{}, err
		}
		id, err := ParseID(strings.TrimPrefix(info.Key, keysPrefix))
		if err != nil {
			continue
		}
		if tried++; tried > maxKeys {
			return openedKey{}, firn.NewError(firn.Invalid, "there are more than 64 keys: say which one is meant")
		}
		k, err := readKey(ctx, store, id)
		if err == nil {
			var master seal.Key
			if master, err = k.open(password); err == nil {
				return openedKey{id, k.Role, master}, nil
			}
		}
		switch firn.KindOf(err) {
		case firn.Denied, firn.NotFound: // another password, or removed meanwhile
		case firn.Corrupt, firn.Invalid, firn.Unsupported:
			damaged = fmt.Errorf("key %s: %w", id.Short(), err)
		default:
			return openedKey{}, err
		}
	}
	switch {
	case damaged != nil:
		return openedKey{}, &firn.Error{Kind: firn.Denied, Err: fmt.Errorf("no key opens with this password, and one cannot be read: %w", damaged)}
	case tried == 0 && prefix != "":
		return openedKey{}, firn.NewError(firn.NotFound, fmt.Sprintf("no key begins with %q", prefix))
	case tried == 0:
		return openedKey{}, firn.NewError(firn.Corrupt, "all its keys are gone: without a copy of one of the blobs under keys/ nothing in it can be read")
	}
	return openedKey{}, firn.NewError(firn.Denied, "wrong password")
}

func readKey(ctx context.Context, store *blob.Store, id ID) (keyFile, error) {
	p, err := store.ReadAll(ctx, keysPrefix+id.String(), keyLimit)
	if err != nil {
		return keyFile{}, err
	}
	return parseKeyFile(p)
}

// AddKey adds a password.
func (r *Repo) AddKey(ctx context.Context, password []byte, opt KeyOptions) (ID, error) {
	const op = "add key"
	if err := r.writable(op); err != nil {
		return ID{}, err
	}
	if r.role == Append {
		return ID{}, r.deletable(op)
	}
	if opt.Role == "" {
		opt.Role = Full
	}
	if opt.Cost == (seal.Cost{}) {
		opt.Cost = seal.DefaultCost()
	}
	var problem string
	switch {
	case len(password) == 0:
		problem = "the password is empty"
	case opt.Role != Full && opt.Role != Append:
		problem = fmt.Sprintf("the role is %q: full or append", opt.Role)
	case len(opt.Label) > maxLabel:
		problem = "the label is longer than 1,024 bytes"
	}
	if problem != "" {
		return ID{}, firn.E(op, r.store.Name(), firn.NewError(firn.Invalid, problem))
	}
	salt := seal.NewSalt()
	k := keyFile{
		Version: keyVersion, KDF: keyKDF, Cost: opt.Cost, Salt: salt[:], Label: opt.Label, Role: opt.Role,
		Created: time.Now().UTC().Truncate(time.Second),
	}
	var err error
	if k.Sealed, err = seal.Wrap(password, r.master[:], salt, k.Cost, k.context()); err != nil {
		return ID{}, firn.E(op, r.store.Name(), err)
	}
	p, err := json.Marshal(k)
	if err != nil {
		return ID{}, firn.E(op, r.store.Name(), err)
	}
	id := ID(seal.NewKey())
	return id, r.create(ctx, keysPrefix+id.String(), p)
}

// RemoveKey removes a password. The last one that allows everything stays. Whoever had it may have kept the secret
// that all passwords open: only a new repository (CopyTo) shuts them out.
func (r *Repo) RemoveKey(ctx context.Context, id ID) error {
	const op = "remove key"
	if err := r.deletable(op); err != nil {
		return err
	}
	return r.removeKey(ctx, id)
}

func (r *Repo) removeKey(ctx context.Context, id ID) error {
	const op = "remove key"
	keys, err := r.Keys(ctx)
	if err != nil {
		return err
	}
	found, others := false, 0
	for _, k := range keys {
		if k.ID == id {
			found = true
		} else if k.Role == Full {
			others++
		}
	}
	if !found {
		return &firn.Error{Kind: firn.NotFound, Op: op, Subject: id.Short(), Err: errors.New("there is no such key")}
	}
	if others == 0 {
		return &firn.Error{Kind: firn.Conflict, Op: op, Subject: id.Short(), Err: errors.New("it is the last one that allows everything: add another first")}
	}
	return r.store.Delete(ctx, keysPrefix+id.String())
}

// Keys lists the keys.
func (r *Repo) Keys(ctx context.Context) ([]KeyInfo, error) {
	var all []KeyInfo
	for info, err := range r.store.List(ctx, keysPrefix) {
		if err != nil {
			return nil, err
		}
		id, err := ParseID(strings.TrimPrefix(info.Key, keysPrefix))
		if err != nil {
			continue
		}
		k, err := readKey(ctx, r.store, id)
		if firn.KindOf(err) == firn.NotFound {
			continue
		}
		if err != nil {
			return nil, firn.E("read key", id.Short(), err)
		}
		all = append(all, KeyInfo{id, k.Label, k.Role, k.Created, id == r.key})
	}
	return all, nil
}

// Rotate replaces the password that the repository was opened with: the new one works before the old one stops.
func (r *Repo) Rotate(ctx context.Context, password []byte, opt KeyOptions) (ID, error) {
	if err := r.deletable("rotate key"); err != nil {
		return ID{}, err
	}
	id, err := r.AddKey(ctx, password, opt)
	if err != nil {
		return ID{}, err
	}
	old := r.key
	if err := r.removeKey(ctx, old); err != nil {
		return ID{}, err
	}
	r.key = id
	return id, nil
}
