package object

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"firn"
	"firn/block"
	"firn/kv"
	"firn/object/record"
	"firn/vfs"
)

// What is stored of a part's outboard begins with what it is the outboard of.
const (
	outboardInline = 1
	outboardPart   = 2
)

var (
	errNoRemote   = firn.NewError(firn.Unavailable, "no such tier is configured")
	errNoOutboard = firn.NewError(firn.Corrupt, "what is kept to check the content of a tier is missing or broken")
)

// tierError says of an error of a tier which it is and since when the content is there.
func tierError(ctx context.Context, l *record.Location, err error) error {
	if err == nil || ctx.Err() != nil {
		return err
	}
	since := fmt.Sprintf("on tier %s since %s", l.Tier, l.Since.UTC().Format(time.RFC3339))
	switch firn.KindOf(err) {
	case firn.Corrupt:
		return &firn.Error{Kind: firn.Corrupt, Err: fmt.Errorf("%s: %w", since, err)}
	case firn.NotFound:
		return &firn.Error{Kind: firn.Corrupt, Err: fmt.Errorf("%s, which no longer has it: %s", since, err)}
	}
	return &firn.Error{Kind: firn.Unavailable, Err: wrapped{ErrTierAway, since + ": " + err.Error()}}
}

// remotePart is a part whose bytes are on a tier.
type remotePart struct {
	s        *Store
	loc      *record.Location
	base     int64           // of the part within the blob
	size     int64           // bytes of the part
	outboard *block.Outboard // of a part file
	inline   []byte          // outboard of an inline value; not nil where it is one
}

// openRemote returns part i of a version that is on a tier; nil for a part that has no bytes anywhere.
func (o *Object) openRemote(ctx context.Context, i int) (*remotePart, error) {
	r := &remotePart{s: o.s, loc: o.Version.Location, size: o.Version.Parts[i].Size}
	for n := range i {
		r.base += o.Version.Parts[n].Size
	}
	raw, err := o.s.outboard(ctx, r.loc.ID, i)
	switch {
	case err != nil:
		return nil, err
	case raw == nil && r.size == 0:
		return nil, nil
	case len(raw) == 0:
		return nil, errNoOutboard
	case raw[0] == outboardInline:
		r.inline = raw[1:]
	case raw[0] == outboardPart:
		r.outboard, err = block.OpenOutboard(raw[1:], r.loc.Key)
		if err == nil && r.outboard.Reader().Info().Size != r.size {
			err = errNoOutboard
		}
	default:
		err = errNoOutboard
	}
	return r, err
}

// outboard reads what is kept of a part of a blob on a tier; nil where nothing is.
func (s *Store) outboard(ctx context.Context, id record.BlobID, part int) (raw []byte, err error) {
	err = s.db.View(ctx, func(r kv.Reader) (err error) {
		raw, err = get(r, nil, record.OutboardKey(id, part))
		return err
	})
	return raw, err
}

// outboard returns what is to be kept of part i when its bytes go to a tier; nil for a part without any.
func (o *Object) outboard(ctx context.Context, i int) ([]byte, error) {
	p := &o.Version.Parts[i]
	switch {
	case o.buf != nil:
		raw, err := block.InlineOutboard(o.buf)
		return append([]byte{outboardInline}, raw...), err
	case p.Blob != (record.BlobID{}):
		r, err := o.openPart(ctx, i)
		if err != nil {
			return nil, err
		}
		defer r.close()
		raw, err := r.local.Outboard()
		return append([]byte{outboardPart}, raw...), err
	case o.Version.Location != nil:
		raw, err := o.s.outboard(ctx, o.Version.Location.ID, i)
		if err == nil && raw == nil && p.Size > 0 {
			err = errNoOutboard
		}
		return raw, err
	}
	return nil, nil
}

// open reads length bytes of the part from offset.
func (r *remotePart) open(ctx context.Context, offset, length int64) (io.ReadCloser, error) {
	if length == 0 {
		return io.NopCloser(bytes.NewReader(nil)), nil
	}
	if r.s.o.Remote == nil {
		return nil, tierError(ctx, r.loc, errNoRemote)
	}
	data, err := r.s.o.Remote.Open(ctx, r.loc.Tier, r.loc.Key, r.base+offset, length)
	return data, tierError(ctx, r.loc, err)
}

