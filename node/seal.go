package node

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"

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
)

// dataKey is the file that keeps the key of an encrypted data directory, wrapped by a key service.
type dataKey struct {
	Format  string `json:"format"`
	Version int    `json:"version"`
	Name    string `json:"name"` // of the service's key
	Wrapped []byte `json:"wrapped"`
}

// unseal finds the file system of the directory: encrypted where it was made so. all asks for it in a new directory.
// It comes before anything else is read or written there but the keyring.
func (d *DataDir) unseal(ctx context.Context, k *siteKeys, all bool) error {
	d.fs = vfs.OS()
	path := d.file(dataKeyName)
	kept, err := d.readDataKey()
	switch {
	case errors.Is(err, fs.ErrNotExist) && !all:
		return nil
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
		return firn.E("store data key", path, d.writeDataKey(dataKey{Name: k.Default(), Wrapped: made.Wrapped}))
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
	d.state = &state
}

func (d *DataDir) readDataKey() (k dataKey, err error) {
	b, err := readSmall(d.file(dataKeyName))
	if err != nil {
		return k, err
	}
	if err := json.Unmarshal(b, &k); err != nil || k.Format != dataKeyFormat {
		return k, firn.NewError(firn.Corrupt, "not the key of a data directory: restore the file from a copy")
	}
	if k.Version != dataKeyVersion {
		return k, firn.NewError(firn.Unsupported, "written by a later release")
	}
	return k, nil
}

func (d *DataDir) writeDataKey(k dataKey) error {
	k.Format, k.Version = dataKeyFormat, dataKeyVersion
	b, err := json.MarshalIndent(k, "", "  ")
	if err != nil {
		return err
	}
	return d.writeDurably(dataKeyName, append(b, '\n'), 0o600)
}

// rewrapDataKey wraps the key of the directory with the newest version of its key.
func (d *DataDir) rewrapDataKey(ctx context.Context, k *siteKeys, sum *adminapi.Rewrapped) error {
	kept, err := d.readDataKey()
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	sum.Records++
	if kept.Wrapped, err = k.Rewrap(ctx, kept.Name, kept.Wrapped, []byte(dataKeyContext)); err != nil || kept.Wrapped == nil {
		return err
	}
	sum.Rewrapped++
	return firn.E("store data key", d.file(dataKeyName), d.writeDataKey(kept))
}

// Encrypted reports whether the data directory at path is encrypted.
func Encrypted(path string) bool {
	_, err := os.Stat(filepath.Join(path, dataKeyName))
	return err == nil
}

// needsKeyring reports whether the key of the directory was wrapped by a keyring. A new keyring would not open it, and
// hide that the one that does is missing.
func (d *DataDir) needsKeyring() bool {
	k, err := d.readDataKey()
	return err == nil && len(k.Wrapped) > 0 && k.Wrapped[0] == (*keys.Keyring)(nil).Kind()
}

// sealer seals what is written for the directory and not through its file system; nil where it is not encrypted.
func (d *DataDir) sealer() audit.Sealer {
	if d.state == nil {
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
