package tree

import (
	"encoding/binary"
	"fmt"

	"firn"
	"firn/repo"
)

// version is the first byte of each page.
const version = 1

// The second byte of a page says what it holds.
const (
	pageNodes = 1 // nodes
	pageRefs  = 2 // references to pages of nodes or of references
	pageList  = 3 // sizes of chunks of one file
	pageLists = 4 // references to pages of lists
)

// Bounds on what a page may hold, in bytes.
const (
	maxPath   = 64 << 10
	maxXattrs = 1 << 20 // all attributes of a node together
	maxErr    = 4 << 10
)

// MaxChunks is how many chunks a node names itself; content of more has a list.
const MaxChunks = 512

const (
	flagOwner    = 1 << iota // owner and group as those of the node before
	flagCtime                // ctime as mtime
	flagDevice               // device as that of the node before
	flagLinks                // number of links follows
	flagXattrs               // attributes follow
	flagInline               // content follows
	flagList                 // content is a list
	flagHoles                // holes follow
	flagChanged              // Node.Changed
	flagRecent               // Node.Recent
	flagDatabase             // Node.Database
	flagErr                  // Node.Err follows
)

// context is what a node's record leaves out because the node before had it.
type recent struct {
	path     string
	uid, gid uint32
	user     string
	group    string
	mtime    int64
	inode    uint64
	device   uint64
}

func (c *recent) follow(n *Node) {
	c.path, c.uid, c.gid, c.user, c.group = n.Path, n.UID, n.GID, n.User, n.Group
	c.mtime, c.inode, c.device = n.Mtime.Sec, n.Inode, n.Device
}

func shared(a, b string) int {
	n := min(len(a), len(b))
	for i := range n {
		if a[i] != b[i] {
			return i
		}
	}
	return n
}

