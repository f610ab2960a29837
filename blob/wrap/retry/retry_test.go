package retry

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"firn"
	"firn/blob"
	"firn/blob/driver"
	"firn/blob/drivertest"
	"firn/blob/memblob"
)

var errAway = firn.NewError(firn.Unavailable, "the place is away")

// creator finds the ability as callers do.
func creator(t *testing.T, d driver.Driver) driver.Creator {
	t.Helper()
	c, ok := blob.As[driver.Creator](d)
	if !ok {
		t.Fatal("it cannot create")
	}
	return c
}

const all = drivertest.Creator | drivertest.Batcher | drivertest.BulkDeleter | drivertest.Measurer | drivertest.Resumer

func open(t *testing.T, mem memblob.Options, opt Options) driver.Driver {
	t.Helper()
	d, err := New(memblob.New(mem), opt)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func TestConformance(t *testing.T) {
	drivertest.Run(t, func(t *testing.T) driver.Driver {
		return open(t, memblob.Options{}, Options{})
	}, drivertest.Expect(all))
}

// TestConformanceOnShakyPlace runs the suite on a backend of which one call in ten fails, half of those although they
// were carried out.
func TestConformanceOnShakyPlace(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	var mu sync.Mutex
	rng := rand.New(rand.NewPCG(seed, 0))
	shaky := func(_ context.Context, op memblob.Op) memblob.Fault {
		mu.Lock()
		defer mu.Unlock()
		// A read that breaks off under a writer fails rightly; the suite wants none to fail.
		if op.Name == "read" || rng.IntN(10) > 0 {
			return memblob.Fault{}
		}
		return memblob.Fault{Err: errAway, Applied: rng.IntN(2) == 0}
	}
	drivertest.Run(t, func(t *testing.T) driver.Driver {
		return open(t, memblob.Options{Before: shaky}, Options{First: time.Microsecond, Longest: 10 * time.Microsecond})
	}, drivertest.Expect(all), drivertest.Blobs(300), drivertest.Large(4<<20))
}

type observer struct {
	sync.Mutex
	waits  []time.Duration
	gaveUp int
}

func (o *observer) Retry(_ string, _ error, wait time.Duration) {
	o.Lock()
	defer o.Unlock()
	o.waits = append(o.waits, wait)
}

func (o *observer) GiveUp(string, error) {
	o.Lock()
	defer o.Unlock()
	o.gaveUp++
}

// TestWaits holds that waits grow with jitter up to the longest, and that the total is a bound.
func TestWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var calls atomic.Int64
		seen := &observer{}
		d := open(t, memblob.Options{Before: func(context.Context, memblob.Op) memblob.Fault {
			calls.Add(1)
			return memblob.Fault{Err: errAway}
		}}, Options{First: time.Second, Longest: 20 * time.Second, Total: 10 * time.Minute, Observer: seen})
		start := time.Now()
		if _, err := d.Stat(t.Context(), "k"); firn.KindOf(err) != firn.Unavailable {
			t.Errorf("got %v, want the last error", err)
		}
		took := time.Since(start)
		if took > 10*time.Minute || took < 9*time.Minute {
			t.Errorf("gave up after %v, want a little under 10 minutes", took)
		}
		if seen.gaveUp != 1 || int64(len(seen.waits)) != calls.Load()-1 {
			t.Errorf("observed %d waits, %d times given up at %d calls", len(seen.waits), seen.gaveUp, calls.Load())
		}
		if first := seen.waits[0]; first < time.Second/2 || first > 3*time.Second/2 {
			t.Errorf("the first wait is %v", first)
		}
		last := seen.waits[len(seen.waits)-5:]
		if slices.Max(last) > 30*time.Second || slices.Min(last) < 10*time.Second {
			t.Errorf("the last waits are %v, want half to one and a half of 20 s", last)
		}
		if len(slices.Compact(slices.Clone(last))) == 1 {
			t.Errorf("the last waits are all %v: there is no jitter", last[0])
		}
	})
}

// TestWhatIsTriedAgain goes through kinds and errors.
func TestWhatIsTriedAgain(t *testing.T) {
	for _, c := range []struct {
		err   error
		again bool
	}{
		{errAway, true},
		{firn.E("stat", "x", errAway), true},
		{&net.OpError{Op: "dial", Err: syscall.ECONNREFUSED}, true},
		{io.ErrUnexpectedEOF, true},
		{syscall.EPIPE, true},
		{&net.DNSError{IsTimeout: true}, true},
		{errors.New("a bug"), false},
		{firn.NewError(firn.Denied, "x"), false},
		{&firn.Error{Kind: firn.Denied, Err: &net.OpError{Op: "tls", Err: io.EOF}}, false},
		{firn.NewError(firn.NotFound, "x"), false},
		{firn.NewError(firn.Exists, "x"), false},
		{firn.NewError(firn.NoSpace, "x"), false},
		{firn.NewError(firn.Corrupt, "x"), false},
		{firn.NewError(firn.Invalid, "x"), false},
		{firn.NewError(firn.Conflict, "x"), false},
		{context.Canceled, false},
	} {
		synctest.Test(t, func(t *testing.T) {
			calls := 0
			d := open(t, memblob.Options{Before: func(context.Context, memblob.Op) memblob.Fault {
				calls++
				return memblob.Fault{Err: c.err}
			}}, Options{})
			err := d.Delete(t.Context(), "k")
			if (calls > 1) != c.again || !errors.Is(err, c.err) {
				t.Errorf("%v: %d calls, returned %v; tried again should be %t", c.err, calls, err, c.again)
			}
		})
	}
}

