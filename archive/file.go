package archive

import (
	"errors"
	"fmt"
	"io"
	"time"

	"golang.org/x/sys/unix"

	"firn/archive/scan"
	"firn/archive/tree"
	"firn/repo"
)

// smallFile is up to which size a file is read at once and becomes one chunk: the smallest that the chunker cuts.
const smallFile = 512 << 10

// attempts is how often a file that changes while it is read is begun anew.
const attempts = 3

// maxHoles is how many holes of a file are kept as such; the zeros of more are content, which costs little.
const maxHoles = 4096

// fileReader is what one goroutine keeps from file to file.
type fileReader struct {
	buf []byte
}

// file reads the content of it.node. An error is one of the repository, and ends the backup; one of the file is
// reported and kept in the node.
func (b *backup) file(f *fileReader, it *item) error {
	n := &it.node
	path := "/" + n.Path
	b.o.Progress.current.Store(&path)
	var counted int64
	for try := 1; ; try++ {
		moved, err := b.readFile(f, it, &counted)
		var broken *fileError
		switch {
		case errors.As(err, &broken):
			n.Content, n.Holes, n.Err = tree.Content{}, nil, reason(broken.err)
			b.problem(path, broken.err)
			return nil
		case err != nil:
			return err
		case !moved:
			return nil
		case try == attempts:
			n.Changed = true
			b.o.Report(Event{What: EventChanged, Path: path})
			return nil
		}
	}
}

// fileError is an error of the file that is read, not of the repository.
type fileError struct{ err error }

func (e *fileError) Error() string { return e.err.Error() }

// readFile reads the file once and reports whether it changed meanwhile. counted is what progress knows of it.
func (b *backup) readFile(f *fileReader, it *item, counted *int64) (moved bool, err error) {
	n := &it.node
	fd, err := scan.OpenIn(it.dir, n.Name())
	if err != nil {
		return false, &fileError{err}
	}
	defer unix.Close(fd)
	var m, after scan.Meta
	if err := m.Stat(fd); err != nil {
		return false, &fileError{err}
	}
	if m.Type() != tree.File {
		return false, &fileError{errors.New("it was replaced by something else while the backup ran")}
	}
	now := time.Now()
	n.Mode, n.UID, n.GID, n.Mtime, n.Ctime = m.Mode&0o7777, m.UID, m.GID, m.Mtime, m.Ctime
	n.Size, n.Inode, n.Device = m.Size, m.Inode, m.Device
	n.Recent = now.Add(-recentAfter).Before(time.Unix(m.Ctime.Sec, int64(m.Ctime.Nsec)))
	n.Content, n.Holes, n.Database = tree.Content{}, nil, false
	x, err := scan.XattrsOf(fd)
	if err != nil {
		b.o.Report(Event{EventWarning, "/" + n.Path, fmt.Errorf("extended attributes: %w", err)})
	}
	n.Xattrs = x
	if m.Size > 0 {
		if !b.o.CopyDatabases && m.Size >= 512 && isDatabase(fd) {
			return false, b.database(f, it, fd, &m, counted)
		}
		if err := b.content(f, n, fd, &m, counted); err != nil {
			return false, err
		}
	}
	if err := after.Stat(fd); err != nil {
		return false, &fileError{err}
	}
	return after.Size != m.Size || after.Mtime != m.Mtime || after.Ctime != m.Ctime, nil
}

// content reads what is in fd into n.
func (b *backup) content(f *fileReader, n *tree.Node, fd int, m *scan.Meta, counted *int64) error {
	if m.Blocks*512 < m.Size {
		n.Holes = holes(fd, m.Size)
	}
	if m.Size <= smallFile && n.Holes == nil {
		return b.small(f, n, fd, counted)
	}
	r := &extents{fd: fd, holes: n.Holes, end: m.Size, read: func(k int) { b.count(k, counted) }}
	var err error
	n.Content, err = b.stream(r)
	// What is missing at the end of a file that shrank was never there; the next try will see it.
	n.Size = r.off
	for len(n.Holes) > 0 && n.Holes[len(n.Holes)-1].Offset >= n.Size {
		n.Holes = n.Holes[:len(n.Holes)-1]
	}
	return err
}

// count adds what was read to the progress, once for each byte however often it is read.
func (b *backup) count(k int, counted *int64) {
	b.read.Add(int64(k))
	b.o.Progress.Bytes.Add(int64(k))
	*counted += int64(k)
}

