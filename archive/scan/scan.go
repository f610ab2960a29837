// Package scan walks file trees in the order of package tree: every file with what the system says of it, without
// what is excluded.
//
// It promises bounded memory and open files however many entries a directory has, never to follow a symbolic link
// beneath the paths it was given, and to go on after what it cannot read, which it reports. It reads no file's
// content beside ignore files and cache tags. It must never import the repository.
package scan

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"firn"
	"firn/archive/tree"
)

// Options say what to walk.
type Options struct {
	// Excludes are patterns as of gitignore. One that begins with a slash is anchored at the root of the file system,
	// one with another slash in it at each path that is walked, and one without at no place.
	Excludes []string
	// IgnoreFile is the name of files that hold patterns for their directory and what is beneath; "" for none.
	IgnoreFile string
	// IfPresent leaves out what is in a directory that has a file of one of these names.
	IfPresent []string
	// CacheTags leaves out what is in a directory with a CACHEDIR.TAG.
	CacheTags bool
	// LargerThan leaves out regular files of more bytes; 0 for none.
	LargerThan int64
	// OneFileSystem does not enter directories of other file systems than that of the path it came from.
	OneFileSystem bool
	// Excluded is told how many entries were left out; may be nil.
	Excluded *atomic.Int64
}

// Meta is what the system says of a file.
type Meta struct {
	Mode         uint32 // as of stat: type and permissions
	UID, GID     uint32
	Mtime, Ctime tree.Time
	Inode        uint64
	Device       uint64
	Links        uint64
	Rdev         uint64
	Size         int64
	Blocks       int64 // of 512 bytes
}

// Type returns the node type of the file, 0 for one that has none.
func (m *Meta) Type() tree.Type {
	switch m.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		return tree.File
	case unix.S_IFDIR:
		return tree.Dir
	case unix.S_IFLNK:
		return tree.Symlink
	case unix.S_IFIFO:
		return tree.FIFO
	case unix.S_IFSOCK:
		return tree.Socket
	case unix.S_IFCHR:
		return tree.CharDevice
	case unix.S_IFBLK:
		return tree.BlockDevice
	}
	return 0
}

// Entry is one file that was found.
type Entry struct {
	Path string // absolute, without the leading slash; bytes as the system gave them
	Meta Meta
	// Dir is the directory that holds it, which stays open until the entry was handled, and longer for those who
	// Hold it.
	Dir *Directory
	// Err says why the entry could not be looked at (Meta is then not set, but for Mode's type where it is known) or,
	// for a directory, why it could not be listed.
	Err error

	// follow: a path the caller named, or a directory above it: a symbolic link there is what it leads to.
	follow bool
	child  *Directory
}

// Name returns the last part of the path.
func (e *Entry) Name() string { return e.Path[strings.LastIndexByte(e.Path, '/')+1:] }

// Named reports whether the entry is one of the paths that were asked for, or a directory above one.
func (e *Entry) Named() bool { return e.Dir.only != nil }

// Above reports whether the entry is only there because one of the paths is beneath it.
func (e *Entry) Above() bool {
	if e.Dir.only == nil {
		return false
	}
	n := e.Dir.only.sub[e.Name()]
	return n != nil && !n.all
}

// Directory is an open directory.
type Directory struct {
	path  string // of its entries, "" at the root
	only  *names // the walk goes only to these; nil for all
	top   uint64 // the device of the path it came from
	rules *rules

	fd   int
	refs atomic.Int32
	err  error
	list nameList
	head []Entry // the first block
	done chan struct{}
}

// Fd is the open directory.
func (d *Directory) Fd() int { return d.fd }

// Hold keeps the directory open until Release.
func (d *Directory) Hold() { d.refs.Add(1) }

// Release ends a Hold.
func (d *Directory) Release() {
	if d.refs.Add(-1) == 0 && d.fd >= 0 {
		_ = unix.Close(d.fd) // nothing was written
	}
}

// names is the way to the paths that the caller gave: a tree of their parts. A path's end has no sub.
type names struct {
	sub map[string]*names
	all bool
}

// block is how many entries are looked at together; ahead is how many directories are listed before the walk is there.
const (
	block = 1024
	ahead = 32
)

