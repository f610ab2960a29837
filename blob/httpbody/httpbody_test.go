package httpbody

import (
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"
)

type source struct {
	io.Reader
	closed int
}

func (s *source) Close() error {
	s.closed++
	return nil
}

func TestBody(t *testing.T) {
	s := &source{Reader: strings.NewReader("content")}
	b := New(s, 7)
	if n, err := b.Read(make([]byte, 7)); n != 7 || err != nil {
		t.Fatal(n, err)
	}
	for range 2 {
		if err := b.End(); err != nil || s.closed != 1 {
			t.Errorf("end: %v, closed %d times", err, s.closed)
		}
	}
	if n, err := b.Read(make([]byte, 7)); n != 0 || err != io.EOF {
		t.Errorf("read whole, after the end: %d bytes, %v, want io.EOF", n, err)
	}

	b = New(&source{Reader: strings.NewReader("content")}, 7)
	if _, err := b.Read(make([]byte, 3)); err != nil {
		t.Fatal(err)
	}
	if err := b.End(); err != nil {
		t.Fatal(err)
	}
	if n, err := b.Read(make([]byte, 7)); n != 0 || err == nil || errors.Is(err, io.EOF) || b.Err() != nil {
		t.Errorf("read in part, after the end: %d bytes, %v, %v", n, err, b.Err())
	}

	broken := errors.New("broken")
	b = New(&source{Reader: iotest.ErrReader(broken)}, 7)
	if _, err := b.Read(make([]byte, 7)); !errors.Is(err, broken) || !errors.Is(b.Err(), broken) {
		t.Errorf("a broken source: %v, %v", err, b.Err())
	}
}
