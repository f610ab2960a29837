package pgblob

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"io"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"firn"
	"firn/blob"
	"firn/blob/driver"
)

// Put stores a blob.
func (s *store) Put(ctx context.Context, key string, src driver.Source) error {
	return s.apply(ctx, []driver.Change{{Key: key, Put: src}}, false)
}

// Create stores a blob whose key is not there.
func (s *store) Create(ctx context.Context, key string, src driver.Source) error {
	if src.Size() > window*pieceSize {
		switch _, err := s.Stat(ctx, key); {
		case err == nil:
			return errExists
		case firn.KindOf(err) != firn.NotFound:
			return err
		}
	}
	return s.apply(ctx, []driver.Change{{Key: key, Put: src}}, true)
}

// Apply makes all changes or none.
func (s *store) Apply(ctx context.Context, changes []driver.Change) error {
	return s.apply(ctx, changes, false)
}

// Delete removes a blob.
func (s *store) Delete(ctx context.Context, key string) error { return s.DeleteAll(ctx, []string{key}) }

// DeleteAll removes blobs, up to 1000 in a transaction.
func (s *store) DeleteAll(ctx context.Context, keys []string) error {
	for some := range slices.Chunk(keys, page) {
		batch := &pgx.Batch{}
		s.delete(batch, some)
		if err := s.pool.SendBatch(ctx, batch).Close(); err != nil {
			return s.fail(ctx, err)
		}
	}
	return nil
}

func (s *store) delete(batch *pgx.Batch, keys []string) {
	batch.Queue(s.q.lock, keys)
	batch.Queue(s.q.remove, keys)
}

var (
	errExists   = firn.NewError(firn.Exists, "the blob is there already")
	errNotThere = firn.NewError(firn.NotFound, "there is no such blob")
	errReplaced = firn.NewError(firn.Unavailable, "the blob was replaced or deleted while it was read; read it again")
)

// apply makes changes in one transaction. What fits into a window is read before a connection is taken.
func (s *store) apply(ctx context.Context, changes []driver.Change, create bool) error {
	if err := ctx.Err(); err != nil {
		return s.fail(ctx, err)
	}
	if len(changes) == 0 {
		return nil
	}
	sum := int64(0)
	for _, c := range changes {
		if c.Put != nil {
			sum += c.Put.Size() + pieceSize/64
		}
	}
	if sum > window*pieceSize {
		select {
		case s.large <- struct{}{}:
			defer func() { <-s.large }()
		case <-ctx.Done():
			return s.fail(ctx, ctx.Err())
		}
	}
	w := &writer{s: s, batch: &pgx.Batch{}}
	defer w.rollback(context.WithoutCancel(ctx))
	heads := make([]head, 0, len(changes))
	for _, c := range changes {
		h := head{key: c.Key}
		if c.Put != nil {
			var random [8]byte
			rand.Read(random[:]) //nolint:errcheck // never fails
			h.put, h.size, h.generation = true, c.Put.Size(), int64(binary.NativeEndian.Uint64(random[:])>>1)
			if err := w.content(ctx, h.generation, c.Put); err != nil {
				return err
			}
		}
		heads = append(heads, h)
	}
	// Rows are locked in the order of their keys, so that no two batches wait for each other.
	slices.SortStableFunc(heads, func(a, b head) int { return strings.Compare(a.key, b.key) })
	return s.fail(ctx, w.commit(ctx, heads, create))
}

// head is a change without its content.
type head struct {
	key              string
	put              bool
	generation, size int64
}

// writer collects statements. It begins a transaction when they become many; else one batch is the transaction.
type writer struct {
	s     *store
	tx    pgx.Tx
	batch *pgx.Batch
	bytes int
}

// content adds the pieces of a source.
func (w *writer) content(ctx context.Context, generation int64, src driver.Source) (err error) {
	r, err := blob.OpenExact(ctx, src)
	if err != nil {
		return w.source(ctx, err)
	}
	defer func() {
		if e := r.Close(); err == nil && e != nil {
			err = e
		}
	}()
	left := src.Size()
	for n := 0; left > 0; n++ {
		data := make([]byte, min(pieceSize, left))
		if _, err := io.ReadFull(r, data); err != nil {
			return w.source(ctx, err)
		}
		if w.bytes+len(data) > window*pieceSize {
			if err := w.flush(ctx); err != nil {
				return w.s.fail(ctx, err)
			}
		}
		w.batch.Queue(w.s.q.piece, generation, n, data)
		w.bytes += len(data)
		left -= int64(len(data))
	}
	if _, err := io.ReadFull(r, make([]byte, 1)); err != io.EOF { //nolint:errorlint // ReadFull returns it as it is
		return w.source(ctx, err)
	}
	return nil
}

// source is an error of a source, which keeps its kind.
func (w *writer) source(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return w.s.fail(ctx, ctx.Err())
	}
	return err
}

func (w *writer) begin(ctx context.Context) (err error) {
	if w.tx == nil {
		w.tx, err = w.s.pool.Begin(ctx)
	}
	return err
}

func (w *writer) flush(ctx context.Context) error {
	if err := w.begin(ctx); err != nil {
		return err
	}
	err := w.tx.SendBatch(ctx, w.batch).Close()
	w.batch, w.bytes = &pgx.Batch{}, 0
	return err
}

func (w *writer) commit(ctx context.Context, heads []head, create bool) error {
	if create {
		if err := w.begin(ctx); err != nil {
			return err
		}
		tag, err := w.tx.Exec(ctx, w.s.q.insert, heads[0].key, heads[0].generation, heads[0].size)
		if err == nil && tag.RowsAffected() == 0 {
			err = errExists
		}
		if err != nil {
			return err
		}
		heads = nil
	}
	for _, h := range heads {
		if h.put {
			w.batch.Queue(w.s.q.upsert, h.key, h.generation, h.size)
			w.batch.Queue(w.s.q.drop, h.key)
		} else {
			w.s.delete(w.batch, []string{h.key})
		}
	}
	if w.tx == nil {
		return w.s.pool.SendBatch(ctx, w.batch).Close()
	}
	if err := w.flush(ctx); err != nil {
		return err
	}
	return w.tx.Commit(ctx)
}

// rollback ends a transaction that was not committed.
func (w *writer) rollback(ctx context.Context) {
	if w.tx != nil {
		_ = w.tx.Rollback(ctx) // without a connection the server does it
	}
}
