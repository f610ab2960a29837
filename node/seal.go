package node

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"firn"
	"firn/adminapi"
	"firn/audit"
	"firn/keys"
	"firn/seal"
	"firn/vfs"
	"firn/vfs/cryptfs"
)

const (
	dataKeyName    = "data.key"
	dataKeyFormat  = "firn data key"
	dataKeyVersion = 1
	// dataKeyContext is what the key of a data directory is bound to.
	dataKeyContext = "firn data directory"
	// stateLabel is the purpose of the key that seals small state files.
	stateLabel = "firn state 1"

	stateKeyName   = "state.key"
	stateKeyFormat = "firn state key"
	// stateKeyContext is what the key of the small files with secrets is bound to.
	stateKeyContext = "firn state files"
)

// stateFiles are the small files with secrets that are sealed.
var stateFiles = [...]string{credentialsName, siteKeyName}

// dataKey is the file that keeps the key of an encrypted data directory, wrapped by a key service.
type dataKey struct {
	Format  string `json:"format"`
	Version int    `json:"version"`
	Name    string `json:"name"` // of the service's key
	Wrapped []byte `json:"wrapped"`
	// Sealed, of state.key: all files are sealed with it, and none is taken that is not.
	Sealed bool `json:"sealed,omitempty"`
}

// unseal finds the file system of the directory: encrypted where it was made so. all asks for it in a new directory.
// It comes before anything else is read or written there but the keyring.
func (d *DataDir) unseal(ctx context.Context, k *siteKeys, all bool) error {
	d.fs = vfs.OS()
	path := d.file(dataKeyName)
	kept, err := d.readKey(dataKeyName, dataKeyFormat)
	switch {
	case errors.Is(err, fs.ErrNotExist) && !all:
		return d.unsealState(ctx, k)
	case errors.Is(err, fs.ErrNotExist):
		if _, err := os.Stat(d.file(kvName)); !errors.Is(err, fs.ErrNotExist) {
			return &firn.Error{Kind: firn.Conflict, Op: "encrypt", Subject: d.Path, Err: errors.New(
				"it was made without encryption.all, which can be set for a new data directory only: " +
					"copy its buckets into a new one")}
		}
		made, err := k.Generate(ctx, "", []byte(dataKeyContext))
		if err != nil {
			return err
		}
		d.setKey(made.Plain)
		return firn.E("store data key", path, d.writeKey(dataKeyName, dataKey{
			Format: dataKeyFormat, Name: k.Default(), Wrapped: made.Wrapped,
		}))
	case err != nil:
		return firn.E("read data key", path, err)
	}
	key, err := k.Unwrap(ctx, kept.Name, kept.Wrapped, []byte(dataKeyContext))
	if err != nil {
		return err
	}
	d.setKey(key)
	return nil
}

func (d *DataDir) setKey(key seal.Key) {
	d.fs = cryptfs.New(vfs.OS(), key)
	state := key.Derive(stateLabel, nil)
	d.state, d.all = &state, true
}

// unsealState finds the key of the small files with secrets in a directory that is not encrypted as a whole. They are
// sealed where the keys are kept apart from the directory: then whoever has only the directory has no user's secret.
func (d *DataDir) unsealState(ctx context.Context, k *siteKeys) error {
	path := d.file(stateKeyName)
	kept, err := d.readKey(stateKeyName, stateKeyFormat)
	switch {
	case errors.Is(err, fs.ErrNotExist) && !k.apart:
		return nil
	case errors.Is(err, fs.ErrNotExist):
		made, err := k.Generate(ctx, "", []byte(stateKeyContext))
		if err != nil {
			return firn.E("make the key of users' secrets", path, err)
		}
		d.state = &made.Plain
		kept = dataKey{Format: stateKeyFormat, Name: k.Default(), Wrapped: made.Wrapped}
		if err := d.writeKey(stateKeyName, kept); err != nil {
			return firn.E("store the key of users' secrets", path, err)
		}
	case err != nil:
		return firn.E("read the key of users' secrets", path, err)
	default:
		key, err := k.Unwrap(ctx, kept.Name, kept.Wrapped, []byte(stateKeyContext))
		if err != nil {
			return firn.E("open the key of users' secrets", path, err)
		}
		d.state = &key
	}
	if kept.Sealed {
		return nil
	}
	for _, name := range stateFiles {
		if err := d.sealState(name); err != nil {
			return firn.E("seal", d.file(name), err)
		}
	}
	kept.Sealed = true
	return firn.E("store the key of users' secrets", path, d.writeKey(stateKeyName, kept))
}

