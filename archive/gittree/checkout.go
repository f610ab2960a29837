package gittree

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"firn"
	"firn/internal/gitrepo"
)

// Checkout writes what the branch held at rev, "" for its newest commit, into dir, which must be empty or not there. The
// whole is on stable storage before it returns. After an error dir holds a part: empty it and start anew. Owners and
// device files need root; what only a lack of rights prevents is left out and reported.
func (r *Repo) Checkout(ctx context.Context, rev, dir string, report func(path string, err error)) error {
	head, err := r.repo.Fetch(ctx)
	if err != nil {
		return err
	}
	if rev != "" {
		head, err = r.repo.Resolve(ctx, rev)
	} else if head == "" {
		err = firn.NewError(firn.NotFound, "the branch has no commit yet")
	}
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return sysError(err)
	}
	names, err := os.ReadDir(dir)
	if err != nil {
		return sysError(err)
	}
	if len(names) > 0 && !(len(names) == 1 && names[0].Name() == "lost+found") {
		return firn.NewError(firn.Conflict, "the directory to restore into is not empty")
	}
	if report == nil {
		report = func(string, error) {}
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return sysError(err)
	}
	defer root.Close()
	c := &checkout{r: r, ctx: ctx, root: root, dir: dir, report: report, asRoot: os.Geteuid() == 0}
	if err := c.plan(head); err != nil {
		return err
	}
	if err := c.write(); err != nil {
		return err
	}
	return sysError(syncAll(dir))
}

// target is one entry to write.
type target struct {
	meta meta
	mode gitrepo.Mode
	ids  []gitrepo.ID
}

type checkout struct {
	r      *Repo
	ctx    context.Context
	root   *os.Root
	dir    string
	report func(string, error)
	asRoot bool
	batch  *gitrepo.Batch

	targets map[string]*target // by path in the directory
	metas   map[string]gitrepo.ID
}

// plan reads the tree and its .firn-meta files.
func (c *checkout) plan(head gitrepo.ID) error {
	c.targets, c.metas = map[string]*target{".": {}}, map[string]gitrepo.ID{}
	err := c.r.repo.Tree(c.ctx, head, func(e gitrepo.Entry) error {
		dir, file := path.Split(e.Path)
		plain, err := decodePath(strings.TrimSuffix(dir, "/"))
		if err != nil {
			return err
		}
		if plain.pieces != "" {
			// Git lists them in the order of their numbers.
			t := c.target(path.Join(plain.path, plain.pieces))
			t.mode, t.ids = gitrepo.File, append(t.ids, e.ID)
			c.parents(plain.path)
			return nil
		}
		c.parents(plain.path)
		if file == metaName {
			c.metas[plain.path] = e.ID
			return nil
		}
		name, ok := decodeName(file)
		if !ok {
			return firn.NewError(firn.Corrupt, "the tree has a name that is not of this layout: "+e.Path)
		}
		t := c.target(path.Join(plain.path, name))
		t.mode, t.ids = e.Mode, []gitrepo.ID{e.ID}
		return nil
	})
	if err != nil {
		return err
	}
	if c.batch, err = c.r.repo.NewBatch(c.ctx); err != nil {
		return err
	}
	for dir, id := range c.metas {
		b, err := c.batch.Bytes(id, maxMeta)
		if err != nil {
			c.batch.Close()
			return err
		}
		lines, err := parseMeta(b)
		if err != nil {
			c.batch.Close()
			return err
		}
		for name, m := range lines {
			full := path.Join(dir, name)
			t := c.targets[full]
			switch {
			case t != nil:
				t.meta = m
			case m.Type == "fifo" || m.Type == "char" || m.Type == "block":
				c.targets[full] = &target{meta: m}
			}
			// A line without a file: somebody removed the file with git.
		}
	}
	return nil
}

func (c *checkout) target(name string) *target {
	if c.targets[name] == nil {
		c.targets[name] = &target{}
	}
	return c.targets[name]
}

func (c *checkout) parents(dir string) {
	for ; dir != "." && c.targets[dir] == nil; dir = path.Dir(dir) {
		c.targets[dir] = &target{}
	}
}

