//go:build servers

package s3blob

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"io"
	"log"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/minio/minio-go/v7"

	"firn"
	"firn/blob"
	"firn/blob/driver"
	"firn/blob/drivertest"
	"firn/test/backends"
)

// servers are all S3 servers the driver is held to.
func servers() map[string]func(testing.TB) *backends.S3 {
	return map[string]func(testing.TB) *backends.S3{
		"MinIO": backends.MinIO, "VersityGW": backends.VersityGW, "RGW": backends.RGW, "Firn": backends.Firn,
	}
}

func options(s *backends.S3, name string) Options {
	return Options{
		Bucket: name, Endpoint: s.Endpoint, AccessKey: s.Access, SecretKey: s.Secret, Style: "path", PartSize: 5 << 20,
	}
}

// fresh returns a driver on a new bucket.
func fresh(t *testing.T, opt Options) *bucket {
	t.Helper()
	if opt.Bucket == "" {
		opt.Bucket = "test-" + strings.ToLower(rand.Text())
	}
	if err := Init(t.Context(), opt); err != nil {
		t.Fatal(err)
	}
	d, err := New(t.Context(), opt)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return d.(*bucket)
}

func TestSuite(t *testing.T) {
	for name, start := range servers() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := start(t)
			opts := []drivertest.Option{
				drivertest.Expect(drivertest.Creator | drivertest.BulkDeleter | drivertest.Resumer),
				drivertest.Blobs(1200), drivertest.Rounds(15), drivertest.Large(12 << 20),
				drivertest.Second(func(t *testing.T, d driver.Driver) driver.Driver {
					opt := options(s, d.(*bucket).name)
					opt.Prefix = strings.TrimSuffix(d.(*bucket).prefix, "/")
					return fresh(t, opt)
				}),
				drivertest.Gone(removeBucket),
			}
			if name == "MinIO" || name == "VersityGW" {
				opts = append(opts, drivertest.LongestPart(255))
			}
			drivertest.Run(t, func(t *testing.T) driver.Driver {
				opt := options(s, "")
				opt.Prefix = "some/where"
				return fresh(t, opt)
			}, opts...)
		})
	}
}

func removeBucket(t *testing.T, d driver.Driver) {
	t.Helper()
	b := d.(*bucket)
	for o := range b.core.ListObjectsIter(t.Context(), b.name, minio.ListObjectsOptions{Recursive: true}) {
		if err := b.core.RemoveObject(t.Context(), b.name, o.Key, minio.RemoveObjectOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	if err := b.core.RemoveBucket(t.Context(), b.name); err != nil {
		t.Fatal(err)
	}
}

func TestKilled(t *testing.T) {
	t.Parallel()
	s := backends.MinIO(t)
	drivertest.Killed(t, fresh(t, options(s, "")), s)
}

// TestLine is about a line that is cut, or that stalls.
func TestLine(t *testing.T) {
	t.Parallel()
	s := backends.VersityGW(t)
	relay := backends.NewRelay(t, strings.TrimPrefix(s.Endpoint, "http://"))
	opt := options(s, "")
	opt.Endpoint = "http://" + relay.Addr
	b := fresh(t, opt)
	content := make([]byte, 8<<20)
	rand.Read(content) // never fails
	if err := b.Put(t.Context(), "blob", blob.Bytes(content)); err != nil {
		t.Fatal(err)
	}

	// Cut in the middle again and again: the read goes on where it was.
	for _, span := range [][2]int64{{0, -1}, {1 << 20, -1}, {12345, 6 << 20}} {
		r, err := b.Get(t.Context(), "blob", span[0], span[1])
		if err != nil {
			t.Fatal(err)
		}
		relay.CutAfter(1 << 20)
		want := content[span[0]:]
		if span[1] > 0 {
			want = want[:span[1]]
		}
		got, err := io.ReadAll(r)
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("read %v over a line that was cut: %d bytes, %v", span, len(got), err)
		}
		r.Close()
	}

	// Cut, and replaced before the read goes on: never a mixture.
	direct, err := New(t.Context(), options(s, b.name))
	if err != nil {
		t.Fatal(err)
	}
	defer direct.Close()
	relay.CutAfter(1 << 20)
	r, err := b.Get(t.Context(), "blob", 0, -1)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(r, make([]byte, 100)); err != nil {
		t.Fatal(err)
	}
	if err := direct.Put(t.Context(), "blob", blob.Bytes(bytes.Repeat([]byte("x"), 8<<20))); err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(io.Discard, r); firn.KindOf(err) != firn.Unavailable {
		t.Errorf("a read of a blob that was replaced meanwhile: %v (%v), want firn.Unavailable", err, firn.KindOf(err))
	}
	r.Close()

	// Stalled: calls end with their context.
	if r, err = b.Get(t.Context(), "blob", 0, -1); err != nil {
		t.Fatal(err)
	}
	r.Close()
	relay.Stall()
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	for name, call := range map[string]func() error{
		"put":  func() error { return b.Put(ctx, "other", blob.Bytes(content)) },
		"get":  func() error { _, err := b.Get(ctx, "blob", 0, -1); return err },
		"list": func() error { return b.List(ctx, "", func(driver.Info) error { return nil }) },
	} {
		if err := drivertest.Within(t, name, call); err == nil || ctx.Err() == nil || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%s over a line that stalls: %v, want the context's error", name, err)
		}
	}
}

