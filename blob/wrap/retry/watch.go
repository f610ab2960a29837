package retry

import (
	"context"
	"errors"
	"fmt"
	"time"

	"firn"
)

// errStalled is the cause of a context that the watch cancelled.
var errStalled = errors.New("stalled")

// watch ends a try that makes no progress.
type watch struct {
	ctx    context.Context
	cancel context.CancelCauseFunc
	timer  *time.Timer
	stall  time.Duration
	kept   bool // it outlives the try: it belongs to a reader
}

// watch returns a context for one try, and what watches it until its end.
func (r *retrier) watch(ctx context.Context) (context.Context, *watch) {
	ctx, cancel := context.WithCancelCause(ctx)
	timer := time.AfterFunc(r.opt.Stall, func() { cancel(errStalled) })
	return ctx, &watch{ctx: ctx, cancel: cancel, timer: timer, stall: r.opt.Stall}
}

// progress starts the time anew.
func (w *watch) progress() { w.timer.Reset(w.stall) }

// pause stops it: what happens until progress is called is not the backend's doing.
func (w *watch) pause() { w.timer.Stop() }

func (w *watch) end() {
	w.timer.Stop()
	w.cancel(nil)
}

// error says what really happened to a try that the watch ended.
func (w *watch) error(err error) error {
	if err == nil || context.Cause(w.ctx) != errStalled {
		return err
	}
	return firn.NewError(firn.Unavailable, fmt.Sprintf("the place made no progress for %v", w.stall))
}
