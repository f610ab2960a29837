package archive

import (
	"archive/tar"
	"bufio"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/klauspost/compress/zstd"
	"golang.org/x/sys/unix"

	"firn"
	"firn/archive/tree"
	"firn/repo"
)

// Compression of a tar stream.
type Compression string

// Compressions.
const (
	Plain Compression = ""
	Gzip  Compression = "gzip"
	Zstd  Compression = "zstd"
)

// CompressionOf returns what the name of a tar file says.
func CompressionOf(name string) Compression {
	switch {
	case strings.HasSuffix(name, ".gz"), strings.HasSuffix(name, ".tgz"):
		return Gzip
	case strings.HasSuffix(name, ".zst"), strings.HasSuffix(name, ".tzst"):
		return Zstd
	}
	return Plain
}

// paxXattr is how GNU tar and others keep extended attributes.
const paxXattr = "SCHILY.xattr."

// Export writes a snapshot, or what is at dir in it, as a tar stream in the PAX format: names, owners, modes, times and
// extended attributes. Holes of sparse files become zeros, and sockets are left out, as in every tar. Paths in it have no
// leading slash. It returns how many entries it wrote. A file without content, since the backup could not read it, is
// reported and left out.
func Export(ctx context.Context, r *repo.Repo, snap repo.Snapshot, dir string, c Compression, w io.Writer, report func(Event)) (int64, error) {
	out, err := compressed(w, c)
	if err != nil {
		return 0, err
	}
	tw := tar.NewWriter(out)
	it := tree.Walk(ctx, r, snap.Root, dir)
	defer it.Close()
	links := map[inode]*restoredLink{}
	var count int64
	for {
		n, err := it.Next()
		if err != nil {
			return count, err
		}
		if n == nil {
			break
		}
		if n.Err != "" && n.Type == tree.File || n.Type == tree.Socket {
			why := n.Err
			if why == "" {
				why = "a socket has no place in a tar file"
			}
			report(Event{EventUnreadable, "/" + n.Path, errors.New(why)})
			continue
		}
		if err := exportNode(ctx, r, tw, n, links); err != nil {
			return count, firn.E("export", "/"+n.Path, err)
		}
		count++
	}
	if count == 0 && dir != "" {
		return 0, &firn.Error{Kind: firn.NotFound, Op: "export", Subject: "/" + dir}
	}
	return count, errors.Join(tw.Close(), out.Close())
}

func exportNode(ctx context.Context, r *repo.Repo, tw *tar.Writer, n *tree.Node, links map[inode]*restoredLink) error {
	h := &tar.Header{
		Name: n.Path, Mode: int64(n.Mode), Uid: int(n.UID), Gid: int(n.GID), Uname: n.User, Gname: n.Group,
		ModTime: time.Unix(n.Mtime.Sec, int64(n.Mtime.Nsec)), Format: tar.FormatPAX,
	}
	if len(n.Xattrs) > 0 {
		h.PAXRecords = map[string]string{}
		for _, x := range n.Xattrs {
			h.PAXRecords[paxXattr+x.Name] = string(x.Value)
		}
	}
	switch n.Type {
	case tree.Dir:
		h.Typeflag, h.Name = tar.TypeDir, n.Path+"/"
	case tree.Symlink:
		h.Typeflag, h.Linkname = tar.TypeSymlink, n.Target
	case tree.FIFO:
		h.Typeflag = tar.TypeFifo
	case tree.CharDevice, tree.BlockDevice:
		h.Typeflag = tar.TypeChar
		if n.Type == tree.BlockDevice {
			h.Typeflag = tar.TypeBlock
		}
		h.Devmajor, h.Devminor = int64(unix.Major(n.Rdev)), int64(unix.Minor(n.Rdev))
	case tree.File:
		h.Typeflag, h.Size = tar.TypeReg, n.Size
		if n.Links > 1 {
			key := inode{n.Device, n.Inode}
			if l := links[key]; l != nil {
				h.Typeflag, h.Linkname, h.Size = tar.TypeLink, l.path, 0
				if l.left--; l.left == 0 {
					delete(links, key)
				}
			} else {
				links[key] = &restoredLink{n.Path, n.Links - 1}
			}
		}
	}
	if err := tw.WriteHeader(h); err != nil {
		return err
	}
	if h.Typeflag != tar.TypeReg {
		return nil
	}
	return Content(ctx, r, n, tw)
}

