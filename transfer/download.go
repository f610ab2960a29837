package transfer

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/minio/minio-go/v7"
	"golang.org/x/sync/errgroup"

	"firn"
)

// Sizes of a download, in bytes.
const (
	rangeSize    = 16 << 20 // of one ranged GET
	rangedFrom   = 2        // objects of more than so many ranges are read in ranges
	persistEvery = 64 << 20 // between two records of how far a download has come
	copyBuffer   = 256 << 10
)

// open starts to read an object from offset on. length -1 reads to its end. The object must still have etag
// where it is not empty.
func (c *Client) open(
	ctx context.Context, l Location, version, etag string, off, length int64,
) (io.ReadCloser, remoteObject, error) {
	o := minio.GetObjectOptions{VersionID: version, Checksum: off == 0 && length < 0}
	if etag != "" {
		if err := o.SetMatchETag(etag); err != nil {
			return nil, remoteObject{}, err
		}
	}
	if off > 0 || length > 0 {
		o.Set("Range", fmt.Sprintf("bytes=%d-", off))
		if length > 0 {
			o.Set("Range", fmt.Sprintf("bytes=%d-%d", off, off+length-1))
		}
	}
	body, info, h, err := c.core.GetObject(ctx, l.Bucket, l.Key, o)
	if err != nil {
		return nil, remoteObject{}, err
	}
	obj := newRemoteObject(l, version, info)
	obj.header = h
	if off > 0 || length > 0 {
		var from, to, total int64
		if _, err := fmt.Sscanf(h.Get("Content-Range"), "bytes %d-%d/%d", &from, &to, &total); err != nil || from != off {
			return nil, obj, errors.Join(firn.NewError(firn.Unsupported, "the server did not answer the range asked for"), body.Close())
		}
		obj.Size = total
	}
	return body, obj, nil
}

// objectReader reads an object once from offset to end, going on where a connection broke, and fails where the
// object was replaced meanwhile. It holds a request slot until it is closed.
type objectReader struct {
	c        *Client
	ctx      context.Context
	o        remoteObject
	at, end  int64
	failures int
	body     io.ReadCloser
	cancel   context.CancelFunc
	pulse    *pulse
	stalled  func() bool
	done     bool
}

