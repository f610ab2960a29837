package main

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"
)

// describeMachine returns one line on what the numbers were measured on, with the measured time of a
// 4 KiB append and sync in dir, because that bounds every server that syncs.
func describeMachine(dir string) (string, error) {
	p50, p99, err := syncTime(dir, 300)
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("Machine: %s, %d cores, %s memory, %s/%s %s, %s. 4 KiB append and sync: p50 %s, p99 %s.",
		firstField("/proc/cpuinfo", "model name"), runtime.NumCPU(), memoryText(firstField("/proc/meminfo", "MemTotal")),
		runtime.GOOS, runtime.GOARCH, kernel(), runtime.Version(), p50.Round(time.Microsecond), p99.Round(time.Microsecond)), nil
}

func syncTime(dir string, n int) (p50, p99 time.Duration, err error) {
	f, err := os.Create(filepath.Join(dir, fmt.Sprintf("firn-bench-sync-%d", os.Getpid())))
	if err != nil {
		return 0, 0, err
	}
	defer func() { err = errors.Join(err, f.Close(), os.Remove(f.Name())) }()
	buf := make([]byte, 4096)
	v := make([]float64, 0, n)
	for range n {
		begin := time.Now()
		if _, err := f.Write(buf); err != nil {
			return 0, 0, err
		}
		if err := f.Sync(); err != nil {
			return 0, 0, err
		}
		v = append(v, float64(time.Since(begin)))
	}
	return time.Duration(median(v)), time.Duration(quantile(v, 0.99)), nil
}

// firstField returns the value after "name :" in a file of such lines, "unknown" where there is none.
func firstField(path, name string) string {
	f, err := os.Open(path)
	if err != nil {
		return "unknown"
	}
	defer f.Close()
	sc := bufio.NewScanner(f)
	for sc.Scan() {
		k, v, ok := strings.Cut(sc.Text(), ":")
		if ok && strings.TrimSpace(k) == name {
			return strings.TrimSpace(v)
		}
	}
	return "unknown"
}

func memoryText(s string) string {
	var kb int64
	if _, err := fmt.Sscanf(s, "%d kB", &kb); err != nil {
		return s
	}
	return fmt.Sprintf("%d GiB", (kb+1<<19)>>20)
}

func kernel() string {
	data, err := os.ReadFile("/proc/sys/kernel/osrelease")
	if err != nil {
		return "unknown"
	}
	return strings.TrimSpace(string(data))
}
