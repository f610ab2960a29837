package gitblob

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"firn"
	"firn/blob"
	"firn/blob/driver"
	"firn/internal/gitrepo"
)

// TestMain lets the test binary be the process that is killed.
func TestMain(m *testing.M) {
	if dir := os.Getenv("GITBLOB_TEST_WRITER"); dir != "" {
		writeUntilKilled(dir)
		return
	}
	os.Exit(m.Run())
}

// writeUntilKilled puts blobs and says which ones were acknowledged.
func writeUntilKilled(dir string) {
	d, err := New(context.Background(), Options{Dir: dir, PieceSize: 64 << 10})
	if err != nil {
		fmt.Println("error", err)
		return
	}
	for i := 0; ; i++ {
		key := fmt.Sprintf("k/%s/%d", os.Getenv("GITBLOB_TEST_ROUND"), i)
		if err := d.Put(context.Background(), key, blob.Bytes(bytes.Repeat([]byte(key), 1+i%3*20_000))); err != nil {
			fmt.Println("error", err)
			return
		}
		fmt.Println(key)
	}
}

func TestKilled(t *testing.T) {
	opt := local(t)
	if err := open(t, opt).Close(); err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	var acknowledged []string
	for round := range 6 {
		c := exec.Command(self)
		c.Env = append(os.Environ(), "GITBLOB_TEST_WRITER="+opt.Dir, "GITBLOB_TEST_ROUND="+strconv.Itoa(round))
		out, err := c.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		in := bufio.NewScanner(out)
		for n := 0; n < 3+round && in.Scan(); n++ {
			if strings.HasPrefix(in.Text(), "error") {
				t.Error(in.Text())
			}
			acknowledged = append(acknowledged, in.Text())
		}
		c.Process.Kill() // an error is that it has ended, which the scan showed
		for in.Scan() {
			acknowledged = append(acknowledged, in.Text())
		}
		c.Wait() // killed
		// A git that lost its parent in the middle of moving the branch.
		if round%2 == 0 {
			lock := filepath.Join(opt.Dir, "refs", "heads", "main.lock")
			if err := os.WriteFile(lock, []byte("half"), 0o600); err != nil {
				t.Fatal(err)
			}
			old := time.Now().Add(-3 * time.Second)
			if err := os.Chtimes(lock, old, old); err != nil {
				t.Fatal(err)
			}
		}
	}
	p := open(t, opt)
	defer p.Close()
	for _, key := range acknowledged {
		if _, err := p.Stat(t.Context(), key); err != nil {
			t.Errorf("%s was acknowledged: %v", key, err)
		}
	}
	if err := p.Put(t.Context(), "after", blob.Bytes([]byte("1"))); err != nil {
		t.Error(err)
	}
	if out, err := exec.Command("git", "--git-dir", opt.Dir, "fsck", "--full", "--connectivity-only").CombinedOutput(); err != nil {
		t.Errorf("git fsck: %v\n%s", err, out)
	}
}

