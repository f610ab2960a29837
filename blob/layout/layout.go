// Package layout is how blobs are kept as files of a tree that a protocol serves: SFTP, WebDAV. It is the layout of the
// file driver, so that a place is the same through each of them.
//
// It owns the names of files (docs/format/blob-file.md) and the order of a walk. It promises that a walk shows the keys
// in their byte order with one directory of each level in memory. It must never import a driver.
package layout

import (
	"context"
	"slices"
	"strings"
	"time"

	"firn/blob/driver"
)

const (
	// Marker is the file that shows that a directory is a place, and Version its content.
	Marker  = ".firn-place"
	Version = "firn place 1\n"
	// Temp is the directory of unfinished puts.
	Temp = ".firn-tmp"
)

// Entry is a file or directory, as the protocol lists it.
type Entry struct {
	Name     string
	Dir      bool
	Size     int64
	Modified time.Time
}

// ReadDir returns what is in the directory at a path below the root, "" for the root; nothing where it is not there.
type ReadDir func(ctx context.Context, path string) ([]Entry, error)

// Walk shows the blobs whose keys begin with prefix, in ascending byte order.
func Walk(ctx context.Context, prefix string, read ReadDir, fn func(driver.Info) error) error {
	dir, base, ok := WalkStart(prefix)
	if !ok {
		return nil
	}
	return walk(ctx, dir, base, prefix, read, fn)
}

// found is an entry with what its keys are or begin with.
type found struct {
	key, path string
	Entry
}

func walk(ctx context.Context, dir, base, prefix string, read ReadDir, fn func(driver.Info) error) error {
	entries, err := read(ctx, dir)
	if err != nil {
		return err
	}
	all := make([]found, 0, len(entries))
	for _, e := range entries {
		if strings.HasPrefix(e.Name, ".firn-") || strings.HasPrefix(e.Name, ".nfs") {
			continue
		}
		piece, goesOn, ok := DecodeName(e.Name)
		if !ok || goesOn && !e.Dir {
			continue
		}
		f := found{base + piece, Join(dir, e.Name), e}
		if e.Dir && !goesOn {
			f.key += "/"
		}
		if strings.HasPrefix(f.key, prefix) || e.Dir && strings.HasPrefix(prefix, f.key) {
			all = append(all, f)
		}
	}
	slices.SortFunc(all, func(a, b found) int { return strings.Compare(a.key, b.key) })
	for _, f := range all {
		if err := ctx.Err(); err != nil {
			return err
		}
		if f.Dir {
			err = walk(ctx, f.path, f.key, prefix, read, fn)
		} else {
			err = fn(driver.Info{Key: f.key, Size: f.Size, Modified: f.Modified})
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// Join puts a name below a directory, "" being the root.
func Join(dir, name string) string {
	if dir == "" {
		return name
	}
	return dir + "/" + name
}
