package packed

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"

	"github.com/zeebo/blake3"

	"firn"
	"firn/blob/driver"
	"firn/blob/wrap"
)

// checked is the place of a repository that does not take the place's word: what is put is read back and compared, and a
// blob that is listed is not taken for one that is gone.
type checked struct {
	driver.Driver
	can   wrap.Abilities
	packs bool // packs are read back, too

	mu    sync.Mutex
	trash []string // keys that may have something wrong, which nobody relies on; guarded by mu
}

func newChecked(inner driver.Driver, packs bool) driver.Driver {
	c := &checked{Driver: inner, can: wrap.Of(inner), packs: packs}
	return wrap.Narrow(c, c.can)
}

// Inner implements driver.Wrapper.
func (c *checked) Inner() (driver.Driver, bool) { return c.Driver, false }

// Put implements driver.Driver.
func (c *checked) Put(ctx context.Context, key string, src driver.Source) error {
	return c.write(ctx, key, src, c.Driver.Put)
}

// Create implements driver.Creator.
func (c *checked) Create(ctx context.Context, key string, src driver.Source) error {
	return c.write(ctx, key, src, c.can.Creator.Create)
}

// write puts a blob and reads it back. What may be wrong of those that every session or prune reads is removed, now or before
// the next one is written: whoever wrote it was told that it failed.
func (c *checked) write(ctx context.Context, key string, src driver.Source, put func(context.Context, string, driver.Source) error) error {
	c.mu.Lock()
	trash := c.trash
	c.trash = nil
	c.mu.Unlock()
	err := c.discard(ctx, trash)
	if err == nil {
		if err = put(ctx, key, src); err == nil {
			err = c.verify(ctx, key, src)
		}
		if err != nil && !strings.HasPrefix(key, "packs/") && strings.Contains(key, "/") {
			_ = c.discard(ctx, []string{key}) // or the next write
		}
	}
	return err
}

func (c *checked) discard(ctx context.Context, keys []string) error {
	for i, key := range keys {
		if err := c.Driver.Delete(ctx, key); err != nil {
			c.mu.Lock()
			defer c.mu.Unlock()
			c.trash = append(c.trash, keys[i:]...)
			return err
		}
	}
	return nil
}

// Apply implements driver.Batcher.
func (c *checked) Apply(ctx context.Context, changes []driver.Change) error {
	if err := c.can.Batcher.Apply(ctx, changes); err != nil {
		return err
	}
	for _, ch := range changes {
		if ch.Put != nil {
			if err := c.verify(ctx, ch.Key, ch.Put); err != nil {
				return err
			}
		}
	}
	return nil
}

// DeleteAll implements driver.BulkDeleter.
func (c *checked) DeleteAll(ctx context.Context, keys []string) error {
	return c.can.Bulk.DeleteAll(ctx, keys)
}

// Space implements driver.Measurer.
func (c *checked) Space(ctx context.Context) (driver.Space, error) { return c.can.Measurer.Space(ctx) }

// verify reads back what was put.
func (c *checked) verify(ctx context.Context, key string, src driver.Source) error {
	if !c.packs && strings.HasPrefix(key, "packs/") || strings.HasSuffix(key, ".alive") {
		return nil
	}
	rd, err := src.Open()
	if err != nil {
		return err
	}
	want, err := sum(rd)
	if err != nil {
		return err
	}
	back, err := c.Get(ctx, key, 0, -1)
	if firn.KindOf(err) != firn.NotFound {
		if err != nil {
			return err
		}
		got, err := sum(back)
		if err != nil || got == want {
			return err
		}
	}
	return firn.NewError(firn.Corrupt, "the place does not give back what it was given")
}

func sum(r io.ReadCloser) (out [32]byte, err error) {
	h := blake3.New()
	_, err = io.Copy(h, r)
	err = errors.Join(err, r.Close())
	h.Sum(out[:0])
	return out, err
}

// Get implements driver.Driver. To a prune, a snapshot that cannot be read would be one that was forgotten.
func (c *checked) Get(ctx context.Context, key string, offset, length int64) (io.ReadCloser, error) {
	r, err := c.Driver.Get(ctx, key, offset, length)
	if firn.KindOf(err) != firn.NotFound {
		return r, err
	}
	there := false
	if e := c.Driver.List(ctx, key, func(i driver.Info) error { there = there || i.Key == key; return nil }); e != nil {
		return nil, e
	}
	if there {
		err = firn.NewError(firn.Unavailable, fmt.Sprintf("%s is listed and cannot be read", key))
	}
	return nil, err
}
