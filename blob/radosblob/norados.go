//go:build !rados

package radosblob

import (
	"context"

	"firn"
	"firn/blob/driver"
)

// New says that this binary was built without librados.
func New(_ context.Context, opt Options) (driver.Driver, error) {
	if err := opt.complete(); err != nil {
		return nil, err
	}
	return nil, firn.NewError(firn.Unsupported,
		"this binary was built without Ceph's librados: build it with CGO_ENABLED=1 go build -tags rados ./cmd/firn "+
			"(Debian: librados-dev), or use the pool through its S3 gateway with s3:")
}
