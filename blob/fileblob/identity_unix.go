//go:build unix

package fileblob

import (
	"syscall"

	"firn/vfs"
)

// sameFile reports whether a and b are one file under two names, or at two times. Where that cannot be told it is false.
func sameFile(a, b vfs.FileInfo) bool {
	x, ok := a.Sys().(*syscall.Stat_t)
	y, ok2 := b.Sys().(*syscall.Stat_t)
	return ok && ok2 && x.Ino == y.Ino && x.Dev == y.Dev
}