func appendString(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

func appendPath(b []byte, before, path string) []byte {
	n := shared(before, path)
	b = binary.AppendUvarint(b, uint64(n))
	return appendString(b, path[n:])
}

// appendNode adds the record of n to b. The ids it refers to are not in it: they follow in the page's own lists.
func appendNode(b []byte, c *recent, n *Node) []byte {
	var flags uint64
	set := func(bit uint64, on bool) {
		if on {
			flags |= bit
		}
	}
	set(flagOwner, n.UID == c.uid && n.GID == c.gid && n.User == c.user && n.Group == c.group)
	set(flagCtime, n.Ctime == n.Mtime)
	set(flagDevice, n.Device == c.device)
	set(flagLinks, n.Links > 1)
	set(flagXattrs, len(n.Xattrs) > 0)
	set(flagInline, len(n.Content.Inline) > 0)
	set(flagList, n.Content.List != nil)
	set(flagHoles, len(n.Holes) > 0)
	set(flagChanged, n.Changed)
	set(flagRecent, n.Recent)
	set(flagDatabase, n.Database)
	set(flagErr, n.Err != "")

	b = appendPath(b, c.path, n.Path)
	b = append(b, byte(n.Type))
	b = binary.AppendUvarint(b, flags)
	b = binary.AppendUvarint(b, uint64(n.Mode))
	if flags&flagOwner == 0 {
		b = binary.AppendUvarint(b, uint64(n.UID))
		b = binary.AppendUvarint(b, uint64(n.GID))
		b = appendString(b, n.User)
		b = appendString(b, n.Group)
	}
	b = binary.AppendVarint(b, n.Mtime.Sec-c.mtime)
	b = binary.AppendUvarint(b, uint64(n.Mtime.Nsec))
	if flags&flagCtime == 0 {
		b = binary.AppendVarint(b, n.Ctime.Sec-n.Mtime.Sec)
		b = binary.AppendUvarint(b, uint64(n.Ctime.Nsec))
	}
	b = binary.AppendVarint(b, int64(n.Inode-c.inode))
	if flags&flagDevice == 0 {
		b = binary.AppendUvarint(b, n.Device)
	}
	if flags&flagLinks != 0 {
		b = binary.AppendUvarint(b, n.Links)
	}
	switch n.Type {
	case File:
		b = binary.AppendUvarint(b, uint64(n.Size))
		if flags&flagHoles != 0 {
			b = binary.AppendUvarint(b, uint64(len(n.Holes)))
			var end int64
			for _, h := range n.Holes {
				b = binary.AppendUvarint(b, uint64(h.Offset-end))
				b = binary.AppendUvarint(b, uint64(h.Length))
				end = h.Offset + h.Length
			}
		}
		switch {
		case flags&flagInline != 0:
			b = append(b, n.Content.Inline...) // its length is what is no hole
		case flags&flagList == 0:
			b = binary.AppendUvarint(b, uint64(len(n.Content.Chunks)))
			for i := range len(n.Content.Chunks) - 1 {
				b = binary.AppendUvarint(b, uint64(n.Content.Sizes[i]))
			}
		}
	case Symlink:
		b = appendString(b, n.Target)
	case CharDevice, BlockDevice:
		b = binary.AppendUvarint(b, n.Rdev)
	}
	if flags&flagXattrs != 0 {
		b = binary.AppendUvarint(b, uint64(len(n.Xattrs)))
		for _, x := range n.Xattrs {
			b = appendString(b, x.Name)
			b = binary.AppendUvarint(b, uint64(len(x.Value)))
			b = append(b, x.Value...)
		}
	}
	if flags&flagErr != 0 {
		b = appendString(b, n.Err)
	}
	c.follow(n)
	return b
}

// reader takes a page apart. After the first fault all reads give zeros, and err is set.
type reader struct {
	b     []byte
	trees []repo.ID
	data  []repo.ID
	err   error
}

func (r *reader) fail(what string) {
	if r.err == nil {
		r.err = &firn.Error{Kind: firn.Corrupt, Op: "read file tree", Err: fmt.Errorf("a page has %s", what)}
	}
	r.b = nil
}

func (r *reader) uvarint() uint64 {
	v, n := binary.Uvarint(r.b)
	if n <= 0 {
		r.fail("a broken number")
		return 0
	}
	r.b = r.b[n:]
	return v
}

func (r *reader) varint() int64 {
	v, n := binary.Varint(r.b)
	if n <= 0 {
		r.fail("a broken number")
		return 0
	}
	r.b = r.b[n:]
	return v
}

// below reads a number of at most limit.
func (r *reader) below(limit uint64) uint64 {
	v := r.uvarint()
	if v > limit {
		r.fail("a number that is too large")
		return 0
	}
	return v
}

func (r *reader) bytes(n uint64) []byte {
	if n > uint64(len(r.b)) {
		r.fail("bytes missing")
		return nil
	}
	p := r.b[:n:n]
	r.b = r.b[n:]
	return p
}

func (r *reader) string(limit uint64) string { return string(r.bytes(r.below(limit))) }

func (r *reader) byte() byte {
	p := r.bytes(1)
	if p == nil {
		return 0
	}
	return p[0]
}

func (r *reader) takeData(n uint64) []repo.ID {
	if n > uint64(len(r.data)) {
		r.fail("fewer chunks than its nodes name")
		return nil
	}
	ids := r.data[:n:n]
	r.data = r.data[n:]
	return ids
}

func (r *reader) takeTree() *repo.ID {
	if len(r.trees) == 0 {
		r.fail("fewer pages than it refers to")
		return nil
	}
	id := &r.trees[0]
	r.trees = r.trees[1:]
	return id
}

// path reads a path that must come after the one before.
func (r *reader) path(before string) string {
	n := r.below(uint64(len(before)))
	suffix := r.bytes(r.below(maxPath))
	if r.err != nil {
		return ""
	}
	path := before[:n] + string(suffix)
	if !ValidPath(path) {
		r.fail("an impossible path")
		return ""
	}
	if before != "" && Compare(before, path) >= 0 {
		r.fail("paths out of order")
		return ""
	}
	return path
}

// node reads the next record. Slices of n point into the page.
func (r *reader) node(c *recent, n *Node) {
	*n = Node{Links: 1}
	n.Path = r.path(c.path)
	n.Type = Type(r.byte())
	flags := r.uvarint()
	n.Mode = uint32(r.below(0o7777))
	if flags&flagOwner == 0 {
		n.UID, n.GID = uint32(r.below(1<<32-1)), uint32(r.below(1<<32-1))
		n.User, n.Group = r.string(4096), r.string(4096)
	} else {
		n.UID, n.GID, n.User, n.Group = c.uid, c.gid, c.user, c.group
	}
	n.Mtime = Time{c.mtime + r.varint(), uint32(r.below(1e9 - 1))}
	n.Ctime = n.Mtime
	if flags&flagCtime == 0 {
		n.Ctime = Time{n.Mtime.Sec + r.varint(), uint32(r.below(1e9 - 1))}
	}
	n.Inode = c.inode + uint64(r.varint())
	n.Device = c.device
	if flags&flagDevice == 0 {
		n.Device = r.uvarint()
	}
	if flags&flagLinks != 0 {
		n.Links = max(r.uvarint(), 1)
	}
	switch n.Type {
	case File:
		r.content(flags, n)
	case Symlink:
		n.Target = r.string(maxPath)
	case CharDevice, BlockDevice:
		n.Rdev = r.uvarint()
	}
	if flags&flagXattrs != 0 {
		for range r.below(uint64(len(r.b))) {
			n.Xattrs = append(n.Xattrs, Xattr{r.string(4096), r.bytes(r.below(maxXattrs))})
			if r.err != nil {
				break
			}
		}
	}
	n.Changed, n.Recent, n.Database = flags&flagChanged != 0, flags&flagRecent != 0, flags&flagDatabase != 0
	if flags&flagErr != 0 {
		n.Err = r.string(maxErr)
	}
	if r.err == nil && !n.Type.valid() {
		r.fail("a node of an unknown type")
	}
	c.follow(n)
}

func (r *reader) content(flags uint64, n *Node) {
	n.Size = int64(r.below(1<<63 - 1))
	if flags&flagHoles != 0 {
		var end int64
		for range r.below(uint64(len(r.b))) {
			gap := int64(r.below(uint64(n.Size - end)))
			length := int64(r.below(uint64(n.Size - end - gap)))
			if length == 0 {
				r.fail("a hole of no length")
			}
			if r.err != nil {
				return
			}
			n.Holes = append(n.Holes, Hole{end + gap, length})
			end += gap + length
		}
	}
	stored := n.Stored()
	switch {
	case flags&flagInline != 0:
		n.Content.Inline = r.bytes(uint64(stored))
	case flags&flagList != 0:
		n.Content.List = r.takeTree()
	default:
		count := r.below(MaxChunks)
		n.Content.Chunks = r.takeData(count)
		if count > 1 {
			n.Content.Sizes = make([]uint32, count)
			left := stored
			for i := range count - 1 {
				size := int64(r.below(1<<32 - 1))
				n.Content.Sizes[i] = uint32(size)
				left -= size
			}
			if left <= 0 || left >= 1<<32 {
				r.fail("chunks that are not as long as their file")
			}
			n.Content.Sizes[count-1] = uint32(left)
		}
		if count == 0 && stored > 0 && flags&flagErr == 0 || count > 0 && stored == 0 {
			r.fail("a file without its chunks")
		}
	}
}

// page is a page taken apart.
type page struct {
	kind  byte
	nodes []Node
	refs  []ref     // of pageRefs
	ids   []repo.ID // of pageList and pageLists
	sizes []int64   // of ids, in bytes
}

// ref refers to a page.
type ref struct {
	first string // the path of the first node beneath it
	nodes uint64 // how many are beneath it
	id    repo.ID
}

// parsePage takes plain apart: a chunk of the kind Tree. The page keeps pointing into it.
func parsePage(plain []byte) (*page, error) {
	t, err := repo.ParseTree(plain)
	if err != nil {
		return nil, err
	}
	r := &reader{b: t.Payload, trees: t.Trees, data: t.Data}
	if v := r.byte(); r.err == nil && v != version {
		return nil, &firn.Error{
			Kind: firn.Unsupported, Op: "read file tree",
			Err: fmt.Errorf("it is of version %d, this firn knows %d: use a newer one", v, version),
		}
	}
	p := &page{kind: r.byte()}
	switch p.kind {
	case pageNodes:
		var c recent
		for len(r.b) > 0 {
			p.nodes = append(p.nodes, Node{})
			r.node(&c, &p.nodes[len(p.nodes)-1])
		}
	case pageRefs:
		path := ""
		for len(r.b) > 0 {
			path = r.path(path)
			f := ref{first: path, nodes: r.uvarint()}
			if id := r.takeTree(); id != nil {
				f.id = *id
			}
			p.refs = append(p.refs, f)
		}
	case pageList, pageLists:
		for len(r.b) > 0 {
			p.sizes = append(p.sizes, int64(r.below(1<<62)))
		}
		if p.kind == pageList {
			p.ids, r.data = r.data, nil
		} else {
			p.ids, r.trees = r.trees, nil
		}
		if len(p.ids) != len(p.sizes) {
			r.fail("a list that does not fit its chunks")
		}
	default:
		r.fail("an unknown kind")
	}
	if len(r.trees)+len(r.data) > 0 {
		r.fail("more chunks than its nodes name")
	}
	if r.err != nil {
		return nil, r.err
	}
	return p, nil
}
