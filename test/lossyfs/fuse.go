package lossyfs

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// mounted is the state of one mount.
type mounted struct {
	dir    string
	server *fuse.Server
}

// Mount mounts the file system at dir, which must exist. It needs root and /dev/fuse.
func (f *FS) Mount(dir string) error {
	// The device is opened here and not by go-fuse, which lets its descriptor leak into programs the caller starts;
	// the mount would then outlive its end.
	fd, err := syscall.Open("/dev/fuse", syscall.O_RDWR|syscall.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("mount lossyfs: /dev/fuse: %w", err)
	}
	const maxWrite = 1 << 20
	opts := fmt.Sprintf("fd=%d,rootmode=40000,user_id=%d,group_id=%d,max_read=%d",
		fd, os.Geteuid(), os.Getegid(), maxWrite)
	if err := syscall.Mount("lossyfs", dir, "fuse.lossyfs", syscall.MS_NOSUID|syscall.MS_NODEV, opts); err != nil {
		syscall.Close(fd)
		return fmt.Errorf("mount lossyfs at %s: %w", dir, err)
	}
	raw := &rawFS{RawFileSystem: fuse.NewDefaultRawFileSystem(), f: f}
	raw.mu.nodes = map[uint64]*node{1: {inode: f.mu.root, lookups: 1}}
	raw.mu.dirs = map[uint64][]fuse.DirEntry{}
	server, err := fuse.NewServer(raw, fmt.Sprintf("/dev/fd/%d", fd), &fuse.MountOptions{
		MaxWrite: maxWrite, DisableXAttrs: true, DisableReadDirPlus: true, DisableSplice: true,
		Name: "lossyfs",
	})
	if err != nil {
		syscall.Close(fd)
		syscall.Unmount(dir, 0)
		return fmt.Errorf("mount lossyfs at %s: %w", dir, err)
	}
	f.mount = mounted{dir: dir, server: server}
	go server.Serve()
	if err := server.WaitMount(); err != nil {
		return fmt.Errorf("mount lossyfs at %s: %w", dir, err)
	}
	// Go polls files it opens. Were the kernel to ask this process for that while all its threads wait for the file
	// system, nobody would answer; go-fuse has a file by which the kernel learns not to ask.
	if fd, err := syscall.Open(filepath.Join(dir, ".go-fuse-epoll-hack"), syscall.O_RDONLY, 0); err == nil {
		unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
		syscall.Close(fd)
	}
	return nil
}

// Unmount ends the mount. It waits, up to ten seconds, for open files to be closed.
func (f *FS) Unmount() error {
	if f.mount.server == nil {
		return nil
	}
	deadline := time.Now().Add(10 * time.Second)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		err := syscall.Unmount(f.mount.dir, 0)
		if err == nil {
			break
		}
		if err != syscall.EBUSY || time.Now().After(deadline) {
			syscall.Unmount(f.mount.dir, syscall.MNT_DETACH)
			return fmt.Errorf("unmount %s: %w", f.mount.dir, err)
		}
		<-tick.C
	}
	f.mount.server.Wait()
	f.mount = mounted{}
	return nil
}

// node is an inode the kernel knows, with the number of its references.
type node struct {
	inode   *inode
	lookups uint64
}

// rawFS answers the kernel for one mount of an FS.
type rawFS struct {
	fuse.RawFileSystem
	f  *FS
	mu struct {
		sync.RWMutex // taken after FS.mu
		nodes        map[uint64]*node
		dirs         map[uint64][]fuse.DirEntry // open directories
		nextDir      uint64
	}
}

func (r *rawFS) String() string { return "lossyfs" }

// inode returns the inode of a node id, or nil.
func (r *rawFS) inode(id uint64) *inode {
	r.mu.RLock()
	defer r.mu.RUnlock()
	if n := r.mu.nodes[id]; n != nil {
		return n.inode
	}
	return nil
}

// begin locks the file system for a change and returns the inodes of ids, or a status that is not OK and no lock.
func (r *rawFS) begin(ids ...uint64) ([]*inode, fuse.Status) {
	r.f.mu.Lock()
	inodes, status := r.resolve(ids)
	if !status.Ok() {
		r.f.mu.Unlock()
	}
	return inodes, status
}

func (r *rawFS) resolve(ids []uint64) ([]*inode, fuse.Status) {
	if r.f.mu.off {
		return nil, fuse.EIO
	}
	inodes := make([]*inode, len(ids))
	for i, id := range ids {
		if inodes[i] = r.inode(id); inodes[i] == nil {
			return nil, fuse.Status(syscall.ESTALE)
		}
	}
	return inodes, fuse.OK
}

