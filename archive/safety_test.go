package archive_test

import (
	"archive/tar"
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"firn"
	"firn/archive"
	"firn/archive/scan"
	"firn/archive/tree"
	"firn/repo"
)

func find(t *testing.T, r *repo.Repo, s repo.Snapshot, path string) *tree.Node {
	t.Helper()
	n, err := tree.Find(t.Context(), r, s.Root, strings.TrimPrefix(path, "/"))
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// events collects what is reported.
type events struct {
	mu  sync.Mutex
	all []archive.Event
}

func (e *events) add(v archive.Event) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.all = append(e.all, v)
}

func (e *events) count(what string) int {
	n := 0
	for _, v := range e.all {
		if v.What == what {
			n++
		}
	}
	return n
}

// A file that is written to all the time is marked; one that comes to rest is not, and is never a mixture.
func TestChangedWhileRead(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "busy")
	size := 8 << 20
	writeFile(t, path, bytes.Repeat([]byte{0}, size))
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	ctx, stop := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		for i := byte(1); ctx.Err() == nil; i++ {
			for off := 0; off < size && ctx.Err() == nil; off += 1 << 20 {
				if _, err := f.WriteAt([]byte{i}, int64(off)); err != nil {
					t.Error(err)
					return
				}
			}
		}
	})
	r := newRepo(t)
	var ev events
	res := backup(t, r, archive.BackupOptions{Paths: []string{dir}, Report: ev.add})
	// On a busy machine the writer may rest for as long as one of the attempts takes.
	for end := time.Now().Add(time.Minute); res.Summary.Changed == 0 && time.Now().Before(end); {
		ev = events{}
		res = backup(t, r, archive.BackupOptions{Paths: []string{dir}, Report: ev.add})
	}
	stop()
	wg.Wait()
	if n := find(t, r, res.Snapshot, path); !n.Changed || res.Summary.Changed != 1 || ev.count(archive.EventChanged) != 1 {
		t.Errorf("a file that never rested: changed %v, summary %+v", n.Changed, res.Summary)
	}
	// The next backup reads it again, though its times may be the same, and finds it at rest.
	res = backup(t, r, archive.BackupOptions{Paths: []string{dir}})
	if n := find(t, r, res.Snapshot, path); n.Changed || res.Summary.Changed != 0 {
		t.Errorf("a file at rest is marked")
	}
	var got bytes.Buffer
	if err := archive.Content(t.Context(), r, find(t, r, res.Snapshot, path), &got); err != nil {
		t.Fatal(err)
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(want, got.Bytes()) {
		t.Error("the content is not the file's")
	}
}

// A change that leaves size and modification time as they were is found by the change time; and one that comes so soon
// that even that is the same, since recently changed files are read again.
func TestHiddenChange(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "f")
	old := time.Unix(1e9, 0)
	r := newRepo(t)
	for _, content := range []string{"one", "two", "six"} {
		content = strings.Repeat(content, 1000)
		writeFile(t, path, []byte(content))
		if err := os.Chtimes(path, old, old); err != nil {
			t.Fatal(err)
		}
		res := backup(t, r, archive.BackupOptions{Paths: []string{dir}})
		var got bytes.Buffer
		if err := archive.Content(t.Context(), r, find(t, r, res.Snapshot, path), &got); err != nil {
			t.Fatal(err)
		}
		if got.String() != content {
			t.Errorf("got %.3s, want %.3s", got.String(), content)
		}
	}
}

func TestMissingPaths(t *testing.T) {
	dir := t.TempDir()
	r := newRepo(t)
	_, err := archive.Backup(t.Context(), r, archive.BackupOptions{Paths: []string{filepath.Join(dir, "no"), "/not/there"}})
	if firn.KindOf(err) != firn.NotFound {
		t.Errorf("nothing to back up: %v", err)
	}
	snaps, err := r.Snapshots(t.Context())
	if err != nil || len(snaps) != 0 {
		t.Errorf("%d snapshots of nothing, %v", len(snaps), err)
	}
	writeFile(t, filepath.Join(dir, "yes"), []byte("x"))
	var ev events
	res := backup(t, r, archive.BackupOptions{Paths: []string{filepath.Join(dir, "no"), filepath.Join(dir, "yes")}, Report: ev.add})
	if res.Summary.Problems != 1 || ev.count(archive.EventUnreadable) != 1 || res.Summary.Files != 1 {
		t.Errorf("one of two paths missing: %+v", res.Summary)
	}
}

