package blob

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"firn"
	"firn/blob/driver"
)

// Bytes is p as a source. p must not change while it is in use.
func Bytes(p []byte) driver.Source { return byteSource(p) }

type byteSource []byte

func (p byteSource) Size() int64 { return int64(len(p)) }

func (p byteSource) Open() (io.ReadCloser, error) { return p.OpenAt(0) }

func (p byteSource) OpenAt(offset int64) (io.ReadCloser, error) {
	return io.NopCloser(bytes.NewReader(p[offset:])), nil
}

// File is the file at path as a source, with the size it has now: a put of a file that grows or shrinks meanwhile fails.
func File(path string) (driver.Source, error) {
	fi, err := os.Stat(path)
	if err != nil {
		return nil, FileError(err)
	}
	if !fi.Mode().IsRegular() {
		return nil, firn.NewError(firn.Invalid, path+" is not a regular file")
	}
	return fileSource{path, fi.Size()}, nil
}

type fileSource struct {
	path string
	size int64
}

func (f fileSource) Size() int64 { return f.size }

func (f fileSource) Open() (io.ReadCloser, error) {
	r, err := os.Open(f.path)
	if err != nil {
		return nil, FileError(err)
	}
	return r, nil
}

// FileError gives an error of the local file system its kind.
func FileError(err error) error {
	kind := firn.Internal
	switch {
	case errors.Is(err, os.ErrNotExist):
		kind = firn.NotFound
	case errors.Is(err, os.ErrPermission):
		kind = firn.Denied
	}
	return &firn.Error{Kind: kind, Err: err}
}

// OpenExact opens src for a driver: the reader gives exactly src.Size() bytes and then io.EOF, or fails. It fails with
// firn.Invalid where src has fewer bytes or more, always before it hands out the last byte, so that a backend which
// counts them can never take the put for complete; and with the error of ctx once that is done.
func OpenExact(ctx context.Context, src driver.Source) (io.ReadCloser, error) {
	return OpenExactAt(ctx, src, 0)
}

// OpenExactAt is OpenExact from offset on.
func OpenExactAt(ctx context.Context, src driver.Source, offset int64) (io.ReadCloser, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	size := src.Size()
	if size < 0 {
		return nil, firn.NewError(firn.Invalid, fmt.Sprintf("the source announces %d bytes", size))
	}
	if offset < 0 || offset > size {
		return nil, firn.NewError(firn.Invalid, fmt.Sprintf("the source has %d bytes, and is to be read from %d on", size, offset))
	}
	r, err := OpenAt(src, offset)
	if err != nil {
		return nil, err
	}
	return &exact{ctx: ctx, r: r, size: size, left: size - offset}, nil
}

// OpenAt opens src from offset on. Of one that is no driver.SourceAt it reads what is before that.
func OpenAt(src driver.Source, offset int64) (io.ReadCloser, error) {
	if at, ok := src.(driver.SourceAt); ok {
		return at.OpenAt(offset)
	}
	r, err := src.Open()
	if err != nil {
		return nil, err
	}
	if _, err = io.CopyN(io.Discard, r, offset); err != nil {
		_ = r.Close() // it was only read
		if err == io.EOF {
			err = firn.NewError(firn.Invalid, fmt.Sprintf("the source gave fewer than the %d bytes it announced", src.Size()))
		}
		return nil, err
	}
	return r, nil
}

type exact struct {
	ctx        context.Context
	r          io.ReadCloser
	size, left int64
	held       [1]byte // the last byte, until the source was seen to end after it
	ended      bool    // the source ended where it should
	err        error
}

func (e *exact) Read(p []byte) (n int, err error) {
	if e.err != nil {
		return 0, e.err
	}
	if n, err = e.read(p); err != nil {
		e.err = err
	}
	return n, err
}

func (e *exact) read(p []byte) (int, error) {
	if err := e.ctx.Err(); err != nil {
		return 0, err
	}
	if e.ended {
		if e.left == 0 {
			return 0, io.EOF
		}
		if len(p) == 0 {
			return 0, nil
		}
		p[0], e.left = e.held[0], 0
		return 1, nil
	}
	if e.left > 1 {
		p = p[:min(int64(len(p)), e.left-1)]
		n, err := e.r.Read(p)
		e.left -= int64(n)
		if err == io.EOF {
			return n, e.wrong("fewer")
		}
		return n, err
	}
	if e.left == 1 {
		if _, err := io.ReadFull(e.r, e.held[:]); err != nil {
			if err == io.EOF {
				err = e.wrong("fewer")
			}
			return 0, err
		}
	}
	var probe [1]byte
	switch _, err := io.ReadFull(e.r, probe[:]); err {
	case nil:
		return 0, e.wrong("more")
	case io.EOF:
		e.ended = true
		return e.read(p)
	default:
		return 0, err
	}
}

func (e *exact) wrong(how string) error {
	return firn.NewError(firn.Invalid, fmt.Sprintf("the source gave %s than the %d bytes it announced", how, e.size))
}

func (e *exact) Close() error { return e.r.Close() }
