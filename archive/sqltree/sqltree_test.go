package sqltree

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"firn"
)

// place opens trees of one kind of database, each with tables of its own.
type place func(t *testing.T) Options

func sqlitePlace(t *testing.T) Options {
	return Options{URL: &url.URL{Scheme: "sqlite", Path: filepath.Join(t.TempDir(), "tree.db")}, Create: true}
}

func TestSQLite(t *testing.T) { suite(t, sqlitePlace) }

func suite(t *testing.T, at place) {
	for name, test := range map[string]func(*testing.T, place){
		"Exact": exact, "Revisions": revisions, "Select": selects, "Refusals": refusals, "Contents": contents,
		"Unreadable": unreadable, "Tampered": tampered, "AtOnce": atOnce,
	} {
		t.Run(name, func(t *testing.T) { test(t, at) })
	}
}

func open(t *testing.T, opt Options) *Tree {
	t.Helper()
	tree, err := Open(t.Context(), opt)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { tree.Close() })
	return tree
}

func (t *Tree) must(tt *testing.T, dir string) Revision {
	tt.Helper()
	rev, _, err := t.Commit(tt.Context(), dir, CommitOptions{Report: func(path string, err error) { tt.Errorf("%s: %v", path, err) }})
	if err != nil {
		tt.Fatal(err)
	}
	return rev
}

func (t *Tree) restore(tt *testing.T, rev int64) string {
	tt.Helper()
	dir := filepath.Join(tt.TempDir(), "restored")
	if err := t.Checkout(tt.Context(), rev, dir, func(path string, err error) { tt.Errorf("%s: %v", path, err) }); err != nil {
		tt.Fatal(err)
	}
	return dir
}

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(content), 0o644)); err != nil {
		t.Fatal(err)
	}
}

// describe is everything that a restore must bring back.
func describe(t *testing.T, dir string) string {
	t.Helper()
	var all []string
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return err
		}
		rel, _ := filepath.Rel(dir, path)
		line := fmt.Sprintf("%s %o %d:%d %d", rel, st.Mode, st.Uid, st.Gid, st.Mtim.Nano())
		switch {
		case d.Type().IsRegular():
			p, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			line += fmt.Sprintf(" %d bytes %q", len(p), p[:min(40, len(p))])
		case d.Type() == fs.ModeSymlink:
			target, err := os.Readlink(path)
			if err != nil {
				return err
			}
			line += " -> " + target
		}
		value := make([]byte, 100)
		if n, err := unix.Lgetxattr(path, "user.firn", value); err == nil {
			line += " user.firn=" + string(value[:n])
		}
		all = append(all, line)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return strings.Join(all, "\n")
}

