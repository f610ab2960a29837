// Package pgblob keeps blobs in tables of a PostgreSQL database.
//
// It owns the tables described in docs/format/blob-sql.md. A blob is a row with its key and a generation, and rows of
// pieces that belong to the generation; a put writes all of them in one transaction, so there is nothing to sweep after
// one that was killed. A place is named as libpq names a database,
//
//	postgres://user@host:5432/database?namespace=firn&sslmode=verify-full&sslrootcert=/etc/ssl/our-ca.pem
//
// with all of libpq's settings besides namespace, which begins the names of the tables, and durable, which Options
// explains. The password never stands in the URL: it comes from Options, PGPASSWORD, PGPASSFILE or ~/.pgpass.
//
// It promises that a success is on the server's disk, whatever synchronous_commit says there, that memory does not grow
// with a blob's size, and that a read never waits for a writer. A blob of more than one window that is replaced or
// deleted while it is read makes the reader fail with firn.Unavailable. It must never import another driver.
package pgblob

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"firn"
	"firn/blob/driver"
)

const (
	// pieceSize is what a row holds: large enough that a row's cost does not show, small enough that a small range of a
	// large blob reads little too much from disk.
	pieceSize = 512 << 10
	// window is how many pieces are sent or asked for, and held, at a time.
	window = 4
	// page is how many blobs are listed at a time.
	page = 1000

	formatVersion = 1

	defaultConns = 6
	connectWait  = 10 * time.Second
)

// DurableAny takes a server that loses acknowledged changes in a crash, because fsync is off there.
const DurableAny = "any"

// Options say where the database is and who asks.
type Options struct {
	// URL is a postgres: URL of libpq, without the settings of this driver and without a password.
	URL string
	// Password goes before PGPASSWORD and password files where it is not empty.
	Password string
	// Namespace begins the names of the tables: a lower-case letter, then up to 39 of a-z, 0-9 and "_"; "firn" by default.
	Namespace string
	// Durable is DurableAny or empty: then a server that runs with fsync=off is refused.
	Durable string
	// Conns is the most connections at a time, at least 2; 6 by default, or pool_max_conns of the URL.
	Conns int
}

// FromURL reads a postgres: URL.
func FromURL(u *url.URL) (Options, error) {
	var opt Options
	if u.Scheme != "postgres" && u.Scheme != "postgresql" {
		return opt, invalid("the URL must begin with postgres:")
	}
	if _, ok := u.User.Password(); ok {
		return opt, invalid("the password does not belong in the URL: set PGPASSWORD or write ~/.pgpass")
	}
	query, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return opt, invalid("the URL's query cannot be read")
	}
	for name, values := range query {
		if len(values) != 1 {
			return opt, invalid(name + " stands more than once in the URL")
		}
	}
	if query.Has("password") {
		return opt, invalid("the password does not belong in the URL: set PGPASSWORD or write ~/.pgpass")
	}
	opt.Namespace, opt.Durable = query.Get("namespace"), query.Get("durable")
	query.Del("namespace")
	query.Del("durable")
	rest := *u
	rest.RawQuery = query.Encode()
	opt.URL = rest.String()
	return opt, opt.complete()
}

func (o *Options) complete() error {
	if o.Namespace == "" {
		o.Namespace = "firn"
	}
	bad := strings.Trim(o.Namespace, "abcdefghijklmnopqrstuvwxyz0123456789_")
	switch {
	case bad != "" || len(o.Namespace) > 40 || o.Namespace[0] < 'a':
		return invalid(`namespace must be a lower-case letter and then up to 39 of a-z, 0-9 and "_"`)
	case o.Durable != "" && o.Durable != DurableAny:
		return invalid("durable can only be any")
	case o.Conns < 0 || o.Conns == 1:
		return invalid("at least 2 connections are needed")
	}
	_, err := o.config()
	return err
}

