// Package compress is a wrapper that keeps contents compressed by zstd, in frames of 1 MiB so that a range reads only
// what it needs. What does not get smaller is kept as it is.
//
// It promises that content is compared with checksums before it is handed out, and that what it stores can be unpacked
// by the zstd program. It must never import a concrete driver. The format is described in docs/format/blob-compress.md.
package compress

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/klauspost/compress/zstd"
	"golang.org/x/sync/errgroup"

	"firn"
	"firn/blob/driver"
	"firn/blob/wrap"
)

// Options are the settings. The zero value has the defaults.
type Options struct {
	// Level is that of zstd's program, 1 to 22; 3 by default.
	Level int
	// Memory is how many bytes of compressed content a put keeps in memory, 8 MiB by default. The size must be known
	// before the first byte is stored; what is beyond goes to a file without a name in Dir.
	Memory int
	// Dir is where such files are; by default that of the system. They hold what the place gets.
	Dir string
}

const (
	// peek is how much of a blob is read to learn its table: that of 1 GiB fits, and small blobs as a whole.
	peek = 8 << 10
	// lookups is how many heads of blobs a listing reads at once, batch how many entries it looks at together.
	lookups = 8
	batch   = 64
	// tries is how often a blob that is replaced while its head is read is read again.
	tries = 5
)

var (
	errTooLarge = firn.NewError(firn.Invalid, fmt.Sprintf("a compressed blob has at most %d bytes", int64(maxFrames)*frameLen))
	// errReplaced means that head and content were not of one put.
	errReplaced = firn.NewError(firn.Unavailable, "the blob was replaced while it was read: read it again")
)

type compressed struct {
	inner driver.Driver
	can   wrap.Abilities
	opt   Options
	enc   *zstd.Encoder
	dec   *zstd.Decoder
}

// New returns inner with its contents compressed.
func New(inner driver.Driver, opt Options) (driver.Driver, error) {
	if opt.Level == 0 {
		opt.Level = 3
	}
	if opt.Memory == 0 {
		opt.Memory = 8 << 20
	}
	if opt.Level < 1 || opt.Level > 22 || opt.Memory < 0 {
		return nil, firn.NewError(firn.Invalid, "compression: the level is 1 to 22, the memory is not negative")
	}
	// The table has checksums of the stored frames; those inside of them would be a second time the same.
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.EncoderLevelFromZstd(opt.Level)),
		zstd.WithEncoderCRC(false), zstd.WithWindowSize(frameLen), zstd.WithLowerEncoderMem(true))
	if err != nil {
		return nil, err
	}
	dec, err := zstd.NewReader(nil, zstd.WithDecoderMaxMemory(frameLen), zstd.WithDecoderConcurrency(0))
	if err != nil {
		return nil, err
	}
	c := &compressed{inner: inner, can: wrap.Of(inner), opt: opt, enc: enc, dec: dec}
	return wrap.Narrow(c, c.can), nil
}

func (c *compressed) budget() *budget { return &budget{c.opt.Memory, c.opt.Dir} }

func (c *compressed) Put(ctx context.Context, key string, src driver.Source) error {
	s, err := c.spool(ctx, src, c.budget())
	if err != nil {
		return err
	}
	defer s.close()
	return c.inner.Put(ctx, key, s)
}

func (c *compressed) Create(ctx context.Context, key string, src driver.Source) error {
	s, err := c.spool(ctx, src, c.budget())
	if err != nil {
		return err
	}
	defer s.close()
	return c.can.Creator.Create(ctx, key, s)
}

func (c *compressed) Apply(ctx context.Context, changes []driver.Change) error {
	out := make([]driver.Change, len(changes))
	b := c.budget()
	for i, change := range changes {
		out[i].Key = change.Key
		if change.Put == nil {
			continue
		}
		s, err := c.spool(ctx, change.Put, b)
		if err != nil {
			return err
		}
		defer s.close()
		out[i].Put = s
	}
	return c.can.Batcher.Apply(ctx, out)
}

func (c *compressed) Delete(ctx context.Context, key string) error { return c.inner.Delete(ctx, key) }

func (c *compressed) DeleteAll(ctx context.Context, keys []string) error {
	return c.can.Bulk.DeleteAll(ctx, keys)
}

func (c *compressed) Stat(ctx context.Context, key string) (driver.Info, error) {
	for range tries {
		info, err := c.inner.Stat(ctx, key)
		if err != nil {
			return driver.Info{}, err
		}
		if size, ok := plainSize(info.Size); ok {
			info.Size = size
			return info, nil
		}
		if info.Size%align != 0 {
			return driver.Info{}, errCorrupt
		}
		t, _, err := c.table(ctx, key, peek)
		if err != nil {
			return driver.Info{}, err
		}
		// Otherwise the table is not that of the blob which was described.
		if _, padded := t.stored(); padded == info.Size {
			info.Size = t.size
			return info, nil
		}
		if again, err := c.inner.Stat(ctx, key); err != nil || again == info {
			if err == nil {
				err = errCorrupt
			}
			return driver.Info{}, err
		}
	}
	return driver.Info{}, errReplaced
}

