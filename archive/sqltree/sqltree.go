// Package sqltree keeps a directory in a PostgreSQL or SQLite database as rows: one for each file, readable with SQL
// alone (select content from files where path = 'etc/app.conf'), with the last revisions, each restored exactly.
//
// It owns the tables described in docs/format/sql-plain.md. It promises that a revision is one transaction, which is on
// the database's disk when Commit returns, that a revision which is kept can be restored whole while others commit, that
// content is compared with its hash before a restore succeeds, and that nothing but Checkout writes outside the database.
// What must not be kept, and when a suspicious change is to be refused, is the caller's to say. It must never import a
// blob driver.
package sqltree

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/stdlib"
	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"

	"firn"
)

const (
	formatVersion = 1
	// pieceSize is the size of the largest content in one row, and of the pieces of larger ones.
	pieceSize = 1 << 20
	// busy is how long another writer's transaction is waited for in SQLite.
	busy = 60 * time.Second

	defaultKeep = 10
	maxKeep     = 10_000
)

// Options are the settings of a tree.
type Options struct {
	// URL is postgres://user@host/database with libpq's settings, or sqlite:/path.
	URL *url.URL
	// Password is PostgreSQL's; PGPASSWORD and ~/.pgpass are used where it is empty.
	Password string
	// Name begins the names of the tables, with "_" between: a lower-case letter, then up to 29 of a-z, 0-9 and "_". Empty
	// for none. The namespace of the URL's query is used where it is empty.
	Name string
	// Keep is how many revisions are kept; 10 where zero.
	Keep int
	// Create makes the tables, and SQLite's file, where they are missing.
	Create bool
}

// Tree is an open tree. Its methods may be called at once; commits wait for each other.
type Tree struct {
	db, reads *sql.DB // the same for PostgreSQL
	pg        bool
	name      string
	keep      int
}

// Open opens a tree.
func Open(ctx context.Context, opt Options) (_ *Tree, err error) {
	if opt.URL == nil {
		return nil, invalid("no URL is given")
	}
	query, err := url.ParseQuery(opt.URL.RawQuery)
	if err != nil {
		return nil, invalid("the URL's query cannot be read")
	}
	if opt.Name == "" {
		opt.Name = query.Get("namespace")
	}
	query.Del("namespace")
	if opt.Keep == 0 {
		opt.Keep = defaultKeep
	}
	bad := strings.Trim(opt.Name, "abcdefghijklmnopqrstuvwxyz0123456789_")
	switch {
	case bad != "" || len(opt.Name) > 30 || opt.Name != "" && opt.Name[0] < 'a':
		return nil, invalid(`the name must be a lower-case letter and then up to 29 of a-z, 0-9 and "_"`)
	case opt.Keep < 1 || opt.Keep > maxKeep:
		return nil, invalid("1 to 10000 revisions can be kept")
	}
	t := &Tree{keep: opt.Keep}
	if opt.Name != "" {
		t.name = opt.Name + "_"
	}
	switch opt.URL.Scheme {
	case "postgres", "postgresql":
		t.pg = true
		err = t.openPostgres(opt.URL, query, opt.Password)
	case "sqlite":
		err = t.openSQLite(opt.URL, query, opt.Create)
	default:
		err = invalid("the URL must begin with postgres: or sqlite:")
	}
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			t.Close()
		}
	}()
	err = t.checkVersion(ctx, t.db)
	if firn.KindOf(err) == firn.NotFound && opt.Create {
		err = t.create(ctx)
	}
	return t, err
}

func invalid(text string) error { return firn.NewError(firn.Invalid, text) }

func (t *Tree) openPostgres(u *url.URL, query url.Values, password string) error {
	if _, ok := u.User.Password(); ok || query.Has("password") {
		return invalid("the password does not belong in the URL: set PGPASSWORD or write ~/.pgpass")
	}
	rest := *u
	rest.RawQuery = query.Encode()
	config, err := pgx.ParseConfig(rest.String())
	if err != nil {
		return invalid("the URL cannot be used as one of PostgreSQL, or a file it names cannot be read")
	}
	if password != "" {
		config.Password = password
	}
	if config.ConnectTimeout == 0 {
		config.ConnectTimeout = 10 * time.Second
	}
	t.db = stdlib.OpenDB(*config, stdlib.OptionAfterConnect(func(ctx context.Context, c *pgx.Conn) error {
		// Also where the role or the server is content with less.
		_, err := c.Exec(ctx, `select set_config('default_transaction_isolation', 'read committed', false),
			set_config('synchronous_commit', case when current_setting('synchronous_commit') = 'remote_apply' then 'remote_apply' else 'on' end, false)`)
		return err
	}))
	t.db.SetMaxOpenConns(4)
	t.reads = t.db
	return nil
}

