// Command backup measures `firn backup` beside restic and kopia on the same trees, in one run on one machine, and
// writes the table into a document.
//
// It owns the trees, the rounds and the table. It must never be imported.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
)

type options struct {
	dir    string
	write  string
	rounds int
	tools  []string
	loads  []string
	random int64 // bytes
	text   int64
	files  int
	large  int64
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "bench/backup:", err)
		stop()
		os.Exit(1)
	}
}

func parse(args []string) (o options, err error) {
	f := flag.NewFlagSet("backup", flag.ContinueOnError)
	f.StringVar(&o.dir, "dir", os.TempDir(), "directory on the disk to measure; a fresh one is made and removed inside it")
	f.StringVar(&o.write, "write", "", "document whose table is replaced")
	f.IntVar(&o.rounds, "rounds", 3, "rounds; the table has their medians")
	tools := f.String("tools", "firn,firn-fastest,firn-off,restic,kopia,kopia-zstd", "tools to measure, in order; a peer is looked for on PATH and in BENCH_PEERS, and left out where it is not found")
	loads := f.String("loads", "tree,small,large", "trees to measure")
	f.Int64Var(&o.random, "random", 1<<30, "bytes of random content in the tree")
	f.Int64Var(&o.text, "text", 1<<30, "bytes of text in the tree")
	f.IntVar(&o.files, "files", 1_000_000, "files of the load small")
	f.Int64Var(&o.large, "large", 10<<30, "bytes of the one file of the load large")
	if err := f.Parse(args); err != nil {
		return o, err
	}
	o.tools, o.loads = strings.Split(*tools, ","), strings.Split(*loads, ",")
	switch {
	case f.NArg() > 0:
		return o, fmt.Errorf("%q is too much", f.Arg(0))
	case o.rounds < 1 || o.random < 0 || o.text < 0 || o.files < 1 || o.large < 1<<20:
		return o, errors.New("rounds and sizes must be positive")
	}
	return o, nil
}

func run(ctx context.Context, args []string) (err error) {
	o, err := parse(args)
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp(o.dir, "firn-bench-backup-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	tools, err := findTools(ctx, o, dir)
	if err != nil {
		return err
	}
	b := &bench{o: o, dir: dir, tools: tools}
	for _, l := range o.loads {
		fn, ok := map[string]func(context.Context) error{"tree": b.tree, "small": b.small, "large": b.large}[l]
		if !ok {
			return fmt.Errorf("load %q: expected tree, small or large", l)
		}
		if err := fn(ctx); err != nil {
			return fmt.Errorf("load %s: %w", l, err)
		}
	}
	text := b.table()
	fmt.Print(text)
	if o.write == "" {
		return nil
	}
	return replaceTable(o.write, text)
}

// findTools builds Firn and looks for the peers.
func findTools(ctx context.Context, o options, dir string) (tools []tool, err error) {
	for _, name := range o.tools {
		switch name {
		case "firn", "firn-fastest", "firn-off":
			bin := filepath.Join(dir, "firn")
			cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-o", bin, "./cmd/firn")
			cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
			cmd.Stderr = os.Stderr
			if err := cmd.Run(); err != nil {
				return nil, fmt.Errorf("build firn: %w", err)
			}
			tools = append(tools, withCompression(firn(bin), name))
		case "restic", "kopia", "kopia-zstd":
			program, _, _ := strings.Cut(name, "-")
			bin := findPeer(program)
			if bin == "" {
				fmt.Fprintf(os.Stderr, "%s is not on PATH and not in BENCH_PEERS: left out\n", name)
				continue
			}
			out, err := exec.CommandContext(ctx, bin, map[string]string{"restic": "version", "kopia": "--version"}[program]).Output()
			if err != nil {
				return nil, fmt.Errorf("%s: %w", bin, err)
			}
			t := map[string]func(string) tool{"restic": restic, "kopia": kopia, "kopia-zstd": zstd}[name](bin)
			t.version = strings.TrimSpace(strings.SplitN(string(out), "\n", 2)[0])
			tools = append(tools, t)
		default:
			return nil, fmt.Errorf("tool %q: expected firn, firn-fastest, firn-off, restic, kopia or kopia-zstd", name)
		}
	}
	return tools, nil
}

func findPeer(name string) string {
	for _, dir := range filepath.SplitList(os.Getenv("BENCH_PEERS")) {
		if p := filepath.Join(dir, name); exec.Command(p, "--help").Run() == nil {
			return p
		}
	}
	p, err := exec.LookPath(name)
	if err != nil {
		return ""
	}
	return p
}
