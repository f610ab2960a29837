//go:build servers

package gitblob

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"firn"
	"firn/blob"
	"firn/blob/driver"
	"firn/blob/drivertest"
	"firn/test/backends"
)

func remote(t *testing.T, g *backends.Git, url string) Options {
	t.Helper()
	return Options{
		Remote: url, Dir: filepath.Join(t.TempDir(), "mirror.git"), PieceSize: 3 << 20,
		KeyFile: g.KeyFile, KnownHostsFile: g.KnownHosts, Username: g.User, Password: g.Password, CAFile: g.CAFile,
		Timeout: 10 * time.Second,
	}
}

func TestSSH(t *testing.T) {
	t.Parallel()
	suite(t, backends.GitSSH(t))
}

func TestHTTPS(t *testing.T) {
	t.Parallel()
	g := backends.GitHTTPS(t)
	suite(t, g)
	wrong := remote(t, g, g.Repository(t, "https.git"))
	wrong.Password = "wrong-" + wrong.Password
	if p, err := New(t.Context(), wrong); err == nil {
		err = p.Put(t.Context(), "b", blob.Bytes([]byte("x")))
		if k := firn.KindOf(err); k != firn.Denied {
			t.Errorf("a wrong password: %v, want denied", err)
		}
		_ = p.Close()
	} else if k := firn.KindOf(err); k != firn.Denied || strings.Contains(err.Error(), wrong.Password) {
		t.Errorf("a wrong password: %v, want denied", err)
	}
}

// suite is the conformance suite with a little of everything: each change is a push.
func suite(t *testing.T, g *backends.Git) {
	t.Helper()
	n := 0
	drivertest.Run(t, func(t *testing.T) driver.Driver {
		n++
		return open(t, remote(t, g, g.Repository(t, fmt.Sprintf("suite-%d.git", n))))
	}, drivertest.Expect(everything), drivertest.Blobs(60), drivertest.Large(4<<20+7), drivertest.Rounds(3), drivertest.Clients(4),
		drivertest.Second(func(t *testing.T, d driver.Driver) driver.Driver {
			return open(t, remote(t, g, d.(*place).opt.Remote))
		}))
}

// Two clients with mirrors of their own put, create and delete at once; then each sees all that was acknowledged.
func TestTwoClients(t *testing.T) {
	g := backends.GitSSH(t)
	url := g.Repository(t, "shared.git")
	a, b := open(t, remote(t, g, url)), open(t, remote(t, g, url))
	defer a.Close()
	defer b.Close()
	var created sync.Map
	var work sync.WaitGroup
	for i, p := range []*place{a, b} {
		for w := range 3 {
			work.Go(func() {
				for n := range 4 {
					key := fmt.Sprintf("own/%d/%d/%d", i, w, n)
					if err := p.Put(t.Context(), key, blob.Bytes([]byte(key))); err != nil {
						t.Errorf("put %s: %v", key, err)
					}
					shared := fmt.Sprintf("shared/%d/%d", w, n)
					err := p.Create(t.Context(), shared, blob.Bytes([]byte("the same from both")))
					if err == nil {
						if _, twice := created.LoadOrStore(shared, i); twice {
							t.Errorf("%s was created twice", shared)
						}
					} else if firn.KindOf(err) != firn.Exists {
						t.Errorf("create %s: %v", shared, err)
					}
				}
			})
		}
	}
	work.Wait()
	for _, p := range []*place{a, b} {
		n := 0
		if err := p.List(t.Context(), "", func(driver.Info) error { n++; return nil }); err != nil || n != 2*3*4+3*4 {
			t.Errorf("a client lists %d blobs, %v, want %d", n, err, 2*3*4+3*4)
		}
	}
}

func TestRemoteAway(t *testing.T) {
	g := backends.GitSSH(t)
	p := open(t, remote(t, g, g.Repository(t, "away.git")))
	defer p.Close()
	if err := p.Put(t.Context(), "a", blob.Bytes([]byte("1"))); err != nil {
		t.Fatal(err)
	}
	g.Kill()
	if err := p.Put(t.Context(), "b", blob.Bytes([]byte("2"))); firn.KindOf(err) != firn.Unavailable {
		t.Errorf("put without a remote: %v, want unavailable", err)
	}
	for what, err := range map[string]error{
		"list": p.List(t.Context(), "", func(driver.Info) error { return nil }),
		"stat": func() error { _, err := p.Stat(t.Context(), "a"); return err }(),
	} {
		if firn.KindOf(err) != firn.Unavailable {
			t.Errorf("%s without a remote: %v, want unavailable", what, err)
		}
	}
	g.Start(t)
	if err := p.Put(t.Context(), "b", blob.Bytes([]byte("2"))); err != nil {
		t.Errorf("put after the remote came back: %v", err)
	}
}

func TestWrongCredentials(t *testing.T) {
	list := func(opt Options) error {
		p := open(t, opt)
		defer p.Close()
		return p.List(t.Context(), "", func(driver.Info) error { return nil })
	}
	g := backends.GitSSH(t)
	opt := remote(t, g, g.Repository(t, "x.git"))
	other := filepath.Join(t.TempDir(), "key")
	if out, err := exec.Command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", other).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	opt.KeyFile = other
	if err := list(opt); firn.KindOf(err) != firn.Denied {
		t.Errorf("another key: %v, want denied", err)
	}
	opt = remote(t, g, g.Repository(t, "y.git"))
	opt.KnownHostsFile = os.DevNull
	if err := list(opt); firn.KindOf(err) != firn.Denied {
		t.Errorf("an unknown server: %v, want denied", err)
	}
	h := backends.GitHTTPS(t)
	opt = remote(t, h, h.Repository(t, "x.git"))
	opt.Password = "not-the-password"
	if err := list(opt); firn.KindOf(err) != firn.Denied || strings.Contains(err.Error(), opt.Password) {
		t.Errorf("a wrong password: %v, want denied", err)
	}
	opt = remote(t, h, h.Repository(t, "y.git"))
	opt.CAFile = ""
	if err := list(opt); firn.KindOf(err) == firn.Internal || err == nil {
		t.Errorf("an unknown certificate: %v", err)
	}
}

// A push that is squashed sends no content again, and other clients follow.
func TestSquashRemote(t *testing.T) {
	g := backends.GitSSH(t)
	url := g.Repository(t, "squash.git")
	opt := remote(t, g, url)
	opt.History, opt.SquashAfter = "squash", 3
	a, b := open(t, opt), open(t, remote(t, g, url))
	defer a.Close()
	defer b.Close()
	for i := range 8 {
		for _, p := range []*place{a, b} {
			if err := p.Put(t.Context(), fmt.Sprintf("k%d", i%3), blob.Bytes([]byte(fmt.Sprint(i)))); err != nil {
				t.Fatal(err)
			}
			r, err := p.Get(t.Context(), fmt.Sprintf("k%d", i%3), 0, -1)
			if err != nil {
				t.Fatal(err)
			}
			got, err := io.ReadAll(r)
			r.Close()
			if err != nil || !bytes.Equal(got, []byte(fmt.Sprint(i))) {
				t.Fatalf("got %q, %v, want %d", got, err, i)
			}
		}
	}
	depth, err := a.repo.Depth(context.Background(), a.mu.cat.head)
	if err != nil || depth > 8 {
		t.Errorf("the history has %d commits, %v", depth, err)
	}
}
