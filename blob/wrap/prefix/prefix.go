// Package prefix is a wrapper that shows a part of a place, what lies below a prefix, as a place of its own.
//
// It promises that no call reaches a key outside the prefix. It must never import a concrete driver.
package prefix

import (
	"context"
	"fmt"
	"io"
	"strings"

	"firn"
	"firn/blob"
	"firn/blob/driver"
	"firn/blob/wrap"
)

// maxPrefix is the length of the longest prefix in bytes. With the longest key below it, it makes 1024, the most that S3
// takes; every other backend takes more.
const maxPrefix = 1024 - blob.MaxKey - 1

type prefixed struct {
	inner  driver.Driver
	can    wrap.Abilities
	prefix string // ends in a slash
}

// New returns what lies below prefix in inner. The prefix is a key: parts joined by slashes, none at its ends.
// Closing it closes inner.
func New(inner driver.Driver, prefix string) (driver.Driver, error) {
	if err := blob.CheckKey(prefix); err != nil {
		return nil, firn.E("open the prefix", prefix, err)
	}
	if len(prefix) > maxPrefix {
		return nil, firn.E("open the prefix", prefix, firn.NewError(firn.Invalid, fmt.Sprintf("%d bytes are the most", maxPrefix)))
	}
	p := &prefixed{inner: inner, can: wrap.Of(inner), prefix: prefix + "/"}
	return wrap.Narrow(p, p.can), nil
}

func (p *prefixed) Put(ctx context.Context, key string, src driver.Source) error {
	return p.inner.Put(ctx, p.prefix+key, src)
}

func (p *prefixed) Get(ctx context.Context, key string, offset, length int64) (io.ReadCloser, error) {
	return p.inner.Get(ctx, p.prefix+key, offset, length)
}

func (p *prefixed) Stat(ctx context.Context, key string) (driver.Info, error) {
	info, err := p.inner.Stat(ctx, p.prefix+key)
	info.Key = strings.TrimPrefix(info.Key, p.prefix)
	return info, err
}

func (p *prefixed) Delete(ctx context.Context, key string) error {
	return p.inner.Delete(ctx, p.prefix+key)
}

func (p *prefixed) List(ctx context.Context, prefix string, fn func(driver.Info) error) error {
	return p.inner.List(ctx, p.prefix+prefix, func(info driver.Info) error {
		info.Key = strings.TrimPrefix(info.Key, p.prefix)
		return fn(info)
	})
}

func (p *prefixed) Close() error { return p.inner.Close() }

func (p *prefixed) Inner() (driver.Driver, bool) { return p.inner, false }

func (p *prefixed) Create(ctx context.Context, key string, src driver.Source) error {
	return p.can.Creator.Create(ctx, p.prefix+key, src)
}

func (p *prefixed) Resume(ctx context.Context, key string, src driver.Source) error {
	return p.can.Resumer.Resume(ctx, p.prefix+key, src)
}

func (p *prefixed) Abandon(ctx context.Context, key string) error {
	return p.can.Resumer.Abandon(ctx, p.prefix+key)
}

func (p *prefixed) Apply(ctx context.Context, changes []driver.Change) error {
	out := make([]driver.Change, len(changes))
	for i, c := range changes {
		out[i] = driver.Change{Key: p.prefix + c.Key, Put: c.Put}
	}
	return p.can.Batcher.Apply(ctx, out)
}

func (p *prefixed) DeleteAll(ctx context.Context, keys []string) error {
	out := make([]string, len(keys))
	for i, k := range keys {
		out[i] = p.prefix + k
	}
	return p.can.Bulk.DeleteAll(ctx, out)
}

func (p *prefixed) Space(ctx context.Context) (driver.Space, error) { return p.can.Measurer.Space(ctx) }