// reader opens an object for reading bytes off to end. The first answer's metadata is in the reader's o.
// end -1 is the object's end.
func (c *Client) reader(ctx context.Context, l Location, version string, off, end int64) (*objectReader, error) {
	select {
	case c.slots <- struct{}{}:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	r := &objectReader{c: c, ctx: ctx, at: off, end: end, o: remoteObject{Location: l, VersionID: version}}
	if err := r.connect(); err != nil {
		r.Close()
		return nil, err
	}
	if r.end < 0 || r.end > r.o.Size {
		r.end = r.o.Size
	}
	return r, nil
}

// connect opens the body at the current offset, trying again as any request.
func (r *objectReader) connect() error {
	length := int64(-1)
	if r.end >= 0 {
		length = r.end - r.at
	}
	return r.c.retry(r.ctx, "get", r.o.String(), func(context.Context, *pulse) error {
		ctx, cancel := context.WithCancelCause(r.ctx)
		p := &pulse{stall: r.c.o.Stall, timer: time.AfterFunc(2*answerTimeout, func() { cancel(errStalled) })}
		body, o, err := r.c.open(ctx, r.o.Location, r.o.VersionID, r.o.ETag, r.at, length)
		if err != nil {
			p.timer.Stop()
			cancel(nil)
			return err
		}
		if r.o.ETag == "" {
			r.o = o
		}
		r.body, r.pulse = body, p
		r.cancel = func() { p.timer.Stop(); cancel(nil) }
		r.stalled = func() bool { return errors.Is(context.Cause(ctx), errStalled) }
		return nil
	})
}

func (r *objectReader) Read(p []byte) (int, error) {
	for {
		if r.at >= r.end {
			return 0, io.EOF
		}
		if r.body == nil {
			if err := r.connect(); err != nil {
				return 0, err
			}
		}
		r.pulse.beat()
		n, err := r.body.Read(p[:min(int64(len(p)), r.end-r.at)])
		r.at += int64(n)
		if n > 0 {
			r.failures = 0
			return n, nil // an error comes again with the next read
		}
		if err == nil {
			continue
		}
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		if r.stalled() {
			err = errStalled
		}
		r.disconnect()
		if r.ctx.Err() != nil {
			return 0, context.Cause(r.ctx)
		}
		if r.failures++; r.failures >= r.c.o.Attempts || !mayPass(err) {
			return 0, wrapError("get", r.o.String(), err)
		}
		if err := r.c.backoff(r.ctx, r.failures); err != nil {
			return 0, err
		}
	}
}

func (r *objectReader) disconnect() {
	if r.body != nil {
		r.cancel()
		_ = r.body.Close() // the bytes that were read count, not how the connection ends
		r.body = nil
	}
}

// Close ends the reading and gives the slot back.
func (r *objectReader) Close() error {
	if !r.done {
		r.done = true
		r.disconnect()
		<-r.c.slots
	}
	return nil
}

// target is a file to be written beneath a directory that nothing may leave.
type target struct {
	root *os.Root
	name string // system path beneath root
}

// partName is the name of the file that takes the bytes until all are there; it stays in the same directory,
// so that the rename is atomic, and is of fixed length, so that any name has one.
func (t target) partName() string {
	return filepath.Join(filepath.Dir(t.name), ".firn-"+stateName(filepath.Base(t.name))+".part")
}

func (t target) stateName() string { return t.partName() + ".json" }

// downloadState records how far a download of ranges has come.
type downloadState struct {
	Version  int    `json:"version"`
	Endpoint string `json:"endpoint"`
	Source   string `json:"source"`
	VersionI string `json:"version_id"`
	ETag     string `json:"etag"`
	Size     int64  `json:"size"`
	Done     int64  `json:"done"` // bytes from the start that are in the part file and synced
}

// downloadOptions modify a download.
type downloadOptions struct {
	version  string
	noVerify bool
	durable  bool // sync the directory too: the entry must survive a power loss
}

// downloadFile gets an object into a file. The file appears under its name only whole, verified and synced.
func (c *Client) downloadFile(
	ctx context.Context, from Location, size int64, t target, o downloadOptions, count func(int64),
) (res result, err error) {
	if dir := filepath.Dir(t.name); dir != "." {
		if err := t.root.MkdirAll(dir, 0o777); err != nil {
			return res, localError("make directory", dir, err)
		}
	}
	if fi, err := t.root.Lstat(t.name); err == nil && fi.IsDir() {
		return res, &firn.Error{Kind: firn.Conflict, Op: "write", Subject: t.name, Err: errors.New("a directory has this name")}
	}
	f, err := t.root.OpenFile(t.partName(), os.O_CREATE|os.O_RDWR, 0o666)
	if err != nil {
		return res, localError("write", t.name, err)
	}
	defer func() {
		if f != nil {
			err = errors.Join(err, f.Close())
		}
	}()
	if err := lockFile(f); err != nil {
		return res, firn.E("write", t.name, err)
	}
	var obj remoteObject
	if size > rangedFrom*c.ranges {
		obj, err = c.getRanges(ctx, from, t, f, o, &res, count)
	} else {
		obj, err = c.getStream(ctx, from, t, f, o, &res, count)
	}
	if err != nil {
		return res, err
	}
	if err := f.Sync(); err != nil {
		return res, localError("sync", t.name, err)
	}
	err = f.Close()
	f = nil
	if err != nil {
		return res, localError("close", t.name, err)
	}
	mtime := parseMtime(obj.info.UserMetadata[metaMtime])
	if mtime.IsZero() {
		mtime = obj.info.LastModified
	}
	if err := t.root.Chtimes(t.partName(), time.Time{}, mtime); err != nil {
		return res, localError("set time of", t.name, err)
	}
	if err := t.root.Rename(t.partName(), t.name); err != nil {
		return res, localError("rename to", t.name, err)
	}
	if err := removeIfThere(t.root, t.stateName()); err != nil {
		return res, err
	}
	if o.durable {
		d, err := t.root.Open(filepath.Dir(t.name))
		if err != nil {
			return res, localError("sync directory of", t.name, err)
		}
		if err := errors.Join(d.Sync(), d.Close()); err != nil {
			return res, localError("sync directory of", t.name, err)
		}
	}
	res.size, res.etag = obj.Size, obj.ETag
	return res, nil
}

// getStream gets a small object in one request. What an earlier run left is written over.
func (c *Client) getStream(
	ctx context.Context, from Location, t target, f *os.File, o downloadOptions, res *result, count func(int64),
) (obj remoteObject, err error) {
	defer func() {
		if err != nil { // nothing of so little is worth keeping
			err = errors.Join(err, removeIfThere(t.root, t.partName()))
		}
	}()
	if err := f.Truncate(0); err != nil {
		return obj, localError("write", t.name, err)
	}
	r, err := c.reader(ctx, from, o.version, 0, -1)
	if err != nil {
		return obj, err
	}
	obj = r.o
	v := &verifier{method: "size", size: obj.Size}
	if !o.noVerify {
		// The slot is given back first where the verifier must ask for the parts' sizes.
		if _, parts := partsOf(obj.ETag); parts > 1 {
			if err := r.Close(); err != nil {
				return obj, err
			}
			if v, err = c.newVerifier(ctx, &obj); err != nil {
				return obj, err
			}
			if r, err = c.reader(ctx, from, o.version, 0, -1); err != nil {
				return obj, err
			}
			if r.o.ETag != obj.ETag {
				return obj, errors.Join(firn.E("get", from.String(), errChanged), r.Close())
			}
		} else if v, err = c.newVerifier(ctx, &obj); err != nil {
			return obj, errors.Join(err, r.Close())
		}
	}
	defer r.Close()
	if _, err := io.CopyBuffer(struct{ io.Writer }{io.MultiWriter(f, v, countWriter(count))}, r, make([]byte, 64<<10)); err != nil {
		return obj, err
	}
	res.verified, err = v.check()
	return obj, firn.E("get", from.String(), err)
}

// countWriter counts bytes.
type countWriter func(int64)

func (c countWriter) Write(p []byte) (int, error) {
	c(int64(len(p)))
	return len(p), nil
}

// getRanges gets a large object in ranges, several at once, and goes on where an earlier run stopped. The
// bytes are hashed in order behind the ranges as they arrive, so that the check costs no time of its own.
func (c *Client) getRanges(
	ctx context.Context, from Location, t target, f *os.File, o downloadOptions, res *result, count func(int64),
) (obj remoteObject, err error) {
	if obj, err = c.head(ctx, from, o.version); err != nil {
		return obj, err
	}
	st := downloadState{
		Version: stateVersion, Endpoint: c.profile.Endpoint, Source: from.String(), VersionI: o.version,
		ETag: obj.ETag, Size: obj.Size,
	}
	st.Done = oldProgress(t, f, st)
	if err := f.Truncate(obj.Size); err != nil {
		return obj, localError("write", t.name, err)
	}
	if err := saveDownload(t, st); err != nil {
		return obj, err
	}
	res.resumed = st.Done
	if st.Done > 0 {
		count(st.Done)
	}
	v := &verifier{method: "size", size: obj.Size}
	if !o.noVerify {
		if v, err = c.newVerifier(ctx, &obj); err != nil {
			return obj, err
		}
	}
	start := st.Done
	front := newFrontier(start, obj.Size)
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() error { // the hasher; it also records progress
		return followFrontier(gctx, front, v, f, func(done int64) error {
			if err := f.Sync(); err != nil {
				return localError("sync", t.name, err)
			}
			st.Done = done
			return saveDownload(t, st)
		})
	})
	g.Go(func() error {
		ranges, rctx := errgroup.WithContext(gctx)
		ranges.SetLimit(c.o.Parallel)
		for off := start; off < obj.Size && rctx.Err() == nil; off += c.ranges {
			// A range far ahead of the frontier would only be fetched again after an interruption.
			if err := front.waitWithin(rctx, off, int64(2*c.o.Parallel+2)*c.ranges); err != nil {
				break
			}
			ranges.Go(func() error {
				end := min(off+c.ranges, obj.Size)
				if err := c.getRange(rctx, &obj, f, off, end, count); err != nil {
					return err
				}
				front.finish(off, end)
				return nil
			})
		}
		return ranges.Wait()
	})
	err = g.Wait()
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	if err != nil { // what is contiguous and synced is kept for the next run
		if serr := f.Sync(); serr == nil {
			st.Done = front.done()
			err = errors.Join(err, saveDownload(t, st))
		}
		return obj, err
	}
	if res.verified, err = v.check(); err != nil { // the next run must start from nothing
		return obj, errors.Join(firn.E("get", from.String(), err), removeIfThere(t.root, t.stateName()), removeIfThere(t.root, t.partName()))
	}
	return obj, nil
}

