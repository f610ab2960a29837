// Package memblob is a blob driver in memory, for tests and for the scheme mem:.
//
// It promises to be stricter than any backend: it checks what callers promise (valid keys, ranges, one open reader a
// source, unchanged bytes), it hands content out in uneven pieces, and its hook makes any call fail, before it happened
// or after. It must never be used to keep anything.
package memblob

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"firn"
	"firn/blob"
	"firn/blob/driver"
)

// Op is one call of a driver.
type Op struct {
	// Name is put, create, apply, resume, part, abandon, get, read, stat, delete, deleteall, list or space. A resume stores
	// part after part, and is the last of its calls.
	Name string
	// Keys are the blobs it is about; for list the prefix.
	Keys []string
	// Index numbers the calls of a driver from 1. Each read of a reader counts as one.
	Index int64
}

func (o Op) String() string { return o.Name + " " + strings.Join(o.Keys, " ") }

// Fault is what happens to one call. The zero Fault lets it through.
type Fault struct {
	// Err is returned to the caller.
	Err error
	// Applied carries the call out all the same: it failed, but it happened.
	Applied bool
}

// Options are the settings of a driver.
type Options struct {
	// Before may break or delay a call. It is called on the goroutine of the call, concurrently.
	Before func(ctx context.Context, op Op) Fault
	// Capacity is how many bytes of content fit; 0 is no bound. What is beyond fails with firn.NoSpace.
	Capacity int64
	// Part is how many bytes Resume keeps at once; 0 is 1 MiB.
	Part int
	// Now is the backend's clock; nil is time.Now.
	Now func() time.Time
}

// Driver is one place. It has every optional ability.
type Driver struct {
	opt     Options
	index   atomic.Int64
	readers atomic.Int64
	mu      struct {
		sync.Mutex
		blobs  map[string]content
		kept   map[string][]byte // of puts that are resumed
		used   int64             // without that
		closed bool
	}
}

type content struct {
	data     []byte
	modified time.Time
}

// New returns an empty place.
func New(opt Options) *Driver {
	if opt.Now == nil {
		opt.Now = time.Now
	}
	if opt.Part == 0 {
		opt.Part = 1 << 20
	}
	d := &Driver{opt: opt}
	d.mu.blobs, d.mu.kept = map[string]content{}, map[string][]byte{}
	return d
}

// Open is the number of readers that were not closed yet.
func (d *Driver) Open() int64 { return d.readers.Load() }

// do runs one call through the hook and checks what came with it.
func (d *Driver) do(ctx context.Context, name string, keys []string, fn func() error) error {
	op := Op{Name: name, Keys: keys, Index: d.index.Add(1)}
	if name != "list" {
		for _, key := range keys {
			if err := blob.CheckKey(key); err != nil {
				return err
			}
		}
	}
	var f Fault
	if d.opt.Before != nil {
		f = d.opt.Before(ctx, op)
	}
	err := f.Err
	if err == nil || f.Applied {
		if e := ctx.Err(); e != nil {
			return e
		}
		if e := fn(); e != nil {
			return e
		}
	}
	return err
}

func closed() error { return firn.NewError(firn.Invalid, "the place was closed") }

// Put implements driver.Driver.
func (d *Driver) Put(ctx context.Context, key string, src driver.Source) error {
	return d.do(ctx, "put", []string{key}, func() error { return d.store(ctx, []driver.Change{{Key: key, Put: src}}, false) })
}

// Create implements driver.Creator.
func (d *Driver) Create(ctx context.Context, key string, src driver.Source) error {
	return d.do(ctx, "create", []string{key}, func() error {
		return d.store(ctx, []driver.Change{{Key: key, Put: src}}, true)
	})
}

