package transfer

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/iotest"
	"time"

	"github.com/google/go-cmp/cmp"

	"firn"
)

const (
	mib       = 1 << 20
	testRange = 1 << 20 // of a client made by site.client
)

// small parts, so that tests of many parts stay small.
func smallParts(o CopyOptions) CopyOptions {
	o.PartSize = minPartSize
	return o
}

func TestFileRoundTrip(t *testing.T) {
	s := startSite(t)
	s.bucket("files")
	c := s.client()
	for i, tt := range []struct {
		size     int
		parts    bool
		verified string // of the download
	}{{0, false, "md5"}, {1, false, "md5"}, {70_000, false, "md5"}, {10 * mib, false, "md5"}, {10*mib + 1, true, "etag"}, {21 * mib, true, "etag"}} {
		t.Run(fmt.Sprint(tt.size), func(t *testing.T) {
			dir := t.TempDir()
			data := noise(tt.size, byte(i))
			src, dst := filepath.Join(dir, "in.txt"), filepath.Join(dir, "sub", "out")
			writeFile(t, src, data)
			mtime := time.Unix(1_600_000_000, 123_456_000)
			if err := os.Chtimes(src, mtime, mtime); err != nil {
				t.Fatal(err)
			}
			remote := fmt.Sprintf("s3://files/dir/%d", tt.size)
			s.requests()
			sum, evs, err := copyAll(t.Context(), t, c, smallParts(CopyOptions{StateDir: t.TempDir()}), src, remote)
			if err != nil || sum != (Summary{Done: 1, Bytes: int64(tt.size)}) || evs[0].Verified != "etag" {
				t.Fatalf("%+v, %+v, %v", sum, evs, err)
			}
			if got := len(s.requests("partNumber")) > 0; got != tt.parts {
				t.Errorf("in parts: %v", got)
			}
			if !bytes.Equal(s.get(loc(t, remote)), data) {
				t.Error("stored content differs")
			}
			_, evs, err = copyAll(t.Context(), t, c, CopyOptions{}, remote, dst)
			if err != nil || evs[0].Verified != tt.verified {
				t.Fatalf("%+v, %v", evs, err)
			}
			got, err := os.ReadFile(dst)
			if err != nil || !bytes.Equal(got, data) {
				t.Errorf("content differs, %v", err)
			}
			fi, err := os.Stat(dst)
			if err != nil || !fi.ModTime().Equal(mtime) {
				t.Errorf("time %v, want %v (%v)", fi.ModTime(), mtime, err)
			}
			if diff := cmp.Diff(map[string]string{"out": string(data)}, tree(t, filepath.Dir(dst))); diff != "" {
				t.Error("other files are left")
			}
		})
	}
	st, err := c.Stat(t.Context(), loc(t, "s3://files/dir/1"), "")
	if err != nil || st.Metadata["mtime"] != "1600000000.123456" || st.MTime.UnixNano() != 1_600_000_000_123_456_000 {
		t.Errorf("%+v, %v", st, err)
	}
}

