package repo

import (
	"context"
	"time"

	"firn"
)

// ClosingTime is how long what a run leaves behind may take to be cleaned up after the run's context has ended. Docker
// kills what does not end within 10 seconds of its signal, Kubernetes after 30.
const ClosingTime = 8 * time.Second

// Closing returns a context for cleaning up after work that runs under ctx. It has the values of ctx and ends
// ClosingTime after it: while ctx lives, a slow place has all the time it needs; once it has ended, a place that does
// not answer holds nobody up for long. It is made when the work begins, so that all that is cleaned up shares one such
// time, and is released with the function returned.
func Closing(ctx context.Context) (context.Context, context.CancelFunc) {
	c, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, func() {
		t := time.NewTimer(ClosingTime)
		defer t.Stop()
		select {
		case <-t.C:
			cancel(firn.NewError(firn.Unavailable, "interrupted, and the place did not answer in time"))
		case <-c.Done():
		}
	})
	return c, func() {
		stop()
		cancel(context.Canceled)
	}
}
