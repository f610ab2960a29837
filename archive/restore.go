package archive

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"firn"
	"firn/archive/scan"
	"firn/archive/tree"
	"firn/repo"
)

// RestoreOptions say what is restored where.
type RestoreOptions struct {
	// Target is the directory that gets it; it is made where it does not exist.
	Target string
	// Path within the snapshot, without a leading slash: what that directory holds goes directly beneath Target, or the
	// file into it. "" restores all, each at its whole path beneath Target.
	Path string
	// Include and Exclude are patterns as of gitignore, against paths in the snapshot. Without Include all is included.
	Include, Exclude []string
	// Delete removes what is in Target, within the directories that are restored, and not in the snapshot.
	Delete bool
	// DryRun changes nothing and reports what would be done.
	DryRun bool
	// Checksum reads files of the target that look as they should, by size and modification time, and compares their
	// content. Without it they are taken as right, unless an earlier restore into Target was cut off.
	Checksum bool
	// Verify reads back all that is restored once it is on stable storage.
	Verify bool
	// NoOwner leaves owners and groups as they come. It is what happens anyway where the process is not root's.
	NoOwner bool
	// NoSync returns before all is on stable storage.
	NoSync bool

	Report   func(Event)
	Verbose  bool
	Progress *Progress

	choose func(*tree.Node) bool // of a drill: which nodes; nil for all
}

// RestoreSummary counts what a restore did.
type RestoreSummary struct {
	Files        int64 `json:"files"` // all that are in the snapshot and wanted
	Dirs         int64 `json:"dirs"`
	Others       int64 `json:"others"`
	Bytes        int64 `json:"bytes"`
	New          int64 `json:"new"`
	Modified     int64 `json:"modified"`
	Unchanged    int64 `json:"unchanged"`
	Deleted      int64 `json:"deleted"`
	Failed       int64 `json:"failed"`
	Warnings     int64 `json:"warnings"`
	WrittenBytes int64 `json:"written_bytes"`
	Verified     int64 `json:"verified"` // files read back and found right
	Resumed      bool  `json:"resumed"`  // an earlier restore had been cut off
	Millis       int64 `json:"millis"`
}

// Marker is the file in a target that says that a restore into it has begun and not ended: what is there is not whole.
const Marker = ".firn-restore-unfinished"

// Restore writes what snap holds beneath o.Target. What cannot be restored is reported and counted, and the rest goes
// on. After an interruption the same call finishes the work. It returns when all is on stable storage.
func Restore(ctx context.Context, r *repo.Repo, snap repo.Snapshot, o RestoreOptions) (RestoreSummary, error) {
	begin := time.Now()
	if o.Report == nil {
		o.Report = func(Event) {}
	}
	if o.Progress == nil {
		o.Progress = &Progress{}
	}
	t := &restore{ctx: ctx, r: r, snap: snap, o: o, owner: os.Geteuid() == 0 && !o.NoOwner, root: -1}
	if len(o.Include) > 0 {
		t.include = scan.NewPatterns(o.Include)
	}
	if len(o.Exclude) > 0 {
		t.exclude = scan.NewPatterns(o.Exclude)
	}
	err := t.run()
	s := &t.sum
	s.New, s.Modified, s.Unchanged = t.fresh.Load(), t.modified.Load(), t.unchanged.Load()
	s.Failed, s.Warnings = t.failed.Load(), t.warnings.Load()
	s.WrittenBytes, s.Verified = t.written.Load(), t.verified.Load()
	s.Millis = time.Since(begin).Milliseconds()
	return *s, err
}

type restore struct {
	ctx              context.Context
	r                *repo.Repo
	snap             repo.Snapshot
	o                RestoreOptions
	owner            bool
	include, exclude *scan.Patterns
	top              *tree.Node // the directory that becomes the target itself; nil where none does
	strip            string     // what the paths in the snapshot have and those beneath the target do not
	root             int        // the target, open; -1 in a dry run into one that does not exist
	sum              RestoreSummary

	fresh, modified, unchanged, failed, warnings, written, verified atomic.Int64
	open                                                            atomic.Int64
}

