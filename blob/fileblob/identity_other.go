//go:build !unix

package fileblob

import "firn/vfs"

// sameFile reports false: it cannot be told.
func sameFile(vfs.FileInfo, vfs.FileInfo) bool { return false }
