package archive_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"firn/archive"
	"firn/archive/scan"
	"firn/blob"
	"firn/blob/memblob"
	"firn/repo"
	"firn/seal"
)

// newRepo makes a repository in memory whose password costs nothing worth mentioning.
func newRepo(t *testing.T) *repo.Repo {
	t.Helper()
	store := blob.New(memblob.New(memblob.Options{}), "mem:")
	r, err := repo.Init(t.Context(), store, []byte("secret"), repo.InitOptions{Cost: seal.Cost{Time: 1, Memory: 8 << 10, Threads: 1}, Reserve: -1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	})
	return r
}

func backup(t *testing.T, r *repo.Repo, o archive.BackupOptions) archive.BackupResult {
	t.Helper()
	res, err := archive.Backup(t.Context(), r, o)
	if err != nil {
		t.Fatal(err)
	}
	return res
}

func restore(t *testing.T, r *repo.Repo, s repo.Snapshot, o archive.RestoreOptions) archive.RestoreSummary {
	t.Helper()
	o.NoSync = true
	if o.Report == nil {
		o.Report = func(e archive.Event) {
			if e.Err != nil {
				t.Errorf("%s %s: %v", e.What, e.Path, e.Err)
			}
		}
	}
	sum, err := archive.Restore(t.Context(), r, s, o)
	if err != nil {
		t.Fatal(err)
	}
	return sum
}

// describe returns a line for each file beneath dir that says all a restore must bring back.
func describe(t *testing.T, dir string) []string {
	t.Helper()
	var lines []string
	inodes := map[uint64]string{}
	err := scan.Walk(t.Context(), []string{dir}, scan.Options{}, func(e *scan.Entry) error {
		rel, ok := strings.CutPrefix("/"+e.Path, dir+"/")
		if !ok {
			return nil
		}
		if e.Err != nil {
			return e.Err
		}
		m := &e.Meta
		path := filepath.Join(dir, rel)
		line := fmt.Sprintf("%q %c %o %d:%d %v", rel, m.Type(), m.Mode, m.UID, m.GID, m.Mtime)
		switch m.Type() {
		case 'f':
			b, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			line += fmt.Sprintf(" %d bytes %x", len(b), fnv(b))
			if m.Links > 1 {
				if inodes[m.Inode] == "" {
					inodes[m.Inode] = rel
				}
				line += fmt.Sprintf(" = %q", inodes[m.Inode])
			}
			if m.Size > 1<<20 && m.Blocks*512 < m.Size/2 {
				line += " sparse"
			}
		case 'l':
			target, err := e.Readlink()
			if err != nil {
				return err
			}
			line += fmt.Sprintf(" -> %q", target)
		case 'c', 'b':
			line += fmt.Sprint(" device ", m.Rdev)
		}
		xs, err := scan.Xattrs(e)
		if err != nil {
			return err
		}
		for _, x := range xs {
			line += fmt.Sprintf(" %s=%q", x.Name, x.Value)
		}
		lines = append(lines, line)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return lines
}

func fnv(b []byte) uint64 {
	h := uint64(14695981039346656037)
	for _, c := range b {
		h = (h ^ uint64(c)) * 1099511628211
	}
	return h
}

func compare(t *testing.T, want, got []string) {
	t.Helper()
	if slices.Equal(want, got) {
		return
	}
	for _, l := range want {
		if !slices.Contains(got, l) {
			t.Errorf("missing: %s", l)
		}
	}
	for _, l := range got {
		if !slices.Contains(want, l) {
			t.Errorf("extra:   %s", l)
		}
	}
}

func writeFile(t *testing.T, path string, b []byte) {
	t.Helper()
	if err := os.WriteFile(path, b, 0o644); err != nil {
		t.Fatal(err)
	}
}

func randomBytes(r *rand.Rand, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return b
}

// randomTree fills dir with files of all sorts. Only root can make devices and owners: these tests are run by root too.
func randomTree(t *testing.T, r *rand.Rand, dir string, n int) {
	t.Helper()
	dirs := []string{dir}
	var files []string
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	for i := range n {
		path := filepath.Join(dirs[r.IntN(len(dirs))], fmt.Sprintf("%c\xff-%d", 'a'+r.IntN(26), i))
		switch r.IntN(12) {
		case 0, 1:
			must(os.Mkdir(path, 0o755))
			dirs = append(dirs, path)
		case 2:
			must(os.Symlink(strings.Repeat("../x", r.IntN(10))+"/y", path))
		case 3:
			must(unix.Mkfifo(path, 0o640))
		case 4:
			if len(files) > 0 {
				must(os.Link(files[r.IntN(len(files))], path))
			}
		case 5: // sparse
			f, err := os.Create(path)
			must(err)
			for range r.IntN(4) {
				_, err := f.WriteAt(randomBytes(r, 1+r.IntN(20000)), r.Int64N(8<<20))
				must(err)
			}
			must(f.Truncate(r.Int64N(9 << 20)))
			must(f.Close())
			files = append(files, path)
		case 6:
			b := randomBytes(r, 300<<10+r.IntN(5<<20))
			if r.IntN(2) == 0 {
				b = bytes.Repeat(b[:1<<10], len(b)>>10)
			}
			writeFile(t, path, b)
			files = append(files, path)
		case 7:
			writeFile(t, path, randomBytes(r, r.IntN(archive.MaxInline+2)))
			files = append(files, path)
		case 8:
			if os.Geteuid() == 0 {
				must(unix.Mknod(path, unix.S_IFCHR|0o600, int(unix.Mkdev(1, uint32(r.IntN(9))))))
			}
		default:
			writeFile(t, path, randomBytes(r, r.IntN(100<<10)))
			files = append(files, path)
		}
		if _, err := os.Lstat(path); err != nil {
			continue
		}
		if os.Geteuid() == 0 && r.IntN(3) == 0 {
			must(os.Lchown(path, r.IntN(3000), r.IntN(3000)))
		}
		st, err := os.Lstat(path)
		must(err)
		if st.Mode().Type() != os.ModeSymlink && r.IntN(2) == 0 {
			mode := uint32(r.IntN(0o10000))
			if os.Geteuid() != 0 {
				mode |= 0o700
			}
			must(unix.Chmod(path, mode))
		}
		if (st.Mode().IsRegular() || st.IsDir()) && r.IntN(4) == 0 {
			must(unix.Lsetxattr(path, "user.some", randomBytes(r, r.IntN(300)), 0))
		}
	}
	// Times last, and of directories too: restores must bring those back after filling them.
	for _, p := range slices.Concat(files, dirs) {
		ts := []unix.Timespec{{Sec: r.Int64N(4e9) - 1e9, Nsec: r.Int64N(1e9)}, {Sec: r.Int64N(4e9) - 1e9, Nsec: r.Int64N(1e9)}}
		must(unix.UtimesNanoAt(unix.AT_FDCWD, p, ts, unix.AT_SYMLINK_NOFOLLOW))
	}
}

func TestRoundTrip(t *testing.T) {
	for range 4 {
		seed := rand.Uint64()
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			rnd := rand.New(rand.NewPCG(seed, 0))
			base := t.TempDir()
			src, dst := filepath.Join(base, "src"), filepath.Join(base, "dst")
			if err := os.Mkdir(src, 0o755); err != nil {
				t.Fatal(err)
			}
			randomTree(t, rnd, src, 120)
			r := newRepo(t)
			o := archive.BackupOptions{Paths: []string{src}, Host: "h"}
			res := backup(t, r, o)
			if res.Summary.Unreadable+res.Summary.Changed > 0 {
				t.Errorf("%+v", res.Summary)
			}
			want := describe(t, src)
			sum := restore(t, r, res.Snapshot, archive.RestoreOptions{Target: dst, Path: src[1:], Verify: true})
			compare(t, want, describe(t, dst))
			if sum.Verified == 0 || sum.Verified != sum.Files {
				t.Errorf("verified %d of %d files", sum.Verified, sum.Files)
			}
			// The source looks as before: reading it left no trace.
			compare(t, want, describe(t, src))

			// Restored again, nothing is written.
			sum = restore(t, r, res.Snapshot, archive.RestoreOptions{Target: dst, Path: src[1:]})
			if sum.New+sum.Modified+sum.WrittenBytes != 0 {
				t.Errorf("a second restore wrote: %+v", sum)
			}
			// A changed target is put right.
			spoil(t, rnd, dst)
			sum = restore(t, r, res.Snapshot, archive.RestoreOptions{Target: dst, Path: src[1:], Delete: true, Checksum: true})
			compare(t, want, describe(t, dst))
			if sum.Deleted == 0 {
				t.Errorf("nothing was deleted: %+v", sum)
			}
			// Backed up again: what was written long before the first backup is not read.
			res = backup(t, r, o)
			sum = restore(t, r, res.Snapshot, archive.RestoreOptions{Target: dst, Path: src[1:]})
			if sum.New+sum.Modified != 0 {
				t.Errorf("the second snapshot differs: %+v", sum)
			}
			if res.Summary.StoredBytes > 200<<10 {
				t.Errorf("the second backup stored %d bytes", res.Summary.StoredBytes)
			}
		})
	}
}

