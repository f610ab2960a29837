//go:build !linux

package sqliteblob

import (
	"context"

	"firn/blob/driver"
)

// checkFileSystem cannot tell network file systems here.
func checkFileSystem(string) error { return nil }

// Space is not known here.
func (s *store) Space(ctx context.Context) (driver.Space, error) {
	return driver.Space{Total: -1, Free: -1}, ctx.Err()
}
