package loadgen

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	hdr "github.com/HdrHistogram/hdrhistogram-go"
)

// Result is what a run measured. Times are of the measured part only: loading and cleaning up are not in it.
type Result struct {
	Endpoint    string  `json:"endpoint"`
	Op          Op      `json:"op"`
	Size        int64   `json:"size"` // bytes of an object
	Concurrency int     `json:"concurrency"`
	Objects     int     `json:"objects,omitempty"` // loaded beforehand
	Signing     Signing `json:"signing"`

	Seconds   float64 `json:"seconds"`
	Ops       int64   `json:"ops"`   // that succeeded
	Bytes     int64   `json:"bytes"` // of objects, or of listing documents
	Keys      int64   `json:"keys,omitempty"`
	OpsPerSec float64 `json:"ops_per_sec"`
	MiBPerSec float64 `json:"mib_per_sec"`
	KeysPerS  float64 `json:"keys_per_sec,omitempty"` // listed or batch-deleted
	P50Ms     float64 `json:"p50_ms"`
	P90Ms     float64 `json:"p90_ms"`
	P99Ms     float64 `json:"p99_ms"`
	MaxMs     float64 `json:"max_ms"`

	Errors         map[string]int64 `json:"errors,omitempty"` // failed operations by S3 code or network cause
	VerifyFailures int64            `json:"verify_failures"`
	Exhausted      bool             `json:"exhausted,omitempty"` // deletes ended because no object was left

	ClientCPUMsPerOp float64 `json:"client_cpu_ms_per_op"`
	// Server is nil where no process was named.
	Server *ServerUsage `json:"server,omitempty"`
}

// ServerUsage is what the named server process used, itself without children.
type ServerUsage struct {
	CPUMsPerOp    float64 `json:"cpu_ms_per_op"`
	CPUMsPerKey   float64 `json:"cpu_ms_per_key,omitempty"`
	CPUSeconds    float64 `json:"cpu_seconds"`
	RSSStartMiB   float64 `json:"rss_start_mib"`
	RSSEndMiB     float64 `json:"rss_end_mib"`
	RSSPeakMiB    float64 `json:"rss_peak_mib"`  // since the process started
	WrittenBytes  int64   `json:"written_bytes"` // to the disk, 0 where not readable
	WrittenPerPut float64 `json:"written_per_op"`
}

func (r *Result) addError(k string, n int64) {
	if _, ok := r.Errors[k]; !ok && len(r.Errors) >= maxErrorKinds {
		k = "other"
	}
	r.Errors[k] += n
}

// Failed is the number of operations that failed.
func (r *Result) Failed() (n int64) {
	for _, v := range r.Errors {
		n += v
	}
	return n
}

func (r *Result) fill(h *hdr.Histogram, before, after usage, server bool) {
	if r.Seconds > 0 {
		r.OpsPerSec = float64(r.Ops) / r.Seconds
		r.MiBPerSec = float64(r.Bytes) / r.Seconds / (1 << 20)
		r.KeysPerS = float64(r.Keys) / r.Seconds
	}
	ms := func(v int64) float64 { return float64(v) / 1000 }
	if h.TotalCount() > 0 {
		r.P50Ms, r.P90Ms, r.P99Ms = ms(h.ValueAtQuantile(50)), ms(h.ValueAtQuantile(90)), ms(h.ValueAtQuantile(99))
		r.MaxMs = ms(h.Max())
	}
	per := func(d time.Duration, n int64) float64 {
		if n == 0 {
			return 0
		}
		return d.Seconds() * 1000 / float64(n)
	}
	r.ClientCPUMsPerOp = per(after.client-before.client, r.Ops)
	if server {
		cpu := after.server - before.server
		r.Server = &ServerUsage{
			CPUMsPerOp: per(cpu, r.Ops), CPUMsPerKey: per(cpu, r.Keys), CPUSeconds: cpu.Seconds(),
			RSSStartMiB: mib(before.rss), RSSEndMiB: mib(after.rss), RSSPeakMiB: mib(after.peak),
			WrittenBytes: after.written - before.written,
		}
		if r.Ops > 0 {
			r.Server.WrittenPerPut = float64(r.Server.WrittenBytes) / float64(r.Ops)
		}
	}
}

func mib(b int64) float64 { return float64(b) / (1 << 20) }

// WriteText prints the result for people.
func (r *Result) WriteText(w io.Writer) error {
	var b strings.Builder
	fmt.Fprintf(&b, "%s  size %s  concurrency %d", r.Op, sizeName(r.Size), r.Concurrency)
	if r.Objects > 0 {
		fmt.Fprintf(&b, "  objects %d", r.Objects)
	}
	fmt.Fprintf(&b, "  payload %s\n", r.Signing)
	fmt.Fprintf(&b, "  %d ops in %.2f s   %.1f ops/s   %.1f MiB/s", r.Ops, r.Seconds, r.OpsPerSec, r.MiBPerSec)
	if r.Keys > 0 {
		fmt.Fprintf(&b, "   %.0f keys/s", r.KeysPerS)
	}
	fmt.Fprintf(&b, "\n  latency ms   p50 %.2f   p90 %.2f   p99 %.2f   max %.2f\n", r.P50Ms, r.P90Ms, r.P99Ms, r.MaxMs)
	if s := r.Server; s != nil {
		fmt.Fprintf(&b, "  server   %.4f CPU-ms/op", s.CPUMsPerOp)
		if r.Keys > 0 {
			fmt.Fprintf(&b, "   %.5f CPU-ms/key", s.CPUMsPerKey)
		}
		fmt.Fprintf(&b, "   RSS %.0f to %.0f MiB, peak %.0f   %.0f bytes written/op\n",
			s.RSSStartMiB, s.RSSEndMiB, s.RSSPeakMiB, s.WrittenPerPut)
	}
	fmt.Fprintf(&b, "  client   %.4f CPU-ms/op\n", r.ClientCPUMsPerOp)
	if r.Exhausted {
		b.WriteString("  ended early: no object was left to delete; load more with --objects\n")
	}
	fmt.Fprintf(&b, "  errors   %d", r.Failed())
	for _, k := range slices.Sorted(maps.Keys(r.Errors)) {
		fmt.Fprintf(&b, "   %s: %d", k, r.Errors[k])
	}
	b.WriteByte('\n')
	_, err := io.WriteString(w, b.String())
	return err
}

func sizeName(n int64) string {
	for _, u := range []struct {
		n    int64
		name string
	}{{1 << 30, "GiB"}, {1 << 20, "MiB"}, {1 << 10, "KiB"}} {
		if n >= u.n && n%u.n == 0 {
			return fmt.Sprintf("%d %s", n/u.n, u.name)
		}
	}
	return fmt.Sprintf("%d B", n)
}
