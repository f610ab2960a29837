// Package sqliteblob keeps blobs in one SQLite file.
//
// It owns the tables described in docs/format/blob-sql.md. A blob is a row with its key and a generation, and rows of
// pieces that belong to the generation. SQLite has one writer at a time, so a large put does not hold the lock while it
// reads its source: pieces go in short transactions under a note, and the last one makes them visible and takes the note
// away. A place is named by
//
//	sqlite:/path/to/blobs.db        or sqlite:blobs.db, relative to where the process runs
//
// It promises that a success is on disk (WAL, synchronous=FULL), that several processes may use the file at once, that
// what a read gives was compared with its checksum, that deletes give space back to the file system, and that they work
// on a full disk. It refuses network file systems, on which SQLite's WAL does not work. A blob that is replaced or
// deleted while it is read, and larger than a piece, makes the reader fail with firn.Unavailable. It must never import
// another driver.
package sqliteblob

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"modernc.org/sqlite" // also registers the database/sql driver
	sqlite3 "modernc.org/sqlite/lib"

	"firn"
	"firn/blob/driver"
)

const (
	// pieceSize is what a row holds, and the least that is read and checked.
	pieceSize = 256 << 10
	// window is how many pieces are written at a time, and read with a blob's record.
	window = 8
	// page is how many blobs are listed or deleted at a time.
	page = 1000
	// lease is how long after its last piece an unfinished put is left alone.
	lease = time.Hour
	// busy is how long a lock is waited for: a little by SQLite, which does not hear of a cancelled context, then again.
	busy = 30 * time.Second
	// readers is how many connections read at once.
	readers = 4
	// reserve is the size of the file that a delete on a full disk uses up. The log, which is written into the file first,
	// has about 4 MiB (SQLite's 1000 pages) and the last transaction; the log of the delete comes after it.
	reserve = 8 << 20

	applicationID = 0x4649524e // "FIRN"
	formatVersion = 1
)

// Options say where the file is.
type Options struct {
	// Path is the file. Beside it SQLite keeps two more while it is open, and this driver its reserve.
	Path string
}

// FromURL reads a sqlite: URL.
func FromURL(u *url.URL) (Options, error) {
	path := u.Opaque
	if path == "" {
		path = u.Path
	}
	unescaped, err := url.PathUnescape(u.Opaque)
	if err != nil {
		return Options{}, invalid("the URL's path cannot be read")
	}
	if unescaped != "" {
		path = unescaped
	}
	opt := Options{Path: path}
	switch {
	case u.Scheme != "sqlite":
		return opt, invalid("the URL must begin with sqlite:")
	case u.Host != "" || u.User != nil:
		return opt, invalid("the URL is sqlite:/path or sqlite:path: there is no server")
	case u.RawQuery != "":
		return opt, invalid("a sqlite: URL takes no settings")
	}
	return opt, opt.check()
}

func (o Options) check() error {
	if o.Path == "" || strings.ContainsRune(o.Path, 0) || strings.HasSuffix(o.Path, "/") {
		return invalid("the URL names no file: sqlite:/path/to/blobs.db")
	}
	return nil
}

func invalid(text string) error { return firn.NewError(firn.Invalid, text) }

// store is the driver.
type store struct {
	path   string
	file   os.FileInfo // as it was opened
	read   *sql.DB     // several connections
	write  *sql.DB     // one: writers of this process queue here, not at the file's lock
	closed atomic.Bool

	reserveMu sync.Mutex // held while the reserve is made or removed
}

// open connects. mode is rw, or rwc to make the file where it is not there.
func open(ctx context.Context, opt Options, mode string) (*store, error) {
	if err := opt.check(); err != nil {
		return nil, err
	}
	path, err := filepath.Abs(opt.Path)
	if err != nil {
		return nil, &firn.Error{Kind: firn.Invalid, Err: err}
	}
	if err := checkFileSystem(filepath.Dir(path)); err != nil {
		return nil, err
	}
	s := &store{path: path}
	name := func(more ...string) string {
		q := url.Values{"_pragma": append(more, "busy_timeout(200)", "temp_store(2)", "cache_size(-8192)")}
		q.Set("_txlock", "immediate")
		q.Set("mode", mode)
		return "file:" + (&url.URL{Path: path}).EscapedPath() + "?" + q.Encode()
	}
	// A new file's vacuum is set before anything is in it.
	if s.write, err = sql.Open("sqlite", name("auto_vacuum(2)", "journal_mode(wal)", "synchronous(2)", "journal_size_limit(16777216)")); err != nil {
		return nil, s.fail(ctx, err)
	}
	if s.read, err = sql.Open("sqlite", name("query_only(1)")); err != nil {
		s.write.Close()
		return nil, s.fail(ctx, err)
	}
	s.write.SetMaxOpenConns(1)
	s.read.SetMaxOpenConns(readers)
	return s, nil
}

