// Package blobs owns the directory of blob files: immutable runs of stored bytes named by random ids.
//
// It promises that the name of a file handed out for writing is durable already, so that a writer needs one
// fsync of the file and none of the directory; that every file not yet named by a record is on a durable list
// kept through the Ledger, so that a crash leaves no file nobody knows; and that a file in use by a reader is
// not removed. It must never know what the bytes mean.
package blobs

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"sync"

	"firn/vfs"
)

// ID names a blob.
type ID [16]byte

func (id ID) String() string { return hex.EncodeToString(id[:]) }

// Ledger is the durable list of blobs that may exist as files without a record. A record that takes a blob
// over removes it from the list in its own transaction.
type Ledger interface {
	// Opening adds ids to the list and removes done from it, durably.
	Opening(ctx context.Context, ids, done []ID) error
}

// batch is the number of files made ahead at a time: one commit and one directory sync for all.
const batch = 32

// File is a new blob being written.
type File struct {
	vfs.File
	ID ID
}

// Dir is the directory. All methods may be called concurrently.
type Dir struct {
	fs     vfs.FS
	path   string
	ledger Ledger

	refill sync.Mutex // held while files are made; I/O happens under it, mu never waits for it
	wg     sync.WaitGroup
	mu     struct {
		sync.Mutex
		ready   []File
		filling bool
		closed  bool
		done    []ID // removed files, to be taken off the list with the next refill
		pins    map[ID]int
	}
}

// Open prepares the directory at path, with its 256 fan-out directories durable.
func Open(fsys vfs.FS, path string, ledger Ledger) (*Dir, error) {
	d := &Dir{fs: fsys, path: path, ledger: ledger}
	d.mu.pins = map[ID]int{}
	if err := vfs.MkdirAllSync(fsys, path, 0o700); err != nil {
		return nil, err
	}
	names, err := fsys.List(path)
	if err != nil {
		return nil, err
	}
	have := make(map[string]bool, len(names))
	for _, n := range names {
		have[n] = true
	}
	for i := range 256 {
		if name := fmt.Sprintf("%02x", i); !have[name] {
			if err := fsys.MkdirAll(fsys.PathJoin(path, name), 0o700); err != nil {
				return nil, err
			}
		}
	}
	// Also where nothing was missing: the process that made them may have ended before this.
	return d, vfs.SyncDir(fsys, path)
}

func (d *Dir) dirOf(id ID) string { return d.fs.PathJoin(d.path, hex.EncodeToString(id[:1])) }

// Path returns the path of a blob's file.
func (d *Dir) Path(id ID) string { return d.fs.PathJoin(d.dirOf(id), id.String()) }

// Create returns a new empty file whose name is durable. The caller writes and syncs it, closes it (and may set
// File to nil then), and either has a record take it over or calls Discard.
func (d *Dir) Create(ctx context.Context) (File, error) {
	for {
		d.mu.Lock()
		if d.mu.closed {
			d.mu.Unlock()
			return File{}, fs.ErrClosed
		}
		if n := len(d.mu.ready); n > 0 {
			f := d.mu.ready[n-1]
			d.mu.ready = d.mu.ready[:n-1]
			if n-1 < batch/2 && !d.mu.filling {
				d.mu.filling = true
				d.wg.Go(func() {
					// A failure shows when a caller finds nothing ready and fills itself.
					_ = d.fill(context.WithoutCancel(ctx))
					d.mu.Lock()
					d.mu.filling = false
					d.mu.Unlock()
				})
			}
			d.mu.Unlock()
			return f, nil
		}
		d.mu.Unlock()
		if err := d.fill(ctx); err != nil {
			return File{}, err
		}
	}
}

// fill makes one batch of files in one fan-out directory. The list is durable before the first file exists,
// the names are durable before a file is handed out.
func (d *Dir) fill(ctx context.Context) error {
	d.refill.Lock()
	defer d.refill.Unlock()
	d.mu.Lock()
	if len(d.mu.ready) >= batch/2 || d.mu.closed {
		d.mu.Unlock()
		return nil
	}
	done := d.mu.done
	d.mu.done = nil
	d.mu.Unlock()

	ids := make([]ID, batch)
	for i := range ids {
		if _, err := rand.Read(ids[i][:]); err != nil {
			return err
		}
		ids[i][0] = ids[0][0]
	}
	// A file may leave the list only when a crash cannot bring it back.
	err := d.SyncDirs(done)
	if err == nil {
		err = d.ledger.Opening(ctx, ids, done)
	}
	if err != nil {
		d.forget(done...)
		return err
	}
	files := make([]File, 0, batch)
	for _, id := range ids {
		f, err := d.fs.Create(d.Path(id), vfs.CategoryPart)
		if err != nil {
			d.drop(files, ids)
			return err
		}
		files = append(files, File{File: f, ID: id})
	}
	if err := vfs.SyncDir(d.fs, d.dirOf(ids[0])); err != nil {
		d.drop(files, ids)
		return err
	}
	d.mu.Lock()
	if !d.mu.closed {
		d.mu.ready = append(d.mu.ready, files...)
		files = nil
	}
	d.mu.Unlock()
	for _, f := range files {
		_ = f.Close() // empty; the next start removes it
	}
	return nil
}

