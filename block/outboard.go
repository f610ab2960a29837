package block

import (
	"context"
	"errors"
	"io"
	"slices"

	"firn"
	"firn/seal"
	"firn/vfs"
)

// Outboard is a part without its bytes, which are kept elsewhere: what is needed to check them when they are read, and to
// make the part file again. Its methods may be called concurrently.
type Outboard struct{ r Reader }

// Outboard returns the stored form of the part's outboard: the index, the label and the trailer of its file.
func (r *Reader) Outboard() ([]byte, error) {
	p := make([]byte, r.t.indexLen, r.t.indexLen+r.t.labelLen+trailerLen)
	if r.index != nil {
		copy(p, r.index)
	} else if r.t.indexLen > 0 {
		if err := readFull(r.f, p, r.t.indexOff); err != nil {
			return nil, firn.E("read part", r.name, err)
		}
		if checksum(p) != r.t.indexCRC {
			return nil, &CorruptError{File: r.name, Block: -1, What: "index"}
		}
	}
	return r.t.append(append(p, r.label...)), nil
}

// OpenOutboard reads a stored outboard. name appears in errors. ErrNotPart, ErrUnknownFormat, *CorruptError.
func OpenOutboard(p []byte, name string) (*Outboard, error) {
	if len(p) < trailerLen {
		return nil, firn.E("open outboard", name, ErrNotPart)
	}
	raw := p[len(p)-trailerLen:]
	t, err := parseTrailer(raw, fileSize(raw))
	if err != nil {
		return nil, firn.E("open outboard", name, err)
	}
	if len(p) != t.indexLen+t.labelLen+trailerLen {
		return nil, firn.E("open outboard", name, ErrNotPart)
	}
	o := &Outboard{r: Reader{name: name, t: t, index: p[:t.indexLen:t.indexLen], label: p[t.indexLen : t.indexLen+t.labelLen]}}
	if checksum(o.r.index) != t.indexCRC {
		return nil, &CorruptError{File: name, Block: -1, What: "index"}
	}
	if checksum(append(slices.Clone(o.r.label), make([]byte, t.padding)...)) != t.labelCRC {
		return nil, &CorruptError{File: name, Block: -1, What: "label"}
	}
	return o, nil
}

// Reader returns what describes the part and takes its key: Info, Label and Unseal of it may be called, and nothing else.
func (o *Outboard) Reader() *Reader { return &o.r }

// Span returns the stored bytes that WriteRange needs for n bytes from off: whole blocks. Errors as WriteRange.
func (o *Outboard) Span(off, n int64) (start, length int64, err error) {
	if err := o.r.checkRange(off, n); err != nil || n == 0 {
		return 0, 0, err
	}
	bs := int64(o.r.t.info.BlockSize)
	start = off / bs * bs
	return start, min((off+n+bs-1)/bs*bs, o.r.t.info.Size) - start, nil
}

// WriteRange is that of Reader, on the stored bytes of Span from data. Where data ends before it should, the error is a
// *CorruptError; other errors of data are returned as they are.
func (o *Outboard) WriteRange(ctx context.Context, data io.Reader, w io.Writer, off, n int64) (int64, error) {
	return o.r.writeRange(ctx, o.stream(data), w, off, n, false)
}

// WriteStored is WriteRange with the bytes as they are stored.
func (o *Outboard) WriteStored(ctx context.Context, data io.Reader, w io.Writer, off, n int64) (int64, error) {
	return o.r.writeRange(ctx, o.stream(data), w, off, n, true)
}

// stream reads on in data, whatever the offset.
func (o *Outboard) stream(data io.Reader) readFunc {
	return func(p []byte, off int64) error {
		n, short, err := readAll(data, p)
		if short {
			return &CorruptError{File: o.r.name, Block: (off + int64(n)) / int64(o.r.t.info.BlockSize), What: "block"}
		}
		return err
	}
}

// readAll fills p from r and returns how much it read. It tells bytes that end before they should from a reader that was cut
// off, to which io.ReadFull gives the same error.
func readAll(r io.Reader, p []byte) (n int, short bool, err error) {
	n, err = io.ReadFull(r, p)
	if errors.Is(err, io.ErrUnexpectedEOF) {
		var b [1]byte
		if _, again := r.Read(b[:]); errors.Is(again, io.EOF) {
			return n, true, err
		}
	}
	return n, errors.Is(err, io.EOF), err
}

// Restore writes the part file again, to f, which is empty: from data, which are all stored bytes, each block verified, and
// the BLAKE3 of content that is not sealed. What holds of a Writer's file after Finish holds of f then. A nil error is
// needed for it to be a part; else the caller removes the file.
func (o *Outboard) Restore(ctx context.Context, data io.Reader, f vfs.File) error {
	t := &o.r.t
	w, err := NewWriter(f, WriterOptions{BlockSize: t.info.BlockSize, Label: o.r.label, Sum: func() [32]byte { return t.info.BLAKE3 }})
	if err != nil {
		return err
	}
	defer w.Abort()
	var dst io.Writer = w
	h := hashers.get()
	defer hashers.put(h)
	if t.info.Codec == CodecRaw {
		dst = io.MultiWriter(h, w)
	}
	if _, err := o.WriteStored(ctx, data, dst, 0, t.info.Size); err != nil {
		return err
	}
	if t.info.Codec == CodecRaw && [32]byte(h.Sum(nil)) != t.info.BLAKE3 {
		return &CorruptError{File: o.r.name, Block: -1, What: "content"}
	}
	// The file says of its content what the first one did: it may be sealed, under a key nobody gave.
	w.index, w.sum, w.inBlock, w.codec = slices.Clone(o.r.index), 0, 0, t.info.Codec
	_, err = w.Finish()
	return err
}

// InlineOutboard returns what of a stored inline value is not its bytes: the frame and, of sealed ones, the tag.
func InlineOutboard(stored []byte) ([]byte, error) {
	content, err := OpenInline(stored)
	p := slices.Clone(stored[:min(len(stored), InlineOverhead)])
	if errors.Is(err, ErrSealed) && len(content) >= seal.Overhead {
		return append(p, content[len(content)-seal.Overhead:]...), nil
	}
	return p, err
}

// RestoreInline makes the inline value again from its outboard and its n bytes, which are read from data, and checks it.
// Errors as Outboard.WriteRange.
func RestoreInline(outboard []byte, data io.Reader, n int64) ([]byte, error) {
	k := min(len(outboard), InlineOverhead)
	p := append(make([]byte, 0, len(outboard)+int(n)), outboard[:k]...)
	p = p[:k+int(n)]
	if _, short, err := readAll(data, p[k:]); short {
		return nil, &CorruptError{File: inlineName, Block: -1, What: "content"}
	} else if err != nil {
		return nil, err
	}
	p = append(p, outboard[k:]...)
	if _, err := OpenInline(p); err != nil && !errors.Is(err, ErrSealed) {
		return nil, err
	}
	return p, nil
}

// InlineData returns the bytes of a stored inline value that InlineOutboard leaves out.
func InlineData(stored []byte) ([]byte, error) {
	content, err := OpenInline(stored)
	if errors.Is(err, ErrSealed) && len(content) >= seal.Overhead {
		return content[:len(content)-seal.Overhead], nil
	}
	return content, err
}
