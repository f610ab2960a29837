package pgblob

import (
	"context"
	"errors"
	"io"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/jackc/pgx/v5"

	"firn"
	"firn/blob/driver"
)

var errShort = firn.NewError(firn.Corrupt, "a piece of the blob is missing or cut off in the database")

// record is a row of blobs.
type record struct {
	generation, size int64
	modified         time.Time
}

// Get reads a range. The first window comes with the record, in one statement.
func (s *store) Get(ctx context.Context, key string, offset, length int64) (io.ReadCloser, error) {
	first := min(offset/pieceSize, 1<<30) // a piece's number has 31 bits
	skip := offset - first*pieceSize
	last := first + window - 1
	var rows pgx.Rows
	var err error
	one := length >= 0 && length <= pieceSize-skip
	if one {
		rows, err = s.pool.Query(ctx, s.q.part, key, first, skip+1, length)
	} else {
		if length >= 0 && length < window*pieceSize {
			last = (offset + length - 1) / pieceSize
		}
		rows, err = s.pool.Query(ctx, s.q.head, key, first, last)
	}
	if err != nil {
		return nil, s.fail(ctx, err)
	}
	var rec record
	var data, piece []byte
	found := false
	if _, err := pgx.ForEachRow(rows, []any{&rec.generation, &rec.size, &rec.modified, &piece}, func() error {
		found = true
		data = append(data, piece...)
		return nil
	}); err != nil {
		return nil, s.fail(ctx, err)
	}
	if !found {
		return nil, errNotThere
	}
	offset = min(offset, rec.size)
	to := rec.size
	if length >= 0 && length < to-offset {
		to = offset + length
	}
	if one && int64(len(data)) != to-offset {
		return nil, errShort
	}
	r := &reader{ctx: ctx, s: s, generation: rec.generation, size: rec.size, data: data, n: last + 1, left: to - offset}
	if !one && offset < to {
		if err := r.check(first, data); err != nil {
			return nil, err
		}
		r.data = data[skip:]
	}
	return r, nil
}

// reader holds a window of a blob's pieces and asks for the next when it is used up.
type reader struct {
	ctx              context.Context // of the Get
	s                *store
	generation, size int64
	data             []byte
	n                int64 // the next piece to ask for
	left             int64
	err              error
}

// check fails unless data are all pieces from the first until r.n.
func (r *reader) check(first int64, data []byte) error {
	if want := min(r.n*pieceSize, r.size) - first*pieceSize; int64(len(data)) != want {
		return errShort
	}
	return nil
}

func (r *reader) Read(p []byte) (int, error) {
	if r.err != nil {
		return 0, r.err
	}
	if r.left == 0 {
		return 0, io.EOF
	}
	if len(r.data) == 0 {
		if r.err = r.next(); r.err != nil {
			return 0, r.err
		}
	}
	n := copy(p, r.data[:min(int64(len(r.data)), r.left)])
	r.data = r.data[n:]
	r.left -= int64(n)
	return n, nil
}

func (r *reader) next() error {
	first := r.n
	r.n = first + min(window, (r.left+pieceSize-1)/pieceSize)
	rows, err := r.s.pool.Query(r.ctx, r.s.q.pieces, r.generation, first, r.n-1)
	if err != nil {
		return r.s.fail(r.ctx, err)
	}
	var piece []byte
	if _, err := pgx.ForEachRow(rows, []any{&piece}, func() error {
		r.data = append(r.data, piece...)
		return nil
	}); err != nil {
		return r.s.fail(r.ctx, err)
	}
	if len(r.data) == 0 {
		return errReplaced // all pieces of a generation go together
	}
	return r.check(first, r.data)
}

func (r *reader) Close() error {
	r.data, r.err = nil, errors.New("the reader is closed")
	return nil
}

// Stat describes a blob.
func (s *store) Stat(ctx context.Context, key string) (driver.Info, error) {
	var rec record
	err := s.pool.QueryRow(ctx, s.q.stat, key).Scan(&rec.generation, &rec.size, &rec.modified)
	if errors.Is(err, pgx.ErrNoRows) {
		return driver.Info{}, errNotThere
	}
	return driver.Info{Key: key, Size: rec.size, Modified: rec.modified}, s.fail(ctx, err)
}

// List asks for pages.
func (s *store) List(ctx context.Context, prefix string, fn func(driver.Info) error) error {
	after, from := prefix, true
	for !utf8.ValidString(after) { // a prefix may end within a letter, which PostgreSQL does not take
		after = after[:len(after)-1]
	}
	for {
		rows, err := s.pool.Query(ctx, s.q.list, after, from, page)
		if err != nil {
			return s.fail(ctx, err)
		}
		all, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (info driver.Info, err error) {
			return info, row.Scan(&info.Key, &info.Size, &info.Modified)
		})
		if err != nil {
			return s.fail(ctx, err)
		}
		for _, info := range all {
			if !strings.HasPrefix(info.Key, prefix) {
				if info.Key < prefix {
					continue
				}
				return nil
			}
			if err := ctx.Err(); err != nil {
				return s.fail(ctx, err)
			}
			if err := fn(info); err != nil {
				return err
			}
		}
		if len(all) < page {
			return nil
		}
		after, from = all[len(all)-1].Key, false
	}
}
