package drivertest

import (
	"bytes"
	"crypto/rand"
	"io"
	"testing"
	"time"

	"firn"
	"firn/blob"
	"firn/blob/driver"
)

// Server is one that can be killed and started again on the same data.
type Server interface {
	Kill()
	Start(t testing.TB)
}

// Within fails the test where fn does not end soon.
func Within(t *testing.T, what string, fn func() error) error {
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

// Killed kills the server of d, which is empty, between calls, while a blob is read, and while one is put: each call says
// firn.Unavailable, half a put leaves nothing, and once the server is back all goes on with the same driver.
func Killed(t *testing.T, d driver.Driver, s Server) {
	ctx := t.Context()
	content := make([]byte, 40<<20)
	rand.Read(content) // never fails
	src := blob.Bytes(content)
	if err := d.Put(ctx, "blob", src); err != nil {
		t.Fatal(err)
	}
	r, err := d.Get(ctx, "blob", 0, -1)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if _, err := io.ReadFull(r, make([]byte, 1<<20)); err != nil {
		t.Fatal(err)
	}
	s.Kill()
	err = Within(t, "a read from a killed server", func() error {
		_, err := io.Copy(io.Discard, r)
		return err
	})
	if firn.KindOf(err) != firn.Unavailable {
		t.Errorf("a read from a killed server: %v (%v), want firn.Unavailable", err, firn.KindOf(err))
	}
	calls := map[string]func() error{
		"put":    func() error { return d.Put(ctx, "other", src) },
		"get":    func() error { _, err := d.Get(ctx, "blob", 0, -1); return err },
		"stat":   func() error { _, err := d.Stat(ctx, "blob"); return err },
		"list":   func() error { return d.List(ctx, "", func(driver.Info) error { return nil }) },
		"delete": func() error { return d.Delete(ctx, "blob") },
	}
	if c, ok := d.(driver.Creator); ok {
		calls["create"] = func() error { return c.Create(ctx, "other", blob.Bytes(nil)) }
	}
	if b, ok := d.(driver.BulkDeleter); ok {
		calls["deleteall"] = func() error { return b.DeleteAll(ctx, []string{"blob", "x"}) }
	}
	if m, ok := d.(driver.Measurer); ok {
		calls["space"] = func() error { _, err := m.Space(ctx); return err }
	}
	for name, call := range calls {
		if err := Within(t, name, call); firn.KindOf(err) != firn.Unavailable {
			t.Errorf("%s without a server: %v (%v), want firn.Unavailable", name, err, firn.KindOf(err))
		}
	}

	s.Start(t)
	// Half of a put is sent when the server dies.
	gate := &Gate{Source: src, At: 20 << 20, Then: s.Kill}
	if err := Within(t, "a put", func() error { return d.Put(ctx, "other", gate) }); firn.KindOf(err) != firn.Unavailable {
		t.Errorf("a put to a server that is killed: %v (%v), want firn.Unavailable", err, firn.KindOf(err))
	}
	s.Start(t)
	if _, err := d.Stat(ctx, "other"); firn.KindOf(err) != firn.NotFound {
		t.Errorf("after half a put: %v, want nothing there", err)
	}
	if err := d.Put(ctx, "other", src); err != nil {
		t.Errorf("put after a restart: %v", err)
	}
	if got, err := blob.New(d, "").ReadAll(ctx, "other", 1<<30); err != nil || !bytes.Equal(got, content) {
		t.Errorf("get after a restart: %d bytes, %v", len(got), err)
	}

	c, ok := blob.As[driver.Resumer](d)
	if !ok {
		return
	}
	gate = &Gate{Source: src, At: 30 << 20, Then: s.Kill}
	if err := Within(t, "a put", func() error { return c.Resume(ctx, "resumed", gate) }); firn.KindOf(err) != firn.Unavailable {
		t.Errorf("a put to a server that is killed: %v (%v), want firn.Unavailable", err, firn.KindOf(err))
	}
	s.Start(t)
	if _, err := d.Stat(ctx, "resumed"); firn.KindOf(err) != firn.NotFound {
		t.Errorf("after most of a put: %v, want nothing there", err)
	}
	rest := &anywhere{source: newSource(content)}
	if err := c.Resume(ctx, "resumed", rest); err != nil || rest.from[0] == 0 {
		t.Errorf("resumed after a restart, from %v on: %v", rest.from, err)
	}
	if got, err := blob.New(d, "").ReadAll(ctx, "resumed", 1<<30); err != nil || !bytes.Equal(got, content) {
		t.Errorf("get what was resumed: %d bytes, %v", len(got), err)
	}
}

// Zeros is a source of so many zero bytes.
type Zeros int64

// Size implements driver.Source.
func (z Zeros) Size() int64 { return int64(z) }

// Open implements driver.Source.
func (z Zeros) Open() (io.ReadCloser, error) {
	return io.NopCloser(io.LimitReader(zeros{}, int64(z))), nil
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

// Gate is a source that calls Then, once for each reader, before it is read beyond At bytes.
type Gate struct {
	driver.Source
	At   int64
	Then func()
}

// Open implements driver.Source.
func (g *Gate) Open() (io.ReadCloser, error) {
	r, err := g.Source.Open()
	return &gatedReader{ReadCloser: r, g: g}, err
}

type gatedReader struct {
	io.ReadCloser
	g    *Gate
	n    int64
	done bool
}

func (r *gatedReader) Read(p []byte) (int, error) {
	if r.n >= r.g.At && !r.done {
		r.done = true
		r.g.Then()
	}
	n, err := r.ReadCloser.Read(p)
	r.n += int64(n)
	return n, err
}
