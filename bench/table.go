package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
)

// The table in a document stands between these lines.
const (
	tableBegin = "<!-- bench: begin -->"
	tableEnd   = "<!-- bench: end -->"
)

// cell is the median of one row of one server.
type cell struct {
	rate, p50, p99, cpu float64
	errors              int64
	ok                  bool
	load                bool
}

func median(v []float64) float64 {
	if len(v) == 0 {
		return 0
	}
	v = slices.Sorted(slices.Values(v))
	if n := len(v); n%2 == 0 {
		return (v[n/2-1] + v[n/2]) / 2
	}
	return v[len(v)/2]
}

// quantile returns the value at q (0..1) of v.
func quantile(v []float64, q float64) float64 {
	v = slices.Sorted(slices.Values(v))
	return v[min(len(v)-1, int(q*float64(len(v))))]
}

// unitOf says what a row counts, from its name for rows that are no load of the table.
func unitOf(row string, o options) unit {
	for _, l := range loads(o) {
		if l.name == row {
			return l.unit
		}
	}
	switch {
	case strings.HasPrefix(row, "LIST"):
		return perKey
	case strings.HasPrefix(row, "start"):
		return millis
	case strings.HasPrefix(row, "memory"):
		return memory
	}
	return perOp
}

func summarise(all []sample, server, row string, u unit) (c cell) {
	var rate, p50, p99, cpu []float64
	for _, s := range all {
		if s.Server != server || s.Row != row {
			continue
		}
		c.ok = true
		r := s.Result
		if r == nil {
			rate = append(rate, s.Value)
			continue
		}
		c.load = true
		c.errors += r.Failed()
		p50, p99 = append(p50, r.P50Ms), append(p99, r.P99Ms)
		switch u {
		case perMiB:
			rate = append(rate, r.MiBPerSec)
		case perKey:
			rate = append(rate, r.KeysPerS)
		default:
			rate = append(rate, r.OpsPerSec)
		}
		switch {
		case r.Server == nil:
		case u == perKey:
			cpu = append(cpu, r.Server.CPUMsPerKey)
		default:
			cpu = append(cpu, r.Server.CPUMsPerOp)
		}
	}
	c.rate, c.p50, c.p99, c.cpu = median(rate), median(p50), median(p99), median(cpu)
	return c
}

func (c cell) text(u unit) string {
	if !c.ok {
		return "-"
	}
	var b strings.Builder
	switch u {
	case perMiB:
		fmt.Fprintf(&b, "%s MiB/s", number(c.rate))
	case perKey:
		fmt.Fprintf(&b, "%s keys/s", number(c.rate))
	case millis:
		fmt.Fprintf(&b, "%s ms", number(c.rate))
	case memory:
		fmt.Fprintf(&b, "%s MiB", number(c.rate))
	default:
		b.WriteString(number(c.rate))
	}
	if c.p50 > 0 {
		fmt.Fprintf(&b, " · %s/%s", number(c.p50), number(c.p99))
	}
	if c.cpu > 0 {
		fmt.Fprintf(&b, " · %s", number(c.cpu))
	}
	if c.errors > 0 {
		fmt.Fprintf(&b, " (%d errors)", c.errors)
	}
	return b.String()
}

// number prints v with three significant digits at most, whole where it is large.
func number(v float64) string {
	switch {
	case v >= 100:
		return fmt.Sprintf("%.0f", v)
	case v >= 10:
		return fmt.Sprintf("%.1f", v)
	case v >= 0.1:
		return fmt.Sprintf("%.2f", v)
	case v == 0:
		return "0"
	}
	return fmt.Sprintf("%.2g", v)
}

// ratio compares the first server with a peer: rates as first/peer, CPU likewise; more is better for a rate,
// less for CPU, time and memory.
func ratio(a, b cell) string {
	if !a.ok || !b.ok || b.rate == 0 {
		return "-"
	}
	s := number(a.rate/b.rate) + "×"
	if a.cpu > 0 && b.cpu > 0 {
		s += " · CPU " + number(a.cpu/b.cpu) + "×"
	}
	return s
}

// renderTable makes the Markdown table of medians, with a column of ratios for each peer of the first server.
func renderTable(servers []server, all []sample, machine string, o options) string {
	var rows []string
	for _, s := range all {
		if !slices.Contains(rows, s.Row) {
			rows = append(rows, s.Row)
		}
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s\n%s\n\n", tableBegin, machine)
	for _, s := range servers {
		fmt.Fprintf(&b, "- %s (%s): %s\n", s.name, versionText(s), s.sync)
	}
	fmt.Fprintf(&b, "\nMedians of %d rounds, %s each load. Rate a second · p50/p99 ms · server CPU-ms an operation (a key in LIST and\n"+
		"multi-delete). Ratios are %s to the peer: a rate above 1 and a CPU, time or memory below 1 are in its favour.\n\n",
		o.rounds, o.duration, servers[0].name)
	b.WriteString("| |")
	for _, s := range servers {
		fmt.Fprintf(&b, " %s |", s.name)
	}
	for _, s := range servers[1:] {
		fmt.Fprintf(&b, " to %s |", s.name)
	}
	b.WriteString("\n|---|" + strings.Repeat("---|", 2*len(servers)-1) + "\n")
	for _, row := range rows {
		u := unitOf(row, o)
		fmt.Fprintf(&b, "| %s |", row)
		first := summarise(all, servers[0].name, row, u)
		for _, s := range servers {
			fmt.Fprintf(&b, " %s |", summarise(all, s.name, row, u).text(u))
		}
		for _, s := range servers[1:] {
			fmt.Fprintf(&b, " %s |", ratio(first, summarise(all, s.name, row, u)))
		}
		b.WriteByte('\n')
	}
	fmt.Fprintf(&b, "%s\n", tableEnd)
	return b.String()
}

func versionText(s server) string {
	if s.version == "" {
		return "version unknown"
	}
	return s.version
}

// replaceTable puts the table between the marks of a document.
func replaceTable(path, table string) error {
	doc, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	before, rest, ok := bytes.Cut(doc, []byte(tableBegin))
	_, after, ok2 := bytes.Cut(rest, []byte(tableEnd+"\n"))
	if !ok || !ok2 {
		return errors.New(path + ": the lines that mark the table are missing")
	}
	return os.WriteFile(path, slices.Concat(before, []byte(table), after), 0o644)
}