// attrTTL is how long the kernel may keep what it knows: nobody else changes this file system.
const attrTTL = time.Minute

func fill(a *fuse.Attr, n *inode) {
	a.Ino, a.Nlink, a.Blksize = n.id, uint32(max(n.links, 0)), pageSize
	a.SetTimes(nil, &n.mtime, &n.mtime)
	if n.dir {
		a.Mode = syscall.S_IFDIR | n.mode
		return
	}
	a.Mode, a.Size, a.Blocks = syscall.S_IFREG|n.mode, uint64(n.live.size), uint64(n.live.size+511)/512
}

// entry tells the kernel about an inode and counts the reference it now holds. The caller holds FS.mu.
func (r *rawFS) entry(n *inode, out *fuse.EntryOut) {
	out.NodeId, out.Generation = n.id, 1
	out.SetEntryTimeout(attrTTL)
	out.SetAttrTimeout(attrTTL)
	fill(&out.Attr, n)
	r.mu.Lock()
	defer r.mu.Unlock()
	if known := r.mu.nodes[n.id]; known != nil {
		known.lookups++
	} else {
		r.mu.nodes[n.id] = &node{inode: n, lookups: 1}
	}
}

func (r *rawFS) Lookup(_ <-chan struct{}, h *fuse.InHeader, name string, out *fuse.EntryOut) fuse.Status {
	in, status := r.begin(h.NodeId)
	if !status.Ok() {
		return status
	}
	defer r.f.mu.Unlock()
	n := in[0].entries[name]
	if n == nil {
		return fuse.ENOENT
	}
	r.entry(n, out)
	return fuse.OK
}

func (r *rawFS) Forget(id, lookups uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := r.mu.nodes[id]
	if n == nil {
		return
	}
	if n.lookups -= min(lookups, n.lookups); n.lookups == 0 && id != 1 {
		delete(r.mu.nodes, id)
	}
}

func (r *rawFS) GetAttr(_ <-chan struct{}, in *fuse.GetAttrIn, out *fuse.AttrOut) fuse.Status {
	inodes, status := r.begin(in.NodeId)
	if !status.Ok() {
		return status
	}
	defer r.f.mu.Unlock()
	out.SetTimeout(attrTTL)
	fill(&out.Attr, inodes[0])
	return fuse.OK
}

func (r *rawFS) SetAttr(_ <-chan struct{}, in *fuse.SetAttrIn, out *fuse.AttrOut) fuse.Status {
	inodes, status := r.begin(in.NodeId)
	if !status.Ok() {
		return status
	}
	defer r.f.mu.Unlock()
	n := inodes[0]
	if size, ok := in.GetSize(); ok {
		if n.dir {
			return fuse.Status(syscall.EISDIR)
		}
		n.truncate(int64(size))
	}
	if mode, ok := in.GetMode(); ok {
		n.mode = mode
	}
	if t, ok := in.GetMTime(); ok {
		n.mtime = t
	}
	out.SetTimeout(attrTTL)
	fill(&out.Attr, n)
	return fuse.OK
}

// make adds a new inode to a directory. The caller holds FS.mu.
func (r *rawFS) make(dir *inode, name string, mode uint32, isDir bool) (*inode, fuse.Status) {
	if dir.entries[name] != nil {
		return nil, fuse.Status(syscall.EEXIST)
	}
	if !dir.dir {
		return nil, fuse.ENOTDIR
	}
	n := &inode{id: r.f.mu.nextID, dir: isDir, mode: mode & 0o7777, mtime: time.Now()}
	r.f.mu.nextID++
	if isDir {
		n.entries, n.kept = map[string]*inode{}, map[string]*inode{}
	}
	r.f.change(edit{dir: dir, name: name, to: n})
	return n, fuse.OK
}

func (r *rawFS) Mknod(_ <-chan struct{}, in *fuse.MknodIn, name string, out *fuse.EntryOut) fuse.Status {
	if in.Mode&syscall.S_IFMT != syscall.S_IFREG {
		return fuse.ENOSYS
	}
	return r.makeEntry(in.NodeId, name, in.Mode, false, out)
}

func (r *rawFS) Mkdir(_ <-chan struct{}, in *fuse.MkdirIn, name string, out *fuse.EntryOut) fuse.Status {
	return r.makeEntry(in.NodeId, name, in.Mode, true, out)
}

