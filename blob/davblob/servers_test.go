//go:build servers

package davblob

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"firn"
	"firn/blob"
	"firn/blob/driver"
	"firn/blob/drivertest"
	"firn/test/backends"
)

func options(s *backends.DAV) Options {
	return Options{URL: s.URL, User: s.User, Password: s.Password}
}

// fresh returns a driver on a new directory.
func fresh(t *testing.T, opt Options) *place {
	t.Helper()
	opt.URL += "some where/" + strings.ToLower(rand.Text())
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
	for name, start := range map[string]func(testing.TB) *backends.DAV{"nginx": backends.WebDAV, "rclone": backends.RcloneDAV} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := start(t)
			rounds := 15
			if name == "rclone" {
				rounds = 0 // for a moment it gives a new blob the length of the old one: see the package comment
			}
			drivertest.Run(t, func(t *testing.T) driver.Driver { return fresh(t, options(s)) },
				drivertest.Expect(drivertest.Measurer),
				drivertest.Blobs(600), drivertest.Rounds(rounds),
				drivertest.Second(func(t *testing.T, d driver.Driver) driver.Driver {
					opt := options(s)
					opt.URL = d.(*place).root.String()
					return second(t, opt)
				}),
				drivertest.Gone(func(t *testing.T, d driver.Driver) {
					root := filepath.Join(s.Data, d.(*place).root.Path)
					if err := os.Rename(root, root+"-unmounted"); err != nil {
						t.Fatal(err)
					}
					if err := os.Mkdir(root, 0o755); err != nil { // a mount point without its mount
						t.Fatal(err)
					}
				}))
		})
	}
}

// within fails the test where fn does not end soon.
func within(t *testing.T, what string, fn func() error) error {
	t.Helper()
	done := make(chan error, 1)
	go func() { done <- fn() }()
	select {
	case err := <-done:
		return err
	case <-time.After(20 * time.Second):
		t.Fatalf("%s does not end", what)
		return nil
	}
}

func TestKilled(t *testing.T) {
	t.Parallel()
	s := backends.WebDAV(t)
	p := fresh(t, options(s))
	content := make([]byte, 40<<20)
	rand.Read(content) // never fails
	src := blob.Bytes(content)
	if err := p.Put(t.Context(), "blob", src); err != nil {
		t.Fatal(err)
	}
	r, err := p.Get(t.Context(), "blob", 0, -1)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if _, err := io.ReadFull(r, make([]byte, 1<<20)); err != nil {
		t.Fatal(err)
	}
	s.Kill()
	err = within(t, "a read from a killed server", func() error {
		_, err := io.Copy(io.Discard, r)
		return err
	})
	if firn.KindOf(err) != firn.Unavailable {
		t.Errorf("a read from a killed server: %v (%v), want firn.Unavailable", err, firn.KindOf(err))
	}
	for name, call := range map[string]func() error{
		"put":    func() error { return p.Put(t.Context(), "other", src) },
		"get":    func() error { _, err := p.Get(t.Context(), "blob", 0, -1); return err },
		"stat":   func() error { _, err := p.Stat(t.Context(), "blob"); return err },
		"list":   func() error { return p.List(t.Context(), "", func(driver.Info) error { return nil }) },
		"delete": func() error { return p.Delete(t.Context(), "blob") },
	} {
		if err := within(t, name, call); firn.KindOf(err) != firn.Unavailable {
			t.Errorf("%s without a server: %v (%v), want firn.Unavailable", name, err, firn.KindOf(err))
		}
	}

	s.Start(t)
	gate := &gated{Source: src, at: 20 << 20, then: s.Kill}
	if err := within(t, "a put", func() error { return p.Put(t.Context(), "other", gate) }); firn.KindOf(err) != firn.Unavailable {
		t.Errorf("a put to a server that is killed: %v (%v), want firn.Unavailable", err, firn.KindOf(err))
	}
	s.Start(t)
	if _, err := p.Stat(t.Context(), "other"); firn.KindOf(err) != firn.NotFound {
		t.Errorf("after half a put: %v, want nothing there", err)
	}
	if err := p.Put(t.Context(), "other", src); err != nil {
		t.Errorf("put after a restart: %v", err)
	}
	if got, err := blob.New(p, "").ReadAll(t.Context(), "other", 1<<30); err != nil || !bytes.Equal(got, content) {
		t.Errorf("get after a restart: %d bytes, %v", len(got), err)
	}
}

// gated calls then once when it is read past at.
type gated struct {
	driver.Source
	at   int64
	then func()
}

func (g *gated) Open() (io.ReadCloser, error) {
	r, err := g.Source.Open()
	return &gatedReader{ReadCloser: r, g: g}, err
}

type gatedReader struct {
	io.ReadCloser
	g    *gated
	n    int64
	done bool
}

func (r *gatedReader) Read(p []byte) (int, error) {
	n, err := r.ReadCloser.Read(p)
	if r.n += int64(n); r.n >= r.g.at && !r.done {
		r.done = true
		r.g.then()
	}
	return n, err
}

// TestStalled: calls over a line that stalls end with their context.
func TestStalled(t *testing.T) {
	t.Parallel()
	s := backends.RcloneDAV(t)
	relay := backends.NewRelay(t, strings.TrimSuffix(strings.TrimPrefix(s.URL, "http://"), "/"))
	opt := options(s)
	opt.URL = "http://" + relay.Addr + "/"
	p := fresh(t, opt)
	content := make([]byte, 8<<20)
	if err := p.Put(t.Context(), "blob", blob.Bytes(content)); err != nil {
		t.Fatal(err)
	}
	relay.CutAfter(4 << 20)
	if got, err := blob.New(p, "").ReadAll(t.Context(), "blob", 1<<30); firn.KindOf(err) != firn.Unavailable {
		t.Errorf("get over a line that is cut: %d bytes, %v (%v), want firn.Unavailable", len(got), err, firn.KindOf(err))
	}
	relay.Stall()
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	for name, call := range map[string]func() error{
		"put":  func() error { return p.Put(ctx, "other", blob.Bytes(content)) },
		"get":  func() error { _, err := p.Get(ctx, "blob", 0, -1); return err },
		"list": func() error { return p.List(ctx, "", func(driver.Info) error { return nil }) },
	} {
		if err := within(t, name, call); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%s over a line that stalls: %v, want the context's error", name, err)
		}
	}
}

func TestPassword(t *testing.T) {
	t.Parallel()
	const password = "not-the-password-at-all"
	for name, start := range map[string]func(testing.TB) *backends.DAV{"nginx": backends.WebDAV, "rclone": backends.RcloneDAV} {
		s := start(t)
		opt := options(s)
		opt.URL = fresh(t, opt).root.String()
		wrong, nobody := opt, opt
		wrong.Password = password
		nobody.User = ""
		for _, opt := range []Options{wrong, nobody} {
			d := second(t, opt)
			_, statErr := d.Stat(t.Context(), "blob")
			for call, err := range map[string]error{
				"put":    d.Put(t.Context(), "blob", blob.Bytes([]byte("x"))),
				"list":   d.List(t.Context(), "", func(driver.Info) error { return nil }),
				"delete": d.Delete(t.Context(), "blob"),
				"init":   Init(t.Context(), opt),
				"stat":   statErr,
			} {
				if firn.KindOf(err) != firn.Denied || strings.Contains(err.Error(), password) {
					t.Errorf("%s: %s as %q: %v (%v), want firn.Denied without the password", name, call, opt.User, err, firn.KindOf(err))
				}
			}
		}
	}
}
