package loadgen

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// usage is what the client and the server process have used so far. Sizes in bytes.
type usage struct {
	client, server     time.Duration // CPU, user and system
	rss, peak, written int64
}

// clockTick is USER_HZ, in which Linux reports process times on every architecture Go runs on.
const clockTick = time.Second / 100

func readUsage(pid int) (u usage, err error) {
	var ru syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &ru); err != nil {
		return u, err
	}
	u.client = time.Duration(ru.Utime.Nano() + ru.Stime.Nano())
	if pid == 0 {
		return u, nil
	}
	dir := "/proc/" + strconv.Itoa(pid) + "/"
	stat, err := os.ReadFile(dir + "stat")
	if err != nil {
		return u, err
	}
	// The name in brackets may hold anything; the fields after it are counted from 3.
	f := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	if len(f) < 13 {
		return u, fmt.Errorf("%sstat: unexpected format", dir)
	}
	for _, s := range f[11:13] { // utime, stime
		n, err := strconv.ParseInt(s, 10, 64)
		if err != nil {
			return u, fmt.Errorf("%sstat: %w", dir, err)
		}
		u.server += time.Duration(n) * clockTick
	}
	status, err := os.ReadFile(dir + "status")
	if err != nil {
		return u, err
	}
	u.rss = procField(status, "VmRSS:") << 10
	u.peak = procField(status, "VmHWM:") << 10
	if io, err := os.ReadFile(dir + "io"); err == nil { // readable by the owner only: optional
		u.written = procField(io, "write_bytes:")
	}
	return u, nil
}

// procField returns the number after name, 0 where there is none.
func procField(doc []byte, name string) int64 {
	for line := range strings.Lines(string(doc)) {
		if f := strings.Fields(line); len(f) >= 2 && f[0] == name {
			n, err := strconv.ParseInt(f[1], 10, 64)
			if err != nil {
				return 0
			}
			return n
		}
	}
	return 0
}