// explain says of an error of reading where it came from.
func (r *remotePart) explain(ctx context.Context, err error) error { return tierError(ctx, r.loc, err) }

// fetchInline returns the inline value, which was checked.
func (r *remotePart) fetchInline(ctx context.Context) ([]byte, error) {
	data, err := r.open(ctx, 0, r.size)
	if err != nil {
		return nil, err
	}
	defer func() { _ = data.Close() }() // what counts is checked
	value, err := block.RestoreInline(r.inline, data, r.size)
	return value, r.explain(ctx, err)
}

// partReader is an open part: a file, or bytes on a tier.
type partReader struct {
	local  *block.Reader
	file   vfs.File
	remote *remotePart
	o      *Object
	at     int
	users  int // reads under way, and one for being the last; guarded by the Object's mu
}

func (r *partReader) close() {
	if r.file != nil {
		_ = r.file.Close() // read only
	}
}

// writeRange writes n bytes from off to w, verified: plain ones, or as they are stored.
func (r *partReader) writeRange(ctx context.Context, w io.Writer, off, n int64, stored bool) (int64, error) {
	switch {
	case r.remote == nil && stored:
		return r.local.WriteStored(ctx, w, off, n)
	case r.remote == nil:
		return r.local.WriteRange(ctx, w, off, n)
	case r.remote.inline != nil:
		value, err := r.remote.fetchInline(ctx)
		if err != nil {
			return 0, err
		}
		p, err := r.o.plainInline(value, stored)
		if err != nil {
			return 0, err
		}
		k, err := w.Write(p[off : off+n])
		return int64(k), err
	}
	start, length, err := r.remote.outboard.Span(off, n)
	if err != nil {
		return 0, err
	}
	data, err := r.remote.open(ctx, start, length)
	if err != nil {
		return 0, err
	}
	defer func() { _ = data.Close() }() // what counts is checked
	dst := &writerError{w: w}
	write := r.remote.outboard.WriteRange
	if stored {
		write = r.remote.outboard.WriteStored
	}
	k, err := write(ctx, data, dst, off, n)
	if err != nil && dst.err == nil {
		err = r.remote.explain(ctx, err)
	}
	return k, err
}

// writerError remembers the error of a writer, to tell it from one of reading.
type writerError struct {
	w   io.Writer
	err error
}

func (w *writerError) Write(p []byte) (int, error) {
	n, err := w.w.Write(p)
	if err != nil {
		w.err = err
	}
	return n, err
}

// plainInline opens an inline value that came from a tier.
func (o *Object) plainInline(value []byte, stored bool) ([]byte, error) {
	if stored {
		return block.InlineData(value)
	}
	p, err := block.OpenInline(value)
	if errors.Is(err, block.ErrSealed) && o.sealer != nil {
		k, err := openKey(o.sealer, &o.Version.Parts[0])
		if err != nil {
			return nil, err
		}
		return block.UnsealInline(p, k)
	}
	return p, err
}

// WriteStored is WriteRange with the bytes as they are stored, which for encrypted content are the sealed ones: what is
// written to a tier. Unlock must not have been called.
func (o *Object) WriteStored(ctx context.Context, w io.Writer, offset, length int64) (int64, error) {
	return o.writeRange(ctx, w, offset, length, true)
}

// stream returns length bytes from offset of an open version, to be closed. From a tier they come in one request.
func (o *Object) stream(ctx context.Context, offset, length int64) io.ReadCloser {
	if o.Version.Local() {
		return io.NopCloser(io.NewSectionReader(o, offset, length))
	}
	pr, pw := io.Pipe()
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, err := o.WriteRange(ctx, pw, offset, length)
		_ = pw.CloseWithError(err) // nil becomes io.EOF
	}()
	return &pipeReader{PipeReader: pr, done: done}
}

// pipeReader ends and waits for the goroutine at its other end.
type pipeReader struct {
	*io.PipeReader
	done chan struct{}
}

func (p *pipeReader) Close() error {
	err := p.PipeReader.Close()
	<-p.done
	return err
}
