package object

import (
	"context"
	"errors"
	"io"

	"firn/block"
	"firn/kv"
	"firn/object/record"
	"firn/object/remote"
	"firn/vfs"
)

// openRemote returns part i of a version that is on a tier; nil for a part that has no bytes anywhere.
func (o *Object) openRemote(ctx context.Context, i int) (*remote.Part, error) {
	l, size := o.Version.Location, o.Version.Parts[i].Size
	raw, err := o.s.outboard(ctx, l.ID, i)
	if err != nil || raw == nil && size == 0 {
		return nil, err
	}
	base := int64(0)
	for n := range i {
		base += o.Version.Parts[n].Size
	}
	p, err := remote.NewPart(o.s.o.Remote, l, base, size, raw)
	if err == nil {
		p.Keep(o.Version)
	}
	return p, err
}

// openAway opens part i on its tier.
func (o *Object) openAway(ctx context.Context, i int) (*partReader, error) {
	r, err := o.openRemote(ctx, i)
	if err == nil && r != nil && !r.Inline() {
		err = o.unseal(r.Reader(), &o.Version.Parts[i])
	}
	return &partReader{remote: r, o: o, at: i}, err
}

// readAgain reads from the tier what the local copy of part i does not give.
func (o *Object) readAgain(ctx context.Context, i int, w io.Writer, off, n int64, stored bool) (int64, error) {
	r, err := o.openAway(ctx, i)
	if err != nil {
		return 0, err
	}
	return r.writeRange(ctx, w, off, n, stored)
}

// outboard reads what is kept of a part of a blob on a tier; nil where nothing is.
func (s *Store) outboard(ctx context.Context, id record.BlobID, part int) (raw []byte, err error) {
	err = s.db.View(ctx, func(r kv.Reader) (err error) {
		raw, err = kv.Find(r, nil, record.OutboardKey(id, part))
		return err
	})
	return raw, err
}

// outboard returns what is to be kept of part i when its bytes go to a tier; nil for a part without any.
func (o *Object) outboard(ctx context.Context, i int) ([]byte, error) {
	switch {
	case o.buf != nil:
		return remote.InlineOutboard(o.buf)
	case o.Version.Parts[i].Blob != (record.BlobID{}):
		r, err := o.openPart(ctx, i)
		if err != nil {
			return nil, err
		}
		defer r.close()
		return remote.PartOutboard(r.local)
	case o.Version.Location != nil:
		if _, err := o.openRemote(ctx, i); err != nil { // as it is only kept again
			return nil, err
		}
		return o.s.outboard(ctx, o.Version.Location.ID, i)
	}
	return nil, nil
}

// partReader is an open part: a file, or bytes on a tier.
type partReader struct {
	local  *block.Reader
	file   vfs.File
	remote *remote.Part
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
	case !r.remote.Inline():
		return r.remote.WriteRange(ctx, w, off, n, stored)
	}
	value, err := r.remote.Fetch(ctx)
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
