package sqltree

import (
	"context"
	"crypto/rand"
	"database/sql"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
	"unicode/utf8"

	"github.com/zeebo/blake3"
	"golang.org/x/sys/unix"

	"firn"
	"firn/archive/scan"
)

// The kinds of entries.
const (
	kindFile = "file"
	kindDir  = "dir"
	kindLink = "link"
	kindPipe = "pipe"
)

// entry is a row of file_history.
type entry struct {
	path, kind     string
	mode           int64 // permissions, setuid, setgid, sticky: 07777
	uid, gid       int64
	mtime          int64 // ns since 1970
	size           int64
	target, xattrs string
	content        sql.NullInt64
	torn           int64 // 1: changed while it was read, so that the content may be a mixture
	ctime          int64 // 0 where the file was too fresh to be known by its times
	since          int64
	seen           bool
}

// same says whether nothing that is restored differs.
func (e *entry) same(o *entry) bool {
	a, b := *e, *o
	a.ctime, a.since, a.seen = 0, 0, false
	b.ctime, b.since, b.seen = 0, 0, false
	return a == b
}

// CommitOptions are the settings of one commit.
type CommitOptions struct {
	// Note goes with the revision.
	Note string
	// Parent is the revision that must be the newest; the commit fails with firn.Conflict where it is not. 0 for any.
	Parent int64
	// Skip says which files and directories are left out, by their slash-separated path in the directory.
	Skip func(path string, dir bool) bool
	// Check is told what the revision would change, before it does. The commit fails with the error it returns, and
	// changes nothing.
	Check func(Changes) error
	// Report is told of what could not be kept as it is: a file that changed while it was read, one that cannot be read
	// (its last committed state stays if there is one), a device, a socket. nil ignores it.
	Report func(path string, err error)
}

// Changes counts what differs from the revision before.
type Changes struct{ Added, Changed, Removed, Before int64 }

// Commit makes the newest revision hold what dir holds, and forgets revisions beyond those to keep. changed is false where
// it does so already; the newest revision is then returned as it is.
func (t *Tree) Commit(ctx context.Context, dir string, opt CommitOptions) (rev Revision, changed bool, err error) {
	if opt.Report == nil {
		opt.Report = func(string, error) {}
	}
	if dir, err = filepath.EvalSymlinks(dir); err != nil {
		return rev, false, fileError(err)
	}
	if fi, err := os.Stat(dir); err != nil || !fi.IsDir() {
		return rev, false, invalid(dir + " is not a directory")
	}
	err = t.change(ctx, `lock table $revisions in share row exclusive mode`, func(tx *sql.Tx) error {
		var head sql.NullInt64
		if err := tx.QueryRowContext(ctx, t.q(`select max(id) from $revisions`)).Scan(&head); err != nil {
			return err
		}
		if opt.Parent > 0 && head.Int64 != opt.Parent {
			return firn.NewError(firn.Conflict, fmt.Sprintf("the newest revision is %d, not %d: somebody else has committed", head.Int64, opt.Parent))
		}
		c := &commit{t: t, tx: tx, ctx: ctx, dir: dir, opt: opt, rev: Revision{ID: head.Int64 + 1, Note: opt.Note}, now: time.Now()}
		var err error
		changed, err = c.run(head.Valid)
		rev = c.rev
		return err
	})
	if err == nil && !changed {
		var newest []Revision
		if newest, err = t.Log(ctx, 1); err == nil && len(newest) > 0 {
			rev = newest[0]
		}
	}
	return rev, changed && err == nil, err
}

type commit struct {
	t       *Tree
	tx      *sql.Tx
	ctx     context.Context
	dir     string
	opt     CommitOptions
	rev     Revision
	now     time.Time
	current map[string]*entry // of the newest revision; a few hundred bytes each
	changes Changes
	buf     []byte
}

func (c *commit) exec(query string, args ...any) error {
	_, err := c.tx.ExecContext(c.ctx, c.t.q(query), args...)
	return err
}

