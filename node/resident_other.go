//go:build !linux

package node

// resident returns 0: this system does not tell without C.
func resident() uint64 { return 0 }