func TestTreeRoundTrip(t *testing.T) {
	s := startSite(t)
	s.bucket("trees")
	c := s.client()
	dir := t.TempDir()
	names := []string{
		"a.go", "b.txt", "sub/c.go", "sub/deep/er/d.bin", "with space/e +%?&#.txt", "ünïcode/日本.txt", "x/.hidden", "q\"uo'te", "new\nline",
		"node_modules/m/index.js", "a/b", "a-b",
	}
	for i, n := range names {
		writeFile(t, filepath.Join(dir, n), noise(i*1000, byte(i)))
	}
	want := tree(t, dir)
	sum, _, err := copyAll(t.Context(), t, c, CopyOptions{Recursive: true}, dir, "s3://trees/base")
	if err != nil || sum.Done != int64(len(names)) {
		t.Fatalf("%+v, %v", sum, err)
	}
	back := filepath.Join(t.TempDir(), "back")
	if _, _, err := copyAll(t.Context(), t, c, CopyOptions{Recursive: true}, "s3://trees/base", back); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, tree(t, back)); diff != "" {
		t.Error(diff)
	}

	t.Run("prefix is a directory", func(t *testing.T) {
		s.put(loc(t, "s3://trees/baseball/x"), []byte("x"))
		to := t.TempDir()
		if _, _, err := copyAll(t.Context(), t, c, CopyOptions{Recursive: true}, "s3://trees/base", to); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, tree(t, to)); diff != "" {
			t.Error(diff)
		}
	})
	t.Run("filters", func(t *testing.T) {
		f, err := NewFilter([]string{"*.go", "*.js"}, []string{"node_modules", "sub/deep/**"})
		if err != nil {
			t.Fatal(err)
		}
		to := t.TempDir()
		if _, _, err := copyAll(t.Context(), t, c, CopyOptions{Recursive: true, Filter: f}, "s3://trees/base", to); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(map[string]string{"a.go": want["a.go"], "sub/c.go": want["sub/c.go"]}, tree(t, to)); diff != "" {
			t.Error(diff)
		}
		if _, _, err := copyAll(t.Context(), t, c, CopyOptions{Recursive: true, Filter: f}, dir, "s3://trees/filtered"); err != nil {
			t.Fatal(err)
		}
		got := slices.DeleteFunc(s.keys("trees"), func(k string) bool { return !strings.HasPrefix(k, "filtered/") })
		if diff := cmp.Diff([]string{"filtered/a.go", "filtered/sub/c.go"}, got); diff != "" {
			t.Error(diff)
		}
	})
	t.Run("skip", func(t *testing.T) {
		for _, o := range []CopyOptions{{SkipExisting: true}, {Update: true}, {Checksum: true}} {
			o.Recursive = true
			for _, way := range [][2]string{{dir, "s3://trees/base"}, {"s3://trees/base", back}, {"s3://trees/base", "s3://trees/copy"}} {
				if strings.HasSuffix(way[1], "copy") {
					if _, _, err := copyAll(t.Context(), t, c, CopyOptions{Recursive: true}, way[0], way[1]); err != nil {
						t.Fatal(err)
					}
				}
				sum, _, err := copyAll(t.Context(), t, c, o, way[0], way[1])
				if err != nil || sum.Skipped != int64(len(names)) || sum.Done != 0 {
					t.Errorf("%v %+v: %+v, %v", way, o, sum, err)
				}
			}
		}
		// One file changes without a change of size and time: only the content tells.
		p := filepath.Join(dir, "sub/c.go")
		fi, err := os.Stat(p)
		if err != nil {
			t.Fatal(err)
		}
		writeFile(t, p, noise(int(fi.Size()), 99))
		if err := os.Chtimes(p, fi.ModTime(), fi.ModTime()); err != nil {
			t.Fatal(err)
		}
		sum, _, err := copyAll(t.Context(), t, c, CopyOptions{Recursive: true, Update: true}, dir, "s3://trees/base")
		if err != nil || sum.Done != 0 {
			t.Errorf("%+v, %v", sum, err)
		}
		sum, _, err = copyAll(t.Context(), t, c, CopyOptions{Recursive: true, Checksum: true}, dir, "s3://trees/base")
		if err != nil || sum.Done != 1 {
			t.Errorf("%+v, %v", sum, err)
		}
		// A newer file of the same size.
		if err := os.Chtimes(p, time.Now(), time.Now().Add(time.Hour)); err != nil {
			t.Fatal(err)
		}
		sum, _, err = copyAll(t.Context(), t, c, CopyOptions{Recursive: true, Update: true}, dir, "s3://trees/base")
		if err != nil || sum.Done != 1 {
			t.Errorf("%+v, %v", sum, err)
		}
	})
	t.Run("dry run", func(t *testing.T) {
		to := filepath.Join(t.TempDir(), "none")
		sum, evs, err := copyAll(t.Context(), t, c, CopyOptions{Recursive: true, DryRun: true}, "s3://trees/base", to)
		if err != nil || sum.Done != int64(len(names)) || evs[0].Status != Planned {
			t.Errorf("%+v, %v", sum, err)
		}
		if _, err := os.Stat(to); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("the dry run made %s", to)
		}
	})
	t.Run("several sources", func(t *testing.T) {
		to := filepath.Join(t.TempDir(), "to")
		if _, _, err := copyAll(t.Context(), t, c, CopyOptions{Recursive: true}, "s3://trees/base/sub", "s3://trees/base/x", to); err != nil {
			t.Fatal(err)
		}
		got := tree(t, to)
		if len(got) != 3 || got["x/.hidden"] == "" || got["sub/deep/er/d.bin"] == "" {
			t.Errorf("%d files", len(got))
		}
		if _, _, err := copyAll(t.Context(), t, c, CopyOptions{}, filepath.Join(dir, "a.go"), filepath.Join(dir, "b.txt"), "s3://trees/two"); err != nil {
			t.Fatal(err)
		}
		if got := s.keys("trees"); !slices.Contains(got, "two/a.go") || !slices.Contains(got, "two/b.txt") {
			t.Errorf("%v", got)
		}
	})
}

