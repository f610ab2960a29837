//go:build !linux

package gittree

import (
	"errors"
	"io/fs"
	"os"
	"time"
)

// On other systems content, permissions and times are kept, and nothing that only some of them have.
const noFollow = 0

func identity(fs.FileInfo) (device, inode, links uint64) { return 0, 0, 1 }

func changeTime(fs.FileInfo) time.Time { return time.Time{} }

func owner(fs.FileInfo) (uid, gid int, device uint64) { return os.Getuid(), os.Getgid(), 0 }

func readXattrs(string) (map[string][]byte, error) { return nil, nil }

func setXattrs(_ string, all map[string][]byte) error {
	if len(all) > 0 {
		return errors.ErrUnsupported
	}
	return nil
}

func setTime(path string, t time.Time) error {
	if fi, err := os.Lstat(path); err == nil && fi.Mode()&fs.ModeSymlink != 0 {
		return nil
	}
	return os.Chtimes(path, t, t)
}

func makeSpecial(string, string, uint64) error { return errors.ErrUnsupported }

func syncAll(string) error { return nil }

func isNoSpace(error) bool { return false }

func isIO(error) bool { return false }