// Resume implements driver.Resumer.
func (d *Driver) Resume(ctx context.Context, key string, src driver.Source) error {
	there := false
	err := d.do(ctx, "stat", []string{key}, func() error {
		c, err := d.find(key)
		there = err == nil && int64(len(c.data)) == src.Size()
		if firn.KindOf(err) == firn.NotFound {
			err = nil
		}
		return err
	})
	if err != nil || there {
		return err
	}
	d.mu.Lock()
	at := int64(len(d.mu.kept[key]))
	if at > src.Size() {
		delete(d.mu.kept, key)
		at = 0
	}
	d.mu.Unlock()
	r, err := blob.OpenExactAt(ctx, src, at)
	if err != nil {
		return err
	}
	defer r.Close() // it was only read
	for err == nil {
		part := make([]byte, d.opt.Part)
		var n int
		if n, err = io.ReadFull(r, part); n < len(part) && err != io.EOF && !errors.Is(err, io.ErrUnexpectedEOF) {
			return err // nothing of a part is kept before it is whole
		}
		if e := d.do(ctx, "part", []string{key}, func() error {
			d.mu.Lock()
			defer d.mu.Unlock()
			d.mu.kept[key] = append(slices.Clip(d.mu.kept[key]), part[:n]...)
			return nil
		}); e != nil {
			return e
		}
	}
	return d.do(ctx, "resume", []string{key}, func() error {
		d.mu.Lock()
		kept := d.mu.kept[key]
		d.mu.Unlock()
		if int64(len(kept)) != src.Size() {
			return firn.NewError(firn.Invalid, fmt.Sprintf("%d of %d bytes came: another call was under way, or the source broke off", len(kept), src.Size()))
		}
		err := d.store(ctx, []driver.Change{{Key: key, Put: blob.Bytes(kept)}}, false)
		if err == nil {
			d.mu.Lock()
			delete(d.mu.kept, key)
			d.mu.Unlock()
		}
		return err
	})
}

// Abandon implements driver.Resumer.
func (d *Driver) Abandon(ctx context.Context, key string) error {
	return d.do(ctx, "abandon", []string{key}, func() error {
		d.mu.Lock()
		defer d.mu.Unlock()
		if d.mu.closed {
			return closed()
		}
		delete(d.mu.kept, key)
		return nil
	})
}

// Kept returns what is kept of puts that can be resumed, by key.
func (d *Driver) Kept() map[string][]byte {
	d.mu.Lock()
	defer d.mu.Unlock()
	return maps.Clone(d.mu.kept)
}

// Clone returns a place that holds what this one does.
func (d *Driver) Clone(opt Options) *Driver {
	c := New(opt)
	d.mu.Lock()
	defer d.mu.Unlock()
	c.mu.blobs, c.mu.kept, c.mu.used = maps.Clone(d.mu.blobs), maps.Clone(d.mu.kept), d.mu.used
	return c
}

// Apply implements driver.Batcher.
func (d *Driver) Apply(ctx context.Context, changes []driver.Change) error {
	keys := make([]string, len(changes))
	for i, c := range changes {
		keys[i] = c.Key
	}
	return d.do(ctx, "apply", keys, func() error { return d.store(ctx, changes, false) })
}

// Delete implements driver.Driver.
func (d *Driver) Delete(ctx context.Context, key string) error {
	return d.do(ctx, "delete", []string{key}, func() error { return d.store(ctx, []driver.Change{{Key: key}}, false) })
}

// DeleteAll implements driver.BulkDeleter.
func (d *Driver) DeleteAll(ctx context.Context, keys []string) error {
	return d.do(ctx, "deleteall", keys, func() error {
		changes := make([]driver.Change, len(keys))
		for i, key := range keys {
			changes[i].Key = key
		}
		return d.store(ctx, changes, false)
	})
}

// store reads all sources, then changes all blobs at once.
func (d *Driver) store(ctx context.Context, changes []driver.Change, create bool) error {
	data := make([][]byte, len(changes))
	for i, c := range changes {
		if c.Put == nil {
			continue
		}
		var err error
		if data[i], err = read(ctx, c.Put); err != nil {
			return err
		}
	}
	now := d.opt.Now()
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.mu.closed {
		return closed()
	}
	used := d.mu.used
	for i, c := range changes {
		old, ok := d.mu.blobs[c.Key]
		if ok && create {
			return firn.NewError(firn.Exists, "it is there")
		}
		used += int64(len(data[i])) - int64(len(old.data))
	}
	if used > d.mu.used && d.opt.Capacity > 0 && used > d.opt.Capacity {
		return firn.NewError(firn.NoSpace, fmt.Sprintf("the place holds %d bytes at most", d.opt.Capacity))
	}
	d.mu.used = used
	for i, c := range changes {
		if c.Put == nil {
			delete(d.mu.blobs, c.Key)
		} else {
			d.mu.blobs[c.Key] = content{data[i], now}
		}
	}
	return nil
}

