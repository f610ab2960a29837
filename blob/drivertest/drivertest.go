// Package drivertest holds every implementation of blob's driver.Driver to its contract: the drivers against the real
// server of each, and the wrappers in front of a driver that passes.
//
// It owns the reading of the contract: what it does not test, nobody may rely on. It must only be imported by tests.
package drivertest

import (
	"context"
	"fmt"
	"io"
	"reflect"
	"testing"
	"time"

	"firn"
	"firn/blob"
	"firn/blob/driver"
)

// OpenFunc returns a driver on an empty root that no earlier call returned. The suite closes the driver; the root goes
// with the test.
type OpenFunc = func(t *testing.T) driver.Driver

// Option changes what the suite expects or how much it does.
type Option func(*suite)

// Abilities are the optional abilities of a driver.
type Abilities uint8

// The abilities that driver describes.
const (
	Creator Abilities = 1 << iota
	Batcher
	BulkDeleter
	Measurer
	Stager
	Resumer
)

// Expect says which optional abilities the driver has: exactly these. Without it the suite tests those it finds.
func Expect(a Abilities) Option { return func(s *suite) { s.expect = &a } }

// Blobs sets how many blobs are listed, so that a listing has several pages. 2500 by default.
func Blobs(n int) Option { return func(s *suite) { s.blobs = n } }

// Large sets the size of a large blob in bytes. 20 MiB by default.
func Large(size int64) Option { return func(s *suite) { s.large = size } }

// Clients sets how many goroutines use the driver at once. 16 by default.
func Clients(n int) Option { return func(s *suite) { s.clients = n } }

// Rounds sets how often a blob is replaced under its readers. 60 by default.
func Rounds(n int) Option { return func(s *suite) { s.rounds = n } }

// Second lets the suite open another client on the root of a driver that open returned, as another process would.
func Second(open func(t *testing.T, d driver.Driver) driver.Driver) Option {
	return func(s *suite) { s.second = open }
}

// Gone lets the suite take away the root of a driver that open returned: a bucket, table or directory that is no more,
// a file system that is not mounted. Nothing may say "empty" then.
func Gone(remove func(t *testing.T, d driver.Driver)) Option {
	return func(s *suite) { s.gone = remove }
}

// LongestPart says that the backend takes no key with a part of more than n bytes: the driver refuses it with
// firn.Invalid. Drivers whose backend has no such limit of its own take every key.
func LongestPart(n int) Option { return func(s *suite) { s.part = n } }

type suite struct {
	open    OpenFunc
	expect  *Abilities
	blobs   int
	large   int64
	clients int
	rounds  int
	part    int
	second  func(t *testing.T, d driver.Driver) driver.Driver
	gone    func(t *testing.T, d driver.Driver)
}

// Run runs the suite.
func Run(t *testing.T, open OpenFunc, opts ...Option) {
	s := &suite{open: open, blobs: 2500, large: 20 << 20, clients: 16, rounds: 60}
	for _, o := range opts {
		o(s)
	}
	for _, test := range []struct {
		name string
		run  func(*testing.T)
	}{
		{"Abilities", s.abilities},
		{"Content", s.content},
		{"NotThere", s.notThere},
		{"Ranges", s.ranges},
		{"Sources", s.sources},
		{"Keys", s.keys},
		{"NestedKeys", s.nestedKeys},
		{"List", s.list},
		{"ListPages", s.listPages},
		{"LargeBlob", s.largeBlob},
		{"ReplacedWhileRead", s.replacedWhileRead},
		{"ReadAfterDelete", s.readAfterDelete},
		{"ManyGoroutines", s.manyGoroutines},
		{"Cancelled", s.cancelled},
		{"Create", s.create},
		{"CreateContended", s.createContended},
		{"Stage", s.stage},
		{"Resume", s.resume},
		{"ResumeCutOff", s.resumeCutOff},
		{"Apply", s.apply},
		{"DeleteAll", s.deleteAll},
		{"Space", s.space},
		{"SecondClient", s.secondClient},
		{"Gone", s.rootGone},
		{"Closed", s.closed},
		{"Goroutines", s.goroutines},
	} {
		t.Run(test.name, test.run)
	}
}

// fresh opens a driver on a root of its own and closes it at the end of the test.
func (s *suite) fresh(t *testing.T) driver.Driver {
	t.Helper()
	d := s.open(t)
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return d
}

// other opens a second client where the driver's test lets it; otherwise it is d itself.
func (s *suite) other(t *testing.T, d driver.Driver) driver.Driver {
	t.Helper()
	if s.second == nil {
		return d
	}
	o := s.second(t, d)
	t.Cleanup(func() {
		if err := o.Close(); err != nil {
			t.Errorf("close the second client: %v", err)
		}
	})
	return o
}

