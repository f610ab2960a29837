// Command bench measures Firn beside the S3 servers it finds (MinIO, versitygw) on one machine: each server
// alone on loopback with a fresh directory on the same disk, the same loads in the same order, several
// rounds interleaved, medians. It prints the table and can write it into docs/benchmarks.md.
//
// It promises to stop every server it started and to remove every directory it made, also when it fails.
// Peers run as processes built outside this module: it must never import or vendor one, nor a package of
// Firn that serves.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"firn/loadgen"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		stop()
		os.Exit(1)
	}
}

// options are the settings of a run.
type options struct {
	dir      string
	cache    string
	firn     string
	servers  []string
	install  bool
	rounds   int
	duration time.Duration
	only     string
	scale    []int
	warp     string
	jsonTo   string
	doc      string
}

func parseOptions(args []string) (options, error) {
	var o options
	cache, err := os.UserCacheDir()
	if err != nil {
		cache = os.TempDir()
	}
	f := flag.NewFlagSet("bench", flag.ContinueOnError)
	servers := f.String("servers", "firn,minio,versitygw", "servers to measure, in order; a peer that is not found is left out")
	f.StringVar(&o.dir, "dir", os.TempDir(), "directory on the disk to measure; a fresh one is made inside it, and removed at the end")
	f.StringVar(&o.cache, "cache", filepath.Join(cache, "firn-bench"), "directory for built servers")
	f.StringVar(&o.firn, "firn", "", "firn binary to measure (default: built from this tree)")
	f.BoolVar(&o.install, "install", true, "build peers with go install where none is found on PATH, in BENCH_PEERS or the cache")
	f.IntVar(&o.rounds, "rounds", 3, "rounds; the table shows medians")
	f.DurationVar(&o.duration, "duration", 5*time.Second, "length of each load")
	f.StringVar(&o.only, "only", "", "measure only rows whose name holds this text")
	scale := f.String("scale", "", "also list, restart and weigh with so many objects of 1 KiB, such as 1000000,10000000")
	f.StringVar(&o.warp, "warp", "", "warp binary: repeat the 4 KiB rows with it as a cross-check")
	f.StringVar(&o.jsonTo, "json", "", "file for every single result")
	f.StringVar(&o.doc, "write", "", "document whose table is replaced, such as docs/benchmarks.md")
	if err := f.Parse(args); err != nil {
		return o, err
	}
	if f.NArg() > 0 {
		return o, fmt.Errorf("unexpected argument %q", f.Arg(0))
	}
	o.servers = strings.Split(*servers, ",")
	for _, s := range strings.Split(*scale, ",") {
		if s == "" {
			continue
		}
		n, err := strconv.Atoi(s)
		if err != nil || n < 1 {
			return o, fmt.Errorf("scale %q: expected numbers of objects", s)
		}
		o.scale = append(o.scale, n)
	}
	if o.rounds < 1 || o.duration <= 0 {
		return o, errors.New("rounds and duration must be positive")
	}
	return o, nil
}

func run(ctx context.Context, args []string) (err error) {
	o, err := parseOptions(args)
	if errors.Is(err, flag.ErrHelp) {
		return nil
	}
	if err != nil {
		return err
	}
	var found []server
	for _, name := range o.servers {
		s, err := findServer(ctx, name, o)
		if errors.Is(err, errNotFound) {
			fmt.Fprintln(os.Stderr, "bench: left out:", err)
			continue
		}
		if err != nil {
			return err
		}
		found = append(found, s)
	}
	if len(found) == 0 {
		return errors.New("no server to measure")
	}
	machine, err := describeMachine(o.dir)
	if err != nil {
		return err
	}
	// All is removed at the end, not between the servers: ext4 without a journal makes files up to ten times as slowly
	// where many were deleted in the minute before, and the next server would pay for it.
	if o.dir, err = os.MkdirTemp(o.dir, "firn-bench-"); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(o.dir)) }()
	fmt.Println(machine)

	var all []sample
	defer func() { err = errors.Join(err, saveJSON(o.jsonTo, machine, all)) }()
	for round := range o.rounds {
		// Another order each round, so that no server always runs on the cleanest or the fullest disk.
		order := slices.Concat(found[round%len(found):], found[:round%len(found)])
		for _, s := range order {
			got, err := measureServer(ctx, s, o, round)
			all = append(all, got...)
			if err != nil {
				return fmt.Errorf("%s, round %d: %w", s.name, round+1, err)
			}
		}
	}
	table := renderTable(found, all, machine, o)
	fmt.Print(table)
	if o.doc != "" {
		return replaceTable(o.doc, table)
	}
	return nil
}

// sample is one measured row of one server in one round.
type sample struct {
	Server string          `json:"server"`
	Round  int             `json:"round"`
	Row    string          `json:"row"`
	Result *loadgen.Result `json:"result,omitempty"`
	// Value is the measurement of a row that is no load: milliseconds to start, or MiB resident.
	Value float64 `json:"value,omitempty"`
}

func saveJSON(path, machine string, all []sample) error {
	if path == "" {
		return nil
	}
	data, err := json.MarshalIndent(struct {
		Machine string    `json:"machine"`
		When    time.Time `json:"when"`
		Samples []sample  `json:"samples"`
	}{machine, time.Now().UTC(), all}, "", " ")
	if err != nil {
		return err
	}
	return os.WriteFile(path, append(data, '\n'), 0o644)
}