// List asks for the head of each blob whose size does not tell. A damaged one is shown with size 0: Get and Stat say
// what is wrong with it, and the others stay in reach.
func (c *compressed) List(parent context.Context, prefix string, fn func(driver.Info) error) error {
	infos := make([]driver.Info, 0, batch)
	flush := func() error {
		gone := make([]bool, len(infos))
		g, ctx := errgroup.WithContext(parent)
		g.SetLimit(lookups)
		for i := range infos {
			size, ok := plainSize(infos[i].Size)
			if ok || infos[i].Size%align != 0 {
				infos[i].Size = size
				if !ok {
					infos[i].Size = 0
				}
				continue
			}
			g.Go(func() error {
				head, err := c.read(ctx, infos[i].Key, 0, headLen)
				if err == nil {
					infos[i].Size, _, err = parseHead(head)
				}
				switch firn.KindOf(err) {
				case firn.NotFound:
					gone[i] = true
				case firn.Corrupt, firn.Unsupported:
					infos[i].Size = 0
				default:
					return err
				}
				return nil
			})
		}
		if err := g.Wait(); err != nil {
			return err
		}
		for i, info := range infos {
			if gone[i] {
				continue
			}
			if err := parent.Err(); err != nil {
				return err
			}
			if err := fn(info); err != nil {
				return err
			}
		}
		infos = infos[:0]
		return nil
	}
	err := c.inner.List(parent, prefix, func(info driver.Info) error {
		infos = append(infos, info)
		if len(infos) < batch {
			return nil
		}
		return flush()
	})
	if err != nil {
		return err
	}
	return flush()
}

// read returns a range of the stored blob.
func (c *compressed) read(ctx context.Context, key string, offset, length int64) ([]byte, error) {
	rc, err := c.inner.Get(ctx, key, offset, length)
	if err != nil {
		return nil, err
	}
	p, err := io.ReadAll(io.LimitReader(rc, length))
	return p, errors.Join(err, rc.Close())
}

// table returns the blob's table, and the bytes after it that were read with it.
func (c *compressed) table(ctx context.Context, key string, length int64) (t *table, rest []byte, err error) {
	p, err := c.read(ctx, key, 0, length)
	if err != nil {
		return nil, nil, err
	}
	_, frames, err := parseHead(p)
	if err != nil {
		return nil, nil, err
	}
	n := tableLen(frames)
	if n > int64(len(p)) {
		if int64(len(p)) < length || n <= length {
			return nil, nil, errCorrupt
		}
		return c.table(ctx, key, n)
	}
	t, err = parseTable(p[:n])
	return t, p[n:], err
}

func (c *compressed) Get(ctx context.Context, key string, offset, length int64) (io.ReadCloser, error) {
	if offset == 0 && length < 0 {
		return c.getAll(ctx, key)
	}
	for range tries {
		r, err := c.getRange(ctx, key, offset, length)
		if !errors.Is(err, errReplaced) {
			if err != nil {
				return nil, err
			}
			return r, nil
		}
	}
	return nil, errReplaced
}

// getAll reads head and content in one request.
func (c *compressed) getAll(ctx context.Context, key string) (io.ReadCloser, error) {
	rc, err := c.inner.Get(ctx, key, 0, -1)
	if err != nil {
		return nil, err
	}
	t, err := readTable(rc)
	if err != nil {
		rc.Close()
		return nil, err
	}
	return &reader{c: c, t: t, rc: rc, left: t.size, last: true}, nil
}

// readTable reads the table at the beginning of r.
func readTable(r io.Reader) (*table, error) {
	p := make([]byte, headLen)
	if err := readFull(r, p); err != nil {
		return nil, err
	}
	_, frames, err := parseHead(p)
	if err != nil {
		return nil, err
	}
	rest := make([]byte, tableLen(frames)-headLen)
	if err := readFull(r, rest); err != nil {
		return nil, err
	}
	return parseTable(append(p, rest...))
}

// getRange reads the table, then the frames that the range touches. It fails with errReplaced where the two turn out not
// to be of one put.
func (c *compressed) getRange(ctx context.Context, key string, offset, length int64) (io.ReadCloser, error) {
	t, ahead, err := c.table(ctx, key, peek)
	if err != nil {
		return nil, err
	}
	if length < 0 || length > t.size-offset {
		length = t.size - offset
	}
	if length <= 0 {
		return io.NopCloser(bytes.NewReader(nil)), nil
	}
	first, end := int(offset/frameLen), int((offset+length-1)/frameLen)+1
	from, to, base := t.start(first), t.start(end), t.start(0)
	r := &reader{c: c, t: t, next: first, skip: int(offset - int64(first)*frameLen), left: length}
	if to-base <= int64(len(ahead)) {
		r.rc = io.NopCloser(bytes.NewReader(ahead[from-base : to-base]))
		return r, nil
	}
	if r.rc, err = c.inner.Get(ctx, key, from, to-from); err != nil {
		return nil, err
	}
	// The first frame shows whether the blob is still the one whose table was read: the table has its checksum.
	if err = r.frame(); err == nil {
		return r, nil
	}
	r.rc.Close()
	if firn.KindOf(err) != firn.Corrupt {
		return nil, err
	}
	now, _, e := c.table(ctx, key, peek)
	if e != nil {
		return nil, e
	}
	if !bytes.Equal(now.encode(), t.encode()) {
		return nil, errReplaced
	}
	return nil, err
}

func (c *compressed) Space(ctx context.Context) (driver.Space, error) {
	return c.can.Measurer.Space(ctx)
}

func (c *compressed) Close() error {
	c.dec.Close()
	return errors.Join(c.enc.Close(), c.inner.Close())
}

// Inner is not transparent: contents behind it are others.
func (c *compressed) Inner() (driver.Driver, bool) { return c.inner, false }
