//go:build !unix

package gitblob

import (
	"context"

	"firn/blob/driver"
)

// Space is not told by this system.
func (p *place) Space(context.Context) (driver.Space, error) {
	return driver.Space{Total: -1, Free: -1}, nil
}