func exact(t *testing.T, at place) {
	dir := t.TempDir()
	large := strings.Repeat("0123456789abcdef", 200_000) // four pieces
	for name, content := range map[string]string{
		"plain": "hello", "empty": "", "large": large, "one-piece": large[:pieceSize], "a/b": "in a", "a.txt": "after a", "a/c/d": "deep",
		"odd \"name' %_?$\nline": "x", "日本/語": "utf-8", "zeros": "\x00\x00\x00",
	} {
		write(t, filepath.Join(dir, name), content)
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(os.MkdirAll(filepath.Join(dir, "none/in/here"), 0o755))
	must(os.Symlink("a/b", filepath.Join(dir, "link")))
	must(os.Symlink("/no/where", filepath.Join(dir, "dangling")))
	must(unix.Mkfifo(filepath.Join(dir, "pipe"), 0o640))
	must(os.Chmod(filepath.Join(dir, "plain"), 0o4711|fs.ModeSetuid))
	must(os.Chmod(filepath.Join(dir, "a/b"), 0))
	must(unix.Setxattr(filepath.Join(dir, "plain"), "user.firn", []byte("a\x00b"), 0))
	for _, name := range []string{"plain", "link", "none/in", "a/c", "."} {
		ts := unix.NsecToTimespec(1_234_567_890_123_456_789)
		must(unix.UtimesNanoAt(unix.AT_FDCWD, filepath.Join(dir, name), []unix.Timespec{ts, ts}, unix.AT_SYMLINK_NOFOLLOW))
	}
	must(os.Chmod(filepath.Join(dir, "none/in"), 0o500))
	if os.Geteuid() == 0 {
		must(os.Lchown(filepath.Join(dir, "link"), 12, 34))
		must(os.Chown(filepath.Join(dir, "large"), 56, 78))
	}
	tree := open(t, at(t))
	rev := tree.must(t, dir)
	if got, want := describe(t, tree.restore(t, 0)), describe(t, dir); got != want {
		t.Errorf("restored:\n%s\n\nwas:\n%s", got, want)
	}
	again, changed, err := tree.Commit(t.Context(), dir, CommitOptions{})
	if err != nil || changed || again.ID != rev.ID || again.Files != rev.Files || !again.Made.Equal(rev.Made) {
		t.Errorf("unchanged: %+v, %t, %v, want %+v", again, changed, err, rev)
	}
	if want := int64(len(strings.Split(describe(t, dir), "\n"))); rev.Files < want-1 || rev.Files > want {
		t.Errorf("%d entries, want about %d", rev.Files, want)
	}
	if err := tree.Checkout(t.Context(), 0, dir, nil); firn.KindOf(err) != firn.Conflict {
		t.Errorf("restore over files: %v (%v), want a conflict", err, firn.KindOf(err))
	}
}

func revisions(t *testing.T, at place) {
	opt := at(t)
	opt.Keep = 3
	tree := open(t, opt)
	dir := t.TempDir()
	states := map[int64]string{}
	for i := range 6 {
		write(t, filepath.Join(dir, "file"), fmt.Sprint("state ", i))
		write(t, filepath.Join(dir, fmt.Sprint("only/", i)), strings.Repeat(fmt.Sprint(i), 2<<20))
		if i > 0 {
			if err := os.Remove(filepath.Join(dir, fmt.Sprint("only/", i-1))); err != nil {
				t.Fatal(err)
			}
		}
		states[tree.must(t, dir).ID] = describe(t, dir)
	}
	log, err := tree.Log(t.Context(), 100)
	if err != nil || len(log) != 3 || log[0].ID != 6 || log[2].ID != 4 {
		t.Fatalf("log: %+v, %v", log, err)
	}
	for _, rev := range log {
		if got := describe(t, tree.restore(t, rev.ID)); got != states[rev.ID] {
			t.Errorf("revision %d:\n%s\nwant\n%s", rev.ID, got, states[rev.ID])
		}
	}
	if err := tree.Checkout(t.Context(), 3, filepath.Join(t.TempDir(), "x"), nil); firn.KindOf(err) != firn.NotFound {
		t.Errorf("a revision that was forgotten: %v (%v), want not found", err, firn.KindOf(err))
	}
	// What was forgotten takes no space: three states, three large files of two pieces.
	for table, want := range map[string]int{"file_contents": 6, "file_pieces": 6} {
		var n int
		if err := tree.db.QueryRow(`select count(*) from ` + tree.name + table).Scan(&n); err != nil || n != want {
			t.Errorf("%s has %d rows, %v, want %d", table, n, err, want)
		}
	}
}

func selects(t *testing.T, at place) {
	tree := open(t, at(t))
	dir := t.TempDir()
	write(t, filepath.Join(dir, "etc/app.conf"), "a = 1\n")
	tree.must(t, dir)
	write(t, filepath.Join(dir, "etc/app.conf"), "a = 2\n")
	tree.must(t, dir)
	var content []byte
	var mode, n int
	if err := tree.db.QueryRow(`select content, mode from `+tree.name+`files where path = 'etc/app.conf'`).Scan(&content, &mode); err != nil {
		t.Fatal(err)
	}
	if string(content) != "a = 2\n" || mode != 0o644 {
		t.Errorf("content %q, mode %o", content, mode)
	}
	if err := tree.db.QueryRow(`select count(*) from ` + tree.name + `files`).Scan(&n); err != nil || n != 3 {
		t.Errorf("%d files, %v, want 3", n, err)
	}
}

func refusals(t *testing.T, at place) {
	opt := at(t)
	opt.Create = false
	if _, err := Open(t.Context(), opt); firn.KindOf(err) != firn.NotFound {
		t.Errorf("open what nobody made: %v (%v), want not found", err, firn.KindOf(err))
	}
	opt.Create = true
	tree := open(t, opt)
	if err := tree.Checkout(t.Context(), 0, filepath.Join(t.TempDir(), "x"), nil); firn.KindOf(err) != firn.NotFound {
		t.Errorf("restore without a revision: %v (%v), want not found", err, firn.KindOf(err))
	}
	dir := t.TempDir()
	for i := range 5 {
		write(t, filepath.Join(dir, fmt.Sprint(i)), "x")
	}
	first := tree.must(t, dir)
	before := describe(t, dir)
	if _, _, err := tree.Commit(t.Context(), filepath.Join(dir, "none"), CommitOptions{}); firn.KindOf(err) != firn.NotFound {
		t.Errorf("a directory that is not there: %v (%v), want not found", err, firn.KindOf(err))
	}
	for i := range 4 {
		if err := os.Remove(filepath.Join(dir, fmt.Sprint(i))); err != nil {
			t.Fatal(err)
		}
	}
	stop := errors.New("too many are gone")
	_, _, err := tree.Commit(t.Context(), dir, CommitOptions{Check: func(c Changes) error {
		if c.Removed != 4 || c.Before != 6 || c.Added != 0 {
			t.Errorf("changes: %+v", c)
		}
		return stop
	}})
	if !errors.Is(err, stop) {
		t.Errorf("a commit that was refused: %v", err)
	}
	if got := describe(t, tree.restore(t, 0)); got != before {
		t.Errorf("after a commit that was refused:\n%s\nwant\n%s", got, before)
	}
	if _, _, err := tree.Commit(t.Context(), dir, CommitOptions{Parent: first.ID + 1}); firn.KindOf(err) != firn.Conflict {
		t.Errorf("another parent: %v (%v), want a conflict", err, firn.KindOf(err))
	}
	rev, changed, err := tree.Commit(t.Context(), dir, CommitOptions{Parent: first.ID, Note: "a note", Skip: func(path string, _ bool) bool { return path == "4" }})
	if err != nil || !changed || rev.Note != "a note" || rev.Files != 1 {
		t.Errorf("commit: %+v, %t, %v", rev, changed, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, _, err := tree.Commit(ctx, dir, CommitOptions{}); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	if _, err := tree.db.Exec(`update ` + tree.name + `files_format set version = 9`); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(t.Context(), opt); firn.KindOf(err) != firn.Unsupported {
		t.Errorf("a later format: %v (%v), want unsupported", err, firn.KindOf(err))
	}
}

// contents: the same size and time do not hide a change; the same content is kept once.
func contents(t *testing.T, at place) {
	tree := open(t, at(t))
	dir := t.TempDir()
	path := filepath.Join(dir, "file")
	large := strings.Repeat("x", pieceSize+1)
	write(t, path, "one")
	write(t, filepath.Join(dir, "l1"), large)
	write(t, filepath.Join(dir, "l2"), large)
	fixed := func() {
		ts := unix.NsecToTimespec(1e18)
		if err := unix.UtimesNanoAt(unix.AT_FDCWD, path, []unix.Timespec{ts, ts}, 0); err != nil {
			t.Fatal(err)
		}
	}
	fixed()
	tree.must(t, dir)
	write(t, path, "two")
	fixed()
	tree.must(t, dir)
	if p, err := os.ReadFile(filepath.Join(tree.restore(t, 0), "file")); err != nil || string(p) != "two" {
		t.Errorf("%q, %v", p, err)
	}
	var n int
	if err := tree.db.QueryRow(`select count(*) from ` + tree.name + `file_pieces`).Scan(&n); err != nil || n != 2 {
		t.Errorf("%d pieces, %v, want 2", n, err)
	}
}

// unreadable: what cannot be read or kept is reported, and what was committed of it stays.
func unreadable(t *testing.T, at place) {
	tree := open(t, at(t))
	dir := t.TempDir()
	write(t, filepath.Join(dir, "ok"), "ok")
	write(t, filepath.Join(dir, "odd\xff"), "not utf-8")
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := unix.Bind(fd, &unix.SockaddrUnix{Name: filepath.Join(dir, "socket")}); err != nil {
		t.Fatal(err)
	}
	var reported []string
	rev, _, err := tree.Commit(t.Context(), dir, CommitOptions{Report: func(path string, err error) {
		reported = append(reported, path)
		if firn.KindOf(err) != firn.Unsupported {
			t.Errorf("%q: %v (%v)", path, err, firn.KindOf(err))
		}
	}})
	slices.Sort(reported)
	if err != nil || rev.Files != 2 || !slices.Equal(reported, []string{"odd\xff", "socket"}) {
		t.Errorf("%+v, %v, reported %q", rev, err, reported)
	}
}

// tampered: rows that somebody changed never write outside the directory, or give other content.
func tampered(t *testing.T, at place) {
	for _, change := range []string{
		`update $file_history set path = '../out' where path = 'a/file'`,
		`update $file_history set path = '/tmp/out' where path = 'a/file'`,
		`update $file_history set kind = 'link', target = '/tmp' where path = 'a'`,
		`update $file_contents set data = ?`,
		`delete from $file_contents`,
		`delete from $file_pieces where n = 1`,
		`update $file_history set kind = 'other' where path = 'a/file'`,
	} {
		tree := open(t, at(t))
		dir := t.TempDir()
		write(t, filepath.Join(dir, "a/file"), "content")
		write(t, filepath.Join(dir, "a/large"), strings.Repeat("large", pieceSize))
		tree.must(t, dir)
		var args []any
		if strings.Contains(change, "?") {
			args = append(args, []byte("another"))
		}
		if _, err := tree.db.Exec(tree.q(change), args...); err != nil {
			t.Fatal(err)
		}
		parent := t.TempDir()
		err := tree.Checkout(t.Context(), 0, filepath.Join(parent, "in"), nil)
		if kind := firn.KindOf(err); kind != firn.Corrupt && kind != firn.Unsupported {
			t.Errorf("%s: %v (%v), want corrupt", change, err, kind)
		}
		if names, err := os.ReadDir(parent); err != nil || len(names) != 1 {
			t.Errorf("%s: beside the directory is %v, %v", change, names, err)
		}
	}
}

// atOnce: writers wait for each other, and a restore is of one revision throughout.
func atOnce(t *testing.T, at place) {
	opt := at(t)
	opt.Keep = 2
	tree := open(t, opt)
	other := open(t, opt)
	dirs := []string{t.TempDir(), t.TempDir()}
	for i, dir := range dirs {
		for n := range 20 {
			write(t, filepath.Join(dir, fmt.Sprint(n)), fmt.Sprintf("directory %d, file %d", i, n))
		}
	}
	tree.must(t, dirs[0])
	done := make(chan error, 2)
	for i, tr := range []*Tree{tree, other} {
		go func() {
			var err error
			for range 8 {
				_, _, e := tr.Commit(t.Context(), dirs[i], CommitOptions{})
				err = errors.Join(err, e)
			}
			done <- err
		}()
	}
	for range 5 {
		got := tree.restore(t, 0)
		p, err := os.ReadFile(filepath.Join(got, "0"))
		if err != nil {
			t.Fatal(err)
		}
		for n := range 20 {
			want := strings.Replace(string(p), "file 0", fmt.Sprint("file ", n), 1)
			if q, err := os.ReadFile(filepath.Join(got, fmt.Sprint(n))); err != nil || string(q) != want {
				t.Errorf("file %d is %q, %v, want %q", n, q, err, want)
			}
		}
	}
	for range 2 {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

// TestMain is also the process that is killed in the middle of a commit.
func TestMain(m *testing.M) {
	path, dir := os.Getenv("FIRN_TEST_TREE"), os.Getenv("FIRN_TEST_DIR")
	if path == "" {
		os.Exit(m.Run())
	}
	tree, err := Open(context.Background(), Options{URL: &url.URL{Scheme: "sqlite", Path: path}})
	if err == nil {
		_, _, err = tree.Commit(context.Background(), dir, CommitOptions{Check: func(Changes) error {
			return syscall.Kill(os.Getpid(), syscall.SIGKILL)
		}})
	}
	fmt.Println("not killed:", err)
	os.Exit(1)
}

func TestKilledCommit(t *testing.T) {
	opt := sqlitePlace(t)
	tree := open(t, opt)
	dir := t.TempDir()
	write(t, filepath.Join(dir, "file"), "old")
	tree.must(t, dir)
	before := describe(t, dir)
	write(t, filepath.Join(dir, "file"), "new")
	write(t, filepath.Join(dir, "large"), strings.Repeat("large", pieceSize))
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "FIRN_TEST_TREE="+opt.URL.Path, "FIRN_TEST_DIR="+dir)
	out, err := cmd.CombinedOutput()
	if cmd.ProcessState.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
		t.Fatalf("the process was to kill itself: %v, %s", err, out)
	}
	if got := describe(t, tree.restore(t, 0)); got != before {
		t.Errorf("after the kill:\n%s\nwant\n%s", got, before)
	}
	tree.must(t, dir)
	if got := describe(t, tree.restore(t, 0)); got != describe(t, dir) {
		t.Errorf("after the next commit:\n%s", got)
	}
}

// TestFileThatGrows is read to the size it had, and marked.
func TestFileThatGrows(t *testing.T) {
	tree := open(t, sqlitePlace(t))
	dir := t.TempDir()
	path := filepath.Join(dir, "log")
	write(t, path, strings.Repeat("line\n", 200_000))
	stop, stopped := make(chan struct{}), make(chan error, 1)
	go func() {
		f, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
		for err == nil {
			select {
			case <-stop:
				stopped <- f.Close()
				return
			default:
				_, err = f.WriteString("line\n")
			}
		}
		stopped <- err
	}()
	marked := false
	for end := time.Now().Add(10 * time.Second); !marked && time.Now().Before(end); {
		_, _, err := tree.Commit(t.Context(), dir, CommitOptions{Report: func(_ string, err error) { marked = firn.KindOf(err) == firn.Conflict }})
		if err != nil {
			t.Error(err)
			break
		}
	}
	close(stop)
	if err := <-stopped; err != nil {
		t.Fatal(err)
	}
	if !marked {
		t.Error("a file that grew all the time was not reported")
	}
	tree.must(t, dir) // it rests now
	if got := describe(t, tree.restore(t, 0)); got != describe(t, dir) {
		t.Errorf("restored:\n%s", got)
	}
}

func TestOpenRefuses(t *testing.T) {
	for _, text := range []string{
		"http://x", "sqlite:", "sqlite://host/x", "sqlite:/x?y=1", "postgres://u:sesame@host/db", "postgres://h/db?password=sesame",
		"postgres://h/db?sslmode=sesame", "sqlite:/x?namespace=A", "sqlite:/x?namespace=" + strings.Repeat("a", 31),
	} {
		u, err := url.Parse(text)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := Open(t.Context(), Options{URL: u}); firn.KindOf(err) != firn.Invalid || strings.Contains(err.Error(), "sesame") {
			t.Errorf("%s: %v (%v), want invalid", text, err, firn.KindOf(err))
		}
	}
}