// config never returns an error that has the URL in it.
func (o *Options) config() (*pgxpool.Config, error) {
	config, err := pgxpool.ParseConfig(o.URL)
	if err != nil {
		text := "the URL cannot be used as one of PostgreSQL, or a file it names cannot be read"
		if cause := errors.Unwrap(err); cause != nil && !strings.Contains(cause.Error(), "://") {
			text += ": " + cause.Error()
		}
		return nil, invalid(text)
	}
	if o.Password != "" {
		config.ConnConfig.Password = o.Password
	}
	switch {
	case o.Conns > 0:
		config.MaxConns = int32(o.Conns) //nolint:gosec // a handful
	case !strings.Contains(o.URL, "pool_max_conns="):
		config.MaxConns = defaultConns
	}
	if config.MaxConns < 2 {
		return nil, invalid("at least 2 connections are needed")
	}
	if config.ConnConfig.ConnectTimeout == 0 {
		config.ConnConfig.ConnectTimeout = connectWait
	}
	if _, ok := config.ConnConfig.RuntimeParams["application_name"]; !ok {
		config.ConnConfig.RuntimeParams["application_name"] = "firn"
	}
	config.AfterConnect = prepare
	return config, nil
}

// prepare makes a session wait for its commits to be on disk, and see each statement's own state.
func prepare(ctx context.Context, conn *pgx.Conn) error {
	_, err := conn.Exec(ctx, `select set_config('default_transaction_isolation', 'read committed', false),
		set_config('synchronous_commit', case when current_setting('synchronous_commit') = 'remote_apply' then 'remote_apply' else 'on' end, false)`)
	return err
}

func invalid(text string) error { return firn.NewError(firn.Invalid, text) }

// store is the driver.
type store struct {
	pool *pgxpool.Pool
	// large are the connections that puts of several windows may hold, all but one: a source that itself reads from here
	// must find a connection.
	large  chan struct{}
	tables string
	q      queries
	closed atomic.Bool
}

// queries are the statements, with the names of the tables.
type queries struct {
	create []string
	version, stat, head, part, pieces, list,
	piece, upsert, insert, drop, lock, remove string
}

func newQueries(ns string) queries {
	in := strings.NewReplacer("$B", ns+"_blobs", "$P", ns+"_pieces", "$F", ns+"_format").Replace
	return queries{
		create: []string{
			in(`create table if not exists $B (
				key text collate "C" primary key, generation bigint not null, previous bigint,
				size bigint not null, modified timestamptz not null)`),
			in(`create table if not exists $P (
				generation bigint not null, n integer not null, data bytea not null, primary key (generation, n))`),
			// Content seldom compresses, and a range of what is not compressed can be cut out by the server.
			in(`alter table $P alter column data set storage external`),
			in(`create table if not exists $F (version integer primary key)`),
			in(`insert into $F select 1 where not exists (select from $F)`),
		},
		version: in(`select version from $F`),
		// Record and pieces in one statement, which sees one state. With no piece in the range there is one row.
		head: in(`select b.generation, b.size, b.modified, p.data from $B b left join $P p
			on p.generation = b.generation and p.n between $2 and $3 where b.key = $1 order by p.n`),
		// Of one piece, the server cuts out what is wanted.
		part: in(`select b.generation, b.size, b.modified, substring(p.data from $3 for $4) from $B b left join $P p
			on p.generation = b.generation and p.n = $2 where b.key = $1`),
		stat:   in(`select generation, size, modified from $B where key = $1`),
		pieces: in(`select data from $P where generation = $1 and n between $2 and $3 order by n`),
		list:   in(`select key, size, modified from $B where key >= $1 and ($2 or key > $1) order by key limit $3`),

		piece: in(`insert into $P (generation, n, data) values ($1, $2, $3)`),
		// "previous" is that of the row as the statement locked it, so that of several puts at once each removes the pieces
		// that it replaces, in a statement of its own, which sees them.
		upsert: in(`insert into $B as b (key, generation, size, modified) values ($1, $2, $3, clock_timestamp())
			on conflict (key) do update set previous = b.generation, generation = excluded.generation,
			size = excluded.size, modified = excluded.modified`),
		insert: in(`insert into $B (key, generation, size, modified) values ($1, $2, $3, clock_timestamp()) on conflict do nothing`),
		drop:   in(`delete from $P where generation = (select previous from $B where key = $1)`),
		// Locked first, so that the next statement sees the pieces of the rows as they are then.
		lock: in(`select from $B where key = any($1) order by key for update`),
		remove: in(`with gone as (delete from $B where key = any($1) returning generation)
			delete from $P where generation in (select generation from gone)`),
	}
}

