package node

import (
	"context"
	"path/filepath"

	"firn/config"
	"firn/keys"
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
}

// openKeys opens the keyring, which is made at the first start, and sets up the services that are configured.
func openKeys(ctx context.Context, dir *DataDir, c *config.Encryption) (*siteKeys, error) {
	path := c.Keyring
	if path == "" {
		path = dir.file(keyringName)
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
		file := filepath.Join(filepath.Dir(path), keyringKeyName)
		secret, k.beside = keys.SecretFile(file, true), c.Keyring == ""
	}
	var err error
	if k.ring, err = keys.OpenKeyring(ctx, path, secret); err != nil {
		return nil, err
	}
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