// Init makes the file, and leaves one that is there as it is.
func Init(ctx context.Context, opt Options) error {
	s, err := open(ctx, opt, "rwc")
	if err != nil {
		return err
	}
	defer s.Close()
	err = s.change(ctx, func(tx *sql.Tx) error {
		var id, version, tables int
		if err := tx.QueryRowContext(ctx, `select (select * from pragma_application_id), (select * from pragma_user_version),
			(select count(*) from sqlite_schema)`).Scan(&id, &version, &tables); err != nil {
			return err
		}
		if id != 0 || version != 0 || tables != 0 {
			return checkFormat(id, version)
		}
		for _, statement := range []string{
			`create table blobs (key text primary key, generation integer not null, size integer not null,
				modified integer not null) without rowid`,
			`create table pieces (generation integer not null, n integer not null, crc integer not null, data blob not null,
				primary key (generation, n))`,
			`create table pending (generation integer primary key, touched integer not null)`,
			fmt.Sprintf(`pragma application_id = %d`, applicationID),
			fmt.Sprintf(`pragma user_version = %d`, formatVersion),
		} {
			if _, err := tx.ExecContext(ctx, statement); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	return syncDir(filepath.Dir(s.path))
}

// New opens a file that Init made.
func New(ctx context.Context, opt Options) (_ driver.Driver, err error) {
	if err := opt.check(); err != nil {
		return nil, err
	}
	fi, err := os.Stat(opt.Path)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return nil, invalid(opt.Path + " is not there: Init makes it, or its file system is not mounted")
	case errors.Is(err, os.ErrPermission):
		return nil, &firn.Error{Kind: firn.Denied, Err: err}
	case err != nil:
		return nil, &firn.Error{Kind: firn.Unavailable, Err: err}
	case !fi.Mode().IsRegular():
		return nil, invalid(opt.Path + " is not a file")
	}
	s, err := open(ctx, opt, "rw")
	if err != nil {
		return nil, err
	}
	s.file = fi
	defer func() {
		if err != nil {
			s.Close()
		}
	}()
	var id, version int
	err = s.read.QueryRowContext(ctx, `select (select * from pragma_application_id), (select * from pragma_user_version)`).Scan(&id, &version)
	if err != nil {
		return nil, s.fail(ctx, err)
	}
	if err := checkFormat(id, version); err != nil {
		return nil, err
	}
	s.keepReserve()
	return s, s.sweep(ctx)
}

// checkFormat is the check at open, which costs the same for every size; Check is the thorough one.
func checkFormat(id, version int) error {
	switch {
	case id != applicationID:
		return invalid("the file is no database of blobs")
	case version != formatVersion:
		return firn.NewError(firn.Unsupported, fmt.Sprintf("the file has format %d, this program knows %d", version, formatVersion))
	}
	return nil
}

// Close ends all connections. The last process that does writes the log into the file.
func (s *store) Close() error {
	s.closed.Store(true)
	return errors.Join(s.read.Close(), s.write.Close())
}

// Check reads the whole file and compares it with SQLite's structure. It returns what is wrong, at most 20 lines of it.
func (s *store) Check(ctx context.Context) error {
	rows, err := s.read.QueryContext(ctx, `pragma integrity_check(20)`)
	if err != nil {
		return s.fail(ctx, err)
	}
	defer rows.Close()
	var found []string
	for rows.Next() {
		var line string
		if err := rows.Scan(&line); err != nil {
			return s.fail(ctx, err)
		}
		if line != "ok" {
			found = append(found, line)
		}
	}
	if err := rows.Err(); err != nil {
		return s.fail(ctx, err)
	}
	if len(found) > 0 {
		return firn.NewError(firn.Corrupt, "the file is damaged: "+strings.Join(found, "; "))
	}
	return nil
}

// here fails once another file, or none, has the path: SQLite would go on with one that has no name.
func (s *store) here(ctx context.Context) error {
	if s.closed.Load() {
		return errClosed
	}
	if s.file == nil {
		return ctx.Err() // Init is about to make it
	}
	if fi, err := os.Stat(s.path); err != nil || !os.SameFile(fi, s.file) {
		return firn.NewError(firn.Unavailable, s.path+" was removed, replaced, or its file system is away: open it again")
	}
	return ctx.Err()
}

var errClosed = firn.NewError(firn.Invalid, "the driver is closed")

// fail gives an error of a call with ctx its kind.
func (s *store) fail(ctx context.Context, err error) error {
	var known *firn.Error
	var answer *sqlite.Error
	switch {
	case err == nil:
		return nil
	case errors.As(err, &known):
		return err
	case ctx.Err() != nil:
		return &firn.Error{Kind: firn.Unavailable, Err: ctx.Err()}
	case s.closed.Load():
		return errClosed
	case errors.As(err, &answer):
		if strings.Contains(answer.Error(), "no such table") {
			// Not NotFound: that no blob is there is never the answer where there is nothing to ask.
			return invalid("the file's tables are not there")
		}
		return &firn.Error{Kind: kindOfCode(answer.Code()), Err: err}
	}
	return &firn.Error{Kind: firn.Internal, Err: err}
}

// kindOfCode knows SQLite's result codes.
func kindOfCode(code int) firn.Kind {
	switch code & 0xff {
	case sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_INTERRUPT, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN,
		sqlite3.SQLITE_NOMEM, sqlite3.SQLITE_PROTOCOL:
		return firn.Unavailable
	case sqlite3.SQLITE_FULL:
		return firn.NoSpace
	case sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB:
		return firn.Corrupt
	case sqlite3.SQLITE_PERM, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_AUTH:
		return firn.Denied
	}
	return firn.Internal
}