func (r *rawFS) makeEntry(dir uint64, name string, mode uint32, isDir bool, out *fuse.EntryOut) fuse.Status {
	inodes, status := r.begin(dir)
	if !status.Ok() {
		return status
	}
	defer r.f.mu.Unlock()
	n, status := r.make(inodes[0], name, mode, isDir)
	if status.Ok() {
		r.entry(n, out)
	}
	return status
}

func (r *rawFS) Create(_ <-chan struct{}, in *fuse.CreateIn, name string, out *fuse.CreateOut) fuse.Status {
	inodes, status := r.begin(in.NodeId)
	if !status.Ok() {
		return status
	}
	defer r.f.mu.Unlock()
	n, status := r.make(inodes[0], name, in.Mode, false)
	if !status.Ok() {
		return status
	}
	r.entry(n, &out.EntryOut)
	out.OpenFlags = openFlags
	return fuse.OK
}

func (r *rawFS) Unlink(_ <-chan struct{}, h *fuse.InHeader, name string) fuse.Status {
	return r.remove(h.NodeId, name, false)
}

func (r *rawFS) Rmdir(_ <-chan struct{}, h *fuse.InHeader, name string) fuse.Status {
	return r.remove(h.NodeId, name, true)
}

func (r *rawFS) remove(dir uint64, name string, isDir bool) fuse.Status {
	inodes, status := r.begin(dir)
	if !status.Ok() {
		return status
	}
	defer r.f.mu.Unlock()
	switch n := inodes[0].entries[name]; {
	case n == nil:
		return fuse.ENOENT
	case n.dir != isDir && isDir:
		return fuse.ENOTDIR
	case n.dir != isDir:
		return fuse.Status(syscall.EISDIR)
	case isDir && len(n.entries) > 0:
		return fuse.Status(syscall.ENOTEMPTY)
	}
	r.f.change(edit{dir: inodes[0], name: name})
	return fuse.OK
}

func (r *rawFS) Rename(_ <-chan struct{}, in *fuse.RenameIn, oldName, newName string) fuse.Status {
	if in.Flags&^unix.RENAME_NOREPLACE != 0 {
		return fuse.EINVAL
	}
	inodes, status := r.begin(in.NodeId, in.Newdir)
	if !status.Ok() {
		return status
	}
	defer r.f.mu.Unlock()
	from, to := inodes[0], inodes[1]
	n, old := from.entries[oldName], to.entries[newName]
	switch {
	case n == nil:
		return fuse.ENOENT
	case old == n:
		return fuse.OK
	case old != nil && in.Flags&unix.RENAME_NOREPLACE != 0:
		return fuse.Status(syscall.EEXIST)
	case old != nil && old.dir && len(old.entries) > 0:
		return fuse.Status(syscall.ENOTEMPTY)
	case old != nil && old.dir != n.dir:
		return fuse.Status(syscall.EINVAL)
	}
	r.f.change(edit{dir: to, name: newName, to: n}, edit{dir: from, name: oldName})
	return fuse.OK
}

func (r *rawFS) Link(_ <-chan struct{}, in *fuse.LinkIn, name string, out *fuse.EntryOut) fuse.Status {
	inodes, status := r.begin(in.NodeId, in.Oldnodeid)
	if !status.Ok() {
		return status
	}
	defer r.f.mu.Unlock()
	dir, n := inodes[0], inodes[1]
	switch {
	case n.dir:
		return fuse.EPERM
	case dir.entries[name] != nil:
		return fuse.Status(syscall.EEXIST)
	}
	r.f.change(edit{dir: dir, name: name, to: n})
	r.entry(n, out)
	return fuse.OK
}

func (r *rawFS) Access(_ <-chan struct{}, _ *fuse.AccessIn) fuse.Status { return fuse.OK }

// openFlags keep the kernel from caching bytes: what a program wrote and read went through this file system.
const openFlags = fuse.FOPEN_DIRECT_IO | fuse.FOPEN_PARALLEL_DIRECT_WRITES

func (r *rawFS) Open(_ <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	inodes, status := r.begin(in.NodeId)
	if !status.Ok() {
		return status
	}
	defer r.f.mu.Unlock()
	if in.Flags&syscall.O_TRUNC != 0 {
		inodes[0].truncate(0)
	}
	out.OpenFlags = openFlags
	return fuse.OK
}

func (r *rawFS) Read(_ <-chan struct{}, in *fuse.ReadIn, buf []byte) (fuse.ReadResult, fuse.Status) {
	r.f.mu.RLock()
	defer r.f.mu.RUnlock()
	inodes, status := r.resolve([]uint64{in.NodeId})
	if !status.Ok() {
		return nil, status
	}
	return fuse.ReadResultData(buf[:inodes[0].read(buf, int64(in.Offset))]), fuse.OK
}

