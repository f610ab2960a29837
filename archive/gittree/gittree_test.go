package gittree

import (
	"bytes"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"firn"
)

func open(t *testing.T, dir string) *Repo {
	t.Helper()
	r, err := Open(t.Context(), Options{Dir: dir, Create: true, PieceSize: 64 << 10})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	return r
}

func commit(t *testing.T, r *Repo, dir string) (string, bool) {
	t.Helper()
	rev, changed, err := r.Commit(t.Context(), dir, CommitOptions{Report: func(p string, err error) { t.Logf("%s: %v", p, err) }})
	if err != nil {
		t.Fatal(err)
	}
	return rev, changed
}

func write(t *testing.T, path string, content []byte) {
	t.Helper()
	if err := os.WriteFile(path, content, 0o640); err != nil {
		t.Fatal(err)
	}
}

// show is everything that a restore must bring back, by path.
func show(t *testing.T, dir string) map[string]string {
	t.Helper()
	all := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(dir, path)
		uid, gid, device := owner(info)
		_, _, links := identity(info)
		xattrs, err := readXattrs(path)
		if err != nil {
			return err
		}
		line := fmt.Sprint(info.Mode(), uid, gid, device, info.ModTime().UnixNano(), xattrs)
		switch {
		case info.Mode().IsRegular():
			b, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			line += fmt.Sprintf(" links %d %x", links, b)
		case info.Mode()&fs.ModeSymlink != 0:
			to, err := os.Readlink(path)
			if err != nil {
				return err
			}
			line += " -> " + to
		}
		all[rel] = line
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func same(t *testing.T, got, want string) {
	t.Helper()
	a, b := show(t, got), show(t, want)
	for _, name := range slices.Sorted(maps.Keys(b)) {
		if a[name] != b[name] {
			t.Errorf("%q is\n%.200s, want\n%.200s", name, a[name], b[name])
		}
	}
	for name := range a {
		if _, ok := b[name]; !ok {
			t.Errorf("%q should not be there", name)
		}
	}
}

// tree makes one of each kind of entry.
func tree(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for _, d := range []string{"a/b", "empty/inside", ".git/hooks", "%pieces", ".firn-pieces-big", "sticky"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	write(t, filepath.Join(dir, "a/b/plain.txt"), []byte("hello\r\n"))
	write(t, filepath.Join(dir, "a/zero"), nil)
	write(t, filepath.Join(dir, "big"), bytes.Repeat([]byte("0123456789abcdef"), 20_000))
	write(t, filepath.Join(dir, "a/exact"), make([]byte, 128<<10))
	for i, name := range []string{
		".git/config", ".gitattributes", ".gitignore", ".firn-meta", "%.git", "%", "%%x", ".GIT", "git~1", "sp ace", "new\nline",
		"tab\t\"quote\"\\", "not\xffutf8", "\u200c.git", "ünïcode", "-dash", ".firn-pieces-big/00000000", "%pieces/00000000",
	} {
		if name == ".GIT" {
			name = ".GIT2"
		}
		write(t, filepath.Join(dir, name), []byte(fmt.Sprint("content ", i)))
	}
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	check(os.Symlink("a/b/plain.txt", filepath.Join(dir, "link")))
	check(os.Symlink("/nowhere", filepath.Join(dir, "a/dangling")))
	check(os.Link(filepath.Join(dir, "a/zero"), filepath.Join(dir, "hard")))
	check(os.Link(filepath.Join(dir, "big"), filepath.Join(dir, "a/bigger")))
	check(unix.Mkfifo(filepath.Join(dir, "pipe"), 0o620))
	check(os.Chmod(filepath.Join(dir, "a/b/plain.txt"), 0o4711))
	check(os.Chmod(filepath.Join(dir, "sticky"), 0o777|fs.ModeSticky))
	check(unix.Setxattr(filepath.Join(dir, "a/b"), "user.note", []byte{0, 1, 255}, 0))
	old := time.Unix(1_000_000_000, 123_456_789)
	for _, name := range []string{"a/b/plain.txt", "empty/inside", "empty", "pipe"} {
		check(os.Chtimes(filepath.Join(dir, name), old, old))
	}
	if os.Geteuid() == 0 {
		check(os.Lchown(filepath.Join(dir, "link"), 12, 34))
		check(os.Chown(filepath.Join(dir, "a/zero"), 56, 78))
	}
	return dir
}

func TestRestoreIsExact(t *testing.T) {
	src, repo := tree(t), filepath.Join(t.TempDir(), "r.git")
	r := open(t, repo)
	first, changed := commit(t, r, src)
	if !changed {
		t.Error("the first commit says that nothing changed")
	}
	to := filepath.Join(t.TempDir(), "restored")
	if err := r.Checkout(t.Context(), "", to, nil); err != nil {
		t.Fatal(err)
	}
	same(t, to, src)
	if rev, changed := commit(t, r, src); changed || rev != first {
		t.Errorf("nothing changed, and there is a new commit %s", rev)
	}
	// Another process knows nothing of what was read before.
	if rev, changed := commit(t, open(t, repo), src); changed || rev != first {
		t.Errorf("nothing changed, and another process makes a commit %s", rev)
	}
	// A repository that checks what it gets, as the large hosts do, takes it.
	c := exec.Command("git", "--git-dir", repo, "fsck", "--strict", "--full")
	if out, err := c.CombinedOutput(); err != nil {
		t.Errorf("git fsck: %v\n%s", err, out)
	}
}

func TestChangesRollbackLog(t *testing.T) {
	dir, repo := t.TempDir(), filepath.Join(t.TempDir(), "r.git")
	r := open(t, repo)
	write(t, filepath.Join(dir, "a"), []byte("1"))
	write(t, filepath.Join(dir, "b"), []byte("1"))
	first, _ := commit(t, r, dir)
	want := show(t, dir)
	write(t, filepath.Join(dir, "a"), []byte("2"))
	write(t, filepath.Join(dir, "c"), []byte("2"))
	if err := os.Remove(filepath.Join(dir, "b")); err != nil {
		t.Fatal(err)
	}
	second, changed := commit(t, r, dir)
	if !changed || second == first {
		t.Fatal("a change was not seen")
	}
	back, err := r.Rollback(t.Context(), first[:10])
	if err != nil {
		t.Fatal(err)
	}
	to := filepath.Join(t.TempDir(), "restored")
	if err := r.Checkout(t.Context(), "", to, nil); err != nil {
		t.Fatal(err)
	}
	if got := show(t, to); !maps.Equal(got, want) {
		t.Errorf("after the rollback there is\n%v, want\n%v", got, want)
	}
	if err := r.Checkout(t.Context(), second, to, nil); firn.KindOf(err) != firn.Conflict {
		t.Errorf("a restore into a directory with files: %v, want conflict", err)
	}
	if err := r.Checkout(t.Context(), "0123456789", t.TempDir(), nil); firn.KindOf(err) != firn.NotFound {
		t.Errorf("a commit that is not there: %v, want not found", err)
	}
	log, err := r.Log(t.Context(), 10)
	if err != nil || len(log) != 3 || log[0].Rev != back || log[1].Rev != second || log[2].Rev != first {
		t.Fatalf("the log is %v, %v", log, err)
	}
	if m := log[1].Message; !strings.HasPrefix(m, "1 added, 1 modified, 1 deleted") || !strings.Contains(m, "M a") {
		t.Errorf("the message is %q", m)
	}
	if log[0].Message == "" || strings.Contains(log[0].Message, trailer) {
		t.Errorf("the message is %q", log[0].Message)
	}
}

func TestNames(t *testing.T) {
	for _, name := range []string{".git", "%.git", "%%.git", ".GIT", "git~1", "a", "%", "%a", ".gitignore", ".firn-x", "\u200c.git"} {
		in := encodeName(name)
		if out, ok := decodeName(in); !ok || out != name {
			t.Errorf("%q is kept as %q and read as %q, %t", name, in, out, ok)
		}
	}
	for _, name := range []string{".git", ".", "..", "", "a/b", ".firn-meta"} {
		if _, ok := decodeName(name); ok {
			t.Errorf("%q is taken for a file's name", name)
		}
	}
}

func FuzzMeta(f *testing.F) {
	f.Add([]byte("{\"firn-meta\":1}\n{\"name\":\"a\",\"type\":\"file\",\"mode\":420,\"uid\":0,\"gid\":0,\"mtime\":\"2026-01-01T00:00:00Z\"}\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		all, err := parseMeta(b)
		if err == nil && all[".."].Type != "" {
			t.Error("a name that leads out of the directory was taken")
		}
	})
}