func (t *Tree) openSQLite(u *url.URL, query url.Values, create bool) error {
	path := u.Path
	if u.Opaque != "" {
		var err error
		if path, err = url.PathUnescape(u.Opaque); err != nil {
			return invalid("the URL's path cannot be read")
		}
	}
	if u.Host != "" || u.User != nil || path == "" || len(query) > 0 {
		return invalid("the URL is sqlite:/path or sqlite:path, with nothing but namespace after it")
	}
	path, err := filepath.Abs(path)
	if err != nil {
		return invalid("the URL's path cannot be used")
	}
	mode := "rw"
	if create {
		mode = "rwc"
	} else if _, err := os.Stat(path); err != nil {
		return &firn.Error{Kind: firn.NotFound, Err: err}
	}
	open := func(lock string, pragmas ...string) (*sql.DB, error) {
		q := url.Values{"mode": {mode}, "_txlock": {lock}, "_pragma": append(pragmas, "busy_timeout(200)", "foreign_keys(0)")}
		return sql.Open("sqlite", "file:"+(&url.URL{Path: path}).EscapedPath()+"?"+q.Encode())
	}
	if t.db, err = open("immediate", "auto_vacuum(2)", "journal_mode(wal)", "synchronous(2)"); err != nil {
		return t.fail(err)
	}
	t.db.SetMaxOpenConns(1)
	if t.reads, err = open("deferred"); err != nil {
		t.db.Close()
		return t.fail(err)
	}
	t.reads.SetMaxOpenConns(4)
	return nil
}

// Close ends all connections.
func (t *Tree) Close() error {
	if t.pg {
		return t.db.Close()
	}
	return errors.Join(t.reads.Close(), t.db.Close())
}

// q writes a statement for the database at hand: names of tables, types, numbers of parameters.
func (t *Tree) q(query string) string {
	query = strings.ReplaceAll(query, "$", t.name)
	if !t.pg {
		return query
	}
	query = strings.NewReplacer(" blob", " bytea", " integer", " bigint").Replace(query)
	var b strings.Builder
	n := 0
	for _, r := range query {
		if r == '?' {
			n++
			b.WriteString("$" + strconv.Itoa(n))
		} else {
			b.WriteRune(r)
		}
	}
	return b.String()
}

// schema are the statements that make the tables; "$" stands for the name's beginning.
func (t *Tree) schema() []string {
	collate := ""
	if t.pg {
		collate = ` collate "C"`
	}
	return []string{
		`create table $files_format (version integer primary key)`,
		`create table $revisions (id integer primary key, made integer not null, files integer not null, bytes integer not null,
			note text not null)`,
		// An entry is in the revisions from since until before until.
		`create table $file_history (path text` + collate + ` not null, since integer not null, until integer,
			kind text not null, mode integer not null, uid integer not null, gid integer not null, mtime_ns integer not null,
			size integer not null, target text, xattrs text, content integer, torn integer not null, ctime_ns integer not null,
			primary key (path, since))`,
		`create unique index $file_current on $file_history (path) where until is null`,
		`create index $file_content on $file_history (content)`,
		`create table $file_contents (id integer primary key, blake3 blob not null unique, size integer not null, data blob)`,
		`create table $file_pieces (content integer not null, n integer not null, data blob not null, primary key (content, n))`,
		`create view $files as select h.path, h.kind, h.mode, h.uid, h.gid, h.mtime_ns, h.size, h.target, h.xattrs,
			c.blake3, c.data as content, h.content as content_id, h.since as revision
			from $file_history h left join $file_contents c on c.id = h.content where h.until is null`,
		`insert into $files_format (version) values (` + strconv.Itoa(formatVersion) + `)`,
	}
}

func (t *Tree) checkVersion(ctx context.Context, db *sql.DB) error {
	var version int
	err := db.QueryRowContext(ctx, t.q(`select version from $files_format`)).Scan(&version)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return firn.NewError(firn.Corrupt, "table "+t.name+"files_format is empty")
	case err != nil:
		return t.failed(ctx, err)
	case version != formatVersion:
		return firn.NewError(firn.Unsupported, fmt.Sprintf("the tables have format %d, this program knows %d", version, formatVersion))
	}
	return nil
}

func (t *Tree) create(ctx context.Context) error {
	return t.change(ctx, `select pg_advisory_xact_lock(hashtextextended('firn files', 0))`, func(tx *sql.Tx) error {
		var version int
		// Whoever had the lock before may have made them; an error would end a transaction of PostgreSQL.
		exists := `select count(*) from sqlite_schema where name = ?`
		if t.pg {
			exists = `select count(*) from pg_class where relname = ? and pg_table_is_visible(oid)`
		}
		if err := tx.QueryRowContext(ctx, t.q(exists), t.name+"files_format").Scan(&version); err != nil || version > 0 {
			return err
		}
		for _, statement := range t.schema() {
			if _, err := tx.ExecContext(ctx, t.q(statement)); err != nil {
				return err
			}
		}
		if t.pg {
			// Content seldom compresses.
			for _, table := range []string{"file_contents", "file_pieces"} {
				if _, err := tx.ExecContext(ctx, `alter table `+t.name+table+` alter column data set storage external`); err != nil {
					return err
				}
			}
		}
		return nil
	})
}