func TestExcludes(t *testing.T) {
	dir := t.TempDir()
	for _, f := range []string{
		"keep", "a.tmp", "sub/b.tmp", "sub/keep", "anchored/x/y", "other/anchored/x", "cache/CACHEDIR.TAG", "cache/data",
		"marked/.nobackup", "marked/data", "ignored/.firnignore", "ignored/no", "ignored/deep/no", "ignored/yes", "large",
	} {
		path := filepath.Join(dir, f)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		content := "x"
		switch filepath.Base(f) {
		case "CACHEDIR.TAG":
			content = "Signature: 8a477f597d28d172789f06886806bc55\n"
		case ".firnignore":
			content = "# comment\nno\n"
		case "large":
			content = strings.Repeat("x", 5000)
		}
		writeFile(t, path, []byte(content))
	}
	r := newRepo(t)
	res := backup(t, r, archive.BackupOptions{Paths: []string{dir}, Scan: scan.Options{
		Excludes: []string{"*.tmp", "anchored/x", dir + "/sub/none"}, IgnoreFile: ".firnignore", IfPresent: []string{".nobackup"},
		CacheTags: true, LargerThan: 4096,
	}})
	var got []string
	it := tree.Walk(t.Context(), r, res.Snapshot.Root, dir[1:])
	defer it.Close()
	for {
		n, err := it.Next()
		if err != nil {
			t.Fatal(err)
		}
		if n == nil {
			break
		}
		if n.Type == tree.File {
			got = append(got, strings.TrimPrefix("/"+n.Path, dir+"/"))
		}
	}
	want := "ignored/.firnignore ignored/yes keep other/anchored/x sub/keep"
	if s := strings.Join(got, " "); s != want {
		t.Errorf("got  %s\nwant %s", s, want)
	}
}

// Symbolic links in a target, and names in a tar, lead nowhere.
func TestRestoreStaysInTarget(t *testing.T) {
	base := t.TempDir()
	src, dst, outside := filepath.Join(base, "src"), filepath.Join(base, "dst"), filepath.Join(base, "outside")
	for _, d := range []string{src + "/dir/deep", dst, outside} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	writeFile(t, src+"/dir/file", bytes.Repeat([]byte("secret"), 1000))
	writeFile(t, src+"/dir/deep/file", bytes.Repeat([]byte("secret"), 300<<10))
	writeFile(t, src+"/plain", []byte("plain"))
	writeFile(t, outside+"/victim", []byte("victim"))
	r := newRepo(t)
	res := backup(t, r, archive.BackupOptions{Paths: []string{src}})
	want := describe(t, outside)
	for link, to := range map[string]string{"dir": outside, "plain": outside + "/victim"} {
		if err := os.Symlink(to, filepath.Join(dst, link)); err != nil {
			t.Fatal(err)
		}
	}
	restore(t, r, res.Snapshot, archive.RestoreOptions{Target: dst, Path: src[1:], Delete: true})
	compare(t, want, describe(t, outside))
	compare(t, describe(t, src), describe(t, dst))

	// While a restore runs, somebody puts a link where a directory was.
	ctx, stop := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		for ctx.Err() == nil {
			_ = os.Rename(dst+"/dir/deep", dst+"/dir/away")
			_ = os.Symlink(outside, dst+"/dir/deep")
			_ = os.Remove(dst + "/dir/deep")
			_ = os.Rename(dst+"/dir/away", dst+"/dir/deep")
		}
	})
	for range 30 {
		if err := os.RemoveAll(dst + "/dir/deep"); err != nil {
			continue
		}
		// It may fail, but not write elsewhere.
		_, _ = archive.Restore(ctx, r, res.Snapshot, archive.RestoreOptions{Target: dst, Path: src[1:], Delete: true, NoSync: true, Checksum: true})
	}
	stop()
	wg.Wait()
	compare(t, want, describe(t, outside))
}

