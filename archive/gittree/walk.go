package gittree

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"firn"
	"firn/internal/gitrepo"
)

// stored is a file as it was last committed.
type stored struct {
	size         int64
	mtime, ctime time.Time
	inode        uint64
	ids          []gitrepo.ID
}

// item is one entry of the tree to be.
type item struct {
	mode gitrepo.Mode
	id   gitrepo.ID
	path string
}

// walk is one pass over a directory.
type walk struct {
	r     *Repo
	ctx   context.Context
	dir   string
	root  *os.Root
	imp   *gitrepo.Import
	opt   CommitOptions
	items []item
	files map[string]stored
	links map[[2]uint64]string // the first path of files with several names
	count int
	buf   []byte
}

// settled is how old a change must be before an equal time stamp proves that nothing changed since.
const settled = 2 * time.Second

// write stores dir as a commit of its own that nothing points to: its tree is what counts.
func (r *Repo) write(ctx context.Context, dir string, _ gitrepo.ID, opt CommitOptions) (gitrepo.ID, string, map[string]stored, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return "", "", nil, sysError(err)
	}
	defer root.Close()
	imp, err := r.repo.Import(ctx)
	if err != nil {
		return "", "", nil, err
	}
	w := &walk{
		r: r, ctx: ctx, dir: dir, root: root, imp: imp, opt: opt,
		files: map[string]stored{}, links: map[[2]uint64]string{},
	}
	if opt.Report == nil {
		w.opt.Report = func(string, error) {}
	}
	if err := w.directory(".", ""); err != nil {
		imp.Abort()
		return "", "", nil, err
	}
	imp.Commit("", time.Unix(0, 0), "tree")
	for _, i := range w.items {
		imp.Modify(i.mode, i.id, i.path)
	}
	id, err := imp.Close()
	return id, fmt.Sprintf("%d files", w.count), w.files, err
}

// directory stores what is in rel under the path in the tree.
func (w *walk) directory(rel, tree string) error {
	if err := w.ctx.Err(); err != nil {
		return err
	}
	d, err := w.root.Open(rel)
	if err != nil {
		return sysError(err)
	}
	entries, err := d.ReadDir(-1)
	self, statErr := d.Stat()
	d.Close()
	if err = errors.Join(err, statErr); err != nil {
		return sysError(err)
	}
	slices.SortFunc(entries, func(a, b fs.DirEntry) int { return strings.Compare(a.Name(), b.Name()) })
	own := w.describe(rel, self)
	own.setName(".")
	lines := []meta{own}
	for _, e := range entries {
		name := path.Join(rel, e.Name())
		if w.opt.Skip != nil && w.opt.Skip(name, e.IsDir()) {
			continue
		}
		info, err := w.root.Lstat(name)
		if errors.Is(err, fs.ErrNotExist) {
			continue // removed meanwhile
		}
		if err != nil {
			return sysError(err)
		}
		m, ok, err := w.entry(name, path.Join(tree, encodeName(e.Name())), info)
		if err != nil {
			return err
		}
		if ok && m.Type != "dir" { // a directory describes itself
			m.setName(e.Name())
			lines = append(lines, m)
		}
	}
	b, err := encodeMeta(lines)
	if err != nil {
		return err
	}
	w.items = append(w.items, item{gitrepo.File, w.imp.Blob(b), path.Join(tree, metaName)})
	return nil
}

// entry stores one file, link or directory; it is left out where ok is false.
func (w *walk) entry(name, tree string, info fs.FileInfo) (m meta, ok bool, err error) {
	m = w.describe(name, info)
	switch t := info.Mode().Type(); {
	case t == fs.ModeDir:
		m.Type = "dir"
		err := w.directory(name, tree)
		if errors.Is(err, fs.ErrNotExist) {
			return m, false, nil // removed meanwhile
		}
		if errors.Is(err, fs.ErrPermission) {
			w.opt.Report(name, err)
			return m, false, nil
		}
		return m, true, err
	case t == fs.ModeSymlink:
		m.Type = "symlink"
		to, err := w.root.Readlink(name)
		if errors.Is(err, fs.ErrNotExist) {
			return m, false, nil
		}
		if err != nil {
			return m, false, sysError(err)
		}
		w.items = append(w.items, item{gitrepo.Symlink, w.imp.Blob([]byte(to)), tree})
		w.count++
		return m, true, nil
	case t == 0:
		m.Type = "file"
		return w.file(name, tree, m, info)
	case t == fs.ModeNamedPipe:
		m.Type = "fifo"
		return m, true, nil
	case t == fs.ModeDevice:
		m.Type = "block"
		return m, true, nil
	case t == fs.ModeDevice|fs.ModeCharDevice:
		m.Type = "char"
		return m, true, nil
	}
	w.opt.Report(name, firn.NewError(firn.Unsupported, "a socket cannot be kept"))
	return m, false, nil
}