// change runs fn in a transaction that no other writer's overlaps: lock is PostgreSQL's statement for it.
func (t *Tree) change(ctx context.Context, lock string, fn func(*sql.Tx) error) error {
	tx, err := t.begin(ctx)
	if err != nil {
		return t.failed(ctx, err)
	}
	defer tx.Rollback() //nolint:errcheck // does nothing after a commit
	if t.pg {
		if _, err := tx.ExecContext(ctx, t.q(lock)); err != nil {
			return t.failed(ctx, err)
		}
	}
	if err := fn(tx); err != nil {
		return t.failed(ctx, err)
	}
	return t.failed(ctx, tx.Commit())
}

// begin waits for SQLite's lock a little at a time, because SQLite does not hear of a cancelled context.
func (t *Tree) begin(ctx context.Context) (*sql.Tx, error) {
	for end := time.Now().Add(busy); ; {
		tx, err := t.db.BeginTx(ctx, nil)
		var answer *sqlite.Error
		if !errors.As(err, &answer) || answer.Code()&0xff != sqlite3.SQLITE_BUSY || ctx.Err() != nil || time.Now().After(end) {
			return tx, err
		}
	}
}

func (t *Tree) failed(ctx context.Context, err error) error {
	var known *firn.Error
	if err != nil && ctx.Err() != nil && !errors.As(err, &known) {
		return &firn.Error{Kind: firn.Unavailable, Err: ctx.Err()}
	}
	return t.fail(err)
}

// fail gives an error of the database its kind.
func (t *Tree) fail(err error) error {
	var known *firn.Error
	var pg *pgconn.PgError
	var lite *sqlite.Error
	kind := firn.Unavailable
	switch {
	case err == nil:
		return nil
	case errors.As(err, &known):
		return err
	case errors.As(err, &pg):
		kind = kindOfPostgres(pg.Code)
	case errors.As(err, &lite):
		kind = kindOfSQLite(lite)
	case errors.Is(err, sql.ErrConnDone), strings.Contains(err.Error(), "database is closed"):
		kind = firn.Invalid
	}
	if kind == firn.NotFound {
		return firn.NewError(kind, "the tables "+t.name+"files* are not there: make them first")
	}
	return &firn.Error{Kind: kind, Err: err}
}

func kindOfPostgres(code string) firn.Kind {
	for _, c := range []struct {
		begin string
		kind  firn.Kind
	}{
		{"42P01", firn.NotFound},
		{"42501", firn.Denied},
		{"28", firn.Denied},
		{"53100", firn.NoSpace},
		{"XX00", firn.Corrupt},
		{"08", firn.Unavailable},
		{"53", firn.Unavailable},
		{"57", firn.Unavailable},
		{"58", firn.Unavailable},
		{"40", firn.Unavailable},
		{"55P03", firn.Unavailable},
		{"25006", firn.Unavailable},
	} {
		if strings.HasPrefix(code, c.begin) {
			return c.kind
		}
	}
	return firn.Invalid
}

func kindOfSQLite(err *sqlite.Error) firn.Kind {
	switch err.Code() & 0xff {
	case sqlite3.SQLITE_FULL:
		return firn.NoSpace
	case sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB:
		return firn.Corrupt
	case sqlite3.SQLITE_PERM, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_AUTH:
		return firn.Denied
	case sqlite3.SQLITE_ERROR:
		if strings.Contains(err.Error(), "no such table") {
			return firn.NotFound
		}
		return firn.Internal
	}
	return firn.Unavailable
}

// Revision is one committed state of the directory.
type Revision struct {
	ID   int64
	Made time.Time
	// Files are all entries, directories too; Bytes the content of regular files.
	Files, Bytes int64
	Note         string
}

// Log returns the revisions that are kept, newest first, at most n.
func (t *Tree) Log(ctx context.Context, n int) ([]Revision, error) {
	rows, err := t.reads.QueryContext(ctx, t.q(`select id, made, files, bytes, note from $revisions order by id desc limit ?`), n)
	if err != nil {
		return nil, t.failed(ctx, err)
	}
	defer rows.Close()
	var all []Revision
	for rows.Next() {
		var r Revision
		var made int64
		if err := rows.Scan(&r.ID, &made, &r.Files, &r.Bytes, &r.Note); err != nil {
			return nil, t.failed(ctx, err)
		}
		r.Made = time.UnixMilli(made)
		all = append(all, r)
	}
	return all, t.failed(ctx, rows.Err())
}
