package prefetch

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"firn"
)

// TestRunner: suggestions are fetched, broken off for the foreground, kept to the rate and to the queue.
func TestRunner(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, err := NewRunner(newLearner(t), func(ctx context.Context, _ Suggestion) (int64, error) {
			select {
			case <-time.After(time.Second):
				return 1000, nil
			case <-ctx.Done():
				return 100, ctx.Err()
			}
		}, RunnerOptions{Parallel: 1, Queue: 10, Rate: 100})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- r.Run(ctx) }()
		n := 0
		read := func(times int) {
			for range times {
				r.Observe(whole(fmt.Sprint("a/", n)))
				n++
			}
			synctest.Wait()
		}
		read(20)
		if s := r.Stats(); s.Suggested < 10 || s.Waiting > 10 || s.Dropped != s.Suggested-11 && s.Dropped != s.Suggested-10 {
			t.Errorf("%+v", s)
		}
		time.Sleep(1500 * time.Millisecond)
		if s := r.Stats(); s.Fetched != 1 || s.Bytes != 1000 {
			t.Errorf("%+v", s)
		}
		// 1000 bytes at 100 a second: the next one begins 10 s after the end of the first.
		time.Sleep(9 * time.Second)
		if s := r.Stats(); s.Fetched != 1 {
			t.Errorf("%+v", s)
		}
		time.Sleep(time.Second) // it has been running for half a second
		end := r.Foreground()
		synctest.Wait()
		if s := r.Stats(); s.Cancelled != 1 || s.Bytes != 1100 {
			t.Errorf("%+v", s)
		}
		time.Sleep(time.Hour)
		if s := r.Stats(); s.Fetched != 1 || s.Cancelled != 1 {
			t.Errorf("fetched beside the foreground: %+v", s)
		}
		end()
		end() // once
		time.Sleep(2 * time.Second)
		if s := r.Stats(); s.Fetched != 2 {
			t.Errorf("%+v", s)
		}
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
	for _, o := range []RunnerOptions{{Parallel: -1}, {Queue: -1}, {Rate: -1}} {
		if _, err := NewRunner(nil, nil, o); firn.KindOf(err) != firn.Invalid {
			t.Errorf("%+v: %v", o, err)
		}
	}
}
