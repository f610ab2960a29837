package transfer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/minio/minio-go/v7"

	"firn"
)

// Status says how one thing of a command ended.
type Status string

// The statuses.
const (
	Done    Status = "done"
	Skipped Status = "skipped" // Reason says why; nothing was wrong
	Planned Status = "planned" // a dry run
	Failed  Status = "failed"
)

// Event is what a command did with one thing.
type Event struct {
	Op        string  `json:"op"` // "upload", "download", "copy", "stream", "delete", "make bucket", "remove bucket"
	Status    Status  `json:"status"`
	Source    string  `json:"source,omitempty"`
	Target    string  `json:"target,omitempty"`
	VersionID string  `json:"version_id,omitempty"`
	Size      int64   `json:"size"`
	Reason    string  `json:"reason,omitempty"`
	Verified  string  `json:"verified,omitempty"` // how the destination was checked: a checksum, etag, size, ...
	Resumed   int64   `json:"resumed_bytes,omitempty"`
	Removed   bool    `json:"source_removed,omitempty"` // by a move
	Seconds   float64 `json:"seconds"`
	Err       error   `json:"-"`
	Message   string  `json:"error,omitempty"`
}

// Progress counts while a command runs. All fields may be read at any time.
type Progress struct {
	Files, Bytes         atomic.Int64 // found so far
	FilesDone, BytesDone atomic.Int64 // done, skipped or failed; moved, or skipped
	Listed               atomic.Bool  // Files and Bytes are final
}

// Summary counts what a command did.
type Summary struct {
	Done    int64 `json:"done"`
	Skipped int64 `json:"skipped"`
	Failed  int64 `json:"failed"`
	Bytes   int64 `json:"bytes"` // of what was done
	Removed int64 `json:"removed,omitempty"`
}

// CopyOptions say how to copy.
type CopyOptions struct {
	ObjectOptions
	Recursive    bool
	Move         bool // remove each source after its destination was verified
	Filter       Filter
	SkipExisting bool      // leave what the destination has, whatever it is
	Update       bool      // leave what has the same size and is not older at the destination
	Checksum     bool      // leave what has the same size and content at the destination
	DryRun       bool      // report what would be done
	Follow       bool      // follow symbolic links of the local tree
	NoVerify     bool      // do not compare downloads with their checksums
	VersionID    string    // of a single object to read
	Stdin        io.Reader // what - reads
	StateDir     string    // directory for the state of uploads; "" keeps none
	Report       func(Event)
	Progress     *Progress
}

// errPartly is the error of a command of which some things failed, each reported.
type errPartly struct{ failed, all int64 }

func (e *errPartly) Error() string {
	return fmt.Sprintf("%d of %d failed", e.failed, e.all)
}

// copier is one run of Copy.
type copier struct {
	src, dst *Client
	o        CopyOptions
	states   *stateDir
	start    time.Time
	root     *os.Root // the target directory of downloads

	mu struct {
		sync.Mutex
		sum Summary
	}
}

// item is one thing to copy: from a location to a location.
type item struct {
	from Location
	size int64
	// Of a remote source, from the listing.
	etag     string
	modified time.Time
	// Of a local source.
	info fs.FileInfo

	to    Location
	local string // name beneath root of a download
}

// Copy copies each source to the destination and reports every file. With several sources, or one that is
// taken recursively, the destination is a directory or prefix: the tree beneath each source goes beneath it,
// a single file or object keeps its last name. src and dst may be nil where no location of that side is
// remote. The error tells that some, or the whole, failed.
func Copy(ctx context.Context, src, dst *Client, from []Location, to Location, o CopyOptions) (Summary, error) {
	c := &copier{src: src, dst: dst, o: o, states: &stateDir{o.StateDir}, start: time.Now()}
	if c.o.Progress == nil {
		c.o.Progress = &Progress{}
	}
	if c.o.Report == nil {
		c.o.Report = func(Event) {}
	}
	if err := c.check(from, to); err != nil {
		return Summary{}, err
	}
	err := c.run(ctx, from, to)
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.mu.sum
	if err == nil && s.Failed > 0 {
		err = &errPartly{s.Failed, s.Failed + s.Done + s.Skipped}
	}
	return s, err
}

