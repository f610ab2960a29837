package sqliteblob

import (
	"context"
	"database/sql"
	"errors"
	"hash/crc32"
	"io"
	"strings"
	"time"

	"firn"
	"firn/blob/driver"
)

var (
	errShort = firn.NewError(firn.Corrupt, "a piece of the blob is missing or cut off in the file")
	errCheck = firn.NewError(firn.Corrupt, "a piece of the blob differs from its checksum")
)

// Get reads a range.
func (s *store) Get(ctx context.Context, key string, offset, length int64) (io.ReadCloser, error) {
	if err := s.here(ctx); err != nil {
		return nil, s.fail(ctx, err)
	}
	r := &reader{ctx: ctx, s: s, n: min(offset/pieceSize, 1<<40)}
	// Record and the first pieces in one statement, which sees one state.
	last := r.n + window - 1
	if length >= 0 && length < window*pieceSize {
		last = max(r.n, (offset+length-1)/pieceSize)
	}
	rows, err := s.read.QueryContext(ctx, `select b.generation, b.size, p.crc, p.data from blobs b
		left join pieces p on p.generation = b.generation and p.n between ? and ? where b.key = ? order by p.n`, r.n, last, key)
	if err != nil {
		return nil, s.fail(ctx, err)
	}
	found := false
	data, err := s.collect(ctx, rows, func(crc *sql.NullInt64, p *[]byte) error {
		found = true
		return rows.Scan(&r.generation, &r.size, crc, p)
	})
	if err != nil {
		return nil, err
	}
	if !found {
		return nil, errNotThere
	}
	if offset = min(offset, r.size); length < 0 || length > r.size-offset {
		length = r.size - offset
	}
	if r.left = length; length == 0 {
		return r, nil
	}
	skip := offset - r.n*pieceSize
	if err := r.took(data, last+1); err != nil {
		return nil, err
	}
	r.data = data[skip:]
	return r, nil
}

// collect reads pieces and compares them with their checksums.
func (s *store) collect(ctx context.Context, rows *sql.Rows, scan func(*sql.NullInt64, *[]byte) error) (data []byte, err error) {
	defer rows.Close()
	for rows.Next() {
		var crc sql.NullInt64
		var p []byte
		if err := scan(&crc, &p); err != nil {
			return nil, s.fail(ctx, err)
		}
		if crc.Valid && int64(crc32.Checksum(p, castagnoli)) != crc.Int64 {
			return nil, errCheck
		}
		data = append(data, p...)
	}
	return data, s.fail(ctx, rows.Err())
}

// reader holds some of a blob's pieces and asks for the next when they are used up.
type reader struct {
	ctx              context.Context // of the Get
	s                *store
	generation, size int64
	data             []byte
	n                int64 // the next piece to ask for
	left             int64
	err              error
}

// took fails unless data are all pieces from r.n until next.
func (r *reader) took(data []byte, next int64) error {
	if int64(len(data)) != min(next*pieceSize, r.size)-r.n*pieceSize {
		return errShort
	}
	r.n = next
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
	next := r.n + min(window, (r.left+pieceSize-1)/pieceSize)
	rows, err := r.s.read.QueryContext(r.ctx, `select crc, data from pieces where generation = ? and n between ? and ? order by n`,
		r.generation, r.n, next-1)
	if err != nil {
		return r.s.fail(r.ctx, err)
	}
	data, err := r.s.collect(r.ctx, rows, func(crc *sql.NullInt64, p *[]byte) error { return rows.Scan(crc, p) })
	if err != nil {
		return err
	}
	if len(data) == 0 {
		return errReplaced // all pieces of a generation go together
	}
	r.data = data
	return r.took(data, next)
}

func (r *reader) Close() error {
	r.data, r.err = nil, errors.New("the reader is closed")
	return nil
}

// Stat describes a blob.
func (s *store) Stat(ctx context.Context, key string) (driver.Info, error) {
	if err := s.here(ctx); err != nil {
		return driver.Info{}, s.fail(ctx, err)
	}
	var size, modified int64
	err := s.read.QueryRowContext(ctx, `select size, modified from blobs where key = ?`, key).Scan(&size, &modified)
	if errors.Is(err, sql.ErrNoRows) {
		return driver.Info{}, errNotThere
	}
	return driver.Info{Key: key, Size: size, Modified: time.UnixMilli(modified)}, s.fail(ctx, err)
}

// List asks for pages. SQLite compares text byte by byte.
func (s *store) List(ctx context.Context, prefix string, fn func(driver.Info) error) error {
	for after, first := prefix, true; ; first = false {
		all, err := s.page(ctx, after, first)
		if err != nil {
			return err
		}
		for _, info := range all {
			if !strings.HasPrefix(info.Key, prefix) {
				return nil
			}
			if err := ctx.Err(); err != nil {
				return s.fail(ctx, err)
			}
			if err := fn(info); err != nil {
				return err
			}
			after = info.Key
		}
		if len(all) < page {
			return nil
		}
	}
}

func (s *store) page(ctx context.Context, after string, first bool) ([]driver.Info, error) {
	if err := s.here(ctx); err != nil {
		return nil, s.fail(ctx, err)
	}
	rows, err := s.read.QueryContext(ctx, `select key, size, modified from blobs where key >= ? and (? or key > ?) order by key limit ?`,
		after, first, after, page)
	if err != nil {
		return nil, s.fail(ctx, err)
	}
	defer rows.Close()
	var all []driver.Info
	for rows.Next() {
		var info driver.Info
		var modified int64
		if err := rows.Scan(&info.Key, &info.Size, &modified); err != nil {
			return nil, s.fail(ctx, err)
		}
		info.Modified = time.UnixMilli(modified)
		all = append(all, info)
	}
	return all, s.fail(ctx, rows.Err())
}
