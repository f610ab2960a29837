//go:build !linux

package vfs

// SetDirect reports false: direct I/O is used on Linux only.
func SetDirect(File) bool { return false }

// ClearDirect reports false, too.
func ClearDirect(File) bool { return false }
