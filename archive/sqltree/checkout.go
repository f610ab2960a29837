package sqltree

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"

	"github.com/zeebo/blake3"
	"golang.org/x/sys/unix"

	"firn"
)

// Checkout writes what the directory held at revision rev, 0 for the newest, into dir, which must be empty or not there.
// The whole is on stable storage before it returns. After an error dir holds a part: empty it and start anew. Owners and
// some extended attributes need root; what only a lack of rights prevents is left out and reported.
func (t *Tree) Checkout(ctx context.Context, rev int64, dir string, report func(path string, err error)) error {
	if report == nil {
		report = func(string, error) {}
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fileError(err)
	}
	names, err := os.ReadDir(dir)
	if err != nil {
		return fileError(err)
	}
	if len(names) > 0 && !(len(names) == 1 && names[0].Name() == "lost+found") {
		return firn.NewError(firn.Conflict, "the directory to restore into is not empty")
	}
	// One state of the database throughout: contents of a revision that is forgotten meanwhile stay readable.
	var options *sql.TxOptions
	if t.pg {
		options = &sql.TxOptions{Isolation: sql.LevelRepeatableRead, ReadOnly: true}
	}
	tx, err := t.reads.BeginTx(ctx, options)
	if err != nil {
		return t.failed(ctx, err)
	}
	defer tx.Rollback() //nolint:errcheck // it only read
	var found int64
	query, args := `select id from $revisions where id = ?`, []any{rev}
	if rev == 0 {
		query, args = `select id from $revisions order by id desc limit 1`, nil
	}
	switch err := tx.QueryRowContext(ctx, t.q(query), args...).Scan(&found); {
	case errors.Is(err, sql.ErrNoRows):
		return firn.NewError(firn.NotFound, "there is no such revision, or it is no longer kept")
	case err != nil:
		return t.failed(ctx, err)
	}
	all, err := t.entries(ctx, tx, found)
	if err != nil {
		return t.failed(ctx, err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return fileError(err)
	}
	defer root.Close()
	c := &checkout{t: t, tx: tx, ctx: ctx, root: root, dir: dir, report: report}
	if err := c.run(all); err != nil {
		var fromFile *fs.PathError
		if errors.As(err, &fromFile) {
			return fileError(err)
		}
		return t.failed(ctx, err)
	}
	d, err := os.Open(dir)
	if err != nil {
		return fileError(err)
	}
	defer d.Close()
	if err := unix.Syncfs(int(d.Fd())); err != nil {
		return fileError(err)
	}
	return nil
}

type checkout struct {
	t      *Tree
	tx     *sql.Tx
	ctx    context.Context
	root   *os.Root
	dir    string
	report func(string, error)
}

// run writes entries in the order of their paths, in which a directory is before what it holds, and then gives
// directories their modes and times from the innermost outwards.
func (c *checkout) run(all map[string]*entry) error {
	order := make([]*entry, 0, len(all))
	for name, e := range all {
		order = append(order, e)
		if name == "." {
			continue
		}
		// Rows may have been changed by anybody: nothing may lead out of the directory.
		if parent := all[path.Dir(name)]; !fs.ValidPath(name) || parent == nil || parent.kind != kindDir {
			return firn.NewError(firn.Corrupt, "the path "+name+" is in no directory of the revision")
		}
	}
	slices.SortFunc(order, func(a, b *entry) int { return bytes.Compare([]byte(a.path), []byte(b.path)) })
	for _, e := range order {
		if err := c.ctx.Err(); err != nil {
			return err
		}
		if err := c.make(e); err != nil {
			return err
		}
		if e.kind != kindDir {
			if err := c.describe(e); err != nil {
				return err
			}
		}
	}
	for _, e := range slices.Backward(order) {
		if e.kind == kindDir {
			if err := c.describe(e); err != nil {
				return err
			}
		}
	}
	return nil
}

func (c *checkout) make(e *entry) error {
	switch e.kind {
	case kindDir:
		if e.path == "." {
			return nil
		}
		return c.root.Mkdir(e.path, 0o700)
	case kindLink:
		return c.root.Symlink(e.target, e.path)
	case kindPipe:
		if err := unix.Mkfifo(filepath.Join(c.dir, e.path), 0o600); err != nil {
			return &fs.PathError{Op: "mkfifo", Path: e.path, Err: err}
		}
		return nil
	case kindFile:
		f, err := c.root.OpenFile(e.path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
		if err != nil {
			return err
		}
		return errors.Join(c.fill(f, e), f.Close())
	}
	return firn.NewError(firn.Unsupported, "the kind "+e.kind+" of "+e.path+" is not known to this program")
}

// fill writes the content, a piece at a time, and compares it with its hash.
func (c *checkout) fill(f *os.File, e *entry) error {
	var sum, data []byte
	if err := c.tx.QueryRowContext(c.ctx, c.t.q(`select blake3, data from $file_contents where id = ?`), e.content).Scan(&sum, &data); err != nil {
		if errors.Is(err, sql.ErrNoRows) {
			return firn.NewError(firn.Corrupt, "the content of "+e.path+" is missing")
		}
		return err
	}
	hash := blake3.New()
	size := int64(0)
	add := func(p []byte) error {
		hash.Write(p)
		size += int64(len(p))
		_, err := f.Write(p)
		return err
	}
	if data != nil || e.size == 0 {
		if err := add(data); err != nil {
			return err
		}
	} else {
		for n := 0; size < e.size; n++ {
			err := c.tx.QueryRowContext(c.ctx, c.t.q(`select data from $file_pieces where content = ? and n = ?`), e.content, n).Scan(&data)
			if errors.Is(err, sql.ErrNoRows) || err == nil && len(data) == 0 {
				return firn.NewError(firn.Corrupt, "a piece of "+e.path+" is missing")
			}
			if err != nil {
				return err
			}
			if err := add(data); err != nil {
				return err
			}
		}
	}
	if size != e.size || !bytes.Equal(hash.Sum(nil), sum) {
		return firn.NewError(firn.Corrupt, "the content of "+e.path+" differs from its hash")
	}
	return nil
}

// describe sets owner, attributes, mode and time, in the order in which none undoes another.
func (c *checkout) describe(e *entry) error {
	full := filepath.Join(c.dir, e.path)
	tolerate := func(op string, err error) error {
		if errors.Is(err, fs.ErrPermission) || errors.Is(err, unix.ENOTSUP) {
			c.report(e.path, fileError(&fs.PathError{Op: op, Path: e.path, Err: err}))
			return nil
		}
		if err != nil {
			return &fs.PathError{Op: op, Path: e.path, Err: err}
		}
		return nil
	}
	if os.Geteuid() == 0 {
		if err := tolerate("chown", c.root.Lchown(e.path, int(e.uid), int(e.gid))); err != nil {
			return err
		}
	}
	if e.xattrs != "" {
		values := map[string][]byte{}
		if err := json.Unmarshal([]byte(e.xattrs), &values); err != nil {
			return firn.NewError(firn.Corrupt, "the extended attributes of "+e.path+" cannot be read")
		}
		for name, value := range values {
			if err := tolerate("setxattr "+name, unix.Lsetxattr(full, name, value, 0)); err != nil {
				return err
			}
		}
	}
	if e.kind != kindLink {
		if err := unix.Chmod(full, uint32(e.mode&0o7777)); err != nil { //nolint:gosec // twelve bits
			return &fs.PathError{Op: "chmod", Path: e.path, Err: err}
		}
	}
	ts := unix.NsecToTimespec(e.mtime)
	if err := unix.UtimesNanoAt(unix.AT_FDCWD, full, []unix.Timespec{ts, ts}, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return &fs.PathError{Op: "utimes", Path: e.path, Err: err}
	}
	return nil
}
