package gitblob

import (
	"context"
	"errors"
	"io"
	"time"

	"golang.org/x/sync/errgroup"

	"firn"
	"firn/blob/driver"
)

// inline is the size up to which content travels in memory to the commit, which stores it, instead of through a git of
// its own. What waits for a commit is bounded by the queue: 256 requests.
const inline = 64 << 10

// change is one step of a request.
type change struct {
	key    string
	create bool   // the key must not be there
	put    *entry // nil deletes
	data   []byte // the content, where it is not stored yet
}

// request is what commits as a whole or not at all.
type request struct {
	ctx     context.Context
	changes []change
	done    chan error // takes one answer
}

// Put writes the content, then commits and pushes together with what others put meanwhile.
func (p *place) Put(ctx context.Context, key string, src driver.Source) error {
	return p.apply(ctx, []driver.Change{{Key: key, Put: src}}, false)
}

// Create is atomic among all clients of the branch.
func (p *place) Create(ctx context.Context, key string, src driver.Source) error {
	return p.apply(ctx, []driver.Change{{Key: key, Put: src}}, true)
}

// Delete commits that the blob is gone.
func (p *place) Delete(ctx context.Context, key string) error {
	return p.apply(ctx, []driver.Change{{Key: key}}, false)
}

// DeleteAll is one commit.
func (p *place) DeleteAll(ctx context.Context, keys []string) error {
	changes := make([]driver.Change, len(keys))
	for i, key := range keys {
		changes[i].Key = key
	}
	return p.apply(ctx, changes, false)
}

// Apply is one commit.
func (p *place) Apply(ctx context.Context, changes []driver.Change) error {
	return p.apply(ctx, changes, false)
}

func (p *place) apply(ctx context.Context, changes []driver.Change, create bool) error {
	req := &request{ctx: ctx, changes: make([]change, len(changes)), done: make(chan error, 1)}
	p.mu.Lock()
	closed := p.mu.closed
	p.mu.puts[req] = time.Now()
	p.mu.Unlock()
	defer func() {
		p.mu.Lock()
		delete(p.mu.puts, req)
		p.mu.Unlock()
	}()
	if closed {
		return errClosed
	}
	if len(changes) == 0 {
		return ctx.Err()
	}
	work, workCtx := errgroup.WithContext(ctx)
	work.SetLimit(hashers)
	for i, c := range changes {
		req.changes[i] = change{key: c.Key, create: create}
		if c.Put != nil {
			work.Go(func() error { return p.store(workCtx, c.Put, &req.changes[i]) })
		}
	}
	if err := work.Wait(); err != nil {
		return err
	}
	select {
	case p.queue <- req:
	case <-p.ctx.Done():
		return errClosed
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case err := <-req.done:
		return err
	case <-p.done:
		select {
		case err := <-req.done:
			return err
		default:
			return errClosed
		}
	case <-ctx.Done():
		return ctx.Err()
	}
}

// store writes the content of src into the object database, where no branch shows it yet, or keeps it if it is small.
func (p *place) store(ctx context.Context, src driver.Source, c *change) error {
	size := src.Size()
	if size < 0 {
		return invalid("the size of the source is negative")
	}
	in, err := src.Open()
	if err != nil {
		return err
	}
	defer in.Close()
	e := &entry{key: c.key, size: size}
	c.put = e
	if size <= inline {
		data := make([]byte, size)
		if _, err := io.ReadFull(in, data); err != nil {
			return short(err)
		}
		c.data = data
	} else {
		for rest := size; rest > 0; {
			n := min(rest, p.opt.PieceSize)
			stored, err := p.storePiece(ctx, in, n)
			if err != nil {
				return err
			}
			e.pieces = append(e.pieces, stored)
			rest -= n
		}
	}
	if n, err := io.ReadFull(in, make([]byte, 1)); n > 0 {
		return invalid("the source has more bytes than its size says")
	} else if !errors.Is(err, io.EOF) {
		return err
	}
	return nil
}

func (p *place) storePiece(ctx context.Context, in io.Reader, n int64) (piece, error) {
	select {
	case p.hash <- struct{}{}:
	case <-ctx.Done():
		return piece{}, ctx.Err()
	}
	defer func() { <-p.hash }()
	content := &counted{r: in, left: n}
	id, err := p.repo.HashBlob(ctx, content)
	if content.err != nil {
		return piece{}, short(content.err)
	}
	if err != nil {
		return piece{}, err
	}
	if content.left > 0 {
		return piece{}, short(io.ErrUnexpectedEOF)
	}
	return piece{id, n}, nil
}

// counted reads at most left bytes and remembers the source's own error.
type counted struct {
	r    io.Reader
	left int64
	err  error
}

func (c *counted) Read(p []byte) (int, error) {
	if c.left == 0 {
		return 0, io.EOF
	}
	n, err := c.r.Read(p[:min(int64(len(p)), c.left)])
	c.left -= int64(n)
	if err != nil && !errors.Is(err, io.EOF) {
		c.err = err
	}
	return n, err
}

func short(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return invalid("the source has fewer bytes than its size says")
	}
	return err
}

var _ interface {
	driver.Driver
	driver.Creator
	driver.Batcher
	driver.BulkDeleter
	driver.Measurer
} = (*place)(nil)

// errExists is the answer to a Create that came too late.
var errExists = firn.NewError(firn.Exists, "the blob is there already")

// errNested is the answer to a put beside which another blob would have to be a directory.
var errNested = firn.NewError(firn.Conflict, "one blob's key is a directory of another's, which a Git tree cannot hold")
