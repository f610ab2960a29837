package gittree

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io/fs"
	"strings"
	"time"
	"unicode/utf8"

	"firn"
)

const (
	// metaName is the file in every directory of the tree that holds what Git cannot.
	metaName = ".firn-meta"
	// piecesPrefix begins the name of the directory that holds the pieces of a large file; the file's own follows.
	piecesPrefix = ".firn-pieces-"
	// maxMeta bounds the .firn-meta of one directory, for one to two hundred thousand entries.
	maxMeta = 64 << 20
)

// reserved tells whether a name means something to Git, to a Git host or in this layout, so that a file of that name is
// kept under another: all that case folding, ignored characters or short names could make .git of.
func reserved(name string) bool {
	low := strings.ToLower(strings.Map(func(c rune) rune {
		if c >= 0x200b && c <= 0x200f || c >= 0x202a && c <= 0x202e || c >= 0x2060 && c <= 0x206f || c == 0xfeff {
			return -1
		}
		return c
	}, name))
	return strings.HasPrefix(low, ".git") || strings.HasPrefix(low, ".firn-") || strings.HasPrefix(low, "git~") ||
		strings.HasPrefix(low, "gitmod~") || strings.HasPrefix(low, "gi7eba~")
}

// encodeName returns the name in the tree: a reserved one with a percent sign before it.
func encodeName(name string) string {
	if reserved(strings.TrimLeft(name, "%")) {
		return "%" + name
	}
	return name
}

// decodeName is the inverse. It reports false for a name that cannot be a file's: somebody else put it there.
func decodeName(name string) (string, bool) {
	plain := name
	if rest, ok := strings.CutPrefix(name, "%"); ok && reserved(strings.TrimLeft(rest, "%")) {
		plain = rest
	}
	return plain, encodeName(plain) == name && plain != "" && plain != "." && plain != ".." && !strings.ContainsAny(plain, "/\x00")
}

// meta is one line of a .firn-meta: an entry of the directory, or the directory itself under the name ".".
type meta struct {
	Name   string            `json:"name,omitempty"`
	Name64 []byte            `json:"name64,omitempty"` // instead of Name where it is not UTF-8
	Type   string            `json:"type"`             // file, dir, symlink, fifo, char, block
	Mode   uint32            `json:"mode"`             // permissions, set-user-ID and so on, as chmod takes them
	UID    int               `json:"uid"`
	GID    int               `json:"gid"`
	MTime  time.Time         `json:"mtime"`
	Xattrs map[string][]byte `json:"xattrs,omitempty"`
	Pieces bool              `json:"pieces,omitempty"`
	Link   []byte            `json:"link,omitempty"` // path of the first name of the same file
	Device uint64            `json:"device,omitempty"`
}

func (m *meta) name() string {
	if m.Name64 != nil {
		return string(m.Name64)
	}
	return m.Name
}

func (m *meta) setName(name string) {
	if utf8.ValidString(name) {
		m.Name = name
	} else {
		m.Name64 = []byte(name)
	}
}

// header is the first line of a .firn-meta.
type header struct {
	Version int `json:"firn-meta"`
}

// encodeMeta writes the lines of a directory, which come sorted.
func encodeMeta(lines []meta) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(header{1}); err != nil {
		return nil, err
	}
	for i := range lines {
		if err := e.Encode(&lines[i]); err != nil {
			return nil, err
		}
	}
	if b.Len() > maxMeta {
		return nil, firn.NewError(firn.Unsupported, "a directory has more entries than this layout takes")
	}
	return b.Bytes(), nil
}

// parseMeta reads a .firn-meta into a map by name.
func parseMeta(b []byte) (map[string]meta, error) {
	in := bufio.NewReader(bytes.NewReader(b))
	first, _ := in.ReadBytes('\n') // its end is an error of the parser
	var h header
	if err := json.Unmarshal(first, &h); err != nil {
		return nil, firn.NewError(firn.Corrupt, metaName+" does not begin with its version")
	}
	if h.Version != 1 {
		return nil, firn.NewError(firn.Unsupported, fmt.Sprintf("%s has version %d; this build knows 1", metaName, h.Version))
	}
	all := map[string]meta{}
	d := json.NewDecoder(in)
	for d.More() {
		var m meta
		if err := d.Decode(&m); err != nil {
			return nil, firn.NewError(firn.Corrupt, metaName+" has a line that cannot be read")
		}
		name := m.name()
		if _, twice := all[name]; twice || name == "" || name == ".." || strings.ContainsAny(name, "/\x00") {
			return nil, firn.NewError(firn.Corrupt, metaName+" has an impossible or repeated name")
		}
		all[name] = m
	}
	return all, nil
}

// modeBits are the permissions as chmod takes them.
func modeBits(m fs.FileMode) uint32 {
	bits := uint32(m.Perm())
	for flag, bit := range map[fs.FileMode]uint32{fs.ModeSetuid: 0o4000, fs.ModeSetgid: 0o2000, fs.ModeSticky: 0o1000} {
		if m&flag != 0 {
			bits |= bit
		}
	}
	return bits
}

// fileMode is the inverse of modeBits.
func fileMode(bits uint32) fs.FileMode {
	m := fs.FileMode(bits & 0o777)
	for flag, bit := range map[fs.FileMode]uint32{fs.ModeSetuid: 0o4000, fs.ModeSetgid: 0o2000, fs.ModeSticky: 0o1000} {
		if bits&bit != 0 {
			m |= flag
		}
	}
	return m
}