func (c *Client) getRange(ctx context.Context, o *remoteObject, f *os.File, off, end int64, count func(int64)) error {
	return c.do(ctx, "get", o.String(), func(ctx context.Context, p *pulse) error {
		// off grows over tries: what arrived is not asked for again.
		for off < end {
			body, _, err := c.open(ctx, o.Location, o.VersionID, o.ETag, off, end-off)
			if err != nil {
				return err
			}
			n, err := copyAt(f, off, body, end-off, p, count)
			off += n
			_ = body.Close() // the bytes that were read count, not how the connection ends
			if err != nil && (n == 0 || ctx.Err() != nil || !mayPass(err)) {
				return err
			}
		}
		return nil
	})
}

// copyAt copies up to n bytes of r to f from off on. A body that ends early is an error that may pass.
func copyAt(f *os.File, off int64, r io.Reader, n int64, p *pulse, count func(int64)) (done int64, err error) {
	buf := make([]byte, min(n, copyBuffer))
	for done < n {
		p.beat()
		k, err := r.Read(buf[:min(int64(len(buf)), n-done)])
		if k > 0 {
			if _, werr := f.WriteAt(buf[:k], off+done); werr != nil {
				return done, localError("write", f.Name(), werr)
			}
			done += int64(k)
			count(int64(k))
		}
		if err == io.EOF && done < n {
			return done, io.ErrUnexpectedEOF
		}
		if err != nil && done < n {
			return done, err
		}
	}
	return done, nil
}

