package archive

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"firn"
	"firn/archive/scan"
	"firn/archive/tree"
	"firn/repo"
)

// A batch of content is what is loaded by one call, sorted by packs: large enough that each pack is read about once,
// small enough to be bounded, and smaller where nothing else is being loaded. maxOpen is how many files are kept open while
// further chunks of them are awaited.
const (
	batchChunks = 16 << 10
	fewChunks   = 1 << 10
	maxOpen     = 256
)

// contentWriter brings chunks to the files they belong to. One batch is loaded while the next is collected.
type contentWriter struct {
	t    *restore
	ids  []repo.ID
	refs []chunkRef

	loads chan contentBatch
	ended sync.WaitGroup
	mu    struct {
		sync.Mutex
		err error
	}
}

type contentBatch struct {
	ids  []repo.ID
	refs []chunkRef
}

// chunkRef is where a chunk goes: its offset is among the stored bytes of the file, holes left out.
type chunkRef struct {
	f      *restoredFile
	offset int64
	size   int64
	done   bool
}

// restoredFile is a file whose content is written.
type restoredFile struct {
	wanted
	fresh bool
	left  atomic.Int64 // chunks that are not written, and 1 until all are known
	mu    struct {
		sync.Mutex
		fd     int // -1 while it is not open
		users  int // of fd
		begun  bool
		failed error
	}
}

func newContentWriter(t *restore) *contentWriter {
	w := &contentWriter{t: t, loads: make(chan contentBatch)}
	w.ended.Go(func() {
		for b := range w.loads {
			if w.failure() == nil {
				w.stop(w.load(b))
			}
		}
	})
	return w
}

func (w *contentWriter) stop(err error) {
	if err == nil {
		return
	}
	w.mu.Lock()
	if w.mu.err == nil {
		w.mu.err = err
	}
	w.mu.Unlock()
}

func (w *contentWriter) failure() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.mu.err
}

// close writes what is left, unless err ended the restore already.
func (w *contentWriter) close(err error) error {
	if err == nil {
		w.send()
	}
	close(w.loads)
	w.ended.Wait()
	if err != nil {
		return nil // it is said already
	}
	return w.failure()
}

// offer hands over what was collected, if it is enough for the one who loads, who may have nothing to do.
func (w *contentWriter) offer() {
	switch n := len(w.ids); {
	case n >= batchChunks:
		w.send()
	case n >= fewChunks:
		select {
		case w.loads <- contentBatch{w.ids, w.refs}:
			w.ids, w.refs = nil, nil
		default:
		}
	}
}

func (w *contentWriter) send() {
	if len(w.ids) > 0 {
		w.loads <- contentBatch{w.ids, w.refs}
		w.ids, w.refs = nil, nil
	}
}

// file restores a regular file: at once where that needs no chunk.
func (w *contentWriter) file(parent int, n wanted) error {
	t := w.t
	if err := w.failure(); err != nil {
		return err
	}
	name := n.Name()
	f := &restoredFile{wanted: n}
	f.mu.fd = -1
	var m scan.Meta
	err := m.At(parent, name)
	what := EventNew
	switch {
	case errors.Is(err, unix.ENOENT):
		f.fresh = true
	case err != nil:
		return err
	case m.Type() == tree.File && m.Size == n.Size && m.Mtime == n.Mtime && !t.o.Checksum:
		t.count(n, EventUnchanged)
		t.o.Progress.Files.Add(1)
		t.o.Progress.Bytes.Add(n.Size)
		if t.o.DryRun {
			return nil
		}
		return t.metaUnchanged(parent, name, &m, n.Node)
	case m.Type() != tree.File || m.Links > 1:
		// A file with other names is not written to: those may belong to something else.
		what = EventModified
		f.fresh = true
		if !t.o.DryRun {
			if err := t.makeWay(parent, name, &m); err != nil {
				return err
			}
		}
	default:
		what = EventModified
	}
	if t.o.DryRun {
		if what == EventModified && t.o.Checksum {
			if same, err := t.sameContent(parent, name, n.Node); err == nil && same {
				what = EventUnchanged
			}
		}
		t.count(n, what)
		return nil
	}
	if n.Database && !t.o.DryRun {
		t.removeLogs(parent, name)
	}
	return w.chunks(parent, f, what)
}