func TestCancelledWhileWaiting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := open(t, memblob.Options{Before: func(context.Context, memblob.Op) memblob.Fault {
			return memblob.Fault{Err: errAway}
		}}, Options{First: time.Hour, Longest: time.Hour, Total: 100 * time.Hour})
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		start := time.Now()
		if err := d.Delete(ctx, "k"); !errors.Is(err, context.DeadlineExceeded) || time.Since(start) != time.Minute {
			t.Errorf("%v after %v, want the deadline after a minute", err, time.Since(start))
		}
	})
}

// failing makes the calls of one name fail by their number, from 1.
func failing(name string, numbers map[int]memblob.Fault) func(context.Context, memblob.Op) memblob.Fault {
	var n atomic.Int64
	return func(_ context.Context, op memblob.Op) memblob.Fault {
		if op.Name != name {
			return memblob.Fault{}
		}
		return numbers[int(n.Add(1))]
	}
}

// TestUnclearCreate holds that a create that failed although it happened succeeds, and that one which another client
// made meanwhile does not.
func TestUnclearCreate(t *testing.T) {
	for _, c := range []struct {
		name    string
		there   string // by another client before the first try
		applied bool
		kind    firn.Kind
		fails   bool
	}{
		{"ours", "", true, 0, false},
		{"not applied", "", false, 0, false},
		{"of another client", "theirs", false, firn.Exists, true},
		{"of another client, same length", "ourX", false, firn.Exists, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				mem := memblob.New(memblob.Options{Before: failing("create", map[int]memblob.Fault{1: {Err: errAway, Applied: c.applied}})})
				if c.there != "" {
					if err := mem.Put(t.Context(), "k", blob.Bytes([]byte(c.there))); err != nil {
						t.Fatal(err)
					}
				}
				d, err := New(mem, Options{})
				if err != nil {
					t.Fatal(err)
				}
				err = creator(t, d).Create(t.Context(), "k", blob.Bytes([]byte("ours")))
				if (err != nil) != c.fails || err != nil && firn.KindOf(err) != c.kind {
					t.Errorf("got %v", err)
				}
			})
		})
	}
	// A clear answer at the first try stays: the same content made by another client is not ours.
	mem := memblob.New(memblob.Options{})
	d, err := New(mem, Options{})
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []bool{false, true} {
		err := creator(t, d).Create(t.Context(), "k", blob.Bytes([]byte("same")))
		if (firn.KindOf(err) == firn.Exists) != want {
			t.Errorf("create %d: %v", i+1, err)
		}
	}
}

// TestReadGoesOn breaks reads off and compares what comes.
func TestReadGoesOn(t *testing.T) {
	content := make([]byte, 3<<20)
	for i := range content {
		content[i] = byte(i * i >> 7)
	}
	for _, immutable := range []bool{false, true} {
		for _, r := range [][2]int64{{0, -1}, {7, -1}, {1 << 20, 3 << 20}, {5, 100}, {0, 2 << 20}} {
			synctest.Test(t, func(t *testing.T) {
				d := open(t, memblob.Options{Before: failing("read", map[int]memblob.Fault{
					2: {Err: errAway}, 3: {Err: errAway}, 11: {Err: io.ErrUnexpectedEOF},
				})}, Options{Immutable: immutable})
				if err := d.Put(t.Context(), "k", blob.Bytes(content)); err != nil {
					t.Fatal(err)
				}
				rc, err := d.Get(t.Context(), "k", r[0], r[1])
				if err != nil {
					t.Fatal(err)
				}
				got, err := io.ReadAll(rc)
				if err := errors.Join(err, rc.Close()); err != nil {
					t.Errorf("range %v: %v", r, err)
				}
				want := content[r[0]:]
				if r[1] >= 0 {
					want = want[:min(int64(len(want)), r[1])]
				}
				if !bytes.Equal(got, want) {
					t.Errorf("range %v: %d bytes, want %d, or others", r, len(got), len(want))
				}
				if err := d.Close(); err != nil {
					t.Error(err)
				}
			})
		}
	}
}

