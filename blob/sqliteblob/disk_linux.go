package sqliteblob

import (
	"context"
	"path/filepath"

	"golang.org/x/sys/unix"

	"firn"
	"firn/blob/driver"
)

// checkFileSystem refuses network file systems: the index of SQLite's write-ahead log is shared memory, which machines do
// not share.
func checkFileSystem(dir string) error {
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err != nil {
		return invalid("the directory " + dir + " cannot be used: " + err.Error())
	}
	switch uint32(fs.Type) { //nolint:gosec // magic numbers are of 32 bits
	case unix.NFS_SUPER_MAGIC, unix.SMB_SUPER_MAGIC, unix.SMB2_SUPER_MAGIC, unix.CIFS_SUPER_MAGIC, unix.CEPH_SUPER_MAGIC:
		return invalid(dir + " is on a network file system, where SQLite would be damaged: use a local one, or another kind of place")
	}
	return nil
}

// Space is that of the file system.
func (s *store) Space(ctx context.Context) (driver.Space, error) {
	var fs unix.Statfs_t
	if err := unix.Statfs(filepath.Dir(s.path), &fs); err != nil {
		return driver.Space{Total: -1, Free: -1}, &firn.Error{Kind: firn.Unavailable, Err: err}
	}
	return driver.Space{Total: int64(fs.Blocks) * fs.Bsize, Free: int64(fs.Bavail) * fs.Bsize}, ctx.Err() //nolint:gosec // far below
}