// chunks writes or asks for what f is made of.
func (w *contentWriter) chunks(parent int, f *restoredFile, what string) error {
	t, n := w.t, f.Node
	f.left.Store(1)
	flags := unix.O_RDWR
	old := -1
	if !f.fresh {
		fd, err := unix.Openat(parent, n.Name(), flags|unix.O_NOFOLLOW|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
		if err != nil { // a running program, or a mode that forbids: a new file takes its place
			if err := unix.Unlinkat(parent, n.Name(), 0); err != nil {
				return err
			}
			f.fresh = true
		} else {
			old = fd
		}
	}
	same := old >= 0
	if old >= 0 {
		var st unix.Stat_t
		if err := unix.Fstat(old, &st); err != nil || st.Size != n.Size {
			same = false
			if err := unix.Ftruncate(old, n.Size); err != nil {
				_ = unix.Close(old)
				return err
			}
		}
		f.mu.fd, f.mu.begun = old, true
		t.open.Add(1)
	}
	var err error
	if len(n.Content.Inline) > 0 {
		f.left.Add(1)
		err = w.inline(parent, f, &same)
	} else {
		var buf []byte
		err = tree.Chunks(t.ctx, t.r, n, func(id repo.ID, offset, size int64) error {
			if size > repo.MaxChunk {
				return firn.NewError(firn.Corrupt, "a chunk is larger than any that is stored")
			}
			if old >= 0 {
				// What is there already is not loaded.
				if buf, err = readStored(old, n, buf, offset, size); err == nil {
					if sum, err := t.r.Sum(t.ctx, repo.Data, buf); err != nil {
						return err
					} else if sum == id {
						t.o.Progress.Bytes.Add(size)
						return nil
					}
				}
				same = false
			}
			f.left.Add(1)
			w.ids = append(w.ids, id)
			w.refs = append(w.refs, chunkRef{f: f, offset: offset, size: size})
			w.offer()
			return w.failure()
		})
	}
	if err == nil && old >= 0 && same {
		what = EventUnchanged
	}
	if err == nil && old >= 0 && len(n.Holes) > 0 {
		err = punch(old, n)
	}
	if err == nil && f.fresh && n.Stored() == 0 {
		err = f.write(t, parent, 0, nil) // an empty file, or one of holes only
	}
	if err != nil {
		f.fail(t, err)
		if firn.KindOf(err) != firn.Internal && firn.KindOf(err) != firn.Corrupt && firn.KindOf(err) != firn.NotFound {
			return err
		}
	} else {
		t.count(f.wanted, what)
	}
	return f.done(t)
}

// inline writes content that the node itself holds.
func (w *contentWriter) inline(parent int, f *restoredFile, same *bool) error {
	if !f.fresh {
		if p, err := readStored(f.mu.fd, f.Node, nil, 0, f.Stored()); err == nil && string(p) == string(f.Content.Inline) {
			f.left.Add(-1)
			return nil
		}
		*same = false
	}
	err := f.write(w.t, parent, 0, f.Content.Inline)
	f.left.Add(-1)
	return err
}

// load loads a batch and writes it. Where a chunk is lost or damaged, the files it belongs to fail, and no others.
func (w *contentWriter) load(b contentBatch) error {
	t := w.t
	fn := func(i int, data []byte) error { return w.put(&b.refs[i], data) }
	err := t.r.LoadMany(t.ctx, b.ids, fn)
	if k := firn.KindOf(err); err == nil || k != firn.Corrupt && k != firn.NotFound {
		return err
	}
	// One by one: slow, and only for a repository that is damaged.
	for i := range b.refs {
		ref := &b.refs[i]
		if ref.done {
			continue
		}
		err := t.r.LoadMany(t.ctx, b.ids[i:i+1], func(_ int, data []byte) error { return w.put(ref, data) })
		if k := firn.KindOf(err); k == firn.Corrupt || k == firn.NotFound {
			ref.f.fail(t, err)
			err = ref.f.done(t)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// put writes one chunk. It is called by several goroutines at once.
func (w *contentWriter) put(ref *chunkRef, data []byte) error {
	ref.done = true
	f, t := ref.f, w.t
	var err error
	if int64(len(data)) != ref.size {
		err = firn.NewError(firn.Corrupt, fmt.Sprintf("a chunk has %d bytes and not %d", len(data), ref.size))
	} else {
		err = f.write(t, -1, ref.offset, data)
	}
	if err != nil {
		if fatal(err) {
			return firn.E("restore", "/"+f.Path, err)
		}
		f.fail(t, err)
	}
	t.o.Progress.Bytes.Add(ref.size)
	return f.done(t)
}

// write puts p at offset of the stored bytes. parent is the open directory of the file, -1 where it has to be found.
func (f *restoredFile) write(t *restore, parent int, offset int64, p []byte) error {
	fd, release, err := f.acquire(t, parent)
	if err != nil {
		return err
	}
	defer release()
	t.written.Add(int64(len(p)))
	return eachRange(f.Node, offset, int64(len(p)), func(at, from, to int64) error {
		return pwrite(fd, p[from:to], at)
	})
}

// acquire opens the file where it is not open.
func (f *restoredFile) acquire(t *restore, parent int) (int, func(), error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.mu.failed != nil {
		return -1, nil, f.mu.failed
	}
	if f.mu.fd < 0 {
		flags := unix.O_WRONLY
		if !f.mu.begun {
			flags |= unix.O_CREAT | unix.O_EXCL
		}
		var err error
		if parent >= 0 {
			f.mu.fd, err = unix.Openat(parent, f.Name(), flags|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
		} else {
			f.mu.fd, err = openBeneath(t.root, f.rel, flags, 0o600)
		}
		if err != nil {
			f.mu.fd = -1
			return -1, nil, err
		}
		t.open.Add(1)
		if !f.mu.begun && (len(f.Holes) > 0 || len(f.Content.Chunks) > 1 || f.Content.List != nil) {
			// Chunks come in any order, and holes not at all.
			if err := setSize(f.mu.fd, f.Node); err != nil {
				return -1, nil, err
			}
		}
		f.mu.begun = true
	}
	f.mu.users++
	return f.mu.fd, func() { f.release(t) }, nil
}

// setSize gives a new file its size; and its blocks, where it has no holes and the file system can do that, so that writes
// into it need not wait for each other.
func setSize(fd int, n *tree.Node) error {
	if len(n.Holes) == 0 {
		if err := unix.Fallocate(fd, 0, 0, n.Size); err == nil || fatal(err) {
			return err
		}
	}
	return unix.Ftruncate(fd, n.Size)
}

// release closes the file for a while where too many are open.
func (f *restoredFile) release(t *restore) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.mu.users--; f.mu.users > 0 || t.open.Load() <= maxOpen {
		return
	}
	if err := unix.Close(f.mu.fd); err != nil && f.mu.failed == nil {
		f.mu.failed = err
	}
	f.mu.fd = -1
	t.open.Add(-1)
}

// fail gives up on the file. What there is of a new one is removed: it would look like the whole.
func (f *restoredFile) fail(t *restore, err error) {
	f.mu.Lock()
	first := f.mu.failed == nil
	f.mu.failed = err
	begun := f.mu.begun
	f.mu.Unlock()
	if !first {
		return
	}
	if f.fresh && begun {
		if fd, name, release, err := openParent(t.root, f.rel); err == nil {
			_ = unix.Unlinkat(fd, name, 0) // its time says that it is not the file
			release()
		}
	}
	t.fail(f.Node, err)
}

// done ends one chunk of the file, and with the last one the file.
func (f *restoredFile) done(t *restore) error {
	if f.left.Add(-1) > 0 {
		return nil
	}
	f.mu.Lock()
	fd, failed, begun := f.mu.fd, f.mu.failed, f.mu.begun
	f.mu.Unlock()
	var err error
	if fd < 0 {
		if !begun || failed != nil {
			return nil
		}
		if fd, err = openBeneath(t.root, f.rel, unix.O_WRONLY, 0); err != nil {
			t.fail(f.Node, err)
			return nil
		}
		t.open.Add(1)
	}
	if failed == nil {
		err = t.metaFd(fd, f.Node, f.fresh)
	}
	if cerr := unix.Close(fd); err == nil && cerr != nil && failed == nil {
		err = cerr // where a network file system tells that it could not write
	}
	t.open.Add(-1)
	t.o.Progress.Files.Add(1)
	if err != nil {
		if fatal(err) {
			return firn.E("restore", "/"+f.Path, err)
		}
		t.fail(f.Node, err)
	}
	return nil
}

// eachRange calls fn for the ranges of the file in which length stored bytes from offset lie: at is in the file, from
// and to are within the bytes.
func eachRange(n *tree.Node, offset, length int64, fn func(at, from, to int64) error) error {
	at, done := offset, int64(0)
	for _, h := range n.Holes {
		if h.Offset > at {
			if part := min(h.Offset-at, length-done); part > 0 {
				if err := fn(at, done, done+part); err != nil {
					return err
				}
				at, done = at+part, done+part
			}
		}
		if done == length {
			return nil
		}
		at += h.Length
	}
	if done < length {
		return fn(at, done, length)
	}
	return nil
}

// readStored reads stored bytes of a file of the target.
func readStored(fd int, n *tree.Node, buf []byte, offset, size int64) ([]byte, error) {
	if int64(cap(buf)) < size {
		buf = make([]byte, size)
	}
	buf = buf[:size]
	err := eachRange(n, offset, size, func(at, from, to int64) error {
		for p := buf[from:to]; len(p) > 0; {
			k, err := unix.Pread(fd, p, at)
			if err == unix.EINTR {
				continue
			}
			if err != nil {
				return err
			}
			if k == 0 {
				return errors.New("it is shorter")
			}
			p, at = p[k:], at+int64(k)
		}
		return nil
	})
	return buf, err
}

// punch makes the holes of n in a file that had something else there.
func punch(fd int, n *tree.Node) error {
	for _, h := range n.Holes {
		err := unix.Fallocate(fd, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, h.Offset, h.Length)
		if err == nil {
			continue
		}
		if !errors.Is(err, unix.EOPNOTSUPP) {
			return err
		}
		zeros := make([]byte, min(h.Length, 1<<20))
		for at := h.Offset; at < h.Offset+h.Length; {
			k, err := unix.Pwrite(fd, zeros[:min(int64(len(zeros)), h.Offset+h.Length-at)], at)
			if err != nil && err != unix.EINTR {
				return err
			}
			at += int64(max(k, 0))
		}
	}
	return nil
}

// metaUnchanged corrects what is beside the content of a file that is there.
func (t *restore) metaUnchanged(parent int, name string, m *scan.Meta, n *tree.Node) error {
	fd, err := unix.Openat(parent, name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return t.metaAt(parent, name, n)
	}
	defer unix.Close(fd)
	return t.metaFd(fd, n, false)
}

// removeLogs removes what SQLite keeps beside a database: it belongs to another state of it.
func (t *restore) removeLogs(parent int, name string) {
	for _, suffix := range logSuffixes {
		_ = unix.Unlinkat(parent, name+suffix, 0) // mostly there is none; the snapshot never has any
	}
}

// sameContent reports whether a file of the target has the content of n.
func (t *restore) sameContent(parent int, name string, n *tree.Node) (bool, error) {
	fd, err := unix.Openat(parent, name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return false, err
	}
	defer unix.Close(fd)
	return sameContent(t.ctx, t.r, fd, n)
}

var errDiffers = errors.New("differs")

// sameContent compares an open file with n, chunk by chunk, without loading any.
func sameContent(ctx context.Context, r *repo.Repo, fd int, n *tree.Node) (bool, error) {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return false, err
	}
	if st.Size != n.Size {
		return false, nil
	}
	if len(n.Content.Inline) > 0 {
		p, err := readStored(fd, n, nil, 0, n.Stored())
		return err == nil && string(p) == string(n.Content.Inline), err
	}
	var buf []byte
	err := tree.Chunks(ctx, r, n, func(id repo.ID, offset, size int64) error {
		var err error
		if buf, err = readStored(fd, n, buf, offset, size); err != nil {
			return err
		}
		sum, err := r.Sum(ctx, repo.Data, buf)
		if err == nil && sum != id {
			err = errDiffers
		}
		return err
	})
	if errors.Is(err, errDiffers) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	return zeroHoles(fd, n)
}

// zeroHoles reports whether what n has as holes reads as zeros.
func zeroHoles(fd int, n *tree.Node) (bool, error) {
	var buf []byte
	for _, h := range n.Holes {
		// Where the file has a hole too there is nothing to read.
		for at := h.Offset; at < h.Offset+h.Length; {
			data, err := unix.Seek(fd, at, unix.SEEK_DATA)
			if errors.Is(err, unix.ENXIO) || err == nil && data >= h.Offset+h.Length {
				break
			}
			if err == nil {
				at = data
			}
			if buf == nil {
				buf = make([]byte, 256<<10)
			}
			k, err := unix.Pread(fd, buf[:min(int64(len(buf)), h.Offset+h.Length-at)], at)
			if err != nil && err != unix.EINTR {
				return false, err
			}
			for _, c := range buf[:max(k, 0)] {
				if c != 0 {
					return false, nil
				}
			}
			if k == 0 {
				return false, nil
			}
			at += int64(max(k, 0))
		}
	}
	return true, nil
}