type scanner struct {
	ctx  context.Context
	o    Options
	jobs chan *job
	// tokens bound the directories that are listed and were not reached; so sending to jobs never blocks.
	tokens chan struct{}
}

type job struct {
	d      *Directory
	parent *Directory
	name   string
	follow bool
}

// Walk calls fn for each entry at paths, which are absolute and clean, and beneath them, and for the directories above
// them, in the order of tree.Compare. An entry that cannot be read is handed out with its Err and does not end the
// walk; an error of fn does. fn is called by one goroutine.
func Walk(ctx context.Context, paths []string, o Options, fn func(*Entry) error) error {
	root, err := way(paths)
	if err != nil {
		return err
	}
	ctx, stop := context.WithCancel(ctx)
	s := &scanner{ctx: ctx, o: o, jobs: make(chan *job, ahead), tokens: make(chan struct{}, ahead)}
	var wg sync.WaitGroup
	for range max(2, min(runtime.GOMAXPROCS(0), 8)) {
		wg.Go(func() {
			for {
				select {
				case j := <-s.jobs:
					s.open(j)
				case <-ctx.Done():
					return
				}
			}
		})
	}
	d := &Directory{done: make(chan struct{}), only: root, rules: newRules(o.Excludes, paths)}
	s.open(&job{d: d, name: "/", follow: true})
	if err = d.err; err == nil {
		err = s.walk(d, fn)
	}
	stop()
	wg.Wait()
	for len(s.jobs) > 0 {
		s.open(<-s.jobs) // gives up at once
	}
	d.drop()
	return err
}

// way makes the tree of the parts of paths.
func way(paths []string) (*names, error) {
	root := &names{sub: map[string]*names{}}
	for _, p := range paths {
		if !filepath.IsAbs(p) || filepath.Clean(p) != p {
			return nil, &firn.Error{Kind: firn.Invalid, Op: "scan", Subject: p, Err: errors.New("not an absolute path")}
		}
		n := root
		for part := range strings.SplitSeq(p[1:], "/") {
			if part == "" || n.all {
				break
			}
			if n.sub[part] == nil {
				n.sub[part] = &names{sub: map[string]*names{}}
			}
			n = n.sub[part]
		}
		n.all, n.sub = true, nil
	}
	if root.all {
		return nil, nil
	}
	return root, nil
}

// walk hands out what is in d, which was listed.
func (s *scanner) walk(d *Directory, fn func(*Entry) error) error {
	entries := d.head
	for from := 0; ; {
		for i := range entries {
			e := &entries[i]
			c := e.child
			if c != nil {
				<-c.done
				<-s.tokens
			} else if c = s.child(d, e); c != nil {
				e.child = c
				s.open(&job{d: c, parent: d, name: e.Name(), follow: e.follow})
			}
			if c != nil {
				e.Err = c.err
			}
			err := fn(e)
			if err == nil && c != nil {
				err = s.walk(c, fn)
			}
			e.child = nil
			if c != nil {
				c.drop()
			}
			if err != nil {
				return err
			}
		}
		if from += block; from >= d.list.len() {
			return nil
		}
		if err := s.ctx.Err(); err != nil {
			return err
		}
		d.head = s.look(d, from)
		entries = d.head
	}
}

// drop frees d and what was listed beneath it and not reached.
func (d *Directory) drop() {
	<-d.done
	for i := range d.head {
		if c := d.head[i].child; c != nil {
			c.drop()
		}
	}
	d.head = nil
	d.list = nameList{}
	d.Release()
}

// child returns the directory that e is, unopened, nil where e is none or the walk does not enter it.
func (s *scanner) child(d *Directory, e *Entry) *Directory {
	if e.Err != nil || e.Meta.Type() != tree.Dir {
		return nil
	}
	c := &Directory{path: e.Path, rules: d.rules, top: d.top, done: make(chan struct{})}
	if d.only != nil {
		n := d.only.sub[e.Name()]
		c.top = e.Meta.Device
		if !n.all {
			c.only = n
		}
	} else if s.o.OneFileSystem && e.Meta.Device != d.top {
		return nil
	}
	return c
}

