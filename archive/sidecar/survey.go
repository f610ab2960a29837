package sidecar

import (
	"context"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/zeebo/blake3"

	"firn/archive"
	"firn/archive/scan"
	"firn/archive/tree"
)

// Rules say what of the directory is its data, by patterns as in a .gitignore file in the directory.
type Rules struct {
	// Include, where there are any, chooses files; all others are left out.
	Include []string
	// Exclude leaves out.
	Exclude []string
}

// Patterns are the rules as patterns of what to leave out, a later one winning over an earlier one. The sidecar's own
// files are left out in any case.
func (r Rules) Patterns() []string {
	var all []string
	if len(r.Include) > 0 {
		all = append(all, "*", "!*/")
		for _, p := range r.Include {
			p = strings.TrimSuffix(p, "/")
			all = append(all, "!"+p, "!"+p+"/**")
		}
	}
	all = append(all, r.Exclude...)
	// What a fresh file system and an unfinished restore have.
	return append(all, "/lost+found/", StateFile, stateTemp+"*", "/"+archive.Marker)
}

// At is Patterns with those that are anchored in the directory anchored at its path, for package archive.
func (r Rules) At(dir string) []string {
	root := "/" + escapePattern(strings.Trim(dir, "/"))
	all := r.Patterns()
	for i, p := range all {
		body, negated := strings.CutPrefix(p, "!")
		if !strings.Contains(strings.TrimSuffix(body, "/"), "/") {
			continue
		}
		all[i] = root + "/" + strings.TrimPrefix(body, "/")
		if negated {
			all[i] = "!" + all[i]
		}
	}
	return all
}

// escapePattern makes a path a pattern that matches nothing else.
func escapePattern(path string) string {
	return strings.NewReplacer(`\`, `\\`, "*", `\*`, "?", `\?`, "[", `\[`).Replace(path)
}

// Skip reports for a path within the directory whether it is left out; what is beneath one that is left out need not
// be asked for.
func (r Rules) Skip() func(path string, dir bool) bool { return scan.NewPatterns(r.Patterns()).Match }

// Survey is what the directory holds, by a walk that reads no content.
type Survey struct {
	// Entries, Files (regular ones) and Bytes (of those). Logs of SQLite, which come and go, count as entries only.
	Entries, Files, Bytes int64
	// Digest changes with any change but that of a directory's time.
	Digest [32]byte
}

// survey walks the directory. It fails where a part of it cannot be listed: less than all must not look like all.
func (d *directory) survey(ctx context.Context) (Survey, error) {
	var v Survey
	h := blake3.New()
	var b []byte
	prefix := strings.Trim(d.path, "/") + "/"
	err := scan.Walk(ctx, []string{d.path}, scan.Options{Excludes: d.rules.At(d.path)}, func(e *scan.Entry) error {
		rel, below := strings.CutPrefix(e.Path, prefix)
		if e.Err != nil {
			if below && os.IsNotExist(e.Err) {
				return nil // removed meanwhile
			}
			return fmt.Errorf("/%s: %w", e.Path, e.Err)
		}
		if !below {
			return nil
		}
		m := &e.Meta
		typ := m.Type()
		if strings.HasSuffix(rel, "-shm") && typ == tree.File {
			return nil // SQLite's shared memory: it changes when a database is read, and is no data
		}
		v.Entries++
		if _, log := archive.DatabaseLog(rel); typ == tree.File && !log {
			v.Files++
			v.Bytes += m.Size
		} else if log && m.Size == 0 {
			return nil // comes and goes when a database is read
		}
		b = append(append(b[:0], rel...), 0)
		for _, n := range []uint64{uint64(m.Mode), uint64(m.UID), uint64(m.GID), m.Rdev} {
			b = binary.LittleEndian.AppendUint64(b, n)
		}
		if typ != tree.Dir {
			for _, n := range []uint64{
				uint64(m.Size), m.Inode, uint64(m.Mtime.Sec), uint64(m.Mtime.Nsec), uint64(m.Ctime.Sec), uint64(m.Ctime.Nsec),
			} {
				b = binary.LittleEndian.AppendUint64(b, n)
			}
		}
		_, _ = h.Write(b) // never fails
		return nil
	})
	h.Sum(v.Digest[:0])
	return v, err
}

// inUse says which process has a file beneath dir open for writing, or runs a PostgreSQL server in it; "" for none that
// can be seen. Processes in other containers cannot, unless they share the namespace of process ids.
func inUse(dir string) (string, error) {
	if resolved, err := filepath.EvalSymlinks(dir); err == nil {
		dir = resolved
	}
	self := os.Getpid()
	procs, err := os.ReadDir("/proc")
	if err != nil {
		return "", nil // no such file system: nothing can be known
	}
	for _, p := range procs {
		pid, err := strconv.Atoi(p.Name())
		if err != nil || pid == self {
			continue
		}
		fds, err := os.ReadDir(filepath.Join("/proc", p.Name(), "fd"))
		if err != nil {
			continue // ended meanwhile, or another user's
		}
		for _, fd := range fds {
			name, err := os.Readlink(filepath.Join("/proc", p.Name(), "fd", fd.Name()))
			if err != nil || !strings.HasPrefix(name, dir+"/") {
				continue
			}
			if writes(p.Name(), fd.Name()) {
				return process(pid) + ", which has " + strings.TrimPrefix(name, dir+"/") + " open", nil
			}
		}
	}
	return postmaster(dir), nil
}

// writes reports whether a file is open for writing, by the access mode in its flags.
func writes(pid, fd string) bool {
	b, err := os.ReadFile(filepath.Join("/proc", pid, "fdinfo", fd))
	if err != nil {
		return false
	}
	for line := range strings.Lines(string(b)) {
		if s, ok := strings.CutPrefix(line, "flags:"); ok {
			flags, err := strconv.ParseUint(strings.TrimSpace(s), 8, 64)
			return err == nil && flags&uint64(os.O_WRONLY|os.O_RDWR) != 0
		}
	}
	return false
}

func process(pid int) string {
	name, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
	if err != nil {
		return fmt.Sprintf("process %d", pid)
	}
	return fmt.Sprintf("%s (process %d)", strings.TrimSpace(string(name)), pid)
}

// postmaster looks for the lock file of a PostgreSQL server that runs.
func postmaster(dir string) string {
	b, err := os.ReadFile(filepath.Join(dir, "postmaster.pid"))
	if err != nil {
		return ""
	}
	first, _, _ := strings.Cut(string(b), "\n")
	pid, err := strconv.Atoi(strings.TrimSpace(first))
	if err != nil || pid <= 0 {
		return ""
	}
	if _, err := os.Stat(fmt.Sprintf("/proc/%d", pid)); err != nil {
		return ""
	}
	return process(pid) + ", which postmaster.pid names"
}