// What a cut-off restore left behind is not believed.
func TestRestoreAfterInterruption(t *testing.T) {
	base := t.TempDir()
	src, dst := filepath.Join(base, "src"), filepath.Join(base, "dst")
	if err := os.Mkdir(src, 0o755); err != nil {
		t.Fatal(err)
	}
	writeFile(t, src+"/f", bytes.Repeat([]byte("content"), 1000))
	r := newRepo(t)
	res := backup(t, r, archive.BackupOptions{Paths: []string{src}})
	o := archive.RestoreOptions{Target: dst, Path: src[1:]}
	restore(t, r, res.Snapshot, o)
	// As after a power loss: the times are there, the content is not.
	st, err := os.Stat(src + "/f")
	if err != nil {
		t.Fatal(err)
	}
	writeFile(t, dst+"/f", make([]byte, st.Size()))
	if err := os.Chtimes(dst+"/f", st.ModTime(), st.ModTime()); err != nil {
		t.Fatal(err)
	}
	writeFile(t, filepath.Join(dst, archive.Marker), []byte("x"))
	if sum := restore(t, r, res.Snapshot, o); !sum.Resumed || sum.Modified != 1 {
		t.Errorf("%+v", sum)
	}
	compare(t, describe(t, src), describe(t, dst))
}

func TestDatabase(t *testing.T) {
	base := t.TempDir()
	src, dst := filepath.Join(base, "src"), filepath.Join(base, "dst")
	if err := os.Mkdir(src, 0o755); err != nil {
		t.Fatal(err)
	}
	db, err := sql.Open("sqlite", src+"/app.db?_pragma=journal_mode(wal)")
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	db.SetMaxOpenConns(1)
	exec := func(s string) {
		t.Helper()
		if _, err := db.Exec(s); err != nil {
			t.Fatal(err)
		}
	}
	exec("create table t(a, b)")
	exec("with recursive n(i) as (select 1 union all select i+1 from n where i < 3000) insert into t select i, hex(randomblob(50)) from n")
	r := newRepo(t)
	var ev events
	res := backup(t, r, archive.BackupOptions{Paths: []string{src}, Report: ev.add})
	if n := find(t, r, res.Snapshot, src+"/app.db"); !n.Database || res.Summary.Problems != 0 || res.Summary.Files != 1 {
		t.Errorf("database %v, %+v, %+v", n.Database, res.Summary, ev.all)
	}
	// Only the log changes: the database's own file looks as before.
	exec("insert into t values (-1, 'late')")
	res = backup(t, r, archive.BackupOptions{Paths: []string{src}})
	if err := os.Mkdir(dst, 0o755); err != nil {
		t.Fatal(err)
	}
	writeFile(t, dst+"/app.db-wal", []byte("of another life"))
	restore(t, r, res.Snapshot, archive.RestoreOptions{Target: dst, Path: src[1:]})
	back, err := sql.Open("sqlite", dst+"/app.db")
	if err != nil {
		t.Fatal(err)
	}
	defer back.Close()
	var n int
	if err := back.QueryRow("select count(*) from t").Scan(&n); err != nil || n != 3001 {
		t.Errorf("%d rows, %v", n, err)
	}
	// One that is damaged is stored as it is, and told.
	db.Close()
	b, err := os.ReadFile(src + "/app.db")
	if err != nil {
		t.Fatal(err)
	}
	copy(b[5000:], bytes.Repeat([]byte{0xff}, 8000))
	writeFile(t, src+"/app.db", b)
	res = backup(t, r, archive.BackupOptions{Paths: []string{src}, Report: ev.add})
	if res.Summary.Problems != 1 {
		t.Errorf("a damaged database: %+v", res.Summary)
	}
	var got bytes.Buffer
	if err := archive.Content(t.Context(), r, find(t, r, res.Snapshot, src+"/app.db"), &got); err != nil || !bytes.Equal(got.Bytes(), b) {
		t.Errorf("a damaged database is not stored as it is: %v", err)
	}
}

func TestStreams(t *testing.T) {
	r := newRepo(t)
	long := strings.Repeat("row\n", 1<<20)
	res, err := archive.BackupStream(t.Context(), r, archive.BackupOptions{},
		archive.Command("dumps/db.sql", "echo hello", nil),
		archive.Stream{Name: "dumps/long", Open: func(context.Context) (io.ReadCloser, error) { return io.NopCloser(strings.NewReader(long)), nil }})
	if err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{"dumps/db.sql": "hello\n", "dumps/long": long} {
		var got bytes.Buffer
		if err := archive.Content(t.Context(), r, find(t, r, res.Snapshot, path), &got); err != nil || got.String() != want {
			t.Errorf("%s: %d bytes, %v", path, got.Len(), err)
		}
	}
	_, err = archive.BackupStream(t.Context(), r, archive.BackupOptions{}, archive.Command("db.sql", "echo half; echo why >&2; exit 7", nil))
	if err == nil || !strings.Contains(err.Error(), "why") {
		t.Errorf("a command that failed: %v", err)
	}
	snaps, err := r.Snapshots(t.Context())
	if err != nil || len(snaps) != 1 {
		t.Errorf("%d snapshots, %v", len(snaps), err)
	}
}