// small reads a file of one chunk.
func (b *backup) small(f *fileReader, n *tree.Node, fd int, counted *int64) error {
	if f.buf == nil {
		f.buf = make([]byte, smallFile)
	}
	p, err := readFull(fd, f.buf[:n.Size])
	b.count(len(p), counted)
	if err != nil {
		return &fileError{err}
	}
	n.Size = int64(len(p))
	switch {
	case len(p) == 0:
	case len(p) <= MaxInline:
		n.Content.Inline = append([]byte(nil), p...)
	default:
		id, stored, err := b.s.Save(b.ctx, repo.Data, p)
		if err != nil {
			return err
		}
		b.stored.Add(int64(stored))
		n.Content.Chunks = []repo.ID{id}
	}
	return nil
}

// readFull reads until p is full or the file ends.
func readFull(fd int, p []byte) ([]byte, error) {
	n := 0
	for n < len(p) {
		k, err := unix.Read(fd, p[n:])
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return p[:n], err
		}
		if k == 0 {
			break
		}
		n += k
	}
	return p[:n], nil
}

// pending is a chunk on its way into the repository.
type pending struct {
	id   repo.ID
	size int
	err  error
	done chan struct{}
}

// stream cuts r into chunks and saves them, several at once.
func (b *backup) stream(r io.Reader) (tree.Content, error) {
	select {
	case b.large <- struct{}{}:
		defer func() { <-b.large }()
	case <-b.ctx.Done():
		return tree.Content{}, b.ctx.Err()
	}
	list := tree.NewListWriter(b.s)
	c := b.r.NewChunker(r)
	defer b.r.FreeChunker(c)
	var queue []*pending
	// finish waits for the first chunk of the queue.
	finish := func() error {
		p := queue[0]
		queue = queue[1:]
		<-p.done
		if p.err != nil {
			return p.err
		}
		return list.Add(b.ctx, p.id, p.size)
	}
	// However it ends, nobody may still hold a buffer of ours.
	defer func() {
		for _, p := range queue {
			<-p.done
		}
	}()
	for {
		var buf []byte
		select {
		case buf = <-b.buffers:
		case <-b.ctx.Done():
			return tree.Content{}, b.ctx.Err()
		}
		plain, err := c.Take(buf)
		if err != nil {
			b.buffers <- buf
			if errors.Is(err, io.EOF) {
				break
			}
			return tree.Content{}, err
		}
		p := &pending{size: len(plain), done: make(chan struct{})}
		queue = append(queue, p)
		go func() {
			var stored int
			p.id, stored, p.err = b.s.Save(b.ctx, repo.Data, plain)
			b.stored.Add(int64(stored))
			b.buffers <- plain
			close(p.done)
		}()
		for len(queue) > cap(b.buffers) {
			if err := finish(); err != nil {
				return tree.Content{}, err
			}
		}
	}
	for len(queue) > 0 {
		if err := finish(); err != nil {
			return tree.Content{}, err
		}
	}
	return list.Finish(b.ctx)
}

// extents reads the ranges of a file that are no holes, one after another, up to end.
type extents struct {
	fd    int
	holes []tree.Hole // those ahead
	off   int64
	end   int64
	read  func(int)
}

func (e *extents) Read(p []byte) (int, error) {
	if len(e.holes) > 0 && e.holes[0].Offset == e.off {
		e.off += e.holes[0].Length
		e.holes = e.holes[1:]
	}
	limit := e.end
	if len(e.holes) > 0 {
		limit = e.holes[0].Offset
	}
	if e.off >= limit {
		return 0, io.EOF // the next hole is where this one ended only at the file's end
	}
	p = p[:min(int64(len(p)), limit-e.off)]
	for {
		n, err := unix.Pread(e.fd, p, e.off)
		switch {
		case err == unix.EINTR:
			continue
		case err != nil:
			return 0, &fileError{err}
		case n == 0:
			e.end = e.off
			return 0, io.EOF
		}
		e.off += int64(n)
		e.read(n)
		return n, nil
	}
}

// holes returns the holes of a file of that size, nil where it has none or the system does not tell.
func holes(fd int, size int64) []tree.Hole {
	var all []tree.Hole
	for off := int64(0); off < size && len(all) < maxHoles; {
		hole, err := unix.Seek(fd, off, unix.SEEK_HOLE)
		if err != nil || hole >= size {
			break
		}
		data, err := unix.Seek(fd, hole, unix.SEEK_DATA)
		if err == unix.ENXIO {
			data = size
		} else if err != nil {
			break
		}
		data = min(data, size)
		if data > hole {
			all = append(all, tree.Hole{Offset: hole, Length: data - hole})
		}
		off = data
	}
	_, _ = unix.Seek(fd, 0, unix.SEEK_SET) // a small file is read from where it stands; a failure shows in its size
	return all
}
