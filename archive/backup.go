package archive

import (
	"context"
	"errors"
	"fmt"
	"os/user"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"firn"
	"firn/archive/scan"
	"firn/archive/tree"
	"firn/repo"
)

// BackupOptions say what a snapshot is made of.
type BackupOptions struct {
	// Paths are absolute and clean. One that is a symbolic link to a directory stands for that directory.
	Paths []string
	// Scan says what to leave out.
	Scan scan.Options
	// Host and User are kept in the snapshot; with Paths, Host finds the parent.
	Host, User string
	Tags       []string
	Meta       map[string]string
	// Parent is the snapshot whose unchanged files are not read again: an id, or "" for the last one of the same host
	// and paths. ReadAll takes none.
	Parent  string
	ReadAll bool
	// CopyDatabases stores the bytes of SQLite databases as those of other files: not what is safe while they are
	// written.
	CopyDatabases bool
	// TempDir takes copies of databases; "" is the system's.
	TempDir string
	// Report gets what is to be known of single files; it may be nil, and is called by several goroutines.
	Report func(Event)
	// Verbose reports each file, new, modified or unchanged.
	Verbose bool
	// Progress is counted up; may be nil.
	Progress *Progress
}

// BackupResult is what a backup did.
type BackupResult struct {
	Snapshot repo.Snapshot
	Summary  Summary
}

// Summary counts what a snapshot holds and what it took.
type Summary struct {
	Files       int64 `json:"files"`
	Dirs        int64 `json:"dirs"`
	Others      int64 `json:"others"` // links and special files
	Bytes       int64 `json:"bytes"`  // of files, holes included
	New         int64 `json:"new"`
	Modified    int64 `json:"modified"`
	Unchanged   int64 `json:"unchanged"`
	Unreadable  int64 `json:"unreadable"` // nodes that say why they have no content
	Changed     int64 `json:"changed"`    // while they were read
	Problems    int64 `json:"problems"`   // unreadable ones, paths that are not there, databases that are damaged
	Excluded    int64 `json:"excluded"`
	StoredBytes int64 `json:"stored_bytes"` // what the repository grew by, before its indexes
	ReadBytes   int64 `json:"read_bytes"`
	Millis      int64 `json:"millis"`
}

// Map is how the summary is kept in a snapshot.
func (s *Summary) Map() map[string]int64 {
	return map[string]int64{
		"files": s.Files, "dirs": s.Dirs, "others": s.Others, "bytes": s.Bytes, "new": s.New, "modified": s.Modified,
		"unchanged": s.Unchanged, "unreadable": s.Unreadable, "changed": s.Changed, "problems": s.Problems, "excluded": s.Excluded,
		"stored_bytes": s.StoredBytes, "read_bytes": s.ReadBytes, "millis": s.Millis,
	}
}

// MaxInline is up to which size the content of a file is kept in the tree, in bytes.
const MaxInline = 512

// Bounds of the pipeline.
const (
	batchItems  = 64              // files handed on together
	batches     = 16              // on their way
	maxLinked   = 1 << 16         // inodes with several names that are remembered at once; more are only read again
	recentAfter = 2 * time.Second // coarser than the clock of any file system in use (FAT counts in 2 s)
)

// item is one node on its way into the tree.
type item struct {
	node tree.Node
	dir  *scan.Directory // held; nil for streams
	// same: another name of that file came before, and its content is taken.
	same *item
	// known: the parent snapshot has the path. unchanged: and nothing of it is different.
	known, unchanged bool
	wg               *sync.WaitGroup
}

type batch struct {
	items []item
	wg    sync.WaitGroup // of items that are being read
}

// backup is one run.
type backup struct {
	ctx  context.Context
	r    *repo.Repo
	s    *repo.Session
	o    BackupOptions
	sum  Summary
	work chan *item
	out  chan *batch
	cur  *batch

	parent *tree.Iterator
	before *tree.Node // the parent's next node

	linked map[inode]*linkedFile
	users  map[uint32]string
	groups map[uint32]string

	read     atomic.Int64
	stored   atomic.Int64
	excluded atomic.Int64
	problems atomic.Int64
	buffers  chan []byte   // chunks of large files on their way
	large    chan struct{} // bounds the files that are cut at once
	lost     []error       // paths that are not there; of the walk
}

type inode struct{ dev, ino uint64 }

type linkedFile struct {
	first *item
	left  uint64 // names not seen yet
}