func (d *Dir) drop(files []File, ids []ID) {
	for _, f := range files {
		_ = f.Close()
	}
	for _, id := range ids {
		// What cannot be removed now stays on the list and is removed at the next start.
		if err := d.Remove(id); err == nil {
			d.forget(id)
		}
	}
}

func (d *Dir) forget(ids ...ID) {
	d.mu.Lock()
	d.mu.done = append(d.mu.done, ids...)
	d.mu.Unlock()
}

// Discard removes a file that no record took over, and closes it unless f.File is nil.
func (d *Dir) Discard(f File) {
	if f.File != nil {
		_ = f.Close() // its bytes are not wanted
	}
	if d.Remove(f.ID) == nil {
		d.forget(f.ID)
	}
}

// Remove removes a blob's file. A file that is not there is no error. The removal is not durable by itself;
// whoever lists the blob for removal must be ready to see the file again after a crash until SyncAll.
func (d *Dir) Remove(id ID) error {
	err := d.fs.Remove(d.Path(id))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// SyncDirs makes the removals of ids durable.
func (d *Dir) SyncDirs(ids []ID) error {
	var seen [256]bool
	for _, id := range ids {
		if seen[id[0]] {
			continue
		}
		seen[id[0]] = true
		if err := vfs.SyncDir(d.fs, d.dirOf(id)); err != nil {
			return err
		}
	}
	return nil
}

// OpenBlob opens a blob for reading.
func (d *Dir) OpenBlob(id ID) (vfs.File, error) { return d.fs.Open(d.Path(id)) }

// Size returns the length of a blob's file in bytes.
func (d *Dir) Size(id ID) (int64, error) {
	fi, err := d.fs.Stat(d.Path(id))
	if err != nil {
		return 0, err
	}
	return fi.Size(), nil
}

// Pin keeps a blob from being removed until as many calls of Unpin.
func (d *Dir) Pin(id ID) {
	d.mu.Lock()
	d.mu.pins[id]++
	d.mu.Unlock()
}

// Unpin ends one Pin.
func (d *Dir) Unpin(id ID) {
	d.mu.Lock()
	if d.mu.pins[id]--; d.mu.pins[id] <= 0 {
		delete(d.mu.pins, id)
	}
	d.mu.Unlock()
}

// Pinned reports whether a reader uses the blob.
func (d *Dir) Pinned(id ID) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.mu.pins[id] > 0
}

// Walk calls fn for each file of the directory, with ok false for a name that is no blob's.
func (d *Dir) Walk(ctx context.Context, fn func(name string, id ID, ok bool) error) error {
	for i := range 256 {
		if err := ctx.Err(); err != nil {
			return err
		}
		sub := fmt.Sprintf("%02x", i)
		names, err := d.fs.List(d.fs.PathJoin(d.path, sub))
		if err != nil {
			return err
		}
		for _, name := range names {
			id, ok := ParseID(name)
			ok = ok && int(id[0]) == i
			if err := fn(sub+"/"+name, id, ok); err != nil {
				return err
			}
		}
	}
	return nil
}

// ParseID reads the name of a blob's file.
func ParseID(name string) (id ID, ok bool) {
	if len(name) != 2*len(id) {
		return id, false
	}
	_, err := hex.Decode(id[:], []byte(name))
	return id, err == nil && id.String() == name
}

// Close waits for files being made and closes those nobody asked for. The next start removes them.
func (d *Dir) Close() {
	d.mu.Lock()
	d.mu.closed = true
	d.mu.Unlock()
	d.wg.Wait()
	d.mu.Lock()
	ready := d.mu.ready
	d.mu.ready = nil
	d.mu.Unlock()
	for _, f := range ready {
		_ = f.Close()
	}
}