// Content writes the whole content of a file, holes as zeros.
func Content(ctx context.Context, r *repo.Repo, n *tree.Node, w io.Writer) error {
	holes, at := n.Holes, int64(0)
	zeros := func() error {
		for len(holes) > 0 && holes[0].Offset == at {
			if _, err := io.CopyN(w, zeroReader{}, holes[0].Length); err != nil {
				return err
			}
			at += holes[0].Length
			holes = holes[1:]
		}
		return nil
	}
	put := func(p []byte) error {
		for {
			if err := zeros(); err != nil || len(p) == 0 {
				return err
			}
			k := int64(len(p))
			if len(holes) > 0 {
				k = min(k, holes[0].Offset-at)
			}
			if _, err := w.Write(p[:k]); err != nil {
				return err
			}
			at, p = at+k, p[k:]
		}
	}
	if err := put(n.Content.Inline); err != nil {
		return err
	}
	var buf []byte
	err := tree.Chunks(ctx, r, n, func(id repo.ID, _, size int64) error {
		var err error
		if buf, err = r.Load(ctx, id, buf); err != nil {
			return err
		}
		if int64(len(buf)) != size {
			return firn.NewError(firn.Corrupt, "a chunk is not as long as its file says")
		}
		return put(buf)
	})
	return errors.Join(err, zeros())
}

type zeroReader struct{}

func (zeroReader) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

type nopCloser struct{ io.Writer }

func (nopCloser) Close() error { return nil }

func compressed(w io.Writer, c Compression) (io.WriteCloser, error) {
	switch c {
	case Plain:
		return nopCloser{w}, nil
	case Gzip:
		return gzip.NewWriter(w), nil
	case Zstd:
		return zstd.NewWriter(w)
	}
	return nil, firn.NewError(firn.Invalid, fmt.Sprintf("compression %q: want gzip, zstd or none", c))
}

// uncompressed looks at the first bytes for what compressed it.
func uncompressed(r io.Reader) (io.Reader, error) {
	b := bufio.NewReaderSize(r, 64<<10)
	p, err := b.Peek(4)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	switch {
	case len(p) >= 2 && p[0] == 0x1f && p[1] == 0x8b:
		return gzip.NewReader(b)
	case string(p) == "\x28\xb5\x2f\xfd":
		z, err := zstd.NewReader(b, zstd.WithDecoderMaxMemory(256<<20), zstd.WithDecoderConcurrency(1))
		if err != nil {
			return nil, err
		}
		return z.IOReadCloser(), nil
	}
	return b, nil
}

// Import makes a snapshot of a tar stream, compressed or not, beneath the directory o.Paths[0] names in the snapshot.
// Entries may come in any order, so their nodes, not their content, are held in memory until the end: some 500 bytes an
// entry. Names that would leave the directory are refused, and fail the import.
func Import(ctx context.Context, r *repo.Repo, o BackupOptions, in io.Reader) (BackupResult, error) {
	const op = "import"
	if len(o.Paths) != 1 {
		return BackupResult{}, firn.E(op, "", firn.NewError(firn.Invalid, "one path says where the files are in the snapshot"))
	}
	plain, err := uncompressed(in)
	if err != nil {
		return BackupResult{}, firn.E(op, "", err)
	}
	base := strings.Trim(o.Paths[0], "/")
	o.ReadAll = true
	return o.run(ctx, r, func(b *backup) error {
		nodes := map[string]*tree.Node{}
		if err := b.importAll(tar.NewReader(plain), base, nodes); err != nil {
			return firn.E(op, "", err)
		}
		for _, name := range sortedNodes(nodes) {
			if err := b.give(*nodes[name]); err != nil {
				return err
			}
		}
		return nil
	})
}