func (t *restore) run() error {
	if t.o.Path != "" {
		n, err := tree.Find(t.ctx, t.r, t.snap.Root, t.o.Path)
		if err != nil {
			return err
		}
		t.strip = t.o.Path
		if n.Type == tree.Dir {
			t.top = n
		} else {
			t.strip = strings.TrimSuffix(strings.TrimSuffix(t.o.Path, n.Name()), "/")
		}
	}
	if !t.o.DryRun {
		if err := os.MkdirAll(t.o.Target, 0o700); err != nil {
			return firn.E("restore", "", err)
		}
	}
	var err error
	t.root, err = unix.Open(t.o.Target, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		if t.root = -1; !t.o.DryRun || !errors.Is(err, unix.ENOENT) {
			return firn.E("restore to", t.o.Target, err)
		}
	} else {
		defer unix.Close(t.root)
	}
	if !t.o.DryRun {
		if err := t.mark(); err != nil {
			return firn.E("restore to", t.o.Target, err)
		}
	}
	if b := t.snap.Summary["bytes"]; t.o.Path == "" && t.include == nil && t.exclude == nil && t.o.choose == nil {
		t.o.Progress.TotalBytes.Store(b)
		t.o.Progress.TotalFiles.Store(t.snap.Summary["files"])
	}
	if err := t.fill(); err != nil {
		return err
	}
	if t.o.Delete && t.root >= 0 {
		if err := t.remove(); err != nil {
			return err
		}
	}
	if t.o.DryRun {
		return nil
	}
	if err := t.finish(); err != nil {
		return err
	}
	if !t.o.NoSync {
		if err := unix.Syncfs(t.root); err != nil {
			return firn.E("sync", t.o.Target, err)
		}
	}
	if t.o.Verify {
		if err := t.verify(); err != nil {
			return err
		}
	}
	return t.unmark()
}

// mark says that the target is not whole, before the first change of it. A marker that is there already tells that
// what looks right may not be: the machine may have stopped before content was on stable storage.
func (t *restore) mark() error {
	fd, err := openBeneath(t.root, Marker, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL, 0o600)
	if errors.Is(err, unix.EEXIST) {
		t.o.Checksum, t.sum.Resumed = true, true
		return nil
	}
	if err != nil {
		return err
	}
	f := os.NewFile(uintptr(fd), Marker)
	_, err = fmt.Fprintf(f, "%s\n", t.snap.ID)
	err = errors.Join(err, f.Sync(), f.Close(), unix.Fsync(t.root))
	return err
}

func (t *restore) unmark() error {
	if t.failed.Load() > 0 && t.ctx.Err() != nil {
		return t.ctx.Err()
	}
	var st unix.Stat_t
	// The directory's own times were set before, and removing the marker changes them.
	known := unix.Fstat(t.root, &st) == nil
	err := unix.Unlinkat(t.root, Marker, 0)
	if errors.Is(err, unix.ENOENT) {
		err = nil
	}
	if err == nil && known {
		err = futimens(t.root, tree.Time{Sec: st.Mtim.Sec, Nsec: uint32(st.Mtim.Nsec)})
	}
	if err == nil && !t.o.NoSync {
		err = unix.Fsync(t.root)
	}
	return firn.E("restore to", t.o.Target, err)
}

// fail reports that a file could not be restored.
func (t *restore) fail(n *tree.Node, err error) {
	t.failed.Add(1)
	t.o.Progress.Errors.Add(1)
	t.o.Report(Event{EventUnreadable, "/" + n.Path, err})
}

func (t *restore) warn(n *tree.Node, err error) {
	t.warnings.Add(1)
	t.o.Report(Event{EventWarning, "/" + n.Path, err})
}