func TestTar(t *testing.T) {
	base := t.TempDir()
	src, dst := filepath.Join(base, "src"), filepath.Join(base, "dst")
	if err := os.MkdirAll(src+"/d", 0o755); err != nil {
		t.Fatal(err)
	}
	writeFile(t, src+"/d/f", bytes.Repeat([]byte("x"), 100000))
	if err := errors.Join(os.Link(src+"/d/f", src+"/d/g"), os.Symlink("f", src+"/d/l"), unix.Mkfifo(src+"/p", 0o600),
		unix.Setxattr(src+"/d/f", "user.x", []byte("v"), 0), os.Chtimes(src+"/d/f", time.Unix(1e9, 123456789), time.Unix(1e9, 123456789))); err != nil {
		t.Fatal(err)
	}
	sparse, err := os.Create(src + "/sparse")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := sparse.WriteAt([]byte("end"), 5000000); err != nil {
		t.Fatal(err)
	}
	sparse.Close()
	r := newRepo(t)
	res := backup(t, r, archive.BackupOptions{Paths: []string{src}})
	for _, c := range []archive.Compression{archive.Plain, archive.Gzip, archive.Zstd} {
		var out bytes.Buffer
		if _, err := archive.Export(t.Context(), r, res.Snapshot, src[1:], c, &out, func(e archive.Event) { t.Error(e) }); err != nil {
			t.Fatal(err)
		}
		imported, err := archive.Import(t.Context(), r, archive.BackupOptions{Paths: []string{"/"}}, &out)
		if err != nil {
			t.Fatal(err)
		}
		to := dst + string(c)
		restore(t, r, imported.Snapshot, archive.RestoreOptions{Target: to, Path: src[1:]})
		want := describe(t, src)
		for i := range want {
			want[i] = strings.TrimSuffix(want[i], " sparse")
		}
		compare(t, want, describe(t, to))
	}
	var evil bytes.Buffer
	w := tar.NewWriter(&evil)
	if err := errors.Join(w.WriteHeader(&tar.Header{Name: "a/../../b", Typeflag: tar.TypeReg, Mode: 0o600}), w.Close()); err != nil {
		t.Fatal(err)
	}
	if _, err := archive.Import(t.Context(), r, archive.BackupOptions{Paths: []string{"/x"}}, &evil); firn.KindOf(err) != firn.Invalid {
		t.Errorf("a name that leads out: %v", err)
	}
}

func TestDiffAndDrill(t *testing.T) {
	dir := t.TempDir()
	for i := range 60 {
		writeFile(t, fmt.Sprintf("%s/f%d", dir, i), bytes.Repeat([]byte{byte(i)}, 1000*i))
	}
	r := newRepo(t)
	a := backup(t, r, archive.BackupOptions{Paths: []string{dir}}).Snapshot
	if err := errors.Join(os.Remove(dir+"/f1"), os.WriteFile(dir+"/new", nil, 0o600), os.Truncate(dir+"/f2", 7), os.Chmod(dir+"/f3", 0o600)); err != nil {
		t.Fatal(err)
	}
	b := backup(t, r, archive.BackupOptions{Paths: []string{dir}}).Snapshot
	got := map[string]string{}
	err := archive.Diff(t.Context(), r, a, b, dir[1:], func(d archive.Difference) error {
		got[strings.TrimPrefix(d.Path, dir)] = fmt.Sprint(d.Old != nil, d.New != nil, d.Content, d.Type, d.Meta)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{
		"":     "true true false false true",
		"/f1":  "true false false false false",
		"/f2":  "true true true false true",
		"/f3":  "true true false false true",
		"/new": "false true false false false",
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("got  %v\nwant %v", got, want)
	}
	scratch := t.TempDir()
	for _, sample := range []float64{0.01, 1} {
		rep, err := archive.Drill(t.Context(), r, b, archive.DrillOptions{Sample: sample, Seed: 5, Dir: scratch})
		if err != nil || !rep.Passed || rep.Result.Verified != rep.Result.Files || rep.Result.Files == 0 || sample == 1 && rep.Result.Files != 60 {
			t.Errorf("drill of %g: %+v, %v", sample, rep, err)
		}
	}
	if left, err := os.ReadDir(scratch); err != nil || len(left) > 0 {
		t.Errorf("a drill left %v, %v", left, err)
	}
}
