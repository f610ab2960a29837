package sqliteblob

import (
	"context"
	"crypto/rand"
	"database/sql"
	"encoding/binary"
	"encoding/json"
	"errors"
	"hash/crc32"
	"io"
	"os"
	"slices"
	"time"

	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"

	"firn"
	"firn/blob"
	"firn/blob/driver"
)

var (
	errExists   = firn.NewError(firn.Exists, "the blob is there already")
	errNotThere = firn.NewError(firn.NotFound, "there is no such blob")
	errReplaced = firn.NewError(firn.Unavailable, "the blob was replaced or deleted while it was read; read it again")
	errLost     = firn.NewError(firn.Unavailable, "the put rested so long that it was taken for abandoned; put it again")
)

// change runs fn in a transaction that holds the lock of writers from its beginning.
func (s *store) change(ctx context.Context, fn func(*sql.Tx) error) error {
	if err := s.here(ctx); err != nil {
		return s.fail(ctx, err)
	}
	tx, err := s.begin(ctx)
	if err != nil {
		return s.fail(ctx, err)
	}
	defer tx.Rollback() //nolint:errcheck // does nothing after a commit
	if err := fn(tx); err != nil {
		return s.fail(ctx, err)
	}
	return s.fail(ctx, tx.Commit())
}

func (s *store) begin(ctx context.Context) (*sql.Tx, error) {
	for end := time.Now().Add(busy); ; {
		tx, err := s.write.BeginTx(ctx, nil)
		var answer *sqlite.Error
		if !errors.As(err, &answer) || answer.Code()&0xff != sqlite3.SQLITE_BUSY || ctx.Err() != nil || time.Now().After(end) {
			return tx, err
		}
	}
}

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

// piece is a row of pieces.
type piece struct {
	generation int64
	n          int
	data       []byte
}

// writer collects pieces, and writes those that are too many to hold, under a note for each generation.
type writer struct {
	s      *store
	pieces []piece
	bytes  int
	noted  map[int64]bool
}

func (s *store) apply(ctx context.Context, changes []driver.Change, create bool) (err error) {
	if err := ctx.Err(); err != nil {
		return s.fail(ctx, err)
	}
	if len(changes) == 0 {
		return nil
	}
	w := &writer{s: s, noted: map[int64]bool{}}
	defer func() {
		if err != nil && len(w.noted) > 0 {
			w.forget(context.WithoutCancel(ctx))
		}
	}()
	generations := make([]int64, len(changes))
	for i, c := range changes {
		if c.Put == nil {
			continue
		}
		generations[i] = newGeneration()
		if err := w.content(ctx, generations[i], c.Put); err != nil {
			return err
		}
	}
	var freed int64
	err = s.change(ctx, func(tx *sql.Tx) error {
		if err := w.take(ctx, tx); err != nil {
			return err
		}
		if err := w.insert(ctx, tx); err != nil {
			return err
		}
		for i, c := range changes {
			n, err := removeKeys(ctx, tx, []string{c.Key}, create)
			if err != nil {
				return err
			}
			freed += n
			if c.Put == nil {
				continue
			}
			if _, err := tx.ExecContext(ctx, `insert into blobs (key, generation, size, modified) values (?, ?, ?, ?)`,
				c.Key, generations[i], c.Put.Size(), time.Now().UnixMilli()); err != nil {
				return err
			}
		}
		return nil
	})
	if err == nil && freed > 0 {
		s.vacuum(ctx)
	}
	return err
}

func newGeneration() int64 {
	var b [8]byte
	rand.Read(b[:]) //nolint:errcheck // never fails
	return int64(binary.NativeEndian.Uint64(b[:]) >> 1)
}

// removeKeys deletes blobs, unless they are not expected, and returns how many bytes they had.
func removeKeys(ctx context.Context, tx *sql.Tx, keys []string, unexpected bool) (int64, error) {
	list, err := json.Marshal(keys)
	if err != nil {
		return 0, err
	}
	var n, bytes int64
	if err := tx.QueryRowContext(ctx, `select count(*), coalesce(sum(size), 0) from blobs where key in (select value from json_each(?))`,
		list).Scan(&n, &bytes); err != nil || n == 0 {
		return 0, err
	}
	if unexpected {
		return 0, errExists
	}
	for _, statement := range []string{
		`delete from pieces where generation in (select generation from blobs where key in (select value from json_each(?)))`,
		`delete from blobs where key in (select value from json_each(?))`,
	} {
		if _, err := tx.ExecContext(ctx, statement, list); err != nil {
			return 0, err
		}
	}
	return bytes, nil
}

// content collects the pieces of a source.
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
				return err
			}
		}
		w.pieces = append(w.pieces, piece{generation, n, data})
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

// flush writes what was collected. What is noted already must still be: else it was swept, or is being swept now.
func (w *writer) flush(ctx context.Context) error {
	now := time.Now().UnixMilli()
	fresh := map[int64]bool{}
	for _, p := range w.pieces {
		if !w.noted[p.generation] {
			fresh[p.generation] = true
		}
	}
	err := w.s.change(ctx, func(tx *sql.Tx) error {
		if err := sweepSome(ctx, tx); err != nil {
			return err
		}
		for g := range w.noted {
			result, err := tx.ExecContext(ctx, `update pending set touched = ? where generation = ?`, now, g)
			if err := changedOne(result, err); err != nil {
				return err
			}
		}
		for g := range fresh {
			if _, err := tx.ExecContext(ctx, `insert into pending (generation, touched) values (?, ?)`, g, now); err != nil {
				return err
			}
		}
		return w.insert(ctx, tx)
	})
	if err != nil {
		return err
	}
	for g := range fresh {
		w.noted[g] = true
	}
	w.pieces, w.bytes = nil, 0
	return nil
}

