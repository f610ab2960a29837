package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

type sample struct {
	row, tool string
	usage
	size int64 // bytes of the repository afterwards; 0 where the row does not change it
}

type bench struct {
	o       options
	dir     string
	tools   []tool
	rows    []string
	samples []sample
}

func (b *bench) add(row string, t tool, u usage, size int64) {
	if !slices.Contains(b.rows, row) {
		b.rows = append(b.rows, row)
	}
	b.samples = append(b.samples, sample{row: row, tool: t.name, usage: u, size: size})
	fmt.Printf("%-7s %-28s %7.2f s wall  %7.2f s CPU  %6.0f MiB peak  %6.0f MiB repository\n",
		t.name, row, u.wall.Seconds(), u.cpu.Seconds(), u.peak, float64(size)/(1<<20))
}

// step is one row of a load.
type step struct {
	row     string
	change  func() error // done once, before all tools run the step
	restore bool
	forget  bool
}

// load runs the steps in order, each with every tool in turn, so that all tools see the same machine; the tool that
// begins changes from round to round. The source is in the page cache.
func (b *bench) load(ctx context.Context, dir string, steps []step, round int) (err error) {
	works := map[string]string{}
	defer func() {
		for _, w := range works {
			err = errors.Join(err, os.RemoveAll(w))
		}
	}()
	order := slices.Concat(b.tools[round%len(b.tools):], b.tools[:round%len(b.tools)])
	for _, t := range order {
		work, err := os.MkdirTemp(b.dir, t.name+"-")
		if err != nil {
			return err
		}
		works[t.name] = work
		for _, args := range t.initialise(work) {
			if _, err := t.do(ctx, work, args); err != nil {
				return err
			}
		}
	}
	for _, s := range steps {
		if s.change != nil {
			if err := s.change(); err != nil {
				return err
			}
		}
		if _, err := treeSize(dir); err != nil { // inodes in memory, for the first tool as for the others
			return err
		}
		for _, t := range order {
			if err := b.step(ctx, t, works[t.name], dir, s); err != nil {
				return err
			}
		}
	}
	return nil
}

// syncfs writes back what the file system of path holds in memory, and returns how long that took.
func syncfs(path string) (time.Duration, error) {
	d, err := os.Open(path)
	if err != nil {
		return 0, err
	}
	defer d.Close()
	begin := time.Now()
	err = unix.Syncfs(int(d.Fd()))
	return time.Since(begin), err
}

// forget has the system drop what it holds in memory of the files below dir.
func forget(dir string) error {
	if _, err := syncfs(dir); err != nil {
		return err
	}
	return filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		defer f.Close()
		return unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED)
	})
}

func (b *bench) step(ctx context.Context, t tool, work, dir string, s step) error {
	switch {
	case s.restore:
		target := filepath.Join(work, "restored")
		// A restore reads what was written long ago: no tool finds its repository in memory.
		if err := forget(repoDir(work)); err != nil {
			return err
		}
		u, err := t.do(ctx, work, t.restore(work, dir, target))
		if err != nil {
			return err
		}
		// Only firn syncs what it restores. A restore counts as done once it would survive a power loss.
		synced, err := syncfs(target)
		if err != nil {
			return err
		}
		u.wall += synced
		b.add(s.row, t, u, 0)
		found := target
		if _, err := os.Stat(filepath.Join(target, dir)); err == nil {
			found = filepath.Join(target, dir)
		} else if _, err := os.Stat(filepath.Join(target, filepath.Base(dir))); err == nil {
			found = filepath.Join(target, filepath.Base(dir))
		}
		// It stays until all tools are through: on some file systems creating files is slow after many were deleted.
		return same(dir, found)
	case s.forget && t.forget == nil:
		return nil
	}
	args := t.backup(work, dir)
	if s.forget {
		args = t.forget(work)
	}
	u, err := t.do(ctx, work, args)
	if err != nil {
		return err
	}
	size, err := treeSize(repoDir(work))
	b.add(s.row, t, u, size)
	return err
}

func (b *bench) tree(ctx context.Context) error {
	dir := filepath.Join(b.dir, "tree")
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	if err := writeTree(dir, b.o.random, b.o.text); err != nil {
		return err
	}
	for round := range b.o.rounds {
		err := b.load(ctx, dir, []step{
			{row: "tree: first"},
			{row: "tree: unchanged"},
			{row: "tree: 1 % changed", change: func() error { return changeTree(dir, round) }},
			{row: "tree: restore", restore: true},
			{row: "tree: forget and prune", forget: true},
		}, round)
		if err != nil {
			return err
		}
	}
	return os.RemoveAll(dir)
}

