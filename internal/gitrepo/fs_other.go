//go:build !linux

package gitrepo

// onlyThisMachine reports false: this system's processes cannot be looked at.
func onlyThisMachine(string) bool { return false }
