package pebblekv

import (
	"context"
	"errors"

	"github.com/cockroachdb/pebble/v2"

	"firn/kv"
)

// reader is a DB as fn of View sees it: a view of the same memory, so that handing it out costs nothing.
type reader DB

// Get implements kv.Reader.
func (r *reader) Get(dst, key []byte) ([]byte, error) { return (*DB)(r).get(dst, key) }

// Iter implements kv.Reader.
func (r *reader) Iter(lower, upper []byte) (kv.Iterator, error) { return (*DB)(r).iter(lower, upper) }

// View implements kv.DB.
func (d *DB) View(ctx context.Context, fn func(kv.Reader) error, locks ...[]byte) error {
	if err := d.enter(); err != nil {
		return err
	}
	defer d.calls.leave()
	if err := ctx.Err(); err != nil {
		return err
	}
	err := fn((*reader)(d))
	var last uint64
	switch len(locks) {
	case 0:
		last = d.assigned.Load()
	default:
		var few [8]uint16
		last = d.lastUnder(d.appendStripes(few[:0], locks))
	}
	if werr := d.waitFor(ctx, &d.durable, last, nil); werr != nil {
		return werr
	}
	return err
}

// lastUnder returns the index of the newest commit made under any of the stripes.
func (d *DB) lastUnder(ids []uint16) (last uint64) {
	for _, id := range ids {
		last = max(last, d.stripes[id].last.Load())
	}
	return last
}

func (d *DB) get(dst, key []byte) ([]byte, error) {
	if !checkKey(key) {
		return dst, errKey
	}
	// Not Pebble's Get, which never asks the filters of the last level: for a missing key that is five times the work,
	// for a present one it is the same.
	it, err := d.p.NewIter(d.getOptions)
	if err != nil {
		return dst, mapError(err)
	}
	if !it.SeekPrefixGE(key) {
		if err := errors.Join(it.Error(), it.Close()); err != nil {
			return dst, mapError(err)
		}
		return dst, kv.ErrNotFound
	}
	v, err := it.ValueAndErr()
	if err == nil {
		dst = append(dst, v...)
	}
	return dst, mapError(errors.Join(err, it.Close()))
}

func (d *DB) iter(lower, upper []byte) (kv.Iterator, error) {
	if len(upper) == 0 || upper[0] == reserved {
		upper = []byte{reserved}
	}
	if len(lower) == 0 {
		// To Pebble an empty bound is a key, of a length it does not expect.
		lower = nil
	}
	it, err := d.p.NewIter(&pebble.IterOptions{LowerBound: lower, UpperBound: upper})
	if err != nil {
		return nil, mapError(err)
	}
	return &iterator{it: it}, nil
}

// iterator is a kv.Iterator.
type iterator struct {
	it     *pebble.Iterator
	placed bool // a positioning call was made
}

func (i *iterator) First() bool {
	i.placed = true
	return i.it.First()
}

func (i *iterator) Last() bool {
	i.placed = true
	return i.it.Last()
}

func (i *iterator) SeekGE(key []byte) bool {
	i.placed = true
	if len(key) == 0 {
		return i.it.First()
	}
	return i.it.SeekGE(key)
}

func (i *iterator) SeekLT(key []byte) bool {
	i.placed = true
	if len(key) == 0 {
		// Nothing sorts before it, nor before this, the smallest key there can be.
		key = []byte{0}
	}
	return i.it.SeekLT(key)
}

func (i *iterator) Next() bool {
	if !i.placed {
		return i.First()
	}
	return i.it.Next()
}

// Prev before the first positioning call stays before the first key.
func (i *iterator) Prev() bool { return i.placed && i.it.Prev() }

func (i *iterator) Key() []byte { return i.it.Key() }

func (i *iterator) Value() ([]byte, error) {
	v, err := i.it.ValueAndErr()
	return v, mapError(err)
}

func (i *iterator) Err() error { return mapError(i.it.Error()) }

func (i *iterator) Close() error { return mapError(i.it.Close()) }
