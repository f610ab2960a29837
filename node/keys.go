package node

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"firn"
	"firn/adminapi"
	"firn/config"
	"firn/keys"
	"firn/object"
	"firn/object/envelope"
)

const (
	keyringName    = "keyring.json"
	keyringKeyName = "keyring.key"
)

// siteKeys are the keys of a site.
type siteKeys struct {
	*keys.Keys
	ring *keys.Keyring
	// beside reports that what opens the keyring lies in the data directory with it.
	beside bool
	// apart reports that the directory alone does not open what new keys are wrapped with.
	apart bool
}

// KeyringFiles returns where the site of a configuration keeps its keyring, and the file that opens it, "" where a
// passphrase or a command does.
func KeyringFiles(cfg *config.Config) (ring, key string) {
	return keyringFiles(cfg.Data, &cfg.Encryption)
}

func keyringFiles(data string, c *config.Encryption) (ring, key string) {
	if ring = c.Keyring; ring == "" {
		ring = filepath.Join(data, keyringName)
	}
	switch {
	case c.Passphrase != "":
	case c.SecretFile != "":
		key = c.SecretFile
	case c.SecretCommand == "":
		key = filepath.Join(filepath.Dir(ring), keyringKeyName)
	}
	return ring, key
}

// openKeys opens the keyring, which is made at the first start, and sets up the services that are configured.
func openKeys(ctx context.Context, dir *DataDir, c *config.Encryption) (*siteKeys, error) {
	path, keyFile := keyringFiles(dir.Path, c)
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) && dir.needsKeyring() {
		return nil, &firn.Error{Kind: firn.NotFound, Op: "open keyring", Subject: path, Err: errors.New(
			"the keys of this data directory are in a keyring, and it is not there: restore it from a copy, or set encryption.keyring to where it is")}
	}
	k := &siteKeys{}
	var secret keys.Secret
	switch {
	case c.Passphrase != "":
		secret = keys.SecretText(c.Passphrase.Reveal())
	case c.SecretFile != "":
		secret = keys.SecretFile(c.SecretFile, false)
	case c.SecretCommand != "":
		secret = keys.SecretCommand(c.SecretCommand)
	default:
		secret, k.beside = keys.SecretFile(keyFile, true), c.Keyring == ""
	}
	var err error
	if k.ring, err = keys.OpenKeyring(ctx, path, secret); err != nil {
		return nil, err
	}
	k.apart = c.Service != config.ServiceKeyring || !k.beside
	services := map[string]keys.Service{config.ServiceKeyring: k.ring}
	if c.Vault != "" {
		services[config.ServiceVault], err = keys.NewVault(keys.VaultOptions{
			Address: c.Vault, Mount: c.VaultMount, Namespace: c.VaultNamespace, TokenFile: c.VaultTokenFile,
			RoleID: c.VaultRoleID, SecretIDFile: c.VaultSecretIDFile, CAFile: c.VaultCA,
		})
		if err != nil {
			return nil, err
		}
	}
	if c.KES != "" {
		services[config.ServiceKES], err = keys.NewKES(keys.KESOptions{
			Address: c.KES, CertFile: c.KESCert, KeyFile: c.KESKey, CAFile: c.KESCA,
		})
		if err != nil {
			return nil, err
		}
	}
	var others []keys.Service
	for name, s := range services {
		if name != c.Service {
			others = append(others, s)
		}
	}
	k.Keys, err = keys.New(services[c.Service], keys.Options{Default: c.Key}, others...)
	return k, err
}

// kms is the keys as the admin endpoint sees them.
type kms struct {
	keys  *siteKeys
	store *object.Store
	dir   *DataDir
}

// Keys implements adminapi.KMS.
func (k kms) Keys(ctx context.Context) (adminapi.KeyList, error) {
	out := adminapi.KeyList{Service: k.keys.Service().String(), Default: k.keys.Default(), Keys: []adminapi.KeyInfo{}}
	list, err := k.keys.Service().List(ctx)
	for _, i := range list {
		out.Keys = append(out.Keys, adminapi.KeyInfo{
			Name: i.Name, State: string(i.State), Version: i.Version, Created: i.Created, Rotated: i.Rotated,
		})
	}
	return out, err
}

// Change implements adminapi.KMS.
func (k kms) Change(ctx context.Context, c adminapi.KeyChange) error {
	s := k.keys.Service()
	do := map[string]func(context.Context, string) error{
		"create": s.Create, "rotate": s.Rotate, "enable": s.Enable, "disable": s.Disable, "destroy": s.Destroy,
	}[c.Do]
	if do == nil {
		return firn.NewError(firn.Invalid, "a key can be created, rotated, enabled, disabled or destroyed")
	}
	if err := keys.CheckName(c.Name); err != nil {
		return err
	}
	if c.Do == "destroy" || c.Do == "disable" {
		if err := k.dir.opensWithout(c.Name); err != nil {
			return err
		}
	}
	err := do(ctx, c.Name)
	k.keys.Forget()
	return err
}

// Rewrap implements adminapi.KMS.
func (k kms) Rewrap(ctx context.Context) (adminapi.Rewrapped, error) {
	sum, err := k.store.Rewrap(ctx, func(ctx context.Context, bucket, key string, e *envelope.Encryption) ([]byte, error) {
		if e.Method == envelope.Customer {
			return nil, nil // the client has the key
		}
		bound, err := e.Binding(bucket, key)
		if err != nil {
			return nil, err
		}
		w, err := k.keys.Rewrap(ctx, e.Key, e.Wrapped, bound)
		if errors.Is(err, keys.ErrDestroyed) || errors.Is(err, keys.ErrDisabled) {
			return nil, nil // stays as it is: nothing can be done about it, and much about the others
		}
		return w, err
	})
	out := adminapi.Rewrapped(sum)
	if err == nil {
		err = k.dir.rewrapKeys(ctx, k.keys, &out)
	}
	return out, err
}

// Reseal implements adminapi.KMS.
func (k kms) Reseal(ctx context.Context, passphrase string) error {
	return k.keys.ring.Seal(ctx, keys.SecretText(passphrase))
}