// oldProgress returns how many bytes of f an earlier run of the same download left, 0 for none.
func oldProgress(t target, f *os.File, want downloadState) int64 {
	data, err := t.root.ReadFile(t.stateName())
	if err != nil || len(data) > maxStateFile {
		return 0
	}
	var old downloadState
	if json.Unmarshal(data, &old) != nil {
		return 0
	}
	done := old.Done
	old.Done = 0
	fi, err := f.Stat()
	if err != nil || old != want || done < 0 || done > want.Size || fi.Size() < done {
		return 0
	}
	return done
}

// saveDownload replaces the record. It is not synced: an older record is right too, only less far.
func saveDownload(t target, st downloadState) error {
	data, err := json.Marshal(st)
	if err != nil {
		return err
	}
	tmp := t.stateName() + ".new"
	if err := t.root.WriteFile(tmp, data, 0o600); err != nil {
		return localError("keep state of", t.name, err)
	}
	if err := t.root.Rename(tmp, t.stateName()); err != nil {
		return localError("keep state of", t.name, err)
	}
	return nil
}

func removeIfThere(root *os.Root, name string) error {
	if err := root.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return localError("remove", name, err)
	}
	return nil
}

// localError gives an error of the local file system its kind.
func localError(op, name string, err error) error {
	kind := firn.Internal
	switch {
	case errors.Is(err, fs.ErrNotExist):
		kind = firn.NotFound
	case errors.Is(err, fs.ErrPermission):
		kind = firn.Denied
	case isNoSpace(err):
		kind = firn.NoSpace
	case errors.Is(err, fs.ErrExist):
		kind = firn.Exists
	}
	var pe *fs.PathError
	if errors.As(err, &pe) { // its operation and path are named already
		err = pe.Err
	}
	return &firn.Error{Kind: kind, Op: op, Subject: name, Err: err}
}

// frontier tracks the contiguous part of what has arrived.
type frontier struct {
	mu struct {
		sync.Mutex
		at     int64
		ahead  map[int64]int64 // start to end of ranges that arrived before those in front of them
		change chan struct{}   // closed and replaced when at moves
	}
	end int64
}

func newFrontier(at, end int64) *frontier {
	f := &frontier{end: end}
	f.mu.at, f.mu.ahead, f.mu.change = at, map[int64]int64{}, make(chan struct{})
	return f
}

func (f *frontier) finish(off, end int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.mu.ahead[off] = end
	moved := false
	for {
		next, ok := f.mu.ahead[f.mu.at]
		if !ok {
			break
		}
		delete(f.mu.ahead, f.mu.at)
		f.mu.at, moved = next, true
	}
	if moved {
		close(f.mu.change)
		f.mu.change = make(chan struct{})
	}
}

func (f *frontier) done() int64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.mu.at
}

// wait returns the frontier once cond holds for it.
func (f *frontier) wait(ctx context.Context, cond func(at int64) bool) (int64, error) {
	for {
		f.mu.Lock()
		at, change := f.mu.at, f.mu.change
		f.mu.Unlock()
		if cond(at) {
			return at, nil
		}
		select {
		case <-change:
		case <-ctx.Done():
			return at, context.Cause(ctx)
		}
	}
}

func (f *frontier) waitWithin(ctx context.Context, off, distance int64) error {
	_, err := f.wait(ctx, func(at int64) bool { return off-at < distance })
	return err
}

// followFrontier hashes the file from its start on as it becomes contiguous, and calls persist now and then.
// It reads what an earlier run left too, so that bytes damaged since are found.
func followFrontier(ctx context.Context, f *frontier, v *verifier, file io.ReaderAt, persist func(done int64) error) error {
	buf := make([]byte, copyBuffer)
	saved := f.done()
	for at := int64(0); at < f.end; {
		front, err := f.wait(ctx, func(front int64) bool { return front > at })
		if err != nil {
			return err
		}
		for at < front {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			if v.h == nil { // nothing to hash: only the count matters
				v.n += front - at
				at = front
				continue
			}
			n, err := file.ReadAt(buf[:min(int64(len(buf)), front-at)], at)
			if n == 0 && err != nil {
				return err
			}
			if _, err := v.Write(buf[:n]); err != nil {
				return err
			}
			at += int64(n)
		}
		if front-saved >= persistEvery && front < f.end {
			if err := persist(front); err != nil {
				return err
			}
			saved = front
		}
	}
	return nil
}
