package sidecar

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/zeebo/blake3"
	"golang.org/x/sys/unix"

	"firn/archive"
	"firn/blob"
)

// stage makes a copy of dir whose SQLite databases were copied through SQLite, for targets that keep files as they
// find them. It returns "" where there is no database in dir, which can be taken as it is then.
func stage(ctx context.Context, dir string, skip func(string, bool) bool) (_ string, err error) {
	databases := map[string]bool{}
	if err := walk(ctx, dir, skip, func(rel string, e fs.DirEntry) error {
		if !e.Type().IsRegular() {
			return nil
		}
		yes, err := archive.IsDatabase(filepath.Join(dir, rel))
		if yes {
			databases[rel] = true
		}
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) {
			err = nil // gone meanwhile; or whoever copies it tells
		}
		return err
	}); err != nil || len(databases) == 0 {
		return "", err
	}
	temp, err := os.MkdirTemp("", "firn-stage-")
	if err != nil {
		return "", err
	}
	defer func() {
		if err != nil {
			_ = os.RemoveAll(temp) // the first error counts
		}
	}()
	var dirs []string
	err = walk(ctx, dir, skip, func(rel string, e fs.DirEntry) error {
		from, to := filepath.Join(dir, rel), filepath.Join(temp, rel)
		if base, ok := archive.DatabaseLog(rel); ok && databases[base] {
			return nil
		}
		var err error
		switch {
		case e.IsDir():
			dirs = append(dirs, rel)
			err = os.Mkdir(to, 0o700)
			return err // its metadata comes when it is filled
		case databases[rel]:
			err = archive.CopyDatabase(ctx, from, to)
		case e.Type().IsRegular():
			err = copyFile(from, to)
		case e.Type()&fs.ModeSymlink != 0:
			var target string
			if target, err = os.Readlink(from); err == nil {
				err = os.Symlink(target, to)
			}
		default:
			return nil // sockets and devices are not for readable trees
		}
		if err == nil {
			err = copyMeta(from, to)
		}
		if errors.Is(err, fs.ErrNotExist) {
			err = nil // gone meanwhile
		}
		if err != nil {
			err = fmt.Errorf("%s: %w", from, err)
		}
		return err
	})
	for i := len(dirs) - 1; err == nil && i >= 0; i-- {
		err = copyMeta(filepath.Join(dir, dirs[i]), filepath.Join(temp, dirs[i]))
	}
	if err == nil {
		err = copyMeta(dir, temp)
	}
	return temp, err
}

// walk calls fn for what is beneath dir and not left out, a directory before what is in it.
func walk(ctx context.Context, dir string, skip func(string, bool) bool, fn func(rel string, e fs.DirEntry) error) error {
	return filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		rel := strings.TrimPrefix(strings.TrimPrefix(path, dir), "/")
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.Is(err, fs.ErrNotExist) && rel != "":
			return nil
		case err != nil:
			return blob.FileError(err)
		case rel == "":
			return nil
		case skip(rel, e.IsDir()):
			if e.IsDir() {
				return fs.SkipDir
			}
			return nil
		}
		return fn(rel, e)
	})
}

func copyFile(from, to string) error {
	src, err := os.Open(from)
	if err != nil {
		return err
	}
	defer src.Close()
	dst, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(dst, src)
	return errors.Join(err, dst.Close())
}

