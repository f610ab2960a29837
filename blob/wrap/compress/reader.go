package compress

import (
	"hash/crc32"
	"io"
)

// reader unpacks frames one after the other. It holds one, packed and unpacked: 2 MiB.
type reader struct {
	c    *compressed
	t    *table
	rc   io.ReadCloser
	next int   // frame
	skip int   // plain bytes of the next frame before the range
	left int64 // plain bytes of the range
	last bool  // after the last frame nothing but padding may come

	packed, plain, rest []byte
	err                 error
}

func (r *reader) Read(p []byte) (int, error) {
	for len(r.rest) == 0 {
		if r.err == nil {
			switch {
			case r.left > 0:
				r.err = r.frame()
			case r.last:
				r.err = r.end()
			default:
				r.err = io.EOF
			}
		}
		if r.err != nil && len(r.rest) == 0 {
			return 0, r.err
		}
	}
	n := copy(p, r.rest)
	r.rest = r.rest[n:]
	return n, nil
}

// frame reads, compares and unpacks the next frame.
func (r *reader) frame() error {
	e, size := r.t.frames[r.next], r.t.plain(r.next)
	if cap(r.packed) < e.len {
		r.packed = make([]byte, e.len)
	}
	r.packed = r.packed[:e.len]
	if err := readFull(r.rc, r.packed); err != nil {
		return err
	}
	if crc32.Checksum(r.packed, castagnoli()) != e.crc {
		return errCorrupt
	}
	if cap(r.plain) < size {
		r.plain = make([]byte, 0, size)
	}
	var err error
	if r.plain, err = r.c.dec.DecodeAll(r.packed, r.plain[:0]); err != nil || len(r.plain) != size {
		return errCorrupt
	}
	r.rest = r.plain[r.skip:]
	r.rest = r.rest[:min(int64(len(r.rest)), r.left)]
	r.left -= int64(len(r.rest))
	r.next, r.skip = r.next+1, 0
	return nil
}

// end checks that the stored blob ends where its table says.
func (r *reader) end() error {
	bare, padded := r.t.stored()
	n, err := io.Copy(io.Discard, io.LimitReader(r.rc, padded-bare+1))
	switch {
	case err != nil:
		return err
	case n != padded-bare:
		return errCorrupt
	}
	return io.EOF
}

// readFull is io.ReadFull that keeps the backend's own io.ErrUnexpectedEOF, a lost connection, apart from the end of a
// blob that was cut.
func readFull(r io.Reader, p []byte) error {
	for len(p) > 0 {
		n, err := r.Read(p)
		p = p[n:]
		if len(p) == 0 {
			return nil
		}
		if err == io.EOF {
			return errCorrupt
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (r *reader) Close() error { return r.rc.Close() }
