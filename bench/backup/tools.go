package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// tool is a backup program. Each function returns the arguments of a command; work is a directory of the tool's own.
type tool struct {
	name, version, bin string
	compresses         bool
	sync               string // what is synced before the command ends
	env                func(work string) []string
	initialise         func(work string) [][]string // commands, in order
	backup             func(work, dir string) []string
	restore            func(work, dir, target string) []string
	forget             func(work string) []string // drops all snapshots but the last and frees their space
}

const password = "bench-password"

func repoDir(work string) string { return filepath.Join(work, "repo") }

func firn(bin string) tool {
	return tool{
		name: "firn", version: "built from source", bin: bin, compresses: true,
		sync: "packs, index, snapshot and their directories synced",
		env: func(work string) []string {
			return []string{"FIRN_REPO=file:" + repoDir(work), "FIRN_REPO_PASSWORD=" + password, "XDG_CACHE_HOME=" + filepath.Join(work, "cache")}
		},
		initialise: func(string) [][]string { return [][]string{{"repo", "init"}} },
		backup:     func(_, dir string) []string { return []string{"backup", dir} },
		restore:    func(_, dir, target string) []string { return []string{"restore", "latest", "--target", target} },
		forget:     func(string) []string { return []string{"forget", "--keep-last", "1", "--prune"} },
	}
}

// withCompression is Firn with the compression that the name ends in: off is how kopia comes.
func withCompression(t tool, name string) tool {
	_, level, ok := strings.Cut(name, "-")
	if !ok {
		return t
	}
	t.name, t.compresses, t.sync = name, level != "off", "as firn, with --compression "+level
	env := t.env
	t.env = func(work string) []string { return append(env(work), "FIRN_REPO_COMPRESSION="+level) }
	return t
}

func restic(bin string) tool {
	return tool{
		name: "restic", bin: bin, compresses: true, sync: "packs, index and snapshot synced",
		env: func(work string) []string {
			return []string{"RESTIC_REPOSITORY=" + repoDir(work), "RESTIC_PASSWORD=" + password, "RESTIC_CACHE_DIR=" + filepath.Join(work, "cache")}
		},
		initialise: func(string) [][]string { return [][]string{{"init", "-q"}} },
		backup:     func(_, dir string) []string { return []string{"backup", "-q", dir} },
		restore:    func(_, dir, target string) []string { return []string{"restore", "-q", "latest", "--target", target} },
		forget:     func(string) []string { return []string{"forget", "-q", "--keep-last", "1", "--prune"} },
	}
}

func kopia(bin string) tool {
	common := func(work string, args ...string) []string {
		return append(args, "--config-file", filepath.Join(work, "kopia.config"), "--log-dir", filepath.Join(work, "log"),
			"--no-progress", "--log-level", "error")
	}
	return tool{
		name: "kopia", bin: bin, sync: "files synced as it does by default; no compression (its default)",
		env: func(work string) []string {
			return []string{"KOPIA_PASSWORD=" + password, "KOPIA_CHECK_FOR_UPDATES=false", "KOPIA_CACHE_DIRECTORY=" + filepath.Join(work, "cache")}
		},
		initialise: func(work string) [][]string {
			return [][]string{common(work, "repository", "create", "filesystem", "--path", repoDir(work))}
		},
		backup: func(work, dir string) []string { return common(work, "snapshot", "create", dir) },
		restore: func(work, dir, target string) []string {
			return common(work, "snapshot", "restore", dir, target, "--snapshot-time", "latest")
		},
		forget: nil, // its maintenance frees nothing before a day has passed
	}
}

// zstd is kopia as Firn and restic come: with compression.
func zstd(bin string) tool {
	t := kopia(bin)
	t.name, t.compresses = "kopia-zstd", true
	t.sync = "as kopia, with zstd compression"
	create := t.initialise
	t.initialise = func(work string) [][]string {
		c := create(work)[0]
		set := append([]string{"policy", "set", "--global", "--compression", "zstd"}, c[5:]...)
		return [][]string{c, set}
	}
	return t
}

// usage is what one command took.
type usage struct {
	wall, cpu time.Duration
	peak      float64 // MiB of resident memory
}

// do runs one command of the tool to its end.
func (t tool) do(ctx context.Context, work string, args []string) (u usage, err error) {
	cmd := exec.CommandContext(ctx, t.bin, args...)
	cmd.Env = append(os.Environ(), t.env(work)...)
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	begin := time.Now()
	if err := cmd.Run(); err != nil {
		return u, fmt.Errorf("%s %s: %w\n%s", t.name, strings.Join(args, " "), err, out.String())
	}
	u.wall = time.Since(begin)
	u.cpu = cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
	if r, ok := cmd.ProcessState.SysUsage().(*syscall.Rusage); ok {
		u.peak = float64(r.Maxrss) / 1024
	}
	return u, nil
}

// treeSize returns the bytes of all files below dir.
func treeSize(dir string) (n int64, err error) {
	err = filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		info, err := d.Info()
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err == nil {
			n += info.Size()
		}
		return err
	})
	return n, err
}