// Backup makes a snapshot of o.Paths. Files that cannot be read do not end it: they are reported, counted in the
// summary and listed in the snapshot. It fails with firn.NotFound where none of the paths is there.
func Backup(ctx context.Context, r *repo.Repo, o BackupOptions) (BackupResult, error) {
	begin := time.Now()
	if len(o.Paths) == 0 {
		return BackupResult{}, firn.NewError(firn.Invalid, "back up: no paths are given")
	}
	o.Paths = slices.Compact(slices.Sorted(slices.Values(o.Paths)))
	return o.run(ctx, r, func(b *backup) error { return b.tree(begin) })
}

// run opens a session, has fill make the tree, and commits.
func (o BackupOptions) run(ctx context.Context, r *repo.Repo, fill func(*backup) error) (BackupResult, error) {
	if o.Report == nil {
		o.Report = func(Event) {}
	}
	if o.Progress == nil {
		o.Progress = &Progress{}
	}
	closing, release := repo.Closing(ctx)
	defer release()
	s, err := r.NewSession(ctx, repo.SessionOptions{Host: o.Host, Purpose: "backup"})
	if err != nil {
		return BackupResult{}, err
	}
	b := &backup{
		ctx: ctx, r: r, s: s, o: o, linked: map[inode]*linkedFile{}, users: map[uint32]string{}, groups: map[uint32]string{},
	}
	snap, err := b.snapshot(fill)
	if err != nil {
		// The chunks stay for the next run; only the session is to end even where ctx has.
		return BackupResult{}, errors.Join(err, s.Abort(closing))
	}
	return BackupResult{Snapshot: snap, Summary: b.sum}, nil
}

// snapshot makes the tree and commits it.
func (b *backup) snapshot(fill func(*backup) error) (repo.Snapshot, error) {
	begin := time.Now()
	snap := repo.Snapshot{
		Time: begin, Host: b.o.Host, User: b.o.User, Paths: b.o.Paths, Tags: b.o.Tags, Meta: b.o.Meta,
		Program: "firn " + firn.Version,
	}
	if len(b.o.Paths) > 0 && !b.o.ReadAll {
		p, err := b.findParent()
		if err != nil {
			return snap, err
		}
		if p != nil {
			snap.Parent = p.ID
			b.parent = tree.Walk(b.ctx, b.r, p.Root, "")
			defer b.parent.Close()
			if n := p.Summary["bytes"]; n > 0 {
				b.o.Progress.TotalBytes.Store(n)
				b.o.Progress.TotalFiles.Store(p.Summary["files"])
			}
		}
	}
	w := tree.NewWriter(b.s)
	err := b.pipe(w, fill)
	if err != nil {
		return snap, err
	}
	if snap.Root, err = w.Finish(b.ctx); err != nil {
		return snap, err
	}
	b.sum.StoredBytes, b.sum.ReadBytes, b.sum.Excluded = b.stored.Load()+w.Stored, b.read.Load(), b.excluded.Load()
	b.sum.Problems = b.problems.Load()
	b.sum.Millis = time.Since(begin).Milliseconds()
	snap.Summary = b.sum.Map()
	return b.s.Commit(b.ctx, snap)
}

func (b *backup) findParent() (*repo.Snapshot, error) {
	if b.o.Parent != "" {
		s, _, err := Locate(b.ctx, b.r, b.o.Parent, Filter{Host: b.o.Host, Paths: b.o.Paths})
		return &s, err
	}
	snaps, err := b.r.Snapshots(b.ctx)
	if err != nil {
		return nil, err
	}
	snaps = slices.DeleteFunc(snaps, func(s repo.Snapshot) bool { return s.Host != b.o.Host || !slices.Equal(s.Paths, b.o.Paths) })
	return latest(snaps, time.Now()), nil
}

// pipe runs what finds files (fill, which calls add), what reads them, and what writes the tree, in that order.
func (b *backup) pipe(w *tree.Writer, fill func(*backup) error) error {
	outer := b.ctx
	ctx, cancel := context.WithCancelCause(outer)
	defer cancel(nil)
	b.ctx = ctx
	defer func() { b.ctx = outer }()
	var g sync.WaitGroup
	procs := runtime.GOMAXPROCS(0)
	readers := max(4, 2*procs)
	b.work, b.out = make(chan *item, readers), make(chan *batch, batches)
	b.buffers, b.large = make(chan []byte, 2*procs), make(chan struct{}, 2)
	for range cap(b.buffers) {
		b.buffers <- nil
	}
	g.Go(func() {
		defer close(b.out)
		defer close(b.work)
		err := fill(b)
		if err == nil {
			err = b.flush()
		}
		if err != nil {
			cancel(err)
			b.drop()
		}
	})
	for range readers {
		g.Go(func() {
			var f fileReader
			for it := range b.work {
				if ctx.Err() == nil {
					if err := b.file(&f, it); err != nil {
						cancel(err)
					}
				}
				it.wg.Done() // whatever happened, it is waited for
			}
		})
	}
	g.Go(func() {
		e := emitter{b: b, w: w}
		for t := range b.out {
			t.wg.Wait()
			for i := range t.items {
				it := &t.items[i]
				if ctx.Err() == nil {
					if err := e.emit(it); err != nil {
						cancel(err)
					}
				}
				if it.dir != nil {
					it.dir.Release()
				}
			}
		}
	})
	g.Wait()
	return context.Cause(ctx)
}