// file stores a regular file, or takes what is stored already where nothing of it has changed.
func (w *walk) file(name, tree string, m meta, info fs.FileInfo) (meta, bool, error) {
	device, inode, links := identity(info)
	if links > 1 {
		if first, ok := w.links[[2]uint64{device, inode}]; ok {
			m.Link = []byte(first)
		} else {
			w.links[[2]uint64{device, inode}] = name
		}
	}
	now := time.Now()
	was, known := w.r.known[name]
	st := stored{size: info.Size(), mtime: info.ModTime(), ctime: changeTime(info), inode: inode}
	if known && was.size == st.size && was.mtime.Equal(st.mtime) && was.ctime.Equal(st.ctime) && was.inode == st.inode {
		st.ids = was.ids
	} else {
		var refs []gitrepo.ID
		var err error
		for range 3 {
			var same bool
			refs, st.ids, same, err = w.read(name, info)
			if err != nil || same {
				break
			}
			if info, err = w.root.Lstat(name); err != nil || !info.Mode().IsRegular() {
				break
			}
			err = firn.NewError(firn.Conflict, "the file changed while it was read; it may be torn")
		}
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return m, false, nil
		case firn.KindOf(err) == firn.Conflict:
			w.opt.Report(name, err)
		case errors.Is(err, fs.ErrPermission) || errors.Is(err, errIO):
			w.opt.Report(name, err)
			if !known {
				return m, false, nil
			}
			refs, st = nil, was
		case err != nil:
			return m, false, err
		}
		if refs != nil {
			m.MTime = info.ModTime()
			w.add(m, tree, refs)
			m.Pieces = len(refs) > 1
			if now.Sub(st.ctime) > settled && now.Sub(st.mtime) > settled {
				w.files[name] = st
			}
			w.count++
			return m, true, nil
		}
	}
	w.files[name] = st
	w.add(m, tree, st.ids)
	m.Pieces = len(st.ids) > 1
	w.count++
	return m, true, nil
}

func (w *walk) add(m meta, tree string, ids []gitrepo.ID) {
	mode := gitrepo.File
	if m.Mode&0o100 != 0 {
		mode = gitrepo.Executable
	}
	if len(ids) == 1 {
		w.items = append(w.items, item{mode, ids[0], tree})
		return
	}
	dir, name := path.Split(tree)
	for n, id := range ids {
		w.items = append(w.items, item{gitrepo.File, id, fmt.Sprintf("%s%s%s/%08d", dir, piecesPrefix, name, n)})
	}
}

// read stores the content and tells whether the file stayed the same meanwhile.
func (w *walk) read(name string, before fs.FileInfo) (refs, ids []gitrepo.ID, same bool, err error) {
	f, err := w.root.OpenFile(name, os.O_RDONLY|noFollow, 0)
	if err != nil {
		return nil, nil, false, sysError(err)
	}
	defer f.Close()
	if w.buf == nil {
		w.buf = make([]byte, w.r.piece)
	}
	for {
		n, err := io.ReadFull(f, w.buf)
		if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
			return nil, nil, false, sysError(err)
		}
		if n > 0 || len(refs) == 0 {
			refs = append(refs, w.imp.Blob(w.buf[:n]))
			ids = append(ids, w.r.repo.BlobID(w.buf[:n]))
		}
		if err != nil {
			break
		}
		if err := w.ctx.Err(); err != nil {
			return nil, nil, false, err
		}
	}
	after, err := f.Stat()
	if err != nil {
		return nil, nil, false, sysError(err)
	}
	same = os.SameFile(before, after) && before.Size() == after.Size() && before.ModTime().Equal(after.ModTime()) &&
		changeTime(before).Equal(changeTime(after))
	return refs, ids, same, nil
}

// describe is what Git does not keep of an entry.
func (w *walk) describe(name string, info fs.FileInfo) meta {
	m := meta{Type: "dir", Mode: modeBits(info.Mode()), MTime: info.ModTime().UTC()}
	m.UID, m.GID, m.Device = owner(info)
	xattrs, err := readXattrs(filepath.Join(w.dir, filepath.FromSlash(name)))
	if err != nil {
		w.opt.Report(name, sysError(err))
	}
	m.Xattrs = xattrs
	return m
}

var errIO = errors.New("the file cannot be read")

// sysError gives an error of the operating system its kind.
func sysError(err error) error {
	k := firn.Internal
	switch {
	case err == nil:
		return nil
	case errors.Is(err, fs.ErrNotExist):
		k = firn.NotFound
	case errors.Is(err, fs.ErrPermission):
		k = firn.Denied
	case isNoSpace(err):
		k = firn.NoSpace
	case isIO(err):
		err = fmt.Errorf("%w: %w", errIO, err)
	}
	return &firn.Error{Kind: k, Err: err}
}
