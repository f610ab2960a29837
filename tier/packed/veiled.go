package packed

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"encoding/hex"
	"io"
	"slices"
	"strings"

	"firn/blob/driver"
	"firn/seal"
)

// The catalogue names long records after the hash of what they say. veiled encrypts those names: who has a guess of a
// record could compare. Other names tell nothing.
const recordPrefix = "catalogue-records/"

type veiled struct {
	driver.Driver
	block cipher.Block
}

func newVeiled(inner driver.Driver, key seal.Key) (driver.Driver, error) {
	block, err := aes.NewCipher(key[:])
	return &veiled{inner, block}, err
}

// turn encrypts or decrypts the hash in a name: CBC over its two blocks. That equal names become equal ones is wanted, and
// the first block, being of a hash, needs no other start.
func (v *veiled) turn(key string, mode func(cipher.Block, []byte) cipher.BlockMode) string {
	digits, ok := strings.CutPrefix(key, recordPrefix)
	p, err := hex.DecodeString(digits)
	if !ok || err != nil || len(p) != 2*aes.BlockSize {
		return key
	}
	mode(v.block, make([]byte, aes.BlockSize)).CryptBlocks(p, p)
	return recordPrefix + hex.EncodeToString(p)
}

func (v *veiled) veil(key string) string   { return v.turn(key, cipher.NewCBCEncrypter) }
func (v *veiled) unveil(key string) string { return v.turn(key, cipher.NewCBCDecrypter) }

// Put implements driver.Driver.
func (v *veiled) Put(ctx context.Context, key string, src driver.Source) error {
	return v.Driver.Put(ctx, v.veil(key), src)
}

// Get implements driver.Driver.
func (v *veiled) Get(ctx context.Context, key string, offset, length int64) (io.ReadCloser, error) {
	return v.Driver.Get(ctx, v.veil(key), offset, length)
}

// Stat implements driver.Driver.
func (v *veiled) Stat(ctx context.Context, key string) (driver.Info, error) {
	info, err := v.Driver.Stat(ctx, v.veil(key))
	info.Key = key
	return info, err
}

// Delete implements driver.Driver.
func (v *veiled) Delete(ctx context.Context, key string) error {
	return v.Driver.Delete(ctx, v.veil(key))
}

// List implements driver.Driver. Records are few: of versions from about 512 MiB on.
func (v *veiled) List(ctx context.Context, prefix string, fn func(driver.Info) error) error {
	if !strings.HasPrefix(recordPrefix, prefix) && !strings.HasPrefix(prefix, recordPrefix) {
		return v.Driver.List(ctx, prefix, fn)
	}
	var all []driver.Info
	within := prefix[:min(len(prefix), len(recordPrefix))]
	if err := v.Driver.List(ctx, within, func(i driver.Info) error {
		i.Key = v.unveil(i.Key)
		if strings.HasPrefix(i.Key, prefix) {
			all = append(all, i)
		}
		return nil
	}); err != nil {
		return err
	}
	slices.SortFunc(all, func(a, b driver.Info) int { return strings.Compare(a.Key, b.Key) })
	for _, i := range all {
		if err := fn(i); err != nil {
			return err
		}
	}
	return nil
}
