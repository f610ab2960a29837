//go:build servers

package gitblob

import (
	"bytes"
	"context"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"firn"
	"firn/blob"
	"firn/blob/driver"
	"firn/test/backends"
)

// line is a place on a server of Git by ssh, reached by way of a relay that counts connections.
func line(t *testing.T, config ...string) (*backends.Relay, Options) {
	t.Helper()
	g := backends.GitSSH(t, config...)
	u, err := url.Parse(g.Repository(t, "line.git"))
	if err != nil {
		t.Fatal(err)
	}
	relay := backends.NewRelay(t, u.Host)
	key, err := os.ReadFile(g.KnownHosts)
	if err != nil {
		t.Fatal(err)
	}
	// Another port: known_hosts has the server's key under its own.
	_, port, _ := strings.Cut(relay.Addr, ":")
	u.Host = relay.Addr
	opt := remote(t, g, u.String())
	opt.KnownHostsFile = filepath.Join(t.TempDir(), "known hosts 100%")
	write(t, opt.KnownHostsFile, "[127.0.0.1]:"+port+string(key[bytes.IndexByte(key, ' '):]))
	return relay, opt
}

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

func put(t *testing.T, p *place, from, to int) {
	t.Helper()
	for i := from; i < to; i++ {
		if err := p.Put(t.Context(), fmt.Sprint("k", i), blob.Bytes([]byte("x"))); err != nil {
			t.Fatal(err)
		}
	}
}

// temporary gives the test a directory for temporary files, with a short path.
func temporary(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "t") // t.TempDir is too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	t.Setenv("TMPDIR", dir)
	return dir
}

// The commands of one place share a connection, one that is lost is replaced, and Close leaves nothing behind.
func TestSharedConnection(t *testing.T) {
	relay, opt := line(t)
	tmp := temporary(t)
	p := open(t, opt)
	put(t, p, 0, 6)
	// To ask for a branch that is not there yet ends as a lost connection does.
	if all, _ := relay.Served(); all != 3 {
		t.Errorf("%d connections for six puts, want two of the first and one for all others", all)
	}
	// A call that is cancelled takes the connection from nobody.
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := p.Put(ctx, "cancelled", blob.Bytes(nil)); err == nil {
		t.Error("a cancelled put succeeds")
	}
	put(t, p, 6, 8)
	if all, open := relay.Served(); all != 3 || open != 1 {
		t.Errorf("%d connections, %d of them open, want 3 and 1", all, open)
	}
	relay.Cut()
	put(t, p, 8, 12)
	if all, _ := relay.Served(); all > 5 {
		t.Errorf("%d connections after the shared one was cut, want at most two more", all)
	}
	dirs, err := filepath.Glob(filepath.Join(tmp, "firn-*"))
	if err != nil || len(dirs) != 1 {
		t.Fatalf("temporary files: %v, %v, want the directory of the socket", dirs, err)
	}
	if info, err := os.Stat(dirs[0]); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("the directory of the socket: %v, %v, want 0700", info.Mode(), err)
	}
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(dirs[0]); !os.IsNotExist(err) {
		t.Errorf("%s after Close: %v, want nothing there", dirs[0], err)
	}
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(10 * time.Second); ; <-tick.C {
		_, open := relay.Served()
		if open == 0 {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("%d connections are open after Close", open)
		}
	}
}

// Of a server that gives a connection one session, those who find it taken use connections of their own.
func TestNotShared(t *testing.T) {
	_, opt := line(t, "MaxSessions 1")
	p := open(t, opt)
	defer p.Close()
	put(t, p, 0, 2)
	var all sync.WaitGroup
	for range 6 {
		all.Go(func() {
			if err := p.List(t.Context(), "", func(driver.Info) error { return nil }); err != nil {
				t.Error(err)
			}
		})
		all.Go(func() {
			if _, err := p.Stat(t.Context(), "nothing"); firn.KindOf(err) != firn.NotFound {
				t.Error(err)
			}
		})
	}
	put(t, p, 2, 5)
	all.Wait()
}

// What the user has set for git to run in place of ssh is run as it is, unless the place says which key to use.
func TestOwnCommand(t *testing.T) {
	relay, opt := line(t)
	dir := t.TempDir()
	used := filepath.Join(dir, "used")
	script := filepath.Join(dir, "my-ssh")
	write(t, script, fmt.Sprintf("#!/bin/sh\necho x >>%q\nexec ssh -F none -i %q -o 'UserKnownHostsFile=\"%s\"' \"$@\"\n",
		used, opt.KeyFile, strings.ReplaceAll(opt.KnownHostsFile, "%", "%%")))
	if err := os.Chmod(script, 0o700); err != nil {
		t.Fatal(err)
	}
	home := t.TempDir()
	t.Setenv("HOME", home)
	t.Setenv("XDG_CONFIG_HOME", "")
	own := opt
	own.KeyFile, own.KnownHostsFile = "", ""
	runs := func(opt Options) int {
		t.Helper()
		_ = os.Remove(used) // where it is there
		opt.Dir = filepath.Join(t.TempDir(), "mirror.git")
		p := open(t, opt)
		defer p.Close()
		put(t, p, 0, 3)
		b, err := os.ReadFile(used)
		if err != nil && !os.IsNotExist(err) {
			t.Fatal(err)
		}
		return bytes.Count(b, []byte("x"))
	}
	t.Setenv("GIT_SSH_VARIANT", "ssh")
	write(t, filepath.Join(home, ".gitconfig"), "[core]\n\tsshCommand = "+script+"\n")
	before, _ := relay.Served()
	if n := runs(own); n < 3 {
		t.Errorf("core.sshCommand was run %d times for three puts", n)
	} else if after, _ := relay.Served(); after-before != n {
		t.Errorf("%d connections for %d runs of the user's command", after-before, n)
	}
	if n := runs(opt); n != 0 {
		t.Errorf("core.sshCommand was run %d times though the place has a key of its own", n)
	}
	if err := os.Remove(filepath.Join(home, ".gitconfig")); err != nil {
		t.Fatal(err)
	}
	t.Setenv("GIT_SSH_COMMAND", script)
	if n := runs(own); n < 3 {
		t.Errorf("GIT_SSH_COMMAND was run %d times for three puts", n)
	}
}