func (b *bench) small(ctx context.Context) error {
	dir := filepath.Join(b.dir, "small")
	if err := writeSmall(dir, b.o.files); err != nil {
		return err
	}
	if err := b.load(ctx, dir, []step{
		{row: "small files: first"}, {row: "small files: unchanged"}, {row: "small files: restore", restore: true},
	}, 0); err != nil {
		return err
	}
	return os.RemoveAll(dir)
}

func (b *bench) large(ctx context.Context) error {
	dir := filepath.Join(b.dir, "large")
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	path := filepath.Join(dir, "file")
	if err := writeLarge(path, b.o.large); err != nil {
		return err
	}
	if err := b.load(ctx, dir, []step{
		{row: "large file: first"}, {row: "large file: bytes inserted", change: func() error { return insert(path) }},
	}, 0); err != nil {
		return err
	}
	return os.RemoveAll(dir)
}

// median returns the sample with the median wall time, and whether there is one.
func (b *bench) median(row, tool string) (sample, bool) {
	var all []sample
	for _, s := range b.samples {
		if s.row == row && s.tool == tool {
			all = append(all, s)
		}
	}
	if len(all) == 0 {
		return sample{}, false
	}
	slices.SortFunc(all, func(a, b sample) int { return int(a.wall - b.wall) })
	m := all[len(all)/2]
	for _, s := range all {
		m.peak = max(m.peak, s.peak)
	}
	return m, true
}

func (b *bench) table() string {
	var w strings.Builder
	fmt.Fprintf(&w, "%d cores, %s/%s, %s. Medians of %d rounds of the load tree, one of the others; peaks are the highest.\n\n",
		runtime.NumCPU(), runtime.GOOS, runtime.GOARCH, runtime.Version(), b.o.rounds)
	for _, t := range b.tools {
		fmt.Fprintf(&w, "- %s (%s): %s\n", t.name, t.version, t.sync)
	}
	fmt.Fprintf(&w, "\ntree: the Go distribution, %d MiB of random content, %d MiB of text. small files: %d of 100 to 4,000 bytes. large\nfile: %d MiB.\n",
		b.o.random>>20, b.o.text>>20, b.o.files, b.o.large>>20)
	w.WriteString("\nRestores begin with the repository out of memory and are timed until what they wrote is on the disk (syncfs).\n")
	w.WriteString("\nSeconds · CPU-seconds · peak MiB · MiB of the repository afterwards. The last columns are the time of the fastest peer to\nfirn's, of the fastest peer that compresses to firn's, and of the fastest that does not to firn-off's.\n\n|  |")
	for _, t := range b.tools {
		fmt.Fprintf(&w, " %s |", t.name)
	}
	w.WriteString(" beside all | with compression | without |\n|---|" + strings.Repeat("---|", len(b.tools)+3) + "\n")
	for _, row := range b.rows {
		fmt.Fprintf(&w, "| %s |", row)
		var own, best [2]float64 // without compression, with it
		for _, t := range b.tools {
			s, ok := b.median(row, t.name)
			if !ok {
				w.WriteString(" - |")
				continue
			}
			fmt.Fprintf(&w, " %.2f · %.2f · %.0f", s.wall.Seconds(), s.cpu.Seconds(), s.peak)
			if s.size > 0 {
				fmt.Fprintf(&w, " · %d", s.size>>20)
			}
			w.WriteString(" |")
			side := 0
			if t.compresses {
				side = 1
			}
			wall := s.wall.Seconds()
			switch {
			case t.name == "firn" || t.name == "firn-off":
				own[side] = wall
			case strings.HasPrefix(t.name, "firn"):
			case best[side] == 0 || wall < best[side]:
				best[side] = wall
			}
		}
		all := best[1]
		if all == 0 || best[0] > 0 && best[0] < all {
			all = best[0]
		}
		for _, r := range [][2]float64{{all, own[1]}, {best[1], own[1]}, {best[0], own[0]}} {
			if r[0] > 0 && r[1] > 0 {
				fmt.Fprintf(&w, " %.2f× |", r[0]/r[1])
			} else {
				w.WriteString(" - |")
			}
		}
		w.WriteString("\n")
	}
	return w.String()
}

// The table in a document stands between these lines.
const (
	tableBegin = "<!-- bench/backup: begin -->\n"
	tableEnd   = "<!-- bench/backup: end -->"
)

func replaceTable(path, text string) error {
	doc, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	begin, end := bytes.Index(doc, []byte(tableBegin)), bytes.Index(doc, []byte(tableEnd))
	if begin < 0 || end < begin {
		return fmt.Errorf("%s has no lines %q and %q", path, strings.TrimSpace(tableBegin), tableEnd)
	}
	out := slices.Concat(doc[:begin+len(tableBegin)], []byte(text), doc[end:])
	return os.WriteFile(path, out, 0o644)
}