// TestReadNeverMixes replaces the blob while it is read, breaks the read off, and wants an error.
func TestReadNeverMixes(t *testing.T) {
	for _, change := range []string{"replaced", "deleted", "without times"} {
		synctest.Test(t, func(t *testing.T) {
			var broken atomic.Bool
			opt := memblob.Options{Before: func(_ context.Context, op memblob.Op) memblob.Fault {
				if op.Name == "read" && broken.Swap(false) {
					return memblob.Fault{Err: errAway}
				}
				return memblob.Fault{}
			}}
			if change == "without times" {
				opt.Now = func() time.Time { return time.Time{} }
			}
			mem := memblob.New(opt)
			d, err := New(mem, Options{Total: time.Minute})
			if err != nil {
				t.Fatal(err)
			}
			if err := mem.Put(t.Context(), "k", blob.Bytes(bytes.Repeat([]byte("a"), 2<<20))); err != nil {
				t.Fatal(err)
			}
			rc, err := d.Get(t.Context(), "k", 0, -1)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := io.ReadFull(rc, make([]byte, 1000)); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Second)
			switch change {
			case "replaced":
				err = mem.Put(t.Context(), "k", blob.Bytes(bytes.Repeat([]byte("b"), 2<<20)))
			case "deleted":
				err = mem.Delete(t.Context(), "k")
			}
			if err != nil {
				t.Fatal(err)
			}
			broken.Store(true)
			_, err = io.ReadAll(rc)
			if !errors.Is(err, errChanged) {
				t.Errorf("%s: %v, want the read to fail", change, err)
			}
			if _, again := rc.Read(make([]byte, 1)); !errors.Is(again, errChanged) {
				t.Errorf("%s: read after the error: %v", change, again)
			}
			if err := errors.Join(rc.Close(), d.Close()); err != nil {
				t.Error(err)
			}
		})
	}
}

// hanging is a place that answers nothing until the context ends.
type hanging struct{ *memblob.Driver }

func (h hanging) Stat(ctx context.Context, _ string) (driver.Info, error) {
	<-ctx.Done()
	return driver.Info{}, ctx.Err()
}

func (h hanging) Put(ctx context.Context, _ string, src driver.Source) error {
	r, err := src.Open()
	if err != nil {
		return err
	}
	defer r.Close()
	if _, err := io.Copy(io.Discard, r); err != nil {
		return err
	}
	<-ctx.Done()
	return ctx.Err()
}

// slow is a source that takes its time.
type slow struct{ d time.Duration }

func (s slow) Size() int64                  { return 3 }
func (s slow) Open() (io.ReadCloser, error) { return io.NopCloser(&slowReader{s.d, 3}), nil }

type slowReader struct {
	d    time.Duration
	left int
}

func (s *slowReader) Read(p []byte) (int, error) {
	if s.left == 0 {
		return 0, io.EOF
	}
	time.Sleep(s.d)
	s.left--
	p[0] = 'x'
	return 1, nil
}

// TestStall holds that a try without progress ends and is tried again, and that a slow source is no stall.
func TestStall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		seen := &observer{}
		d, err := New(hanging{memblob.New(memblob.Options{})}, Options{Stall: 10 * time.Second, Total: time.Minute, Observer: seen})
		if err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		_, err = d.Stat(t.Context(), "k")
		if firn.KindOf(err) != firn.Unavailable || !strings.Contains(err.Error(), "no progress for 10s") {
			t.Errorf("got %v", err)
		}
		if took := time.Since(start); took > 70*time.Second || len(seen.waits) < 2 {
			t.Errorf("took %v and %d tries", took, len(seen.waits)+1)
		}
		start = time.Now()
		err = d.Put(t.Context(), "k", slow{time.Hour})
		if firn.KindOf(err) != firn.Unavailable {
			t.Errorf("put: %v", err)
		}
		if took := time.Since(start); took < 3*time.Hour {
			t.Errorf("the put ended after %v: the time of its source counted as a stall", took)
		}
	})
}

// TestListGoesOn breaks listings off half-way.
func TestListGoesOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mem := memblob.New(memblob.Options{})
		for _, k := range []string{"a", "b", "c", "d", "e"} {
			if err := mem.Put(t.Context(), k, blob.Bytes(nil)); err != nil {
				t.Fatal(err)
			}
		}
		d, err := New(&torn{Driver: mem, tears: 3}, Options{})
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		err = d.List(t.Context(), "", func(i driver.Info) error { got = append(got, i.Key); return nil })
		if err != nil || strings.Join(got, "") != "abcde" {
			t.Errorf("%q, %v", got, err)
		}
		// An error of the caller's is not the backend's.
		calls := 0
		mine := firn.NewError(firn.Unavailable, "mine")
		err = d.List(t.Context(), "", func(driver.Info) error { calls++; return mine })
		if !errors.Is(err, mine) || calls != 1 {
			t.Errorf("%v after %d calls", err, calls)
		}
	})
}

// torn breaks each listing off after two entries, a few times.
type torn struct {
	*memblob.Driver
	tears int
}

func (d *torn) List(ctx context.Context, prefix string, fn func(driver.Info) error) error {
	n := 0
	return d.Driver.List(ctx, prefix, func(i driver.Info) error {
		if n++; n > 2 && d.tears > 0 {
			d.tears--
			return errAway
		}
		return fn(i)
	})
}

func TestRefusesNegativeSettings(t *testing.T) {
	for _, opt := range []Options{{First: -1}, {Longest: -1}, {Total: -1}, {Stall: -1}} {
		if _, err := New(memblob.New(memblob.Options{}), opt); firn.KindOf(err) != firn.Invalid {
			t.Errorf("%+v: %v", opt, err)
		}
	}
}
