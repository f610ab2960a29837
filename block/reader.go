package block

import (
	"context"
	"crypto/cipher"
	"encoding/binary"
	"errors"
	"io"

	"firn"
	"firn/seal"
	"firn/vfs"
)

const (
	// readSize is the number of bytes read at a time, at least the largest block. Reads this small stay in a core's
	// cache between disk, checksum and socket: 64 MiB cost 8 to 15 % less processor time than by 1 MiB.
	readSize = MaxBlockSize
	// tailSize is read first: it holds trailer, label and index of most parts.
	tailSize = 8 << 10
	// windowBlocks is the number of checksums read at a time of an index too large to keep.
	windowBlocks = readSize / MinBlockSize
	// maxKeptIndex is the largest index that a Reader keeps, in bytes.
	maxKeptIndex = 64 << 10
)

// Limiter bounds the rate of a scrub. WaitN blocks until n more bytes may be read.
type Limiter interface {
	WaitN(ctx context.Context, n int) error
}

// Reader reads one part file. Its methods may be called concurrently. It does not close the file.
type Reader struct {
	f     vfs.File
	name  string
	t     trailer
	label []byte
	key   *seal.Key   // of sealed content; nil where it was not given
	aead  cipher.AEAD // under key
	// index holds the checksums, or nil where the index is larger than maxKeptIndex: then the few that a read needs
	// are read with it, so that memory does not grow with the part.
	index []byte
}

// Open reads the trailer of the part file f, whose name, which may be empty, appears in errors. ErrNotPart where f is
// not a complete part; ErrUnknownFormat where a newer release wrote it.
func Open(f vfs.File, name string) (*Reader, error) {
	fi, err := f.Stat()
	if err != nil {
		return nil, firn.E("open part", name, err)
	}
	size := fi.Size()
	if size < trailerLen {
		return nil, firn.E("open part", name, ErrNotPart)
	}
	buf := tailBuffers.get()
	defer tailBuffers.put(buf)
	tail := buf[:min(size, tailSize)]
	tailOff := size - int64(len(tail))
	if err := readFull(f, tail, tailOff); err != nil {
		return nil, firn.E("open part", name, err)
	}
	t, err := parseTrailer(tail[len(tail)-trailerLen:], size)
	if err != nil {
		return nil, firn.E("open part", name, err)
	}
	r := &Reader{f: f, name: name, t: t}
	// fetch returns n bytes at off, from the tail where they are in it.
	fetch := func(dst []byte, off int64) error {
		if off >= tailOff {
			copy(dst, tail[off-tailOff:])
			return nil
		}
		return readFull(f, dst, off)
	}
	kept := 0
	if t.indexLen <= maxKeptIndex {
		kept = t.indexLen
	}
	footer := make([]byte, kept+t.labelLen+t.padding)
	if err := fetch(footer, t.indexOff+int64(t.indexLen)-int64(kept)); err != nil {
		return nil, firn.E("open part", name, err)
	}
	r.label = footer[kept : kept+t.labelLen]
	if checksum(footer[kept:]) != t.labelCRC {
		return nil, &CorruptError{File: name, Block: -1, What: "label"}
	}
	if kept == t.indexLen {
		r.index = footer[:kept:kept]
		if checksum(r.index) != t.indexCRC {
			return nil, &CorruptError{File: name, Block: -1, What: "index"}
		}
	}
	return r, nil
}

// Unseal gives the key of sealed content, before any other call. Content that is not sealed needs none and ignores it.
func (r *Reader) Unseal(key *seal.Key) {
	if r.t.info.Codec == CodecAESGCM {
		r.key, r.aead = key, key.AEAD()
	}
}

// Info returns the description of the part.
func (r *Reader) Info() Info { return r.t.info }

// Label returns the label given to the Writer. It must not be changed.
func (r *Reader) Label() []byte { return r.label }