func (r *rawFS) Write(_ <-chan struct{}, in *fuse.WriteIn, data []byte) (uint32, fuse.Status) {
	inodes, status := r.begin(in.NodeId)
	if !status.Ok() {
		return 0, status
	}
	n := inodes[0]
	n.write(data, int64(in.Offset))
	r.f.mu.Unlock()
	if in.Flags&(syscall.O_SYNC|syscall.O_DSYNC) != 0 {
		if errno := r.f.syncFile(n); errno != 0 {
			return 0, fuse.Status(errno)
		}
	}
	return uint32(len(data)), fuse.OK
}

func (r *rawFS) Writev(_ <-chan struct{}, _ *fuse.WriteIn, _ [][]byte) (uint32, fuse.Status) {
	return 0, fuse.ENOSYS // go-fuse then calls Write
}

func (r *rawFS) Lseek(_ <-chan struct{}, _ *fuse.LseekIn, _ *fuse.LseekOut) fuse.Status {
	return fuse.ENOSYS // the kernel then takes files to have no holes
}

func (r *rawFS) Flush(_ <-chan struct{}, _ *fuse.FlushIn) fuse.Status { return fuse.OK }

func (r *rawFS) Release(_ <-chan struct{}, _ *fuse.ReleaseIn) {}

func (r *rawFS) Fsync(_ <-chan struct{}, in *fuse.FsyncIn) fuse.Status {
	inodes, status := r.begin(in.NodeId)
	if !status.Ok() {
		return status
	}
	r.f.mu.Unlock()
	return fuse.Status(r.f.syncFile(inodes[0]))
}

func (r *rawFS) FsyncDir(_ <-chan struct{}, in *fuse.FsyncIn) fuse.Status {
	inodes, status := r.begin(in.NodeId)
	if !status.Ok() {
		return status
	}
	r.f.mu.Unlock()
	return fuse.Status(r.f.syncDir(inodes[0]))
}

func (r *rawFS) Fallocate(_ <-chan struct{}, in *fuse.FallocateIn) fuse.Status {
	inodes, status := r.begin(in.NodeId)
	if !status.Ok() {
		return status
	}
	defer r.f.mu.Unlock()
	n := inodes[0]
	switch in.Mode {
	case 0:
		if size := int64(in.Offset + in.Length); size > n.live.size {
			n.truncate(size)
		}
	case unix.FALLOC_FL_KEEP_SIZE:
	case unix.FALLOC_FL_PUNCH_HOLE | unix.FALLOC_FL_KEEP_SIZE:
		n.zero(int64(in.Offset), int64(in.Length))
	default:
		return fuse.Status(syscall.EOPNOTSUPP)
	}
	return fuse.OK
}

func (r *rawFS) OpenDir(_ <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	inodes, status := r.begin(in.NodeId)
	if !status.Ok() {
		return status
	}
	defer r.f.mu.Unlock()
	list := []fuse.DirEntry{
		{Name: ".", Mode: syscall.S_IFDIR, Ino: inodes[0].id}, {Name: "..", Mode: syscall.S_IFDIR, Ino: 1},
	}
	for _, name := range slices.Sorted(maps.Keys(inodes[0].entries)) {
		n := inodes[0].entries[name]
		mode := uint32(syscall.S_IFREG)
		if n.dir {
			mode = syscall.S_IFDIR
		}
		list = append(list, fuse.DirEntry{Name: name, Mode: mode, Ino: n.id})
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.mu.nextDir++
	out.Fh = r.mu.nextDir
	r.mu.dirs[out.Fh] = list
	return fuse.OK
}

func (r *rawFS) ReadDir(_ <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	r.mu.RLock()
	list := r.mu.dirs[in.Fh]
	r.mu.RUnlock()
	for i := in.Offset; i < uint64(len(list)); i++ {
		e := list[i]
		e.Off = i + 1
		if !out.AddDirEntry(e) {
			break
		}
	}
	return fuse.OK
}

func (r *rawFS) ReleaseDir(in *fuse.ReleaseIn) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.mu.dirs, in.Fh)
}

func (r *rawFS) StatFs(_ <-chan struct{}, _ *fuse.InHeader, out *fuse.StatfsOut) fuse.Status {
	const blocks = 1 << 24 // 64 GiB, of which nothing is ever shown as used
	*out = fuse.StatfsOut{
		Blocks: blocks, Bfree: blocks, Bavail: blocks, Files: 1 << 24, Ffree: 1 << 24, Bsize: pageSize,
		Frsize: pageSize, NameLen: 255,
	}
	return fuse.OK
}
