package main

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"firn/loadgen"
)

func TestMedian(t *testing.T) {
	for _, tt := range []struct {
		in   []float64
		want float64
	}{{nil, 0}, {[]float64{3}, 3}, {[]float64{9, 1, 5}, 5}, {[]float64{4, 1, 3, 2}, 2.5}} {
		if got := median(tt.in); got != tt.want {
			t.Errorf("median(%v) = %v, want %v", tt.in, got, tt.want)
		}
	}
}

func TestTable(t *testing.T) {
	res := func(rate, cpu float64) *loadgen.Result {
		return &loadgen.Result{
			OpsPerSec: rate, KeysPerS: rate * 1000, P50Ms: 1, P99Ms: 2,
			Server: &loadgen.ServerUsage{CPUMsPerOp: cpu, CPUMsPerKey: cpu / 1000},
		}
	}
	var all []sample
	for round, rate := range []float64{1000, 3000, 2000} {
		all = append(all,
			sample{Server: "firn", Round: round, Row: rowIdle, Value: 30},
			sample{Server: "firn", Round: round, Row: "PUT 4 KiB c16", Result: res(rate, 0.1)},
			sample{Server: "minio", Round: round, Row: rowIdle, Value: 120},
			sample{Server: "minio", Round: round, Row: "PUT 4 KiB c16", Result: res(rate/10, 0.8)},
			sample{Server: "minio", Round: round, Row: "LIST 10k keys c1", Result: res(40, 20)},
		)
	}
	got := renderTable([]server{{name: "firn", sync: "synced"}, {name: "minio", version: "v1", sync: "some"}}, all, "Machine: m.",
		options{rounds: 3, duration: time.Second})
	for _, want := range []string{
		"| | firn | minio | to minio |\n|---|---|---|---|\n",
		"| memory idle | 30.0 MiB | 120 MiB | 0.25× |",
		"| PUT 4 KiB c16 | 2000 · 1.00/2.00 · 0.10 | 200 · 1.00/2.00 · 0.80 | 10.0× · CPU 0.12× |",
		"| LIST 10k keys c1 | - | 40000 keys/s · 1.00/2.00 · 0.02 | - |",
		"- minio (v1): some",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("%q is not in\n%s", want, got)
		}
	}

	doc := filepath.Join(t.TempDir(), "b.md")
	if err := os.WriteFile(doc, []byte("# Head\n"+tableBegin+"\nold\n"+tableEnd+"\ntail\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for range 2 { // replacing again changes nothing
		if err := replaceTable(doc, got); err != nil {
			t.Fatal(err)
		}
		data, err := os.ReadFile(doc)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff("# Head\n"+got+"tail\n", string(data)); diff != "" {
			t.Error(diff)
		}
	}
	if err := os.WriteFile(doc, []byte("no marks\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := replaceTable(doc, got); err == nil {
		t.Error("a document without marks was rewritten")
	}
}

func TestParseWarp(t *testing.T) {
	out := []byte("warp: done\n" + `{"by_op_type":{"PUT":{"total_requests":300,"total_errors":1,` +
		`"start_time":"2026-01-01T00:00:00Z","end_time":"2026-01-01T00:00:03Z"}}}` + "\nbye")
	r, err := parseWarp(out, "PUT")
	if err != nil || r.OpsPerSec != 100 || r.Failed() != 1 {
		t.Errorf("%+v, %v", r, err)
	}
	for _, bad := range []string{"", "{", "{}", `{"by_op_type":{"PUT":{"total_requests":1}}}`} {
		if _, err := parseWarp([]byte(bad), "PUT"); err == nil {
			t.Errorf("%q: no error", bad)
		}
	}
}

func TestOptions(t *testing.T) {
	o, err := parseOptions([]string{"-scale", "1000,2000000", "-servers", "firn,minio"})
	if err != nil || len(o.scale) != 2 || len(o.servers) != 2 {
		t.Errorf("%+v, %v", o, err)
	}
	for _, bad := range [][]string{{"-scale", "x"}, {"-rounds", "0"}, {"extra"}, {"-duration", "-1s"}} {
		if _, err := parseOptions(bad); err == nil {
			t.Errorf("%v: no error", bad)
		}
	}
}

// script makes an executable that stands in for a server.
func script(t *testing.T, name, body string) string {
	t.Helper()
	p := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(p, []byte("#!/bin/sh\n"+body), 0o755); err != nil {
		t.Fatal(err)
	}
	return p
}

func TestFindServer(t *testing.T) {
	p := script(t, "minio", "exit 0\n")
	t.Setenv("BENCH_PEERS", filepath.Dir(p))
	s, err := findServer(t.Context(), "minio", options{cache: t.TempDir()})
	if err != nil || s.binary != p {
		t.Errorf("%q, %v", s.binary, err)
	}
	t.Setenv("BENCH_PEERS", "")
	t.Setenv("PATH", t.TempDir())
	if _, err := findServer(t.Context(), "versitygw", options{cache: t.TempDir()}); !errors.Is(err, errNotFound) {
		t.Errorf("%v", err)
	}
	if _, err := findServer(t.Context(), "nobody", options{}); err == nil || errors.Is(err, errNotFound) {
		t.Errorf("%v", err)
	}
}

// TestServerThatFailsIsReported starts a server that ends at once: its log must be in the error.
func TestServerThatFailsIsReported(t *testing.T) {
	s := server{name: "x", binary: script(t, "x", "echo cannot open the disk; exit 3\n"), args: func(string, int, int) []string { return nil }}
	_, err := s.start(t.Context(), t.TempDir(), filepath.Join(t.TempDir(), "log"))
	if err == nil || !strings.Contains(err.Error(), "cannot open the disk") {
		t.Errorf("%v", err)
	}
}

// TestServerIsStopped interrupts the wait for a server that never answers: its process must be gone.
func TestServerIsStopped(t *testing.T) {
	pidFile := filepath.Join(t.TempDir(), "pid")
	s := server{name: "x", binary: script(t, "x", `echo $$ > "$1"; exec sleep 1000`), args: func(string, int, int) []string { return []string{pidFile} }}
	dir := t.TempDir()
	p := make(chan error, 1)
	cctx, cancel := contextUntil(t, func() bool { data, err := os.ReadFile(pidFile); return err == nil && len(data) > 1 })
	defer cancel()
	go func() {
		_, err := s.start(cctx, dir, filepath.Join(dir, "log"))
		p <- err
	}()
	if err := <-p; err == nil {
		t.Fatal("a server that does not answer was taken as started")
	}
	data, err := os.ReadFile(pidFile)
	if err != nil {
		t.Fatal(err)
	}
	var pid int
	for _, c := range strings.TrimSpace(string(data)) {
		pid = pid*10 + int(c-'0')
	}
	if err := syscall.Kill(pid, 0); !errors.Is(err, syscall.ESRCH) {
		t.Errorf("process %d is still there: %v", pid, err)
	}
}

// contextUntil returns a context that ends when cond holds.
func contextUntil(t *testing.T, cond func() bool) (context.Context, context.CancelFunc) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		tick := time.NewTicker(5 * time.Millisecond)
		defer tick.Stop()
		for ctx.Err() == nil {
			<-tick.C
			if cond() {
				cancel()
			}
		}
	}()
	return ctx, cancel
}