// sums returns the entries of n blocks from first, in window where they must be read.
func (r *Reader) sums(first int64, n int, window *window) ([]byte, error) {
	e := r.t.info.Codec.entry()
	if r.index != nil || r.t.indexLen == 0 {
		return r.index[int(first)*e : (int(first)+n)*e], nil
	}
	// Not checked against the index's checksum: a wrong entry can only make a good block fail, and telling the
	// two apart is Verify's work.
	p := window[:n*e]
	if err := readFull(r.f, p, r.t.indexOff+first*int64(e)); err != nil {
		return nil, firn.E("read part", r.name, err)
	}
	return p, nil
}

// readFunc reads len(p) stored bytes at off, of which successive calls ask in order.
type readFunc func(p []byte, off int64) error

// file reads stored bytes from the part's own file.
func (r *Reader) file(p []byte, off int64) error { return readFull(r.f, p, off) }

// load reads n bytes of whole blocks (the last may be short) from block first into b and verifies them. It opens sealed
// ones where it has the key, unless they are to stay sealed.
func (r *Reader) load(read readFunc, b *readBuffer, n int, first int64, sealed bool) error {
	buf := b.data[:n]
	bs := r.t.info.BlockSize
	if err := read(buf, first*int64(bs)); err != nil {
		return firn.E("read part", r.name, err)
	}
	blocks := (n + bs - 1) / bs
	entries, err := r.sums(first, blocks, &b.window)
	if err != nil {
		return err
	}
	e := r.t.info.Codec.entry()
	for i := range blocks {
		entry := entries[i*e : (i+1)*e]
		start, end := i*bs, min((i+1)*bs, n)
		at := first + int64(i)
		if r.aead != nil && !sealed {
			// A tag that holds says more than the checksum would.
			if !r.openBlock(b.data[start:end+seal.Overhead], entry[4:], at) {
				return &CorruptError{File: r.name, Block: at, What: sealBroken}
			}
			continue
		}
		if checksum(buf[start:end]) != binary.LittleEndian.Uint32(entry) {
			return &CorruptError{File: r.name, Block: at, What: "block"}
		}
	}
	return nil
}

// openBlock opens a block in place. p is longer by the tag, which is put there for the time being.
func (r *Reader) openBlock(p, tag []byte, at int64) bool {
	after := p[len(p)-seal.Overhead:]
	saved := [seal.Overhead]byte(after)
	copy(after, tag)
	var nonce [12]byte
	_, err := r.aead.Open(p[:0], blockNonce(&nonce, at, at == r.t.info.Blocks-1), p, nil)
	copy(after, saved[:])
	return err == nil
}

// WriteRange writes n plain bytes from off to w and returns how many it wrote. Every block is verified before any of
// its bytes is written; a *CorruptError ends it. A range beyond the end is firn.Invalid. w must not keep the slices
// it is given.
func (r *Reader) WriteRange(ctx context.Context, w io.Writer, off, n int64) (int64, error) {
	return r.writeRange(ctx, r.file, w, off, n, false)
}

// WriteStored is WriteRange with the bytes as they are stored: sealed ones stay sealed, and need no key.
func (r *Reader) WriteStored(ctx context.Context, w io.Writer, off, n int64) (int64, error) {
	return r.writeRange(ctx, r.file, w, off, n, true)
}

func (r *Reader) checkRange(off, n int64) error {
	if off < 0 || n < 0 || off > r.t.info.Size || n > r.t.info.Size-off {
		return firn.E("read part", r.name, errRange)
	}
	return nil
}

func (r *Reader) writeRange(ctx context.Context, read readFunc, w io.Writer, off, n int64, sealed bool) (int64, error) {
	if err := r.checkRange(off, n); err != nil || n == 0 {
		return 0, err
	}
	if r.aead == nil && r.t.info.Codec == CodecAESGCM && !sealed {
		return 0, firn.E("read part", r.name, ErrSealed)
	}
	buf := readBuffers.get()
	defer readBuffers.put(buf)
	bs := int64(r.t.info.BlockSize)
	var written int64
	for pos, end := off, off+n; pos < end; {
		if err := ctx.Err(); err != nil {
			return written, err
		}
		first := pos / bs
		start := first * bs
		stop := min((end+bs-1)/bs*bs, start+readSize, r.t.info.Size)
		p := buf.data[:stop-start]
		if err := r.load(read, buf, len(p), first, sealed); err != nil {
			return written, err
		}
		k, err := w.Write(p[pos-start : min(end, stop)-start])
		written += int64(k)
		if err != nil {
			return written, err
		}
		pos = stop
	}
	return written, nil
}