func (c *commit) run(any bool) (changed bool, err error) {
	if c.current, err = c.t.entries(c.ctx, c.tx, -1); err != nil {
		return false, err
	}
	c.changes.Before = int64(len(c.current))
	if err := c.walk(); err != nil {
		return false, err
	}
	for path, e := range c.current {
		if e.seen {
			continue
		}
		c.changes.Removed++
		if err := c.end(path); err != nil {
			return false, err
		}
	}
	if any && c.changes.Added+c.changes.Changed+c.changes.Removed == 0 {
		return false, nil
	}
	if c.opt.Check != nil {
		if err := c.opt.Check(c.changes); err != nil {
			return false, err
		}
	}
	c.rev.Made = time.UnixMilli(c.now.UnixMilli())
	if err := c.exec(`insert into $revisions (id, made, files, bytes, note) values (?, ?, ?, ?, ?)`,
		c.rev.ID, c.rev.Made.UnixMilli(), c.rev.Files, c.rev.Bytes, c.rev.Note); err != nil {
		return false, err
	}
	return true, c.prune()
}

// end takes an entry out of this revision and those after.
func (c *commit) end(path string) error {
	return c.exec(`update $file_history set until = ? where path = ? and until is null`, c.rev.ID, path)
}

// prune forgets revisions, and entries and contents that no other has.
func (c *commit) prune() error {
	oldest := c.rev.ID - int64(c.t.keep) + 1 // ids have no gaps
	for _, query := range []string{`delete from $revisions where id < ?`, `delete from $file_history where until <= ?`} {
		if err := c.exec(query, oldest); err != nil {
			return err
		}
	}
	for _, query := range []string{
		`delete from $file_contents where not exists (select 1 from $file_history h where h.content = $file_contents.id)`,
		`delete from $file_pieces where not exists (select 1 from $file_contents c where c.id = $file_pieces.content)`,
	} {
		if err := c.exec(query); err != nil {
			return err
		}
	}
	return nil
}

// entries are those of a revision by path; of the newest for -1.
func (t *Tree) entries(ctx context.Context, tx *sql.Tx, rev int64) (map[string]*entry, error) {
	query, args := `select path, since, kind, mode, uid, gid, mtime_ns, size, coalesce(target, ''), coalesce(xattrs, ''),
		content, torn, ctime_ns from $file_history where `, []any{}
	if rev < 0 {
		query += `until is null`
	} else {
		query += `since <= ? and (until is null or until > ?)`
		args = append(args, rev, rev)
	}
	rows, err := tx.QueryContext(ctx, t.q(query), args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	all := map[string]*entry{}
	for rows.Next() {
		var e entry
		if err := rows.Scan(&e.path, &e.since, &e.kind, &e.mode, &e.uid, &e.gid, &e.mtime, &e.size, &e.target, &e.xattrs,
			&e.content, &e.torn, &e.ctime); err != nil {
			return nil, err
		}
		all[e.path] = &e
	}
	return all, rows.Err()
}

func (c *commit) walk() error {
	return filepath.WalkDir(c.dir, func(full string, d fs.DirEntry, err error) error {
		if err := c.ctx.Err(); err != nil {
			return err
		}
		path, relErr := filepath.Rel(c.dir, full)
		if relErr != nil {
			return &firn.Error{Kind: firn.Internal, Err: relErr}
		}
		if err != nil {
			if path == "." {
				return fileError(err) // nothing there is never an empty directory
			}
			return c.unreadable(path, err)
		}
		if path != "." && c.opt.Skip != nil && c.opt.Skip(path, d.IsDir()) {
			if d.IsDir() {
				return fs.SkipDir
			}
			return nil
		}
		if !utf8.ValidString(path) || strings.ContainsRune(path, 0) {
			c.opt.Report(path, firn.NewError(firn.Unsupported, "the name is not UTF-8, which the database needs"))
			if d.IsDir() {
				return fs.SkipDir
			}
			return nil
		}
		return c.add(path, full)
	})
}

func fileError(err error) error {
	kind := firn.Unavailable
	switch {
	case errors.Is(err, fs.ErrNotExist):
		kind = firn.NotFound
	case errors.Is(err, fs.ErrPermission):
		kind = firn.Denied
	}
	return &firn.Error{Kind: kind, Err: err}
}

// unreadable keeps what is committed of a path, and of what is beneath it.
func (c *commit) unreadable(path string, err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil // it went while the directory was walked
	}
	c.opt.Report(path, fileError(err))
	for p, e := range c.current {
		if p == path || strings.HasPrefix(p, path+"/") {
			if !e.seen {
				e.seen = true
				c.rev.Files++
				c.rev.Bytes += e.size
			}
		}
	}
	return nil
}