// fatal reports whether err, of one file, makes it senseless to go on with others.
func fatal(err error) bool {
	return errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) || errors.Is(err, unix.EROFS) || errors.Is(err, unix.EIO)
}

// wanted is one node that is to be restored.
type wanted struct {
	*tree.Node
	rel string // beneath the target
	// first is where another name of the same file was before; "" for the first or only one.
	first string
}

// each calls fn for the nodes that are wanted, in order: a directory before what is in it. A directory that is only
// there for something deeper has needed=false until then: it is handed out when the first thing within it is.
func (t *restore) each(fn func(wanted) error) error {
	it := tree.Walk(t.ctx, t.r, t.snap.Root, t.o.Path)
	defer it.Close()
	type level struct {
		node     *tree.Node
		given    bool
		included bool
	}
	var stack []level
	skip := ""
	links := map[inode]*restoredLink{}
	give := func(n *tree.Node) error {
		w := wanted{Node: n, rel: t.rel(n.Path)}
		if w.rel == "" {
			return nil
		}
		if n.Type == tree.File && n.Links > 1 {
			key := inode{n.Device, n.Inode}
			if l := links[key]; l != nil {
				w.first = l.path
				if l.left--; l.left == 0 {
					delete(links, key)
				}
			} else {
				links[key] = &restoredLink{w.rel, n.Links - 1}
			}
		}
		return fn(w)
	}
	for {
		n, err := it.Next()
		if err != nil || n == nil {
			return err
		}
		if skip != "" && tree.Within(n.Path, skip) {
			continue
		}
		skip = ""
		for len(stack) > 0 && !tree.Within(n.Path, stack[len(stack)-1].node.Path) {
			stack = stack[:len(stack)-1]
		}
		if t.exclude != nil && t.exclude.Match(n.Path, n.Type == tree.Dir) {
			skip = n.Path
			continue
		}
		included := t.include == nil || len(stack) > 0 && stack[len(stack)-1].included || t.include.Match(n.Path, n.Type == tree.Dir)
		if t.o.choose != nil && !t.o.choose(n) {
			included = false
		}
		if included {
			for i := range stack {
				if l := &stack[i]; !l.given {
					l.given = true
					if err := give(l.node); err != nil {
						return err
					}
				}
			}
			if err := give(n); err != nil {
				return err
			}
		}
		if n.Type == tree.Dir {
			stack = append(stack, level{n, included, included && t.o.choose == nil})
		}
	}
}

type restoredLink struct {
	path string
	left uint64
}

// rel returns where a path of the snapshot belongs beneath the target.
func (t *restore) rel(path string) string {
	if t.strip == "" {
		return path
	}
	return strings.TrimPrefix(strings.TrimPrefix(path, t.strip), "/")
}

// dirs is the way from the target to the directory at hand, each open.
type dirs struct {
	t     *restore
	stack []openDir
}

type openDir struct {
	rel  string
	fd   int
	node *tree.Node
}

// at returns the open directory that holds rel, after leave was called for those that rel is not within.
func (d *dirs) at(rel string, leave func(openDir)) int {
	for len(d.stack) > 0 && !tree.Within(rel, d.stack[len(d.stack)-1].rel) {
		top := d.stack[len(d.stack)-1]
		d.stack = d.stack[:len(d.stack)-1]
		if leave != nil {
			leave(top)
		}
		if top.fd >= 0 {
			_ = unix.Close(top.fd) // nothing was written through it
		}
	}
	if len(d.stack) == 0 {
		return d.t.root
	}
	return d.stack[len(d.stack)-1].fd
}

func (d *dirs) push(rel string, fd int, n *tree.Node) {
	d.stack = append(d.stack, openDir{rel, fd, n})
}

// close leaves all.
func (d *dirs) close(leave func(openDir)) { d.at("\x00", leave) }

