//go:build !unix

package transfer

func isNoSpace(error) bool { return false }
