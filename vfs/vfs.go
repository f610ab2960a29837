// Package vfs is the file system that everything durable goes through: the metadata engine and the part files
// share one, so that one crash clone or one injected fault covers both.
//
// It owns the choice of interface (Pebble's), the in-memory file system that forgets what was not synced, the
// tap that records, observes and breaks operations, and the lock of a data directory. It promises that a crash
// clone keeps only what was synced: file contents after a sync of the file, names after a sync of their
// directory. It must never import another package of this module besides the vocabulary at the root.
package vfs

import (
	"errors"
	"io"
	"io/fs"
	"path"
	"strings"
	"syscall"
	"unsafe"

	"github.com/cockroachdb/pebble/v2/vfs"

	"firn"
)

// FS is a file system. It is Pebble's interface, whose comments are the contract.
type FS = vfs.FS

// File is an open file or directory of an FS. Write and Sync are called by one goroutine at a time.
type File = vfs.File

// FileInfo describes a file.
type FileInfo = vfs.FileInfo

// WriteCategory labels who writes a file, for the metrics of disk health.
type WriteCategory = vfs.DiskWriteCategory

const (
	// CategoryPart is the category of part files.
	CategoryPart WriteCategory = "firn-part"
	// CategoryState is the category of small state files.
	CategoryState WriteCategory = "firn-state"
)

// InvalidFd is what File.Fd returns for a file without a descriptor.
const InvalidFd = vfs.InvalidFd

// DirectAlign is the alignment of addresses, lengths and offsets in bytes that every direct I/O satisfies.
const DirectAlign = 4096

// DirectAligned reports whether the address of p suits direct I/O. Large allocations of Go do.
func DirectAligned(p []byte) bool {
	return uintptr(unsafe.Pointer(unsafe.SliceData(p)))%DirectAlign == 0
}

// OS returns the operating system's file system.
func OS() FS { return vfs.Default }

// ReadFile returns the content of a file.
func ReadFile(fsys FS, name string) ([]byte, error) {
	f, err := fsys.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(f)
}

// SyncDir makes the names in dir durable.
func SyncDir(fsys FS, dir string) error {
	d, err := fsys.OpenDir(dir)
	if err != nil {
		return err
	}
	err = d.Sync()
	// The error of a close after a sync tells nothing about the directory.
	_ = d.Close()
	return err
}

// MkdirAllSync makes dir and its missing parents and makes each new name durable, so that a file synced in dir
// can be reached after a crash.
func MkdirAllSync(fsys FS, dir string, perm fs.FileMode) error {
	dir = strings.TrimRight(dir, "/")
	// The parents whose entries must be synced are those of the directories that did not exist.
	var parents []string
	for d := dir; d != "" && d != "." && d != "/"; {
		_, err := fsys.Stat(d)
		if err == nil {
			break
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		d = fsys.PathDir(d)
		parents = append(parents, d)
	}
	if err := fsys.MkdirAll(dir, perm); err != nil {
		return err
	}
	for i := len(parents) - 1; i >= 0; i-- {
		p := parents[i]
		if p == "" {
			p = "."
		}
		if err := SyncDir(fsys, p); err != nil {
			return err
		}
	}
	return nil
}

// ErrLocked is returned by LockDir for a directory that another process, or another site in this one, holds.
var ErrLocked = firn.NewError(firn.Conflict, "the data directory is in use by another process")

// LockName is the name of the lock file in a data directory.
const LockName = "LOCK.firn"

// LockDir takes the exclusive lock of a data directory until the Closer is closed or the process ends.
// ErrLocked where somebody else holds it.
func LockDir(fsys FS, dir string) (io.Closer, error) {
	c, err := fsys.Lock(path.Join(dir, LockName))
	if err == nil {
		return c, nil
	}
	// Pebble's lock has no error of its own for "held": it is EAGAIN or EACCES from another process, and an error
	// without a number from this one. A file that cannot be made is an *fs.PathError.
	var errno syscall.Errno
	if errors.As(err, new(*fs.PathError)) ||
		errors.As(err, &errno) && errno != syscall.EAGAIN && errno != syscall.EACCES {
		return nil, firn.E("lock", dir, err)
	}
	return nil, firn.E("lock", dir, ErrLocked)
}

// IsNoSpace reports whether err says that the disk or a quota is full.
func IsNoSpace(err error) bool { return err != nil && vfs.IsNoSpaceError(err) }
