package blob_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/iotest"

	"firn"
	"firn/blob"
	"firn/blob/driver"
	"firn/blob/memblob"
)

func newStore(t *testing.T, opt memblob.Options) (*blob.Store, *memblob.Driver) {
	t.Helper()
	d := memblob.New(opt)
	return blob.New(d, "mem:/place/"), d
}

func TestCheckKey(t *testing.T) {
	for _, key := range []string{"a", "a/b", "...", "a b", "%", strings.Repeat("k", 900), "é", ".a", "\u00a0"} {
		if err := blob.CheckKey(key); err != nil {
			t.Errorf("%q: %v", key, err)
		}
	}
	for _, key := range []string{
		"", "/", "/a", "a/", "a//b", ".", "..", "a/./b", "../a", "a/..", "a\x00", "a\nb", "\x7f", "a\u0085", "\xff", strings.Repeat("k", 901),
	} {
		if err := blob.CheckKey(key); firn.KindOf(err) != firn.Invalid {
			t.Errorf("%q: %v, want firn.Invalid", key, err)
		}
	}
}

func TestErrorsNameOperationAndBlobOnce(t *testing.T) {
	s, _ := newStore(t, memblob.Options{})
	ctx := t.Context()
	_, err := s.Get(ctx, "dir/none", 0, -1)
	if got, want := err.Error(), "get dir/none in mem:/place: not found"; got != want || firn.KindOf(err) != firn.NotFound {
		t.Errorf("got %q, %v, want %q", got, firn.KindOf(err), want)
	}
	for name, err := range map[string]error{
		"put":    s.PutBytes(ctx, "a//b", nil),
		"create": s.Create(ctx, "", blob.Bytes(nil)),
		"delete": s.Delete(ctx, "a", "b/"),
		"change": s.Apply(ctx, []driver.Change{{Key: "a"}, {Key: "a"}}),
		"get":    func() error { _, err := s.Get(ctx, "a", -1, 5); return err }(),
		"stat":   func() error { _, err := s.Stat(ctx, ".."); return err }(),
	} {
		if firn.KindOf(err) != firn.Invalid || !strings.HasPrefix(err.Error(), name+" ") || strings.Count(err.Error(), "mem:") != 1 {
			t.Errorf("%s: %v (%v)", name, err, firn.KindOf(err))
		}
	}
}

func TestReadAllAndReadAt(t *testing.T) {
	s, d := newStore(t, memblob.Options{})
	ctx := t.Context()
	if err := s.PutBytes(ctx, "b", []byte("0123456789")); err != nil {
		t.Fatal(err)
	}
	if p, err := s.ReadAll(ctx, "b", 10); err != nil || string(p) != "0123456789" {
		t.Errorf("%q, %v", p, err)
	}
	if _, err := s.ReadAll(ctx, "b", 9); firn.KindOf(err) != firn.Invalid {
		t.Errorf("10 bytes with a limit of 9: %v", err)
	}
	for _, tt := range []struct {
		offset int64
		n      int
		want   string
		err    error
	}{{0, 4, "0123", nil}, {6, 4, "6789", nil}, {8, 4, "89", io.EOF}, {10, 4, "", io.EOF}, {99, 1, "", io.EOF}} {
		p := make([]byte, tt.n)
		n, err := s.ReadAt(ctx, "b", p, tt.offset)
		if string(p[:n]) != tt.want || !errors.Is(err, tt.err) || (err == nil) != (tt.err == nil) {
			t.Errorf("%d bytes at %d: %q, %v", tt.n, tt.offset, p[:n], err)
		}
	}
	if ok, err := s.Exists(ctx, "b"); !ok || err != nil {
		t.Errorf("%t, %v", ok, err)
	}
	if ok, err := s.Exists(ctx, "c"); ok || err != nil {
		t.Errorf("%t, %v", ok, err)
	}
	if n := d.Open(); n != 0 {
		t.Errorf("%d readers were left open", n)
	}
}

func TestErrorWhileReadingKeepsItsKind(t *testing.T) {
	lost := firn.NewError(firn.Unavailable, "connection lost")
	s, d := newStore(t, memblob.Options{Before: func(_ context.Context, op memblob.Op) memblob.Fault {
		if op.Name == "read" {
			return memblob.Fault{Err: lost}
		}
		return memblob.Fault{}
	}})
	if err := s.PutBytes(t.Context(), "b", []byte("0123456789")); err != nil {
		t.Fatal(err)
	}
	_, err := s.ReadAll(t.Context(), "b", 100)
	if firn.KindOf(err) != firn.Unavailable || err.Error() != "get b in mem:/place: connection lost" {
		t.Errorf("%v (%v)", err, firn.KindOf(err))
	}
	if _, err := s.ReadAt(t.Context(), "b", make([]byte, 3), 0); !errors.Is(err, lost) {
		t.Errorf("%v", err)
	}
	if n := d.Open(); n != 0 {
		t.Errorf("%d readers were left open", n)
	}
}

