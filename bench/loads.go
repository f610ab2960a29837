package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"firn/loadgen"
)

const (
	kib = 1 << 10
	mib = 1 << 20
)

// load is one row of the table.
type load struct {
	name string
	unit unit
	o    loadgen.Options
}

// unit says what a row's rate counts.
type unit int

const (
	perOp  unit = iota // operations a second
	perMiB             // MiB a second
	perKey             // keys a second, CPU a key
	millis             // a time in ms, less is better
	memory             // MiB, less is better
)

// listObjects is how many objects the listing and deleting rows work on.
const listObjects = 10_000

// loads returns the rows in the order they run. Rows that share a prefix share its objects: the first loads
// them, the last removes them.
func loads(o options) []load {
	d := o.duration
	small := loadgen.Options{Prefix: "list/", Size: 4 * kib, Objects: listObjects, Duration: d}
	keep := func(x loadgen.Options, op loadgen.Op, c int, first, last bool) loadgen.Options {
		x.Op, x.Concurrency, x.Preloaded, x.Keep = op, c, !first, !last
		return x
	}
	put := func(size int64, c int) loadgen.Options {
		return loadgen.Options{Op: loadgen.OpPut, Size: size, Concurrency: c, Duration: d}
	}
	get := func(size int64, c, objects int) loadgen.Options {
		return loadgen.Options{Op: loadgen.OpGet, Size: size, Concurrency: c, Objects: objects, Duration: d}
	}
	rows := []load{
		{"PUT 4 KiB c16", perOp, put(4*kib, 16)},
		{"GET 4 KiB c16", perOp, keep(small, loadgen.OpGet, 16, true, false)},
		{"LIST 10k keys c1", perKey, keep(small, loadgen.OpList, 1, false, false)},
		{"LIST 10k keys c8", perKey, keep(small, loadgen.OpList, 8, false, false)},
		{"DELETE c8", perOp, keep(small, loadgen.OpDelete, 8, false, true)},
		{"multi-delete 1000 c1", perKey, loadgen.Options{
			Op: loadgen.OpMultiDelete, Prefix: "batch/", Size: 4 * kib, Objects: listObjects, Concurrency: 1, Duration: d,
		}},
		{"PUT 128 KiB c8", perOp, put(128*kib, 8)},
		{"GET 128 KiB c8", perOp, get(128*kib, 8, 1000)},
		{"PUT 1 MiB c8", perOp, put(mib, 8)},
		{"GET 1 MiB c16", perOp, get(mib, 16, 200)},
		{"PUT 64 MiB c8", perMiB, put(64*mib, 8)},
		{"GET 64 MiB c8", perMiB, get(64*mib, 8, 8)},
	}
	return rows
}

// The rows that are no load.
const (
	rowStart   = "start, empty"
	rowIdle    = "memory idle"
	rowPeak    = "memory peak"
	rowRestart = "start after kill -9, 10k objects"
)

// measureServer runs every row once against a fresh server.
func measureServer(ctx context.Context, s server, o options, round int) (all []sample, err error) {
	dir, err := os.MkdirTemp(o.dir, s.name+"-")
	if err != nil {
		return nil, err
	}
	data := filepath.Join(dir, "data")
	if err := os.Mkdir(data, 0o700); err != nil {
		return nil, err
	}
	logPath := filepath.Join(dir, "server.log")
	start := func() (*process, error) { return s.start(ctx, data, logPath) }

	p, err := start()
	if err != nil {
		return nil, err
	}
	defer func() { p.stop(syscall.SIGTERM) }()
	add := func(row string, res *loadgen.Result, value float64) {
		all = append(all, sample{Server: s.name, Round: round, Row: row, Result: res, Value: value})
	}
	wanted := func(row string) bool { return o.only == "" || strings.Contains(row, o.only) }

	add(rowStart, nil, p.took.Seconds()*1000)
	if err := pause(ctx, 2*time.Second); err != nil {
		return all, err
	}
	rss, peak := p.memory()
	add(rowIdle, nil, rss)

	for _, l := range loads(o) {
		if !wanted(l.name) {
			continue
		}
		if o.only != "" { // the row that would have loaded or removed the objects may not run
			l.o.Preloaded, l.o.Keep = false, false
		}
		l.o.ServerPID = p.cmd.Process.Pid
		res, err := loadgen.Run(ctx, p.target(), l.o)
		if err != nil {
			return all, fmt.Errorf("%s: %w", l.name, err)
		}
		add(l.name, res, 0)
		fmt.Printf("%-10s round %d  %-22s %10.1f ops/s  p50 %.2f ms  p99 %.2f ms  %.4f CPU-ms/op  errors %d\n",
			s.name, round+1, l.name, res.OpsPerSec, res.P50Ms, res.P99Ms, res.Server.CPUMsPerOp, res.Failed())
	}
	_, peak = maxMemory(p, peak)
	if o.warp != "" {
		if err := crossCheck(ctx, s, p, o, add); err != nil {
			return all, err
		}
	}
	for _, n := range append([]int{0}, o.scale...) {
		name := rowRestart
		if n == 0 {
			n = listObjects
			if !wanted(name) {
				continue
			}
		} else {
			name = fmt.Sprintf("start after kill -9, %s objects", count(n))
		}
		x := loadgen.Options{
			Op: loadgen.OpList, Prefix: "scale/", Size: kib, Objects: n, Concurrency: 16, Requests: 1, Keep: true, Preloaded: false,
		}
		if _, err := loadgen.Run(ctx, p.target(), x); err != nil {
			return all, fmt.Errorf("load %d objects: %w", n, err)
		}
		if n != listObjects {
			for _, c := range []int{1, 8} {
				x.Preloaded, x.Requests, x.Duration, x.Concurrency, x.ServerPID = true, 0, o.duration, c, p.cmd.Process.Pid
				res, err := loadgen.Run(ctx, p.target(), x)
				if err != nil {
					return all, err
				}
				add(fmt.Sprintf("LIST %s keys c%d", count(n), c), res, 0)
			}
		}
		_, peak = maxMemory(p, peak)
		p.stop(syscall.SIGKILL)
		if p, err = restarted(start, p); err != nil {
			return all, err
		}
		add(name, nil, p.took.Seconds()*1000)
		fmt.Printf("%-10s round %d  %-22s %10.0f ms\n", s.name, round+1, name, p.took.Seconds()*1000)
		if n != listObjects {
			if err := pause(ctx, 2*time.Second); err != nil {
				return all, err
			}
			rss, _ := p.memory()
			add(fmt.Sprintf("memory idle, %s objects", count(n)), nil, rss)
		}
	}
	_, peak = maxMemory(p, peak)
	add(rowPeak, nil, peak)
	return all, nil
}

