// Package httpbody lends a source to net/http as the body of one request.
//
// It promises that the source is not touched after End, though a transport may still be reading when its round trip has
// returned, and it keeps what the source failed with, which says more than what the connection makes of it. It must
// never import another package of this module.
package httpbody

import (
	"errors"
	"io"
	"sync"
)

// Body is the body of one request. It has no Close that reaches the source: End is the caller's.
type Body struct {
	mu   sync.Mutex // held while r is read, however long that takes: End waits for it
	r    io.ReadCloser
	left int64
	err  error // the source's
	off  bool
}

// New returns a body that reads r, which has size bytes.
func New(r io.ReadCloser, size int64) *Body { return &Body{r: r, left: size} }

var errOver = errors.New("the request is over")

// Read reads the source, and fails after End. What was read whole ends in io.EOF even then: a server may answer before the
// transport has looked for the end, which would cost the connection, and with it the rest of the answer.
func (b *Body) Read(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case b.err != nil:
		return 0, b.err
	case b.off && b.left == 0:
		return 0, io.EOF
	case b.off:
		return 0, errOver
	}
	n, err := b.r.Read(p)
	b.left -= int64(n)
	if err != nil && !errors.Is(err, io.EOF) {
		b.err = err
	}
	return n, err
}

// Err is what the source failed with, or nil.
func (b *Body) Err() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.err
}

// End waits for a read that is under way and closes the source.
func (b *Body) End() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.off {
		return nil
	}
	b.off = true
	return b.r.Close()
}