func changedOne(result sql.Result, err error) error {
	if err != nil {
		return err
	}
	if n, err := result.RowsAffected(); err != nil || n == 1 {
		return err
	}
	return errLost
}

// take removes the notes.
func (w *writer) take(ctx context.Context, tx *sql.Tx) error {
	for g := range w.noted {
		result, err := tx.ExecContext(ctx, `delete from pending where generation = ?`, g)
		if err := changedOne(result, err); err != nil {
			return err
		}
	}
	return nil
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func (w *writer) insert(ctx context.Context, tx *sql.Tx) error {
	for _, p := range w.pieces {
		if _, err := tx.ExecContext(ctx, `insert into pieces (generation, n, crc, data) values (?, ?, ?, ?)`,
			p.generation, p.n, crc32.Checksum(p.data, castagnoli), p.data); err != nil {
			return err
		}
	}
	return nil
}

// forget removes what a failed put wrote. What fails here is swept later.
func (w *writer) forget(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, busy)
	defer cancel()
	_ = w.s.free(ctx, func(tx *sql.Tx) error {
		for g := range w.noted {
			// Without its note it was committed in spite of the error.
			if _, err := tx.ExecContext(ctx, `delete from pieces where generation = (select generation from pending where generation = ?)`, g); err != nil {
				return err
			}
			if _, err := tx.ExecContext(ctx, `delete from pending where generation = ?`, g); err != nil {
				return err
			}
		}
		return nil
	})
}

// sweepSome removes a part of what puts that were killed left.
func sweepSome(ctx context.Context, tx *sql.Tx) error {
	old := time.Now().Add(-lease).UnixMilli()
	for _, statement := range []string{
		`delete from pieces where generation in (select generation from pending where touched < ? order by generation limit 16)`,
		`delete from pending where generation in (select generation from pending where touched < ? order by generation limit 16)`,
	} {
		if _, err := tx.ExecContext(ctx, statement, old); err != nil {
			return err
		}
	}
	return nil
}

func (s *store) sweep(ctx context.Context) error {
	var n int
	if err := s.read.QueryRowContext(ctx, `select count(*) from pending where touched < ?`, time.Now().Add(-lease).UnixMilli()).Scan(&n); err != nil || n == 0 {
		return s.fail(ctx, err)
	}
	return s.free(ctx, func(tx *sql.Tx) error { return sweepSome(ctx, tx) })
}

// Delete removes a blob.
func (s *store) Delete(ctx context.Context, key string) error { return s.DeleteAll(ctx, []string{key}) }

// DeleteAll removes blobs, some in a transaction.
func (s *store) DeleteAll(ctx context.Context, keys []string) error {
	for some := range slices.Chunk(keys, page) {
		if err := s.free(ctx, func(tx *sql.Tx) error {
			_, err := removeKeys(ctx, tx, some, false)
			return err
		}); err != nil {
			return err
		}
	}
	return nil
}

// free runs fn, which only removes, and gives the space back to the file system. Where the disk is full, so that there is
// no room for the log of what is removed, it uses up the reserve.
func (s *store) free(ctx context.Context, fn func(*sql.Tx) error) error {
	err := s.change(ctx, fn)
	if firn.KindOf(err) == firn.NoSpace && s.useReserve() {
		s.checkpoint(ctx)
		err = s.change(ctx, fn)
	}
	if err == nil {
		s.vacuum(ctx)
		s.keepReserve()
	}
	return err
}

// vacuum gives free pages back, a megabyte at a time so that other writers get their turn. What it does not do is done
// next time.
func (s *store) vacuum(ctx context.Context) {
	const pages, rounds = 256, 256
	_, missing := os.Stat(s.reservePath())
	for range rounds {
		var n int
		if err := s.write.QueryRowContext(ctx, `select freelist_count from pragma_freelist_count`).Scan(&n); err != nil || n < pages/16 {
			break
		}
		// The pragma frees a page for each row that is asked for.
		rows, err := s.write.QueryContext(ctx, `pragma incremental_vacuum(256)`)
		if err != nil {
			break
		}
		for rows.Next() { //nolint:revive // only to the end
		}
		if errors.Join(rows.Err(), rows.Close()) != nil {
			break
		}
		if missing != nil {
			s.checkpoint(ctx) // the disk is full: the log must not grow
		}
	}
	if missing != nil {
		s.checkpoint(ctx)
	}
}

// checkpoint writes the log into the file and empties it, as far as no reader still needs it.
func (s *store) checkpoint(ctx context.Context) {
	_, _ = s.write.ExecContext(ctx, `pragma wal_checkpoint(truncate)`) // it is tried again
}

func (s *store) reservePath() string { return s.path + "-reserve" }

// keepReserve makes the file whose space a delete on a full disk uses.
func (s *store) keepReserve() {
	s.reserveMu.Lock()
	defer s.reserveMu.Unlock()
	if fi, err := os.Stat(s.reservePath()); err == nil && fi.Size() == reserve {
		return
	}
	f, err := os.OpenFile(s.reservePath(), os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return // there is less to fall back on, and it is made another time
	}
	_, err = f.Write(make([]byte, reserve))
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		os.Remove(s.reservePath())
	}
}

func (s *store) useReserve() bool {
	s.reserveMu.Lock()
	defer s.reserveMu.Unlock()
	return os.Remove(s.reservePath()) == nil
}

// syncDir makes the names in a directory durable.
func syncDir(dir string) error {
	f, err := os.Open(dir)
	if err == nil {
		err = errors.Join(f.Sync(), f.Close())
	}
	if err != nil {
		return &firn.Error{Kind: firn.Unavailable, Err: err}
	}
	return nil
}
