//go:build servers

package sftpblob

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"firn"
	"firn/blob"
	"firn/blob/driver"
	"firn/blob/drivertest"
	"firn/test/backends"
)

func options(t *testing.T, s *backends.SSH, addr, root string) Options {
	t.Helper()
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		t.Fatal(err)
	}
	n, err := strconv.Atoi(port)
	if err != nil {
		t.Fatal(err)
	}
	return Options{
		Host: host, Port: n, User: s.User, Root: root, KeyFiles: []string{s.KeyFile}, KnownHosts: []string{s.KnownHosts},
		Agent: "/nonexistent",
	}
}

// fresh returns a driver on a new directory.
func fresh(t *testing.T, opt Options) *place {
	t.Helper()
	opt.Root = filepath.Join(opt.Root, strings.ToLower(rand.Text()))
	if err := Init(t.Context(), opt); err != nil {
		t.Fatal(err)
	}
	return second(t, opt)
}

func second(t *testing.T, opt Options) *place {
	t.Helper()
	d, err := New(t.Context(), opt)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return d.(*place)
}

func TestSuite(t *testing.T) {
	t.Parallel()
	s := backends.SSHD(t)
	drivertest.Run(t, func(t *testing.T) driver.Driver { return fresh(t, options(t, s, s.Addr, s.Root)) },
		drivertest.Expect(drivertest.Creator|drivertest.Measurer|drivertest.Resumer),
		drivertest.Blobs(1200), drivertest.Rounds(20),
		drivertest.Second(func(t *testing.T, d driver.Driver) driver.Driver { return second(t, d.(*place).opt) }),
		drivertest.Gone(func(t *testing.T, d driver.Driver) {
			root := d.(*place).opt.Root
			if err := os.Rename(root, root+"-unmounted"); err != nil {
				t.Fatal(err)
			}
			if err := os.Mkdir(root, 0o755); err != nil { // a mount point without its mount
				t.Fatal(err)
			}
		}))
}

func TestKilled(t *testing.T) {
	t.Parallel()
	s := backends.SSHD(t)
	drivertest.Killed(t, fresh(t, options(t, s, s.Addr, s.Root)), s)
}

// TestStalled: calls over a line that stalls end with their context, and the next ones connect again.
func TestStalled(t *testing.T) {
	t.Parallel()
	s := backends.SSHD(t)
	relay := backends.NewRelay(t, s.Addr)
	// Another port: known_hosts has the key under the server's own.
	known, err := os.ReadFile(s.KnownHosts)
	if err != nil {
		t.Fatal(err)
	}
	_, port, _ := net.SplitHostPort(relay.Addr)
	opt := options(t, s, relay.Addr, s.Root)
	opt.KnownHosts = []string{filepath.Join(t.TempDir(), "known_hosts")}
	line := "[127.0.0.1]:" + port + string(known[bytes.IndexByte(known, ' '):])
	if err := os.WriteFile(opt.KnownHosts[0], []byte(line), 0o600); err != nil {
		t.Fatal(err)
	}
	p := fresh(t, opt)
	content := make([]byte, 8<<20)
	rand.Read(content) // never fails
	if err := p.Put(t.Context(), "blob", blob.Bytes(content)); err != nil {
		t.Fatal(err)
	}
	relay.Stall()
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	for name, call := range map[string]func() error{
		"put":  func() error { return p.Put(ctx, "other", blob.Bytes(content)) },
		"get":  func() error { _, err := p.Get(ctx, "blob", 0, -1); return err },
		"stat": func() error { _, err := p.Stat(ctx, "blob"); return err },
		"list": func() error { return p.List(ctx, "", func(driver.Info) error { return nil }) },
	} {
		if err := drivertest.Within(t, name, call); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%s over a line that stalls: %v, want the context's error", name, err)
		}
	}
	relay.Resume()
	relay.Cut()
	ok := false
	for range 10 { // each of the connections may turn out to be cut once
		if got, err := blob.New(p, "").ReadAll(t.Context(), "blob", 1<<30); err == nil && bytes.Equal(got, content) {
			ok = true
			break
		} else if firn.KindOf(err) != firn.Unavailable {
			t.Fatalf("get after the line was cut: %v", err)
		}
	}
	if !ok {
		t.Error("no get succeeds after the line was cut")
	}
}

func TestLogin(t *testing.T) {
	t.Parallel()
	s, other := backends.SSHD(t), backends.SSHD(t)
	good := options(t, s, s.Addr, s.Root)
	const password = "not-the-password-at-all"
	for name, change := range map[string]func(*Options){
		"a key the server does not know": func(o *Options) { o.KeyFiles = []string{other.KeyFile} },
		"a wrong password":               func(o *Options) { o.KeyFiles, o.Password = []string{other.KeyFile}, password },
		"an unknown user":                func(o *Options) { o.User = "nobody-of-that-name" },
		"an unknown server":              func(o *Options) { o.KnownHosts = []string{other.KnownHosts} },
		"no known_hosts":                 func(o *Options) { o.KnownHosts = []string{os.DevNull} },
		"another key of the server": func(o *Options) {
			theirs, err := os.ReadFile(other.KnownHosts)
			if err != nil {
				t.Fatal(err)
			}
			o.KnownHosts = []string{filepath.Join(t.TempDir(), "known_hosts")}
			_, port, _ := net.SplitHostPort(s.Addr)
			line := "[127.0.0.1]:" + port + string(theirs[bytes.IndexByte(theirs, ' '):])
			if err := os.WriteFile(o.KnownHosts[0], []byte(line), 0o600); err != nil {
				t.Fatal(err)
			}
		},
	} {
		opt := good
		change(&opt)
		d := second(t, opt)
		if err := d.Put(t.Context(), "blob", blob.Bytes(nil)); firn.KindOf(err) != firn.Denied || strings.Contains(err.Error(), password) {
			t.Errorf("%s: %v (%v), want firn.Denied without a secret", name, err, firn.KindOf(err))
		}
	}
}

// TestFull: a file system without room is firn.NoSpace, keeps the old blob, and still deletes.
func TestFull(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=4m"); err != nil {
		t.Fatalf("mount a small file system (as root): %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
	s := backends.SSHD(t, filepath.Join(dir, "root"))
	p := fresh(t, options(t, s, s.Addr, s.Root))
	old := bytes.Repeat([]byte("old"), 1<<20/3)
	if err := p.Put(t.Context(), "blob", blob.Bytes(old)); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := p.Put(t.Context(), "blob", blob.Bytes(make([]byte, 8<<20))); firn.KindOf(err) != firn.NoSpace {
			t.Errorf("put into a full file system: %v (%v), want firn.NoSpace", err, firn.KindOf(err))
		}
	}
	if got, err := blob.New(p, "").ReadAll(t.Context(), "blob", 1<<30); err != nil || !bytes.Equal(got, old) {
		t.Errorf("the old blob after a put that failed: %d bytes, %v", len(got), err)
	}
	if err := p.Put(t.Context(), "more", blob.Bytes(make([]byte, 2<<20))); err != nil {
		t.Errorf("what failed left its space taken: %v", err)
	}
	if err := p.Delete(t.Context(), "blob"); err != nil {
		t.Error(err)
	}
}