// sealState seals a file that was written before there was a key, unless a start that was cut off has done so.
func (d *DataDir) sealState(name string) error {
	b, err := readSmall(d.file(name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if _, err := d.state.Unbox(name, slices.Clone(b)); err == nil {
		return nil
	}
	return d.writeState(name, b)
}

func (d *DataDir) readKey(name, format string) (k dataKey, err error) {
	b, err := readSmall(d.file(name))
	if err != nil {
		return k, err
	}
	if err := json.Unmarshal(b, &k); err != nil || k.Format != format {
		return k, firn.NewError(firn.Corrupt, "not what the file should hold: restore it from a copy")
	}
	if k.Version != dataKeyVersion {
		return k, firn.NewError(firn.Unsupported, "written by a later release")
	}
	return k, nil
}

func (d *DataDir) writeKey(name string, k dataKey) error {
	k.Version = dataKeyVersion
	b, err := json.MarshalIndent(k, "", "  ")
	if err != nil {
		return err
	}
	return d.writeDurably(name, append(b, '\n'), 0o600)
}

// opensWithout refuses that a key goes without which the site does not start again.
func (d *DataDir) opensWithout(key string) error {
	for _, f := range []struct{ name, format string }{{dataKeyName, dataKeyFormat}, {stateKeyName, stateKeyFormat}} {
		kept, err := d.readKey(f.name, f.format)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		if kept.Name == key {
			return &firn.Error{Kind: firn.Conflict, Subject: key, Err: errors.New(
				"the site's own secrets are wrapped with it (" + f.name + "): without it the site does not start again")}
		}
	}
	return nil
}

// rewrapKeys wraps the keys of the directory with the newest version of their keys.
func (d *DataDir) rewrapKeys(ctx context.Context, k *siteKeys, sum *adminapi.Rewrapped) error {
	for _, f := range []struct{ name, format, context string }{
		{dataKeyName, dataKeyFormat, dataKeyContext}, {stateKeyName, stateKeyFormat, stateKeyContext},
	} {
		kept, err := d.readKey(f.name, f.format)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		sum.Records++
		wrapped, err := k.Rewrap(ctx, kept.Name, kept.Wrapped, []byte(f.context))
		if err != nil {
			return err
		}
		if wrapped == nil {
			continue
		}
		sum.Rewrapped++
		kept.Wrapped = wrapped
		if err := d.writeKey(f.name, kept); err != nil {
			return firn.E("store key", d.file(f.name), err)
		}
	}
	return nil
}

// Encrypted reports whether the data directory at path is encrypted.
func Encrypted(path string) bool {
	_, err := os.Stat(filepath.Join(path, dataKeyName))
	return err == nil
}

// needsKeyring reports whether a key of the directory was wrapped by a keyring. A new keyring would not open it, and
// hide that the one that does is missing.
func (d *DataDir) needsKeyring() bool {
	for _, f := range []struct{ name, format string }{{dataKeyName, dataKeyFormat}, {stateKeyName, stateKeyFormat}} {
		k, err := d.readKey(f.name, f.format)
		if err == nil && len(k.Wrapped) > 0 && k.Wrapped[0] == (*keys.Keyring)(nil).Kind() {
			return true
		}
	}
	return false
}

// sealer seals what is written for the directory and not through its file system; nil where it is not encrypted.
func (d *DataDir) sealer() audit.Sealer {
	if !d.all {
		return nil
	}
	return d.state
}

// readState and writeState are for small files with secrets.
func (d *DataDir) readState(name string) ([]byte, error) {
	b, err := readSmall(d.file(name))
	if err != nil || d.state == nil {
		return b, err
	}
	return d.state.Unbox(name, b)
}

func (d *DataDir) writeState(name string, b []byte) error {
	if d.state != nil {
		b = d.state.Box(nil, name, b)
	}
	return d.writeDurably(name, b, 0o600)
}
