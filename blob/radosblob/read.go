//go:build rados

package radosblob

import (
	"context"
	"errors"
	"io"
	"slices"
	"strings"

	"github.com/ceph/go-ceph/rados"
	"golang.org/x/sync/errgroup"

	"firn"
	"firn/blob/driver"
)

// Get reads what one head names. A blob of one object is read in one operation; the pieces of a larger one disappear
// when it is replaced, and reading then fails.
func (p *pool) Get(ctx context.Context, key string, offset, length int64) (io.ReadCloser, error) {
	if offset < 0 {
		return nil, invalid("the offset is negative")
	}
	raw := make([]byte, headSize)
	// Content of up to a piece comes with the head.
	want := p.opt.PieceSize
	if length >= 0 {
		want = min(want, length)
	}
	content := make([]byte, want)
	n, m, err := p.readObject(ctx, p.heads+key, raw, content, headSize+min(offset, 1<<40))
	if firn.KindOf(err) == firn.NotFound {
		if err := p.gone(ctx); err != nil {
			return nil, err
		}
		return nil, errNone
	}
	if err != nil {
		return nil, err
	}
	h, err := parseHead(raw[:n])
	if err != nil {
		return nil, err
	}
	rest := max(h.size-offset, 0)
	if length >= 0 {
		rest = min(rest, length)
	}
	r := &reader{ctx: ctx, p: p, name: p.heads + key, h: h, at: offset, rest: rest}
	if h.piece == 0 {
		// Another client may have a larger piece size than ours.
		if int64(m) < min(rest, want) {
			return nil, firn.NewError(firn.Corrupt, "the object is shorter than its head says")
		}
		r.buf = content[:min(rest, int64(m))]
	}
	return r, nil
}

type reader struct {
	ctx  context.Context
	p    *pool
	name string
	h    head
	at   int64  // where rest begins
	rest int64  // bytes not returned yet, those of buf included
	buf  []byte // read and not returned yet
	err  error
}

func (r *reader) Read(b []byte) (int, error) {
	if r.err != nil {
		return 0, r.err
	}
	if r.rest == 0 {
		return 0, io.EOF
	}
	if len(b) == 0 {
		return 0, nil
	}
	if len(r.buf) == 0 {
		if r.err = r.fill(); r.err != nil {
			return 0, r.err
		}
	}
	n := copy(b, r.buf)
	r.buf = r.buf[n:]
	r.at += int64(n)
	r.rest -= int64(n)
	return n, nil
}

func (r *reader) fill() error {
	if err := r.ctx.Err(); err != nil {
		return err
	}
	if r.h.piece == 0 {
		return r.fillInline()
	}
	index, offset := r.at/r.h.piece, r.at%r.h.piece
	want := min(r.rest, r.h.piece-offset, r.p.opt.PieceSize)
	b := make([]byte, want)
	var n int
	err := r.p.call(r.ctx, func() (err error) {
		got, err := r.p.io.Read(r.p.pieceName(r.h.gen, index), b, uint64(offset))
		n = got
		return err
	})
	if firn.KindOf(err) == firn.NotFound {
		return firn.NewError(firn.Unavailable, "the blob was replaced or deleted while it was read")
	}
	if err != nil {
		return err
	}
	if int64(n) < want {
		return firn.NewError(firn.Corrupt, "a piece is shorter than its head says")
	}
	r.buf = b
	return nil
}

// fillInline reads more of a blob that another client stored in one object larger than our pieces.
func (r *reader) fillInline() error {
	raw, b := make([]byte, headSize), make([]byte, min(r.rest, r.p.opt.PieceSize))
	n, m, err := r.p.readObject(r.ctx, r.name, raw, b, headSize+r.at)
	if err != nil && firn.KindOf(err) != firn.NotFound {
		return err
	}
	h, headErr := parseHead(raw[:n])
	if err != nil || headErr != nil || h.gen != r.h.gen {
		return firn.NewError(firn.Unavailable, "the blob was replaced or deleted while it was read")
	}
	if m < len(b) {
		return firn.NewError(firn.Corrupt, "the object is shorter than its head says")
	}
	r.buf = b
	return nil
}

func (r *reader) Close() error {
	if r.err == nil {
		r.err = invalid("the reader is closed")
	}
	r.buf = nil
	return nil
}

// readAhead is how many heads a listing reads at once.
const readAhead = 32

// List reads all names of the namespace, sorts those with the prefix, and then reads the heads, a few at once.
func (p *pool) List(ctx context.Context, prefix string, fn func(driver.Info) error) error {
	keys, err := p.names(ctx, p.heads+prefix, len(p.heads))
	if err != nil {
		return err
	}
	slices.Sort(keys)
	keys = slices.Compact(keys)
	for len(keys) > 0 {
		batch := keys[:min(len(keys), readAhead)]
		keys = keys[len(batch):]
		infos := make([]driver.Info, len(batch))
		work, workCtx := errgroup.WithContext(ctx)
		for i, key := range batch {
			work.Go(func() (err error) {
				infos[i], err = p.Stat(workCtx, key)
				if firn.KindOf(err) == firn.NotFound {
					return nil // deleted meanwhile
				}
				return err
			})
		}
		if err := work.Wait(); err != nil {
			return err
		}
		for _, info := range infos {
			if info.Key == "" {
				continue
			}
			if err := ctx.Err(); err != nil {
				return err
			}
			if err := fn(info); err != nil {
				return err
			}
		}
	}
	return nil
}

// names lists the objects whose name begins with prefix, without their first cut bytes.
func (p *pool) names(ctx context.Context, prefix string, cut int) ([]string, error) {
	var names []string
	err := p.call(ctx, func() error {
		it, err := p.io.Iter()
		if err != nil {
			return err
		}
		defer it.Close()
		for n := 0; it.Next(); n++ {
			if name := it.Value(); strings.HasPrefix(name, prefix) {
				names = append(names, strings.Clone(name[cut:]))
			}
			if n%1024 == 0 && ctx.Err() != nil {
				return ctx.Err()
			}
		}
		return it.Err()
	})
	if err != nil {
		if errors.Is(err, rados.ErrNotFound) {
			return nil, errNoPool
		}
		return nil, err
	}
	return names, p.gone(ctx)
}
