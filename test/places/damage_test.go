package places

import (
	"bytes"
	"crypto/rand"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// local is a user with one backup in a directory.
func local(t *testing.T) (u *user, repository string) {
	t.Helper()
	p := filePlace(t)
	u = newUser(t, p)
	u.run(t, 0, "repo", "init")
	u.write(t, 1)
	u.run(t, 0, "backup", "--tag", "first", "src")
	return u, strings.TrimPrefix(p.url, "file:")
}

// below returns the files beneath a directory of the repository, the largest first.
func below(t *testing.T, dir string) []string {
	t.Helper()
	var names []string
	largest := -1
	for name, b := range content(t, dir) {
		if names = append(names, dir+name); len(b) > largest {
			largest = len(b)
			names[0], names[len(names)-1] = names[len(names)-1], names[0]
		}
	}
	return names
}

func says(t *testing.T, out string, want ...string) {
	t.Helper()
	for _, w := range want {
		if !strings.Contains(out, w) {
			t.Errorf("nothing says %q in %d bytes:\n%s", w, len(out), out[:min(len(out), 2000)])
		}
	}
}

// A password that is wrong is called that.
func TestWrongPassword(t *testing.T) {
	t.Parallel()
	u, repository := local(t)
	c := u.command("snapshots")
	c.Env = append(c.Env, "FIRN_REPO_PASSWORD=another")
	out := finish(t, c, 1)
	says(t, out, "file:"+repository+": wrong password")
	if strings.Contains(out, "another") {
		t.Errorf("the password is shown:\n%s", out)
	}
}

// Where a pack is cut off or gone, check and restore name it and each file that is lost with it, with no more than a
// listing; put back, all is whole again.
func TestLostPack(t *testing.T) {
	t.Parallel()
	u, repository := local(t)
	pack := below(t, filepath.Join(repository, "packs"))[0]
	whole, err := os.ReadFile(pack)
	if err != nil {
		t.Fatal(err)
	}
	want := content(t, u.src())
	for name, c := range map[string]struct {
		harm           func() error
		check, restore string
	}{
		"cut off": {func() error { return os.Truncate(pack, int64(len(whole)/2)) }, "the pack has ", ": it is cut off"},
		"gone":    {func() error { return os.Remove(pack) }, "the pack is missing", ": not found"},
	} {
		t.Run(name, func(t *testing.T) {
			if err := c.harm(); err != nil {
				t.Fatal(err)
			}
			out := u.run(t, 3, "repo", "check")
			says(t, out, "packs/"+filepath.Base(pack)[:2]+"/"+filepath.Base(pack)+": "+c.check)
			to := filepath.Join(t.TempDir(), "out")
			lost := u.run(t, 3, "restore", "latest:"+u.src(), "--target", to)
			says(t, lost, "packs/"+filepath.Base(pack)[:2]+"/"+filepath.Base(pack), c.restore)
			got := content(t, to)
			for name, b := range want {
				path := u.src() + name
				damaged, unreadable := strings.Contains(out, "damaged: "+path+" in"), strings.Contains(lost, "unreadable "+path+":")
				// A restore reads of a pack that is cut off what is still there.
				if g, ok := got[name]; unreadable == ok || ok && !bytes.Equal(g, b) || unreadable && !damaged {
					t.Errorf("%s: restored %v, %d of %d bytes; named by check %v, by restore %v", path, ok, len(g), len(b), damaged, unreadable)
				}
			}
			if err := os.WriteFile(pack, whole, 0o644); err != nil {
				t.Fatal(err)
			}
			u.run(t, 0, "repo", "check", "--read-data")
			u.restored(t, "latest", want)
		})
	}
}

// A backup that was killed leaves a session, and packs that nothing refers to. Backups go on beside it; a prune that is
// told how soon to take it for dead removes both.
func TestLeftoverSession(t *testing.T) {
	t.Parallel()
	u, repository := local(t)
	packs := len(below(t, filepath.Join(repository, "packs")))
	c := u.command("backup", "--stdin", "--as", "endless")
	in, err := c.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	fed := make(chan struct{})
	go func() {
		defer close(fed)
		_, _ = io.Copy(in, rand.Reader) // until the other end is gone
	}()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	end := time.Now().Add(30 * time.Second)
	for len(below(t, filepath.Join(repository, "packs"))) <= packs && time.Now().Before(end) {
		<-tick.C
	}
	if n := len(below(t, filepath.Join(repository, "packs"))); n <= packs {
		t.Errorf("%d packs after 30 seconds of the backup, %d before", n, packs)
	}
	_ = c.Process.Kill() // what it leaves is looked at
	_ = c.Wait()
	<-fed
	if left := len(below(t, filepath.Join(repository, "sessions"))); left != 1 {
		t.Fatalf("%d sessions are left, want that of the killed backup", left)
	}
	u.write(t, 2)
	want := content(t, u.src())
	u.run(t, 0, "backup", "--tag", "second", "src")
	u.run(t, 0, "forget", "--keep-last", "1", "--group-by", "host")
	u.run(t, 0, "repo", "prune", "--session-timeout", "1s", "--max-unused", "0")
	if left := below(t, filepath.Join(repository, "sessions")); len(left) != 0 {
		t.Errorf("sessions are left: %v", left)
	}
	if n := u.packs(t); n > 8<<20 {
		t.Errorf("%d bytes are in packs: those of the killed backup are there yet", n)
	}
	u.run(t, 0, "repo", "check", "--read-data")
	u.restored(t, "latest", want)
}