// importAll reads the entries and saves their content.
func (b *backup) importAll(tr *tar.Reader, base string, nodes map[string]*tree.Node) error {
	number := uint64(0)
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		name := strings.TrimSuffix(strings.TrimPrefix(path.Clean("/"+h.Name), "/"), "/")
		if strings.Contains("/"+h.Name+"/", "/../") {
			return &firn.Error{Kind: firn.Invalid, Subject: h.Name, Err: errors.New("a name that leads out of the directory")}
		}
		if name = path.Join(base, name); name == "" {
			continue
		}
		if !tree.ValidPath(name) {
			return &firn.Error{Kind: firn.Invalid, Subject: h.Name, Err: errors.New("not a name that a file can have")}
		}
		number++
		n := &tree.Node{
			Path: name, Mode: uint32(h.Mode) & 0o7777, UID: uint32(h.Uid), GID: uint32(h.Gid), User: h.Uname, Group: h.Gname,
			Mtime: tree.Time{Sec: h.ModTime.Unix(), Nsec: uint32(h.ModTime.Nanosecond())}, Links: 1, Inode: number,
		}
		n.Ctime = n.Mtime
		for k, v := range h.PAXRecords {
			if x, ok := strings.CutPrefix(k, paxXattr); ok {
				n.Xattrs = append(n.Xattrs, tree.Xattr{Name: x, Value: []byte(v)})
			}
		}
		sortXattrs(n.Xattrs)
		switch h.Typeflag {
		case tar.TypeReg, tar.TypeGNUSparse, tar.TypeCont:
			n.Type = tree.File
			if err := b.streamed(n, &Stream{Name: name, Open: func(context.Context) (io.ReadCloser, error) { return io.NopCloser(tr), nil }}); err != nil {
				return err
			}
		case tar.TypeDir:
			n.Type = tree.Dir
		case tar.TypeSymlink:
			n.Type, n.Target = tree.Symlink, h.Linkname
		case tar.TypeFifo:
			n.Type = tree.FIFO
		case tar.TypeChar, tar.TypeBlock:
			n.Type, n.Rdev = tree.CharDevice, unix.Mkdev(uint32(h.Devmajor), uint32(h.Devminor))
			if h.Typeflag == tar.TypeBlock {
				n.Type = tree.BlockDevice
			}
		case tar.TypeLink:
			first := nodes[path.Join(base, strings.TrimPrefix(path.Clean("/"+h.Linkname), "/"))]
			if first == nil || first.Type != tree.File {
				return &firn.Error{Kind: firn.Invalid, Subject: h.Name, Err: fmt.Errorf("a link to %q, which does not come before it", h.Linkname)}
			}
			first.Links++
			*n = *first
			n.Path = name
		default:
			b.problem("/"+name, fmt.Errorf("an entry of a type %q that is not known", h.Typeflag))
			continue
		}
		nodes[name] = n
	}
	return b.finishImport(nodes)
}

// finishImport makes the directories that no entry names, and has all names of a file say how many there are.
func (b *backup) finishImport(nodes map[string]*tree.Node) error {
	links := map[uint64]uint64{}
	for _, name := range sortedNodes(nodes) {
		n := nodes[name]
		links[n.Inode] = max(links[n.Inode], n.Links)
		for dir := path.Dir(name); dir != "."; dir = path.Dir(dir) {
			if have := nodes[dir]; have == nil {
				nodes[dir] = &tree.Node{Path: dir, Type: tree.Dir, Mode: 0o755, Mtime: n.Mtime, Ctime: n.Mtime, Links: 1}
			} else if have.Type != tree.Dir {
				return &firn.Error{Kind: firn.Invalid, Subject: name, Err: fmt.Errorf("%q is no directory", dir)}
			}
		}
	}
	for _, n := range nodes {
		if n.Type == tree.File {
			n.Links = links[n.Inode]
		}
	}
	return nil
}

func sortedNodes(nodes map[string]*tree.Node) []string {
	return slices.SortedFunc(maps.Keys(nodes), tree.Compare)
}

func sortXattrs(x []tree.Xattr) {
	slices.SortFunc(x, func(a, b tree.Xattr) int { return strings.Compare(a.Name, b.Name) })
}
