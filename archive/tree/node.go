// Package tree owns how the files of a backup are described inside a repository: one sorted sequence of nodes, cut
// into pages at content-defined places, with pages of references above them. docs/format/file-tree.md is its format.
//
// It promises that equal sequences give equal pages, that a small change of a large tree rewrites few pages, that
// memory is bounded whatever the size of the tree or of a directory, and that no bytes of a repository make it hand
// out a path that leaves its root or nodes that are out of order. It does not touch the file system and must never
// import the packages that do.
package tree

import (
	"strings"

	"firn/repo"
)

// Type is what sort of file a node describes.
type Type byte

// Types of nodes. The values are those of find -type.
const (
	File        Type = 'f'
	Dir         Type = 'd'
	Symlink     Type = 'l'
	FIFO        Type = 'p'
	Socket      Type = 's'
	CharDevice  Type = 'c'
	BlockDevice Type = 'b'
)

func (t Type) valid() bool {
	switch t {
	case File, Dir, Symlink, FIFO, Socket, CharDevice, BlockDevice:
		return true
	}
	return false
}

// Time is a file's time: the seconds reach further than a time.Time in nanoseconds would.
type Time struct {
	Sec  int64
	Nsec uint32 // below 1e9
}

// Xattr is one extended attribute.
type Xattr struct {
	Name  string
	Value []byte
}

// Hole is a range of a sparse file that is not stored and reads as zeros.
type Hole struct{ Offset, Length int64 }

// Node is one file, directory, link or special file.
type Node struct {
	// Path is relative to the root of the snapshot, its parts separated by slashes, and bytes as the file system had
	// them: not always UTF-8.
	Path string
	Type Type
	// Mode holds the permission, setuid, setgid and sticky bits: 07777.
	Mode        uint32
	UID, GID    uint32
	User, Group string // "" where the ids have no names
	Mtime       Time
	Ctime       Time
	Inode       uint64
	Device      uint64
	Links       uint64 // number of hard links, 1 or more
	Rdev        uint64 // of devices
	Target      string // of symbolic links
	Xattrs      []Xattr

	// Size of a regular file in bytes, holes included.
	Size    int64
	Content Content
	Holes   []Hole // ascending, not touching each other, within Size

	// Changed: the file was changed while it was read, again and again, so that the content may be a mixture.
	Changed bool
	// Recent: the file was changed so shortly before it was read that a later change might have left the same times.
	// It is read again by the next backup.
	Recent bool
	// Database: the content is what SQLite's backup interface gave, not the bytes of the file at one time.
	Database bool
	// Err says why the content or the directory could not be read; the node then has none.
	Err string
}

// Content says where the bytes of a file are that are no hole: inline, in chunks, or in chunks named by a list.
type Content struct {
	Inline []byte
	Chunks []repo.ID
	Sizes  []uint32 // of Chunks; nil where there is at most one
	List   *repo.ID // the root of a list of chunks, for content of more than MaxChunks
}

// Stored returns how many bytes of the file are content: its size less its holes.
func (n *Node) Stored() int64 {
	s := n.Size
	for _, h := range n.Holes {
		s -= h.Length
	}
	return s
}

// Name returns the last part of the path.
func (n *Node) Name() string { return n.Path[strings.LastIndexByte(n.Path, '/')+1:] }

// Compare orders paths: part by part, each by its bytes, so that what a directory holds follows it at once.
func Compare(a, b string) int {
	n := min(len(a), len(b))
	for i := range n {
		if x, y := a[i], b[i]; x != y {
			// No name contains a zero byte, so the separator can sort as one.
			if x == '/' {
				x = 0
			}
			if y == '/' {
				y = 0
			}
			if x < y {
				return -1
			}
			return 1
		}
	}
	return len(a) - len(b)
}

// Within reports whether path is dir or beneath it. Everything is within "".
func Within(path, dir string) bool {
	return dir == "" || strings.HasPrefix(path, dir) && (len(path) == len(dir) || path[len(dir)] == '/')
}

// ValidPath reports whether path can be a node's: parts that are names, one slash between them.
func ValidPath(path string) bool {
	if path == "" || len(path) > maxPath || strings.IndexByte(path, 0) >= 0 {
		return false
	}
	for part := range strings.SplitSeq(path, "/") {
		if part == "" || part == "." || part == ".." {
			return false
		}
	}
	return true
}