// open opens a directory and lists it.
func (s *scanner) open(j *job) {
	d := j.d
	defer close(d.done)
	d.fd = -1
	d.refs.Store(1)
	if err := s.ctx.Err(); err != nil {
		d.err = err
		return
	}
	flags := unix.O_RDONLY | unix.O_DIRECTORY | unix.O_CLOEXEC | unix.O_NOFOLLOW
	if j.follow {
		flags &^= unix.O_NOFOLLOW
	}
	at := unix.AT_FDCWD
	if j.parent != nil {
		at = j.parent.fd
	}
	d.fd, d.err = openAt(at, j.name, flags)
	if d.err != nil {
		d.fd = -1
		return
	}
	if d.only != nil {
		for name := range d.only.sub {
			d.list.add([]byte(name), unix.DT_UNKNOWN)
		}
	} else {
		d.err = d.list.read(d.fd)
		s.filter(d)
	}
	d.list.sort()
	if j.parent == nil && d.only == nil {
		var m Meta
		if err := m.of(d.fd); err != nil {
			d.err = err
			return
		}
		d.top = m.Device
	}
	d.head = s.look(d, 0)
}

// filter removes excluded names. Where all that is in a directory is left out, none stay.
func (s *scanner) filter(d *Directory) {
	o := &s.o
	has := func(name string) bool {
		for i := range d.list.len() {
			if string(d.list.bytes(i)) == name {
				return true
			}
		}
		return false
	}
	for _, name := range o.IfPresent {
		if has(name) {
			d.list.reset()
			return
		}
	}
	if o.CacheTags && has(cacheTag) && isCacheTag(d.fd) {
		d.list.reset()
		return
	}
	if o.IgnoreFile != "" && has(o.IgnoreFile) {
		r, err := d.rules.withFile(d.fd, o.IgnoreFile, d.path)
		if err != nil && d.err == nil {
			d.err = fmt.Errorf("%s: %w", o.IgnoreFile, err)
		}
		d.rules = r
	}
	if d.rules.empty() {
		return
	}
	m := d.rules.in(d.path)
	d.list.keep(func(name string, typ byte) bool {
		if typ == unix.DT_UNKNOWN {
			var st unix.Stat_t
			if unix.Fstatat(d.fd, name, &st, unix.AT_SYMLINK_NOFOLLOW) == nil && st.Mode&unix.S_IFMT == unix.S_IFDIR {
				typ = unix.DT_DIR
			}
		}
		if !m.excluded(name, typ == unix.DT_DIR) {
			return true
		}
		s.excluded()
		return false
	})
}

// look stats the block of entries from index from, and has the first directories among them listed.
func (s *scanner) look(d *Directory, from int) []Entry {
	n := min(d.list.len()-from, block)
	entries := make([]Entry, 0, n)
	prefix := d.path
	if prefix != "" {
		prefix += "/"
	}
	for i := range n {
		name := d.list.name(from + i)
		entries = append(entries, Entry{Path: prefix + name, Dir: d})
		e := &entries[len(entries)-1]
		if err := e.stat(name); err != nil {
			if d.only == nil && errors.Is(err, unix.ENOENT) {
				entries = entries[:len(entries)-1] // removed since the directory was read
				continue
			}
			e.Err = err
			e.Meta.Mode = uint32(d.list.typ(from+i)) << 12
			continue
		}
		if s.o.LargerThan > 0 && e.Meta.Type() == tree.File && e.Meta.Size > s.o.LargerThan {
			s.excluded()
			entries = entries[:len(entries)-1]
		}
	}
	// Only now that they do not move any more: a directory's child is found through its entry.
	for i := range entries {
		e := &entries[i]
		c := s.child(d, e)
		if c == nil {
			continue
		}
		select {
		case s.tokens <- struct{}{}:
			e.child = c
			s.jobs <- &job{d: c, parent: d, name: e.Name(), follow: e.follow}
		default: // the walk lists it when it is there
			return entries
		}
	}
	return entries
}

// stat fills e.Meta. What the caller named may be a symbolic link to a directory: then it is that directory.
func (e *Entry) stat(name string) error {
	if e.Dir.only != nil {
		if err := e.Meta.at(e.Dir.fd, name, 0); err == nil && e.Meta.Type() == tree.Dir {
			e.follow = true
			return nil
		}
	}
	return e.Meta.at(e.Dir.fd, name, unix.AT_SYMLINK_NOFOLLOW)
}

func (s *scanner) excluded() {
	if s.o.Excluded != nil {
		s.o.Excluded.Add(1)
	}
}