func (c *copier) check(from []Location, to Location) error {
	bad := func(format string, a ...any) error {
		return &firn.Error{Kind: firn.Invalid, Op: "copy", Err: fmt.Errorf(format, a...)}
	}
	if len(from) == 0 {
		return bad("nothing to copy")
	}
	if to.Remote && to.Bucket == "" {
		return bad("the destination %s names no bucket", to)
	}
	for _, f := range from {
		switch {
		case f.Remote && f.Bucket == "":
			return bad("%s names no bucket", f)
		case !f.Remote && !to.Remote:
			return bad("one side must be an S3 location: s3://BUCKET/KEY")
		case (f.Std || to.Std) && (len(from) > 1 || c.o.Recursive || c.o.Move || c.o.DryRun):
			return bad("- stands for one stream, which cannot be recursive, moved or planned")
		case c.o.Recursive && c.sameBucket(f, to) && strings.HasPrefix(to.prefix(), f.prefix()):
			return bad("%s lies within %s", to, f)
		case f.Remote && f.Key == "" && !c.o.Recursive:
			return bad("%s is a bucket: give -r to copy what is in it", f)
		case f.Remote && !c.o.Recursive && strings.HasSuffix(f.Key, "/"):
			return bad("%s is a prefix: give -r to copy what is beneath it", f)
		}
	}
	if c.o.VersionID != "" && (len(from) > 1 || c.o.Recursive || !from[0].Remote || c.o.Move) {
		return bad("a version id goes with one object that is copied")
	}
	if _, err := c.o.partSize(0); err != nil {
		return err
	}
	return nil
}

// sameBucket reports whether both locations are in one bucket.
func (c *copier) sameBucket(a, b Location) bool {
	return a.Remote && b.Remote && a.Bucket == b.Bucket && c.src.same(c.dst)
}