// A lock file that a living process may hold stays.
func TestHeldLockStays(t *testing.T) {
	opt := local(t)
	p := open(t, opt)
	defer p.Close()
	if err := p.Put(t.Context(), "a", blob.Bytes([]byte("1"))); err != nil {
		t.Fatal(err)
	}
	lock := filepath.Join(opt.Dir, "refs", "heads", "main.lock")
	if err := os.WriteFile(lock, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	// Somebody else's process, at work in the repository.
	c := exec.Command("sleep", "60")
	c.Dir = opt.Dir
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { c.Process.Kill(); c.Wait() }()
	if err := p.Put(t.Context(), "b", blob.Bytes([]byte("2"))); firn.KindOf(err) != firn.Unavailable {
		t.Errorf("a put while the branch is locked: %v, want unavailable", err)
	}
	if _, err := os.Stat(lock); err != nil {
		t.Errorf("the lock of a living process: %v", err)
	}
}

func TestSquashFreesSpace(t *testing.T) {
	opt := local(t)
	opt.History, opt.SquashAfter, opt.Grace = "squash", 6, time.Nanosecond
	p := open(t, opt)
	defer p.Close()
	var big [512 << 10]byte
	var first gitrepo.ID
	for i := range 12 {
		for j := range big {
			big[j] = byte((i + 3) * (j ^ j>>7) >> 3)
		}
		if i == 0 {
			first = p.repo.BlobID(big[:])
		}
		if err := p.Put(t.Context(), "one", blob.Bytes(big[:])); err != nil {
			t.Fatal(err)
		}
	}
	want, err := p.repo.Head(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if depth, err := p.repo.Depth(t.Context(), want); err != nil || depth > 7 {
		t.Errorf("the history has %d commits, %v", depth, err)
	}
	if err := p.repo.Collect(t.Context(), time.Now().Add(time.Hour)); err != nil {
		t.Fatal(err)
	}
	if err := exec.Command("git", "--git-dir", opt.Dir, "cat-file", "-e", string(first)).Run(); err == nil {
		t.Error("what was replaced before the last squash still takes space")
	}
	r, err := p.Get(t.Context(), "one", 0, -1)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	var got bytes.Buffer
	if _, err := got.ReadFrom(r); err != nil || !bytes.Equal(got.Bytes(), big[:]) {
		t.Errorf("read %d bytes, %v", got.Len(), err)
	}
}

// Files of others in the branch are not shown and not touched.
func TestForeignFiles(t *testing.T) {
	opt := local(t)
	p := open(t, opt)
	defer p.Close()
	imp, err := p.repo.Import(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	id := imp.Blob([]byte("text"))
	imp.Commit("", time.Now(), "by hand")
	imp.Modify(gitrepo.File, id, ".gitignore")
	imp.Modify(gitrepo.Symlink, id, "link")
	head, err := imp.Close()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.repo.Publish(t.Context(), "", head); err != nil {
		t.Fatal(err)
	}
	if err := p.Put(t.Context(), "a", blob.Bytes([]byte("1"))); err != nil {
		t.Fatal(err)
	}
	var keys []string
	if err := p.List(t.Context(), "", func(i driver.Info) error { keys = append(keys, i.Key); return nil }); err != nil {
		t.Fatal(err)
	}
	if len(keys) != 1 || keys[0] != "a" {
		t.Errorf("listed %q", keys)
	}
	files := 0
	if err := p.repo.Tree(t.Context(), p.mu.cat.head, func(gitrepo.Entry) error { files++; return nil }); err != nil || files != 3 {
		t.Errorf("the branch has %d files, %v, want 3", files, err)
	}
}

func TestFromURL(t *testing.T) {
	t.Setenv("FIRN_GIT_PASSWORD", "secret")
	for s, ok := range map[string]bool{
		"git+file:///a/b.git?branch=x&history=squash&create=true": true,
		"git+ssh://u@h:22/p.git?key=/k&known-hosts=/n&max-age=5s": true,
		"git+https://u@h/p.git?ca=/c&mirror=/m":                   true,
		"git+https://u:p@h/p.git":                                 false,
		"git+http://u@h/p.git":                                    false, // the password would be readable
		"git+file://host/a":                                       false,
		"git+file:///a?mirror=/b":                                 false,
		"git+file:///a?history=none":                              false,
		"git+ssh://h":                                             false,
		"git+ext://h/sh":                                          false,
		"git+file:///a?branch=x&branch=y":                         false,
	} {
		u, err := url.Parse(s)
		if err != nil {
			t.Fatal(err)
		}
		opt, err := FromURL(u)
		if (err == nil) != ok {
			t.Errorf("%s: %v", s, err)
		}
		if strings.Contains(opt.Remote, "secret") || strings.Contains(fmt.Sprint(err), "secret") {
			t.Errorf("%s: the password shows in %q, %v", s, opt.Remote, err)
		}
	}
}

func FuzzPath(f *testing.F) {
	for _, s := range []string{"a/b", ".git/config", "a%2Fb", "%2E", "x%pieces/00000001", "%%", "a//b"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if got, ok := decodePath(encodePath(s)); !ok || got != s {
			t.Errorf("%q is kept as %q and read as %q, %t", s, encodePath(s), got, ok)
		}
		if key, n, ok := parsePath(s); ok && n >= 0 && piecePath(key, n) != s || ok && n < 0 && encodePath(key) != s {
			t.Errorf("%q is taken for piece %d of %q", s, n, key)
		}
	})
}