// restarted keeps the stopped process where the new one does not start, so that stopping it again is harmless.
func restarted(start func() (*process, error), old *process) (*process, error) {
	p, err := start()
	if err != nil {
		return old, err
	}
	return p, nil
}

func maxMemory(p *process, before float64) (rss, peak float64) {
	rss, peak = p.memory()
	return rss, max(peak, before)
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func count(n int) string {
	switch {
	case n >= 1_000_000 && n%1_000_000 == 0:
		return fmt.Sprintf("%dM", n/1_000_000)
	case n >= 1000 && n%1000 == 0:
		return fmt.Sprintf("%dk", n/1000)
	}
	return fmt.Sprint(n)
}

// crossCheck repeats the 4 KiB rows with warp, an independent load tool, to check this one's numbers.
func crossCheck(ctx context.Context, s server, p *process, o options, add func(string, *loadgen.Result, float64)) error {
	for _, op := range []string{"put", "get"} {
		name := "warp " + strings.ToUpper(op) + " 4 KiB c16"
		c := exec.CommandContext(ctx, o.warp, op, "--json", "--host", strings.TrimPrefix(p.url, "http://"),
			"--access-key", accessKey, "--secret-key", secretKey, "--obj.size", "4KiB", "--concurrent", "16",
			"--duration", o.duration.String(), "--benchdata", filepath.Join(filepath.Dir(p.log), "warp-"+op))
		if op == "get" {
			c.Args = append(c.Args, "--objects", "1000")
		}
		out, err := c.Output()
		if err != nil {
			return fmt.Errorf("%s against %s: %w", name, s.name, err)
		}
		res, err := parseWarp(out, strings.ToUpper(op))
		if err != nil {
			return fmt.Errorf("%s against %s: %w", name, s.name, err)
		}
		add(name, res, 0)
	}
	return nil
}

// parseWarp reads the JSON that warp prints after its other output.
func parseWarp(out []byte, op string) (*loadgen.Result, error) {
	i := strings.IndexByte(string(out), '{')
	if i < 0 {
		return nil, errors.New("no JSON in warp's output")
	}
	var doc struct {
		ByOp map[string]struct {
			Requests int64     `json:"total_requests"`
			Errors   int64     `json:"total_errors"`
			Start    time.Time `json:"start_time"`
			End      time.Time `json:"end_time"`
		} `json:"by_op_type"`
	}
	if err := json.NewDecoder(strings.NewReader(string(out[i:]))).Decode(&doc); err != nil {
		return nil, fmt.Errorf("warp's output: %w", err)
	}
	r, ok := doc.ByOp[op]
	secs := r.End.Sub(r.Start).Seconds()
	if !ok || secs <= 0 {
		return nil, fmt.Errorf("warp's output has no %s", op)
	}
	res := &loadgen.Result{Ops: r.Requests, Seconds: secs, OpsPerSec: float64(r.Requests) / secs}
	if r.Errors > 0 {
		res.Errors = map[string]int64{"warp": r.Errors}
	}
	return res, nil
}
