package fileblob

import "golang.org/x/sys/unix"

// isLocal reports whether a directory that is there is on a file system of this machine.
func isLocal(dir string) bool {
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err != nil {
		return false
	}
	switch uint32(fs.Type) { //nolint:gosec // magic numbers are of 32 bits
	case unix.NFS_SUPER_MAGIC, unix.SMB_SUPER_MAGIC, unix.SMB2_SUPER_MAGIC, unix.CIFS_SUPER_MAGIC, unix.CEPH_SUPER_MAGIC,
		unix.FUSE_SUPER_MAGIC:
		return false
	}
	return true
}