// drop lets go of a batch that nobody will take.
func (b *backup) drop() {
	if b.cur == nil {
		return
	}
	b.cur.wg.Wait()
	for i := range b.cur.items {
		if d := b.cur.items[i].dir; d != nil {
			d.Release()
		}
	}
	b.cur = nil
}

// tree walks the paths.
func (b *backup) tree(begin time.Time) error {
	o := b.o.Scan
	o.Excluded = &b.excluded
	seen := false
	err := scan.Walk(b.ctx, b.o.Paths, o, func(e *scan.Entry) error {
		if e.Err != nil && e.Named() && errors.Is(e.Err, unix.ENOENT) {
			err := &firn.Error{Kind: firn.NotFound, Op: "back up", Subject: "/" + e.Path, Err: errors.New("there is no such file or directory")}
			b.lost = append(b.lost, err)
			b.problem("/"+e.Path, err)
			return nil
		}
		seen = seen || !e.Above()
		return b.entry(e)
	})
	if err == nil && !seen {
		err = errors.Join(b.lost...)
		if err == nil {
			err = firn.NewError(firn.NotFound, "back up: the paths hold nothing that could be looked at")
		}
	}
	return err
}

func (b *backup) problem(path string, err error) {
	b.problems.Add(1)
	b.o.Progress.Errors.Add(1)
	b.o.Report(Event{EventUnreadable, path, err})
}

// entry takes one file that the walk found.
func (b *backup) entry(e *scan.Entry) error {
	if b.cur == nil {
		b.cur = &batch{items: make([]item, 0, batchItems)}
	}
	b.cur.items = append(b.cur.items, item{dir: e.Dir, wg: &b.cur.wg})
	it := &b.cur.items[len(b.cur.items)-1]
	e.Dir.Hold()
	n := &it.node
	n.Path = e.Path
	b.describe(n, &e.Meta)
	if err := b.seek(n.Path); err != nil {
		return err
	}
	var was *tree.Node
	if b.before != nil && b.before.Path == n.Path {
		was = b.before
	}
	it.known = was != nil
	switch {
	case e.Err != nil:
		n.Err = reason(e.Err)
		if n.Type == 0 {
			n.Type = tree.File
		}
		b.problem("/"+n.Path, e.Err)
	case n.Type == 0:
		n.Type, n.Err = tree.File, "a file of an unknown type"
	case was != nil && b.same(was, n, e):
		it.unchanged = true
		n.Content, n.Holes, n.Xattrs, n.Target, n.Database = was.Content, was.Holes, was.Xattrs, was.Target, was.Database
	case n.Type == tree.File:
		b.submit(it)
	default:
		b.special(it, e)
	}
	if len(b.cur.items) == batchItems {
		return b.flush()
	}
	return nil
}

// seek goes on in the parent's nodes up to path.
func (b *backup) seek(path string) error {
	if b.parent == nil {
		return nil
	}
	for b.before == nil || tree.Compare(b.before.Path, path) < 0 {
		n, err := b.parent.Next()
		if err != nil {
			return fmt.Errorf("the parent snapshot: %w; --read-all does without", err)
		}
		if n == nil {
			b.parent.Close()
			b.parent, b.before = nil, nil
			return nil
		}
		b.before = n
	}
	return nil
}

// same reports whether nothing says that the file changed since the parent, and its content is in the repository.
func (b *backup) same(was, n *tree.Node, e *scan.Entry) bool {
	if was.Type != n.Type || was.Ctime != n.Ctime || was.Mtime != n.Mtime || was.Inode != n.Inode || was.Size != n.Size ||
		was.Changed || was.Recent || was.Err != "" {
		return false
	}
	if was.Database && hasLog(e) {
		return false
	}
	for _, id := range was.Content.Chunks {
		if !b.r.Has(id) {
			return false
		}
	}
	if was.Content.List == nil {
		return true
	}
	// The pages of the list are relied on like the rest.
	whole := true
	err := tree.Pages(b.ctx, b.r, *was.Content.List, func(id repo.ID) { whole = whole && b.r.Has(id) })
	return err == nil && whole
}