// TestUnsafeNames downloads a bucket full of hostile keys: nothing may appear outside the target directory.
func TestUnsafeNames(t *testing.T) {
	s := startSite(t)
	s.bucket("evil")
	c := s.client()
	outer := t.TempDir()
	target := filepath.Join(outer, "in", "target")
	outside := filepath.Join(outer, "outside")
	if err := errors.Join(os.MkdirAll(target, 0o755), os.Mkdir(outside, 0o755)); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(outside, filepath.Join(target, "link")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(filepath.Join(outside, "through"), filepath.Join(target, "file-link")); err != nil {
		t.Fatal(err)
	}
	unsafe := []string{
		"../up", "../../up", "a/../../up", "..", "sub/..", "./dot", "a/./b", "/absolute", "//etc/x", "double//slash",
		"nul\x00byte", "link/inside", "link/../x", "not-empty/",
	}
	safe := []string{"good", "...", "..x", "a/..b", "file-link", "back\\slash"}
	keys := slices.Concat(unsafe, safe, []string{"marker/"})
	for _, k := range keys {
		data := []byte("from " + k)
		if k == "marker/" {
			data = nil
		}
		s.put(Location{Remote: true, Bucket: "evil", Key: k}, data)
	}
	sum, evs, err := copyAll(t.Context(), t, c, CopyOptions{Recursive: true}, "s3://evil", target)
	if err == nil || sum.Failed != int64(len(unsafe)) || sum.Done != int64(len(safe)) || sum.Skipped != 1 {
		t.Errorf("%+v, %v", sum, err)
		for _, e := range evs {
			t.Logf("%s %s %q %s", e.Status, e.Source, e.Target, e.Message)
		}
	}
	want := map[string]string{"in/target/link": outside}
	for _, k := range safe {
		want["in/target/"+k] = "from " + k
	}
	if diff := cmp.Diff(want, tree(t, outer)); diff != "" {
		t.Error(diff)
	}
	for _, k := range []string{"sub/..", "..", "nul\x00byte"} {
		from := Location{Remote: true, Bucket: "evil", Key: k}
		if _, err := Copy(t.Context(), c, c, []Location{from}, Location{Path: target}, CopyOptions{}); err == nil {
			t.Errorf("%q was copied", k)
		}
	}
	if diff := cmp.Diff(want, tree(t, outer)); diff != "" {
		t.Error(diff)
	}
}

func TestLocalOddities(t *testing.T) {
	s := startSite(t)
	s.bucket("odd")
	c := s.client()
	dir := t.TempDir()
	writeFile(t, filepath.Join(dir, "plain"), []byte("p"))
	writeFile(t, filepath.Join(dir, "real", "f"), []byte("f"))
	writeFile(t, filepath.Join(dir, "bad\xffname"), []byte("b"))
	writeFile(t, filepath.Join(dir, ".firn-0011.part"), []byte("rest"))
	for link, to := range map[string]string{"to-file": "plain", "to-dir": "real", "real/loop": "..", "dangling": "nowhere"} {
		if err := os.Symlink(to, filepath.Join(dir, link)); err != nil {
			t.Fatal(err)
		}
	}
	if err := syscall.Mkfifo(filepath.Join(dir, "fifo"), 0o600); err != nil {
		t.Fatal(err)
	}
	reasons := func(evs []Event) map[string]string {
		m := map[string]string{}
		for _, e := range evs {
			if e.Status != Done {
				rel, err := filepath.Rel(dir, e.Source)
				if err != nil {
					t.Fatal(err)
				}
				m[rel] = string(e.Status)
			}
		}
		return m
	}
	sum, evs, err := copyAll(t.Context(), t, c, CopyOptions{Recursive: true}, dir, "s3://odd/plain")
	if err == nil || sum.Done != 2 {
		t.Errorf("%+v, %v", sum, err)
	}
	want := map[string]string{
		"to-file": "skipped", "to-dir": "skipped", "real/loop": "skipped", "dangling": "skipped", "fifo": "skipped",
		".firn-0011.part": "skipped", "bad\xffname": "failed",
	}
	if diff := cmp.Diff(want, reasons(evs)); diff != "" {
		t.Error(diff)
	}
	_, evs, err = copyAll(t.Context(), t, c, CopyOptions{Recursive: true, Follow: true}, dir, "s3://odd/follow")
	if err == nil {
		t.Error("the name that is no UTF-8 was no error")
	}
	want = map[string]string{
		"real/loop": "skipped", "to-dir/loop": "skipped", "dangling": "failed", "fifo": "skipped",
		".firn-0011.part": "skipped", "bad\xffname": "failed",
	}
	if diff := cmp.Diff(want, reasons(evs)); diff != "" {
		t.Error(diff)
	}
	got := slices.DeleteFunc(s.keys("odd"), func(k string) bool { return !strings.HasPrefix(k, "follow/") })
	if diff := cmp.Diff([]string{"follow/plain", "follow/real/f", "follow/to-dir/f", "follow/to-file"}, got); diff != "" {
		t.Error(diff)
	}
}

func TestMove(t *testing.T) {
	s := startSite(t)
	s.bucket("move")
	other := s.bucket("other")
	c := s.client()
	dir := t.TempDir()
	for i, n := range []string{"a", "d/b", "d/big"} {
		writeFile(t, filepath.Join(dir, n), noise(1000+i*6*mib, byte(i)))
	}
	want := tree(t, dir)
	o := smallParts(CopyOptions{Recursive: true, Move: true})
	sum, _, err := copyAll(t.Context(), t, c, o, dir, "s3://move/t")
	if err != nil || sum.Removed != 3 || len(tree(t, dir)) != 0 {
		t.Fatalf("%+v, %v", sum, err)
	}
	sum, _, err = copyAll(t.Context(), t, c, o, "s3://move/t", "s3://other/u")
	if err != nil || sum.Removed != 3 || len(s.keys("move")) != 0 {
		t.Fatalf("%+v, %v, %v", sum, err, s.keys("move"))
	}
	sum, _, err = copyAll(t.Context(), t, c, o, "s3://other/u", dir)
	if err != nil || sum.Removed != 3 || len(s.keys("other")) != 0 {
		t.Fatalf("%+v, %v, %v", sum, err, s.keys("other"))
	}
	if diff := cmp.Diff(want, tree(t, dir)); diff != "" {
		t.Error(diff)
	}

	t.Run("destination is not what was sent", func(t *testing.T) {
		s.body = func(r *http.Request, resp *http.Response) {
			if r.Method == http.MethodHead { // the look at the destination before the source goes
				resp.Header.Set("ETag", `"0123456789abcdef0123456789abcdef"`)
			}
		}
		defer func() { s.body = nil }()
		if _, _, err := copyAll(t.Context(), t, c, CopyOptions{Move: true}, filepath.Join(dir, "a"), "s3://move/a"); err == nil {
			t.Error("no error")
		}
		if diff := cmp.Diff(want, tree(t, dir)); diff != "" {
			t.Error("the source is gone")
		}
	})
	t.Run("local source changed meanwhile", func(t *testing.T) {
		p := filepath.Join(dir, "a")
		s.hook = func(_ http.ResponseWriter, r *http.Request) bool {
			if r.Method == http.MethodHead {
				writeFile(t, p, []byte("newer"))
			}
			return false
		}
		_, _, err := copyAll(t.Context(), t, c, CopyOptions{Move: true}, p, "s3://move/a")
		s.hook = nil
		if data, rerr := os.ReadFile(p); err == nil || string(data) != "newer" {
			t.Errorf("%v, %v: the newer content is lost", err, rerr)
		}
	})
	t.Run("remote source changed meanwhile", func(t *testing.T) {
		s.put(other.join("x"), []byte("old"))
		var n atomic.Int64
		s.hook = func(_ http.ResponseWriter, r *http.Request) bool {
			if r.Method == http.MethodHead && n.Add(1) == 2 { // after the HEAD of the plan, before the removal
				s.put(other.join("x"), []byte("new"))
			}
			return false
		}
		_, _, err := copyAll(t.Context(), t, c, CopyOptions{Move: true}, "s3://other/x", filepath.Join(dir, "x"))
		s.hook = nil
		if err == nil || string(s.get(other.join("x"))) != "new" {
			t.Errorf("%v: the new object is lost", err)
		}
	})
	t.Run("an object without a checksum is read twice", func(t *testing.T) {
		s.put(other.join("y"), []byte("content"))
		s.body = func(_ *http.Request, resp *http.Response) {
			if resp.Header.Get("ETag") != "" {
				resp.Header.Set("ETag", `"opaque"`)
			}
		}
		s.hook = func(_ http.ResponseWriter, r *http.Request) bool {
			r.Header.Del("If-Match")
			return false
		}
		_, evs, err := copyAll(t.Context(), t, c, CopyOptions{Move: true}, "s3://other/y", filepath.Join(dir, "y"))
		s.hook, s.body = nil, nil
		if err != nil || evs[0].Verified != "second read" || slices.Contains(s.keys("other"), "y") {
			t.Errorf("%+v, %v", evs, err)
		}
	})
}

func TestServerSideCopy(t *testing.T) {
	s := startSite(t)
	b := s.bucket("copies")
	c := s.client()
	src := filepath.Join(t.TempDir(), "page.html")
	writeFile(t, src, noise(12*mib, 9))
	o := smallParts(CopyOptions{ObjectOptions: ObjectOptions{Metadata: map[string]string{"owner": "me"}}})
	if _, _, err := copyAll(t.Context(), t, c, o, src, "s3://copies/page.html"); err != nil {
		t.Fatal(err)
	}
	s.requests()
	_, evs, err := copyAll(t.Context(), t, c, CopyOptions{}, "s3://copies/page.html", "s3://copies/dir/")
	if err != nil || evs[0].Op != "copy" || evs[0].Target != "s3://copies/dir/page.html" {
		t.Fatalf("%+v, %v", evs, err)
	}
	if got := s.requests("GET /copies/page.html"); len(got) != 0 {
		t.Errorf("the content went through the client: %q", got)
	}
	check := func(key string) {
		t.Helper()
		st, err := c.Stat(t.Context(), b.join(key), "")
		if err != nil || !strings.HasPrefix(st.ContentType, "text/html") || st.Metadata["owner"] != "me" || st.Metadata["mtime"] == "" {
			t.Errorf("%+v, %v", st, err)
		}
		if !bytes.Equal(s.get(b.join(key)), noise(12*mib, 9)) {
			t.Error("content differs")
		}
	}
	check("dir/page.html")
	o.Metadata = map[string]string{"owner": "you"}
	if _, _, err := copyAll(t.Context(), t, c, o, "s3://copies/page.html", "s3://copies/other"); err != nil {
		t.Fatal(err)
	}
	if st, err := c.Stat(t.Context(), b.join("other"), ""); err != nil || st.Metadata["owner"] != "you" || st.Metadata["mtime"] == "" {
		t.Errorf("%+v, %v", st, err)
	}

	obj, err := c.head(t.Context(), b.join("page.html"), "")
	if err != nil {
		t.Fatal(err)
	}
	var moved int64
	if _, err := c.copyParts(t.Context(), &obj, b.join("parts"), obj.inherit(ObjectOptions{}), 12*mib, func(n int64) { moved += n }); err != nil {
		t.Fatal(err)
	}
	if moved != 12*mib {
		t.Errorf("%d bytes counted", moved)
	}
	check("parts")
	obj.ETag = "0123456789abcdef0123456789abcdef"
	if _, err := c.copyParts(t.Context(), &obj, b.join("changed"), obj.inherit(ObjectOptions{}), 12*mib, func(int64) {}); err == nil {
		t.Error("a source with another ETag was copied")
	}
	if s.uploads("copies") != 0 {
		t.Error("an upload is left")
	}
	for _, bad := range [][]string{
		{"s3://copies/page.html", "s3://copies/page.html"}, {"s3://copies/missing", "s3://copies/x"},
	} {
		if _, _, err := copyAll(t.Context(), t, c, CopyOptions{}, bad...); err == nil {
			t.Errorf("%v: no error", bad)
		}
	}
}

// TestBetweenEndpoints copies through the client from one site to another.
func TestBetweenEndpoints(t *testing.T) {
	a, b := startSite(t), startSite(t)
	a.bucket("from")
	b.bucket("into")
	src := filepath.Join(t.TempDir(), "dir")
	sizes := []int{0, 5, mib, 12 * mib}
	for i, n := range sizes {
		writeFile(t, filepath.Join(src, fmt.Sprint(n)), noise(n, byte(i)))
	}
	if _, _, err := copyAll(t.Context(), t, a.client(), smallParts(CopyOptions{Recursive: true}), src, "s3://from/x"); err != nil {
		t.Fatal(err)
	}
	o := smallParts(CopyOptions{Recursive: true})
	var e events
	o.Report = e.add
	sum, err := Copy(t.Context(), a.client(), b.client(), []Location{loc(t, "s3://from/x")}, loc(t, "s3://into/y"), o)
	if err != nil || sum.Done != int64(len(sizes)) || e.all[0].Op != "stream" {
		t.Fatalf("%+v, %v", sum, err)
	}
	for i, n := range sizes {
		l := loc(t, fmt.Sprintf("s3://into/y/%d", n))
		if !bytes.Equal(b.get(l), noise(n, byte(i))) {
			t.Errorf("%s differs", l)
		}
		if st, err := b.client().Stat(t.Context(), l, ""); err != nil || st.MTime.IsZero() {
			t.Errorf("%+v, %v", st, err)
		}
	}
	// Bytes damaged on the way in must not become an object.
	a.body = func(r *http.Request, resp *http.Response) {
		if r.Method == http.MethodGet && !r.URL.Query().Has("list-type") {
			resp.Body = struct {
				io.Reader
				io.Closer
			}{&flipper{r: resp.Body}, resp.Body}
		}
	}
	for _, n := range sizes[1:] {
		from, to := loc(t, fmt.Sprintf("s3://from/x/%d", n)), loc(t, fmt.Sprintf("s3://into/bad/%d", n))
		if _, err := Copy(t.Context(), a.client(), b.client(), []Location{from}, to, smallParts(CopyOptions{})); err == nil {
			t.Errorf("%d bytes: damaged content was taken", n)
		}
	}
	if got := b.keys("into"); len(got) != len(sizes) || b.uploads("into") != 0 {
		t.Errorf("%v", got)
	}
}

func TestStreams(t *testing.T) {
	s := startSite(t)
	b := s.bucket("streams")
	c := s.client()
	for i, n := range []int{0, 1, minPartSize, minPartSize + 1, 17 * mib} {
		data := noise(n, byte(i))
		o := smallParts(CopyOptions{Stdin: iotest.HalfReader(bytes.NewReader(data))})
		if _, _, err := copyAll(t.Context(), t, c, o, "-", "s3://streams/x"); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(s.get(b.join("x")), data) {
			t.Errorf("%d bytes differ", n)
		}
		var out bytes.Buffer
		if _, err := c.Cat(t.Context(), b.join("x"), &out, CatOptions{Length: -1}); err != nil || !bytes.Equal(out.Bytes(), data) {
			t.Errorf("%d bytes: cat: %v", n, err)
		}
	}
	for _, n := range []int{100, 12 * mib} {
		o := smallParts(CopyOptions{Stdin: io.MultiReader(bytes.NewReader(noise(n, 1)), iotest.ErrReader(io.ErrUnexpectedEOF))})
		if _, _, err := copyAll(t.Context(), t, c, o, "-", "s3://streams/broken"); err == nil {
			t.Errorf("%d bytes: a stream that broke was taken as whole", n)
		}
		if slices.Contains(s.keys("streams"), "broken") || s.uploads("streams") != 0 {
			t.Errorf("%d bytes: something is left", n)
		}
	}
	for _, bad := range []CopyOptions{{Recursive: true}, {Move: true}} {
		bad.Stdin = strings.NewReader("x")
		if _, _, err := copyAll(t.Context(), t, c, bad, "-", "s3://streams/x"); firn.KindOf(err) != firn.Invalid {
			t.Errorf("%+v: %v", bad, err)
		}
	}
	if _, _, err := copyAll(t.Context(), t, c, CopyOptions{Stdin: strings.NewReader("x")}, "-", "s3://streams/"); firn.KindOf(err) != firn.Invalid {
		t.Errorf("%v", err)
	}
}

func TestCatRanges(t *testing.T) {
	s := startSite(t)
	b := s.bucket("cats")
	c := s.client()
	data := noise(1000, 1)
	s.put(b.join("x"), data)
	s.put(b.join("empty"), nil)
	for _, tt := range []struct{ off, length, from, to int64 }{
		{0, -1, 0, 1000}, {10, -1, 10, 1000}, {10, 5, 10, 15}, {-5, -1, 995, 1000}, {-5000, -1, 0, 1000}, {990, 100, 990, 1000}, {5000, -1, 0, 0}, {5, 0, 0, 0}, {0, 1, 0, 1},
	} {
		var out bytes.Buffer
		n, err := c.Cat(t.Context(), b.join("x"), &out, CatOptions{Offset: tt.off, Length: tt.length})
		if err != nil || !bytes.Equal(out.Bytes(), data[tt.from:tt.to]) || n != tt.to-tt.from {
			t.Errorf("%+v: %d bytes, %v", tt, n, err)
		}
	}
	if n, err := c.Cat(t.Context(), b.join("empty"), io.Discard, CatOptions{Length: -1}); n != 0 || err != nil {
		t.Errorf("%d, %v", n, err)
	}
	if _, err := c.Cat(t.Context(), b.join("none"), io.Discard, CatOptions{Length: -1}); firn.KindOf(err) != firn.NotFound {
		t.Errorf("%v", err)
	}
	s.body = func(_ *http.Request, resp *http.Response) {
		resp.Body = struct {
			io.Reader
			io.Closer
		}{&flipper{r: resp.Body}, resp.Body}
	}
	if _, err := c.Cat(t.Context(), b.join("x"), io.Discard, CatOptions{Length: -1}); firn.KindOf(err) != firn.Corrupt {
		t.Errorf("%v", err)
	}
}

func TestRefusedCopies(t *testing.T) {
	s := startSite(t)
	b := s.bucket("refused")
	s.put(b.join("a/x"), []byte("x"))
	c := s.client()
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	writeFile(t, file, []byte("f"))
	rec := CopyOptions{Recursive: true}
	for name, tt := range map[string]struct {
		o    CopyOptions
		args []string
		kind firn.Kind
	}{
		"local to local":         {CopyOptions{}, []string{file, dir}, firn.Invalid},
		"no bucket":              {CopyOptions{}, []string{file, "s3://"}, firn.Invalid},
		"bucket without -r":      {CopyOptions{}, []string{"s3://refused", dir}, firn.Invalid},
		"prefix without -r":      {CopyOptions{}, []string{"s3://refused/a/", dir}, firn.Invalid},
		"directory without -r":   {CopyOptions{}, []string{dir, "s3://refused/x"}, firn.Invalid},
		"into itself":            {rec, []string{"s3://refused/a", "s3://refused/a/b"}, firn.Invalid},
		"bucket into itself":     {rec, []string{"s3://refused", "s3://refused/b"}, firn.Invalid},
		"onto itself":            {rec, []string{"s3://refused/a", "s3://refused/a"}, firn.Invalid},
		"missing prefix":         {rec, []string{"s3://refused/none", dir}, firn.NotFound},
		"missing object":         {CopyOptions{}, []string{"s3://refused/none", dir}, firn.NotFound},
		"missing file":           {CopyOptions{}, []string{filepath.Join(dir, "none"), "s3://refused/x"}, firn.NotFound},
		"tree onto a file":       {rec, []string{"s3://refused/a", file}, firn.Conflict},
		"onto a device":          {CopyOptions{}, []string{"s3://refused/a/x", "/dev/null"}, firn.Invalid},
		"version of many":        {CopyOptions{Recursive: true, VersionID: "1"}, []string{"s3://refused/a", dir}, firn.Invalid},
		"part size":              {CopyOptions{ObjectOptions: ObjectOptions{PartSize: 1}}, []string{file, "s3://refused/x"}, firn.Invalid},
		"nothing":                {CopyOptions{}, []string{"s3://refused/x"}, firn.Invalid},
		"missing bucket of list": {rec, []string{"s3://nobucket", dir}, firn.NotFound},
	} {
		t.Run(name, func(t *testing.T) {
			sum, _, err := copyAll(t.Context(), t, c, tt.o, tt.args...)
			if firn.KindOf(err) != tt.kind || sum.Done != 0 {
				t.Errorf("%v (%v), %+v", err, firn.KindOf(err), sum)
			}
		})
	}
	// A file where the tree wants a directory fails alone.
	s.put(b.join("clash/f"), []byte("1"))
	s.put(b.join("clash/f/g"), []byte("2"))
	s.put(b.join("clash/ok"), []byte("3"))
	sum, _, err := copyAll(t.Context(), t, c, rec, "s3://refused/clash", t.TempDir())
	if err == nil || sum.Done != 2 || sum.Failed != 1 {
		t.Errorf("%+v, %v", sum, err)
	}
}