func (c *commit) add(path, full string) error {
	var st unix.Stat_t
	if err := unix.Lstat(full, &st); err != nil {
		return c.unreadable(path, &fs.PathError{Op: "lstat", Path: path, Err: err})
	}
	old := c.current[path]
	e := entryOf(path, &st)
	var err error
	switch e.kind {
	case "":
		c.opt.Report(path, firn.NewError(firn.Unsupported, "a socket or device is not kept"))
		return nil
	case kindLink:
		if e.target, err = os.Readlink(full); err != nil {
			return c.unreadable(path, err)
		}
		if !utf8.ValidString(e.target) {
			c.opt.Report(path, firn.NewError(firn.Unsupported, "the link leads to a name that is not UTF-8, which the database needs"))
			return nil
		}
	}
	if e.xattrs, err = xattrsOf(full); err != nil {
		return c.unreadable(path, err)
	}
	if e.kind == kindFile {
		if old != nil && old.kind == kindFile && old.ctime != 0 && old.ctime == e.ctime && old.mtime == e.mtime && old.size == e.size && old.torn == 0 {
			e.content = old.content
		} else if err := c.content(full, e); err != nil {
			var fromFile *fs.PathError
			if errors.As(err, &fromFile) {
				return c.unreadable(path, err)
			}
			return err
		}
		if e.torn == 1 {
			c.opt.Report(path, firn.NewError(firn.Conflict, "the file changed while it was read, again and again: what is kept may be a mixture"))
		}
	}
	// A change so soon after the last one might leave the same times, so the file is read again next time.
	if c.now.Sub(time.Unix(0, e.ctime)) < 2*time.Second {
		e.ctime = 0
	}
	c.rev.Files++
	c.rev.Bytes += e.size
	return c.put(old, e)
}

func (c *commit) put(old, e *entry) error {
	switch {
	case old == nil:
		c.changes.Added++
	case old.same(e):
		old.seen = true
		if old.ctime == e.ctime {
			return nil
		}
		return c.exec(`update $file_history set ctime_ns = ? where path = ? and until is null`, e.ctime, e.path)
	default:
		old.seen = true
		c.changes.Changed++
		if err := c.end(e.path); err != nil {
			return err
		}
	}
	null := func(s string) any {
		if s == "" {
			return nil
		}
		return s
	}
	return c.exec(`insert into $file_history (path, since, kind, mode, uid, gid, mtime_ns, size, target, xattrs, content, torn, ctime_ns)
		values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`, e.path, c.rev.ID, e.kind, e.mode, e.uid, e.gid, e.mtime, e.size,
		null(e.target), null(e.xattrs), e.content, e.torn, e.ctime)
}

func entryOf(path string, st *unix.Stat_t) *entry {
	e := &entry{
		path: path, mode: int64(st.Mode & 0o7777), uid: int64(st.Uid), gid: int64(st.Gid),
		mtime: st.Mtim.Nano(), ctime: st.Ctim.Nano(),
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		e.kind, e.size = kindFile, st.Size
	case unix.S_IFDIR:
		e.kind = kindDir
	case unix.S_IFLNK:
		e.kind = kindLink
	case unix.S_IFIFO:
		e.kind = kindPipe
	}
	return e
}