// copyMeta gives to the owner, mode, extended attributes and time of from. What a lack of rights prevents is left out.
func copyMeta(from, to string) error {
	var st unix.Stat_t
	if err := unix.Lstat(from, &st); err != nil {
		return err
	}
	if err := unix.Lchown(to, int(st.Uid), int(st.Gid)); err != nil && !errors.Is(err, unix.EPERM) {
		return err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFLNK {
		if err := unix.Chmod(to, st.Mode&0o7777); err != nil {
			return err
		}
	}
	names := make([]byte, 64<<10)
	if n, err := unix.Llistxattr(from, names); err == nil {
		value := make([]byte, 64<<10)
		for name := range strings.SplitSeq(strings.Trim(string(names[:n]), "\x00"), "\x00") {
			if k, err := unix.Lgetxattr(from, name, value); name != "" && err == nil {
				_ = unix.Lsetxattr(to, name, value[:k], 0) // a label the system gives, or not ours to set
			}
		}
	}
	return unix.UtimesNanoAt(unix.AT_FDCWD, to, []unix.Timespec{{Nsec: unix.UTIME_OMIT}, st.Mtim}, unix.AT_SYMLINK_NOFOLLOW)
}

// replace puts what is in fresh, a directory in dir, in the place of what is in dir, which goes, but for what is left
// out. After an error or a crash the whole restore is done again.
func replace(dir, fresh string, skip func(string, bool) bool) error {
	if err := clear(dir, "", skip); err != nil {
		return blob.FileError(err)
	}
	if err := moveInto(fresh, dir); err != nil {
		return blob.FileError(err)
	}
	if err := copyMeta(fresh, dir); err != nil {
		return blob.FileError(err)
	}
	if err := os.RemoveAll(fresh); err != nil {
		return blob.FileError(err)
	}
	d, err := os.Open(dir)
	if err != nil {
		return blob.FileError(err)
	}
	return errors.Join(unix.Syncfs(int(d.Fd())), d.Close())
}

// clear removes what is in dir/rel and not left out. Directories that still hold something stay.
func clear(dir, rel string, skip func(string, bool) bool) error {
	entries, err := os.ReadDir(filepath.Join(dir, rel))
	if err != nil {
		return err
	}
	for _, e := range entries {
		name := filepath.Join(rel, e.Name())
		if skip(name, e.IsDir()) {
			continue
		}
		if e.IsDir() {
			if err := clear(dir, name, skip); err != nil {
				return err
			}
		}
		err := os.Remove(filepath.Join(dir, name))
		if err != nil && !(e.IsDir() && errors.Is(err, unix.ENOTEMPTY)) {
			return err
		}
	}
	return nil
}

// moveInto renames what is in from into the directory to; directories that are there are filled.
func moveInto(from, to string) error {
	entries, err := os.ReadDir(from)
	if err != nil {
		return err
	}
	for _, e := range entries {
		a, b := filepath.Join(from, e.Name()), filepath.Join(to, e.Name())
		if info, err := os.Lstat(b); e.IsDir() && err == nil && info.IsDir() {
			if err := errors.Join(moveInto(a, b), copyMeta(a, b)); err != nil {
				return err
			}
			continue
		}
		// A directory's own entry "..", which a rename rewrites, must not cost it its time.
		if err := os.Rename(a, b); err != nil {
			return err
		}
	}
	return nil
}

// contents is a digest of all that a directory holds: names, types, modes, owners, content, targets of links and, for
// files, times.
func contents(ctx context.Context, dir string, rules Rules) (sum [32]byte, err error) {
	h := blake3.New()
	skip := rules.Skip()
	databases := map[string]bool{}
	err = walk(ctx, dir, skip, func(rel string, e fs.DirEntry) error {
		path := filepath.Join(dir, rel)
		if base, ok := archive.DatabaseLog(rel); ok && databases[base] {
			return nil
		}
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return err
		}
		b := append([]byte(rel), 0)
		fields := []uint64{uint64(st.Mode), uint64(st.Uid), uint64(st.Gid)}
		switch {
		case e.Type()&fs.ModeSymlink != 0:
			target, err := os.Readlink(path)
			if err != nil {
				return err
			}
			b = append(b, target...)
		case e.Type().IsRegular():
			if yes, err := archive.IsDatabase(path); err != nil {
				return err
			} else if yes {
				databases[rel] = true
			}
			fields = append(fields, uint64(st.Mtim.Sec), uint64(st.Mtim.Nsec), uint64(st.Size))
		}
		for _, n := range fields {
			b = binary.LittleEndian.AppendUint64(b, n)
		}
		_, _ = h.Write(b) // never fails
		if !e.Type().IsRegular() {
			return nil
		}
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		_, err = io.Copy(h, f)
		return errors.Join(err, f.Close())
	})
	h.Sum(sum[:0])
	return sum, err
}