// treePath is a directory of the tree.
type treePath struct {
	path   string // in the directory that was committed
	pieces string // the file in there that this directory of the tree holds the pieces of, or ""
}

func decodePath(dir string) (treePath, error) {
	p := treePath{path: "."}
	if dir == "" {
		return p, nil
	}
	for part := range strings.SplitSeq(dir, "/") {
		file, pieces := strings.CutPrefix(part, piecesPrefix)
		name, ok := decodeName(file)
		if !ok || p.pieces != "" {
			return p, firn.NewError(firn.Corrupt, "the tree has a directory that is not of this layout: "+dir)
		}
		if pieces {
			p.pieces = name
		} else {
			p.path = path.Join(p.path, name)
		}
	}
	return p, nil
}

// write makes everything: directories before what is in them, other names of a file after it, and the directories' own
// modes and times at the end, the innermost first.
func (c *checkout) write() error {
	defer c.batch.Close()
	names := make([]string, 0, len(c.targets))
	for name := range c.targets {
		names = append(names, name)
	}
	slices.Sort(names)
	var dirs, links []string
	for _, name := range names {
		if err := c.ctx.Err(); err != nil {
			return err
		}
		t := c.targets[name]
		switch {
		case len(t.ids) == 0 && (t.meta.Type == "dir" || t.meta.Type == ""):
			dirs = append(dirs, name)
			if name != "." {
				if err := c.root.Mkdir(name, 0o700); err != nil {
					return sysError(err)
				}
			}
		case t.meta.Link != nil && c.targets[string(t.meta.Link)] != nil:
			links = append(links, name)
		default:
			if err := c.make(name, t); err != nil {
				return err
			}
		}
	}
	for _, name := range links {
		if err := c.root.Link(string(c.targets[name].meta.Link), name); err != nil {
			return sysError(err)
		}
	}
	for _, name := range slices.Backward(dirs) {
		if c.targets[name].meta.Type == "dir" {
			if err := c.finish(name, c.targets[name]); err != nil {
				return err
			}
		}
	}
	return nil
}

// make writes one file, symbolic link or special file.
func (c *checkout) make(name string, t *target) error {
	switch {
	case t.mode == gitrepo.Symlink:
		to, err := c.batch.Bytes(t.ids[0], 64<<10)
		if err != nil {
			return err
		}
		if err := c.root.Symlink(string(to), name); err != nil {
			return sysError(err)
		}
	case len(t.ids) > 0:
		if err := c.content(name, t); err != nil {
			return err
		}
	default:
		if err := makeSpecial(c.full(name), t.meta.Type, t.meta.Device); err != nil {
			c.report(name, err)
			return nil
		}
	}
	return c.finish(name, t)
}

func (c *checkout) full(name string) string { return filepath.Join(c.dir, filepath.FromSlash(name)) }

func (c *checkout) content(name string, t *target) error {
	mode := fs.FileMode(0o600)
	if t.meta.Type == "" { // committed by somebody with git
		mode = 0o644
		if t.mode == gitrepo.Executable {
			mode = 0o755
		}
	}
	f, err := c.root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return sysError(err)
	}
	for _, id := range t.ids {
		if err := c.batch.Copy(f, id); err != nil {
			f.Close()
			var path *fs.PathError
			if errors.As(err, &path) {
				return sysError(err)
			}
			return err
		}
	}
	return sysError(f.Close())
}

// finish sets what Git does not keep: the owner first, because that clears bits of the mode.
func (c *checkout) finish(name string, t *target) error {
	m := t.meta
	if m.Type == "" {
		return nil
	}
	if c.asRoot {
		if err := c.root.Lchown(name, m.UID, m.GID); err != nil {
			return sysError(err)
		}
	}
	if err := setXattrs(c.full(name), m.Xattrs); err != nil {
		c.report(name, err)
	}
	if m.Type != "symlink" {
		if err := c.root.Chmod(name, fileMode(m.Mode)); err != nil {
			return sysError(err)
		}
	}
	return sysError(setTime(c.full(name), m.MTime))
}