// xattrsOf is a JSON object of the extended attributes, values in base64; empty without any.
func xattrsOf(full string) (string, error) {
	all, err := scan.XattrsAt(full)
	if err != nil {
		return "", &fs.PathError{Op: "read extended attributes", Path: full, Err: err}
	}
	if len(all) == 0 {
		return "", nil
	}
	values := map[string][]byte{}
	for _, x := range all {
		values[x.Name] = x.Value
	}
	b, err := json.Marshal(values)
	return string(b), err
}

// content stores what a file holds, unless it is stored already, and sets size, times, content and torn.
func (c *commit) content(full string, e *entry) error {
	const attempts = 3
	for attempt := 1; ; attempt++ {
		f, err := os.OpenFile(full, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
		if err != nil {
			return err
		}
		id, torn, err := c.read(f, e)
		f.Close()
		if err != nil {
			return err
		}
		e.content = sql.NullInt64{Int64: id, Valid: true}
		if !torn {
			e.torn = 0
			return nil
		}
		if attempt == attempts {
			e.torn = 1
			return nil
		}
	}
}

// read stores an open file. torn says that it changed meanwhile.
func (c *commit) read(f *os.File, e *entry) (id int64, torn bool, err error) {
	var before, after unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &before); err != nil {
		return 0, false, &fs.PathError{Op: "stat", Path: f.Name(), Err: err}
	}
	if before.Mode&unix.S_IFMT != unix.S_IFREG {
		return 0, false, &fs.PathError{Op: "read", Path: f.Name(), Err: syscall.ESTALE} // it was replaced just now
	}
	if c.buf == nil {
		c.buf = make([]byte, pieceSize)
	}
	hash := blake3.New()
	var random [8]byte
	rand.Read(random[:]) //nolint:errcheck // never fails
	id = int64(binary.NativeEndian.Uint64(random[:]) >> 1)
	var inline []byte
	size := int64(0)
	large := before.Size > pieceSize
	// Not past the size of the beginning: a log that grows all the time must come to an end.
	for n := 0; size < before.Size; n++ {
		got, err := io.ReadFull(f, c.buf[:min(pieceSize, before.Size-size)])
		if err != nil && err != io.EOF && err != io.ErrUnexpectedEOF { //nolint:errorlint // ReadFull returns them as they are
			return 0, false, err
		}
		if got == 0 {
			break
		}
		hash.Write(c.buf[:got])
		size += int64(got)
		if !large {
			inline = c.buf[:got]
		} else if err := c.exec(`insert into $file_pieces (content, n, data) values (?, ?, ?)`, id, n, c.buf[:got]); err != nil {
			return 0, false, err
		}
		if err != nil {
			break
		}
	}
	if err := unix.Fstat(int(f.Fd()), &after); err != nil {
		return 0, false, &fs.PathError{Op: "stat", Path: f.Name(), Err: err}
	}
	torn = size != before.Size || after.Size != before.Size || after.Mtim != before.Mtim || after.Ctim != before.Ctim
	e.size, e.mtime, e.ctime = size, before.Mtim.Nano(), before.Ctim.Nano()
	return c.store(id, hash.Sum(nil), size, large, inline, torn)
}

// store makes the row of a content, or finds the one that is there.
func (c *commit) store(id int64, sum []byte, size int64, large bool, inline []byte, torn bool) (int64, bool, error) {
	var known int64
	err := c.tx.QueryRowContext(c.ctx, c.t.q(`select id from $file_contents where blake3 = ?`), sum).Scan(&known)
	if err == nil {
		if large {
			err = c.exec(`delete from $file_pieces where content = ?`, id)
		}
		return known, torn, err
	}
	if !errors.Is(err, sql.ErrNoRows) {
		return 0, false, err
	}
	var data any
	if !large {
		data = append([]byte{}, inline...) // not nil, which would be NULL
	}
	return id, torn, c.exec(`insert into $file_contents (id, blake3, size, data) values (?, ?, ?, ?)`, id, sum, size, data)
}
