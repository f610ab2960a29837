package blob

import (
	"context"
	"fmt"
	"io"

	"github.com/zeebo/blake3"

	"firn"
	"firn/blob/driver"
)

// Source is a blob of the store as a source, to put it elsewhere. Info is from Stat or List: a blob that has another
// size by the time it is read fails the put. Readers end when ctx does.
func (s *Store) Source(ctx context.Context, info driver.Info) driver.Source {
	return storeSource{ctx, s, info}
}

type storeSource struct {
	ctx  context.Context
	s    *Store
	info driver.Info
}

func (o storeSource) Size() int64 { return o.info.Size }

func (o storeSource) Open() (io.ReadCloser, error) { return o.s.Get(o.ctx, o.info.Key, 0, -1) }

// Copy puts the blob that info describes into dst under key. With verify it reads the copy back and fails with
// firn.Corrupt where it is not what was read; the copy stays for whoever looks into that.
func (s *Store) Copy(ctx context.Context, info driver.Info, dst *Store, key string, verify bool) error {
	if !verify {
		return dst.Put(ctx, key, s.Source(ctx, info))
	}
	src := &summed{Source: s.Source(ctx, info)}
	if err := dst.Put(ctx, key, src); err != nil {
		return err
	}
	if !src.whole {
		// The driver read it in pieces.
		r, err := src.Open()
		if err != nil {
			return err
		}
		if err := drain(r); err != nil {
			return err
		}
	}
	r, err := dst.Get(ctx, key, 0, -1)
	if err != nil {
		return err
	}
	copied := &summed{Source: Bytes(nil)}
	back := copied.reader(r, info.Size)
	if err := drain(back); err != nil {
		return err
	}
	if !copied.whole || copied.sum != src.sum {
		return dst.wrap("verify", key, firn.NewError(firn.Corrupt, fmt.Sprintf("what was read back is not what was copied from %s in %s", info.Key, s.name)))
	}
	return nil
}

// drain reads r to its end and closes it.
func drain(r io.ReadCloser) error {
	_, err := io.Copy(io.Discard, r)
	if e := r.Close(); err == nil {
		err = e
	}
	return err
}

// summed is a source that remembers the sum of its last reader that was read to the end.
type summed struct {
	driver.Source
	whole bool
	sum   [32]byte
}

func (s *summed) Open() (io.ReadCloser, error) {
	r, err := s.Source.Open()
	if err != nil {
		return nil, err
	}
	return s.reader(r, s.Size()), nil
}

func (s *summed) reader(r io.ReadCloser, size int64) io.ReadCloser {
	sr := &sumReader{r: r, s: s, hash: blake3.New(), left: size}
	sr.note()
	return sr
}

type sumReader struct {
	r    io.ReadCloser
	s    *summed
	hash *blake3.Hasher
	left int64
}

func (r *sumReader) Read(p []byte) (int, error) {
	n, err := r.r.Read(p)
	if n > 0 {
		_, _ = r.hash.Write(p[:n]) // never fails
		r.left -= int64(n)
		r.note()
	}
	return n, err
}

// note takes the sum at the last byte, since a reader need not ask beyond it. More bytes take it back.
func (r *sumReader) note() {
	r.s.whole = r.left == 0
	if r.s.whole {
		r.hash.Sum(r.s.sum[:0])
	}
}

func (r *sumReader) Close() error { return r.r.Close() }