// fill makes all that is wanted but for the metadata of directories and the further names of files.
func (t *restore) fill() error {
	w := newContentWriter(t)
	d := dirs{t: t}
	err := t.each(func(n wanted) error {
		parent := d.at(n.rel, nil)
		path := "/" + n.Path
		t.o.Progress.current.Store(&path)
		if n.Err != "" {
			t.fail(n.Node, fmt.Errorf("it could not be read by the backup: %s", n.Err))
			if n.Type != tree.Dir {
				return nil
			}
		}
		if parent == -1 && n.Type != tree.Dir { // a dry run, or the directory failed
			if t.o.DryRun {
				t.count(n, EventNew)
			} else {
				t.fail(n.Node, errors.New("its directory could not be made"))
			}
			return nil
		}
		var err error
		switch {
		case n.Type == tree.Dir:
			t.sum.Dirs++
			fd := -1
			if parent != -1 || len(d.stack) == 0 {
				fd, err = t.dir(parent, n)
			}
			d.push(n.rel, fd, n.Node)
		case n.Type == tree.File:
			t.sum.Files++
			t.sum.Bytes += n.Size
			if n.first != "" {
				break // by finish
			}
			err = w.file(parent, n)
		default:
			t.sum.Others++
			err = t.other(parent, n)
		}
		if err != nil {
			if fatal(err) || t.ctx.Err() != nil || firn.KindOf(err) != firn.Internal {
				return err
			}
			t.fail(n.Node, err)
		}
		return nil
	})
	d.close(nil)
	return errors.Join(err, w.close(err))
}

// count counts and reports what happens to a node.
func (t *restore) count(n wanted, what string) {
	switch what {
	case EventNew:
		t.fresh.Add(1)
	case EventModified:
		t.modified.Add(1)
	case EventUnchanged:
		t.unchanged.Add(1)
	}
	if t.o.Verbose || t.o.DryRun && what != EventUnchanged {
		t.o.Report(Event{What: what, Path: "/" + n.Path})
	}
}

// dir makes a directory, or takes the one that is there, and opens it. In a dry run one that is not there is -1.
func (t *restore) dir(parent int, n wanted) (int, error) {
	name := n.Name()
	what := EventUnchanged
	if t.o.DryRun {
		if parent != -1 {
			if fd, err := openDirAt(parent, name); err == nil {
				t.count(n, what)
				return fd, nil
			}
		}
		t.count(n, EventNew)
		return -1, nil
	}
	fd, err := openDirAt(parent, name)
	if err != nil {
		if errors.Is(err, unix.EACCES) {
			return -1, err
		}
		what = EventNew
		err = unix.Mkdirat(parent, name, 0o700)
		if errors.Is(err, unix.EEXIST) {
			// Something else has its name; a symbolic link too is only removed, never followed.
			if err = unix.Unlinkat(parent, name, 0); err == nil {
				what = EventModified
				err = unix.Mkdirat(parent, name, 0o700)
			}
		}
		if err != nil {
			return -1, err
		}
		if fd, err = openDirAt(parent, name); err != nil {
			return -1, err
		}
	} else if !t.owner && os.Geteuid() != 0 {
		var st unix.Stat_t
		if unix.Fstat(fd, &st) == nil && st.Mode&0o700 != 0o700 {
			_ = unix.Fchmod(fd, st.Mode&0o7777|0o700) // what it was for shows when something is made in it
		}
	}
	t.count(n, what)
	return fd, nil
}