func (s *suite) abilities(t *testing.T) {
	d := s.fresh(t)
	var has Abilities
	if _, ok := blob.As[driver.Creator](d); ok {
		has |= Creator
	}
	if _, ok := blob.As[driver.Batcher](d); ok {
		has |= Batcher
	}
	if _, ok := blob.As[driver.BulkDeleter](d); ok {
		has |= BulkDeleter
	}
	if _, ok := blob.As[driver.Measurer](d); ok {
		has |= Measurer
	}
	if _, ok := blob.As[driver.Stager](d); ok {
		has |= Stager
	}
	if _, ok := blob.As[driver.Resumer](d); ok {
		has |= Resumer
	}
	t.Logf("%T: creator %t, batcher %t, bulk deleter %t, measurer %t, stager %t, resumer %t", d,
		has&Creator != 0, has&Batcher != 0, has&BulkDeleter != 0, has&Measurer != 0, has&Stager != 0, has&Resumer != 0)
	if s.expect != nil && has != *s.expect {
		t.Errorf("abilities are %06b, want %06b (resumer, stager, measurer, bulk deleter, batcher, creator)", has, *s.expect)
	}
}

// text is a small content that tells which blob it belongs to.
func text(format string, args ...any) []byte { return fmt.Appendf(nil, format, args...) }

func put(t *testing.T, d driver.Driver, key string, p []byte) {
	t.Helper()
	if err := d.Put(t.Context(), key, blob.Bytes(p)); err != nil {
		t.Fatalf("put %q of %d bytes: %v", short(key), len(p), err)
	}
}

// read reads a range and closes the reader.
func read(ctx context.Context, d driver.Driver, key string, offset, length int64) ([]byte, error) {
	r, err := d.Get(ctx, key, offset, length)
	if err != nil {
		return nil, err
	}
	p, err := io.ReadAll(r)
	if e := r.Close(); err == nil {
		err = e
	}
	return p, err
}

// want fails the test unless the whole blob is p.
func want(t *testing.T, d driver.Driver, key string, p []byte) {
	t.Helper()
	got, err := read(t.Context(), d, key, 0, -1)
	if err != nil {
		t.Fatalf("get %q: %v", short(key), err)
	}
	if string(got) != string(p) {
		t.Fatalf("%q is %s, want %s", short(key), show(got), show(p))
	}
	info, err := d.Stat(t.Context(), key)
	if err != nil {
		t.Fatalf("stat %q: %v", short(key), err)
	}
	if info.Key != key || info.Size != int64(len(p)) {
		t.Fatalf("stat %q says %q, %d bytes, want %d", short(key), short(info.Key), info.Size, len(p))
	}
}

// wantNone fails the test if the key is there.
func wantNone(t *testing.T, d driver.Driver, key string) {
	t.Helper()
	if _, err := d.Stat(t.Context(), key); firn.KindOf(err) != firn.NotFound {
		t.Errorf("stat %q: %v, want not found", short(key), err)
	}
	if p, err := read(t.Context(), d, key, 0, -1); firn.KindOf(err) != firn.NotFound {
		t.Errorf("get %q: %s, %v, want not found", short(key), show(p), err)
	}
}

// keysOf lists and checks order and prefix.
func keysOf(t *testing.T, d driver.Driver, prefix string) []string {
	t.Helper()
	keys := []string{}
	err := d.List(t.Context(), prefix, func(info driver.Info) error {
		if n := len(keys); n > 0 && keys[n-1] >= info.Key {
			t.Errorf("list %q: %q comes after %q", prefix, short(info.Key), short(keys[n-1]))
		}
		keys = append(keys, info.Key)
		return nil
	})
	if err != nil {
		t.Fatalf("list %q: %v", prefix, err)
	}
	return keys
}

func wantKeys(t *testing.T, d driver.Driver, prefix string, keys ...string) {
	t.Helper()
	got := keysOf(t, d, prefix)
	if len(got) == 0 && len(keys) == 0 || reflect.DeepEqual(got, keys) {
		return
	}
	t.Errorf("list %q: got %d keys %.400q, want %d keys %.400q", prefix, len(got), got, len(keys), keys)
}

func short(s string) string {
	if len(s) > 60 {
		return fmt.Sprintf("%s...(%d bytes)", s[:50], len(s))
	}
	return s
}

func show(p []byte) string {
	if len(p) > 60 {
		return fmt.Sprintf("%d bytes, %q...", len(p), p[:40])
	}
	return fmt.Sprintf("%d bytes, %q", len(p), p)
}

// near fails the test where a backend on this machine says it was written long ago or in the future.
func near(t *testing.T, info driver.Info) {
	t.Helper()
	const hour = time.Hour
	if m := info.Modified; !m.IsZero() && (time.Since(m) > hour || time.Until(m) > hour) {
		t.Errorf("%q was modified at %v, now it is %v", short(info.Key), m, time.Now())
	}
}