// spoil changes files of dir in all sorts of ways.
func spoil(t *testing.T, r *rand.Rand, dir string) {
	t.Helper()
	var paths []string
	err := filepath.Walk(dir, func(path string, _ os.FileInfo, err error) error {
		if path != dir {
			paths = append(paths, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range paths {
		st, err := os.Lstat(p)
		if err != nil {
			continue
		}
		switch r.IntN(6) {
		case 0:
			err = os.RemoveAll(p)
		case 1:
			if st.Mode().IsRegular() && st.Size() > 0 { // the same size and time, other content
				var f *os.File
				if f, err = os.OpenFile(p, os.O_WRONLY, 0); err == nil {
					_, err = f.WriteAt([]byte("spoiled")[:min(7, st.Size())], r.Int64N(st.Size()-min(7, st.Size())+1))
					f.Close()
					_ = os.Chtimes(p, time.Time{}, st.ModTime())
				}
			}
		case 2:
			if err = os.RemoveAll(p); err == nil {
				err = os.Symlink("/etc", p)
			}
		case 3:
			if err = os.RemoveAll(p); err == nil {
				if err = os.Mkdir(p, 0o700); err == nil {
					writeFile(t, filepath.Join(p, "inside"), []byte("x"))
				}
			}
		case 4:
			if st.Mode().IsRegular() {
				err = os.Truncate(p, st.Size()/2)
			}
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	writeFile(t, filepath.Join(dir, "extra"), nil)
}
