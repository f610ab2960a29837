package scan

import (
	"bufio"
	"bytes"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/go-git/go-git/v5/plumbing/format/gitignore"
	"golang.org/x/sys/unix"
)

// rules are the patterns that hold in a directory.
type rules struct {
	patterns []gitignore.Pattern // later ones win
}

// newRules parses patterns of the command line or the configuration for a walk of paths.
func newRules(patterns, paths []string) *rules {
	r := &rules{}
	for _, p := range patterns {
		body := strings.TrimPrefix(p, "!")
		if strings.HasPrefix(body, "/") || !strings.Contains(strings.TrimSuffix(body, "/"), "/") {
			r.patterns = append(r.patterns, gitignore.ParsePattern(p, nil))
			continue
		}
		for _, root := range paths {
			r.patterns = append(r.patterns, gitignore.ParsePattern(p, parts(strings.Trim(root, "/"))))
		}
	}
	return r
}

func parts(path string) []string {
	if path == "" {
		return nil
	}
	return strings.Split(path, "/")
}

func (r *rules) empty() bool { return len(r.patterns) == 0 }

// maxIgnore bounds an ignore file, in bytes.
const maxIgnore = 1 << 20

// withFile returns r with the patterns of a file in the directory dir, which is open.
func (r *rules) withFile(dirfd int, name, dir string) (*rules, error) {
	b, err := readSmall(dirfd, name, maxIgnore)
	if err != nil {
		return r, err
	}
	more := &rules{patterns: slices.Clone(r.patterns)}
	for _, line := range ParseIgnore(b) {
		more.patterns = append(more.patterns, gitignore.ParsePattern(line, parts(dir)))
	}
	return more, nil
}

// ParseIgnore returns the patterns of an ignore file: its lines without comments and empty ones.
func ParseIgnore(b []byte) []string {
	var all []string
	s := bufio.NewScanner(bytes.NewReader(b))
	s.Buffer(nil, maxIgnore+1)
	for s.Scan() {
		line := strings.TrimSuffix(s.Text(), "\r")
		if strings.TrimSpace(line) != "" && line[0] != '#' {
			all = append(all, line)
		}
	}
	return all
}

// readSmall reads a regular file of at most limit bytes.
func readSmall(dirfd int, name string, limit int64) ([]byte, error) {
	fd, err := openAt(dirfd, name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), name)
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(b)) > limit {
		err = unix.EFBIG
	}
	return b, err
}

// matcher decides about the names in one directory.
type matcher struct {
	m    gitignore.Matcher
	path []string // the last part is the name asked for
}

func (r *rules) in(dir string) *matcher {
	return &matcher{gitignore.NewMatcher(r.patterns), append(parts(dir), "")}
}

func (m *matcher) excluded(name string, isDir bool) bool {
	m.path[len(m.path)-1] = name
	return m.m.Match(m.path, isDir)
}

// Patterns are a list of patterns as of gitignore, anchored at the root.
type Patterns struct{ m gitignore.Matcher }

// NewPatterns parses them. A later one wins over an earlier one.
func NewPatterns(patterns []string) *Patterns {
	var all []gitignore.Pattern
	for _, p := range patterns {
		all = append(all, gitignore.ParsePattern(p, nil))
	}
	return &Patterns{gitignore.NewMatcher(all)}
}

// Match reports whether a path, without a leading slash, is matched itself: what is beneath a directory that is
// matched has to be asked for as that directory.
func (p *Patterns) Match(path string, isDir bool) bool { return p.m.Match(parts(path), isDir) }

// A cache tag is a file of this name that begins with this line (https://bford.info/cachedir/).
const (
	cacheTag    = "CACHEDIR.TAG"
	cacheHeader = "Signature: 8a477f597d28d172789f06886806bc55"
)

func isCacheTag(dirfd int) bool {
	fd, err := openAt(dirfd, cacheTag, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK)
	if err != nil {
		return false
	}
	f := os.NewFile(uintptr(fd), cacheTag)
	defer f.Close()
	b := make([]byte, len(cacheHeader))
	_, err = io.ReadFull(f, b)
	return err == nil && string(b) == cacheHeader
}