// plain hides every optional ability.
type plain struct{ driver.Driver }

// wrapper passes calls on.
type wrapper struct {
	driver.Driver
	transparent bool
}

func (w wrapper) Inner() (driver.Driver, bool) { return w.Driver, w.transparent }

func TestAbilitiesAreFoundThroughTransparentWrappersOnly(t *testing.T) {
	d := memblob.New(memblob.Options{})
	for _, tt := range []struct {
		d    driver.Driver
		want bool
	}{
		{d, true},
		{plain{d}, false},
		{wrapper{d, true}, true},
		{wrapper{d, false}, false},
		{wrapper{wrapper{d, true}, true}, true},
		{wrapper{wrapper{d, false}, true}, false},
	} {
		if c, ok := blob.As[driver.Creator](tt.d); ok != tt.want || ok && c != driver.Creator(d) {
			t.Errorf("%+v: %t, want %t", tt.d, ok, tt.want)
		}
	}
}

func TestWithoutAbilities(t *testing.T) {
	var ops []string
	broken := ""
	d := memblob.New(memblob.Options{Before: func(_ context.Context, op memblob.Op) memblob.Fault {
		if op.String() == broken {
			return memblob.Fault{Err: firn.NewError(firn.Unavailable, "away")}
		}
		ops = append(ops, op.String())
		return memblob.Fault{}
	}})
	s := blob.New(plain{d}, "mem:")
	ctx := t.Context()
	if err := s.Create(ctx, "a", blob.Bytes(nil)); firn.KindOf(err) != firn.Unsupported {
		t.Errorf("create: %v", err)
	}
	if space, err := s.Space(ctx); err != nil || space != (driver.Space{Total: -1, Free: -1}) {
		t.Errorf("space: %+v, %v", space, err)
	}
	changes := []driver.Change{{Key: "d"}, {Key: "p2", Put: blob.Bytes(nil)}, {Key: "p1", Put: blob.Bytes(nil)}}
	if err := s.Apply(ctx, changes); err != nil {
		t.Error(err)
	}
	if want := []string{"put p2", "put p1", "delete d"}; !slices.Equal(ops, want) {
		t.Errorf("%q, want %q", ops, want)
	}
	// No delete before every put.
	ops, broken = nil, "put p1"
	if err := s.Apply(ctx, changes); firn.KindOf(err) != firn.Unavailable {
		t.Error(err)
	}
	if want := []string{"put p2"}; !slices.Equal(ops, want) {
		t.Errorf("%q, want %q", ops, want)
	}
}

func TestWithAbilities(t *testing.T) {
	var ops []string
	s, _ := newStore(t, memblob.Options{Capacity: 100, Before: func(_ context.Context, op memblob.Op) memblob.Fault {
		ops = append(ops, op.Name)
		return memblob.Fault{}
	}})
	ctx := t.Context()
	if err := errors.Join(
		s.Create(ctx, "a", blob.Bytes([]byte("12"))), s.Delete(ctx, "a"), s.Delete(ctx, "a", "b"), s.Delete(ctx),
		s.Apply(ctx, []driver.Change{{Key: "a"}}),
	); err != nil {
		t.Fatal(err)
	}
	if space, err := s.Space(ctx); err != nil || space.Free != 100 {
		t.Errorf("%+v, %v", space, err)
	}
	if want := []string{"create", "delete", "deleteall", "apply", "space"}; !slices.Equal(ops, want) {
		t.Errorf("%q, want %q", ops, want)
	}
	if err := s.PutBytes(ctx, "big", make([]byte, 101)); firn.KindOf(err) != firn.NoSpace {
		t.Errorf("%v", err)
	}
}

func TestFailedButApplied(t *testing.T) {
	away := firn.NewError(firn.Unavailable, "away")
	fault := memblob.Fault{}
	s, _ := newStore(t, memblob.Options{Before: func(context.Context, memblob.Op) memblob.Fault { return fault }})
	for _, applied := range []bool{false, true} {
		fault = memblob.Fault{Err: away, Applied: applied}
		if err := s.PutBytes(t.Context(), "a", nil); !errors.Is(err, away) {
			t.Errorf("%v", err)
		}
		fault = memblob.Fault{}
		if ok, err := s.Exists(t.Context(), "a"); ok != applied || err != nil {
			t.Errorf("applied %t: there %t, %v", applied, ok, err)
		}
	}
}

// script lists what it is told to.
type script struct {
	driver.Driver
	keys []string
	err  error
	ends bool // err is what it says of a listing that was stopped, too
}

func (s script) List(_ context.Context, _ string, fn func(driver.Info) error) error {
	for _, k := range s.keys {
		if err := fn(driver.Info{Key: k}); err != nil && s.ends {
			return s.err
		} else if err != nil {
			return fmt.Errorf("list: %w", err)
		}
	}
	return s.err
}

