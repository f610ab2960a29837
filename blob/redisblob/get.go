package redisblob

import (
	"container/heap"
	"context"
	"errors"
	"io"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"firn"
	"firn/blob/driver"
)

// record is what the index says about a blob.
type record struct {
	gen      string
	size     int64
	modified time.Time
}

func parseRecord(text string) (record, error) {
	fields := strings.Split(text, " ")
	if len(fields) == 5 {
		size, err1 := strconv.ParseInt(fields[2], 10, 64)
		ms, err2 := strconv.ParseInt(fields[4], 10, 64)
		if err1 == nil && err2 == nil && size >= 0 {
			return record{fields[0], size, time.UnixMilli(ms)}, nil
		}
	}
	return record{}, firn.NewError(firn.Corrupt, "the index has a damaged record")
}

// fetch reads the record and at most limit bytes of the range. gen is the generation wanted, or empty.
func (s *store) fetch(ctx context.Context, key string, offset, length, limit int64, gen string) (record, []byte, error) {
	sh := s.shard(key)
	answer, err := s.run(ctx, s.scripts.get, []string{sh.meta, sh.index}, sh.piece, key, offset, length, limit, gen)
	if err != nil {
		return record{}, nil, err
	}
	if len(answer) == 0 {
		return record{}, nil, firn.NewError(firn.Internal, "a script gave no record")
	}
	text, _ := answer[0].(string)
	rec, err := parseRecord(text)
	if err != nil {
		return rec, nil, err
	}
	to := rec.size
	if length >= 0 && length < to-min(offset, to) {
		to = offset + length
	}
	data := make([]byte, 0, max(0, min(limit, to-min(offset, to))))
	for _, piece := range answer[1:] {
		p, _ := piece.(string)
		data = append(data, p...)
	}
	if want := max(0, min(limit, to-min(offset, to))); int64(len(data)) != want {
		return rec, nil, firn.NewError(firn.Corrupt, "a piece of the blob is missing or cut off at the server")
	}
	return rec, data, nil
}

// Get reads a range.
func (s *store) Get(ctx context.Context, key string, offset, length int64) (io.ReadCloser, error) {
	rec, data, err := s.fetch(ctx, key, offset, length, window, "")
	if err != nil {
		return nil, err
	}
	to := rec.size
	if length >= 0 && length < to-min(offset, to) {
		to = offset + length
	}
	return &reader{ctx: ctx, s: s, key: key, gen: rec.gen, data: data, at: offset + int64(len(data)), to: to}, nil
}

// reader holds a window of a range and asks for the next when it is used up.
type reader struct {
	ctx    context.Context // of the Get
	s      *store
	key    string
	gen    string
	data   []byte
	at, to int64 // what is still to be asked for
	err    error
}

func (r *reader) Read(p []byte) (int, error) {
	if len(r.data) == 0 && r.err == nil {
		if r.at >= r.to {
			return 0, io.EOF
		}
		if _, r.data, r.err = r.s.fetch(r.ctx, r.key, r.at, r.to-r.at, window, r.gen); firn.KindOf(r.err) == firn.NotFound {
			r.err = errReplaced
		}
		r.at += int64(len(r.data))
	}
	if r.err != nil {
		return 0, r.err
	}
	n := copy(p, r.data)
	r.data = r.data[n:]
	return n, nil
}

func (r *reader) Close() error {
	r.data, r.err = nil, errors.New("the reader is closed")
	return nil
}

// Stat describes a blob.
func (s *store) Stat(ctx context.Context, key string) (driver.Info, error) {
	rec, _, err := s.fetch(ctx, key, 0, 0, 0, "")
	return driver.Info{Key: key, Size: rec.size, Modified: rec.modified}, err
}

// List merges the shards' indexes.
func (s *store) List(ctx context.Context, prefix string, fn func(driver.Info) error) error {
	from, to := "-", "+"
	if prefix != "" {
		from, to = "["+prefix, "("+prefix+"\xff" // no key has that byte
	}
	cursors := make(cursors, len(s.shards))
	group, starting := errgroup.WithContext(ctx)
	group.SetLimit(8)
	for i, sh := range s.shards {
		cursors[i] = &cursor{s: s, sh: sh, from: from, to: to, limit: max(64, page/len(s.shards))}
		group.Go(func() error { return cursors[i].next(starting) })
	}
	if err := group.Wait(); err != nil {
		return fail(ctx, err)
	}
	live := cursors[:0]
	for _, c := range cursors {
		if len(c.entries) > 0 {
			live = append(live, c)
		}
	}
	heap.Init(&live)
	for len(live) > 0 {
		if err := ctx.Err(); err != nil {
			return fail(ctx, err)
		}
		c := live[0]
		key, text, _ := strings.Cut(c.entries[0], "\x00")
		rec, err := parseRecord(text)
		if err != nil {
			return err
		}
		if err := fn(driver.Info{Key: key, Size: rec.size, Modified: rec.modified}); err != nil {
			return err
		}
		if err := c.next(ctx); err != nil {
			return err
		}
		if len(c.entries) == 0 {
			heap.Pop(&live)
		} else {
			heap.Fix(&live, 0)
		}
	}
	return nil
}

// cursor is a position in a shard's index.
type cursor struct {
	s        *store
	sh       shard
	from, to string
	limit    int
	entries  []string // the next one first
	last     bool     // no page comes after
}

// next goes to the next entry, or to the first.
func (c *cursor) next(ctx context.Context) error {
	if len(c.entries) > 0 {
		key, _, _ := strings.Cut(c.entries[0], "\x00")
		c.from = "(" + key + "\x01"
		c.entries = c.entries[1:]
	}
	if len(c.entries) > 0 || c.last {
		return nil
	}
	answer, err := c.s.run(ctx, c.s.scripts.list, []string{c.sh.meta, c.sh.index}, c.from, c.to, c.limit)
	if err != nil {
		return err
	}
	c.last = len(answer) < c.limit
	for _, a := range answer {
		entry, _ := a.(string)
		c.entries = append(c.entries, entry)
	}
	return nil
}

// cursors is a heap by the next key.
type cursors []*cursor

func (c cursors) Len() int           { return len(c) }
func (c cursors) Less(i, j int) bool { return c[i].entries[0] < c[j].entries[0] }
func (c cursors) Swap(i, j int)      { c[i], c[j] = c[j], c[i] }
func (c *cursors) Push(x any)        { *c = append(*c, x.(*cursor)) }
func (c *cursors) Pop() any {
	old := *c
	x := old[len(old)-1]
	*c = old[:len(old)-1]
	return x
}
