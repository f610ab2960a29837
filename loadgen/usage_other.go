//go:build !linux

package loadgen

import (
	"errors"
	"time"
)

type usage struct {
	client, server     time.Duration
	rss, peak, written int64
}

func readUsage(pid int) (usage, error) {
	if pid != 0 {
		return usage{}, errors.New("watching the server process needs Linux")
	}
	return usage{}, nil
}
