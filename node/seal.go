package node

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"os"

	"firn"
	"firn/adminapi"
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
