package s3api

import (
	"io"
	"net/http"
	"time"

	"firn/s3api/s3err"
)

// Bodies have no total time limit, only one for standing still. net/http has no such limit, so the readers and
// writers here push the connection's deadline as long as bytes move.
const (
	deadlineStep  = time.Second // how often a deadline is pushed
	deadlineBytes = 64 << 10    // a rest as small as this needs no push: it fits in the socket's buffer
)

// bodyReader reads the request's body from the connection, counts it and gives it more time as long as it moves.
type bodyReader struct {
	rq    *request
	src   io.ReadCloser
	push  time.Time // when to push the deadline; zero before the first read
	ended bool

	waited time.Duration // for the client, since slow began to count
	moved  int64         // bytes that came meanwhile
}

// errSlow ends a request whose body trickles: each byte would push the deadline for ever.
var errSlow = s3err.New("RequestTimeout")

func (b *bodyReader) Read(p []byte) (int, error) {
	if b.ended {
		return 0, io.EOF
	}
	rq := b.rq
	if now := time.Now(); !now.Before(b.push) {
		rc := http.NewResponseController(rq.w)
		_ = rc.SetReadDeadline(now.Add(rq.s.opt.StallTimeout)) // writers without a connection, as in tests, have none
		if !b.push.IsZero() {
			// The response comes after the body and must find its deadline pushed too.
			_ = rc.SetWriteDeadline(now.Add(rq.s.opt.StallTimeout))
		}
		b.push = now.Add(deadlineStep)
	}
	asked := time.Now()
	n, err := b.src.Read(p)
	rq.in += int64(n)
	if err == nil {
		err = b.pace(n, time.Since(asked))
	}
	if err == io.EOF {
		// From here on net/http reads ahead to learn whether the client goes away. A deadline would look like that
		// and cancel a handler that takes long.
		b.ended = true
		_ = http.NewResponseController(rq.w).SetReadDeadline(time.Time{})
	}
	return n, err
}

// pace notes that n bytes came after a wait, ends a body that comes too slowly, and holds back one that comes faster
// than its user may send.
func (b *bodyReader) pace(n int, waited time.Duration) error {
	rq := b.rq
	if least := rq.s.opt.MinRate; least > 0 {
		b.waited, b.moved = b.waited+waited, b.moved+int64(n)
		if window := rq.s.opt.StallTimeout; b.waited >= window {
			if float64(b.moved) < float64(least)*b.waited.Seconds() {
				rq.set("Connection", "close") // the rest of the body is not read
				return errSlow
			}
			b.waited, b.moved = 0, 0
		}
	}
	if rq.user == nil {
		return nil
	}
	return rq.user.Wait(rq.ctx, n)
}

// Close does nothing. net/http closes the body after the response; closed earlier, what is left of it would be
// taken for the next request.
func (b *bodyReader) Close() error { return nil }

// bodyWriter sends the content of an object. It sends the header with the first byte, so that content found
// corrupt before that is still answered with an error, and gives the connection more time as long as it moves.
type bodyWriter struct {
	rq     *request
	status int
	left   int64
	push   time.Time // when to push the deadline
}

func (b *bodyWriter) Write(p []byte) (int, error) {
	rq := b.rq
	if !rq.wrote {
		rq.writeHeader(b.status)
		b.push = rq.start.Add(deadlineStep)
	}
	if rq.user != nil {
		if err := rq.user.Wait(rq.ctx, len(p)); err != nil {
			return 0, &clientGone{err}
		}
	}
	if b.left > deadlineBytes || rq.user != nil {
		if now := time.Now(); !now.Before(b.push) {
			_ = http.NewResponseController(rq.w).SetWriteDeadline(now.Add(rq.s.opt.StallTimeout))
			b.push = now.Add(deadlineStep)
		}
	}
	n, err := rq.w.Write(p)
	rq.out += int64(n)
	b.left -= int64(n)
	if err != nil {
		return n, &clientGone{err}
	}
	return n, nil
}

// clientGone wraps an error of writing to the client, which is no failure of the server.
type clientGone struct{ err error }

func (e *clientGone) Error() string { return "client: " + e.err.Error() }
func (e *clientGone) Unwrap() error { return e.err }