func (c *copier) run(ctx context.Context, from []Location, to Location) error {
	switch {
	case from[0].Std:
		return c.fromStdin(ctx, to)
	case to.Std:
		return errors.New("copy to a stream is Cat's") // the caller's mistake: see Cat
	}
	if !to.Remote {
		var err error
		if to, err = c.openTarget(from, to); err != nil {
			return err
		}
		if c.root != nil {
			defer c.root.Close()
		}
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	items := make(chan item, 1024)
	var wg sync.WaitGroup
	parallel := c.client().o.Parallel
	for range parallel {
		wg.Go(func() {
			for it := range items {
				c.one(ctx, it)
			}
		})
	}
	err := c.plan(ctx, from, to, func(it item) error {
		c.o.Progress.Files.Add(1)
		c.o.Progress.Bytes.Add(it.size)
		select {
		case items <- it:
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	})
	close(items)
	c.o.Progress.Listed.Store(true)
	wg.Wait()
	if ctx.Err() != nil && err == nil {
		err = context.Cause(ctx)
	}
	return err
}

// client returns the side whose bounds hold.
func (c *copier) client() *Client {
	if c.dst != nil {
		return c.dst
	}
	return c.src
}

// openTarget makes the directory that downloads must not leave. For a single object it is the directory of
// the file; to then names the file in it.
func (c *copier) openTarget(from []Location, to Location) (Location, error) {
	dir := to.Path
	fi, err := os.Stat(to.Path)
	isDir := err == nil && fi.IsDir()
	into := c.o.Recursive || len(from) > 1 || isDir || os.IsPathSeparator(to.Path[len(to.Path)-1])
	if err == nil && !isDir && into {
		return to, &firn.Error{Kind: firn.Conflict, Op: "copy", Subject: to.Path, Err: errors.New("is not a directory")}
	}
	if err == nil && !isDir && !fi.Mode().IsRegular() {
		return to, &firn.Error{
			Kind: firn.Invalid, Op: "copy", Subject: to.Path,
			Err: errors.New("is not a regular file; - writes to the standard output"),
		}
	}
	name := ""
	if !into {
		dir, name = filepath.Split(to.Path)
		if dir == "" {
			dir = "."
		}
	}
	if c.o.DryRun {
		to.Path = filepath.Join(dir, name)
		if into {
			to.Path = dir + string(filepath.Separator)
		}
		return to, nil
	}
	if err := os.MkdirAll(dir, 0o777); err != nil {
		return to, localError("make directory", dir, err)
	}
	if c.root, err = os.OpenRoot(dir); err != nil {
		return to, localError("open directory", dir, err)
	}
	to.Path = filepath.Join(dir, name)
	if into {
		to.Path = dir + string(filepath.Separator)
	}
	return to, nil
}

// one copies one item and reports it. It never ends the run: the others go on.
func (c *copier) one(ctx context.Context, it item) {
	if ctx.Err() != nil {
		return
	}
	begin := time.Now()
	ev := Event{Op: c.opName(it), Source: it.from.String(), Target: it.to.String(), Size: it.size, Status: Done}
	moved := atomic.Int64{}
	count := func(n int64) {
		moved.Add(n)
		c.o.Progress.BytesDone.Add(n)
	}
	reason, err := c.skip(ctx, it)
	switch {
	case err != nil:
	case reason != "":
		ev.Status, ev.Reason = Skipped, reason
	case c.o.DryRun:
		ev.Status = Planned
	default:
		var res result
		res, err = c.transfer(ctx, it, &ev, count)
		if errors.Is(err, errDiffers) && ctx.Err() == nil { // once more: the bytes may have been damaged on the way
			res, err = c.transfer(ctx, it, &ev, func(int64) {})
		}
		ev.Verified, ev.Resumed = res.verified, res.resumed
		if err == nil {
			ev.Size = res.size
		}
	}
	if err != nil && ctx.Err() != nil {
		return // cut off by the end of the run: not a failure of this file
	}
	if ev.Err = err; err != nil {
		ev.Status = Failed
	}
	ev.Seconds = time.Since(begin).Seconds()
	c.o.Progress.BytesDone.Add(it.size - moved.Load())
	c.report(ev)
}

func (c *copier) report(ev Event) {
	if ev.Err != nil {
		ev.Message = ev.Err.Error()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	switch ev.Status {
	case Done, Planned:
		c.mu.sum.Done++
		c.mu.sum.Bytes += ev.Size
		if ev.Removed {
			c.mu.sum.Removed++
		}
	case Skipped:
		c.mu.sum.Skipped++
	case Failed:
		c.mu.sum.Failed++
	}
	c.o.Progress.FilesDone.Add(1)
	c.o.Report(ev)
}

// found reports a thing that the plan does not copy.
func (c *copier) found(source string, status Status, reason string, err error) {
	c.o.Progress.Files.Add(1)
	c.report(Event{Op: "copy", Source: source, Status: status, Reason: reason, Err: err})
}

func (c *copier) opName(it item) string {
	switch {
	case !it.from.Remote:
		return "upload"
	case !it.to.Remote:
		return "download"
	case c.src.same(c.dst):
		return "copy"
	}
	return "stream"
}

// transfer moves one item, and for a move removes its source once the destination is known to be right.
func (c *copier) transfer(ctx context.Context, it item, ev *Event, count func(int64)) (res result, err error) {
	switch ev.Op {
	case "upload":
		return c.upload(ctx, it, ev, count)
	case "download":
		res, err = c.src.downloadFile(ctx, it.from, it.size, target{c.root, it.local}, downloadOptions{
			version: c.o.VersionID, noVerify: c.o.NoVerify, durable: c.o.Move,
		}, count)
		if err == nil && c.o.Move && res.verified == "size" {
			res.verified, err = c.compare(ctx, it, res)
		}
	case "copy":
		res, err = c.serverCopy(ctx, it, count)
	default:
		res, err = c.stream(ctx, it, count)
	}
	if err == nil && c.o.Move {
		err = c.removeRemote(ctx, it.from, res.etag)
		ev.Removed = err == nil
	}
	return res, err
}

func (c *copier) upload(ctx context.Context, it item, ev *Event, count func(int64)) (res result, err error) {
	f, err := os.Open(it.from.Path)
	if err != nil {
		return res, localError("read", it.from.Path, err)
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return res, localError("read", it.from.Path, err)
	}
	if !fi.Mode().IsRegular() || it.info != nil && !os.SameFile(fi, it.info) {
		return res, firn.E("read", it.from.Path, errChanged)
	}
	res, err = c.dst.uploadFile(ctx, f, fi, it.to, c.o.ObjectOptions, c.states, count)
	if err != nil || !c.o.Move {
		return res, err
	}
	// The destination is asked once more, and the source must be what was read: only then may it go.
	o, err := c.dst.head(ctx, it.to, "")
	if err != nil {
		return res, err
	}
	if o.Size != res.size || o.ETag != res.etag {
		return res, firn.E("verify", it.to.String(), errChanged)
	}
	now, err := os.Lstat(it.from.Path)
	if err != nil {
		return res, localError("remove", it.from.Path, err)
	}
	if !c.o.Follow && !os.SameFile(now, fi) || unchanged(f, fi) != nil {
		return res, firn.E("remove", it.from.Path, errChanged)
	}
	if err := os.Remove(it.from.Path); err != nil {
		return res, localError("remove", it.from.Path, err)
	}
	ev.Removed = true
	return res, nil
}

// compare reads an object a second time and compares it with the file it was copied to, for a move of an
// object that has no checksum of its own.
func (c *copier) compare(ctx context.Context, it item, res result) (string, error) {
	f, err := c.root.Open(it.local)
	if err != nil {
		return "", localError("verify", it.local, err)
	}
	defer f.Close()
	r, err := c.src.reader(ctx, it.from, "", 0, -1)
	if err != nil {
		return "", err
	}
	defer r.Close()
	same, err := equalStreams(r, f)
	if err == nil && (!same || r.o.ETag != res.etag) {
		err = errDiffers
	}
	return "second read", firn.E("verify", it.from.String(), err)
}

func equalStreams(a, b io.Reader) (bool, error) {
	pa, pb := make([]byte, copyBuffer), make([]byte, copyBuffer)
	for {
		x, err := fillPart(a, pa, copyBuffer)
		if err != nil {
			return false, err
		}
		y, err := fillPart(b, pb, copyBuffer)
		if err != nil || string(x) != string(y) {
			return false, err
		}
		if len(x) == 0 {
			return true, nil
		}
	}
}

// removeRemote removes the source of a move where it is still what was copied.
func (c *copier) removeRemote(ctx context.Context, l Location, etag string) error {
	o, err := c.src.head(ctx, l, "")
	if err != nil {
		return err
	}
	if o.ETag != etag {
		return firn.E("remove", l.String(), errChanged)
	}
	return c.src.do(ctx, "remove", l.String(), func(ctx context.Context, _ *pulse) error {
		return c.src.core.RemoveObject(ctx, l.Bucket, l.Key, minio.RemoveObjectOptions{})
	})
}

// skip returns why an item need not be copied, "" where it must be.
func (c *copier) skip(ctx context.Context, it item) (string, error) {
	if !c.o.SkipExisting && !c.o.Update && !c.o.Checksum {
		return "", nil
	}
	var size int64
	var modified time.Time
	var remote remoteObject
	if it.to.Remote {
		o, err := c.dst.head(ctx, it.to, "")
		if firn.KindOf(err) == firn.NotFound {
			return "", nil
		}
		if err != nil {
			return "", err
		}
		remote, size, modified = o, o.Size, o.info.LastModified
		if t := parseMtime(o.info.UserMetadata[metaMtime]); !t.IsZero() {
			modified = t
		}
	} else {
		fi, err := c.statLocal(it)
		if errors.Is(err, fs.ErrNotExist) {
			return "", nil
		}
		if err != nil {
			return "", localError("stat", it.to.Path, err)
		}
		if !fi.Mode().IsRegular() {
			return "", nil
		}
		size, modified = fi.Size(), fi.ModTime()
	}
	switch {
	case c.o.SkipExisting:
		return "exists", nil
	case size != it.size:
		return "", nil
	case c.o.Checksum:
		same, err := c.same(ctx, it, &remote)
		if same {
			return "same content", err
		}
		return "", err
	}
	from := it.modified
	if it.info != nil {
		from = it.info.ModTime()
	} else if o, err := c.src.head(ctx, it.from, c.o.VersionID); err != nil {
		return "", err
	} else if t := parseMtime(o.info.UserMetadata[metaMtime]); !t.IsZero() {
		from = t
	}
	// Servers keep whole seconds where no time was kept with the object.
	if !modified.Truncate(time.Second).Before(from.Truncate(time.Second)) {
		return "same size and not older", nil
	}
	return "", nil
}

func (c *copier) statLocal(it item) (fs.FileInfo, error) {
	if c.root == nil {
		return os.Stat(it.to.Path)
	}
	return c.root.Stat(it.local)
}

// same compares source and destination of equal size by content.
func (c *copier) same(ctx context.Context, it item, dst *remoteObject) (bool, error) {
	switch {
	case !it.from.Remote:
		f, err := os.Open(it.from.Path)
		if err != nil {
			return false, localError("read", it.from.Path, err)
		}
		defer f.Close()
		return c.dst.sameContent(ctx, f, dst)
	case !it.to.Remote:
		o, err := c.src.head(ctx, it.from, c.o.VersionID)
		if err != nil {
			return false, err
		}
		var f fs.File
		if c.root == nil {
			f, err = os.Open(it.to.Path)
		} else {
			f, err = c.root.Open(it.local)
		}
		if err != nil {
			return false, localError("read", it.to.Path, err)
		}
		defer f.Close()
		return c.src.sameContent(ctx, f, &o)
	}
	o, err := c.src.head(ctx, it.from, c.o.VersionID)
	if err != nil || o.encrypted() || dst.encrypted() {
		return false, err
	}
	return sameObjects(&o, dst), nil
}

// sameObjects compares two objects by what the servers say of them.
func sameObjects(a, b *remoteObject) bool {
	if a.Size != b.Size {
		return false
	}
	for _, k := range []string{"sha256", "crc64nvme", "sha1", "crc32c", "crc32"} {
		x, y := a.header.Get("x-amz-checksum-"+k), b.header.Get("x-amz-checksum-"+k)
		if x != "" && y != "" && !strings.Contains(x+y, "-") {
			return x == y
		}
	}
	_, n := partsOf(a.ETag)
	return n >= 0 && a.ETag == b.ETag
}
