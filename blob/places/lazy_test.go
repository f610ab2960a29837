package places

import (
	"context"
	"errors"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"firn"
	"firn/blob"
	"firn/blob/driver"
	"firn/blob/drivertest"
	"firn/blob/memblob"
)

// TestLazyContract holds the wrapper to the contract of a driver.
func TestLazyContract(t *testing.T) {
	drivertest.Run(t, func(t *testing.T) driver.Driver {
		url := "file:" + filepath.Join(t.TempDir(), "place")
		s, err := Init(t.Context(), url, Secrets{})
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		lazy := Lazy(func() (*Opener, error) { return &Opener{}, nil }, url)
		if _, err := lazy.Exists(t.Context(), "x"); err != nil {
			t.Fatal(err)
		}
		return lazy.Driver()
	}, drivertest.Blobs(100), drivertest.Large(2<<20), drivertest.Rounds(20),
		drivertest.Expect(drivertest.Creator|drivertest.BulkDeleter|drivertest.Measurer|drivertest.Stager|drivertest.Resumer))
}

// rests is a driver that fails while err is set, and counts.
type rests struct {
	driver.Driver
	err   error
	calls int
}

func (r *rests) Stat(ctx context.Context, key string) (driver.Info, error) {
	if r.calls++; r.err != nil {
		return driver.Info{}, r.err
	}
	return r.Driver.Stat(ctx, key)
}

func TestLazyOpens(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := t.Context()
		tries := 0
		wrong := errors.New("no credentials")
		var open error = wrong
		back := &rests{Driver: memblob.New(memblob.Options{})}
		l := &lazy{trying: make(chan struct{}, 1), open: func(context.Context) (driver.Driver, error) {
			if tries++; open != nil {
				return nil, open
			}
			return back, nil
		}}
		s := blob.New(l, "mem:")
		for range 1000 {
			if _, err := s.Stat(ctx, "k"); firn.KindOf(err) != firn.Unavailable || !errors.Is(err, wrong) {
				t.Fatal(err)
			}
		}
		if tries != 1 {
			t.Errorf("tried %d times at once", tries)
		}
		for range 3600 {
			time.Sleep(time.Second)
			_, _ = s.Stat(ctx, "k") // fails as above
		}
		if tries < 60 || tries > 70 {
			t.Errorf("tried %d times in an hour", tries)
		}
		open = nil
		time.Sleep(longestWait)
		if _, err := s.Stat(ctx, "k"); firn.KindOf(err) != firn.NotFound {
			t.Errorf("it is there: %v", err)
		}

		// When it does not answer one call in a while finds out.
		back.err, back.calls = firn.NewError(firn.Unavailable, "no route to host"), 0
		for range 600 {
			for range 10 {
				if _, err := s.Stat(ctx, "k"); firn.KindOf(err) != firn.Unavailable {
					t.Fatal(err)
				}
			}
			time.Sleep(time.Second)
		}
		if back.calls < 600/8 || back.calls > 600/8+5 {
			t.Errorf("asked %d times in 10 minutes", back.calls)
		}
		back.err = nil
		time.Sleep(longestRest)
		for range 10 {
			if _, err := s.Stat(ctx, "k"); firn.KindOf(err) != firn.NotFound {
				t.Errorf("it is back: %v", err)
			}
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		if _, err := s.Stat(ctx, "k"); firn.KindOf(err) != firn.Unavailable {
			t.Errorf("closed: %v", err)
		}
	})
}

// TestLazyCaller: a caller who gives up says nothing of the place.
func TestLazyCaller(t *testing.T) {
	l := &lazy{trying: make(chan struct{}, 1)}
	l.open = func(ctx context.Context) (driver.Driver, error) {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		return memblob.New(memblob.Options{}), nil
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := l.Stat(ctx, "k"); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	if _, err := l.Stat(t.Context(), "k"); firn.KindOf(err) != firn.NotFound {
		t.Errorf("the next one: %v", err)
	}
}
