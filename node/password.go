package node

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"time"
)

const (
	maxPassword = 64 << 10 // bytes of one
	commandTime = time.Minute
)

// readPassword returns a password from a file, or what a shell command prints. Line feeds at its end are not part of it.
func readPassword(ctx context.Context, file, command string) ([]byte, error) {
	p, err := passwordOf(ctx, file, command)
	p = bytes.TrimRight(p, "\r\n")
	if err == nil && len(p) == 0 {
		err = errors.New("it is empty")
	}
	return p, err
}

func passwordOf(ctx context.Context, file, command string) ([]byte, error) {
	if command != "" {
		ctx, cancel := context.WithTimeout(ctx, commandTime)
		defer cancel()
		c := exec.CommandContext(ctx, "/bin/sh", "-c", command)
		c.WaitDelay = time.Second // for children that keep its output open
		p, err := c.Output()
		if err != nil {
			err = fmt.Errorf("password_command: %w", err)
		}
		return p, err
	}
	f, err := os.Open(file)
	if err != nil {
		return nil, fmt.Errorf("password_file: %w", err)
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, maxPassword))
}