func TestList(t *testing.T) {
	collect := func(d driver.Driver, prefix string, limit int) (keys []string, err error) {
		for info, e := range blob.New(d, "x:").List(t.Context(), prefix) {
			if e != nil {
				err = e
				continue
			}
			if keys = append(keys, info.Key); len(keys) == limit {
				break
			}
		}
		return keys, err
	}
	away := firn.NewError(firn.Unavailable, "away")
	for _, tt := range []struct {
		name   string
		d      script
		prefix string
		limit  int
		want   []string
		kind   firn.Kind
		ok     bool
	}{
		{"all", script{keys: []string{"a", "b"}}, "", 0, []string{"a", "b"}, 0, true},
		{"stopped", script{keys: []string{"a", "b"}, err: away}, "", 1, []string{"a"}, 0, true},
		{"stopped by what ends the listing too", script{keys: []string{"a"}, err: context.Canceled, ends: true}, "", 1, []string{"a"}, 0, true},
		{"no keys", script{keys: []string{"dir/", "dir//x", "dir/a", "é\xff"}}, "", 0, []string{"dir/a"}, 0, true},
		{"error last", script{keys: []string{"a"}, err: away}, "", 0, []string{"a"}, firn.Unavailable, false},
		{"out of order", script{keys: []string{"b", "a"}}, "", 0, []string{"b"}, firn.Internal, false},
		{"twice", script{keys: []string{"b", "b"}}, "", 0, []string{"b"}, firn.Internal, false},
		{"not asked for", script{keys: []string{"a/b", "b"}}, "a/", 0, []string{"a/b"}, firn.Internal, false},
	} {
		keys, err := collect(tt.d, tt.prefix, tt.limit)
		if !slices.Equal(keys, tt.want) || (err == nil) != tt.ok || err != nil && firn.KindOf(err) != tt.kind {
			t.Errorf("%s: %q, %v (%v)", tt.name, keys, err, firn.KindOf(err))
		}
	}
}

// opened is a source on any reader.
type opened struct {
	r    io.Reader
	size int64
}

func (o opened) Size() int64                  { return o.size }
func (o opened) Open() (io.ReadCloser, error) { return io.NopCloser(o.r), nil }

func TestOpenExact(t *testing.T) {
	const text = "0123456789"
	if _, err := blob.OpenExact(t.Context(), opened{strings.NewReader(""), -1}); firn.KindOf(err) != firn.Invalid {
		t.Errorf("announced -1: %v", err)
	}
	for size := int64(0); size <= int64(len(text))+2; size++ {
		for name, wrap := range map[string]func(io.Reader) io.Reader{
			"plain": func(r io.Reader) io.Reader { return r }, "byte by byte": iotest.OneByteReader,
			"end with data": iotest.DataErrReader, "half": iotest.HalfReader,
		} {
			r, err := blob.OpenExact(t.Context(), opened{wrap(strings.NewReader(text)), size})
			if err != nil {
				t.Fatal(err)
			}
			got, err := io.ReadAll(r)
			if size == int64(len(text)) {
				if err != nil || string(got) != text {
					t.Errorf("%s: %q, %v", name, got, err)
				}
				continue
			}
			if firn.KindOf(err) != firn.Invalid || size > 0 && int64(len(got)) >= size {
				t.Errorf("%s, announced %d: gave %d bytes and %v", name, size, len(got), err)
			}
		}
	}
	r, err := blob.OpenExact(t.Context(), opened{strings.NewReader(text), int64(len(text))})
	if err != nil {
		t.Fatal(err)
	}
	if err := iotest.TestReader(r, []byte(text)); err != nil {
		t.Error(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	r, err = blob.OpenExact(ctx, blob.Bytes([]byte(text)))
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	if _, err := io.ReadAll(r); !errors.Is(err, context.Canceled) {
		t.Errorf("after cancel: %v", err)
	}
}

func TestFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	if _, err := blob.File(path); firn.KindOf(err) != firn.NotFound {
		t.Errorf("%v", err)
	}
	if _, err := blob.File(filepath.Dir(path)); firn.KindOf(err) != firn.Invalid {
		t.Errorf("%v", err)
	}
	if err := os.WriteFile(path, []byte("content"), 0o600); err != nil {
		t.Fatal(err)
	}
	src, err := blob.File(path)
	if err != nil || src.Size() != 7 {
		t.Fatal(src, err)
	}
	s, _ := newStore(t, memblob.Options{})
	if err := s.Put(t.Context(), "a", src); err != nil {
		t.Error(err)
	}
	if err := os.WriteFile(path, []byte("longer content"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := s.Put(t.Context(), "a", src); firn.KindOf(err) != firn.Invalid {
		t.Errorf("a file that grew: %v", err)
	}
}