// read reads a source twice and compares: a put may be tried again.
func read(ctx context.Context, src driver.Source) ([]byte, error) {
	var first []byte
	for range 2 {
		r, err := blob.OpenExact(ctx, src)
		if err != nil {
			return nil, err
		}
		p, err := io.ReadAll(r)
		if err = errors.Join(err, r.Close()); err != nil {
			return nil, err
		}
		if first != nil && !bytes.Equal(p, first) {
			return nil, firn.NewError(firn.Invalid, "the source gave other bytes when it was read again")
		}
		first = p
	}
	return first, nil
}

func (d *Driver) find(key string) (content, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.mu.closed {
		return content{}, closed()
	}
	c, ok := d.mu.blobs[key]
	if !ok {
		return content{}, &firn.Error{Kind: firn.NotFound}
	}
	return c, nil
}

// Get implements driver.Driver.
func (d *Driver) Get(ctx context.Context, key string, offset, length int64) (io.ReadCloser, error) {
	var r *reader
	err := d.do(ctx, "get", []string{key}, func() error {
		if offset < 0 || length < -1 {
			return firn.NewError(firn.Invalid, fmt.Sprintf("no range: %d bytes from %d", length, offset))
		}
		c, err := d.find(key)
		if err != nil {
			return err
		}
		p := c.data[min(offset, int64(len(c.data))):]
		if length >= 0 {
			p = p[:min(length, int64(len(p)))]
		}
		r = &reader{ctx: ctx, d: d, key: key, rest: p}
		d.readers.Add(1)
		return nil
	})
	if err != nil {
		if r != nil {
			_ = r.Close()
		}
		return nil, err
	}
	return r, nil
}

type reader struct {
	ctx    context.Context
	d      *Driver
	key    string
	rest   []byte
	n      int
	closed atomic.Bool
}

// Read gives pieces of uneven lengths, and io.EOF alone or with the last of them by turns.
func (r *reader) Read(p []byte) (n int, err error) {
	if r.closed.Load() {
		return 0, firn.NewError(firn.Invalid, "read after close")
	}
	err = r.d.do(r.ctx, "read", []string{r.key}, func() error {
		r.n++
		n = copy(p[:min(len(p), 1+r.n*4099%65536)], r.rest)
		r.rest = r.rest[n:]
		return nil
	})
	if err != nil {
		return 0, err
	}
	if len(r.rest) == 0 && (n == 0 && len(p) > 0 || r.n%2 == 0) {
		return n, io.EOF
	}
	return n, nil
}

func (r *reader) Close() error {
	if !r.closed.Swap(true) {
		r.d.readers.Add(-1)
	}
	return nil
}

// Stat implements driver.Driver.
func (d *Driver) Stat(ctx context.Context, key string) (info driver.Info, err error) {
	err = d.do(ctx, "stat", []string{key}, func() error {
		c, err := d.find(key)
		info = driver.Info{Key: key, Size: int64(len(c.data)), Modified: c.modified}
		return err
	})
	if err != nil {
		return driver.Info{}, err
	}
	return info, nil
}

// List implements driver.Driver.
func (d *Driver) List(ctx context.Context, prefix string, fn func(driver.Info) error) error {
	var infos []driver.Info
	err := d.do(ctx, "list", []string{prefix}, func() error {
		d.mu.Lock()
		defer d.mu.Unlock()
		if d.mu.closed {
			return closed()
		}
		for key, c := range d.mu.blobs {
			if strings.HasPrefix(key, prefix) {
				infos = append(infos, driver.Info{Key: key, Size: int64(len(c.data)), Modified: c.modified})
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	slices.SortFunc(infos, func(a, b driver.Info) int { return strings.Compare(a.Key, b.Key) })
	for _, info := range infos {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := fn(info); err != nil {
			return err
		}
	}
	return nil
}

// Space implements driver.Measurer.
func (d *Driver) Space(ctx context.Context) (space driver.Space, err error) {
	err = d.do(ctx, "space", nil, func() error {
		d.mu.Lock()
		defer d.mu.Unlock()
		if d.mu.closed {
			return closed()
		}
		space = driver.Space{Total: -1, Free: -1}
		if d.opt.Capacity > 0 {
			space = driver.Space{Total: d.opt.Capacity, Free: max(d.opt.Capacity-d.mu.used, 0)}
		}
		return nil
	})
	return space, err
}

// Close implements driver.Driver. It fails where a reader is still open.
func (d *Driver) Close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.mu.closed {
		return closed()
	}
	d.mu.closed = true
	if n := d.readers.Load(); n > 0 {
		return firn.NewError(firn.Invalid, fmt.Sprintf("%d readers were not closed", n))
	}
	return nil
}
