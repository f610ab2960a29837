//go:build !linux

package vfs

// SetDirect reports false: direct I/O is used on Linux only.
func SetDirect(File) bool { return false }
