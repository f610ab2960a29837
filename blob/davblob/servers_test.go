//go:build servers

package davblob

import (
	"context"
	"crypto/rand"
	"errors"
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

func TestKilled(t *testing.T) {
	t.Parallel()
	s := backends.WebDAV(t)
	drivertest.Killed(t, fresh(t, options(s)), s)
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
		if err := drivertest.Within(t, name, call); !errors.Is(err, context.DeadlineExceeded) {
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
