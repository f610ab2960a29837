//go:build !unix

package gitrepo

import (
	"context"
	"os"
	"os/exec"
)

func ownGroup(*exec.Cmd) {}

// lockExclusive reports false: without advisory locks nothing is ever known to be left behind.
func lockExclusive(*os.File) bool { return false }

func lockShared(context.Context, *os.File) error { return nil }