var errRange = firn.NewError(firn.Invalid, "range is outside of the part")

// ReadAt implements io.ReaderAt on the plain bytes, verified.
func (r *Reader) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, firn.E("read part", r.name, errRange)
	}
	if off >= r.t.info.Size {
		return 0, io.EOF
	}
	n := min(int64(len(p)), r.t.info.Size-off)
	sw := sliceWriter{p: p[:0:n]}
	k, err := r.WriteRange(context.Background(), &sw, off, n)
	if err == nil && n < int64(len(p)) {
		err = io.EOF
	}
	return int(k), err
}

// readBuffer is what one read needs: whole blocks with room for a tag behind, and the entries of an index that is not
// kept.
type readBuffer struct {
	data   [readSize + seal.Overhead]byte
	window window
}

type window [windowBlocks * (4 + seal.Overhead)]byte

type sliceWriter struct{ p []byte }

func (s *sliceWriter) Write(p []byte) (int, error) {
	s.p = append(s.p, p...)
	return len(p), nil
}

// Verify reads the whole part and checks every block, the index and the BLAKE3 of the content; of sealed content without
// its key the checksums of the sealed blocks alone. lim, where not nil, paces it.
func (r *Reader) Verify(ctx context.Context, lim Limiter) error {
	if r.index == nil {
		if err := r.verifyIndex(ctx, lim); err != nil {
			return err
		}
	}
	h := hashers.get()
	defer hashers.put(h)
	buf := readBuffers.get()
	defer readBuffers.put(buf)
	bs := int64(r.t.info.BlockSize)
	blind := r.key == nil && r.t.info.Codec == CodecAESGCM
	for pos := int64(0); pos < r.t.info.Size; {
		p := buf.data[:min(readSize, r.t.info.Size-pos)]
		if err := wait(ctx, lim, len(p)); err != nil {
			return err
		}
		if err := r.load(r.file, buf, len(p), pos/bs, false); err != nil {
			return err
		}
		if !blind {
			_, _ = h.Write(p)
		}
		pos += int64(len(p))
	}
	if blind {
		return nil
	}
	var sum [32]byte
	h.Sum(sum[:0])
	if r.key != nil {
		sum = contentSum(r.key, sum)
	}
	if sum != r.t.info.BLAKE3 {
		return &CorruptError{File: r.name, Block: -1, What: "content"}
	}
	return nil
}

// verifyIndex checks an index too large to keep against its checksum.
func (r *Reader) verifyIndex(ctx context.Context, lim Limiter) error {
	buf := readBuffers.get()
	defer readBuffers.put(buf)
	var sum uint32
	for pos := 0; pos < r.t.indexLen; {
		p := buf.data[:min(readSize, r.t.indexLen-pos)]
		if err := wait(ctx, lim, len(p)); err != nil {
			return err
		}
		if err := readFull(r.f, p, r.t.indexOff+int64(pos)); err != nil {
			return firn.E("read part", r.name, err)
		}
		sum = updateChecksum(sum, p)
		pos += len(p)
	}
	if sum != r.t.indexCRC {
		return &CorruptError{File: r.name, Block: -1, What: "index"}
	}
	return nil
}

func wait(ctx context.Context, lim Limiter, n int) error {
	if lim != nil {
		return lim.WaitN(ctx, n)
	}
	return ctx.Err()
}

// readFull reads len(p) bytes at off. A file shorter than its trailer promised is corrupt.
func readFull(f vfs.File, p []byte, off int64) error {
	n, err := f.ReadAt(p, off)
	if n == len(p) {
		return nil
	}
	if err == nil || errors.Is(err, io.EOF) {
		return ErrNotPart
	}
	return err
}
