package archive

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
	"modernc.org/sqlite"

	"firn/archive/scan"
	"firn/archive/tree"
)

// databaseMagic is how an SQLite database begins.
const databaseMagic = "SQLite format 3\x00"

// logs are what SQLite keeps beside a database, by the end of their names. Each belongs to one state of it, and beside
// another one would damage it.
var logSuffixes = [...]string{"-wal", "-shm", "-journal"}

func isDatabase(fd int) bool {
	var p [len(databaseMagic)]byte
	n, err := unix.Pread(fd, p[:], 0)
	return err == nil && n == len(p) && string(p[:]) == databaseMagic
}

// hasLog reports whether there is a write-ahead log beside a database, which changes what is in it.
func hasLog(e *scan.Entry) bool {
	var st unix.Stat_t
	err := unix.Fstatat(e.Dir.Fd(), e.Name()+"-wal", &st, unix.AT_SYMLINK_NOFOLLOW)
	return err == nil && st.Size > 0
}

// besideDatabase reports whether n is a log of a database whose content SQLite gave, so that it must not be kept.
func (e *emitter) besideDatabase(n *tree.Node) bool {
	if n.Database {
		dir := strings.TrimSuffix(n.Path, n.Name())
		kept := e.databases[:0]
		for _, d := range e.databases {
			if strings.HasPrefix(d, dir) {
				kept = append(kept, d)
			}
		}
		e.databases = append(kept, n.Path)
		return false
	}
	for _, suffix := range logSuffixes {
		if base, ok := strings.CutSuffix(n.Path, suffix); ok {
			for _, d := range e.databases {
				if d == base {
					return true
				}
			}
		}
	}
	return false
}

// database stores what SQLite's backup interface gives: one state of the database, whatever is written meanwhile. Where
// that cannot be had, or is damaged, the bytes of the file are stored and the problem is told.
func (b *backup) database(f *fileReader, it *item, fd int, m *scan.Meta, counted *int64) error {
	n := &it.node
	err := b.copied(n, counted)
	var broken *fileError
	if err == nil || !errors.As(err, &broken) {
		return err
	}
	b.problem("/"+n.Path, fmt.Errorf("SQLite database, copied as it is: %w", broken.err))
	n.Recent = true // the next backup tries again
	n.Size = m.Size
	return b.content(f, n, fd, m, counted)
}

func (b *backup) copied(n *tree.Node, counted *int64) error {
	dir, err := os.MkdirTemp(b.o.TempDir, "firn-database-")
	if err != nil {
		return &fileError{err}
	}
	defer os.RemoveAll(dir) // what cannot be removed is in the directory for temporary files
	path := filepath.Join(dir, "copy")
	if err := copyDatabase(b.ctx, "/"+n.Path, path); err != nil {
		if b.ctx.Err() != nil {
			return b.ctx.Err()
		}
		return &fileError{err}
	}
	f, err := os.Open(path)
	if err != nil {
		return &fileError{err}
	}
	defer f.Close()
	r := &extents{fd: int(f.Fd()), end: 1<<63 - 1, read: func(k int) { b.count(k, counted) }}
	if n.Content, err = b.stream(r); err != nil {
		return err
	}
	n.Size, n.Database = r.off, true
	return nil
}

// copyDatabase makes a consistent copy of the database at from in the new file to, and checks it.
func copyDatabase(ctx context.Context, from, to string) error {
	name := "file:" + (&url.URL{Path: from}).EscapedPath() + "?mode=ro&_pragma=busy_timeout(10000)"
	err := withDatabase(ctx, name, func(c *sql.Conn) error {
		return c.Raw(func(driver any) error {
			src, ok := driver.(interface {
				NewBackup(string) (*sqlite.Backup, error)
			})
			if !ok {
				return errors.New("the SQLite driver has no backup interface")
			}
			bck, err := src.NewBackup(to)
			if err != nil {
				return err
			}
			for more := true; more && err == nil; {
				// All at once: in steps, each write of others in between would begin it anew.
				more, err = bck.Step(-1)
			}
			return errors.Join(err, bck.Finish())
		})
	})
	if err != nil {
		return err
	}
	return withDatabase(ctx, "file:"+(&url.URL{Path: to}).EscapedPath(), func(c *sql.Conn) error {
		var verdict string
		if err := c.QueryRowContext(ctx, "PRAGMA integrity_check(1)").Scan(&verdict); err != nil {
			return err
		}
		if verdict != "ok" {
			return fmt.Errorf("integrity_check: %s", verdict)
		}
		return nil
	})
}

func withDatabase(ctx context.Context, name string, fn func(*sql.Conn) error) error {
	db, err := sql.Open("sqlite", name)
	if err != nil {
		return err
	}
	c, err := db.Conn(ctx)
	if err == nil {
		err = errors.Join(fn(c), c.Close())
	}
	return errors.Join(err, db.Close())
}