// submit hands a regular file to the readers, or waits for another name of the same one.
func (b *backup) submit(it *item) {
	n := &it.node
	if n.Links > 1 {
		key := inode{n.Device, n.Inode}
		if l := b.linked[key]; l != nil {
			it.same = l.first
			if l.left--; l.left == 0 {
				delete(b.linked, key)
			}
			return
		}
		if len(b.linked) < maxLinked {
			b.linked[key] = &linkedFile{it, n.Links - 1}
		}
	}
	it.wg.Add(1)
	select {
	case b.work <- it:
	case <-b.ctx.Done():
		it.wg.Done()
	}
}

// flush hands the batch on to the tree.
func (b *backup) flush() error {
	if b.cur == nil {
		return nil
	}
	select {
	case b.out <- b.cur:
		b.cur = nil
		return nil
	case <-b.ctx.Done():
		return b.ctx.Err()
	}
}

// describe fills what stat says.
func (b *backup) describe(n *tree.Node, m *scan.Meta) {
	n.Type, n.Mode = m.Type(), m.Mode&0o7777
	n.UID, n.GID = m.UID, m.GID
	n.User, n.Group = b.userName(m.UID), b.groupName(m.GID)
	n.Mtime, n.Ctime = m.Mtime, m.Ctime
	n.Inode, n.Device, n.Links = m.Inode, m.Device, max(m.Links, 1)
	switch n.Type {
	case tree.Dir:
		n.Links = 1 // the number of directories in it on some file systems; nothing to restore
	case tree.File:
		n.Size = m.Size
	case tree.CharDevice, tree.BlockDevice:
		n.Rdev = m.Rdev
	}
}

func (b *backup) userName(id uint32) string {
	name, ok := b.users[id]
	if !ok {
		if u, err := user.LookupId(strconv.FormatUint(uint64(id), 10)); err == nil {
			name = u.Username
		}
		b.users[id] = name
	}
	return name
}

func (b *backup) groupName(id uint32) string {
	name, ok := b.groups[id]
	if !ok {
		if g, err := user.LookupGroupId(strconv.FormatUint(uint64(id), 10)); err == nil {
			name = g.Name
		}
		b.groups[id] = name
	}
	return name
}

// reason words a system's error for a node: short, without the path it stands beside.
func reason(err error) string {
	var errno unix.Errno
	if errors.As(err, &errno) {
		return errno.Error()
	}
	s := err.Error()
	return s[:min(len(s), 1000)]
}

// special reads what a directory, link or special file has beside its stat.
func (b *backup) special(it *item, e *scan.Entry) {
	n := &it.node
	if n.Type == tree.Symlink {
		target, err := e.Readlink()
		if err != nil {
			n.Err = reason(err)
			b.problem("/"+n.Path, err)
			return
		}
		n.Target = target
	}
	x, err := scan.Xattrs(e)
	if err != nil {
		b.o.Report(Event{EventWarning, "/" + n.Path, fmt.Errorf("extended attributes: %w", err)})
	}
	n.Xattrs = x
}

// emitter writes nodes into the tree, in order.
type emitter struct {
	b *backup
	w *tree.Writer
	// databases are the paths of the databases of the directory at hand that SQLite gave.
	databases []string
}

func (e *emitter) emit(it *item) error {
	b, n := e.b, &it.node
	if it.same != nil {
		n.Size, n.Mtime, n.Ctime = it.same.node.Size, it.same.node.Mtime, it.same.node.Ctime
		f := &it.same.node
		n.Content, n.Holes, n.Xattrs, n.Changed, n.Recent, n.Database, n.Err = f.Content, f.Holes, f.Xattrs, f.Changed, f.Recent, f.Database, f.Err
	}
	if e.besideDatabase(n) {
		return nil
	}
	p := b.o.Progress
	switch n.Type {
	case tree.File:
		b.sum.Files++
		b.sum.Bytes += n.Size
		p.Files.Add(1)
		if it.unchanged || it.same != nil {
			p.Bytes.Add(n.Size)
		}
	case tree.Dir:
		b.sum.Dirs++
	default:
		b.sum.Others++
	}
	if n.Err != "" {
		b.sum.Unreadable++
	}
	if n.Changed {
		b.sum.Changed++
	}
	what := EventNew
	switch {
	case it.unchanged:
		what = EventUnchanged
		b.sum.Unchanged++
	case it.known:
		what = EventModified
		b.sum.Modified++
	default:
		b.sum.New++
	}
	if b.o.Verbose {
		b.o.Report(Event{What: what, Path: "/" + n.Path})
	}
	return e.w.Add(b.ctx, n)
}