// Init makes the tables, and leaves those that are there as they are.
func Init(ctx context.Context, opt Options) error {
	s, err := connect(ctx, opt)
	if err != nil {
		return err
	}
	defer s.Close()
	if err := s.checkServer(ctx, opt.Durable); err != nil {
		return err
	}
	if err := s.checkVersion(ctx); err == nil || firn.KindOf(err) != firn.Invalid {
		return err
	}
	return s.fail(ctx, pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, `select pg_advisory_xact_lock(hashtextextended('firn blobs', 0))`); err != nil {
			return err
		}
		for _, statement := range s.q.create {
			if _, err := tx.Exec(ctx, statement); err != nil {
				return err
			}
		}
		return nil
	}))
}

// New opens the tables that Init made.
func New(ctx context.Context, opt Options) (driver.Driver, error) {
	s, err := connect(ctx, opt)
	if err != nil {
		return nil, err
	}
	if err = s.checkServer(ctx, opt.Durable); err == nil {
		err = s.checkVersion(ctx)
	}
	if err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
}

func connect(ctx context.Context, opt Options) (*store, error) {
	if err := opt.complete(); err != nil {
		return nil, err
	}
	config, err := opt.config()
	if err != nil {
		return nil, err
	}
	pool, err := pgxpool.NewWithConfig(context.WithoutCancel(ctx), config)
	if err != nil {
		return nil, invalid("the settings of the connections do not fit each other")
	}
	return &store{
		pool: pool, large: make(chan struct{}, config.MaxConns-1), tables: opt.Namespace, q: newQueries(opt.Namespace),
	}, nil
}

func (s *store) checkServer(ctx context.Context, durable string) error {
	var encoding, fsync string
	err := s.pool.QueryRow(ctx, `select current_setting('server_encoding'), current_setting('fsync')`).Scan(&encoding, &fsync)
	switch {
	case err != nil:
		return s.fail(ctx, err)
	case encoding != "UTF8":
		return invalid("the database has encoding " + encoding + ": make one with encoding UTF8")
	case fsync == "off" && durable != DurableAny:
		return invalid("the server loses data in a crash: set fsync to on there, or accept it with durable=any in the URL")
	}
	return nil
}

func (s *store) checkVersion(ctx context.Context) error {
	var version int
	err := s.pool.QueryRow(ctx, s.q.version).Scan(&version)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return firn.NewError(firn.Corrupt, "table "+s.tables+"_format is empty")
	case err != nil:
		return s.fail(ctx, err)
	case version != formatVersion:
		return firn.NewError(firn.Unsupported, fmt.Sprintf("the tables have format %d, this program knows %d", version, formatVersion))
	}
	return nil
}

// Close ends all connections.
func (s *store) Close() error {
	s.closed.Store(true)
	s.pool.Close()
	return nil
}

// Space is what the database occupies; PostgreSQL does not tell what it can take.
func (s *store) Space(ctx context.Context) (driver.Space, error) {
	space := driver.Space{Total: -1, Free: -1}
	err := s.pool.QueryRow(ctx, `select pg_database_size(current_database())`).Scan(&space.Total)
	return space, s.fail(ctx, err)
}
