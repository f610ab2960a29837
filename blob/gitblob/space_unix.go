//go:build unix

package gitblob

import (
	"context"

	"golang.org/x/sys/unix"

	"firn"
	"firn/blob/driver"
)

// Space is that of the file system of a local repository; a remote does not tell.
func (p *place) Space(context.Context) (driver.Space, error) {
	if p.repo.Remote() {
		return driver.Space{Total: -1, Free: -1}, nil
	}
	var s unix.Statfs_t
	if err := unix.Statfs(p.opt.Dir, &s); err != nil {
		return driver.Space{}, &firn.Error{Kind: firn.Unavailable, Err: err}
	}
	return driver.Space{Total: int64(s.Blocks) * int64(s.Bsize), Free: int64(s.Bavail) * int64(s.Bsize)}, nil
}