// other makes a symbolic link or a special file.
func (t *restore) other(parent int, n wanted) error {
	name := n.Name()
	var m scan.Meta
	err := m.At(parent, name)
	what := EventNew
	if err == nil {
		if m.Type() == n.Type && t.equalOther(parent, name, &m, n.Node) {
			t.count(n, EventUnchanged)
			if t.o.DryRun {
				return nil
			}
			return t.metaAt(parent, name, n.Node)
		}
		what = EventModified
	} else if !errors.Is(err, unix.ENOENT) {
		return err
	}
	if t.o.DryRun {
		t.count(n, what)
		return nil
	}
	if what == EventModified {
		if err := t.makeWay(parent, name, &m); err != nil {
			return err
		}
	}
	switch n.Type {
	case tree.Symlink:
		err = unix.Symlinkat(n.Target, parent, name)
	case tree.FIFO:
		err = unix.Mknodat(parent, name, unix.S_IFIFO|0o600, 0)
	case tree.Socket:
		err = unix.Mknodat(parent, name, unix.S_IFSOCK|0o600, 0)
	case tree.CharDevice:
		err = unix.Mknodat(parent, name, unix.S_IFCHR|0o600, int(n.Rdev))
	case tree.BlockDevice:
		err = unix.Mknodat(parent, name, unix.S_IFBLK|0o600, int(n.Rdev))
	}
	if err != nil {
		return err
	}
	t.count(n, what)
	return t.metaAt(parent, name, n.Node)
}

func (t *restore) equalOther(parent int, name string, m *scan.Meta, n *tree.Node) bool {
	switch n.Type {
	case tree.Symlink:
		target, err := scan.ReadlinkAt(parent, name)
		return err == nil && target == n.Target
	case tree.CharDevice, tree.BlockDevice:
		return m.Rdev == n.Rdev
	}
	return true
}

// makeWay removes what stands where something of another type belongs. A directory goes with all that is in it only
// where the caller asked for deletion.
func (t *restore) makeWay(parent int, name string, m *scan.Meta) error {
	if m.Type() != tree.Dir {
		return unix.Unlinkat(parent, name, 0)
	}
	if !t.o.Delete {
		if err := unix.Unlinkat(parent, name, unix.AT_REMOVEDIR); err != nil {
			return errors.New("a directory that is not empty stands in its place: restore with --delete to remove it")
		}
		return nil
	}
	n, err := removeTree(t.ctx, parent, name)
	t.sum.Deleted += n
	return err
}

// finish makes the further names of files, and gives directories their metadata, the innermost first.
func (t *restore) finish() error {
	d := dirs{t: t}
	leave := func(o openDir) {
		if o.fd < 0 {
			return
		}
		if err := t.metaFd(o.fd, o.node, false); err != nil {
			t.fail(o.node, err)
		}
	}
	err := t.each(func(n wanted) error {
		parent := d.at(n.rel, leave)
		switch {
		case parent < 0:
			if n.Type == tree.Dir {
				d.push(n.rel, -1, n.Node)
			}
		case n.Type == tree.Dir:
			fd, err := openDirAt(parent, n.Name())
			if err != nil {
				fd = -1 // was reported when it could not be made
			}
			d.push(n.rel, fd, n.Node)
		case n.first != "" && n.Err == "":
			if err := t.link(parent, n); err != nil {
				if fatal(err) {
					return err
				}
				t.fail(n.Node, err)
			}
		}
		return nil
	})
	d.close(leave)
	if err == nil && t.top != nil && t.include == nil {
		if merr := t.metaFd(t.root, t.top, false); merr != nil {
			t.warn(t.top, merr)
		}
	}
	return err
}

// link gives the file at n.first its further name.
func (t *restore) link(parent int, n wanted) error {
	dir, base := filepath.Split(n.first)
	from := t.root
	if dir != "" {
		fd, err := openBeneath(t.root, strings.TrimSuffix(dir, "/"), unix.O_RDONLY|unix.O_DIRECTORY, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		from = fd
	}
	var first, there scan.Meta
	if err := first.At(from, base); err != nil {
		return fmt.Errorf("its other name /%s: %w", n.first, err)
	}
	what := EventNew
	if err := there.At(parent, n.Name()); err == nil {
		if there.Inode == first.Inode && there.Device == first.Device {
			t.count(n, EventUnchanged)
			return nil
		}
		what = EventModified
		if err := t.makeWay(parent, n.Name(), &there); err != nil {
			return err
		}
	}
	if err := unix.Linkat(from, base, parent, n.Name(), 0); err != nil {
		return err
	}
	t.count(n, what)
	return nil
}
