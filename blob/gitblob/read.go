package gitblob

import (
	"context"
	"encoding/hex"
	"errors"
	"hash"
	"io"

	"firn"
	"firn/internal/gitrepo"
)

// Get reads pieces of the commit that the catalogue shows; what is put later does not change them.
func (p *place) Get(ctx context.Context, key string, offset, length int64) (io.ReadCloser, error) {
	e, err := p.find(ctx, key)
	if err != nil {
		return nil, err
	}
	if offset < 0 {
		return nil, invalid("the offset is negative")
	}
	rest := max(e.size-offset, 0)
	if length >= 0 {
		rest = min(rest, length)
	}
	r := &reader{ctx: ctx, p: p, pieces: e.pieces, rest: rest}
	for len(r.pieces) > 1 && offset >= r.pieces[0].size {
		offset -= r.pieces[0].size
		r.pieces = r.pieces[1:]
	}
	r.skip = offset
	if rest == 0 {
		return r, nil
	}
	// What is missing is said now, not by the first Read.
	return r, r.open()
}

// reader reads the pieces one after another. Git does not compare what it streams with its name, so the reader does
// wherever a piece is read to its end.
type reader struct {
	ctx    context.Context
	p      *place
	pieces []piece // the first is the one being read
	skip   int64   // bytes of the first piece that come before the range
	rest   int64   // bytes of the range that were not returned yet

	cur  *gitrepo.Stream
	sum  hash.Hash
	left int64 // bytes of the first piece that were not read yet
	err  error
}

// open starts on the first piece and passes over what comes before the range.
func (r *reader) open() error {
	first := r.pieces[0]
	cur, err := r.p.repo.Output(r.ctx, "cat-file", "blob", string(first.id))
	if err != nil {
		return err
	}
	r.cur, r.sum, r.left = cur, gitrepo.NewSum(len(first.id), first.size), first.size
	n, err := io.CopyN(r.sum, cur, r.skip)
	r.left -= n
	r.skip = 0
	if errors.Is(err, io.EOF) {
		err = firn.NewError(firn.Corrupt, "a piece is shorter than its tree says")
	}
	if err != nil {
		cur.Close()
		r.cur = nil
	}
	return err
}

func (r *reader) Read(b []byte) (int, error) {
	if r.err != nil {
		return 0, r.err
	}
	n, err := r.read(b)
	r.err = err
	return n, err
}

func (r *reader) read(b []byte) (int, error) {
	for r.rest > 0 {
		if r.cur == nil {
			if err := r.open(); err != nil {
				return 0, err
			}
		}
		if r.left == 0 {
			if err := r.end(); err != nil {
				return 0, err
			}
			continue
		}
		n, err := r.cur.Read(b[:min(int64(len(b)), r.rest, r.left)])
		r.sum.Write(b[:n])
		r.left -= int64(n)
		if errors.Is(err, io.EOF) && r.left > 0 {
			return 0, firn.NewError(firn.Corrupt, "a piece is shorter than its tree says")
		}
		if err != nil && !errors.Is(err, io.EOF) {
			return 0, err
		}
		if n > 0 && r.left == 0 {
			// Compared before its last bytes are given away.
			if err := r.end(); err != nil {
				return 0, err
			}
		}
		r.rest -= int64(n)
		if n > 0 || len(b) == 0 {
			return n, nil
		}
	}
	return 0, io.EOF
}

// end compares the piece with its name and goes to the next.
func (r *reader) end() error {
	if got := hex.EncodeToString(r.sum.Sum(nil)); got != string(r.pieces[0].id) {
		return firn.NewError(firn.Corrupt, "the content of a piece does not match its name "+string(r.pieces[0].id))
	}
	r.cur.Close()
	r.cur, r.pieces = nil, r.pieces[1:]
	return nil
}

func (r *reader) Close() error {
	if r.err == nil || errors.Is(r.err, io.EOF) {
		r.err = errReaderClosed
	}
	if r.cur != nil {
		r.cur.Close()
		r.cur = nil
	}
	return nil
}

var errReaderClosed = firn.NewError(firn.Invalid, "the reader is closed")