func TestCredentials(t *testing.T) {
	t.Parallel()
	s := backends.MinIO(t)
	b := fresh(t, options(s, ""))
	const secret = "not-the-right-secret-at-all"
	for name, change := range map[string]func(*Options){
		"secret": func(o *Options) { o.SecretKey = secret },
		"both":   func(o *Options) { o.AccessKey, o.SecretKey = "NOBODYWEKNOWOF", secret },
	} {
		opt := options(s, b.name)
		change(&opt)
		d, err := New(t.Context(), opt)
		if err != nil {
			t.Fatal(err)
		}
		defer d.Close()
		for call, err := range map[string]error{
			"put":    d.Put(t.Context(), "blob", blob.Bytes([]byte("x"))),
			"list":   d.List(t.Context(), "", func(driver.Info) error { return nil }),
			"delete": d.Delete(t.Context(), "blob"),
			"init":   Init(t.Context(), opt),
		} {
			if firn.KindOf(err) != firn.Denied || strings.Contains(err.Error(), secret) {
				t.Errorf("%s with a wrong %s: %v (%v), want firn.Denied without the secret", call, name, err, firn.KindOf(err))
			}
		}
		if _, err := d.Stat(t.Context(), "blob"); firn.KindOf(err) != firn.Denied {
			t.Errorf("stat with a wrong %s: %v (%v), want firn.Denied", name, err, firn.KindOf(err))
		}
	}
}

// TestParts: an upload in parts arrives, from a file side by side, and one that fails leaves nothing to pay for.
func TestParts(t *testing.T) {
	t.Parallel()
	s := backends.MinIO(t)
	b := fresh(t, options(s, ""))
	content := make([]byte, 23<<20)
	rand.Read(content) // never fails
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	file, err := blob.File(path)
	if err != nil {
		t.Fatal(err)
	}
	for name, src := range map[string]driver.Source{"stream": blob.Bytes(content), "file": file} {
		if err := b.Put(t.Context(), name, src); err != nil {
			t.Fatal(err)
		}
		if got, err := blob.New(b, "").ReadAll(t.Context(), name, 1<<30); err != nil || !bytes.Equal(got, content) {
			t.Errorf("%s: %d bytes, %v", name, len(got), err)
		}
	}
	for _, change := range []int64{-1, +1} {
		if err := os.Truncate(path, int64(len(content))+change); err != nil {
			t.Fatal(err)
		}
		if err := b.Put(t.Context(), "wrong", file); firn.KindOf(err) != firn.Invalid {
			t.Errorf("a file of %+d bytes: %v, want firn.Invalid", change, err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	if err := b.Put(ctx, "wrong", &drivertest.Gate{Source: blob.Bytes(content), At: 12 << 20, Then: cancel}); !errors.Is(err, context.Canceled) {
		t.Errorf("a put that was cancelled: %v", err)
	}
	left, err := b.core.ListMultipartUploads(t.Context(), b.name, "wrong", "", "", "", 10)
	if err != nil || len(left.Uploads) != 0 {
		t.Errorf("%d uploads were left behind, %v", len(left.Uploads), err)
	}
	if _, err := b.Stat(t.Context(), "wrong"); firn.KindOf(err) != firn.NotFound {
		t.Errorf("after failed puts: %v, want nothing there", err)
	}
}

// TestTLS: the server's certificate is checked, against an authority of our own too.
func TestTLS(t *testing.T) {
	t.Parallel()
	s := backends.MinIO(t)
	target, err := url.Parse(s.Endpoint)
	if err != nil {
		t.Fatal(err)
	}
	// The Host is signed and stays as the client sent it.
	front := httptest.NewTLSServer(&httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) {
		r.SetURL(target)
		r.Out.Host = r.In.Host
	}})
	defer front.Close()
	front.Config.ErrorLog = log.New(io.Discard, "", 0)
	opt := options(s, "tls")
	opt.Endpoint = front.URL
	if err := Init(t.Context(), opt); firn.KindOf(err) != firn.Denied {
		t.Errorf("a server with a certificate of nobody we know: %v (%v), want firn.Denied", err, firn.KindOf(err))
	}
	opt.CAFile = filepath.Join(t.TempDir(), "ca.pem")
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: front.Certificate().Raw})
	if err := os.WriteFile(opt.CAFile, ca, 0o600); err != nil {
		t.Fatal(err)
	}
	b := fresh(t, opt)
	content := make([]byte, 12<<20) // in parts
	rand.Read(content)              // never fails
	for _, n := range []int{0, 1000, len(content)} {
		if err := b.Put(t.Context(), "blob", blob.Bytes(content[:n])); err != nil {
			t.Fatal(err)
		}
		if got, err := blob.New(b, "").ReadAll(t.Context(), "blob", 1<<30); err != nil || !bytes.Equal(got, content[:n]) {
			t.Errorf("%d bytes: got %d, %v", n, len(got), err)
		}
	}
	if err := b.DeleteAll(t.Context(), []string{"blob", "none"}); err != nil {
		t.Error(err)
	}
}
